//! Files that are kept in memory and read again when they change.
//!
//! Called by workers, with a time that they know anyway. One caller a second checks the file; the others get the known
//! value, without a system call and without waiting for the check.
//!
//! **Invariants**: a returned value is at most [`PAUSE`] out of date, except for callers during a check; a file that
//! is read again and is unchanged, unreadable or invalid does not change the value, and the latter two are logged
//! once.

use std::fmt;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::RwLock;

use crate::config;

/// A file, and the value that was made of it.
pub struct Watched<T> {
    path: PathBuf,
    /// Most bytes of the file.
    most: u64,
    read: fn(&[u8]) -> Result<T, String>,
    hasher: RandomState,
    watch: NextLook,
    state: RwLock<FileState<T>>,
}

/// A file that cannot be read or is invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    path: PathBuf,
    why: String,
}

/// A file of which only the existence matters.
#[derive(Debug)]
pub struct Flag {
    path: PathBuf,
    watch: NextLook,
    is_up: AtomicBool,
}

struct FileState<T> {
    value: Arc<T>,
    /// Keyed hash of the bytes that the value was made of.
    content: u64,
    /// The state of the file at the last check; `None`: it did not exist.
    stamp: Option<FileStamp>,
    /// Any further change of the file would change its stamp.
    settled: bool,
}

/// Distinguishes contents of a file: its inode, its size, the times of changes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FileStamp {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The time of the next check.
#[derive(Debug)]
struct NextLook {
    since: Instant,
    /// In milliseconds after `since`.
    due: AtomicU64,
}

impl<T> Watched<T> {
    /// Reads a file of at most `most` bytes for the first time. `read` makes a value of the bytes, or an error.
    ///
    /// # Errors
    /// The reason why the file cannot be read or is invalid.
    pub fn open(
        path: &Path,
        most: u64,
        read: fn(&[u8]) -> Result<T, String>,
    ) -> Result<Self, FileError> {
        // Before reading: a change during the read changes the stamp.
        let (stamp, settled) = FileStamp::of(path);
        let wrong = |why| FileError {
            path: path.to_owned(),
            why,
        };
        let bytes = config::read_file(path, most).map_err(wrong)?;
        let value = read(&bytes).map_err(wrong)?;
        let hasher = RandomState::new();
        Ok(Self {
            path: path.to_owned(),
            most,
            read,
            watch: NextLook::new(),
            state: RwLock::new(FileState {
                value: Arc::new(value),
                content: hasher.hash_one(&bytes),
                stamp,
                settled,
            }),
            hasher,
        })
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The current value.
    pub fn get(&self, now: Instant) -> Arc<T> {
        if self.watch.is_due(now) {
            self.check();
        }
        Arc::clone(&self.state.read().value)
    }

    /// Checks the file now, whenever that was done last.
    pub fn check(&self) {
        let (stamp, settled) = FileStamp::of(&self.path);
        let (known, content) = {
            let state = self.state.read();
            if stamp == state.stamp && state.settled {
                return;
            }
            (stamp == state.stamp, state.content)
        };
        let read = self.read_again(content);
        let mut state = self.state.write();
        (state.stamp, state.settled) = (stamp, settled);
        let result = read.map(|new| {
            if let Some((value, content)) = new {
                (state.value, state.content) = (Arc::new(value), content);
            }
        });
        drop(state);
        let path = self.path.display();
        match result {
            _ if known => {}
            Ok(()) => log::info!("{path}: read again"),
            Err(why) => log::error!("{path}: {why}; keeping what was read before"),
        }
    }

    /// The value and hash of the current bytes. `None`: they are unchanged, so the value is kept with everything that
    /// it has learnt since.
    fn read_again(&self, before: u64) -> Result<Option<(T, u64)>, String> {
        let bytes = config::read_file(&self.path, self.most)?;
        let content = self.hasher.hash_one(&bytes);
        match content == before {
            true => Ok(None),
            false => Ok(Some(((self.read)(&bytes)?, content))),
        }
    }
}

impl Flag {
    /// A file that need not exist.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            watch: NextLook::new(),
            is_up: AtomicBool::new(path.exists()),
        }
    }

    /// Whether it exists.
    pub fn is_up(&self, now: Instant) -> bool {
        if self.watch.is_due(now) {
            self.is_up.store(self.path.exists(), Ordering::Relaxed);
        }
        self.is_up.load(Ordering::Relaxed)
    }
}

