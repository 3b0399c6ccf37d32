//! One exchange: sends a request to a backend and delivers the response to the client.
//!
//! An [`Exchange`] is a state machine that never waits. [`Exchange::advance`] does what can be done now and returns
//! what it is [blocked](Step::Blocked) on; the [`worker`] that runs it then blocks for a moment or parks it in the poller.
//! The [`ExchangeHandler`] trait holds what differs between the two programs.
//!
//! The page "Life of a session" of the [library](crate) has a table of the phases, with what each of them waits for, until
//! when, and what follows.
//!
//! Bytes that have arrived count even if the workers are late: each phase reads first and then looks at the clock.
//!
//! In reading order: [`handler`] is what the program adds, and [`context`] what the phases share. [`call`] sends the
//! request and reads the head of the response; [`upload`] passes on a body as it arrives. [`download`] reads the body
//! of the response, and [`delivery`] brings it to the client: `pull` carries it from its source to the [`output`],
//! [`mod@file`] sends from memory or disk, [`spool`] keeps what the client has not taken yet, and [`rate`] measures how
//! fast it sends or takes. [`drain`] reads a response that no client waits for; [`disconnect`] distinguishes a client
//! that has left from one that has only finished sending. [`worker`] is the thread that runs an exchange, and [`parking`]
//! what it knows of a connection that waits.
//!
//! Called by workers.
//!
//! **Invariants**
//! - Nothing here waits, except for one read of the backend for at most [`Tools::patience`].
//! - A backend is used again only if the request was written completely, the response was read to its end, and nothing
//!   followed. Otherwise its connection is closed, so nothing of one exchange can leak into another.
//! - A phase owns no buffer, only bytes that were read and not used yet.

pub mod call;
pub mod context;
pub mod delivery;
pub mod disconnect;
pub mod download;
pub mod drain;
pub mod file;
pub mod handler;
pub mod output;
pub mod parking;
mod pull;
pub mod rate;
pub mod spool;
pub mod upload;
pub mod worker;

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use self::call::Call;
pub use self::context::{
    CONTINUE, ClientSide, Interests, RelayError, RelayRequest, Rules, Tools, write_interim,
};
use self::delivery::{Delivered, Delivery, Progress};
use self::drain::Drain;
pub use self::handler::{ExchangeHandler, FailedAttempt, Responding};
use self::output::Reader;
use self::upload::StreamingUpload;
use crate::backend::lease::{Acquired, Connected, Connecting, Ticket, Upstream};
use crate::exchange::{ResponseSource, Timings, Trace, UploadError};
use crate::http::head::ResponseHead;
use crate::net::conn::Conn;
use crate::stats::Close;

/// The result of [`Exchange::advance`].
pub enum Step<U: Upstream> {
    /// Nothing can be done before one of these happens.
    Blocked(Interests),
    /// There is more to do, but other work should run first.
    Yield,
    /// The exchange is over.
    Done(Outcome<U>),
}

/// How an exchange ended.
pub enum Outcome<U: Upstream> {
    /// A response was delivered, or cut. The backend may still be sending a rest that no client wants.
    Delivered(Delivered, Option<Drain<U>>),
    /// The backend has switched to the protocol that was asked for.
    Switched(Box<Switched<U>>),
    /// There is no response; the client got interim ones at most.
    Failed(RelayError),
    /// The client left before the response.
    Gone(Option<Drain<U>>),
}

/// A backend's connection that was switched to another protocol (RFC 9110 7.8).
pub struct Switched<U> {
    /// The head of the 101 response.
    pub head: ResponseHead,
    /// The connection.
    pub upstream: U,
    /// What followed the head.
    pub behind: Vec<u8>,
}

/// An exchange.
pub struct Exchange<H: ExchangeHandler> {
    /// The request, and how its program handles it.
    pub handler: H,
    /// The backend, and where the time went.
    pub trace: Trace,
    /// The status of the response, once there is one.
    pub status: u16,
    /// The body of the request, if it is streamed.
    pub upload: Option<Box<StreamingUpload>>,
    /// The current wait for a backend; once there is one, it begins when that was acquired.
    wait: BackendWait,
    /// The wait that ended with the current backend.
    wait_before: BackendWait,
    /// Backends that have had some of the request.
    attempts: u32,
    phase: Phase<H::Upstream>,
    /// What was read from the backend but not used when the exchange was last blocked.
    leftover: Vec<u8>,
}

