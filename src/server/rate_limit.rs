//! Limits how many requests a client may send in a second (`rate_limit`), by the generic cell rate algorithm (GCRA).
//!
//! For each client there is one number, the time at which it would be due if it sent its requests evenly. Each request
//! moves that time on by the interval of the rate; a request that comes too long before it is refused and moves nothing.
//! The table has a fixed size: a new client takes an empty entry of its bucket, or that of the client which is due first
//! and so loses least.
//!
//! Workers call this once for each request that is limited. A bucket is locked with its shard, for some tens of
//! nanoseconds.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, DefaultHasher, Hasher};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::config::RateLimit;
use crate::net::stream::network;

/// The state of all clients, for the limits of the top level and of all sites.
pub(crate) struct RateLimiter {
    /// Times are counted from here.
    start: Instant,
    /// Clients cannot choose addresses that share a bucket.
    hasher: RandomState,
    /// Each has its buckets once it has a client.
    shards: Box<[Mutex<Vec<Bucket>>]>,
}

/// Which requests a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RateScope(u64);

/// Entries that are searched one by one.
type Bucket = [RateEntry; BUCKET];

/// A client of one limit.
#[derive(Clone, Copy, Default)]
struct RateEntry {
    /// A hash of the limit and the address; 0: the entry is empty.
    key: u64,
    /// When it is due, in nanoseconds since the start.
    due: u64,
}

impl RateScope {
    /// All requests.
    pub(crate) const ALL: Self = Self(0);

    /// Those of the site with this name.
    pub(crate) fn site(name: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(name.as_bytes());
        Self(hasher.finish())
    }
}

impl RateLimiter {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// Counts a request of a client.
    ///
    /// # Errors
    /// The client has sent too many, and may send the next one after this time.
    pub(crate) fn count(
        &self,
        limit: &RateLimit,
        scope: RateScope,
        client: IpAddr,
        now: Instant,
    ) -> Result<(), Duration> {
        let interval = limit.interval();
        // How long before it is due a request may come.
        let early = interval.saturating_mul(u64::from(limit.burst) - 1);
        // It fits for 584 years.
        let now = now.saturating_duration_since(self.start).as_nanos() as u64;
        let key = self.hasher.hash_one((scope, network(client))).max(1);
        let mut shard = self.shards[key as usize % SHARDS].lock();
        if shard.is_empty() {
            shard.resize(BUCKETS, [RateEntry::default(); BUCKET]);
        }
        let entry = entry(&mut shard[(key >> 32) as usize % BUCKETS], key);
        // After a reload the time may be that of a slower rate.
        let latest = now.saturating_add(early).saturating_add(interval);
        let due = entry.due.clamp(now, latest);
        entry.due = due;
        let wait = (due - now).saturating_sub(early);
        if wait > 0 {
            return Err(Duration::from_nanos(wait));
        }
        entry.due = due.saturating_add(interval);
        Ok(())
    }
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("RateLimiter")
    }
}

/// The entry of a client, or the one that it takes.
fn entry(bucket: &mut Bucket, key: u64) -> &mut RateEntry {
    let mut first = 0;
    for (index, entry) in bucket.iter().enumerate() {
        if entry.key == key {
            return &mut bucket[index];
        }
        if entry.due < bucket[first].due {
            first = index;
        }
    }
    bucket[first] = RateEntry { key, due: 0 };
    &mut bucket[first]
}

