//! The data that a directory keeps about its list in Redis: leased elements, and those to be returned.
//!
//! Plain data, guarded by the directory's lock. [`sync`](super::sync) updates it; the thread in [`redis`](super::redis)
//! carries the changes to Redis.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Wakes the thread that talks to Redis.
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

/// What a directory knows about its list.
#[derive(Debug)]
pub(super) struct ListState {
    /// Redis does not respond.
    pub(super) unreachable: bool,
    /// Other proxies use the list as well.
    pub(super) shared: bool,
    /// Elements to be returned.
    pub(super) returning: Vec<ReturnedElement>,
    /// No elements are taken before this time.
    pub(super) take_after: Option<Instant>,
    /// Elements taken in a row that could not be used.
    pub(super) unusable: usize,
}

/// What a server knows about its elements of the list.
#[derive(Debug, Default)]
pub(super) struct Elements {
    /// The element as written in Redis.
    pub(super) text: Box<[u8]>,
    /// The elements that this proxy has leased; the oldest first.
    pub(super) leased: VecDeque<LeasedElement>,
    /// How often the element occurs in Redis, leased or not.
    pub(super) listed: usize,
}

#[derive(Debug)]
pub(super) struct LeasedElement {
    pub(super) number: u64,
    pub(super) since: Instant,
}

/// An element to be returned.
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

    /// Waits for a notification, until `until` at most. Returns whether the directory is not used any more.
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
    /// Nothing was read from Redis yet.
    pub(super) const fn new() -> Self {
        Self {
            unreachable: true,
            shared: false,
            returning: Vec::new(),
            take_after: None,
            unusable: 0,
        }
    }

    /// Whether Redis does not respond.
    pub(super) const fn is_unreachable(&self) -> bool {
        self.unreachable
    }
}

impl Elements {
    /// Whether the server was in the list when that was read last, or this proxy has leased it.
    pub(super) fn is_listed(&self) -> bool {
        self.listed > 0 || !self.leased.is_empty()
    }
}

/// How often to ask Redis for elements while requests wait and none are available.
pub(super) const POLL: Duration = Duration::from_millis(25);
