//! What the lock of a directory guards: its settings, its servers, and the requests that wait for them.

use std::fmt::Display;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::endpoint::Endpoint;
use super::health::{Change, Health, HealthChange};
#[cfg(feature = "redis")]
use super::list::ListState;
use super::server::{IdleConnection, ServerEntry};
use super::tls::ServerTls;
use crate::backend::drained::Drained;
use crate::backend::queue::Queue;
use crate::backend::reports::Reports;
use crate::backend::shortage::Shortage;
use crate::config::{self, Order, ServerConfig};
use crate::stats::Close;

/// The part of a site's configuration that concerns its servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DirectorySettings {
    /// The servers.
    pub(super) servers: Vec<ServerConfig>,
    /// The slots of each server.
    pub(super) slots: usize,
    /// Which server gets a request.
    pub(super) order: Order,
    /// How long connecting may take.
    pub(super) connect_timeout: Duration,
    /// How long a connection may be idle.
    pub(super) idle_timeout: Duration,
    /// How often names are looked up.
    pub(super) lookup_interval: Duration,
    /// The checks, and the Host of their requests.
    pub(super) check: Option<config::CheckConfig>,
    pub(super) host: String,
    /// TLS with those servers that speak it.
    pub(super) tls: Option<ServerTls>,
    /// The PROXY header that a connection begins with. It is for one client, so such a connection is not used again.
    pub(super) send_proxy: Option<config::ProxyVersion>,
}

/// What the lock of a directory guards.
#[derive(Debug)]
pub(super) struct DirectoryState {
    pub(super) settings: DirectorySettings,
    pub(super) servers: Vec<ServerEntry>,
    /// The requests that wait; `true`: the request must not be sent twice.
    pub(super) waiting: Queue<Assignment, bool>,
    /// The index of the server to begin with, for round robin.
    pub(super) next_server: usize,
    /// Connections are closed for this reason instead of becoming idle.
    pub(super) closed: Option<Close>,
    /// The servers that get no requests.
    pub(super) drained: Arc<Drained>,
    /// Changes of their health, for the log.
    pub(super) reports: Reports<HealthChange>,
    #[cfg(feature = "redis")]
    pub(super) list: Option<ListState>,
}

/// What a request is given: a slot, already counted as busy, and perhaps an idle connection.
#[derive(Debug)]
pub(super) struct Assignment {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) idle: Option<IdleConnection>,
}

impl DirectorySettings {
    /// `tls`: that of the site's `server_tls`.
    pub(super) fn of(site: &config::SiteConfig, tls: Option<ServerTls>) -> Option<Self> {
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
            order: site.order,
            connect_timeout: site.timeouts.connect,
            idle_timeout: match site.fastcgi {
                Some(_) => site.timeouts.idle.min(LONGEST_FASTCGI),
                None => site.timeouts.idle,
            },
            lookup_interval: site.lookup_interval,
            check: site.check.clone(),
            host: match &site.route {
                Some(route) => route.site.clone(),
                None => site.name.clone(),
            },
            tls,
            send_proxy: site.send_proxy,
        })
    }
}

impl DirectoryState {
    /// The state before the first request.
    pub(super) fn new(settings: DirectorySettings) -> Self {
        let now = Instant::now();
        let servers = settings.servers.iter();
        let servers = servers
            .map(|server| ServerEntry::new(server, settings.tls.as_ref(), settings.slots, now));
        Self {
            servers: servers.collect(),
            closed: settings.send_proxy.map(|_| Close::Complete),
            settings,
            waiting: Queue::default(),
            next_server: 0,
            drained: Arc::default(),
            reports: Reports::default(),
            #[cfg(feature = "redis")]
            list: None,
        }
    }

    /// Switches to other settings. Returns the idle connections to removed servers.
    pub(super) fn change(
        &mut self,
        settings: DirectorySettings,
        now: Instant,
    ) -> Vec<IdleConnection> {
        let mut old = match settings.servers.is_empty() {
            // Servers from Redis stay.
            true => Vec::new(),
            false => mem::take(&mut self.servers),
        };
        for wanted in &settings.servers {
            let known = |server: &ServerEntry| server.endpoint.server == *wanted;
            let mut server = match old.iter().position(known) {
                Some(position) => old.swap_remove(position),
                None => ServerEntry::new(wanted, settings.tls.as_ref(), settings.slots, now),
            };
            server.slots = settings.slots;
            server.drained = self.drained.has_server(wanted);
            // It may have been removed by an earlier change.
            server.removed = false;
            self.servers.push(server);
        }
        for server in &mut self.servers {
            // A check under way schedules the next one itself.
            if let Some(due) = &mut server.check {
                *due = now;
            }
            if let Some(due) = &mut server.health.lookup {
                *due = (*due).min(now + settings.lookup_interval);
            }
            if settings.check.is_none() && server.health.state == Health::Down {
                server.health.set_up(now);
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

    /// The number of servers, and of those that get no requests, or only a trial.
    fn count(&self) -> (usize, usize) {
        let servers = || self.servers.iter().filter(|server| !server.removed);
        #[cfg(feature = "redis")]
        let servers = || {
            let redis = self.list.is_some();
            servers().filter(move |server| !redis || server.elements.is_listed())
        };
        let down = servers().filter(|server| server.health.state != Health::Up || server.drained);
        (servers().count(), down.count())
    }

    /// Notes a change of a server's health for [`Directory::report_changes`](super::dispatch::Directory::report_changes).
    pub(super) fn note_change(&mut self, server: &Arc<str>, change: Change, why: &dyn Display) {
        if change != Change::None {
            self.reports.add(HealthChange {
                server: Arc::clone(server),
                change,
                why: why.to_string(),
            });
        }
    }

    /// Why no slot is free.
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

    /// A server that still exists.
    pub(super) fn server(&mut self, endpoint: &Arc<Endpoint>) -> Option<&mut ServerEntry> {
        let index = self.position(endpoint)?;
        Some(&mut self.servers[index])
    }

    /// Why connections to this server are closed instead of becoming idle, if so.
    pub(super) fn close_reason(&self, endpoint: &Arc<Endpoint>) -> Option<Close> {
        let gone = |index: usize| self.servers[index].removed;
        let removed = self.position(endpoint).is_none_or(gone);
        let drained = |index: usize| self.servers[index].drained;
        let drained = !removed && self.position(endpoint).is_some_and(drained);
        let removed = removed.then_some(Close::Removed);
        self.closed
            .or(removed)
            .or(drained.then_some(Close::Draining))
    }

    /// When the next pause ends that frees slots for waiting requests.
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
            } if server.busy < server.slots && !server.drained => Some(until),
            _ => None,
        });
        pauses.min()
    }

    /// When the tick has something to do.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let servers = || self.servers.iter();
        let lookups = servers().filter_map(|server| server.health.lookup);
        let checked = |server: &&ServerEntry| {
            self.settings.check.is_some() && server.health.state != Health::Unknown
        };
        let checks = servers().filter(checked).filter_map(|server| server.check);
        let oldest = servers().filter_map(|server| server.idle.front());
        // Connections that were inspected are inspected again after a while.
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

/// How long a connection to a FastCGI server is used. Each one holds a process of the server, also while it is idle, which
/// other connections may wait for: those of other sites, or of other programs.
pub(super) const LONGEST_FASTCGI: Duration = Duration::from_secs(1);
/// How long a connection is idle before it is inspected.
pub(super) const IDLE_RECHECK: Duration = Duration::from_secs(1);
