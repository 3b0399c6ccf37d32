//! Which servers are dialled.
//!
//! Each address of a `connect` entry is a [`ServerAddress`] with `connections` dialled connections. Host names are
//! looked up again every `lookup_interval`: the connections to removed addresses are closed, new addresses are
//! dialled.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::MutexGuard;

use super::handle::ConnectionHandle;
use super::running::RunningConfig;
use super::server::{DialTarget, ServerAddress};
use super::shared::AccessShared;
use crate::config::Address;
use crate::process::reason;

/// The servers that are dialled: the data of the dialer's thread.
#[derive(Default)]
struct Dialer {
    servers: Vec<Arc<ServerAddress>>,
    /// The addresses of host names at the last lookup.
    names: HashMap<Address, Vec<SocketAddr>>,
    next: u64,
}

/// Keeps the configured servers dialled until a drain begins, and reports bursts of connections.
pub(super) fn run(shared: &Arc<AccessShared>) {
    let mut dialer = Dialer::default();
    loop {
        shared.state.lock().config_changed = false;
        dialer.apply(shared);
        let until = Instant::now() + shared.settings().config.lookup_interval;
        let mut state = shared.state.lock();
        while !state.draining && !state.config_changed && Instant::now() < until {
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
    /// Looks up all names, and gives each server the configured number of connections.
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
            shared.set_connections(server, settings.config.connections);
        }
        shared.forget_removed(&self.servers);
    }

    /// The servers of a configuration, without duplicates; looks the names up.
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

    /// The addresses of a name; if the lookup failed, those of the last one.
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
                // Reported once.
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
    /// Starts or ends connections to a server until there are `count`.
    fn set_connections(&self, server: &Arc<ServerAddress>, count: usize) {
        let connections = self.connections();
        let own = connections
            .iter()
            .filter(|handle| Arc::ptr_eq(&handle.server, server) && handle.is_wanted());
        let mut own: Vec<_> = own.collect();
        // Idle and busy connections come last.
        own.sort_by_key(|handle| (handle.is_busy(), handle.is_idle()));
        for handle in own.iter().take(own.len().saturating_sub(count)) {
            handle.retire();
        }
        for _ in own.len()..count {
            let handle = Arc::new(ConnectionHandle::new(Arc::clone(server)));
            self.connections.lock().push(handle);
        }
        self.wake_all();
    }

    /// Wakes the threads that wait to dial, since some are not wanted any more. Takes the lock, so that a thread that
    /// has just checked does not miss it.
    pub(super) fn wake_all(&self) {
        let _state = self.state.lock();
        self.changed.notify_all();
    }

    /// Ends the connections to a server.
    fn retire(&self, server: &Arc<ServerAddress>) {
        for handle in self.connections() {
            if Arc::ptr_eq(&handle.server, server) {
                handle.retire();
            }
        }
        self.wake_all();
        log::info!("server {server}: leaving");
    }

    /// Forgets the dialling state of removed servers whose last connection has ended.
    fn forget_removed(&self, servers: &[Arc<ServerAddress>]) {
        let connected = self.connections();
        let connected = connected.iter().map(|handle| &handle.server);
        let known: HashSet<u64> = connected
            .chain(servers)
            .map(|server| server.number)
            .collect();
        let dialling = &mut self.state.lock().dialling;
        dialling.retain(|number, _| known.contains(number));
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
