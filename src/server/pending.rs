//! A request of a site on its way to a backend: what [`relay`](crate::relay) needs from the server.
//!
//! Runs on a worker.

use std::borrow::Cow;
use std::fmt::Write;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::admission::TunnelPermit;
use super::compress;
use super::files;
use super::forwarding::{self, QueueTime};
use super::permission::Permission;
use super::shared::SnapshotRef;
use super::snapshot::{Site, Snapshot};
use super::sticky::sticky_id;
use crate::backend::lease::{self, Acquired, BackendSelector, Lease, LeaseError};
use crate::backend::shortage::Shortage;
use crate::backend::waiting::CountedWait;
use crate::backend::{directory, pool};
use crate::config::Limits;
use crate::exchange::{Body, Request, RequestBody, Response, ResponseSource, Trace};
use crate::http::head::{HeadLimits, RequestHead, ResponseHead, is_confusable};
use crate::net::conn::Conn;
use crate::relay::delivery::{Delivery, Payload, Recipient};
use crate::relay::disconnect::{self, DisconnectDetector};
use crate::relay::download::Download;
use crate::relay::drain::Drain;
use crate::relay::{
    ClientSide, Exchange, ExchangeHandler, FailedAttempt, RelayError, Responding, Rules, Tools,
};
use crate::stats::{self, Close, Party};

/// A request on its way to a backend.
#[derive(Debug)]
pub(crate) struct PendingRequest {
    pub(crate) request: Request,
    pub(crate) snapshot: SnapshotRef,
    /// Index of its site.
    pub(crate) site: usize,
    /// Index of the site whose backends serve it: the same, or its backup.
    pub(crate) supplier_index: usize,
    /// Since when it has waited for the next step.
    pub(crate) since: Instant,
    /// Detects whether the client is still there.
    pub(crate) disconnect: DisconnectDetector,
    /// The permit for an upgraded connection, if the request asks for one.
    pub(crate) permit: Option<TunnelPermit>,
    /// Counts it among the requests in the queue, once it may wait.
    wait: Option<CountedWait>,
    /// Time-outs and limits of its exchange.
    rules: Rules,
}

impl PendingRequest {
    pub(crate) fn new(request: Request, snapshot: SnapshotRef, site: usize) -> Self {
        let received = request.received;
        let settings = &snapshot.sites[site].settings;
        let rules = Rules {
            first_byte: settings.timeouts.first_byte,
            backend: settings.timeouts.backend,
            unframed_gap: settings.unframed_gap,
            limits: head_limits(&settings.limits),
            gathered: 0,
        };
        Self {
            request,
            snapshot,
            site,
            supplier_index: site,
            since: received,
            disconnect: DisconnectDetector::new(received),
            permit: None,
            wait: None,
            rules,
        }
    }

    /// Whether its client may send it, by the rules of its site.
    pub(crate) fn permission(&self) -> Permission {
        let Request { client, head, .. } = &self.request;
        let permissions = &self.site().permissions;
        match permissions.is_empty() {
            true => Permission::Granted,
            false => permissions.decide(client.ip(), &head.target),
        }
    }

