//! Reads a server's request: its head, and a small body.
//!
//! A small body is read completely before the application gets any of it, so that it can be sent again; a larger one is
//! passed on as it arrives.

use std::time::{Duration, Instant};

use super::buffers::Buffers;
use super::connection::{ConnectionEnd, DialledConnection};
use super::forward::LIMITS;
use super::state::{AfterOwnResponse, ArrivingBody, ArrivingHead, DialledState, DialledStep};
use crate::client::TakenLine;
use crate::exchange::RequestBody;
use crate::http::body::Framing;
use crate::http::head::{Method, RequestHead, host_of_refused};
use crate::preamble::{self, ServerLine};
use crate::relay::Interests;
use crate::relay::rate::{Rate, SLOWEST, TIME_TO_BEGIN, WINDOW};
use crate::relay::upload::{StreamingUpload, UploadLimits};

/// What the first bytes that a server sends are.
enum Beginning {
    Request,
    /// A line about the connection, of which more has to arrive.
    Partial,
    /// A question for the name, which was answered.
    Question,
}

impl DialledConnection {
    /// Reads the head, which a server sends in one piece.
    pub(super) fn read_head(
        &mut self,
        mut arriving: ArrivingHead,
        buffers: &mut Buffers,
    ) -> DialledStep {
        loop {
            if !arriving.is_begun && !buffers.input.is_empty() {
                match self.begin_request(buffers) {
                    Some(Beginning::Request) => arriving.is_begun = true,
                    Some(Beginning::Partial) => {}
                    Some(Beginning::Question) => continue,
                    None => return DialledStep::Close,
                }
            }
            if arriving.is_begun {
                let refusal = match arriving.scanner.scan(buffers.input.data(), &LIMITS) {
                    Ok(None) => None,
                    Ok(Some(end)) => {
                        match RequestHead::parse(&buffers.input.data()[..end], &LIMITS) {
                            Ok(mut head) => {
                                buffers.input.consume(end);
                                // The server has already removed the fields that its configuration does not allow
                                // (`underscores`).
                                head.admit_ambiguous(|_| true);
                                return self.begin_body(head, buffers);
                            }
                            Err(refusal) => Some(refusal),
                        }
                    }
                    Err(refusal) => Some(refusal),
                };
                if let Some(refusal) = refusal {
                    let (status, why) = (refusal.status, refusal.why);
                    let host = host_of_refused(buffers.input.data());
                    let host =
                        host.map_or_else(String::new, |host| format!(" for {}", host.as_str()));
                    log::warn!("a request{host} was refused with {status}: {why}");
                    return self.refuse(status, &Method::Get, AfterOwnResponse::Close, buffers);
                }
            }
            match self.fill(buffers) {
                Ok(Some(1..)) => {}
                Ok(Some(0)) | Err(_) => return DialledStep::Close,
                Ok(None) if !arriving.is_begun && buffers.input.is_empty() => {
                    return self.wait_for_request();
                }
                Ok(None) => {
                    let now = Instant::now();
                    let deadline = *arriving.deadline.get_or_insert(now + HEAD_TIMEOUT);
                    if now >= deadline {
                        return DialledStep::Close;
                    }
                    return DialledStep::Wait(
                        DialledState::Head(arriving),
                        Interests::time(deadline),
                    );
                }
            }
        }
    }

    /// Takes note of the first bytes that have arrived. `None`: the connection is to be closed, or was before.
    fn begin_request(&mut self, buffers: &mut Buffers) -> Option<Beginning> {
        if preamble::is_misdialled(buffers.input.data()) {
            self.end = match self.end {
                ConnectionEnd::Accepted => ConnectionEnd::LateMisdialled,
                _ => ConnectionEnd::Misdialled,
            };
            return None;
        }
        let settings = self.all.shared.settings();
        let line = settings
            .greeting
            .take_line(self.conn_mut(), &mut buffers.input);
        match line.ok()? {
            TakenLine::Line(ServerLine::AskName) => return Some(Beginning::Question),
            TakenLine::Line(ServerLine::Refused(refusal)) => {
                self.refusal = Some(refusal);
                return None;
            }
            TakenLine::Partial => return Some(Beginning::Partial),
            TakenLine::Nothing => {}
        }
        self.accept();
        self.handle.begin_request().then_some(Beginning::Request)
    }

    /// Begins to read the body, or begins an exchange that passes it on as it arrives.
    fn begin_body(&mut self, head: RequestHead, buffers: &mut Buffers) -> DialledStep {
        let settings = self.all.shared.settings();
        let length = match head.framing {
            Framing::Empty => {
                return self.begin_exchange(head, RequestBody::Empty, None, settings, buffers);
            }
            Framing::Length(length) => Some(length),
            _ => None,
        };
        let patience = settings.config.timeouts.backend;
        let small = length.filter(|length| *length <= SMALL_BODY);
        // When too much is kept for requests that wait, the next ones stay in their sockets.
        let charge = small.and_then(|length| self.all.shared.bodies.charge(length));
        if let (Some(length), Some(charge)) = (small, charge) {
            let now = Instant::now();
            let mut rate = Rate::new(now, WINDOW);
            rate.add(now, buffers.input.data().len() as u64);
            return self.read_body(
                Box::new(ArrivingBody {
                    head,
                    settings,
                    bytes: Vec::new(),
                    length: usize::try_from(length).unwrap_or(usize::MAX),
                    charge,
                    rate,
                    deadline: now + patience,
                }),
                buffers,
            );
        }
        let limits = UploadLimits {
            most: u64::MAX,
            // The server enforces the same rate, and reports it to the client.
            slowest: SLOWEST,
            patience,
        };
        match StreamingUpload::new(head.framing, &LIMITS, limits, false) {
            Some(upload) => {
                let body = RequestBody::Stream { length };
                self.begin_exchange(head, body, Some(Box::new(upload)), settings, buffers)
            }
            None => DialledStep::Close,
        }
    }

    /// Reads a small body.
    pub(super) fn read_body(
        &mut self,
        mut arriving: Box<ArrivingBody>,
        buffers: &mut Buffers,
    ) -> DialledStep {
        loop {
            let left = arriving.length - arriving.bytes.len();
            let here = buffers.input.data().len().min(left);
            arriving
                .bytes
                .extend_from_slice(&buffers.input.data()[..here]);
            buffers.input.consume(here);
            if here == left {
                let ArrivingBody {
                    head,
                    settings,
                    bytes,
                    charge,
                    ..
                } = *arriving;
                let body = RequestBody::Memory(bytes, charge);
                return self.begin_exchange(head, body, None, settings, buffers);
            }
            let filled = self.fill(buffers);
            let now = Instant::now();
            match filled {
                Ok(Some(count @ 1..)) => {
                    arriving.rate.add(now, count as u64);
                    arriving.deadline = now + arriving.settings.config.timeouts.backend;
                }
                Ok(Some(0)) | Err(_) => return DialledStep::Close,
                // What has arrived by now is in time: the workers may be late.
                Ok(None) => {
                    let deadline = arriving.deadline;
                    let is_slow = arriving.rate.is_below(SLOWEST, TIME_TO_BEGIN, now);
                    if is_slow || now >= deadline {
                        return DialledStep::Close;
                    }
                    return DialledStep::Wait(
                        DialledState::Body(arriving),
                        Interests::time(deadline),
                    );
                }
            }
        }
    }
}

/// A body up to this length in bytes is read completely before the application gets any of it.
const SMALL_BODY: u64 = 64 * 1024;
/// How long a head may take once it has begun.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
