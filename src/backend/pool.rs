//! Where idle backends wait for requests, and requests for backends.
//!
//! Each dial-in address has a [`Pool`]. A site draws from the pools of its addresses, and sites that share an
//! address share its backends. Idle backends are taken last-in first-out (or oldest first, if the site
//! wants it); waiting requests are served first-in first-out by *direct hand-over*: whoever brings a
//! backend (a worker at the end of an exchange, the dial-in thread with a new one) puts it into the oldest
//! waiter's slot, so that no newcomer can snatch it. A waiter stands in the queue of every pool of its site with
//! one and the same slot; the first backend fills it.
//!
//! Called by workers ([`lease`], [`Lease`]) and by the dial-in thread ([`Pool::offer`], [`Pool::sweep`]).
//!
//! **Invariants**
//! - A [`Backend`] is owned by a pool, a slot or a [`Lease`], never shared. It holds on to its pool, and an idle one is
//!   held by it; [`Pool::shut`] undoes the knot. A lease gives it back when it is
//!   finished and closes it when it is dropped.
//! - A backend is never left in a slot: see [`slot`](super::slot).
//! - A backend that hung up is never in a pool for long: the dial-in thread marks it gone and then sweeps, and
//!   [`Pool::offer`] looks at the mark under the pool's lock, so one of the two sees the other.
//! - Pool and slot locks are leaves; nothing is closed, logged or waited for under them but the waiter's
//!   own condition.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::dial_in::Seat;
use super::lease::Missed;
use super::preamble::Id;
use super::slot::Slot;
use crate::config::Order;
use crate::net::conn::Conn;
use crate::net::stream::{Peer, Pending};
use crate::stats::{Close, Stats};

/// The backends of one dial-in address and the requests that wait for them.
#[derive(Debug)]
pub struct Pool {
    /// The address, for logs.
    name: String,
    stats: Arc<Stats>,
    state: Mutex<State>,
}

/// An application's connection that has sent its preamble.
#[derive(Debug)]
pub struct Backend {
    /// Where it belongs.
    pub pool: Arc<Pool>,
    /// Its connection.
    pub conn: Conn,
    /// The id that it sent; not unique.
    pub id: Id,
    /// The key that it sent, empty for none.
    pub key: Box<[u8]>,
    /// Where it dialled in from.
    pub peer: Peer,
    /// Its place on the dial-in thread's list of connections.
    pub seat: Seat,
}

/// Which backends a request may go to.
#[derive(Clone, Debug)]
pub struct Want<'a> {
    /// Pools to draw from, at least one.
    pub pools: &'a [Arc<Pool>],
    /// Keys of which the backend must have sent one.
    pub keys: &'a Arc<[Box<[u8]>]>,
    /// The only id that will do, if any.
    pub id: Option<&'a [u8]>,
    /// Which of several idle backends is taken.
    pub order: Order,
    /// The count of requests that wait, which has a limit.
    pub waiting: &'a Arc<Waiting>,
}

/// How many requests of a site wait, with or without a worker, and how many of all sites.
#[derive(Debug)]
pub struct Waiting {
    here: AtomicUsize,
    /// Shared by all sites.
    everywhere: Arc<AtomicUsize>,
    /// The limits, which a reload may change.
    most_here: AtomicUsize,
    most_everywhere: AtomicUsize,
}

/// One of those that wait, as long as this lives.
#[derive(Debug)]
pub struct Wait(Arc<Waiting>);

/// A backend for the time of one exchange.
#[derive(Debug)]
pub struct Lease {
    backend: Option<Backend>,
}

#[derive(Debug, Default)]
struct State {
    /// The one that became idle last is at the end.
    idle: Vec<Backend>,
    /// The one that waits longest is in front.
    waiting: VecDeque<Waiter>,
    /// Nothing may be kept any more, for this reason.
    closed: Option<Close>,
    /// Keys that some site of this address knows.
    keys: Arc<[Box<[u8]>]>,
}

