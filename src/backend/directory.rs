//! Servers that do not dial in but are connected to (`proxy: traditional`), and the requests that wait for them.
//!
//! A [`Directory`] has the servers of a site, each with so many *seats*: requests that it may have at once. A request
//! takes a seat at the server with the fewest that are taken, servers that are equal in turn, and with it a connection
//! that was kept after an earlier exchange, or else a new one. Where all seats are taken, requests wait, first come first
//! served, as they do at a [`pool`](super::pool): who frees a seat puts it into the oldest waiter's slot.
//!
//! A server that cannot be connected to, or fails several times in a row, is *set aside* for a moment that doubles each
//! time; then one request tries it. Requests that have not been sent yet go to another server, or wait.
//!
//! Called by workers ([`lease`], [`Lease`]) and by the tick ([`Servers::tick`]), which never waits: names are looked up
//! and servers checked by threads of their own, one at a time for each server, which end by themselves.
//!
//! **Invariants**
//! - A [`Seat`] is one of `taken` of its server for as long as it lives; dropping it frees it. A kept connection belongs to
//!   its server, or to a lease.
//! - Nobody waits while there is a free seat, but for the moment after a pause has ended, which waiters look at
//!   themselves.
//! - The state's lock is a leaf; connections are looked at, made and closed without it.

mod place;
#[cfg(feature = "redis")]
mod shared;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use std::{collections::VecDeque, fmt, mem};

use parking_lot::Mutex;

use self::place::{Place, ask};
use super::lease::Missed;
use super::pool::{LOOK_AT_CLIENT, Waiting};
use super::slot::Slot;
use crate::config::{self, Address};
use crate::net::conn::Conn;
use crate::net::listener;
use crate::net::stream::Pending;
use crate::stats::{self, Close, Stats};

/// What a site has in place of backends that dial in.
#[derive(Debug)]
pub struct Servers {
    /// One; where Redis has the lists, one for each name of the site.
    directories: Vec<(String, Arc<Directory>)>,
    /// What else [`Servers::fit`] depends on.
    kind: config::Directory,
    #[cfg(feature = "redis")]
    link: Option<shared::Link>,
}

/// The servers of a site, and the requests that wait for them.
#[derive(Debug)]
pub struct Directory {
    /// The site, for logs.
    site: String,
    /// Target of log lines.
    log: String,
    stats: Arc<Stats>,
    state: Mutex<State>,
    /// Where Redis has the list.
    #[cfg(feature = "redis")]
    bell: Option<Arc<shared::Bell>>,
}

/// What a directory has of its site's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Settings {
    /// Where the servers are.
    servers: Vec<Address>,
    /// Seats of each.
    seats: usize,
    /// For a connection to be made.
    connect: Duration,
    /// How long an idle connection is kept.
    idle: Duration,
    /// Active checks, and the Host that they ask for.
    check: Option<config::Check>,
    host: String,
}

/// From which directory a request is served.
#[derive(Clone, Debug)]
pub struct Want<'a> {
    /// The directory.
    pub directory: &'a Arc<Directory>,
    /// The count of requests that wait, which has a limit.
    pub waiting: &'a Arc<Waiting>,
}

/// A server for the time of one exchange, with a connection to it.
#[derive(Debug)]
pub struct Lease {
    seat: Seat,
    conn: Option<Conn>,
    /// The connection had an exchange before.
    kept: bool,
}

/// The right to have one request at a server.
struct Seat {
    directory: Arc<Directory>,
    place: Arc<Place>,
    /// A connection that was idle. It may have ended meanwhile.
    kept: Option<Kept>,
    /// What became of the request, for the server's health.
    outcome: Outcome,
    /// It is not taken any more.
    is_free: bool,
}

/// An idle connection.
#[derive(Debug)]
struct Kept {
    conn: Conn,
    since: Instant,
}

#[derive(Debug)]
struct State {
    settings: Settings,
    servers: Vec<Server>,
    /// The one that waits longest is in front.
    waiting: VecDeque<Waiter>,
    /// Which of several equal servers is next.
    turn: usize,
    /// Nothing may be kept any more.
    closed: bool,
    #[cfg(feature = "redis")]
    shelf: Option<shared::Shelf>,
}

