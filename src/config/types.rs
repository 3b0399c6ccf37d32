//! The checked configuration: of the server ([`Config`]), of a site ([`SiteConfig`]), and of their sections.

mod address;
mod certificates;
mod directory;
mod fastcgi;
mod headers;
mod log_level;
mod pattern;
mod redirect;
mod reference;
mod route;
mod server;
mod status;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

pub use address::{Address, ClientGroup, Network};
pub use certificates::{
    AcmeConfig, ChallengeKind, ChallengeSharing, ClientCertificate, ExternalAccount, SiteTls,
};
pub use directory::{CheckConfig, DirectoryConfig, Redis, RedisDirectory};
pub use fastcgi::FastCgiConfig;
pub use headers::{Cors, ExpiresRule, HeaderRule};
pub use log_level::LogLevel;
pub use pattern::{InvalidPattern, Pattern};
pub use redirect::{Hsts, Redirect};
pub use reference::Reference;
pub use route::RouteConfig;
pub use server::{ServerConfig, ServerProtocol, ServerTlsConfig};
pub use status::{SocketFileConfig, StatusConfig};

use super::written::{is_everything, list_or_no, or_no, path, time, time_or_no};
use crate::budget::PART;

/// The checked configuration of a server.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Config {
    /// Addresses for clients, at least one (`cluster_address` x `cluster_port`, and those of `ssl`).
    #[serde(skip)]
    pub listen: Vec<Address>,
    /// Which of [`Config::listen`] speak TLS, and with which certificates (`ssl`).
    #[serde(skip)]
    pub ssl: Vec<Tls>,
    /// Which of [`Config::listen`] speak TLS: those of [`Config::ssl`], and others for the certificates of sites.
    #[serde(skip)]
    pub secure: Vec<Address>,
    /// Which of the sites' dial-in addresses speak TLS (`outgoing_ssl`).
    #[serde(skip)]
    pub outgoing_ssl: Vec<Tls>,
    /// Where the server reports its state (`status`); `None`: nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<StatusConfig>,
    /// Where certificates for sites with `tls: auto` come from (`acme`).
    #[serde(skip_serializing_if = "AcmeConfig::is_default")]
    pub acme: AcmeConfig,
    /// The directory for certificates and keys that the server obtains or makes, absolute (`state_directory`).
    #[serde(serialize_with = "path")]
    pub state_directory: PathBuf,
    /// Go to the background (`daemonize`).
    pub daemonize: bool,
    /// The file for the process id (`pidfile`), absolute.
    #[serde(serialize_with = "path")]
    pub pidfile: Option<PathBuf>,
    /// User to change to after binding (`user`).
    pub user: Option<String>,
    /// Group to change to after binding (`group`).
    pub group: Option<String>,
    /// The destination of the server's messages (`logger`).
    pub logger: Logger,
    /// The destination of the access log (`access_log`); `None`: off.
    #[serde(serialize_with = "or_no")]
    pub access_log: Option<AccessLogConfig>,
    /// The path at which the proxy responds with its state (`health_check_uri`); `None`: off.
    #[serde(serialize_with = "or_no")]
    pub health_check_uri: Option<String>,
    /// Number of worker threads (`workers`). It bounds parallel work, not the number of requests in progress.
    pub workers: usize,
    /// Scheduling class of the worker threads (`scheduling`).
    pub scheduling: Scheduling,
    /// Longest time for draining (`grace`).
    #[serde(serialize_with = "time")]
    pub grace: Duration,
    /// Longest time for draining after an upgrade (`upgrade_grace`).
    #[serde(serialize_with = "time")]
    pub upgrade_grace: Duration,
    /// Longest time until a new process serves, in an upgrade (`upgrade_timeout`).
    #[serde(serialize_with = "time")]
    pub upgrade_timeout: Duration,
    /// RLIMIT_NOFILE to ask for (`descriptors`); `None` raises it to the hard limit.
    pub descriptors: Option<u64>,
    /// Limits of the whole server. Those of a site are in [`SiteConfig::limits`].
    #[serde(skip)]
    pub limits: Limits,
    /// Bytes of memory for everything that grows with the traffic (`limits.memory`).
    #[serde(skip)]
    pub memory: u64,
    /// Timeouts of connections that have no site yet. Those of a site are in [`SiteConfig::timeouts`].
    pub timeouts: Timeouts,
    /// Peers whose X-Forwarded-* fields are trusted (`trusted_proxies`).
    pub trusted_proxies: Vec<Network>,
    /// Which connections begin with a PROXY header (`proxy_protocol`).
    #[serde(serialize_with = "list_or_no")]
    pub proxy_protocol: Vec<ProxyProtocol>,
    /// Which clients may connect (`allow`); empty: those that [`Config::deny`] does not name. Paths are `/`.
    #[serde(serialize_with = "list_or_no")]
    pub allow: Vec<ClientRule>,
    /// Which clients may not (`deny`).
    #[serde(serialize_with = "list_or_no")]
    pub deny: Vec<ClientRule>,
    /// How many requests a client may send, to all sites together (`rate_limit`).
    #[serde(serialize_with = "or_no")]
    pub rate_limit: Option<RateLimit>,
    /// The field in which trusted proxies name the client (`client_address_field`).
    pub client_address_field: String,
    /// The directory for request bodies that do not fit into memory (`temporary_directory`).
    #[serde(serialize_with = "path")]
    pub temporary_directory: PathBuf,
    /// Largest file that is cached in memory, in bytes (`cache_threshold`).
    pub cache_threshold: u64,
    /// The sites, in the order of the file (`map`).
    #[serde(skip)]
    pub sites: Vec<SiteConfig>,
    /// The texts that had references, such as `${NAME}`: printed as they were written.
    #[serde(skip)]
    pub references: Vec<Reference>,
}

