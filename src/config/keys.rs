//! Every key there is, and what to say about one that is not.
//!
//! The table drives the check for unknown keys; a test holds the manual page to it.

use std::collections::BTreeSet;

use super::problem::{Findings, Place};
use super::raw::{Map, Node, Step};
use super::value;

/// A key of the file.
pub(super) struct Key {
    /// Its name with the sections it is in: `limits.head`.
    name: &'static str,
    level: Level,
    stage: Stage,
}

/// Where a key may stand.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Level {
    /// At the top.
    Top,
    /// In a map entry, and in `defaults`.
    Site,
    /// In either.
    Both,
    /// In the file of `swiftiply-access`.
    Access,
}

/// Whether a key does something.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// It has its effect.
    Now,
    /// It is not built yet, so it is a problem: access that is not limited must not look as if it were.
    Later,
    /// The Ruby implementation needed it: accepted in any shape, with a note.
    Never,
}

/// The dotted names of all keys, in the order of the manual.
pub fn keys() -> impl Iterator<Item = &'static str> {
    let mut seen = BTreeSet::new();
    KEYS.iter()
        .map(|key| key.name)
        .filter(move |name| seen.insert(*name))
}

/// Those of `swiftiply-access`.
pub fn access_keys() -> impl Iterator<Item = &'static str> {
    ACCESS.iter().map(|key| key.name)
}

/// Checks the keys of a section as typed, and of the sections in it.
pub(super) fn check(findings: &Findings, level: Level, map: &Map, place: &(Vec<Step>, String)) {
    section(findings, level, map, place, "");
}

fn section(
    findings: &Findings,
    level: Level,
    map: &Map,
    (steps, label): &(Vec<Step>, String),
    prefix: &str,
) {
    for (name, node) in map {
        // Theirs alone who write them, for anchors (&name) that other places refer to.
        if name.starts_with("x-") {
            continue;
        }
        let dotted = format!("{prefix}{name}");
        let steps = [steps.as_slice(), &[Step::Key(name.clone())]].concat();
        let place = Place::File(steps.clone(), label.clone());
        let Some(key) = find(&dotted, level) else {
            findings.problem(place, unknown(&dotted, level));
            continue;
        };
        match key.stage {
            Stage::Later => {
                findings.problem(place, format!("{dotted}: has no effect yet; remove it"));
            }
            Stage::Never => findings.note(place, format!("{dotted}: has no effect here")),
            Stage::Now => {}
        }
        // What loggers of another kind need is theirs.
        let foreign = name == "logger" && !is_own_logger(node);
        if key.stage != Stage::Now || foreign {
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
                    let steps = [steps.as_slice(), &[Step::Item(index)]].concat();
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

/// The keys of the file in which this is.
const fn table(level: Level) -> &'static [Key] {
    match level {
        Level::Access => ACCESS,
        _ => KEYS,
    }
}

fn find(dotted: &str, level: Level) -> Option<&'static Key> {
    table(level)
        .iter()
        .find(|key| key.name == dotted && stands(key, level))
}

fn stands(key: &Key, level: Level) -> bool {
    key.level == level || key.level == Level::Both
}

/// What to say about an unknown key: where it belongs, or which one is nearest.
fn unknown(dotted: &str, level: Level) -> String {
    let (section, name) = split(dotted);
    let inside = if section.is_empty() {
        String::new()
    } else {
        format!("{section}: ")
    };
    // Not the whole of a long name, and on one line.
    let message = format!(
        "{inside}unknown key {}",
        value::shown(&Node::Text(name.into()))
    );
    let all = table(level);
    if let Some(key) = all.iter().find(|key| key.name == dotted) {
        return format!("{message} here; it belongs {}", home(key));
    }
    let same = |key: &&Key| stands(key, level) && split(key.name).1 == name;
    if let Some(key) = all.iter().find(same) {
        return format!("{message} here; did you mean {:?} {}?", key.name, home(key));
    }
    let nearest = |keys: &mut dyn Iterator<Item = &'static Key>| {
        let near = keys
            .filter(|key| key.stage == Stage::Now)
            .filter_map(|key| {
                let distance = distance(&name.to_ascii_lowercase(), split(key.name).1);
                (distance <= (name.len() / 4).clamp(1, 2)).then_some((distance, key))
            });
        near.min_by_key(|(distance, _)| *distance)
            .map(|(_, key)| key)
    };
    let here = |key: &&Key| stands(key, level) && split(key.name).0 == section;
    if let Some(key) = nearest(&mut all.iter().filter(here)) {
        return format!("{message}; did you mean {:?}?", split(key.name).1);
    }
    // Elsewhere a name without its section says too little.
    let elsewhere = |key: &&Key| [section, ""].contains(&split(key.name).0);
    if let Some(key) = nearest(&mut all.iter().filter(elsewhere)) {
        return format!("{message}; did you mean {:?} {}?", key.name, home(key));
    }
    message
}

