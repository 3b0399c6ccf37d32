//! Threads that are created before they may begin.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::acme::manager::Manager;
use crate::process;

/// Checks that the system allows this many more threads, before a library asks for them that panics if it does not.
///
/// # Errors
/// The system does not allow them.
pub(super) fn check_available(count: usize) -> io::Result<()> {
    let before = process::threads();
    let trial = (0..count).map(|_| PreparedThread::new("worker", || {}));
    let trial = trial.collect::<io::Result<Vec<_>>>()?;
    trial.into_iter().for_each(PreparedThread::join);
    // A thread that has ended counts until the system has cleaned up after it.
    let deadline = Instant::now() + CLEANED_UP;
    while let (Ok(before), Ok(now)) = (&before, process::threads())
        && now > *before
        && Instant::now() < deadline
    {
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The thread that obtains and renews the certificates of [`Manager`].
///
/// # Errors
/// The system allows no more threads.
pub(super) fn acme_thread(manager: &Arc<Manager>) -> io::Result<PreparedThread> {
    let manager = Arc::clone(manager);
    PreparedThread::new("acme", move || manager.run())
}

/// A thread that was created, and begins when nothing can fail any more. Dropping it before that ends it.
pub(super) enum PreparedThread {
    Made {
        go: mpsc::Sender<()>,
        handle: JoinHandle<()>,
    },
    Begun(JoinHandle<()>),
}

impl PreparedThread {
    /// Creates a thread that waits until it may begin.
    pub(super) fn new(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (go, wait) = mpsc::channel();
        let begin = move || {
            if wait.recv().is_ok() {
                run();
            }
        };
        let handle = process::thread(name, begin)?;
        Ok(Self::Made { go, handle })
    }

    pub(super) fn begin(self) -> Self {
        match self {
            Self::Made { go, handle } => {
                // The thread waits for this message and nothing else.
                let _ = go.send(());
                Self::Begun(handle)
            }
            begun @ Self::Begun(_) => begun,
        }
    }

    /// Waits for its end; returns at once if it has never begun.
    pub(super) fn join(self) {
        let handle = match self {
            Self::Made { go, handle } => {
                drop(go);
                handle
            }
            Self::Begun(handle) => handle,
        };
        let _ = handle.join();
    }
}

/// The longest time in which the system cleans up after a thread; usually much less than a millisecond.
const CLEANED_UP: Duration = Duration::from_secs(1);
