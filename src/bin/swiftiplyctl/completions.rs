//! Completions of the command line for shells, made from the table of commands.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::commands::{COMMANDS, COMMON, Command};
use crate::failure::{Failure, NAME};
use crate::options::all_options;
use crate::program::CommandOption;

/// The completions for a shell.
///
/// # Errors
/// There are none for it.
pub(crate) fn of(shell: &str) -> Result<String, Failure> {
    match shell {
        "bash" => Ok(bash()),
        "zsh" => Ok(zsh()),
        "fish" => Ok(fish()),
        _ => Err(Failure::Usage(format!("{shell}: no completions for it"))),
    }
}

/// The words that may follow each beginning of a command; the empty one is the beginning of the line.
fn following() -> BTreeMap<String, Vec<&'static str>> {
    let mut following: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for command in COMMANDS {
        let mut before = String::new();
        for word in command.name.split(' ') {
            let words = following.entry(before.clone()).or_default();
            if !words.contains(&word) {
                words.push(word);
            }
            if !before.is_empty() {
                before.push(' ');
            }
            before.push_str(word);
        }
        for argument in command.arguments {
            let words = argument.words();
            if !words.is_empty() {
                following.entry(before.clone()).or_default().extend(words);
            }
            before.push_str(" *");
        }
    }
    following
}

/// The options that are followed by another word.
fn with_argument() -> Vec<String> {
    let takes = all_options().filter(|CommandOption(_, _, argument, _)| {
        !argument.is_empty() && !argument.starts_with('[')
    });
    takes
        .flat_map(|CommandOption(short, long, ..)| {
            let short = (!short.is_empty()).then(|| format!("-{short}"));
            short.into_iter().chain([format!("--{long}")])
        })
        .collect()
}

/// A pattern of a shell for the beginning of a command; `*` stands for an argument.
fn pattern(before: &str) -> String {
    match before {
        "" => "''".to_owned(),
        before => before.replace(' ', "\\ "),
    }
}

/// The commands that have options of their own.
fn with_options() -> impl Iterator<Item = &'static Command> {
    let all = COMMANDS.iter();
    all.filter(|command| command.options().next().is_some())
}

fn bash() -> String {
    let typed = |options: &mut dyn Iterator<Item = &'static CommandOption>| {
        let typed = options.map(|CommandOption(_, long, ..)| format!("--{long}"));
        typed.collect::<Vec<_>>().join(" ")
    };
    let mut cases = String::new();
    for (before, words) in following() {
        let (pattern, words) = (pattern(&before), words.join(" "));
        let _ = writeln!(cases, "        {pattern}) words='{words}' ;;");
    }
    let mut options = String::new();
    for command in with_options() {
        let (pattern, own) = (pattern(command.name), typed(&mut command.options()));
        let _ = writeln!(options, "        {pattern}*) words=\"{own} $words\" ;;");
    }
    let common = typed(&mut COMMON.iter());
    let takes = with_argument().join("|");
    format!(
        "# Completions of {NAME} for bash; made by `{NAME} completions bash`.
_{NAME}() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} before='' words='' word skip='' at
    for ((at = 1; at < COMP_CWORD; at++)); do
        word=${{COMP_WORDS[at]}}
        if [ -n \"$skip\" ]; then skip=''; continue; fi
        case $word in
        {takes}) skip=1 ;;
        -*) ;;
        *) before=${{before:+$before }}$word ;;
        esac
    done
    if [ -n \"$skip\" ]; then
        COMPREPLY=($(compgen -f -- \"$current\"))
        return
    fi
    case $current in
    -*)
        words='{common}'
        case $before in
{options}        esac ;;
    *)
        case $before in
{cases}        esac ;;
    esac
    COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))
}}
complete -F _{NAME} {NAME}
"
    )
}

fn zsh() -> String {
    let described = |options: &mut dyn Iterator<Item = &'static CommandOption>| {
        let described = options.map(|CommandOption(_, long, _, help)| format!("'--{long}:{help}'"));
        described.collect::<Vec<_>>().join(" ")
    };
    let mut cases = String::new();
    for (before, words) in following() {
        let words = words.iter().map(|word| {
            let full = format!("{before} {word}");
            let known = COMMANDS
                .iter()
                .find(|command| command.name == full.trim_start());
            match known {
                Some(command) => format!("'{word}:{}'", command.summary),
                None => format!("'{word}'"),
            }
        });
        let (pattern, words) = (pattern(&before), words.collect::<Vec<_>>().join(" "));
        let _ = writeln!(cases, "    {pattern}) candidates=({words}) ;;");
    }
    let mut options = String::new();
    for command in with_options() {
        let (pattern, own) = (pattern(command.name), described(&mut command.options()));
        let _ = writeln!(options, "        {pattern}*) candidates+=({own}) ;;");
    }
    let common = described(&mut COMMON.iter());
    let takes = with_argument().join("|");
    format!(
        "#compdef {NAME}
# Completions of {NAME} for zsh; made by `{NAME} completions zsh`.
_{NAME}() {{
    local before='' word skip='' current=${{words[CURRENT]}}
    local -a candidates
    for word in \"${{(@)words[2,CURRENT-1]}}\"; do
        if [[ -n $skip ]]; then skip=''; continue; fi
        case $word in
        ({takes}) skip=1 ;;
        (-*) ;;
        (*) before=${{before:+$before }}$word ;;
        esac
    done
    if [[ -n $skip ]]; then _files; return; fi
    if [[ $current == -* ]]; then
        candidates=({common})
        case $before in
{options}        esac
        _describe option candidates
        return
    fi
    case $before in
{cases}    esac
    _describe command candidates
}}
compdef _{NAME} {NAME}
"
    )
}

