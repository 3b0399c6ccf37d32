//! How many workers a site may hold at once, and which requests wait for their turn without one.
//!
//! A worker that waits for a backend, or for its answer, can do nothing else. So a site may hold at most two thirds of
//! the workers that other sites leave: however many sites hang, there are workers for a few more, and always one for
//! files and the health check. A request above that is *parked*: it keeps its place in line, costs memory only, and is
//! woken when its turn has come. How many may wait, parked or holding a worker, is the site's
//! `limits.waiting`.
//!
//! Called by workers, at the begin and the end of each exchange with a backend. [`Clients`] stands at the door: it
//! counts the connections of each visitor's address where that is limited, and is called by acceptors. [`Allowance`] counts
//! the upgraded connections of a site.
//!
//! **Invariants**: parked requests of a site are admitted in the order in which they came, and before any that
//! comes later; a place that becomes free is *granted* to the one that is woken, so that nobody overtakes it.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::net::poller::Token;
use crate::stats::{self, Stats};

/// The turnstile of a server.
#[derive(Debug)]
pub(crate) struct Admission {
    state: Mutex<State>,
    workers: usize,
}

/// A site's place at the turnstile; stays the same when the configuration is reloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(usize);

/// What happens to a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It may hold a worker. The caller must call [`Admission::leave`].
    Admitted,
    /// It stands in line; the token is woken when its turn has come.
    Queued,
}

#[derive(Debug, Default)]
struct State {
    /// Workers held by all sites.
    held: usize,
    /// Requests in line at all sites.
    queued: usize,
    sites: Vec<Turn>,
    /// Which site is looked at first when a worker becomes free for any of them.
    next: usize,
}

#[derive(Debug, Default)]
struct Turn {
    name: Arc<str>,
    most: usize,
    held: usize,
    queue: VecDeque<Token>,
    granted: Vec<Token>,
}

impl Admission {
    /// A turnstile for so many workers.
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            state: Mutex::default(),
            workers,
        }
    }

    /// The place of the site with this name.
    pub(crate) fn place(&self, name: &str) -> Place {
        self.place_for(name, usize::MAX)
    }

    /// A place where so many may hold a worker at once, whatever the share.
    pub(crate) fn place_for(&self, name: &str, most: usize) -> Place {
        let mut state = self.state.lock();
        let known = state.sites.iter().position(|turn| *turn.name == *name);
        Place(known.unwrap_or_else(|| {
            state.sites.push(Turn {
                name: name.into(),
                most,
                ..Turn::default()
            });
            state.sites.len() - 1
        }))
    }

    /// Asks for a worker, for the first time or after a wake-up.
    pub(crate) fn enter(&self, place: Place, token: Token) -> Entry {
        let mut state = self.state.lock();
        let room = state.has_room(place.0, self.workers);
        let turn = &mut state.sites[place.0];
        if let Some(position) = turn.granted.iter().position(|granted| *granted == token) {
            turn.granted.swap_remove(position);
            return Entry::Admitted;
        }
        if turn.queue.contains(&token) {
            return Entry::Queued;
        }
        if room && turn.queue.is_empty() {
            turn.held += 1;
            state.held += 1;
            return Entry::Admitted;
        }
        turn.queue.push_back(token);
        state.queued += 1;
        Entry::Queued
    }

    /// Gives a worker back. The tokens that are returned, mostly none or one, have their turn now and must be woken.
    pub(crate) fn leave(&self, place: Place) -> Vec<Token> {
        let mut state = self.state.lock();
        state.held -= 1;
        state.sites[place.0].held -= 1;
        state.grant_all(self.workers)
    }

    /// Takes a request out of the line, whether it still waits or was granted its turn. Returns who has the turn now, as
    /// [`Admission::leave`] does.
    pub(crate) fn forget(&self, place: Place, token: Token) -> Vec<Token> {
        let mut state = self.state.lock();
        let turn = &mut state.sites[place.0];
        if let Some(position) = turn.queue.iter().position(|queued| *queued == token) {
            turn.queue.remove(position);
            state.queued -= 1;
        } else if let Some(position) = turn.granted.iter().position(|granted| *granted == token) {
            turn.granted.swap_remove(position);
            turn.held -= 1;
            state.held -= 1;
        }
        state.grant_all(self.workers)
    }
}

