//! From what was typed to what is meant: the top level.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::keys::{self, KeyLevel};
use super::problem::{COMMAND_LINE, Findings, Location, Note, Problems};
use super::raw::{self, Map, Node, PathStep};
use super::section::Section;
use super::site::{self, TopLevel};
use super::value::{self, ClusterAddress};
use super::{
    Address, Config, Inspection, LEAST_MEMORY, MOST_WORKERS, Overrides, Scheduling, SiteConfig, Tls,
};
use crate::process;

/// Checks the text of a file.
pub(super) fn text(
    text: &str,
    file: &Path,
    overrides: &Overrides,
    inspection: Option<&Inspection>,
) -> Result<(Config, Vec<Note>), Problems> {
    let text = value::without_mark(text);
    let root = raw::parse(text).map_err(|fault| Problems::one(file, fault.line, fault.message))?;
    let Node::Map(map) = &root else {
        let message = match root {
            Node::Null => "empty; write at least cluster_port and map",
            _ => "not a configuration; write keys and values, cluster_port: 80",
        };
        return Err(Problems::one(file, None, message));
    };
    let findings = Findings::new(file, text, &root, inspection);
    keys::check(&findings, KeyLevel::Top, map, &(Vec::new(), String::new()));
    let config = config(map, &findings, overrides);
    Ok((config, findings.finish()?))
}

/// Checks the command line alone.
pub(super) fn overrides(
    overrides: &Overrides,
    inspection: Option<&Inspection>,
) -> Result<(Config, Vec<Note>), Problems> {
    let root = Node::Map(Map::new());
    let findings = Findings::new(Path::new(COMMAND_LINE), "", &root, inspection);
    let config = config(&Map::new(), &findings, overrides);
    Ok((config, findings.finish()?))
}

/// The configuration, with defaults where something is wrong.
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
    let ssl = ssl(&top, &mut listen);
    let outgoing_ssl = outgoing_ssl(&top);
    let config = Config {
        listen,
        ssl,
        outgoing_ssl: outgoing_ssl.iter().map(|(_, tls)| tls.clone()).collect(),
        daemonize: overrides.daemonize.or(daemonize).unwrap_or(false),
        pidfile: pidfile_typed
            .map(|path| value::absolute(directory, path))
            .or(pidfile),
        user: top.take("user", user),
        group: top.take("group", group),
        logger: top.logger().unwrap_or(base.logger),
        access_log: top.access_log(None),
        health_check_uri: health.unwrap_or(base.health_check_uri),
        workers: top.count("workers", 1..=MOST_WORKERS as u64, base.workers),
        scheduling: top
            .take("scheduling", scheduling)
            .unwrap_or(base.scheduling),
        grace: top.take("grace", value::time).unwrap_or(base.grace),
        // The first one wins, as in the original.
        descriptors: top
            .take("epoll_descriptors", &descriptors)
            .or(top.take("descriptors", &descriptors)),
        limits,
        memory: top
            .section("limits")
            .bytes("memory", LEAST_MEMORY..=1 << 50, base.memory),
        timeouts,
        trusted_proxies: top
            .take_many("trusted_proxies", value::network)
            .unwrap_or_default(),
        client_address_field: top
            .take("client_address_field", value::client_address_field)
            .unwrap_or(base.client_address_field),
        temporary_directory: top
            .take("temporary_directory", value::folder(directory))
            .unwrap_or(base.temporary_directory),
        cache_threshold: top.bytes("cache_threshold", 0..=16 << 20, base.cache_threshold),
        sites: Vec::new(),
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
    Config { sites, ..config }
}

/// The name or number of a user that exists.
pub(super) fn user(node: &Node) -> Result<String, value::ValueError> {
    let name = value::text(node)?;
    let known = process::look_up(Some(&name), None);
    known.map(|_| name).map_err(|_| "no such user".into())
}

