//! One exchange: a server's request, forwarded to the application, and its response.
//!
//! Runs on the thread of a dialled connection. It drives an [`Exchange`] and waits on both sockets when that is blocked.
//! A small request body is read completely before the application gets any of it; a larger one is passed on as it
//! arrives. The permit of the [`limit`](super::limit) is passed on when the last byte of the response was *read*.
//!
//! How the server learns of a failure:
//!
//! | failure | what the server sees |
//! |---|---|
//! | the application closed before any byte of a response, or within a small one; or it cannot be reached and the request may be repeated | the connection closes: it asks another backend, or responds 502 |
//! | the application cannot be reached, and the request may not be repeated | nothing for [`LONGEST_HOLD`], then 502 |
//! | the response is malformed, up to the end of its head | 502 |
//! | no response in time | 504 |
//! | no permit in time | 503 |
//! | the request body arrives slower than 500 bytes a second | the connection closes; the server has responded 408 by then |
//! | the response breaks off | the connection is reset within the response |
//!
//! **Invariants**: no bytes of one exchange can reach another. A connection is used again only if its last message was
//! read and written to the end. A request is sent to the application a second time only if the first connection had an
//! exchange before, nothing of a response was passed on, and either its method is idempotent (RFC 9110 9.2.2) or nothing
//! of it was sent.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use super::application::{Application, WaitingForPermit, connect};
use super::limit::ApplicationEntry;
use super::running::RunningConfig;
use super::shared::AccessShared;
use crate::backend::lease::{Acquired, Ticket};
use crate::budget::Charge;
use crate::exchange::{Body, RequestBody, ResponseSource, Trace};
use crate::http::body::Framing;
use crate::http::head::{
    HeadLimits, HeadScanner, Method, Persistence, RequestHead, ResponseHead, Version,
    host_of_refused,
};
use crate::net::buffer::Buffer;
use crate::net::conn::Conn;
use crate::net::poller::Interest;
use crate::net::stream::poll_timeout;
use crate::net::tunnel::{Start, TunnelTimeouts};
use crate::relay::delivery::{Delivery, Payload, Recipient};
use crate::relay::download::Download;
use crate::relay::rate::{Rate, SLOWEST, TIME_TO_BEGIN, WINDOW};
use crate::relay::spool::Room;
use crate::relay::upload::{self, StreamingUpload};
use crate::relay::{
    ClientSide, Exchange, ExchangeHandler, FailedAttempt, Interests, Outcome, RelayError,
    Responding, Rules, Step, Switched, Tools,
};
use crate::stats::Close;

/// The buffers of a dialled connection's thread, used for one exchange after the other.
#[derive(Debug)]
pub(super) struct Buffers {
    /// What was read from the server.
    pub(super) input: Buffer,
    /// What was read from the application.
    reply: Buffer,
    /// What will be written.
    out: Vec<u8>,
}

/// What happens to the dialled connection after an exchange.
#[derive(Debug)]
pub(super) enum AfterExchange {
    /// It can be used for the next one.
    Keep,
    Close,
    /// The application has switched to another protocol: a tunnel joins the two connections.
    Tunnel(Box<Start<Conn>>),
}

/// A request from the server.
struct ForwardedRequest {
    shared: Arc<AccessShared>,
    settings: Arc<RunningConfig>,
    head: RequestHead,
    body: RequestBody,
    rules: Rules,
    /// When its head was complete; and its body, if that is small.
    arrived: Instant,
    /// Until when it waits for an application that cannot be reached.
    held_until: Option<Instant>,
}

impl Buffers {
    pub(super) const fn new() -> Self {
        Self {
            input: Buffer::new(),
            reply: Buffer::new(),
            out: Vec::new(),
        }
    }