impl Config {
    /// The Redis through which challenges are shared with other proxies; `None`: they are not shared.
    pub fn challenge_redis(&self) -> Option<&Redis> {
        let is_obtained = |site: &SiteConfig| site.tls.as_ref().is_some_and(SiteTls::is_obtained);
        if !self.sites.iter().any(is_obtained) {
            return None;
        }
        match &self.acme.redis {
            ChallengeSharing::At(redis) => Some(redis),
            ChallengeSharing::Off => None,
            ChallengeSharing::Directory => {
                let sites = self.sites.iter();
                let mut all = sites.filter_map(|site| match &site.directory {
                    Some(DirectoryConfig::Redis(list)) => Some(&list.at),
                    _ => None,
                });
                let first = all.next()?;
                all.all(|other| other == first).then_some(first)
            }
        }
    }
}

/// One entry of `map`, with `defaults` merged in.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SiteConfig {
    /// The name in logs: the first of [`SiteConfig::incoming`], or `default` if there is none (`backend_address`).
    #[serde(skip)]
    pub name: String,
    /// Host names in lower case, without port. `*.example.com` is for all names with one label more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub incoming: Vec<String>,
    /// The part of another site that this one is (`routes`); `None`: it is an entry of `map`.
    #[serde(skip)]
    pub route: Option<RouteConfig>,
    /// Gets the requests that match no other site's names.
    pub default: bool,
    /// Where the certificates for its names come from (`tls`); `None`: it has none of its own.
    #[serde(serialize_with = "or_no")]
    pub tls: Option<SiteTls>,
    /// PEM file of the authorities that identify clients (`client_ca`), absolute; `None`: clients need no certificate.
    #[serde(serialize_with = "path")]
    pub client_ca: Option<PathBuf>,
    /// PEM file of the certificates that these have revoked (`client_crl`), absolute.
    #[serde(serialize_with = "path", skip_serializing_if = "Option::is_none")]
    pub client_crl: Option<PathBuf>,
    /// Whether clients without a certificate are refused (`client_certificate`).
    pub client_certificate: ClientCertificate,
    /// The addresses at which backends dial in, in the order of the file.
    #[serde(skip)]
    pub outgoing: Vec<Outgoing>,
    /// The servers to connect to (`proxy: traditional`); `None`: backends dial in.
    #[serde(skip)]
    pub directory: Option<DirectoryConfig>,
    /// How the servers run scripts, if they speak FastCGI; `None`: they speak HTTP.
    #[serde(skip)]
    pub fastcgi: Option<FastCgiConfig>,
    /// Most requests that a server has at once.
    #[serde(skip)]
    pub server_connections: usize,
    /// How often host names of servers are looked up again.
    #[serde(skip)]
    pub lookup_interval: Duration,
    /// The PROXY header that a connection to a server begins with (`send_proxy`); `None`: none.
    #[serde(skip)]
    pub send_proxy: Option<ProxyVersion>,
    /// TLS with the servers; `None`: none of them speaks TLS (`https://`).
    #[serde(skip)]
    pub server_tls: Option<ServerTlsConfig>,
    /// Health checks of the servers.
    #[serde(skip)]
    pub check: Option<CheckConfig>,
    /// The first name of the site whose backends take over when none became available in time.
    pub backup: Option<String>,
    /// Keys, one of which a backend must send; empty: it must send none.
    #[serde(rename = "key", skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// How long an idle client connection is kept; `None`: closed after each response.
    #[serde(serialize_with = "time_or_no")]
    pub keepalive: Option<Duration>,
    /// Which idle backend gets the next request.
    pub order: Order,
    /// How often a request is sent again, to another backend, when its backend closes the connection (a count).
    pub retries: usize,
    /// Whether any request may go to another backend when its backend fails.
    pub redeployable: bool,
    /// Whether the body of a request is read completely before a backend is leased.
    pub request_buffering: bool,
    /// Largest request that may go to another backend, head and body, in bytes.
    pub redeployment_sizelimit: u64,
    /// Whether to add X-Forwarded-For, -Proto, -Host and X-Real-IP.
    pub xforwardedfor: bool,
    /// Whether to add `Via: 1.1 swiftiply`.
    pub via: bool,
    /// Whether to add X-Request-Start and X-Queue-Time.
    pub queue_time: bool,
    /// Who gets the ids of requests.
    pub request_id: RequestIds,
    /// Whether to forward fields with underscores in their names.
    pub underscores: bool,
    /// The site's own logger; `None`: the server's.
    pub logger: Option<Logger>,
    /// The access log: the site's own or the server's.
    #[serde(serialize_with = "or_no")]
    pub access_log: Option<AccessLogConfig>,
    /// The directory of files that are served without a backend.
    #[serde(serialize_with = "path")]
    pub docroot: Option<PathBuf>,
    /// The index files of a directory, in order of preference.
    pub index: Vec<String>,
    /// Files that are not served; matches the absolute path.
    pub staticmask: Option<Pattern>,
    /// Which symbolic links are followed.
    pub follow_symlinks: Symlinks,
    /// Whether to serve files whose names start with a dot.
    pub hidden_files: bool,
    /// Pages that the application writes into a directory below the docroot.
    #[serde(skip)]
    pub page_cache: Option<PageCache>,
    /// The file below the docroot that is sent where there is nothing else; a decoded path that begins with a slash.
    pub fallback: Option<String>,
    /// Whether `.html` may be left out in the paths of files.
    pub clean_urls: bool,
    /// Whether directories without an index are listed.
    pub autoindex: bool,
    /// Whether `error_pages` replace responses of backends.
    pub intercept_errors: bool,
    /// The directory of files that a backend may name in X-Sendfile.
    #[serde(serialize_with = "path")]
    pub sendfileroot: Option<PathBuf>,
    /// Whether to respond with 404 when a backend names a file that does not exist.
    pub enable_sendfile_404: bool,
    /// The cache of files in memory.
    pub file_cache: FileCache,
    /// The cache of entity tags of files that are not in memory.
    pub etag_cache: CacheConfig,
    /// The cache of paths that are not files.
    pub dynamic_request_cache: CacheConfig,
    /// Most upgraded connections at once; 0: upgrades are not forwarded.
    pub max_tunnels: usize,
    /// A response without length ends after a silence of this duration.
    #[serde(serialize_with = "time")]
    pub unframed_gap: Duration,
    /// Longest time that a request waits for a backend.
    #[serde(serialize_with = "time")]
    pub timeout: Duration,
    /// Limits: the site's own or the server's (only `body`, `body_memory`, `waiting` can differ).
    #[serde(skip)]
    pub limits: Limits,
    /// Timeouts: the site's own or the server's.
    #[serde(skip)]
    pub timeouts: Timeouts,
    /// The paths that need a password (`basic_auth`).
    #[serde(serialize_with = "list_or_no")]
    pub basic_auth: Vec<BasicAuth>,
    /// Which clients may send requests for which paths (`allow`).
    #[serde(serialize_with = "list_or_no")]
    pub allow: Vec<ClientRule>,
    /// Which clients may not (`deny`).
    #[serde(serialize_with = "list_or_no")]
    pub deny: Vec<ClientRule>,
    /// How many requests a client may send to this site (`rate_limit`).
    #[serde(serialize_with = "or_no")]
    pub rate_limit: Option<RateLimit>,
    /// Whether requests without TLS are redirected to HTTPS (`redirect_to_https`).
    pub redirect_to_https: bool,
    /// The redirects, in the order of the file (`redirect`).
    #[serde(serialize_with = "list_or_no")]
    pub redirect: Vec<Redirect>,
    /// Whether browsers use HTTPS only, and for how long (`hsts`).
    #[serde(serialize_with = "or_no")]
    pub hsts: Option<Hsts>,
    /// Fields of responses that are set, added or removed, in the order of the file (`response_headers`).
    #[serde(serialize_with = "list_or_no")]
    pub response_headers: Vec<HeaderRule>,
    /// How long clients may use files without asking again; the first that matches counts (`expires`).
    #[serde(serialize_with = "list_or_no")]
    pub expires: Vec<ExpiresRule>,
    /// Which pages of other sites may use responses (`cors`).
    #[serde(serialize_with = "or_no")]
    pub cors: Option<Cors>,
    /// The page that is shown during maintenance, and with 503; absolute (`maintenance_page`).
    #[serde(serialize_with = "path")]
    pub maintenance_page: Option<PathBuf>,
    /// The site is in maintenance while this file exists; absolute (`maintenance_flag`).
    #[serde(serialize_with = "path")]
    pub maintenance_flag: Option<PathBuf>,
    /// Pages for statuses that the proxy itself responds with; absolute (`error_pages`).
    #[serde(serialize_with = "path", skip_serializing_if = "BTreeMap::is_empty")]
    pub error_pages: BTreeMap<u16, PathBuf>,
    /// Which responses to compress (`gzip`); `None`: none.
    #[serde(serialize_with = "or_no")]
    pub gzip: Option<GzipConfig>,
    /// Whether to send a compressed copy that is beside a file (`precompressed`).
    pub precompressed: bool,
}