/// The name or number of a group that exists.
pub(super) fn group(node: &Node) -> Result<String, value::ValueError> {
    let name = value::text(node)?;
    let known = process::look_up(None, Some(&name));
    known.map(|_| name).map_err(|_| "no such group".into())
}

fn scheduling(node: &Node) -> Result<Scheduling, value::ValueError> {
    match value::text(node).as_deref() {
        Ok("batch") => Ok(Scheduling::Batch),
        Ok("normal") => Ok(Scheduling::Normal),
        _ => Err("write batch or normal".into()),
    }
}

/// Every `cluster_address` with every `cluster_port`.
fn listen(top: &Section, overrides: &Overrides) -> Vec<Address> {
    let front = |node: &Node| match value::front(top.directory, &value::text(node)?)? {
        ClusterAddress::Unix(path) => top.to_be_written(path).map(ClusterAddress::Unix),
        front => Ok(front),
    };
    let typed = top.take_many("cluster_address", front);
    let fronts = match &overrides.cluster_address {
        None => typed.unwrap_or(vec![ClusterAddress::Any]),
        Some(text) => match value::front(top.directory, text) {
            Ok(front) => vec![front],
            Err(wrong) => {
                let shown = value::shown(&Node::Text(text.clone()));
                top.findings.problem(
                    Location::CommandLine,
                    format!("cluster address {shown}: {wrong}"),
                );
                return Vec::new();
            }
        },
    };
    let typed = top.take_many("cluster_port", value::port);
    let ports = overrides.cluster_port.map(|port| vec![port]).or(typed);
    let only_sockets = !fronts.is_empty()
        && fronts
            .iter()
            .all(|front| matches!(front, ClusterAddress::Unix(_)));
    let only_tls = ports.is_none() && raw::get(&top.map, "ssl").is_some();
    if !only_sockets
        && !only_tls
        && ports
            .as_ref()
            .is_none_or(|ports| ports.is_empty() && nothing(top, "cluster_port"))
    {
        top.problem("cluster_port: missing; write cluster_port: 80");
    }
    if fronts.is_empty() && nothing(top, "cluster_address") {
        top.problem("cluster_address: an empty list; leave it out for all addresses");
    }
    let mut listen: Vec<Address> = Vec::new();
    for front in fronts {
        let ports = ports.as_deref().unwrap_or_default();
        let addresses: Vec<Address> = match front {
            ClusterAddress::Unix(path) => vec![Address::Unix(path)],
            ClusterAddress::Host(host) => {
                ports.iter().map(|port| tcp(&host, *port, false)).collect()
            }
            ClusterAddress::Any => {
                let both = |port: &u16| [tcp("0.0.0.0", *port, false), tcp("::", *port, true)];
                ports.iter().flat_map(both).collect()
            }
        };
        for address in addresses {
            add(&mut listen, address);
        }
    }
    listen
}

/// `ssl`: one `{at, certfile, keyfile}` or a list of them. An address that is not among those for visitors yet is added.
fn ssl(top: &Section, listen: &mut Vec<Address>) -> Vec<Tls> {
    let mut result: Vec<Tls> = Vec::new();
    let mut taken = HashSet::new();
    for (item, node) in top.many("ssl").unwrap_or_default() {
        let read = |node: &Node| certificate(top, node);
        let Some((ats, certfile, keyfile)) = top.read("ssl", item, node, read) else {
            continue;
        };
        inspect(top, "ssl", item, node, (&certfile, &keyfile, None));
        for at in ats {
            let known = listen.iter().find(|address| same_address(address, &at));
            let at = known.cloned().unwrap_or(at);
            let known = known.is_some();
            let other = |address: &&Address| value::conflict(address, &at);
            if !known && let Some(address) = listen.iter().find(other) {
                let message =
                    format!("{at} would get the visitors of {address}; write at: {address}");
                top.wrong("ssl", item, node, &message);
            } else if !known {
                listen.push(at.clone());
            }
            // All addresses are meant where none was written.
            let implied = match &at {
                Address::Tcp { host, port, .. } if host == "0.0.0.0" => listen
                    .iter()
                    .find(|address| **address == tcp("::", *port, true)),
                _ => None,
            };
            for at in [&at].into_iter().chain(implied) {
                let tls = Tls {
                    at: at.clone(),
                    certfile: certfile.clone(),
                    keyfile: keyfile.clone(),
                    client_ca: None,
                };
                if taken.insert(tls.clone()) {
                    result.push(tls);
                }
            }
        }
    }
    result
}

