//! What the server is doing at one moment: the one source of the page, the JSON, the metrics and `swiftiplyctl`.
//!
//! Its fields are the JSON of `GET /status`; fields that JSON leaves out are for the metrics. In the JSON sizes are bytes,
//! points in time are seconds since 1970, and durations are seconds.
//!
//! [`backends`] are those that have dialled in, [`drained`] what an operator has drained, [`sites`] the sites with their servers, [`requests`] what was measured,
//! and [`certificates`] those of files and of authorities.

mod backends;
mod certificates;
mod drained;
mod requests;
mod sites;
mod time;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use serde::Serialize;

use self::backends::BackendGroups;
pub(super) use self::backends::{BackendCounts, BackendView};
pub(super) use self::certificates::CertificateView;
pub(super) use self::drained::DrainedView;
pub(super) use self::requests::{HistoryView, RequestView, TimesView};
pub(super) use self::sites::{ServerView, SiteView, UP};
use self::time::unix_time;
use super::context::AdminContext;
use crate::backend::drained::Drained;
use crate::backend::registration::ConnectedBackend;
use crate::process;
use crate::server::history::{Sample, Track};
use crate::server::snapshot::{Site, Snapshot};
use crate::stats::{self, Close};

/// The state of the server at one moment.
#[derive(Serialize)]
pub(super) struct View {
    pub(super) version: &'static str,
    pub(super) pid: u32,
    /// When it started, and for how many seconds it has run.
    pub(super) started: u64,
    pub(super) uptime: u64,
    pub(super) draining: bool,
    pub(super) configuration: ConfigurationView,
    pub(super) workers: usize,
    pub(super) memory: MemoryView,
    pub(super) descriptors: DescriptorView,
    /// Open connections of clients, how many of them are upgraded, and how many were accepted so far.
    pub(super) connections: u64,
    pub(super) tunnels: u64,
    pub(super) connections_accepted: u64,
    pub(super) worker_panics: u64,
    /// Backends that have dialled in, of all sites.
    pub(super) backends: BackendCounts,
    /// What an operator has drained, besides sites.
    pub(super) drained: Vec<DrainedView>,
    /// Requests that wait for a backend.
    pub(super) waiting: usize,
    pub(super) requests: RequestView,
    /// Responses with a status of 400 or more.
    pub(super) codes: BTreeMap<u16, u64>,
    /// Closed connections of clients and of backends, by reason.
    pub(super) client_connections_closed: BTreeMap<&'static str, u64>,
    pub(super) backend_connections_closed: BTreeMap<&'static str, u64>,
    pub(super) certificates: Vec<CertificateView>,
    pub(super) history: HistoryView,
    pub(super) sites: Vec<SiteView>,
    /// Requests that reached no site.
    #[serde(skip)]
    pub(super) unrouted: RequestView,
    /// All backends that have dialled in, oldest first.
    #[serde(skip)]
    connected: Vec<ConnectedBackend>,
    #[serde(skip)]
    drained_names: Arc<Drained>,
    /// The configuration that the sites are from.
    #[serde(skip)]
    pub(super) snapshot: Arc<Snapshot>,
}

#[derive(Serialize)]
pub(super) struct ConfigurationView {
    /// Counts the reloads that took effect.
    pub(super) generation: u64,
    /// The last reload: when, and why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_reload: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    /// Sites that differ from the file.
    pub(super) unpersisted: Vec<String>,
}

/// Bytes.
#[derive(Serialize)]
pub(super) struct MemoryView {
    pub(super) resident: Option<u64>,
    pub(super) used: u64,
    pub(super) limit: u64,
    pub(super) spool: u64,
    pub(super) spool_limit: u64,
}

#[derive(Serialize)]
pub(super) struct DescriptorView {
    pub(super) open: Option<usize>,
    pub(super) limit: u64,
}

