//! The servers of a directory at one moment, for the status address.

use std::sync::Arc;
use std::time::Duration;

use super::dispatch::Directory;
use super::health::{Health, ServerCounts};

/// A server at one moment.
#[derive(Clone, Debug)]
pub struct ServerState {
    /// The address, as in logs.
    pub name: Arc<str>,
    /// Whether it gets requests, as far as that depends on itself.
    pub condition: ServerCondition,
    /// For how long.
    pub since: Duration,
    /// Why it gets none, or only a trial now and then.
    pub why: Option<String>,
    /// Whether it gets no requests until further notice.
    pub is_drained: bool,
    /// The requests that it has, and how many it may have at once.
    pub busy: usize,
    /// The same.
    pub slots: usize,
    /// Idle connections.
    pub idle: usize,
    /// What it has done so far.
    pub counts: ServerCounts,
    /// Whether its health is checked.
    pub is_checked: bool,
    /// Why the last check has failed, if it did.
    pub check_error: Option<String>,
}

/// Whether a server gets requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerCondition {
    /// It does.
    Up,
    /// It has failed, and gets a trial now and then.
    Aside,
    /// Its checks fail.
    Down,
    /// Its name is not found.
    Unknown,
}

impl ServerCondition {
    /// The word for reports.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Aside => "aside",
            Self::Down => "down",
            Self::Unknown => "unknown",
        }
    }
}

impl Directory {
    /// The servers now.
    pub(super) fn list(&self) -> Vec<ServerState> {
        let state = self.state.lock();
        let is_checked = state.settings.check.is_some();
        let servers = state.servers.iter().filter(|server| !server.removed);
        let list = servers.map(|server| ServerState {
            name: Arc::clone(&server.endpoint.name),
            condition: match server.health.state {
                Health::Up => ServerCondition::Up,
                Health::Aside { .. } => ServerCondition::Aside,
                Health::Down => ServerCondition::Down,
                Health::Unknown => ServerCondition::Unknown,
            },
            since: server.health.since.elapsed(),
            why: server.health.why.clone(),
            is_drained: server.drained,
            busy: server.busy,
            slots: server.slots,
            idle: server.idle.len(),
            counts: server.health.counts,
            is_checked,
            check_error: server.health.check_error.clone().filter(|_| is_checked),
        });
        list.collect()
    }
}
