//! Sockets: the calls that the rest of the program makes on them, and which thread waits for which socket.
//!
//! [`stream`] is a connected socket, [`conn`] one that may be encrypted, [`tls`] the records of one that is encrypted,
//! [`buffer`] the bytes that were read and not used yet, [`listener`] a bound address and the loop that accepts on it,
//! [`connect`] a connection attempt that does not wait. [`poller`] is the set of parked sessions on which workers block,
//! [`alarm`] wakes the tick thread for their deadlines, [`tunnel`] carries the bytes of connections for which HTTP is over.
//!
//! Nothing here knows HTTP, sites or configuration beyond [`Address`](crate::config::Address) and [`Inspection`].

pub mod alarm;
pub mod buffer;
pub mod conn;
pub mod connect;
mod flow;
pub mod listener;
pub mod poller;
pub mod stream;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
pub mod tls;
pub mod tunnel;

use crate::config::Inspection;
use tls::{Authorities, Certificate};

/// How to look into files of certificates before a start.
pub const INSPECTION: Inspection = Inspection {
    certificate: |certfile, keyfile| {
        let loaded = Certificate::load(certfile, keyfile);
        loaded.map(drop).map_err(|error| (error.file, error.why))
    },
    authorities: |file| {
        let loaded = Authorities::load(file);
        loaded.map(drop).map_err(|error| error.why)
    },
};
