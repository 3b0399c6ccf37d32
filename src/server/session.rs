//! One visitor's connection, from accept to close. **The front door**: start reading here.
//!
//! A session is a small machine. [`Session::run`] is called by a worker whenever there is something to do, and goes from
//! state to state until the session has to wait, and is *parked*, or until the connection is closed:
//!
//! 1. [`State::Head`]: reading the head of a request. An idle connection is one that has read nothing of it yet.
//!    Where the site asks for a password, [`State::Auth`]: waiting until it can be checked (`auth`); then [`State::Open`].
//! 2. [`State::Body`]: collecting the body of the request.
//! 3. [`State::Exchange`]: the request is on its way to a backend, and the response on its way back
//!    ([`crate::relay`]); then back to 1.
//! 4. [`State::Sending`]: a response of our own that the visitor has not taken yet; then back to 1.
//! 5. [`State::Tunnel`]: the backend has switched to another protocol. No worker runs the session any more, the thread
//!    of the [`tunnel`]s has it.
//! 6. [`State::Linger`]: everything is said; what the visitor still sends is thrown away for a moment, so that
//!    the system does not reset the connection before the response was read.
//!
//! What is refused on the way is in `refuse`, how a response is begun and what follows it in `answer`, what the access log
//! gets in `about`.
//!
//! **Invariants**
//! - The box owns the socket. Who holds the box, a worker, the poller or the tunnels, owns the connection.
//! - A deadline is set when a state is entered and stays the same however often the session is parked in it.
//! - Every way out sets [`Session::reason`]; dropping the session closes the connection, counts and logs that.
//! - The backend's socket is armed in the poller only while the session is parked.

mod answer;
mod auth;
mod log_context;
mod refuse;

use std::borrow::Cow;
use std::io::{self, ErrorKind};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::task::Waker;
use std::thread;
use std::time::Instant;

use answer::{AfterResponse, LINGER, SendingResponse};
use auth::AuthPending;
use log_context::{LogContext, OwnedLogContext};

use super::admission::{CountedConnection, TunnelPermit};
use super::body::{BodyBuffer, CollectError};
use super::files;
use super::forwarding;
use super::pages;
use super::pending::PendingRequest;
use super::route::{Route, route};
use super::shared::Shared;
use super::snapshot::SnapshotRef;
use super::worker::Worker;
use crate::backend::lease::{Lease, Ticket, Upstream};
use crate::backend::preamble;
use crate::budget::Charge;
use crate::config::{Limits, size_text};
use crate::exchange::{ClientAddress, Request, RequestBody, Trace};
use crate::http::body::Framing;
use crate::http::head::{HeadLimits, HeadScanner, Persistence, Refusal, RequestHead};
use crate::net::conn::Conn;
use crate::net::poller::{Cause, Interest, Token};
use crate::net::stream::{Peer, Pending};
use crate::net::tunnel::{self, TunnelEnded, TunnelTimeouts};
use crate::relay::delivery::{Delivered, Reader};
use crate::relay::disconnect::DisconnectDetector;
use crate::relay::drain::Drain;
use crate::relay::rate::{Rate, SLOWEST, TIME_TO_BEGIN, WINDOW};
use crate::relay::upload::{self, StreamingUpload};
use crate::relay::{
    self, CONTINUE, Exchange, Interests, Outcome, RelayError, Switched, Visitor, write_interim,
};
use crate::stats::{self, Close};

/// A visitor's connection.
pub(crate) struct Session {
    shared: Arc<Shared>,
    token: Token,
    conn: Conn,
    peer: Peer,
    /// It counts for the limit of its address.
    counted: Option<CountedConnection>,
    /// Its request counts for the limit of the address that the peer, a proxy, has named.
    counted_request: Option<CountedConnection>,
    /// Bytes that were read and not used when the session was parked.
    leftover: Vec<u8>,
    /// Bytes that the visitor did not take and that go in front of its next response.
    pending_output: Vec<u8>,
    /// What the connection and its request take of the memory, without bodies.
    memory: Charge,
    /// Bytes of that for the request.
    request_bytes: u64,
    /// What may be left in the socket.
    unread: Unread,
    state: State,
    /// Why the connection is closed, once it is dropped.
    reason: Close,
    /// Its deadline is over; it was not closed at once since the visitor is owed an answer.
    expired: bool,
    /// Exchanges so far.
    answered: u32,
    /// The visitor's socket has reported an event that may be its disconnect, which was not looked at yet.
    may_be_gone: bool,
    /// The backend's socket is armed in the poller.
    is_armed: bool,
    /// Puts it back to work, once it has waited in a queue.
    waker: Option<Waker>,
}

