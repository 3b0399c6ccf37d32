//! Dialling a server: the greeting, and the pauses between attempts.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant};
use std::{error, fmt, io};

use crate::config::access::{Ssl, TrustConfig};
use crate::net::conn::Conn;
use crate::net::stream::Stream;
use crate::net::tls::{Authorities, Certificate, Connector, LoadError, Trust};
use crate::preamble;

/// What is sent when a server is dialled: the preamble, over TLS if needed.
#[derive(Clone, Debug)]
pub(crate) struct Greeting {
    id: [u8; preamble::ID],
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

/// An id made from the process id, no key, no TLS.
impl Default for Greeting {
    fn default() -> Self {
        let mut id = [b'0'; preamble::ID];
        // The reference client's id: eight digits of its address, four of its process id.
        let digits = format!("7f000001{:04x}", std::process::id() & 0xffff);
        id.copy_from_slice(digits.as_bytes());
        Self {
            id,
            key: Vec::new(),
            tls: None,
        }
    }
}

impl Greeting {
    /// Sets the id, which appears in logs and need not be unique.
    #[must_use]
    pub(crate) const fn id(mut self, id: [u8; preamble::ID]) -> Self {
        self.id = id;
        self
    }

    /// Sets the key that the site requires.
    ///
    /// # Errors
    /// If it has more than 255 bytes.
    pub(crate) fn key(mut self, key: &str) -> Result<Self, KeyTooLong> {
        if preamble::write(&self.id, key.as_bytes()).is_err() {
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
        let preamble = preamble::write(&self.id, &self.key)
            .map_err(|_| io::Error::other("the key has more than 255 bytes"))?;
        conn.write_both(&preamble, &[], IO_TIMEOUT)?;
        Ok(conn)
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
