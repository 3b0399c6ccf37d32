//! Prints a configuration as an equivalent file, for `--print-config`.
//!
//! `defaults` are merged into the entries, every value with an effect is printed, and keys from a `key_file` are
//! included.

use std::path::Path;
use std::time::Duration;

use super::raw::{self, Map, Node};
use super::types::{
    AccessFormat, AccessLogConfig, Address, BasicAuth, CacheConfig, Config, DirectoryConfig,
    Filter, Limits, LogLevel, Logger, Order, Outgoing, Scheduling, SiteConfig, SocketFileConfig,
    Symlinks, Timeouts, Tls,
};

impl Config {
    /// This configuration as YAML. Loading it results in the same configuration.
    pub fn to_yaml(&self) -> String {
        raw::render(&top(self))
    }
}

/// A section under construction.
struct Out(Map);

impl Out {
    /// Adds a key, if it has a value.
    fn put(&mut self, key: &str, node: impl Into<Option<Node>>) {
        self.0.extend(node.into().map(|node| (key.into(), node)));
    }
}

fn top(config: &Config) -> Node {
    let mut out = Out(Map::new());
    let (addresses, ports) = fronts(config);
    let some = |nodes: Vec<Node>| (!nodes.is_empty()).then_some(Node::List(nodes));
    out.put("cluster_address", some(addresses));
    out.put("cluster_port", some(ports));
    let certificates = config.ssl.iter();
    let certificates = certificates.filter_map(|tls| certificate(config, tls));
    out.put("ssl", some(certificates.collect()));
    let dialled = config.outgoing_ssl.iter().map(dial_in_certificate);
    out.put("outgoing_ssl", some(dialled.collect()));
    out.put("daemonize", Node::Bool(config.daemonize));
    out.put("pidfile", config.pidfile.as_deref().map(path));
    out.put("user", config.user.as_deref().map(text));
    out.put("group", config.group.as_deref().map(text));
    out.put("logger", logger(&config.logger));
    out.put("access_log", access_log(config.access_log.as_ref()));
    let health = config.health_check_uri.as_deref();
    out.put("health_check_uri", health.map_or(Node::Bool(false), text));
    out.put("workers", number(config.workers));
    let scheduling = match config.scheduling {
        Scheduling::Batch => "batch",
        Scheduling::Normal => "normal",
    };
    out.put("scheduling", text(scheduling));
    out.put("grace", time(config.grace));
    out.put("descriptors", config.descriptors.map(number));
    out.put("limits", server_limits(&config.limits, config.memory));
    out.put("timeouts", server_timeouts(&config.timeouts));
    let networks = config.trusted_proxies.iter();
    let networks = networks.map(|network| text(&format!("{}/{}", network.address, network.prefix)));
    out.put("trusted_proxies", Node::List(networks.collect()));
    let field = text(&config.client_address_field);
    out.put("client_address_field", field);
    out.put("temporary_directory", path(&config.temporary_directory));
    out.put("cache_threshold", number(config.cache_threshold));
    let sites = config.sites.iter().map(site);
    out.put("map", Node::List(sites.collect()));
    Node::Map(out.0)
}

fn server_limits(limits: &Limits, memory: u64) -> Node {
    section([
        ("head", number(limits.head)),
        ("fields", number(limits.fields)),
        ("target", number(limits.target)),
        ("body", number(limits.body)),
        ("body_memory", number(limits.body_memory)),
        ("spool", number(limits.spool)),
        ("memory", number(memory)),
        ("waiting", number(limits.waiting)),
        ("waiting_total", number(limits.waiting_total)),
        ("backends", number(limits.backends)),
        ("connections", number(limits.connections)),
        (
            "connections_per_client",
            number(limits.connections_per_client),
        ),
    ])
}

fn site_limits(limits: &Limits) -> Node {
    section([
        ("body", number(limits.body)),
        ("body_memory", number(limits.body_memory)),
        ("waiting", number(limits.waiting)),
    ])
}

