//! Content codings: which ones a client accepts, and which responses may be compressed (RFC 9110 8.4, 12.5.3).

use super::head::ResponseHead;
use super::headers::Headers;

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContentCoding {
    /// Brotli (RFC 7932).
    Brotli,
    /// Zstandard (RFC 8878).
    Zstd,
    /// Gzip (RFC 1952).
    Gzip,
}

/// The Accept-Encoding fields of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Weights in the order of [`ContentCoding::ALL`], in thousandths.
    codings: [u16; 3],
    /// The weight of `identity` (no coding); 0 if it is not mentioned.
    identity: u16,
}

impl ContentCoding {
    /// All codings, the one that compresses text best first.
    pub const ALL: [Self; 3] = [Self::Brotli, Self::Zstd, Self::Gzip];

    /// The name in fields.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// The extension of files in this coding.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Brotli => ".br",
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
        }
    }

    fn parse(name: &[u8]) -> Option<Self> {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name {
            // RFC 9110 8.4.1.3.
            _ if is("x-gzip") => Some(Self::Gzip),
            _ => Self::ALL.into_iter().find(|coding| is(coding.name())),
        }
    }
}

impl Accepted {
    /// Reads the Accept-Encoding fields. If there is none, or one is invalid, nothing is encoded: the standard would
    /// allow it (RFC 9110 12.5.3), but a client that sends no field may well be unable to decode anything.
    pub fn of(headers: &Headers) -> Self {
        let mut codings = [None; ContentCoding::ALL.len()];
        let mut rest = 0;
        let mut identity = None;
        let lists = headers.get_all("Accept-Encoding");
        for item in lists.flat_map(|list| list.split(|byte| *byte == b',')) {
            let mut parts = item.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let name = parts.next().unwrap_or_default();
            let weight = match (parts.next(), parts.next()) {
                (None, _) => 1000,
                (Some(weight), None) => self::weight(weight).unwrap_or(0),
                _ => 0,
            };
            match name {
                b"*" => rest = weight,
                _ if name.eq_ignore_ascii_case(b"identity") => identity = Some(weight),
                _ => {
                    if let Some(coding) = ContentCoding::parse(name) {
                        codings[coding as usize] = Some(weight);
                    }
                }
            }
        }
        Self {
            codings: codings.map(|weight| weight.unwrap_or(rest)),
            identity: identity.unwrap_or(0),
        }
    }

    /// Whether the client accepts a coding and prefers it to, or likes it as much as, none.
    pub const fn takes(&self, coding: ContentCoding) -> bool {
        let weight = self.codings[coding as usize];
        weight > 0 && weight >= self.identity
    }

    /// The coding of these that the client prefers; with equal weights the first one in [`ContentCoding::ALL`].
    /// `None`: it accepts none of them.
    pub fn best(&self, available: impl Fn(ContentCoding) -> bool) -> Option<ContentCoding> {
        let fit = |coding: &ContentCoding| self.takes(*coding) && available(*coding);
        let weight = |coding: &ContentCoding| self.codings[*coding as usize];
        // `max_by_key` returns the last of several maxima.
        ContentCoding::ALL
            .into_iter()
            .rev()
            .filter(fit)
            .max_by_key(weight)
    }

    /// Whether the client accepts no coding at all.
    pub fn is_nothing(&self) -> bool {
        !ContentCoding::ALL
            .into_iter()
            .any(|coding| self.takes(coding))
    }
}

/// Whether a response may be encoded: it is complete, not encoded yet, of one of these types (`text/html`, `text/*`),
/// and has no field that forbids encoding or would become wrong.
pub fn may_be_encoded<T: AsRef<str>>(head: &ResponseHead, types: &[T]) -> bool {
    let whole = match head.status {
        // RFC 9110 15.3.6, 15.3.7: 205 has no content, 206 is a part.
        204..=206 => false,
        200..=299 | 400..=599 => true,
        _ => false,
    };
    let headers = &head.headers;
    whole
        && !OBSTACLES.iter().any(|name| headers.contains(name))
        && !forbids_change(headers)
        && headers
            .get("Content-Type")
            .is_some_and(|value| has_type(value, types))
}

/// Whether Cache-Control has no-transform, in a request or a response (RFC 9111 5.2.1.6, 5.2.2.6).
pub fn forbids_change(headers: &Headers) -> bool {
    let lists = headers.get_all("Cache-Control");
    let mut directives = lists.flat_map(|list| list.split(|byte| *byte == b','));
    directives.any(|directive| directive.trim_ascii().eq_ignore_ascii_case(b"no-transform"))
}

/// Changes the head of a response for an encoded body of unknown length. The encoded body is another representation,
/// so the tag becomes weak (RFC 9110 8.8.3) and ranges are not offered.
pub fn encoded(head: &mut ResponseHead, coding: ContentCoding) {
    head.length = None;
    head.headers
        .set("Content-Encoding", coding.name().as_bytes());
    head.headers.remove("Accept-Ranges");
    weaken(&mut head.headers);
}

