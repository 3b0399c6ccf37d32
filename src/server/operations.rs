//! What an operator does with sites and backends while the server runs: pause, drain, maintenance.
//!
//! A program calls methods of the [`Server`](crate::server::Server), in [`operate`](super::operate); `swiftiplyctl` reaches
//! them through the status address. All of them take effect at
//! once, cut no request, and last until they are undone: also over a reload, as long as the configuration has a site
//! with that name, and over an upgrade. They end with the server.
//!
//! A site is named as in logs, or by any of its host names.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::shared::Shared;
use super::snapshot::{Site, Snapshot};
use crate::amount::counted;
use crate::backend::dial_in::DialInControl;
use crate::backend::drained::{Drained, DrainedName};
use crate::backend::registration::ConnectedBackend;

/// Why an operation was refused. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OperationError {
    /// There is no site with this name; some of those that exist.
    NoSite(String, Vec<String>),
    /// Neither a site nor a connected backend nor a server has this name.
    NoBackend(String),
    /// This is not drained.
    NotDrained(String),
    /// This site is not paused.
    NotPaused(String),
    /// Another process has replaced this one.
    Replaced,
}

/// What was drained.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DrainedBackends {
    /// The backends of a site: this many of its requests waited.
    Site(String),
    /// Backends that dialled in: this many of them are connected.
    Connected(usize),
    /// A server that is connected to.
    Server,
}

/// The operations on a running server.
pub(crate) struct Operations<'s> {
    pub(crate) shared: &'s Shared,
    /// Lists connected backends.
    pub(crate) control: &'s DialInControl,
}

