//! The pid file of a server.
//!
//! A server locks its file (flock(2)) as long as it accepts connections. So a file that a crash has left behind can be
//! distinguished from that of a running server, even if the system has reused its process id, and in containers, where process
//! ids mean something else. A draining server has released the lock, like its addresses: its successor may write the
//! file, and the draining server does not remove it then.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc::{O_NOCTTY, O_NOFOLLOW, O_NONBLOCK};

use super::reason;

/// A pid file. Dropping it removes the file, unless another process has written it since.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: File,
    /// It is the file of another process as long as this one has not replaced that.
    is_adopted: AtomicBool,
}

impl PidFile {
    /// Writes the process id, with a newline, to a file with mode 0644.
    ///
    /// # Errors
    /// The reason in words: a running server uses the file, it is not a regular file, it has hard links, or an error
    /// of the file system. The file is unchanged then.
    pub fn write(path: &Path) -> Result<Self, String> {
        // It may be removed between opening and locking, even repeatedly.
        for _ in 0..ATTEMPTS {
            let mut file = open(path)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => return Err(held_by(&mut file)),
                // Some file systems have no locks.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            if is_at(&file, path) {
                fill(&file).map_err(|error| reason(&error))?;
                let path = path.to_owned();
                let is_adopted = AtomicBool::new(false);
                return Ok(Self {
                    path,
                    file,
                    is_adopted,
                });
            }
        }
        Err("it keeps changing".to_owned())
    }

    /// Adopts the file of the process that this one replaces, which has opened and locked it. Both hold the lock then.
    ///
    /// # Errors
    /// The reason why it cannot be written.
    pub fn adopt(path: &Path, file: OwnedFd) -> Result<Self, String> {
        let pid_file = Self {
            path: path.to_owned(),
            file: File::from(file),
            is_adopted: AtomicBool::new(true),
        };
        pid_file.restore()?;
        Ok(pid_file)
    }

    /// Writes the id of this process again, after another process has adopted the file.
    ///
    /// # Errors
    /// The reason why it cannot be written.
    pub fn restore(&self) -> Result<(), String> {
        fill(&self.file).map_err(|error| reason(&error))
    }

    /// The other process has handed over: the file is removed when this one ends. Until then it is left for the other.
    pub fn take_over(&self) {
        self.is_adopted.store(false, Ordering::Relaxed);
    }

    /// The path and the open file, for a process that replaces this one.
    pub fn parts(&self) -> (&Path, BorrowedFd<'_>) {
        (&self.path, self.file.as_fd())
    }

    /// Releases the lock, so that another server may write the file.
    pub fn release(&self) {
        // Fails only if there is no lock.
        let _ = self.file.unlock();
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if self.is_adopted.load(Ordering::Relaxed) {
            return;
        }
        let is_locked = !matches!(self.file.try_lock(), Err(TryLockError::WouldBlock));
        let is_ours = content(&mut self.file).is_ok_and(|text| text == own());
        if is_locked && is_ours && is_at(&self.file, &self.path) {
            // After root's rights were dropped, the file in a directory of root cannot be removed. An empty file
            // cannot mislead a script into signalling another process.
            if fs::remove_file(&self.path).is_err() {
                let _ = self.file.set_len(0);
            }
        }
    }
}

/// Opens the file for reading and writing; creates it if it does not exist.
fn open(path: &Path) -> Result<File, String> {
    let options = O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE)
        .custom_flags(options)
        .open(path);
    let file = opened.map_err(|error| match error.raw_os_error() {
        Some(nix::libc::ELOOP) => "a symbolic link, which is not followed".to_owned(),
        _ => reason(&error),
    })?;
    let about = file.metadata().map_err(|error| reason(&error))?;
    if !about.is_file() {
        return Err("not a regular file".to_owned());
    }
    if about.nlink() > 1 {
        return Err("it has hard links; remove it".to_owned());
    }
    Ok(file)
}

/// Whether this is the file that the path leads to now.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(there)) = (file.metadata(), fs::symlink_metadata(path)) else {
        return false;
    };
    (ours.dev(), ours.ino()) == (there.dev(), there.ino())
}

fn fill(mut file: &File) -> io::Result<()> {
    // `open` applies the umask to its mode.
    if file.metadata()?.mode() & 0o7777 != MODE {
        file.set_permissions(Permissions::from_mode(MODE))?;
    }
    let text = own();
    file.seek(SeekFrom::Start(0))?;
    // In this order a reader finds a complete number at any time, if there was one before.
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

fn own() -> String {
    format!("{}\n", std::process::id())
}

fn content(file: &mut File) -> io::Result<String> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

fn held_by(file: &mut File) -> String {
    let text = content(file).unwrap_or_default();
    match text.trim().parse::<u32>() {
        Ok(pid) => format!("in use by a running server, process {pid}"),
        Err(_) => "in use by a running server".to_owned(),
    }
}

/// Readable for all users.
const MODE: u32 = 0o644;
/// How often to try again if the file is removed between opening and locking.
const ATTEMPTS: usize = 100;
/// More bytes than a process id with a newline has.
const LONGEST: u64 = 64;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn it_is_written_whole_with_its_mode_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        // Of a crash: longer, and with another mode.
        fs::write(&path, "123456789012\n\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        let file = PidFile::write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), own());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, MODE);
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn live_server_keeps_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        let first = PidFile::write(&path).unwrap();
        let refused = PidFile::write(&path).unwrap_err();
        let expected = format!("in use by a running server, process {}", std::process::id());
        assert_eq!(refused, expected);
        assert_eq!(fs::read_to_string(&path).unwrap(), own());
        first.release();
        let second = PidFile::write(&path).unwrap();
        drop(first);
        assert!(path.exists(), "the second one has it");
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn what_another_has_written_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        for replace in [true, false] {
            let file = PidFile::write(&path).unwrap();
            if replace {
                fs::remove_file(&path).unwrap();
            }
            fs::write(&path, "1\n").unwrap();
            drop(file);
            assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        }
    }

    #[test]
    fn nothing_but_a_file_of_one_name_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("precious"), "precious").unwrap();
        symlink(at("precious"), at("link")).unwrap();
        symlink(at("nothing"), at("dangling")).unwrap();
        fs::write(at("one"), "one").unwrap();
        fs::hard_link(at("one"), at("two")).unwrap();
        mkfifo(&at("pipe"), Mode::S_IRWXU).unwrap();
        let refused = |name: &str| PidFile::write(&at(name)).unwrap_err();
        assert_eq!(refused("link"), "a symbolic link, which is not followed");
        assert_eq!(
            refused("dangling"),
            "a symbolic link, which is not followed"
        );
        assert!(refused("two").starts_with("it has hard links"));
        assert_eq!(refused("pipe"), "not a regular file");
        assert_eq!(refused("none/such"), "no such file or directory");
        assert_eq!(fs::read_to_string(at("precious")).unwrap(), "precious");
        assert_eq!(fs::read_to_string(at("one")).unwrap(), "one");
        assert!(!at("nothing").exists());
    }
}
