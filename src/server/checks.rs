//! When passwords are checked, and for whom first.
//!
//! A check takes tens of milliseconds of CPU by design, so only few run at once in all the server. The others wait in line,
//! without a worker. [`Checks`] gives the next turn to the address that has had the fewest checks since its last
//! right password, so that a flood of wrong ones from some addresses does not hold up the others, and before all to
//! addresses from which a right password came not long ago.
//!
//! Called by workers.
//!
//! **Invariants**
//! - A turn is with its request or in a slot, and counted in `running` as long as it exists.
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
    /// Checks at once.
    most: usize,
    state: Mutex<ChecksState>,
}

/// Why a password is not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthOverload {
    /// The address has too many in line.
    Client,
    /// All have.
    All,
}

/// What came of [`Checks::enter`].
#[derive(Debug)]
pub(crate) enum CheckEntry {
    /// The password can be checked now.
    Turn(AuthSlot),
    /// The request stands in line.
    Queued(AuthTicket),
}

/// The right to check one password. Dropping it gives the next turn away.
#[derive(Debug)]
pub(crate) struct AuthSlot {
    checks: Arc<Checks>,
    client: ClientNetwork,
}

/// A request's place in line. Dropping it leaves the line.
#[derive(Debug)]
pub(crate) struct AuthTicket {
    checks: Arc<Checks>,
    number: u64,
    slot: Arc<Slot<Result<AuthSlot, AuthOverload>>>,
}

/// An address, or a network with IPv6. `None`: it is not known, as behind a proxy that does not tell it.
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

/// What is known of an address.
#[derive(Clone, Copy, Debug)]
struct Record {
    /// Its requests in line.
    waiting: usize,
    /// Turns since the last right password.
    tries: u32,
    /// When the last right password came.
    proved: Option<Instant>,
    /// When it last had a turn.
    last: Instant,
}

/// Who has the next turn: the smallest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct CheckPriority {
    is_unproved: bool,
    tries: u32,
}

impl Checks {
    /// A server needs one.
    pub(crate) fn new() -> Self {
        // Half of the processors: the others go on with everything else.
        Self::with(thread::available_parallelism().map_or(1, |count| count.get().div_ceil(2)))
    }

    fn with(most: usize) -> Self {
        Self {
            most,
            state: Mutex::default(),
        }
    }

    /// A turn for a request from this address, or a place in line.
    ///
    /// # Errors
    /// Who has too many in line.
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
        // Many visitors may be behind one that is not known.
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

    /// Makes room for others. What a flood leaves goes first.
    fn forget(&mut self, now: Instant) {
        let keep: [fn(&Record, Instant) -> bool; 3] = [
            |record, now| record.tries(now) > 0 || record.is_proved(now),
            |record, now| record.is_proved(now),
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
            is_unproved: !record.is_some_and(|record| record.is_proved(now)),
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

    /// Takes the request out of line that would come last, if this address comes before it.
    fn evict_for(
        &mut self,
        client: ClientNetwork,
        now: Instant,
    ) -> Option<Arc<Slot<Result<AuthSlot, AuthOverload>>>> {
        let ranked = self
            .waiting
            .iter()
            .map(|(number, waiter)| (self.rank(waiter.client, now), *number));
        let (worst, number) = ranked.max()?;
        let before = self.rank(client, now) < worst;
        before
            .then(|| self.remove(number))?
            .map(|waiter| waiter.slot)
    }

    /// Takes the request out of line that comes first, and counts its check.
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
    /// Turns since the last right password, unless the last one was long ago.
    fn tries(&self, now: Instant) -> u32 {
        match now.saturating_duration_since(self.last) < RECENT {
            true => self.tries,
            false => 0,
        }
    }

    /// Whether a right password came from here not long ago, and not many others since: a flood of wrong ones is none the
    /// better for one that is right.
    fn is_proved(&self, now: Instant) -> bool {
        let recent = |proved| now.saturating_duration_since(proved) < PROVED;
        self.proved.is_some_and(recent) && self.tries(now) < MOST_TRIES
    }
}

impl AuthSlot {
    /// The password was right.
    pub(crate) fn prove(&self, now: Instant) {
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
            // If the request has left, the turn is dropped, which gives it to another one.
            drop(slot.fill(Ok(self.checks.turn(client))));
        }
    }
}

impl AuthTicket {
    /// The turn, or why there is none; `None`: it has not come yet.
    pub(crate) fn take(&self) -> Option<Result<AuthSlot, AuthOverload>> {
        self.slot.take()
    }

