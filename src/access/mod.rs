//! The access proxy: lets an ordinary application dial in.
//!
//! It keeps connections dialled to one or more servers, as an application that speaks the protocol would, forwards each
//! request to an ordinary HTTP application over TCP or a Unix socket, and relays the response. It is dialled in only while
//! the application answers. `swiftiply-access(8)` is a small program around [`Access`].
//!
//! In reading order: [`connection`] is one dialled connection from the dialling to its end, [`forward`] one exchange on it,
//! driven by the line's thread with the same engine as in the server ([`relay`](crate::relay)), [`application`] the
//! connection to the application that the exchange uses, [`limit`] the limit of requests at the application, [`dialer`] which
//! servers are dialled, [`watch`] whether the application answers, [`command`] the application's process, if we start it.
//!
//! | thread | how many | does | never does |
//! |---|---|---|---|
//! | `line` | `connections` per server's address | dials, forwards requests, one at a time | decide that the application is up; only that it cannot be reached |
//! | `dialer` | one | looks up host names again | wait for a server |
//! | `tunnels` | one | carries the bytes of upgraded connections, which belong to no line any more | wait for a single one of them |
//! | `watch` | one | checks whether the application answers | carry requests |
//! | `command` | one, if there is a command | starts it, waits for its end, starts it again | end before its process has |
//!
//! There is one thread for each dialled connection: as many as requests that the application may have at once, for each
//! server, which is a few. While its exchange waits, a line's thread watches both sockets, so that it notices at once when
//! the server closes its side, as it does when a visitor has left. While a request waits for a permit of the gate, it looks
//! four times a second.
//!
//! | lock | guards | held for |
//! |---|---|---|
//! | `state`, `settings`, `ties`, the gate and the slots of its queue, a tie's handle, tunnels' inbox | see there | a few instructions; all leaves |
//! | `Access::command` | the command | its start, a change of it, a signal to it |

mod application;
mod command;
mod connection;
mod dialer;
mod forward;
mod limit;
mod watch;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fmt, io, mem};

use parking_lot::{Condvar, Mutex, RwLock};

use crate::client::Greeting;
use crate::config;
use crate::config::access::TrustConfig;
use crate::net::conn::Conn;
use crate::net::tls::{self, Authorities, Certificate, Connector, LoadError};
use crate::net::tunnel::{TunnelEnded, Tunnels};
use crate::process;
use crate::stats::{add, get};
use command::SupervisedCommand;
use connection::ConnectionHandle;
use dialer::DialState;
use limit::ApplicationLimit;

/// A running access proxy. Dropping it stops it at once, and its command.
#[derive(Debug)]
pub struct Access {
    shared: Arc<AccessShared>,
    command: Mutex<Option<SupervisedCommand>>,
    tunnels: Option<JoinHandle<()>>,
}

/// Why an access proxy did not start, or did not take a new configuration.
#[derive(Debug)]
pub enum StartError {
    /// A certificate, a key or authorities could not be had.
    Certificate(LoadError),
    /// The system refused something.
    System(io::Error),
}

/// What the threads share.
#[derive(Debug)]
struct AccessShared {
    settings: RwLock<Arc<RunningConfig>>,
    gate: Arc<ApplicationLimit>,
    state: Mutex<ApplicationState>,
    /// With `state`, for whoever waits for a change of it.
    changed: Condvar,
    /// The application answers and there is no drain: what `state` says, for a look without the lock, under which it is
    /// changed.
    open: AtomicBool,
    /// Answers of the application so far.
    answers: AtomicU64,
    tunnels: Tunnels<Conn, Conn>,
    /// The lines that are there.
    ties: Mutex<Vec<Arc<ConnectionHandle>>>,
}

/// A configuration as it runs.
#[derive(Debug)]
struct RunningConfig {
    config: config::access::AccessConfig,
    greeting: Greeting,
    /// Changes with what a server is greeted with.
    generation: u64,
}

