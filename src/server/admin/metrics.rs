//! The state of the server in the text format of Prometheus.
//!
//! The labels have a bounded number of values: configured sites and servers, certificates in use, and reasons of a table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write};

use super::message::{AdminRequest, AdminResponse};
use super::view::{CertificateView, RequestView, ServerView, SiteView, TimesView, UP, View};
use crate::stats::Close;
use crate::stats::site::{BOUNDS_MS, HistogramCounts};

/// A text under construction.
struct Metrics(String);

/// `GET /metrics`
pub(super) fn metrics(request: &AdminRequest<'_>) -> AdminResponse {
    let view = View::new(request.context);
    let mut out = Metrics(String::with_capacity(
        4096 + view.sites.len() * BYTES_OF_SITE,
    ));
    server(&view, &mut out);
    connections(&view, &mut out);
    certificates(&view, &mut out);
    requests(&view, &mut out);
    backends(&view, &mut out);
    servers(&view, &mut out);
    AdminResponse {
        status: 200,
        content_type: "text/plain; version=0.0.4; charset=utf-8",
        fields: Vec::new(),
        body: out.0.into_bytes(),
    }
}

fn server(view: &View, out: &mut Metrics) {
    out.family("build_info", "gauge", "The version of swiftiply.");
    out.sample("build_info", &[("version", view.version)], 1);
    let configuration = &view.configuration;
    let memory = &view.memory;
    let gauges = [
        (
            "start_time_seconds",
            "When the server started, since 1970.",
            Some(view.started),
        ),
        (
            "config_generation",
            "Reloads that took effect.",
            Some(configuration.generation),
        ),
        (
            "config_last_reload_successful",
            "Whether the last reload took effect.",
            Some(u64::from(configuration.error.is_none())),
        ),
        ("workers", "Worker threads.", Some(view.workers as u64)),
        ("resident_memory_bytes", "Resident memory.", memory.resident),
        (
            "memory_used_bytes",
            "Memory that is charged to limits.memory.",
            Some(memory.used),
        ),
        ("memory_limit_bytes", "limits.memory.", Some(memory.limit)),
        (
            "spool_used_bytes",
            "Disk space that is charged to limits.spool.",
            Some(memory.spool),
        ),
        (
            "spool_limit_bytes",
            "limits.spool.",
            Some(memory.spool_limit),
        ),
        (
            "open_descriptors",
            "Open file descriptors.",
            view.descriptors.open.map(|open| open as u64),
        ),
        (
            "max_descriptors",
            "Most open file descriptors.",
            Some(view.descriptors.limit),
        ),
    ];
    for (name, help, value) in gauges {
        if let Some(value) = value {
            out.one(name, "gauge", help, value);
        }
    }
}

fn connections(view: &View, out: &mut Metrics) {
    out.one(
        "client_connections",
        "gauge",
        "Open connections of clients.",
        view.connections,
    );
    out.one(
        "client_connections_accepted_total",
        "counter",
        "Accepted connections of clients.",
        view.connections_accepted,
    );
    out.one("tunnels", "gauge", "Upgraded connections.", view.tunnels);
    out.one(
        "worker_panics_total",
        "counter",
        "Panics of workers.",
        view.worker_panics,
    );
    let mut closed = |name: &str, help: &str, counts: &BTreeMap<&'static str, u64>| {
        out.family(name, "counter", help);
        for reason in Close::ALL {
            let count = counts.get(reason.word()).unwrap_or(&0);
            out.sample(name, &[("reason", reason.word())], count);
        }
    };
    closed(
        "client_connections_closed_total",
        "Closed connections of clients, by reason.",
        &view.client_connections_closed,
    );
    closed(
        "backend_connections_closed_total",
        "Closed connections of backends, by reason.",
        &view.backend_connections_closed,
    );
}

fn certificates(view: &View, out: &mut Metrics) {
    let mut each = |name: &str, help: &str, value: &dyn Fn(&CertificateView) -> u64| {
        out.family(name, "gauge", help);
        for certificate in &view.certificates {
            let labels = [
                ("source", certificate.source),
                ("name", certificate.names.first().map_or("", String::as_str)),
                ("file", certificate.file.as_deref().unwrap_or("")),
            ];
            out.sample(name, &labels, value(certificate));
        }
    };
    each(
        "certificate_expiry_timestamp_seconds",
        "When a certificate expires, since 1970.",
        &|certificate| certificate.expires,
    );
    each(
        "certificate_failing",
        "Whether the last attempt to read, obtain or renew a certificate has failed.",
        &|certificate| u64::from(certificate.error.is_some()),
    );
}

