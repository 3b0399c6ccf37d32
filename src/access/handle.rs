//! What others know of a dialled connection, and how they end it.
//!
//! A line's thread owns the connection. Whoever wants it to end (the application is down, a drain, a new configuration)
//! has a [`ConnectionHandle`]: it can close the connection while it is idle, and otherwise finds the line leaving by itself after
//! the exchange under way.
//!
//! **Invariant**: *one of two sees the other.* The line says that it is idle and then looks whether it is wanted; who does not want it
//! says so and then looks whether it is idle. So no line stays that nobody wants.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use parking_lot::Mutex;

use super::server::ServerAddress;
use crate::net::stream::{Pending, Stream};

/// What others know of a line.
#[derive(Debug)]
pub(super) struct ConnectionHandle {
    pub(super) server: Arc<ServerAddress>,
    wanted: AtomicBool,
    /// One of the constants below.
    state: AtomicU8,
    /// Another handle of its socket while it is connected.
    stream: Mutex<Option<Arc<Stream>>>,
}

/// It is not connected.
const DISCONNECTED: u8 = 0;
/// It waits for a request.
const IDLE: u8 = 1;
/// A request has come.
const BUSY: u8 = 2;
/// It was closed while it was idle.
const CLOSED: u8 = 3;

impl ConnectionHandle {
    pub(super) fn new(server: Arc<ServerAddress>) -> Self {
        Self {
            server,
            wanted: AtomicBool::new(true),
            state: AtomicU8::new(DISCONNECTED),
            stream: Mutex::default(),
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
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

    /// It is connected, by this socket.
    pub(super) fn set_stream(&self, stream: Stream) {
        *self.stream.lock() = Some(Arc::new(stream));
    }

    /// It is not connected any more.
    pub(super) fn set_disconnected(&self) {
        self.state.store(DISCONNECTED, Ordering::SeqCst);
        self.stream.lock().take();
    }

    /// It waits for a request.
    pub(super) fn set_idle(&self) {
        self.state.store(IDLE, Ordering::SeqCst);
    }

    /// A request has come. `false`: it was closed before.
    pub(super) fn begin_request(&self) -> bool {
        self.transition(IDLE, BUSY)
    }

    /// Closes it for requests if it is idle. `false`: it is not.
    pub(super) fn close_if_idle(&self) -> bool {
        self.transition(IDLE, CLOSED)
    }

    /// The line is to end, and not to be dialled again.
    pub(super) fn retire(&self) {
        self.wanted.store(false, Ordering::SeqCst);
        self.close_idle();
    }

    /// Closes the connection if it is idle. Whoever calls this has said before why the line may not stay.
    pub(super) fn close_idle(&self) {
        let Some(stream) = self.stream.lock().clone() else {
            return;
        };
        // A request that is there already is answered first.
        if stream.pending() != Pending::Bytes && self.close_if_idle() {
            stream.hang_up();
        }
    }

    /// Closes the connection, whatever is under way.
    pub(super) fn abort(&self) {
        let stream = self.stream.lock().clone();
        if let Some(stream) = stream {
            stream.hang_up();
        }
    }

    /// Goes from one place to another, unless somebody was quicker.
    fn transition(&self, from: u8, to: u8) -> bool {
        self.state
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }
}
