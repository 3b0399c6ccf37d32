//! A client for the dial-in protocol: an application that dials in and responds to requests.
//!
//! A [`Client`] keeps one connection to a swiftiply server, and calls a closure for each request, one at a time, on the
//! thread that calls [`Client::serve`]. For more requests at the same time, use more threads, each with its own client.
//! A lost connection is dialled again.
//!
//! [`Greeting`] and [`Backoff`] are the parts of it, for programs that respond in another way.
//!
//! ```no_run
//! use swiftiply::client::{Client, Reply};
//!
//! let client = Client::new("127.0.0.1:30000".parse()?).key("secret")?;
//! client.serve(|request| Reply::text(200, &format!("hello from {}\n", request.head.target.as_str())));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{error, fmt, io};

use parking_lot::{Condvar, Mutex};

use crate::config::Address;
use crate::http::body::{Decoder, Framing};
use crate::http::head::{HeadLimits, HeadScanner, Method, Persistence, RequestHead, ResponseHead};
use crate::net::buffer::Buffer;
use crate::net::conn::Conn;
use crate::net::stream::Stream;
use crate::net::tls::Connector;
use crate::preamble;
use crate::process::reason;

/// An application's connection to a server.
#[derive(Debug)]
pub struct Client {
    address: Address,
    greeting: Greeting,
    connection: Arc<CurrentConnection>,
}

/// What is sent when a server is dialled: the preamble, over TLS if needed.
#[derive(Clone, Debug)]
pub struct Greeting {
    id: [u8; preamble::ID],
    key: Vec<u8>,
    tls: Option<Connector>,
}

/// How long to wait before a failed attempt is repeated: three times briefly, then twice as long each time, up to a
/// limit. Each pause is a little random, so that attempts that failed together do not repeat together.
#[derive(Clone, Debug)]
pub struct Backoff {
    failures: u32,
    longest: Duration,
}

/// A request as the application sees it.
#[derive(Debug)]
pub struct Request {
    /// Method, target and fields, without those that concern the connection only.
    pub head: RequestHead,
    /// The whole body.
    pub body: Vec<u8>,
}

/// The application's response. Length and framing are added.
#[derive(Debug)]
pub struct Reply {
    /// Status and fields.
    pub head: ResponseHead,
    /// The whole body.
    pub body: Vec<u8>,
}

/// Stops a client from another thread; see [`Client::stopper`].
#[derive(Clone, Debug)]
pub struct Stopper(Arc<CurrentConnection>);

/// A key of more than 255 bytes, which the protocol does not allow.
#[derive(Debug)]
pub struct KeyTooLong;

/// The current connection, so that another thread can end it.
#[derive(Debug, Default)]
struct CurrentConnection {
    stopped: AtomicBool,
    /// A second handle of its socket.
    stream: Mutex<Option<Arc<Stream>>>,
    changed: Condvar,
}

impl Client {
    /// A client for the dial-in address of a site. Its id is made from the process id.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            greeting: Greeting::default(),
            connection: Arc::default(),
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

    /// Sets the id, which appears in logs and need not be unique.
    #[must_use]
    pub const fn id(mut self, id: [u8; preamble::ID]) -> Self {
        self.greeting.id = id;
        self
    }

    /// Uses TLS.
    #[must_use]
    pub fn tls(mut self, connector: Connector) -> Self {
        self.greeting = self.greeting.tls(connector);
        self
    }

