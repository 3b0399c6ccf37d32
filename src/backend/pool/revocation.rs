//! Backends whose certificates are not valid any more: the authorities of the address have changed, or a certificate was
//! revoked.
//!
//! Each backend is verified again before it becomes idle the next time, so one that serves a request finishes it.

use super::{Backend, Pool};
use crate::net::tls::Acceptor;
use crate::preamble::{RefusalKind, ServerLine};
use crate::stats::Close;

impl Pool {
    /// The number of changes of what backends are verified by. One that is accepted now has passed the present one.
    pub fn verification(&self) -> u64 {
        self.state.lock().verification.generation
    }

    /// Changes what backends are verified by, if it is different, and closes idle ones that do not pass it.
    pub fn set_verification(&self, tls: Option<&Acceptor>) {
        let idle = {
            let mut state = self.state.lock();
            let before = &mut state.verification;
            let authorities = |tls: Option<&Acceptor>| tls.and_then(Acceptor::authorities);
            if authorities(before.tls.as_ref()) == authorities(tls) {
                return;
            }
            before.generation += 1;
            before.tls = tls.cloned();
            state.idle.take_others(&[])
        };
        for backend in idle {
            self.offer(backend);
        }
    }
}

impl Backend {
    /// Verifies the backend again, and closes it if it does not pass.
    pub(super) fn verify_again(mut self, generation: u64, tls: Option<&Acceptor>) -> Option<Self> {
        self.verified = generation;
        let Some(Err(why)) = tls.map(|tls| self.conn.verify_client(tls)) else {
            return Some(self);
        };
        let (label, pool) = (self.registration.identity().label(), self.pool.name());
        log::info!(
            "{label} at {pool} is disconnected, its certificate is not valid any more: {why}"
        );
        let line = ServerLine::refused(RefusalKind::Other, "its certificate is not valid any more");
        self.refuse(Close::Revoked, &line);
        None
    }
}
