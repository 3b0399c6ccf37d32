//! The dialled connections, each from dialling to its end, and the threads that dial and serve them.
//!
//! A connection that waits, for a request or within an exchange, is parked in a [`Poller`] and costs no thread. When
//! something has happened, one of few workers runs it until it has to wait again
//! ([`relay::worker`](crate::relay::worker)).
//!
//! **Invariant**: a request is begun only if the connection was not closed before. A request that arrives on a
//! connection being closed is not forwarded at all, so the server can repeat it at another backend.

use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::buffers::Buffers;
use super::dial_state::DialPermission;
use super::handle::ConnectionHandle;
use super::shared::AccessShared;
use super::state::DialledState;
use crate::client::MISDIALLED;
use crate::net::conn::Conn;
use crate::net::poller::Poller;
use crate::preamble::ServerRefusal;
use crate::process::{self, reason};
use crate::relay::parking::Parking;
use crate::relay::worker::Worker;

/// The dialled connections, and the threads that serve them.
pub(super) struct DialledConnections {
    pub(super) shared: Arc<AccessShared>,
    pub(super) poller: Poller<DialledConnection>,
}

/// A dialled connection. Dropping it closes it, and has it dialled again if it is wanted.
pub(super) struct DialledConnection {
    pub(super) all: Arc<DialledConnections>,
    pub(super) handle: Arc<ConnectionHandle>,
    /// What the workers know of it.
    pub(super) parking: Parking,
    permission: DialPermission,
    /// `None`: it has become a tunnel.
    pub(super) conn: Option<Box<Conn>>,
    pub(super) state: DialledState,
    /// Bytes that were read but not used when it was parked.
    pub(super) leftover: Vec<u8>,
    /// Bytes that the server did not take; they go in front of its next response.
    pub(super) pending_output: Vec<u8>,
    /// Until when the server may close it without having accepted it.
    pub(super) accepted_at: Instant,
    pub(super) end: ConnectionEnd,
    /// The reason that the server has given for closing it.
    pub(super) refusal: Option<ServerRefusal>,
}

/// How a connection ended, or would end now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionEnd {
    /// It was closed before the server accepted it.
    NotAccepted,
    /// It was accepted: it served requests, or waited for them.
    Accepted,
    /// The server sent a response instead of a request: it is a port for clients.
    Misdialled,
    /// The same, after the connection had counted as accepted.
    LateMisdialled,
}

impl DialledConnections {
    /// No connections yet.
    ///
    /// # Errors
    /// Those of [`Poller::new`].
    pub(super) fn new(shared: &Arc<AccessShared>) -> io::Result<Self> {
        Ok(Self {
            shared: Arc::clone(shared),
            poller: Poller::new(WORKERS)?,
        })
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// The system has none.
    pub(super) fn start(self: &Arc<Self>) -> io::Result<()> {
        for _ in 0..DIALLING_THREADS {
            let own = Arc::clone(self);
            process::thread("dial", move || own.dial_all())?;
        }
        let own = Arc::clone(self);
        process::thread("tick", move || own.tick())?;
        for _ in 0..WORKERS {
            let own = Arc::clone(self);
            process::thread("worker", move || {
                // As for the server's workers: a thread that wakes another one keeps running.
                if let Err(error) = process::schedule_as_batch() {
                    log::debug!("worker: SCHED_BATCH: {error}");
                }
                Worker::new(own).work();
            })?;
        }
        Ok(())
    }

    /// Closes all connections, also during a request, and ends the threads.
    pub(super) fn stop(&self) {
        for handle in self.shared.connections() {
            handle.abort();
        }
        self.poller.stop();
        self.poller.alarm().stop();
        drop(self.poller.take_all(|_, _| true));
    }

    /// Dials until a drain begins.
    fn dial_all(self: &Arc<Self>) {
        while let Some((handle, permission)) = self.shared.next_to_dial() {
            match dial(&self.shared, &handle) {
                Ok(conn) => self.enter(&handle, permission, conn),
                Err(error) => {
                    handle.set_disconnected();
                    // The host replies that no process listens there: asking again soon costs little.
                    let cheap = matches!(
                        error.kind(),
                        ErrorKind::ConnectionRefused | ErrorKind::NotFound
                    );
                    let why = reason(&error);
                    self.shared
                        .dial_failed(&handle.server, permission, &why, cheap);
                }
            }
        }
    }

    /// Lets a connection wait for requests.
    fn enter(
        self: &Arc<Self>,
        handle: &Arc<ConnectionHandle>,
        permission: DialPermission,
        conn: Conn,
    ) {
        let accepted_at = Instant::now() + ACCEPTED_AFTER;
        handle.set_idle();
        let make = |token| {
            Box::new(DialledConnection {
                all: Arc::clone(self),
                handle: Arc::clone(handle),
                parking: Parking::new(token),
                permission,
                conn: Some(Box::new(conn)),
                state: DialledState::idle(),
                leftover: Vec::new(),
                pending_output: Vec::new(),
                accepted_at,
                end: ConnectionEnd::NotAccepted,
                refusal: None,
            })
        };
        match self.poller.enter(make, accepted_at) {
            // It may have become unwanted while it was dialled.
            Ok(token) if self.is_unwanted(handle) => self.poller.wake(token),
            Ok(_) => {}
            Err(error) => log::error!("server {}: {}", handle.server, reason(&error)),
        }
    }

    pub(super) fn is_unwanted(&self, handle: &ConnectionHandle) -> bool {
        !(self.shared.is_open() && handle.is_wanted())
    }

    /// Has workers look at connections whose deadline has passed.
    fn tick(&self) {
        while self.poller.alarm().wait(LONGEST_WAIT) {
            for connection in self.poller.expire(Instant::now()) {
                self.poller.hand_over(connection);
            }
        }
    }
}

impl fmt::Debug for DialledConnections {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("DialledConnections")
            .field("parked", &self.poller.parked())
            .finish_non_exhaustive()
    }
}

