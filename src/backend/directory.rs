//! Servers that do not dial in but are connected to (`proxy: traditional`), and the requests that wait for them.
//!
//! A [`Directory`] has the servers of a site, each with so many *seats*: requests that it may have at once. A request
//! takes a seat at the server with the fewest that are taken, servers that are equal in turn, and with it a connection
//! that was kept after an earlier exchange, or else a new one. Where all seats are taken, requests wait, first come first
//! served, as they do at a [`pool`](super::pool): the thread that frees a seat puts it into the slot of the first request
//! in line.
//!
//! A server that cannot be connected to, or fails several times in a row, is *set aside* for a moment that doubles each
//! time; then one request tries it. Requests that have not been sent yet go to another server, or wait.
//!
//! Called by workers ([`acquire`], [`ServerTicket`], [`ServerConnecting`], [`ServerLease`]), none of which waits but in [`ServerTicket::wait`], and
//! by the tick thread ([`Servers::tick`]), which never waits: names are looked up and servers checked by threads of their
//! own, one at a time for each server, which end by themselves. The [`Alarm`] brings the tick thread when a pause ends.
//!
//! In reading order: [`queue`] is how a request gets its turn, [`choose`] which server it goes to, [`slot`] its place there
//! with a connection, [`health`] what is learnt from how it ends, [`maintenance`] what is done for servers beside requests,
//! [`endpoint`] where a server is and how it is reached, [`redis`] the list in Redis.
//!
//! **Invariants**
//! - A [`slot::ConnectionSlot`] is one of `taken` of its server for as long as it lives; dropping it frees it. A kept
//!   connection belongs to its server, to a seat or to a lease.
//! - No request waits while a seat is free, but for the moment between the end of a pause and the tick; and none takes a
//!   seat while one that arrived earlier waits.
//! - While requests wait for the end of a pause, the alarm is set to it.
//! - The state's lock is a leaf; connections are looked at, made and closed without it.

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
mod server;
mod slot;
mod state;
#[cfg(feature = "redis")]
mod sync;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::dispatch::Directory;
pub use self::queue::{ServerAcquired, ServerSelector, ServerTicket, acquire};
pub use self::slot::{ServerConnected, ServerConnecting, ServerLease};
use self::state::DirectorySettings;
use crate::config;
use crate::net::alarm::Alarm;
use crate::stats::{Close, Stats};

/// What a site has in place of backends that dial in.
#[derive(Debug)]
pub struct Servers {
    /// One; where Redis has the lists, one for each name of the site.
    directories: Vec<(String, Arc<Directory>)>,
    /// What else [`Servers::fit`] depends on.
    kind: config::DirectoryConfig,
    #[cfg(feature = "redis")]
    link: Option<redis::Link>,
}

impl Servers {
    /// Those of a site, if it has any. `log`: the target of its log lines; `alarm`: brings the thread that calls
    /// [`Servers::tick`].
    ///
    /// # Errors
    /// What is wrong with the address of a Redis server.
    pub fn new(
        site: &config::SiteConfig,
        log: &str,
        stats: &Arc<Stats>,
        alarm: &Arc<Alarm>,
    ) -> io::Result<Option<Self>> {
        let Some(settings) = DirectorySettings::of(site) else {
            return Ok(None);
        };
        match &site.directory {
            #[cfg(feature = "redis")]
            Some(config::DirectoryConfig::Redis(redis)) => {
                Self::shared(site, redis, log, &settings, (stats, alarm)).map(Some)
            }
            Some(kind) => Ok(Some(Self {
                directories: vec![(
                    site.name.clone(),
                    Arc::new(Directory::new(&site.name, log, settings, (stats, alarm))),
                )],
                kind: kind.clone(),
                #[cfg(feature = "redis")]
                link: None,
            })),
            None => Ok(None),
        }
    }

    /// Those of lists in Redis, one for each name of the site.
    #[cfg(feature = "redis")]
    fn shared(
        site: &config::SiteConfig,
        redis: &config::Redis,
        log: &str,
        settings: &DirectorySettings,
        parts: (&Arc<Stats>, &Arc<Alarm>),
    ) -> io::Result<Self> {
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
        Ok(Self {
            directories,
            kind: config::DirectoryConfig::Redis(redis.clone()),
            link: Some(link.map_err(io::Error::other)?),
        })
    }

    /// Whether [`Servers::change`] can go over to the settings of this site.
    pub fn fit(&self, site: &config::SiteConfig) -> bool {
        use config::DirectoryConfig::{Redis, Static};
        let known = self.directories.iter().map(|(name, _)| name.as_str());
        match (&self.kind, &site.directory) {
            (Static(_), Some(Static(servers))) => !servers.is_empty(),
            (Redis(one), Some(Redis(other))) => one == other && known.eq(names(site)),
            _ => false,
        }
    }

    /// Goes over to other settings of the same site.
    pub fn change(&self, site: &config::SiteConfig) {
        if let Some(settings) = DirectorySettings::of(site) {
            for (_, directory) in &self.directories {
                directory.change(settings.clone());
            }
        }
    }

    /// Those for requests with this host name.
    pub fn of(&self, host: Option<&str>) -> &Arc<Directory> {
        let named = |(name, _): &&(String, _)| host == Some(name.as_str());
        // A site has a name, and its first one stands for those that are not its own.
        match self.directories.len() {
            1 => &self.directories[0].1,
            _ => {
                let found = self.directories.iter().find(named);
                &found.unwrap_or(&self.directories[0]).1
            }
        }
    }

    /// Does what is due: closes connections that have ended or were idle for too long, has names looked up, servers
    /// checked and Redis asked, and gives seats to requests that waited for the end of a pause. Never waits. Returns when
    /// something is due again. To be called then, when the alarm rings, and at least once a second, since connections that
    /// become idle meanwhile do not set the alarm.
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

    /// Closes what is idle and keeps nothing that comes later.
    pub fn shut(&self, reason: Close) {
        for (_, directory) in &self.directories {
            directory.close_all(reason);
        }
        #[cfg(feature = "redis")]
        if let Some(link) = &self.link {
            link.stop();
        }
    }

    /// How many connections are idle now.
    pub fn idle(&self) -> usize {
        let each = self.directories.iter();
        each.map(|(_, directory)| directory.idle()).sum()
    }
}

/// The names of a site's lists: its own, or what stands for it in logs.
fn names(site: &config::SiteConfig) -> impl Iterator<Item = &str> {
    let own = site.incoming.iter().map(String::as_str);
    let none = site.incoming.is_empty().then_some(site.name.as_str());
    own.chain(none)
}

/// When the system gave no thread for Redis, it is asked again after so long.
const TRY_AGAIN: Duration = Duration::from_secs(1);
