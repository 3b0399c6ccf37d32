//! A directory: gives free seats at its servers to the requests that wait, and takes them back.
//!
//! The thread that frees a seat deals: the seat is put into the [`Slot`](crate::backend::queue::Slot) of the first request in
//! line. The end of a server's pause frees its seats without any thread, so the [`Alarm`] brings the tick thread then, which
//! deals too.

use std::mem;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::endpoint::Endpoint;
use super::health::{Change, HealthReport};
#[cfg(feature = "redis")]
use super::list::Notify;
use super::server::IdleConnection;
use super::state::{Assignment, DirectorySettings, DirectoryState};
use crate::backend::shortage::Shortage;
use crate::net::alarm::Alarm;
use crate::net::conn::Conn;
use crate::stats::{Close, Stats};

/// The servers of a site, and the requests that wait for them.
#[derive(Debug)]
pub struct Directory {
    /// The site, for logs.
    pub(super) site: String,
    /// Target of log lines.
    pub(super) log: String,
    pub(super) stats: Arc<Stats>,
    /// Brings the tick thread.
    pub(super) alarm: Arc<Alarm>,
    pub(super) state: Mutex<DirectoryState>,
    /// Where Redis has the list.
    #[cfg(feature = "redis")]
    pub(super) bell: Option<Arc<Notify>>,
}

impl Directory {
    pub(super) fn new(
        site: &str,
        log: &str,
        settings: DirectorySettings,
        (stats, alarm): (&Arc<Stats>, &Arc<Alarm>),
    ) -> Self {
        Self {
            site: site.to_owned(),
            log: log.to_owned(),
            stats: Arc::clone(stats),
            alarm: Arc::clone(alarm),
            state: Mutex::new(DirectoryState::new(settings)),
            #[cfg(feature = "redis")]
            bell: None,
        }
    }

    /// Goes over to other settings. Servers that stay keep their connections and what is known of them; exchanges with
    /// those that go come to their end.
    pub(super) fn change(&self, settings: DirectorySettings) {
        let gone = {
            let mut state = self.state.lock();
            if state.settings == settings {
                return;
            }
            state.change(settings, Instant::now())
        };
        for kept in gone {
            self.close(kept.conn, Close::Removed);
        }
        self.remind();
        self.deal();
    }

    /// Closes what is idle and keeps nothing that comes later.
    pub(super) fn shut(&self, reason: Close) {
        let kept: Vec<_> = {
            let mut state = self.state.lock();
            state.closed = Some(reason);
            let servers = state.servers.iter_mut();
            servers
                .flat_map(|server| mem::take(&mut server.kept))
                .collect()
        };
        for kept in kept {
            self.close(kept.conn, reason);
        }
    }

    pub(super) fn idle(&self) -> usize {
        let state = self.state.lock();
        state.servers.iter().map(|server| server.kept.len()).sum()
    }

    /// Why no server has a free seat.
    pub(in crate::backend) fn shortage(&self) -> Shortage {
        self.state.lock().shortage()
    }

    pub(super) fn close(&self, conn: Conn, reason: Close) {
        drop(conn);
        self.stats.backend_closed(reason);
    }

    /// Has the tick thread come in time for what is due next.
    pub(super) fn remind(&self) {
        let due = self.state.lock().next_due(Instant::now());
        if let Some(due) = due {
            self.alarm.set(due);
        }
    }

    /// Gives free seats to those that wait.
    pub(super) fn deal(&self) {
        loop {
            let (slot, assigned) = {
                let mut state = self.state.lock();
                let Some((turn, &once)) = state.waiting.first() else {
                    return;
                };
                let Some(assigned) = state.take(once) else {
                    return;
                };
                (state.waiting.remove(turn), assigned)
            };
            let refused = match slot {
                Some(slot) => slot.fill(assigned),
                None => Some(assigned),
            };
            if let Some(Assignment { endpoint, kept }) = refused {
                // The request has left meanwhile; the next one is served in the next round.
                self.take_back(&endpoint, kept, &HealthReport::Nothing);
                #[cfg(feature = "redis")]
                self.settle();
            }
        }
    }

    /// Takes a seat back, with the connection to be kept and what is learnt from its request, without dealing it. Returns whether
    /// requests wait.
    pub(super) fn take_back(
        &self,
        endpoint: &Arc<Endpoint>,
        kept: Option<IdleConnection>,
        outcome: &HealthReport,
    ) -> bool {
        let (change, over, waits, pause) = {
            let mut state = self.state.lock();
            let state = &mut *state;
            // Without another server nothing would be won, and what is wrong may be the requests.
            let enough = match outcome {
                HealthReport::Failed => state.others(endpoint),
                _ => true,
            };
            let waits = !state.waiting.is_empty();
            let reason = state.over(endpoint);
            // A server stays while one of its seats is taken.
            let Some(index) = state.position(endpoint) else {
                return waits;
            };
            let server = &mut state.servers[index];
            server.taken -= 1;
            let change = server.health.judge(outcome, enough);
            let over = match reason {
                Some(reason) => kept.map(|kept| (kept, reason)),
                None => {
                    server.kept.extend(kept);
                    None
                }
            };
            if server.gone && server.taken == 0 {
                state.servers.remove(index);
            } else {
                #[cfg(feature = "redis")]
                if let Some(shelf) = &mut state.shelf {
                    state.servers[index].share(shelf);
                }
            }
            (change, over, waits, state.next_pause())
        };
        if let Some(pause) = pause {
            self.alarm.set(pause);
        }
        if let Some((kept, reason)) = over {
            self.close(kept.conn, reason);
        }
        let (site, name) = (&self.site, &endpoint.name);
        match change {
            // No request says that a server is down.
            Change::None | Change::Down => {}
            Change::Aside => {
                log::warn!(
                    target: &self.log,
                    "site {site}: server {name} is set aside: {outcome}"
                );
                // Its name is looked up again soon.
                self.remind();
            }
            Change::Back => log::info!(target: &self.log, "site {site}: server {name} is back"),
        }
        waits
    }

    /// A request waits.
    #[cfg(feature = "redis")]
    pub(super) fn ring(&self) {
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }

    /// Whatever nobody needs goes back.
    #[cfg(feature = "redis")]
    pub(super) fn settle(&self) {
        let Some(bell) = &self.bell else { return };
        let mut state = self.state.lock();
        let wanted = !state.waiting.is_empty();
        let DirectoryState { servers, shelf, .. } = &mut *state;
        let Some(shelf) = shelf else { return };
        for server in servers {
            while !shelf.away
                && server.stock.held.len() > server.taken
                && !(wanted && server.health.is_open(&mut None))
            {
                server.give_one(shelf);
            }
        }
        let any = !shelf.giving.is_empty();
        drop(state);
        if any {
            bell.ring();
        }
    }
}
