//! The handle of a running server: what a program asks it, and how it drains and stops.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};
use std::{fmt, mem, thread};

use parking_lot::Mutex;
use threadpool::ThreadPool;

use super::addresses::{BackendListener, ClientListener, Running};
use super::admin::{AdminContext, AdminListener};
use super::certificate_watch::CertificateWatch;
use super::commands::ProcessCommands;
use super::session::Session;
use super::sessions::Sessions;
use super::shared::Shared;
use super::succession::Succession;
use super::threads::PreparedThread;
use crate::backend::dial_in::DialInControl;
use crate::backend::registration::ConnectedBackend;
use crate::logging::AccessLog;
use crate::net::activation::ActivatedSockets;
use crate::net::listener::LocalAddress;
use crate::stats::{self, Close, Stats};

/// A running server.
///
/// Dropping it stops it at once: it closes all connections, also in the middle of a response, and waits until its threads
/// have ended, which takes a few milliseconds. A thread that cannot be interrupted then, since it waits for a disk or
/// checks a password, is waited for a second at most; one in the middle of a request to a certificate authority, a look-up of a
/// name or a connection to Redis not at all, and ends by itself. See [`Server::drain`] for stopping without cutting a response.
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
/// println!("clients go to {}, applications dial in at {}", server.client_addresses()[0], server.backend_addresses()[0]);
/// assert!(server.drain(std::time::Duration::from_secs(1)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Server {
    pub(super) sessions: Arc<Sessions<Session>>,
    pub(super) shared: Arc<Shared>,
    /// Held for the whole of a reload, so that reloads run one after the other.
    pub(super) reloading: Arc<Mutex<()>>,
    pub(super) running: Arc<Mutex<Running>>,
    /// Obtains and renews certificates, if some are wanted.
    pub(super) acme: Mutex<Option<PreparedThread>>,
    /// Reads certificates again, if some come from files.
    pub(super) watch: Mutex<Option<CertificateWatch>>,
    /// Listening sockets of the service manager.
    pub(super) activated: Arc<ActivatedSockets>,
    /// The processes that this one has replaced, and the one that has replaced it.
    pub(super) succession: Arc<Succession>,
    pub(super) workers: ThreadPool,
    pub(super) tick: Option<PreparedThread>,
    pub(super) tunnels: Option<PreparedThread>,
    pub(super) drainer: Option<PreparedThread>,
    pub(super) dial_in: Option<PreparedThread>,
    /// Controls the thread of the dial-in addresses.
    pub(super) control: Arc<DialInControl>,
    /// What the status address reports.
    pub(super) admin_context: Arc<AdminContext>,
}

impl Server {
    /// The addresses for clients, in the order of the configuration, with their real ports.
    pub fn client_addresses(&self) -> Vec<LocalAddress> {
        let running = self.running.lock();
        running
            .client_listeners
            .iter()
            .flat_map(|listener| &listener.listeners)
            .map(|listener| listener.local().clone())
            .collect()
    }

    /// The addresses for backends, in the order of the configuration, with their real ports.
    pub fn backend_addresses(&self) -> Vec<LocalAddress> {
        let running = self.running.lock();
        running
            .backend_listeners
            .iter()
            .flat_map(|listener| &listener.listeners)
            .map(|listener| listener.local().clone())
            .collect()
    }

    /// The status addresses, with their real ports.
    pub fn status_addresses(&self) -> Vec<LocalAddress> {
        let running = self.running.lock();
        running
            .admin_listener
            .iter()
            .flat_map(|admin| &admin.listeners)
            .map(|listener| listener.local().clone())
            .collect()
    }

    /// Accepts connections at all addresses from now on, if it does not yet; see
    /// [`Bound::start_closed`](super::Bound::start_closed).
    #[doc(hidden)]
    pub fn accept(&self) {
        self.running.lock().begin(&self.control);
    }

    /// Notes the result of a reload by the program, which reads the file, for the status address.
    #[doc(hidden)]
    pub fn note_reload(&self, result: Result<(), String>) {
        *self.shared.reload.lock() = Some((SystemTime::now(), result));
    }

    /// For how long no thread was seen to work: the tick thread looks at least once a second whether the workers do.
    pub fn stalled(&self) -> Duration {
        self.sessions.progress.lock().at.elapsed()
    }

