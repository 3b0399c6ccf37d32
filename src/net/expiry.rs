//! When a certificate expires (RFC 5280 4.1). The TLS library checks certificates, but does not tell their dates.

use std::str;

/// The end of a certificate's validity in seconds since 1970. `None`: it is not a certificate.
pub(super) fn of_certificate(der: &[u8]) -> Option<u64> {
    let (certificate, _) = value(der, SEQUENCE)?;
    let (mut rest, _) = value(certificate, SEQUENCE)?;
    if let Some((_, after)) = value(rest, VERSION) {
        rest = after;
    }
    // Serial number, signature, issuer.
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        (_, rest) = value(rest, tag)?;
    }
    let (validity, _) = value(rest, SEQUENCE)?;
    let (_, rest) = value(validity, UTC_TIME).or_else(|| value(validity, GENERALIZED_TIME))?;
    match value(rest, UTC_TIME) {
        Some((text, _)) => {
            let (year, rest) = number(text, 2)?;
            // RFC 5280 4.1.2.5.1
            seconds(if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        None => {
            let (text, _) = value(rest, GENERALIZED_TIME)?;
            let (year, rest) = number(text, 4)?;
            seconds(year, rest)
        }
    }
}

/// The content of the first value, which has this tag, and what follows it (X.690 8.1).
fn value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    if *first != tag {
        return None;
    }
    match length {
        0..=0x7f => rest.split_at_checked(usize::from(*length)),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            let length = digits
                .iter()
                .fold(0, |length, digit| length << 8 | usize::from(*digit));
            rest.split_at_checked(length)
        }
        _ => None,
    }
}

fn number(text: &[u8], digits: usize) -> Option<(u64, &[u8])> {
    let (number, rest) = text.split_at_checked(digits)?;
    Some((str::from_utf8(number).ok()?.parse().ok()?, rest))
}

/// `MMDDHHMMSSZ` of a year.
fn seconds(year: u64, text: &[u8]) -> Option<u64> {
    let (month, text) = number(text, 2)?;
    let (day, text) = number(text, 2)?;
    let (hour, text) = number(text, 2)?;
    let (minute, text) = number(text, 2)?;
    let (second, _) = number(text, 2)?;
    if !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    // Days since 1970, counted in years that begin in March, so that a leap day is the last one.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468)?;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let check = |year, text: &str, expected| {
            assert_eq!(seconds(year, text.as_bytes()), expected, "{year} {text}");
        };
        check(1970, "0101000000Z", Some(0));
        check(2000, "0229235959Z", Some(951_868_799));
        check(2026, "1128125200Z", Some(1_795_870_320));
        check(2100, "0301000000Z", Some(4_107_542_400));
        check(1969, "1231235959Z", None);
        check(2026, "1301000000Z", None);
        check(2026, "11", None);
    }

    #[test]
    fn end_of_validity() {
        let part = |tag: u8, content: &[u8]| [&[tag, content.len() as u8], content].concat();
        let certificate = |end: Vec<u8>| {
            let begin = part(UTC_TIME, b"200101000000Z");
            let validity = part(SEQUENCE, &[begin, end].concat());
            let fields = [
                part(VERSION, &part(INTEGER, &[2])),
                part(INTEGER, &[1]),
                part(SEQUENCE, &[]),
                part(SEQUENCE, &[]),
                validity,
            ];
            part(SEQUENCE, &part(SEQUENCE, &fields.concat()))
        };
        let expected = Some(1_795_870_320);
        let end = certificate(part(UTC_TIME, b"261128125200Z"));
        assert_eq!(of_certificate(&end), expected);
        let end = certificate(part(GENERALIZED_TIME, b"20261128125200Z"));
        assert_eq!(of_certificate(&end), expected);
        for cut in 0..end.len() {
            assert_eq!(of_certificate(&end[..cut]), None, "{cut}");
        }
    }
}
