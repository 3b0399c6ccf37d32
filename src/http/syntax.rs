//! The smallest parts of a message: tokens, methods and versions.

use memchr::memchr;

/// A supported version of HTTP.
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

    /// The method as in the request line.
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

    /// Whether the method is safe: it asks for no change (RFC 9110 9.2.1).
    pub fn is_safe(&self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Options)
    }

    /// Whether sending the request twice has the same effect as sending it once (RFC 9110 9.2.2).
    pub fn is_idempotent(&self) -> bool {
        self.is_safe() || matches!(self, Self::Put | Self::Delete)
    }
}

/// Whether a token may contain this byte (RFC 9110 5.6.2).
pub(super) const fn is_token(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9'
        | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

/// Splits a head into its first line, without the line end, and the rest.
pub(super) fn split_first_line(head: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr(b'\n', head).unwrap_or(head.len());
    let line = head[..end].strip_suffix(b"\r").unwrap_or(&head[..end]);
    (line, head.get(end + 1..).unwrap_or_default())
}