/// What a socket may hold of which the poller will not tell again, so that it has to be read before the session is
/// parked for more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unread {
    /// Nothing: all was read.
    Nothing,
    /// Bytes, and no end: a read that brings less than there was room for has emptied it (epoll(7)).
    Bytes,
    /// Bytes, the end, or both: only a read that brings nothing settles it.
    Unsure,
}

enum State {
    /// A worker is at it.
    Running,
    Head(ReadingHead),
    Auth(Box<AuthPending>),
    Open(Box<PendingRequest>),
    Body(Box<Collecting>),
    Exchange(Box<Exchange<PendingRequest>>),
    Sending(Box<SendingResponse>),
    Tunnel(Box<TunnelState>),
    Linger {
        /// When it is closed if nothing comes until then.
        quiet: Instant,
        /// When it is closed in any case.
        deadline: Instant,
    },
}

/// A head on its way in.
struct ReadingHead {
    scanner: HeadScanner,
    /// When its first byte was seen; `None` while the connection is idle.
    begun: Option<Instant>,
    /// Until when it may be idle, or until when its TLS handshake has to be over.
    idle_until: Instant,
    /// The handshake is still to come.
    handshake: bool,
}

/// A body on its way in.
struct Collecting {
    pending: PendingRequest,
    collector: BodyBuffer,
    rate: Rate,
    deadline: Instant,
}

/// An upgraded connection.
struct TunnelState {
    subject: OwnedLogContext,
    permit: TunnelPermit,
    /// Bytes of what went to the visitor that are not the backend's.
    head: u64,
}

/// What comes next.
enum SessionStep {
    Go(State),
    Wait(State, Interests),
    /// There is more to do, but other work should have its turn.
    Yield(State),
    Tunnel(State, Box<tunnel::Start<Lease>>),
    Close(Close),
}

/// What becomes of a session that has run.
pub(crate) enum Disposition {
    /// It has to wait for one of these.
    Wait(Box<Session>, Interests),
    /// It is to be carried by the tunnels.
    Tunnel(Box<Session>, Box<tunnel::Start<Lease>>),
    /// There is more to do, but others have waited long enough for this worker.
    Yield(Box<Session>),
    /// The connection is closed.
    Closed,
}

impl Session {
    /// A connection that was just accepted.
    pub(crate) fn new(
        shared: Arc<Shared>,
        token: Token,
        conn: Conn,
        peer: Peer,
        counted: Option<CountedConnection>,
    ) -> Self {
        stats::add(&shared.stats.accepted);
        stats::add(&shared.stats.open);
        let handshake = conn.is_handshaking();
        let mut memory = Charge::new(Arc::clone(&shared.memory));
        memory.force(connection_bytes(conn.is_secure()));
        let timeouts = &shared.snapshot().config.timeouts;
        let patience = match handshake {
            true => timeouts.head,
            false => timeouts.idle,
        };
        Self {
            shared,
            token,
            conn,
            peer,
            counted,
            counted_request: None,
            leftover: Vec::new(),
            pending_output: Vec::new(),
            memory,
            request_bytes: 0,
            unread: Unread::Unsure,
            state: State::Head(ReadingHead {
                handshake,
                ..ReadingHead::idle(Instant::now() + patience)
            }),
            reason: Close::Internal,
            expired: false,
            answered: 0,
            may_be_gone: false,
            is_armed: false,
            waker: None,
        }
    }

    /// Where the session is kept.
    pub(crate) const fn token(&self) -> Token {
        self.token
    }

