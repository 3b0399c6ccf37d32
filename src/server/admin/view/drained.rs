//! What an operator has drained.

use serde::Serialize;

use super::sites::SiteView;
use crate::backend::drained::DrainedName;
use crate::backend::registration::ConnectedBackend;

/// A name of backends or of a server that get no requests until further notice.
#[derive(Serialize)]
pub(in crate::server::admin) struct DrainedView {
    name: String,
    /// How many of these there are now.
    connected: usize,
}

impl DrainedView {
    pub(super) fn new(
        drained: &DrainedName,
        connected: &[ConnectedBackend],
        sites: &[SiteView],
    ) -> Self {
        let name = drained.to_string();
        let is_named = |backend: &&ConnectedBackend| {
            drained.is_backend(&backend.id, backend.name.as_ref(), &backend.peer)
        };
        let servers = sites.iter().flat_map(|site| site.servers.iter().flatten());
        Self {
            connected: match drained {
                DrainedName::Server(_) => servers.filter(|server| server.address == name).count(),
                _ => connected.iter().filter(is_named).count(),
            },
            name,
        }
    }
}
