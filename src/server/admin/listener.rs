//! Listens at the status address.

use std::io;
use std::mem;
use std::sync::Arc;

use super::connection;
use super::context::AdminContext;
use crate::config::{Address, Config, StatusConfig};
use crate::net::listener::{Listener, SocketFile, Sockets, Stop};
use crate::process;
use crate::server::error::StartError;
use crate::server::threads::PreparedThread;

/// The status address, and the threads that accept there.
pub(in crate::server) struct AdminListener {
    pub(in crate::server) address: Address,
    pub(in crate::server) listeners: Vec<Arc<Listener>>,
    file: SocketFile,
    stop: Stop,
    threads: Vec<PreparedThread>,
}

/// The status address, bound and not served yet.
pub(in crate::server) struct NewAdminListener {
    address: Address,
    listeners: Vec<Listener>,
    file: SocketFile,
}

/// Mode and owner of the file of a Unix socket, with numeric user and group.
///
/// # Errors
/// The user or the group does not exist.
pub(in crate::server) fn socket_file(status: &StatusConfig) -> Result<SocketFile, StartError> {
    let config = &status.file;
    let identity = process::look_up(config.owner.as_deref(), config.group.as_deref())
        .map_err(|error| StartError::StatusFile(format!("{}: {error}", status.at)))?;
    let (owner, group) = identity.ids();
    let mode = config.mode.unwrap_or(MODE);
    Ok(SocketFile { mode, owner, group })
}

impl NewAdminListener {
    /// Binds the status address, if the configuration has one.
    ///
    /// # Errors
    /// The system refuses it, or a user or group does not exist.
    pub(in crate::server) fn bind(
        config: &Config,
        inherited: &Sockets,
    ) -> Result<Option<Self>, StartError> {
        let Some(status) = &config.status else {
            return Ok(None);
        };
        let file = socket_file(status)?;
        Ok(Some(Self {
            address: status.at.clone(),
            listeners: Listener::bind_with(&status.at, &file, inherited)?,
            file,
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
            file: self.file,
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

    /// Applies other attributes to the file of a Unix socket, if they differ.
    pub(in crate::server) fn change(&mut self, file: SocketFile) {
        let before = mem::replace(&mut self.file, file);
        if let Address::Unix(path) = &self.address
            && before != file
            && let Err(error) = file.apply(path)
        {
            log::error!("{}: {}", self.address, process::reason(&error));
        }
    }

    /// Stops accepting. Requests that have begun are answered.
    pub(in crate::server) fn stop(self) {
        self.stop.stop();
        self.threads.into_iter().for_each(PreparedThread::join);
    }
}

/// The permissions of the file of a Unix socket: for its owner only.
const MODE: u32 = 0o600;
