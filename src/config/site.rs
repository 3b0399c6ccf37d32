//! Checks an entry of `map`.

use std::path::Path;
use std::time::Duration;

use super::acme;
use super::address;
use super::auth;
use super::clients;
use super::fastcgi;
use super::files;
use super::gzip;
use super::headers;
use super::keys::ROUTES;
use super::pages;
use super::proxy_protocol;
use super::rate;
use super::raw::{self, Node};
use super::redirects;
use super::section::{MANY, Section};
use super::server_tls;
use super::servers;
use super::types::{
    Address, Config, Filter, Order, Outgoing, RequestIds, SiteConfig, SiteTls, SocketFileConfig,
    Tls,
};
use super::value::{self, ValueError};

/// Values of the top level that sites need.
pub(super) struct TopLevel<'a> {
    /// The server's values, without sites.
    pub(super) config: &'a Config,
    /// The top level's `timeout`.
    pub(super) timeout: Duration,
}

/// Checks a site; uses defaults where something is wrong.
pub(super) fn check(section: &Section, server: &TopLevel) -> SiteConfig {
    let site = values(section, server);
    if !site.default
        && section
            .many("incoming")
            .is_none_or(|names| names.is_empty())
    {
        section.problem("no incoming; write its host names, or default: true");
    }
    if site.directory.is_some() {
        return site;
    }
    let has = |key: &str| raw::get(&section.map, key).is_some();
    if has("servers") {
        unconnected_servers(section);
    }
    match raw::get(&section.map, "outgoing") {
        None if has("servers") || has("docroot") || has(ROUTES) => {}
        None if redirects::takes_all(&site) => {}
        None => {
            section.problem("no outgoing; write where backends dial in, outgoing: 127.0.0.1:30000")
        }
        Some(Node::List(list)) if list.is_empty() && site.docroot.is_none() && !has(ROUTES) => {
            section.note("outgoing", ": an empty list, so all requests get 503");
        }
        Some(_) => {}
    }
    for key in ["directory", "check", "send_proxy"] {
        if has(key) {
            section.note(key, ": has no effect without proxy: traditional");
        }
    }
    site
}

/// Reports servers of a site whose backends dial in.
fn unconnected_servers(section: &Section) {
    let wrong = "without proxy: traditional nothing connects to them; write that as well";
    section.problem_of("servers", wrong);
}

/// Reports what a route lacks whose backends dial in.
pub(super) fn check_dial_in(section: &Section) {
    let has = |key: &str| raw::get(&section.map, key).is_some();
    if has("servers") {
        unconnected_servers(section);
    } else if !matches!(raw::get(&section.map, "outgoing"), Some(node) if *node != Node::List(Vec::new()))
    {
        section.problem("no outgoing; write where backends dial in, outgoing: 127.0.0.1:30001");
    }
    for key in ["directory", "check", "send_proxy"] {
        if has(key) {
            section.note(key, ": has no effect without proxy: traditional");
        }
    }
}

/// Reads `request_id`.
fn request_id(node: &Node) -> Result<RequestIds, ValueError> {
    match value::truth(node) {
        Ok(false) => Ok(RequestIds::None),
        Ok(true) => Ok(RequestIds::Application),
        Err(_) if value::text(node).as_deref() == Ok("response") => Ok(RequestIds::Response),
        Err(_) => Err("write true, false or response".into()),
    }
}

