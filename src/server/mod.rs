//! The server: its threads, what they share, and how it starts, reloads and stops.
//!
//! In reading order: a [`worker`] runs a [`session`], the front door, which goes through the life of a connection; on the
//! way it calls [`route`], [`guard`], [`admission`], [`respond`] and [`deliver`]. [`snapshot`] is the configuration as it
//! runs.
//!
//! | lock | guards | held for |
//! |---|---|---|
//! | `Server::running` | listeners and their threads | start, reload, stop |
//! | `Shared::snapshot`, `Front::tls` | the current snapshot, certificates | a clone |
//! | poller slots, crew, tunnels' inbox, pool, directory, waiter's slot, admission, clients, dial-in connections | see there | a few instructions |
//! | `Files::cache`, `Root::handle` | what is known of paths, a directory | a look-up, a clone |
//! | `Watched::state`, `Users::verified` | a file's content, credentials that were right | a clone, a few instructions |
//! | those of [`logging`](crate::logging) | a log, so that its lines stay whole | a write, where a message or many lines go out |
//!
//! But for the first, which is never taken by a worker, all are leaves.

pub(crate) mod admission;
pub(crate) mod collect;
pub(crate) mod compress;
pub(crate) mod deliver;
pub(crate) mod files;
pub(crate) mod guard;
pub(crate) mod pages;
pub(crate) mod respond;
pub(crate) mod route;
pub(crate) mod secure;
pub(crate) mod session;
pub(crate) mod snapshot;
pub(crate) mod spool;
pub(crate) mod worker;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, io, mem};

use parking_lot::{Condvar, Mutex, RwLock};
use threadpool::ThreadPool;

use crate::backend::dial_in::{DialIn, Settings};
use crate::backend::directory::Servers;
use crate::backend::lease::Lease;
use crate::backend::pool::{Pool, Waiting};
use crate::config::{self, Address, Config};
use crate::content::watched::FileError;
use crate::logging::{AccessLog, OpenError};
use crate::net::conn::Conn;
use crate::net::listener::{BindError, Listener, Local, SocketFile, Stop, reason};
use crate::net::poller::Poller;
use crate::net::stream::{Peer, Stream};
use crate::net::tls::{Acceptor, LoadError};
use crate::net::tunnel::Tunnels;
use crate::process;
use crate::stats::{self, Close, Stats};
use admission::{Admission, Clients};
use guard::Checks;
use secure::{Secure, Slot};
use session::Session;
use snapshot::{Site, Snapshot, accepted_keys, log_target};
use spool::{Budget, Room};
use worker::{Worker, be_scheduled};

/// A running server.
///
/// Dropping it stops it at once; see [`Server::drain`] for the way that cuts nothing.
///
/// ```
/// use swiftiply::config::{Config, Overrides};
/// use swiftiply::Server;
///
/// let yaml = "
///     cluster_address: 127.0.0.1
///     cluster_port: 0
///     map:
///       - {incoming: example.com, outgoing: 127.0.0.1:0}
/// ";
/// let (config, _notes) = Config::from_yaml(yaml, "example.yml".as_ref(), &Overrides::default())?;
/// let server = Server::start(config)?;
/// println!("visitors go to {}, applications dial in at {}", server.visitors()[0], server.backends()[0]);
/// assert!(server.drain(std::time::Duration::from_secs(1)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Server {
    shared: Arc<Shared>,
    running: Mutex<Running>,
    workers: ThreadPool,
    tick: Option<(Arc<Tick>, Thread)>,
    lookout: Option<Thread>,
    tunnels: Option<Thread>,
}

/// A server that has bound its addresses and opened its logs, and runs no thread yet: the moment to give up
/// privileges.
pub struct Bound {
    shared: Arc<Shared>,
    fronts: Vec<(Address, Vec<Listener>)>,
    dials: Vec<NewDial>,
    secure: Secure,
    outgoing: Secure,
}

/// Why a server did not start, or did not take a new configuration.
#[derive(Debug)]
pub enum StartError {
    /// An address could not be bound.
    Bind(BindError),
    /// An access log could not be opened.
    Log(OpenError),
    /// A file with passwords or a page could not be read.
    File(FileError),
    /// A certificate or its key could not be had.
    Certificate(LoadError),
    /// One of a dial-in address could not, or the authorities for who dials in.
    DialInCertificate(LoadError),
    /// A Unix socket is to have a user or a group that does not exist.
    SocketFile(String),
    /// The system refused something else.
    System(io::Error),
}

