//! A request of a site on its way to a backend: what [`relay`](crate::relay) needs from the server.
//!
//! Runs on a worker.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::admission::TunnelPermit;
use super::compress;
use super::fields::FieldRequest;
use super::files;
use super::forwarding::{self, QueueTime};
use super::params;
use super::permission::Permission;
use super::routes::RoutedTarget;
use super::shared::SnapshotRef;
use super::snapshot::{Site, Snapshot};
use super::sticky::sticky_id;
use super::switches::InFlightGuard;
use crate::backend::lease::{self, Acquired, BackendSelector, Lease, LeaseTicket};
use crate::backend::waiting::CountedWait;
use crate::backend::{directory, pool};
use crate::config::{Limits, SiteConfig};
use crate::content::scripts::Script;
use crate::exchange::{Body, Request, RequestBody, ResponseSource, Trace};
use crate::http::head::{HeadLimits, RequestHead, ResponseHead, is_confusable};
use crate::http::request_id::{RequestId, X_REQUEST_ID};
use crate::net::conn::Conn;
use crate::net::proxy_protocol::{self, ProxiedEnds};
use crate::net::stream::Peer;
use crate::relay::delivery::{Delivery, Payload, Recipient};
use crate::relay::disconnect::{self, DisconnectDetector};
use crate::relay::download::Download;
use crate::relay::drain::Drain;
use crate::relay::{
    ClientSide, Exchange, ExchangeHandler, FailedAttempt, RelayError, Responding, Rules, Tools,
};
use crate::stats;

/// A request on its way to a backend.
#[derive(Debug)]
pub(crate) struct PendingRequest {
    pub(crate) request: Request,
    pub(crate) snapshot: SnapshotRef,
    /// Index of its site.
    pub(crate) site: usize,
    /// Index of the site whose backends serve it: the same, its backup, or one of its routes.
    pub(crate) supplier_index: usize,
    /// Bytes of its body that were received so far.
    pub(crate) body_bytes: u64,
    /// Since when it has waited for the next step.
    pub(crate) since: Instant,
    /// Detects whether the client is still there.
    pub(crate) disconnect: DisconnectDetector,
    /// The permit for an upgraded connection, if the request asks for one.
    pub(crate) permit: Option<TunnelPermit>,
    /// Counts it among the requests in the queue, once it may wait.
    wait: Option<CountedWait>,
    /// The script that a FastCGI server is to run for it.
    script: Option<Box<Script>>,
    /// The target that a backend gets, if it is not that of the client.
    routed: Option<Box<RoutedTarget>>,
    /// Counts it among the requests that the backends of a site have.
    in_flight: Option<InFlightGuard>,
    /// Its wait for the end of a pause.
    pub(super) hold: Option<Hold>,
    /// How long it has waited for the end of pauses, which does not count towards `timeout`.
    paused: Duration,
    /// Why no connection with TLS could be made.
    pub(super) tls_fault: Option<Box<str>>,
    /// Time-outs and limits of its exchange.
    pub(super) rules: Rules,
}

/// The wait of a request for the end of a pause.
#[derive(Debug)]
pub(super) struct Hold {
    since: Instant,
    pub(super) longest: Duration,
}

impl PendingRequest {
    pub(crate) fn new(request: Request, snapshot: SnapshotRef, site: usize) -> Self {
        let received = request.received;
        let rules = rules_of(&snapshot.sites[site].settings);
        Self {
            request,
            snapshot,
            site,
            supplier_index: site,
            body_bytes: 0,
            since: received,
            disconnect: DisconnectDetector::new(received),
            permit: None,
            wait: None,
            script: None,
            routed: None,
            in_flight: None,
            hold: None,
            paused: Duration::ZERO,
            tls_fault: None,
            rules,
        }
    }

