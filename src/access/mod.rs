//! The access proxy: dials in on behalf of an ordinary web application.
//!
//! It keeps connections dialled to one or more servers, as an application that speaks the dial-in protocol would. It
//! forwards each request to an ordinary HTTP application over TCP or a Unix socket, and relays the response. It is
//! dialled in only while the application responds. `swiftiply-access(8)` is a small program around [`Access`].
//!
//! In reading order; each file imports only from files below it in this list:
//!
//! - [`dialer`]: which servers are dialled.
//! - [`session`]: what a dialled connection does, from state to state. It reads a request ([`receive`]), forwards it in an
//!   [`exchange`], the same state machine as in the server ([`relay`](crate::relay)), or responds itself ([`respond`]).
//! - [`connection`]: the dialled connections, each from dialling to its end, and their threads.
//! - [`state`]: the states of a dialled connection. [`buffers`]: what a worker lends to it.
//! - [`forward`]: a request on its way to the application.
//! - [`watch`]: checks whether the application responds.
//! - [`application`]: the connection to the application that an exchange uses.
//! - [`dial_permission`]: when a connection may be dialled.
//! - [`shared`]: what the threads share.
//! - [`limit`]: the limit of requests at the application.
//! - [`running`], [`handle`], [`dial_state`], [`server`]: the data in `shared`.
//! - [`command`]: the application's process, if the access proxy starts it.
//!
//! | thread | how many | does | never does |
//! |---|---|---|---|
//! | `worker` | three | runs dialled connections that have something to do | block for the application for longer than 20 ms, or as the last one; decide that the application is up, only that it cannot be reached |
//! | `dial` | three | dials, one connection at a time | serve requests |
//! | `tick` | one | wakes connections whose deadline has passed | serve requests |
//! | `dialer` | one | looks up host names again | wait for a server |
//! | `tunnels` | one | carries the bytes of upgraded connections, which have left their threads | wait for a single one of them |
//! | `watch` | one | checks whether the application responds | carry requests |
//! | `command` | one, if there is a command | starts it, waits for its end, starts it again | end before its process has |
//!
//! What waits is parked, as in the server, and holds no thread: a connection that waits for a request, for the rest of one,
//! or for room at the server, and an exchange that waits for a permit or for the application. The poller watches both
//! sockets of an exchange, so that it ends at once when the server disconnects because its client has. So places bound the
//! number of exchanges, and the number of threads does not.
//!
//! | lock | guards | held for |
//! |---|---|---|
//! | `state`, `settings`, `connections`, the limit and the slots of its queue, the stream of a handle, the tunnels' inbox | see there | a few instructions; all leaves |
//! | `Access::command` | the command | its start, a change of it, a signal to it |

mod application;
mod buffers;
mod command;
mod connection;
mod dial_permission;
mod dial_state;
mod dialer;
mod exchange;
mod forward;
mod handle;
mod limit;
mod receive;
mod respond;
mod running;
mod server;
mod session;
mod shared;
mod state;
mod watch;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use self::command::SupervisedCommand;
use self::connection::DialledConnections;
use self::running::RunningConfig;
pub use self::running::StartError;
use self::shared::AccessShared;
use crate::amount::counted;
use crate::config;
use crate::net::conn::Conn;
use crate::net::tunnel::TunnelEnded;
use crate::process;

/// A running access proxy. Dropping it stops it at once, and its command.
#[derive(Debug)]
pub struct Access {
    shared: Arc<AccessShared>,
    connections: Arc<DialledConnections>,
    command: Mutex<Option<SupervisedCommand>>,
    tunnels: Option<JoinHandle<()>>,
}

impl Access {
    /// Checks what cannot be seen in the configuration file itself: certificates.
    ///
    /// # Errors
    /// The first fault.
    pub fn check(config: &config::access::AccessConfig) -> Result<(), StartError> {
        RunningConfig::new(config.clone()).map(drop)
    }

    /// Starts the access proxy.
    ///
    /// # Errors
    /// What could not be loaded or started. Nothing runs then.
    pub fn start(config: config::access::AccessConfig) -> Result<Self, StartError> {
        let settings = RunningConfig::new(config)?;
        let shared = Arc::new(AccessShared::new(settings)?);
        let settings = shared.settings();
        let mut access = Self {
            shared: Arc::clone(&shared),
            connections: Arc::new(DialledConnections::new(&shared)?),
            command: Mutex::default(),
            tunnels: None,
        };
        let own = Arc::clone(&shared);
        access.tunnels = Some(process::thread("tunnels", move || {
            own.tunnels.run(tunnel_ended)
        })?);
        access.set_command(&settings, true)?;
        let own = Arc::clone(&shared);
        // These threads end by themselves, soon after a drain has begun.
        process::thread("watch", move || watch::run(&own))?;
        process::thread("dialer", move || dialer::run(&shared))?;
        access.connections.start()?;
        Ok(access)
    }

