//! The table of all keys, and the messages about unknown ones.
//!
//! The check for unknown keys uses the table; a test compares the manual with it.

use std::collections::BTreeSet;

use super::problem::{Findings, Location};
use super::raw::{Map, Node, PathStep};
use super::similar::near;
use super::value;

/// A key of the file.
pub(super) struct ConfigKey {
    /// Its name with the enclosing sections: `limits.head`.
    name: &'static str,
    level: KeyLevel,
    stage: KeyStatus,
}

/// The level at which a key is valid.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum KeyLevel {
    /// At the top level.
    Top,
    /// In an entry of `map`, and in `defaults`.
    Site,
    /// At both levels.
    Both,
    /// In the file of `swiftiply-access`.
    Access,
}

/// Whether a key has an effect.
#[derive(Clone, Copy, PartialEq)]
enum KeyStatus {
    /// It has an effect.
    Now,
    /// It is not implemented yet; using it is a problem, since access must not look restricted when it is not.
    Later,
    /// Another key does this; the text says which.
    Replaced(&'static str),
    /// Only the Ruby implementation needed it: any value is accepted, with a note.
    Never,
}

/// The dotted names of all keys, in the order of the manual.
pub fn keys() -> impl Iterator<Item = &'static str> {
    let mut seen = BTreeSet::new();
    KEYS.iter()
        .map(|key| key.name)
        .filter(move |name| seen.insert(*name))
}

/// The dotted names of all keys of `swiftiply-access`.
pub fn access_keys() -> impl Iterator<Item = &'static str> {
    ACCESS.iter().map(|key| key.name)
}

/// Checks the keys of a section as written, and those of the sections in it.
pub(super) fn check(
    findings: &Findings,
    level: KeyLevel,
    map: &Map,
    place: &(Vec<PathStep>, String),
) {
    section(findings, level, map, place, "");
}

/// The key with parts of a site, each of which also has keys of sites.
pub(super) const ROUTES: &str = "routes";

/// Whether sites have this key; dotted.
pub(super) fn is_of_site(name: &str) -> bool {
    find(name, KeyLevel::Site).is_some()
}

fn section(
    findings: &Findings,
    level: KeyLevel,
    map: &Map,
    (steps, label): &(Vec<PathStep>, String),
    prefix: &str,
) {
    for (name, node) in map {
        // Keys for YAML anchors (&name) that other parts of the file refer to.
        if name.starts_with("x-") {
            continue;
        }
        let dotted = format!("{prefix}{name}");
        let steps = [steps.as_slice(), &[PathStep::Key(name.clone())]].concat();
        let place = Location::File(steps.clone(), label.clone());
        let Some(key) = find(&dotted, level) else {
            findings.problem(place, unknown(&dotted, level));
            continue;
        };
        match key.stage {
            KeyStatus::Later => {
                findings.problem(place, format!("{dotted}: has no effect yet; remove it"));
            }
            KeyStatus::Replaced(remedy) => {
                findings.problem(place, format!("{dotted}: {remedy}"));
            }
            KeyStatus::Never => findings.note(place, format!("{dotted}: has no effect here")),
            KeyStatus::Now => {}
        }
        // Loggers of other kinds have keys of their own.
        let foreign = name == "logger" && !is_own_logger(node);
        if key.stage != KeyStatus::Now || foreign || dotted == ROUTES {
            continue;
        }
        let inner = format!("{dotted}.");
        if !table(level).iter().any(|key| key.name.starts_with(&inner)) {
            continue;
        }
        match node {
            Node::Map(map) => section(findings, level, map, &(steps, label.clone()), &inner),
            Node::List(list) => {
                for (index, node) in list.iter().enumerate() {
                    let Node::Map(map) = node else { continue };
                    let steps = [steps.as_slice(), &[PathStep::Item(index)]].concat();
                    section(findings, level, map, &(steps, label.clone()), &inner);
                }
            }
            _ => {}
        }
    }
}

fn is_own_logger(node: &Node) -> bool {
    let Node::Map(map) = node else { return true };
    let kind = super::raw::get(map, "type").and_then(|kind| value::text(kind).ok());
    kind.is_none_or(|kind| !FOREIGN_LOGGERS.contains(&kind.to_ascii_lowercase().as_str()))
}

