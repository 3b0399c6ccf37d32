//! Refuses requests, and ends those that get no response.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use super::connection::Session;
use super::log_context::LogContext;
use super::request::{NOT_ALLOWED, TOO_FAST};
use super::state::{AfterResponse, SessionStep, State};
use crate::config::size_text;
use crate::exchange::{Response, Trace, UploadError};
use crate::http::head::host_of_refused;
use crate::http::request_id::RequestId;
use crate::process;
use crate::relay::Exchange;
use crate::relay::delivery::Delivered;
use crate::server::body::CollectError;

use crate::server::failures::reason_for;
use crate::server::identity::IdentityError;
use crate::server::pages;
use crate::server::pending::PendingRequest;
use crate::server::scratch::Scratch;
use crate::server::shared::SnapshotRef;
use crate::server::snapshot::Snapshot;
use crate::stats::Close;

impl Session {
    /// Refuses what could not be read as a request. `begun`: when it began to arrive.
    pub(super) fn refuse_unreadable(
        &mut self,
        status: u16,
        why: &str,
        begun: Option<Instant>,
        snapshot: &SnapshotRef,
        scratch: &mut Scratch,
    ) -> SessionStep {
        if self.only_challenges {
            return SessionStep::Close(Close::Denied);
        }
        let id = RequestId::new();
        self.log_unreadable(status, why, &id, snapshot, scratch.input.data());
        let reason = reason_for(status);
        let context = LogContext {
            id: &id,
            ..LogContext::unreadable(self.peer, snapshot, begun, reason)
        };
        let detail = format!("The request was refused: {why}.");
        let page = pages::page(status, &detail, None);
        self.deliver(&context, page, false, AfterResponse::close(reason), scratch)
    }

    /// Logs that an unreadable request was refused: to the log of the site that it asks for, if that can be read.
    fn log_unreadable(
        &self,
        status: u16,
        why: &str,
        id: &RequestId,
        snapshot: &Snapshot,
        head: &[u8],
    ) {
        let peer = self.peer;
        let Some(host) = host_of_refused(head) else {
            log::info!(request_id:% = id; "{status} for {peer}: {why}");
            return;
        };
        match snapshot.site(host.name()).or(snapshot.default) {
            Some(site) => {
                let site = &snapshot.sites[site];
                let name = &site.settings.name;
                log::info!(
                    target: &site.log,
                    request_id:% = id;
                    "{status} for {peer}: site {name}: {why}"
                );
            }
            None => log::info!(
                request_id:% = id;
                "{status} for {peer}: host {}: {why}", host.as_str()
            ),
        }
    }

    /// Logs that a request was refused.
    pub(super) fn log_refused(
        &self,
        pending: &PendingRequest,
        level: log::Level,
        status: u16,
        why: &str,
    ) {
        let name = &pending.site_or_route().settings.name;
        let head = &pending.request.head;
        log::log!(
            target: &pending.site().log,
            level,
            request_id:% = pending.request.id;
            "{status} for {}: site {name}: {} {}: {why}",
            pending.request.client, head.method.as_str(), head.target.as_str()
        );
    }

    /// Refuses a request because `limits.memory` is used up, and closes the connection, which frees some memory.
    pub(super) fn refuse_overload(
        &mut self,
        context: &LogContext<'_>,
        scratch: &mut Scratch,
    ) -> SessionStep {
        let reason = Close::Overload;
        let (Some(site), Some(head)) = (context.site(), context.head) else {
            return SessionStep::Close(reason);
        };
        log::warn!(
            target: &site.log,
            request_id:% = context.id;
            "503 {} {} from {}: site {}: limits.memory reached",
            head.method.as_str(), head.target.as_str(), context.client, site.settings.name
        );
        let why = "Too many requests are being served already. Please try again.";
        let page = site.page(503, why, Some(head));
        let after = AfterResponse {
            unread: head.has_body(),
            ..AfterResponse::close(reason)
        };
        self.deliver(context, page, false, after, scratch)
    }