/// Adds Accept-Encoding to Vary, in a response or a 304 (RFC 9110 12.5.5).
pub fn varies(headers: &mut Headers) {
    let said = |list: &[u8]| {
        list.split(|byte| *byte == b',').any(|name| {
            let name = name.trim_ascii();
            name == b"*" || name.eq_ignore_ascii_case(ACCEPT_ENCODING)
        })
    };
    if headers.get_all("Vary").any(said) {
        return;
    }
    let all = headers.get_all("Vary").chain([ACCEPT_ENCODING]);
    let all = all.collect::<Vec<_>>().join(&b", "[..]);
    headers.set("Vary", &all);
}

/// Gives a 304 the tag that the client's copy has: encoded responses have weak ones.
pub fn matches(head: &mut ResponseHead, request: &Headers) {
    let Some(tag) = head
        .headers
        .get("ETag")
        .filter(|tag| tag.starts_with(b"\""))
    else {
        return;
    };
    let weak = [b"W/", tag].concat();
    let mut lists = request.get_all("If-None-Match");
    if lists.any(|list| list.windows(weak.len()).any(|part| part == weak)) {
        weaken(&mut head.headers);
    }
}

/// Makes a strong tag weak. Removes an invalid one.
fn weaken(headers: &mut Headers) {
    let Some(tag) = headers.get("ETag") else {
        return;
    };
    match tag {
        [b'W', b'/', ..] => {}
        [b'"', ..] => {
            let weak = [b"W/", tag].concat();
            headers.set("ETag", &weak);
        }
        _ => {
            headers.remove("ETag");
        }
    }
}

/// Whether the media type of a Content-Type, without parameters, is in a list.
pub fn has_type<T: AsRef<str>>(value: &[u8], types: &[T]) -> bool {
    let essence = value.split(|byte| *byte == b';').next().unwrap_or_default();
    let essence = essence.trim_ascii();
    types.iter().any(|known| {
        let known = known.as_ref().as_bytes();
        match known.strip_suffix(b"*") {
            Some(start) => essence
                .get(..start.len())
                .is_some_and(|begin| begin.eq_ignore_ascii_case(start)),
            None => essence.eq_ignore_ascii_case(known),
        }
    })
}