/// The table of keys for the file with this level.
const fn table(level: KeyLevel) -> &'static [ConfigKey] {
    match level {
        KeyLevel::Access => ACCESS,
        _ => KEYS,
    }
}

fn find(dotted: &str, level: KeyLevel) -> Option<&'static ConfigKey> {
    table(level)
        .iter()
        .find(|key| key.name == dotted && stands(key, level))
}

fn stands(key: &ConfigKey, level: KeyLevel) -> bool {
    key.level == level || key.level == KeyLevel::Both
}

/// The message about an unknown key: where it belongs, or which key it resembles.
fn unknown(dotted: &str, level: KeyLevel) -> String {
    let (section, name) = split(dotted);
    let inside = if section.is_empty() {
        String::new()
    } else {
        format!("{section}: ")
    };
    // Shortened, and on one line.
    let message = format!(
        "{inside}unknown key {}",
        value::shown(&Node::Text(name.into()))
    );
    let all = table(level);
    if let Some(key) = all.iter().find(|key| key.name == dotted) {
        return format!("{message} here; it belongs {}", home(key));
    }
    // A section within a section is for something special.
    let is_deep = |key: &ConfigKey| key.name.matches('.').count() > 1;
    let same = |key: &&ConfigKey| stands(key, level) && !is_deep(key) && split(key.name).1 == name;
    if let Some(key) = all.iter().find(same) {
        return format!("{message} here; did you mean {:?} {}?", key.name, home(key));
    }
    let nearest = |keys: &mut dyn Iterator<Item = &'static ConfigKey>| {
        let near = keys
            .filter(|key| key.stage == KeyStatus::Now)
            .filter_map(|key| Some((near(name, split(key.name).1)?, key)));
        near.min_by_key(|(distance, _)| *distance)
            .map(|(_, key)| key)
    };
    let here = |key: &&ConfigKey| stands(key, level) && split(key.name).0 == section;
    if let Some(key) = nearest(&mut all.iter().filter(here)) {
        return format!("{message}; did you mean {:?}?", split(key.name).1);
    }
    // A key of another section is only suggested with its section.
    let elsewhere = |key: &&ConfigKey| [section, ""].contains(&split(key.name).0);
    if let Some(key) = nearest(&mut all.iter().filter(elsewhere)) {
        return format!("{message}; did you mean {:?} {}?", key.name, home(key));
    }
    message
}

/// The message about an unknown key of a route, where these are valid.
pub(super) fn unknown_in_route(name: &str, valid: &[&'static str]) -> String {
    let nearest = |keys: &mut dyn Iterator<Item = &'static str>| {
        let near = keys.filter_map(|key| Some((near(name, key)?, key)));
        near.min().map(|(_, key)| key)
    };
    let shown = value::shown(&Node::Text(name.into()));
    if let Some(key) = nearest(&mut valid.iter().copied()) {
        return format!("unknown key {shown}; did you mean {key:?}?");
    }
    let of_site = |key: &&ConfigKey| {
        stands(key, KeyLevel::Site) && key.stage == KeyStatus::Now && !key.name.contains('.')
    };
    match nearest(&mut KEYS.iter().filter(of_site).map(|key| key.name)) {
        Some(key) => format!("unknown key {shown}; did you mean {key:?} in the site?"),
        None => unknown(name, KeyLevel::Site),
    }
}

/// Where a key is valid, in words.
fn home(key: &ConfigKey) -> &'static str {
    match key.level {
        KeyLevel::Top | KeyLevel::Access => "at the top level",
        KeyLevel::Site => "in a map entry",
        KeyLevel::Both => "at the top level or in a map entry",
    }
}

/// Splits a dotted name into section and name.
fn split(dotted: &str) -> (&str, &str) {
    dotted.rsplit_once('.').unwrap_or(("", dotted))
}

const fn key(name: &'static str, level: KeyLevel, stage: KeyStatus) -> ConfigKey {
    ConfigKey { name, level, stage }
}

/// Types of loggers of the original that are not implemented, with keys of their own.
pub(super) const FOREIGN_LOGGERS: [&str; 1] = ["analogger"];

