//! The methods of the server for [`operations`].

use std::time::Duration;

use super::handle::Server;
use super::operations::{self, DrainedBackends, OperationError, Operations};
use crate::backend::drained::DrainedName;

impl Server {
    /// Pauses a site: from now on its requests wait for [`Server::resume`] before they go to a backend, as many as
    /// `limits.waiting` allows, each for `longest` at most; that does not count towards `timeout`. Requests that a
    /// backend has already go on, and files are served. If the site is paused already, changes `longest` for requests
    /// that are yet to come.
    ///
    /// # Errors
    /// [`OperationError::NoSite`].
    pub fn pause(&self, site: &str, longest: Duration) -> Result<(), OperationError> {
        self.operations().pause(site, longest)
    }

    /// Ends the pause of a site. Its requests go to idle backends, or queue for one by their arrival. Returns how many
    /// waited.
    ///
    /// # Errors
    /// [`OperationError::NoSite`], [`OperationError::NotPaused`].
    pub fn resume(&self, site: &str) -> Result<usize, OperationError> {
        self.operations().resume(site)
    }

    /// Sets whether every request of a site gets 503 with the maintenance page of the site, its own page for 503, or a
    /// built-in one. Returns whether that is a change. The site is in maintenance as well while its `maintenance_flag`
    /// exists.
    ///
    /// # Errors
    /// [`OperationError::NoSite`].
    pub fn set_maintenance(&self, site: &str, on: bool) -> Result<bool, OperationError> {
        self.operations().set_maintenance(site, on)
    }

    /// Drains backends: they finish their requests and get no more, until [`Server::undrain`]. `name` is one of these,
    /// in this order:
    ///
    /// - a site: none of its own backends gets its requests; those go to its `backup`, or get 503 at once;
    /// - the id of backends that are connected, as in logs, or the IP address from which they dialled in: they stay
    ///   connected, so that applications need not dial in again, and those that dial in later are drained as well;
    /// - the address of a server (`proxy: traditional`), as in logs: its idle connections are closed.
    ///
    /// # Errors
    /// [`OperationError::NoBackend`].
    pub fn drain_backends(&self, name: &str) -> Result<DrainedBackends, OperationError> {
        self.operations().drain(name)
    }

    /// Lets backends get requests again, which [`Server::drain_backends`] has drained by this name.
    ///
    /// # Errors
    /// [`OperationError::NotDrained`].
    pub fn undrain(&self, name: &str) -> Result<(), OperationError> {
        self.operations().undrain(name)
    }

    /// The drained backends and servers, also those that are not connected. Sites are not among them.
    pub fn drained(&self) -> Vec<DrainedName> {
        self.shared.drained.lock().names().cloned().collect()
    }

    /// What is paused, drained or in maintenance, as texts for [`Bound::restore`](super::Bound::restore) of a process that
    /// follows this one.
    #[doc(hidden)]
    pub fn switched(&self) -> Vec<String> {
        let list = || operations::switched(&self.shared);
        self.shared.switching.give(list)
    }

    /// Lets the requests of paused sites end where no command can end a pause any more.
    pub(super) fn give_up_pauses(&self) {
        if self.shared.can_resume() {
            return;
        }
        for site in &self.shared.snapshot().sites {
            if site.switches.pause.is_on() {
                site.switches.pause.recall();
            }
        }
    }

    fn operations(&self) -> Operations<'_> {
        Operations {
            shared: &self.shared,
            control: &self.control,
        }
    }
}
