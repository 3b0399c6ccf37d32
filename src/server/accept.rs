//! Takes in connections that were just accepted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::admission::CountedConnection;
use super::session::Session;
use super::sessions::Sessions;
use super::succession::message::GivenClient;
use crate::net::conn::Conn;
use crate::net::stream::{Peer, Stream};
use crate::net::tls::Acceptor;
use crate::stats::{self, Close};

impl Sessions<Session> {
    /// Takes in a connection that was just accepted, or closes it if a limit is reached. Runs on an acceptor.
    pub(super) fn accepted(self: &Arc<Self>, stream: Stream, peer: Peer, tls: Option<&Acceptor>) {
        let Some(counted) = self.admit(&peer) else {
            return;
        };
        stream.send_at_once();
        let snapshot = self.shared.snapshot();
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

    /// Takes in an idle connection that another process of this server has given, or closes it if a limit is reached.
    pub(super) fn adopt(self: &Arc<Self>, stream: Stream, client: GivenClient) {
        let peer = client.peer;
        let Some(counted) = self.admit(&peer) else {
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

    /// Admits a connection unless a rule or a limit forbids it, and counts it where its address is limited. `None`: it is not, and is to be closed.
    #[expect(clippy::option_option, reason = "not admitted, not counted, counted")]
    fn admit(&self, peer: &Peer) -> Option<Option<CountedConnection>> {
        let snapshot = self.shared.snapshot();
        // A proxy names the client later.
        if !snapshot.permissions.is_empty()
            && !snapshot.trusts(peer)
            && !snapshot.permissions.admits(peer.ip())
        {
            self.turn_away(peer, "refused by allow or deny", Close::Denied);
            return None;
        }
        let limits = &snapshot.config.limits;
        let left = self.shared.connections.load(Ordering::Relaxed);
        let left = left.saturating_sub(self.shared.descriptors.used());
        let most = left.min(limits.connections as u64);
        if stats::get(&self.shared.stats.open) >= most && !self.shed() {
            self.turn_away(peer, "limits.connections reached", Close::Overload);
            return None;
        }
        let most = limits.connections_per_client;
        let Some(ip) = peer.ip().filter(|_| most > 0 && !snapshot.trusts(peer)) else {
            return Some(None);
        };
        let counted = self.shared.clients.enter(ip, most);
        if counted.is_none() {
            let limit = "limits.connections_per_client reached";
            self.turn_away(peer, limit, Close::Overload);
        }
        counted.map(Some)
    }

    /// Closes a connection that was just accepted.
    fn turn_away(&self, peer: &Peer, why: &str, reason: Close) {
        stats::add(&self.shared.stats.accepted);
        stats::add(&self.shared.stats.open);
        self.shared.stats.client_closed(reason);
        log::debug!("client {peer} closed: {why}: reason={reason}");
    }
}
