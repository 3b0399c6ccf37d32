//! The state of the server and of a site, as JSON.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use serde::Serialize;

use super::certificates::{self, CertificateReport};
use super::message::{AdminRequest, AdminResponse};
use super::view::{BackendCounts, View, unix_time};
use crate::process;
use crate::server::history::{Sample, Series, Track};
use crate::server::snapshot::Site;
use crate::stats::{self, Close, site::SiteStats};

/// The state of the server.
#[derive(Serialize)]
struct ServerReport {
    version: &'static str,
    pid: u32,
    /// When it started, in seconds since 1970, and for how many seconds it has run.
    started: u64,
    uptime: u64,
    draining: bool,
    configuration: ConfigurationReport,
    workers: usize,
    memory: MemoryReport,
    descriptors: DescriptorReport,
    /// Open connections of clients, and how many of them are upgraded.
    connections: u64,
    tunnels: u64,
    backends: BackendReport,
    /// Requests that wait for a backend.
    waiting: usize,
    requests: RequestReport,
    /// Responses with a status of 400 or more.
    codes: BTreeMap<u16, u64>,
    /// Closed connections of clients and of backends, by reason.
    client_connections_closed: BTreeMap<&'static str, u64>,
    backend_connections_closed: BTreeMap<&'static str, u64>,
    certificates: Vec<CertificateReport>,
    history: HistoryReport,
    sites: Vec<SiteReport>,
}

