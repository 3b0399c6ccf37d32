//! Where sessions are kept while no worker runs them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::shared::Shared;
use crate::backend::lease::Lease;
use crate::net::poller::Poller;
use crate::net::tunnel::Tunnels;

/// The sessions of a server, of type `S`, and what they share.
pub(crate) struct Sessions<S> {
    pub(crate) shared: Arc<Shared>,
    /// Sessions that wait.
    pub(crate) poller: Poller<S>,
    /// Upgraded connections.
    pub(crate) tunnels: Tunnels<S, Lease>,
    /// When to look for idle sessions again, to make room.
    pub(super) shedding: ScanBackoff,
    /// When the tick thread has last seen that the workers work.
    pub(super) progress: Mutex<WorkerProgress>,
}

/// A look of the tick thread at the workers.
#[derive(Clone, Copy, Debug)]
pub(super) struct WorkerProgress {
    /// How often a worker had got something to do.
    pub(super) taken: u64,
    pub(super) at: Instant,
}

/// Limits the time spent on an expensive scan that found nothing to a fraction of all time.
#[derive(Default)]
pub(super) struct ScanBackoff(Mutex<Option<Instant>>);

impl ScanBackoff {
    /// Whether the scan may run again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.0.lock().is_none_or(|due| due <= now)
    }

    /// Notes that the scan found nothing, and ran from `begun` until `now`.
    pub(super) fn rest(&self, begun: Instant, now: Instant) {
        let pause = now.saturating_duration_since(begun) * BACKOFF_FACTOR;
        *self.0.lock() = Some(now + pause.min(LONGEST_BACKOFF));
    }
}

/// Back-off after a fruitless scan, as a multiple of its duration.
const BACKOFF_FACTOR: u32 = 10;

/// A scan that took long was interrupted by other work of the machine, and says little about its cost.
const LONGEST_BACKOFF: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fruitless_scans_back_off() {
        let (pace, start) = (ScanBackoff::default(), Instant::now());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert!(pace.is_due(start));
        pace.rest(start, at(3));
        assert!(!pace.is_due(at(3)) && !pace.is_due(at(32)) && pace.is_due(at(33)));
        pace.rest(at(40), at(40));
        assert!(pace.is_due(at(40)));
        pace.rest(at(40), at(90));
        assert!(!pace.is_due(at(189)) && pace.is_due(at(190)));
    }
}
