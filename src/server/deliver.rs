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
//! A file needs no spool: what the visitor does not take stays where it is, in memory or on disk, and the session parks
//! with its place in it. Nothing waits for the visitor then, not even a moment.
//!
//! **Invariants**: the framing that the head announces is what is written, or the connection is closed in a way
//! that the visitor can tell from a whole answer: before the announced length, without the last chunk, or by a
//! reset where the end of the connection is the end of the body.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::spool::{Room, Spool};
use crate::exchange::{Body, FileBody, Next, Piece, Response, Source, Stored};
use crate::http::body::{Framing, LAST_CHUNK, write_chunk};
use crate::http::head::{Method, Persistence, ResponseHead, Version, write_rest};
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
    /// Bytes of the body that the visitor's system, or ours, has taken, without framing.
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
    behind: Behind,
    /// There is room for more, but others should have their turn first.
    due: bool,
}

/// What comes behind the backlog.
enum Behind {
    Nothing,
    /// The backend, if the spool could not take all it had.
    Backend(Box<dyn Source + Send>),
    File(Content),
}

/// What is left to be sent of a file.
enum Content {
    Stored(Arc<Stored>, Range<usize>),
    OnDisk(FileBody),
}

/// How far a visitor has taken what is at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flushed {
    /// All of it.
    All,
    /// There is no room for more; the poller tells when there is.
    Full,
    /// So much that others should have their turn.
    Turn,
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
            Body::Stored {
                stored,
                range,
                ready,
            } => {
                let framing = Framing::Length(range.len() as u64);
                match ready {
                    true => {
                        out.extend_from_slice(&stored.head);
                        write_rest(self.persistence(), self.date, out);
                    }
                    false => self.write_head(&head, framing, out),
                }
                return self.deliver_file(framing, Content::Stored(stored, range), out);
            }
            Body::File(body) => {
                let framing = Framing::Length(body.length());
                self.write_head(&head, framing, out);
                return self.deliver_file(framing, Content::OnDisk(body), out);
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
        let mut transfer = self.transfer(framing);
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
            return transfer.rest(wire, Behind::Nothing);
        };
        match transfer.pull(&mut wire, &mut *source, out) {
            Pulled::All => transfer.rest(wire, Behind::Nothing),
            Pulled::Full => transfer.rest(wire, Behind::Backend(source.detach())),
            Pulled::Gone => {
                let bytes = transfer.taken(wire.backlog.as_ref());
                failed(bytes, Close::WriteFailed)
            }
        }
    }

    /// Writes a head, which is in `out`, and a file behind it.
    fn deliver_file(self, framing: Framing, mut file: Content, out: &mut Vec<u8>) -> Progress {
        let mut transfer = self.transfer(framing);
        let mut wire = Wire {
            conn: self.conn,
            room: self.room,
            backlog: None,
            moment: Duration::ZERO,
        };
        // What is small goes with the head in one write.
        let is_wanted = self.method != Some(&Method::Head);
        match is_wanted.then(|| file.join(out)) {
            None => file.clear(),
            Some(Ok(joined)) => transfer.bytes = joined,
            Some(Err(reason)) => transfer.ended = reason,
        }
        if file.is_empty() || transfer.ended != Close::Complete {
            return match wire.write(out, &[]) {
                Ok(()) => transfer.rest(wire, Behind::Nothing),
                Err(_) => failed(0, Close::WriteFailed),
            };
        }
        let written = match &file {
            Content::Stored(stored, range) => {
                wire.conn.write_both_now(out, &stored.bytes[range.clone()])
            }
            Content::OnDisk(_) => wire.conn.write_more_now(out),
        };
        let Ok(written) = written else {
            return failed(0, Close::WriteFailed);
        };
        if let Some(count) = written.checked_sub(out.len()) {
            file.took(count);
            transfer.bytes = count as u64;
            if file.is_empty() && wire.conn.flush_now().is_ok_and(|flushed| flushed) {
                return transfer.rest(wire, Behind::Nothing);
            }
        }
        let mut backlog = Backlog::new((self.room)());
        backlog.spool.put(out.get(written..).unwrap_or_default());
        let mut stalled = Stalled {
            transfer,
            backlog,
            behind: Behind::File(file),
            due: false,
        };
        match stalled.flush(wire.conn, out) {
            Ok(true) => stalled.transfer.rest(wire, Behind::Nothing),
            Ok(false) => Progress::Stalled(Box::new(stalled)),
            Err(delivered) => Progress::Done(delivered),
        }
    }

    const fn transfer(&self, framing: Framing) -> Transfer {
        Transfer {
            framing,
            keep: self.keep,
            bytes: 0,
            ended: Close::Complete,
            patience: self.patience,
        }
    }

    const fn persistence(&self) -> Persistence {
        match (self.keep, self.version) {
            (false, _) => Persistence::Close,
            (true, Some(Version::Http10)) => Persistence::KeepAlive,
            (true, _) => Persistence::Implied,
        }
    }

    fn write_head(&self, head: &ResponseHead, framing: Framing, out: &mut Vec<u8>) {
        head.write(framing, self.persistence(), Some(self.date), out);
    }
}

