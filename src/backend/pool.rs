//! Where idle backends wait for requests, and requests for backends.
//!
//! Each dial-in address has a [`Pool`]. A site uses the pools of its addresses; sites that share an address share its
//! backends. The machine with the smallest share of its connections in use comes first, and its most recently idle
//! backend (`order` may say otherwise). Waiting requests are served in order of arrival: the thread that brings a backend (a worker at the end of an exchange, or the dial-in
//! thread) puts it into the slot of the first request in the pool's [`queue`](super::queue), so that no later request
//! can take it. A request waits in the queues of all pools of its site with one slot; the first backend fills it.
//!
//! Workers call [`acquire`], [`PoolTicket`] and [`PoolLease`]; only [`PoolTicket::wait`] blocks. The dial-in thread
//! calls [`Pool::offer`] and `Pool::forget`.
//!
//! **Invariants**
//! - A [`Backend`] is owned by a pool, a slot or a [`PoolLease`], never shared. It refers to its pool, which owns it
//!   while it is idle; [`Pool::shut`] breaks that reference cycle. A finished lease returns its backend; a dropped lease
//!   closes it.
//! - No backend is idle in a pool while a request waits there that accepts it, unless it is drained.
//! - A backend is never left in a slot: a dropped [`PoolTicket`] passes it on.
//! - A backend that hung up is never in a pool for long: the dial-in thread marks it as gone and then removes it, and
//!   [`Pool::offer`] checks the mark under the pool's lock.
//! - Pool locks are leaves: nothing is closed, logged, woken or sent under them.

mod revocation;
mod succession;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::mem;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use parking_lot::Mutex;

use super::drained::Drained;
use super::group::{Group, Groups, Journal, Sites};
use super::identity::BackendIdentity;
use super::idle::{CellIndex, HasCell, IdleBackends};
use super::machine::{Machine, MachineMember, Machines};
use super::queue::{Queue, QueuePosition, Slot};
use super::registration::{Home, Registration};
use super::waiting::{CountedWait, QueueFull, WaitingCount, WaitingGuard};
use crate::config::Order;
use crate::net::conn::Conn;
use crate::net::stream::{Peer, Pending};
use crate::net::tls::Acceptor;
use crate::preamble::{Id, RefusalKind, ServerLine, WRONG_KEY};
use crate::stats::{Close, Stats};

/// The backends of one dial-in address, and the requests that wait for them.
#[derive(Debug)]
pub struct Pool {
    /// The address, for logs.
    name: String,
    stats: Arc<Stats>,
    groups: Groups,
    machines: Machines,
    state: Mutex<PoolState>,
}

/// A connection of an application that has sent its preamble.
#[derive(Debug)]
pub struct Backend {
    /// Its pool.
    pub pool: Arc<Pool>,
    /// Its connection.
    pub conn: Conn,
    /// The id that it sent; not unique.
    pub id: Id,
    /// The key that it sent; empty for none.
    pub key: Box<[u8]>,
    /// Where it dialled in from.
    pub peer: Peer,
    /// Its entry in the list of connected backends.
    pub registration: Registration,
    /// The machine that it runs on.
    pub machine: MachineMember,
    /// See [`Pool::verification`].
    pub verified: u64,
}

/// The process that has replaced this one, or another one that shares its backends with this one. Neither call waits for
/// that process for longer than a second or two.
pub trait Successor: Debug + Send + Sync {
    /// Gives it an idle backend.
    ///
    /// # Errors
    /// The backend: the process is gone.
    fn give(&self, backend: Backend) -> Result<(), Box<Backend>>;

    /// Asks it for a backend of an address that has sent one of these keys, and this id if given, since a request waits
    /// here. What it sends is offered to the pool.
    fn ask(&self, address: &str, keys: &[Box<[u8]>], id: Option<&[u8]>);
}

/// Which backends a request may go to.
#[derive(Clone, Debug)]
pub struct PoolSelector<'a> {
    /// The pools of the site, at least one.
    pub pools: &'a [Arc<Pool>],
    /// The backend must have sent one of these keys.
    pub keys: &'a Arc<[Box<[u8]>]>,
    /// The backend must have sent this id, if given.
    pub id: Option<&'a [u8]>,
    /// Which of several idle backends is taken.
    pub order: Order,
    /// The number of waiting requests, which is limited.
    pub waiting: &'a Arc<WaitingCount>,
}

