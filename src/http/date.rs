//! HTTP dates (RFC 9110 5.6.7). Times before 1970 become the first date that the format can express, times after 9999
//! the last.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `Sun, 06 Nov 1994 08:49:37 GMT`, always of this length.
pub fn text(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    of_seconds(since.as_secs())
}

/// The date of a number of seconds since 1970.
pub fn of_seconds(seconds: u64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds.min(LAST)))
}

/// The time of a date in one of the three forms of HTTP.
pub fn parse(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text).ok()
}

/// The last second of the year 9999.
const LAST: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_has_a_date() {
        let check = |time: SystemTime, expected: &str| assert_eq!(text(time), expected);
        check(UNIX_EPOCH, "Thu, 01 Jan 1970 00:00:00 GMT");
        let minute = Duration::from_secs(60);
        check(UNIX_EPOCH - minute, "Thu, 01 Jan 1970 00:00:00 GMT");
        check(UNIX_EPOCH + minute, "Thu, 01 Jan 1970 00:01:00 GMT");
        assert_eq!(of_seconds(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        let last = "Fri, 31 Dec 9999 23:59:59 GMT";
        assert_eq!(of_seconds(LAST), last);
        assert_eq!(of_seconds(LAST + 1), last);
        assert_eq!(of_seconds(u64::MAX), last);
    }
}
