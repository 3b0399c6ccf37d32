//! What other threads know about a dialled connection, and how they end it.
//!
//! The connection belongs to the thread that dials it, to the poller while it waits, and to a worker while it runs. A
//! thread that wants it to end (the application is down, a drain, a new
//! configuration) uses its [`ConnectionHandle`]: an idle connection is closed at once, a busy one ends itself after its
//! exchange.
//!
//! **Invariant**: its owner marks it as idle and then checks whether it is wanted; another thread marks it
//! as unwanted and then checks whether it is idle. So at least one of them sees the other, and no unwanted connection
//! stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use parking_lot::Mutex;

use super::server::ServerAddress;
use crate::net::stream::{Pending, Stream};

/// What other threads know about a connection.
#[derive(Debug)]
pub(super) struct ConnectionHandle {
    pub(super) server: Arc<ServerAddress>,
    wanted: AtomicBool,
    /// It is being dialled, or exists.
    taken: AtomicBool,
    /// One of the constants below.
    state: AtomicU8,
    /// A second handle of its socket while it is connected.
    stream: Mutex<Option<Arc<Stream>>>,
}

/// It is not connected.
const DISCONNECTED: u8 = 0;
/// It waits for a request.
const IDLE: u8 = 1;
/// It serves a request.
const BUSY: u8 = 2;
/// It was closed while it was idle.
const CLOSED: u8 = 3;

impl ConnectionHandle {
    pub(super) fn new(server: Arc<ServerAddress>) -> Self {
        Self {
            server,
            wanted: AtomicBool::new(true),
            taken: AtomicBool::new(false),
            state: AtomicU8::new(DISCONNECTED),
            stream: Mutex::default(),
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
    }

    /// Whether it is neither being dialled nor connected.
    pub(super) fn is_free(&self) -> bool {
        !self.taken.load(Ordering::SeqCst)
    }

    /// A thread is about to dial it.
    pub(super) fn take(&self) {
        self.taken.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.state.load(Ordering::SeqCst) == IDLE
    }

    pub(super) fn is_busy(&self) -> bool {
        self.state.load(Ordering::SeqCst) == BUSY
    }

    pub(super) fn is_connected(&self) -> bool {
        self.is_idle() || self.is_busy()
    }

    /// Sets the socket by which it is connected.
    pub(super) fn set_stream(&self, stream: Stream) {
        *self.stream.lock() = Some(Arc::new(stream));
    }

    /// It is not connected any more, and may be dialled again.
    pub(super) fn set_disconnected(&self) {
        self.state.store(DISCONNECTED, Ordering::SeqCst);
        self.stream.lock().take();
        self.taken.store(false, Ordering::SeqCst);
    }

    /// It waits for a request.
    pub(super) fn set_idle(&self) {
        self.state.store(IDLE, Ordering::SeqCst);
    }

    /// A request has arrived. `false`: the connection was closed before.
    pub(super) fn begin_request(&self) -> bool {
        self.transition(IDLE, BUSY)
    }

    /// Marks it as closed if it is idle. `false`: it is not idle.
    pub(super) fn close_if_idle(&self) -> bool {
        self.transition(IDLE, CLOSED)
    }

    /// Ends the connection; it is not dialled again.
    pub(super) fn retire(&self) {
        self.wanted.store(false, Ordering::SeqCst);
        self.close_idle();
    }

    /// Closes the connection if it is idle. First set the reason for which it is unwanted.
    pub(super) fn close_idle(&self) {
        let Some(stream) = self.stream.lock().clone() else {
            return;
        };
        // A request that has arrived already is served first.
        if stream.pending() != Pending::Bytes && self.close_if_idle() {
            stream.hang_up();
        }
    }

    /// Closes the connection, even during a request.
    pub(super) fn abort(&self) {
        let stream = self.stream.lock().clone();
        if let Some(stream) = stream {
            stream.hang_up();
        }
    }

    /// Changes the state, unless another thread changed it first.
    fn transition(&self, from: u8, to: u8) -> bool {
        self.state
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }
}