    /// Refuses a request because of the address of its client (`allow`, `deny`).
    pub(super) fn refuse_denied(
        &mut self,
        pending: &PendingRequest,
        scratch: &mut Scratch,
    ) -> SessionStep {
        self.log_refused(pending, log::Level::Debug, 403, "refused by allow or deny");
        let page = pending
            .site()
            .page(403, NOT_ALLOWED, Some(&pending.request.head));
        self.respond_before_body(pending, page, scratch)
    }

    /// Refuses a request because of the certificate of its client (`client_ca`).
    pub(super) fn refuse_identity(
        &mut self,
        pending: &PendingRequest,
        error: &IdentityError,
        scratch: &mut Scratch,
    ) -> SessionStep {
        let (status, why, detail) = match error {
            // RFC 9110 15.5.20: browsers try again on another connection.
            IdentityError::Misdirected => (
                421,
                "client_ca: the connection is for another host name",
                "This connection is for another host name.",
            ),
            IdentityError::Missing => (
                403,
                "client_ca: no client certificate",
                "This site needs HTTPS with a client certificate.",
            ),
        };
        self.log_refused(pending, log::Level::Info, status, why);
        let page = pending
            .site()
            .page(status, detail, Some(&pending.request.head));
        self.respond_before_body(pending, page, scratch)
    }

    /// Refuses a request because its client has sent too many; it may send the next one after this time.
    pub(super) fn refuse_rate(
        &mut self,
        pending: &PendingRequest,
        wait: Duration,
        scratch: &mut Scratch,
    ) -> SessionStep {
        self.log_refused(pending, log::Level::Debug, 429, "rate_limit reached");
        let page = pending
            .site()
            .page(429, TOO_FAST, Some(&pending.request.head));
        self.respond_before_body(pending, pages::retry_later(page, wait), scratch)
    }

    /// Refuses a request because it is unclear which rules its path has.
    pub(super) fn refuse_unclear(
        &mut self,
        pending: &PendingRequest,
        scratch: &mut Scratch,
    ) -> SessionStep {
        self.log_refused(pending, log::Level::Info, 400, "a .. in its path");
        let why = "The request was refused: a .. in its path.";
        let page = pending.site().page(400, why, Some(&pending.request.head));
        self.respond_before_body(pending, page, scratch)
    }

    /// Refuses a request because its address has too many requests under way.
    pub(super) fn refuse_too_many(
        &mut self,
        pending: &PendingRequest,
        scratch: &mut Scratch,
    ) -> SessionStep {
        let why = "limits.connections_per_client reached";
        self.log_refused(pending, log::Level::Info, 429, why);
        let why = "Too many requests from this address are being served. Please try again.";
        let page = pending.site().page(429, why, Some(&pending.request.head));
        self.respond_before_body(pending, page, scratch)
    }

    /// Refuses a request because of its body.
    pub(super) fn refuse_body(
        &mut self,
        pending: &PendingRequest,
        fault: &CollectError,
        trace: Trace,
        scratch: &mut Scratch,
    ) -> SessionStep {
        let head = &pending.request.head;
        let most = size_text(pending.site().settings.limits.body);
        let spool = size_text(pending.snapshot.config.limits.spool);
        let (status, why) = match fault {
            CollectError::TooLarge => (
                413,
                Cow::Owned(format!("the body is over the limit: limits.body ({most})")),
            ),
            CollectError::Bad(what) => (400, Cow::Borrowed(*what)),
            CollectError::TooLargeToKeep(most) => (
                413,
                Cow::Owned(format!(
                    "the body has more than {most} bytes, the most that one client may store: limits.spool ({spool})"
                )),
            ),
            CollectError::NoRoomForClient => (
                503,
                Cow::Owned(format!(
                    "other requests from this address use all that it may store: limits.spool ({spool})"
                )),
            ),
            CollectError::NoRoom => (
                503,
                Cow::Owned(format!(
                    "there is no room to store the body now: limits.spool ({spool})"
                )),
            ),
            CollectError::Disk(error) => {
                let directory = pending.snapshot.config.temporary_directory.display();
                log::error!(
                    target: &pending.site().log,
                    request_id:% = pending.request.id;
                    "temporary_directory {directory}: {}", process::reason(error)
                );
                (500, Cow::Borrowed("the body could not be stored"))
            }
        };
        // The operator may want to change these limits; the client did nothing wrong.
        let level = match status {
            503 => log::Level::Warn,
            _ => log::Level::Info,
        };
        self.log_refused(pending, level, status, &why);
        let detail = format!("The request was refused: {why}.");
        let page = Response {
            trace,
            ..pending.site().page(status, &detail, Some(head))
        };
        self.respond_and_close(pending, page, reason_for(status), scratch)
    }

