//! FastCGI 1.0: the records of a request, and responses as HTTP/1.1.
//!
//! A connection carries one request at a time, with the id 1, in the role of a responder. [`write_request`] writes
//! everything up to the body; [`open_body`] and [`close_body`] put a record around each piece of it. [`Responses`] turns
//! the records of responses into messages of HTTP, which the rest of the program reads as those of any other backend: the
//! head gets a status line, and a body without Content-Length becomes chunks, so that a response that was cut short is not
//! mistaken for a complete one.

use super::body::{LAST_CHUNK, write_chunk};
use super::head::ResponseHead;

/// What is wrong with a response, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRecords(pub &'static str);

/// Appends the records of a request up to its body. The connection is kept after the response.
pub fn write_request<'p>(
    params: impl IntoIterator<Item = (&'p [u8], &'p [u8])>,
    out: &mut Vec<u8>,
) {
    write_header(BEGIN_REQUEST, 8, out);
    out.extend_from_slice(&[0, RESPONDER, KEEP_CONNECTION, 0, 0, 0, 0, 0]);
    let mut pairs = Vec::with_capacity(2048);
    for (name, value) in params {
        write_length(name.len(), &mut pairs);
        write_length(value.len(), &mut pairs);
        pairs.extend_from_slice(name);
        pairs.extend_from_slice(value);
    }
    for part in pairs.chunks(LONGEST) {
        write_header(PARAMS, part.len(), out);
        out.extend_from_slice(part);
    }
    write_header(PARAMS, 0, out);
}

/// Begins a record with part of the body, which is to be appended; returns its position in `out`.
pub fn open_body(out: &mut Vec<u8>) -> usize {
    let position = out.len();
    write_header(STDIN, 0, out);
    position
}

/// Ends the record of [`open_body`]; an empty one is removed. `is_last`: the body ends with it.
pub fn close_body(position: usize, is_last: bool, out: &mut Vec<u8>) {
    match out.len() - position - HEADER {
        0 => out.truncate(position),
        length @ ..=LONGEST => {
            out[position + 4..position + 6].copy_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            let content = out.split_off(position + HEADER);
            out.truncate(position);
            for part in content.chunks(LONGEST) {
                write_header(STDIN, part.len(), out);
                out.extend_from_slice(part);
            }
        }
    }
    if is_last {
        write_header(STDIN, 0, out);
    }
}

fn write_header(kind: u8, length: usize, out: &mut Vec<u8>) {
    let [high, low] = (length as u16).to_be_bytes();
    out.extend_from_slice(&[VERSION, kind, 0, REQUEST_ID, high, low, 0, 0]);
}

/// Writes the length of a name or value: in one byte, or in four with the highest bit set.
fn write_length(length: usize, out: &mut Vec<u8>) {
    match u8::try_from(length) {
        Ok(short @ 0..=127) => out.push(short),
        // Far below 2^31: the head of a request is limited.
        _ => out.extend_from_slice(&(length as u32 | 1 << 31).to_be_bytes()),
    }
}

/// Reads the responses of one connection, one after the other.
#[derive(Debug, Default)]
pub struct Responses {
    /// The header of the next record, as far as it has arrived.
    header: Vec<u8>,
    /// The current record.
    record: Option<IncomingRecord>,
    /// The content of an END_REQUEST record, as far as it has arrived.
    end: Vec<u8>,
    part: Part,
    /// Whether the request was HEAD, so that the response has no body.
    is_head: bool,
    /// Whether more followed the last response.
    has_more: bool,
    /// A line of the error stream, as far as it has arrived.
    line: Vec<u8>,
    /// The lines of this response.
    lines: usize,
}

/// A record that is being read.
#[derive(Clone, Copy, Debug)]
struct IncomingRecord {
    kind: u8,
    /// Bytes of its content that are still to come.
    left: usize,
    padding: usize,
}

/// The part of a response that is being read.
#[derive(Debug, Default)]
enum Part {
    /// There is no request.
    #[default]
    Idle,
    /// The head, as far as it has arrived.
    Head(Vec<u8>),
    /// A body in chunks.
    Chunks,
    /// A body with a Content-Length; what is left of it.
    Length(u64),
    /// A body that is not passed on.
    Ignored,
}

