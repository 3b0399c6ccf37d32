//! The files of `state_directory`: accounts, certificates, unfinished orders, and the authority of our own.
//!
//! ```text
//! acme/HOST-PATH/account.json   one directory for each authority
//! acme/HOST-PATH/NAME.pem       the key and the certificate with its chain
//! acme/HOST-PATH/NAME.order     an order that is not finished, with its key
//! internal/root.crt, root.key   the authority of our own
//! internal/NAME.pem
//! ```
//!
//! **Invariants**: directories are for the owner only (0700), and so are files (0600). A file is replaced as a whole, so
//! a crash leaves the old one or the new one.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::config;
use crate::process::reason;

/// A directory below `state_directory`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Store {
    directory: PathBuf,
}

impl Store {
    /// That of an authority, by the URL of its directory.
    pub(super) fn of_authority(state: &Path, url: &str) -> Self {
        let url = url.strip_prefix("https://").unwrap_or(url);
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || ".-_".contains(letter);
        let plain = url.chars().map(|letter| match is_plain(letter) {
            true => letter,
            false => '-',
        });
        Self {
            directory: state.join("acme").join(plain.collect::<String>()),
        }
    }

    /// That of our own authority.
    pub(super) fn internal(state: &Path) -> Self {
        Self {
            directory: state.join("internal"),
        }
    }

    /// Creates the directory, if it does not exist.
    ///
    /// # Errors
    /// The path, and the reason.
    pub(super) fn create(&self) -> Result<(), String> {
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&self.directory);
        made.map_err(|error| fault(&self.directory, &error))
    }

    /// The file of a name's certificate.
    pub(super) fn certificate(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{}.pem", file_name(name)))
    }

    /// The names that have a file of their certificate, apart from those with a star.
    ///
    /// # Errors
    /// The path, and the reason.
    pub(super) fn names(&self) -> Result<Vec<String>, String> {
        let unusable = |error: io::Error| fault(&self.directory, &error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(unusable)? {
            let name = entry.map_err(unusable)?.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(".pem"));
            names.extend(name.map(str::to_owned));
        }
        Ok(names)
    }

    /// The file of a name's unfinished order.
    pub(super) fn order(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{}.order", file_name(name)))
    }

    /// Another file.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Reads a file; `None` if it does not exist.
    ///
    /// # Errors
    /// The path, and the reason.
    pub(super) fn read(&self, path: &Path) -> Result<Option<String>, String> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fault(path, &error)),
            Ok(_) => {}
        }
        let wrong = |why: String| format!("{}: {why}", path.display());
        let bytes = config::read_file(path, MOST_BYTES).map_err(wrong)?;
        let text = String::from_utf8(bytes).map_err(|_| wrong("not UTF-8".to_owned()))?;
        Ok(Some(text))
    }

    /// Replaces a file as a whole.
    ///
    /// # Errors
    /// The path, and the reason.
    pub(super) fn write(&self, path: &Path, text: &str) -> Result<(), String> {
        self.replace(path, text)
            .map_err(|error| fault(path, &error))
    }

    fn replace(&self, path: &Path, text: &str) -> io::Result<()> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(temporary);
        // That of a crash with the same process id.
        let _ = fs::remove_file(&temporary);
        let mut options = OpenOptions::new();
        let options = options.write(true).create_new(true).mode(0o600);
        let written = options.open(&temporary).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        let replaced = written.and_then(|()| fs::rename(&temporary, path));
        if replaced.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        replaced?;
        File::open(&self.directory)?.sync_all()
    }

    /// Removes a file, if it exists.
    pub(super) fn remove(&self, path: &Path) {
        if let Err(error) = fs::remove_file(path)
            && error.kind() != ErrorKind::NotFound
        {
            log::warn!("state_directory: {}", fault(path, &error));
        }
    }

    /// Takes the lock of the directory, so that of several processes one orders certificates at a time. `None`: another
    /// process has it. It is released when the file is dropped.
    ///
    /// # Errors
    /// The path, and the reason.
    pub(super) fn lock(&self) -> Result<Option<File>, String> {
        let path = self.directory.join("lock");
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path);
        let file = file.map_err(|error| fault(&path, &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(fault(&path, &error)),
        }
    }
}

fn fault(path: &Path, error: &io::Error) -> String {
    format!("{}: {}", path.display(), reason(error))
}

/// A host name in the name of a file.
fn file_name(name: &str) -> String {
    name.replace('*', "_")
}

/// Most bytes of a file; a key with its chain has a few thousand.
const MOST_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_are_private_and_replaced() {
        let place = tempfile::tempdir().unwrap();
        let store = Store::of_authority(place.path(), "https://ca.test:14000/dir");
        assert!(store.directory.ends_with("acme/ca.test-14000-dir"));
        store.create().unwrap();
        store.create().unwrap();
        let file = store.certificate("*.a.test");
        assert_eq!(store.read(&file), Ok(None));
        store.write(&file, "one").unwrap();
        store.write(&file, "two").unwrap();
        assert_eq!(store.names(), Ok(vec!["_.a.test".into()]));
        assert_eq!(store.read(&file), Ok(Some("two".into())));
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file), 0o600);
        assert_eq!(mode(&store.directory), 0o700);
        let names = fs::read_dir(&store.directory).unwrap();
        assert_eq!(names.count(), 1, "a temporary file is left");
        store.remove(&file);
        store.remove(&file);
        assert_eq!(store.read(&file), Ok(None));
    }

    #[test]
    fn one_process_at_a_time() {
        let place = tempfile::tempdir().unwrap();
        let store = Store::internal(place.path());
        store.create().unwrap();
        let held = store.lock().unwrap();
        assert!(held.is_some());
        assert!(store.lock().unwrap().is_none());
        drop(held);
        assert!(store.lock().unwrap().is_some());
    }

    #[test]
    fn unusable_directory() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        fs::write(&file, "").unwrap();
        let why = Store::internal(&file).create().unwrap_err();
        assert!(why.ends_with("file/internal: not a directory"), "{why}");
    }
}
