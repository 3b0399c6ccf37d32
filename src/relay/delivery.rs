//! A response on its way to the visitor.
//!
//! The head and what is at hand of the body go out in one write. A body is written as it arrives; only what is at hand is
//! gathered, so that nothing waits in a buffer while the backend thinks.
//!
//! What the visitor does not take is kept in a [`Spool`], so that the backend is free. A visitor that is about to read has a
//! [`MOMENT`] for that before the backend's next bytes are read: what goes from hand to hand need not be kept anywhere. Where
//! the spool may not grow, the backend waits as well, until the program wants the backend or the room for others and cuts
//! those visitors that read most slowly ([`Delivery::reader`], [`Delivery::give_up`]).
//!
//! **Invariants**: the framing that the head announces is what is written, or the connection is closed in a way that the
//! visitor can tell from a whole response: before the announced length, without the last chunk, or by a reset where the end
//! of the connection is the end of the body.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::context::{Interests, Tools};
use super::download::{BodyPart, Download, Filled};
use super::drain::Drain;
use super::file::{self, FileContent, Flushed};
use super::rate::{Rate, SLOWEST, WINDOW};
use super::spool::{Room, Spool};
use crate::backend::lease::Upstream;
use crate::content::gzip::GzipBody;
use crate::exchange::{Body, FileBody};
use crate::http::body::{Framing, LAST_CHUNK, write_chunk};
use crate::http::head::{Method, Persistence, ResponseHead, Version, write_rest};
use crate::net::buffer::Buffer;
use crate::net::conn::Conn;
use crate::net::poller::Interest;
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
    behind: BodySource<U>,
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

/// The visitor's end.
struct Output {
    framing: Framing,
    keep: bool,
    /// Bytes of the body that were written or are in the backlog.
    bytes: u64,
    /// What became of the body's source.
    ended: Close,
    patience: Duration,
    backlog: Option<Backlog>,
    /// How fast the visitor takes the response while there is a backlog, once there was one.
    rate: Option<Rate>,
    /// Since when there is none.
    paused: Option<Instant>,
    /// Its room or its backend is needed for others.
    is_given_up: bool,
    /// How much longer the visitor may be waited for before the backend's next bytes are read.
    moment: Duration,
}

/// What the visitor has not taken yet, and since when.
struct Backlog {
    spool: Spool,
    since: Instant,
    /// When it took something the last time.
    progress: Instant,
}

