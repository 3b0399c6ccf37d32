//! A client for the dial-in protocol: an application that dials in and responds to requests.
//!
//! A [`Client`] keeps one or several connections to a swiftiply server, and calls a closure for each request: one at a
//! time on each connection, each connection on a thread of its own. A lost connection is dialled again.
//!
//! ```no_run
//! use swiftiply::client::{Client, Reply};
//!
//! let client = Client::new("127.0.0.1:30000".parse()?).key("secret")?.connections(4);
//! client.serve(|request| Reply::text(200, &format!("hello from {}\n", request.target())));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The closure may return a [`Reply`], or a `Result` with any error, which is logged and sent as 500:
//!
//! ```no_run
//! # use swiftiply::client::{Client, Reply, Request};
//! # use std::error::Error;
//! # use std::io::Write;
//! fn handle(request: &mut Request<'_>) -> Result<Reply, Box<dyn Error + Send + Sync>> {
//!     let body = request.read_body()?;
//!     let reply = Reply::stream(200, "text/event-stream", move |out| {
//!         writeln!(out, "data: {} bytes\n", body.len())?;
//!         out.flush()
//!     })?;
//!     Ok(reply.field("Cache-Control", "no-store")?)
//! }
//! # let client = Client::new("127.0.0.1:30000".parse()?);
//! client.serve(handle);
//! # Ok::<(), Box<dyn Error>>(())
//! ```

mod dial;
mod reply;
mod request;
mod serve;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use std::{fmt, io, thread};

use parking_lot::{Condvar, Mutex};

pub(crate) use dial::MISDIALLED;
pub(crate) use dial::{Backoff, Greeting, TakenLine};
pub use dial::{KeyTooLong, TlsError};
pub use reply::{InvalidReply, Reply};
pub use request::{IncomingBody, Request};

pub use crate::preamble::InvalidName;

use crate::config::Address;
use crate::config::access::Ssl;
use crate::net::stream::Stream;
use crate::preamble;
use crate::process::reason;

/// An application's connections to a server.
pub struct Client {
    address: Address,
    greeting: Greeting,
    connections: usize,
    body_limit: u64,
    on_error: Box<dyn Fn(&io::Error) + Send + Sync>,
    state: Arc<ClientState>,
}

/// Stops a client from another thread; see [`Client::stopper`].
#[derive(Clone, Debug)]
pub struct Stopper(Arc<ClientState>);

/// What a handler may return: a [`Reply`], or a `Result` whose error is logged and sent as 500 (413 if the request's body
/// was larger than the limit).
pub trait IntoReply {
    /// The response.
    ///
    /// # Errors
    /// There is none.
    fn into_reply(self) -> Result<Reply, Box<dyn Error + Send + Sync>>;
}

/// What the threads of a client share.
#[derive(Debug, Default)]
struct ClientState {
    stop: AtomicU8,
    /// One entry for each connection.
    connections: Mutex<Vec<ConnectionState>>,
    changed: Condvar,
}

/// A connection as another thread sees it.
#[derive(Debug, Default)]
struct ConnectionState {
    /// A second handle of its socket.
    stream: Option<Arc<Stream>>,
    /// A request is in progress.
    is_busy: bool,
}

/// Values of [`ClientState::stop`]: serve; end after the current requests; end now.
const RUNNING: u8 = 0;
const FINISHING: u8 = 1;
const STOPPED: u8 = 2;

impl Client {
    /// A client for the dial-in address of a site, with one connection. Its name is the host name.
    pub fn new(address: Address) -> Self {
        let shown = address.clone();
        Self {
            address,
            greeting: Greeting::default(),
            connections: 1,
            body_limit: BODY_LIMIT,
            on_error: Box::new(move |error| log::debug!("server {shown}: {}", reason(error))),
            state: Arc::default(),
        }
    }

    /// Sets the key that the site requires.
    ///
    /// # Errors
    /// If it has more than 255 bytes.
    pub fn key(mut self, key: &str) -> Result<Self, KeyTooLong> {
        self.greeting = self.greeting.key(key)?;
        Ok(self)
    }

