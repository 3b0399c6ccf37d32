//! The `swiftiply-access` program: options, configuration, start, and then control by signals.
//!
//! | thread | does |
//! |---|---|
//! | main | starts the access proxy; waits for signals: reload, reopen, forward, drain |
//! | `reload` | reads the configuration and puts it into effect |
//! | `watchdog` | gives signs of life to the service manager, if that wants them |
//! | `signals` | turns signals into messages (`ctrlc` does so for INT) |
//!
//! All other threads belong to [`swiftiply::access::Access`].

mod options;
#[path = "../program/mod.rs"]
mod program;

use std::ffi::c_int;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use options::{Action, Invocation};
use parking_lot::Mutex;
use program::control::{ControlMessages, Message};
use program::manager;
use program::task::{TaskThread, drop_last};
use program::{ExitError, NAME, print, reload_failed, report};
use signal_hook::consts::{SIGTTIN, SIGTTOU, SIGUSR2};
use swiftiply::access::{Access, StartError};
use swiftiply::config::access::AccessConfig as Settings;
use swiftiply::config::{Config, Note, Problems};
use swiftiply::internals::amount::counted;
use swiftiply::internals::logging::Logging;
use swiftiply::internals::net::INSPECTION;
use swiftiply::internals::process;
use swiftiply::internals::process::reason;
use swiftiply::internals::process::service;

fn main() -> ExitCode {
    process::prepare_memory();
    program::end(run())
}

fn run() -> Result<ExitCode, ExitError> {
    match options::parse(std::env::args_os().skip(1)).map_err(ExitError::usage)? {
        Action::Help => print(&options::usage()),
        Action::Version => print(&format!("{NAME} {}\n", env!("CARGO_PKG_VERSION"))),
        Action::Check(invocation) => {
            let (settings, notes) = inspect(&invocation)?;
            notes.iter().for_each(|note| eprintln!("{note}"));
            Access::check(&settings).map_err(ExitError::usage)?;
            print("ok\n")
        }
        Action::Serve(invocation) => serve(invocation),
    }
}

/// Reads the configuration: the file, overridden by the command line.
fn read(invocation: &Invocation) -> Result<(Settings, Vec<Note>), Problems> {
    Settings::load(invocation.file.as_deref(), &invocation.overrides)
}

/// Reads the configuration before a start, and checks the files that it names.
fn inspect(invocation: &Invocation) -> Result<(Settings, Vec<Note>), Problems> {
    Settings::inspect(
        invocation.file.as_deref(),
        &invocation.overrides,
        &INSPECTION,
    )
}

/// The part of the settings that the library's logging uses.
fn logger(settings: &Settings) -> Config {
    let mut config = Config::default();
    config.logger = settings.logger.clone();
    config
}

fn serve(invocation: Invocation) -> Result<ExitCode, ExitError> {
    let (settings, notes) = inspect(&invocation)?;
    let logging = Logging::install().map_err(ExitError::running)?;
    let prepared = logging.prepare(&logger(&settings));
    prepared.map_err(ExitError::running)?.commit();
    notes.iter().for_each(|note| log::warn!("{note}"));
    if let Err(error) = process::raise_descriptors(None) {
        log::warn!("descriptors: {}", reason(&error));
    }
    let control = ControlMessages::new(FORWARDED_SIGNALS).map_err(ExitError::running)?;
    announce(&settings);
    let grace = Arc::new(Mutex::new(settings.grace));
    let access = Access::start(settings).map_err(|error| match error {
        StartError::Certificate(_) => ExitError::usage(error),
        error => ExitError::running(error),
    })?;
    let access = Arc::new(access);
    let current = Arc::clone(&grace);
    let reloads = TaskThread::of("reload", &access, move |access| {
        match manager::reloading(|| reload(access, &invocation, logging)) {
            Ok(settings) => *current.lock() = settings.grace,
            Err(message) => reload_failed(&message),
        }
        access.forward_signal("HUP");
    });
    let reloads = reloads.map_err(ExitError::running)?;
    // If a thread hung with the lock of the connections, this would hang, too.
    let works = |access: &Access, _| access.connections() >= (0, 0);
    manager::keep_watchdog(&access, works).map_err(ExitError::running)?;
    manager::reported(service::notify("READY=1"));
    loop {
        match control.wait() {
            Message::Reload => reloads.ask(),
            Message::Reopen => {
                logging.reopen();
                log::info!("logs reopened");
                access.forward_signal("USR1");
            }
            Message::Other(signal) => access.forward_signal(signal),
            Message::Stop => {
                manager::reported(service::notify("STOPPING=1"));
                let grace = *grace.lock();
                let code = drain(&control, &access, grace);
                drop_last(access);
                log::logger().flush();
                return Ok(code);
            }
        }
    }
}

fn announce(settings: &Settings) {
    let servers: Vec<_> = settings.connect.iter().map(ToString::to_string).collect();
    log::info!(
        "{} to each of {} for {}",
        counted(settings.connections, "connection"),
        servers.join(", "),
        settings.to
    );
}

/// Switches to the configuration in the file, all or nothing.
fn reload(
    access: &Access,
    invocation: &Invocation,
    logging: &'static Logging,
) -> Result<Settings, String> {
    let (settings, notes) = read(invocation).map_err(|problems| report(&problems))?;
    let logs = logging
        .prepare(&logger(&settings))
        .map_err(|error| error.to_string())?;
    access
        .reload(settings.clone())
        .map_err(|error| error.to_string())?;
    logs.commit();
    notes.iter().for_each(|note| log::warn!("{note}"));
    log::info!("reloaded");
    announce(&settings);
    Ok(settings)
}

/// Closes the connections to the servers, idle ones first, and then ends the command. A second signal, or the end of the
/// grace period, cuts requests under way. Upgraded connections end with the command; without a command, they are waited
/// for as well. Closing them does not count as a cut.
fn drain(control: &ControlMessages, access: &Access, grace: Duration) -> ExitCode {
    log::info!("draining, for {grace:?} at most");
    let since = Instant::now();
    access.begin_drain();
    let mut forced = false;
    while !access.is_drained() || !access.has_command() && access.tunnels() > 0 {
        let again = control.wait_for(Duration::from_millis(10)) == Some(Message::Stop);
        if again || since.elapsed() >= grace {
            forced = !access.is_drained();
            break;
        }
    }
    let patience = match forced {
        true => Duration::ZERO,
        false => grace.saturating_sub(since.elapsed()).max(LEAST_GRACE),
    };
    let (_, busy) = access.connections();
    let ended = access.stop_command(patience);
    match (forced, ended) {
        (false, true) => {
            log::info!("drained");
            ExitCode::SUCCESS
        }
        (true, _) => {
            let busy = counted(busy, "request");
            log::warn!("stopped with {busy} under way");
            ExitCode::FAILURE
        }
        (false, false) => ExitCode::FAILURE,
    }
}

/// Signals that only the command can interpret.
const FORWARDED_SIGNALS: &[(c_int, &str)] =
    &[(SIGUSR2, "USR2"), (SIGTTIN, "TTIN"), (SIGTTOU, "TTOU")];

/// The shortest time that the command gets to end.
const LEAST_GRACE: Duration = Duration::from_secs(1);
