//! Prints a configuration as an equivalent file, for `--print-config`.
//!
//! `defaults` are merged into the entries, every value with an effect is printed, and keys from a `key_file` are
//! included. Most keys are fields of the types and derive `Serialize`; here are those that are written in another shape.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_yaml::Value;

use super::references;
use super::types::{
    AccessFormat, AccessLogConfig, Address, CheckConfig, Config, DirectoryConfig, ExcludedRequests,
    Filter, Limits, LogDestination, LogLevel, Logger, Order, Outgoing, ProxyVersion, Reference,
    RequestIds, RouteConfig, ServerConfig, ServerTlsConfig, SiteConfig, SocketFileConfig, Symlinks,
    SyslogConfig, Timeouts, Tls,
};
use super::written::time;

impl Config {
    /// This configuration as YAML. Loading it results in the same configuration.
    pub fn to_yaml(&self) -> String {
        let value = serde_yaml::to_value(PrintedConfig::of(self));
        let text = value.and_then(|value| {
            serde_yaml::to_string(&with_references(without_nulls(value), &self.references))
        });
        text.expect("scalars, lists and maps with text keys can be written")
    }
}

/// A key without a value is left out.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Mapping(map) => {
            let pairs = map.into_iter().filter(|(_, value)| !value.is_null());
            Value::Mapping(
                pairs
                    .map(|(key, value)| (key, without_nulls(value)))
                    .collect(),
            )
        }
        Value::Sequence(list) => Value::Sequence(list.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// Texts that had references are printed as they were written, so that secrets are not.
fn with_references(value: Value, references: &[Reference]) -> Value {
    match value {
        Value::String(text) => Value::String(references::written(&text, references)),
        Value::Mapping(map) => {
            let pairs = map.into_iter();
            let pairs = pairs.map(|(key, value)| (key, with_references(value, references)));
            Value::Mapping(pairs.collect())
        }
        Value::Sequence(list) => {
            let items = list.into_iter();
            Value::Sequence(
                items
                    .map(|value| with_references(value, references))
                    .collect(),
            )
        }
        other => other,
    }
}

/// The top level of the file.
#[derive(Serialize)]
struct PrintedConfig<'c> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cluster_address: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cluster_port: Vec<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ssl: Vec<PrintedTls<'c>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    outgoing_ssl: Vec<PrintedTls<'c>>,
    #[serde(flatten)]
    others: &'c Config,
    limits: ServerLimits<'c>,
    map: Vec<PrintedSite<'c>>,
}

/// `limits` of the server.
#[derive(Serialize)]
struct ServerLimits<'c> {
    #[serde(flatten)]
    limits: &'c Limits,
    memory: u64,
}

/// An entry of `ssl` or `outgoing_ssl`.
#[derive(Serialize)]
struct PrintedTls<'c> {
    at: String,
    #[serde(flatten)]
    files: Option<&'c Tls>,
}

/// An entry of `map`.
#[derive(Serialize)]
struct PrintedSite<'c> {
    #[serde(flatten)]
    others: &'c SiteConfig,
    #[serde(flatten)]
    backends: Backends<'c>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<PrintedRoute<'c>>,
    limits: SiteLimits,
    timeouts: SiteTimeouts,
    cache_directory: Option<&'c str>,
    cache_extensions: Option<&'c [String]>,
}

/// An entry of `routes`.
#[derive(Serialize)]
struct PrintedRoute<'c> {
    r#match: &'c str,
    strip: Option<bool>,
    rewrite: Option<&'c str>,
    #[serde(flatten)]
    backends: Backends<'c>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    key: &'c [String],
    order: Order,
    #[serde(serialize_with = "time")]
    timeout: Duration,
    timeouts: BackendTimeouts,
    limits: RouteLimits,
}

/// The part of `timeouts` that concerns backends, of a site or of a route.
#[derive(Serialize)]
struct BackendTimeouts {
    #[serde(serialize_with = "time")]
    first_byte: Duration,
    #[serde(serialize_with = "time")]
    backend: Duration,
    #[serde(serialize_with = "time")]
    connect: Duration,
}

/// `limits` of a route.
#[derive(Serialize)]
struct RouteLimits {
    waiting: usize,
}

/// Where a site's backends come from.
#[derive(Serialize)]
#[serde(untagged)]
enum Backends<'c> {
    DialIn {
        outgoing: &'c [Outgoing],
    },
    FastCgi {
        outgoing: &'c [ServerConfig],
        server_connections: usize,
        #[serde(serialize_with = "time")]
        lookup_interval: Duration,
        fastcgi_root: Option<Cow<'c, str>>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        fastcgi_params: &'c BTreeMap<String, String>,
        /// Without a value it has the default.
        #[serde(skip_serializing_if = "Option::is_none")]
        fallback: Option<bool>,
    },
    Servers {
        proxy: &'static str,
        directory: &'static str,
        servers: &'c DirectoryConfig,
        server_connections: usize,
        #[serde(serialize_with = "time")]
        lookup_interval: Duration,
        send_proxy: Option<ProxyVersion>,
        server_tls: Option<&'c ServerTlsConfig>,
        check: Option<&'c CheckConfig>,
    },
}