/// A wait for a backend.
#[derive(Clone, Copy)]
struct BackendWait {
    since: Instant,
    /// How much of it was spent on connecting to servers.
    connecting: Duration,
    /// Since when a connection is being made; one that is made at once is not noted here.
    connecting_since: Option<Instant>,
}

/// What is large is boxed: a phase is moved at each transition, and an exchange is allocated for each request.
enum Phase<U: Upstream> {
    /// It asks for a backend.
    Acquiring,
    /// It asks for a backend again at this time.
    Pausing(Instant),
    Queued(Box<U::Ticket>),
    Connecting(Box<U::Connecting>),
    Sending(Box<Call<U>>),
    Awaiting(Box<Call<U>>),
    Relaying(Box<Delivery<U>>),
    Flushing(Box<Delivery<U>>),
    Over,
}

/// The result of a phase.
enum Transition<U: Upstream> {
    Phase(Phase<U>),
    Blocked(Phase<U>, Interests),
    Yield(Phase<U>),
    Done(Outcome<U>),
}

impl<H: ExchangeHandler> Exchange<H> {
    /// An exchange that has waited since `since` and has no backend yet.
    pub fn new(host: H, upload: Option<Box<StreamingUpload>>, since: Instant) -> Self {
        Self {
            handler: host,
            trace: Trace::default(),
            status: 0,
            upload,
            wait: BackendWait::new(since),
            wait_before: BackendWait::new(since),
            attempts: 0,
            phase: Phase::Acquiring,
            leftover: Vec::new(),
        }
    }

    /// Does what can be done now.
    pub fn advance(
        &mut self,
        client: &mut ClientSide<'_>,
        tools: &mut Tools<'_>,
    ) -> Step<H::Upstream> {
        tools.reply.clear();
        tools.reply.append(&self.leftover);
        self.leftover.clear();
        if std::mem::take(&mut client.has_event) && self.is_gone(client) {
            return Step::Done(self.abandon(tools.reply.data().to_vec()));
        }
        loop {
            let next = match std::mem::replace(&mut self.phase, Phase::Over) {
                Phase::Acquiring => self.acquire(),
                Phase::Pausing(until) => self.pause(until),
                Phase::Queued(ticket) => self.queue(ticket),
                Phase::Connecting(connecting) => self.connect(connecting.advance()),
                Phase::Sending(call) => self.send(call, client, tools),
                Phase::Awaiting(call) => self.await_response(call, client, tools),
                Phase::Relaying(delivery) => relay(delivery, client, tools),
                Phase::Flushing(delivery) => flush(delivery, client, tools),
                Phase::Over => Transition::Done(Outcome::Gone(None)),
            };
            match next {
                Transition::Phase(phase) => self.phase = phase,
                Transition::Blocked(phase, interests) => {
                    self.phase = phase;
                    self.leftover.extend_from_slice(tools.reply.data());
                    return Step::Blocked(interests);
                }
                Transition::Yield(phase) => {
                    self.phase = phase;
                    self.leftover.extend_from_slice(tools.reply.data());
                    return Step::Yield;
                }
                Transition::Done(outcome) => return Step::Done(outcome),
            }
        }
    }

    /// The ticket, while it waits in a queue.
    pub const fn ticket(&self) -> Option<&<H::Upstream as Upstream>::Ticket> {
        match &self.phase {
            Phase::Queued(ticket) => Some(ticket),
            _ => None,
        }
    }

