//! The addresses at which a server is reached, and the threads that serve them.

use std::sync::Arc;
use std::{io, mem};

use super::StartError;
use super::secure::{Secure, Slot};
use super::shared::Shared;
use super::snapshot::accepted_keys;
use super::threads::Thread;
use crate::backend::dial_in::{DialIn, Settings};
use crate::backend::pool::Pool;
use crate::budget::Budget;
use crate::config::{self, Address, Config};
use crate::net::listener::{Listener, Local, SocketFile, Stop, reason};
use crate::process;
use crate::stats::{Close, Stats};

/// What is bound, and by which certificates it speaks.
#[derive(Default)]
pub(super) struct Running {
    pub(super) fronts: Vec<Front>,
    pub(super) dials: Vec<Dial>,
    pub(super) secure: Secure,
    /// The certificates of dial-in addresses.
    pub(super) outgoing: Secure,
}

/// An address for visitors.
pub(super) struct Front {
    pub(super) address: Address,
    pub(super) locals: Vec<Local>,
    stop: Stop,
    pub(super) tls: Slot,
    threads: Vec<Thread>,
}

/// An address for backends.
pub(super) struct Dial {
    pub(super) address: Address,
    pub(super) locals: Vec<Local>,
    stop: Stop,
    pub(super) pool: Arc<Pool>,
    pub(super) settings: Arc<Settings>,
    file: SocketFile,
    threads: Vec<Thread>,
}

/// An address for backends that is bound and not served yet.
pub(super) struct NewDial {
    address: Address,
    listeners: Vec<Listener>,
    pool: Arc<Pool>,
    settings: Arc<Settings>,
    file: SocketFile,
}

impl Running {
    /// Has every thread begin that has not yet.
    pub(super) fn begin(&mut self) {
        let fronts = self.fronts.iter_mut().map(|front| &mut front.threads);
        let dials = self.dials.iter_mut().map(|dial| &mut dial.threads);
        for threads in fronts.chain(dials) {
            *threads = mem::take(threads).into_iter().map(Thread::begin).collect();
        }
    }
}

impl Front {
    /// Makes its threads, which do not begin yet, and speak no TLS if nothing else is said until then.
    pub(super) fn prepare(
        address: Address,
        listeners: Vec<Listener>,
        shared: &Arc<Shared>,
    ) -> Result<Self, StartError> {
        let locals = listeners
            .iter()
            .map(|listener| listener.local().clone())
            .collect();
        let stop = Stop::new()?;
        let tls = Slot::default();
        let threads = listeners.into_iter().map(|listener| {
            let (stop, shared, tls) = (stop.clone(), Arc::clone(shared), Arc::clone(&tls));
            Thread::new("accept", move || {
                listener.accept_loop(&stop, |stream, peer| {
                    let acceptor = tls.read().clone();
                    shared.accepted(stream, peer, acceptor.as_ref());
                });
            })
        });
        Ok(Self {
            threads: threads.collect::<io::Result<_>>()?,
            address,
            locals,
            tls,
            stop,
        })
    }

    /// Stops accepting; connections that are open stay so.
    pub(super) fn stop(self) {
        self.stop.stop();
        self.threads.into_iter().for_each(Thread::join);
    }
}

impl NewDial {
    pub(super) fn bind(
        address: &Address,
        config: &Config,
        outgoing: &Secure,
        stats: &Arc<Stats>,
        descriptors: &Arc<Budget>,
    ) -> Result<Self, StartError> {
        let file = socket_file(config, address)?;
        let pool = Arc::new(Pool::new(address.to_string(), Arc::clone(stats)));
        pool.set_keys(keys_of(config, address));
        Ok(Self {
            address: address.clone(),
            listeners: Listener::bind_with(address, &file)?,
            pool,
            settings: Arc::new(Settings::new(
                config,
                address,
                outgoing.acceptor(address),
                descriptors,
            )),
            file,
        })
    }

    pub(super) fn pool(&self) -> (Address, Arc<Pool>) {
        (self.address.clone(), Arc::clone(&self.pool))
    }

    /// Makes its threads, which do not begin yet.
    pub(super) fn prepare(self, stats: &Arc<Stats>) -> Result<Dial, StartError> {
        let locals = self
            .listeners
            .iter()
            .map(|listener| listener.local().clone())
            .collect();
        let stop = Stop::new()?;
        let mut threads = Vec::new();
        for listener in self.listeners {
            let dial_in = DialIn::new(
                listener,
                Arc::clone(&self.pool),
                stop.clone(),
                Arc::clone(&self.settings),
                Arc::clone(stats),
            )?;
            threads.push(Thread::new("dial-in", move || dial_in.run())?);
        }
        Ok(Dial {
            address: self.address,
            locals,
            stop,
            threads,
            pool: self.pool,
            settings: self.settings,
            file: self.file,
        })
    }
}

impl Dial {
    /// Changes what its file is like, if that has changed.
    pub(super) fn dress(&mut self, file: SocketFile) {
        let before = mem::replace(&mut self.file, file);
        if let Address::Unix(path) = &self.address
            && before != file
            && let Err(error) = file.dress(path)
        {
            log::error!("{}: {}", self.address, reason(&error));
        }
    }

    pub(super) fn stop(self, reason: Close) {
        self.settings.end(reason);
        self.stop.stop();
        self.pool.shut(reason);
        self.threads.into_iter().for_each(Thread::join);
    }
}

/// Reads the certificates of dial-in addresses.
pub(super) fn load_outgoing(outgoing: &mut Secure, config: &Config) -> Result<(), StartError> {
    outgoing
        .load("outgoing_ssl", &config.outgoing_ssl)
        .map_err(StartError::DialInCertificate)
}

/// What the file of a dial-in address is to be like: as the first entry that says something has it.
pub(super) fn socket_file(config: &Config, address: &Address) -> Result<SocketFile, StartError> {
    let mut all = config.sites.iter().flat_map(|site| &site.outgoing);
    let none = config::SocketFile::default();
    let said = all.find(|outgoing| outgoing.to == *address && outgoing.file != none);
    let said = said.map_or(&none, |outgoing| &outgoing.file);
    let identity = process::look_up(said.owner.as_deref(), said.group.as_deref())
        .map_err(|error| StartError::SocketFile(format!("{address}: {error}")))?;
    let (owner, group) = identity.ids();
    let mode = said.mode.unwrap_or(SocketFile::default().mode);
    Ok(SocketFile { mode, owner, group })
}

/// The addresses at which backends dial in, each once, in the order of the configuration.
pub(super) fn dial_addresses(config: &Config) -> Vec<Address> {
    let mut addresses = Vec::new();
    for outgoing in config.sites.iter().flat_map(|site| &site.outgoing) {
        if !addresses.contains(&outgoing.to) {
            addresses.push(outgoing.to.clone());
        }
    }
    addresses
}

/// The keys that are known at a dial-in address: those of every site that has it.
pub(super) fn keys_of(config: &Config, address: &Address) -> Arc<[Box<[u8]>]> {
    let sites = config.sites.iter();
    let here = sites.filter(|site| site.outgoing.iter().any(|outgoing| outgoing.to == *address));
    here.flat_map(|site| accepted_keys(site).to_vec()).collect()
}
