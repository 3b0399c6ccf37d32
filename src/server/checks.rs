//! Schedules the checks of passwords.
//!
//! A check takes tens of milliseconds of CPU by design, so only a few run at once in the whole server. The other
//! requests wait in a queue, without a worker. [`Checks`] gives the next turn to the address that has had the fewest
//! checks since its last correct password, and before all to addresses that gave a correct password recently. So a
//! flood of wrong passwords from some addresses does not delay the others.
//!
//! Called by workers.
//!
//! **Invariants**
//! - A turn belongs to its request or is in a slot, and is counted in `running` as long as it exists.
//! - No request waits while a turn is free.
//! - The lock is a leaf; slots are filled, and tickets and turns dropped, without it.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::backend::queue::Slot;
use crate::net::stream::network;

/// The checks of a server.
#[derive(Debug)]
pub(crate) struct Checks {
    /// The limit on checks that run at once.
    most: usize,
    state: Mutex<ChecksState>,
}

/// Why a password is not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthOverload {
    /// This address has too many requests in the queue.
    Client,
    /// All addresses together have too many requests in the queue.
    All,
}

/// The result of [`Checks::enter`].
#[derive(Debug)]
pub(crate) enum CheckEntry {
    /// The password can be checked now.
    Turn(AuthSlot),
    /// The request waits in the queue.
    Queued(AuthTicket),
}

/// The right to check one password. Dropping it passes the turn on.
#[derive(Debug)]
pub(crate) struct AuthSlot {
    checks: Arc<Checks>,
    client: ClientNetwork,
}

/// A request's place in the queue. Dropping it leaves the queue.
#[derive(Debug)]
pub(crate) struct AuthTicket {
    checks: Arc<Checks>,
    number: u64,
    slot: Arc<Slot<Result<AuthSlot, AuthOverload>>>,
}

/// An address, or a network with IPv6. `None`: unknown, as behind a proxy that does not name it.
type ClientNetwork = Option<IpAddr>;

#[derive(Debug, Default)]
struct ChecksState {
    running: usize,
    waiting: BTreeMap<u64, WaitingCheck>,
    /// The number of the next request that enters.
    number: u64,
    records: HashMap<ClientNetwork, Record>,
}

#[derive(Debug)]
struct WaitingCheck {
    client: ClientNetwork,
    slot: Arc<Slot<Result<AuthSlot, AuthOverload>>>,
}

/// What is known about an address.
#[derive(Clone, Copy, Debug)]
struct Record {
    /// Its requests in the queue.
    waiting: usize,
    /// Turns since the last correct password.
    tries: u32,
    /// When the last correct password came.
    proved: Option<Instant>,
    /// When it last had a turn.
    last: Instant,
}

/// The order of turns: the smallest goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct CheckPriority {
    is_unproved: bool,
    tries: u32,
}

impl Checks {
    /// The checks of a new server.
    pub(crate) fn new() -> Self {
        // Half of the processors: the others continue with everything else.
        Self::with(thread::available_parallelism().map_or(1, |count| count.get().div_ceil(2)))
    }

    fn with(most: usize) -> Self {
        Self {
            most,
            state: Mutex::default(),
        }
    }

    /// A turn for a request from this address, or a place in the queue.
    ///
    /// # Errors
    /// Which limit is reached.
    pub(crate) fn enter(
        self: &Arc<Self>,
        client: Option<IpAddr>,
        now: Instant,
    ) -> Result<CheckEntry, AuthOverload> {
        let client = client.map(network);
        let mut state = self.state.lock();
        if state.running < self.most {
            state.begin(client, now);
            return Ok(CheckEntry::Turn(self.turn(client)));
        }
        // Many clients may share the unknown address.
        let waiting = state
            .records
            .get(&client)
            .map_or(0, |record| record.waiting);
        if client.is_some() && waiting >= MOST_OF_ONE {
            return Err(AuthOverload::Client);
        }
        let evicted = if state.waiting.len() < MOST_IN_LINE {
            None
        } else {
            Some(state.evict_for(client, now).ok_or(AuthOverload::All)?)
        };
        let slot = Arc::new(Slot::new());
        let number = state.number;
        state.number += 1;
        let waiter = WaitingCheck {
            client,
            slot: Arc::clone(&slot),
        };
        state.waiting.insert(number, waiter);
        state.record(client, now).waiting += 1;
        drop(state);
        if let Some(evicted) = evicted {
            drop(evicted.fill(Err(AuthOverload::All)));
        }
        Ok(CheckEntry::Queued(AuthTicket {
            checks: Arc::clone(self),
            number,
            slot,
        }))
    }

