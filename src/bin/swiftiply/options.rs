//! The command line. One table drives parsing, the help text and the test of the manual.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use getopts::{HasArg, Matches, Occur};
use swiftiply::config::Overrides;

/// What the program is asked to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// Say how it is used.
    Help,
    /// Say which version it is.
    Version,
    /// Show what it does, without a configuration.
    Demo(Overrides),
    /// Read the configuration and say what is wrong with it.
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
    /// What the command line says on top of it.
    pub(crate) overrides: Overrides,
}

/// An option: short name, long name, its argument's name, whether the argument may be left out, what it does.
struct Choice {
    short: &'static str,
    long: &'static str,
    argument: &'static str,
    optional: bool,
    help: &'static str,
}

const fn choice(
    short: &'static str,
    long: &'static str,
    argument: &'static str,
    optional: bool,
    help: &'static str,
) -> Choice {
    Choice {
        short,
        long,
        argument,
        optional,
        help,
    }
}

const CHOICES: &[Choice] = &[
    choice(
        "c",
        "config",
        "FILE",
        false,
        "read the configuration from FILE (YAML)",
    ),
    choice(
        "",
        "cluster-address",
        "ADDRESS",
        false,
        "listen for visitors on ADDRESS",
    ),
    choice(
        "",
        "cluster-port",
        "PORT",
        false,
        "listen for visitors on PORT",
    ),
    choice(
        "",
        "backend-address",
        "ADDRESS",
        false,
        "with --backend-port: one more site, for everything, whose applications dial in at ADDRESS",
    ),
    choice("", "backend-port", "PORT", false, "the port of that site"),
    choice(
        "d",
        "daemonize",
        "yes|no",
        true,
        "go to the background (yes, if nothing else is said)",
    ),
    choice(
        "t",
        "timeout",
        "SECONDS",
        false,
        "how long a request may wait for an application (3)",
    ),
    choice("f", "pid", "FILE", false, "write the process id to FILE"),
    choice(
        "p",
        "print-config",
        "",
        false,
        "print the merged configuration and exit",
    ),
    choice(
        "",
        "check",
        "",
        false,
        "check the configuration, print every problem and exit",
    ),
    choice(
        "",
        "demo",
        "",
        false,
        "serve a page on http://127.0.0.1:8080/ with two applications built in",
    ),
    choice("v", "version", "", false, "print the version and exit"),
    choice("h", "help", "", false, "print this and exit"),
];

/// Reads the command line, without the name of the program.
///
/// # Errors
/// What is wrong with it, naming the option.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Order, String> {
    let arguments = expand(arguments)?;
    let matches = options()
        .parse(&arguments)
        .map_err(|error| lower(&error.to_string()))?;
    if matches.opt_present("help") {
        return Ok(Order::Help);
    }
    if matches.opt_present("version") {
        return Ok(Order::Version);
    }
    if let Some(word) = matches.free.first() {
        return Err(format!(
            "{word}: not an option; a configuration is named with -c FILE"
        ));
    }
    let overrides = Overrides {
        cluster_address: matches.opt_str("cluster-address"),
        cluster_port: number(&matches, "cluster-port", "a port from 0 to 65535")?,
        backend_address: matches.opt_str("backend-address"),
        backend_port: number(&matches, "backend-port", "a port from 0 to 65535")?,
        daemonize: daemonize(&matches)?,
        timeout: number::<u32>(&matches, "timeout", "a number of seconds")?
            .map(|seconds| Duration::from_secs(seconds.into())),
        pidfile: matches.opt_str("pid").map(PathBuf::from),
        // A daemon leaves it, and must find its files again when it reloads.
        directory: std::env::current_dir().ok(),
    };
    if matches.opt_present("demo") {
        return Ok(Order::Demo(overrides));
    }
    let file = matches.opt_str("config").map(PathBuf::from);
    let invocation = Invocation { file, overrides };
    Ok(if matches.opt_present("check") {
        Order::Check(invocation)
    } else if matches.opt_present("print-config") {
        Order::Print(invocation)
    } else {
        Order::Serve(invocation)
    })
}

