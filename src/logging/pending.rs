//! The lines that wait in a queue, and those that are being written.
//!
//! **Invariant**: the bytes of all queues together are bounded; see [`reserve`].

use std::io::{self, ErrorKind};
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::target::{LogTarget, WriteUnit};

#[derive(Default)]
pub(super) struct LogQueueState {
    pub(super) lines: Vec<u8>,
    /// Lines for the current target, each followed by the target that replaces it.
    pub(super) switches: Vec<(Vec<u8>, LogTarget)>,
    /// Bytes in `lines`, `switches` and `writing`.
    pub(super) pending: usize,
    /// Bytes written or dropped, for waiting threads.
    pub(super) done: u64,
    /// Lines lost since the last report.
    pub(super) lost: u64,
    /// The writer thread has been notified.
    pub(super) is_due: bool,
    /// The log is no longer flushed periodically: each line is written immediately.
    pub(super) is_retired: bool,
}

/// The bytes that are being written.
pub(super) struct PendingWrite {
    pub(super) target: LogTarget,
    pub(super) bytes: Vec<u8>,
    pub(super) written: usize,
    /// The target for the bytes after these.
    pub(super) next: Option<LogTarget>,
    /// An error has cut a line.
    pub(super) is_torn: bool,
    /// The last write failed.
    pub(super) has_failed: bool,
    /// The failure has been reported.
    pub(super) is_reported: bool,
    /// The time of the last report of losses.
    pub(super) reported: Option<Instant>,
    /// The pause before the next attempt while the target accepts nothing.
    pub(super) pause: Duration,
}

impl PendingWrite {
    pub(super) const fn new(target: LogTarget) -> Self {
        Self {
            target,
            bytes: Vec::new(),
            written: 0,
            next: None,
            is_torn: false,
            has_failed: false,
            is_reported: false,
            reported: None,
            pause: FIRST_PAUSE,
        }
    }

    /// Loads the next bytes to write. `false`: there are none, and the queue is not due any more.
    pub(super) fn load(&mut self, state: &mut LogQueueState) -> bool {
        while self.written == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(2 * BATCH);
            self.written = 0;
            if let Some(target) = self.next.take() {
                self.target = target;
                self.is_torn = false;
                self.has_failed = false;
            }
            if !state.switches.is_empty() {
                let (lines, target) = state.switches.remove(0);
                self.bytes = lines;
                self.next = Some(target);
            } else if state.lines.is_empty() {
                state.is_due = false;
                return false;
            } else {
                mem::swap(&mut self.bytes, &mut state.lines);
            }
            if self.is_torn && !self.bytes.is_empty() {
                self.bytes.insert(0, b'\n');
                state.pending += 1;
                TOTAL.fetch_add(1, Ordering::Relaxed);
            }
        }
        true
    }

    /// Makes one write.
    pub(super) fn write(&mut self) -> io::Result<()> {
        let rest = &self.bytes[self.written..];
        let piece = match self.target.unit() {
            WriteUnit::Bytes => rest,
            WriteUnit::Lines => &rest[..whole_lines(rest)],
            WriteUnit::Line => &rest[..first_line(rest)],
        };
        match self.target.write(piece) {
            Ok(0) => Err(ErrorKind::WriteZero.into()),
            Ok(count) => {
                self.written += count;
                self.is_torn = self.bytes[self.written - 1] != b'\n';
                self.has_failed = false;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Drops the remaining bytes and returns how many lines they are.
    pub(super) fn give_up(&mut self) -> u64 {
        let rest = &self.bytes[self.written..];
        let lines = rest.iter().filter(|byte| **byte == b'\n').count() as u64;
        // This line feed ends the previous line, which was counted then.
        let end = self.is_torn && self.written == 0 && rest.first() == Some(&b'\n');
        self.written = self.bytes.len();
        lines - u64::from(end)
    }
}

/// How many bytes to write at once, so that no other program writes within a line: all complete lines that the system
/// writes atomically (`PIPE_BUF`), or else one line.
fn whole_lines(bytes: &[u8]) -> usize {
    let most = bytes.len().min(AT_ONCE);
    let end = bytes[..most].iter().rposition(|byte| *byte == b'\n');
    let end = end.or_else(|| bytes.iter().position(|byte| *byte == b'\n'));
    end.map_or(bytes.len(), |end| end + 1)
}

/// The length of the first line.
fn first_line(bytes: &[u8]) -> usize {
    let end = memchr::memchr(b'\n', bytes);
    end.map_or(bytes.len(), |end| end + 1)
}

/// Takes bytes from the limit of all queues together.
pub(super) fn reserve(bytes: usize) -> bool {
    let fits = TOTAL.fetch_add(bytes, Ordering::Relaxed) + bytes <= MOST_IN_ALL;
    if !fits {
        TOTAL.fetch_sub(bytes, Ordering::Relaxed);
    }
    fits
}

/// Gives bytes that were written or dropped back to the limit of all queues.
pub(super) fn release(bytes: usize) {
    TOTAL.fetch_sub(bytes, Ordering::Relaxed);
}

/// Bytes in all queues.
static TOTAL: AtomicUsize = AtomicUsize::new(0);
/// Most bytes in all queues.
const MOST_IN_ALL: usize = 16 << 20;
/// This many bytes are written without waiting for a flush.
pub(super) const BATCH: usize = 32 * 1024;
/// The size up to which a write to a pipe is atomic (`PIPE_BUF`).
const AT_ONCE: usize = 4096;
/// The first pause before trying a stuck target again.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_torn_is_ended_before_the_next_one() {
        let mut writing = PendingWrite::new(LogTarget::Stderr);
        let mut state = LogQueueState::default();
        writing.bytes = b"one\ntwo\nthree\n".to_vec();
        writing.written = 6;
        writing.is_torn = true;
        assert_eq!(writing.give_up(), 2);
        state.lines = b"next\n".to_vec();
        state.pending = 5;
        assert!(writing.load(&mut state));
        assert_eq!(
            (writing.bytes.as_slice(), state.pending),
            (&b"\nnext\n"[..], 6)
        );
        assert_eq!(
            writing.give_up(),
            1,
            "the end of the line before was counted"
        );
        TOTAL.fetch_sub(1, Ordering::Relaxed);
    }

    #[test]
    fn other_writers_write_between_lines() {
        let check = |text: &str, expected| assert_eq!(whole_lines(text.as_bytes()), expected);
        check("a\nb\n", 4);
        check("a\nb", 2);
        check("ab", 2);
        let long = "x".repeat(AT_ONCE);
        check(&format!("a\n{long}\nb\n"), 2);
        check(&format!("{long}\nb\n"), AT_ONCE + 1);
    }
}