/// A backend for the time of one exchange.
#[derive(Debug)]
pub struct PoolLease {
    backend: Option<Backend>,
    /// When the exchange began, if its response time matters for the choice among machines.
    since: Option<Instant>,
}

/// The result of [`acquire`].
#[derive(Debug)]
pub enum PoolAcquired {
    /// A backend was idle.
    Ready(PoolLease),
    /// The request waits in the queue.
    Queued(PoolTicket),
}

/// A request in the queues of its site's pools. Dropping it leaves them.
#[derive(Debug)]
pub struct PoolTicket {
    pools: Box<[Arc<Pool>]>,
    /// The positions in the queues of the first of these pools: of all of them, unless the ticket is used up.
    positions: Vec<QueuePosition>,
    slot: Arc<Slot<PoolLease>>,
    criteria: Arc<BackendCriteria>,
    order: Order,
    since: Instant,
    _waiting: WaitingGuard,
}

/// Which backends a waiting request accepts.
#[derive(Debug)]
struct BackendCriteria {
    keys: Arc<[Box<[u8]>]>,
    id: Option<Box<[u8]>>,
    /// The count of its site, which identifies the site.
    site: Arc<WaitingCount>,
}

#[derive(Debug, Default)]
struct PoolState {
    idle: IdleBackends<Backend>,
    waiting: Queue<PoolLease, Arc<BackendCriteria>>,
    /// Backends are closed for this reason instead of becoming idle.
    closed: Option<Close>,
    /// The backends that get no requests.
    drained: Arc<Drained>,
    /// What backends are verified by.
    verification: BackendVerification,
    /// The keys of the sites of this address.
    keys: Arc<[Box<[u8]>]>,
    /// Idle backends are given to it, except those with TLS, whose keys cannot leave the process.
    successor: Option<Arc<dyn Successor>>,
}

/// How the backends of an address have to identify themselves.
#[derive(Debug, Default)]
struct BackendVerification {
    /// Counts the changes.
    generation: u64,
    /// What verifies them; `None`: the address has no TLS.
    tls: Option<Acceptor>,
}

impl Pool {
    /// An empty pool. `name` is the address.
    pub fn new(name: String, stats: Arc<Stats>, journal: &Arc<Journal>) -> Self {
        Self {
            name,
            stats,
            groups: Groups::new(journal),
            machines: Machines::default(),
            state: Mutex::default(),
        }
    }

    /// The address.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds a connected backend to the machine that it runs on.
    pub fn join_machine(&self, backend: &BackendIdentity) -> MachineMember {
        self.machines.join(backend)
    }

