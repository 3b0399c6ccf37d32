//! A configuration in use: with the certificates and keys that it names, loaded.

use std::{fmt, io};

use crate::client::Greeting;
use crate::config;
use crate::config::access::TrustConfig;
use crate::net::tls::{self, Authorities, Certificate, Connector, LoadError};

/// Why an access proxy did not start, or rejected a new configuration.
#[derive(Debug)]
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
        if let Some(ssl) = &config.ssl {
            let trust = match &ssl.trust {
                TrustConfig::Authorities(file) => tls::Trust::Authorities(Authorities::load(file)?),
                TrustConfig::Fingerprint(hash) => tls::Trust::Fingerprint(*hash),
            };
            let own = ssl
                .own
                .as_ref()
                .map(|(certfile, keyfile)| Certificate::load(certfile, keyfile))
                .transpose()?;
            greeting = greeting.tls(Connector::new(trust, own.as_ref())?);
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

impl From<LoadError> for StartError {
    fn from(error: LoadError) -> Self {
        Self::Certificate(error)
    }
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}
