//! Heads of requests and responses (RFC 9112 2 to 6).
//!
//! A [`HeadScanner`] finds the end of a head while it comes in; then [`RequestHead::parse`] or [`ResponseHead::parse`]
//! takes the head apart, and `write` makes a new one of the parts. `httparse` splits the fields; it accepts more than a
//! proxy may, so the strict rules stand here.
//!
//! **Invariants**: what concerns one connection only (Connection and what it names, framing, Upgrade, Expect) is
//! taken out of the fields and stands in the head's own members; a head has exactly one framing; the result does not
//! depend on how the bytes were cut.

use std::borrow::Cow;
use std::fmt;

use httparse::Status;
use memchr::{memchr, memchr_iter};

use super::body::Framing;
use super::headers::Headers;
use super::target::{Host, Target};

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

/// Finds the end of a head as its bytes come in. No byte is looked at twice, so that a head that is sent byte by
/// byte costs no more than another; faults are found as early as they can be.
#[derive(Clone, Debug)]
pub struct HeadScanner {
    /// Where to go on.
    at: u32,
    /// Where the present line begins.
    line: u32,
    place: Place,
    empty_lines: u8,
    response: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In front of the first line.
    Before,
    /// In the first line.
    First,
    /// In the fields.
    Fields,
}

/// The head of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// What to do.
    pub method: Method,
    /// To what.
    pub target: Target,
    /// The version of the visitor.
    pub version: Version,
    /// The host that is meant; `None` only with HTTP/1.0.
    pub host: Option<Host>,
    /// End-to-end fields but Host, Content-Length and Expect.
    pub headers: Headers,
    /// How the end of the body is told; never [`Framing::UntilClose`].
    pub framing: Framing,
    /// Whether the visitor wants to keep the connection (RFC 9112 9.3).
    pub persistent: bool,
    /// Whether the visitor waits for 100 (Continue) before it sends the body (RFC 9110 10.1.1).
    pub expect_continue: bool,
    /// The protocols to which the connection may be switched (RFC 9110 7.8), of those that do not carry HTTP themselves.
    pub upgrade: Option<Box<[u8]>>,
}

/// The head of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status code, three digits.
    pub status: u16,
    /// The reason phrase; may be empty.
    pub reason: Cow<'static, [u8]>,
    /// The version of the backend.
    pub version: Version,
    /// End-to-end fields but Content-Length.
    pub headers: Headers,
    /// The value of Content-Length. With HEAD and 304 it says what GET would bring.
    pub length: Option<u64>,
    /// Whether the body comes in chunks.
    pub chunked: bool,
    /// There were two framings. The chunks count, and nothing behind them can be trusted.
    pub conflicting: bool,
    /// Whether the backend says that it keeps the connection.
    pub persistent: bool,
    /// The protocol of a 101.
    pub upgrade: Option<Box<[u8]>>,
}

/// What the Connection field of a response says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// `close`.
    Close,
    /// `keep-alive`, which HTTP/1.0 needs to be told.
    KeepAlive,
    /// There is none: an HTTP/1.1 connection is kept.
    Implied,
    /// `upgrade`, with a 101.
    Upgrade,
}

