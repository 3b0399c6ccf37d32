//! A connection to a FastCGI server, read as if it spoke HTTP.
//!
//! [`FastCgiSession`] is to a [`Conn`](super::conn::Conn) what TLS is: bytes that are read pass through it. What is written
//! are records already. Lines that the server writes to the error stream go to the log.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::stream::Stream;
use crate::http::fastcgi::Responses;
use crate::http::request_id::RequestId;

/// What the connections to a server have in common.
#[derive(Debug)]
pub struct FastCgiServer {
    /// The target of log messages.
    pub log: String,
    /// The name of the site, for logs.
    pub site: String,
    /// The server's address, for logs.
    pub name: Arc<str>,
    /// Connections on which the server has not sent anything yet. Perhaps no process has accepted them.
    unanswered: AtomicUsize,
}

/// The state of a connection.
#[derive(Debug)]
pub struct FastCgiSession {
    server: Arc<FastCgiServer>,
    responses: Responses,
    /// The part of a response that was decoded, and how much of it was read.
    decoded: Vec<u8>,
    taken: usize,
    /// What is wrong with the response.
    fault: Option<&'static str>,
    /// The id of the request, for logs.
    id: RequestId,
    /// Counts the connection among those without an answer.
    unanswered: Option<Unanswered>,
}

/// An element of [`FastCgiServer::unanswered`].
#[derive(Debug)]
struct Unanswered(Arc<FastCgiServer>);

impl FastCgiServer {
    /// A server at the address `name`, and how the log names its site.
    pub fn new(log: &str, site: &str, name: &Arc<str>) -> Self {
        Self {
            log: log.to_owned(),
            site: site.to_owned(),
            name: Arc::clone(name),
            unanswered: AtomicUsize::new(0),
        }
    }

    /// Whether there are connections that perhaps no process has accepted.
    pub fn has_unanswered(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.unanswered.fetch_sub(1, Ordering::Relaxed);
    }
}

impl FastCgiSession {
    /// A new connection.
    pub(super) fn new(server: &Arc<FastCgiServer>) -> Self {
        server.unanswered.fetch_add(1, Ordering::Relaxed);
        Self {
            server: Arc::clone(server),
            responses: Responses::default(),
            decoded: Vec::new(),
            taken: 0,
            fault: None,
            id: RequestId::None,
            unanswered: Some(Unanswered(Arc::clone(server))),
        }
    }

    /// Expects the response to another request.
    pub(super) fn begin(&mut self, is_head: bool, id: RequestId) {
        self.responses.begin(is_head);
        self.id = id;
    }

    /// What is wrong with the response.
    pub(super) const fn fault(&self) -> Option<&'static str> {
        self.fault
    }

    /// Whether bytes can be read without the socket.
    pub(super) const fn has_unread(&self) -> bool {
        self.taken < self.decoded.len()
    }

    /// Reads the end of a response whose body was read, as far as it has arrived. Returns whether the connection can be
    /// used again.
    pub(super) fn settle(&mut self, stream: &Stream) -> bool {
        while !self.responses.are_over() {
            match self.fill(stream) {
                Ok(Some(1..)) if self.fault.is_none() && !self.has_unread() => {}
                _ => return false,
            }
        }
        !self.has_unread() && self.fault.is_none()
    }

    /// Reads decoded bytes. `None`: nothing yet. 0 is the end of the connection.
    ///
    /// # Errors
    /// `InvalidData` if the server breaks the protocol, and those of `recv(2)`.
    pub(super) fn read_now(
        &mut self,
        stream: &Stream,
        into: &mut [u8],
    ) -> io::Result<Option<usize>> {
        loop {
            let left = &self.decoded[self.taken..];
            if !left.is_empty() {
                let count = left.len().min(into.len());
                into[..count].copy_from_slice(&left[..count]);
                self.taken += count;
                return Ok(Some(count));
            }
            self.decoded.clear();
            self.taken = 0;
            if let Some(fault) = self.fault {
                return Err(io::Error::new(io::ErrorKind::InvalidData, fault));
            }
            match self.fill(stream)? {
                Some(1..) => {}
                nothing => {
                    // A connection that waits needs no memory.
                    self.decoded = Vec::new();
                    return Ok(nothing);
                }
            }
        }
    }

    /// Reads and decodes what has arrived, up to a block. Returns the number of bytes before they were decoded.
    fn fill(&mut self, stream: &Stream) -> io::Result<Option<usize>> {
        let mut block = [0; BLOCK];
        let read = stream.read_now(&mut block)?;
        let count = read.unwrap_or(0);
        if count > 0 {
            self.unanswered = None;
            let (server, id) = (&*self.server, &self.id);
            let mut report = |line: &str| {
                log::warn!(
                    target: &server.log,
                    request_id:% = id;
                    "site {}: server {}: stderr: {line}", server.site, server.name
                );
            };
            let decoded = &mut self.decoded;
            let result = self.responses.read(&block[..count], decoded, &mut report);
            self.fault = result.err().map(|bad| bad.0);
        }
        Ok(read)
    }
}

/// Bytes that are read at once.
const BLOCK: usize = 16 << 10;