impl NextLook {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            due: AtomicU64::new(millis(PAUSE)),
        }
    }

    /// Whether it is time for a check; true for one caller only.
    fn is_due(&self, now: Instant) -> bool {
        let now = millis(now.saturating_duration_since(self.since));
        let due = self.due.load(Ordering::Relaxed);
        now >= due
            && self
                .due
                .compare_exchange(
                    due,
                    now + millis(PAUSE),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok()
    }
}

impl FileStamp {
    /// The stamp of a file, if it exists, and whether it is settled: within one tick of the clock a file may change
    /// twice.
    fn of(path: &Path) -> (Option<Self>, bool) {
        let Ok(about) = fs::metadata(path) else {
            return (None, true);
        };
        // The ctime, which programs cannot set.
        let changed = UNIX_EPOCH + Duration::from_secs(u64::try_from(about.ctime()).unwrap_or(0));
        let age = SystemTime::now().duration_since(changed);
        let settled = age.is_ok_and(|age| age >= TICK);
        let stamp = Self {
            inode: (about.dev(), about.ino()),
            size: about.size(),
            modified: (about.mtime(), about.mtime_nsec()),
            changed: (about.ctime(), about.ctime_nsec()),
        };
        (Some(stamp), settled)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 2)
}

impl fmt::Display for FileError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.path.display(), self.why)
    }
}

impl std::error::Error for FileError {}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Watched").field(&self.path).finish()
    }
}

/// The interval between checks.
const PAUSE: Duration = Duration::from_secs(1);
/// An upper bound for the granularity of file times.
const TICK: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn text(bytes: &[u8]) -> Result<String, String> {
        match bytes {
            b"bad" => Err("bad".into()),
            bytes => Ok(String::from_utf8_lossy(bytes).into_owned()),
        }
    }

    #[test]
    fn a_file_is_read_again_when_it_has_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let open = || Watched::open(&path, 5, text);
        assert_eq!(open().unwrap_err().why, "no such file or directory");
        fs::write(&path, "larger").unwrap();
        assert_eq!(open().unwrap_err().why, "larger than 5");
        fs::write(&path, "one").unwrap();
        let watched = open().unwrap();
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        fs::write(&path, "two").unwrap();
        assert_eq!(*watched.get(start), "one");
        assert_eq!(*watched.get(later(2)), "two");
        // It is checked once per second at most.
        fs::write(&path, "three").unwrap();
        assert_eq!(*watched.get(later(2)), "two");
        assert_eq!(*watched.get(later(4)), "three");
        for broken in ["bad", "larger"] {
            fs::write(&path, broken).unwrap();
            watched.check();
            assert_eq!(*watched.get(start), "three");
        }
        fs::remove_file(&path).unwrap();
        watched.check();
        assert_eq!(*watched.get(start), "three");
        fs::write(&path, "four").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        watched.check();
        assert_eq!(*watched.get(start), "four");
    }

    #[test]
    fn what_has_not_changed_stays_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "one").unwrap();
        let watched = Watched::open(&path, 5, text).unwrap();
        let first = watched.get(Instant::now());
        let is_first = || Arc::ptr_eq(&first, &watched.get(Instant::now()));
        // It was changed just now, so it is read again, and is the same.
        watched.check();
        assert!(is_first());
        fs::write(&path, "one").unwrap();
        watched.check();
        assert!(is_first());
        fs::write(&path, "bad").unwrap();
        watched.check();
        assert!(is_first());
        fs::write(&path, "two").unwrap();
        watched.check();
        assert!(!is_first());
    }

    #[test]
    fn flags_go_up_and_down() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flag");
        let flag = Flag::new(&path);
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        assert!(!flag.is_up(later(2)));
        fs::write(&path, "").unwrap();
        assert!(!flag.is_up(later(2)));
        assert!(flag.is_up(later(4)));
        fs::remove_file(&path).unwrap();
        assert!(flag.is_up(later(4)));
        assert!(!flag.is_up(later(6)));
    }
}
