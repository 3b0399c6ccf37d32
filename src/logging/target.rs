//! The targets of logs: files, the standard streams, and the socket of a syslog daemon.

use std::error::Error;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc::{O_NOCTTY, O_NONBLOCK};

use crate::config::LogDestination;
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
    /// The socket of a syslog daemon, which need not run yet.
    Syslog {
        path: PathBuf,
        socket: Option<UnixDatagram>,
    },
    Stdout,
    Stderr,
}

impl LogTarget {
    /// Opens a destination. `None`: a standard stream.
    pub(super) fn open(to: &LogDestination) -> Option<io::Result<Self>> {
        match to {
            LogDestination::Standard => None,
            LogDestination::File(path) => Some(Self::open_file(path)),
            LogDestination::Syslog(syslog) => Some(Ok(Self::syslog(&syslog.socket))),
        }
    }

    /// A target for a few late lines, which keeps nothing open until then. `None`: a standard stream.
    pub(super) fn reopening(to: &LogDestination) -> Option<Self> {
        match to {
            LogDestination::Standard => None,
            LogDestination::File(path) => Some(Self::Named(path.clone())),
            LogDestination::Syslog(syslog) => Some(Self::syslog(&syslog.socket)),
        }
    }

    fn open_file(path: &Path) -> io::Result<Self> {
        let file = append(path)?;
        let is_shared = !file.metadata()?.is_file();
        Ok(Self::File { file, is_shared })
    }

    fn syslog(path: &Path) -> Self {
        Self::Syslog {
            path: path.to_owned(),
            socket: None,
        }
    }

    /// How much may be written at once.
    pub(super) const fn unit(&self) -> WriteUnit {
        match self {
            Self::File {
                is_shared: false, ..
            }
            | Self::Named(_) => WriteUnit::Bytes,
            Self::File { .. } | Self::Stdout | Self::Stderr => WriteUnit::Lines,
            Self::Syslog { .. } => WriteUnit::Line,
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File { file, .. } => file.write(bytes),
            Self::Named(path) => append(path)?.write(bytes),
            Self::Syslog { path, socket } => send(path, socket, bytes),
            // Not through the standard library, which would keep unwritten bytes until the end of the program.
            Self::Stdout => write_stream(io::stdout().as_fd(), bytes),
            Self::Stderr => write_stream(io::stderr().as_fd(), bytes),
        }
    }
}

/// Sends one line as a datagram. If the daemon was restarted, connects again first.
fn send(path: &Path, socket: &mut Option<UnixDatagram>, line: &[u8]) -> io::Result<usize> {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    if let Some(open) = socket {
        match open.send(text) {
            Ok(_) => return Ok(line.len()),
            Err(error) if is_temporary(&error) => return Err(error),
            Err(_) => *socket = None,
        }
    }
    let new = UnixDatagram::unbound()?;
    new.set_nonblocking(true)?;
    new.connect(path)?;
    let sent = socket.insert(new).send(text);
    sent.map(|_| line.len())
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn write_stream(stream: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    match nix::unistd::write(stream, bytes) {
        // The stream was closed before the program started.
        Err(Errno::EBADF) => Ok(bytes.len()),
        result => Ok(result?),
    }
}

/// How much may be written at once.
pub(super) enum WriteUnit {
    /// Any number of bytes.
    Bytes,
    /// Whole lines, since others write to the same place.
    Lines,
    /// One line.
    Line,
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
