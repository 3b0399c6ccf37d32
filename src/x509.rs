//! What a certificate says about itself (X.509, RFC 5280 4.1): when it is valid, who issued it, its serial number.
//!
//! This only reads; signatures are checked by [`net::tls`](crate::net::tls).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Parts of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The first moment at which it is valid.
    pub not_before: SystemTime,
    /// The last one.
    pub not_after: SystemTime,
    /// The content of its serial number, with a leading zero byte if the first bit would be set.
    pub serial: Vec<u8>,
    /// The name of its issuer, in DER.
    pub issuer: Vec<u8>,
    /// Its own name, in DER.
    pub subject: Vec<u8>,
    /// The identifier of its issuer's key, if it has one (RFC 5280 4.2.1.1).
    pub authority_key: Option<Vec<u8>>,
}

impl CertificateFacts {
    /// Reads a certificate in DER; `None` if it is not one.
    pub fn read(der: &[u8]) -> Option<Self> {
        let mut certificate = DerElements(DerElements(der).take(SEQUENCE)?);
        let mut fields = DerElements(certificate.take(SEQUENCE)?);
        fields.skip_if(VERSION);
        let serial = fields.take(INTEGER)?.to_vec();
        fields.take(SEQUENCE)?;
        let issuer = fields.take(SEQUENCE)?.to_vec();
        let mut validity = DerElements(fields.take(SEQUENCE)?);
        let not_before = time(validity.next()?)?;
        let not_after = time(validity.next()?)?;
        let subject = fields.take(SEQUENCE)?.to_vec();
        fields.take(SEQUENCE)?;
        let mut extensions = None;
        while let Some((tag, content)) = fields.next() {
            if tag == EXTENSIONS {
                extensions = DerElements(content).take(SEQUENCE);
            }
        }
        Some(Self {
            not_before,
            not_after,
            serial,
            issuer,
            subject,
            authority_key: extensions.and_then(authority_key),
        })
    }
}

/// Checks a response about the state of the certificate with this serial number (OCSP, RFC 6960 4.2.1). Returns until
/// when it counts, if it says that. The signature is left to clients.
///
/// # Errors
/// Why it cannot be presented to clients.
pub fn check_ocsp(
    der: &[u8],
    serial: &[u8],
    now: SystemTime,
) -> Result<Option<SystemTime>, &'static str> {
    let statuses = ocsp_statuses(der)?;
    let mut own = statuses.iter().filter(|status| status.serial == serial);
    let own = own.next().ok_or("it is for another certificate")?;
    match own.state {
        GOOD => {}
        REVOKED => return Err("the certificate is revoked"),
        _ => return Err("the authority does not know the certificate"),
    }
    if own.this_update > now {
        return Err("it is not valid yet");
    }
    match own.next_update {
        Some(next) if next <= now => Err("it has expired"),
        next => Ok(next),
    }
}

/// The state of one certificate in a response.
struct OcspStatus {
    serial: Vec<u8>,
    /// The tag of its state.
    state: u8,
    this_update: SystemTime,
    next_update: Option<SystemTime>,
}

fn ocsp_statuses(der: &[u8]) -> Result<Vec<OcspStatus>, &'static str> {
    const OTHER: &str = "not a response of OCSP in DER";
    let mut response = DerElements(DerElements(der).take(SEQUENCE).ok_or(OTHER)?);
    match response.take(ENUMERATED).ok_or(OTHER)? {
        [0] => {}
        _ => return Err("the authority has refused to say anything"),
    }
    statuses_of(response).ok_or(OTHER)
}

fn statuses_of(mut response: DerElements<'_>) -> Option<Vec<OcspStatus>> {
    let mut typed = DerElements(DerElements(response.take(EXPLICIT_0)?).take(SEQUENCE)?);
    typed.take(OBJECT_IDENTIFIER)?;
    let mut basic = DerElements(DerElements(typed.take(OCTET_STRING)?).take(SEQUENCE)?);
    let mut data = DerElements(basic.take(SEQUENCE)?);
    data.skip_if(EXPLICIT_0);
    // The identifier of the responder, and when it has said this.
    data.next()?;
    data.take(GENERALIZED_TIME)?;
    let mut all = DerElements(data.take(SEQUENCE)?);
    let mut statuses = Vec::new();
    while let Some(single) = all.take(SEQUENCE) {
        let mut single = DerElements(single);
        let mut id = DerElements(single.take(SEQUENCE)?);
        id.take(SEQUENCE)?;
        id.take(OCTET_STRING)?;
        id.take(OCTET_STRING)?;
        let serial = id.take(INTEGER)?.to_vec();
        let (state, _) = single.next()?;
        let this_update = time(single.next()?)?;
        let next_update = match single.next() {
            Some((EXPLICIT_0, content)) => Some(time(DerElements(content).next()?)?),
            _ => None,
        };
        statuses.push(OcspStatus {
            serial,
            state,
            this_update,
            next_update,
        });
    }
    Some(statuses)
}