/// What the threads of a server share.
pub(crate) struct Shared {
    pub(crate) poller: Poller<Session>,
    pub(crate) tunnels: Tunnels<Session, Lease>,
    pub(crate) admission: Admission,
    pub(crate) clients: Clients,
    pub(crate) stats: Arc<Stats>,
    snapshot: RwLock<Arc<Snapshot>>,
    /// Changes with the snapshot, so that workers need not take the lock to see that it did not.
    generation: AtomicU64,
    draining: AtomicBool,
    /// Answers on disk.
    spools: Arc<Budget>,
    /// Requests that wait for a backend, at all sites.
    waiting: Arc<AtomicUsize>,
    /// Passwords that are checked.
    checks: Arc<Checks>,
}

#[derive(Default)]
struct Running {
    fronts: Vec<Front>,
    dials: Vec<Dial>,
    secure: Secure,
    /// The certificates of dial-in addresses.
    outgoing: Secure,
}

/// An address for visitors.
struct Front {
    address: Address,
    locals: Vec<Local>,
    stop: Stop,
    tls: Slot,
    threads: Vec<Thread>,
}

/// An address for backends.
struct Dial {
    address: Address,
    locals: Vec<Local>,
    stop: Stop,
    pool: Arc<Pool>,
    settings: Arc<Settings>,
    file: SocketFile,
    threads: Vec<Thread>,
}

/// A thread that was made, and begins when nothing can fail any more. One that never begins ends when this is dropped.
enum Thread {
    Made {
        go: mpsc::Sender<()>,
        handle: JoinHandle<()>,
    },
    Begun(JoinHandle<()>),
}

/// Has the tick thread stop.
#[derive(Default)]
struct Tick {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Server {
    /// Binds and opens everything that a configuration names, and starts no thread.
    ///
    /// # Errors
    /// The first thing that could not be had; what was bound before is closed again.
    pub fn bind(config: Config) -> Result<Bound, StartError> {
        let stats = Arc::new(Stats::new());
        let mut secure = Secure::default();
        secure.load("ssl", &config.ssl)?;
        let mut outgoing = Secure::default();
        load_outgoing(&mut outgoing, &config)?;
        let fronts = config
            .listen
            .iter()
            .map(|address| Ok((address.clone(), Listener::bind(address)?)));
        let fronts = fronts.collect::<Result<Vec<_>, StartError>>()?;
        let mut dials = Vec::new();
        for address in dial_addresses(&config) {
            dials.push(NewDial::bind(&address, &config, &outgoing, &stats)?);
        }
        let workers = config.workers;
        let admission = Admission::new(workers);
        let checks = Arc::new(Checks::new(&admission));
        let waiting = Arc::new(AtomicUsize::new(0));
        let pools: Vec<_> = dials.iter().map(NewDial::pool).collect();
        let shares = Shares {
            admission: &admission,
            waiting: &waiting,
            stats: &stats,
        };
        let snapshot = assemble(config, &shares, None, &pools)?;
        let shared = Arc::new(Shared {
            poller: Poller::new(workers)?,
            tunnels: Tunnels::new()?,
            admission,
            clients: Clients::default(),
            stats,
            snapshot: RwLock::new(Arc::new(snapshot)),
            generation: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            spools: Arc::default(),
            waiting,
            checks,
        });
        Ok(Bound {
            shared,
            fronts,
            dials,
            secure,
            outgoing,
        })
    }

    /// Finds what is wrong with a configuration that cannot be seen in its file, without binding anything: certificates.
    ///
    /// # Errors
    /// The first one.
    pub fn check(config: &Config) -> Result<(), StartError> {
        Secure::default().load("ssl", &config.ssl)?;
        load_outgoing(&mut Secure::default(), config)?;
        for address in dial_addresses(config) {
            socket_file(config, &address)?;
        }
        Ok(())
    }

    /// Starts a server: [`Server::bind`] and [`Bound::start`].
    ///
    /// # Errors
    /// What could not be had. Nothing runs then.
    pub fn start(config: Config) -> Result<Self, StartError> {
        Self::bind(config)?.start()
    }

