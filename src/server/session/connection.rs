//! A client's connection: what a session owns in every state, from accept to close.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, thread};

use super::state::{ReadingHead, ReadingProxyHeader, State};
use crate::budget::Charge;
use crate::exchange::ClientAddress;
use crate::net::conn::Conn;
use crate::net::poller::Token;
use crate::net::stream::Peer;
use crate::relay::parking::Parking;
use crate::server::admission::CountedConnection;
use crate::server::identity::IdentityFields;
use crate::server::pending::PendingRequest;
use crate::server::rate_limit::RateScope;
use crate::server::scratch::Scratch;
use crate::server::sessions::Sessions;
use crate::server::shared::Shared;
use crate::server::snapshot::Snapshot;
use crate::stats::{self, Close};

/// A client's connection.
pub(crate) struct Session {
    pub(super) shared: Arc<Shared>,
    /// Where it is kept while no worker runs it.
    pub(super) sessions: Arc<Sessions<Self>>,
    /// What the workers know of it.
    pub(super) parking: Parking,
    pub(super) conn: Conn,
    /// The client, or a proxy that has not named it yet.
    pub(super) peer: Peer,
    /// The address to which the client has connected, if it is needed and known.
    pub(super) local: Option<SocketAddr>,
    /// Counts it for the limit of its address.
    pub(super) counted: Option<CountedConnection>,
    /// Counts its request for the limit of the address that the peer, a proxy, has named.
    pub(super) counted_request: Option<CountedConnection>,
    /// Bytes that were read but not used when the session was parked.
    pub(super) leftover: Vec<u8>,
    /// Bytes that the client did not take; they go in front of its next response.
    pub(super) pending_output: Vec<u8>,
    /// Memory charged for the connection and its request, without bodies.
    pub(super) memory: Charge,
    /// The part of that for the request, in bytes.
    pub(super) request_bytes: u64,
    pub(super) state: State,
    /// The reason that is counted when the session is dropped.
    pub(super) reason: Close,
    /// Whether its deadline has passed. It was not closed then because the client is owed a response.
    pub(super) expired: bool,
    /// Responses so far.
    pub(super) responses: u32,
    /// The fields about the client's certificate, once an application has got them.
    pub(super) identity: Option<IdentityFields>,
    /// Only an authority that validates a name is answered; see [`Admitted`](crate::server::accept::Admitted).
    pub(super) only_challenges: bool,
}

impl Session {
    /// A connection that was just accepted.
    pub(crate) fn new(
        sessions: Arc<Sessions<Self>>,
        token: Token,
        conn: Conn,
        peer: Peer,
        counted: Option<CountedConnection>,
    ) -> Self {
        let shared = Arc::clone(&sessions.shared);
        stats::add(&shared.stats.accepted);
        stats::add(&shared.stats.open);
        let handshake = conn.is_handshaking();
        let mut memory = Charge::new(Arc::clone(&shared.memory));
        memory.force(connection_bytes(conn.is_secure()));
        let timeouts = &shared.snapshot().config.timeouts;
        let patience = match handshake {
            true => timeouts.head,
            false => timeouts.idle,
        };
        Self {
            shared,
            sessions,
            parking: Parking::new(token),
            conn,
            peer,
            local: None,
            counted,
            counted_request: None,
            leftover: Vec::new(),
            pending_output: Vec::new(),
            memory,
            request_bytes: 0,
            state: State::Head(ReadingHead {
                handshake,
                ..ReadingHead::idle(Instant::now() + patience)
            }),
            reason: Close::Internal,
            expired: false,
            responses: 0,
            identity: None,
            only_challenges: false,
        }
    }

    /// The same connection, which begins with a PROXY header that has to arrive in time.
    pub(crate) fn behind_proxy_header(mut self, deadline: Instant) -> Self {
        self.state = State::ProxyHeader(Box::new(ReadingProxyHeader {
            bytes: Vec::new(),
            deadline,
        }));
        self
    }

    /// The same connection, on which only an authority that validates a name is answered, if it asks in time.
    pub(crate) fn only_challenges(mut self, deadline: Instant) -> Self {
        self.restrict(deadline);
        self
    }