/// The text for `--help`.
pub(crate) fn usage() -> String {
    options().usage(
        "Usage: swiftiply [options]\n\nA clustering HTTP proxy: applications dial in, visitors are routed to them.",
    )
}

fn options() -> getopts::Options {
    let mut options = getopts::Options::new();
    for choice in CHOICES {
        let argument = match (choice.argument, choice.optional) {
            ("", _) => HasArg::No,
            (_, true) => HasArg::Maybe,
            (_, false) => HasArg::Yes,
        };
        let Choice {
            short,
            long,
            argument: name,
            help,
            ..
        } = choice;
        options.opt(short, long, help, name, argument, Occur::Optional);
    }
    options
}

/// Writes long options out that were abbreviated, as the original's users may be used to, and joins an optional
/// argument to its option.
fn expand(arguments: impl IntoIterator<Item = OsString>) -> Result<Vec<String>, String> {
    let mut expanded: Vec<String> = Vec::new();
    let mut wants_argument = false;
    for argument in arguments {
        let argument = argument
            .into_string()
            .map_err(|argument| format!("{}: not UTF-8", argument.display()))?;
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
        let exact = CHOICES.iter().find(|choice| choice.long == name);
        let mut candidates = CHOICES
            .iter()
            .filter(|choice| choice.long.starts_with(name));
        let choice = match (exact, candidates.next(), candidates.next()) {
            (Some(choice), _, _) | (None, Some(choice), None) => choice,
            (None, Some(one), Some(other)) => {
                return Err(format!(
                    "--{name}: is it --{} or --{}?",
                    one.long, other.long
                ));
            }
            (None, None, _) => return Err(format!("--{name}: no such option; see --help")),
        };
        wants_argument = choice.optional && value.is_none();
        expanded.push(match value {
            Some(value) => format!("--{}={value}", choice.long),
            None => format!("--{}", choice.long),
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
        Err(_) => Err(format!("--{option} {text}: {what} is wanted")),
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
        _ => Err(format!("--daemonize {text}: yes or no is wanted")),
    }
}

/// The library's messages begin with a capital; ours do not.
fn lower(message: &str) -> String {
    let mut letters = message.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(line: &str) -> Result<Order, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn overrides(line: &str) -> Overrides {
        match order(line) {
            Ok(Order::Serve(invocation)) => invocation.overrides,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn options_of_the_original() {
        assert!(matches!(order("-h"), Ok(Order::Help)));
        assert!(matches!(order("--vers"), Ok(Order::Version)));
        assert!(
            matches!(order("-cx.yml -p"), Ok(Order::Print(i)) if i.file == Some("x.yml".into()))
        );
        assert!(matches!(
            order("--config=x.yml --check"),
            Ok(Order::Check(_))
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
    fn what_is_wrong_is_named() {
        let check =
            |line: &str, message: &str| assert_eq!(order(line).unwrap_err(), message, "{line}");
        check(
            "--cluster-port abc",
            "--cluster-port abc: a port from 0 to 65535 is wanted",
        );
        check("-t abc", "--timeout abc: a number of seconds is wanted");
        check(
            "--daemonize maybe",
            "--daemonize maybe: yes or no is wanted",
        );
        check(
            "--cluster x",
            "--cluster: is it --cluster-address or --cluster-port?",
        );
        check("--nonsense", "--nonsense: no such option; see --help");
        check("-x", "unrecognized option: 'x'");
        check("-c", "argument to option 'c' missing");
        check(
            "swiftiply.yml",
            "swiftiply.yml: not an option; a configuration is named with -c FILE",
        );
    }

    #[test]
    fn every_option_stands_in_the_manual() {
        let page = include_str!("../../../man/swiftiply.8");
        for Choice { short, long, .. } in CHOICES {
            let line = match short.is_empty() {
                true => format!(".It Fl -{long}"),
                false => format!(".It Fl {short} "),
            };
            assert!(page.contains(&line), "man/swiftiply.8 lacks {line:?}");
            assert!(
                page.contains(&format!("Fl -{long}")),
                "man/swiftiply.8 lacks --{long}"
            );
        }
    }
}