    /// A handle by which another thread can end [`Client::serve`].
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.connection))
    }

    /// Dials in and responds to requests until it is stopped. A lost or refused connection is dialled again, at first
    /// after 0.1 seconds, later about every five seconds. If the closure panics, the response is 500.
    pub fn serve(&self, mut answer: impl FnMut(&Request) -> Reply) {
        let mut backoff = Backoff::new(LONGEST_PAUSE);
        while !self.connection.stopped.load(Ordering::SeqCst) {
            match self.connect() {
                Ok(mut conn) => {
                    let count = self.serve_connection(&mut conn, &mut answer);
                    drop(conn);
                    self.connection.stream.lock().take();
                    if count > 0 {
                        backoff.reset();
                    }
                }
                Err(error) => log::debug!("dial {}: {}", self.address, reason(&error)),
            }
            let pause = backoff.pause();
            let mut stream = self.connection.stream.lock();
            if !self.connection.stopped.load(Ordering::SeqCst) {
                self.connection.changed.wait_for(&mut stream, pause);
            }
        }
    }

    /// Dials in. Takes ten seconds or so at most for each address of the name, and as many for the handshake.
    fn connect(&self) -> io::Result<Conn> {
        let stream = Stream::connect(&self.address, DIAL_TIMEOUT)?;
        *self.connection.stream.lock() = Some(Arc::new(stream.try_clone()?));
        // A stop from now on finds the stream; an earlier one is noticed here.
        if self.connection.stopped.load(Ordering::SeqCst) {
            stream.hang_up();
        }
        let name = match &self.address {
            Address::Tcp { host, .. } => host.as_str(),
            Address::Unix(_) => "localhost",
        };
        self.greeting.send(stream, name)
    }

    /// Responds to requests until the connection is lost. Returns how many there were.
    fn serve_connection(&self, conn: &mut Conn, answer: &mut dyn FnMut(&Request) -> Reply) -> u64 {
        let mut count = 0;
        let mut input = Buffer::new();
        let mut out = Vec::new();
        while let Some(request) = read_request(conn, &mut input) {
            let reply = catch_unwind(AssertUnwindSafe(|| answer(&request)))
                .unwrap_or_else(|_| Reply::text(500, "The application failed.\n"));
            let framing = Framing::Length(reply.body.len() as u64);
            out.clear();
            reply
                .head
                .write(framing, Persistence::Implied, None, &mut out);
            let body: &[u8] = match request.head.method {
                Method::Head => &[],
                _ => &reply.body,
            };
            if conn.write_both(&out, body, IO_TIMEOUT).is_err() {
                break;
            }
            count += 1;
        }
        count
    }
}

/// An id made from the process id, no key, no TLS.
impl Default for Greeting {
    fn default() -> Self {
        let mut id = [b'0'; preamble::ID];
        // The reference client's id: eight digits of its address, four of its process id.
        let digits = format!("7f000001{:04x}", std::process::id() & 0xffff);
        id.copy_from_slice(digits.as_bytes());
        Self {
            id,
            key: Vec::new(),
            tls: None,
        }
    }
}

impl Greeting {
    /// Sets the key that the site requires.
    ///
    /// # Errors
    /// If it has more than 255 bytes.
    pub fn key(mut self, key: &str) -> Result<Self, KeyTooLong> {
        if preamble::write(&self.id, key.as_bytes()).is_err() {
            return Err(KeyTooLong);
        }
        self.key = key.as_bytes().to_owned();
        Ok(self)
    }

    /// Uses TLS.
    #[must_use]
    pub fn tls(mut self, connector: Connector) -> Self {
        self.tls = Some(connector);
        self
    }

    /// Does the TLS handshake, if there is one, with a server of this name, for ten seconds at most, and sends the
    /// preamble. From then on the system closes the connection when the server has accepted no data, or was silent to
    /// probes, for a minute.
    ///
    /// # Errors
    /// Those of [`Conn::shake_hands`], and of the system.
    pub fn send(&self, stream: Stream, name: &str) -> io::Result<Conn> {
        stream.send_at_once();
        stream.watch_peer();
        stream.give_up_after(IO_TIMEOUT);
        let mut conn = match &self.tls {
            None => Conn::plain(stream),
            Some(connector) => Conn::dialled(stream, connector, name)?,
        };
        conn.shake_hands(Instant::now() + HANDSHAKE_TIMEOUT)?;
        let preamble = preamble::write(&self.id, &self.key)
            .map_err(|_| io::Error::other("the key has more than 255 bytes"))?;
        conn.write_both(&preamble, &[], IO_TIMEOUT)?;
        Ok(conn)
    }
}

impl Backoff {
    /// Nothing has failed yet. No pause is longer than this.
    pub const fn new(longest: Duration) -> Self {
        Self {
            failures: 0,
            longest,
        }
    }

    /// An attempt has succeeded.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// Another attempt has failed: how long to wait now.
    pub fn pause(&mut self) -> Duration {
        let doublings = self.failures.saturating_sub(QUICK_RETRIES - 1).min(16);
        self.failures = self.failures.saturating_add(1);
        let pause = (FIRST_PAUSE * (1 << doublings)).min(self.longest);
        // Between three quarters of it and all of it. The keys of a new hasher are random enough.
        let random = RandomState::new().build_hasher().finish() % 256;
        pause * 3 / 4 + pause * u32::try_from(random).unwrap_or(0) / 1024
    }
}

