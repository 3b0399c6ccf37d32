//! A pause of a site: its requests wait until it is resumed, for a deployment or a migration.
//!
//! A request asks whether the site is paused before it asks for a backend, and [enters](Pause::enter) the pause if so.
//! [`Pause::end`] recalls the waiting requests in order of arrival, and each of them asks for a backend. A pause holds
//! no thread: an exchange that waits is parked, as in any other [`queue`](super::queue).
//!
//! Called by workers, and by the thread of a command.
//!
//! **Invariants**: no request waits here while the site is not paused. The lock is a leaf; requests are woken without it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::queue::{Queue, QueuePosition, Slot};
use super::waiting::WaitingGuard;

/// Whether a site is paused, and the requests that wait for its end.
#[derive(Debug, Default)]
pub struct Pause {
    /// Whether [`PauseState::longest`] is set, so that requests see it without the lock.
    is_on: AtomicBool,
    state: Mutex<PauseState>,
}

/// A request that waits for the end of a pause. Dropping it leaves the queue.
#[derive(Debug)]
pub struct PauseTicket {
    pause: Arc<Pause>,
    position: QueuePosition,
    slot: Arc<Slot<()>>,
    _waiting: WaitingGuard,
}

#[derive(Debug, Default)]
struct PauseState {
    /// How long a request waits at most; `None`: there is no pause.
    longest: Option<Duration>,
    waiting: Queue<(), ()>,
}

impl Pause {
    /// Begins the pause, or changes how long a request waits at most. Requests that wait already keep their deadlines.
    /// Returns whether there was none before.
    pub fn begin(&self, longest: Duration) -> bool {
        let mut state = self.state.lock();
        self.is_on.store(true, Ordering::SeqCst);
        state.longest.replace(longest).is_none()
    }

    /// Ends the pause, and lets the requests go on. Returns how many there were; `None`: there was no pause.
    pub fn end(&self) -> Option<usize> {
        let slots = {
            let mut state = self.state.lock();
            self.is_on.store(false, Ordering::SeqCst);
            state.longest.take()?;
            state.waiting.take_where(|()| true)
        };
        for slot in &slots {
            slot.recall();
        }
        Some(slots.len())
    }

    /// Whether there is a pause. Costs next to nothing.
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::SeqCst)
    }

    /// How long a request waits at most; `None`: there is no pause.
    pub fn longest(&self) -> Option<Duration> {
        self.state.lock().longest
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// Lets a request that arrived at `since` wait. Returns its ticket, and how long it waits at most. `None`: the pause
    /// has ended.
    pub fn enter(
        self: &Arc<Self>,
        since: Instant,
        waiting: WaitingGuard,
    ) -> Option<(PauseTicket, Duration)> {
        let slot = Arc::new(Slot::new());
        let mut state = self.state.lock();
        let longest = state.longest?;
        let position = state.waiting.push(since, (), Arc::clone(&slot));
        drop(state);
        let ticket = PauseTicket {
            pause: Arc::clone(self),
            position,
            slot,
            _waiting: waiting,
        };
        Some((ticket, longest))
    }

    /// Wakes all requests that wait, to ask again, although the pause goes on.
    pub fn recall(&self) {
        let slots = self.state.lock().waiting.take_where(|()| true);
        for slot in slots {
            slot.recall();
        }
    }
}

impl PauseTicket {
    /// Whether the pause has ended.
    pub fn is_recalled(&self) -> bool {
        self.slot.is_recalled()
    }

    /// Blocks until the pause has ended, or until `until`.
    pub fn wait(&self, until: Instant) {
        self.slot.wait(until);
    }

    /// Registers a waker that is called at the end of the pause; see [`Slot::wake_with`].
    pub fn wake_with(&self, waker: Waker) -> bool {
        self.slot.wake_with(waker)
    }
}

impl Drop for PauseTicket {
    fn drop(&mut self) {
        let removed = self.pause.state.lock().waiting.remove(self.position);
        // Its waker is dropped without the lock.
        drop(removed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::backend::waiting::WaitingCount;

    #[test]
    fn requests_wait_for_the_end() {
        let (pause, overall) = (Arc::new(Pause::default()), Arc::new(AtomicUsize::new(0)));
        let count = Arc::new(WaitingCount::new(Arc::clone(&overall)));
        count.limit(2, 2);
        let enter = || {
            let waiting = count.enter(&mut None).ok()?;
            pause.enter(Instant::now(), waiting)
        };
        let (short, long) = (Duration::from_secs(60), Duration::from_secs(300));
        assert!(enter().is_none() && !pause.is_on());
        assert_eq!(pause.end(), None);
        assert!(pause.begin(short));
        let (first, longest) = enter().unwrap();
        assert_eq!(longest, short);
        assert!(!pause.begin(long), "it was paused already");
        let (second, longest) = enter().unwrap();
        assert_eq!(
            (longest, pause.longest(), pause.waiting()),
            (long, Some(long), 2)
        );
        assert!(enter().is_none(), "limits.waiting is reached");
        // A client that leaves makes room.
        drop(second);
        let (second, _) = enter().unwrap();
        assert!(!first.is_recalled() && pause.is_on());
        assert_eq!(pause.end(), Some(2));
        assert!(first.is_recalled() && second.is_recalled() && !pause.is_on());
        drop((first, second));
        assert_eq!((pause.waiting(), count.count()), (0, 0));
    }
}
