//! The checked configuration: of the server ([`Config`]), of a site ([`SiteConfig`]), and of their sections.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use regex::Regex;

use crate::budget::PART;

/// Everything a running server needs to know, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses for visitors, at least one (`cluster_address` x `cluster_port`, and those of `ssl`).
    pub listen: Vec<Address>,
    /// Which of [`Config::listen`] speak TLS, and with which certificates (`ssl`).
    pub ssl: Vec<Tls>,
    /// Which of the sites' dial-in addresses speak TLS (`outgoing_ssl`).
    pub outgoing_ssl: Vec<Tls>,
    /// Go to the background (`daemonize`).
    pub daemonize: bool,
    /// Where the process id is written (`pidfile`), absolute.
    pub pidfile: Option<PathBuf>,
    /// User to change to after binding (`user`).
    pub user: Option<String>,
    /// Group to change to after binding (`group`).
    pub group: Option<String>,
    /// Where the server's own messages go (`logger`).
    pub logger: Logger,
    /// Where one line per exchange goes (`access_log`); `None` is off.
    pub access_log: Option<AccessLogConfig>,
    /// Path that the proxy itself answers (`health_check_uri`); `None` is off.
    pub health_check_uri: Option<String>,
    /// Number of worker threads (`workers`): how much is done in parallel, not how many requests are under way.
    pub workers: usize,
    /// Scheduling class of the worker threads (`scheduling`).
    pub scheduling: Scheduling,
    /// The longest drain (`grace`).
    pub grace: Duration,
    /// RLIMIT_NOFILE to ask for (`descriptors`); `None` raises it to the hard limit.
    pub descriptors: Option<u64>,
    /// Limits of the whole server. A site's own are in [`SiteConfig::limits`].
    pub limits: Limits,
    /// Bytes of memory for everything that grows with the traffic (`limits.memory`).
    pub memory: u64,
    /// Deadlines of connections that have no site yet. A site's own are in [`SiteConfig::timeouts`].
    pub timeouts: Timeouts,
    /// Peers whose X-Forwarded-* fields are believed (`trusted_proxies`).
    pub trusted_proxies: Vec<Network>,
    /// The field in which these name the client (`client_address_field`).
    pub client_address_field: String,
    /// Where collected request bodies go that do not fit into memory (`temporary_directory`).
    pub temporary_directory: PathBuf,
    /// Largest file that is kept in memory, in bytes (`cache_threshold`).
    pub cache_threshold: u64,
    /// The sites in the order of the file (`map`).
    pub sites: Vec<SiteConfig>,
}

/// One entry of `map`, with `defaults` merged in.
#[derive(Clone, Debug)]
pub struct SiteConfig {
    /// The first of [`SiteConfig::incoming`], or `default` where there is none (`backend_address`): the name in logs.
    pub name: String,
    /// Host names, lower case, without port.
    pub incoming: Vec<String>,
    /// Takes the requests that no other site's name matches.
    pub default: bool,
    /// Where backends dial in, in the order of the file.
    pub outgoing: Vec<Outgoing>,
    /// The servers that are connected to (`proxy: traditional`); `None`: backends dial in.
    pub directory: Option<DirectoryConfig>,
    /// Requests that each of them may have at once.
    pub server_connections: usize,
    /// Whether they are asked now and then if they are well.
    pub check: Option<CheckConfig>,
    /// The site, by its first name, whose backends are used when none came in time.
    pub backup: Option<String>,
    /// Keys of which a backend must send one; empty: it must send none.
    pub keys: Vec<String>,
    /// How long an idle visitor's connection is kept; `None`: closed after each answer.
    pub keepalive: Option<Duration>,
    /// Which idle backend is taken.
    pub order: Order,
    /// How often a request is sent again, to another backend, when the one that had it closes its connection (a count).
    pub retries: usize,
    /// Any request whose backend dies may go to another.
    pub redeployable: bool,
    /// Collect a request's body before a backend is taken.
    pub request_buffering: bool,
    /// Largest such request, head and body, in bytes.
    pub redeployment_sizelimit: u64,
    /// Add X-Forwarded-For, -Proto, -Host and X-Real-IP.
    pub xforwardedfor: bool,
    /// Add `Via: 1.1 swiftiply`.
    pub via: bool,
    /// Add X-Request-Start and X-Queue-Time.
    pub queue_time: bool,
    /// Pass on fields with underscores in their names.
    pub underscores: bool,
    /// The site's own logger, if it is not the server's.
    pub logger: Option<Logger>,
    /// The site's access log, its own or the server's.
    pub access_log: Option<AccessLogConfig>,
    /// Files that are served without asking a backend.
    pub docroot: Option<PathBuf>,
    /// Names that stand for a directory, in the order in which they are looked for.
    pub index: Vec<String>,
    /// Files that are not served, by their whole path.
    pub staticmask: Option<Regex>,
    /// Which symbolic links are followed.
    pub follow_symlinks: Symlinks,
    /// Serve what has a dot in front.
    pub hidden_files: bool,
    /// Look for pages that the application has written into a directory below the docroot.
    pub page_cache: Option<PageCache>,
    /// What a backend may name in X-Sendfile stands below this.
    pub sendfileroot: Option<PathBuf>,
    /// Answer 404 where a backend names a file that is not there.
    pub enable_sendfile_404: bool,
    /// Files in memory.
    pub file_cache: FileCache,
    /// Tags of files that are not in memory.
    pub etag_cache: CacheConfig,
    /// Paths that are not those of files.
    pub dynamic_request_cache: CacheConfig,
    /// Upgraded connections at once; 0: upgrades are not passed on.
    pub max_tunnels: usize,
    /// How long a silence ends an answer without length.
    pub unframed_gap: Duration,
    /// How long a request may wait for a backend.
    pub timeout: Duration,
    /// The site's own limits, or the server's (only `body`, `body_memory`, `waiting` are a site's).
    pub limits: Limits,
    /// The site's own deadlines, or the server's.
    pub timeouts: Timeouts,
    /// Which paths ask for a password (`basic_auth`).
    pub basic_auth: Vec<BasicAuth>,
    /// What is shown in maintenance, and whenever there is no service; absolute (`maintenance_page`).
    pub maintenance_page: Option<PathBuf>,
    /// The site is in maintenance while this file is there; absolute (`maintenance_flag`).
    pub maintenance_flag: Option<PathBuf>,
    /// What is shown with these statuses of our own; absolute (`error_pages`).
    pub error_pages: BTreeMap<u16, PathBuf>,
    /// Which answers are compressed on their way (`gzip`); `None`: none.
    pub gzip: Option<GzipConfig>,
    /// Files beside others with their content, compressed, are sent in their place (`precompressed`).
    pub precompressed: bool,
}