/// What to write instead of the original's updates.
const UPDATES: &str =
    "changes of sites are taken at the status address; write status: {at: 127.0.0.1:8081}";

/// All keys of `swiftiply`. `defaults` accepts those of a site.
const KEYS: &[ConfigKey] = &[
    key("cluster_address", KeyLevel::Top, KeyStatus::Now),
    key("cluster_port", KeyLevel::Top, KeyStatus::Now),
    key("backend_address", KeyLevel::Top, KeyStatus::Now),
    key("backend_port", KeyLevel::Top, KeyStatus::Now),
    key("daemonize", KeyLevel::Top, KeyStatus::Now),
    key("pidfile", KeyLevel::Top, KeyStatus::Now),
    key("user", KeyLevel::Top, KeyStatus::Now),
    key("group", KeyLevel::Top, KeyStatus::Now),
    key("defaults", KeyLevel::Top, KeyStatus::Now),
    key("map", KeyLevel::Top, KeyStatus::Now),
    key("include", KeyLevel::Top, KeyStatus::Now),
    key("logger", KeyLevel::Both, KeyStatus::Now),
    key("logger.type", KeyLevel::Both, KeyStatus::Now),
    key("logger.file", KeyLevel::Both, KeyStatus::Now),
    key("logger.facility", KeyLevel::Both, KeyStatus::Now),
    key("logger.level", KeyLevel::Both, KeyStatus::Now),
    key("logger.log_level", KeyLevel::Both, KeyStatus::Now),
    key("access_log", KeyLevel::Both, KeyStatus::Now),
    key("access_log.type", KeyLevel::Both, KeyStatus::Now),
    key("access_log.file", KeyLevel::Both, KeyStatus::Now),
    key("access_log.facility", KeyLevel::Both, KeyStatus::Now),
    key("access_log.format", KeyLevel::Both, KeyStatus::Now),
    key("access_log.exclude", KeyLevel::Both, KeyStatus::Now),
    key("access_log.exclude.paths", KeyLevel::Both, KeyStatus::Now),
    key("access_log.exclude.agents", KeyLevel::Both, KeyStatus::Now),
    key("health_check_uri", KeyLevel::Top, KeyStatus::Now),
    key("workers", KeyLevel::Top, KeyStatus::Now),
    key("scheduling", KeyLevel::Top, KeyStatus::Now),
    key("grace", KeyLevel::Top, KeyStatus::Now),
    key("upgrade_grace", KeyLevel::Top, KeyStatus::Now),
    key("upgrade_timeout", KeyLevel::Top, KeyStatus::Now),
    key("descriptors", KeyLevel::Top, KeyStatus::Now),
    key("epoll_descriptors", KeyLevel::Top, KeyStatus::Now),
    key("timeout", KeyLevel::Both, KeyStatus::Now),
    key("limits", KeyLevel::Both, KeyStatus::Now),
    key("limits.head", KeyLevel::Top, KeyStatus::Now),
    key("limits.fields", KeyLevel::Top, KeyStatus::Now),
    key("limits.target", KeyLevel::Top, KeyStatus::Now),
    key("limits.body", KeyLevel::Both, KeyStatus::Now),
    key("limits.body_memory", KeyLevel::Both, KeyStatus::Now),
    key("limits.waiting", KeyLevel::Both, KeyStatus::Now),
    key("limits.waiting_total", KeyLevel::Top, KeyStatus::Now),
    key("limits.backends", KeyLevel::Top, KeyStatus::Now),
    key("limits.connections", KeyLevel::Top, KeyStatus::Now),
    key(
        "limits.connections_per_client",
        KeyLevel::Top,
        KeyStatus::Now,
    ),
    key("limits.spool", KeyLevel::Top, KeyStatus::Now),
    key("limits.memory", KeyLevel::Top, KeyStatus::Now),
    key("timeouts", KeyLevel::Both, KeyStatus::Now),
    key("timeouts.head", KeyLevel::Top, KeyStatus::Now),
    key("timeouts.idle", KeyLevel::Both, KeyStatus::Now),
    key("timeouts.body", KeyLevel::Both, KeyStatus::Now),
    key("timeouts.write", KeyLevel::Both, KeyStatus::Now),
    key("timeouts.first_byte", KeyLevel::Both, KeyStatus::Now),
    key("timeouts.backend", KeyLevel::Both, KeyStatus::Now),
    key("timeouts.preamble", KeyLevel::Top, KeyStatus::Now),
    key("timeouts.connect", KeyLevel::Both, KeyStatus::Now),
    key("timeouts.tunnel", KeyLevel::Both, KeyStatus::Now),
    key("trusted_proxies", KeyLevel::Top, KeyStatus::Now),
    key("proxy_protocol", KeyLevel::Top, KeyStatus::Now),
    key("proxy_protocol.from", KeyLevel::Top, KeyStatus::Now),
    key("proxy_protocol.at", KeyLevel::Top, KeyStatus::Now),
    key("allow", KeyLevel::Both, KeyStatus::Now),
    key("allow.networks", KeyLevel::Both, KeyStatus::Now),
    key("allow.paths", KeyLevel::Site, KeyStatus::Now),
    key("deny", KeyLevel::Both, KeyStatus::Now),
    key("deny.networks", KeyLevel::Both, KeyStatus::Now),
    key("deny.paths", KeyLevel::Site, KeyStatus::Now),
    key("rate_limit", KeyLevel::Both, KeyStatus::Now),
    key("rate_limit.rate", KeyLevel::Both, KeyStatus::Now),
    key("rate_limit.burst", KeyLevel::Both, KeyStatus::Now),
    key("client_address_field", KeyLevel::Top, KeyStatus::Now),
    key("temporary_directory", KeyLevel::Top, KeyStatus::Now),
    key("incoming", KeyLevel::Site, KeyStatus::Now),
    key("default", KeyLevel::Site, KeyStatus::Now),
    key("outgoing", KeyLevel::Site, KeyStatus::Now),
    key("outgoing.to", KeyLevel::Site, KeyStatus::Now),
    key("outgoing.match", KeyLevel::Site, KeyStatus::Now),
    key("outgoing.prefix", KeyLevel::Site, KeyStatus::Now),
    key("outgoing.mode", KeyLevel::Site, KeyStatus::Now),
    key("outgoing.owner", KeyLevel::Site, KeyStatus::Now),
    key("outgoing.group", KeyLevel::Site, KeyStatus::Now),
    key("key", KeyLevel::Site, KeyStatus::Now),
    key("key_file", KeyLevel::Site, KeyStatus::Now),
    key("keepalive", KeyLevel::Site, KeyStatus::Now),
    key("proxy", KeyLevel::Site, KeyStatus::Now),
    key("directory", KeyLevel::Site, KeyStatus::Now),
    key("servers", KeyLevel::Site, KeyStatus::Now),
    key("servers.host", KeyLevel::Site, KeyStatus::Now),
    key("servers.port", KeyLevel::Site, KeyStatus::Now),
    key("servers.db", KeyLevel::Site, KeyStatus::Now),
    key("servers.password", KeyLevel::Site, KeyStatus::Now),
    key("servers.lease", KeyLevel::Site, KeyStatus::Now),
    key("servers.sentinel", KeyLevel::Site, KeyStatus::Now),
    key("server_connections", KeyLevel::Site, KeyStatus::Now),
    key("send_proxy", KeyLevel::Site, KeyStatus::Now),
    key("server_tls", KeyLevel::Site, KeyStatus::Now),
    key("server_tls.ca", KeyLevel::Site, KeyStatus::Now),
    key("server_tls.fingerprint", KeyLevel::Site, KeyStatus::Now),
    key("server_tls.server_name", KeyLevel::Site, KeyStatus::Now),
    key("server_tls.certfile", KeyLevel::Site, KeyStatus::Now),
    key("server_tls.keyfile", KeyLevel::Site, KeyStatus::Now),
    key(
        "server_tls.insecure_skip_verify",
        KeyLevel::Site,
        KeyStatus::Now,
    ),
    key("lookup_interval", KeyLevel::Site, KeyStatus::Now),
    key("check", KeyLevel::Site, KeyStatus::Now),
    key("check.uri", KeyLevel::Site, KeyStatus::Now),
    key("check.interval", KeyLevel::Site, KeyStatus::Now),
    key("fastcgi_root", KeyLevel::Site, KeyStatus::Now),
    key("fastcgi_params", KeyLevel::Site, KeyStatus::Now),
    key("backup", KeyLevel::Site, KeyStatus::Now),
    key("routes", KeyLevel::Site, KeyStatus::Now),
    key("routes.match", KeyLevel::Site, KeyStatus::Now),
    key("routes.strip", KeyLevel::Site, KeyStatus::Now),
    key("routes.rewrite", KeyLevel::Site, KeyStatus::Now),
    key("order", KeyLevel::Site, KeyStatus::Now),
    key("retries", KeyLevel::Site, KeyStatus::Now),
    key("redeployable", KeyLevel::Site, KeyStatus::Now),
    key("redeployment_sizelimit", KeyLevel::Site, KeyStatus::Now),
    key("xforwardedfor", KeyLevel::Site, KeyStatus::Now),
    key("via", KeyLevel::Site, KeyStatus::Now),
    key("queue_time", KeyLevel::Site, KeyStatus::Now),
    key("request_id", KeyLevel::Site, KeyStatus::Now),
    key("underscores", KeyLevel::Site, KeyStatus::Now),
    key("unframed_gap", KeyLevel::Site, KeyStatus::Now),
    key("ssl", KeyLevel::Top, KeyStatus::Now),
    key("ssl.at", KeyLevel::Top, KeyStatus::Now),
    key("ssl.certfile", KeyLevel::Top, KeyStatus::Now),
    key("ssl.keyfile", KeyLevel::Top, KeyStatus::Now),
    key("ssl.ocsp", KeyLevel::Top, KeyStatus::Now),
    key("tls", KeyLevel::Site, KeyStatus::Now),
    key("tls.certfile", KeyLevel::Site, KeyStatus::Now),
    key("tls.keyfile", KeyLevel::Site, KeyStatus::Now),
    key("tls.ocsp", KeyLevel::Site, KeyStatus::Now),
    key("client_ca", KeyLevel::Site, KeyStatus::Now),
    key("client_crl", KeyLevel::Site, KeyStatus::Now),
    key("client_certificate", KeyLevel::Site, KeyStatus::Now),
    key("acme", KeyLevel::Top, KeyStatus::Now),
    key("acme.email", KeyLevel::Top, KeyStatus::Now),
    key("acme.directory", KeyLevel::Top, KeyStatus::Now),
    key("acme.ca", KeyLevel::Top, KeyStatus::Now),
    key("acme.eab", KeyLevel::Top, KeyStatus::Now),
    key("acme.eab.kid", KeyLevel::Top, KeyStatus::Now),
    key("acme.eab.key", KeyLevel::Top, KeyStatus::Now),
    key("acme.keyfile", KeyLevel::Top, KeyStatus::Now),
    key("acme.profile", KeyLevel::Top, KeyStatus::Now),
    key("acme.challenges", KeyLevel::Top, KeyStatus::Now),
    key("acme.ask", KeyLevel::Top, KeyStatus::Now),
    key("acme.redis", KeyLevel::Top, KeyStatus::Now),
    key("acme.redis.host", KeyLevel::Top, KeyStatus::Now),
    key("acme.redis.port", KeyLevel::Top, KeyStatus::Now),
    key("acme.redis.sentinel", KeyLevel::Top, KeyStatus::Now),
    key("acme.redis.db", KeyLevel::Top, KeyStatus::Now),
    key("acme.redis.password", KeyLevel::Top, KeyStatus::Now),
    key("state_directory", KeyLevel::Top, KeyStatus::Now),
    key("outgoing_ssl", KeyLevel::Top, KeyStatus::Now),
    key("outgoing_ssl.at", KeyLevel::Top, KeyStatus::Now),
    key("outgoing_ssl.certfile", KeyLevel::Top, KeyStatus::Now),
    key("outgoing_ssl.keyfile", KeyLevel::Top, KeyStatus::Now),
    key("outgoing_ssl.client_ca", KeyLevel::Top, KeyStatus::Now),
    key("outgoing_ssl.client_crl", KeyLevel::Top, KeyStatus::Now),
    key("status", KeyLevel::Top, KeyStatus::Now),
    key("status.at", KeyLevel::Top, KeyStatus::Now),
    key("status.mode", KeyLevel::Top, KeyStatus::Now),
    key("status.owner", KeyLevel::Top, KeyStatus::Now),
    key("status.group", KeyLevel::Top, KeyStatus::Now),
    key("status.key", KeyLevel::Top, KeyStatus::Now),
    key("status.key_file", KeyLevel::Top, KeyStatus::Now),
    key("cache_threshold", KeyLevel::Top, KeyStatus::Now),
    key(
        "chunked_encoding_threshold",
        KeyLevel::Top,
        KeyStatus::Never,
    ),
    key("updates", KeyLevel::Top, KeyStatus::Replaced(UPDATES)),
    key("health", KeyLevel::Site, KeyStatus::Later),
    key("request_buffering", KeyLevel::Site, KeyStatus::Now),
    key("max_tunnels", KeyLevel::Site, KeyStatus::Now),
    key("docroot", KeyLevel::Site, KeyStatus::Now),
    key("index", KeyLevel::Site, KeyStatus::Now),
    key("staticmask", KeyLevel::Site, KeyStatus::Now),
    key("follow_symlinks", KeyLevel::Site, KeyStatus::Now),
    key("hidden_files", KeyLevel::Site, KeyStatus::Now),
    key("cache_directory", KeyLevel::Site, KeyStatus::Now),
    key("cache_extensions", KeyLevel::Site, KeyStatus::Now),
    key("fallback", KeyLevel::Site, KeyStatus::Now),
    key("clean_urls", KeyLevel::Site, KeyStatus::Now),
    key("autoindex", KeyLevel::Site, KeyStatus::Now),
    key("sendfileroot", KeyLevel::Site, KeyStatus::Now),
    key("enable_sendfile_404", KeyLevel::Site, KeyStatus::Now),
    key("file_cache", KeyLevel::Site, KeyStatus::Now),
    key("file_cache.size", KeyLevel::Site, KeyStatus::Now),
    key("file_cache.window", KeyLevel::Site, KeyStatus::Now),
    key("file_cache.memory", KeyLevel::Site, KeyStatus::Now),
    key("file_cache.timeslice", KeyLevel::Site, KeyStatus::Never),
    key("etag_cache", KeyLevel::Site, KeyStatus::Now),
    key("etag_cache.size", KeyLevel::Site, KeyStatus::Now),
    key("etag_cache.window", KeyLevel::Site, KeyStatus::Now),
    key("etag_cache.timeslice", KeyLevel::Site, KeyStatus::Never),
    key("dynamic_request_cache", KeyLevel::Site, KeyStatus::Now),
    key("dynamic_request_cache.size", KeyLevel::Site, KeyStatus::Now),
    key(
        "dynamic_request_cache.window",
        KeyLevel::Site,
        KeyStatus::Now,
    ),
    key(
        "dynamic_request_cache.timeslice",
        KeyLevel::Site,
        KeyStatus::Never,
    ),
    key("gzip", KeyLevel::Site, KeyStatus::Now),
    key("gzip.types", KeyLevel::Site, KeyStatus::Now),
    key("gzip.minimum", KeyLevel::Site, KeyStatus::Now),
    key("gzip.level", KeyLevel::Site, KeyStatus::Now),
    key("precompressed", KeyLevel::Site, KeyStatus::Now),
    key("redirect_to_https", KeyLevel::Site, KeyStatus::Now),
    key("redirect", KeyLevel::Site, KeyStatus::Now),
    key("redirect.from", KeyLevel::Site, KeyStatus::Now),
    key("redirect.host", KeyLevel::Site, KeyStatus::Now),
    key("redirect.to", KeyLevel::Site, KeyStatus::Now),
    key("redirect.status", KeyLevel::Site, KeyStatus::Now),
    key("hsts", KeyLevel::Site, KeyStatus::Now),
    key("hsts.max_age", KeyLevel::Site, KeyStatus::Now),
    key("hsts.subdomains", KeyLevel::Site, KeyStatus::Now),
    key("hsts.preload", KeyLevel::Site, KeyStatus::Now),
    key("response_headers", KeyLevel::Site, KeyStatus::Now),
    key("response_headers.paths", KeyLevel::Site, KeyStatus::Now),
    key("response_headers.secure", KeyLevel::Site, KeyStatus::Now),
    key("response_headers.set", KeyLevel::Site, KeyStatus::Now),
    key("response_headers.add", KeyLevel::Site, KeyStatus::Now),
    key("response_headers.remove", KeyLevel::Site, KeyStatus::Now),
    key("expires", KeyLevel::Site, KeyStatus::Now),
    key("expires.time", KeyLevel::Site, KeyStatus::Now),
    key("expires.types", KeyLevel::Site, KeyStatus::Now),
    key("expires.paths", KeyLevel::Site, KeyStatus::Now),
    key("expires.hashed", KeyLevel::Site, KeyStatus::Now),
    key("expires.immutable", KeyLevel::Site, KeyStatus::Now),
    key("cors", KeyLevel::Site, KeyStatus::Now),
    key("cors.origins", KeyLevel::Site, KeyStatus::Now),
    key("cors.paths", KeyLevel::Site, KeyStatus::Now),
    key("cors.methods", KeyLevel::Site, KeyStatus::Now),
    key("cors.headers", KeyLevel::Site, KeyStatus::Now),
    key("cors.expose", KeyLevel::Site, KeyStatus::Now),
    key("cors.credentials", KeyLevel::Site, KeyStatus::Now),
    key("cors.max_age", KeyLevel::Site, KeyStatus::Now),
    key("maintenance_page", KeyLevel::Site, KeyStatus::Now),
    key("maintenance_flag", KeyLevel::Site, KeyStatus::Now),
    key("error_pages", KeyLevel::Site, KeyStatus::Now),
    key("intercept_errors", KeyLevel::Site, KeyStatus::Now),
    key("basic_auth", KeyLevel::Site, KeyStatus::Now),
    key("basic_auth.realm", KeyLevel::Site, KeyStatus::Now),
    key("basic_auth.users_file", KeyLevel::Site, KeyStatus::Now),
    key("basic_auth.paths", KeyLevel::Site, KeyStatus::Now),
    key("basic_auth.forward", KeyLevel::Site, KeyStatus::Now),
    key("caching", KeyLevel::Site, KeyStatus::Never),
    key("sticky", KeyLevel::Site, KeyStatus::Later),
    key("manager", KeyLevel::Site, KeyStatus::Never),
    key("workers", KeyLevel::Site, KeyStatus::Later),
    key("epoll", KeyLevel::Top, KeyStatus::Never),
    key("kqueue", KeyLevel::Top, KeyStatus::Never),
    key("n", KeyLevel::Top, KeyStatus::Never),
    key("url", KeyLevel::Both, KeyStatus::Never),
    key("groups", KeyLevel::Site, KeyStatus::Never),
    key("timeslice", KeyLevel::Both, KeyStatus::Never),
];

