//! The client's end of a response: writes to the client, and keeps what it does not take in a [`Spool`].

use std::io;
use std::time::{Duration, Instant};

use super::context::{Interests, Tools};
use super::rate::{Rate, SLOWEST, WINDOW};
use super::spool::{Room, Spool};
use crate::content::gzip::GzipBody;
use crate::http::body::{Framing, write_chunk};
use crate::net::buffer::Buffer;
use crate::net::conn::Conn;
use crate::net::poller::Interest;
use crate::stats::Close;

/// The client's end of a response.
pub(super) struct Output {
    pub(super) framing: Framing,
    pub(super) keep: bool,
    /// Bytes of the body that were written or are in the backlog.
    pub(super) bytes: u64,
    /// [`Close::Complete`], or what went wrong with the body's source.
    pub(super) ended: Close,
    pub(super) patience: Duration,
    pub(super) backlog: Option<Backlog>,
    /// How fast the client takes the response while there is a backlog; `None` before the first one.
    pub(super) rate: Option<Rate>,
    /// Since when there has been no backlog.
    pub(super) paused: Option<Instant>,
    /// Whether others need its room or its backend.
    pub(super) is_given_up: bool,
    /// How much longer to wait for the client before the backend's next bytes are read.
    pub(super) grace: Duration,
}

/// What the client has not taken yet.
pub(super) struct Backlog {
    pub(super) spool: Spool,
    pub(super) since: Instant,
    /// When the client last took something.
    pub(super) progress: Instant,
}

/// A client that has not taken all of a response yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    /// Bytes per second that it takes.
    pub rate: u64,
    /// How long the rate has been measured.
    pub age: Duration,
    /// Bytes on disk that are kept for it.
    pub on_disk: u64,
    /// Whether its backend waits for it.
    pub holds_backend: bool,
}

impl Output {
    /// An output to which nothing was written yet.
    pub(super) const fn new(framing: Framing, keep: bool, patience: Duration) -> Self {
        Self {
            framing,
            keep,
            bytes: 0,
            ended: Close::Complete,
            patience,
            backlog: None,
            rate: None,
            paused: None,
            is_given_up: false,
            grace: GRACE,
        }
    }

