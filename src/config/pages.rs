//! Reads a site's own pages (`maintenance_page`, `error_pages`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::raw::{self, Node};
use super::section::Section;
use super::value::{self, ValueError};

/// Parses the path of a page that can be read.
pub(super) fn page(directory: Option<&Path>) -> impl Fn(&Node) -> Result<PathBuf, ValueError> {
    move |node| {
        let path = value::path(directory)(node)?;
        value::read_file(&path, PAGE_BYTES)?;
        Ok(path)
    }
}

/// Reads `error_pages`: a page for each status.
pub(super) fn by_status(section: &Section) -> BTreeMap<u16, PathBuf> {
    let section = section.section("error_pages");
    let mut result = BTreeMap::new();
    for (key, node) in &section.map {
        let Some(status) = status(key) else {
            section.wrong(key, None, node, "not a status; write one from 400 to 599");
            continue;
        };
        // Null removes a default.
        if raw::get(&section.map, key).is_some() {
            let path = section.read(key, None, node, page(section.directory));
            result.extend(path.map(|path| (status, path)));
        }
    }
    result
}

fn status(key: &str) -> Option<u16> {
    let digits = key.len() == 3 && key.bytes().all(|byte| byte.is_ascii_digit());
    let status = key.parse().ok().filter(|_| digits)?;
    (400..=599).contains(&status).then_some(status)
}

/// Most bytes of a page; pages are kept in memory.
pub(crate) const PAGE_BYTES: u64 = 1 << 20;
