//! Reads the settings of compression (`gzip`).

use super::raw::{self, Node};
use super::section::Section;
use super::types::GzipConfig;
use super::value::{self, ValueError};

/// Reads `gzip`: true, false or `{types, minimum, level}`.
pub(super) fn gzip(section: &Section) -> Option<GzipConfig> {
    const KEY: &str = "gzip";
    let node = raw::get(&section.map, KEY)?;
    let base = GzipConfig::default();
    let gzip = match node {
        Node::Map(_) => {
            let section = section.section(KEY);
            let types = section.take_many("types", media_type);
            if types.as_ref().is_some_and(Vec::is_empty) {
                section.problem("types: an empty list; write gzip: false for none");
            }
            GzipConfig {
                types: types.unwrap_or(base.types),
                minimum: section.bytes("minimum", 0..=1 << 30, base.minimum),
                level: section
                    .take("level", value::count(1..=9))
                    .map_or(base.level, |level| level as u32),
            }
        }
        node => match value::truth(node) {
            Ok(true) => base,
            Ok(false) => return None,
            Err(_) => {
                let wrong = "write true, false or {types, minimum, level}";
                section.wrong(KEY, None, node, wrong);
                return None;
            }
        },
    };
    if !cfg!(feature = "gzip") {
        let wrong = "this program was built without gzip; leave it out";
        section.wrong(KEY, None, node, wrong);
    }
    Some(gzip)
}

/// Parses `text/html` or `text/*`; the result is in lower case.
pub(super) fn media_type(node: &Node) -> Result<String, ValueError> {
    let text = value::text(node)?.to_ascii_lowercase();
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
    let name = |name: &str| !name.is_empty() && name.bytes().all(fine);
    match text.split_once('/') {
        Some((kind, inner)) if name(kind) && (name(inner) || inner == "*") => Ok(text),
        _ => Err("not a media type; write text/html or text/*".into()),
    }
}