    /// How many backends are idle, drained or not.
    pub fn idle(&self) -> usize {
        self.state.lock().idle.len()
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// The number of connected backends, idle or not, that sent one of these keys, and this id if given.
    pub fn connected(&self, keys: &[Box<[u8]>], id: Option<&[u8]>) -> usize {
        self.groups.connected(keys, id)
    }

    /// Changes which sites each key belongs to, for logs.
    pub fn name_sites(&self, sites: &BTreeMap<Box<[u8]>, Sites>) {
        self.groups.set(sites);
    }

    /// The accepted keys; an empty one means no key.
    pub fn keys(&self) -> Arc<[Box<[u8]>]> {
        Arc::clone(&self.state.lock().keys)
    }

    /// Changes the accepted keys, and closes idle backends with other keys.
    pub fn set_keys(&self, keys: Arc<[Box<[u8]>]>) {
        let unaccepted = {
            let mut state = self.state.lock();
            let unaccepted = state.idle.take_others(&keys);
            state.keys = keys;
            unaccepted
        };
        for backend in unaccepted {
            backend.refuse(
                Close::Removed,
                &ServerLine::refused(RefusalKind::Key, WRONG_KEY),
            );
        }
    }

    /// Changes which backends get no requests. Those stay connected; those that get requests again take them at once.
    pub fn set_drained(&self, drained: &Arc<Drained>) {
        let again = {
            let mut state = self.state.lock();
            if state.drained == *drained {
                return;
            }
            state.drained = Arc::clone(drained);
            let is_drained = |backend: &Backend| backend.is_drained(drained);
            let misplaced = state.idle.take_misplaced(is_drained);
            let (now, again): (Vec<_>, Vec<_>) = misplaced.into_iter().partition(is_drained);
            for backend in now {
                state.idle.push(backend, true);
            }
            again
        };
        for backend in again {
            self.offer(backend);
        }
    }

    /// How many of the backends that sent one of these keys are idle, drained or not. Takes time for each of them.
    pub fn idle_with(&self, keys: &[Box<[u8]>]) -> usize {
        self.state.lock().idle.count(keys)
    }

    /// Whether a drained backend that sent one of these keys is idle.
    pub fn has_drained(&self, keys: &[Box<[u8]>]) -> bool {
        self.state.lock().idle.has_drained(keys)
    }

    /// Removes the waiting requests of a site from the queue, to ask again. `site`: the count of its waiting requests.
    pub fn recall(&self, site: &Arc<WaitingCount>) {
        let is_of_site = |criteria: &Arc<BackendCriteria>| Arc::ptr_eq(&criteria.site, site);
        let slots = self.state.lock().waiting.take_where(is_of_site);
        for slot in slots {
            slot.recall();
        }
    }

    /// Takes a backend: gives it to the first request that accepts it, or to the process that has replaced this one, or
    /// keeps it idle.
    pub fn offer(&self, mut backend: Backend) {
        loop {
            let taker = {
                let mut state = self.state.lock();
                if backend.registration.is_gone() {
                    drop(state);
                    backend.close(Close::PeerClosed);
                    return;
                }
                if !state.keys.contains(&backend.key) {
                    drop(state);
                    let line = ServerLine::refused(RefusalKind::Key, WRONG_KEY);
                    backend.refuse(Close::Removed, &line);
                    return;
                }
                if let Some(reason) = state.closed {
                    drop(state);
                    backend.dismiss(reason);
                    return;
                }
                let BackendVerification { generation, tls } = &state.verification;
                if backend.verified != *generation {
                    let (generation, tls) = (*generation, tls.clone());
                    drop(state);
                    match backend.verify_again(generation, tls.as_ref()) {
                        Some(valid) => backend = valid,
                        None => return,
                    }
                    continue;
                }
                let is_drained = backend.is_drained(&state.drained);
                let will_do = |criteria: &Arc<BackendCriteria>| criteria.allow(&backend);
                let slot = match is_drained {
                    true => None,
                    false => state.waiting.pop_first_where(will_do),
                };
                match (slot, &state.successor) {
                    (Some(slot), _) => Ok(slot),
                    (None, Some(successor)) if !backend.conn.is_secure() => {
                        Err(Arc::clone(successor))
                    }
                    (None, _) => {
                        state.idle.push(backend, is_drained);
                        return;
                    }
                }
            };
            let refused = match taker {
                // The request may have been given another backend just now, or may have given up.
                Ok(slot) => slot
                    .fill(PoolLease::of(backend))
                    .and_then(PoolLease::into_backend),
                Err(successor) => self.give(backend, &successor),
            };
            match refused {
                Some(refused) => backend = refused,
                None => return,
            }
        }
    }

    /// Closes idle backends, and those that are offered later, for this reason. Waiting requests wait until their
    /// deadlines.
    pub fn shut(&self, reason: Close) {
        let (idle, successor) = {
            let mut state = self.state.lock();
            state.closed = Some(reason);
            (state.idle.take_others(&[]), state.successor.take())
        };
        drop(successor);
        for backend in idle {
            backend.dismiss(reason);
        }
    }

    /// An idle backend that matches and is alive. Dead ones are closed.
    fn take(&self, selector: &PoolSelector<'_>) -> Option<PoolLease> {
        loop {
            let idle = {
                let mut state = self.state.lock();
                state.idle.take(selector.keys, selector.id, selector.order)
            };
            if let Some(lease) = idle?.into_lease() {
                return Some(lease);
            }
        }
    }

    /// Adds a request to the queue and its position to `positions`, unless a backend has just become idle.
    fn enqueue(&self, ticket: &PoolTicket, positions: &mut Vec<QueuePosition>) -> Option<Backend> {
        let PoolTicket {
            criteria, order, ..
        } = ticket;
        let mut state = self.state.lock();
        let idle = state
            .idle
            .take(&criteria.keys, criteria.id.as_deref(), *order);
        if idle.is_none() {
            let slot = Arc::clone(&ticket.slot);
            positions.push(state.waiting.push(ticket.since, Arc::clone(criteria), slot));
            if let Some(successor) = state.successor.clone() {
                drop(state);
                successor.ask(&self.name, &criteria.keys, criteria.id.as_deref());
            }
        }
        idle
    }

    fn dequeue(&self, position: QueuePosition) {
        let waiting = self.state.lock().waiting.remove(position);
        drop(waiting);
    }
}

impl Home for Pool {
    fn name(&self) -> &str {
        &self.name
    }

