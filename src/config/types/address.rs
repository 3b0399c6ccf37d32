//! Addresses and networks as the configuration names them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Serialize, Serializer};

/// An address as written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// A TCP port on a host name or literal IPv4 or IPv6 address (without brackets); see [`Address::tcp`].
    #[non_exhaustive]
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
    /// Any address in it. An IPv4 network is not written as one of IPv6.
    pub address: IpAddr,
    /// The number of leading bits that are compared.
    pub prefix: u8,
}

/// A group of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientGroup {
    /// All clients.
    All,
    /// Those that connect through a Unix socket.
    Unix,
    /// Those of a network.
    Network(Network),
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp {
            host: address.ip().to_string(),
            port: address.port(),
            implied: false,
        }
    }
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
        out.collect_str(self)
    }
}

impl Serialize for ClientGroup {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl Network {
    /// Whether an address is in it. IPv4 addresses must not be mapped into IPv6.
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip) {
            (IpAddr::V4(one), IpAddr::V4(other)) => {
                let shift = 32 - u32::from(self.prefix.min(32));
                u32::from(one).checked_shr(shift) == u32::from(other).checked_shr(shift)
            }
            (IpAddr::V6(one), IpAddr::V6(other)) => {
                let shift = 128 - u32::from(self.prefix.min(128));
                u128::from(one).checked_shr(shift) == u128::from(other).checked_shr(shift)
            }
            _ => false,
        }
    }
}

impl ClientGroup {
    /// Whether a client is in it. `None`: it is connected through a Unix socket. IPv4 addresses must not be mapped into
    /// IPv6.
    pub(crate) fn contains(&self, client: Option<IpAddr>) -> bool {
        match self {
            Self::All => true,
            Self::Unix => client.is_none(),
            Self::Network(network) => client.is_some_and(|ip| network.contains(ip)),
        }
    }
}

/// The form in the file: `10.0.0.0/8`.
impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix)
    }
}

/// The form in the file: `all`, `unix:`, `10.0.0.0/8`.
impl fmt::Display for ClientGroup {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::All => formatter.write_str("all"),
            Self::Unix => formatter.write_str("unix:"),
            Self::Network(network) => network.fmt(formatter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_network() {
        let check = |network: &str, ip: &str, expected: bool| {
            let (address, prefix) = network.split_once('/').unwrap();
            let network = Network {
                address: address.parse().unwrap(),
                prefix: prefix.parse().unwrap(),
            };
            assert_eq!(network.contains(ip.parse().unwrap()), expected, "{ip}");
        };
        check("10.1.0.0/16", "10.1.255.255", true);
        check("10.1.0.0/16", "10.2.0.0", false);
        check("10.1.2.3/32", "10.1.2.3", true);
        check("10.1.2.3/32", "10.1.2.4", false);
        check("0.0.0.0/0", "1.2.3.4", true);
        check("0.0.0.0/0", "::1", false);
        check("fd00::/8", "fdff::1", true);
        check("fd00::/8", "fe00::1", false);
        check("::/0", "fe00::1", true);
    }
}
