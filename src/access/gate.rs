//! How many requests are at the application at once.
//!
//! N connections are dialled to *each* server, so that each may use all that the application can take; the [`Gate`] in
//! front of the application sees to it that no more than N requests are there in all. Whoever has a request takes a
//! [`Place`] and gives it back as soon as the last byte of the answer was read. A place brings the connection to the
//! application along that was used last, so there are never more than N of those either.
//!
//! **Fair**: places are given first come, first served, whichever server a request comes from. A server that sends many
//! has at most N in the line, so a request of another one waits for no more than N others of each server.
//!
//! **No deadlock**: a place is taken when nothing else is held and before the application is dealt with; whoever has one
//! waits for the application or the server only, each under a deadline, and never for another place.
//!
//! **Invariants**: a place is with its taker or with the first who waits, never lost; the lock is a leaf.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::net::conn::Conn;

/// Counts the requests at the application.
#[derive(Debug, Default)]
pub(super) struct Gate(Mutex<State>);

/// One of those that are there, as long as this lives.
#[derive(Debug)]
pub(super) struct Place<'g> {
    gate: &'g Gate,
    generation: u64,
    kept: Option<Conn>,
}

/// Why there was no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missed {
    /// None became free before the deadline.
    TimedOut,
    /// Whoever sent the request left.
    Gone,
}

#[derive(Debug, Default)]
struct State {
    most: usize,
    taken: usize,
    /// Connections to the application; the one used last is at the end.
    kept: Vec<Conn>,
    /// Changes with the application: what was connected to another one is not kept.
    generation: u64,
    /// The one that waits longest is in front.
    waiting: VecDeque<Arc<Turn>>,
}

/// Somebody who waits.
#[derive(Debug, Default)]
struct Turn {
    come: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    /// Changes how many there may be. With fewer than there are now, those that are there end as they would have.
    pub(super) fn limit(&self, most: usize) {
        let mut state = self.0.lock();
        state.most = most;
        let mut called = Vec::new();
        while state.taken < state.most {
            let Some(turn) = state.waiting.pop_front() else {
                break;
            };
            state.taken += 1;
            called.push(turn);
        }
        let surplus = state.kept.len().saturating_sub(most);
        let closed: Vec<_> = state.kept.drain(..surplus).collect();
        drop(state);
        drop(closed);
        called.iter().for_each(|turn| turn.call());
    }

    /// Closes connections that are kept, now, and those that are in use after their exchange.
    pub(super) fn forget(&self) {
        let kept = {
            let mut state = self.0.lock();
            state.generation += 1;
            std::mem::take(&mut state.kept)
        };
        drop(kept);
    }

    /// A place, if one is free and nobody waits.
    pub(super) fn try_take(&self) -> Option<Place<'_>> {
        let mut state = self.0.lock();
        (state.taken < state.most && state.waiting.is_empty()).then(|| {
            state.taken += 1;
            self.place(&mut state)
        })
    }

    /// A place, waiting for one in line until `deadline` while `gone` does not say that it is for nothing.
    ///
    /// # Errors
    /// Why there was none.
    pub(super) fn take(
        &self,
        deadline: Instant,
        mut gone: impl FnMut() -> bool,
    ) -> Result<Place<'_>, Missed> {
        let turn = {
            let mut state = self.0.lock();
            if state.taken < state.most && state.waiting.is_empty() {
                state.taken += 1;
                return Ok(self.place(&mut state));
            }
            let turn = Arc::new(Turn::default());
            state.waiting.push_back(Arc::clone(&turn));
            turn
        };
        let missed = loop {
            let now = Instant::now();
            if turn.wait(deadline.min(now + LOOK)) {
                return Ok(self.place(&mut self.0.lock()));
            }
            if now >= deadline {
                break Missed::TimedOut;
            }
            if gone() {
                break Missed::Gone;
            }
        };
        let mut state = self.0.lock();
        let position = state
            .waiting
            .iter()
            .position(|other| Arc::ptr_eq(other, &turn));
        match position {
            Some(position) => {
                state.waiting.remove(position);
                Err(missed)
            }
            // It came at the last moment.
            None => Ok(self.place(&mut state)),
        }
    }

    /// A place that was counted already.
    fn place(&self, state: &mut State) -> Place<'_> {
        Place {
            gate: self,
            generation: state.generation,
            kept: state.kept.pop(),
        }
    }

    /// Passes a place on, or makes it free.
    fn leave(&self, kept: Option<Conn>, generation: u64) {
        let (turn, closed) = {
            let mut state = self.0.lock();
            let mut closed = kept;
            if state.generation == generation && state.taken <= state.most {
                state.kept.extend(closed.take());
            }
            let turn = match state.taken <= state.most {
                true => state.waiting.pop_front(),
                false => None,
            };
            if turn.is_none() {
                state.taken -= 1;
            }
            (turn, closed)
        };
        drop(closed);
        if let Some(turn) = turn {
            turn.call();
        }
    }
}