impl State {
    /// Whether a site may hold one worker more.
    fn has_room(&self, site: usize, workers: usize) -> bool {
        let Turn { held, most, .. } = self.sites[site];
        let left = workers - (self.held - held);
        held < most && (held < left * 2 / 3 || self.held == 0)
    }

    /// Lets in whoever may come in now; there may be several, since one site's share grows when another one leaves.
    fn grant_all(&mut self, workers: usize) -> Vec<Token> {
        let mut granted = Vec::new();
        while self.queued > 0
            && let Some(token) = self.grant(workers)
        {
            granted.push(token);
        }
        granted
    }

    /// Lets a request in line in, sites in turn.
    fn grant(&mut self, workers: usize) -> Option<Token> {
        let count = self.sites.len();
        let chosen = (0..count)
            .map(|step| (self.next + step) % count)
            .find(|&site| !self.sites[site].queue.is_empty() && self.has_room(site, workers))?;
        self.next = chosen + 1;
        let turn = &mut self.sites[chosen];
        let token = turn.queue.pop_front()?;
        turn.granted.push(token);
        turn.held += 1;
        self.held += 1;
        self.queued -= 1;
        Some(token)
    }
}

/// How many upgraded connections a site may have.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    used: AtomicUsize,
    /// The limit, which a reload may change.
    most: AtomicUsize,
}

/// One upgraded connection, or one that may become so, as long as this lives.
#[derive(Debug)]
pub(crate) struct Permit {
    allowance: Arc<Allowance>,
    /// It has become one.
    used: Option<Arc<Stats>>,
}

impl Allowance {
    /// Changes how many there may be.
    pub(crate) fn limit(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// One more, unless there are too many already.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Permit> {
        // The guard takes back what was added, also where the limit says no.
        let permit = Permit {
            allowance: Arc::clone(self),
            used: None,
        };
        let used = self.used.fetch_add(1, Ordering::Relaxed);
        (used < self.most.load(Ordering::Relaxed)).then_some(permit)
    }
}

impl Permit {
    /// The connection is upgraded now.
    pub(crate) fn make_use(&mut self, stats: &Arc<Stats>) {
        stats::add(&stats.tunnels);
        self.used = Some(Arc::clone(stats));
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.allowance.used.fetch_sub(1, Ordering::Relaxed);
        if let Some(stats) = &self.used {
            stats.tunnels.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// How many connections each visitor's address has, while that is limited.
#[derive(Debug, Default)]
pub(crate) struct Clients(Mutex<HashMap<IpAddr, usize>>);

/// A connection that is counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted(IpAddr);

impl Clients {
    /// Counts one more connection of an address, unless it has as many as it may. The caller must call
    /// [`Clients::leave`].
    pub(crate) fn enter(&self, address: IpAddr, most: usize) -> Option<Counted> {
        let address = network(address);
        let mut counts = self.0.lock();
        let count = counts.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Counted(address))
    }

    /// A connection that was counted is closed.
    pub(crate) fn leave(&self, Counted(address): Counted) {
        let mut counts = self.0.lock();
        if let Some(count) = counts.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&address);
            }
        }
    }
}