impl AsFd for DialledConnection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.conn.as_ref().expect(HAS_CONNECTION).as_fd()
    }
}

impl Drop for DialledConnection {
    fn drop(&mut self) {
        let Self {
            all,
            handle,
            permission,
            end,
            refusal,
            ..
        } = self;
        let (shared, server) = (&all.shared, &handle.server);
        all.poller.leave(self.parking.token());
        let mut conn = self.conn.take();
        if std::thread::panicking()
            && let Some(conn) = &mut conn
        {
            // The server must not take what was sent of a response for a complete one.
            conn.reset_on_close();
        }
        drop(conn);
        let unwanted = all.is_unwanted(handle);
        handle.set_disconnected();
        if std::thread::panicking() {
            log::error!("server {server}: a connection's thread panicked");
        }
        match end {
            ConnectionEnd::Accepted => shared.disconnected(server, refusal.take()),
            // The access proxy closed it itself.
            ConnectionEnd::NotAccepted if unwanted => shared.dial_abandoned(server, *permission),
            ConnectionEnd::NotAccepted => {
                let why = match refusal {
                    Some(refusal) => refusal.to_string(),
                    // As servers do that give no reasons, if the key is wrong.
                    None => "it closes the connection at once; is the key right?".to_owned(),
                };
                shared.dial_failed(server, *permission, &why, false);
            }
            ConnectionEnd::Misdialled | ConnectionEnd::LateMisdialled => {
                if *end == ConnectionEnd::LateMisdialled {
                    shared.disconnected(server, None);
                }
                let why = format!("it answers as it answers clients: {MISDIALLED}");
                shared.dial_failed(server, *permission, &why, false);
            }
        }
        shared.wake_all();
    }
}

impl DialledConnection {
    pub(super) fn conn(&self) -> &Conn {
        self.conn.as_ref().expect(HAS_CONNECTION)
    }

    pub(super) fn conn_mut(&mut self) -> &mut Conn {
        self.conn.as_mut().expect(HAS_CONNECTION)
    }

    /// Reads what has arrived from the server, without waiting.
    pub(super) fn fill(&mut self, buffers: &mut Buffers) -> io::Result<Option<usize>> {
        let conn = self.conn.as_mut().expect(HAS_CONNECTION);
        self.parking.fill(&mut buffers.input, conn)
    }

    /// The server has not closed it: it is accepted.
    pub(super) fn accept(&mut self) {
        if self.end == ConnectionEnd::NotAccepted {
            self.end = ConnectionEnd::Accepted;
            self.all
                .shared
                .dial_accepted(&self.handle.server, self.permission);
        }
    }
}

/// Dials in. Takes [`DIAL_TIMEOUT`] and the time of a handshake at most.
///
/// # Errors
/// Those of [`Greeting::send`](crate::client::Greeting::send), and of the system.
fn dial(shared: &AccessShared, handle: &ConnectionHandle) -> io::Result<Conn> {
    let stream = handle.server.connect(DIAL_TIMEOUT)?;
    // A drain that times out can close it during the handshake as well.
    handle.set_stream(stream.try_clone()?);
    let settings = shared.settings();
    settings.greeting.send(stream, handle.server.name())
}

/// How long dialling may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that the server has not closed after this time was accepted.
const ACCEPTED_AFTER: Duration = Duration::from_millis(200);
/// The longest pause of the tick.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// Threads that dial. One that waits for a server that does not respond leaves the others to the rest.
const DIALLING_THREADS: usize = 3;
/// Workers. They only carry bytes, and one always remains able to take new work.
const WORKERS: usize = 3;
const HAS_CONNECTION: &str = "it has its connection until it becomes a tunnel";
