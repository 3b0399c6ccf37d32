//! A worker: one of the threads that run sessions.
//!
//! It waits for sessions that have something to do, and runs one after the other. It lends its buffers to the session
//! that it runs, so a parked session keeps only the bytes that were read and not used.
//!
//! **The rule**: a worker reads and writes by blocking; an exchange waits by parking. A session that has to wait for
//! its backend, or in a queue, is parked at once if the server is busy, which it is if work was ready when the worker
//! came for this session or is ready now, or if this is the last worker that can take new work. Otherwise the worker
//! blocks for at most [`PATIENCE`] and then parks the session ([`Worker::wait_for`]).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use super::scratch::Scratch;
use super::session::{Disposition, Session};
use super::sessions::Sessions;
use crate::backend::lease::Upstream;
use crate::config::Scheduling;
use crate::net::poller::{Blocking, Cause, Load, Token, Work};
use crate::process;
use crate::relay::Interests;
use crate::stats::{self, Close};

/// A worker: where it gets sessions from, and what it lends to them.
pub(crate) struct Worker {
    sessions: Arc<Sessions<Session>>,
    scratch: Scratch,
}

/// Hands a parked session back to the workers.
struct SessionWaker {
    sessions: Arc<Sessions<Session>>,
    token: Token,
}

impl Wake for SessionWaker {
    fn wake(self: Arc<Self>) {
        self.sessions.poller.wake(self.token);
    }
}

/// A session that has something to do, and the event that woke it.
type ReadySession = (Box<Session>, Cause);

impl Worker {
    pub(super) fn new(sessions: Arc<Sessions<Session>>) -> Self {
        Self {
            scratch: Scratch::new(Arc::clone(&sessions.shared)),
            sessions,
        }
    }

    /// Runs one session after the other until the server stops.
    pub(super) fn work(mut self, scheduling: Scheduling) {
        set_scheduling(scheduling);
        let sessions = Arc::clone(&self.sessions);
        while let (Work::Item(session, cause), mut load) = sessions.poller.wait() {
            let mut ready = Some((session, cause));
            while let Some((session, cause)) = ready.take() {
                // A panic is a bug; it costs this one session, whose drop closes it, and no worker.
                let now = std::mem::replace(&mut load, Load::Busy);
                let run = AssertUnwindSafe(|| self.run(&sessions, session, cause, now));
                match catch_unwind(run) {
                    Ok(more) => ready = more,
                    Err(_) => {
                        stats::add(&sessions.shared.stats.panics);
                        log::error!("a worker panicked; the connection it served is closed");
                        self = Self::new(Arc::clone(&sessions));
                    }
                }
            }
        }
    }

    /// Runs a session until it is parked, handed over or closed. Returns work that was found ready meanwhile.
    fn run(
        &mut self,
        sessions: &Arc<Sessions<Session>>,
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
            let disposition = session.run(&mut self.scratch);
            self.scratch.patience = Duration::ZERO;
            patience.blocking = None;
            session = match disposition {
                Disposition::Wait(waiting, interests) => {
                    match self.wait_for(sessions, waiting, interests, &mut patience) {
                        Waited::Again(again) => again,
                        Waited::Parked(next) => return next,
                    }
                }
                // The server was dropped in the middle of a long transfer.
                Disposition::Yield(yielding) if sessions.poller.is_stopped() => {
                    yielding.close(Close::Draining);
                    return None;
                }
                Disposition::Yield(yielding) => {
                    sessions.poller.hand_over(yielding);
                    return None;
                }
                Disposition::Move(session) => {
                    sessions.give(session);
                    return None;
                }
                Disposition::Tunnel(session, start) => {
                    sessions.poller.let_go(&session);
                    if let Err((session, start)) = sessions.tunnels.enter(session, *start) {
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
        sessions: &'s Arc<Sessions<Session>>,
        session: Box<Session>,
        interests: Interests,
        patience: &mut BlockingAllowance<'s>,
    ) -> Waited {
        let mut next = None;
        if patience.load == Load::Quiet && (interests.queue || interests.reads) {
            next = sessions.poller.try_wait();
            if next.is_none() && patience.is_left() {
                patience.blocking = sessions.poller.try_block();
            }
        }
        if patience.blocking.is_some() {
            match interests.queue {
                true => {
                    session.wait_in_queue(interests.until.min(Instant::now() + PATIENCE));
                    patience.blocking = None;
                }
                // The exchange reads next, and that read may block.
                false => self.scratch.patience = PATIENCE,
            }
            return Waited::Again(session);
        }
        match (park(sessions, session, interests), next) {
            (Some(back), None) => Waited::Again(back),
            (Some(back), next) => {
                sessions.poller.hand_over(back);
                Waited::Parked(next)
            }
            (None, next) => Waited::Parked(next),
        }
    }
}

/// How long a worker may still block while it runs one session.
struct BlockingAllowance<'s> {
    /// A worker that has found work ready does not block at all: it parks the session and looks for more.
    load: Load,
    /// Held while it blocks, or is about to.
    blocking: Option<Blocking<'s>>,
    /// When blocking has to end; `None`: it has not blocked yet.
    until: Option<Instant>,
}

impl BlockingAllowance<'_> {
    fn is_left(&mut self) -> bool {
        let now = Instant::now();
        *self.until.get_or_insert(now + PATIENCE) > now
    }
}

/// The result of [`Worker::wait_for`].
enum Waited {
    /// The session is to run again.
    Again(Box<Session>),
    /// It is parked. There may be other work.
    Parked(Option<ReadySession>),
}

fn waker(sessions: &Arc<Sessions<Session>>, token: Token) -> Waker {
    let sessions = Arc::clone(sessions);
    Waker::from(Arc::new(SessionWaker { sessions, token }))
}

/// Parks a session. Returns it if it has something to do already.
fn park(
    sessions: &Arc<Sessions<Session>>,
    mut session: Box<Session>,
    interests: Interests,
) -> Option<Box<Session>> {
    if session.may_be_gone() {
        // The client may have left, and its socket does not report that again.
        return Some(session);
    }
    let token = session.token();
    if let Some(interest) = interests.backend
        && let Err(error) = session.arm(interest)
    {
        log::error!("epoll_ctl: {error}; a connection is closed");
        return None;
    }
    if interests.queue && !session.wake_with(|| waker(sessions, token)) {
        return Some(session);
    }
    let parked = sessions
        .poller
        .park(token, session, interests.client, interests.until);
    match parked {
        Ok(None) => {
            // Once the poller is stopped, no worker takes it out any more. This thread does, or the thread that stops
            // the server, which looks again after it has stopped the poller.
            if sessions.shared.is_draining()
                && sessions.poller.is_stopped()
                && let Some(session) = sessions.poller.take(token)
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

/// Sets the scheduling class of the calling thread.
pub(super) fn set_scheduling(scheduling: Scheduling) {
    if scheduling == Scheduling::Batch
        && let Err(error) = process::schedule_as_batch()
    {
        log::debug!("SCHED_BATCH: {error}");
    }
}

/// How long a worker blocks for one session before it parks it.
const PATIENCE: Duration = Duration::from_millis(20);
