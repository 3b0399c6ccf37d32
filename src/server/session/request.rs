//! Decides where a request goes, once its head was read.

use std::time::Instant;

use super::connection::Session;
use super::log_context::LogContext;
use super::state::{AfterResponse, SessionStep};
use crate::config::RequestIds;
use crate::exchange::{ClientAddress, Request, RequestBody};
use crate::http::head::RequestHead;
use crate::http::request_id::RequestId;
use crate::server::pending::PendingRequest;
use crate::server::permission::Permission;
use crate::server::route::{Route, route};
use crate::server::routes::RoutedTo;
use crate::server::scratch::Scratch;
use crate::server::shared::SnapshotRef;
use crate::server::snapshot::Site;
use crate::server::{files, forwarding, identity, pages, redirects};
use crate::stats::Close;

impl Session {
    /// Takes a complete head of `length` bytes and decides where the request goes, before its body is read.
    pub(super) fn begin_request(
        &mut self,
        head: RequestHead,
        length: usize,
        snapshot: SnapshotRef,
        scratch: &mut Scratch,
    ) -> SessionStep {
        let received = Instant::now();
        let client = match snapshot.trusts(&self.peer) {
            true => forwarding::client(self.peer, &head.headers, &snapshot),
            false => ClientAddress::direct(self.peer),
        };
        let mut id = request_id(&client, &head);
        let is_admitted = snapshot.permissions.admits(client.ip());
        let challenge = self.shared.challenges.response(head.target.path());
        let own = match (challenge, route(&snapshot, &head)) {
            (Some(text), _) => Err(pages::challenge(text)),
            _ if self.only_challenges => {
                log::debug!("client {client} closed: {REFUSED}");
                return SessionStep::Close(Close::Denied);
            }
            (None, Route::Health | Route::NotFound) if !is_admitted => {
                log::debug!(
                    request_id:% = id;
                    "403 for {client}: {} {}: refused by allow or deny",
                    head.method.as_str(),
                    head.target.as_str()
                );
                Err(pages::page(403, NOT_ALLOWED, Some(&head)))
            }
            (None, Route::Site(site)) => Ok(site),
            (None, Route::Health) => {
                let query = head.target.query();
                let name = query.and_then(|query| query.strip_prefix("site="));
                let site = name.map(|name| snapshot.called(name));
                Err(match site.map(|site| site.map(Site::is_connected)) {
                    None | Some(Some(true)) => {
                        pages::health(&self.shared.stats, client.ip(), &snapshot.switched())
                    }
                    Some(Some(false)) => pages::page(503, NOT_CONNECTED, Some(&head)),
                    Some(None) => pages::page(404, "There is no such site here.", Some(&head)),
                })
            }
            (None, Route::NotFound) => {
                Err(match self.over_rate(&client, None, &snapshot, received) {
                    None => pages::page(404, "There is no such site here.", Some(&head)),
                    Some(wait) => {
                        log::debug!(
                            request_id:% = id;
                            "429 for {client}: {} {}: rate_limit reached",
                            head.method.as_str(),
                            head.target.as_str()
                        );
                        pages::retry_later(pages::page(429, TOO_FAST, Some(&head)), wait)
                    }
                })
            }
        };
        let unread = head.has_body();
        let site = match own {
            Ok(site) => site,
            Err(response) => {
                let context = LogContext {
                    id: &id,
                    ..LogContext::request(client, &head, received, None, &snapshot)
                };
                let after = AfterResponse {
                    reason: Close::Complete,
                    idle: snapshot.config.timeouts.idle,
                    unread,
                };
                let is_kept = !unread && !self.only_challenges;
                return self.deliver(&context, response, is_kept, after, scratch);
            }
        };
        if snapshot.sites[site].settings.request_id == RequestIds::None {
            id = RequestId::None;
        }
        if !self.charge_request(PendingRequest::memory(length)) {
            let context = LogContext {
                id: &id,
                ended: Some(Close::Overload),
                ..LogContext::request(client, &head, received, Some(site), &snapshot)
            };
            return self.refuse_overload(&context, scratch);
        }
        let needs_local = snapshot.sends_proxy || snapshot.sites[site].settings.fastcgi.is_some();
        let local = match needs_local {
            true => self.local(),
            false => None,
        };
        let request = Request {
            head,
            local,
            body: RequestBody::Empty,
            client,
            secure: self.conn.is_secure(),
            received,
            user: None,
            identity: None,
            id,
        };
        let mut pending = PendingRequest::new(request, snapshot, site);
        let permission = match is_admitted {
            true => pending.permission(),
            false => Permission::Denied,
        };
        match permission {
            Permission::Granted => {}
            Permission::Denied => return self.refuse_denied(&pending, scratch),
            Permission::Unclear => return self.refuse_unclear(&pending, scratch),
        }
        if let Some(wait) = self.over_rate(&client, Some(site), &pending.snapshot, received) {
            return self.refuse_rate(&pending, wait, scratch);
        }
        pending.admit_ambiguous();
        if !self.count_request(&pending) {
            return self.refuse_too_many(&pending, scratch);
        }
        let config = &pending.snapshot.config;
        if let Some(page) = redirects::respond(pending.site(), config, &pending.request) {
            return self.respond_before_body(&pending, page, scratch);
        }
        match identity::check(&self.conn, pending.site(), &mut self.identity) {
            Ok(identity) => pending.request.identity = identity,
            Err(error) => return self.refuse_identity(&pending, &error, scratch),
        }
        let site = pending.site();
        if !site.fields.is_empty()
            && let Some(response) = site.fields.preflight(&pending.request.head)
        {
            return self.respond_before_body(&pending, response, scratch);
        }
        if site.switches.is_in_maintenance() || site.pages.in_maintenance(received) {
            let page = site.pages.maintenance_page(&pending.request.head);
            return self.respond_before_body(&pending, page, scratch);
        }
        match site.guards.is_empty() {
            true => self.serve(pending, scratch),
            false => self.authorise(pending, scratch),
        }
    }

