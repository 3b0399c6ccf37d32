//! Backends that have dialled in.

use std::collections::HashMap;

use serde::Serialize;

use crate::backend::drained::Drained;
use crate::backend::registration::ConnectedBackend;
use crate::server::snapshot::Site;

/// A backend that has dialled in.
#[derive(Serialize)]
pub(in crate::server::admin) struct BackendView {
    /// The id that it sent; not unique.
    id: String,
    /// Its whole name, if the id is an abbreviation of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Where it has dialled in from, and at which address.
    from: String,
    at: String,
    /// `idle` or `busy`.
    state: &'static str,
    /// For how many seconds.
    since: u64,
    /// It gets no requests until further notice.
    drained: bool,
    /// Complete responses.
    requests: u64,
}

/// Numbers of backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(in crate::server::admin) struct BackendCounts {
    pub(in crate::server::admin) connected: usize,
    pub(in crate::server::admin) idle: usize,
    pub(in crate::server::admin) busy: usize,
}

/// The numbers of backends by dial-in address and key.
pub(super) struct BackendGroups<'b>(HashMap<&'b str, HashMap<&'b [u8], BackendCounts>>);

impl BackendView {
    pub(super) fn new(backend: &ConnectedBackend, drained: &Drained) -> Self {
        Self {
            drained: drained.has_backend(&backend.id, backend.name.as_ref(), &backend.peer),
            id: backend.id.to_string(),
            name: backend.name.as_ref().map(ToString::to_string),
            from: backend.peer.to_string(),
            at: backend.address.clone(),
            state: if backend.is_idle { "idle" } else { "busy" },
            since: backend.since,
            requests: backend.responses,
        }
    }
}

impl<'b> BackendGroups<'b> {
    pub(super) fn new(connected: &'b [ConnectedBackend]) -> Self {
        let mut groups = HashMap::new();
        for backend in connected {
            let group: &mut HashMap<_, BackendCounts> =
                groups.entry(&*backend.address).or_default();
            let counts = group.entry(&*backend.key).or_default();
            counts.connected += 1;
            match backend.is_idle {
                true => counts.idle += 1,
                false => counts.busy += 1,
            }
        }
        Self(groups)
    }

    /// All.
    pub(super) fn all(&self) -> BackendCounts {
        let groups = self.0.values().flat_map(HashMap::values);
        groups.fold(BackendCounts::default(), BackendCounts::plus)
    }

    /// Those of a site.
    pub(super) fn of(&self, site: &Site) -> BackendCounts {
        let groups = site.addresses().filter_map(|address| self.0.get(address));
        let own = groups.flat_map(|group| site.keys.iter().filter_map(|key| group.get(&**key)));
        own.fold(BackendCounts::default(), BackendCounts::plus)
    }
}

impl BackendCounts {
    const fn plus(self, other: &Self) -> Self {
        Self {
            connected: self.connected + other.connected,
            idle: self.idle + other.idle,
            busy: self.busy + other.busy,
        }
    }
}
