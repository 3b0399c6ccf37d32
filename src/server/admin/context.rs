//! What requests at the status address can look at.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::backend::dial_in::DialInControl;
use crate::net::stream::Peer;
use crate::server::commands::ProcessCommands;
use crate::server::shared::Shared;

/// What requests at the status address can look at, and the connections there.
pub(in crate::server) struct AdminContext {
    pub(super) shared: Arc<Shared>,
    /// Lists connected backends.
    pub(super) control: Arc<DialInControl>,
    /// When the server was started.
    pub(super) started: Instant,
    /// Commands to the program, if it takes some.
    commands: OnceLock<Arc<dyn ProcessCommands>>,
    connections: Mutex<HashMap<Option<IpAddr>, usize>>,
}

/// Permits a connection, until it is dropped.
pub(super) struct ConnectionPermit {
    context: Arc<AdminContext>,
    client: Option<IpAddr>,
}

impl AdminContext {
    pub(in crate::server) fn new(shared: Arc<Shared>, control: Arc<DialInControl>) -> Self {
        Self {
            shared,
            control,
            started: Instant::now(),
            commands: OnceLock::new(),
            connections: Mutex::default(),
        }
    }

    /// Takes commands to the program from now on.
    pub(in crate::server) fn set_commands(&self, commands: Arc<dyn ProcessCommands>) {
        // A program has one answer to commands, and gives it once.
        let _ = self.commands.set(commands);
    }

    /// Commands to the program, if it takes some.
    pub(super) fn commands(&self) -> Option<Arc<dyn ProcessCommands>> {
        self.commands.get().cloned()
    }

    /// Waits until all requests are answered, but not for long.
    pub(in crate::server) fn settle(&self) {
        let since = Instant::now();
        while !self.connections.lock().is_empty() && since.elapsed() < LONGEST_SETTLE {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Counts a connection; `None` if there are too many, or too many of this client.
    pub(super) fn enter(self: &Arc<Self>, peer: &Peer) -> Option<ConnectionPermit> {
        let client = peer.network();
        let is_local = peer.ip().is_none_or(|address| address.is_loopback());
        let mut connections = self.connections.lock();
        let own = connections.get(&client).copied().unwrap_or(0);
        let all: usize = connections.values().sum();
        if all >= MOST_CONNECTIONS || !is_local && own >= MOST_OF_CLIENT {
            return None;
        }
        connections.insert(client, own + 1);
        Some(ConnectionPermit {
            context: Arc::clone(self),
            client,
        })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut connections = self.context.connections.lock();
        if let Some(count) = connections.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&self.client);
            }
        }
    }
}

/// How long a server that ends waits for responses on their way.
const LONGEST_SETTLE: Duration = Duration::from_secs(1);
/// Most connections at once, and those from the network of one other machine: it must not keep all others out.
const MOST_CONNECTIONS: usize = 8;
const MOST_OF_CLIENT: usize = 4;
