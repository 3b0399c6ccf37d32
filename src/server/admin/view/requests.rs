//! What was measured of requests: counters since the start, rates of now, and graphs.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::server::history::{Sample, Series, Track};
use crate::stats::site::{HistogramCounts, SiteStats};

/// What was measured of requests: of all, or of a site. Times in seconds, means of the last seconds.
#[derive(Clone, Serialize)]
pub(in crate::server::admin) struct RequestView {
    total: u64,
    rate: f32,
    failures: f32,
    latency: f32,
    queue: f32,
    /// By the first digit.
    pub(in crate::server::admin) statuses: BTreeMap<&'static str, u64>,
    /// Of bodies, and of upgraded connections.
    pub(in crate::server::admin) bytes_in: u64,
    pub(in crate::server::admin) bytes_out: u64,
    pub(in crate::server::admin) retries: u64,
    /// Requests that did not end complete, by reason.
    pub(in crate::server::admin) errors: BTreeMap<&'static str, u64>,
    #[serde(skip)]
    pub(in crate::server::admin) times: TimesView,
}

/// How long requests took.
#[derive(Clone, Copy)]
pub(in crate::server::admin) struct TimesView {
    pub(in crate::server::admin) total: HistogramCounts,
    pub(in crate::server::admin) queue: HistogramCounts,
    pub(in crate::server::admin) connect: HistogramCounts,
    pub(in crate::server::admin) first_byte: HistogramCounts,
}

/// What graphs show.
#[derive(Serialize)]
pub(in crate::server::admin) struct HistoryView {
    minutes: SeriesView,
    day: SeriesView,
}

/// Values of equal steps in seconds, the newest last.
#[derive(Serialize)]
struct SeriesView {
    step: u64,
    rate: Vec<f32>,
    failures: Vec<f32>,
    latency: Vec<f32>,
    queue: Vec<f32>,
}

impl RequestView {
    pub(super) fn new(stats: &SiteStats, now: Sample) -> Self {
        let statuses = stats.statuses();
        let (bytes_in, bytes_out) = stats.bytes();
        Self {
            total: statuses.iter().sum(),
            rate: now.rate,
            failures: now.failures,
            latency: now.latency,
            queue: now.queue,
            statuses: STATUS_CLASSES.into_iter().zip(statuses).collect(),
            bytes_in,
            bytes_out,
            retries: stats.retries(),
            errors: stats
                .ended()
                .map(|(reason, count)| (reason.word(), count))
                .collect(),
            times: TimesView {
                total: stats.total().counts(),
                queue: stats.queue().counts(),
                connect: stats.connect().counts(),
                first_byte: stats.first_byte().counts(),
            },
        }
    }

    /// Adds the counters of other requests.
    pub(super) fn add(&mut self, other: &Self) {
        self.total += other.total;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.retries += other.retries;
        for (class, count) in &other.statuses {
            *self.statuses.entry(class).or_default() += count;
        }
        for (reason, count) in &other.errors {
            *self.errors.entry(reason).or_default() += count;
        }
    }

    /// Sets the rates and means.
    pub(super) const fn set_now(&mut self, now: Sample) {
        self.rate = now.rate;
        self.failures = now.failures;
        self.latency = now.latency;
        self.queue = now.queue;
    }
}

impl HistoryView {
    /// `steps`: those of an empty history.
    pub(in crate::server::admin) fn new(track: Option<&Track>, steps: (u64, u64)) -> Self {
        Self {
            minutes: SeriesView::new(track.map(|track| &track.minutes), steps.0),
            day: SeriesView::new(track.map(|track| &track.day), steps.1),
        }
    }
}

impl SeriesView {
    fn new(series: Option<&Series>, step: u64) -> Self {
        let values = |value: fn(&Sample) -> f32| {
            let samples = series.iter().flat_map(|series| &series.samples);
            samples.map(value).collect()
        };
        Self {
            step: series.map_or(step, |series| series.step),
            rate: values(|sample| sample.rate),
            failures: values(|sample| sample.failures),
            latency: values(|sample| sample.latency),
            queue: values(|sample| sample.queue),
        }
    }
}

/// The names of the classes of statuses.
const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
