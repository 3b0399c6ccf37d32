//! What the threads of the access proxy share: the configuration, whether the application answers, the dialled connections.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{io, mem};

use parking_lot::{Condvar, Mutex, RwLock};

use super::dial_state::DialState;
use super::handle::ConnectionHandle;
use super::limit::ApplicationLimit;
use super::running::RunningConfig;
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
    /// With `state`, for whoever waits for a change of it.
    pub(super) changed: Condvar,
    /// The application answers and there is no drain: what `state` says, for a look without the lock, under which it is
    /// changed.
    pub(super) open: AtomicBool,
    /// Answers of the application so far.
    responses: AtomicU64,
    pub(super) tunnels: Tunnels<Conn, Conn>,
    /// The lines that are there.
    pub(super) connections: Mutex<Vec<Arc<ConnectionHandle>>>,
}

#[derive(Debug, Default)]
pub(super) struct ApplicationState {
    /// The application answers.
    pub(super) up: bool,
    /// The log has said so, or what is wrong.
    reported: Option<String>,
    /// Since when it is waited for, from the start and until that has taken long.
    waiting: Option<Instant>,
    pub(super) draining: bool,
    /// Its process is ours and does not run: whoever answers there is not it, or is about to go.
    pub(super) command_down: bool,
    /// The watch is to look at once.
    pub(super) check_now: bool,
    /// The fleet is to look at the configuration at once.
    pub(super) config_changed: bool,
    /// By the number of a server's address.
    pub(super) dialling: HashMap<u64, DialState>,
}

impl AccessShared {
    /// Nothing is known of the application yet.
    ///
    /// # Errors
    /// What the system says if there is no poller for tunnels.
    pub(super) fn new(settings: RunningConfig) -> io::Result<Self> {
        let limit = Arc::new(ApplicationLimit::new(0));
        limit.limit(settings.config.connections);
        Ok(Self {
            limit,
            state: Mutex::default(),
            changed: Condvar::new(),
            open: AtomicBool::new(false),
            responses: AtomicU64::new(0),
            tunnels: Tunnels::new()?,
            connections: Mutex::default(),
            settings: RwLock::new(Arc::new(settings)),
        })
    }

    /// The configuration as it is now. For one exchange, take it once.
    pub(super) fn settings(&self) -> Arc<RunningConfig> {
        Arc::clone(&self.settings.read())
    }

    pub(super) fn connections(&self) -> Vec<Arc<ConnectionHandle>> {
        self.connections.lock().clone()
    }

    /// Whether lines are wanted now.
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    pub(super) fn count_response(&self) {
        add(&self.responses);
    }

    pub(super) fn responses(&self) -> u64 {
        get(&self.responses)
    }

    /// The application answers.
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

    /// Its process was started, or has ended.
    pub(super) fn command_changed(&self, runs: bool) {
        self.state.lock().command_down = !runs;
        if !runs {
            self.set_down("its process has ended");
        }
    }

    /// It cannot be reached.
    pub(super) fn connect_failed(&self, error: &io::Error) {
        match connect_error(error) {
            Some(why) => self.set_down(&why),
            // That is not its fault, and who dials in may find it well.
            None => log::error!("connect {}: {}", self.settings().config.to, error),
        }
    }

    /// The application does not answer: idle connections to servers are closed before this returns, the others after
    /// their exchange, and none is dialled until it answers.
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

    /// Closes what is idle, and has the rest closed. Whoever calls this has said before that nothing is wanted.
    pub(super) fn close_idle(&self) {
        self.changed.notify_all();
        self.limit.drop_carried();
        for handle in self.connections() {
            handle.close_idle();
        }
    }

    /// Whether the application answers.
    pub(super) fn is_up(&self) -> bool {
        self.state.lock().up
    }

    /// Waits for the next look. `false`: there is none.
    pub(super) fn wait_for_check(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut state = self.state.lock();
        // Somebody has found it down while we looked: not at once again, for it would be found down again.
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
    /// The application does not answer at this time: what to log of that, if anything.
    fn set_down(&mut self, why: &str, now: Instant) -> Option<(log::Level, &'static str)> {
        let reported = self.reported.replace(why.to_owned());
        let was_up = mem::replace(&mut self.up, false);
        self.check_now |= was_up;
        if self.draining {
            // It may well be our doing.
            None
        } else if was_up {
            Some((log::Level::Warn, "leaving"))
        } else if reported.is_none() {
            // Nothing was logged of it yet: it may just be starting, as we are.
            self.waiting = Some(now);
            Some((log::Level::Info, "waiting for it"))
        } else {
            let is_late = |since: &mut Instant| now.saturating_duration_since(*since) >= SLOW_START;
            let waited = self.waiting.take_if(is_late);
            waited.map(|_| (log::Level::Warn, "still waiting for it"))
        }
    }
}

/// What the application did wrong when it cannot be connected to; `None`: it is we who ran out of something.
pub(super) fn connect_error(error: &io::Error) -> Option<String> {
    (!is_shortage(error)).then(|| reason(error))
}

/// After so long it is no start any more, and a warning that the application does not answer.
const SLOW_START: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_that_is_not_there_after_ten_seconds_is_warned_of_once() {
        let start = Instant::now();
        let mut state = ApplicationState::default();
        let mut after = |milliseconds| {
            let level = state.set_down("refused", start + Duration::from_millis(milliseconds));
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
        let later = now + SLOW_START;
        let mut state = ApplicationState {
            up: true,
            reported: Some(String::new()),
            ..ApplicationState::default()
        };
        let left = Some((log::Level::Warn, "leaving"));
        assert_eq!(state.set_down("refused", now), left);
        assert_eq!(state.set_down("refused", later), None);
        // Not while everything ends.
        state.up = true;
        state.draining = true;
        assert_eq!(state.set_down("refused", later), None);
    }
}