fn server_timeouts(timeouts: &Timeouts) -> Node {
    section([
        ("head", time(timeouts.head)),
        ("idle", time(timeouts.idle)),
        ("body", time(timeouts.body)),
        ("write", time(timeouts.write)),
        ("first_byte", time(timeouts.first_byte)),
        ("backend", time(timeouts.backend)),
        ("preamble", time(timeouts.preamble)),
        ("connect", time(timeouts.connect)),
        ("tunnel", time(timeouts.tunnel)),
    ])
}

fn site_timeouts(timeouts: &Timeouts) -> Node {
    section([
        ("idle", time(timeouts.idle)),
        ("body", time(timeouts.body)),
        ("write", time(timeouts.write)),
        ("first_byte", time(timeouts.first_byte)),
        ("backend", time(timeouts.backend)),
        ("connect", time(timeouts.connect)),
        ("tunnel", time(timeouts.tunnel)),
    ])
}

fn site(site: &SiteConfig) -> Node {
    let mut out = Out(Map::new());
    put_backends(site, &mut out);
    put_exchanges(site, &mut out);
    put_files(site, &mut out);
    put_pages(site, &mut out);
    Node::Map(out.0)
}

/// The host names of a site and its backends.
fn put_backends(site: &SiteConfig, out: &mut Out) {
    let incoming = (!site.incoming.is_empty()).then(|| texts(&site.incoming));
    out.put("incoming", incoming);
    out.put("default", Node::Bool(site.default));
    match &site.directory {
        None => {
            let outgoing = site.outgoing.iter().map(outgoing);
            out.put("outgoing", Node::List(outgoing.collect()));
        }
        Some(directory) => {
            let (kind, servers) = servers(directory);
            out.put("proxy", text("traditional"));
            out.put("directory", text(kind));
            out.put("servers", servers);
            out.put("server_connections", number(site.server_connections));
            let check = site.check.as_ref().map(|check| {
                let interval = ("interval", time(check.interval));
                section([("uri", text(&check.uri)), interval])
            });
            out.put("check", check);
        }
    }
    out.put("backup", site.backup.as_deref().map(text));
    out.put("key", (!site.keys.is_empty()).then(|| texts(&site.keys)));
    let order = match site.order {
        Order::Newest => "newest",
        Order::Oldest => "oldest",
    };
    out.put("order", text(order));
    out.put("timeout", time(site.timeout));
}

/// How requests and responses are passed on.
fn put_exchanges(site: &SiteConfig, out: &mut Out) {
    let keepalive = site.keepalive.map_or(Node::Bool(false), time);
    out.put("keepalive", keepalive);
    out.put("retries", number(site.retries));
    out.put("redeployable", Node::Bool(site.redeployable));
    out.put("request_buffering", Node::Bool(site.request_buffering));
    let sizelimit = number(site.redeployment_sizelimit);
    out.put("redeployment_sizelimit", sizelimit);
    out.put("xforwardedfor", Node::Bool(site.xforwardedfor));
    out.put("via", Node::Bool(site.via));
    out.put("queue_time", Node::Bool(site.queue_time));
    out.put("underscores", Node::Bool(site.underscores));
    out.put("max_tunnels", number(site.max_tunnels));
    out.put("unframed_gap", time(site.unframed_gap));
    out.put("limits", site_limits(&site.limits));
    out.put("timeouts", site_timeouts(&site.timeouts));
    let gzip = site.gzip.as_ref().map_or(Node::Bool(false), |gzip| {
        section([
            ("types", texts(&gzip.types)),
            ("minimum", number(gzip.minimum)),
            ("level", number(gzip.level)),
        ])
    });
    out.put("gzip", gzip);
    out.put("logger", site.logger.as_ref().map(logger));
    out.put("access_log", access_log(site.access_log.as_ref()));
}