/// What was measured of requests, by site; the empty one has those that reached none.
fn requests(view: &View, out: &mut Metrics) {
    let all = || {
        let sites = view.sites.iter();
        let sites = sites.map(|site| (site.name.as_str(), &site.requests));
        [("", &view.unrouted)].into_iter().chain(sites)
    };
    out.family(
        "requests_total",
        "counter",
        "Requests, by the class of their status.",
    );
    for (site, requests) in all() {
        for (class, count) in &requests.statuses {
            out.sample("requests_total", &[("site", site), ("code", class)], count);
        }
    }
    let mut each = |name: &str, help: &str, value: &dyn Fn(&RequestView) -> u64| {
        out.family(name, "counter", help);
        for (site, requests) in all() {
            out.sample(name, &[("site", site)], value(requests));
        }
    };
    each(
        "request_body_bytes_total",
        "Bytes of request bodies, and those that clients have sent over upgraded connections.",
        &|requests| requests.bytes_in,
    );
    each(
        "response_body_bytes_total",
        "Bytes of response bodies, and those that clients got over upgraded connections.",
        &|requests| requests.bytes_out,
    );
    each(
        "retries_total",
        "Requests that were sent again.",
        &|requests| requests.retries,
    );
    out.family(
        "request_errors_total",
        "counter",
        "Requests that did not end complete, by reason.",
    );
    for (site, requests) in all() {
        for (reason, count) in &requests.errors {
            let labels = [("site", site), ("reason", reason)];
            out.sample("request_errors_total", &labels, count);
        }
    }
    out.family(
        "request_duration_seconds",
        "histogram",
        "Times of whole requests.",
    );
    for (site, requests) in all() {
        out.histogram("request_duration_seconds", site, &requests.times.total);
    }
    // Only sites with backends have these times.
    let with_backends = || {
        let sites = view.sites.iter();
        sites.filter(|site| site.servers.is_some() || !site.dial_in.is_empty())
    };
    let mut times = |name: &str, help: &str, time: fn(&TimesView) -> &HistogramCounts| {
        out.family(name, "histogram", help);
        for site in with_backends() {
            out.histogram(name, &site.name, time(&site.requests.times));
        }
    };
    times(
        "queue_duration_seconds",
        "Times in the queue for a backend.",
        |times| &times.queue,
    );
    times(
        "first_byte_duration_seconds",
        "Times from having a backend to the head of its response.",
        |times| &times.first_byte,
    );
    out.family(
        "connect_duration_seconds",
        "histogram",
        "Times to connect to a server, where no connection was idle.",
    );
    for site in view.sites.iter().filter(|site| site.servers.is_some()) {
        let times = &site.requests.times.connect;
        out.histogram("connect_duration_seconds", &site.name, times);
    }
}

fn backends(view: &View, out: &mut Metrics) {
    out.family(
        "requests_waiting",
        "gauge",
        "Requests that wait for a backend.",
    );
    for site in &view.sites {
        out.sample("requests_waiting", &[("site", &site.name)], site.waiting);
    }
    out.family(
        "backends",
        "gauge",
        "Backends that have dialled in, by state.",
    );
    for site in view.sites.iter().filter(|site| !site.dial_in.is_empty()) {
        let states = [("idle", site.backends.idle), ("busy", site.backends.busy)];
        for (state, count) in states {
            let labels = [("site", site.name.as_str()), ("state", state)];
            out.sample("backends", &labels, count);
        }
    }
}

