//! Opens the file for a request path below a root, safely.
//!
//! Two things keep a client inside: [`normal`] refuses every path that the system could understand differently, and
//! the system resolves the rest with `openat2(2)`, component by component from an open directory, so that a link
//! placed within the path cannot lead outside.
//!
//! **Invariants**: [`Root::open`] returns regular files only; opening one never waits, whatever is at the path.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{self, AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use parking_lot::{Mutex, RwLock};

use super::entity::FileIdentity;
use crate::config::Symlinks;

/// A directory below which files are served.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    how: OpenHow,
    /// Which links are followed.
    resolve: ResolveFlag,
    handle: RwLock<Option<Handle>>,
    /// Held while the directory is opened, so that an older result never replaces a newer one.
    reopening: Mutex<()>,
    /// Increases each time another directory is found at the path.
    generation: AtomicU64,
    /// A failure to open files here was logged.
    failure_logged: AtomicBool,
}

/// The directory as it is now; a deployment may replace it.
#[derive(Clone, Debug)]
struct Handle {
    directory: Option<Arc<OwnedFd>>,
    /// Device and inode. While the descriptor is open, no other directory gets the same ones.
    identity: Option<(u64, u64)>,
    opened: Instant,
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
}

/// Normalises a decoded path: it starts with a slash and has no doubled slashes. `None`: no file can have this path.
///
/// Refuses `.` and `..`, NUL, backslashes, paths without a leading slash and, unless `hidden`, names that start with a
/// dot, except `.well-known` at the top (RFC 8615).
pub fn normal(decoded: &[u8], hidden: bool) -> Option<Cow<'_, [u8]>> {
    let inner = decoded.strip_prefix(b"/")?;
    if memchr::memchr2(0, b'\\', inner).is_some() {
        return None;
    }
    let mut is_top = true;
    for part in inner.split(|byte| *byte == b'/') {
        match part {
            b"" => continue,
            b"." | b".." => return None,
            b".well-known" if is_top => {}
            [b'.', ..] if !hidden => return None,
            _ => {}
        }
        is_top = false;
    }
    if !decoded.windows(2).any(|two| two == b"//") {
        return Some(Cow::Borrowed(decoded));
    }
    let mut path = Vec::with_capacity(decoded.len());
    for byte in decoded {
        if *byte != b'/' || path.last() != Some(&b'/') {
            path.push(*byte);
        }
    }
    Some(Cow::Owned(path))
}