/// What is served without a backend.
fn put_files(site: &SiteConfig, out: &mut Out) {
    out.put("docroot", site.docroot.as_deref().map(path));
    out.put("index", texts(&site.index));
    let mask = site.staticmask.as_ref();
    out.put("staticmask", mask.map(|mask| text(mask.as_str())));
    let links = match site.follow_symlinks {
        Symlinks::Inside => text("inside"),
        Symlinks::All => Node::Bool(true),
        Symlinks::None => Node::Bool(false),
    };
    out.put("follow_symlinks", links);
    out.put("hidden_files", Node::Bool(site.hidden_files));
    out.put("precompressed", Node::Bool(site.precompressed));
    let pages = site.page_cache.as_ref();
    let directory = pages.map(|pages| text(&pages.directory));
    out.put("cache_directory", directory);
    let extensions = pages.map(|pages| texts(&pages.extensions));
    out.put("cache_extensions", extensions);
    out.put("sendfileroot", site.sendfileroot.as_deref().map(path));
    out.put("enable_sendfile_404", Node::Bool(site.enable_sendfile_404));
    let CacheConfig { size, window } = site.file_cache.cache;
    let file_cache = section([
        ("size", number(size)),
        ("window", time(window)),
        ("memory", number(site.file_cache.memory)),
    ]);
    out.put("file_cache", file_cache);
    out.put("etag_cache", cache(site.etag_cache));
    out.put("dynamic_request_cache", cache(site.dynamic_request_cache));
}

/// Passwords and pages.
fn put_pages(site: &SiteConfig, out: &mut Out) {
    let guards = match site.basic_auth.as_slice() {
        [] => Node::Bool(false),
        entries => Node::List(entries.iter().map(basic_auth).collect()),
    };
    out.put("basic_auth", guards);
    let page = site.maintenance_page.as_deref();
    out.put("maintenance_page", page.map(path));
    let flag = site.maintenance_flag.as_deref();
    out.put("maintenance_flag", flag.map(path));
    let pages = site.error_pages.iter();
    let pages = pages.map(|(status, file)| (status.to_string(), path(file)));
    let pages: Map = pages.collect();
    out.put(
        "error_pages",
        (!pages.is_empty()).then_some(Node::Map(pages)),
    );
}

fn basic_auth(entry: &BasicAuth) -> Node {
    section([
        ("realm", text(&entry.realm)),
        ("users_file", path(&entry.users_file)),
        ("paths", texts(&entry.paths)),
        ("forward", Node::Bool(entry.forward)),
    ])
}

/// An entry of `ssl`; `None` for an address that another one implies.
fn certificate(config: &Config, tls: &Tls) -> Option<Node> {
    let implied = |port: &u16| {
        let any = Address::Tcp {
            host: "::".into(),
            port: *port,
            implied: true,
        };
        config.ssl.iter().any(|other| other.at == any)
    };
    let at = match &tls.at {
        Address::Tcp { implied: true, .. } => return None,
        Address::Tcp { host, port, .. } if host == "0.0.0.0" && implied(port) => {
            format!("*:{port}")
        }
        at => at.to_string(),
    };
    Some(section([
        ("at", text(&at)),
        ("certfile", path(&tls.certfile)),
        ("keyfile", path(&tls.keyfile)),
    ]))
}

/// An entry of `outgoing_ssl`.
fn dial_in_certificate(tls: &Tls) -> Node {
    let mut out = Out(Map::new());
    out.put("at", text(&tls.at.to_string()));
    out.put("certfile", path(&tls.certfile));
    out.put("keyfile", path(&tls.keyfile));
    out.put("client_ca", tls.client_ca.as_deref().map(path));
    Node::Map(out.0)
}