#[derive(Serialize)]
struct ConfigurationReport {
    /// Counts the reloads that took effect.
    generation: u64,
    /// The last reload: when, in seconds since 1970, and why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_reload: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Bytes.
#[derive(Serialize)]
struct MemoryReport {
    resident: Option<u64>,
    used: u64,
    limit: u64,
    spool: u64,
    spool_limit: u64,
}

#[derive(Serialize)]
struct DescriptorReport {
    open: Option<usize>,
    limit: u64,
}

#[derive(Serialize)]
struct BackendReport {
    connected: usize,
    idle: usize,
    busy: usize,
}

/// What was measured of requests. Times in seconds, means of the last seconds.
#[derive(Serialize)]
struct RequestReport {
    total: u64,
    rate: f32,
    failures: f32,
    latency: f32,
    queue: f32,
    statuses: BTreeMap<&'static str, u64>,
    bytes_in: u64,
    bytes_out: u64,
    retries: u64,
    /// Requests that did not end complete, by reason.
    errors: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct HistoryReport {
    minutes: SeriesReport,
    day: SeriesReport,
}

/// Values of equal steps in seconds, the newest last.
#[derive(Serialize)]
struct SeriesReport {
    step: u64,
    rate: Vec<f32>,
    failures: Vec<f32>,
    latency: Vec<f32>,
    queue: Vec<f32>,
}

/// A site among others.
#[derive(Serialize)]
struct SiteReport {
    name: String,
    incoming: Vec<String>,
    default: bool,
    state: &'static str,
    backends: BackendReport,
    waiting: usize,
    requests: RequestReport,
}

/// A site by itself.
#[derive(Serialize)]
struct SiteDetails {
    #[serde(flatten)]
    site: SiteReport,
    /// The server's uptime in seconds.
    uptime: u64,
    history: HistoryReport,
    processes: Vec<ProcessReport>,
}

/// A backend that has dialled in.
#[derive(Serialize)]
struct ProcessReport {
    id: String,
    /// Where it has dialled in from, and at which address.
    from: String,
    at: String,
    state: &'static str,
    /// For how many seconds.
    since: u64,
    /// Complete responses.
    requests: u64,
}

/// The host names of a site.
#[derive(Serialize)]
struct DomainReport {
    domain: String,
    site: String,
}

/// `GET /status`
pub(super) fn server(request: &AdminRequest<'_>) -> AdminResponse {
    let view = View::new(request.context);
    AdminResponse::json(200, &server_report(&view))
}

/// `GET /status/SITE`
pub(super) fn site(request: &AdminRequest<'_>) -> AdminResponse {
    let view = View::new(request.context);
    let name = &request.arguments[0];
    let Some(site) = view.snapshot.called(name) else {
        return AdminResponse::error(404, "no such site");
    };
    let name = &site.settings.name;
    let track = request.context.shared.history.lock().site(name).cloned();
    let own = view
        .connected
        .iter()
        .filter(|backend| View::is_of(site, backend));
    let processes = own.map(|backend| ProcessReport {
        id: backend.id.to_string(),
        from: backend.peer.to_string(),
        at: backend.address.clone(),
        state: if backend.is_idle { "idle" } else { "busy" },
        since: backend.since,
        requests: backend.responses,
    });
    let details = SiteDetails {
        site: site_report(&view, site, now(track.as_ref())),
        uptime: request.context.started.elapsed().as_secs(),
        history: history(track.as_ref(), (5, 300)),
        processes: processes.collect(),
    };
    AdminResponse::json(200, &details)
}

/// `GET /domains`
pub(super) fn domains(request: &AdminRequest<'_>) -> AdminResponse {
    let snapshot = request.context.shared.snapshot();
    let names = snapshot.sites.iter().flat_map(|site| {
        site.settings.incoming.iter().map(|domain| DomainReport {
            domain: domain.clone(),
            site: site.settings.name.clone(),
        })
    });
    AdminResponse::json(200, &names.collect::<Vec<_>>())
}

fn server_report(view: &View<'_>) -> ServerReport {
    let context = view.context;
    let shared = &context.shared;
    let config = &view.snapshot.config;
    // Copied in one go, so that the tick waits for this only.
    let (track, now_of): (Track, Vec<Sample>) = {
        let history = shared.history.lock();
        let sites = view.snapshot.sites.iter();
        let sites = sites.map(|site| now(history.site(&site.settings.name)));
        (history.server().clone(), sites.collect())
    };
    let sites = view.snapshot.sites.iter().zip(now_of);
    let reload = shared.reload.lock().clone();
    let uptime = context.started.elapsed().as_secs();
    let stats = &shared.stats;
    let closed = |count: &dyn Fn(Close) -> u64| {
        let all = Close::ALL
            .iter()
            .map(|reason| (reason.word(), count(*reason)));
        all.filter(|(_, count)| *count > 0).collect()
    };
    ServerReport {
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        started: unix_time(SystemTime::now()).saturating_sub(uptime),
        uptime,
        draining: shared.is_draining(),
        configuration: ConfigurationReport {
            generation: shared.generation.load(Ordering::Relaxed),
            last_reload: reload.as_ref().map(|(at, _)| unix_time(*at)),
            error: reload.and_then(|(_, result)| result.err()),
        },
        workers: config.workers,
        memory: MemoryReport {
            resident: process::resident(),
            used: shared.memory.used(),
            limit: shared.memory.most(),
            spool: shared.disk.all().used(),
            spool_limit: shared.disk.all().most(),
        },
        descriptors: DescriptorReport {
            open: process::open_descriptors(),
            limit: process::descriptors(),
        },
        connections: stats::get(&stats.open),
        tunnels: stats::get(&stats.tunnels),
        backends: backends(view.all_backends()),
        waiting: shared.waiting.load(Ordering::Relaxed),
        requests: all_requests(view, track.now()),
        codes: (400..=999)
            .map(|status| (status, stats.status(status)))
            .filter(|(_, count)| *count > 0)
            .collect(),
        client_connections_closed: closed(&|reason| stats.clients_closed(reason)),
        backend_connections_closed: closed(&|reason| stats.backends_closed(reason)),
        certificates: certificates::reports(shared),
        history: history(Some(&track), (1, 60)),
        sites: sites
            .map(|(site, now)| site_report(view, site, now))
            .collect(),
    }
}

fn site_report(view: &View<'_>, site: &Site, now: Sample) -> SiteReport {
    let switches = &site.switches;
    let state = match () {
        () if site.pages.in_maintenance(std::time::Instant::now()) => "maintenance",
        () if switches.is_in_maintenance() => "maintenance",
        () if switches.pause.is_on() => "paused",
        () if switches.is_drained() => "drained",
        () => "serving",
    };
    let settings = &site.settings;
    SiteReport {
        name: settings.name.clone(),
        incoming: settings.incoming.clone(),
        default: settings.default,
        state,
        backends: backends(view.backends(site)),
        waiting: site.waiting.count(),
        requests: requests(&[&*site.stats], now),
    }
}

fn all_requests(view: &View<'_>, now: Sample) -> RequestReport {
    let sites = view.snapshot.sites.iter().map(|site| &*site.stats);
    let all: Vec<_> = sites.chain([&view.context.shared.unrouted]).collect();
    requests(&all, now)
}

fn requests(all: &[&SiteStats], now: Sample) -> RequestReport {
    let mut statuses = [0; 5];
    let (mut bytes_in, mut bytes_out, mut retries) = (0, 0, 0);
    let mut errors = BTreeMap::new();
    for stats in all {
        for (sum, count) in statuses.iter_mut().zip(stats.statuses()) {
            *sum += count;
        }
        let (received, sent) = stats.bytes();
        bytes_in += received;
        bytes_out += sent;
        retries += stats.retries();
        for (reason, count) in stats.ended() {
            *errors.entry(reason.word()).or_insert(0) += count;
        }
    }
    RequestReport {
        total: statuses.iter().sum(),
        rate: now.rate,
        failures: now.failures,
        latency: now.latency,
        queue: now.queue,
        statuses: STATUS_CLASSES.into_iter().zip(statuses).collect(),
        bytes_in,
        bytes_out,
        retries,
        errors,
    }
}

const fn backends(counts: BackendCounts) -> BackendReport {
    BackendReport {
        connected: counts.idle + counts.busy,
        idle: counts.idle,
        busy: counts.busy,
    }
}

fn now(track: Option<&Track>) -> Sample {
    track.map(Track::now).unwrap_or_default()
}

/// `steps`: those of an empty history.
fn history(track: Option<&Track>, steps: (u64, u64)) -> HistoryReport {
    let report = |series: Option<&Series>, step: u64| {
        let values = |value: fn(&Sample) -> f32| {
            let samples = series.iter().flat_map(|series| &series.samples);
            samples.map(value).collect()
        };
        SeriesReport {
            step: series.map_or(step, |series| series.step),
            rate: values(|sample| sample.rate),
            failures: values(|sample| sample.failures),
            latency: values(|sample| sample.latency),
            queue: values(|sample| sample.queue),
        }
    };
    HistoryReport {
        minutes: report(track.map(|track| &track.minutes), steps.0),
        day: report(track.map(|track| &track.day), steps.1),
    }
}

/// The names of the classes of statuses.
pub(super) const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
