//! A client, which parses responses by its own rules and not with the library under test.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};

use super::{Backend, PATIENCE, field, head_end, read_until, reset_on_close, secure};

/// What a client reads and writes.
enum Wire {
    Plain(TcpStream),
    Secure(Box<secure::Stream>),
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(into),
            Self::Secure(stream) => stream.read(into),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Secure(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Secure(stream) => stream.flush(),
        }
    }
}

fn tcp(address: SocketAddr) -> TcpStream {
    prepared(TcpStream::connect(address).unwrap())
}

/// Connects from this address of the machine.
pub(crate) fn tcp_from(from: [u8; 4], address: SocketAddr) -> TcpStream {
    let SocketAddr::V4(address) = address else {
        panic!("{address}");
    };
    let (family, kind) = (AddressFamily::Inet, SockType::Stream);
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let [a, b, c, d] = from;
    bind(socket.as_raw_fd(), &SockaddrIn::new(a, b, c, d, 0)).unwrap();
    connect(socket.as_raw_fd(), &SockaddrIn::from(address)).unwrap();
    TcpStream::from(socket)
}

fn prepared(stream: TcpStream) -> TcpStream {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A connection to the proxy.
pub(crate) struct Visitor {
    stream: Wire,
    /// Read and not used yet.
    bytes: Vec<u8>,
}

/// A response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Status line and fields.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// Its end did not come.
    pub(crate) cut: bool,
}

impl Answer {
    /// The value of a field.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    /// Fails unless all of it came, with this body.
    #[track_caller]
    pub(crate) fn assert_body(&self, expected: impl AsRef<[u8]>) {
        self.assert_whole();
        let expected = expected.as_ref();
        let pairs = self.body.iter().zip(expected);
        let same = pairs.take_while(|(got, expected)| got == expected).count();
        assert!(
            self.body == expected,
            "the body has {} bytes, expected {}; they differ from byte {same} on",
            self.body.len(),
            expected.len()
        );
    }

    /// Fails unless its end came.
    #[track_caller]
    pub(crate) fn assert_whole(&self) {
        let (count, head) = (self.body.len(), &self.head);
        assert!(
            !self.cut,
            "the response was cut after {count} bytes: {head}"
        );
    }

    /// Fails unless the connection ended before its end.
    #[track_caller]
    pub(crate) fn assert_cut(&self) {
        let (count, head) = (self.body.len(), &self.head);
        assert!(
            self.cut,
            "the response is complete, with {count} bytes: {head}"
        );
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Visitor {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self {
            stream: Wire::Plain(tcp(address)),
            bytes: Vec::new(),
        }
    }

    /// Connects from this address of the machine.
    pub(crate) fn connect_from(from: [u8; 4], address: SocketAddr) -> Self {
        Self {
            stream: Wire::Plain(prepared(tcp_from(from, address))),
            bytes: Vec::new(),
        }
    }

    /// Connects and asks for something.
    pub(crate) fn asking(address: SocketAddr, target: &str) -> Self {
        let mut visitor = Self::connect(address);
        visitor.send_get(target);
        visitor
    }

    /// A server's side of a connection that was dialled; reads the preamble.
    pub(crate) fn dialled(line: Backend, preamble: &str) -> Self {
        let mut server = Self {
            stream: Wire::Plain(line.into_socket()),
            bytes: Vec::new(),
        };
        let sent = String::from_utf8(server.take(preamble.len())).unwrap();
        assert!(sent.starts_with("swiftclient"), "{sent}");
        assert_eq!(sent[23..], preamble[23..]);
        server
    }

    /// Connects with TLS and asks for a name.
    pub(crate) fn connect_secure(address: SocketAddr, name: &str) -> Self {
        Self {
            stream: Wire::Secure(Box::new(secure::connect(tcp(address), name))),
            bytes: Vec::new(),
        }
    }

    /// A client on a connection that was made already.
    pub(crate) fn with(stream: secure::Stream) -> Self {
        Self {
            stream: Wire::Secure(Box::new(stream)),
            bytes: Vec::new(),
        }
    }

    fn socket(&self) -> &TcpStream {
        match &self.stream {
            Wire::Plain(stream) => stream,
            Wire::Secure(stream) => &stream.sock,
        }
    }

    /// Limits each later read and write.
    pub(crate) fn wait_at_most(&self, limit: Duration) {
        self.socket().set_read_timeout(Some(limit)).unwrap();
        self.socket().set_write_timeout(Some(limit)).unwrap();
    }

    /// The TLS connection, with what was negotiated.
    pub(crate) fn tls(&self) -> &rustls::ClientConnection {
        match &self.stream {
            Wire::Plain(_) => panic!("no TLS"),
            Wire::Secure(stream) => &stream.conn,
        }
    }

    /// Sends bytes; those of a connection that the proxy has closed are lost, as they are for any client.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let _ = self.stream.write_all(bytes.as_ref());
        self
    }

    /// Sends bytes in two pieces.
    pub(crate) fn send_cut(&mut self, bytes: &[u8], at: usize) -> &mut Self {
        self.send(&bytes[..at]);
        std::thread::yield_now();
        self.send(&bytes[at..])
    }

