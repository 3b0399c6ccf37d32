//! The command line of `swiftiply-access`.

use std::ffi::OsString;
use std::path::PathBuf;

use super::program::NAME;
use super::program::command_line::{self, CommandOption};
use getopts::ParsingStyle;
use swiftiply::config::Address;
use swiftiply::config::access::AccessOverrides;

/// What the program is asked to do.
#[derive(Debug)]
pub(crate) enum Action {
    /// Print the help text.
    Help,
    /// Print the version.
    Version,
    /// Read the configuration and print its problems.
    Check(Invocation),
    /// Dial in.
    Serve(Invocation),
}

/// Where the configuration comes from, at the start and at every reload.
#[derive(Debug)]
pub(crate) struct Invocation {
    /// The file.
    pub(crate) file: Option<PathBuf>,
    /// Command-line options, which override the file.
    pub(crate) overrides: AccessOverrides,
}

const OPTIONS: &[CommandOption] = &[
    CommandOption(
        "c",
        "config",
        "FILE",
        "read the configuration from FILE (YAML)",
    ),
    CommandOption(
        "k",
        "key-file",
        "FILE",
        "read the key from the first line of FILE",
    ),
    CommandOption(
        "n",
        "places",
        "N",
        "requests at a time at the application (8)",
    ),
    CommandOption(
        "",
        "name",
        "NAME",
        "call this machine NAME in logs and lists of servers (host name)",
    ),
    CommandOption(
        "t",
        "to",
        "ADDRESS",
        "the application's address: 127.0.0.1:3000 or unix:/path",
    ),
    CommandOption(
        "",
        "check",
        "",
        "check the configuration, print every problem and exit",
    ),
    CommandOption("v", "version", "", "print the version and exit"),
    CommandOption("h", "help", "", "print this help and exit"),
];

/// Parses the command line, without the name of the program.
///
/// # Errors
/// What is wrong with it, naming the option.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Action, String> {
    let mut own = Vec::new();
    let mut command = Vec::new();
    let mut after_dashes = false;
    for argument in arguments {
        let argument = command_line::text(argument)?;
        match after_dashes {
            false if argument == "--" => after_dashes = true,
            false => own.push(argument),
            true => command.push(argument),
        }
    }
    if !after_dashes && let Some(word) = bare_command(&own) {
        return Err(format!(
            "{word}: not the address of a server, 127.0.0.1:30000; if the command begins here, write -- in front of it"
        ));
    }
    let matches = command_line::parse(OPTIONS, &own)?;
    if matches.opt_present("help") {
        return Ok(Action::Help);
    }
    if matches.opt_present("version") {
        return Ok(Action::Version);
    }
    if after_dashes && command.is_empty() {
        return Err("--: no command behind it".to_owned());
    }
    let check = matches.opt_present("check");
    let file = matches.opt_str("config").map(PathBuf::from);
    let mut overrides = AccessOverrides::default();
    overrides.key_file = matches.opt_str("key-file");
    overrides.name = matches.opt_str("name");
    overrides.to = matches.opt_str("to");
    overrides.places = matches.opt_str("places");
    overrides.connect = matches.free;
    overrides.command = command;
    let invocation = Invocation { file, overrides };
    Ok(match check {
        true => Action::Check(invocation),
        false => Action::Serve(invocation),
    })
}

/// The first word that is neither an option nor an address, if it looks like a command without its `--`: it is a path,
/// or words follow it.
fn bare_command(own: &[String]) -> Option<String> {
    let mut options = command_line::options(OPTIONS);
    options.parsing_style(ParsingStyle::StopAtFirstFree);
    let mut rest = own.to_vec();
    loop {
        // A wrong option before it is reported elsewhere.
        let mut free = options.parse(&rest).ok()?.free.into_iter();
        let word = free.next()?;
        rest = free.collect();
        if word.parse::<Address>().is_err() {
            let is_command = !rest.is_empty() || word.contains('/');
            return is_command.then_some(word);
        }
    }
}

/// The text for `--help`.
pub(crate) fn usage() -> String {
    command_line::options(OPTIONS).usage(&format!(
        "Usage: {NAME} [options] [server-address ...] [-- command [argument ...]]\n\n\
         Dials in at swiftiply servers for an ordinary web application.",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Action, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn command_follows_two_dashes() {
        let line = "-n 4 a:1 -t b:2 -kc --name web3 c:3 -cd -- puma -b unix:x -- -n 5";
        let Ok(Action::Serve(invocation)) = parse_line(line) else {
            panic!("{line}");
        };
        assert_eq!(invocation.file, Some("d".into()));
        let overrides = invocation.overrides;
        assert_eq!(overrides.connect, ["a:1", "c:3"]);
        assert_eq!(overrides.places.as_deref(), Some("4"));
        assert_eq!(overrides.to.as_deref(), Some("b:2"));
        assert_eq!(overrides.key_file.as_deref(), Some("c"));
        assert_eq!(overrides.name.as_deref(), Some("web3"));
        assert_eq!(overrides.command, ["puma", "-b", "unix:x", "--", "-n", "5"]);
    }

    #[test]
    fn errors_name_the_fault() {
        let check = |line: &str, message: &str| assert_eq!(parse_line(line).unwrap_err(), message);
        check("-x", "unrecognized option: 'x'");
        check("-c", "argument to option 'c' missing");
        check("a:1 --", "--: no command behind it");
        let bare = |word: &str| {
            format!(
                "{word}: not the address of a server, 127.0.0.1:30000; if the command begins here, write -- in front of it"
            )
        };
        check("-t b:2 a:1 puma -p 3000", &bare("puma"));
        check("-t b:2 puma -p 3000", &bare("puma"));
        check("-t b:2 a:1 c:3 ./serve", &bare("./serve"));
        check("-t b:2 a:1 /srv/app --nonsense", &bare("/srv/app"));
        // These may be addresses; their faults are reported with those of the file.
        assert!(matches!(parse_line("-t b:2 a"), Ok(Action::Serve(_))));
        assert!(matches!(parse_line("a:1 -t b"), Ok(Action::Serve(_))));
        assert!(matches!(parse_line("-h"), Ok(Action::Help)));
        assert!(matches!(parse_line("--version"), Ok(Action::Version)));
        assert!(matches!(parse_line("--check a:1"), Ok(Action::Check(_))));
    }

    #[test]
    fn manual_describes_every_option() {
        command_line::check_manual(OPTIONS, include_str!("../../../man/swiftiply-access.8"));
    }
}