impl Refusal {
    /// A 400 (Bad Request).
    pub const fn bad(why: &'static str) -> Self {
        Self { status: 400, why }
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

impl HeadScanner {
    /// For the head of a request.
    pub const fn new() -> Self {
        Self {
            at: 0,
            line: 0,
            place: Place::Before,
            empty_lines: 0,
            response: false,
        }
    }

    /// For the head of a response. Of its refusals only the reason is of use.
    pub const fn response() -> Self {
        Self {
            response: true,
            ..Self::new()
        }
    }

    /// Looks at all that has come of a message so far. Returns the length of the head, with empty lines in front and the
    /// empty line at its end, as soon as all of it is there.
    ///
    /// # Errors
    /// 400 for bare CR or LF, control bytes and more than two empty lines in front (none before a response); 414 and 431
    /// for what is over the limits.
    pub fn scan(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<Option<usize>, Refusal> {
        let within = &bytes[..bytes.len().min(limits.head)];
        if let Some(end) = self.whole(within) {
            return Ok(Some(end));
        }
        let (mut at, mut line) = (self.at as usize, self.line as usize);
        let end = loop {
            if self.place == Place::Before && at == line {
                match within.get(line) {
                    None => break None,
                    Some(b'\r') => {}
                    Some(first) if self.response || is_token(*first) => self.place = Place::First,
                    Some(b'\n') => return Err(Refusal::bad(BARE_LF)),
                    Some(_) => return Err(Refusal::bad("a first byte that no method has")),
                }
            }
            let Some(length) = memchr(b'\n', &within[at..]) else {
                // A final CR is looked at again when it is known what follows it.
                let end = within.len() - usize::from(within[at..].ends_with(b"\r"));
                check_text(&within[at..end])?;
                at = end;
                break None;
            };
            let feed = at + length;
            if feed == line || within[feed - 1] != b'\r' {
                return Err(Refusal::bad(BARE_LF));
            }
            if feed > at {
                check_text(&within[at..feed - 1])?;
            }
            let empty = feed - 1 == line;
            (at, line) = (feed + 1, feed + 1);
            match (empty, self.place) {
                (true, Place::Before) => {
                    self.empty_lines += 1;
                    if self.response || self.empty_lines > MOST_EMPTY_LINES {
                        return Err(Refusal::bad("too many empty lines in front"));
                    }
                }
                (true, _) => break Some(at),
                (false, _) => self.place = Place::Fields,
            }
        };
        if end.is_none() {
            self.check_sizes(&within[line..], bytes.len(), limits)?;
        }
        // Both are within the limit of a head.
        (self.at, self.line) = (at as u32, line as u32);
        Ok(end)
    }

    /// The length of a head that came in one piece and breaks none of the rules, as nearly all do: found with a few
    /// instructions for many bytes at a time. Everything else takes the long way, which knows what is wrong.
    fn whole(&self, bytes: &[u8]) -> Option<usize> {
        let first = bytes.first()?;
        let fresh = self.at == 0 && self.place == Place::Before;
        if !fresh || !(self.response && *first > b' ' || is_token(*first)) {
            return None;
        }
        let mut feeds = memchr_iter(b'\n', bytes);
        let end = feeds.find(|feed| bytes[feed + 1..].starts_with(b"\r\n"))? + 3;
        (!breaks_text(&bytes[..end])).then_some(end)
    }

    /// A head that is not complete may already be too large.
    fn check_sizes(
        &self,
        line: &[u8],
        received: usize,
        limits: &HeadLimits,
    ) -> Result<(), Refusal> {
        if self.place == Place::First && !self.response && line.len() > limits.target {
            let target =
                memchr(b' ', &line[..MOST_METHOD.min(line.len())]).map(|space| &line[space + 1..]);
            let Some(target) = target else {
                return Err(METHOD_TOO_LONG);
            };
            if target.len() > limits.target && memchr(b' ', target).is_none() {
                return Err(TARGET_TOO_LONG);
            }
        }
        match received >= limits.head {
            true => Err(Refusal {
                status: 431,
                why: "the head is over the limit",
            }),
            false => Ok(()),
        }
    }
}

impl Default for HeadScanner {
    fn default() -> Self {
        Self::new()
    }
}

impl RequestHead {
    /// Takes a head apart that a [`HeadScanner`] has found.
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
        let host = match fields.hosts {
            [None, _] => None,
            [Some(host), None] => {
                Some(Host::parse(host).ok_or(Refusal::bad("an invalid Host field"))?)
            }
            [Some(_), Some(_)] => return Err(Refusal::bad("two Host fields")),
        };
        if host.is_none() && version == Version::Http11 {
            return Err(Refusal::bad("no Host field"));
        }
        // RFC 9112 3.2.2: the target's authority counts, and we do not take part in a disagreement.
        let host = match (target.authority(), host) {
            (Some(meant), Some(host)) if !meant.is_same(&host) => {
                return Err(Refusal::bad("a Host field other than the target's host"));
            }
            (Some(meant), _) => Some(meant.clone()),
            (None, host) => host,
        };
        let expect_continue = match fields.expect {
            None => false,
            Some(value) if value.eq_ignore_ascii_case(b"100-continue") => {
                version == Version::Http11
            }
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
            framing,
            expect_continue,
        })
    }

    /// Whether a body follows.
    pub const fn has_body(&self) -> bool {
        !matches!(self.framing, Framing::Empty | Framing::Length(0))
    }

    /// Whether a 101 switches to what was asked for: to one protocol of the offered ones, or several on top of each other
    /// (RFC 9110 7.8).
    pub fn is_switched_by(&self, response: &ResponseHead) -> bool {
        let (Some(offered), Some(chosen)) = (&self.upgrade, &response.upgrade) else {
            return false;
        };
        let mut chosen = list(chosen).peekable();
        let is_offered = |protocol| list(offered).any(|one| one.eq_ignore_ascii_case(protocol));
        let switches = response.status == 101 && response.version == Version::Http11;
        switches && chosen.peek().is_some() && chosen.all(is_offered)
    }

    /// Writes a new head: request line (in origin-form, HTTP/1.1), Host, the fields that `first` writes, those of the
    /// request for which `keep` is true, the framing, and the upgrade.
    pub fn write(
        &self,
        first: impl FnOnce(&mut Vec<u8>),
        framing: Framing,
        keep: impl Fn(&[u8]) -> bool,
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(self.method.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.target.as_str().as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        if let Some(host) = &self.host {
            write_field("Host", host.as_str().as_bytes(), out);
        }
        first(out);
        self.headers.write_some(keep, out);
        write_framing(framing, out);
        if let Some(protocols) = &self.upgrade {
            write_field("Connection", b"upgrade", out);
            write_field("Upgrade", protocols, out);
        }
        out.extend_from_slice(b"\r\n");
    }
}

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

    /// Takes a head apart that a [`HeadScanner`] has found.
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
            // RFC 9112 6.3: the chunks count, and what else was said must not be passed on. HTTP/1.0 knows no chunks (6.1).
            conflicting: chunked && (length.is_some() || version == Version::Http10),
            length: if chunked { None } else { length },
            chunked,
        })
    }

    /// How the end of the body is told, in answer to this method (RFC 9112 6.3).
    pub const fn framing(&self, request: &Method) -> Framing {
        match (self.status, request, self.chunked, self.length) {
            (100..=199 | 204 | 304, ..) | (_, Method::Head, ..) => Framing::Empty,
            (_, _, true, _) => Framing::Chunked,
            (_, _, _, Some(length)) => Framing::Length(length),
            _ => Framing::UntilClose,
        }
    }

    /// Writes a head: status line (HTTP/1.1), the fields in their order, Date if there is none yet, the framing, and
    /// what happens to the connection.
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

    /// Writes what is the same each time that this is sent: status line, fields and framing. [`write_rest`] has what is
    /// to follow.
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

    /// The usual reason phrase of a status that we send (RFC 9110 15).
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

