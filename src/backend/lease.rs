//! A backend for the time of one exchange, and how a request gets one without waiting.
//!
//! [`Upstream`], [`Ticket`] and [`Connecting`] are what the engine of exchanges knows of a backend. [`Lease`] is the one of
//! the proxy, whichever way the backend came: it dialled in ([`pool`]), or was connected to ([`directory`]). [`acquire`]
//! takes one, or puts the request into line.
//!
//! Called by workers. Nothing here waits but [`Ticket::wait`].
//!
//! **Invariants**: an upstream has one owner. Whatever is dropped, a lease, a connection attempt or a place in line, the
//! seat or the backend that belongs to it goes to the next request or is closed.

use std::io;
use std::os::fd::BorrowedFd;
use std::task::Waker;
use std::time::Instant;

use super::shortage::Shortage;
use super::waiting::{CountedWait, QueueFull};
use super::{directory, pool};
use crate::exchange::BackendName;
use crate::net::conn::Conn;
use crate::stats::Close;

/// A backend's connection for the time of one exchange, and what becomes of it afterwards. Dropping it closes it.
pub trait Upstream: AsMut<Conn> + Sized {
    /// A request's place in line.
    type Ticket: Ticket<Self>;
    /// A connection that is being made.
    type Connecting: Connecting<Self>;

    /// Whether the backend dialled in. Such a backend may leave out the length of a response and stay open, and its
    /// `Connection: close` is no promise to close; a server that was connected to means what it says.
    fn is_dialled(&self) -> bool;

    /// Whether we made the connection and it had an exchange before, so that the server may have given it up.
    fn was_kept(&self) -> bool;

    /// The backend, for logs.
    fn origin(&self) -> Option<BackendName>;

    /// The exchange is over and its response was read to its end: the next one may begin.
    fn finish(self);

    /// The connection cannot be used again.
    fn close(self, reason: Close);

    /// The connection goes on with another protocol. A backend that dialled in has no other connection; a server has as
    /// many requests as before.
    fn switch(&mut self);
}

/// What came of an attempt to get a backend.
#[derive(Debug)]
pub enum Acquired<U: Upstream> {
    /// The exchange may begin.
    Ready(U),
    /// The connection is being made.
    Connecting(U::Connecting),
    /// The request stands in line.
    Queued(U::Ticket),
}

/// A request's place in line. Dropping it leaves the line, and passes on what the request was given.
pub trait Ticket<U: Upstream> {
    /// What the request was given, which is never another ticket. `None`: nothing yet, or it turned out to be dead and the
    /// request is back at its old place in line; a waker that was called has to be given again then. A ticket that has
    /// yielded something is used up.
    fn take(&mut self) -> Option<Acquired<U>>;

    /// Blocks until the request was given something, or until `until`.
    fn wait(&self, until: Instant);

    /// Has a waker called, once, when the request is given something, in place of one that was left here before. `false`:
    /// that has happened already, and the waker is not kept.
    fn wake_with(&self, waker: Waker) -> bool;
}

/// A connection that is being made. Dropping it gives up.
pub trait Connecting<U: Upstream> {
    /// Goes on without waiting.
    fn advance(self) -> Connected<U>;

    /// The socket that becomes writable when there is news. `None`: only the time counts.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// When to go on at the latest.
    fn until(&self) -> Instant;
}

/// How far a connection has come.
#[derive(Debug)]
pub enum Connected<U: Upstream> {
    /// It is there.
    Ready(U),
    /// It is being made.
    Pending(U::Connecting),
    /// There will be none. The request may be given another backend.
    Failed(io::Error),
}

/// Which backends a request may go to.
#[derive(Clone, Debug)]
pub enum BackendSelector<'a> {
    /// Some of those that dialled in.
    Dialled(pool::PoolSelector<'a>),
    /// The servers of a directory.
    Server(directory::ServerSelector<'a>),
}

/// Why there was no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseError {
    /// As many requests as may wait are waiting already.
    Full,
}

/// A backend for the time of one exchange. Dropping it closes its connection.
#[derive(Debug)]
pub enum Lease {
    /// It dialled in.
    Dialled(pool::PoolLease),
    /// It was connected to.
    Server(directory::ServerLease),
}

/// The place in line of a request to a [`Lease`].
#[derive(Debug)]
pub enum LeaseTicket {
    /// It waits for backends that dial in.
    Dialled(pool::PoolTicket),
    /// It waits for a server of a directory.
    Server(directory::ServerTicket),
}

