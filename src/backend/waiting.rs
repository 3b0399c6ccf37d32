//! How many requests wait for a backend, at a site and at all sites, and the limits of both.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many requests of a site stand in line, and how many of all sites.
#[derive(Debug)]
pub struct WaitingCount {
    here: AtomicUsize,
    /// Shared by all sites.
    everywhere: Arc<AtomicUsize>,
    /// The limits, which a reload may change.
    most_here: AtomicUsize,
    most_everywhere: AtomicUsize,
}

/// The permission to stand in line, which a request keeps for as long as it lives: it has been let in once, so the limit
/// does not refuse it when it has to go back into line.
#[derive(Debug)]
pub struct CountedWait(());

/// A request that stands in line is counted as long as this lives.
#[derive(Debug)]
pub struct InLine(Arc<WaitingCount>);

/// As many requests as may stand in line stand there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

impl WaitingCount {
    /// No request waits. `everywhere` is the count that all sites share.
    pub fn new(everywhere: Arc<AtomicUsize>) -> Self {
        Self {
            here: AtomicUsize::new(0),
            everywhere,
            most_here: AtomicUsize::new(0),
            most_everywhere: AtomicUsize::new(0),
        }
    }

    /// Changes how many may wait, of this site and of all.
    pub fn limit(&self, here: usize, everywhere: usize) {
        self.most_here.store(here, Ordering::Relaxed);
        self.most_everywhere.store(everywhere, Ordering::Relaxed);
    }

    /// How many requests of the site wait.
    pub fn count(&self) -> usize {
        self.here.load(Ordering::Relaxed)
    }

    /// Counts one more, unless there are too many already. `wait`: the permission, which is left there; a request that has it
    /// is not refused.
    ///
    /// # Errors
    /// [`QueueFull`].
    pub fn enter(self: &Arc<Self>, wait: &mut Option<CountedWait>) -> Result<InLine, QueueFull> {
        // The guard takes back what was added, also where the limit says no.
        let in_line = InLine(Arc::clone(self));
        let here = self.here.fetch_add(1, Ordering::Relaxed);
        let everywhere = self.everywhere.fetch_add(1, Ordering::Relaxed);
        let fits = here < self.most_here.load(Ordering::Relaxed)
            && everywhere < self.most_everywhere.load(Ordering::Relaxed);
        if wait.is_none() && !fits {
            return Err(QueueFull);
        }
        *wait = Some(CountedWait(()));
        Ok(in_line)
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        self.0.here.fetch_sub(1, Ordering::Relaxed);
        self.0.everywhere.fetch_sub(1, Ordering::Relaxed);
    }
}