    /// Both ends of the client's connection; `None`: it has no addresses. If a trusted proxy names the client, its port is
    /// not known and 0.
    fn ends(&self) -> Option<ProxiedEnds> {
        let client = &self.request.client;
        let source = match (client.forwarded, client.peer) {
            (Some(ip), _) => SocketAddr::new(ip, 0),
            (None, Peer::Tcp(address)) => address,
            (None, Peer::Unix) => return None,
        };
        let destination = self.request.local?;
        Some(ProxiedEnds {
            source,
            destination,
        })
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
        if self.request.head.ambiguous.is_none() {
            return;
        }
        let site = &self.snapshot.sites[self.site];
        let of_proxies = &self.snapshot.config.client_address_field;
        let dropped = self.request.head.admit_ambiguous(|name| {
            (site.settings.underscores || !name.contains('_'))
                && site.settings.fastcgi.is_none()
                && !is_confusable(name, of_proxies)
        });
        if let Some((name, _)) = dropped.iter().next() {
            let more = match dropped.len() - 1 {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            log::debug!(
                target: &site.log,
                request_id:% = self.request.id;
                "site {}: {}: field {name:.100} is left out{more}: applications may confuse it with another field (underscores)",
                site.settings.name,
                self.request.client,
            );
        }
    }

    /// A FastCGI server is to run this script.
    pub(crate) fn run(&mut self, script: Script) {
        self.script = Some(Box::new(script));
        // It cannot switch to another protocol.
        self.request.head.upgrade = None;
    }

    /// The backends of this route of its site serve it, perhaps with another target.
    pub(crate) fn follow(&mut self, route: usize, target: Option<Box<RoutedTarget>>) {
        self.supplier_index = route;
        self.rules = rules_of(&self.supplier().settings);
        self.routed = target;
    }

    /// Bytes of memory that are charged for a request with a head of this length.
    pub(crate) const fn memory(head: usize) -> u64 {
        (size_of::<Exchange<Self>>() + head) as u64
    }

    /// How long it has waited before its exchange.
    pub(crate) fn waited(&self) -> Trace {
        Trace::waited(self.since.elapsed())
    }

    /// The id of the request, if its client is to get it (`request_id: response`).
    pub(crate) fn shown_id(&self) -> Option<&RequestId> {
        self.site().shown_id(&self.request.id)
    }

    pub(crate) fn site(&self) -> &Site {
        &self.snapshot.sites[self.site]
    }

    /// The site that messages name: its own, or the route of it that the request takes, whose name begins with that of the
    /// site.
    pub(crate) fn site_or_route(&self) -> &Site {
        let supplier = self.supplier();
        match supplier.settings.route {
            Some(_) => supplier,
            None => self.site(),
        }
    }

    /// The site whose backends serve the request.
    pub(crate) fn supplier(&self) -> &Site {
        &self.snapshot.sites[self.supplier_index]
    }

    /// Whether other requests wait for a backend of the same site.
    pub(crate) fn keeps_others_waiting(&self) -> bool {
        let supplier = self.supplier();
        supplier.waiting.count() > 0 && !supplier.switches.pause.is_on()
    }

    /// Warns once per site or route that its responses lack a length, which costs time and connections.
    fn warn_of_unframed(&self, head: &ResponseHead, download: &Download<Lease>) {
        let site = self.site_or_route();
        let unframed = !download.is_empty() && download.length().is_none() && !head.chunked;
        if unframed
            && download.is_dialled()
            && !site.unframed_reported.swap(true, Ordering::Relaxed)
        {
            log::warn!(
                target: &self.site().log,
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

    fn id(&self) -> &RequestId {
        &self.request.id
    }

    fn rules(&self) -> &Rules {
        &self.rules
    }

    fn acquire(&mut self, since: Instant, attempts: u32) -> Result<Acquired<Lease>, RelayError> {
        if let Some(hold) = self.hold.take() {
            self.paused += hold.since.elapsed();
        }
        let in_flight = InFlightGuard::enter(&self.supplier().switches);
        // That of an earlier attempt, perhaps at another site.
        self.in_flight = None;
        if let Some(paused) = self.pause(since)? {
            return Ok(paused);
        }
        if self.supplier().switches.is_drained() {
            return Err(RelayError::NoBackend);
        }
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
        let acquired = acquired.map_err(RelayError::Full)?;
        // A switch may have been changed just before the request was queued.
        let switches = &self.supplier().switches;
        let is_late = switches.pause.is_on() || switches.is_drained();
        Ok(match acquired {
            Acquired::Queued(_) if is_late => Acquired::Again,
            acquired => {
                self.in_flight = Some(in_flight);
                acquired
            }
        })
    }

    fn deadline(&self, since: Instant) -> Instant {
        match &self.hold {
            Some(hold) => hold.since + hold.longest,
            None => since + self.supplier().settings.timeout + self.paused,
        }
    }

    fn fall_back(&mut self, error: RelayError) -> bool {
        let missed = matches!(
            error,
            RelayError::NoBackend | RelayError::Full(_) | RelayError::NoAddress
        );
        // A pause is for the request as well, not only for the backends.
        let missed = missed && !self.is_held_back();
        match self.supplier().backup.filter(|_| missed) {
            Some(backup) => {
                self.supplier_index = backup;
                self.wait = None;
                self.paused = Duration::ZERO;
                true
            }
            None => false,
        }
    }

    fn unreachable(&mut self, error: &io::Error) -> Result<Option<Instant>, RelayError> {
        if error.kind() == io::ErrorKind::InvalidData {
            self.tls_fault = Some(error.to_string().into());
            return Err(RelayError::Tls(""));
        }
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
        out.clear();
        if let Some(version) = self.supplier().settings.send_proxy {
            // The connection is new, and closed after this exchange.
            proxy_protocol::write(version, self.ends(), out);
        }
        match (&self.script, &self.supplier().settings.fastcgi) {
            (Some(script), Some(fastcgi)) => {
                let mut head = Vec::with_capacity(2048);
                forwarding::render(&self.request, None, field, settings, &queue, &mut head);
                let name = settings.host().unwrap_or_default();
                params::render(&self.request, script, fastcgi, &head, name, out);
            }
            _ => {
                let routed = self.routed.as_deref();
                forwarding::render(&self.request, routed, field, settings, &queue, out);
            }
        }
    }

    fn may_retry(&mut self, failure: &FailedAttempt<'_>) -> bool {
        log::debug!(
            request_id:% = self.request.id;
            "site {}: backend {}: {:?}",
            self.site_or_route().settings.name,
            failure.trace.origin(),
            failure.error
        );
        let again = failure.error == RelayError::ClosedEarly
            && (!failure.is_sent
                || failure.attempts as usize <= self.site().settings.retries
                    && self.is_repeatable(failure.head_length));
        if again {
            if failure.is_sent {
                // It waits from the beginning.
                self.paused = Duration::ZERO;
            }
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
        let named = files::in_place_of_backend(&self.request, self.site(), &mut head);
        let (mut head, payload, source) = match named {
            // The file goes out as it is, and does not wait for the rest of the response that it replaces.
            Some(mut file) => {
                if !self.site().fields.is_empty() {
                    file.unpack();
                }
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
        if self.shown_id().is_some() {
            head.headers.remove(X_REQUEST_ID);
        }
        let site = self.site();
        if !site.fields.is_empty() {
            let request = FieldRequest {
                head: &self.request.head,
                is_https: self.request.is_https(),
                is_file: false,
            };
            site.fields.apply(&request, &mut head);
        }
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
                && !shared.is_leaving(self.request.secure),
            date: Some(tools.date),
            patience: settings.timeouts.write,
            request_id: self.shown_id(),
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
    /// Lets the request wait if its site is paused, or the site whose backends it wants.
    fn pause(&mut self, since: Instant) -> Result<Option<Acquired<Lease>>, RelayError> {
        let paused = [self.site, self.supplier_index].into_iter();
        let mut paused = paused.map(|index| &self.snapshot.sites[index]);
        let Some(site) = paused.find(|site| site.switches.pause.is_on()) else {
            return Ok(None);
        };
        if !self.snapshot.shared.can_resume() {
            // No command can end the pause any more.
            return Err(RelayError::NoBackend);
        }
        let waiting = site.waiting.enter(&mut self.wait);
        let waiting = waiting.map_err(RelayError::Full)?;
        let now = Instant::now();
        let entered = site.switches.pause.enter(since, waiting);
        let Some((ticket, longest)) = entered else {
            return Ok(None);
        };
        self.hold = Some(Hold {
            since: now,
            longest,
        });
        Ok(Some(Acquired::Queued(LeaseTicket::Paused(ticket))))
    }

    /// Whether a pause keeps the request from every backend.
    pub(super) fn is_held_back(&self) -> bool {
        let is_paused = |index: usize| self.snapshot.sites[index].switches.pause.is_on();
        self.hold.is_some() || is_paused(self.site) || is_paused(self.supplier_index)
    }

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
pub(super) fn path_for<'a>(supplier: &Site, head: &'a RequestHead) -> Cow<'a, [u8]> {
    match supplier.servers {
        Some(_) => Cow::default(),
        None => head.target.decoded_path(),
    }
}

/// The backends of a site that a request may go to; `path` is that of [`path_for`]. `None`: the site has no address for
/// it.
pub(super) fn selector<'a>(
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

/// Time-outs and limits of an exchange with the backends of a site.
const fn rules_of(settings: &SiteConfig) -> Rules {
    Rules {
        first_byte: settings.timeouts.first_byte,
        backend: settings.timeouts.backend,
        unframed_gap: settings.unframed_gap,
        limits: head_limits(&settings.limits),
        gathered: 0,
    }
}

/// The limits of a request's head and trailers.
pub(crate) const fn head_limits(limits: &Limits) -> HeadLimits {
    HeadLimits {
        head: limits.head,
        fields: limits.fields,
        target: limits.target,
    }
}

#[cfg(all(test, target_pointer_width = "64"))]
mod tests {
    use super::*;

    /// One is allocated for each request. glibc keeps freed memory of up to 1,032 bytes for the thread; larger pieces take
    /// its locks and several times as long.
    #[test]
    fn an_exchange_is_small() {
        let size = size_of::<Exchange<PendingRequest>>();
        assert!(size <= 1032, "{size} bytes");
    }
}
