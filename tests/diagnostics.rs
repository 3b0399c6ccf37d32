//! The manuals explain every message that the programs log at level normal and above.
//!
//! A message is looked for by its fixed parts: `server {name} is back` by "server" and "is back".

use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The shortest part that says something.
const LETTERS: usize = 4;

/// The manuals as plain text: without macros and the words that stand for what varies.
fn manuals() -> String {
    let placeholder = Regex::new(r"(?-u:\b)(Ar|Pa|Fl) [^ ]+").expect("a pattern");
    let mark = Regex::new(r"(^|(?-u:\s))\.?[A-Z][a-z](?-u:\b)|\\&").expect("a pattern");
    let mut text = String::new();
    for page in ["swiftiply.8", "swiftiply-access.8", "swiftiply.yml.5"] {
        let page = fs::read_to_string(Path::new(ROOT).join("man").join(page)).expect("a manual");
        for line in page.lines() {
            let line = match line.starts_with('.') {
                true => &placeholder.replace_all(line, ""),
                false => line,
            };
            text.push_str(&mark.replace_all(line, " "));
            text.push(' ');
        }
    }
    words(&text)
}

/// Words with one space between them.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The source files of the programs, tests apart. The client of the library is for other programs.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs")
            && !path.ends_with("tests.rs")
            && !path.ends_with("src/client.rs")
        {
            found.push(path);
        }
    }
}

/// The fixed parts of a message, as its string literal is written.
fn parts(literal: &str) -> Vec<String> {
    let continued = Regex::new(r"\\\n(?-u:\s)*").expect("a pattern");
    let variable = Regex::new(r"\{[^{}]*\}").expect("a pattern");
    let literal = continued.replace_all(literal, "").replace(r#"\""#, "\"");
    let edge = |letter: char| !letter.is_alphanumeric();
    let parts = variable.split(&literal).map(|part| part.trim_matches(edge));
    let said = parts
        .filter(|part| part.chars().filter(|letter| letter.is_alphabetic()).count() >= LETTERS);
    said.map(words).collect()
}

#[test]
fn every_message_is_in_the_manuals() {
    let manuals = manuals();
    let call = Regex::new(
        r#"log::(?:error|warn|info)!\((?:(?-u:\s)*target:[^"]*?,)?(?-u:\s)*"((?:[^"\\]|\\.|\\\n)*)""#,
    )
    .expect("a pattern");
    let mut files = Vec::new();
    sources(&Path::new(ROOT).join("src"), &mut files);
    let mut count = 0;
    let mut missing = Vec::new();
    for file in files {
        let source = fs::read_to_string(&file).expect("a source file");
        let source = source.split("\nmod tests {").next().expect("a beginning");
        for message in call.captures_iter(source) {
            for part in parts(&message[1]) {
                count += 1;
                if !manuals.contains(&part) {
                    missing.push(format!("{}: {part}", file.display()));
                }
            }
        }
    }
    assert!(count > 80, "only {count} parts of messages were found");
    assert!(
        missing.is_empty(),
        "the manuals lack:\n{}",
        missing.join("\n")
    );
}

#[test]
fn parts_of_messages() {
    let check =
        |literal: &str, expected: &[&str]| assert_eq!(parts(literal), expected, "{literal}");
    check("server {name} is back", &["server", "is back"]);
    check(
        "{error}; going on with the old file",
        &["going on with the old file"],
    );
    check("one \\\n     line: {:?}", &["one line"]);
    check("{a}: {b}", &[]);
}
