//! The dialled connections: dialling, waiting for requests, and serving them.
//!
//! An idle connection is parked in a [`Poller`] and costs no thread. When something arrives on it, a worker takes it,
//! serves the request and parks it again. There are few threads that dial, and as many workers as there have been
//! requests at the same time, up to the number of places and [`MORE_WORKERS`]: requests that come when all are taken stay
//! in their sockets.
//!
//! **Invariant**: a request is begun only if the connection was not closed before. A request that arrives on a
//! connection being closed is not forwarded at all, so the server can repeat it at another backend.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::dial_state::DialPermission;
use super::forward::{AfterExchange, Buffers};
use super::handle::ConnectionHandle;
use super::shared::AccessShared;
use crate::client::MISDIALLED;
use crate::net::conn::Conn;
use crate::net::poller::{Interest, Load, Poller, Token, Work};
use crate::preamble::{self, ServerLine, ServerRefusal};
use crate::process::{self, reason};

/// The dialled connections, and the threads that serve them.
#[derive(Debug)]
pub(super) struct DialledConnections {
    shared: Arc<AccessShared>,
    poller: Poller<DialledConnection>,
    workers: AtomicUsize,
}

/// A dialled connection. Dropping it closes it, and has it dialled again if it is wanted.
#[derive(Debug)]
struct DialledConnection {
    all: Arc<DialledConnections>,
    handle: Arc<ConnectionHandle>,
    token: Token,
    permission: DialPermission,
    /// `None`: it has become a tunnel.
    conn: Option<Box<Conn>>,
    /// Until when the server may close it without having accepted it.
    accepted_at: Instant,
    end: ConnectionEnd,
    /// The reason that the server has given for closing it.
    refusal: Option<ServerRefusal>,
}

/// How a connection ended, or would end now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectionEnd {
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
            poller: Poller::new(1)?,
            workers: AtomicUsize::new(0),
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
        self.add_worker()
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
                token,
                permission,
                conn: Some(Box::new(conn)),
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

    fn is_unwanted(&self, handle: &ConnectionHandle) -> bool {
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

    /// Starts a worker, unless there are enough.
    fn add_worker(self: &Arc<Self>) -> io::Result<()> {
        let most = self.shared.settings().config.places + MORE_WORKERS;
        let added = self
            .workers
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count < most).then_some(count + 1)
            });
        if added.is_err() {
            return Ok(());
        }
        let own = Arc::clone(self);
        let started = process::thread("worker", move || own.work());
        if started.is_err() {
            self.workers.fetch_sub(1, Ordering::Relaxed);
        }
        started.map(drop)
    }

    /// Serves one connection after the other.
    fn work(self: &Arc<Self>) {
        // As for the server's workers: a thread that wakes another one keeps running.
        if let Err(error) = process::schedule_as_batch() {
            log::debug!("worker: SCHED_BATCH: {error}");
        }
        let mut buffers = Buffers::new();
        while let (Work::Item(connection, _), load) = self.poller.wait() {
            let serve = AssertUnwindSafe(|| connection.attend(&mut buffers, load));
            if catch_unwind(serve).is_err() {
                buffers = Buffers::new();
            }
        }
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
        all.poller.leave(self.token);
        drop(self.conn.take());
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
    /// Serves what has arrived, and waits for more; or ends.
    fn attend(mut self: Box<Self>, buffers: &mut Buffers, load: Load) {
        let all = Arc::clone(&self.all);
        let shared = &all.shared;
        buffers.input.clear();
        loop {
            let conn = self.conn.as_mut().expect(HAS_CONNECTION);
            if buffers.input.is_empty() {
                match buffers.input.fill_now(conn) {
                    Ok(Some(1..)) => {}
                    Ok(Some(0)) | Err(_) => return,
                    Ok(None) => match self.wait() {
                        Some(again) => {
                            self = again;
                            continue;
                        }
                        None => return,
                    },
                }
            }
            if preamble::is_misdialled(buffers.input.data()) {
                self.end = match self.end {
                    ConnectionEnd::Accepted => ConnectionEnd::LateMisdialled,
                    _ => ConnectionEnd::Misdialled,
                };
                return;
            }
            match all
                .shared
                .settings()
                .greeting
                .read_line(conn, &mut buffers.input)
            {
                Ok(None) => {}
                Ok(Some(ServerLine::AskName)) => continue,
                Ok(Some(ServerLine::Refused(refusal))) => {
                    self.refusal = Some(refusal);
                    return;
                }
                Err(_) => return,
            }
            self.accept();
            let conn = self.conn.as_mut().expect(HAS_CONNECTION);
            // The request may have waited for a worker, and the server may have left meanwhile.
            if load == Load::Busy && conn.stream().is_ended() || !self.handle.begin_request() {
                return;
            }
            // The exchange has this worker to its end, and one more has to wait for the next event.
            if !all.poller.has_sleepers()
                && let Err(error) = all.add_worker()
            {
                log::debug!("worker: {error}");
            }
            match buffers.serve(shared, conn) {
                AfterExchange::Keep => self.handle.set_idle(),
                AfterExchange::Close => return,
                AfterExchange::Tunnel(start) => {
                    all.poller.let_go(&self);
                    if let Some(conn) = self.conn.take() {
                        // If tunnels have been stopped, both connections are closed here.
                        let _ = shared.tunnels.enter(conn, *start);
                    }
                    return;
                }
            }
        }
    }

    /// Waits for the next request. Returns the connection if something has happened meanwhile; `None`: it is parked, or
    /// was closed because it is not wanted any more.
    fn wait(mut self: Box<Self>) -> Option<Box<Self>> {
        let all = Arc::clone(&self.all);
        let now = Instant::now();
        if all.is_unwanted(&self.handle) && self.handle.close_if_idle() {
            return None;
        }
        let is_accepted = now >= self.accepted_at;
        if is_accepted {
            self.accept();
        }
        let conn = self.conn.as_ref().expect(HAS_CONNECTION);
        // Bytes that looked like a request, for which an unwanted connection was left open, may have been a TLS message
        // without data.
        let pause = match conn.is_secure() {
            true => WANTED_CHECK_INTERVAL,
            false => LONGEST_WAIT,
        };
        let until = match is_accepted {
            true => now + pause,
            false => self.accepted_at,
        };
        match all.poller.park(self.token, self, Interest::Read, until) {
            Ok(back) => back,
            Err(error) => {
                log::error!("park: {error}; a connection is closed");
                None
            }
        }
    }

    /// The server has not closed it: it is accepted.
    fn accept(&mut self) {
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
/// How long a connection is left alone if nothing arrives.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// With TLS, how often an idle connection checks whether it is still wanted.
const WANTED_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Threads that dial. One that waits for a server that does not respond leaves the others to the rest.
const DIALLING_THREADS: usize = 3;
/// Workers above the number of places: for requests that arrive slowly, and for servers that take responses slowly.
const MORE_WORKERS: usize = 2;
const HAS_CONNECTION: &str = "it has its connection until it becomes a tunnel";
