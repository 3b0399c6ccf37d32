//! Where a waiting worker is given what it waits for: the hand-over of [`pool`](super::pool) and
//! [`directory`](super::directory).
//!
//! **Invariant**: *one fills, one empties.* A slot is filled at most once, and its waiter empties it or finds it empty when
//! it gives up, under the slot's own lock: nothing is ever left in a slot.

use std::mem;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// A place for one thing that is handed over.
#[derive(Debug)]
pub(super) struct Slot<T> {
    content: Mutex<Content<T>>,
    filled: Condvar,
}

#[derive(Debug)]
enum Content<T> {
    Empty,
    Filled(T),
    /// The waiter has what it wanted or has given up.
    Closed,
}

impl<T> Slot<T> {
    /// An empty one.
    pub(super) const fn new() -> Self {
        Self {
            content: Mutex::new(Content::Empty),
            filled: Condvar::new(),
        }
    }

    /// Puts something in and wakes the waiter. Gives it back if nobody waits here any more.
    pub(super) fn fill(&self, thing: T) -> Option<T> {
        let mut content = self.content.lock();
        if !matches!(*content, Content::Empty) {
            return Some(thing);
        }
        *content = Content::Filled(thing);
        drop(content);
        self.filled.notify_one();
        None
    }

    /// Waits until it is filled, or `until` is over. Without success it stays open; see [`Slot::close`].
    pub(super) fn wait(&self, until: Instant) -> Option<T> {
        let mut content = self.content.lock();
        while matches!(*content, Content::Empty) {
            if self.filled.wait_until(&mut content, until).timed_out() {
                break;
            }
        }
        match *content {
            Content::Filled(_) => take(&mut content),
            Content::Empty | Content::Closed => None,
        }
    }

    /// Ends the waiting; what was put in at the last moment is given back.
    pub(super) fn close(&self) -> Option<T> {
        take(&mut self.content.lock())
    }
}

/// Closes a slot and gives what was in it.
fn take<T>(content: &mut Content<T>) -> Option<T> {
    match mem::replace(content, Content::Closed) {
        Content::Filled(thing) => Some(thing),
        Content::Empty | Content::Closed => None,
    }
}
