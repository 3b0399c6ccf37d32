//! Changes of sites that are in force and not in the file, as a text for a process that follows this one.
//!
//! The text is a section of YAML: each site that differs from the file by its name, with its entry, or with nothing if it was
//! removed. References such as `${KEY}` stand in it as they are written. Pure.

use std::collections::BTreeSet;

use super::edit::{EditError, SiteEdit, edit, entry};
use super::raw::{self, Node};

/// The changes in a text that is in force, of these sites. `None`: there are none.
pub(super) fn changes(current: &str, sites: &BTreeSet<String>) -> Option<String> {
    let entries = sites.iter().map(|site| {
        let node = entry(current, site).ok();
        let node = node.and_then(|entry| raw::parse(&entry).ok());
        (site.clone(), node.unwrap_or(Node::Null))
    });
    let map: Vec<_> = entries.collect();
    (!map.is_empty()).then(|| raw::render(&Node::Map(map)))
}

/// Makes the changes in the text of a file. Returns the text that is to be in force, and the sites that differ from the file
/// then: others may have been written to it meanwhile.
///
/// # Errors
/// Why a change cannot be made.
pub(super) fn apply(
    file: &str,
    changes: &str,
) -> Result<(String, BTreeSet<String>), (BTreeSet<String>, String)> {
    let Ok(Node::Map(map)) = raw::parse(changes) else {
        return Err((BTreeSet::new(), "not a section".to_owned()));
    };
    let mut sites: BTreeSet<_> = map.iter().map(|(site, _)| site.clone()).collect();
    let mut text = file.to_owned();
    // An entry of several names that changed is put once. Removals come first: the names may have moved.
    let is_put = |index: usize| {
        let node = &map[index].1;
        *node != Node::Null && !map[..index].iter().any(|(_, other)| other == node)
    };
    let (put, removed): (Vec<_>, Vec<_>) = (0..map.len()).partition(|index| is_put(*index));
    for index in removed.into_iter().chain(put) {
        let (site, node) = &map[index];
        let entry = raw::render(node);
        let change = match is_put(index) {
            true => SiteEdit::Put(&entry),
            false => SiteEdit::Remove,
        };
        match edit(&text, site, change) {
            Ok(edited) => text = edited.text,
            // It is not in the file any more.
            Err(EditError::NoSite(_)) => {}
            Err(error) => return Err((sites, error.to_string())),
        }
    }
    sites.retain(|site| entry(file, site).ok() != entry(&text, site).ok());
    Ok((text, sites))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
map:
  - {incoming: a.example, outgoing: 127.0.0.1:1}
  - {incoming: b.example, outgoing: 127.0.0.1:2} # kept
  - {incoming: c.example, outgoing: 127.0.0.1:3}
";

    fn set(sites: &[&str]) -> BTreeSet<String> {
        sites.iter().map(|site| (*site).to_owned()).collect()
    }

    #[test]
    fn changes_are_made_again_in_another_file() {
        let current = "\
map:
  - {incoming: a.example, outgoing: 127.0.0.1:1, key: '${KEY}'}
  - {incoming: b.example, outgoing: 127.0.0.1:2}
  - {incoming: [d.example, c.example], outgoing: 127.0.0.1:04}
";
        assert_eq!(changes(current, &set(&[])), None);
        let sites = set(&["a.example", "c.example", "d.example", "gone.example"]);
        let text = changes(current, &sites).unwrap();
        let (result, differ) = apply(FILE, &text).unwrap();
        assert_eq!(differ, set(&["a.example", "c.example", "d.example"]));
        assert!(result.contains("127.0.0.1:2} # kept"), "{result}");
        for site in &sites {
            assert_eq!(entry(&result, site), entry(current, site), "{site}");
        }
        // They were persisted meanwhile.
        let (again, differ) = apply(&result, &text).unwrap();
        assert_eq!((again, differ), (result, set(&[])));
    }

    #[test]
    fn a_name_moves_to_another_site() {
        let current = "map:\n  - {incoming: [b.example, a.example], outgoing: 127.0.0.1:5}\n";
        let text = changes(current, &set(&["a.example", "b.example"])).unwrap();
        let (result, _) = apply(FILE, &text).unwrap();
        assert_eq!(entry(&result, "a.example"), entry(current, "a.example"));
        assert!(!result.contains("127.0.0.1:2"), "{result}");
    }

    #[test]
    fn what_is_no_change_is_refused() {
        assert!(apply(FILE, "- a").is_err());
        let (sites, _) = apply(FILE, "a.example: 5").unwrap_err();
        assert_eq!(sites, set(&["a.example"]));
    }
}
