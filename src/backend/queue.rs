//! The queues in which requests wait: for a backend that dials in, for a server, for a permit.
//!
//! A [`Queue`] is ordered by the arrival of the requests ([`QueuePosition`]); its owner guards it with a lock. What a
//! request waits for is handed over directly: the thread that frees it takes the first request out of the queue and puts
//! the thing into the request's [`Slot`], so that no later request can take it. A request that was given something
//! unusable queues again with its old arrival time and keeps its position.
//!
//! A request waits in one of two ways: a worker blocks in [`Slot::wait`] for a moment, or the exchange is parked and
//! [`Slot::wake_with`] registers the waker that resumes it.
//!
//! Called by workers, the dial-in thread and the tick thread. Nothing here logs or reads the clock.
//!
//! **Invariants**
//! - A slot is filled at most once, and emptied by its request, which takes the thing, or closes the slot and gets what
//!   came at the last moment. Both happen under the slot's own lock, so nothing is left in a slot.
//! - A waker is called at most once, and only after the slot was filled or recalled.
//! - The slot's lock is a leaf; threads are woken, and wakers called or dropped, without it.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// A request's position in a queue: by arrival, then by the order of joining.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueuePosition {
    since: Instant,
    number: u64,
}

/// Requests that wait for a `T`, by arrival. `W` says what each of them accepts.
#[derive(Debug)]
pub struct Queue<T, W> {
    waiting: BTreeMap<QueuePosition, Waiter<T, W>>,
    /// The number of the next request.
    number: u64,
}

#[derive(Debug)]
struct Waiter<T, W> {
    slot: Arc<Slot<T>>,
    criteria: W,
}

/// Where a request is given what it waits for.
#[derive(Debug)]
pub struct Slot<T> {
    content: Mutex<SlotContent<T>>,
    filled: Condvar,
}

#[derive(Debug)]
enum SlotContent<T> {
    /// Nothing yet; the waker is called when it is filled.
    Empty(Option<Waker>),
    Filled(T),
    /// The request has to ask again: what it may have was changed.
    Recalled,
    /// The request has taken the thing, or has given up.
    Closed,
}

impl<T, W> Default for Queue<T, W> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            number: 0,
        }
    }
}

impl<T, W> Queue<T, W> {
    /// How many requests wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether no request waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds a request that arrived at `since`. Returns its position, for [`Queue::remove`].
    pub fn push(&mut self, since: Instant, criteria: W, slot: Arc<Slot<T>>) -> QueuePosition {
        let position = QueuePosition {
            since,
            number: self.number,
        };
        self.number += 1;
        self.waiting.insert(position, Waiter { slot, criteria });
        position
    }

    /// Removes a request. `None`: it is not in the queue any more.
    pub fn remove(&mut self, position: QueuePosition) -> Option<Arc<Slot<T>>> {
        Some(self.waiting.remove(&position)?.slot)
    }

    /// The first request.
    pub fn first(&self) -> Option<(QueuePosition, &W)> {
        let (position, waiter) = self.waiting.first_key_value()?;
        Some((*position, &waiter.criteria))
    }

    /// What each request accepts, in order.
    pub fn criteria(&self) -> impl Iterator<Item = &W> {
        self.waiting.values().map(|waiter| &waiter.criteria)
    }

    /// Removes the first request.
    pub fn pop_first(&mut self) -> Option<Arc<Slot<T>>> {
        let (_, waiter) = self.waiting.pop_first()?;
        Some(waiter.slot)
    }

    /// Removes the first request for which `will_do` returns true.
    pub fn pop_first_where(&mut self, will_do: impl Fn(&W) -> bool) -> Option<Arc<Slot<T>>> {
        let mut waiting = self.waiting.iter();
        let (position, _) = waiting.find(|(_, waiter)| will_do(&waiter.criteria))?;
        let position = *position;
        self.remove(position)
    }

    /// Removes the requests for which `is_one` returns true. Returns their slots in order.
    pub fn take_where(&mut self, is_one: impl Fn(&W) -> bool) -> Vec<Arc<Slot<T>>> {
        let taken = self
            .waiting
            .extract_if(.., |_, waiter| is_one(&waiter.criteria));
        taken.map(|(_, waiter)| waiter.slot).collect()
    }