    fn group(&self, key: &[u8]) -> Arc<Group> {
        self.groups.of(key, &self.name)
    }

    /// The dial-in thread has marked the backend as gone before.
    fn forget(&self, cell: &CellIndex) {
        let gone = self.state.lock().idle.take_at(cell);
        if let Some(backend) = gone {
            backend.close(Close::PeerClosed);
        }
    }
}

impl HasCell for Backend {
    fn key(&self) -> &[u8] {
        &self.key
    }

    fn id(&self) -> &[u8] {
        self.id.as_bytes()
    }

    fn machine(&self) -> &Arc<Machine> {
        self.machine.machine()
    }

    fn cell(&self) -> &CellIndex {
        self.registration.cell()
    }
}

impl Backend {
    /// Closes the connection and logs the reason.
    pub fn close(mut self, reason: Close) {
        self.registration.close(reason);
        self.pool.stats.backend_closed(reason);
        log::debug!(
            "backend {} from {} at {} closed: reason={reason}",
            self.id,
            self.peer,
            self.pool.name
        );
    }

    /// Closes an idle backend since its pool is closed.
    fn dismiss(self, reason: Close) {
        let why = match reason {
            Close::Draining => "the server is stopping",
            _ => "the server no longer has this address",
        };
        self.refuse(reason, &ServerLine::refused(RefusalKind::Gone, why));
    }

    /// Closes an idle backend, which learns why if it understands that.
    fn refuse(mut self, reason: Close, line: &ServerLine) {
        if self.id.is_name() {
            // It loses nothing else if there is no room.
            let _ = self.conn.write_now(&line.write());
        }
        self.close(reason);
    }

    fn is_drained(&self, drained: &Drained) -> bool {
        let name = self.registration.identity().name.as_ref();
        drained.has_backend(&self.id, name, &self.peer)
    }

    /// The machine that it runs on and the address at which it dialled in, as in logs.
    fn machine_name(&self) -> String {
        let host = self.registration.identity().machine();
        format!("{host} at {}", self.pool.name)
    }

    /// Makes a lease of it, unless it is dead.
    fn into_lease(self) -> Option<PoolLease> {
        let backend = self.inspect()?;
        backend.registration.note_change();
        let since = backend.pool.machines.are_several().then(Instant::now);
        Some(PoolLease {
            backend: Some(backend),
            since,
        })
    }

    /// Closes it if it has hung up or has sent unexpected bytes.
    fn inspect(self) -> Option<Self> {
        let reason = match self.conn.pending() {
            Pending::Nothing => return Some(self),
            Pending::Bytes => Close::Junk,
            Pending::End | Pending::Broken => Close::PeerClosed,
        };
        self.close(reason);
        None
    }
}

impl BackendCriteria {
    fn allow(&self, backend: &Backend) -> bool {
        matches_selector(backend, &self.keys, self.id.as_deref())
    }
}

impl PoolLease {
    const fn of(backend: Backend) -> Self {
        Self {
            backend: Some(backend),
            since: None,
        }
    }

    /// Its connection.
    pub fn conn(&mut self) -> &mut Conn {
        let backend = self.backend.as_mut();
        &mut backend.expect(HAS_BACKEND).conn
    }

