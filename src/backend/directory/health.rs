//! Whether requests are sent to a server, and what they tell about it.
//!
//! A server that cannot be reached is set aside, and so is one with which exchanges fail in a row, if there is another:
//! for a pause that doubles each time, after which one request, the trial, goes there. A check (see [`maintenance`](super::maintenance))
//! may find it down, and then only a check finds it up again.

use std::fmt;
use std::time::{Duration, Instant};

/// Whether requests are sent to a server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Health {
    Up,
    /// Not before `until`, and then one, `trial`, to see.
    Aside {
        until: Instant,
        pause: Duration,
        trial: bool,
    },
    /// Not until a check succeeds.
    Down,
    /// Not until its name was found.
    Unknown,
}

/// What a request tells about its server.
#[derive(Debug)]
pub(super) enum HealthReport {
    /// Nothing.
    Nothing,
    /// It works.
    Good,
    /// It failed, in a way that may be the request's fault.
    Failed,
    /// It could not be reached, for this reason.
    Unreachable(String),
}

/// A change of a server's health, to be told without the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Aside,
    Down,
    Back,
}

/// What is known of a server's health.
#[derive(Debug)]
pub(super) struct ServerHealth {
    pub(super) state: Health,
    /// Exchanges that failed since one that did not.
    failures: u32,
    /// Checks that failed since one that did not.
    bad_checks: u32,
    /// When its name is looked up again; `None`: that is under way, or there is no name.
    pub(super) lookup: Option<Instant>,
}

impl ServerHealth {
    /// That of a server of which nothing was heard yet. `is_known`: it can be connected to without a lookup.
    pub(super) const fn new(is_known: bool, now: Instant) -> Self {
        let (state, lookup) = match is_known {
            true => (Health::Up, None),
            false => (Health::Unknown, Some(now)),
        };
        Self {
            state,
            failures: 0,
            bad_checks: 0,
            lookup,
        }
    }

    /// Whether a request may go there. The time is asked for only if it matters.
    pub(super) fn is_open(&self, now: &mut Option<Instant>) -> bool {
        match self.state {
            Health::Up => true,
            Health::Aside { trial: true, .. } | Health::Down | Health::Unknown => false,
            Health::Aside { until, .. } => until <= *now.get_or_insert_with(Instant::now),
        }
    }

    /// Learns from what became of a request. `enough`: if it failed too often, others shall do without this server.
    pub(super) fn judge(&mut self, outcome: &HealthReport, enough: bool) -> Change {
        match outcome {
            HealthReport::Nothing => {
                // Whoever was to try it did not come so far.
                if let Health::Aside { trial, .. } = &mut self.state {
                    *trial = false;
                }
                Change::None
            }
            HealthReport::Good => {
                self.failures = 0;
                match self.state {
                    Health::Aside { .. } => {
                        self.state = Health::Up;
                        Change::Back
                    }
                    _ => Change::None,
                }
            }
            HealthReport::Failed | HealthReport::Unreachable(_) => {
                self.failures += 1;
                let unreachable = matches!(outcome, HealthReport::Unreachable(_));
                match self.state {
                    Health::Up if unreachable || enough && self.failures >= FAILURES => {
                        self.set_aside(FIRST_PAUSE);
                        Change::Aside
                    }
                    Health::Aside {
                        pause, trial: true, ..
                    } => {
                        self.set_aside((pause * 2).min(LONGEST_PAUSE));
                        Change::None
                    }
                    _ => Change::None,
                }
            }
        }
    }

    /// Learns from a check.
    pub(super) fn judge_check(&mut self, is_well: bool) -> Change {
        let down = self.state == Health::Down;
        if !is_well {
            self.bad_checks += 1;
            if down || self.bad_checks < BAD_CHECKS {
                return Change::None;
            }
            self.state = Health::Down;
            return Change::Down;
        }
        self.bad_checks = 0;
        // A request that tries it says itself how that went.
        if !down && !matches!(self.state, Health::Aside { trial: false, .. }) {
            return Change::None;
        }
        self.state = Health::Up;
        self.failures = 0;
        Change::Back
    }

    /// Learns from a lookup of its name, which is due again after a while. Returns whether it was not known before.
    pub(super) fn judge_lookup(&mut self, is_found: bool, now: Instant) -> bool {
        let first = self.state == Health::Unknown;
        let again = match first && !is_found {
            true => LOOK_UP_SOON,
            false => LOOK_UP_AGAIN,
        };
        self.lookup = Some(now + again);
        if first && is_found {
            self.state = Health::Up;
        }
        first
    }

    /// Has it left alone for so long.
    fn set_aside(&mut self, pause: Duration) {
        let now = Instant::now();
        self.state = Health::Aside {
            until: now + pause,
            pause,
            trial: false,
        };
        // It may have moved.
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

/// How long a server is left alone that failed, and at the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Exchanges, and checks, that must fail in a row.
const FAILURES: u32 = 3;
const BAD_CHECKS: u32 = 2;
/// How often names are looked up, and where a name is not known or its server not reached.
const LOOK_UP_AGAIN: Duration = Duration::from_secs(30);
const LOOK_UP_SOON: Duration = Duration::from_secs(1);
