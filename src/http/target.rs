//! Request targets (RFC 9112 3.2) and hosts.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};

use super::refusal::Refusal;
use super::syntax::Method;

/// A target in the form in which it is forwarded: path and query, or `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    text: Box<str>,
    /// The length of the path, up to a `?`.
    path: usize,
    authority: Option<Host>,
}

/// A host with an optional port: a Host field or the authority of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    text: Box<str>,
    /// In lower case, without a final dot; `None` if the text is so already, as it nearly always is.
    folded: Option<Box<str>>,
    /// The length of the name in the text.
    name: usize,
    port: Option<u16>,
}

impl Target {
    /// Parses a target in origin-form (`/path?query`), absolute-form (`http://host/path?query`) or asterisk-form (`*`,
    /// with OPTIONS only).
    ///
    /// # Errors
    /// 400 for everything else: other forms, other schemes, user information, bytes that are invalid in a URI (RFC
    /// 3986 2).
    pub fn parse(method: &Method, bytes: &[u8]) -> Result<Self, Refusal> {
        let allowed = |byte: &u8| matches!(byte, b'!'..=b'~') && *byte != b'#';
        let text = match str::from_utf8(bytes) {
            Ok(text) if !text.is_empty() && bytes.iter().all(allowed) => text,
            _ => return Err(Refusal::bad("an invalid byte in a target")),
        };
        if text.starts_with('/') {
            return Ok(Self::origin(text.into(), None));
        }
        if text == "*" {
            return match method {
                Method::Options => Ok(Self::origin(text.into(), None)),
                _ => Err(Refusal::bad(
                    "the target * with a method other than OPTIONS",
                )),
            };
        }
        let rest = ["http://", "https://"].iter().find_map(|scheme| {
            let (start, rest) = text.split_at_checked(scheme.len())?;
            start.eq_ignore_ascii_case(scheme).then_some(rest)
        });
        let Some(rest) = rest else {
            return Err(Refusal::bad(
                "a target that is neither a path nor an http URI",
            ));
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let Some(host) = Host::parse(authority.as_bytes()) else {
            return Err(Refusal::bad("a target without a valid host"));
        };
        let text = match path.starts_with('/') {
            true => path.into(),
            // RFC 9112 3.2.4: without a path, the target is the server as a whole.
            false if path.is_empty() && *method == Method::Options => "*".into(),
            // RFC 9112 3.2.1: an empty path is sent as `/`.
            false => format!("/{path}").into(),
        };
        Ok(Self::origin(text, Some(host)))
    }

    fn origin(text: Box<str>, authority: Option<Host>) -> Self {
        Self {
            path: text.find('?').unwrap_or(text.len()),
            text,
            authority,
        }
    }

    /// Path and query, or `*`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The path as sent, without the query.
    pub fn path(&self) -> &str {
        &self.text[..self.path]
    }

    /// The query: what follows the first `?`.
    pub fn query(&self) -> Option<&str> {
        self.text.get(self.path + 1..)
    }

    /// The path with `%XX` decoded once. A `%` without two hexadecimal digits stays as it is.
    pub fn decoded_path(&self) -> Cow<'_, [u8]> {
        decoded(self.path().as_bytes())
    }

    /// The host of a target in absolute-form.
    pub const fn authority(&self) -> Option<&Host> {
        self.authority.as_ref()
    }

    /// Whether the target is `*`, the server as a whole.
    pub fn is_asterisk(&self) -> bool {
        &*self.text == "*"
    }
}

/// Decodes `%XX` once. A `%` without two hexadecimal digits stays as it is.
pub fn decoded(bytes: &[u8]) -> Cow<'_, [u8]> {
    percent_decode(bytes).into()
}

/// Whether a part of a path is this text once it is decoded.
pub fn decodes_to(part: &str, text: &str) -> bool {
    percent_decode(part.as_bytes()).eq(text.bytes())
}

/// Encodes everything but the unreserved characters of RFC 3986 2.3, so that the result is one component of a path.
pub fn encoded(bytes: &[u8]) -> String {
    percent_encode(bytes, RESERVED).to_string()
}

const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