/// The addresses and ports whose combinations are the listeners without TLS.
fn fronts(config: &Config) -> (Vec<Node>, Vec<Node>) {
    let is_plain = |address: &&Address| !config.ssl.iter().any(|tls| tls.at == **address);
    let any = config
        .listen
        .iter()
        .filter(is_plain)
        .any(|address| matches!(address, Address::Tcp { implied: true, .. }));
    let mut addresses = Vec::new();
    let mut ports = Vec::new();
    for address in config.listen.iter().filter(is_plain) {
        let front = match address {
            Address::Unix(path) => text(&format!("unix:{}", path.display())),
            Address::Tcp { implied: true, .. } => text("*"),
            Address::Tcp { host, .. } if any && host == "0.0.0.0" => text("*"),
            Address::Tcp { host, .. } => text(host),
        };
        if !addresses.contains(&front) {
            addresses.push(front);
        }
        if let Address::Tcp { port, .. } = address
            && !ports.contains(&number(*port))
        {
            ports.push(number(*port));
        }
    }
    (addresses, ports)
}

fn outgoing(outgoing: &Outgoing) -> Node {
    let to = text(&outgoing.to.to_string());
    let file = &outgoing.file;
    if matches!(outgoing.filter, Filter::Any) && *file == SocketFileConfig::default() {
        return to;
    }
    let mut out = Out(Map::new());
    out.put("to", to);
    match &outgoing.filter {
        Filter::Any => {}
        Filter::Prefix(prefix) => out.put("prefix", text(prefix)),
        Filter::Match(expression) => out.put("match", text(expression.as_str())),
    }
    out.put("mode", file.mode.map(|mode| text(&format!("{mode:04o}"))));
    out.put("owner", file.owner.as_deref().map(text));
    out.put("group", file.group.as_deref().map(text));
    Node::Map(out.0)
}

/// `directory` and `servers`.
fn servers(directory: &DirectoryConfig) -> (&'static str, Node) {
    match directory {
        DirectoryConfig::Static(servers) => {
            let servers = servers.iter().map(|server| text(&server.to_string()));
            ("static", Node::List(servers.collect()))
        }
        DirectoryConfig::Redis(redis) => {
            let mut out = Out(Map::new());
            out.put("host", text(&redis.host));
            out.put("port", number(redis.port));
            out.put("db", number(redis.db));
            out.put("password", redis.password.as_deref().map(text));
            out.put("lease", time(redis.lease));
            ("redis", Node::Map(out.0))
        }
    }
}

fn logger(logger: &Logger) -> Node {
    let level = match logger.level {
        LogLevel::Disabled => "disabled",
        LogLevel::Minimal => "minimal",
        LogLevel::Normal => "normal",
        LogLevel::Full => "full",
    };
    match &logger.file {
        None => section([("type", text("stderr")), ("level", text(level))]),
        Some(file) => section([
            ("type", text("file")),
            ("file", path(file)),
            ("level", text(level)),
        ]),
    }
}

fn cache(cache: CacheConfig) -> Node {
    section([("size", number(cache.size)), ("window", time(cache.window))])
}

fn access_log(log: Option<&AccessLogConfig>) -> Node {
    let Some(log) = log else {
        return Node::Bool(false);
    };
    let format = match log.format {
        AccessFormat::Combined => "combined",
        AccessFormat::Json => "json",
    };
    section([
        ("file", log.file.as_deref().map_or(text("-"), path)),
        ("format", text(format)),
    ])
}

fn section<const N: usize>(pairs: [(&str, Node); N]) -> Node {
    Node::Map(
        pairs
            .into_iter()
            .map(|(key, node)| (key.into(), node))
            .collect(),
    )
}

fn text(text: &str) -> Node {
    Node::Text(text.into())
}

fn texts(texts: &[String]) -> Node {
    Node::List(texts.iter().cloned().map(Node::Text).collect())
}

fn path(path: &Path) -> Node {
    text(&path.to_string_lossy())
}

fn number(number: impl ToString) -> Node {
    Node::Number(number.to_string())
}

/// A time in whole milliseconds or seconds.
fn time(time: Duration) -> Node {
    let milliseconds = time.as_millis();
    match milliseconds.is_multiple_of(1000) {
        true => text(&format!("{}s", milliseconds / 1000)),
        false => text(&format!("{milliseconds}ms")),
    }
}
