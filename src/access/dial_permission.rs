//! When a connection may be dialled, and what each attempt means for the others.
//!
//! While no connection to a server is open, one probes it on behalf of all, with the pauses of a
//! [`Backoff`](crate::client::Backoff): three times briefly, then longer and longer. If the host refuses the connection,
//! the pause is a second at most, since its server may be restarting; if it does not respond or does not accept us, 20 s
//! at most.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::dial_state::DialPermission;
use super::handle::ConnectionHandle;
use super::server::ServerAddress;
use super::shared::{AccessShared, ApplicationState};
use crate::preamble::ServerRefusal;

impl AccessShared {
    /// Waits until a connection is to be dialled. `None`: a drain has begun.
    pub(super) fn next_to_dial(&self) -> Option<(Arc<ConnectionHandle>, DialPermission)> {
        let mut state = self.state.lock();
        while !state.draining {
            let mut until = None;
            if state.up {
                match self.find_to_dial(&mut state) {
                    Ok(found) => return Some(found),
                    Err(due) => until = due,
                }
            }
            match until {
                Some(until) => drop(self.changed.wait_until(&mut state, until)),
                None => self.changed.wait(&mut state),
            }
        }
        None
    }

    /// A connection that may be dialled now, or when one may. Forgets those that are not wanted any more.
    fn find_to_dial(
        &self,
        state: &mut ApplicationState,
    ) -> Result<(Arc<ConnectionHandle>, DialPermission), Option<Instant>> {
        let now = Instant::now();
        let mut until: Option<Instant> = None;
        let mut connections = self.connections.lock();
        connections.retain(|handle| handle.is_wanted() || !handle.is_free());
        for handle in connections.iter().filter(|handle| handle.is_free()) {
            let dialling = state.dialling.entry(handle.server.number).or_default();
            let permission = match (dialling.is_failing, dialling.is_probing) {
                (false, _) if dialling.connections > 0 => DialPermission::Plain,
                (_, true) => continue,
                (true, false) if dialling.retry_at > now => {
                    let due = dialling.retry_at;
                    until = Some(until.map_or(due, |until| until.min(due)));
                    continue;
                }
                _ => DialPermission::Probe,
            };
            dialling.is_probing |= permission == DialPermission::Probe;
            handle.take();
            return Ok((Arc::clone(handle), permission));
        }
        Err(until)
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
            dialling.count_dialled(server, is_news)
        };
        self.changed.notify_all();
        if let Some(news) = news {
            log::info!("{news}");
        }
    }

    /// An accepted connection has ended, for this reason if the server has given one.
    pub(super) fn disconnected(&self, server: &ServerAddress, refusal: Option<ServerRefusal>) {
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
                false => dialling.count_lost(server, refusal),
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