/// The fields of a message, those of one connection set apart.
#[derive(Default)]
struct Fields<'h> {
    headers: Headers,
    /// The first two of each, for two are a fault.
    hosts: [Option<&'h [u8]>; 2],
    encodings: [Option<&'h [u8]>; 2],
    /// There is rarely more than one, and room for one costs no allocation.
    length: Option<&'h [u8]>,
    more_lengths: Vec<&'h [u8]>,
    expect: Option<&'h [u8]>,
    /// A list, which may come in several fields.
    upgrade: Option<Cow<'h, [u8]>>,
    close: bool,
    keep_alive: bool,
    upgrade_option: bool,
}

impl<'h> Fields<'h> {
    /// Reads the field lines of a head, up to and with the empty line.
    fn parse(lines: &'h [u8], limits: &HeadLimits, request: bool) -> Result<Self, &'static str> {
        // Most heads have few fields, and making room for more costs time.
        let mut few = [httparse::EMPTY_HEADER; USUAL_FIELDS];
        let few = &mut few[..limits.fields.min(USUAL_FIELDS)];
        let parsed = match httparse::parse_headers(lines, few) {
            Err(httparse::Error::TooManyHeaders) if limits.fields > USUAL_FIELDS => {
                let mut many = [httparse::EMPTY_HEADER; MOST_FIELDS];
                let many = &mut many[..limits.fields.min(MOST_FIELDS)];
                return Self::parsed(httparse::parse_headers(lines, many), lines, request);
            }
            parsed => parsed,
        };
        Self::parsed(parsed, lines, request)
    }

    fn parsed(
        parsed: httparse::Result<(usize, &[httparse::Header<'h>])>,
        lines: &'h [u8],
        request: bool,
    ) -> Result<Self, &'static str> {
        match parsed {
            Ok(Status::Complete((_, fields))) => Self::collect(fields, lines, request),
            Ok(Status::Partial) => Err("the head has no end"),
            Err(error) => Err(fault(error)),
        }
    }

    fn collect(
        parsed: &[httparse::Header<'h>],
        lines: &'h [u8],
        request: bool,
    ) -> Result<Self, &'static str> {
        let mut fields = Self {
            headers: Headers::with_capacity(parsed.len(), lines.len()),
            ..Self::default()
        };
        let mut nominated: Vec<&[u8]> = Vec::new();
        for field in parsed {
            let value = trim(field.value);
            match Kind::of(field.name) {
                Kind::EndToEnd => {
                    // Applications take `A_B` and `A-B` for the same, so one could pass for the other.
                    if !request || !field.name.as_bytes().contains(&b'_') {
                        match usual_line(lines, field.name, value) {
                            Some(line) => fields.headers.push_line(line, field.name.len()),
                            None => fields.headers.push(field.name, value),
                        }
                    }
                }
                Kind::Host if request => keep_two(&mut fields.hosts, value),
                Kind::Expect if request => fields.expect = Some(value),
                Kind::Host | Kind::Expect => fields.headers.push(field.name, value),
                Kind::TransferEncoding => keep_two(&mut fields.encodings, value),
                Kind::ContentLength => match fields.length {
                    None => fields.length = Some(value),
                    Some(_) => fields.more_lengths.push(value),
                },
                Kind::Upgrade => {
                    fields.upgrade = Some(match fields.upgrade.take() {
                        None => Cow::Borrowed(value),
                        Some(first) => Cow::Owned([&*first, value].join(&b", "[..])),
                    });
                }
                Kind::Connection => {
                    for option in list(value) {
                        fields.option(option, &mut nominated);
                    }
                }
                Kind::HopByHop => {}
            }
        }
        for name in nominated {
            // What is not a name cannot name a field.
            if let Ok(name) = str::from_utf8(name) {
                fields.headers.remove(name);
            }
        }
        Ok(fields)
    }

    /// An option of the Connection field. Most name a field that is for the next hop only; some fields are too
    /// important to be named away.
    fn option(&mut self, option: &'h [u8], nominated: &mut Vec<&'h [u8]>) {
        if option.eq_ignore_ascii_case(b"close") {
            self.close = true;
        } else if option.eq_ignore_ascii_case(b"keep-alive") {
            self.keep_alive = true;
        } else if option.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade_option = true;
        } else if !is_protected(option) {
            nominated.push(option);
        }
    }

    const fn is_persistent(&self, version: Version) -> bool {
        match version {
            Version::Http10 => self.keep_alive && !self.close,
            Version::Http11 => !self.close,
        }
    }

    fn request_framing(&self, version: Version) -> Result<Framing, Refusal> {
        match (&self.encodings, self.length, &*self.more_lengths) {
            ([None, _], None, _) => Ok(Framing::Empty),
            ([None, _], Some(length), []) => match parse_length(length) {
                Some(length) => Ok(Framing::Length(length)),
                None => Err(Refusal::bad("an invalid Content-Length field")),
            },
            ([None, _], Some(_), [_, ..]) => Err(Refusal::bad("two Content-Length fields")),
            (_, Some(_), _) => Err(Refusal::bad("Content-Length and Transfer-Encoding")),
            ([Some(_), Some(_)], ..) => Err(Refusal::bad("two Transfer-Encoding fields")),
            _ if version == Version::Http10 => Err(Refusal::bad("Transfer-Encoding in HTTP/1.0")),
            ([Some(coding), None], ..) if coding.eq_ignore_ascii_case(b"chunked") => {
                Ok(Framing::Chunked)
            }
            ([Some(coding), None], ..)
                if !coding.is_empty() && coding.iter().all(|b| is_token(*b)) =>
            {
                Err(Refusal {
                    status: 501,
                    why: "an unknown transfer coding",
                })
            }
            _ => Err(Refusal::bad("a transfer coding other than chunked")),
        }
    }

    /// Several lengths are one if they are all alike (RFC 9110 8.6).
    fn response_length(&self) -> Result<Option<u64>, BadHead> {
        let mut found = None;
        let lists = self.length.iter().chain(&self.more_lengths);
        for value in lists.flat_map(|list| list.split(|byte| *byte == b',')) {
            let length =
                parse_length(trim(value)).ok_or(BadHead("an invalid Content-Length field"))?;
            if found.is_some_and(|found| found != length) {
                return Err(BadHead("two different lengths"));
            }
            found = Some(length);
        }
        Ok(found)
    }
}

/// What a field is to us.
#[derive(Clone, Copy)]
enum Kind {
    EndToEnd,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
    Expect,
    /// For one connection only (RFC 9110 7.6.1).
    HopByHop,
}

impl Kind {
    fn of(name: &str) -> Self {
        // By length first, so that most fields are done with after one comparison of numbers.
        let known: &[(&str, Self)] = match name.len() {
            2 => &[("te", Self::HopByHop)],
            4 => &[("host", Self::Host)],
            6 => &[("expect", Self::Expect)],
            7 => &[("upgrade", Self::Upgrade), ("trailer", Self::HopByHop)],
            10 => &[
                ("connection", Self::Connection),
                ("keep-alive", Self::HopByHop),
            ],
            14 => &[("content-length", Self::ContentLength)],
            16 => &[("proxy-connection", Self::HopByHop)],
            17 => &[("transfer-encoding", Self::TransferEncoding)],
            18 => &[("proxy-authenticate", Self::HopByHop)],
            19 => &[("proxy-authorization", Self::HopByHop)],
            _ => &[],
        };
        let found = known
            .iter()
            .find(|(known, _)| name.eq_ignore_ascii_case(known));
        found.map_or(Self::EndToEnd, |(_, kind)| *kind)
    }
}

/// Whether a byte may stand in a token (RFC 9110 5.6.2).
pub(super) const fn is_token(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9'
        | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

/// Fields that a visitor cannot have removed by naming them in Connection.
fn is_protected(name: &[u8]) -> bool {
    let protected: [&[u8]; 6] = [
        b"host",
        b"content-length",
        b"authorization",
        b"cookie",
        b"forwarded",
        b"x-real-ip",
    ];
    let forwarding = b"x-forwarded-";
    protected
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known))
        || name
            .get(..forwarding.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(forwarding))
}

/// The protocols of an Upgrade field to which a connection may be switched; `None` if there are none, or if it is no
/// list of protocols.
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

fn parse_request_line(
    line: &[u8],
    limits: &HeadLimits,
) -> Result<(Method, Target, Version), Refusal> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (method, target, version) = (parts.next(), parts.next(), parts.next());
    let method = method
        .and_then(Method::parse)
        .ok_or(Refusal::bad("a method that is not a token"))?;
    // While a head comes in, no end of the method is looked for behind that.
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

fn parse_status_line(line: &[u8]) -> Result<(u16, Cow<'static, [u8]>, Version), BadHead> {
    let version = match line.get(..9) {
        Some(b"HTTP/1.1 ") => Version::Http11,
        Some(b"HTTP/1.0 ") => Version::Http10,
        _ => return Err(BadHead("a status line without a version that is known")),
    };
    let (digits, rest) = line[9..]
        .split_at_checked(3)
        .ok_or(BadHead("a status that is cut short"))?;
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

/// The first line, without its end, and what follows it.
fn split_first_line(head: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr(b'\n', head).unwrap_or(head.len());
    let line = head[..end].strip_suffix(b"\r").unwrap_or(&head[..end]);
    (line, head.get(end + 1..).unwrap_or_default())
}

/// The line of a field, if it stands in the head as we would write it, with one blank in front of the value.
fn usual_line<'h>(lines: &'h [u8], name: &str, value: &[u8]) -> Option<&'h [u8]> {
    // The name is a part of the lines.
    let start = (name.as_ptr() as usize).checked_sub(lines.as_ptr() as usize)?;
    let line = lines.get(start..start + name.len() + value.len() + 4)?;
    let (head, rest) = line.split_at(name.len());
    let same = rest.starts_with(b": ") && rest.ends_with(b"\r\n") && head == name.as_bytes();
    (same && rest[2..rest.len() - 2] == *value).then_some(line)
}

