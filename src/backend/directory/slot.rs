//! A slot taken by a request, and its connection.
//!
//! A request waits for a [`ConnectionSlot`]. It comes with an idle connection, or one is made first
//! ([`ServerConnecting`]); together they are a [`ServerLease`], which the exchange owns. When the lease ends, the
//! connection becomes idle or is closed, and the slot goes to the first request in the queue.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io, mem};

use super::dispatch::Directory;
use super::endpoint::Endpoint;
use super::health::HealthReport;
use super::server::IdleConnection;
use super::state::{Assignment, LONGEST_FASTCGI};
use crate::net::conn::Conn;
use crate::net::connect::Connect;
use crate::net::poller::Interest;
use crate::process;
use crate::stats::{self, Close};

/// A server for the time of one exchange, with a connection to it.
#[derive(Debug)]
pub struct ServerLease {
    slot: ConnectionSlot,
    conn: Option<Conn>,
    /// When the connection was made.
    made: Instant,
    /// The connection had an exchange before.
    reused: bool,
    /// How long it took to make the connection; zero if it had one.
    connect_time: Duration,
}

/// A slot whose connection is being made. Dropping it gives up.
#[derive(Debug)]
pub struct ServerConnecting {
    slot: ConnectionSlot,
    attempt: ConnectionAttempt,
    begun: Instant,
    deadline: Instant,
}

/// How far a connection is.
#[derive(Debug)]
enum ConnectionAttempt {
    /// It is being made.
    Connect(Connect),
    /// The handshake of TLS is under way.
    Handshake(Conn),
    /// It can be used.
    Done(Conn),
}

/// The state of a connection attempt.
#[derive(Debug)]
pub enum ServerConnected {
    /// Connected.
    Ready(ServerLease),
    /// In progress.
    Pending(ServerConnecting),
    /// The server cannot be reached, and is set aside; or, with `InvalidData`, TLS with it fails, and there is no other
    /// one to which requests could go.
    Failed(io::Error),
}

/// The right to have one request at a server.
pub(super) struct ConnectionSlot {
    directory: Arc<Directory>,
    endpoint: Arc<Endpoint>,
    /// An idle connection. The server may have closed it meanwhile.
    idle: Option<IdleConnection>,
    /// The outcome of the request, for the server's health.
    outcome: HealthReport,
    /// The slot was freed already.
    released: bool,
}

impl ConnectionSlot {
    /// From what the request was assigned.
    pub(super) fn new(directory: &Arc<Directory>, assigned: Assignment) -> Self {
        Self {
            directory: Arc::clone(directory),
            endpoint: assigned.endpoint,
            idle: assigned.idle,
            outcome: HealthReport::Nothing,
            released: false,
        }
    }

    /// Connects to the server: with the idle connection if it is usable, otherwise with a new one.
    pub(super) fn connect(mut self, once: bool) -> ServerConnected {
        match self.usable_idle(once) {
            Some(idle) => ServerConnected::Ready(ServerLease {
                slot: self,
                conn: Some(idle.conn),
                made: idle.made,
                reused: true,
                connect_time: Duration::ZERO,
            }),
            None => self.dial(),
        }
    }

    /// An idle connection that is still usable.
    fn usable_idle(&mut self, once: bool) -> Option<IdleConnection> {
        while let Some(idle) = self.idle.take() {
            let Some(reason) = idle.fault() else {
                return Some(idle);
            };
            self.directory.close(idle.conn, reason);
            let mut state = self.directory.state.lock();
            let server = state.server(&self.endpoint);
            self.idle = server.and_then(|server| server.pop_idle(once));
        }
        None
    }

