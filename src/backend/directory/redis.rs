//! Servers that are listed in Redis, so that several proxies share them (`directory: redis`).
//!
//! The layout is that of the original: a list per host name, each element `HOST:PORT` good for one request at a time at
//! that server. An element is moved from the tail of `NAME` to the head of `NAME.inuse`, and back to the head of `NAME`
//! when the request is over. Beside that, each element that one of us has in use has a member in the sorted set
//! `NAME.leases`, with the time at which it runs out unless it is renewed; whoever comes across one that has run out moves
//! its element back. What the original has in use has no such member, and nobody touches it. `NAME.proxies` says who is
//! there.
//!
//! One thread for each site speaks with Redis, for all that wait together, so that no worker ever does: a worker waits in
//! its slot, with its own deadline, and an element that is handed over from one request to the next need not see Redis at
//! all. When Redis does not answer, the elements known last are used, each as if this proxy were alone, until it is back.
//!
//! **Invariants**
//! - Every change in Redis is one script, which either happened or did not, and giving an element back a second time
//!   changes nothing: no element is lost or doubled, whatever a connection does.
//! - `seats` of a server is the number of its elements that are held, or known while Redis is away.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::mem;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use redis::{
    Client, Connection, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, RedisResult,
};

use super::{Directory, DirectoryState, ServerEntry};
use crate::config;
use crate::stats::Close;

/// A site's thread that speaks with Redis.
#[derive(Debug)]
pub(super) struct Link {
    bell: Arc<Notify>,
    /// What the thread will have, until it takes it.
    keeper: Arc<Mutex<Option<Syncer>>>,
    /// Disconnected when the thread has ended.
    ended: Mutex<Receiver<()>>,
}

/// Tells that thread that there is something to do.
#[derive(Debug, Default)]
pub(super) struct Notify {
    state: Mutex<NotifyState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct NotifyState {
    rung: bool,
    /// The directory is not used any more.
    leaving: bool,
}

/// What a directory has of its list.
#[derive(Debug)]
pub(super) struct ListState {
    /// Redis does not answer.
    away: bool,
    /// Other proxies use the list.
    others: bool,
    /// What has to go back.
    giving: Vec<ReturnedElement>,
    /// Nothing is taken before that.
    rest: Option<Instant>,
    /// Elements in a row that could not be used.
    misses: usize,
}

/// What a server has of it.
#[derive(Debug, Default)]
pub(super) struct Element {
    /// As it stands in Redis.
    element: Box<[u8]>,
    /// What this proxy has taken out; the first is the oldest.
    held: VecDeque<LeasedElement>,
    /// How often it stands there, in use or not.
    known: usize,
}

#[derive(Debug)]
struct LeasedElement {
    number: u64,
    since: Instant,
}

/// An element on its way back.
#[derive(Debug)]
struct ReturnedElement {
    element: Box<[u8]>,
    number: u64,
}

/// The thread's own.
struct Syncer {
    site: String,
    log: String,
    name: String,
    /// How members in Redis begin.
    me: String,
    lease: Duration,
    client: Client,
    connection: Option<Connection>,
    lists: Vec<RedisList>,
    bell: Arc<Notify>,
    /// The number of the element that is taken next.
    number: u64,
    /// When Redis is tried again, and how long after that.
    retry: Instant,
    pause: Duration,
    /// When leases are renewed.
    tend: Instant,
    /// The log has it that Redis is away.
    told: bool,
    /// Dropped when the thread ends.
    _ends: Sender<()>,
}

#[derive(Debug)]
struct RedisList {
    directory: Arc<Directory>,
    /// `NAME`, `NAME.inuse`, `NAME.leases`, `NAME.proxies`.
    keys: [String; 4],
}

impl Link {
    /// A link for the lists of these names.
    pub(super) fn new(
        site: &config::SiteConfig,
        log: &str,
        redis: &config::Redis,
        directories: &[(String, Arc<Directory>)],
        bell: Arc<Notify>,
    ) -> RedisResult<Self> {
        let address = ConnectionAddr::Tcp(redis.host.clone(), redis.port);
        let mut info = RedisConnectionInfo::default().set_db(redis.db.into());
        if let Some(password) = &redis.password {
            info = info.set_password(password);
        }
        let info = address.into_connection_info()?.set_redis_settings(info);
        let lists = directories.iter().map(|(name, directory)| RedisList {
            directory: Arc::clone(directory),
            keys: ["", ".inuse", ".leases", ".proxies"].map(|end| format!("{name}{end}")),
        });
        let (sender, receiver) = mpsc::channel();
        let now = Instant::now();
        let keeper = Syncer {
            site: site.name.clone(),
            log: log.to_owned(),
            name: format!("{}:{}", redis.host, redis.port),
            // Different for each process and each reload; nobody has to guess it.
            me: format!("{:016x}", RandomState::new().build_hasher().finish()),
            lease: redis.lease,
            client: Client::open(info)?,
            connection: None,
            lists: lists.collect(),
            bell: Arc::clone(&bell),
            number: 0,
            retry: now,
            pause: FIRST_PAUSE,
            tend: now,
            told: false,
            _ends: sender,
        };
        Ok(Self {
            bell,
            keeper: Arc::new(Mutex::new(Some(keeper))),
            ended: Mutex::new(receiver),
        })
    }

