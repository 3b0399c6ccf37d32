//! The server: its threads, what they share, and how it starts, reloads and stops.
//!
//! In reading order: [`accept`] makes a [`session`] of each new connection, and a [`worker`] runs it with its
//! [`scratch`] buffers. The session goes through the states of a connection: [`route`] chooses the site, [`auth`] asks
//! for a password, which [`checks`] schedules, [`files`] and [`pages`] make the server's own responses, and [`body`]
//! reads the request's body. [`pending`] is the request on its way through [`relay`](crate::relay), with its fields for
//! the backend ([`forwarding`]) and its response, compressed or not ([`compress`]). [`snapshot`] is the configuration
//! as it runs, with the [`site_files`] and [`sticky`] patterns of its sites. [`shared`] is what the threads have in
//! common; sessions wait in [`sessions`], where [`idle`] and [`tick`] close them. [`addresses`] is where the server
//! listens, [`admission`] limits the connections of a client and of a site, [`descriptors`] those of each side. The
//! [`drainer`] reads the rest of responses that no client gets.
//!
//! | lock | guards | held for |
//! |---|---|---|
//! | `Server::reloading` | the order of reloads | a reload, with the files that it reads |
//! | `Server::running` | listeners and their threads | start, the change of a reload to the new configuration, stop |
//! | `Shared::snapshot`, `VisitorListener::tls` | the current snapshot, certificates | a clone |
//! | poller slots | parked sessions, handed-over sessions, deadlines | a few instructions, or a scan of all sessions: in a drain, and to make room for new connections, requests and bodies |
//! | `Pool::state`, `Directory::state`, `ConcurrencyLimit` | idle backends, free connection slots, free permits, each with its queue | a few instructions |
//! | `Slot::content` | what a request in a queue was given, or its waker | a few instructions, or the wait of a worker (Condvar) |
//! | alarm, inboxes of the tunnels and the drainer, `Clients`, `Checks`, `Shares`, dial-in connections, groups and settings, resolved addresses, the state of the Redis thread, `Sessions::shedding` | see there | a few instructions |
//! | `Files::cache`, `Root::handle` | what is known about paths, a directory | a look-up, a clone |
//! | `Watched::state`, `Users::verified` | a file's content, credentials that were correct | a clone, a few instructions |
//! | those of [`logging`](crate::logging) | lines on their way into a log; the loggers | adding a line |
//!
//! All but the first two are leaves, and so are those of a log except its loggers. A worker never takes the first two.

mod accept;
mod addresses;
pub(crate) mod admission;
pub(crate) mod auth;
pub(crate) mod body;
pub(crate) mod certificates;
pub(crate) mod checks;
pub(crate) mod compress;
mod descriptors;
mod drainer;
mod error;
pub(crate) mod files;
mod forwarding;
mod idle;
pub(crate) mod pages;
pub(crate) mod pending;
pub(crate) mod route;
pub(crate) mod scratch;
pub(crate) mod session;
pub(crate) mod sessions;
pub(crate) mod shared;
pub(crate) mod site_files;
pub(crate) mod snapshot;
pub(crate) mod sticky;
mod threads;
mod tick;
pub(crate) mod worker;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{fmt, io, mem};

use parking_lot::{Mutex, RwLock};
use threadpool::ThreadPool;

use crate::backend::dial_in::{DialIn, DialInControl};
use crate::backend::group::Journal;
use crate::backend::registration::ConnectedBackend;
use crate::budget::{Budget, Shares};
use crate::config::{Address, Config};
use crate::content::gzip::Compressors;
use crate::logging::AccessLog;
use crate::net::listener::{Inherited, Listener, LocalAddress, SocketFile, Sockets};
use crate::net::poller::Poller;
use crate::net::tunnel::Tunnels;
use crate::process;
use crate::stats::{self, Close, Stats};
use addresses::{
    BackendAddress, BackendListener, NewBackendListener, Running, VisitorListener, load_outgoing,
    sort_by_address,
};
use admission::Clients;
use certificates::Certificates;
use checks::Checks;
use drainer::Drainer;
pub use error::StartError;
use session::Session;
use sessions::{ScanBackoff, Sessions};
use shared::Shared;
use snapshot::{Snapshot, SnapshotParts};
use threads::PreparedThread;
use worker::{Worker, set_scheduling};

