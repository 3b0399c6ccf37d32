//! What a test needs that not every machine has: programs, packages of Python, and the rights of root.
//!
//! Where one of them is missing the test is skipped, with a line on standard error. With `SWIFTIPLY_REQUIRE_ALL=1`, which
//! `tests/run --install` sets, a missing program is a failure, and packages of Python are installed.

use std::fs::OpenOptions;
use std::io::{Write, stderr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{env, fs};

use super::{php, python};

/// The rights of root, which no package provides.
pub(crate) const ROOT: &str = "root";

/// Skips the rest of the test if something is missing: names of programs, [`ROOT`], or `name==version` of Python.
macro_rules! needs {
    ($($what:expr),+) => {{
        fn here() {}
        let test = std::any::type_name_of_val(&here);
        if !$crate::common::needs::all(test, &[$($what),+]) {
            return;
        }
    }};
}
pub(crate) use needs;

/// Whether all of it is there; reports what is not.
///
/// # Panics
/// If a program is missing although everything is required.
pub(crate) fn all(test: &str, what: &[&str]) -> bool {
    let Some(missing) = what.iter().find(|what| !is_there(what)) else {
        return true;
    };
    let name = test.trim_start_matches("swiftiply::");
    let name = name.trim_end_matches("::here");
    assert!(
        *missing == ROOT || !required(),
        "{name} needs {missing}; tests/run --install installs it"
    );
    skip(name, missing);
    false
}

/// Reports that a test is skipped: in a line that the test harness does not capture, and in the list of `tests/run`.
pub(crate) fn skip(test: &str, missing: &str) {
    let line = format!("skipped {test}: needs {missing}\n");
    let _ = stderr().write_all(line.as_bytes());
    if let Some(list) = env::var_os("SWIFTIPLY_SKIPPED") {
        let list = OpenOptions::new().append(true).create(true).open(list);
        list.unwrap().write_all(line.as_bytes()).unwrap();
    }
}

/// Whether nothing may be skipped.
pub(crate) fn required() -> bool {
    env::var_os("SWIFTIPLY_REQUIRE_ALL").is_some_and(|value| value == "1")
}

fn is_there(what: &str) -> bool {
    if what == ROOT {
        nix::unistd::getuid().is_root()
    } else if what == php::PHP_FPM {
        php::find().is_some()
    } else if what.contains("==") {
        python::installed(what).is_some()
    } else {
        find(what).is_some()
    }
}

/// The file of a program.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let executable = |file: &Path| {
        let about = fs::metadata(file);
        about.is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
    };
    env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| executable(file))
}
