//! Shares challenges with other proxies through Redis, so that an authority may ask any proxy behind a name.
//!
//! `swiftiply:acme` is the sorted set of the challenges of all proxies, scored by the time at which each expires.
//! `swiftiply:acme:proxies` is the sorted set of the running proxies' ids, each scored by the time up to which that proxy
//! shows the challenges; one that was silent for [`GONE`] is removed. The clock is that of Redis, in microseconds.
//!
//! The thread `acme-redis` reads the challenges every [`PERIOD`] and shows those of other proxies. The thread `acme` adds a
//! challenge of its own before it lets the authority ask, waits until each other proxy shows it, and removes it afterwards.
//! If the proxy is killed, its challenge expires. While Redis is not reached, the proxy orders as if it were alone, and
//! shows no challenges of others.
//!
//! Proxies show one certificate for a name in TLS, so two of them do not prove the same name by it at a time.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use redis::{Connection, RedisError, RedisResult};

use super::challenges::Challenges;
use super::client::AcmeError;
use super::shared::{self, ShownChallenges};
use super::validation::Validation;
use crate::config;
use crate::net::redis::{Primary, PrimaryConnection, reason};
use crate::net::tls::SiteCertificates;
use crate::process;

/// Publishes challenges of this proxy, and has those of others shown.
pub(super) struct Sharing {
    /// The id of this proxy. It differs for each process, and is not a secret.
    id: String,
    challenges: Arc<Challenges>,
    sites: Arc<SiteCertificates>,
    state: Mutex<SharingState>,
    /// The state has changed.
    changed: Condvar,
}

#[derive(Default)]
struct SharingState {
    /// `None`: challenges are not shared.
    redis: Option<config::Redis>,
    is_stopping: bool,
    /// There is a thread.
    is_running: bool,
    /// The log has reported that Redis is not reached.
    is_reported: bool,
}

/// A challenge in Redis, until this is dropped.
pub(super) struct SharedChallenge<'a> {
    sharing: &'a Sharing,
    connection: Connection,
    /// The address of Redis, as in logs.
    address: String,
    /// How it stands in Redis.
    entry: String,
    /// When it was added, by the clock of Redis.
    added: u64,
}

/// The thread's data.
struct ChallengeReader {
    connection: Option<Connection>,
    shown: ShownChallenges,
    /// The pause after the next failure.
    pause: Duration,
}