    /// Starts the thread, if none has begun. Where the system gave no thread, it is tried again the next time; returns
    /// whether that is so.
    pub(super) fn start(&self) -> bool {
        if self.keeper.lock().is_none() {
            return false;
        }
        let keeper = Arc::clone(&self.keeper);
        let started = super::tend::start("redis", move || {
            // Of two the second one finds nothing to do.
            let keeper = keeper.lock().take();
            if let Some(keeper) = keeper {
                keeper.run();
            }
        });
        !started
    }

    /// Has everything given back, and waits for that a moment.
    pub(super) fn leave(&self) {
        drop(self.keeper.lock().take());
        self.bell.leave();
        // Either it ends in time, or the leases run out.
        let _ = self.ended.lock().recv_timeout(LONGEST_GOODBYE);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.bell.leave();
    }
}

impl Notify {
    pub(super) fn ring(&self) {
        self.state.lock().rung = true;
        self.changed.notify_one();
    }

    fn leave(&self) {
        let mut state = self.state.lock();
        state.leaving = true;
        state.rung = true;
        drop(state);
        self.changed.notify_one();
    }

    /// Waits until it is rung or `until` is over. Returns whether the directory is not used any more.
    fn wait(&self, until: Instant) -> bool {
        let mut state = self.state.lock();
        while !state.rung {
            if self.changed.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        state.rung = false;
        state.leaving
    }
}

impl ListState {
    /// Nothing is known yet.
    pub(super) const fn new() -> Self {
        Self {
            away: true,
            others: false,
            giving: Vec::new(),
            rest: None,
            misses: 0,
        }
    }

    /// Whether Redis does not answer.
    pub(super) const fn is_away(&self) -> bool {
        self.away
    }
}

impl Element {
    /// Whether the server was in the list when that was read last, or is used by this proxy.
    pub(super) fn is_listed(&self) -> bool {
        self.known > 0 || !self.held.is_empty()
    }
}

impl Syncer {
    fn run(mut self) {
        let mut leaving = false;
        loop {
            let now = Instant::now();
            if self.connection.is_none() && self.retry <= now {
                self.connect(now);
            }
            if let Some(mut connection) = self.connection.take() {
                match self.serve(&mut connection, now) {
                    Ok(()) => self.connection = Some(connection),
                    Err(error) => self.lost(&error.to_string()),
                }
            }
            if leaving && (self.connection.is_none() || self.is_done()) {
                self.say_goodbye();
                return;
            }
            leaving = self.bell.wait(self.next(now));
        }
    }

    /// When there is something to do without being told.
    fn next(&self, now: Instant) -> Instant {
        if self.connection.is_none() {
            return self.retry;
        }
        let waits = |list: &RedisList| !list.directory.state.lock().waiting.is_empty();
        match self.lists.iter().any(waits) {
            true => self.tend.min(now + POLL),
            false => self.tend,
        }
    }

    fn connect(&mut self, now: Instant) {
        let connected = self.client.get_connection_with_timeout(PATIENCE);
        let ready = connected.and_then(|mut connection| {
            connection.set_read_timeout(Some(PATIENCE))?;
            connection.set_write_timeout(Some(PATIENCE))?;
            self.tend(&mut connection, now)?;
            Ok(connection)
        });
        match ready {
            Err(error) => self.lost(&error.to_string()),
            Ok(connection) => {
                log::info!(
                    target: &self.log,
                    "site {}: servers are listed in Redis at {}", self.site, self.name
                );
                self.connection = Some(connection);
                self.told = false;
                self.pause = FIRST_PAUSE;
                for list in &self.lists {
                    list.directory.set_away(false);
                }
            }
        }
    }

    /// Redis does not answer, or not as it should: the servers known last go on.
    fn lost(&mut self, why: &str) {
        self.retry = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        for list in &self.lists {
            list.directory.set_away(true);
        }
        if !mem::replace(&mut self.told, true) {
            log::warn!(
                target: &self.log,
                "site {}: Redis at {}: {why}; the servers known last go on", self.site, self.name
            );
        }
    }

