//! Servers that the proxy connects to (`proxy: traditional`), and the requests that wait for them.
//!
//! A [`Directory`] holds the servers of a site. Each server has a number of *slots*: the requests that it may have at
//! once. A request takes a slot at the server that the site's `order` chooses: by default the one with the fewest busy
//! slots, in turn among equals. With the slot it gets an idle connection from an earlier exchange, or a new one. If all slots are busy, requests wait in order of
//! arrival, as at a [`pool`](super::pool): the thread that frees a slot gives it to the first request in the queue.
//!
//! A server that cannot be connected to, or that fails several times in a row, is *set aside*: it gets no requests for a
//! pause that doubles each time, then one request as a trial. Requests that were not sent yet go to another server, or
//! wait.
//!
//! Workers call [`acquire`], [`ServerTicket`], [`ServerConnecting`] and [`ServerLease`]; only [`ServerTicket::wait`]
//! blocks. The tick thread calls [`Servers::tick`], which never blocks: lookups and checks run on short-lived threads,
//! at most one of each for a server. The [`Alarm`] wakes the tick thread when a pause ends.
//!
//! Files, lowest first; each imports only from files above it in this list:
//!
//! - [`tls`]: TLS with servers.
//! - [`endpoint`]: the addresses of a server, connecting, probing.
//! - [`health`]: whether a server gets requests.
//! - [`list`]: the data kept about a list in Redis.
//! - [`server`]: one server with its slots, idle connections and health.
//! - [`state`]: all servers and the queue, guarded by the lock.
//! - [`choose`]: which server a request goes to.
//! - [`dispatch`]: the [`Directory`]: gives free slots to waiting requests and takes them back.
//! - [`maintenance`]: the tick: idle connections, lookups, checks.
//! - [`sync`]: changes between a directory and its list in Redis.
//! - [`report`]: the servers at one moment, for the status address.
//! - [`slot`]: a slot taken by a request, and its connection.
//! - [`queue`]: how a request gets a slot.
//! - [`redis`]: the thread that talks to Redis.
//!
//! **Invariants**
//! - A [`slot::ConnectionSlot`] is counted in `busy` of its server for as long as it exists; dropping it frees the slot.
//!   An idle connection belongs to its server, to a slot or to a lease.
//! - No request waits while a slot is free, except between the end of a pause and the next tick; and no request takes a
//!   slot while one that arrived earlier waits.
//! - While requests wait for the end of a pause, the alarm is set to it.
//! - The state's lock is a leaf: connections are inspected, opened and closed without it.

mod choose;
mod dispatch;
mod endpoint;
mod health;
#[cfg(feature = "redis")]
mod list;
mod maintenance;
mod queue;
#[cfg(feature = "redis")]
mod redis;
mod report;
mod server;
mod slot;
mod state;
#[cfg(feature = "redis")]
mod sync;
#[cfg(test)]
mod tests;
mod tls;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::dispatch::Directory;
pub use self::health::ServerCounts;
pub use self::queue::{ServerAcquired, ServerSelector, ServerTicket, acquire};
pub use self::report::{ServerCondition, ServerState};
pub use self::slot::{ServerConnected, ServerConnecting, ServerLease};
use self::state::DirectorySettings;
pub use self::tls::ServerTls;
use crate::backend::drained::Drained;
use crate::config;
use crate::net::alarm::Alarm;
use crate::net::tls::LoadError;
use crate::stats::{Close, Stats};

/// The servers of a site, in place of backends that dial in.
#[derive(Debug)]
pub struct Servers {
    /// One directory; with Redis one for each host name of the site.
    directories: Vec<(String, Arc<Directory>)>,
    /// How the servers are configured; compared by [`Servers::fit`].
    kind: config::DirectoryConfig,
    /// Whether they speak FastCGI; the same.
    is_fastcgi: bool,
    /// The same: connections with a PROXY header and those without are not mixed.
    send_proxy: Option<config::ProxyVersion>,
    tls: Option<ServerTls>,
    #[cfg(feature = "redis")]
    link: Option<redis::Link>,
}

impl Servers {
    /// The servers of a site; `None` if its backends dial in. `log`: the target of log messages; `alarm`: wakes the
    /// thread that calls [`Servers::tick`].
    ///
    /// # Errors
    /// A file of `server_tls` is wrong.
    pub fn new(
        site: &config::SiteConfig,
        log: &str,
        stats: &Arc<Stats>,
        alarm: &Arc<Alarm>,
    ) -> Result<Option<Self>, LoadError> {
        let tls = site.server_tls.as_ref().map(ServerTls::load).transpose()?;
        let Some(settings) = DirectorySettings::of(site, tls.clone()) else {
            return Ok(None);
        };
        Ok(match &site.directory {
            #[cfg(feature = "redis")]
            Some(config::DirectoryConfig::Redis(redis)) => {
                Some(Self::shared(site, redis, log, &settings, (stats, alarm)))
            }
            Some(kind) => Some(Self {
                directories: vec![(
                    site.name.clone(),
                    Arc::new(Directory::new(&site.name, log, settings, (stats, alarm))),
                )],
                kind: kind.clone(),
                is_fastcgi: site.fastcgi.is_some(),
                send_proxy: site.send_proxy,
                tls,
                #[cfg(feature = "redis")]
                link: None,
            }),
            None => None,
        })
    }

