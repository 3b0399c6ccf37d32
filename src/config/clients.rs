//! Reads `allow` and `deny`: which clients may send requests.

use super::address;
use super::auth;
use super::raw::{self, Node};
use super::section::Section;
use super::types::{ClientGroup, ClientRule};
use super::value::{self, ValueError};

/// Reads `allow` and `deny` of a section: each is a network, `{networks, paths}`, or a list of them.
pub(super) fn allow_and_deny(section: &Section) -> (Vec<ClientRule>, Vec<ClientRule>) {
    let allow = rules(section, "allow");
    let deny = rules(section, "deny");
    for (item, node) in section.restrictions("deny") {
        let Ok(denied) = one(node) else { continue };
        let mut pairs = allow.iter().flat_map(|allowed| {
            let networks = allowed.networks.iter();
            let networks = networks.filter(|network| denied.networks.contains(network));
            let mut paths = allowed.paths.iter();
            let path = paths.find(|path| denied.paths.contains(path));
            path.and_then(|path| networks.map(move |network| (network, path)).next())
        });
        if let Some((network, path)) = pairs.next() {
            let message = match path.as_str() {
                "/" => format!("{network} is also in allow; leave it out of one"),
                path => format!("{network} is also in allow for {path}; leave it out of one"),
            };
            section.wrong("deny", item, node, &message);
        }
    }
    (allow, deny)
}

/// Reads `allow` or `deny`. Networks without paths become one rule, the first.
fn rules(section: &Section, key: &str) -> Vec<ClientRule> {
    let mut rules: Vec<ClientRule> = Vec::new();
    for (item, node) in section.restrictions(key) {
        let Some(rule) = section.read(key, item, node, one) else {
            continue;
        };
        match rules.iter_mut().find(|known| known.paths == rule.paths) {
            Some(known) => known.networks.extend(rule.networks),
            None => rules.push(rule),
        }
    }
    rules
}

fn one(node: &Node) -> Result<ClientRule, ValueError> {
    let Node::Map(map) = node else {
        return Ok(ClientRule::new(vec![network(node)?]));
    };
    let wrong = "no networks; write {networks: 10.0.0.0/8, paths: /admin}";
    let networks = match raw::get(map, "networks").ok_or(wrong)? {
        Node::List(list) if list.is_empty() => return Err(wrong.into()),
        Node::List(list) => list.as_slice(),
        node => std::slice::from_ref(node),
    };
    let networks = networks.iter();
    let networks = networks.map(|node| auth::within("networks", node, network));
    Ok(ClientRule {
        networks: networks.collect::<Result<_, _>>()?,
        paths: auth::paths(map)?,
    })
}

/// Parses a group of clients: `10.0.0.0/8`, `::1`, `all`, `unix:`.
pub(super) fn network(node: &Node) -> Result<ClientGroup, ValueError> {
    match value::text(node).as_deref() {
        Ok("all") => Ok(ClientGroup::All),
        Ok("unix:") => Ok(ClientGroup::Unix),
        _ => match address::network(node) {
            Ok(network) => Ok(ClientGroup::Network(network)),
            Err(wrong) if wrong.starts_with("a prefix") => Err(wrong),
            Err(_) => Err("write a network, 192.0.2.1 or 10.0.0.0/8, or all, or unix:".into()),
        },
    }
}
