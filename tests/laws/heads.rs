//! Heads of requests and responses.

use std::collections::HashSet;

use swiftiply::internals::http::body::Framing;
use swiftiply::internals::http::head::{
    BadHead, HeadLimits, HeadScanner, Method, Persistence, Refusal, RequestHead, ResponseHead,
    Version, write_field,
};
use swiftiply::internals::http::headers::Headers;
use swiftiply::internals::http::target::Host;

use super::{LIMITS, ends};

/// Enough for whatever is written of a head within [`LIMITS`].
const WIDE: HeadLimits = HeadLimits {
    head: 64 * 1024,
    fields: 256,
    target: 1024,
};

/// Heads of requests: the cuts do not matter, what is accepted means the same to a simple reader, and what is written
/// of it is read as the same.
pub(super) fn request_head(message: &[u8], cuts: &[usize]) {
    let whole = read_request(message, &[], &LIMITS);
    if cuts.is_empty() {
        if let Ok(Some((end, head))) = &whole {
            judge_request(&message[..*end], head);
            rewrite_request(head);
        }
        return;
    }
    let pieces = read_request(message, cuts, &LIMITS);
    let about_size = |refusal: &Refusal| matches!(refusal.status, 414 | 431);
    match (&whole, &pieces) {
        // Excess is reported before the rest arrives, which may have another fault.
        (Err(one), Err(other)) => assert!(
            one.status == other.status || about_size(one) || about_size(other),
            "whole: {one}, in pieces: {other}"
        ),
        // A refusal may come before the head is complete; then nothing that follows may make it valid.
        (Ok(None), Err(refusal)) => {
            for rest in ["\r\n\r\n", "\n\r\n", " HTTP/1.1\r\nHost: a\r\n\r\n"] {
                let longer = [message, rest.as_bytes()].concat();
                let read = read_request(&longer, &[], &LIMITS);
                assert!(!matches!(read, Ok(Some(_))), "{refusal} in pieces only");
            }
        }
        _ => assert_eq!(whole, pieces),
    }
}

/// Scans bytes that come in pieces, and parses the head in them. `None`: it is not complete.
pub(crate) fn read_request(
    message: &[u8],
    cuts: &[usize],
    limits: &HeadLimits,
) -> Result<Option<(usize, RequestHead)>, Refusal> {
    let mut scanner = HeadScanner::new();
    for end in ends(cuts, message) {
        if let Some(end) = scanner.scan(&message[..end], limits)? {
            return Ok(Some((end, RequestHead::parse(&message[..end], limits)?)));
        }
    }
    Ok(None)
}