    /// Whether nothing of a request has come: the connection can be closed without loss.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(&self.state, State::Head(reading) if reading.begun.is_none())
    }

    /// Whether it has not had any request yet.
    pub(crate) const fn is_fresh(&self) -> bool {
        self.answered == 0
    }

    /// Whether its visitor has sent something that nobody has read yet.
    pub(crate) fn has_input(&self) -> bool {
        self.conn.pending() == Pending::Bytes
    }

    /// Its visitor, if something of a backend's response is kept for it, and whether other requests wait for that backend.
    pub(crate) fn reader(&self, now: Instant) -> Option<(Reader, bool)> {
        match &self.state {
            State::Exchange(exchange) => {
                let reader = exchange.reader(now)?;
                let is_waited_for = reader.holds_backend && exchange.host.keeps_others_waiting();
                Some((reader, is_waited_for))
            }
            _ => None,
        }
    }

    /// Has its response be cut when it is run next.
    pub(crate) fn give_up_reader(&mut self) {
        if let State::Exchange(exchange) = &mut self.state {
            exchange.give_up();
        }
    }

    /// Says why the session, which the caller owns, is closed.
    pub(crate) fn close(mut self, reason: Close) {
        self.reason = reason;
    }

    /// Its deadline is over: closes it if nobody is owed an answer, else gives it back to be run by a worker.
    pub(crate) fn expire(mut self: Box<Self>) -> Option<Box<Self>> {
        let reason = match &self.state {
            State::Head(reading) if reading.handshake => Close::TlsTimeout,
            // It has come in time; the workers are late.
            State::Head(reading) if reading.begun.is_none() && self.has_input() => {
                return Some(self);
            }
            State::Head(reading) if reading.begun.is_none() => Close::Idle,
            State::Linger { .. } => self.reason,
            _ => {
                self.expired = true;
                return Some(self);
            }
        };
        self.close(reason);
        None
    }

    /// The poller says what it knows about the visitor's socket; `None` where something has happened in the meantime.
    pub(crate) fn notice(&mut self, cause: Option<Cause>) {
        if self.is_armed {
            self.is_armed = false;
            // What woke it is not the backend, so that socket is still armed, and may be in use elsewhere soon.
            if cause != Some(Cause::Backend)
                && let Some(backend) = self.state.backend()
            {
                self.shared.poller.disarm(backend);
            }
        }
        match cause {
            // The poller reports nothing of what there is to read while it waits for room.
            Some(Cause::Ready) if !self.state.reads() => self.unread = Unread::Unsure,
            Some(Cause::Ready) => self.unread = Unread::Bytes,
            Some(Cause::Woken | Cause::Backend) => {}
            Some(Cause::Ended) | None => {
                self.unread = Unread::Unsure;
                self.may_be_gone = true;
            }
        }
    }

    /// Arms the backend's socket, before the session is parked.
    ///
    /// # Errors
    /// Whatever `epoll_ctl(2)` says.
    pub(crate) fn arm(&mut self, interest: Interest) -> io::Result<()> {
        if let Some(backend) = self.state.backend() {
            self.shared.poller.arm(self.token, backend, interest)?;
            self.is_armed = true;
        }
        Ok(())
    }

    /// Whether the visitor may have left, which is to be looked at before the session is parked.
    pub(crate) const fn may_be_gone(&self) -> bool {
        self.may_be_gone && matches!(self.state, State::Exchange(_) | State::Auth(_))
    }

    /// Blocks until it was given what it waits for in a queue, or until `until`.
    pub(crate) fn wait_in_queue(&self, until: Instant) {
        match &self.state {
            State::Exchange(exchange) => {
                if let Some(ticket) = exchange.ticket() {
                    ticket.wait(until);
                }
            }
            State::Auth(pending) => pending.wait(until),
            _ => {}
        }
    }

    /// Has its waker, which is made once, called when it is given what it waits for in a queue. `false`: that has happened
    /// already.
    pub(crate) fn wake_with(&mut self, make: impl FnOnce() -> Waker) -> bool {
        let waker = self.waker.get_or_insert_with(make).clone();
        match &self.state {
            State::Exchange(exchange) => exchange
                .ticket()
                .is_none_or(|ticket| ticket.wake_with(waker)),
            State::Auth(pending) => pending.wake_with(waker),
            _ => true,
        }
    }

    /// Reads what is there, without waiting.
    fn fill(&mut self, worker: &mut Worker) -> io::Result<Option<usize>> {
        let read = worker.input.fill_now(&mut self.conn)?;
        let emptied =
            self.unread == Unread::Bytes && !worker.input.is_full() && !self.conn.may_have_more();
        if read.is_none() || emptied {
            self.unread = Unread::Nothing;
        }
        Ok(read)
    }

    /// Does what there is to do.
    pub(crate) fn run(mut self: Box<Self>, worker: &mut Worker) -> Disposition {
        worker.input.clear();
        worker.input.append(&mem::take(&mut self.leftover));
        let enough = self.answered.saturating_add(MOST_IN_A_ROW);
        loop {
            let step = match mem::replace(&mut self.state, State::Running) {
                State::Running | State::Tunnel(_) => SessionStep::Close(Close::Internal),
                State::Head(reading) => self.read_head(reading, worker),
                State::Auth(pending) => self.go_on_with_auth(*pending, worker),
                State::Open(pending) => self.open(*pending, worker),
                State::Body(collecting) => self.collect(collecting, worker),
                State::Exchange(exchange) => self.relay(exchange, worker),
                State::Sending(sending) => self.go_on_sending(*sending, worker),
                State::Linger { quiet, deadline } => self.linger(quiet, deadline, worker),
            };
            match step {
                SessionStep::Go(state) => {
                    self.state = state;
                    if self.answered >= enough {
                        self.leftover.extend_from_slice(worker.input.data());
                        return Disposition::Yield(self);
                    }
                }
                SessionStep::Yield(state) => {
                    self.state = state;
                    self.leftover.extend_from_slice(worker.input.data());
                    return Disposition::Yield(self);
                }
                SessionStep::Wait(state, interests) => {
                    self.state = state;
                    self.leftover.extend_from_slice(worker.input.data());
                    self.recount();
                    return Disposition::Wait(self, interests);
                }
                SessionStep::Tunnel(state, start) => {
                    self.state = state;
                    return Disposition::Tunnel(self, start);
                }
                SessionStep::Close(reason) => {
                    self.reason = reason;
                    return Disposition::Closed;
                }
            }
        }
    }

    /// Charges what the connection keeps now.
    fn recount(&mut self) {
        let kept = self.leftover.len() + self.pending_output.len();
        let connection = connection_bytes(self.conn.is_secure());
        self.memory
            .force(connection + self.request_bytes + kept as u64);
    }

    /// Charges so many bytes for a request. Where the memory is used up, idle connections are closed to make room. `false`:
    /// there is none even so, and the request has to be refused.
    fn charge_request(&mut self, bytes: u64) -> bool {
        self.request_bytes = bytes;
        let all = connection_bytes(self.conn.is_secure()) + bytes;
        self.memory.set(all) || {
            self.shared.shed();
            self.memory.set(all)
        }
    }

    fn read_head(&mut self, mut reading: ReadingHead, worker: &mut Worker) -> SessionStep {
        let snapshot = Arc::clone(worker.snapshot());
        let patience = snapshot.config.timeouts.head;
        let limits = head_limits(&snapshot.config.limits);
        loop {
            if !worker.input.is_empty() {
                let refusal = match reading.scanner.scan(worker.input.data(), &limits) {
                    Ok(Some(end)) => {
                        match RequestHead::parse(&worker.input.data()[..end], &limits) {
                            Ok(head) => {
                                worker.input.consume(end);
                                return self.begin(head, end, snapshot, worker);
                            }
                            Err(refusal) => Some(refusal),
                        }
                    }
                    Ok(None) => None,
                    Err(refusal) => Some(refusal),
                };
                let refusal = match worker.input.data() {
                    data if data.starts_with(preamble::PREFIX) => Some(Refusal::bad(PREAMBLE_HERE)),
                    data if data.starts_with(TLS_HANDSHAKE) => Some(Refusal::bad(TLS_HERE)),
                    _ => refusal,
                };
                if let Some(refusal) = refusal {
                    let why = reason_of(&refusal, &limits);
                    return self.refuse(refusal.status, &why, reading.begun, &snapshot, worker);
                }
                if reading.scanner.has_begun() {
                    // Most heads arrive in one read; skip the clock then.
                    reading.begun.get_or_insert_with(Instant::now);
                }
            }
            let begun = reading.begun;
            let filled = self.fill(worker);
            if reading.handshake && !self.conn.is_handshaking() {
                reading.handshake = false;
                reading.idle_until = Instant::now() + snapshot.config.timeouts.idle;
            }
            match (filled, begun) {
                (Ok(Some(1..)), _) => {}
                // What has come by now has come in time: the workers may be late.
                (Ok(None), Some(since)) if self.expired || since.elapsed() >= patience => {
                    let why = "the head of the request did not arrive in time";
                    return self.refuse(408, why, begun, &snapshot, worker);
                }
                (Ok(None), _) => {
                    let deadline = begun.map_or(reading.idle_until, |begun| begun + patience);
                    return SessionStep::Wait(State::Head(reading), Interests::time(deadline));
                }
                (Err(error), _) if error.kind() == ErrorKind::Unsupported => {
                    self.conn.give_up_tls();
                    // What it is is still in the socket; an error shows again when the answer is written.
                    let _ = self.fill(worker);
                    let why = match worker.input.data().starts_with(preamble::PREFIX) {
                        true => PREAMBLE_HERE,
                        false => "this port speaks TLS; ask with https://",
                    };
                    return self.refuse(400, why, begun, &snapshot, worker);
                }
                (Err(error), _) if error.kind() == ErrorKind::InvalidData => {
                    log::debug!("visitor {}: {error}", self.peer);
                    return SessionStep::Close(Close::TlsFailed);
                }
                (_, Some(_)) => return SessionStep::Close(Close::ClientGone),
                (_, None) => return SessionStep::Close(Close::PeerClosed),
            }
        }
    }

    /// A head, of so many bytes, is complete: decides where the request goes, before anything of its body is read.
    fn begin(
        &mut self,
        head: RequestHead,
        length: usize,
        snapshot: SnapshotRef,
        worker: &mut Worker,
    ) -> SessionStep {
        let received = Instant::now();
        let client = match snapshot.trusts(&self.peer) {
            true => forwarding::client(self.peer, &head.headers, &snapshot),
            false => ClientAddress::direct(self.peer),
        };
        let own = match route(&snapshot, &head) {
            Route::Site(site) => Ok(site),
            Route::Health => Err(pages::health(&self.shared.stats, client.ip())),
            Route::NotFound => Err(pages::page(404, "There is no such site here.", Some(&head))),
        };
        let unread = head.has_body();
        let site = match own {
            Ok(site) => site,
            Err(response) => {
                let about = LogContext::request(client, &head, received, None, &snapshot);
                let after = AfterResponse {
                    reason: Close::Complete,
                    idle: snapshot.config.timeouts.idle,
                    unread,
                };
                return self.deliver(&about, response, !unread, after, worker);
            }
        };
        if !self.charge_request(PendingRequest::memory(length)) {
            return self.refuse_overload(client, &head, received, site, &snapshot, worker);
        }
        let request = Request {
            head,
            body: RequestBody::Empty,
            client,
            secure: self.conn.is_secure(),
            received,
            user: None,
        };
        let mut pending = PendingRequest::new(request, snapshot, site);
        pending.admit_ambiguous();
        if !self.count_request(&pending) {
            return self.refuse_count(&pending, worker);
        }
        let site = pending.site();
        if site.pages.are_closed(received) {
            let page = site.closed(&pending.request.head);
            return self.decline(&pending, page, worker);
        }
        match site.guards.is_empty() {
            true => self.open(pending, worker),
            false => self.admit(pending, worker),
        }
    }

    /// Counts a request that came through a trusted proxy as a connection of the client's address. `false`: that has as
    /// many as it may.
    fn count_request(&mut self, pending: &PendingRequest) -> bool {
        let most = pending.snapshot.config.limits.connections_per_client;
        let client = pending.request.client.forwarded;
        let Some(address) = client.filter(|_| most > 0) else {
            return true;
        };
        self.counted_request = self.shared.clients.enter(address, most);
        self.counted_request.is_some()
    }

    /// The request is over.
    fn uncount_request(&mut self) {
        if let Some(counted) = self.counted_request.take() {
            self.shared.clients.leave(counted);
        }
    }

    /// A request may go on: answers it here, with a file if there is one, or decides what becomes of its body.
    fn open(&mut self, mut pending: PendingRequest, worker: &mut Worker) -> SessionStep {
        if let Some(response) = files::answer(pending.site(), &pending.request.head, pending.since)
        {
            if response.head.status == 405 {
                self.log_refused(&pending, log::Level::Info, 405, "there are only files here");
            }
            return self.decline(&pending, response, worker);
        }
        if pending.request.head.max_forwards == Some(0) {
            return self.decline(&pending, pages::options(), worker);
        }
        if !pending.request.head.has_body() {
            return self.begin_exchange(pending, None, worker);
        }
        let framing = pending.request.head.framing;
        let received = pending.since;
        let settings = &pending.site().settings;
        let limits = &settings.limits;
        if !settings.request_buffering {
            let expects = pending.request.head.expect_continue;
            let of_body = upload::UploadLimits {
                most: limits.body,
                slowest: SLOWEST,
                patience: settings.timeouts.body,
            };
            let trailers = head_limits(limits);
            let upload = StreamingUpload::new(framing, &trailers, of_body, expects);
            let Some(upload) = upload else {
                return self.refuse_body(
                    &pending,
                    &CollectError::TooLarge,
                    Trace::default(),
                    worker,
                );
            };
            pending.request.body = RequestBody::Stream {
                length: match framing {
                    Framing::Length(length) => Some(length),
                    _ => None,
                },
            };
            return self.begin_exchange(pending, Some(Box::new(upload)), worker);
        }
        let collector = BodyBuffer::new(
            framing,
            &head_limits(limits),
            limits.body,
            self.shared.room(
                &pending.snapshot,
                Some(pending.site),
                &pending.request.client,
            ),
        );
        let collector = match collector {
            Ok(collector) => collector,
            Err(fault) => return self.refuse_body(&pending, &fault, Trace::default(), worker),
        };
        if pending.request.head.expect_continue && worker.input.is_empty() {
            // RFC 9110 10.1.1.
            write_interim(&mut self.conn, &mut self.pending_output, CONTINUE);
        }
        let deadline = received + settings.timeouts.body;
        let mut rate = Rate::new(received, WINDOW);
        rate.add(received, worker.input.data().len() as u64);
        SessionStep::Go(State::Body(Box::new(Collecting {
            pending,
            collector,
            rate,
            deadline,
        })))
    }

    fn collect(&mut self, mut collecting: Box<Collecting>, worker: &mut Worker) -> SessionStep {
        let mut left = TURN;
        loop {
            match collecting.collector.take(&mut worker.input) {
                Ok(false) => {}
                Ok(true) => return self.collected(*collecting, worker),
                Err(fault) => {
                    return self.refuse_body(&collecting.pending, &fault, Trace::default(), worker);
                }
            }
            if left == 0 {
                return SessionStep::Yield(State::Body(collecting));
            }
            match self.fill(worker) {
                Ok(Some(count @ 1..)) => {
                    left = left.saturating_sub(count);
                    let patience = collecting.pending.site().settings.timeouts.body;
                    let now = Instant::now();
                    collecting.deadline = now + patience;
                    collecting.rate.add(now, count as u64);
                    self.expired = false;
                }
                // As with a head, what has come by now counts.
                Ok(None) => {
                    let now = Instant::now();
                    let late = self.expired || now >= collecting.deadline;
                    let is_slow = collecting.rate.is_below(SLOWEST, TIME_TO_BEGIN, now);
                    let reason = match (late, is_slow) {
                        (true, _) => Close::BodyTimeout,
                        (false, true) => Close::BodySlow,
                        (false, false) => {
                            let deadline = collecting.deadline;
                            return SessionStep::Wait(
                                State::Body(collecting),
                                Interests::time(deadline),
                            );
                        }
                    };
                    return self.refuse_slow(&collecting.pending, reason, Trace::default(), worker);
                }
                Ok(Some(0)) | Err(_) => return self.gone(&collecting.pending, &Trace::default()),
            }
        }
    }

    fn collected(&mut self, collecting: Collecting, worker: &mut Worker) -> SessionStep {
        let Collecting {
            mut pending,
            collector,
            ..
        } = collecting;
        pending.request.body = collector.finish();
        pending.since = Instant::now();
        pending.disconnect = DisconnectDetector::new(pending.since);
        self.begin_exchange(pending, None, worker)
    }

    /// The request is complete, or its body is passed on as it arrives: it goes to a backend.
    fn begin_exchange(
        &mut self,
        pending: PendingRequest,
        upload: Option<Box<StreamingUpload>>,
        worker: &mut Worker,
    ) -> SessionStep {
        // The end may have come right after the request, and the poller does not report it again.
        self.may_be_gone = self.unread == Unread::Unsure;
        let since = pending.since;
        self.relay(Box::new(Exchange::new(pending, upload, since)), worker)
    }

    /// Goes on with an exchange.
    fn relay(
        &mut self,
        mut exchange: Box<Exchange<PendingRequest>>,
        worker: &mut Worker,
    ) -> SessionStep {
        self.expired = false;
        let snapshot = Arc::clone(&exchange.host.snapshot);
        let (site, client) = (exchange.host.site, exchange.host.request.client);
        let room = || self.shared.room(&snapshot, Some(site), &client);
        let (input, mut tools) = worker.tools(&room);
        let mut visitor = Visitor {
            conn: &mut self.conn,
            input,
            pending_output: &mut self.pending_output,
            has_event: self.may_be_gone,
        };
        let step = exchange.advance(&mut visitor, &mut tools);
        self.may_be_gone = visitor.has_event;
        if exchange.upload.is_some() {
            // It is read past our own notes.
            self.unread = Unread::Unsure;
        }
        match step {
            relay::Step::Blocked(interests) => {
                SessionStep::Wait(State::Exchange(exchange), interests)
            }
            relay::Step::Yield => SessionStep::Yield(State::Exchange(exchange)),
            relay::Step::Done(outcome) => self.end_exchange(*exchange, outcome, worker),
        }
    }

    /// An exchange is over.
    fn end_exchange(
        &mut self,
        exchange: Exchange<PendingRequest>,
        outcome: Outcome<Lease>,
        worker: &mut Worker,
    ) -> SessionStep {
        let is_read = exchange.is_read();
        let Exchange {
            host: pending,
            trace,
            status,
            ..
        } = exchange;
        match outcome {
            Outcome::Delivered(delivered, drain) => {
                let about = LogContext::pending(&pending);
                about.log_end(status, &delivered, &trace);
                let after = AfterResponse {
                    reason: Close::Complete,
                    idle: pending.site().settings.keepalive.unwrap_or_default(),
                    unread: !is_read,
                };
                self.drain(drain);
                self.next(delivered, after, worker)
            }
            Outcome::Switched(switched) => self.switch(pending, switched, trace, worker),
            Outcome::Failed(RelayError::Upload(error)) => {
                self.refuse_upload(&pending, error, trace, worker)
            }
            Outcome::Failed(error) => {
                let response = pending.failed(error, trace);
                self.answer(&pending, response, is_read, worker)
            }
            Outcome::Gone(drain) => {
                self.drain(drain);
                self.gone(&pending, &trace)
            }
        }
    }

    /// The visitor is given up: its backend's response is read for a moment, so that the backend can go on.
    fn drain(&self, drain: Option<Drain<Lease>>) {
        if let Some(drain) = drain {
            self.shared.drainer.add(drain);
        }
    }

    /// The backend has switched to another protocol, so the visitor does now, and HTTP is over.
    fn switch(
        &mut self,
        mut pending: PendingRequest,
        switched: Switched<Lease>,
        trace: Trace,
        worker: &mut Worker,
    ) -> SessionStep {
        let Switched {
            head,
            upstream: mut lease,
            behind,
        } = switched;
        let Some(mut permit) = pending.permit.take() else {
            return SessionStep::Close(Close::Internal);
        };
        lease.switch();
        let stats = &self.shared.stats;
        stats.answered(head.status);
        permit.make_use(stats);
        let mut to_visitor = mem::take(&mut self.pending_output);
        let date = Some(worker.date());
        head.write(Framing::Empty, Persistence::Upgrade, date, &mut to_visitor);
        let length = to_visitor.len() as u64;
        to_visitor.extend_from_slice(&behind);
        // What the visitor has sent behind its request was nobody's until now (RFC 9110 7.8).
        let to_backend = worker.input.data().to_vec();
        worker.input.clear();
        let timeouts = &pending.site().settings.timeouts;
        let patience = TunnelTimeouts {
            idle: timeouts.tunnel,
            write: timeouts.write,
            backend: timeouts.backend,
            visitor: timeouts.body,
        };
        // It may be silent for a long time.
        self.conn.stream().watch_peer_at_leisure();
        // And the backend may have other things to do for a while.
        lease.as_mut().stream().give_up_after(timeouts.backend);
        let start = Box::new(tunnel::Start {
            backend: lease,
            to_visitor,
            to_backend,
            patience,
        });
        let carried = Box::new(TunnelState {
            subject: LogContext::pending(&pending).keep(head.status, trace),
            permit,
            head: length,
        });
        SessionStep::Tunnel(State::Tunnel(carried), start)
    }

    /// Its upgraded connection is over.
    pub(crate) fn end_tunnel(mut self, backend: Lease, ended: &TunnelEnded) {
        backend.close(ended.reason);
        if let State::Tunnel(carried) = mem::replace(&mut self.state, State::Running) {
            let TunnelState {
                subject,
                permit,
                head,
            } = *carried;
            drop(permit);
            let delivered = Delivered {
                bytes: ended.to_visitor.saturating_sub(head),
                ended: ended.reason,
                keep: false,
            };
            Self::log_subject(&subject, &delivered);
            log::debug!(
                "visitor {}: {} bytes there and {} back through a tunnel: reason={}",
                self.peer,
                ended.to_backend,
                delivered.bytes,
                ended.reason
            );
        }
        self.close(ended.reason);
    }

    fn linger(
        &mut self,
        mut quiet: Instant,
        deadline: Instant,
        worker: &mut Worker,
    ) -> SessionStep {
        let mut left = TURN;
        loop {
            worker.input.clear();
            let now = Instant::now();
            if self.expired || now >= deadline.min(quiet) {
                return SessionStep::Close(self.reason);
            }
            if left == 0 {
                return SessionStep::Yield(State::Linger { quiet, deadline });
            }
            match self.fill(worker) {
                Ok(Some(count @ 1..)) => {
                    left = left.saturating_sub(count);
                    quiet = now + LINGER;
                }
                Ok(None) => {
                    let state = State::Linger { quiet, deadline };
                    return SessionStep::Wait(state, Interests::time(deadline.min(quiet)));
                }
                Ok(Some(0)) | Err(_) => return SessionStep::Close(self.reason),
            }
        }
    }
}