/// `outgoing_ssl`: one `{at, certfile, keyfile, client_ca}` or a list of them, each with its place in it.
fn outgoing_ssl(top: &Section) -> Vec<(Option<usize>, Tls)> {
    let mut result: Vec<(Option<usize>, Tls)> = Vec::new();
    for (item, node) in top.many("outgoing_ssl").unwrap_or_default() {
        let read = |node: &Node| {
            let (ats, certfile, keyfile) = certificate(top, node)?;
            let client_ca = match node {
                Node::Map(map) => raw::get(map, "client_ca"),
                _ => None,
            };
            let client_ca = client_ca
                .map(value::path(top.directory))
                .transpose()
                .map_err(|wrong| format!("client_ca: {wrong}"))?;
            let [at] = ats.as_slice() else {
                return Err("at: write the outgoing address of a site, at: 0.0.0.0:30000".into());
            };
            Ok(Tls {
                at: at.clone(),
                certfile,
                keyfile,
                client_ca,
            })
        };
        let Some(tls) = top.read("outgoing_ssl", item, node, read) else {
            continue;
        };
        let files = (&*tls.certfile, &*tls.keyfile, tls.client_ca.as_deref());
        inspect(top, "outgoing_ssl", item, node, files);
        let differs = |(_, known): &(Option<usize>, Tls)| {
            known.at == tls.at && known.client_ca != tls.client_ca
        };
        if result.iter().any(differs) {
            let wrong = "another client_ca than the entry above has for this address";
            top.wrong("outgoing_ssl", item, node, wrong);
        }
        result.push((item, tls));
    }
    result
}

/// One entry of `ssl` or `outgoing_ssl`.
fn certificate(
    top: &Section,
    node: &Node,
) -> Result<(Vec<Address>, PathBuf, PathBuf), value::ValueError> {
    let Node::Map(map) = node else {
        return Err("write {at: 0.0.0.0:443, certfile: cert.pem, keyfile: key.pem}".into());
    };
    let file = |key: &str| {
        raw::get(map, key)
            .map(|node| value::path(top.directory)(node).map_err(|wrong| format!("{key}: {wrong}")))
            .transpose()
    };
    let at = raw::get(map, "at").ok_or("no at; write the address and port, at: 0.0.0.0:443")?;
    let text = value::text(at).map_err(|wrong| format!("at: {wrong}"))?;
    let any = text.strip_prefix("*:");
    let literal = any.map_or(text.clone(), |port| format!("0.0.0.0:{port}"));
    let at = value::address(top.directory, &literal).map_err(|wrong| format!("at: {wrong}"))?;
    let ats = match (any, &at) {
        (Some(_), Address::Tcp { port, .. }) => vec![at.clone(), tcp("::", *port, true)],
        _ => vec![at],
    };
    let certfile = file("certfile")?
        .ok_or("no certfile; write the file of the certificate, certfile: cert.pem")?;
    let keyfile = file("keyfile")?.unwrap_or_else(|| certfile.clone());
    Ok((ats, certfile, keyfile))
}

