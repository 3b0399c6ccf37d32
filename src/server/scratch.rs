//! What a worker lends to the session that it runs: buffers, the date, and the current configuration.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::shared::{Generation, Shared, SnapshotRef};
use crate::http::date;
use crate::net::buffer::Buffer;
use crate::relay::Tools;
use crate::relay::spool::Room;

/// What a worker lends to the session that it runs.
pub(crate) struct Scratch {
    shared: Arc<Shared>,
    snapshot: SnapshotRef,
    generation: u64,
    /// What was read from the client.
    pub(crate) input: Buffer,
    /// What was read from the backend.
    reply: Buffer,
    /// What is to be written.
    out: Vec<u8>,
    clock: DateClock,
    /// How long the next read of a backend may block.
    pub(super) patience: Duration,
}

/// The text of the Date field, formatted once a second.
#[derive(Default)]
struct DateClock {
    second: u64,
    text: String,
}

impl Scratch {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            generation: shared.generation.load(Ordering::Acquire),
            snapshot: Arc::new(Generation::current(&shared)),
            shared,
            input: Buffer::new(),
            reply: Buffer::new(),
            out: Vec::new(),
            clock: DateClock::default(),
            patience: Duration::ZERO,
        }
    }

    /// The configuration for the next request.
    pub(crate) fn snapshot(&mut self) -> &SnapshotRef {
        let generation = self.shared.generation.load(Ordering::Acquire);
        if generation != self.generation {
            self.generation = generation;
            self.snapshot = Arc::new(Generation::current(&self.shared));
        }
        &self.snapshot
    }

    /// The client's input buffer, and the tools of an exchange.
    pub(crate) fn tools<'w>(
        &'w mut self,
        room: &'w dyn Fn() -> Room,
    ) -> (&'w mut Buffer, Tools<'w>) {
        let tools = Tools {
            reply: &mut self.reply,
            out: &mut self.out,
            date: self.clock.date(),
            patience: std::mem::take(&mut self.patience),
            room,
        };
        (&mut self.input, tools)
    }

    /// The time in the format of RFC 9110 5.6.7.
    pub(crate) fn date(&mut self) -> &str {
        self.clock.date()
    }
}

impl DateClock {
    fn date(&mut self) -> &str {
        // Precise to a few milliseconds, and about six times cheaper than the precise clock.
        let second = clock_gettime(ClockId::CLOCK_REALTIME_COARSE).map_or(0, |time| time.tv_sec());
        let second = u64::try_from(second).unwrap_or(0);
        if second != self.second || self.text.is_empty() {
            self.second = second;
            self.text = date::of_seconds(second);
        }
        &self.text
    }
}