/// All keys of `swiftiply-access`.
const ACCESS: &[ConfigKey] = &[
    key("connect", KeyLevel::Access, KeyStatus::Now),
    key("key", KeyLevel::Access, KeyStatus::Now),
    key("key_file", KeyLevel::Access, KeyStatus::Now),
    key("name", KeyLevel::Access, KeyStatus::Now),
    key("ssl", KeyLevel::Access, KeyStatus::Now),
    key("ssl.ca", KeyLevel::Access, KeyStatus::Now),
    key("ssl.fingerprint", KeyLevel::Access, KeyStatus::Now),
    key("ssl.certfile", KeyLevel::Access, KeyStatus::Now),
    key("ssl.keyfile", KeyLevel::Access, KeyStatus::Now),
    key("to", KeyLevel::Access, KeyStatus::Now),
    key("places", KeyLevel::Access, KeyStatus::Now),
    key("connections", KeyLevel::Access, KeyStatus::Now),
    key("lookup_interval", KeyLevel::Access, KeyStatus::Now),
    key("check", KeyLevel::Access, KeyStatus::Now),
    key("check.uri", KeyLevel::Access, KeyStatus::Now),
    key("check.interval", KeyLevel::Access, KeyStatus::Now),
    key("command", KeyLevel::Access, KeyStatus::Now),
    key("signals", KeyLevel::Access, KeyStatus::Now),
    key("timeouts", KeyLevel::Access, KeyStatus::Now),
    key("timeouts.connect", KeyLevel::Access, KeyStatus::Now),
    key("timeouts.first_byte", KeyLevel::Access, KeyStatus::Now),
    key("timeouts.backend", KeyLevel::Access, KeyStatus::Now),
    key("grace", KeyLevel::Access, KeyStatus::Now),
    key("logger", KeyLevel::Access, KeyStatus::Now),
    key("logger.type", KeyLevel::Access, KeyStatus::Now),
    key("logger.file", KeyLevel::Access, KeyStatus::Now),
    key("logger.facility", KeyLevel::Access, KeyStatus::Now),
    key("logger.level", KeyLevel::Access, KeyStatus::Now),
    key("logger.log_level", KeyLevel::Access, KeyStatus::Now),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_get_a_suggestion() {
        let check = |dotted: &str, level, expected: &str| {
            assert_eq!(unknown(dotted, level), expected);
        };
        check(
            "docrot",
            KeyLevel::Site,
            r#"unknown key "docrot"; did you mean "docroot"?"#,
        );
        check(
            "OutGoing",
            KeyLevel::Site,
            r#"unknown key "OutGoing"; did you mean "outgoing"?"#,
        );
        check(
            "maps",
            KeyLevel::Top,
            r#"unknown key "maps"; did you mean "map"?"#,
        );
        check("ouptut", KeyLevel::Site, r#"unknown key "ouptut""#);
        check("try_files", KeyLevel::Site, r#"unknown key "try_files""#);
        check("port", KeyLevel::Top, r#"unknown key "port""#);
        check("allowed", KeyLevel::Top, r#"unknown key "allowed""#);
        check(
            "outgiong_ssl",
            KeyLevel::Top,
            r#"unknown key "outgiong_ssl"; did you mean "outgoing_ssl"?"#,
        );
        check(
            "docroot",
            KeyLevel::Top,
            r#"unknown key "docroot" here; it belongs in a map entry"#,
        );
        check(
            "cluster_port",
            KeyLevel::Site,
            r#"unknown key "cluster_port" here; it belongs at the top level"#,
        );
        check(
            "limits.head",
            KeyLevel::Site,
            r#"limits: unknown key "head" here; it belongs at the top level"#,
        );
        check(
            "limits.bdy",
            KeyLevel::Site,
            r#"limits: unknown key "bdy"; did you mean "body"?"#,
        );
        check(
            "first_byte",
            KeyLevel::Top,
            r#"unknown key "first_byte" here; did you mean "timeouts.first_byte" at the top level or in a map entry?"#,
        );
        check(
            "docrot",
            KeyLevel::Top,
            r#"unknown key "docrot"; did you mean "docroot" in a map entry?"#,
        );
        check("", KeyLevel::Top, r#"unknown key """#);
    }

    #[test]
    fn every_key_is_in_the_manual() {
        let check = |page: &str, keys: &[&str]| {
            let file = format!("{}/man/{page}", env!("CARGO_MANIFEST_DIR"));
            in_the_manual(&file, keys);
        };
        check("swiftiply.yml.5", &keys().collect::<Vec<_>>());
        check("swiftiply-access.8", &access_keys().collect::<Vec<_>>());
    }

    fn in_the_manual(file: &str, keys: &[&str]) {
        let manual = std::fs::read_to_string(file).expect("the manual page");
        let items = manual.lines().filter(|line| line.starts_with(".It "));
        let described: BTreeSet<&str> = items
            .flat_map(|line| {
                let words = line.split(' ').collect::<Vec<_>>();
                let pairs = words.windows(2).filter(|pair| pair[0] == "Ic");
                pairs.map(|pair| pair[1]).collect::<Vec<_>>()
            })
            .collect();
        let missing = keys.iter().filter(|name| !described.contains(*name));
        let missing: Vec<_> = missing.collect();
        assert!(missing.is_empty(), "not in {file}: {missing:?}");
        let invented: Vec<_> = described
            .iter()
            .filter(|name| !keys.contains(name))
            .collect();
        assert!(invented.is_empty(), "only in {file}: {invented:?}");
    }
}