/// A name of a certificate as text (RFC 4514): `CN=example.com,O=Example`. `name` is the content of its sequence in DER.
/// Attributes without a usual short name, or with a value that is not text, are written as numbers and hexadecimal digits.
pub fn name_text(name: &[u8]) -> String {
    let mut parts = Vec::new();
    let mut sets = DerElements(name);
    while let Some(set) = sets.take(SET) {
        let mut attributes = DerElements(set);
        let mut texts = Vec::new();
        while let Some(attribute) = attributes.take(SEQUENCE) {
            let mut attribute = DerElements(attribute);
            if let Some(kind) = attribute.take(OBJECT_IDENTIFIER)
                && let Some((tag, value)) = attribute.next()
            {
                texts.push(attribute_text(kind, tag, value));
            }
        }
        parts.push(texts.join("+"));
    }
    parts.reverse();
    parts.join(",")
}

fn attribute_text(kind: &[u8], tag: u8, value: &[u8]) -> String {
    let known = ATTRIBUTES.iter().find(|(id, _)| *id == kind);
    let text = match tag {
        UTF8_STRING | PRINTABLE_STRING | IA5_STRING => str::from_utf8(value).ok(),
        _ => None,
    };
    match (known, text) {
        (Some((_, name)), Some(text)) => format!("{name}={}", escaped(text)),
        _ => {
            let name = known.map_or_else(|| dotted(kind), |(_, name)| (*name).to_owned());
            let mut hex = format!("{name}=#{tag:02x}");
            // The length in DER.
            match value.len() {
                length @ 0..0x80 => hex.push_str(&format!("{length:02x}")),
                length @ 0x80..0x100 => hex.push_str(&format!("81{length:02x}")),
                length => hex.push_str(&format!("82{:04x}", length.min(0xffff))),
            }
            value
                .iter()
                .for_each(|byte| hex.push_str(&format!("{byte:02x}")));
            hex
        }
    }
}

/// A value with the characters escaped that RFC 4514 2.4 names, and control characters and what is not ASCII, so that
/// the text can be the value of a field.
fn escaped(text: &str) -> String {
    let mut result = String::new();
    for (index, letter) in text.char_indices() {
        let is_last = index + letter.len_utf8() == text.len();
        match letter {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=' => result.extend(['\\', letter]),
            '#' if index == 0 => result.push_str("\\#"),
            ' ' if index == 0 || is_last => result.push_str("\\ "),
            ' '..='~' => result.push(letter),
            _ => {
                let mut bytes = [0; 4];
                for byte in letter.encode_utf8(&mut bytes).bytes() {
                    result.push_str(&format!("\\{byte:02X}"));
                }
            }
        }
    }
    result
}

/// An object identifier as numbers: `2.5.4.3`.
fn dotted(kind: &[u8]) -> String {
    let mut numbers = Vec::new();
    let mut number: u64 = 0;
    for byte in kind {
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            match numbers.is_empty() {
                true => numbers.extend([number.min(80) / 40, number - number.min(80) / 40 * 40]),
                false => numbers.push(number),
            }
            number = 0;
        }
    }
    let texts = numbers.iter().map(u64::to_string);
    texts.collect::<Vec<_>>().join(".")
}

/// The identifier of the issuer's key among the extensions.
fn authority_key(extensions: &[u8]) -> Option<Vec<u8>> {
    let mut extensions = DerElements(extensions);
    while let Some(extension) = extensions.take(SEQUENCE) {
        let mut parts = DerElements(extension);
        if parts.take(OBJECT_IDENTIFIER)? != AUTHORITY_KEY_IDENTIFIER {
            continue;
        }
        parts.skip_if(BOOLEAN);
        let mut inner = DerElements(DerElements(parts.take(OCTET_STRING)?).take(SEQUENCE)?);
        return inner.take(KEY_IDENTIFIER).map(<[u8]>::to_vec);
    }
    None
}

/// The elements of a constructed value in DER.
struct DerElements<'a>(&'a [u8]);