impl Stalled {
    /// Until when the visitor has to take something.
    pub(crate) fn deadline(&self) -> Instant {
        self.backlog.progress + self.transfer.patience
    }

    /// Whether a backend waits behind the backlog, so that going on may take a worker's time.
    pub(crate) const fn has_source(&self) -> bool {
        matches!(self.behind, Behind::Backend(_))
    }

    /// Whether it need not wait for room to go on: the poller, which tells of new room only, would not tell of it.
    pub(crate) const fn is_due(&self) -> bool {
        self.due
    }

    /// Gives the visitor what is at hand and what it has room for, a file too. Returns whether it has taken everything. An
    /// answer that is taken too slowly, or by nobody any more, ends here.
    pub(crate) fn flush(&mut self, conn: &mut Conn, out: &mut Vec<u8>) -> Result<bool, Delivered> {
        let flushed = match self.backlog.flush(conn) {
            Ok(true) => self.flush_file(conn, out),
            Ok(false) => Ok(Flushed::Full),
            Err(_) => Err(Close::WriteFailed),
        };
        self.due = flushed == Ok(Flushed::Turn);
        match flushed {
            Ok(Flushed::Full) => {
                let patience = self.transfer.patience;
                match self.backlog.complaint(patience, Instant::now()) {
                    Some(reason) => Err(self.cut(conn, reason)),
                    None => Ok(false),
                }
            }
            Ok(flushed) => Ok(flushed == Flushed::All),
            Err(reason) => Err(self.cut(conn, reason)),
        }
    }

