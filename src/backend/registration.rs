//! The backends that are connected: those of the dial-in thread's list, and what each knows of its entry there.
//!
//! The dial-in thread adds a backend and notices when it hangs up; the owner of the backend, a pool or a lease, has its
//! [`Registration`], whose end takes the entry off the list.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::group::Group;
use super::idle::CellIndex;
#[cfg(test)]
use crate::budget::Budget;
use crate::budget::Charge;
use crate::net::stream::Peer;
use crate::preamble::Id;
use crate::stats::Close;

/// What a backend's entry needs of its pool.
pub(super) trait Home: Debug + Send + Sync {
    /// The dial-in address.
    fn name(&self) -> &str;

    /// The backends that sent this key.
    fn group(&self, key: &[u8]) -> Arc<Group>;

    /// Closes the backend with this place, which hung up, if it is idle.
    fn forget(&self, cell: &CellIndex);
}

/// A backend's place on the list of those that dialled in.
#[derive(Debug)]
pub struct Registration {
    open: Arc<OpenBackend>,
    connections: Arc<Connections>,
    group: Arc<Group>,
    /// Why the connection is closed, once it is dropped.
    reason: Close,
    _here: Charge,
    _descriptor: Charge,
}

/// A backend that is connected, idle or not.
#[derive(Clone, Debug)]
pub struct ConnectedBackend {
    /// A number that no other backend of this server has or had.
    pub number: u64,
    /// The dial-in address, as it is configured.
    pub address: String,
    /// The id that it sent; not unique.
    pub id: Id,
    /// Where it dialled in from.
    pub peer: Peer,
    /// How many responses it has sent to their end.
    pub responses: u64,
}

/// What the thread knows of a backend that is connected.
#[derive(Debug)]
struct OpenBackend {
    number: u64,
    home: Arc<dyn Home>,
    id: Id,
    peer: Peer,
    /// Responses that were read to their end. Only the owner of the backend adds to it.
    responses: AtomicU64,
    /// It hung up.
    gone: AtomicBool,
    /// Where it is in the pool while it is idle.
    cell: CellIndex,
}

/// Backends that are connected, by number.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<HashMap<u64, Arc<OpenBackend>>>);

impl OpenBackend {
    fn hung_up(&self) {
        self.gone.store(true, Ordering::SeqCst);
        self.home.forget(&self.cell);
    }
}

#[cfg(test)]
impl Registration {
    /// What the thread does when the connection hangs up.
    pub(super) fn hang_up(&self) -> impl Fn() + use<> {
        let open = Arc::clone(&self.open);
        move || open.hung_up()
    }

    pub(super) fn test(home: Arc<dyn Home>) -> Self {
        let budget = Arc::new(Budget::new(2));
        let charge = || budget.charge(1).expect("there are two");
        let charges = (charge(), charge());
        let id = Id::new(b"0123456789ab").expect("the length of an id");
        Connections::enter(&Arc::default(), 0, home, (id, Peer::Unix, &[]), charges)
    }
}

impl Connections {
    /// Adds a backend of this pool, whose charges it keeps.
    pub(super) fn enter(
        self: &Arc<Self>,
        number: u64,
        home: Arc<dyn Home>,
        (id, peer, key): (Id, Peer, &[u8]),
        (here, descriptor): (Charge, Charge),
    ) -> Registration {
        let open = Arc::new(OpenBackend {
            number,
            home: Arc::clone(&home),
            id,
            peer,
            responses: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            cell: CellIndex::default(),
        });
        self.0.lock().insert(number, Arc::clone(&open));
        let group = home.group(key);
        group.join(id, peer);
        Registration {
            open,
            connections: Arc::clone(self),
            group,
            reason: Close::Internal,
            _here: here,
            _descriptor: descriptor,
        }
    }

    /// The backends that are connected now, in the order in which they came.
    pub(super) fn all(&self) -> Vec<ConnectedBackend> {
        let mut open: Vec<_> = self.0.lock().values().cloned().collect();
        open.sort_unstable_by_key(|open| open.number);
        let connected = open.iter().map(|open| ConnectedBackend {
            number: open.number,
            address: open.home.name().to_owned(),
            id: open.id,
            peer: open.peer,
            responses: open.responses.load(Ordering::Relaxed),
        });
        connected.collect()
    }

    /// The backend with this number closed its side.
    pub(super) fn hung_up(&self, number: u64) {
        let open = self.0.lock().get(&number).cloned();
        if let Some(open) = open {
            open.hung_up();
        }
    }
}

impl Registration {
    /// Whether the connection hung up.
    pub fn is_gone(&self) -> bool {
        self.open.gone.load(Ordering::SeqCst)
    }

    /// Counts a response that was read to its end. For the owner of the backend, who alone adds to it: a load and a store do.
    pub(super) fn count_response(&self) {
        let responses = &self.open.responses;
        let count = responses.load(Ordering::Relaxed);
        responses.store(count + 1, Ordering::Relaxed);
    }

    /// Says why the connection is closed, before it is dropped.
    pub(super) fn close(&mut self, reason: Close) {
        self.reason = reason;
    }

    /// Where the backend is in its pool.
    pub(super) fn cell(&self) -> &CellIndex {
        &self.open.cell
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let OpenBackend {
            number, id, peer, ..
        } = *self.open;
        self.connections.0.lock().remove(&number);
        self.group.leave(id, peer, self.reason);
    }
}
