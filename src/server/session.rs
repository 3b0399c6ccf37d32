//! One visitor's connection, from accept to close. **The front door**: start reading here.
//!
//! A session is a small machine. [`Session::run`] is called by a worker whenever there is something to do, and
//! goes from state to state until the session has to wait for the visitor, or for its turn, and is *parked*, or
//! until the connection is closed:
//!
//! 1. [`State::Head`]: reading a request head. An idle connection is one that has read nothing of it yet.
//!    Where the site asks for a password, [`State::Door`]: waiting until it can be checked (`door`); then [`State::Open`].
//! 2. [`State::Body`]: collecting the request's body.
//! 3. [`State::Turn`]: waiting for a worker that the site may hold, then [`respond`](super::respond) and
//!    [`deliver`](super::deliver), and back to 1.
//! 4. [`State::Stalled`]: the visitor has not taken all of its answer yet; then back to 1.
//! 5. [`State::Tunnel`]: the backend has switched to another protocol. No worker runs the session any more, the thread
//!    of the [`tunnel`]s has it.
//! 6. [`State::Linger`]: everything is said; what the visitor still sends is thrown away for a moment, so that
//!    the system does not reset the connection before the answer was read.
//!
//! What is refused on the way is in `refuse`, what the access log is told in `about`.
//!
//! **Invariants**
//! - The box owns the socket. Who holds the box, a worker, the poller or the tunnels, owns the connection.
//! - A deadline is set when a state is entered and stays the same however often the session is parked in it.
//! - Every way out sets [`Session::reason`]; dropping the session closes the connection, counts and logs that.

mod about;
mod door;
mod refuse;

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use about::{About, Subject};
use door::Door;

use super::admission::{Counted, Entry, Permit, Place};
use super::collect::{self, Collector, Fault};
use super::deliver::{Delivered, Delivery, Progress, Stalled};
use super::files;
use super::pages;
use super::respond::{CONTINUE, Errand, Outcome, Passage, Watch, respond, tell, unavailable};
use super::route::{Route, route};
use super::shared::Shared;
use super::snapshot::Held;
use super::worker::{Pen, Worker};
use crate::backend::lease::Lease;
use crate::backend::relay::{Cause, Switched};
use crate::budget::Charge;
use crate::config::Limits;
use crate::exchange::{Request, RequestBody, Response, Trace, UploadError};
use crate::http::body::Framing;
use crate::http::head::{HeadLimits, HeadScanner, Persistence, RequestHead};
use crate::net::conn::Conn;
use crate::net::poller::{self, Interest, Token};
use crate::net::stream::{Peer, Pending};
use crate::net::tunnel::{self, Ended, Patience};
use crate::stats::{self, Close};

/// A visitor's connection.
pub(crate) struct Session {
    shared: Arc<Shared>,
    token: Token,
    conn: Conn,
    peer: Peer,
    /// It counts for the limit of its address.
    counted: Option<Counted>,
    /// Bytes that were read and not used when the session was parked.
    leftover: Vec<u8>,
    /// Bytes that the visitor did not take and that go in front of its next answer.
    owed: Vec<u8>,
    /// What the connection takes of the memory, without its requests and answers.
    memory: Charge,
    /// What may be left in the socket.
    unread: Unread,
    state: State,
    /// Why the connection is closed, once it is dropped.
    reason: Close,
    /// Its deadline is over; it was not closed at once since the visitor is owed an answer.
    expired: bool,
    /// Exchanges so far.
    answered: u32,
    /// The site in whose line it stands, or whose turn it was granted and has not taken yet. It is here and not in the
    /// state, so that the place is given up whatever happens to the session.
    line: Option<Place>,
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
    Head(Reading),
    Door(Box<Door>),
    Open(Box<Errand>),
    Body(Box<Collecting>),
    Turn(Box<Errand>),
    Stalled(Box<Answering>),
    Tunnel(Box<Carried>),
    Linger {
        left: usize,
        deadline: Instant,
    },
}

/// A head on its way in.
struct Reading {
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
    errand: Errand,
    collector: Collector,
    began: Instant,
    deadline: Instant,
}