impl Sharing {
    /// Without Redis yet.
    pub(super) fn new(challenges: &Arc<Challenges>, sites: &Arc<SiteCertificates>) -> Arc<Self> {
        Arc::new(Self {
            id: format!("{:016x}", RandomState::new().build_hasher().finish()),
            challenges: Arc::clone(challenges),
            sites: Arc::clone(sites),
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Uses this Redis from now on.
    pub(super) fn set(self: &Arc<Self>, redis: Option<config::Redis>) {
        let starts = {
            let mut state = self.state.lock();
            let starts = redis.is_some() && !state.is_running && !state.is_stopping;
            state.redis = redis;
            state.is_running |= starts;
            starts
        };
        self.changed.notify_all();
        if starts {
            let sharing = Arc::clone(self);
            if let Err(error) = process::thread("acme-redis", move || sharing.run()) {
                self.state.lock().is_running = false;
                log::error!("{error}");
            }
        }
    }

    /// Ends the thread, after a command that is under way.
    pub(super) fn stop(&self) {
        self.state.lock().is_stopping = true;
        self.changed.notify_all();
    }

    /// Waits a moment for the end of the thread. If it does not end in time, other proxies notice that it is gone.
    pub(super) fn join(&self) {
        let mut state = self.state.lock();
        let is_running = |state: &mut SharingState| state.is_running;
        self.changed
            .wait_while_for(&mut state, is_running, STOP_TIMEOUT);
    }

    /// Has other proxies show a proof, unless challenges are not shared or Redis is not reached. Waits while another proxy
    /// proves the same name by a certificate.
    ///
    /// # Errors
    /// Those of `pause`.
    pub(super) fn publish(
        &self,
        validation: &Validation<'_>,
        pause: &dyn Fn(Duration) -> Result<(), AcmeError>,
    ) -> Result<Option<SharedChallenge<'_>>, AcmeError> {
        let Some(redis) = self.state.lock().redis.clone() else {
            return Ok(None);
        };
        let mut connected = match Primary::new(&redis).connect() {
            Ok(connected) => connected,
            Err(why) => {
                self.lost(&why);
                return Ok(None);
            }
        };
        let entry = shared::entry(validation, &self.id);
        let deadline = Instant::now() + LIFETIME;
        let mut is_reported = false;
        loop {
            match add(&mut connected.connection, &entry) {
                Ok(0) if Instant::now() < deadline => {
                    if !mem::replace(&mut is_reported, true) {
                        let name = validation.name;
                        log::debug!(
                            "certificate {name}: waiting for another proxy, which proves it now"
                        );
                    }
                    pause(PERIOD)?;
                }
                Ok(0) => return Ok(None),
                Ok(added) => {
                    return Ok(Some(SharedChallenge {
                        sharing: self,
                        connection: connected.connection,
                        address: connected.address,
                        entry,
                        added,
                    }));
                }
                Err(error) => {
                    self.lost_at(&connected.address, &error);
                    return Ok(None);
                }
            }
        }
    }

    /// Reports once that Redis is not reached, or does not respond as expected.
    fn lost(&self, why: &str) {
        if !mem::replace(&mut self.state.lock().is_reported, true) {
            log::warn!("challenges are not shared: {why}; only the proxy that orders responds");
        }
    }

    /// The same, for an error of Redis at this address.
    fn lost_at(&self, address: &str, error: &RedisError) {
        self.lost(&format!("Redis at {address}: {}", reason(error)));
    }

    /// Shows challenges of other proxies while there is a Redis. Runs on the thread `acme-redis`.
    fn run(&self) {
        let mut reader = ChallengeReader {
            connection: None,
            shown: ShownChallenges::new(&self.challenges, &self.sites),
            pause: PERIOD,
        };
        let mut redis = None;
        let mut wait = Duration::ZERO;
        loop {
            let next = self.next(redis.as_ref(), wait);
            if next != redis {
                reader.leave(&self.id);
            }
            redis = next;
            match &redis {
                Some(redis) => wait = reader.turn(self, redis),
                None => {
                    let mut state = self.state.lock();
                    if state.is_stopping || state.redis.is_none() {
                        state.is_running = false;
                        drop(state);
                        self.changed.notify_all();
                        return;
                    }
                }
            }
        }
    }

    /// Waits for this time, or until there is something other than the last Redis to be read. `None`: there is none.
    fn next(&self, last: Option<&config::Redis>, wait: Duration) -> Option<config::Redis> {
        let mut state = self.state.lock();
        let is_same = |state: &mut SharingState| !state.is_stopping && state.redis.as_ref() == last;
        self.changed.wait_while_for(&mut state, is_same, wait);
        match state.is_stopping {
            true => None,
            false => state.redis.clone(),
        }
    }
}

impl SharedChallenge<'_> {
    /// Waits until each other proxy shows the proof. One that does not is not waited for once it counts as gone.
    ///
    /// # Errors
    /// Those of `pause`.
    pub(super) fn wait_for_others(
        &mut self,
        name: &str,
        pause: &dyn Fn(Duration) -> Result<(), AcmeError>,
    ) -> Result<(), AcmeError> {
        let deadline = Instant::now() + GONE * 2;
        let mut is_reported = false;
        loop {
            let mut command = redis::cmd("ZRANGEBYSCORE");
            command.arg(PROXIES).arg("-inf").arg(self.added);
            let late: RedisResult<Vec<Vec<u8>>> = command.query(&mut self.connection);
            match late {
                Ok(late) if late.iter().all(|id| id == self.sharing.id.as_bytes()) => return Ok(()),
                Ok(_) if Instant::now() < deadline => {
                    if !mem::replace(&mut is_reported, true) {
                        log::debug!("certificate {name}: waiting until other proxies respond");
                    }
                    pause(ASK_AGAIN)?;
                }
                Ok(_) => return Ok(()),
                Err(error) => {
                    self.sharing.lost_at(&self.address, &error);
                    return Ok(());
                }
            }
        }
    }
}

impl Drop for SharedChallenge<'_> {
    fn drop(&mut self) {
        let mut command = redis::cmd("ZREM");
        command.arg(CHALLENGES).arg(&self.entry);
        let removed: RedisResult<()> = command.query(&mut self.connection);
        if let Err(error) = removed {
            log::debug!("a challenge stays until it expires: {}", reason(&error));
        }
    }
}

