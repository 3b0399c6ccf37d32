//! Checks `status`: where the server reports its state and takes commands.

use std::path::PathBuf;

use super::address;
use super::raw::{self, Node};
use super::section::Section;
use super::site;
use super::types::{Address, Config, SocketFileConfig, StatusConfig};
use super::value;

/// Reads `status`. `config`: the addresses for clients.
pub(super) fn status(top: &Section, config: &Config) -> Option<StatusConfig> {
    match raw::get(&top.map, "status")? {
        Node::Map(_) => {}
        node => {
            top.wrong("status", None, node, "write {at: 127.0.0.1:8081}");
            return None;
        }
    }
    let section = top.section("status");
    let keys = site::keys(&section);
    let has_key = |name: &str| section.map.iter().any(|(key, _)| key == name);
    if has_key("key") && has_key("key_file") || keys.len() > 1 {
        let name = if has_key("key") { "key" } else { "key_file" };
        let place = section.place(name, None);
        let message = format!("status.{name}: more than one key; write one");
        section.findings.problem(place, message);
    }
    let key = keys.into_iter().next();
    let is_visible = |key: &String| key.bytes().all(|byte| byte.is_ascii_graphic());
    if !key.iter().all(is_visible) {
        let name = if has_key("key") { "key" } else { "key_file" };
        let message = "only letters, digits and signs of ASCII can be sent; write another key";
        section.wrong(name, None, &Node::Null, message);
    }
    if raw::get(&section.map, "at").is_none() {
        section.problem("at: missing; write at: 127.0.0.1:8081 or at: unix:/path");
        return None;
    }
    let read = |node: &Node| {
        let at = address::dial_in(section.directory, &value::text(node)?)?;
        if let Address::Unix(path) = &at {
            section.to_be_written(PathBuf::from(path))?;
        }
        if config
            .listen
            .iter()
            .any(|listen| address::conflict(listen, &at))
        {
            return Err("clients connect there; write another address".into());
        }
        Ok(at)
    };
    let at = section.take("at", read)?;
    if !at.is_local() && !has_key("key") && !has_key("key_file") {
        let message = format!(
            "status.at {at}: other machines can connect there; write a key, or a loopback address"
        );
        section.findings.problem(section.place("at", None), message);
    }
    let file = SocketFileConfig {
        mode: section.take("mode", value::mode),
        owner: section.take("owner", value::user),
        group: section.take("group", value::group),
    };
    let of_file = ["mode", "owner", "group"].into_iter();
    let mut of_file = of_file.filter(|name| raw::get(&section.map, name).is_some());
    if let Some(name) = of_file.next()
        && !matches!(at, Address::Unix(_))
    {
        let message = format!("status: {}", site::FOR_UNIX_SOCKETS);
        section.findings.problem(section.place(name, None), message);
    }
    Some(StatusConfig { at, file, key })
}

/// Reports a dial-in address at which the server would report its state.
pub(super) fn check_outgoing(top: &Section, config: &Config) {
    let Some(status) = &config.status else { return };
    let mut outgoing = config.sites.iter().flat_map(|site| &site.outgoing);
    if let Some(outgoing) = outgoing.find(|outgoing| address::conflict(&outgoing.to, &status.at)) {
        let section = top.section("status");
        let message = format!(
            "status.at {}: backends dial in at {}; write another address",
            status.at, outgoing.to
        );
        section.findings.problem(section.place("at", None), message);
    }
}