/// Which answers are compressed on their way (`gzip`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GzipConfig {
    /// Media types, lower case; `text/*` is all that begin so.
    pub types: Vec<String>,
    /// Answers with fewer bytes go out as they are.
    pub minimum: u64,
    /// 1, which takes the least time, to 9, which makes the least of them.
    pub level: u32,
}

/// Paths that only known visitors may see (an entry of `basic_auth`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicAuth {
    /// What the visitor is told that the password is for, without control characters.
    pub realm: String,
    /// Names and hashes, as htpasswd(1) writes them; absolute.
    pub users_file: PathBuf,
    /// Decoded paths; these, and all below them, ask. `/` is all of the site.
    pub paths: Vec<String>,
    /// The application gets the visitor's password too.
    pub forward: bool,
}

/// Where the servers of a site are found (`directory`, `servers`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectoryConfig {
    /// They are listed.
    Static(Vec<Address>),
    /// Redis has the list.
    Redis(Redis),
}

/// A Redis server and a database in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redis {
    /// Host name or literal address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Number of the database.
    pub db: u32,
    /// Password.
    pub password: Option<String>,
    /// After what time what a proxy has in use comes back if the proxy is gone.
    pub lease: Duration,
}

/// Asking servers whether they are well (`check`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckConfig {
    /// Path and query.
    pub uri: String,
    /// How often.
    pub interval: Duration,
}

/// A certificate for an address (an entry of `ssl` or `outgoing_ssl`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tls {
    /// One of [`Config::listen`], or of the sites' [`SiteConfig::outgoing`].
    pub at: Address,
    /// The certificate with its chain, PEM, absolute.
    pub certfile: PathBuf,
    /// Its key, PEM, absolute; may be the same file.
    pub keyfile: PathBuf,
    /// Authorities, PEM, absolute, one of which has to vouch for who connects; only with `outgoing_ssl`.
    pub client_ca: Option<PathBuf>,
}

/// Which symbolic links below a root are followed (`follow_symlinks`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symlinks {
    /// Those that are relative and stay below it.
    Inside,
    /// All.
    All,
    /// None.
    None,
}

/// Pages that the application has written (`cache_directory`, `cache_extensions`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageCache {
    /// Below the docroot: `public`, `tmp/pages`.
    pub directory: String,
    /// Without dot, in the order in which they are tried.
    pub extensions: Vec<String>,
}

impl PageCache {
    /// Whether a path relative to the docroot is that of the directory or leads into it, also where the file system does
    /// not tell upper from lower case.
    pub fn holds(&self, path: &[u8]) -> bool {
        let split = path.split_at_checked(self.directory.len());
        split.is_some_and(|(start, rest)| {
            let is_directory = start.eq_ignore_ascii_case(self.directory.as_bytes());
            is_directory && matches!(rest, [] | [b'/', ..])
        })
    }
}