impl ChallengeReader {
    /// Shows what is in Redis now. Returns when to read it again.
    fn turn(&mut self, sharing: &Sharing, redis: &config::Redis) -> Duration {
        if let Some(connection) = self.connection.take() {
            match self.read(sharing, connection) {
                Ok(()) => return PERIOD,
                // Another connection may be better.
                Err(error) => log::debug!("challenges in Redis: {}", reason(&error)),
            }
        }
        match self.connect(sharing, redis) {
            Ok(()) => {
                self.pause = PERIOD;
                PERIOD
            }
            Err(why) => {
                self.shown.set(Vec::new(), &sharing.id);
                sharing.lost(&why);
                let pause = self.pause;
                self.pause = (pause * 2).min(LONGEST_PAUSE);
                pause
            }
        }
    }

    fn connect(&mut self, sharing: &Sharing, redis: &config::Redis) -> Result<(), String> {
        let PrimaryConnection {
            connection,
            address,
            ..
        } = Primary::new(redis).connect()?;
        self.read(sharing, connection)
            .map_err(|error| format!("Redis at {address}: {}", reason(&error)))?;
        log::info!("challenges are shared through Redis at {address}");
        Ok(())
    }

    /// Shows the challenges in Redis, and then says there that they are shown. Keeps the connection if that succeeds.
    fn read(&mut self, sharing: &Sharing, mut connection: Connection) -> RedisResult<()> {
        let mut command = redis::cmd("EVAL");
        command.arg(READ).arg(2).arg(CHALLENGES).arg(PROXIES);
        command.arg(GONE.as_micros() as u64).arg(MOST);
        let (now, entries): (u64, Vec<Vec<u8>>) = command.query(&mut connection)?;
        self.shown.set(entries, &sharing.id);
        let mut pipe = redis::pipe();
        pipe.zadd(PROXIES, &sharing.id, now).ignore();
        let until = GONE.as_millis() as u64;
        pipe.cmd("PEXPIRE").arg(PROXIES).arg(until).ignore();
        pipe.query::<()>(&mut connection)?;
        self.connection = Some(connection);
        sharing.state.lock().is_reported = false;
        Ok(())
    }

    /// Shows no challenges of others any more, and removes this proxy from Redis.
    fn leave(&mut self, id: &str) {
        self.shown.set(Vec::new(), id);
        if let Some(mut connection) = self.connection.take() {
            let mut command = redis::cmd("ZREM");
            command.arg(PROXIES).arg(id);
            let removed: RedisResult<()> = command.query(&mut connection);
            if let Err(error) = removed {
                log::debug!("challenges in Redis: {}", reason(&error));
            }
        }
    }
}

/// Adds a challenge; returns when, or 0 if another proxy has one of the same kind and for the same name or token.
fn add(connection: &mut Connection, entry: &str) -> RedisResult<u64> {
    let mut command = redis::cmd("EVAL");
    command.arg(ADD).arg(2).arg(CHALLENGES).arg(PROXIES);
    command.arg(entry).arg(LIFETIME.as_millis() as u64);
    command.arg(GONE.as_micros() as u64);
    command.query(connection)
}

/// Reads the challenges, and removes those that have expired and the proxies that are gone. Keys: challenges, proxies.
/// Arguments: microseconds after which a silent proxy is gone, most challenges.
const READ: &str = r"
if redis.replicate_commands then redis.replicate_commands() end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[1])
return {now, redis.call('ZRANGE', KEYS[1], 0, ARGV[2] - 1)}";

/// Adds a challenge. Keys: challenges, proxies. Arguments: the challenge, milliseconds until it expires, microseconds after
/// which a silent proxy is gone. One with the same first two words goes first, but not if its proxy is gone.
const ADD: &str = r"
if redis.replicate_commands then redis.replicate_commands() end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[3])
local start = string.match(ARGV[1], '^%S+ %S+ ')
for _, other in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if string.sub(other, 1, #start) == start then
    if redis.call('ZSCORE', KEYS[2], string.match(other, '%S*$')) then return 0 end
    redis.call('ZREM', KEYS[1], other)
  end
end
redis.call('ZADD', KEYS[1], now + ARGV[2] * 1000, ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return now";

const CHALLENGES: &str = "swiftiply:acme";
const PROXIES: &str = "swiftiply:acme:proxies";
/// Most challenges of all proxies together that are shown.
const MOST: usize = 1000;
/// How often challenges are read.
const PERIOD: Duration = Duration::from_millis(500);
/// How often a proxy that orders asks whether the others show its challenge.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// After this silence a proxy is gone.
const GONE: Duration = Duration::from_secs(5);
/// How long a challenge is valid that is not removed: longer than an order takes.
const LIFETIME: Duration = Duration::from_secs(180);
/// The longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long the end of the server waits for the thread.
const STOP_TIMEOUT: Duration = Duration::from_millis(500);
