//! The command line of `swiftiplyctl`.

use std::ffi::OsString;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;
use std::{fs, io};

use getopts::Matches;
use swiftiply::internals::config;

use crate::commands::{Action, Argument, COMMANDS, COMMON, Command, OPTIONS};
use crate::failure::{Failure, NAME};
use crate::program::{self as command_line, CommandOption};
use crate::request::CommandRequest;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// The help text, of a command if there is one.
    Help(Option<&'static Command>),
    Version,
    Command(Invocation),
}

/// A command with its arguments and options.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) command: &'static Command,
    pub(crate) arguments: Vec<String>,
    pub(crate) json: bool,
    /// How often to repeat it.
    pub(crate) watch: Option<Duration>,
    pub(crate) config: Option<PathBuf>,
    pub(crate) socket: Option<String>,
    pub(crate) key_file: Option<PathBuf>,
    /// Parts of the query of the request.
    query: Vec<String>,
    /// The file with the entry of a site.
    file: Option<String>,
    /// Whether to try only.
    pub(crate) dry_run: bool,
    /// How long to wait until no request is in flight.
    pub(crate) wait: Option<Duration>,
}

/// Parses the command line, without the name of the program.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Parsed, String> {
    let arguments = arguments.into_iter().map(command_line::text);
    let arguments = arguments.collect::<Result<Vec<_>, _>>()?;
    let matches = command_line::parse(all_options(), &arguments)?;
    if matches.opt_present("version") {
        return Ok(Parsed::Version);
    }
    let found = find(&matches.free);
    if matches.opt_present("help") {
        return Ok(Parsed::Help(found.ok().map(|(command, _)| command)));
    }
    let (command, words) = found?;
    check_arguments(command, words)?;
    for (names, CommandOption(short, long, ..)) in OPTIONS {
        if matches.opt_present(long) && !names.contains(&command.name) {
            let short = match short.is_empty() {
                true => String::new(),
                false => format!(" (-{short})"),
            };
            return Err(format!(
                "--{long}{short}: not an option of {}",
                command.name
            ));
        }
    }
    let option = |name| matches.opt_str(name);
    let invocation = Invocation {
        command,
        arguments: words.to_vec(),
        json: matches.opt_present("json"),
        watch: watch(&matches)?,
        config: option("config").map(PathBuf::from),
        socket: option("socket"),
        key_file: option("key-file").map(PathBuf::from),
        query: query(&matches),
        file: option("file"),
        dry_run: matches.opt_present("dry-run"),
        wait: wait(&matches)?,
    };
    check_options(&invocation, &matches)?;
    Ok(Parsed::Command(invocation))
}

/// The help text, of a command if there is one.
pub(crate) fn usage(command: Option<&Command>) -> String {
    let Some(command) = command else {
        let width = COMMANDS
            .iter()
            .map(|command| command.synopsis().len())
            .max();
        let width = width.unwrap_or_default();
        let mut brief = format!(
            "Usage: {NAME} [options] COMMAND [arguments]\n\nSends a command to a running swiftiply.\n\nCommands:\n"
        );
        for command in COMMANDS {
            let synopsis = command.synopsis();
            brief.push_str(&format!("    {synopsis:width$}  {}\n", command.summary));
        }
        return command_line::options(COMMON).usage(brief.trim_end());
    };
    let brief = format!(
        "Usage: {NAME} [options] {}\n\n{}.",
        command.synopsis(),
        upper(command.summary)
    );
    command_line::options(command.options().chain(COMMON)).usage(&brief)
}

