//! What the phases of an exchange share: the request, its limits, the buffers that are lent to them, what they wait for, and
//! why they fail.

use std::io;
use std::time::{Duration, Instant};

use super::spool::Room;
use crate::exchange::{RequestBody, UploadError};
use crate::http::head::{HeadLimits, RequestHead};
use crate::net::buffer::Buffer;
use crate::net::conn::Conn;
use crate::net::poller::Interest;

/// A request as it is sent to a backend.
#[derive(Clone, Copy)]
pub struct RelayRequest<'r> {
    /// Its head.
    pub head: &'r RequestHead,
    /// Its body.
    pub body: &'r RequestBody,
    /// Times and limits.
    pub rules: &'r Rules,
}

/// Times and limits of an exchange.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How long a backend may take for the first byte of its response, once it has the request.
    pub first_byte: Duration,
    /// How long a backend may make no progress.
    pub backend: Duration,
    /// A silence of this length ends a response that has no length and does not end with its connection.
    pub unframed_gap: Duration,
    /// Limits of the head of a response.
    pub limits: HeadLimits,
    /// Bodies of responses of at most this many bytes are waited for, up to a second, before anything is passed on: until
    /// then the request can still be repeated.
    pub gathered: u64,
}

/// Why there is no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayError {
    /// No backend was free in time.
    NoBackend,
    /// The site has no dial-in address for such requests.
    NoAddress,
    /// No backend was free, and as many requests as may wait did so already.
    Full,
    /// As many upgraded connections as may be are open already.
    NoTunnel,
    /// The application cannot be reached, and the request may not be repeated.
    Unreachable,
    /// The backend closed its connection without a response.
    ClosedEarly,
    /// The backend's response broke a rule.
    BadResponse(&'static str),
    /// The backend did not begin to respond in time.
    TooSlow,
    /// The backend did not go on in time: with the head of its response, or with taking the request.
    Stalled,
    /// The collected body could not be read back.
    LostBody,
    /// A body that is passed on as it arrives did not arrive.
    Upload(UploadError),
}

/// A visitor whose request is on its way.
pub struct Visitor<'v> {
    /// The connection.
    pub conn: &'v mut Conn,
    /// What was read from it and not used yet.
    pub input: &'v mut Buffer,
    /// What it has not taken of interim responses; goes in front of the final one.
    pub pending_output: &'v mut Vec<u8>,
    /// Its socket has reported an event that may be its disconnect.
    pub has_event: bool,
}

/// What an exchange works with: lent by the thread that advances it.
pub struct Tools<'w> {
    /// For what is read from the backend.
    pub reply: &'w mut Buffer,
    /// For what is written.
    pub out: &'w mut Vec<u8>,
    /// The text of the Date field.
    pub date: &'w str,
    /// How long the next read of the backend may wait. It is used up by that.
    pub patience: Duration,
    /// Where to keep what the visitor does not take.
    pub room: &'w dyn Fn() -> Room,
}

/// What an exchange waits for.
#[derive(Clone, Copy, Debug)]
pub struct Interests {
    /// Bytes or the disconnect of the visitor, or room to write to it.
    pub visitor: Interest,
    /// What the backend's socket has to report.
    pub backend: Option<Interest>,
    /// The bytes of the visitor are more of the body of its request. Otherwise they can stay where they are.
    pub uploads: bool,
    /// Its turn in a queue.
    pub queue: bool,
    /// It goes on with a read of the backend, which may wait for as long as [`Tools::patience`] says.
    pub reads: bool,
    /// When it is to be advanced at the latest.
    pub until: Instant,
}

impl Interests {
    /// Nothing but time, and the visitor's disconnect.
    pub const fn time(until: Instant) -> Self {
        Self {
            visitor: Interest::Read,
            backend: None,
            uploads: false,
            queue: false,
            reads: false,
            until,
        }
    }

    /// The same, or that the backend sends something.
    pub const fn response(until: Instant) -> Self {
        Self {
            backend: Some(Interest::Read),
            reads: true,
            ..Self::time(until)
        }
    }

    /// Room to write to the visitor.
    pub const fn room(until: Instant) -> Self {
        Self {
            visitor: Interest::Write,
            ..Self::time(until)
        }
    }
}

impl Tools<'_> {
    /// Reads from the backend, waiting for at most what is left of the patience. `None`: nothing yet. 0 is the end.
    ///
    /// # Errors
    /// Those of [`Conn::read_now`].
    pub fn read(&mut self, conn: &mut Conn) -> io::Result<Option<usize>> {
        let patience = std::mem::take(&mut self.patience);
        if patience.is_zero() {
            return self.reply.fill_now(conn);
        }
        conn.set_read_timeout(patience)?;
        match self.reply.fill(conn) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Writes something before the final response; what the visitor does not take now goes in front of that.
pub fn write_interim(conn: &mut Conn, pending_output: &mut Vec<u8>, bytes: &[u8]) {
    // An error shows again when the final response is written.
    let taken = match pending_output.is_empty() {
        true => conn.write_now(bytes).unwrap_or(0),
        false => 0,
    };
    pending_output.extend_from_slice(&bytes[taken..]);
}

/// The interim response that asks for a body (RFC 9110 10.1.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
