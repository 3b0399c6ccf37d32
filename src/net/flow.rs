//! One direction of a [tunnel](super::tunnel), and the readiness of its two sockets.

use std::time::Instant;

use super::conn::Conn;
use crate::stats::Close;

/// The readiness of a socket, as far as is known.
#[derive(Clone, Copy)]
pub(super) struct EndReadiness {
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The peer has ended its sending side: the end follows the readable bytes, without a further event.
    pub(super) ended: bool,
    /// That end was read.
    pub(super) silent: bool,
}

/// One direction of a tunnel.
pub(super) struct Flow {
    /// Bytes that were read and not written completely; `taken` of them are written.
    pub(super) waiting: Vec<u8>,
    pub(super) taken: usize,
    /// Number of bytes written.
    pub(super) bytes: u64,
    pub(super) stage: FlowStage,
    /// The time of the last progress.
    pub(super) moved: Instant,
    /// Since when the sink accepts nothing.
    pub(super) stuck: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum FlowStage {
    Open,
    /// The source has ended.
    Ending,
    /// The end was passed on.
    Over,
}

/// One end of a tunnel.
pub(super) struct TunnelEnd<'a> {
    pub(super) conn: &'a mut Conn,
    pub(super) ready: &'a mut EndReadiness,
}

/// The end of a flow that has failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum BrokenEnd {
    Source,
    Sink,
}

impl Flow {
    pub(super) const fn new(waiting: Vec<u8>, now: Instant) -> Self {
        Self {
            waiting,
            taken: 0,
            bytes: 0,
            stage: FlowStage::Open,
            moved: now,
            stuck: None,
        }
    }

    /// Carries a limited number of blocks. Returns whether there may be more to carry now.
    pub(super) fn carry(
        &mut self,
        from: &mut TunnelEnd<'_>,
        to: &mut TunnelEnd<'_>,
        block: &mut [u8],
        now: Instant,
    ) -> Result<bool, BrokenEnd> {
        for _ in 0..PIECES {
            if !self.drain(to, now)? {
                return Ok(false);
            }
            match self.stage {
                FlowStage::Over => return Ok(false),
                FlowStage::Ending => return self.pass_end(to, now).map(|()| false),
                FlowStage::Open if !from.ready.readable => return Ok(false),
                FlowStage::Open => {}
            }
            match from.conn.read_now(block).map_err(|_| BrokenEnd::Source)? {
                None => from.ready.readable = false,
                Some(0) => {
                    from.ready.readable = false;
                    from.ready.silent = true;
                    self.stage = FlowStage::Ending;
                    self.moved = now;
                }
                Some(count) => {
                    // A read that does not fill the buffer has emptied the socket (epoll(7)).
                    let emptied = count < block.len() && !from.conn.may_have_more();
                    from.ready.readable = !emptied || from.ready.ended;
                    self.moved = now;
                    self.put(&block[..count], to, now)?;
                }
            }
        }
        Ok(true)
    }

    /// Writes waiting bytes. Returns whether all are written and the sink accepts more.
    fn drain(&mut self, to: &mut TunnelEnd<'_>, now: Instant) -> Result<bool, BrokenEnd> {
        if !self.waiting.is_empty() {
            let waiting = std::mem::take(&mut self.waiting);
            self.taken += self.write(&waiting[self.taken..], to, now)?;
            if self.taken < waiting.len() {
                self.waiting = waiting;
            } else {
                self.taken = 0;
            }
        }
        // The TLS library may hold bytes that the socket does not accept.
        if to.ready.writable && !to.conn.flush_now().map_err(|_| BrokenEnd::Sink)? {
            to.ready.writable = false;
        }
        self.note(to, now);
        Ok(self.waiting.is_empty() && to.ready.writable)
    }

    /// Writes bytes when none are waiting, and keeps the rest.
    fn put(&mut self, bytes: &[u8], to: &mut TunnelEnd<'_>, now: Instant) -> Result<(), BrokenEnd> {
        debug_assert!(self.waiting.is_empty() && self.taken == 0);
        let written = self.write(bytes, to, now)?;
        // An empty rest allocates nothing.
        self.waiting = bytes[written..].to_vec();
        Ok(())
    }

    fn write(
        &mut self,
        bytes: &[u8],
        to: &mut TunnelEnd<'_>,
        now: Instant,
    ) -> Result<usize, BrokenEnd> {
        let mut written = 0;
        while to.ready.writable && written < bytes.len() {
            let count = to.conn.write_now(&bytes[written..]);
            let count = count.map_err(|_| BrokenEnd::Sink)?;
            to.ready.writable = count > 0;
            written += count;
        }
        if written > 0 {
            self.bytes += written as u64;
            (self.moved, self.stuck) = (now, None);
        }
        Ok(written)
    }

    /// Ends the sink's stream.
    fn pass_end(&mut self, to: &mut TunnelEnd<'_>, now: Instant) -> Result<(), BrokenEnd> {
        match to.conn.finish_writing_now() {
            Ok(true) => self.stage = FlowStage::Over,
            Ok(false) => to.ready.writable = false,
            // A peer that has ended its own side may close without waiting for our end.
            Err(_) if to.ready.silent => self.stage = FlowStage::Over,
            Err(_) => return Err(BrokenEnd::Sink),
        }
        self.note(to, now);
        Ok(())
    }

    /// Updates whether the sink accepts bytes.
    fn note(&mut self, to: &TunnelEnd<'_>, now: Instant) {
        self.stuck = match to.ready.writable {
            true => None,
            false => Some(self.stuck.unwrap_or(now)),
        };
    }
}

impl TunnelEnd<'_> {
    /// Resets this end, since the other one has failed.
    pub(super) fn cut(self, reason: Close) -> Close {
        self.conn.reset_on_close();
        reason
    }
}

impl EndReadiness {
    /// Nothing is known; the first read and write will tell.
    pub(super) const UNKNOWN: Self = Self {
        readable: true,
        writable: true,
        ended: false,
        silent: false,
    };
}

/// Blocks of [`Buffer::SIZE`](super::buffer::Buffer::SIZE) that a tunnel carries in one direction per turn.
pub(super) const PIECES: usize = 8;
