//! Where the servers of a site are (`directory`, `servers`), and how their health is checked.

use std::time::Duration;

use serde::Serialize;

use super::address::Address;
use super::server::ServerConfig;
use crate::config::written::time;

/// The source of a site's list of servers (`directory`, `servers`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum DirectoryConfig {
    /// The list in the file.
    Static(Vec<ServerConfig>),
    /// A list in Redis.
    Redis(RedisDirectory),
}

/// A Redis server, or several of which one is the primary, and a database in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Redis {
    /// The servers, or their Sentinels; tried in this order. No Unix sockets.
    #[serde(rename = "host")]
    pub hosts: Vec<Address>,
    /// The addresses are those of Sentinels, which know the primary by this name.
    pub sentinel: Option<String>,
    /// Number of the database.
    pub db: u32,
    /// Password.
    pub password: Option<String>,
}

/// A list of servers in Redis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RedisDirectory {
    /// Where it is.
    #[serde(flatten)]
    pub at: Redis,
    /// A server that a proxy has taken returns to the list after this time if the proxy has failed.
    #[serde(serialize_with = "time")]
    pub lease: Duration,
}

/// Health checks of servers (`check`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CheckConfig {
    /// Path and query.
    pub uri: String,
    /// The interval between checks.
    #[serde(serialize_with = "time")]
    pub interval: Duration,
}
