//! When a connection may be dialled, and what is learnt from how that went.
//!
//! While a server cannot be dialled, one line of it tries for all of them, as its [`Backoff`](crate::client::Backoff) says:
//! three times soon, then more and more seldom. A machine that says that nobody listens there is asked again after a second
//! at most, since its server may be starting anew; one that does not answer, or does not let us in, after 20 s at most.

use std::time::{Duration, Instant};

use super::dial_state::DialPermission;
use super::handle::ConnectionHandle;
use super::server::ServerAddress;
use super::shared::AccessShared;

impl AccessShared {
    /// Waits until a line may dial, for as long as the application does not answer. `None`: it is not wanted any more.
    pub(super) fn turn(&self, tie: &ConnectionHandle) -> Option<DialPermission> {
        let mut state = self.state.lock();
        loop {
            if state.draining || !tie.is_wanted() {
                return None;
            }
            let mut until = None;
            if state.up {
                let dialling = state.dialling.entry(tie.server.number).or_default();
                let now = Instant::now();
                if !dialling.failing {
                    return Some(DialPermission::Plain);
                }
                if !dialling.scouting {
                    if dialling.next <= now {
                        dialling.scouting = true;
                        return Some(DialPermission::Probe);
                    }
                    until = Some(dialling.next);
                }
            }
            match until {
                Some(until) => drop(self.changed.wait_until(&mut state, until)),
                None => self.changed.wait(&mut state),
            }
        }
    }

    /// A server could not be dialled, or did not let a line in. `cheap`: it may be asked again soon.
    pub(super) fn failed(
        &self,
        server: &ServerAddress,
        turn: DialPermission,
        why: &str,
        cheap: bool,
    ) {
        let news = {
            let mut state = self.state.lock();
            let Some(dialling) = state.dialling.get_mut(&server.number) else {
                return;
            };
            // One failure of many at once counts.
            if turn == DialPermission::Probe || !dialling.failing {
                let pause = dialling.backoff.pause();
                let pause = if cheap { pause.min(SOON) } else { pause };
                dialling.next = Instant::now() + pause;
            }
            dialling.failing = true;
            dialling.scouting &= turn != DialPermission::Probe;
            dialling.lines == 0 && dialling.told.as_deref() != Some(why) && {
                dialling.told = Some(why.to_owned());
                true
            }
        };
        self.changed.notify_all();
        match news {
            true => log::warn!("server {server}: {why}; trying again"),
            false => log::debug!("server {server}: {why}"),
        }
    }

    /// A server has let a line in, so the others may come.
    pub(super) fn proven(&self, server: &ServerAddress, turn: DialPermission) {
        let news = {
            let mut state = self.state.lock();
            let Some(dialling) = state.dialling.get_mut(&server.number) else {
                return;
            };
            dialling.lines += 1;
            if turn == DialPermission::Probe {
                dialling.failing = false;
                dialling.scouting = false;
                dialling.backoff.reset();
            }
            let is_news = dialling.told.replace(String::new()).as_deref() != Some("");
            dialling.note(server, true, is_news)
        };
        self.changed.notify_all();
        if let Some(news) = news {
            log::info!("{news}");
        }
    }

    /// A line of a server that had let it in is over.
    pub(super) fn lost(&self, server: &ServerAddress) {
        let news = {
            let mut state = self.state.lock();
            // Then it is our doing.
            let draining = state.draining;
            let Some(dialling) = state.dialling.get_mut(&server.number) else {
                return;
            };
            dialling.lines -= 1;
            match draining {
                true => None,
                false => dialling.note(server, false, false),
            }
        };
        if let Some(news) = news {
            // The fleet's thread has to report what follows.
            self.changed.notify_all();
            log::info!("{news}");
        }
    }

    /// A line was closed by us before it is known whether the server lets it in.
    pub(super) fn given_up(&self, server: &ServerAddress, turn: DialPermission) {
        if let Some(dialling) = self.state.lock().dialling.get_mut(&server.number) {
            dialling.scouting &= turn != DialPermission::Probe;
        }
        self.changed.notify_all();
    }
}

/// The same where a try costs nothing.
const SOON: Duration = Duration::from_secs(1);
