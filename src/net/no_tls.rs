//! In the place of `tls` in a build without it: the same names, of which nothing can be made.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::{fmt, io};

use super::stream::Stream;

/// There is none.
#[derive(Clone, Debug)]
pub struct Certificate(Infallible);

/// Says that this build knows no TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    /// The file that was not read.
    pub file: PathBuf,
    /// That this build knows no TLS.
    pub why: String,
}

/// Nothing.
#[derive(Clone, Debug)]
pub struct Tickets;

/// There are none.
#[derive(Clone, Debug)]
pub struct Authorities(Infallible);

/// There is none.
#[derive(Clone, Debug)]
pub struct Acceptor(Infallible);

/// There is none.
#[derive(Clone, Debug)]
pub struct Connector(Infallible);

/// By what a server would be known.
#[derive(Clone, Debug)]
pub enum Trust {
    /// There are none.
    Authorities(Authorities),
    /// The SHA-256 of its certificate.
    Fingerprint([u8; 32]),
}

/// There is none.
#[derive(Debug)]
pub struct TlsSession(Infallible);

impl Certificate {
    /// Never succeeds.
    ///
    /// # Errors
    /// Always.
    pub fn load(certfile: &Path, _keyfile: &Path) -> Result<Self, LoadError> {
        Err(without(certfile))
    }
}

impl Authorities {
    /// Never succeeds.
    ///
    /// # Errors
    /// Always.
    pub fn load(file: &Path) -> Result<Self, LoadError> {
        Err(without(file))
    }
}

impl Tickets {
    /// Nothing.
    ///
    /// # Errors
    /// Never.
    pub const fn new() -> io::Result<Self> {
        Ok(Self)
    }
}

impl Acceptor {
    /// Cannot be called, for there is no certificate.
    ///
    /// # Panics
    /// Without a certificate.
    pub fn new(
        certificates: &[Certificate],
        _tickets: &Tickets,
        _authorities: Option<&Authorities>,
    ) -> Self {
        match certificates[0].0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// Never.
    pub fn accept(&self) -> io::Result<TlsSession> {
        match self.0 {}
    }
}

impl Connector {
    /// Never succeeds.
    ///
    /// # Errors
    /// Always.
    pub fn new(_trust: Trust, _own: Option<&Certificate>) -> io::Result<Self> {
        Err(io::Error::other("this swiftiply was built without TLS"))
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// Never.
    pub fn connect(&self, _name: &str) -> io::Result<TlsSession> {
        match self.0 {}
    }
}

impl TlsSession {
    /// Cannot be called.
    pub fn is_handshaking(&self) -> bool {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn may_have_more(&self) -> bool {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// Never.
    pub fn read_now(&mut self, _stream: &Stream, _into: &mut [u8]) -> io::Result<Option<usize>> {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn has_unread(&mut self) -> bool {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// Never.
    pub fn shake_now(&mut self, _stream: &Stream) -> io::Result<bool> {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// Never.
    pub fn write_now(&mut self, _: &Stream, _first: &[u8], _second: &[u8]) -> io::Result<usize> {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// Never.
    pub fn flush_now(&mut self, _stream: &Stream) -> io::Result<bool> {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn cut(&mut self) {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn say_end(&mut self) {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn finish_writing(&mut self, _stream: &Stream) {
        match self.0 {}
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.file.display(), self.why)
    }
}

impl std::error::Error for LoadError {}

fn without(file: &Path) -> LoadError {
    LoadError {
        file: file.to_path_buf(),
        why: "this swiftiply was built without TLS".to_owned(),
    }
}
