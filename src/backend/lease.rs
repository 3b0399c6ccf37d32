//! A backend for the time of one exchange, whichever way it came: it dialled in ([`pool`]), or was connected to
//! ([`directory`]). [`relay`](super::relay) need not know.

use std::time::Instant;

use super::pool::Wait;
use super::{directory, pool};
use crate::exchange::Origin;
use crate::net::conn::Conn;
use crate::stats::Close;

/// Which backends a request may go to.
#[derive(Clone, Debug)]
pub enum Want<'a> {
    /// Some of those that dialled in.
    Dialled(pool::Want<'a>),
    /// The servers of a directory.
    Server(directory::Want<'a>),
}

/// Why there was no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// None came before the deadline.
    TimedOut,
    /// The visitor left.
    ClientGone,
    /// As many as may wait are waiting already.
    Full,
}

/// A backend for the time of one exchange. Dropping it closes its connection.
#[derive(Debug)]
pub enum Lease {
    /// It dialled in.
    Dialled(pool::Lease),
    /// It was connected to.
    Server(directory::Lease),
}

/// Takes a backend, waiting for one until `deadline` while `gone` does not say that the visitor left. `wait`: the request
/// was let in to those that wait before. `once`: it must not be sent a second time, so that no doubtful connection will
/// do.
///
/// # Errors
/// Why there was none.
pub fn lease(
    want: &Want<'_>,
    wait: Option<Wait>,
    once: bool,
    deadline: Instant,
    gone: &mut dyn FnMut() -> bool,
) -> Result<Lease, Missed> {
    match want {
        Want::Dialled(want) => pool::lease(want, wait, deadline, gone).map(Lease::Dialled),
        Want::Server(want) => directory::lease(want, wait, once, deadline, gone).map(Lease::Server),
    }
}

impl AsMut<Conn> for Lease {
    fn as_mut(&mut self) -> &mut Conn {
        self.conn()
    }
}

impl Lease {
    /// The backend's connection.
    pub fn conn(&mut self) -> &mut Conn {
        match self {
            Self::Dialled(lease) => &mut lease.backend().conn,
            Self::Server(lease) => lease.conn(),
        }
    }

    /// The backend, for logs.
    pub fn origin(&mut self) -> Origin {
        match self {
            Self::Dialled(lease) => Origin::Dialled(lease.backend().id),
            Self::Server(lease) => Origin::Server(lease.name()),
        }
    }

    /// Whether it dialled in. Such a backend may leave out the length of an answer and stay, and its `Connection: close`
    /// is no promise to close; a server that was connected to means what it says.
    pub const fn is_dialled(&self) -> bool {
        matches!(self, Self::Dialled(_))
    }

    /// The reason for which a connection is closed that ended before any byte of an answer: one that was kept had been
    /// given up by the server, most likely.
    pub const fn death(&self) -> Close {
        match self {
            Self::Server(lease) if lease.was_kept() => Close::PeerClosed,
            _ => Close::BackendFailed,
        }
    }

    /// The connection goes on with another protocol. A backend that dialled in has no other; a server has as many requests
    /// as before.
    pub fn switch(&mut self) {
        if let Self::Server(lease) = self {
            lease.switch();
        }
    }

    /// The exchange is over and its response was read to its end: the next one may begin.
    pub fn finish(self) {
        match self {
            Self::Dialled(lease) => lease.finish(),
            Self::Server(lease) => lease.finish(),
        }
    }

    /// The connection cannot be used again.
    pub fn close(self, reason: Close) {
        match self {
            Self::Dialled(lease) => lease.close(reason),
            Self::Server(lease) => lease.close(reason),
        }
    }
}
