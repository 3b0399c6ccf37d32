//! Budgets of memory and disk space, in bytes.
//!
//! A [`Budget`] is an amount. A [`Charge`] is the part that one holder uses: it grows and shrinks with what the holder
//! stores, and is returned when it is dropped. Any thread may use both; no call waits.
//!
//! [`Shares`] is a budget of which one client address may use a [`PART`]th only; its charges are [`Share`]s.
//!
//! **Invariants**: the used amount is the sum of all charges. It exceeds the limit only by forced charges, or after
//! the limit was lowered. The lock of [`Shares`] is a leaf.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

/// An amount of bytes; zero by default.
#[derive(Debug, Default)]
pub struct Budget {
    used: AtomicU64,
    most: AtomicU64,
}

/// A part of a [`Budget`].
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    /// A budget of `most` bytes.
    pub const fn new(most: u64) -> Self {
        Self {
            used: AtomicU64::new(0),
            most: AtomicU64::new(most),
        }
    }

    /// Changes the limit. Charges stay, even if they exceed the new limit.
    pub fn limit(&self, most: u64) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// The limit.
    pub fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    /// The sum of all charges.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes a charge; `None` if it would exceed the limit.
    pub fn charge(self: &Arc<Self>, bytes: u64) -> Option<Charge> {
        let mut charge = Charge::new(Arc::clone(self));
        charge.set(bytes).then_some(charge)
    }

    /// Takes a charge for something optional; see [`Charge::set_optional`].
    pub fn charge_optional(self: &Arc<Self>, bytes: u64) -> Option<Charge> {
        let mut charge = Charge::new(Arc::clone(self));
        charge.set_optional(bytes).then_some(charge)
    }

    fn grow(&self, bytes: u64, most: u64) -> bool {
        let grown = |used: u64| used.checked_add(bytes).filter(|used| *used <= most);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown)
            .is_ok()
    }
}

impl Charge {
    /// An empty charge.
    pub const fn new(budget: Arc<Budget>) -> Self {
        Self { budget, bytes: 0 }
    }

    /// Its size in bytes.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The limit of its budget.
    pub fn most(&self) -> u64 {
        self.budget.most()
    }

    /// Changes the size. `false`: that would exceed the limit, and the size is unchanged. Shrinking always succeeds.
    #[must_use]
    pub fn set(&mut self, bytes: u64) -> bool {
        self.set_within(bytes, self.budget.most())
    }

    /// Changes the size like [`Charge::set`], for an optional use or one with an alternative: it leaves an eighth of
    /// the budget to other uses.
    #[must_use]
    pub fn set_optional(&mut self, bytes: u64) -> bool {
        let most = self.budget.most();
        self.set_within(bytes, most - most / RESERVE)
    }

    fn set_within(&mut self, bytes: u64, most: u64) -> bool {
        if bytes > self.bytes && !self.budget.grow(bytes - self.bytes, most) {
            return false;
        }
        if bytes < self.bytes {
            let back = self.bytes - bytes;
            self.budget.used.fetch_sub(back, Ordering::Relaxed);
        }
        self.bytes = bytes;
        true
    }

