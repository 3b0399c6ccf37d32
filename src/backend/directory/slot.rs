//! A seat at a server, and the connection that goes with it: one that was kept, or a new one.
//!
//! A request waits for a [`ConnectionSlot`]. With a connection, which may have to be made first ([`ServerConnecting`]), the seat becomes a
//! [`ServerLease`], which the exchange has. When that ends, the connection is kept for the next one or closed, the seat is free,
//! and the first request in line is served.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io, mem};

use super::endpoint::Endpoint;
use super::health::{Change, HealthReport};
use super::{Directory, ServerEntry};
use crate::net::conn::Conn;
use crate::net::connect::Connect;
use crate::net::stream::Pending;
use crate::process;
use crate::stats::{self, Close};

/// A server for the time of one exchange, with a connection to it.
#[derive(Debug)]
pub struct ServerLease {
    seat: ConnectionSlot,
    conn: Option<Conn>,
    /// The connection had an exchange before.
    kept: bool,
}

/// A seat at a server to which a connection is being made. Dropping it gives up.
#[derive(Debug)]
pub struct ServerConnecting {
    seat: ConnectionSlot,
    connect: Connect,
}

/// How far a connection has come.
#[derive(Debug)]
pub enum ServerConnected {
    /// It is there.
    Ready(ServerLease),
    /// It is being made.
    Pending(ServerConnecting),
    /// The server cannot be reached, and gets no requests for a while.
    Failed(io::Error),
}

/// The right to have one request at a server.
pub(super) struct ConnectionSlot {
    directory: Arc<Directory>,
    endpoint: Arc<Endpoint>,
    /// A connection that was idle. It may have ended meanwhile.
    kept: Option<IdleConnection>,
    /// What became of the request, for the server's health.
    outcome: HealthReport,
    /// It is not taken any more.
    is_free: bool,
}

/// An idle connection.
#[derive(Debug)]
pub(super) struct IdleConnection {
    pub(super) conn: Conn,
    pub(super) since: Instant,
}

impl IdleConnection {
    /// Why it cannot be used any more, if that is so.
    pub(super) fn fault(&self) -> Option<Close> {
        match self.conn.pending() {
            Pending::Nothing => None,
            Pending::Bytes => Some(Close::Junk),
            Pending::End | Pending::Broken => Some(Close::PeerClosed),
        }
    }
}

impl ServerEntry {
    /// The connection that became idle last, unless it is too old for a request that must not be sent twice (`once`).
    pub(super) fn pop_kept(&mut self, once: bool) -> Option<IdleConnection> {
        self.kept
            .pop_back_if(|kept| !once || kept.since.elapsed() < DOUBTFUL)
    }

    /// The connection that has been idle for the longest time, where a new one would be more than there are seats: not all
    /// will do for every request.
    fn surplus(&mut self) -> Option<IdleConnection> {
        let full = self.kept.len() + self.taken > self.seats;
        full.then(|| self.kept.pop_front())?
    }
}

impl ConnectionSlot {
    /// One that was counted already.
    pub(super) fn new(
        directory: &Arc<Directory>,
        endpoint: Arc<Endpoint>,
        kept: Option<IdleConnection>,
    ) -> Self {
        Self {
            directory: Arc::clone(directory),
            endpoint,
            kept,
            outcome: HealthReport::Nothing,
            is_free: false,
        }
    }

    /// A connection to the server: one that was kept, or a new one.
    pub(super) fn connect(mut self, once: bool) -> ServerConnected {
        match self.sound(once) {
            Some(conn) => ServerConnected::Ready(ServerLease {
                seat: self,
                conn: Some(conn),
                kept: true,
            }),
            None => self.dial(),
        }
    }

    /// A connection that was kept and can be used still.
    fn sound(&mut self, once: bool) -> Option<Conn> {
        while let Some(kept) = self.kept.take() {
            let Some(reason) = kept.fault() else {
                return Some(kept.conn);
            };
            self.directory.close(kept.conn, reason);
            let mut state = self.directory.state.lock();
            let server = state.server(&self.endpoint);
            self.kept = server.and_then(|server| server.pop_kept(once));
        }
        None
    }

    /// A new connection.
    fn dial(self) -> ServerConnected {
        let directory = &self.directory;
        let (connect, surplus) = {
            let mut state = directory.state.lock();
            let server = state.server(&self.endpoint);
            let surplus = server.and_then(ServerEntry::surplus);
            (state.settings.connect, surplus)
        };
        if let Some(kept) = surplus {
            directory.close(kept.conn, Close::Idle);
        }
        let connecting = ServerConnecting {
            connect: self.endpoint.connect(Instant::now() + connect),
            seat: self,
        };
        connecting.advance()
    }

    /// Frees the seat without dealing it: the caller deals.
    pub(super) fn leave(mut self) {
        self.free();
    }

