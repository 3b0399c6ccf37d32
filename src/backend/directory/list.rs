//! What a directory keeps of its list in Redis: the elements that this proxy has taken out, and what has to go back.
//!
//! Plain data, guarded by the directory's lock; [`sync`](super::sync) fills it, the thread in [`redis`](super::redis) carries
//! it to Redis.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Tells that thread that there is something to do.
#[derive(Debug, Default)]
pub(super) struct Notify {
    state: Mutex<NotifyState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct NotifyState {
    notified: bool,
    /// The directory is not used any more.
    stopping: bool,
}

/// What a directory has of its list.
#[derive(Debug)]
pub(super) struct ListState {
    /// Redis does not answer.
    pub(super) unreachable: bool,
    /// Other proxies use the list.
    pub(super) shared: bool,
    /// What has to go back.
    pub(super) returning: Vec<ReturnedElement>,
    /// Nothing is taken before that.
    pub(super) take_after: Option<Instant>,
    /// Elements in a row that could not be used.
    pub(super) unusable: usize,
}

/// What a server has of it.
#[derive(Debug, Default)]
pub(super) struct Elements {
    /// As it stands in Redis.
    pub(super) text: Box<[u8]>,
    /// What this proxy has taken out; the first is the oldest.
    pub(super) leased: VecDeque<LeasedElement>,
    /// How often it stands there, in use or not.
    pub(super) listed: usize,
}

#[derive(Debug)]
pub(super) struct LeasedElement {
    pub(super) number: u64,
    pub(super) since: Instant,
}

/// An element on its way back.
#[derive(Debug)]
pub(super) struct ReturnedElement {
    pub(super) text: Box<[u8]>,
    pub(super) number: u64,
}

impl Notify {
    pub(super) fn notify(&self) {
        self.state.lock().notified = true;
        self.changed.notify_one();
    }

    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.stopping = true;
        state.notified = true;
        drop(state);
        self.changed.notify_one();
    }

    /// Waits until it is rung or `until` is over. Returns whether the directory is not used any more.
    pub(super) fn wait(&self, until: Instant) -> bool {
        let mut state = self.state.lock();
        while !state.notified {
            if self.changed.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        state.notified = false;
        state.stopping
    }
}

impl ListState {
    /// Nothing is known yet.
    pub(super) const fn new() -> Self {
        Self {
            unreachable: true,
            shared: false,
            returning: Vec::new(),
            take_after: None,
            unusable: 0,
        }
    }

    /// Whether Redis does not answer.
    pub(super) const fn is_unreachable(&self) -> bool {
        self.unreachable
    }
}

impl Elements {
    /// Whether the server was in the list when that was read last, or is used by this proxy.
    pub(super) fn is_listed(&self) -> bool {
        self.listed > 0 || !self.leased.is_empty()
    }
}

/// How often Redis is asked for elements while some are wanted and there are none.
pub(super) const POLL: Duration = Duration::from_millis(25);
