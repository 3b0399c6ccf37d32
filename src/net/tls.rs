//! TLS with rustls: the choice of certificates, the verification of peers, and the TLS state of a connection.
//!
//! Nothing here waits. A handshake continues whenever bytes arrive, like reading the head of a request, so the session
//! parks in between.
//!
//! Only this module uses `rustls`: [`certificate`] reads certificates and keys, [`sites`] has those of sites by name,
//! [`acceptor`] decides by the first message of a client what is presented to it and asked of it, [`verify`] verifies
//! servers in other ways than by authorities, [`fault`] says what is wrong with a server; [`on_demand`] has names whose
//! certificate is waited for. Without the cargo feature `tls`,
//! `no_tls` replaces it.

mod acceptor;
mod certificate;
mod fault;
mod on_demand;
mod sites;
mod tickets;
mod verify;

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConnection};

pub use acceptor::Acceptor;
use acceptor::{Choosing, Chosen, VALIDATION};
pub use certificate::{Authorities, Certificate, LoadError, PemFault, sha256};
use fault::TlsFault;
pub use fault::rejection;
pub use on_demand::{NameQueue, OnDemandNames};
pub use sites::{SiteCertificates, is_address};
pub use tickets::Tickets;
use tickets::TlsClock;
use verify::Unchained;

use super::stream::Stream;
use crate::net::client_auth::ClientAuth;

/// The configuration for connecting with TLS.
#[derive(Clone, Debug)]
pub struct Connector(Arc<ClientConfig>);

/// How a server is verified.
#[derive(Clone, Debug)]
pub enum Trust {
    /// By its name and one of these authorities.
    Authorities(Authorities),
    /// By the SHA-256 of its certificate alone.
    Fingerprint([u8; 32]),
    /// Not at all.
    Anything,
}

/// The TLS state of a connection.
#[derive(Debug)]
pub struct TlsSession {
    connection: Connection,
    /// Nothing was received yet.
    fresh: bool,
    /// The last read from the socket filled its buffer, so there may be more.
    more: bool,
    /// The output was cut short, so the end of the connection must not look regular (RFC 8446 6.1).
    cut: bool,
    /// An authority has validated a name with this connection, which has served its purpose (RFC 8737 3).
    validated: bool,
    /// Reads the first message of a client, by which the configuration of `connection` is chosen.
    choosing: Option<Box<Choosing>>,
    /// How the client had to identify itself.
    client_auth: Option<Arc<ClientAuth>>,
}

impl Acceptor {
    /// Starts a handshake.
    ///
    /// # Errors
    /// Those of the library; no client is known to be able to cause one.
    pub fn accept(&self) -> io::Result<TlsSession> {
        let (_, has_others) = self.usual();
        self.begin(has_others)
    }

    /// Starts a handshake in which the first message of the client may decide about everything.
    ///
    /// # Errors
    /// Those of [`Acceptor::accept`].
    pub fn accept_later(&self) -> io::Result<TlsSession> {
        self.begin(true)
    }

    fn begin(&self, is_chosen: bool) -> io::Result<TlsSession> {
        let (usual, _) = self.usual();
        let mut connection = ServerConnection::new(Arc::clone(usual)).map_err(io::Error::other)?;
        connection.set_buffer_limit(Some(MOST_BUFFERED));
        Ok(TlsSession {
            connection: connection.into(),
            fresh: true,
            more: false,
            cut: false,
            validated: false,
            choosing: is_chosen.then(|| Box::new(Choosing::new(self))),
            client_auth: None,
        })
    }
}

impl Trust {
    /// By its name and one of the authorities that Mozilla trusts.
    pub fn of_mozilla() -> Self {
        let roots = webpki_roots::TLS_SERVER_ROOTS.iter().cloned();
        Self::Authorities(Authorities::of(roots.collect()))
    }
}