    /// Frees the seat, and deals it to the first request in line.
    fn give_up(&mut self) {
        if self.free() {
            self.directory.deal();
        }
        #[cfg(feature = "redis")]
        self.directory.settle();
    }

    /// Frees the seat, once. Returns whether requests wait.
    fn free(&mut self) -> bool {
        let is_first = !mem::replace(&mut self.is_free, true);
        let kept = self.kept.take();
        is_first && self.directory.free(&self.endpoint, kept, &self.outcome)
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl fmt::Debug for ConnectionSlot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Seat").field(&self.endpoint.name).finish()
    }
}

impl ServerConnecting {
    /// Goes on without waiting.
    pub fn advance(mut self) -> ServerConnected {
        let advanced = self.connect.advance();
        let ConnectionSlot {
            directory,
            endpoint,
            ..
        } = &self.seat;
        match advanced {
            Ok(None) => ServerConnected::Pending(self),
            Ok(Some(stream)) => {
                endpoint.reached(&self.connect);
                stream.send_at_once();
                stream.watch_peer();
                stats::add(&directory.stats.joined);
                ServerConnected::Ready(ServerLease {
                    seat: self.seat,
                    conn: Some(Conn::plain(stream)),
                    kept: false,
                })
            }
            Err(error) => {
                let reason = process::reason(&error);
                log::debug!(
                    target: &directory.log,
                    "site {}: server {}: {reason}", directory.site, endpoint.name
                );
                self.seat.outcome = HealthReport::Unreachable(reason);
                ServerConnected::Failed(error)
            }
        }
    }

    /// The socket that becomes writable when there is news; see [`Connect::fd`].
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.connect.fd()
    }

    /// When to go on at the latest; see [`Connect::until`].
    pub fn until(&self) -> Instant {
        self.connect.until()
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
        Arc::clone(&self.seat.endpoint.name)
    }

    /// Whether the connection had an exchange before, so that the server may have given it up.
    pub const fn was_kept(&self) -> bool {
        self.kept
    }

    /// The exchange is over and its response was read to its end: the next one may begin.
    pub fn finish(mut self) {
        self.seat.outcome = HealthReport::Good;
        self.seat.kept = self.conn.take().map(|conn| IdleConnection {
            conn,
            since: Instant::now(),
        });
    }

    /// The connection goes on with another protocol: that is no request any more, so it takes no seat.
    pub fn switch(&mut self) {
        self.seat.outcome = HealthReport::Good;
        self.seat.give_up();
    }

    /// The connection cannot be used again.
    pub fn close(mut self, reason: Close) {
        self.seat.outcome = match reason {
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
            } = &self.seat;
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
        // A lease that ends in good order has lost its connection before; this is an error path or a panic.
        self.end(Close::BackendFailed);
    }
}

impl Directory {
    /// Takes a seat back, with the connection to be kept and what is learnt from its request; see [`ConnectionSlot::free`].
    fn free(
        &self,
        endpoint: &Arc<Endpoint>,
        kept: Option<IdleConnection>,
        outcome: &HealthReport,
    ) -> bool {
        let (change, over, waits, pause) = {
            let mut state = self.state.lock();
            // Without another server nothing would be won, and what is wrong may be the requests.
            let enough = match outcome {
                HealthReport::Failed => state.others(endpoint),
                _ => true,
            };
            let waits = !state.waiting.is_empty();
            let reason = state.over(endpoint);
            // A server stays while one of its seats is taken.
            let Some(index) = state.position(endpoint) else {
                return waits;
            };
            let server = &mut state.servers[index];
            server.taken -= 1;
            let change = server.judge(outcome, enough);
            let over = match reason {
                Some(reason) => kept.map(|kept| (kept, reason)),
                None => {
                    server.kept.extend(kept);
                    None
                }
            };
            if server.gone && server.taken == 0 {
                state.servers.remove(index);
            } else {
                #[cfg(feature = "redis")]
                state.share(index);
            }
            (change, over, waits, state.next_pause())
        };
        if let Some(pause) = pause {
            self.alarm.set(pause);
        }
        if let Some((kept, reason)) = over {
            self.close(kept.conn, reason);
        }
        let (site, name) = (&self.site, &endpoint.name);
        match change {
            // No request says that a server is down.
            Change::None | Change::Down => {}
            Change::Aside => {
                log::warn!(
                    target: &self.log,
                    "site {site}: server {name} is set aside: {outcome}"
                );
                // Its name is looked up again soon.
                self.remind();
            }
            Change::Back => log::info!(target: &self.log, "site {site}: server {name} is back"),
        }
        waits
    }
}

/// A connection that was idle for so long may just be given up by the server: good for requests that can be sent again.
const DOUBTFUL: Duration = Duration::from_secs(1);