    /// Serves a request that may go on: with a file if there is one, otherwise by a backend once its body is read.
    pub(super) fn serve(
        &mut self,
        mut pending: PendingRequest,
        scratch: &mut Scratch,
    ) -> SessionStep {
        if !pending.site().routes.is_empty() {
            match pending.site().routes.choose(&pending.request.head.target) {
                RoutedTo::Unclear => return self.refuse_unclear(&pending, scratch),
                RoutedTo::Route(route, target) => {
                    pending.follow(route, target);
                    return self.serve_route(pending, scratch);
                }
                RoutedTo::Site => {}
            }
        }
        if let Some(response) = files::respond(pending.site(), &pending.request, pending.since) {
            if response.head.status == 405 {
                self.log_refused(&pending, log::Level::Info, 405, "there are only files here");
            }
            return self.respond_before_body(&pending, response, scratch);
        }
        if pending.request.head.max_forwards == Some(0) {
            return self.respond_before_body(&pending, pages::options(), scratch);
        }
        let site = pending.site();
        if !site.routes.is_empty() && !site.has_backends() {
            let page = site.page(404, NO_ROUTE, Some(&pending.request.head));
            return self.respond_before_body(&pending, page, scratch);
        }
        if pending.site().settings.fastcgi.is_some() {
            if pending.request.head.target.is_asterisk() {
                return self.respond_before_body(&pending, pages::options(), scratch);
            }
            match files::script(pending.site(), &pending.request, pending.since) {
                Ok(script) => pending.run(script),
                Err(response) => return self.respond_before_body(&pending, *response, scratch),
            }
        }
        self.forward(pending, scratch)
    }

    /// Serves a request by the backends of a route.
    fn serve_route(&mut self, pending: PendingRequest, scratch: &mut Scratch) -> SessionStep {
        if pending.supplier().switches.is_in_maintenance() {
            let pages = &pending.site().pages;
            let page = pages.maintenance_page(&pending.request.head);
            return self.respond_before_body(&pending, page, scratch);
        }
        if pending.request.head.max_forwards == Some(0) {
            return self.respond_before_body(&pending, pages::options(), scratch);
        }
        self.forward(pending, scratch)
    }

    /// Reads the body of a request that is for a backend, if it has one, and forwards it.
    fn forward(&mut self, pending: PendingRequest, scratch: &mut Scratch) -> SessionStep {
        if !pending.request.head.has_body() {
            return self.begin_exchange(pending, None, scratch);
        }
        self.begin_body(pending, scratch)
    }
}

/// The id of a request: that which a trusted proxy has given it, or a new one. An id that a client has chosen might be
/// that of another request.
fn request_id(client: &ClientAddress, head: &RequestHead) -> RequestId {
    let received = client.trusted.then(|| RequestId::received(&head.headers));
    received.flatten().unwrap_or_else(RequestId::new)
}

/// The response to a client that has sent too many requests in too short a time.
pub(super) const TOO_FAST: &str = "Too many requests from this address. Please try again later.";

/// Why a connection is closed that is for challenges only.
pub(super) const REFUSED: &str = "refused by allow or deny";

/// The response to a request for a path that no route has.
const NO_ROUTE: &str = "There is nothing at this path.";

/// The text for a health check of a site without backends.
const NOT_CONNECTED: &str = "No application process is connected. Please try again.";

/// The response to a client that is not allowed.
pub(super) const NOT_ALLOWED: &str = "Your address is not allowed here.";