    /// Where visitors are served, in the order of the configuration; ports are the real ones.
    pub fn visitors(&self) -> Vec<Local> {
        let running = self.running.lock();
        running
            .fronts
            .iter()
            .flat_map(|front| front.locals.clone())
            .collect()
    }

    /// Where backends dial in, in the order of the configuration; ports are the real ones.
    pub fn backends(&self) -> Vec<Local> {
        let running = self.running.lock();
        running
            .dials
            .iter()
            .flat_map(|dial| dial.locals.clone())
            .collect()
    }

    /// Visitors' connections now.
    pub fn open(&self) -> u64 {
        stats::get(&self.shared.stats.open)
    }

    /// What was counted since the start.
    pub fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    /// Idle backends and idle connections to servers now, and requests that wait for one.
    pub fn queues(&self) -> (usize, usize) {
        let dialled: usize = {
            let running = self.running.lock();
            running.dials.iter().map(|dial| dial.pool.idle()).sum()
        };
        let snapshot = self.shared.snapshot();
        let kept: usize = snapshot.servers().map(|servers| servers.idle()).sum();
        (dialled + kept, self.shared.waiting.load(Ordering::Relaxed))
    }

    /// Goes over to a new configuration, whole or not at all. Connections, idle backends and exchanges are not touched but
    /// for those of addresses and keys that are gone. `workers` and `scheduling` stay as they were at the start.
    ///
    /// # Errors
    /// What could not be had. Everything goes on as before then.
    pub fn reload(&self, config: Config) -> Result<(), StartError> {
        let mut running = self.running.lock();
        let shared = &self.shared;
        // First open what is new; any failure up to the swap leaves everything as it was.
        let mut secure = running.secure.clone();
        secure.load("ssl", &config.ssl)?;
        let mut outgoing = running.outgoing.clone();
        load_outgoing(&mut outgoing, &config)?;
        let mut new_fronts = Vec::new();
        let kept = |addresses: &[Address], address: &Address| addresses.contains(address);
        let old: Vec<_> = running
            .fronts
            .iter()
            .map(|front| front.address.clone())
            .collect();
        for address in config.listen.iter().filter(|address| !kept(&old, address)) {
            new_fronts.push((address.clone(), Listener::bind(address)?));
        }
        let wanted = dial_addresses(&config);
        let old: Vec<_> = running
            .dials
            .iter()
            .map(|dial| dial.address.clone())
            .collect();
        let mut new_dials = Vec::new();
        for address in wanted.iter().filter(|address| !kept(&old, address)) {
            new_dials.push(NewDial::bind(address, &config, &outgoing, &shared.stats)?);
        }
        let old_pools = running
            .dials
            .iter()
            .map(|d| (d.address.clone(), Arc::clone(&d.pool)));
        let pools: Vec<_> = old_pools
            .chain(new_dials.iter().map(NewDial::pool))
            .collect();
        let files = wanted.iter().map(|address| socket_file(&config, address));
        let files = files.collect::<Result<Vec<_>, _>>()?;
        let before = shared.snapshot();
        let listen = config.listen.clone();
        let shares = Shares {
            admission: &shared.admission,
            waiting: &shared.waiting,
            stats: &shared.stats,
        };
        let snapshot = assemble(config, &shares, Some(&before), &pools)?;
        let new_dials = new_dials.into_iter();
        let new_dials = new_dials.map(|dial| dial.prepare(&shared.stats));
        let new_dials = new_dials.collect::<Result<Vec<_>, StartError>>()?;
        let new_fronts = new_fronts.into_iter();
        let new_fronts =
            new_fronts.map(|(address, listeners)| Front::prepare(address, listeners, shared));
        let new_fronts = new_fronts.collect::<Result<Vec<_>, StartError>>()?;
        // Now nothing can fail any more.
        let snapshot = Arc::new(snapshot);
        shared.set_snapshot(Arc::clone(&snapshot));
        before.retire(&snapshot);
        snapshot.check_files();
        for site in &snapshot.sites {
            if let Some(servers) = &site.servers {
                servers.change(&site.settings);
                servers.tick(Instant::now());
            }
        }
        for servers in before.servers() {
            if !snapshot.servers().any(|kept| Arc::ptr_eq(kept, servers)) {
                servers.shut(Close::Removed);
            }
        }
        for front in new_fronts.iter().chain(&running.fronts) {
            *front.tls.write() = secure.acceptor(&front.address);
        }
        running.fronts.extend(new_fronts);
        running.secure = secure;
        running.dials.extend(new_dials);
        running.begin();
        let (mut fronts, gone) = partition(mem::take(&mut running.fronts), |front| {
            listen.contains(&front.address)
        });
        fronts.sort_by_key(|front| position(&listen, &front.address));
        running.fronts = fronts;
        gone.into_iter().for_each(Front::stop);
        let (mut dials, gone) = partition(mem::take(&mut running.dials), |dial| {
            wanted.contains(&dial.address)
        });
        dials.sort_by_key(|dial| position(&wanted, &dial.address));
        for dial in &dials {
            dial.pool.set_keys(keys_of(&snapshot.config, &dial.address));
            let acceptor = outgoing.acceptor(&dial.address);
            dial.settings.set(&snapshot.config, acceptor);
        }
        for (dial, file) in dials.iter_mut().zip(files) {
            dial.dress(file);
        }
        running.dials = dials;
        running.outgoing = outgoing;
        gone.into_iter().for_each(|dial| dial.stop(Close::Removed));
        Ok(())
    }

