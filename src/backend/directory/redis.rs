//! The thread that shares servers with other proxies through Redis (`directory: redis`).
//!
//! The layout is that of the original: a list for each host name, whose elements `HOST:PORT` each allow one request at a
//! time at that server. An element moves from the tail of `NAME` to the head of `NAME.inuse` when it is taken, and to
//! the head of `NAME` when its request is over. In addition, each element in use by one of our proxies has a member in
//! the sorted set `NAME.leases`, scored by the time at which its lease expires unless it is renewed. A proxy that finds
//! an expired lease returns the element. Elements in use by the original have no lease and are left alone.
//! `NAME.proxies` is the set of running proxies, `NAME.waiting` the queue of those with requests that wait for an element:
//! see [`scripts`].
//!
//! Each site has one thread that talks to Redis on behalf of all its requests; workers never do. A request waits in its
//! slot, under its own deadline, and an element that passes from one request to the next does not involve Redis. While
//! Redis does not respond, the proxy uses the last known elements as if it were alone.
//!
//! **Invariants**
//! - Every change in Redis is one script, which either ran or did not. Returning an element twice changes nothing. So no
//!   element is lost or duplicated when a connection breaks.
//! - `slots` of a server is the number of its leased elements, or of its known elements while Redis does not respond.

mod messages;
mod scripts;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::mem;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::{Client, Connection, RedisResult};

use self::messages::Subscription;
use self::scripts::{Scripts, SyncReply, TakeReply};
use super::dispatch::Directory;
use super::list::{Notify, ReturnedElement, Taken};
use super::maintenance::start;
use super::server::ServerEntry;
use crate::config;
use crate::net::redis::{Primary, reason};

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
    primary: Primary,
    /// The prefix of this proxy's members in Redis.
    proxy_id: String,
    lease: Duration,
    link: Option<PrimaryLink>,
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
    /// `NAME`, `NAME.inuse`, `NAME.leases`, `NAME.waiting`, `NAME.proxies`.
    keys: [String; 5],
}

/// The connection to Redis, and what belongs to it.
struct PrimaryLink {
    connection: Connection,
    client: Client,
    /// The address, as in logs.
    address: String,
    scripts: Scripts,
    /// Messages from Redis, while other proxies use the list.
    subscription: Option<Subscription>,
}

