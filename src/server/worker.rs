//! A worker: one of the threads that do the work, and what it owns.
//!
//! It waits for sessions that have something to do, and runs one after the other. Its buffers are lent to the session that
//! it runs, so that a parked one costs no more than what was read and not used.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use super::admission::Place;
use super::session::{Rest, Session};
use super::shared::Shared;
use super::snapshot::Held;
use crate::config::Scheduling;
use crate::net::buffer::Buffer;
use crate::net::poller::Work;
use crate::process;
use crate::stats::{self, Close};

/// What a worker owns.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    snapshot: Held,
    generation: u64,
    /// What was read from the visitor.
    pub(crate) input: Buffer,
    /// What was read from the backend.
    reply: Buffer,
    /// What will be written.
    out: Vec<u8>,
    clock: Clock,
    /// The site that holds this worker for an exchange; see [`admission`](super::admission).
    held: Option<Place>,
    /// A session whose turn has come; run it next.
    next: Option<Box<Session>>,
}

/// What it takes to write a response.
pub(crate) struct Pen<'w> {
    pub(crate) out: &'w mut Vec<u8>,
    pub(crate) clock: &'w mut Clock,
}

/// The text of the Date field, made once a second.
#[derive(Default)]
pub(crate) struct Clock {
    second: u64,
    text: String,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            generation: shared.generation.load(Ordering::Acquire),
            snapshot: Arc::new(shared.snapshot()),
            shared,
            input: Buffer::new(),
            reply: Buffer::new(),
            out: Vec::new(),
            clock: Clock::default(),
            held: None,
            next: None,
        }
    }

    /// Runs one session after the other until the server stops.
    pub(super) fn work(mut self, scheduling: Scheduling) {
        be_scheduled(scheduling);
        let shared = Arc::clone(&self.shared);
        while let Work::Item(mut session, cause) = shared.poller.wait() {
            session.notice(Some(cause));
            let mut current = Some(session);
            while let Some(session) = current {
                // A panic is a fault of ours; it costs this one session, whose drop closes it, and no worker.
                let run = catch_unwind(AssertUnwindSafe(|| self.run(session)));
                current = self.next.take();
                if run.is_err() {
                    stats::add(&shared.stats.panics);
                    log::error!("a worker panicked; the connection it served is closed");
                    self.let_go();
                    current = self.next.take().or(current);
                    self = Self::new(Arc::clone(&shared));
                }
            }
        }
    }

    /// A site holds this worker from now on, until an exchange is over.
    pub(crate) const fn hold(&mut self, place: Place) {
        self.held = Some(place);
    }

    /// There is more to do here, so what was to be run next is given to another worker.
    pub(crate) fn pass_on(&mut self) {
        if let Some(next) = self.next.take() {
            self.shared.poller.hand_over(next);
        }
    }

    /// The exchange is over. A session whose turn has come is run next by this worker: that is cheaper than to wake
    /// another one for it.
    pub(crate) fn let_go(&mut self) {
        let Some(place) = self.held.take() else {
            return;
        };
        debug_assert!(self.next.is_none(), "it was passed on before");
        let mut tokens = self.shared.admission.leave(place).into_iter();
        if let Some(token) = tokens.next() {
            self.next = self.shared.poller.take(token);
        }
        for token in tokens {
            self.shared.poller.wake(token);
        }
    }

    fn run(&mut self, mut session: Box<Session>) {
        loop {
            let token = session.token();
            let (parked, interest, deadline) = match session.run(self) {
                Rest::Park(session, interest, deadline) => (session, interest, deadline),
                Rest::Yield(session) => {
                    self.shared.poller.hand_over(session);
                    return;
                }
                Rest::Tunnel(session, start) => {
                    self.shared.poller.let_go(&session);
                    if let Err((session, start)) = self.shared.tunnels.enter(session, *start) {
                        start.backend.close(Close::Draining);
                        session.close(Close::Draining);
                    }
                    return;
                }
                Rest::Closed => return,
            };
            match self.shared.poller.park(token, parked, interest, deadline) {
                Ok(None) => return,
                // What it waits for has happened meanwhile.
                Ok(Some(back)) => {
                    self.pass_on();
                    session = back;
                    session.notice(None);
                }
                Err(error) => {
                    log::error!("park: {error}; a connection is closed");
                    return;
                }
            }
        }
    }

    /// The configuration for the next request.
    pub(crate) fn snapshot(&mut self) -> &Held {
        let generation = self.shared.generation.load(Ordering::Acquire);
        if generation != self.generation {
            self.generation = generation;
            self.snapshot = Arc::new(self.shared.snapshot());
        }
        &self.snapshot
    }

    pub(crate) const fn pen(&mut self) -> Pen<'_> {
        Pen {
            out: &mut self.out,
            clock: &mut self.clock,
        }
    }

    /// What an exchange needs: the buffers for what comes from the visitor and from the backend, and the rest.
    pub(crate) const fn tools(&mut self) -> (&mut Buffer, &mut Buffer, Pen<'_>) {
        let pen = Pen {
            out: &mut self.out,
            clock: &mut self.clock,
        };
        (&mut self.input, &mut self.reply, pen)
    }
}

impl Clock {
    /// The time as RFC 9110 5.6.7 has it.
    pub(crate) fn date(&mut self) -> &str {
        // Good to a few milliseconds, and half a dozen times cheaper than the precise one.
        let second = clock_gettime(ClockId::CLOCK_REALTIME_COARSE).map_or(0, |time| time.tv_sec());
        let second = u64::try_from(second).unwrap_or(0);
        if second != self.second || self.text.is_empty() {
            self.second = second;
            self.text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
        }
        &self.text
    }
}

/// The scheduling class of this thread, one of those that do the work.
pub(super) fn be_scheduled(scheduling: Scheduling) {
    if scheduling == Scheduling::Batch
        && let Err(error) = process::schedule_as_batch()
    {
        log::debug!("SCHED_BATCH: {error}");
    }
}
