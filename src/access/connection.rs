//! One dialled connection: dialling, serving requests until it ends, and dialling again.
//!
//! Its thread owns the connection; others have a [`ConnectionHandle`].
//!
//! **Invariant**: a request is begun only if the connection was not closed before. A request that arrives on a
//! connection being closed is not forwarded at all, so the server can repeat it at another backend.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use super::dial_state::DialPermission;
use super::forward::{AfterExchange, Buffers};
use super::handle::ConnectionHandle;
use super::shared::AccessShared;
use crate::client::MISDIALLED;
use crate::net::conn::Conn;
use crate::preamble;
use crate::process::{self, reason};

/// Keeps a connection to a server until it is not wanted any more.
pub(super) fn run(shared: &Arc<AccessShared>, handle: &Arc<ConnectionHandle>) {
    let _remove = RemoveOnDrop { shared, handle };
    // As for the server's workers: a thread that wakes another one keeps running.
    if let Err(error) = process::schedule_as_batch() {
        log::debug!("connection: SCHED_BATCH: {error}");
    }
    let mut buffers = Buffers::new();
    while let Some(permission) = shared.wait_to_dial(handle) {
        let end =
            dial(shared, handle).map(|conn| serve(shared, handle, permission, conn, &mut buffers));
        handle.set_disconnected();
        match end {
            Ok(ConnectionEnd::Accepted) => shared.disconnected(&handle.server),
            // The access proxy closed it itself.
            Ok(ConnectionEnd::NotAccepted) if !shared.is_open() || !handle.is_wanted() => {
                shared.dial_abandoned(&handle.server, permission);
            }
            Ok(ConnectionEnd::NotAccepted) => {
                let why = "it closes the connection at once; is the key right?";
                shared.dial_failed(&handle.server, permission, why, false);
            }
            Ok(end @ (ConnectionEnd::Misdialled | ConnectionEnd::LateMisdialled)) => {
                if matches!(end, ConnectionEnd::LateMisdialled) {
                    shared.disconnected(&handle.server);
                }
                let why = format!("it answers as it answers clients: {MISDIALLED}");
                shared.dial_failed(&handle.server, permission, &why, false);
            }
            Err(error) => {
                // The host replies that no process listens there: asking again soon costs little.
                let cheap = matches!(
                    error.kind(),
                    ErrorKind::ConnectionRefused | ErrorKind::NotFound
                );
                shared.dial_failed(&handle.server, permission, &reason(&error), cheap);
            }
        }
    }
}

/// Removes the connection from the list when its thread ends, also after a panic.
struct RemoveOnDrop<'a> {
    shared: &'a AccessShared,
    handle: &'a Arc<ConnectionHandle>,
}

impl Drop for RemoveOnDrop<'_> {
    fn drop(&mut self) {
        let Self { shared, handle } = self;
        shared
            .connections
            .lock()
            .retain(|other| !Arc::ptr_eq(other, handle));
        if std::thread::panicking() {
            log::error!("server {}: a connection's thread panicked", handle.server);
            shared.dial_abandoned(&handle.server, DialPermission::Probe);
        }
        shared.changed.notify_all();
    }
}

/// How a connection ended.
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

/// Dials in. Takes [`DIAL_TIMEOUT`] and the time of a handshake at most.
///
/// # Errors
/// Those of [`Greeting::send`](crate::client::Greeting::send), and of the system.
fn dial(shared: &AccessShared, handle: &ConnectionHandle) -> io::Result<Conn> {
    let stream = handle.server.connect(DIAL_TIMEOUT)?;
    // A drain that times out can close it during the handshake as well.
    handle.set_stream(stream.try_clone()?);
    let mut conn = shared
        .settings()
        .greeting
        .send(stream, handle.server.name())?;
    conn.set_read_timeout(ACCEPTED_AFTER)?;
    Ok(conn)
}

/// Serves requests until the connection ends.
fn serve(
    shared: &Arc<AccessShared>,
    handle: &ConnectionHandle,
    permission: DialPermission,
    mut conn: Conn,
    buffers: &mut Buffers,
) -> ConnectionEnd {
    buffers.input.clear();
    let mut end = ConnectionEnd::NotAccepted;
    loop {
        handle.set_idle();
        if !(shared.is_open() && handle.is_wanted()) && handle.close_if_idle() {
            return end;
        }
        while buffers.input.is_empty() {
            match buffers.input.fill(&mut conn) {
                Ok(1..) => {}
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    // Bytes that looked like a request, for which the connection was left open, may have been a TLS message
                    // without data.
                    if !(shared.is_open() && handle.is_wanted()) && handle.close_if_idle() {
                        return end;
                    }
                }
                Ok(0) | Err(_) => return end,
            }
            if preamble::is_misdialled(buffers.input.data()) {
                return match end {
                    ConnectionEnd::Accepted => ConnectionEnd::LateMisdialled,
                    _ => ConnectionEnd::Misdialled,
                };
            }
            if matches!(end, ConnectionEnd::NotAccepted) {
                end = ConnectionEnd::Accepted;
                shared.dial_accepted(&handle.server, permission);
                let patience = if conn.is_secure() {
                    WANTED_CHECK_INTERVAL
                } else {
                    NO_TIMEOUT
                };
                if conn.set_read_timeout(patience).is_err() {
                    return end;
                }
            }
        }
        if !handle.begin_request() {
            return end;
        }
        match buffers.serve(shared, &mut conn) {
            AfterExchange::Keep => {}
            AfterExchange::Close => return end,
            AfterExchange::Tunnel(start) => {
                // If tunnels have been stopped, both connections are closed here.
                let _ = shared.tunnels.enter(Box::new(conn), *start);
                return end;
            }
        }
    }
}

/// How long dialling may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that the server has not closed after this time was accepted.
const ACCEPTED_AFTER: Duration = Duration::from_millis(200);
/// No time-out; the system waits in pieces of this length.
const NO_TIMEOUT: Duration = Duration::from_secs(3600);
/// With TLS, how often an idle connection checks whether it is still wanted.
const WANTED_CHECK_INTERVAL: Duration = Duration::from_secs(1);
