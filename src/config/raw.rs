//! Parses YAML into a tree of [`Node`]s.
//!
//! Only this module and `locate` know the YAML library. Called by the checks of this directory, on the main thread.
//!
//! **Invariants**: a [`Node::Map`] has no duplicate keys and no `<<`. [`parse`] never panics, whatever the text. Lines
//! count from 1.
//!
//! The module does not interpret keys and values. `value` handles a single value instead of a list, a number instead
//! of a text and so on, since one problem of that kind must not hide the next.

use std::fmt;

use serde::de::{DeserializeSeed, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_yaml::Value;

use super::locate::{self, TEXT_KEY};
pub(super) use super::locate::{PathStep, line};

/// A value of the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    /// Nothing, or `~`.
    Null,
    /// `true` or `false`; those are all that YAML 1.2 has, `value` accepts `yes` and `no` too.
    Bool(bool),
    /// A number in its original spelling: a key `0123` is not 123.
    Number(String),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Self>),
    /// A section.
    Map(Map),
}

/// Keys and values of a section, in the order of the file.
pub(super) type Map = Vec<(String, Node)>;

/// An error in the YAML.
#[derive(Debug, PartialEq)]
pub(super) struct YamlError {
    /// The line, if it is known.
    pub(super) line: Option<usize>,
    /// What is wrong.
    pub(super) message: String,
}

/// Parses a document and resolves its aliases and merge keys.
pub(super) fn parse(text: &str) -> Result<Node, YamlError> {
    let mut typed: Node = serde_yaml::from_str(text).map_err(|error| fault(text, &error))?;
    // A second pass, now that it is known which values are numbers.
    let characters =
        NumbersAsWritten(&mut typed).deserialize(serde_yaml::Deserializer::from_str(text));
    characters.map_err(|error| fault(text, &error))?;
    let mut steps = Vec::new();
    merged(typed, &mut steps).map_err(|message| YamlError {
        line: line(text, &steps),
        message,
    })
}

/// The YAML of a tree; [`parse`] results in the same tree.
pub(super) fn render(node: &Node) -> String {
    serde_yaml::to_string(&value(node))
        .expect("scalars, lists and maps with text keys can be written")
}

impl Node {
    /// The value at `steps`.
    pub(super) fn get(&self, steps: &[PathStep]) -> Option<&Self> {
        let Some((step, rest)) = steps.split_first() else {
            return Some(self);
        };
        match (self, step) {
            (Self::Map(map), PathStep::Key(key)) => get(map, key)?.get(rest),
            (Self::List(list), PathStep::Item(index)) => list.get(*index)?.get(rest),
            _ => None,
        }
    }
}

/// The value of a key, unless it is null: with `key: ~` an entry removes a default.
pub(super) fn get<'a>(map: &'a [(String, Node)], key: &str) -> Option<&'a Node> {
    map.iter()
        .find(|(name, _)| name == key)
        .map(|(_, node)| node)
        .filter(|node| **node != Node::Null)
}

/// Merges `over` into a copy of `under`: sections are merged recursively, everything else is replaced.
pub(super) fn lay(over: &[(String, Node)], under: &[(String, Node)]) -> Map {
    let mut result: Map = Vec::with_capacity(over.len() + under.len());
    for (key, node) in over {
        let node = match (node, get(under, key)) {
            (Node::Map(over), Some(Node::Map(under))) => Node::Map(lay(over, under)),
            _ => node.clone(),
        };
        result.push((key.clone(), node));
    }
    let missing = |(key, _): &&(String, Node)| !over.iter().any(|(name, _)| name == key);
    result.extend(under.iter().filter(missing).cloned());
    result
}

/// Resolves `<<`: a section's own keys take precedence over merged ones, and earlier merged sections over later ones.
/// On an error, `steps` leads to its place.
fn merged(node: Node, steps: &mut Vec<PathStep>) -> Result<Node, String> {
    match node {
        Node::List(list) => {
            let mut result = Vec::with_capacity(list.len());
            for (index, node) in list.into_iter().enumerate() {
                steps.push(PathStep::Item(index));
                result.push(merged(node, steps)?);
                steps.pop();
            }
            Ok(Node::List(result))
        }
        Node::Map(map) => {
            let mut own = Vec::with_capacity(map.len());
            let mut sources = Vec::new();
            for (key, node) in map {
                steps.push(PathStep::Key(key.clone()));
                match (key.as_str(), merged(node, steps)?) {
                    ("<<", Node::List(list)) => sources = list,
                    ("<<", node) => sources = vec![node],
                    (_, node) => own.push((key, node)),
                }
                if !sources.iter().all(|node| matches!(node, Node::Map(_))) {
                    return Err(
                        "<<: not a section; write <<: *name, with &name at a section".into(),
                    );
                }
                steps.pop();
            }
            for source in sources {
                let Node::Map(source) = source else { continue };
                for (key, node) in source {
                    if !own.iter().any(|(name, _)| *name == key) {
                        own.push((key, node));
                    }
                }
            }
            Ok(Node::Map(own))
        }
        scalar => Ok(scalar),
    }
}