    /// Answers only an authority that validates a name, if it asks in time.
    pub(super) fn restrict(&mut self, deadline: Instant) {
        self.only_challenges = true;
        self.conn.only_validations();
        self.state = State::Head(ReadingHead {
            handshake: self.conn.is_handshaking(),
            ..ReadingHead::idle(deadline)
        });
    }

    /// The address to which the client has connected.
    pub(super) fn local(&mut self) -> Option<SocketAddr> {
        self.local = self.local.or_else(|| self.conn.stream().local());
        self.local
    }

    /// Reads what has arrived, without waiting.
    pub(super) fn fill(&mut self, scratch: &mut Scratch) -> io::Result<Option<usize>> {
        self.parking.fill(&mut scratch.input, &mut self.conn)
    }

    /// Charges what the connection keeps now.
    pub(super) fn charge_kept(&mut self) {
        let kept = self.leftover.len() + self.pending_output.len();
        let connection = connection_bytes(self.conn.is_secure());
        self.memory
            .force(connection + self.request_bytes + kept as u64);
    }

    /// Charges this many bytes for a request. If the memory is used up, closes idle connections to make room. `false`:
    /// there is still none, and the request has to be refused.
    pub(super) fn charge_request(&mut self, bytes: u64) -> bool {
        self.request_bytes = bytes;
        let all = connection_bytes(self.conn.is_secure()) + bytes;
        self.memory.set(all) || {
            self.sessions.shed();
            self.memory.set(all)
        }
    }

    /// Counts a request that came through a trusted proxy as a connection of the client's address. `false`: that
    /// address has reached its limit.
    pub(super) fn count_request(&mut self, pending: &PendingRequest) -> bool {
        let most = pending.snapshot.config.limits.connections_per_client;
        let client = pending.request.client.forwarded;
        let Some(address) = client.filter(|_| most > 0) else {
            return true;
        };
        self.counted_request = self.shared.clients.enter(address, most);
        self.counted_request.is_some()
    }

    /// Counts a request for `rate_limit`, of the top level and of its site. Returns how long its client has to wait, if it
    /// has sent too many. A client whose address is unknown is not limited.
    pub(super) fn over_rate(
        &self,
        client: &ClientAddress,
        site: Option<usize>,
        snapshot: &Snapshot,
        received: Instant,
    ) -> Option<Duration> {
        let all = (snapshot.config.rate_limit, RateScope::ALL);
        let site = site.map(|site| &snapshot.sites[site]);
        let own = site.map_or((None, RateScope::ALL), |site| {
            (site.settings.rate_limit, site.rate_scope)
        });
        // Where nothing is limited, the address is not needed.
        if all.0.is_none() && own.0.is_none() {
            return None;
        }
        let address = client.own_address()?;
        let limits = [all, own].into_iter();
        let mut limits = limits.filter_map(|(limit, scope)| Some((limit?, scope)));
        limits.find_map(|(limit, scope)| {
            let rates = &self.shared.rates;
            rates.count(&limit, scope, address, received).err()
        })
    }

    /// Uncounts a request that is over.
    pub(super) fn uncount_request(&mut self) {
        if let Some(counted) = self.counted_request.take() {
            self.shared.clients.leave(counted);
        }
    }
}

impl AsMut<Conn> for Session {
    fn as_mut(&mut self) -> &mut Conn {
        &mut self.conn
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.conn.as_fd()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if thread::panicking() {
            // The client must not take what was sent of a response for a complete one.
            self.conn.reset_on_close();
        }
        self.log_unfinished();
        self.uncount_request();
        if let Some(counted) = self.counted.take() {
            self.shared.clients.leave(counted);
        }
        self.shared.stats.client_closed(self.reason);
        log::debug!("client {} closed: reason={}", self.peer, self.reason);
        self.sessions.poller.leave(self.parking.token());
    }
}

/// Bytes of memory of an idle connection, including those of its socket and the poller.
const fn connection_bytes(secure: bool) -> u64 {
    match secure {
        true => 8 << 10,
        false => 1 << 10,
    }
}

/// Bytes of a body that are read before other sessions run.
pub(super) const TURN: usize = 1 << 20;