/// A running server.
///
/// Dropping it stops it at once; see [`Server::drain`] for stopping without cutting a response.
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
    sessions: Arc<Sessions<Session>>,
    shared: Arc<Shared>,
    /// Held for the whole of a reload, so that reloads run one after the other.
    reloading: Mutex<()>,
    running: Mutex<Running>,
    /// A process that follows this one accepts at the same addresses.
    is_replaced: AtomicBool,
    workers: ThreadPool,
    tick: Option<PreparedThread>,
    tunnels: Option<PreparedThread>,
    drainer: Option<PreparedThread>,
    dial_in: Option<PreparedThread>,
    /// Controls the thread of the dial-in addresses.
    control: Arc<DialInControl>,
}

/// A server that has bound its addresses and opened its logs but runs no thread yet: the moment to drop privileges.
pub struct Bound {
    sessions: Arc<Sessions<Session>>,
    shared: Arc<Shared>,
    visitor_listeners: Vec<(Address, Vec<Listener>)>,
    backend_listeners: Vec<NewBackendListener>,
    certificates: Certificates,
    outgoing: Certificates,
    dial_in: DialIn,
}

impl Server {
    /// Binds and opens everything that a configuration names, and starts no thread.
    ///
    /// # Errors
    /// The first address or file that failed; what was bound before is closed again.
    pub fn bind(config: Config) -> Result<Bound, StartError> {
        Self::bind_with(config, &Inherited::default())
    }

    /// The same with listening sockets of a server that this one follows, for the addresses that they have.
    ///
    /// # Errors
    /// Those of [`Server::bind`]; the sockets that were used are closed.
    pub fn bind_with(config: Config, inherited: &Inherited) -> Result<Bound, StartError> {
        let (config, division) = descriptors::divide(config, process::descriptors());
        let descriptors = Arc::new(Budget::new(division.backends));
        let stats = Arc::new(Stats::new());
        let journal = Arc::new(Journal::default());
        let mut certificates = Certificates::default();
        certificates.load("ssl", &config.ssl)?;
        let mut outgoing = Certificates::default();
        load_outgoing(&mut outgoing, &config)?;
        let fronts = config.listen.iter().map(|address| {
            let file = SocketFile::default();
            Ok((
                address.clone(),
                Listener::bind_with(address, &file, &inherited.clients)?,
            ))
        });
        let fronts = fronts.collect::<Result<Vec<_>, StartError>>()?;
        let mut dials = Vec::new();
        for wanted in BackendAddress::all(&config) {
            dials.push(NewBackendListener::bind(
                &wanted,
                &config,
                &outgoing,
                &stats,
                &journal,
                &descriptors,
                &inherited.backends,
            )?);
        }
        let workers = config.workers;
        let checks = Arc::new(Checks::new());
        let poller = Poller::new(workers)?;
        let waiting = Arc::new(AtomicUsize::new(0));
        let memory = Arc::new(Budget::new(config.memory));
        let disk = Arc::new(Shares::new(config.limits.spool));
        let compressors = Arc::new(Compressors::new(Arc::clone(&memory)));
        let pools: HashMap<_, _> = dials.iter().map(NewBackendListener::pool).collect();
        let dial_in = DialIn::new(Arc::clone(&stats))?;
        dial_in.control().limit_newcomers(division.newcomers);
        let parts = SnapshotParts {
            waiting: &waiting,
            stats: &stats,
            alarm: poller.alarm(),
            pools: &pools,
            before: None,
        };
        let snapshot = Snapshot::new(config, &parts)?;
        snapshot.set_limits();
        let shared = Arc::new(Shared {
            drainer: Drainer::new()?,
            clients: Clients::default(),
            stats,
            snapshot: RwLock::new(Arc::new(snapshot)),
            generation: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            memory,
            disk,
            compressors,
            descriptors,
            connections: AtomicU64::new(division.both),
            waiting,
            checks,
            journal,
        });
        let sessions = Arc::new(Sessions {
            shared: Arc::clone(&shared),
            poller,
            tunnels: Tunnels::new()?,
            shedding: ScanBackoff::default(),
        });
        Ok(Bound {
            sessions,
            shared,
            visitor_listeners: fronts,
            backend_listeners: dials,
            certificates,
            outgoing,
            dial_in,
        })
    }

