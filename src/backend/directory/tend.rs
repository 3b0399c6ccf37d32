//! What is done for servers beside requests: idle connections are looked after, names looked up, servers checked.
//!
//! [`Directory::tick`] does what is due and never waits. What may take its time has a thread of its own, one at a time
//! for each server and purpose, which ends by itself.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io, mem};

use super::dispatch::Directory;
use super::endpoint::{Endpoint, ask};
use super::health::{Change, Health};
use super::server::IdleConnection;
use super::state::{DirectoryState, REST};
use crate::config;
use crate::process;
use crate::stats::Close;

/// What is due.
#[derive(Default)]
pub(super) struct Due {
    /// Connections that have been idle for a moment, to be looked at.
    pub(super) rested: Vec<(Arc<Endpoint>, Vec<IdleConnection>)>,
    /// How long they may be.
    idle: Duration,
    lookups: Vec<Arc<Endpoint>>,
    checks: Vec<(Arc<Endpoint>, config::CheckConfig, String)>,
}

impl Directory {
    /// Does what is due: closes connections that have ended or were idle for too long, has names looked up and servers
    /// checked, and deals seats that have become free because a pause has ended. Never waits. Returns when something is due
    /// again.
    pub(super) fn tick(self: &Arc<Self>, now: Instant) -> Option<Instant> {
        let due = self.state.lock().due(now);
        for (endpoint, kept) in due.rested {
            self.look_after(&endpoint, kept, now, due.idle);
        }
        for endpoint in due.lookups {
            let (directory, own) = (Arc::clone(self), Arc::clone(&endpoint));
            let started = start("lookup", move || {
                let found = own.look_up();
                directory.looked_up(&own, found);
            });
            if !started && let Some(server) = self.state.lock().server(&endpoint) {
                server.health.lookup = Some(now + START_SOON);
            }
        }
        for (endpoint, check, host) in due.checks {
            let (directory, own) = (Arc::clone(self), Arc::clone(&endpoint));
            let started = start("check", move || {
                let result = ask(&own, &check, &host);
                directory.checked(&own, result);
            });
            if !started && let Some(server) = self.state.lock().server(&endpoint) {
                server.check = Some(now + START_SOON);
            }
        }
        self.deal();
        self.state.lock().next_due(now)
    }

    /// Closes those of a server's idle connections that are over, and gives it the others back.
    pub(super) fn look_after(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        kept: Vec<IdleConnection>,
        now: Instant,
        idle: Duration,
    ) {
        let mut good = Vec::new();
        for kept in kept {
            match kept.fault() {
                None if now.saturating_duration_since(kept.since) < idle => good.push(kept),
                None => self.close(kept.conn, Close::Idle),
                Some(reason) => self.close(kept.conn, reason),
            }
        }
        let (over, reason) = {
            let mut state = self.state.lock();
            match (state.over(endpoint), state.server(endpoint)) {
                (None, Some(server)) => {
                    // They are older than whatever came back meanwhile.
                    for kept in good.into_iter().rev() {
                        server.kept.push_front(kept);
                    }
                    return;
                }
                (reason, _) => (good, reason.unwrap_or(Close::Removed)),
            }
        };
        for kept in over {
            self.close(kept.conn, reason);
        }
    }

    /// A name was looked up.
    pub(super) fn looked_up(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        found: io::Result<Vec<SocketAddr>>,
    ) {
        let now = Instant::now();
        let old = match &found {
            Ok(addresses) => endpoint.set(addresses),
            Err(_) => Vec::new(),
        };
        let moved = found.is_ok() && !old.is_empty();
        let (kept, first, told) = {
            let mut state = self.state.lock();
            let Some(server) = state.server(endpoint) else {
                return;
            };
            let first = server.health.judge_lookup(found.is_ok(), now);
            let told = mem::replace(&mut server.told, found.is_err());
            let kept = match moved {
                true => mem::take(&mut server.kept),
                false => VecDeque::new(),
            };
            (kept, first, told)
        };
        for kept in kept {
            self.close(kept.conn, Close::Removed);
        }
        let (site, name) = (&self.site, &endpoint.name);
        match found {
            Err(error) => {
                let level = match first && !told {
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
        self.remind();
        self.deal();
    }

    /// A server was checked.
    pub(super) fn checked(self: &Arc<Self>, endpoint: &Arc<Endpoint>, result: Result<(), String>) {
        let change = {
            let mut state = self.state.lock();
            let interval = state.settings.check.as_ref().map(|check| check.interval);
            let Some(server) = state.server(endpoint) else {
                return;
            };
            server.check = Some(Instant::now() + interval.unwrap_or_default());
            match interval {
                Some(_) => server.health.judge_check(result.is_ok()),
                // There are no checks any more: what is down now would stay so.
                None => Change::None,
            }
        };
        let (site, name) = (&self.site, &endpoint.name);
        match result {
            Err(why) if change == Change::Down => log::warn!(
                target: &self.log,
                "site {site}: server {name} is down: {why}"
            ),
            Err(why) => log::debug!(target: &self.log, "site {site}: server {name}: {why}"),
            Ok(()) if change == Change::Back => {
                log::info!(target: &self.log, "site {site}: server {name} is back");
                self.deal();
            }
            Ok(()) => {}
        }
        self.remind();
    }
}

impl DirectoryState {
    /// What is due now, which is marked as under way.
    pub(super) fn due(&mut self, now: Instant) -> Due {
        let mut due = Due {
            idle: self.settings.idle,
            ..Due::default()
        };
        for server in &mut self.servers {
            let endpoint = || Arc::clone(&server.endpoint);
            let some = server.kept.partition_point(|kept| kept.since + REST <= now);
            if some > 0 {
                due.rested
                    .push((endpoint(), server.kept.drain(..some).collect()));
            }
            if server.health.lookup.take_if(|due| *due <= now).is_some() {
                due.lookups.push(endpoint());
            }
            if let Some(check) = &self.settings.check
                && server.health.state != Health::Unknown
                && server.check.take_if(|due| *due <= now).is_some()
            {
                due.checks
                    .push((endpoint(), check.clone(), self.settings.host.clone()));
            }
        }
        due
    }
}

/// Addresses with blanks between.
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

/// Starts a thread. `false`: there is none to be had now, which the log says.
pub(super) fn start(name: &str, run: impl FnOnce() + Send + 'static) -> bool {
    let started = process::thread(name, run);
    if let Err(error) = &started {
        log::error!("{error}");
    }
    started.is_ok()
}

/// When the system gave no thread, it is asked again after so long.
const START_SOON: Duration = Duration::from_secs(1);