#[derive(Debug, Default)]
struct ApplicationState {
    /// The application answers.
    up: bool,
    /// The log has said so, or what is wrong.
    told: Option<String>,
    /// Since when it is waited for, from the start and until that has taken long.
    waiting: Option<Instant>,
    draining: bool,
    /// Its process is ours and does not run: whoever answers there is not it, or is about to go.
    away: bool,
    /// The watch is to look at once.
    look: bool,
    /// The fleet is to look at the configuration at once.
    changed: bool,
    /// By the number of a server's address.
    dialling: HashMap<u64, DialState>,
}

impl Access {
    /// Finds what is wrong with a configuration that cannot be seen in its file: certificates.
    ///
    /// # Errors
    /// The first one.
    pub fn check(config: &config::access::AccessConfig) -> Result<(), StartError> {
        RunningConfig::new(config.clone()).map(drop)
    }

    /// Starts it.
    ///
    /// # Errors
    /// What could not be had. Nothing runs then.
    pub fn start(config: config::access::AccessConfig) -> Result<Self, StartError> {
        let settings = RunningConfig::new(config)?;
        let shared = Arc::new(AccessShared {
            gate: Arc::new(ApplicationLimit::new(0)),
            state: Mutex::default(),
            changed: Condvar::new(),
            open: AtomicBool::new(false),
            answers: AtomicU64::new(0),
            tunnels: Tunnels::new()?,
            ties: Mutex::default(),
            settings: RwLock::new(Arc::new(settings)),
        });
        let settings = shared.settings();
        shared.gate.limit(settings.config.connections);
        let mut access = Self {
            shared: Arc::clone(&shared),
            command: Mutex::default(),
            tunnels: None,
        };
        let own = Arc::clone(&shared);
        access.tunnels = Some(spawn("tunnels", move || own.tunnels.run(over))?);
        access.set_command(&settings, true)?;
        let own = Arc::clone(&shared);
        // They end by themselves, soon after a drain has begun.
        spawn("watch", move || watch::run(&own))?;
        spawn("dialer", move || dialer::run(&shared))?;
        Ok(access)
    }