impl Connector {
    /// For servers that `trust` verifies; `own` is our certificate for servers that ask for one.
    ///
    /// # Errors
    /// None is known.
    pub fn new(trust: Trust, own: Option<&Certificate>) -> io::Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match trust {
            Trust::Authorities(Authorities { roots, .. }) => {
                WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
                    .build()
                    .map_err(io::Error::other)?
            }
            Trust::Fingerprint(expected) => Arc::new(Unchained {
                expected: Some(expected),
                provider: Arc::clone(&provider),
            }),
            Trust::Anything => Arc::new(Unchained {
                expected: None,
                provider: Arc::clone(&provider),
            }),
        };
        let builder =
            ClientConfig::builder_with_details(provider, Arc::new(TlsClock(SystemTime::now)))
                .with_safe_default_protocol_versions()
                .map_err(io::Error::other)?
                .dangerous()
                .with_custom_certificate_verifier(verifier);
        Ok(Self(Arc::new(match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = SingleCertAndKey::from(Arc::clone(&own.key));
                builder.with_client_cert_resolver(Arc::new(key))
            }
        })))
    }

    /// The same, for servers that speak HTTP/1.1, which they may be asked for (ALPN, RFC 7301).
    #[must_use]
    pub fn for_http(self) -> Self {
        let mut config = Arc::unwrap_or_clone(self.0);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self(Arc::new(config))
    }

    /// Starts a handshake with a server of this name, which may be an address.
    ///
    /// # Errors
    /// `InvalidInput` for an invalid name.
    pub fn connect(&self, name: &str) -> io::Result<TlsSession> {
        let wrong = |_| io::Error::new(ErrorKind::InvalidInput, "not a name for a certificate");
        let name = ServerName::try_from(name.to_owned()).map_err(wrong)?;
        let mut connection =
            ClientConnection::new(Arc::clone(&self.0), name).map_err(io::Error::other)?;
        connection.set_buffer_limit(Some(MOST_BUFFERED));
        Ok(TlsSession {
            connection: connection.into(),
            fresh: false,
            more: false,
            cut: false,
            validated: false,
            choosing: None,
            client_auth: None,
        })
    }
}

impl TlsSession {
    /// Whether the handshake is incomplete.
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Whether the handshake waits for a certificate that is being obtained. No event reports that it is there.
    pub fn is_waiting(&self) -> bool {
        let choosing = self.choosing.as_ref();
        choosing.is_some_and(|choosing| choosing.is_waiting())
    }

    /// Whether there may be more to read without a further event.
    pub fn may_have_more(&self) -> bool {
        self.more
    }

