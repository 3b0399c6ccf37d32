//! What an exchange asks of the program that it belongs to: the server or the access proxy.

use std::io;
use std::time::Instant;

use super::context::{RelayError, Rules, Tools, Visitor};
use super::delivery::Delivery;
use super::download::Download;
use crate::backend::lease::{Acquired, Upstream};
use crate::exchange::{RequestBody, Trace};
use crate::http::head::{RequestHead, ResponseHead};
use crate::net::conn::Conn;

/// What an exchange asks of the program that it belongs to.
pub trait ExchangeHandler {
    /// The kind of backend that it gets.
    type Upstream: Upstream;

    /// The head of the request.
    fn head(&self) -> &RequestHead;

    /// The body of the request.
    fn body(&self) -> &RequestBody;

    /// Times and limits.
    fn rules(&self) -> &Rules;

    /// Asks for a backend without waiting. `since`: the request has waited from then on; `attempts`: backends that had the
    /// request already.
    ///
    /// # Errors
    /// Why it cannot even wait for one.
    fn acquire(
        &mut self,
        since: Instant,
        attempts: u32,
    ) -> Result<Acquired<Self::Upstream>, RelayError>;

    /// Until when a request that waits since `since` may do so.
    fn deadline(&self, since: Instant) -> Instant;

    /// There was no backend. Returns whether the request may ask elsewhere, where its wait begins again.
    fn fall_back(&mut self, error: RelayError) -> bool;

    /// The server that the request was given cannot be reached. Returns until when to wait before it asks for another.
    ///
    /// # Errors
    /// Why it may not.
    fn unreachable(&mut self, error: &io::Error) -> Result<Option<Instant>, RelayError>;

    /// Renders the head of the request for a backend, behind nothing.
    fn write_head(&mut self, trace: &Trace, acquired: Instant, out: &mut Vec<u8>);

    /// An attempt failed before any byte of a final response. Returns whether the request may go to another backend.
    fn may_retry(&mut self, failure: &FailedAttempt<'_>) -> bool;

    /// The head of the final response is there: decides what the visitor gets. `is_read`: nothing of the request is left to
    /// be read, so that the visitor's connection can be kept.
    fn respond(
        &mut self,
        head: ResponseHead,
        download: Download<Self::Upstream>,
        is_read: bool,
        tools: &mut Tools<'_>,
        pending_output: &mut Vec<u8>,
    ) -> Responding<Self::Upstream>;

    /// The last of a body that is passed on as it arrives was read.
    fn received(&mut self, visitor: &Conn);

    /// Whether the visitor has left. Asked only after its socket has reported an event. `uploads`: the body of the request
    /// is being read from it, so its end may follow the rest of that.
    fn is_gone(&mut self, visitor: &mut Visitor<'_>, uploads: bool) -> bool;
}

/// An attempt that failed.
#[derive(Debug)]
pub struct FailedAttempt<'a> {
    /// Why.
    pub error: RelayError,
    /// The backend and where the time went.
    pub trace: &'a Trace,
    /// Backends that had some of the request so far, this one included unless nothing was sent to it.
    pub attempts: u32,
    /// Some of the request was sent to this backend.
    pub is_sent: bool,
    /// Bytes of the head that was sent.
    pub head_length: usize,
    /// The backend's connection had an exchange before.
    pub was_kept: bool,
}

/// What the visitor gets.
pub struct Responding<U: Upstream> {
    /// The response.
    pub delivery: Delivery<U>,
    /// The status, for the access log.
    pub status: u16,
}