    /// The socket of its backend, while it has one.
    pub fn backend(&mut self) -> Option<BorrowedFd<'_>> {
        match &mut self.phase {
            Phase::Connecting(connecting) => connecting.fd(),
            Phase::Sending(call) | Phase::Awaiting(call) => Some(call.fd()),
            Phase::Relaying(delivery) | Phase::Flushing(delivery) => delivery.fd(),
            _ => None,
        }
    }

    /// What has happened so far, with the time of its current phase.
    pub fn trace_so_far(&self) -> Trace {
        let mut trace = self.trace.clone();
        let (now, mut wait) = (Instant::now(), self.wait);
        match &self.phase {
            Phase::Sending(_) | Phase::Awaiting(_) => {
                trace.timings.first_byte = now.saturating_duration_since(wait.since);
            }
            Phase::Relaying(_) | Phase::Flushing(_) | Phase::Over => {}
            Phase::Acquiring | Phase::Pausing(_) | Phase::Queued(_) | Phase::Connecting(_) => {
                wait.end(now, &mut trace.timings);
            }
        }
        trace
    }

    /// The client, if the spool holds part of a response for it.
    pub fn reader(&self, now: Instant) -> Option<Reader> {
        match &self.phase {
            Phase::Relaying(delivery) | Phase::Flushing(delivery) => delivery.reader(now),
            _ => None,
        }
    }

    /// Cuts the response when the exchange is advanced next, because others need what is kept for it.
    pub fn give_up(&mut self) {
        if let Phase::Relaying(delivery) | Phase::Flushing(delivery) = &mut self.phase {
            delivery.give_up();
        }
    }

    /// Whether the request was read to its end.
    pub fn is_read(&self) -> bool {
        self.upload.as_ref().is_none_or(|upload| upload.is_over())
    }

    /// Ends the exchange early, so that the client cannot mistake what it got for a complete response. Returns how much
    /// it got, if a response had begun.
    pub fn cut(&mut self, client: &mut Conn, reason: Close) -> Option<Delivered> {
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Sending(call) | Phase::Awaiting(call) => {
                call.close(reason);
                None
            }
            Phase::Relaying(mut delivery) | Phase::Flushing(mut delivery) => {
                let delivered = delivery.cut(client, reason);
                delivery.close(reason);
                Some(delivered)
            }
            _ => None,
        }
    }

    fn is_gone(&mut self, client: &mut ClientSide<'_>) -> bool {
        let uploads = matches!(self.phase, Phase::Sending(_)) && !self.is_read();
        self.handler.is_gone(client, uploads)
    }

    /// Ends the exchange of a client that has left.
    fn abandon(&mut self, leftover: Vec<u8>) -> Outcome<H::Upstream> {
        self.trace = self.trace_so_far();
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Sending(call) => {
                call.close(Close::ClientGone);
                Outcome::Gone(None)
            }
            Phase::Awaiting(call) => Outcome::Gone(Drain::of_call(
                *call,
                self.handler.head(),
                self.handler.rules(),
                leftover,
            )),
            Phase::Relaying(delivery) | Phase::Flushing(delivery) => {
                let delivered = Delivered::failed(delivery.taken(), Close::ClientGone);
                Outcome::Delivered(delivered, delivery.into_drain(leftover))
            }
            _ => Outcome::Gone(None),
        }
    }

    fn acquire(&mut self) -> Transition<H::Upstream> {
        match self.handler.acquire(self.wait.since, self.attempts) {
            Ok(acquired) => self.acquired(acquired),
            Err(error) => self.without_backend(error),
        }
    }

    fn acquired(&mut self, acquired: Acquired<H::Upstream>) -> Transition<H::Upstream> {
        match acquired {
            Acquired::Ready(upstream) => self.begin(upstream),
            Acquired::Connecting(connecting) => {
                self.wait.connecting_since = Some(Instant::now());
                Transition::Phase(Phase::Connecting(Box::new(connecting)))
            }
            Acquired::Queued(ticket) => self.queue(Box::new(ticket)),
            Acquired::Again => Transition::Phase(Phase::Acquiring),
        }
    }

    fn pause(&self, until: Instant) -> Transition<H::Upstream> {
        if Instant::now() < until {
            return Transition::Blocked(Phase::Pausing(until), Interests::time(until));
        }
        Transition::Phase(Phase::Acquiring)
    }

    fn queue(
        &mut self,
        mut ticket: Box<<H::Upstream as Upstream>::Ticket>,
    ) -> Transition<H::Upstream> {
        if let Some(acquired) = ticket.take() {
            return self.acquired(acquired);
        }
        let deadline = self.handler.deadline(self.wait.since);
        if Instant::now() >= deadline {
            drop(ticket);
            return self.without_backend(RelayError::NoBackend);
        }
        let interests = Interests {
            queue: true,
            ..Interests::time(deadline)
        };
        Transition::Blocked(Phase::Queued(ticket), interests)
    }

    fn connect(&mut self, connected: Connected<H::Upstream>) -> Transition<H::Upstream> {
        match connected {
            Connected::Ready(upstream) => self.begin(upstream),
            Connected::Pending(connecting) => {
                let interests = Interests {
                    backend: connecting.fd().map(|_| connecting.interest()),
                    ..Interests::time(connecting.until())
                };
                Transition::Blocked(Phase::Connecting(Box::new(connecting)), interests)
            }
            Connected::Failed(error) => match self.connection_failed(&error) {
                // Keep trying for as long as the request may wait.
                Ok(None) if Instant::now() < self.handler.deadline(self.wait.since) => {
                    Transition::Phase(Phase::Acquiring)
                }
                Ok(None) => self.without_backend(RelayError::NoBackend),
                Ok(Some(until)) => Transition::Phase(Phase::Pausing(until)),
                Err(error) => Transition::Done(Outcome::Failed(error)),
            },
        }
    }

    /// Counts the time of a connection that failed, and returns when to ask for another backend.
    fn connection_failed(&mut self, error: &io::Error) -> Result<Option<Instant>, RelayError> {
        self.wait.count_attempt(Instant::now());
        self.handler.unreachable(error)
    }

    /// Ends the wait at this site: falls back to the backup site, or fails.
    fn without_backend(&mut self, error: RelayError) -> Transition<H::Upstream> {
        let now = Instant::now();
        self.wait.end(now, &mut self.trace.timings);
        self.wait = BackendWait::new(now);
        match self.handler.fall_back(error) {
            true => Transition::Phase(Phase::Acquiring),
            false => Transition::Done(Outcome::Failed(error)),
        }
    }

    /// Begins an attempt at a backend.
    fn begin(&mut self, upstream: H::Upstream) -> Transition<H::Upstream> {
        let now = Instant::now();
        self.wait.connecting_since = None;
        self.wait.connecting += upstream.connect_time();
        self.wait.end(now, &mut self.trace.timings);
        self.trace.backend = upstream.origin();
        self.wait_before = std::mem::replace(&mut self.wait, BackendWait::new(now));
        self.attempts += 1;
        let call = Call::new(upstream, now);
        Transition::Phase(Phase::Sending(Box::new(call)))
    }

    fn send(
        &mut self,
        mut call: Box<Call<H::Upstream>>,
        client: &mut ClientSide<'_>,
        tools: &mut Tools<'_>,
    ) -> Transition<H::Upstream> {
        if call.is_fresh() {
            tools.out.clear();
            self.handler
                .write_head(&self.trace, self.wait.since, tools.out);
            call.rendered(tools.out.len(), self.handler.head(), self.handler.id());
        }
        let was_read = self.is_read();
        let upload = self.upload.as_deref_mut();
        let request = RelayRequest {
            head: self.handler.head(),
            body: self.handler.body(),
            rules: self.handler.rules(),
        };
        let sent = call.send(request, upload, client, tools);
        if !was_read && self.is_read() {
            self.handler.received(client.conn);
        }
        match sent {
            Ok(call::Sending::Blocked(interests)) => {
                Transition::Blocked(Phase::Sending(call), interests)
            }
            Ok(call::Sending::Turn) => Transition::Yield(Phase::Sending(call)),
            // The response cannot have arrived yet, unless it came before the end of the request.
            Ok(call::Sending::Sent) => match call.expect_response(self.handler.rules()) {
                Some(interests) if tools.patience.is_zero() => {
                    Transition::Blocked(Phase::Awaiting(call), interests)
                }
                _ => Transition::Phase(Phase::Awaiting(call)),
            },
            Err(error) => self.attempt_failed(error, *call),
        }
    }

    fn await_response(
        &mut self,
        mut call: Box<Call<H::Upstream>>,
        client: &mut ClientSide<'_>,
        tools: &mut Tools<'_>,
    ) -> Transition<H::Upstream> {
        let (head, rules) = (self.handler.head(), self.handler.rules());
        match call.await_response(head, rules, Some(client), tools) {
            Ok(call::Awaiting::Blocked(interests)) => {
                Transition::Blocked(Phase::Awaiting(call), interests)
            }
            Ok(call::Awaiting::Head(head)) => {
                self.trace.timings.first_byte = call.responded_after(self.wait.since);
                self.trace.responded = true;
                self.trace.source = ResponseSource::Backend;
                self.status = head.status;
                if head.status == 101 {
                    return Transition::Done(Outcome::Switched(Box::new(Switched {
                        head,
                        upstream: call.into_upstream(),
                        behind: tools.reply.data().to_vec(),
                    })));
                }
                self.respond(head, *call, client, tools)
            }
            Err(error) => self.attempt_failed(error, *call),
        }
    }

    fn respond(
        &mut self,
        head: ResponseHead,
        call: Call<H::Upstream>,
        client: &mut ClientSide<'_>,
        tools: &mut Tools<'_>,
    ) -> Transition<H::Upstream> {
        let method = &self.handler.head().method;
        let download = call.into_download(&head, method, self.handler.rules(), tools.reply);
        let is_read = self.is_read();
        let responding =
            self.handler
                .respond(head, download, is_read, tools, client.pending_output);
        self.status = responding.status;
        self.trace.source = responding.source;
        let mut delivery = responding.delivery;
        // Most responses arrive at once and are taken at once; then nothing has to be kept.
        match delivery.relay(client.conn, tools) {
            Progress::Relayed => match delivery.flush(client.conn, tools) {
                Progress::Done(delivered) => Transition::Done(Outcome::Delivered(delivered, None)),
                Progress::Blocked(interests) => {
                    Transition::Blocked(Phase::Flushing(Box::new(delivery)), interests)
                }
                _ => Transition::Yield(Phase::Flushing(Box::new(delivery))),
            },
            progress => after_relay(Box::new(delivery), progress, tools),
        }
    }

    /// Handles a failed attempt: closes the backend, and retries with another one if allowed.
    fn attempt_failed(
        &mut self,
        error: RelayError,
        call: Call<H::Upstream>,
    ) -> Transition<H::Upstream> {
        self.trace.timings.first_byte = self.wait.since.elapsed();
        let is_sent = call.is_sent();
        if !is_sent {
            self.attempts -= 1;
        }
        let failure = FailedAttempt {
            error,
            trace: &self.trace,
            attempts: self.attempts,
            is_sent,
            head_length: call.head_length(),
            is_reused: call.is_reused(),
        };
        let is_old = failure.is_reused || call.is_dialled();
        let again = self.handler.may_retry(&failure);
        call.fail(error);
        if !again {
            return Transition::Done(match error {
                RelayError::Upload(UploadError::Gone) => Outcome::Gone(None),
                error => Outcome::Failed(error),
            });
        }
        let now = Instant::now();
        self.trace.retries += 1;
        if is_sent {
            self.wait = BackendWait::new(now);
        } else {
            // The request waits on as if it had not had this backend.
            self.wait_before
                .undo(self.wait.since, &mut self.trace.timings);
            self.wait = self.wait_before;
            if now >= self.handler.deadline(self.wait.since) {
                return self.without_backend(RelayError::NoBackend);
            }
            // This ends: there are only so many old connections.
            if is_old {
                return Transition::Phase(Phase::Acquiring);
            }
        }
        // A process that dies closes its connections one after the other, and the next backend may be one of them. The
        // pause also keeps a server that closes every connection at once from being asked in a tight loop.
        Transition::Phase(Phase::Pausing(now + LAST_BREATH))
    }
}

