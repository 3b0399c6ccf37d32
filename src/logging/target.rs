//! The targets of logs: files and the standard streams.

use std::error::Error;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc::{O_NOCTTY, O_NONBLOCK};

use crate::process::reason;

/// A target of lines.
pub(super) enum LogTarget {
    File {
        file: File,
        /// Not a regular file, so that others may write to it too.
        is_shared: bool,
    },
    /// A file that is opened for each write.
    Named(PathBuf),
    Stdout,
    Stderr,
}

impl LogTarget {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = append(path)?;
        let is_shared = !file.metadata()?.is_file();
        Ok(Self::File { file, is_shared })
    }

    pub(super) const fn is_shared(&self) -> bool {
        match self {
            Self::File { is_shared, .. } => *is_shared,
            Self::Named(_) => false,
            Self::Stdout | Self::Stderr => true,
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File { file, .. } => file.write(bytes),
            Self::Named(path) => append(path)?.write(bytes),
            // Not through the standard library, which would keep unwritten bytes until the end of the program.
            Self::Stdout => write_stream(io::stdout().as_fd(), bytes),
            Self::Stderr => write_stream(io::stderr().as_fd(), bytes),
        }
    }
}

fn write_stream(stream: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    match nix::unistd::write(stream, bytes) {
        // The stream was closed before the program started.
        Err(Errno::EBADF) => Ok(bytes.len()),
        result => Ok(result?),
    }
}

/// Opens a file for appending, such that neither opening nor writing waits for a reader.
fn append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .append(true)
        .create(true)
        // The umask is applied to this.
        .mode(0o644)
        .custom_flags(O_NONBLOCK | O_NOCTTY);
    let is_fifo = fs::metadata(path).is_ok_and(|data| data.file_type().is_fifo());
    if is_fifo {
        // Open a FIFO for reading too: then it opens without a reader, and readers may come and go.
        match options.clone().read(true).open(path) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
            result => return result,
        }
    }
    options.open(path)
}

/// A log file that could not be opened.
#[derive(Debug)]
pub struct OpenError {
    /// The name in messages.
    pub(super) name: String,
    pub(super) cause: io::Error,
}

impl fmt::Display for OpenError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = reason(&self.cause);
        write!(out, "{}: {why}", self.name)
    }
}

impl Error for OpenError {}