/// Reads the values of a site, whichever keys are missing.
pub(super) fn values(section: &Section, server: &TopLevel) -> SiteConfig {
    let base = SiteConfig::default();
    let config = server.config;
    let truth = |key: &str, default| section.take(key, value::truth).unwrap_or(default);
    let mut incoming = Vec::new();
    for name in section
        .take_many("incoming", address::site_name)
        .unwrap_or_default()
    {
        if !incoming.contains(&name) {
            incoming.push(name);
        }
    }
    let timeouts = section.site_timeouts(&config.timeouts);
    let limits = section.site_limits(&config.limits);
    section.note_largest_body(&limits);
    let dials_in = dials_in(section);
    let servers = servers::servers(section, dials_in, &config.listen);
    let is_fastcgi = servers.as_ref().is_some_and(|servers| servers.is_fastcgi);
    let fastcgi = fastcgi::settings(section, is_fastcgi);
    let directory = servers.map(|servers| servers.directory);
    let keys = keys(section);
    let has_urls = servers::has_urls(section);
    let outgoing = match is_fastcgi || directory.is_some() && has_urls {
        true => Vec::new(),
        false => outgoing(section, config, directory.is_none() && keys.is_empty()),
    };
    let (allow, deny) = clients::allow_and_deny(section);
    let connections = section.take("server_connections", server_connections);
    let lookup_interval = section.deadline("lookup_interval", base.lookup_interval);
    let send_proxy = section.take("send_proxy", proxy_protocol::send_proxy);
    let check = servers::check_of(section);
    let is_listed = raw::get(&section.map, "servers").is_some();
    let is_unused = is_fastcgi && !dials_in && raw::get(&section.map, "outgoing").is_some()
        || has_urls && is_listed;
    if directory.is_some() && (!outgoing.is_empty() || is_unused) {
        section.note("outgoing", ": has no effect with proxy: traditional");
    }
    let default = truth("default", base.default);
    let tls = acme::tls(section, &incoming, default, &config.acme);
    let (client_ca, client_crl, client_certificate) = acme::clients(section, config);
    let site = SiteConfig {
        // Browsers are to use what the server has obtained.
        redirect_to_https: tls.as_ref().is_some_and(SiteTls::is_obtained)
            && !config.secure.is_empty(),
        tls,
        client_ca,
        client_crl,
        client_certificate,
        name: incoming
            .first()
            .cloned()
            .unwrap_or_else(|| base.name.clone()),
        incoming,
        default,
        outgoing: match directory {
            None => outgoing,
            Some(_) => Vec::new(),
        },
        server_connections: match directory {
            None => base.server_connections,
            Some(_) => connections.unwrap_or(base.server_connections),
        },
        lookup_interval: match directory {
            None => base.lookup_interval,
            Some(_) => lookup_interval,
        },
        send_proxy: send_proxy.flatten().filter(|_| directory.is_some()),
        server_tls: server_tls::server_tls(section, directory.as_ref()),
        check: check.filter(|_| directory.is_some()),
        directory,
        index: match is_fastcgi {
            true => SiteConfig::index_of_scripts(),
            false => base.index,
        },
        fastcgi,
        backup: section.take("backup", address::site_name),
        keys,
        keepalive: keepalive(section, timeouts.idle),
        order: section.take("order", order).unwrap_or(base.order),
        retries: section.count("retries", 0..=100, base.retries),
        redeployable: truth("redeployable", base.redeployable),
        request_buffering: truth("request_buffering", base.request_buffering),
        redeployment_sizelimit: section.bytes(
            "redeployment_sizelimit",
            0..=64 << 20,
            base.redeployment_sizelimit,
        ),
        xforwardedfor: truth("xforwardedfor", base.xforwardedfor),
        via: truth("via", base.via),
        queue_time: truth("queue_time", base.queue_time),
        request_id: section
            .take("request_id", request_id)
            .unwrap_or(base.request_id),
        underscores: truth("underscores", base.underscores),
        logger: section.logger(),
        access_log: section.access_log(config.access_log.as_ref()),
        max_tunnels: section.count("max_tunnels", 0..=MANY, base.max_tunnels),
        unframed_gap: section.deadline("unframed_gap", base.unframed_gap),
        timeout: section
            .take("timeout", value::time)
            .unwrap_or(server.timeout),
        limits,
        timeouts,
        basic_auth: auth::basic(section),
        allow,
        deny,
        rate_limit: rate::rate_limit(section),
        maintenance_page: section.take("maintenance_page", pages::page(section.directory)),
        maintenance_flag: section.take("maintenance_flag", value::path(section.directory)),
        error_pages: pages::by_status(section),
        gzip: gzip::gzip(section),
        ..base
    };
    fastcgi::check(section, &site);
    let site = redirects::check(section, site, config);
    headers::check(section, files::check(section, site, config))
}

