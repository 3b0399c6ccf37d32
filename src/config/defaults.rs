//! The defaults of all keys.

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use super::types::{
    AcmeConfig, Address, CacheConfig, ChallengeKind, ChallengeSharing, ClientCertificate, Config,
    DirectoryConfig, FastCgiConfig, FileCache, GzipConfig, Limits, LogDestination, LogLevel,
    Logger, Order, Outgoing, Redis, RedisDirectory, RequestIds, Scheduling, ServerConfig,
    ServerProtocol, ServerTlsConfig, SiteConfig, Symlinks, Timeouts,
};
use crate::process;

/// The configuration of an empty file: no addresses, no sites.
impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            ssl: Vec::new(),
            secure: Vec::new(),
            acme: AcmeConfig::default(),
            state_directory: default_state_directory(),
            outgoing_ssl: Vec::new(),
            status: None,
            daemonize: false,
            pidfile: None,
            user: None,
            group: None,
            logger: Logger::default(),
            access_log: None,
            health_check_uri: Some("/swiftiply_health".into()),
            workers: default_workers(),
            scheduling: Scheduling::Batch,
            grace: Duration::from_secs(30),
            upgrade_grace: Duration::from_secs(12 * 60 * 60),
            upgrade_timeout: Duration::from_secs(60),
            descriptors: None,
            limits: Limits::default(),
            memory: default_memory(),
            timeouts: Timeouts::default(),
            trusted_proxies: Vec::new(),
            proxy_protocol: Vec::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            rate_limit: None,
            client_address_field: "X-Forwarded-For".into(),
            temporary_directory: env::temp_dir(),
            cache_threshold: CACHE_THRESHOLD,
            sites: Vec::new(),
            references: Vec::new(),
        }
    }
}

/// The site of an empty entry: no host names, no backends.
impl Default for SiteConfig {
    fn default() -> Self {
        Self {
            name: "default".into(),
            incoming: Vec::new(),
            route: None,
            default: false,
            tls: None,
            client_ca: None,
            client_crl: None,
            client_certificate: ClientCertificate::Require,
            outgoing: Vec::new(),
            directory: None,
            fastcgi: None,
            server_connections: 64,
            send_proxy: None,
            server_tls: None,
            lookup_interval: DEFAULT_LOOKUP_INTERVAL,
            check: None,
            backup: None,
            keys: Vec::new(),
            keepalive: Some(Timeouts::default().idle),
            order: Order::Least,
            retries: 1,
            redeployable: false,
            request_buffering: true,
            redeployment_sizelimit: 16384,
            xforwardedfor: true,
            via: true,
            queue_time: true,
            request_id: RequestIds::Application,
            underscores: false,
            logger: None,
            access_log: None,
            docroot: None,
            index: vec!["index.html".into()],
            staticmask: None,
            follow_symlinks: Symlinks::Inside,
            hidden_files: false,
            page_cache: None,
            fallback: None,
            clean_urls: false,
            autoindex: false,
            intercept_errors: false,
            sendfileroot: None,
            enable_sendfile_404: false,
            file_cache: FileCache {
                cache: CacheConfig {
                    size: 100,
                    window: WINDOW,
                },
                memory: 64 << 20,
                largest: CACHE_THRESHOLD,
            },
            etag_cache: CacheConfig {
                size: 10_000,
                window: WINDOW,
            },
            dynamic_request_cache: CacheConfig {
                size: 100,
                window: WINDOW,
            },
            max_tunnels: 256,
            unframed_gap: Duration::from_millis(100),
            timeout: Duration::from_secs(10),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            basic_auth: Vec::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            rate_limit: None,
            redirect_to_https: false,
            redirect: Vec::new(),
            hsts: None,
            response_headers: Vec::new(),
            expires: Vec::new(),
            cors: None,
            maintenance_page: None,
            maintenance_flag: None,
            error_pages: BTreeMap::new(),
            gzip: None,
            precompressed: true,
        }
    }
}

impl SiteConfig {
    /// A site with this host name, or the default site if the name is empty, whose backends dial in at this address.
    pub fn dial_in(name: &str, at: Address) -> Self {
        Self {
            outgoing: vec![Outgoing::new(at)],
            ..Self::named(name)
        }
    }

    /// A site whose requests go to servers that listen at these addresses (`proxy: traditional`).
    pub fn traditional(name: &str, servers: Vec<ServerConfig>) -> Self {
        let speaks_tls = |server: &ServerConfig| server.protocol == ServerProtocol::Https;
        let server_tls = servers
            .iter()
            .any(speaks_tls)
            .then(ServerTlsConfig::default);
        Self {
            server_tls,
            directory: Some(DirectoryConfig::Static(servers)),
            ..Self::named(name)
        }
    }

    /// A site whose scripts below this directory are run by FastCGI servers at these addresses, such as php-fpm.
    pub fn scripts(name: &str, docroot: impl Into<PathBuf>, servers: Vec<Address>) -> Self {
        let servers = servers.into_iter().map(ServerConfig::fastcgi).collect();
        Self {
            docroot: Some(docroot.into()),
            index: Self::index_of_scripts(),
            fallback: Some(Self::FRONT.into()),
            fastcgi: Some(FastCgiConfig::default()),
            ..Self::traditional(name, servers)
        }
    }

