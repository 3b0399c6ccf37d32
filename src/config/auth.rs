//! Reads `basic_auth`: which paths need a password.

use super::raw::{self, Map, Node};
use super::section::Section;
use super::types::BasicAuth;
use super::value::{self, ValueError};
use crate::http::target::decoded;
use crate::passwords::Users;

/// Reads `basic_auth`: one `{realm, users_file, paths, forward}` or a list of them.
pub(super) fn basic(section: &Section) -> Vec<BasicAuth> {
    const KEY: &str = "basic_auth";
    let mut result: Vec<BasicAuth> = Vec::new();
    for (item, node) in section.restrictions(KEY) {
        let Some(entry) = section.read(KEY, item, node, |node| one(section, node)) else {
            continue;
        };
        let mut taken = result.iter().flat_map(|known| &known.paths);
        if let Some(path) = taken.find(|path| has(&entry.paths, path)) {
            let message = format!("duplicate path {path:?}; write it in one entry");
            section.wrong(KEY, item, node, &message);
        }
        result.push(entry);
    }
    result
}

fn one(section: &Section, node: &Node) -> Result<BasicAuth, ValueError> {
    let Node::Map(map) = node else {
        return Err("write {users_file: /etc/swiftiply/users}, or false".into());
    };
    let users_file = raw::get(map, "users_file").ok_or(
        "no users_file; write the file that htpasswd made, users_file: /etc/swiftiply/users",
    )?;
    let users_file = within("users_file", users_file, |node| {
        let path = value::path(section.directory)(node)?;
        users(&value::read_file(&path, USERS_BYTES)?)?;
        Ok(path)
    })?;
    let truth = |key| raw::get(map, key).map_or(Ok(false), |node| within(key, node, value::truth));
    Ok(BasicAuth {
        realm: raw::get(map, "realm").map_or(Ok(BasicAuth::REALM.into()), |node| {
            within("realm", node, realm)
        })?,
        users_file,
        paths: paths(map)?,
        forward: truth("forward")?,
    })
}

/// Parses a `users_file`.
///
/// # Errors
/// The first invalid line, and the reason.
pub(crate) fn users(bytes: &[u8]) -> Result<Users, String> {
    Users::parse(bytes).map_err(|bad| bad.to_string())
}

fn realm(node: &Node) -> Result<String, ValueError> {
    let text = value::text(node)?;
    match text.chars().any(char::is_control) {
        true => Err("a control character; write a few words".into()),
        false => Ok(text),
    }
}

/// Reads `paths`: one or a list; the whole site if it is missing.
pub(super) fn paths(map: &Map) -> Result<Vec<String>, ValueError> {
    let nodes = match raw::get(map, "paths") {
        None => return Ok(vec!["/".into()]),
        Some(Node::List(list)) if list.is_empty() => {
            return Err("paths: an empty list; leave it out for all of the site".into());
        }
        Some(Node::List(list)) => list.as_slice(),
        Some(node) => std::slice::from_ref(node),
    };
    let mut paths = Vec::new();
    for node in nodes {
        let path = within("paths", node, |node| {
            let path = value::prefix(node)?;
            let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
            if parts.iter().any(|part| matches!(*part, "." | "..")) {
                return Err("a . or .. in it; write the path itself".into());
            }
            let decoded = decoded(path.as_bytes());
            if *decoded != *path.as_bytes() {
                let decoded = String::from_utf8_lossy(&decoded);
                return Err(format!("percent-encoded; write {decoded}"));
            }
            Ok(format!("/{}", parts.join("/")))
        })?;
        if !has(&paths, &path) {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// Whether a path is in a list, ignoring case.
fn has(paths: &[String], path: &str) -> bool {
    paths.iter().any(|known| known.eq_ignore_ascii_case(path))
}

/// Reads a key of an entry; an error names the key.
pub(super) fn within<T>(
    key: &str,
    node: &Node,
    read: impl Fn(&Node) -> Result<T, ValueError>,
) -> Result<T, ValueError> {
    read(node).map_err(|wrong| format!("{key} {}: {wrong}", value::shown(node)))
}

/// Most bytes of a users file: room for some ten thousand users.
pub(crate) const USERS_BYTES: u64 = 1 << 20;
