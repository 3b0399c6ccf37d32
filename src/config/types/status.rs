//! The status address, and the files of Unix sockets.

use serde::Serialize;

use super::address::Address;
use crate::config::written::octal;

/// Where the server reports its state and takes commands (`status`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StatusConfig {
    /// The address: a TCP port, or a Unix socket.
    pub at: Address,
    /// The attributes of a Unix socket's file, in place of 0600.
    #[serde(flatten)]
    pub file: SocketFileConfig,
    /// The key that each request must have; `None`: none. A TCP address that other machines reach has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// The attributes of a Unix socket's file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SocketFileConfig {
    /// Permissions; `None`: those of the address by default.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "octal")]
    pub mode: Option<u32>,
    /// Owner; `None`: the user who starts the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Group; `None`: that of this user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}