/// What one visitor has: an address, or with IPv6 a network of 64 bits (RFC 6177).
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_by_address_and_by_network() {
        let clients = Clients::default();
        let enter = |address: &str| clients.enter(address.parse().unwrap(), 2);
        let first = enter("192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_some());
        assert!(enter("192.0.2.1").is_none());
        assert!(enter("192.0.2.2").is_some());
        clients.leave(first);
        assert!(enter("192.0.2.1").is_some());
        assert!(enter("2001:db8::1").is_some());
        let second = enter("2001:db8::2:3").unwrap();
        assert!(enter("2001:db8::4").is_none());
        assert!(enter("2001:db8:0:1::4").is_some());
        clients.leave(second);
        assert!(enter("2001:db8::4").is_some());
    }

    #[test]
    fn upgraded_connections_are_counted_also_where_the_limit_changes() {
        let (allowance, stats) = (Arc::new(Allowance::default()), Arc::new(Stats::new()));
        assert!(allowance.enter().is_none());
        allowance.limit(2);
        let mut first = allowance.enter().unwrap();
        let second = allowance.enter().unwrap();
        assert!(allowance.enter().is_none());
        first.make_use(&stats);
        assert_eq!(stats::get(&stats.tunnels), 1);
        allowance.limit(1);
        drop(second);
        assert!(allowance.enter().is_none());
        drop(first);
        assert_eq!(stats::get(&stats.tunnels), 0);
        assert!(allowance.enter().is_some());
    }

    fn token(number: u64) -> Token {
        Token::from(number)
    }

    #[test]
    fn a_site_holds_its_share_and_the_rest_stands_in_line() {
        let admission = Admission::new(9);
        let site = admission.place("a");
        assert_eq!(admission.place("a"), site);
        for number in 0..6 {
            assert_eq!(admission.enter(site, token(number)), Entry::Admitted);
        }
        assert_eq!(admission.enter(site, token(6)), Entry::Queued);
        assert_eq!(admission.enter(site, token(7)), Entry::Queued);
        assert_eq!(admission.leave(site), [token(6)]);
        // Neither a newcomer nor the next in line takes what was granted.
        assert_eq!(admission.enter(site, token(8)), Entry::Queued);
        assert_eq!(admission.enter(site, token(7)), Entry::Queued);
        assert_eq!(admission.enter(site, token(6)), Entry::Admitted);
        assert_eq!(admission.leave(site), [token(7)]);
        // The one that was granted its turn has left meanwhile.
        assert_eq!(admission.forget(site, token(7)), [token(8)]);
        assert_eq!(admission.enter(site, token(8)), Entry::Admitted);
    }

    #[test]
    fn sites_that_hang_leave_room_for_others() {
        for workers in [3, 4, 8, 16, 64] {
            let admission = Admission::new(workers);
            let mut number = 0;
            let mut fill = |site| {
                let mut admitted = 0;
                loop {
                    number += 1;
                    match admission.enter(site, token(number)) {
                        Entry::Admitted => admitted += 1,
                        Entry::Queued => return admitted,
                    }
                }
            };
            let (one, two) = (admission.place("a"), admission.place("b"));
            let first = fill(one);
            let second = fill(two);
            assert!(first > 0 && first < workers, "{workers}");
            assert!(second > 0 || workers == 3, "{workers}");
            assert!(first + second < workers, "{workers}");
        }
    }

    #[test]
    fn who_leaves_lets_in_whoever_has_room_then() {
        let admission = Admission::new(6);
        let (one, two) = (admission.place("a"), admission.place("b"));
        for number in 0..4 {
            assert_eq!(admission.enter(one, token(number)), Entry::Admitted);
        }
        assert_eq!(admission.enter(two, token(4)), Entry::Admitted);
        assert_eq!(admission.enter(two, token(5)), Entry::Queued);
        // The first site has no more than two thirds of the five that the second one leaves.
        assert_eq!(admission.enter(one, token(6)), Entry::Queued);
        assert_eq!(admission.leave(one), [token(5)]);
        assert_eq!(admission.leave(two), []);
        assert_eq!(admission.leave(one), [token(6)]);
    }

    #[test]
    fn a_place_may_have_a_limit_of_its_own() {
        let admission = Admission::new(64);
        let place = admission.place_for("a", 2);
        for number in 0..2 {
            assert_eq!(admission.enter(place, token(number)), Entry::Admitted);
        }
        assert_eq!(admission.enter(place, token(2)), Entry::Queued);
        assert_eq!(admission.leave(place), [token(2)]);
        assert_eq!(admission.enter(place, token(3)), Entry::Queued);
    }

    #[test]
    fn one_worker_is_enough() {
        let admission = Admission::new(1);
        let site = admission.place("a");
        assert_eq!(admission.enter(site, token(0)), Entry::Admitted);
        assert_eq!(admission.enter(site, token(1)), Entry::Queued);
        assert_eq!(admission.leave(site), [token(1)]);
    }
}
