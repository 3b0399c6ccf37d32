//! What must hold for any input: one law for each parser of bytes from outside.
//!
//! A law panics where it does not hold. The ordinary tests replay the files of `tests/corpus` through them; the fuzz
//! targets of `tests/fuzz` look for bytes that break them. The judges here read in a second, simple way: whole messages,
//! without states.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::time::Instant;

use swiftiply::config::{Address, Config, Filter, Overrides, Symlinks};
use swiftiply::content::root::{self, Root};
use swiftiply::http::body::{BadBody, Decoder, Framing, LAST_CHUNK, write_chunk};
use swiftiply::http::head::{
    BadHead, HeadLimits, HeadScanner, Method, Persistence, Refusal, RequestHead, ResponseHead,
    Version, write_field,
};
use swiftiply::http::headers::Headers;
use swiftiply::http::target::{Host, Target, decoded};
use swiftiply::preamble::{self, Preamble, PreambleError, PreambleReading};

/// A law, by what it is about.
#[derive(Clone, Copy)]
pub(crate) enum Law {
    /// Of bytes that come in pieces, which end at the given offsets.
    Pieces(fn(&[u8], &[usize])),
    /// Of bytes that are there as a whole.
    Whole(fn(&[u8])),
}

/// The law with the name of a fuzz target and of a folder of the corpus.
pub(crate) fn named(name: &str) -> Law {
    match name {
        "request_head" => Law::Pieces(request_head),
        "response_head" => Law::Pieces(response_head),
        "chunked" => Law::Pieces(chunked),
        "preamble" => Law::Whole(preamble),
        "target" => Law::Whole(target),
        "path" => Law::Whole(path),
        "config" => Law::Whole(config),
        _ => panic!("no law {name}"),
    }
}

impl Law {
    /// Holds the law against an input: the whole of it, cut as it says itself, and byte by byte.
    pub(crate) fn hold(self, input: &[u8]) {
        match self {
            Self::Whole(law) => law(input),
            Self::Pieces(law) => {
                let (message, cuts) = split(input);
                law(message, &[]);
                law(message, &cuts);
                law(message, &(1..message.len()).collect::<Vec<_>>());
            }
        }
    }
}

/// What is behind the last 0xff of an input are the lengths of the pieces in which the rest comes. So a fuzzer can choose
/// them, and a file without that byte is nothing but its message.
pub(crate) fn split(input: &[u8]) -> (&[u8], Vec<usize>) {
    let Some(mark) = input.iter().rposition(|byte| *byte == 0xff) else {
        return (input, Vec::new());
    };
    let mut end = 0;
    let lengths = input[mark + 1..].iter();
    let cuts = lengths.map(|length| {
        end += usize::from(*length);
        end
    });
    (&input[..mark], cuts.collect())
}

/// The ends of all pieces of a message, that of the message last.
fn ends(cuts: &[usize], message: &[u8]) -> impl Iterator<Item = usize> {
    let inner = cuts.iter().copied().filter(|cut| *cut < message.len());
    inner.chain([message.len()])
}

/// The least that a configuration may say, nearly, so that small inputs reach all of them.
pub(crate) const LIMITS: HeadLimits = HeadLimits {
    head: 1024,
    fields: 16,
    target: 64,
};

/// Enough for whatever is written of a head within [`LIMITS`].
const WIDE: HeadLimits = HeadLimits {
    head: 64 * 1024,
    fields: 256,
    target: 1024,
};

