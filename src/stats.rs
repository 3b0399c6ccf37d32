//! Counters, and the table of reasons for closing a connection.
//!
//! All counters are atomic: any thread may use them at any time, and no call waits. The words of [`Close`] appear in
//! logs, in counters and in `swiftiply(8)`; a test compares them.

pub(crate) mod site;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes [`Close`] from the table of reasons, with its words and explanations.
macro_rules! close_reasons {
    ($($variant:ident $word:literal $why:literal,)*) => {
        /// Why a connection of a client or of a backend was closed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Close {
            $(#[doc = $why] $variant,)*
        }

        impl Close {
            /// All reasons, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word for logs, counters and the manual.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }
    };
}

close_reasons! {
    Complete "complete" "The exchange was complete and the connection was not kept.",
    PeerClosed "peer_closed" "The peer closed an idle connection.",
    Idle "idle" "A connection was idle for too long, or sent nothing at all.",
    HeadTimeout "head_timeout" "A request head did not arrive in time.",
    TlsTimeout "tls_timeout" "A TLS handshake did not finish in time.",
    TlsFailed "tls_failed" "The bytes were not TLS, or broke its rules.",
    BodyTimeout "body_timeout" "A request body made no progress for too long.",
    BodySlow "body_slow" "A request body came too slowly on average.",
    BadRequest "bad_request" "The request broke a rule of HTTP and was refused.",
    TooLarge "too_large" "A head, a target or a body was over its limit.",
    ClientGone "client_gone" "The client disconnected before the end of the response, or aborted an upgraded connection.",
    WriteFailed "write_failed" "The connection failed during a write.",
    WriteTimeout "write_timeout" "The client accepted nothing for too long.",
    WriteSlow "write_slow" "The client accepted a response too slowly on average.",
    BackendFailed "backend_failed" "The backend failed, was too slow, broke a rule of HTTP within a response, or aborted an upgraded connection.",
    FileFailed "file_failed" "A file was truncated while it was sent, or a read failed.",
    Junk "junk" "A backend sent bytes without a request.",
    Unframed "unframed" "A backend's response had no length, so that its end could only be guessed.",
    TunnelDone "tunnel_done" "Both sides have ended an upgraded connection.",
    TunnelIdle "tunnel_idle" "An upgraded connection had no traffic for too long.",
    BadPreamble "bad_preamble" "A process dialled in and did not send a preamble.",
    BadKey "bad_key" "A process dialled in and sent the wrong key.",
    PreambleTimeout "preamble_timeout" "A process dialled in and did not send its preamble in time.",
    Denied "denied" "The client's address was refused by allow or deny.",
    BadProxyHeader "bad_proxy_header" "A proxy sent a malformed PROXY header, or none, or not in time.",
    Overload "overload" "A limit on connections, memory or disk was reached.",
    Removed "removed" "A new configuration no longer has the connection's address or site.",
    Revoked "revoked" "The certificate of a backend is not valid any more.",
    Draining "draining" "The server is stopping.",
    HandedOver "handed_over" "Another process of this server has the connection now.",
    Internal "internal" "The server failed; the log says how.",
}

/// A party to an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Party {
    /// The client.
    Client,
    /// The backend.
    Backend,
    /// This program.
    Proxy,
}

impl Party {
    /// The word for logs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Backend => "backend",
            Self::Proxy => "proxy",
        }
    }
}

impl Close {
    /// Who is the cause. `None`: nothing was cut short.
    pub const fn by(self) -> Option<Party> {
        match self {
            Self::Complete | Self::TunnelDone | Self::HandedOver => None,
            Self::PeerClosed
            | Self::HeadTimeout
            | Self::BadProxyHeader
            | Self::TlsTimeout
            | Self::TlsFailed
            | Self::BodyTimeout
            | Self::BodySlow
            | Self::ClientGone
            | Self::WriteFailed
            | Self::WriteTimeout
            | Self::WriteSlow => Some(Party::Client),
            Self::BackendFailed
            | Self::Junk
            | Self::Unframed
            | Self::BadPreamble
            | Self::BadKey
            | Self::PreambleTimeout => Some(Party::Backend),
            Self::Idle
            | Self::BadRequest
            | Self::TooLarge
            | Self::FileFailed
            | Self::TunnelIdle
            | Self::Denied
            | Self::Overload
            | Self::Removed
            | Self::Revoked
            | Self::Draining
            | Self::Internal => Some(Party::Proxy),
        }
    }
}

