//! What an exchange needs from its program: the server or the access proxy.

use std::io;
use std::time::Instant;

use super::context::{ClientSide, RelayError, Rules, Tools};
use super::delivery::Delivery;
use super::download::Download;
use crate::backend::lease::{Acquired, Upstream};
use crate::exchange::{RequestBody, ResponseSource, Trace};
use crate::http::head::{RequestHead, ResponseHead};
use crate::http::request_id::RequestId;
use crate::net::conn::Conn;

/// What an exchange needs from its program.
pub trait ExchangeHandler {
    /// The kind of backend that it uses.
    type Upstream: Upstream;

    /// The head of the request.
    fn head(&self) -> &RequestHead;

    /// The body of the request.
    fn body(&self) -> &RequestBody;

    /// Time-outs and limits.
    fn rules(&self) -> &Rules;

    /// The id of the request, for logs.
    fn id(&self) -> &RequestId {
        &RequestId::None
    }

    /// Asks for a backend without waiting. `since`: when the request began to wait; `attempts`: how many backends have
    /// had the request already.
    ///
    /// # Errors
    /// Why it cannot even wait for one.
    fn acquire(
        &mut self,
        since: Instant,
        attempts: u32,
    ) -> Result<Acquired<Self::Upstream>, RelayError>;

    /// The end of the wait that began at `since`.
    fn deadline(&self, since: Instant) -> Instant;

    /// No backend was available. Returns whether the request may ask elsewhere, where its wait begins again.
    fn fall_back(&mut self, error: RelayError) -> bool;

    /// The server that was assigned cannot be reached. Returns when to ask for another one.
    ///
    /// # Errors
    /// Why no other server may be tried.
    fn unreachable(&mut self, error: &io::Error) -> Result<Option<Instant>, RelayError>;

    /// Renders the head of the request into `out`, replacing its content.
    fn write_head(&mut self, trace: &Trace, acquired: Instant, out: &mut Vec<u8>);

    /// An attempt failed before any byte of a final response. Returns whether the request may go to another backend.
    fn may_retry(&mut self, failure: &FailedAttempt<'_>) -> bool;

    /// Decides what the client gets, once the head of the final response has arrived. `is_read`: the request was read
    /// to its end, so the client's connection can be kept.
    fn respond(
        &mut self,
        head: ResponseHead,
        download: Download<Self::Upstream>,
        is_read: bool,
        tools: &mut Tools<'_>,
        pending_output: &mut Vec<u8>,
    ) -> Responding<Self::Upstream>;

    /// A streamed body was read to its end.
    fn received(&mut self, client: &Conn);

    /// Whether the client has left. Called only after its socket has reported an event. `uploads`: the request's body
    /// is still being read, so the client's end of sending may follow it.
    fn is_gone(&mut self, client: &mut ClientSide<'_>, uploads: bool) -> bool;
}

/// An attempt that failed.
#[derive(Debug)]
pub struct FailedAttempt<'a> {
    /// Why.
    pub error: RelayError,
    /// The backend, and where the time went.
    pub trace: &'a Trace,
    /// Backends that have had some of the request so far, including this one unless nothing was sent to it.
    pub attempts: u32,
    /// Whether part of the request was sent to this backend.
    pub is_sent: bool,
    /// Length of the head in bytes.
    pub head_length: usize,
    /// Whether the backend's connection has carried an exchange before.
    pub is_reused: bool,
}

/// What the client gets.
pub struct Responding<U: Upstream> {
    /// The response.
    pub delivery: Delivery<U>,
    /// The status, for the access log.
    pub status: u16,
    /// Where the response comes from, for the access log.
    pub source: ResponseSource,
}