impl Place<'_> {
    /// The connection that came with it.
    pub(super) const fn connection(&mut self) -> Option<Conn> {
        self.kept.take()
    }

    /// Gives the place back, with a connection for whoever comes next.
    pub(super) fn keep(mut self, conn: Conn) {
        self.kept = Some(conn);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.gate.leave(self.kept.take(), self.generation);
    }
}

impl Turn {
    fn call(&self) {
        *self.come.lock() = true;
        self.changed.notify_one();
    }

    /// Whether it has come by then.
    fn wait(&self, until: Instant) -> bool {
        let mut come = self.come.lock();
        while !*come {
            if self.changed.wait_until(&mut come, until).timed_out() {
                break;
            }
        }
        *come
    }
}

/// How often somebody who waits looks whether it is for nothing.
const LOOK: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    fn gate(most: usize) -> Gate {
        let gate = Gate::default();
        gate.limit(most);
        gate
    }

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    /// Waits until so many wait.
    fn waiting(gate: &Gate, count: usize) {
        while gate.0.lock().waiting.len() != count {
            thread::yield_now();
        }
    }

    #[test]
    fn first_come_first_served() {
        let gate = gate(1);
        let order = Mutex::new(Vec::new());
        thread::scope(|scope| {
            let place = gate.take(far(), || false).unwrap();
            for number in 0..5 {
                let (gate, order) = (&gate, &order);
                scope.spawn(move || {
                    let _place = gate.take(far(), || false).unwrap();
                    order.lock().push(number);
                });
                waiting(gate, number + 1);
                assert!(gate.try_take().is_none());
            }
            drop(place);
        });
        assert_eq!(*order.lock(), [0, 1, 2, 3, 4]);
        assert_eq!(gate.0.lock().taken, 0);
    }

    #[test]
    fn who_gives_up_leaves_the_line() {
        let gate = gate(1);
        let place = gate.take(far(), || false).unwrap();
        assert_eq!(gate.take(far(), || true).unwrap_err(), Missed::Gone);
        let soon = Instant::now() + Duration::from_millis(1);
        assert_eq!(gate.take(soon, || false).unwrap_err(), Missed::TimedOut);
        drop(place);
        assert_eq!(gate.0.lock().taken, 0);
        assert!(gate.try_take().is_some());
    }

    #[test]
    fn never_more_than_the_limit_which_may_change() {
        let gate = gate(3);
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = || {
            for _ in 0..500 {
                let _place = gate.take(far(), || false).unwrap();
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::yield_now();
                now.fetch_sub(1, Ordering::SeqCst);
            }
        };
        let run = || thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(work))));
        run();
        assert!(most.load(Ordering::SeqCst) <= 3);
        // Fewer: those that are there go on, nobody is let in for them.
        let places: Vec<_> = (0..3).map(|_| gate.try_take().unwrap()).collect();
        gate.limit(1);
        let mut places = places.into_iter();
        drop(places.next());
        drop(places.next());
        assert!(gate.try_take().is_none());
        drop(places.next());
        most.store(0, Ordering::SeqCst);
        run();
        assert_eq!(most.load(Ordering::SeqCst), 1);
        // More: those that wait are let in.
        let place = gate.try_take().unwrap();
        thread::scope(|scope| {
            let (one, other) = (
                scope.spawn(|| gate.take(far(), || false).is_ok()),
                scope.spawn(|| gate.take(far(), || false).is_ok()),
            );
            waiting(&gate, 2);
            gate.limit(2);
            assert!(one.join().unwrap() && other.join().unwrap());
        });
        drop(place);
        assert_eq!(gate.0.lock().taken, 0);
    }
}
