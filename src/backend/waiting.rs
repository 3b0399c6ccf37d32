//! How many requests wait for a backend, at a site and at all sites, and the limits of both.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many requests of a site stand in line, and how many of all sites.
#[derive(Debug)]
pub struct WaitingCount {
    at_site: AtomicUsize,
    /// Shared by all sites.
    overall: Arc<AtomicUsize>,
    /// The limits, which a reload may change.
    most_at_site: AtomicUsize,
    most_overall: AtomicUsize,
}

/// The permission to stand in line, which a request keeps for as long as it lives: it has been let in once, so the limit
/// does not refuse it when it has to go back into line.
#[derive(Debug)]
pub struct CountedWait(());

/// A request that stands in line is counted as long as this lives.
#[derive(Debug)]
pub struct WaitingGuard(Arc<WaitingCount>);

/// As many requests as may stand in line stand there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

impl WaitingCount {
    /// No request waits. `overall` is the count that all sites share.
    pub fn new(overall: Arc<AtomicUsize>) -> Self {
        Self {
            at_site: AtomicUsize::new(0),
            overall,
            most_at_site: AtomicUsize::new(0),
            most_overall: AtomicUsize::new(0),
        }
    }

    /// Changes how many may wait, of this site and of all.
    pub fn limit(&self, at_site: usize, overall: usize) {
        self.most_at_site.store(at_site, Ordering::Relaxed);
        self.most_overall.store(overall, Ordering::Relaxed);
    }

    /// How many requests of the site wait.
    pub fn count(&self) -> usize {
        self.at_site.load(Ordering::Relaxed)
    }

    /// Counts one more, unless there are too many already. `wait`: the permission, which is left there; a request that has it
    /// is not refused.
    ///
    /// # Errors
    /// [`QueueFull`].
    pub fn enter(
        self: &Arc<Self>,
        wait: &mut Option<CountedWait>,
    ) -> Result<WaitingGuard, QueueFull> {
        // The guard takes back what was added, also where the limit says no.
        let guard = WaitingGuard(Arc::clone(self));
        let at_site = self.at_site.fetch_add(1, Ordering::Relaxed);
        let overall = self.overall.fetch_add(1, Ordering::Relaxed);
        let fits = at_site < self.most_at_site.load(Ordering::Relaxed)
            && overall < self.most_overall.load(Ordering::Relaxed);
        if wait.is_none() && !fits {
            return Err(QueueFull);
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