impl SiteConfig {
    /// Whether the site has this host name, or `*.` in place of its first label.
    pub(crate) fn has_name(&self, host: &str) -> bool {
        let is_own = |name: &String| name == host || is_below(host, name);
        self.incoming.iter().any(is_own)
    }

    /// A host name for requests that name none: the first of the site, or the one below which all of its names are.
    pub(crate) fn host(&self) -> Option<&str> {
        let plain = self.incoming.iter().find(|name| !name.starts_with("*."));
        let name = plain.or_else(|| self.incoming.first())?;
        Some(name.strip_prefix("*.").unwrap_or(name))
    }
}

/// Whether a pattern, `*.example.com`, is for this name.
fn is_below(host: &str, pattern: &str) -> bool {
    let rest = pattern
        .strip_prefix('*')
        .and_then(|rest| host.strip_suffix(rest));
    rest.is_some_and(|label| !label.is_empty() && !label.contains('.'))
}

/// Which responses to compress (`gzip`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct GzipConfig {
    /// Media types in lower case; `text/*` matches all that start with `text/`.
    pub types: Vec<String>,
    /// The smallest body to compress, in bytes.
    pub minimum: u64,
    /// The compression level, from 1 (fastest) to 9 (smallest).
    pub level: u32,
}

/// Paths that need a password (an entry of `basic_auth`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BasicAuth {
    /// The name of the area that the browser shows; without control characters.
    pub realm: String,
    /// The file of user names and hashes, as htpasswd(1) writes it; absolute.
    #[serde(serialize_with = "path")]
    pub users_file: PathBuf,
    /// Decoded paths that need a password, with everything below them. `/` is the whole site.
    pub paths: Vec<String>,
    /// Whether the application gets the password too.
    pub forward: bool,
}