fn judge_request(bytes: &[u8], head: &RequestHead) {
    let simple = SimpleHead::read(bytes, 2);
    let line = format!(
        "{} {} HTTP/1.{}",
        head.method.as_str(),
        // An absolute target has lost its host, and may have got a slash.
        simple.line.split(' ').nth(1).unwrap_or_default(),
        u8::from(head.version == Version::Http11)
    );
    assert_eq!(simple.line, line);
    let sent = simple.line.split(' ').nth(1).unwrap_or_default();
    match head.target.authority() {
        None => assert_eq!(head.target.as_str(), sent),
        // RFC 9112 3.2.4: without a path, OPTIONS is about the whole server.
        Some(_) if head.target.is_asterisk() => {
            let (_, rest) = sent.split_once("//").expect("a scheme");
            assert!(
                head.method == Method::Options && !rest.contains(['/', '?']),
                "{:?} {sent} became *",
                head.method
            );
        }
        Some(_) => assert!(
            sent.ends_with(head.target.as_str().trim_start_matches('/')),
            "{sent} became {}",
            head.target.as_str()
        ),
    }
    let ambiguous = head.ambiguous.clone().unwrap_or_default();
    simple.assert_fields(&head.headers, Some(&ambiguous));
    let lengths = simple.all("content-length");
    match simple.all("transfer-encoding")[..] {
        [] => match lengths[..] {
            [] => assert_eq!(head.framing, Framing::Empty),
            [length] => assert_eq!(head.framing, Framing::Length(decimal(length))),
            _ => panic!("{} lengths", lengths.len()),
        },
        [coding] => {
            assert!(
                coding.eq_ignore_ascii_case(b"chunked") && lengths.is_empty(),
                "accepted with transfer coding {:?} and {} lengths",
                String::from_utf8_lossy(coding),
                lengths.len()
            );
            assert!(
                head.framing == Framing::Chunked && head.version == Version::Http11,
                "chunked, read as {:?} in {:?}",
                head.framing,
                head.version
            );
        }
        _ => panic!("two codings"),
    }
    let hosts = simple.all("host");
    assert!(
        hosts.len() <= 1,
        "accepted with {} Host fields",
        hosts.len()
    );
    let named = hosts.first().and_then(|host| Host::parse(host));
    match (head.target.authority(), &named) {
        (Some(meant), Some(named)) => assert!(
            meant.is_same(named),
            "the target names {meant:?}, Host {named:?}"
        ),
        (Some(_), None) => {}
        (None, named) => assert_eq!(head.host, *named),
    }
    assert!(
        head.host.is_some() || head.version == Version::Http10,
        "accepted without a host: {}",
        simple.line
    );
    if head.method == Method::Options {
        let named = simple.all("max-forwards");
        // The largest numbers are too large for either.
        let number = |value: &[u8]| str::from_utf8(value).ok()?.parse::<u128>().ok();
        let named = named
            .first()
            .map(|value| number(value).unwrap_or(u128::MAX));
        let most = |named: u128| u32::try_from(named).unwrap_or(u32::MAX);
        assert_eq!(head.max_forwards, named.map(most));
        assert!(
            simple.all("max-forwards").len() <= 1,
            "accepted with two Max-Forwards fields"
        );
    } else {
        assert_eq!(head.max_forwards, None);
    }
    if let Some(protocols) = &head.upgrade {
        let bodiless = matches!(head.framing, Framing::Empty | Framing::Length(0));
        assert!(
            bodiless && head.version == Version::Http11,
            "an upgrade with {:?} in {:?}",
            head.framing,
            head.version
        );
        let said = |name, value: &[u8]| {
            let fields = simple.all(name);
            let mut elements = fields.iter().flat_map(|list| list.split(|b| *b == b','));
            elements.any(|element| trimmed(element).eq_ignore_ascii_case(value))
        };
        assert!(
            said("connection", b"upgrade"),
            "an upgrade without Connection: upgrade"
        );
        for protocol in protocols.split(|byte| *byte == b',').map(trimmed) {
            assert!(
                said("upgrade", protocol),
                "an upgrade to {:?}, which was not asked for",
                String::from_utf8_lossy(protocol)
            );
            let name = protocol.split(|byte| *byte == b'/').next().expect("a name");
            let name = name.to_ascii_lowercase();
            assert!(
                !name.is_empty()
                    && !["http", "h2", "h2c", "tls"]
                        .map(str::as_bytes)
                        .contains(&&*name),
                "an upgrade to {:?}",
                String::from_utf8_lossy(&name)
            );
        }
    }
}

/// What is written of a request's head is a head of its own, and means the same.
fn rewrite_request(head: &RequestHead) {
    let mut head = head.clone();
    let dropped = head.admit_ambiguous(|_| true);
    for (name, _) in head.headers.iter().filter(|(name, _)| is_ambiguous(name)) {
        let dashed = name.to_ascii_lowercase().replace(['_', '.'], "-");
        let reserved = HOP_BY_HOP.contains(&&*dashed)
            || OF_PROXIES.contains(&&*dashed)
            || dashed.starts_with("x-forwarded-");
        assert!(!reserved, "{name} is passed on");
    }
    assert!(
        dropped.iter().all(|(name, _)| is_ambiguous(name)),
        "a field was dropped whose name is not ambiguous: {dropped:?}"
    );
    let mut out = Vec::new();
    // HTTP/1.0 may come without a host; HTTP/1.1 is read with one only.
    let first = |out: &mut Vec<u8>| {
        if head.host.is_none() {
            write_field("Host", b"none", out);
        }
    };
    head.write(first, head.framing, |_| true, &mut out);
    let shown = out.escape_ascii();
    let (end, mut again) = read_request(&out, &[], &WIDE)
        .unwrap_or_else(|refusal| panic!("{refusal}: {shown}"))
        .unwrap_or_else(|| panic!("no end: {shown}"));
    assert_eq!(end, out.len(), "{shown}");
    judge_request(&out, &again);
    assert!(again.admit_ambiguous(|_| true).is_empty(), "{shown}");
    assert_eq!(again.target.as_str(), head.target.as_str());
    assert_eq!(again.target.path(), head.target.path());
    assert_eq!(again.target.query(), head.target.query());
    let expected = RequestHead {
        target: again.target.clone(),
        version: Version::Http11,
        host: head.host.clone().or(Host::parse(b"none")),
        persistent: true,
        expect_continue: false,
        max_forwards: head.max_forwards.map(|left| left.saturating_sub(1)),
        ..head
    };
    assert_eq!(again, expected, "{shown}");
}

/// Heads of responses: as those of requests.
pub(super) fn response_head(message: &[u8], cuts: &[usize]) {
    let whole = read_response(message, &[], &LIMITS);
    if cuts.is_empty() {
        if let Ok(Some((end, head))) = &whole {
            judge_response(&message[..*end], head);
            rewrite_response(head);
        }
        return;
    }
    // All that is refused of a response is answered with 502, whatever the reason.
    let pieces = read_response(message, cuts, &LIMITS);
    assert_eq!(whole.map_err(drop), pieces.map_err(drop));
}

