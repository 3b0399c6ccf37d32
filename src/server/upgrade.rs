//! A server that replaces another process, or is replaced by one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::addresses::BackendListener;
use super::admin::AdminListener;
use super::handle::Server;
use super::operations;
use super::succession::link::ProcessLink;
use crate::backend::pool::Successor;
use crate::config::Address;
use crate::net::activation::ActivatedSockets;
use crate::net::listener::Listener;
use crate::process::channel::Channel;

impl Server {
    /// The listening sockets for clients, for backends and of the status address, each with its address as it is configured,
    /// for a process that follows this one; without those of the service manager.
    #[doc(hidden)]
    pub fn listeners(&self) -> [Vec<(String, Arc<Listener>)>; 3] {
        fn named<'a>(
            all: impl Iterator<Item = (&'a Address, &'a Vec<Arc<Listener>>)>,
        ) -> Vec<(String, Arc<Listener>)> {
            let named = all.flat_map(|(address, listeners)| {
                let of = |listener| (address.to_string(), Arc::clone(listener));
                let own = listeners.iter().filter(|listener| !listener.is_activated());
                own.map(of)
            });
            named.collect()
        }
        let running = self.running.lock();
        let clients = running.client_listeners.iter();
        let backends = running.backend_listeners.iter();
        let status = running.admin_listener.iter();
        [
            named(clients.map(|listener| (&listener.address, &listener.listeners))),
            named(backends.map(|listener| (&listener.address, &listener.listeners))),
            named(status.map(|listener| (&listener.address, &listener.listeners))),
        ]
    }

    /// The listening sockets of the service manager, for a process that follows this one.
    #[doc(hidden)]
    pub fn activated(&self) -> &ActivatedSockets {
        &self.activated
    }

    /// Another process has replaced this one, and accepts at the same addresses. It gets the idle backends and the idle
    /// clients over the channel, now and as they become idle, except those with TLS. The files of Unix sockets stay when this
    /// process ends. A drain must follow.
    ///
    /// # Errors
    /// Those of the system. The server is replaced nevertheless, and a drain closes what could not be given.
    #[doc(hidden)]
    pub fn hand_over(&self, channel: Channel) -> io::Result<()> {
        for (_, listener) in self.listeners().iter().flatten() {
            listener.hand_over();
        }
        // The next command after an upgrade has to reach the other process.
        let admin = self.running.lock().admin_listener.take();
        admin.into_iter().for_each(AdminListener::stop);
        self.shared.is_replaced.store(true, Ordering::Relaxed);
        let pools: Vec<_> = {
            let mut running = self.running.lock();
            BackendListener::stop_accepting(&mut running.backend_listeners, &self.control);
            let listeners = running.backend_listeners.iter();
            listeners
                .map(|listener| Arc::clone(&listener.pool))
                .collect()
        };
        let link = self.succession.set_successor(channel)?;
        // The first of all messages.
        let list = || operations::switched(&self.shared);
        self.shared.switching.hand_over(list, &link);
        *self.shared.successor.write() = Some(Arc::clone(&link));
        let successor: Arc<dyn Successor> = Arc::<ProcessLink>::clone(&link);
        for pool in pools {
            pool.set_successor(&successor);
        }
        self.sessions.give_idle();
        self.succession.report(&link);
        self.succession.hand_on_predecessors(&link);
        Ok(())
    }

    /// The process that this one has replaced has handed over: accepts connections, and takes over what it sends. The files of Unix sockets are removed
    /// when this one ends. Until then they are the other one's, which goes on if this one fails.
    ///
    /// # Errors
    /// Those of the system.
    #[doc(hidden)]
    pub fn take_over(&self, channel: Channel) -> io::Result<()> {
        for (_, listener) in self.listeners().iter().flatten() {
            listener.take_over();
        }
        // First, since only a backend of an address that accepts can be taken over.
        self.accept();
        self.succession.add_predecessor(channel).map(drop)
    }

    /// Whether a drain has begun.
    pub fn is_draining(&self) -> bool {
        self.shared.is_draining()
    }

    /// Whether another process has taken over; see [`Server::hand_over`].
    #[doc(hidden)]
    pub fn is_replaced(&self) -> bool {
        self.shared.is_replaced.load(Ordering::Relaxed)
    }

    /// Asks again for backends for the requests that wait here, after this process was replaced. To be called every second
    /// or two: the process that was asked may have been replaced, too.
    #[doc(hidden)]
    pub fn ask_again(&self) {
        let running = self.running.lock();
        let listeners = running.backend_listeners.iter();
        let pools: Vec<_> = listeners
            .map(|listener| Arc::clone(&listener.pool))
            .collect();
        drop(running);
        pools.iter().for_each(|pool| pool.ask_again());
    }

    /// How often the process that has replaced this one has asked it to stop.
    #[doc(hidden)]
    pub fn stop_requests(&self) -> usize {
        self.succession.stops()
    }

    /// Asks the processes that this one has replaced to stop: the first time as after TERM, the second time at once.
    #[doc(hidden)]
    pub fn stop_predecessors(&self) {
        self.succession.stop_predecessors();
    }

    /// The number of processes that this one has replaced and that have not ended.
    #[doc(hidden)]
    pub fn predecessors(&self) -> usize {
        self.succession.predecessors()
    }
}