impl Operations<'_> {
    /// See [`Server::pause`](crate::server::Server::pause).
    pub(crate) fn pause(&self, site: &str, longest: Duration) -> Result<(), OperationError> {
        self.switch_site(site, |site| {
            let name = &site.settings.name;
            match site.switches.pause.begin(longest) {
                true => log::info!(
                    target: &site.log,
                    "site {name}: paused; requests wait for it to be resumed, {longest:?} at most"
                ),
                false => log::info!(
                    target: &site.log,
                    "site {name}: still paused; requests wait {longest:?} at most"
                ),
            }
            // Those that wait for a backend now wait for the end of the pause.
            site.recall();
        })
    }

    /// See [`Server::resume`](crate::server::Server::resume).
    pub(crate) fn resume(&self, site: &str) -> Result<usize, OperationError> {
        let resumed = self.switch_site(site, |site| {
            let name = site.settings.name.clone();
            let Some(waiting) = site.switches.pause.end() else {
                return Err(OperationError::NotPaused(name));
            };
            let requests = counted(waiting, "request");
            log::info!(target: &site.log, "site {name}: resumed; {requests} waited");
            Ok(waiting)
        });
        resumed?
    }

    /// See [`Server::set_maintenance`](crate::server::Server::set_maintenance).
    pub(crate) fn set_maintenance(&self, site: &str, on: bool) -> Result<bool, OperationError> {
        self.switch_site(site, |site| {
            let changed = site.switches.set_maintenance(on);
            if changed {
                let word = if on { "begins" } else { "ends" };
                let name = &site.settings.name;
                log::info!(target: &site.log, "site {name}: maintenance {word}");
            }
            changed
        })
    }

    /// See [`Server::drain_backends`](crate::server::Server::drain_backends).
    pub(crate) fn drain(&self, name: &str) -> Result<DrainedBackends, OperationError> {
        self.switch(|| self.drain_named(name))
    }

    fn drain_named(&self, name: &str) -> Result<DrainedBackends, OperationError> {
        if let Some(site) = self.shared.snapshot().called(name) {
            if site.switches.set_drained(true) {
                let name = &site.settings.name;
                log::info!(target: &site.log, "site {name}: drained");
            }
            // Those that wait go to the backup, or get 503.
            site.recall();
            return Ok(DrainedBackends::Site(site.settings.name.clone()));
        }
        let (name, drained) = self.backend_called(name)?;
        self.change_drained(|list| list.add(name));
        Ok(drained)
    }

    /// See [`Server::undrain`](crate::server::Server::undrain).
    pub(crate) fn undrain(&self, name: &str) -> Result<(), OperationError> {
        self.switch(|| self.undrain_named(name))
    }

    fn undrain_named(&self, name: &str) -> Result<(), OperationError> {
        if let Some(site) = self.shared.snapshot().called(name) {
            let own = site.settings.name.clone();
            if !site.switches.set_drained(false) {
                return Err(OperationError::NotDrained(own));
            }
            log::info!(target: &site.log, "site {own}: not drained any more");
            return Ok(());
        }
        let typed = machine(name).map(DrainedName::Machine);
        let is_called = |drained: &&DrainedName| {
            drained.to_string() == name || typed.as_ref() == Some(*drained)
        };
        let list = Arc::clone(&self.shared.drained.lock());
        let Some(found) = list.names().find(is_called) else {
            return Err(OperationError::NotDrained(name.to_owned()));
        };
        self.change_drained(|list| list.remove(found));
        Ok(())
    }

    /// How many requests a site's backends have, or the backends or the server with this name. 0 after a pause or a drain: no
    /// request follows.
    pub(crate) fn in_flight(&self, name: &str) -> Result<usize, OperationError> {
        let snapshot = self.shared.snapshot();
        if let Some(site) = snapshot.called(name) {
            return Ok(site.switches.in_flight());
        }
        let (found, drained) = self.backend_called(name)?;
        Ok(match drained {
            DrainedBackends::Server => {
                let servers = snapshot.servers().flat_map(|servers| servers.list());
                let named = servers.filter(|server| *server.name.to_string() == *name);
                named.map(|server| server.busy).sum()
            }
            _ => {
                let is_busy = |one: &ConnectedBackend| {
                    !one.is_idle && found.is_backend(&one.id, one.name.as_ref(), &one.peer)
                };
                let connected = self.control.connected();
                connected.iter().filter(|one| is_busy(one)).count()
            }
        })
    }

    /// Changes something, in this process and in those that it has replaced.
    fn switch<T>(
        &self,
        act: impl FnOnce() -> Result<T, OperationError>,
    ) -> Result<T, OperationError> {
        let switching = self.shared.switching.begin(&self.shared.is_replaced);
        let mut switching = switching.ok_or(OperationError::Replaced)?;
        let result = act();
        switching.changed(|| switched(self.shared));
        result
    }

    fn switch_site<T>(
        &self,
        name: &str,
        act: impl FnOnce(&Site) -> T,
    ) -> Result<T, OperationError> {
        self.switch(|| {
            let snapshot = self.shared.snapshot();
            match snapshot.called(name) {
                Some(site) => Ok(act(site)),
                None => Err(no_site(name, &snapshot)),
            }
        })
    }

    /// The backends or the server with this name.
    fn backend_called(&self, name: &str) -> Result<(DrainedName, DrainedBackends), OperationError> {
        let connected = self.control.connected();
        let count = |name: &DrainedName| {
            let named = |backend: &&ConnectedBackend| {
                name.is_backend(&backend.id, backend.name.as_ref(), &backend.peer)
            };
            connected.iter().filter(named).count()
        };
        let list = Arc::clone(&self.shared.drained.lock());
        let with_id = connected.iter().find(|one| one.id.to_string() == name);
        let id = with_id.map(|backend| DrainedName::Id(backend.id));
        let mut names = connected.iter().filter_map(|one| one.name.as_ref());
        let with_name = || {
            let found = names.find(|one| one.as_str() == name);
            found.cloned().map(DrainedName::Name)
        };
        let with_ip = || machine(name).map(DrainedName::Machine);
        let is_known =
            |name: &DrainedName| count(name) > 0 || list.names().any(|known| known == name);
        if let Some(name) = id.or_else(with_name).or_else(with_ip).filter(is_known) {
            let count = count(&name);
            return Ok((name, DrainedBackends::Connected(count)));
        }
        let snapshot = self.shared.snapshot();
        match snapshot.servers().any(|servers| servers.has(name)) {
            true => Ok((
                DrainedName::Server(name.to_owned()),
                DrainedBackends::Server,
            )),
            false => Err(OperationError::NoBackend(name.to_owned())),
        }
    }

    /// Changes the list of drained backends, and applies it.
    fn change_drained(&self, change: impl FnOnce(&mut Drained) -> bool) {
        // Held until the end, so that a reload does not replace what it is applied to.
        let mut current = self.shared.drained.lock();
        let mut drained = Drained::clone(&current);
        if !change(&mut drained) {
            return;
        }
        let names: Vec<_> = drained.names().map(ToString::to_string).collect();
        match names.is_empty() {
            true => log::info!("no backend is drained any more"),
            false => log::info!("drained backends are now: {}", names.join(", ")),
        }
        *current = Arc::new(drained);
        self.shared.snapshot().set_drained(&current);
    }
}

/// An IP address as text, perhaps in brackets; in the form of [`Peer::ip`](crate::net::stream::Peer::ip).
fn machine(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let ip: IpAddr = bare.unwrap_or(text).parse().ok()?;
    Some(ip.to_canonical())
}

