//! Sends the server's own responses, and decides what follows a response.

use std::time::Instant;

use super::connection::Session;
use super::linger::{LINGER, LONGEST_LINGER};
use super::log_context::{LogContext, OwnedLogContext};
use super::state::{AfterResponse, SendingResponse, SessionStep, State};
use crate::exchange::{Response, ResponseSource};
use crate::net::stream::Pending;
use crate::relay::Interests;
use crate::relay::delivery::{Delivered, Delivery, Payload, Progress, Recipient};
use crate::relay::parking::Unread;
use crate::server::compress;
use crate::server::fields::FieldRequest;
use crate::server::pending::PendingRequest;
use crate::server::scratch::Scratch;
use crate::stats::Close;

impl Session {
    /// Responds to a site's request whose body was not read.
    pub(super) fn respond_before_body(
        &mut self,
        pending: &PendingRequest,
        page: Response,
        scratch: &mut Scratch,
    ) -> SessionStep {
        let unread = pending.request.head.has_body();
        self.respond(pending, page, !unread, scratch)
    }

    /// Responds to a site's request. `is_read`: the request was read to its end.
    pub(super) fn respond(
        &mut self,
        pending: &PendingRequest,
        response: Response,
        is_read: bool,
        scratch: &mut Scratch,
    ) -> SessionStep {
        let keepalive = pending.site().settings.keepalive;
        let after = AfterResponse {
            reason: Close::Complete,
            idle: keepalive.unwrap_or_default(),
            unread: !is_read,
        };
        let keep = keepalive.is_some() && is_read;
        self.deliver(
            &LogContext::of_request(pending),
            response,
            keep,
            after,
            scratch,
        )
    }

    /// Writes a response and counts it. `keep`: whether the server may keep the connection.
    pub(super) fn deliver(
        &mut self,
        context: &LogContext<'_>,
        mut response: Response,
        keep: bool,
        after: AfterResponse,
        scratch: &mut Scratch,
    ) -> SessionStep {
        if let (Some(site), Some(head)) = (context.site(), context.head)
            && !site.fields.is_empty()
        {
            response.unpack();
            let request = FieldRequest {
                head,
                is_https: context.client.is_https(self.conn.is_secure(), head),
                is_file: matches!(
                    response.trace.source,
                    ResponseSource::Cache | ResponseSource::File
                ),
            };
            site.fields.apply(&request, &mut response.head);
        }
        let Response {
            mut head,
            body,
            trace,
        } = response;
        // Count it before the client can see it.
        self.shared.stats.answered(head.status);
        let timeouts = context
            .site()
            .map_or(&context.snapshot.config.timeouts, |site| {
                &site.settings.timeouts
            });
        let shared = &self.shared;
        let room = || shared.room(context.snapshot, context.site, &context.client);
        let (_, mut tools) = scratch.tools(&room);
        let recipient = Recipient {
            method: context.head.map(|head| &head.method),
            version: context.head.map(|head| head.version),
            keep: keep
                && context.head.is_some_and(|head| head.persistent)
                && !shared.is_leaving(self.conn.is_secure()),
            date: Some(tools.date),
            patience: timeouts.write,
            request_id: context.site().and_then(|site| site.shown_id(context.id)),
        };
        let payload = match (context.site(), context.head) {
            (Some(site), Some(request)) => {
                compress::compress_own(&shared.compressors, site, request, &mut head, body)
            }
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
                context.log_response(head.status, &delivered, &trace);
                self.end_response(delivered, after, scratch)
            }
            progress => {
                let sending = SendingResponse {
                    delivery,
                    log_context: context.to_owned_context(head.status, trace),
                    after,
                };
                self.after_flush(sending, progress, scratch)
            }
        }
    }

    /// Continues a response that the client takes slowly.
    pub(super) fn resume_sending(
        &mut self,
        mut sending: SendingResponse,
        scratch: &mut Scratch,
    ) -> SessionStep {
        self.expired = false;
        let SendingResponse {
            delivery,
            log_context: subject,
            ..
        } = &mut sending;
        let room = || {
            self.shared
                .room(&subject.snapshot, subject.site, &subject.client)
        };
        let (_, mut tools) = scratch.tools(&room);
        let progress = delivery.flush(&mut self.conn, &mut tools);
        self.after_flush(sending, progress, scratch)
    }

    fn after_flush(
        &mut self,
        sending: SendingResponse,
        progress: Progress,
        scratch: &Scratch,
    ) -> SessionStep {
        match progress {
            Progress::Done(delivered) => {
                Self::log_response(&sending.log_context, &delivered);
                self.end_response(delivered, sending.after, scratch)
            }
            Progress::Blocked(interests) => {
                SessionStep::Wait(State::Sending(Box::new(sending)), interests)
            }
            Progress::Yield | Progress::Relayed => {
                SessionStep::Yield(State::Sending(Box::new(sending)))
            }
        }
    }

    /// Waits for the next request, or closes the connection.
    pub(super) fn end_response(
        &mut self,
        delivered: Delivered,
        after: AfterResponse,
        scratch: &Scratch,
    ) -> SessionStep {
        self.responses = self.responses.saturating_add(1);
        self.expired = false;
        self.request_bytes = 0;
        self.uncount_request();
        let now = Instant::now();
        if delivered.keep {
            let deadline = now + after.idle;
            let state = State::idle(deadline);
            // What has arrived of the next request is for the other process.
            if scratch.input.is_empty() && self.can_move() && self.shared.successor().is_some() {
                return SessionStep::Move(state);
            }
            // Looking at once for a next request, which is rarely there, would cost a system call each time.
            return match scratch.input.is_empty() && self.parking.unread == Unread::Nothing {
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
        let is_heard_out = !after.unread && scratch.input.is_empty();
        // Closing a socket with unread bytes resets the connection (RFC 9112 9.6), and the client loses what it has not
        // read of the response.
        if is_heard_out && self.conn.stream().pending() != Pending::Bytes {
            return SessionStep::Close(self.reason);
        }
        self.conn.finish_writing();
        SessionStep::Go(State::Linger {
            quiet: now + LINGER,
            deadline: now + LONGEST_LINGER,
        })
    }

    /// Writes the access log's line for a response that is over.
    pub(super) fn log_response(subject: &OwnedLogContext, delivered: &Delivered) {
        LogContext::of(subject).log_response(subject.status, delivered, &subject.trace);
    }
}
