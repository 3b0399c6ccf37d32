//! The state of the server in the text format of Prometheus.
//!
//! The labels have a bounded number of values: configured sites, reasons for closing a connection, certificates by
//! file or name.

use std::fmt::{Display, Write};
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::certificates;
use super::message::{AdminRequest, AdminResponse};
use super::status::STATUS_CLASSES;
use super::view::{View, unix_time};
use crate::process;
use crate::server::snapshot::Site;
use crate::stats::site::{BOUNDS_MS, Histogram};
use crate::stats::{self, Close};

/// A text under construction.
struct Metrics(String);

/// `GET /metrics`
pub(super) fn metrics(request: &AdminRequest<'_>) -> AdminResponse {
    let view = View::new(request.context);
    let mut out = Metrics(String::with_capacity(
        4096 + view.snapshot.sites.len() * 4096,
    ));
    server(&view, &mut out);
    connections(&view, &mut out);
    sites(&view, &mut out);
    AdminResponse {
        status: 200,
        content_type: "text/plain; version=0.0.4; charset=utf-8",
        fields: Vec::new(),
        body: out.0.into_bytes(),
    }
}

fn server(view: &View<'_>, out: &mut Metrics) {
    let context = view.context;
    let shared = &context.shared;
    out.family("build_info", "gauge", "The version of swiftiply.");
    out.sample("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    let uptime = context.started.elapsed().as_secs();
    let started = unix_time(SystemTime::now()).saturating_sub(uptime);
    out.one(
        "start_time_seconds",
        "gauge",
        "When the server started, since 1970.",
        started,
    );
    let generation = shared.generation.load(Ordering::Relaxed);
    out.one(
        "config_generation",
        "gauge",
        "Reloads that took effect.",
        generation,
    );
    let reload = shared.reload.lock().clone();
    let succeeded = reload.as_ref().is_none_or(|(_, result)| result.is_ok());
    out.one(
        "config_last_reload_successful",
        "gauge",
        "Whether the last reload took effect.",
        u8::from(succeeded),
    );
    out.one(
        "workers",
        "gauge",
        "Worker threads.",
        view.snapshot.config.workers,
    );
    if let Some(bytes) = process::resident() {
        out.one("resident_memory_bytes", "gauge", "Resident memory.", bytes);
    }
    let (used, limit) = (shared.memory.used(), shared.memory.most());
    out.one(
        "memory_used_bytes",
        "gauge",
        "Memory that is charged to limits.memory.",
        used,
    );
    out.one("memory_limit_bytes", "gauge", "limits.memory.", limit);
    let (used, limit) = (shared.disk.all().used(), shared.disk.all().most());
    out.one(
        "spool_used_bytes",
        "gauge",
        "Disk space that is charged to limits.spool.",
        used,
    );
    out.one("spool_limit_bytes", "gauge", "limits.spool.", limit);
    if let Some(open) = process::open_descriptors() {
        out.one("open_descriptors", "gauge", "Open file descriptors.", open);
    }
    let most = process::descriptors();
    out.one(
        "max_descriptors",
        "gauge",
        "Most open file descriptors.",
        most,
    );
    out.family(
        "certificate_expiry_timestamp_seconds",
        "gauge",
        "When a certificate expires, since 1970.",
    );
    for certificate in certificates::reports(shared) {
        let labels = match &certificate.file {
            Some(file) => [("file", file.as_str())],
            None => [("name", certificate.names[0].as_str())],
        };
        out.sample(
            "certificate_expiry_timestamp_seconds",
            &labels,
            certificate.expires,
        );
    }
}

fn connections(view: &View<'_>, out: &mut Metrics) {
    let stats = &view.context.shared.stats;
    let count = |counter| stats::get(counter);
    out.one(
        "client_connections",
        "gauge",
        "Open connections of clients.",
        count(&stats.open),
    );
    out.one(
        "client_connections_accepted_total",
        "counter",
        "Accepted connections of clients.",
        count(&stats.accepted),
    );
    out.one(
        "tunnels",
        "gauge",
        "Upgraded connections.",
        count(&stats.tunnels),
    );
    out.one(
        "worker_panics_total",
        "counter",
        "Panics of workers.",
        count(&stats.panics),
    );
    out.family(
        "client_connections_closed_total",
        "counter",
        "Closed connections of clients, by reason.",
    );
    for reason in Close::ALL {
        let labels = [("reason", reason.word())];
        let count = stats.clients_closed(*reason);
        out.sample("client_connections_closed_total", &labels, count);
    }
    out.family(
        "backend_connections_closed_total",
        "counter",
        "Closed connections of backends, by reason.",
    );
    for reason in Close::ALL {
        let labels = [("reason", reason.word())];
        let count = stats.backends_closed(*reason);
        out.sample("backend_connections_closed_total", &labels, count);
    }
}

fn sites(view: &View<'_>, out: &mut Metrics) {
    let sites = || {
        view.snapshot
            .sites
            .iter()
            .map(|site| (site.settings.name.as_str(), site))
    };
    out.family(
        "requests_total",
        "counter",
        "Requests, by the class of their status.",
    );
    let unrouted = view.context.shared.unrouted.statuses();
    for (class, count) in STATUS_CLASSES.into_iter().zip(unrouted) {
        out.sample("requests_total", &[("site", ""), ("code", class)], count);
    }
    for (name, site) in sites() {
        for (class, count) in STATUS_CLASSES.into_iter().zip(site.stats.statuses()) {
            out.sample("requests_total", &[("site", name), ("code", class)], count);
        }
    }
    let mut each = |family: &str, kind: &str, help: &str, value: &dyn Fn(&Site) -> u64| {
        out.family(family, kind, help);
        for (name, site) in sites() {
            out.sample(family, &[("site", name)], value(site));
        }
    };
    each(
        "request_body_bytes_total",
        "counter",
        "Bytes of request bodies.",
        &|site| site.stats.bytes().0,
    );
    each(
        "response_body_bytes_total",
        "counter",
        "Bytes of response bodies.",
        &|site| site.stats.bytes().1,
    );
    each(
        "retries_total",
        "counter",
        "Requests that were sent again.",
        &|site| site.stats.retries(),
    );
    each(
        "requests_waiting",
        "gauge",
        "Requests that wait for a backend.",
        &|site| site.waiting.count() as u64,
    );
    out.family("backends", "gauge", "Connected backends, by state.");
    for (name, site) in sites() {
        let counts = view.backends(site);
        out.sample(
            "backends",
            &[("site", name), ("state", "idle")],
            counts.idle,
        );
        out.sample(
            "backends",
            &[("site", name), ("state", "busy")],
            counts.busy,
        );
    }
    out.family(
        "request_errors_total",
        "counter",
        "Requests that did not end complete, by reason.",
    );
    for (name, site) in sites() {
        for (reason, count) in site.stats.ended() {
            let labels = [("site", name), ("reason", reason.word())];
            out.sample("request_errors_total", &labels, count);
        }
    }
    out.family(
        "request_duration_seconds",
        "histogram",
        "Times of whole requests.",
    );
    for (name, site) in sites() {
        out.histogram("request_duration_seconds", name, site.stats.total());
    }
    out.family(
        "queue_duration_seconds",
        "histogram",
        "Times in the queue for a backend.",
    );
    for (name, site) in sites() {
        out.histogram("queue_duration_seconds", name, site.stats.queue());
    }
}

impl Metrics {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.write(format_args!(
            "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}\n"
        ));
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.write(format_args!("{PREFIX}{name}"));
        let mut before = '{';
        for (label, text) in labels {
            self.0.push(before);
            before = ',';
            self.0.push_str(label);
            self.0.push_str("=\"");
            for letter in text.chars() {
                match letter {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    letter => self.0.push(letter),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        self.write(format_args!(" {value}\n"));
    }

    fn histogram(&mut self, name: &str, site: &str, histogram: &Histogram) {
        let mut count = 0;
        let bucket = format!("{name}_bucket");
        let buckets = histogram.buckets();
        for (bound, more) in BOUNDS_MS.iter().zip(buckets) {
            count += more;
            let bound = (f64::from(*bound) / 1000.0).to_string();
            self.sample(&bucket, &[("site", site), ("le", &bound)], count);
        }
        count += buckets[BOUNDS_MS.len()];
        self.sample(&bucket, &[("site", site), ("le", "+Inf")], count);
        let sum = histogram.sum_us() as f64 / 1e6;
        self.sample(&format!("{name}_sum"), &[("site", site)], sum);
        self.sample(&format!("{name}_count"), &[("site", site)], count);
    }

    fn write(&mut self, arguments: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.0.write_fmt(arguments);
    }
}

const PREFIX: &str = "swiftiply_";