/// Parses a weight (RFC 9110 12.4.2): `q=0.5` is 500.
fn weight(text: &[u8]) -> Option<u16> {
    let ([b'q' | b'Q', b'='], digits) = text.split_at_checked(2)? else {
        return None;
    };
    let (whole, rest) = digits.split_first()?;
    let fraction = match rest {
        [] => &[],
        [b'.', fraction @ ..] if fraction.len() <= 3 => fraction,
        _ => return None,
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let thousandths = (0..3).fold(0, |sum, place| {
        sum * 10
            + fraction
                .get(place)
                .map_or(0, |digit| u16::from(digit - b'0'))
    });
    match (whole, thousandths) {
        (b'0', thousandths) => Some(thousandths),
        (b'1', 0) => Some(1000),
        _ => None,
    }
}

const ACCEPT_ENCODING: &[u8] = b"Accept-Encoding";
/// Fields that forbid encoding: the response is encoded already, is a part, or carries a digest of its bytes (RFC 9110
/// 8.4, 14.4; RFC 9530; the last two are older).
const OBSTACLES: [&str; 6] = [
    "Content-Encoding",
    "Content-Range",
    "Content-Digest",
    "Repr-Digest",
    "Digest",
    "Content-MD5",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in fields {
            headers.push(name, value.as_bytes());
        }
        headers
    }

    #[test]
    fn codings_that_are_accepted() {
        let check = |values: &[&str], expected: &str| {
            let fields: Vec<_> = values
                .iter()
                .map(|value| ("accept-encoding", *value))
                .collect();
            let accepted = Accepted::of(&headers(&fields));
            let mut left = ContentCoding::ALL.to_vec();
            let mut found = Vec::new();
            while let Some(best) = accepted.best(|coding| left.contains(&coding)) {
                left.retain(|coding| *coding != best);
                found.push(best.name());
            }
            assert_eq!(found.join(" "), expected, "{values:?}");
            assert_eq!(accepted.is_nothing(), expected.is_empty());
        };
        check(&[], "");
        check(&[""], "");
        check(&["gzip"], "gzip");
        check(&["x-gzip"], "gzip");
        check(&["gzip, deflate, br, zstd"], "br zstd gzip");
        check(&["GZip;Q=1.000 , BR ; q=0.5"], "gzip br");
        check(&["gzip", "br"], "br gzip");
        check(&["gzip;q=0"], "");
        check(&["gzip;q=0.000, br;q=0.001"], "br");
        check(&["*"], "br zstd gzip");
        check(&["*;q=0"], "");
        check(&["*;q=0, gzip"], "gzip");
        check(&["gzip;q=0, *"], "br zstd");
        check(&["gzip;q=0.8, *;q=0.1"], "gzip br zstd");
        // An unencoded response is sent only if the client prefers it.
        check(&["identity, gzip;q=0.5"], "");
        check(&["identity;q=0.5, gzip;q=0.5"], "gzip");
        check(&["identity;q=0, gzip;q=0.1"], "gzip");
        check(&["gzip, identity"], "gzip");
        check(&["identity;q=0"], "");
        // What is not understood is not used.
        for odd in [
            "gzip;q=2",
            "gzip;q=1.5",
            "gzip;q=",
            "gzip;q=0.1234",
            "gzip;q=-1",
            "gzip;q=0,5",
            "gzip;level=1",
            "gzip;q=1;x",
            "gzi",
            "gzip q=1",
            ";q=1",
            ",,;;",
        ] {
            check(&[odd], "");
        }
    }

    fn head(status: u16, fields: &[(&str, &str)]) -> ResponseHead {
        ResponseHead {
            headers: headers(fields),
            length: Some(5000),
            ..ResponseHead::new(status)
        }
    }

    #[test]
    fn answers_that_may_be_encoded() {
        let types = ["text/html", "image/svg+xml", "application/x-*"];
        let check = |status, fields: &[(&str, &str)], expected| {
            let head = head(status, fields);
            assert_eq!(may_be_encoded(&head, &types), expected, "{head:?}");
        };
        let html = ("Content-Type", "text/html");
        for status in [200, 201, 203, 404, 500, 503] {
            check(status, &[html], true);
        }
        for status in [101, 204, 205, 206, 301, 304] {
            check(status, &[html], false);
        }
        for good in [
            "Text/HTML; charset=utf-8",
            " text/html ;x",
            "image/svg+xml",
            "application/x-thing",
        ] {
            check(200, &[("content-type", good)], true);
        }
        for other in [
            "text/plain",
            "text/html2",
            "text",
            "",
            "image/svg",
            "application/y",
            "; text/html",
        ] {
            check(200, &[("Content-Type", other)], false);
        }
        check(200, &[], false);
        for obstacle in [
            ("content-encoding", "br"),
            ("Content-Encoding", "identity"),
            ("Content-Range", "bytes 0-1/2"),
            ("Content-MD5", "x"),
            ("Repr-Digest", "x"),
            ("Cache-Control", "public, No-Transform"),
        ] {
            check(200, &[html, obstacle], false);
        }
        check(
            200,
            &[html, ("Cache-Control", "public, max-age=1, x-no-transform")],
            true,
        );
    }

    #[test]
    fn heads_of_encoded_answers() {
        let mut head = head(
            200,
            &[
                ("ETag", "\"a\""),
                ("Accept-Ranges", "bytes"),
                ("Vary", "Cookie"),
                ("Vary", "Origin"),
            ],
        );
        encoded(&mut head, ContentCoding::Gzip);
        varies(&mut head.headers);
        varies(&mut head.headers);
        let expected = headers(&[
            ("ETag", "W/\"a\""),
            ("Vary", "Cookie, Origin, Accept-Encoding"),
            ("Content-Encoding", "gzip"),
        ]);
        assert_eq!((head.headers, head.length), (expected, None));
        let vary = |value: &str, expected: &str| {
            let mut fields = headers(&[("vary", value)]);
            varies(&mut fields);
            assert_eq!(fields.get("Vary"), Some(expected.as_bytes()));
            assert_eq!(fields.len(), 1);
        };
        vary("*", "*");
        vary("accept-encoding , Cookie", "accept-encoding , Cookie");
        vary("Accept", "Accept, Accept-Encoding");
        let tag = |value: &str, expected: Option<&str>| {
            let mut fields = headers(&[("ETag", value)]);
            weaken(&mut fields);
            assert_eq!(fields.get("ETag"), expected.map(str::as_bytes));
        };
        tag("W/\"a\"", Some("W/\"a\""));
        tag("a", None);
    }

    #[test]
    fn a_304_has_the_tag_that_was_asked_for() {
        let check = |asked: &str, expected: &str| {
            let mut head = head(304, &[("ETag", "\"a\"")]);
            matches(&mut head, &headers(&[("If-None-Match", asked)]));
            assert_eq!(
                head.headers.get("ETag"),
                Some(expected.as_bytes()),
                "{asked}"
            );
        };
        check("\"a\"", "\"a\"");
        check("\"b\", W/\"a\"", "W/\"a\"");
        check("W/\"b\"", "\"a\"");
        check("*", "\"a\"");
    }
}
