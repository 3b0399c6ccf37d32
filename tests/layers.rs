//! The rules for the modules of `src`: layers, import cycles, confined crates, lengths of files, names of types.
//!
//! The layers and the confined crates are read from the two tables in the documentation of `src/lib.rs`. Every file is
//! parsed, and everything in it but its tests (items under `#[cfg(test)]`) is checked.

mod source;

use std::collections::{BTreeMap, BTreeSet};

use source::{Source, Sources};

/// The number of lines of code above which a file gives a reason in its header, in a line `//! Length: …`.
const LONGEST: usize = 500;

/// Names of types that may be defined more than once under `src`, each with the reason.
const SHARED_NAMES: [(&str, &str); 4] = [
    ("Action", "each program has its own"),
    ("Invocation", "each program has its own"),
    (
        "Request",
        "that of `client` is the public name for applications",
    ),
    ("StartError", "`Server` and `Access` have one each"),
];

/// Rows of the table in the documentation of `src/lib.rs` whose head begins with these two titles: the first two cells.
fn table(sources: &Sources, titles: [&str; 2]) -> Vec<(String, Vec<String>)> {
    let head = format!("//! | {} | {} |", titles[0], titles[1]);
    let lib = &sources.root().text;
    let rows = lib.lines().skip_while(|line| !line.starts_with(&head));
    let rows = rows.skip(2).take_while(|line| line.starts_with("//! | "));
    let rows: Vec<_> = rows
        .map(|row| {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            let named = cells[2].split('`').skip(1).step_by(2);
            let first = cells[1].trim_matches('`').to_owned();
            (first, named.map(str::to_owned).collect())
        })
        .collect();
    assert!(!rows.is_empty(), "src/lib.rs has no table {head:?}");
    rows
}

