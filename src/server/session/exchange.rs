//! Drives the exchange of a request with a backend (`State::Exchange`).

use std::sync::Arc;

use super::connection::Session;
use super::log_context::LogContext;
use super::state::{AfterResponse, SessionStep, State};
use crate::backend::lease::Lease;
use crate::relay::drain::Drain;
use crate::relay::parking::Unread;
use crate::relay::upload::StreamingUpload;
use crate::relay::{ClientSide, Exchange, Outcome, RelayError, Step};
use crate::server::pending::PendingRequest;
use crate::server::scratch::Scratch;
use crate::stats::Close;

impl Session {
    /// Begins the exchange of a request, whose body is complete or is passed on as it arrives.
    pub(super) fn begin_exchange(
        &mut self,
        pending: PendingRequest,
        upload: Option<Box<StreamingUpload>>,
        scratch: &mut Scratch,
    ) -> SessionStep {
        // The end of the client's side may have come right after the request; the poller does not report it again.
        self.parking.may_be_gone = self.parking.unread == Unread::Unsure;
        let since = pending.since;
        self.advance_exchange(Box::new(Exchange::new(pending, upload, since)), scratch)
    }

    /// Advances an exchange.
    pub(super) fn advance_exchange(
        &mut self,
        mut exchange: Box<Exchange<PendingRequest>>,
        scratch: &mut Scratch,
    ) -> SessionStep {
        self.expired = false;
        let snapshot = Arc::clone(&exchange.handler.snapshot);
        let (site, client) = (exchange.handler.site, exchange.handler.request.client);
        let room = || self.shared.room(&snapshot, Some(site), &client);
        let (input, mut tools) = scratch.tools(&room);
        let mut client = ClientSide {
            conn: &mut self.conn,
            input,
            pending_output: &mut self.pending_output,
            has_event: self.parking.may_be_gone,
        };
        let step = exchange.advance(&mut client, &mut tools);
        self.parking.may_be_gone = client.has_event;
        if let Some(upload) = &exchange.upload {
            exchange.handler.body_bytes = upload.length();
            // The upload reads the socket without updating `unread`.
            self.parking.unread = Unread::Unsure;
        }
        match step {
            Step::Blocked(interests) => SessionStep::Wait(State::Exchange(exchange), interests),
            Step::Yield => SessionStep::Yield(State::Exchange(exchange)),
            Step::Done(outcome) => self.end_exchange(exchange, outcome, scratch),
        }
    }

    /// Handles the outcome of an exchange.
    pub(super) fn end_exchange(
        &mut self,
        mut exchange: Box<Exchange<PendingRequest>>,
        outcome: Outcome<Lease>,
        scratch: &mut Scratch,
    ) -> SessionStep {
        let is_read = exchange.is_read();
        let trace = std::mem::take(&mut exchange.trace);
        let pending = &mut exchange.handler;
        match outcome {
            Outcome::Delivered(delivered, drain) => {
                let context = LogContext::of_request(pending);
                context.log_response(exchange.status, &delivered, &trace);
                let after = AfterResponse {
                    reason: Close::Complete,
                    idle: pending.site().settings.keepalive.unwrap_or_default(),
                    unread: !is_read,
                };
                self.add_drain(drain);
                self.end_response(delivered, after, scratch)
            }
            Outcome::Switched(switched) => {
                self.begin_tunnel(exchange.handler, *switched, trace, scratch)
            }
            Outcome::Failed(RelayError::Upload(error)) => {
                self.refuse_upload(pending, error, trace, scratch)
            }
            Outcome::Failed(error) => {
                let response = pending.failed(error, trace);
                self.respond(pending, response, is_read, scratch)
            }
            Outcome::Gone(drain) => {
                self.add_drain(drain);
                self.client_gone(pending, trace)
            }
        }
    }

    /// Reads the rest of a backend's response for a moment although the client is gone, so that the backend stays
    /// usable.
    pub(super) fn add_drain(&self, drain: Option<Drain<Lease>>) {
        if let Some(drain) = drain {
            self.shared.drainer.add(drain);
        }
    }
}