    /// Sets the name by which logs, lists and commands of the server call this program: at most 253 letters,
    /// digits and `.-_:@`, the first one a letter or a digit. Several programs may have the same one.
    ///
    /// # Errors
    /// It is not such a text.
    pub fn name(mut self, name: &str) -> Result<Self, InvalidName> {
        self.greeting = self.greeting.name(name)?;
        Ok(self)
    }

    /// Sets an id in place of a name. It need not be unique.
    #[must_use]
    pub fn id(mut self, id: [u8; preamble::ID]) -> Self {
        self.greeting = self.greeting.id(id);
        self
    }

    /// Uses TLS, and loads the files that these settings name.
    ///
    /// # Errors
    /// A file that cannot be used; or the library was built without the feature `tls`.
    pub fn tls(mut self, ssl: &Ssl) -> Result<Self, TlsError> {
        self.greeting = self.greeting.tls(ssl)?;
        Ok(self)
    }

    /// Sets the number of connections, and so of requests at the same time: 1 if it is not set, and at least 1. Each has a
    /// thread while [`Client::serve`] runs.
    #[must_use]
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections.max(1);
        self
    }

    /// Sets the largest body of a request, in bytes: 16 MiB if it is not set. A larger one gets 413.
    #[must_use]
    pub const fn body_limit(mut self, bytes: u64) -> Self {
        self.body_limit = bytes;
        self
    }

    /// Calls `report` whenever a connection cannot be made or is lost, also if the server closes it, instead of logging
    /// that at level debug. The connection is dialled again afterwards. It runs on the thread of that connection.
    #[must_use]
    pub fn on_error(mut self, report: impl Fn(&io::Error) + Send + Sync + 'static) -> Self {
        self.on_error = Box::new(report);
        self
    }

    /// A handle by which another thread can end [`Client::serve`].
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.state))
    }

    /// Dials in and responds to requests until it is stopped. A lost or refused connection is dialled again, at first
    /// after 0.1 seconds, later about every five seconds. If the handler panics, the response is 500. It runs on this
    /// thread, and on one more for each further connection.
    pub fn serve<R: IntoReply>(&self, handler: impl Fn(&mut Request<'_>) -> R + Sync) {
        let entry = ConnectionState::default;
        let entries = (0..self.connections).map(|_| entry()).collect();
        *self.state.connections.lock() = entries;
        thread::scope(|scope| {
            let handler = &handler;
            for index in 1..self.connections {
                let run = move || self.run(index, handler);
                let thread = thread::Builder::new().name("connection".into());
                if let Err(error) = thread.spawn_scoped(scope, run) {
                    (self.on_error)(&error);
                }
            }
            self.run(0, handler);
        });
    }
}

impl Stopper {
    /// Ends [`Client::serve`] now; requests in progress may be cut.
    pub fn stop(&self) {
        self.end(STOPPED);
    }

    /// Ends [`Client::serve`] gracefully: idle connections are closed, requests in progress are responded to first. The
    /// server repeats a request that it sends at the moment of the close, as when an application restarts.
    pub fn finish(&self) {
        self.end(FINISHING);
    }

    fn end(&self, how: u8) {
        self.0.stop.fetch_max(how, Ordering::SeqCst);
        for connection in &*self.0.connections.lock() {
            match &connection.stream {
                Some(stream) if how == STOPPED => stream.hang_up(),
                // Only the receiving side, so that a request that has just arrived can be responded to.
                Some(stream) if !connection.is_busy => stream.stop_receiving(),
                Some(_) | None => {}
            }
        }
        self.0.changed.notify_all();
    }
}

impl IntoReply for Reply {
    fn into_reply(self) -> Result<Self, Box<dyn Error + Send + Sync>> {
        Ok(self)
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> IntoReply for Result<Reply, E> {
    fn into_reply(self) -> Result<Reply, Box<dyn Error + Send + Sync>> {
        self.map_err(Into::into)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Client")
            .field("address", &self.address)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

/// How long dialling may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The largest body of a request, unless the application says otherwise.
const BODY_LIMIT: u64 = 16 * 1024 * 1024;
