//! Checks the top level of the file.

use std::collections::HashSet;
use std::path::Path;

use super::acme;
use super::address;
use super::clients;
use super::defaults::{LEAST_MEMORY, MOST_WORKERS};
use super::include;
use super::inspection::Inspection;
use super::keys::{self, KeyLevel};
use super::listen::{listen, outgoing_ssl, ssl};
use super::overrides::Overrides;
use super::problem::{COMMAND_LINE, Findings, Location, Note, Problems};
use super::proxy_protocol;
use super::rate;
use super::raw::{self, Map, Node};
use super::references;
use super::section::Section;
use super::site::TopLevel;
use super::sites::sites;
use super::status;
use super::types::{Config, Scheduling, SiteConfig, StatusConfig};
use super::value;

/// Checks the text of a file.
pub(super) fn text(
    text: &str,
    file: &Path,
    overrides: &Overrides,
    inspection: Option<&Inspection>,
) -> Result<(Config, Vec<Note>), Problems> {
    let text = value::without_mark(text);
    let mut root =
        raw::parse(text).map_err(|fault| Problems::one(file, fault.line, fault.message))?;
    let directory = overrides.directory.as_deref();
    let mut references = Vec::new();
    let faults = references::resolve(&mut root, directory, &mut references);
    let mut map = match root {
        Node::Map(map) => map,
        root => {
            let message = match root {
                Node::Null => "empty; write at least cluster_port and map",
                _ => "not a configuration; write keys and values, cluster_port: 80",
            };
            return Err(Problems::one(file, None, message));
        }
    };
    let included = include::include(&mut map, file, directory, &mut references);
    let root = Node::Map(map);
    let findings = Findings::new(file, text, &root, inspection).with(included.files, references);
    for (place, message) in included.problems {
        findings.problem(place, message);
    }
    for (steps, message) in faults {
        findings.problem(Location::File(steps, String::new()), message);
    }
    let Node::Map(map) = &root else {
        unreachable!("made above")
    };
    keys::check(&findings, KeyLevel::Top, map, &(Vec::new(), String::new()));
    let config = Config {
        references: findings.references.clone(),
        ..config(map, &findings, overrides)
    };
    Ok((config, findings.finish()?))
}

/// Reads `status`. Problems elsewhere matter only if there is none.
pub(super) fn status(
    text: &str,
    file: &Path,
    overrides: &Overrides,
) -> Result<Option<StatusConfig>, Problems> {
    let text = value::without_mark(text);
    let mut root =
        raw::parse(text).map_err(|fault| Problems::one(file, fault.line, fault.message))?;
    let Node::Map(map) = &mut root else {
        return Ok(None);
    };
    let mut references = Vec::new();
    let directory = overrides.directory.as_deref();
    // Others may be for the server only.
    let of_status = map.iter_mut().find(|(key, _)| key == "status");
    let faults = of_status.map(|(_, node)| references::resolve(node, directory, &mut references));
    if let Some((_, message)) = faults.into_iter().flatten().next() {
        return Err(Problems::one(file, None, format!("status: {message}")));
    }
    let Node::Map(map) = &root else {
        return Ok(None);
    };
    let findings = Findings::new(file, text, &root, None).with(Vec::new(), references);
    match config(map, &findings, overrides).status {
        Some(status) => Ok(Some(status)),
        None => findings.finish().map(|_| None),
    }
}

/// Checks the command line alone.
pub(super) fn overrides(
    overrides: &Overrides,
    inspection: Option<&Inspection>,
) -> Result<(Config, Vec<Note>), Problems> {
    let mut map = Map::new();
    if let Some(site) = &overrides.site {
        let port = site.port().to_string();
        map.push(("cluster_port".into(), Node::Number(port)));
        map.push(("map".into(), Node::List(vec![site.entry()])));
    }
    let root = Node::Map(map.clone());
    let findings = Findings::new(Path::new(COMMAND_LINE), "", &root, inspection);
    let config = config(&map, &findings, overrides);
    Ok((config, findings.finish()?))
}

