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
//! with a connection, [`health`] what is learnt from how it ends, [`tend`] what is done for servers beside requests,
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
mod endpoint;
mod health;
mod queue;
#[cfg(feature = "redis")]
mod redis;
mod slot;
mod tend;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, mem};

use parking_lot::Mutex;

use self::endpoint::Endpoint;
use self::health::Health;
pub use self::queue::{ServerAcquired, ServerTicket, acquire};
use self::slot::{ConnectionSlot, IdleConnection};
pub use self::slot::{ServerConnected, ServerConnecting, ServerLease};
use super::lease::Shortage;
use super::queue::Queue;
use super::waiting::WaitingCount;
use crate::config::{self, Address};
use crate::net::alarm::Alarm;
use crate::net::conn::Conn;
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

/// The servers of a site, and the requests that wait for them.
#[derive(Debug)]
pub struct Directory {
    /// The site, for logs.
    site: String,
    /// Target of log lines.
    log: String,
    stats: Arc<Stats>,
    /// Brings the tick thread.
    alarm: Arc<Alarm>,
    state: Mutex<DirectoryState>,
    /// Where Redis has the list.
    #[cfg(feature = "redis")]
    bell: Option<Arc<redis::Notify>>,
}

/// What a directory has of its site's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DirectorySettings {
    /// Where the servers are.
    servers: Vec<Address>,
    /// Seats of each.
    seats: usize,
    /// For a connection to be made.
    connect: Duration,
    /// How long an idle connection is kept.
    idle: Duration,
    /// Active checks, and the Host that they ask for.
    check: Option<config::CheckConfig>,
    host: String,
}

/// From which directory a request is served.
#[derive(Clone, Debug)]
pub struct ServerSelector<'a> {
    /// The directory.
    pub directory: &'a Arc<Directory>,
    /// The count of requests that wait, which has a limit.
    pub waiting: &'a Arc<WaitingCount>,
}

#[derive(Debug)]
struct DirectoryState {
    settings: DirectorySettings,
    servers: Vec<ServerEntry>,
    /// Requests that wait, and whether they must not be sent a second time.
    waiting: Queue<ConnectionSlot, bool>,
    /// Which of several equal servers is next.
    turn: usize,
    /// Nothing may be kept any more, for this reason.
    closed: Option<Close>,
    #[cfg(feature = "redis")]
    shelf: Option<redis::ListState>,
}

