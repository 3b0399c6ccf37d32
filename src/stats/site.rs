//! What is measured of the requests of a site: counters, and histograms of times.
//!
//! Every request adds to them once, at its end, with relaxed atomics: no lock, no allocation and no system call.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Close, get, zeros};

/// The measurements of a site, or of requests without one.
#[derive(Debug)]
pub(crate) struct SiteStats {
    /// By the first digit of the status, 1 to 5.
    statuses: [AtomicU64; 5],
    /// Bytes of request bodies that were received, and those that clients have sent over upgraded connections.
    bytes_in: AtomicU64,
    /// Bytes of response bodies that were delivered, and of upgraded connections.
    bytes_out: AtomicU64,
    /// Times that requests went to another backend after one had failed.
    retries: AtomicU64,
    /// From the head of the request to the end of the response.
    total: Histogram,
    /// Time in the queue for a backend, of requests for one.
    queue: Histogram,
    /// Time to make a connection to a server, where that was needed.
    connect: Histogram,
    /// From having a backend to the head of its response.
    first_byte: Histogram,
    /// Requests that ended otherwise than complete, by reason.
    ended: Box<[AtomicU64]>,
}

/// The end of a request, as it is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndedRequest {
    /// The status of the response.
    pub(crate) status: u16,
    /// Bytes received, without heads and framing.
    pub(crate) bytes_in: u64,
    /// Bytes delivered, the same.
    pub(crate) bytes_out: u64,
    /// How often it went to another backend.
    pub(crate) retries: u32,
    /// From its head to the end of the response.
    pub(crate) total: Duration,
    /// Time in the queue; `None`: it was not for a backend.
    pub(crate) queue: Option<Duration>,
    /// Time to connect; `None`: no connection was made.
    pub(crate) connect: Option<Duration>,
    /// Time to the head of the backend's response; `None`: there was none.
    pub(crate) first_byte: Option<Duration>,
    /// How it ended.
    pub(crate) ended: Close,
}

/// Sums at one moment, from which rates and means are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Requests.
    pub(crate) requests: u64,
    /// Responses with a status of 500 or more.
    pub(crate) failures: u64,
    /// Their times, in microseconds.
    pub(crate) total_us: u64,
    /// Requests for backends, and their time in the queue.
    pub(crate) queued: u64,
    /// In microseconds.
    pub(crate) queue_us: u64,
}

/// How often times were up to certain bounds.
#[derive(Debug)]
pub(crate) struct Histogram {
    /// One more than there are bounds: the last has all longer times.
    buckets: [AtomicU64; BOUNDS_MS.len() + 1],
    sum_us: AtomicU64,
}

/// A [`Histogram`] at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HistogramCounts {
    /// The times in each bucket, not cumulative; the last has those above all bounds.
    pub(crate) buckets: [u64; BOUNDS_MS.len() + 1],
    /// The sum of all times in microseconds.
    pub(crate) sum_us: u64,
}

/// The upper bounds of the buckets of a [`Histogram`], in milliseconds.
pub(crate) const BOUNDS_MS: [u32; 14] = [
    1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000,
];

impl SiteStats {
    /// All zero.
    pub(crate) fn new() -> Self {
        Self {
            statuses: Default::default(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            total: Histogram::new(),
            queue: Histogram::new(),
            connect: Histogram::new(),
            first_byte: Histogram::new(),
            ended: zeros(Close::ALL.len()),
        }
    }

    /// Counts a request that has ended.
    pub(crate) fn count(&self, request: &EndedRequest) {
        let class = usize::from(request.status / 100).clamp(1, 5) - 1;
        add(&self.statuses[class], 1);
        add(&self.bytes_in, request.bytes_in);
        add(&self.bytes_out, request.bytes_out);
        add(&self.retries, request.retries.into());
        self.total.add(request.total);
        let times = [
            (&self.queue, request.queue),
            (&self.connect, request.connect),
            (&self.first_byte, request.first_byte),
        ];
        for (histogram, time) in times {
            if let Some(time) = time {
                histogram.add(time);
            }
        }
        if request.ended != Close::Complete {
            add(&self.ended[request.ended as usize], 1);
        }
    }

    /// Responses by the first digit of their status, 1 to 5.
    pub(crate) fn statuses(&self) -> [u64; 5] {
        self.statuses.each_ref().map(get)
    }

    /// Bytes received and bytes delivered, without heads and framing.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (get(&self.bytes_in), get(&self.bytes_out))
    }

