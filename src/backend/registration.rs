//! The list of connected backends.
//!
//! The dial-in thread adds a backend, and is notified when it hangs up. The owner of the backend, a pool or a lease,
//! holds its [`Registration`]; dropping that removes the entry from the list.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::group::Group;
use super::identity::BackendIdentity;
use super::idle::CellIndex;
#[cfg(test)]
use crate::budget::Budget;
use crate::budget::Charge;
use crate::net::stream::Peer;
use crate::preamble::{Id, Name};
use crate::stats::Close;

/// What an entry needs of its pool. (A trait, so that this file does not depend on the pool.)
pub(super) trait Home: Debug + Send + Sync {
    /// The dial-in address.
    fn name(&self) -> &str;

    /// The group of backends that sent this key.
    fn group(&self, key: &[u8]) -> Arc<Group>;

    /// Closes the backend in this cell, which hung up, if it is idle.
    fn forget(&self, cell: &CellIndex);
}

/// A backend's entry in the list of connected backends.
#[derive(Debug)]
pub struct Registration {
    open: Arc<OpenBackend>,
    connections: Arc<Connections>,
    group: Arc<Group>,
    /// Why the connection is closed, for the time when this is dropped.
    reason: Close,
    _here: Charge,
    _descriptor: Charge,
}

/// A connected backend, idle or not.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectedBackend {
    /// A number that is unique for this server.
    pub number: u64,
    /// The dial-in address as configured.
    pub address: String,
    /// The id that it sent; not unique.
    pub id: Id,
    /// Its whole name, if the id is an abbreviation of it.
    pub name: Option<Name>,
    /// Where it dialled in from.
    pub peer: Peer,
    /// The key that it sent; empty for none.
    pub key: Box<[u8]>,
    /// Whether it waits for a request.
    pub is_idle: bool,
    /// For how many seconds it has been idle or busy.
    pub since: u64,
    /// The number of complete responses that it has sent.
    pub responses: u64,
}

/// How a backend has come to this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    DialledIn,
    /// Another process has given it.
    TakenOver {
        /// Its complete responses so far.
        responses: u64,
    },
}

/// The entry of a connected backend.
#[derive(Debug)]
struct OpenBackend {
    number: u64,
    home: Arc<dyn Home>,
    identity: BackendIdentity,
    /// The second in which it became idle or busy; see [`Connections::second`].
    since: AtomicU64,
    /// Complete responses. Only the owner of the backend adds to it.
    responses: AtomicU64,
    /// It hung up.
    gone: AtomicBool,
    /// Its cell in the pool while it is idle.
    cell: CellIndex,
}

/// Connected backends by number.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: Mutex<HashMap<u64, Arc<OpenBackend>>>,
    /// Seconds since the start, set by the tick, so that an exchange needs no clock to note when it begins and ends.
    second: AtomicU64,
}

impl OpenBackend {
    fn hung_up(&self) {
        self.gone.store(true, Ordering::SeqCst);
        self.home.forget(&self.cell);
    }
}

#[cfg(test)]
impl Registration {
    /// What the dial-in thread does when the connection hangs up.
    pub(super) fn hang_up(&self) -> impl Fn() + use<> {
        let open = Arc::clone(&self.open);
        move || open.hung_up()
    }

    pub(super) fn test(home: Arc<dyn Home>) -> Self {
        let budget = Arc::new(Budget::new(2));
        let charge = || budget.charge(1).expect("there are two");
        let charges = (charge(), charge());
        let identity = BackendIdentity::test(b"0123456789ab", b"", Peer::Unix);
        Connections::enter(
            &Arc::default(),
            0,
            home,
            identity,
            charges,
            Arrival::DialledIn,
        )
    }
}

impl Connections {
    /// Adds a backend of this pool, whose charges it keeps.
    pub(super) fn enter(
        self: &Arc<Self>,
        number: u64,
        home: Arc<dyn Home>,
        identity: BackendIdentity,
        (here, descriptor): (Charge, Charge),
        arrival: Arrival,
    ) -> Registration {
        let group = home.group(&identity.key);
        group.join(&identity, arrival == Arrival::DialledIn);
        let open = Arc::new(OpenBackend {
            number,
            home,
            identity,
            since: AtomicU64::new(self.second.load(Ordering::Relaxed)),
            responses: AtomicU64::new(match arrival {
                Arrival::DialledIn => 0,
                Arrival::TakenOver { responses } => responses,
            }),
            gone: AtomicBool::new(false),
            cell: CellIndex::default(),
        });
        self.open.lock().insert(number, Arc::clone(&open));
        Registration {
            open,
            connections: Arc::clone(self),
            group,
            reason: Close::Internal,
            _here: here,
            _descriptor: descriptor,
        }
    }

    /// Sets the seconds since the start.
    pub(super) fn set_second(&self, second: u64) {
        self.second.store(second, Ordering::Relaxed);
    }

    /// The connected backends, oldest first.
    pub(super) fn all(&self) -> Vec<ConnectedBackend> {
        let mut open: Vec<_> = self.open.lock().values().cloned().collect();
        open.sort_unstable_by_key(|open| open.number);
        let second = self.second.load(Ordering::Relaxed);
        let connected = open.iter().map(|open| ConnectedBackend {
            number: open.number,
            address: open.home.name().to_owned(),
            id: open.identity.id,
            name: open.identity.name.clone(),
            peer: open.identity.peer,
            key: open.identity.key.clone(),
            is_idle: open.cell.is_set(),
            since: second.saturating_sub(open.since.load(Ordering::Relaxed)),
            responses: open.responses.load(Ordering::Relaxed),
        });
        connected.collect()
    }

    /// The backend with this number closed its side.
    pub(super) fn hung_up(&self, number: u64) {
        let open = self.open.lock().get(&number).cloned();
        if let Some(open) = open {
            open.hung_up();
        }
    }
}

impl Registration {
    /// Whether the backend hung up.
    pub fn is_gone(&self) -> bool {
        self.open.gone.load(Ordering::SeqCst)
    }

    /// What the backend has said about itself.
    pub fn identity(&self) -> &BackendIdentity {
        &self.open.identity
    }

    /// The number of complete responses.
    pub fn responses(&self) -> u64 {
        self.open.responses.load(Ordering::Relaxed)
    }

    /// Counts a complete response. Only the owner of the backend adds, so a load and a store are enough.
    pub(super) fn count_response(&self) {
        let responses = &self.open.responses;
        let count = responses.load(Ordering::Relaxed);
        responses.store(count + 1, Ordering::Relaxed);
    }

    /// Notes that the backend becomes idle or busy now.
    pub(super) fn note_change(&self) {
        let second = self.connections.second.load(Ordering::Relaxed);
        self.open.since.store(second, Ordering::Relaxed);
    }

    /// Sets the reason for which the connection is closed, before this is dropped.
    pub(super) fn close(&mut self, reason: Close) {
        self.reason = reason;
    }

    /// The backend's cell in its pool.
    pub(super) fn cell(&self) -> &CellIndex {
        &self.open.cell
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let OpenBackend {
            number, identity, ..
        } = &*self.open;
        self.connections.open.lock().remove(number);
        self.group.leave(identity, self.reason);
    }
}
