//! A worker: one of the threads that run connections, in the server and in the access proxy.
//!
//! It waits for connections that have something to do, and runs one after the other. It lends its buffers to the one
//! that it runs, so a parked connection keeps only the bytes that were read and not used.
//!
//! **The rule**: a worker reads and writes by blocking; an exchange waits by parking. A connection that has to wait for
//! its backend, or in a queue, is parked at once if the program is busy, which it is if work was ready when the worker
//! came for this connection or is ready now, or if this is the last worker that can take new work. Otherwise the worker
//! blocks for at most [`PATIENCE`] and then parks the connection ([`Worker::wait_for`]).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use super::context::Interests;
use super::parking::{Parked, arm, notice, wake_with};
use crate::net::poller::{Blocking, Cause, Load, Poller, Token, Work};

/// What a program does for its workers.
pub trait Workplace: Send + Sync + 'static {
    /// What they run.
    type Item: Parked + Send;
    /// What each of them lends to the item that it runs: buffers.
    type Scratch;

    /// Where the items are kept while no worker runs them.
    fn poller(&self) -> &Poller<Self::Item>;

    /// What a new worker lends.
    fn scratch(&self) -> Self::Scratch;

    /// Runs an item until it has to wait. The next read of its backend may block for `patience`.
    fn run(
        self: &Arc<Self>,
        item: Box<Self::Item>,
        scratch: &mut Self::Scratch,
        patience: Duration,
    ) -> Turn<Self::Item>;

    /// An item was parked. Once the poller is stopped, no worker takes it out any more.
    fn parked(&self, token: Token);

    /// A worker panicked. The item that it ran was dropped.
    fn panicked(&self);
}

/// What happens to an item that has run.
pub enum Turn<T> {
    /// It waits for one of these.
    Wait(Box<T>, Interests),
    /// There is more to do, but others should run first.
    Yield(Box<T>),
    /// The workers have no more to do with it.
    Over,
}

/// A worker: where it gets items from, and what it lends to them.
pub struct Worker<P: Workplace> {
    place: Arc<P>,
    scratch: P::Scratch,
}

/// Hands a parked item back to the workers.
struct ItemWaker<P> {
    place: Arc<P>,
    token: Token,
}

impl<P: Workplace> Wake for ItemWaker<P> {
    fn wake(self: Arc<Self>) {
        self.place.poller().wake(self.token);
    }
}

/// An item that has something to do, and the event that woke it.
type ReadyItem<T> = (Box<T>, Cause);

impl<P: Workplace> Worker<P> {
    /// A worker that has not begun.
    pub fn new(place: Arc<P>) -> Self {
        Self {
            scratch: place.scratch(),
            place,
        }
    }

    /// Runs one item after the other until the poller is stopped.
    pub fn work(mut self) {
        let place = Arc::clone(&self.place);
        while let (Work::Item(item, cause), mut load) = place.poller().wait() {
            let mut ready = Some((item, cause));
            while let Some((item, cause)) = ready.take() {
                // A panic is a bug; it costs this one item, whose drop closes it, and no worker.
                let now = std::mem::replace(&mut load, Load::Busy);
                let run = AssertUnwindSafe(|| self.run(&place, item, cause, now));
                match catch_unwind(run) {
                    Ok(more) => ready = more,
                    Err(_) => {
                        place.panicked();
                        self = Self::new(Arc::clone(&place));
                    }
                }
            }
        }
    }

    /// Runs an item until it is parked, handed over or gone. Returns work that was found ready meanwhile.
    fn run(
        &mut self,
        place: &Arc<P>,
        mut item: Box<P::Item>,
        cause: Cause,
        load: Load,
    ) -> Option<ReadyItem<P::Item>> {
        notice(place.poller(), &mut *item, Some(cause));
        let mut allowance = BlockingAllowance {
            load,
            blocking: None,
            until: None,
        };
        let mut patience = Duration::ZERO;
        loop {
            let turn = place.run(item, &mut self.scratch, patience);
            patience = Duration::ZERO;
            allowance.blocking = None;
            item = match turn {
                Turn::Wait(waiting, interests) => {
                    match Self::wait_for(place, waiting, interests, &mut allowance) {
                        Waited::Again(again) => again,
                        Waited::Read(again) => {
                            patience = PATIENCE;
                            again
                        }
                        Waited::Parked(next) => return next,
                    }
                }
                Turn::Yield(yielding) => {
                    place.poller().hand_over(yielding);
                    return None;
                }
                Turn::Over => return None,
            };
        }
    }

    /// Waits for what an item needs next: blocks for a moment, or parks the item.
    fn wait_for<'p>(
        place: &'p Arc<P>,
        item: Box<P::Item>,
        interests: Interests,
        allowance: &mut BlockingAllowance<'p>,
    ) -> Waited<P::Item> {
        let mut next = None;
        if allowance.load == Load::Quiet && (interests.queue || interests.reads) {
            next = place.poller().try_wait();
            if next.is_none() && allowance.is_left() {
                allowance.blocking = place.poller().try_block();
            }
        }
        if allowance.blocking.is_some() {
            if !interests.queue {
                return Waited::Read(item);
            }
            item.wait_in_queue(interests.until.min(Instant::now() + PATIENCE));
            allowance.blocking = None;
            return Waited::Again(item);
        }
        match (park(place, item, interests), next) {
            (Some(back), None) => Waited::Again(back),
            (Some(back), next) => {
                place.poller().hand_over(back);
                Waited::Parked(next)
            }
            (None, next) => Waited::Parked(next),
        }
    }
}

/// How long a worker may still block while it runs one item.
struct BlockingAllowance<'p> {
    /// A worker that has found work ready does not block at all: it parks the item and looks for more.
    load: Load,
    /// Held while it blocks, or is about to.
    blocking: Option<Blocking<'p>>,
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
enum Waited<T> {
    /// The item is to run again.
    Again(Box<T>),
    /// The same; it reads from its backend next, and that read may block.
    Read(Box<T>),
    /// It is parked. There may be other work.
    Parked(Option<ReadyItem<T>>),
}

/// Parks an item. Returns it if it has something to do already.
fn park<P: Workplace>(
    place: &Arc<P>,
    mut item: Box<P::Item>,
    interests: Interests,
) -> Option<Box<P::Item>> {
    let poller = place.poller();
    if item.parking().may_be_gone && item.heeds_departure() {
        // The client may have left, and its socket does not report that again.
        return Some(item);
    }
    let token = item.parking().token();
    if let Some(interest) = interests.backend
        && let Err(error) = arm(poller, &mut *item, interest)
    {
        log::error!("epoll_ctl: {error}; a connection is closed");
        return None;
    }
    let waker = || {
        let place = Arc::clone(place);
        Waker::from(Arc::new(ItemWaker { place, token }))
    };
    if interests.queue && !wake_with(&mut *item, waker) {
        return Some(item);
    }
    match poller.park(token, item, interests.client, interests.until) {
        Ok(None) => {
            place.parked(token);
            None
        }
        // What it waits for has happened meanwhile.
        Ok(Some(mut back)) => {
            notice(poller, &mut *back, None);
            Some(back)
        }
        Err(error) => {
            log::error!("park: {error}; a connection is closed");
            None
        }
    }
}

/// How long a worker blocks for one item before it parks it.
const PATIENCE: Duration = Duration::from_millis(20);
