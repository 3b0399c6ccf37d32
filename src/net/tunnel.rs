//! Tunnels: pairs of connections whose bytes are carried back and forth, after an upgrade from HTTP.
//!
//! One thread carries all of them ([`Tunnels::run`]); it never waits for a single one, and no worker is held. A
//! session that switches to another protocol hands over both ends ([`Tunnels::enter`]), each within its owner; both
//! owners are returned when the tunnel has ended.
//!
//! Sockets are registered once, edge-triggered, for all events, and `EndReadiness` stores what the system reports
//! about each. Tunnels with something to do wait in a queue; each turn carries at most `flow::PIECES` blocks each way,
//! and a tunnel with more to carry goes to the end of the queue: so a busy tunnel does not delay the others.
//!
//! **Invariants**
//! - *Back-pressure*: nothing is read for an end that has not accepted the previous bytes. So at most a block waits in
//!   a direction, plus what was passed to [`Tunnels::enter`]; a direction without waiting bytes has no memory.
//! - An end of stream is passed on after all bytes before it, and the other direction continues.
//! - An end that has not received all bytes is reset.
//! - The lock is a leaf, and protects incoming requests only; the tunnels belong to the thread.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::{Condvar, Mutex};

use super::buffer::Buffer;
use super::conn::Conn;
use super::flow::{BrokenEnd, EndReadiness, Flow, FlowStage, TunnelEnd};
use crate::stats::Close;

/// The tunnels of a server. `V` owns a client's connection, `B` a backend's.
#[derive(Debug)]
pub struct Tunnels<V, B> {
    epoll: Epoll,
    /// Rings when something was added to the inbox.
    bell: EventFd,
    inbox: Mutex<TunnelInbox<V, B>>,
    /// All tunnels that were to be closed are closed.
    closed: Condvar,
    /// The number of tunnels.
    count: AtomicUsize,
}

/// The start of a tunnel.
#[derive(Debug)]
pub struct Start<B> {
    /// The owner of the backend's connection.
    pub backend: B,
    /// The first bytes for the client.
    pub to_client: Vec<u8>,
    /// Bytes that were already read from the client.
    pub to_backend: Vec<u8>,
    /// The timeouts.
    pub patience: TunnelTimeouts,
}

/// The timeouts of a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct TunnelTimeouts {
    /// Without progress in either direction.
    pub idle: Duration,
    /// While the client does not accept the bytes for it.
    pub write: Duration,
    /// While the backend does not accept bytes, or sends nothing to a client that has ended its side.
    pub backend: Duration,
    /// While the client sends nothing to a backend that has ended its side.
    pub client: Duration,
}

/// The result of a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct TunnelEnded {
    /// Why it ended.
    pub reason: Close,
    /// Bytes that were handed to the system for the client.
    pub to_client: u64,
    /// Bytes that were handed to the system for the backend.
    pub to_backend: u64,
}

/// Requests to the thread.
#[derive(Debug)]
struct TunnelInbox<V, B> {
    new: Vec<(Box<V>, Start<B>)>,
    /// Close all tunnels, for this reason.
    close: Option<Close>,
    /// Closing is in progress.
    closing: bool,
    stopped: bool,
}

