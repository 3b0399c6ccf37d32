//! The machines that backends dial in from, and how busy each one is.
//!
//! A machine is a host, by its address; all processes that connect through a Unix socket or from the same address are
//! one, unless their ids are different names. The pool divides requests among machines by the share of their connections in use (`order: least`), and among
//! equals by their recent response time.
//!
//! Called under the pool's lock ([`Machine::load`], [`IdleList`]) and by workers at the end of an exchange. Takes a lock only
//! for a response that has not come in time, and for the first one after that.

use std::cmp::Ordering as Compared;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::identity::{BackendIdentity, MachineHost};
use super::reports::{self, Reports};

/// A host that backends with one key dial in from.
#[derive(Debug, Default)]
pub(super) struct Machine {
    /// Its connected backends, idle or not.
    connected: AtomicUsize,
    /// The moving average of its response times in microseconds, as of `measured`; 0: none yet.
    average: AtomicU32,
    /// When a response time was last added, in seconds since the first use of this module.
    measured: AtomicU32,
    /// Responses in a row that did not come in time. Changed under the lock of `reports`.
    late: AtomicU32,
    /// When the last one of them was due, in the same seconds.
    late_at: AtomicU32,
    /// Its idle backends.
    pub(super) idle: IdleList,
    /// Those that are drained.
    pub(super) drained: IdleList,
    /// That it hangs or responds again, for the log.
    reports: Mutex<Reports<MachineChange>>,
}

/// A machine begins to count as hanging, or ends that.
#[derive(Debug)]
struct MachineChange {
    hangs: bool,
    /// The machine and its dial-in address, as the log names them.
    name: String,
}

/// A list of idle backends of one machine. The pool's [idle backends](super::idle) have its entries; the pool's lock guards it.
///
/// It is kept here so that adding and taking a backend need not look for it.
#[derive(Debug)]
pub(super) struct IdleList {
    length: AtomicUsize,
    oldest: AtomicUsize,
    newest: AtomicUsize,
    /// Whether the pool knows it.
    listed: AtomicBool,
}

/// How busy a machine is. The least is the one to take.
#[derive(Clone, Copy, Debug)]
pub(super) struct MachineLoad {
    /// Its last responses did not come in time.
    hangs: bool,
    busy: usize,
    connected: usize,
    /// The power of two of its response time, so that small differences do not matter.
    slowness: u32,
}

/// The machines of a pool, by key and host.
#[derive(Debug, Default)]
pub(super) struct Machines {
    all: Mutex<HashMap<KeyAndHost, Arc<Machine>>>,
    count: AtomicUsize,
}

type KeyAndHost = (Box<[u8]>, MachineHost);

/// A connected backend's membership of its machine.
#[derive(Debug)]
pub struct MachineMember(Arc<Machine>);

impl Machines {
    /// Adds a connected backend.
    pub(super) fn join(&self, backend: &BackendIdentity) -> MachineMember {
        let mut all = self.all.lock();
        let of_both = (backend.key.clone(), backend.host());
        let machine = Arc::clone(all.entry(of_both).or_default());
        machine.connected.fetch_add(1, Ordering::Relaxed);
        // Machines come and go rarely, and so do connections; that is a good time to forget the former.
        let now = Instant::now();
        all.retain(|_, machine| machine.connected() > 0 || machine.is_remembered(now));
        self.count.store(all.len(), Ordering::Relaxed);
        MachineMember(machine)
    }

    /// Whether there may be a choice.
    pub(super) fn are_several(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 1
    }
}

impl Machine {
    /// The number of its connected backends.
    pub(super) fn connected(&self) -> usize {
        self.connected.load(Ordering::Relaxed)
    }

    /// Its load, with so many of its backends idle.
    pub(super) fn load(&self, idle: usize, now: Instant) -> MachineLoad {
        let connected = self.connected();
        let average = self.average.load(Ordering::Relaxed);
        let age = seconds(now).saturating_sub(self.measured.load(Ordering::Relaxed));
        // A machine that was slow is tried again some time later.
        let average = average.checked_shr(age / HALF_LIFE).unwrap_or(0);
        MachineLoad {
            hangs: self.late.load(Ordering::Relaxed) >= HANGS,
            busy: connected.saturating_sub(idle),
            connected,
            slowness: u32::BITS - average.leading_zeros(),
        }
    }

