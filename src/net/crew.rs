//! How many workers are up.
//!
//! Every event wakes a worker if one sleeps in `epoll_wait(2)`, also where one that is busy would have come for it an
//! instant later; and the more workers take turns, the colder are their stacks and buffers: with quick backends, sixteen
//! workers on two cores serve a tenth more than sixty-four, and a fifth of the time is enough for all but one request in a
//! hundred. So only a *watch* of the crew is up, and the others rest.
//!
//! The **lookout** sees to its size. When for a millisecond nobody waits for events and the workers come back more slowly
//! than once a millisecond, they are held by slow backends, and the lookout doubles the watch; when somebody waits or all
//! come back quickly, it halves it. While somebody waits for events and the watch is at its smallest, the lookout sleeps.
//!
//! **Invariants**
//! - Whoever was the last to wait for events alerts the lookout, if it sleeps.
//! - Nobody rests while the watch has room: the lookout calls up as many as it widens the watch by, and whoever is about
//!   to rest looks once more under the lock.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// The workers, of whom some are up and some rest.
#[derive(Debug)]
pub(super) struct Crew {
    /// How many there are.
    size: usize,
    /// The size of the smallest watch.
    least: usize,
    /// How many may be up.
    watch: AtomicUsize,
    /// How many rest.
    resting: AtomicUsize,
    /// How many are in `epoll_wait(2)`, and in steps of [`ROUND`] how often somebody came for work.
    waiting: AtomicU64,
    /// Whether the lookout is awake, or was told to be.
    alert: AtomicBool,
    /// Guards the changes of `resting`, and how many of these are called up and have not gone yet.
    called: Mutex<usize>,
    call: Condvar,
    alarm: Condvar,
}

impl Crew {
    pub(super) fn new(size: usize) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let least = size.min(cores * LEAST_PER_CORE);
        Self {
            size,
            least,
            watch: AtomicUsize::new(least),
            resting: AtomicUsize::new(0),
            waiting: AtomicU64::new(0),
            alert: AtomicBool::new(false),
            called: Mutex::new(0),
            call: Condvar::new(),
            alarm: Condvar::new(),
        }
    }

    /// A worker comes for work. It rests first if more are up than the watch has.
    pub(super) fn come(&self, stopping: &AtomicBool) {
        if self.waiting() >= self.least as u64 {
            // As many as the smallest watch has are idle.
            self.watch.store(self.least, Ordering::SeqCst);
        }
        while self.is_too_many() && !stopping.load(Ordering::SeqCst) {
            self.rest(stopping);
        }
        self.waiting.fetch_add(ROUND + 1, Ordering::SeqCst);
    }

    /// It has got some.
    pub(super) fn go(&self) {
        let last = self.waiting.fetch_sub(1, Ordering::SeqCst) % ROUND == 1;
        if last && self.least < self.size && !self.alert.swap(true, Ordering::SeqCst) {
            let _called = self.called.lock();
            self.alarm.notify_one();
        }
    }

    fn is_too_many(&self) -> bool {
        let up = self.size - self.resting.load(Ordering::SeqCst);
        up > self.watch.load(Ordering::SeqCst)
    }

    fn rest(&self, stopping: &AtomicBool) {
        let mut called = self.called.lock();
        if !self.is_too_many() {
            return;
        }
        self.resting.fetch_add(1, Ordering::SeqCst);
        while *called == 0 && !stopping.load(Ordering::SeqCst) {
            self.call.wait(&mut called);
        }
        *called = called.saturating_sub(1);
        self.resting.fetch_sub(1, Ordering::SeqCst);
    }

    pub(super) fn look_out(&self, stopping: &AtomicBool) {
        let mut called = self.called.lock();
        loop {
            while !self.alert.load(Ordering::SeqCst) && !stopping.load(Ordering::SeqCst) {
                self.alarm.wait(&mut called);
            }
            if stopping.load(Ordering::SeqCst) {
                return;
            }
            let before = self.waiting.load(Ordering::SeqCst) / ROUND;
            self.alarm.wait_for(&mut called, GLANCE);
            let now = self.waiting.load(Ordering::SeqCst);
            let nobody = now.is_multiple_of(ROUND);
            let rounds = usize::try_from(now / ROUND - before).unwrap_or(usize::MAX);
            let watch = self.watch.load(Ordering::SeqCst);
            if nobody && rounds < watch {
                self.widen((watch * 2).min(self.size), &mut called);
            } else if !nobody || rounds > watch * 2 {
                let narrower = (watch / 2).max(self.least);
                self.watch.store(narrower, Ordering::SeqCst);
            }
            let watch = self.watch.load(Ordering::SeqCst);
            if watch == self.least && !nobody || watch == self.size && nobody {
                self.alert.store(false, Ordering::SeqCst);
                // Whoever was the last to go before that did not ring.
                if self.waiting() == 0 && !nobody {
                    self.alert.store(true, Ordering::SeqCst);
                }
            }
        }
    }

    fn widen(&self, watch: usize, called: &mut usize) {
        self.watch.store(watch, Ordering::SeqCst);
        let up = self.size - self.resting.load(Ordering::SeqCst) + *called;
        for _ in up..watch {
            *called += 1;
            self.call.notify_one();
        }
    }

    /// How many wait for events, or are on the way there.
    fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::SeqCst) % ROUND
    }

    /// Nobody rests any more.
    pub(super) fn dismiss(&self) {
        let _called = self.called.lock();
        self.call.notify_all();
        self.alarm.notify_all();
    }
}

