//! The data of one exchange: the request as it was received and the response as it will be sent.
//!
//! The layers pass these to each other. A [`Request`] has a head and a body; the body is complete in memory or in a
//! file, or is passed on as it arrives (`request_buffering: false`). A [`Response`] is one that swiftiply makes itself:
//! a head, which may still be changed, and a [`Body`]. The response of a backend is relayed instead (`relay`).

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::budget::{Charge, Share};
use crate::http::conditional::Validators;
use crate::http::encoding::ContentCoding;
use crate::http::head::{HeadLimits, RequestHead, ResponseHead};
use crate::http::request_id::RequestId;
use crate::net::stream::Peer;
use crate::preamble::Id;
use crate::stats::Party;

/// A request of a client.
#[derive(Debug)]
pub struct Request {
    /// Its head, without the fields that concern the connection only.
    pub head: RequestHead,
    /// Its body.
    pub body: RequestBody,
    /// The client.
    pub client: ClientAddress,
    /// The address to which the client has connected; `None`: unknown, or not needed.
    pub local: Option<SocketAddr>,
    /// Whether it came over TLS.
    pub secure: bool,
    /// When its head was complete.
    pub received: Instant,
    /// The user name, if the site requires a password (`basic_auth`).
    pub user: Option<Box<str>>,
    /// Fields about the certificate of its client, as they are sent to the application (`client_ca`).
    pub identity: Option<Arc<[u8]>>,
    /// Its id, for logs and the application.
    pub id: RequestId,
}

/// Where a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress {
    /// The other end of the connection: the client itself, or a proxy in front of us.
    pub peer: Peer,
    /// Whether the peer is a proxy whose forwarding fields are trusted (`trusted_proxies`).
    pub trusted: bool,
    /// The client's address as given by such a proxy.
    pub forwarded: Option<IpAddr>,
}

/// The body of a request, without its framing.
#[derive(Debug)]
pub enum RequestBody {
    /// No body.
    Empty,
    /// The whole body in memory, charged to the memory budget.
    Memory(Vec<u8>, Charge),
    /// The whole body in an unlinked temporary file.
    File {
        /// The file; its position does not matter.
        file: File,
        /// Its length in bytes.
        length: u64,
        /// What it uses of the disk budget.
        charge: Share,
    },
    /// Still arriving; passed on as it arrives, so it can be sent once only.
    Stream {
        /// Its length in bytes, if known.
        length: Option<u64>,
    },
}

/// Why a body that is passed on as it arrives failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadError {
    /// It is longer than `limits.body`.
    TooLarge,
    /// Its chunks are malformed.
    Bad(&'static str),
    /// Nothing arrived for too long.
    TimedOut,
    /// It arrived too slowly on average.
    TooSlow,
    /// The client disconnected.
    Gone,
}

impl ClientAddress {
    /// A client without a trusted proxy in between.
    pub const fn direct(peer: Peer) -> Self {
        Self {
            peer,
            trusted: false,
            forwarded: None,
        }
    }

    /// The client's address, or the peer's if it is unknown. A Unix socket has none.
    pub fn ip(&self) -> Option<IpAddr> {
        self.forwarded.or_else(|| self.peer.ip())
    }

    /// Whether the client has sent a request over TLS. Of a connection with a trusted proxy, that is what the proxy says
    /// in X-Forwarded-Proto. `secure`: whether the connection with the peer has TLS.
    pub fn is_https(&self, secure: bool, head: &RequestHead) -> bool {
        // Only the last one is the proxy's own.
        let named = head.headers.get_all("X-Forwarded-Proto").next_back();
        match named.filter(|_| self.trusted) {
            Some(schemes) => {
                let last = schemes.rsplit(|byte| *byte == b',').next();
                let last = last.unwrap_or_default().trim_ascii();
                last.eq_ignore_ascii_case(b"https")
            }
            None => secure,
        }
    }

    /// The address for limits per client. `None`: the trusted proxy has not named the client, so many clients share the
    /// address, or the peer is a Unix socket.
    pub fn own_address(&self) -> Option<IpAddr> {
        match self.trusted {
            true => self.forwarded,
            false => self.peer.ip(),
        }
    }
}

impl Request {
    /// Whether the client has sent it over TLS, to this server or to a trusted proxy.
    pub fn is_https(&self) -> bool {
        self.client.is_https(self.secure, &self.head)
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.forwarded {
            Some(ip) => write!(out, "{ip} through {}", self.peer),
            None => self.peer.fmt(out),
        }
    }
}

impl RequestBody {
    /// Its length in bytes; 0 if unknown.
    pub fn length(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Memory(bytes, _) => bytes.len() as u64,
            Self::File { length, .. } => *length,
            Self::Stream { length } => length.unwrap_or(0),
        }
    }
}

