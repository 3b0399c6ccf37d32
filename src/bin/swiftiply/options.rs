//! The command line of `swiftiply`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::program::NAME;
use super::program::command_line::{self, CommandOption};
use getopts::Matches;
use swiftiply::config::{CommandLineSite, Overrides};

/// What the program is asked to do.
#[derive(Debug)]
pub(crate) enum Action {
    /// Print the help text.
    Help,
    /// Print the version.
    Version,
    /// Run the demonstration, without a configuration.
    Demo(Overrides),
    /// Read the configuration and print its problems.
    Check(Invocation),
    /// Print the merged configuration.
    Print(Invocation),
    /// Serve.
    Serve(Invocation),
}

/// Where the configuration comes from, at the start and at every reload.
#[derive(Debug)]
pub(crate) struct Invocation {
    /// The file; relative to the directory in the overrides.
    pub(crate) file: Option<PathBuf>,
    /// Command-line options, which override the file.
    pub(crate) overrides: Overrides,
}

const OPTIONS: &[CommandOption] = &[
    CommandOption(
        "c",
        "config",
        "FILE",
        "read the configuration from FILE (YAML)",
    ),
    CommandOption(
        "",
        "cluster-address",
        "ADDRESS",
        "listen for clients on ADDRESS",
    ),
    CommandOption("", "cluster-port", "PORT", "listen for clients on PORT"),
    CommandOption(
        "",
        "backend-address",
        "ADDRESS",
        "with --backend-port: add a default site whose applications dial in at ADDRESS",
    ),
    CommandOption("", "backend-port", "PORT", "the port of that site"),
    CommandOption(
        "",
        "site",
        "NAME",
        "without a FILE: serve the host NAME (or NAME,NAME); without this option, every host",
    ),
    CommandOption(
        "",
        "to",
        "ADDRESS",
        "pass the requests to an application that listens at ADDRESS (or ADDRESS,ADDRESS)",
    ),
    CommandOption("", "files", "DIRECTORY", "serve the files below DIRECTORY"),
    CommandOption(
        "d",
        "daemonize",
        "[yes|no]",
        "run in the background (yes if no argument is given)",
    ),
    CommandOption(
        "t",
        "timeout",
        "SECONDS",
        "how long a request may wait for an application (10)",
    ),
    CommandOption("f", "pid", "FILE", "write the process id to FILE"),
    CommandOption(
        "p",
        "print-config",
        "",
        "print the merged configuration and exit",
    ),
    CommandOption(
        "",
        "check",
        "",
        "check the configuration, print every problem and exit",
    ),
    CommandOption(
        "",
        "demo",
        "",
        "run a demonstration: http://127.0.0.1:8080/ shows the connected processes",
    ),
    CommandOption("v", "version", "", "print the version and exit"),
    CommandOption("h", "help", "", "print this help and exit"),
];

/// Parses the command line, without the name of the program.
///
/// # Errors
/// What is wrong with it, naming the option.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Action, String> {
    let arguments = expand(arguments)?;
    let matches = command_line::parse(OPTIONS, &arguments)?;
    if matches.opt_present("help") {
        return Ok(Action::Help);
    }
    if matches.opt_present("version") {
        return Ok(Action::Version);
    }
    if let Some(word) = matches.free.first() {
        return Err(format!(
            "{word}: not an option; a configuration is named with -c FILE"
        ));
    }
    let mut overrides = Overrides::default();
    overrides.cluster_address = matches.opt_str("cluster-address");
    overrides.cluster_port = number(&matches, "cluster-port", "a port from 0 to 65535")?;
    overrides.backend_address = matches.opt_str("backend-address");
    overrides.backend_port = number(&matches, "backend-port", "a port from 0 to 65535")?;
    overrides.site = site(&matches)?;
    overrides.daemonize = daemonize(&matches)?;
    overrides.timeout = number::<u32>(&matches, "timeout", "a number of seconds")?
        .map(|seconds| Duration::from_secs(seconds.into()));
    overrides.pidfile = matches.opt_str("pid").map(PathBuf::from);
    // A daemon changes to another directory, and must find its files again at a reload.
    overrides.directory = std::env::current_dir().ok();
    if matches.opt_present("demo") {
        return Ok(Action::Demo(overrides));
    }
    let file = matches.opt_str("config").map(PathBuf::from);
    if let (Some(file), Some(_)) = (&file, &overrides.site) {
        return Err(format!(
            "--site, --to and --files are for a server without a file; write the site into {}",
            file.display()
        ));
    }
    let invocation = Invocation { file, overrides };
    Ok(if matches.opt_present("check") {
        Action::Check(invocation)
    } else if matches.opt_present("print-config") {
        Action::Print(invocation)
    } else {
        Action::Serve(invocation)
    })
}

/// The text for `--help`.
pub(crate) fn usage() -> String {
    command_line::options(OPTIONS).usage(&format!(
        "Usage: {NAME} [options]\n\nA clustering HTTP proxy: applications dial in, and clients' requests are passed to them.",
    ))
}

