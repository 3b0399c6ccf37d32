//! Starts a server: binds its addresses, builds what its threads share, and begins the threads.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};

use super::addresses::{
    BackendAddress, ClientListener, NewBackendListener, Running, load_outgoing,
};
use super::admin::{self, AdminContext, NewAdminListener};
use super::admission::Clients;
use super::certificate_watch::{CertificateWatch, CertificateWatcher};
use super::certificates::{CertificateFiles, Certificates, first_name};
use super::checks::Checks;
use super::descriptors;
use super::drainer::Drainer;
use super::error::StartError;
use super::handle::Server;
use super::history::History;
use super::operations;
use super::rate_limit::RateLimiter;
use super::session::Session;
use super::sessions::{ScanBackoff, Sessions, WorkerProgress};
use super::shared::Shared;
use super::snapshot::{Snapshot, SnapshotParts};
use super::succession::Succession;
use super::succession::switching::Switching;
use super::threads::{self, PreparedThread, acme_thread};
use super::worker::set_scheduling;
use crate::acme::challenges::Challenges;
use crate::acme::manager::{Manager, PreparedNames};
use crate::backend::dial_in::DialIn;
use crate::backend::group::Journal;
use crate::budget::{Budget, Shares};
use crate::config::{Address, Config};
use crate::content::gzip::Compressors;
use crate::net::activation::{ActivatedSockets, Inherited};
use crate::net::listener::{Listener, SocketFile};
use crate::net::poller::Poller;
use crate::net::tls::SiteCertificates;
use crate::net::tunnel::Tunnels;
use crate::process;
use crate::relay::worker::Worker;
use crate::stats::Stats;
use crate::stats::site::SiteStats;

/// A server that has bound its addresses and opened its logs but runs no thread yet: the moment to drop privileges.
pub struct Bound {
    sessions: Arc<Sessions<Session>>,
    shared: Arc<Shared>,
    client_listeners: Vec<(Address, Vec<Listener>)>,
    backend_listeners: Vec<NewBackendListener>,
    admin_listener: Option<NewAdminListener>,
    certificates: Certificates,
    names: PreparedNames,
    outgoing: Certificates,
    dial_in: DialIn,
    activated: Arc<ActivatedSockets>,
}

impl Server {
    /// Checks a configuration ([`Config::validated`]), binds and opens everything that it names, and starts no thread.
    ///
    /// # Errors
    /// All problems of the configuration, or the first address or file that failed; what was bound before is closed again.
    pub fn bind(config: Config) -> Result<Bound, StartError> {
        Self::bind_with(config.validated()?, &Inherited::default())
    }

