//! Switches a running server to a new configuration, and opens its logs again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use std::{io, mem};

use super::addresses::{
    BackendAddress, BackendListener, ClientListener, NewBackendListener, load_outgoing,
    sort_by_address,
};
use super::admin::{self, AdminListener, NewAdminListener};
use super::certificate_watch::{CertificateWatch, CertificateWatcher};
use super::certificates::{CertificateFiles, first_name};
use super::descriptors;
use super::error::StartError;
use super::handle::Server;
use super::snapshot::{Snapshot, SnapshotParts};
use super::threads::acme_thread;
use crate::config::{Address, Config};
use crate::net::activation::Inherited;
use crate::net::listener::{Listener, SocketFile};
use crate::process;
use crate::stats::Close;

impl Server {
    /// Checks a new configuration ([`Config::validated`]) and switches to it, all or nothing. Connections, idle backends
    /// and exchanges continue, except those of removed addresses and keys. `workers` and `scheduling` keep the values of the start.
    ///
    /// # Errors
    /// What failed. The old configuration stays in force then.
    pub fn reload(&self, config: Config) -> Result<(), StartError> {
        self.reload_loaded(config.validated()?)
    }

    /// The same for a configuration as [`Config::load`] has returned it: it is not checked again, which would take about
    /// a tenth of a millisecond for each site.
    ///
    /// # Errors
    /// Those of [`Server::reload`].
    #[doc(hidden)]
    pub fn reload_loaded(&self, config: Config) -> Result<(), StartError> {
        let (config, division) = descriptors::divide(config, process::descriptors());
        let _alone = self.reloading.lock();
        let shared = &self.shared;
        // Open everything new first; a failure before the swap changes nothing. Reading files may take its time, and a
        // drain does not wait for that: apart from a drain, only reloads change what is copied here.
        let (mut certificates, mut outgoing, old_addresses, mut pools, old_admin) = {
            let running = self.running.lock();
            let clients = running
                .client_listeners
                .iter()
                .map(|listener| listener.address.clone());
            let backends = running.backend_listeners.iter();
            let pools =
                backends.map(|listener| (listener.address.clone(), Arc::clone(&listener.pool)));
            (
                running.certificates.clone(),
                running.outgoing.clone(),
                clients.collect::<HashSet<_>>(),
                pools.collect::<HashMap<_, _>>(),
                running
                    .admin_listener
                    .as_ref()
                    .map(|admin| admin.address.clone()),
            )
        };
        certificates.load(&CertificateFiles::for_clients(&config))?;
        load_outgoing(&mut outgoing, &config)?;
        let inherited = Inherited {
            activated: Arc::clone(&self.activated),
            ..Inherited::default()
        };
        let wanted = BackendAddress::all(&config);
        BackendAddress::offer(&wanted, &config, &inherited)?;
        let mut new_clients = Vec::new();
        let is_new = |address: &&Address| !old_addresses.contains(*address);
        for address in config.listen.iter().filter(is_new) {
            let file = SocketFile::default();
            let bound = Listener::bind_with(address, &file, &inherited.clients)?;
            new_clients.push((address.clone(), bound));
        }
        let names = shared.manager.prepare(&config).map_err(StartError::State)?;
        let needs_acme = names.need_thread() && self.acme.lock().is_none();
        let acme = needs_acme
            .then(|| acme_thread(&shared.manager))
            .transpose()?;
        let watch = match &*self.watch.lock() {
            Some(_) => None,
            None => CertificateWatch::prepare(&config, || CertificateWatcher {
                shared: Arc::clone(shared),
                running: Arc::clone(&self.running),
                reloading: Arc::clone(&self.reloading),
            })?,
        };
        let mut new_backends = Vec::new();
        let is_new = |wanted: &&BackendAddress| !pools.contains_key(&wanted.address);
        for new in wanted.iter().filter(is_new) {
            new_backends.push(NewBackendListener::bind(
                new,
                &config,
                &outgoing,
                &shared.stats,
                &shared.journal,
                &shared.descriptors,
                &inherited.backends,
            )?);
        }
        let admin_address = config.status.as_ref().map(|status| status.at.clone());
        let admin_file = config.status.as_ref().map(admin::socket_file).transpose()?;
        let admin = match admin_address == old_admin {
            true => None,
            false => NewAdminListener::bind(&config, &inherited.status)?,
        };
        pools.extend(new_backends.iter().map(NewBackendListener::pool));
        let files = wanted.iter().map(BackendAddress::socket_file);
        let files = files.collect::<Result<Vec<_>, _>>()?;
        let before = shared.snapshot();
        let listen = config.listen.clone();
        let parts = SnapshotParts {
            waiting: &shared.waiting,
            stats: &shared.stats,
            alarm: self.sessions.poller.alarm(),
            pools: &pools,
            before: Some(&before),
        };
        let snapshot = Snapshot::new(config, &parts)?;
        let new_backends = new_backends.into_iter();
        let new_backends = new_backends.map(|listener| listener.prepare(&self.control));
        let new_backends = new_backends.collect::<Result<Vec<_>, StartError>>()?;
        let new_clients = new_clients.into_iter();
        let new_clients = new_clients.map(|(address, listeners)| {
            ClientListener::prepare(address, listeners, &self.sessions)
        });
        let new_clients = new_clients.collect::<Result<Vec<_>, StartError>>()?;
        let admin = admin.map(|admin| admin.prepare(&self.admin_context));
        let admin = admin.transpose()?;
        let mut running = self.running.lock();
        if shared.draining.load(Ordering::SeqCst) {
            return Err(io::Error::other("the server is stopping").into());
        }
        // From here on nothing can fail.
        let snapshot = Arc::new(snapshot);
        snapshot.set_limits();
        shared.descriptors.limit(division.backends);
        self.control.limit_newcomers(division.newcomers);
        shared.connections.store(division.both, Ordering::Relaxed);
        {
            let drained = shared.drained.lock();
            snapshot.set_drained(&drained);
            shared.set_snapshot(Arc::clone(&snapshot));
        }
        before.retire(&snapshot);
        // Their directory may have been replaced.
        self.reopen_logs();
        snapshot.check_files();
        for site in &snapshot.sites {
            if let Some(servers) = &site.servers {
                servers.change(&site.settings);
                servers.tick(Instant::now());
            }
        }
        let kept: HashSet<_> = snapshot.servers().map(Arc::as_ptr).collect();
        for servers in before.servers() {
            if !kept.contains(&Arc::as_ptr(servers)) {
                servers.shut(Close::Removed);
            }
        }
        let first = first_name(&snapshot.config.sites);
        shared.manager.commit(names, certificates.of_sites(), first);
        if let Some(acme) = acme {
            *self.acme.lock() = Some(acme.begin());
        }
        if let Some(watch) = watch {
            *self.watch.lock() = Some(watch.begin());
        }
        for listener in new_clients.iter().chain(&running.client_listeners) {
            *listener.tls.write() = certificates.acceptor(&listener.address);
        }
        running.client_listeners.extend(new_clients);
        *shared.certificates.lock() = certificates.with_files(&outgoing);
        running.certificates = certificates;
        running.backend_listeners.extend(new_backends);
        let old_admin = match admin_address == old_admin {
            true => {
                let both = running.admin_listener.as_mut().zip(admin_file);
                both.into_iter()
                    .for_each(|(admin, file)| admin.change(file));
                None
            }
            false => mem::replace(&mut running.admin_listener, admin),
        };
        running.begin(&self.control);
        let clients = mem::take(&mut running.client_listeners);
        let (clients, gone) = sort_by_address(clients, |listener| &listener.address, listen.iter());
        running.client_listeners = clients;
        gone.into_iter().for_each(ClientListener::stop);
        old_admin.into_iter().for_each(AdminListener::stop);
        let order = wanted.iter().map(|wanted| &wanted.address);
        let backends = mem::take(&mut running.backend_listeners);
        let (mut backends, gone) = sort_by_address(backends, |listener| &listener.address, order);
        for ((listener, wanted), file) in backends.iter_mut().zip(&wanted).zip(files) {
            listener.change(wanted, file, &snapshot.config, &outgoing);
        }
        running.backend_listeners = backends;
        running.outgoing = outgoing;
        BackendListener::stop_all(gone, &self.control, Close::Removed);
        Ok(())
    }

    /// Opens the access logs again under their names, after they were rotated. If one cannot be opened, the old file
    /// stays in use, which is logged.
    pub fn reopen_logs(&self) {
        for (_, log) in self.shared.snapshot().access_logs() {
            if let Err(error) = log.reopen() {
                log::error!("{error}; going on with the old file");
            }
        }
    }
}
