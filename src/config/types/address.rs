//! Addresses and networks as the configuration names them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Serialize, Serializer};

/// An address as written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// A TCP port on a host name or literal IPv4 or IPv6 address (without brackets).
    Tcp {
        /// Host name or literal address.
        host: String,
        /// Port, 0 for any free one.
        port: u16,
        /// Implied rather than written (`::` beside `0.0.0.0` when only a port is given): skipped where the system has
        /// no IPv6.
        implied: bool,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

/// An address range in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Any address in it.
    pub address: IpAddr,
    /// The number of leading bits that are compared.
    pub prefix: u8,
}

/// The form in `outgoing`: `127.0.0.1:80`, `[::1]:80`, `unix:/path`.
impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } if host.parse::<Ipv6Addr>().is_ok() => {
                write!(formatter, "[{host}]:{port}")
            }
            Self::Tcp { host, port, .. } => write!(formatter, "{host}:{port}"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(&format_args!("{}/{}", self.address, self.prefix))
    }
}