/// Reads the configuration; uses defaults where something is wrong.
fn config(map: &Map, findings: &Findings, overrides: &Overrides) -> Config {
    let directory = overrides.directory.as_deref();
    let top = Section::top(map, findings, directory);
    let base = Config::default();
    let limits = top.server_limits();
    let timeouts = top.server_timeouts();
    let pidfile = top.take("pidfile", |node| {
        top.to_be_written(value::path(directory)(node)?)
    });
    let pidfile_typed = overrides.pidfile.as_ref();
    if let Some(path) = pidfile_typed
        && let Err(wrong) = top.to_be_written(value::absolute(directory, path))
    {
        let message = format!("pidfile {:?}: {wrong}", path.display());
        top.findings.problem(Location::CommandLine, message);
    }
    let daemonize = top.take("daemonize", value::truth);
    let health = top.take("health_check_uri", |node| match value::truth(node) {
        Ok(false) => Ok(None),
        _ => value::url_path(node).map(Some),
    });
    let descriptors = value::count(64..=1 << 30);
    let mut listen = listen(&top, overrides);
    let (secure, ssl) = ssl(&top, &mut listen);
    let outgoing_ssl = outgoing_ssl(&top);
    let proxy_protocol = proxy_protocol::proxy_protocol(&top, &listen);
    let (allow, deny) = clients::allow_and_deny(&top);
    let config = Config {
        listen,
        ssl,
        secure,
        acme: acme::acme(&top),
        state_directory: top
            .take("state_directory", value::path(directory))
            .unwrap_or(base.state_directory),
        outgoing_ssl: outgoing_ssl.iter().map(|(_, tls)| tls.clone()).collect(),
        status: None,
        daemonize: overrides.daemonize.or(daemonize).unwrap_or(false),
        pidfile: pidfile_typed
            .map(|path| value::absolute(directory, path))
            .or(pidfile),
        user: top.take("user", value::user),
        group: top.take("group", value::group),
        logger: top.logger().unwrap_or(base.logger),
        access_log: top.access_log(None),
        health_check_uri: health.unwrap_or(base.health_check_uri),
        workers: top.count("workers", 1..=MOST_WORKERS as u64, base.workers),
        scheduling: top
            .take("scheduling", scheduling)
            .unwrap_or(base.scheduling),
        grace: top.take("grace", value::time).unwrap_or(base.grace),
        upgrade_grace: top
            .take("upgrade_grace", value::time)
            .unwrap_or(base.upgrade_grace),
        upgrade_timeout: top
            .take("upgrade_timeout", value::deadline)
            .unwrap_or(base.upgrade_timeout),
        // The first key takes precedence, as in the original.
        descriptors: top
            .take("epoll_descriptors", &descriptors)
            .or(top.take("descriptors", &descriptors)),
        limits,
        memory: top
            .section("limits")
            .bytes("memory", LEAST_MEMORY..=1 << 50, base.memory),
        timeouts,
        trusted_proxies: top
            .take_many("trusted_proxies", address::proxies)
            .map(|networks| networks.concat())
            .unwrap_or_default(),
        proxy_protocol,
        allow,
        deny,
        rate_limit: rate::rate_limit(&top),
        client_address_field: top
            .take("client_address_field", value::client_address_field)
            .unwrap_or(base.client_address_field),
        temporary_directory: top
            .take("temporary_directory", value::folder(directory))
            .unwrap_or(base.temporary_directory),
        cache_threshold: top.bytes("cache_threshold", 0..=16 << 20, base.cache_threshold),
        sites: Vec::new(),
        references: Vec::new(),
    };
    let config = Config {
        status: status::status(&top, &config),
        ..config
    };
    let timeout = top.take("timeout", value::time);
    let commanded = overrides.timeout.map(|timeout| timeout.min(value::LONGEST));
    let server = TopLevel {
        config: &config,
        timeout: commanded
            .or(timeout)
            .unwrap_or(SiteConfig::default().timeout),
    };
    let usual = Config::default().client_address_field;
    if config.client_address_field != usual && config.trusted_proxies.is_empty() {
        top.note(
            "client_address_field",
            ": has no effect without trusted_proxies",
        );
    }
    let sites = sites(&top, &server, overrides);
    let outgoing = sites.iter().flat_map(|site| &site.outgoing);
    let outgoing: HashSet<_> = outgoing.map(|outgoing| &outgoing.to).collect();
    for (item, tls) in outgoing_ssl {
        if !outgoing.contains(&tls.at) {
            let message = format!(
                "outgoing_ssl.at {}: no site has this outgoing address",
                tls.at
            );
            top.findings
                .problem(top.place("outgoing_ssl", item), message);
        }
    }
    let config = Config { sites, ..config };
    status::check_outgoing(&top, &config);
    acme::check_ask(&top, &config);
    config
}

fn scheduling(node: &Node) -> Result<Scheduling, value::ValueError> {
    match value::text(node).as_deref() {
        Ok("batch") => Ok(Scheduling::Batch),
        Ok("normal") => Ok(Scheduling::Normal),
        _ => Err("write batch or normal".into()),
    }
}