/// A response that swiftiply makes itself.
pub struct Response {
    /// Status and fields.
    pub head: ResponseHead,
    /// The body.
    pub body: Body,
    /// Where the time went.
    pub trace: Trace,
}

impl Response {
    /// Makes the head that is sent the one of the response, so that its fields can be changed.
    pub fn unpack(&mut self) {
        let Body::Stored { stored, ready, .. } = &mut self.body else {
            return;
        };
        if !std::mem::take(ready) {
            return;
        }
        let head = [&stored.head[..], b"\r\n"].concat();
        if let Ok(head) = ResponseHead::parse(&head, &HeadLimits::default()) {
            self.head.headers = head.headers;
        }
    }
}

/// What happened to an exchange, for the access log and for statistics.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// The backend that sent the response, or failed last.
    pub backend: Option<BackendName>,
    /// Where the time went.
    pub timings: Timings,
    /// How often the request went to another backend after one had failed.
    pub retries: u32,
    /// Whether a backend has sent the head of a response.
    pub responded: bool,
    /// Where the response came from.
    pub source: ResponseSource,
    /// Who is the cause if the response is the server's own page for a failure.
    pub failed_by: Option<Party>,
}

/// Where the time of an exchange went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Waiting for a backend.
    pub queue: Duration,
    /// Connecting to a server; zero for backends that dial in and connections that were kept.
    pub connect: Duration,
    /// From having a backend to the head of its response, or until it failed.
    pub first_byte: Duration,
    /// From the complete head of the request to the end of the response; zero until then.
    pub total: Duration,
}

/// Where a response came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResponseSource {
    /// There was no response.
    None,
    /// A page of the server's own.
    #[default]
    Proxy,
    /// A backend.
    Backend,
    /// A file on disk.
    File,
    /// A file that is kept in memory (`file_cache`, `etag_cache`).
    Cache,
}

impl ResponseSource {
    /// The word for logs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Proxy => "proxy",
            Self::Backend => "backend",
            Self::File => "file",
            Self::Cache => "cache",
        }
    }
}

impl Trace {
    /// Of an exchange without a backend so far, which has waited for one for this time.
    pub fn waited(queue: Duration) -> Self {
        Self {
            timings: Timings {
                queue,
                ..Timings::default()
            },
            ..Self::default()
        }
    }

    /// Of an exchange that ended without a response.
    pub fn unanswered(self) -> Self {
        Self {
            source: ResponseSource::None,
            ..self
        }
    }

    /// The backend, for a log message.
    pub fn origin(&self) -> String {
        match &self.backend {
            Some(origin) => origin.to_string(),
            None => "-".to_owned(),
        }
    }
}

/// The name of a backend, for logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendName {
    /// One that dialled in, by its id.
    Dialled(Id),
    /// A server that was connected to, by its address.
    Server(Arc<str>),
}

impl fmt::Display for BackendName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dialled(id) => id.fmt(out),
            Self::Server(address) => address.fmt(out),
        }
    }
}

/// The body of a response.
pub enum Body {
    /// No body. A length that the head declares (for HEAD or 304) is passed on.
    Empty,
    /// The whole body.
    Bytes(Vec<u8>),
    /// A part of a file in memory.
    Stored {
        /// The file.
        stored: Arc<StoredFile>,
        /// Which bytes.
        range: Range<usize>,
        /// [`StoredFile::head`] is sent as the head; that of the response has the status only.
        ready: bool,
    },
    /// Parts of a file on disk.
    File(FileBody),
}

/// A file in memory, shared by many responses.
#[derive(Debug)]
pub struct StoredFile {
    /// Status line and fields of the 200 with the whole file, up to Date.
    pub head: Vec<u8>,
    /// The content of the file.
    pub bytes: Vec<u8>,
    /// What the response says about it.
    pub entity: Entity,
}

/// What the head of a response says about a file.
#[derive(Clone, Debug)]
pub struct Entity {
    /// For conditional requests.
    pub validators: Validators,
    /// Its Content-Type, before any content coding.
    pub content_type: Cow<'static, str>,
    /// Its content coding.
    pub coding: Option<ContentCoding>,
    /// Other clients may get another content coding.
    pub varies: bool,
    /// Byte ranges are supported.
    pub divides: bool,
}

/// Parts of an open file, with text between them.
#[derive(Debug)]
pub struct FileBody {
    /// The file; its position does not matter.
    pub file: File,
    /// What remains to be sent, in order.
    pub pieces: VecDeque<FilePart>,
}

/// A part of a [`FileBody`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilePart {
    /// Text that is not in the file.
    Text(Vec<u8>),
    /// Bytes of the file.
    Range(Range<u64>),
}

impl FileBody {
    /// The number of bytes that remain.
    pub fn length(&self) -> u64 {
        let lengths = self.pieces.iter().map(|piece| match piece {
            FilePart::Text(text) => text.len() as u64,
            FilePart::Range(range) => range.end - range.start,
        });
        lengths.sum()
    }
}