    /// The number of clients' connections now.
    pub fn open_connections(&self) -> u64 {
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
                .map(|listener| listener.pool.idle())
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
    pub fn charged(&self) -> (u64, u64) {
        (self.shared.memory.used(), self.shared.disk.all().used())
    }

    /// Takes commands that concern the process at the status address from now on; see [`ProcessCommands`]. Only the first
    /// call has an effect.
    #[doc(hidden)]
    pub fn set_process_commands(&self, commands: Arc<dyn ProcessCommands>) {
        self.admin_context.set_commands(commands);
    }

    /// Stops accepting, and closes every connection after its current response, or gives it to the process that has replaced
    /// this one.
    pub fn begin_drain(&self) {
        self.shared.draining.store(true, Ordering::SeqCst);
        self.shared.manager.stop();
        let (clients, admin) = {
            let mut running = self.running.lock();
            let clients = mem::take(&mut running.client_listeners);
            (clients, running.admin_listener.take())
        };
        clients.into_iter().for_each(ClientListener::stop);
        // A server that is started now can have the address.
        admin.into_iter().for_each(AdminListener::stop);
        self.give_up_pauses();
        self.clear_idle(false);
    }

    /// The drain is a stop, also of a process that another one has replaced: requests of paused sites get 503.
    #[doc(hidden)]
    pub fn begin_stop(&self) {
        self.shared.is_stopping.store(true, Ordering::Relaxed);
        self.give_up_pauses();
    }

    /// Whether a drain is over. Call it repeatedly: it also closes connections that have become idle.
    ///
    /// A connection that has not had a request yet gets a second to send one: its client has just connected. If another
    /// process has replaced this one, idle connections are given to it, and those with TLS stay until their next response.
    pub fn is_drained(&self, since: Instant) -> bool {
        let first_second_is_over = since.elapsed() >= Duration::from_secs(1);
        self.give_up_pauses();
        self.clear_idle(first_second_is_over);
        self.release_backends(first_second_is_over);
        if self.open_connections() > 0 {
            return false;
        }
        match self.shared.successor() {
            // A backend whose last response is still read is idle within a second.
            Some(link) => self.connected().is_empty() && self.succession.leave(&link),
            None => true,
        }
    }

    fn clear_idle(&self, fresh: bool) {
        match self.shared.successor() {
            Some(_) => {
                self.sessions.give_idle();
                // Their requests could get no backends.
                let running = self.running.lock();
                let mut listeners = running.backend_listeners.iter();
                let has_secure_backends = listeners.any(BackendListener::is_secure);
                drop(running);
                if has_secure_backends {
                    self.sessions.close_idle(fresh);
                }
            }
            None => self.sessions.close_idle(fresh),
        }
    }

    /// Releases the dial-in addresses and the idle backends once no client's connection can need another backend: each one
    /// that is left has its own, for an upgraded connection or a long response. A new process can then bind the addresses,
    /// and the applications connect to it.
    fn release_backends(&self, first_second_is_over: bool) {
        let mut running = self.running.lock();
        let listeners = &running.backend_listeners;
        let waiting = self.shared.waiting.load(Ordering::Relaxed);
        if listeners.is_empty() || waiting > 0 || !first_second_is_over {
            return;
        }
        let idle: usize = listeners.iter().map(|listener| listener.pool.idle()).sum();
        let busy = self.control.connected().len().saturating_sub(idle) as u64;
        if self.open_connections() > busy {
            return;
        }
        if self.shared.successor().is_some() {
            // The others were given away. These dial in again.
            let secure = listeners.iter().filter(|listener| listener.is_secure());
            secure.for_each(|listener| listener.pool.shut(Close::Draining));
            return;
        }
        let backends = mem::take(&mut running.backend_listeners);
        drop(running);
        BackendListener::stop_all(backends, &self.control, Close::Draining);
        log::debug!("dial-in addresses are closed, since no client needs another backend");
    }

    /// Closes all idle connections of clients.
    pub fn close_idle(&self) {
        self.sessions.close_idle(true);
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
                return self.open_connections() == 0;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.draining.store(true, Ordering::SeqCst);
        self.succession.end();
        // In the middle of a request to an authority the thread ends by itself, later.
        let is_idle = self.shared.manager.stop();
        if let Some(thread) = self.acme.lock().take().filter(|_| is_idle) {
            thread.join();
        }
        self.shared.manager.join();
        if let Some(watch) = self.watch.lock().take() {
            watch.stop();
        }
        let Running {
            client_listeners: clients,
            backend_listeners: backends,
            admin_listener: admin,
            ..
        } = mem::take(&mut *self.running.lock());
        clients.into_iter().for_each(ClientListener::stop);
        admin.into_iter().for_each(AdminListener::stop);
        BackendListener::stop_all(backends, &self.control, Close::Draining);
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
        // A worker closes its connection instead of parking it, so all of them end soon, except one that waits for a disk.
        let since = Instant::now();
        while self.workers.active_count() > 0 && since.elapsed() < LAST_WORK {
            thread::sleep(Duration::from_millis(1));
        }
        for servers in self.shared.snapshot().servers() {
            servers.shut(Close::Draining);
        }
        self.shared.journal.tick(Instant::now(), true);
        let logs = self.shared.snapshot().access_logs();
        let logs: Vec<_> = logs.into_iter().map(|(_, log)| log).collect();
        AccessLog::settle(&logs);
        // The response to the command that has stopped it.
        self.admin_context.settle();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Server")
            .field("clients", &self.client_addresses())
            .finish_non_exhaustive()
    }
}

/// How long a stop waits for workers.
const LAST_WORK: Duration = Duration::from_secs(1);
