//! Reloads on a thread of their own: a file may take its time to be read, on a network disk for example, and signals are
//! heard meanwhile.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use swiftiply::process;

/// The thread that reloads something when it is asked to.
pub(crate) struct Reloads(Sender<()>);

impl Reloads {
    /// Starts the thread, which has `it` only while it reloads.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(crate) fn of<T: Send + Sync + 'static>(
        it: &Arc<T>,
        reload: impl Fn(&T) + Send + 'static,
    ) -> Result<Self, String> {
        let (sender, asked) = channel();
        let it: Weak<T> = Arc::downgrade(it);
        let run = move || {
            while asked.recv().is_ok() {
                // One reload does for all that have asked until it begins.
                while asked.try_recv().is_ok() {}
                let Some(it) = it.upgrade() else { return };
                reload(&it);
            }
        };
        process::thread("reload", run).map_err(|error| error.to_string())?;
        Ok(Self(sender))
    }

    /// Asks for a reload. Never waits.
    pub(crate) fn ask(&self) {
        // Fails only when the thread has ended, and then so does the program.
        let _ = self.0.send(());
    }
}

/// Drops what was shared with the thread of reloads. A reload that is under way is waited for, but not for long: it may wait
/// for a file for ever.
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

/// How long a reload that is under way is waited for at the end.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_a_reload_that_waits_for_a_file() {
        let it = Arc::new(());
        let (begun, begins) = channel();
        let (end, ends) = channel::<()>();
        let reloads = Reloads::of(&it, move |()| {
            begun.send(()).unwrap();
            let _ = ends.recv();
        });
        let reloads = reloads.unwrap();
        reloads.ask();
        begins.recv().unwrap();
        // These are one, later.
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