impl Invocation {
    /// The request that it sends.
    ///
    /// # Errors
    /// The file with the entry cannot be read.
    pub(crate) fn request(&self) -> Result<CommandRequest, Failure> {
        let site = |method: &'static str| {
            let path = match self.arguments.first() {
                Some(site) => format!("/config/{}", encoded(site)),
                None => "/config".to_owned(),
            };
            (method, path)
        };
        let ((method, path), body) = match self.command.action {
            Action::Send(method, pattern) => {
                let mut path = pattern.to_owned();
                for argument in &self.arguments {
                    path = path.replacen('*', &encoded(argument), 1);
                }
                ((method, path), String::new())
            }
            Action::Certificates => {
                let method = if self.dry_run { "POST" } else { "GET" };
                let site = self.arguments.first();
                let site = site.map_or_else(String::new, |site| format!("/{}", encoded(site)));
                (
                    (method, format!("/control/certificates{site}")),
                    String::new(),
                )
            }
            Action::Show | Action::Completions => (site("GET"), String::new()),
            Action::Set => match &self.file {
                Some(file) => (site("PUT"), read(file)?),
                None => {
                    let values = self.arguments.iter().skip(1);
                    let lines = values.map(|value| value.replacen('=', ": ", 1) + "\n");
                    (site("POST"), lines.collect())
                }
            },
        };
        let path = match self.query.is_empty() {
            true => path,
            false => format!("{path}?{}", self.query.join("&")),
        };
        Ok(CommandRequest {
            method,
            path,
            body,
            patience: match self.dry_run {
                true => LONGEST_DRY_RUN,
                false => PATIENCE,
            },
        })
    }
}

impl Invocation {
    /// The request that asks how many requests are in flight for what the command has named.
    pub(crate) fn in_flight_request(&self) -> CommandRequest {
        let name = self.arguments.first().map_or("", String::as_str);
        CommandRequest {
            method: "GET",
            path: format!("/control/in-flight/{}", encoded(name)),
            body: String::new(),
            patience: PATIENCE,
        }
    }
}

/// The command that these words begin with, and the other words.
fn find(words: &[String]) -> Result<(&'static Command, &[String]), String> {
    let Some(first) = words.first() else {
        return Err(format!("no command; see {NAME} --help"));
    };
    let second = words.get(1).map_or("", String::as_str);
    let pair = format!("{first} {second}");
    let named = |name: &str| COMMANDS.iter().find(|command| command.name == name);
    if let Some(command) = named(first) {
        return Ok((command, &words[1..]));
    }
    if let Some(command) = named(&pair) {
        return Ok((command, &words[2..]));
    }
    let begins = |command: &&Command| command.name.split(' ').next() == Some(first);
    let group: Vec<_> = COMMANDS.iter().filter(begins).map(|one| one.name).collect();
    match group.is_empty() {
        true => Err(format!("{first}: no such command; see {NAME} --help")),
        false => Err(format!(
            "{}: write one of: {}",
            pair.trim_end(),
            group.join(", ")
        )),
    }
}

fn check_arguments(command: &Command, words: &[String]) -> Result<(), String> {
    let name = command.name;
    let expected = || format!("write {NAME} {}", command.synopsis());
    let mut words = words.iter();
    for argument in command.arguments {
        if *argument == Argument::Values {
            for word in words.by_ref() {
                let key = word.split_once('=').map(|(key, _)| key);
                if key.is_none_or(|key| key.is_empty() || key.contains([':', ' ', '\n'])) {
                    return Err(format!("{name}: {word}: not KEY=VALUE"));
                }
            }
            continue;
        }
        let Some(word) = words.next() else {
            match argument.is_optional() {
                true => continue,
                false => return Err(format!("{name}: no {}; {}", argument.name(), expected())),
            }
        };
        if word.is_empty() {
            return Err(format!(
                "{name}: an empty {}; {}",
                argument.name(),
                expected()
            ));
        }
        let known = argument.words();
        if !known.is_empty() && !known.contains(&word.as_str()) {
            return Err(format!("{name}: {word}: write {}", known.join(", ")));
        }
    }
    match words.next() {
        Some(word) => Err(format!(
            "{name}: {word}: one argument too many; {}",
            expected()
        )),
        None => Ok(()),
    }
}

