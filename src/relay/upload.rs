//! A body of a request that is passed on as it arrives (`request_buffering: false`).

use std::time::{Duration, Instant};

use super::{CONTINUE, Visitor, write_interim};
use crate::exchange::UploadError;
use crate::http::body::{Decoder, Framing, write_chunk};
use crate::http::head::HeadLimits;
use crate::net::buffer::Buffer;

/// A body on its way through.
#[derive(Debug)]
pub struct StreamingUpload {
    decoder: Decoder,
    /// Bytes of it so far.
    length: u64,
    limits: Limits,
    /// What is wrong with the next piece.
    fault: Option<UploadError>,
    /// The visitor waits for 100 (RFC 9110 10.1.1).
    expects: bool,
    /// When it was first asked for, and when some of it arrived last.
    began: Option<Instant>,
    progress: Instant,
}

/// What a body may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of it.
    pub most: u64,
    /// Bytes a second on average, once it has had time to begin.
    pub slowest: u64,
    /// How long nothing may arrive.
    pub patience: Duration,
}

/// What there is of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Some, which was appended.
    Some,
    /// Nothing yet; more has to arrive until then.
    Wait(Instant),
    /// Its end. What is in front of that was appended.
    End,
}

impl StreamingUpload {
    /// For a body with this framing. `expects`: the visitor waits for 100. `None`: its length is over
    /// the limit.
    pub fn new(
        framing: Framing,
        trailers: &HeadLimits,
        limits: Limits,
        expects: bool,
    ) -> Option<Self> {
        if matches!(framing, Framing::Length(length) if length > limits.most) {
            return None;
        }
        Some(Self {
            decoder: Decoder::new(framing, trailers),
            length: 0,
            limits,
            fault: None,
            expects,
            began: None,
            progress: Instant::now(),
        })
    }

    /// Whether all of it was read, so that what follows is another request.
    pub const fn is_over(&self) -> bool {
        self.decoder.is_done()
    }

    /// Appends what has arrived to `out`, in chunks or as it is.
    ///
    /// # Errors
    /// Why there will be no more.
    pub fn advance(
        &mut self,
        visitor: &mut Visitor<'_>,
        chunked: bool,
        out: &mut Vec<u8>,
    ) -> Result<Step, UploadError> {
        if self.began.is_none() {
            // The time in which the request waited for a backend is not the visitor's.
            self.progress = Instant::now();
            self.began = Some(self.progress);
        }
        loop {
            while self.fault.is_none() && !self.decoder.is_done() && out.len() < Buffer::SIZE {
                let piece = match self.decoder.next(visitor.input.data()) {
                    Ok(piece) => piece,
                    Err(bad) => {
                        self.fault = Some(UploadError::Bad(bad.0));
                        break;
                    }
                };
                if piece.consumed == 0 {
                    break;
                }
                self.length += piece.data.len() as u64;
                if self.length > self.limits.most {
                    self.fault = Some(UploadError::TooLarge);
                    break;
                }
                let data = &visitor.input.data()[piece.data];
                match chunked {
                    true if data.is_empty() => {}
                    true => write_chunk(data, out),
                    false => out.extend_from_slice(data),
                }
                visitor.input.consume(piece.consumed);
            }
            if self.decoder.is_done() && self.fault.is_none() {
                return Ok(Step::End);
            }
            // What came before a fault is passed on.
            if !out.is_empty() {
                return Ok(Step::Some);
            }
            if let Some(fault) = self.fault {
                return Err(fault);
            }
            if std::mem::take(&mut self.expects) && visitor.input.is_empty() {
                write_interim(visitor.conn, visitor.pending_output, CONTINUE);
            }
            match visitor.input.fill_now(visitor.conn) {
                Ok(Some(1..)) => self.progress = Instant::now(),
                Ok(None) => return self.wait(),
                Ok(Some(0)) | Err(_) => return Err(UploadError::Gone),
            }
        }
    }

    fn wait(&self) -> Result<Step, UploadError> {
        let now = Instant::now();
        let deadline = self.progress + self.limits.patience;
        let elapsed = self.began.map_or(Duration::ZERO, |began| now - began);
        if now >= deadline {
            Err(UploadError::TimedOut)
        } else if is_too_slow(elapsed, self.length, self.limits.slowest) {
            Err(UploadError::TooSlow)
        } else {
            Ok(Step::Wait(deadline))
        }
    }
}

/// Progress must be enough on average, once the visitor has had time to begin.
pub const fn is_too_slow(elapsed: Duration, length: u64, slowest: u64) -> bool {
    elapsed.as_secs() >= TIME_TO_BEGIN && length < slowest * elapsed.as_secs()
}

/// Seconds in which a body may arrive as slowly as it likes.
const TIME_TO_BEGIN: u64 = 10;
/// Bytes a second after that, on average.
pub const SLOWEST: u64 = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_ten_seconds_and_must_arrive_at_500_bytes_a_second_then() {
        let check = |milliseconds, length, expected| {
            let elapsed = Duration::from_millis(milliseconds);
            assert_eq!(
                is_too_slow(elapsed, length, SLOWEST),
                expected,
                "{elapsed:?} {length}"
            );
        };
        check(0, 0, false);
        check(9_999, 0, false);
        check(10_000, 4_999, true);
        check(10_000, 5_000, false);
        check(10_999, 5_000, false);
        check(11_000, 5_000, true);
        check(3_600_000, 3600 * 500, false);
    }
}