    /// Goes over to a new configuration, whole or not at all. Exchanges under way are not touched; what has no place
    /// in it any more ends after them. A command that the new one has not is ended first, within its `grace`.
    ///
    /// # Errors
    /// What could not be had. Everything goes on as before then.
    pub fn reload(&self, config: config::access::AccessConfig) -> Result<(), StartError> {
        let mut settings = RunningConfig::new(config)?;
        let before = self.shared.settings();
        let (old, new) = (&before.config, &settings.config);
        let greeting = old.key != new.key || old.ssl != new.ssl;
        settings.generation = before.generation + u64::from(greeting);
        let settings = Arc::new(settings);
        let new = &settings.config;
        self.set_command(&settings, old.command != new.command)?;
        // Now nothing can fail any more.
        *self.shared.settings.write() = Arc::clone(&settings);
        if old.to != new.to || old.command != new.command {
            self.shared.leave("the configuration has another one");
        }
        self.shared.gate.limit(new.connections);
        let mut state = self.shared.state.lock();
        state.look = true;
        state.changed = true;
        drop(state);
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Sends the command a signal, by its name; see [`config::access::SIGNALS`].
    pub fn pass_on(&self, signal: &str) {
        let settings = self.shared.settings();
        if let Some(command) = &*self.command.lock()
            && settings.config.signals.contains(&signal)
        {
            command.signal(signal);
        }
    }

    /// Closes idle connections to servers and has the others closed after the exchange that is under way.
    pub fn begin_drain(&self) {
        {
            let mut state = self.shared.state.lock();
            state.draining = true;
            self.shared.open.store(false, Ordering::SeqCst);
        }
        self.shared.close();
    }

    /// Whether a drain is over. A line that is just being dialled ends by itself, and takes no request.
    pub fn is_drained(&self) -> bool {
        !self.shared.ties.lock().iter().any(|tie| tie.is_connected())
    }

    /// Whether there is a command.
    pub fn has_command(&self) -> bool {
        self.command.lock().is_some()
    }

    /// Upgraded connections now.
    pub fn tunnels(&self) -> usize {
        self.shared.tunnels.count()
    }

    /// Ends the command, if there is one: TERM, and after so long KILL. Returns whether it ended by itself.
    pub fn stop_command(&self, patience: Duration) -> bool {
        // Without the lock while it ends.
        let command = self.command.lock().take();
        command.is_none_or(|command| command.stop(patience))
    }

    /// Connections to servers now, and how many of them are in an exchange.
    pub fn lines(&self) -> (usize, usize) {
        let ties = self.shared.ties.lock();
        let connected = ties.iter().filter(|tie| tie.is_connected()).count();
        let busy = ties.iter().filter(|tie| tie.is_busy()).count();
        (connected, busy)
    }

    /// Starts, changes or ends the command, if it is another one.
    ///
    /// # Errors
    /// There is no thread to be had for one, or a drain has begun. Nothing has changed then.
    fn set_command(&self, settings: &RunningConfig, is_other: bool) -> io::Result<()> {
        let words = &settings.config.command;
        let mut current = self.command.lock();
        // A drain ends the command after it has begun, and needs the lock for that.
        if self.shared.state.lock().draining {
            return Err(io::Error::other("the access proxy is about to end"));
        }
        if !is_other {
            return Ok(());
        }
        match (&mut *current, words.is_empty()) {
            (None, true) => {}
            (None, false) => {
                let shared = Arc::clone(&self.shared);
                shared.state.lock().away = true;
                let told = move |runs| shared.told(runs);
                let started = SupervisedCommand::start(words.clone(), told);
                if started.is_err() {
                    self.shared.state.lock().away = false;
                }
                *current = Some(started?);
            }
            (Some(command), false) => command.change(words.clone(), settings.config.grace),
            (Some(_), true) => {
                drop(current);
                self.stop_command(settings.config.grace);
                self.shared.state.lock().away = false;
            }
        }
        Ok(())
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        self.begin_drain();
        for tie in self.shared.ties() {
            tie.cut();
        }
        self.stop_command(Duration::ZERO);
        self.shared.tunnels.stop();
        if let Some(thread) = self.tunnels.take() {
            let _ = thread.join();
        }
    }
}

impl RunningConfig {
    fn new(config: config::access::AccessConfig) -> Result<Self, StartError> {
        let mut greeting = Greeting::default();
        if let Ok(with_key) = greeting.clone().key(&config.key) {
            // The configuration has seen to its length.
            greeting = with_key;
        }
        if let Some(ssl) = &config.ssl {
            let trust = match &ssl.trust {
                TrustConfig::Authorities(file) => tls::Trust::Authorities(Authorities::load(file)?),
                TrustConfig::Fingerprint(hash) => tls::Trust::Fingerprint(*hash),
            };
            let own = ssl
                .own
                .as_ref()
                .map(|(certfile, keyfile)| Certificate::load(certfile, keyfile))
                .transpose()?;
            greeting = greeting.tls(Connector::new(trust, own.as_ref())?);
        }
        Ok(Self {
            config,
            greeting,
            generation: 0,
        })
    }
}

impl AccessShared {
    /// The configuration as it is now. For one exchange, take it once.
    fn settings(&self) -> Arc<RunningConfig> {
        Arc::clone(&self.settings.read())
    }

    fn ties(&self) -> Vec<Arc<ConnectionHandle>> {
        self.ties.lock().clone()
    }

    /// Whether lines are wanted now.
    fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    fn answered(&self) {
        add(&self.answers);
    }

    fn answers(&self) -> u64 {
        get(&self.answers)
    }

    /// The application answers.
    fn up(&self) {
        let settings = self.settings();
        let told = {
            let mut state = self.state.lock();
            if state.draining || state.away {
                return;
            }
            let told = state.told.replace(String::new());
            state.waiting = None;
            state.up = true;
            self.open.store(true, Ordering::SeqCst);
            told
        };
        self.changed.notify_all();
        if told.as_deref() != Some("") {
            log::info!("application {}: answers", settings.config.to);
        }
    }

