//! The `swiftiply` program: options, configuration, start, and then control by signals.
//!
//! | thread | does |
//! |---|---|
//! | main | starts the server; waits for control messages: reload, reopen, upgrade, drain |
//! | `reload` | reads the configuration and puts it into effect |
//! | `upgrade` | starts a new process in the place of this one, see [`upgrade`] |
//! | `watchdog` | gives signs of life to the service manager, if that wants them |
//! | `signals` | turns HUP, TERM, USR1 and USR2 into control messages (`ctrlc` does so for INT) |
//!
//! All other threads belong to [`swiftiply::Server`].

mod commands;
mod configuration;
mod demo;
mod drain;
mod options;
#[path = "../program/mod.rs"]
mod program;
mod upgrade;

use std::ffi::c_int;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use commands::Commands;
use configuration::{Configuration, Inspected};
use options::{Action, Invocation};
use program::control::{ControlMessages, Message};
use program::manager;
use program::task::{TaskThread, drop_last};
use program::{ExitError, print, reload_failed};
use signal_hook::consts::SIGUSR2;
use swiftiply::config::{
    Config, LogDestination, LogLevel, Logger, Note, Problems, SiteConfig, SiteTls,
};
use swiftiply::internals::logging::{self, Logging};
use swiftiply::internals::net::activation::{ActivatedSockets, Inherited};
use swiftiply::internals::process::pid_file::PidFile;
use swiftiply::internals::process::reason;
use swiftiply::internals::process::service;
use swiftiply::internals::process::{self, ForkSide};
use swiftiply::server::{Bound, Server, StartError};
use upgrade::{Predecessor, Upgrade};

fn main() -> ExitCode {
    process::prepare_memory();
    program::end(run())
}

fn run() -> Result<ExitCode, ExitError> {
    let mut arguments = std::env::args_os().skip(1).collect();
    let follows = Predecessor::is_there(&mut arguments);
    match options::parse(arguments).map_err(ExitError::usage)? {
        Action::Help => print(&options::usage()),
        Action::Version => print(&format!("Swiftiply v. {}\n", env!("CARGO_PKG_VERSION"))),
        Action::Check(invocation) => check(&invocation),
        Action::Print(invocation) => print(&read(&invocation)?.0.to_yaml()),
        Action::Demo(overrides) => {
            demo::run(&overrides, UPGRADE).map_err(ExitError::running)?;
            Ok(ExitCode::SUCCESS)
        }
        Action::Serve(invocation) => serve(invocation, follows),
    }
}

fn check(invocation: &Invocation) -> Result<ExitCode, ExitError> {
    let Inspected { config, notes, .. } = Inspected::read(invocation, None)?;
    for note in &notes {
        eprintln!("{note}");
    }
    // The file is valid; what it names may not be.
    Server::check(&config).map_err(ExitError::usage)?;
    print(&format!("ok: {}\n", configuration::count_of_sites(&config)))
}

/// Reads the configuration: the file, overridden by the command line.
fn read(invocation: &Invocation) -> Result<(Config, Vec<Note>), Problems> {
    match &invocation.file {
        Some(file) => Config::load(file, &invocation.overrides),
        None => Config::from_overrides(&invocation.overrides),
    }
}

