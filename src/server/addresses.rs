//! The addresses on which a server listens, and the threads that accept there.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::{io, mem};

use super::admin::AdminListener;
use super::certificates::{AcceptorSlot, CertificateFiles, Certificates};
use super::error::StartError;
use super::session::Session;
use super::sessions::Sessions;
use super::snapshot::{accepted_keys, log_target};
use super::threads::PreparedThread;
use crate::backend::dial_in::{DialInControl, DialInSettings, DialInTerms, PreparedDialIn};
use crate::backend::group::{Journal, Sites};
use crate::backend::pool::Pool;
use crate::budget::Budget;
use crate::config::{self, Address, Config};
use crate::net::activation::Inherited;
use crate::net::listener::{Listener, SocketFile, Sockets, Stop};
use crate::process;
use crate::process::reason;
use crate::stats::{Close, Stats};

/// The addresses that are bound, and their certificates.
#[derive(Default)]
pub(super) struct Running {
    pub(super) client_listeners: Vec<ClientListener>,
    pub(super) backend_listeners: Vec<BackendListener>,
    /// The status address.
    pub(super) admin_listener: Option<AdminListener>,
    pub(super) certificates: Certificates,
    /// The certificates of dial-in addresses.
    pub(super) outgoing: Certificates,
}

/// An address for clients.
pub(super) struct ClientListener {
    pub(super) address: Address,
    pub(super) listeners: Vec<Arc<Listener>>,
    stop: Stop,
    pub(super) tls: AcceptorSlot,
    threads: Vec<PreparedThread>,
}

/// An address for backends.
pub(super) struct BackendListener {
    pub(super) address: Address,
    pub(super) listeners: Vec<Arc<Listener>>,
    pub(super) pool: Arc<Pool>,
    settings: Arc<DialInSettings>,
    file: SocketFile,
    /// Listeners that do not accept yet, and the numbers of those that do.
    prepared: Vec<PreparedDialIn>,
    begun: Vec<u64>,
}

/// An address for backends that is bound but not served yet.
pub(super) struct NewBackendListener {
    address: Address,
    listeners: Vec<Listener>,
    pool: Arc<Pool>,
    settings: Arc<DialInSettings>,
    file: SocketFile,
}

/// The configuration of an address for backends.
pub(super) struct BackendAddress {
    pub(super) address: Address,
    /// The keys that are accepted there: those of every site that has the address.
    keys: Arc<[Box<[u8]>]>,
    /// Which sites have each key.
    sites: BTreeMap<Box<[u8]>, Sites>,
    /// Mode and owner of its socket file, from the first entry that sets them.
    file: config::SocketFileConfig,
}

impl Running {
    /// Makes every address accept that does not yet.
    pub(super) fn begin(&mut self, control: &DialInControl) {
        for ClientListener { threads, .. } in &mut self.client_listeners {
            *threads = mem::take(threads)
                .into_iter()
                .map(PreparedThread::begin)
                .collect();
        }
        for listener in &mut self.backend_listeners {
            let prepared = mem::take(&mut listener.prepared).into_iter();
            listener
                .begun
                .extend(prepared.map(|one| control.begin(one)));
        }
        if let Some(admin) = &mut self.admin_listener {
            admin.begin();
        }
    }
}

impl Running {
    /// Uses these certificates for new connections.
    pub(super) fn set_certificates(
        &mut self,
        config: &Config,
        certificates: Certificates,
        outgoing: Certificates,
    ) {
        for listener in &self.client_listeners {
            *listener.tls.write() = certificates.acceptor(&listener.address);
        }
        for listener in &self.backend_listeners {
            let terms = terms(&listener.address, config, &outgoing);
            let tls = terms.tls.clone();
            listener.settings.set(config.limits.backends, terms);
            listener.pool.set_verification(tls.as_ref());
        }
        self.certificates = certificates;
        self.outgoing = outgoing;
    }
}

impl ClientListener {
    /// Creates its threads, which do not begin yet. It speaks no TLS unless `tls` is set before.
    pub(super) fn prepare(
        address: Address,
        listeners: Vec<Listener>,
        sessions: &Arc<Sessions<Session>>,
    ) -> Result<Self, StartError> {
        let listeners: Vec<_> = listeners.into_iter().map(Arc::new).collect();
        let stop = Stop::new()?;
        let tls = AcceptorSlot::default();
        let threads = listeners.iter().map(Arc::clone).map(|listener| {
            let (stop, sessions, tls) = (stop.clone(), Arc::clone(sessions), Arc::clone(&tls));
            let address = address.clone();
            PreparedThread::new("accept", move || {
                listener.accept_loop(&stop, |stream, peer| {
                    let acceptor = tls.read().clone();
                    sessions.accepted(&address, stream, peer, acceptor.as_ref());
                });
            })
        });
        Ok(Self {
            threads: threads.collect::<io::Result<_>>()?,
            address,
            listeners,
            tls,
            stop,
        })
    }

