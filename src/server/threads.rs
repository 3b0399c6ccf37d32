//! Threads that are made before they may begin.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::process;

/// Finds out whether the system gives so many more threads, before a library asks for them that panics if it does not.
///
/// # Errors
/// It does not.
pub(super) fn can_have(count: usize) -> io::Result<()> {
    let before = process::threads();
    let trial = (0..count).map(|_| PreparedThread::new("worker", || {}));
    let trial = trial.collect::<io::Result<Vec<_>>>()?;
    trial.into_iter().for_each(PreparedThread::join);
    // One that has ended counts until the system has cleaned up after it.
    let deadline = Instant::now() + CLEANED_UP;
    while let (Ok(before), Ok(now)) = (&before, process::threads())
        && now > *before
        && Instant::now() < deadline
    {
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// A thread that was made, and begins when nothing can fail any more. One that never begins ends when this is dropped.
pub(super) enum PreparedThread {
    Made {
        go: mpsc::Sender<()>,
        handle: JoinHandle<()>,
    },
    Begun(JoinHandle<()>),
}

impl PreparedThread {
    /// Makes a thread that waits until it may begin.
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
                // It waits for this and for nothing else.
                let _ = go.send(());
                Self::Begun(handle)
            }
            begun @ Self::Begun(_) => begun,
        }
    }

    /// Waits for its end; at once, if it has never begun.
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

/// How long the system may take to clean up after a thread, at most; usually much less than a millisecond.
const CLEANED_UP: Duration = Duration::from_secs(1);
