//! Reads `routes`: parts of a site, by path, that have backends of their own.
//!
//! A route becomes a site without host names, `example.com/api`, behind all sites of the file. So its backends are
//! found, listed, paused and drained like those of other sites. What it does not have of its own is the site's.

use super::fastcgi;
use super::keys::{self, KeyLevel, ROUTES as KEY};
use super::raw::{self, Map, Node, PathStep};
use super::section::Section;
use super::site::{self, TopLevel};
use super::types::{Config, RouteConfig, SiteConfig};
use super::value::{self, ValueError};

/// Reads the routes of a site, each with the section in which it is.
pub(super) fn routes<'a>(
    section: &Section<'a>,
    site: &SiteConfig,
    server: &TopLevel,
) -> Vec<(Section<'a>, SiteConfig)> {
    let items = section.many(KEY).unwrap_or_default();
    if items.is_empty() {
        return Vec::new();
    }
    // What a route does not have is the site's.
    let own = Config {
        timeouts: site.timeouts.clone(),
        limits: site.limits.clone(),
        sites: Vec::new(),
        ..server.config.clone()
    };
    let parent = TopLevel {
        config: &own,
        timeout: site.timeout,
    };
    let mut routes: Vec<(Section, SiteConfig)> = Vec::new();
    for (item, node) in items {
        let Node::Map(map) = node else {
            section.wrong(
                KEY,
                item,
                node,
                "write {match: /api, outgoing: 127.0.0.1:30001}",
            );
            continue;
        };
        let inner = inner(section, item, map);
        check_keys(&inner);
        let prefix = inner.take("match", prefix);
        if raw::get(map, "match").is_none() {
            inner.problem("no match; write the path of the route, match: /api");
        }
        let rewrite = rewrite(&inner);
        let route = one(section, &inner, site, &parent);
        let Some(prefix) = prefix else { continue };
        let known = routes.iter().find(|(_, known)| {
            let known = known.route.as_ref();
            known.is_some_and(|known| known.prefix == prefix)
        });
        if let Some((first, _)) = known {
            let reference = inner.findings.reference(&first.place("match", None));
            let wrong = format!("another route has this path{reference}; leave one out");
            inner.wrong("match", None, &Node::Text(prefix), &wrong);
            continue;
        }
        let route = SiteConfig {
            name: format!("{}{prefix}", site.name),
            route: Some(RouteConfig {
                site: site.name.clone(),
                prefix,
                rewrite,
            }),
            ..route
        };
        routes.push((inner, route));
    }
    routes
}

/// The section of a route. Its keys are checked as those of a site are, so they have no prefix.
fn inner<'a>(section: &Section<'a>, item: Option<usize>, map: &Map) -> Section<'a> {
    let with = |steps: &[PathStep]| {
        let mut steps = steps.to_vec();
        steps.push(PathStep::Key(KEY.into()));
        steps.extend(item.map(PathStep::Item));
        steps
    };
    let steps = with(&section.steps);
    let inherited = section.inherited.as_deref().map(with);
    // All routes may be those of `defaults`.
    let steps = match inherited {
        Some(inherited) if !section.findings.has(&steps) => inherited,
        _ => steps,
    };
    let number = item.map_or(1, |item| item + 1);
    let label = match section.label.as_str() {
        "" => format!("{KEY}[{number}]"),
        label => format!("{label} {KEY}[{number}]"),
    };
    Section {
        map: map.clone(),
        steps,
        inherited: None,
        label,
        prefix: String::new(),
        findings: section.findings,
        directory: section.directory,
    }
}

/// Reports the keys that a route cannot have, and those that are no keys.
fn check_keys(section: &Section) {
    let (own, others): (Map, Map) = section
        .map
        .iter()
        .filter(|(name, _)| !ROUTE.contains(&name.as_str()))
        .cloned()
        .partition(|(name, _)| SHARED.contains(&name.as_str()) || name.starts_with("x-"));
    for (name, _) in &others {
        if !keys::is_of_site(name) {
            let place = section.place(name, None);
            let message = keys::unknown_in_route(name, &[&ROUTE[..], &SHARED[..]].concat());
            section.findings.problem(place, message);
            continue;
        }
        let wrong = match name.as_str() {
            KEY => "a route has no routes; write a longer match in the site's list",
            "incoming" | "default" => "the names are those of the site; leave it out",
            _ => NOT_HERE,
        };
        section.problem_of(name, wrong);
    }
    for (key, allowed) in [("timeouts", TIMEOUTS), ("limits", LIMITS)] {
        let Some(Node::Map(map)) = raw::get(&section.map, key) else {
            continue;
        };
        let inner = section.section(key);
        for (name, _) in map {
            if !allowed.contains(&name.as_str()) && keys::is_of_site(&format!("{key}.{name}")) {
                inner.problem_of(name, NOT_HERE);
            }
        }
    }
    let place = (section.steps.clone(), section.label.clone());
    keys::check(section.findings, KeyLevel::Site, &own, &place);
}

