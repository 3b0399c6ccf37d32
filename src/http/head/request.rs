//! Heads of requests (RFC 9112 3).

use super::fields::{Fields, is_continue, list};
use super::names::{MAX_FORWARDS, is_reserved};
use super::response::ResponseHead;
use super::scan::{METHOD_TOO_LONG, MOST_METHOD, TARGET_TOO_LONG};
use super::write::{write_field, write_framing, write_number_field};
use crate::http::body::Framing;
use crate::http::headers::Headers;
use crate::http::limits::HeadLimits;
use crate::http::refusal::{Refusal, TOO_MANY_FIELDS};
use crate::http::syntax::{Method, Version, is_token, split_first_line};
use crate::http::target::{Host, Target};

/// The head of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The target.
    pub target: Target,
    /// The version of the client.
    pub version: Version,
    /// The requested host; `None` only with HTTP/1.0.
    pub host: Option<Host>,
    /// End-to-end fields, except Host, Content-Length, Expect and those in `ambiguous`.
    pub headers: Headers,
    /// Fields with `_` or `.` in their names, which applications may confuse with those with `-`. They are only
    /// forwarded after [`RequestHead::admit_ambiguous`] has moved them to `headers`.
    pub ambiguous: Option<Box<Headers>>,
    /// How the end of the body is marked; never [`Framing::UntilClose`].
    pub framing: Framing,
    /// Whether the client wants to keep the connection (RFC 9112 9.3).
    pub persistent: bool,
    /// Whether the client waits for 100 (Continue) before it sends the body (RFC 9110 10.1.1).
    pub expect_continue: bool,
    /// The protocols that the client offers to switch to (RFC 9110 7.8), without those that carry HTTP themselves.
    pub upgrade: Option<Box<[u8]>>,
    /// Max-Forwards of an OPTIONS request: how many more proxies and gateways may forward it (RFC 9110 7.6.2). At 0
    /// the recipient responds itself. With other methods the field has no meaning and is one of the `headers`.
    pub max_forwards: Option<u32>,
}

impl RequestHead {
    /// Parses a head that a [`HeadScanner`](super::HeadScanner) has found.
    ///
    /// # Errors
    /// The status and the rule, for everything that two readers might understand differently.
    pub fn parse(head: &[u8], limits: &HeadLimits) -> Result<Self, Refusal> {
        let mut head = head;
        while let Some(rest) = head.strip_prefix(b"\r\n") {
            head = rest;
        }
        let (line, rest) = split_first_line(head);
        let (method, target, version) = parse_request_line(line, limits)?;
        let fields = Fields::parse(rest, limits, true).map_err(|why| Refusal {
            status: if why == TOO_MANY_FIELDS { 431 } else { 400 },
            why,
        })?;
        Self::check(method, target, version, fields)
    }

    fn check(
        method: Method,
        target: Target,
        version: Version,
        fields: Fields<'_>,
    ) -> Result<Self, Refusal> {
        let framing = fields.request_framing(version)?;
        let host = meant_host(&target, fields.hosts, version)?;
        let mut fields = fields;
        let max_forwards = match method {
            Method::Options => take_max_forwards(&mut fields.headers)?,
            // TRACE, the other method with this field, is refused.
            _ => None,
        };
        let expect_continue = match fields.expect {
            None => false,
            Some(value) if is_continue(value) => version == Version::Http11,
            Some(_) => {
                return Err(Refusal {
                    status: 417,
                    why: "an expectation other than 100-continue",
                });
            }
        };
        let bodiless = matches!(framing, Framing::Empty | Framing::Length(0));
        let upgrades = fields.upgrade_option && version == Version::Http11 && bodiless;
        let offered = fields.upgrade.as_deref().filter(|_| upgrades);
        Ok(Self {
            upgrade: offered.and_then(switchable),
            persistent: fields.is_persistent(version),
            method,
            target,
            version,
            host,
            headers: fields.headers,
            ambiguous: fields.ambiguous,
            framing,
            expect_continue,
            max_forwards,
        })
    }

