//! Finds the end of a head as its bytes arrive.

use memchr::{memchr, memchr_iter};

use crate::http::limits::HeadLimits;
use crate::http::refusal::Refusal;
use crate::http::syntax::is_token;

/// Finds the end of a head as its bytes arrive. Looks at each byte once, so that a head sent byte by byte costs no
/// more than another; reports errors as early as possible.
#[derive(Clone, Debug)]
pub struct HeadScanner {
    /// The position to continue from.
    at: u32,
    /// The start of the current line.
    line: u32,
    position: ScanPosition,
    empty_lines: u8,
    response: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ScanPosition {
    /// Before the first line.
    Before,
    /// Within the first line.
    First,
    /// Within the fields.
    Fields,
}

impl HeadScanner {
    /// For the head of a request.
    pub const fn new() -> Self {
        Self {
            at: 0,
            line: 0,
            position: ScanPosition::Before,
            empty_lines: 0,
            response: false,
        }
    }

    /// For the head of a response. Only the reason of its refusals is meaningful.
    pub const fn response() -> Self {
        Self {
            response: true,
            ..Self::new()
        }
    }

    /// Scans all bytes of a message so far. Returns the length of the head, including empty lines before it and the
    /// empty line at its end, once the head is complete.
    ///
    /// # Errors
    /// 400 for bare CR or LF, control bytes and more than two empty lines before the head (none before a response);
    /// 414 and 431 for exceeded limits.
    pub fn scan(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<Option<usize>, Refusal> {
        let within = &bytes[..bytes.len().min(limits.head)];
        if let Some(end) = self.whole(within) {
            return Ok(Some(end));
        }
        if within.len() < self.at as usize {
            // The limit was higher when these bytes were scanned.
            return Err(HEAD_TOO_LARGE);
        }
        let (mut at, mut line) = (self.at as usize, self.line as usize);
        let end = loop {
            if self.position == ScanPosition::Before && at == line {
                match within.get(line) {
                    None => break None,
                    Some(b'\r') => {}
                    Some(first) if self.response || is_token(*first) => {
                        self.position = ScanPosition::First
                    }
                    Some(b'\n') => return Err(Refusal::bad(BARE_LF)),
                    Some(_) => {
                        return Err(Refusal::bad("a first byte that is invalid in a method"));
                    }
                }
            }
            let Some(length) = memchr(b'\n', &within[at..]) else {
                // Leave a final CR for the next call, when the byte after it is known.
                let end = within.len() - usize::from(within[at..].ends_with(b"\r"));
                check_text(&within[at..end])?;
                at = end;
                break None;
            };
            let feed = at + length;
            if feed == line || within[feed - 1] != b'\r' {
                return Err(Refusal::bad(BARE_LF));
            }
            if feed > at {
                check_text(&within[at..feed - 1])?;
            }
            let empty = feed - 1 == line;
            (at, line) = (feed + 1, feed + 1);
            match (empty, self.position) {
                (true, ScanPosition::Before) => {
                    self.empty_lines += 1;
                    if self.response || self.empty_lines > MOST_EMPTY_LINES {
                        return Err(Refusal::bad("too many empty lines before the head"));
                    }
                }
                (true, _) => break Some(at),
                (false, _) => self.position = ScanPosition::Fields,
            }
        };
        if end.is_none() {
            self.check_sizes(&within[line..], bytes.len(), limits)?;
        }
        // Both are within the limit of a head.
        (self.at, self.line) = (at as u32, line as u32);
        Ok(end)
    }

    /// Whether part of the message itself has arrived. Empty lines before it, which some clients send after the
    /// previous body, do not count (RFC 9112 2.2).
    pub const fn has_begun(&self) -> bool {
        !matches!(self.position, ScanPosition::Before)
    }

    /// The length of a head that arrived in one piece and breaks no rule, as most do: checks many bytes per
    /// instruction. All other heads take the slow path, which finds out what is wrong.
    fn whole(&self, bytes: &[u8]) -> Option<usize> {
        let first = bytes.first()?;
        let fresh = self.at == 0 && self.position == ScanPosition::Before;
        if !fresh || !(self.response && *first > b' ' || is_token(*first)) {
            return None;
        }
        let mut feeds = memchr_iter(b'\n', bytes);
        let end = feeds.find(|feed| bytes[feed + 1..].starts_with(b"\r\n"))? + 3;
        (!breaks_text(&bytes[..end])).then_some(end)
    }

    /// Checks the size of an incomplete head, which may already be too large.
    fn check_sizes(
        &self,
        line: &[u8],
        received: usize,
        limits: &HeadLimits,
    ) -> Result<(), Refusal> {
        if self.position == ScanPosition::First && !self.response && line.len() > limits.target {
            let target =
                memchr(b' ', &line[..MOST_METHOD.min(line.len())]).map(|space| &line[space + 1..]);
            let Some(target) = target else {
                return Err(METHOD_TOO_LONG);
            };
            if target.len() > limits.target && memchr(b' ', target).is_none() {
                return Err(TARGET_TOO_LONG);
            }
        }
        match received >= limits.head {
            true => Err(HEAD_TOO_LARGE),
            false => Ok(()),
        }
    }
}

impl Default for HeadScanner {
    fn default() -> Self {
        Self::new()
    }
}

/// Checks for control bytes other than tabs. A CR counts as one unless it ends a line.
fn check_text(bytes: &[u8]) -> Result<(), Refusal> {
    let is_bad = |byte: u8| (byte < b' ' && byte != b'\t') | (byte == 0x7f);
    // Without an early exit, the compiler checks many bytes at a time.
    if !bytes.iter().fold(false, |bad, byte| bad | is_bad(*byte)) {
        return Ok(());
    }
    match bytes.iter().find(|byte| is_bad(**byte)) {
        None => Ok(()),
        Some(b'\r') => Err(Refusal::bad("a carriage return without a line feed")),
        Some(_) => Err(Refusal::bad("a control byte in the head")),
    }
}

/// Whether there is a control byte other than a tab, or an incomplete line end. The bytes must end with a line feed.
fn breaks_text(bytes: &[u8]) -> bool {
    // Each byte with its successor: a line feed follows a carriage return, and nothing else does.
    let (one, next) = (&bytes[..bytes.len() - 1], &bytes[1..]);
    let (ones, one_rest) = one.as_chunks();
    let (nexts, next_rest) = next.as_chunks();
    let mut bad = 0;
    for (one, next) in ones.iter().zip(nexts) {
        bad |= break_text(one, next);
    }
    if let (Some(one), Some(next)) = (one.last_chunk(), next.last_chunk()) {
        // The remaining pairs, and some of the previous ones again.
        return bad | break_text(one, next) != 0;
    }
    let rest = one_rest.iter().zip(next_rest);
    rest.fold(bad, |bad, (one, next)| bad | break_pair(*one, *next)) != 0
}

/// Not 0 if some of these pairs break the rules. A fixed size and no early exit let the compiler check all of them at
/// once.
fn break_text(one: &[u8; 16], next: &[u8; 16]) -> u8 {
    let mut bad = [0; 16];
    for (bad, (one, next)) in bad.iter_mut().zip(one.iter().zip(next)) {
        *bad = break_pair(*one, *next);
    }
    bad.iter().fold(0, |all, bad| all | bad)
}

const fn break_pair(one: u8, next: u8) -> u8 {
    let (tab, cr, lf) = (next == b'\t', next == b'\r', next == b'\n');
    let control = (next < b' ') & !tab & !cr & !lf | (next == 0x7f);
    (control | ((one == b'\r') != lf)) as u8
}

pub(super) const METHOD_TOO_LONG: Refusal = Refusal::bad("a method over the limit");
pub(super) const TARGET_TOO_LONG: Refusal = Refusal {
    status: 414,
    why: "the target is over the limit",
};
const HEAD_TOO_LARGE: Refusal = Refusal {
    status: 431,
    why: "the head is over the limit",
};
pub(super) const BARE_LF: &str = "a line feed without a carriage return";
const MOST_EMPTY_LINES: u8 = 2;
/// Most bytes of a method with the space after it.
pub(super) const MOST_METHOD: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_byte_by_byte_is_looked_at_once() {
        let input = format!("GET / HTTP/1.1\r\n{}\r\n", "Name: value\r\n".repeat(90));
        let limits = HeadLimits::default();
        let mut scanner = HeadScanner::new();
        for end in 0..input.len() {
            assert_eq!(
                scanner.scan(&input.as_bytes()[..end], &limits),
                Ok(None),
                "{end}"
            );
            assert!(scanner.at as usize + 1 >= end);
        }
        assert_eq!(
            scanner.scan(input.as_bytes(), &limits),
            Ok(Some(input.len()))
        );
    }
}