/// Where a key stands, in words.
fn home(key: &Key) -> &'static str {
    match key.level {
        Level::Top | Level::Access => "at the top level",
        Level::Site => "in a map entry",
        Level::Both => "at the top level or in a map entry",
    }
}

/// The section and the name of a dotted name.
fn split(dotted: &str) -> (&str, &str) {
    dotted.rsplit_once('.').unwrap_or(("", dotted))
}

/// How many letters must be added, removed, replaced or swapped with the next.
fn distance(one: &str, other: &str) -> usize {
    // Far beyond any key; the work is the product of both lengths.
    if one.len() > 64 {
        return usize::MAX;
    }
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut rows = vec![vec![0; other.len() + 1]; one.len() + 1];
    for i in 0..=one.len() {
        for j in 0..=other.len() {
            if i == 0 || j == 0 {
                rows[i][j] = i + j;
                continue;
            }
            let replaced = rows[i - 1][j - 1] + usize::from(one[i - 1] != other[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[one.len()][other.len()]
}

const fn key(name: &'static str, level: Level, stage: Stage) -> Key {
    Key { name, level, stage }
}

/// Loggers of the original that are not built.
pub(super) const FOREIGN_LOGGERS: [&str; 2] = ["analogger", "syslog"];

/// All keys. `defaults` takes those of a site.
const KEYS: &[Key] = &[
    key("cluster_address", Level::Top, Stage::Now),
    key("cluster_port", Level::Top, Stage::Now),
    key("backend_address", Level::Top, Stage::Now),
    key("backend_port", Level::Top, Stage::Now),
    key("daemonize", Level::Top, Stage::Now),
    key("pidfile", Level::Top, Stage::Now),
    key("user", Level::Top, Stage::Now),
    key("group", Level::Top, Stage::Now),
    key("defaults", Level::Top, Stage::Now),
    key("map", Level::Top, Stage::Now),
    key("logger", Level::Both, Stage::Now),
    key("logger.type", Level::Both, Stage::Now),
    key("logger.file", Level::Both, Stage::Now),
    key("logger.level", Level::Both, Stage::Now),
    key("logger.log_level", Level::Both, Stage::Now),
    key("access_log", Level::Both, Stage::Now),
    key("access_log.file", Level::Both, Stage::Now),
    key("access_log.format", Level::Both, Stage::Now),
    key("health_check_uri", Level::Top, Stage::Now),
    key("workers", Level::Top, Stage::Now),
    key("scheduling", Level::Top, Stage::Now),
    key("grace", Level::Top, Stage::Now),
    key("descriptors", Level::Top, Stage::Now),
    key("epoll_descriptors", Level::Top, Stage::Now),
    key("timeout", Level::Both, Stage::Now),
    key("limits", Level::Both, Stage::Now),
    key("limits.head", Level::Top, Stage::Now),
    key("limits.fields", Level::Top, Stage::Now),
    key("limits.target", Level::Top, Stage::Now),
    key("limits.body", Level::Both, Stage::Now),
    key("limits.body_memory", Level::Both, Stage::Now),
    key("limits.waiting", Level::Both, Stage::Now),
    key("limits.waiting_total", Level::Top, Stage::Now),
    key("limits.backends", Level::Top, Stage::Now),
    key("limits.connections", Level::Top, Stage::Now),
    key("limits.connections_per_client", Level::Top, Stage::Now),
    key("limits.spool", Level::Top, Stage::Now),
    key("limits.memory", Level::Top, Stage::Now),
    key("timeouts", Level::Both, Stage::Now),
    key("timeouts.head", Level::Top, Stage::Now),
    key("timeouts.idle", Level::Both, Stage::Now),
    key("timeouts.body", Level::Both, Stage::Now),
    key("timeouts.write", Level::Both, Stage::Now),
    key("timeouts.first_byte", Level::Both, Stage::Now),
    key("timeouts.backend", Level::Both, Stage::Now),
    key("timeouts.preamble", Level::Top, Stage::Now),
    key("timeouts.connect", Level::Both, Stage::Now),
    key("timeouts.tunnel", Level::Both, Stage::Now),
    key("trusted_proxies", Level::Top, Stage::Now),
    key("client_address_field", Level::Top, Stage::Now),
    key("temporary_directory", Level::Top, Stage::Now),
    key("incoming", Level::Site, Stage::Now),
    key("default", Level::Site, Stage::Now),
    key("outgoing", Level::Site, Stage::Now),
    key("outgoing.to", Level::Site, Stage::Now),
    key("outgoing.match", Level::Site, Stage::Now),
    key("outgoing.prefix", Level::Site, Stage::Now),
    key("outgoing.mode", Level::Site, Stage::Now),
    key("outgoing.owner", Level::Site, Stage::Now),
    key("outgoing.group", Level::Site, Stage::Now),
    key("key", Level::Site, Stage::Now),
    key("key_file", Level::Site, Stage::Now),
    key("keepalive", Level::Site, Stage::Now),
    key("proxy", Level::Site, Stage::Now),
    key("directory", Level::Site, Stage::Now),
    key("servers", Level::Site, Stage::Now),
    key("servers.host", Level::Site, Stage::Now),
    key("servers.port", Level::Site, Stage::Now),
    key("servers.db", Level::Site, Stage::Now),
    key("servers.password", Level::Site, Stage::Now),
    key("servers.lease", Level::Site, Stage::Now),
    key("server_connections", Level::Site, Stage::Now),
    key("check", Level::Site, Stage::Now),
    key("check.uri", Level::Site, Stage::Now),
    key("check.interval", Level::Site, Stage::Now),
    key("backup", Level::Site, Stage::Now),
    key("order", Level::Site, Stage::Now),
    key("retries", Level::Site, Stage::Now),
    key("redeployable", Level::Site, Stage::Now),
    key("redeployment_sizelimit", Level::Site, Stage::Now),
    key("xforwardedfor", Level::Site, Stage::Now),
    key("via", Level::Site, Stage::Now),
    key("queue_time", Level::Site, Stage::Now),
    key("underscores", Level::Site, Stage::Now),
    key("unframed_gap", Level::Site, Stage::Now),
    key("ssl", Level::Top, Stage::Now),
    key("ssl.at", Level::Top, Stage::Now),
    key("ssl.certfile", Level::Top, Stage::Now),
    key("ssl.keyfile", Level::Top, Stage::Now),
    key("outgoing_ssl", Level::Top, Stage::Now),
    key("outgoing_ssl.at", Level::Top, Stage::Now),
    key("outgoing_ssl.certfile", Level::Top, Stage::Now),
    key("outgoing_ssl.keyfile", Level::Top, Stage::Now),
    key("outgoing_ssl.client_ca", Level::Top, Stage::Now),
    key("cache_threshold", Level::Top, Stage::Now),
    key("chunked_encoding_threshold", Level::Top, Stage::Never),
    key("updates", Level::Top, Stage::Later),
    key("status", Level::Top, Stage::Later),
    key("acme", Level::Top, Stage::Later),
    key("proxy_protocol", Level::Top, Stage::Later),
    key("rate_limit", Level::Top, Stage::Later),
    key("allow", Level::Top, Stage::Later),
    key("deny", Level::Top, Stage::Later),
    key("health", Level::Site, Stage::Later),
    key("request_buffering", Level::Site, Stage::Now),
    key("max_tunnels", Level::Site, Stage::Now),
    key("docroot", Level::Site, Stage::Now),
    key("index", Level::Site, Stage::Now),
    key("staticmask", Level::Site, Stage::Now),
    key("follow_symlinks", Level::Site, Stage::Now),
    key("hidden_files", Level::Site, Stage::Now),
    key("cache_directory", Level::Site, Stage::Now),
    key("cache_extensions", Level::Site, Stage::Now),
    key("sendfileroot", Level::Site, Stage::Now),
    key("enable_sendfile_404", Level::Site, Stage::Now),
    key("file_cache", Level::Site, Stage::Now),
    key("file_cache.size", Level::Site, Stage::Now),
    key("file_cache.window", Level::Site, Stage::Now),
    key("file_cache.memory", Level::Site, Stage::Now),
    key("file_cache.timeslice", Level::Site, Stage::Never),
    key("etag_cache", Level::Site, Stage::Now),
    key("etag_cache.size", Level::Site, Stage::Now),
    key("etag_cache.window", Level::Site, Stage::Now),
    key("etag_cache.timeslice", Level::Site, Stage::Never),
    key("dynamic_request_cache", Level::Site, Stage::Now),
    key("dynamic_request_cache.size", Level::Site, Stage::Now),
    key("dynamic_request_cache.window", Level::Site, Stage::Now),
    key("dynamic_request_cache.timeslice", Level::Site, Stage::Never),
    key("gzip", Level::Site, Stage::Now),
    key("gzip.types", Level::Site, Stage::Now),
    key("gzip.minimum", Level::Site, Stage::Now),
    key("gzip.level", Level::Site, Stage::Now),
    key("precompressed", Level::Site, Stage::Now),
    key("maintenance_page", Level::Site, Stage::Now),
    key("maintenance_flag", Level::Site, Stage::Now),
    key("error_pages", Level::Site, Stage::Now),
    key("basic_auth", Level::Site, Stage::Now),
    key("basic_auth.realm", Level::Site, Stage::Now),
    key("basic_auth.users_file", Level::Site, Stage::Now),
    key("basic_auth.paths", Level::Site, Stage::Now),
    key("basic_auth.forward", Level::Site, Stage::Now),
    key("caching", Level::Site, Stage::Never),
    key("sticky", Level::Site, Stage::Later),
    key("manager", Level::Site, Stage::Never),
    key("workers", Level::Site, Stage::Later),
    key("epoll", Level::Top, Stage::Never),
    key("kqueue", Level::Top, Stage::Never),
    key("n", Level::Top, Stage::Never),
    key("url", Level::Both, Stage::Never),
    key("groups", Level::Site, Stage::Never),
    key("timeslice", Level::Both, Stage::Never),
];

/// All keys of `swiftiply-access`.
const ACCESS: &[Key] = &[
    key("connect", Level::Access, Stage::Now),
    key("key", Level::Access, Stage::Now),
    key("key_file", Level::Access, Stage::Now),
    key("ssl", Level::Access, Stage::Now),
    key("ssl.ca", Level::Access, Stage::Now),
    key("ssl.fingerprint", Level::Access, Stage::Now),
    key("ssl.certfile", Level::Access, Stage::Now),
    key("ssl.keyfile", Level::Access, Stage::Now),
    key("to", Level::Access, Stage::Now),
    key("connections", Level::Access, Stage::Now),
    key("check", Level::Access, Stage::Now),
    key("check.uri", Level::Access, Stage::Now),
    key("check.interval", Level::Access, Stage::Now),
    key("command", Level::Access, Stage::Now),
    key("signals", Level::Access, Stage::Now),
    key("timeouts", Level::Access, Stage::Now),
    key("timeouts.connect", Level::Access, Stage::Now),
    key("timeouts.first_byte", Level::Access, Stage::Now),
    key("timeouts.backend", Level::Access, Stage::Now),
    key("grace", Level::Access, Stage::Now),
    key("logger", Level::Access, Stage::Now),
    key("logger.type", Level::Access, Stage::Now),
    key("logger.file", Level::Access, Stage::Now),
    key("logger.level", Level::Access, Stage::Now),
    key("logger.log_level", Level::Access, Stage::Now),
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
            Level::Site,
            r#"unknown key "docrot"; did you mean "docroot"?"#,
        );
        check(
            "OutGoing",
            Level::Site,
            r#"unknown key "OutGoing"; did you mean "outgoing"?"#,
        );
        check(
            "maps",
            Level::Top,
            r#"unknown key "maps"; did you mean "map"?"#,
        );
        check("ouptut", Level::Site, r#"unknown key "ouptut""#);
        check("try_files", Level::Site, r#"unknown key "try_files""#);
        check("port", Level::Top, r#"unknown key "port""#);
        check("allowed", Level::Top, r#"unknown key "allowed""#);
        check(
            "outgiong_ssl",
            Level::Top,
            r#"unknown key "outgiong_ssl"; did you mean "outgoing_ssl"?"#,
        );
        check(
            "docroot",
            Level::Top,
            r#"unknown key "docroot" here; it belongs in a map entry"#,
        );
        check(
            "cluster_port",
            Level::Site,
            r#"unknown key "cluster_port" here; it belongs at the top level"#,
        );
        check(
            "limits.head",
            Level::Site,
            r#"limits: unknown key "head" here; it belongs at the top level"#,
        );
        check(
            "limits.bdy",
            Level::Site,
            r#"limits: unknown key "bdy"; did you mean "body"?"#,
        );
        check(
            "first_byte",
            Level::Top,
            r#"unknown key "first_byte" here; did you mean "timeouts.first_byte" at the top level or in a map entry?"#,
        );
        check(
            "docrot",
            Level::Top,
            r#"unknown key "docrot"; did you mean "docroot" in a map entry?"#,
        );
        check("", Level::Top, r#"unknown key """#);
    }

    #[test]
    fn distances() {
        let check =
            |one, other, expected| assert_eq!(distance(one, other), expected, "{one} {other}");
        check("", "abc", 3);
        check("abc", "abc", 0);
        check("abc", "acb", 1);
        check("abc", "abxc", 1);
        check("kitten", "sitting", 3);
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