    /// Moves the fields with ambiguous names to the others, as far as the site allows (`underscores`), and logs the
    /// first one that is dropped.
    pub(crate) fn admit_ambiguous(&mut self) {
        if self.request.head.ambiguous.is_empty() {
            return;
        }
        let site = &self.snapshot.sites[self.site];
        let of_proxies = &self.snapshot.config.client_address_field;
        let dropped = self.request.head.admit_ambiguous(|name| {
            (site.settings.underscores || !name.contains('_')) && !is_confusable(name, of_proxies)
        });
        if let Some((name, _)) = dropped.iter().next() {
            let more = match dropped.len() - 1 {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            log::debug!(
                target: &site.log,
                "site {}: {}: field {name:.100} is left out{more}: applications may confuse it with another field (underscores)",
                site.settings.name,
                self.request.client,
            );
        }
    }

    /// Bytes of memory that are charged for a request with a head of this length.
    pub(crate) const fn memory(head: usize) -> u64 {
        (size_of::<Exchange<Self>>() + head) as u64
    }

    /// How long it has waited before its exchange.
    pub(crate) fn waited(&self) -> Trace {
        Trace::waited(self.since.elapsed())
    }

    pub(crate) fn site(&self) -> &Site {
        &self.snapshot.sites[self.site]
    }

    /// The site whose backends serve the request.
    fn supplier(&self) -> &Site {
        &self.snapshot.sites[self.supplier_index]
    }

    /// Whether other requests wait for a backend of the same site.
    pub(crate) fn keeps_others_waiting(&self) -> bool {
        self.supplier().waiting.count() > 0
    }

    /// Logs a request that no backend has served, and returns the response for it.
    pub(crate) fn failed(&self, error: RelayError, trace: Trace) -> Response {
        let site = self.site();
        let (status, mut detail) = page_for(error);
        let head = &self.request.head;
        if error == RelayError::NoBackend
            && let Some(shortage) = self.shortage(site)
        {
            detail = shortage.page();
        }
        log::warn!(
            target: &site.log,
            "{status} {} {} from {}: site {}: backend {}: {}",
            head.method.as_str(),
            head.target.as_str(),
            self.request.client,
            site.settings.name,
            trace.origin(),
            self.reason(error),
        );
        let trace = Trace {
            source: ResponseSource::Proxy,
            failed_by: Some(failed_by(error)),
            ..trace
        };
        Response {
            trace,
            ..site.page(status, detail, Some(head))
        }
    }

    /// Why there was no response, for the log.
    fn reason(&self, error: RelayError) -> String {
        match error {
            RelayError::NoBackend => self.no_backend(),
            RelayError::Full => match self.shortage(self.supplier()) {
                Some(shortage) => format!("limits.waiting reached, {shortage}"),
                None => "limits.waiting reached".to_owned(),
            },
            RelayError::NoTunnel => "max_tunnels reached".to_owned(),
            RelayError::NoAddress => "no outgoing address for this path".to_owned(),
            RelayError::BadResponse(what) => format!("bad response: {what}"),
            RelayError::ClosedEarly => "connection closed without a response".to_owned(),
            RelayError::TooSlow => format!("no response in {:?}", self.rules.first_byte),
            RelayError::Stalled => format!("no progress in {:?}", self.rules.backend),
            RelayError::Unreachable | RelayError::LostBody | RelayError::Upload(_) => {
                "the stored body is lost".to_owned()
            }
        }
    }

    /// Which backends were not free in time: those of the site, and those of the backups that were tried.
    fn no_backend(&self) -> String {
        let mut site = self.site();
        let mut text = format!("no backend in {:?}", site.settings.timeout);
        if let Some(shortage) = self.shortage(site) {
            let _ = write!(text, ": {shortage}");
        }
        while let Some(backup) = site.backup
            && !std::ptr::eq(site, self.supplier())
        {
            site = &self.snapshot.sites[backup];
            let name = &site.settings.name;
            let _ = write!(text, "; none of backup {name}");
            if let Some(shortage) = self.shortage(site) {
                let _ = write!(text, ": {shortage}");
            }
        }
        text
    }

    /// Why a site has no backend for this request now. `None`: it has no address for the path.
    fn shortage(&self, supplier: &Site) -> Option<Shortage> {
        let path = path_for(supplier, &self.request.head);
        selector(&self.snapshot, supplier, &self.request.head, &path)
            .map(|selector| selector.shortage())
    }

    /// Warns once per site that its responses lack a length, which costs time and connections.
    fn warn_of_unframed(&self, head: &ResponseHead, download: &Download<Lease>) {
        let site = self.site();
        let unframed = !download.is_empty() && download.length().is_none() && !head.chunked;
        if unframed
            && download.is_dialled()
            && !site.unframed_reported.swap(true, Ordering::Relaxed)
        {
            log::warn!(
                target: &site.log,
                "site {}: the application sends responses without Content-Length or chunks, whose end can only be guessed; \
                 it should send a Content-Length",
                site.settings.name
            );
        }
    }
}

impl ExchangeHandler for PendingRequest {
    type Upstream = Lease;

    fn head(&self) -> &RequestHead {
        &self.request.head
    }

    fn body(&self) -> &RequestBody {
        &self.request.body
    }

    fn rules(&self) -> &Rules {
        &self.rules
    }

