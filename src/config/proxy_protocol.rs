//! Reads `proxy_protocol`: the connections that begin with a PROXY header.

use super::auth::within;
use super::clients;
use super::listen::{at_addresses, same_address};
use super::raw::{self, Node};
use super::section::Section;
use super::types::{Address, ClientGroup, ProxyProtocol, ProxyVersion};
use super::value::{self, ValueError};

/// Reads `proxy_protocol`: a network, `{from, at}`, or a list of them. `listen`: the addresses for clients.
pub(super) fn proxy_protocol(top: &Section, listen: &[Address]) -> Vec<ProxyProtocol> {
    const KEY: &str = "proxy_protocol";
    let mut rules: Vec<ProxyProtocol> = Vec::new();
    for (item, node) in top.restrictions(KEY) {
        let read = |node: &Node| one(top, listen, node);
        let Some(rule) = top.read(KEY, item, node, read) else {
            continue;
        };
        match rules.iter_mut().find(|known| known.at == rule.at) {
            Some(known) => known.from.extend(rule.from),
            None => rules.push(rule),
        }
    }
    rules
}

fn one(top: &Section, listen: &[Address], node: &Node) -> Result<ProxyProtocol, ValueError> {
    let Node::Map(map) = node else {
        return Ok(ProxyProtocol {
            from: vec![clients::network(node)?],
            at: Vec::new(),
        });
    };
    let wrong = "no from; write {from: 10.0.0.0/8, at: 0.0.0.0:443}";
    let from = match raw::get(map, "from").ok_or(wrong)? {
        Node::List(list) if list.is_empty() => return Err(wrong.into()),
        Node::List(list) => list.as_slice(),
        node => std::slice::from_ref(node),
    };
    let from = from
        .iter()
        .map(|node| within("from", node, clients::network));
    let from: Vec<ClientGroup> = from.collect::<Result<_, _>>()?;
    let ats = match raw::get(map, "at") {
        None => &[][..],
        Some(Node::List(list)) => list.as_slice(),
        Some(node) => std::slice::from_ref(node),
    };
    let mut at = Vec::new();
    for node in ats {
        let found = within("at", node, |node| {
            let wanted = at_addresses(top.directory, &value::text(node)?)?;
            // A port without an address is on 0.0.0.0 and `::`.
            let is_implied = |address: &Address, at: &Address| match (address, at) {
                (
                    Address::Tcp {
                        port,
                        implied: true,
                        ..
                    },
                    Address::Tcp {
                        host, port: typed, ..
                    },
                ) => host == "0.0.0.0" && port == typed,
                _ => false,
            };
            let is_wanted = |address: &&Address| {
                let is = |at: &Address| same_address(address, at) || is_implied(address, at);
                wanted.iter().any(is)
            };
            let found: Vec<_> = listen.iter().filter(is_wanted).cloned().collect();
            match found.is_empty() {
                true => Err("no address for clients; write one of cluster_address or ssl".into()),
                false => Ok(found),
            }
        })?;
        for address in found {
            if !at.contains(&address) {
                at.push(address);
            }
        }
    }
    Ok(ProxyProtocol { from, at })
}

/// Reads `send_proxy`: `v1`, `v2`, or false.
pub(super) fn send_proxy(node: &Node) -> Result<Option<ProxyVersion>, ValueError> {
    match value::text(node).as_deref() {
        Ok("v1") => Ok(Some(ProxyVersion::V1)),
        Ok("v2") => Ok(Some(ProxyVersion::V2)),
        _ if value::truth(node) == Ok(false) => Ok(None),
        _ => Err("write v1 or v2, or false".into()),
    }
}
