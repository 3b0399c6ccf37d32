//! Measures how fast bytes are transferred, over a sliding window.
//!
//! An average over the whole transfer would let a client that was fast at first send or take next to nothing for hours,
//! and hold memory, disk and backends for that long.

use std::time::{Duration, Instant};

/// The bytes of a transfer over the last window, in a few parts of equal length.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// When the measurement began, moved forward by pauses.
    began: Instant,
    /// When the current part began.
    part: Instant,
    /// The length of a part.
    length: Duration,
    /// Bytes of the parts, the current one first.
    bytes: [u64; PARTS + 1],
}

impl Rate {
    /// Begins to measure over windows of this length.
    pub fn new(now: Instant, window: Duration) -> Self {
        Self {
            began: now,
            part: now,
            // At least a millisecond, so that the parts advance.
            length: (window / PARTS as u32).max(Duration::from_millis(1)),
            bytes: [0; PARTS + 1],
        }
    }

    /// Adds `count` transferred bytes.
    pub fn add(&mut self, now: Instant, count: u64) {
        self.turn(now);
        self.bytes[0] = self.bytes[0].saturating_add(count);
    }

    /// Excludes the time from `since` until now, in which the client was not waited for.
    pub fn pause(&mut self, since: Instant, now: Instant) {
        let gap = now.saturating_duration_since(since);
        self.began += gap;
        self.part += gap;
    }

    /// How long it has been measured.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }

    /// Bytes per second, over the window or since the beginning.
    pub fn per_second(&self, now: Instant) -> u64 {
        let (bytes, time) = self.last(now);
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        bytes.saturating_mul(1000) / milliseconds.max(1)
    }

    /// Whether the rate is below this many bytes per second, once there was enough time to begin.
    pub fn is_below(&self, slowest: u64, grace: Duration, now: Instant) -> bool {
        if self.age(now) < grace {
            return false;
        }
        let (bytes, time) = self.last(now);
        bytes < slowest.saturating_mul(time.as_secs())
    }

    /// The bytes of the window, and the time they took.
    fn last(&self, now: Instant) -> (u64, Duration) {
        let mut rate = *self;
        rate.turn(now);
        let parts = now.saturating_duration_since(rate.part) + rate.length * PARTS as u32;
        let bytes = rate
            .bytes
            .iter()
            .fold(0, |sum: u64, bytes| sum.saturating_add(*bytes));
        (bytes, parts.min(rate.age(now)))
    }

    /// Begins the part that `now` is in.
    fn turn(&mut self, now: Instant) {
        let over = now.saturating_duration_since(self.part).as_nanos() / self.length.as_nanos();
        if over == 0 {
            return;
        }
        let count = usize::try_from(over).map_or(PARTS + 1, |over| over.min(PARTS + 1));
        self.bytes.rotate_right(count % (PARTS + 1));
        self.bytes[..count].fill(0);
        // After more than a window, it does not matter where exactly the parts began.
        self.part = match u32::try_from(over) {
            Ok(over) => self.part + self.length * over,
            Err(_) => now,
        };
    }
}

/// Parts of a window, besides the current one.
const PARTS: usize = 6;
/// The least bytes per second for the body of a request and for a response.
pub const SLOWEST: u64 = 500;
/// The window for that.
pub const WINDOW: Duration = Duration::from_secs(30);
/// The time in which a body may arrive as slowly as it likes.
pub const TIME_TO_BEGIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_need_500_bytes_a_second() {
        let check = |milliseconds, length, expected| {
            let start = Instant::now();
            let mut rate = Rate::new(start, WINDOW);
            rate.add(start, length);
            let now = start + Duration::from_millis(milliseconds);
            let is_below = rate.is_below(SLOWEST, TIME_TO_BEGIN, now);
            assert_eq!(is_below, expected, "{milliseconds} {length}");
        };
        check(0, 0, false);
        check(9_999, 0, false);
        check(10_000, 4_999, true);
        check(10_000, 5_000, false);
        check(10_999, 5_000, false);
        check(11_000, 5_000, true);
        check(30_000, 15_000, false);
    }

    #[test]
    fn fast_start_earns_one_window() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut rate = Rate::new(start, WINDOW);
        rate.add(at(1), 67_000_000);
        assert!(!rate.is_below(SLOWEST, TIME_TO_BEGIN, at(34)));
        assert!(rate.is_below(SLOWEST, TIME_TO_BEGIN, at(35)));
        assert_eq!(rate.per_second(at(35)), 0);
        // A byte now and then does not help; enough of them do.
        for second in 35..60 {
            rate.add(at(second), 1);
        }
        assert!(rate.is_below(SLOWEST, TIME_TO_BEGIN, at(60)));
        for second in 60..100 {
            rate.add(at(second), 600);
        }
        assert!(!rate.is_below(SLOWEST, TIME_TO_BEGIN, at(100)));
        assert!((500..=600).contains(&rate.per_second(at(100))));
        // Hours later, and after the longest times.
        assert!(rate.is_below(SLOWEST, TIME_TO_BEGIN, at(10_000)));
        rate.add(at(10_000_000), 1 << 30);
        assert!(!rate.is_below(SLOWEST, TIME_TO_BEGIN, at(10_000_000)));
    }

    #[test]
    fn pauses_do_not_count() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut rate = Rate::new(start, WINDOW);
        rate.add(at(5), 5_000);
        rate.pause(at(5), at(3605));
        assert_eq!(rate.age(at(3610)), Duration::from_secs(10));
        assert!(!rate.is_below(SLOWEST, TIME_TO_BEGIN, at(3610)));
        assert!(rate.is_below(SLOWEST, TIME_TO_BEGIN, at(3611)));
    }
}
