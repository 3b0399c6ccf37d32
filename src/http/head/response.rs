//! Heads of responses (RFC 9112 4).

use std::borrow::Cow;

use super::fields::Fields;
use super::write::{write_field, write_framing, write_number};
use crate::http::body::Framing;
use crate::http::headers::Headers;
use crate::http::limits::HeadLimits;
use crate::http::refusal::BadHead;
use crate::http::syntax::{Method, Version, split_first_line};

/// The head of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status code, three digits.
    pub status: u16,
    /// The reason phrase; may be empty.
    pub reason: Cow<'static, [u8]>,
    /// The version of the backend.
    pub version: Version,
    /// End-to-end fields, except Content-Length.
    pub headers: Headers,
    /// The value of Content-Length. With HEAD and 304 it is the length that GET would have.
    pub length: Option<u64>,
    /// Whether the body is sent in chunks.
    pub chunked: bool,
    /// The response has two framings. The chunks count, and bytes after them cannot be trusted.
    pub conflicting: bool,
    /// Whether the backend keeps the connection.
    pub persistent: bool,
    /// The protocol of a 101.
    pub upgrade: Option<Box<[u8]>>,
}

/// What the Connection field of a response says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// `close`.
    Close,
    /// `keep-alive`, which HTTP/1.0 clients need.
    KeepAlive,
    /// No field: an HTTP/1.1 connection is kept.
    Implied,
    /// `upgrade`, with a 101.
    Upgrade,
}

/// Names a file as in the original: below `sendfileroot`, not percent-encoded.
pub const SENDFILE: &str = "X-Sendfile";
/// Names a file as in nginx: a URI.
pub const ACCEL_REDIRECT: &str = "X-Accel-Redirect";

/// The methods that RFC 9110 and RFC 5789 define and that are forwarded. Those of other RFCs are forwarded too.
/// Whether the application supports a method is not known.
pub const ALLOW: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

impl ResponseHead {
    /// A response of our own, without fields.
    pub fn new(status: u16) -> Self {
        Self {
            status,
            reason: Cow::Borrowed(Self::reason(status).as_bytes()),
            version: Version::Http11,
            headers: Headers::new(),
            length: None,
            chunked: false,
            conflicting: false,
            persistent: true,
            upgrade: None,
        }
    }

    /// The response to an OPTIONS request that must not be forwarded, since its Max-Forwards is 0 (RFC 9110 7.6.2,
    /// 9.3.7). It has no body.
    pub fn options() -> Self {
        let mut head = Self::new(200);
        head.headers.push("Allow", ALLOW.as_bytes());
        head
    }

    /// Whether the response names a file to send instead of its body, so that the body may be missing.
    pub fn names_file(&self) -> bool {
        [SENDFILE, ACCEL_REDIRECT]
            .iter()
            .any(|name| self.headers.contains(name))
    }

