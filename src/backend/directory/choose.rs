//! Which server a request goes to.

use std::sync::Arc;

use super::endpoint::Endpoint;
use super::health::Health;
use super::slot::ConnectionSlot;
use super::{Directory, DirectoryState, ServerEntry};

impl DirectoryState {
    /// Whether requests can go to another server than this one.
    pub(super) fn others(&self, endpoint: &Arc<Endpoint>) -> bool {
        let other = |server: &ServerEntry| !Arc::ptr_eq(&server.endpoint, endpoint);
        self.servers
            .iter()
            .any(|server| other(server) && !server.gone && server.health == Health::Up)
    }

    /// Takes a seat at the server with the fewest requests of those that are open, servers that are equal in turn, and the
    /// connection that became idle last there. `once`: see [`ServerEntry::pop_kept`].
    pub(super) fn take(
        &mut self,
        directory: &Arc<Directory>,
        once: bool,
    ) -> Option<ConnectionSlot> {
        let count = self.servers.len();
        let mut best: Option<(usize, usize)> = None;
        let mut now = None;
        for step in 0..count {
            let index = (self.turn + step) % count;
            let server = &self.servers[index];
            if server.taken < server.seats
                && best.is_none_or(|(_, taken)| server.taken < taken)
                && server.is_open(&mut now)
            {
                best = Some((index, server.taken));
            }
        }
        let (index, _) = best?;
        self.turn = (index + 1) % count;
        let server = &mut self.servers[index];
        server.taken += 1;
        if let Health::Aside { trial, .. } = &mut server.health {
            *trial = true;
        }
        let endpoint = Arc::clone(&server.endpoint);
        Some(ConnectionSlot::new(
            directory,
            endpoint,
            server.pop_kept(once),
        ))
    }
}
