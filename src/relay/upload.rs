//! Passes on the body of a request as it arrives (`request_buffering: false`).

use std::time::{Duration, Instant};

use super::context::{CONTINUE, ClientSide, write_interim};
use super::rate::{Rate, TIME_TO_BEGIN, WINDOW};
use crate::exchange::UploadError;
use crate::http::body::{Decoder, Framing, write_chunk};
use crate::http::head::HeadLimits;
use crate::net::buffer::Buffer;

/// A streamed body.
#[derive(Debug)]
pub struct StreamingUpload {
    decoder: Decoder,
    /// Its length in bytes so far.
    length: u64,
    limits: UploadLimits,
    /// What is wrong with the next piece.
    fault: Option<UploadError>,
    /// Whether the client waits for a 100 response (RFC 9110 10.1.1).
    expects: bool,
    /// How fast it arrives while it is waited for; `None` before the first wait.
    rate: Option<Rate>,
    /// When some of it last arrived.
    progress: Instant,
    /// Since when it has not been read because the backend has yet to take what has arrived.
    paused: Option<Instant>,
}

/// Limits of a body.
#[derive(Clone, Copy, Debug)]
pub struct UploadLimits {
    /// Its largest length in bytes.
    pub most: u64,
    /// The least bytes per second over the last [`WINDOW`], after [`TIME_TO_BEGIN`].
    pub slowest: u64,
    /// The longest time in which nothing arrives.
    pub patience: Duration,
}

/// The result of [`StreamingUpload::advance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadStep {
    /// Part of it was appended.
    Some,
    /// Nothing has arrived; more has to arrive before this time.
    Wait(Instant),
    /// Its end. What came before was appended.
    End,
}

impl StreamingUpload {
    /// For a body with this framing. `expects`: the client waits for a 100 response. `None`: its length is over the
    /// limit.
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

    /// Whether the whole body was read; what follows is another request.
    pub const fn is_over(&self) -> bool {
        self.decoder.is_done()
    }

    /// Its length in bytes so far.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Appends what has arrived to `out`, in chunks or unframed.
    ///
    /// # Errors
    /// Why no more follows.
    pub fn advance(
        &mut self,
        client: &mut ClientSide<'_>,
        chunked: bool,
        out: &mut Vec<u8>,
    ) -> Result<UploadStep, UploadError> {
        self.resume(Instant::now(), client.input.data().len());
        let start = out.len();
        loop {
            while self.fault.is_none()
                && !self.decoder.is_done()
                && out.len() - start < Buffer::SIZE
            {
                let piece = match self.decoder.next(client.input.data()) {
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
                // Refuse an oversized chunk at once, by its announced size.
                let announced = self.length.saturating_add(self.decoder.announced());
                if announced > self.limits.most {
                    self.fault = Some(UploadError::TooLarge);
                    break;
                }
                let data = &client.input.data()[piece.data];
                match chunked {
                    true if data.is_empty() => {}
                    true => write_chunk(data, out),
                    false => out.extend_from_slice(data),
                }
                client.input.consume(piece.consumed);
            }
            if self.decoder.is_done() && self.fault.is_none() {
                return Ok(UploadStep::End);
            }
            // What came before a fault is passed on.
            if out.len() > start {
                self.paused = Some(Instant::now());
                return Ok(UploadStep::Some);
            }
            if let Some(fault) = self.fault {
                return Err(fault);
            }
            if std::mem::take(&mut self.expects) && client.input.is_empty() {
                write_interim(client.conn, client.pending_output, CONTINUE);
            }
            match client.input.fill_now(client.conn) {
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

    /// Resumes waiting for the client, of whose body `here` bytes have arrived. The time in which the request waited
    /// for a backend, or the backend for room, does not count against the client.
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