    /// The servers listed in Redis: one directory for each host name of the site.
    #[cfg(feature = "redis")]
    fn shared(
        site: &config::SiteConfig,
        redis: &config::RedisDirectory,
        log: &str,
        settings: &DirectorySettings,
        parts: (&Arc<Stats>, &Arc<Alarm>),
    ) -> Self {
        let syncer_notify = Arc::new(list::Notify::default());
        let directories: Vec<_> = names(site)
            .map(|name| {
                let mut directory = Directory::new(&site.name, log, settings.clone(), parts);
                directory.syncer_notify = Some(Arc::clone(&syncer_notify));
                directory.state.get_mut().list = Some(list::ListState::new());
                (name.to_owned(), Arc::new(directory))
            })
            .collect();
        let link = redis::Link::new(site, log, redis, &directories, syncer_notify);
        Self {
            directories,
            kind: config::DirectoryConfig::Redis(redis.clone()),
            is_fastcgi: false,
            send_proxy: site.send_proxy,
            tls: None,
            link: Some(link),
        }
    }

    /// Whether [`Servers::change`] can switch to the settings of this site.
    pub fn fit(&self, site: &config::SiteConfig) -> bool {
        use config::DirectoryConfig::{Redis, Static};
        let known = self.directories.iter().map(|(name, _)| name.as_str());
        let fits_tls = match (&self.tls, &site.server_tls) {
            (None, None) => true,
            (Some(tls), Some(config)) => tls.fits(config),
            _ => false,
        };
        let fits_fastcgi = self.is_fastcgi == site.fastcgi.is_some();
        if self.send_proxy != site.send_proxy || !fits_tls || !fits_fastcgi {
            return false;
        }
        match (&self.kind, &site.directory) {
            (Static(_), Some(Static(servers))) => !servers.is_empty(),
            (Redis(one), Some(Redis(other))) => one == other && known.eq(names(site)),
            _ => false,
        }
    }

    /// Switches to other settings of the same site.
    pub fn change(&self, site: &config::SiteConfig) {
        self.read_again();
        if let Some(settings) = DirectorySettings::of(site, self.tls.clone()) {
            for (_, directory) in &self.directories {
                directory.change(settings.clone());
            }
        }
    }

    /// Reads the files of `server_tls` again. If they differ, idle connections, which were made by other rules, are closed.
    /// Returns whether that is so.
    pub fn read_again(&self) -> bool {
        let Some(tls) = &self.tls else {
            return false;
        };
        let (_, first) = &self.directories[0];
        let differs = tls.read_again(&first.site, &first.log);
        if differs {
            for (_, directory) in &self.directories {
                directory.close_idle(Close::Removed);
            }
        }
        differs
    }

    /// TLS with the servers, if one of them speaks it.
    pub const fn tls(&self) -> Option<&ServerTls> {
        self.tls.as_ref()
    }

    /// The directory for requests with this host name.
    pub fn of(&self, host: Option<&str>) -> &Arc<Directory> {
        let named = |(name, _): &&(String, _)| host == Some(name.as_str());
        // The first directory also serves requests with names that are not the site's own.
        match self.directories.len() {
            1 => &self.directories[0].1,
            _ => {
                let found = self.directories.iter().find(named);
                &found.unwrap_or(&self.directories[0]).1
            }
        }
    }

    /// Does what is due: closes idle connections that ended or were idle for too long, starts lookups, checks and the
    /// Redis thread, and gives slots to requests that waited for the end of a pause. Never blocks. Returns when
    /// something is due again. Call it then, when the alarm rings, and at least once a second: a connection that becomes
    /// idle does not set the alarm.
    pub fn tick(&self, now: Instant) -> Option<Instant> {
        #[cfg(feature = "redis")]
        let again = self.link.as_ref().is_some_and(redis::Link::start);
        #[cfg(not(feature = "redis"))]
        let again = false;
        let due = self.directories.iter();
        let due: Vec<_> = due
            .filter_map(|(_, directory)| directory.tick(now))
            .collect();
        due.into_iter().chain(again.then(|| now + TRY_AGAIN)).min()
    }

    /// Closes idle connections, and those that become idle later.
    pub fn shut(&self, reason: Close) {
        for (_, directory) in &self.directories {
            directory.close_all(reason);
        }
        #[cfg(feature = "redis")]
        if let Some(link) = &self.link {
            link.stop();
        }
    }

    /// Changes which servers get no requests.
    pub fn set_drained(&self, drained: &Arc<Drained>) {
        for (_, directory) in &self.directories {
            directory.set_drained(drained);
        }
    }

    /// Removes all waiting requests from the queues, to ask again.
    pub fn recall(&self) {
        for (_, directory) in &self.directories {
            directory.recall();
        }
    }

    /// The servers now.
    pub fn list(&self) -> Vec<ServerState> {
        let directories = self.directories.iter();
        directories
            .flat_map(|(_, directory)| directory.list())
            .collect()
    }

    /// Whether the servers stand in the configuration.
    pub const fn are_fixed(&self) -> bool {
        matches!(self.kind, config::DirectoryConfig::Static(_))
    }

    /// Whether there is a server at this address, written as in logs.
    pub fn has(&self, name: &str) -> bool {
        let mut directories = self.directories.iter();
        directories.any(|(_, directory)| directory.has(name))
    }

    /// The number of idle connections.
    pub fn idle(&self) -> usize {
        let each = self.directories.iter();
        each.map(|(_, directory)| directory.idle()).sum()
    }
}

/// The names of a site's lists: its host names, or its name in logs if it has none.
fn names(site: &config::SiteConfig) -> impl Iterator<Item = &str> {
    let own = site.incoming.iter().map(String::as_str);
    let none = site.incoming.is_empty().then_some(site.name.as_str());
    own.chain(none)
}

/// How soon to try again when no thread for Redis could be started.
const TRY_AGAIN: Duration = Duration::from_secs(1);
