//! Sockets: the calls that the rest of the program makes on them, and who waits for which.
//!
//! [`stream`] is a connected socket, [`conn`] one that may be encrypted, [`tls`] the records of one that is encrypted,
//! [`buffer`] the bytes read from one and not used yet, [`connect`] a connection attempt that does not wait, [`listener`] a
//! bound address and the loop that accepts on it, [`poller`] the set of parked sessions on which workers sleep, [`alarm`] the
//! earliest deadline, [`tunnel`] the pairs of connections for which HTTP is over. Nothing here knows HTTP, sites or
//! configuration beyond [`Address`](crate::config::Address).

pub mod alarm;
pub mod buffer;
pub mod conn;
pub mod connect;
pub mod listener;
pub mod poller;
pub mod stream;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
pub mod tls;
pub mod tunnel;