    /// Stops accepting. Open connections stay open.
    pub(super) fn stop(self) {
        self.stop.stop();
        self.threads.into_iter().for_each(PreparedThread::join);
    }
}

impl NewBackendListener {
    pub(super) fn bind(
        wanted: &BackendAddress,
        config: &Config,
        outgoing: &Certificates,
        stats: &Arc<Stats>,
        journal: &Arc<Journal>,
        descriptors: &Arc<Budget>,
        inherited: &Sockets,
    ) -> Result<Self, StartError> {
        let address = &wanted.address;
        let file = wanted.socket_file()?;
        let pool = Pool::new(address.to_string(), Arc::clone(stats), journal);
        let pool = Arc::new(pool);
        pool.name_sites(&wanted.sites);
        pool.set_keys(Arc::clone(&wanted.keys));
        let terms = terms(&wanted.address, config, outgoing);
        Ok(Self {
            address: address.clone(),
            listeners: Listener::bind_with(address, &file, inherited)?,
            pool,
            settings: Arc::new(DialInSettings::new(
                config.limits.backends,
                terms,
                descriptors,
            )),
            file,
        })
    }

    pub(super) fn pool(&self) -> (Address, Arc<Pool>) {
        (self.address.clone(), Arc::clone(&self.pool))
    }

    /// Prepares its listeners, which accept nothing yet.
    pub(super) fn prepare(self, control: &DialInControl) -> Result<BackendListener, StartError> {
        let listeners: Vec<_> = self.listeners.into_iter().map(Arc::new).collect();
        let prepared = listeners.iter().map(Arc::clone).map(|listener| {
            control.prepare(listener, Arc::clone(&self.pool), Arc::clone(&self.settings))
        });
        Ok(BackendListener {
            prepared: prepared.collect::<io::Result<_>>()?,
            begun: Vec::new(),
            address: self.address,
            listeners,
            pool: self.pool,
            settings: self.settings,
            file: self.file,
        })
    }
}

impl BackendListener {
    /// Applies a new configuration.
    pub(super) fn change(
        &mut self,
        wanted: &BackendAddress,
        file: SocketFile,
        config: &Config,
        outgoing: &Certificates,
    ) {
        self.pool.name_sites(&wanted.sites);
        self.pool.set_keys(Arc::clone(&wanted.keys));
        let terms = terms(&wanted.address, config, outgoing);
        let tls = terms.tls.clone();
        self.settings.set(config.limits.backends, terms);
        self.pool.set_verification(tls.as_ref());
        let before = mem::replace(&mut self.file, file);
        if let Address::Unix(path) = &self.address
            && before != file
            && let Err(error) = file.apply(path)
        {
            log::error!("{}: {}", self.address, reason(&error));
        }
    }

    /// Accepts no more backends at these addresses. Those that are connected stay.
    pub(super) fn stop_accepting(backends: &mut [Self], control: &DialInControl) {
        control.stop_accepting();
        backends
            .iter_mut()
            .for_each(|listener| listener.listeners.clear());
    }

    /// Whether its backends speak TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.settings.is_secure()
    }

    /// Closes addresses, their connections without a preamble, and idle backends.
    pub(super) fn stop_all(backends: Vec<Self>, control: &DialInControl, reason: Close) {
        let begun = backends.iter().flat_map(|listener| &listener.begun);
        control.remove(begun.copied().collect(), reason);
        for listener in backends {
            listener.pool.shut(reason);
        }
    }
}