/// Looks into the files of an entry of `ssl` or `outgoing_ssl` before a start: certificate, key, authorities.
fn inspect(
    top: &Section,
    key: &str,
    item: Option<usize>,
    node: &Node,
    (certfile, keyfile, client_ca): (&Path, &Path, Option<&Path>),
) {
    let (Some(inspection), Node::Map(map)) = (top.findings.inspection, node) else {
        return;
    };
    let report = |inner: &str, why: &str| {
        let shown = raw::get(map, inner).map(value::shown).unwrap_or_default();
        let place = top.place_within(key, item, inner);
        let message = format!("{key}.{inner} {shown}: {why}");
        top.findings.problem(place, message);
    };
    if let Err((file, why)) = (inspection.certificate)(certfile, keyfile) {
        let is_key = file == keyfile && raw::get(map, "keyfile").is_some();
        report(if is_key { "keyfile" } else { "certfile" }, &why);
    }
    // The key was not looked at if the certificate is not there.
    if keyfile != certfile
        && !certfile.is_file()
        && let Err(why) = value::read_file(keyfile, KEY_BYTES)
    {
        report("keyfile", &why);
    }
    if let Some(file) = client_ca
        && let Err(why) = (inspection.authorities)(file)
    {
        report("client_ca", &why);
    }
}

/// Whether two addresses are the same one, written or implied.
fn same_address(one: &Address, other: &Address) -> bool {
    match (one, other) {
        (
            Address::Tcp { host, port, .. },
            Address::Tcp {
                host: other,
                port: typed,
                ..
            },
        ) => host == other && port == typed,
        _ => one == other,
    }
}

/// Whether a list is empty as typed, rather than because of what is wrong with its values.
fn nothing(top: &Section, key: &str) -> bool {
    top.many(key).is_none_or(|values| values.is_empty())
}

fn tcp(host: &str, port: u16, implied: bool) -> Address {
    Address::Tcp {
        host: host.into(),
        port,
        implied,
    }
}

/// Adds an address unless it is there. One that is written beats one that is implied; port 0 is another one
/// each time it is written, yet for one host once is enough.
fn add(listen: &mut Vec<Address>, address: Address) {
    let same = |known: &&mut Address| same_address(known, &address);
    match (listen.iter_mut().find(same), &address) {
        (None, _) => listen.push(address),
        (Some(known), Address::Tcp { implied: false, .. }) => *known = address,
        _ => {}
    }
}

/// The entries of `map`, and the site of the command line.
fn sites(top: &Section, server: &TopLevel, overrides: &Overrides) -> Vec<SiteConfig> {
    let defaults = top.section("defaults");
    let root = [PathStep::Key("defaults".into())];
    keys::check(
        top.findings,
        KeyLevel::Site,
        &defaults.map,
        &(root.to_vec(), "defaults".into()),
    );
    let catch_all = catch_all(top, overrides);
    let entries: &[Node] = match raw::get(&top.map, "map") {
        Some(Node::List(list)) => list,
        Some(node) => {
            top.wrong(
                "map",
                None,
                node,
                "not a list; write - in front of each entry",
            );
            &[]
        }
        None => {
            if catch_all == SingleBackend::None {
                top.problem("map: missing; write map: and a list of sites, - {incoming: example.com, outgoing: 127.0.0.1:30000}");
            }
            &[]
        }
    };
    let mut sites = Vec::with_capacity(entries.len() + 1);
    let mut names = TakenNames::default();
    let mut sections = Vec::new();
    for (index, node) in entries.iter().enumerate() {
        let section = entry(top, &defaults.map, index, node);
        let Some(section) = section else { continue };
        let site = site::check(&section, server);
        names.check(&section, &site);
        sites.push(site);
        sections.push(section);
    }
    backups(&sections, &mut sites);
    shared_addresses(&sections, &sites);
    if entries.is_empty() {
        // Nothing reads them otherwise, and what is wrong with them shall not wait for the first entry.
        site::values(&defaulted(top, &defaults.map, Map::new()), server);
    }
    if let SingleBackend::To(address) = catch_all {
        let own = vec![
            ("default".into(), Node::Bool(true)),
            ("outgoing".into(), Node::Text(address)),
        ];
        let mut section = defaulted(top, &defaults.map, own);
        section.map.retain(|(key, _)| key != "incoming");
        let place = match overrides.backend_port {
            Some(_) => Location::CommandLine,
            None => top.place("backend_port", None),
        };
        names.check_default("backend_port", &section, place);
        sites.push(site::check(&section, server));
    }
    sites
}