impl Responses {
    /// Expects the response to another request.
    pub fn begin(&mut self, is_head: bool) {
        self.part = Part::Head(Vec::new());
        self.is_head = is_head;
        self.lines = 0;
    }

    /// Whether the last response was read to its end, with nothing after it.
    pub fn are_over(&self) -> bool {
        matches!(self.part, Part::Idle) && !self.has_more
    }

    /// Reads bytes of the connection: appends the response to `out`, as HTTP, and passes lines of the error stream to
    /// `report`.
    ///
    /// # Errors
    /// What is wrong. Nothing more can be read then.
    pub fn read(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        report: &mut dyn FnMut(&str),
    ) -> Result<(), BadRecords> {
        let mut input = input;
        while !input.is_empty() {
            if matches!(self.part, Part::Idle) {
                self.has_more = true;
                return Ok(());
            }
            let Some(mut record) = self.record.take() else {
                input = self.read_header(input)?;
                // An empty record has no content to wait for.
                self.skip_empty(out, report)?;
                continue;
            };
            let (content, rest) = input.split_at(record.left.min(input.len()));
            let (padding, rest) = match content.len() == record.left {
                true => rest.split_at(record.padding.min(rest.len())),
                false => (&[][..], rest),
            };
            input = rest;
            record.left -= content.len();
            record.padding -= padding.len();
            self.read_content(record.kind, content, out, report)?;
            match record.left + record.padding {
                0 => self.end_record(record.kind, out, report)?,
                _ => self.record = Some(record),
            }
        }
        Ok(())
    }