/// A visitor that has not taken all of a response yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    /// Bytes a second that it takes.
    pub rate: u64,
    /// How long it has had to take them.
    pub age: Duration,
    /// Bytes on disk that are kept for it.
    pub on_disk: u64,
    /// Its backend waits for it.
    pub holds_backend: bool,
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
                framing,
                keep,
                bytes,
                ended,
                patience: recipient.patience,
                backlog: None,
                rate: None,
                paused: None,
                is_given_up: false,
                moment: MOMENT,
            },
            behind,
            is_fresh: true,
        }
    }

    /// The backend's socket, while it is read from.
    pub fn fd(&mut self) -> Option<BorrowedFd<'_>> {
        match &mut self.behind {
            BodySource::Backend(download, _) => download.fd(),
            _ => None,
        }
    }

    /// Passes on what the backend sends, until all of it was read.
    pub fn relay(&mut self, conn: &mut Conn, tools: &mut Tools<'_>) -> Progress {
        let BodySource::Backend(download, gzip) = &mut self.behind else {
            return Progress::Relayed;
        };
        if !std::mem::take(&mut self.is_fresh) {
            tools.out.clear();
            download.resume();
        }
        match pull(&mut self.output, download, gzip.as_mut(), conn, tools) {
            Ok(PullResult::All) => {
                self.behind = BodySource::Nothing;
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
        let Self { output, behind, .. } = self;
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
                && matches!(self.behind, BodySource::Backend(..)),
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
        if let BodySource::Backend(download, _) = &mut self.behind {
            download.close(reason);
        }
    }

    /// What the backend still sends, for no visitor.
    pub fn into_drain(self, leftover: Vec<u8>) -> Option<Drain<U>> {
        match self.behind {
            BodySource::Backend(download, _) if !download.is_empty() => {
                Drain::of_body(download, leftover)
            }
            _ => None,
        }
    }
}

/// How pulling from the backend ended.
enum PullResult {
    /// The body is over, or broke.
    All,
    Blocked(Interests),
    Turn,
}

/// Passes on pieces of a body until it is over, or until the backend or the visitor has to be waited for. The error is the
/// reason for which the visitor's connection is cut.
fn pull<U: Upstream>(
    output: &mut Output,
    download: &mut Download<U>,
    mut gzip: Option<&mut GzipBody>,
    conn: &mut Conn,
    tools: &mut Tools<'_>,
) -> Result<PullResult, Close> {
    let gone = |_: io::Error| Close::WriteFailed;
    let end = output.bytes + TURN;
    if !output.flush(conn).map_err(gone)? && output.is_full() {
        return output.wait_for_room(tools).map(PullResult::Blocked);
    }
    loop {
        match download.next(tools.reply) {
            Ok(BodyPart::Bytes(piece)) => {
                let emitted = match &mut gzip {
                    None => output.emit(conn, piece, tools.out, tools.room),
                    Some(gzip) => {
                        gzip.push(piece);
                        match gzip.is_enough() {
                            true => output.emit_all(conn, gzip, tools.out, tools.room),
                            false => Ok(()),
                        }
                    }
                };
                emitted.map_err(gone)?;
            }
            Ok(BodyPart::Wait) => {
                if let Some(gzip) = &mut gzip {
                    gzip.flush();
                    output
                        .emit_all(conn, gzip, tools.out, tools.room)
                        .map_err(gone)?;
                }
                output
                    .write(conn, &[], tools.out, tools.room)
                    .map_err(gone)?;
                if output.is_full() || output.is_in_moment() {
                    return output.wait_for_room(tools).map(PullResult::Blocked);
                }
                if output.bytes >= end {
                    return Ok(PullResult::Turn);
                }
                match download.fill(tools) {
                    Ok(Filled::Some) => {}
                    Ok(Filled::Wait(interests)) => {
                        return output.wait_beside(interests).map(PullResult::Blocked);
                    }
                    Err(error) => {
                        output.ended = error.reason;
                        return Ok(PullResult::All);
                    }
                }
            }
            end => {
                // What came before a fault is the visitor's.
                let fault = end.err();
                if let Some(gzip) = &mut gzip {
                    match fault {
                        None => gzip.finish(),
                        Some(_) => gzip.flush(),
                    }
                    output
                        .emit_all(conn, gzip, tools.out, tools.room)
                        .map_err(gone)?;
                }
                match fault {
                    None if output.framing == Framing::Chunked => {
                        tools.out.extend_from_slice(LAST_CHUNK);
                    }
                    None => {}
                    Some(error) => output.ended = error.reason,
                }
                output
                    .write(conn, &[], tools.out, tools.room)
                    .map_err(gone)?;
                return Ok(PullResult::All);
            }
        }
        if output.is_full() {
            return output.wait_for_room(tools).map(PullResult::Blocked);
        }
    }
}

/// Compresses a file for as long as the client takes what comes out. [`Flushed::All`]: all of it was compressed; what is
/// left is in the backlog. The error is the reason for which the client's connection is cut.
fn compress(
    output: &mut Output,
    file: &mut FileBody,
    gzip: &mut GzipBody,
    conn: &mut Conn,
    tools: &mut Tools<'_>,
) -> Result<Flushed, Close> {
    let gone = |_: io::Error| Close::WriteFailed;
    let mut block = [0; Buffer::SIZE];
    let mut compressed = 0;
    if !output.flush(conn).map_err(gone)? {
        return Ok(Flushed::Full);
    }
    loop {
        let count = file::take(file, &mut block)?;
        gzip.push(&block[..count]);
        if count == 0 {
            gzip.finish();
        }
        if count == 0 || gzip.is_enough() {
            output
                .emit_all(conn, gzip, tools.out, tools.room)
                .map_err(gone)?;
        }
        compressed += count;
        let is_over = count == 0;
        if is_over {
            tools.out.extend_from_slice(LAST_CHUNK);
        }
        let is_due = compressed >= COMPRESSED;
        if is_over || is_due {
            output
                .write(conn, &[], tools.out, tools.room)
                .map_err(gone)?;
        }
        match (is_over, output.backlog.is_some()) {
            (true, _) => return Ok(Flushed::All),
            // A compressor has to wait here, so no more is kept than was written in one piece.
            (false, true) => return Ok(Flushed::Full),
            (false, false) if is_due => return Ok(Flushed::Turn),
            (false, false) => {}
        }
    }
}

impl Output {
    /// Appends a piece of the body to `out`, or writes both where that would become too much.
    fn emit(
        &mut self,
        conn: &mut Conn,
        piece: &[u8],
        out: &mut Vec<u8>,
        room: &dyn Fn() -> Room,
    ) -> io::Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        self.bytes += piece.len() as u64;
        let gathers = out.len() + piece.len() <= Buffer::SIZE;
        if self.framing == Framing::Chunked {
            write_chunk(piece, out);
        } else if gathers {
            out.extend_from_slice(piece);
        }
        match gathers {
            true => Ok(()),
            false if self.framing == Framing::Chunked => self.write(conn, &[], out, room),
            false => self.write(conn, piece, out, room),
        }
    }

    /// The same with what the compressor has ready.
    fn emit_all(
        &mut self,
        conn: &mut Conn,
        gzip: &mut GzipBody,
        out: &mut Vec<u8>,
        room: &dyn Fn() -> Room,
    ) -> io::Result<()> {
        let emitted = self.emit(conn, gzip.bytes(), out, room);
        gzip.clear();
        emitted
    }

    /// Writes `out` and a piece behind it, or keeps what the visitor does not take of them. `out` is empty then.
    fn write(
        &mut self,
        conn: &mut Conn,
        piece: &[u8],
        out: &mut Vec<u8>,
        room: &dyn Fn() -> Room,
    ) -> io::Result<()> {
        let mut written = 0;
        if self.flush(conn)? {
            let all = out.len() + piece.len();
            while written < all {
                let left = out.get(written..).unwrap_or_default();
                let behind = &piece[written.saturating_sub(out.len())..];
                match conn.write_both_now(left, behind)? {
                    0 => break,
                    count => written += count,
                }
            }
            self.took(written as u64);
            if written == all && conn.flush_now()? {
                out.clear();
                return Ok(());
            }
        }
        let backlog = self.backlog(room);
        backlog.spool.put(out.get(written..).unwrap_or_default());
        backlog
            .spool
            .put(&piece[written.saturating_sub(out.len())..]);
        out.clear();
        Ok(())
    }

    /// Keeps what the visitor has not taken of the head.
    fn keep_back(&mut self, tools: &Tools<'_>, written: usize) {
        let backlog = self.backlog(tools.room);
        backlog.spool.put(&tools.out[written..]);
    }

    /// Writes what the visitor takes of the backlog. Returns whether nothing of it is left.
    fn flush(&mut self, conn: &mut Conn) -> io::Result<bool> {
        if !self.flush_backlog(conn)? {
            return Ok(false);
        }
        if let Some(backlog) = self.backlog.take() {
            let now = Instant::now();
            self.moment = self.moment.saturating_sub(now - backlog.since);
            self.paused = Some(now);
        }
        Ok(true)
    }

    /// The same, and keeps the backlog.
    fn flush_backlog(&mut self, conn: &mut Conn) -> io::Result<bool> {
        let Some(backlog) = &mut self.backlog else {
            return Ok(true);
        };
        let mut taken = 0;
        let flushed = backlog.flush(conn, &mut taken);
        self.took(taken);
        flushed
    }

    /// What the visitor has not taken, which may be nothing yet.
    fn backlog(&mut self, room: &dyn Fn() -> Room) -> &mut Backlog {
        self.backlog.get_or_insert_with(|| {
            let backlog = Backlog::new(room());
            let now = backlog.since;
            match (&mut self.rate, self.paused.take()) {
                (Some(rate), Some(since)) => rate.pause(since, now),
                (Some(_), None) => {}
                // A visitor that takes much after a pause that it may make is not slow.
                (rate, _) => *rate = Some(Rate::new(now, WINDOW.max(self.patience))),
            }
            backlog
        })
    }

    /// The visitor has taken so much.
    fn took(&mut self, count: u64) {
        let Some(rate) = self.rate.as_mut().filter(|_| count > 0) else {
            return;
        };
        let now = Instant::now();
        rate.add(now, count);
        if let Some(backlog) = &mut self.backlog {
            backlog.progress = now;
        }
    }

    /// Why the visitor is not waited for any longer: it took nothing for too long, or too little lately once it had as
    /// long, or others need what is kept for it.
    fn complaint(&self, now: Instant) -> Option<Close> {
        let backlog = self.backlog.as_ref()?;
        let is_too_slow = |rate: Rate| rate.is_below(SLOWEST, self.patience, now);
        if now >= backlog.progress + self.patience {
            Some(Close::WriteTimeout)
        } else if self.is_given_up || self.rate.is_some_and(is_too_slow) {
            Some(Close::WriteSlow)
        } else {
            None
        }
    }

    /// Whether nothing more may be read for the visitor before it takes something.
    fn is_full(&self) -> bool {
        self.backlog
            .as_ref()
            .is_some_and(|backlog| backlog.spool.is_full())
    }

    /// Whether the visitor still has time to take what is at hand before the backend's next bytes are read.
    fn is_in_moment(&self) -> bool {
        self.backlog
            .as_ref()
            .is_some_and(|backlog| backlog.since.elapsed() < self.moment)
    }

    /// Waits for the visitor alone.
    fn wait_for_room(&mut self, tools: &Tools<'_>) -> Result<Interests, Close> {
        let now = Instant::now();
        let is_in_moment = self.is_in_moment() && !self.is_full();
        self.backlog(tools.room);
        if let Some(reason) = self.complaint(now) {
            return Err(reason);
        }
        let (moment, patience) = (self.moment, self.patience);
        let backlog = self.backlog(tools.room);
        Ok(Interests::room(match is_in_moment {
            true => backlog.since + moment,
            false => backlog.progress + patience,
        }))
    }

    /// Waits for the backend, and for the visitor if there is a backlog.
    fn wait_beside(&self, interests: Interests) -> Result<Interests, Close> {
        let Some(backlog) = &self.backlog else {
            return Ok(interests);
        };
        if let Some(reason) = self.complaint(Instant::now()) {
            return Err(reason);
        }
        Ok(Interests {
            visitor: Interest::Write,
            reads: false,
            until: interests.until.min(backlog.progress + self.patience),
            ..interests
        })
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

impl Backlog {
    fn new(room: Room) -> Self {
        let now = Instant::now();
        Self {
            spool: Spool::new(room),
            since: now,
            progress: now,
        }
    }

    /// Writes what the visitor takes now, and adds it to `taken`. Returns whether that was everything.
    fn flush(&mut self, conn: &mut Conn, taken: &mut u64) -> io::Result<bool> {
        while !self.spool.is_empty() {
            let count = conn.write_now(self.spool.front()?)?;
            if count == 0 {
                return Ok(false);
            }
            self.spool.took(count);
            *taken += count as u64;
        }
        conn.flush_now()
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

/// A visitor that is about to read is waited for so long in each delivery.
const MOMENT: Duration = Duration::from_millis(5);
/// So many bytes are relayed before others have their turn.
const TURN: u64 = 1 << 20;
/// So many bytes of a file are compressed before others have their turn: a few milliseconds of work.
const COMPRESSED: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_nothing_and_who_takes_too_little_are_told_apart() {
        // Seconds since the beginning and since the last progress, bytes taken then; a patience of 60 seconds.
        let check = |since: u64, progress: u64, taken: u64, expected: Option<Close>| {
            let mut output = Output {
                framing: Framing::Chunked,
                keep: true,
                bytes: 0,
                ended: Close::Complete,
                patience: Duration::from_secs(60),
                backlog: None,
                rate: None,
                paused: None,
                is_given_up: false,
                moment: MOMENT,
            };
            let backlog = output.backlog(&Room::default);
            let now = backlog.since + Duration::from_secs(since);
            let last = now - Duration::from_secs(progress);
            backlog.progress = last;
            if let Some(rate) = &mut output.rate {
                rate.add(last, taken);
            }
            let complaint = output.complaint(now);
            assert_eq!(complaint, expected, "{since} {progress} {taken}");
        };
        check(0, 0, 0, None);
        check(59, 59, 0, None);
        check(60, 60, 0, Some(Close::WriteTimeout));
        check(90, 60, 1_000_000, Some(Close::WriteTimeout));
        check(59, 1, 1, None);
        check(60, 1, 60 * 500 - 1, Some(Close::WriteSlow));
        check(60, 1, 60 * 500, None);
        // What was taken long ago does not count, and what was taken within the patience does.
        check(3600, 59, 70 * 500, None);
        check(3600, 1, 60 * 500 - 1, Some(Close::WriteSlow));
    }
}
