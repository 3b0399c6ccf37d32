//! Sending a file: from memory or from disk, without waiting.
//!
//! A file needs no spool: what the visitor does not take stays where it is, and the exchange parks with its place in it.

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

/// How far a visitor has taken what is at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    /// All of it.
    All,
    /// There is no room for more; the poller reports when there is.
    Full,
    /// So much that others should have their turn.
    Turn,
}

impl FileContent {
    /// Nothing of it is to be sent.
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

    /// Puts all of it behind the head, if it is small, so that one write will do. Returns how much that is.
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

    /// Writes a head and as much as fits behind it. Returns how much of both was taken.
    pub(super) fn write_with_head(&self, head: &[u8], conn: &mut Conn) -> io::Result<usize> {
        match self {
            Self::Stored(stored, range) => conn.write_both_now(head, &stored.bytes[range.clone()]),
            Self::OnDisk(_) => conn.write_more_now(head),
        }
    }

    /// So many bytes of a file in memory were written.
    pub(super) const fn took(&mut self, count: usize) {
        if let Self::Stored(_, range) = self {
            range.start += count;
        }
    }

    /// Writes as much as the visitor takes and as is due before others have their turn; adds that to `taken`.
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

/// Writes what the visitor takes of the next piece. 0: there is no room.
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
                    // Some file systems cannot do that.
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

/// Takes the next bytes of a file on disk, as many as there is room for. 0: there are no more.
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

/// Reads a small part of a file, behind what there is.
fn read_behind(file: &File, range: Range<u64>, out: &mut Vec<u8>) -> Result<(), Close> {
    let start = out.len();
    // A block at the most.
    out.resize(start + (range.end - range.start) as usize, 0);
    file.read_exact_at(&mut out[start..], range.start)
        .map_err(|_| {
            out.truncate(start);
            Close::FileFailed
        })
}

/// So much of a file in memory is rather copied than written in two pieces.
const JOINED: usize = 4 * 1024;
/// So much of a file is written before others have their turn.
const TURN: u64 = 2 << 20;
