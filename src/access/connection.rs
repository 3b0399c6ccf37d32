//! One dialled connection, from the dialling to its end, and again.
//!
//! A line's thread owns the connection; others have a [`ConnectionHandle`].
//!
//! **Invariant**: A request is begun only if the line was not closed before: what a server sends to a line that leaves is not done
//!   at all, and the server may ask another one.

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

/// Runs a line until nobody wants it any more.
pub(super) fn run(shared: &Arc<AccessShared>, handle: &Arc<ConnectionHandle>) {
    let _remove = RemoveOnDrop { shared, handle };
    // As the server's workers: who wakes another one goes on.
    if let Err(error) = process::schedule_as_batch() {
        log::debug!("line: SCHED_BATCH: {error}");
    }
    let mut buffers = Buffers::new();
    while let Some(permission) = shared.wait_to_dial(handle) {
        let end =
            dial(shared, handle).map(|conn| serve(shared, handle, permission, conn, &mut buffers));
        handle.set_disconnected();
        match end {
            Ok(ConnectionEnd::Accepted) => shared.disconnected(&handle.server),
            // If it is we who closed, it says nothing.
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
                // Somebody is there who says that nobody listens: asking again soon costs nothing.
                let cheap = matches!(
                    error.kind(),
                    ErrorKind::ConnectionRefused | ErrorKind::NotFound
                );
                shared.dial_failed(&handle.server, permission, &reason(&error), cheap);
            }
        }
    }
}

/// Strikes a line off the list when it ends, be it by a panic.
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
            log::error!("server {}: a line panicked", handle.server);
            shared.dial_abandoned(&handle.server, DialPermission::Probe);
        }
        shared.changed.notify_all();
    }
}

/// What came of a connection.
enum ConnectionEnd {
    /// It was closed before the server can be said to have let it in.
    NotAccepted,
    /// Requests, or the prospect of them.
    Accepted,
    /// A response in place of requests: it was dialled where clients are served.
    Misdialled,
    /// The same, after it was taken for the prospect of requests.
    LateMisdialled,
}

/// Dials in, within [`DIAL_TIMEOUT`] and the time of a handshake.
///
/// # Errors
/// Those of [`Greeting::send`](crate::client::Greeting::send), and what the system says.
fn dial(shared: &AccessShared, handle: &ConnectionHandle) -> io::Result<Conn> {
    let stream = handle.server.connect(DIAL_TIMEOUT)?;
    // A drain that has no more patience finds it in the middle of a handshake, too.
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
                    // What was taken for a request may have been TLS's own.
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
                // If they are stopped already, both are closed here.
                let _ = shared.tunnels.enter(Box::new(conn), *start);
                return end;
            }
        }
    }
}

/// How long dialling may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Who has not closed a connection after so long has let it in.
const ACCEPTED_AFTER: Duration = Duration::from_millis(200);
/// Reading waits for ever; the system does so in pieces.
const NO_TIMEOUT: Duration = Duration::from_secs(3600);
/// With TLS, how often a line looks whether it is wanted still.
const WANTED_CHECK_INTERVAL: Duration = Duration::from_secs(1);
