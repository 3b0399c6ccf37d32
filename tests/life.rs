//! The page "Life of a session" of `src/lib.rs`: what it names is there.

use std::fs;
use std::path::Path;

use swiftiply::config::{Config, Overrides};
use swiftiply::stats::Close;

/// A source file of the project.
fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines of the page, without the marks of a comment.
fn page() -> Vec<String> {
    read("src/lib.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! "))
        .skip_while(|line| *line != "# Life of a session")
        .take_while(|line| *line != "# Threads")
        .map(str::to_owned)
        .collect()
}

/// What stands in backquotes in a line.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Whether `source` defines an item, such as `fn run`.
fn defines(source: &str, item: &str) -> bool {
    source.lines().any(|line| {
        let code = line.split("//").next().unwrap_or_default();
        code.match_indices(item).any(|(start, _)| {
            let before = code[..start].chars().next_back();
            let after = code[start + item.len()..].chars().next();
            let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
            !before.is_some_and(is_word) && !after.is_some_and(is_word)
        })
    })
}

/// The variants of an enumeration, which stand at the first level of indentation.
fn variants(file: &str, name: &str) -> Vec<String> {
    let source = read(file);
    let body = source
        .split_once(&format!("enum {name}"))
        .unwrap_or_else(|| panic!("{file} has no enum {name}"))
        .1;
    let body = body.split("\n}").next().unwrap_or_default();
    let lines = body.lines().filter_map(|line| line.strip_prefix("    "));
    let lines = lines.filter(|line| line.starts_with(|letter: char| letter.is_ascii_uppercase()));
    let names = lines.map(|line| line.split(|letter: char| !letter.is_alphanumeric()).next());
    names.flatten().map(str::to_owned).collect()
}

#[test]
fn functions_exist() {
    let mut seen = 0;
    for line in page() {
        for reference in quoted(&line).filter(|text| text.starts_with("src/")) {
            let (file, item) = reference
                .split_once(": ")
                .unwrap_or_else(|| panic!("{reference}: expected `FILE: fn NAME`"));
            assert!(defines(&read(file), item), "{file} has no {item}");
            seen += 1;
        }
    }
    assert!(seen > 30, "only {seen} references were found");
}

#[test]
fn states_and_phases_have_rows() {
    let page = page();
    let rows: Vec<_> = page.iter().filter(|line| line.starts_with("| `")).collect();
    let mut known = Vec::new();
    for (file, name) in [
        ("src/server/session/state.rs", "State"),
        ("src/relay/mod.rs", "Phase"),
    ] {
        let found = variants(file, name);
        assert!(found.len() > 5, "{file}: enum {name} was not read");
        known.extend(found.iter().map(|variant| format!("{name}::{variant}")));
    }
    for variant in &known {
        let start = format!("| `{variant}`");
        let has_row = rows.iter().any(|row| row.starts_with(&start));
        assert!(has_row, "the table has no row for {variant}");
    }
    for row in rows {
        for text in quoted(row).filter(|text| text.contains("::")) {
            let is_known = known.iter().any(|variant| variant == text);
            assert!(is_known, "the table names {text}, which is no state");
        }
    }
}

#[test]
fn deadlines_and_reasons_exist() {
    let mut seen = (0, 0);
    for row in page().iter().filter(|line| line.starts_with("| `")) {
        for text in quoted(row).filter(|text| !text.contains("::")) {
            if let Some(key) = text.strip_prefix("timeouts.") {
                let yaml = format!("cluster_port: 80\nmap: []\ntimeouts: {{{key}: 1s}}\n");
                let read = Config::from_yaml(&yaml, Path::new("life.yml"), &Overrides::default());
                assert!(read.is_ok(), "{text} is no key");
                seen.0 += 1;
            } else if !["timeout", "unframed_gap"].contains(&text) {
                let is_reason = Close::ALL.iter().any(|reason| reason.word() == text);
                assert!(is_reason, "{text} is no reason for a close");
                seen.1 += 1;
            }
        }
    }
    assert!(
        seen.0 > 10 && seen.1 > 20,
        "the table was not read: {seen:?}"
    );
}
