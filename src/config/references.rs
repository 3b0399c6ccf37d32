//! Puts values of the environment and of files into texts of the configuration: `${NAME}`, `${file:/path}`.

use std::env;
use std::path::Path;

use super::raw::{Node, PathStep};
use super::types::Reference;
use super::value;

/// What is wrong with a reference, and where.
pub(super) type ReferenceFault = (Vec<PathStep>, String);

/// Replaces the references in all texts of a tree.
pub(super) fn resolve(
    node: &mut Node,
    directory: Option<&Path>,
    found: &mut Vec<Reference>,
) -> Vec<ReferenceFault> {
    let mut faults = Vec::new();
    walk(node, directory, &mut Vec::new(), found, &mut faults);
    faults
}

fn walk(
    node: &mut Node,
    directory: Option<&Path>,
    steps: &mut Vec<PathStep>,
    found: &mut Vec<Reference>,
    faults: &mut Vec<ReferenceFault>,
) {
    match node {
        Node::Text(text) if text.contains("${") => match resolved(text, directory) {
            Ok(value) => {
                let written = std::mem::replace(text, value.clone());
                let reference = Reference { value, written };
                if !found.contains(&reference) {
                    found.push(reference);
                }
            }
            Err(wrong) => {
                let keys = steps.iter().rev();
                let key = keys.filter_map(|step| match step {
                    PathStep::Key(key) => Some(key.as_str()),
                    PathStep::Item(_) => None,
                });
                let key = key.take(1).next().unwrap_or_default();
                faults.push((steps.clone(), format!("{key} {text:?}: {wrong}")));
            }
        },
        Node::List(list) => {
            for (index, node) in list.iter_mut().enumerate() {
                steps.push(PathStep::Item(index));
                walk(node, directory, steps, found, faults);
                steps.pop();
            }
        }
        Node::Map(map) => {
            for (key, node) in map {
                steps.push(PathStep::Key(key.clone()));
                walk(node, directory, steps, found, faults);
                steps.pop();
            }
        }
        _ => {}
    }
}

/// A text with its references replaced. `$${` is a dollar and a brace; any other dollar is itself.
fn resolved(text: &str, directory: Option<&Path>) -> Result<String, String> {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(behind) = rest.strip_prefix("$${") {
            result.push_str("${");
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix("${") {
            let (name, behind) = behind.split_once('}').ok_or(SHAPE)?;
            result.push_str(&value_of(name, directory)?);
            rest = behind;
        } else {
            result.push('$');
            rest = &rest[1..];
        }
    }
    result.push_str(rest);
    Ok(result)
}

fn value_of(name: &str, directory: Option<&Path>) -> Result<String, String> {
    if let Some(path) = name.strip_prefix("file:") {
        let path = value::absolute(directory, Path::new(path));
        let bytes = value::read_text(&path, FILE_BYTES)?;
        let text = String::from_utf8(bytes).map_err(|_| "not UTF-8")?;
        let text = text.trim_end_matches(['\n', '\r']);
        return match text.is_empty() {
            true => Err("the file is empty".into()),
            false => Ok(text.to_owned()),
        };
    }
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || !name.bytes().all(fine) {
        return Err(SHAPE.into());
    }
    match env::var(name) {
        Ok(value) if !value.is_empty() => Ok(value),
        Ok(_) => Err(format!("{name} is empty in the environment of the server")),
        Err(env::VarError::NotPresent) => Err(format!(
            "{name} is not set in the environment of the server"
        )),
        Err(env::VarError::NotUnicode(_)) => Err(format!("{name} is not UTF-8")),
    }
}

/// A text of a configuration as it is written: the text with its references, if it had some.
pub(super) fn written(text: &str, references: &[Reference]) -> String {
    let known = references.iter().find(|reference| reference.value == text);
    match known {
        Some(reference) => reference.written.clone(),
        None => text.replace("${", "$${"),
    }
}

/// A message in which the values of references are hidden.
pub(super) fn hidden(message: String, references: &[Reference]) -> String {
    let long = references
        .iter()
        .filter(|reference| reference.value.len() >= SHORTEST);
    long.fold(message, |message, Reference { value, written }| {
        message.replace(value, written)
    })
}

/// What to write.
const SHAPE: &str = "write ${NAME} or ${file:/path}, or $${ for a dollar and a brace";

/// Most bytes of a file with a value.
const FILE_BYTES: u64 = 64 << 10;

/// A shorter value is no secret, and may be a part of any message.
const SHORTEST: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_files_and_of_the_environment() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("key"), "secret value\n").expect("a file");
        std::fs::write(directory.path().join("empty"), "\n").expect("a file");
        let check = |text: &str, expected: Result<&str, &str>| {
            let found = resolved(text, Some(directory.path()));
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(found, expected, "{text}");
        };
        let path = env::var("PATH").expect("a path");
        check("${PATH}", Ok(&path));
        check(
            "a-${file:key}-${file:key}",
            Ok("a-secret value-secret value"),
        );
        check("$${PATH} $$ $5$x $", Ok("${PATH} $$ $5$x $"));
        check("$$${PATH}", Ok("$${PATH}"));
        check("[.]rb$", Ok("[.]rb$"));
        check("${PATH", Err(SHAPE));
        check("${}", Err(SHAPE));
        check("${a-b}", Err(SHAPE));
        check("${file:gone}", Err("no such file or directory"));
        check("${file:empty}", Err("the file is empty"));
        let unset = "SWIFTIPLY_NEVER_SET";
        let message = format!("{unset} is not set in the environment of the server");
        check(&format!("${{{unset}}}"), Err(&message));
    }

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["${x}", "$${x}", "$$${", "a$", "plain", "$$"] {
            assert_eq!(resolved(&written(text, &[]), None).as_deref(), Ok(text));
        }
    }
}
