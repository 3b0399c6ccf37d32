//! Changes of one site in the text of a configuration file, which leave the rest of the text as it is.
//!
//! [`edit`] replaces, changes, adds or removes the entry of a site in `map`, line by line, so that comments and anchors
//! elsewhere stay. It understands files in which `map` is a list with dashes. The result is compared with what the change
//! should mean: if the text cannot be changed so, the whole text is made from its values instead, which is good
//! enough for a change that is not persisted, and [`Edited::keeps_text`] says so.
//!
//! Pure. Called by the thread of a command.

use std::fmt;
use std::ops::Range;

use super::address::host_name;
use super::raw::{self, Map, Node};

/// A change of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteEdit<'a> {
    /// The entry is this one, YAML or JSON. It is added if there is none.
    Put(&'a str),
    /// The keys of the entry get these values; other keys stay.
    Merge(&'a str),
    /// There is no such entry.
    Remove,
}

/// The text of a file after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    /// The text.
    pub text: String,
    /// Whether the site is new.
    pub added: bool,
    /// Whether everything but the entry stands as before. If not, `text` has the same values, without comments.
    pub keeps_text: bool,
    /// The line of the first comment that is lost with the changed lines of the entry, if there is one.
    pub comment: Option<usize>,
    /// The lines of the new entry, from 1: the first one, and the first one behind it.
    pub lines: Range<usize>,
}

/// Why a site cannot be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EditError {
    /// The file has no entry with this host name.
    NoSite(String),
    /// The change is not an entry; the line in it, if it is known, and what is wrong.
    Entry(Option<usize>, String),
    /// The file itself is not a configuration.
    File(String),
}

impl fmt::Display for EditError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSite(name) => {
                write!(out, "no entry of map has the name {name:?}")?;
                match site_of_route(name) {
                    Some(site) => write!(out, "; a route is part of the entry of its site, {site}"),
                    None => Ok(()),
                }
            }
            Self::Entry(Some(line), why) => write!(out, "entry:{line}: {why}"),
            Self::Entry(None, why) => write!(out, "entry: {why}"),
            Self::File(why) => out.write_str(why),
        }
    }
}

impl std::error::Error for EditError {}

/// Changes the entry of the site with this host name.
///
/// # Errors
/// See [`EditError`]. Whether the values are right is for [`Config::from_yaml`](super::Config::from_yaml) to say.
pub fn edit(text: &str, site: &str, change: SiteEdit<'_>) -> Result<Edited, EditError> {
    if site_of_route(site).is_some() {
        return Err(EditError::NoSite(site.to_owned()));
    }
    let name = host_name(&Node::Text(site.to_owned()))
        .map_err(|why| EditError::Entry(None, format!("site {site:?}: {why}")))?;
    let root = top(text)?;
    let entries = entries(&root);
    let index = entries.iter().position(|entry| has_name(entry, &name));
    let entry = match change {
        SiteEdit::Remove => None,
        SiteEdit::Put(body) => Some(NewEntry::whole(body, &name)?),
        SiteEdit::Merge(body) => {
            let before = index.map(|index| &entries[index]);
            let before = before.ok_or_else(|| EditError::NoSite(site.to_owned()))?;
            Some(NewEntry::merged(body, &name, before)?)
        }
    };
    if entry.is_none() && index.is_none() {
        return Err(EditError::NoSite(site.to_owned()));
    }
    let wanted = wanted(&root, index, entry.as_ref().map(|entry| &entry.node));
    let in_place = in_place(text, index, entries.len(), entry.as_ref(), &change);
    let in_place = in_place.filter(|edited| top(&edited.text).is_ok_and(|now| same(&now, &wanted)));
    Ok(in_place.unwrap_or_else(|| Edited {
        text: raw::render(&wanted),
        added: index.is_none(),
        keeps_text: false,
        comment: None,
        lines: 0..0,
    }))
}

/// The site of a route, from the name of the route: `example.com` from `example.com/api`, but nothing from a URL.
fn site_of_route(name: &str) -> Option<&str> {
    let (site, path) = name.split_once('/')?;
    (!path.starts_with('/')).then_some(site)
}