fn fish() -> String {
    let mut lines = String::new();
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let mut complete = |condition: &str, rest: &str| {
        let condition = match condition.is_empty() {
            true => String::new(),
            false => format!(" -n {}", quoted(condition)),
        };
        let _ = writeln!(lines, "complete -c {NAME}{condition} {rest}");
    };
    complete("", "-f");
    let all: Vec<_> = following().remove("").unwrap_or_default();
    let seen = |words: &[&str]| format!("__fish_seen_subcommand_from {}", words.join(" "));
    for word in &all {
        let own = COMMANDS.iter().find(|command| command.name == *word);
        let summary = own.map_or("show or change the configuration", |command| {
            command.summary
        });
        complete(
            &format!("not {}", seen(&all)),
            &format!("-a {word} -d {}", quoted(summary)),
        );
    }
    for command in COMMANDS {
        let words: Vec<_> = command.name.split(' ').collect();
        let condition = words
            .iter()
            .map(|word| seen(&[word]))
            .collect::<Vec<_>>()
            .join("; and ");
        if let [group, word] = words.as_slice() {
            let condition = seen(&[group]);
            complete(
                &condition,
                &format!("-a {word} -d {}", quoted(command.summary)),
            );
        }
        for argument in command.arguments {
            if !argument.words().is_empty() {
                let words = argument.words().join(" ");
                complete(&condition, &format!("-a {}", quoted(&words)));
            }
        }
        for option in command.options() {
            complete(&condition, &fish_option(option, &quoted));
        }
    }
    for option in COMMON {
        complete("", &fish_option(option, &quoted));
    }
    format!("# Completions of {NAME} for fish; made by `{NAME} completions fish`.\n{lines}")
}

fn fish_option(option: &CommandOption, quoted: &impl Fn(&str) -> String) -> String {
    let CommandOption(short, long, argument, help) = option;
    let short = match short.is_empty() {
        true => String::new(),
        false => format!("-s {short} "),
    };
    let takes = match argument.is_empty() || argument.starts_with('[') {
        true => "",
        false => " -r -F",
    };
    format!("{short}-l {long}{takes} -d {}", quoted(help))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command as Process;
    use std::{env, fs};

    use super::*;

    #[test]
    fn files_are_made_from_the_table() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/completions");
        let files = [
            ("bash", "swiftiplyctl.bash"),
            ("zsh", "_swiftiplyctl"),
            ("fish", "swiftiplyctl.fish"),
        ];
        for (shell, file) in files {
            let made = of(shell).unwrap();
            let path = folder.join(file);
            if env::var_os("SWIFTIPLY_MAKE_FILES").is_some() {
                fs::create_dir_all(&folder).unwrap();
                fs::write(&path, &made).unwrap();
            }
            let written = fs::read_to_string(&path).unwrap_or_default();
            assert!(
                written == made,
                "conf/completions/{file} is out of date; run this test with SWIFTIPLY_MAKE_FILES=1"
            );
        }
    }

    #[test]
    fn bash_completes() {
        let check = |line: &str, expected: &[&str]| {
            let words: Vec<_> = line.split(' ').collect();
            let script = format!(
                "{}\nCOMP_WORDS=({}); COMP_CWORD={}; _swiftiplyctl; echo \"${{COMPREPLY[*]}}\"",
                of("bash").unwrap(),
                words
                    .iter()
                    .map(|word| format!("'{word}'"))
                    .collect::<Vec<_>>()
                    .join(" "),
                words.len() - 1,
            );
            let output = Process::new("bash").args(["-c", &script]).output().unwrap();
            let found = String::from_utf8(output.stdout).unwrap();
            let found: Vec<_> = found.split_whitespace().collect();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert_eq!((found, &*errors), (expected.to_vec(), ""), "{line}");
        };
        check("swiftiplyctl dr", &["drain"]);
        check("swiftiplyctl re", &["reload", "resume"]);
        check("swiftiplyctl config ", &["show", "set", "rm"]);
        check("swiftiplyctl -s x:1 log m", &["minimal"]);
        check("swiftiplyctl maintenance a.example ", &["on", "off"]);
        check("swiftiplyctl config set a.example --p", &["--persist"]);
        check("swiftiplyctl status --w", &["--watch"]);
        check("swiftiplyctl undrain --w", &[]);
        check("swiftiplyctl --js", &["--json"]);
    }
}