    /// Finds what is wrong with a configuration beyond its file, without binding anything: certificates, users and
    /// groups.
    ///
    /// # Errors
    /// The first problem.
    pub fn check(config: &Config) -> Result<(), StartError> {
        Certificates::default().load("ssl", &config.ssl)?;
        load_outgoing(&mut Certificates::default(), config)?;
        for wanted in BackendAddress::all(config) {
            wanted.socket_file()?;
        }
        Ok(())
    }

    /// Starts a server: [`Server::bind`] and [`Bound::start`].
    ///
    /// # Errors
    /// What failed. Nothing runs then.
    pub fn start(config: Config) -> Result<Self, StartError> {
        Self::bind(config)?.start()
    }

    /// The addresses for clients, in the order of the configuration, with their real ports.
    pub fn visitors(&self) -> Vec<LocalAddress> {
        let running = self.running.lock();
        running
            .visitor_listeners
            .iter()
            .flat_map(|front| &front.listeners)
            .map(|listener| listener.local().clone())
            .collect()
    }

    /// The addresses for backends, in the order of the configuration, with their real ports.
    pub fn backends(&self) -> Vec<LocalAddress> {
        let running = self.running.lock();
        running
            .backend_listeners
            .iter()
            .flat_map(|dial| &dial.listeners)
            .map(|listener| listener.local().clone())
            .collect()
    }

    /// The number of clients' connections now.
    pub fn open(&self) -> u64 {
        stats::get(&self.shared.stats.open)
    }

    /// The counters since the start.
    pub fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    /// The number of idle backends and idle connections to servers, and of requests that wait for one.
    pub fn queues(&self) -> (usize, usize) {
        let dialled: usize = {
            let running = self.running.lock();
            running
                .backend_listeners
                .iter()
                .map(|dial| dial.pool.idle())
                .sum()
        };
        let snapshot = self.shared.snapshot();
        let kept: usize = snapshot.servers().map(|servers| servers.idle()).sum();
        (dialled + kept, self.shared.waiting.load(Ordering::Relaxed))
    }

    /// The backends that are connected now, in the order in which they connected.
    pub fn connected(&self) -> Vec<ConnectedBackend> {
        self.control.connected()
    }

    /// Bytes that are charged now to `limits.memory` and to `limits.spool`.
    pub fn kept(&self) -> (u64, u64) {
        (self.shared.memory.used(), self.shared.disk.all().used())
    }