/// `backup` names another site of the file, by any of its names, and nothing goes in a circle.
fn backups(sections: &[Section], sites: &mut [SiteConfig]) {
    let named = |sites: &[SiteConfig], name: &str| {
        let is_named = |site: &SiteConfig| site.incoming.iter().any(|known| known == name);
        sites.iter().position(is_named)
    };
    for (index, section) in sections.iter().enumerate() {
        let Some(name) = sites[index].backup.take() else {
            continue;
        };
        let wrong = |why: &str| {
            let node = Node::Text(name.clone());
            section.wrong("backup", None, &node, why);
        };
        let Some(other) = named(sites, &name) else {
            wrong("no site has this name");
            continue;
        };
        // Those that come later in the file still have theirs as typed.
        let next = |site: usize| {
            let backup = sites[site].backup.as_deref()?;
            named(sites, backup)
        };
        let mut chain = std::iter::successors(Some(other), |site| next(*site));
        // A circle without this site is told of at one that is in it.
        if chain.by_ref().take(sites.len()).any(|site| site == index) {
            wrong(match other == index {
                true => "the site itself; write another one",
                false => "its backup comes back here; leave one out",
            });
            continue;
        }
        sites[index].backup = sites[other].incoming.first().cloned();
    }
}

/// Notes where sites share a dial-in address: what dials in there answers for all of them.
fn shared_addresses(sections: &[Section], sites: &[SiteConfig]) {
    let mut first: HashMap<&Address, usize> = HashMap::new();
    for (index, (section, site)) in sections.iter().zip(sites).enumerate() {
        // Found again in the file by its address, since wrong values are left out of the site.
        let place = |address: &Address| {
            let items = section.many("outgoing").unwrap_or_default().into_iter();
            let reads = |node: &Node| site::outgoing_address(section, node).ok();
            let mut same = items.filter(|(_, node)| reads(node).as_ref() == Some(address));
            let item = same.next().and_then(|(item, _)| item);
            section.place("outgoing", item)
        };
        for outgoing in &site.outgoing {
            let is_fixed = !matches!(outgoing.to, Address::Tcp { port: 0, .. });
            match first.get(&outgoing.to) {
                None if is_fixed => {
                    first.insert(&outgoing.to, index);
                }
                Some(other) if *other != index => {
                    let label = &sections[*other].label;
                    let message = format!(
                        "outgoing {}: also that of {label}; what dials in there answers for both",
                        outgoing.to
                    );
                    section.findings.note(place(&outgoing.to), message);
                }
                _ => {}
            }
        }
    }
}

/// A section that has nothing of its own in the file.
fn defaulted<'a>(top: &Section<'a>, defaults: &Map, own: Map) -> Section<'a> {
    Section {
        map: raw::lay(&own, defaults),
        steps: vec![PathStep::Key("backend_port".into())],
        inherited: Some(vec![PathStep::Key("defaults".into())]),
        label: String::new(),
        prefix: String::new(),
        findings: top.findings,
        directory: top.directory,
    }
}

