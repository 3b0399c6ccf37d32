//! Heads of requests and responses (RFC 9112 2 to 6).
//!
//! A [`HeadScanner`] finds the end of a head as its bytes arrive; [`RequestHead::parse`] and [`ResponseHead::parse`]
//! parse the head. `fields` parses the field lines with `httparse`, which accepts more than a proxy may, so the strict
//! rules are applied here. `names` classifies field names, `write` writes lines, and [`ResponseHeads`] reads the interim
//! heads and the final head of a response.
//!
//! **Invariants**: everything that concerns one connection only (Connection and the fields it names, framing, Upgrade,
//! Expect) is removed from the fields and kept in members of the head; a head has exactly one framing; the result does
//! not depend on how the bytes were split.

mod fields;
mod names;
mod request;
mod response;
mod response_heads;
mod scan;
mod write;

use super::target::Host;

pub use super::limits::HeadLimits;
pub use super::refusal::{BadHead, Refusal};
pub use super::syntax::{Method, Version};
pub use names::{check_field, is_confusable};
pub use request::RequestHead;
pub use response::{ACCEL_REDIRECT, ALLOW, Persistence, ResponseHead, SENDFILE, write_rest};
pub use response_heads::ResponseHeads;
pub use scan::HeadScanner;
pub use write::{write_field, write_number_field};

/// The host that an incomplete or invalid head asks for, for log messages. `None`: it has no complete and valid Host
/// field, or more than one.
pub fn host_of_refused(head: &[u8]) -> Option<Host> {
    let mut lines = head.split_inclusive(|byte| *byte == b'\n');
    // Empty lines may precede the first line.
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
