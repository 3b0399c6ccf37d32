//! One address of a server that is dialled.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use std::{fmt, io};

use crate::net::stream::Stream;

/// One address of a server.
#[derive(Debug)]
pub(super) struct ServerAddress {
    pub(super) number: u64,
    pub(super) at: DialTarget,
    /// The name in its certificate.
    pub(super) name: String,
    /// The [`generation`](super::running::RunningConfig::generation) of the greeting with which it is dialled.
    pub(super) greeting: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DialTarget {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl ServerAddress {
    pub(super) fn connect(&self, patience: Duration) -> io::Result<Stream> {
        match &self.at {
            DialTarget::Tcp(address) => Stream::connect_to(*address, patience),
            DialTarget::Unix(path) => Stream::connect_unix(path, patience),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        (&self.at, &self.name, self.greeting) == (&other.at, &other.name, other.greeting)
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            DialTarget::Tcp(address) if address.ip().to_string() == self.name => address.fmt(out),
            DialTarget::Tcp(address) => write!(out, "{} ({address})", self.name),
            DialTarget::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}
