//! Checks passwords (`State::Auth`): a request waits until its password can be checked.

use std::sync::Arc;
use std::time::Instant;

use super::connection::Session;
use super::state::{AuthPending, SessionStep, State};
use crate::http::auth::Credentials;
use crate::passwords::Users;
use crate::relay::Interests;
use crate::server::auth::{self, AuthRule, AuthVerdict};
use crate::server::checks::{AuthOverload, AuthSlot, CheckEntry};
use crate::server::pending::PendingRequest;
use crate::server::scratch::Scratch;

impl Session {
    /// Lets a request in if its client may see what it asks for.
    pub(super) fn authorise(
        &mut self,
        mut pending: PendingRequest,
        scratch: &mut Scratch,
    ) -> SessionStep {
        let snapshot = Arc::clone(&pending.snapshot);
        let guards = &snapshot.sites[pending.site].guards;
        let (rule, users, credentials) =
            match auth::verdict(guards, &mut pending.request, pending.since) {
                AuthVerdict::Check(rule, users, credentials) => (rule, users, credentials),
                verdict => return self.apply_verdict(pending, &verdict, scratch),
            };
        let client = pending.request.client.own_address();
        match self.shared.checks.enter(client, pending.since) {
            Ok(CheckEntry::Turn(turn)) => {
                self.check_password(pending, rule, &users, &credentials, turn, scratch)
            }
            Ok(CheckEntry::Queued(ticket)) => {
                let deadline = pending.since + pending.site().settings.timeout;
                let auth = AuthPending { pending, ticket };
                SessionStep::Wait(
                    State::Auth(Box::new(auth)),
                    Interests {
                        queue: true,
                        ..Interests::time(deadline)
                    },
                )
            }
            Err(overload) => self.refuse_auth_overload(&pending, overload, scratch),
        }
    }

    /// Continues a request that has waited for the check of its password.
    pub(super) fn resume_auth(&mut self, auth: AuthPending, scratch: &mut Scratch) -> SessionStep {
        let AuthPending {
            mut pending,
            ticket,
        } = auth;
        let has_event = std::mem::take(&mut self.parking.may_be_gone);
        if has_event && pending.disconnect.is_gone(&self.conn) {
            return self.client_gone(&pending, pending.waited());
        }
        // This also covers a turn that comes too late.
        let deadline = pending.since + pending.site().settings.timeout;
        if self.expired || Instant::now() >= deadline {
            return self.refuse_auth_overload(&pending, AuthOverload::All, scratch);
        }
        let Some(turn) = ticket.take() else {
            let auth = AuthPending { pending, ticket };
            return SessionStep::Wait(
                State::Auth(Box::new(auth)),
                Interests {
                    queue: true,
                    ..Interests::time(deadline)
                },
            );
        };
        let turn = match turn {
            Ok(turn) => turn,
            Err(overload) => return self.refuse_auth_overload(&pending, overload, scratch),
        };
        let snapshot = Arc::clone(&pending.snapshot);
        let guards = &snapshot.sites[pending.site].guards;
        match auth::verdict(guards, &mut pending.request, pending.since) {
            AuthVerdict::Check(rule, users, credentials) => {
                self.check_password(pending, rule, &users, &credentials, turn, scratch)
            }
            verdict => {
                // Another request with the same password was checked first.
                turn.note_correct_password(Instant::now());
                drop(turn);
                self.apply_verdict(pending, &verdict, scratch)
            }
        }
    }

    /// Acts on a verdict that needs no check.
    fn apply_verdict(
        &mut self,
        pending: PendingRequest,
        verdict: &AuthVerdict<'_>,
        scratch: &mut Scratch,
    ) -> SessionStep {
        match verdict {
            AuthVerdict::Ask(rule) => self.ask_for_password(&pending, rule, scratch),
            AuthVerdict::Unclear => self.refuse_unclear(&pending, scratch),
            AuthVerdict::Pass | AuthVerdict::Check(..) => self.serve(pending, scratch),
        }
    }

    /// Checks a password, which takes tens of milliseconds.
    fn check_password(
        &mut self,
        mut pending: PendingRequest,
        rule: &AuthRule,
        users: &Users,
        credentials: &Credentials,
        turn: AuthSlot,
        scratch: &mut Scratch,
    ) -> SessionStep {
        let is_right = users.verify(credentials.name(), credentials.password());
        if is_right {
            turn.note_correct_password(Instant::now());
        }
        drop(turn);
        if !is_right {
            let name = String::from_utf8_lossy(credentials.name());
            let why = format!("wrong name or password, name {name:?}");
            self.log_refused(&pending, log::Level::Info, 401, &why);
            return self.ask_for_password(&pending, rule, scratch);
        }
        users.remember(credentials.bytes());
        rule.identify(credentials, &mut pending.request);
        pending.since = Instant::now();
        SessionStep::Go(State::Authorised(Box::new(pending)))
    }

    /// Asks for a name and a password (RFC 9110 11.6.1).
    fn ask_for_password(
        &mut self,
        pending: &PendingRequest,
        rule: &AuthRule,
        scratch: &mut Scratch,
    ) -> SessionStep {
        let why = "A name and a password are needed here.";
        let mut page = pending.site().page(401, why, Some(&pending.request.head));
        let challenge = rule.challenge.as_bytes();
        page.head.headers.push("WWW-Authenticate", challenge);
        self.respond_before_body(pending, page, scratch)
    }

    /// Refuses a request because too many passwords are to be checked.
    fn refuse_auth_overload(
        &mut self,
        pending: &PendingRequest,
        overload: AuthOverload,
        scratch: &mut Scratch,
    ) -> SessionStep {
        let (status, why) = match overload {
            AuthOverload::Client => (
                429,
                "Too many passwords from this address are being checked.",
            ),
            AuthOverload::All => (503, "Too many passwords are being checked."),
        };
        self.log_refused(
            pending,
            log::Level::Warn,
            status,
            "too many passwords to check",
        );
        let why = format!("{why} Please try again.");
        let page = pending
            .site()
            .page(status, &why, Some(&pending.request.head));
        self.respond_before_body(pending, page, scratch)
    }
}
