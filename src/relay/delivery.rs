//! Delivers a response to the client.
//!
//! The head goes out in one write with what has arrived of the body. The body is written as it arrives; only what has
//! arrived already is gathered, so nothing waits in a buffer while the backend thinks.
//!
//! What the client does not take goes into a [spool](super::spool), so that the backend is free. A client that is about
//! to read gets a moment of grace before the backend's next bytes are read; bytes that it takes in that time need no
//! spool. When the spool is full, the backend waits as well. If other requests need that backend or that room, the
//! program cuts the clients that read most slowly ([`Delivery::reader`], [`Delivery::give_up`]).
//!
//! **Invariants**: the body is written in the framing that the head announces. A delivery that fails closes the
//! connection in a way that the client cannot mistake for a complete response: before the announced length, without the
//! last chunk, or by a reset where the end of the connection is the end of the body.

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
use crate::http::request_id::RequestId;
use crate::net::conn::Conn;
use crate::stats::Close;

/// The client, as far as it determines how a response is written.
#[derive(Clone, Copy, Debug)]
pub struct Recipient<'a> {
    /// The method of the request; `None` if it could not be read.
    pub method: Option<&'a Method>,
    /// The version of the request; `None` if it could not be read.
    pub version: Option<Version>,
    /// Whether the connection is to be kept.
    pub keep: bool,
    /// The value of the Date field; `None`: a response without one stays so.
    pub date: Option<&'a str>,
    /// The longest time in which the client may take nothing.
    pub patience: Duration,
    /// The id of the request, if the client gets it in a field of the response.
    pub request_id: Option<&'a RequestId>,
}

/// The body of a response.
pub enum Payload<U> {
    /// It is available.
    Body(Body),
    /// A file that is compressed while it is sent. Only for HTTP/1.1, and not for HEAD.
    Compressed(FileBody, GzipBody),
    /// It arrives from the backend, and may be compressed on its way.
    Backend(Download<U>, Option<GzipBody>),
}

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Bytes of the body, without framing, that the client's system or ours has taken.
    pub bytes: u64,
    /// [`Close::Complete`], or what went wrong.
    pub ended: Close,
    /// Whether the connection can be used for the next request.
    pub keep: bool,
}

/// How far a delivery came.
pub enum Progress {
    /// It continues when one of these happens.
    Blocked(Interests),
    /// There is more to do, but others should run first.
    Yield,
    /// The whole body was read from the backend; the rest is to be flushed.
    Relayed,
    /// It has ended.
    Done(Delivered),
}

/// A response on its way.
pub struct Delivery<U> {
    output: Output,
    source: BodySource<U>,
    /// Whether the output buffer holds its head.
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
    /// Begins a response: writes its head into `out`, behind the pending output.
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
            recipient.add_request_id(out);
        };
        let mut bytes = 0;
        let mut ended = Close::Complete;
        let (framing, behind) = match payload {
            Payload::Body(Body::Empty) => {
                let framing = match head.length {
                    // The length that GET would bring, or 0.
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
                    recipient.add_request_id(out);
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
                // A small file goes with the head in one write.
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

    /// Passes on what the backend sends, until the whole response was read.
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

    /// Writes as much of the rest as the client takes.
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
                // Frees the compressor for others.
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
        // The backlog stays: it knows when the client last took something.
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

    /// Bytes of the body that the client has taken. The framing of what it has not taken counts as body, too.
    pub fn taken(&self) -> u64 {
        let backlog = self.output.backlog.as_ref();
        let left = backlog.map_or(0, |backlog| backlog.spool.length());
        self.output.bytes.saturating_sub(left)
    }

    /// The client, if the spool holds something for it.
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

    /// Cuts the response the next time that the client has to be waited for.
    pub const fn give_up(&mut self) {
        self.output.is_given_up = true;
    }

    /// Ends it early, in a way that the client notices.
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

    /// Takes over what the backend still sends, which no client wants.
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
    /// Adds the id of the request to a head that was just written.
    fn add_request_id(&self, out: &mut Vec<u8>) {
        if let Some(id) = self.request_id {
            // In front of the empty line.
            out.truncate(out.len() - 2);
            id.write_field(out);
            out.extend_from_slice(b"\r\n");
        }
    }

    const fn persistence(&self, keep: bool) -> Persistence {
        match (keep, self.version) {
            (false, _) => Persistence::Close,
            (true, Some(Version::Http10)) => Persistence::KeepAlive,
            (true, _) => Persistence::Implied,
        }
    }
}

impl Delivered {
    /// A response that was cut after `bytes` bytes.
    pub const fn failed(bytes: u64, ended: Close) -> Self {
        Self {
            bytes,
            ended,
            keep: false,
        }
    }
}

/// Whether a response with this status may have a Content-Length (RFC 9110 8.6).
const fn has_length(status: u16) -> bool {
    status >= 200 && status != 204
}