impl<V: AsMut<Conn>, B: AsMut<Conn>> Tunnels<V, B> {
    /// No tunnels.
    ///
    /// # Errors
    /// Those of `epoll_create1(2)` and `eventfd(2)`.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        // Edge-triggered: the counter need not be read.
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll.add(&bell, EpollEvent::new(flags, BELL))?;
        Ok(Self {
            epoll,
            bell,
            inbox: Mutex::new(TunnelInbox {
                new: Vec::new(),
                close: None,
                closing: false,
                stopped: false,
            }),
            closed: Condvar::new(),
            count: AtomicUsize::new(0),
        })
    }

    /// Starts a tunnel.
    ///
    /// # Errors
    /// The tunnels were stopped: both arguments are returned.
    pub fn enter(&self, client: Box<V>, start: Start<B>) -> Result<(), (Box<V>, Start<B>)> {
        let mut inbox = self.inbox.lock();
        if inbox.stopped {
            drop(inbox);
            return Err((client, start));
        }
        inbox.new.push((client, start));
        self.count.fetch_add(1, Ordering::SeqCst);
        drop(inbox);
        self.ring();
        Ok(())
    }

    /// The number of open tunnels.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Closes all open tunnels, and waits for that, a few seconds at most. Needs [`Tunnels::run`].
    pub fn close_all(&self, reason: Close) {
        self.inbox.lock().close = Some(reason);
        self.ring();
        let deadline = Instant::now() + LONGEST_CLOSE;
        let mut inbox = self.inbox.lock();
        while (inbox.close.is_some() || inbox.closing) && !inbox.stopped {
            if self.closed.wait_until(&mut inbox, deadline).timed_out() {
                break;
            }
        }
    }

    /// Closes all tunnels and makes [`Tunnels::run`] return.
    pub fn stop(&self) {
        self.inbox.lock().stopped = true;
        self.ring();
    }

    /// Carries the tunnels until they are stopped. `done` gets the owners of a tunnel that has ended. Needs its own
    /// thread.
    ///
    /// # Panics
    /// If the epoll descriptor becomes invalid. A panic within a tunnel, or of `done`, costs this one tunnel.
    pub fn run(&self, mut done: impl FnMut(Box<V>, B, TunnelEnded)) {
        let mut done = |client, backend, ended| {
            let reported = catch_unwind(AssertUnwindSafe(|| done(client, backend, ended)));
            if reported.is_err() {
                log::error!("the end of a tunnel panicked");
            }
            self.count.fetch_sub(1, Ordering::SeqCst);
        };
        let mut carrier = Carrier {
            epoll: &self.epoll,
            open: HashMap::new(),
            ready: VecDeque::new(),
            next: 0,
            deadline: None,
            block: vec![0; Buffer::SIZE],
        };
        let mut events = [EpollEvent::empty(); 256];
        loop {
            let count = match self.epoll.wait(&mut events, carrier.timeout()) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                // Only the descriptor can be invalid, and without it there are no tunnels.
                Err(error) => panic!("epoll_wait: {error}"),
            };
            let now = Instant::now();
            let mut rang = false;
            for event in &events[..count] {
                match event.data() {
                    BELL => rang = true,
                    data => carrier.handle_event(data, event.events(), now),
                }
            }
            if rang && self.empty_inbox(&mut carrier, now, &mut done) {
                return;
            }
            carrier.round(now, &mut done);
            carrier.expire(now, &mut done);
        }
    }

    /// Handles the requests in the inbox. Returns whether the tunnels were stopped.
    fn empty_inbox(
        &self,
        carrier: &mut Carrier<'_, V, B>,
        now: Instant,
        done: &mut impl FnMut(Box<V>, B, TunnelEnded),
    ) -> bool {
        let (new, close, stopped) = {
            let mut inbox = self.inbox.lock();
            // A request to close includes the tunnels that arrive with it.
            let close = inbox.close.take();
            inbox.closing = close.is_some();
            (std::mem::take(&mut inbox.new), close, inbox.stopped)
        };
        for (client, start) in new {
            carrier.admit(client, start, now, done);
        }
        if close.is_some() || stopped {
            carrier.close_all(close.unwrap_or(Close::Draining), done);
            self.inbox.lock().closing = false;
            self.closed.notify_all();
        }
        stopped
    }

    fn ring(&self) {
        // Fails only when the counter is full, after 2^64 rings.
        let _ = self.bell.write(1);
    }
}

/// The state of the thread.
struct Carrier<'a, V, B> {
    epoll: &'a Epoll,
    /// Keyed by number. Numbers are not reused, so that late events match no tunnel.
    open: HashMap<u64, Box<Tunnel<V, B>>>,
    /// The queue of tunnels with something to do.
    ready: VecDeque<u64>,
    next: u64,
    /// When to check deadlines: no later than the earliest one.
    deadline: Option<Instant>,
    block: Vec<u8>,
}

/// A tunnel.
struct Tunnel<V, B> {
    client: Box<V>,
    backend: B,
    at_client: EndReadiness,
    at_backend: EndReadiness,
    to_client: Flow,
    to_backend: Flow,
    patience: TunnelTimeouts,
    is_queued: bool,
}

