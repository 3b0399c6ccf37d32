//! Sockets, and the threads that wait for them.
//!
//! [`stream`] is a connected socket, [`conn`] one with optional TLS or FastCGI, [`tls`] and [`fastcgi`] those parts of a
//! connection, [`client_auth`] which client certificates sites ask for, [`buffer`] the bytes that were read and not used yet, [`listener`] a listening socket and its accept loop,
//! [`activation`] those of the service manager, [`connect`] a non-blocking connection attempt. [`poller`] is the set of
//! parked sessions for which workers wait, [`alarm`] wakes the tick thread for deadlines, [`proxy_protocol`] parses and
//! writes PROXY headers, [`tunnel`] carries the bytes of upgraded connections, `redis` connects to Redis.
//!
//! Nothing here knows HTTP (FastCGI is only translated), sites or configuration beyond [`Address`](crate::config::Address) and [`Inspection`].

pub mod activation;
pub mod alarm;
pub mod buffer;
pub mod client_auth;
pub mod conn;
pub mod connect;
pub mod fastcgi;
mod flow;
pub mod listener;
pub mod poller;
pub mod proxy_protocol;
#[cfg(feature = "redis")]
pub mod redis;
pub mod stream;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
pub mod tls;
pub mod tunnel;

use crate::config::Inspection;
use tls::{Authorities, Certificate};

/// Functions that inspect certificates before a start.
pub const INSPECTION: Inspection = Inspection {
    certificate: |certfile, keyfile| {
        let loaded = Certificate::load(certfile, keyfile);
        loaded.map(drop).map_err(|error| (error.file, error.why))
    },
    authorities: |file| {
        let loaded = Authorities::load(file);
        loaded.map(drop).map_err(|error| error.why)
    },
    revoked: |authorities, file| {
        // What is wrong with the authorities is reported elsewhere.
        let Ok(authorities) = Authorities::load(authorities) else {
            return Ok(());
        };
        let loaded = authorities.with_revoked(file);
        loaded.map(drop).map_err(|error| error.why)
    },
};