/// `limits` of a site.
#[derive(Serialize)]
struct SiteLimits {
    body: u64,
    body_memory: usize,
    waiting: usize,
}

/// `timeouts` of a site.
#[derive(Serialize)]
struct SiteTimeouts {
    #[serde(serialize_with = "time")]
    idle: Duration,
    #[serde(serialize_with = "time")]
    body: Duration,
    #[serde(serialize_with = "time")]
    write: Duration,
    #[serde(flatten)]
    backends: BackendTimeouts,
    #[serde(serialize_with = "time")]
    tunnel: Duration,
}

impl<'c> PrintedConfig<'c> {
    fn of(config: &'c Config) -> Self {
        let (cluster_address, cluster_port) = plain_listeners(config);
        let certificates = config.ssl.iter().map(|files| (&files.at, Some(files)));
        let has_files = |at: &&Address| config.ssl.iter().any(|files| files.at == **at);
        let others = config.secure.iter().filter(|at| !has_files(at));
        let certificates = certificates.chain(others.map(|at| (at, None)));
        let dial_in = config.outgoing_ssl.iter().map(|files| PrintedTls {
            at: files.at.to_string(),
            files: Some(files),
        });
        Self {
            cluster_address,
            cluster_port,
            ssl: certificates
                .filter_map(|(at, files)| certificate(config, at, files))
                .collect(),
            outgoing_ssl: dial_in.collect(),
            others: config,
            limits: ServerLimits {
                limits: &config.limits,
                memory: config.memory,
            },
            map: (config.sites.iter())
                .filter(|site| site.route.is_none())
                .map(|site| PrintedSite::of(site, &config.sites))
                .collect(),
        }
    }
}

impl<'c> PrintedSite<'c> {
    fn of(site: &'c SiteConfig, sites: &'c [SiteConfig]) -> Self {
        let routes = sites.iter().filter_map(|other| {
            let route = other.route.as_ref()?;
            (route.site == site.name).then(|| PrintedRoute::of(route, other))
        });
        let (limits, pages) = (&site.limits, site.page_cache.as_ref());
        Self {
            others: site,
            backends: Backends::of(site),
            routes: routes.collect(),
            limits: SiteLimits {
                body: limits.body,
                body_memory: limits.body_memory,
                waiting: limits.waiting,
            },
            timeouts: SiteTimeouts::of(&site.timeouts),
            cache_directory: pages.map(|pages| pages.directory.as_str()),
            cache_extensions: pages.map(|pages| pages.extensions.as_slice()),
        }
    }
}

impl<'c> PrintedRoute<'c> {
    fn of(route: &'c RouteConfig, site: &'c SiteConfig) -> Self {
        let is_stripped = route.rewrite.as_deref() == Some("/");
        Self {
            r#match: &route.prefix,
            strip: is_stripped.then_some(true),
            rewrite: route.rewrite.as_deref().filter(|_| !is_stripped),
            backends: Backends::of(site),
            key: &site.keys,
            order: site.order,
            timeout: site.timeout,
            timeouts: BackendTimeouts::of(&site.timeouts),
            limits: RouteLimits {
                waiting: site.limits.waiting,
            },
        }
    }
}

impl<'c> Backends<'c> {
    fn of(site: &'c SiteConfig) -> Self {
        match (&site.directory, &site.fastcgi) {
            (Some(DirectoryConfig::Static(servers)), Some(fastcgi)) => {
                let root = fastcgi.root.as_ref();
                Self::FastCgi {
                    outgoing: servers,
                    server_connections: site.server_connections,
                    lookup_interval: site.lookup_interval,
                    fastcgi_root: root.map(|root| root.to_string_lossy()),
                    fastcgi_params: &fastcgi.params,
                    fallback: site.fallback.is_none().then_some(false),
                }
            }
            (None, _) => Self::DialIn {
                outgoing: &site.outgoing,
            },
            (Some(servers), _) => Self::Servers {
                proxy: "traditional",
                directory: match servers {
                    DirectoryConfig::Static(_) => "static",
                    DirectoryConfig::Redis(_) => "redis",
                },
                servers,
                server_connections: site.server_connections,
                lookup_interval: site.lookup_interval,
                send_proxy: site.send_proxy,
                server_tls: (site.server_tls.as_ref())
                    .filter(|tls| **tls != ServerTlsConfig::default()),
                check: site.check.as_ref(),
            },
        }
    }
}

impl BackendTimeouts {
    const fn of(timeouts: &Timeouts) -> Self {
        Self {
            first_byte: timeouts.first_byte,
            backend: timeouts.backend,
            connect: timeouts.connect,
        }
    }
}

