//! Sites, and the servers that the proxy connects to (`proxy: traditional`).

use std::time::Instant;

use serde::Serialize;

use super::backends::BackendCounts;
use super::requests::RequestView;
use crate::backend::directory::{ServerCondition, ServerState};
use crate::server::history::Sample;
use crate::server::snapshot::Site;

/// A site among others.
#[derive(Serialize)]
pub(in crate::server::admin) struct SiteView {
    pub(in crate::server::admin) name: String,
    pub(in crate::server::admin) incoming: Vec<String>,
    default: bool,
    /// What an operator has switched: `paused`, `drained`, `maintenance`. If nothing: `serving`, or `down` if no backend
    /// is connected and no server is up.
    state: Vec<&'static str>,
    /// Where backends dial in; empty if none do.
    pub(in crate::server::admin) dial_in: Vec<String>,
    /// Those that have dialled in.
    pub(in crate::server::admin) backends: BackendCounts,
    /// Those that the proxy connects to, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::server::admin) servers: Option<Vec<ServerView>>,
    /// The servers stand in the configuration, so there is a bounded number of them.
    #[serde(skip)]
    pub(in crate::server::admin) has_fixed_servers: bool,
    /// Requests that wait for a backend, or for the end of a pause.
    pub(in crate::server::admin) waiting: usize,
    pub(in crate::server::admin) requests: RequestView,
}

/// A server that the proxy connects to.
#[derive(Serialize)]
pub(in crate::server::admin) struct ServerView {
    /// As in logs.
    pub(in crate::server::admin) address: String,
    /// `up`, `aside` (it has failed, and gets a trial now and then), `down` (its checks fail) or `unknown` (its name is
    /// not found).
    pub(in crate::server::admin) state: &'static str,
    /// For how many seconds.
    since: u64,
    /// Why it is not up.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// It gets no requests until further notice.
    pub(in crate::server::admin) drained: bool,
    /// The requests that it has, how many it may have at once, and idle connections to it.
    pub(in crate::server::admin) busy: usize,
    slots: usize,
    idle: usize,
    /// Complete exchanges; and those that failed, with attempts to connect.
    pub(in crate::server::admin) requests: u64,
    pub(in crate::server::admin) failures: u64,
    /// `None`: it is not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::server::admin) checks: Option<CheckView>,
}

/// The checks of a server's health so far.
#[derive(Serialize)]
pub(in crate::server::admin) struct CheckView {
    pub(in crate::server::admin) passed: u64,
    pub(in crate::server::admin) failed: u64,
    /// Why the last one has failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl SiteView {
    pub(super) fn new(site: &Site, backends: BackendCounts, now: Sample) -> Self {
        let servers = site.servers.as_ref();
        let list = servers.map(|servers| servers.list());
        let list: Option<Vec<_>> = list.map(|list| list.into_iter().map(ServerView::new).collect());
        let dial_in: Vec<_> = site.addresses().map(str::to_owned).collect();
        let is_fixed = servers.is_some_and(|servers| servers.are_fixed());
        let is_down = match &list {
            Some(list) => is_fixed && !list.iter().any(|server| server.state == UP),
            None => !dial_in.is_empty() && backends.connected == 0,
        };
        Self {
            name: site.settings.name.clone(),
            incoming: site.settings.incoming.clone(),
            default: site.settings.default,
            state: state(site, is_down),
            dial_in,
            backends,
            servers: list,
            has_fixed_servers: is_fixed,
            waiting: site.waiting.count(),
            requests: RequestView::new(&site.stats, now),
        }
    }
}

fn state(site: &Site, is_down: bool) -> Vec<&'static str> {
    let switches = &site.switches;
    let maintenance = switches.is_in_maintenance() || site.pages.in_maintenance(Instant::now());
    let switched = [
        (switches.pause.is_on(), "paused"),
        (switches.is_drained(), "drained"),
        (maintenance, "maintenance"),
    ];
    let on = switched.iter().filter(|(on, _)| *on);
    let words: Vec<_> = on.map(|(_, word)| *word).collect();
    match (words.is_empty(), is_down) {
        (false, _) => words,
        (true, true) => vec!["down"],
        (true, false) => vec!["serving"],
    }
}

impl ServerView {
    fn new(server: ServerState) -> Self {
        let counts = server.counts;
        Self {
            address: server.name.to_string(),
            state: server.condition.word(),
            since: server.since.as_secs(),
            why: server.why,
            drained: server.is_drained,
            busy: server.busy,
            slots: server.slots,
            idle: server.idle,
            requests: counts.requests,
            failures: counts.failures,
            checks: server.is_checked.then_some(CheckView {
                passed: counts.good_checks,
                failed: counts.bad_checks,
                error: server.check_error,
            }),
        }
    }
}

pub(in crate::server::admin) const UP: &str = ServerCondition::Up.word();
