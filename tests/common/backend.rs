//! Applications that dial in: one that a test plays by hand, and one that answers by itself.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use super::{PATIENCE, field, head_end, read_until};

/// A connection that a test plays by hand.
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
        let stream = TcpStream::connect(address).unwrap();
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

    /// Reads one request. `None`: the proxy closed the connection.
    pub(crate) fn next(&mut self) -> Option<Seen> {
        if !read_until(&mut self.stream, &mut self.bytes, |b| head_end(b).is_some()) {
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
        if !read_until(&mut self.stream, &mut self.bytes, |b| b.len() >= length) {
            return None;
        }
        let body = self.bytes.drain(..length).collect();
        Some(Seen { head, body })
    }

    /// Reads until this has come; gives everything up to its end.
    pub(crate) fn read_to(&mut self, end: &str) -> String {
        let find = |bytes: &[u8]| {
            bytes
                .windows(end.len())
                .position(|part| part == end.as_bytes())
        };
        let came = read_until(&mut self.stream, &mut self.bytes, |b| find(b).is_some());
        assert!(came, "{end:?} did not come");
        let length = find(&self.bytes).unwrap() + end.len();
        String::from_utf8(self.bytes.drain(..length).collect()).unwrap()
    }

    /// Reads one request, which has to come.
    pub(crate) fn request(&mut self) -> Seen {
        self.next().expect("a request")
    }

    /// Answers with 200 and a body.
    pub(crate) fn reply(&mut self, body: &str) -> &mut Self {
        let length = body.len();
        self.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
    }

    /// Whether the proxy closes the connection now.
    pub(crate) fn is_closed(&mut self) -> bool {
        !read_until(&mut self.stream, &mut self.bytes, |bytes| !bytes.is_empty())
    }

    /// Ends the sending side only.
    pub(crate) fn finish(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }
}

/// An application that answers each request with its target, the token by which cross-talk would show.
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
            backend.stream.set_read_timeout(None).unwrap();
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
