//! A configuration in use: with the certificates and keys that it names, loaded.

use std::{fmt, io};

use crate::client::{Greeting, TlsError};
use crate::config;
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
        })
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
