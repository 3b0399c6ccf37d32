//! A request as the application sees it.

use std::io::{self, ErrorKind, Read};

use super::dial::{IO_TIMEOUT, MISDIALLED};
use crate::http::body::{Decoder, Framing};
use crate::http::head::{HeadLimits, HeadScanner, RequestHead};
use crate::http::target::Host;
use crate::net::buffer::Buffer;
use crate::net::conn::Conn;
use crate::preamble;

/// A request as the application sees it.
#[derive(Debug)]
pub struct Request<'c> {
    pub(super) head: RequestHead,
    /// The body, which arrives while it is read.
    pub body: IncomingBody<'c>,
}

/// The body of a request. A read fails if the connection is lost, if the body is larger than the limit of the client
/// ([`Client::body_limit`](super::Client::body_limit)), or if the server sends nothing for a minute.
#[derive(Debug)]
pub struct IncomingBody<'c> {
    conn: &'c mut Conn,
    input: &'c mut Buffer,
    decoder: Decoder,
    /// How many more bytes there may be.
    allowed: u64,
    pub(super) failure: Option<BodyFailure>,
}

/// Why the rest of a body cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyFailure {
    TooLarge,
    Lost,
}

impl Request<'_> {
    /// The method: `GET`.
    pub fn method(&self) -> &str {
        self.head.method.as_str()
    }

    /// Path and query as sent: `/a%20b?c=d`; or `*`.
    pub fn target(&self) -> &str {
        self.head.target.as_str()
    }

    /// The path as sent, without the query.
    pub fn path(&self) -> &str {
        self.head.target.path()
    }

    /// The query: what follows the first `?`.
    pub fn query(&self) -> Option<&str> {
        self.head.target.query()
    }

    /// The requested host in lower case, without the port; `None`: an HTTP/1.0 client has named none.
    pub fn host(&self) -> Option<&str> {
        self.head.host.as_ref().map(Host::name)
    }

    /// The value of the first field with this name, in whatever case.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.head.headers.get(name)
    }

    /// Names and values of all fields in order, without those that concern the connection, the length, or the host.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.head.headers.iter()
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// As for the reads of [`IncomingBody`].
    pub fn read_body(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        self.body.read_to_end(&mut body)?;
        Ok(body)
    }
}

impl<'c> IncomingBody<'c> {
    pub(super) fn new(
        head: &RequestHead,
        limit: u64,
        conn: &'c mut Conn,
        input: &'c mut Buffer,
    ) -> Self {
        let is_too_large = matches!(head.framing, Framing::Length(length) if length > limit);
        Self {
            conn,
            input,
            decoder: Decoder::new(head.framing, &HeadLimits::default()),
            allowed: limit,
            failure: is_too_large.then_some(BodyFailure::TooLarge),
        }
    }

    /// Reads what the application has not read, a little at most. Returns whether the next request can follow.
    pub(super) fn skip_rest(&mut self) -> bool {
        let most = self.allowed.min(SKIPPED);
        let skipped = io::copy(&mut self.take(most), &mut io::sink());
        skipped.is_ok() && self.decoder.is_done()
    }

    pub(super) const fn conn(&mut self) -> &mut Conn {
        self.conn
    }

    fn fail(&mut self, failure: BodyFailure, kind: ErrorKind, why: &'static str) -> io::Error {
        self.failure = Some(failure);
        io::Error::new(kind, why)
    }
}

impl Read for IncomingBody<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.failure {
            Some(BodyFailure::TooLarge) => return Err(too_large()),
            Some(BodyFailure::Lost) => return Err(ErrorKind::ConnectionAborted.into()),
            None => {}
        }
        while !self.decoder.is_done() && !into.is_empty() {
            let data = self.input.data();
            let available = data.len().min(into.len());
            let Ok(piece) = self.decoder.next(&data[..available]) else {
                let why = "the server sent a chunk that breaks a rule";
                return Err(self.fail(BodyFailure::Lost, ErrorKind::InvalidData, why));
            };
            let count = piece.data.len();
            into[..count].copy_from_slice(&data[piece.data]);
            self.input.consume(piece.consumed);
            if count as u64 > self.allowed {
                self.failure = Some(BodyFailure::TooLarge);
                return Err(too_large());
            }
            self.allowed -= count as u64;
            if count > 0 {
                return Ok(count);
            }
            if piece.consumed == 0 && read_more(self.conn, self.input).is_none() {
                let why = "the connection was lost within the body";
                return Err(self.fail(BodyFailure::Lost, ErrorKind::ConnectionAborted, why));
            }
        }
        Ok(0)
    }
}

fn too_large() -> io::Error {
    io::Error::new(ErrorKind::FileTooLarge, "the body is larger than the limit")
}

/// Waits for a request, however long that takes. `false`: the connection is over.
pub(super) fn wait(conn: &mut Conn, input: &mut Buffer) -> bool {
    if conn.set_read_timeout(NO_TIMEOUT).is_err() {
        return false;
    }
    while input.is_empty() {
        match input.fill(conn) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::TimedOut => {}
            Err(_) => return false,
        }
    }
    true
}

/// Reads the head of a request that has begun; each further piece of it has a deadline.
///
/// # Errors
/// Why there is no request.
pub(super) fn read_head(conn: &mut Conn, input: &mut Buffer) -> Result<RequestHead, String> {
    if preamble::is_misdialled(input.data()) {
        return Err(format!(
            "the server answers as it answers clients: {MISDIALLED}"
        ));
    }
    let limits = HeadLimits::default();
    let mut scanner = HeadScanner::default();
    let end = loop {
        match scanner.scan(input.data(), &limits) {
            Ok(Some(end)) => break end,
            Ok(None) => {}
            Err(refusal) => return Err(format!("request refused: {}", refusal.why)),
        }
        read_more(conn, input).ok_or("the connection was lost within the head of a request")?;
    };
    let head = RequestHead::parse(&input.data()[..end], &limits);
    let mut head = head.map_err(|refusal| format!("request refused: {}", refusal.why))?;
    input.consume(end);
    // The server has already removed the fields that its configuration does not allow (`underscores`).
    head.admit_ambiguous(|_| true);
    Ok(head)
}

/// Reads more of a request that has begun.
fn read_more(conn: &mut Conn, input: &mut Buffer) -> Option<()> {
    conn.set_read_timeout(IO_TIMEOUT).ok()?;
    match input.fill(conn) {
        Ok(1..) => Some(()),
        Ok(0) | Err(_) => None,
    }
}

/// No time-out for the next request; the system waits in pieces of this length.
const NO_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3600);
/// Bytes of a body that are read for the sake of the next request, which costs less than a new connection.
const SKIPPED: u64 = 64 * 1024;
