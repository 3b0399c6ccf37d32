//! Applications, both those that dial in and ordinary servers: scripted by a test, or answering by themselves.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::visitor::tcp_from;
use super::{PATIENCE, Visitor, field, head_end, read_until, reset_on_close, wait_until};

/// A connection of a backend that a test scripts.
pub(crate) struct Backend {
    stream: TcpStream,
    bytes: Vec<u8>,
}

/// A request as a backend sees it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    /// The value of a field.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    /// The target of the request line.
    pub(crate) fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }
}

/// The preamble of a client with this id and key.
pub(crate) fn preamble(id: &str, key: &str) -> Vec<u8> {
    format!("swiftclient{id}{:02x}{key}", key.len()).into_bytes()
}

impl Backend {
    /// Connects and sends nothing.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::accepted(TcpStream::connect(address).unwrap())
    }

    /// Wraps an open connection, also one that an ordinary application accepted.
    pub(crate) fn accepted(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            bytes: Vec::new(),
        }
    }

    /// Dials in without a key.
    pub(crate) fn dial(address: SocketAddr) -> Self {
        Self::dial_as(address, "000000000001", "")
    }

    /// Dials in.
    pub(crate) fn dial_as(address: SocketAddr, id: &str, key: &str) -> Self {
        let mut backend = Self::connect(address);
        backend.send(preamble(id, key));
        backend
    }

    /// Dials in from this address of the machine, without a key.
    pub(crate) fn dial_from(from: [u8; 4], address: SocketAddr, id: &str) -> Self {
        let mut backend = Self::accepted(tcp_from(from, address));
        backend.send(preamble(id, ""));
        backend
    }

    /// Limits each later read and write.
    pub(crate) fn wait_at_most(&self, limit: Duration) {
        self.stream.set_read_timeout(Some(limit)).unwrap();
        self.stream.set_write_timeout(Some(limit)).unwrap();
    }

    /// Requests may come as late as they like.
    pub(crate) fn wait_for_ever(&self) {
        self.stream.set_read_timeout(None).unwrap();
    }

    /// Sends bytes.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let _ = self.stream.write_all(bytes.as_ref());
        self
    }

    /// Waits for the first bytes of a request, leaves them unread, and sends bytes.
    pub(crate) fn send_when_readable(&mut self, bytes: &str) {
        self.stream.peek(&mut [0]).unwrap();
        self.send(bytes);
    }

    #[track_caller]
    fn read_until(&mut self, what: &str, enough: impl Fn(&[u8]) -> bool) -> bool {
        read_until(&mut self.stream, &mut self.bytes, what, enough)
    }

    /// Reads one request. `None`: the proxy closed the connection.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Option<Seen> {
        if !self.read_until("the head of a request", |b| head_end(b).is_some()) {
            let rest = String::from_utf8_lossy(&self.bytes);
            assert!(rest.is_empty(), "a head that is cut short: {rest}");
            return None;
        }
        let end = head_end(&self.bytes).unwrap();
        let head = String::from_utf8(self.bytes.drain(..end).collect()).unwrap();
        assert_eq!(
            field(&head, "Transfer-Encoding"),
            None,
            "bodies have lengths"
        );
        let length = field(&head, "Content-Length").map_or(0, |text| text.parse().unwrap());
        if !self.read_until("the body of a request", |b| b.len() >= length) {
            return None;
        }
        let body = self.bytes.drain(..length).collect();
        Some(Seen { head, body })
    }

    /// Reads until this has come; gives everything up to its end.
    #[track_caller]
    pub(crate) fn read_to(&mut self, end: &str) -> String {
        let find = |bytes: &[u8]| {
            bytes
                .windows(end.len())
                .position(|part| part == end.as_bytes())
        };
        let came = self.read_until(&format!("{end:?}"), |b| find(b).is_some());
        let got = String::from_utf8_lossy(&self.bytes);
        assert!(
            came,
            "the proxy closed the connection before {end:?}, after {got:?}"
        );
        let length = find(&self.bytes).unwrap() + end.len();
        String::from_utf8(self.bytes.drain(..length).collect()).unwrap()
    }

    /// Reads one request, which has to come.
    #[track_caller]
    pub(crate) fn request(&mut self) -> Seen {
        self.next()
            .expect("a request before the end of the connection")
    }

    /// Answers with 200 and a body.
    pub(crate) fn reply(&mut self, body: impl AsRef<[u8]>) -> &mut Self {
        let body = body.as_ref();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        self.send([head.as_bytes(), body].concat())
    }

    /// The same in chunks of so many bytes.
    pub(crate) fn reply_in_chunks(&mut self, body: &[u8], size: usize) {
        self.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for chunk in body.chunks(size) {
            self.send(format!("{:x}\r\n", chunk.len()));
            self.send(chunk).send("\r\n");
        }
        self.send("0\r\n\r\n");
    }

    /// Answers with 200 and a body, and the client gets it.
    #[track_caller]
    pub(crate) fn reply_to(&mut self, visitor: &mut Visitor, body: &str) {
        self.reply(body);
        assert_eq!(visitor.answer().text(), body);
    }

    /// Reads until at least so many bytes are there.
    #[track_caller]
    pub(crate) fn at_least(&mut self, count: usize) {
        let came = self.read_until("more bytes", |bytes| bytes.len() >= count);
        let got = self.bytes.len();
        assert!(
            came,
            "the proxy closed the connection after {got} bytes of {count}"
        );
    }

    /// Makes the following close send a reset.
    pub(crate) fn reset(self) {
        reset_on_close(&self.stream);
    }

    /// Waits until the proxy closes the connection, which it has to do without another byte.
    #[track_caller]
    pub(crate) fn assert_closed(&mut self) {
        let closed = self.is_closed();
        let got = String::from_utf8_lossy(&self.bytes);
        assert!(closed, "expected the end of the connection, got {got:?}");
    }

    /// Whether the proxy closes the connection now.
    #[track_caller]
    pub(crate) fn is_closed(&mut self) -> bool {
        !self.read_until("the end of the connection", |bytes| !bytes.is_empty())
    }

    /// The next bytes, so many.
    #[track_caller]
    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        let came = self.read_until("more bytes", |b| b.len() >= count);
        let got = String::from_utf8_lossy(&self.bytes);
        assert!(
            came,
            "the proxy closed the connection before {count} bytes, after {got:?}"
        );
        self.bytes.drain(..count).collect()
    }

    /// Everything that comes until the proxy ends its side.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        self.read_until("the end of the connection", |_| false);
        std::mem::take(&mut self.bytes)
    }

    /// Whether the connection is open, and nothing was sent to it.
    pub(crate) fn is_open(&self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).unwrap();
        peeked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Sends a byte now and then until the connection is closed, which it has to be.
    pub(crate) fn drip(&mut self) {
        let closed = (0..1000).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            self.try_send(b"x").is_err()
        });
        assert!(
            closed,
            "timed out after 20 s waiting for the end of a connection that drips"
        );
    }

    /// Sends bytes as long as the proxy takes them.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// Its socket, for something else.
    pub(crate) fn into_socket(self) -> TcpStream {
        self.stream
    }

    /// Ends the sending side only.
    pub(crate) fn finish(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }
}