impl AsMut<Conn> for Session {
    fn as_mut(&mut self) -> &mut Conn {
        &mut self.conn
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.conn.as_fd()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if thread::panicking() {
            // What was sent of an answer must not pass for a whole one.
            self.conn.reset_on_close();
        }
        self.end_under_way();
        self.uncount_request();
        if let Some(counted) = self.counted.take() {
            self.shared.clients.leave(counted);
        }
        self.shared.stats.visitor_closed(self.reason);
        log::debug!("visitor {} closed: reason={}", self.peer, self.reason);
        self.shared.poller.leave(self.token);
    }
}

impl State {
    const fn idle(idle_until: Instant) -> Self {
        Self::Head(ReadingHead::idle(idle_until))
    }

    /// Whether the visitor's socket is read in this state.
    const fn reads(&self) -> bool {
        matches!(
            self,
            Self::Head(_) | Self::Auth(_) | Self::Body(_) | Self::Linger { .. }
        )
    }

    /// The socket of the backend, while it has one.
    fn backend(&mut self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Exchange(exchange) => exchange.backend(),
            _ => None,
        }
    }
}

impl ReadingHead {
    const fn idle(idle_until: Instant) -> Self {
        Self {
            scanner: HeadScanner::new(),
            begun: None,
            idle_until,
            handshake: false,
        }
    }
}