    /// Serves the request that begins in `input`.
    pub(super) fn serve(&mut self, shared: &Arc<AccessShared>, link: &mut Conn) -> AfterExchange {
        let head = match self.read_head(link) {
            Ok(Some(head)) => head,
            Ok(None) => return AfterExchange::Close,
            Err((status, why)) => {
                let host = host_of_refused(self.input.data());
                let host = host.map_or_else(String::new, |host| format!(" for {}", host.as_str()));
                log::warn!("a request{host} was refused with {status}: {why}");
                self.refuse(link, status, &Method::Get);
                return AfterExchange::Close;
            }
        };
        let settings = shared.settings();
        let timeouts = &settings.config.timeouts;
        let Some((body, upload)) = self.read_body(&head, link, timeouts.backend) else {
            return AfterExchange::Close;
        };
        if head.max_forwards == Some(0) {
            // It must not be forwarded, so the access proxy responds itself.
            return match self.respond_with(link, &ResponseHead::options(), b"", &head.method) {
                true => self.finish_upload(upload, link),
                false => AfterExchange::Close,
            };
        }
        let arrived = Instant::now();
        let request = ForwardedRequest {
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
            arrived,
            held_until: None,
        };
        let mut exchange = Exchange::new(request, upload, arrived);
        let outcome = self.drive(&mut exchange, link);
        self.end(exchange, outcome, link)
    }

    /// Drives an exchange to its end.
    fn drive(
        &mut self,
        exchange: &mut Exchange<ForwardedRequest>,
        link: &mut Conn,
    ) -> Outcome<Application> {
        let mut pending_output = Vec::new();
        let (mut has_event, mut patience) = (false, Duration::ZERO);
        loop {
            let mut client = ClientSide {
                conn: link,
                input: &mut self.input,
                pending_output: &mut pending_output,
                has_event,
            };
            let mut tools = Tools {
                reply: &mut self.reply,
                out: &mut self.out,
                date: "",
                patience,
                room: &Room::default,
            };
            let step = exchange.advance(&mut client, &mut tools);
            has_event = client.has_event;
            let blocked_before = !patience.is_zero();
            patience = Duration::ZERO;
            match step {
                Step::Done(outcome) => return outcome,
                Step::Yield => {}
                // Wait for the response alone first: a quick one then costs no poll of both sockets.
                Step::Blocked(interests) if interests.reads && !blocked_before => {
                    patience = BLOCKING_READ;
                }
                Step::Blocked(interests) => has_event |= wait(exchange, &interests, link),
            }
        }
    }

    /// Ends an exchange: reports failures to the log and to the server.
    fn end(
        &mut self,
        exchange: Exchange<ForwardedRequest>,
        outcome: Outcome<Application>,
        link: &mut Conn,
    ) -> AfterExchange {
        let Exchange {
            handler: request,
            upload,
            ..
        } = exchange;
        let to = &request.settings.config.to;
        match outcome {
            Outcome::Delivered(delivered, _) if delivered.ended == Close::Complete => {
                self.finish_upload(upload, link)
            }
            Outcome::Delivered(delivered, _) => {
                if delivered.ended == Close::BackendFailed {
                    log::warn!("{to}: the response is cut");
                }
                link.reset_on_close();
                AfterExchange::Close
            }
            Outcome::Switched(switched) => self.switch_protocols(*switched, &request, link),
            Outcome::Gone(_) => {
                // The server's deadlines are usually shorter, so it closes the connection.
                request.shared.count_unanswered();
                AfterExchange::Close
            }
            Outcome::Failed(error) => {
                let status = match error {
                    RelayError::TooSlow | RelayError::Stalled => {
                        log::warn!("{to}: no response in time");
                        request.shared.count_unanswered();
                        504
                    }
                    RelayError::BadResponse(why) => {
                        log::warn!("{to}: bad response: {why}");
                        502
                    }
                    RelayError::NoBackend => {
                        let most = request.settings.config.places;
                        let patience = request.rules.first_byte;
                        log::warn!("{to}: no place in {patience:?}: places ({most})");
                        503
                    }
                    RelayError::Unreachable => 502,
                    // The server asks another backend, or responds itself.
                    _ => return AfterExchange::Close,
                };
                match self.refuse(link, status, &request.head.method) {
                    true => self.finish_upload(upload, link),
                    false => AfterExchange::Close,
                }
            }
        }
    }