    /// Whether a request that arrived at `since` would be the first.
    pub fn would_be_first(&self, since: Instant) -> bool {
        self.first()
            .is_none_or(|(position, _)| since < position.since)
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Slot<T> {
    /// An empty slot.
    pub const fn new() -> Self {
        Self {
            content: Mutex::new(SlotContent::Empty(None)),
            filled: Condvar::new(),
        }
    }

    /// Fills the slot and wakes its request. Returns the thing if the slot is closed or was filled before.
    pub fn fill(&self, thing: T) -> Option<T> {
        let waker = {
            let mut content = self.content.lock();
            let SlotContent::Empty(waker) = &mut *content else {
                return Some(thing);
            };
            let waker = waker.take();
            *content = SlotContent::Filled(thing);
            waker
        };
        self.filled.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
        None
    }

    /// Closes the slot and wakes its request, which has to ask again. A slot that is filled stays so.
    pub fn recall(&self) {
        let waker = {
            let mut content = self.content.lock();
            let SlotContent::Empty(waker) = &mut *content else {
                return;
            };
            let waker = waker.take();
            *content = SlotContent::Recalled;
            waker
        };
        self.filled.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether its request has to ask again.
    pub fn is_recalled(&self) -> bool {
        matches!(*self.content.lock(), SlotContent::Recalled)
    }

    /// Takes the thing out, which closes the slot. An empty slot stays open.
    pub fn take(&self) -> Option<T> {
        let mut content = self.content.lock();
        match *content {
            SlotContent::Filled(_) => empty(&mut content).0,
            SlotContent::Empty(_) | SlotContent::Recalled | SlotContent::Closed => None,
        }
    }

    /// Blocks until the slot is filled or recalled, or until `until`. Returns whether it is filled.
    pub fn wait(&self, until: Instant) -> bool {
        let mut content = self.content.lock();
        while matches!(*content, SlotContent::Empty(_)) {
            if self.filled.wait_until(&mut content, until).timed_out() {
                break;
            }
        }
        matches!(*content, SlotContent::Filled(_))
    }

    /// Registers a waker, in place of an earlier one, to be called when the slot is filled or recalled. `false`: that has
    /// happened already, or the slot is closed, and the waker is dropped.
    pub fn wake_with(&self, waker: Waker) -> bool {
        let earlier = {
            let mut content = self.content.lock();
            let SlotContent::Empty(registered) = &mut *content else {
                return false;
            };
            registered.replace(waker)
        };
        drop(earlier);
        true
    }

    /// Closes the slot. Returns what was put in at the last moment.
    pub fn close(&self) -> Option<T> {
        let (thing, waker) = empty(&mut self.content.lock());
        drop(waker);
        thing
    }
}

/// Closes a slot. Returns its content, or the waker, which must not be dropped under the lock.
fn empty<T>(content: &mut SlotContent<T>) -> (Option<T>, Option<Waker>) {
    match mem::replace(content, SlotContent::Closed) {
        SlotContent::Empty(waker) => (None, waker),
        SlotContent::Filled(thing) => (Some(thing), None),
        SlotContent::Recalled | SlotContent::Closed => (None, None),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Counts how often its waker is called.
    #[derive(Default)]
    struct WakerCalls(AtomicUsize);

    impl Wake for WakerCalls {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl WakerCalls {
        fn waker(self: &Arc<Self>) -> Waker {
            Arc::clone(self).into()
        }

        fn count(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    /// Takes everything out of a queue. Returns the numbers of the slots in order.
    fn order(queue: &mut Queue<u8, u8>) -> Vec<u8> {
        let mut criteria = Vec::new();
        while let Some((position, want)) = queue.first() {
            criteria.push(*want);
            assert!(queue.remove(position).is_some());
        }
        criteria
    }

    #[test]
    fn first_come_first_served() {
        let start = Instant::now();
        let check = |arrivals: &[u64], expected: &[u8]| {
            let mut queue = Queue::default();
            for (want, milliseconds) in (0..).zip(arrivals) {
                let since = start + Duration::from_millis(*milliseconds);
                queue.push(since, want, Arc::default());
            }
            assert_eq!(queue.len(), arrivals.len());
            assert_eq!(order(&mut queue), expected);
            assert!(queue.is_empty());
        };
        check(&[], &[]);
        check(&[1, 2, 3], &[0, 1, 2]);
        // At the same time: in the order of joining.
        check(&[5, 5, 5], &[0, 1, 2]);
        check(&[3, 1, 2, 1], &[1, 3, 2, 0]);
    }

    #[test]
    fn returning_request_keeps_its_position() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut queue = Queue::default();
        let positions = [1, 2, 3].map(|number: u8| {
            let slot = Arc::new(Slot::new());
            queue.push(at(number.into()), number, slot)
        });
        assert!(positions[0] < positions[1] && positions[1] < positions[2]);
        assert!(queue.remove(positions[1]).is_some());
        assert!(queue.remove(positions[1]).is_none(), "it was removed twice");
        assert!(queue.would_be_first(at(0)));
        assert!(!queue.would_be_first(at(1)) && !queue.would_be_first(at(2)));
        queue.push(at(2), 2, Arc::default());
        assert_eq!(order(&mut queue), [1, 2, 3]);
        assert!(queue.would_be_first(at(9)));
    }

    #[test]
    fn takes_the_first_that_accepts() {
        let start = Instant::now();
        let mut queue: Queue<u8, u8> = Queue::default();
        for want in [7, 8, 9, 8] {
            queue.push(start, want, Arc::default());
        }
        assert!(queue.pop_first_where(|want| *want == 5).is_none());
        assert!(queue.pop_first_where(|want| *want == 8).is_some());
        assert_eq!(order(&mut queue), [7, 9, 8]);
        assert!(queue.pop_first().is_none());
    }

    #[test]
    fn recalled_requests_ask_again() {
        let (mut queue, start) = (Queue::<u8, u8>::default(), Instant::now());
        let slots = [1, 2, 1].map(|site| {
            let slot = Arc::new(Slot::new());
            queue.push(start, site, Arc::clone(&slot));
            slot
        });
        let calls = Arc::new(WakerCalls::default());
        assert!(slots[0].wake_with(calls.waker()));
        let recalled = queue.take_where(|site| *site == 1);
        assert_eq!((recalled.len(), order(&mut queue)), (2, vec![2]));
        assert_eq!(slots[2].fill(7), None);
        for slot in recalled {
            slot.recall();
            slot.recall();
        }
        assert_eq!(calls.count(), 1);
        assert_eq!(
            slots.each_ref().map(|slot| slot.is_recalled()),
            [true, false, false]
        );
        assert!(!slots[0].wait(far()), "it does not wait any more");
        assert!(!slots[0].wake_with(calls.waker()));
        assert_eq!(slots[0].fill(8), Some(8));
        assert_eq!(
            slots[2].take(),
            Some(7),
            "what it was given before is its own"
        );
    }

    #[test]
    fn slot_is_filled_and_emptied_once() {
        let slot = Slot::new();
        assert!(slot.take().is_none(), "it was empty");
        assert!(!slot.wait(Instant::now()));
        assert_eq!(slot.fill(1), None);
        assert_eq!(slot.fill(2), Some(2));
        assert!(slot.wait(far()), "it does not wait when it is filled");
        assert_eq!(slot.take(), Some(1));
        assert_eq!((slot.take(), slot.close()), (None, None));
        assert_eq!(slot.fill(3), Some(3));
        let slot = Slot::new();
        assert_eq!(slot.fill(4), None);
        assert_eq!(slot.close(), Some(4));
        // A closed slot does not block.
        assert!(!slot.wait(far()));
    }

    #[test]
    fn wakes_a_blocked_thread() {
        let slot = Slot::new();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| slot.wait(far()));
            assert_eq!(slot.fill(1), None);
            assert!(waiter.join().expect("the waiter does not panic"));
        });
        assert_eq!(slot.take(), Some(1));
    }

    #[test]
    fn waker_is_called_once_when_filled() {
        let calls = Arc::new(WakerCalls::default());
        let slot = Slot::new();
        assert!(slot.wake_with(calls.waker()));
        // The second waker replaces the first.
        assert!(slot.wake_with(calls.waker()));
        assert_eq!(calls.count(), 0);
        assert_eq!(slot.fill(1), None);
        assert_eq!(calls.count(), 1);
        assert_eq!(slot.fill(2), Some(2));
        assert!(!slot.wake_with(calls.waker()), "it is filled");
        assert_eq!(slot.take(), Some(1));
        assert!(!slot.wake_with(calls.waker()), "it is closed");
        assert_eq!(calls.count(), 1);
        let slot: Slot<u8> = Slot::new();
        assert!(slot.wake_with(calls.waker()));
        assert!(slot.close().is_none());
        assert_eq!((calls.count(), Arc::strong_count(&calls)), (1, 1));
    }

    /// The events at a slot. Each is one section under its lock, so every order of them is tested.
    #[derive(Clone, Copy, Debug)]
    enum SlotEvent {
        Fill,
        WakeWith,
        Close,
    }

    #[test]
    fn every_order_of_events() {
        use SlotEvent::{Close, Fill, WakeWith};
        // Whether the thing went in, the waker was registered, closing returned the thing; and the calls of the waker.
        let check = |steps: [SlotEvent; 3], expected: (bool, bool, bool, usize)| {
            let (slot, calls) = (Slot::new(), Arc::new(WakerCalls::default()));
            let (mut filled, mut registered, mut found) = (false, false, false);
            for step in steps {
                match step {
                    Fill => filled = slot.fill(()).is_none(),
                    WakeWith => registered = slot.wake_with(calls.waker()),
                    Close => found = slot.close().is_some(),
                }
            }
            assert_eq!(
                (filled, registered, found, calls.count()),
                expected,
                "{steps:?}"
            );
        };
        check([Fill, WakeWith, Close], (true, false, true, 0));
        check([Fill, Close, WakeWith], (true, false, true, 0));
        check([WakeWith, Fill, Close], (true, true, true, 1));
        check([WakeWith, Close, Fill], (false, true, false, 0));
        check([Close, Fill, WakeWith], (false, false, false, 0));
        check([Close, WakeWith, Fill], (false, false, false, 0));
    }

    /// Two threads meet at each slot: one fills it, the other registers a waker and closes it.
    #[test]
    fn two_threads_lose_nothing() {
        let slots: Vec<Slot<usize>> = (0..ROUNDS).map(|_| Slot::new()).collect();
        let calls: Vec<_> = (0..ROUNDS)
            .map(|_| Arc::new(WakerCalls::default()))
            .collect();
        let arrived = [(); 2].map(|()| AtomicUsize::new(0));
        // Both begin a round at the same time.
        let meet = |own: usize, round: usize| {
            arrived[own].store(round + 1, Ordering::SeqCst);
            let mut spins = 0;
            while arrived[1 - own].load(Ordering::SeqCst) <= round {
                spins += 1;
                match spins % 64 {
                    0 => thread::yield_now(),
                    _ => std::hint::spin_loop(),
                }
            }
        };
        let (given_back, taken) = thread::scope(|scope| {
            let filler = scope.spawn(|| {
                let fill = |round: usize| {
                    meet(0, round);
                    slots[round].fill(round)
                };
                (0..ROUNDS).map(fill).collect::<Vec<_>>()
            });
            let waiter = scope.spawn(|| {
                let wait = |round: usize| {
                    meet(1, round);
                    let registered = slots[round].wake_with(calls[round].waker());
                    // In every other round wait for the waker before giving up.
                    while round.is_multiple_of(2) && registered && calls[round].count() == 0 {
                        thread::yield_now();
                    }
                    let taken = match round % 2 {
                        0 => slots[round].take(),
                        _ => slots[round].close(),
                    };
                    (registered, taken)
                };
                (0..ROUNDS).map(wait).collect::<Vec<_>>()
            });
            (filler.join().unwrap(), waiter.join().unwrap())
        });
        for (round, (registered, taken)) in taken.into_iter().enumerate() {
            let called = calls[round].count();
            // Exactly one of the two has it.
            let owners = (given_back[round], taken);
            assert!(
                [(Some(round), None), (None, Some(round))].contains(&owners),
                "{owners:?}"
            );
            assert!(round % 2 == 1 || taken.is_some());
            assert_eq!(called, usize::from(registered && taken.is_some()));
        }
    }

    const ROUNDS: usize = 100_000;
}