/// What is said to a backend that dials in where clients are served.
const PREAMBLE_HERE: &str = "this is the preamble of a backend, and the port is for clients; \
                             let the backend dial in at the outgoing address of its site";

/// How a TLS connection begins: a record of type handshake and version 3 (RFC 8446 5.1).
const TLS_HANDSHAKE: &[u8] = &[0x16, 0x03];

/// What is said to a client that begins TLS at an address without it.
const TLS_HERE: &str = "this port speaks HTTP; ask with http://, or write its address in ssl";

/// Why a head is refused, with the key of the limit that it exceeds and its value.
fn reason_of(refusal: &Refusal, limits: &HeadLimits) -> Cow<'static, str> {
    match refusal.limit(limits) {
        None => Cow::Borrowed(refusal.why),
        Some((key, most)) => {
            let most = match key {
                "fields" => most.to_string(),
                _ => size_text(most as u64),
            };
            Cow::Owned(format!("{}: limits.{key} ({most})", refusal.why))
        }
    }
}

const fn head_limits(limits: &Limits) -> HeadLimits {
    HeadLimits {
        head: limits.head,
        fields: limits.fields,
        target: limits.target,
    }
}

/// Bytes of memory that an idle connection takes, with its socket's and the poller's notes about it.
const fn connection_bytes(secure: bool) -> u64 {
    match secure {
        true => 8 << 10,
        false => 1 << 10,
    }
}

/// So many bytes of a body are collected before others have their turn.
const TURN: usize = 1 << 20;
/// Pipelined requests that are answered before other visitors have their turn.
const MOST_IN_A_ROW: u32 = 32;
