//! Finds the line of a value.
//!
//! The YAML library reports positions only with errors. So this module reads the text once more and makes the reading
//! fail at the value. It is only used for messages.

use std::cell::Cell;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A step from a value to a value inside it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum PathStep {
    /// To the value of a key.
    Key(String),
    /// To an item of a list, from 0.
    Item(usize),
}

/// The line of the value at `steps`: that of its key, or of the item itself in a list.
///
/// If there is no such value, the line of the closest value around it; `None` for the document.
pub(super) fn line(text: &str, steps: &[PathStep]) -> Option<usize> {
    let target = match steps.last()? {
        PathStep::Key(_) => LineOf::Key,
        PathStep::Item(_) => LineOf::Value,
    };
    // A section's own keys take precedence over `<<`, as in the merge.
    [false, true]
        .into_iter()
        .find_map(|merges| walk(text, steps, target, merges))
        .or_else(|| line(text, &steps[..steps.len() - 1]))
}

/// The line of a second document, or of whatever else follows the end of the first.
pub(super) fn second(text: &str) -> Option<usize> {
    let document = serde_yaml::Deserializer::from_str(text).nth(1)?;
    let walk = PathWalk {
        steps: &[],
        target: LineOf::Value,
        merges: false,
        found: &Cell::new(false),
    };
    let error = walk.deserialize(document).err()?;
    error.location().map(|location| location.line())
}

/// What to find at the end of the steps.
#[derive(Clone, Copy, PartialEq)]
enum LineOf {
    /// The line of the last step's key.
    Key,
    /// The line of the value.
    Value,
}

/// Reads the text once more along `steps` and makes the reading fail at the target, since the library reports
/// positions only with errors.
fn walk(text: &str, steps: &[PathStep], target: LineOf, merges: bool) -> Option<usize> {
    let found = Cell::new(false);
    let walk = PathWalk {
        steps,
        target,
        merges,
        found: &found,
    };
    let error = walk
        .deserialize(serde_yaml::Deserializer::from_str(text))
        .err()?;
    let location = error.location().filter(|_| found.get())?;
    Some(location.line())
}

/// A walk along `steps`. Returns `Ok` if there is no such value.
#[derive(Clone, Copy)]
struct PathWalk<'a> {
    steps: &'a [PathStep],
    target: LineOf,
    /// Whether to follow `<<`.
    merges: bool,
    found: &'a Cell<bool>,
}

impl PathWalk<'_> {
    fn stop<T, E: Error>(&self) -> Result<T, E> {
        self.found.set(true);
        Err(E::custom("here"))
    }
}

impl<'de> DeserializeSeed<'de> for PathWalk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for PathWalk<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("the way")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.visit_str("")
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        self.visit_str("")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.visit_str("")
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.visit_str("")
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.visit_str("")
    }

    fn visit_i128<E: Error>(self, _: i128) -> Result<(), E> {
        self.visit_str("")
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<(), E> {
        self.visit_str("")
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.visit_str("")
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        if !self.steps.is_empty() {
            return Ok(());
        }
        self.stop()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Some((step, rest)) = self.steps.split_first() else {
            return self.stop();
        };
        for index in 0.. {
            let here = match step {
                PathStep::Item(wanted) if *wanted == index => Some(Self {
                    steps: rest,
                    ..self
                }),
                // The list in `<<: [*a, *b]`.
                PathStep::Key(_) if self.merges => Some(self),
                _ => None,
            };
            let more = match here {
                Some(walk) => items.next_element_seed(walk)?.is_some(),
                None => items.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<(), A::Error> {
        let Some((step, rest)) = self.steps.split_first() else {
            return self.stop();
        };
        while let Some(key) = pairs.next_key_seed(KnownKey(self))? {
            match step {
                PathStep::Key(wanted) if *wanted == key => pairs.next_value_seed(Self {
                    steps: rest,
                    ..self
                })?,
                _ if self.merges && key == "<<" => pairs.next_value_seed(self)?,
                _ => drop(pairs.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// Reads a key, and fails at the target.
struct KnownKey<'a>(PathWalk<'a>);

impl<'de> DeserializeSeed<'de> for KnownKey<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KnownKey<'_> {
    type Value = String;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(TEXT_KEY)
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<String, E> {
        match self.0.steps {
            [PathStep::Key(wanted)] if self.0.target == LineOf::Key && wanted == key => {
                self.0.stop()
            }
            _ => Ok(key.to_string()),
        }
    }
}

/// The type of a key in errors of the library.
pub(super) const TEXT_KEY: &str = "a text as key";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::raw::tests::steps;

    #[test]
    fn every_value_has_its_line() {
        let text = "\
a: 1
list:
  - x: 1
    y: {deep: 2,
      deeper: 3}
  -
    x: 2
  - plain
  - [in, line,
     next]
empty:
base: &base
  one: 1
  two:
    - first
    - second
other: &other {<<: *base, three: 3}
use:
  <<: *other
  four: 4
many:
  <<: [*other, {five: 5}]
  one: 11
same: *base
large:
  - 1
  - 340282366920938463463374607431768211455
  - -170141183460469231731687303715884105728
";
        let check = |path: &str, expected| {
            assert_eq!(line(text, &steps(path)), expected, "{path}");
        };
        check("a", Some(1));
        check("list", Some(2));
        check("list.0", Some(3));
        check("list.0.y", Some(4));
        check("list.0.y.deeper", Some(5));
        check("list.1.x", Some(7));
        check("list.2", Some(8));
        check("list.3.2", Some(10));
        check("empty", Some(11));
        check("base.two.1", Some(16));
        check("use.four", Some(20));
        check("use.two.1", Some(16));
        check("use.three", Some(17));
        check("many.one", Some(23));
        check("many.five", Some(22));
        check("many.two", Some(14));
        check("same.two.0", Some(15));
        check("large.1", Some(27));
        check("large.2", Some(28));
        check("list.0.gone", Some(3));
        check("list.9.gone", Some(2));
        check("gone", None);
        assert_eq!(line(text, &[]), None);
    }
}