#[derive(Debug)]
struct Waiter {
    slot: Arc<Slot<Lease>>,
    keys: Arc<[Box<[u8]>]>,
    id: Option<Box<[u8]>>,
}

impl Waiting {
    /// Nobody waits. `everywhere` is the count that all sites share.
    pub fn new(everywhere: Arc<AtomicUsize>) -> Self {
        Self {
            here: AtomicUsize::new(0),
            everywhere,
            most_here: AtomicUsize::new(0),
            most_everywhere: AtomicUsize::new(0),
        }
    }

    /// Changes how many may wait, of this site and of all.
    pub fn limit(&self, here: usize, everywhere: usize) {
        self.most_here.store(here, Ordering::Relaxed);
        self.most_everywhere.store(everywhere, Ordering::Relaxed);
    }

    /// One more waits, unless there are too many already.
    pub fn enter(self: &Arc<Self>) -> Option<Wait> {
        // The guard takes back what was added, also where the limit says no.
        let wait = Wait(Arc::clone(self));
        let here = self.here.fetch_add(1, Ordering::Relaxed);
        let everywhere = self.everywhere.fetch_add(1, Ordering::Relaxed);
        let fits = here < self.most_here.load(Ordering::Relaxed)
            && everywhere < self.most_everywhere.load(Ordering::Relaxed);
        fits.then_some(wait)
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.0.here.fetch_sub(1, Ordering::Relaxed);
        self.0.everywhere.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// An empty pool. `name` is the address.
    pub fn new(name: String, stats: Arc<Stats>) -> Self {
        Self {
            name,
            stats,
            state: Mutex::default(),
        }
    }

    /// The address.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many backends are idle now.
    pub fn idle(&self) -> usize {
        self.state.lock().idle.len()
    }

    /// How many requests wait now.
    pub fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// The keys that are accepted now; an empty key stands for none.
    pub fn keys(&self) -> Arc<[Box<[u8]>]> {
        Arc::clone(&self.state.lock().keys)
    }

    /// Changes the keys that are accepted, and closes idle backends that sent another.
    pub fn set_keys(&self, keys: Arc<[Box<[u8]>]>) {
        let strangers = {
            let mut state = self.state.lock();
            let strangers = take_where(&mut state.idle, |backend| !keys.contains(&backend.key));
            state.keys = keys;
            strangers
        };
        for backend in strangers {
            backend.close(Close::Removed);
        }
    }

    /// Takes a backend in: gives it to the oldest request that it will do for, or keeps it idle.
    pub fn offer(&self, mut backend: Backend) {
        loop {
            let waiter = {
                let mut state = self.state.lock();
                let reason = if backend.seat.is_gone() {
                    Some(Close::PeerClosed)
                } else if !state.keys.contains(&backend.key) {
                    Some(Close::Removed)
                } else {
                    state.closed
                };
                if let Some(reason) = reason {
                    drop(state);
                    backend.close(reason);
                    return;
                }
                let served = state
                    .waiting
                    .iter()
                    .position(|waiter| waiter.takes(&backend));
                match served.and_then(|position| state.waiting.remove(position)) {
                    Some(waiter) => waiter,
                    None => {
                        state.idle.push(backend);
                        return;
                    }
                }
            };
            let lease = Lease {
                backend: Some(backend),
            };
            match waiter.slot.fill(lease).and_then(Lease::into_backend) {
                Some(refused) => backend = refused,
                None => return,
            }
        }
    }

    /// Closes idle backends that hung up. The dial-in thread has marked them before.
    pub fn sweep(&self) {
        let gone = take_where(&mut self.state.lock().idle, |backend| {
            backend.seat.is_gone()
        });
        for backend in gone {
            backend.close(Close::PeerClosed);
        }
    }

    /// Closes what is idle and whatever comes later, for this reason. Requests that wait go on waiting to their deadlines.
    pub fn shut(&self, reason: Close) {
        let idle = {
            let mut state = self.state.lock();
            state.closed = Some(reason);
            mem::take(&mut state.idle)
        };
        for backend in idle {
            backend.close(reason);
        }
    }

    /// An idle backend that will do and is alive. Dead ones on the way are closed.
    fn take(&self, want: &Want<'_>) -> Option<Lease> {
        loop {
            let backend = self.state.lock().take(want)?;
            if let Some(lease) = backend.lend() {
                return Some(lease);
            }
        }
    }

    /// Queues a waiter, unless a backend has become idle just before.
    fn queue(&self, want: &Want<'_>, slot: &Arc<Slot<Lease>>, first: bool) -> Option<Backend> {
        let mut state = self.state.lock();
        if let Some(backend) = state.take(want) {
            return Some(backend);
        }
        let waiter = Waiter {
            slot: Arc::clone(slot),
            keys: Arc::clone(want.keys),
            id: want.id.map(Box::from),
        };
        if first {
            state.waiting.push_front(waiter);
        } else {
            state.waiting.push_back(waiter);
        }
        None
    }

    fn unqueue(&self, slot: &Arc<Slot<Lease>>) {
        let mut state = self.state.lock();
        state
            .waiting
            .retain(|waiter| !Arc::ptr_eq(&waiter.slot, slot));
    }
}

impl Backend {
    /// Closes the connection and says why.
    fn close(self, reason: Close) {
        self.pool.stats.backend_closed(reason);
        log::debug!(
            "backend {} from {} at {} closed: reason={reason}",
            self.id,
            self.peer,
            self.pool.name
        );
    }

