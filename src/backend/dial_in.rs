//! The thread of the dial-in addresses.
//!
//! It accepts connections of applications at all dial-in addresses, reads their preambles without blocking for any of
//! them, puts those with a known key into the [`Pool`] of their address, and notices when a backend hangs up. It never
//! needs a worker, since all workers may be waiting for a backend.
//!
//! If an address uses TLS, handshakes are done here in the same way: a little at a time, under the same deadline.
//!
//! One thread with one epoll set serves all dial-in addresses, while each address for clients has a thread: there may be
//! thousands of dial-in addresses, backends stay connected, and reading a preamble is quick.
//!
//! A connection is in the epoll set from accept to close: first for reading, under a deadline, then edge-triggered for
//! the hang-up only, which costs no system call per request.
//!
//! Other threads prepare addresses and give commands through [`DialInControl`].
//!
//! **Invariants**: a connection that has not sent its preamble (a *newcomer*) is owned by this thread, afterwards by the
//! pool or a lease. Its [`Registration`](super::registration::Registration) leaves the list of connections when the
//! connection is closed, on whichever thread. Newcomers have a limit of their own ([`newcomers`]): only a valid preamble
//! counts against `limits.backends`.

pub mod adoption;
mod newcomer;
mod newcomers;

use std::collections::HashMap;
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;

use self::newcomer::{Newcomer, NewcomerProgress};
use self::newcomers::{Newcomers, Surplus};
use super::identity::BackendIdentity;
use super::pool::{Backend, Pool};
use super::registration::{Arrival, ConnectedBackend, Connections};
use crate::amount::counted;
use crate::budget::Budget;
use crate::net::conn::Conn;
use crate::net::listener::Listener;
use crate::net::stream::{Peer, Stream};
use crate::net::tls::Acceptor;
use crate::process::reason;
use crate::stats::{self, Close, Stats};

/// The state of the thread of the dial-in addresses.
#[derive(Debug)]
pub struct DialIn {
    control: Arc<DialInControl>,
    commands: Receiver<DialInCommand>,
    stats: Arc<Stats>,
    /// By number.
    addresses: HashMap<u64, Arc<DialInAddress>>,
    /// The sockets of these addresses, as long as they accept.
    listeners: HashMap<u64, Arc<Listener>>,
    newcomers: Newcomers<DialledNewcomer>,
    /// Out of descriptors: these addresses accept nothing until then.
    paused: Option<(Instant, Vec<u64>)>,
    pause: Duration,
    /// When the log last warned that newcomers were closed.
    last_warning: Option<Instant>,
}

/// How other threads control the thread of the dial-in addresses.
#[derive(Debug)]
pub struct DialInControl {
    epoll: Epoll,
    connections: Arc<Connections>,
    stats: Arc<Stats>,
    /// The addresses that were begun, by name.
    addresses: Mutex<HashMap<String, Arc<DialInAddress>>>,
    commands: Sender<DialInCommand>,
    wake: EventFd,
    /// The number of the next address or connection.
    next: AtomicU64,
    /// The limit of newcomers.
    newcomers: AtomicUsize,
}

/// An address that is bound and does not accept yet. Dropping it closes it.
#[derive(Debug)]
pub struct PreparedDialIn(Arc<DialInAddress>, Arc<Listener>);

/// An address at which backends dial in.
#[derive(Debug)]
struct DialInAddress {
    number: u64,
    pool: Arc<Pool>,
    settings: Arc<DialInSettings>,
    /// `limits.backends` is reached, and the log has reported it.
    full_reported: AtomicBool,
}

type DialledNewcomer = Newcomer<DialInAddress>;

#[derive(Debug)]
enum DialInCommand {
    /// Start to accept at this address.
    Begin(PreparedDialIn),
    /// Accept no more backends, close the listening sockets, and then drop the sender.
    StopAccepting(Sender<()>),
    /// Close these addresses and their newcomers, for this reason, and then drop the sender.
    Remove(Vec<u64>, Close, Sender<()>),
    Stop,
}