    /// Switches to a new configuration, all or nothing. Exchanges under way continue; connections that are not
    /// configured any more end after them. A command that is not configured any more is ended first, within its `grace`.
    ///
    /// # Errors
    /// What could not be loaded or started. The old configuration stays in force then.
    pub fn reload(&self, config: config::access::AccessConfig) -> Result<(), StartError> {
        let mut settings = RunningConfig::new(config)?;
        let before = self.shared.settings();
        let (old, new) = (&before.config, &settings.config);
        let greeting = old.key != new.key || old.ssl != new.ssl || old.name != new.name;
        settings.generation = before.generation + u64::from(greeting);
        let settings = Arc::new(settings);
        let new = &settings.config;
        self.set_command(&settings, old.command != new.command)?;
        // Nothing can fail from here on.
        *self.shared.settings.write() = Arc::clone(&settings);
        if old.to != new.to || old.command != new.command {
            self.shared.set_down("the configuration has another one");
        }
        self.shared.limit.limit(new.places);
        let mut state = self.shared.state.lock();
        state.check_now = true;
        state.config_changed = true;
        drop(state);
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Sends the command a signal, by its name; see [`config::access::SIGNALS`].
    pub fn forward_signal(&self, signal: &str) {
        let settings = self.shared.settings();
        if let Some(command) = &*self.command.lock()
            && settings.config.signals.contains(&signal)
        {
            command.signal(signal);
        }
    }

    /// Closes idle connections to servers; the others are closed after their exchange.
    pub fn begin_drain(&self) {
        {
            let mut state = self.shared.state.lock();
            state.draining = true;
            self.shared.open.store(false, Ordering::SeqCst);
        }
        self.shared.close_idle();
    }

    /// Whether a drain is over. A connection that is being dialled ends by itself, and takes no request.
    pub fn is_drained(&self) -> bool {
        !self
            .shared
            .connections
            .lock()
            .iter()
            .any(|handle| handle.is_connected())
    }

    /// Whether there is a command.
    pub fn has_command(&self) -> bool {
        self.command.lock().is_some()
    }

    /// The number of upgraded connections.
    pub fn tunnels(&self) -> usize {
        self.shared.tunnels.count()
    }

    /// Ends the command, if there is one: TERM, and after `patience` KILL. Returns whether TERM was enough.
    pub fn stop_command(&self, patience: Duration) -> bool {
        // Do not hold the lock meanwhile.
        let command = self.command.lock().take();
        command.is_none_or(|command| command.stop(patience))
    }

    /// The number of connections to servers, and of those in an exchange.
    pub fn connections(&self) -> (usize, usize) {
        let connections = self.shared.connections.lock();
        let connected = connections
            .iter()
            .filter(|handle| handle.is_connected())
            .count();
        let busy = connections.iter().filter(|handle| handle.is_busy()).count();
        (connected, busy)
    }

    /// Starts, changes or ends the command, if it has changed.
    ///
    /// # Errors
    /// No thread could be started, or a drain has begun. Nothing has changed then.
    fn set_command(&self, settings: &RunningConfig, is_other: bool) -> io::Result<()> {
        let argv = &settings.config.command;
        let mut current = self.command.lock();
        // A drain ends the command later, and takes this lock to do so.
        if self.shared.state.lock().draining {
            return Err(io::Error::other("the access proxy is stopping"));
        }
        if !is_other {
            return Ok(());
        }
        match (&mut *current, argv.is_empty()) {
            (None, true) => {}
            (None, false) => {
                let shared = Arc::clone(&self.shared);
                shared.state.lock().command_down = true;
                let on_change = move |runs| shared.command_changed(runs);
                let started = SupervisedCommand::start(argv.clone(), on_change);
                if started.is_err() {
                    self.shared.state.lock().command_down = false;
                }
                *current = Some(started?);
            }
            (Some(command), false) => command.change(argv.clone(), settings.config.grace),
            (Some(_), true) => {
                drop(current);
                self.stop_command(settings.config.grace);
                self.shared.state.lock().command_down = false;
            }
        }
        Ok(())
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        self.begin_drain();
        self.connections.stop();
        self.stop_command(Duration::ZERO);
        self.shared.tunnels.stop();
        if let Some(thread) = self.tunnels.take() {
            let _ = thread.join();
        }
    }
}

/// An upgraded connection has ended.
fn tunnel_ended(server: Box<Conn>, app: Conn, ended: TunnelEnded) {
    drop((server, app));
    log::debug!(
        "tunnel carried {} to the application and {} to the server: reason={}",
        counted(ended.to_backend, "byte"),
        ended.to_client,
        ended.reason
    );
}