    /// The default of `index` with FastCGI servers.
    pub(super) fn index_of_scripts() -> Vec<String> {
        ["index.php", "index.html"].map(Into::into).into()
    }

    /// The default of `fallback` with FastCGI servers.
    pub(super) const FRONT: &str = "/index.php";

    /// A site that has only the files below this directory.
    pub fn files(name: &str, docroot: impl Into<PathBuf>) -> Self {
        Self {
            docroot: Some(docroot.into()),
            ..Self::named(name)
        }
    }

    fn named(name: &str) -> Self {
        let incoming = [name].into_iter().filter(|name| !name.is_empty());
        Self {
            default: name.is_empty(),
            incoming: incoming.map(str::to_owned).collect(),
            ..Self::default()
        }
    }
}

/// The settings of an empty section.
impl Default for AcmeConfig {
    fn default() -> Self {
        Self {
            email: None,
            directory: "https://acme-v02.api.letsencrypt.org/directory".into(),
            ca: None,
            eab: None,
            keyfile: None,
            profile: None,
            ask: None,
            challenges: vec![ChallengeKind::Http01, ChallengeKind::TlsAlpn01],
            redis: ChallengeSharing::default(),
        }
    }
}

impl AcmeConfig {
    /// Whether nothing was changed.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the authority is the usual one, which issues certificates for public names only.
    pub(crate) fn is_public(&self) -> bool {
        self.directory == Self::default().directory
    }
}

/// The settings of `gzip: true`.
impl Default for GzipConfig {
    fn default() -> Self {
        Self {
            types: GZIP_TYPES.map(String::from).to_vec(),
            minimum: 1024,
            level: 5,
        }
    }
}

/// The settings of an empty section.
impl Default for Redis {
    fn default() -> Self {
        Self {
            hosts: vec![Address::tcp("127.0.0.1", 6379)],
            sentinel: None,
            db: 0,
            password: None,
        }
    }
}

impl Default for RedisDirectory {
    fn default() -> Self {
        Self {
            at: Redis::default(),
            lease: Duration::from_secs(30),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: 64 << 10,
            fields: 100,
            target: 16 << 10,
            body: 64 << 20,
            body_memory: 64 << 10,
            spool: 1 << 30,
            waiting: 10_000,
            waiting_total: 20_000,
            backends: 10_000,
            connections: 100_000,
            connections_per_client: 0,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(65),
            body: Duration::from_secs(30),
            write: Duration::from_secs(60),
            first_byte: Duration::from_secs(60),
            backend: Duration::from_secs(60),
            preamble: Duration::from_secs(5),
            connect: Duration::from_secs(2),
            tunnel: Duration::from_secs(3600),
        }
    }
}

impl Default for Logger {
    fn default() -> Self {
        Self {
            to: LogDestination::Standard,
            level: LogLevel::Normal,
        }
    }
}

/// The default of `workers`: two for each processor that the process may use, at least four.
pub(super) fn default_workers() -> usize {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    (2 * processors).clamp(4, MOST_WORKERS)
}

/// The default of `state_directory`: that of the unit of systemd (`StateDirectory=`), or the usual place.
fn default_state_directory() -> PathBuf {
    let of_unit = env::var("STATE_DIRECTORY").unwrap_or_default();
    // systemd separates several by colons.
    match of_unit.split(':').next() {
        Some(first) if first.starts_with('/') => first.into(),
        _ => "/var/lib/swiftiply".into(),
    }
}

/// The default of `limits.memory`: a quarter of the memory that the process may use.
fn default_memory() -> u64 {
    process::memory().map_or(UNKNOWN_MEMORY, |all| (all / 4).max(LEAST_MEMORY))
}

/// The largest value of `workers`.
pub(super) const MOST_WORKERS: usize = 4096;

/// The smallest value of `limits.memory`.
pub(super) const LEAST_MEMORY: u64 = 1 << 20;

/// The default of `limits.memory` if the system does not report how much memory there is.
const UNKNOWN_MEMORY: u64 = 64 << 20;

/// The default of `cache_threshold` in bytes, as in the original.
const CACHE_THRESHOLD: u64 = 102_400;

/// How often names of servers are looked up: the time to live of most records that are meant to change is 30 to 60 s.
pub(super) const DEFAULT_LOOKUP_INTERVAL: Duration = Duration::from_secs(30);
/// The default window of the caches. A deployment must be visible soon, and one check per second is cheap.
const WINDOW: Duration = Duration::from_secs(1);

/// Types that compress well and are not compressed already.
const GZIP_TYPES: [&str; 17] = [
    "text/html",
    "text/css",
    "text/csv",
    "text/javascript",
    "text/markdown",
    "text/plain",
    "text/xml",
    "application/atom+xml",
    "application/javascript",
    "application/json",
    "application/ld+json",
    "application/manifest+json",
    "application/rss+xml",
    "application/wasm",
    "application/xhtml+xml",
    "application/xml",
    "image/svg+xml",
];