impl Root {
    /// The root at this path; the directory need not exist yet.
    pub fn new(path: &Path, links: Symlinks) -> Self {
        let resolve = match links {
            Symlinks::Inside => ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS,
            Symlinks::None => ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS,
            Symlinks::All => ResolveFlag::RESOLVE_NO_MAGICLINKS,
        };
        // Without O_NONBLOCK, opening a pipe would wait for a writer.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        Self {
            path: path.to_owned(),
            how: OpenHow::new().flags(flags).resolve(resolve),
            resolve,
            handle: RwLock::new(None),
            reopening: Mutex::new(()),
            generation: AtomicU64::new(0),
            failure_logged: AtomicBool::new(false),
        }
    }

    /// The path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path without symbolic links of the directory that is open, so that a link to it may change during a request.
    pub fn real_path(&self, now: Instant) -> PathBuf {
        let open = self.directory(now);
        let link = open.map(|open| format!("/proc/self/fd/{}", open.as_raw_fd()));
        let real = link.and_then(|link| fs::read_link(link).ok());
        real.unwrap_or_else(|| self.path.clone())
    }

    /// Opens the directory, to find out at the start whether that is possible.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub fn reopen(&self, now: Instant) -> Result<(), Errno> {
        let _one = self.reopening.lock();
        self.replace(now)
    }

    /// A number that changes when another directory, or none, is found at the path. Checks the path at most once a
    /// second; other calls take no system call.
    pub fn generation(&self, now: Instant) -> u64 {
        let is_open = match &*self.handle.read() {
            Some(handle) if now.saturating_duration_since(handle.opened) < REOPEN => {
                return self.generation.load(Ordering::Acquire);
            }
            handle => handle.is_some(),
        };
        if is_open {
            // While one thread checks, the others use the directory that is known.
            if let Some(_one) = self.reopening.try_lock() {
                let _ = self.replace(now);
            }
        } else {
            let _ = self.reopen(now);
        }
        self.last_generation()
    }

    /// The generation as of the last check.
    pub fn last_generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn replace(&self, now: Instant) -> Result<(), Errno> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = fcntl::open(&self.path, flags, Mode::empty());
        let (directory, result) = match opened {
            Ok(directory) => (Some(Arc::new(directory)), Ok(())),
            Err(error) => (None, Err(error)),
        };
        let about = directory.as_ref().and_then(|open| fstat(open).ok());
        let identity = about.map(|about| (about.st_dev, about.st_ino));
        let new = Handle {
            directory,
            identity,
            opened: now,
        };
        let mut handle = self.handle.write();
        if handle.as_ref().and_then(|old| old.identity) != identity {
            self.generation.fetch_add(1, Ordering::Release);
        }
        let old = handle.replace(new);
        drop(handle);
        // Closed here, outside the lock.
        drop(old);
        result
    }

    /// Closes the directory until it is needed again.
    pub fn close(&self) {
        let old = self.handle.write().take();
        drop(old);
    }

    /// What is at a relative path, as far as is visible without opening it: a quick way to find out that nothing is
    /// there. `None`: nothing that could be served.
    ///
    /// # Errors
    /// Those of `fstatat(2)`, unless they mean that the file does not exist.
    pub fn kind(&self, path: &[u8], now: Instant) -> Result<Option<FileKind>, Errno> {
        let Some(directory) = self.directory(now) else {
            return Ok(None);
        };
        let kind = match fstatat(&*directory, path, AtFlags::empty()) {
            Ok(about) => match about.st_mode & libc::S_IFMT {
                libc::S_IFREG => Some(FileKind::File),
                libc::S_IFDIR => Some(FileKind::Directory),
                _ => None,
            },
            Err(error) => self.absent(error)?,
        };
        Ok(kind)
    }

    /// Opens the regular file at a relative path that is part of a result of [`normal`]. `None`: there is none, or it
    /// must not be served.
    ///
    /// # Errors
    /// Those of `openat2(2)`, unless they mean that the file does not exist.
    pub fn open(&self, path: &[u8], now: Instant) -> Result<Option<(File, FileIdentity)>, Errno> {
        let Some(directory) = self.directory(now) else {
            return Ok(None);
        };
        let mut tries = 0;
        let file = loop {
            match openat2(&*directory, path, self.how) {
                Ok(file) => break file,
                // A rename at the same time has interfered with the resolution.
                Err(Errno::EAGAIN | Errno::EINTR) if tries < MOST_TRIES => tries += 1,
                Err(Errno::EAGAIN) => return Ok(None),
                Err(error) => return self.absent(error),
            }
        };
        let about = fstat(&file)?;
        if about.st_mode & libc::S_IFMT != libc::S_IFREG {
            return Ok(None);
        }
        Ok(Some((File::from(file), identity(&about))))
    }

    /// The names in the directory at a relative path, which is empty for the root. `None`: there is none, or it must not
    /// be served.
    ///
    /// # Errors
    /// Those of `openat2(2)` and `getdents(2)`, unless they mean that the directory does not exist.
    pub fn list(&self, path: &[u8], now: Instant) -> Result<Option<Vec<Vec<u8>>>, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let Some(directory) = self.resolve(path, flags, now)? else {
            return Ok(None);
        };
        let mut names = Vec::new();
        for entry in Dir::from_fd(directory)?.iter() {
            let entry = entry?;
            match entry.file_name().to_bytes() {
                b"." | b".." => {}
                name => names.push(name.to_vec()),
            }
        }
        Ok(Some(names))
    }

    /// What is at a relative path, which a client may see. `None`: nothing that could be served.
    ///
    /// # Errors
    /// Those of `openat2(2)`, unless they mean that the file does not exist.
    pub fn look(
        &self,
        path: &[u8],
        now: Instant,
    ) -> Result<Option<(FileKind, FileIdentity)>, Errno> {
        let Some(file) = self.resolve(path, OFlag::O_PATH | OFlag::O_CLOEXEC, now)? else {
            return Ok(None);
        };
        let about = fstat(&file)?;
        let kind = match about.st_mode & libc::S_IFMT {
            libc::S_IFREG => FileKind::File,
            libc::S_IFDIR => FileKind::Directory,
            _ => return Ok(None),
        };
        Ok(Some((kind, identity(&about))))
    }

    fn resolve(&self, path: &[u8], flags: OFlag, now: Instant) -> Result<Option<OwnedFd>, Errno> {
        let Some(directory) = self.directory(now) else {
            return Ok(None);
        };
        match openat2(
            &*directory,
            path,
            OpenHow::new().flags(flags).resolve(self.resolve),
        ) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(error) => self.absent(error),
        }
    }

    /// The directory; opens it again at intervals.
    fn directory(&self, now: Instant) -> Option<Arc<OwnedFd>> {
        // If it cannot be opened, there are no files.
        self.generation(now);
        self.handle.read().as_ref()?.directory.clone()
    }

    /// Whether an error only means that there is no file to serve.
    fn absent<T>(&self, error: Errno) -> Result<Option<T>, Errno> {
        match error {
            Errno::ENOENT
            | Errno::ENOTDIR
            | Errno::ELOOP
            | Errno::EXDEV
            | Errno::EACCES
            | Errno::ENAMETOOLONG
            | Errno::EINVAL
            | Errno::ENXIO
            | Errno::ENODEV => Ok(None),
            Errno::ENOSYS | Errno::EPERM => {
                if !self.failure_logged.swap(true, Ordering::Relaxed) {
                    let path = self.path.display();
                    log::error!(
                        "{path}: {error}: files need openat2(2), Linux 5.6; none is served"
                    );
                }
                Ok(None)
            }
            error => Err(error),
        }
    }
}