/// The servers that the proxy connects to: their numbers, and each one if it stands in the configuration.
fn servers(view: &View, out: &mut Metrics) {
    out.family(
        "servers",
        "gauge",
        "Servers that are connected to, by whether they get requests.",
    );
    for site in &view.sites {
        let Some(servers) = &site.servers else {
            continue;
        };
        let up = servers.iter().filter(|server| server.state == UP).count();
        for (state, count) in [("up", up), ("down", servers.len() - up)] {
            let labels = [("site", site.name.as_str()), ("state", state)];
            out.sample("servers", &labels, count);
        }
    }
    let fixed: Vec<_> = view.sites.iter().flat_map(fixed_servers).collect();
    let mut each = |name: &str, kind: &str, help: &str, value: &dyn Fn(&ServerView) -> u64| {
        out.family(name, kind, help);
        for (site, server) in &fixed {
            let labels = [("site", *site), ("server", &server.address)];
            out.sample(name, &labels, value(server));
        }
    };
    each(
        "server_up",
        "gauge",
        "Whether a server gets requests, as far as that depends on itself.",
        &|server| u64::from(server.state == UP),
    );
    each(
        "server_drained",
        "gauge",
        "Whether an operator has drained a server.",
        &|server| u64::from(server.drained),
    );
    each(
        "server_busy",
        "gauge",
        "Requests that a server has.",
        &|server| server.busy as u64,
    );
    each(
        "server_requests_total",
        "counter",
        "Complete exchanges with a server.",
        &|server| server.requests,
    );
    each(
        "server_failures_total",
        "counter",
        "Exchanges and connections that a server has failed.",
        &|server| server.failures,
    );
    each(
        "server_failed_checks_total",
        "counter",
        "Checks that a server has failed.",
        &|server| server.checks.as_ref().map_or(0, |checks| checks.failed),
    );
}

/// The servers of a site that stand in the configuration, each once.
fn fixed_servers(site: &SiteView) -> impl Iterator<Item = (&str, &ServerView)> {
    let servers = site.servers.iter().flatten();
    let servers = servers.filter(|_| site.has_fixed_servers);
    let mut seen = BTreeSet::new();
    servers
        .filter(move |server| seen.insert(&server.address))
        .map(|server| (site.name.as_str(), server))
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
        self.0.push_str(PREFIX);
        self.0.push_str(name);
        let mut before = '{';
        for (label, text) in labels {
            self.0.push(before);
            before = ',';
            self.label(label, text);
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        self.write(format_args!(" {value}\n"));
    }

    fn label(&mut self, label: &str, text: &str) {
        self.0.push_str(label);
        self.0.push_str("=\"");
        if text.contains(['\\', '"', '\n']) {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"");
            self.0.push_str(&text.replace('\n', "\\n"));
        } else {
            self.0.push_str(text);
        }
        self.0.push('"');
    }

    /// Most of the text: what the lines have in common is rendered once.
    fn histogram(&mut self, name: &str, site: &str, histogram: &HistogramCounts) {
        let mut count = 0;
        let mut line = Self(format!("{PREFIX}{name}_bucket{{"));
        line.label("site", site);
        line.0.push_str(",le=\"");
        for (bound, more) in BOUNDS.iter().zip(histogram.buckets) {
            count += more;
            self.0.push_str(&line.0);
            self.0.push_str(bound);
            self.write(format_args!("\"}} {count}\n"));
        }
        let sum = histogram.sum_us as f64 / 1e6;
        self.sample(&format!("{name}_sum"), &[("site", site)], sum);
        self.sample(&format!("{name}_count"), &[("site", site)], count);
    }

    fn write(&mut self, arguments: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.0.write_fmt(arguments);
    }
}

const PREFIX: &str = "swiftiply_";
/// What a site with backends needs of the text.
const BYTES_OF_SITE: usize = 8 << 10;
/// [`BOUNDS_MS`] in seconds, and the last one.
const BOUNDS: [&str; BOUNDS_MS.len() + 1] = [
    "0.001", "0.002", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5",
    "10", "30", "+Inf",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_those_of_the_histograms() {
        for (text, ms) in BOUNDS.iter().zip(BOUNDS_MS) {
            assert_eq!(text.parse(), Ok(f64::from(ms) / 1000.0));
        }
        assert_eq!(BOUNDS.last(), Some(&"+Inf"));
    }

    #[test]
    fn labels_are_escaped() {
        let mut out = Metrics(String::new());
        out.sample("x", &[("site", "a\\b\"c\nd"), ("y", "z")], 1);
        assert_eq!(out.0, "swiftiply_x{site=\"a\\\\b\\\"c\\nd\",y=\"z\"} 1\n");
    }
}
