//! One server of a directory: its slots, its idle connections, its health.
//!
//! Plain data, guarded by the directory's lock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::endpoint::Endpoint;
use super::health::ServerHealth;
#[cfg(feature = "redis")]
use super::list::{Elements, ListState, ReturnedElement};
use super::tls::ServerTls;
use crate::config::ServerConfig;
use crate::net::conn::Conn;
use crate::net::stream::Pending;
use crate::stats::Close;

#[derive(Debug)]
pub(super) struct ServerEntry {
    pub(super) endpoint: Arc<Endpoint>,
    /// The requests that it may have at once, and those that it has.
    pub(super) slots: usize,
    pub(super) busy: usize,
    /// The connection that became idle last is at the end.
    pub(super) idle: VecDeque<IdleConnection>,
    pub(super) health: ServerHealth,
    /// The log has reported that its name is not found.
    pub(super) lookup_reported: bool,
    /// When it is checked again, if there are checks; `None`: a check is under way.
    pub(super) check: Option<Instant>,
    /// It is not in the configuration any more.
    pub(super) removed: bool,
    /// It gets no requests until further notice.
    pub(super) drained: bool,
    #[cfg(feature = "redis")]
    pub(super) elements: Elements,
}

/// An idle connection.
#[derive(Debug)]
pub(super) struct IdleConnection {
    pub(super) conn: Conn,
    /// When it was made.
    pub(super) made: Instant,
    /// Since when it is idle.
    pub(super) since: Instant,
}

impl IdleConnection {
    /// Why it cannot be used any more, if so.
    pub(super) fn fault(&self) -> Option<Close> {
        match self.conn.pending() {
            Pending::Nothing => None,
            Pending::Bytes => Some(Close::Junk),
            Pending::End | Pending::Broken => Some(Close::PeerClosed),
        }
    }
}

impl ServerEntry {
    pub(super) fn new(
        server: &ServerConfig,
        tls: Option<&ServerTls>,
        slots: usize,
        now: Instant,
    ) -> Self {
        let endpoint = Endpoint::new(server, tls);
        Self {
            health: ServerHealth::new(endpoint.is_known(), now),
            endpoint: Arc::new(endpoint),
            slots,
            busy: 0,
            idle: VecDeque::new(),
            lookup_reported: false,
            check: Some(now),
            removed: false,
            drained: false,
            #[cfg(feature = "redis")]
            elements: Elements::default(),
        }
    }

    /// Whether a request may go there. `now` is filled in only if it is needed.
    pub(super) fn is_open(&self, now: &mut Option<Instant>) -> bool {
        !self.drained && self.health.is_open(now)
    }

    /// When a connection to it last became idle, if one is idle.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        self.idle.back().map(|idle| idle.since)
    }

    /// The connection that became idle last. `once`: the request must not be sent twice, so an old connection will not
    /// do, nor any to a FastCGI server: php-fpm closes one right after a response if the process has served its share
    /// (`pm.max_requests`).
    pub(super) fn pop_idle(&mut self, once: bool) -> Option<IdleConnection> {
        let last = self.idle.back()?;
        let is_fastcgi = self.endpoint.is_fastcgi();
        let will_do = !once || !is_fastcgi && last.since.elapsed() < DOUBTFUL;
        will_do.then(|| self.idle.pop_back())?
    }

    /// The connection that has been idle longest, if a new one would exceed the slots. (There may be idle connections
    /// although a new one is needed: see `once`.)
    pub(super) fn surplus(&mut self) -> Option<IdleConnection> {
        let full = self.idle.len() + self.busy > self.slots;
        full.then(|| self.idle.pop_front())?
    }

    /// Returns the oldest leased element to the list.
    #[cfg(feature = "redis")]
    pub(super) fn return_oldest(&mut self, list: &mut ListState) {
        let Some(leased) = self.elements.leased.pop_front() else {
            return;
        };
        self.slots = self.elements.leased.len();
        list.returning.push(ReturnedElement {
            text: self.elements.text.clone(),
            number: leased.number,
        });
    }

    /// A slot was freed: an element that was held for long is returned if another proxy waits for one.
    #[cfg(feature = "redis")]
    pub(super) fn share_with_others(&mut self, list: &mut ListState) {
        if list.unreachable || list.others_waiting == 0 && !list.with_original {
            return;
        }
        let Some(leased) = self.elements.leased.front() else {
            return;
        };
        let now = Instant::now();
        if now.saturating_duration_since(leased.since) >= LONGEST_HOLD {
            self.return_oldest(list);
            // Ask for another one at once, behind those who wait.
            list.take_after = None;
            list.others_waiting = list.others_waiting.saturating_sub(1);
            if list.with_original {
                list.pause_until = Some(now + ORIGINAL_FIRST);
            }
        }
    }
}

/// A connection that was idle for this long may be closed by the server at any moment: only for requests that can be
/// repeated.
const DOUBTFUL: Duration = Duration::from_secs(1);
/// While others wait, an element is passed on here for this long. The original does not say whether it waits, so it gets
/// time to take the element.
#[cfg(feature = "redis")]
const LONGEST_HOLD: Duration = Duration::from_millis(100);
#[cfg(feature = "redis")]
const ORIGINAL_FIRST: Duration = Duration::from_millis(40);