/// Digits only, and no more than fit (RFC 9110 8.6).
fn parse_length(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.len() <= 19 && value.iter().all(u8::is_ascii_digit);
    let number = |number, digit: &u8| number * 10 + u64::from(*digit - b'0');
    digits.then(|| value.iter().fold(0, number))
}

/// Takes away blanks and tabs on both sides, and nothing else.
const fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The elements of a list (RFC 9110 5.6.1), those that are empty left out.
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let elements = value.split(|byte| *byte == b',').map(trim);
    elements.filter(|element| !element.is_empty())
}

fn keep_two<'h>(pair: &mut [Option<&'h [u8]>; 2], value: &'h [u8]) {
    match pair {
        [first @ None, _] => *first = Some(value),
        [_, second] => *second = Some(value),
    }
}

/// No control bytes but tabs; CR is one of them here, where it does not end a line.
fn check_text(bytes: &[u8]) -> Result<(), Refusal> {
    let is_bad = |byte: u8| (byte < b' ' && byte != b'\t') | (byte == 0x7f);
    // Without a way out in the middle, the compiler checks many bytes at a time.
    if !bytes.iter().fold(false, |bad, byte| bad | is_bad(*byte)) {
        return Ok(());
    }
    match bytes.iter().find(|byte| is_bad(**byte)) {
        None => Ok(()),
        Some(b'\r') => Err(Refusal::bad("a carriage return without a line feed")),
        Some(_) => Err(Refusal::bad("a control byte in the head")),
    }
}