impl Host {
    /// Parses `uri-host [ ":" port ]` (RFC 9110 7.2). `None`: empty or invalid.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = str::from_utf8(bytes).ok()?;
        let name = match text.strip_prefix('[') {
            Some(rest) => {
                let end = rest.find(']')?;
                let literal = |byte: u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
                let valid = rest[..end].contains(':') && rest[..end].bytes().all(literal);
                valid.then_some(end + 2)?
            }
            None => {
                let name = bytes.iter().take_while(|byte| is_of_name(**byte)).count();
                (name > 0).then_some(name)?
            }
        };
        let port = match text[name..].strip_prefix(':') {
            None if name < text.len() => return None,
            None | Some("") => None,
            // `parse` would accept a sign.
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().ok()?)
            }
            Some(_) => return None,
        };
        let bare = text[..name].strip_suffix('.').unwrap_or(&text[..name]);
        if bare.is_empty() {
            return None;
        }
        let folds = bare.len() < name || bare.bytes().any(|byte| byte.is_ascii_uppercase());
        Some(Self {
            folded: folds.then(|| bare.to_ascii_lowercase().into()),
            text: text.into(),
            name,
            port,
        })
    }

    /// The name in lower case, without port and final dot; an IPv6 address in brackets.
    pub fn name(&self) -> &str {
        self.folded.as_deref().unwrap_or(&self.text[..self.name])
    }

    /// The port, if there is one.
    pub const fn port(&self) -> Option<u16> {
        self.port
    }

    /// Name and port as sent.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether both are the same host and port.
    pub fn is_same(&self, other: &Self) -> bool {
        self.name() == other.name() && self.port == other.port
    }
}

/// Bytes of a host name by RFC 3986 3.2.2, without percent-encoding, which host names on the Web do not use.
const fn is_of_name(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9'
        | b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let check = |text: &str, expected: Option<(&str, &str, Option<&str>, Option<&str>)>| {
            let target = Target::parse(&Method::Get, text.as_bytes()).ok();
            let found = target.as_ref().map(|target| {
                let host = target.authority().map(Host::as_str);
                (target.as_str(), target.path(), target.query(), host)
            });
            assert_eq!(found, expected, "{text}");
        };
        check("/", Some(("/", "/", None, None)));
        check(
            "/a/b?c=d?e",
            Some(("/a/b?c=d?e", "/a/b", Some("c=d?e"), None)),
        );
        check("/?", Some(("/?", "/", Some(""), None)));
        check("//x", Some(("//x", "//x", None, None)));
        check("http://h", Some(("/", "/", None, Some("h"))));
        check("http://h?x", Some(("/?x", "/", Some("x"), Some("h"))));
        check(
            "HTTPS://H:8/p?q",
            Some(("/p?q", "/p", Some("q"), Some("H:8"))),
        );
        for bad in [
            "",
            "*",
            "a",
            "h:80",
            "ftp://h/",
            "http://",
            "http:///p",
            "http://u@h/",
            "/a#b",
            "/a b",
            "/ä",
            "/\x7f",
            "/\0",
        ] {
            check(bad, None);
        }
        assert!(Target::parse(&Method::Options, b"*").unwrap().is_asterisk());
        let target = Target::parse(&Method::Get, b"/a%20b%2g%?c%20").unwrap();
        assert_eq!(*target.decoded_path(), *b"/a b%2g%");
    }

    #[test]
    fn hosts() {
        let check = |text: &str, expected: Option<(&str, Option<u16>)>| {
            let host = Host::parse(text.as_bytes());
            let found = host.as_ref().map(|host| (host.name(), host.port()));
            assert_eq!(found, expected, "{text}");
        };
        check("example.com", Some(("example.com", None)));
        check("Example.COM.:8080", Some(("example.com", Some(8080))));
        check("example.com:", Some(("example.com", None)));
        check("[::1]:80", Some(("[::1]", Some(80))));
        check("[FE80::1]", Some(("[fe80::1]", None)));
        check("127.0.0.1", Some(("127.0.0.1", None)));
        check("a_b", Some(("a_b", None)));
        for bad in [
            "", ":80", "a b", "a/b", "a:b", "a:99999", "a:+8", "u@h", "[::1", "[::1]x", "[]",
            "[a]", ".", "h:80:80", "ä", "a%20b",
        ] {
            check(bad, None);
        }
    }
}