pub(crate) fn read_response(
    message: &[u8],
    cuts: &[usize],
    limits: &HeadLimits,
) -> Result<Option<(usize, ResponseHead)>, BadHead> {
    let mut scanner = HeadScanner::response();
    for end in ends(cuts, message) {
        let found = scanner.scan(&message[..end], limits);
        if let Some(end) = found.map_err(|refusal| BadHead(refusal.why))? {
            return Ok(Some((end, ResponseHead::parse(&message[..end], limits)?)));
        }
    }
    Ok(None)
}

fn judge_response(bytes: &[u8], head: &ResponseHead) {
    let simple = SimpleHead::read(bytes, 0);
    let minor = u8::from(head.version == Version::Http11);
    let line = format!(
        "HTTP/1.{minor} {} {}",
        head.status,
        String::from_utf8_lossy(&head.reason)
    );
    // The blank behind the status may be left out with the reason.
    assert_eq!(simple.line.trim_end(), line.trim_end());
    simple.assert_fields(&head.headers, None);
    let lengths = simple.all("content-length");
    let each = lengths.iter().flat_map(|list| list.split(|b| *b == b','));
    let each: HashSet<u64> = each.map(|length| decimal(trimmed(length))).collect();
    assert!(each.len() <= 1, "two different lengths");
    match simple.all("transfer-encoding")[..] {
        [] => assert!(
            !head.chunked && head.length == each.into_iter().next(),
            "without a coding: chunked {}, length {:?}",
            head.chunked,
            head.length
        ),
        [coding] => {
            assert!(
                coding.eq_ignore_ascii_case(b"chunked") && head.chunked,
                "transfer coding {:?}, chunked: {}",
                String::from_utf8_lossy(coding),
                head.chunked
            );
            assert!(
                head.length.is_none(),
                "chunked with a length, {:?}",
                head.length
            );
            let old = head.version == Version::Http10;
            assert_eq!(head.conflicting, old || !each.is_empty());
        }
        _ => panic!("two codings"),
    }
    assert_eq!(head.framing(&Method::Head), Framing::Empty);
    if head.status < 200 || head.status == 204 || head.status == 304 {
        assert_eq!(head.framing(&Method::Get), Framing::Empty);
    }
    assert!(
        head.upgrade.is_none() || head.status == 101,
        "status {} with an upgrade",
        head.status
    );
}

/// What is written of a response's head is a head of its own, and means the same.
fn rewrite_response(head: &ResponseHead) {
    let check = |framing: Framing, persistence: Persistence, date: Option<&str>| {
        let mut out = Vec::new();
        head.write(framing, persistence, date, &mut out);
        let shown = out.escape_ascii();
        let (end, again) = read_response(&out, &[], &WIDE)
            .unwrap_or_else(|bad| panic!("{bad:?}: {shown}"))
            .unwrap_or_else(|| panic!("no end: {shown}"));
        assert_eq!(end, out.len(), "{shown}");
        judge_response(&out, &again);
        let mut headers = head.headers.clone();
        if let Some(date) = date.filter(|_| !headers.contains("Date")) {
            headers.push("Date", date.as_bytes());
        }
        let expected = ResponseHead {
            version: Version::Http11,
            headers,
            length: match framing {
                Framing::Length(length) => Some(length),
                _ => None,
            },
            chunked: framing == Framing::Chunked,
            conflicting: false,
            persistent: persistence != Persistence::Close,
            upgrade: head
                .upgrade
                .clone()
                .filter(|_| persistence == Persistence::Upgrade),
            ..head.clone()
        };
        assert_eq!(again, expected, "{shown}");
    };
    let framing = head.framing(&Method::Get);
    check(framing, Persistence::Implied, None);
    check(framing, Persistence::Close, Some("now"));
    check(Framing::Chunked, Persistence::KeepAlive, Some("now"));
    if let Some(length) = head.length {
        // To HEAD and with 304.
        check(Framing::Length(length), Persistence::Implied, None);
    }
    if head.upgrade.is_some() {
        check(Framing::Empty, Persistence::Upgrade, None);
    }
}

/// A head as a simple reader takes it: lines, and colons in them.
struct SimpleHead<'h> {
    line: String,
    fields: Vec<(String, &'h [u8])>,
}

