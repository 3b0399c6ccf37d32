//! A response on its way to the visitor.
//!
//! The head and what is at hand of the body go out in one write. A body is written as it arrives; only what is at hand is
//! gathered, so that nothing waits in a buffer while the backend thinks.
//!
//! What the visitor does not take is kept in a [spool](super::spool), so that the backend is free. A visitor that is about
//! to read has a moment for that before the backend's next bytes are read: what goes from hand to hand need not be kept
//! anywhere. Where the spool may not grow, the backend waits as well, until the program wants the backend or the room for others and cuts
//! those visitors that read most slowly ([`Delivery::reader`], [`Delivery::give_up`]).
//!
//! **Invariants**: the framing that the head announces is what is written, or the connection is closed in a way that the
//! visitor can tell from a whole response: before the announced length, without the last chunk, or by a reset where the end
//! of the connection is the end of the body.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::context::{Interests, Tools};
use super::download::Download;
use super::drain::Drain;
use super::file::{FileContent, Flushed};
use super::output::{Output, Reader};
use super::pull::{PullResult, compress, pull};
use crate::backend::lease::Upstream;
use crate::content::gzip::GzipBody;
use crate::exchange::{Body, FileBody};
use crate::http::body::Framing;
use crate::http::head::{Method, Persistence, ResponseHead, Version, write_rest};
use crate::net::conn::Conn;
use crate::stats::Close;

/// To whom a response goes.
#[derive(Clone, Copy, Debug)]
pub struct Recipient<'a> {
    /// The method of the request; `None` if it could not be read.
    pub method: Option<&'a Method>,
    /// The version of the request; `None` if it could not be read.
    pub version: Option<Version>,
    /// Whether the connection is to be kept.
    pub keep: bool,
    /// For a response without a Date; `None`: it stays without.
    pub date: Option<&'a str>,
    /// How long the visitor may take nothing.
    pub patience: Duration,
}

/// The body of a response.
pub enum Payload<U> {
    /// It is at hand.
    Body(Body),
    /// A file that is compressed while it is sent. Only for HTTP/1.1, and not for HEAD.
    Compressed(FileBody, GzipBody),
    /// It arrives from the backend, and may be compressed on its way.
    Backend(Download<U>, Option<GzipBody>),
}

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Bytes of the body that the visitor's system, or ours, has taken, without framing.
    pub bytes: u64,
    /// [`Close::Complete`], or what went wrong.
    pub ended: Close,
    /// Whether the connection can be used for the next request.
    pub keep: bool,
}

/// How far a delivery came.
pub enum Progress {
    /// It goes on when one of these happens.
    Blocked(Interests),
    /// There is more to do, but others should have their turn.
    Yield,
    /// All of the body was read from the backend; what is left is to be flushed.
    Relayed,
    /// To its end.
    Done(Delivered),
}

/// A response on its way.
pub struct Delivery<U> {
    output: Output,
    source: BodySource<U>,
    /// Its head is in the buffer for what is written.
    is_fresh: bool,
}

/// Where the rest of the body comes from.
enum BodySource<U> {
    Nothing,
    Backend(Download<U>, Option<GzipBody>),
    File(FileContent),
    /// A file that is compressed.
    Compressed(FileBody, GzipBody),
}