    fn read_header<'i>(&mut self, input: &'i [u8]) -> Result<&'i [u8], BadRecords> {
        let missing = HEADER - self.header.len();
        let (bytes, rest) = input.split_at(missing.min(input.len()));
        self.header.extend_from_slice(bytes);
        if self.header[0] != VERSION {
            return Err(BadRecords("the server does not speak FastCGI"));
        }
        if let [_, kind, _, _, high, low, padding, _] = self.header[..] {
            self.record = Some(IncomingRecord {
                kind,
                left: u16::from_be_bytes([high, low]).into(),
                padding: padding.into(),
            });
            self.header.clear();
        }
        Ok(rest)
    }

    fn skip_empty(
        &mut self,
        out: &mut Vec<u8>,
        report: &mut dyn FnMut(&str),
    ) -> Result<(), BadRecords> {
        match self.record {
            Some(IncomingRecord {
                kind,
                left: 0,
                padding: 0,
            }) => {
                self.record = None;
                self.end_record(kind, out, report)
            }
            _ => Ok(()),
        }
    }

    fn read_content(
        &mut self,
        kind: u8,
        content: &[u8],
        out: &mut Vec<u8>,
        report: &mut dyn FnMut(&str),
    ) -> Result<(), BadRecords> {
        match kind {
            STDOUT => self.read_output(content, out),
            STDERR => {
                self.read_errors(content, report);
                Ok(())
            }
            END_REQUEST => {
                self.end.extend_from_slice(content);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn end_record(
        &mut self,
        kind: u8,
        out: &mut Vec<u8>,
        report: &mut dyn FnMut(&str),
    ) -> Result<(), BadRecords> {
        match kind {
            STDERR => self.end_line(report),
            END_REQUEST => {
                self.end_line(report);
                let end = std::mem::take(&mut self.end);
                match (end.get(4), std::mem::take(&mut self.part)) {
                    (Some(1 | 3), Part::Head(_)) => {
                        return Err(BadRecords("the server refuses the request"));
                    }
                    (Some(2), Part::Head(_)) => return Err(BadRecords("the server is overloaded")),
                    (Some(0), Part::Head(head)) => {
                        return Err(BadRecords(match head.is_empty() {
                            true => "the response is empty",
                            false => "the head of the response has no end",
                        }));
                    }
                    (Some(0), Part::Length(1..)) => {
                        return Err(BadRecords("the body is shorter than its Content-Length"));
                    }
                    (Some(0), Part::Chunks) => out.extend_from_slice(LAST_CHUNK),
                    (Some(0), _) => {}
                    _ => return Err(BadRecords("the response was ended with an error")),
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn read_output(&mut self, content: &[u8], out: &mut Vec<u8>) -> Result<(), BadRecords> {
        match &mut self.part {
            Part::Head(head) => {
                let seen = head.len();
                head.extend_from_slice(content);
                // The end may be in what arrived before and now.
                let Some(end) = end_of_head(head, seen.saturating_sub(3)) else {
                    return match head.len() > LONGEST_HEAD {
                        true => Err(BadRecords("the head of the response is too long")),
                        false => Ok(()),
                    };
                };
                let head = std::mem::take(head);
                self.part = write_head(&head[..end], self.is_head, out)?;
                self.read_output(&head[end..], out)
            }
            Part::Chunks => {
                write_chunk(content, out);
                Ok(())
            }
            Part::Length(left) => {
                // What exceeds the announced length is no part of the body.
                let count =
                    usize::try_from(*left).map_or(content.len(), |left| left.min(content.len()));
                *left -= count as u64;
                out.extend_from_slice(&content[..count]);
                Ok(())
            }
            Part::Ignored | Part::Idle => Ok(()),
        }
    }

    fn read_errors(&mut self, content: &[u8], report: &mut dyn FnMut(&str)) {
        for part in content.split_inclusive(|byte| *byte == b'\n') {
            let room = LONGEST_LINE.saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                self.end_line(report);
            }
        }
    }

    fn end_line(&mut self, report: &mut dyn FnMut(&str)) {
        let line = std::mem::take(&mut self.line);
        let text = line.trim_ascii();
        if text.is_empty() {
            return;
        }
        self.lines += 1;
        match self.lines {
            ..=MOST_LINES => report(&String::from_utf8_lossy(text)),
            BEYOND => report("more lines of this response are left out"),
            _ => {}
        }
    }
}

/// The end of the first empty line from `start` on: where the body begins.
fn end_of_head(head: &[u8], start: usize) -> Option<usize> {
    if head.starts_with(b"\n") {
        return Some(1);
    }
    if head.starts_with(b"\r\n") {
        return Some(2);
    }
    let mut at = start;
    while let Some(found) = memchr::memchr(b'\n', &head[at..]) {
        let next = at + found + 1;
        match head[next..] {
            [b'\n', ..] => return Some(next + 1),
            [b'\r', b'\n', ..] => return Some(next + 2),
            _ => at = next,
        }
    }
    None
}

/// Writes the head of a response as HTTP; returns how its body is passed on.
fn write_head(head: &[u8], is_head: bool, out: &mut Vec<u8>) -> Result<Part, BadRecords> {
    let lines = head.split(|byte| *byte == b'\n');
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut fields = Vec::with_capacity(head.len() + 64);
    let (mut status, mut length, mut moves) = (None, None, false);
    for line in lines.filter(|line| !line.is_empty()) {
        let Some(colon) = memchr::memchr(b':', line) else {
            return Err(BadRecords(
                "a line without a colon in the head of the response",
            ));
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("Status") {
            status.get_or_insert(parse_status(value)?);
        } else if is("Content-Length") {
            let digits = value.iter().all(u8::is_ascii_digit);
            let text = str::from_utf8(value).ok().filter(|_| digits);
            let parsed: Option<u64> = text.and_then(|text| text.parse().ok());
            if parsed.is_none() || length.is_some_and(|known| Some(known) != parsed) {
                return Err(BadRecords("an invalid Content-Length"));
            }
            length = parsed;
        } else if !HOP_BY_HOP.iter().any(|known| is(known)) {
            moves |= is("Location");
            fields.extend_from_slice(line);
            fields.extend_from_slice(b"\r\n");
        }
    }
    let usual = if moves {
        (302, &b""[..])
    } else {
        (200, &b""[..])
    };
    let (status, reason) = status.unwrap_or(usual);
    let reason = match reason {
        b"" => ResponseHead::reason(status).as_bytes(),
        reason => reason,
    };
    out.extend_from_slice(format!("HTTP/1.1 {status} ").as_bytes());
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(&fields);
    let is_empty = is_head || matches!(status, 204 | 304);
    if let Some(length) = length {
        out.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
    } else if !is_empty {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Ok(match length {
        _ if is_empty => Part::Ignored,
        Some(length) => Part::Length(length),
        None => Part::Chunks,
    })
}

/// Parses the value of Status: three digits, and perhaps a reason.
fn parse_status(value: &[u8]) -> Result<(u16, &[u8]), BadRecords> {
    let (digits, rest) = value.split_at(value.len().min(3));
    let status = str::from_utf8(digits)
        .ok()
        .and_then(|text| text.parse().ok());
    match (status, rest) {
        (Some(status @ 200..=999), [] | [b' ', ..]) => Ok((status, rest.trim_ascii())),
        _ => Err(BadRecords("an invalid Status")),
    }
}

/// Fields that concern the connection, which is not that of the server.
const HOP_BY_HOP: [&str; 7] = [
    "Connection",
    "Keep-Alive",
    "Proxy-Connection",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
];

const VERSION: u8 = 1;
const BEGIN_REQUEST: u8 = 1;
const END_REQUEST: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
const STDERR: u8 = 7;
const RESPONDER: u8 = 1;
const KEEP_CONNECTION: u8 = 1;
/// The only request of a connection.
const REQUEST_ID: u8 = 1;
/// Bytes of the header of a record.
const HEADER: usize = 8;
/// Most bytes of the content of a record.
const LONGEST: usize = 65535;
/// Most bytes of the head of a response, far more than `limits.head` allows by default.
const LONGEST_HEAD: usize = 1 << 20;
/// Most bytes of a line of the error stream; the rest is left out.
const LONGEST_LINE: usize = 2048;
/// Most lines of the error stream in one response.
const MOST_LINES: usize = 50;
const BEYOND: usize = MOST_LINES + 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, content: &[u8], padding: u8) -> Vec<u8> {
        let mut record = Vec::new();
        write_header(kind, content.len(), &mut record);
        record[6] = padding;
        record.extend_from_slice(content);
        record.resize(record.len() + usize::from(padding), b'p');
        record
    }

    fn end(status: u8) -> Vec<u8> {
        record(END_REQUEST, &[0, 0, 0, 0, status, 0, 0, 0], 3)
    }

    /// What records become that arrive in pieces of this size.
    struct Read {
        result: Result<(), BadRecords>,
        http: String,
        lines: Vec<String>,
        over: bool,
    }

    fn read(records: &[u8], is_head: bool, size: usize) -> Read {
        let mut responses = Responses::default();
        responses.begin(is_head);
        let (mut out, mut lines, mut result) = (Vec::new(), Vec::new(), Ok(()));
        for piece in records.chunks(size) {
            result = responses.read(piece, &mut out, &mut |line| lines.push(line.to_owned()));
            if result.is_err() {
                break;
            }
        }
        Read {
            result,
            http: String::from_utf8(out).unwrap(),
            lines,
            over: responses.are_over(),
        }
    }

    #[test]
    fn requests() {
        let mut out = Vec::new();
        let long = vec![b'v'; 70_000];
        write_request([(&b"A"[..], &b"b"[..]), (b"LONG", &long)], &mut out);
        let begin = [1, 1, 0, 1, 0, 8, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0];
        assert_eq!(out[..16], begin);
        assert_eq!(out[16..24], [1, 4, 0, 1, 0xff, 0xff, 0, 0]);
        assert_eq!(out[24..28], [1, 1, b'A', b'b']);
        assert_eq!(out[28..33], [4, 0x80, 1, 0x11, 0x70]);
        let pairs = 4 + 1 + 4 + 4 + 70_000_usize;
        let second = 24 + 65535;
        let rest = (pairs - 65535) as u16;
        let [high, low] = rest.to_be_bytes();
        assert_eq!(out[second..second + 8], [1, 4, 0, 1, high, low, 0, 0]);
        assert_eq!(out[out.len() - 8..], [1, 4, 0, 1, 0, 0, 0, 0]);
        assert_eq!(out.len(), 16 + 8 + pairs + 8 + 8);

        let mut out = b"before".to_vec();
        let position = open_body(&mut out);
        out.extend_from_slice(b"abc");
        close_body(position, false, &mut out);
        assert_eq!(out[6..], *b"\x01\x05\x00\x01\x00\x03\x00\x00abc");
        let position = open_body(&mut out);
        close_body(position, true, &mut out);
        assert_eq!(out[17..], [1, 5, 0, 1, 0, 0, 0, 0]);
        let mut out = Vec::new();
        let position = open_body(&mut out);
        out.resize(HEADER + 65536, b'x');
        close_body(position, false, &mut out);
        assert_eq!(out[..8], [1, 5, 0, 1, 0xff, 0xff, 0, 0]);
        assert_eq!(out[8 + 65535..], *b"\x01\x05\x00\x01\x00\x01\x00\x00x");
    }

    #[test]
    fn responses_in_pieces_of_any_size() {
        let head = b"X-A: 1\r\nStatus: 404 Gone away\r\nConnection: close\r\n\r\n";
        let records = [
            record(STDERR, b"one\ntw", 2),
            record(STDOUT, &head[..20], 0),
            record(STDOUT, &head[20..], 5),
            record(STDERR, b"o\n\nthree\n", 0),
            record(STDOUT, b"body", 1),
            record(11, b"unknown", 1),
            record(STDOUT, b"", 0),
            record(STDERR, b"", 1),
            end(0),
        ]
        .concat();
        for size in 1..=records.len() {
            let read = read(&records, false, size);
            assert_eq!(read.result, Ok(()), "{size}");
            let start = "HTTP/1.1 404 Gone away\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
            let body = read.http.strip_prefix(start).expect("the head");
            assert!(body.ends_with("\r\n0\r\n\r\n"), "{body:?}");
            let data: String = body.split("\r\n").skip(1).step_by(2).collect();
            assert_eq!(data, "body", "{size}");
            // A line ends with its record.
            assert_eq!(read.lines, ["one", "tw", "o", "three"]);
            assert!(read.over);
        }
    }

    #[test]
    fn heads() {
        let check = |head: &str, is_head: bool, expected: &str| {
            let records = [record(STDOUT, format!("{head}12345").as_bytes(), 0), end(0)].concat();
            let read = read(&records, is_head, 1000);
            assert_eq!((read.result, &*read.http), (Ok(()), expected), "{head:?}");
            assert!(read.over);
        };
        let chunks = "5\r\n12345\r\n0\r\n\r\n";
        let chunked = |first: &str| format!("{first}Transfer-Encoding: chunked\r\n\r\n{chunks}");
        check("\n", false, &chunked("HTTP/1.1 200 OK\r\n"));
        check("\r\n", false, &chunked("HTTP/1.1 200 OK\r\n"));
        check("A: b\n\n", false, &chunked("HTTP/1.1 200 OK\r\nA: b\r\n"));
        let moved = "HTTP/1.1 302 Found\r\nlocation: /x\r\n";
        check("location: /x\n\r\n", false, &chunked(moved));
        let created = "HTTP/1.1 201 Created\r\nLocation: /x\r\n";
        check("Location: /x\nStatus: 201\n\n", false, &chunked(created));
        let length = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
        check("Content-Length: 3\n\n", false, &format!("{length}123"));
        check("Content-Length: 3\n\n", true, length);
        check("\n", true, "HTTP/1.1 200 OK\r\n\r\n");
        check(
            "Status: 304\n\n",
            false,
            "HTTP/1.1 304 Not Modified\r\n\r\n",
        );
        let hops = "Transfer-Encoding: gzip\nKeep-Alive: 1\nUpgrade: x\nTE: x\nTrailer: x\n\n";
        check(hops, false, &chunked("HTTP/1.1 200 OK\r\n"));
    }

    #[test]
    fn what_is_wrong() {
        let check = |records: Vec<u8>, expected: &'static str| {
            let read = read(&records, false, 1000);
            assert_eq!(read.result, Err(BadRecords(expected)));
            assert!(!read.http.ends_with(str::from_utf8(LAST_CHUNK).unwrap()));
        };
        let output = |text: &str| record(STDOUT, text.as_bytes(), 0);
        check(
            b"HTTP/1.1 400 ".to_vec(),
            "the server does not speak FastCGI",
        );
        check(end(0), "the response is empty");
        check(end(2), "the server is overloaded");
        check(end(3), "the server refuses the request");
        check(
            [output("\n"), end(2)].concat(),
            "the response was ended with an error",
        );
        check(
            record(END_REQUEST, b"", 0),
            "the response was ended with an error",
        );
        let no_end = "the head of the response has no end";
        check([output("A: b\n"), end(0)].concat(), no_end);
        let short = "the body is shorter than its Content-Length";
        check([output("Content-Length: 3\n\nab"), end(0)].concat(), short);
        let no_colon = "a line without a colon in the head of the response";
        check(output("<h1>Error</h1>\n\n"), no_colon);
        for status in ["abc", "99", "100 Continue", "2000", "+20", ""] {
            check(
                output(&format!("Status: {status}\n\n")),
                "an invalid Status",
            );
        }
        for length in ["", "-1", "+1", "1, 1", "1\nContent-Length: 2"] {
            check(
                output(&format!("Content-Length: {length}\n\n")),
                "an invalid Content-Length",
            );
        }
        let many = output(&"A: 0123456789\n".repeat(4000)).repeat(20);
        check(many, "the head of the response is too long");
    }

    #[test]
    fn one_response_after_the_other() {
        let mut responses = Responses::default();
        let (mut out, mut ignore) = (Vec::new(), |_: &str| {});
        for _ in 0..2 {
            responses.begin(false);
            let records = [record(STDOUT, b"\nx", 0), end(0)].concat();
            responses.read(&records, &mut out, &mut ignore).unwrap();
            assert!(responses.are_over());
        }
        responses
            .read(&record(STDOUT, b"junk", 0), &mut out, &mut ignore)
            .unwrap();
        assert!(!responses.are_over());
        // The padding of the last record belongs to the response.
        let mut responses = Responses::default();
        responses.begin(false);
        let records = [record(STDOUT, b"\nx", 0), end(0)].concat();
        let (first, last) = records.split_at(records.len() - 1);
        responses.read(first, &mut out, &mut ignore).unwrap();
        assert!(!responses.are_over());
        responses.read(last, &mut out, &mut ignore).unwrap();
        assert!(responses.are_over());
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let good = [
            record(STDERR, b"a line\n", 1),
            record(STDOUT, b"Status: 200\nContent-Length: 4\n\nbody", 2),
            end(0),
        ]
        .concat();
        let mut seed = 1_u64;
        let mut random = |most: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % most
        };
        for _ in 0..5000 {
            let mut bytes = good.clone();
            for _ in 0..=random(4) {
                let at = random(bytes.len());
                bytes[at] = random(256) as u8;
            }
            bytes.truncate(1 + random(bytes.len()));
            let size = 1 + random(bytes.len());
            let mut responses = Responses::default();
            responses.begin(random(2) == 0);
            let mut out = Vec::new();
            for piece in bytes.chunks(size) {
                if responses.read(piece, &mut out, &mut |_| ()).is_err() {
                    break;
                }
            }
        }
    }

    #[test]
    fn lines_are_bounded() {
        let long = record(STDERR, &[b'x'; 5000], 0);
        let many = record(STDERR, "line\n".repeat(1000).as_bytes(), 0);
        let records = [long, many].concat();
        let read = read(&records, false, 100);
        assert_eq!(read.lines[0].len(), LONGEST_LINE);
        assert_eq!(read.lines.len(), BEYOND);
        assert_eq!(
            read.lines[MOST_LINES],
            "more lines of this response are left out"
        );
    }
}