    fn acquire(&mut self, since: Instant, attempts: u32) -> Result<Acquired<Lease>, RelayError> {
        if self.request.head.upgrade.is_some() {
            let site = &self.snapshot.sites[self.site];
            match site.settings.max_tunnels {
                0 => self.request.head.upgrade = None,
                // It may have a permit already, from the site that had no backend.
                _ if self.permit.is_some() => {}
                _ => self.permit = site.tunnels.enter(),
            }
            if self.request.head.upgrade.is_some() && self.permit.is_none() {
                // Without the upgrade the request would mean something else; only the application may decide that.
                return Err(RelayError::NoTunnel);
            }
        }
        let retries = self.site().settings.retries;
        let once = attempts == 0 && !(retries > 0 && self.is_repeatable(0));
        let supplier = &self.snapshot.sites[self.supplier_index];
        let head = &self.request.head;
        let path = path_for(supplier, head);
        let selector =
            selector(&self.snapshot, supplier, head, &path).ok_or(RelayError::NoAddress)?;
        let acquired = lease::acquire(&selector, &mut self.wait, since, once);
        acquired.map_err(|LeaseError::Full| RelayError::Full)
    }

    fn deadline(&self, since: Instant) -> Instant {
        since + self.supplier().settings.timeout
    }

    fn fall_back(&mut self, error: RelayError) -> bool {
        let missed = matches!(
            error,
            RelayError::NoBackend | RelayError::Full | RelayError::NoAddress
        );
        match self.supplier().backup.filter(|_| missed) {
            Some(backup) => {
                self.supplier_index = backup;
                self.wait = None;
                true
            }
            None => false,
        }
    }

    fn unreachable(&mut self, _: &io::Error) -> Result<Option<Instant>, RelayError> {
        // The directory has set the server aside; wait for another one, or for its return.
        Ok(None)
    }

    fn write_head(&mut self, trace: &Trace, acquired: Instant, out: &mut Vec<u8>) {
        let queue = QueueTime {
            at: acquired,
            waited: trace.timings.queue,
        };
        let settings = &self.snapshot.sites[self.site].settings;
        let field = &self.snapshot.config.client_address_field;
        forwarding::render(&self.request, field, settings, &queue, out);
    }

    fn may_retry(&mut self, failure: &FailedAttempt<'_>) -> bool {
        log::debug!(
            "site {}: backend {}: {:?}",
            self.site().settings.name,
            failure.trace.origin(),
            failure.error
        );
        let again = failure.error == RelayError::ClosedEarly
            && (!failure.is_sent
                || failure.attempts as usize <= self.site().settings.retries
                    && self.is_repeatable(failure.head_length));
        if again {
            stats::add(&self.snapshot.shared.stats.retries);
        }
        again
    }

    fn respond(
        &mut self,
        head: ResponseHead,
        download: Download<Lease>,
        is_read: bool,
        tools: &mut Tools<'_>,
        pending_output: &mut Vec<u8>,
    ) -> Responding<Lease> {
        self.permit = None;
        self.warn_of_unframed(&head, &download);
        let mut head = head;
        let named = files::named_by_backend(&self.request, self.site(), &mut head);
        let (head, payload, source) = match named {
            // The file goes out as it is, and does not wait for the rest of the response that it replaces.
            Some(file) => {
                if let Some(drain) = Drain::of_replaced(download, tools.reply) {
                    self.snapshot.shared.drainer.add(drain);
                }
                (file.head, Payload::Body(file.body), file.trace.source)
            }
            None => {
                let gzip = compress::compress_backend(
                    &self.snapshot.shared.compressors,
                    self.site(),
                    &self.request.head,
                    &mut head,
                    &download,
                );
                let payload = match download.is_empty() {
                    true => Payload::Body(Body::Empty),
                    false => Payload::Backend(download, gzip),
                };
                (head, payload, ResponseSource::Backend)
            }
        };
        let shared = &self.snapshot.shared;
        // Count it before the client can see it.
        shared.stats.answered(head.status);
        let settings = &self.site().settings;
        let request = &self.request.head;
        let recipient = Recipient {
            method: Some(&request.method),
            version: Some(request.version),
            keep: settings.keepalive.is_some()
                && request.persistent
                && is_read
                && !shared.is_draining(),
            date: Some(tools.date),
            patience: settings.timeouts.write,
        };
        Responding {
            status: head.status,
            source,
            delivery: Delivery::new(&head, payload, &recipient, pending_output, tools.out),
        }
    }