    /// Switches to a new configuration, all or nothing. Connections, idle backends and exchanges continue, except those
    /// of removed addresses and keys. `workers` and `scheduling` keep the values of the start.
    ///
    /// # Errors
    /// What failed. The old configuration stays in force then.
    pub fn reload(&self, config: Config) -> Result<(), StartError> {
        let (config, division) = descriptors::divide(config, process::descriptors());
        let _alone = self.reloading.lock();
        let shared = &self.shared;
        // Open everything new first; a failure before the swap changes nothing. Reading files may take its time, and a
        // drain does not wait for that: apart from a drain, only reloads change what is copied here.
        let (mut certificates, mut outgoing, old_fronts, mut pools) = {
            let running = self.running.lock();
            let fronts = running
                .visitor_listeners
                .iter()
                .map(|front| front.address.clone());
            let dials = running.backend_listeners.iter();
            let pools = dials.map(|dial| (dial.address.clone(), Arc::clone(&dial.pool)));
            (
                running.certificates.clone(),
                running.outgoing.clone(),
                fronts.collect::<HashSet<_>>(),
                pools.collect::<HashMap<_, _>>(),
            )
        };
        certificates.load("ssl", &config.ssl)?;
        load_outgoing(&mut outgoing, &config)?;
        let mut new_fronts = Vec::new();
        let is_new = |address: &&Address| !old_fronts.contains(*address);
        for address in config.listen.iter().filter(is_new) {
            new_fronts.push((address.clone(), Listener::bind(address)?));
        }
        let wanted = BackendAddress::all(&config);
        let mut new_dials = Vec::new();
        let is_new = |wanted: &&BackendAddress| !pools.contains_key(&wanted.address);
        for new in wanted.iter().filter(is_new) {
            new_dials.push(NewBackendListener::bind(
                new,
                &config,
                &outgoing,
                &shared.stats,
                &shared.journal,
                &shared.descriptors,
                &Sockets::default(),
            )?);
        }
        pools.extend(new_dials.iter().map(NewBackendListener::pool));
        let files = wanted.iter().map(BackendAddress::socket_file);
        let files = files.collect::<Result<Vec<_>, _>>()?;
        let before = shared.snapshot();
        let listen = config.listen.clone();
        let parts = SnapshotParts {
            waiting: &shared.waiting,
            stats: &shared.stats,
            alarm: self.sessions.poller.alarm(),
            pools: &pools,
            before: Some(&before),
        };
        let snapshot = Snapshot::new(config, &parts)?;
        let new_dials = new_dials.into_iter();
        let new_dials = new_dials.map(|dial| dial.prepare(&self.control));
        let new_dials = new_dials.collect::<Result<Vec<_>, StartError>>()?;
        let new_fronts = new_fronts.into_iter();
        let new_fronts = new_fronts.map(|(address, listeners)| {
            VisitorListener::prepare(address, listeners, &self.sessions)
        });
        let new_fronts = new_fronts.collect::<Result<Vec<_>, StartError>>()?;
        let mut running = self.running.lock();
        if shared.draining.load(Ordering::SeqCst) {
            return Err(io::Error::other("the server is stopping").into());
        }
        // From here on nothing can fail.
        let snapshot = Arc::new(snapshot);
        snapshot.set_limits();
        shared.descriptors.limit(division.backends);
        self.control.limit_newcomers(division.newcomers);
        shared.connections.store(division.both, Ordering::Relaxed);
        shared.set_snapshot(Arc::clone(&snapshot));
        before.retire(&snapshot);
        // Their directory may have been replaced.
        self.reopen_logs();
        snapshot.check_files();
        for site in &snapshot.sites {
            if let Some(servers) = &site.servers {
                servers.change(&site.settings);
                servers.tick(Instant::now());
            }
        }
        let kept: HashSet<_> = snapshot.servers().map(Arc::as_ptr).collect();
        for servers in before.servers() {
            if !kept.contains(&Arc::as_ptr(servers)) {
                servers.shut(Close::Removed);
            }
        }
        for front in new_fronts.iter().chain(&running.visitor_listeners) {
            *front.tls.write() = certificates.acceptor(&front.address);
        }
        running.visitor_listeners.extend(new_fronts);
        running.certificates = certificates;
        running.backend_listeners.extend(new_dials);
        running.begin(&self.control);
        let fronts = mem::take(&mut running.visitor_listeners);
        let (fronts, gone) = sort_by_address(fronts, |front| &front.address, listen.iter());
        running.visitor_listeners = fronts;
        gone.into_iter().for_each(VisitorListener::stop);
        let order = wanted.iter().map(|wanted| &wanted.address);
        let dials = mem::take(&mut running.backend_listeners);
        let (mut dials, gone) = sort_by_address(dials, |dial| &dial.address, order);
        for ((dial, wanted), file) in dials.iter_mut().zip(&wanted).zip(files) {
            dial.change(wanted, file, &snapshot.config, &outgoing);
        }
        running.backend_listeners = dials;
        running.outgoing = outgoing;
        BackendListener::stop_all(gone, &self.control, Close::Removed);
        Ok(())
    }

