//! Why a head is refused: [`Refusal`] for requests, [`BadHead`] for responses.

use std::fmt;

use super::limits::HeadLimits;

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status code of the response.
    pub status: u16,
    /// The rule that the request breaks.
    pub why: &'static str,
}

/// The rule that a response breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHead(pub &'static str);

impl Refusal {
    /// A refusal with status 400 (Bad Request).
    pub const fn bad(why: &'static str) -> Self {
        Self { status: 400, why }
    }

    /// The limit that the head exceeds: its name in [`HeadLimits`], and its value, in bytes for `target` and `head`.
    pub fn limit(&self, limits: &HeadLimits) -> Option<(&'static str, usize)> {
        match self.status {
            414 => Some(("target", limits.target)),
            431 if self.why == TOO_MANY_FIELDS => Some(("fields", limits.fields)),
            431 => Some(("head", limits.head)),
            _ => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({})", self.why, self.status)
    }
}

/// The reason for refusing a head with more than [`HeadLimits::fields`] fields.
pub(super) const TOO_MANY_FIELDS: &str = "too many fields";
