//! Limits the connections of a client and of a site.
//!
//! [`Clients`] counts the connections of each client's address where that is limited; acceptors call it. [`Allowance`]
//! counts the upgraded connections of a site; workers call it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::net::stream::network;
use crate::stats::{self, Stats};

/// The number of upgraded connections that a site may have.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    used: AtomicUsize,
    /// The limit, which a reload may change.
    most: AtomicUsize,
}

/// Counts an upgraded connection, or one that may become so, for as long as it lives.
#[derive(Debug)]
pub(crate) struct TunnelPermit {
    allowance: Arc<Allowance>,
    /// Whether it has become one.
    used: Option<Arc<Stats>>,
}

impl Allowance {
    /// Changes the limit.
    pub(crate) fn limit(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Counts one more, unless the limit is reached.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<TunnelPermit> {
        // Dropping the permit takes back what was added, also where the limit is exceeded.
        let permit = TunnelPermit {
            allowance: Arc::clone(self),
            used: None,
        };
        let used = self.used.fetch_add(1, Ordering::Relaxed);
        (used < self.most.load(Ordering::Relaxed)).then_some(permit)
    }
}

impl TunnelPermit {
    /// Notes that the connection is upgraded now.
    pub(crate) fn make_use(&mut self, stats: &Arc<Stats>) {
        stats::add(&stats.tunnels);
        self.used = Some(Arc::clone(stats));
    }
}

impl Drop for TunnelPermit {
    fn drop(&mut self) {
        self.allowance.used.fetch_sub(1, Ordering::Relaxed);
        if let Some(stats) = &self.used {
            stats.tunnels.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The connections of each client's address, while that is limited.
#[derive(Debug, Default)]
pub(crate) struct Clients(Mutex<HashMap<IpAddr, usize>>);

/// A connection that is counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CountedConnection(IpAddr);

impl Clients {
    /// Counts one more connection of an address, unless the address has reached the limit. The caller must call
    /// [`Clients::leave`].
    pub(crate) fn enter(&self, address: IpAddr, most: usize) -> Option<CountedConnection> {
        let address = network(address);
        let mut counts = self.0.lock();
        let count = counts.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(CountedConnection(address))
    }

    /// Uncounts a connection that was closed.
    pub(crate) fn leave(&self, CountedConnection(address): CountedConnection) {
        let mut counts = self.0.lock();
        if let Some(count) = counts.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_address_and_network() {
        let clients = Clients::default();
        let enter = |address: &str| clients.enter(address.parse().unwrap(), 2);
        let first = enter("192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_some());
        assert!(enter("192.0.2.1").is_none());
        assert!(enter("192.0.2.2").is_some());
        clients.leave(first);
        assert!(enter("192.0.2.1").is_some());
        assert!(enter("2001:db8::1").is_some());
        let second = enter("2001:db8::2:3").unwrap();
        assert!(enter("2001:db8::4").is_none());
        assert!(enter("2001:db8:0:1::4").is_some());
        clients.leave(second);
        assert!(enter("2001:db8::4").is_some());
    }

    #[test]
    fn tunnels_are_counted_when_limits_change() {
        let (allowance, stats) = (Arc::new(Allowance::default()), Arc::new(Stats::new()));
        assert!(allowance.enter().is_none());
        allowance.limit(2);
        let mut first = allowance.enter().unwrap();
        let second = allowance.enter().unwrap();
        assert!(allowance.enter().is_none());
        first.make_use(&stats);
        assert_eq!(stats::get(&stats.tunnels), 1);
        allowance.limit(1);
        drop(second);
        assert!(allowance.enter().is_none());
        drop(first);
        assert_eq!(stats::get(&stats.tunnels), 0);
        assert!(allowance.enter().is_some());
    }
}
