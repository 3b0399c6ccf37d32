//! Where Redis is, and how a site uses a list in it (`servers` of `directory: redis`).

use std::time::Duration;

use serde::Serialize;

use super::address::Address;
use crate::config::written::time;

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