impl SiteTimeouts {
    const fn of(timeouts: &Timeouts) -> Self {
        Self {
            idle: timeouts.idle,
            body: timeouts.body,
            write: timeouts.write,
            backends: BackendTimeouts::of(timeouts),
            tunnel: timeouts.tunnel,
        }
    }
}

/// An entry of `ssl`; `None` for an address that another one implies.
fn certificate<'c>(
    config: &Config,
    at: &Address,
    files: Option<&'c Tls>,
) -> Option<PrintedTls<'c>> {
    let implied = |port: &u16| {
        let any = Address::Tcp {
            host: "::".into(),
            port: *port,
            implied: true,
        };
        config.secure.contains(&any)
    };
    let at = match at {
        Address::Tcp { implied: true, .. } => return None,
        Address::Tcp { host, port, .. } if host == "0.0.0.0" && implied(port) => {
            format!("*:{port}")
        }
        at => at.to_string(),
    };
    Some(PrintedTls { at, files })
}

/// The addresses and ports whose combinations are the listeners without TLS.
fn plain_listeners(config: &Config) -> (Vec<String>, Vec<u16>) {
    let is_plain = |address: &&Address| !config.secure.contains(address);
    let plain: Vec<_> = config.listen.iter().filter(is_plain).collect();
    let any = plain
        .iter()
        .any(|address| matches!(address, Address::Tcp { implied: true, .. }));
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for address in plain {
        let host = match address {
            Address::Unix(_) => address.to_string(),
            Address::Tcp { implied: true, .. } => "*".to_owned(),
            Address::Tcp { host, .. } if any && host == "0.0.0.0" => "*".to_owned(),
            Address::Tcp { host, .. } => host.clone(),
        };
        if !hosts.contains(&host) {
            hosts.push(host);
        }
        if let Address::Tcp { port, .. } = address
            && !ports.contains(port)
        {
            ports.push(*port);
        }
    }
    (hosts, ports)
}

impl Serialize for Outgoing {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        /// What is more than an address.
        #[derive(Default, PartialEq, Serialize)]
        struct Details<'c> {
            prefix: Option<&'c str>,
            r#match: Option<&'c str>,
            #[serde(flatten)]
            file: SocketFileConfig,
        }
        #[derive(Serialize)]
        struct Entry<'c> {
            to: &'c Address,
            #[serde(flatten)]
            details: Details<'c>,
        }
        let (prefix, expression) = match &self.filter {
            Filter::Any => (None, None),
            Filter::Prefix(prefix) => (Some(prefix.as_str()), None),
            Filter::Match(expression) => (None, Some(expression.as_str())),
        };
        let details = Details {
            prefix,
            r#match: expression,
            file: self.file.clone(),
        };
        let to = &self.to;
        match details == Details::default() {
            true => to.serialize(out),
            false => Entry { to, details }.serialize(out),
        }
    }
}

impl Serialize for Symlinks {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Inside => out.serialize_str("inside"),
            Self::All => out.serialize_bool(true),
            Self::None => out.serialize_bool(false),
        }
    }
}

impl Serialize for RequestIds {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => out.serialize_bool(false),
            Self::Application => out.serialize_bool(true),
            Self::Response => out.serialize_str("response"),
        }
    }
}

impl Serialize for Logger {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct LoggerSection<'c> {
            r#type: &'static str,
            file: Option<Cow<'c, str>>,
            facility: Option<&'c str>,
            level: LogLevel,
        }
        let (r#type, file, facility) = match &self.to {
            LogDestination::Standard => ("stderr", None, None),
            LogDestination::File(path) => ("file", Some(path), None),
            LogDestination::Syslog(SyslogConfig { socket, facility }) => {
                ("syslog", Some(socket), Some(facility.as_str()))
            }
        };
        let section = LoggerSection {
            r#type,
            file: file.map(|path| path.to_string_lossy()),
            facility,
            level: self.level,
        };
        section.serialize(out)
    }
}

impl Serialize for AccessLogConfig {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct AccessLogSection<'c> {
            r#type: &'static str,
            file: Cow<'c, str>,
            facility: Option<&'c str>,
            format: AccessFormat,
            exclude: Option<&'c ExcludedRequests>,
        }
        let (r#type, file, facility) = match &self.output.to {
            LogDestination::Standard => ("file", Cow::Borrowed("-"), None),
            LogDestination::File(path) => ("file", path.to_string_lossy(), None),
            LogDestination::Syslog(SyslogConfig { socket, facility }) => {
                let socket = socket.to_string_lossy();
                ("syslog", socket, Some(facility.as_str()))
            }
        };
        let section = AccessLogSection {
            r#type,
            file,
            facility,
            format: self.output.format,
            exclude: Some(&self.exclude).filter(|exclude| **exclude != ExcludedRequests::default()),
        };
        section.serialize(out)
    }
}
