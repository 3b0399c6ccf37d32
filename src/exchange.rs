//! One exchange: the request as it was received and the response as it will be sent.
//!
//! These are what the layers hand to each other. A [`Request`] has a head and a body, which was collected before anybody
//! sees it or, where the site wants that, is passed on as it arrives. A [`Response`] is one of our own: it has a head, which may
//! still be changed, and a [`Body`], at hand or a part of a file. The response of a backend is relayed (`relay`).

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::budget::{Charge, Share};
use crate::http::conditional::Validators;
use crate::http::encoding::ContentCoding;
use crate::http::head::{RequestHead, ResponseHead};
use crate::net::stream::Peer;
use crate::preamble::Id;

/// A request of a visitor.
#[derive(Debug)]
pub struct Request {
    /// Its head, without the fields that concern one connection only.
    pub head: RequestHead,
    /// Its body.
    pub body: RequestBody,
    /// Who made it.
    pub client: ClientAddress,
    /// Whether it came over TLS.
    pub secure: bool,
    /// When its head was complete.
    pub received: Instant,
    /// Who the visitor is, where it had to prove that (`basic_auth`).
    pub user: Option<Box<str>>,
}

/// Who made a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress {
    /// The other end of the connection: the client itself, or a proxy in front of us.
    pub peer: Peer,
    /// Whether the peer is a proxy whose forwarding fields are believed (`trusted_proxies`).
    pub trusted: bool,
    /// The address of the client that such a proxy has named.
    pub forwarded: Option<IpAddr>,
}

/// The body of a request, without its framing.
#[derive(Debug)]
pub enum RequestBody {
    /// None.
    Empty,
    /// All of it in memory, where it is charged.
    Memory(Vec<u8>, Charge),
    /// All of it in an unlinked temporary file.
    File {
        /// The file; where it stands does not matter.
        file: File,
        /// Its length in bytes.
        length: u64,
        /// What it takes of the disk.
        charge: Share,
    },
    /// Still on its way; passed on as it arrives, once.
    Stream {
        /// Its length in bytes, if it is known.
        length: Option<u64>,
    },
}

/// Why a body on its way cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadError {
    /// It is longer than `limits.body`.
    TooLarge,
    /// Its chunks break a rule.
    Bad(&'static str),
    /// Nothing of it came for too long.
    TimedOut,
    /// Too little of it came on average.
    TooSlow,
    /// The visitor left.
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

    /// The address of the client; that of the peer where no other is known. A Unix socket has none.
    pub fn ip(&self) -> Option<IpAddr> {
        self.forwarded.or_else(|| self.peer.ip())
    }

    /// The address that stands for this client alone, for limits per client. `None`: the trusted proxy has not named the
    /// client, so the address is that of many, or the peer is a Unix socket.
    pub fn own_address(&self) -> Option<IpAddr> {
        match self.trusted {
            true => self.forwarded,
            false => self.peer.ip(),
        }
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
    /// Its length in bytes; 0 if it is not known.
    pub fn length(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Memory(bytes, _) => bytes.len() as u64,
            Self::File { length, .. } => *length,
            Self::Stream { length } => length.unwrap_or(0),
        }
    }
}

/// What a visitor gets.
pub struct Response {
    /// Status and fields.
    pub head: ResponseHead,
    /// What follows the head.
    pub body: Body,
    /// Where the time went.
    pub trace: Trace,
}

/// Who answered, and how long it took, for the access log.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// The backend that answered or failed last.
    pub backend: Option<BackendName>,
    /// Time spent waiting for a backend.
    pub queued: Duration,
    /// Time from a backend's lease to the head of its answer.
    pub answering: Duration,
}

impl Trace {
    /// The backend, for a log line.
    pub fn origin(&self) -> String {
        match &self.backend {
            Some(origin) => origin.to_string(),
            None => "-".to_owned(),
        }
    }
}

/// A backend, for logs.
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
    /// None. A length that the head declares (of a HEAD or 304) is passed on.
    Empty,
    /// All of it.
    Bytes(Vec<u8>),
    /// A part of a file in memory.
    Stored {
        /// The file.
        stored: Arc<StoredFile>,
        /// Which bytes.
        range: Range<usize>,
        /// The head is [`StoredFile::head`]; that of the response has the status only.
        ready: bool,
    },
    /// Parts of a file on disk.
    File(FileBody),
}

/// A file in memory, as many answers share it.
#[derive(Debug)]
pub struct StoredFile {
    /// Status line and fields of the 200 with all of it, up to Date.
    pub head: Vec<u8>,
    /// The file.
    pub bytes: Vec<u8>,
    /// What is said of it.
    pub entity: Entity,
}

/// What the head of an answer says of a file.
#[derive(Clone, Debug)]
pub struct Entity {
    /// What it is compared with.
    pub validators: Validators,
    /// Its Content-Type: of what is in it, however that is encoded.
    pub content_type: Cow<'static, str>,
    /// How it is encoded.
    pub coding: Option<ContentCoding>,
    /// Others may get it in another encoding.
    pub varies: bool,
    /// Parts of it can be had.
    pub divides: bool,
}

/// Parts of an open file, with text around them.
#[derive(Debug)]
pub struct FileBody {
    /// The file; where it stands does not matter.
    pub file: File,
    /// What is left to be sent, in order.
    pub pieces: VecDeque<FilePart>,
}

/// A part of a [`FileBody`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilePart {
    /// Bytes of ours.
    Text(Vec<u8>),
    /// Bytes of the file.
    Range(Range<u64>),
}

impl FileBody {
    /// Bytes that are left.
    pub fn length(&self) -> u64 {
        let lengths = self.pieces.iter().map(|piece| match piece {
            FilePart::Text(text) => text.len() as u64,
            FilePart::Range(range) => range.end - range.start,
        });
        lengths.sum()
    }
}