impl fmt::Display for Close {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}

/// The counters of a server.
#[derive(Debug)]
pub struct Stats {
    /// Accepted client connections.
    pub(crate) accepted: AtomicU64,
    /// Open client connections.
    pub(crate) open: AtomicU64,
    /// Requests that were sent again to another backend.
    pub(crate) retries: AtomicU64,
    /// Panics of workers.
    pub(crate) panics: AtomicU64,
    /// Backends that joined a pool, and connections to servers.
    pub(crate) joined: AtomicU64,
    /// Open tunnels. The total so far is the number of responses with status 101.
    pub(crate) tunnels: AtomicU64,
    statuses: Box<[AtomicU64]>,
    clients_closed: Box<[AtomicU64]>,
    backends_closed: Box<[AtomicU64]>,
}

impl Stats {
    /// All zero.
    pub fn new() -> Self {
        Self {
            accepted: AtomicU64::new(0),
            open: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            joined: AtomicU64::new(0),
            tunnels: AtomicU64::new(0),
            statuses: zeros(STATUSES),
            clients_closed: zeros(Close::ALL.len()),
            backends_closed: zeros(Close::ALL.len()),
        }
    }

    /// Client connections that were accepted so far.
    pub fn accepted(&self) -> u64 {
        get(&self.accepted)
    }

    /// Requests so far that were sent again to another backend.
    pub fn retries(&self) -> u64 {
        get(&self.retries)
    }

    /// Panics of workers so far; each has cost one connection.
    pub fn panics(&self) -> u64 {
        get(&self.panics)
    }

    /// Backends that have joined so far, and connections to servers.
    pub fn joined(&self) -> u64 {
        get(&self.joined)
    }

    /// Upgraded connections that are open now. Responses with status 101 are all of them so far.
    pub fn tunnels(&self) -> u64 {
        get(&self.tunnels)
    }

    /// Counts a response by its status code.
    pub(crate) fn answered(&self, status: u16) {
        if let Some(counter) = self.statuses.get(usize::from(status)) {
            add(counter);
        }
    }

    /// Responses so far, whatever the status.
    pub fn exchanges(&self) -> u64 {
        self.statuses.iter().map(get).sum()
    }

    /// Responses so far with this status code.
    pub fn status(&self, status: u16) -> u64 {
        self.statuses.get(usize::from(status)).map_or(0, get)
    }

    /// Counts a closed client connection.
    pub(crate) fn client_closed(&self, reason: Close) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        add(&self.clients_closed[reason as usize]);
    }

    /// Counts a closed connection of a backend.
    pub(crate) fn backend_closed(&self, reason: Close) {
        add(&self.backends_closed[reason as usize]);
    }

    /// Client connections closed so far for this reason.
    pub fn clients_closed(&self, reason: Close) -> u64 {
        get(&self.clients_closed[reason as usize])
    }

    /// Connections of backends closed so far for this reason.
    pub fn backends_closed(&self, reason: Close) -> u64 {
        get(&self.backends_closed[reason as usize])
    }
}

impl Default for Stats {
    fn default() -> Self {
        Self::new()
    }
}

/// Increments a counter. The order of counters does not matter, so the weakest memory ordering will do.
pub(crate) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Reads a counter.
pub(crate) fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn zeros(count: usize) -> Box<[AtomicU64]> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

/// Status codes have three digits and the first is at most 9.
const STATUSES: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_status_and_reason() {
        let stats = Stats::new();
        stats.open.store(2, Ordering::Relaxed);
        stats.answered(404);
        stats.answered(404);
        stats.client_closed(Close::Idle);
        stats.backend_closed(Close::Junk);
        assert_eq!((stats.status(404), stats.status(200)), (2, 0));
        assert_eq!(stats.exchanges(), 2);
        assert_eq!(stats.clients_closed(Close::Idle), 1);
        assert_eq!(stats.backends_closed(Close::Junk), 1);
        assert_eq!(stats.backends_closed(Close::Idle), 0);
        assert_eq!(get(&stats.open), 1);
    }

    #[test]
    fn every_reason_stands_in_the_manual() {
        let page = include_str!("../man/swiftiply.8");
        for reason in Close::ALL {
            let line = format!(".It Cm {reason}\n");
            assert!(page.contains(&line), "man/swiftiply.8 lacks {line:?}");
        }
    }
}
