//! Reads the files that `include` names: further entries of `map`, mostly one a file.

use std::fs;
use std::path::{Path, PathBuf};

use super::included::IncludedFile;
use super::problem::Location;
use super::raw::{self, Map, Node, PathStep};
use super::references;
use super::types::Reference;
use super::value;

/// What was found of included files.
#[derive(Debug, Default)]
pub(super) struct Included {
    pub(super) files: Vec<IncludedFile>,
    /// What is wrong with the key, or with a file as a whole.
    pub(super) problems: Vec<(Location, String)>,
}

/// Adds the entries of the files that `include` names to `map`. Their paths begin at the directory of `file`.
pub(super) fn include(
    top: &mut Map,
    file: &Path,
    directory: Option<&Path>,
    references: &mut Vec<Reference>,
) -> Included {
    let mut included = Included::default();
    let Some(node) = raw::get(top, KEY).cloned() else {
        return included;
    };
    let patterns = match &node {
        Node::List(list) => list.as_slice(),
        node => std::slice::from_ref(node),
    };
    let is_list = matches!(node, Node::List(_));
    let mut first = match raw::get(top, MAP) {
        None => 0,
        Some(Node::List(list)) => list.len(),
        // A problem that is reported with `map`.
        Some(_) => return included,
    };
    let mut entries = Vec::new();
    let parent = file.parent().unwrap_or(Path::new(""));
    for (index, node) in patterns.iter().enumerate() {
        let mut steps = vec![PathStep::Key(KEY.into())];
        steps.extend(is_list.then_some(PathStep::Item(index)));
        let paths = value::text(node).and_then(|pattern| paths(&parent.join(pattern), directory));
        let paths = match paths {
            Ok(paths) => paths,
            Err(wrong) => {
                let message = format!("{KEY} {}: {wrong}", value::shown(node));
                let place = Location::File(steps, String::new());
                included.problems.push((place, message));
                continue;
            }
        };
        for path in paths {
            if included.files.iter().any(|known| known.path == path) {
                continue;
            }
            let whole = |line, message| (Location::Whole(path.clone(), line), message);
            match read(&path, directory) {
                Ok((text, mut nodes, is_list)) => {
                    let count = nodes.len();
                    for (index, node) in nodes.iter_mut().enumerate() {
                        for (inner, message) in references::resolve(node, directory, references) {
                            let mut steps =
                                vec![PathStep::Key(MAP.into()), PathStep::Item(first + index)];
                            steps.extend(inner);
                            let place = Location::File(steps, "site".into());
                            included.problems.push((place, message));
                        }
                    }
                    entries.extend(nodes);
                    included.files.push(IncludedFile {
                        path,
                        text,
                        first,
                        count,
                        is_list,
                    });
                    first += count;
                }
                Err((line, message)) => included.problems.push(whole(line, message)),
            }
        }
    }
    match top
        .iter_mut()
        .find(|(key, node)| key == MAP && *node != Node::Null)
    {
        Some((_, Node::List(list))) => list.extend(entries),
        _ => {
            top.retain(|(key, _)| key != MAP);
            top.push((MAP.into(), Node::List(entries)));
        }
    }
    included
}

/// The files that `include` names in the text of a configuration, with their texts; without those that cannot be read.
pub(super) fn files(text: &str, file: &Path, directory: Option<&Path>) -> Vec<(PathBuf, String)> {
    let Ok(mut root) = raw::parse(value::without_mark(text)) else {
        return Vec::new();
    };
    // A path may have references.
    references::resolve(&mut root, directory, &mut Vec::new());
    let Node::Map(mut map) = root else {
        return Vec::new();
    };
    let included = include(&mut map, file, directory, &mut Vec::new());
    let files = included.files.into_iter();
    files.map(|file| (file.path, file.text)).collect()
}

/// The files that a path stands for: itself, or those whose names match `*` and `?` in its last part, sorted.
fn paths(pattern: &Path, directory: Option<&Path>) -> Result<Vec<PathBuf>, String> {
    let is_pattern = |text: &str| text.contains(['*', '?']);
    let name = pattern.file_name().and_then(|name| name.to_str());
    let name = name.ok_or("not the name of a file; write for example conf.d/*.yml")?;
    let folder = pattern.parent().unwrap_or(Path::new(""));
    if is_pattern(&folder.to_string_lossy()) {
        return Err("a pattern in the name of a directory; write it in the last part only".into());
    }
    if !is_pattern(name) {
        let path = value::absolute(directory, pattern);
        return match path.exists() {
            true => Ok(vec![pattern.to_owned()]),
            false => Err("no such file".into()),
        };
    }
    let Ok(files) = fs::read_dir(value::absolute(directory, folder)) else {
        return Ok(Vec::new());
    };
    let files = files.flatten().filter(|file| !file.path().is_dir());
    let names = files.filter_map(|file| file.file_name().into_string().ok());
    let is_shown = |file: &String| !file.starts_with('.') || name.starts_with('.');
    let matching = names.filter(|file| is_shown(file) && matches(name.as_bytes(), file.as_bytes()));
    let mut paths: Vec<_> = matching.map(|file| folder.join(file)).collect();
    paths.sort();
    Ok(paths)
}

/// Whether a name matches a pattern: `*` is any text, `?` any byte.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    // Where to go on if the text behind the last `*` does not match: that `*` takes one byte more.
    let (mut at, mut of_name, mut retry) = (0, 0, None);
    while of_name < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                retry = Some((at, of_name));
                at += 1;
            }
            Some(letter) if *letter == b'?' || *letter == name[of_name] => {
                at += 1;
                of_name += 1;
            }
            _ => {
                let Some((star, taken)) = retry else {
                    return false;
                };
                retry = Some((star, taken + 1));
                (at, of_name) = (star + 1, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|letter| *letter == b'*')
}

type ReadFault = (Option<usize>, String);

/// The text of a file with its entries, and whether they are a list.
fn read(path: &Path, directory: Option<&Path>) -> Result<(String, Vec<Node>, bool), ReadFault> {
    let bytes = value::read_text(&value::absolute(directory, path), FILE_BYTES);
    let bytes = bytes.map_err(|wrong| (None, wrong))?;
    let text = String::from_utf8(bytes).map_err(|_| (None, "not UTF-8".to_owned()))?;
    let node = raw::parse(&text).map_err(|fault| (fault.line, fault.message))?;
    match node {
        // A file of comments only.
        Node::Null => Ok((text, Vec::new(), true)),
        Node::List(list) => Ok((text, list, true)),
        node @ Node::Map(_) => Ok((text, vec![node], false)),
        _ => Err((
            None,
            "not a site; write {incoming: example.com, outgoing: 127.0.0.1:30000}".into(),
        )),
    }
}

const KEY: &str = "include";
const MAP: &str = "map";

/// Most bytes of a file.
const FILE_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let check = |pattern: &str, name: &str, expected: bool| {
            let found = matches(pattern.as_bytes(), name.as_bytes());
            assert_eq!(found, expected, "{pattern} {name}");
        };
        for (pattern, name) in [
            ("*.yml", "a.yml"),
            ("*.yml", ".yml"),
            ("*", ""),
            ("a*b*c", "aXbbYc"),
            ("a?c", "abc"),
            ("*a*a", "aaaa"),
        ] {
            check(pattern, name, true);
        }
        for (pattern, name) in [
            ("*.yml", "a.yaml"),
            ("*.yml", "a.yml~"),
            ("a?", "a"),
            ("a*b", "abc"),
            ("", "a"),
        ] {
            check(pattern, name, false);
        }
    }
}