    /// Opens the access logs anew under their names, after they were moved away.
    ///
    /// # Errors
    /// The files that could not be opened; they are written to as before.
    pub fn reopen_logs(&self) -> Vec<OpenError> {
        let snapshot = self.shared.snapshot();
        let logs = snapshot.access_logs();
        logs.iter()
            .filter_map(|(_, log)| log.reopen().err())
            .collect()
    }

    /// Stops accepting, and has every connection closed after the answer that is under way.
    pub fn begin_drain(&self) {
        self.shared.draining.store(true, Ordering::SeqCst);
        let fronts = mem::take(&mut self.running.lock().fronts);
        fronts.into_iter().for_each(Front::stop);
        self.shared.close_idle(false);
    }

    /// Whether a drain is over. Call it every now and then, for it also closes what has become idle.
    ///
    /// A connection that has not had a request yet is given a second to send one: its visitor has just come.
    pub fn is_drained(&self, since: Instant) -> bool {
        self.shared
            .close_idle(since.elapsed() >= Duration::from_secs(1));
        self.open() == 0
    }

    /// Closes all upgraded connections. They end when their users want, so a drain leaves them as they are and does this
    /// when its time is over.
    pub fn close_tunnels(&self) {
        self.shared.tunnels.close_all(Close::Draining);
    }

