//! Checks `map` as a whole, and the site of `backend_address` and `backend_port`.

use std::collections::HashMap;

use super::address;
use super::keys::{self, KeyLevel};
use super::overrides::Overrides;
use super::problem::Location;
use super::raw::{self, Map, Node, PathStep};
use super::redirects;
use super::routes;
use super::section::Section;
use super::site::{self, TopLevel};
use super::types::{Address, SiteConfig};
use super::value;

/// Reads the entries of `map`, and the site of the command line.
pub(super) fn sites(top: &Section, server: &TopLevel, overrides: &Overrides) -> Vec<SiteConfig> {
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
    redirects::loops(&sections, &sites, server.config);
    for index in 0..sections.len() {
        let routes = routes::routes(&sections[index], &sites[index], server);
        for (section, site) in routes {
            sections.push(section);
            sites.push(site);
        }
    }
    shared_addresses(&sections, &sites);
    if entries.is_empty() {
        // Check `defaults` here if there are no entries: otherwise its problems would only show with the first entry.
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
        let site = site::check(&section, server);
        let routes = routes::routes(&section, &site, server);
        sites.push(site);
        sites.extend(routes.into_iter().map(|(_, route)| route));
    }
    sites
}

/// Resolves `backup`: it names another site of the file, by any of its names, without a cycle.
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
        if sites[other].fastcgi.is_some() {
            wrong("its FastCGI servers run the scripts of that site only; write another one");
            continue;
        }
        // Sites later in the file still have the name as written.
        let next = |site: usize| {
            let backup = sites[site].backup.as_deref()?;
            named(sites, backup)
        };
        let mut chain = std::iter::successors(Some(other), |site| next(*site));
        // A cycle without this site is reported at one of its members.
        if chain.by_ref().take(sites.len()).any(|site| site == index) {
            wrong(match other == index {
                true => "a site cannot be its own backup; write another one",
                false => "its backup leads back to this site; leave one out",
            });
            continue;
        }
        sites[index].backup = sites[other].incoming.first().cloned();
    }
}

/// Notes sites that share a dial-in address: their backends serve all of them.
fn shared_addresses(sections: &[Section], sites: &[SiteConfig]) {
    let mut first: HashMap<&Address, usize> = HashMap::new();
    for (index, (section, site)) in sections.iter().zip(sites).enumerate() {
        // Find the line by the address, since wrong values were left out of the site.
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
                        "outgoing {}: also the address of {label}; its backends serve both",
                        outgoing.to
                    );
                    section.findings.note(place(&outgoing.to), message);
                }
                _ => {}
            }
        }
    }
}

/// A section that is not in the file; it has the defaults.
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

/// Reads an entry of `map`: merges `defaults` and checks its keys.
fn entry<'a>(top: &Section<'a>, defaults: &Map, index: usize, node: &Node) -> Option<Section<'a>> {
    let steps = vec![PathStep::Key("map".into()), PathStep::Item(index)];
    let number = index + 1;
    let Node::Map(own) = node else {
        let message = format!(
            "{}: not a site; write {{incoming: example.com, outgoing: 127.0.0.1:30000}}",
            value::shown(node)
        );
        let label = match top.findings.is_included(index) {
            true => "site".to_owned(),
            false => format!("map[{number}]"),
        };
        top.findings.problem(Location::File(steps, label), message);
        return None;
    };
    let map = raw::lay(own, defaults);
    let name = match raw::get(&map, "incoming") {
        Some(Node::List(list)) => list.first().and_then(|node| address::site_name(node).ok()),
        Some(node) => address::site_name(node).ok(),
        None => None,
    };
    let place = match top.findings.is_included(index) {
        true => "site".to_owned(),
        false => format!("map[{number}]"),
    };
    let label = match name {
        Some(name) => format!("{place} ({name})"),
        None => place,
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
    /// Neither is given.
    None,
    /// At least one is wrong; the problem is reported.
    Wrong,
    /// The dial-in address, checked.
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
    match address::dial_in(top.directory, &address) {
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

/// Names that are in use, with the site that has them.
#[derive(Default)]
struct TakenNames {
    taken: HashMap<String, (String, Location)>,
    default: Option<(String, Location)>,
}

impl TakenNames {
    fn check(&mut self, section: &Section, site: &SiteConfig) {
        // Iterate over the file rather than the site, since a message needs the line.
        for (item, node) in section.many("incoming").unwrap_or_default() {
            let Ok(name) = address::site_name(node) else {
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
