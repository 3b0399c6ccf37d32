//! A connection that is not a backend yet: what it has sent, and what it is sent.
//!
//! Normally that is a preamble, and nothing is sent. A program whose id is a name understands a [`ServerLine`]: it is asked
//! for the whole name if the id is an abbreviation, and learns why it is refused.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Instant;

use crate::backend::identity::BackendIdentity;
use crate::net::conn::Conn;
use crate::net::stream::Peer;
use crate::preamble::{
    self, LONGEST_NAME, Name, Preamble, PreambleError, PreambleReading, RefusalKind, ServerLine,
};
use crate::stats::Close;

/// A connection that is not a backend yet.
#[derive(Debug)]
pub(super) struct Newcomer<A> {
    /// Where it has connected.
    pub(super) address: Arc<A>,
    pub(super) conn: Conn,
    pub(super) peer: Peer,
    /// The part of the preamble, or of the name, that was received.
    pub(super) bytes: Vec<u8>,
    /// Its preamble: it was asked for its name.
    asked: Option<Preamble>,
    /// It understands a [`ServerLine`].
    understands_lines: bool,
    pub(super) deadline: Instant,
    /// See [`Pool::verification`](crate::backend::pool::Pool::verification).
    pub(super) verified: u64,
}

/// What a newcomer becomes.
#[derive(Debug)]
pub(super) enum NewcomerProgress {
    /// More bytes are needed.
    Waits,
    /// A backend.
    Joins(BackendIdentity),
    /// Nothing, for this reason.
    Refused(Close, String),
    /// Nothing: it has closed the connection.
    Left,
}

impl<A> Newcomer<A> {
    pub(super) const fn new(
        address: Arc<A>,
        conn: Conn,
        peer: Peer,
        deadline: Instant,
        verified: u64,
    ) -> Self {
        Self {
            address,
            conn,
            peer,
            bytes: Vec::new(),
            asked: None,
            understands_lines: false,
            deadline,
            verified,
        }
    }

    /// Reads what has arrived, and no more than the longest preamble needs: what follows stays in the socket, where it is
    /// noticed before the backend is used.
    ///
    /// `keys`: those of the address.
    pub(super) fn read(&mut self, keys: impl Fn() -> Arc<[Box<[u8]>]>) -> NewcomerProgress {
        let mut bytes = [0; preamble::LONGEST];
        let room = preamble::LONGEST - self.bytes.len();
        match self.conn.read_now(&mut bytes[..room]) {
            Ok(None) => NewcomerProgress::Waits,
            Ok(Some(count @ 1..)) => {
                self.bytes.extend_from_slice(&bytes[..count]);
                match self.asked.take() {
                    None => self.read_preamble(&keys()),
                    Some(preamble) => self.read_name(preamble),
                }
            }
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                NewcomerProgress::Refused(Close::TlsFailed, error.to_string())
            }
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                // So that it can be sent the reason.
                self.conn.give_up_tls();
                if let Ok(Some(count)) = self.conn.read_now(&mut bytes) {
                    self.understands_lines = preamble::understands_lines(&bytes[..count]);
                }
                NewcomerProgress::Refused(Close::TlsFailed, "plain text instead of TLS".to_owned())
            }
            Ok(Some(0)) | Err(_) => NewcomerProgress::Left,
        }
    }

    fn read_preamble(&mut self, keys: &[Box<[u8]>]) -> NewcomerProgress {
        self.understands_lines = preamble::understands_lines(&self.bytes);
        match preamble::read(&self.bytes, keys) {
            PreambleReading::Partial => NewcomerProgress::Waits,
            PreambleReading::Refused(fault) => {
                let close = match fault {
                    PreambleError::Key => Close::BadKey,
                    _ => Close::BadPreamble,
                };
                NewcomerProgress::Refused(close, fault.to_string())
            }
            PreambleReading::Complete(preamble) if self.has_more_than(preamble.length) => {
                NewcomerProgress::Refused(Close::Junk, "bytes behind the preamble".to_owned())
            }
            PreambleReading::Complete(preamble) if preamble.id.is_abbreviated() => {
                // Nothing else was written, so there is room.
                let _ = self.conn.write_now(&ServerLine::AskName.write());
                self.bytes.clear();
                self.asked = Some(preamble);
                NewcomerProgress::Waits
            }
            PreambleReading::Complete(preamble) => self.join(preamble, None),
        }
    }

    fn read_name(&mut self, preamble: Preamble) -> NewcomerProgress {
        let Some(end) = memchr::memchr(b'\n', &self.bytes) else {
            if self.bytes.len() > LONGEST_NAME {
                return NewcomerProgress::Refused(
                    Close::BadPreamble,
                    "its name is too long".to_owned(),
                );
            }
            self.asked = Some(preamble);
            return NewcomerProgress::Waits;
        };
        if self.has_more_than(end + 1) {
            return NewcomerProgress::Refused(Close::Junk, "bytes behind the name".to_owned());
        }
        let text = str::from_utf8(&self.bytes[..end]).unwrap_or_default();
        match Name::new(text) {
            Ok(name) => self.join(preamble, Some(name)),
            Err(error) => NewcomerProgress::Refused(Close::BadPreamble, error.to_string()),
        }
    }

    fn join(&self, preamble: Preamble, name: Option<Name>) -> NewcomerProgress {
        NewcomerProgress::Joins(BackendIdentity {
            id: preamble.id,
            name,
            key: preamble.key,
            peer: self.peer,
        })
    }

    fn has_more_than(&mut self, length: usize) -> bool {
        length < self.bytes.len() || self.conn.has_unread()
    }

    /// Sends the reason why it is closed, if it understands that.
    pub(super) fn send_refusal(&mut self, close: Close, why: &str) {
        if !self.understands_lines {
            return;
        }
        let kind = match close {
            Close::BadKey => RefusalKind::Key,
            Close::Overload => RefusalKind::Full,
            _ => RefusalKind::Other,
        };
        // There is room, unless the peer does not read.
        let _ = self.conn.write_now(&ServerLine::refused(kind, why).write());
    }
}
