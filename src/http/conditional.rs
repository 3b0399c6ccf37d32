//! Conditional requests and ranges (RFC 9110 13 and 14). Pure.
//!
//! They are evaluated for a file whose entity tag, time and length are known. [`Conditions::of`] finds the fields in
//! one pass, since most requests have none; [`Conditions::check`] decides between the file, 304 and 412, and
//! [`Conditions::ranges`] which bytes to send.

use std::ops::Range;
use std::time::UNIX_EPOCH;

use httpdate::parse_http_date;

use super::date;
use super::encoding::ContentCoding;
use super::headers::Headers;

/// What distinguishes one version of a file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validators {
    /// The entity tag as in the field, with quotes, and with the prefix `W/` if it is weak.
    pub etag: Box<str>,
    /// The time of the last change, in seconds since 1970; `None`: unknown.
    pub modified: Option<u64>,
    /// Whether that second has passed: until then the file may change again within it.
    pub is_past: bool,
    /// The length in bytes.
    pub length: u64,
}

/// The conditions of a request.
#[derive(Clone, Copy, Debug)]
pub struct Conditions<'h> {
    headers: &'h Headers,
    /// Which of [`FIELDS`] the request has.
    present: [bool; FIELDS.len()],
}

/// The result of the preconditions of a request (RFC 9110 13.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionResult {
    /// All hold: respond as usual.
    Go,
    /// 304: the client has this version already.
    NotModified,
    /// 412: a condition does not hold.
    Failed,
}

/// The bytes that a request selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RangeSelection {
    /// The whole file, with status 200.
    Whole,
    /// These ranges, with status 206: at least one, each within the file and not empty.
    Parts(Vec<Range<u64>>),
    /// Status 416: no range overlaps the file.
    Unsatisfiable,
}

impl Validators {
    /// The validators of a file with this time (in seconds since 1970) and length, seen at the time `now`.
    ///
    /// The tag has the format of the original: both numbers in hexadecimal.
    pub fn new(modified: i64, length: u64, now: i64) -> Self {
        Self {
            etag: format!("\"{modified:x}-{length:x}\"").into(),
            // RFC 9110 8.8.2.1: not later than the Date of the response.
            modified: u64::try_from(modified).ok().filter(|_| modified <= now),
            is_past: modified < now,
            length,
        }
    }

    /// Adds a number to the tag that distinguishes versions of the same second and length.
    #[must_use]
    pub fn marked(mut self, mark: u64) -> Self {
        self.etag = format!("\"{}-{mark:x}\"", self.opaque()).into();
        self
    }

    /// The validators of the same content in a content coding. This is another representation, so its tag differs even
    /// if time and length are the same.
    #[must_use]
    pub fn in_coding(mut self, coding: ContentCoding) -> Self {
        let mark = if self.are_strong() { "" } else { "W/" };
        self.etag = format!("{mark}\"{}-{}\"", self.opaque(), coding.name()).into();
        self
    }

    /// The validators of `length` bytes that were encoded from this content on the fly: the tag is weak.
    #[must_use]
    pub fn made(mut self, length: u64) -> Self {
        self.length = length;
        self.weak()
    }

    /// Makes the validators weak: the file may change again without a change of its time and length (RFC 9110 8.8.1),
    /// so neither tag nor time proves that two versions are the same byte for byte.
    #[must_use]
    pub fn weak(mut self) -> Self {
        if self.are_strong() {
            self.etag = format!("W/{}", self.etag).into();
        }
        self
    }

    /// The value of Last-Modified.
    pub fn last_modified(&self) -> Option<String> {
        self.modified.map(date::of_seconds)
    }

    /// Whether versions with the same tag, or the same time, are the same byte for byte.
    pub fn are_strong(&self) -> bool {
        !self.etag.starts_with("W/")
    }

    /// The tag without its quotes.
    fn opaque(&self) -> &str {
        self.etag.trim_start_matches("W/").trim_matches('"')
    }

    /// Whether this tag matches one of a list, by weak or strong comparison (RFC 9110 8.8.3.2). The original wrote
    /// tags without quotes; clients may still have those, so they match too.
    fn is(&self, tag: EntityTag<'_>, weak: bool) -> bool {
        tag.text == self.opaque().as_bytes() && (weak || self.are_strong() && !tag.weak)
    }
}

