//! What the threads of a server share: the configuration, limits and counters. Its sessions are in
//! [`sessions`](super::sessions).

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock};

use super::admission::Clients;
use super::certificates::FileCertificate;
use super::checks::Checks;
use super::drainer::Drainer;
use super::history::History;
use super::rate_limit::RateLimiter;
use super::snapshot::Snapshot;
use super::succession::link::ProcessLink;
use super::succession::switching::Switching;
use crate::acme::challenges::Challenges;
use crate::acme::manager::Manager;
use crate::backend::drained::Drained;
use crate::backend::group::Journal;
use crate::budget::{Budget, Shares};
use crate::content::gzip::Compressors;
use crate::exchange::ClientAddress;
use crate::net::stream::network;
use crate::relay::spool::Room;
use crate::stats::Stats;
use crate::stats::site::SiteStats;

/// What the threads of a server share, except for its sessions ([`Sessions`](super::sessions::Sessions)).
pub(crate) struct Shared {
    /// Reads the rest of responses that no client gets.
    pub(crate) drainer: Drainer,
    pub(crate) clients: Clients,
    pub(crate) stats: Arc<Stats>,
    pub(super) snapshot: RwLock<Arc<Snapshot>>,
    /// Changes with the snapshot, so that workers see without the lock whether it has changed.
    pub(super) generation: AtomicU64,
    pub(super) draining: AtomicBool,
    /// Another process has replaced this one.
    pub(super) is_replaced: AtomicBool,
    /// The link to it.
    pub(super) successor: RwLock<Option<Arc<ProcessLink>>>,
    /// Serialises what an operator switches, and sends it to the processes that this one has replaced.
    pub(super) switching: Switching,
    /// The server stops: no command can end a pause any more.
    pub(super) is_stopping: AtomicBool,
    /// Bytes of memory (`limits.memory`).
    pub(crate) memory: Arc<Budget>,
    /// Bytes on disk (`limits.spool`).
    pub(super) disk: Arc<Shares>,
    /// For responses that are compressed on their way (`gzip`).
    pub(crate) compressors: Arc<Compressors>,
    /// Descriptors for backends that dial in, at all addresses together.
    pub(super) descriptors: Arc<Budget>,
    /// Descriptors for these and for clients.
    pub(super) connections: AtomicU64,
    /// Requests that wait for a backend, at all sites.
    pub(super) waiting: Arc<AtomicUsize>,
    /// Counts requests where that is limited.
    pub(crate) rates: RateLimiter,
    /// The checks of passwords.
    pub(super) checks: Arc<Checks>,
    /// The backends that get no requests until further notice.
    pub(super) drained: Mutex<Arc<Drained>>,
    /// What is measured of requests without a site.
    pub(crate) unrouted: SiteStats,
    /// Rates and times of the last minutes and of the last day.
    pub(super) history: Mutex<History>,
    /// When the last reload ended, and why it failed, if it did.
    pub(super) reload: Mutex<Option<(SystemTime, Result<(), String>)>>,
    /// The certificates from files, for clients and backends.
    pub(super) certificates: Mutex<Vec<FileCertificate>>,
    /// The responses to authorities that validate our names.
    pub(crate) challenges: Arc<Challenges>,
    /// The certificates that the server obtains or makes.
    pub(super) manager: Arc<Manager>,
    /// Logs backends that connect and disconnect.
    pub(super) journal: Arc<Journal>,
}

/// A snapshot as a worker and its requests hold it. Each worker has a reference count of its own, so that workers do
/// not contend for one cache line on each request.
pub(crate) type SnapshotRef = Arc<Generation>;

/// A snapshot, and what all snapshots of a server share.
pub(crate) struct Generation {
    snapshot: Arc<Snapshot>,
    pub(crate) shared: Arc<Shared>,
}

impl Shared {
    /// The current configuration. Take it once for one request.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read())
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The link to the process that has replaced this one, if idle clients and backends can be given to it.
    pub(crate) fn successor(&self) -> Option<Arc<ProcessLink>> {
        if !self.is_replaced.load(Ordering::Relaxed) {
            return None;
        }
        let link = self.successor.read().clone();
        link.filter(|link| link.is_open())
    }

    /// Whether a client's connection is closed after its response, because the server stops or another process has replaced
    /// it, to which the connection cannot be given (`is_secure`).
    pub(crate) fn is_leaving(&self, is_secure: bool) -> bool {
        self.is_draining() && (is_secure || self.successor().is_none())
    }

    /// Whether a pause can still be ended by a command: to this process, or to the one that has replaced it.
    pub(super) fn can_resume(&self) -> bool {
        match self.is_draining() {
            true => !self.is_stopping.load(Ordering::Relaxed) && self.successor().is_some(),
            false => true,
        }
    }

    /// Where to keep the body of a client's request, and the part of a response that the client has not taken.
    pub(crate) fn room(
        &self,
        snapshot: &Snapshot,
        site: Option<usize>,
        client: &ClientAddress,
    ) -> Room {
        let config = &snapshot.config;
        let limits = site.map_or(&config.limits, |site| &snapshot.sites[site].settings.limits);
        Room {
            memory: Arc::clone(&self.memory),
            disk: Arc::clone(&self.disk),
            client: client.own_address().map(network),
            directory: config.temporary_directory.clone(),
            most_in_memory: limits.body_memory,
        }
    }

    pub(super) fn set_snapshot(&self, snapshot: Arc<Snapshot>) {
        self.memory.limit(snapshot.config.memory);
        self.disk.all().limit(snapshot.config.limits.spool);
        *self.snapshot.write() = snapshot;
        self.generation.fetch_add(1, Ordering::Release);
    }
}

impl Generation {
    /// The current snapshot.
    pub(crate) fn current(shared: &Arc<Shared>) -> Self {
        Self {
            snapshot: shared.snapshot(),
            shared: Arc::clone(shared),
        }
    }
}

impl Deref for Generation {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.snapshot
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Generation")
    }
}