/// Converts an error of the YAML library.
fn fault(text: &str, error: &serde_yaml::Error) -> YamlError {
    let line = error.location().map(|location| location.line());
    let typed = line
        .and_then(|line| text.lines().nth(line - 1))
        .unwrap_or("");
    let blank = typed.len() - typed.trim_start().len();
    if typed[..blank].contains('\t') {
        let message = "line starts with a tab; indent YAML with spaces".into();
        return YamlError { line, message };
    }
    let message = error.to_string();
    if message.contains("more than one document") {
        let lines = text.lines().enumerate().skip(1);
        let second = lines.filter(|(_, line)| line.starts_with("---")).last();
        let message = "more than one document; write one only".into();
        let line = second
            .map(|(index, _)| index + 1)
            .or_else(|| locate::second(text));
        return YamlError { line, message };
    }
    // The line is reported separately, and the library prepends its path of keys to our own messages.
    let message = without_places(&message);
    if message.contains(TEXT_KEY) {
        let message = "a list or section as key; write a text".into();
        return YamlError { line, message };
    }
    let message = match message.rfind(OURS) {
        Some(start) => message[start + OURS.len()..].to_string(),
        None => format!("not YAML: {message}"),
    };
    YamlError { line, message }
}

/// Removes ` at line 3 column 1` from a message.
fn without_places(message: &str) -> String {
    let mut parts = message.split(" at line ");
    let mut result = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let number = |text: &'_ str| {
            text.trim_start_matches(|letter: char| letter.is_ascii_digit())
                .to_string()
        };
        let rest = number(part);
        match rest.strip_prefix(" column ") {
            Some(rest) => result.push_str(&number(rest)),
            None => result.push_str(&rest),
        }
    }
    result
}

/// Converts a tree to that of the library.
fn value(node: &Node) -> Value {
    match node {
        Node::Null => Value::Null,
        Node::Bool(value) => Value::Bool(*value),
        Node::Number(number) => serde_yaml::from_str(number).unwrap_or(Value::Null),
        Node::Text(text) => Value::String(text.clone()),
        Node::List(list) => Value::Sequence(list.iter().map(value).collect()),
        Node::Map(map) => {
            let pairs = map.iter();
            Value::Mapping(
                pairs
                    .map(|(key, node)| (Value::String(key.clone()), value(node)))
                    .collect(),
            )
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Build)
    }
}

/// Builds a [`Node`].
struct Build;

