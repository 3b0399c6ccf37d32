//! A backend for the time of one exchange, and how a request gets one without blocking.
//!
//! The traits [`Upstream`], [`Ticket`] and [`Connecting`] are what [`relay`](crate::relay) knows about a backend.
//! [`Lease`] implements them for the server, for backends that dialled in ([`pool`]) and for servers that were connected
//! to ([`directory`]). [`acquire`] takes a backend or queues the request.
//!
//! Called by workers. Only [`Ticket::wait`] blocks.
//!
//! **Invariants**: an upstream has one owner. When a lease, a connection attempt or a ticket is dropped, its slot or its
//! backend goes to the next request or is closed.

use std::io;
use std::os::fd::BorrowedFd;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::pause::PauseTicket;
use super::shortage::Shortage;
use super::waiting::{CountedWait, QueueFull};
use super::{directory, pool};
use crate::exchange::BackendName;
use crate::net::conn::Conn;
use crate::net::poller::Interest;
use crate::stats::Close;

/// A backend's connection for the time of one exchange. Dropping it closes the connection.
pub trait Upstream: AsMut<Conn> + Sized {
    /// A request in the queue.
    type Ticket: Ticket<Self>;
    /// A connection that is being made.
    type Connecting: Connecting<Self>;

    /// Whether the backend dialled in. Such a backend may omit the length of a response and stay connected, and may send
    /// `Connection: close` without closing. For a server that was connected to, both mean what HTTP says.
    fn is_dialled(&self) -> bool;

    /// Whether we made the connection and it had an exchange before, so that the server may have closed it.
    fn is_reused(&self) -> bool;

    /// How long it took to connect to it; zero if it dialled in or its connection was kept.
    fn connect_time(&self) -> Duration {
        Duration::ZERO
    }

    /// The backend's name, for logs.
    fn origin(&self) -> Option<BackendName>;

    /// The exchange is over and its response was read to the end: the connection can be used again.
    fn finish(self);

    /// The connection cannot be used again.
    fn close(self, reason: Close);

    /// The response has not come in time. The connection is closed next.
    fn late(&mut self) {}

    /// The connection continues with another protocol. A backend that dialled in is then busy; a server can have as many
    /// requests as before.
    fn switch(&mut self);
}

/// The result of an attempt to get a backend.
#[derive(Debug)]
pub enum Acquired<U: Upstream> {
    /// The exchange can begin.
    Ready(U),
    /// The connection is being made.
    Connecting(U::Connecting),
    /// The request waits in the queue.
    Queued(U::Ticket),
    /// What the request may have was changed: it has to ask again.
    Again,
}

/// A request in the queue. Dropping it leaves the queue and passes on what the request was given.
pub trait Ticket<U: Upstream> {
    /// What the request was given, never another ticket. `None`: nothing yet, or it was dead and the request is back at
    /// its old position in the queue; then a waker has to be registered again. A ticket that has returned something is
    /// used up.
    fn take(&mut self) -> Option<Acquired<U>>;

    /// Blocks until the request is given something, or until `until`.
    fn wait(&self, until: Instant);

    /// Registers a waker, in place of an earlier one, to be called once when the request is given something. `false`:
    /// that has happened already, and the waker is dropped.
    fn wake_with(&self, waker: Waker) -> bool;
}

/// A connection that is being made. Dropping it gives up.
pub trait Connecting<U: Upstream> {
    /// Continues without blocking.
    fn advance(self) -> Connected<U>;

    /// The socket that has something to report when there is progress. `None`: wait for the time only.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// What the socket has to report.
    fn interest(&self) -> Interest {
        Interest::Write
    }

    /// When to call [`Connecting::advance`] at the latest.
    fn until(&self) -> Instant;
}

/// The state of a connection attempt.
#[derive(Debug)]
pub enum Connected<U: Upstream> {
    /// Connected.
    Ready(U),
    /// In progress.
    Pending(U::Connecting),
    /// Failed. The request may be given another backend, unless this is `InvalidData`: then TLS with the server is at
    /// fault, and there is no other one.
    Failed(io::Error),
}