/// Heads of requests: the cuts do not matter, what is accepted means the same to a simple reader, and what is written
/// of it is read as the same.
fn request_head(message: &[u8], cuts: &[usize]) {
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
    simple.assert_fields(&head.headers, Some(&head.ambiguous));
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
    let told = hosts.first().and_then(|host| Host::parse(host));
    match (head.target.authority(), &told) {
        (Some(meant), Some(told)) => assert!(
            meant.is_same(told),
            "the target names {meant:?}, Host {told:?}"
        ),
        (Some(_), None) => {}
        (None, told) => assert_eq!(head.host, *told),
    }
    assert!(
        head.host.is_some() || head.version == Version::Http10,
        "accepted without a host: {}",
        simple.line
    );
    if head.method == Method::Options {
        let told = simple.all("max-forwards");
        // The largest numbers are too large for either.
        let number = |value: &[u8]| str::from_utf8(value).ok()?.parse::<u128>().ok();
        let told = told.first().map(|value| number(value).unwrap_or(u128::MAX));
        let most = |told: u128| u32::try_from(told).unwrap_or(u32::MAX);
        assert_eq!(head.max_forwards, told.map(most));
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
fn response_head(message: &[u8], cuts: &[usize]) {
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
fn line(bytes: &[u8]) -> Option<&[u8]> {
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

/// Bodies in chunks: the cuts do not matter, nothing behind the end is touched, a simple reader gets the same, and what
/// is written of the body is read as the same.
fn chunked(message: &[u8], cuts: &[usize]) {
    let whole = decode(Framing::Chunked, message, cuts);
    if !cuts.is_empty() {
        assert_eq!(whole, decode(Framing::Chunked, message, &[]));
        return;
    }
    let simple = dechunk(message);
    match (&whole.verdict, simple) {
        (Ok(Some(end)), simple) => {
            assert_eq!(simple, Some((whole.body.clone(), *end)));
            // No less is the message, and no more belongs to it.
            let alone = decode(Framing::Chunked, &message[..*end], &[]);
            assert_eq!(alone, whole);
            let shorter = decode(Framing::Chunked, &message[..*end - 1], &[]);
            assert_eq!(shorter.verdict, Ok(None));
            rewrite_chunks(&whole.body);
        }
        (Ok(None), simple) => assert_eq!(simple, None),
        // The simple reader knows no limits, and nothing of extensions and trailers.
        (Err(_), _) => {}
    }
    let length = message.len() / 2;
    let fixed = decode(Framing::Length(length as u64), message, &[1, length]);
    assert_eq!(fixed.body, &message[..length]);
    assert_eq!(fixed.verdict, Ok(Some(length)));
}

/// What a decoder made of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    body: Vec<u8>,
    /// The end of the message, if it was reached.
    pub(crate) verdict: Result<Option<usize>, BadBody>,
}

pub(crate) fn decode(framing: Framing, message: &[u8], cuts: &[usize]) -> Decoded {
    let mut decoder = Decoder::new(framing, &LIMITS);
    let mut body = Vec::new();
    let mut at = 0;
    for end in ends(cuts, message) {
        // A cut may lie before the one in front of it.
        let mut left = &message[at.min(end)..end];
        loop {
            let piece = match decoder.next(left) {
                Ok(piece) => piece,
                Err(bad) => {
                    let verdict = Err(bad);
                    return Decoded { body, verdict };
                }
            };
            assert!(
                piece.data.end <= piece.consumed && piece.consumed <= left.len(),
                "of {} bytes {} are used, and data is {:?}",
                left.len(),
                piece.consumed,
                piece.data
            );
            body.extend_from_slice(&left[piece.data]);
            at += piece.consumed;
            left = &left[piece.consumed..];
            if piece.consumed == 0 {
                break;
            }
        }
        assert!(left.is_empty() || decoder.is_done(), "bytes left over");
    }
    let verdict = Ok(decoder.is_done().then_some(at));
    Decoded { body, verdict }
}

/// Takes the body out of a whole message. `None`: it is not complete, or breaks a rule. Returns its end too.
fn dechunk(message: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut body = Vec::new();
    let mut left = message;
    loop {
        let line = line(left)?;
        left = &left[line.len() + 2..];
        let digits = line.split(|byte| *byte == b';').next()?;
        let digits = str::from_utf8(digits).ok()?;
        // A sign would be read too.
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let size = usize::from_str_radix(digits, 16).ok()?;
        if size == 0 {
            break;
        }
        let (data, rest) = left.split_at_checked(size)?;
        body.extend_from_slice(data);
        left = rest.strip_prefix(b"\r\n")?;
    }
    loop {
        let line = line(left)?;
        left = &left[line.len() + 2..];
        if line.is_empty() {
            return Some((body, message.len() - left.len()));
        }
    }
}

fn rewrite_chunks(body: &[u8]) {
    for size in [1, 15, 16, 4096] {
        let mut out = Vec::new();
        for data in body.chunks(size) {
            write_chunk(data, &mut out);
        }
        out.extend_from_slice(LAST_CHUNK);
        let again = decode(Framing::Chunked, &out, &[]);
        assert_eq!(again.body, body);
        assert_eq!(again.verdict, Ok(Some(out.len())));
    }
}

/// Preambles: what is complete stays so and has a key that is known, what is refused or not complete does not depend on
/// where the bytes were cut, and what is written is read.
fn preamble(input: &[u8]) {
    let bytes = &input[..input.len().min(preamble::LONGEST)];
    for keys in [
        &[""][..],
        &["key"],
        &["", "0", "secret"],
        // Lengths whose digits are taken for others: 2110 is 21, 11 and 10.
        &[
            "aaaaaaaaaaaaaaaa",
            "0aaaaaaaaaaaaaaaa",
            "10aaaaaaaaaaaaaaaabbbbbbbbbbbbbbb",
        ],
    ] {
        let keys: Vec<Box<[u8]>> = keys.iter().map(|key| key.as_bytes().into()).collect();
        judge_preamble(bytes, &keys);
    }
    if let Some((id, key)) = bytes.split_at_checked(preamble::ID) {
        let id: &[u8; preamble::ID] = id.try_into().expect("as many bytes as an id has");
        let Ok(written) = preamble::write(id, key) else {
            assert!(key.len() > 255, "a key of {} bytes was refused", key.len());
            return;
        };
        let keys = [key.into()];
        for end in 0..written.len() {
            let reading = preamble::read(&written[..end], &keys);
            assert_eq!(reading, PreambleReading::Partial, "{end} bytes");
        }
        match preamble::read(&written, &keys) {
            PreambleReading::Complete(preamble) => {
                assert_eq!(preamble.id.as_bytes(), id);
                assert_eq!((&*preamble.key, preamble.length), (key, written.len()));
            }
            reading => panic!("{reading:?}"),
        }
    }
}

fn judge_preamble(bytes: &[u8], keys: &[Box<[u8]>]) {
    const START: usize = preamble::PREFIX.len() + preamble::ID;
    let mut complete: Option<Preamble> = None;
    // After how many bytes there was a first result.
    let mut told_at = None;
    for end in 0..=bytes.len() {
        let seen = &bytes[..end];
        let reading = preamble::read(seen, keys);
        let begins = preamble::PREFIX.starts_with(&seen[..end.min(preamble::PREFIX.len())]);
        assert_eq!(
            reading == PreambleReading::Refused(PreambleError::Prefix),
            !begins
        );
        if reading != PreambleReading::Partial {
            told_at = told_at.or(Some(end));
        }
        match reading {
            PreambleReading::Partial => assert!(complete.is_none(), "complete, and then not"),
            PreambleReading::Complete(found) => {
                let id = found.id.as_bytes();
                assert!(
                    found.length <= end && keys.contains(&found.key),
                    "accepted {} bytes of {end}, with key {:?}",
                    found.length,
                    found.key
                );
                let told = seen[preamble::PREFIX.len() + id.len()..found.length].to_vec();
                let digits = format!("{:02x}", found.key.len()).into_bytes();
                let again = [&digits, &*found.key].concat();
                assert!(
                    told.eq_ignore_ascii_case(&again) && told.ends_with(&found.key),
                    "{told:?} was read as length and key {again:?}"
                );
                assert!(
                    seen[preamble::PREFIX.len()..].starts_with(id),
                    "{id:?} is not the id in {seen:?}"
                );
                if id.len() > preamble::ID {
                    // A longer id explains all there is.
                    assert_eq!(found.length, end);
                } else {
                    if let Some(first) = &complete {
                        assert_eq!(found, *first);
                    }
                    assert!(
                        told_at.is_some_and(|at| at >= found.length),
                        "refused before all bytes of the key had arrived"
                    );
                    complete = Some(found);
                }
            }
            // A key is not refused before all of its bytes have arrived.
            PreambleReading::Refused(PreambleError::Key) => {
                assert!(complete.is_none(), "complete, and then refused");
                let digits = str::from_utf8(&seen[START..START + 2]).expect("two digits");
                let length = usize::from_str_radix(digits, 16).expect("two digits");
                assert!(
                    end >= START + 2 + length,
                    "a key of {length} bytes was refused after {end} bytes"
                );
            }
            PreambleReading::Refused(PreambleError::Length) => {
                assert!(complete.is_none(), "complete, and then refused");
                let digits = &seen[START..START + 2];
                assert!(
                    !digits.iter().all(u8::is_ascii_hexdigit),
                    "the length {digits:?} was refused"
                );
            }
            // What came behind a preamble may make it ambiguous.
            PreambleReading::Refused(PreambleError::Prefix | PreambleError::Ambiguous) => {}
        }
    }
}

/// Paths of files: what is accepted is what a simple reader takes for harmless, in one spelling, and it leads to nothing
/// but files below the root.
fn path(input: &[u8]) {
    let decoded = decoded(input);
    let parts = || decoded.split(|byte| *byte == b'/');
    for hidden in [false, true] {
        let harmless = decoded.starts_with(b"/")
            && !decoded.contains(&0)
            && !decoded.contains(&b'\\')
            && !parts().any(|part| part == b"." || part == b"..")
            && (hidden || !parts().any(|part| part.starts_with(b".")));
        let normal = root::normal(&decoded, hidden);
        assert_eq!(normal.is_some(), harmless, "{}", decoded.escape_ascii());
        let Some(normal) = normal else { continue };
        let mut expected = vec![b'/'];
        expected.extend(
            parts()
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join(&b'/'),
        );
        if decoded.ends_with(b"/") && expected.len() > 1 {
            expected.push(b'/');
        }
        assert_eq!(*normal, *expected);
        assert_eq!(root::normal(&normal, hidden).as_deref(), Some(&*normal));
        let inside = Path::new(env!("CARGO_MANIFEST_DIR"));
        let whole = inside.join(OsStr::from_bytes(&normal[1..]));
        let below = whole.strip_prefix(inside).expect("a path below the root");
        assert!(
            below
                .components()
                .all(|part| matches!(part, Component::Normal(_))),
            "{} leaves the directory",
            below.display()
        );
        let root = Root::new(inside, Symlinks::Inside);
        if let Ok(Some((file, _))) = root.open(&normal[1..], Instant::now()) {
            let link = format!("/proc/self/fd/{}", file.as_raw_fd());
            let place = std::fs::read_link(link).expect("where the file is");
            assert!(place.starts_with(inside), "{}", place.display());
        }
    }
}

/// Targets and hosts: what is accepted is what was sent, all of its parts are found in it, it is accepted again, and
/// the path is decoded once.
fn target(input: &[u8]) {
    if let Some(host) = Host::parse(input) {
        judge_host(&host, input);
    }
    for method in [Method::Get, Method::Options] {
        let Ok(target) = Target::parse(&method, input) else {
            continue;
        };
        let (text, path) = (target.as_str(), target.path());
        assert!(
            text.starts_with('/') || text == "*" && method == Method::Options,
            "{method:?} has the target {text}"
        );
        assert_eq!(target.is_asterisk(), text == "*");
        let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
        assert!(text.bytes().all(allowed), "{text}");
        match target.query() {
            Some(query) => assert_eq!(text, format!("{path}?{query}")),
            None => assert_eq!(text, path),
        }
        assert!(!path.contains('?'), "a path with a question mark: {path}");
        match target.authority() {
            None => assert_eq!(text.as_bytes(), input),
            Some(host) => {
                judge_host(host, host.as_str().as_bytes());
                let sent = String::from_utf8_lossy(input);
                let (scheme, rest) = sent.split_once("://").expect("a scheme");
                assert!(
                    ["http", "https"].contains(&&*scheme.to_ascii_lowercase()),
                    "accepted the scheme {scheme}"
                );
                let rest = rest.strip_prefix(host.as_str()).expect("the host");
                // An empty path is sent as a slash.
                assert!(
                    rest == text || !rest.starts_with('/') && text[1..] == *rest,
                    "{sent} became {text}"
                );
            }
        }
        let again = Target::parse(&method, text.as_bytes()).expect("accepted again");
        assert_eq!(
            (again.as_str(), again.path(), again.query()),
            (text, path, target.query())
        );
        assert!(again.authority().is_none(), "{text} has an authority");
        judge_decoded(&target, path.as_bytes());
    }
}

fn judge_decoded(target: &Target, path: &[u8]) {
    let decoded = target.decoded_path();
    let mut left = path;
    let mut expected = Vec::new();
    while let Some((first, rest)) = left.split_first() {
        let byte = (*first == b'%')
            .then(|| rest.get(..2))
            .flatten()
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok());
        expected.push(byte.unwrap_or(*first));
        left = if byte.is_some() { &rest[2..] } else { rest };
    }
    assert_eq!(*decoded, *expected);
    // However a path is encoded, it is the same one.
    if !target.is_asterisk() {
        let encoded: String = decoded.iter().map(|byte| format!("%{byte:02X}")).collect();
        let slashed = format!("/{encoded}");
        let again = Target::parse(&Method::Get, slashed.as_bytes()).expect("a path");
        assert_eq!(again.decoded_path()[1..], *decoded);
    }
}

fn judge_host(host: &Host, sent: &[u8]) {
    assert_eq!(host.as_str().as_bytes(), sent);
    let name = host.name();
    assert!(!name.is_empty() && name.is_ascii(), "{name:?}");
    assert!(
        !name.bytes().any(|byte| byte.is_ascii_uppercase()),
        "{name} is not in lower case"
    );
    assert!(
        !name.contains(['/', '@', '?', '#', ' ', '%']),
        "{name} is no host name"
    );
    let text = match host.port() {
        Some(port) => format!("{name}:{port}"),
        None => name.to_owned(),
    };
    let again = Host::parse(text.as_bytes());
    // A name that ends with two dots loses one.
    if !name.ends_with('.') {
        assert!(again.is_some_and(|again| again.is_same(host)), "{text}");
    }
}

/// Configurations: any text is either one that keeps its promises and is printed as another with the same meaning, or
/// has problems, each with its place.
fn config(input: &[u8]) {
    // Files are read as UTF-8 before they get here. Key files would be opened.
    let text = match str::from_utf8(input) {
        Ok(text) if !text.contains("key_file") => text,
        _ => return,
    };
    let overrides = Overrides {
        directory: Some("/srv".into()),
        ..Overrides::default()
    };
    let file = Path::new("s.yml");
    // All that ends a line in YAML.
    let lines = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']);
    let lines = lines.count();
    let judge = |place: &Path, line: Option<usize>, shown: String| {
        assert_eq!(place, file);
        // The end of a text that is cut short is the line behind its last one.
        assert!(
            line.is_none_or(|line| (1..=lines + 1).contains(&line)),
            "line {line:?} of {lines}"
        );
        assert!(!shown.contains('\n'), "{shown}");
        let known = ["missing", "empty", "not a configuration"];
        assert!(
            line.is_some() || known.iter().any(|known| shown.contains(known)),
            "no line: {shown}"
        );
    };
    match Config::from_yaml(text, file, &overrides) {
        Err(problems) => {
            assert!(!problems.0.is_empty(), "refused without a problem: {text}");
            for problem in &problems.0 {
                judge(&problem.file, problem.line, problem.to_string());
            }
        }
        Ok((mut config, notes)) => {
            for note in notes {
                judge(&note.file, note.line, note.to_string());
            }
            judge_config(&config);
            let printed = config.to_yaml();
            let again = Config::from_yaml(&printed, file, &overrides);
            let (mut again, _) = again.unwrap_or_else(|problems| panic!("{printed}\n{problems}"));
            assert_eq!(again.to_yaml(), printed);
            // All addresses of a port may have been written as one; in which order they are bound is no matter.
            config.listen.sort();
            again.listen.sort();
            assert_eq!(format!("{again:?}"), format!("{config:?}"), "{printed}");
        }
    }
}

/// The promises of `config`: what holds for every configuration that was loaded.
fn judge_config(config: &Config) {
    assert!(!config.listen.is_empty(), "no address for clients");
    let sites = &config.sites;
    assert!(
        sites.iter().filter(|site| site.default).count() <= 1,
        "two sites are the default"
    );
    let mut names = HashSet::new();
    assert!(
        sites
            .iter()
            .flat_map(|site| &site.incoming)
            .all(|name| names.insert(name)),
        "two sites have the same name: {sites:?}"
    );
    let logs = sites.iter().filter_map(|site| site.logger.as_ref());
    let logs = logs
        .chain([&config.logger])
        .filter_map(|log| log.file.as_deref());
    let access = sites.iter().map(|site| &site.access_log);
    let access = access
        .chain([&config.access_log])
        .flatten()
        .filter_map(|log| log.file.as_deref());
    let others = [
        config.pidfile.as_deref(),
        Some(&*config.temporary_directory),
    ];
    let paths = logs.chain(access).chain(others.into_iter().flatten());
    assert!(
        paths.into_iter().all(Path::is_absolute),
        "a relative path in {config:?}"
    );
    for outgoing in sites.iter().flat_map(|site| &site.outgoing) {
        let any_port = matches!(outgoing.to, Address::Tcp { port: 0, .. });
        assert!(
            any_port || !config.listen.contains(&outgoing.to),
            "{:?} is for clients and for backends",
            outgoing.to
        );
        if let Address::Unix(path) = &outgoing.to {
            assert!(path.is_absolute(), "{} is relative", path.display());
        }
        if let Filter::Prefix(prefix) = &outgoing.filter {
            assert!(prefix.starts_with('/'), "{prefix} is no prefix of paths");
        }
    }
    for site in sites {
        assert!(
            site.default || !site.incoming.is_empty(),
            "a site without a name: {site:?}"
        );
        let fits = |key: &String| (1..=255).contains(&key.len());
        assert!(
            site.keys.iter().all(fits),
            "a key is empty or too long: {:?}",
            site.keys
        );
        let times = &site.timeouts;
        let all = [
            times.head,
            times.idle,
            times.body,
            times.write,
            times.first_byte,
            times.backend,
            times.preamble,
            times.connect,
            site.unframed_gap,
        ];
        assert!(
            all.iter().all(|time| time.as_millis() >= 1),
            "a time below 1 ms: {all:?}"
        );
    }
}
