//! Reads the keys about servers that speak FastCGI.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use super::address;
use super::raw::{self, Node};
use super::section::Section;
use super::types::{Address, FastCgiConfig, ServerConfig, SiteConfig};
use super::value::{self, ValueError};

/// Whether a value of `outgoing` or `servers` is the address of a FastCGI server.
pub(super) fn is_named(node: &Node) -> bool {
    let text = match node {
        Node::Map(map) => raw::get(map, "to").map(value::text),
        node => Some(value::text(node)),
    };
    matches!(text, Some(Ok(text)) if text.starts_with(ServerConfig::FASTCGI))
}

/// The FastCGI servers in `outgoing`; `None`: it has none.
pub(super) fn servers(section: &Section, listen: &[Address]) -> Option<Vec<ServerConfig>> {
    const KEY: &str = "outgoing";
    let items = section.many(KEY)?;
    if !items.iter().any(|(_, node)| is_named(node)) {
        return None;
    }
    let mut servers = Vec::new();
    for (item, node) in items {
        let read = |node: &Node| match node {
            Node::Map(_) if is_named(node) => Err(ALONE.to_owned()),
            node if is_named(node) => server(section, &value::text(node)?, listen),
            _ => Err(MIXED.into()),
        };
        if let Some(server) = section.read(KEY, item, node, read)
            && !servers.contains(&server)
        {
            note_missing(section, KEY, node, &server.at);
            servers.push(server);
        }
    }
    Some(servers)
}

/// Reads the address of a FastCGI server.
fn server(section: &Section, text: &str, listen: &[Address]) -> Result<ServerConfig, ValueError> {
    let server = address::fastcgi(section.directory, text)?;
    match address::is_front(&server.at, listen) {
        true => Err("clients connect there, so requests would loop".into()),
        false => Ok(server),
    }
}

/// Notes a socket that does not exist now: the server may start later.
fn note_missing(section: &Section, key: &str, node: &Node, server: &Address) {
    let Address::Unix(path) = server else { return };
    if section.findings.inspection.is_none() {
        return;
    }
    let fault = match fs::metadata(path) {
        Ok(about) if about.file_type().is_socket() => return,
        Ok(_) => "not a socket".to_owned(),
        Err(error) => format!(
            "no server listens there now: {}",
            crate::process::reason(&error)
        ),
    };
    section.note(key, &format!(" {}: {fault}", value::shown(node)));
}

/// Reads `fastcgi_root` and `fastcgi_params`. `None`: the servers of the site do not speak FastCGI.
pub(super) fn settings(section: &Section, is_fastcgi: bool) -> Option<FastCgiConfig> {
    let settings = FastCgiConfig {
        root: section.take("fastcgi_root", root),
        params: params(section),
    };
    if !is_fastcgi {
        for key in ["fastcgi_root", "fastcgi_params"] {
            if raw::get(&section.map, key).is_some() {
                section.note(key, ": has no effect without a FastCGI server");
            }
        }
        return None;
    }
    for key in ["check", "send_proxy"] {
        match raw::get(&section.map, key) {
            Some(node) if value::truth(node) != Ok(false) => {
                section.wrong(key, None, node, "not for FastCGI servers; leave it out");
            }
            _ => {}
        }
    }
    Some(settings)
}

/// Reports that a site with FastCGI servers has no scripts.
pub(super) fn check(section: &Section, site: &SiteConfig) {
    let has_docroot = site.docroot.is_some() || raw::get(&section.map, "docroot").is_some();
    if site.fastcgi.is_some() && !has_docroot {
        section.problem(
            "a FastCGI server without docroot; write the directory of the scripts, docroot: /var/www/html",
        );
    }
}

/// Reads a path at the servers, which need not exist here.
fn root(node: &Node) -> Result<PathBuf, ValueError> {
    let path = PathBuf::from(value::text(node)?);
    match path.is_absolute() {
        true => Ok(path),
        false => Err("not an absolute path; write the docroot as the server sees it".into()),
    }
}

fn params(section: &Section) -> BTreeMap<String, String> {
    const KEY: &str = "fastcgi_params";
    let mut params = BTreeMap::new();
    let map = match raw::get(&section.map, KEY) {
        None | Some(Node::Null) => return params,
        Some(Node::Map(map)) => map,
        Some(node) => {
            section.wrong(
                KEY,
                None,
                node,
                "write names and values, {APP_ENV: production}",
            );
            return params;
        }
    };
    let section = section.section(KEY);
    for (name, node) in map {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || !name.bytes().all(is_name) {
            section.wrong(name, None, node, "not a name; it has letters, digits and _");
        } else if OWN.contains(&name.as_str()) {
            section.wrong(name, None, node, "set for each request; leave it out");
        } else if let Some(value) = section.read(name, None, node, value::text) {
            params.insert(name.clone(), value);
        }
    }
    params
}

/// Parameters that decide which script runs, and on which request.
const OWN: [&str; 9] = [
    "CONTENT_LENGTH",
    "DOCUMENT_ROOT",
    "HTTP_PROXY",
    "PATH_INFO",
    "PATH_TRANSLATED",
    "QUERY_STRING",
    "REQUEST_METHOD",
    "SCRIPT_FILENAME",
    "SCRIPT_NAME",
];

/// What is wrong with other backends beside FastCGI servers.
pub(super) const MIXED: &str =
    "a site with FastCGI servers has no other backends; give them a site of their own";
const ALONE: &str = "a FastCGI server gets all requests; write its address alone";