fn check_options(invocation: &Invocation, matches: &Matches) -> Result<(), String> {
    if invocation.key_file.is_some() && invocation.socket.is_none() {
        return Err("--key-file: has no effect without --socket".to_owned());
    }
    if invocation.socket.is_some() && invocation.config.is_some() {
        return Err("--config and --socket: write one of them".to_owned());
    }
    if matches.opt_present("drop-comments") && !matches.opt_present("persist") {
        return Err("--drop-comments: has no effect without --persist".to_owned());
    }
    if let Some(text) = matches.opt_str("most")
        && !is_time(&text)
    {
        return Err(format!("--most {text}: write seconds, or 500ms, 30s, 5m"));
    }
    if invocation.command.action == Action::Set {
        let has_values = invocation.arguments.len() > 1;
        return match (has_values, invocation.file.is_some()) {
            (false, false) => {
                Err("config set: nothing to set; write KEY=VALUE, or -f FILE".to_owned())
            }
            (true, true) => Err("config set: KEY=VALUE and --file: write one of them".to_owned()),
            _ => Ok(()),
        };
    }
    Ok(())
}

fn watch(matches: &Matches) -> Result<Option<Duration>, String> {
    if !matches.opt_present("watch") {
        return Ok(None);
    }
    let text = matches.opt_str("watch").unwrap_or_else(|| "2".to_owned());
    let seconds = text.parse().ok().map(Duration::try_from_secs_f64);
    match seconds {
        Some(Ok(interval)) if interval >= SHORTEST_WATCH => Ok(Some(interval)),
        _ => Err(format!("--watch {text}: write seconds, 0.1 or more")),
    }
}

fn wait(matches: &Matches) -> Result<Option<Duration>, String> {
    if !matches.opt_present("wait") {
        return Ok(None);
    }
    let text = matches.opt_str("wait").unwrap_or_else(|| "60".to_owned());
    let time = config::time_of(&text);
    time.map(Some)
        .map_err(|why| format!("--wait {text}: {why}"))
}

fn query(matches: &Matches) -> Vec<String> {
    let most = matches.opt_str("most");
    let mut query: Vec<_> = most
        .map(|most| format!("most={}", encoded(&most)))
        .into_iter()
        .collect();
    if matches.opt_present("persist") {
        query.push("persist=true".to_owned());
    }
    if matches.opt_present("drop-comments") {
        query.push("comments=drop".to_owned());
    }
    query
}

/// Whether a text looks like a time; the server reads it.
fn is_time(text: &str) -> bool {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit())
}

fn read(file: &str) -> Result<String, Failure> {
    let text = match file {
        "-" => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).map(|_| text)
        }
        file => fs::read_to_string(file),
    };
    text.map_err(|error| {
        Failure::Usage(format!(
            "{file}: {}",
            swiftiply::internals::process::reason(&error)
        ))
    })
}

/// A part of a path.
fn encoded(text: &str) -> String {
    let mut result = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => {
                result.push(char::from(byte));
            }
            _ => result.push_str(&format!("%{byte:02X}")),
        }
    }
    result
}

/// All options, of all commands.
pub(crate) fn all_options() -> impl Iterator<Item = &'static CommandOption> {
    COMMON
        .iter()
        .chain(OPTIONS.iter().map(|(_, option)| option))
}

/// The text with a capital.
fn upper(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + letters.as_str()
}