/// Completes abbreviated long options, which users of the original may be used to, and joins an optional argument to its
/// option.
fn expand(arguments: impl IntoIterator<Item = OsString>) -> Result<Vec<String>, String> {
    let mut expanded: Vec<String> = Vec::new();
    let mut wants_argument = false;
    for argument in arguments {
        let argument = command_line::text(argument)?;
        if std::mem::take(&mut wants_argument) && !argument.starts_with('-') {
            if let Some(last) = expanded.last_mut() {
                last.push('=');
                last.push_str(&argument);
            }
            continue;
        }
        let Some(long) = argument.strip_prefix("--").filter(|long| !long.is_empty()) else {
            expanded.push(argument);
            continue;
        };
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (long, None),
        };
        let exact = OPTIONS
            .iter()
            .find(|CommandOption(_, long, ..)| *long == name);
        let mut candidates = OPTIONS
            .iter()
            .filter(|CommandOption(_, long, ..)| long.starts_with(name));
        let CommandOption(_, long, takes, _) = match (exact, candidates.next(), candidates.next()) {
            (Some(option), _, _) | (None, Some(option), None) => option,
            (None, Some(CommandOption(_, one, ..)), Some(CommandOption(_, other, ..))) => {
                return Err(format!("--{name}: is it --{one} or --{other}?"));
            }
            (None, None, _) => return Err(format!("--{name}: no such option; see --help")),
        };
        wants_argument = takes.starts_with('[') && value.is_none();
        expanded.push(match value {
            Some(value) => format!("--{long}={value}"),
            None => format!("--{long}"),
        });
    }
    Ok(expanded)
}

fn number<N: std::str::FromStr>(
    matches: &Matches,
    option: &str,
    what: &str,
) -> Result<Option<N>, String> {
    let Some(text) = matches.opt_str(option) else {
        return Ok(None);
    };
    match text.trim().parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(format!("--{option} {text}: expected {what}")),
    }
}

/// The site of `--site`, `--to` and `--files`.
fn site(matches: &Matches) -> Result<Option<CommandLineSite>, String> {
    let list = |option| {
        let text = matches.opt_str(option).unwrap_or_default();
        let words = text.split(',').map(str::trim);
        let words = words.filter(|word| !word.is_empty()).map(str::to_owned);
        words.collect::<Vec<_>>()
    };
    let mut site = CommandLineSite::default();
    site.names = list("site");
    site.servers = list("to");
    site.files = matches.opt_str("files");
    match site.servers.is_empty() && site.files.is_none() {
        false => Ok(Some(site)),
        true if site.names.is_empty() => Ok(None),
        true => Err(
            "--site needs --to ADDRESS, the address of its application, or --files DIRECTORY"
                .to_owned(),
        ),
    }
}

fn daemonize(matches: &Matches) -> Result<Option<bool>, String> {
    if !matches.opt_present("daemonize") {
        return Ok(None);
    }
    let Some(text) = matches.opt_str("daemonize") else {
        return Ok(Some(true));
    };
    let word = text.to_lowercase();
    match word.as_str() {
        "true" => Ok(Some(true)),
        "false" => Ok(Some(false)),
        "" => Ok(Some(true)),
        _ if "yes".starts_with(&word) => Ok(Some(true)),
        _ if "no".starts_with(&word) => Ok(Some(false)),
        _ => Err(format!("--daemonize {text}: expected yes or no")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Action, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn overrides(line: &str) -> Overrides {
        match parse_line(line) {
            Ok(Action::Serve(invocation)) => invocation.overrides,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn options_of_the_original() {
        assert!(matches!(parse_line("-h"), Ok(Action::Help)));
        assert!(matches!(parse_line("--vers"), Ok(Action::Version)));
        assert!(
            matches!(parse_line("-cx.yml -p"), Ok(Action::Print(i)) if i.file == Some("x.yml".into()))
        );
        assert!(matches!(
            parse_line("--config=x.yml --check"),
            Ok(Action::Check(_))
        ));
        assert_eq!(overrides("--cluster-p 81").cluster_port, Some(81));
        assert_eq!(
            overrides("--cluster-address=::1")
                .cluster_address
                .as_deref(),
            Some("::1")
        );
        assert_eq!(overrides("-t 7").timeout, Some(Duration::from_secs(7)));
        assert_eq!(overrides("-f a.pid").pidfile, Some("a.pid".into()));
        for yes in [
            "-d",
            "-dy",
            "-d yes",
            "--daemonize",
            "--daemonize y",
            "--daem=ye",
            "-d -t 3",
        ] {
            assert_eq!(overrides(yes).daemonize, Some(true), "{yes}");
        }
        for no in ["-dn", "-d no", "--daemonize no", "--daemonize=n"] {
            assert_eq!(overrides(no).daemonize, Some(false), "{no}");
        }
    }

    #[test]
    fn errors_name_the_fault() {
        let check = |line: &str, message: &str| {
            assert_eq!(parse_line(line).unwrap_err(), message, "{line}")
        };
        check(
            "--cluster-port abc",
            "--cluster-port abc: expected a port from 0 to 65535",
        );
        check("-t abc", "--timeout abc: expected a number of seconds");
        check("--daemonize maybe", "--daemonize maybe: expected yes or no");
        check(
            "--cluster x",
            "--cluster: is it --cluster-address or --cluster-port?",
        );
        check("--nonsense", "--nonsense: no such option; see --help");
        check(
            "--site a.example",
            "--site needs --to ADDRESS, the address of its application, or --files DIRECTORY",
        );
        check(
            "-c s.yml --files .",
            "--site, --to and --files are for a server without a file; write the site into s.yml",
        );
        check("-x", "unrecognized option: 'x'");
        check("-c", "argument to option 'c' missing");
        check(
            "swiftiply.yml",
            "swiftiply.yml: not an option; a configuration is named with -c FILE",
        );
    }

    #[test]
    fn manual_describes_every_option() {
        command_line::check_manual(OPTIONS, include_str!("../../../man/swiftiply.8"));
    }
}