#[derive(Debug)]
struct ServerEntry {
    endpoint: Arc<Endpoint>,
    /// Requests that it may have at once, and that it has.
    seats: usize,
    taken: usize,
    /// The one that became idle last is at the end.
    kept: VecDeque<IdleConnection>,
    health: Health,
    /// Exchanges that failed since one that did not.
    failures: u32,
    /// Checks that failed since one that did not.
    bad_checks: u32,
    /// When its name is looked up again; `None`: that is under way, or there is no name.
    lookup: Option<Instant>,
    /// The log has it that its name is not found.
    told: bool,
    /// When it is checked again, if there are checks; `None`: that is under way.
    check: Option<Instant>,
    /// The configuration has no place for it any more.
    gone: bool,
    #[cfg(feature = "redis")]
    stock: redis::Element,
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
        let bell = Arc::new(redis::Notify::default());
        let directories: Vec<_> = names(site)
            .map(|name| {
                let mut directory = Directory::new(&site.name, log, settings.clone(), parts);
                directory.bell = Some(Arc::clone(&bell));
                directory.state.get_mut().shelf = Some(redis::ListState::new());
                (name.to_owned(), Arc::new(directory))
            })
            .collect();
        let link = redis::Link::new(site, log, redis, &directories, bell);
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
            directory.shut(reason);
        }
        #[cfg(feature = "redis")]
        if let Some(link) = &self.link {
            link.leave();
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

impl DirectorySettings {
    fn of(site: &config::SiteConfig) -> Option<Self> {
        let (servers, seats) = match &site.directory {
            Some(config::DirectoryConfig::Static(servers)) if !servers.is_empty() => {
                (servers.clone(), site.server_connections)
            }
            Some(config::DirectoryConfig::Redis(_)) => (Vec::new(), 0),
            _ => return None,
        };
        Some(Self {
            servers,
            seats,
            connect: site.timeouts.connect,
            idle: site.timeouts.idle,
            check: site.check.clone(),
            host: site.name.clone(),
        })
    }
}

impl Directory {
    fn new(
        site: &str,
        log: &str,
        settings: DirectorySettings,
        (stats, alarm): (&Arc<Stats>, &Arc<Alarm>),
    ) -> Self {
        let now = Instant::now();
        let servers = settings.servers.iter();
        let servers = servers.map(|address| ServerEntry::new(address, settings.seats, now));
        Self {
            site: site.to_owned(),
            log: log.to_owned(),
            stats: Arc::clone(stats),
            alarm: Arc::clone(alarm),
            state: Mutex::new(DirectoryState {
                servers: servers.collect(),
                settings,
                waiting: Queue::default(),
                turn: 0,
                closed: None,
                #[cfg(feature = "redis")]
                shelf: None,
            }),
            #[cfg(feature = "redis")]
            bell: None,
        }
    }

    /// Goes over to other settings. Servers that stay keep their connections and what is known of them; exchanges with
    /// those that go come to their end.
    fn change(self: &Arc<Self>, settings: DirectorySettings) {
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
    fn shut(&self, reason: Close) {
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

    fn idle(&self) -> usize {
        let state = self.state.lock();
        state.servers.iter().map(|server| server.kept.len()).sum()
    }

    /// Why no server has a free seat.
    pub(super) fn shortage(&self) -> Shortage {
        let state = self.state.lock();
        let (all, down) = state.count();
        #[cfg(feature = "redis")]
        let is_unlisted = state.shelf.as_ref().is_some_and(redis::ListState::is_away);
        #[cfg(not(feature = "redis"))]
        let is_unlisted = false;
        Shortage::Servers {
            all,
            down,
            is_unlisted,
        }
    }

    fn close(&self, conn: Conn, reason: Close) {
        drop(conn);
        self.stats.backend_closed(reason);
    }
}

impl DirectoryState {
    /// Goes over to other settings. Returns the idle connections to servers that are gone.
    fn change(&mut self, settings: DirectorySettings, now: Instant) -> Vec<IdleConnection> {
        let mut old = match settings.servers.is_empty() {
            // Those of Redis stay.
            true => Vec::new(),
            false => mem::take(&mut self.servers),
        };
        for address in &settings.servers {
            let known = |server: &ServerEntry| server.endpoint.address == *address;
            let mut server = match old.iter().position(known) {
                Some(position) => old.swap_remove(position),
                None => ServerEntry::new(address, settings.seats, now),
            };
            server.seats = settings.seats;
            // It may have been on its way out.
            server.gone = false;
            self.servers.push(server);
        }
        for server in &mut self.servers {
            // One that is under way says itself when the next one is.
            if let Some(due) = &mut server.check {
                *due = now;
            }
            if settings.check.is_none() && server.health == Health::Down {
                server.health = Health::Up;
            }
        }
        let mut gone = Vec::new();
        for mut server in old {
            gone.extend(mem::take(&mut server.kept));
            server.seats = 0;
            server.gone = true;
            if server.taken > 0 {
                self.servers.push(server);
            }
        }
        self.settings = settings;
        gone
    }

    /// How many servers there are, and how many of them get no requests or only one, to see whether they are up again.
    fn count(&self) -> (usize, usize) {
        let servers = || self.servers.iter().filter(|server| !server.gone);
        #[cfg(feature = "redis")]
        let servers = || {
            let redis = self.shelf.is_some();
            servers().filter(move |server| !redis || server.stock.is_listed())
        };
        let down = servers().filter(|server| server.health != Health::Up);
        (servers().count(), down.count())
    }

    fn position(&self, endpoint: &Arc<Endpoint>) -> Option<usize> {
        let mut servers = self.servers.iter();
        servers.position(|server| Arc::ptr_eq(&server.endpoint, endpoint))
    }

    /// A server that is still there.
    fn server(&mut self, endpoint: &Arc<Endpoint>) -> Option<&mut ServerEntry> {
        let index = self.position(endpoint)?;
        Some(&mut self.servers[index])
    }

    /// Why no connection to a server is kept any more, if that is so.
    fn over(&self, endpoint: &Arc<Endpoint>) -> Option<Close> {
        let gone = |index: usize| self.servers[index].gone;
        let removed = self.position(endpoint).is_none_or(gone);
        self.closed.or(removed.then_some(Close::Removed))
    }
}

impl ServerEntry {
    fn new(address: &Address, seats: usize, now: Instant) -> Self {
        let endpoint = Endpoint::new(address);
        let known = endpoint.is_known();
        Self {
            health: match known {
                true => Health::Up,
                false => Health::Unknown,
            },
            lookup: match known {
                true => None,
                false => Some(now),
            },
            endpoint: Arc::new(endpoint),
            seats,
            taken: 0,
            kept: VecDeque::new(),
            failures: 0,
            bad_checks: 0,
            told: false,
            check: Some(now),
            gone: false,
            #[cfg(feature = "redis")]
            stock: redis::Element::default(),
        }
    }
}

/// When the system gave no thread for Redis, it is asked again after so long.
const TRY_AGAIN: Duration = Duration::from_secs(1);
