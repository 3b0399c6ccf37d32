//! Reads where a site's servers are (`proxy: traditional`, or a URL in `outgoing`), and how their health is checked.

use std::time::Duration;

use super::address;
use super::fastcgi;
use super::raw::{self, Node};
use super::section::Section;
use super::types::{Address, CheckConfig, DirectoryConfig, Redis, RedisDirectory, ServerConfig};
use super::value::{self, ValueError};

/// Whether `outgoing` names servers that are connected to, by a URL.
pub(super) fn has_urls(section: &Section) -> bool {
    let items = section.many("outgoing").unwrap_or_default();
    let has = |is: fn(&Node) -> bool| items.iter().any(|(_, node)| is(node));
    has(is_url) && !has(fastcgi::is_named)
}

/// Whether an item of `outgoing` has a URL.
fn is_url(node: &Node) -> bool {
    let text = match node {
        Node::Map(map) => raw::get(map, "to").map(value::text),
        node => Some(value::text(node)),
    };
    let schemes = ["http://", "https://"];
    matches!(text, Some(Ok(text)) if schemes.iter().any(|scheme| text.starts_with(scheme)))
}

/// Reads the servers in `outgoing`, which are named by URLs.
fn of_outgoing(section: &Section, listen: &[Address]) -> DirectoryConfig {
    const KEY: &str = "outgoing";
    let read = |node: &Node| match node {
        Node::Map(_) => Err(ALONE.into()),
        node if !is_url(node) => Err(MIXED.into()),
        node => server(section, node, listen),
    };
    let mut servers = Vec::new();
    for server in section.take_many(KEY, read).unwrap_or_default() {
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    DirectoryConfig::Static(servers)
}

/// Reads a server.
fn server(section: &Section, node: &Node, listen: &[Address]) -> Result<ServerConfig, ValueError> {
    let server = match node {
        Node::Map(_) => {
            return Err("write host:port; a section is for directory: redis".to_string());
        }
        node if fastcgi::is_named(node) => {
            address::fastcgi(section.directory, &value::text(node)?)?
        }
        node => address::server(section.directory, &value::text(node)?)?,
    };
    match address::is_front(&server.at, listen) {
        true => Err("clients connect there, so requests would loop".into()),
        false => Ok(server),
    }
}

/// Where a site's requests go if its backends do not dial in.
pub(super) struct SiteServers {
    pub(super) directory: DirectoryConfig,
    /// Whether they speak FastCGI.
    pub(super) is_fastcgi: bool,
}

/// Reads the source of servers: those that `outgoing` names by URLs, FastCGI servers there, or those of `proxy: traditional`. `None`: backends dial
/// in.
pub(super) fn servers(
    section: &Section,
    dials_in: bool,
    listen: &[Address],
) -> Option<SiteServers> {
    let is_listed = raw::get(&section.map, "servers").is_some();
    match dials_in {
        _ if !is_listed && has_urls(section) => Some(SiteServers {
            directory: of_outgoing(section, listen),
            is_fastcgi: false,
        }),
        true => Some(SiteServers {
            directory: DirectoryConfig::Static(fastcgi::servers(section, listen)?),
            is_fastcgi: true,
        }),
        false => Some(directory(section, listen)),
    }
}

/// Reads the source of servers (`directory`, `servers`).
fn directory(section: &Section, listen: &[Address]) -> SiteServers {
    let redis = section.take("directory", |node| match value::text(node).as_deref() {
        Ok("static") => Ok(false),
        Ok("redis") if !cfg!(feature = "redis") => {
            Err("this program was built without it (feature redis)".into())
        }
        Ok("redis") => Ok(true),
        _ => Err("write static or redis".into()),
    });
    if redis == Some(true) {
        return SiteServers {
            directory: DirectoryConfig::Redis(redis_directory(section)),
            is_fastcgi: false,
        };
    }
    let example = "servers: 127.0.0.1:3000";
    let mut servers = Vec::new();
    let items = section.many("servers").unwrap_or_default();
    let is_fastcgi = items.iter().any(|(_, node)| fastcgi::is_named(node));
    for (item, node) in items {
        let read = |node: &Node| match node {
            node if fastcgi::is_named(node) != is_fastcgi => Err(fastcgi::MIXED.into()),
            node => server(section, node, listen),
        };
        if let Some(server) = section.read("servers", item, node, read)
            && !servers.contains(&server)
        {
            servers.push(server);
        }
    }
    match raw::get(&section.map, "servers") {
        None => section.problem(&format!("no servers; write where they are, {example}")),
        Some(Node::List(list)) if list.is_empty() => {
            section.note("servers", ": an empty list, so all requests get 503");
        }
        Some(_) => {}
    }
    SiteServers {
        directory: DirectoryConfig::Static(servers),
        is_fastcgi,
    }
}

/// Reads `servers` of `directory: redis`.
fn redis_directory(section: &Section) -> RedisDirectory {
    let base = RedisDirectory::default();
    let section = match raw::get(&section.map, "servers") {
        Some(node @ (Node::List(_) | Node::Text(_) | Node::Number(_))) => {
            let wrong = "with directory: redis, write {host: 127.0.0.1, port: 6379}";
            section.wrong("servers", None, node, wrong);
            return base;
        }
        _ => section.section("servers"),
    };
    let lease = |node: &Node| match value::time(node)? {
        lease if (SHORTEST_LEASE..=LONGEST_LEASE).contains(&lease) => Ok(lease),
        _ => Err("write a time from 1s to 1h".into()),
    };
    RedisDirectory {
        at: redis(&section),
        lease: section.take("lease", lease).unwrap_or(base.lease),
    }
}

/// Reads a section about where Redis is.
pub(super) fn redis(section: &Section) -> Redis {
    let sentinel = section.take("sentinel", value::text);
    let default_port = match sentinel {
        Some(_) => SENTINEL_PORT,
        None => REDIS_PORT,
    };
    let port = section.take("port", value::port).unwrap_or(default_port);
    let read = |node: &Node| address::redis(node, port);
    if let Some(node @ Node::List(list)) = raw::get(&section.map, "host")
        && list.is_empty()
    {
        section.wrong("host", None, node, "an empty list; write where Redis is");
    }
    let hosts = section.take_many("host", read);
    let here = || {
        vec![Address::Tcp {
            host: "127.0.0.1".into(),
            port,
            implied: false,
        }]
    };
    Redis {
        hosts: hosts.unwrap_or_else(here),
        sentinel,
        db: section
            .take("db", value::count(0..=u64::from(u16::MAX)))
            .map_or(0, |number| number as u32),
        password: section.take("password", value::text),
    }
}

/// Reads `check`: `{uri, interval}`, or false.
pub(super) fn check_of(section: &Section) -> Option<CheckConfig> {
    match raw::get(&section.map, "check")? {
        node if value::truth(node) == Ok(false) => return None,
        Node::Map(_) => {}
        node => {
            section.wrong(
                "check",
                None,
                node,
                "write {uri: /up, interval: 5}, or false",
            );
            return None;
        }
    }
    let section = section.section("check");
    if raw::get(&section.map, "uri").is_none() {
        section.problem("no uri; write {uri: /up}");
    }
    let interval = section.deadline("interval", CheckConfig::INTERVAL);
    Some(CheckConfig {
        uri: section.take("uri", value::target)?,
        interval,
    })
}

/// The default ports of Redis and of its Sentinels.
const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// What is wrong with a section, and with an address to dial in at, beside the URL of a server.
const ALONE: &str = "a server that is connected to gets all requests; write its URL alone";
const MIXED: &str = "backends dial in there, but the site has a server that is connected to (http:// or https://); \
     give one of them a site of its own";

/// Bounds of a lease: a live proxy must get around to renewing it.
const SHORTEST_LEASE: Duration = Duration::from_secs(1);
const LONGEST_LEASE: Duration = Duration::from_secs(3600);
