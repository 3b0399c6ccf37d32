//! Listens at the status address.

use std::io;
use std::sync::Arc;

use super::connection;
use super::context::AdminContext;
use crate::config::{Address, Config, StatusConfig};
use crate::net::listener::{BindError, Listener, SocketFile, Sockets, Stop};
use crate::process;
use crate::server::threads::PreparedThread;

/// The status address, and the threads that accept there.
pub(in crate::server) struct AdminListener {
    pub(in crate::server) address: Address,
    pub(in crate::server) listeners: Vec<Arc<Listener>>,
    stop: Stop,
    threads: Vec<PreparedThread>,
}

/// The status address, bound and not served yet.
pub(in crate::server) struct NewAdminListener {
    address: Address,
    listeners: Vec<Listener>,
}

impl NewAdminListener {
    /// Binds the status address, if the configuration has one. Only the user of the server may connect to a Unix socket.
    ///
    /// # Errors
    /// The system refuses it.
    pub(in crate::server) fn bind(
        config: &Config,
        inherited: &Sockets,
    ) -> Result<Option<Self>, BindError> {
        let Some(StatusConfig { at, .. }) = &config.status else {
            return Ok(None);
        };
        let file = SocketFile {
            mode: 0o600,
            ..SocketFile::default()
        };
        Ok(Some(Self {
            address: at.clone(),
            listeners: Listener::bind_with(at, &file, inherited)?,
        }))
    }

    /// Creates its threads, which do not begin yet.
    ///
    /// # Errors
    /// Those of the system.
    pub(in crate::server) fn prepare(
        self,
        context: &Arc<AdminContext>,
    ) -> io::Result<AdminListener> {
        let listeners: Vec<_> = self.listeners.into_iter().map(Arc::new).collect();
        let stop = Stop::new()?;
        let threads = listeners.iter().map(Arc::clone).map(|listener| {
            let (stop, context) = (stop.clone(), Arc::clone(context));
            let address = self.address.clone();
            PreparedThread::new("status", move || {
                listener.accept_loop(&stop, |stream, peer| {
                    let Some(permit) = context.enter(&peer) else {
                        connection::turn_away(&stream);
                        return;
                    };
                    let (context, address) = (Arc::clone(&context), address.clone());
                    let serve = move || {
                        connection::serve(&context, &address, stream, peer);
                        drop(permit);
                    };
                    if let Err(error) = process::thread("status", serve) {
                        log::warn!("status {peer}: {error}");
                    }
                });
            })
        });
        Ok(AdminListener {
            threads: threads.collect::<io::Result<_>>()?,
            address: self.address,
            listeners,
            stop,
        })
    }
}

impl AdminListener {
    /// Begins to accept.
    pub(in crate::server) fn begin(&mut self) {
        let threads = self.threads.drain(..).map(PreparedThread::begin);
        self.threads = threads.collect();
    }

    /// Stops accepting. Requests that have begun are answered.
    pub(in crate::server) fn stop(self) {
        self.stop.stop();
        self.threads.into_iter().for_each(PreparedThread::join);
    }
}