    /// The id that the backend sent.
    pub fn id(&self) -> Id {
        self.backend.as_ref().expect(HAS_BACKEND).id
    }

    /// The exchange is over and its response was read to the end: the backend can be used again.
    pub fn finish(mut self) {
        if let Some(backend) = self.backend.take() {
            backend.registration.count_response();
            backend.registration.note_change();
            let machine = backend.machine.machine();
            machine.add_response(|| backend.machine_name());
            if let Some(since) = self.since {
                let now = Instant::now();
                let time = now.saturating_duration_since(since);
                machine.add_response_time(time, now);
            }
            // The backend holds its pool, so keep a reference until it is in.
            let pool = Arc::clone(&backend.pool);
            pool.offer(backend);
        }
    }

    /// The response has not come in time, which counts against the machine.
    pub(super) fn late(&self) {
        if let Some(backend) = &self.backend {
            let machine = backend.machine.machine();
            machine.add_late_response(|| backend.machine_name());
        }
    }

    /// The connection cannot be used again.
    pub fn close(mut self, reason: Close) {
        if let Some(backend) = self.backend.take() {
            backend.close(reason);
        }
    }

    /// The backend, for another owner.
    pub fn into_backend(mut self) -> Option<Backend> {
        self.backend.take()
    }

    /// Inspects the connection before it is used; see [`Backend::into_lease`].
    fn check(self) -> Option<Self> {
        self.into_backend()?.into_lease()
    }
}

impl Drop for PoolLease {
    fn drop(&mut self) {
        // A lease that ended in order has no backend any more; this is an error path or a panic.
        if let Some(backend) = self.backend.take() {
            backend.close(Close::BackendFailed);
        }
    }
}

/// Takes an idle backend, or queues the request by its arrival `since`. `wait`: see [`WaitingCount::enter`]. Never
/// blocks.
///
/// # Errors
/// [`QueueFull`].
pub fn acquire(
    selector: &PoolSelector<'_>,
    wait: &mut Option<CountedWait>,
    since: Instant,
) -> Result<PoolAcquired, QueueFull> {
    // Waiting requests do not accept what is idle, so it can be taken at any time.
    let idle = selector.pools.iter().find_map(|pool| pool.take(selector));
    if let Some(lease) = idle {
        return Ok(PoolAcquired::Ready(lease));
    }
    let mut ticket = PoolTicket {
        pools: selector.pools.into(),
        positions: Vec::with_capacity(selector.pools.len()),
        slot: Arc::default(),
        criteria: Arc::new(BackendCriteria {
            keys: Arc::clone(selector.keys),
            id: selector.id.map(Box::from),
            site: Arc::clone(selector.waiting),
        }),
        order: selector.order,
        since,
        _waiting: selector.waiting.enter(wait)?,
    };
    Ok(match ticket.enqueue() {
        Some(lease) => PoolAcquired::Ready(lease),
        None => PoolAcquired::Queued(ticket),
    })
}

impl PoolTicket {
    /// The backend that the request was given, inspected. A dead one is closed; then the request takes another idle one,
    /// or returns to its old position in the queues: `None`. A ticket that has returned a backend is used up.
    pub fn take(&mut self) -> Option<PoolLease> {
        let lease = self.slot.take()?;
        match self.pools.len() {
            // It was removed from its only queue before.
            1 => self.positions.clear(),
            _ => self.leave_queues(),
        }
        lease.check().or_else(|| {
            self.slot = Arc::default();
            self.enqueue()
        })
    }

    /// Blocks until the request is given a backend, or until `until`; see [`Slot::wait`].
    pub fn wait(&self, until: Instant) -> bool {
        self.slot.wait(until)
    }

    /// Registers a waker that is called when the request is given a backend; see [`Slot::wake_with`].
    pub fn wake_with(&self, waker: Waker) -> bool {
        self.slot.wake_with(waker)
    }

    /// Whether the request has to ask again.
    pub fn is_recalled(&self) -> bool {
        self.slot.is_recalled()
    }