impl<'h> Conditions<'h> {
    /// Finds the conditions among the fields of a request.
    pub fn of(headers: &'h Headers) -> Self {
        let mut present = [false; FIELDS.len()];
        for name in headers.names() {
            // Compare lengths first: that rules out nearly all fields.
            if !matches!(name.len(), 5 | 8 | 13 | 17 | 19) {
                continue;
            }
            for (field, present) in FIELDS.iter().zip(&mut present) {
                *present |= name.eq_ignore_ascii_case(field.as_bytes());
            }
        }
        Self { headers, present }
    }

    /// Whether there are none, so that the response is the whole file.
    pub fn is_empty(&self) -> bool {
        self.present == [false; FIELDS.len()]
    }

    /// Whether the request has a Range field.
    pub fn want_part(&self) -> bool {
        self.has(RANGE)
    }

    /// Whether the response may be 304.
    pub fn is_about_cache(&self) -> bool {
        self.has(IF_NONE_MATCH) || self.has(IF_MODIFIED_SINCE)
    }

    /// Evaluates the preconditions of a GET or HEAD, in the order of RFC 9110 13.2.2.
    pub fn check(&self, file: &Validators) -> ConditionResult {
        if self.has(IF_MATCH) {
            if !self.names(IF_MATCH, file, false) {
                return ConditionResult::Failed;
            }
        } else if let Some((date, modified)) = self.date(IF_UNMODIFIED_SINCE).zip(file.modified)
            && modified > date
        {
            return ConditionResult::Failed;
        }
        if self.has(IF_NONE_MATCH) {
            if self.names(IF_NONE_MATCH, file, true) {
                return ConditionResult::NotModified;
            }
        } else if let Some((date, modified)) = self.date(IF_MODIFIED_SINCE).zip(file.modified)
            && modified <= date
        {
            return ConditionResult::NotModified;
        }
        ConditionResult::Go
    }

    /// The bytes that a GET selects (RFC 9110 14). An invalid Range field, or an unreasonable number of ranges,
    /// selects the whole file, which is always a correct response.
    pub fn ranges(&self, file: &Validators) -> RangeSelection {
        if !self.has(RANGE) || self.has(IF_RANGE) && !self.if_range(file) {
            return RangeSelection::Whole;
        }
        let mut values = self.headers.get_all(FIELDS[RANGE]);
        match (values.next(), values.next()) {
            (Some(value), None) => parse_ranges(value, file.length),
            _ => RangeSelection::Whole,
        }
    }

    /// Whether If-Range matches this version (RFC 9110 13.1.5): tag or time must be strong and equal. A time is strong
    /// if it is at least one second before the Date of the response (8.8.2.2).
    fn if_range(&self, file: &Validators) -> bool {
        let Some(value) = self.headers.get(FIELDS[IF_RANGE]) else {
            return false;
        };
        match self.date(IF_RANGE) {
            Some(date) => file.are_strong() && file.is_past && file.modified == Some(date),
            None => {
                let mut tags = tags(value);
                tags.next().is_some_and(|tag| file.is(tag, false)) && tags.next().is_none()
            }
        }
    }

    fn has(&self, field: usize) -> bool {
        self.present[field]
    }

    /// Whether a list of tags contains that of the file, or is `*`.
    fn names(&self, field: usize, file: &Validators, weak: bool) -> bool {
        self.headers
            .get_all(FIELDS[field])
            .any(|list| list == b"*" || tags(list).any(|tag| file.is(tag, weak)))
    }

    /// The seconds of a date. `None`: the field is missing or invalid, so it is ignored.
    fn date(&self, field: usize) -> Option<u64> {
        if !self.has(field) {
            return None;
        }
        let mut values = self.headers.get_all(FIELDS[field]);
        let (value, None) = (values.next()?, values.next()) else {
            return None;
        };
        let date = parse_http_date(str::from_utf8(value).ok()?).ok()?;
        date.duration_since(UNIX_EPOCH)
            .ok()
            .map(|time| time.as_secs())
    }
}