/// What is switched, as texts for another process of this server.
pub(super) fn switched(shared: &Shared) -> Vec<String> {
    let snapshot = shared.snapshot();
    let sites = snapshot.sites.iter().flat_map(|site| {
        let (name, switches) = (&site.settings.name, &site.switches);
        let paused = switches.pause.longest();
        let paused = paused.map(|longest| format!("{PAUSED}{} {name}", longest.as_millis()));
        let maintenance = switches.is_in_maintenance();
        let maintenance = maintenance.then(|| format!("{MAINTENANCE}{name}"));
        let drained = switches.is_drained();
        let drained = drained.then(|| format!("{DRAINED_SITE}{name}"));
        paused.into_iter().chain(maintenance).chain(drained)
    });
    let sites: Vec<_> = sites.collect();
    let backends = Arc::clone(&shared.drained.lock());
    let backends = backends.names().map(DrainedName::to_text);
    sites.into_iter().chain(backends).collect()
}

/// What is to be switched at a site.
#[derive(Default)]
struct WantedSwitches {
    pause: Option<Duration>,
    maintenance: bool,
    drained: bool,
}

/// Switches the same as another process, by its texts, and nothing else. What is not in the configuration any more is left
/// out.
pub(super) fn restore(shared: &Shared, switched: &[String]) {
    let snapshot = shared.snapshot();
    let mut wanted: HashMap<&str, WantedSwitches> = HashMap::new();
    let mut drained = Drained::default();
    for text in switched {
        if let Some(name) = text.strip_prefix(MAINTENANCE) {
            let site = wanted_at(&mut wanted, &snapshot, name);
            site.into_iter().for_each(|site| site.maintenance = true);
        } else if let Some(name) = text.strip_prefix(DRAINED_SITE) {
            let site = wanted_at(&mut wanted, &snapshot, name);
            site.into_iter().for_each(|site| site.drained = true);
        } else if let Some((longest, name)) = text.strip_prefix(PAUSED).and_then(time_and_name) {
            let site = wanted_at(&mut wanted, &snapshot, name);
            site.into_iter().for_each(|site| site.pause = Some(longest));
        } else if let Some(name) = DrainedName::from_text(text) {
            drained.add(name);
        }
    }
    for site in &snapshot.sites {
        let wanted = wanted.remove(&*site.settings.name).unwrap_or_default();
        let is_paused = match wanted.pause {
            Some(longest) => site.switches.pause.begin(longest),
            None => {
                site.switches.pause.end();
                false
            }
        };
        site.switches.set_maintenance(wanted.maintenance);
        let is_drained = site.switches.set_drained(wanted.drained) && wanted.drained;
        if is_paused || is_drained {
            site.recall();
        }
    }
    let mut current = shared.drained.lock();
    *current = Arc::new(drained);
    snapshot.set_drained(&current);
}

fn wanted_at<'s, 'w>(
    wanted: &'w mut HashMap<&'s str, WantedSwitches>,
    snapshot: &'s Snapshot,
    name: &str,
) -> Option<&'w mut WantedSwitches> {
    let site = snapshot.called(name)?;
    Some(wanted.entry(&site.settings.name).or_default())
}

fn time_and_name(text: &str) -> Option<(Duration, &str)> {
    let (time, name) = text.split_once(' ')?;
    Some((Duration::from_millis(time.parse().ok()?), name))
}

pub(super) fn no_site(name: &str, snapshot: &Snapshot) -> OperationError {
    let known = snapshot.sites.iter().map(|site| site.settings.name.clone());
    OperationError::NoSite(name.to_owned(), known.take(MOST_NAMES + 1).collect())
}

impl fmt::Display for OperationError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSite(name, known) => {
                let more = if known.len() > MOST_NAMES {
                    ", ..."
                } else {
                    ""
                };
                let known = known[..known.len().min(MOST_NAMES)].join(", ");
                write!(out, "no site is called {name:?}; there are {known}{more}")
            }
            Self::NoBackend(name) => write!(
                out,
                "{name:?} is neither a site, nor the name, id or IP address of a connected backend, nor the address of a server"
            ),
            Self::NotDrained(name) => write!(out, "{name} is not drained"),
            Self::NotPaused(name) => write!(out, "site {name} is not paused"),
            Self::Replaced => out.write_str(
                "another process has just replaced this one; give the command to that one",
            ),
        }
    }
}

impl std::error::Error for OperationError {}

const PAUSED: &str = "paused ";
const MAINTENANCE: &str = "maintenance ";
const DRAINED_SITE: &str = "drained-site ";
/// How many sites a message names.
const MOST_NAMES: usize = 10;
