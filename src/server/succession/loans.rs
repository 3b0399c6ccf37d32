//! Backends that another process has asked for: a request waits there, and its turn in the queue is kept here.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Instant;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::link::ProcessLink;
use crate::backend::pool::{
    self, Pool, PoolAcquired, PoolLease, PoolSelector, PoolTicket, Successor,
};
use crate::backend::waiting::WaitingCount;
use crate::config::Order;
use crate::preamble::Id;
use crate::server::snapshot::{Site, Snapshot};

/// The requests of one other process that wait for backends of this one, oldest first.
pub(super) struct Loans {
    tickets: VecDeque<PoolTicket>,
    /// They do not count for the limits of sites: they were admitted where they wait.
    waiting: Arc<WaitingCount>,
    bell: Arc<Bell>,
    waker: Waker,
}

/// Rings when a ticket was given a backend.
struct Bell(EventFd);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        // It fails only after 2^64 rings.
        let _ = self.0.write(1);
    }
}

impl Loans {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let bell = Arc::new(Bell(EventFd::from_flags(flags)?));
        let waiting = Arc::new(WaitingCount::new(Arc::default()));
        waiting.limit(usize::MAX, usize::MAX);
        Ok(Self {
            tickets: VecDeque::new(),
            waiting,
            waker: Waker::from(Arc::clone(&bell)),
            bell,
        })
    }

    /// Queues a request of the other process, or lends it a backend at once: of several idle ones by this order.
    pub(super) fn add(
        &mut self,
        pool: Arc<Pool>,
        keys: Vec<Box<[u8]>>,
        id: Option<Id>,
        order: Order,
        link: &ProcessLink,
    ) {
        // The oldest may be served or gone by now; a request that still waits asks again.
        if self.tickets.len() >= MOST {
            self.tickets.pop_front();
        }
        let selector = PoolSelector {
            pools: &[pool],
            keys: &Arc::from(keys),
            id: id.as_ref().map(Id::as_bytes),
            order,
            waiting: &self.waiting,
        };
        match pool::acquire(&selector, &mut None, Instant::now()) {
            Ok(PoolAcquired::Ready(lease)) => lend(lease, link),
            Ok(PoolAcquired::Queued(ticket)) => {
                if let Some(ticket) = advance(ticket, &self.waker, link) {
                    self.tickets.push_back(ticket);
                }
            }
            // There is no limit.
            Err(_) => {}
        }
    }

    /// Forgets all requests.
    pub(super) fn clear(&mut self) {
        self.tickets.clear();
    }

    /// The descriptor that is readable when [`Loans::advance`] has something to do.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.bell.0.as_fd()
    }

    /// Lends what the requests were given.
    pub(super) fn advance(&mut self, link: &ProcessLink) {
        if self.bell.0.read().is_err() {
            return;
        }
        let tickets = self.tickets.drain(..);
        let left = tickets.filter_map(|ticket| advance(ticket, &self.waker, link));
        self.tickets = left.collect();
    }
}

/// The order of the site whose backends connect here with one of these keys. (What the other process asks for does not name
/// the site.)
pub(super) fn order(snapshot: &Snapshot, pool: &Arc<Pool>, keys: &[Box<[u8]>]) -> Order {
    let is_of = |site: &&Site| {
        let mut pools = site.all_pools();
        pools.any(|own| Arc::ptr_eq(own, pool)) && site.keys.iter().any(|key| keys.contains(key))
    };
    let site = snapshot.sites.iter().find(is_of);
    site.map_or(Order::Least, |site| site.settings.order)
}

/// Lends the backend that a request was given; returns the ticket if there is none yet.
fn advance(mut ticket: PoolTicket, waker: &Waker, link: &ProcessLink) -> Option<PoolTicket> {
    loop {
        if let Some(lease) = ticket.take() {
            lend(lease, link);
            return None;
        }
        if ticket.wake_with(waker.clone()) {
            return Some(ticket);
        }
    }
}

fn lend(lease: PoolLease, link: &ProcessLink) {
    let Some(backend) = lease.into_backend() else {
        return;
    };
    let pool = Arc::clone(&backend.pool);
    // The keys of TLS cannot leave the process.
    let refused = match backend.conn.is_secure() {
        true => Err(Box::new(backend)),
        false => link.give(backend),
    };
    if let Err(backend) = refused {
        pool.offer(*backend);
    }
}

/// Most requests of another process that have a place in queues here.
const MOST: usize = 1024;