/// An answer that the visitor takes slowly.
struct Answering {
    stalled: Stalled,
    subject: Subject,
    then: Then,
    /// It stands in line for a worker, to go on with its backend, until then at the longest.
    in_line: Option<Instant>,
}

/// An upgraded connection.
struct Carried {
    subject: Subject,
    permit: Permit,
    /// Bytes of what went to the visitor that are not the backend's.
    head: u64,
}

/// How the turn of a request ended.
enum Turned {
    Sent(Sent),
    Switched(Box<Switched>),
    /// No backend here, but there is another site for that.
    Elsewhere,
    Refused(UploadError, Trace),
}

/// An answer that was begun.
struct Sent {
    progress: Progress,
    status: u16,
    trace: Trace,
}

/// What to do once an answer is delivered.
#[derive(Clone, Copy)]
struct Then {
    /// Why the connection is closed, if it is not kept.
    reason: Close,
    /// How long it may be idle, if it is.
    idle: Duration,
    /// The visitor may still be sending.
    unread: bool,
}

/// What comes next.
enum Step {
    Go(State),
    Park(State, Interest, Instant),
    Tunnel(State, Box<tunnel::Start<Lease>>),
    Close(Close),
}

/// What becomes of a session that has run.
pub(crate) enum Rest {
    /// It is to be parked: what it waits for and how long.
    Park(Box<Session>, Interest, Instant),
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
        counted: Option<Counted>,
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
            leftover: Vec::new(),
            owed: Vec::new(),
            memory,
            unread: Unread::Unsure,
            state: State::Head(Reading {
                handshake,
                ..Reading::idle(Instant::now() + patience)
            }),
            reason: Close::Internal,
            expired: false,
            answered: 0,
            line: None,
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

