//! The states of a session, and what each of them holds.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::log_context::OwnedLogContext;
use crate::backend::lease::Lease;
use crate::http::head::HeadScanner;
use crate::net::tunnel;
use crate::relay::delivery::Delivery;
use crate::relay::rate::Rate;
use crate::relay::{Exchange, Interests};
use crate::server::admission::TunnelPermit;
use crate::server::body::BodyBuffer;
use crate::server::checks::AuthTicket;
use crate::server::pending::PendingRequest;
use crate::stats::Close;

pub(super) enum State {
    /// A worker runs it.
    Running,
    ProxyHeader(Box<ReadingProxyHeader>),
    Head(ReadingHead),
    Auth(Box<AuthPending>),
    Authorised(Box<PendingRequest>),
    Body(Box<ReadingBody>),
    Exchange(Box<Exchange<PendingRequest>>),
    Sending(Box<SendingResponse>),
    Tunnel(Box<TunnelState>),
    Linger {
        /// When it is closed if the client stays silent.
        quiet: Instant,
        /// When it is closed in any case.
        deadline: Instant,
    },
}

/// A PROXY header that is being read.
pub(super) struct ReadingProxyHeader {
    /// What has arrived of it.
    pub(super) bytes: Vec<u8>,
    pub(super) deadline: Instant,
}

/// A head that is being read.
pub(super) struct ReadingHead {
    pub(super) scanner: HeadScanner,
    /// When its first byte was seen; `None` while the connection is idle.
    pub(super) begun: Option<Instant>,
    /// How long it may be idle, or until when its TLS handshake has to be over.
    pub(super) idle_until: Instant,
    /// Whether the TLS handshake is not over yet.
    pub(super) handshake: bool,
}

/// A body that is being read.
pub(super) struct ReadingBody {
    pub(super) pending: PendingRequest,
    pub(super) buffer: BodyBuffer,
    pub(super) rate: Rate,
    pub(super) deadline: Instant,
}

/// An upgraded connection.
pub(super) struct TunnelState {
    pub(super) log_context: OwnedLogContext,
    pub(super) permit: TunnelPermit,
    /// Bytes of the 101 response's head, which do not count as the backend's.
    pub(super) head: u64,
}

/// The result of a state.
pub(super) enum SessionStep {
    Go(State),
    Wait(State, Interests),
    /// There is more to do, but other work should run first.
    Yield(State),
    Tunnel(State, Box<tunnel::Start<Lease>>),
    /// The process that has replaced this one shall have the connection.
    Move(State),
    Close(Close),
}

/// A request whose password waits to be checked.
pub(super) struct AuthPending {
    pub(super) pending: PendingRequest,
    pub(super) ticket: AuthTicket,
}

/// A response of the server's own that the client takes slowly.
pub(super) struct SendingResponse {
    pub(super) delivery: Delivery<Lease>,
    pub(super) log_context: OwnedLogContext,
    pub(super) after: AfterResponse,
}

/// What follows a response.
#[derive(Clone, Copy)]
pub(super) struct AfterResponse {
    /// The reason to close the connection, if it is not kept.
    pub(super) reason: Close,
    /// How long it may be idle, if it is.
    pub(super) idle: Duration,
    /// Whether the client may still be sending.
    pub(super) unread: bool,
}

impl State {
    pub(super) const fn idle(idle_until: Instant) -> Self {
        Self::Head(ReadingHead::idle(idle_until))
    }

    /// Whether the client's socket is read in this state.
    pub(super) const fn reads(&self) -> bool {
        matches!(
            self,
            Self::ProxyHeader(_)
                | Self::Head(_)
                | Self::Auth(_)
                | Self::Body(_)
                | Self::Linger { .. }
        )
    }

    /// The socket of the backend, while it has one.
    pub(super) fn backend(&mut self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Exchange(exchange) => exchange.backend(),
            _ => None,
        }
    }
}

impl ReadingHead {
    pub(super) const fn idle(idle_until: Instant) -> Self {
        Self {
            scanner: HeadScanner::new(),
            begun: None,
            idle_until,
            handshake: false,
        }
    }
}

impl AfterResponse {
    /// Closes the connection; what the client still sends is discarded.
    pub(super) const fn close(reason: Close) -> Self {
        Self {
            reason,
            idle: Duration::ZERO,
            unread: true,
        }
    }
}