/// A power of two. Two workers rarely meet in one of so many.
const SHARDS: usize = 64;
/// Buckets of a shard.
const BUCKETS: usize = 512;
/// Entries of a bucket: two cache lines. All tables together have 262,144 entries in 4 MiB.
const BUCKET: usize = 8;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    fn limit(requests: u32, burst: u32) -> RateLimit {
        RateLimit {
            requests,
            seconds: 1,
            burst,
        }
    }

    /// A limiter whose clock is set by the test: the request comes so long after the start.
    struct Scene(RateLimiter);

    impl Scene {
        fn new() -> Self {
            Self(RateLimiter::new())
        }

        fn ask(&self, limit: &RateLimit, client: &str, after: Duration) -> Result<(), Duration> {
            let client = client.parse().unwrap();
            let now = self.0.start + after;
            self.0.count(limit, RateScope::ALL, client, now)
        }
    }

    const fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn burst_and_then_the_rate() {
        let (scene, limit) = (Scene::new(), limit(10, 3));
        let check = |after, expected| {
            let found = scene.ask(&limit, "192.0.2.1", millis(after));
            assert_eq!(found, expected, "after {after} ms");
        };
        for _ in 0..3 {
            check(1000, Ok(()));
        }
        check(1000, Err(millis(100)));
        check(1060, Err(millis(40)));
        check(1100, Ok(()));
        check(1100, Err(millis(100)));
        // A second without requests brings back the burst, and no more than that.
        for _ in 0..3 {
            check(3000, Ok(()));
        }
        check(3000, Err(millis(100)));
    }

    #[test]
    fn slow_rates() {
        let scene = Scene::new();
        let limit = RateLimit {
            requests: 6,
            seconds: 3600,
            burst: 1,
        };
        assert_eq!(scene.ask(&limit, "::1", millis(0)), Ok(()));
        let wait = scene.ask(&limit, "::1", Duration::from_secs(1));
        assert_eq!(wait, Err(Duration::from_secs(599)));
    }

    #[test]
    fn accurate_at_high_rates() {
        for (requests, gap) in [(10_000, 37), (10_000, 99), (1000, 37), (999_983, 1)] {
            let (scene, limit) = (Scene::new(), limit(requests, 50));
            let seconds = 2;
            let times = (0..seconds * 1_000_000).step_by(gap);
            let passed = times
                .map(|micros| Duration::from_micros(micros as u64))
                .filter(|after| scene.ask(&limit, "192.0.2.1", *after).is_ok())
                .count();
            let expected = f64::from(requests) * seconds as f64;
            let share = passed as f64 / expected;
            assert!((0.99..1.03).contains(&share), "{requests}: {share}");
        }
    }

    #[test]
    fn by_address_and_scope() {
        let (scene, limit) = (Scene::new(), limit(1, 1));
        let ask = |client| scene.ask(&limit, client, millis(0)).is_ok();
        assert!(ask("192.0.2.1") && !ask("192.0.2.1") && ask("192.0.2.2"));
        assert!(ask("2001:db8::1") && !ask("2001:db8::2:3") && ask("2001:db8:0:1::1"));
        let now = scene.0.start;
        let client = "192.0.2.1".parse().unwrap();
        for name in ["a", "b"] {
            let scope = RateScope::site(name);
            assert!(scene.0.count(&limit, scope, client, now).is_ok(), "{name}");
            assert!(scene.0.count(&limit, scope, client, now).is_err(), "{name}");
        }
    }

    #[test]
    fn other_rate_after_a_reload() {
        let scene = Scene::new();
        assert!(scene.ask(&limit(1, 1), "::1", millis(0)).is_ok());
        assert_eq!(scene.ask(&limit(100, 1), "::1", millis(0)), Err(millis(10)));
        assert!(scene.ask(&limit(100, 1), "::1", millis(10)).is_ok());
    }

    #[test]
    fn many_clients_do_not_free_one_that_has_sent_much() {
        let (scene, limit) = (Scene::new(), limit(1, 5));
        for _ in 0..5 {
            assert!(scene.ask(&limit, "192.0.2.1", millis(0)).is_ok());
        }
        let entries = SHARDS * BUCKETS * BUCKET;
        // More clients than entries: the table stays as large as it is.
        for number in 0..2 * entries as u32 {
            let client = IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number));
            let now = scene.0.start;
            let _ = scene.0.count(&limit, RateScope::ALL, client, now);
        }
        let sizes = scene.0.shards.iter().map(|shard| shard.lock().len());
        assert_eq!(sizes.sum::<usize>(), SHARDS * BUCKETS);
        // Each of them has sent one request, this one five.
        assert!(scene.ask(&limit, "192.0.2.1", millis(0)).is_err());
    }

    #[test]
    fn exact_with_many_threads() {
        let (scene, limit) = (Scene::new(), limit(1, 1000));
        let passed = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        if scene.ask(&limit, "192.0.2.1", millis(0)).is_ok() {
                            passed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(passed.into_inner(), 1000);
    }
}
