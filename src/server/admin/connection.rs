//! A connection at the status address: one request and its response, on a thread of its own.

use std::io::{self, ErrorKind};
use std::thread;
use std::time::{Duration, Instant};

use super::context::AdminContext;
use super::message::{AdminRequest, AdminResponse};
use super::permission::{self, Denial};
use super::routes;
use crate::config::Address;
use crate::http::body::Framing;
use crate::http::head::{HeadLimits, HeadScanner, Refusal, RequestHead};
use crate::net::stream::{Peer, Stream};

/// Serves a connection that was accepted at `address`.
pub(super) fn serve(context: &AdminContext, address: &Address, stream: Stream, peer: Peer) {
    let mut connection = AdminConnection {
        stream,
        deadline: Instant::now() + REQUEST_TIMEOUT,
        input: Vec::new(),
    };
    let result = connection.run(context, address, peer);
    if let Err(error) = result {
        log::debug!("status {peer}: {error}");
    }
}

/// Refuses a connection because there are too many, without waiting.
pub(super) fn turn_away(stream: &Stream) {
    let response = AdminResponse::error(503, "too many connections here").with("Retry-After", "1");
    // Best effort.
    let _ = stream.write_now(&response.render(None));
    stream.finish_writing();
}

struct AdminConnection {
    stream: Stream,
    /// The end of the time for the request.
    deadline: Instant,
    /// Bytes that were received and not used yet.
    input: Vec<u8>,
}

/// Why there is no response from the table of routes.
enum ReadError {
    /// The connection has failed, or has ended without a request.
    Broken(io::Error),
    /// The request is refused.
    Refused(AdminResponse),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::TimedOut => {
                Self::Refused(AdminResponse::error(408, "the request took too long"))
            }
            _ => Self::Broken(error),
        }
    }
}

impl AdminConnection {
    fn run(&mut self, context: &AdminContext, address: &Address, peer: Peer) -> io::Result<()> {
        let (method, response) = match self.head() {
            Ok(head) => {
                let response = self.respond(context, address, peer, &head);
                (Some(head.method), response)
            }
            Err(error) => (None, Err(error)),
        };
        let response = match response {
            Ok(response) | Err(ReadError::Refused(response)) => response,
            Err(ReadError::Broken(error)) => return Err(error),
        };
        self.send(&response.render(method.as_ref()))
    }

    fn respond(
        &mut self,
        context: &AdminContext,
        address: &Address,
        peer: Peer,
        head: &RequestHead,
    ) -> Result<AdminResponse, ReadError> {
        // Not held for longer, since a reload releases what it replaces.
        let permission = {
            let snapshot = context.shared.snapshot();
            // A reload may have moved the status address since this connection was accepted, with another key or none.
            let status = snapshot.config.status.as_ref();
            let Some(status) = status.filter(|status| status.at == *address) else {
                return Ok(AdminResponse::error(503, "the status address has changed"));
            };
            permission::check(status, head)
        };
        if let Err(denial) = permission {
            if denial == Denial::WrongKey {
                log::warn!("status {peer}: wrong key");
                thread::sleep(WRONG_KEY_PAUSE);
            }
            return Ok(denial.response());
        }
        let body = self.body(head)?;
        Ok(routes::dispatch(AdminRequest {
            context,
            head,
            arguments: Vec::new(),
            body: &body,
        }))
    }

    /// Reads the head.
    fn head(&mut self) -> Result<RequestHead, ReadError> {
        let limits = HeadLimits {
            head: 16 << 10,
            fields: 100,
            target: 4 << 10,
        };
        let refused = |refusal: Refusal| {
            ReadError::Refused(AdminResponse::error(refusal.status, refusal.why))
        };
        let mut scanner = HeadScanner::new();
        loop {
            if let Some(end) = scanner.scan(&self.input, &limits).map_err(refused)? {
                let head = RequestHead::parse(&self.input[..end], &limits).map_err(refused)?;
                self.input.drain(..end);
                return Ok(head);
            }
            self.fill()?;
        }
    }

    /// Reads the body.
    fn body(&mut self, head: &RequestHead) -> Result<Vec<u8>, ReadError> {
        let length = match head.framing {
            Framing::Length(length) => length,
            Framing::Empty => 0,
            Framing::Chunked | Framing::UntilClose => {
                let response = AdminResponse::error(411, "a body needs a Content-Length here");
                return Err(ReadError::Refused(response));
            }
        };
        if length > LARGEST_BODY {
            let response = AdminResponse::error(413, "the body is too large");
            return Err(ReadError::Refused(response));
        }
        // It fits, since it is at most LARGEST_BODY.
        let length = length as usize;
        if head.expect_continue && self.input.len() < length {
            self.stream.write_all(CONTINUE, REQUEST_TIMEOUT)?;
        }
        while self.input.len() < length {
            self.fill()?;
        }
        Ok(self.input.drain(..length).collect())
    }

    /// Waits for more bytes, until the deadline.
    fn fill(&mut self) -> io::Result<()> {
        let mut bytes = [0; 8 << 10];
        loop {
            self.stream.wait_for_input(self.deadline)?;
            match self.stream.read_now(&mut bytes)? {
                Some(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Some(count) => {
                    self.input.extend_from_slice(&bytes[..count]);
                    return Ok(());
                }
                None => {}
            }
        }
    }

    /// Sends a response, and waits for the end of the client's side: closing a socket with unread bytes would reset the
    /// connection, and the client would lose the response.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let deadline = Instant::now() + RESPONSE_TIMEOUT;
        let mut left = bytes;
        while !left.is_empty() {
            let written = self.stream.write_now(left)?;
            left = &left[written..];
            let patience = deadline.saturating_duration_since(Instant::now());
            let patience = patience.min(WRITE_TIMEOUT);
            if written == 0 && !self.stream.wait_for_room(patience)? {
                return Err(ErrorKind::TimedOut.into());
            }
        }
        self.stream.finish_writing();
        self.deadline = Instant::now() + LINGER;
        while self.fill().is_ok() {
            self.input.clear();
        }
        Ok(())
    }
}

/// The longest time in which a request must arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest time in which a client may accept nothing of a response, and for all of it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to wait for the end of the client's side.
const LINGER: Duration = Duration::from_secs(1);
/// The pause before the response to a wrong key. With the limits on connections it allows 8 guesses in a second.
const WRONG_KEY_PAUSE: Duration = Duration::from_secs(1);
/// Most bytes of a request's body.
const LARGEST_BODY: u64 = 1 << 20;
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