/// Whether a module is the one with this name or below it.
fn belongs(module: &str, name: &str) -> bool {
    let rest = module.strip_prefix(name);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The lowest layer that has a module: one module of a group may be in a lower layer than the rest.
fn layer(layers: &[(String, Vec<String>)], module: &str) -> Option<u32> {
    let fits = |names: &[String]| names.iter().any(|name| belongs(module, name));
    let row = layers.iter().find(|(_, names)| fits(names))?;
    Some(row.0.parse().expect("the number of a layer"))
}

/// Fails with all findings.
fn none(what: &str, findings: &[String]) {
    let list = findings.join("\n  ");
    assert!(findings.is_empty(), "{what}:\n  {list}");
}

#[test]
fn public_modules() {
    let lib = &Sources::get().root().text;
    let public: Vec<_> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub "))
        .collect();
    let expected = [
        "mod access;",
        "mod client;",
        "mod config;",
        // Hidden from the documentation, and not part of the interface.
        "mod internals;",
        "mod server;",
        "mod stats;",
        "use server::Server;",
    ];
    assert_eq!(public, expected);
    let hidden = "#[doc(hidden)]\npub mod internals;";
    assert!(lib.contains(hidden), "src/lib.rs lacks {hidden:?}");
}

#[test]
fn imports_come_from_lower_layers() {
    let sources = Sources::get();
    let layers = table(sources, ["layer", "modules"]);
    for (number, names) in &layers {
        for name in names {
            assert!(
                sources.has(name),
                "layer {number} has {name}, which is no file"
            );
        }
    }
    let mut findings = Vec::new();
    let mut count = 0;
    for source in sources.library() {
        let module = &source.module;
        let own =
            layer(&layers, module).unwrap_or_else(|| panic!("{} is in no layer", source.file));
        for (path, line) in source.crate_paths() {
            let place = format!("{}:{line}", source.file);
            let Some(other) = layer(&layers, &path) else {
                findings.push(format!("{place} names {path}, which is in no layer"));
                continue;
            };
            let same_group = path.split("::").next() == module.split("::").next();
            if other > own || other == own && !same_group {
                findings.push(format!(
                    "{place} (layer {own}) names {path} (layer {other})"
                ));
            }
            count += 1;
        }
    }
    none("imports from the same layer or a higher one", &findings);
    assert!(count > 300, "only {count} imports were found");
}

#[test]
fn imports_have_no_cycles() {
    let sources = Sources::get();
    // From each file to the files that it names.
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for source in sources.all() {
        let named = source
            .crate_paths()
            .filter_map(|(path, _)| sources.file_of(&path));
        let named = named.filter(|other| *other != source.module);
        edges.insert(&source.module, named.collect());
    }
    // All files that are reached from one.
    let reached = |from: &str| {
        let mut reached = BTreeSet::new();
        let mut next: Vec<_> = edges[from].iter().copied().collect();
        while let Some(module) = next.pop() {
            if reached.insert(module) {
                next.extend(&edges[module]);
            }
        }
        reached
    };
    let reached: BTreeMap<&str, BTreeSet<&str>> = edges
        .keys()
        .map(|module| (*module, reached(module)))
        .collect();
    let mut findings = Vec::new();
    for (module, named) in &edges {
        let back = named
            .iter()
            .filter(|other| reached[**other].contains(module));
        let back: Vec<_> = back.copied().collect();
        if !back.is_empty() {
            findings.push(format!("{module} names {}", back.join(", ")));
        }
    }
    none("files that import each other in a circle", &findings);
}

#[test]
fn crates_are_confined_to_their_modules() {
    let sources = Sources::get();
    let confined = table(sources, ["crate", "modules"]);
    for (name, homes) in &confined {
        let mut used = 0;
        let mut findings = Vec::new();
        for source in sources.all() {
            let home = homes.iter().any(|home| belongs(&source.module, home));
            for line in source.external_paths(name) {
                used += 1;
                if !home {
                    findings.push(format!("{}:{line}", source.file));
                }
            }
        }
        none(
            &format!("{name} is confined to {}, but named in", homes.join(", ")),
            &findings,
        );
        assert!(used > 0, "src/lib.rs confines {name}, which is never named");
        for home in homes {
            assert!(
                sources.has(home),
                "{name} is confined to {home}, which is no file"
            );
        }
    }
}

#[test]
fn unsafe_is_in_process_only() {
    let sources = Sources::get();
    let files = sources.all().filter(|source| source.has_unsafe);
    let files: Vec<_> = files.map(|source| source.module.as_str()).collect();
    // The programs export a symbol for their allocator, which takes an attribute with this word.
    assert_eq!(files, ["bin::program", "process", "process::apart"]);
}

#[test]
fn long_files_give_a_reason() {
    let sources = Sources::get();
    let mut findings = Vec::new();
    for source in sources.all() {
        let lines = source.lines_of_code();
        let reason = source
            .text
            .lines()
            .any(|line| line.starts_with("//! Length: "));
        if lines > LONGEST && !reason {
            findings.push(format!("{} has {lines}", source.file));
        }
        assert!(
            lines > LONGEST || !reason,
            "{} has {lines} lines of code and needs no reason",
            source.file
        );
    }
    let what = format!("files above {LONGEST} lines of code without a line `//! Length: reason`");
    none(&what, &findings);
}

#[test]
fn names_of_types_have_one_meaning() {
    let sources = Sources::get();
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    // A module `no_x` stands in for `x` in builds without a feature and has the same names.
    let own = |source: &&Source| !source.module.contains("::no_");
    for source in sources.all().filter(own) {
        for (name, line) in source.types() {
            let place = format!("{}:{line}", source.file);
            places.entry(name).or_default().push(place);
        }
    }
    assert!(places.len() > 300, "only {} types were found", places.len());
    places.retain(|_, places| places.len() > 1);
    for (name, reason) in SHARED_NAMES {
        assert!(
            places.remove(name).is_some(),
            "{name} has one definition and needs no reason ({reason})"
        );
    }
    let findings: Vec<_> = places
        .iter()
        .map(|(name, places)| format!("{name}: {}", places.join(", ")))
        .collect();
    none("types with the same name", &findings);
}

#[test]
fn sources_are_read_as_the_compiler_reads_them() {
    let text = r#"//! Some `serde::header`.

use super::{c, d::{self as e, F}};
use redis::{Client, cmd as command};
mod child;

#[cfg(test)]
use crate::first_test;

type Short = child::Long;

fn code() -> crate::g::H {
    // crate::comment
    println!("crate::text {}", self::i(redis::J));
    ::rustls::k::<super::super::l::M>()
}

mod inner {
    use super::super::n;
}

#[cfg(all(test, feature = "x"))]
mod tests {
    struct Hidden;
    use crate::second_test;
}
"#;
    let source = Source::parse("src/a/b.rs", text.to_owned());
    let own: Vec<_> = source.crate_paths().collect();
    let expected = [
        ("a::c", 3),
        ("a::d", 3),
        ("a::d::F", 3),
        ("a::b::child::Long", 10),
        ("g::H", 12),
        ("a::b::i", 14),
        ("l::M", 15),
        ("a::n", 19),
    ];
    let mut found: Vec<_> = own
        .iter()
        .map(|(path, line)| (path.as_str(), *line))
        .collect();
    found.sort_by_key(|(_, line)| *line);
    assert_eq!(found, expected);
    assert_eq!(
        source.external_paths("redis").collect::<Vec<_>>(),
        [4, 4, 14]
    );
    assert_eq!(source.external_paths("rustls").collect::<Vec<_>>(), [15]);
    assert_eq!(source.external_paths("serde").count(), 0);
    assert_eq!(
        source.types().collect::<Vec<_>>(),
        [("Short".to_owned(), 10)]
    );
    assert_eq!(source.lines_of_code(), 11);
}
