//! A pool whose process was replaced: its idle backends go to the new process, and its requests borrow them from there.
//!
//! So the new process has all backends except those that serve a request of the old one at that moment, and a request of the
//! old one, whose client is slow to send it, still gets its turn in the queue of the new one.

use std::sync::Arc;

use super::{Backend, BackendCriteria, Pool, Successor};

impl Pool {
    /// Gives idle backends to this process from now on, and asks it for one for each request that waits.
    pub fn set_successor(&self, successor: &Arc<dyn Successor>) {
        let (idle, waiting) = {
            let mut state = self.state.lock();
            state.successor = Some(Arc::clone(successor));
            let waiting: Vec<_> = state.waiting.criteria().cloned().collect();
            (state.idle.take_others(&[]), waiting)
        };
        for backend in idle {
            self.offer(backend);
        }
        self.ask(successor, &waiting);
    }

    /// Asks again for each request that waits: a process that was asked may have been replaced itself.
    pub fn ask_again(&self) {
        let (successor, waiting) = {
            let state = self.state.lock();
            let Some(successor) = state.successor.clone() else {
                return;
            };
            (
                successor,
                state.waiting.criteria().cloned().collect::<Vec<_>>(),
            )
        };
        self.ask(&successor, &waiting);
    }

    fn ask(&self, successor: &Arc<dyn Successor>, waiting: &[Arc<BackendCriteria>]) {
        for criteria in waiting {
            successor.ask(&self.name, &criteria.keys, criteria.id.as_deref());
        }
    }

    /// Gives a backend away, unless it is dead. Returns it if the process is gone; from then on this pool keeps its own.
    pub(super) fn give(&self, backend: Backend, successor: &Arc<dyn Successor>) -> Option<Backend> {
        let refused = successor.give(backend.inspect()?).err()?;
        let gone = self.state.lock().successor.take();
        drop(gone);
        Some(*refused)
    }
}
