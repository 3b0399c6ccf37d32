//! The command line as a table, for parsing, the help text and the test of the manual.

use std::ffi::OsString;

use getopts::{HasArg, Matches, Occur, Options};

/// An option: short name, long name, the name of its argument (in brackets if it is optional), help text.
#[derive(Debug)]
pub(crate) struct CommandOption(
    pub(crate) &'static str,
    pub(crate) &'static str,
    pub(crate) &'static str,
    pub(crate) &'static str,
);

/// The options of a table.
pub(crate) fn options<'t>(table: impl IntoIterator<Item = &'t CommandOption>) -> Options {
    let mut options = Options::new();
    for CommandOption(short, long, argument, help) in table {
        let has = match argument.chars().next() {
            None => HasArg::No,
            Some('[') => HasArg::Maybe,
            Some(_) => HasArg::Yes,
        };
        // The help text adds its own brackets.
        let argument = argument.trim_matches(['[', ']']);
        options.opt(short, long, help, argument, has, Occur::Optional);
    }
    options
}

/// Parses a command line.
///
/// # Errors
/// What is wrong with it, naming the option.
pub(crate) fn parse<'t>(
    table: impl IntoIterator<Item = &'t CommandOption>,
    arguments: &[String],
) -> Result<Matches, String> {
    let wrong = |fail: getopts::Fail| lower(&fail.to_string());
    options(table).parse(arguments).map_err(wrong)
}

/// An argument as text.
///
/// # Errors
/// It is not UTF-8.
pub(crate) fn text(argument: OsString) -> Result<String, String> {
    let wrong = |argument: OsString| format!("{}: not UTF-8", argument.display());
    argument.into_string().map_err(wrong)
}

/// The library's messages begin with a capital; ours do not.
fn lower(message: &str) -> String {
    let mut letters = message.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => String::new(),
    }
}

/// Checks that the manual describes every option.
#[cfg(test)]
pub(crate) fn check_manual(table: &[CommandOption], page: &str) {
    let name = super::NAME;
    for CommandOption(short, long, ..) in table {
        let line = match short.is_empty() {
            true => format!(".It Fl -{long}"),
            false => format!(".It Fl {short} "),
        };
        assert!(page.contains(&line), "man/{name}.8 lacks {line:?}");
        let long = format!("Fl -{long}");
        assert!(page.contains(&long), "man/{name}.8 lacks {long:?}");
    }
}