/// An entity tag of a list, without its quotes.
#[derive(Clone, Copy)]
struct EntityTag<'v> {
    weak: bool,
    text: &'v [u8],
}

/// The tags of a list (RFC 9110 8.8.3). A tag may contain a comma.
fn tags(mut list: &[u8]) -> impl Iterator<Item = EntityTag<'_>> {
    std::iter::from_fn(move || {
        while let [b' ' | b'\t' | b',', rest @ ..] = list {
            list = rest;
        }
        let weak = list.starts_with(b"W/\"");
        if weak {
            list = &list[2..];
        }
        let (text, rest) = match list {
            [] => return None,
            [b'"', quoted @ ..] => {
                let end = memchr::memchr(b'"', quoted).unwrap_or(quoted.len());
                (&quoted[..end], quoted.get(end + 1..).unwrap_or_default())
            }
            bare => {
                let end = memchr::memchr(b',', bare).unwrap_or(bare.len());
                (bare[..end].trim_ascii(), &bare[end..])
            }
        };
        list = rest;
        Some(EntityTag { weak, text })
    })
}

/// Parses `bytes=0-499, -500` for a file of this length.
fn parse_ranges(value: &[u8], length: u64) -> RangeSelection {
    let Some((unit, set)) = value.split_at_checked(BYTES.len()) else {
        return RangeSelection::Whole;
    };
    // No range overlaps an empty file.
    if !unit.eq_ignore_ascii_case(BYTES) || length == 0 {
        return RangeSelection::Whole;
    }
    let mut parts = Vec::new();
    let mut any = false;
    for spec in set.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        if spec.is_empty() {
            continue;
        }
        let Some(part) = parse_range(spec, length) else {
            return RangeSelection::Whole;
        };
        any = true;
        if part.is_empty() {
            continue;
        }
        if parts.len() == MOST_RANGES {
            return RangeSelection::Whole;
        }
        parts.push(part);
    }
    // Heavily overlapping ranges would make a small request cause a huge response.
    let total = parts.iter().try_fold(0_u64, |sum, part| {
        sum.checked_add(part.end - part.start)
            .filter(|sum| *sum <= length)
    });
    match (any, parts.is_empty(), total) {
        (false, ..) | (_, _, None) => RangeSelection::Whole,
        (true, true, _) => RangeSelection::Unsatisfiable,
        (true, false, Some(_)) => RangeSelection::Parts(parts),
    }
}

/// Parses one of `0-499`, `500-`, `-500`; the result is empty if it is outside the file. `None`: invalid.
fn parse_range(spec: &[u8], length: u64) -> Option<Range<u64>> {
    let dash = memchr::memchr(b'-', spec)?;
    let (first, last) = (&spec[..dash], &spec[dash + 1..]);
    match (number(first)?, number(last)?) {
        (None, None) => None,
        (None, Some(suffix)) => Some(length.saturating_sub(suffix)..length),
        (Some(first), None) => Some(first.min(length)..length),
        (Some(first), Some(last)) if first <= last => {
            Some(first.min(length)..last.saturating_add(1).min(length))
        }
        _ => None,
    }
}

/// A number of any count of digits and nothing else. `Some(None)`: the text is empty.
fn number(digits: &[u8]) -> Option<Option<u64>> {
    if digits.is_empty() {
        return Some(None);
    }
    digits
        .iter()
        .try_fold(0_u64, |number, digit| {
            let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
            Some(number.saturating_mul(10).saturating_add(digit))
        })
        .map(Some)
}

