//! Which server a request goes to.

use std::sync::Arc;

use super::endpoint::Endpoint;
use super::health::Health;
use super::server::ServerEntry;
use super::state::{Assignment, DirectoryState};

impl DirectoryState {
    /// Whether requests can go to another server than this one.
    pub(super) fn others(&self, endpoint: &Arc<Endpoint>) -> bool {
        let other = |server: &ServerEntry| !Arc::ptr_eq(&server.endpoint, endpoint);
        self.servers
            .iter()
            .any(|server| other(server) && !server.gone && server.health.state == Health::Up)
    }

    /// Takes a seat at the server with the fewest requests of those that are open, servers that are equal in turn, and the
    /// connection that became idle last there. `once`: see [`ServerEntry::pop_kept`].
    pub(super) fn take(&mut self, once: bool) -> Option<Assignment> {
        let count = self.servers.len();
        let mut best: Option<(usize, usize)> = None;
        let mut now = None;
        for step in 0..count {
            let index = (self.turn + step) % count;
            let server = &self.servers[index];
            if server.taken < server.seats
                && best.is_none_or(|(_, taken)| server.taken < taken)
                && server.health.is_open(&mut now)
            {
                best = Some((index, server.taken));
            }
        }
        let (index, _) = best?;
        self.turn = (index + 1) % count;
        let server = &mut self.servers[index];
        server.taken += 1;
        if let Health::Aside { trial, .. } = &mut server.health.state {
            *trial = true;
        }
        let endpoint = Arc::clone(&server.endpoint);
        Some(Assignment {
            endpoint,
            kept: server.pop_kept(once),
        })
    }
}