impl<'a> DerElements<'a> {
    /// The next element: its tag and its content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (tag, rest) = self.0.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(*first), rest),
            // A length in so many bytes; no certificate has more than four.
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let add = |length: usize, byte: &u8| length << 8 | usize::from(*byte);
                (bytes.iter().fold(0, add), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, content))
    }

    /// The content of the next element, which has this tag.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, content) = self.next()?;
        (found == tag).then_some(content)
    }

    /// Skips the next element if it has this tag.
    fn skip_if(&mut self, tag: u8) {
        if self.0.first() == Some(&tag) {
            self.next();
        }
    }
}

/// A time as UTCTime or GeneralizedTime, in the forms that RFC 5280 4.1.2.5 allows.
fn time((tag, content): (u8, &[u8])) -> Option<SystemTime> {
    let text = str::from_utf8(content).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let year: i64 = text.get(..2)?.parse().ok()?;
            // Two digits: 1950 to 2049.
            (year + if year < 50 { 2000 } else { 1900 }, text.get(2..)?)
        }
        GENERALIZED_TIME => (text.get(..4)?.parse().ok()?, text.get(4..)?),
        _ => return None,
    };
    let part = |index: usize| rest.get(2 * index..2 * index + 2)?.parse::<i64>().ok();
    let days = days(year, part(0)?, part(1)?);
    at(days * DAY + part(2)? * 3600 + part(3)? * 60 + part(4)?)
}

/// The time a number of seconds after 1970, or before.
pub fn at(seconds: i64) -> Option<SystemTime> {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    match seconds < 0 {
        true => UNIX_EPOCH.checked_sub(distance),
        false => UNIX_EPOCH.checked_add(distance),
    }
}

