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
    /// A worker is at it.
    Running,
    Head(ReadingHead),
    Auth(Box<AuthPending>),
    Authorised(Box<PendingRequest>),
    Body(Box<ReadingBody>),
    Exchange(Box<Exchange<PendingRequest>>),
    Sending(Box<SendingResponse>),
    Tunnel(Box<TunnelState>),
    Linger {
        /// When it is closed if nothing comes until then.
        quiet: Instant,
        /// When it is closed in any case.
        deadline: Instant,
    },
}

/// A head on its way in.
pub(super) struct ReadingHead {
    pub(super) scanner: HeadScanner,
    /// When its first byte was seen; `None` while the connection is idle.
    pub(super) begun: Option<Instant>,
    /// Until when it may be idle, or until when its TLS handshake has to be over.
    pub(super) idle_until: Instant,
    /// The handshake is still to come.
    pub(super) handshake: bool,
}

/// A body on its way in.
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
    /// Bytes of what went to the visitor that are not the backend's.
    pub(super) head: u64,
}

/// What comes next.
pub(super) enum SessionStep {
    Go(State),
    Wait(State, Interests),
    /// There is more to do, but other work should have its turn.
    Yield(State),
    Tunnel(State, Box<tunnel::Start<Lease>>),
    Close(Close),
}

/// A request whose password waits to be checked.
pub(super) struct AuthPending {
    pub(super) pending: PendingRequest,
    pub(super) ticket: AuthTicket,
}

/// A response of our own that the visitor takes slowly.
pub(super) struct SendingResponse {
    pub(super) delivery: Delivery<Lease>,
    pub(super) log_context: OwnedLogContext,
    pub(super) after: AfterResponse,
}

/// What to do once a response is delivered.
#[derive(Clone, Copy)]
pub(super) struct AfterResponse {
    /// Why the connection is closed, if it is not kept.
    pub(super) reason: Close,
    /// How long it may be idle, if it is.
    pub(super) idle: Duration,
    /// The visitor may still be sending.
    pub(super) unread: bool,
}

impl State {
    pub(super) const fn idle(idle_until: Instant) -> Self {
        Self::Head(ReadingHead::idle(idle_until))
    }

    /// Whether the visitor's socket is read in this state.
    pub(super) const fn reads(&self) -> bool {
        matches!(
            self,
            Self::Head(_) | Self::Auth(_) | Self::Body(_) | Self::Linger { .. }
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
    /// A refusal: what the visitor still sends is of no use.
    pub(super) const fn close(reason: Close) -> Self {
        Self {
            reason,
            idle: Duration::ZERO,
            unread: true,
        }
    }
}