/// Reads where the requests of a route go. `of_site`: the section of its site.
fn one(of_site: &Section, section: &Section, site: &SiteConfig, parent: &TopLevel) -> SiteConfig {
    let mut map = section.map.clone();
    map.retain(|(name, _)| SHARED.contains(&name.as_str()));
    let has_order = raw::get(&map, "order").is_some();
    inherit(of_site, &mut map);
    let section = section.with(map);
    for key in ["outgoing", "servers"] {
        let mut items = section.many(key).unwrap_or_default().into_iter();
        if let Some((item, node)) = items.find(|(_, node)| fastcgi::is_named(node)) {
            section.wrong(key, item, node, NO_SCRIPTS);
            return SiteConfig::default();
        }
    }
    if let Some(node) = raw::get(&section.map, "directory")
        && value::text(node).as_deref() == Ok("redis")
    {
        section.wrong("directory", None, node, NO_DIRECTORY);
        return SiteConfig::default();
    }
    let route = site::values(&section, parent);
    if route.directory.is_none() {
        site::check_dial_in(&section);
    }
    SiteConfig {
        order: match has_order {
            true => route.order,
            false => site.order,
        },
        unframed_gap: site.unframed_gap,
        logger: site.logger.clone(),
        access_log: site.access_log.clone(),
        ..route
    }
}

/// Adds what a site says of servers to the values of a route, if the route has no value of its own. The site itself need
/// not have servers. Values that are wrong are reported for the site.
fn inherit(of_site: &Section, map: &mut Map) {
    let is_right = |key: &str, node: &Node| match key {
        "server_connections" => site::server_connections(node).is_ok(),
        _ => value::deadline(node).is_ok(),
    };
    for key in ["server_connections", "lookup_interval"] {
        if raw::get(map, key).is_none()
            && let Some(node) = raw::get(&of_site.map, key)
            && is_right(key, node)
        {
            map.push((key.into(), node.clone()));
        }
    }
}

/// Reads `match`: a path, without the slash at its end.
fn prefix(node: &Node) -> Result<String, ValueError> {
    let path = value::prefix(node)?;
    let mut parts = path.split('/').skip(1).peekable();
    let path = path.strip_suffix('/').unwrap_or(&path);
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        if matches!(part, "." | "..") || part.is_empty() && !is_last {
            return Err("write a path without //, . and ..".into());
        }
    }
    if path.contains(|c: char| c.is_control() || c.is_whitespace() || "?#%*".contains(c)) {
        return Err("write a decoded path, without spaces, ?, #, % and *".into());
    }
    Ok(match path {
        "" => "/".into(),
        path => path.into(),
    })
}

/// Reads `strip` and `rewrite`: what takes the place of the prefix.
fn rewrite(section: &Section) -> Option<String> {
    let strip = section.take("strip", value::truth);
    let rewrite = section.take("rewrite", |node| {
        let path = prefix(node)?;
        match path.is_ascii() {
            true => Ok(path),
            false => Err("write ASCII characters only".into()),
        }
    });
    match (strip, rewrite) {
        (Some(true), Some(_)) => {
            section.problem("strip and rewrite; write one of them");
            None
        }
        (Some(true), None) => Some("/".into()),
        (_, rewrite) => rewrite,
    }
}

/// What is wrong with FastCGI servers.
const NO_SCRIPTS: &str = "FastCGI servers run the scripts of a whole site; write them in the site";

/// What is wrong with servers that are found through Redis: they are registered by the host names of a site.
const NO_DIRECTORY: &str =
    "its servers are those of host names; write the addresses, servers: 127.0.0.1:3000";

/// What is wrong with other keys of a site.
const NOT_HERE: &str = "a route cannot have it; write it in the site";

/// The keys that only routes have.
const ROUTE: [&str; 3] = ["match", "strip", "rewrite"];

/// The keys of sites that routes can have.
const SHARED: [&str; 15] = [
    "outgoing",
    "key",
    "key_file",
    "proxy",
    "directory",
    "servers",
    "server_connections",
    "lookup_interval",
    "send_proxy",
    "server_tls",
    "check",
    "order",
    "timeout",
    "timeouts",
    "limits",
];

/// What a route can have of `timeouts` and of `limits`.
const TIMEOUTS: &[&str] = &["first_byte", "backend", "connect"];
const LIMITS: &[&str] = &["waiting"];
