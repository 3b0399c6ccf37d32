//! Writing a response to the visitor.
//!
//! The head and what is at hand of the body go out in one write. A body is written as it comes; only what is
//! at hand is gathered, so that nothing waits in a buffer while the backend thinks.
//!
//! Runs on a worker. Each wait for the visitor is bounded by the site's `timeouts.write`.
//!
//! **Invariants**: the framing that the head announces is what is written, or the connection is closed in a way
//! that the visitor can tell from a whole answer: before the announced length, without the last chunk, or by a
//! reset where the end of the connection is the end of the body.

use std::time::Duration;

use crate::exchange::{Body, Next, Response, Source};
use crate::http::body::{Framing, LAST_CHUNK, write_chunk};
use crate::http::head::{Method, Persistence, ResponseHead, Version};
use crate::net::buffer::Buffer;
use crate::net::stream::Stream;
use crate::stats::Close;

/// To whom a response goes.
pub(crate) struct Delivery<'a> {
    pub(crate) stream: &'a Stream,
    /// The method of the request; `None` if it could not be read.
    pub(crate) method: Option<&'a Method>,
    /// The version of the request; `None` if it could not be read.
    pub(crate) version: Option<Version>,
    /// Whether the connection is to be kept.
    pub(crate) keep: bool,
    /// For a response without a Date.
    pub(crate) date: &'a str,
    /// How long the visitor may take nothing.
    pub(crate) patience: Duration,
}

/// How a delivery ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Delivered {
    /// Bytes of the body that were written, without framing.
    pub(crate) bytes: u64,
    /// [`Close::Complete`], or what went wrong.
    pub(crate) ended: Close,
    /// Whether the connection can be used for the next request.
    pub(crate) keep: bool,
}

impl Delivery<'_> {
    /// Writes the response, using `out` to gather what goes into one write.
    pub(crate) fn deliver(mut self, response: Response<'_>, out: &mut Vec<u8>) -> Delivered {
        out.clear();
        let Response { head, body, .. } = response;
        match body {
            Body::Empty => {
                let framing = match head.length {
                    // A length that only says what GET would bring, or that there is nothing.
                    Some(length) if has_length(head.status) => Framing::Length(length),
                    _ => Framing::Empty,
                };
                self.write_head(&head, framing, out);
                self.finish(out, &[], 0)
            }
            Body::Bytes(bytes) => {
                self.write_head(&head, Framing::Length(bytes.len() as u64), out);
                match self.method {
                    Some(Method::Head) => self.finish(out, &[], 0),
                    _ => self.finish(out, &bytes, bytes.len() as u64),
                }
            }
            Body::Stream { length, mut source } => {
                let framing = match (length, self.version) {
                    (Some(length), _) => Framing::Length(length),
                    (None, Some(Version::Http10)) => Framing::UntilClose,
                    (None, _) => Framing::Chunked,
                };
                self.keep &= framing != Framing::UntilClose;
                self.write_head(&head, framing, out);
                self.write_stream(framing, &mut *source, out)
            }
        }
    }

    fn write_head(&self, head: &ResponseHead, framing: Framing, out: &mut Vec<u8>) {
        let persistence = match (self.keep, self.version) {
            (false, _) => Persistence::Close,
            (true, Some(Version::Http10)) => Persistence::KeepAlive,
            (true, _) => Persistence::Implied,
        };
        head.write(framing, persistence, Some(self.date), out);
    }

    fn finish(&self, head: &[u8], body: &[u8], bytes: u64) -> Delivered {
        match self.stream.write_both(head, body, self.patience) {
            Ok(()) => Delivered {
                bytes,
                ended: Close::Complete,
                keep: self.keep,
            },
            Err(_) => failed(0, Close::WriteFailed),
        }
    }

    fn write_stream(
        &self,
        framing: Framing,
        source: &mut dyn Source,
        out: &mut Vec<u8>,
    ) -> Delivered {
        let mut bytes = 0;
        loop {
            // What is in `out` goes first; a piece too large to be gathered goes right behind it.
            let written = match source.next() {
                Ok(Next::Piece(piece)) => {
                    bytes += piece.len() as u64;
                    let gathers = out.len() + piece.len() <= Buffer::SIZE;
                    match framing {
                        Framing::Chunked => {
                            write_chunk(piece, out);
                            if gathers {
                                continue;
                            }
                            self.stream.write_all(out, self.patience)
                        }
                        _ if gathers => {
                            out.extend_from_slice(piece);
                            continue;
                        }
                        _ => self.stream.write_both(out, piece, self.patience),
                    }
                }
                Ok(Next::Wait) => {
                    let written = self.stream.write_all(out, self.patience);
                    match written.is_ok().then(|| source.wait()) {
                        Some(Err(error)) => return self.cut(framing, bytes, error.reason),
                        _ => written,
                    }
                }
                Ok(Next::End) => {
                    if framing == Framing::Chunked {
                        out.extend_from_slice(LAST_CHUNK);
                    }
                    return match self.stream.write_all(out, self.patience) {
                        Ok(()) => Delivered {
                            bytes,
                            ended: Close::Complete,
                            keep: self.keep,
                        },
                        Err(_) => failed(bytes, Close::WriteFailed),
                    };
                }
                Err(error) => {
                    // What came before the fault is the visitor's.
                    let _ = self.stream.write_all(out, self.patience);
                    return self.cut(framing, bytes, error.reason);
                }
            };
            out.clear();
            if written.is_err() {
                // The backend need not suffer for its visitor.
                source.give_up();
                return failed(bytes, Close::WriteFailed);
            }
        }
    }

    /// Ends an answer that lacks its end so that the visitor can tell.
    fn cut(&self, framing: Framing, bytes: u64, reason: Close) -> Delivered {
        if framing == Framing::UntilClose {
            self.stream.reset_on_close();
        }
        failed(bytes, reason)
    }
}

const fn failed(bytes: u64, ended: Close) -> Delivered {
    Delivered {
        bytes,
        ended,
        keep: false,
    }
}

/// Whether a response with this status may say a length (RFC 9110 8.6).
const fn has_length(status: u16) -> bool {
    status >= 200 && status != 204
}
