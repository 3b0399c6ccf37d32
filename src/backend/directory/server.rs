//! One server of a directory: how many requests it has, its idle connections, its health.
//!
//! Plain data, guarded by the directory's lock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::endpoint::Endpoint;
use super::health::ServerHealth;
#[cfg(feature = "redis")]
use super::list::{Elements, ListState, ReturnedElement};
use crate::config::Address;
use crate::net::conn::Conn;
use crate::net::stream::Pending;
use crate::stats::Close;

#[derive(Debug)]
pub(super) struct ServerEntry {
    pub(super) endpoint: Arc<Endpoint>,
    /// Requests that it may have at once, and that it has.
    pub(super) seats: usize,
    pub(super) taken: usize,
    /// The one that became idle last is at the end.
    pub(super) kept: VecDeque<IdleConnection>,
    pub(super) health: ServerHealth,
    /// The log has it that its name is not found.
    pub(super) told: bool,
    /// When it is checked again, if there are checks; `None`: that is under way.
    pub(super) check: Option<Instant>,
    /// The configuration has no place for it any more.
    pub(super) gone: bool,
    #[cfg(feature = "redis")]
    pub(super) stock: Elements,
}

/// An idle connection.
#[derive(Debug)]
pub(super) struct IdleConnection {
    pub(super) conn: Conn,
    pub(super) since: Instant,
}

impl IdleConnection {
    /// Why it cannot be used any more, if that is so.
    pub(super) fn fault(&self) -> Option<Close> {
        match self.conn.pending() {
            Pending::Nothing => None,
            Pending::Bytes => Some(Close::Junk),
            Pending::End | Pending::Broken => Some(Close::PeerClosed),
        }
    }
}

impl ServerEntry {
    pub(super) fn new(address: &Address, seats: usize, now: Instant) -> Self {
        let endpoint = Endpoint::new(address);
        Self {
            health: ServerHealth::new(endpoint.is_known(), now),
            endpoint: Arc::new(endpoint),
            seats,
            taken: 0,
            kept: VecDeque::new(),
            told: false,
            check: Some(now),
            gone: false,
            #[cfg(feature = "redis")]
            stock: Elements::default(),
        }
    }

    /// The connection that became idle last, unless it is too old for a request that must not be sent twice (`once`).
    pub(super) fn pop_kept(&mut self, once: bool) -> Option<IdleConnection> {
        self.kept
            .pop_back_if(|kept| !once || kept.since.elapsed() < DOUBTFUL)
    }

    /// The connection that has been idle for the longest time, where a new one would be more than there are seats: not all
    /// will do for every request.
    pub(super) fn surplus(&mut self) -> Option<IdleConnection> {
        let full = self.kept.len() + self.taken > self.seats;
        full.then(|| self.kept.pop_front())?
    }

    /// Has the oldest element that is held go back.
    #[cfg(feature = "redis")]
    pub(super) fn give_one(&mut self, shelf: &mut ListState) {
        let Some(held) = self.stock.held.pop_front() else {
            return;
        };
        self.seats = self.stock.held.len();
        shelf.giving.push(ReturnedElement {
            element: self.stock.element.clone(),
            number: held.number,
        });
    }

    /// A seat was freed. Where other proxies may be waiting, nobody keeps an element for long.
    #[cfg(feature = "redis")]
    pub(super) fn share(&mut self, shelf: &mut ListState) {
        if !shelf.others || shelf.away {
            return;
        }
        let Some(held) = self.stock.held.front() else {
            return;
        };
        let now = Instant::now();
        if now.saturating_duration_since(held.since) >= LONGEST_HOLD {
            self.give_one(shelf);
            shelf.rest = Some(now + OTHERS_FIRST);
        }
    }
}

/// A connection that was idle for so long may just be given up by the server: good for requests that can be sent again.
const DOUBTFUL: Duration = Duration::from_secs(1);
/// Where there are other proxies, an element is handed on here for so long, and then they have the time to take it.
#[cfg(feature = "redis")]
const LONGEST_HOLD: Duration = Duration::from_millis(100);
#[cfg(feature = "redis")]
const OTHERS_FIRST: Duration = Duration::from_millis(40);