    /// Makes a lease of it, unless it has closed or has sent what nobody asked for.
    fn lend(self) -> Option<Lease> {
        let reason = match self.conn.pending() {
            Pending::Nothing => {
                return Some(Lease {
                    backend: Some(self),
                });
            }
            Pending::Bytes => Close::Junk,
            Pending::End | Pending::Broken => Close::PeerClosed,
        };
        self.close(reason);
        None
    }
}

impl State {
    fn take(&mut self, want: &Want<'_>) -> Option<Backend> {
        let fits = |backend: &Backend| does(backend, want.keys, want.id);
        match want.order {
            Order::Newest => {
                let position = self.idle.iter().rposition(fits)?;
                Some(self.idle.remove(position))
            }
            Order::Oldest => {
                let position = self.idle.iter().position(fits)?;
                Some(self.idle.remove(position))
            }
        }
    }
}

impl Waiter {
    fn takes(&self, backend: &Backend) -> bool {
        does(backend, &self.keys, self.id.as_deref())
    }
}

impl Lease {
    /// The backend.
    pub fn backend(&mut self) -> &mut Backend {
        self.backend
            .as_mut()
            .expect("a lease has its backend until it ends")
    }

    /// The exchange is over and its response was read to its end: the next one may begin.
    pub fn finish(mut self) {
        if let Some(backend) = self.backend.take() {
            // The backend takes its pool along, so the pool is held on to until it is in.
            let pool = Arc::clone(&backend.pool);
            pool.offer(backend);
        }
    }

    /// The connection cannot be used again.
    pub fn close(mut self, reason: Close) {
        if let Some(backend) = self.backend.take() {
            backend.close(reason);
        }
    }

    fn into_backend(mut self) -> Option<Backend> {
        self.backend.take()
    }

