//! The application for the time of one exchange: a permit of the [`limit`] and a connection.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::limit::{self, ApplicationPermit};
use super::running::RunningConfig;
use super::shared::AccessShared;
use crate::backend::lease::{Acquired, Connected, Connecting, Ticket, Upstream};
use crate::config::Address;
use crate::exchange::BackendName;
use crate::net::conn::Conn;
use crate::net::connect::{Connect, Targets};
use crate::net::stream::Pending;
use crate::stats::Close;

/// A connection to the application, and the permit to use it.
pub(super) struct Application {
    permit: ApplicationPermit,
    conn: Conn,
    /// The connection had an exchange before.
    is_reused: bool,
}

/// A request that waits for a permit.
pub(super) struct WaitingForPermit {
    ticket: limit::ApplicationTicket,
    shared: Arc<AccessShared>,
}

/// A connection to the application that is being made.
pub(super) struct ApplicationConnecting {
    permit: ApplicationPermit,
    shared: Arc<AccessShared>,
    /// `None`: not started yet.
    connect: Option<Connect>,
    /// Set if the application could not be reached: connect when it responds to a check, or at this time for a last
    /// attempt.
    held_until: Option<Instant>,
    /// When to call `advance` at the latest.
    until: Instant,
}

impl Application {
    /// Uses a permit, with the connection that it carries or with a new one. `fresh`: only with a new one. `held_until`:
    /// the application could not be reached; connect when it responds again, or at this time.
    pub(super) fn with(
        mut permit: ApplicationPermit,
        shared: &Arc<AccessShared>,
        fresh: bool,
        held_until: Option<Instant>,
    ) -> Acquired<Self> {
        let carried = permit.take_carried().filter(|_| !fresh);
        // A connection that was closed, or has received something, cannot be used.
        if let Some(conn) = carried.filter(|conn| conn.pending() == Pending::Nothing) {
            return Acquired::Ready(Self {
                permit,
                conn,
                is_reused: true,
            });
        }
        Acquired::Connecting(ApplicationConnecting {
            permit,
            shared: Arc::clone(shared),
            connect: None,
            held_until,
            until: Instant::now(),
        })
    }

    /// The connection, for another protocol. That is not a request any more, so the permit is passed on.
    pub(super) fn into_conn(self) -> Conn {
        self.conn
    }
}

impl AsMut<Conn> for Application {
    fn as_mut(&mut self) -> &mut Conn {
        &mut self.conn
    }
}

impl Upstream for Application {
    type Ticket = WaitingForPermit;
    type Connecting = ApplicationConnecting;

    fn is_dialled(&self) -> bool {
        false
    }

    fn is_reused(&self) -> bool {
        self.is_reused
    }

    fn origin(&self) -> Option<BackendName> {
        None
    }

    fn finish(self) {
        self.permit.keep(self.conn);
    }

    fn close(self, _: Close) {}

    fn switch(&mut self) {}
}

impl WaitingForPermit {
    /// A request in the queue of the limit.
    pub(super) fn new(ticket: limit::ApplicationTicket, shared: &Arc<AccessShared>) -> Self {
        let shared = Arc::clone(shared);
        Self { ticket, shared }
    }
}

impl Ticket<Application> for WaitingForPermit {
    fn take(&mut self) -> Option<Acquired<Application>> {
        let permit = self.ticket.take()?;
        Some(Application::with(permit, &self.shared, false, None))
    }

    fn wait(&self, until: Instant) {
        self.ticket.wait(until);
    }

    fn wake_with(&self, waker: Waker) -> bool {
        self.ticket.wake_with(waker)
    }
}

impl ApplicationConnecting {
    /// Whether to wait because the application is down. After `held_until` it is tried once more.
    fn is_held(&self) -> bool {
        let held = self.held_until.is_some_and(|until| Instant::now() < until);
        held && !self.shared.is_up()
    }
}

impl Connecting<Application> for ApplicationConnecting {
    fn advance(mut self) -> Connected<Application> {
        let is_held = self.is_held();
        let connect = match &mut self.connect {
            Some(connect) => connect,
            None if is_held => {
                self.until = Instant::now() + RETRY_INTERVAL;
                return Connected::Pending(self);
            }
            None => match begin_connecting(&self.shared.settings()) {
                Ok(connect) => self.connect.insert(connect),
                Err(error) => return Connected::Failed(error),
            },
        };
        match connect.advance() {
            Ok(Some(stream)) => {
                stream.send_at_once();
                Connected::Ready(Application {
                    permit: self.permit,
                    conn: Conn::plain(stream),
                    is_reused: false,
                })
            }
            Ok(None) => {
                self.until = connect.until();
                Connected::Pending(self)
            }
            Err(error) => Connected::Failed(error),
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.connect.as_ref()?.fd()
    }

    fn until(&self) -> Instant {
        self.until
    }
}

/// Connects to the application, after its host name was looked up again. Blocks.
///
/// # Errors
/// Those of the look-up and of the system.
pub(super) fn connect(settings: &RunningConfig) -> io::Result<Conn> {
    settings.look_up()?;
    let stream = begin_connecting(settings)?.wait()?;
    stream.send_at_once();
    Ok(Conn::plain(stream))
}

/// Starts to connect. Does not wait, unless the host name was never looked up before.
///
/// # Errors
/// That of the look-up.
pub(super) fn begin_connecting(settings: &RunningConfig) -> io::Result<Connect> {
    let targets = match &settings.config.to {
        Address::Unix(path) => Targets::Path(path.clone()),
        Address::Tcp { .. } => Targets::Addresses(settings.addresses()?),
    };
    let deadline = Instant::now() + settings.config.timeouts.connect;
    Ok(Connect::new(targets, deadline))
}

/// How often a held request checks whether the application is up.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
