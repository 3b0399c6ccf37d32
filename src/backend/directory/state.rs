//! What the lock of a directory guards: its servers, the requests that wait for them, its part of the configuration.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::endpoint::Endpoint;
use super::health::Health;
#[cfg(feature = "redis")]
use super::list::ListState;
use super::server::{IdleConnection, ServerEntry};
use crate::backend::queue::Queue;
use crate::backend::shortage::Shortage;
use crate::config::{self, Address};
use crate::stats::Close;

/// What a directory has of its site's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DirectorySettings {
    /// Where the servers are.
    pub(super) servers: Vec<Address>,
    /// Seats of each.
    pub(super) slots: usize,
    /// For a connection to be made.
    pub(super) connect_timeout: Duration,
    /// How long an idle connection is kept.
    pub(super) idle_timeout: Duration,
    /// Active checks, and the Host that they ask for.
    pub(super) check: Option<config::CheckConfig>,
    pub(super) host: String,
}

/// What the lock of a directory guards.
#[derive(Debug)]
pub(super) struct DirectoryState {
    pub(super) settings: DirectorySettings,
    pub(super) servers: Vec<ServerEntry>,
    /// Requests that wait, and whether they must not be sent a second time.
    pub(super) waiting: Queue<Assignment, bool>,
    /// Which of several equal servers is next.
    pub(super) next_server: usize,
    /// Nothing may be kept any more, for this reason.
    pub(super) closed: Option<Close>,
    #[cfg(feature = "redis")]
    pub(super) list: Option<ListState>,
}

/// What a request is given: a seat at a server, which is counted there, and a connection that was idle, if there is one.
#[derive(Debug)]
pub(super) struct Assignment {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) idle: Option<IdleConnection>,
}

impl DirectorySettings {
    pub(super) fn of(site: &config::SiteConfig) -> Option<Self> {
        let (servers, slots) = match &site.directory {
            Some(config::DirectoryConfig::Static(servers)) if !servers.is_empty() => {
                (servers.clone(), site.server_connections)
            }
            Some(config::DirectoryConfig::Redis(_)) => (Vec::new(), 0),
            _ => return None,
        };
        Some(Self {
            servers,
            slots,
            connect_timeout: site.timeouts.connect,
            idle_timeout: site.timeouts.idle,
            check: site.check.clone(),
            host: site.name.clone(),
        })
    }
}

impl DirectoryState {
    /// Nothing was asked of the servers of these settings yet.
    pub(super) fn new(settings: DirectorySettings) -> Self {
        let now = Instant::now();
        let servers = settings.servers.iter();
        let servers = servers.map(|address| ServerEntry::new(address, settings.slots, now));
        Self {
            servers: servers.collect(),
            settings,
            waiting: Queue::default(),
            next_server: 0,
            closed: None,
            #[cfg(feature = "redis")]
            list: None,
        }
    }

    /// Goes over to other settings. Returns the idle connections to servers that are gone.
    pub(super) fn change(
        &mut self,
        settings: DirectorySettings,
        now: Instant,
    ) -> Vec<IdleConnection> {
        let mut old = match settings.servers.is_empty() {
            // Those of Redis stay.
            true => Vec::new(),
            false => mem::take(&mut self.servers),
        };
        for address in &settings.servers {
            let known = |server: &ServerEntry| server.endpoint.address == *address;
            let mut server = match old.iter().position(known) {
                Some(position) => old.swap_remove(position),
                None => ServerEntry::new(address, settings.slots, now),
            };
            server.slots = settings.slots;
            // It may have been on its way out.
            server.removed = false;
            self.servers.push(server);
        }
        for server in &mut self.servers {
            // One that is under way says itself when the next one is.
            if let Some(due) = &mut server.check {
                *due = now;
            }
            if settings.check.is_none() && server.health.state == Health::Down {
                server.health.state = Health::Up;
            }
        }
        let mut gone = Vec::new();
        for mut server in old {
            gone.extend(mem::take(&mut server.idle));
            server.slots = 0;
            server.removed = true;
            if server.busy > 0 {
                self.servers.push(server);
            }
        }
        self.settings = settings;
        gone
    }

    /// How many servers there are, and how many of them get no requests or only one, to see whether they are up again.
    fn count(&self) -> (usize, usize) {
        let servers = || self.servers.iter().filter(|server| !server.removed);
        #[cfg(feature = "redis")]
        let servers = || {
            let redis = self.list.is_some();
            servers().filter(move |server| !redis || server.elements.is_listed())
        };
        let down = servers().filter(|server| server.health.state != Health::Up);
        (servers().count(), down.count())
    }

    /// Why no server has a free seat.
    pub(super) fn shortage(&self) -> Shortage {
        let (all, down) = self.count();
        #[cfg(feature = "redis")]
        let is_unlisted = self.list.as_ref().is_some_and(ListState::is_unreachable);
        #[cfg(not(feature = "redis"))]
        let is_unlisted = false;
        Shortage::Servers {
            all,
            down,
            is_unlisted,
        }
    }

    pub(super) fn position(&self, endpoint: &Arc<Endpoint>) -> Option<usize> {
        let mut servers = self.servers.iter();
        servers.position(|server| Arc::ptr_eq(&server.endpoint, endpoint))
    }

    /// A server that is still there.
    pub(super) fn server(&mut self, endpoint: &Arc<Endpoint>) -> Option<&mut ServerEntry> {
        let index = self.position(endpoint)?;
        Some(&mut self.servers[index])
    }

    /// Why no connection to a server is kept any more, if that is so.
    pub(super) fn close_reason(&self, endpoint: &Arc<Endpoint>) -> Option<Close> {
        let gone = |index: usize| self.servers[index].removed;
        let removed = self.position(endpoint).is_none_or(gone);
        self.closed.or(removed.then_some(Close::Removed))
    }

    /// When a pause ends and frees seats for which requests wait.
    pub(super) fn next_pause(&self) -> Option<Instant> {
        if self.waiting.is_empty() {
            return None;
        }
        let servers = self.servers.iter();
        let pauses = servers.filter_map(|server| match server.health.state {
            Health::Aside {
                until,
                trial: false,
                ..
            } if server.busy < server.slots => Some(until),
            _ => None,
        });
        pauses.min()
    }

    /// When something is due that the tick does.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let servers = || self.servers.iter();
        let lookups = servers().filter_map(|server| server.health.lookup);
        let checked = |server: &&ServerEntry| {
            self.settings.check.is_some() && server.health.state != Health::Unknown
        };
        let checks = servers().filter(checked).filter_map(|server| server.check);
        let oldest = servers().filter_map(|server| server.idle.front());
        // Those that have been looked at are looked at again after a while.
        let rested = oldest.map(|idle| match idle.since + IDLE_RECHECK {
            due if due <= now => now + IDLE_RECHECK,
            due => due,
        });
        lookups
            .chain(checks)
            .chain(rested)
            .chain(self.next_pause())
            .min()
    }
}

/// Idle connections are looked at when they have been idle for so long.
pub(super) const IDLE_RECHECK: Duration = Duration::from_secs(1);