fn serve(invocation: Invocation, follows: bool) -> Result<ExitCode, ExitError> {
    let upgrade = Upgrade::prepare();
    let sockets = service::sockets().map_err(ExitError::running)?;
    let mut predecessor = match follows {
        true => Some(Predecessor::meet().map_err(ExitError::running)?),
        false => None,
    };
    let changes = predecessor
        .as_ref()
        .and_then(|process| process.changes.as_deref());
    let inspected = Inspected::read(&invocation, changes)?;
    let (config, notes) = (inspected.config.clone(), &inspected.notes);
    let identity = process::look_up(config.user.as_deref(), config.group.as_deref())
        .map_err(ExitError::usage)?;
    let mut ready = None;
    // A process that follows a daemon is in the background already.
    if config.daemonize && !follows {
        match process::fork().map_err(|error| ExitError::running(reason(&error)))? {
            ForkSide::Parent { child, ready } => return Ok(wait_for(child, ready, &config)),
            ForkSide::Child { ready: writer } => ready = Some(writer),
        }
    }
    // No threads before this point: a process with threads cannot fork.
    let logging = Logging::install().map_err(ExitError::running)?;
    logging
        .prepare(&config)
        .map_err(ExitError::running)?
        .commit();
    for note in notes {
        log::warn!("{note}");
    }
    if config.daemonize && !follows {
        warn_of_lost_logs(&config);
    }
    let limit = process::raise_descriptors(config.descriptors)
        .map_err(|error| ExitError::running(format!("descriptors: {}", reason(&error))))?;
    log::debug!("{limit} descriptors");
    let bound = match &predecessor {
        None => bind(&config, &Arc::new(ActivatedSockets::new(sockets))),
        Some(predecessor) => Server::bind_with(config.clone(), &predecessor.inherited),
    };
    let bound = bound.map_err(|error| match error {
        StartError::Config(_)
        | StartError::Certificate(_)
        | StartError::DialInCertificate(_)
        | StartError::SocketFile(_) => ExitError::usage(error),
        _ => ExitError::running(error),
    })?;
    // From here on signals are messages. Until here they end the program at once, whatever file is being read.
    let control = ControlMessages::new(UPGRADE).map_err(ExitError::running)?;
    let pid_file = config.pidfile.as_deref().map(|path| {
        let written = match &mut predecessor {
            None => PidFile::write(path),
            Some(predecessor) => predecessor.write_pid_file(path),
        };
        written.map_err(|why| ExitError::running(format!("pidfile {}: {why}", path.display())))
    });
    let pid_file = pid_file.transpose()?.map(Arc::new);
    for file in log_files(&config) {
        // After a change of the user, USR1 must be able to reopen it.
        if let Err(error) = identity.own(file) {
            log::warn!(
                "{}: not given to user or group: {}",
                file.display(),
                reason(&error)
            );
        }
    }
    // What the server obtains is kept there after a change of the user, too.
    if config.state_directory.is_dir() && obtains_certificates(&config) {
        let owned = identity.own_directory(&config.state_directory);
        owned.map_err(|error| {
            let path = config.state_directory.display();
            ExitError::running(format!("state_directory: {path}: {}", reason(&error)))
        })?;
    }
    identity.assume().map_err(ExitError::running)?;
    if config.user.is_none() && process::is_root() {
        log::warn!("running as root; set user, to give that up when the addresses are bound");
    }
    if let Some(predecessor) = &predecessor {
        bound.restore(&predecessor.switched);
    }
    // If this process fails before it has taken over, no connection may be lost with it.
    let server = match follows {
        true => bound.start_closed(),
        false => bound.start(),
    };
    let server = Arc::new(server.map_err(ExitError::running)?);
    let configuration = Configuration::new(invocation, inspected, logging);
    let configuration = Arc::new(configuration);
    if let Some(level) = predecessor.as_ref().and_then(|process| process.level) {
        configuration.set_log_level(level);
    }
    let pid = pid_file.as_ref();
    let tasks = Tasks::start(&control, &server, &configuration, pid, upgrade)
        .map_err(ExitError::running)?;
    announce(&server, &config, follows)?;
    manager::reported(service::notify("READY=1"));
    if let Some(predecessor) = predecessor {
        let channel = predecessor.ready().map_err(ExitError::running)?;
        if let Err(error) = server.take_over(channel) {
            log::warn!(
                "upgrade: idle connections are not taken over: {}",
                reason(&error)
            );
        }
        pid_file.as_deref().inspect(|file| file.take_over());
    }
    if let Some(ready) = ready {
        // Standard error is closed after that.
        log::logger().flush();
        process::detach(ready).map_err(|error| ExitError::running(reason(&error)))?;
    }
    let code = handle_signals(&control, server, &configuration, logging, pid_file, &tasks);
    log::logger().flush();
    Ok(code)
}

/// Whether files are written to the state directory.
fn obtains_certificates(config: &Config) -> bool {
    let is_managed = |site: &SiteConfig| {
        matches!(
            site.tls,
            Some(SiteTls::Auto | SiteTls::OnDemand | SiteTls::Internal)
        )
    };
    config.sites.iter().any(is_managed)
}

/// Binds the addresses. A server that is draining may still hold some for a moment.
fn bind(config: &Config, activated: &Arc<ActivatedSockets>) -> Result<Bound, StartError> {
    let since = Instant::now();
    let mut is_logged = false;
    loop {
        let inherited = Inherited {
            activated: Arc::clone(activated),
            ..Inherited::default()
        };
        match Server::bind_with(config.clone(), &inherited) {
            Err(StartError::Bind(error)) if error.is_in_use() && since.elapsed() < BIND_AGAIN => {
                if !is_logged {
                    log::warn!("{error}; trying again for {BIND_AGAIN:?}");
                    is_logged = true;
                }
                thread::sleep(BIND_PAUSE);
            }
            result => return result,
        }
    }
}

/// The files of all logs.
fn log_files(config: &Config) -> impl Iterator<Item = &Path> {
    let sites = || config.sites.iter();
    let loggers = sites()
        .filter_map(|site| site.logger.as_ref())
        .chain([&config.logger]);
    let access = sites()
        .filter_map(|site| site.access_log.as_ref())
        .chain(&config.access_log);
    let messages = loggers.filter_map(|logger| logger.to.file());
    messages.chain(access.filter_map(|log| log.output.to.file()))
}

/// The original process of a daemon: exits as the new one does, or with 0 when that is ready.
fn wait_for(child: i32, ready: io::PipeReader, config: &Config) -> ExitCode {
    if process::wait_until_ready(ready) {
        if config.pidfile.is_none() {
            println!("PID {child}");
        }
        return ExitCode::SUCCESS;
    }
    ExitCode::from(process::exit_code(child))
}

/// Warns of logs that go to a terminal or a pipe, from which a daemon is detached.
fn warn_of_lost_logs(config: &Config) {
    if config.logger.to == LogDestination::Standard {
        log::warn!("daemonize: there is no logger.file, so messages are lost from now on");
    }
    let sites = config.sites.iter().map(|site| &site.access_log);
    let mut logs = sites.chain([&config.access_log]).flatten();
    if logs.any(|log| log.output.to == LogDestination::Standard) {
        log::warn!("daemonize: an access_log goes to standard output, and so is lost from now on");
    }
}