    /// Does what is due.
    fn serve(&mut self, connection: &mut Connection, now: Instant) -> RedisResult<()> {
        self.exchange(connection, now)?;
        if self.tend <= now {
            self.tend(connection, now)?;
        }
        Ok(())
    }

    /// Gives back what is not used any more, and takes elements for those that wait, all in one.
    fn exchange(&mut self, connection: &mut Connection, now: Instant) -> RedisResult<()> {
        let mut pipe = redis::pipe();
        let mut takers = Vec::new();
        let mut givers = Vec::new();
        for list in &self.lists {
            let (giving, wanted) = list.directory.orders(now);
            let [name, inuse, leases, _] = &list.keys;
            for given in &giving {
                pipe.cmd("EVAL").arg(GIVE).arg(3);
                pipe.arg(name).arg(inuse).arg(leases);
                pipe.arg(self.member(given)).arg(&*given.element).ignore();
            }
            if wanted > 0 {
                pipe.cmd("EVAL").arg(TAKE).arg(3);
                pipe.arg(name).arg(inuse).arg(leases);
                pipe.arg(self.lease.as_millis() as u64).arg(wanted);
                pipe.arg(&self.me).arg(self.number);
                takers.push((list, self.number, wanted));
                self.number += wanted as u64;
            }
            if !giving.is_empty() {
                givers.push((list, giving));
            }
        }
        if takers.is_empty() && givers.is_empty() {
            return Ok(());
        }
        let taken: RedisResult<Vec<Vec<Vec<u8>>>> = pipe.query(connection);
        match taken {
            Err(error) => {
                // Whether they went back or not: the next time they will.
                for (list, giving) in givers {
                    list.directory.give_again(giving);
                }
                Err(error)
            }
            Ok(taken) => {
                for ((list, number, wanted), elements) in takers.into_iter().zip(taken) {
                    list.directory.stock_up(elements, number, wanted, now);
                }
                Ok(())
            }
        }
    }

    /// Renews leases, brings back what others have lost, and reads the lists.
    fn tend(&mut self, connection: &mut Connection, now: Instant) -> RedisResult<()> {
        let period = LONGEST_PERIOD.min(self.lease / 4);
        self.tend = now + period;
        for list in &self.lists {
            let members = list.directory.members();
            let mut command = redis::cmd("EVAL");
            command.arg(TEND).arg(4).arg(&list.keys);
            command
                .arg(&self.me)
                .arg(self.lease.as_millis() as u64)
                .arg(period.as_millis() as u64 * 4);
            for given in &members {
                command.arg(self.member(given));
            }
            let (returned, proxies, leases, free, used): SyncReply = command.query(connection)?;
            if returned > 0 {
                log::info!(
                    target: &self.log,
                    "site {}: {}: {returned} of a proxy that is gone are back", self.site, list.keys[0]
                );
            }
            let others = proxies > 1 || used.len() > leases;
            list.directory.learn(&free, &used, others, now);
        }
        Ok(())
    }

    /// How an element in use is called in Redis.
    fn member(&self, given: &ReturnedElement) -> Vec<u8> {
        let mut member = format!("{}:{} ", self.me, given.number).into_bytes();
        member.extend_from_slice(&given.element);
        member
    }

    /// Whether nothing is left to be given back, now or later.
    fn is_done(&self) -> bool {
        self.lists.iter().all(|list| {
            let state = list.directory.state.lock();
            let giving = state.shelf.as_ref().map_or(0, |shelf| shelf.giving.len());
            let held = |server: &ServerEntry| !server.stock.held.is_empty();
            giving == 0 && state.waiting.is_empty() && !state.servers.iter().any(held)
        })
    }

    fn say_goodbye(&mut self) {
        if let Some(connection) = &mut self.connection {
            for list in &self.lists {
                let mut command = redis::cmd("ZREM");
                let gone: RedisResult<()> =
                    command.arg(&list.keys[3]).arg(&self.me).query(connection);
                if gone.is_err() {
                    return;
                }
            }
        }
    }
}

/// What [`TEND`] says: how many came back, how many proxies and leases there are, elements that are free, and in use.
type SyncReply = (usize, usize, usize, Vec<Vec<u8>>, Vec<Vec<u8>>);

impl Directory {
    /// A request waits.
    pub(super) fn ring(&self) {
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }

