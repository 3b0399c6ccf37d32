//! Reads what a site changes in the fields of its responses (`response_headers`, `expires`, `cors`).

use std::time::Duration;

use super::auth;
use super::gzip::media_type;
use super::raw::{self, Map, Node};
use super::section::Section;
use super::types::{Cors, ExpiresRule, HeaderRule, SiteConfig};
use super::value::{self, ValueError};
use crate::http::head::check_field;
use crate::http::target::Host;

/// Adds the changes to a site.
pub(super) fn check(section: &Section, site: SiteConfig) -> SiteConfig {
    let expires = list(section, "expires", expires_rule);
    if !expires.is_empty() && site.docroot.is_none() {
        section.note("expires", ": has no effect without docroot");
    }
    SiteConfig {
        response_headers: list(section, "response_headers", header_rule),
        expires,
        cors: match raw::get(&section.map, "cors") {
            Some(node) if value::truth(node) == Ok(false) => None,
            _ => section.take("cors", cors),
        },
        ..site
    }
}

/// Reads a key that has one item, a list of them, or `false`.
fn list<T>(section: &Section, key: &str, read: fn(&Node) -> Result<T, ValueError>) -> Vec<T> {
    match raw::get(&section.map, key) {
        Some(node) if value::truth(node) == Ok(false) => Vec::new(),
        _ => section.take_many(key, read).unwrap_or_default(),
    }
}

fn header_rule(node: &Node) -> Result<HeaderRule, ValueError> {
    let Node::Map(map) = node else {
        let wrong = "write secure, or {set: {X-Frame-Options: DENY}, remove: Server}";
        return match value::text(node).as_deref() {
            Ok("secure") => Ok(HeaderRule {
                paths: vec!["/".into()],
                secure: true,
                set: Vec::new(),
                add: Vec::new(),
                remove: Vec::new(),
            }),
            _ => Err(wrong.into()),
        };
    };
    let pairs = |key: &str| match raw::get(map, key) {
        None => Ok(&[][..]),
        Some(Node::Map(map)) => Ok(map.as_slice()),
        Some(node) => Err(format!(
            "{key} {}: write {{Name: value}}",
            value::shown(node)
        )),
    };
    let mut set = Vec::new();
    for (name, node) in pairs("set")? {
        let value = field("set", name, node)?;
        set.push((name.clone(), value));
    }
    let mut add = Vec::new();
    for (name, node) in pairs("add")? {
        if is_one_of(name, &SINGLE) {
            return Err(format!(
                "add {name}: a response has one at most; write it under set"
            ));
        }
        let nodes = match node {
            Node::List(list) => list.as_slice(),
            node => std::slice::from_ref(node),
        };
        let values = nodes.iter().map(|node| field("add", name, node));
        add.push((name.clone(), values.collect::<Result<_, _>>()?));
    }
    if let Some((name, _)) = set
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("Vary"))
    {
        return Err(format!(
            "set {name}: caches need that of the response; write it under add"
        ));
    }
    let remove = texts(map, "remove", |node| {
        let name = value::text(node)?;
        changeable(&name, b"")?;
        match name.eq_ignore_ascii_case("Vary") {
            true => Err("caches need it; leave it".into()),
            false => Ok(name),
        }
    })?;
    Ok(HeaderRule {
        paths: auth::paths(map)?,
        secure: truth(map, "secure", false)?,
        set,
        add,
        remove,
    })
}

/// Reads a value of a field.
fn field(key: &str, name: &str, node: &Node) -> Result<String, ValueError> {
    let text = value::text(node);
    let value = text.and_then(|text| changeable(name, text.as_bytes()).map(|()| text));
    let value = value.and_then(|text| match () {
        () if name.eq_ignore_ascii_case("Strict-Transport-Security") => {
            Err("is for HTTPS only; write hsts: true".to_owned())
        }
        () if name.eq_ignore_ascii_case("X-Request-Id") => {
            Err("would not be that of the log; write request_id: response".to_owned())
        }
        () => Ok(text),
    });
    value.map_err(|wrong| format!("{key} {name}: {wrong}"))
}

/// Whether a site may change a field.
fn changeable(name: &str, value: &[u8]) -> Result<(), ValueError> {
    check_field(name, value).map_err(|wrong| format!("{wrong}; leave it out"))?;
    match is_one_of(name, &OF_BODY) {
        true => Err("it says how to read the body; leave it out".into()),
        false => Ok(()),
    }
}

fn is_one_of(name: &str, names: &[&str]) -> bool {
    names.iter().any(|known| name.eq_ignore_ascii_case(known))
}

fn expires_rule(node: &Node) -> Result<ExpiresRule, ValueError> {
    let wrong = "write a time, hashed, or {time: 30d, types: image/*}";
    let base = |time: u64, hashed| ExpiresRule {
        hashed,
        immutable: hashed,
        ..ExpiresRule::new(time)
    };
    let Node::Map(map) = node else {
        return match value::text(node).as_deref() {
            Ok("hashed") => Ok(base(YEAR, true)),
            _ => age(node)
                .map(|time| base(time, false))
                .map_err(|_| wrong.into()),
        };
    };
    let hashed = truth(map, "hashed", false)?;
    let time = raw::get(map, "time").map(|node| auth::within("time", node, age));
    let time = match time {
        Some(time) => time?,
        None if hashed => YEAR,
        None => return Err("no time; write {time: 30d, types: image/*}".into()),
    };
    Ok(ExpiresRule {
        paths: auth::paths(map)?,
        types: texts(map, "types", media_type)?,
        immutable: truth(map, "immutable", hashed)?,
        ..base(time, hashed)
    })
}

