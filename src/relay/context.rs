//! What the phases of an exchange share: the request, its limits, the buffers that are lent to them, what they wait
//! for, and why they fail.

use std::io;
use std::time::{Duration, Instant};

use super::spool::Room;
use crate::backend::waiting::QueueFull;
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
    /// Time-outs and limits.
    pub rules: &'r Rules,
}

/// Time-outs and limits of an exchange.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The longest time from the end of the request to the first byte of the response.
    pub first_byte: Duration,
    /// The longest time in which a backend makes no progress.
    pub backend: Duration,
    /// The silence that ends a response without a length that does not end with its connection.
    pub unframed_gap: Duration,
    /// Limits of the head of a response.
    pub limits: HeadLimits,
    /// The largest body, in bytes, that is waited for, up to a second, before anything is passed on. Until then the
    /// request can be repeated.
    pub gathered: u64,
}

/// Why there is no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayError {
    /// No backend was free in time.
    NoBackend,
    /// The site has no dial-in address for this path.
    NoAddress,
    /// No backend was free, and the queue is full.
    Full(QueueFull),
    /// The limit on upgraded connections is reached.
    NoTunnel,
    /// The application cannot be reached, and the request may not be repeated.
    Unreachable,
    /// TLS with the server failed, for this reason.
    Tls(&'static str),
    /// The backend closed its connection without a response.
    ClosedEarly,
    /// The backend's response violates HTTP.
    BadResponse(&'static str),
    /// The backend did not begin its response in time.
    TooSlow,
    /// The backend stalled, in the head of its response or in taking the request.
    Stalled,
    /// The buffered body could not be read back.
    LostBody,
    /// A streamed body did not arrive.
    Upload(UploadError),
}

/// A client whose request is on its way.
pub struct ClientSide<'v> {
    /// The connection.
    pub conn: &'v mut Conn,
    /// What was read from it and not used yet.
    pub input: &'v mut Buffer,
    /// What it has not taken of interim responses; it goes in front of the final one.
    pub pending_output: &'v mut Vec<u8>,
    /// Its socket has reported an event that may be its disconnect.
    pub has_event: bool,
}

/// What the thread that advances an exchange lends to it.
pub struct Tools<'w> {
    /// What is read from the backend.
    pub reply: &'w mut Buffer,
    /// What is to be written.
    pub out: &'w mut Vec<u8>,
    /// The text of the Date field.
    pub date: &'w str,
    /// How long the next read of the backend may block. That read uses it up.
    pub patience: Duration,
    /// Where to keep what the client does not take.
    pub room: &'w dyn Fn() -> Room,
}

/// What an exchange waits for.
#[derive(Clone, Copy, Debug)]
pub struct Interests {
    /// What the client's socket has to report; a disconnect is always reported.
    pub client: Interest,
    /// What the backend's socket has to report, if anything.
    pub backend: Option<Interest>,
    /// Whether the client's bytes are more of its request's body. Otherwise they can stay in the socket.
    pub uploads: bool,
    /// Whether it waits in a queue.
    pub queue: bool,
    /// Whether it continues with a read of the backend, which may block for [`Tools::patience`].
    pub reads: bool,
    /// When it is to be advanced at the latest.
    pub until: Instant,
}

impl Interests {
    /// The deadline, and the client's disconnect.
    pub const fn time(until: Instant) -> Self {
        Self {
            client: Interest::Read,
            backend: None,
            uploads: false,
            queue: false,
            reads: false,
            until,
        }
    }

    /// The same, or bytes from the backend.
    pub const fn response(until: Instant) -> Self {
        Self {
            backend: Some(Interest::Read),
            reads: true,
            ..Self::time(until)
        }
    }

    /// Room to write to the client.
    pub const fn room(until: Instant) -> Self {
        Self {
            client: Interest::Write,
            ..Self::time(until)
        }
    }
}

impl Tools<'_> {
    /// Reads from the backend, blocking for what is left of the patience at most. `None`: nothing yet. 0 is the end.
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

/// Writes something before the final response. What the client does not take now goes in front of that.
pub fn write_interim(conn: &mut Conn, pending_output: &mut Vec<u8>, bytes: &[u8]) {
    // An error recurs when the final response is written.
    let taken = match pending_output.is_empty() {
        true => conn.write_now(bytes).unwrap_or(0),
        false => 0,
    };
    pending_output.extend_from_slice(&bytes[taken..]);
}

/// The interim response that asks for a body (RFC 9110 10.1.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
