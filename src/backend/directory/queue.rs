//! How a request gets a slot: at once if one is free and no request that arrived earlier waits; otherwise it queues.
//!
//! See [`dispatch`](super::dispatch) for the other side: the thread that frees a slot puts it into the [`Slot`] of the first
//! request.

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::dispatch::Directory;
use super::slot::{ConnectionSlot, ServerConnected, ServerConnecting, ServerLease};
use super::state::Assignment;
use crate::backend::queue::{QueuePosition, Slot};
use crate::backend::waiting::{CountedWait, QueueFull, WaitingCount, WaitingGuard};

/// The directory that serves a request.
#[derive(Clone, Debug)]
pub struct ServerSelector<'a> {
    /// The directory.
    pub directory: &'a Arc<Directory>,
    /// The number of waiting requests, which is limited.
    pub waiting: &'a Arc<WaitingCount>,
}

/// The result of [`acquire`].
#[derive(Debug)]
pub enum ServerAcquired {
    /// A server with a connection to it.
    Ready(ServerLease),
    /// A server; the connection is being made.
    Connecting(ServerConnecting),
    /// The request waits in the queue.
    Queued(ServerTicket),
}

/// A request in the queue. Dropping it leaves the queue.
#[derive(Debug)]
pub struct ServerTicket {
    directory: Arc<Directory>,
    slot: Arc<Slot<Assignment>>,
    /// `None`: the ticket is used up.
    position: Option<QueuePosition>,
    since: Instant,
    once: bool,
    _waiting: WaitingGuard,
}

/// Takes a slot at a server, or queues the request by its arrival `since`. `wait`: see
/// [`WaitingCount::enter`](crate::backend::waiting::WaitingCount::enter); `once`: see
/// [`acquire`](crate::backend::lease::acquire). Never blocks.
///
/// # Errors
/// [`QueueFull`].
pub fn acquire(
    selector: &ServerSelector<'_>,
    wait: &mut Option<CountedWait>,
    since: Instant,
    once: bool,
) -> Result<ServerAcquired, QueueFull> {
    let directory = selector.directory;
    // Terminates: each server that cannot be reached is set aside.
    while let Some(server_slot) = directory.slot_now(once, since) {
        if let Some(acquired) = ServerAcquired::of(server_slot.connect(once)) {
            return Ok(acquired);
        }
    }
    let mut ticket = ServerTicket {
        directory: Arc::clone(directory),
        slot: Arc::default(),
        position: None,
        since,
        once,
        _waiting: selector.waiting.enter(wait)?,
    };
    let acquired = ticket.enqueue();
    Ok(acquired.unwrap_or(ServerAcquired::Queued(ticket)))
}

impl ServerAcquired {
    /// `None`: the server cannot be reached.
    fn of(connected: ServerConnected) -> Option<Self> {
        match connected {
            ServerConnected::Ready(lease) => Some(Self::Ready(lease)),
            ServerConnected::Pending(connecting) => Some(Self::Connecting(connecting)),
            ServerConnected::Failed(_) => None,
        }
    }
}

impl ServerTicket {
    /// What the request was given, never another ticket. If the server cannot be reached, the request takes a free slot
    /// at another one, or returns to its old position in the queue: `None`. A ticket that has returned something is used
    /// up.
    pub fn take(&mut self) -> Option<ServerAcquired> {
        let server_slot = ConnectionSlot::new(&self.directory, self.slot.take()?);
        self.position = None;
        ServerAcquired::of(server_slot.connect(self.once)).or_else(|| self.enqueue())
    }

    /// Blocks until the request is given a slot, or until `until`; see [`Slot::wait`].
    pub fn wait(&self, until: Instant) -> bool {
        self.slot.wait(until)
    }

    /// Registers a waker that is called when the request is given a slot; see [`Slot::wake_with`].
    pub fn wake_with(&self, waker: Waker) -> bool {
        self.slot.wake_with(waker)
    }

    /// Whether the request has to ask again.
    pub fn is_recalled(&self) -> bool {
        self.slot.is_recalled()
    }

    /// Joins the queue with a new [`Slot`], unless a connection slot has become free.
    fn enqueue(&mut self) -> Option<ServerAcquired> {
        loop {
            self.slot = Arc::default();
            match self.directory.enqueue(self) {
                Ok(position) => {
                    self.position = Some(position);
                    return None;
                }
                Err(server_slot) => {
                    if let Some(acquired) = ServerAcquired::of(server_slot.connect(self.once)) {
                        return Some(acquired);
                    }
                }
            }
        }
    }
}

impl Drop for ServerTicket {
    fn drop(&mut self) {
        if let Some(position) = self.position {
            let waiting = self.directory.state.lock().waiting.remove(position);
            drop(waiting);
        }
        // A slot that was assigned at the last moment is freed, and goes to the next request.
        let assigned = self.slot.close();
        drop(assigned.map(|assigned| ConnectionSlot::new(&self.directory, assigned)));
    }
}

impl Directory {
    /// A free slot, unless a request that arrived earlier waits for one.
    fn slot_now(self: &Arc<Self>, once: bool, since: Instant) -> Option<ConnectionSlot> {
        let mut state = self.state.lock();
        let assigned = match state.waiting.would_be_first(since) {
            true => state.assign(once),
            false => None,
        }?;
        drop(state);
        Some(ConnectionSlot::new(self, assigned))
    }

    /// Adds a request to the queue, unless it would be the first and a slot has just become free.
    fn enqueue(self: &Arc<Self>, ticket: &ServerTicket) -> Result<QueuePosition, ConnectionSlot> {
        let ServerTicket { since, once, .. } = *ticket;
        let (position, pause) = {
            let mut state = self.state.lock();
            if state.waiting.would_be_first(since)
                && let Some(assigned) = state.assign(once)
            {
                return Err(ConnectionSlot::new(self, assigned));
            }
            let slot = Arc::clone(&ticket.slot);
            let position = state.waiting.push(since, once, slot);
            (position, state.next_pause())
        };
        if let Some(pause) = pause {
            self.alarm.set(pause);
        }
        #[cfg(feature = "redis")]
        self.notify_syncer();
        Ok(position)
    }
}