    /// Drains, at most for `grace`, and stops. Returns whether nothing was cut but upgraded connections.
    pub fn drain(self, grace: Duration) -> bool {
        let since = Instant::now();
        self.begin_drain();
        loop {
            if self.is_drained(since) {
                return true;
            }
            if since.elapsed() >= grace {
                self.close_tunnels();
                return self.open() == 0;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.draining.store(true, Ordering::SeqCst);
        let Running { fronts, dials, .. } = mem::take(&mut *self.running.lock());
        fronts.into_iter().for_each(Front::stop);
        dials
            .into_iter()
            .for_each(|dial| dial.stop(Close::Draining));
        if let Some((tick, thread)) = self.tick.take() {
            *tick.stopped.lock() = true;
            tick.changed.notify_one();
            thread.join();
        }
        self.shared.poller.stop();
        if let Some(thread) = self.lookout.take() {
            thread.join();
        }
        self.shared.tunnels.stop();
        if let Some(thread) = self.tunnels.take() {
            thread.join();
        }
        for session in self.shared.poller.take_all(|_, _| true) {
            session.close(Close::Draining);
        }
        // Workers in the middle of an exchange end when it does; nobody waits for them.
        if self.open() == 0 {
            self.workers.join();
        }
        for servers in self.shared.snapshot().servers() {
            servers.shut(Close::Draining);
        }
        for (_, log) in self.shared.snapshot().access_logs() {
            log.flush();
        }
    }
}

impl Bound {
    /// Starts the threads.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn start(self) -> Result<Server, StartError> {
        let Self {
            shared,
            fronts,
            dials,
            secure,
            outgoing,
        } = self;
        let snapshot = shared.snapshot();
        snapshot.check_files();
        let config = snapshot.config.clone();
        for servers in snapshot.servers() {
            servers.tick(Instant::now());
        }
        let workers = threadpool::Builder::new()
            .num_threads(config.workers)
            .thread_name("worker".to_owned())
            .build();
        for _ in 0..config.workers {
            let shared = Arc::clone(&shared);
            let scheduling = config.scheduling;
            // One job for the life of the server: the library's queue has no bound, ours have.
            workers.execute(move || Worker::new(shared).work(scheduling));
        }
        let mut server = Server {
            running: Mutex::default(),
            workers,
            tick: None,
            lookout: None,
            tunnels: None,
            shared: Arc::clone(&shared),
        };
        // From here on, what has begun is stopped again if something else cannot be had.
        let tick = Arc::new(Tick::default());
        let thread = {
            let (tick, shared) = (Arc::clone(&tick), Arc::clone(&shared));
            Thread::new("tick", move || tick.run(&shared))?
        };
        server.tick = Some((tick, thread.begin()));
        let thread = {
            let shared = Arc::clone(&shared);
            Thread::new("lookout", move || shared.poller.look_out())?
        };
        server.lookout = Some(thread.begin());
        let thread = {
            let shared = Arc::clone(&shared);
            Thread::new("tunnels", move || {
                be_scheduled(config.scheduling);
                let tunnels = &shared.tunnels;
                tunnels.run(|session, backend, ended| session.end_tunnel(backend, &ended));
            })?
        };
        server.tunnels = Some(thread.begin());
        let mut running = Running::default();
        for dial in dials {
            running.dials.push(dial.prepare(&shared.stats)?);
        }
        for (address, listeners) in fronts {
            let front = Front::prepare(address, listeners, &shared)?;
            *front.tls.write() = secure.acceptor(&front.address);
            running.fronts.push(front);
        }
        running.secure = secure;
        running.outgoing = outgoing;
        running.begin();
        *server.running.lock() = running;
        Ok(server)
    }
}

impl Shared {
    /// The configuration as it is now. For one request, take it once.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read())
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Where to keep what the visitor of a site does not take.
    pub(crate) fn room(&self, snapshot: &Snapshot, site: Option<usize>) -> Room {
        let config = &snapshot.config;
        let limits = site.map_or(&config.limits, |site| &snapshot.sites[site].settings.limits);
        self.spools.limit(config.limits.spool);
        Room {
            budget: Arc::clone(&self.spools),
            directory: config.temporary_directory.clone(),
            memory: limits.body_memory,
        }
    }