    fn flush_file(&mut self, conn: &mut Conn, out: &mut Vec<u8>) -> Result<Flushed, Close> {
        let Behind::File(file) = &mut self.behind else {
            return Ok(Flushed::All);
        };
        let mut taken = 0;
        let sent = file.send(conn, out, &mut taken);
        if taken > 0 {
            self.backlog.took(taken);
            self.transfer.bytes += taken;
        }
        match sent? {
            Flushed::All if !conn.flush_now().map_err(|_| Close::WriteFailed)? => Ok(Flushed::Full),
            flushed => Ok(flushed),
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
        let Behind::Backend(mut source) = self.behind else {
            return transfer.rest(wire, Behind::Nothing);
        };
        out.clear();
        match transfer.pull(&mut wire, &mut *source, out) {
            Pulled::All => transfer.rest(wire, Behind::Nothing),
            Pulled::Full => transfer.rest(wire, Behind::Backend(source)),
            Pulled::Gone => {
                let bytes = transfer.taken(wire.backlog.as_ref());
                failed(bytes, Close::WriteFailed)
            }
        }
    }

    /// Ends it before its end.
    pub(crate) fn cut(&self, conn: &mut Conn, reason: Close) -> Delivered {
        let bytes = self.transfer.taken(Some(&self.backlog));
        cut(self.transfer.framing, conn, bytes, reason)
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

    /// Bytes of the body that the visitor has taken. The framing of what it has not taken counts as if it were body, too.
    fn taken(&self, backlog: Option<&Backlog>) -> u64 {
        let left = backlog.map_or(0, |backlog| backlog.spool.length());
        self.bytes.saturating_sub(left)
    }

    /// All that could be written is: the end, or a pause.
    fn rest(self, wire: Wire<'_>, behind: Behind) -> Progress {
        if let Some(backlog) = wire.backlog {
            return Progress::Stalled(Box::new(Stalled {
                transfer: self,
                backlog,
                behind,
                due: false,
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

    /// Why the visitor is not waited for any longer: it took nothing for too long, or, once it had as long, too little
    /// on average.
    fn complaint(&self, patience: Duration, now: Instant) -> Option<Close> {
        let elapsed = now.saturating_duration_since(self.since);
        if now >= self.progress + patience {
            Some(Close::WriteTimeout)
        } else if elapsed > patience && self.taken < SLOWEST * elapsed.as_secs() {
            Some(Close::WriteSlow)
        } else {
            None
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
            self.took(count as u64);
        }
        conn.flush_now()
    }

    /// The visitor has taken something.
    fn took(&mut self, count: u64) {
        self.taken += count;
        self.progress = Instant::now();
    }
}

impl Content {
    /// Nothing of it is to be sent.
    fn clear(&mut self) {
        match self {
            Self::Stored(_, range) => *range = 0..0,
            Self::OnDisk(body) => body.pieces.clear(),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Stored(_, range) => range.is_empty(),
            Self::OnDisk(body) => body.pieces.is_empty(),
        }
    }

    /// Puts all of it behind the head, if it is small, so that one write will do. Returns how much that is.
    fn join(&mut self, out: &mut Vec<u8>) -> Result<u64, Close> {
        match self {
            Self::Stored(stored, range) if range.len() <= JOINED => {
                out.extend_from_slice(&stored.bytes[range.clone()]);
                let count = range.len();
                *range = 0..0;
                Ok(count as u64)
            }
            Self::OnDisk(body) if body.length() <= Buffer::SIZE as u64 => {
                let head = out.len();
                for piece in std::mem::take(&mut body.pieces) {
                    match piece {
                        Piece::Text(text) => out.extend_from_slice(&text),
                        Piece::Range(range) => read_behind(&body.file, range, out)?,
                    }
                }
                Ok((out.len() - head) as u64)
            }
            _ => Ok(0),
        }
    }

    /// So many bytes of a file in memory were written.
    const fn took(&mut self, count: usize) {
        if let Self::Stored(_, range) = self {
            range.start += count;
        }
    }

    /// Writes as much as the visitor takes and as is due before others have their turn; adds that to `taken`.
    fn send(
        &mut self,
        conn: &mut Conn,
        block: &mut Vec<u8>,
        taken: &mut u64,
    ) -> Result<Flushed, Close> {
        let gone = |_| Close::WriteFailed;
        if matches!(self, Self::OnDisk(_)) && !conn.is_secure() {
            conn.never_wait().map_err(gone)?;
        }
        while *taken < TURN && !self.is_empty() {
            let count = match self {
                Self::Stored(stored, range) => {
                    let count = conn.write_now(&stored.bytes[range.clone()]).map_err(gone)?;
                    range.start += count;
                    count
                }
                Self::OnDisk(body) => send_piece(body, conn, block)?,
            };
            if count == 0 {
                return Ok(Flushed::Full);
            }
            *taken += count as u64;
        }
        Ok(match self.is_empty() {
            true => Flushed::All,
            false => Flushed::Turn,
        })
    }
}

/// Writes what the visitor takes of the next piece. 0: there is no room.
fn send_piece(body: &mut FileBody, conn: &mut Conn, block: &mut Vec<u8>) -> Result<usize, Close> {
    let FileBody { file, pieces } = body;
    let is_last = pieces.len() == 1;
    let Some(piece) = pieces.front_mut() else {
        return Ok(0);
    };
    let (count, done) = match piece {
        Piece::Text(text) => {
            let count = match is_last {
                true => conn.write_now(text),
                false => conn.write_more_now(text),
            };
            let count = count.map_err(|_| Close::WriteFailed)?;
            text.drain(..count);
            (count, text.is_empty())
        }
        Piece::Range(range) => {
            let most = (range.end - range.start).min(TURN);
            let sent = match conn.is_secure() {
                true => None,
                // Bounded by the line above.
                false => match conn.send_file_now(file, range.start, most as usize) {
                    Ok(Some(0)) => return Err(Close::FileFailed),
                    // Some file systems cannot do that.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => None,
                    Err(error) if error.raw_os_error() == Some(nix::libc::EIO) => {
                        return Err(Close::FileFailed);
                    }
                    Err(_) => return Err(Close::WriteFailed),
                    Ok(sent) => Some(sent.unwrap_or(0)),
                },
            };
            let count = match sent {
                Some(count) => count,
                None => {
                    block.clear();
                    let end = range.start + most.min(Buffer::SIZE as u64);
                    read_behind(file, range.start..end, block)?;
                    conn.write_now(block).map_err(|_| Close::WriteFailed)?
                }
            };
            range.start += count as u64;
            (count, range.is_empty())
        }
    };
    if done {
        pieces.pop_front();
    }
    Ok(count)
}

/// Reads a small part of a file, behind what there is.
fn read_behind(file: &File, range: Range<u64>, out: &mut Vec<u8>) -> Result<(), Close> {
    let start = out.len();
    // A block at the most.
    out.resize(start + (range.end - range.start) as usize, 0);
    file.read_exact_at(&mut out[start..], range.start)
        .map_err(|_| {
            out.truncate(start);
            Close::FileFailed
        })
}

impl Delivered {
    /// Cut, after so many bytes.
    pub(crate) const fn failed(bytes: u64, ended: Close) -> Self {
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
/// So much of a file in memory is rather copied than written in two pieces.
const JOINED: usize = 4 * 1024;
/// So much of a file is written before others have their turn.
const TURN: u64 = 2 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_nothing_and_who_takes_too_little_are_told_apart() {
        // Seconds since the beginning and since the last progress, bytes taken; a patience of 60 seconds.
        let check = |since: u64, progress: u64, taken: u64, expected: Option<Close>| {
            let now = Instant::now() + Duration::from_secs(1000);
            let backlog = Backlog {
                since: now - Duration::from_secs(since),
                progress: now - Duration::from_secs(progress),
                taken,
                ..Backlog::new(Room::default())
            };
            let complaint = backlog.complaint(Duration::from_secs(60), now);
            assert_eq!(complaint, expected, "{since} {progress} {taken}");
        };
        check(0, 0, 0, None);
        check(59, 59, 0, None);
        check(60, 60, 0, Some(Close::WriteTimeout));
        check(90, 60, 1_000_000, Some(Close::WriteTimeout));
        check(60, 1, 1, None);
        check(61, 1, 61 * 500 - 1, Some(Close::WriteSlow));
        check(61, 1, 61 * 500, None);
        check(900, 59, 900 * 500, None);
        check(900, 59, 899 * 500, Some(Close::WriteSlow));
    }
}