impl BackendAddress {
    /// The addresses at which backends dial in, each once, in the order of the configuration.
    pub(super) fn all(config: &Config) -> Vec<Self> {
        struct MergedAddress<'a> {
            /// The names of the sites that have each key.
            keys: BTreeMap<Box<[u8]>, Vec<&'a str>>,
            file: &'a config::SocketFileConfig,
        }
        let none = config::SocketFileConfig::default();
        let mut order = Vec::new();
        let mut entries: HashMap<&Address, MergedAddress> = HashMap::new();
        for site in &config.sites {
            for outgoing in &site.outgoing {
                let entry = entries.entry(&outgoing.to).or_insert_with(|| {
                    order.push(&outgoing.to);
                    MergedAddress {
                        keys: BTreeMap::new(),
                        file: &none,
                    }
                });
                for key in accepted_keys(site).iter() {
                    let names = entry.keys.entry(key.clone()).or_default();
                    // A site may have an address several times, for several paths.
                    if names.last() != Some(&site.name.as_str()) {
                        names.push(&site.name);
                    }
                }
                if *entry.file == none {
                    entry.file = &outgoing.file;
                }
            }
        }
        let with_entry = |address: &Address| {
            let entry = entries.remove(address)?;
            Some(Self {
                address: address.clone(),
                keys: entry.keys.keys().cloned().collect(),
                sites: (entry.keys.into_iter())
                    .map(|(key, names)| (key, Sites::new(&names, log_target)))
                    .collect(),
                file: entry.file.clone(),
            })
        };
        order.into_iter().filter_map(with_entry).collect()
    }

    /// Offers sockets of the service manager for the addresses of a configuration, of which these are for backends.
    pub(super) fn offer(all: &[Self], config: &Config, inherited: &Inherited) -> io::Result<()> {
        let backends: Vec<_> = all.iter().map(|wanted| wanted.address.clone()).collect();
        let status: Vec<_> = config
            .status
            .iter()
            .map(|status| status.at.clone())
            .collect();
        inherited.activated.offer(&[
            ("clients", &config.listen, &inherited.clients),
            ("backends", &backends, &inherited.backends),
            ("status", &status, &inherited.status),
        ])
    }

    /// Mode and owner of its socket file, with numeric user and group.
    pub(super) fn socket_file(&self) -> Result<SocketFile, StartError> {
        let said = &self.file;
        let identity = process::look_up(said.owner.as_deref(), said.group.as_deref())
            .map_err(|error| StartError::SocketFile(format!("{}: {error}", self.address)))?;
        let (owner, group) = identity.ids();
        let mode = said.mode.unwrap_or(SocketFile::default().mode);
        Ok(SocketFile { mode, owner, group })
    }
}

fn terms(address: &Address, config: &Config, outgoing: &Certificates) -> DialInTerms {
    DialInTerms {
        preamble: config.timeouts.preamble,
        tls: outgoing.acceptor(address),
    }
}

/// Sorts items into the order of `addresses`. Also returns those whose address is not in it.
pub(super) fn sort_by_address<'a, T>(
    all: Vec<T>,
    address: impl Fn(&T) -> &Address,
    order: impl Iterator<Item = &'a Address>,
) -> (Vec<T>, Vec<T>) {
    let all = all.into_iter();
    let mut all: HashMap<_, _> = all.map(|one| (address(&one).clone(), one)).collect();
    let kept = order.filter_map(|address| all.remove(address)).collect();
    (kept, all.into_values().collect())
}

/// Reads the certificates of dial-in addresses.
pub(super) fn load_outgoing(
    outgoing: &mut Certificates,
    config: &Config,
) -> Result<(), StartError> {
    outgoing
        .load(&CertificateFiles::for_backends(config))
        .map_err(StartError::DialInCertificate)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Overrides;

    #[test]
    fn sites_share_settings_of_an_address() {
        let yaml = "
            cluster_port: 80
            map:
              - {incoming: a, outgoing: ['127.0.0.1:2', 'unix:/run/a'], key: one}
              - {incoming: b, outgoing: '127.0.0.1:1'}
              - incoming: c
                outgoing: ['127.0.0.1:2', {to: 'unix:/run/a', mode: '0600'}]
                key: [two, one]
              - {incoming: d, outgoing: {to: 'unix:/run/a', mode: '0666'}}
        ";
        let read = Config::from_yaml(yaml, Path::new("s.yml"), &Overrides::default());
        let (config, _) = read.unwrap_or_else(|problems| panic!("{problems}"));
        let all = BackendAddress::all(&config);
        let shown = all.iter().map(|wanted| {
            let keys = wanted.keys.iter().map(|key| String::from_utf8_lossy(key));
            let mode = wanted.socket_file().unwrap().mode;
            format!(
                "{} keys {:?} mode {mode:o}",
                wanted.address,
                keys.collect::<Vec<_>>(),
            )
        });
        assert_eq!(
            shown.collect::<Vec<_>>(),
            [
                "127.0.0.1:2 keys [\"one\", \"two\"] mode 666",
                "unix:/run/a keys [\"\", \"one\", \"two\"] mode 600",
                "127.0.0.1:1 keys [\"\"] mode 666",
            ]
        );
    }

    #[test]
    fn kept_addresses_are_reordered() {
        let address = |port: u16| -> Address { format!("127.0.0.1:{port}").parse().unwrap() };
        let all = [1, 2, 3].map(address).to_vec();
        let order = [4, 3, 1].map(address);
        let (kept, gone) = sort_by_address(all, |address| address, order.iter());
        assert_eq!(kept, [3, 1].map(address));
        assert_eq!(gone, [address(2)]);
    }
}
