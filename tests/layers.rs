//! The layers of the library, as `src/lib.rs` tells them: a module imports only from the rows above its own.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules, lowest layer first. The first entry that a path begins with counts.
const LAYERS: [&[&str]; 8] = [
    &[
        "http",
        "backend::preamble",
        "content::passwords",
        "budget",
        "escape",
        "stats",
    ],
    &["process"],
    &["config"],
    &["net"],
    &["logging", "exchange"],
    &["backend", "client", "content"],
    &["relay"],
    &["server", "access"],
];

/// Crates that one module hides from the others.
const CONFINED: [(&str, &[&str]); 16] = [
    ("tikv_jemalloc_sys", &["process"]),
    ("httparse", &["http::head"]),
    ("base64", &["http::auth"]),
    ("bcrypt", &["content::passwords"]),
    ("flate2", &["content::gzip"]),
    ("sha_crypt", &["content::passwords"]),
    ("mime_guess", &["content::files"]),
    ("rustls", &["net::tls"]),
    ("webpki", &["net::tls"]),
    ("redis", &["backend::directory"]),
    ("threadpool", &["server"]),
    ("serde_yaml", &["config::raw", "config::print"]),
    ("serde", &["config::raw", "config::print", "logging"]),
    ("tempfile", &["server::body", "relay::spool"]),
    ("percent_encoding", &["http::target"]),
    // It panics at times before 1970 and after 9999.
    ("httpdate", &["http::date", "http::conditional"]),
];

fn layer(module: &str) -> Option<usize> {
    let fits = |row: &&[&str]| row.iter().any(|name| belongs(module, name));
    // `backend::preamble` is below the rest of `backend`, so the lowest layer that fits counts.
    LAYERS.iter().position(fits)
}

fn belongs(module: &str, name: &str) -> bool {
    module == name
        || module
            .strip_prefix(name)
            .is_some_and(|rest| rest.starts_with("::"))
}

/// Each source file with its module's path.
fn modules() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of sources") {
            let path: PathBuf = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let inner = path
                    .strip_prefix(&root)
                    .expect("below src")
                    .with_extension("");
                let parts: Vec<_> = inner.iter().map(|part| part.to_string_lossy()).collect();
                let module = parts.join("::").trim_end_matches("::mod").to_owned();
                found.push((module, fs::read_to_string(&path).expect("a source")));
            }
        }
    }
    found.retain(|(module, _)| !module.starts_with("bin::") && module != "lib");
    assert!(found.len() > 20, "the sources were not found");
    found
}

/// What a module names of this crate outside its tests: `crate::a::b` in `use` lines and in the code.
fn named(source: &str) -> Vec<String> {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let mut names = Vec::new();
    for line in lines {
        for (start, _) in line.match_indices("crate::") {
            let path = line[start + "crate::".len()..]
                .split(|letter: char| !letter.is_alphanumeric() && letter != '_' && letter != ':');
            names.push(path.into_iter().next().unwrap_or_default().to_owned());
        }
    }
    names
}

#[test]
fn modules_import_from_below_only() {
    let mut seen = 0;
    for (module, source) in modules() {
        let own = layer(&module).unwrap_or_else(|| panic!("{module} stands in no layer"));
        for name in named(&source) {
            let other = layer(name.trim_end_matches("::"))
                .unwrap_or_else(|| panic!("{module} names {name}, which stands in no layer"));
            let same_room = name.split("::").next() == module.split("::").next();
            assert!(
                other < own || other == own && same_room,
                "{module} (layer {}) imports {name} (layer {})",
                own + 1,
                other + 1
            );
            seen += 1;
        }
    }
    assert!(seen > 30, "the imports were not found");
}

#[test]
fn crates_stay_where_they_are_hidden() {
    for (module, source) in modules() {
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        for (name, homes) in CONFINED {
            let used = code.lines().any(|line| {
                let line = line.trim_start();
                !line.starts_with("//") && line.contains(&format!("{name}::"))
            });
            let home = homes.iter().any(|home| belongs(&module, home));
            let tests = module.ends_with("::tests");
            assert!(!used || home || tests, "{module} names {name}");
        }
    }
}

#[test]
fn unsafe_code_stands_in_one_module() {
    for (module, source) in modules() {
        let used = source.lines().any(|line| {
            let line = line.trim_start();
            !line.starts_with("//") && line.contains("unsafe {")
        });
        assert_eq!(used, module == "process", "{module}");
    }
}
