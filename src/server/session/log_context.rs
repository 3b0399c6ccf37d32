//! The request that a response belongs to: for its delivery, and for its line in the access log.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::exchange::{ClientAddress, Request, Timings, Trace};
use crate::http::head::{RequestHead, Version};
use crate::http::request_id::{RequestId, trace_id};
use crate::logging::{AccessLog, AccessRecord as Line, is_excluded};
use crate::net::stream::Peer;
use crate::relay::delivery::Delivered;
use crate::server::pending::PendingRequest;
use crate::server::shared::SnapshotRef;
use crate::server::snapshot::Site;
use crate::stats::site::EndedRequest;
use crate::stats::{Close, Party};

/// The request that a response belongs to, for its delivery and for the access log.
pub(super) struct LogContext<'a> {
    pub(super) client: ClientAddress,
    pub(super) head: Option<&'a RequestHead>,
    pub(super) user: Option<&'a str>,
    pub(super) received: Instant,
    pub(super) id: &'a RequestId,
    pub(super) site: Option<usize>,
    pub(super) snapshot: &'a SnapshotRef,
    /// Bytes of its body that were received, and what the client has sent over an upgraded connection.
    pub(super) bytes_in: u64,
    /// The reason to log if the response itself was complete.
    pub(super) ended: Option<Close>,
}

/// The same, owned, while a client takes its time.
pub(super) struct OwnedLogContext {
    pub(super) client: ClientAddress,
    pub(super) head: Option<RequestHead>,
    pub(super) user: Option<Box<str>>,
    pub(super) received: Instant,
    pub(super) id: RequestId,
    pub(super) site: Option<usize>,
    pub(super) snapshot: SnapshotRef,
    pub(super) bytes_in: u64,
    pub(super) ended: Option<Close>,
    pub(super) status: u16,
    pub(super) trace: Trace,
}

impl<'a> LogContext<'a> {
    pub(super) const fn request(
        client: ClientAddress,
        head: &'a RequestHead,
        received: Instant,
        site: Option<usize>,
        snapshot: &'a SnapshotRef,
    ) -> Self {
        Self {
            client,
            head: Some(head),
            user: None,
            received,
            id: &RequestId::None,
            site,
            snapshot,
            bytes_in: 0,
            ended: None,
        }
    }

    pub(super) fn of_request(pending: &'a PendingRequest) -> Self {
        let Request {
            client,
            head,
            received,
            user,
            id,
            ..
        } = &pending.request;
        Self {
            user: user.as_deref(),
            id,
            bytes_in: pending.body_bytes,
            ..Self::request(
                *client,
                head,
                *received,
                Some(pending.site),
                &pending.snapshot,
            )
        }
    }

    pub(super) fn unreadable(
        peer: Peer,
        snapshot: &'a SnapshotRef,
        begun: Option<Instant>,
        reason: Close,
    ) -> Self {
        Self {
            client: ClientAddress::direct(peer),
            head: None,
            user: None,
            received: begun.unwrap_or_else(Instant::now),
            id: &RequestId::None,
            site: None,
            snapshot,
            bytes_in: 0,
            ended: Some(reason),
        }
    }

    pub(super) fn of(subject: &'a OwnedLogContext) -> Self {
        Self {
            client: subject.client,
            head: subject.head.as_ref(),
            user: subject.user.as_deref(),
            received: subject.received,
            id: &subject.id,
            site: subject.site,
            snapshot: &subject.snapshot,
            bytes_in: subject.bytes_in,
            ended: subject.ended,
        }
    }

    /// An owned copy, for a client that takes its time.
    pub(super) fn to_owned_context(&self, status: u16, trace: Trace) -> OwnedLogContext {
        OwnedLogContext {
            client: self.client,
            head: self.head.cloned(),
            user: self.user.map(Box::from),
            received: self.received,
            id: self.id.clone(),
            site: self.site,
            snapshot: Arc::clone(self.snapshot),
            bytes_in: self.bytes_in,
            ended: self.ended,
            status,
            trace,
        }
    }

