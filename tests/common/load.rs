//! Many clients at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use super::{Visitor, wait_until};

/// Sends this many requests from each of this many clients; each response must be the target of its request.
pub(crate) fn crowd(address: SocketAddr, visitors: usize, requests: usize) {
    thread::scope(|scope| {
        for visitor in 0..visitors {
            scope.spawn(move || {
                let mut connection = Visitor::connect(address);
                for n in 0..requests {
                    let target = format!("/{visitor}/{n}");
                    assert_eq!(connection.get(&target).text(), target);
                }
            });
        }
    });
}

/// Clients that send requests as fast as they can until they are stopped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Begins; each response is the target of its request. `ends`: the proxy may close a connection between two requests,
    /// and refuse new ones.
    pub(crate) fn start(address: SocketAddr, ends: bool) -> Self {
        Self::of(address, ends, |target, text| text == target)
    }

    /// The same with an application that answers something else: whether it is right for a target.
    pub(crate) fn of(address: SocketAddr, ends: bool, right: fn(&str, &str) -> bool) -> Self {
        let (stop, answered) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let threads = (0..8).map(|visitor| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            thread::spawn(move || {
                let mut connection = Visitor::connect(address);
                for n in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let target = format!("/{visitor}/{n}");
                    connection.send_get(&target);
                    if ends && connection.is_closed() {
                        // Not one byte of a response: it was closed while it was idle.
                        return;
                    }
                    let answer = connection.answer();
                    let good = right(&target, &answer.text()) && !answer.cut;
                    assert!(good, "{target}: {answer:?}");
                    answered.fetch_add(1, Ordering::SeqCst);
                    if answer.field("Connection") == Some("close") {
                        assert!(ends, "{target}: the connection is to be closed: {answer:?}");
                        return;
                    }
                }
            })
        });
        Self {
            threads: threads.collect(),
            stop,
            answered,
        }
    }

    /// Waits for so many more answers.
    pub(crate) fn wait_for(&self, more: usize) {
        let enough = self.answered.load(Ordering::SeqCst) + more;
        wait_until("answers", || {
            self.answered.load(Ordering::SeqCst) >= enough
                || self.threads.iter().any(JoinHandle::is_finished)
        });
    }

    /// Stops. All answers were right.
    pub(crate) fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}