    /// A new connection.
    fn dial(self) -> ServerConnected {
        let directory = &self.directory;
        let (connect, surplus) = {
            let mut state = directory.state.lock();
            let is_fastcgi = self.endpoint.is_fastcgi();
            let server = state.server(&self.endpoint);
            let surplus = server.and_then(|server| match is_fastcgi {
                // It would hold a process for which the new connection may have to wait.
                true => server.idle.pop_front(),
                false => server.surplus(),
            });
            (state.settings.connect_timeout, surplus)
        };
        if let Some(idle) = surplus {
            directory.close(idle.conn, Close::Idle);
        }
        let begun = Instant::now();
        let deadline = begun + connect;
        let connecting = ServerConnecting {
            attempt: ConnectionAttempt::Connect(self.endpoint.connect(deadline)),
            begun,
            deadline,
            slot: self,
        };
        connecting.advance()
    }

    /// Gives the slot back since no connection could be made. A server that can be reached but whose TLS is at fault is set
    /// aside only if there is another one: the fault lasts, so requests for it fail at once instead of waiting.
    fn unreachable(mut self, error: io::Error) -> io::Error {
        let (directory, name) = (&self.directory, &self.endpoint.name);
        let (site, reason) = (&directory.site, process::reason(&error));
        log::debug!(target: &directory.log, "site {site}: server {name}: {reason}");
        if error.kind() != ErrorKind::InvalidData {
            self.outcome = HealthReport::Unreachable(reason);
            return error;
        }
        if directory.state.lock().has_other(&self.endpoint) {
            self.outcome = HealthReport::Unreachable(reason);
            return io::Error::other(error);
        }
        io::Error::new(ErrorKind::InvalidData, format!("server {name}: {reason}"))
    }

    /// Frees the slot, and gives it to the first request in the queue.
    fn release(&mut self) {
        if self.free() {
            self.directory.serve_waiting();
        }
        #[cfg(feature = "redis")]
        self.directory.return_surplus();
    }

    /// Frees the slot, once. Returns whether requests wait.
    fn free(&mut self) -> bool {
        let is_first = !mem::replace(&mut self.released, true);
        let idle = self.idle.take();
        is_first
            && self
                .directory
                .take_back(&self.endpoint, idle, &self.outcome)
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.release();
    }
}

impl fmt::Debug for ConnectionSlot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("ConnectionSlot")
            .field(&self.endpoint.name)
            .finish()
    }
}

impl ServerConnecting {
    /// Continues without blocking.
    pub fn advance(self) -> ServerConnected {
        let Self {
            slot,
            attempt,
            begun,
            deadline,
        } = self;
        match advance(attempt, &slot, deadline) {
            Ok(ConnectionAttempt::Done(conn)) => {
                stats::add(&slot.directory.stats.joined);
                ServerConnected::Ready(ServerLease {
                    slot,
                    conn: Some(conn),
                    made: Instant::now(),
                    reused: false,
                    connect_time: begun.elapsed(),
                })
            }
            Ok(attempt) => ServerConnected::Pending(Self {
                slot,
                attempt,
                begun,
                deadline,
            }),
            Err(error) => ServerConnected::Failed(slot.unreachable(error)),
        }
    }

    /// The socket that has something to report when there is progress; see [`Connect::fd`].
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.attempt {
            ConnectionAttempt::Connect(connect) => connect.fd(),
            ConnectionAttempt::Handshake(conn) | ConnectionAttempt::Done(conn) => {
                Some(conn.as_fd())
            }
        }
    }

    /// What the socket has to report.
    pub const fn interest(&self) -> Interest {
        match &self.attempt {
            ConnectionAttempt::Connect(_) => Interest::Write,
            ConnectionAttempt::Handshake(_) | ConnectionAttempt::Done(_) => Interest::Read,
        }
    }

    /// When to call [`Self::advance`] at the latest; see [`Connect::until`].
    pub fn until(&self) -> Instant {
        match &self.attempt {
            ConnectionAttempt::Connect(connect) => connect.until(),
            ConnectionAttempt::Handshake(_) | ConnectionAttempt::Done(_) => self.deadline,
        }
    }
}

