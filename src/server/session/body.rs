//! Reads the body of a request (`State::Body`), or lets the exchange pass it on as it arrives.

use std::time::Instant;

use super::connection::{Session, TURN};
use super::state::{ReadingBody, SessionStep, State};
use crate::exchange::{RequestBody, Trace};
use crate::http::body::Framing;
use crate::relay::disconnect::DisconnectDetector;
use crate::relay::rate::{Rate, SLOWEST, TIME_TO_BEGIN, WINDOW};
use crate::relay::upload::{StreamingUpload, UploadLimits};
use crate::relay::{CONTINUE, Interests, write_interim};
use crate::server::body::{BodyBuffer, CollectError};
use crate::server::pending::{PendingRequest, head_limits};
use crate::server::scratch::Scratch;
use crate::stats::Close;

impl Session {
    /// Begins to read the body of a request, or begins an exchange that passes it on as it arrives
    /// (`request_buffering`).
    pub(super) fn begin_body(
        &mut self,
        mut pending: PendingRequest,
        scratch: &mut Scratch,
    ) -> SessionStep {
        let framing = pending.request.head.framing;
        let received = pending.since;
        let settings = &pending.site().settings;
        let limits = &settings.limits;
        // FastCGI servers want to know the length.
        let is_spooled = settings.fastcgi.is_some() && framing == Framing::Chunked;
        if !settings.request_buffering && !is_spooled {
            let expects = pending.request.head.expect_continue;
            let of_body = UploadLimits {
                most: limits.body,
                slowest: SLOWEST,
                patience: settings.timeouts.body,
            };
            let trailers = head_limits(limits);
            let upload = StreamingUpload::new(framing, &trailers, of_body, expects);
            let Some(upload) = upload else {
                return self.refuse_body(
                    &pending,
                    &CollectError::TooLarge,
                    Trace::default(),
                    scratch,
                );
            };
            pending.request.body = RequestBody::Stream {
                length: match framing {
                    Framing::Length(length) => Some(length),
                    _ => None,
                },
            };
            return self.begin_exchange(pending, Some(Box::new(upload)), scratch);
        }
        let buffer = BodyBuffer::new(
            framing,
            &head_limits(limits),
            limits.body,
            self.shared.room(
                &pending.snapshot,
                Some(pending.site),
                &pending.request.client,
            ),
        );
        let buffer = match buffer {
            Ok(buffer) => buffer,
            Err(fault) => return self.refuse_body(&pending, &fault, Trace::default(), scratch),
        };
        if pending.request.head.expect_continue && scratch.input.is_empty() {
            // The client waits for a 100 response (RFC 9110 10.1.1).
            write_interim(&mut self.conn, &mut self.pending_output, CONTINUE);
        }
        let deadline = received + settings.timeouts.body;
        let mut rate = Rate::new(received, WINDOW);
        rate.add(received, scratch.input.data().len() as u64);
        SessionStep::Go(State::Body(Box::new(ReadingBody {
            pending,
            buffer,
            rate,
            deadline,
        })))
    }

    pub(super) fn read_body(
        &mut self,
        mut reading: Box<ReadingBody>,
        scratch: &mut Scratch,
    ) -> SessionStep {
        let mut left = TURN;
        loop {
            let taken = reading.buffer.take(&mut scratch.input);
            reading.pending.body_bytes = reading.buffer.length();
            match taken {
                Ok(false) => {}
                Ok(true) => return self.end_body(*reading, scratch),
                Err(fault) => {
                    return self.refuse_body(&reading.pending, &fault, Trace::default(), scratch);
                }
            }
            if left == 0 {
                return SessionStep::Yield(State::Body(reading));
            }
            match self.fill(scratch) {
                Ok(Some(count @ 1..)) => {
                    left = left.saturating_sub(count);
                    let patience = reading.pending.site().settings.timeouts.body;
                    let now = Instant::now();
                    reading.deadline = now + patience;
                    reading.rate.add(now, count as u64);
                    self.expired = false;
                }
                // As with a head, what has arrived by now counts.
                Ok(None) => {
                    let now = Instant::now();
                    let late = self.expired || now >= reading.deadline;
                    let is_slow = reading.rate.is_below(SLOWEST, TIME_TO_BEGIN, now);
                    let reason = match (late, is_slow) {
                        (true, _) => Close::BodyTimeout,
                        (false, true) => Close::BodySlow,
                        (false, false) => {
                            let deadline = reading.deadline;
                            return SessionStep::Wait(
                                State::Body(reading),
                                Interests::time(deadline),
                            );
                        }
                    };
                    return self.refuse_slow(&reading.pending, reason, Trace::default(), scratch);
                }
                Ok(Some(0)) | Err(_) => {
                    return self.client_gone(&reading.pending, Trace::default());
                }
            }
        }
    }

    pub(super) fn end_body(&mut self, reading: ReadingBody, scratch: &mut Scratch) -> SessionStep {
        let ReadingBody {
            mut pending,
            buffer,
            ..
        } = reading;
        pending.request.body = buffer.finish();
        pending.since = Instant::now();
        pending.disconnect = DisconnectDetector::new(pending.since);
        self.begin_exchange(pending, None, scratch)
    }
}