/// How much is remembered of files, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// How many.
    pub size: usize,
    /// After this time it is looked at the file again.
    pub window: Duration,
}

/// The same for files in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileCache {
    /// How many, and for how long.
    pub cache: CacheConfig,
    /// Bytes of all of them.
    pub memory: u64,
    /// Bytes of the largest one, the server's `cache_threshold`.
    pub largest: u64,
}

/// Where backends of a site dial in, and which requests they get.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The dial-in address.
    pub to: Address,
    /// Requests that go to this address. The first match of a site wins; [`Filter::Any`] takes the rest.
    pub filter: Filter,
    /// The file of a Unix socket.
    pub file: SocketFileConfig,
}

/// What the file of a Unix socket is to be like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketFileConfig {
    /// Its permissions; `None`: everybody may connect.
    pub mode: Option<u32>,
    /// Its user; `None`: whoever starts the server.
    pub owner: Option<String>,
    /// Its group.
    pub group: Option<String>,
}

/// Which requests an [`Outgoing`] gets, by the percent-decoded path without query.
#[derive(Clone, Debug)]
pub enum Filter {
    /// Those that no other address of the site matches.
    Any,
    /// Paths that begin so.
    Prefix(String),
    /// Paths that match.
    Match(Regex),
}

/// A listening address as written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// A TCP port on a host name or literal IPv4 or IPv6 address (without brackets).
    Tcp {
        /// Host name or literal address.
        host: String,
        /// Port, 0 for any free one.
        port: u16,
        /// Not written but implied (`::` beside `0.0.0.0` when only a port is given): may be left out
        /// where the system has no IPv6.
        implied: bool,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

/// Which idle backend is taken (`order`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The one that became idle last.
    Newest,
    /// The one that is idle longest, as the original did.
    Oldest,
}

/// Scheduling class of worker threads (`scheduling`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduling {
    /// SCHED_BATCH: a woken worker does not preempt the thread that woke it.
    Batch,
    /// The system's default.
    Normal,
}

/// Sizes and counts (`limits`). Bytes unless told otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest request or response head.
    pub head: usize,
    /// Most fields in a head, 1 to 256.
    pub fields: usize,
    /// Longest request target.
    pub target: usize,
    /// Largest request body.
    pub body: u64,
    /// What of a request body is kept in memory; the rest goes to a temporary file.
    pub body_memory: usize,
    /// Answers and collected bodies on disk, in all.
    pub spool: u64,
    /// Requests of a site that may wait for a backend (a count).
    pub waiting: usize,
    /// The same for all sites together (a count).
    pub waiting_total: usize,
    /// Backends per dial-in address (a count).
    pub backends: usize,
    /// Visitors' connections (a count).
    pub connections: usize,
    /// Visitors' connections per client address (a count); 0: no limit.
    pub connections_per_client: usize,
}

/// Deadlines (`timeouts`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A request head, from its first byte.
    pub head: Duration,
    /// An idle kept connection.
    pub idle: Duration,
    /// A request body without progress.
    pub body: Duration,
    /// A response that the visitor does not take, without progress.
    pub write: Duration,
    /// The first byte of a backend's answer.
    pub first_byte: Duration,
    /// A backend's answer without progress after that.
    pub backend: Duration,
    /// A backend's preamble.
    pub preamble: Duration,
    /// A connection to a server (`proxy: traditional`).
    pub connect: Duration,
    /// A tunnel through which nothing goes.
    pub tunnel: Duration,
}

/// A destination for messages (`logger`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logger {
    /// File, or standard error.
    pub file: Option<PathBuf>,
    /// How much is told.
    pub level: LogLevel,
}

/// The original's four levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// 0: errors only.
    Disabled,
    /// 1: and warnings.
    Minimal,
    /// 2: and changes of state.
    Normal,
    /// 3: everything.
    Full,
}

/// A destination for one line per exchange (`access_log`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AccessLogConfig {
    /// File, or standard output (`-`).
    pub file: Option<PathBuf>,
    /// Its lines.
    pub format: AccessFormat,
}

/// Lines of an access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessFormat {
    /// Apache's combined format, with swiftiply's fields at the end.
    Combined,
    /// One JSON object a line.
    Json,
}

/// An address range in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Any address in it.
    pub address: IpAddr,
    /// Leading bits that count.
    pub prefix: u8,
}

/// As it is written for `outgoing`: `127.0.0.1:80`, `[::1]:80`, `unix:/path`.
impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } if host.parse::<Ipv6Addr>().is_ok() => {
                write!(formatter, "[{host}]:{port}")
            }
            Self::Tcp { host, port, .. } => write!(formatter, "{host}:{port}"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

impl Limits {
    /// The largest body of a request that can be collected, in memory or on disk.
    pub fn largest_kept(&self) -> u64 {
        (self.spool / PART).max(self.body_memory as u64)
    }
}