    /// Whether it hung a short time ago: it counts as hanging when it dials in again.
    fn is_remembered(&self, now: Instant) -> bool {
        let age = seconds(now).saturating_sub(self.late_at.load(Ordering::Relaxed));
        self.late.load(Ordering::Relaxed) > 0 && age < REMEMBERED
    }

    /// A response has not come in time. If the machine counts as hanging from now on, that is logged with this name.
    pub(super) fn add_late_response(&self, name: impl FnOnce() -> String) {
        {
            let mut reports = self.reports.lock();
            let now = seconds(Instant::now());
            self.late_at.store(now, Ordering::Relaxed);
            if self.late.fetch_add(1, Ordering::Relaxed) + 1 != HANGS {
                return;
            }
            reports.add(MachineChange {
                hangs: true,
                name: name(),
            });
        }
        self.report_changes();
    }

    /// A response has come. If the machine counted as hanging, that is logged with this name.
    pub(super) fn add_response(&self, name: impl FnOnce() -> String) {
        // Mostly it is zero, and a plain read leaves the cache line shared.
        if self.late.load(Ordering::Relaxed) == 0 {
            return;
        }
        {
            let mut reports = self.reports.lock();
            if self.late.swap(0, Ordering::Relaxed) < HANGS {
                return;
            }
            reports.add(MachineChange {
                hangs: false,
                name: name(),
            });
        }
        self.report_changes();
    }

    fn report_changes(&self) {
        reports::log_all(
            |goes_on| self.reports.lock().next(goes_on),
            |MachineChange { hangs, name }| match hangs {
                true => log::warn!(
                    "machine {name}: {HANGS} responses in a row did not come in time; others go first"
                ),
                false => log::info!("machine {name} responds again"),
            },
        );
    }

    /// Adds a response time to the average. Of two at the same time, one may be lost.
    pub(super) fn add_response_time(&self, time: Duration, now: Instant) {
        let sample = u32::try_from(time.min(LONGEST).as_micros()).unwrap_or(u32::MAX);
        let average = match self.average.load(Ordering::Relaxed) {
            0 => sample,
            average => average - average / WEIGHT + sample / WEIGHT,
        };
        self.average.store(average.max(1), Ordering::Relaxed);
        self.measured.store(seconds(now), Ordering::Relaxed);
    }
}

impl Default for IdleList {
    fn default() -> Self {
        Self {
            length: AtomicUsize::new(0),
            oldest: AtomicUsize::new(NO_CELL),
            newest: AtomicUsize::new(NO_CELL),
            listed: AtomicBool::new(false),
        }
    }
}

impl IdleList {
    /// How many backends are in it.
    pub(super) fn len(&self) -> usize {
        self.length.load(Ordering::Relaxed)
    }

    /// The cell of the oldest one, or [`NO_CELL`].
    pub(super) fn oldest(&self) -> usize {
        self.oldest.load(Ordering::Relaxed)
    }

    /// The cell of the newest one, or [`NO_CELL`].
    pub(super) fn newest(&self) -> usize {
        self.newest.load(Ordering::Relaxed)
    }

    /// A backend in this cell becomes the newest. Returns the cell of the one before it.
    pub(super) fn push(&self, cell: usize) -> usize {
        let before = self.newest();
        if before == NO_CELL {
            self.oldest.store(cell, Ordering::Relaxed);
        }
        self.newest.store(cell, Ordering::Relaxed);
        self.length.store(self.len() + 1, Ordering::Relaxed);
        before
    }

    /// The backend in this cell leaves, with those before and after it.
    pub(super) fn remove(&self, cell: usize, before: usize, after: usize) {
        if self.oldest() == cell {
            self.oldest.store(after, Ordering::Relaxed);
        }
        if self.newest() == cell {
            self.newest.store(before, Ordering::Relaxed);
        }
        self.length.store(self.len() - 1, Ordering::Relaxed);
    }

    /// Notes whether the pool knows it, and returns whether it did.
    pub(super) fn set_listed(&self, listed: bool) -> bool {
        let before = self.listed.load(Ordering::Relaxed);
        self.listed.store(listed, Ordering::Relaxed);
        before
    }
}

impl MachineMember {
    pub(super) const fn machine(&self) -> &Arc<Machine> {
        &self.0
    }
}