    /// Joins the queues of all pools with its unused slot, unless a backend has become idle in one of them.
    fn enqueue(&mut self) -> Option<PoolLease> {
        loop {
            let mut positions = mem::take(&mut self.positions);
            let mut pools = self.pools.iter();
            let found = pools.find_map(|pool| pool.enqueue(self, &mut positions));
            self.positions = positions;
            let backend = found?;
            self.leave_queues();
            if let Some(lease) = backend.into_lease() {
                return Some(lease);
            }
            self.slot = Arc::default();
        }
    }

    /// Leaves the queues, and passes on what was put into the slot at the last moment.
    fn leave_queues(&mut self) {
        for (pool, position) in self.pools.iter().zip(self.positions.drain(..)) {
            pool.dequeue(position);
        }
        if let Some(lease) = self.slot.close() {
            lease.finish();
        }
    }
}

impl Drop for PoolTicket {
    fn drop(&mut self) {
        self.leave_queues();
    }
}

fn matches_selector(backend: &Backend, keys: &[Box<[u8]>], id: Option<&[u8]>) -> bool {
    keys.contains(&backend.key) && id.is_none_or(|id| backend.id.as_bytes() == id)
}

const HAS_BACKEND: &str = "a lease has its backend until it ends";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;
    use crate::backend::drained::DrainedName;
    use crate::net::stream::Stream;

    struct TestSite {
        pools: Vec<Arc<Pool>>,
        keys: Arc<[Box<[u8]>]>,
        waiting: Arc<WaitingCount>,
        stats: Arc<Stats>,
    }

    impl TestSite {
        fn new(pools: usize) -> Self {
            let stats = Arc::new(Stats::new());
            let keys: Arc<[Box<[u8]>]> = Arc::from([Box::default()]);
            let pool = |_| {
                let pool = Pool::new("test".to_owned(), Arc::clone(&stats), &Arc::default());
                pool.set_keys(Arc::clone(&keys));
                Arc::new(pool)
            };
            let waiting = Arc::new(WaitingCount::new(Arc::default()));
            waiting.limit(10, 10);
            Self {
                pools: (0..pools).map(pool).collect(),
                keys: Arc::clone(&keys),
                waiting,
                stats,
            }
        }

        /// Has a backend dial in, and returns its side of the connection.
        fn join(&self, pool: usize, id: &str) -> Stream {
            let kind = (AddressFamily::Unix, SockType::Stream);
            let (own, other) = socketpair(kind.0, kind.1, None, SockFlag::SOCK_CLOEXEC).unwrap();
            let pool = &self.pools[pool];
            pool.offer(Backend {
                pool: Arc::clone(pool),
                conn: Conn::plain(Stream::from(own)),
                id: Id::new(id.as_bytes()).unwrap(),
                key: Box::default(),
                peer: Peer::Unix,
                registration: Registration::test(Arc::<Pool>::clone(pool)),
                verified: 0,
                machine: pool.join_machine(&BackendIdentity::test(
                    b"7f0000011a2b",
                    b"",
                    Peer::Unix,
                )),
            });
            Stream::from(other)
        }

        fn acquire(
            &self,
            id: Option<&str>,
            wait: &mut Option<CountedWait>,
            since: Instant,
        ) -> Result<PoolAcquired, QueueFull> {
            let selector = PoolSelector {
                pools: &self.pools,
                keys: &self.keys,
                id: id.map(str::as_bytes),
                order: Order::Newest,
                waiting: &self.waiting,
            };
            acquire(&selector, wait, since)
        }

        fn ready(&self) -> PoolLease {
            match self.acquire(None, &mut None, Instant::now()) {
                Ok(PoolAcquired::Ready(lease)) => lease,
                other => panic!("{other:?}"),
            }
        }

        fn queued(&self, id: Option<&str>, since: Instant) -> PoolTicket {
            match self.acquire(id, &mut None, since) {
                Ok(PoolAcquired::Queued(ticket)) => ticket,
                other => panic!("{other:?}"),
            }
        }

        fn lines(&self) -> Vec<usize> {
            self.pools.iter().map(|pool| pool.waiting()).collect()
        }
    }

    fn id(lease: Option<PoolLease>) -> Option<String> {
        lease.map(|lease| lease.id().to_string())
    }