    /// Parses a head that a [`HeadScanner`](super::HeadScanner) has found.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn parse(head: &[u8], limits: &HeadLimits) -> Result<Self, BadHead> {
        let (line, rest) = split_first_line(head);
        let (status, reason, version) = parse_status_line(line)?;
        let fields = Fields::parse(rest, limits, false).map_err(BadHead)?;
        let chunked = match fields.encodings {
            [None, _] => false,
            [Some(coding), None] if coding.eq_ignore_ascii_case(b"chunked") => true,
            _ => return Err(BadHead("a transfer coding other than chunked")),
        };
        let length = fields.response_length()?;
        Ok(Self {
            status,
            reason,
            version,
            persistent: fields.is_persistent(version),
            upgrade: fields
                .upgrade
                .filter(|_| status == 101)
                .map(|protocols| Box::from(&*protocols)),
            headers: fields.headers,
            // RFC 9112 6.3: the chunks take precedence, and the length must not be forwarded. HTTP/1.0 has no chunks
            // (6.1).
            conflicting: chunked && (length.is_some() || version == Version::Http10),
            length: if chunked { None } else { length },
            chunked,
        })
    }

    /// Whether another head follows (RFC 9110 15.2). None follows a 101.
    pub const fn is_interim(&self) -> bool {
        matches!(self.status, 100 | 102..=199)
    }

    /// How the end of the body is marked in the response to a request with this method (RFC 9112 6.3).
    pub const fn framing(&self, request: &Method) -> Framing {
        match (self.status, request, self.chunked, self.length) {
            (100..=199 | 204 | 304, ..) | (_, Method::Head, ..) => Framing::Empty,
            (_, _, true, _) => Framing::Chunked,
            (_, _, _, Some(length)) => Framing::Length(length),
            _ => Framing::UntilClose,
        }
    }

    /// Writes a head: status line (HTTP/1.1), the fields in order, Date if it is missing, the framing, and Connection.
    pub fn write(
        &self,
        framing: Framing,
        persistence: Persistence,
        date: Option<&str>,
        out: &mut Vec<u8>,
    ) {
        self.write_fields(out);
        if let Some(date) = date.filter(|_| !self.headers.contains("Date")) {
            write_field("Date", date.as_bytes(), out);
        }
        write_framing(framing, out);
        match persistence {
            Persistence::Close => write_field("Connection", b"close", out),
            Persistence::KeepAlive => write_field("Connection", b"keep-alive", out),
            Persistence::Implied => {}
            Persistence::Upgrade => {
                write_field("Connection", b"upgrade", out);
                write_field("Upgrade", self.upgrade.as_deref().unwrap_or_default(), out);
            }
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Writes the part of the head that is the same for each client: status line, fields and framing. [`write_rest`]
    /// writes the rest.
    pub fn write_first(&self, framing: Framing, out: &mut Vec<u8>) {
        self.write_fields(out);
        write_framing(framing, out);
    }

    fn write_fields(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"HTTP/1.1 ");
        write_number(self.status.into(), out);
        out.push(b' ');
        out.extend_from_slice(&self.reason);
        out.extend_from_slice(b"\r\n");
        self.headers.write(out);
    }

    /// The usual reason phrase of a status that the proxy sends (RFC 9110 15).
    pub const fn reason(status: u16) -> &'static str {
        match status {
            100 => "Continue",
            200 => "OK",
            201 => "Created",
            204 => "No Content",
            206 => "Partial Content",
            301 => "Moved Permanently",
            302 => "Found",
            303 => "See Other",
            304 => "Not Modified",
            307 => "Temporary Redirect",
            308 => "Permanent Redirect",
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            409 => "Conflict",
            410 => "Gone",
            412 => "Precondition Failed",
            413 => "Content Too Large",
            414 => "URI Too Long",
            415 => "Unsupported Media Type",
            416 => "Range Not Satisfiable",
            417 => "Expectation Failed",
            422 => "Unprocessable Content",
            429 => "Too Many Requests",
            431 => "Request Header Fields Too Large",
            500 => "Internal Server Error",
            501 => "Not Implemented",
            502 => "Bad Gateway",
            503 => "Service Unavailable",
            504 => "Gateway Timeout",
            505 => "HTTP Version Not Supported",
            _ => "",
        }
    }
}

fn parse_status_line(line: &[u8]) -> Result<(u16, Cow<'static, [u8]>, Version), BadHead> {
    let version = match line.get(..9) {
        Some(b"HTTP/1.1 ") => Version::Http11,
        Some(b"HTTP/1.0 ") => Version::Http10,
        _ => return Err(BadHead("a status line without a known version")),
    };
    let (digits, rest) = line[9..]
        .split_at_checked(3)
        .ok_or(BadHead("an incomplete status"))?;
    if !digits.iter().all(u8::is_ascii_digit) || digits[0] == b'0' {
        return Err(BadHead("a status that is not three digits"));
    }
    let status = digits
        .iter()
        .fold(0, |status, digit| status * 10 + u16::from(*digit - b'0'));
    let reason = match rest {
        [] => rest,
        [b' ', reason @ ..] => reason,
        _ => return Err(BadHead("a status that is not three digits")),
    };
    let usual = ResponseHead::reason(status).as_bytes();
    let reason = match reason == usual {
        true => Cow::Borrowed(usual),
        false => Cow::Owned(reason.to_vec()),
    };
    Ok((status, reason, version))
}

