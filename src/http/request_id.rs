//! Ids of requests: the field X-Request-Id, and the trace id of traceparent (W3C Trace Context).
//!
//! An id of our own is 32 hexadecimal digits: 16 random ones that are the same for all requests of the process, and the
//! number of the request, encrypted so that it looks random and shows no count. No system call is needed, two requests
//! of a process never have the same id, and those of two processes do with a probability of 2⁻⁶⁴. An id is not a secret.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::headers::Headers;

/// The id of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RequestId {
    /// The site gives its requests no ids (`request_id: false`).
    #[default]
    None,
    /// One of our own, by the number of the request.
    Own(u64),
    /// That of a proxy in front of us.
    Received(Box<str>),
}

impl RequestId {
    /// A new one.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self::Own(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The last valid one in these fields of a request.
    pub fn received(headers: &Headers) -> Option<Self> {
        let value = headers.get_all(X_REQUEST_ID).last()?;
        is_valid(value).then(|| Self::Received(String::from_utf8_lossy(value).into()))
    }

    /// Whether there is one.
    pub fn is_some(&self) -> bool {
        *self != Self::None
    }

    /// Writes it as a field.
    pub fn write_field(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(X_REQUEST_ID.as_bytes());
        out.extend_from_slice(b": ");
        match self {
            Self::None => {}
            Self::Own(number) => out.extend_from_slice(&own(*number)),
            Self::Received(id) => out.extend_from_slice(id.as_bytes()),
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// As it is logged; `-` if there is none.
impl fmt::Display for RequestId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => out.write_str("-"),
            Self::Own(number) => out.write_str(str::from_utf8(&own(*number)).unwrap_or_default()),
            Self::Received(id) => out.write_str(id),
        }
    }
}

/// Whether an id may be used: a word of letters, digits and the punctuation of base64, UUIDs and URLs.
fn is_valid(id: &[u8]) -> bool {
    let is_safe = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~+/=:@".contains(byte);
    (1..=LONGEST).contains(&id.len()) && id.iter().all(is_safe)
}

/// The digits of an id of our own.
fn own(number: u64) -> [u8; 32] {
    /// The common digits, and the key of the others.
    static PROCESS: LazyLock<[u64; 2]> =
        LazyLock::new(|| [1, 2].map(|part: u64| RandomState::new().hash_one(part)));
    let [prefix, key] = *PROCESS;
    let mut digits = [0; 32];
    for (half, value) in [prefix, scrambled(number ^ key)].into_iter().enumerate() {
        for (place, digit) in digits[16 * half..16 * half + 16].iter_mut().enumerate() {
            *digit = HEXADECIMAL[(value >> (60 - 4 * place)) as usize % 16];
        }
    }
    digits
}

/// A permutation of all numbers without a pattern (the finaliser of `SplitMix64`).
const fn scrambled(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The trace id of a request: the second part of its field traceparent, if that is valid (W3C Trace Context, 3.2).
pub fn trace_id(headers: &Headers) -> Option<&str> {
    let mut fields = headers.get_all("traceparent");
    let (Some(value), None) = (fields.next(), fields.next()) else {
        return None;
    };
    let is_lower_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let mut parts = value.split(|byte| *byte == b'-');
    let mut part = |length: usize| {
        let part = parts.next()?;
        (part.len() == length && part.iter().all(is_lower_hex)).then_some(part)
    };
    let (version, trace, parent, _flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    let is_zero = |part: &[u8]| part.iter().all(|byte| *byte == b'0');
    // Later versions may have more parts.
    let is_long = version == b"00" && parts.next().is_some();
    if version == b"ff" || is_long || is_zero(trace) || is_zero(parent) {
        return None;
    }
    str::from_utf8(trace).ok()
}

/// The name of the field.
pub const X_REQUEST_ID: &str = "X-Request-Id";
/// The longest id that is accepted, in bytes.
const LONGEST: usize = 128;
const HEXADECIMAL: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn headers(name: &str, values: &[&str]) -> Headers {
        let mut headers = Headers::new();
        for value in values {
            headers.push(name, value.as_bytes());
        }
        headers
    }

    #[test]
    fn own_ids_differ_and_look_alike() {
        let ids: HashSet<String> = (0..1000).map(|_| RequestId::new().to_string()).collect();
        assert_eq!(ids.len(), 1000);
        let prefixes: HashSet<&str> = ids.iter().map(|id| &id[..16]).collect();
        assert_eq!(prefixes.len(), 1);
        for id in &ids {
            assert!(id.len() == 32 && is_valid(id.as_bytes()), "{id}");
        }
        let mut field = Vec::new();
        let id = RequestId::new();
        id.write_field(&mut field);
        assert_eq!(field, format!("X-Request-Id: {id}\r\n").into_bytes());
    }

    #[test]
    fn received_ids() {
        let check = |values: &[&str], expected: Option<&str>| {
            let id = RequestId::received(&headers("x-request-id", values));
            assert_eq!(
                id.map(|id| id.to_string()).as_deref(),
                expected,
                "{values:?}"
            );
        };
        check(&["a"], Some("a"));
        check(&["Root=1-5f/x+_.~:@"], Some("Root=1-5f/x+_.~:@"));
        check(&["first", "last"], Some("last"));
        check(&[&"x".repeat(128)], Some(&"x".repeat(128)));
        for wrong in ["", "a b", "a,b", "a\"", "a\\", "ü", &"x".repeat(129)] {
            check(&[wrong], None);
        }
        check(&[], None);
    }

    #[test]
    fn trace_ids() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let check = |values: &[&str], expected: bool| {
            let headers = headers("Traceparent", values);
            assert_eq!(trace_id(&headers), expected.then_some(trace), "{values:?}");
        };
        let good = format!("00-{trace}-b7ad6b7169203331-01");
        check(&[&good], true);
        check(&[&format!("01-{trace}-b7ad6b7169203331-01-more")], true);
        check(&[&good, &good], false);
        for wrong in [
            String::new(),
            trace.to_owned(),
            format!("{good}-more"),
            format!("ff-{trace}-b7ad6b7169203331-01"),
            format!("00-{}-b7ad6b7169203331-01", trace.to_uppercase()),
            format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
            format!("00-{trace}-0000000000000000-01"),
            format!("00-{trace}-b7ad6b7169203331"),
        ] {
            check(&[&wrong], false);
        }
    }
}
