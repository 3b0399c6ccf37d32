//! A configuration in use: with the certificates and keys that it names, loaded.

use std::net::{SocketAddr, ToSocketAddrs};
use std::{fmt, io};

use parking_lot::RwLock;

use crate::client::{Greeting, TlsError};
use crate::config;
use crate::config::Address;
use crate::net::tls::LoadError;

/// Why an access proxy did not start, or rejected a new configuration.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// A certificate, a key or authorities could not be loaded.
    Certificate(LoadError),
    /// The system refused something.
    System(io::Error),
}

/// A configuration in use.
#[derive(Debug)]
pub(super) struct RunningConfig {
    pub(super) config: config::access::AccessConfig,
    pub(super) greeting: Greeting,
    /// Changes when a server has to be dialled with another greeting.
    pub(super) generation: u64,
    /// The addresses of the application, as they were last looked up.
    found: RwLock<Option<Vec<SocketAddr>>>,
}

impl RunningConfig {
    pub(super) fn new(config: config::access::AccessConfig) -> Result<Self, StartError> {
        let mut greeting = Greeting::default();
        if let Ok(with_key) = greeting.clone().key(&config.key) {
            // The configuration has checked the length.
            greeting = with_key;
        }
        if let Some(name) = &config.name
            && let Ok(named) = greeting.clone().name(name)
        {
            // The configuration has checked it as well.
            greeting = named;
        }
        if let Some(ssl) = &config.ssl {
            greeting = greeting.tls(ssl)?;
        }
        Ok(Self {
            config,
            greeting,
            generation: 0,
            found: RwLock::default(),
        })
    }

    /// Looks up the addresses of the application, if it has a host name. Blocks.
    ///
    /// # Errors
    /// The look-up failed. The addresses that were found before stay.
    pub(super) fn look_up(&self) -> io::Result<()> {
        if let Address::Tcp { host, port, .. } = &self.config.to {
            let found = (host.as_str(), *port).to_socket_addrs()?.collect();
            *self.found.write() = Some(found);
        }
        Ok(())
    }

    /// The addresses of the application, as they were last looked up; looks them up if they never were.
    ///
    /// # Errors
    /// That look-up failed.
    pub(super) fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let found = self.found.read().clone();
        match found {
            Some(found) => Ok(found),
            None => {
                self.look_up()?;
                Ok(self.found.read().clone().unwrap_or_default())
            }
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(error) => write!(out, "ssl: {error}"),
            Self::System(error) => error.fmt(out),
        }
    }
}

impl std::error::Error for StartError {}

impl From<TlsError> for StartError {
    fn from(error: TlsError) -> Self {
        match error {
            TlsError::Certificate(error) => Self::Certificate(error),
            TlsError::System(error) => Self::System(error),
        }
    }
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}