/// Writes the end of the head of a response of our own, after [`ResponseHead::write_first`].
pub fn write_rest(persistence: Persistence, date: &str, out: &mut Vec<u8>) {
    write_field("Date", date.as_bytes(), out);
    match persistence {
        Persistence::Close => write_field("Connection", b"close", out),
        Persistence::KeepAlive => write_field("Connection", b"keep-alive", out),
        Persistence::Implied | Persistence::Upgrade => {}
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::HeadScanner;

    /// Scans and parses a response whose bytes come in two parts, at every cut.
    fn response(input: &str, judge: impl Fn(Result<ResponseHead, &'static str>) -> bool) {
        let limits = HeadLimits::default();
        for cut in 0..=input.len() {
            let mut scanner = HeadScanner::response();
            let mut result = Err("not complete");
            for end in [cut, input.len()] {
                match scanner.scan(&input.as_bytes()[..end], &limits) {
                    Ok(None) => continue,
                    Ok(Some(end)) => {
                        result = ResponseHead::parse(&input.as_bytes()[..end], &limits)
                            .map_err(|bad| bad.0);
                    }
                    Err(refusal) => result = Err(refusal.why),
                }
                break;
            }
            assert!(judge(result.clone()), "{input:?} cut at {cut}: {result:?}");
        }
    }

    #[test]
    fn responses() {
        let good = |input: &str, judge: &dyn Fn(ResponseHead) -> bool| {
            response(input, |result| result.is_ok_and(judge))
        };
        let bad = |input: &str| response(input, |result| result.is_err());
        good("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", &|head| {
            head.framing(&Method::Get) == Framing::Length(5)
                && head.framing(&Method::Head) == Framing::Empty
        });
        good("HTTP/1.1 200\r\n\r\n", &|head| {
            head.framing(&Method::Get) == Framing::UntilClose
        });
        good(
            "HTTP/1.0 404 Not Found at all\r\nConnection: keep-alive\r\n\r\n",
            &|head| &*head.reason == b"Not Found at all" && head.persistent,
        );
        good(
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\ncontent-length: 5, 5\r\n\r\n",
            &|head| head.length == Some(5),
        );
        good(
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            &|head| {
                head.conflicting
                    && head.length.is_none()
                    && head.framing(&Method::Get) == Framing::Chunked
            },
        );
        good(
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            &|head| head.framing(&Method::Get) == Framing::Empty && head.length == Some(5),
        );
        good(
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
            &|head| head.framing(&Method::Get) == Framing::Empty,
        );
        good(
            "HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nX_Y: z\r\nSet-Cookie: b\r\nConnection: close, X-Gone\r\nX-Gone: 1\r\n\r\n",
            &|head| {
                let names: Vec<_> = head.headers.iter().map(|(name, _)| name).collect();
                names == ["Set-Cookie", "X_Y", "Set-Cookie"] && !head.persistent
            },
        );
        for line in [
            "HTTP/2.0 200 OK",
            "HTTP/1.1 20 OK",
            "HTTP/1.1 2000 OK",
            "HTTP/1.1  200 OK",
            "HTTP/1.1 abc OK",
            "ICY 200 OK",
            "",
            "HTTP/1.1 099 X",
        ] {
            bad(&format!("{line}\r\n\r\n"));
        }
        for field in [
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: 5, 6",
            "Content-Length: x",
            "Content-Length:",
            "Transfer-Encoding: gzip",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "A: b\r\n folded",
            "A : b",
            "A: b\nB: c",
            "A: b\0",
            "A",
        ] {
            bad(&format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n"));
        }
        bad(&format!(
            "HTTP/1.1 200 OK\r\n{}\r\n",
            "A: b\r\n".repeat(101)
        ));
    }

    #[test]
    fn responses_that_are_written() {
        let check = |head: &ResponseHead, framing, persistence, expected: &str| {
            let mut out = Vec::new();
            head.write(framing, persistence, Some("now"), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        };
        let mut head = ResponseHead::new(200);
        head.headers.push("A", b"b");
        check(
            &head,
            Framing::Length(u64::MAX),
            Persistence::Implied,
            "HTTP/1.1 200 OK\r\nA: b\r\nDate: now\r\nContent-Length: 18446744073709551615\r\n\r\n",
        );
        head.headers.push("date", b"then");
        check(
            &head,
            Framing::Chunked,
            Persistence::Close,
            "HTTP/1.1 200 OK\r\nA: b\r\ndate: then\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        );
        check(
            &head,
            Framing::UntilClose,
            Persistence::KeepAlive,
            "HTTP/1.1 200 OK\r\nA: b\r\ndate: then\r\nConnection: keep-alive\r\n\r\n",
        );
    }
}
