//! What is done for servers apart from requests: closing idle connections, looking names up, checking servers.
//!
//! [`Directory::tick`] does what is due and never blocks. What may block runs on a short-lived thread, at most one for
//! each server and purpose.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io, mem};

use super::dispatch::Directory;
use super::endpoint::{CheckTerms, Endpoint, probe};
use super::health::{Change, Health};
use super::server::IdleConnection;
use super::state::{DirectoryState, IDLE_RECHECK};
use crate::process;
use crate::stats::Close;

/// What is due.
#[derive(Default)]
pub(super) struct Due {
    /// Connections to be inspected: they have been idle for a moment.
    pub(super) idle: Vec<(Arc<Endpoint>, Vec<IdleConnection>)>,
    /// How long a connection may be idle.
    idle_timeout: Duration,
    lookups: Vec<Arc<Endpoint>>,
    checks: Vec<(Arc<Endpoint>, CheckTerms)>,
}

impl Directory {
    /// Does what is due: closes idle connections that ended or were idle for too long, starts lookups and checks, and
    /// gives out slots that became free because a pause ended. Never blocks. Returns when something is due again.
    pub(super) fn tick(self: &Arc<Self>, now: Instant) -> Option<Instant> {
        let due = self.state.lock().due(now);
        for (endpoint, idle) in due.idle {
            self.check_idle(&endpoint, idle, now, due.idle_timeout);
        }
        for endpoint in due.lookups {
            let (directory, server_endpoint) = (Arc::clone(self), Arc::clone(&endpoint));
            let started = start("lookup", move || {
                let found = server_endpoint.look_up();
                directory.lookup_done(&server_endpoint, found);
            });
            if !started && let Some(server) = self.state.lock().server(&endpoint) {
                server.health.lookup = Some(now + START_SOON);
            }
        }
        for (endpoint, terms) in due.checks {
            let (directory, server_endpoint) = (Arc::clone(self), Arc::clone(&endpoint));
            let started = start("check", move || {
                let result = probe(&server_endpoint, &terms);
                directory.check_done(&server_endpoint, result);
            });
            if !started && let Some(server) = self.state.lock().server(&endpoint) {
                server.check = Some(now + START_SOON);
            }
        }
        self.serve_waiting();
        self.state.lock().next_due(now)
    }

    /// Closes those idle connections of a server that ended or were idle for too long, and gives the others back.
    pub(super) fn check_idle(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        idle: Vec<IdleConnection>,
        now: Instant,
        idle_timeout: Duration,
    ) {
        let mut good = Vec::new();
        for idle in idle {
            match idle.fault() {
                None if now.saturating_duration_since(idle.since) < idle_timeout => good.push(idle),
                None => self.close(idle.conn, Close::Idle),
                Some(reason) => self.close(idle.conn, reason),
            }
        }
        let (unwanted, reason) = {
            let mut state = self.state.lock();
            match (state.close_reason(endpoint), state.server(endpoint)) {
                (None, Some(server)) => {
                    // They are older than connections that became idle meanwhile.
                    for idle in good.into_iter().rev() {
                        server.idle.push_front(idle);
                    }
                    return;
                }
                (reason, _) => (good, reason.unwrap_or(Close::Removed)),
            }
        };
        for idle in unwanted {
            self.close(idle.conn, reason);
        }
    }