    /// Looks at the connection before it is used; see [`Backend::lend`].
    fn check(self) -> Option<Self> {
        self.into_backend()?.lend()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Whoever ends a lease in good order takes the backend out; this is an error path or a panic.
        if let Some(backend) = self.backend.take() {
            backend.close(Close::BackendFailed);
        }
    }
}

/// Takes an idle backend, or nothing if there is none.
pub fn lease_now(want: &Want<'_>) -> Option<Lease> {
    want.pools.iter().find_map(|pool| pool.take(want))
}

/// Takes a backend, waiting for one until `deadline` while `gone` does not say that the visitor left. `wait`: see
/// [`lease`](super::lease::lease).
///
/// # Errors
/// Why there was none.
pub fn lease(
    want: &Want<'_>,
    wait: Option<Wait>,
    deadline: Instant,
    gone: &mut dyn FnMut() -> bool,
) -> Result<Lease, Missed> {
    if let Some(lease) = lease_now(want) {
        return Ok(lease);
    }
    let wait = wait.or_else(|| want.waiting.enter());
    let _wait = wait.ok_or(Missed::Full)?;
    // A backend that was handed over may turn out dead. The request has waited for its turn, so it goes on in front.
    let mut first = false;
    loop {
        let lease = wait_in_queue(want, deadline, gone, first)?;
        if let Some(lease) = lease.check() {
            return Ok(lease);
        }
        first = true;
    }
}

fn wait_in_queue(
    want: &Want<'_>,
    deadline: Instant,
    gone: &mut dyn FnMut() -> bool,
    first: bool,
) -> Result<Lease, Missed> {
    let slot = Arc::new(Slot::new());
    let found = want.pools.iter().find_map(|pool| {
        let backend = pool.queue(want, &slot, first)?;
        Some(Lease {
            backend: Some(backend),
        })
    });
    let mut missed = Missed::TimedOut;
    let waited = found.is_none().then(|| {
        loop {
            let now = Instant::now();
            let until = deadline.min(now + LOOK_AT_CLIENT);
            let got = slot.wait(until);
            if got.is_some() || until == deadline {
                return got;
            }
            if gone() {
                missed = Missed::ClientGone;
                return None;
            }
        }
    });
    let late = slot.close();
    for pool in want.pools {
        pool.unqueue(&slot);
    }
    let mut leases = [found, waited.flatten(), late].into_iter().flatten();
    let lease = leases.next();
    // Found in one pool, handed over by another: the second goes on to the next waiter.
    leases.for_each(Lease::finish);
    lease.ok_or(missed)
}

fn does(backend: &Backend, keys: &[Box<[u8]>], id: Option<&[u8]>) -> bool {
    keys.contains(&backend.key) && id.is_none_or(|id| backend.id.as_bytes() == id)
}

fn take_where(idle: &mut Vec<Backend>, wanted: impl Fn(&Backend) -> bool) -> Vec<Backend> {
    idle.extract_if(.., |backend| wanted(backend)).collect()
}

/// How often a waiting worker looks whether its visitor is still there.
pub(super) const LOOK_AT_CLIENT: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;
    use crate::net::stream::Stream;

    #[test]
    fn what_comes_back_after_the_end_is_closed_with_its_reason() {
        let stats = Arc::new(Stats::new());
        let keys: Arc<[Box<[u8]>]> = Arc::from([Box::default()]);
        let pool = Arc::new(Pool::new("test".to_owned(), Arc::clone(&stats)));
        pool.set_keys(Arc::clone(&keys));
        let kind = (AddressFamily::Unix, SockType::Stream);
        let (own, _other) = socketpair(kind.0, kind.1, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let backend = Backend {
            pool: Arc::clone(&pool),
            conn: Conn::plain(Stream::from(own)),
            id: Id::new(b"test").unwrap(),
            key: Box::default(),
            peer: Peer::Unix,
            seat: Seat::default(),
        };
        pool.shut(Close::Draining);
        Lease {
            backend: Some(backend),
        }
        .finish();
        assert_eq!(pool.idle(), 0);
        assert_eq!(stats.backends_closed(Close::Draining), 1);
    }

    #[test]
    fn who_was_let_in_to_wait_is_not_turned_away_for_who_came_later() {
        let pool = Pool::new("test".to_owned(), Arc::new(Stats::new()));
        let waiting = Arc::new(Waiting::new(Arc::default()));
        waiting.limit(1, 1);
        let want = Want {
            pools: &[Arc::new(pool)],
            keys: &Arc::from([]),
            id: None,
            order: Order::Newest,
            waiting: &waiting,
        };
        let missed = |wait| lease(&want, wait, Instant::now(), &mut || false).err();
        let wait = waiting.enter();
        assert_eq!(missed(None), Some(Missed::Full));
        assert_eq!(missed(wait), Some(Missed::TimedOut));
        assert_eq!(missed(None), Some(Missed::TimedOut));
    }
}
