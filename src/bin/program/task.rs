//! Runs reloads and upgrades on threads of their own: reading a file may take long, for example from a network disk, and
//! signals must be handled meanwhile.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use swiftiply::internals::process;

/// A thread that does one thing on request, such as a reload.
#[derive(Clone)]
pub(crate) struct TaskThread<R>(Sender<Option<Sender<R>>>);

/// Why a task has no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoOutcome {
    /// The program is ending.
    Ending,
    /// The task takes too long, and continues.
    Late,
}

impl<R: Clone + Send + 'static> TaskThread<R> {
    /// Starts the thread. It holds `it` only while it does `task`.
    ///
    /// # Errors
    /// The thread could not be started.
    pub(crate) fn of<T: Send + Sync + 'static>(
        name: &str,
        it: &Arc<T>,
        task: impl Fn(&T) -> R + Send + 'static,
    ) -> Result<Self, String> {
        let (sender, asked) = channel::<Option<Sender<R>>>();
        let it: Weak<T> = Arc::downgrade(it);
        let run = move || {
            while let Ok(first) = asked.recv() {
                // One run serves all requests that came before it began.
                let mut waiting: Vec<_> = first.into_iter().collect();
                while let Ok(more) = asked.try_recv() {
                    waiting.extend(more);
                }
                let Some(it) = it.upgrade() else { return };
                let outcome = task(&it);
                for one in waiting {
                    // It may have stopped waiting.
                    let _ = one.send(outcome.clone());
                }
            }
        };
        process::thread(name, run).map_err(|error| error.to_string())?;
        Ok(Self(sender))
    }

    /// Requests a run of the task. Never blocks.
    pub(crate) fn ask(&self) {
        // Fails only when the thread has ended, and then the program is ending as well.
        let _ = self.0.send(None);
    }

    /// Requests a run of the task, and waits for its outcome, for so long at most.
    ///
    /// # Errors
    /// There is no outcome, and why.
    #[allow(dead_code, reason = "only the server has commands that wait")]
    pub(crate) fn ask_and_wait(&self, longest: Duration) -> Result<R, NoOutcome> {
        let (sender, outcome) = channel();
        self.0.send(Some(sender)).map_err(|_| NoOutcome::Ending)?;
        outcome.recv_timeout(longest).map_err(|error| match error {
            RecvTimeoutError::Timeout => NoOutcome::Late,
            RecvTimeoutError::Disconnected => NoOutcome::Ending,
        })
    }
}

/// Drops what was shared with the reload thread. Waits for a reload under way, but only briefly: it may be waiting for a
/// file forever.
pub(crate) fn drop_last<T>(it: Arc<T>) {
    let since = Instant::now();
    let mut it = it;
    while let Err(shared) = Arc::try_unwrap(it) {
        if since.elapsed() >= LONGEST_WAIT {
            return;
        }
        it = shared;
        thread::sleep(Duration::from_millis(10));
    }
}

/// How long to wait at the end for a reload under way.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stuck_reload_does_not_delay_the_end() {
        let it = Arc::new(());
        let (begun, begins) = channel();
        let (end, ends) = channel::<()>();
        let reloads = TaskThread::of("test", &it, move |()| {
            begun.send(()).unwrap();
            let _ = ends.recv();
        });
        let reloads = reloads.unwrap();
        reloads.ask();
        begins.recv().unwrap();
        let outcome = reloads.ask_and_wait(Duration::from_millis(1));
        assert_eq!(outcome, Err(NoOutcome::Late));
        // These two are served by one later reload, and so is the one before.
        reloads.ask();
        reloads.ask();
        end.send(()).unwrap();
        begins.recv().unwrap();
        assert!(begins.try_recv().is_err());
        drop_last(Arc::clone(&it));
        assert_eq!(
            Arc::strong_count(&it),
            2,
            "that of the reload, which goes on"
        );
        drop(end);
        drop(reloads);
        let since = Instant::now();
        while Arc::strong_count(&it) > 1 {
            assert!(since.elapsed() < Duration::from_secs(60));
            thread::sleep(Duration::from_millis(1));
        }
    }
}