/// Whether the backends of the site dial in (`proxy`).
fn dials_in(section: &Section) -> bool {
    let proxy = section.take("proxy", |node| match value::text(node).as_deref() {
        Ok("keepalive") => Ok(true),
        Ok("traditional") => Ok(false),
        _ => Err("write keepalive or traditional".into()),
    });
    proxy != Some(false)
}

/// Reads `keepalive`: true is the usual time, a number is in seconds.
fn keepalive(section: &Section, idle: Duration) -> Option<Duration> {
    let keepalive = section.take("keepalive", |node| match value::truth(node) {
        Ok(true) => Ok(idle),
        Ok(false) => Ok(Duration::ZERO),
        Err(_) => value::time(node).map_err(|_| "write true, false or seconds".into()),
    });
    Some(keepalive.unwrap_or(idle)).filter(|idle| !idle.is_zero())
}

/// Reads `server_connections`.
pub(super) fn server_connections(node: &Node) -> Result<usize, ValueError> {
    value::count(1..=100_000)(node).map(|count| count as usize)
}

fn order(node: &Node) -> Result<Order, ValueError> {
    match value::text(node).as_deref() {
        Ok("least") => Ok(Order::Least),
        Ok("newest") => Ok(Order::Newest),
        Ok("oldest") => Ok(Order::Oldest),
        _ => Err("write least, newest or oldest".into()),
    }
}

/// Reads `outgoing`: an address, or `{to, match}`, `{to, prefix}`; one or a list. `keyless`: backends need no key.
fn outgoing(section: &Section, config: &Config, keyless: bool) -> Vec<Outgoing> {
    let mut result: Vec<Outgoing> = Vec::new();
    for (item, node) in section.many("outgoing").unwrap_or_default() {
        let Some(outgoing) = section.read("outgoing", item, node, |node| one(section, node)) else {
            continue;
        };
        if config
            .listen
            .iter()
            .any(|listen| address::conflict(listen, &outgoing.to))
        {
            section.wrong(
                "outgoing",
                item,
                node,
                "clients connect there; write another address",
            );
        }
        if keyless && is_open(&outgoing.to, config) {
            let message = format!(
                "outgoing {}: WARNING: every process that reaches this address can dial in and answer the site's requests; \
                 write a key, outgoing_ssl with client_ca, or a loopback address",
                outgoing.to
            );
            section
                .findings
                .note(section.place("outgoing", item), message);
        }
        let twice = |known: &Outgoing| {
            let plain = matches!(
                (&known.filter, &outgoing.filter),
                (Filter::Any, Filter::Any)
            );
            plain && known.to == outgoing.to
        };
        if !result.iter().any(twice) {
            result.push(outgoing);
        }
    }
    result
}

/// Whether other machines can connect without a certificate.
fn is_open(address: &Address, config: &Config) -> bool {
    let asked = |tls: &Tls| tls.at == *address && tls.client_ca.is_some();
    !address.is_local() && !config.outgoing_ssl.iter().any(asked)
}

/// Reads the address of an item of `outgoing`.
pub(super) fn outgoing_address(section: &Section, node: &Node) -> Result<Address, ValueError> {
    let to = match node {
        Node::Map(map) => raw::get(map, "to").unwrap_or(&Node::Null),
        node => node,
    };
    address::dial_in(section.directory, &value::text(to)?)
}

