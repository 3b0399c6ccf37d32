//! Regular expressions of the configuration.

use std::error::Error;
use std::fmt;

use regex::bytes::{Regex, RegexBuilder};
use serde::{Serialize, Serializer};

/// A regular expression of bounded size (`staticmask`, `match`), in the syntax of the crate `regex` without Unicode: `\w`, `\d`,
/// `(?i)` and classes know ASCII only, as in Ruby, and `.` is a byte.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

/// A text that is no regular expression, or too large a one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPattern(String);

impl Pattern {
    /// Compiles an expression.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn new(text: &str) -> Result<Self, InvalidPattern> {
        let built = RegexBuilder::new(text)
            .unicode(false)
            .size_limit(MOST_BYTES)
            .build();
        built.map(Self).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => {
                InvalidPattern("too large when compiled; write a shorter one".into())
            }
            error => {
                let error = error.to_string();
                let cause = error.lines().last().unwrap_or_default();
                InvalidPattern(cause.trim_start_matches("error: ").to_owned())
            }
        })
    }

    /// Whether it matches somewhere in this path or text.
    pub fn is_match(&self, text: &[u8]) -> bool {
        self.0.is_match(text)
    }

    /// The expression as it was written.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for InvalidPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl Error for InvalidPattern {}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(self.as_str())
    }
}

/// Most bytes of a compiled regular expression.
const MOST_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascii_only() {
        let matches = |pattern: &str, text: &str| {
            Pattern::new(pattern).map(|pattern| pattern.is_match(text.as_bytes()))
        };
        for (pattern, text, expected) in [
            (r"^/\w+$", "/api_1", true),
            (r"^/\w+$", "/é", false),
            ("(?i)^/API/", "/api/x", true),
            ("^/é/", "/é/", true),
            ("^/..$", "/é", true),
            (r"\.[^/.]*$", "/a.é", true),
        ] {
            assert_eq!(matches(pattern, text), Ok(expected), "{pattern} {text}");
        }
        for pattern in ["[é]", r"\p{Greek}", "(?i)É[é]"] {
            let error = matches(pattern, "").unwrap_err();
            assert_eq!(error.to_string(), "Unicode not allowed here", "{pattern}");
        }
        let error = matches(r"\w{1000}{1000}", "").unwrap_err();
        assert!(error.to_string().starts_with("too large when compiled"));
    }
}