    /// Changes the size, whatever the limit: for data that must be stored anyway.
    pub fn force(&mut self, bytes: u64) {
        if bytes > self.bytes {
            let more = bytes - self.bytes;
            self.budget.used.fetch_add(more, Ordering::Relaxed);
            self.bytes = bytes;
        } else {
            let shrunk = self.set(bytes);
            debug_assert!(shrunk, "a charge can always shrink");
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A budget of which one client may use a [`PART`]th only; zero by default.
#[derive(Debug, Default)]
pub struct Shares {
    all: Arc<Budget>,
    /// The bytes that each client uses or has reserved.
    clients: Mutex<HashMap<IpAddr, u64>>,
    /// A request was refused because the whole budget is used.
    exhausted: AtomicBool,
    /// The number of holders that wait for room.
    waiting: AtomicUsize,
}

/// The part of [`Shares`] that one holder uses, for a client.
#[derive(Debug)]
pub struct Share {
    shares: Arc<Shares>,
    client: Option<IpAddr>,
    charge: Charge,
    /// At least this many bytes count for the client.
    reserved: u64,
}

/// A holder waits for room as long as this value exists.
#[derive(Debug)]
pub struct WaitForRoom(Arc<Shares>);

/// Why a share may not grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareRefusal {
    /// This share alone would exceed the part of one client.
    Part,
    /// All shares of the client would exceed its part.
    Client,
    /// The whole budget is used.
    All,
}

impl Shares {
    /// A budget of `most` bytes.
    pub fn new(most: u64) -> Self {
        Self {
            all: Arc::new(Budget::new(most)),
            ..Self::default()
        }
    }

    /// The budget.
    pub const fn all(&self) -> &Arc<Budget> {
        &self.all
    }

    /// The part that one client may use.
    pub fn part(&self) -> u64 {
        self.all.most() / PART
    }

    /// Whether the whole budget was used at a refusal since the last call.
    pub fn take_exhausted(&self) -> bool {
        self.exhausted.swap(false, Ordering::Relaxed)
    }

    /// How many holders wait for room.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl Share {
    /// An empty share of this client; `None`: the client is unknown, and only this share is limited.
    pub fn new(shares: &Arc<Shares>, client: Option<IpAddr>) -> Self {
        Self {
            charge: Charge::new(Arc::clone(&shares.all)),
            shares: Arc::clone(shares),
            client,
            reserved: 0,
        }
    }

    /// Its size in bytes.
    pub const fn bytes(&self) -> u64 {
        self.charge.bytes()
    }

    /// Reserves the room that the share will need, out of the client's part. Otherwise several shares of one client
    /// that grow in parallel could all be refused at the same time. The budget itself is charged as the share grows,
    /// so a client takes nothing from others by announcing a large body.
    ///
    /// # Errors
    /// Why there is no such room; nothing is reserved.
    pub fn reserve(&mut self, bytes: u64) -> Result<(), ShareRefusal> {
        self.change(self.charge.bytes(), bytes)
    }

    /// Changes the size. Shrinking always succeeds.
    ///
    /// # Errors
    /// Why the share may not grow; it is unchanged.
    pub fn set(&mut self, bytes: u64) -> Result<(), ShareRefusal> {
        self.change(bytes, self.reserved)
    }

    fn change(&mut self, bytes: u64, reserved: u64) -> Result<(), ShareRefusal> {
        let own = self.charge.bytes().max(self.reserved);
        let counted = bytes.max(reserved);
        let part = self.shares.part();
        if counted > own && counted > part {
            return Err(ShareRefusal::Part);
        }
        let Some(client) = self.client else {
            self.set_charge(bytes)?;
            self.reserved = reserved;
            return Ok(());
        };
        let shares = Arc::clone(&self.shares);
        let mut clients = shares.clients.lock();
        let used = clients.get(&client).copied().unwrap_or(0);
        let then = (used - own).saturating_add(counted);
        if counted > own && then > part {
            return Err(ShareRefusal::Client);
        }
        self.set_charge(bytes)?;
        self.reserved = reserved;
        match then {
            0 => drop(clients.remove(&client)),
            _ => drop(clients.insert(client, then)),
        }
        Ok(())
    }

    /// Counts the holder as waiting until the result is dropped.
    pub fn wait(&self) -> WaitForRoom {
        self.shares.waiting.fetch_add(1, Ordering::Relaxed);
        WaitForRoom(Arc::clone(&self.shares))
    }

    fn set_charge(&mut self, bytes: u64) -> Result<(), ShareRefusal> {
        if self.charge.set(bytes) {
            return Ok(());
        }
        self.shares.exhausted.store(true, Ordering::Relaxed);
        Err(ShareRefusal::All)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let shrunk = self.change(0, 0);
        debug_assert_eq!(shrunk, Ok(()), "a share can always shrink");
    }
}

impl Drop for WaitForRoom {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The divisor for the part of a budget that optional charges leave to others.
const RESERVE: u64 = 8;
/// The divisor for the part of [`Shares`] that one client may use.
pub const PART: u64 = 8;

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn charge_stays_within_the_limit() {
        let budget = Arc::new(Budget::new(100));
        assert!(budget.charge(101).is_none());
        let mut one = budget.charge(60).unwrap();
        assert!(budget.charge(41).is_none());
        let mut two = budget.charge(40).unwrap();
        assert!(!one.set(61));
        assert_eq!((one.bytes(), budget.used()), (60, 100));
        assert!(two.set(10) && one.set(90));
        assert_eq!(budget.used(), 100);
        one.force(500);
        assert!(!two.set(11) && two.set(9) && two.set(9));
        assert_eq!(budget.used(), 509);
        one.force(0);
        drop(two);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn an_eighth_is_left_to_what_cannot_do_without() {
        let budget = Arc::new(Budget::new(800));
        assert!(budget.charge_optional(701).is_none());
        let mut optional = budget.charge_optional(700).unwrap();
        assert!(!optional.set_optional(701) && budget.charge_optional(1).is_none());
        let needed = budget.charge(100).unwrap();
        assert!(budget.charge(1).is_none());
        assert!(optional.set_optional(600) && !optional.set_optional(601));
        drop((optional, needed));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_is_reserved_counts_for_its_client_only() {
        let shares = Arc::new(Shares::new(800));
        let share = |last| Share::new(&shares, Some(IpAddr::from([192, 0, 2, last])));
        let (mut one, mut two, mut three) = (share(1), share(1), share(1));
        assert_eq!((one.reserve(50), two.reserve(40)), (Ok(()), Ok(())));
        assert_eq!(three.reserve(11), Err(ShareRefusal::Client));
        assert_eq!(three.set(11), Err(ShareRefusal::Client));
        assert_eq!(shares.all().used(), 0, "bytes used by reservations");
        // They grow side by side to what they have reserved.
        assert_eq!((one.set(50), two.set(30)), (Ok(()), Ok(())));
        assert_eq!(one.set(61), Err(ShareRefusal::Client));
        assert_eq!(one.set(60), Ok(()), "more than was reserved");
        drop(one);
        assert_eq!((three.reserve(60), two.set(40)), (Ok(()), Ok(())));
        assert_eq!(share(2).set(100), Ok(()), "another client");
        drop((two, three));
        assert_eq!(shares.all().used(), 0);
        assert!(shares.clients.lock().is_empty(), "clients are forgotten");
    }

    #[test]
    fn one_client_may_use_an_eighth() {
        let shares = Arc::new(Shares::new(800));
        let client = |last| Some(IpAddr::from([192, 0, 2, last]));
        let mut one = Share::new(&shares, client(1));
        assert_eq!(one.set(101), Err(ShareRefusal::Part));
        assert_eq!(one.set(60), Ok(()));
        let mut other = Share::new(&shares, client(1));
        assert_eq!(other.set(41), Err(ShareRefusal::Client));
        assert_eq!(other.set(40), Ok(()));
        assert_eq!(
            (one.set(61), one.set(10)),
            (Err(ShareRefusal::Client), Ok(()))
        );
        assert_eq!(other.set(90), Ok(()));
        let mut unknown = [(); 6].map(|()| Share::new(&shares, None));
        assert!(unknown.iter_mut().all(|share| share.set(100) == Ok(())));
        assert_eq!(unknown[0].set(101), Err(ShareRefusal::Part));
        assert!(!shares.take_exhausted());
        let mut last = Share::new(&shares, client(2));
        assert_eq!(last.set(100), Ok(()));
        assert_eq!(
            Share::new(&shares, client(3)).set(1),
            Err(ShareRefusal::All)
        );
        assert!(shares.take_exhausted() && !shares.take_exhausted());
        // A lower limit takes nothing away.
        shares.all().limit(80);
        assert_eq!((last.set(100), last.set(50)), (Ok(()), Ok(())));
        assert_eq!(last.set(51), Err(ShareRefusal::Part));
        assert_eq!(last.reserve(51), Err(ShareRefusal::Part));
        let wait = last.wait();
        assert_eq!(shares.waiting(), 1);
        drop((wait, one, other, unknown, last));
        assert_eq!((shares.all().used(), shares.waiting()), (0, 0));
        assert!(shares.clients.lock().is_empty());
    }

    #[test]
    fn a_lower_limit_takes_nothing_away() {
        let budget = Arc::new(Budget::default());
        assert!(budget.charge(0).is_some() && budget.charge(1).is_none());
        budget.limit(10);
        let mut charge = budget.charge(10).unwrap();
        budget.limit(5);
        assert!(!charge.set(11) && charge.set(10) && charge.set(7) && !charge.set(8));
        drop(charge);
        assert_eq!((budget.used(), budget.most()), (0, 5));
    }

    #[test]
    fn threads_share_one_limit() {
        let budget = Arc::new(Budget::new(1000));
        thread::scope(|scope| {
            for thread in 1..5 {
                let budget = &budget;
                scope.spawn(move || {
                    for number in 0..10_000 {
                        let charge = budget.charge(thread * 97 + number % 300);
                        assert!(budget.used() <= 1000);
                        drop(charge);
                    }
                });
            }
        });
        assert_eq!(budget.used(), 0);
    }
}