/// How long a command may take: an upgrade waits for a minute, a dry run for ten.
const PATIENCE: Duration = Duration::from_secs(90);
const LONGEST_DRY_RUN: Duration = Duration::from_secs(720);
/// A server is not to be kept busy by one that watches it.
const SHORTEST_WATCH: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Parsed, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn request(line: &str) -> String {
        match parse_line(line) {
            Ok(Parsed::Command(invocation)) => {
                let CommandRequest {
                    method, path, body, ..
                } = invocation.request().unwrap();
                format!("{method} {path} {body:?}")
            }
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn commands_are_requests() {
        let check = |line: &str, expected: &str| assert_eq!(request(line), expected, "{line}");
        check("status", "GET /status \"\"");
        check(
            "drain 7f0000011a2b",
            "POST /control/drain/7f0000011a2b \"\"",
        );
        check(
            "undrain unix:/run/a",
            "POST /control/undrain/unix%3A%2Frun%2Fa \"\"",
        );
        check(
            "pause a.example -m 30s",
            "POST /control/pause/a.example?most=30s \"\"",
        );
        check(
            "maintenance a.example on",
            "POST /control/maintenance/a.example/on \"\"",
        );
        check("certificates", "GET /control/certificates \"\"");
        check(
            "certificates a.example --dry-run",
            "POST /control/certificates/a.example \"\"",
        );
        check("config show", "GET /config \"\"");
        check("config show a.example", "GET /config/a.example \"\"");
        check(
            "config set a.example timeout=3 outgoing=[x:1,y=2] -p",
            "POST /config/a.example?persist=true \"timeout: 3\\noutgoing: [x:1,y=2]\\n\"",
        );
        check(
            "config rm a.example --persist --drop-comments",
            "DELETE /config/a.example?persist=true&comments=drop \"\"",
        );
    }

    #[test]
    fn misuse_is_explained() {
        let check = |line: &str, message: &str| {
            assert_eq!(parse_line(line).unwrap_err(), message, "{line}");
        };
        check("", "no command; see swiftiplyctl --help");
        check("statsu", "statsu: no such command; see swiftiplyctl --help");
        check(
            "config",
            "config: write one of: config show, config set, config rm",
        );
        check(
            "config shwo",
            "config shwo: write one of: config show, config set, config rm",
        );
        check("drain", "drain: no NAME; write swiftiplyctl drain NAME");
        check(
            "reload now",
            "reload: now: one argument too many; write swiftiplyctl reload",
        );
        check(
            "maintenance a",
            "maintenance: no on|off; write swiftiplyctl maintenance SITE on|off",
        );
        check("maintenance a maybe", "maintenance: maybe: write on, off");
        check(
            "log loud",
            "log: loud: write disabled, minimal, normal, full",
        );
        check(
            "completions tcsh",
            "completions: tcsh: write bash, zsh, fish",
        );
        check(
            "config set a",
            "config set: nothing to set; write KEY=VALUE, or -f FILE",
        );
        check("config set a x", "config set: x: not KEY=VALUE");
        check("config set a =x", "config set: =x: not KEY=VALUE");
        check(
            "config set a x=1 -f y",
            "config set: KEY=VALUE and --file: write one of them",
        );
        check("stop --persist", "--persist (-p): not an option of stop");
        check("reload --watch", "--watch (-w): not an option of reload");
        check("status --watch=x", "--watch x: write seconds, 0.1 or more");
        check("status --watch=0", "--watch 0: write seconds, 0.1 or more");
        check(
            "pause a -m soon",
            "--most soon: write seconds, or 500ms, 30s, 5m",
        );
        check(
            "drain a --wait=soon",
            "--wait soon: write seconds, or 500ms, 30s, 5m",
        );
        check("resume a --wait", "--wait: not an option of resume");
        check(
            "config rm a --drop-comments",
            "--drop-comments: has no effect without --persist",
        );
        check("status -k x", "--key-file: has no effect without --socket");
        check(
            "status -s x:1 -c y",
            "--config and --socket: write one of them",
        );
        check("status -x", "unrecognized option: 'x'");
        check("status -s", "argument to option 's' missing");
        let empty = parse(["drain".into(), OsString::new()]).unwrap_err();
        assert_eq!(empty, "drain: an empty NAME; write swiftiplyctl drain NAME");
    }

    #[test]
    fn help_names_everything() {
        let help = usage(None);
        for command in COMMANDS {
            assert!(
                help.contains(&command.synopsis()) && help.contains(command.summary),
                "{help}"
            );
        }
        let Ok(Parsed::Help(Some(command))) = parse_line("config set --help") else {
            panic!("help of a command");
        };
        let help = usage(Some(command));
        for part in [
            "config set SITE [KEY=VALUE ...]",
            "--persist",
            "--socket",
            "Change keys",
        ] {
            assert!(help.contains(part), "{help}");
        }
        assert!(matches!(parse_line("--help"), Ok(Parsed::Help(None))));
        assert!(matches!(parse_line("-v"), Ok(Parsed::Version)));
    }
}
