//! A worker: one of the threads that do the work, and what it owns.
//!
//! It waits for sessions that have something to do, and runs one after the other. Its buffers are lent to the session that
//! it runs, so that a parked one costs no more than what was read and not used.
//!
//! **The rule**: blocking is how a worker reads and writes, parking is how an exchange waits. A session that has to wait for
//! its backend, or for its turn in a queue, is parked at once if the server is busy, which is if work was ready when the
//! worker came for it or is ready now, or if this is the last worker that can take new work. Otherwise the worker blocks for
//! at most [`PATIENCE`] and then parks it ([`Worker::wait_for`]).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use super::session::{Disposition, Session};
use super::shared::Shared;
use super::snapshot::{Generation, SnapshotRef};
use crate::backend::lease::Upstream;
use crate::config::Scheduling;
use crate::http::date;
use crate::net::buffer::Buffer;
use crate::net::poller::{Blocking, Cause, Load, Token, Work};
use crate::process;
use crate::relay::spool::Room;
use crate::relay::{Interests, Tools};
use crate::stats::{self, Close};

/// What a worker owns.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    snapshot: SnapshotRef,
    generation: u64,
    /// What was read from the visitor.
    pub(crate) input: Buffer,
    /// What was read from the backend.
    reply: Buffer,
    /// What will be written.
    out: Vec<u8>,
    clock: DateClock,
    /// How long the next read of a backend may wait.
    patience: Duration,
}

/// The text of the Date field, made once a second.
#[derive(Default)]
struct DateClock {
    second: u64,
    text: String,
}

/// Puts a parked session back to work.
struct SessionWaker {
    shared: Arc<Shared>,
    token: Token,
}

impl Wake for SessionWaker {
    fn wake(self: Arc<Self>) {
        self.shared.poller.wake(self.token);
    }
}

/// A session that has something to do, and what the poller says about it.
type ReadySession = (Box<Session>, Cause);

impl Worker {
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

    /// Runs one session after the other until the server stops.
    pub(super) fn work(mut self, scheduling: Scheduling) {
        be_scheduled(scheduling);
        let shared = Arc::clone(&self.shared);
        while let (Work::Item(session, cause), mut load) = shared.poller.wait() {
            let mut ready = Some((session, cause));
            while let Some((session, cause)) = ready.take() {
                // A panic is a fault of ours; it costs this one session, whose drop closes it, and no worker.
                let now = std::mem::replace(&mut load, Load::Busy);
                let run = AssertUnwindSafe(|| self.run(&shared, session, cause, now));
                match catch_unwind(run) {
                    Ok(more) => ready = more,
                    Err(_) => {
                        stats::add(&shared.stats.panics);
                        log::error!("a worker panicked; the connection it served is closed");
                        self = Self::new(Arc::clone(&shared));
                    }
                }
            }
        }
    }

    /// Runs a session until it is parked, given away or closed. Returns work that was found ready meanwhile.
    fn run(
        &mut self,
        shared: &Arc<Shared>,
        mut session: Box<Session>,
        cause: Cause,
        load: Load,
    ) -> Option<ReadySession> {
        session.notice(Some(cause));
        let mut patience = BlockingAllowance {
            load,
            blocking: None,
            until: None,
        };
        loop {
            let disposition = session.run(self);
            self.patience = Duration::ZERO;
            patience.blocking = None;
            session = match disposition {
                Disposition::Wait(waiting, interests) => {
                    match self.wait_for(shared, waiting, interests, &mut patience) {
                        Waited::Again(again) => again,
                        Waited::Parked(next) => return next,
                    }
                }
                Disposition::Yield(yielding) => {
                    shared.poller.hand_over(yielding);
                    return None;
                }
                Disposition::Tunnel(session, start) => {
                    shared.poller.let_go(&session);
                    if let Err((session, start)) = shared.tunnels.enter(session, *start) {
                        start.backend.close(Close::Draining);
                        session.close(Close::Draining);
                    }
                    return None;
                }
                Disposition::Closed => return None,
            };
        }
    }