impl Link {
    /// A link for the lists of these names.
    pub(super) fn new(
        site: &config::SiteConfig,
        log: &str,
        redis: &config::RedisDirectory,
        directories: &[(String, Arc<Directory>)],
        syncer_notify: Arc<Notify>,
    ) -> Self {
        let lists = directories.iter().map(|(name, directory)| RedisList {
            directory: Arc::clone(directory),
            keys: ["", ".inuse", ".leases", ".waiting", ".proxies"]
                .map(|end| format!("{name}{end}")),
        });
        let (sender, receiver) = mpsc::channel();
        let now = Instant::now();
        let syncer = Syncer {
            site: site.name.clone(),
            log: log.to_owned(),
            primary: Primary::new(&redis.at),
            // Differs for each process and each reload. It is not a secret.
            proxy_id: format!("{:016x}", RandomState::new().build_hasher().finish()),
            lease: redis.lease,
            link: None,
            lists: lists.collect(),
            syncer_notify: Arc::clone(&syncer_notify),
            number: 0,
            retry: now,
            pause: FIRST_PAUSE,
            next_renewal: now,
            reported: false,
            _ends: sender,
        };
        Self {
            syncer_notify,
            syncer: Arc::new(Mutex::new(Some(syncer))),
            ended: Mutex::new(receiver),
        }
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
            if self.link.is_none() && self.retry <= now {
                self.connect(now);
            }
            if let Some(mut link) = self.link.take() {
                match self.serve(&mut link, now) {
                    Ok(()) => self.link = Some(link),
                    Err(error) => {
                        let at = &link.address;
                        self.connection_lost(&format!("Redis at {at}: {}", reason(&error)));
                    }
                }
            }
            if stopping && (self.link.is_none() || self.is_all_returned()) {
                self.unregister();
                return;
            }
            let woken = self.syncer_notify.wait(self.next_due());
            stopping = woken.stopping;
            if woken.message {
                for list in &self.lists {
                    list.directory.ask_again();
                }
            }
        }
    }

    /// When there is something to do without a notification.
    fn next_due(&self) -> Instant {
        if self.link.is_none() {
            return self.retry;
        }
        let lists = self.lists.iter();
        let due = lists.filter_map(|list| list.directory.ask_due());
        due.chain([self.next_renewal])
            .min()
            .unwrap_or(self.next_renewal)
    }

    fn connect(&mut self, now: Instant) {
        let connected = self.primary.connect().and_then(|primary| {
            let address = primary.address;
            let mut connection = primary.connection;
            let ready = Scripts::load(&mut connection).and_then(|scripts| {
                let mut link = PrimaryLink {
                    connection,
                    client: primary.client,
                    address: address.clone(),
                    scripts,
                    subscription: None,
                };
                self.renew(&mut link, now)?;
                Ok(link)
            });
            ready.map_err(|error| format!("Redis at {address}: {}", reason(&error)))
        });
        match connected {
            Err(error) => self.connection_lost(&error),
            Ok(link) => {
                log::info!(
                    target: &self.log,
                    "site {}: servers are listed in Redis at {}", self.site, link.address
                );
                self.link = Some(link);
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
                "site {}: {why}; using the last known servers", self.site
            );
        }
    }

    /// Does what is due.
    fn serve(&mut self, link: &mut PrimaryLink, now: Instant) -> RedisResult<()> {
        self.return_and_take(link, now)?;
        if self.next_renewal <= now {
            self.renew(link, now)?;
        }
        Ok(())
    }

    /// Returns elements that are not needed any more, and takes elements for waiting requests, in one pipeline.
    fn return_and_take(&mut self, link: &mut PrimaryLink, now: Instant) -> RedisResult<()> {
        let mut pipe = redis::pipe();
        let mut takes = Vec::new();
        let mut returns = Vec::new();
        for list in &self.lists {
            let (returning, wanted) = list.directory.take_work(now);
            let [name, inuse, leases, waiting, proxies] = &list.keys;
            if !returning.is_empty() {
                pipe.cmd("EVALSHA").arg(&link.scripts.give_back).arg(4);
                pipe.arg(name).arg(inuse).arg(leases).arg(waiting);
                pipe.arg(&self.proxy_id);
                for given in &returning {
                    pipe.arg(self.member(given)).arg(&*given.text);
                }
                pipe.ignore();
                returns.push((list, returning));
            }
            if let Some(wanted) = wanted {
                pipe.cmd("EVALSHA").arg(&link.scripts.take).arg(5);
                pipe.arg(name)
                    .arg(inuse)
                    .arg(leases)
                    .arg(waiting)
                    .arg(proxies);
                pipe.arg(self.lease.as_millis() as u64).arg(wanted);
                pipe.arg(&self.proxy_id).arg(self.number);
                takes.push((list, self.number));
                self.number += wanted as u64;
            }
        }
        if takes.is_empty() && returns.is_empty() {
            return Ok(());
        }
        let taken: RedisResult<Vec<TakeReply>> = pipe.query(&mut link.connection);
        match taken {
            Err(error) => {
                // Whether they were returned is unknown; returning them again is safe.
                for (list, returning) in returns {
                    list.directory.return_again(returning);
                }
                Err(error)
            }
            Ok(taken) => {
                let messages = link
                    .subscription
                    .as_ref()
                    .is_some_and(Subscription::is_active);
                for ((list, first), (queued, others, elements)) in takes.into_iter().zip(taken) {
                    let taken = Taken {
                        elements,
                        first,
                        queued: queued > 0,
                        others,
                        messages,
                    };
                    list.directory.elements_taken(taken, now);
                }
                Ok(())
            }
        }
    }

    /// Renews leases, returns elements with expired leases, and reads the lists.
    fn renew(&mut self, link: &mut PrimaryLink, now: Instant) -> RedisResult<()> {
        let period = LONGEST_PERIOD.min(self.lease / 4);
        self.next_renewal = now + period;
        let mut shared = false;
        for list in &self.lists {
            let members = list.directory.leased_elements();
            let mut command = redis::cmd("EVALSHA");
            command.arg(&link.scripts.renew).arg(5).arg(&list.keys);
            command
                .arg(&self.proxy_id)
                .arg(self.lease.as_millis() as u64)
                .arg(period.as_millis() as u64 * 4);
            for given in &members {
                command.arg(self.member(given));
            }
            let (returned, proxies, leases, free, used): SyncReply =
                command.query(&mut link.connection)?;
            if returned > 0 {
                log::info!(
                    target: &self.log,
                    "site {}: {}: {returned} of a proxy that is gone are back", self.site, list.keys[0]
                );
            }
            shared |= proxies > 1;
            let with_original = used.len() > leases;
            list.directory.lists_read(&free, &used, with_original, now);
        }
        self.subscribe(link, shared);
        Ok(())
    }

    /// Subscribes to messages if other proxies use the list.
    fn subscribe(&self, link: &mut PrimaryLink, shared: bool) {
        if !shared
            || link
                .subscription
                .as_ref()
                .is_some_and(Subscription::has_ended)
        {
            link.subscription = None;
        }
        if shared && link.subscription.is_none() {
            link.subscription =
                Subscription::new(&link.client, &self.proxy_id, &self.syncer_notify);
        }
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
        if let Some(link) = &mut self.link {
            for list in &self.lists {
                let mut command = redis::cmd("ZREM");
                let gone: RedisResult<()> = command
                    .arg(&list.keys[4])
                    .arg(&self.proxy_id)
                    .query(&mut link.connection);
                if gone.is_err() {
                    return;
                }
            }
        }
    }
}

impl std::fmt::Debug for Syncer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Syncer")
            .field("primary", &self.primary)
            .finish_non_exhaustive()
    }
}

/// The first and the longest pause before Redis is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The longest interval between renewals of the leases.
const LONGEST_PERIOD: Duration = Duration::from_secs(1);
/// How long the end of the program waits for elements to be returned.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
