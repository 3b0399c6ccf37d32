//! Connections that have not sent their preamble: how many there may be, and which one is closed if there are more.
//!
//! They have a small limit of their own, in total and for each client address, so that a client without the key cannot
//! exhaust `limits.backends`. If there are too many, the oldest is closed: a backend sends its preamble at once, so the
//! oldest is the least likely to be a backend.
//!
//! **Invariants**: `counts` is the number of connections of each address, without zeros.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use crate::net::stream::Peer;

/// All newcomers by number; the oldest has the lowest.
#[derive(Debug)]
pub(super) struct Newcomers<T> {
    all: BTreeMap<u64, (Option<IpAddr>, T)>,
    /// By address; `None`: Unix sockets.
    counts: HashMap<Option<IpAddr>, usize>,
}

/// The limit that is exceeded, and the number of the oldest connection that it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Surplus {
    /// The limit.
    pub(super) most: usize,
    /// The limit of one address, rather than the total.
    pub(super) of_address: bool,
    pub(super) oldest: u64,
}

impl<T> Newcomers<T> {
    /// No newcomers.
    pub(super) fn new() -> Self {
        Self {
            all: BTreeMap::new(),
            counts: HashMap::new(),
        }
    }

    /// Adds one. Numbers only increase.
    pub(super) fn insert(&mut self, number: u64, peer: &Peer, newcomer: T) {
        let network = peer.network();
        self.all.insert(number, (network, newcomer));
        *self.counts.entry(network).or_default() += 1;
    }

    /// Removes one.
    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        let (network, newcomer) = self.all.remove(&number)?;
        if let Some(count) = self.counts.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&network);
            }
        }
        Some(newcomer)
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        Some(&mut self.all.get_mut(&number)?.1)
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        self.all.contains_key(&number)
    }

    /// The numbers of those for which something is true.
    pub(super) fn which(&self, holds: impl Fn(&T) -> bool) -> Vec<u64> {
        let all = self.all.iter();
        let those = all.filter(|(_, (_, newcomer))| holds(newcomer));
        those.map(|(number, _)| *number).collect()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.all.values().map(|(_, newcomer)| newcomer)
    }

    /// Whether there are more than `most`, or more from this peer's address than one address may have.
    pub(super) fn surplus(&self, peer: &Peer, most: usize) -> Option<Surplus> {
        let network = peer.network();
        let each = (most / SHARE).max(1);
        if self.counts.get(&network).is_some_and(|count| *count > each) {
            let mut all = self.all.iter();
            let (oldest, _) = all.find(|(_, (other, _))| *other == network)?;
            return Some(Surplus {
                most: each,
                of_address: true,
                oldest: *oldest,
            });
        }
        let (oldest, _) = self.all.first_key_value()?;
        (self.all.len() > most).then_some(Surplus {
            most,
            of_address: false,
            oldest: *oldest,
        })
    }
}

/// The share of the limit that one address may have, as a divisor.
const SHARE: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        Peer::Tcp((address.parse::<IpAddr>().unwrap(), 1).into())
    }

    #[test]
    fn closes_the_oldest() {
        let mut newcomers = Newcomers::new();
        let mut enter = |number: u64, address: &str| {
            let peer = peer(address);
            newcomers.insert(number, &peer, ());
            let surplus = newcomers.surplus(&peer, 8);
            if let Some(Surplus { oldest, .. }) = surplus {
                newcomers.remove(oldest);
                assert_eq!(newcomers.surplus(&peer, 8), None);
            }
            surplus.map(|surplus| (surplus.oldest, surplus.of_address))
        };
        assert_eq!(enter(0, "192.0.2.1"), None);
        assert_eq!(enter(1, "2001:db8::1"), None);
        assert_eq!(enter(2, "2001:db8::2:3"), None);
        // Two for each address; with IPv6 an address is a network of 64 bits.
        assert_eq!(enter(3, "2001:db8::4"), Some((1, true)));
        assert_eq!(enter(4, "2001:db8:0:1::4"), None);
        for number in 5..9 {
            assert_eq!(enter(number, &format!("192.0.2.{number}")), None);
        }
        assert_eq!(enter(9, "192.0.2.9"), Some((0, false)));
        assert_eq!(enter(10, "192.0.2.10"), Some((2, false)));
        // A place that has become free can be used again.
        newcomers.remove(3);
        newcomers.insert(11, &peer("2001:db8::5"), ());
        assert_eq!(newcomers.surplus(&peer("2001:db8::5"), 8), None);
        assert_eq!(newcomers.which(|()| true), [4, 5, 6, 7, 8, 9, 10, 11]);
    }

    #[test]
    fn local_processes_count_as_one_address() {
        let mut newcomers = Newcomers::new();
        for number in 0..3 {
            newcomers.insert(number, &Peer::Unix, ());
        }
        let surplus = newcomers.surplus(&Peer::Unix, 8).unwrap();
        assert_eq!((surplus.oldest, surplus.most), (0, 2));
    }
}