/// The settings of an address that a reload may change.
#[derive(Debug)]
pub struct DialInSettings {
    /// The backends allowed at this address.
    backends: Arc<Budget>,
    /// The descriptors for backends at all addresses.
    descriptors: Arc<Budget>,
    terms: Mutex<DialInTerms>,
}

/// The settings for new connections.
#[derive(Clone, Debug)]
pub struct DialInTerms {
    /// How long the preamble may take.
    pub preamble: Duration,
    /// `None`: no TLS.
    pub tls: Option<Acceptor>,
}

impl DialInSettings {
    /// The settings of an address. `backends`: how many may be connected; `descriptors`: the budget of descriptors
    /// shared by all addresses.
    pub fn new(backends: usize, terms: DialInTerms, descriptors: &Arc<Budget>) -> Self {
        Self {
            backends: Arc::new(Budget::new(backends as u64)),
            descriptors: Arc::clone(descriptors),
            terms: Mutex::new(terms),
        }
    }

    /// Whether new backends speak TLS.
    pub fn is_secure(&self) -> bool {
        self.terms.lock().tls.is_some()
    }

    /// Changes them for new connections.
    pub fn set(&self, backends: usize, terms: DialInTerms) {
        self.backends.limit(backends as u64);
        *self.terms.lock() = terms;
    }
}

impl DialInControl {
    /// Changes the limit of newcomers at all addresses.
    pub fn limit_newcomers(&self, most: usize) {
        self.newcomers.store(most, Ordering::Relaxed);
    }

    /// Prepares an address; it accepts after [`DialInControl::begin`].
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    pub fn prepare(
        &self,
        listener: Arc<Listener>,
        pool: Arc<Pool>,
        settings: Arc<DialInSettings>,
    ) -> io::Result<PreparedDialIn> {
        let number = self.number();
        self.epoll
            .add(&listener, EpollEvent::new(EpollFlags::empty(), number))?;
        let address = DialInAddress {
            number,
            pool,
            settings,
            full_reported: AtomicBool::new(false),
        };
        Ok(PreparedDialIn(Arc::new(address), listener))
    }

    /// Starts to accept at an address. Returns its number, for [`DialInControl::remove`].
    pub fn begin(&self, prepared: PreparedDialIn) -> u64 {
        let address = &prepared.0;
        let number = address.number;
        let name = address.pool.name().to_owned();
        self.addresses.lock().insert(name, Arc::clone(address));
        self.send(DialInCommand::Begin(prepared));
        number
    }

    /// Accepts no more backends at any address, and closes the listening sockets. Connections without a complete preamble
    /// stay. Returns when that is done.
    pub fn stop_accepting(&self) {
        let (done, wait) = mpsc::channel();
        self.send(DialInCommand::StopAccepting(done));
        let _ = wait.recv();
    }

    /// Closes addresses and their newcomers. Returns when that is done. Connected backends are not affected.
    pub fn remove(&self, numbers: Vec<u64>, reason: Close) {
        let (done, wait) = mpsc::channel();
        self.send(DialInCommand::Remove(numbers, reason, done));
        // No message is ever sent: this returns when the thread has dropped the sender, or has ended.
        let _ = wait.recv();
    }

    /// The connected backends, oldest first.
    pub fn connected(&self) -> Vec<ConnectedBackend> {
        self.connections.all()
    }

    /// Sets the seconds since the start, from which the times of backends are computed.
    pub fn set_second(&self, second: u64) {
        self.connections.set_second(second);
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.send(DialInCommand::Stop);
    }