/// An entry of `map` with `defaults` merged in, its keys checked.
fn entry<'a>(top: &Section<'a>, defaults: &Map, index: usize, node: &Node) -> Option<Section<'a>> {
    let steps = vec![PathStep::Key("map".into()), PathStep::Item(index)];
    let number = index + 1;
    let Node::Map(own) = node else {
        let message = format!(
            "{}: not a site; write {{incoming: example.com, outgoing: 127.0.0.1:30000}}",
            value::shown(node)
        );
        top.findings
            .problem(Location::File(steps, format!("map[{number}]")), message);
        return None;
    };
    let map = raw::lay(own, defaults);
    let name = match raw::get(&map, "incoming") {
        Some(Node::List(list)) => list.first().and_then(|node| value::host_name(node).ok()),
        Some(node) => value::host_name(node).ok(),
        None => None,
    };
    let label = match name {
        Some(name) => format!("map[{number}] ({name})"),
        None => format!("map[{number}]"),
    };
    keys::check(
        top.findings,
        KeyLevel::Site,
        own,
        &(steps.clone(), label.clone()),
    );
    Some(Section {
        map,
        steps,
        inherited: Some(vec![PathStep::Key("defaults".into())]),
        label,
        prefix: String::new(),
        findings: top.findings,
        directory: top.directory,
    })
}

/// The site of `backend_address` and `backend_port`.
#[derive(PartialEq)]
enum SingleBackend {
    /// Neither is there.
    None,
    /// Something is wrong with them.
    Wrong,
    /// A dial-in address, checked.
    To(String),
}

fn catch_all(top: &Section, overrides: &Overrides) -> SingleBackend {
    let typed_port = top.take("backend_port", value::port);
    let typed_host = top.take("backend_address", value::text);
    let Some(port) = overrides.backend_port.or(typed_port) else {
        if overrides.backend_address.is_some() {
            top.findings
                .problem(Location::CommandLine, "backend address: no backend port");
            return SingleBackend::Wrong;
        }
        if raw::get(&top.map, "backend_port").is_some() {
            return SingleBackend::Wrong;
        }
        if typed_host.is_some() {
            let place = top.place("backend_address", None);
            top.findings.problem(
                place,
                "backend_address: no backend_port; write for example backend_port: 30000",
            );
            return SingleBackend::Wrong;
        }
        return SingleBackend::None;
    };
    let host = overrides.backend_address.as_ref().or(typed_host.as_ref());
    let host = host.map_or("127.0.0.1", String::as_str);
    let bracketed = match host.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) => host.to_string(),
    };
    let address = format!("{bracketed}:{port}");
    let place = match overrides.backend_address {
        Some(_) => Location::CommandLine,
        None => top.place("backend_address", None),
    };
    match value::address(top.directory, &address) {
        Ok(Address::Tcp { .. }) => SingleBackend::To(address),
        _ => {
            let shown = value::shown(&Node::Text(host.into()));
            top.findings.problem(
                place,
                format!("backend_address {shown}: not an address; write 127.0.0.1 or ::1"),
            );
            SingleBackend::Wrong
        }
    }
}

/// Which names are taken, and by whom.
#[derive(Default)]
struct TakenNames {
    taken: HashMap<String, (String, Location)>,
    default: Option<(String, Location)>,
}

impl TakenNames {
    fn check(&mut self, section: &Section, site: &SiteConfig) {
        // By their places in the file, since a message needs the line.
        for (item, node) in section.many("incoming").unwrap_or_default() {
            let Ok(name) = value::host_name(node) else {
                continue;
            };
            let place = section.place("incoming", item);
            match self.taken.get(&name) {
                Some((label, _)) if *label == section.label => {}
                Some((label, first)) => {
                    let reference = section.findings.reference(first);
                    let message = format!(
                        "incoming {name:?}: also a name of {label}{reference}; leave it out of one"
                    );
                    section.findings.problem(place, message);
                }
                None => {
                    self.taken.insert(name, (section.label.clone(), place));
                }
            }
        }
        if site.default {
            self.check_default("default", section, section.place("default", None));
        }
    }

    fn check_default(&mut self, key: &str, section: &Section, place: Location) {
        let Some((label, first)) = &self.default else {
            self.default = Some((section.label.clone(), place));
            return;
        };
        let reference = section.findings.reference(first);
        let message = format!("{key}: already {label}{reference}; write one default at most");
        section.findings.problem(place, message);
    }
}

/// Bounds what is read of a key file to see whether that can be done.
const KEY_BYTES: u64 = 4 << 20;
