//! What the workers do for the server: run sessions. The rule about blocking and parking is that of
//! [`relay::worker`](crate::relay::worker).

use std::sync::Arc;
use std::time::Duration;

use super::scratch::Scratch;
use super::session::{Disposition, Session};
use super::sessions::Sessions;
use crate::backend::lease::Upstream;
use crate::config::Scheduling;
use crate::net::poller::{Poller, Token};
use crate::process;
use crate::relay::worker::{Turn, Workplace};
use crate::stats::{self, Close};

impl Workplace for Sessions<Session> {
    type Item = Session;
    type Scratch = Scratch;

    fn poller(&self) -> &Poller<Session> {
        &self.poller
    }

    fn scratch(&self) -> Scratch {
        Scratch::new(Arc::clone(&self.shared))
    }

    fn run(
        self: &Arc<Self>,
        session: Box<Session>,
        scratch: &mut Scratch,
        patience: Duration,
    ) -> Turn<Session> {
        scratch.patience = patience;
        match session.run(scratch) {
            Disposition::Wait(session, interests) => return Turn::Wait(session, interests),
            // The server was dropped in the middle of a long transfer.
            Disposition::Yield(session) if self.poller.is_stopped() => {
                session.close(Close::Draining)
            }
            Disposition::Yield(session) => return Turn::Yield(session),
            Disposition::Move(session) => self.give(session),
            Disposition::Tunnel(session, start) => {
                self.poller.let_go(&session);
                if let Err((session, start)) = self.tunnels.enter(session, *start) {
                    start.backend.close(Close::Draining);
                    session.close(Close::Draining);
                }
            }
            Disposition::Closed => {}
        }
        Turn::Over
    }

    /// Closes the session if the poller is stopped: this thread does, or the thread that stops the server, which looks
    /// again after it has stopped the poller.
    fn parked(&self, token: Token) {
        if self.shared.is_draining()
            && self.poller.is_stopped()
            && let Some(session) = self.poller.take(token)
        {
            session.close(Close::Draining);
        }
    }

    fn panicked(&self) {
        stats::add(&self.shared.stats.panics);
        log::error!("a worker panicked; the connection it served is closed");
    }
}

/// Sets the scheduling class of the calling thread.
pub(super) fn set_scheduling(scheduling: Scheduling) {
    if scheduling == Scheduling::Batch
        && let Err(error) = process::schedule_as_batch()
    {
        log::debug!("SCHED_BATCH: {error}");
    }
}
