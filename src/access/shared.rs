//! What the threads of the access proxy share: the configuration, the state of the application, the dialled connections.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{io, mem};

use parking_lot::{Condvar, Mutex, RwLock};

use super::dial_state::DialState;
use super::handle::ConnectionHandle;
use super::limit::ApplicationLimit;
use super::running::RunningConfig;
use crate::budget::Budget;
use crate::net::conn::Conn;
use crate::net::listener::is_shortage;
use crate::net::tunnel::Tunnels;
use crate::process::reason;
use crate::stats::{add, get};

/// What the threads share.
#[derive(Debug)]
pub(super) struct AccessShared {
    pub(super) settings: RwLock<Arc<RunningConfig>>,
    pub(super) limit: Arc<ApplicationLimit>,
    pub(super) state: Mutex<ApplicationState>,
    /// Notified when `state` changes.
    pub(super) changed: Condvar,
    /// Connections are wanted: the application is up and there is no drain. Set under the lock of `state`, and read
    /// without it.
    pub(super) open: AtomicBool,
    /// The number of responses of the application.
    responses: AtomicU64,
    /// Requests in a row to which it has not responded in time.
    unanswered: AtomicU32,
    pub(super) tunnels: Tunnels<Conn, Conn>,
    /// Memory for small bodies that wait for the application.
    pub(super) bodies: Arc<Budget>,
    /// The connections that exist, connected or not.
    pub(super) connections: Mutex<Vec<Arc<ConnectionHandle>>>,
}

#[derive(Debug, Default)]
pub(super) struct ApplicationState {
    /// The application is up.
    pub(super) up: bool,
    /// What the log has reported: nothing yet, that it is up (empty), or the fault.
    reported: Option<String>,
    /// Since when the start is waiting for the application; `None` after the warning that this takes long.
    waiting: Option<Instant>,
    pub(super) draining: bool,
    /// The command is not running: what responds at its address is another process, or about to exit.
    pub(super) command_down: bool,
    /// The watch thread is to check at once.
    pub(super) check_now: bool,
    /// The dialer is to apply the configuration at once.
    pub(super) config_changed: bool,
    /// By the number of a server's address.
    pub(super) dialling: HashMap<u64, DialState>,
}

impl AccessShared {
    /// The state before the first check.
    ///
    /// # Errors
    /// Those of the system when the tunnels are created.
    pub(super) fn new(settings: RunningConfig) -> io::Result<Self> {
        let limit = Arc::new(ApplicationLimit::new(0));
        limit.limit(settings.config.places);
        Ok(Self {
            limit,
            state: Mutex::default(),
            changed: Condvar::new(),
            open: AtomicBool::new(false),
            responses: AtomicU64::new(0),
            unanswered: AtomicU32::new(0),
            tunnels: Tunnels::new()?,
            bodies: Arc::new(Budget::new(BODIES)),
            connections: Mutex::default(),
            settings: RwLock::new(Arc::new(settings)),
        })
    }

    /// The current configuration. Take it once for an exchange.
    pub(super) fn settings(&self) -> Arc<RunningConfig> {
        Arc::clone(&self.settings.read())
    }

    pub(super) fn connections(&self) -> Vec<Arc<ConnectionHandle>> {
        self.connections.lock().clone()
    }

    /// Whether connections are wanted.
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    pub(super) fn count_response(&self) {
        add(&self.responses);
        // Mostly it is zero already.
        if self.unanswered.load(Ordering::Relaxed) > 0 {
            self.trust();
        }
    }

    /// The application has not responded to a request in time, or before the server has closed the connection. After
    /// several in a row it is checked at once.
    pub(super) fn count_unanswered(&self) {
        if self.unanswered.fetch_add(1, Ordering::Relaxed) + 1 == SUSPECT {
            self.check_now();
        }
    }

    /// Has the application checked at once.
    pub(super) fn check_now(&self) {
        self.state.lock().check_now = true;
        self.changed.notify_all();
    }

