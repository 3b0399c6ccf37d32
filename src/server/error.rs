//! Why a server does not start.

use std::{fmt, io};

use crate::config::Problems;
use crate::content::watched::FileError;
use crate::logging::OpenError;
use crate::net::listener::BindError;
use crate::net::tls::LoadError;

/// Why a server did not start, or did not take a new configuration.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// A value that a program has set is not allowed, or values contradict each other.
    Config(Problems),
    /// An address could not be bound.
    Bind(BindError),
    /// An access log could not be opened.
    Log(OpenError),
    /// A file with passwords or a page could not be read.
    File(FileError),
    /// A certificate or its key could not be loaded.
    Certificate(LoadError),
    /// The certificate of a dial-in address, or the authorities for its peers, could not be loaded.
    DialInCertificate(LoadError),
    /// A file for TLS with servers could not be loaded.
    ServerTls(LoadError),
    /// A Unix socket is configured with a user or a group that does not exist.
    SocketFile(String),
    /// The same for the status address.
    StatusFile(String),
    /// A file or directory for certificates cannot be used.
    State(String),
    /// The system refused something else.
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(problems) => problems.fmt(out),
            Self::Bind(error) => error.fmt(out),
            Self::Log(error) => error.fmt(out),
            Self::File(error) => error.fmt(out),
            Self::Certificate(error) => write!(out, "ssl: {error}"),
            Self::DialInCertificate(error) => write!(out, "outgoing_ssl: {error}"),
            Self::ServerTls(error) => write!(out, "server_tls: {error}"),
            Self::SocketFile(error) => write!(out, "outgoing: {error}"),
            Self::StatusFile(error) => write!(out, "status.at {error}"),
            Self::State(error) => write!(out, "state_directory: {error}"),
            Self::System(error) => error.fmt(out),
        }
    }
}

impl std::error::Error for StartError {}

impl From<Problems> for StartError {
    fn from(problems: Problems) -> Self {
        Self::Config(problems)
    }
}

impl From<BindError> for StartError {
    fn from(error: BindError) -> Self {
        Self::Bind(error)
    }
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        Self::Log(error)
    }
}

impl From<FileError> for StartError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

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
