//! The data that a directory keeps about its list in Redis: leased elements, and those to be returned.
//!
//! Plain data, guarded by the directory's lock. [`sync`](super::sync) updates it; the thread in [`redis`](super::redis)
//! carries the changes to Redis.

use std::collections::VecDeque;
use std::mem;
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
    /// Redis has sent a message.
    message: bool,
    /// The directory is not used any more.
    stopping: bool,
}

/// Why [`Notify::wait`] has returned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Woken {
    /// Redis has sent a message: it is worth while to ask it for elements.
    pub(super) message: bool,
    /// The directory is not used any more.
    pub(super) stopping: bool,
}

/// What a directory knows about its list.
#[derive(Debug)]
pub(super) struct ListState {
    /// Redis does not respond.
    pub(super) unreachable: bool,
    /// The original uses the list as well. Whether it waits for elements is unknown.
    pub(super) with_original: bool,
    /// Other proxies that wait for elements, as far as this one has not left them some meanwhile.
    pub(super) others_waiting: usize,
    /// This proxy is in the queue for elements.
    pub(super) queued: bool,
    /// Elements to be returned.
    pub(super) returning: Vec<ReturnedElement>,
    /// No elements are taken before this time, unless Redis sends a message.
    pub(super) take_after: Option<Instant>,
    /// No elements are taken before this time: those that there are cannot be used, or are left to others.
    pub(super) pause_until: Option<Instant>,
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

/// The reply of Redis to a request for elements.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) elements: Vec<Vec<u8>>,
    /// The number of the first element.
    pub(super) first: u64,
    /// There were fewer than wanted, so the proxy is in the queue for elements.
    pub(super) queued: bool,
    /// Other proxies in that queue.
    pub(super) others: usize,
    /// Redis sends a message when it is worth while to ask again.
    pub(super) messages: bool,
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

    /// Notifies of a message from Redis.
    pub(super) fn message(&self) {
        self.state.lock().message = true;
        self.notify();
    }

    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.stopping = true;
        state.notified = true;
        drop(state);
        self.changed.notify_one();
    }

    /// Waits for a notification, until `until` at most.
    pub(super) fn wait(&self, until: Instant) -> Woken {
        let mut state = self.state.lock();
        while !state.notified {
            if self.changed.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        state.notified = false;
        Woken {
            message: mem::take(&mut state.message),
            stopping: state.stopping,
        }
    }
}

impl ListState {
    /// Nothing was read from Redis yet.
    pub(super) const fn new() -> Self {
        Self {
            unreachable: true,
            with_original: false,
            others_waiting: 0,
            queued: false,
            returning: Vec::new(),
            take_after: None,
            pause_until: None,
            unusable: 0,
        }
    }

    /// Whether Redis does not respond.
    pub(super) const fn is_unreachable(&self) -> bool {
        self.unreachable
    }

    /// When elements may be taken next; `None`: now.
    pub(super) fn next_take(&self) -> Option<Instant> {
        self.take_after.max(self.pause_until)
    }
}

impl Elements {
    /// Whether the server was in the list when that was read last, or this proxy has leased it.
    pub(super) fn is_listed(&self) -> bool {
        self.listed > 0 || !self.leased.is_empty()
    }
}

/// How often to ask Redis for elements while requests wait and none are available: without messages from Redis, and with
/// them, since elements that applications enter send none.
pub(super) const POLL: Duration = Duration::from_millis(25);
pub(super) const POLL_BESIDE_MESSAGES: Duration = Duration::from_millis(200);