    /// A turn that was counted already.
    fn turn(self: &Arc<Self>, client: ClientNetwork) -> AuthSlot {
        AuthSlot {
            checks: Arc::clone(self),
            client,
        }
    }
}

impl ChecksState {
    fn record(&mut self, client: ClientNetwork, now: Instant) -> &mut Record {
        if self.records.len() >= MOST_RECORDS && !self.records.contains_key(&client) {
            self.forget(now);
        }
        self.records.entry(client).or_insert(Record {
            waiting: 0,
            tries: 0,
            proved: None,
            last: now,
        })
    }

    /// Forgets addresses to make room for others, those of a flood first.
    fn forget(&mut self, now: Instant) {
        let keep: [fn(&Record, Instant) -> bool; 3] = [
            |record, now| record.tries(now) > 0 || record.has_correct_password(now),
            |record, now| record.has_correct_password(now),
            |_, _| false,
        ];
        for keep in keep {
            self.records
                .retain(|_, record| record.waiting > 0 || keep(record, now));
            if self.records.len() < MOST_RECORDS / 2 {
                break;
            }
        }
    }

    fn rank(&self, client: ClientNetwork, now: Instant) -> CheckPriority {
        let record = self.records.get(&client);
        CheckPriority {
            is_unproved: !record.is_some_and(|record| record.has_correct_password(now)),
            tries: record.map_or(0, |record| record.tries(now)),
        }
    }

    /// Counts a check that begins.
    fn begin(&mut self, client: ClientNetwork, now: Instant) {
        self.running += 1;
        let record = self.record(client, now);
        record.tries = record.tries(now).saturating_add(1);
        record.last = now;
    }

    /// Removes the request from the queue that would go last, if a request of this address goes before it.
    fn evict_for(
        &mut self,
        client: ClientNetwork,
        now: Instant,
    ) -> Option<Arc<Slot<Result<AuthSlot, AuthOverload>>>> {
        let waiting = |client| {
            let record = self.records.get(&client);
            record.map_or(0, |record| record.waiting)
        };
        let ranked = self.waiting.iter().map(|(number, waiter)| {
            let client = waiter.client;
            ((self.rank(client, now), waiting(client)), *number)
        });
        // Of addresses of equal priority, the one with the most requests in the queue loses one.
        let (worst, number) = ranked.max()?;
        let before = (self.rank(client, now), waiting(client) + 1) < worst;
        before
            .then(|| self.remove(number))?
            .map(|waiter| waiter.slot)
    }

    /// Removes the request from the queue that goes first, and counts its check.
    fn next(&mut self, now: Instant) -> Option<WaitingCheck> {
        let ranked = self
            .waiting
            .iter()
            .map(|(number, waiter)| (self.rank(waiter.client, now), *number));
        let (_, number) = ranked.min()?;
        let waiter = self.remove(number)?;
        self.begin(waiter.client, now);
        Some(waiter)
    }

    fn remove(&mut self, number: u64) -> Option<WaitingCheck> {
        let waiter = self.waiting.remove(&number)?;
        if let Some(record) = self.records.get_mut(&waiter.client) {
            record.waiting = record.waiting.saturating_sub(1);
        }
        Some(waiter)
    }
}

impl Record {
    /// Turns since the last correct password, unless the last turn was long ago.
    fn tries(&self, now: Instant) -> u32 {
        match now.saturating_duration_since(self.last) < RECENT {
            true => self.tries,
            false => 0,
        }
    }

    /// Whether a correct password came from here recently, with few other attempts since: one correct password does not
    /// excuse a flood of wrong ones.
    fn has_correct_password(&self, now: Instant) -> bool {
        let recent = |proved| now.saturating_duration_since(proved) < PROVED;
        self.proved.is_some_and(recent) && self.tries(now) < MOST_TRIES
    }
}

impl AuthSlot {
    /// Notes that the password was correct.
    pub(crate) fn note_correct_password(&self, now: Instant) {
        let mut state = self.checks.state.lock();
        let record = state.record(self.client, now);
        record.tries = 0;
        record.proved = Some(now);
    }
}

