//! Replaces `tls` in a build without it: the same names, but every load fails.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use super::client_auth::{ClientAuth, ClientAuthNames};
use super::stream::Stream;
use crate::x509::CertificateFacts;

/// A certificate; never exists.
#[derive(Clone, Debug)]
pub struct Certificate(Infallible);

/// The error that this build has no TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadError {
    /// The file that was not read.
    pub file: PathBuf,
    /// The reason.
    pub why: String,
}

/// Certificates of sites: none.
#[derive(Debug, Default)]
pub struct SiteCertificates;

/// Keys of session tickets: nothing here.
#[derive(Clone, Debug)]
pub struct Tickets;

/// Authorities; never exist.
#[derive(Clone, Debug)]
pub struct Authorities(Infallible);

/// An acceptor; never exists.
#[derive(Clone, Debug)]
pub struct Acceptor(Infallible);

/// A connector; never exists.
#[derive(Clone, Debug)]
pub struct Connector(Infallible);

/// How a server is verified.
#[derive(Clone, Debug)]
pub enum Trust {
    /// By authorities; never exist.
    Authorities(Authorities),
    /// By the SHA-256 of its certificate.
    Fingerprint([u8; 32]),
    /// Not at all.
    Anything,
}

impl Trust {
    /// In place of the authorities that Mozilla trusts.
    pub const fn of_mozilla() -> Self {
        Self::Anything
    }
}

/// What a server says against us: nothing.
pub const fn rejection(_error: &io::Error) -> Option<&'static str> {
    None
}

/// A TLS session; never exists.
#[derive(Debug)]
pub struct TlsSession(Infallible);

impl Certificate {
    /// Fails.
    ///
    /// # Errors
    /// Always.
    pub fn load(certfile: &Path, _keyfile: &Path) -> Result<Self, LoadError> {
        Err(without(certfile))
    }

    /// Cannot be called.
    #[must_use]
    pub fn with_ocsp(&self, _response: Vec<u8>) -> Self {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn names(&self) -> &[String] {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn covers(&self, _name: &str) -> bool {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn facts(&self) -> &CertificateFacts {
        match self.0 {}
    }
}

impl SiteCertificates {
    /// Takes no certificates, since there are none.
    pub fn set(
        &self,
        _certificates: Vec<(String, Certificate)>,
        _first: String,
        _fallback: Option<Certificate>,
    ) {
    }

    /// Takes no certificate, since there is none.
    pub fn replace(&self, _name: &str, _certificate: &Certificate) {}
}

impl Authorities {
    /// Fails.
    ///
    /// # Errors
    /// Always.
    pub fn load(file: &Path) -> Result<Self, LoadError> {
        Err(without(file))
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    pub fn with_revoked(self, _file: &Path) -> Result<Self, LoadError> {
        match self.0 {}
    }
}

impl Tickets {
    /// Keys of session tickets: nothing here.
    ///
    /// # Errors
    /// None.
    pub const fn new() -> io::Result<Self> {
        Ok(Self)
    }
}

impl Acceptor {
    /// Cannot be called.
    pub fn authorities(&self) -> Option<[u8; 32]> {
        match self.0 {}
    }

    /// Cannot be called, since there is no certificate.
    ///
    /// # Errors
    /// None.
    ///
    /// # Panics
    /// Without a certificate.
    pub fn new(
        certificates: &[Certificate],
        _sites: Option<&Arc<SiteCertificates>>,
        _tickets: &Tickets,
        _authorities: Option<&Authorities>,
        _clients: &ClientAuthNames<Authorities>,
    ) -> io::Result<Self> {
        match certificates[0].0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    pub fn accept_later(&self) -> io::Result<TlsSession> {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    pub fn accept(&self) -> io::Result<TlsSession> {
        match self.0 {}
    }
}

impl Connector {
    /// Fails.
    ///
    /// # Errors
    /// Always.
    pub fn new(_trust: Trust, _own: Option<&Certificate>) -> io::Result<Self> {
        Err(io::Error::other("this swiftiply was built without TLS"))
    }

    /// Cannot be called.
    #[must_use]
    pub fn for_http(self) -> Self {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    pub fn connect(&self, _name: &str) -> io::Result<TlsSession> {
        match self.0 {}
    }
}

impl TlsSession {
    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    pub fn verify_client(&self, _acceptor: &Acceptor) -> Result<(), String> {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn only_validations(&mut self) {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn client_certificate(&self) -> Option<(&ClientAuth, Option<&[u8]>)> {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn is_handshaking(&self) -> bool {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn is_waiting(&self) -> bool {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn may_have_more(&self) -> bool {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// None.
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
    /// None.
    pub fn shake_now(&mut self, _stream: &Stream) -> io::Result<bool> {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    pub fn write_now(&mut self, _: &Stream, _first: &[u8], _second: &[u8]) -> io::Result<usize> {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// None.
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

/// Whether a name is a literal address, which a client does not send as a name.
pub fn is_address(_name: &str) -> bool {
    false
}

/// Never called: there are no certificates.
pub fn sha256(_bytes: &[u8]) -> [u8; 32] {
    [0; 32]
}
