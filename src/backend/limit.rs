//! A limit on how many requests do something at the same time.
//!
//! A request with a [`Permit`] may proceed; dropping the permit gives it to the first request in the queue. A permit can
//! carry something for its next holder, such as a connection to the application. What was put back last is used first,
//! so there is never more of it than permits.
//!
//! Called by workers.
//!
//! **Invariants**
//! - A permit is held or in a slot, and counted in `in_use` for as long as it exists.
//! - No request waits while a permit is free.
//! - The lock is a leaf; permits are handed over, and what they carry is dropped, without it.

use std::mem;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use parking_lot::Mutex;

use super::queue::{Queue, QueuePosition, Slot};

/// Lets a limited number of requests proceed; others wait in order of arrival. Permits may carry a `T`.
#[derive(Debug)]
pub struct ConcurrencyLimit<T = ()>(Mutex<LimitState<T>>);

/// The right to proceed. Dropping it passes it on.
#[derive(Debug)]
pub struct Permit<T = ()> {
    limit: Arc<ConcurrencyLimit<T>>,
    generation: u64,
    carried: Option<T>,
}

/// The result of [`ConcurrencyLimit::enter`].
#[derive(Debug)]
pub enum LimitEntry<T = ()> {
    /// A permit was free.
    Permit(Permit<T>),
    /// The request waits in the queue.
    Queued(LimitTicket<T>),
}

/// A request in the queue. Dropping it leaves the queue.
#[derive(Debug)]
pub struct LimitTicket<T = ()> {
    limit: Arc<ConcurrencyLimit<T>>,
    slot: Arc<Slot<Permit<T>>>,
    position: QueuePosition,
}

#[derive(Debug)]
struct LimitState<T> {
    most: usize,
    in_use: usize,
    /// What the next permits carry; the last one put back is at the end.
    carried: Vec<T>,
    /// Changes when carried things become useless.
    generation: u64,
    waiting: Queue<Permit<T>, ()>,
}

impl<T> ConcurrencyLimit<T> {
    /// Allows at most `most` permits.
    pub fn new(most: usize) -> Self {
        Self(Mutex::new(LimitState {
            most,
            in_use: 0,
            carried: Vec::new(),
            generation: 0,
            waiting: Queue::default(),
        }))
    }

    /// Changes the limit. Existing permits stay valid even if there are more.
    pub fn limit(self: &Arc<Self>, most: usize) {
        let (called, unused) = {
            let mut state = self.0.lock();
            state.most = most;
            let mut called = Vec::new();
            while state.in_use < most
                && let Some(slot) = state.waiting.pop_first()
            {
                state.in_use += 1;
                called.push((slot, state.permit(self)));
            }
            let surplus = state.carried.len().saturating_sub(most);
            let unused: Vec<_> = state.carried.drain(..surplus).collect();
            (called, unused)
        };
        drop(unused);
        for (slot, permit) in called {
            hand_over(&slot, permit);
        }
    }

    /// Drops what is carried, now, and what holders of permits would put back later.
    pub fn drop_carried(&self) {
        let unused = {
            let mut state = self.0.lock();
            state.generation += 1;
            mem::take(&mut state.carried)
        };
        drop(unused);
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.0.lock().waiting.len()
    }

    /// A permit, if one is free.
    pub fn try_enter(self: &Arc<Self>) -> Option<Permit<T>> {
        self.0.lock().enter(self)
    }

    /// A permit, or a position in the queue for a request that arrived at `since`.
    pub fn enter(self: &Arc<Self>, since: Instant) -> LimitEntry<T> {
        let mut state = self.0.lock();
        if let Some(permit) = state.enter(self) {
            return LimitEntry::Permit(permit);
        }
        let slot = Arc::new(Slot::new());
        let position = state.waiting.push(since, (), Arc::clone(&slot));
        LimitEntry::Queued(LimitTicket {
            limit: Arc::clone(self),
            slot,
            position,
        })
    }

    /// Passes a permit on, or frees it.
    fn release(self: &Arc<Self>, carried: Option<T>, generation: u64) {
        let (next, unused) = {
            let mut state = self.0.lock();
            let mut unused = carried;
            let fits = state.in_use <= state.most;
            if fits && state.generation == generation {
                state.carried.extend(unused.take());
            }
            let slot = match fits {
                true => state.waiting.pop_first(),
                false => None,
            };
            let next = slot.map(|slot| (slot, state.permit(self)));
            if next.is_none() {
                state.in_use -= 1;
            }
            (next, unused)
        };
        drop(unused);
        if let Some((slot, permit)) = next {
            hand_over(&slot, permit);
        }
    }
}

impl<T> LimitState<T> {
    fn enter(&mut self, limit: &Arc<ConcurrencyLimit<T>>) -> Option<Permit<T>> {
        // While a request waits, no permit is free.
        (self.in_use < self.most).then(|| {
            self.in_use += 1;
            self.permit(limit)
        })
    }

    /// A permit that was counted already.
    fn permit(&mut self, limit: &Arc<ConcurrencyLimit<T>>) -> Permit<T> {
        Permit {
            limit: Arc::clone(limit),
            generation: self.generation,
            carried: self.carried.pop(),
        }
    }
}

impl<T> Permit<T> {
    /// Takes out what the permit carries.
    pub const fn take_carried(&mut self) -> Option<T> {
        self.carried.take()
    }

    /// Passes the permit on, with something for its next holder.
    pub fn keep(mut self, thing: T) {
        self.carried = Some(thing);
    }
}