/// Reports where the server listens: in the log, and on standard output for scripts that wait for it. Standard output is
/// skipped if an access log goes there, or if it is where the log goes, as on a terminal.
fn announce(server: &Server, config: &Config, follows: bool) -> Result<(), ExitError> {
    let list = |locals: Vec<swiftiply::internals::net::listener::LocalAddress>| {
        let texts: Vec<_> = locals.iter().map(ToString::to_string).collect();
        texts.join(" ")
    };
    let mut line = format!("ready: visitors {}", list(server.client_addresses()));
    let backends = list(server.backend_addresses());
    if !backends.is_empty() {
        line.push_str("; backends ");
        line.push_str(&backends);
    }
    let status = list(server.status_addresses());
    if !status.is_empty() {
        line.push_str("; status ");
        line.push_str(&status);
    }
    log::info!("{line}");
    let sites = config.sites.iter().map(|site| &site.access_log);
    let mut logs = sites.chain([&config.access_log]).flatten();
    let is_taken = logs.any(|log| log.output.to == LogDestination::Standard);
    let Logger { to, level, .. } = &config.logger;
    let is_standard = *to == LogDestination::Standard;
    let is_there = is_standard && *level >= LogLevel::Normal && process::is_one_output();
    // A script waits for the first process only, and may not read any more.
    if is_taken || is_there || follows {
        return Ok(());
    }
    logging::print(&line).map_err(|error| ExitError::running(reason(&error)))
}

/// The threads that do what signals and commands ask for.
struct Tasks {
    reloads: TaskThread<Result<String, String>>,
    upgrades: TaskThread<Result<String, String>>,
}

impl Tasks {
    /// Starts them; from now on the server takes commands.
    ///
    /// # Errors
    /// A thread could not be started.
    fn start(
        control: &ControlMessages,
        server: &Arc<Server>,
        configuration: &Arc<Configuration>,
        pid_file: Option<&Arc<PidFile>>,
        upgrade: Upgrade,
    ) -> Result<Self, String> {
        let own = Arc::clone(configuration);
        let reloads = TaskThread::of("reload", server, move |server| {
            let outcome = manager::reloading(|| own.reload(server));
            server.note_reload(outcome.as_ref().map(drop).map_err(Clone::clone));
            if let Err(why) = &outcome {
                reload_failed(why);
            }
            outcome
        });
        let reloads = reloads?;
        // The file is removed at the end of the program, not of this thread.
        let pid = pid_file.map(Arc::downgrade);
        let own = Arc::clone(configuration);
        let replaced = control.sender();
        let upgrades = TaskThread::of("upgrade", server, move |server| {
            let pid_file = pid.as_ref().and_then(Weak::upgrade);
            let outcome = upgrade.run(server, pid_file.as_deref(), &own);
            match &outcome {
                // Fails only when the program has ended.
                Ok(()) => drop(replaced.send(Message::Stop)),
                Err(why) => log::error!("upgrade failed: {why}; going on"),
            }
            outcome.map(|()| "a new process serves".to_owned())
        });
        let upgrades = upgrades?;
        let works = |server: &Server, longest| !server.is_replaced() && server.stalled() < longest;
        manager::keep_watchdog(server, works)?;
        server.set_process_commands(Arc::new(Commands {
            server: Arc::downgrade(server),
            configuration: Arc::clone(configuration),
            reloads: reloads.clone(),
            upgrades: upgrades.clone(),
            control: control.sender(),
        }));
        Ok(Self { reloads, upgrades })
    }
}

/// Handles signals and commands until one of them ends the server.
fn handle_signals(
    control: &ControlMessages,
    server: Arc<Server>,
    configuration: &Configuration,
    logging: &'static Logging,
    mut pid_file: Option<Arc<PidFile>>,
    tasks: &Tasks,
) -> ExitCode {
    loop {
        match control.wait() {
            Message::Reload => tasks.reloads.ask(),
            Message::Reopen => {
                logging.reopen();
                server.reopen_logs();
                log::info!("logs reopened");
            }
            Message::Other(_) => tasks.upgrades.ask(),
            Message::Stop => {
                let graces = configuration.graces();
                // Before the addresses are released, so that a successor does not find our file.
                match server.is_replaced() {
                    // The lock ends with the other process, however long this one stays.
                    true => drop(pid_file.take()),
                    false => drop(pid_file.as_deref().inspect(|file| file.release())),
                }
                let code = drain::drain(control, &server, graces);
                drop_last(server);
                return code;
            }
        }
    }
}

/// How long to retry an address that is in use.
const BIND_AGAIN: Duration = Duration::from_secs(5);
/// The pause between two attempts.
const BIND_PAUSE: Duration = Duration::from_millis(100);
/// The signal that asks for a new process; the demonstration ignores it.
const UPGRADE: &[(c_int, &str)] = &[(SIGUSR2, "USR2")];
