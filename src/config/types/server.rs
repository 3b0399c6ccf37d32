//! A server that the proxy connects to, as the configuration names it.

use std::fmt;

use serde::{Serialize, Serializer};

use super::address::Address;

/// A server that the proxy connects to (an item of `servers`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerConfig {
    /// Where it is.
    pub at: Address,
    /// What it speaks.
    pub protocol: ServerProtocol,
}

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerProtocol {
    /// HTTP/1.1.
    Http,
    /// FastCGI, such as php-fpm. All servers of a site do, or none.
    FastCgi,
}

impl ServerConfig {
    /// What a FastCGI server begins with where it is written.
    pub(in crate::config) const FASTCGI: &str = "fastcgi:";

    /// A server that speaks FastCGI.
    pub const fn fastcgi(at: Address) -> Self {
        Self {
            at,
            protocol: ServerProtocol::FastCgi,
        }
    }
}

impl From<Address> for ServerConfig {
    /// A server that speaks HTTP.
    fn from(at: Address) -> Self {
        Self {
            at,
            protocol: ServerProtocol::Http,
        }
    }
}

/// The form in `servers` and in logs: `127.0.0.1:80`, `unix:/path`, `fastcgi:unix:/path`.
impl fmt::Display for ServerConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self.protocol {
            ServerProtocol::Http => self.at.fmt(formatter),
            ServerProtocol::FastCgi => write!(formatter, "{}{}", Self::FASTCGI, self.at),
        }
    }
}

impl Serialize for ServerConfig {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}