impl<V: AsMut<Conn>, B: AsMut<Conn>> Carrier<'_, V, B> {
    /// The timeout of the next `epoll_wait(2)`.
    fn timeout(&self) -> EpollTimeout {
        if !self.ready.is_empty() {
            return EpollTimeout::ZERO;
        }
        let Some(deadline) = self.deadline else {
            return EpollTimeout::NONE;
        };
        let left = deadline.saturating_duration_since(Instant::now());
        EpollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(EpollTimeout::MAX)
    }

    /// Adds a new tunnel.
    fn admit(
        &mut self,
        mut client: Box<V>,
        mut start: Start<B>,
        now: Instant,
        done: &mut impl FnMut(Box<V>, B, TunnelEnded),
    ) {
        let number = self.next;
        self.next += 1;
        let add = |conn: &Conn, side| {
            let flags = EpollFlags::EPOLLIN
                | EpollFlags::EPOLLOUT
                | EpollFlags::EPOLLRDHUP
                | EpollFlags::EPOLLET;
            self.epoll
                .add(conn.as_fd(), EpollEvent::new(flags, number << 1 | side))
        };
        let added =
            add((*client).as_mut(), CLIENT).and_then(|()| add(start.backend.as_mut(), BACKEND));
        if let Err(error) = added {
            log::error!("epoll_ctl: {error}; a tunnel is closed");
            let ended = TunnelEnded {
                reason: Close::Internal,
                to_client: 0,
                to_backend: 0,
            };
            done(client, start.backend, ended);
            return;
        }
        let open = Box::new(Tunnel {
            client,
            backend: start.backend,
            at_client: EndReadiness::UNKNOWN,
            at_backend: EndReadiness::UNKNOWN,
            to_client: Flow::new(start.to_client, now),
            to_backend: Flow::new(start.to_backend, now),
            patience: start.patience,
            is_queued: true,
        });
        self.open.insert(number, open);
        self.ready.push_back(number);
    }

    /// Records an event of one end.
    fn handle_event(&mut self, data: u64, events: EpollFlags, now: Instant) {
        let number = data >> 1;
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        let (ready, to_it) = match data & 1 {
            CLIENT => (&mut open.at_client, &mut open.to_client),
            _ => (&mut open.at_backend, &mut open.to_backend),
        };
        // The next read or write reports the error.
        let broken = events.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
        ready.ended |= broken || events.contains(EpollFlags::EPOLLRDHUP);
        ready.readable |= ready.ended || events.contains(EpollFlags::EPOLLIN);
        if broken || events.contains(EpollFlags::EPOLLOUT) {
            ready.writable = true;
            // The socket has accepted something, though perhaps not all that the TLS library holds.
            to_it.stuck = to_it.stuck.map(|_| now);
        }
        if !open.is_queued {
            open.is_queued = true;
            self.ready.push_back(number);
        }
    }

    /// Gives each tunnel in the queue a turn.
    fn round(&mut self, now: Instant, done: &mut impl FnMut(Box<V>, B, TunnelEnded)) {
        for _ in 0..self.ready.len() {
            let Some(number) = self.ready.pop_front() else {
                return;
            };
            let Some(open) = self.open.get_mut(&number) else {
                continue;
            };
            open.is_queued = false;
            // A panic is a bug; it costs this one tunnel.
            let turn = catch_unwind(AssertUnwindSafe(|| open.turn(&mut self.block, now)));
            match turn {
                Ok(Ok(more)) => {
                    if more {
                        open.is_queued = true;
                        self.ready.push_back(number);
                    }
                    let (deadline, _) = open.deadline();
                    self.deadline = Some(self.deadline.map_or(deadline, |old| old.min(deadline)));
                }
                Ok(Err(reason)) => self.close(number, reason, done),
                Err(_) => {
                    log::error!("the thread of the tunnels panicked; a tunnel is closed");
                    self.close(number, Close::Internal, done);
                }
            }
        }
    }

    /// Closes the tunnels whose deadlines have passed.
    fn expire(&mut self, now: Instant, done: &mut impl FnMut(Box<V>, B, TunnelEnded)) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        self.deadline = None;
        let mut late = Vec::new();
        for (number, open) in &self.open {
            let (deadline, reason) = open.deadline();
            match deadline <= now {
                true => late.push((*number, reason)),
                false => {
                    let earliest = self.deadline.map_or(deadline, |old| old.min(deadline));
                    self.deadline = Some(earliest);
                }
            }
        }
        for (number, reason) in late {
            self.close(number, reason, done);
        }
    }

    /// Closes all tunnels, including those that have just arrived.
    fn close_all(&mut self, reason: Close, done: &mut impl FnMut(Box<V>, B, TunnelEnded)) {
        let numbers: Vec<_> = self.open.keys().copied().collect();
        for number in numbers {
            self.close(number, reason, done);
        }
    }

    /// Closes a tunnel. Resets an end that has not received all bytes.
    fn close(&mut self, number: u64, reason: Close, done: &mut impl FnMut(Box<V>, B, TunnelEnded)) {
        let Some(open) = self.open.remove(&number) else {
            return;
        };
        let Tunnel {
            mut client,
            mut backend,
            to_client,
            to_backend,
            ..
        } = *open;
        if !to_client.waiting.is_empty() {
            (*client).as_mut().reset_on_close();
        }
        if !to_backend.waiting.is_empty() {
            backend.as_mut().reset_on_close();
        }
        let ended = TunnelEnded {
            reason,
            to_client: to_client.bytes,
            to_backend: to_backend.bytes,
        };
        done(client, backend, ended);
    }
}