    /// Moves the fields with ambiguous names that `keep` accepts to the end of `headers`, and returns the rest. A
    /// field is never kept if an application could confuse it with one of framing, of the connection or of a proxy.
    pub fn admit_ambiguous(&mut self, keep: impl Fn(&str) -> bool) -> Headers {
        let mut dropped = Headers::new();
        for (name, value) in self.ambiguous.take().iter().flat_map(|all| all.iter()) {
            let headers = match keep(name) && !is_reserved(name) {
                true => &mut self.headers,
                false => &mut dropped,
            };
            headers.push(name, value);
        }
        dropped
    }

    /// Whether a body follows.
    pub const fn has_body(&self) -> bool {
        !matches!(self.framing, Framing::Empty | Framing::Length(0))
    }

    /// Whether a 101 switches to offered protocols: to one, or to several layered on each other (RFC 9110 7.8).
    pub fn is_switched_by(&self, response: &ResponseHead) -> bool {
        let (Some(offered), Some(chosen)) = (&self.upgrade, &response.upgrade) else {
            return false;
        };
        let mut chosen = list(chosen).peekable();
        let is_offered = |protocol| list(offered).any(|one| one.eq_ignore_ascii_case(protocol));
        let switches = response.status == 101 && response.version == Version::Http11;
        switches && chosen.peek().is_some() && chosen.all(is_offered)
    }

    /// Writes the head for forwarding: request line (origin-form, HTTP/1.1), Host, the fields that `first` writes, the
    /// fields of the request that `keep` accepts, Max-Forwards decremented, the framing, and the upgrade.
    pub fn write(
        &self,
        first: impl FnOnce(&mut Vec<u8>),
        framing: Framing,
        keep: impl Fn(&[u8]) -> bool,
        out: &mut Vec<u8>,
    ) {
        self.write_with(self.target.as_str(), first, framing, keep, out);
    }