/// Does what can be done now.
fn advance(
    attempt: ConnectionAttempt,
    slot: &ConnectionSlot,
    deadline: Instant,
) -> io::Result<ConnectionAttempt> {
    match attempt {
        ConnectionAttempt::Connect(mut connect) => {
            let Some(stream) = connect.advance()? else {
                return Ok(ConnectionAttempt::Connect(connect));
            };
            let (directory, endpoint) = (&slot.directory, &slot.endpoint);
            endpoint.reached(&connect);
            stream.send_at_once();
            stream.watch_peer();
            let conn = match endpoint.fastcgi(&directory.log, &directory.site) {
                Some(server) => Conn::fastcgi(stream, server),
                None => endpoint.begin(stream)?,
            };
            Ok(match conn.is_handshaking() {
                // The server has to respond first.
                true => ConnectionAttempt::Handshake(conn),
                false => ConnectionAttempt::Done(conn),
            })
        }
        ConnectionAttempt::Handshake(mut conn) => {
            let done = conn.shake_now().map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => {
                    io::Error::other("it has closed the connection in the TLS handshake")
                }
                _ => error,
            });
            match done? {
                true => Ok(ConnectionAttempt::Done(conn)),
                false if Instant::now() < deadline => Ok(ConnectionAttempt::Handshake(conn)),
                false => Err(io::Error::new(
                    ErrorKind::TimedOut,
                    "the TLS handshake timed out",
                )),
            }
        }
        done @ ConnectionAttempt::Done(_) => Ok(done),
    }
}

impl ServerLease {
    /// The connection.
    pub fn conn(&mut self) -> &mut Conn {
        self.conn
            .as_mut()
            .expect("a lease has its connection until it ends")
    }

    /// The server's address, for logs.
    pub fn name(&self) -> Arc<str> {
        Arc::clone(&self.slot.endpoint.name)
    }

    /// How long it took to make the connection; zero if it had an exchange before.
    pub const fn connect_time(&self) -> Duration {
        self.connect_time
    }

    /// Whether the connection had an exchange before, so that the server may have closed it.
    pub const fn is_reused(&self) -> bool {
        self.reused
    }

    /// The exchange is over and its response was read to the end: the connection can be used again.
    pub fn finish(mut self) {
        self.slot.outcome = HealthReport::Good;
        let now = Instant::now();
        if !self.is_kept(now) {
            self.end(Close::Complete);
            return;
        }
        let made = self.made;
        self.slot.idle = self.conn.take().map(|conn| IdleConnection {
            conn,
            made,
            since: now,
        });
    }

    /// Whether the connection is used again. An idle connection to a FastCGI server holds one of its processes, so it is
    /// closed if other connections perhaps wait for a process, and after a while in any case.
    fn is_kept(&mut self, now: Instant) -> bool {
        let ConnectionSlot {
            directory,
            endpoint,
            ..
        } = &self.slot;
        let Some(server) = endpoint.fastcgi(&directory.log, &directory.site) else {
            return true;
        };
        now.saturating_duration_since(self.made) < LONGEST_FASTCGI
            && !server.has_unanswered()
            && self.conn.as_mut().is_some_and(Conn::settle)
    }

    /// The connection continues with another protocol. It is not a request any more, so it needs no slot.
    pub fn switch(&mut self) {
        self.slot.outcome = HealthReport::Good;
        self.slot.release();
    }

    /// The connection cannot be used again.
    pub fn close(mut self, reason: Close) {
        self.slot.outcome = match reason {
            Close::Complete => HealthReport::Good,
            Close::BackendFailed => HealthReport::Failed,
            _ => HealthReport::Nothing,
        };
        self.end(reason);
    }

    fn end(&mut self, reason: Close) {
        if let Some(conn) = self.conn.take() {
            let ConnectionSlot {
                directory,
                endpoint,
                ..
            } = &self.slot;
            directory.close(conn, reason);
            log::debug!(
                target: &directory.log,
                "site {}: a connection to {} closed: reason={reason}", directory.site, endpoint.name
            );
        }
    }
}

impl Drop for ServerLease {
    fn drop(&mut self) {
        // A lease that ended in order has no connection any more; this is an error path or a panic.
        self.end(Close::BackendFailed);
    }
}
