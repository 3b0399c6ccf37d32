//! Dialling a server: the greeting, and the pauses between attempts.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant};
use std::{error, fmt, io};

use crate::config::access::{Ssl, TrustConfig};
use crate::net::buffer::Buffer;
use crate::net::conn::Conn;
use crate::net::stream::Stream;
use crate::net::tls::{Authorities, Certificate, Connector, LoadError, Trust};
use crate::preamble::{self, InvalidName, LineReading, Name, ServerLine};
use crate::process;

/// What is sent when a server is dialled: the preamble, over TLS if needed.
#[derive(Clone, Debug)]
pub(crate) struct Greeting {
    identity: Identity,
    key: Vec<u8>,
    tls: Option<Connector>,
}

/// How long to wait before a failed attempt is repeated: three times briefly, then twice as long each time, up to a
/// limit. Each pause is a little random, so that attempts that failed together do not repeat together.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    failures: u32,
    longest: Duration,
}

/// A key of more than 255 bytes, which the protocol does not allow.
#[derive(Debug)]
#[non_exhaustive]
pub struct KeyTooLong;

/// Why TLS with servers cannot be used.
#[derive(Debug)]
#[non_exhaustive]
pub enum TlsError {
    /// A certificate, a key or authorities could not be loaded.
    Certificate(LoadError),
    /// The system refused something, or the library was built without TLS.
    System(io::Error),
}

/// How the server is to call this program.
#[derive(Clone, Debug)]
enum Identity {
    /// These bytes, of any meaning.
    Id([u8; preamble::ID]),
    Name(Name),
    /// The address from which the server is dialled.
    Address,
}

/// The host name as the name, or the address if that says nothing; no key, no TLS.
impl Default for Greeting {
    fn default() -> Self {
        let host = process::host_name().filter(|host| host != "localhost");
        let name = host.and_then(|host| Name::new(&host).ok());
        Self {
            identity: name.map_or(Identity::Address, Identity::Name),
            key: Vec::new(),
            tls: None,
        }
    }
}

/// The result of [`Greeting::take_line`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TakenLine {
    /// A line, which was taken out.
    Line(ServerLine),
    /// More of it has to arrive.
    Partial,
    /// What has arrived is a request, or nothing.
    Nothing,
}

impl Greeting {
    /// Sets the name by which logs, lists and commands of the server call this machine or program. Several connections
    /// and programs may have the same one.
    ///
    /// # Errors
    /// See [`Name::new`].
    pub(crate) fn name(mut self, name: &str) -> Result<Self, InvalidName> {
        self.identity = Identity::Name(Name::new(name)?);
        Ok(self)
    }

    /// Sets an id in place of a name. It need not be unique.
    #[must_use]
    pub(crate) fn id(mut self, id: [u8; preamble::ID]) -> Self {
        self.identity = Identity::Id(id);
        self
    }

    /// Sets the key that the site requires.
    ///
    /// # Errors
    /// If it has more than 255 bytes.
    pub(crate) fn key(mut self, key: &str) -> Result<Self, KeyTooLong> {
        if preamble::write(&[b'0'; preamble::ID], key.as_bytes()).is_err() {
            return Err(KeyTooLong);
        }
        self.key = key.as_bytes().to_owned();
        Ok(self)
    }