/// Whether there is a control byte other than a tab, or half a line end. The bytes end with a line feed.
fn breaks_text(bytes: &[u8]) -> bool {
    // Each byte and the one behind it: a line feed stands right behind a carriage return and nowhere else.
    let (one, next) = (&bytes[..bytes.len() - 1], &bytes[1..]);
    let (ones, one_rest) = one.as_chunks();
    let (nexts, next_rest) = next.as_chunks();
    let mut bad = 0;
    for (one, next) in ones.iter().zip(nexts) {
        bad |= break_text(one, next);
    }
    if let (Some(one), Some(next)) = (one.last_chunk(), next.last_chunk()) {
        // The rest, and once more some of what was seen already.
        return bad | break_text(one, next) != 0;
    }
    let rest = one_rest.iter().zip(next_rest);
    rest.fold(bad, |bad, (one, next)| bad | break_pair(*one, *next)) != 0
}

/// Not 0 if some of these pairs break the rules. Of a fixed size and without a way out in the middle, so that the
/// compiler looks at all of them at once.
fn break_text(one: &[u8; 16], next: &[u8; 16]) -> u8 {
    let mut bad = [0; 16];
    for (bad, (one, next)) in bad.iter_mut().zip(one.iter().zip(next)) {
        *bad = break_pair(*one, *next);
    }
    bad.iter().fold(0, |all, bad| all | bad)
}