    /// Reads the head, which a server sends in one piece. `None`: it did not arrive.
    fn read_head(&mut self, link: &mut Conn) -> Result<Option<RequestHead>, (u16, &'static str)> {
        let mut scanner = HeadScanner::default();
        let mut deadline = None;
        let end = loop {
            let scanned = scanner.scan(self.input.data(), &LIMITS);
            if let Some(end) = scanned.map_err(|refusal| (refusal.status, refusal.why))? {
                break end;
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + HEAD_TIMEOUT);
            if !read_more(&mut self.input, link, deadline) {
                return Ok(None);
            }
        };
        let mut head = RequestHead::parse(&self.input.data()[..end], &LIMITS)
            .map_err(|refusal| (refusal.status, refusal.why))?;
        self.input.consume(end);
        // The server has already removed the fields that its configuration does not allow (`underscores`).
        head.admit_ambiguous(|_| true);
        Ok(Some(head))
    }

    /// Reads a small body, which can then be sent again; a larger one is passed on as it arrives. `None`: it did not
    /// arrive.
    fn read_body(
        &mut self,
        head: &RequestHead,
        link: &mut Conn,
        patience: Duration,
    ) -> Option<(RequestBody, Option<Box<StreamingUpload>>)> {
        let length = match head.framing {
            Framing::Empty => return Some((RequestBody::Empty, None)),
            Framing::Length(length) => Some(length),
            _ => None,
        };
        let small = length.filter(|length| *length <= SMALL_BODY as u64);
        if let Some(length) = small.and_then(|length| usize::try_from(length).ok()) {
            let mut now = Instant::now();
            let mut rate = Rate::new(now, WINDOW);
            rate.add(now, self.input.data().len() as u64);
            while self.input.data().len() < length {
                let before = self.input.data().len();
                if rate.is_below(SLOWEST, TIME_TO_BEGIN, now)
                    || !read_more(&mut self.input, link, now + patience)
                {
                    return None;
                }
                now = Instant::now();
                rate.add(now, (self.input.data().len() - before) as u64);
            }
            let body = self.input.data()[..length].to_vec();
            self.input.consume(length);
            return Some((RequestBody::Memory(body, Charge::new(Arc::default())), None));
        }
        let limits = upload::UploadLimits {
            most: u64::MAX,
            // The server enforces the same rate, and reports it to the client.
            slowest: SLOWEST,
            patience,
        };
        let upload = StreamingUpload::new(head.framing, &LIMITS, limits, false)?;
        Some((RequestBody::Stream { length }, Some(Box::new(upload))))
    }

    /// Responds with a status and its name. Returns whether the server has received it.
    fn refuse(&mut self, link: &mut Conn, status: u16, method: &Method) -> bool {
        let mut head = ResponseHead::new(status);
        head.headers
            .push("Content-Type", b"text/plain; charset=utf-8");
        let body = format!("{}\n", ResponseHead::reason(status));
        self.respond_with(link, &head, body.as_bytes(), method)
    }

    /// Sends a response of the access proxy itself. Returns whether the server has received it.
    fn respond_with(
        &mut self,
        link: &mut Conn,
        head: &ResponseHead,
        body: &[u8],
        method: &Method,
    ) -> bool {
        self.out.clear();
        let framing = Framing::Length(body.len() as u64);
        head.write(framing, Persistence::Implied, None, &mut self.out);
        let body: &[u8] = match method {
            Method::Head => &[],
            _ => body,
        };
        link.write_both(&self.out, body, WRITE_TIMEOUT).is_ok()
    }

    /// Prepares a tunnel: what is sent first in each direction, beginning with the head of the 101.
    fn switch_protocols(
        &mut self,
        switched: Switched<Application>,
        request: &ForwardedRequest,
        link: &Conn,
    ) -> AfterExchange {
        let mut to_server = Vec::new();
        let head = &switched.head;
        head.write(Framing::Empty, Persistence::Upgrade, None, &mut to_server);
        to_server.extend_from_slice(&switched.behind);
        let to_app = self.input.data().to_vec();
        self.input.clear();
        let patience = request.settings.config.timeouts.backend;
        // A client may be slow, and so the server.
        link.stream().give_up_after(patience);
        AfterExchange::Tunnel(Box::new(Start {
            backend: switched.upstream.into_conn(),
            to_client: to_server,
            to_backend: to_app,
            patience: TunnelTimeouts {
                idle: TUNNEL_IDLE_TIMEOUT,
                write: patience,
                backend: patience,
                client: patience,
            },
        }))
    }

