//! The thread that shares servers with other proxies through Redis (`directory: redis`).
//!
//! The layout is that of the original: a list for each host name, whose elements `HOST:PORT` each allow one request at a
//! time at that server. An element moves from the tail of `NAME` to the head of `NAME.inuse` when it is taken, and to
//! the head of `NAME` when its request is over. In addition, each element in use by one of our proxies has a member in
//! the sorted set `NAME.leases`, scored by the time at which its lease expires unless it is renewed. A proxy that finds
//! an expired lease returns the element. Elements in use by the original have no lease and are left alone.
//! `NAME.proxies` is the set of running proxies.
//!
//! Each site has one thread that talks to Redis on behalf of all its requests; workers never do. A request waits in its
//! slot, under its own deadline, and an element that passes from one request to the next does not involve Redis. While
//! Redis does not respond, the proxy uses the last known elements as if it were alone.
//!
//! **Invariants**
//! - Every change in Redis is one script, which either ran or did not. Returning an element twice changes nothing. So no
//!   element is lost or duplicated when a connection breaks.
//! - `slots` of a server is the number of its leased elements, or of its known elements while Redis does not respond.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::mem;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::{
    Client, Connection, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, RedisResult,
};

use super::dispatch::Directory;
use super::list::{Notify, POLL, ReturnedElement};
use super::maintenance::start;
use super::server::ServerEntry;
use crate::config;

/// Starts and stops the thread of a site.
#[derive(Debug)]
pub(super) struct Link {
    syncer_notify: Arc<Notify>,
    /// The thread's data, until it starts.
    syncer: Arc<Mutex<Option<Syncer>>>,
    /// Disconnected when the thread has ended.
    ended: Mutex<Receiver<()>>,
}

/// The thread's data.
struct Syncer {
    site: String,
    log: String,
    address: String,
    /// The prefix of this proxy's members in Redis.
    proxy_id: String,
    lease: Duration,
    client: Client,
    connection: Option<Connection>,
    lists: Vec<RedisList>,
    syncer_notify: Arc<Notify>,
    /// The number of the next element to be taken.
    number: u64,
    /// When to try Redis again, and the pause after that.
    retry: Instant,
    pause: Duration,
    /// When the leases are renewed.
    next_renewal: Instant,
    /// The log has reported that Redis does not respond.
    reported: bool,
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
        syncer_notify: Arc<Notify>,
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
        let syncer = Syncer {
            site: site.name.clone(),
            log: log.to_owned(),
            address: format!("{}:{}", redis.host, redis.port),
            // Differs for each process and each reload. It is not a secret.
            proxy_id: format!("{:016x}", RandomState::new().build_hasher().finish()),
            lease: redis.lease,
            client: Client::open(info)?,
            connection: None,
            lists: lists.collect(),
            syncer_notify: Arc::clone(&syncer_notify),
            number: 0,
            retry: now,
            pause: FIRST_PAUSE,
            next_renewal: now,
            reported: false,
            _ends: sender,
        };
        Ok(Self {
            syncer_notify,
            syncer: Arc::new(Mutex::new(Some(syncer))),
            ended: Mutex::new(receiver),
        })
    }

    /// Starts the thread unless it is running. Returns whether the system had no thread, so that this should be called
    /// again.
    pub(super) fn start(&self) -> bool {
        if self.syncer.lock().is_none() {
            return false;
        }
        let syncer = Arc::clone(&self.syncer);
        let started = start("redis", move || {
            // If two threads were started, the second finds nothing.
            let syncer = syncer.lock().take();
            if let Some(syncer) = syncer {
                syncer.run();
            }
        });
        !started
    }

    /// Returns all elements, and waits a moment for that.
    pub(super) fn stop(&self) {
        drop(self.syncer.lock().take());
        self.syncer_notify.stop();
        // If the thread does not end in time, the leases expire.
        let _ = self.ended.lock().recv_timeout(STOP_TIMEOUT);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.syncer_notify.stop();
    }
}

impl Syncer {
    fn run(mut self) {
        let mut stopping = false;
        loop {
            let now = Instant::now();
            if self.connection.is_none() && self.retry <= now {
                self.connect(now);
            }
            if let Some(mut connection) = self.connection.take() {
                match self.serve(&mut connection, now) {
                    Ok(()) => self.connection = Some(connection),
                    Err(error) => self.connection_lost(&error.to_string()),
                }
            }
            if stopping && (self.connection.is_none() || self.is_all_returned()) {
                self.unregister();
                return;
            }
            stopping = self.syncer_notify.wait(self.next_due(now));
        }
    }

    /// When there is something to do without a notification.
    fn next_due(&self, now: Instant) -> Instant {
        if self.connection.is_none() {
            return self.retry;
        }
        let waits = |list: &RedisList| !list.directory.state.lock().waiting.is_empty();
        match self.lists.iter().any(waits) {
            true => self.next_renewal.min(now + POLL),
            false => self.next_renewal,
        }
    }

    fn connect(&mut self, now: Instant) {
        let connected = self.client.get_connection_with_timeout(TIMEOUT);
        let ready = connected.and_then(|mut connection| {
            connection.set_read_timeout(Some(TIMEOUT))?;
            connection.set_write_timeout(Some(TIMEOUT))?;
            self.renew(&mut connection, now)?;
            Ok(connection)
        });
        match ready {
            Err(error) => self.connection_lost(&error.to_string()),
            Ok(connection) => {
                log::info!(
                    target: &self.log,
                    "site {}: servers are listed in Redis at {}", self.site, self.address
                );
                self.connection = Some(connection);
                self.reported = false;
                self.pause = FIRST_PAUSE;
                for list in &self.lists {
                    list.directory.set_unreachable(false);
                }
            }
        }
    }