/// The days from 1970 to a date of the Gregorian calendar; negative before.
pub const fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March have their leap day at the end; an era of 400 years has 146097 days.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The date that is so many days after 1970: year, month, day.
pub const fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + (month <= 2) as i64;
    (year, month, day)
}

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const ENUMERATED: u8 = 0x0a;
/// `[0]`, constructed.
const EXPLICIT_0: u8 = 0xa0;
/// The states of a certificate in a response of OCSP.
const GOOD: u8 = 0x80;
const REVOKED: u8 = 0xa1;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0]`: explicit in a certificate, implicit in an authority key identifier.
const VERSION: u8 = 0xa0;
const KEY_IDENTIFIER: u8 = 0x80;
const EXTENSIONS: u8 = 0xa3;
/// 2.5.29.35
const AUTHORITY_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 0x23];
/// The short names of attributes that names usually have.
const ATTRIBUTES: [(&[u8], &str); 11] = [
    (&[0x55, 0x04, 0x03], "CN"),
    (&[0x55, 0x04, 0x04], "SN"),
    (&[0x55, 0x04, 0x05], "serialNumber"),
    (&[0x55, 0x04, 0x06], "C"),
    (&[0x55, 0x04, 0x07], "L"),
    (&[0x55, 0x04, 0x08], "ST"),
    (&[0x55, 0x04, 0x0a], "O"),
    (&[0x55, 0x04, 0x0b], "OU"),
    (
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x01],
        "UID",
    ),
    (
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19],
        "DC",
    ),
    (
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01],
        "emailAddress",
    ),
];
/// Seconds of a day.
pub const DAY: i64 = 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_days() {
        let check = |date: (i64, i64, i64), days: i64| {
            assert_eq!(super::days(date.0, date.1, date.2), days, "{date:?}");
            assert_eq!(super::date(days), date);
        };
        check((1970, 1, 1), 0);
        check((1969, 12, 31), -1);
        check((2000, 2, 29), 11_016);
        check((2000, 3, 1), 11_017);
        check((2100, 3, 1), 47_541);
        for days in (-100_000..100_000).step_by(7) {
            let (year, month, day) = date(days);
            assert_eq!(super::days(year, month, day), days);
        }
    }

    #[test]
    fn times_of_certificates() {
        let seconds = |tag, text: &str| {
            let time = time((tag, text.as_bytes()))?;
            time.duration_since(UNIX_EPOCH)
                .ok()
                .map(|since| since.as_secs())
        };
        assert_eq!(seconds(UTC_TIME, "941106084937Z"), Some(784_111_777));
        assert_eq!(seconds(UTC_TIME, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(
            seconds(GENERALIZED_TIME, "19941106084937Z"),
            Some(784_111_777)
        );
        assert_eq!(seconds(UTC_TIME, "9411060849Z"), None);
        assert_eq!(seconds(UTC_TIME, "941106084937"), None);
        assert_eq!(seconds(INTEGER, "941106084937Z"), None);
    }

    #[test]
    fn names_as_text() {
        let element = |tag: u8, content: &[u8]| {
            let mut all = vec![tag, content.len() as u8];
            all.extend_from_slice(content);
            all
        };
        let attribute = |kind: &[u8], tag: u8, value: &[u8]| {
            let parts = [element(OBJECT_IDENTIFIER, kind), element(tag, value)].concat();
            element(SEQUENCE, &parts)
        };
        let cn = &[0x55, 0x04, 0x03][..];
        let check = |sets: &[Vec<u8>], expected: &str| {
            let sets: Vec<_> = sets.iter().map(|set| element(SET, set)).collect();
            assert_eq!(name_text(&sets.concat()), expected);
        };
        let o = attribute(&[0x55, 0x04, 0x0a], PRINTABLE_STRING, b"Ex, Inc");
        check(&[o, attribute(cn, UTF8_STRING, b"me")], r"CN=me,O=Ex\, Inc");
        let two = [
            attribute(cn, UTF8_STRING, b"a"),
            attribute(&[0x55, 0x04, 0x05], UTF8_STRING, b"7"),
        ];
        check(&[two.concat()], "CN=a+serialNumber=7");
        let value = "#a\r\nX: ä ".as_bytes();
        check(
            &[attribute(cn, UTF8_STRING, value)],
            r"CN=\#a\0D\0AX: \C3\A4\ ",
        );
        // 1.2.840.113549.1, and a string in another alphabet.
        let other = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01];
        check(
            &[attribute(&other, UTF8_STRING, b"x")],
            "1.2.840.113549.1=#0c0178",
        );
        check(&[attribute(cn, 0x1e, b"\0a")], "CN=#1e020061");
        check(&[], "");
    }

    #[test]
    fn responses_of_ocsp() {
        let element = |tag: u8, content: &[u8]| {
            let mut all = vec![tag];
            match content.len() {
                length @ 0..0x80 => all.push(length as u8),
                length => all.extend([0x81, length as u8]),
            }
            all.extend_from_slice(content);
            all
        };
        let response = |state: u8, from: &str, until: &str| {
            let moment = |text: &str| element(GENERALIZED_TIME, text.as_bytes());
            let id = [
                element(SEQUENCE, &[]),
                element(OCTET_STRING, b"name"),
                element(OCTET_STRING, b"key"),
                element(INTEGER, &[7]),
            ];
            let single = [
                element(SEQUENCE, &id.concat()),
                element(state, &[]),
                moment(from),
                element(EXPLICIT_0, &moment(until)),
            ];
            let data = [
                element(0xa1, b"responder"),
                moment(from),
                element(SEQUENCE, &element(SEQUENCE, &single.concat())),
            ];
            let basic = element(SEQUENCE, &element(SEQUENCE, &data.concat()));
            let typed = [
                element(OBJECT_IDENTIFIER, &[1]),
                element(OCTET_STRING, &basic),
            ];
            let typed = element(EXPLICIT_0, &element(SEQUENCE, &typed.concat()));
            element(SEQUENCE, &[element(ENUMERATED, &[0]), typed].concat())
        };
        let now = at(784_111_777).unwrap();
        let (before, after) = ("19941105000000Z", "19941107000000Z");
        let good = response(GOOD, before, after);
        let until = at(days(1994, 11, 7) * DAY).unwrap();
        assert_eq!(check_ocsp(&good, &[7], now), Ok(Some(until)));
        let check = |der: &[u8], serial: u8, why: &'static str| {
            assert_eq!(check_ocsp(der, &[serial], now), Err(why));
        };
        check(&good, 8, "it is for another certificate");
        check(&response(GOOD, before, before), 7, "it has expired");
        check(&response(GOOD, after, after), 7, "it is not valid yet");
        let revoked = response(REVOKED, before, after);
        check(&revoked, 7, "the certificate is revoked");
        let unknown = response(0x82, before, after);
        check(&unknown, 7, "the authority does not know the certificate");
        let refused = element(SEQUENCE, &element(ENUMERATED, &[6]));
        check(&refused, 7, "the authority has refused to say anything");
        for other in [b"".as_slice(), b"-----BEGIN", &good[..good.len() - 1]] {
            check(other, 7, "not a response of OCSP in DER");
        }
    }

    #[test]
    fn truncated_certificates() {
        for der in [
            &[][..],
            &[0x30],
            &[0x30, 0x82, 0x01],
            &[0x30, 0xff, 0, 0],
            b"no",
        ] {
            assert_eq!(CertificateFacts::read(der), None, "{der:?}");
        }
    }
}
