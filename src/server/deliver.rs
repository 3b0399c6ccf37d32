//! Writing a response to the visitor.
//!
//! The head and what is at hand of the body go out in one write. A body is written as it comes; only what is
//! at hand is gathered, so that nothing waits in a buffer while the backend thinks.
//!
//! Runs on a worker, and waits for the visitor only for a [`MOMENT`]. What the visitor does not take in that time goes
//! to a [`Spool`], so that the backend and the worker are free; then the delivery is [`Stalled`], the session parks
//! with it, and [`Stalled::resume`] goes on when there is room. Where the spool may not grow, the backend waits too,
//! without a worker.
//!
//! **Invariants**: the framing that the head announces is what is written, or the connection is closed in a way
//! that the visitor can tell from a whole answer: before the announced length, without the last chunk, or by a
//! reset where the end of the connection is the end of the body.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::spool::{Room, Spool};
use crate::exchange::{Body, Next, Response, Source};
use crate::http::body::{Framing, LAST_CHUNK, write_chunk};
use crate::http::head::{Method, Persistence, ResponseHead, Version};
use crate::net::buffer::Buffer;
use crate::net::conn::Conn;
use crate::stats::Close;

/// To whom a response goes.
pub(crate) struct Delivery<'a> {
    pub(crate) conn: &'a mut Conn,
    /// What the visitor has not taken of what was written before, and has to take first.
    pub(crate) owed: Vec<u8>,
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
    /// Where to keep what the visitor does not take.
    pub(crate) room: &'a dyn Fn() -> Room,
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

/// How far a delivery came.
pub(crate) enum Progress {
    /// To its end.
    Done(Delivered),
    /// Until the visitor took no more.
    Stalled(Box<Stalled>),
}

/// A delivery that waits for room to write.
pub(crate) struct Stalled {
    transfer: Transfer,
    backlog: Backlog,
    /// What comes behind the backlog: the backend, if the spool could not take all it had.
    source: Option<Box<dyn Source + Send>>,
}

/// A response on its way.
#[derive(Clone, Copy)]
struct Transfer {
    framing: Framing,
    keep: bool,
    /// Bytes of the body that were written or are in the backlog.
    bytes: u64,
    /// What became of the source.
    ended: Close,
    patience: Duration,
}

/// What the visitor has not taken yet, and since when.
struct Backlog {
    spool: Spool,
    since: Instant,
    /// When it took something the last time.
    progress: Instant,
    /// Bytes it took since.
    taken: u64,
}

/// The visitor's end of a delivery.
struct Wire<'a> {
    conn: &'a mut Conn,
    room: &'a dyn Fn() -> Room,
    backlog: Option<Backlog>,
    /// How long it may still be waited for in this delivery.
    moment: Duration,
}

/// How pulling from a source ended.
enum Pulled {
    /// The body is over, or broke.
    All,
    /// The spool is full.
    Full,
    /// The visitor is gone.
    Gone,
}