/// Which backends a request may go to.
#[derive(Clone, Debug)]
pub enum BackendSelector<'a> {
    /// Backends that dialled in.
    Dialled(pool::PoolSelector<'a>),
    /// The servers of a directory.
    Server(directory::ServerSelector<'a>),
}

/// A backend for the time of one exchange. Dropping it closes the connection.
#[derive(Debug)]
pub enum Lease {
    /// A backend that dialled in.
    Dialled(pool::PoolLease),
    /// A server that was connected to.
    Server(directory::ServerLease),
}

/// A request that waits in the queue for a [`Lease`].
#[derive(Debug)]
pub enum LeaseTicket {
    /// It waits for backends that dial in.
    Dialled(pool::PoolTicket),
    /// It waits for a server of a directory.
    Server(directory::ServerTicket),
    /// It waits for the end of a pause of its site.
    Paused(PauseTicket),
}

/// Takes a backend, starts to connect to one, or queues the request by its arrival `since`. Never blocks. A request that
/// returns, because its backend was dead or its server unreachable, keeps its position if it passes the same `since`.
///
/// `wait` is the request's permission to queue, `None` at first. It is set when the request is queued for the first
/// time; from then on the request is not refused for a full queue. The request is counted while it has a ticket. `once`:
/// the request must not be sent twice, so an idle connection must be recent.
///
/// # Errors
/// [`QueueFull`].
pub fn acquire(
    selector: &BackendSelector<'_>,
    wait: &mut Option<CountedWait>,
    since: Instant,
    once: bool,
) -> Result<Acquired<Lease>, QueueFull> {
    match selector {
        BackendSelector::Dialled(selector) => Ok(pool::acquire(selector, wait, since)?.into()),
        BackendSelector::Server(selector) => {
            Ok(directory::acquire(selector, wait, since, once)?.into())
        }
    }
}

impl BackendSelector<'_> {
    /// Why no backend is free. Takes locks; only for requests that wait or failed.
    pub fn shortage(&self) -> Shortage {
        match self {
            Self::Dialled(selector) => {
                let pools = selector.pools.iter();
                let connected = pools.map(|pool| pool.connected(selector.keys, selector.id));
                match selector.id {
                    None => {
                        let mut pools = selector.pools.iter();
                        match pools.any(|pool| pool.has_drained(selector.keys)) {
                            true => Shortage::Drained(connected.sum()),
                            false => Shortage::Dialled(connected.sum()),
                        }
                    }
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

    fn is_reused(&self) -> bool {
        match self {
            Self::Dialled(_) => false,
            Self::Server(lease) => lease.is_reused(),
        }
    }

    fn connect_time(&self) -> Duration {
        match self {
            Self::Dialled(_) => Duration::ZERO,
            Self::Server(lease) => lease.connect_time(),
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

    fn late(&mut self) {
        if let Self::Dialled(lease) = self {
            lease.late();
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
        let (acquired, is_recalled) = match self {
            Self::Dialled(ticket) => {
                let lease = ticket.take().map(pool::PoolAcquired::Ready);
                (lease.map(Into::into), ticket.is_recalled())
            }
            Self::Server(ticket) => (ticket.take().map(Into::into), ticket.is_recalled()),
            Self::Paused(ticket) => (None, ticket.is_recalled()),
        };
        acquired.or_else(|| is_recalled.then_some(Acquired::Again))
    }

    fn wait(&self, until: Instant) {
        match self {
            Self::Dialled(ticket) => ticket.wait(until),
            Self::Server(ticket) => ticket.wait(until),
            Self::Paused(ticket) => {
                ticket.wait(until);
                false
            }
        };
    }

    fn wake_with(&self, waker: Waker) -> bool {
        match self {
            Self::Dialled(ticket) => ticket.wake_with(waker),
            Self::Server(ticket) => ticket.wake_with(waker),
            Self::Paused(ticket) => ticket.wake_with(waker),
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

    fn interest(&self) -> Interest {
        Self::interest(self)
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
