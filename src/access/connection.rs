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
use crate::preamble;
use crate::client::MISDIALLED;
use crate::net::conn::Conn;
use crate::process::{self, reason};

/// Runs a line until nobody wants it any more.
pub(super) fn run(shared: &Arc<AccessShared>, tie: &Arc<ConnectionHandle>) {
    let _leaves = RemoveOnDrop { shared, tie };
    // As the server's workers: who wakes another one goes on.
    if let Err(error) = process::schedule_as_batch() {
        log::debug!("line: SCHED_BATCH: {error}");
    }
    let mut buffers = Buffers::new();
    while let Some(turn) = shared.turn(tie) {
        let dialled = dial(shared, tie).map(|conn| serve(shared, tie, turn, conn, &mut buffers));
        tie.set_away();
        match dialled {
            Ok(Served::Something) => shared.lost(&tie.server),
            // If it is we who closed, it says nothing.
            Ok(Served::Nothing) if !shared.is_open() || !tie.is_wanted() => {
                shared.given_up(&tie.server, turn);
            }
            Ok(Served::Nothing) => {
                let why = "it closes the connection at once; is the key right?";
                shared.failed(&tie.server, turn, why, false);
            }
            Ok(served @ (Served::Answer | Served::LateAnswer)) => {
                if matches!(served, Served::LateAnswer) {
                    shared.lost(&tie.server);
                }
                let why = format!("it answers as it answers clients: {MISDIALLED}");
                shared.failed(&tie.server, turn, &why, false);
            }
            Err(error) => {
                // Somebody is there who says that nobody listens: asking again soon costs nothing.
                let cheap = matches!(
                    error.kind(),
                    ErrorKind::ConnectionRefused | ErrorKind::NotFound
                );
                shared.failed(&tie.server, turn, &reason(&error), cheap);
            }
        }
    }
}

/// Strikes a line off the list when it ends, be it by a panic.
struct RemoveOnDrop<'a> {
    shared: &'a AccessShared,
    tie: &'a Arc<ConnectionHandle>,
}

impl Drop for RemoveOnDrop<'_> {
    fn drop(&mut self) {
        let Self { shared, tie } = self;
        shared.ties.lock().retain(|other| !Arc::ptr_eq(other, tie));
        if std::thread::panicking() {
            log::error!("server {}: a line panicked", tie.server);
            shared.given_up(&tie.server, DialPermission::Probe);
        }
        shared.changed.notify_all();
    }
}

/// What came of a connection.
enum Served {
    /// It was closed before the server can be said to have let it in.
    Nothing,
    /// Requests, or the prospect of them.
    Something,
    /// A response in place of requests: it was dialled where clients are served.
    Answer,
    /// The same, after it was taken for the prospect of requests.
    LateAnswer,
}

/// Dials in, within [`DIAL`] and the time of a handshake.
///
/// # Errors
/// Those of [`Greeting::send`](crate::client::Greeting::send), and what the system says.
fn dial(shared: &AccessShared, tie: &ConnectionHandle) -> io::Result<Conn> {
    let stream = tie.server.connect(DIAL)?;
    // A drain that has no more patience finds it in the middle of a handshake, too.
    tie.set_stream(stream.try_clone()?);
    let mut conn = shared.settings().greeting.send(stream, tie.server.name())?;
    conn.set_read_timeout(PROVEN)?;
    Ok(conn)
}

/// Serves requests until the connection ends.
fn serve(
    shared: &Arc<AccessShared>,
    tie: &ConnectionHandle,
    turn: DialPermission,
    mut conn: Conn,
    buffers: &mut Buffers,
) -> Served {
    buffers.input.clear();
    let mut served = Served::Nothing;
    loop {
        tie.set_idle();
        if !(shared.is_open() && tie.is_wanted()) && tie.close_if_idle() {
            return served;
        }
        while buffers.input.is_empty() {
            match buffers.input.fill(&mut conn) {
                Ok(1..) => {}
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    // What was taken for a request may have been TLS's own.
                    if !(shared.is_open() && tie.is_wanted()) && tie.close_if_idle() {
                        return served;
                    }
                }
                Ok(0) | Err(_) => return served,
            }
            if preamble::is_misdialled(buffers.input.data()) {
                return match served {
                    Served::Something => Served::LateAnswer,
                    _ => Served::Answer,
                };
            }
            if matches!(served, Served::Nothing) {
                served = Served::Something;
                shared.proven(&tie.server, turn);
                let patience = if conn.is_secure() { LOOK } else { LONG };
                if conn.set_read_timeout(patience).is_err() {
                    return served;
                }
            }
        }
        if !tie.begin_request() {
            return served;
        }
        match buffers.serve(shared, &mut conn) {
            AfterExchange::Keep => {}
            AfterExchange::Close => return served,
            AfterExchange::Join(start) => {
                // If they are stopped already, both are closed here.
                let _ = shared.tunnels.enter(Box::new(conn), *start);
                return served;
            }
        }
    }
}

/// How long dialling may take.
const DIAL: Duration = Duration::from_secs(10);
/// Who has not closed a connection after so long has let it in.
const PROVEN: Duration = Duration::from_millis(200);
/// Reading waits for ever; the system does so in pieces.
const LONG: Duration = Duration::from_secs(3600);
/// With TLS, how often a line looks whether it is wanted still.
const LOOK: Duration = Duration::from_secs(1);
