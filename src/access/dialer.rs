//! Which servers are dialled, and when.
//!
//! Each address that a `connect` stands for is a [`ServerAddress`] with as many lines as the application may get requests. Host
//! names are looked up again every [`LOOK_UP`]; addresses that are gone lose their lines, new ones get theirs.
//!
//! While a server cannot be dialled, one line of it tries for all of them, as its [`Backoff`] says: three times soon, then
//! more and more seldom. A machine that says that nobody listens there is asked again after a second at most, since
//! its server may be starting anew; one that does not answer, or does not let us in, after 20 s at most.

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io};

use parking_lot::MutexGuard;

use super::connection::{self, ConnectionHandle};
use super::{AccessShared, RunningConfig, spawn};
use crate::client::Backoff;
use crate::config::Address;
use crate::net::stream::Stream;
use crate::process::reason;

/// The servers that are dialled: the fleet thread's own.
#[derive(Default)]
struct Dialer {
    servers: Vec<Arc<ServerAddress>>,
    /// What host names stood for the last time.
    names: HashMap<Address, Vec<SocketAddr>>,
    next: u64,
}

/// One address of a server.
#[derive(Debug)]
pub(super) struct ServerAddress {
    number: u64,
    at: DialTarget,
    /// The name under which it is known to TLS.
    name: String,
    /// The [`generation`](super::RunningConfig::generation) of the greeting with which it is dialled.
    greeting: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum DialTarget {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What is known of dialling a server.
#[derive(Debug)]
pub(super) struct DialState {
    backoff: Backoff,
    failing: bool,
    /// A line tries for all.
    scouting: bool,
    next: Instant,
    /// Lines that are in.
    lines: usize,
    /// What the log has said: nothing yet, that it is dialled (empty), or why not.
    told: Option<String>,
    burst: Option<DialBurst>,
}

/// Lines that a server has let in, and lines that were lost, since the last time that the log said so.
#[derive(Debug)]
struct DialBurst {
    server: String,
    /// When they are reported.
    due: Instant,
    dialled: usize,
    lost: usize,
}

/// The permission to dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DialPermission {
    /// As one of many.
    Plain,
    /// As the one that tries for all.
    Probe,
}

impl ServerAddress {
    pub(super) fn connect(&self, patience: Duration) -> io::Result<Stream> {
        match &self.at {
            DialTarget::Tcp(address) => Stream::connect_to(*address, patience),
            DialTarget::Unix(path) => Stream::connect_unix(path, patience),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn is_same(&self, other: &Self) -> bool {
        (&self.at, &self.name, self.greeting) == (&other.at, &other.name, other.greeting)
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            DialTarget::Tcp(address) if address.ip().to_string() == self.name => address.fmt(out),
            DialTarget::Tcp(address) => write!(out, "{} ({address})", self.name),
            DialTarget::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

impl Default for DialState {
    fn default() -> Self {
        Self {
            backoff: Backoff::new(LONGEST),
            failing: false,
            scouting: false,
            next: Instant::now(),
            lines: 0,
            told: None,
            burst: None,
        }
    }
}

impl DialState {
    /// A line is in, or was lost. Returns what is to be logged at once: the first of many, and what is news in any case.
    fn note(&mut self, server: &ServerAddress, is_in: bool, is_news: bool) -> Option<String> {
        match &mut self.burst {
            Some(burst) if !is_news => {
                *(if is_in {
                    &mut burst.dialled
                } else {
                    &mut burst.lost
                }) += 1;
                return None;
            }
            Some(_) => {}
            None => self.burst = Some(DialBurst::new(server.to_string())),
        }
        let verb = if is_in { "dialled in" } else { "disconnected" };
        Some(format!("server {server}: {verb}, {} now", self.lines))
    }

    /// What has happened since the last line in the log, if that is due. When nothing has, the next line is logged at once
    /// again.
    fn report(&mut self, now: Instant) -> Option<String> {
        let DialBurst {
            server,
            dialled,
            lost,
            ..
        } = self.burst.take_if(|burst| burst.due <= now)?;
        let what = match (dialled, lost) {
            (0, 0) => return None,
            (dialled, 0) => format!("{dialled} more dialled in"),
            (0, lost) => format!("{lost} more disconnected"),
            (dialled, lost) => format!("{dialled} more dialled in and {lost} disconnected"),
        };
        let line = format!("server {server}: {what}, {} now", self.lines);
        self.burst = Some(DialBurst::new(server));
        Some(line)
    }
}

impl DialBurst {
    fn new(server: String) -> Self {
        Self {
            server,
            due: Instant::now() + BURST,
            dialled: 0,
            lost: 0,
        }
    }
}

/// Sees to it that the servers of the configuration are dialled, until there is a drain, and reports bursts of lines.
pub(super) fn run(shared: &Arc<AccessShared>) {
    let mut fleet = Dialer::default();
    loop {
        shared.state.lock().changed = false;
        fleet.apply(shared);
        let until = Instant::now() + LOOK_UP;
        let mut state = shared.state.lock();
        while !state.draining && !state.changed && Instant::now() < until {
            let bursts = state.dialling.values();
            let bursts = bursts.filter_map(|dialling| dialling.burst.as_ref());
            let next = bursts.map(|burst| burst.due).chain([until]).min();
            shared.changed.wait_until(&mut state, next.unwrap_or(until));
            let now = Instant::now();
            let dialling = state.dialling.values_mut();
            let lines: Vec<_> = dialling.filter_map(|one| one.report(now)).collect();
            if !lines.is_empty() {
                MutexGuard::unlocked(&mut state, || {
                    lines.iter().for_each(|line| log::info!("{line}"));
                });
            }
        }
        if state.draining {
            return;
        }
    }
}

impl Dialer {
    /// Looks up all names, and gives each server as many lines as the configuration says.
    fn apply(&mut self, shared: &Arc<AccessShared>) {
        let settings = shared.settings();
        let wanted = self.wanted(&settings);
        let (stay, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.servers)
            .into_iter()
            .partition(|server| wanted.iter().any(|other| other.is_same(server)));
        for server in &gone {
            shared.retire(server);
        }
        self.servers = stay;
        for server in wanted {
            if !self.servers.iter().any(|known| known.is_same(&server)) {
                self.servers.push(Arc::new(server));
            }
        }
        for server in &self.servers {
            shared.set_lines(server, settings.config.connections);
        }
        shared.forget_others(&self.servers);
    }

    /// The servers of a configuration, each once, by names looked up now.
    fn wanted(&mut self, settings: &RunningConfig) -> Vec<ServerAddress> {
        let addresses = &settings.config.connect;
        self.names.retain(|name, _| addresses.contains(name));
        let mut wanted: Vec<ServerAddress> = Vec::new();
        for address in addresses {
            let found = look_up(address);
            for at in self.remember(address, found) {
                if !wanted.iter().any(|other| other.at == at) {
                    wanted.push(ServerAddress {
                        number: self.next,
                        at,
                        name: name(address),
                        greeting: settings.generation,
                    });
                    self.next += 1;
                }
            }
        }
        wanted
    }

    /// The addresses that a name stands for; those of before if it could not be looked up.
    fn remember(
        &mut self,
        address: &Address,
        found: io::Result<Vec<SocketAddr>>,
    ) -> Vec<DialTarget> {
        if let Address::Unix(path) = address {
            return vec![DialTarget::Unix(path.clone())];
        }
        let known = self.names.get(address);
        match found {
            Ok(found) => {
                if known.is_some_and(|known| *known != found) {
                    log::info!("{address}: now {}", list(&found));
                }
                self.names.insert(address.clone(), found);
            }
            Err(error) if known.is_none() => {
                log::warn!("{address}: {}; trying again", reason(&error));
                // Told once.
                self.names.insert(address.clone(), Vec::new());
            }
            Err(_) => {}
        }
        let known = self.names.get(address);
        known
            .into_iter()
            .flatten()
            .copied()
            .map(DialTarget::Tcp)
            .collect()
    }
}

impl AccessShared {
    /// Starts lines to a server, or ends some, until there are so many.
    fn set_lines(self: &Arc<Self>, server: &Arc<ServerAddress>, count: usize) {
        let ties = self.ties();
        let own = ties
            .iter()
            .filter(|tie| Arc::ptr_eq(&tie.server, server) && tie.is_wanted());
        let mut own: Vec<_> = own.collect();
        // Those that have something to do last.
        own.sort_by_key(|tie| (tie.is_busy(), tie.is_idle()));
        for tie in own.iter().take(own.len().saturating_sub(count)) {
            tie.retire();
        }
        for _ in own.len()..count {
            let tie = Arc::new(ConnectionHandle::new(Arc::clone(server)));
            self.ties.lock().push(Arc::clone(&tie));
            let shared = Arc::clone(self);
            let line = Arc::clone(&tie);
            let started = spawn("line", move || connection::run(&shared, &line));
            if let Err(error) = started {
                self.ties.lock().retain(|other| !Arc::ptr_eq(other, &tie));
                log::error!("{server}: {error}");
                break;
            }
        }
        self.tell();
    }

    /// Wakes those that wait for their turn, of which some are not wanted any more: under the lock, so that nobody is just
    /// between looking and waiting.
    fn tell(&self) {
        let _state = self.state.lock();
        self.changed.notify_all();
    }

    /// Ends the lines to a server.
    fn retire(&self, server: &Arc<ServerAddress>) {
        for tie in self.ties() {
            if Arc::ptr_eq(&tie.server, server) {
                tie.retire();
            }
        }
        self.tell();
        log::info!("server {server}: leaving");
    }

    /// Forgets what is known of dialling servers that are gone, with their last lines.
    fn forget_others(&self, servers: &[Arc<ServerAddress>]) {
        let lines = self.ties();
        let lines = lines.iter().map(|tie| &tie.server);
        let known: HashSet<u64> = lines.chain(servers).map(|server| server.number).collect();
        let dialling = &mut self.state.lock().dialling;
        dialling.retain(|number, _| known.contains(number));
    }

    /// Waits until a line may dial, for as long as the application does not answer. `None`: it is not wanted any more.
    pub(super) fn turn(&self, tie: &ConnectionHandle) -> Option<DialPermission> {
        let mut state = self.state.lock();
        loop {
            if state.draining || !tie.is_wanted() {
                return None;
            }
            let mut until = None;
            if state.up {
                let dialling = state.dialling.entry(tie.server.number).or_default();
                let now = Instant::now();
                if !dialling.failing {
                    return Some(DialPermission::Plain);
                }
                if !dialling.scouting {
                    if dialling.next <= now {
                        dialling.scouting = true;
                        return Some(DialPermission::Probe);
                    }
                    until = Some(dialling.next);
                }
            }
            match until {
                Some(until) => drop(self.changed.wait_until(&mut state, until)),
                None => self.changed.wait(&mut state),
            }
        }
    }

    /// A server could not be dialled, or did not let a line in. `cheap`: it may be asked again soon.
    pub(super) fn failed(
        &self,
        server: &ServerAddress,
        turn: DialPermission,
        why: &str,
        cheap: bool,
    ) {
        let news = {
            let mut state = self.state.lock();
            let Some(dialling) = state.dialling.get_mut(&server.number) else {
                return;
            };
            // One failure of many at once counts.
            if turn == DialPermission::Probe || !dialling.failing {
                let pause = dialling.backoff.pause();
                let pause = if cheap { pause.min(SOON) } else { pause };
                dialling.next = Instant::now() + pause;
            }
            dialling.failing = true;
            dialling.scouting &= turn != DialPermission::Probe;
            dialling.lines == 0 && dialling.told.as_deref() != Some(why) && {
                dialling.told = Some(why.to_owned());
                true
            }
        };
        self.changed.notify_all();
        match news {
            true => log::warn!("server {server}: {why}; trying again"),
            false => log::debug!("server {server}: {why}"),
        }
    }

    /// A server has let a line in, so the others may come.
    pub(super) fn proven(&self, server: &ServerAddress, turn: DialPermission) {
        let news = {
            let mut state = self.state.lock();
            let Some(dialling) = state.dialling.get_mut(&server.number) else {
                return;
            };
            dialling.lines += 1;
            if turn == DialPermission::Probe {
                dialling.failing = false;
                dialling.scouting = false;
                dialling.backoff.reset();
            }
            let is_news = dialling.told.replace(String::new()).as_deref() != Some("");
            dialling.note(server, true, is_news)
        };
        self.changed.notify_all();
        if let Some(news) = news {
            log::info!("{news}");
        }
    }

    /// A line of a server that had let it in is over.
    pub(super) fn lost(&self, server: &ServerAddress) {
        let news = {
            let mut state = self.state.lock();
            // Then it is our doing.
            let draining = state.draining;
            let Some(dialling) = state.dialling.get_mut(&server.number) else {
                return;
            };
            dialling.lines -= 1;
            match draining {
                true => None,
                false => dialling.note(server, false, false),
            }
        };
        if let Some(news) = news {
            // The fleet's thread has to report what follows.
            self.changed.notify_all();
            log::info!("{news}");
        }
    }

    /// A line was closed by us before it is known whether the server lets it in.
    pub(super) fn given_up(&self, server: &ServerAddress, turn: DialPermission) {
        if let Some(dialling) = self.state.lock().dialling.get_mut(&server.number) {
            dialling.scouting &= turn != DialPermission::Probe;
        }
        self.changed.notify_all();
    }
}

fn look_up(address: &Address) -> io::Result<Vec<SocketAddr>> {
    let Address::Tcp { host, port, .. } = address else {
        return Ok(Vec::new());
    };
    let mut found: Vec<_> = (host.as_str(), *port).to_socket_addrs()?.collect();
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn name(address: &Address) -> String {
    match address {
        Address::Tcp { host, .. } => host.clone(),
        Address::Unix(_) => "localhost".to_owned(),
    }
}

fn list(addresses: &[SocketAddr]) -> String {
    let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

/// Lines that are let in or lost within this time after a line in the log are counted, and reported together.
const BURST: Duration = Duration::from_secs(1);
/// How often host names are looked up.
const LOOK_UP: Duration = Duration::from_secs(30);
/// The longest pause between two tries.
const LONGEST: Duration = Duration::from_secs(20);
/// The same where a try costs nothing.
const SOON: Duration = Duration::from_secs(1);
