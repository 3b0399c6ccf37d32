//! Parses the field lines of a head: separates the fields to forward from those of this connection.

use std::borrow::Cow;

use httparse::Status;

use super::names::{FieldKind, is_ambiguous};
use super::scan::BARE_LF;
use crate::http::body::Framing;
use crate::http::headers::Headers;
use crate::http::limits::HeadLimits;
use crate::http::refusal::{BadHead, Refusal, TOO_MANY_FIELDS};
use crate::http::syntax::{Version, is_token};

/// The fields of a message, with those of the connection set apart.
#[derive(Default)]
pub(super) struct Fields<'h> {
    pub(super) headers: Headers,
    /// Fields of a request whose names an application may confuse with others.
    pub(super) ambiguous: Option<Box<Headers>>,
    /// The first two values; a second one is an error.
    pub(super) hosts: [Option<&'h [u8]>; 2],
    pub(super) encodings: [Option<&'h [u8]>; 2],
    /// There is rarely more than one; storing the first one here avoids an allocation.
    length: Option<&'h [u8]>,
    more_lengths: Vec<&'h [u8]>,
    pub(super) expect: Option<&'h [u8]>,
    /// A list, possibly combined from several fields.
    pub(super) upgrade: Option<Cow<'h, [u8]>>,
    close: bool,
    keep_alive: bool,
    pub(super) upgrade_option: bool,
}

impl<'h> Fields<'h> {
    /// Parses the field lines of a head, including the final empty line.
    pub(super) fn parse(
        lines: &'h [u8],
        limits: &HeadLimits,
        request: bool,
    ) -> Result<Self, &'static str> {
        // Most heads have few fields; a larger array would take time to initialise.
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
            match FieldKind::of(field.name) {
                FieldKind::EndToEnd => {
                    let headers = match request && is_ambiguous(field.name) {
                        true => fields.ambiguous.get_or_insert_default(),
                        false => &mut fields.headers,
                    };
                    match usual_line(lines, field.name, value) {
                        Some(line) => headers.push_line(line, field.name.len()),
                        None => headers.push(field.name, value),
                    }
                }
                FieldKind::Host if request => keep_two(&mut fields.hosts, value),
                // If there are several, an unknown expectation takes precedence.
                FieldKind::Expect if request => {
                    if fields.expect.is_none_or(is_continue) {
                        fields.expect = Some(value);
                    }
                }
                FieldKind::Host | FieldKind::Expect => fields.headers.push(field.name, value),
                FieldKind::TransferEncoding => keep_two(&mut fields.encodings, value),
                FieldKind::ContentLength => match fields.length {
                    None => fields.length = Some(value),
                    Some(_) => fields.more_lengths.push(value),
                },
                FieldKind::Upgrade => {
                    fields.upgrade = Some(match fields.upgrade.take() {
                        None => Cow::Borrowed(value),
                        Some(first) => Cow::Owned([&*first, value].join(&b", "[..])),
                    });
                }
                FieldKind::Connection => {
                    for option in list(value) {
                        fields.option(option, &mut nominated);
                    }
                    // Bounds the time of removing each of them from the fields.
                    if nominated.len() > MOST_FIELDS {
                        return Err("too many options in Connection");
                    }
                }
                FieldKind::HopByHop => {}
            }
        }
        for name in nominated {
            // An option that is not UTF-8 cannot be a field name.
            if let Ok(name) = str::from_utf8(name) {
                fields.headers.remove(name);
                if let Some(ambiguous) = &mut fields.ambiguous {
                    ambiguous.remove(name);
                }
            }
        }
        Ok(fields)
    }

    /// Handles an option of the Connection field. Most options name a field for the next hop only; protected fields
    /// cannot be removed that way.
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

    pub(super) const fn is_persistent(&self, version: Version) -> bool {
        match version {
            Version::Http10 => self.keep_alive && !self.close,
            Version::Http11 => !self.close,
        }
    }

    pub(super) fn request_framing(&self, version: Version) -> Result<Framing, Refusal> {
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

    /// Several lengths count as one if they are all equal (RFC 9110 8.6).
    pub(super) fn response_length(&self) -> Result<Option<u64>, BadHead> {
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

/// Whether a field stays even if Connection names it.
fn is_protected(name: &[u8]) -> bool {
    let protected: [&[u8]; 7] = [
        b"host",
        b"content-length",
        b"authorization",
        b"cookie",
        b"forwarded",
        b"x-real-ip",
        b"max-forwards",
    ];
    let forwarding = b"x-forwarded-";
    protected
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known))
        || name
            .get(..forwarding.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(forwarding))
}

/// The line of a field, if it is spelled as we would write it, with one space before the value.
fn usual_line<'h>(lines: &'h [u8], name: &str, value: &[u8]) -> Option<&'h [u8]> {
    // The name is a slice of the lines.
    let start = (name.as_ptr() as usize).checked_sub(lines.as_ptr() as usize)?;
    let line = lines.get(start..start + name.len() + value.len() + 4)?;
    let (head, rest) = line.split_at(name.len());
    let same = rest.starts_with(b": ") && rest.ends_with(b"\r\n") && head == name.as_bytes();
    (same && rest[2..rest.len() - 2] == *value).then_some(line)
}

/// Digits only, and within the range of `u64` (RFC 9110 8.6).
fn parse_length(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.len() <= 19 && value.iter().all(u8::is_ascii_digit);
    let number = |number, digit: &u8| number * 10 + u64::from(*digit - b'0');
    digits.then(|| value.iter().fold(0, number))
}

/// Removes spaces and tabs at both ends, and nothing else.
const fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The elements of a list (RFC 9110 5.6.1), without empty ones.
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let elements = value.split(|byte| *byte == b',').map(trim);
    elements.filter(|element| !element.is_empty())
}

/// Whether this is 100-continue, the only expectation that is defined (RFC 9110 10.1.1).
pub(super) const fn is_continue(expectation: &[u8]) -> bool {
    expectation.eq_ignore_ascii_case(b"100-continue")
}

fn keep_two<'h>(pair: &mut [Option<&'h [u8]>; 2], value: &'h [u8]) {
    match pair {
        [first @ None, _] => *first = Some(value),
        [_, second] => *second = Some(value),
    }
}

/// Our words for the errors of `httparse`.
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

/// Most fields, as an array on the stack, and most options of Connection.
const MOST_FIELDS: usize = 256;
const USUAL_FIELDS: usize = 32;
