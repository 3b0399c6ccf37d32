//! The thread of a dial-in address.
//!
//! It accepts connections of applications, reads their preambles without waiting for any one of them, puts
//! those whose key is known into the address's [`Pool`], and notices when one hangs up. Since workers may all
//! be waiting for a backend, nothing here ever needs a worker.
//!
//! Where the address speaks TLS, handshakes go on here in the same way: a little at a time, under the same deadline.
//!
//! A connection is in this thread's epoll set from accept to close: first for reading, under a deadline, then,
//! edge-triggered, only for the hang-up, which costs no system call per request.
//!
//! **Invariants**: a connection that has not sent its preamble is owned by this thread, afterwards by the pool
//! or a lease; its [`Registration`] leaves the list of connections when the connection is closed, on
//! whichever thread that is.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use parking_lot::Mutex;

use super::pool::{Backend, Pool};
use super::preamble::{self, Fault, Reading};
use crate::budget::{Budget, Charge};
use crate::config::{Address, Config, Site};
use crate::net::conn::Conn;
use crate::net::listener::{Listener, Stop, reason};
use crate::net::stream::{Peer, Stream};
use crate::net::tls::Acceptor;
use crate::stats::{self, Close, Stats};

/// What a dial-in address needs while it runs.
#[derive(Debug)]
pub struct DialIn {
    listener: Listener,
    pool: Arc<Pool>,
    /// Watched by `epoll`, and so kept.
    _stop: Stop,
    settings: Arc<Settings>,
    stats: Arc<Stats>,
    epoll: Epoll,
    connections: Arc<Connections>,
    /// Connections whose preamble is not complete.
    newcomers: HashMap<u64, Newcomer>,
    next: u64,
    /// As many are connected as may be, which the log has.
    full: bool,
    /// Until when nothing is accepted, for want of descriptors.
    resting: Option<Instant>,
    rest: Duration,
}

/// Settings that a reload may change.
#[derive(Debug)]
pub struct Settings {
    /// Connections at once.
    most: AtomicUsize,
    /// Descriptors for connections at all addresses.
    descriptors: Arc<Budget>,
    /// Time for a preamble.
    preamble: Mutex<Duration>,
    /// How long a backend may take nothing of what it is sent.
    backend: Mutex<Duration>,
    /// `None`: no TLS.
    tls: Mutex<Option<Acceptor>>,
    /// Why it ends, when it does.
    end: Mutex<Close>,
}

/// A connection's place on the list of those that dialled in.
#[derive(Debug)]
pub struct Registration {
    number: u64,
    gone: Arc<AtomicBool>,
    connections: Arc<Connections>,
    _descriptor: Charge,
}

/// Connections that are open, by number, with the mark that says that they hung up.
#[derive(Debug, Default)]
struct Connections(Mutex<HashMap<u64, Arc<AtomicBool>>>);

#[derive(Debug)]
struct Newcomer {
    conn: Conn,
    peer: Peer,
    bytes: Vec<u8>,
    deadline: Instant,
    registration: Registration,
}

impl Settings {
    /// The settings of a configuration for an address, and what it takes to accept TLS there.
    ///
    /// `descriptors` has one for each connection, and is shared by all addresses.
    pub fn new(
        config: &Config,
        address: &Address,
        tls: Option<Acceptor>,
        descriptors: &Arc<Budget>,
    ) -> Self {
        Self {
            most: AtomicUsize::new(config.limits.backends),
            descriptors: Arc::clone(descriptors),
            preamble: Mutex::new(config.timeouts.preamble),
            backend: Mutex::new(longest(config, address)),
            tls: Mutex::new(tls),
            end: Mutex::new(Close::Draining),
        }
    }

    /// Changes to those of another configuration, for connections that come from now on.
    pub fn set(&self, config: &Config, address: &Address, tls: Option<Acceptor>) {
        self.most.store(config.limits.backends, Ordering::Relaxed);
        *self.preamble.lock() = config.timeouts.preamble;
        *self.backend.lock() = longest(config, address);
        *self.tls.lock() = tls;
    }

    /// Says why the address will be stopped: the reason for which those are closed that have not sent their preamble.
    pub fn end(&self, reason: Close) {
        *self.end.lock() = reason;
    }
}

impl Connections {
    /// A place for one more, unless there are so many.
    fn enter(
        self: &Arc<Self>,
        number: u64,
        most: usize,
        descriptors: &Arc<Budget>,
    ) -> Option<Registration> {
        let descriptor = descriptors.charge(1)?;
        let gone = Arc::new(AtomicBool::new(false));
        {
            let mut open = self.0.lock();
            if open.len() >= most {
                return None;
            }
            open.insert(number, Arc::clone(&gone));
        }
        Some(Registration {
            number,
            gone,
            connections: Arc::clone(self),
            _descriptor: descriptor,
        })
    }
}

#[cfg(test)]
impl Default for Registration {
    fn default() -> Self {
        let connections = Arc::new(Connections::default());
        let registration = connections.enter(0, 1, &Arc::new(Budget::new(1)));
        registration.expect("the first one")
    }
}