    /// Opens the access logs again under their names, after they were rotated. If one cannot be opened, the old file
    /// stays in use, which is logged.
    pub fn reopen_logs(&self) {
        for (_, log) in self.shared.snapshot().access_logs() {
            if let Err(error) = log.reopen() {
                log::error!("{error}; going on with the old file");
            }
        }
    }

    /// The listening sockets for clients and those for backends, each with its address as it is configured, for a process
    /// that follows this one.
    pub fn listeners(&self) -> [Vec<(String, Arc<Listener>)>; 2] {
        fn named<'a>(
            all: impl Iterator<Item = (&'a Address, &'a Vec<Arc<Listener>>)>,
        ) -> Vec<(String, Arc<Listener>)> {
            let named = all.flat_map(|(address, listeners)| {
                let of = |listener| (address.to_string(), Arc::clone(listener));
                listeners.iter().map(of)
            });
            named.collect()
        }
        let running = self.running.lock();
        let fronts = running.visitor_listeners.iter();
        let dials = running.backend_listeners.iter();
        [
            named(fronts.map(|front| (&front.address, &front.listeners))),
            named(dials.map(|dial| (&dial.address, &dial.listeners))),
        ]
    }

    /// A process that follows this one accepts at the same addresses: the files of Unix sockets stay when this one ends, and
    /// new backends are for the other one as soon as no request waits here.
    pub fn hand_over(&self) {
        for (_, listener) in self.listeners().iter().flatten() {
            listener.hand_over();
        }
        self.is_replaced.store(true, Ordering::Relaxed);
        self.release_backends(false);
    }

    /// Whether another process has taken over; see [`Server::hand_over`].
    pub fn is_replaced(&self) -> bool {
        self.is_replaced.load(Ordering::Relaxed)
    }

    /// Stops accepting, and closes every connection after its current response.
    pub fn begin_drain(&self) {
        self.shared.draining.store(true, Ordering::SeqCst);
        let fronts = mem::take(&mut self.running.lock().visitor_listeners);
        fronts.into_iter().for_each(VisitorListener::stop);
        self.sessions.close_idle(false);
    }

    /// Whether a drain is over. Call it repeatedly: it also closes connections that have become idle.
    ///
    /// A connection that has not had a request yet gets a second to send one: its client has just connected.
    pub fn is_drained(&self, since: Instant) -> bool {
        let first_second_is_over = since.elapsed() >= Duration::from_secs(1);
        self.sessions.close_idle(first_second_is_over);
        self.release_backends(first_second_is_over);
        self.open() == 0
    }

    /// Releases the dial-in addresses and the idle backends once no client's connection can need another backend: each one
    /// that is left has its own, for an upgraded connection or a long response. A new process can then bind the addresses,
    /// and the applications connect to it.
    fn release_backends(&self, first_second_is_over: bool) {
        let dials = {
            let mut running = self.running.lock();
            let waiting = self.shared.waiting.load(Ordering::Relaxed);
            if running.backend_listeners.is_empty() || waiting > 0 {
                return;
            }
            if self.is_replaced() {
                BackendListener::stop_accepting(&mut running.backend_listeners, &self.control);
            }
            let idle: usize = running
                .backend_listeners
                .iter()
                .map(|dial| dial.pool.idle())
                .sum();
            let busy = self.control.connected().len().saturating_sub(idle) as u64;
            if !first_second_is_over || self.open() > busy {
                return;
            }
            mem::take(&mut running.backend_listeners)
        };
        BackendListener::stop_all(dials, &self.control, Close::Draining);
        log::debug!("dial-in addresses are closed, since no client needs another backend");
    }

    /// Closes all upgraded connections. They end when their users want, so a drain leaves them open until its grace
    /// period is over.
    pub fn close_tunnels(&self) {
        self.sessions.tunnels.close_all(Close::Draining);
    }

    /// Drains for at most `grace`, and stops. Returns whether only upgraded connections were cut.
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
        let Running {
            visitor_listeners: fronts,
            backend_listeners: dials,
            ..
        } = mem::take(&mut *self.running.lock());
        fronts.into_iter().for_each(VisitorListener::stop);
        BackendListener::stop_all(dials, &self.control, Close::Draining);
        self.control.stop();
        if let Some(thread) = self.dial_in.take() {
            thread.join();
        }
        self.sessions.poller.alarm().stop();
        if let Some(thread) = self.tick.take() {
            thread.join();
        }
        self.sessions.poller.stop();
        self.sessions.tunnels.stop();
        if let Some(thread) = self.tunnels.take() {
            thread.join();
        }
        self.shared.drainer.stop();
        if let Some(thread) = self.drainer.take() {
            thread.join();
        }
        for session in self.sessions.poller.take_all(|_, _| true) {
            session.close(Close::Draining);
        }
        // Workers in the middle of an exchange end after it; the server does not wait for them.
        if self.open() == 0 {
            self.workers.join();
        }
        for servers in self.shared.snapshot().servers() {
            servers.shut(Close::Draining);
        }
        self.shared.journal.tick(Instant::now(), true);
        let logs = self.shared.snapshot().access_logs();
        let logs: Vec<_> = logs.into_iter().map(|(_, log)| log).collect();
        AccessLog::settle(&logs);
    }
}

