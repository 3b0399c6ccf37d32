//! When a connection may be dialled, and what each attempt means for the others.
//!
//! While a server cannot be reached, one connection probes it on behalf of all, with the pauses of a
//! [`Backoff`](crate::client::Backoff): three times briefly, then longer and longer. If the host refuses the connection,
//! the pause is a second at most, since its server may be restarting; if it does not respond or does not accept us, 20 s
//! at most.

use std::time::{Duration, Instant};

use super::dial_state::DialPermission;
use super::handle::ConnectionHandle;
use super::server::ServerAddress;
use super::shared::AccessShared;

impl AccessShared {
    /// Waits until the connection may be dialled, and as long as the application is down. `None`: it is not wanted any
    /// more.
    pub(super) fn wait_to_dial(&self, handle: &ConnectionHandle) -> Option<DialPermission> {
        let mut state = self.state.lock();
        loop {
            if state.draining || !handle.is_wanted() {
                return None;
            }
            let mut until = None;
            if state.up {
                let dialling = state.dialling.entry(handle.server.number).or_default();
                let now = Instant::now();
                if !dialling.is_failing {
                    return Some(DialPermission::Plain);
                }
                if !dialling.is_probing {
                    if dialling.retry_at <= now {
                        dialling.is_probing = true;
                        return Some(DialPermission::Probe);
                    }
                    until = Some(dialling.retry_at);
                }
            }
            match until {
                Some(until) => drop(self.changed.wait_until(&mut state, until)),
                None => self.changed.wait(&mut state),
            }
        }
    }

    /// A server could not be dialled, or did not accept a connection. `is_cheap`: it may be asked again soon.
    pub(super) fn dial_failed(
        &self,
        server: &ServerAddress,
        permission: DialPermission,
        why: &str,
        is_cheap: bool,
    ) {
        let news = {
            let mut state = self.state.lock();
            let Some(dialling) = state.dialling.get_mut(&server.number) else {
                return;
            };
            // Of many failures at the same time, one counts.
            if permission == DialPermission::Probe || !dialling.is_failing {
                let pause = dialling.backoff.pause();
                let pause = if is_cheap {
                    pause.min(LONGEST_CHEAP_PAUSE)
                } else {
                    pause
                };
                dialling.retry_at = Instant::now() + pause;
            }
            dialling.is_failing = true;
            dialling.is_probing &= permission != DialPermission::Probe;
            dialling.connections == 0 && dialling.reported.as_deref() != Some(why) && {
                dialling.reported = Some(why.to_owned());
                true
            }
        };
        self.changed.notify_all();
        match news {
            true => log::warn!("server {server}: {why}; trying again"),
            false => log::debug!("server {server}: {why}"),
        }
    }

    /// A server has accepted a connection, so the others may dial as well.
    pub(super) fn dial_accepted(&self, server: &ServerAddress, permission: DialPermission) {
        let news = {
            let mut state = self.state.lock();
            let Some(dialling) = state.dialling.get_mut(&server.number) else {
                return;
            };
            dialling.connections += 1;
            if permission == DialPermission::Probe {
                dialling.is_failing = false;
                dialling.is_probing = false;
                dialling.backoff.reset();
            }
            let is_news = dialling.reported.replace(String::new()).as_deref() != Some("");
            dialling.count(server, true, is_news)
        };
        self.changed.notify_all();
        if let Some(news) = news {
            log::info!("{news}");
        }
    }

    /// An accepted connection has ended.
    pub(super) fn disconnected(&self, server: &ServerAddress) {
        let news = {
            let mut state = self.state.lock();
            // In a drain the access proxy closes them itself.
            let draining = state.draining;
            let Some(dialling) = state.dialling.get_mut(&server.number) else {
                return;
            };
            dialling.connections -= 1;
            match draining {
                true => None,
                false => dialling.count(server, false, false),
            }
        };
        if let Some(news) = news {
            // The dialer's thread reports the events that follow.
            self.changed.notify_all();
            log::info!("{news}");
        }
    }

    /// The access proxy closed a connection before it was known whether the server accepts it.
    pub(super) fn dial_abandoned(&self, server: &ServerAddress, permission: DialPermission) {
        if let Some(dialling) = self.state.lock().dialling.get_mut(&server.number) {
            dialling.is_probing &= permission != DialPermission::Probe;
        }
        self.changed.notify_all();
    }
}

/// The longest pause if an attempt costs little.
const LONGEST_CHEAP_PAUSE: Duration = Duration::from_secs(1);