impl BackendWait {
    const fn new(since: Instant) -> Self {
        Self {
            since,
            connecting: Duration::ZERO,
            connecting_since: None,
        }
    }

    /// Counts the time of a connection that failed or is given up.
    fn count_attempt(&mut self, now: Instant) {
        if let Some(begun) = self.connecting_since.take() {
            self.connecting += now.saturating_duration_since(begun);
        }
    }

    /// Counts a wait that is over.
    fn end(&mut self, now: Instant, timings: &mut Timings) {
        self.count_attempt(now);
        timings.queue += self.queued(now);
        timings.connect += self.connecting;
    }

    /// Takes back what [`BackendWait::end`] has counted: the wait goes on.
    fn undo(&self, ended: Instant, timings: &mut Timings) {
        timings.queue = timings.queue.saturating_sub(self.queued(ended));
        timings.connect = timings.connect.saturating_sub(self.connecting);
    }

    fn queued(&self, until: Instant) -> Duration {
        let waited = until.saturating_duration_since(self.since);
        waited.saturating_sub(self.connecting)
    }
}

fn relay<U: Upstream>(
    mut delivery: Box<Delivery<U>>,
    client: &mut ClientSide<'_>,
    tools: &mut Tools<'_>,
) -> Transition<U> {
    let progress = delivery.relay(client.conn, tools);
    after_relay(delivery, progress, tools)
}