impl<'de> Visitor<'de> for Build {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Node, E> {
        Ok(Node::Number(number.to_string()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Node, E> {
        Ok(Node::Number(number.to_string()))
    }

    fn visit_i128<E>(self, number: i128) -> Result<Node, E> {
        Ok(Node::Number(number.to_string()))
    }

    fn visit_u128<E>(self, number: u128) -> Result<Node, E> {
        Ok(Node::Number(number.to_string()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Node, E> {
        Ok(Node::Number(number.to_string()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = items.next_element()? {
            list.push(node);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Node, A::Error> {
        let mut map = Map::new();
        while let Some(key) = pairs.next_key_seed(NewKey(&map))? {
            let node = pairs.next_value()?;
            map.push((key, node));
        }
        Ok(Node::Map(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Node, A::Error> {
        Err(A::Error::custom(format!(
            "{OURS}a tag (!) means nothing here; remove it"
        )))
    }
}

/// Reads a key and refuses a duplicate while the reader still knows its line.
struct NewKey<'a>(&'a Map);

impl<'de> DeserializeSeed<'de> for NewKey<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NewKey<'_> {
    type Value = String;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(TEXT_KEY)
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<String, E> {
        if self.0.iter().any(|(name, _)| name == key) {
            return Err(E::custom(format!("{OURS}duplicate key {key:?}")));
        }
        Ok(key.to_string())
    }
}

/// Replaces the numbers of a tree by their spelling in the file.
struct NumbersAsWritten<'a>(&'a mut Node);

impl<'de> DeserializeSeed<'de> for NumbersAsWritten<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.0 {
            Node::Number(_) => deserializer.deserialize_str(self),
            Node::List(_) | Node::Map(_) => deserializer.deserialize_any(self),
            _ => deserializer.deserialize_ignored_any(IgnoredAny).map(drop),
        }
    }
}

impl<'de> Visitor<'de> for NumbersAsWritten<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("the same as before")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        *self.0 = Node::Number(text.to_string());
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Node::List(list) = self.0 else {
            return Ok(());
        };
        for node in list {
            items.next_element_seed(NumbersAsWritten(node))?;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<(), A::Error> {
        let Node::Map(map) = self.0 else {
            return Ok(());
        };
        for (_, node) in map {
            pairs.next_key::<IgnoredAny>()?;
            pairs.next_value_seed(NumbersAsWritten(node))?;
        }
        Ok(())
    }
}

/// Marks our own messages, to find them after the library's path.
const OURS: &str = "\u{1}";

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// `a.1.b` as steps.
    pub(in crate::config) fn steps(path: &str) -> Vec<PathStep> {
        let step = |step: &str| match step.parse() {
            Ok(index) => PathStep::Item(index),
            Err(_) => PathStep::Key(step.into()),
        };
        path.split('.').map(step).collect()
    }

    #[test]
    fn numbers_keep_their_characters() {
        let check = |text: &str, expected: &str| {
            let number = Node::Number(expected.into());
            for whole in [format!("[x, {text}]"), format!("- x\n- &a {text}\n- *a")] {
                let node = parse(&whole).expect("a list");
                assert_eq!(node.get(&[PathStep::Item(1)]), Some(&number), "{whole}");
            }
        };
        check("0x1F", "0x1F");
        check("1e5", "1e5");
        check("1.50", "1.50");
        check("+3", "+3");
        check("-0.0", "-0.0");
        check(
            "99999999999999999999999999999999999999999",
            "99999999999999999999999999999999999999999",
        );
        assert_eq!(
            parse("{a: &a 0x1, b: {c: *a}}")
                .expect("a map")
                .get(&steps("b.c")),
            Some(&Node::Number("0x1".into()))
        );
    }

    #[test]
    fn merge_keys_are_chained_and_own_keys_win() {
        let check = |text: &str, expected: &str| {
            assert_eq!(parse(text), parse(expected), "{text}");
        };
        check(
            "{a: &a {x: 1, y: 1}, b: &b {<<: *a, y: 2}, c: {<<: *b, z: 3}}",
            "{a: {x: 1, y: 1}, b: {y: 2, x: 1}, c: {z: 3, y: 2, x: 1}}",
        );
        check(
            "[&a {x: 1}, &b {x: 2, y: 2}, {<<: [*a, *b]}]",
            "[{x: 1}, {x: 2, y: 2}, {x: 1, y: 2}]",
        );
    }

    #[test]
    fn sections_are_laid_over_each_other() {
        let check = |over: &str, under: &str, expected: &str| {
            let map = |text| match parse(text) {
                Ok(Node::Map(map)) => map,
                other => panic!("{other:?}"),
            };
            assert_eq!(
                lay(&map(over), &map(under)),
                map(expected),
                "{over} over {under}"
            );
        };
        check("{a: 1}", "{a: 2, b: 3}", "{a: 1, b: 3}");
        check("{a: {x: 1}}", "{a: {x: 2, y: 3}}", "{a: {x: 1, y: 3}}");
        check("{a: [1]}", "{a: [2, 3]}", "{a: [1]}");
        check("{a: ~}", "{a: {x: 1}}", "{a: ~}");
        check("{a: {x: 1}}", "{a: 5}", "{a: {x: 1}}");
    }

    #[test]
    fn faults_have_a_line() {
        let check = |text: &str, line, message: &str| {
            let message = message.into();
            assert_eq!(parse(text), Err(YamlError { line, message }), "{text:?}");
        };
        check("a: 1\nb: 2\na: 3\n", Some(3), "duplicate key \"a\"");
        check("l:\n  - x: 1\n    x: 2\n", Some(3), "duplicate key \"x\"");
        check(
            "a:\n\t- b\n",
            Some(2),
            "line starts with a tab; indent YAML with spaces",
        );
        check(
            "a: 1\n---\nb: 2\n",
            Some(2),
            "more than one document; write one only",
        );
        for text in ["a: 1\n...\nb: 2\n", "{a: 1}\n\nb: 2\n", "[a]\n\n]"] {
            check(text, Some(3), "more than one document; write one only");
        }
        check("a: *x\n", Some(1), "not YAML: unknown anchor");
        check(
            "x: 1\na: &a [*a]\n",
            Some(2),
            "not YAML: recursion limit exceeded",
        );
        check(
            "x: 1\na: !ruby/regexp /x/\n",
            Some(2),
            "a tag (!) means nothing here; remove it",
        );
        check(
            "x: 1\na:\n  <<: 3\n",
            Some(3),
            "<<: not a section; write <<: *name, with &name at a section",
        );
        check(
            "a: 1\n  b: 2\n",
            Some(2),
            "not YAML: mapping values are not allowed in this context",
        );
    }
}
