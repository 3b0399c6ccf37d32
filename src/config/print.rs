//! A configuration as a file that means the same: what `-p` prints.
//!
//! `defaults` are gone into the entries, every value that has an effect is there, and keys from a `key_file`
//! stand in the text.

use std::path::Path;
use std::time::Duration;

use super::raw::{self, Map, Node};
use super::{
    AccessFormat, AccessLog, Address, BasicAuth, Cache, Config, Directory, Filter, Level, Logger,
    Order, Outgoing, Scheduling, Site, SocketFile, Symlinks, Tls,
};

impl Config {
    /// This configuration as YAML. Loading that gives the same configuration again.
    pub fn to_yaml(&self) -> String {
        raw::render(&top(self))
    }
}

fn top(config: &Config) -> Node {
    let mut map = Map::new();
    let mut put = |key: &str, node: Option<Node>| map.extend(node.map(|node| (key.into(), node)));
    let (addresses, ports) = fronts(config);
    let list =
        |nodes: Vec<Node>| Some(Node::List(nodes)).filter(|list| *list != Node::List(vec![]));
    put("cluster_address", list(addresses));
    put("cluster_port", list(ports));
    put(
        "ssl",
        list(
            config
                .ssl
                .iter()
                .filter_map(|tls| certificate(config, tls))
                .collect(),
        ),
    );
    let dialled = config.outgoing_ssl.iter().map(dial_in_certificate);
    put("outgoing_ssl", list(dialled.collect()));
    put("daemonize", Some(Node::Bool(config.daemonize)));
    put("pidfile", config.pidfile.as_deref().map(path));
    put("user", config.user.as_deref().map(text));
    put("group", config.group.as_deref().map(text));
    put("logger", Some(logger(&config.logger)));
    put("access_log", Some(access_log(config.access_log.as_ref())));
    put(
        "health_check_uri",
        Some(
            config
                .health_check_uri
                .as_deref()
                .map_or(Node::Bool(false), text),
        ),
    );
    put("workers", Some(number(config.workers)));
    put(
        "scheduling",
        Some(text(match config.scheduling {
            Scheduling::Batch => "batch",
            Scheduling::Normal => "normal",
        })),
    );
    put("grace", Some(time(config.grace)));
    put("descriptors", config.descriptors.map(number));
    let limits = &config.limits;
    put(
        "limits",
        Some(section([
            ("head", number(limits.head)),
            ("fields", number(limits.fields)),
            ("target", number(limits.target)),
            ("body", number(limits.body)),
            ("body_memory", number(limits.body_memory)),
            ("spool", number(limits.spool)),
            ("waiting", number(limits.waiting)),
            ("waiting_total", number(limits.waiting_total)),
            ("backends", number(limits.backends)),
            ("connections", number(limits.connections)),
            (
                "connections_per_client",
                number(limits.connections_per_client),
            ),
        ])),
    );
    let timeouts = &config.timeouts;
    put(
        "timeouts",
        Some(section([
            ("head", time(timeouts.head)),
            ("idle", time(timeouts.idle)),
            ("body", time(timeouts.body)),
            ("write", time(timeouts.write)),
            ("first_byte", time(timeouts.first_byte)),
            ("backend", time(timeouts.backend)),
            ("preamble", time(timeouts.preamble)),
            ("connect", time(timeouts.connect)),
            ("tunnel", time(timeouts.tunnel)),
        ])),
    );
    let networks = config.trusted_proxies.iter();
    let networks = networks.map(|network| text(&format!("{}/{}", network.address, network.prefix)));
    put("trusted_proxies", Some(Node::List(networks.collect())));
    put(
        "temporary_directory",
        Some(path(&config.temporary_directory)),
    );
    put("cache_threshold", Some(number(config.cache_threshold)));
    put(
        "map",
        Some(Node::List(config.sites.iter().map(site).collect())),
    );
    Node::Map(map)
}