/// A listener that a test scripts: an ordinary server, or one where backends dial in.
pub(crate) struct Server(TcpListener);

impl Server {
    /// Listens on a port of its own.
    pub(crate) fn start() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap())
    }

    /// Listens there.
    pub(crate) fn at(address: SocketAddr) -> Self {
        let mut listener = None;
        wait_until("the address of a server", || {
            listener = TcpListener::bind(address).ok();
            listener.is_some()
        });
        let listener = listener.unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// The next connection, if there is one.
    pub(crate) fn accept_now(&self) -> Option<Backend> {
        let (stream, _) = self.0.accept().ok()?;
        stream.set_nonblocking(false).unwrap();
        Some(Backend::accepted(stream))
    }

    /// The next connection, which has to come.
    pub(crate) fn accept(&self) -> Backend {
        let mut accepted = None;
        wait_until("a connection to a server", || {
            accepted = self.accept_now();
            accepted.is_some()
        });
        accepted.unwrap()
    }

    /// The next connection that brings a request; probes, which bring none, are passed over.
    pub(crate) fn accept_asking(&self) -> Backend {
        loop {
            let backend = self.accept();
            if matches!(backend.stream.peek(&mut [0]), Ok(1)) {
                return backend;
            }
        }
    }
}

/// An ordinary server that answers each request with its target, as [`Echo`] does, and the length of a body.
pub(crate) struct EchoServer {
    address: SocketAddr,
    seen: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

/// What an [`EchoServer`] has seen.
#[derive(Default)]
struct Counts {
    stopped: AtomicBool,
    connections: AtomicUsize,
    answered: AtomicUsize,
    /// Requests at the same time, now and at the most.
    now: AtomicUsize,
    most: AtomicUsize,
    /// Requests whose path begins with /hold wait while this is true.
    holding: AtomicBool,
    held: AtomicUsize,
}

impl EchoServer {
    /// Listens on a port of its own.
    pub(crate) fn start() -> Self {
        Self::run(Server::start(), Duration::ZERO)
    }

