//! Closes idle sessions to make room for others and in a drain, or gives them to another process.

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

    /// Gives an idle session to the process that has replaced this one, or closes it if that is gone.
    pub(super) fn give(&self, session: Box<Session>) {
        let left = match self.shared.successor() {
            Some(link) => session.give_to(&link),
            None => Some(session),
        };
        if let Some(session) = left {
            session.close(Close::Draining);
        }
    }

    /// Gives all idle sessions for which that is possible to the process that has replaced this one.
    pub(super) fn give_idle(&self) {
        for session in self.poller.take_all(|session, _| session.is_movable()) {
            self.give(session);
        }
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
