//! The states of a dialled connection, and what each of them holds.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use super::application::Application;
use super::forward::ForwardedRequest;
use super::running::RunningConfig;
use crate::budget::Charge;
use crate::http::head::{HeadScanner, RequestHead};
use crate::net::conn::Conn;
use crate::net::tunnel::Start;
use crate::relay::delivery::Delivery;
use crate::relay::rate::Rate;
use crate::relay::upload::StreamingUpload;
use crate::relay::{Exchange, Interests};

/// A state of a dialled connection.
pub(super) enum DialledState {
    /// A worker runs it.
    Running,
    Head(ArrivingHead),
    Body(Box<ArrivingBody>),
    Exchange(Box<Exchange<ForwardedRequest>>),
    Sending(Box<OwnResponse>),
    Discarding(Box<UnneededBody>),
}

/// The result of a state.
pub(super) enum DialledStep {
    Go(DialledState),
    Wait(DialledState, Interests),
    /// There is more to do, but other work should run first.
    Yield(DialledState),
    /// The application has switched to another protocol: a tunnel joins the two connections.
    Tunnel(Box<Start<Conn>>),
    Close,
}

/// The head of a request that is being read, or waited for.
#[derive(Default)]
pub(super) struct ArrivingHead {
    pub(super) scanner: HeadScanner,
    /// Whether some of it has arrived.
    pub(super) is_begun: bool,
    /// Until when it has to be complete; `None`: it has not been waited for yet.
    pub(super) deadline: Option<Instant>,
}

/// A small body that is being read.
pub(super) struct ArrivingBody {
    pub(super) head: RequestHead,
    pub(super) settings: Arc<RunningConfig>,
    pub(super) bytes: Vec<u8>,
    pub(super) length: usize,
    pub(super) charge: Charge,
    pub(super) rate: Rate,
    /// Until when more has to arrive.
    pub(super) deadline: Instant,
}

/// A response of the access proxy itself.
pub(super) struct OwnResponse {
    pub(super) delivery: Delivery<Application>,
    pub(super) after: AfterOwnResponse,
}

/// What follows a response of the access proxy itself.
pub(super) enum AfterOwnResponse {
    /// The next request, once the rest of this one's body was read.
    Keep(Option<Box<StreamingUpload>>),
    Close,
}

/// The rest of a request's body, which the application does not need.
pub(super) struct UnneededBody {
    pub(super) upload: Box<StreamingUpload>,
    pub(super) deadline: Instant,
    /// How many bytes of it may still be read.
    pub(super) left: usize,
}

impl DialledState {
    /// It waits for a request.
    pub(super) fn idle() -> Self {
        Self::Head(ArrivingHead::default())
    }

    /// Whether the connection is read in this state.
    pub(super) const fn reads(&self) -> bool {
        matches!(self, Self::Head(_) | Self::Body(_) | Self::Discarding(_))
    }

    /// The application's socket, while it has one.
    pub(super) fn application(&mut self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Exchange(exchange) => exchange.backend(),
            _ => None,
        }
    }
}