    fn send(&self, command: DialInCommand) {
        // If the thread has ended, everything is closed already.
        let _ = self.commands.send(command);
        let _ = self.wake.write(1);
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

impl DialIn {
    /// A thread without addresses; [`DialIn::run`] is its body.
    ///
    /// # Errors
    /// Those of `epoll_create1(2)`, `epoll_ctl(2)` and `eventfd(2)`.
    pub fn new(stats: Arc<Stats>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        let (sender, commands) = mpsc::channel();
        Ok(Self {
            control: Arc::new(DialInControl {
                epoll,
                connections: Arc::default(),
                stats: Arc::clone(&stats),
                addresses: Mutex::default(),
                commands: sender,
                wake,
                next: AtomicU64::new(0),
                newcomers: AtomicUsize::new(0),
            }),
            commands,
            stats,
            addresses: HashMap::new(),
            listeners: HashMap::new(),
            newcomers: Newcomers::new(),
            paused: None,
            pause: FIRST_PAUSE,
            last_warning: None,
        })
    }

    /// For other threads.
    pub fn control(&self) -> Arc<DialInControl> {
        Arc::clone(&self.control)
    }

    /// Serves the addresses until the thread is stopped. Connected backends are not affected then.
    pub fn run(mut self) {
        let control = self.control();
        let hang_up = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let count = match control.epoll.wait(&mut events, self.wait_time()) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                // Only the descriptor could be wrong, and without it there is no server.
                Err(error) => panic!("epoll_wait: {error}"),
            };
            for event in &events[..count] {
                match event.data() {
                    WAKE => {
                        if self.run_commands() {
                            return;
                        }
                    }
                    number if self.newcomers.contains(number) => self.read(number),
                    number => match self.addresses.get(&number).cloned() {
                        Some(address) => self.accept(&address),
                        None if event.events().intersects(hang_up) => self.hung_up(number),
                        // It was a newcomer when this event was fetched, and has become a backend since.
                        None => {}
                    },
                }
            }
            self.expire(Instant::now());
        }
    }