    /// The poller says what it knows about the socket; `None` where something has happened in the meantime.
    pub(crate) const fn notice(&mut self, cause: Option<poller::Cause>) {
        if matches!(self.state, State::Stalled(_)) {
            // Nothing was told of what there is to read.
            self.unread = Unread::Unsure;
            return;
        }
        self.unread = match cause {
            Some(poller::Cause::Ready) => Unread::Bytes,
            Some(poller::Cause::Woken) => self.unread,
            Some(poller::Cause::Ended) | None => Unread::Unsure,
        };
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
    pub(crate) fn run(mut self: Box<Self>, worker: &mut Worker) -> Rest {
        worker.input.clear();
        worker.input.append(&std::mem::take(&mut self.leftover));
        self.recount();
        let enough = self.answered.saturating_add(MOST_IN_A_ROW);
        loop {
            let step = match std::mem::replace(&mut self.state, State::Running) {
                State::Running | State::Tunnel(_) => Step::Close(Close::Internal),
                State::Head(reading) => self.read_head(reading, worker),
                State::Door(door) => self.admit(door.errand, Some(door.ticket), worker),
                State::Open(errand) => self.open(*errand, worker),
                State::Body(collecting) => self.collect(collecting, worker),
                State::Turn(errand) => self.take_turn(*errand, worker),
                State::Stalled(answering) => self.go_on(*answering, worker),
                State::Linger { left, deadline } => self.linger(left, deadline, worker),
            };
            match step {
                Step::Go(state) => {
                    self.state = state;
                    worker.pass_on();
                    if self.answered >= enough || matches!(self.state, State::Stalled(_)) {
                        self.leftover.extend_from_slice(worker.input.data());
                        return Rest::Yield(self);
                    }
                }
                Step::Park(state, interest, deadline) => {
                    self.state = state;
                    self.leftover.extend_from_slice(worker.input.data());
                    self.recount();
                    return Rest::Park(self, interest, deadline);
                }
                Step::Tunnel(state, start) => {
                    self.state = state;
                    return Rest::Tunnel(self, start);
                }
                Step::Close(reason) => {
                    self.reason = reason;
                    return Rest::Closed;
                }
            }
        }
    }

    /// Charges what the connection keeps now.
    fn recount(&mut self) {
        let kept = self.leftover.len() + self.owed.len();
        let connection = connection_bytes(self.conn.is_secure());
        self.memory.force(connection + kept as u64);
    }

    fn read_head(&mut self, mut reading: Reading, worker: &mut Worker) -> Step {
        let snapshot = Arc::clone(worker.snapshot());
        let patience = snapshot.config.timeouts.head;
        let limits = head_limits(&snapshot.config.limits);
        loop {
            if !worker.input.is_empty() {
                let refusal = match reading.scanner.scan(worker.input.data(), &limits) {
                    Ok(Some(end)) => {
                        let parsed = RequestHead::parse(&worker.input.data()[..end], &limits);
                        worker.input.consume(end);
                        match parsed {
                            Ok(head) => return self.begin(head, end, snapshot, worker),
                            Err(refusal) => Some(refusal),
                        }
                    }
                    Ok(None) => None,
                    Err(refusal) => Some(refusal),
                };
                if let Some(refusal) = refusal {
                    return self.refuse(
                        refusal.status,
                        refusal.why,
                        reading.begun,
                        &snapshot,
                        worker,
                    );
                }
                if reading.scanner.has_begun() {
                    // Most heads come in one piece, and then nobody asks what time it is.
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
                    return Step::Park(State::Head(reading), Interest::Read, deadline);
                }
                (Err(error), _) if error.kind() == ErrorKind::Unsupported => {
                    self.conn.give_up_tls();
                    let why = "this port speaks TLS; ask with https://";
                    return self.refuse(400, why, begun, &snapshot, worker);
                }
                (Err(error), _) if error.kind() == ErrorKind::InvalidData => {
                    log::debug!("visitor {}: {error}", self.peer);
                    return Step::Close(Close::TlsFailed);
                }
                (_, Some(_)) => return Step::Close(Close::ClientGone),
                (_, None) => return Step::Close(Close::PeerClosed),
            }
        }
    }

    /// A head, of so many bytes, is complete: decides where the request goes, before anything of its body is read.
    fn begin(
        &mut self,
        head: RequestHead,
        length: usize,
        snapshot: Held,
        worker: &mut Worker,
    ) -> Step {
        let received = Instant::now();
        let own = match route(&snapshot, &head) {
            Route::Site(site) => Ok(site),
            Route::Health => Err(pages::health(&self.shared.stats, self.peer.ip())),
            Route::NotFound => Err(pages::page(404, "There is no such site here.", Some(&head))),
        };
        let unread = head.has_body();
        let site = match own {
            Ok(site) => site,
            Err(response) => {
                let about = About::request(&head, received, None, &snapshot);
                let sent = self.deliver(&about, response, !unread, &mut worker.pen());
                let then = Then {
                    reason: Close::Complete,
                    idle: snapshot.config.timeouts.idle,
                    unread,
                };
                return self.after(sent, &about, then, worker);
            }
        };
        let Some(memory) = self.shared.memory_for(Errand::memory(length)) else {
            return self.refuse_overload(&head, received, site, &snapshot, worker);
        };
        let errand = Errand {
            request: Request {
                trusted: snapshot.trusts(&self.peer),
                head,
                body: RequestBody::Empty,
                peer: self.peer,
                secure: self.conn.is_secure(),
                received,
                user: None,
            },
            snapshot,
            site,
            from: site,
            since: received,
            queued: Duration::ZERO,
            watch: Watch::new(received),
            passage: None,
            permit: None,
            wait: None,
            _memory: memory,
        };
        let site = errand.site();
        if site.pages.are_closed(received) {
            let page = site.closed(&errand.request.head);
            return self.decline(&errand, page, worker);
        }
        match site.guards.is_empty() {
            true => self.open(errand, worker),
            false => self.admit(errand, None, worker),
        }
    }

    /// Answers a request of a site of whose body nothing was read.
    fn decline(&mut self, errand: &Errand, page: Response<'_>, worker: &mut Worker) -> Step {
        let settings = &errand.site().settings;
        let unread = errand.request.head.has_body();
        let about = About::errand(errand);
        let keep = settings.keepalive.is_some() && !unread;
        let sent = self.deliver(&about, page, keep, &mut worker.pen());
        let then = Then {
            reason: Close::Complete,
            idle: settings.keepalive.unwrap_or_default(),
            unread,
        };
        self.after(sent, &about, then, worker)
    }

    /// A request may go on: answers it with a file, or decides what becomes of its body.
    fn open(&mut self, mut errand: Errand, worker: &mut Worker) -> Step {
        if let Some(response) = files::answer(errand.site(), &errand.request.head, errand.since) {
            return self.decline(&errand, response, worker);
        }
        let framing = errand.request.head.framing;
        if !errand.request.head.has_body() {
            return self.take_turn(errand, worker);
        }
        let received = errand.since;
        let settings = &errand.site().settings;
        let limits = &settings.limits;
        if !settings.request_buffering {
            let Some(passage) = Passage::new(&errand.request, &head_limits(limits), settings)
            else {
                return self.refuse_body(&errand, &Fault::TooLarge, Trace::default(), worker);
            };
            errand.request.body = RequestBody::Stream {
                length: match framing {
                    Framing::Length(length) => Some(length),
                    _ => None,
                },
            };
            errand.passage = Some(Box::new(passage));
            return self.take_turn(errand, worker);
        }
        let collector = Collector::new(
            framing,
            &head_limits(limits),
            limits.body,
            self.shared.room(&errand.snapshot, Some(errand.site)),
        );
        let collector = match collector {
            Ok(collector) => collector,
            Err(fault) => return self.refuse_body(&errand, &fault, Trace::default(), worker),
        };
        if errand.request.head.expect_continue && worker.input.is_empty() {
            // RFC 9110 10.1.1.
            tell(&mut self.conn, &mut self.owed, CONTINUE);
        }
        let deadline = received + settings.timeouts.body;
        Step::Go(State::Body(Box::new(Collecting {
            errand,
            collector,
            began: received,
            deadline,
        })))
    }

    fn collect(&mut self, mut collecting: Box<Collecting>, worker: &mut Worker) -> Step {
        loop {
            match collecting.collector.take(&mut worker.input) {
                Ok(false) => {}
                Ok(true) => return self.collected(*collecting, worker),
                Err(fault) => {
                    return self.refuse_body(&collecting.errand, &fault, Trace::default(), worker);
                }
            }
            match self.fill(worker) {
                Ok(Some(1..)) => {
                    let patience = collecting.errand.site().settings.timeouts.body;
                    collecting.deadline = Instant::now() + patience;
                    self.expired = false;
                }
                // As with a head, what has come by now counts.
                Ok(None) => {
                    let now = Instant::now();
                    let late = self.expired || now >= collecting.deadline;
                    let reason = match (late, collecting.is_too_slow(now)) {
                        (true, _) => Close::BodyTimeout,
                        (false, true) => Close::BodySlow,
                        (false, false) => {
                            let deadline = collecting.deadline;
                            return Step::Park(State::Body(collecting), Interest::Read, deadline);
                        }
                    };
                    return self.refuse_slow(&collecting.errand, reason, Trace::default(), worker);
                }
                Ok(Some(0)) | Err(_) => return self.gone(&collecting.errand, &Trace::default()),
            }
        }
    }

    fn collected(&mut self, collecting: Collecting, worker: &mut Worker) -> Step {
        let Collecting {
            mut errand,
            collector,
            ..
        } = collecting;
        errand.request.body = collector.finish();
        errand.since = Instant::now();
        errand.watch = Watch::new(errand.since);
        self.take_turn(errand, worker)
    }

    /// The request is complete: takes its place in line, or relays it and delivers the answer.
    fn take_turn(&mut self, mut errand: Errand, worker: &mut Worker) -> Step {
        let in_line = errand.wait.is_some();
        // If nothing has been heard of the socket since it was parked, the visitor is still there.
        if in_line && self.unread != Unread::Nothing && errand.watch.is_gone(&self.conn) {
            self.leave_line();
            return self.gone(&errand, &errand.waited());
        }
        if in_line && self.expired {
            self.leave_line();
            if errand.fall_back() {
                self.expired = false;
                return self.take_turn(errand, worker);
            }
            let response = unavailable(&errand, Cause::NoBackend);
            return self.answer(&errand, response, worker);
        }
        let place = errand.supplier().place;
        if !self.enter(place, worker) {
            if !in_line && self.unread == Unread::Unsure {
                // The end may have come right behind the request, and the poller will not tell again.
                errand.watch.half_closed = self.conn.pending() == Pending::End;
            }
            let wait = errand.wait.take();
            errand.wait = wait.or_else(|| errand.supplier().waiting.enter());
            if errand.wait.is_none() {
                self.leave_line();
                if errand.fall_back() {
                    return self.take_turn(errand, worker);
                }
                let response = unavailable(&errand, Cause::Full);
                return self.answer(&errand, response, worker);
            }
            let deadline = errand.since + errand.supplier().settings.timeout;
            let state = State::Turn(Box::new(errand));
            return Step::Park(state, Interest::Read, deadline);
        }
        // From here on the site holds this worker, until the answer is delivered.
        let turned = {
            let (input, reply, mut pen) = worker.tools();
            let stats = &self.shared.stats;
            if errand.passage.is_some() {
                // It is read past our own notes.
                self.unread = Unread::Unsure;
            }
            match respond(
                &mut errand,
                &mut self.conn,
                input,
                &mut self.owed,
                stats,
                reply,
                pen.out,
            ) {
                Outcome::Answer(response) => {
                    Turned::Sent(self.deliver_errand(&errand, response, &mut pen))
                }
                Outcome::Switched(switched) => Turned::Switched(Box::new(switched)),
                Outcome::Elsewhere => Turned::Elsewhere,
                Outcome::Refuse(error, trace) => Turned::Refused(error, trace),
            }
        };
        worker.let_go();
        match turned {
            Turned::Sent(sent) => self.after_errand(&errand, sent, worker),
            Turned::Switched(switched) => self.switch(errand, *switched, worker),
            Turned::Elsewhere => {
                errand.fall_back();
                // Whoever was let in by that is not kept waiting for it.
                worker.pass_on();
                self.take_turn(errand, worker)
            }
            Turned::Refused(error, trace) => self.refuse_upload(&errand, error, trace, worker),
        }
    }

    /// The backend has switched to another protocol, so the visitor does now, and HTTP is over.
    fn switch(&mut self, mut errand: Errand, switched: Switched, worker: &mut Worker) -> Step {
        let Switched {
            head,
            mut lease,
            behind,
            trace,
        } = switched;
        let Some(mut permit) = errand.permit.take() else {
            return Step::Close(Close::Internal);
        };
        lease.switch();
        let stats = &self.shared.stats;
        stats.answered(head.status);
        permit.make_use(stats);
        let mut to_visitor = std::mem::take(&mut self.owed);
        let date = Some(worker.pen().clock.date());
        head.write(Framing::Empty, Persistence::Upgrade, date, &mut to_visitor);
        let length = to_visitor.len() as u64;
        to_visitor.extend_from_slice(&behind);
        // What the visitor has sent behind its request was nobody's until now (RFC 9110 7.8).
        let to_backend = worker.input.data().to_vec();
        worker.input.clear();
        let timeouts = &errand.site().settings.timeouts;
        let patience = Patience {
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
        let carried = Box::new(Carried {
            subject: About::errand(&errand).keep(head.status, trace),
            permit,
            head: length,
        });
        Step::Tunnel(State::Tunnel(carried), start)
    }

    /// Its upgraded connection is over.
    pub(crate) fn end_tunnel(mut self, backend: Lease, ended: &Ended) {
        backend.close(ended.reason);
        if let State::Tunnel(carried) = std::mem::replace(&mut self.state, State::Running) {
            let Carried {
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
            self.log_subject(&subject, &delivered);
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

    /// There may be room for more of an answer.
    fn go_on(&mut self, mut answering: Answering, worker: &mut Worker) -> Step {
        let place = answering.subject.place();
        if answering.in_line.is_some() && self.expired {
            self.leave_line();
            let delivered = answering.stalled.cut(&mut self.conn, Close::Overload);
            return self.delivered(&answering.subject, delivered, answering.then, worker);
        }
        self.expired = false;
        // In line it has nothing more to write.
        if answering.in_line.is_none() {
            match answering.stalled.flush(&mut self.conn, worker.pen().out) {
                Ok(true) => {}
                Ok(false) => return Step::stall(answering),
                Err(cut) => return self.delivered(&answering.subject, cut, answering.then, worker),
            }
        }
        let place = place.filter(|_| answering.stalled.has_source());
        if let Some(place) = place {
            // The backend may keep a worker waiting, so this counts like the beginning of an exchange.
            if !self.enter(place, worker) {
                let longest = || Instant::now() + LONGEST_LINE;
                let deadline = *answering.in_line.get_or_insert_with(longest);
                return Step::Park(
                    State::Stalled(Box::new(answering)),
                    Interest::Read,
                    deadline,
                );
            }
        }
        let Answering {
            stalled,
            subject,
            then,
            ..
        } = answering;
        let room = || self.shared.room(&subject.snapshot, subject.site);
        let progress = stalled.resume(&mut self.conn, &room, worker.pen().out);
        worker.let_go();
        match progress {
            Progress::Done(delivered) => self.delivered(&subject, delivered, then, worker),
            Progress::Stalled(stalled) => Step::stall(Answering {
                stalled: *stalled,
                subject,
                then,
                in_line: None,
            }),
        }
    }

    /// An answer that has stalled is over.
    fn delivered(
        &mut self,
        subject: &Subject,
        delivered: Delivered,
        then: Then,
        worker: &Worker,
    ) -> Step {
        self.log_subject(subject, &delivered);
        self.next(delivered, then, worker)
    }

    fn linger(&mut self, mut left: usize, deadline: Instant, worker: &mut Worker) -> Step {
        loop {
            left = left.saturating_sub(worker.input.data().len());
            worker.input.clear();
            if left == 0 || self.expired || Instant::now() >= deadline {
                return Step::Close(self.reason);
            }
            match self.fill(worker) {
                Ok(Some(1..)) => {}
                Ok(None) => {
                    return Step::Park(State::Linger { left, deadline }, Interest::Read, deadline);
                }
                Ok(Some(0)) | Err(_) => return Step::Close(self.reason),
            }
        }
    }

    /// Answers a request of a site.
    fn answer(&mut self, errand: &Errand, response: Response<'_>, worker: &mut Worker) -> Step {
        let sent = self.deliver_errand(errand, response, &mut worker.pen());
        self.after_errand(errand, sent, worker)
    }

    fn deliver_errand(
        &mut self,
        errand: &Errand,
        response: Response<'_>,
        pen: &mut Pen<'_>,
    ) -> Sent {
        let keep = errand.site().settings.keepalive.is_some() && errand.is_read();
        self.deliver(&About::errand(errand), response, keep, pen)
    }

    fn after_errand(&mut self, errand: &Errand, sent: Sent, worker: &Worker) -> Step {
        let then = Then {
            reason: Close::Complete,
            idle: errand.site().settings.keepalive.unwrap_or_default(),
            unread: !errand.is_read(),
        };
        self.after(sent, &About::errand(errand), then, worker)
    }

    /// Writes a response and counts it. `keep`: the connection may be kept for our part.
    fn deliver(
        &mut self,
        about: &About<'_>,
        mut response: Response<'_>,
        keep: bool,
        pen: &mut Pen<'_>,
    ) -> Sent {
        let status = response.head.status;
        // Before the visitor can know of it.
        self.shared.stats.answered(status);
        let trace = std::mem::take(&mut response.trace);
        let timeouts = about
            .site()
            .map_or(&about.snapshot.config.timeouts, |site| {
                &site.settings.timeouts
            });
        let shared = &self.shared;
        let progress = Delivery {
            conn: &mut self.conn,
            owed: std::mem::take(&mut self.owed),
            method: about.head.map(|head| &head.method),
            version: about.head.map(|head| head.version),
            keep: keep && about.head.is_some_and(|head| head.persistent) && !shared.is_draining(),
            date: pen.clock.date(),
            patience: timeouts.write,
            room: &|| shared.room(about.snapshot, about.site),
        }
        .deliver(response, pen.out);
        Sent {
            progress,
            status,
            trace,
        }
    }

    /// What to do after a delivery, or in the middle of one that the visitor does not take.
    fn after(&mut self, sent: Sent, about: &About<'_>, then: Then, worker: &Worker) -> Step {
        let Sent {
            progress,
            status,
            trace,
        } = sent;
        match progress {
            Progress::Done(delivered) => {
                about.log_end(&self.peer, status, &delivered, &trace);
                self.next(delivered, then, worker)
            }
            Progress::Stalled(stalled) => Step::stall(Answering {
                stalled: *stalled,
                subject: about.keep(status, trace),
                then,
                in_line: None,
            }),
        }
    }

    /// The next request, or the close.
    fn next(&mut self, delivered: Delivered, then: Then, worker: &Worker) -> Step {
        self.answered = self.answered.saturating_add(1);
        self.expired = false;
        let now = Instant::now();
        if delivered.keep {
            let deadline = now + then.idle;
            let state = State::idle(deadline);
            // Looking for a next request that is rarely there would cost a system call each time.
            return match worker.input.is_empty() && self.unread == Unread::Nothing {
                true => Step::Park(state, Interest::Read, deadline),
                false => Step::Go(state),
            };
        }
        if delivered.ended != Close::Complete {
            return Step::Close(delivered.ended);
        }
        self.reason = match self.shared.is_draining() && then.reason == Close::Complete {
            true => Close::Draining,
            false => then.reason,
        };
        let is_heard_out = !then.unread && worker.input.is_empty();
        // A socket that is closed with something unread in it is reset (RFC 9112 9.6), and what the visitor has not got
        // of its answer yet is lost.
        if is_heard_out && self.conn.stream().pending() != Pending::Bytes {
            return Step::Close(self.reason);
        }
        self.conn.finish_writing();
        Step::Go(State::Linger {
            left: MOST_LINGERED,
            deadline: now + LINGER,
        })
    }

    /// Asks for a worker for an exchange with a site, and has the site hold this one. `false`: there is none, and the
    /// session stands in line.
    fn enter(&mut self, place: Place, worker: &mut Worker) -> bool {
        let admitted = self.shared.admission.enter(place, self.token) == Entry::Admitted;
        self.line = match admitted {
            true => {
                worker.hold(place);
                None
            }
            false => Some(place),
        };
        admitted
    }

    /// Gives up its place in line, or its turn, if it has one.
    fn leave_line(&mut self) {
        let Some(place) = self.line.take() else {
            return;
        };
        for token in self.shared.admission.forget(place, self.token) {
            self.shared.poller.wake(token);
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
        self.leave_line();
        self.log_under_way();
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
        Self::Head(Reading::idle(idle_until))
    }
}

impl Reading {
    const fn idle(idle_until: Instant) -> Self {
        Self {
            scanner: HeadScanner::new(),
            begun: None,
            idle_until,
            handshake: false,
        }
    }
}

impl Step {
    /// Waits for the visitor to take more, or for its turn to be given more.
    fn stall(answering: Answering) -> Self {
        let is_due = answering.stalled.is_due();
        let deadline = answering.stalled.deadline();
        let state = State::Stalled(Box::new(answering));
        match is_due {
            true => Self::Go(state),
            false => Self::Park(state, Interest::Write, deadline),
        }
    }
}

impl Then {
    /// A refusal: what the visitor still sends is nothing for us.
    const fn close(reason: Close) -> Self {
        Self {
            reason,
            idle: Duration::ZERO,
            unread: true,
        }
    }
}

impl Collecting {
    fn is_too_slow(&self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.began);
        collect::is_too_slow(elapsed, self.collector.length())
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

/// How long an answer in the middle may wait for a worker.
const LONGEST_LINE: Duration = Duration::from_secs(60);
/// Pipelined requests that are answered before other visitors have their turn.
const MOST_IN_A_ROW: u32 = 32;
/// How long a visitor may go on sending after its last answer, and how much.
const LINGER: Duration = Duration::from_secs(1);
const MOST_LINGERED: usize = 64 * 1024;