    /// Redis does not respond, or not as expected: use the last known servers.
    fn connection_lost(&mut self, why: &str) {
        self.retry = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        for list in &self.lists {
            list.directory.set_unreachable(true);
        }
        if !mem::replace(&mut self.reported, true) {
            log::warn!(
                target: &self.log,
                "site {}: Redis at {}: {why}; using the last known servers", self.site, self.address
            );
        }
    }

    /// Does what is due.
    fn serve(&mut self, connection: &mut Connection, now: Instant) -> RedisResult<()> {
        self.return_and_take(connection, now)?;
        if self.next_renewal <= now {
            self.renew(connection, now)?;
        }
        Ok(())
    }

    /// Returns elements that are not needed any more, and takes elements for waiting requests, in one pipeline.
    fn return_and_take(&mut self, connection: &mut Connection, now: Instant) -> RedisResult<()> {
        let mut pipe = redis::pipe();
        let mut takes = Vec::new();
        let mut returns = Vec::new();
        for list in &self.lists {
            let (returning, wanted) = list.directory.take_work(now);
            let [name, inuse, leases, _] = &list.keys;
            for given in &returning {
                pipe.cmd("EVAL").arg(RETURN).arg(3);
                pipe.arg(name).arg(inuse).arg(leases);
                pipe.arg(self.member(given)).arg(&*given.text).ignore();
            }
            if wanted > 0 {
                pipe.cmd("EVAL").arg(TAKE).arg(3);
                pipe.arg(name).arg(inuse).arg(leases);
                pipe.arg(self.lease.as_millis() as u64).arg(wanted);
                pipe.arg(&self.proxy_id).arg(self.number);
                takes.push((list, self.number, wanted));
                self.number += wanted as u64;
            }
            if !returning.is_empty() {
                returns.push((list, returning));
            }
        }
        if takes.is_empty() && returns.is_empty() {
            return Ok(());
        }
        let taken: RedisResult<Vec<Vec<Vec<u8>>>> = pipe.query(connection);
        match taken {
            Err(error) => {
                // Whether they were returned is unknown; returning them again is safe.
                for (list, returning) in returns {
                    list.directory.return_again(returning);
                }
                Err(error)
            }
            Ok(taken) => {
                for ((list, number, wanted), elements) in takes.into_iter().zip(taken) {
                    list.directory.elements_taken(elements, number, wanted, now);
                }
                Ok(())
            }
        }
    }

    /// Renews leases, returns elements with expired leases, and reads the lists.
    fn renew(&mut self, connection: &mut Connection, now: Instant) -> RedisResult<()> {
        let period = LONGEST_PERIOD.min(self.lease / 4);
        self.next_renewal = now + period;
        for list in &self.lists {
            let members = list.directory.leased_elements();
            let mut command = redis::cmd("EVAL");
            command.arg(RENEW).arg(4).arg(&list.keys);
            command
                .arg(&self.proxy_id)
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
            let shared = proxies > 1 || used.len() > leases;
            list.directory.lists_read(&free, &used, shared, now);
        }
        Ok(())
    }

    /// The member of a leased element in `NAME.leases`.
    fn member(&self, given: &ReturnedElement) -> Vec<u8> {
        let mut member = format!("{}:{} ", self.proxy_id, given.number).into_bytes();
        member.extend_from_slice(&given.text);
        member
    }

    /// Whether everything was returned and no request can lease more.
    fn is_all_returned(&self) -> bool {
        self.lists.iter().all(|list| {
            let state = list.directory.state.lock();
            let returning = state.list.as_ref().map_or(0, |list| list.returning.len());
            let leased = |server: &ServerEntry| !server.elements.leased.is_empty();
            returning == 0 && state.waiting.is_empty() && !state.servers.iter().any(leased)
        })
    }

    fn unregister(&mut self) {
        if let Some(connection) = &mut self.connection {
            for list in &self.lists {
                let mut command = redis::cmd("ZREM");
                let gone: RedisResult<()> = command
                    .arg(&list.keys[3])
                    .arg(&self.proxy_id)
                    .query(connection);
                if gone.is_err() {
                    return;
                }
            }
        }
    }
}

/// The reply of [`RENEW`]: expired leases, proxies, leases, free elements, elements in use.
type SyncReply = (usize, usize, usize, Vec<Vec<u8>>, Vec<Vec<u8>>);

impl std::fmt::Debug for Syncer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Syncer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// How long Redis may take to reply.
const TIMEOUT: Duration = Duration::from_millis(500);
/// The first and the longest pause before Redis is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The longest interval between renewals of the leases.
const LONGEST_PERIOD: Duration = Duration::from_secs(1);
/// How long the end of the program waits for elements to be returned.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Takes elements. Keys: list, in use, leases. Arguments: lease in milliseconds, count, proxy, number of the first.
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

/// Returns an element unless that was done already. Keys: list, in use, leases. Arguments: member, element.
const RETURN: &str = r"
if redis.call('ZREM', KEYS[3], ARGV[1]) == 1 and redis.call('LREM', KEYS[2], 1, ARGV[2]) == 1 then
  redis.call('LPUSH', KEYS[1], ARGV[2])
end
return 0";

/// Renews leases, returns expired ones and reads the lists. Keys: list, in use, leases, proxies. Arguments: proxy, lease
/// in milliseconds, milliseconds after which a silent proxy is gone, members to renew.
const RENEW: &str = r"
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