    /// Reads available bytes and continues the handshake. `None`: nothing yet. 0 is the end.
    ///
    /// # Errors
    /// `InvalidData` for invalid TLS, [`ErrorKind::Unsupported`] for plain text, and those of `recv(2)` and `send(2)`.
    pub fn read_now(&mut self, stream: &Stream, into: &mut [u8]) -> io::Result<Option<usize>> {
        if self.fresh {
            let mut first = [0];
            match stream.peek_now(&mut first)? {
                None => return Ok(None),
                // A record starts with 20 to 23 (RFC 8446 5.1), HTTP and a preamble start with a letter.
                Some(1) if first[0].is_ascii_alphabetic() => {
                    return Err(ErrorKind::Unsupported.into());
                }
                Some(_) => self.fresh = false,
            }
        }
        loop {
            match self.connection.reader().read(into) {
                Ok(count) => {
                    self.more |= count == into.len();
                    return Ok(Some(count));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // The peer has closed without close_notify. HTTP can tell from its lengths whether the message is
                // complete.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(Some(0)),
                Err(error) => return Err(error),
            }
            if self.validated {
                return Ok(Some(0));
            }
            if self.receive(stream)?.is_none() {
                return Ok(None);
            }
        }
    }

    /// Whether there are decrypted bytes that were not read.
    pub fn has_unread(&mut self) -> bool {
        let state = self.connection.process_new_packets();
        state.is_ok_and(|state| state.plaintext_bytes_to_read() > 0)
    }

    /// Continues a handshake without waiting. Returns whether it is complete.
    ///
    /// # Errors
    /// `UnexpectedEof` if the peer closes the connection, and those of [`TlsSession::read_now`].
    pub fn shake_now(&mut self, stream: &Stream) -> io::Result<bool> {
        self.flush_now(stream)?;
        while self.connection.is_handshaking() {
            match self.receive(stream)? {
                None => return Ok(false),
                Some(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Some(_) => {}
            }
        }
        Ok(true)
    }

    /// Answers only an authority that validates a name; any other client is disconnected after its first message.
    /// Only for a session that was begun by [`Acceptor::accept_later`], and has received nothing.
    pub fn only_validations(&mut self) {
        if let Some(choosing) = &mut self.choosing {
            choosing.only_validations = true;
        }
    }

    /// How the client had to identify itself, and its certificate in DER, if it has presented one that was verified.
    pub fn client_certificate(&self) -> Option<(&ClientAuth, Option<&[u8]>)> {
        let auth = self.client_auth.as_deref()?;
        let chain = self.connection.peer_certificates();
        Some((auth, chain.and_then(|chain| Some(chain.first()?.as_ref()))))
    }

    /// Verifies the certificate of a client again, by the present authorities.
    ///
    /// # Errors
    /// Why it is not valid.
    pub fn verify_client(&self, acceptor: &Acceptor) -> Result<(), String> {
        acceptor.verify(self.connection.peer_certificates().unwrap_or_default())
    }

    /// Receives records, and responds to those of the handshake. `None`: there are none. 0 is the end.
    fn receive(&mut self, stream: &Stream) -> io::Result<Option<usize>> {
        let mut socket = TlsSocket {
            stream,
            full: false,
        };
        let received = match &mut self.choosing {
            None => self.connection.read_tls(&mut socket),
            // What may follow the first message stays in the socket.
            Some(choosing) if choosing.is_waiting() && stream.is_ended() => Ok(0),
            Some(choosing) if choosing.is_waiting() => Ok(1),
            Some(choosing) => choosing.read(&mut socket),
        };
        let count = match received {
            Ok(0) if self.choosing.is_some() => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.more = false;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        self.more = socket.full;
        if let Some(choosing) = &mut self.choosing {
            let Some(chosen) = choosing.choose(&mut socket)? else {
                return Ok(Some(count).filter(|_| !choosing.is_waiting()));
            };
            let Chosen {
                mut connection,
                auth,
            } = chosen;
            connection.set_buffer_limit(Some(MOST_BUFFERED));
            self.connection = connection.into();
            self.client_auth = auth;
            self.choosing = None;
        }
        let state = self.connection.process_new_packets();
        // Handshake messages and alerts.
        let flushed = self.flush_now(stream);
        if let Err(error) = state {
            return Err(match &self.connection {
                Connection::Client(_) => io::Error::new(ErrorKind::InvalidData, TlsFault(error)),
                Connection::Server(_) => io::Error::new(ErrorKind::InvalidData, error),
            });
        }
        flushed?;
        self.validated = self.connection.alpn_protocol() == Some(VALIDATION)
            && !self.connection.is_handshaking();
        Ok(Some(count))
    }

    /// Writes two pieces; returns how many bytes were accepted, 0 if there is no room.
    ///
    /// # Errors
    /// Those of `send(2)`.
    pub fn write_now(&mut self, stream: &Stream, first: &[u8], second: &[u8]) -> io::Result<usize> {
        if !self.flush_now(stream)? {
            return Ok(0);
        }
        let pieces = [IoSlice::new(first), IoSlice::new(second)];
        let count = self.connection.writer().write_vectored(&pieces)?;
        self.flush_now(stream)?;
        Ok(count)
    }

    /// Whether all accepted bytes have reached the socket; writes without waiting.
    ///
    /// # Errors
    /// Those of `send(2)`.
    pub fn flush_now(&mut self, stream: &Stream) -> io::Result<bool> {
        while self.connection.wants_write() {
            let mut socket = TlsSocket {
                stream,
                full: false,
            };
            match self.connection.write_tls(&mut socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Makes the end look like a failure of the connection.
    pub const fn cut(&mut self) {
        self.cut = true;
    }

    /// Queues a close_notify.
    pub fn say_end(&mut self) {
        if !self.cut && !self.connection.is_handshaking() {
            self.cut = true;
            self.connection.send_close_notify();
        }
    }

    /// Sends a close_notify.
    pub fn finish_writing(&mut self, stream: &Stream) {
        if self.cut || self.connection.is_handshaking() {
            return;
        }
        self.say_end();
        // A peer that does not accept it loses nothing.
        let _ = self.flush_now(stream);
    }
}

/// A socket with the interface that the library needs.
struct TlsSocket<'a> {
    stream: &'a Stream,
    /// A read has filled its buffer.
    full: bool,
}

impl Read for TlsSocket<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read_now(into)?;
        let count = count.ok_or(ErrorKind::WouldBlock)?;
        // The end is reported once only, so read again after it.
        self.full = count == into.len() || count == 0;
        Ok(count)
    }
}

impl Write for TlsSocket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.stream.write_now(bytes)? {
            0 => Err(ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.stream.write_pieces_now(pieces)? {
            0 => Err(ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Most bytes that the library may hold for a client that does not read; a few records.
const MOST_BUFFERED: usize = 64 * 1024;
