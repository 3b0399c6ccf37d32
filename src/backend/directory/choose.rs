//! Which server a request goes to.

use std::sync::Arc;

use super::endpoint::Endpoint;
use super::health::Health;
use super::server::ServerEntry;
use super::state::{Assignment, DirectoryState};

impl DirectoryState {
    /// Whether requests can go to a server other than this one.
    pub(super) fn has_other(&self, endpoint: &Arc<Endpoint>) -> bool {
        let other = |server: &ServerEntry| !Arc::ptr_eq(&server.endpoint, endpoint);
        self.servers
            .iter()
            .filter(|server| other(server) && !server.removed && !server.drained)
            .any(|server| server.health.state == Health::Up)
    }

    /// Takes a slot at the available server with the fewest busy slots, round robin among equals, and the connection
    /// there that became idle last. `once`: see [`ServerEntry::pop_idle`].
    pub(super) fn assign(&mut self, once: bool) -> Option<Assignment> {
        let count = self.servers.len();
        let mut best: Option<(usize, usize)> = None;
        let mut now = None;
        for step in 0..count {
            let index = (self.next_server + step) % count;
            let server = &self.servers[index];
            if server.busy < server.slots
                && best.is_none_or(|(_, busy)| server.busy < busy)
                && server.is_open(&mut now)
            {
                best = Some((index, server.busy));
            }
        }
        let (index, _) = best?;
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