    /// The same for a configuration as [`Config::load`] has returned it, which is not checked again, and with listening
    /// sockets of a server that this one follows, for the addresses that they have.
    ///
    /// # Errors
    /// Those of [`Server::bind`]; the sockets that were used are closed.
    #[doc(hidden)]
    pub fn bind_with(config: Config, inherited: &Inherited) -> Result<Bound, StartError> {
        let (config, division) = descriptors::divide(config, process::descriptors());
        let descriptors = Arc::new(Budget::new(division.backends));
        let stats = Arc::new(Stats::new());
        let journal = Arc::new(Journal::default());
        let of_sites: Arc<SiteCertificates> = Arc::default();
        let challenges = Arc::new(Challenges::default());
        let manager = Arc::new(Manager::new(Arc::clone(&of_sites), Arc::clone(&challenges)));
        let mut certificates = Certificates::for_clients(of_sites);
        certificates.load(&CertificateFiles::for_clients(&config))?;
        let names = manager.prepare(&config).map_err(StartError::State)?;
        let mut outgoing = Certificates::default();
        load_outgoing(&mut outgoing, &config)?;
        let wanted = BackendAddress::all(&config);
        BackendAddress::offer(&wanted, &config, inherited)?;
        let clients = config.listen.iter().map(|address| {
            let file = SocketFile::default();
            Ok((
                address.clone(),
                Listener::bind_with(address, &file, &inherited.clients)?,
            ))
        });
        let clients = clients.collect::<Result<Vec<_>, StartError>>()?;
        let mut backends = Vec::new();
        for wanted in &wanted {
            backends.push(NewBackendListener::bind(
                wanted,
                &config,
                &outgoing,
                &stats,
                &journal,
                &descriptors,
                &inherited.backends,
            )?);
        }
        let admin = NewAdminListener::bind(&config, &inherited.status)?;
        let workers = config.workers;
        let checks = Arc::new(Checks::new());
        let poller = Poller::new(workers)?;
        let waiting = Arc::new(AtomicUsize::new(0));
        let memory = Arc::new(Budget::new(config.memory));
        let disk = Arc::new(Shares::new(config.limits.spool));
        let compressors = Arc::new(Compressors::new(Arc::clone(&memory)));
        let pools: HashMap<_, _> = backends.iter().map(NewBackendListener::pool).collect();
        let dial_in = DialIn::new(Arc::clone(&stats))?;
        dial_in.control().limit_newcomers(division.newcomers);
        let parts = SnapshotParts {
            waiting: &waiting,
            stats: &stats,
            alarm: poller.alarm(),
            pools: &pools,
            before: None,
        };
        let snapshot = Snapshot::new(config, &parts)?;
        snapshot.set_limits();
        let shared = Arc::new(Shared {
            drainer: Drainer::new()?,
            clients: Clients::default(),
            rates: RateLimiter::new(),
            stats,
            snapshot: RwLock::new(Arc::new(snapshot)),
            generation: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            is_replaced: AtomicBool::new(false),
            successor: RwLock::default(),
            switching: Switching::default(),
            is_stopping: AtomicBool::new(false),
            memory,
            disk,
            compressors,
            descriptors,
            connections: AtomicU64::new(division.both),
            waiting,
            checks,
            drained: Mutex::default(),
            challenges,
            manager,
            journal,
            unrouted: SiteStats::new(),
            history: Mutex::new(History::new(0)),
            reload: Mutex::default(),
            certificates: Mutex::new(certificates.with_files(&outgoing)),
        });
        let sessions = Arc::new(Sessions {
            shared: Arc::clone(&shared),
            poller,
            tunnels: Tunnels::new()?,
            shedding: ScanBackoff::default(),
            progress: Mutex::new(WorkerProgress {
                taken: 0,
                at: Instant::now(),
            }),
        });
        inherited.activated.report_unused();
        Ok(Bound {
            sessions,
            shared,
            client_listeners: clients,
            backend_listeners: backends,
            admin_listener: admin,
            certificates,
            names,
            outgoing,
            dial_in,
            activated: Arc::clone(&inherited.activated),
        })
    }

    /// Finds what is wrong with a configuration beyond its file, without binding anything: certificates, users and
    /// groups.
    ///
    /// # Errors
    /// The first problem.
    pub fn check(config: &Config) -> Result<(), StartError> {
        Certificates::default().load(&CertificateFiles::for_clients(config))?;
        load_outgoing(&mut Certificates::default(), config)?;
        for wanted in BackendAddress::all(config) {
            wanted.socket_file()?;
        }
        config.status.as_ref().map(admin::socket_file).transpose()?;
        Ok(())
    }

    /// Starts a server: [`Server::bind`] and [`Bound::start`].
    ///
    /// # Errors
    /// What failed. Nothing runs then.
    pub fn start(config: Config) -> Result<Self, StartError> {
        Self::bind(config)?.start()
    }
}

