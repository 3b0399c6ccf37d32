//! Where sessions are kept while no worker runs them.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::shared::Shared;
use crate::backend::lease::Lease;
use crate::net::poller::Poller;
use crate::net::tunnel::Tunnels;

/// The sessions of a server, each an `S`, and what they share.
pub(crate) struct Sessions<S> {
    pub(crate) shared: Arc<Shared>,
    /// Those that wait.
    pub(crate) poller: Poller<S>,
    /// Those for which HTTP is over.
    pub(crate) tunnels: Tunnels<S, Lease>,
    /// When idle ones may be looked for, to make room.
    pub(super) shedding: ScanBackoff,
}

/// Keeps what takes its time and was in vain from taking more than a part of all the time.
#[derive(Default)]
pub(super) struct ScanBackoff(Mutex<Option<Instant>>);

impl ScanBackoff {
    /// Whether it may be tried again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.0.lock().is_none_or(|due| due <= now)
    }

    /// It was in vain, and took from `begun` until now.
    pub(super) fn rest(&self, begun: Instant, now: Instant) {
        *self.0.lock() = Some(now + now.saturating_duration_since(begun) * IN_VAIN);
    }
}

/// So many times as long as something was tried in vain it is left alone.
const IN_VAIN: u32 = 10;
#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_in_vain_takes_a_tenth_of_the_time() {
        let (pace, start) = (ScanBackoff::default(), Instant::now());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert!(pace.is_due(start));
        pace.rest(start, at(3));
        assert!(!pace.is_due(at(3)) && !pace.is_due(at(32)) && pace.is_due(at(33)));
        pace.rest(at(40), at(40));
        assert!(pace.is_due(at(40)));
    }
}