    /// Uses TLS.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub(crate) fn tls(mut self, ssl: &Ssl) -> Result<Self, TlsError> {
        let trust = match &ssl.trust {
            TrustConfig::Authorities(file) => Trust::Authorities(Authorities::load(file)?),
            TrustConfig::Fingerprint(hash) => Trust::Fingerprint(*hash),
        };
        let own = ssl.own.as_ref();
        let own = own.map(|(certfile, keyfile)| Certificate::load(certfile, keyfile));
        let connector = Connector::new(trust, own.transpose()?.as_ref());
        self.tls = Some(connector.map_err(TlsError::System)?);
        Ok(self)
    }

    /// Does the TLS handshake, if there is one, with a server of this name, for ten seconds at most, and sends the
    /// preamble. From then on the system closes the connection when the server has accepted no data, or was silent to
    /// probes, for a minute.
    ///
    /// # Errors
    /// Those of [`Conn::shake_hands`], and of the system.
    pub(crate) fn send(&self, stream: Stream, name: &str) -> io::Result<Conn> {
        stream.send_at_once();
        stream.watch_peer();
        stream.give_up_after(IO_TIMEOUT);
        let mut conn = match &self.tls {
            None => Conn::plain(stream),
            Some(connector) => Conn::dialled(stream, connector, name)?,
        };
        conn.shake_hands(Instant::now() + HANDSHAKE_TIMEOUT)?;
        let id = match &self.identity {
            Identity::Id(id) => *id,
            Identity::Name(_) | Identity::Address => self.name_of(conn.stream()).id(),
        };
        let preamble = preamble::write(&id, &self.key)
            .map_err(|_| io::Error::other("the key has more than 255 bytes"))?;
        conn.write_both(&preamble, &[], IO_TIMEOUT)?;
        Ok(conn)
    }

    /// Takes a [`ServerLine`] out of what the server has sent, and waits for the rest of it. A question for the name is
    /// answered here. `None`: it is a request.
    ///
    /// # Errors
    /// `InvalidData`: it is neither; `UnexpectedEof`: the connection ends within it; and those of the system.
    pub(crate) fn read_line(
        &self,
        conn: &mut Conn,
        input: &mut Buffer,
    ) -> io::Result<Option<ServerLine>> {
        loop {
            match self.take_line(conn, input)? {
                TakenLine::Line(line) => return Ok(Some(line)),
                TakenLine::Nothing => return Ok(None),
                TakenLine::Partial => {}
            }
            conn.set_read_timeout(IO_TIMEOUT)?;
            if input.fill(conn)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Takes a [`ServerLine`] out of what the server has sent. Reads nothing. A question for the name is answered here.
    ///
    /// # Errors
    /// `InvalidData`: it is neither such a line nor a request; and those of the system.
    pub(crate) fn take_line(&self, conn: &mut Conn, input: &mut Buffer) -> io::Result<TakenLine> {
        if !ServerLine::begins(input.data()) {
            return Ok(TakenLine::Nothing);
        }
        match ServerLine::read(input.data()) {
            LineReading::Complete(line, length) => {
                input.consume(length);
                if line == ServerLine::AskName {
                    let name = self.name_of(conn.stream());
                    conn.write_both(name.as_str().as_bytes(), b"\n", IO_TIMEOUT)?;
                }
                Ok(TakenLine::Line(line))
            }
            LineReading::Partial => Ok(TakenLine::Partial),
            LineReading::Other => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// The name that the server of this connection is to use.
    fn name_of(&self, stream: &Stream) -> Name {
        let text = match &self.identity {
            Identity::Name(name) => return name.clone(),
            Identity::Id(_) => None,
            Identity::Address => stream.local(),
        };
        let text = text.map(|address| address.ip().to_canonical().to_string());
        // Through a Unix socket, it is this machine.
        let name = text.and_then(|text| Name::new(&text).ok());
        name.unwrap_or_else(|| Name::new("localhost").expect("letters"))
    }
}

impl Backoff {
    /// Nothing has failed yet. No pause is longer than this.
    pub(crate) const fn new(longest: Duration) -> Self {
        Self {
            failures: 0,
            longest,
        }
    }

    /// An attempt has succeeded.
    pub(crate) const fn reset(&mut self) {
        self.failures = 0;
    }

    /// Another attempt has failed: how long to wait now.
    pub(crate) fn pause(&mut self) -> Duration {
        let doublings = self.failures.saturating_sub(QUICK_RETRIES - 1).min(16);
        self.failures = self.failures.saturating_add(1);
        let pause = (FIRST_PAUSE * (1 << doublings)).min(self.longest);
        // Between three quarters of it and all of it. The keys of a new hasher are random enough.
        let random = RandomState::new().build_hasher().finish() % 256;
        pause * 3 / 4 + pause * u32::try_from(random).unwrap_or(0) / 1024
    }
}

impl fmt::Display for KeyTooLong {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("the key has more than 255 bytes")
    }
}

impl error::Error for KeyTooLong {}

impl fmt::Display for TlsError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(error) => error.fmt(out),
            Self::System(error) => error.fmt(out),
        }
    }
}

impl error::Error for TlsError {}

impl From<LoadError> for TlsError {
    fn from(error: LoadError) -> Self {
        Self::Certificate(error)
    }
}

/// Advice for when a server answers a preamble with a response.
pub(crate) const MISDIALLED: &str =
    "this is its port for clients; dial the outgoing address of a site";
/// How long the server may send nothing within a request, or accept nothing of a response.
pub(super) const IO_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The number of brief pauses.
const QUICK_RETRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

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
            .map(|_| Backoff::new(Duration::from_secs(5)).pause())
            .collect();
        assert!(pauses.iter().any(|pause| *pause != pauses[0]), "{pauses:?}");
    }
}