    /// Waits for what a session needs next: blocks for a moment, or parks the session.
    fn wait_for<'s>(
        &mut self,
        shared: &'s Arc<Shared>,
        session: Box<Session>,
        interests: Interests,
        patience: &mut BlockingAllowance<'s>,
    ) -> Waited {
        let mut next = None;
        if patience.load == Load::Quiet && (interests.queue || interests.reads) {
            next = shared.poller.try_wait();
            if next.is_none() && patience.is_left() {
                patience.blocking = shared.poller.try_block();
            }
        }
        if patience.blocking.is_some() {
            match interests.queue {
                true => {
                    session.wait_in_queue(interests.until.min(Instant::now() + PATIENCE));
                    patience.blocking = None;
                }
                // The exchange reads next, and that may wait.
                false => self.patience = PATIENCE,
            }
            return Waited::Again(session);
        }
        match (park(shared, session, interests), next) {
            (Some(back), None) => Waited::Again(back),
            (Some(back), next) => {
                shared.poller.hand_over(back);
                Waited::Parked(next)
            }
            (None, next) => Waited::Parked(next),
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

    /// What was read from the visitor, and what an exchange works with.
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

    /// The time as RFC 9110 5.6.7 has it.
    pub(crate) fn date(&mut self) -> &str {
        self.clock.date()
    }
}

/// How long a worker may still block in the run of one session.
struct BlockingAllowance<'s> {
    /// A worker that has found work ready does not block at all: it parks the session and looks for more.
    load: Load,
    /// It blocks, or is about to.
    blocking: Option<Blocking<'s>>,
    /// When it has to be over; `None`: it has not blocked yet.
    until: Option<Instant>,
}

impl BlockingAllowance<'_> {
    fn is_left(&mut self) -> bool {
        let now = Instant::now();
        *self.until.get_or_insert(now + PATIENCE) > now
    }
}

/// What came of waiting.
enum Waited {
    /// The session is to be run again.
    Again(Box<Session>),
    /// It is parked. There may be other work.
    Parked(Option<ReadySession>),
}

fn waker(shared: &Arc<Shared>, token: Token) -> Waker {
    let shared = Arc::clone(shared);
    Waker::from(Arc::new(SessionWaker { shared, token }))
}

/// Parks a session. Gives it back if it has something to do already.
fn park(
    shared: &Arc<Shared>,
    mut session: Box<Session>,
    interests: Interests,
) -> Option<Box<Session>> {
    if session.may_be_gone() {
        // The visitor may have left, and its socket does not report that again.
        return Some(session);
    }
    let token = session.token();
    if let Some(interest) = interests.backend
        && let Err(error) = session.arm(interest)
    {
        log::error!("epoll_ctl: {error}; a connection is closed");
        return None;
    }
    if interests.queue && !session.wake_with(|| waker(shared, token)) {
        return Some(session);
    }
    let parked = shared
        .poller
        .park(token, session, interests.visitor, interests.until);
    match parked {
        Ok(None) => {
            // Once the poller is stopped, no worker comes for it any more. It is taken out here, or by the thread that stops
            // the server, which looks after it has stopped the poller.
            if shared.is_draining()
                && shared.poller.is_stopped()
                && let Some(session) = shared.poller.take(token)
            {
                session.close(Close::Draining);
            }
            None
        }
        // What it waits for has happened meanwhile.
        Ok(Some(mut back)) => {
            back.notice(None);
            Some(back)
        }
        Err(error) => {
            log::error!("park: {error}; a connection is closed");
            None
        }
    }
}

impl DateClock {
    fn date(&mut self) -> &str {
        // Good to a few milliseconds, and half a dozen times cheaper than the precise one.
        let second = clock_gettime(ClockId::CLOCK_REALTIME_COARSE).map_or(0, |time| time.tv_sec());
        let second = u64::try_from(second).unwrap_or(0);
        if second != self.second || self.text.is_empty() {
            self.second = second;
            self.text = date::of_seconds(second);
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

/// How long a worker blocks for one session before it parks it.
const PATIENCE: Duration = Duration::from_millis(20);