#[derive(Debug)]
struct Server {
    place: Arc<Place>,
    /// Requests that it may have at once, and that it has.
    seats: usize,
    taken: usize,
    /// The one that became idle last is at the end.
    kept: Vec<Kept>,
    health: Health,
    /// Exchanges that failed since one that did not.
    failures: u32,
    /// Checks that failed since one that did not.
    bad_checks: u32,
    /// When its name is looked up again, and when it is checked again; `None`: that is under way, or never done.
    lookup: Option<Instant>,
    check: Option<Instant>,
    /// The configuration has no place for it any more.
    gone: bool,
    #[cfg(feature = "redis")]
    stock: shared::Stock,
}

/// Whether requests are sent to a server.
#[derive(Debug, PartialEq, Eq)]
enum Health {
    Up,
    /// Not before `until`, and then one, `trial`, to see.
    Aside {
        until: Instant,
        pause: Duration,
        trial: bool,
    },
    /// Not until a check succeeds.
    Down,
    /// Not until its name was found.
    Unknown,
}

/// What a request tells about its server.
#[derive(Debug)]
enum Outcome {
    /// Nothing.
    Nothing,
    /// It works.
    Good,
    /// It failed, in a way that may be the request's fault.
    Failed,
    /// It could not be reached.
    Unreachable(io::Error),
}

#[derive(Debug)]
struct Waiter {
    slot: Arc<Slot<Seat>>,
    once: bool,
}

/// A change of a server's health, to be told without the lock.
enum Change {
    None,
    Aside,
    Back,
}