/// Clients that may, or may not, send requests for some paths (an entry of `allow` or `deny`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ClientRule {
    /// The clients.
    pub networks: Vec<ClientGroup>,
    /// Decoded paths, with everything below them. `/` is the whole site.
    #[serde(skip_serializing_if = "is_everything")]
    pub paths: Vec<String>,
}

/// Connections that begin with a PROXY header (an entry of `proxy_protocol`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ProxyProtocol {
    /// The proxies.
    pub from: Vec<ClientGroup>,
    /// Addresses of [`Config::listen`]; empty: all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub at: Vec<Address>,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// How many requests a client may send (`rate_limit`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimit {
    /// Requests, at least one,
    pub requests: u32,
    /// in this time: 1, 60 or 3600 seconds.
    pub seconds: u32,
    /// Requests that may come at once, at least one.
    pub burst: u32,
}

/// A certificate for an address (an entry of `ssl` or `outgoing_ssl`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct Tls {
    /// One of [`Config::listen`], or of the sites' [`SiteConfig::outgoing`].
    #[serde(skip)]
    pub at: Address,
    /// The certificate with its chain, PEM, absolute.
    #[serde(serialize_with = "path")]
    pub certfile: PathBuf,
    /// Its key, PEM, absolute; may be the same file.
    #[serde(serialize_with = "path")]
    pub keyfile: PathBuf,
    /// The response of its authority that it is not revoked (OCSP), DER, absolute; only with `ssl`.
    #[serde(serialize_with = "path", skip_serializing_if = "Option::is_none")]
    pub ocsp: Option<PathBuf>,
    /// PEM file of the authorities that must have signed a peer's certificate, absolute; only with `outgoing_ssl`.
    #[serde(serialize_with = "path")]
    pub client_ca: Option<PathBuf>,
    /// PEM file of the certificates that these have revoked, absolute.
    #[serde(serialize_with = "path", skip_serializing_if = "Option::is_none")]
    pub client_crl: Option<PathBuf>,
}