    /// Its process was started, or has ended.
    fn told(&self, runs: bool) {
        self.state.lock().away = !runs;
        if !runs {
            self.leave("its process has ended");
        }
    }

    /// It cannot be reached.
    fn down(&self, error: &io::Error) {
        match application::fault(error) {
            Some(why) => self.leave(&why),
            // That is not its fault, and who dials in may find it well.
            None => log::error!("connect {}: {}", self.settings().config.to, error),
        }
    }

    /// The application does not answer: idle connections to servers are closed before this returns, the others after
    /// their exchange, and none is dialled until it answers.
    fn leave(&self, why: &str) {
        let settings = self.settings();
        let (draining, level) = {
            let mut state = self.state.lock();
            self.open.store(false, Ordering::SeqCst);
            let level = state.leave(why, Instant::now());
            (state.draining, level)
        };
        if draining {
            return;
        }
        self.close();
        if let Some((level, verb)) = level {
            log::log!(level, "application {}: {why}; {verb}", settings.config.to);
        }
    }

    /// Closes what is idle, and has the rest closed. Whoever calls this has said before that nothing is wanted.
    fn close(&self) {
        self.changed.notify_all();
        self.gate.forget();
        for tie in self.ties() {
            tie.leave();
        }
    }

    /// Whether the application answers.
    fn is_up(&self) -> bool {
        self.state.lock().up
    }
}

impl ApplicationState {
    /// The application does not answer at this time: what to log of that, if anything.
    fn leave(&mut self, why: &str, now: Instant) -> Option<(log::Level, &'static str)> {
        let told = self.told.replace(why.to_owned());
        let was_up = mem::replace(&mut self.up, false);
        self.look |= was_up;
        if self.draining {
            // It may well be our doing.
            None
        } else if was_up {
            Some((log::Level::Warn, "leaving"))
        } else if told.is_none() {
            // Nothing was logged of it yet: it may just be starting, as we are.
            self.waiting = Some(now);
            Some((log::Level::Info, "waiting for it"))
        } else {
            let late = |since: &mut Instant| now.saturating_duration_since(*since) >= LATE;
            let waited = self.waiting.take_if(late);
            waited.map(|_| (log::Level::Warn, "still waiting for it"))
        }
    }
}

/// An upgraded connection has ended.
fn over(server: Box<Conn>, app: Conn, ended: TunnelEnded) {
    drop((server, app));
    log::debug!(
        "{} bytes there and {} back through a tunnel: reason={}",
        ended.to_backend,
        ended.to_visitor,
        ended.reason
    );
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    process::thread(name, run)
}

impl fmt::Display for StartError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(error) => write!(out, "ssl: {error}"),
            Self::System(error) => error.fmt(out),
        }
    }
}

impl std::error::Error for StartError {}

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

/// After so long it is no start any more, and a warning that the application does not answer.
const LATE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_that_is_not_there_after_ten_seconds_is_warned_of_once() {
        let start = Instant::now();
        let mut state = ApplicationState::default();
        let mut after = |milliseconds| {
            let level = state.leave("refused", start + Duration::from_millis(milliseconds));
            level.map(|(level, verb)| (level.as_str(), verb))
        };
        // It may take its time to start.
        assert_eq!(after(500), Some(("INFO", "waiting for it")));
        assert_eq!(after(1000), None);
        assert_eq!(after(10_499), None);
        assert_eq!(after(10_500), Some(("WARN", "still waiting for it")));
        assert_eq!(after(10_600), None);
        assert_eq!(after(60_000), None);
    }

    #[test]
    fn an_application_that_goes_away_is_warned_of_at_once_and_once() {
        let now = Instant::now();
        let later = now + LATE;
        let mut state = ApplicationState {
            up: true,
            told: Some(String::new()),
            ..ApplicationState::default()
        };
        let left = Some((log::Level::Warn, "leaving"));
        assert_eq!(state.leave("refused", now), left);
        assert_eq!(state.leave("refused", later), None);
        // Not while everything ends.
        state.up = true;
        state.draining = true;
        assert_eq!(state.leave("refused", later), None);
    }
}