impl<U: Upstream> Delivery<U> {
    /// Begins a response: writes its head into `out`, behind what is pending there.
    pub fn new(
        head: &ResponseHead,
        payload: Payload<U>,
        recipient: &Recipient<'_>,
        pending_output: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Self {
        out.clear();
        out.append(pending_output);
        let mut keep = recipient.keep;
        let is_wanted = recipient.method != Some(&Method::Head);
        let mut write = |framing, keep| {
            let persistence = recipient.persistence(keep);
            head.write(framing, persistence, recipient.date, out);
        };
        let mut bytes = 0;
        let mut ended = Close::Complete;
        let (framing, behind) = match payload {
            Payload::Body(Body::Empty) => {
                let framing = match head.length {
                    // A length that only says what GET would bring, or that there is nothing.
                    Some(length) if has_length(head.status) => Framing::Length(length),
                    _ => Framing::Empty,
                };
                write(framing, keep);
                (framing, BodySource::Nothing)
            }
            Payload::Body(Body::Bytes(body)) => {
                let framing = Framing::Length(body.len() as u64);
                write(framing, keep);
                if is_wanted {
                    bytes = body.len() as u64;
                    out.extend_from_slice(&body);
                }
                (framing, BodySource::Nothing)
            }
            Payload::Body(Body::Stored {
                stored,
                range,
                ready,
            }) => {
                let framing = Framing::Length(range.len() as u64);
                if ready {
                    out.extend_from_slice(&stored.head);
                    let date = recipient.date.unwrap_or_default();
                    write_rest(recipient.persistence(keep), date, out);
                } else {
                    write(framing, keep);
                }
                (
                    framing,
                    BodySource::File(FileContent::Stored(stored, range)),
                )
            }
            Payload::Body(Body::File(body)) => {
                let framing = Framing::Length(body.length());
                write(framing, keep);
                (framing, BodySource::File(FileContent::OnDisk(body)))
            }
            Payload::Compressed(file, gzip) => {
                write(Framing::Chunked, keep);
                (Framing::Chunked, BodySource::Compressed(file, gzip))
            }
            Payload::Backend(download, gzip) => {
                let length = download.length().filter(|_| gzip.is_none());
                let framing = match (length, recipient.version) {
                    (Some(length), _) => Framing::Length(length),
                    (None, Some(Version::Http10)) => Framing::UntilClose,
                    (None, _) => Framing::Chunked,
                };
                keep &= framing != Framing::UntilClose;
                write(framing, keep);
                (framing, BodySource::Backend(download, gzip))
            }
        };
        let behind = match behind {
            BodySource::File(mut file) => {
                // What is small goes with the head in one write.
                match is_wanted.then(|| file.join(out)) {
                    None => file.clear(),
                    Some(Ok(joined)) => bytes = joined,
                    Some(Err(reason)) => {
                        ended = reason;
                        file.clear();
                    }
                }
                match file.is_empty() {
                    true => BodySource::Nothing,
                    false => BodySource::File(file),
                }
            }
            other => other,
        };
        Self {
            output: Output {
                bytes,
                ended,
                ..Output::new(framing, keep, recipient.patience)
            },
            source: behind,
            is_fresh: true,
        }
    }

    /// The backend's socket, while it is read from.
    pub fn fd(&mut self) -> Option<BorrowedFd<'_>> {
        match &mut self.source {
            BodySource::Backend(download, _) => download.fd(),
            _ => None,
        }
    }

    /// Passes on what the backend sends, until all of it was read.
    pub fn relay(&mut self, conn: &mut Conn, tools: &mut Tools<'_>) -> Progress {
        let BodySource::Backend(download, gzip) = &mut self.source else {
            return Progress::Relayed;
        };
        if !std::mem::take(&mut self.is_fresh) {
            tools.out.clear();
            download.resume();
        }
        match pull(&mut self.output, download, gzip.as_mut(), conn, tools) {
            Ok(PullResult::All) => {
                self.source = BodySource::Nothing;
                Progress::Relayed
            }
            Ok(PullResult::Blocked(interests)) => Progress::Blocked(interests),
            Ok(PullResult::Turn) => Progress::Yield,
            Err(reason) => Progress::Done(self.cut(conn, reason)),
        }
    }

    /// Writes what the visitor takes of what is left.
    pub fn flush(&mut self, conn: &mut Conn, tools: &mut Tools<'_>) -> Progress {
        match self.try_flush(conn, tools) {
            Ok(Flushed::All) => Progress::Done(match self.output.ended {
                Close::Complete => Delivered {
                    bytes: self.output.bytes,
                    ended: Close::Complete,
                    keep: self.output.keep,
                },
                reason => self.cut(conn, reason),
            }),
            Ok(Flushed::Turn) => Progress::Yield,
            Ok(Flushed::Full) => match self.output.wait_for_room(tools) {
                Ok(interests) => Progress::Blocked(interests),
                Err(reason) => Progress::Done(self.cut(conn, reason)),
            },
            Err(reason) => Progress::Done(self.cut(conn, reason)),
        }
    }