impl Drop for AuthSlot {
    fn drop(&mut self) {
        let now = Instant::now();
        let next = {
            let mut state = self.checks.state.lock();
            state.running -= 1;
            match state.running < self.checks.most {
                true => state.next(now),
                false => None,
            }
        };
        if let Some(WaitingCheck { client, slot }) = next {
            // If the request has left, the turn is dropped, which passes it on.
            drop(slot.fill(Ok(self.checks.turn(client))));
        }
    }
}

impl AuthTicket {
    /// The turn, or why there is none; `None`: not decided yet.
    pub(crate) fn take(&self) -> Option<Result<AuthSlot, AuthOverload>> {
        self.slot.take()
    }

    /// Blocks until there is a decision, or until `until`; see [`Slot::wait`].
    pub(crate) fn wait(&self, until: Instant) -> bool {
        self.slot.wait(until)
    }

    /// Calls a waker when there is a decision; see [`Slot::wake_with`].
    pub(crate) fn wake_with(&self, waker: Waker) -> bool {
        self.slot.wake_with(waker)
    }
}

impl Drop for AuthTicket {
    fn drop(&mut self) {
        let waiter = self.checks.state.lock().remove(self.number);
        drop(waiter);
        // A turn that came at the last moment goes to another request when it is dropped.
        drop(self.slot.close());
    }
}