const FIELDS: [&str; 6] = [
    "If-Match",
    "If-None-Match",
    "If-Modified-Since",
    "If-Unmodified-Since",
    "If-Range",
    "Range",
];
const IF_MATCH: usize = 0;
const IF_NONE_MATCH: usize = 1;
const IF_MODIFIED_SINCE: usize = 2;
const IF_UNMODIFIED_SINCE: usize = 3;
const IF_RANGE: usize = 4;
const RANGE: usize = 5;
const BYTES: &[u8] = b"bytes=";
/// Most ranges in a request; with more, the response is the whole file.
const MOST_RANGES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of 1000 bytes, changed on 6 November 1994 at 08:49:37.
    fn file() -> Validators {
        Validators::new(784_111_777, 1000, 800_000_000)
    }

    fn headers(lines: &str) -> Headers {
        let mut headers = Headers::new();
        for line in lines.lines() {
            let (name, value) = line.split_once(": ").unwrap();
            headers.push(name, value.as_bytes());
        }
        headers
    }

    #[test]
    fn the_tag_is_that_of_the_original_in_quotes() {
        assert_eq!(&*file().etag, "\"2ebc98a1-3e8\"");
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(file().last_modified().as_deref(), Some(date));
        assert_eq!(Validators::new(5, 1, 4).last_modified(), None);
    }

    #[test]
    fn preconditions() {
        let check = |lines: &str, expected| {
            let headers = headers(lines);
            assert_eq!(
                Conditions::of(&headers).check(&file()),
                expected,
                "{lines:?}"
            );
        };
        let (go, same, failed) = (
            ConditionResult::Go,
            ConditionResult::NotModified,
            ConditionResult::Failed,
        );
        check("", go);
        check("Accept: */*\nRange: bytes=0-1", go);
        check("If-None-Match: \"2ebc98a1-3e8\"", same);
        check("if-none-match: W/\"2ebc98a1-3e8\"", same);
        check("If-None-Match: 2ebc98a1-3e8", same);
        check("If-None-Match: \"a,b\", c, \"2ebc98a1-3e8\"", same);
        check(
            "If-None-Match: \"a\"\nIf-None-Match: \"2ebc98a1-3e8\"",
            same,
        );
        check("If-None-Match: *", same);
        check("If-None-Match: \"*\"", go);
        check("If-None-Match: \"2ebc98a1-3e9\"", go);
        check("If-None-Match: \"a,2ebc98a1-3e8,b\"", go);
        check("If-None-Match: ", go);
        check("If-None-Match: \"2ebc98a1-3e8", same);
        check("If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT", same);
        check("If-Modified-Since: Sunday, 06-Nov-94 08:49:37 GMT", same);
        check("If-Modified-Since: Sun Nov  6 08:49:38 1994", same);
        check("If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT", go);
        check("If-Modified-Since: yesterday", go);
        check(
            "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\nIf-None-Match: \"x\"",
            go,
        );
        check("If-Match: \"2ebc98a1-3e8\"", go);
        check("If-Match: *", go);
        check("If-Match: W/\"2ebc98a1-3e8\"", failed);
        check("If-Match: \"x\"\nIf-None-Match: *", failed);
        check("If-Match: \"2ebc98a1-3e8\"\nIf-None-Match: *", same);
        check("If-Unmodified-Since: Sun, 06 Nov 1994 08:49:36 GMT", failed);
        check("If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT", go);
        check("If-Unmodified-Since: never", go);
        check(
            "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:36 GMT\nIf-Match: *",
            go,
        );
    }

    #[test]
    fn ranges() {
        let check = |value: &str, expected: &[(u64, u64)]| {
            let headers = headers(&format!("Range: {value}"));
            let found = Conditions::of(&headers).ranges(&file());
            let parts = expected.iter().map(|(start, end)| *start..*end).collect();
            assert_eq!(found, RangeSelection::Parts(parts), "{value}");
        };
        check("bytes=0-0", &[(0, 1)]);
        check("bytes=0-", &[(0, 1000)]);
        check("Bytes=999-5000", &[(999, 1000)]);
        check("bytes=-1", &[(999, 1000)]);
        check("bytes=-5000", &[(0, 1000)]);
        check("bytes=5-99999999999999999999999999", &[(5, 1000)]);
        check("bytes=0-9, 20-29,,-5 ", &[(0, 10), (20, 30), (995, 1000)]);
        check("bytes=2000-, 7-7", &[(7, 8)]);
        let others = |value: &str, expected: RangeSelection| {
            let headers = headers(&format!("Range: {value}"));
            assert_eq!(
                Conditions::of(&headers).ranges(&file()),
                expected,
                "{value}"
            );
        };
        for value in [
            "bytes=1000-",
            "bytes=-0",
            "bytes=1000-1001, -0",
            "bytes=99999999999999999999999-",
        ] {
            others(value, RangeSelection::Unsatisfiable);
        }
        let many = vec!["1-1"; 17].join(",");
        for value in [
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=a-",
            "bytes=1",
            "bytes=2-1",
            "bytes=1-2-3",
            "bytes=+1-2",
            "bytes =0-1",
            "lines=0-1",
            "0-1",
            "bytes=0-9, x",
            "bytes=0-999, 0-0",
            "bytes=0-600, 300-999",
            &format!("bytes={many}"),
        ] {
            others(value, RangeSelection::Whole);
        }
        others("bytes=0-1\nRange: bytes=3-4", RangeSelection::Whole);
    }

    #[test]
    fn nothing_has_no_ranges() {
        let empty = Validators::new(1, 0, 2);
        for value in ["bytes=0-", "bytes=-1"] {
            let headers = headers(&format!("Range: {value}"));
            let wanted = Conditions::of(&headers).ranges(&empty);
            assert_eq!(wanted, RangeSelection::Whole, "{value}");
        }
    }

    #[test]
    fn ranges_of_another_version() {
        let check = |if_range: &str, expected| {
            let headers = headers(&format!("Range: bytes=0-0\nIf-Range: {if_range}"));
            let wanted = Conditions::of(&headers).ranges(&file());
            assert_eq!(
                matches!(wanted, RangeSelection::Parts(_)),
                expected,
                "{if_range}"
            );
        };
        check("\"2ebc98a1-3e8\"", true);
        check("W/\"2ebc98a1-3e8\"", false);
        check("\"x\"", false);
        check("\"2ebc98a1-3e8\", \"2ebc98a1-3e8\"", false);
        check("Sun, 06 Nov 1994 08:49:37 GMT", true);
        check("Sun, 06 Nov 1994 08:49:38 GMT", false);
        check("", false);
    }

    #[test]
    fn a_date_is_strong_when_its_second_is_over() {
        for (now, expected) in [(784_111_777, false), (784_111_778, true)] {
            let file = Validators::new(784_111_777, 1000, now);
            let check = |if_range: &str| {
                let headers = headers(&format!("Range: bytes=0-0\nIf-Range: {if_range}"));
                matches!(
                    Conditions::of(&headers).ranges(&file),
                    RangeSelection::Parts(_)
                )
            };
            assert_eq!(check("Sun, 06 Nov 1994 08:49:37 GMT"), expected, "{now}");
            assert!(check("\"2ebc98a1-3e8\""), "the tag does not depend on it");
        }
    }

    #[test]
    fn recent_file_has_a_weak_tag() {
        let weak = file().weak();
        assert_eq!(&*weak.etag, "W/\"2ebc98a1-3e8\"");
        assert_eq!(weak.clone().weak(), weak);
        let zstd = weak.clone().in_coding(ContentCoding::Zstd);
        assert_eq!(&*zstd.etag, "W/\"2ebc98a1-3e8-zstd\"");
        let check = |lines: &str, expected, part| {
            let headers = headers(&format!("Range: bytes=0-0\n{lines}"));
            let conditions = Conditions::of(&headers);
            assert_eq!(conditions.check(&weak), expected, "{lines}");
            let wanted = conditions.ranges(&weak);
            assert_eq!(matches!(wanted, RangeSelection::Parts(_)), part, "{lines}");
        };
        check("Accept: */*", ConditionResult::Go, true);
        check(
            "If-None-Match: \"2ebc98a1-3e8\"",
            ConditionResult::NotModified,
            true,
        );
        check("If-Match: \"2ebc98a1-3e8\"", ConditionResult::Failed, true);
        check(
            "If-Match: W/\"2ebc98a1-3e8\"",
            ConditionResult::Failed,
            true,
        );
        check("If-Range: \"2ebc98a1-3e8\"", ConditionResult::Go, false);
        check("If-Range: W/\"2ebc98a1-3e8\"", ConditionResult::Go, false);
        check(
            "If-Range: Sun, 06 Nov 1994 08:49:37 GMT",
            ConditionResult::Go,
            false,
        );
    }
}