    /// Whether the application may hang.
    pub(super) fn is_suspect(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) >= SUSPECT
    }

    /// The application has responded.
    pub(super) fn trust(&self) {
        self.unanswered.store(0, Ordering::Relaxed);
    }

    pub(super) fn responses(&self) -> u64 {
        get(&self.responses)
    }

    /// The application has responded.
    pub(super) fn set_up(&self) {
        let settings = self.settings();
        let reported = {
            let mut state = self.state.lock();
            if state.draining || state.command_down {
                return;
            }
            let reported = state.reported.replace(String::new());
            state.waiting = None;
            state.up = true;
            self.open.store(true, Ordering::SeqCst);
            reported
        };
        self.changed.notify_all();
        if reported.as_deref() != Some("") {
            log::info!("application {}: answers", settings.config.to);
        }
    }

    /// The command was started, or has ended.
    pub(super) fn command_changed(&self, runs: bool) {
        self.state.lock().command_down = !runs;
        if !runs {
            self.set_down("its process has ended");
        }
    }

    /// The application cannot be reached.
    pub(super) fn connect_failed(&self, error: &io::Error) {
        match connect_error(error) {
            Some(why) => self.set_down(&why),
            // The fault is ours; other access proxies may find the application well.
            None => log::error!("connect {}: {}", self.settings().config.to, error),
        }
    }

    /// The application is down: closes idle connections to servers before this returns, has the others closed after
    /// their exchange, and stops dialling until it responds.
    pub(super) fn set_down(&self, why: &str) {
        let settings = self.settings();
        let (draining, level) = {
            let mut state = self.state.lock();
            self.open.store(false, Ordering::SeqCst);
            let level = state.set_down(why, Instant::now());
            (state.draining, level)
        };
        if draining {
            return;
        }
        self.close_idle();
        if let Some((level, verb)) = level {
            log::log!(level, "application {}: {why}; {verb}", settings.config.to);
        }
    }

    /// Closes idle connections, and has the others closed. First set the state in which they are unwanted.
    pub(super) fn close_idle(&self) {
        self.changed.notify_all();
        self.limit.drop_carried();
        for handle in self.connections() {
            handle.close_idle();
        }
    }

    /// Whether the application is up.
    pub(super) fn is_up(&self) -> bool {
        self.state.lock().up
    }

    /// Waits for the next check. `false`: a drain has begun.
    pub(super) fn wait_for_check(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut state = self.state.lock();
        // It was found down during the check: another check at once would only repeat that.
        if !state.up {
            state.check_now = false;
        }
        while !state.draining && !state.check_now {
            if self.changed.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        state.check_now = false;
        !state.draining
    }
}

impl ApplicationState {
    /// Marks the application as down. Returns what to log, if anything.
    fn set_down(&mut self, why: &str, now: Instant) -> Option<(log::Level, &'static str)> {
        let reported = self.reported.replace(why.to_owned());
        let was_up = mem::replace(&mut self.up, false);
        self.check_now |= was_up;
        if self.draining {
            // The drain may be the cause.
            None
        } else if was_up {
            Some((log::Level::Warn, "leaving"))
        } else if reported.is_none() {
            // The first report: the application may still be starting.
            self.waiting = Some(now);
            Some((log::Level::Info, "waiting for it"))
        } else {
            let is_late = |since: &mut Instant| now.saturating_duration_since(*since) >= SLOW_START;
            let waited = self.waiting.take_if(is_late);
            waited.map(|_| (log::Level::Warn, "still waiting for it"))
        }
    }
}

/// The application's fault if it cannot be connected to; `None`: the fault is ours, such as too few descriptors.
pub(super) fn connect_error(error: &io::Error) -> Option<String> {
    (!is_shortage(error)).then(|| reason(error))
}

/// After so many requests without a response in a row, the application may hang.
const SUSPECT: u32 = 3;
/// Bytes of small bodies that wait for the application. Beyond that a body stays in its socket until its request has a
/// permit, and is then passed on as it arrives.
const BODIES: u64 = 16 << 20;
/// After this time the start of the application has taken too long, which is logged as a warning.
const SLOW_START: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warns_once_of_a_slow_start() {
        let start = Instant::now();
        let mut state = ApplicationState::default();
        let mut after = |milliseconds| {
            let level = state.set_down("refused", start + Duration::from_millis(milliseconds));
            level.map(|(level, verb)| (level.as_str(), verb))
        };
        // It may take some time to start.
        assert_eq!(after(500), Some(("INFO", "waiting for it")));
        assert_eq!(after(1000), None);
        assert_eq!(after(10_499), None);
        assert_eq!(after(10_500), Some(("WARN", "still waiting for it")));
        assert_eq!(after(10_600), None);
        assert_eq!(after(60_000), None);
    }

    #[test]
    fn warns_once_when_it_goes_down() {
        let now = Instant::now();
        let later = now + SLOW_START;
        let mut state = ApplicationState {
            up: true,
            reported: Some(String::new()),
            ..ApplicationState::default()
        };
        let left = Some((log::Level::Warn, "leaving"));
        assert_eq!(state.set_down("refused", now), left);
        assert_eq!(state.set_down("refused", later), None);
        // No warning during a drain.
        state.up = true;
        state.draining = true;
        assert_eq!(state.set_down("refused", later), None);
    }
}