impl<V: AsMut<Conn>, B: AsMut<Conn>> Tunnel<V, B> {
    /// Carries available bytes both ways, up to the limit of a turn. Returns whether there may be more.
    fn turn(&mut self, block: &mut [u8], now: Instant) -> Result<bool, Close> {
        let mut client = TunnelEnd {
            conn: (*self.client).as_mut(),
            ready: &mut self.at_client,
        };
        let mut backend = TunnelEnd {
            conn: self.backend.as_mut(),
            ready: &mut self.at_backend,
        };
        let to_backend = &mut self.to_backend;
        let there = to_backend.carry(&mut client, &mut backend, block, now);
        // An error is reported once only; what follows it would look like a regular end.
        let there = match there {
            Ok(more) => more,
            Err(BrokenEnd::Source) => return Err(backend.cut(Close::ClientGone)),
            Err(BrokenEnd::Sink) => return Err(client.cut(Close::BackendFailed)),
        };
        let to_client = &mut self.to_client;
        let back = to_client.carry(&mut backend, &mut client, block, now);
        match back {
            Ok(_) if [to_client.stage, self.to_backend.stage] == [FlowStage::Over; 2] => {
                Err(Close::TunnelDone)
            }
            Ok(back) => Ok(there || back),
            Err(BrokenEnd::Source) => Err(client.cut(Close::BackendFailed)),
            Err(BrokenEnd::Sink) => Err(backend.cut(Close::ClientGone)),
        }
    }

    /// The time by which there must be progress, and the reason for closing if there is none.
    fn deadline(&self) -> (Instant, Close) {
        let TunnelTimeouts {
            idle,
            write,
            backend,
            client,
        } = self.patience;
        let moved = self.to_client.moved.max(self.to_backend.moved);
        let mut first = (moved + idle, Close::TunnelIdle);
        let mut or = |since: Option<Instant>, patience, reason| {
            if let Some(since) = since
                && since + patience < first.0
            {
                first = (since + patience, reason);
            }
        };
        let after = |flow: &Flow| (flow.stage != FlowStage::Open).then_some(moved);
        or(after(&self.to_backend), backend, Close::TunnelIdle);
        or(after(&self.to_client), client, Close::TunnelIdle);
        or(self.to_client.stuck, write, Close::WriteTimeout);
        or(self.to_backend.stuck, backend, Close::BackendFailed);
        first
    }
}

/// The longest wait for closing all tunnels.
const LONGEST_CLOSE: Duration = Duration::from_secs(5);
const CLIENT: u64 = 0;
const BACKEND: u64 = 1;
const BELL: u64 = u64::MAX;
