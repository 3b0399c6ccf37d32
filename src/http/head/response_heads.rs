//! The heads of a response: any number of interim ones, and the final one (RFC 9110 15.2).

use super::request::RequestHead;
use super::response::ResponseHead;
use super::scan::HeadScanner;
use crate::http::limits::HeadLimits;
use crate::http::refusal::BadHead;

/// Reads the heads of the response to one request as the bytes arrive.
#[derive(Clone, Debug)]
pub struct ResponseHeads {
    scanner: HeadScanner,
    /// Number of interim heads so far.
    interim: u32,
}

impl ResponseHeads {
    /// Expects the first head of a response.
    pub const fn new() -> Self {
        Self {
            scanner: HeadScanner::response(),
            interim: 0,
        }
    }

    /// Parses the next head; returns it with its length. `bytes` starts after the previous head. `None`: the head is
    /// not complete yet. The first head that is not [interim](ResponseHead::is_interim) is the last one; a 101 is
    /// final, since no HTTP follows it.
    ///
    /// # Errors
    /// The rule that a head breaks; a 101 that `request` has not asked for; more than ten interim heads.
    pub fn next(
        &mut self,
        bytes: &[u8],
        request: &RequestHead,
        limits: &HeadLimits,
    ) -> Result<Option<(ResponseHead, usize)>, BadHead> {
        let scanned = self.scanner.scan(bytes, limits);
        let Some(end) = scanned.map_err(|refusal| BadHead(refusal.why))? else {
            return Ok(None);
        };
        let head = ResponseHead::parse(&bytes[..end], limits)?;
        // A 101 needs a request with an Upgrade field.
        if head.status == 101 && !request.is_switched_by(&head) {
            return Err(BadHead("101 without a request for an upgrade"));
        }
        if head.is_interim() {
            self.interim += 1;
            if self.interim > MOST_INTERIM {
                return Err(BadHead("too many interim responses"));
            }
            self.scanner = HeadScanner::response();
        }
        Ok(Some((head, end)))
    }
}

impl Default for ResponseHeads {
    fn default() -> Self {
        Self::new()
    }
}

/// Most interim responses before the final one.
const MOST_INTERIM: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    /// The statuses of the heads in a text that comes byte by byte, and the fault that ends it.
    fn statuses(request: &str, text: &str) -> (Vec<u16>, Option<&'static str>) {
        let limits = HeadLimits::default();
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{request}\r\n");
        let request = RequestHead::parse(request.as_bytes(), &limits).unwrap();
        let (mut heads, mut seen, mut start) = (ResponseHeads::new(), Vec::new(), 0);
        for end in 0..=text.len() {
            match heads.next(&text.as_bytes()[start..end], &request, &limits) {
                Ok(None) => {}
                Ok(Some((head, length))) => {
                    assert_eq!(start + length, end, "as soon as it is there");
                    start = end;
                    seen.push(head.status);
                    if !head.is_interim() {
                        break;
                    }
                }
                Err(bad) => return (seen, Some(bad.0)),
            }
        }
        (seen, None)
    }

    #[test]
    fn interim_ones_come_before_the_final_one() {
        let hints = "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n";
        let both = format!("HTTP/1.1 100 Continue\r\n\r\n{hints}HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 ");
        assert_eq!(statuses("", &both), (vec![100, 103, 200], None));
        let many = |count| statuses("", &format!("{}HTTP/1.1 200 \r\n\r\n", hints.repeat(count)));
        assert_eq!(many(10).1, None);
        assert_eq!(
            many(11),
            (vec![103; 10], Some("too many interim responses"))
        );
        assert!(statuses("", "HTTP/1.1 1000\r\n\r\n").1.is_some());
    }

    #[test]
    fn switch_needs_a_request() {
        let switch = "HTTP/1.1 101 \r\nUpgrade: a\r\n\r\nHTTP/1.1 200 \r\n\r\n";
        let asked = "Connection: upgrade\r\nUpgrade: a\r\n";
        assert_eq!(statuses(asked, switch), (vec![101], None));
        let refused = (Vec::new(), Some("101 without a request for an upgrade"));
        assert_eq!(statuses("", switch), refused);
    }
}