/// Which symbolic links below a root are followed (`follow_symlinks`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Symlinks {
    /// Relative ones that stay below the root.
    Inside,
    /// All.
    All,
    /// None.
    None,
}

/// Pages that the application writes (`cache_directory`, `cache_extensions`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageCache {
    /// The directory relative to the docroot: `public`, `tmp/pages`.
    pub directory: String,
    /// Extensions without dot, in order of preference.
    pub extensions: Vec<String>,
}

impl PageCache {
    /// Whether a path relative to the docroot is the directory or is below it; ignores case, as some file systems do.
    pub(crate) fn holds(&self, path: &[u8]) -> bool {
        let split = path.split_at_checked(self.directory.len());
        split.is_some_and(|(start, rest)| {
            let is_directory = start.eq_ignore_ascii_case(self.directory.as_bytes());
            is_directory && matches!(rest, [] | [b'/', ..])
        })
    }
}

/// The bounds of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CacheConfig {
    /// Most entries.
    pub size: usize,
    /// After this time the file system is checked again.
    #[serde(serialize_with = "time")]
    pub window: Duration,
}

/// The bounds of the cache of files in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FileCache {
    /// Most entries, and for how long they are used without a check.
    #[serde(flatten)]
    pub cache: CacheConfig,
    /// Most bytes of all files.
    pub memory: u64,
    /// Largest file in bytes, the server's `cache_threshold`.
    #[serde(skip)]
    pub largest: u64,
}

/// An address at which backends of a site dial in, and the requests that they get.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outgoing {
    /// The dial-in address.
    pub to: Address,
    /// Requests for this address. The first match of a site wins; [`Filter::Any`] gets the rest.
    pub filter: Filter,
    /// The attributes of a Unix socket's file.
    pub file: SocketFileConfig,
}

/// Which requests an [`Outgoing`] gets, by the decoded path without query.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Filter {
    /// All that no other address of the site matches.
    Any,
    /// Paths that start with this text.
    Prefix(String),
    /// Paths that match this expression.
    Match(Pattern),
}

/// Which idle backend, or which server that is connected to, gets the next request (`order`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Order {
    /// The one that became idle last, of the machine with the smallest share of its connections in use; the server with the
    /// fewest requests, in turn among equals.
    Least,
    /// The one that became idle last; the server of the connection that became idle last, or the first in the list.
    Newest,
    /// The one that has been idle longest, as in the original; each server in turn.
    Oldest,
}

/// Scheduling class of worker threads (`scheduling`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Scheduling {
    /// SCHED_BATCH: a woken worker does not preempt the thread that woke it.
    Batch,
    /// The system's default.
    Normal,
}

