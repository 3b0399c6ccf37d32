//! One direction of a [tunnel](super::tunnel), and what its two sockets can do.

use std::time::Instant;

use super::conn::Conn;
use crate::stats::Close;

/// What a socket can do, as far as is known.
#[derive(Clone, Copy)]
pub(super) struct EndReadiness {
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The peer has ended its side: behind what can be read is the end, and no further event.
    pub(super) ended: bool,
    /// That end was read.
    pub(super) silent: bool,
}

/// One direction.
pub(super) struct Flow {
    /// What was read and not written yet, and how much of it was written.
    pub(super) waiting: Vec<u8>,
    pub(super) taken: usize,
    /// Bytes that were written.
    pub(super) bytes: u64,
    pub(super) stage: FlowStage,
    /// When something moved last.
    pub(super) moved: Instant,
    /// Since when nothing is taken of what waits.
    pub(super) stuck: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum FlowStage {
    Open,
    /// Its source has ended.
    Ending,
    /// And that was passed on.
    Over,
}

/// One end of a tunnel.
pub(super) struct TunnelEnd<'a> {
    pub(super) conn: &'a mut Conn,
    pub(super) ready: &'a mut EndReadiness,
}

/// Which end of a flow broke.
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

    /// Carries up to so many blocks. Returns whether there may be more at hand.
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
                    // A read that brings less than there was room for has emptied the socket (epoll(7)).
                    let emptied = count < block.len() && !from.conn.may_have_more();
                    from.ready.readable = !emptied || from.ready.ended;
                    self.moved = now;
                    self.put(&block[..count], to, now)?;
                }
            }
        }
        Ok(true)
    }

    /// Writes what waits. Returns whether nothing waits any more and more may come.
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
        // The library may have taken what the socket does not.
        if to.ready.writable && !to.conn.flush_now().map_err(|_| BrokenEnd::Sink)? {
            to.ready.writable = false;
        }
        self.note(to, now);
        Ok(self.waiting.is_empty() && to.ready.writable)
    }

    /// Writes bytes while none wait, and keeps those that are not taken.
    fn put(&mut self, bytes: &[u8], to: &mut TunnelEnd<'_>, now: Instant) -> Result<(), BrokenEnd> {
        debug_assert!(self.waiting.is_empty() && self.taken == 0);
        let written = self.write(bytes, to, now)?;
        // Without memory if that is nothing.
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

    /// Tells the sink that nothing more comes.
    fn pass_end(&mut self, to: &mut TunnelEnd<'_>, now: Instant) -> Result<(), BrokenEnd> {
        match to.conn.finish_writing_now() {
            Ok(true) => self.stage = FlowStage::Over,
            Ok(false) => to.ready.writable = false,
            // Who has said good-bye may have gone without waiting for ours.
            Err(_) if to.ready.silent => self.stage = FlowStage::Over,
            Err(_) => return Err(BrokenEnd::Sink),
        }
        self.note(to, now);
        Ok(())
    }

    /// Whether the sink takes what there is for it.
    fn note(&mut self, to: &TunnelEnd<'_>, now: Instant) {
        self.stuck = match to.ready.writable {
            true => None,
            false => Some(self.stuck.unwrap_or(now)),
        };
    }
}

impl TunnelEnd<'_> {
    /// Lets it know that the other one did not end well.
    pub(super) fn cut(self, reason: Close) -> Close {
        self.conn.reset_on_close();
        reason
    }
}

impl EndReadiness {
    /// Nothing is known; trying tells.
    pub(super) const UNKNOWN: Self = Self {
        readable: true,
        writable: true,
        ended: false,
        silent: false,
    };
}

/// Blocks of [`Buffer::SIZE`](super::buffer::Buffer::SIZE) that go one way through a tunnel in one turn.
pub(super) const PIECES: usize = 8;
