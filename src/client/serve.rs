//! Serves one connection: dials, reads requests, calls the handler, sends its replies.

use std::io::{self, ErrorKind, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::dial::{Backoff, IO_TIMEOUT};
use super::reply::Reply;
use super::request::{BodyFailure, IncomingBody, Request, read_head, wait};
use super::{Client, DIAL_TIMEOUT, IntoReply, LONGEST_PAUSE, RUNNING};
use crate::config::Address;
use crate::http::body::{Framing, LAST_CHUNK, write_chunk};
use crate::http::head::{Method, Persistence, Version};
use crate::net::buffer::Buffer;
use crate::net::conn::Conn;
use crate::net::stream::Stream;
use crate::preamble::ServerLine;

impl Client {
    /// Keeps the connection with this number until the client is stopped.
    pub(super) fn run<R: IntoReply>(&self, index: usize, handler: &impl Fn(&mut Request<'_>) -> R) {
        let mut backoff = Backoff::new(LONGEST_PAUSE);
        while self.is_running() {
            let served = match self.connect(index) {
                Ok(mut conn) => self.serve_connection(index, &mut conn, handler),
                Err(error) => Err((0, error)),
            };
            self.state.connections.lock()[index] = Default::default();
            match served {
                Ok(()) => return,
                Err((count, error)) => {
                    if count > 0 {
                        backoff.reset();
                    }
                    (self.on_error)(&error);
                }
            }
            let mut connections = self.state.connections.lock();
            if self.is_running() {
                let pause = backoff.pause();
                self.state.changed.wait_for(&mut connections, pause);
            }
        }
    }

    fn is_running(&self) -> bool {
        self.state.stop.load(Ordering::SeqCst) == RUNNING
    }

    /// Dials in. Takes ten seconds or so at most for each address of the name, and as many for the handshake.
    fn connect(&self, index: usize) -> io::Result<Conn> {
        let stream = Stream::connect(&self.address, DIAL_TIMEOUT)?;
        let handle = Arc::new(stream.try_clone()?);
        self.state.connections.lock()[index].stream = Some(handle);
        // A stop from now on finds the stream; an earlier one is noticed here.
        if !self.is_running() {
            stream.hang_up();
        }
        let name = match &self.address {
            Address::Tcp { host, .. } => host.as_str(),
            Address::Unix(_) => "localhost",
        };
        self.greeting.send(stream, name)
    }

    /// Responds to requests until the client is stopped, or the connection is lost: then the result is the number of
    /// requests and the reason.
    fn serve_connection<R: IntoReply>(
        &self,
        index: usize,
        conn: &mut Conn,
        handler: &impl Fn(&mut Request<'_>) -> R,
    ) -> Result<(), (u64, io::Error)> {
        let mut count = 0;
        let mut input = Buffer::new();
        loop {
            self.state.connections.lock()[index].is_busy = false;
            if !self.is_running() && input.is_empty() {
                return Ok(());
            }
            if !wait(conn, &mut input) {
                return match self.is_running() {
                    false => Ok(()),
                    true => Err((count, closed(count))),
                };
            }
            match self.greeting.read_line(conn, &mut input) {
                Ok(None) => {}
                Ok(Some(ServerLine::AskName)) => continue,
                Ok(Some(ServerLine::Refused(refusal))) => {
                    let why = format!("closed by the server: {refusal}");
                    let error = io::Error::new(ErrorKind::ConnectionAborted, why);
                    return Err((count, error));
                }
                Err(error) => return Err((count, error)),
            }
            self.state.connections.lock()[index].is_busy = true;
            let head = read_head(conn, &mut input)
                .map_err(|why| (count, io::Error::new(ErrorKind::InvalidData, why)))?;
            let body = IncomingBody::new(&head, self.body_limit, conn, &mut input);
            let may_continue =
                respond(Request { head, body }, handler).map_err(|error| (count, error))?;
            count += 1;
            if !may_continue {
                let why = "closed by the application after a response";
                return Err((count, io::Error::new(ErrorKind::ConnectionAborted, why)));
            }
        }
    }
}

/// The reason when the server has closed an idle connection.
fn closed(count: u64) -> io::Error {
    let why = match count {
        0 => "closed by the server before the first request; is the key right?",
        _ => "closed by the server",
    };
    io::Error::new(ErrorKind::ConnectionAborted, why)
}

/// Calls the handler for a request and sends its reply. Returns whether another request can follow.
fn respond<R: IntoReply>(
    mut request: Request<'_>,
    handler: &impl Fn(&mut Request<'_>) -> R,
) -> io::Result<bool> {
    let target = request.head.target.as_str().to_owned();
    let reply = match request.body.failure {
        // Its length says that it is too large.
        Some(_) => Err("the body is larger than the limit".into()),
        None => {
            let call = || handler(&mut request).into_reply();
            catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err("panicked".into()))
        }
    };
    if request.body.failure == Some(BodyFailure::Lost) {
        return Err(ErrorKind::ConnectionAborted.into());
    }
    let reply = reply.or_else(|why| {
        log::error!("{} {target}: {why}", request.head.method.as_str());
        match request.body.failure {
            Some(_) => Reply::text(413, "The body of the request is too large.\n"),
            None => Reply::text(500, "The application failed.\n"),
        }
    });
    let reply = reply.map_err(io::Error::other)?;
    let understands_chunks = request.head.version == Version::Http11;
    let is_complete = send(
        reply,
        request.body.conn(),
        &request.head.method,
        understands_chunks,
    )?;
    Ok(is_complete && request.body.skip_rest())
}

/// Sends a reply. Returns whether the connection can be used afterwards.
fn send(
    reply: Reply,
    conn: &mut Conn,
    method: &Method,
    understands_chunks: bool,
) -> io::Result<bool> {
    let (head, framing, body, stream) = reply.into_parts();
    let framing = match framing {
        Framing::Chunked if !understands_chunks => Framing::UntilClose,
        other => other,
    };
    let mut out = Vec::new();
    head.write(framing, Persistence::Implied, None, &mut out);
    let Some(write) = stream.filter(|_| *method != Method::Head) else {
        let body: &[u8] = match method {
            Method::Head => &[],
            _ => &body,
        };
        conn.write_both(&out, body, IO_TIMEOUT)?;
        return Ok(framing != Framing::UntilClose || *method == Method::Head);
    };
    conn.write_both(&out, &[], IO_TIMEOUT)?;
    out.clear();
    let mut writer = BodyWriter {
        conn,
        is_chunked: framing == Framing::Chunked,
        data: Vec::new(),
        out,
    };
    let written = catch_unwind(AssertUnwindSafe(|| write(&mut writer)))
        .unwrap_or_else(|_| Err(io::Error::other("panicked while it wrote a body")));
    written?;
    writer.flush()?;
    if writer.is_chunked {
        writer.conn.write_both(LAST_CHUNK, &[], IO_TIMEOUT)?;
    }
    Ok(writer.is_chunked)
}

/// Collects what a handler writes, and sends it in pieces.
struct BodyWriter<'c> {
    conn: &'c mut Conn,
    is_chunked: bool,
    data: Vec<u8>,
    /// A chunk with its framing.
    out: Vec<u8>,
}

impl Write for BodyWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.data.extend_from_slice(bytes);
        if self.data.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.clear();
        match self.is_chunked {
            true => write_chunk(&self.data, &mut self.out),
            false => self.out.extend_from_slice(&self.data),
        }
        self.data.clear();
        self.conn.write_both(&self.out, &[], IO_TIMEOUT)
    }
}

/// Bytes that are collected before they are sent.
const PIECE: usize = 16 * 1024;
