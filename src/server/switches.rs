//! What an operator has switched at a site while the server runs: pause, drain, maintenance.
//!
//! The switches of a site survive a reload as long as the configuration has a site with its name. They are set through
//! [`operations`](super::operations); requests read them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::backend::pause::Pause;

/// The switches of a site.
#[derive(Debug, Default)]
pub(crate) struct SiteSwitches {
    /// Requests for its backends wait.
    pub(crate) pause: Arc<Pause>,
    drained: AtomicBool,
    maintenance: AtomicBool,
}

impl SiteSwitches {
    /// Whether its backends get no requests.
    pub(crate) fn is_drained(&self) -> bool {
        self.drained.load(Ordering::SeqCst)
    }

    /// Returns whether that is a change.
    pub(crate) fn set_drained(&self, drained: bool) -> bool {
        self.drained.swap(drained, Ordering::SeqCst) != drained
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
