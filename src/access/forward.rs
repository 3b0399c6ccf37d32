//! A server's request on its way to the application: what [`relay`](crate::relay) needs from the access proxy.
//!
//! **Invariants**: no bytes of one exchange can reach another. A connection is used again only if its last message was
//! read and written to the end. A request is sent to the application a second time only if the first connection had an
//! exchange before, nothing of a response was passed on, and either its method is idempotent (RFC 9110 9.2.2) or nothing
//! of it was sent.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::application::{Application, WaitingForPermit, begin_connecting};
use super::limit::ApplicationEntry;
use super::running::RunningConfig;
use super::shared::AccessShared;
use crate::backend::lease::Acquired;
use crate::exchange::{Body, RequestBody, ResponseSource, Trace};
use crate::http::head::{HeadLimits, RequestHead, ResponseHead, Version};
use crate::net::buffer::Buffer;
use crate::net::conn::Conn;
use crate::relay::delivery::{Delivery, Payload, Recipient};
use crate::relay::download::Download;
use crate::relay::{
    ClientSide, ExchangeHandler, FailedAttempt, RelayError, Responding, Rules, Tools,
};

/// A request from the server.
pub(super) struct ForwardedRequest {
    pub(super) shared: Arc<AccessShared>,
    pub(super) settings: Arc<RunningConfig>,
    pub(super) head: RequestHead,
    body: RequestBody,
    pub(super) rules: Rules,
    /// When its head was complete; and its body, if that is small.
    pub(super) arrived: Instant,
    /// Until when it waits for an application that cannot be reached.
    held_until: Option<Instant>,
}

impl ForwardedRequest {
    /// A request that has just arrived.
    pub(super) fn new(
        shared: &Arc<AccessShared>,
        settings: Arc<RunningConfig>,
        head: RequestHead,
        body: RequestBody,
    ) -> Self {
        let timeouts = &settings.config.timeouts;
        Self {
            shared: Arc::clone(shared),
            head,
            body,
            rules: Rules {
                first_byte: timeouts.first_byte,
                backend: timeouts.backend,
                unframed_gap: timeouts.backend,
                limits: LIMITS,
                gathered: GATHERED,
            },
            settings,
            arrived: Instant::now(),
            held_until: None,
        }
    }
}

impl ExchangeHandler for ForwardedRequest {
    type Upstream = Application;

    fn head(&self) -> &RequestHead {
        &self.head
    }

    fn body(&self) -> &RequestBody {
        &self.body
    }

    fn rules(&self) -> &Rules {
        &self.rules
    }

    fn acquire(&mut self, _: Instant, attempts: u32) -> Result<Acquired<Application>, RelayError> {
        // A request that returns keeps its position.
        Ok(match self.shared.limit.enter(self.arrived) {
            ApplicationEntry::Permit(permit) => {
                Application::with(permit, &self.shared, attempts > 0, self.held_until)
            }
            ApplicationEntry::Queued(ticket) => {
                Acquired::Queued(WaitingForPermit::new(ticket, &self.shared))
            }
        })
    }

    fn deadline(&self, _: Instant) -> Instant {
        self.held_until
            .unwrap_or(self.arrived + self.rules.first_byte)
    }

    fn fall_back(&mut self, _: RelayError) -> bool {
        false
    }

    /// Leaves it to the server to repeat a request that may be repeated. Another one is held until the application is
    /// back, since nothing of it was sent.
    fn unreachable(&mut self, error: &io::Error) -> Result<Option<Instant>, RelayError> {
        self.shared.connect_failed(error);
        if self.head.method.is_idempotent() {
            return Err(RelayError::ClosedEarly);
        }
        let now = Instant::now();
        if now >= *self.held_until.get_or_insert(now + LONGEST_HOLD) {
            return Err(RelayError::Unreachable);
        }
        // The configuration may have changed meanwhile.
        self.settings = self.shared.settings();
        Ok(Some(now + RETRY_INTERVAL))
    }

    fn write_head(&mut self, _: &Trace, _: Instant, out: &mut Vec<u8>) {
        self.head.write(|_| (), self.head.framing, |_| true, out);
    }

    fn may_retry(&mut self, failure: &FailedAttempt<'_>) -> bool {
        if failure.error != RelayError::ClosedEarly {
            return false;
        }
        let is_whole = !matches!(self.body, RequestBody::Stream { .. });
        let is_safe = !failure.is_sent || is_whole && self.head.method.is_idempotent();
        if failure.is_reused && is_safe {
            return true;
        }
        // If the application is down altogether, no more requests should come here.
        match begin_connecting(&self.settings).and_then(|mut connect| connect.advance()) {
            Ok(Some(_)) => {}
            Ok(None) => self.shared.check_now(),
            Err(error) => self.shared.connect_failed(&error),
        }
        false
    }

    fn respond(
        &mut self,
        head: ResponseHead,
        download: Download<Application>,
        _: bool,
        tools: &mut Tools<'_>,
        pending_output: &mut Vec<u8>,
    ) -> Responding<Application> {
        self.shared.count_response();
        let payload = match download.is_empty() {
            true => Payload::Body(Body::Empty),
            false => Payload::Backend(download, None),
        };
        let recipient = Recipient {
            method: Some(&self.head.method),
            version: Some(Version::Http11),
            keep: true,
            date: None,
            patience: WRITE_TIMEOUT,
            request_id: None,
        };
        Responding {
            status: head.status,
            source: ResponseSource::Backend,
            delivery: Delivery::new(&head, payload, &recipient, pending_output, tools.out),
        }
    }

    fn received(&mut self, _: &Conn) {}

    /// A server never closes one direction only.
    fn is_gone(&mut self, link: &mut ClientSide<'_>, _: bool) -> bool {
        link.conn.stream().is_ended()
    }
}

/// More than any server lets through: servers have their own limits, and add fields.
pub(super) const LIMITS: HeadLimits = HeadLimits {
    head: 2 << 20,
    fields: 256,
    target: 1 << 20,
};
/// This much of a response's body is read before anything is passed on.
const GATHERED: u64 = Buffer::SIZE as u64;
/// How long the server may accept no data of a response. The same as the system's time-out; see [`Greeting::send`].
///
/// [`Greeting::send`]: crate::client::Greeting::send
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a request that may not be repeated is held until the application is back, and how often it is tried.
const LONGEST_HOLD: Duration = Duration::from_secs(10);
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
