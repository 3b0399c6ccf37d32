//! What an operator has switched at a site while the server runs: pause, drain, maintenance.
//!
//! The switches of a site survive a reload as long as the configuration has a site with its name. They are set through
//! [`operations`](super::operations); requests read them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::backend::pause::Pause;

/// The switches of a site.
#[derive(Debug, Default)]
pub(crate) struct SiteSwitches {
    /// Requests for its backends wait.
    pub(crate) pause: Arc<Pause>,
    drained: AtomicBool,
    maintenance: AtomicBool,
    /// Requests that its backends have, or that may get one of them.
    in_flight: AtomicUsize,
}

/// Counts a request that the backends of a site have, for as long as it exists.
#[derive(Debug)]
pub(crate) struct InFlightGuard(Arc<SiteSwitches>);

impl SiteSwitches {
    /// Whether its backends get no requests.
    pub(crate) fn is_drained(&self) -> bool {
        self.drained.load(Ordering::SeqCst)
    }

    /// Returns whether that is a change.
    pub(crate) fn set_drained(&self, drained: bool) -> bool {
        self.drained.swap(drained, Ordering::SeqCst) != drained
    }

    /// How many requests the backends have. Those in the queue for a backend are among them; a pause or a drain empties it.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Whether every request gets the maintenance page.
    pub(crate) fn is_in_maintenance(&self) -> bool {
        self.maintenance.load(Ordering::Relaxed)
    }

    /// Returns whether that is a change.
    pub(crate) fn set_maintenance(&self, maintenance: bool) -> bool {
        self.maintenance.swap(maintenance, Ordering::Relaxed) != maintenance
    }
}

impl InFlightGuard {
    /// To be called before the switches are read: when a switch is set, and the count is zero after that, no request follows.
    pub(crate) fn enter(switches: &Arc<SiteSwitches>) -> Self {
        switches.in_flight.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(switches))
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}