/// The text of the entry of the site with this host name, as YAML with the values as written.
pub fn entry(text: &str, site: &str) -> Result<String, EditError> {
    let missing = || EditError::NoSite(site.to_owned());
    let name = host_name(&Node::Text(site.to_owned())).map_err(|_| missing())?;
    let root = top(text)?;
    let entries = entries(&root);
    let found = entries.iter().find(|entry| has_name(entry, &name));
    found.map(raw::render).ok_or_else(missing)
}

/// The same for a file that `include` names: a list of entries, or one entry.
pub(super) fn included_entry(text: &str, site: &str) -> Option<String> {
    let name = host_name(&Node::Text(site.to_owned())).ok()?;
    let root = raw::parse(text).ok()?;
    let entries = match &root {
        Node::List(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    let found = entries.iter().find(|entry| has_name(entry, &name));
    found.map(raw::render)
}

/// An entry that is to be in the file.
struct NewEntry {
    node: Node,
    /// Its lines, or those of the changed keys.
    lines: Vec<String>,
    /// The changed keys, each with its lines.
    keys: Vec<(String, Vec<String>)>,
}

impl NewEntry {
    fn whole(body: &str, name: &str) -> Result<Self, EditError> {
        let mut map = body_map(body)?;
        if raw::get(&map, "incoming").is_none() {
            // The path has named it.
            map.retain(|(key, _)| key != "incoming");
            map.insert(0, ("incoming".into(), Node::Text(name.into())));
            let node = named(map, name)?;
            return Ok(Self {
                lines: lines_of(&node),
                keys: Vec::new(),
                node,
            });
        }
        let node = named(map, name)?;
        let body = body.trim_end();
        let body = body.strip_prefix("---").unwrap_or(body);
        let is_plain = !body.trim_start().starts_with(['{', '&', '!', '?']);
        let lines = match is_plain {
            true => {
                let lines = body.lines().skip_while(|line| line.trim().is_empty());
                lines.map(str::to_owned).collect()
            }
            false => lines_of(&node),
        };
        Ok(Self {
            node,
            lines,
            keys: Vec::new(),
        })
    }

    fn merged(body: &str, name: &str, before: &Node) -> Result<Self, EditError> {
        let map = body_map(body)?;
        let Node::Map(before) = before else {
            return Err(EditError::Entry(
                None,
                "the site's entry is not a section".into(),
            ));
        };
        let mut after = before.clone();
        let mut keys = Vec::new();
        for (key, value) in map {
            keys.push((
                key.clone(),
                lines_of(&Node::Map(vec![(key.clone(), value.clone())])),
            ));
            match after.iter_mut().find(|(known, _)| *known == key) {
                Some((_, known)) => *known = value,
                None => after.push((key, value)),
            }
        }
        let node = named(after, name)?;
        Ok(Self {
            lines: lines_of(&node),
            keys,
            node,
        })
    }
}

/// Reads a body as a section.
fn body_map(body: &str) -> Result<Map, EditError> {
    let node = raw::parse(body).map_err(|fault| EditError::Entry(fault.line, fault.message))?;
    match node {
        Node::Map(map) => Ok(map),
        Node::Null => Err(EditError::Entry(
            None,
            "empty; write keys and values".into(),
        )),
        _ => Err(EditError::Entry(
            None,
            "not an entry; write keys and values".into(),
        )),
    }
}

/// The entry, which has to have this name.
fn named(map: Map, name: &str) -> Result<Node, EditError> {
    let node = Node::Map(map);
    match has_name(&node, name) {
        true => Ok(node),
        false => Err(EditError::Entry(
            None,
            format!("incoming: does not have {name:?}; add it, or change the site of that name"),
        )),
    }
}

fn top(text: &str) -> Result<Node, EditError> {
    let line = |line: Option<usize>| line.map_or_else(String::new, |line| format!("line {line}: "));
    let root = raw::parse(text)
        .map_err(|fault| EditError::File(format!("{}{}", line(fault.line), fault.message)))?;
    match root {
        Node::Map(_) => Ok(root),
        _ => Err(EditError::File("not a configuration".into())),
    }
}

fn entries(root: &Node) -> &[Node] {
    match root {
        Node::Map(map) => match raw::get(map, "map") {
            Some(Node::List(list)) => list,
            _ => &[],
        },
        _ => &[],
    }
}

fn has_name(entry: &Node, name: &str) -> bool {
    let Node::Map(map) = entry else { return false };
    let is_name = |node: &Node| host_name(node).is_ok_and(|own| own == name);
    match raw::get(map, "incoming") {
        Some(Node::List(list)) => list.iter().any(is_name),
        Some(node) => is_name(node),
        None => false,
    }
}

/// The tree after the change.
fn wanted(root: &Node, index: Option<usize>, entry: Option<&Node>) -> Node {
    let mut list = entries(root).to_vec();
    match (index, entry) {
        (Some(index), Some(entry)) => list[index] = entry.clone(),
        (Some(index), None) => drop(list.remove(index)),
        (None, entry) => list.extend(entry.cloned()),
    }
    let Node::Map(mut map) = root.clone() else {
        return root.clone();
    };
    match map.iter_mut().find(|(key, _)| key == "map") {
        Some((_, node)) => *node = Node::List(list),
        None => map.push(("map".into(), Node::List(list))),
    }
    Node::Map(map)
}

/// Whether two trees have the same values; the order of keys does not matter.
fn same(one: &Node, other: &Node) -> bool {
    match (one, other) {
        (Node::Map(one), Node::Map(other)) => {
            let has = |(key, node): &(String, Node)| {
                other
                    .iter()
                    .any(|(name, other)| name == key && same(node, other))
            };
            one.len() == other.len() && one.iter().all(has)
        }
        (Node::List(one), Node::List(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        _ => one == other,
    }
}

fn lines_of(node: &Node) -> Vec<String> {
    raw::render(node).lines().map(str::to_owned).collect()
}

/// The lines of a list with dashes under `map`.
struct MapLines {
    /// The line of `map:`, and whether `[]` stands there.
    key: usize,
    is_empty_list: bool,
    /// How far the dashes are indented.
    indent: usize,
    /// The lines of each entry: from its dash to its last line that is neither empty nor a comment.
    entries: Vec<Range<usize>>,
}

impl MapLines {
    /// Finds the entries; `count`: how many there are. `None`: `map` is written in another way.
    fn find(lines: &[&str], count: usize) -> Option<Self> {
        let is_key = |line: &&str| line.starts_with("map:");
        let key = lines.iter().position(is_key)?;
        let rest = without_comment(&lines[key]["map:".len()..]).trim();
        if rest == "[]" || rest.is_empty() && count == 0 {
            return (count == 0).then_some(Self {
                key,
                is_empty_list: rest == "[]",
                indent: 2,
                entries: Vec::new(),
            });
        }
        if !rest.is_empty() {
            return None;
        }
        let is_content =
            |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
        let mut indent = None;
        let mut starts = Vec::new();
        let mut end = lines.len();
        for (number, line) in lines.iter().enumerate().skip(key + 1) {
            if !is_content(line) {
                continue;
            }
            let own = line.len() - line.trim_start_matches(' ').len();
            let has_dash = line[own..] == *"-" || line[own..].starts_with("- ");
            if has_dash && indent.is_none_or(|indent| indent == own) {
                indent = Some(own);
                starts.push(number);
            } else if own <= indent? {
                end = number;
                break;
            }
        }
        let bounds = starts.iter().copied().skip(1).chain([end]);
        let entries = starts.iter().zip(bounds).map(|(start, bound)| {
            let last = (*start..bound)
                .rev()
                .find(|number| is_content(lines[*number]));
            *start..last.unwrap_or(*start) + 1
        });
        let entries: Vec<_> = entries.collect();
        (entries.len() == count).then_some(Self {
            key,
            is_empty_list: false,
            indent: indent?,
            entries,
        })
    }
}

/// A line without its comment. A `#` within quotes is taken for a comment, since the rest of the text is not read.
fn without_comment(line: &str) -> &str {
    match line.split_once(" #") {
        Some((before, _)) => before,
        None => line,
    }
}

/// Whether a line has a comment, or may have one.
fn may_have_comment(line: &str) -> bool {
    line.trim_start().starts_with('#') || line.contains(" #")
}

/// Changes the lines of the entry. The caller checks what the result means.
fn in_place(
    text: &str,
    index: Option<usize>,
    count: usize,
    entry: Option<&NewEntry>,
    change: &SiteEdit<'_>,
) -> Option<Edited> {
    if text.contains('\r') {
        return None;
    }
    let lines: Vec<&str> = text.lines().collect();
    let found = MapLines::find(&lines, count)?;
    let mut result: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    let dashed = |own: &[String]| indented(own, found.indent);
    let (at, with) = match (index.map(|index| found.entries[index].clone()), entry) {
        (Some(range), Some(entry)) if matches!(change, SiteEdit::Merge(_)) => {
            let before = &lines[range.clone()];
            let merged = merged_lines(before, &entry.keys, found.indent);
            (range, merged.unwrap_or_else(|| dashed(&entry.lines)))
        }
        (Some(range), Some(entry)) => (range, dashed(&entry.lines)),
        (Some(range), None) => (range, Vec::new()),
        (None, Some(entry)) => {
            let end = found.entries.last().map_or(found.key + 1, |last| last.end);
            (end..end, dashed(&entry.lines))
        }
        (None, None) => return None,
    };
    let lost = at.clone().find(|number| {
        let line = lines[*number];
        may_have_comment(line) && !with.iter().any(|kept| kept == line)
    });
    let begin = at.start + 1;
    let new = begin..begin + with.len();
    let is_last = with.is_empty() && count == 1;
    result.splice(at, with);
    if is_last {
        result[found.key] = result[found.key].replacen("map:", "map: []", 1);
    } else if found.is_empty_list {
        result[found.key] = "map:".to_owned();
    }
    let end = if text.ends_with('\n') { "\n" } else { "" };
    Some(Edited {
        text: result.join("\n") + end,
        added: index.is_none(),
        keeps_text: true,
        comment: lost.map(|number| number + 1),
        lines: new,
    })
}

/// An entry as an item of a list with dashes.
fn indented(entry: &[String], indent: usize) -> Vec<String> {
    let own = entry.iter().filter(|line| !line.trim().is_empty());
    let own = own.map(|line| line.len() - line.trim_start_matches(' ').len());
    let own = own.min().unwrap_or(0);
    let blanks = " ".repeat(indent);
    let is_comment = entry
        .first()
        .is_some_and(|line| line.trim_start().starts_with('#'));
    let mut result = Vec::with_capacity(entry.len() + 1);
    if is_comment {
        result.push(format!("{blanks}-"));
    }
    for (number, line) in entry.iter().enumerate() {
        let rest = line.get(own..).unwrap_or_default();
        result.push(match (number, rest.trim().is_empty()) {
            (_, true) => String::new(),
            (0, false) if !is_comment => format!("{blanks}- {rest}"),
            _ => format!("{blanks}  {rest}"),
        });
    }
    result
}

/// The lines of an entry with changed keys. `None`: it is not written as one key a line.
fn merged_lines(
    entry: &[&str],
    keys: &[(String, Vec<String>)],
    indent: usize,
) -> Option<Vec<String>> {
    let column = indent + 2;
    let blanks = " ".repeat(column);
    // Its first key stands behind the dash.
    let mut lines: Vec<String> = entry.iter().map(|line| (*line).to_owned()).collect();
    lines[0] = lines[0].replacen('-', " ", 1);
    let is_key = |line: &str| {
        line.strip_prefix(blanks.as_str())
            .is_some_and(|rest| !rest.starts_with([' ', '#', '-', '{']) && rest.contains(':'))
    };
    if !is_key(&lines[0]) {
        return None;
    }
    for (key, new) in keys {
        let new = new.iter().map(|line| format!("{blanks}{line}"));
        let starts_key = |line: &str| {
            let rest = line.strip_prefix(blanks.as_str());
            rest.and_then(|rest| rest.strip_prefix(key.as_str()))
                .is_some_and(|rest| rest.starts_with(':'))
        };
        let Some(start) = lines.iter().position(|line| starts_key(line)) else {
            lines.extend(new);
            continue;
        };
        let behind = &lines[start + 1..];
        let next = behind.iter().position(|line| is_key(line));
        let bound = next.map_or(lines.len(), |next| start + 1 + next);
        let is_content =
            |line: &String| !line.trim().is_empty() && !line.trim_start().starts_with('#');
        let last = lines[start..bound].iter().rposition(is_content)?;
        lines.splice(start..=start + last, new);
    }
    let first = lines.first_mut()?;
    first.replace_range(indent..=indent, "-");
    Some(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
# The file of a test.
cluster_port: 80 # HTTP
map:
  # The blog.
  - incoming: [Blog.example, www.blog.example]
    outgoing: 127.0.0.1:1000
    timeout: 5  # seconds
    limits:
      waiting: 10

  # The shop.
  - {incoming: shop.example, outgoing: '127.0.0.1:2000'}
defaults:
  keepalive: true
";

    fn done(text: &str, site: &str, change: SiteEdit<'_>) -> Edited {
        edit(text, site, change).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The changed text, as the lines that are new and those that are gone.
    fn difference(text: &str, edited: &Edited) -> (Vec<String>, Vec<String>) {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let (mut gone, mut new) = (lines(text), lines(&edited.text));
        new.retain(|line| match gone.iter().position(|old| old == line) {
            Some(position) => {
                gone.remove(position);
                false
            }
            None => true,
        });
        (new, gone)
    }

    #[test]
    fn entries_change_in_place() {
        let check = |site: &str, change: SiteEdit<'_>, new: &[&str], gone: &[&str], comment| {
            let edited = done(FILE, site, change);
            assert!(edited.keeps_text, "{}", edited.text);
            let (is_new, is_gone) = difference(FILE, &edited);
            assert_eq!(is_new, new, "{change:?}");
            assert_eq!(is_gone, gone, "{change:?}");
            assert_eq!(edited.comment, comment, "{change:?}");
        };
        check(
            "blog.example",
            SiteEdit::Merge("outgoing: 127.0.0.1:3000\nretries: 2"),
            &["    outgoing: 127.0.0.1:3000", "    retries: 2"],
            &["    outgoing: 127.0.0.1:1000"],
            None,
        );
        check(
            "www.blog.example",
            SiteEdit::Merge("{\"limits\": {\"waiting\": 20}, \"timeout\": 6}"),
            &["    timeout: 6", "      waiting: 20"],
            &["    timeout: 5  # seconds", "      waiting: 10"],
            Some(7),
        );
        check(
            "BLOG.example",
            SiteEdit::Put("incoming: blog.example\n# New.\noutgoing: 127.0.0.1:3000\n"),
            &[
                "  - incoming: blog.example",
                "    # New.",
                "    outgoing: 127.0.0.1:3000",
            ],
            &[
                "  - incoming: [Blog.example, www.blog.example]",
                "    outgoing: 127.0.0.1:1000",
                "    timeout: 5  # seconds",
                "    limits:",
                "      waiting: 10",
            ],
            Some(7),
        );
        check(
            "shop.example",
            SiteEdit::Merge("timeout: 3"),
            &[
                "  - incoming: shop.example",
                "    outgoing: 127.0.0.1:2000",
                "    timeout: 3",
            ],
            &["  - {incoming: shop.example, outgoing: '127.0.0.1:2000'}"],
            None,
        );
        check(
            "new.example",
            SiteEdit::Put("{\"outgoing\": \"127.0.0.1:4000\"}"),
            &["  - incoming: new.example", "    outgoing: 127.0.0.1:4000"],
            &[],
            None,
        );
        check(
            "shop.example",
            SiteEdit::Remove,
            &[],
            &["  - {incoming: shop.example, outgoing: '127.0.0.1:2000'}"],
            None,
        );
    }

    #[test]
    fn new_entries_have_their_lines() {
        let edited = done(FILE, "new.example", SiteEdit::Put("outgoing: 127.0.0.1:1"));
        assert!(edited.added);
        let line = edited.text.lines().nth(edited.lines.start - 1);
        assert_eq!(line, Some("  - incoming: new.example"));
        assert_eq!(edited.lines.len(), 2);
        assert!(!done(FILE, "shop.example", SiteEdit::Merge("timeout: 1")).added);
    }

    #[test]
    fn empty_lists_and_the_last_entry() {
        let added = done(
            "a: 1\nmap: []\n",
            "b.example",
            SiteEdit::Put("outgoing: x:1"),
        );
        assert_eq!(
            added.text,
            "a: 1\nmap:\n  - incoming: b.example\n    outgoing: x:1\n"
        );
        let removed = done(&added.text, "b.example", SiteEdit::Remove);
        assert_eq!(
            (removed.text.as_str(), removed.keeps_text),
            ("a: 1\nmap: []\n", true)
        );
        let added = done("a: 1\n", "b.example", SiteEdit::Put("outgoing: x:1"));
        assert!(
            !added.keeps_text && added.text.contains("b.example"),
            "{}",
            added.text
        );
    }

    #[test]
    fn other_texts_keep_their_values() {
        let check = |text: &str| {
            let edited = done(text, "a", SiteEdit::Merge("timeout: 3"));
            let root = top(&edited.text).unwrap();
            let expected = "[{incoming: a, outgoing: x, timeout: 3}, {incoming: b, timeout: 2}]";
            let Ok(Node::List(expected)) = raw::parse(expected) else {
                panic!("a list");
            };
            let pairs = entries(&root).iter().zip(&expected);
            assert!(
                pairs.clone().all(|(one, other)| same(one, other)),
                "{}",
                edited.text
            );
            assert_eq!((pairs.len(), entries(&root).len()), (2, 2));
            edited.keeps_text
        };
        assert!(!check(
            "map: [{incoming: a, outgoing: x}, {incoming: b, timeout: 2}]"
        ));
        assert!(!check(
            "{map: [{incoming: a, outgoing: x}, {incoming: b, timeout: 2}]}"
        ));
        assert!(check(
            "map:\n- incoming: a\n  outgoing: x\n- incoming: b\n  timeout: 2\n"
        ));
        assert!(check(
            "map:\n  -\n    outgoing: x\n    incoming: a\n  - {incoming: b, timeout: 2}"
        ));
        assert!(!check(
            "map:\r\n- {incoming: a, outgoing: x}\r\n- {incoming: b, timeout: 2}\r\n"
        ));
        // An anchor that is used elsewhere.
        assert!(check(
            "map:\n  - &a\n    outgoing: x\n    incoming: a\n  - {incoming: b, timeout: 2}"
        ));
        let shared = "map:\n  - &a {incoming: a, outgoing: x}\n  - {<<: *a, incoming: b}\n";
        let edited = done(shared, "a", SiteEdit::Put("incoming: a\noutgoing: y\n"));
        assert!(
            !edited.keeps_text,
            "the other entry would change: {}",
            edited.text
        );
        // What looks like an entry.
        let text =
            "map:\n  - incoming: a\n    outgoing: |-\n      x\n  - {incoming: b, timeout: 2}\n";
        assert!(check(text));
    }

    #[test]
    fn wrong_changes_are_refused() {
        let check = |site: &str, change: SiteEdit<'_>, message: &str| {
            let error = edit(FILE, site, change).unwrap_err().to_string();
            assert_eq!(error, message, "{change:?}");
        };
        let none = "no entry of map has the name \"none.example\"";
        check("none.example", SiteEdit::Remove, none);
        check("none.example", SiteEdit::Merge("timeout: 1"), none);
        check(
            "http://a/b",
            SiteEdit::Remove,
            "entry: site \"http://a/b\": a URL; write its host name only",
        );
        let route =
            "no entry of map has the name \"a/b\"; a route is part of the entry of its site, a";
        check("a/b", SiteEdit::Remove, route);
        check("a/b", SiteEdit::Put("incoming: a"), route);
        check(
            "a",
            SiteEdit::Put(""),
            "entry: empty; write keys and values",
        );
        check(
            "a",
            SiteEdit::Put("- x"),
            "entry: not an entry; write keys and values",
        );
        check(
            "a",
            SiteEdit::Put("x: 1\nx: 2"),
            "entry:2: duplicate key \"x\"",
        );
        let other = "entry: incoming: does not have \"a\"; add it, or change the site of that name";
        check("a", SiteEdit::Put("incoming: b"), other);
        let other = other.replace("\"a\"", "\"shop.example\"");
        check("shop.example", SiteEdit::Merge("incoming: b"), &other);
        let error = edit("[]", "a", SiteEdit::Remove).unwrap_err().to_string();
        assert_eq!(error, "not a configuration");
        assert_eq!(
            entry(FILE, "Shop.example").unwrap(),
            "incoming: shop.example\noutgoing: 127.0.0.1:2000\n"
        );
        assert!(entry(FILE, "none").is_err());
    }
}
