//! Reads the body of a response from the backend.
//!
//! The backend goes back to its pool as soon as the last byte of the body has been *read*, which is before that byte is
//! written to the client.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::context::{Interests, Rules, Tools};
use crate::backend::lease::Upstream;
use crate::http::body::{Decoder, Framing};
use crate::http::head::{Method, ResponseHead};
use crate::net::buffer::Buffer;
use crate::net::conn::Conn;
use crate::stats::Close;

/// The body of a response.
#[derive(Debug)]
pub struct Download<U> {
    decoder: Decoder,
    framing: Framing,
    /// `None` once the end was read, or after an error.
    upstream: Option<U>,
    /// Whether the response violates no rule that forbids using the connection again.
    reusable: bool,
    /// Whether the connection ends after this response: the backend says so, or has not taken all of the request.
    closes: bool,
    /// Whether silence counts as the end.
    guessed: bool,
    /// Bytes of the buffer that belong to the last piece.
    used: usize,
    /// Whether the last read emptied the socket, with no event since.
    drained: bool,
    /// Since when the backend has sent nothing.
    quiet: Option<Instant>,
    /// The longest time in which it may send nothing.
    patience: Duration,
}

/// The next part of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum BodyPart<'b> {
    /// At least one byte of it.
    Bytes(&'b [u8]),
    /// Nothing has arrived yet.
    Wait,
    /// Its end.
    End,
}

/// The result of reading more of a body.
#[derive(Clone, Copy, Debug)]
pub enum Filled {
    /// There is something to decode: bytes, or the end.
    Some,
    /// Nothing yet.
    Wait(Interests),
}

/// Why a body broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyError {
    /// The reason for which the client's connection is cut.
    pub reason: Close,
    /// What happened, for the log.
    pub what: &'static str,
}

impl<U: Upstream> Download<U> {
    /// The body of the response with this head. `is_part`: the backend has not taken all of the request.
    pub fn new(
        upstream: U,
        head: &ResponseHead,
        method: &Method,
        rules: &Rules,
        is_part: bool,
        reply: &Buffer,
    ) -> Self {
        let framing = head.framing(method);
        let is_dialled = upstream.is_dialled();
        let guessed = framing == Framing::UntilClose && is_dialled;
        let mut download = Self {
            decoder: Decoder::new(framing, &rules.limits),
            framing,
            reusable: !head.conflicting,
            closes: framing == Framing::UntilClose || is_part || !is_dialled && !head.persistent,
            upstream: Some(upstream),
            guessed,
            used: 0,
            drained: !reply.is_full(),
            quiet: None,
            patience: match guessed {
                true => rules.unframed_gap,
                false => rules.backend,
            },
        };
        if download.decoder.is_done() {
            download.end(reply);
        }
        download
    }

    /// Whether there is no body.
    pub const fn is_empty(&self) -> bool {
        self.upstream.is_none()
    }

    /// What remains of it in bytes, if that is known.
    pub const fn length(&self) -> Option<u64> {
        self.decoder.remaining()
    }

    /// The backend's socket, until the end was read.
    pub fn fd(&mut self) -> Option<BorrowedFd<'_>> {
        let conn: &Conn = self.upstream.as_mut()?.as_mut();
        Some(conn.as_fd())
    }

    /// Whether the backend dialled in, until the end was read.
    pub fn is_dialled(&self) -> bool {
        self.upstream.as_ref().is_some_and(Upstream::is_dialled)
    }

    /// The backend's socket may have something new.
    pub const fn resume(&mut self) {
        self.drained = false;
    }

    /// Decodes the next piece of what was read.
    ///
    /// # Errors
    /// What is wrong with the body. Nothing more follows.
    pub fn next<'b>(&mut self, reply: &'b mut Buffer) -> Result<BodyPart<'b>, BodyError> {
        reply.consume(std::mem::take(&mut self.used));
        while self.upstream.is_some() && !reply.is_empty() {
            let piece = match self.decoder.next(reply.data()) {
                Ok(piece) => piece,
                Err(bad) => return Err(self.fail(bad.0)),
            };
            let done = self.decoder.is_done();
            if piece.data.is_empty() {
                reply.consume(piece.consumed);
                if done {
                    self.end(reply);
                } else if piece.consumed == 0 {
                    break;
                }
                continue;
            }
            self.used = piece.consumed;
            if done {
                self.end(reply);
            }
            return Ok(BodyPart::Bytes(&reply.data()[piece.data]));
        }
        Ok(match self.upstream.is_some() {
            true => BodyPart::Wait,
            false => BodyPart::End,
        })
    }

    /// Reads more, after [`BodyPart::Wait`].
    ///
    /// # Errors
    /// What is wrong with the body. Nothing more follows.
    pub fn fill(&mut self, tools: &mut Tools<'_>) -> Result<Filled, BodyError> {
        let Some(upstream) = &mut self.upstream else {
            return Ok(Filled::Some);
        };
        if self.drained && tools.patience.is_zero() && !upstream.as_mut().has_unread() {
            return Ok(Filled::Wait(self.wait(Instant::now())));
        }
        match tools.read(upstream.as_mut()) {
            Ok(Some(1..)) => {
                self.drained = !tools.reply.is_full();
                self.quiet = None;
                Ok(Filled::Some)
            }
            Ok(None) => {
                self.drained = true;
                let now = Instant::now();
                let interests = self.wait(now);
                if now < interests.until {
                    return Ok(Filled::Wait(interests));
                }
                if self.guessed {
                    self.end(tools.reply);
                    return Ok(Filled::Some);
                }
                Err(self.fail("the body made no progress"))
            }
            Ok(Some(0)) if self.framing == Framing::UntilClose => {
                self.end(tools.reply);
                Ok(Filled::Some)
            }
            Ok(Some(0)) => Err(self.fail("the body is cut short")),
            Err(_) => {
                let fault = upstream.as_mut().fault();
                Err(self.fail(fault.unwrap_or("the connection broke within the body")))
            }
        }
    }

    /// What has to happen before more can be read.
    fn wait(&mut self, now: Instant) -> Interests {
        let quiet = *self.quiet.get_or_insert(now);
        Interests::response(quiet + self.patience)
    }

    /// Closes the connection before the end.
    pub fn close(&mut self, reason: Close) {
        if let Some(upstream) = self.upstream.take() {
            upstream.close(reason);
        }
    }

    /// Releases the backend after the last byte of the body.
    fn end(&mut self, reply: &Buffer) {
        let Some(mut upstream) = self.upstream.take() else {
            return;
        };
        if reply.data().len() > self.used || upstream.as_mut().has_unread() {
            upstream.close(Close::Junk);
        } else if self.reusable && !self.closes {
            upstream.finish();
        } else {
            upstream.close(match (self.guessed, self.reusable) {
                (true, _) => Close::Unframed,
                (false, true) => Close::Complete,
                (false, false) => Close::BackendFailed,
            });
        }
    }

    fn fail(&mut self, what: &'static str) -> BodyError {
        self.close(Close::BackendFailed);
        BodyError {
            reason: Close::BackendFailed,
            what,
        }
    }
}