impl Servers {
    /// Those of a site, if it has any. `log`: the target of its log lines.
    ///
    /// # Errors
    /// What is wrong with the address of a Redis server.
    pub fn new(site: &config::Site, log: &str, stats: &Arc<Stats>) -> io::Result<Option<Self>> {
        let Some(settings) = Settings::of(site) else {
            return Ok(None);
        };
        match &site.directory {
            #[cfg(feature = "redis")]
            Some(config::Directory::Redis(redis)) => {
                Self::shared(site, redis, log, &settings, stats).map(Some)
            }
            Some(kind) => Ok(Some(Self {
                directories: vec![(
                    site.name.clone(),
                    Arc::new(Directory::new(&site.name, log, settings, stats)),
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
        site: &config::Site,
        redis: &config::Redis,
        log: &str,
        settings: &Settings,
        stats: &Arc<Stats>,
    ) -> io::Result<Self> {
        let bell = Arc::new(shared::Bell::default());
        let directories: Vec<_> = names(site)
            .map(|name| {
                let mut directory = Directory::new(&site.name, log, settings.clone(), stats);
                directory.bell = Some(Arc::clone(&bell));
                directory.state.get_mut().shelf = Some(shared::Shelf::new());
                (name.to_owned(), Arc::new(directory))
            })
            .collect();
        let link = shared::Link::new(site, log, redis, &directories, bell);
        Ok(Self {
            directories,
            kind: config::Directory::Redis(redis.clone()),
            link: Some(link.map_err(io::Error::other)?),
        })
    }

    /// Whether [`Servers::change`] can go over to the settings of this site.
    pub fn fit(&self, site: &config::Site) -> bool {
        use config::Directory::{Redis, Static};
        let known = self.directories.iter().map(|(name, _)| name.as_str());
        match (&self.kind, &site.directory) {
            (Static(_), Some(Static(servers))) => !servers.is_empty(),
            (Redis(one), Some(Redis(other))) => one == other && known.eq(names(site)),
            _ => false,
        }
    }

    /// Goes over to other settings of the same site.
    pub fn change(&self, site: &config::Site) {
        if let Some(settings) = Settings::of(site) {
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

    /// Does what is due: closes connections that have ended or were idle for too long, and has names looked up, servers
    /// checked and Redis asked. Never waits.
    pub fn tick(&self, now: Instant) {
        #[cfg(feature = "redis")]
        if let Some(link) = &self.link {
            link.start();
        }
        for (_, directory) in &self.directories {
            directory.tick(now);
        }
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
fn names(site: &config::Site) -> impl Iterator<Item = &str> {
    let own = site.incoming.iter().map(String::as_str);
    let none = site.incoming.is_empty().then_some(site.name.as_str());
    own.chain(none)
}

impl Settings {
    fn of(site: &config::Site) -> Option<Self> {
        let (servers, seats) = match &site.directory {
            Some(config::Directory::Static(servers)) if !servers.is_empty() => {
                (servers.clone(), site.server_connections)
            }
            Some(config::Directory::Redis(_)) => (Vec::new(), 0),
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
    fn new(site: &str, log: &str, settings: Settings, stats: &Arc<Stats>) -> Self {
        let now = Instant::now();
        let servers = settings.servers.iter();
        let servers = servers.map(|address| Server::new(address, settings.seats, now));
        Self {
            site: site.to_owned(),
            log: log.to_owned(),
            stats: Arc::clone(stats),
            state: Mutex::new(State {
                servers: servers.collect(),
                settings,
                waiting: VecDeque::new(),
                turn: 0,
                closed: false,
                #[cfg(feature = "redis")]
                shelf: None,
            }),
            #[cfg(feature = "redis")]
            bell: None,
        }
    }

    /// Goes over to other settings. Servers that stay keep their connections and what is known of them; exchanges with
    /// those that go come to their end.
    fn change(self: &Arc<Self>, settings: Settings) {
        let now = Instant::now();
        let mut gone = Vec::new();
        {
            let mut state = self.state.lock();
            if state.settings == settings {
                return;
            }
            let listed = !settings.servers.is_empty();
            let mut old = match listed {
                true => mem::take(&mut state.servers),
                // Those of Redis stay.
                false => Vec::new(),
            };
            for address in &settings.servers {
                let known = old
                    .iter()
                    .position(|server| server.place.address == *address);
                let mut server = match known {
                    Some(position) => old.swap_remove(position),
                    None => Server::new(address, settings.seats, now),
                };
                server.seats = settings.seats;
                state.servers.push(server);
            }
            for server in &mut state.servers {
                server.check = Some(now);
                if settings.check.is_none() && server.health == Health::Down {
                    server.health = Health::Up;
                }
            }
            for mut server in old {
                gone.append(&mut server.kept);
                server.seats = 0;
                server.gone = true;
                if server.taken > 0 {
                    state.servers.push(server);
                }
            }
            state.settings = settings;
        }
        for kept in gone {
            self.close(kept.conn, Close::Removed);
        }
        self.deal();
    }

    /// Closes what is idle and keeps nothing that comes later.
    fn shut(&self, reason: Close) {
        let kept: Vec<_> = {
            let mut state = self.state.lock();
            state.closed = true;
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

    /// Does what is due: closes connections that have ended or were idle for too long, and has names looked up and servers
    /// checked. Never waits.
    fn tick(self: &Arc<Self>, now: Instant) {
        let mut old = Vec::new();
        let mut lookups = Vec::new();
        let mut checks = Vec::new();
        let idle = {
            let mut state = self.state.lock();
            let State {
                settings, servers, ..
            } = &mut *state;
            for server in servers {
                let place = || Arc::clone(&server.place);
                let some = server.kept.partition_point(|kept| kept.since + REST <= now);
                if some > 0 {
                    old.push((place(), server.kept.drain(..some).collect::<Vec<_>>()));
                }
                if server.lookup.take_if(|due| *due <= now).is_some() {
                    lookups.push(place());
                }
                if let Some(check) = &settings.check
                    && server.health != Health::Unknown
                    && server.check.take_if(|due| *due <= now).is_some()
                {
                    checks.push((place(), check.clone(), settings.host.clone()));
                }
            }
            settings.idle
        };
        for (place, kept) in old {
            self.look_after(&place, kept, now, idle);
        }
        for place in lookups {
            let directory = Arc::clone(self);
            start("lookup", move || {
                let found = place.look_up();
                directory.looked_up(&place, found);
            });
        }
        for (place, check, host) in checks {
            let directory = Arc::clone(self);
            start("check", move || {
                let result = ask(&place, &check, &host);
                directory.checked(&place, result, check.interval);
            });
        }
    }

    /// Closes those of a server's idle connections that are over, and gives it the others back.
    fn look_after(
        self: &Arc<Self>,
        place: &Arc<Place>,
        kept: Vec<Kept>,
        now: Instant,
        idle: Duration,
    ) {
        let mut good = Vec::new();
        for kept in kept {
            match kept.fault() {
                None if now.saturating_duration_since(kept.since) < idle => good.push(kept),
                None => self.close(kept.conn, Close::Idle),
                Some(reason) => self.close(kept.conn, reason),
            }
        }
        let mut state = self.state.lock();
        if let Some(server) = state.server(place) {
            // They are older than whatever came back meanwhile.
            server.kept.splice(..0, good);
        }
    }

    /// A name was looked up.
    fn looked_up(self: &Arc<Self>, place: &Arc<Place>, found: io::Result<Vec<SocketAddr>>) {
        let now = Instant::now();
        let old = match &found {
            Ok(addresses) => place.set(addresses),
            Err(_) => Vec::new(),
        };
        let moved = found.is_ok() && !old.is_empty();
        let (kept, first) = {
            let mut state = self.state.lock();
            let Some(server) = state.server(place) else {
                return;
            };
            let first = server.health == Health::Unknown;
            let again = match found {
                Ok(_) => LOOK_UP_AGAIN,
                Err(_) if first => LOOK_UP_SOON,
                Err(_) => LOOK_UP_AGAIN,
            };
            server.lookup = Some(now + again);
            if found.is_ok() && first {
                server.health = Health::Up;
            }
            match moved {
                true => (mem::take(&mut server.kept), first),
                false => (Vec::new(), first),
            }
        };
        for kept in kept {
            self.close(kept.conn, Close::Removed);
        }
        let (site, name) = (&self.site, &place.name);
        match found {
            Err(error) if first => log::warn!(
                target: &self.log,
                "site {site}: server {name}: the name is not found: {}; requests wait", listener::reason(&error)
            ),
            Err(error) => log::debug!(
                target: &self.log,
                "site {site}: server {name}: the name is not found: {}; the known addresses are used",
                listener::reason(&error)
            ),
            Ok(addresses) if moved || first => log::info!(
                target: &self.log,
                "site {site}: server {name} is at {}", List(&addresses)
            ),
            Ok(_) => {}
        }
        self.deal();
    }

    /// A server was checked.
    fn checked(
        self: &Arc<Self>,
        place: &Arc<Place>,
        result: Result<(), String>,
        interval: Duration,
    ) {
        let (up, down) = {
            let mut state = self.state.lock();
            let Some(server) = state.server(place) else {
                return;
            };
            server.check = Some(Instant::now() + interval);
            let down = server.health == Health::Down;
            match &result {
                Ok(()) => {
                    server.bad_checks = 0;
                    let up = down || matches!(server.health, Health::Aside { trial: false, .. });
                    if up {
                        server.health = Health::Up;
                        server.failures = 0;
                    }
                    (up, false)
                }
                Err(_) => {
                    server.bad_checks += 1;
                    let down = !down && server.bad_checks >= BAD_CHECKS;
                    if down {
                        server.health = Health::Down;
                    }
                    (false, down)
                }
            }
        };
        let (site, name) = (&self.site, &place.name);
        match result {
            Err(why) if down => log::warn!(
                target: &self.log,
                "site {site}: server {name} is down: {why}"
            ),
            Err(why) => log::debug!(target: &self.log, "site {site}: server {name}: {why}"),
            Ok(()) if up => log::info!(target: &self.log, "site {site}: server {name} is back"),
            Ok(()) => {}
        }
        if up {
            self.deal();
        }
    }

    /// A seat, unless others wait for one. `turn`: it is this request's turn, whoever else waits.
    fn seat_now(self: &Arc<Self>, once: bool, turn: bool) -> Option<Seat> {
        if !turn && !self.state.lock().waiting.is_empty() {
            // A pause may have ended since, and then those are first.
            self.deal();
        }
        let mut state = self.state.lock();
        match turn || state.waiting.is_empty() {
            true => state.take(self, once),
            false => None,
        }
    }

    /// Gives free seats to those that wait.
    fn deal(self: &Arc<Self>) {
        loop {
            let (waiter, seat) = {
                let mut state = self.state.lock();
                let Some(once) = state.waiting.front().map(|waiter| waiter.once) else {
                    return;
                };
                let Some(seat) = state.take(self, once) else {
                    return;
                };
                let Some(waiter) = state.waiting.pop_front() else {
                    return;
                };
                (waiter, seat)
            };
            if let Some(seat) = waiter.slot.fill(seat) {
                // It has given up meanwhile; the next one is served in the next round.
                seat.leave();
            }
        }
    }

    fn close(&self, conn: Conn, reason: Close) {
        drop(conn);
        self.stats.backend_closed(reason);
    }

    /// Frees a seat. Returns whether anybody may be waiting for it.
    fn free(&self, place: &Arc<Place>, kept: Option<Kept>, outcome: &Outcome) -> bool {
        let (change, over, waits) = {
            let mut state = self.state.lock();
            let closed = state.closed;
            // Without another server nothing would be won, and what is wrong may be the requests.
            let enough = match outcome {
                Outcome::Failed => state.others(place),
                _ => true,
            };
            let waits = !state.waiting.is_empty();
            let Some(index) = state.position(place) else {
                return waits;
            };
            let server = &mut state.servers[index];
            server.taken -= 1;
            let change = server.judge(outcome, enough);
            let over = match kept {
                Some(kept) if !closed && !server.gone => {
                    server.kept.push(kept);
                    None
                }
                kept => kept,
            };
            if server.gone && server.taken == 0 {
                state.servers.remove(index);
            } else {
                #[cfg(feature = "redis")]
                state.share(index);
            }
            (change, over, waits)
        };
        if let Some(kept) = over {
            self.close(kept.conn, Close::Removed);
        }
        let (site, name) = (&self.site, &place.name);
        match change {
            Change::None => {}
            Change::Aside => log::warn!(
                target: &self.log,
                "site {site}: server {name} is set aside: {outcome}"
            ),
            Change::Back => log::info!(target: &self.log, "site {site}: server {name} is back"),
        }
        waits
    }

    /// Waits for a seat.
    fn wait(
        self: &Arc<Self>,
        once: bool,
        turn: bool,
        deadline: Instant,
        gone: &mut dyn FnMut() -> bool,
    ) -> Result<Seat, Missed> {
        let slot = Arc::new(Slot::new());
        {
            let mut state = self.state.lock();
            if (turn || state.waiting.is_empty())
                && let Some(seat) = state.take(self, once)
            {
                return Ok(seat);
            }
            let waiter = Waiter {
                slot: Arc::clone(&slot),
                once,
            };
            // Who has had its turn goes on in front.
            match turn {
                true => state.waiting.push_front(waiter),
                false => state.waiting.push_back(waiter),
            }
        }
        #[cfg(feature = "redis")]
        self.ring();
        let mut missed = Missed::TimedOut;
        let got = loop {
            let now = Instant::now();
            let until = deadline.min(self.next_look(now));
            let got = slot.wait(until);
            if got.is_some() || until == deadline {
                break got;
            }
            if gone() {
                missed = Missed::ClientGone;
                break None;
            }
            self.deal();
        };
        let got = got.or_else(|| slot.close());
        let mut state = self.state.lock();
        let others = |waiter: &Waiter| !Arc::ptr_eq(&waiter.slot, &slot);
        state.waiting.retain(others);
        drop(state);
        got.ok_or(missed)
    }

    /// When somebody who waits has to look again: at its visitor, or since a pause is over.
    fn next_look(&self, now: Instant) -> Instant {
        let state = self.state.lock();
        let pauses = state
            .servers
            .iter()
            .filter_map(|server| match server.health {
                Health::Aside {
                    until,
                    trial: false,
                    ..
                } if server.taken < server.seats => Some(until),
                _ => None,
            });
        let next = pauses.min().unwrap_or(now + LOOK_AT_CLIENT);
        next.clamp(now + SHORTEST_LOOK, now + LOOK_AT_CLIENT)
    }
}

impl State {
    fn position(&self, place: &Arc<Place>) -> Option<usize> {
        let mut servers = self.servers.iter();
        servers.position(|server| Arc::ptr_eq(&server.place, place))
    }

    /// A server that is still there.
    fn server(&mut self, place: &Arc<Place>) -> Option<&mut Server> {
        let index = self.position(place)?;
        Some(&mut self.servers[index])
    }

    /// Whether requests can go to another server than this one.
    fn others(&self, place: &Arc<Place>) -> bool {
        let other = |server: &Server| !Arc::ptr_eq(&server.place, place);
        self.servers
            .iter()
            .any(|server| other(server) && !server.gone && server.health == Health::Up)
    }

    /// Takes a seat at the server with the fewest requests, and the connection that became idle last.
    fn take(&mut self, directory: &Arc<Directory>, once: bool) -> Option<Seat> {
        let count = self.servers.len();
        let mut best: Option<(usize, usize)> = None;
        let mut now = None;
        for step in 0..count {
            let index = (self.turn + step) % count;
            let server = &self.servers[index];
            if server.taken < server.seats
                && best.is_none_or(|(_, taken)| server.taken < taken)
                && server.is_open(&mut now)
            {
                best = Some((index, server.taken));
            }
        }
        let (index, _) = best?;
        self.turn = (index + 1) % count;
        let server = &mut self.servers[index];
        server.taken += 1;
        if let Health::Aside { trial, .. } = &mut server.health {
            *trial = true;
        }
        let fresh = |kept: &mut Kept| !once || kept.since.elapsed() < DOUBTFUL;
        Some(Seat {
            directory: Arc::clone(directory),
            place: Arc::clone(&server.place),
            kept: server.kept.pop_if(fresh),
            outcome: Outcome::Nothing,
            is_free: false,
        })
    }
}

impl Server {
    fn new(address: &Address, seats: usize, now: Instant) -> Self {
        let place = Place::new(address);
        let known = place.is_known();
        Self {
            health: match known {
                true => Health::Up,
                false => Health::Unknown,
            },
            lookup: match known {
                true => None,
                false => Some(now),
            },
            place: Arc::new(place),
            seats,
            taken: 0,
            kept: Vec::new(),
            failures: 0,
            bad_checks: 0,
            check: Some(now),
            gone: false,
            #[cfg(feature = "redis")]
            stock: shared::Stock::default(),
        }
    }

    /// Whether a request may go there. The time is asked for only if it matters.
    fn is_open(&self, now: &mut Option<Instant>) -> bool {
        match self.health {
            Health::Up => true,
            Health::Aside { trial: true, .. } | Health::Down | Health::Unknown => false,
            Health::Aside { until, .. } => until <= *now.get_or_insert_with(Instant::now),
        }
    }

    /// Learns from what became of a request. `enough`: if it failed too often, others shall do without this server.
    fn judge(&mut self, outcome: &Outcome, enough: bool) -> Change {
        match outcome {
            Outcome::Nothing => {
                // Whoever was to try it did not come so far.
                if let Health::Aside { trial, .. } = &mut self.health {
                    *trial = false;
                }
                Change::None
            }
            Outcome::Good => {
                self.failures = 0;
                match self.health {
                    Health::Aside { .. } => {
                        self.health = Health::Up;
                        Change::Back
                    }
                    _ => Change::None,
                }
            }
            Outcome::Failed | Outcome::Unreachable(_) => {
                self.failures += 1;
                let unreachable = matches!(outcome, Outcome::Unreachable(_));
                match self.health {
                    Health::Up if unreachable || enough && self.failures >= FAILURES => {
                        self.set_aside(FIRST_PAUSE);
                        Change::Aside
                    }
                    Health::Aside {
                        pause, trial: true, ..
                    } => {
                        self.set_aside((pause * 2).min(LONGEST_PAUSE));
                        Change::None
                    }
                    _ => Change::None,
                }
            }
        }
    }

    fn set_aside(&mut self, pause: Duration) {
        let now = Instant::now();
        self.health = Health::Aside {
            until: now + pause,
            pause,
            trial: false,
        };
        // It may have moved.
        if let Some(lookup) = &mut self.lookup {
            *lookup = (*lookup).min(now + LOOK_UP_SOON);
        }
    }
}

impl Kept {
    /// Why it cannot be used any more, if that is so.
    fn fault(&self) -> Option<Close> {
        match self.conn.pending() {
            Pending::Nothing => None,
            Pending::Bytes => Some(Close::Junk),
            Pending::End | Pending::Broken => Some(Close::PeerClosed),
        }
    }
}

impl Seat {
    /// A connection to the server: one that was kept, or a new one.
    fn connect(mut self, once: bool) -> Option<Lease> {
        while let Some(kept) = self.kept.take() {
            let Some(reason) = kept.fault() else {
                return Some(Lease {
                    seat: self,
                    conn: Some(kept.conn),
                    kept: true,
                });
            };
            self.directory.close(kept.conn, reason);
            let mut state = self.directory.state.lock();
            let next = state.server(&self.place).and_then(|server| {
                server
                    .kept
                    .pop_if(|kept| !once || kept.since.elapsed() < DOUBTFUL)
            });
            drop(state);
            self.kept = next;
        }
        let (patience, surplus) = {
            let mut state = self.directory.state.lock();
            let patience = state.settings.connect;
            let server = state.server(&self.place);
            // No more connections than seats, also where an idle one would not do.
            let surplus = server.and_then(|server| {
                let full = server.kept.len() + server.taken > server.seats;
                (full && !server.kept.is_empty()).then(|| server.kept.remove(0))
            });
            (patience, surplus)
        };
        if let Some(kept) = surplus {
            self.directory.close(kept.conn, Close::Idle);
        }
        match self.place.connect(patience) {
            Ok(stream) => {
                stream.send_at_once();
                stream.watch_peer();
                stats::add(&self.directory.stats.joined);
                Some(Lease {
                    seat: self,
                    conn: Some(Conn::plain(stream)),
                    kept: false,
                })
            }
            Err(error) => {
                let (site, name) = (&self.directory.site, &self.place.name);
                log::debug!(
                    target: &self.directory.log,
                    "site {site}: server {name}: {}", listener::reason(&error)
                );
                self.outcome = Outcome::Unreachable(error);
                None
            }
        }
    }

    /// Frees the seat, without a look at who waits.
    fn leave(mut self) {
        self.free();
    }

    /// Frees the seat, and sees to it that somebody uses it.
    fn give_up(&mut self) {
        if self.free() {
            self.directory.deal();
        }
        #[cfg(feature = "redis")]
        self.directory.settle();
    }

    fn free(&mut self) -> bool {
        let is_first = !mem::replace(&mut self.is_free, true);
        let kept = self.kept.take();
        is_first && self.directory.free(&self.place, kept, &self.outcome)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Seat").field(&self.place.name).finish()
    }
}

impl Lease {
    /// The connection.
    pub fn conn(&mut self) -> &mut Conn {
        self.conn
            .as_mut()
            .expect("a lease has its connection until it ends")
    }

    /// The server's address, for logs.
    pub fn name(&self) -> Arc<str> {
        Arc::clone(&self.seat.place.name)
    }

    /// Whether the connection had an exchange before, so that the server may have given it up.
    pub const fn was_kept(&self) -> bool {
        self.kept
    }

    /// The exchange is over and its response was read to its end: the next one may begin.
    pub fn finish(mut self) {
        self.seat.outcome = Outcome::Good;
        self.seat.kept = self.conn.take().map(|conn| Kept {
            conn,
            since: Instant::now(),
        });
    }

    /// The connection goes on with another protocol: that is no request any more, so it takes no seat.
    pub fn switch(&mut self) {
        self.seat.outcome = Outcome::Good;
        self.seat.give_up();
    }

    /// The connection cannot be used again.
    pub fn close(mut self, reason: Close) {
        self.seat.outcome = match reason {
            Close::Complete => Outcome::Good,
            Close::BackendFailed => Outcome::Failed,
            _ => Outcome::Nothing,
        };
        self.end(reason);
    }

    fn end(&mut self, reason: Close) {
        if let Some(conn) = self.conn.take() {
            let Seat {
                directory, place, ..
            } = &self.seat;
            directory.close(conn, reason);
            log::debug!(
                target: &directory.log,
                "site {}: a connection to {} closed: reason={reason}", directory.site, place.name
            );
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Whoever ends a lease in good order takes the connection out; this is an error path or a panic.
        self.end(Close::BackendFailed);
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(error) => out.write_str(&listener::reason(error)),
            Self::Failed => write!(out, "{FAILURES} exchanges in a row failed"),
            Self::Nothing | Self::Good => Ok(()),
        }
    }
}

/// Takes a server, waiting for a seat until `deadline` while `gone` does not say that the visitor left. A connection
/// attempt that has begun may take `timeouts.connect` more. `once`: see [`lease`](super::lease::lease).
///
/// # Errors
/// Why there was none.
pub fn lease(
    want: &Want<'_>,
    once: bool,
    deadline: Instant,
    gone: &mut dyn FnMut() -> bool,
) -> Result<Lease, Missed> {
    let mut waiting = None;
    // A server may turn out to be gone. The request has waited for its turn, so it goes on in front.
    let mut turn = false;
    loop {
        let seat = match want.directory.seat_now(once, turn) {
            Some(seat) => seat,
            None => {
                if waiting.is_none() {
                    waiting = Some(want.waiting.enter().ok_or(Missed::Full)?);
                }
                want.directory.wait(once, turn, deadline, gone)?
            }
        };
        if let Some(lease) = seat.connect(once) {
            return Ok(lease);
        }
        if Instant::now() >= deadline {
            return Err(Missed::TimedOut);
        }
        turn = true;
    }
}

/// Addresses with blanks between.
struct List<'a>(&'a [SocketAddr]);

impl fmt::Display for List<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.0.iter().enumerate() {
            let blank = if index > 0 { " " } else { "" };
            write!(out, "{blank}{address}")?;
        }
        Ok(())
    }
}

fn start(name: &str, run: impl FnOnce() + Send + 'static) {
    // Without a thread now there will be one the next time; until then everything stays as it is.
    if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(run) {
        log::error!("thread {name}: {}", listener::reason(&error));
    }
}

/// How long a server is left alone that failed, and at the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Exchanges, and checks, that must fail in a row.
const FAILURES: u32 = 3;
const BAD_CHECKS: u32 = 2;
/// A connection that was idle for so long may just be given up by the server: good for requests that can be sent again.
const DOUBTFUL: Duration = Duration::from_secs(1);
/// Idle connections are looked at when they have been idle for so long.
const REST: Duration = Duration::from_secs(1);
/// How often names are looked up, and where a name is not known or its server not reached.
const LOOK_UP_AGAIN: Duration = Duration::from_secs(30);
const LOOK_UP_SOON: Duration = Duration::from_secs(1);
/// Who waits does not look more often.
const SHORTEST_LOOK: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn directory(servers: &[Address], seats: usize) -> Arc<Directory> {
        let settings = Settings {
            servers: servers.to_vec(),
            seats,
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(10),
            check: None,
            host: "test".into(),
        };
        let stats = Arc::new(Stats::new());
        Arc::new(Directory::new("test", "site:test", settings, &stats))
    }

    fn take(directory: &Arc<Directory>, patience: Duration) -> Result<Lease, Missed> {
        let waiting = Arc::new(Waiting::new(Arc::new(AtomicUsize::new(0))));
        waiting.limit(10, 10);
        let want = Want {
            directory,
            waiting: &waiting,
        };
        lease(&want, false, Instant::now() + patience, &mut || false)
    }

    #[test]
    fn a_name_that_moves_takes_its_requests_along() {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [old, new] = [0, 1].map(|n: usize| listeners[n].local_addr().unwrap());
        let directory = directory(&["moves.invalid:80".parse().unwrap()], 2);
        let missed = take(&directory, Duration::from_millis(20)).unwrap_err();
        assert_eq!(missed, Missed::TimedOut);
        let place = Arc::clone(&directory.state.lock().servers[0].place);
        directory.looked_up(&place, Ok(vec![old]));
        // Who waits for the name gets a connection as soon as there is an address.
        let lease = take(&directory, Duration::from_secs(10)).unwrap();
        let busy = take(&directory, Duration::from_secs(10)).unwrap();
        let here = listeners[0].accept().unwrap();
        let also_here = listeners[0].accept().unwrap();
        lease.finish();
        assert_eq!(directory.idle(), 1);
        // A lookup that fails changes nothing, and one that finds the same neither.
        directory.looked_up(&place, Err(io::Error::other("no such name")));
        directory.looked_up(&place, Ok(vec![old]));
        assert_eq!(directory.idle(), 1);
        directory.looked_up(&place, Ok(vec![new]));
        assert_eq!(directory.idle(), 0);
        let lease = take(&directory, Duration::from_secs(10)).unwrap();
        let there = listeners[1].accept().unwrap();
        drop((lease, busy, here, also_here, there));
        let state = directory.state.lock();
        assert_eq!(state.servers[0].taken, 0);
        assert!(state.waiting.is_empty());
    }

    #[test]
    fn pauses_grow_and_end_with_success() {
        let mut server = Server::new(&"127.0.0.1:80".parse().unwrap(), 1, Instant::now());
        let pause = |server: &Server| match server.health {
            Health::Aside { pause, .. } => Some(pause.as_millis()),
            _ => None,
        };
        let unreachable = || Outcome::Unreachable(io::Error::other("no"));
        assert!(matches!(server.judge(&unreachable(), true), Change::Aside));
        let mut pauses = Vec::new();
        for _ in 0..8 {
            pauses.extend(pause(&server));
            // Those that were under way before do not count again.
            assert!(matches!(server.judge(&unreachable(), true), Change::None));
            let Health::Aside { trial, .. } = &mut server.health else {
                panic!("{:?}", server.health);
            };
            *trial = true;
            assert!(!server.is_open(&mut Some(Instant::now() + LONGEST_PAUSE * 2)));
            server.judge(&unreachable(), true);
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert!(!server.is_open(&mut None));
        assert!(server.is_open(&mut Some(Instant::now() + LONGEST_PAUSE * 2)));
        assert!(matches!(server.judge(&Outcome::Good, true), Change::Back));
        assert_eq!(server.health, Health::Up);
        // What may be the request's fault counts if it comes again and again, and others can do it.
        for enough in [false, false, true] {
            assert!(matches!(
                server.judge(&Outcome::Failed, false),
                Change::None
            ));
            assert!(matches!(
                server.judge(&Outcome::Failed, false),
                Change::None
            ));
            let third = server.judge(&Outcome::Failed, enough);
            assert_eq!(matches!(third, Change::Aside), enough);
        }
    }
}