fn after_relay<U: Upstream>(
    delivery: Box<Delivery<U>>,
    progress: Progress,
    tools: &Tools<'_>,
) -> Transition<U> {
    match progress {
        Progress::Blocked(interests) => Transition::Blocked(Phase::Relaying(delivery), interests),
        Progress::Yield => Transition::Yield(Phase::Relaying(delivery)),
        Progress::Relayed => Transition::Phase(Phase::Flushing(delivery)),
        Progress::Done(delivered) => {
            let leftover = tools.reply.data().to_vec();
            Transition::Done(Outcome::Delivered(delivered, delivery.into_drain(leftover)))
        }
    }
}

fn flush<U: Upstream>(
    mut delivery: Box<Delivery<U>>,
    client: &mut ClientSide<'_>,
    tools: &mut Tools<'_>,
) -> Transition<U> {
    match delivery.flush(client.conn, tools) {
        Progress::Blocked(interests) => Transition::Blocked(Phase::Flushing(delivery), interests),
        Progress::Yield | Progress::Relayed => Transition::Yield(Phase::Flushing(delivery)),
        Progress::Done(delivered) => Transition::Done(Outcome::Delivered(delivered, None)),
    }
}

/// How long a process may take to die.
const LAST_BREATH: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::Read;
    use std::net::{Shutdown, TcpListener};
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::task::Waker;

    use nix::sys::socket::{getsockopt, sockopt};

    use super::*;
    use crate::budget::Charge;
    use crate::exchange::{BackendName, RequestBody};
    use crate::http::head::{HeadLimits, RequestHead};
    use crate::net::buffer::Buffer;
    use crate::net::stream::Stream;

    /// A backend that dialled in.
    struct Dialled(Conn);

    /// A type without values.
    enum Never {}

    /// A request that goes to these backends, one after the other.
    struct TestRequest {
        head: RequestHead,
        body: RequestBody,
        rules: Rules,
        backends: VecDeque<Dialled>,
        /// Attempts counted, and whether something was sent, of each failure.
        failures: Vec<(u32, bool)>,
    }

    impl AsMut<Conn> for Dialled {
        fn as_mut(&mut self) -> &mut Conn {
            &mut self.0
        }
    }

    impl Upstream for Dialled {
        type Ticket = Never;
        type Connecting = Never;

        fn is_dialled(&self) -> bool {
            true
        }

        fn is_reused(&self) -> bool {
            false
        }

        fn origin(&self) -> Option<BackendName> {
            None
        }

        fn finish(self) {}

        fn close(self, _: Close) {}

        fn switch(&mut self) {}
    }

    impl Ticket<Dialled> for Never {
        fn take(&mut self) -> Option<Acquired<Dialled>> {
            match *self {}
        }

        fn wait(&self, _: Instant) {
            match *self {}
        }

        fn wake_with(&self, _: Waker) -> bool {
            match *self {}
        }
    }

    impl Connecting<Dialled> for Never {
        fn advance(self) -> Connected<Dialled> {
            match self {}
        }

        fn fd(&self) -> Option<BorrowedFd<'_>> {
            match *self {}
        }

        fn until(&self) -> Instant {
            match *self {}
        }
    }

    impl ExchangeHandler for TestRequest {
        type Upstream = Dialled;

        fn head(&self) -> &RequestHead {
            &self.head
        }

        fn body(&self) -> &RequestBody {
            &self.body
        }

        fn rules(&self) -> &Rules {
            &self.rules
        }

        fn acquire(&mut self, _: Instant, _: u32) -> Result<Acquired<Dialled>, RelayError> {
            let next = self.backends.pop_front();
            next.map(Acquired::Ready).ok_or(RelayError::NoBackend)
        }

        fn deadline(&self, since: Instant) -> Instant {
            since + PATIENCE
        }

        fn fall_back(&mut self, _: RelayError) -> bool {
            false
        }

        fn unreachable(&mut self, _: &io::Error) -> Result<Option<Instant>, RelayError> {
            Ok(None)
        }

        fn write_head(&mut self, _: &Trace, _: Instant, out: &mut Vec<u8>) {
            out.extend_from_slice(HEAD);
        }

        fn may_retry(&mut self, failure: &FailedAttempt<'_>) -> bool {
            assert_eq!(failure.error, RelayError::ClosedEarly);
            self.failures.push((failure.attempts, failure.is_sent));
            !failure.is_sent
        }

        fn respond(
            &mut self,
            _: ResponseHead,
            _: download::Download<Dialled>,
            _: bool,
            _: &mut Tools<'_>,
            _: &mut Vec<u8>,
        ) -> Responding<Dialled> {
            unreachable!("there is no response")
        }

        fn received(&mut self, _: &Conn) {}

        fn is_gone(&mut self, _: &mut ClientSide<'_>, _: bool) -> bool {
            false
        }
    }

    impl TestRequest {
        fn new(body: RequestBody, backends: Vec<Dialled>) -> Self {
            let limits = HeadLimits::default();
            Self {
                head: RequestHead::parse(HEAD, &limits).unwrap(),
                body,
                rules: Rules {
                    first_byte: PATIENCE,
                    backend: PATIENCE,
                    unframed_gap: PATIENCE,
                    limits,
                    gathered: 0,
                },
                backends: backends.into(),
                failures: Vec::new(),
            }
        }
    }

    fn pair() -> (Conn, UnixStream) {
        let (own, other) = UnixStream::pair().unwrap();
        (Conn::plain(Stream::from(OwnedFd::from(own))), other)
    }

    fn advance(exchange: &mut Exchange<TestRequest>) -> Step<Dialled> {
        let (mut conn, _client) = pair();
        let mut client = ClientSide {
            conn: &mut conn,
            input: &mut Buffer::new(),
            pending_output: &mut Vec::new(),
            has_event: false,
        };
        let mut tools = Tools {
            reply: &mut Buffer::new(),
            out: &mut Vec::new(),
            date: "",
            patience: Duration::ZERO,
            room: &|| unreachable!("there is no response"),
        };
        exchange.advance(&mut client, &mut tools)
    }

    #[test]
    fn unsent_attempts_do_not_count() {
        let broken = || {
            let (own, other) = UnixStream::pair().unwrap();
            // Nothing can be written, and the other side has ended.
            own.shutdown(Shutdown::Write).unwrap();
            drop(other);
            Dialled(Conn::plain(Stream::from(OwnedFd::from(own))))
        };
        let (good, mut backend) = pair();
        let backends = vec![broken(), broken(), broken(), Dialled(good)];
        let request = TestRequest::new(RequestBody::Empty, backends);
        let mut exchange = Exchange::new(request, None, Instant::now());
        let step = advance(&mut exchange);
        assert!(matches!(step, Step::Blocked(Interests { reads: true, .. })));
        assert_eq!(exchange.handler.failures, [(0, false); 3]);
        let mut seen = [0; HEAD.len()];
        backend.read_exact(&mut seen).unwrap();
        assert_eq!(seen, HEAD);
        // This one has received it.
        drop(backend);
        assert!(matches!(
            advance(&mut exchange),
            Step::Done(Outcome::Failed(RelayError::ClosedEarly))
        ));
        assert_eq!(exchange.handler.failures[3..], [(1, true)]);
    }

    #[test]
    fn large_requests_get_a_longer_user_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stream = Stream::connect_to(address, PATIENCE).unwrap();
        stream.watch_peer();
        let socket = stream.as_fd().try_clone_to_owned().unwrap();
        let mut conn = Conn::plain(stream);
        for (length, expected) in [
            (0, 20_000),
            (10_000, 20_000),
            (20_000, 60_000),
            (10, 20_000),
        ] {
            let charge = Charge::new(Arc::default());
            let body = RequestBody::Memory(vec![b'x'; length], charge);
            let request = TestRequest::new(body, vec![Dialled(conn)]);
            let mut exchange = Exchange::new(request, None, Instant::now());
            assert!(matches!(advance(&mut exchange), Step::Blocked(_)));
            let milliseconds = getsockopt(&socket, sockopt::TcpUserTimeout).unwrap();
            assert_eq!(milliseconds, expected, "{length}");
            let Phase::Awaiting(call) = exchange.phase else {
                panic!("it is not sent yet");
            };
            conn = call.into_upstream().0;
        }
    }

    const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n";
    /// Long enough that only a bug exceeds it.
    const PATIENCE: Duration = Duration::from_secs(60);
}
