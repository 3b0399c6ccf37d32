//! The other side of the protocol: an application that dials in and answers requests.
//!
//! A [`Client`] keeps one connection to a swiftiply server and calls a closure for each request that comes, one
//! at a time, on the thread that calls [`Client::serve`]. More threads, each with a client of its own, are
//! more requests at once. The connection is dialled again when it is lost.
//!
//! ```no_run
//! use swiftiply::client::{Client, Reply};
//!
//! let client = Client::new("127.0.0.1:30000".parse()?).key("secret")?;
//! client.serve(|request| Reply::text(200, &format!("hello from {}\n", request.head.target.as_str())));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{error, fmt, io};

use parking_lot::{Condvar, Mutex};

use crate::backend::preamble;
use crate::config::Address;
use crate::http::body::{Decoder, Framing};
use crate::http::head::{HeadLimits, HeadScanner, Method, Persistence, RequestHead, ResponseHead};
use crate::net::buffer::Buffer;
use crate::net::listener::reason;
use crate::net::stream::Stream;

/// An application's connection to a server.
#[derive(Debug)]
pub struct Client {
    address: Address,
    id: [u8; preamble::ID],
    key: Vec<u8>,
    line: Arc<Line>,
}

/// A request as the application sees it.
#[derive(Debug)]
pub struct Request {
    /// Method, target and fields; those that concern the connection only are gone.
    pub head: RequestHead,
    /// The whole body.
    pub body: Vec<u8>,
}

/// What the application answers. Its length and framing are seen to.
#[derive(Debug)]
pub struct Reply {
    /// Status and fields.
    pub head: ResponseHead,
    /// The whole body.
    pub body: Vec<u8>,
}

/// Ends a client from another thread; see [`Client::stopper`].
#[derive(Clone, Debug)]
pub struct Stopper(Arc<Line>);

/// A key of more than 255 bytes, which the protocol cannot tell.
#[derive(Debug)]
pub struct KeyTooLong;

/// The connection of the moment, for whoever wants to end it.
#[derive(Debug, Default)]
struct Line {
    stopped: AtomicBool,
    stream: Mutex<Option<Arc<Stream>>>,
    changed: Condvar,
}

impl Client {
    /// A client for the dial-in address of a site. Its id is made of the process id.
    pub fn new(address: Address) -> Self {
        let mut id = [b'0'; preamble::ID];
        // The reference client's id: eight digits of its address, four of its process id.
        let digits = format!("7f000001{:04x}", std::process::id() & 0xffff);
        id.copy_from_slice(digits.as_bytes());
        Self {
            address,
            id,
            key: Vec::new(),
            line: Arc::default(),
        }
    }

    /// With the key that the site wants.
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

    /// With an id of one's own, which shows in logs and need not be unique.
    #[must_use]
    pub const fn id(mut self, id: [u8; preamble::ID]) -> Self {
        self.id = id;
        self
    }

    /// Something by which another thread can end [`Client::serve`].
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.line))
    }

    /// Dials in and answers requests until it is stopped. A connection that is lost or refused is dialled again, at
    /// first after a tenth of a second, at last every five; a panic of the closure is answered with 500.
    pub fn serve(&self, mut answer: impl FnMut(&Request) -> Reply) {
        let mut pause = FIRST_PAUSE;
        while !self.line.stopped.load(Ordering::SeqCst) {
            match self.connect() {
                Ok(stream) => {
                    let answered = self.answer_all(&stream, &mut answer);
                    self.line.stream.lock().take();
                    if answered > 0 {
                        pause = FIRST_PAUSE;
                    }
                }
                Err(error) => log::debug!("dial {}: {}", self.address, reason(&error)),
            }
            let mut stream = self.line.stream.lock();
            if !self.line.stopped.load(Ordering::SeqCst) {
                self.line.changed.wait_for(&mut stream, pause);
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn connect(&self) -> io::Result<Arc<Stream>> {
        let stream = Arc::new(Stream::connect(&self.address, PATIENCE)?);
        stream.send_at_once();
        stream.watch_peer();
        *self.line.stream.lock() = Some(Arc::clone(&stream));
        // Whoever stops us from now on finds the stream; whoever did before is seen here.
        if self.line.stopped.load(Ordering::SeqCst) {
            stream.hang_up();
        }
        let preamble = preamble::write(&self.id, &self.key)
            .map_err(|_| io::Error::other("the key has more than 255 bytes"))?;
        stream.write_all(&preamble, PATIENCE)?;
        Ok(stream)
    }

    /// Answers requests until the connection is lost. Returns how many.
    fn answer_all(&self, stream: &Stream, answer: &mut dyn FnMut(&Request) -> Reply) -> u64 {
        let mut answered = 0;
        let mut input = Buffer::new();
        let mut out = Vec::new();
        while let Some(request) = read_request(stream, &mut input) {
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
            if stream.write_both(&out, body, PATIENCE).is_err() {
                break;
            }
            answered += 1;
        }
        answered
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

    /// Anything with a status and a media type.
    pub fn new(status: u16, media_type: &str, body: Vec<u8>) -> Self {
        let mut head = ResponseHead::new(status);
        head.headers.push("Content-Type", media_type.as_bytes());
        Self { head, body }
    }
}

impl Stopper {
    /// Ends the client; a request that is being answered may be cut.
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

/// Reads one request, however long it takes to come. `None`: the connection is over, or what came is no request.
fn read_request(stream: &Stream, input: &mut Buffer) -> Option<Request> {
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
        if input.fill(stream).ok()? == 0 {
            return None;
        }
    };
    let head = RequestHead::parse(&input.data()[..end], &limits).ok()?;
    input.consume(end);
    let mut body = Vec::new();
    let mut decoder = Decoder::new(head.framing, &limits);
    while !decoder.is_done() {
        let piece = decoder.next(input.data()).ok()?;
        body.extend_from_slice(&input.data()[piece.data]);
        input.consume(piece.consumed);
        if piece.consumed == 0 && input.fill(stream).ok()? == 0 {
            return None;
        }
    }
    Some(Request { head, body })
}

const PATIENCE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
