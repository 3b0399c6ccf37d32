//! Heads of requests and responses (RFC 9112 2 to 6).
//!
//! A [`HeadScanner`] finds the end of a head while it comes in; then [`RequestHead::parse`] or [`ResponseHead::parse`]
//! takes the head apart, each with the help of `fields`, and `write` makes a new one of the parts. `httparse` splits the
//! fields; it accepts more than a proxy may, so the strict rules stand here. `ambiguous` knows the field names that an
//! application may take for other ones, [`AnswerHeads`] which heads may follow each other in an answer.
//!
//! **Invariants**: what concerns one connection only (Connection and what it names, framing, Upgrade, Expect) is
//! taken out of the fields and stands in the head's own members; a head has exactly one framing; the result does not
//! depend on how the bytes were cut.

mod ambiguous;
mod answer;
mod fields;
mod request;
mod response;
mod scan;
mod write;

use std::fmt;

use memchr::memchr;

use crate::http::target::Host;

pub use ambiguous::is_confusable;
pub use answer::AnswerHeads;
pub use request::RequestHead;
pub use response::{ACCEL_REDIRECT, ALLOW, Persistence, ResponseHead, SENDFILE, write_rest};
pub use scan::HeadScanner;
pub use write::{write_field, write_number_field};

/// A version of HTTP that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// A request method (RFC 9110 9). Methods are case-sensitive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET.
    Get,
    /// HEAD.
    Head,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// DELETE.
    Delete,
    /// OPTIONS.
    Options,
    /// PATCH (RFC 5789).
    Patch,
    /// Any other token.
    Other(Box<str>),
}

/// How large a head may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of all of it.
    pub head: usize,
    /// Fields, at most 256.
    pub fields: usize,
    /// Bytes of a request's target.
    pub target: usize,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status code of the answer.
    pub status: u16,
    /// Which rule it breaks.
    pub why: &'static str,
}

/// Which rule a response breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHead(pub &'static str);

impl Refusal {
    /// A 400 (Bad Request).
    pub const fn bad(why: &'static str) -> Self {
        Self { status: 400, why }
    }

    /// The limit that the head exceeds: its name in [`HeadLimits`], and its value, in bytes for `target` and `head`.
    pub fn limit(&self, limits: &HeadLimits) -> Option<(&'static str, usize)> {
        match self.status {
            414 => Some(("target", limits.target)),
            431 if self.why == fields::TOO_MANY_FIELDS => Some(("fields", limits.fields)),
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

impl Default for HeadLimits {
    fn default() -> Self {
        Self {
            head: 64 * 1024,
            fields: 100,
            target: 16 * 1024,
        }
    }
}

impl Method {
    /// Reads a method. `None`: it is not a token.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        Some(match bytes {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"OPTIONS" => Self::Options,
            b"PATCH" => Self::Patch,
            [] => return None,
            other if other.iter().all(|byte| is_token(*byte)) => {
                Self::Other(str::from_utf8(other).ok()?.into())
            }
            _ => return None,
        })
    }

    /// As it stands in the request line.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Patch => "PATCH",
            Self::Other(name) => name,
        }
    }

    /// Whether the request asks for nothing to be changed (RFC 9110 9.2.1).
    pub fn is_safe(&self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Options)
    }

    /// Whether sending the request twice means the same as once (RFC 9110 9.2.2).
    pub fn is_idempotent(&self) -> bool {
        self.is_safe() || matches!(self, Self::Put | Self::Delete)
    }
}

/// Whether a byte may stand in a token (RFC 9110 5.6.2).
pub(super) const fn is_token(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9'
        | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

/// The host that a head asks for, for a message about it: it need not be complete, nor a valid head. `None`: it has no
/// complete and valid Host field, or several.
pub fn host_of_refused(head: &[u8]) -> Option<Host> {
    let mut lines = head.split_inclusive(|byte| *byte == b'\n');
    // Empty lines may be in front of the first one.
    lines.by_ref().find(|line| !line.trim_ascii().is_empty())?;
    let mut hosts = lines
        .map_while(|line| line.strip_suffix(b"\n"))
        .map(<[u8]>::trim_ascii)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_at_checked(5))
        .filter(|(name, _)| name.eq_ignore_ascii_case(b"host:"))
        .map(|(_, value)| value.trim_ascii());
    let host = hosts.next()?;
    match hosts.next() {
        None => Host::parse(host),
        Some(_) => None,
    }
}

/// The first line, without its end, and what follows it.
fn split_first_line(head: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr(b'\n', head).unwrap_or(head.len());
    let line = head[..end].strip_suffix(b"\r").unwrap_or(&head[..end]);
    (line, head.get(end + 1..).unwrap_or_default())
}

const METHOD_TOO_LONG: Refusal = Refusal::bad("a method over the limit");
const TARGET_TOO_LONG: Refusal = Refusal {
    status: 414,
    why: "the target is over the limit",
};
/// Bytes of a method and the blank behind it.
const MOST_METHOD: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_what_is_refused() {
        let check = |head: &str, expected: Option<&str>| {
            let host = host_of_refused(head.as_bytes());
            assert_eq!(host.as_ref().map(Host::name), expected, "{head:?}");
        };
        check("GET / HTTP/1.1\r\nHost: A:80\r\n\r\n", Some("a"));
        check("\r\n\r\nGET /\r\nB : c\r\nhost:\ta \r\n", Some("a"));
        check("GET / HTTP/1.1\nHost: a\nB: c", Some("a"));
        // It may be the beginning of a name.
        check("GET / HTTP/1.1\r\nHost: a", None);
        check("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", None);
        check("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", None);
        check("GET / HTTP/1.1\r\n\r\nHost: a\r\n", None);
        check("Host: a\r\n", None);
        check("\x16\x03\x01\n\n", None);
        check("", None);
    }
}
