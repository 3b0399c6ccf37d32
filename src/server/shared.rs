//! What the threads of a server share, and what runs on its acceptors and on the tick.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::admission::Clients;
use super::checks::Checks;
use super::drainer::Drainer;
use super::session::Session;
use super::snapshot::Snapshot;
use crate::backend::group::Journal;
use crate::backend::lease::Lease;
use crate::budget::{Budget, Shares};
use crate::content::gzip::Compressors;
use crate::exchange::ClientAddress;
use crate::net::conn::Conn;
use crate::net::poller::Poller;
use crate::net::stream::{Peer, Stream, network};
use crate::net::tls::Acceptor;
use crate::net::tunnel::Tunnels;
use crate::relay::spool::Room;
use crate::stats::{self, Close, Stats};

/// What the threads of a server share.
pub(crate) struct Shared {
    pub(crate) poller: Poller<Session>,
    pub(crate) tunnels: Tunnels<Session, Lease>,
    /// Reads the rest of responses that no visitor gets.
    pub(crate) drainer: Drainer,
    pub(crate) clients: Clients,
    pub(crate) stats: Arc<Stats>,
    pub(super) snapshot: RwLock<Arc<Snapshot>>,
    /// Changes with the snapshot, so that workers need not take the lock to see that it did not.
    pub(super) generation: AtomicU64,
    pub(super) draining: AtomicBool,
    /// Bytes of memory (`limits.memory`).
    pub(crate) memory: Arc<Budget>,
    /// Bytes on disk (`limits.spool`).
    pub(super) disk: Arc<Shares>,
    /// For responses that are compressed on their way (`gzip`).
    pub(crate) compressors: Arc<Compressors>,
    /// Descriptors for backends that dial in, at all addresses.
    pub(super) descriptors: Arc<Budget>,
    /// Descriptors for these and for visitors.
    pub(super) connections: AtomicU64,
    /// Requests that wait for a backend, at all sites.
    pub(super) waiting: Arc<AtomicUsize>,
    /// Passwords that are checked.
    pub(super) checks: Arc<Checks>,
    /// Backends that connect and disconnect.
    pub(super) journal: Arc<Journal>,
    /// When idle connections may be looked for, to make room.
    pub(super) shedding: ScanBackoff,
}

/// Keeps what takes its time and was in vain from taking more than a part of all the time.
#[derive(Default)]
pub(super) struct ScanBackoff(Mutex<Option<Instant>>);

impl Shared {
    /// The configuration as it is now. For one request, take it once.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read())
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Where to keep the body of a client's request, and what the client does not take of the response.
    pub(crate) fn room(
        &self,
        snapshot: &Snapshot,
        site: Option<usize>,
        client: &ClientAddress,
    ) -> Room {
        let config = &snapshot.config;
        let limits = site.map_or(&config.limits, |site| &snapshot.sites[site].settings.limits);
        Room {
            memory: Arc::clone(&self.memory),
            disk: Arc::clone(&self.disk),
            client: client.own_address().map(network),
            directory: config.temporary_directory.clone(),
            most_in_memory: limits.body_memory,
        }
    }