    /// A lookup has finished.
    pub(super) fn lookup_done(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        found: io::Result<Vec<SocketAddr>>,
    ) {
        let now = Instant::now();
        let old = match &found {
            Ok(addresses) => endpoint.update(addresses),
            Err(_) => Vec::new(),
        };
        let moved = found.is_ok() && !old.is_empty();
        let (idle, first, was_reported) = {
            let mut state = self.state.lock();
            let interval = state.settings.lookup_interval;
            let Some(server) = state.server(endpoint) else {
                return;
            };
            let error = found.as_ref().err().map(process::reason);
            let result = error.as_deref().map_or(Ok(()), Err);
            let first = server.health.judge_lookup(result, interval, now);
            let was_reported = mem::replace(&mut server.lookup_reported, found.is_err());
            let idle = match moved {
                true => mem::take(&mut server.idle),
                false => VecDeque::new(),
            };
            (idle, first, was_reported)
        };
        for idle in idle {
            self.close(idle.conn, Close::Removed);
        }
        let (site, name) = (&self.site, &endpoint.name);
        match found {
            Err(error) => {
                let level = match first && !was_reported {
                    true => log::Level::Warn,
                    false => log::Level::Debug,
                };
                let so = match first {
                    true => "requests wait",
                    false => "the known addresses are used",
                };
                log::log!(
                    target: &self.log, level,
                    "site {site}: server {name}: the name is not found: {}; {so}", process::reason(&error)
                );
            }
            Ok(addresses) if moved || first => log::info!(
                target: &self.log,
                "site {site}: server {name} is at {}", AddressList(&addresses)
            ),
            Ok(_) => {}
        }
        self.set_alarm();
        self.serve_waiting();
    }

    /// A check has finished.
    pub(super) fn check_done(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        result: Result<(), String>,
    ) {
        let change = {
            let mut state = self.state.lock();
            let interval = state.settings.check.as_ref().map(|check| check.interval);
            let Some(server) = state.server(endpoint) else {
                return;
            };
            server.check = Some(Instant::now() + interval.unwrap_or_default());
            let change = match interval {
                Some(_) => {
                    let result = result.as_ref();
                    server
                        .health
                        .judge_check(result.copied().map_err(String::as_str))
                }
                // Checks were switched off meanwhile: a server that is marked down now would stay down.
                None => Change::None,
            };
            let why = result.as_ref().err().map_or("", String::as_str);
            state.note_change(&endpoint.name, change, &why);
            change
        };
        let (site, name) = (&self.site, &endpoint.name);
        match (change, result) {
            (Change::None, Err(why)) => {
                log::debug!(target: &self.log, "site {site}: server {name}: {why}");
            }
            (Change::None, Ok(())) => {}
            _ => self.report_changes(),
        }
        if change == Change::Back {
            self.serve_waiting();
        }
        self.set_alarm();
    }
}

impl DirectoryState {
    /// Takes what is due now, and marks it as under way.
    pub(super) fn due(&mut self, now: Instant) -> Due {
        let mut due = Due {
            idle_timeout: self.settings.idle_timeout,
            ..Due::default()
        };
        for server in &mut self.servers {
            let endpoint = || Arc::clone(&server.endpoint);
            let some = server
                .idle
                .partition_point(|idle| idle.since + IDLE_RECHECK <= now);
            if some > 0 {
                due.idle
                    .push((endpoint(), server.idle.drain(..some).collect()));
            }
            if server.health.lookup.take_if(|due| *due <= now).is_some() {
                due.lookups.push(endpoint());
            }
            if let Some(check) = &self.settings.check
                && server.health.state != Health::Unknown
                && server.check.take_if(|due| *due <= now).is_some()
            {
                let terms = CheckTerms {
                    check: check.clone(),
                    host: self.settings.host.clone(),
                    send_proxy: self.settings.send_proxy,
                };
                due.checks.push((endpoint(), terms));
            }
        }
        due
    }
}

/// Addresses separated by spaces.
struct AddressList<'a>(&'a [SocketAddr]);

impl fmt::Display for AddressList<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.0.iter().enumerate() {
            let blank = if index > 0 { " " } else { "" };
            write!(out, "{blank}{address}")?;
        }
        Ok(())
    }
}

/// Starts a thread. `false`: the system has none now, which is logged.
pub(super) fn start(name: &str, run: impl FnOnce() + Send + 'static) -> bool {
    let started = process::thread(name, run);
    if let Err(error) = &started {
        log::error!("{error}");
    }
    started.is_ok()
}

/// How soon to try again when no thread could be started.
const START_SOON: Duration = Duration::from_secs(1);
