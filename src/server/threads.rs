//! Threads that are made before they may begin.

use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

/// A thread that was made, and begins when nothing can fail any more. One that never begins ends when this is dropped.
pub(super) enum Thread {
    Made {
        go: mpsc::Sender<()>,
        handle: JoinHandle<()>,
    },
    Begun(JoinHandle<()>),
}

impl Thread {
    /// Makes a thread that waits until it may begin.
    pub(super) fn new(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (go, wait) = mpsc::channel();
        let begin = move || {
            if wait.recv().is_ok() {
                run();
            }
        };
        let thread = thread::Builder::new().name(name.to_owned());
        let handle = thread.spawn(begin)?;
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
