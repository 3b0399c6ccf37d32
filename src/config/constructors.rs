//! Sections of a configuration that programs make in code: each with what it cannot be without, and the defaults of the
//! file for the rest.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::types::{
    AccessFormat, AccessLogConfig, AccessLogOutput, Address, BasicAuth, CheckConfig, ClientGroup,
    ClientRule, Cors, ExcludedRequests, ExpiresRule, ExternalAccount, Filter, HeaderRule, Hsts,
    LogDestination, Network, Outgoing, ProxyProtocol, RateLimit, Redirect, RouteConfig,
    ServerConfig, ServerProtocol, SiteTls, SocketFileConfig, StatusConfig, Tls,
};

impl Address {
    /// A TCP port on a host name or a literal address (without brackets); port 0 for any free one.
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        Self::Tcp {
            host: host.into(),
            port,
            implied: false,
        }
    }
}

/// One address.
impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        Self { address, prefix }
    }
}

impl Outgoing {
    /// An address at which backends dial in for all requests of the site that no other address gets.
    pub fn new(to: Address) -> Self {
        Self {
            to,
            filter: Filter::Any,
            file: SocketFileConfig::default(),
        }
    }
}

impl ServerConfig {
    /// A server that speaks HTTP over TLS.
    pub const fn https(at: Address) -> Self {
        Self {
            at,
            protocol: ServerProtocol::Https,
        }
    }
}

impl CheckConfig {
    /// A check of this path and query every five seconds.
    pub fn new(uri: impl Into<String>) -> Self {
        Self {
            uri: uri.into(),
            interval: Self::INTERVAL,
        }
    }

    /// The interval that is used if none is set.
    pub(super) const INTERVAL: Duration = Duration::from_secs(5);
}

impl RouteConfig {
    /// The requests of the site with this name whose path is this one or below it. Their path is forwarded as it is.
    pub fn new(site: impl Into<String>, prefix: impl Into<String>) -> Self {
        Self {
            site: site.into(),
            prefix: prefix.into(),
            rewrite: None,
        }
    }
}

impl StatusConfig {
    /// Commands and the state of the server at this address, without a key. The file of a Unix socket has mode 0600.
    pub fn new(at: Address) -> Self {
        Self {
            at,
            file: SocketFileConfig::default(),
            key: None,
        }
    }
}

impl Tls {
    /// A certificate with its chain, and its key, both PEM, for the connections at this address.
    pub fn new(at: Address, certfile: impl Into<PathBuf>, keyfile: impl Into<PathBuf>) -> Self {
        Self {
            at,
            certfile: certfile.into(),
            keyfile: keyfile.into(),
            ocsp: None,
            client_ca: None,
            client_crl: None,
        }
    }
}

impl SiteTls {
    /// A certificate with its chain, and its key, both PEM.
    pub fn files(certfile: impl Into<PathBuf>, keyfile: impl Into<PathBuf>) -> Self {
        Self::Files {
            certfile: certfile.into(),
            keyfile: keyfile.into(),
            ocsp: None,
        }
    }
}

impl ExternalAccount {
    /// The identifier of a key, and the key in base64url, as the authority has given them.
    pub fn new(kid: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            kid: kid.into(),
            key: key.into(),
        }
    }
}

impl ClientRule {
    /// These clients, for all paths.
    pub fn new(networks: Vec<ClientGroup>) -> Self {
        Self {
            networks,
            paths: everything(),
        }
    }
}

impl ProxyProtocol {
    /// Connections of these proxies to all addresses for clients.
    pub const fn new(from: Vec<ClientGroup>) -> Self {
        Self {
            from,
            at: Vec::new(),
        }
    }
}

impl RateLimit {
    /// So many requests in 1, 60 or 3600 seconds, and at once as many as in a second, at least one.
    pub const fn new(requests: u32, seconds: u32) -> Self {
        Self {
            requests,
            seconds,
            burst: requests.div_ceil(if seconds == 0 { 1 } else { seconds }),
        }
    }
}

impl BasicAuth {
    /// The whole site needs a password of this file, as htpasswd(1) writes it; the application does not get it.
    pub fn new(users_file: impl Into<PathBuf>) -> Self {
        Self {
            realm: Self::REALM.into(),
            users_file: users_file.into(),
            paths: everything(),
            forward: false,
        }
    }

    /// The name of the area if none is set.
    pub(super) const REALM: &str = "Restricted";
}

impl Redirect {
    /// All requests are sent to this URL or path, with 301.
    pub fn new(to: impl Into<String>) -> Self {
        Self {
            from: None,
            host: Vec::new(),
            to: to.into(),
            status: 301,
        }
    }
}

impl Hsts {
    /// Browsers use HTTPS only, for so many seconds after each response.
    pub const fn new(max_age: u64) -> Self {
        Self {
            max_age,
            subdomains: false,
            preload: false,
        }
    }
}

/// Changes nothing, for all paths.
impl Default for HeaderRule {
    fn default() -> Self {
        Self {
            paths: everything(),
            secure: false,
            set: Vec::new(),
            add: Vec::new(),
            remove: Vec::new(),
        }
    }
}

impl ExpiresRule {
    /// All files may be used for so many seconds without asking again.
    pub fn new(time: u64) -> Self {
        Self {
            paths: everything(),
            types: Vec::new(),
            hashed: false,
            time,
            immutable: false,
        }
    }
}

impl Cors {
    /// Pages of these origins may use responses of the whole site; if there are none, pages of all origins.
    pub fn new(origins: Vec<String>) -> Self {
        Self {
            origins,
            paths: everything(),
            methods: Self::METHODS.map(str::to_owned).to_vec(),
            headers: Vec::new(),
            expose: Vec::new(),
            credentials: false,
            max_age: Self::MAX_AGE,
        }
    }

    /// The methods if none are set.
    pub(super) const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
    /// For how many seconds browsers remember what is allowed if no time is set.
    pub(super) const MAX_AGE: u64 = 600;
}

impl AccessLogConfig {
    /// A line for each request, in Apache's combined format.
    pub fn new(to: LogDestination) -> Self {
        Self {
            output: AccessLogOutput {
                to,
                format: AccessFormat::Combined,
            },
            exclude: ExcludedRequests::default(),
        }
    }
}

/// All paths.
fn everything() -> Vec<String> {
    vec!["/".into()]
}
