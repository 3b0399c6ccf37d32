//! Shares of something of which there is a limited amount: bytes of memory, bytes on disk.
//!
//! A [`Budget`] is the amount. A [`Charge`] is the share of one holder: it grows and shrinks with what the holder keeps, and
//! gives everything back when it is dropped. Any thread may use both; nothing here waits.
//!
//! **Invariants**: what is used is the sum of all charges. It exceeds the limit only by what was forced, or after the
//! limit was lowered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A limited amount of bytes; none by default.
#[derive(Debug, Default)]
pub struct Budget {
    used: AtomicU64,
    most: AtomicU64,
}

/// A share of a [`Budget`].
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    /// A budget of so many bytes.
    pub const fn new(most: u64) -> Self {
        Self {
            used: AtomicU64::new(0),
            most: AtomicU64::new(most),
        }
    }

    /// Changes the limit. Charges stay as they are, also where they exceed the new one.
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

    /// Takes a share; `None` if it exceeds the limit.
    pub fn charge(self: &Arc<Self>, bytes: u64) -> Option<Charge> {
        let mut charge = Charge::new(Arc::clone(self));
        charge.set(bytes).then_some(charge)
    }

    /// Takes a share for something that can do without; see [`Charge::set_optional`].
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
    /// An empty share.
    pub const fn new(budget: Arc<Budget>) -> Self {
        Self { budget, bytes: 0 }
    }

    /// Its size.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The limit of its budget.
    pub fn most(&self) -> u64 {
        self.budget.most()
    }

    /// Changes its size. `false`: that would exceed the limit, and it stays as it was. It can always shrink.
    #[must_use]
    pub fn set(&mut self, bytes: u64) -> bool {
        self.set_within(bytes, self.budget.most())
    }

    /// The same for something that can do without, or go elsewhere: it leaves an eighth of the budget to the others, so that
    /// they still find room when it finds none.
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

    /// Changes its size, whatever the limit: for what has to be kept anyway.
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

/// This part of a budget is kept free of what can do without.
const RESERVE: u64 = 8;

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_charge_grows_within_the_limit_and_shrinks_always() {
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
    fn threads_never_exceed_the_limit_together_and_give_everything_back() {
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