/// Sizes in bytes, and counts (`limits`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Limits {
    /// Largest request or response head.
    pub head: usize,
    /// Most fields in a head, 1 to 256.
    pub fields: usize,
    /// Longest request target.
    pub target: usize,
    /// Largest request body.
    pub body: u64,
    /// Bytes of a request body to keep in memory; the rest goes to a temporary file.
    pub body_memory: usize,
    /// Responses and request bodies on disk, in total.
    pub spool: u64,
    /// Requests of a site that wait for a backend (a count).
    pub waiting: usize,
    /// Requests of all sites that wait for a backend (a count).
    pub waiting_total: usize,
    /// Backends per dial-in address (a count).
    pub backends: usize,
    /// Client connections (a count).
    pub connections: usize,
    /// Client connections per client address (a count); 0: no limit.
    pub connections_per_client: usize,
}

/// Timeouts (`timeouts`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Timeouts {
    /// For a request head, from its first byte.
    #[serde(serialize_with = "time")]
    pub head: Duration,
    /// For an idle client connection.
    #[serde(serialize_with = "time")]
    pub idle: Duration,
    /// For a request body without progress.
    #[serde(serialize_with = "time")]
    pub body: Duration,
    /// For a response of which the client accepts nothing.
    #[serde(serialize_with = "time")]
    pub write: Duration,
    /// For the first byte of a backend's response.
    #[serde(serialize_with = "time")]
    pub first_byte: Duration,
    /// For a backend's response without progress after the first byte.
    #[serde(serialize_with = "time")]
    pub backend: Duration,
    /// For a backend's preamble.
    #[serde(serialize_with = "time")]
    pub preamble: Duration,
    /// For connecting to a server (`proxy: traditional`).
    #[serde(serialize_with = "time")]
    pub connect: Duration,
    /// For a tunnel without traffic.
    #[serde(serialize_with = "time")]
    pub tunnel: Duration,
}

/// A destination for messages (`logger`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Logger {
    /// Where they go; [`LogDestination::Standard`] is standard error.
    pub to: LogDestination,
    /// The least important messages that are written.
    pub level: LogLevel,
}

/// Where the lines of a log go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LogDestination {
    /// Standard error, for an access log standard output.
    Standard,
    /// A file.
    File(PathBuf),
    /// The local syslog daemon.
    Syslog(SyslogConfig),
}

/// The local syslog daemon.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SyslogConfig {
    /// Its socket.
    pub socket: PathBuf,
    /// The facility of the messages, in lower case.
    pub facility: String,
}

impl LogDestination {
    /// Its file, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Standard | Self::Syslog(_) => None,
        }
    }
}

/// An access log (`access_log`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccessLogConfig {
    /// Where its lines go.
    pub output: AccessLogOutput,
    /// The requests that are left out.
    pub exclude: ExcludedRequests,
}

/// Where the lines of an access log go, and how they are written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct AccessLogOutput {
    /// Where they go; [`LogDestination::Standard`] is standard output.
    pub to: LogDestination,
    /// Their format.
    pub format: AccessFormat,
}

/// The requests that an access log leaves out (`access_log.exclude`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ExcludedRequests {
    /// Those whose decoded path is one of these or below it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Those whose User-Agent contains one of these, in whatever case.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<String>,
}

/// Who gets the ids of requests (`request_id`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestIds {
    /// There are none.
    None,
    /// The logs and the application.
    Application,
    /// Also the client, in the response.
    Response,
}

/// Formats of an access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum AccessFormat {
    /// Apache's combined format, with swiftiply's fields at the end.
    Combined,
    /// One JSON object per line.
    Json,
}

impl RateLimit {
    /// The time between two requests that come evenly, in nanoseconds.
    pub(crate) fn interval(&self) -> u64 {
        u64::from(self.seconds) * 1_000_000_000 / u64::from(self.requests)
    }
}

impl Serialize for RateLimit {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let unit = match self.seconds {
            1 => 's',
            60 => 'm',
            _ => 'h',
        };
        let mut section = out.serialize_struct("RateLimit", 2)?;
        section.serialize_field("rate", &format!("{}/{unit}", self.requests))?;
        section.serialize_field("burst", &self.burst)?;
        section.end()
    }
}

impl Address {
    /// Whether only processes of this machine reach it: a Unix socket, or a loopback address.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { host, .. } => {
                let literal = host.parse::<std::net::IpAddr>();
                literal.map_or(host == "localhost", |address| address.is_loopback())
            }
        }
    }
}

impl Limits {
    /// The largest request body that can be collected, in memory or on disk.
    pub(crate) fn largest_kept(&self) -> u64 {
        (self.spool / PART).max(self.body_memory as u64)
    }
}
