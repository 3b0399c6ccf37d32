//! A directory: gives free slots to the requests that wait, and takes them back.
//!
//! The thread that frees a slot hands it over: it puts an [`Assignment`] into the [`Slot`](crate::backend::queue::Slot)
//! of the first request in the queue. The end of a server's pause frees slots without a thread, so the [`Alarm`] wakes
//! the tick thread then, which does the same.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::endpoint::Endpoint;
use super::health::{Change, HealthChange, HealthReport};
#[cfg(feature = "redis")]
use super::list::Notify;
use super::server::IdleConnection;
use super::state::{Assignment, DirectorySettings, DirectoryState};
use crate::backend::drained::Drained;
use crate::backend::reports;
use crate::backend::shortage::Shortage;
use crate::net::alarm::Alarm;
use crate::net::conn::Conn;
use crate::stats::{Close, Stats};

/// The servers of a site, and the requests that wait for them.
#[derive(Debug)]
pub struct Directory {
    /// The site's name, for logs.
    pub(super) site: String,
    /// The target of log messages.
    pub(super) log: String,
    pub(super) stats: Arc<Stats>,
    /// Wakes the tick thread.
    pub(super) alarm: Arc<Alarm>,
    pub(super) state: Mutex<DirectoryState>,
    /// Wakes the thread that talks to Redis, if the servers are listed there.
    #[cfg(feature = "redis")]
    pub(super) syncer_notify: Option<Arc<Notify>>,
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
            syncer_notify: None,
        }
    }

    /// Switches to other settings. Servers that stay keep their connections and health; exchanges with removed servers
    /// run to their end.
    pub(super) fn change(&self, settings: DirectorySettings) {
        let gone = {
            let mut state = self.state.lock();
            if state.settings == settings {
                return;
            }
            state.change(settings, Instant::now())
        };
        for idle in gone {
            self.close(idle.conn, Close::Removed);
        }
        self.set_alarm();
        self.serve_waiting();
    }

    /// Changes which servers get no requests, and closes the idle connections to those.
    pub(super) fn set_drained(&self, drained: &Arc<Drained>) {
        let idle: Vec<_> = {
            let mut state = self.state.lock();
            state.drained = Arc::clone(drained);
            let servers = state.servers.iter_mut();
            let mut idle = VecDeque::new();
            for server in servers {
                server.drained = drained.has_server(&server.endpoint.server);
                if server.drained {
                    idle.append(&mut server.idle);
                }
            }
            idle.into()
        };
        for idle in idle {
            self.close(idle.conn, Close::Draining);
        }
        self.set_alarm();
        self.serve_waiting();
    }

    /// Removes all waiting requests from the queue, to ask again.
    pub(super) fn recall(&self) {
        let slots = self.state.lock().waiting.take_where(|_| true);
        for slot in slots {
            slot.recall();
        }
    }

    /// Closes idle connections, and those that become idle later.
    pub(super) fn close_all(&self, reason: Close) {
        self.state.lock().closed = Some(reason);
        self.close_idle(reason);
    }

    /// Closes idle connections.
    pub(super) fn close_idle(&self, reason: Close) {
        let idle: Vec<_> = {
            let mut state = self.state.lock();
            let servers = state.servers.iter_mut();
            servers
                .flat_map(|server| mem::take(&mut server.idle))
                .collect()
        };
        for idle in idle {
            self.close(idle.conn, reason);
        }
    }

    /// Whether there is a server with this name.
    pub(super) fn has(&self, name: &str) -> bool {
        let state = self.state.lock();
        let mut servers = state.servers.iter().filter(|server| !server.removed);
        servers.any(|server| *server.endpoint.name == *name)
    }

    pub(super) fn idle(&self) -> usize {
        let state = self.state.lock();
        state.servers.iter().map(|server| server.idle.len()).sum()
    }

    /// Why no slot is free.
    pub(in crate::backend) fn shortage(&self) -> Shortage {
        self.state.lock().shortage()
    }

    pub(super) fn close(&self, conn: Conn, reason: Close) {
        drop(conn);
        self.stats.backend_closed(reason);
    }

    /// Sets the alarm for what is due next.
    pub(super) fn set_alarm(&self) {
        let due = self.state.lock().next_due(Instant::now());
        if let Some(due) = due {
            self.alarm.set(due);
        }
    }

    /// Gives free slots to waiting requests.
    pub(super) fn serve_waiting(&self) {
        loop {
            let (slot, assigned) = {
                let mut state = self.state.lock();
                let Some((position, &once)) = state.waiting.first() else {
                    return;
                };
                let Some(assigned) = state.assign(once) else {
                    return;
                };
                (state.waiting.remove(position), assigned)
            };
            let refused = match slot {
                Some(slot) => slot.fill(assigned),
                None => Some(assigned),
            };
            if let Some(Assignment { endpoint, idle }) = refused {
                // The request has given up meanwhile; the next round serves the next request.
                self.take_back(&endpoint, idle, &HealthReport::Nothing);
                #[cfg(feature = "redis")]
                self.return_surplus();
            }
        }
    }

    /// Takes a slot back, with its idle connection if it can be used again, and records the outcome of the request. Does
    /// not give the slot to another request. Returns whether requests wait.
    pub(super) fn take_back(
        &self,
        endpoint: &Arc<Endpoint>,
        idle: Option<IdleConnection>,
        outcome: &HealthReport,
    ) -> bool {
        let (change, unwanted, waits, pause) = {
            let mut state = self.state.lock();
            let state = &mut *state;
            // With a single server a pause would only reject requests; the fault may also be in the requests.
            let may_set_aside = match outcome {
                HealthReport::Failed => state.has_other(endpoint),
                _ => true,
            };
            let waits = !state.waiting.is_empty();
            let reason = state.close_reason(endpoint);
            // A server remains in the list while one of its slots is busy.
            let Some(index) = state.position(endpoint) else {
                return waits;
            };
            let server = &mut state.servers[index];
            server.busy -= 1;
            let change = server.health.judge(outcome, may_set_aside);
            let unwanted = match reason {
                Some(reason) => idle.map(|idle| (idle, reason)),
                None => {
                    server.idle.extend(idle);
                    None
                }
            };
            if server.removed && server.busy == 0 {
                state.servers.remove(index);
            } else {
                #[cfg(feature = "redis")]
                if let Some(list) = &mut state.list {
                    state.servers[index].share_with_others(list);
                }
            }
            state.note_change(&endpoint.name, change, outcome);
            (change, unwanted, waits, state.next_pause())
        };
        if let Some(pause) = pause {
            self.alarm.set(pause);
        }
        if let Some((idle, reason)) = unwanted {
            self.close(idle.conn, reason);
        }
        if change != Change::None {
            self.report_changes();
        }
        if change == Change::Aside {
            // The address may have changed: look the name up again soon.
            self.set_alarm();
        }
        waits
    }

    /// Logs the changes of servers' health that are not logged yet.
    pub(super) fn report_changes(&self) {
        let site = &self.site;
        reports::log_all(
            |goes_on| self.state.lock().reports.next(goes_on),
            |HealthChange {
                 server,
                 change,
                 why,
             }| match change {
                Change::None => {}
                Change::Aside => {
                    log::warn!(target: &self.log, "site {site}: server {server} is set aside: {why}");
                }
                Change::Down => {
                    log::warn!(target: &self.log, "site {site}: server {server} is down: {why}");
                }
                Change::Back => {
                    log::info!(target: &self.log, "site {site}: server {server} is back");
                }
            },
        );
    }

    /// Tells the Redis thread that a request waits.
    #[cfg(feature = "redis")]
    pub(super) fn notify_syncer(&self) {
        if let Some(notify) = &self.syncer_notify {
            notify.notify();
        }
    }

    /// Returns the elements that no request needs to Redis.
    #[cfg(feature = "redis")]
    pub(super) fn return_surplus(&self) {
        let Some(notify) = &self.syncer_notify else {
            return;
        };
        let mut state = self.state.lock();
        let wanted = !state.waiting.is_empty();
        let DirectoryState { servers, list, .. } = &mut *state;
        let Some(list) = list else { return };
        for server in servers {
            while !list.unreachable
                && server.elements.leased.len() > server.busy
                && !(wanted && server.is_open(&mut None))
            {
                server.return_oldest(list);
            }
        }
        let any = !list.returning.is_empty();
        drop(state);
        if any {
            notify.notify();
        }
    }
}