impl Reply {
    /// Plain text with a status.
    pub fn text(status: u16, text: &str) -> Self {
        Self::new(
            status,
            "text/plain; charset=utf-8",
            text.as_bytes().to_owned(),
        )
    }

    /// A body with a status and a media type.
    pub fn new(status: u16, media_type: &str, body: Vec<u8>) -> Self {
        let mut head = ResponseHead::new(status);
        head.headers.push("Content-Type", media_type.as_bytes());
        Self { head, body }
    }
}

impl Stopper {
    /// Stops the client; a request under way may be cut.
    pub fn stop(&self) {
        let stream = {
            let stream = self.0.stream.lock();
            self.0.stopped.store(true, Ordering::SeqCst);
            stream.clone()
        };
        if let Some(stream) = stream {
            stream.hang_up();
        }
        self.0.changed.notify_all();
    }
}

impl fmt::Display for KeyTooLong {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("the key has more than 255 bytes")
    }
}

impl error::Error for KeyTooLong {}

/// Reads one request, however long it takes to arrive; once it has begun, each further piece has a deadline. `None`: the
/// connection is over, or the request is invalid.
fn read_request(conn: &mut Conn, input: &mut Buffer) -> Option<Request> {
    conn.set_read_timeout(NO_TIMEOUT).ok()?;
    while input.is_empty() {
        match input.fill(conn) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::TimedOut => {}
            Err(_) => return None,
        }
    }
    if preamble::is_misdialled(input.data()) {
        log::warn!("the server answers as it answers clients: {MISDIALLED}");
        return None;
    }
    let limits = HeadLimits::default();
    let mut scanner = HeadScanner::default();
    let end = loop {
        match scanner.scan(input.data(), &limits) {
            Ok(Some(end)) => break end,
            Ok(None) => {}
            Err(refusal) => {
                log::debug!("request refused: {}", refusal.why);
                return None;
            }
        }
        read_more(conn, input)?;
    };
    let mut head = RequestHead::parse(&input.data()[..end], &limits).ok()?;
    input.consume(end);
    // The server has already removed the fields that its configuration does not allow (`underscores`).
    head.admit_ambiguous(|_| true);
    let mut body = Vec::new();
    let mut decoder = Decoder::new(head.framing, &limits);
    while !decoder.is_done() {
        let piece = decoder.next(input.data()).ok()?;
        body.extend_from_slice(&input.data()[piece.data]);
        input.consume(piece.consumed);
        if piece.consumed == 0 {
            read_more(conn, input)?;
        }
    }
    Some(Request { head, body })
}

/// Reads more of a request that has begun.
fn read_more(conn: &mut Conn, input: &mut Buffer) -> Option<()> {
    conn.set_read_timeout(IO_TIMEOUT).ok()?;
    match input.fill(conn) {
        Ok(1..) => Some(()),
        Ok(0) | Err(_) => None,
    }
}

/// Advice for when a server answers a preamble with a response.
pub(crate) const MISDIALLED: &str =
    "this is its port for clients; dial the outgoing address of a site";
/// How long the server may send nothing within a request, or accept nothing of a response.
const IO_TIMEOUT: Duration = Duration::from_secs(60);
/// How long dialling may take, and then a handshake.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// No time-out for the next request; the system waits in pieces of this length.
const NO_TIMEOUT: Duration = Duration::from_secs(3600);
/// The number of brief pauses.
const QUICK_RETRIES: u32 = 3;
/// The first pause, and the longest for [`Client`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_random() {
        let mut backoff = Backoff::new(Duration::from_secs(20));
        let mut check = |milliseconds: u64| {
            let whole = Duration::from_millis(milliseconds);
            let pause = backoff.pause();
            assert!(pause >= whole * 3 / 4 && pause <= whole, "{pause:?}");
        };
        for milliseconds in [100, 100, 100, 200, 400, 800, 1600, 3200, 6400, 12800] {
            check(milliseconds);
        }
        for _ in 0..100 {
            check(20_000);
        }
        backoff.reset();
        assert!(backoff.pause() <= FIRST_PAUSE);
        let pauses: Vec<_> = (0..9)
            .map(|_| Backoff::new(LONGEST_PAUSE).pause())
            .collect();
        assert!(pauses.iter().any(|pause| *pause != pauses[0]), "{pauses:?}");
    }
}
