//! How many requests wait for a backend, at a site and at all sites, and the limits of both.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of waiting requests of a site, and of all sites.
#[derive(Debug)]
pub struct WaitingCount {
    at_site: AtomicUsize,
    /// Shared by all sites.
    overall: Arc<AtomicUsize>,
    /// The limits; a reload may change them.
    most_at_site: AtomicUsize,
    most_overall: AtomicUsize,
}

/// The permission to queue. A request keeps it: once it was admitted, the limit does not refuse it when it queues again.
#[derive(Debug)]
pub struct CountedWait(());

/// Counts a waiting request for as long as it exists.
#[derive(Debug)]
pub struct WaitingGuard(Arc<WaitingCount>);

/// No more requests may wait. Each has the limit that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueFull {
    /// `limits.waiting`, of one site.
    Site(usize),
    /// `limits.waiting_total`, of all sites.
    Total(usize),
}

impl fmt::Display for QueueFull {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Site(most) => write!(out, "limits.waiting reached ({most})"),
            Self::Total(most) => write!(out, "limits.waiting_total reached ({most})"),
        }
    }
}

impl WaitingCount {
    /// `overall` is the count shared by all sites.
    pub fn new(overall: Arc<AtomicUsize>) -> Self {
        Self {
            at_site: AtomicUsize::new(0),
            overall,
            most_at_site: AtomicUsize::new(0),
            most_overall: AtomicUsize::new(0),
        }
    }

    /// Changes the limits of this site and of all.
    pub fn limit(&self, at_site: usize, overall: usize) {
        self.most_at_site.store(at_site, Ordering::Relaxed);
        self.most_overall.store(overall, Ordering::Relaxed);
    }

    /// How many requests of the site wait.
    pub fn count(&self) -> usize {
        self.at_site.load(Ordering::Relaxed)
    }

    /// Counts a waiting request, unless the limits are reached. `wait`: the request's permission, which is set here; a
    /// request that has it already is not refused.
    ///
    /// # Errors
    /// [`QueueFull`].
    pub fn enter(
        self: &Arc<Self>,
        wait: &mut Option<CountedWait>,
    ) -> Result<WaitingGuard, QueueFull> {
        // If the limit refuses the request, dropping the guard undoes the counting.
        let guard = WaitingGuard(Arc::clone(self));
        let at_site = self.at_site.fetch_add(1, Ordering::Relaxed);
        let overall = self.overall.fetch_add(1, Ordering::Relaxed);
        if wait.is_none() {
            let most = self.most_at_site.load(Ordering::Relaxed);
            if at_site >= most {
                return Err(QueueFull::Site(most));
            }
            let most = self.most_overall.load(Ordering::Relaxed);
            if overall >= most {
                return Err(QueueFull::Total(most));
            }
        }
        *wait = Some(CountedWait(()));
        Ok(guard)
    }
}

impl Drop for WaitingGuard {
    fn drop(&mut self) {
        self.0.at_site.fetch_sub(1, Ordering::Relaxed);
        self.0.overall.fetch_sub(1, Ordering::Relaxed);
    }
}
