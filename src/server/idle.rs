//! Closes idle sessions: to make room for others, and in a drain.

use std::time::Instant;

use super::session::Session;
use super::sessions::Sessions;
use crate::stats::{self, Close};

impl Sessions<Session> {
    /// Closes those idle connections that would be closed next anyway, to make room. Returns whether there were any.
    pub(crate) fn shed(&self) -> bool {
        // A flood of new connections while none is idle must not keep the workers from the poller.
        let begun = Instant::now();
        if !self.shedding.is_due(begun) {
            return false;
        }
        // Some at a time, because each search goes through all sessions.
        let some =
            usize::try_from(stats::get(&self.shared.stats.open) / 64 + 1).unwrap_or(usize::MAX);
        let idle = self.poller.take_earliest(some, Session::is_idle);
        let mut any = false;
        for session in idle {
            match session.has_input() {
                true => self.poller.hand_over(session),
                false => {
                    any = true;
                    session.close(Close::Overload);
                }
            }
        }
        if !any {
            self.shedding.rest(begun, Instant::now());
        }
        any
    }

    /// Closes idle sessions in a drain. `fresh`: also those that have not had a request yet.
    pub(super) fn close_idle(&self, fresh: bool) {
        let idle = self
            .poller
            .take_all(|session, _| session.is_idle() && (fresh || !session.is_fresh()));
        for session in idle {
            match session.has_input() {
                true => self.poller.hand_over(session),
                false => session.close(Close::Draining),
            }
        }
    }
}