    /// Executes commands of other threads. Returns whether to stop.
    fn run_commands(&mut self) -> bool {
        // Before the commands are read, so that none is missed.
        let _ = self.control.wake.read();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                DialInCommand::Begin(PreparedDialIn(address, listener)) => {
                    self.set_interest(address.number, &listener, EpollFlags::EPOLLIN);
                    self.listeners.insert(address.number, listener);
                    self.addresses.insert(address.number, address);
                }
                DialInCommand::StopAccepting(done) => {
                    for listener in mem::take(&mut self.listeners).values() {
                        // Closing it is not enough where another process has the same socket.
                        let _ = self.control.epoll.delete(listener);
                    }
                    drop(done);
                }
                DialInCommand::Remove(numbers, reason, done) => {
                    self.remove(&numbers, reason);
                    drop(done);
                }
                DialInCommand::Stop => return true,
            }
        }
        false
    }

    /// Closes addresses and their newcomers.
    fn remove(&mut self, numbers: &[u64], reason: Close) {
        for number in numbers {
            if let Some(listener) = self.listeners.remove(number) {
                let _ = self.control.epoll.delete(&listener);
            }
            if let Some(address) = self.addresses.remove(number) {
                let gone = self.control.addresses.lock().remove(address.pool.name());
                drop(gone);
            }
        }
        let kept =
            |newcomer: &DialledNewcomer| self.addresses.contains_key(&newcomer.address.number);
        for number in self.newcomers.which(|newcomer| !kept(newcomer)) {
            drop(self.newcomers.remove(number));
            self.stats.backend_closed(reason);
        }
    }

    /// The time until the next deadline.
    fn wait_time(&self) -> EpollTimeout {
        let deadlines = self.newcomers.values().map(|newcomer| newcomer.deadline);
        let paused = self.paused.as_ref().map(|(until, _)| *until);
        let Some(deadline) = deadlines.chain(paused).min() else {
            return EpollTimeout::NONE;
        };
        let left = deadline.saturating_duration_since(Instant::now());
        EpollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(EpollTimeout::MAX)
    }

    /// Accepts pending connections, a limited number at a time so that others are served meanwhile; epoll reports the
    /// rest again.
    fn accept(&mut self, address: &Arc<DialInAddress>) {
        let Some(listener) = self.listeners.get(&address.number).cloned() else {
            return;
        };
        for _ in 0..MOST_AT_ONCE {
            match listener.accept_now() {
                Ok(Some((stream, peer))) => {
                    self.pause = FIRST_PAUSE;
                    self.add(address, stream, peer);
                }
                Ok(None) => return,
                Err(error) => {
                    let local = listener.local();
                    log::warn!("accept {local}: {}; pausing", reason(&error));
                    let until = Instant::now() + self.pause;
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                    let (_, paused) = self.paused.get_or_insert((until, Vec::new()));
                    paused.push(address.number);
                    self.set_interest(address.number, &listener, EpollFlags::empty());
                    return;
                }
            }
        }
    }

    /// Sets whether epoll reports new connections at this address.
    fn set_interest(&self, number: u64, listener: &Listener, flags: EpollFlags) {
        let mut event = EpollEvent::new(flags, number);
        if let Err(error) = self.control.epoll.modify(listener, &mut event) {
            log::error!("epoll_ctl {}: {error}", listener.local());
        }
    }

    /// Adds a connection that was just accepted.
    fn add(&mut self, address: &Arc<DialInAddress>, stream: Stream, peer: Peer) {
        let number = self.control.number();
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, number);
        if let Err(error) = self.control.epoll.add(&stream, event) {
            self.refuse(address, &peer, Close::Internal, error.desc());
            return;
        }
        // Before the terms, which change first.
        let verified = address.pool.verification();
        let DialInTerms { preamble, tls, .. } = address.settings.terms.lock().clone();
        let conn = match &tls {
            None => Ok(Conn::plain(stream)),
            Some(tls) => Conn::secure(stream, tls),
        };
        let conn = match conn {
            Ok(conn) => conn,
            Err(error) => {
                self.refuse(address, &peer, Close::Internal, &error.to_string());
                return;
            }
        };
        let deadline = Instant::now() + preamble;
        let newcomer = Newcomer::new(Arc::clone(address), conn, peer, deadline, verified);
        self.newcomers.insert(number, &peer, newcomer);
        // The preamble has usually arrived already.
        self.read(number);
        if self.newcomers.contains(number) {
            self.make_room(&peer);
        }
    }

    /// Closes the oldest newcomers while there are too many, after another look at what they have sent.
    fn make_room(&mut self, peer: &Peer) {
        let most = self.control.newcomers.load(Ordering::Relaxed);
        while let Some(surplus) = self.newcomers.surplus(peer, most) {
            self.read(surplus.oldest);
            let Some(newcomer) = self.newcomers.remove(surplus.oldest) else {
                continue;
            };
            let Surplus {
                most, of_address, ..
            } = surplus;
            let scope = match of_address {
                true => " from its address",
                false => "",
            };
            let limit = format!("more than {most} connections{scope} have sent no preamble");
            if self
                .last_warning
                .is_none_or(|last| last.elapsed() >= WARN_INTERVAL)
            {
                self.last_warning = Some(Instant::now());
                let name = newcomer.address.pool.name();
                let peer = newcomer.peer;
                log::warn!("dial-in at {name}: {limit}; closing the oldest, now {peer}");
            }
            self.refuse(&newcomer.address, &newcomer.peer, Close::Overload, &limit);
        }
    }

    /// Reads what a newcomer has sent, and lets it become a backend or closes it if that is decided.
    fn read(&mut self, number: u64) {
        let Some(newcomer) = self.newcomers.get_mut(number) else {
            return;
        };
        let pool = Arc::clone(&newcomer.address.pool);
        let progress = newcomer.read(|| pool.keys());
        if matches!(progress, NewcomerProgress::Waits) {
            return;
        }
        let Some(mut newcomer) = self.newcomers.remove(number) else {
            return;
        };
        match progress {
            NewcomerProgress::Waits => {}
            NewcomerProgress::Joins(identity) => self.join(number, newcomer, identity),
            NewcomerProgress::Refused(close, why) => {
                newcomer.send_refusal(close, &why);
                self.refuse(&newcomer.address, &newcomer.peer, close, &why);
            }
            // A port check that connects and disconnects is not logged.
            NewcomerProgress::Left => self.stats.backend_closed(Close::PeerClosed),
        }
    }

    /// A newcomer becomes a backend, unless the limit is reached.
    fn join(&self, number: u64, mut newcomer: DialledNewcomer, identity: BackendIdentity) {
        let charges = match newcomer.address.admit() {
            Ok(charges) => charges,
            Err(limit) => {
                newcomer.send_refusal(Close::Overload, &limit);
                self.refuse(&newcomer.address, &newcomer.peer, Close::Overload, &limit);
                return;
            }
        };
        let Newcomer {
            address,
            conn,
            verified,
            ..
        } = newcomer;
        let BackendIdentity { id, key, peer, .. } = identity.clone();
        conn.stream().send_at_once();
        conn.stream().watch_peer();
        // From now on only the hang-up is reported, once.
        let flags = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        let mut event = EpollEvent::new(flags, number);
        if let Err(error) = self.control.epoll.modify(&conn, &mut event) {
            self.refuse(&address, &peer, Close::Internal, error.desc());
            return;
        }
        stats::add(&self.stats.joined);
        let pool = &address.pool;
        log::debug!("{} joined at {}", identity.label(), pool.name());
        let machine = pool.join_machine(&identity);
        let connections = &self.control.connections;
        let home = Arc::<Pool>::clone(pool);
        let arrival = Arrival::DialledIn;
        let registration = connections.enter(number, home, identity, charges, arrival);
        pool.offer(Backend {
            pool: Arc::clone(pool),
            conn,
            id,
            key,
            peer,
            registration,
            machine,
            verified,
        });
    }

    /// Counts and logs a connection that does not become a backend. The caller closes it.
    fn refuse(&self, address: &DialInAddress, peer: &Peer, close: Close, why: &str) {
        self.stats.backend_closed(close);
        let level = match close {
            // There may be many; one warning was logged for all of them.
            Close::Overload => log::Level::Debug,
            _ => log::Level::Info,
        };
        log::log!(
            level,
            "backend from {peer} at {} refused: {why}: reason={close}",
            address.pool.name()
        );
    }

    /// A backend closed its side. If it is leased, its worker notices that itself.
    fn hung_up(&self, number: u64) {
        self.control.connections.hung_up(number);
    }

    /// Closes newcomers whose time is over, and accepts again after a pause.
    fn expire(&mut self, now: Instant) {
        if let Some((_, paused)) = self.paused.take_if(|(until, _)| *until <= now) {
            for number in paused {
                if let Some(listener) = self.listeners.get(&number) {
                    self.set_interest(number, listener, EpollFlags::EPOLLIN);
                }
            }
        }
        for number in self.newcomers.which(|newcomer| newcomer.deadline <= now) {
            let Some(newcomer) = self.newcomers.remove(number) else {
                continue;
            };
            let Newcomer { address, peer, .. } = &newcomer;
            if newcomer.conn.is_handshaking() {
                self.refuse(address, peer, Close::TlsTimeout, "no end of the handshake");
                continue;
            }
            let received = counted(newcomer.bytes.len(), "byte");
            let why = format!("no preamble in time, {received} came");
            self.refuse(address, peer, Close::PreambleTimeout, &why);
        }
    }
}

/// The most connections accepted at a time.
const MOST_AT_ONCE: usize = 64;

/// The event number of the wake-up for commands; other numbers never grow so large.
const WAKE: u64 = u64::MAX;
/// The shortest time between two warnings about closed newcomers.
const WARN_INTERVAL: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
