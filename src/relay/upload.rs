//! A body of a request that is passed on as it arrives (`request_buffering: false`).

use std::time::{Duration, Instant};

use super::context::{CONTINUE, Visitor, write_interim};
use super::rate::{Rate, TIME_TO_BEGIN, WINDOW};
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
    limits: UploadLimits,
    /// What is wrong with the next piece.
    fault: Option<UploadError>,
    /// The visitor waits for 100 (RFC 9110 10.1.1).
    expects: bool,
    /// How fast it arrives while it is waited for; `None` before it is first asked for.
    rate: Option<Rate>,
    /// When some of it arrived last.
    progress: Instant,
    /// Since when it is not asked for: the backend takes what has arrived.
    paused: Option<Instant>,
}

/// What a body may take.
#[derive(Clone, Copy, Debug)]
pub struct UploadLimits {
    /// Bytes of it.
    pub most: u64,
    /// Bytes a second over the last [`WINDOW`], once it has had [`TIME_TO_BEGIN`].
    pub slowest: u64,
    /// How long nothing may arrive.
    pub patience: Duration,
}

/// What there is of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadStep {
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
        limits: UploadLimits,
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
            rate: None,
            progress: Instant::now(),
            paused: None,
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
    ) -> Result<UploadStep, UploadError> {
        self.resume(Instant::now(), visitor.input.data().len());
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
                // A chunk whose size alone is too much is not waited for.
                let announced = self.length.saturating_add(self.decoder.announced());
                if announced > self.limits.most {
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
                return Ok(UploadStep::End);
            }
            // What came before a fault is passed on.
            if !out.is_empty() {
                self.paused = Some(Instant::now());
                return Ok(UploadStep::Some);
            }
            if let Some(fault) = self.fault {
                return Err(fault);
            }
            if std::mem::take(&mut self.expects) && visitor.input.is_empty() {
                write_interim(visitor.conn, visitor.pending_output, CONTINUE);
            }
            match visitor.input.fill_now(visitor.conn) {
                Ok(Some(count @ 1..)) => {
                    self.progress = Instant::now();
                    if let Some(rate) = &mut self.rate {
                        rate.add(self.progress, count as u64);
                    }
                }
                Ok(None) => return self.wait(),
                Ok(Some(0)) | Err(_) => return Err(UploadError::Gone),
            }
        }
    }

    /// The visitor, of whose body so much may be here already, is waited for from now on. The time in which the request
    /// waited for a backend, and in which the backend took what had arrived, is not the visitor's.
    fn resume(&mut self, now: Instant, here: usize) {
        match (&mut self.rate, self.paused.take()) {
            (Some(rate), Some(since)) => {
                rate.pause(since, now);
                self.progress += now.saturating_duration_since(since);
            }
            (Some(_), None) => {}
            (rate, _) => {
                self.progress = now;
                rate.insert(Rate::new(now, WINDOW)).add(now, here as u64);
            }
        }
    }

    fn wait(&self) -> Result<UploadStep, UploadError> {
        let now = Instant::now();
        let deadline = self.progress + self.limits.patience;
        let slowest = self.limits.slowest;
        if now >= deadline {
            Err(UploadError::TimedOut)
        } else if self
            .rate
            .is_some_and(|rate| rate.is_below(slowest, TIME_TO_BEGIN, now))
        {
            Err(UploadError::TooSlow)
        } else {
            Ok(UploadStep::Wait(deadline))
        }
    }
}