impl Bound {
    /// Drains, and closes for maintenance, what was so at a server that this one follows; see [`Server::switched`].
    #[doc(hidden)]
    pub fn restore(&self, switched: &[String]) {
        operations::restore(&self.shared, switched);
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn start(self) -> Result<Server, StartError> {
        let server = self.start_closed()?;
        server.accept();
        Ok(server)
    }

    /// The same, but connections wait in the system's queue until [`Server::accept`] or [`Server::take_over`].
    ///
    /// # Errors
    /// Whatever the system says.
    #[doc(hidden)]
    pub fn start_closed(self) -> Result<Server, StartError> {
        let Self {
            sessions,
            shared,
            client_listeners: clients,
            backend_listeners: backends,
            admin_listener: admin,
            certificates,
            names,
            outgoing,
            dial_in,
            activated,
        } = self;
        let snapshot = shared.snapshot();
        let config = snapshot.config.clone();
        let control = dial_in.control();
        let tick = {
            let (sessions, control) = (Arc::clone(&sessions), Arc::clone(&control));
            PreparedThread::new("tick", move || sessions.tick(&control))?
        };
        let tunnels = {
            let sessions = Arc::clone(&sessions);
            PreparedThread::new("tunnels", move || {
                set_scheduling(config.scheduling);
                let tunnels = &sessions.tunnels;
                tunnels.run(|session, backend, ended| session.end_tunnel(backend, &ended));
            })?
        };
        let drainer = {
            let shared = Arc::clone(&shared);
            PreparedThread::new("drain", move || shared.drainer.run())?
        };
        let dial_in = PreparedThread::new("dial-in", move || dial_in.run())?;
        let acme = names
            .need_thread()
            .then(|| acme_thread(&shared.manager))
            .transpose()?;
        let running = Arc::new(Mutex::new(Running::default()));
        let reloading = Arc::new(Mutex::default());
        let watch = CertificateWatch::prepare(&snapshot.config, || CertificateWatcher {
            shared: Arc::clone(&shared),
            running: Arc::clone(&running),
            reloading: Arc::clone(&reloading),
        })?;
        let mut listeners = Running::default();
        for listener in backends {
            listeners
                .backend_listeners
                .push(listener.prepare(&control)?);
        }
        for (address, sockets) in clients {
            let listener = ClientListener::prepare(address, sockets, &sessions)?;
            *listener.tls.write() = certificates.acceptor(&listener.address);
            listeners.client_listeners.push(listener);
        }
        let admin_context = AdminContext::new(Arc::clone(&shared), Arc::clone(&control));
        let admin_context = Arc::new(admin_context);
        let admin = admin.map(|admin| admin.prepare(&admin_context));
        listeners.admin_listener = admin.transpose()?;
        let of_sites = certificates.of_sites();
        listeners.certificates = certificates;
        listeners.outgoing = outgoing;
        threads::check_available(config.workers)?;
        // From here on nothing can fail, and threads may begin.
        let workers = threadpool::Builder::new()
            .num_threads(config.workers)
            .thread_name("worker".to_owned())
            .build();
        for _ in 0..config.workers {
            let sessions = Arc::clone(&sessions);
            let scheduling = config.scheduling;
            // One job for the life of the server: the library's queue is unbounded, the server's own queues are not.
            workers.execute(move || {
                set_scheduling(scheduling);
                Worker::new(sessions).work();
            });
        }
        snapshot.check_files();
        for servers in snapshot.servers() {
            servers.tick(Instant::now());
        }
        let first = first_name(&snapshot.config.sites);
        shared.manager.commit(names, of_sites, first);
        *running.lock() = listeners;
        Ok(Server {
            activated,
            reloading,
            running,
            acme: Mutex::new(acme.map(PreparedThread::begin)),
            watch: Mutex::new(watch.map(CertificateWatch::begin)),
            succession: Arc::new(Succession::new(Arc::clone(&sessions), Arc::clone(&control))),
            workers,
            tick: Some(tick.begin()),
            tunnels: Some(tunnels.begin()),
            drainer: Some(drainer.begin()),
            dial_in: Some(dial_in.begin()),
            control,
            admin_context,
            sessions,
            shared,
        })
    }
}