impl<'h> SimpleHead<'h> {
    /// Reads a head that was accepted, and complains of what should not have been.
    fn read(bytes: &'h [u8], empty_lines: usize) -> Self {
        let mut head = bytes;
        for _ in 0..empty_lines {
            head = head.strip_prefix(b"\r\n").unwrap_or(head);
        }
        let mut lines = Vec::new();
        loop {
            let line = line(head).expect("an empty line at the end");
            head = &head[line.len() + 2..];
            if line.is_empty() {
                break;
            }
            let control = |byte: &u8| *byte < b' ' && *byte != b'\t' || *byte == 0x7f;
            assert!(!line.iter().any(control), "{}", line.escape_ascii());
            lines.push(line);
        }
        assert!(head.is_empty(), "bytes behind the end of the head");
        let (first, rest) = lines.split_first().expect("a first line");
        let fields = rest.iter().map(|line| {
            let colon = line.iter().position(|byte| *byte == b':').expect("a colon");
            let token = |byte: &u8| byte.is_ascii_alphanumeric() || TOKEN.contains(byte);
            let (name, value) = (&line[..colon], &line[colon + 1..]);
            assert!(!name.is_empty() && name.iter().all(token), "{name:?}");
            (String::from_utf8_lossy(name).into_owned(), trimmed(value))
        });
        Self {
            line: String::from_utf8_lossy(first).into_owned(),
            fields: fields.collect(),
        }
    }

    /// The values of all fields of a name.
    fn all(&self, name: &str) -> Vec<&'h [u8]> {
        let named = |field: &&(String, &'h [u8])| field.0.eq_ignore_ascii_case(name);
        let found = self.fields.iter().filter(named);
        found.map(|(_, value)| *value).collect()
    }

    /// The fields that were kept are those of both ends, in order and as they were spelt; of a request, those whose names
    /// are ambiguous apart from the others.
    fn assert_fields(&self, kept: &Headers, ambiguous: Option<&Headers>) {
        let request = ambiguous.is_some();
        let options = self.all("connection");
        let options = options.iter().flat_map(|list| list.split(|b| *b == b','));
        let named: Vec<&[u8]> = options.map(trimmed).collect();
        let is_options = request && self.line.starts_with("OPTIONS ");
        let goes = |name: &str| {
            let lower = name.to_ascii_lowercase();
            // These are words of their own in Connection, not names.
            let word = ["close", "keep-alive", "upgrade"].contains(&&*lower);
            let named = named
                .iter()
                .any(|option| option.eq_ignore_ascii_case(name.as_bytes()));
            HOP_BY_HOP.contains(&&*lower)
                || request && OF_REQUESTS.contains(&&*lower)
                || is_options && lower == "max-forwards"
                || named && !word && !PROTECTED.iter().any(|known| lower.starts_with(known))
        };
        let expected = self.fields.iter().filter(|(name, _)| !goes(name));
        let expected = expected.map(|(name, value)| (name.as_str(), *value));
        let (apart, expected): (Vec<_>, Vec<_>) =
            expected.partition(|(name, _)| request && is_ambiguous(name));
        assert_eq!(kept.iter().collect::<Vec<_>>(), expected);
        let ambiguous = ambiguous.into_iter().flat_map(Headers::iter);
        assert_eq!(ambiguous.collect::<Vec<_>>(), apart);
    }
}

/// What may stand in a name beside letters and digits (RFC 9110 5.6.2).
const TOKEN: &[u8] = b"!#$%&'*+-.^_`|~";

/// Fields of one connection, and those of which there is something better than a field in a head.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

const OF_REQUESTS: &[&str] = &["host", "expect"];

/// Some of the fields that only proxies may send.
const OF_PROXIES: &[&str] = &["x-real-ip", "x-request-start", "x-sendfile"];

/// Whether applications may take the name for another one.
fn is_ambiguous(name: &str) -> bool {
    name.contains(['_', '.'])
}

/// How names begin that cannot be named away. None of these is the beginning of another one that can.
const PROTECTED: &[&str] = &[
    "host",
    "content-length",
    "authorization",
    "cookie",
    "forwarded",
    "max-forwards",
    "x-real-ip",
    "x-forwarded-",
];

/// The bytes before the first CRLF. A CR or LF of their own are not in them.
pub(super) fn line(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some(&bytes[..end])
}

/// Without spaces and tabs on both sides.
fn trimmed(value: &[u8]) -> &[u8] {
    let blank = |byte: &u8| b" \t".contains(byte);
    let start = value.iter().position(|byte| !blank(byte));
    let end = value.iter().rposition(|byte| !blank(byte));
    match (start, end) {
        (Some(start), Some(end)) => &value[start..=end],
        _ => &[],
    }
}

/// A number of digits alone.
fn decimal(value: &[u8]) -> u64 {
    assert!(
        !value.is_empty() && value.iter().all(u8::is_ascii_digit),
        "not a number of digits: {:?}",
        String::from_utf8_lossy(value)
    );
    let text = String::from_utf8_lossy(value);
    text.parse().expect("a number of 64 bits")
}
