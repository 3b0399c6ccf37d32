//! When to try again and when to renew. Nothing here reads a clock.

use std::hash::BuildHasher;
use std::time::{Duration, SystemTime};

use super::jose::encode;
use crate::x509::{self, CertificateFacts, DAY};

/// A window in which a certificate should be renewed (RFC 9773 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RenewalWindow {
    pub(super) start: SystemTime,
    pub(super) end: SystemTime,
}

impl RenewalWindow {
    /// A time in the window; `random` is from 0 to 1.
    pub(super) fn choose(&self, random: f64) -> SystemTime {
        let length = self.end.duration_since(self.start).unwrap_or_default();
        self.start + length.mul_f64(random)
    }

    /// Whether a time is in it.
    pub(super) fn has(&self, time: SystemTime) -> bool {
        (self.start..=self.end).contains(&time)
    }
}

/// When to renew a certificate whose authority does not say it: after two thirds of its lifetime, a little earlier by
/// chance so that many certificates are not renewed at once. `random` is from 0 to 1.
pub(super) fn renewal(facts: &CertificateFacts, random: f64) -> SystemTime {
    let lifetime = facts.not_after.duration_since(facts.not_before);
    let lifetime = lifetime.unwrap_or_default();
    let jitter = lifetime.mul_f64(random / 60.0);
    facts.not_before + (lifetime * 2 / 3).saturating_sub(jitter)
}

/// How long to wait after so many failures in a row: twice as long each time, and up to a quarter less by chance.
/// `wanted` is the least time that the authority asks for.
pub(super) fn pause(
    failures: u32,
    is_refused: bool,
    wanted: Option<Duration>,
    random: f64,
) -> Duration {
    let (first, most) = match is_refused {
        true => (REFUSED, REFUSED_MOST),
        false => (UNREACHED, UNREACHED_MOST),
    };
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let pause = doubled.min(most).mul_f64(1.0 - random / 4.0);
    pause.max(wanted.unwrap_or_default()).min(LONGEST)
}

/// The name of a certificate in requests for its renewal window (RFC 9773 4.1).
pub(super) fn renewal_id(facts: &CertificateFacts) -> Option<String> {
    let key = facts.authority_key.as_ref()?;
    Some(format!("{}.{}", encode(key), encode(&facts.serial)))
}

/// The time of a text of RFC 3339: `2026-01-02T03:04:05Z`, with fractions or an offset.
pub(super) fn timestamp(text: &str) -> Option<SystemTime> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let separators = [(4, '-'), (7, '-'), (10, 'T'), (13, ':'), (16, ':')];
    let is_at = |(index, separator): (usize, char)| {
        text.get(index..=index)
            .is_some_and(|found| found.eq_ignore_ascii_case(&separator.to_string()))
    };
    if !text.is_ascii() || !separators.into_iter().all(is_at) {
        return None;
    }
    let days = x509::days(number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let seconds = number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
    let rest = text.get(19..)?;
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches(|digit: char| digit.is_ascii_digit()),
        None => rest,
    };
    let offset = match zone.split_at_checked(1)? {
        ("Z" | "z", "") => 0,
        (sign @ ("+" | "-"), time) => {
            let (hours, minutes) = time.split_once(':')?;
            let seconds = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
            if sign == "+" { seconds } else { -seconds }
        }
        _ => return None,
    };
    x509::at(days * DAY + seconds - offset)
}

/// A number from 0 to 1, by chance.
pub(super) fn random() -> f64 {
    let hash = std::hash::RandomState::new().hash_one(0);
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

/// The first pause after the authority was not reached, and the longest.
const UNREACHED: Duration = Duration::from_secs(2);
const UNREACHED_MOST: Duration = Duration::from_secs(3600);
/// The same after it has refused: Let's Encrypt allows five failed validations of a name in an hour.
const REFUSED: Duration = Duration::from_secs(20 * 60);
const REFUSED_MOST: Duration = Duration::from_secs(24 * 3600);
/// The longest pause that an authority can ask for.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn facts(before: u64, after: u64) -> CertificateFacts {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        CertificateFacts {
            not_before: at(before),
            not_after: at(after),
            serial: vec![0x00, 0x87, 0x65, 0x43, 0x21],
            issuer: Vec::new(),
            subject: Vec::new(),
            authority_key: Some(vec![
                0x69, 0x88, 0x5b, 0x6b, 0x87, 0x46, 0x40, 0x41, 0xe1, 0xb3, 0x7b, 0x84, 0x7b, 0xa0,
                0xae, 0x2c, 0xde, 0x01, 0xc8, 0xd4,
            ]),
        }
    }

    #[test]
    fn id_of_a_certificate() {
        // The example of RFC 9773 4.1.
        let id = renewal_id(&facts(0, 1)).unwrap();
        assert_eq!(id, "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE");
    }

    #[test]
    fn renewal_after_two_thirds() {
        let seconds = |random| {
            let renewal = renewal(&facts(1000, 7000), random);
            renewal.duration_since(UNIX_EPOCH).unwrap().as_secs()
        };
        assert_eq!(seconds(0.0), 5000);
        assert_eq!(seconds(1.0), 4900);
    }

    #[test]
    fn pauses_double_and_respect_the_authority() {
        let seconds = |failures, is_refused, wanted: Option<u64>| {
            let wanted = wanted.map(Duration::from_secs);
            pause(failures, is_refused, wanted, 0.0).as_secs()
        };
        assert_eq!(seconds(1, false, None), 2);
        assert_eq!(seconds(2, false, None), 4);
        assert_eq!(seconds(40, false, None), 3600);
        assert_eq!(seconds(1, true, None), 1200);
        assert_eq!(seconds(99, true, None), 86_400);
        assert_eq!(seconds(1, false, Some(600)), 600);
        assert_eq!(seconds(1, true, Some(600)), 1200);
        assert_eq!(seconds(1, true, Some(u64::MAX)), 604_800);
        assert_eq!(pause(2, false, None, 1.0), Duration::from_secs(3));
    }

    #[test]
    fn windows() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let window = RenewalWindow {
            start: at(100),
            end: at(200),
        };
        assert_eq!(window.choose(0.0), at(100));
        assert_eq!(window.choose(0.5), at(150));
        assert!(window.has(at(200)) && !window.has(at(201)));
    }

    #[test]
    fn timestamps() {
        let check = |text: &str, expected: Option<u64>| {
            let time = timestamp(text).map(|time| time.duration_since(UNIX_EPOCH).unwrap());
            assert_eq!(time.map(|time| time.as_secs()), expected, "{text}");
        };
        check("1994-11-06T08:49:37Z", Some(784_111_777));
        check("1994-11-06T08:49:37.123456789Z", Some(784_111_777));
        check("1994-11-06t09:49:37+01:00", Some(784_111_777));
        check("1994-11-06T08:49:37", None);
        check("1994-11-06 08:49:37Z", None);
        check("", None);
        check("1994-11-06T08:49:37ä", None);
    }
}