    /// Blocks until something is decided, or until `until`; see [`Slot::wait`].
    pub(crate) fn wait(&self, until: Instant) -> bool {
        self.slot.wait(until)
    }

    /// Has a waker called when something is decided; see [`Slot::wake_with`].
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

/// Requests in line for a check of their password.
const MOST_IN_LINE: usize = 128;
/// The same of one address: a browser has six connections to a site.
const MOST_OF_ONE: usize = 8;
/// So long turns count after the last one.
const RECENT: Duration = Duration::from_secs(600);
/// So long a right password counts.
const PROVED: Duration = Duration::from_secs(24 * 3600);
/// So many turns in a row without a right password are no mistakes in typing.
const MOST_TRIES: u32 = 16;
/// Addresses that are remembered.
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

    /// The tickets in the order in which they have their turns, each of which is dropped before the next one.
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
    fn addresses_take_turns_and_those_that_were_right_come_first() {
        let checks = Arc::new(Checks::with(1));
        let busy = turn(&checks, address(1));
        let from = |number| (number, queued(&checks, address(number)));
        let tickets = [1, 1, 1, 2, 2, 3].map(from).into();
        // The first address has had one turn already.
        assert_eq!(order(busy, tickets), [2, 3, 1, 2, 1, 1]);
        turn(&checks, address(3)).prove(Instant::now());
        let busy = turn(&checks, address(9));
        let tickets = [1, 4, 3, 3].map(from).into();
        assert_eq!(order(busy, tickets), [3, 3, 4, 1]);
        assert!(checks.state.lock().waiting.is_empty());
        // A right password does not excuse any number of wrong ones.
        for _ in 0..MOST_TRIES {
            drop(turn(&checks, address(3)));
        }
        let busy = turn(&checks, address(9));
        let tickets = [3, 5].map(from).into();
        assert_eq!(order(busy, tickets), [5, 3]);
        assert_eq!(checks.state.lock().running, 0);
    }

    #[test]
    fn one_address_has_few_places_and_a_network_is_one() {
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
        // Addresses that are not known may be many.
        tickets.extend((0..=MOST_OF_ONE).map(|_| CheckEntry::Queued(queued(&checks, None))));
        drop(busy);
        drop(tickets);
        assert_eq!(checks.state.lock().running, 0);
    }

    #[test]
    fn a_full_line_gives_way_to_an_address_that_has_tried_less() {
        let checks = Arc::new(Checks::with(1));
        for number in 0..16 {
            drop(turn(&checks, address(number)));
        }
        drop(turn(&checks, address(15)));
        let busy = turn(&checks, None);
        let flood = (0..MOST_IN_LINE).map(|number| (number % 16) as u8);
        let mut flood: Vec<_> = flood.map(|from| queued(&checks, address(from))).collect();
        // No room for more of the same, and room for another one at the cost of the worst.
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

    /// An address that has tried as often as the flood gets no place.
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
    fn turns_that_come_at_the_last_moment_are_passed_on() {
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
    fn what_a_flood_leaves_is_forgotten_first() {
        let checks = Checks::with(1);
        let mut state = checks.state.lock();
        let now = Instant::now();
        state.record(address(1), now).proved = Some(now);
        for number in 0..MOST_RECORDS as u32 * 2 {
            let client = IpAddr::from(std::net::Ipv4Addr::from_bits(number));
            state.record(Some(client), now).tries = 1;
            assert!(state.records.len() <= MOST_RECORDS);
        }
        assert!(state.records[&address(1)].is_proved(now));
        let later = now + RECENT;
        assert!(!state.rank(address(1), later).is_unproved);
        assert!(state.rank(address(1), now + PROVED).is_unproved);
    }
}
