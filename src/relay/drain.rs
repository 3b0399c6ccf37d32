//! Reads the rest of a response that no client gets.
//!
//! Closing the connection of a backend that dialled in costs the application a new one, and an application that does
//! not dial in again would be lost. So its response is read to its end, for [`LONGEST`] at most. A connection to a
//! server is closed at once, so that the server can stop working on the response, except where a file replaces the
//! response: then nothing went wrong.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::call::{Awaiting, Call};
use super::context::{Interests, RelayError, Rules, Tools};
use super::download::{BodyPart, Download, Filled};
use crate::backend::lease::Upstream;
use crate::http::head::RequestHead;
use crate::net::buffer::Buffer;
use crate::stats::Close;

/// A response that is read for no client.
pub struct Drain<U: Upstream> {
    phase: DrainPhase<U>,
    deadline: Instant,
    /// Why the connection is closed at the deadline.
    reason: Close,
    /// What was read but not used when it was last blocked.
    leftover: Vec<u8>,
}

enum DrainPhase<U: Upstream> {
    /// The head is still to be read.
    Head(Box<(Call<U>, RequestHead, Rules)>),
    Body(Box<Download<U>>),
    Over,
}

impl<U: Upstream> Drain<U> {
    /// The response to a request that was sent. `None`: the connection is closed instead.
    pub(super) fn of_call(
        call: Call<U>,
        request: &RequestHead,
        rules: &Rules,
        leftover: Vec<u8>,
    ) -> Option<Self> {
        if !call.is_dialled() {
            call.close(Close::ClientGone);
            return None;
        }
        Some(Self {
            phase: DrainPhase::Head(Box::new((call, request.clone(), *rules))),
            deadline: Instant::now() + LONGEST,
            reason: Close::ClientGone,
            leftover,
        })
    }

    /// The rest of a body. `None`: there is none, or the connection is closed instead.
    pub(super) fn of_body(mut download: Download<U>, leftover: Vec<u8>) -> Option<Self> {
        if !download.is_dialled() {
            download.close(Close::ClientGone);
            return None;
        }
        Some(Self::new(download, Close::ClientGone, leftover))
    }

    /// The rest of a body that a file replaces, after reading what has arrived of it. The file does not wait for the
    /// rest: an application may announce the length of the file and send nothing. `None`: nothing is left.
    pub fn of_replaced(mut download: Download<U>, reply: &mut Buffer) -> Option<Self> {
        loop {
            match download.next(reply) {
                Ok(BodyPart::Bytes(_)) => {}
                Ok(BodyPart::Wait) => {
                    return Some(Self::new(download, Close::BackendFailed, Vec::new()));
                }
                Ok(BodyPart::End) | Err(_) => return None,
            }
        }
    }

    fn new(download: Download<U>, reason: Close, leftover: Vec<u8>) -> Self {
        Self {
            phase: DrainPhase::Body(Box::new(download)),
            deadline: Instant::now() + LONGEST,
            reason,
            leftover,
        }
    }

    /// Reads what has arrived. `None`: it is over.
    pub fn advance(&mut self, tools: &mut Tools<'_>) -> Option<Interests> {
        tools.reply.clear();
        tools.reply.append(&self.leftover);
        self.leftover.clear();
        let interests = self.read(tools)?;
        if Instant::now() >= self.deadline {
            self.close(self.reason);
            return None;
        }
        self.leftover.extend_from_slice(tools.reply.data());
        Some(Interests::response(interests.until.min(self.deadline)))
    }

    fn read(&mut self, tools: &mut Tools<'_>) -> Option<Interests> {
        let mut download = match std::mem::replace(&mut self.phase, DrainPhase::Over) {
            DrainPhase::Over => return None,
            DrainPhase::Body(download) => download,
            DrainPhase::Head(mut both) => {
                let (call, request, rules) = &mut *both;
                match call.await_response(request, rules, None, tools) {
                    Ok(Awaiting::Blocked(interests)) => {
                        self.phase = DrainPhase::Head(both);
                        return Some(interests);
                    }
                    Ok(Awaiting::Head(head)) if head.status != 101 => {
                        let (call, request, rules) = *both;
                        let download =
                            call.into_download(&head, &request.method, &rules, tools.reply);
                        Box::new(download)
                    }
                    Ok(Awaiting::Head(_)) => {
                        both.0.close(Close::ClientGone);
                        return None;
                    }
                    Err(error) => {
                        both.0.close(match error {
                            RelayError::ClosedEarly => Close::PeerClosed,
                            _ => Close::BackendFailed,
                        });
                        return None;
                    }
                }
            }
        };
        download.resume();
        let mut left = TURN;
        let interests = loop {
            match download.next(tools.reply) {
                Ok(BodyPart::Bytes(bytes)) => left = left.saturating_sub(bytes.len()),
                // However fast the body arrives, other work runs in between.
                Ok(BodyPart::Wait) if left == 0 => break Interests::response(self.deadline),
                Ok(BodyPart::Wait) => match download.fill(tools) {
                    Ok(Filled::Some) => {}
                    Ok(Filled::Wait(interests)) => break interests,
                    Err(_) => return None,
                },
                Ok(BodyPart::End) | Err(_) => return None,
            }
        };
        self.phase = DrainPhase::Body(download);
        Some(interests)
    }

    /// The backend's socket.
    pub fn fd(&mut self) -> Option<BorrowedFd<'_>> {
        match &mut self.phase {
            DrainPhase::Head(both) => Some(both.0.fd()),
            DrainPhase::Body(download) => download.fd(),
            DrainPhase::Over => None,
        }
    }

    /// Closes the connection before the end.
    pub fn close(&mut self, reason: Close) {
        match std::mem::replace(&mut self.phase, DrainPhase::Over) {
            DrainPhase::Head(both) => both.0.close(reason),
            DrainPhase::Body(mut download) => download.close(reason),
            DrainPhase::Over => {}
        }
    }
}

/// Bytes that are read before others run.
const TURN: usize = 1 << 20;
/// The longest time for which a response is read for no client.
const LONGEST: Duration = Duration::from_secs(1);
