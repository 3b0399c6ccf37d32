//! The door of a site that asks for a password: a request stands in line until it can be checked.

use std::sync::Arc;
use std::time::Instant;

use super::{Session, State, Step, Unread};
use crate::net::poller::Interest;
use crate::net::stream::Pending;
use crate::server::guard::{self, Crowd, Guard, Ticket, Verdict};
use crate::server::respond::Errand;
use crate::server::worker::Worker;

/// A request whose password stands in line to be checked.
pub(super) struct Door {
    pub(super) errand: Errand,
    pub(super) ticket: Ticket,
}

impl Session {
    /// Lets a request in if its visitor may see what it asks for. `ticket`: it stands in line already, for its password
    /// to be checked.
    pub(super) fn admit(
        &mut self,
        mut errand: Errand,
        ticket: Option<Ticket>,
        worker: &mut Worker,
    ) -> Step {
        let shared = Arc::clone(&self.shared);
        let place = shared.checks.place;
        let in_line = ticket.is_some();
        if in_line && self.unread != Unread::Nothing && errand.watch.is_gone(&self.conn) {
            self.leave_line();
            return self.gone(&errand, &errand.waited());
        }
        // Also where its turn comes too late.
        let deadline = errand.since + errand.site().settings.timeout;
        if in_line && (self.expired || Instant::now() >= deadline) {
            self.leave_line();
            return self.turn_away(&errand, Crowd::All, worker);
        }
        let snapshot = Arc::clone(&errand.snapshot);
        let guards = &snapshot.sites[errand.site].guards;
        let verdict = guard::look(guards, &mut errand.request, errand.since);
        let (guard, users, credentials) = match verdict {
            Verdict::Check(guard, users, credentials) => (guard, users, credentials),
            verdict => {
                if in_line {
                    // Another request of the same visitor was first.
                    self.leave_line();
                }
                return match verdict {
                    Verdict::Ask(guard) => self.ask(&errand, guard, worker),
                    Verdict::Unclear => {
                        let why = "The request was refused: a .. in its path.";
                        let page = errand.site().page(400, why, Some(&errand.request.head));
                        self.decline(&errand, page, worker)
                    }
                    _ => self.open(errand, worker),
                };
            }
        };
        let ticket = match ticket.map_or_else(|| shared.checks.enter(&errand.request), Ok) {
            Ok(ticket) => ticket,
            Err(crowd) => return self.turn_away(&errand, crowd, worker),
        };
        if !self.enter(place, worker) {
            if !in_line && self.unread == Unread::Unsure {
                // As in `take_turn`.
                errand.watch.half_closed = self.conn.pending() == Pending::End;
            }
            let door = Box::new(Door { errand, ticket });
            return Step::Park(State::Door(door), Interest::Read, deadline);
        }
        let is_right = users.verify(credentials.name(), credentials.password());
        worker.let_go();
        drop(ticket);
        if !is_right {
            let name = String::from_utf8_lossy(credentials.name());
            let head = &errand.request.head;
            log::info!(
                target: &errand.site().log,
                "401 for {}: {} {}: wrong name or password, name {name:?}",
                self.peer, head.method.as_str(), head.target.as_str()
            );
            return self.ask(&errand, guard, worker);
        }
        users.remember(credentials.bytes());
        guard.welcome(&credentials, &mut errand.request);
        errand.since = Instant::now();
        Step::Go(State::Open(Box::new(errand)))
    }

    /// Asks for a name and a password (RFC 9110 11.6.1).
    pub(super) fn ask(&mut self, errand: &Errand, guard: &Guard, worker: &mut Worker) -> Step {
        let why = "A name and a password are needed here.";
        let mut page = errand.site().page(401, why, Some(&errand.request.head));
        let challenge = guard.challenge.as_bytes();
        page.head.headers.push("WWW-Authenticate", challenge);
        self.decline(errand, page, worker)
    }

    /// There is no time to check a password.
    pub(super) fn turn_away(&mut self, errand: &Errand, crowd: Crowd, worker: &mut Worker) -> Step {
        let (status, why) = match crowd {
            Crowd::Client => (
                429,
                "Too many passwords from this address are being checked.",
            ),
            Crowd::All => (503, "Too many passwords are being checked."),
        };
        let head = &errand.request.head;
        log::warn!(
            target: &errand.site().log,
            "{status} for {}: {} {}: too many passwords to check",
            self.peer, head.method.as_str(), head.target.as_str()
        );
        let why = format!("{why} Please try again.");
        let page = errand.site().page(status, &why, Some(head));
        self.decline(errand, page, worker)
    }
}
