//! Backends that come from another process of this server, with their descriptors.
//!
//! They join as those do that dial in: the same limits hold, their keys must be known, and hang-ups are noticed. Other threads
//! than that of the dial-in addresses call this.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::{DialInAddress, DialInControl, DialInSettings};
use crate::amount::counted;
use crate::backend::identity::BackendIdentity;
use crate::backend::pool::{Backend, Pool};
use crate::backend::registration::Arrival;
use crate::budget::Charge;
use crate::net::conn::Conn;
use crate::net::stream::Stream;
use crate::stats::{self, Close};

/// A backend of another process.
#[derive(Debug)]
pub struct GivenBackend {
    /// Its connection, on which nothing is under way.
    pub socket: OwnedFd,
    /// The dial-in address as configured.
    pub address: String,
    /// What it has said about itself.
    pub identity: BackendIdentity,
    /// Its complete responses so far.
    pub responses: u64,
}

impl DialInAddress {
    /// Counts one more backend, unless a limit is reached, which is the error.
    pub(super) fn admit(&self) -> Result<(Charge, Charge), String> {
        let DialInSettings {
            backends,
            descriptors,
            ..
        } = &*self.settings;
        let Some(charges) = backends.charge(1).zip(descriptors.charge(1)) else {
            let limit = match (backends.used(), backends.most()) {
                (used, most) if used >= most => {
                    let most = counted(most, "backend");
                    format!("{most} connected already (limits.backends)")
                }
                _ => "there are no more descriptors for backends (ulimit -n)".to_owned(),
            };
            if !self.full_reported.swap(true, Ordering::Relaxed) {
                let name = self.pool.name();
                log::warn!("dial-in at {name}: {limit}; further ones are refused");
            }
            return Err(limit);
        };
        self.full_reported.store(false, Ordering::Relaxed);
        Ok(charges)
    }
}

impl DialInControl {
    /// Takes a backend over into the pool of its address.
    ///
    /// # Errors
    /// Why it was closed instead.
    pub fn adopt(&self, given: GivenBackend) -> Result<(), String> {
        let GivenBackend {
            socket,
            address: name,
            identity,
            responses,
        } = given;
        let refuse = |close| self.stats.backend_closed(close);
        let Some(address) = self.address(&name) else {
            refuse(Close::Removed);
            return Err("its address is not configured any more".to_owned());
        };
        let charges = address.admit().inspect_err(|_| refuse(Close::Overload))?;
        let conn = Conn::plain(Stream::from(socket));
        conn.stream().watch_peer();
        stats::add(&self.stats.joined);
        let pool = &address.pool;
        let number = self.number();
        let machine = pool.join_machine(&identity);
        let BackendIdentity { id, key, peer, .. } = identity.clone();
        let home = Arc::<Pool>::clone(pool);
        let arrival = Arrival::TakenOver { responses };
        let registration = self
            .connections
            .enter(number, home, identity, charges, arrival);
        // After it is in the list, where a hang-up is looked for, and before it is in the pool, which does not keep one that
        // has hung up.
        let event = EpollEvent::new(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET, number);
        let watched = self.epoll.add(&conn, event);
        let backend = Backend {
            pool: Arc::clone(pool),
            conn,
            id,
            key,
            peer,
            registration,
            machine,
            // Without TLS, so there is nothing to verify.
            verified: pool.verification(),
        };
        if let Err(error) = watched {
            backend.close(Close::Internal);
            return Err(error.desc().to_lowercase());
        }
        pool.offer(backend);
        Ok(())
    }

    /// The pool of an address.
    pub fn pool(&self, address: &str) -> Option<Arc<Pool>> {
        self.address(address)
            .map(|address| Arc::clone(&address.pool))
    }

    /// Stops noticing the hang-up of a backend that another process has now.
    pub fn forget(&self, socket: impl AsFd) {
        // Fails only if it is not watched.
        let _ = self.epoll.delete(socket);
    }

    fn address(&self, name: &str) -> Option<Arc<DialInAddress>> {
        self.addresses.lock().get(name).cloned()
    }
}