    /// Requests that were sent again.
    pub(crate) fn retries(&self) -> u64 {
        get(&self.retries)
    }

    /// Times of whole requests.
    pub(crate) const fn total(&self) -> &Histogram {
        &self.total
    }

    /// Times in the queue.
    pub(crate) const fn queue(&self) -> &Histogram {
        &self.queue
    }

    /// Times to connect to a server.
    pub(crate) const fn connect(&self) -> &Histogram {
        &self.connect
    }

    /// Times from having a backend to the head of its response.
    pub(crate) const fn first_byte(&self) -> &Histogram {
        &self.first_byte
    }

    /// The reasons for which requests did not end complete, with their numbers, if any.
    pub(crate) fn ended(&self) -> impl Iterator<Item = (Close, u64)> {
        let reasons = Close::ALL
            .iter()
            .map(|reason| (*reason, get(&self.ended[*reason as usize])));
        reasons.filter(|(_, count)| *count > 0)
    }

    /// The sums so far.
    pub(crate) fn totals(&self) -> Totals {
        let statuses = self.statuses();
        let queue = self.queue.counts();
        Totals {
            requests: statuses.iter().sum(),
            failures: statuses[4],
            total_us: get(&self.total.sum_us),
            queued: queue.count(),
            queue_us: queue.sum_us,
        }
    }
}

impl Default for SiteStats {
    fn default() -> Self {
        Self::new()
    }
}

impl Totals {
    /// The sums of both.
    #[must_use]
    pub(crate) const fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            failures: self.failures + other.failures,
            total_us: self.total_us + other.total_us,
            queued: self.queued + other.queued,
            queue_us: self.queue_us + other.queue_us,
        }
    }
}

impl Histogram {
    fn new() -> Self {
        Self {
            buckets: Default::default(),
            sum_us: AtomicU64::new(0),
        }
    }

    fn add(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX >> 8);
        let fits = |bound: &u32| us <= u64::from(*bound) * 1000;
        let bucket = BOUNDS_MS.iter().position(fits).unwrap_or(BOUNDS_MS.len());
        add(&self.buckets[bucket], 1);
        add(&self.sum_us, us);
    }

    /// What it has now.
    pub(crate) fn counts(&self) -> HistogramCounts {
        HistogramCounts {
            buckets: self.buckets.each_ref().map(get),
            sum_us: get(&self.sum_us),
        }
    }
}

impl HistogramCounts {
    /// The number of times.
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

fn add(counter: &AtomicU64, count: u64) {
    // Most requests add nothing to some counters, and even that would take the cache line away from other workers.
    if count > 0 {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(status: u16, ms: u64) -> EndedRequest {
        EndedRequest {
            status,
            bytes_in: 3,
            bytes_out: 5,
            retries: 1,
            total: Duration::from_millis(ms),
            queue: Some(Duration::from_millis(ms / 2)),
            connect: None,
            first_byte: Some(Duration::from_millis(ms / 2)),
            ended: Close::Complete,
        }
    }

    #[test]
    fn sums_and_buckets() {
        let stats = SiteStats::new();
        stats.count(&request(200, 1));
        stats.count(&request(503, 10));
        stats.count(&EndedRequest {
            queue: None,
            ended: Close::ClientGone,
            ..request(499, 60_000)
        });
        assert_eq!(stats.statuses(), [0, 1, 0, 1, 1]);
        assert_eq!((stats.bytes(), stats.retries()), ((9, 15), 3));
        assert_eq!(stats.ended().collect::<Vec<_>>(), [(Close::ClientGone, 1)]);
        let HistogramCounts { buckets, sum_us } = stats.total().counts();
        assert_eq!((buckets[0], buckets[3], buckets[14]), (1, 1, 1));
        assert_eq!(sum_us, 60_011_000);
        assert_eq!(stats.connect().counts().count(), 0);
        assert_eq!(stats.first_byte().counts().count(), 3);
        let totals = stats.totals();
        assert_eq!((totals.requests, totals.failures), (3, 1));
        assert_eq!((totals.queued, totals.queue_us), (2, 5_000));
    }
}