    /// Refuses a request because of its streamed body, or ends it if the client has left.
    pub(super) fn refuse_upload(
        &mut self,
        pending: &PendingRequest,
        error: UploadError,
        trace: Trace,
        scratch: &mut Scratch,
    ) -> SessionStep {
        match error {
            UploadError::TooLarge => {
                self.refuse_body(pending, &CollectError::TooLarge, trace, scratch)
            }
            UploadError::Bad(what) => {
                self.refuse_body(pending, &CollectError::Bad(what), trace, scratch)
            }
            UploadError::TimedOut => self.refuse_slow(pending, Close::BodyTimeout, trace, scratch),
            UploadError::TooSlow => self.refuse_slow(pending, Close::BodySlow, trace, scratch),
            UploadError::Gone => self.client_gone(pending, trace),
        }
    }

    /// Refuses a request because its body does not come, or too slowly.
    pub(super) fn refuse_slow(
        &mut self,
        pending: &PendingRequest,
        reason: Close,
        trace: Trace,
        scratch: &mut Scratch,
    ) -> SessionStep {
        let pause = pending.site().settings.timeouts.body;
        let fault = match reason {
            Close::BodySlow => "the body came too slowly".to_owned(),
            _ => format!("nothing more of the body came in {pause:?}"),
        };
        self.log_refused(pending, log::Level::Info, 408, &fault);
        let why = "The body of the request did not arrive in time.";
        let page = Response {
            trace,
            ..pending.site().page(408, why, Some(&pending.request.head))
        };
        self.respond_and_close(pending, page, reason, scratch)
    }

    /// Responds to a request that was not read to its end, and closes the connection.
    pub(super) fn respond_and_close(
        &mut self,
        pending: &PendingRequest,
        page: Response,
        reason: Close,
        scratch: &mut Scratch,
    ) -> SessionStep {
        let context = LogContext {
            ended: Some(reason),
            ..LogContext::of_request(pending)
        };
        self.deliver(&context, page, false, AfterResponse::close(reason), scratch)
    }

    /// Ends a session that is dropped with a request under way: closes its backend and writes its line in the access
    /// log.
    pub(super) fn log_unfinished(&mut self) {
        let reason = self.reason;
        let mut trace = Trace::default();
        let pending = match std::mem::replace(&mut self.state, State::Running) {
            State::Running | State::ProxyHeader(_) | State::Head(_) | State::Linger { .. } => {
                return;
            }
            State::Auth(auth) => auth.pending,
            State::Body(collecting) => collecting.pending,
            State::Authorised(pending) => *pending,
            State::Exchange(mut exchange) => {
                trace = exchange.trace_so_far();
                let delivered = exchange.cut(&mut self.conn, reason);
                let Exchange {
                    handler: host,
                    status,
                    ..
                } = *exchange;
                if let Some(delivered) = delivered {
                    return LogContext::of_request(&host).log_response(status, &delivered, &trace);
                }
                host
            }
            State::Sending(mut sending) => {
                let delivered = sending.delivery.cut(&mut self.conn, reason);
                return Self::log_response(&sending.log_context, &delivered);
            }
            State::Tunnel(tunnel) => {
                let delivered = Delivered::failed(0, reason);
                return Self::log_response(&tunnel.log_context, &delivered);
            }
        };
        let trace = trace.unanswered();
        LogContext::of_request(&pending).finish(503, 0, &trace, reason);
    }

    /// Ends a request whose client left before the response.
    pub(super) fn client_gone(&self, pending: &PendingRequest, trace: Trace) -> SessionStep {
        let (context, trace) = (LogContext::of_request(pending), trace.unanswered());
        context.finish(CLIENT_GONE, 0, &trace, Close::ClientGone);
        SessionStep::Close(Close::ClientGone)
    }
}

/// The status that nginx logs if the client has left before the response.
const CLIENT_GONE: u16 = 499;
