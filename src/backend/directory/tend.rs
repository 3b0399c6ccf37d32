//! What is done for servers beside requests: idle connections are looked after, names looked up, servers checked.
//!
//! [`Directory::tick`] does what is due and never waits. What may take its time has a thread of its own, one at a time
//! for each server and purpose, which ends by itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io, mem, thread};

use super::health::Health;
use super::place::{Place, ask};
use super::seat::Kept;
use super::{Directory, State};
use crate::net::listener;
use crate::stats::Close;

impl Directory {
    /// Does what is due: closes connections that have ended or were idle for too long, and has names looked up and servers
    /// checked. Never waits.
    pub(super) fn tick(self: &Arc<Self>, now: Instant) {
        let mut old = Vec::new();
        let mut lookups = Vec::new();
        let mut checks = Vec::new();
        let idle = {
            let mut state = self.state.lock();
            let State {
                settings, servers, ..
            } = &mut *state;
            for server in servers {
                let place = || Arc::clone(&server.place);
                let some = server.kept.partition_point(|kept| kept.since + REST <= now);
                if some > 0 {
                    old.push((place(), server.kept.drain(..some).collect::<Vec<_>>()));
                }
                if server.lookup.take_if(|due| *due <= now).is_some() {
                    lookups.push(place());
                }
                if let Some(check) = &settings.check
                    && server.health != Health::Unknown
                    && server.check.take_if(|due| *due <= now).is_some()
                {
                    checks.push((place(), check.clone(), settings.host.clone()));
                }
            }
            settings.idle
        };
        for (place, kept) in old {
            self.look_after(&place, kept, now, idle);
        }
        for place in lookups {
            let directory = Arc::clone(self);
            start("lookup", move || {
                let found = place.look_up();
                directory.looked_up(&place, found);
            });
        }
        for (place, check, host) in checks {
            let directory = Arc::clone(self);
            start("check", move || {
                let result = ask(&place, &check, &host);
                directory.checked(&place, result, check.interval);
            });
        }
    }

    /// Closes those of a server's idle connections that are over, and gives it the others back.
    fn look_after(
        self: &Arc<Self>,
        place: &Arc<Place>,
        kept: Vec<Kept>,
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
            match (state.over(place), state.server(place)) {
                (None, Some(server)) => {
                    // They are older than whatever came back meanwhile.
                    server.kept.splice(..0, good);
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
        place: &Arc<Place>,
        found: io::Result<Vec<SocketAddr>>,
    ) {
        let now = Instant::now();
        let old = match &found {
            Ok(addresses) => place.set(addresses),
            Err(_) => Vec::new(),
        };
        let moved = found.is_ok() && !old.is_empty();
        let (kept, first) = {
            let mut state = self.state.lock();
            let Some(server) = state.server(place) else {
                return;
            };
            let first = server.health == Health::Unknown;
            let again = match found {
                Ok(_) => LOOK_UP_AGAIN,
                Err(_) if first => LOOK_UP_SOON,
                Err(_) => LOOK_UP_AGAIN,
            };
            server.lookup = Some(now + again);
            if found.is_ok() && first {
                server.health = Health::Up;
            }
            match moved {
                true => (mem::take(&mut server.kept), first),
                false => (Vec::new(), first),
            }
        };
        for kept in kept {
            self.close(kept.conn, Close::Removed);
        }
        let (site, name) = (&self.site, &place.name);
        match found {
            Err(error) if first => log::warn!(
                target: &self.log,
                "site {site}: server {name}: the name is not found: {}; requests wait", listener::reason(&error)
            ),
            Err(error) => log::debug!(
                target: &self.log,
                "site {site}: server {name}: the name is not found: {}; the known addresses are used",
                listener::reason(&error)
            ),
            Ok(addresses) if moved || first => log::info!(
                target: &self.log,
                "site {site}: server {name} is at {}", List(&addresses)
            ),
            Ok(_) => {}
        }
        self.deal();
    }

    /// A server was checked.
    fn checked(
        self: &Arc<Self>,
        place: &Arc<Place>,
        result: Result<(), String>,
        interval: Duration,
    ) {
        let (up, down) = {
            let mut state = self.state.lock();
            let Some(server) = state.server(place) else {
                return;
            };
            server.check = Some(Instant::now() + interval);
            let down = server.health == Health::Down;
            match &result {
                Ok(()) => {
                    server.bad_checks = 0;
                    let up = down || matches!(server.health, Health::Aside { trial: false, .. });
                    if up {
                        server.health = Health::Up;
                        server.failures = 0;
                    }
                    (up, false)
                }
                Err(_) => {
                    server.bad_checks += 1;
                    let down = !down && server.bad_checks >= BAD_CHECKS;
                    if down {
                        server.health = Health::Down;
                    }
                    (false, down)
                }
            }
        };
        let (site, name) = (&self.site, &place.name);
        match result {
            Err(why) if down => log::warn!(
                target: &self.log,
                "site {site}: server {name} is down: {why}"
            ),
            Err(why) => log::debug!(target: &self.log, "site {site}: server {name}: {why}"),
            Ok(()) if up => log::info!(target: &self.log, "site {site}: server {name} is back"),
            Ok(()) => {}
        }
        if up {
            self.deal();
        }
    }
}

/// Addresses with blanks between.
struct List<'a>(&'a [SocketAddr]);

impl fmt::Display for List<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.0.iter().enumerate() {
            let blank = if index > 0 { " " } else { "" };
            write!(out, "{blank}{address}")?;
        }
        Ok(())
    }
}

pub(super) fn start(name: &str, run: impl FnOnce() + Send + 'static) {
    // Without a thread now there will be one the next time; until then everything stays as it is.
    if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(run) {
        log::error!("thread {name}: {}", listener::reason(&error));
    }
}

/// Checks that must fail in a row.
const BAD_CHECKS: u32 = 2;
/// Idle connections are looked at when they have been idle for so long.
const REST: Duration = Duration::from_secs(1);
/// How often names are looked up, and where a name is not known or its server not reached.
const LOOK_UP_AGAIN: Duration = Duration::from_secs(30);
pub(super) const LOOK_UP_SOON: Duration = Duration::from_secs(1);