impl Delivery<'_> {
    /// Writes the response, using `out` to gather what goes into one write.
    pub(crate) fn deliver(mut self, response: Response<'_>, out: &mut Vec<u8>) -> Progress {
        out.clear();
        out.append(&mut self.owed);
        let Response { head, body, .. } = response;
        let (framing, bytes, source) = match body {
            Body::Empty => match head.length {
                // A length that only says what GET would bring, or that there is nothing.
                Some(length) if has_length(head.status) => (Framing::Length(length), None, None),
                _ => (Framing::Empty, None, None),
            },
            Body::Bytes(bytes) => {
                let framing = Framing::Length(bytes.len() as u64);
                let wanted = self.method != Some(&Method::Head);
                (framing, wanted.then_some(bytes), None)
            }
            Body::Stream { length, source } => {
                let framing = match (length, self.version) {
                    (Some(length), _) => Framing::Length(length),
                    (None, Some(Version::Http10)) => Framing::UntilClose,
                    (None, _) => Framing::Chunked,
                };
                self.keep &= framing != Framing::UntilClose;
                (framing, None, Some(source))
            }
        };
        self.write_head(&head, framing, out);
        let mut transfer = Transfer {
            framing,
            keep: self.keep,
            bytes: 0,
            ended: Close::Complete,
            patience: self.patience,
        };
        let mut wire = Wire {
            conn: self.conn,
            room: self.room,
            backlog: None,
            moment: MOMENT,
        };
        let Some(mut source) = source else {
            let bytes = bytes.unwrap_or_default();
            if wire.write(out, &bytes).is_err() {
                return failed(0, Close::WriteFailed);
            }
            transfer.bytes = bytes.len() as u64;
            return transfer.rest(wire, None);
        };
        match transfer.pull(&mut wire, &mut *source, out) {
            Pulled::All => transfer.rest(wire, None),
            Pulled::Full => transfer.rest(wire, Some(source.detach())),
            Pulled::Gone => failed(transfer.bytes, Close::WriteFailed),
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
}

impl Stalled {
    /// Until when the visitor has to take something.
    pub(crate) fn deadline(&self) -> Instant {
        self.backlog.progress + self.transfer.patience
    }

    /// Whether a backend waits behind the backlog, so that going on may take a worker's time.
    pub(crate) fn has_source(&self) -> bool {
        self.source.is_some()
    }

    /// Whether the visitor has taken everything that is at hand. An answer that is taken too slowly, or by nobody any
    /// more, ends here.
    pub(crate) fn flush(&mut self, conn: &mut Conn) -> Result<bool, Delivered> {
        let bytes = self.transfer.bytes;
        match self.backlog.flush(conn) {
            Ok(true) => Ok(true),
            Ok(false) if self.is_too_slow(Instant::now()) => {
                Err(cut(self.transfer.framing, conn, bytes, Close::WriteTimeout))
            }
            Ok(false) => Ok(false),
            Err(_) => Err(Delivered::failed(bytes, Close::WriteFailed)),
        }
    }

    /// Goes on after [`Stalled::flush`] has said that everything was taken.
    pub(crate) fn resume(
        self,
        conn: &mut Conn,
        room: &dyn Fn() -> Room,
        out: &mut Vec<u8>,
    ) -> Progress {
        let mut transfer = self.transfer;
        let mut wire = Wire {
            conn,
            room,
            backlog: None,
            moment: Duration::ZERO,
        };
        let Some(mut source) = self.source else {
            return transfer.rest(wire, None);
        };
        out.clear();
        match transfer.pull(&mut wire, &mut *source, out) {
            Pulled::All => transfer.rest(wire, None),
            Pulled::Full => transfer.rest(wire, Some(source)),
            Pulled::Gone => failed(transfer.bytes, Close::WriteFailed),
        }
    }

    /// Ends it, for a reason of the caller's.
    pub(crate) fn cut(self, conn: &mut Conn, reason: Close) -> Delivered {
        cut(self.transfer.framing, conn, self.transfer.bytes, reason)
    }

    /// Nothing for too long, or too little on average once it had as long.
    fn is_too_slow(&self, now: Instant) -> bool {
        let Backlog {
            since,
            progress,
            taken,
            ..
        } = self.backlog;
        let elapsed = now.saturating_duration_since(since);
        let patience = self.transfer.patience;
        now >= progress + patience || elapsed > patience && taken < SLOWEST * elapsed.as_secs()
    }
}

impl Transfer {
    /// Pulls the body from its source and writes it until it is over or the spool is full.
    fn pull(&mut self, wire: &mut Wire<'_>, source: &mut dyn Source, out: &mut Vec<u8>) -> Pulled {
        loop {
            // What is in `out` goes first; a piece too large to be gathered goes right behind it.
            let written = match source.next() {
                Ok(Next::Piece(piece)) => {
                    self.bytes += piece.len() as u64;
                    let gathers = out.len() + piece.len() <= Buffer::SIZE;
                    match self.framing {
                        Framing::Chunked => {
                            write_chunk(piece, out);
                            if gathers {
                                continue;
                            }
                            wire.write(out, &[])
                        }
                        _ if gathers => {
                            out.extend_from_slice(piece);
                            continue;
                        }
                        _ => wire.write(out, piece),
                    }
                }
                Ok(Next::Wait) => {
                    let written = wire.write(out, &[]);
                    if wire.is_full() {
                        out.clear();
                        return Pulled::Full;
                    }
                    let visitor = wire.backlog.is_some().then(|| wire.conn.as_fd());
                    match written.is_ok().then(|| source.wait(visitor)) {
                        Some(Err(error)) => {
                            self.ended = error.reason;
                            return Pulled::All;
                        }
                        _ => written,
                    }
                }
                Ok(Next::End) => {
                    if self.framing == Framing::Chunked {
                        out.extend_from_slice(LAST_CHUNK);
                    }
                    return match wire.write(out, &[]) {
                        Ok(()) => Pulled::All,
                        Err(_) => Pulled::Gone,
                    };
                }
                Err(error) => {
                    // What came before the fault is the visitor's.
                    self.ended = error.reason;
                    let _ = wire.write(out, &[]);
                    return Pulled::All;
                }
            };
            out.clear();
            if written.is_err() {
                // The backend need not suffer for its visitor.
                source.give_up();
                return Pulled::Gone;
            }
            if wire.is_full() {
                return Pulled::Full;
            }
        }
    }

    /// All that could be written is: the end, or a pause.
    fn rest(self, wire: Wire<'_>, source: Option<Box<dyn Source + Send>>) -> Progress {
        if let Some(backlog) = wire.backlog {
            return Progress::Stalled(Box::new(Stalled {
                transfer: self,
                backlog,
                source,
            }));
        }
        Progress::Done(match self.ended {
            Close::Complete => Delivered {
                bytes: self.bytes,
                ended: Close::Complete,
                keep: self.keep,
            },
            reason => cut(self.framing, wire.conn, self.bytes, reason),
        })
    }
}

impl Wire<'_> {
    /// Writes two pieces, or keeps what the visitor does not take of them.
    fn write(&mut self, first: &[u8], second: &[u8]) -> io::Result<()> {
        if let Some(backlog) = &mut self.backlog {
            if !backlog.flush(self.conn)? {
                backlog.spool.put(first);
                backlog.spool.put(second);
                return Ok(());
            }
            self.backlog = None;
        }
        let mut written = 0;
        let all = first.len() + second.len();
        while written < all {
            let left = first.get(written..).unwrap_or_default();
            let behind = &second[written.saturating_sub(first.len())..];
            let count = self.conn.write_both_now(left, behind)?;
            written += count;
            if count == 0 && !self.wait_a_moment()? {
                let backlog = self.backlog.insert(Backlog::new((self.room)()));
                backlog.spool.put(left);
                backlog.spool.put(behind);
                return Ok(());
            }
        }
        if !self.conn.flush_now()? {
            self.backlog = Some(Backlog::new((self.room)()));
        }
        Ok(())
    }

    /// Waits for room if that was not done for too long already.
    fn wait_a_moment(&mut self) -> io::Result<bool> {
        if self.moment.is_zero() {
            return Ok(false);
        }
        let begun = Instant::now();
        let there_is_room = self.conn.wait_for_room(self.moment)?;
        self.moment = self.moment.saturating_sub(begun.elapsed());
        Ok(there_is_room)
    }

    fn is_full(&self) -> bool {
        self.backlog
            .as_ref()
            .is_some_and(|backlog| backlog.spool.is_full())
    }
}