const fn break_pair(one: u8, next: u8) -> u8 {
    let (tab, cr, lf) = (next == b'\t', next == b'\r', next == b'\n');
    let control = (next < b' ') & !tab & !cr & !lf | (next == 0x7f);
    (control | ((one == b'\r') != lf)) as u8
}

/// What the library found wrong, in our words.
const fn fault(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "an invalid field name",
        httparse::Error::HeaderValue => "an invalid field value",
        httparse::Error::NewLine => BARE_LF,
        httparse::Error::TooManyHeaders => TOO_MANY_FIELDS,
        httparse::Error::Status => "an invalid status line",
        httparse::Error::Token | httparse::Error::Version => "an invalid first line",
    }
}

/// Writes what ends the head of a response of our own, behind [`ResponseHead::write_first`].
pub fn write_rest(persistence: Persistence, date: &str, out: &mut Vec<u8>) {
    write_field("Date", date.as_bytes(), out);
    match persistence {
        Persistence::Close => write_field("Connection", b"close", out),
        Persistence::KeepAlive => write_field("Connection", b"keep-alive", out),
        Persistence::Implied | Persistence::Upgrade => {}
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a field line (RFC 9112 5). The name must be a token and the value free of control bytes.
pub fn write_field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn write_framing(framing: Framing, out: &mut Vec<u8>) {
    match framing {
        Framing::Length(length) => {
            out.extend_from_slice(b"Content-Length: ");
            write_number(length, out);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Framing::Empty | Framing::UntilClose => {}
    }
}

fn write_number(number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    let mut left = number;
    loop {
        start -= 1;
        digits[start] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

const BARE_LF: &str = "a line feed without a carriage return";
const METHOD_TOO_LONG: Refusal = Refusal::bad("a method over the limit");
const TARGET_TOO_LONG: Refusal = Refusal {
    status: 414,
    why: "the target is over the limit",
};
const VERSION_UNKNOWN: Refusal = Refusal {
    status: 505,
    why: "a version other than HTTP/1.0 and HTTP/1.1",
};
const NOT_ALLOWED: Refusal = Refusal {
    status: 405,
    why: "a method that is not served",
};
/// Protocols that carry HTTP themselves: requests within them would get past everything that is decided here. Nobody
/// needs them; RFC 9113 has taken back the upgrade to HTTP/2.
const CARRIERS: [&[u8]; 4] = [b"h2c", b"h2", b"http", b"tls"];
/// Slots for fields on the stack.
const MOST_FIELDS: usize = 256;
const USUAL_FIELDS: usize = 32;
const TOO_MANY_FIELDS: &str = "too many fields";
/// Bytes of a method and the blank behind it.
const MOST_METHOD: usize = 64;
const MOST_EMPTY_LINES: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

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
        refused(400, "GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n");
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
    fn an_upgrade_is_offered_without_what_carries_http() {
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
        refused(417, &with("Expect: something\r\n"));
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
    fn a_head_byte_by_byte_is_looked_at_once() {
        let input = with(&"Name: value\r\n".repeat(90));
        let limits = HeadLimits::default();
        let mut scanner = HeadScanner::new();
        for end in 0..input.len() {
            assert_eq!(
                scanner.scan(&input.as_bytes()[..end], &limits),
                Ok(None),
                "{end}"
            );
            assert!(scanner.at as usize + 1 >= end);
        }
        assert_eq!(
            scanner.scan(input.as_bytes(), &limits),
            Ok(Some(input.len()))
        );
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