/// The most requests that may wait for a check of their password.
const MOST_IN_LINE: usize = 128;
/// The same for one address: a browser has six connections to a site.
const MOST_OF_ONE: usize = 8;
/// How long turns count after the last one.
const RECENT: Duration = Duration::from_secs(600);
/// How long a correct password counts.
const PROVED: Duration = Duration::from_secs(24 * 3600);
/// Turns in a row without a correct password that are no longer typing errors.
const MOST_TRIES: u32 = 16;
/// The most addresses that are remembered.
const MOST_RECORDS: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, number]))
    }

    fn turn(checks: &Arc<Checks>, client: Option<IpAddr>) -> AuthSlot {
        match checks.enter(client, Instant::now()) {
            Ok(CheckEntry::Turn(turn)) => turn,
            other => panic!("{other:?}"),
        }
    }

    fn queued(checks: &Arc<Checks>, client: Option<IpAddr>) -> AuthTicket {
        match checks.enter(client, Instant::now()) {
            Ok(CheckEntry::Queued(ticket)) => ticket,
            other => panic!("{other:?}"),
        }
    }

    /// The tickets in the order of their turns, each of which is dropped before the next one.
    fn order(first: AuthSlot, mut tickets: Vec<(u8, AuthTicket)>) -> Vec<u8> {
        drop(first);
        let mut order = Vec::new();
        while !tickets.is_empty() {
            let turn = tickets.iter_mut().enumerate();
            let mut turns = turn.filter_map(|(at, (_, ticket))| Some((at, ticket.take()?)));
            let (at, turn) = turns.next().expect("one has its turn");
            assert!(turns.next().is_none(), "only one has");
            order.push(tickets.remove(at).0);
            drop(turn.expect("a turn"));
        }
        order
    }

    #[test]
    fn turns_alternate_between_addresses() {
        let checks = Arc::new(Checks::with(1));
        let busy = turn(&checks, address(1));
        let from = |number| (number, queued(&checks, address(number)));
        let tickets = [1, 1, 1, 2, 2, 3].map(from).into();
        // The first address has had one turn already.
        assert_eq!(order(busy, tickets), [2, 3, 1, 2, 1, 1]);
        turn(&checks, address(3)).note_correct_password(Instant::now());
        let busy = turn(&checks, address(9));
        let tickets = [1, 4, 3, 3].map(from).into();
        assert_eq!(order(busy, tickets), [3, 3, 4, 1]);
        assert!(checks.state.lock().waiting.is_empty());
        // One correct password does not excuse any number of wrong ones.
        for _ in 0..MOST_TRIES {
            drop(turn(&checks, address(3)));
        }
        let busy = turn(&checks, address(9));
        let tickets = [3, 5].map(from).into();
        assert_eq!(order(busy, tickets), [5, 3]);
        assert_eq!(checks.state.lock().running, 0);
    }

    #[test]
    fn queue_is_limited_per_address() {
        let checks = Arc::new(Checks::with(1));
        let busy = turn(&checks, None);
        let from = |address: &str| checks.enter(address.parse().ok(), Instant::now());
        let mut tickets = Vec::new();
        for number in 0..MOST_OF_ONE {
            tickets.push(from(&format!("2001:db8::{number}:1")).expect("a place"));
        }
        assert_eq!(from("2001:db8::ffff").unwrap_err(), AuthOverload::Client);
        tickets.push(from("2001:db8:0:1::1").expect("another network"));
        // One that leaves makes room.
        drop(tickets.remove(0));
        tickets.push(from("2001:db8::ffff").expect("a place"));
        // The unknown address may have many.
        tickets.extend((0..=MOST_OF_ONE).map(|_| CheckEntry::Queued(queued(&checks, None))));
        drop(busy);
        drop(tickets);
        assert_eq!(checks.state.lock().running, 0);
    }

    #[test]
    fn full_queue_evicts_the_busiest_address() {
        let checks = Arc::new(Checks::with(1));
        let busy = turn(&checks, None);
        // None of them has had a turn yet.
        let flood = (0..MOST_IN_LINE).map(|number| (number / MOST_OF_ONE) as u8);
        let flood: Vec<_> = flood.map(|from| queued(&checks, address(from))).collect();
        let late = queued(&checks, address(200));
        let lost: Vec<_> = flood.iter().filter_map(AuthTicket::take).collect();
        assert!(
            matches!(lost[..], [Err(AuthOverload::All)]),
            "one of the flood has lost its place: {lost:?}"
        );
        assert!(late.take().is_none(), "the late one waits");
        drop((busy, flood, late));
        assert_eq!(checks.state.lock().running, 0);
    }

    #[test]
    fn full_queue_favours_new_addresses() {
        let checks = Arc::new(Checks::with(1));
        for number in 0..16 {
            drop(turn(&checks, address(number)));
        }
        drop(turn(&checks, address(15)));
        let busy = turn(&checks, None);
        let flood = (0..MOST_IN_LINE).map(|number| (number % 16) as u8);
        let mut flood: Vec<_> = flood.map(|from| queued(&checks, address(from))).collect();
        // No room for more of the same address; room for another one at the cost of the worst.
        let none = checks.enter(address(16), Instant::now());
        let newcomer = match none {
            Ok(CheckEntry::Queued(ticket)) => ticket,
            other => panic!("{other:?}"),
        };
        let evicted = flood.iter_mut().rposition(|ticket| ticket.take().is_some());
        assert_eq!(evicted, Some(MOST_IN_LINE - 1));
        refuse_another(&checks);
        drop(busy);
        assert!(newcomer.take().is_some_and(|turn| turn.is_ok()));
        drop(flood);
        assert_eq!(checks.state.lock().running, 0);
    }

    /// An address with as many attempts as the flood gets no place.
    fn refuse_another(checks: &Arc<Checks>) {
        checks
            .state
            .lock()
            .record(address(17), Instant::now())
            .tries = 5;
        let refused = checks.enter(address(17), Instant::now());
        assert_eq!(refused.unwrap_err(), AuthOverload::All);
    }

    #[test]
    fn late_turns_are_passed_on() {
        let checks = Arc::new(Checks::with(1));
        let busy = turn(&checks, address(1));
        let [first, second] = [2, 3].map(|number| queued(&checks, address(number)));
        drop(busy);
        assert!(second.take().is_none());
        drop(first);
        assert!(second.take().is_some_and(|turn| turn.is_ok()));
        assert_eq!(checks.state.lock().running, 0);
    }

    #[test]
    fn floods_are_forgotten_first() {
        let checks = Checks::with(1);
        let mut state = checks.state.lock();
        let now = Instant::now();
        state.record(address(1), now).proved = Some(now);
        for number in 0..MOST_RECORDS as u32 * 2 {
            let client = IpAddr::from(std::net::Ipv4Addr::from_bits(number));
            state.record(Some(client), now).tries = 1;
            assert!(state.records.len() <= MOST_RECORDS);
        }
        assert!(state.records[&address(1)].has_correct_password(now));
        let later = now + RECENT;
        assert!(!state.rank(address(1), later).is_unproved);
        assert!(state.rank(address(1), now + PROVED).is_unproved);
    }
}
