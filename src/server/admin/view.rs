//! What the server is doing at one moment, for all forms in which it is reported.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::context::AdminContext;
use crate::backend::registration::ConnectedBackend;
use crate::server::snapshot::{Site, Snapshot};

/// The state at one moment.
pub(super) struct View<'a> {
    pub(super) context: &'a AdminContext,
    pub(super) snapshot: Arc<Snapshot>,
    /// All backends that have dialled in.
    pub(super) connected: Vec<ConnectedBackend>,
    /// Their numbers by dial-in address and key.
    groups: HashMap<String, HashMap<Box<[u8]>, BackendCounts>>,
}

/// Numbers of backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BackendCounts {
    pub(super) idle: usize,
    pub(super) busy: usize,
}

impl<'a> View<'a> {
    pub(super) fn new(context: &'a AdminContext) -> Self {
        let connected = context.control.connected();
        let mut groups: HashMap<String, HashMap<Box<[u8]>, BackendCounts>> = HashMap::new();
        for backend in &connected {
            if !groups.contains_key(&backend.address) {
                groups.insert(backend.address.clone(), HashMap::new());
            }
            let group = groups.get_mut(&backend.address);
            let counts = group.map(|group| group.entry(backend.key.clone()).or_default());
            if let Some(counts) = counts {
                counts.add(backend);
            }
        }
        Self {
            context,
            snapshot: context.shared.snapshot(),
            connected,
            groups,
        }
    }

    /// The backends that have dialled in, of all sites.
    pub(super) fn all_backends(&self) -> BackendCounts {
        let mut counts = BackendCounts::default();
        self.connected
            .iter()
            .for_each(|backend| counts.add(backend));
        counts
    }

    /// The backends of a site. Sites that share an address and a key share its backends.
    pub(super) fn backends(&self, site: &Site) -> BackendCounts {
        let mut counts = BackendCounts {
            idle: site.servers.as_ref().map_or(0, |servers| servers.idle()),
            busy: 0,
        };
        for group in site
            .addresses()
            .filter_map(|address| self.groups.get(address))
        {
            for own in site.keys.iter().filter_map(|key| group.get(key)) {
                counts.idle += own.idle;
                counts.busy += own.busy;
            }
        }
        counts
    }

    /// Whether a backend that has dialled in is one of a site.
    pub(super) fn is_of(site: &Site, backend: &ConnectedBackend) -> bool {
        site.keys.contains(&backend.key) && site.addresses().any(|one| one == backend.address)
    }
}

impl BackendCounts {
    const fn add(&mut self, backend: &ConnectedBackend) {
        match backend.is_idle {
            true => self.idle += 1,
            false => self.busy += 1,
        }
    }
}

/// Seconds since 1970.
pub(super) fn unix_time(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
