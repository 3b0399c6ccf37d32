//! Whether a server gets requests, and what their outcomes mean for it.
//!
//! A server that cannot be reached is set aside; so is one with several failed exchanges in a row if another server is
//! up. It gets no requests for a pause that doubles each time, then one request: the trial. A check (see
//! [`maintenance`](super::maintenance)) may find a server down; then only a check can find it up again.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whether a server gets requests.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Health {
    Up,
    /// Set aside: no request before `until`, then one (`trial` is set while it is under way).
    Aside {
        until: Instant,
        pause: Duration,
        trial: bool,
    },
    /// No requests until a check succeeds.
    Down,
    /// No requests until its name is found.
    Unknown,
}

/// The outcome of a request, as far as it concerns its server.
#[derive(Debug)]
pub(super) enum HealthReport {
    /// Unknown: the request did not get far enough.
    Nothing,
    /// The server works.
    Good,
    /// The exchange failed; the request may be the cause.
    Failed,
    /// The server could not be reached, for this reason.
    Unreachable(String),
}

/// A change of a server's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Aside,
    Down,
    Back,
}

/// A change that is to be logged.
#[derive(Debug)]
pub(super) struct HealthChange {
    pub(super) server: Arc<str>,
    pub(super) change: Change,
    /// Why, if it gets no requests now.
    pub(super) why: String,
}

/// The health of a server.
#[derive(Debug)]
pub(super) struct ServerHealth {
    pub(super) state: Health,
    /// When that began; an attempt that fails does not begin it again.
    pub(super) since: Instant,
    /// Why it gets no requests, or only a trial.
    pub(super) why: Option<String>,
    /// Requests that it has served, those that it failed, and checks.
    pub(super) counts: ServerCounts,
    /// Why the last check has failed, if it did.
    pub(super) check_error: Option<String>,
    /// Failed exchanges since the last good one.
    failures: u32,
    /// Failed checks since the last good one.
    bad_checks: u32,
    /// When its name is looked up again; `None`: a lookup is under way, or there is no name.
    pub(super) lookup: Option<Instant>,
}

/// What a server has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerCounts {
    /// Exchanges that were complete, and upgraded connections.
    pub requests: u64,
    /// Exchanges that failed, and attempts to connect.
    pub failures: u64,
    /// Checks with a good result.
    pub good_checks: u64,
    /// Checks with a bad one.
    pub bad_checks: u64,
}

impl ServerHealth {
    /// The health of a new server. `is_known`: it can be connected to without a lookup.
    pub(super) const fn new(is_known: bool, now: Instant) -> Self {
        let (state, lookup) = match is_known {
            true => (Health::Up, None),
            false => (Health::Unknown, Some(now)),
        };
        Self {
            state,
            since: now,
            why: None,
            counts: ServerCounts {
                requests: 0,
                failures: 0,
                good_checks: 0,
                bad_checks: 0,
            },
            check_error: None,
            failures: 0,
            bad_checks: 0,
            lookup,
        }
    }

    /// Whether a request may go there. `now` is filled in only if it is needed.
    pub(super) fn is_open(&self, now: &mut Option<Instant>) -> bool {
        match self.state {
            Health::Up => true,
            Health::Aside { trial: true, .. } | Health::Down | Health::Unknown => false,
            Health::Aside { until, .. } => until <= *now.get_or_insert_with(Instant::now),
        }
    }

    /// Records the outcome of a request. `may_set_aside`: several failures in a row set the server aside.
    pub(super) fn judge(&mut self, outcome: &HealthReport, may_set_aside: bool) -> Change {
        match outcome {
            HealthReport::Nothing => {
                // The trial did not get far enough.
                if let Health::Aside { trial, .. } = &mut self.state {
                    *trial = false;
                }
                Change::None
            }
            HealthReport::Good => {
                self.counts.requests += 1;
                self.failures = 0;
                match self.state {
                    Health::Aside { .. } => {
                        self.set_up(Instant::now());
                        Change::Back
                    }
                    _ => Change::None,
                }
            }
            HealthReport::Failed | HealthReport::Unreachable(_) => {
                self.counts.failures += 1;
                self.failures += 1;
                let unreachable = matches!(outcome, HealthReport::Unreachable(_));
                match self.state {
                    Health::Up if unreachable || may_set_aside && self.failures >= FAILURES => {
                        self.set_aside(FIRST_PAUSE);
                        self.since = Instant::now();
                        self.why = Some(outcome.to_string());
                        Change::Aside
                    }
                    Health::Aside {
                        pause, trial: true, ..
                    } => {
                        self.set_aside((pause * 2).min(LONGEST_PAUSE));
                        if unreachable {
                            self.why = Some(outcome.to_string());
                        }
                        Change::None
                    }
                    _ => Change::None,
                }
            }
        }
    }

    /// Records the result of a check.
    pub(super) fn judge_check(&mut self, result: Result<(), &str>) -> Change {
        let down = self.state == Health::Down;
        self.check_error = result.err().map(str::to_owned);
        if let Err(why) = result {
            self.counts.bad_checks += 1;
            self.bad_checks += 1;
            if down {
                self.why = Some(why.to_owned());
            }
            if down || self.bad_checks < BAD_CHECKS {
                return Change::None;
            }
            self.state = Health::Down;
            self.since = Instant::now();
            self.why = Some(why.to_owned());
            return Change::Down;
        }
        self.counts.good_checks += 1;
        self.bad_checks = 0;
        // A trial under way reports its own outcome.
        if !down && !matches!(self.state, Health::Aside { trial: false, .. }) {
            return Change::None;
        }
        self.set_up(Instant::now());
        self.failures = 0;
        Change::Back
    }

    /// Records the result of a lookup and schedules the next one after this interval, or soon if the name is still unknown.
    /// Returns whether it was unknown before.
    pub(super) fn judge_lookup(
        &mut self,
        result: Result<(), &str>,
        interval: Duration,
        now: Instant,
    ) -> bool {
        let first = self.state == Health::Unknown;
        let is_found = result.is_ok();
        if first {
            self.why = result.err().map(str::to_owned);
        }
        let again = match first && !is_found {
            true => LOOK_UP_SOON.min(interval),
            false => interval,
        };
        self.lookup = Some(now + again);
        if first && is_found {
            self.set_up(now);
        }
        first
    }

    /// It gets requests from now on.
    pub(super) fn set_up(&mut self, now: Instant) {
        self.state = Health::Up;
        self.since = now;
        self.why = None;
    }

    /// Sets the server aside for a pause.
    fn set_aside(&mut self, pause: Duration) {
        let now = Instant::now();
        self.state = Health::Aside {
            until: now + pause,
            pause,
            trial: false,
        };
        // Its address may have changed.
        if let Some(lookup) = &mut self.lookup {
            *lookup = (*lookup).min(now + LOOK_UP_SOON);
        }
    }
}

impl fmt::Display for HealthReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(reason) => out.write_str(reason),
            Self::Failed => write!(out, "{FAILURES} exchanges in a row failed"),
            Self::Nothing | Self::Good => Ok(()),
        }
    }
}

/// The first and the longest pause of a server that was set aside.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Failed exchanges, and failed checks, in a row.
const FAILURES: u32 = 3;
const BAD_CHECKS: u32 = 2;
/// How soon a name is looked up that is unknown, or whose server cannot be reached.
const LOOK_UP_SOON: Duration = Duration::from_secs(1);