    /// Ends the sending side.
    pub(crate) fn finish(&mut self) -> &mut Self {
        if let Wire::Secure(stream) = &mut self.stream {
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
        let _ = self.socket().shutdown(Shutdown::Write);
        self
    }

    /// Reads the response to a request that was not HEAD.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    /// Reads the response to a request with this method.
    #[track_caller]
    pub(crate) fn answer_to(&mut self, method: &str) -> Answer {
        let came = self.read_until("the head of a response", |b| head_end(b).is_some());
        assert!(
            came,
            "no head in {:?}",
            String::from_utf8_lossy(&self.bytes)
        );
        let end = head_end(&self.bytes).unwrap();
        let head = String::from_utf8(self.bytes.drain(..end).collect()).unwrap();
        let status = head[9..12].parse().unwrap();
        let mut answer = Answer {
            status,
            head,
            body: Vec::new(),
            cut: false,
        };
        if method == "HEAD" || matches!(status, 100..=199 | 204 | 304) {
            return answer;
        }
        if answer.field("Transfer-Encoding") == Some("chunked") {
            answer.cut = !self.read_chunks(&mut answer.body);
        } else if let Some(length) = answer.field("Content-Length") {
            let length = length.parse().unwrap();
            answer.cut = !self.read_until("the body of a response", |b| b.len() >= length);
            let length = length.min(self.bytes.len());
            answer.body = self.bytes.drain(..length).collect();
        } else {
            self.read_until("the end of the connection", |_| false);
            answer.body = std::mem::take(&mut self.bytes);
        }
        answer
    }

    /// Whether the beginning of a response is there.
    pub(crate) fn has_answer(&self) -> bool {
        self.socket().set_nonblocking(true).unwrap();
        let there = matches!(self.socket().peek(&mut [0]), Ok(1));
        self.socket().set_nonblocking(false).unwrap();
        there
    }

    /// Sends a request and reads its response.
    #[track_caller]
    pub(crate) fn ask(&mut self, request: impl AsRef<[u8]>) -> Answer {
        self.send(request).answer()
    }

    /// Sends GET, as simple as it can be.
    pub(crate) fn send_get(&mut self, target: &str) -> &mut Self {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"))
    }

    /// Sends GET and reads the response.
    #[track_caller]
    pub(crate) fn get(&mut self, target: &str) -> Answer {
        self.send_get(target).answer()
    }

    /// Sends POST, and then its body.
    pub(crate) fn send_post(&mut self, target: &str, body: impl AsRef<[u8]>) -> &mut Self {
        let length = body.as_ref().len();
        let head =
            format!("POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n");
        self.send(head).send(body)
    }

    /// Waits until the proxy closes the connection, which it has to do without another byte.
    #[track_caller]
    pub(crate) fn assert_closed(&mut self) {
        let closed = self.is_closed();
        let got = String::from_utf8_lossy(&self.bytes);
        assert!(closed, "expected the end of the connection, got {got:?}");
    }

    /// Whether the proxy closes the connection now, without another byte.
    #[track_caller]
    pub(crate) fn is_closed(&mut self) -> bool {
        !self.read_until("the end of the connection", |bytes| !bytes.is_empty())
    }

    /// Everything that comes until the proxy closes.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        self.read_until("the end of the connection", |_| false);
        std::mem::take(&mut self.bytes)
    }

    /// Bytes that have come so far, at least so many.
    #[track_caller]
    pub(crate) fn at_least(&mut self, count: usize) -> &[u8] {
        let came = self.read_until("more bytes", |bytes| bytes.len() >= count);
        let got = self.bytes.len();
        assert!(
            came,
            "the proxy closed the connection after {got} bytes of {count}"
        );
        &self.bytes
    }

    /// Reads until this text has arrived, and keeps all bytes for [`Visitor::answer`].
    #[track_caller]
    pub(crate) fn sees(&mut self, text: &str) {
        let seen = |bytes: &[u8]| {
            bytes
                .windows(text.len())
                .any(|part| part == text.as_bytes())
        };
        let came = self.read_until(&format!("{text:?}"), seen);
        let bytes = String::from_utf8_lossy(&self.bytes);
        assert!(came, "{text:?} did not arrive, only {bytes:?}");
    }

    /// The next bytes, so many.
    #[track_caller]
    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        self.at_least(count);
        self.bytes.drain(..count).collect()
    }

    /// Whether the connection ends with an error now, instead of a close.
    pub(crate) fn is_broken(&mut self) -> bool {
        let late = io::ErrorKind::WouldBlock;
        matches!(self.stream.read(&mut [0]), Err(error) if error.kind() != late)
    }

    /// Sends bytes as long as the proxy takes them.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Makes the following close send a reset.
    pub(crate) fn reset(self) {
        reset_on_close(self.socket());
    }

    #[track_caller]
    fn read_until(&mut self, what: &str, enough: impl Fn(&[u8]) -> bool) -> bool {
        read_until(&mut self.stream, &mut self.bytes, what, enough)
    }

    #[track_caller]
    fn read_chunks(&mut self, body: &mut Vec<u8>) -> bool {
        loop {
            let line = |bytes: &[u8]| bytes.windows(2).position(|two| two == b"\r\n");
            if !self.read_until("the size of a chunk", |b| line(b).is_some()) {
                return false;
            }
            let end = line(&self.bytes).unwrap();
            let digits = String::from_utf8(self.bytes.drain(..end + 2).collect()).unwrap();
            let size = usize::from_str_radix(digits.trim(), 16).unwrap();
            if !self.read_until("a chunk", |b| b.len() >= size + 2) {
                body.append(&mut self.bytes);
                return false;
            }
            body.extend(self.bytes.drain(..size));
            assert_eq!(self.bytes.drain(..2).collect::<Vec<_>>(), b"\r\n");
            if size == 0 {
                return true;
            }
        }
    }
}
