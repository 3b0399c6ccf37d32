//! What requests at the status address can look at.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::backend::dial_in::DialInControl;
use crate::net::stream::Peer;
use crate::server::shared::Shared;

/// What requests at the status address can look at, and the connections there.
pub(in crate::server) struct AdminContext {
    pub(super) shared: Arc<Shared>,
    /// Lists connected backends.
    pub(super) control: Arc<DialInControl>,
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
            connections: Mutex::default(),
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

/// Most connections at once, and those from the network of one other machine: it must not keep all others out.
const MOST_CONNECTIONS: usize = 8;
const MOST_OF_CLIENT: usize = 4;
