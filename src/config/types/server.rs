//! A server that the proxy connects to, as the configuration names it.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use super::address::Address;
use crate::config::written::path;

/// A server that the proxy connects to (an item of `servers`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Where it is.
    pub at: Address,
    /// What it speaks.
    pub protocol: ServerProtocol,
}

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServerProtocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/1.1 over TLS.
    Https,
    /// FastCGI, such as php-fpm. All servers of a site do, or none.
    FastCgi,
}

/// How servers that speak TLS are verified, and how we identify ourselves (`server_tls`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ServerTlsConfig {
    /// PEM file of the authorities that are trusted to identify the servers, absolute; `None`: those of Mozilla.
    #[serde(serialize_with = "path")]
    pub ca: Option<PathBuf>,
    /// The SHA-256 of the certificate that the servers have, in place of authorities and names.
    #[serde(
        serialize_with = "hexadecimal",
        skip_serializing_if = "Option::is_none"
    )]
    pub fingerprint: Option<[u8; 32]>,
    /// The name that is asked for (SNI) and that the certificate must have; `None`: the host of each server.
    pub server_name: Option<String>,
    /// Our certificate with its chain, PEM, absolute; `None`: none.
    #[serde(serialize_with = "path")]
    pub certfile: Option<PathBuf>,
    /// Its key, PEM, absolute; may be the same file.
    #[serde(serialize_with = "path")]
    pub keyfile: Option<PathBuf>,
    /// Whether any certificate will do, so that another server can read and change everything.
    pub insecure_skip_verify: bool,
}

/// Writes a fingerprint as the file has it.
fn hexadecimal<S: Serializer>(hash: &Option<[u8; 32]>, out: S) -> Result<S::Ok, S::Error> {
    let bytes = hash.iter().flatten();
    let digits: Vec<_> = bytes.map(|byte| format!("{byte:02x}")).collect();
    out.serialize_str(&digits.concat())
}

impl ServerTlsConfig {
    /// The files that it names.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        let files = [&self.ca, &self.certfile, &self.keyfile];
        files.into_iter().flatten().map(PathBuf::as_path)
    }
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

/// The form in `servers` and in logs: `127.0.0.1:80`, `https://127.0.0.1:443`, `unix:/path`, `fastcgi:unix:/path`.
impl fmt::Display for ServerConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self.protocol {
            ServerProtocol::Http => self.at.fmt(formatter),
            ServerProtocol::Https => write!(formatter, "https://{}", self.at),
            ServerProtocol::FastCgi => write!(formatter, "{}{}", Self::FASTCGI, self.at),
        }
    }
}

impl Serialize for ServerConfig {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}