    /// Listens there, where another one may have been.
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self::run(Server::at(address), Duration::ZERO)
    }

    /// Answers on a listener, each time after a pause.
    pub(crate) fn run(server: Server, pause: Duration) -> Self {
        let address = server.address();
        let seen = Arc::new(Counts::default());
        let counts = Arc::clone(&seen);
        let thread = std::thread::spawn(move || {
            let mut open = Vec::new();
            while !counts.stopped.load(Ordering::SeqCst) {
                let Some(backend) = server.accept_now() else {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                };
                counts.connections.fetch_add(1, Ordering::SeqCst);
                let stream = backend.stream.try_clone().unwrap();
                let counts = Arc::clone(&counts);
                let thread = std::thread::spawn(move || counts.serve(backend, pause));
                open.push((stream, thread));
            }
            drop(server);
            for (stream, thread) in open {
                let _ = stream.shutdown(std::net::Shutdown::Both);
                let _ = thread.join();
            }
        });
        Self {
            address,
            seen,
            thread: Some(thread),
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it has had.
    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// How many requests it has answered.
    pub(crate) fn answered(&self) -> usize {
        self.seen.answered.load(Ordering::SeqCst)
    }

    /// How many requests it has had at the same time.
    pub(crate) fn most(&self) -> usize {
        self.seen.most.load(Ordering::SeqCst)
    }

    /// Forgets how many requests it has had at the same time.
    pub(crate) fn forget_most(&self) {
        self.seen.most.store(0, Ordering::SeqCst);
    }

    /// Lets requests whose path begins with /hold wait, or lets them go on.
    pub(crate) fn hold(&self, on: bool) {
        self.seen.holding.store(on, Ordering::SeqCst);
    }

    /// How many requests were to wait.
    pub(crate) fn held(&self) -> usize {
        self.seen.held.load(Ordering::SeqCst)
    }
}

impl Counts {
    fn serve(&self, mut backend: Backend, pause: Duration) {
        backend.wait_for_ever();
        while let Some(seen) = backend.next() {
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            if seen.target().starts_with("/hold") {
                self.held.fetch_add(1, Ordering::SeqCst);
                while self.holding.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            // So that requests meet each other.
            match pause.is_zero() {
                true => std::thread::yield_now(),
                false => std::thread::sleep(pause),
            }
            self.answered.fetch_add(1, Ordering::SeqCst);
            self.now.fetch_sub(1, Ordering::SeqCst);
            match seen.body.len() {
                0 => backend.reply(seen.target()),
                length => backend.reply(format!("{} {length}", seen.target())),
            };
        }
    }
}

/// It disappears at once, as if killed: its port is closed, and every connection ends.
impl Drop for EchoServer {
    fn drop(&mut self) {
        self.hold(false);
        self.seen.stopped.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An application that answers each request with its target, so that mixed-up responses would show.
pub(crate) struct Echo {
    stream: TcpStream,
    thread: Option<JoinHandle<()>>,
    answered: Arc<AtomicUsize>,
}

impl Echo {
    /// Dials in and answers until it is dropped or the proxy closes.
    pub(crate) fn dial(address: SocketAddr, id: &str, key: &str) -> Self {
        let mut backend = Backend::dial_as(address, id, key);
        let stream = backend.stream.try_clone().unwrap();
        let answered = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&answered);
        let thread = std::thread::spawn(move || {
            // Idle for as long as the test likes.
            backend.wait_for_ever();
            while let Some(seen) = backend.next() {
                count.fetch_add(1, Ordering::SeqCst);
                backend.reply(seen.target());
            }
        });
        Self {
            stream,
            thread: Some(thread),
            answered,
        }
    }

    /// How many requests it has answered.
    pub(crate) fn answered(&self) -> usize {
        self.answered.load(Ordering::SeqCst)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