    fn set_snapshot(&self, snapshot: Arc<Snapshot>) {
        *self.snapshot.write() = snapshot;
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Takes in a connection that was just accepted. Runs on an acceptor.
    fn accepted(self: &Arc<Self>, stream: Stream, peer: Peer, tls: Option<&Acceptor>) {
        let snapshot = self.snapshot();
        let limit = snapshot.most_connections;
        if stats::get(&self.stats.open) >= limit && !self.shed(limit) {
            self.turn_away(&peer, "limits.connections");
            return;
        }
        let most = snapshot.config.limits.connections_per_client;
        let counted = match peer.ip().filter(|_| most > 0 && !snapshot.trusts(&peer)) {
            None => None,
            Some(ip) => match self.clients.enter(ip, most) {
                Some(counted) => Some(counted),
                None => {
                    self.turn_away(&peer, "limits.connections_per_client");
                    return;
                }
            },
        };
        stream.send_at_once();
        let timeouts = &snapshot.config.timeouts;
        let (conn, patience) = match tls {
            None => (Ok(Conn::plain(stream)), timeouts.idle),
            Some(tls) => (Conn::secure(stream, tls), timeouts.head),
        };
        let conn = match conn {
            Ok(conn) => conn,
            Err(error) => {
                log::error!("visitor {peer}: {error}");
                if let Some(counted) = counted {
                    self.clients.leave(counted);
                }
                return;
            }
        };
        let deadline = Instant::now() + patience;
        let make = |token| Box::new(Session::new(Arc::clone(self), token, conn, peer, counted));
        if let Err(error) = self.poller.enter(make, deadline) {
            log::warn!("visitor {peer}: {error}");
        }
    }

    /// Closes idle connections, those that would be closed next anyhow, to make room. Returns whether there were any.
    fn shed(&self, limit: u64) -> bool {
        // Some at a time, since looking for them takes a look at all.
        let some = usize::try_from(limit / 64 + 1).unwrap_or(usize::MAX);
        let idle = self.poller.take_earliest(some, Session::is_idle);
        let mut any = false;
        for session in idle {
            match session.has_input() {
                true => self.poller.hand_over(session),
                false => {
                    any = true;
                    session.close(Close::Overload);
                }
            }
        }
        any
    }

    /// Closes a connection that was just accepted, for a limit.
    fn turn_away(&self, peer: &Peer, limit: &str) {
        stats::add(&self.stats.open);
        self.stats.visitor_closed(Close::Overload);
        log::debug!("visitor {peer} closed: {limit} reached: reason=overload");
    }

    /// Closes sessions that have nothing to do, in a drain. `fresh`: also those that had no request yet.
    fn close_idle(&self, fresh: bool) {
        let idle = self
            .poller
            .take_all(|session, _| session.is_idle() && (fresh || !session.is_fresh()));
        for session in idle {
            match session.has_input() {
                true => self.poller.hand_over(session),
                false => session.close(Close::Draining),
            }
        }
    }
}

impl Tick {
    /// Closes or hands over sessions whose deadlines are over, and writes out access logs, until it is stopped.
    fn run(&self, shared: &Shared) {
        let mut pause = LONGEST_PAUSE;
        let mut flushed = Instant::now();
        loop {
            let mut stopped = self.stopped.lock();
            if !*stopped {
                self.changed.wait_for(&mut stopped, pause);
            }
            if *stopped {
                return;
            }
            drop(stopped);
            let now = Instant::now();
            let (expired, next) = shared.poller.expire(now);
            for session in expired {
                if let Some(session) = session.expire() {
                    shared.poller.hand_over(session);
                }
            }
            for servers in shared.snapshot().servers() {
                servers.tick(now);
            }
            let left = next.map_or(LONGEST_PAUSE, |next| next.saturating_duration_since(now));
            pause = left.clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
            if flushed.elapsed() >= LONGEST_PAUSE {
                flushed = now;
                for (_, log) in shared.snapshot().access_logs() {
                    log.flush();
                }
            }
        }
    }
}

/// An address for backends that is bound and not served yet.
struct NewDial {
    address: Address,
    listeners: Vec<Listener>,
    pool: Arc<Pool>,
    settings: Arc<Settings>,
    file: SocketFile,
}

impl NewDial {
    fn bind(
        address: &Address,
        config: &Config,
        outgoing: &Secure,
        stats: &Arc<Stats>,
    ) -> Result<Self, StartError> {
        let file = socket_file(config, address)?;
        let pool = Arc::new(Pool::new(address.to_string(), Arc::clone(stats)));
        pool.set_keys(keys_of(config, address));
        Ok(Self {
            address: address.clone(),
            listeners: Listener::bind_with(address, &file)?,
            pool,
            settings: Arc::new(Settings::new(config, outgoing.acceptor(address))),
            file,
        })
    }

    fn pool(&self) -> (Address, Arc<Pool>) {
        (self.address.clone(), Arc::clone(&self.pool))
    }

    /// Makes its threads, which do not begin yet.
    fn prepare(self, stats: &Arc<Stats>) -> Result<Dial, StartError> {
        let locals = self
            .listeners
            .iter()
            .map(|listener| listener.local().clone())
            .collect();
        let stop = Stop::new()?;
        let mut threads = Vec::new();
        for listener in self.listeners {
            let dial_in = DialIn::new(
                listener,
                Arc::clone(&self.pool),
                stop.clone(),
                Arc::clone(&self.settings),
                Arc::clone(stats),
            )?;
            threads.push(Thread::new("dial-in", move || dial_in.run())?);
        }
        Ok(Dial {
            address: self.address,
            locals,
            stop,
            threads,
            pool: self.pool,
            settings: self.settings,
            file: self.file,
        })
    }
}

impl Front {
    /// Makes its threads, which do not begin yet, and speak no TLS if nothing else is said until then.
    fn prepare(
        address: Address,
        listeners: Vec<Listener>,
        shared: &Arc<Shared>,
    ) -> Result<Self, StartError> {
        let locals = listeners
            .iter()
            .map(|listener| listener.local().clone())
            .collect();
        let stop = Stop::new()?;
        let tls = Slot::default();
        let threads = listeners.into_iter().map(|listener| {
            let (stop, shared, tls) = (stop.clone(), Arc::clone(shared), Arc::clone(&tls));
            Thread::new("accept", move || {
                listener.accept_loop(&stop, |stream, peer| {
                    let acceptor = tls.read().clone();
                    shared.accepted(stream, peer, acceptor.as_ref());
                });
            })
        });
        Ok(Self {
            threads: threads.collect::<io::Result<_>>()?,
            address,
            locals,
            tls,
            stop,
        })
    }