fn site(site: &Site) -> Node {
    let mut map = Map::new();
    let mut put = |key: &str, node: Option<Node>| map.extend(node.map(|node| (key.into(), node)));
    let incoming = Some(texts(&site.incoming)).filter(|_| !site.incoming.is_empty());
    put("incoming", incoming);
    put("default", Some(Node::Bool(site.default)));
    match &site.directory {
        None => {
            let list = site.outgoing.iter().map(outgoing).collect();
            put("outgoing", Some(Node::List(list)));
        }
        Some(directory) => {
            let (kind, servers) = servers(directory);
            put("proxy", Some(text("traditional")));
            put("directory", Some(text(kind)));
            put("servers", Some(servers));
            put("server_connections", Some(number(site.server_connections)));
            let check = site.check.as_ref().map(|check| {
                let interval = ("interval", time(check.interval));
                section([("uri", text(&check.uri)), interval])
            });
            put("check", check);
        }
    }
    put("backup", site.backup.as_deref().map(text));
    put(
        "key",
        Some(texts(&site.keys)).filter(|_| !site.keys.is_empty()),
    );
    put(
        "keepalive",
        Some(site.keepalive.map_or(Node::Bool(false), time)),
    );
    put(
        "order",
        Some(text(match site.order {
            Order::Newest => "newest",
            Order::Oldest => "oldest",
        })),
    );
    put("redeployable", Some(Node::Bool(site.redeployable)));
    put(
        "request_buffering",
        Some(Node::Bool(site.request_buffering)),
    );
    put(
        "redeployment_sizelimit",
        Some(number(site.redeployment_sizelimit)),
    );
    put("xforwardedfor", Some(Node::Bool(site.xforwardedfor)));
    put("via", Some(Node::Bool(site.via)));
    put("queue_time", Some(Node::Bool(site.queue_time)));
    put("logger", site.logger.as_ref().map(logger));
    put("access_log", Some(access_log(site.access_log.as_ref())));
    put("docroot", site.docroot.as_deref().map(path));
    put("index", Some(texts(&site.index)));
    let mask = site.staticmask.as_ref();
    put("staticmask", mask.map(|mask| text(mask.as_str())));
    put(
        "follow_symlinks",
        Some(match site.follow_symlinks {
            Symlinks::Inside => text("inside"),
            Symlinks::All => Node::Bool(true),
            Symlinks::None => Node::Bool(false),
        }),
    );
    put("hidden_files", Some(Node::Bool(site.hidden_files)));
    let pages = site.page_cache.as_ref();
    put("cache_directory", pages.map(|pages| text(&pages.directory)));
    put(
        "cache_extensions",
        pages.map(|pages| texts(&pages.extensions)),
    );
    put("sendfileroot", site.sendfileroot.as_deref().map(path));
    put(
        "enable_sendfile_404",
        Some(Node::Bool(site.enable_sendfile_404)),
    );
    let Cache { size, window } = site.file_cache.cache;
    put(
        "file_cache",
        Some(section([
            ("size", number(size)),
            ("window", time(window)),
            ("memory", number(site.file_cache.memory)),
        ])),
    );
    put("etag_cache", Some(cache(site.etag_cache)));
    put(
        "dynamic_request_cache",
        Some(cache(site.dynamic_request_cache)),
    );
    put("max_tunnels", Some(number(site.max_tunnels)));
    put("unframed_gap", Some(time(site.unframed_gap)));
    put("timeout", Some(time(site.timeout)));
    put(
        "limits",
        Some(section([
            ("body", number(site.limits.body)),
            ("body_memory", number(site.limits.body_memory)),
            ("waiting", number(site.limits.waiting)),
        ])),
    );
    put(
        "timeouts",
        Some(section([
            ("idle", time(site.timeouts.idle)),
            ("body", time(site.timeouts.body)),
            ("write", time(site.timeouts.write)),
            ("first_byte", time(site.timeouts.first_byte)),
            ("backend", time(site.timeouts.backend)),
            ("connect", time(site.timeouts.connect)),
            ("tunnel", time(site.timeouts.tunnel)),
        ])),
    );
    put(
        "basic_auth",
        Some(match site.basic_auth.as_slice() {
            [] => Node::Bool(false),
            entries => Node::List(entries.iter().map(basic_auth).collect()),
        }),
    );
    put(
        "maintenance_page",
        site.maintenance_page.as_deref().map(path),
    );
    put(
        "maintenance_flag",
        site.maintenance_flag.as_deref().map(path),
    );
    put("precompressed", Some(Node::Bool(site.precompressed)));
    put(
        "gzip",
        Some(site.gzip.as_ref().map_or(Node::Bool(false), |gzip| {
            section([
                ("types", texts(&gzip.types)),
                ("minimum", number(gzip.minimum)),
                ("level", number(gzip.level)),
            ])
        })),
    );
    let pages = site.error_pages.iter();
    let pages: Map = pages
        .map(|(status, file)| (status.to_string(), path(file)))
        .collect();
    put(
        "error_pages",
        Some(Node::Map(pages)).filter(|_| !site.error_pages.is_empty()),
    );
    Node::Map(map)
}

