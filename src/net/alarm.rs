//! Wakes the tick thread for the earliest of many deadlines.
//!
//! Any thread sets deadlines ([`Alarm::set`]); the tick thread waits for them ([`Alarm::wait`]).
//!
//! **Invariants**: a deadline that is set before or during a wait ends that wait no later than the deadline. The lock
//! is a leaf.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// The earliest deadline that the tick thread does not know yet.
#[derive(Debug, Default)]
pub struct Alarm {
    state: Mutex<AlarmState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct AlarmState {
    /// The earliest deadline that was set since the last wait ended.
    next: Option<Instant>,
    stopped: bool,
}

impl Alarm {
    /// Ends the wait at `deadline`, unless it ends earlier anyway.
    pub fn set(&self, deadline: Instant) {
        let mut state = self.state.lock();
        if state.next.is_some_and(|next| next <= deadline) {
            return;
        }
        state.next = Some(deadline);
        drop(state);
        self.changed.notify_one();
    }

    /// Waits until the earliest deadline, at most for `longest`. Returns `false` when the alarm was stopped.
    pub fn wait(&self, longest: Duration) -> bool {
        let limit = Instant::now() + longest;
        let mut state = self.state.lock();
        loop {
            if state.stopped {
                return false;
            }
            let until = state.next.map_or(limit, |next| next.min(limit));
            if Instant::now() >= until {
                break;
            }
            self.changed.wait_until(&mut state, until);
        }
        state.next = None;
        true
    }

    /// Ends all current and future waits.
    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_wait_ends_at_the_earliest_deadline() {
        let (alarm, now) = (Alarm::default(), Instant::now());
        alarm.set(now + LONG);
        alarm.set(now + Duration::from_millis(5));
        alarm.set(now + LONG);
        assert!(alarm.wait(LONG));
        assert!(now.elapsed() >= Duration::from_millis(5), "too early");
        // The deadline is forgotten then.
        assert!(alarm.wait(Duration::from_millis(1)));
    }

    #[test]
    fn a_deadline_that_is_set_during_a_wait_ends_it() {
        let alarm = Alarm::default();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| alarm.wait(LONG));
            alarm.set(Instant::now());
            assert!(waiter.join().expect("the waiter does not panic"));
            let waiter = scope.spawn(|| alarm.wait(LONG));
            alarm.stop();
            assert!(!waiter.join().expect("the waiter does not panic"));
        });
    }
}