impl Backlog {
    fn new(room: Room) -> Self {
        let now = Instant::now();
        Self {
            spool: Spool::new(room),
            since: now,
            progress: now,
            taken: 0,
        }
    }

    /// Writes what the visitor takes now. Returns whether that was everything.
    fn flush(&mut self, conn: &mut Conn) -> io::Result<bool> {
        while !self.spool.is_empty() {
            let count = conn.write_now(self.spool.next()?)?;
            if count == 0 {
                return Ok(false);
            }
            self.spool.took(count);
            self.taken += count as u64;
            self.progress = Instant::now();
        }
        conn.flush_now()
    }
}

impl Delivered {
    const fn failed(bytes: u64, ended: Close) -> Self {
        Self {
            bytes,
            ended,
            keep: false,
        }
    }
}

/// Ends an answer that lacks its end so that the visitor can tell.
fn cut(framing: Framing, conn: &mut Conn, bytes: u64, reason: Close) -> Delivered {
    if framing == Framing::UntilClose {
        conn.reset_on_close();
    }
    Delivered::failed(bytes, reason)
}

const fn failed(bytes: u64, ended: Close) -> Progress {
    Progress::Done(Delivered::failed(bytes, ended))
}

/// Whether a response with this status may say a length (RFC 9110 8.6).
const fn has_length(status: u16) -> bool {
    status >= 200 && status != 204
}

/// A visitor that is about to read is waited for so long in each delivery: what goes from hand to hand need not be
/// kept anywhere.
const MOMENT: Duration = Duration::from_millis(5);
/// An answer must be taken at so many bytes a second.
const SLOWEST: u64 = 500;
