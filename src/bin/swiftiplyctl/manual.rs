//! The section of the manual that is made from the table of commands.

#![cfg(test)]

use std::path::Path;
use std::{env, fs};

use crate::commands::{Argument, COMMANDS, COMMON, OPTIONS};
use crate::program::{CommandOption, check_manual};

/// The commands, as a list of mdoc(7).
fn commands() -> String {
    let mut text = ".Bl -tag -width Ds\n".to_owned();
    for command in COMMANDS {
        text.push_str(&format!(".It Cm {}", command.name));
        for CommandOption(short, long, argument, _) in command.options() {
            let flag = match short.is_empty() {
                true => format!("-{long}"),
                false => (*short).to_owned(),
            };
            let is_bracketed = argument.starts_with('[');
            let argument = argument.trim_matches(['[', ']']);
            let is_optional = is_bracketed && !argument.is_empty();
            text.push_str(&match (argument.is_empty(), is_optional) {
                (true, _) => format!(" Oo Fl {flag} Oc"),
                (false, true) => format!(" Oo Fl {flag} Ns Oo Ar {argument} Oc Oc"),
                (false, false) => format!(" Oo Fl {flag} Ar {argument} Oc"),
            });
        }
        for argument in command.arguments {
            text.push_str(&match argument {
                Argument::Switch => " Cm on | off".to_owned(),
                Argument::Values => " Op Ar KEY=VALUE ...".to_owned(),
                Argument::OptionalSite => " Op Ar SITE".to_owned(),
                argument => format!(" Ar {}", argument.name()),
            });
        }
        text.push('\n');
        text.push_str(command.manual);
        text.push('\n');
    }
    text.push_str(".El\n");
    text
}

#[test]
fn manual_has_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/swiftiplyctl.8");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(".Sh COMMANDS\n").expect("the section");
    let (written, after) = rest.split_once(".Sh ").expect("the next section");
    let made = commands();
    if env::var_os("SWIFTIPLY_MAKE_FILES").is_some() {
        fs::write(&path, format!("{before}.Sh COMMANDS\n{made}.Sh {after}")).unwrap();
        return;
    }
    assert!(
        written == made,
        "man/swiftiplyctl.8 is out of date; run this test with SWIFTIPLY_MAKE_FILES=1"
    );
}

#[test]
fn manual_describes_every_option() {
    let page = include_str!("../../../man/swiftiplyctl.8");
    check_manual(COMMON, page);
    for (_, option) in OPTIONS {
        check_manual(std::slice::from_ref(option), page);
    }
}
