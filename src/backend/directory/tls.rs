//! TLS with the servers of a site: what their certificates are verified by, and our own.
//!
//! The files are read when a site begins to use them, and again at a reload and when they have changed. New connections
//! use what was read last.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::config::{Address, ServerConfig, ServerTlsConfig};
use crate::net::conn::Conn;
use crate::net::stream::Stream;
use crate::net::tls::{Authorities, Certificate, Connector, LoadError, Trust};

/// TLS with the servers of a site.
#[derive(Clone, Debug)]
pub struct ServerTls(Arc<ServerTlsState>);

#[derive(Debug)]
struct ServerTlsState {
    config: ServerTlsConfig,
    loaded: RwLock<LoadedServerTls>,
}

/// What was read from the files.
#[derive(Clone, Debug)]
struct LoadedServerTls {
    connector: Connector,
    own: Option<Certificate>,
    /// A hash of the files.
    content: u64,
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// The wrong file, and the reason.
    pub(super) fn load(config: &ServerTlsConfig) -> Result<Self, LoadError> {
        Ok(Self(Arc::new(ServerTlsState {
            config: config.clone(),
            loaded: RwLock::new(LoadedServerTls::read(config)?),
        })))
    }

    /// Whether it is for this configuration.
    pub(super) fn fits(&self, config: &ServerTlsConfig) -> bool {
        self.0.config == *config
    }

    /// Reads the files again. Returns whether they differ; then connections that exist were made by other rules. Files
    /// that cannot be read are logged, and what was read before is kept.
    pub(super) fn read_again(&self, site: &str, log: &str) -> bool {
        let loaded = match LoadedServerTls::read(&self.0.config) {
            Ok(loaded) => loaded,
            Err(error) => {
                log::error!(
                    target: log,
                    "site {site}: server_tls: {error}; keeping what was read before"
                );
                return false;
            }
        };
        let mut current = self.0.loaded.write();
        let differs = current.content != loaded.content;
        if differs {
            *current = loaded;
        }
        differs
    }

    /// Our own certificate with its file, if there is one.
    pub fn own(&self) -> Option<(PathBuf, Certificate)> {
        let own = self.0.loaded.read().own.clone();
        self.0.config.certfile.clone().zip(own)
    }

    /// Starts a handshake with a server.
    ///
    /// # Errors
    /// Those of [`Connector::connect`].
    pub(super) fn dial(&self, stream: Stream, server: &ServerConfig) -> io::Result<Conn> {
        let name = match (&self.0.config.server_name, &server.at) {
            (Some(name), _) => name,
            (None, Address::Tcp { host, .. }) => host,
            // The configuration allows no such server.
            (None, Address::Unix(_)) => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let connector = self.0.loaded.read().connector.clone();
        Conn::dialled(stream, &connector, name)
    }
}

/// Whether both are the same, not only alike.
impl PartialEq for ServerTls {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for ServerTls {}

impl LoadedServerTls {
    fn read(config: &ServerTlsConfig) -> Result<Self, LoadError> {
        // Before the files are read in earnest: should they change meanwhile, they are read once more.
        let mut content = DefaultHasher::new();
        for file in config.files() {
            std::fs::read(file).ok().hash(&mut content);
        }
        let trust = match (&config.ca, config.fingerprint) {
            _ if config.insecure_skip_verify => Trust::Anything,
            (Some(file), _) => Trust::Authorities(Authorities::load(file)?),
            (None, Some(hash)) => Trust::Fingerprint(hash),
            (None, None) => Trust::of_mozilla(),
        };
        let own = match (&config.certfile, &config.keyfile) {
            (Some(certfile), Some(keyfile)) => Some(Certificate::load(certfile, keyfile)?),
            _ => None,
        };
        let connector = Connector::new(trust, own.as_ref()).map_err(|error| LoadError {
            file: config
                .files()
                .next()
                .map(Path::to_owned)
                .unwrap_or_default(),
            why: error.to_string(),
        })?;
        Ok(Self {
            connector: connector.for_http(),
            own,
            content: content.finish(),
        })
    }
}