    /// The same as [`RequestHead::write`], with another target.
    pub fn write_with(
        &self,
        target: &str,
        first: impl FnOnce(&mut Vec<u8>),
        framing: Framing,
        keep: impl Fn(&[u8]) -> bool,
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(self.method.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(target.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        if let Some(host) = &self.host {
            write_field("Host", host.as_str().as_bytes(), out);
        }
        first(out);
        self.headers.write_some(keep, out);
        if let Some(left) = self.max_forwards {
            let left = left.saturating_sub(1);
            write_number_field(MAX_FORWARDS, "", left.into(), out);
        }
        write_framing(framing, out);
        if let Some(protocols) = &self.upgrade {
            write_field("Connection", b"upgrade", out);
            write_field("Upgrade", protocols, out);
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// The requested host, from the target or the Host field; `None` only with HTTP/1.0.
///
/// A target in absolute-form has its own host. RFC 9112 3.2.2 makes a recipient ignore Host then, and 3.2 makes the
/// client send the same in both. So if the two differ, the client is in error, or it wants a firewall, cache or log in
/// front of us to see another site than the one that responds. Therefore such a request is refused.
fn meant_host(
    target: &Target,
    fields: [Option<&[u8]>; 2],
    version: Version,
) -> Result<Option<Host>, Refusal> {
    let host = match fields {
        [None, _] => None,
        [Some(field), None] => {
            Some(Host::parse(field).ok_or(Refusal::bad("an invalid Host field"))?)
        }
        [Some(_), Some(_)] => return Err(Refusal::bad("two Host fields")),
    };
    if host.is_none() && version == Version::Http11 {
        return Err(Refusal::bad("no Host field"));
    }
    match (target.authority(), host) {
        (Some(meant), Some(host)) if !meant.is_same(&host) => {
            Err(Refusal::bad("a Host field other than the target's host"))
        }
        (Some(meant), _) => Ok(Some(meant.clone())),
        (None, host) => Ok(host),
    }
}

fn parse_request_line(
    line: &[u8],
    limits: &HeadLimits,
) -> Result<(Method, Target, Version), Refusal> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (method, target, version) = (parts.next(), parts.next(), parts.next());
    let method = method
        .and_then(Method::parse)
        .ok_or(Refusal::bad("a method that is not a token"))?;
    // The scanner does not search for the end of the method after this many bytes.
    if method.as_str().len() >= MOST_METHOD {
        return Err(METHOD_TOO_LONG);
    }
    let target = target.filter(|target| !target.is_empty());
    let target = target.ok_or(Refusal::bad("a request line without a target"))?;
    if target.len() > limits.target {
        return Err(TARGET_TOO_LONG);
    }
    let version = match (version, parts.next()) {
        // A request line of HTTP/0.9.
        (None, _) => return Err(VERSION_UNKNOWN),
        (_, Some(_)) => return Err(Refusal::bad("more than two spaces in the request line")),
        (Some(b"HTTP/1.1"), None) => Version::Http11,
        (Some(b"HTTP/1.0"), None) => Version::Http10,
        (Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]), None)
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(VERSION_UNKNOWN);
        }
        (Some(_), None) => return Err(Refusal::bad("a request line without a version")),
    };
    if matches!(method.as_str(), "CONNECT" | "TRACE") {
        return Err(NOT_ALLOWED);
    }
    let target = Target::parse(&method, target)?;
    Ok((method, target, version))
}

/// Removes the Max-Forwards field of an OPTIONS request from the fields and returns its value. A number that is too
/// large becomes the largest one, which the RFC allows. Anything else is refused, as Apache does: forwarding it
/// unchanged could not end a loop.
fn take_max_forwards(headers: &mut Headers) -> Result<Option<u32>, Refusal> {
    let mut values = headers.get_all(MAX_FORWARDS);
    let value = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value,
        (Some(_), Some(_)) => return Err(Refusal::bad("two Max-Forwards fields")),
    };
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::bad("an invalid Max-Forwards field"));
    }
    let number = value.iter().fold(0_u32, |number, digit| {
        let digit = u32::from(*digit - b'0');
        number.saturating_mul(10).saturating_add(digit)
    });
    drop(values);
    headers.remove(MAX_FORWARDS);
    Ok(Some(number))
}

/// The protocols of an Upgrade field that may be switched to; `None` if there are none or the list is invalid.
fn switchable(value: &[u8]) -> Option<Box<[u8]>> {
    let token = |part: &[u8]| !part.is_empty() && part.iter().all(|byte| is_token(*byte));
    let mut protocols: Vec<&[u8]> = Vec::new();
    for protocol in list(value) {
        let mut parts = protocol.splitn(2, |byte| *byte == b'/');
        let name = parts.next().unwrap_or_default();
        if !token(name) || !parts.next().is_none_or(token) {
            return None;
        }
        if !CARRIERS
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known))
        {
            protocols.push(protocol);
        }
    }
    (!protocols.is_empty()).then(|| protocols.join(&b", "[..]).into())
}