    fn try_flush(&mut self, conn: &mut Conn, tools: &mut Tools<'_>) -> Result<Flushed, Close> {
        let gone = |_| Close::WriteFailed;
        let Self {
            output,
            source: behind,
            ..
        } = self;
        let is_fresh = std::mem::take(&mut self.is_fresh);
        if let BodySource::Compressed(file, gzip) = behind {
            if !is_fresh {
                tools.out.clear();
            }
            match compress(output, file, gzip, conn, tools)? {
                // The compressor is free for others.
                Flushed::All => *behind = BodySource::Nothing,
                other => return Ok(other),
            }
        } else if is_fresh {
            match behind {
                BodySource::File(file) => {
                    let written = file.write_with_head(tools.out, conn).map_err(gone)?;
                    match written.checked_sub(tools.out.len()) {
                        Some(count) => {
                            file.took(count);
                            output.bytes += count as u64;
                        }
                        None => output.keep_back(tools, written),
                    }
                }
                _ => output
                    .write(conn, &[], tools.out, tools.room)
                    .map_err(gone)?,
            }
        }
        // The backlog stays, for it knows when the visitor took something last.
        if !output.flush_backlog(conn).map_err(gone)? {
            return Ok(Flushed::Full);
        }
        if let BodySource::File(file) = behind {
            let mut taken = 0;
            let sent = file.send(conn, tools.out, &mut taken);
            output.bytes += taken;
            output.took(taken);
            match sent? {
                Flushed::All => {}
                other => return Ok(other),
            }
        }
        Ok(match conn.flush_now().map_err(gone)? {
            true => Flushed::All,
            false => Flushed::Full,
        })
    }

    /// Bytes of the body that the visitor has taken. The framing of what it has not taken counts as if it were body, too.
    pub fn taken(&self) -> u64 {
        let backlog = self.output.backlog.as_ref();
        let left = backlog.map_or(0, |backlog| backlog.spool.length());
        self.output.bytes.saturating_sub(left)
    }

    /// The visitor, if something is kept for it.
    pub fn reader(&self, now: Instant) -> Option<Reader> {
        let backlog = self.output.backlog.as_ref()?;
        let rate = self.output.rate.as_ref()?;
        Some(Reader {
            rate: rate.per_second(now),
            age: rate.age(now),
            on_disk: backlog.spool.on_disk(),
            holds_backend: backlog.spool.is_full()
                && matches!(self.source, BodySource::Backend(..)),
        })
    }

    /// Has it be cut when its visitor has to be waited for next.
    pub const fn give_up(&mut self) {
        self.output.is_given_up = true;
    }

    /// Ends it before its end, so that the visitor can tell.
    pub fn cut(&mut self, conn: &mut Conn, reason: Close) -> Delivered {
        if self.output.framing == Framing::UntilClose {
            conn.reset_on_close();
        }
        Delivered::failed(self.taken(), reason)
    }

    /// Closes the backend's connection, if its response was not read to its end.
    pub fn close(&mut self, reason: Close) {
        if let BodySource::Backend(download, _) = &mut self.source {
            download.close(reason);
        }
    }

    /// What the backend still sends, for no visitor.
    pub fn into_drain(self, leftover: Vec<u8>) -> Option<Drain<U>> {
        match self.source {
            BodySource::Backend(download, _) if !download.is_empty() => {
                Drain::of_body(download, leftover)
            }
            _ => None,
        }
    }
}

impl Recipient<'_> {
    const fn persistence(&self, keep: bool) -> Persistence {
        match (keep, self.version) {
            (false, _) => Persistence::Close,
            (true, Some(Version::Http10)) => Persistence::KeepAlive,
            (true, _) => Persistence::Implied,
        }
    }
}

impl Delivered {
    /// Cut, after so many bytes.
    pub const fn failed(bytes: u64, ended: Close) -> Self {
        Self {
            bytes,
            ended,
            keep: false,
        }
    }
}

/// Whether a response with this status may say a length (RFC 9110 8.6).
const fn has_length(status: u16) -> bool {
    status >= 200 && status != 204
}
