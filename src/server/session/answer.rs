//! How a response of our own goes out, and what follows a response.

use std::time::{Duration, Instant};

use super::log_context::{LogContext, OwnedLogContext};
use super::{Session, SessionStep, State, Unread};
use crate::backend::lease::Lease;
use crate::exchange::Response;
use crate::net::stream::Pending;
use crate::relay::Interests;
use crate::relay::delivery::{Delivered, Delivery, Payload, Progress, Recipient};
use crate::server::compress;
use crate::server::pending::PendingRequest;
use crate::server::worker::Worker;
use crate::stats::Close;

/// A response of our own that the visitor takes slowly.
pub(super) struct SendingResponse {
    pub(super) delivery: Delivery<Lease>,
    pub(super) subject: OwnedLogContext,
    pub(super) after: AfterResponse,
}

/// What to do once a response is delivered.
#[derive(Clone, Copy)]
pub(super) struct AfterResponse {
    /// Why the connection is closed, if it is not kept.
    pub(super) reason: Close,
    /// How long it may be idle, if it is.
    pub(super) idle: Duration,
    /// The visitor may still be sending.
    pub(super) unread: bool,
}

impl Session {
    /// Answers a request of a site of whose body nothing was read.
    pub(super) fn decline(
        &mut self,
        pending: &PendingRequest,
        page: Response,
        worker: &mut Worker,
    ) -> SessionStep {
        let unread = pending.request.head.has_body();
        self.answer(pending, page, !unread, worker)
    }

    /// Answers a request of a site. `is_read`: nothing of the request is left to be read.
    pub(super) fn answer(
        &mut self,
        pending: &PendingRequest,
        response: Response,
        is_read: bool,
        worker: &mut Worker,
    ) -> SessionStep {
        let keepalive = pending.site().settings.keepalive;
        let after = AfterResponse {
            reason: Close::Complete,
            idle: keepalive.unwrap_or_default(),
            unread: !is_read,
        };
        let keep = keepalive.is_some() && is_read;
        self.deliver(&LogContext::pending(pending), response, keep, after, worker)
    }

    /// Writes a response and counts it. `keep`: the connection may be kept for our part.
    pub(super) fn deliver(
        &mut self,
        about: &LogContext<'_>,
        response: Response,
        keep: bool,
        after: AfterResponse,
        worker: &mut Worker,
    ) -> SessionStep {
        let Response {
            mut head,
            body,
            trace,
        } = response;
        // Before the visitor can know of it.
        self.shared.stats.answered(head.status);
        let timeouts = about
            .site()
            .map_or(&about.snapshot.config.timeouts, |site| {
                &site.settings.timeouts
            });
        let shared = &self.shared;
        let room = || shared.room(about.snapshot, about.site, &about.client);
        let (_, mut tools) = worker.tools(&room);
        let recipient = Recipient {
            method: about.head.map(|head| &head.method),
            version: about.head.map(|head| head.version),
            keep: keep && about.head.is_some_and(|head| head.persistent) && !shared.is_draining(),
            date: Some(tools.date),
            patience: timeouts.write,
        };
        let payload = match (about.site(), about.head) {
            (Some(site), Some(request)) => compress::own(shared, site, request, &mut head, body),
            _ => Payload::Body(body),
        };
        let mut delivery = Delivery::new(
            &head,
            payload,
            &recipient,
            &mut self.pending_output,
            tools.out,
        );
        match delivery.flush(&mut self.conn, &mut tools) {
            Progress::Done(delivered) => {
                about.log_end(head.status, &delivered, &trace);
                self.next(delivered, after, worker)
            }
            progress => {
                let sending = SendingResponse {
                    delivery,
                    subject: about.keep(head.status, trace),
                    after,
                };
                self.go_on(sending, progress, worker)
            }
        }
    }

    /// There may be room for more of a response.
    pub(super) fn go_on_sending(
        &mut self,
        mut sending: SendingResponse,
        worker: &mut Worker,
    ) -> SessionStep {
        self.expired = false;
        let SendingResponse {
            delivery, subject, ..
        } = &mut sending;
        let room = || {
            self.shared
                .room(&subject.snapshot, subject.site, &subject.client)
        };
        let (_, mut tools) = worker.tools(&room);
        let progress = delivery.flush(&mut self.conn, &mut tools);
        self.go_on(sending, progress, worker)
    }

    fn go_on(
        &mut self,
        sending: SendingResponse,
        progress: Progress,
        worker: &Worker,
    ) -> SessionStep {
        match progress {
            Progress::Done(delivered) => {
                Self::log_subject(&sending.subject, &delivered);
                self.next(delivered, sending.after, worker)
            }
            Progress::Blocked(interests) => {
                SessionStep::Wait(State::Sending(Box::new(sending)), interests)
            }
            Progress::Yield | Progress::Relayed => {
                SessionStep::Yield(State::Sending(Box::new(sending)))
            }
        }
    }

    /// The next request, or the close.
    pub(super) fn next(
        &mut self,
        delivered: Delivered,
        after: AfterResponse,
        worker: &Worker,
    ) -> SessionStep {
        self.answered = self.answered.saturating_add(1);
        self.expired = false;
        self.request_bytes = 0;
        self.uncount_request();
        let now = Instant::now();
        if delivered.keep {
            let deadline = now + after.idle;
            let state = State::idle(deadline);
            // Looking for a next request that is rarely there would cost a system call each time.
            return match worker.input.is_empty() && self.unread == Unread::Nothing {
                true => SessionStep::Wait(state, Interests::time(deadline)),
                false => SessionStep::Go(state),
            };
        }
        if delivered.ended != Close::Complete {
            return SessionStep::Close(delivered.ended);
        }
        self.reason = match self.shared.is_draining() && after.reason == Close::Complete {
            true => Close::Draining,
            false => after.reason,
        };
        let is_heard_out = !after.unread && worker.input.is_empty();
        // A socket that is closed with something unread in it is reset (RFC 9112 9.6), and what the visitor has not got
        // of its response yet is lost.
        if is_heard_out && self.conn.stream().pending() != Pending::Bytes {
            return SessionStep::Close(self.reason);
        }
        self.conn.finish_writing();
        SessionStep::Go(State::Linger {
            quiet: now + LINGER,
            deadline: now + LONGEST_LINGER,
        })
    }

    /// Writes the line of a response that is over.
    pub(super) fn log_subject(subject: &OwnedLogContext, delivered: &Delivered) {
        LogContext::of(subject).log_end(subject.status, delivered, &subject.trace);
    }
}

impl AfterResponse {
    /// A refusal: what the visitor still sends is of no use.
    pub(super) const fn close(reason: Close) -> Self {
        Self {
            reason,
            idle: Duration::ZERO,
            unread: true,
        }
    }
}

/// How long a visitor may send nothing after its last response before its connection is closed, and how long it may go on
/// sending. A program that sends a large body reads the response when it is done with that, or finds the connection reset.
pub(super) const LINGER: Duration = Duration::from_secs(1);
const LONGEST_LINGER: Duration = Duration::from_secs(5);