    /// Appends a piece of the body to `out`, or writes both where that would exceed a buffer.
    pub(super) fn emit(
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

    /// The same, with the compressor's output.
    pub(super) fn emit_all(
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

    /// Writes `out` and a piece behind it, and keeps what the client does not take. `out` is empty afterwards.
    pub(super) fn write(
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

    /// Keeps what the client has not taken of the head.
    pub(super) fn keep_back(&mut self, tools: &Tools<'_>, written: usize) {
        let backlog = self.backlog(tools.room);
        backlog.spool.put(&tools.out[written..]);
    }

    /// Writes what the client takes of the backlog. Returns whether the backlog is empty.
    pub(super) fn flush(&mut self, conn: &mut Conn) -> io::Result<bool> {
        if !self.flush_backlog(conn)? {
            return Ok(false);
        }
        if let Some(backlog) = self.backlog.take() {
            let now = Instant::now();
            self.grace = self.grace.saturating_sub(now - backlog.since);
            self.paused = Some(now);
        }
        Ok(true)
    }

    /// The same, but keeps an empty backlog.
    pub(super) fn flush_backlog(&mut self, conn: &mut Conn) -> io::Result<bool> {
        let Some(backlog) = &mut self.backlog else {
            return Ok(true);
        };
        let mut taken = 0;
        let flushed = backlog.flush(conn, &mut taken);
        self.took(taken);
        flushed
    }

    /// The backlog, which is created if there is none.
    pub(super) fn backlog(&mut self, room: &dyn Fn() -> Room) -> &mut Backlog {
        self.backlog.get_or_insert_with(|| {
            let backlog = Backlog::new(room());
            let now = backlog.since;
            match (&mut self.rate, self.paused.take()) {
                (Some(rate), Some(since)) => rate.pause(since, now),
                (Some(_), None) => {}
                // A client may pause for its patience; taking much afterwards, it is not slow.
                (rate, _) => *rate = Some(Rate::new(now, WINDOW.max(self.patience))),
            }
            backlog
        })
    }

    /// Notes that the client has taken `count` bytes.
    pub(super) fn took(&mut self, count: u64) {
        let Some(rate) = self.rate.as_mut().filter(|_| count > 0) else {
            return;
        };
        let now = Instant::now();
        rate.add(now, count);
        if let Some(backlog) = &mut self.backlog {
            backlog.progress = now;
        }
    }

    /// The reason to cut the response: the client took nothing for too long, or too little on average, or others need
    /// what is kept for it.
    pub(super) fn reason_to_cut(&self, now: Instant) -> Option<Close> {
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

    /// Whether the client has to take something before more may be read.
    pub(super) fn is_full(&self) -> bool {
        self.backlog
            .as_ref()
            .is_some_and(|backlog| backlog.spool.is_full())
    }

    /// Whether the client may still take what is there before the backend's next bytes are read.
    pub(super) fn is_in_grace(&self) -> bool {
        self.backlog
            .as_ref()
            .is_some_and(|backlog| backlog.since.elapsed() < self.grace)
    }

    /// Waits for the client alone.
    pub(super) fn wait_for_room(&mut self, tools: &Tools<'_>) -> Result<Interests, Close> {
        let now = Instant::now();
        let is_in_moment = self.is_in_grace() && !self.is_full();
        self.backlog(tools.room);
        if let Some(reason) = self.reason_to_cut(now) {
            return Err(reason);
        }
        let (moment, patience) = (self.grace, self.patience);
        let backlog = self.backlog(tools.room);
        Ok(Interests::room(match is_in_moment {
            true => backlog.since + moment,
            false => backlog.progress + patience,
        }))
    }

    /// Waits for the backend, and for the client if there is a backlog.
    pub(super) fn wait_beside(&self, interests: Interests) -> Result<Interests, Close> {
        let Some(backlog) = &self.backlog else {
            return Ok(interests);
        };
        if let Some(reason) = self.reason_to_cut(Instant::now()) {
            return Err(reason);
        }
        Ok(Interests {
            client: Interest::Write,
            reads: false,
            until: interests.until.min(backlog.progress + self.patience),
            ..interests
        })
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

    /// Writes what the client takes now, and adds it to `taken`. Returns whether that was everything.
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

/// Time, in each delivery, for a client that is about to read.
const GRACE: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_and_slow_clients_differ() {
        // Seconds since the beginning and since the last progress, and bytes taken then; a patience of 60 seconds.
        let check = |since: u64, progress: u64, taken: u64, expected: Option<Close>| {
            let patience = Duration::from_secs(60);
            let mut output = Output::new(Framing::Chunked, true, patience);
            let backlog = output.backlog(&Room::default);
            let now = backlog.since + Duration::from_secs(since);
            let last = now - Duration::from_secs(progress);
            backlog.progress = last;
            if let Some(rate) = &mut output.rate {
                rate.add(last, taken);
            }
            let complaint = output.reason_to_cut(now);
            assert_eq!(complaint, expected, "{since} {progress} {taken}");
        };
        check(0, 0, 0, None);
        check(59, 59, 0, None);
        check(60, 60, 0, Some(Close::WriteTimeout));
        check(90, 60, 1_000_000, Some(Close::WriteTimeout));
        check(59, 1, 1, None);
        check(60, 1, 60 * 500 - 1, Some(Close::WriteSlow));
        check(60, 1, 60 * 500, None);
        // Only what was taken within the patience counts.
        check(3600, 59, 70 * 500, None);
        check(3600, 1, 60 * 500 - 1, Some(Close::WriteSlow));
    }
}