/// The identity of an open file.
///
/// # Errors
/// Those of `fstat(2)`.
pub fn identify(file: &impl AsFd) -> Result<FileIdentity, Errno> {
    fstat(file).map(|about| identity(&about))
}

fn identity(about: &FileStat) -> FileIdentity {
    FileIdentity {
        file: (about.st_dev, about.st_ino),
        size: u64::try_from(about.st_size).unwrap_or(0),
        modified: (about.st_mtime, about.st_mtime_nsec),
        changed: (about.st_ctime, about.st_ctime_nsec),
    }
}

/// The interval between checks of the root's path.
const REOPEN: Duration = Duration::from_secs(1);
/// How often a path is resolved again if renames interfere.
const MOST_TRIES: u32 = 16;

/// The first bytes of a file, fewer only if it has no more.
pub(super) fn read(file: &File, length: u64) -> io::Result<Vec<u8>> {
    // Only small files are read.
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

pub(super) fn errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn paths() {
        let check = |decoded: &str, hidden: bool, expected: Option<&str>| {
            let found = normal(decoded.as_bytes(), hidden);
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{decoded:?}");
        };
        for path in [
            "/", "/a", "/a/", "/a/b.c", "/a...", "/a..b/c", "/ä", "/a b", "/\u{1}", "/%2e%2e",
        ] {
            check(path, false, Some(path));
        }
        check("//", false, Some("/"));
        check("//a", false, Some("/a"));
        check("/a//b///", false, Some("/a/b/"));
        for path in [
            "",
            "a",
            "*",
            "/..",
            "/../a",
            "/a/..",
            "/a/../b",
            "/.",
            "/./a",
            "/a/./b",
            "/a/.",
            "//..",
            "/\\",
            "/a\\..\\b",
            "/\0",
            "/a\0.html",
        ] {
            check(path, false, None);
            check(path, true, None);
        }
        for path in ["/.git/config", "/a/.b", "/.htpasswd", "/...", "/..a"] {
            check(path, false, None);
            check(path, true, Some(path));
        }
        for path in ["/.well-known/a", "/.well-known/a/b"] {
            check(path, false, Some(path));
        }
        check("//.well-known//a", false, Some("/.well-known/a"));
        for path in [
            "/a/.well-known/b",
            "/.well-known/.a",
            "/.well-known/.well-known/a",
            "/.well-knownx",
        ] {
            check(path, false, None);
        }
    }

    /// What stands at a path below `www`, beside which there are secrets.
    fn read(root: &Root, path: &str) -> Option<String> {
        let now = Instant::now();
        let found = root.open(path.as_bytes(), now).unwrap();
        let mut text = String::new();
        found.map(|(mut file, identity)| {
            file.read_to_string(&mut text).unwrap();
            assert_eq!(identity.size, text.len() as u64);
            text
        })
    }

    #[test]
    fn links_and_what_is_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let www = folder.path().join("www");
        fs::create_dir_all(www.join("sub")).unwrap();
        fs::create_dir(folder.path().join("www-secret")).unwrap();
        fs::write(www.join("a"), "A").unwrap();
        fs::write(www.join("sub/b"), "B").unwrap();
        fs::write(folder.path().join("secret"), "S").unwrap();
        fs::write(folder.path().join("www-secret/s"), "S").unwrap();
        symlink("sub/b", www.join("in")).unwrap();
        symlink("../a", www.join("sub/up")).unwrap();
        symlink("../secret", www.join("out")).unwrap();
        symlink("../www-secret", www.join("away")).unwrap();
        symlink(www.join("a"), www.join("absolute")).unwrap();
        symlink("loop", www.join("loop")).unwrap();
        mkfifo(&www.join("pipe"), Mode::S_IRWXU).unwrap();
        let check = |links, expected: [Option<&str>; 6]| {
            let root = Root::new(&www, links);
            let paths = ["in", "sub/up", "out", "away/s", "absolute", "loop"];
            let found = paths.map(|path| read(&root, path));
            assert_eq!(
                found.each_ref().map(|text| text.as_deref()),
                expected,
                "{links:?}"
            );
            assert_eq!(read(&root, "a").as_deref(), Some("A"));
            for path in [
                "",
                "sub",
                "sub/",
                "pipe",
                "a/",
                "a/b",
                "nothing",
                "/etc/passwd",
            ] {
                if links != Symlinks::All || !path.starts_with('/') {
                    assert_eq!(read(&root, path), None, "{path}");
                }
            }
            assert_eq!(read(&root, &"x".repeat(300)), None);
            assert_eq!(read(&root, &"x/".repeat(3000)), None);
        };
        let (a, b, s) = (Some("A"), Some("B"), Some("S"));
        check(Symlinks::Inside, [b, a, None, None, None, None]);
        check(Symlinks::None, [None; 6]);
        check(Symlinks::All, [b, a, s, s, a, None]);
    }

    #[test]
    fn a_directory_in_the_place_of_another() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("one", "1"), ("two", "2")] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("a"), text).unwrap();
        }
        let current = folder.path().join("current");
        let root = Root::new(&current, Symlinks::Inside);
        let now = Instant::now();
        assert!(root.open(b"a", now).unwrap().is_none());
        let text = |name: &str, later: Instant| {
            let _ = fs::remove_file(&current);
            symlink(name, &current).unwrap();
            let mut text = String::new();
            let (mut file, _) = root.open(b"a", later).unwrap().unwrap();
            file.read_to_string(&mut text).unwrap();
            text
        };
        assert_eq!(text("one", now + REOPEN), "1");
        assert_eq!(text("two", now + REOPEN), "1");
        assert_eq!(text("two", now + 2 * REOPEN), "2");
    }
}