fn cors(node: &Node) -> Result<Cors, ValueError> {
    let empty = Map::new();
    let map = match node {
        Node::Map(map) => map,
        _ => &empty,
    };
    let origins = match node {
        Node::Map(map) => {
            raw::get(map, "origins").ok_or("no origins; write {origins: https://example.com}")?
        }
        node => node,
    };
    let origins = match origins {
        Node::List(list) => list.as_slice(),
        node => std::slice::from_ref(node),
    };
    let one = |item: &Node| match node {
        Node::Map(_) | Node::List(_) => auth::within("origins", item, origin),
        node => origin(node),
    };
    let any = origins.iter().any(|node| *node == Node::Text("*".into()));
    let origins = match any {
        true => Vec::new(),
        false => origins.iter().map(one).collect::<Result<Vec<_>, _>>()?,
    };
    if !any && origins.is_empty() {
        return Err("no origins; write {origins: https://example.com}".into());
    }
    let credentials = truth(map, "credentials", false)?;
    if any && credentials {
        return Err(
            "credentials with origins \"*\", which browsers refuse; list the origins".into(),
        );
    }
    let token = |node: &Node| {
        let name = value::text(node)?;
        match check_field(&name, b"") {
            Ok(()) => Ok(name),
            Err(_) => Err("not a name; write for example X-Token".into()),
        }
    };
    let methods = texts(map, "methods", token)?;
    let max_age = raw::get(map, "max_age").map(|node| auth::within("max_age", node, age));
    Ok(Cors {
        origins,
        paths: auth::paths(map)?,
        methods: match methods.is_empty() {
            true => Cors::METHODS.map(str::to_owned).to_vec(),
            false => methods,
        },
        headers: texts(map, "headers", token)?,
        expose: texts(map, "expose", token)?,
        credentials,
        max_age: max_age.unwrap_or(Ok(Cors::MAX_AGE))?,
    })
}

/// Parses an origin (RFC 6454): a scheme and a host, perhaps with a port.
fn origin(node: &Node) -> Result<String, ValueError> {
    let wrong = || "not an origin; write https://example.com, or *".to_owned();
    let text = value::text(node).map_err(|_| wrong())?;
    let host = text.split_once("://").map(|(scheme, host)| {
        let fine = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
        fine && Host::parse(host.as_bytes()).is_some() && !host.contains('*')
    });
    match host {
        Some(true) => Ok(text.to_ascii_lowercase()),
        _ => Err(wrong()),
    }
}

/// Reads a key that has one text or a list of them.
fn texts(
    map: &Map,
    key: &str,
    read: impl Fn(&Node) -> Result<String, ValueError>,
) -> Result<Vec<String>, ValueError> {
    let nodes = match raw::get(map, key) {
        None => &[],
        Some(Node::List(list)) => list.as_slice(),
        Some(node) => std::slice::from_ref(node),
    };
    nodes
        .iter()
        .map(|node| auth::within(key, node, &read))
        .collect()
}

fn truth(map: &Map, key: &str, default: bool) -> Result<bool, ValueError> {
    raw::get(map, key).map_or(Ok(default), |node| auth::within(key, node, value::truth))
}

/// Parses a time, also in days; the result is in seconds.
fn age(node: &Node) -> Result<u64, ValueError> {
    let text = value::text(node).unwrap_or_default();
    let days = text.strip_suffix('d').and_then(value::digits);
    match days {
        Some(days) if Duration::from_secs(days.saturating_mul(DAY)) > value::LONGEST => {
            Err("longer than a year".into())
        }
        Some(days) => Ok(days * DAY),
        None => value::time(node).map(|time| time.as_secs()),
    }
}

/// In seconds.
const DAY: u64 = 24 * 60 * 60;
const YEAR: u64 = 365 * DAY;

/// Fields that follow from the body as it is sent.
const OF_BODY: [&str; 3] = ["Content-Encoding", "Content-Range", "Date"];

/// Fields of which a response has one at most, whose value is not a list.
const SINGLE: [&str; 22] = [
    "Access-Control-Allow-Credentials",
    "Access-Control-Allow-Origin",
    "Access-Control-Max-Age",
    "Age",
    "Clear-Site-Data",
    "Content-Disposition",
    "Content-Location",
    "Content-Type",
    "Cross-Origin-Embedder-Policy",
    "Cross-Origin-Opener-Policy",
    "Cross-Origin-Resource-Policy",
    "ETag",
    "Expires",
    "Last-Modified",
    "Location",
    "Origin-Agent-Cluster",
    "Referrer-Policy",
    "Retry-After",
    "Server",
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
];