impl View {
    pub(super) fn new(context: &AdminContext) -> Self {
        let shared = &context.shared;
        let snapshot = shared.snapshot();
        let drained = Arc::clone(&shared.drained.lock());
        let connected = context.control.connected();
        let groups = BackendGroups::new(&connected);
        // Copied in one go, so that the tick waits for this only.
        let (track, now): (Track, Vec<Sample>) = {
            let history = shared.history.lock();
            let sites = snapshot.sites.iter();
            let now = sites.map(|site| history.site(&site.settings.name).map(Track::now));
            let now = now.map(Option::unwrap_or_default);
            (history.server().clone(), now.collect())
        };
        let sites = snapshot.sites.iter().zip(now);
        let sites = sites.map(|(site, now)| SiteView::new(site, groups.of(site), now));
        let sites: Vec<_> = sites.collect();
        let is_drained = drained.names();
        let is_drained = is_drained.map(|name| DrainedView::new(name, &connected, &sites));
        let unrouted = RequestView::new(&shared.unrouted, Sample::default());
        let mut requests = unrouted.clone();
        for site in &sites {
            requests.add(&site.requests);
        }
        requests.set_now(track.now());
        let stats = &shared.stats;
        let uptime = context.started.elapsed().as_secs();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            started: unix_time(SystemTime::now()).saturating_sub(uptime),
            uptime,
            draining: shared.is_draining(),
            configuration: ConfigurationView::new(context),
            workers: snapshot.config.workers,
            memory: MemoryView {
                resident: process::resident(),
                used: shared.memory.used(),
                limit: shared.memory.most(),
                spool: shared.disk.all().used(),
                spool_limit: shared.disk.all().most(),
            },
            descriptors: DescriptorView {
                open: process::open_descriptors(),
                limit: process::descriptors(),
            },
            connections: stats::get(&stats.open),
            tunnels: stats::get(&stats.tunnels),
            connections_accepted: stats::get(&stats.accepted),
            worker_panics: stats::get(&stats.panics),
            backends: groups.all(),
            drained: is_drained.collect(),
            waiting: shared.waiting.load(Ordering::Relaxed),
            requests,
            codes: (400..=999)
                .map(|status| (status, stats.status(status)))
                .filter(|(_, count)| *count > 0)
                .collect(),
            client_connections_closed: by_reason(|reason| stats.clients_closed(reason)),
            backend_connections_closed: by_reason(|reason| stats.backends_closed(reason)),
            certificates: CertificateView::all(shared),
            history: HistoryView::new(Some(&track), (1, 60)),
            sites,
            unrouted,
            connected,
            drained_names: drained,
            snapshot,
        }
    }

    /// The backends that have dialled in: all, or those of a site. Sites that share an address and a key share them.
    pub(super) fn connected(&self, site: Option<&Site>) -> Vec<BackendView> {
        let is_of = |site: &Site, backend: &ConnectedBackend| {
            site.keys.contains(&backend.key) && site.addresses().any(|one| one == backend.address)
        };
        let backends = self.connected.iter();
        let backends = backends.filter(|backend| site.is_none_or(|site| is_of(site, backend)));
        backends
            .map(|backend| BackendView::new(backend, &self.drained_names))
            .collect()
    }

    /// The site with this name in logs, or with this host name.
    pub(super) fn site(&self, name: &str) -> Option<(&SiteView, &Site)> {
        let site = self.snapshot.called(name)?;
        let mut sites = self.sites.iter().zip(&self.snapshot.sites);
        sites.find(|(_, running)| std::ptr::eq(*running, site))
    }
}

impl ConfigurationView {
    fn new(context: &AdminContext) -> Self {
        let reload = context.shared.reload.lock().clone();
        let commands = context.commands();
        Self {
            generation: context.shared.generation.load(Ordering::Relaxed),
            last_reload: reload.as_ref().map(|(at, _)| unix_time(*at)),
            error: reload.and_then(|(_, result)| result.err()),
            unpersisted: commands.map_or_else(Vec::new, |commands| commands.unpersisted()),
        }
    }
}

/// The numbers that are not zero.
fn by_reason(count: impl Fn(Close) -> u64) -> BTreeMap<&'static str, u64> {
    let all = Close::ALL.iter();
    let all = all.map(|reason| (reason.word(), count(*reason)));
    all.filter(|(_, count)| *count > 0).collect()
}