    /// Reads the rest of the request's body if it is short. If the connection were closed with unread data, the response
    /// would be lost.
    fn finish_upload(
        &mut self,
        upload: Option<Box<StreamingUpload>>,
        link: &mut Conn,
    ) -> AfterExchange {
        let Some(mut upload) = upload else {
            return AfterExchange::Keep;
        };
        let deadline = Instant::now() + DISCARD_TIMEOUT;
        let mut left = MOST_DISCARDED;
        let mut pending_output = Vec::new();
        loop {
            let mut client = ClientSide {
                conn: link,
                input: &mut self.input,
                pending_output: &mut pending_output,
                has_event: false,
            };
            self.out.clear();
            match upload.advance(&mut client, false, &mut self.out) {
                Ok(upload::UploadStep::End) => return AfterExchange::Keep,
                Ok(upload::UploadStep::Some) if left > self.out.len() => left -= self.out.len(),
                Ok(upload::UploadStep::Wait(_))
                    if link.stream().wait_for_input(deadline).is_ok() => {}
                _ => return AfterExchange::Close,
            }
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
        if let Err(error) = connect(&self.settings) {
            self.shared.connect_failed(&error);
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

/// Waits for what an exchange is blocked on. Returns whether the server may have disconnected.
fn wait(exchange: &mut Exchange<ForwardedRequest>, interests: &Interests, link: &Conn) -> bool {
    if let Some(ticket) = exchange.ticket() {
        ticket.wait(
            interests
                .until
                .min(Instant::now() + DISCONNECT_CHECK_INTERVAL),
        );
        return true;
    }
    let client = match interests.client {
        Interest::Read if interests.uploads => PollFlags::POLLIN,
        Interest::Read => PollFlags::empty(),
        Interest::Write | Interest::Both => PollFlags::POLLOUT,
    };
    let hung_up = PollFlags::from_bits_retain(nix::libc::POLLRDHUP);
    let backend = match interests.backend {
        None => PollFlags::empty(),
        Some(Interest::Read) => PollFlags::POLLIN,
        Some(Interest::Write) => PollFlags::POLLOUT,
        Some(Interest::Both) => PollFlags::POLLIN | PollFlags::POLLOUT,
    };
    let link = PollFd::new(link.as_fd(), client | hung_up);
    let mut sockets = vec![link];
    if interests.backend.is_some() {
        let socket = exchange.backend();
        sockets.extend(socket.map(|socket| PollFd::new(socket, backend)));
    }
    match poll(&mut sockets, poll_timeout(interests.until)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => log::error!("poll: {error}"),
    }
    // The library does not know POLLRDHUP, and returns nothing then.
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
    sockets[0]
        .revents()
        .is_none_or(|seen| seen.intersects(gone))
}

/// Reads more, if it arrives before the deadline.
fn read_more(input: &mut Buffer, link: &mut Conn, deadline: Instant) -> bool {
    loop {
        match input.fill_now(link) {
            Ok(Some(count)) => return count > 0,
            Ok(None) => {}
            Err(_) => return false,
        }
        if link.stream().wait_for_input(deadline).is_err() {
            return false;
        }
    }
}

/// More than any server lets through: servers have their own limits, and add fields.
const LIMITS: HeadLimits = HeadLimits {
    head: 2 << 20,
    fields: 256,
    target: 1 << 20,
};
/// How long an upgraded connection may be idle. The server has its own limit, and the system notices when the server is
/// gone.
const TUNNEL_IDLE_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// A body up to this length is read completely before the application gets any of it.
const SMALL_BODY: usize = 64 * 1024;
/// This much of a response's body is read before anything is passed on.
const GATHERED: u64 = Buffer::SIZE as u64;
/// How long a head may take once it has begun.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the server may accept no data of a response. The same as the system's time-out; see [`Greeting::send`].
///
/// [`Greeting::send`]: crate::client::Greeting::send
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a request that may not be repeated is held until the application is back, and how often it is tried.
const LONGEST_HOLD: Duration = Duration::from_secs(10);
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// How long, and how much of, the unneeded rest of a request's body is read.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);
const MOST_DISCARDED: usize = 1 << 20;
/// How long the thread waits for the application alone before it polls both sockets.
const BLOCKING_READ: Duration = Duration::from_millis(20);
/// How often a request that waits for a permit checks whether the server is still connected.
const DISCONNECT_CHECK_INTERVAL: Duration = Duration::from_millis(250);