    #[test]
    fn closes_what_returns_after_shutdown() {
        let site = TestSite::new(1);
        let _backend = site.join(0, "test");
        let lease = site.ready();
        site.pools[0].shut(Close::Draining);
        lease.finish();
        assert_eq!(site.pools[0].idle(), 0);
        assert_eq!(site.stats.backends_closed(Close::Draining), 1);
    }

    #[test]
    fn serves_in_order_of_arrival() {
        let site = TestSite::new(1);
        let start = Instant::now();
        let mut second = site.queued(None, start + Duration::from_millis(2));
        let mut first = site.queued(None, start + Duration::from_millis(1));
        let mut special = site.queued(Some("three"), start);
        assert!(first.take().is_none());
        let _one = site.join(0, "one");
        let lease = first.take().expect("its turn");
        assert!(second.take().is_none());
        // What is returned goes to the next request that accepts it.
        lease.finish();
        assert_eq!(id(second.take()).as_deref(), Some("one"));
        assert_eq!(site.lines(), [1]);
        let _three = site.join(0, "three");
        assert_eq!(id(special.take()).as_deref(), Some("three"));
        assert_eq!(site.lines(), [0]);
    }

    #[test]
    fn waits_in_all_pools_and_takes_one_backend() {
        let site = TestSite::new(3);
        let mut ticket = site.queued(None, Instant::now());
        assert_eq!(site.lines(), [1, 1, 1]);
        let _one = site.join(1, "one");
        // It is not given to a request that has a backend already.
        let _two = site.join(2, "two");
        assert_eq!(site.pools[2].idle(), 1);
        assert_eq!(id(ticket.take()).as_deref(), Some("one"));
        assert_eq!(site.lines(), [0, 0, 0]);
        drop(ticket);
        assert_eq!(id(Some(site.ready())).as_deref(), Some("two"));
    }

    #[test]
    fn dropped_ticket_passes_its_backend_on() {
        let site = TestSite::new(2);
        let first = site.queued(None, Instant::now());
        let mut second = site.queued(None, Instant::now());
        let _one = site.join(0, "one");
        assert!(second.take().is_none());
        drop(first);
        assert_eq!(id(second.take()).as_deref(), Some("one"));
        drop(second);
        assert_eq!(site.lines(), [0, 0]);
        let third = site.queued(None, Instant::now());
        let _two = site.join(0, "two");
        drop(third);
        assert_eq!(site.pools[0].idle(), 1);
    }

    #[test]
    fn dead_backend_costs_no_position() {
        let site = TestSite::new(2);
        let start = Instant::now();
        let mut first = site.queued(None, start);
        let mut second = site.queued(None, start + Duration::from_millis(1));
        drop(site.join(0, "dead"));
        assert!(first.wait(start));
        assert!(first.take().is_none(), "it was dead");
        assert_eq!(site.stats.backends_closed(Close::PeerClosed), 1);
        assert_eq!(site.lines(), [2, 2]);
        let _one = site.join(1, "one");
        assert!(second.take().is_none());
        assert_eq!(id(first.take()).as_deref(), Some("one"));
        // Another backend may be idle.
        drop(site.join(0, "dead"));
        let _two = site.join(0, "two");
        assert_eq!(id(second.take()).as_deref(), Some("two"));
    }

    #[test]
    fn admitted_request_is_not_refused() {
        let site = TestSite::new(1);
        site.waiting.limit(1, 1);
        let acquire = |wait: &mut Option<CountedWait>| site.acquire(None, wait, Instant::now());
        let [mut own, mut other] = [None, None];
        let ticket = acquire(&mut own).unwrap();
        assert_eq!(acquire(&mut other).unwrap_err(), QueueFull::Site(1));
        assert!(other.is_none());
        // The limit holds for requests that wait.
        drop(ticket);
        let ticket = acquire(&mut other).unwrap();
        let again = acquire(&mut own).unwrap();
        assert_eq!(acquire(&mut None).unwrap_err(), QueueFull::Site(1));
        drop((ticket, again));
        assert!(acquire(&mut None).is_ok());
    }