impl Bound {
    /// Starts the threads.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn start(self) -> Result<Server, StartError> {
        let Self {
            sessions,
            shared,
            visitor_listeners: fronts,
            backend_listeners: dials,
            certificates,
            outgoing,
            dial_in,
        } = self;
        let snapshot = shared.snapshot();
        let config = snapshot.config.clone();
        let control = dial_in.control();
        let tick = {
            let sessions = Arc::clone(&sessions);
            PreparedThread::new("tick", move || sessions.tick())?
        };
        let tunnels = {
            let sessions = Arc::clone(&sessions);
            PreparedThread::new("tunnels", move || {
                set_scheduling(config.scheduling);
                let tunnels = &sessions.tunnels;
                tunnels.run(|session, backend, ended| session.end_tunnel(backend, &ended));
            })?
        };
        let drainer = {
            let shared = Arc::clone(&shared);
            PreparedThread::new("drain", move || shared.drainer.run())?
        };
        let dial_in = PreparedThread::new("dial-in", move || dial_in.run())?;
        let mut running = Running::default();
        for dial in dials {
            running.backend_listeners.push(dial.prepare(&control)?);
        }
        for (address, listeners) in fronts {
            let front = VisitorListener::prepare(address, listeners, &sessions)?;
            *front.tls.write() = certificates.acceptor(&front.address);
            running.visitor_listeners.push(front);
        }
        running.certificates = certificates;
        running.outgoing = outgoing;
        threads::check_available(config.workers)?;
        // From here on nothing can fail, and threads may begin.
        let workers = threadpool::Builder::new()
            .num_threads(config.workers)
            .thread_name("worker".to_owned())
            .build();
        for _ in 0..config.workers {
            let sessions = Arc::clone(&sessions);
            let scheduling = config.scheduling;
            // One job for the life of the server: the library's queue is unbounded, the server's own queues are not.
            workers.execute(move || Worker::new(sessions).work(scheduling));
        }
        snapshot.check_files();
        for servers in snapshot.servers() {
            servers.tick(Instant::now());
        }
        running.begin(&control);
        Ok(Server {
            reloading: Mutex::default(),
            running: Mutex::new(running),
            is_replaced: AtomicBool::new(false),
            workers,
            tick: Some(tick.begin()),
            tunnels: Some(tunnels.begin()),
            drainer: Some(drainer.begin()),
            dial_in: Some(dial_in.begin()),
            control,
            sessions,
            shared,
        })
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Server")
            .field("visitors", &self.visitors())
            .finish_non_exhaustive()
    }
}