const VERSION_UNKNOWN: Refusal = Refusal {
    status: 505,
    why: "a version other than HTTP/1.0 and HTTP/1.1",
};
const NOT_ALLOWED: Refusal = Refusal {
    status: 405,
    why: "a method that is not supported",
};
/// Protocols that carry HTTP themselves: requests within them would bypass all rules of the proxy. They are not
/// needed; RFC 9113 has removed the upgrade to HTTP/2.
const CARRIERS: [&[u8]; 4] = [b"h2c", b"h2", b"http", b"tls"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::HeadScanner;

    /// Scans and parses, the bytes coming in two parts.
    fn request(parts: [&[u8]; 2]) -> Result<(RequestHead, usize), Refusal> {
        let limits = HeadLimits::default();
        let mut scanner = HeadScanner::new();
        if let Some(end) = scanner.scan(parts[0], &limits)? {
            return Ok((RequestHead::parse(&parts[0][..end], &limits)?, end));
        }
        let whole = parts.concat();
        match scanner.scan(&whole, &limits)? {
            Some(end) => Ok((RequestHead::parse(&whole[..end], &limits)?, end)),
            None => Err(Refusal::bad("not complete")),
        }
    }

    fn check(input: &[u8], judge: impl Fn(Result<(RequestHead, usize), Refusal>, usize)) {
        for cut in 0..=input.len() {
            let (one, other) = input.split_at(cut);
            judge(request([one, other]), cut);
        }
    }

    fn refused(status: u16, input: &str) {
        check(input.as_bytes(), |result, cut| match result {
            Err(refusal) => assert_eq!(refusal.status, status, "{input:?} cut at {cut}: {refusal}"),
            Ok((head, _)) => panic!("{input:?} cut at {cut}: {head:?}"),
        });
    }

    fn accepted(input: &str, judge: impl Fn(&RequestHead) -> bool) {
        let bytes = [input.as_bytes(), b"NEXT"].concat();
        check(&bytes, |result, cut| match result {
            Ok((head, end)) => {
                assert!(judge(&head), "{input:?} cut at {cut}: {head:?}");
                assert_eq!(end, input.len(), "{input:?} cut at {cut}");
            }
            Err(refusal) => panic!("{input:?} cut at {cut}: {refusal}"),
        });
    }

    /// A request with these lines behind `GET / HTTP/1.1` and Host.
    fn with(lines: &str) -> String {
        format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
    }

    #[test]
    fn request_lines() {
        accepted(&with(""), |head| {
            head.method == Method::Get && head.target.as_str() == "/"
        });
        accepted("\r\n\r\nPURGE /x?y HTTP/1.0\r\n\r\n", |head| {
            head.method.as_str() == "PURGE"
                && head.version == Version::Http10
                && head.host.is_none()
        });
        accepted("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", |head| {
            head.target.is_asterisk()
        });
        for (status, line) in [
            (400, "\r\n\r\n\r\nGET / HTTP/1.1"),
            (400, "GET  / HTTP/1.1"),
            (400, "GET /  HTTP/1.1"),
            (400, "GET / HTTP/1.1 "),
            (400, " GET / HTTP/1.1"),
            (400, "GET\t/ HTTP/1.1"),
            (400, "G(T / HTTP/1.1"),
            (400, "GET /a b HTTP/1.1"),
            (400, "GET /a#b HTTP/1.1"),
            (400, "GET /ä HTTP/1.1"),
            (400, "GET /\x01 HTTP/1.1"),
            (400, "GET * HTTP/1.1"),
            (400, "GET x HTTP/1.1"),
            (400, "GET / http/1.1"),
            (400, "GET / HTTP/11"),
            (400, "GET / HTTP/1.10"),
            (400, "\x16\x03\x01\x02 / HTTP/1.1"),
            (405, "CONNECT a:80 HTTP/1.1"),
            (405, "TRACE / HTTP/1.1"),
            (505, "GET / HTTP/2.0"),
            (505, "GET / HTTP/0.9"),
            (505, "GET / HTTP/1.2"),
            (505, "GET /"),
        ] {
            refused(status, &format!("{line}\r\nHost: a\r\n\r\n"));
        }
        assert_eq!(request([b"\x16", b""]).unwrap_err().status, 400);
        let method = |length: usize| format!("{} / HTTP/1.0\r\n\r\n", "A".repeat(length));
        accepted(&method(63), |head| head.method.as_str().len() == 63);
        refused(400, &method(64));
    }

    #[test]
    fn line_ends_and_fields() {
        for input in [
            "GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nHost: a\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nHost: a\r\n\n".to_owned(),
            "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n".to_owned(),
            with("A: b\rc\r\n"),
            with("A: b\0c\r\n"),
            with("A: b\x7f\r\n"),
            with("A : b\r\n"),
            with("A\r\n"),
            with(": b\r\n"),
            with(" A: b\r\n"),
            with("A: b\r\n c\r\n"),
            with("Ä: b\r\n"),
            with("A(: b\r\n"),
        ] {
            refused(400, &input);
        }
        accepted(&with("A: \t b c \t\r\nB:\r\nC:ä\r\n"), |head| {
            head.headers.iter().collect::<Vec<_>>()
                == [("A", &b"b c"[..]), ("B", b""), ("C", "ä".as_bytes())]
        });
    }

    #[test]
    fn hosts() {
        accepted(&with(""), |head| {
            head.host.as_ref().is_some_and(|host| host.name() == "a")
        });
        accepted("GET http://B:8/x HTTP/1.1\r\nHost: b:8\r\n\r\n", |head| {
            head.host.as_ref().is_some_and(|host| host.name() == "b")
                && head.target.as_str() == "/x"
        });
        accepted("GET http://b/x HTTP/1.0\r\n\r\n", |head| {
            head.host.is_some()
        });
        refused(400, "GET / HTTP/1.1\r\n\r\n");
        refused(400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n");
        refused(400, "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n");
        refused(400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n");
        refused(400, "GET / HTTP/1.1\r\nHost:\r\n\r\n");
        refused(400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n");
        for (target, host) in [
            ("http://b/x", "a"),
            ("https://b/x", "a"),
            ("http://b:8/x", "b"),
            ("http://b/x", "b:8"),
            ("http://b:8/x", "b:9"),
            ("http://a.b/x", "b"),
            ("http://[::1]/x", "[::2]"),
        ] {
            for version in ["1.0", "1.1"] {
                refused(
                    400,
                    &format!("GET {target} HTTP/{version}\r\nHost: {host}\r\n\r\n"),
                );
            }
        }
        refused(400, "GET http://b/x HTTP/1.1\r\n\r\n");
    }

    #[test]
    fn framing_of_requests() {
        let framed = |lines: &str, framing| accepted(&with(lines), |head| head.framing == framing);
        framed("", Framing::Empty);
        framed("Content-Length: 5\r\n", Framing::Length(5));
        framed("content-length:\t0005 \r\n", Framing::Length(5));
        framed("Transfer-Encoding: Chunked\r\n", Framing::Chunked);
        framed("Transfer-Encoding:\tchunked \r\n", Framing::Chunked);
        for (status, lines) in [
            (400, "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
            (400, "Content-Length: 5\r\nContent-Length: 5\r\n"),
            (400, "Content-Length: 5, 5\r\n"),
            (400, "Content-Length: +5\r\n"),
            (400, "Content-Length: -5\r\n"),
            (400, "Content-Length: 5 5\r\n"),
            (400, "Content-Length: 0x5\r\n"),
            (400, "Content-Length:\r\n"),
            (400, "Content-Length: 00000000000000000005\r\n"),
            (400, "Content-Length: 18446744073709551616\r\n"),
            (
                400,
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            ),
            (400, "Transfer-Encoding: chunked, chunked\r\n"),
            (400, "Transfer-Encoding: gzip, chunked\r\n"),
            (400, "Transfer-Encoding:\r\n"),
            (400, "Transfer-Encoding: \"chunked\"\r\n"),
            (400, "Transfer-Encoding: chunked;q=1\r\n"),
            (501, "Transfer-Encoding: gzip\r\n"),
            (501, "Transfer-Encoding: identity\r\n"),
            (501, "Transfer-Encoding: xchunked\r\n"),
        ] {
            refused(status, &with(lines));
        }
        refused(400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
    }

    #[test]
    fn what_concerns_the_connection_is_taken_out() {
        let lines = "Connection: X-One, keep-alive, Cookie, close , authorization\r\nX-One: 1\r\nX_Two: 2\r\nCookie: c\r\n\
                     Authorization: d\r\nKeep-Alive: 5\r\nTE: trailers\r\nTrailer: e\r\nProxy-Connection: f\r\nX-Three: 3\r\n";
        accepted(&with(lines), |head| {
            let names: Vec<_> = head.headers.iter().map(|(name, _)| name).collect();
            names == ["Cookie", "Authorization", "X-Three"] && !head.persistent
        });
    }

    #[test]
    fn ambiguous_names_are_dropped() {
        let names = |headers: &Headers| {
            let names = headers.iter().map(|(name, _)| name.to_owned());
            names.collect::<Vec<_>>()
        };
        let lines = "Connection: x_named\r\napi_key: 1\r\nX-One: 2\r\nX_Named: 3\r\nContent_Length: 4\r\na.b:5\r\n\
                     X_Forwarded_For: 6\r\nX.Real.IP: 7\r\napi_key: 8\r\n";
        accepted(&with(lines), |head| {
            let mut out = Vec::new();
            head.write(|_| (), head.framing, |_| true, &mut out);
            out == b"GET / HTTP/1.1\r\nHost: a\r\nX-One: 2\r\n\r\n"
        });
        accepted(&with(lines), |head| {
            let mut head = head.clone();
            let dropped = head.admit_ambiguous(|_| true);
            names(&dropped) == ["Content_Length", "X_Forwarded_For", "X.Real.IP"]
                && names(&head.headers) == ["X-One", "api_key", "a.b", "api_key"]
                && head.headers.get("a.b") == Some(b"5")
                && head.headers.get_all("api_key").eq([b"1", b"8"])
                && head.ambiguous.is_none()
                && head.framing == Framing::Empty
        });
        accepted(&with(lines), |head| {
            let mut head = head.clone();
            let dropped = head.admit_ambiguous(|name| !name.contains('_'));
            dropped.len() == 5 && names(&head.headers) == ["X-One", "a.b"]
        });
    }

    #[test]
    fn connection_options_are_limited() {
        let named = |count| with(&format!("Connection: {}\r\nX: 1\r\n", "x,".repeat(count)));
        accepted(&named(256), |head| head.headers.is_empty());
        refused(400, &named(257));
    }

    #[test]
    fn upgrade_is_offered_without_http_fields() {
        let check = |lines: &str, expected: Option<&str>| {
            accepted(&with(lines), |head| {
                let mut out = Vec::new();
                head.write(|_| (), head.framing, |_| true, &mut out);
                let out = String::from_utf8(out).unwrap();
                let written = expected.is_none_or(|protocols| {
                    out.contains(&format!("Connection: upgrade\r\nUpgrade: {protocols}\r\n"))
                });
                head.upgrade.as_deref() == expected.map(str::as_bytes)
                    && head.headers.is_empty()
                    && written
                    && out.contains("Upgrade: ") == expected.is_some()
            });
        };
        check(
            "Connection: upgrade\r\nUpgrade: websocket\r\n",
            Some("websocket"),
        );
        check(
            "connection: keep-alive,UPGRADE\r\nupgrade: WebSocket\r\n",
            Some("WebSocket"),
        );
        check(
            "Connection: upgrade\r\nUpgrade: a/1,\tb/2.0 ,, c\r\n",
            Some("a/1, b/2.0, c"),
        );
        check(
            "Connection: upgrade\r\nUpgrade: a\r\nUpgrade: b\r\n",
            Some("a, b"),
        );
        check(
            "Connection: upgrade\r\nUpgrade: a\r\nContent-Length: 0\r\n",
            Some("a"),
        );
        check(
            "Connection: upgrade\r\nUpgrade: H2C, a, h2, HTTP/2.0, tls/1.0\r\n",
            Some("a"),
        );
        check(
            "Connection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM\r\n",
            None,
        );
        check("Connection: upgrade\r\n", None);
        check("Connection: upgrade\r\nUpgrade: ,\r\n", None);
        check("Connection: upgrade\r\nUpgrade: a b\r\n", None);
        check("Connection: upgrade\r\nUpgrade: a, /1\r\n", None);
        check("Connection: upgrade\r\nUpgrade: a/1/2\r\n", None);
        check("Upgrade: websocket\r\n", None);
        check("Connection: close\r\nUpgrade: websocket\r\n", None);
        check(
            "Connection: upgrade\r\nUpgrade: a\r\nContent-Length: 1\r\n",
            None,
        );
        check(
            "Connection: upgrade\r\nUpgrade: a\r\nTransfer-Encoding: chunked\r\n",
            None,
        );
        let old = "GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: a\r\n\r\n";
        accepted(old, |head| head.upgrade.is_none());
    }

    #[test]
    fn a_switch_is_to_what_was_offered() {
        let check = |offered: &str, answer: &str, expected: bool| {
            let lines = format!("Connection: upgrade\r\nUpgrade: {offered}\r\n");
            accepted(&with(&lines), |head| {
                let answer = format!("HTTP/{answer}\r\n\r\n");
                let limits = HeadLimits::default();
                let answer = ResponseHead::parse(answer.as_bytes(), &limits).unwrap();
                head.is_switched_by(&answer) == expected
            });
        };
        check("websocket", "1.1 101 \r\nUpgrade: WebSocket", true);
        check("a, b", "1.1 101 \r\nUpgrade: b", true);
        check("a, b", "1.1 101 \r\nUpgrade: a\r\nUpgrade: b", true);
        check("a, h2c", "1.1 101 \r\nUpgrade: h2c", false);
        check("a", "1.1 101 \r\nUpgrade: b", false);
        check("a", "1.1 101 \r\nUpgrade: a, b", false);
        check("a", "1.1 101 \r\nUpgrade: ,", false);
        check("a", "1.1 101 ", false);
        check("a/1", "1.1 101 \r\nUpgrade: a", false);
        check("a", "1.1 200 \r\nUpgrade: a", false);
        check("a", "1.0 101 \r\nUpgrade: a", false);
        check("h2c", "1.1 101 \r\nUpgrade: h2c", false);
    }

    #[test]
    fn max_forwards_counts_for_options() {
        let with =
            |method: &str, lines: &str| format!("{method} /a HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let written = |head: &RequestHead| {
            let mut out = Vec::new();
            head.write(|_| (), head.framing, |_| true, &mut out);
            String::from_utf8(out).unwrap()
        };
        let check = |value: &str, expected: u32, passed_on: &str| {
            let input = with("OPTIONS", &format!("max-forwards: {value}\r\nA: b\r\n"));
            accepted(&input, |head| {
                let passed_on = format!("A: b\r\nMax-Forwards: {passed_on}\r\n\r\n");
                head.max_forwards == Some(expected)
                    && !head.headers.contains("Max-Forwards")
                    && written(head).ends_with(&passed_on)
            });
        };
        check("1", 1, "0");
        check("010", 10, "9");
        check("4294967295", u32::MAX, "4294967294");
        check("4294967296", u32::MAX, "4294967294");
        check(&"9".repeat(100), u32::MAX, "4294967294");
        accepted(&with("OPTIONS", "Max-Forwards: 0\r\n"), |head| {
            head.max_forwards == Some(0)
        });
        accepted(&with("OPTIONS", ""), |head| {
            head.max_forwards.is_none() && !written(head).contains("Max-Forwards")
        });
        accepted(
            "OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 2\r\n\r\n",
            |head| head.max_forwards == Some(2) && head.target.is_asterisk(),
        );
        // It cannot be named away, or a loop would have no end.
        let named = with("OPTIONS", "Connection: Max-Forwards\r\nMax-Forwards: 0\r\n");
        accepted(&named, |head| head.max_forwards == Some(0));
        for lines in [
            "Max-Forwards:\r\n",
            "Max-Forwards: -1\r\n",
            "Max-Forwards: +1\r\n",
            "Max-Forwards: 1.0\r\n",
            "Max-Forwards: 0x1\r\n",
            "Max-Forwards: 1 1\r\n",
            "Max-Forwards: 1, 1\r\n",
            "Max-Forwards: 1\r\nMax-Forwards: 1\r\n",
        ] {
            refused(400, &with("OPTIONS", lines));
            accepted(&with("GET", lines), |head| {
                head.max_forwards.is_none() && written(head).contains(lines.trim_end())
            });
        }
        accepted(&with("GET", "Max-Forwards: 0\r\n"), |head| {
            head.max_forwards.is_none() && written(head).contains("Max-Forwards: 0\r\n")
        });
    }

    #[test]
    fn persistence_and_expectations() {
        accepted(&with(""), |head| head.persistent && !head.expect_continue);
        accepted(&with("Connection: Close\r\n"), |head| !head.persistent);
        accepted("GET / HTTP/1.0\r\n\r\n", |head| !head.persistent);
        accepted("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", |head| {
            head.persistent
        });
        accepted(&with("Expect: 100-Continue\r\n"), |head| {
            head.expect_continue
        });
        accepted("GET / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n", |head| {
            !head.expect_continue
        });
        for lines in [
            "Expect: something\r\n",
            "Expect: something\r\nExpect: 100-continue\r\n",
            "Expect: 100-continue\r\nExpect: something\r\n",
        ] {
            refused(417, &with(lines));
        }
    }

    #[test]
    fn limits() {
        let one = |input: &str| {
            request([input.as_bytes(), b""])
                .map(drop)
                .map_err(|refusal| refusal.status)
        };
        let target = |length: usize| {
            format!(
                "GET /{} HTTP/1.1\r\nHost: a\r\n\r\n",
                "x".repeat(length - 1)
            )
        };
        assert_eq!(one(&target(16384)), Ok(()));
        assert_eq!(one(&target(16385)), Err(414));
        assert_eq!(one(&target(16385)[..16389]), Err(414));
        assert_eq!(one(&"x".repeat(17000)), Err(400));
        let fields = |count: usize| with(&"A: b\r\n".repeat(count - 1));
        assert_eq!(one(&fields(100)), Ok(()));
        assert_eq!(one(&fields(101)), Err(431));
        let size = |bytes: usize| {
            with(&format!(
                "A: {}\r\n",
                "x".repeat(bytes - with("A: \r\n").len())
            ))
        };
        assert_eq!(one(&size(65536)), Ok(()));
        assert_eq!(one(&size(65537)), Err(431));
        assert_eq!(one(&size(70000)[..65536]), Err(431));
    }

    #[test]
    fn what_is_written_is_read() {
        let mut first = Headers::new();
        first.push("X-Forwarded-For", b"192.0.2.1");
        let input = with(
            "Accept: x\r\nX-forwarded-for: spoofed\r\nConnection: close\r\nContent-Length: 3\r\nB:\r\n",
        );
        accepted(&input, |head| {
            let mut out = Vec::new();
            let keep = |name: &[u8]| !first.contains(str::from_utf8(name).unwrap());
            head.write(|out| first.write(out), head.framing, keep, &mut out);
            out == b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\nAccept: x\r\nB: \r\nContent-Length: 3\r\n\r\n"
        });
        accepted(&with("A: b\r\nTransfer-Encoding: chunked\r\n"), |head| {
            let mut out = Vec::new();
            head.write(|_| {}, head.framing, |_| true, &mut out);
            request([&out, b""]).is_ok_and(|(again, _)| again == *head)
        });
    }
}