    /// Stops accepting; connections that are open stay so.
    fn stop(self) {
        self.stop.stop();
        self.threads.into_iter().for_each(Thread::join);
    }
}

/// Reads the certificates of dial-in addresses.
fn load_outgoing(outgoing: &mut Secure, config: &Config) -> Result<(), StartError> {
    outgoing
        .load("outgoing_ssl", &config.outgoing_ssl)
        .map_err(StartError::DialInCertificate)
}

/// What the file of a dial-in address is to be like: as the first entry that says something has it.
fn socket_file(config: &Config, address: &Address) -> Result<SocketFile, StartError> {
    let mut all = config.sites.iter().flat_map(|site| &site.outgoing);
    let none = config::SocketFile::default();
    let said = all.find(|outgoing| outgoing.to == *address && outgoing.file != none);
    let said = said.map_or(&none, |outgoing| &outgoing.file);
    let identity = process::look_up(said.owner.as_deref(), said.group.as_deref())
        .map_err(|error| StartError::SocketFile(format!("{address}: {error}")))?;
    let (owner, group) = identity.ids();
    let mode = said.mode.unwrap_or(SocketFile::default().mode);
    Ok(SocketFile { mode, owner, group })
}

impl Dial {
    /// Changes what its file is like, if that has changed.
    fn dress(&mut self, file: SocketFile) {
        let before = mem::replace(&mut self.file, file);
        if let Address::Unix(path) = &self.address
            && before != file
            && let Err(error) = file.dress(path)
        {
            log::error!("{}: {}", self.address, reason(&error));
        }
    }

    fn stop(self, reason: Close) {
        self.stop.stop();
        self.pool.shut(reason);
        self.threads.into_iter().for_each(Thread::join);
    }
}

impl Running {
    /// Has every thread begin that has not yet.
    fn begin(&mut self) {
        let fronts = self.fronts.iter_mut().map(|front| &mut front.threads);
        let dials = self.dials.iter_mut().map(|dial| &mut dial.threads);
        for threads in fronts.chain(dials) {
            *threads = mem::take(threads).into_iter().map(Thread::begin).collect();
        }
    }
}

impl Thread {
    /// Makes a thread that waits until it may begin.
    fn new(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (go, wait) = mpsc::channel();
        let begin = move || {
            if wait.recv().is_ok() {
                run();
            }
        };
        let thread = thread::Builder::new().name(name.to_owned());
        let handle = thread.spawn(begin)?;
        Ok(Self::Made { go, handle })
    }

    fn begin(self) -> Self {
        match self {
            Self::Made { go, handle } => {
                // It waits for this and for nothing else.
                let _ = go.send(());
                Self::Begun(handle)
            }
            begun @ Self::Begun(_) => begun,
        }
    }