    pub(super) fn set_snapshot(&self, snapshot: Arc<Snapshot>) {
        self.memory.limit(snapshot.config.memory);
        self.disk.all().limit(snapshot.config.limits.spool);
        *self.snapshot.write() = snapshot;
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Takes in a connection that was just accepted. Runs on an acceptor.
    pub(super) fn accepted(self: &Arc<Self>, stream: Stream, peer: Peer, tls: Option<&Acceptor>) {
        let snapshot = self.snapshot();
        let limits = &snapshot.config.limits;
        let left = self.connections.load(Ordering::Relaxed);
        let left = left.saturating_sub(self.descriptors.used());
        let most = left.min(limits.connections as u64);
        if stats::get(&self.stats.open) >= most && !self.shed() {
            self.turn_away(&peer, "limits.connections");
            return;
        }
        let most = limits.connections_per_client;
        let counted = match peer.ip().filter(|_| most > 0 && !snapshot.trusts(&peer)) {
            None => None,
            Some(ip) => match self.clients.enter(ip, most) {
                Some(counted) => Some(counted),
                None => {
                    self.turn_away(&peer, "limits.connections_per_client");
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
                log::error!("visitor {peer}: {error}");
                if let Some(counted) = counted {
                    self.clients.leave(counted);
                }
                return;
            }
        };
        let deadline = Instant::now() + patience;
        let make = |token| Box::new(Session::new(Arc::clone(self), token, conn, peer, counted));
        if let Err(error) = self.poller.enter(make, deadline) {
            log::warn!("visitor {peer}: {error}");
        }
    }

    /// Closes idle connections, those that would be closed next anyhow, to make room. Returns whether there were any.
    pub(crate) fn shed(&self) -> bool {
        // A flood of newcomers while nobody is idle must not keep the workers from the poller.
        let begun = Instant::now();
        if !self.shedding.is_due(begun) {
            return false;
        }
        // Some at a time, since looking for them takes a look at all.
        let some = usize::try_from(stats::get(&self.stats.open) / 64 + 1).unwrap_or(usize::MAX);
        let idle = self.poller.take_earliest(some, Session::is_idle);
        let mut any = false;
        for session in idle {
            match session.has_input() {
                true => self.poller.hand_over(session),
                false => {
                    any = true;
                    session.close(Close::Overload);
                }
            }
        }
        if !any {
            self.shedding.rest(begun, Instant::now());
        }
        any
    }

    /// Gives up the visitors that read most slowly, where they hold backends that other requests wait for, or room on disk
    /// that others need.
    fn relieve(&self, now: Instant) {
        let needs_room = self.disk.take_exhausted();
        let held = self.disk.waiting();
        let needs_backends = held > 0 && self.waiting.load(Ordering::Relaxed) > 0;
        if !needs_room && !needs_backends {
            return;
        }
        let key = |session: &Session, _| {
            let (reader, is_waited_for) = session.reader(now)?;
            let is_in_the_way = needs_room && reader.on_disk > 0 || is_waited_for;
            let is_slow = reader.age >= TIME_TO_READ && reader.rate < SLOW;
            // Of two that are as slow the one that gives back more goes first.
            (is_in_the_way && is_slow).then_some((reader.rate, Reverse(reader.on_disk)))
        };
        // Some at a time, for one may be enough.
        let some = held / 8 + 1;
        let slow = self.poller.take_lowest(some, key);
        if slow.is_empty() {
            return;
        }
        log::warn!(
            "limits.spool reached: {} responses are cut, whose visitors read less than {SLOW} bytes a second",
            slow.len()
        );
        for mut session in slow {
            session.give_up_reader();
            self.poller.hand_over(session);
        }
    }

    /// Closes a connection that was just accepted, for a limit.
    fn turn_away(&self, peer: &Peer, limit: &str) {
        stats::add(&self.stats.accepted);
        stats::add(&self.stats.open);
        self.stats.visitor_closed(Close::Overload);
        log::debug!("visitor {peer} closed: {limit} reached: reason=overload");
    }

    /// Closes sessions that have nothing to do, in a drain. `fresh`: also those that had no request yet.
    pub(super) fn close_idle(&self, fresh: bool) {
        let idle = self
            .poller
            .take_all(|session, _| session.is_idle() && (fresh || !session.is_fresh()));
        for session in idle {
            match session.has_input() {
                true => self.poller.hand_over(session),
                false => session.close(Close::Draining),
            }
        }
    }

    /// Closes or hands over sessions whose deadlines are over, and has access logs written, until the alarm is stopped.
    /// Runs on the tick thread.
    pub(super) fn tick(&self) {
        let mut flushed = Instant::now();
        let mut relieved = flushed;
        while self.poller.alarm().wait(LONGEST_PAUSE) {
            let now = Instant::now();
            for session in self.poller.expire(now) {
                if let Some(session) = session.expire() {
                    self.poller.hand_over(session);
                }
            }
            for servers in self.snapshot().servers() {
                if let Some(next) = servers.tick(now) {
                    self.poller.alarm().set(next);
                }
            }
            if now.saturating_duration_since(relieved) >= LONGEST_PAUSE {
                relieved = now;
                self.relieve(now);
            }
            if flushed.elapsed() >= LONGEST_PAUSE {
                flushed = now;
                for (_, log) in self.snapshot().access_logs() {
                    log.flush();
                }
                self.compressors.tick();
                self.journal.tick(now, false);
            }
        }
    }
}

impl ScanBackoff {
    /// Whether it may be tried again.
    fn is_due(&self, now: Instant) -> bool {
        self.0.lock().is_none_or(|due| due <= now)
    }

    /// It was in vain, and took from `begun` until now.
    fn rest(&self, begun: Instant, now: Instant) {
        *self.0.lock() = Some(now + now.saturating_duration_since(begun) * IN_VAIN);
    }
}

/// So many times as long as something was tried in vain it is left alone.
const IN_VAIN: u32 = 10;
/// How often the tick looks after servers and has access logs written; it looks at deadlines when they are over.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A visitor that reads fewer bytes a second may be given up when others need its backend, or what is kept for it, once it
/// has had so long to read.
const SLOW: u64 = 100_000;
const TIME_TO_READ: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_vain_takes_a_tenth_of_the_time() {
        let (pace, start) = (ScanBackoff::default(), Instant::now());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert!(pace.is_due(start));
        pace.rest(start, at(3));
        assert!(!pace.is_due(at(3)) && !pace.is_due(at(32)) && pace.is_due(at(33)));
        pace.rest(at(40), at(40));
        assert!(pace.is_due(at(40)));
    }
}