    fn received(&mut self, client: &Conn) {
        self.disconnect = DisconnectDetector::new(Instant::now());
        // The client may have ended its side already, which is not reported again.
        self.disconnect.is_gone(client);
    }

    fn is_gone(&mut self, client: &mut ClientSide<'_>, uploads: bool) -> bool {
        match uploads {
            true => disconnect::is_gone_within_body(client),
            false => self.disconnect.is_gone(client.conn),
        }
    }
}

impl PendingRequest {
    /// Whether a request that was sent to a backend may be sent to another one (`retries` says how often): if its
    /// method is idempotent (RFC 9110 9.2.2), or if the site sets `redeployable` and head and body are within
    /// `redeployment_sizelimit`.
    fn is_repeatable(&self, head_length: usize) -> bool {
        let settings = &self.site().settings;
        let size = head_length as u64 + self.request.body.length();
        // A streamed body is gone.
        !matches!(self.request.body, RequestBody::Stream { .. })
            && (self.request.head.method.is_idempotent()
                || settings.redeployable && size <= settings.redeployment_sizelimit)
    }
}

/// The decoded path of a request, if the choice of a backend depends on it.
fn path_for<'a>(supplier: &Site, head: &'a RequestHead) -> Cow<'a, [u8]> {
    match supplier.servers {
        Some(_) => Cow::default(),
        None => head.target.decoded_path(),
    }
}

/// The backends of a site that a request may go to; `path` is that of [`path_for`]. `None`: the site has no address for
/// it.
fn selector<'a>(
    snapshot: &'a Snapshot,
    supplier: &'a Site,
    head: &RequestHead,
    path: &'a [u8],
) -> Option<BackendSelector<'a>> {
    if let Some(servers) = &supplier.servers {
        let host = head.host.as_ref();
        return Some(BackendSelector::Server(directory::ServerSelector {
            directory: servers.of(host.map(|host| host.name())),
            waiting: &supplier.waiting,
        }));
    }
    let pools = supplier.pools(path);
    if pools.is_empty() {
        return None;
    }
    Some(BackendSelector::Dialled(pool::PoolSelector {
        pools,
        keys: &supplier.keys,
        id: sticky_id(&snapshot.sticky, path),
        order: supplier.settings.order,
        waiting: &supplier.waiting,
    }))
}

/// The limits of a request's head and trailers.
pub(crate) const fn head_limits(limits: &Limits) -> HeadLimits {
    HeadLimits {
        head: limits.head,
        fields: limits.fields,
        target: limits.target,
    }
}

/// The status of the page for a failure, and its text.
const fn page_for(error: RelayError) -> (u16, &'static str) {
    match error {
        RelayError::NoBackend => (
            503,
            "No application process was free in time. Please try again.",
        ),
        RelayError::Full => (
            503,
            "Too many requests are waiting already. Please try again.",
        ),
        RelayError::NoTunnel => (
            503,
            "Too many connections are open already. Please try again.",
        ),
        RelayError::NoAddress => (503, "No application takes requests for this path."),
        RelayError::TooSlow | RelayError::Stalled => {
            (504, "The application did not respond in time.")
        }
        RelayError::ClosedEarly => (
            502,
            "The application closed the connection without a response.",
        ),
        RelayError::Unreachable => (502, "The application cannot be reached."),
        RelayError::BadResponse(_) => (502, "The application's response was not valid HTTP."),
        RelayError::LostBody | RelayError::Upload(_) => {
            (500, "The request could not be passed on.")
        }
    }
}

/// Who is the cause of a failure.
const fn failed_by(error: RelayError) -> Party {
    match error {
        RelayError::TooSlow
        | RelayError::Stalled
        | RelayError::ClosedEarly
        | RelayError::Unreachable
        | RelayError::BadResponse(_) => Party::Backend,
        RelayError::NoBackend
        | RelayError::Full
        | RelayError::NoTunnel
        | RelayError::NoAddress
        | RelayError::LostBody => Party::Proxy,
        RelayError::Upload(_) => Party::Client,
    }
}

/// The reason for which a connection is closed after one of the server's own pages with this status.
pub(crate) const fn reason_for(status: u16) -> Close {
    match status {
        408 => Close::HeadTimeout,
        413 | 414 | 431 => Close::TooLarge,
        503 => Close::Overload,
        500 => Close::Internal,
        _ => Close::BadRequest,
    }
}