    /// Whatever nobody needs goes back.
    pub(super) fn settle(&self) {
        let Some(bell) = &self.bell else { return };
        let mut state = self.state.lock();
        let wanted = !state.waiting.is_empty();
        let DirectoryState { servers, shelf, .. } = &mut *state;
        let Some(shelf) = shelf else { return };
        for server in servers {
            while !shelf.away
                && server.stock.held.len() > server.taken
                && !(wanted && server.is_open(&mut None))
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

    /// What the thread has to do: what goes back, and how many are wanted.
    fn orders(&self, now: Instant) -> (Vec<ReturnedElement>, usize) {
        let mut state = self.state.lock();
        let waiting = state.waiting.len();
        let Some(shelf) = &mut state.shelf else {
            return (Vec::new(), 0);
        };
        let giving = mem::take(&mut shelf.giving);
        let rests = shelf.rest.is_some_and(|rest| rest > now);
        (giving, if rests { 0 } else { waiting.min(MOST_AT_ONCE) })
    }

    fn give_again(&self, mut giving: Vec<ReturnedElement>) {
        if let Some(shelf) = &mut self.state.lock().shelf {
            shelf.giving.append(&mut giving);
        }
    }

    /// Elements were taken for those that wait.
    fn stock_up(self: &Arc<Self>, elements: Vec<Vec<u8>>, first: u64, wanted: usize, now: Instant) {
        {
            let mut state = self.state.lock();
            let fewer = elements.len() < wanted;
            let mut missed = 0;
            for (number, element) in (first..).zip(elements) {
                let index = state.index_of(&element, now);
                let DirectoryState { servers, shelf, .. } = &mut *state;
                let Some(shelf) = shelf else { return };
                let usable = index
                    .map(|index| &mut servers[index])
                    .filter(|server| server.is_open(&mut Some(now)));
                match usable {
                    Some(server) => {
                        server
                            .stock
                            .held
                            .push_back(LeasedElement { number, since: now });
                        server.seats = server.stock.held.len();
                    }
                    None => {
                        missed += 1;
                        let element = element.into();
                        shelf.giving.push(ReturnedElement { element, number });
                    }
                }
            }
            let known: usize = state.servers.iter().map(|server| server.stock.known).sum();
            let Some(shelf) = &mut state.shelf else {
                return;
            };
            shelf.misses = match missed {
                0 => 0,
                missed => shelf.misses + missed,
            };
            // Nothing to be had, or all of it was seen and is of no use: not again at once.
            if fewer || shelf.misses > known {
                shelf.misses = 0;
                shelf.rest = Some(now + POLL);
            }
        }
        self.deal();
        self.settle();
    }

    /// What is held, to be renewed.
    fn members(&self) -> Vec<ReturnedElement> {
        let state = self.state.lock();
        let all = state.servers.iter().flat_map(|server| {
            server.stock.held.iter().map(|held| ReturnedElement {
                element: server.stock.element.clone(),
                number: held.number,
            })
        });
        all.collect()
    }

    /// The lists were read.
    fn learn(self: &Arc<Self>, free: &[Vec<u8>], used: &[Vec<u8>], others: bool, now: Instant) {
        let mut gone = Vec::new();
        let mut bad = Vec::new();
        {
            let mut state = self.state.lock();
            for server in &mut state.servers {
                server.stock.known = 0;
            }
            for element in free.iter().chain(used) {
                match state.index_of(element, now) {
                    Some(index) => state.servers[index].stock.known += 1,
                    None => bad.push(String::from_utf8_lossy(element).into_owned()),
                }
            }
            let is_gone = |server: &mut ServerEntry| {
                server.stock.known == 0 && server.stock.held.is_empty() && server.taken == 0
            };
            for mut server in state.servers.extract_if(.., is_gone) {
                gone.extend(mem::take(&mut server.kept));
            }
            if let Some(shelf) = &mut state.shelf {
                shelf.others = others;
            }
        }
        for kept in gone {
            self.close(kept.conn, Close::Removed);
        }
        bad.dedup();
        for element in bad {
            log::debug!(
                target: &self.log,
                "site {}: {element:?} in Redis is no server; write HOST:PORT", self.site
            );
        }
        // Names that are new have to be looked up.
        if let Some(due) = self.tick(now) {
            self.alarm.set(due);
        }
    }

    /// Redis is gone, or back.
    fn set_away(self: &Arc<Self>, away: bool) {
        {
            let mut state = self.state.lock();
            let DirectoryState { servers, shelf, .. } = &mut *state;
            let Some(shelf) = shelf else { return };
            shelf.away = away;
            shelf.rest = None;
            for server in servers {
                let Element { held, known, .. } = &server.stock;
                server.seats = match away {
                    true => held.len().max(*known),
                    false => held.len(),
                };
            }
        }
        self.deal();
        self.settle();
    }
}

impl DirectoryState {
    /// The server of an element, a new one if need be. `None`: it does not name one.
    fn index_of(&mut self, element: &[u8], now: Instant) -> Option<usize> {
        let known = |server: &ServerEntry| *server.stock.element == *element;
        if let Some(index) = self.servers.iter().position(known) {
            return Some(index);
        }
        let address = str::from_utf8(element).ok()?.parse().ok()?;
        let mut server = ServerEntry::new(&address, 0, now);
        server.stock.element = element.into();
        self.servers.push(server);
        Some(self.servers.len() - 1)
    }

    /// A seat was freed. Where other proxies may be waiting, nobody keeps an element for long.
    pub(super) fn share(&mut self, index: usize) {
        let Self { servers, shelf, .. } = self;
        let Some(shelf) = shelf.as_mut().filter(|shelf| shelf.others && !shelf.away) else {
            return;
        };
        let server = &mut servers[index];
        let Some(held) = server.stock.held.front() else {
            return;
        };
        let now = Instant::now();
        if now.saturating_duration_since(held.since) >= LONGEST_HOLD {
            server.give_one(shelf);
            shelf.rest = Some(now + OTHERS_FIRST);
        }
    }
}

impl ServerEntry {
    /// Has the oldest element that is held go back.
    fn give_one(&mut self, shelf: &mut ListState) {
        let Some(held) = self.stock.held.pop_front() else {
            return;
        };
        self.seats = self.stock.held.len();
        shelf.giving.push(ReturnedElement {
            element: self.stock.element.clone(),
            number: held.number,
        });
    }
}

impl std::fmt::Debug for Syncer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Keeper")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// How long Redis may take to answer.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long it is left alone when it did not.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Leases are renewed and the lists are read at least so often.
const LONGEST_PERIOD: Duration = Duration::from_secs(1);
/// How often it is asked for elements while some are wanted and there are none.
const POLL: Duration = Duration::from_millis(25);
/// Elements that are taken in one go.
const MOST_AT_ONCE: usize = 64;
/// Where there are other proxies, an element is handed on here for so long, and then they have the time to take it.
const LONGEST_HOLD: Duration = Duration::from_millis(100);
const OTHERS_FIRST: Duration = Duration::from_millis(40);
/// How long the end of a program waits for what has to be given back.
const LONGEST_GOODBYE: Duration = Duration::from_secs(1);

/// Takes elements. Keys: list, in use, leases. Arguments: milliseconds of a lease, how many, who, number of the first.
const TAKE: &str = r"
if redis.replicate_commands then redis.replicate_commands() end
local time = redis.call('TIME')
local ends = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1]
local taken = {}
for count = 0, ARGV[2] - 1 do
  local element = redis.call('RPOPLPUSH', KEYS[1], KEYS[2])
  if not element then break end
  local number = string.format('%d', ARGV[4] + count)
  redis.call('ZADD', KEYS[3], ends, ARGV[3] .. ':' .. number .. ' ' .. element)
  table.insert(taken, element)
end
return taken";

/// Gives one back, if it has not gone back already. Keys: list, in use, leases. Arguments: member, element.
const GIVE: &str = r"
if redis.call('ZREM', KEYS[3], ARGV[1]) == 1 and redis.call('LREM', KEYS[2], 1, ARGV[2]) == 1 then
  redis.call('LPUSH', KEYS[1], ARGV[2])
end
return 0";

/// Renews, brings back what has run out, and looks. Keys: list, in use, leases, proxies. Arguments: who, milliseconds of a
/// lease, milliseconds after which a proxy is gone that does not come again, members to renew.
const TEND: &str = r"
if redis.replicate_commands then redis.replicate_commands() end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[4], now + ARGV[3], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now)
redis.call('PEXPIRE', KEYS[4], ARGV[3])
for index = 4, #ARGV do
  if redis.call('ZSCORE', KEYS[3], ARGV[index]) then
    redis.call('ZADD', KEYS[3], now + ARGV[2], ARGV[index])
  end
end
local returned = 0
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now)) do
  redis.call('ZREM', KEYS[3], member)
  local element = string.sub(member, string.find(member, ' ', 1, true) + 1)
  if redis.call('LREM', KEYS[2], 1, element) == 1 then
    redis.call('LPUSH', KEYS[1], element)
    returned = returned + 1
  end
end
return {
  returned, redis.call('ZCARD', KEYS[4]), redis.call('ZCARD', KEYS[3]),
  redis.call('LRANGE', KEYS[1], 0, -1), redis.call('LRANGE', KEYS[2], 0, -1)
}";
