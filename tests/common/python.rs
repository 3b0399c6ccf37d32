//! Python programs with packages of others.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::{fs, io};

use super::needs;

/// One installation at a time.
static INSTALLING: Mutex<()> = Mutex::new(());

/// A program of the folder of tests, which may import a package: `name==version`, one of those that the test
/// [`needs`](needs::needs!).
pub(crate) fn python(package: &str, program: &str) -> Command {
    let folder = installed(package).expect("a package that the test needs");
    let program = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(program);
    let mut command = Command::new("python3");
    command.arg(program).env("PYTHONPATH", folder);
    command
}

/// The folder of a package, which is installed if nothing may be skipped: once, for tests only.
pub(super) fn installed(package: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = root.join(package);
    let _one = INSTALLING
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    if folder.exists() {
        return Some(folder);
    }
    if !needs::required() {
        return None;
    }
    fs::create_dir_all(root).unwrap();
    let fresh = tempfile::tempdir_in(root).unwrap();
    let done = Command::new("python3")
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ])
        .arg("--target")
        .arg(fresh.path())
        .arg(package)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "pip install {package}: {said}");
    match fs::rename(fresh.keep(), &folder) {
        // Another run of the tests was faster.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
        other => other.unwrap(),
    }
    Some(folder)
}
