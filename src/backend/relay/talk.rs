//! The first half of an exchange: a request on its way to a backend, up to the head of the answer.
//!
//! While the request is written, the backend is listened to (RFC 9112 9.5). What it says before it has all of it is read
//! when it takes no more just then: an interim answer is passed on, and the writing goes on; a final one, or the end of
//! the connection, ends the writing.
//!
//! **Invariant**: no wait but one under a deadline. That of a head in many pieces is one for all of them.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use super::{Ask, Cause};
use crate::config;
use crate::exchange::{Request, RequestBody, Upload, Visitor};
use crate::http::body::{LAST_CHUNK, write_chunk};
use crate::http::head::{AnswerHeads, HeadLimits, ResponseHead};
use crate::net::buffer::Buffer;
use crate::net::conn::{Conn, Written};

/// A request and what its backend has said so far.
pub(super) struct Talk<'t> {
    request: &'t Request,
    site: &'t config::Site,
    limits: &'t HeadLimits,
    visitor: &'t mut dyn Visitor,
    conn: &'t mut Conn,
    /// What was read of the backend and not used yet.
    reply: &'t mut Buffer,
    heads: AnswerHeads,
    /// It has said something.
    begun: bool,
    /// Since when the rest of a head is waited for.
    since: Option<Instant>,
    /// The head of the answer, if it came before the end of the request.
    head: Option<ResponseHead>,
}

/// Whether all of the request reached the backend's socket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    All,
    /// The backend answered, or closed its side, before it had taken everything.
    Part,
}

impl<'t> Talk<'t> {
    pub(super) fn new(
        ask: &'t mut Ask<'_>,
        limits: &'t HeadLimits,
        conn: &'t mut Conn,
        reply: &'t mut Buffer,
    ) -> Self {
        reply.clear();
        Self {
            request: ask.request,
            site: ask.site,
            limits,
            visitor: ask.visitor,
            conn,
            reply,
            heads: AnswerHeads::new(),
            begun: false,
            since: None,
            head: None,
        }
    }

    /// Sends the request, whose head is in `out`.
    pub(super) fn send(&mut self, out: &mut Vec<u8>) -> Result<Sent, Cause> {
        match &self.request.body {
            RequestBody::Empty => self.write(out),
            RequestBody::Memory(bytes, _) => {
                // A small body goes with the head in one write; some applications are slower with two.
                let room = Buffer::SIZE.saturating_sub(out.len());
                let (joined, rest) = bytes.split_at(bytes.len().min(room));
                out.extend_from_slice(joined);
                match self.write(out)? {
                    Sent::All => self.write(rest),
                    Sent::Part => Ok(Sent::Part),
                }
            }
            RequestBody::File { file, length, .. } => match self.write(out)? {
                Sent::All => self.send_file(file, *length, out),
                Sent::Part => Ok(Sent::Part),
            },
            RequestBody::Stream { length } => self.send_stream(length.is_none(), out),
        }
    }

    fn send_file(&mut self, file: &File, length: u64, block: &mut Vec<u8>) -> Result<Sent, Cause> {
        let mut position = 0;
        block.resize(Buffer::SIZE, 0);
        while position < length {
            let count = match file.read_at(block, position) {
                Ok(count @ 1..) => count,
                Ok(0) => return Err(Cause::LostBody),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return Err(Cause::LostBody),
            };
            if self.write(&block[..count])? == Sent::Part {
                return Ok(Sent::Part);
            }
            position += count as u64;
        }
        Ok(Sent::All)
    }

    /// Passes a body on as it comes, behind the head in `out`.
    fn send_stream(&mut self, chunked: bool, out: &mut Vec<u8>) -> Result<Sent, Cause> {
        loop {
            if self.write(out)? == Sent::Part {
                return Ok(Sent::Part);
            }
            out.clear();
            let upload = self.visitor.body(self.conn.as_fd());
            match upload.map_err(Cause::Upload)? {
                Upload::Piece(piece) if chunked => write_chunk(piece, out),
                Upload::Piece(piece) => out.extend_from_slice(piece),
                Upload::Answered => {
                    if self.hear()? {
                        return Ok(Sent::Part);
                    }
                }
                Upload::End if chunked => return self.write(LAST_CHUNK),
                Upload::End => return Ok(Sent::All),
            }
        }
    }

    /// Writes all of it, unless the backend answers or closes before.
    fn write(&mut self, mut bytes: &[u8]) -> Result<Sent, Cause> {
        let patience = self.site.timeouts.backend;
        loop {
            match self.conn.write_unless_answered(&mut bytes, patience) {
                Ok(Written::All) => return Ok(Sent::All),
                Ok(Written::Answered) if !self.hear()? => {}
                // What is broken may have been answered before.
                Ok(Written::Answered | Written::Broken) => return Ok(Sent::Part),
                Err(_) => return Err(Cause::Stuck),
            }
        }
    }

    /// Reads what the backend says while the request is under way. Returns whether it need not get more of that.
    fn hear(&mut self) -> Result<bool, Cause> {
        loop {
            match self.reply.fill_now(self.conn) {
                Ok(Some(1..)) => {}
                Ok(None) => return Ok(false),
                // Whoever waits for the head sees the same again.
                Ok(Some(0)) | Err(_) => return Ok(true),
            }
            self.head = self.take_head()?;
            if self.head.is_some() {
                return Ok(true);
            }
        }
    }

    /// Waits for the head of the final answer, or of the 101 behind which there is none.
    pub(super) fn answer(mut self) -> Result<ResponseHead, Cause> {
        let timeouts = &self.site.timeouts;
        if let Some(head) = self.head.take() {
            return Ok(head);
        }
        loop {
            let (timeout, late) = match self.reply.is_empty() {
                true => (timeouts.first_byte, Cause::TooSlow),
                false => (timeouts.backend, Cause::Stuck),
            };
            let set = self.conn.set_read_timeout(timeout);
            match set.and_then(|()| self.reply.fill(self.conn)) {
                Ok(1..) => {}
                Err(error) if error.kind() == ErrorKind::TimedOut => return Err(late),
                Ok(0) | Err(_) if self.begun => {
                    return Err(Cause::BadAnswer("the head is cut short"));
                }
                Ok(0) | Err(_) => return Err(Cause::Died),
            }
            if let Some(head) = self.take_head()? {
                return Ok(head);
            }
        }
    }

    /// Takes heads out of what was read: interim ones are passed on; the final one is returned once all of it is there.
    fn take_head(&mut self) -> Result<Option<ResponseHead>, Cause> {
        self.begun = true;
        // What was read may hold several.
        while !self.reply.is_empty() {
            let next = self
                .heads
                .next(self.reply.data(), &self.request.head, self.limits);
            let Some((head, length)) = next.map_err(|bad| Cause::BadAnswer(bad.0))? else {
                // Most heads come in one piece, and then nobody asks what time it is.
                let since = *self.since.get_or_insert_with(Instant::now);
                return match since.elapsed() < self.site.timeouts.backend {
                    true => Ok(None),
                    false => Err(Cause::Stuck),
                };
            };
            self.reply.consume(length);
            if !head.is_interim() {
                return Ok(Some(head));
            }
            if head.status != 100 {
                self.visitor.interim(&head);
            }
            self.since = None;
        }
        Ok(None)
    }
}
