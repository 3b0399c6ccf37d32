//! Tests whose programs are missing are skipped, with a line that says so.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::common::{Ended, ended, needs};

/// A test that needs a program.
const TEST: &str = "needs::present";

/// Runs that test alone, with nothing but this program to be found.
fn alone(program: &str, required: &str) -> (Ended, String) {
    let folder = tempfile::tempdir().unwrap();
    symlink("/bin/true", folder.path().join(program)).unwrap();
    let list = folder.path().join("skipped");
    let run = ended(
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", TEST])
            .env("PATH", folder.path())
            .env("SWIFTIPLY_SKIPPED", &list)
            .env("SWIFTIPLY_REQUIRE_ALL", required),
    );
    (run, fs::read_to_string(list).unwrap_or_default())
}

#[test]
fn present() {
    needs!("sh");
    assert!(
        Command::new("sh").args(["-c", ":"]).status().is_ok(),
        "sh was found, but does not start"
    );
}

#[test]
fn skipped_with_a_line() {
    let (run, list) = alone("other", "");
    let line = format!("skipped {TEST}: needs sh\n");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.err.contains(&line), "{run:?}");
    assert_eq!(list, line);
}

#[test]
fn fails_if_required() {
    let (run, list) = alone("other", "1");
    assert_eq!(run.code, Some(101), "{run:?}");
    let line = format!("{TEST} needs sh; tests/run --install installs it");
    assert!(run.out.contains(&line), "{run:?}");
    assert_eq!(list, "");
}

#[test]
fn run() {
    let (run, list) = alone("sh", "1");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!((run.err.as_str(), list.as_str()), ("", ""));
}