    pub(super) fn site(&self) -> Option<&'a Site> {
        self.site.map(|site| &self.snapshot.sites[site])
    }

    /// The log that gets a line about the request, unless it leaves that out.
    fn access_log(&self) -> Option<&AccessLog> {
        let (log, config) = match self.site() {
            Some(site) => (&site.access_log, &site.settings.access_log),
            None => (&self.snapshot.access_log, &self.snapshot.config.access_log),
        };
        let is_excluded = |head| {
            let config = config.as_ref();
            config.is_some_and(|config| is_excluded(&config.exclude, head))
        };
        log.as_deref()
            .filter(|_| !self.head.is_some_and(is_excluded))
    }

    /// Ends the exchange for the logs: its response is over.
    pub(super) fn log_response(&self, status: u16, delivered: &Delivered, trace: &Trace) {
        let ended = match delivered.ended {
            Close::Complete => self.ended.unwrap_or(Close::Complete),
            broken => broken,
        };
        self.finish(status, delivered.bytes, trace, ended);
    }

    /// Ends the exchange for the logs; `bytes` of the body were delivered. Called once for every request, whether or
    /// not there is an access log.
    pub(super) fn finish(&self, status: u16, bytes: u64, trace: &Trace, ended: Close) {
        let timings = Timings {
            total: self.received.elapsed(),
            ..trace.timings
        };
        let stats = match self.site() {
            Some(site) => &site.stats,
            None => &self.snapshot.shared.unrouted,
        };
        let is_for_backend = trace.backend.is_some() || !timings.queue.is_zero();
        stats.count(&EndedRequest {
            status,
            bytes_in: self.bytes_in,
            bytes_out: bytes,
            retries: trace.retries,
            total: timings.total,
            queue: is_for_backend.then_some(timings.queue),
            connect: Some(timings.connect).filter(|time| !time.is_zero()),
            first_byte: trace.responded.then_some(timings.first_byte),
            ended,
        });
        if let Some(log) = self.access_log() {
            self.write(log, status, bytes, trace, &timings, ended);
        }
    }

    fn write(
        &self,
        log: &AccessLog,
        status: u16,
        bytes: u64,
        trace: &Trace,
        timings: &Timings,
        ended: Close,
    ) {
        let text = |bytes: Option<&'a [u8]>| match bytes {
            Some(bytes) => String::from_utf8_lossy(bytes),
            None => Cow::Borrowed("-"),
        };
        let field = |name| text(self.head.and_then(|head| head.headers.get(name)));
        let host = self.head.and_then(|head| head.host.as_ref());
        let client = self
            .client
            .ip()
            .map_or_else(|| "unix:".to_owned(), |ip| ip.to_string());
        log.write(&Line {
            time: SystemTime::now(),
            client: &client,
            user: self.user.filter(|name| !name.is_empty()).unwrap_or("-"),
            method: self.head.map_or("-", |head| head.method.as_str()),
            target: self.head.map_or("-", |head| head.target.as_str()),
            host: host.map_or("-", |host| host.as_str()),
            version: match self.head.map(|head| head.version) {
                Some(Version::Http10) => "HTTP/1.0",
                Some(Version::Http11) => "HTTP/1.1",
                None => "-",
            },
            status,
            bytes,
            site: self.site().map_or("-", |site| &site.settings.name),
            backend: &trace.origin(),
            queue_ms: timings.queue,
            connect_ms: timings.connect,
            first_byte_ms: timings.first_byte,
            total_ms: timings.total,
            retries: trace.retries,
            source: trace.source.word(),
            ended: ended.word(),
            ended_by: ended.by().or(trace.failed_by).map_or("-", Party::word),
            referer: &field("Referer"),
            user_agent: &field("User-Agent"),
            request_id: self.id,
            trace_id: self
                .head
                .and_then(|head| trace_id(&head.headers))
                .unwrap_or("-"),
        });
    }
}
