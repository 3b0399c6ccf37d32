//! Takes in connections that were just accepted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::admission::CountedConnection;
use super::session::Session;
use super::sessions::Sessions;
use super::shared::Shared;
use super::snapshot::Snapshot;
use super::succession::message::GivenClient;
use crate::config::Address;
use crate::net::conn::Conn;
use crate::net::stream::{Peer, Stream};
use crate::net::tls::Acceptor;
use crate::stats::{self, Close};

/// Why a connection is closed before it may send a request.
pub(super) struct ConnectionRefused {
    /// For the log.
    pub(super) why: &'static str,
    pub(super) reason: Close,
}

/// A connection that may stay.
#[derive(Default)]
pub(super) struct Admitted {
    /// It was counted, since the connections of its address are limited.
    pub(super) counted: Option<CountedConnection>,
    /// Its address is refused, but may be that of an authority that validates one of our names, of which no list exists.
    /// So this is answered, and nothing else.
    pub(super) only_challenges: bool,
}

impl Shared {
    /// Whether a client may have one more connection, which is counted where its address is limited. A trusted proxy names
    /// the client later, so its requests are checked instead.
    ///
    /// # Errors
    /// Why it may not.
    pub(super) fn admit(
        &self,
        snapshot: &Snapshot,
        peer: &Peer,
    ) -> Result<Admitted, ConnectionRefused> {
        if snapshot.trusts(peer) {
            return Ok(Admitted::default());
        }
        let only_challenges = !snapshot.permissions.admits(peer.ip());
        if only_challenges && !self.manager.is_validating() {
            return Err(ConnectionRefused {
                why: "refused by allow or deny",
                reason: Close::Denied,
            });
        }
        let most = snapshot.config.limits.connections_per_client;
        let counted = match peer.ip().filter(|_| most > 0) {
            None => None,
            Some(ip) => {
                let counted = self.clients.enter(ip, most);
                Some(counted.ok_or(ConnectionRefused {
                    why: "limits.connections_per_client reached",
                    reason: Close::Overload,
                })?)
            }
        };
        Ok(Admitted {
            counted,
            only_challenges,
        })
    }
}

impl Sessions<Session> {
    /// Takes in a connection that was just accepted at this address, or closes it if a rule or a limit forbids it. Runs on
    /// an acceptor.
    pub(super) fn accepted(
        self: &Arc<Self>,
        address: &Address,
        stream: Stream,
        peer: Peer,
        tls: Option<&Acceptor>,
    ) {
        let snapshot = self.shared.snapshot();
        let has_header = snapshot.expects_header(&peer, address);
        let Some(admitted) = self.admit(&snapshot, &peer, has_header) else {
            return;
        };
        let Admitted {
            counted,
            only_challenges,
        } = admitted;
        stream.send_at_once();
        let timeouts = &snapshot.config.timeouts;
        let (conn, patience) = match tls {
            None if has_header => (Ok(Conn::plain(stream)), timeouts.head),
            None if only_challenges => (Ok(Conn::plain(stream)), timeouts.head),
            None => (Ok(Conn::plain(stream)), timeouts.idle),
            Some(tls) if has_header || only_challenges => {
                (Conn::secure_later(stream, tls), timeouts.head)
            }
            Some(tls) => (Conn::secure(stream, tls), timeouts.head),
        };
        let conn = match conn {
            Ok(conn) => conn,
            Err(error) => {
                log::error!("client {peer}: {error}");
                if let Some(counted) = counted {
                    self.shared.clients.leave(counted);
                }
                return;
            }
        };
        let deadline = Instant::now() + patience;
        let make = |token| {
            let session = Session::new(Arc::clone(self), token, conn, peer, counted);
            Box::new(match (has_header, only_challenges) {
                (true, _) => session.behind_proxy_header(deadline),
                (false, true) => session.only_challenges(deadline),
                (false, false) => session,
            })
        };
        if let Err(error) = self.poller.enter(make, deadline) {
            log::warn!("client {peer}: {error}");
        }
    }

    /// Takes in an idle connection that another process of this server has given, or closes it if a limit is reached.
    pub(super) fn adopt(self: &Arc<Self>, stream: Stream, client: GivenClient) {
        let peer = client.peer;
        let admitted = self.admit(&self.shared.snapshot(), &peer, false);
        let Some(Admitted {
            counted,
            only_challenges: false,
        }) = admitted
        else {
            return;
        };
        let deadline = Instant::now() + client.idle;
        let make = |token| {
            let conn = Conn::plain(stream);
            let mut session = Session::new(Arc::clone(self), token, conn, peer, counted);
            session.resume(&client);
            Box::new(session)
        };
        if let Err(error) = self.poller.enter(make, deadline) {
            log::warn!("client {peer}: {error}");
        }
    }

    /// Admits a connection unless a rule or a limit forbids it, and counts it where its address is limited. `None`: it is to
    /// be closed. If a PROXY header has yet to name the client, only the limit of all connections is checked.
    fn admit(&self, snapshot: &Snapshot, peer: &Peer, has_header: bool) -> Option<Admitted> {
        let admitted = match has_header {
            true => Ok(Admitted::default()),
            false => self.shared.admit(snapshot, peer),
        };
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => {
                self.turn_away(peer, refusal.why, refusal.reason);
                return None;
            }
        };
        let left = self.shared.connections.load(Ordering::Relaxed);
        let left = left.saturating_sub(self.shared.descriptors.used());
        let most = left.min(snapshot.config.limits.connections as u64);
        if stats::get(&self.shared.stats.open) >= most && !self.shed() {
            if let Some(counted) = admitted.counted {
                self.shared.clients.leave(counted);
            }
            self.turn_away(peer, "limits.connections reached", Close::Overload);
            return None;
        }
        Some(admitted)
    }

    /// Closes a connection that was just accepted.
    fn turn_away(&self, peer: &Peer, why: &str, reason: Close) {
        stats::add(&self.shared.stats.accepted);
        stats::add(&self.shared.stats.open);
        self.shared.stats.client_closed(reason);
        log::debug!("client {peer} closed: {why}: reason={reason}");
    }
}
