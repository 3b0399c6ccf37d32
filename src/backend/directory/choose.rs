//! Which server a request goes to.

use std::sync::Arc;

use super::endpoint::Endpoint;
use super::health::Health;
use super::server::ServerEntry;
use super::state::{Assignment, DirectoryState};
use crate::config::Order;

impl DirectoryState {
    /// Whether requests can go to a server other than this one.
    pub(super) fn has_other(&self, endpoint: &Arc<Endpoint>) -> bool {
        let other = |server: &ServerEntry| !Arc::ptr_eq(&server.endpoint, endpoint);
        self.servers
            .iter()
            .filter(|server| other(server) && !server.removed && !server.drained)
            .any(|server| server.health.state == Health::Up)
    }

    /// Takes a slot at an available server, chosen by the site's [`Order`], and the connection there that became idle last.
    /// `once`: see [`ServerEntry::pop_idle`].
    pub(super) fn assign(&mut self, once: bool) -> Option<Assignment> {
        let count = self.servers.len();
        let order = self.settings.order;
        let first = match order {
            Order::Newest => 0,
            Order::Least | Order::Oldest => self.next_server,
        };
        let mut best: Option<usize> = None;
        let mut now = None;
        for step in 0..count {
            let index = (first + step) % count;
            let server = &self.servers[index];
            if server.busy < server.slots
                && best.is_none_or(|best| is_preferred(order, server, &self.servers[best]))
                && server.is_open(&mut now)
            {
                best = Some(index);
            }
        }
        let index = best?;
        self.next_server = (index + 1) % count;
        let server = &mut self.servers[index];
        server.busy += 1;
        if let Health::Aside { trial, .. } = &mut server.health.state {
            *trial = true;
        }
        let endpoint = Arc::clone(&server.endpoint);
        Some(Assignment {
            endpoint,
            idle: server.pop_idle(once),
        })
    }
}

/// Whether a server is a better choice than one that comes before it, in the list or in turn.
fn is_preferred(order: Order, server: &ServerEntry, other: &ServerEntry) -> bool {
    match order {
        Order::Least => server.busy < other.busy,
        Order::Newest => server.idle_since() > other.idle_since(),
        Order::Oldest => false,
    }
}