impl Drop for MachineMember {
    fn drop(&mut self) {
        self.0.connected.fetch_sub(1, Ordering::Relaxed);
    }
}

impl MachineLoad {
    /// Compares whether they hang, then the shares of connections in use, then the response times.
    pub(super) fn compare(&self, other: &Self) -> Compared {
        let shares = (self.busy * other.connected).cmp(&(other.busy * self.connected));
        let hang = self.hangs.cmp(&other.hangs);
        hang.then(shares).then(self.slowness.cmp(&other.slowness))
    }
}

/// Seconds since the first call.
fn seconds(now: Instant) -> u32 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u32::try_from(now.saturating_duration_since(*START).as_secs()).unwrap_or(u32::MAX)
}

/// No cell.
pub(super) const NO_CELL: usize = usize::MAX;
/// A new response time counts for one part in so many.
const WEIGHT: u32 = 8;
/// Longer responses count as long as this: an event stream is not a slow response.
const LONGEST: Duration = Duration::from_secs(10);
/// So many responses in a row that did not come in time make a machine the last choice.
const HANGS: u32 = 3;
/// For how many seconds a machine that hangs is remembered while none of its backends is connected.
const REMEMBERED: u32 = 60;
/// Seconds without a response after which the average counts half.
const HALF_LIFE: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::stream::Peer;

    fn join(machines: &Machines, id: &[u8], key: &[u8], peer: Peer) -> MachineMember {
        machines.join(&BackendIdentity::test(id, key, peer))
    }

    fn tcp(host: u8) -> Peer {
        Peer::Tcp(([127, 0, 0, host], 1).into())
    }

    #[test]
    fn machines_are_hosts_with_a_key() {
        let machines = Machines::default();
        let first = join(&machines, b"7f0000011a2b", b"", tcp(1));
        assert!(!machines.are_several());
        let same = join(&machines, b"7f0000011a2c", b"", tcp(1));
        assert!(Arc::ptr_eq(first.machine(), same.machine()));
        assert_eq!(first.machine().connected(), 2);
        let other = join(&machines, b"7f0000011a2b", b"key", tcp(1));
        let unix = join(&machines, b"7f0000011a2b", b"", Peer::Unix);
        let named = join(&machines, b"web3        ", b"", tcp(1));
        assert!(machines.are_several());
        for machine in [&other, &unix, &named] {
            assert_eq!(machine.machine().connected(), 1);
        }
        drop((other, unix, named));
        let _third = join(&machines, b"7f0000011a2d", b"", tcp(1));
        assert!(!machines.are_several());
        assert_eq!(first.machine().connected(), 3);
    }

    #[test]
    fn the_share_in_use_counts_and_then_the_response_time() {
        let machines = Machines::default();
        let of = |host| join(&machines, b"7f0000011a2b", b"", tcp(host));
        let small: Vec<_> = (0..2).map(|_| of(1)).collect();
        let large: Vec<_> = (0..8).map(|_| of(2)).collect();
        let (small, large) = (small[0].machine(), large[0].machine());
        let now = Instant::now();
        let compare = |small_idle, large_idle, now| {
            small
                .load(small_idle, now)
                .compare(&large.load(large_idle, now))
        };
        assert_eq!(compare(2, 8, now), Compared::Equal);
        assert_eq!(compare(1, 4, now), Compared::Equal);
        assert_eq!(compare(1, 5, now), Compared::Greater);
        assert_eq!(compare(1, 3, now), Compared::Less);
        small.add_response_time(Duration::from_millis(40), now);
        large.add_response_time(Duration::from_millis(10), now);
        assert_eq!(compare(2, 8, now), Compared::Greater);
        assert_eq!(compare(2, 7, now), Compared::Less);
        // Recent responses count.
        for _ in 0..30 {
            small.add_response_time(Duration::from_millis(1), now);
        }
        assert_eq!(compare(2, 8, now), Compared::Less);
        // A machine that hangs is the last choice, until it responds.
        let name = || "small".to_owned();
        for late in [Compared::Less, Compared::Less, Compared::Greater] {
            small.add_late_response(name);
            assert_eq!(compare(2, 2, now), late);
        }
        small.add_response(name);
        assert_eq!(compare(2, 2, now), Compared::Less);
        // What was long ago does not.
        assert_eq!(
            compare(2, 8, now + Duration::from_secs(3600)),
            Compared::Equal
        );
    }
}
