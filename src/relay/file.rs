//! Sends a file, from memory or from disk, without waiting.
//!
//! A file needs no spool: what the client does not take stays where it is, and the exchange is parked with its position
//! in the file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::exchange::{FileBody, FilePart, StoredFile};
use crate::net::buffer::Buffer;
use crate::net::conn::Conn;
use crate::stats::Close;

/// What is left to be sent of a file.
pub(super) enum FileContent {
    Stored(Arc<StoredFile>, Range<usize>),
    OnDisk(FileBody),
}

/// How much of the available bytes the client has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    /// All of it.
    All,
    /// There is no room for more; the poller reports when there is.
    Full,
    /// So much that others should run first.
    Turn,
}

impl FileContent {
    /// Drops the content: only the head is to be sent.
    pub(super) fn clear(&mut self) {
        match self {
            Self::Stored(_, range) => *range = 0..0,
            Self::OnDisk(body) => body.pieces.clear(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Stored(_, range) => range.is_empty(),
            Self::OnDisk(body) => body.pieces.is_empty(),
        }
    }

    /// Appends the whole file to the head if it is small, so that one write suffices. Returns its length.
    pub(super) fn join(&mut self, out: &mut Vec<u8>) -> Result<u64, Close> {
        match self {
            Self::Stored(stored, range) if range.len() <= JOINED => {
                out.extend_from_slice(&stored.bytes[range.clone()]);
                let count = range.len();
                *range = 0..0;
                Ok(count as u64)
            }
            Self::OnDisk(body) if body.length() <= Buffer::SIZE as u64 => {
                let head = out.len();
                for piece in std::mem::take(&mut body.pieces) {
                    match piece {
                        FilePart::Text(text) => out.extend_from_slice(&text),
                        FilePart::Range(range) => read_behind(&body.file, range, out)?,
                    }
                }
                Ok((out.len() - head) as u64)
            }
            _ => Ok(0),
        }
    }

    /// Writes a head and as much of the file as fits behind it. Returns how many bytes of both were taken.
    pub(super) fn write_with_head(&self, head: &[u8], conn: &mut Conn) -> io::Result<usize> {
        match self {
            Self::Stored(stored, range) => conn.write_both_now(head, &stored.bytes[range.clone()]),
            Self::OnDisk(_) => conn.write_more_now(head),
        }
    }

    /// Advances a file in memory by `count` bytes.
    pub(super) const fn took(&mut self, count: usize) {
        if let Self::Stored(_, range) = self {
            range.start += count;
        }
    }

    /// Writes as much as the client takes, up to the limit after which others run. Adds that to `taken`.
    pub(super) fn send(
        &mut self,
        conn: &mut Conn,
        block: &mut Vec<u8>,
        taken: &mut u64,
    ) -> Result<Flushed, Close> {
        let gone = |_| Close::WriteFailed;
        if matches!(self, Self::OnDisk(_)) && !conn.is_secure() {
            conn.never_wait().map_err(gone)?;
        }
        while *taken < TURN && !self.is_empty() {
            let count = match self {
                Self::Stored(stored, range) => {
                    let count = conn.write_now(&stored.bytes[range.clone()]).map_err(gone)?;
                    range.start += count;
                    count
                }
                Self::OnDisk(body) => send_piece(body, conn, block)?,
            };
            if count == 0 {
                return Ok(Flushed::Full);
            }
            *taken += count as u64;
        }
        Ok(match self.is_empty() {
            true => Flushed::All,
            false => Flushed::Turn,
        })
    }
}

/// Writes what the client takes of the next piece. 0: there is no room.
fn send_piece(body: &mut FileBody, conn: &mut Conn, block: &mut Vec<u8>) -> Result<usize, Close> {
    let FileBody { file, pieces } = body;
    let is_last = pieces.len() == 1;
    let Some(piece) = pieces.front_mut() else {
        return Ok(0);
    };
    let (count, done) = match piece {
        FilePart::Text(text) => {
            let count = match is_last {
                true => conn.write_now(text),
                false => conn.write_more_now(text),
            };
            let count = count.map_err(|_| Close::WriteFailed)?;
            text.drain(..count);
            (count, text.is_empty())
        }
        FilePart::Range(range) => {
            let most = (range.end - range.start).min(TURN);
            let sent = match conn.is_secure() {
                true => None,
                // Bounded by the line above.
                false => match conn.send_file_now(file, range.start, most as usize) {
                    Ok(Some(0)) => return Err(Close::FileFailed),
                    // Not supported by this file system.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => None,
                    Err(error) if error.raw_os_error() == Some(nix::libc::EIO) => {
                        return Err(Close::FileFailed);
                    }
                    Err(_) => return Err(Close::WriteFailed),
                    Ok(sent) => Some(sent.unwrap_or(0)),
                },
            };
            let count = match sent {
                Some(count) => count,
                None => {
                    block.clear();
                    let end = range.start + most.min(Buffer::SIZE as u64);
                    read_behind(file, range.start..end, block)?;
                    conn.write_now(block).map_err(|_| Close::WriteFailed)?
                }
            };
            range.start += count as u64;
            (count, range.is_empty())
        }
    };
    if done {
        pieces.pop_front();
    }
    Ok(count)
}

/// Takes the next bytes of a file on disk, as many as `room` holds. 0: there are no more.
pub(super) fn take(body: &mut FileBody, room: &mut [u8]) -> Result<usize, Close> {
    let FileBody { file, pieces } = body;
    let Some(piece) = pieces.front_mut() else {
        return Ok(0);
    };
    let (count, done) = match piece {
        FilePart::Text(text) => {
            let count = text.len().min(room.len());
            room[..count].copy_from_slice(&text[..count]);
            text.drain(..count);
            (count, text.is_empty())
        }
        FilePart::Range(range) => {
            let count = (range.end - range.start).min(room.len() as u64) as usize;
            let read = file.read_exact_at(&mut room[..count], range.start);
            read.map_err(|_| Close::FileFailed)?;
            range.start += count as u64;
            (count, range.is_empty())
        }
    };
    if done {
        pieces.pop_front();
    }
    Ok(count)
}

/// Reads a small part of a file and appends it.
fn read_behind(file: &File, range: Range<u64>, out: &mut Vec<u8>) -> Result<(), Close> {
    let start = out.len();
    // One block at most.
    out.resize(start + (range.end - range.start) as usize, 0);
    file.read_exact_at(&mut out[start..], range.start)
        .map_err(|_| {
            out.truncate(start);
            Close::FileFailed
        })
}

/// The largest part of a file in memory that is copied behind the head rather than written separately.
const JOINED: usize = 4 * 1024;
/// Bytes of a file that are written before others run.
const TURN: u64 = 2 << 20;
