//! Takes in connections that were just accepted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::session::Session;
use super::sessions::Sessions;
use crate::net::conn::Conn;
use crate::net::stream::{Peer, Stream};
use crate::net::tls::Acceptor;
use crate::stats::{self, Close};

impl Sessions<Session> {
    /// Takes in a connection that was just accepted, or closes it if a limit is reached. Runs on an acceptor.
    pub(super) fn accepted(self: &Arc<Self>, stream: Stream, peer: Peer, tls: Option<&Acceptor>) {
        let snapshot = self.shared.snapshot();
        // A proxy names the client later.
        if !snapshot.permissions.is_empty()
            && !snapshot.trusts(&peer)
            && !snapshot.permissions.admits(peer.ip())
        {
            self.turn_away(&peer, "refused by allow or deny", Close::Denied);
            return;
        }
        let limits = &snapshot.config.limits;
        let left = self.shared.connections.load(Ordering::Relaxed);
        let left = left.saturating_sub(self.shared.descriptors.used());
        let most = left.min(limits.connections as u64);
        if stats::get(&self.shared.stats.open) >= most && !self.shed() {
            self.turn_away(&peer, "limits.connections reached", Close::Overload);
            return;
        }
        let most = limits.connections_per_client;
        let counted = match peer.ip().filter(|_| most > 0 && !snapshot.trusts(&peer)) {
            None => None,
            Some(ip) => match self.shared.clients.enter(ip, most) {
                Some(counted) => Some(counted),
                None => {
                    self.turn_away(
                        &peer,
                        "limits.connections_per_client reached",
                        Close::Overload,
                    );
                    return;
                }
            },
        };
        stream.send_at_once();
        let timeouts = &snapshot.config.timeouts;
        let (conn, patience) = match tls {
            None => (Ok(Conn::plain(stream)), timeouts.idle),
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
        let make = |token| Box::new(Session::new(Arc::clone(self), token, conn, peer, counted));
        if let Err(error) = self.poller.enter(make, deadline) {
            log::warn!("client {peer}: {error}");
        }
    }

    /// Closes a connection that was just accepted.
    fn turn_away(&self, peer: &Peer, why: &str, reason: Close) {
        stats::add(&self.shared.stats.accepted);
        stats::add(&self.shared.stats.open);
        self.shared.stats.client_closed(reason);
        log::debug!("client {peer} closed: {why}: reason={reason}");
    }
}