    fn backend(pool: &Arc<Pool>, id: usize, key: &str) -> Backend {
        let (own, _) = std::os::unix::net::UnixStream::pair().unwrap();
        Backend {
            pool: Arc::clone(pool),
            conn: Conn::plain(Stream::from(std::os::fd::OwnedFd::from(own))),
            id: Id::new(id.to_string().as_bytes()).unwrap(),
            key: key.as_bytes().into(),
            peer: Peer::Unix,
            registration: Registration::test(Arc::<Pool>::clone(pool)),
            verified: 0,
            machine: pool.join_machine(&BackendIdentity::test(
                b"7f0000011a2b",
                key.as_bytes(),
                Peer::Unix,
            )),
        }
    }

    #[test]
    fn hang_up_removes_from_any_place() {
        let pool = Arc::new(Pool::new(
            "test".to_owned(),
            Arc::new(Stats::new()),
            &Arc::default(),
        ));
        pool.set_keys(Arc::new([Box::default()]));
        let mut all: Vec<_> = (0..5)
            .map(|id| {
                let backend = backend(&pool, id, "");
                let hang_up = backend.registration.hang_up();
                pool.offer(backend);
                hang_up
            })
            .collect();
        for (position, left) in [(2, 4), (0, 3), (2, 2)] {
            let hang_up = all.remove(position);
            hang_up();
            // A second time changes nothing.
            hang_up();
            assert_eq!(pool.idle(), left);
        }
        // A new backend takes a free cell, not that of the removed one.
        pool.offer(backend(&pool, 5, ""));
        assert_eq!(pool.idle(), 3);
        // A backend that hung up before it is returned does not become idle.
        let late = backend(&pool, 6, "");
        late.registration.hang_up()();
        pool.offer(late);
        assert_eq!(pool.idle(), 3);
        pool.shut(Close::Draining);
        assert_eq!(pool.idle(), 0);
    }

    #[test]
    fn drained_backends_wait_apart() {
        let site = TestSite::new(1);
        let pool = &site.pools[0];
        let list = |ids: &[&str]| {
            let mut drained = Drained::default();
            for id in ids {
                drained.add(DrainedName::Id(Id::new(id.as_bytes()).unwrap()));
            }
            Arc::new(drained)
        };
        let _one = site.join(0, "one");
        let _two = site.join(0, "two");
        pool.set_drained(&list(&["one", "new"]));
        let lease = site.ready();
        assert_eq!(lease.id().to_string(), "two");
        let mut first = site.queued(None, Instant::now());
        let mut second = site.queued(Some("new"), Instant::now());
        // One that dials in is drained as well; one that is busy, at the end of its request.
        let _new = site.join(0, "new");
        pool.set_drained(&list(&["one", "two", "new"]));
        lease.finish();
        assert!(first.take().is_none() && second.take().is_none());
        assert_eq!((pool.idle(), site.lines()), (3, vec![2]));
        pool.set_drained(&list(&["one", "new"]));
        assert_eq!(id(first.take()).as_deref(), Some("two"));
        pool.set_drained(&list(&[]));
        assert_eq!(id(second.take()).as_deref(), Some("new"));
        assert_eq!(pool.idle(), 1);
        assert_eq!(site.stats.backends_closed(Close::Draining), 0);
    }

    #[test]
    fn requests_of_a_site_are_recalled() {
        let (site, other) = (TestSite::new(2), TestSite::new(0));
        let mut recalled = site.queued(None, Instant::now());
        let selector = PoolSelector {
            pools: &site.pools,
            keys: &site.keys,
            id: None,
            order: Order::Newest,
            waiting: &other.waiting,
        };
        let Ok(PoolAcquired::Queued(mut stays)) = acquire(&selector, &mut None, Instant::now())
        else {
            panic!("there is no backend");
        };
        site.pools
            .iter()
            .for_each(|pool| pool.recall(&site.waiting));
        assert!(recalled.is_recalled() && recalled.take().is_none() && !stays.is_recalled());
        assert_eq!(site.lines(), [1, 1]);
        let _one = site.join(1, "one");
        assert_eq!(id(stays.take()).as_deref(), Some("one"));
        drop(recalled);
        assert_eq!((site.lines(), site.waiting.count()), (vec![0, 0], 0));
    }
}