    /// Waits for its end; at once, if it has never begun.
    fn join(self) {
        let handle = match self {
            Self::Made { go, handle } => {
                drop(go);
                handle
            }
            Self::Begun(handle) => handle,
        };
        let _ = handle.join();
    }
}

/// What the sites of all generations share.
struct Shares<'a> {
    admission: &'a Admission,
    waiting: &'a Arc<AtomicUsize>,
    stats: &'a Arc<Stats>,
}

/// Makes a snapshot, with the lines, servers and logs of the one before where they are the same.
fn assemble(
    config: Config,
    shares: &Shares<'_>,
    before: Option<&Snapshot>,
    pools: &[(Address, Arc<Pool>)],
) -> Result<Snapshot, StartError> {
    let mut logs: HashMap<config::AccessLog, Arc<AccessLog>> = before
        .map_or_else(HashMap::new, |before| {
            before.access_logs().into_iter().collect()
        });
    let mut log = |wanted: &Option<config::AccessLog>| -> Result<_, StartError> {
        let Some(wanted) = wanted else {
            return Ok(None);
        };
        if let Some(open) = logs.get(wanted) {
            return Ok(Some(Arc::clone(open)));
        }
        let open = Arc::new(AccessLog::open(wanted)?);
        logs.insert(wanted.clone(), Arc::clone(&open));
        Ok(Some(open))
    };
    let mut sites = Vec::new();
    for settings in &config.sites {
        let known = before.and_then(|before| {
            let mut sites = before.sites.iter();
            sites.find(|site| site.settings.name == settings.name)
        });
        let line = known.map(|site| Arc::clone(&site.waiting));
        let line = line.unwrap_or_else(|| Arc::new(Waiting::new(Arc::clone(shares.waiting))));
        let servers = known.and_then(|site| site.servers.clone());
        let servers = match servers.filter(|servers| servers.fit(settings)) {
            Some(servers) => Some(servers),
            None => Servers::new(settings, &log_target(settings), shares.stats)?.map(Arc::new),
        };
        let tunnels = known.map(|site| Arc::clone(&site.tunnels));
        let tunnels = tunnels.unwrap_or_default();
        tunnels.limit(settings.max_tunnels);
        line.limit(settings.limits.waiting, config.limits.waiting_total);
        let find = |address: &Address| {
            let found = pools.iter().find(|(known, _)| known == address)?;
            Some(Arc::clone(&found.1))
        };
        let place = shares.admission.place(&settings.name);
        let access_log = log(&settings.access_log)?;
        let settings = settings.clone();
        let mut site = Site::new(settings, place, line, tunnels, access_log, before, find)?;
        site.servers = servers;
        sites.push(site);
    }
    let access_log = log(&config.access_log)?;
    Ok(Snapshot::new(config, sites, access_log))
}

/// The addresses at which backends dial in, each once, in the order of the configuration.
fn dial_addresses(config: &Config) -> Vec<Address> {
    let mut addresses = Vec::new();
    for outgoing in config.sites.iter().flat_map(|site| &site.outgoing) {
        if !addresses.contains(&outgoing.to) {
            addresses.push(outgoing.to.clone());
        }
    }
    addresses
}

/// The keys that are known at a dial-in address: those of every site that has it.
fn keys_of(config: &Config, address: &Address) -> Arc<[Box<[u8]>]> {
    let sites = config.sites.iter();
    let here = sites.filter(|site| site.outgoing.iter().any(|outgoing| outgoing.to == *address));
    here.flat_map(|site| accepted_keys(site).to_vec()).collect()
}

fn partition<T>(all: Vec<T>, stays: impl Fn(&T) -> bool) -> (Vec<T>, Vec<T>) {
    all.into_iter().partition(|item| stays(item))
}

fn position(order: &[Address], address: &Address) -> usize {
    order
        .iter()
        .position(|other| other == address)
        .unwrap_or(usize::MAX)
}

impl fmt::Display for StartError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(error) => error.fmt(out),
            Self::Log(error) => error.fmt(out),
            Self::File(error) => error.fmt(out),
            Self::Certificate(error) => write!(out, "ssl: {error}"),
            Self::DialInCertificate(error) => write!(out, "outgoing_ssl: {error}"),
            Self::SocketFile(error) => write!(out, "outgoing: {error}"),
            Self::System(error) => error.fmt(out),
        }
    }
}

impl std::error::Error for StartError {}

impl From<BindError> for StartError {
    fn from(error: BindError) -> Self {
        Self::Bind(error)
    }
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        Self::Log(error)
    }
}

impl From<FileError> for StartError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl From<LoadError> for StartError {
    fn from(error: LoadError) -> Self {
        Self::Certificate(error)
    }
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Server")
            .field("visitors", &self.visitors())
            .finish_non_exhaustive()
    }
}

/// How often the tick looks at deadlines: no earlier than the next one, and no later than new ones may need.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
