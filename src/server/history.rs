//! Rates and times of the last minutes and of the last day, of the server and of each site.
//!
//! The tick thread adds to them once a second ([`History::tick`]). The server has a value for each second of 5 minutes
//! and for each minute of a day; a site has one for every 5 seconds and every 5 minutes, and only once it has had a
//! request: 6 kB, so 1,000 sites need 6 MB at most.

use std::collections::{HashMap, VecDeque};

use super::snapshot::Snapshot;
use crate::stats::site::{SiteStats, Totals};

/// The histories of a server and its sites.
#[derive(Debug)]
pub(crate) struct History {
    server: Track,
    /// By the name of the site.
    sites: HashMap<String, Track>,
}

/// What the graphs of one page show.
#[derive(Clone, Debug)]
pub(crate) struct Track {
    /// The last 5 minutes.
    pub(crate) minutes: Series,
    /// The last day.
    pub(crate) day: Series,
}

/// Values in steps of equal length, the newest last.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// Seconds for each value.
    pub(crate) step: u64,
    /// How many are kept.
    most: usize,
    pub(crate) samples: VecDeque<Sample>,
    /// The sums at the last step, and the second of that.
    before: Totals,
    second: u64,
}

/// Rates and means of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    /// Requests per second.
    pub(crate) rate: f32,
    /// Responses with a status of 500 or more, per second.
    pub(crate) failures: f32,
    /// Mean time of a request in seconds.
    pub(crate) latency: f32,
    /// Mean time in the queue in seconds.
    pub(crate) queue: f32,
}

impl History {
    /// Begins at this second.
    pub(crate) fn new(second: u64) -> Self {
        Self {
            server: Track::new([(1, 300), (60, 1440)], second),
            sites: HashMap::new(),
        }
    }

    /// Adds what has happened up to this second. `unrouted`: requests without a site.
    pub(crate) fn tick(&mut self, second: u64, snapshot: &Snapshot, unrouted: &SiteStats) {
        let mut all = unrouted.totals();
        for site in &snapshot.sites {
            let totals = site.stats.totals();
            all = all.plus(totals);
            let name = &site.settings.name;
            if let Some(track) = self.sites.get_mut(name) {
                track.add(second, totals);
            } else if totals.requests > 0 {
                // Its first request is part of the first step.
                let mut track = Track::new([(5, 60), (300, 288)], second.saturating_sub(1));
                track.add(second, totals);
                self.sites.insert(name.clone(), track);
            }
        }
        if self.sites.len() > snapshot.sites.len() {
            self.sites.retain(|name, _| snapshot.has_named(name));
        }
        self.server.add(second, all);
    }

    /// That of the server.
    pub(crate) const fn server(&self) -> &Track {
        &self.server
    }

    /// That of a site; `None`: it has had no request.
    pub(crate) fn site(&self, name: &str) -> Option<&Track> {
        self.sites.get(name)
    }
}

impl Track {
    fn new([minutes, day]: [(u64, usize); 2], second: u64) -> Self {
        Self {
            minutes: Series::new(minutes, second),
            day: Series::new(day, second),
        }
    }

    fn add(&mut self, second: u64, totals: Totals) {
        self.minutes.add(second, totals);
        self.day.add(second, totals);
    }

    /// The newest values.
    pub(crate) fn now(&self) -> Sample {
        self.minutes.samples.back().copied().unwrap_or_default()
    }
}

impl Series {
    const fn new((step, most): (u64, usize), second: u64) -> Self {
        Self {
            step,
            most,
            samples: VecDeque::new(),
            before: Totals {
                requests: 0,
                failures: 0,
                total_us: 0,
                queued: 0,
                queue_us: 0,
            },
            second,
        }
    }

    /// Adds a value when a step is over. If the tick was late, the step is longer.
    fn add(&mut self, second: u64, totals: Totals) {
        let passed = second.saturating_sub(self.second);
        if passed < self.step {
            return;
        }
        let requests = totals.requests.saturating_sub(self.before.requests);
        let failures = totals.failures.saturating_sub(self.before.failures);
        let queued = totals.queued.saturating_sub(self.before.queued);
        let total = totals.total_us.saturating_sub(self.before.total_us);
        let queue = totals.queue_us.saturating_sub(self.before.queue_us);
        let mean = |sum: u64, count: u64| match count {
            0 => 0.0,
            count => (sum as f64 / count as f64 / 1e6) as f32,
        };
        if self.samples.len() == self.most {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample {
            rate: requests as f32 / passed as f32,
            failures: failures as f32 / passed as f32,
            latency: mean(total, requests),
            queue: mean(queue, queued),
        });
        self.before = totals;
        self.second = second;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_means_of_each_step() {
        let mut series = Series::new((5, 2), 100);
        let totals = |requests| Totals {
            requests,
            failures: requests / 10,
            total_us: requests * 2_000,
            queued: requests,
            queue_us: requests * 1_000,
        };
        for second in 101..105 {
            series.add(second, totals(second));
        }
        assert!(series.samples.is_empty(), "the step is not over");
        series.add(105, totals(50));
        let expected = Sample {
            rate: 10.0,
            failures: 1.0,
            latency: 0.002,
            queue: 0.001,
        };
        assert_eq!(series.samples.back(), Some(&expected));
        // A late tick, and then nothing.
        series.add(115, totals(150));
        assert_eq!(series.samples.back(), Some(&expected));
        series.add(120, totals(150));
        assert_eq!(series.samples.back(), Some(&Sample::default()));
        assert_eq!(series.samples.len(), 2, "old values leave");
    }
}
