//! What an operator has switched, kept the same in all processes of a server.
//!
//! After an upgrade requests may still wait in the old process, for a site that is paused. Commands go to the new process. So
//! that sends everything that is switched to the old ones after each change, and once when one of them has handed over.
//!
//! The lists are those of [`operations`](crate::server::operations).
//!
//! **Invariants**: each change, and the list of all that is sent after it, is made under one lock, so that a process never
//! gets an older list after a newer one. A process that was replaced changes nothing by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::link::ProcessLink;
use super::message::ProcessMessage;

/// The lock of all changes.
#[derive(Default)]
pub(crate) struct Switching(Mutex<SwitchingState>);

#[derive(Default)]
pub(crate) struct SwitchingState {
    /// The processes that this one has replaced.
    predecessors: Vec<Arc<ProcessLink>>,
    /// The list that a new process was given before it began to serve.
    given: Vec<String>,
}

impl Switching {
    /// Begins a change. `None`: another process has replaced this one, and takes the commands.
    pub(crate) fn begin(&self, is_replaced: &AtomicBool) -> Option<MutexGuard<'_, SwitchingState>> {
        let state = self.0.lock();
        let is_replaced = is_replaced.load(Ordering::Relaxed);
        (!is_replaced).then_some(state)
    }

    /// The list for a new process that is about to start.
    pub(crate) fn give(&self, list: impl FnOnce() -> Vec<String>) -> Vec<String> {
        let mut state = self.0.lock();
        state.given = list();
        state.given.clone()
    }

    /// A new process has replaced this one, in which no change begins any more. Sends what has changed since the other one was
    /// started.
    pub(crate) fn hand_over(&self, list: impl FnOnce() -> Vec<String>, link: &ProcessLink) {
        let mut state = self.0.lock();
        let list = list();
        if list != state.given {
            send(link, list);
        }
        // Their links are handed on.
        state.predecessors.clear();
    }

    /// Keeps a process that was replaced up to date.
    pub(crate) fn add(&self, link: &Arc<ProcessLink>) {
        let mut state = self.0.lock();
        state.predecessors.retain(|link| link.is_open());
        state.predecessors.push(Arc::clone(link));
    }

    /// Sends everything to one process that was replaced.
    pub(crate) fn update(&self, list: impl FnOnce() -> Vec<String>, link: &ProcessLink) {
        let _state = self.0.lock();
        send(link, list());
    }
}

impl SwitchingState {
    /// Sends everything to the processes that this one has replaced, after a change.
    pub(crate) fn changed(&mut self, list: impl Fn() -> Vec<String>) {
        self.predecessors.retain(|link| link.is_open());
        for link in &self.predecessors {
            send(link, list());
        }
    }
}

fn send(link: &ProcessLink, list: Vec<String>) {
    for text in list {
        link.send(&ProcessMessage::Switched(text), None);
    }
    link.send(&ProcessMessage::AllSwitched, None);
}