fn basic_auth(entry: &BasicAuth) -> Node {
    section([
        ("realm", text(&entry.realm)),
        ("users_file", path(&entry.users_file)),
        ("paths", texts(&entry.paths)),
        ("forward", Node::Bool(entry.forward)),
    ])
}

/// An entry of `ssl`; none for an address that is implied by another one.
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
    let mut map: Map = vec![
        ("at".into(), text(&tls.at.to_string())),
        ("certfile".into(), path(&tls.certfile)),
        ("keyfile".into(), path(&tls.keyfile)),
    ];
    map.extend(
        tls.client_ca
            .as_deref()
            .map(|file| ("client_ca".into(), path(file))),
    );
    Node::Map(map)
}

/// The addresses and ports whose product the listeners without TLS are.
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
    let mut map: Map = vec![("to".into(), to.clone())];
    let mut put = |key: &str, value: Option<Node>| map.extend(value.map(|node| (key.into(), node)));
    match &outgoing.filter {
        Filter::Any if *file == SocketFile::default() => return to,
        Filter::Any => {}
        Filter::Prefix(prefix) => put("prefix", Some(text(prefix))),
        Filter::Match(expression) => put("match", Some(text(expression.as_str()))),
    }
    put("mode", file.mode.map(|mode| text(&format!("{mode:04o}"))));
    put("owner", file.owner.as_deref().map(text));
    put("group", file.group.as_deref().map(text));
    Node::Map(map)
}

/// `directory` and `servers`.
fn servers(directory: &Directory) -> (&'static str, Node) {
    match directory {
        Directory::Static(servers) => {
            let servers = servers.iter().map(|server| text(&server.to_string()));
            ("static", Node::List(servers.collect()))
        }
        Directory::Redis(redis) => {
            let mut map = Map::new();
            map.push(("host".into(), text(&redis.host)));
            map.push(("port".into(), number(redis.port)));
            map.push(("db".into(), number(redis.db)));
            let password = redis.password.as_deref();
            map.extend(password.map(|password| ("password".into(), text(password))));
            map.push(("lease".into(), time(redis.lease)));
            ("redis", Node::Map(map))
        }
    }
}

fn logger(logger: &Logger) -> Node {
    let level = match logger.level {
        Level::Disabled => "disabled",
        Level::Minimal => "minimal",
        Level::Normal => "normal",
        Level::Full => "full",
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

fn cache(cache: Cache) -> Node {
    section([("size", number(cache.size)), ("window", time(cache.window))])
}

fn access_log(log: Option<&AccessLog>) -> Node {
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

/// Whole milliseconds, as they are read.
fn time(time: Duration) -> Node {
    let milliseconds = time.as_millis();
    match milliseconds.is_multiple_of(1000) {
        true => text(&format!("{}s", milliseconds / 1000)),
        false => text(&format!("{milliseconds}ms")),
    }
}