/// Takes a backend, begins to connect to one, or puts the request into line, behind those that arrived before `since`.
/// Never waits. A request that comes back, because its backend turned out to be dead or its server unreachable, keeps its
/// place if `since` is the same as before.
///
/// `wait` is the permission to stand in line; it belongs to the request, with which it begins as `None`. It is left there
/// when the request has to stand in line for the first time, and makes sure that it is not refused when it comes back. The
/// request is counted while it has a ticket. `once`: the request must not be sent a second time, so that no doubtful
/// connection will do.
///
/// # Errors
/// [`LeaseError::Full`].
pub fn acquire(
    selector: &BackendSelector<'_>,
    wait: &mut Option<CountedWait>,
    since: Instant,
    once: bool,
) -> Result<Acquired<Lease>, LeaseError> {
    match selector {
        BackendSelector::Dialled(selector) => Ok(pool::acquire(selector, wait, since)?.into()),
        BackendSelector::Server(selector) => {
            Ok(directory::acquire(selector, wait, since, once)?.into())
        }
    }
}

impl BackendSelector<'_> {
    /// Why there is no backend now. Takes locks: for requests that got none.
    pub fn shortage(&self) -> Shortage {
        match self {
            Self::Dialled(selector) => {
                let pools = selector.pools.iter();
                let connected = pools.map(|pool| pool.connected(selector.keys, selector.id));
                match selector.id {
                    None => Shortage::Dialled(connected.sum()),
                    Some(id) => {
                        let id = id.escape_ascii().to_string();
                        Shortage::WithId(id.into(), connected.sum())
                    }
                }
            }
            Self::Server(selector) => selector.directory.shortage(),
        }
    }
}

impl AsMut<Conn> for Lease {
    fn as_mut(&mut self) -> &mut Conn {
        match self {
            Self::Dialled(lease) => lease.conn(),
            Self::Server(lease) => lease.conn(),
        }
    }
}

impl Upstream for Lease {
    type Ticket = LeaseTicket;
    type Connecting = directory::ServerConnecting;

    fn is_dialled(&self) -> bool {
        matches!(self, Self::Dialled(_))
    }

    fn was_kept(&self) -> bool {
        match self {
            Self::Dialled(_) => false,
            Self::Server(lease) => lease.was_kept(),
        }
    }

    fn origin(&self) -> Option<BackendName> {
        Some(match self {
            Self::Dialled(lease) => BackendName::Dialled(lease.id()),
            Self::Server(lease) => BackendName::Server(lease.name()),
        })
    }

    fn finish(self) {
        match self {
            Self::Dialled(lease) => lease.finish(),
            Self::Server(lease) => lease.finish(),
        }
    }

    fn close(self, reason: Close) {
        match self {
            Self::Dialled(lease) => lease.close(reason),
            Self::Server(lease) => lease.close(reason),
        }
    }

    fn switch(&mut self) {
        if let Self::Server(lease) = self {
            lease.switch();
        }
    }
}

impl Ticket<Lease> for LeaseTicket {
    fn take(&mut self) -> Option<Acquired<Lease>> {
        match self {
            Self::Dialled(ticket) => ticket.take().map(pool::PoolAcquired::Ready).map(Into::into),
            Self::Server(ticket) => ticket.take().map(Into::into),
        }
    }

    fn wait(&self, until: Instant) {
        match self {
            Self::Dialled(ticket) => ticket.wait(until),
            Self::Server(ticket) => ticket.wait(until),
        };
    }

    fn wake_with(&self, waker: Waker) -> bool {
        match self {
            Self::Dialled(ticket) => ticket.wake_with(waker),
            Self::Server(ticket) => ticket.wake_with(waker),
        }
    }
}

impl Connecting<Lease> for directory::ServerConnecting {
    fn advance(self) -> Connected<Lease> {
        match Self::advance(self) {
            directory::ServerConnected::Ready(lease) => Connected::Ready(Lease::Server(lease)),
            directory::ServerConnected::Pending(connecting) => Connected::Pending(connecting),
            directory::ServerConnected::Failed(error) => Connected::Failed(error),
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Self::fd(self)
    }

    fn until(&self) -> Instant {
        Self::until(self)
    }
}

impl From<pool::PoolAcquired> for Acquired<Lease> {
    fn from(acquired: pool::PoolAcquired) -> Self {
        match acquired {
            pool::PoolAcquired::Ready(lease) => Self::Ready(Lease::Dialled(lease)),
            pool::PoolAcquired::Queued(ticket) => Self::Queued(LeaseTicket::Dialled(ticket)),
        }
    }
}

impl From<directory::ServerAcquired> for Acquired<Lease> {
    fn from(acquired: directory::ServerAcquired) -> Self {
        match acquired {
            directory::ServerAcquired::Ready(lease) => Self::Ready(Lease::Server(lease)),
            directory::ServerAcquired::Connecting(connecting) => Self::Connecting(connecting),
            directory::ServerAcquired::Queued(ticket) => Self::Queued(LeaseTicket::Server(ticket)),
        }
    }
}

impl From<QueueFull> for LeaseError {
    fn from(QueueFull: QueueFull) -> Self {
        Self::Full
    }
}