fn one(section: &Section, node: &Node) -> Result<Outgoing, ValueError> {
    let address = |node: &Node| {
        let text =
            value::text(node).map_err(|_| "write an address, 127.0.0.1:30000".to_string())?;
        match address::dial_in(section.directory, &text)? {
            Address::Unix(path) => section.to_be_written(path).map(Address::Unix),
            address => Ok(address),
        }
    };
    let Node::Map(map) = node else {
        return Ok(Outgoing {
            to: address(node)?,
            filter: Filter::Any,
            file: SocketFileConfig::default(),
        });
    };
    let within = |key: &str, wrong: ValueError, node: &Node| {
        format!("{key} {}: {wrong}", value::shown(node))
    };
    let to = raw::get(map, "to").ok_or("no to; write {to: 127.0.0.1:30000, prefix: /path}")?;
    let address = address(to).map_err(|wrong| within("to", wrong, to))?;
    let filter = match (raw::get(map, "match"), raw::get(map, "prefix")) {
        (None, None) => Filter::Any,
        (Some(node), None) => {
            Filter::Match(value::expression(node).map_err(|wrong| within("match", wrong, node))?)
        }
        (None, Some(node)) => {
            Filter::Prefix(value::prefix(node).map_err(|wrong| within("prefix", wrong, node))?)
        }
        _ => return Err("match and prefix; write one of them".into()),
    };
    let name = |key: &str, read: fn(&Node) -> Result<String, ValueError>| {
        let read = |node: &Node| read(node).map_err(|wrong| within(key, wrong, node));
        raw::get(map, key).map(read).transpose()
    };
    let mode = |node: &Node| value::mode(node).map_err(|wrong| within("mode", wrong, node));
    let file = SocketFileConfig {
        mode: raw::get(map, "mode").map(mode).transpose()?,
        owner: name("owner", value::user)?,
        group: name("group", value::group)?,
    };
    if file != SocketFileConfig::default() && !matches!(address, Address::Unix(_)) {
        return Err(FOR_UNIX_SOCKETS.into());
    }
    Ok(Outgoing {
        to: address,
        filter,
        file,
    })
}

pub(super) const FOR_UNIX_SOCKETS: &str =
    "mode, owner and group are for a Unix socket; leave them out";

/// Reads `key` and the lines of `key_file`.
pub(super) fn keys(section: &Section) -> Vec<String> {
    let mut keys = Vec::new();
    // Elsewhere null means no value. Here an empty line would let every process dial in.
    for name in ["key", "key_file"] {
        if let Some((_, Node::Null)) = section.map.iter().find(|(key, _)| key == name) {
            section.wrong(
                name,
                None,
                &Node::Null,
                "no value; remove the line, or write one",
            );
        }
    }
    let typed = section.many("key").unwrap_or_default();
    if section.take("key", |node| Ok(*node == Node::List(Vec::new()))) == Some(true) {
        section.wrong(
            "key",
            None,
            &Node::List(Vec::new()),
            "an empty list; remove the line for none",
        );
    }
    for (item, node) in typed {
        keys.extend(section.read("key", item, node, key));
    }
    let file = section.take("key_file", |node| {
        let path = value::path(section.directory)(node)?;
        key_file(&path)
    });
    keys.extend(file.unwrap_or_default());
    keys
}

fn key(node: &Node) -> Result<String, ValueError> {
    let key = value::text(node)?;
    if key.len() > KEY_BYTES {
        return Err(format!("longer than {KEY_BYTES} bytes"));
    }
    Ok(key)
}

/// Reads the keys of a file, one per line.
pub(super) fn key_file(path: &Path) -> Result<Vec<String>, ValueError> {
    let bytes = value::read_text(path, KEY_FILE_BYTES)?;
    let text = String::from_utf8(bytes).map_err(|_| "not UTF-8")?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let keys: Vec<String> = lines.map(String::from).collect();
    if keys.is_empty() {
        return Err("no key in it".into());
    }
    if keys.iter().any(|key| key.len() > KEY_BYTES) {
        return Err(format!("a line is longer than {KEY_BYTES} bytes"));
    }
    Ok(keys)
}

/// Longest key: the preamble has two hexadecimal digits for its length.
const KEY_BYTES: usize = 255;

/// Most bytes of a key file.
const KEY_FILE_BYTES: u64 = 1 << 20;