/// Workers of the smallest watch for each core: enough for a few to be blocked while others run.
const LEAST_PER_CORE: usize = 8;
/// More than there can be workers; what is above it counts for centuries.
const ROUND: u64 = 1 << 16;
/// How long the lookout watches before it makes up its mind.
const GLANCE: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Eight workers, of whom two are up; the lookout runs until the end of the test.
    fn with_crew(test: impl FnOnce(&Arc<Crew>, &Arc<AtomicBool>)) {
        let crew = Arc::new(Crew {
            least: 2,
            watch: AtomicUsize::new(2),
            ..Crew::new(8)
        });
        let stopping = Arc::new(AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| crew.look_out(&stopping));
            test(&crew, &stopping);
            stopping.store(true, Ordering::SeqCst);
            crew.dismiss();
        });
    }

    #[test]
    fn all_are_called_up_when_those_who_are_up_are_held() {
        with_crew(|crew, stopping| {
            thread::scope(|scope| {
                for _ in 0..8 {
                    // Each one that comes is held at once, as if by a slow backend, until all are.
                    scope.spawn(|| {
                        crew.come(stopping);
                        crew.go();
                        while crew.waiting.load(Ordering::SeqCst) / ROUND < 8 {
                            thread::yield_now();
                        }
                    });
                }
            });
            assert_eq!(crew.resting.load(Ordering::SeqCst), 0);
        });
    }

    #[test]
    fn the_rest_rests_while_somebody_waits() {
        with_crew(|crew, stopping| {
            thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| crew.come(stopping));
                }
                // Two wait for events, so that nobody is missed.
                let settled = || crew.waiting() == 2 && crew.resting.load(Ordering::SeqCst) == 6;
                for _ in 0..10_000 {
                    if settled() {
                        break;
                    }
                    thread::sleep(GLANCE);
                }
                assert!(settled());
                thread::sleep(GLANCE * 5);
                assert_eq!(crew.waiting(), 2);
                // One of them goes: the other is still there.
                crew.go();
                thread::sleep(GLANCE * 5);
                assert_eq!(
                    (crew.waiting(), crew.resting.load(Ordering::SeqCst)),
                    (1, 6)
                );
                stopping.store(true, Ordering::SeqCst);
                crew.dismiss();
            });
        });
    }
}