impl<T> Drop for Permit<T> {
    fn drop(&mut self) {
        self.limit.release(self.carried.take(), self.generation);
    }
}

impl<T> LimitTicket<T> {
    /// The permit, when it is this request's turn. The ticket is then used up.
    pub fn take(&mut self) -> Option<Permit<T>> {
        self.slot.take()
    }

    /// Blocks until it is this request's turn, or until `until`; see [`Slot::wait`].
    pub fn wait(&self, until: Instant) -> bool {
        self.slot.wait(until)
    }

    /// Registers a waker for this request's turn; see [`Slot::wake_with`].
    pub fn wake_with(&self, waker: Waker) -> bool {
        self.slot.wake_with(waker)
    }
}

impl<T> Drop for LimitTicket<T> {
    fn drop(&mut self) {
        let waiting = self.limit.0.lock().waiting.remove(self.position);
        drop(waiting);
        // A permit that came at the last moment is passed on when it is dropped.
        drop(self.slot.close());
    }
}

/// Gives a permit to a request. If the request has given up, dropping the permit passes it on.
fn hand_over<T>(slot: &Slot<Permit<T>>, permit: Permit<T>) {
    drop(slot.fill(permit));
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn limit(most: usize) -> Arc<ConcurrencyLimit> {
        Arc::new(ConcurrencyLimit::new(most))
    }

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn queued<T>(limit: &Arc<ConcurrencyLimit<T>>) -> LimitTicket<T> {
        match limit.enter(Instant::now()) {
            LimitEntry::Permit(_) => panic!("a permit was free"),
            LimitEntry::Queued(ticket) => ticket,
        }
    }

    /// Blocks until there is a permit.
    fn enter(limit: &Arc<ConcurrencyLimit>) -> Permit {
        match limit.enter(Instant::now()) {
            LimitEntry::Permit(permit) => permit,
            LimitEntry::Queued(mut ticket) => {
                assert!(ticket.wait(far()));
                ticket.take().expect("a permit")
            }
        }
    }

    #[test]
    fn first_come_first_served() {
        let limit = limit(1);
        let permit = limit.try_enter().unwrap();
        let mut tickets = [(); 5].map(|()| queued(&limit));
        assert_eq!(limit.waiting(), 5);
        assert!(limit.try_enter().is_none());
        drop(permit);
        for number in 0..tickets.len() {
            let permit = tickets[number].take().expect("its turn");
            let others = &mut tickets[number + 1..];
            assert!(others.iter_mut().all(|other| other.take().is_none()));
            assert!(limit.try_enter().is_none());
            drop(permit);
        }
        assert_eq!(limit.0.lock().in_use, 0);
    }

    #[test]
    fn dropped_ticket_passes_its_permit_on() {
        let limit = limit(1);
        let permit = limit.try_enter().unwrap();
        let [first, second, mut third] = [(); 3].map(|()| queued(&limit));
        drop(first);
        assert_eq!(limit.waiting(), 2);
        assert!(!third.wait(Instant::now()));
        drop(permit);
        // The second request has the permit, and gives up.
        assert_eq!(limit.waiting(), 1);
        assert!(third.take().is_none());
        drop(second);
        assert!(third.take().is_some());
        assert_eq!(limit.0.lock().in_use, 0);
    }

    #[test]
    fn changed_limit_is_never_exceeded() {
        let limit = limit(3);
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = || {
            for _ in 0..500 {
                let _permit = enter(&limit);
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::yield_now();
                now.fetch_sub(1, Ordering::SeqCst);
            }
        };
        let run = || thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(work))));
        run();
        assert!(most.load(Ordering::SeqCst) <= 3);
        // A lower limit: holders keep their permits, and no other request enters in their place.
        let permits: Vec<_> = (0..3).map(|_| limit.try_enter().unwrap()).collect();
        limit.limit(1);
        let mut permits = permits.into_iter();
        drop(permits.next());
        drop(permits.next());
        assert!(limit.try_enter().is_none());
        drop(permits.next());
        most.store(0, Ordering::SeqCst);
        run();
        assert_eq!(most.load(Ordering::SeqCst), 1);
        // A higher limit: waiting requests enter.
        let permit = limit.try_enter().unwrap();
        let mut tickets = [(); 2].map(|()| queued(&limit));
        limit.limit(2);
        let second = tickets[0].take().expect("the limit was raised");
        assert!(tickets[1].take().is_none());
        drop((permit, second));
        assert!(tickets[1].take().is_some());
        assert_eq!(limit.0.lock().in_use, 0);
    }

    #[test]
    fn carried_things_reach_the_next_holder() {
        let limit = Arc::new(ConcurrencyLimit::new(2));
        let mut permit = limit.try_enter().unwrap();
        assert_eq!(permit.take_carried(), None);
        permit.keep("one");
        let mut permit = limit.try_enter().unwrap();
        assert_eq!(permit.take_carried(), Some("one"));
        assert_eq!(permit.take_carried(), None);
        // Also to a request that waits.
        let other = limit.try_enter().unwrap();
        let mut ticket = queued(&limit);
        permit.keep("two");
        let mut permit = ticket.take().unwrap();
        assert_eq!(permit.take_carried(), Some("two"));
        other.keep("three");
        limit.drop_carried();
        permit.keep("four");
        assert_eq!(limit.try_enter().unwrap().take_carried(), None);
        // A lower limit carries less.
        limit.try_enter().unwrap().keep("five");
        limit.limit(0);
        assert!(limit.0.lock().carried.is_empty());
    }
}