impl Registration {
    /// Whether the connection hung up.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.connections.0.lock().remove(&self.number);
    }
}

impl DialIn {
    /// Prepares a dial-in address; [`DialIn::run`] serves it.
    ///
    /// # Errors
    /// Whatever `epoll_create1(2)` and `epoll_ctl(2)` say.
    pub fn new(
        listener: Listener,
        pool: Arc<Pool>,
        stop: Stop,
        settings: Arc<Settings>,
        stats: Arc<Stats>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        epoll.add(&stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        Ok(Self {
            listener,
            pool,
            _stop: stop,
            settings,
            stats,
            epoll,
            connections: Arc::default(),
            newcomers: HashMap::new(),
            next: 0,
            full: false,
            resting: None,
            rest: FIRST_REST,
        })
    }

    /// Serves the address until it is stopped. Backends that are connected stay so.
    pub fn run(mut self) {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let count = match self.epoll.wait(&mut events, self.patience()) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                // Nothing else can be wrong but the descriptor, without which there is no server.
                Err(error) => panic!("epoll_wait: {error}"),
            };
            for event in &events[..count] {
                match event.data() {
                    STOP => return self.dismiss(),
                    LISTENER => self.accept(),
                    number if self.newcomers.contains_key(&number) => self.read(number),
                    number => self.hung_up(number),
                }
            }
            self.expire(Instant::now());
        }
    }

    /// Until the next deadline.
    fn patience(&self) -> EpollTimeout {
        let deadlines = self.newcomers.values().map(|newcomer| newcomer.deadline);
        let Some(deadline) = deadlines.chain(self.resting).min() else {
            return EpollTimeout::NONE;
        };
        let left = deadline.saturating_duration_since(Instant::now());
        EpollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(EpollTimeout::MAX)
    }

    /// Accepts those that wait, but no more in one go than leaves time for those that are here; for the others the system
    /// tells again.
    fn accept(&mut self) {
        for _ in 0..MOST_AT_ONCE {
            match self.listener.accept_now() {
                Ok(Some((stream, peer))) => {
                    self.rest = FIRST_REST;
                    self.enter(stream, peer);
                }
                Ok(None) => return,
                Err(error) => {
                    log::warn!(
                        "accept {}: {}; resting",
                        self.listener.local(),
                        reason(&error)
                    );
                    self.resting = Some(Instant::now() + self.rest);
                    self.rest = (self.rest * 2).min(LONGEST_REST);
                    self.listen(EpollFlags::empty());
                    return;
                }
            }
        }
    }

    /// Listens again, or not for a while.
    fn listen(&self, flags: EpollFlags) {
        let mut event = EpollEvent::new(flags, LISTENER);
        if let Err(error) = self.epoll.modify(&self.listener, &mut event) {
            log::error!("epoll_ctl {}: {error}", self.listener.local());
        }
    }

    /// Takes in a connection that was just accepted.
    fn enter(&mut self, stream: Stream, peer: Peer) {
        let most = self.settings.most.load(Ordering::Relaxed);
        let number = self.next;
        self.next += 1;
        let descriptors = &self.settings.descriptors;
        let entered = self.connections.enter(number, most, descriptors);
        let Some(registration) = entered else {
            let limit = match self.connections.0.lock().len() >= most {
                true => format!("{most} connections are open already (limits.backends)"),
                false => "there are no more descriptors for backends (ulimit -n)".to_owned(),
            };
            if !mem::replace(&mut self.full, true) {
                let name = self.pool.name();
                log::warn!("dial-in at {name}: {limit}; further ones are refused");
            }
            self.refuse(&peer, Close::Overload, &limit);
            return;
        };
        self.full = false;
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, number);
        if let Err(error) = self.epoll.add(&stream, event) {
            self.refuse(&peer, Close::Internal, error.desc());
            return;
        }
        let tls = self.settings.tls.lock().clone();
        let conn = match &tls {
            None => Ok(Conn::plain(stream)),
            Some(tls) => Conn::secure(stream, tls),
        };
        let conn = match conn {
            Ok(conn) => conn,
            Err(error) => {
                self.refuse(&peer, Close::Internal, &error.to_string());
                return;
            }
        };
        let deadline = Instant::now() + *self.settings.preamble.lock();
        let newcomer = Newcomer {
            conn,
            peer,
            bytes: Vec::new(),
            deadline,
            registration,
        };
        self.newcomers.insert(number, newcomer);
        // The preamble is usually there already.
        self.read(number);
    }

    /// Reads what a newcomer has sent. Reads no further than the longest preamble, byte for byte as needed, so
    /// that what comes behind it stays in the socket, where it is noticed before the backend is used.
    fn read(&mut self, number: u64) {
        let Some(mut newcomer) = self.newcomers.remove(&number) else {
            return;
        };
        let mut bytes = [0; preamble::LONGEST];
        let room = preamble::LONGEST - newcomer.bytes.len();
        match newcomer.conn.read_now(&mut bytes[..room]) {
            Ok(None) => {
                self.newcomers.insert(number, newcomer);
                return;
            }
            Ok(Some(count @ 1..)) => newcomer.bytes.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                self.refuse(&newcomer.peer, Close::TlsFailed, &error.to_string());
                return;
            }
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                self.refuse(&newcomer.peer, Close::TlsFailed, "HTTP instead of TLS");
                return;
            }
            // A probe that connects and leaves is not worth a line.
            Ok(Some(0)) | Err(_) => {
                self.stats.backend_closed(Close::PeerClosed);
                return;
            }
        }
        match preamble::read(&newcomer.bytes, &self.pool.keys()) {
            Reading::Partial => {
                self.newcomers.insert(number, newcomer);
            }
            Reading::Refused(fault) => {
                let close = match fault {
                    Fault::Key => Close::BadKey,
                    Fault::Prefix | Fault::Length | Fault::Ambiguous => Close::BadPreamble,
                };
                self.refuse(&newcomer.peer, close, &fault.to_string());
            }
            Reading::Complete(preamble)
                if preamble.length < newcomer.bytes.len() || newcomer.conn.has_unread() =>
            {
                self.refuse(&newcomer.peer, Close::Junk, "bytes behind the preamble");
            }
            Reading::Complete(preamble) => self.join(newcomer, preamble),
        }
    }

    /// Its preamble is complete: it becomes a backend.
    fn join(&self, newcomer: Newcomer, preamble: preamble::Preamble) {
        let Newcomer {
            conn,
            peer,
            registration,
            ..
        } = newcomer;
        conn.stream().send_at_once();
        conn.stream().watch_peer(*self.settings.backend.lock());
        // From now on only the hang-up is of interest, and only once.
        let flags = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        let mut event = EpollEvent::new(flags, registration.number);
        if let Err(error) = self.epoll.modify(&conn, &mut event) {
            self.refuse(&peer, Close::Internal, error.desc());
            return;
        }
        stats::add(&self.stats.joined);
        log::debug!(
            "backend {} from {peer} joined at {}",
            preamble.id,
            self.pool.name()
        );
        self.pool.offer(Backend {
            pool: Arc::clone(&self.pool),
            conn,
            id: preamble.id,
            key: preamble.key,
            peer,
            registration,
        });
    }

    /// Counts and logs a connection that does not become a backend. The caller closes it.
    fn refuse(&self, peer: &Peer, close: Close, why: &str) {
        self.stats.backend_closed(close);
        let level = match close {
            // There may be many, and one warning has been logged for all of them.
            Close::Overload => log::Level::Debug,
            _ => log::Level::Info,
        };
        log::log!(
            level,
            "backend from {peer} at {} refused: {why}: reason={close}",
            self.pool.name()
        );
    }

    /// A backend closed its side. If it is leased, its worker sees that for itself.
    fn hung_up(&self, number: u64) {
        let gone = self.connections.0.lock().get(&number).cloned();
        if let Some(gone) = gone {
            gone.store(true, Ordering::SeqCst);
            self.pool.sweep();
        }
    }

    /// Closes those whose preamble is not complete, at the end.
    fn dismiss(&mut self) {
        let reason = *self.settings.end.lock();
        for (_, newcomer) in self.newcomers.drain() {
            self.stats.backend_closed(reason);
            drop(newcomer);
        }
    }

    /// Closes those whose time for a preamble is over, and accepts again after a rest.
    fn expire(&mut self, now: Instant) {
        if self.resting.is_some_and(|until| until <= now) {
            self.resting = None;
            self.listen(EpollFlags::EPOLLIN);
        }
        let late: Vec<_> = self
            .newcomers
            .extract_if(|_, newcomer| newcomer.deadline <= now)
            .collect();
        for (_, newcomer) in late {
            if newcomer.conn.is_handshaking() {
                self.refuse(&newcomer.peer, Close::TlsTimeout, "no end of the handshake");
                continue;
            }
            let received = newcomer.bytes.len();
            let why = format!("no preamble in time, {received} bytes came");
            self.refuse(&newcomer.peer, Close::PreambleTimeout, &why);
        }
    }
}

/// Connections that are accepted in one go.
const MOST_AT_ONCE: usize = 64;

/// The longest `timeouts.backend` of the sites with this address: they share its backends.
fn longest(config: &Config, address: &Address) -> Duration {
    let there = |site: &&Site| site.outgoing.iter().any(|outgoing| outgoing.to == *address);
    let sites = config.sites.iter().filter(there);
    let longest = sites.map(|site| site.timeouts.backend).max();
    longest.unwrap_or(config.timeouts.backend)
}

const LISTENER: u64 = u64::MAX;
const STOP: u64 = u64::MAX - 1;
const FIRST_REST: Duration = Duration::from_millis(5);
const LONGEST_REST: Duration = Duration::from_secs(1);
