//! Commands to the server, and the lists that `swiftiplyctl` shows.

use std::process;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;

use super::message::{AdminRequest, AdminResponse};
use crate::backend::registration::ConnectedBackend;
use crate::config::{self, LogLevel};
use crate::server::commands::ProcessCommands;
use crate::server::operations::{DrainedBackends, OperationError, Operations};
use crate::server::snapshot::Site;
use crate::stats;

/// `GET /control/overview`
#[derive(Serialize)]
struct Overview {
    version: &'static str,
    pid: u32,
    /// Seconds since the start, and milliseconds, for rates.
    uptime: u64,
    clock_ms: u64,
    /// Open connections of clients.
    clients: u64,
    /// Requests that wait for a backend.
    waiting: usize,
    /// Responses since the start.
    responses: u64,
    /// Sites that differ from the configuration file.
    unpersisted: Vec<String>,
    /// Backends that get no requests.
    drained: Vec<String>,
    sites: Vec<SiteLine>,
}

/// A site in a list.
#[derive(Serialize)]
struct SiteLine {
    name: String,
    /// What an operator has switched.
    state: Vec<&'static str>,
    /// Requests that wait for a backend, or for the end of a pause.
    waiting: usize,
    /// Connected backends, or servers.
    backends: usize,
    /// Those of the backends that are idle, or idle connections to servers.
    idle: usize,
}

#[derive(Serialize)]
struct SiteList {
    sites: Vec<SiteLine>,
}

/// A backend in a list.
#[derive(Serialize)]
struct BackendLine {
    /// Its id, or the address of a server.
    name: String,
    /// From where it has dialled in.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    /// Where it has dialled in, or the site of a server.
    at: String,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    responses: Option<u64>,
}

#[derive(Serialize)]
struct BackendList {
    backends: Vec<BackendLine>,
}

/// The response to a command.
#[derive(Serialize)]
struct CommandReport<'a> {
    message: &'a str,
}

/// The response to a command that was carried out.
pub(super) fn done(message: &str) -> AdminResponse {
    AdminResponse::json(200, &CommandReport { message })
}

/// What the program does on a command, or the response that it takes none.
pub(super) fn with_process(
    request: &AdminRequest<'_>,
    act: impl FnOnce(&dyn ProcessCommands) -> AdminResponse,
) -> AdminResponse {
    match request.context.commands() {
        Some(commands) => act(&*commands),
        None => AdminResponse::error(
            501,
            "this server is part of a program that does not take this command",
        ),
    }
}

/// `GET /control/overview`
pub(super) fn overview(request: &AdminRequest<'_>) -> AdminResponse {
    let context = request.context;
    let shared = &context.shared;
    let uptime = context.started.elapsed();
    let drained = Arc::clone(&shared.drained.lock());
    let commands = context.commands();
    AdminResponse::json(
        200,
        &Overview {
            version: env!("CARGO_PKG_VERSION"),
            pid: process::id(),
            uptime: uptime.as_secs(),
            clock_ms: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
            clients: stats::get(&shared.stats.open),
            waiting: shared.waiting.load(Ordering::Relaxed),
            responses: shared.stats.exchanges(),
            unpersisted: commands.map_or_else(Vec::new, |commands| commands.unpersisted()),
            drained: drained.names().map(ToString::to_string).collect(),
            sites: site_lines(request),
        },
    )
}

/// `GET /control/sites`
pub(super) fn sites(request: &AdminRequest<'_>) -> AdminResponse {
    let sites = site_lines(request);
    AdminResponse::json(200, &SiteList { sites })
}

fn site_lines(request: &AdminRequest<'_>) -> Vec<SiteLine> {
    let snapshot = request.context.shared.snapshot();
    snapshot.sites.iter().map(SiteLine::of).collect()
}

impl SiteLine {
    fn of(site: &Site) -> Self {
        let switches = &site.switches;
        let maintenance =
            switches.is_in_maintenance() || site.pages.in_maintenance(std::time::Instant::now());
        let states = [
            (switches.pause.is_on(), "paused"),
            (switches.is_drained(), "drained"),
            (maintenance, "maintenance"),
        ];
        let (backends, idle) = site.backends();
        Self {
            name: site.settings.name.clone(),
            state: states
                .iter()
                .filter(|(on, _)| *on)
                .map(|(_, word)| *word)
                .collect(),
            waiting: site.waiting.count(),
            backends,
            idle,
        }
    }
}

/// `GET /control/backends`
pub(super) fn backends(request: &AdminRequest<'_>) -> AdminResponse {
    let shared = &request.context.shared;
    let drained = Arc::clone(&shared.drained.lock());
    let connected = request.context.control.connected();
    let line = |backend: &ConnectedBackend| {
        let work = if backend.is_idle { "idle" } else { "busy" };
        let is_drained = drained.has_backend(&backend.id, &backend.peer);
        BackendLine {
            name: backend.id.to_string(),
            from: Some(backend.peer.to_string()),
            at: backend.address.clone(),
            state: state(is_drained, work),
            responses: Some(backend.responses),
        }
    };
    let mut backends: Vec<_> = connected.iter().map(line).collect();
    let snapshot = shared.snapshot();
    let mut servers = Vec::new();
    for site in &snapshot.sites {
        for server in site.servers.iter().flat_map(|servers| servers.list()) {
            backends.push(BackendLine {
                name: server.name.to_string(),
                from: None,
                at: site.settings.name.clone(),
                state: state(
                    server.is_drained,
                    &match (server.is_up, server.busy) {
                        (false, _) => "down".to_owned(),
                        (true, 0) => "idle".to_owned(),
                        (true, busy) => format!("{busy} busy"),
                    },
                ),
                responses: None,
            });
            servers.push(server.name);
        }
    }
    for name in drained.names() {
        let is_here = connected
            .iter()
            .any(|one| name.is_backend(&one.id, &one.peer))
            || servers.iter().any(|server| **server == *name.to_string());
        if !is_here {
            backends.push(BackendLine {
                name: name.to_string(),
                from: None,
                at: "-".to_owned(),
                state: "drained, not connected".to_owned(),
                responses: None,
            });
        }
    }
    AdminResponse::json(200, &BackendList { backends })
}

fn state(drained: bool, work: &str) -> String {
    match drained {
        true => format!("drained, {work}"),
        false => work.to_owned(),
    }
}

/// `POST /control/reload`
pub(super) fn reload(request: &AdminRequest<'_>) -> AdminResponse {
    with_process(request, |process| outcome(422, process.reload()))
}

/// `POST /control/check`
pub(super) fn check(request: &AdminRequest<'_>) -> AdminResponse {
    with_process(request, |process| outcome(422, process.check()))
}

/// `POST /control/upgrade`
pub(super) fn upgrade(request: &AdminRequest<'_>) -> AdminResponse {
    with_process(request, |process| outcome(409, process.upgrade()))
}

/// `POST /control/stop`
pub(super) fn stop(request: &AdminRequest<'_>) -> AdminResponse {
    with_process(request, |process| {
        process.stop();
        done("stopping")
    })
}

/// `POST /control/log/LEVEL`
pub(super) fn log_level(request: &AdminRequest<'_>) -> AdminResponse {
    let word = &request.arguments[0];
    let levels = [
        ("disabled", LogLevel::Disabled),
        ("minimal", LogLevel::Minimal),
        ("normal", LogLevel::Normal),
        ("full", LogLevel::Full),
    ];
    let Some((_, level)) = levels.into_iter().find(|(known, _)| known == word) else {
        let why = format!("log {word}: write disabled, minimal, normal or full");
        return AdminResponse::error(400, &why);
    };
    with_process(request, |process| {
        process.set_log_level(level);
        done(&format!("logging at level {word} until the next reload"))
    })
}

/// `POST /control/pause/SITE`
pub(super) fn pause(request: &AdminRequest<'_>) -> AdminResponse {
    let longest = match query(request, "most") {
        None => DEFAULT_PAUSE,
        Some(text) => match config::time_of(&text) {
            Ok(longest) => longest,
            Err(why) => return AdminResponse::error(400, &format!("most {text:?}: {why}")),
        },
    };
    let site = &request.arguments[0];
    operation(operations(request).pause(site, longest), |()| {
        format!("{site} is paused; a request waits {longest:?} at most")
    })
}

/// `POST /control/resume/SITE`
pub(super) fn resume(request: &AdminRequest<'_>) -> AdminResponse {
    let site = &request.arguments[0];
    operation(operations(request).resume(site), |waiting| match waiting {
        1 => format!("{site} is resumed; 1 request waited"),
        waiting => format!("{site} is resumed; {waiting} requests waited"),
    })
}

/// `POST /control/maintenance/SITE/on`
pub(super) fn maintenance(request: &AdminRequest<'_>) -> AdminResponse {
    let [site, word] = request.arguments.as_slice() else {
        return AdminResponse::error(400, "write /control/maintenance/SITE/on");
    };
    let on = match word.as_str() {
        "on" => true,
        "off" => false,
        _ => return AdminResponse::error(400, &format!("maintenance {word}: write on or off")),
    };
    operation(operations(request).set_maintenance(site, on), |changed| {
        let already = if changed { "" } else { " already" };
        match on {
            true => format!("{site} is{already} in maintenance"),
            false if changed => format!("{site} is not in maintenance any more"),
            false => format!("{site} is not in maintenance by a command"),
        }
    })
}

/// `POST /control/drain/NAME`
pub(super) fn drain(request: &AdminRequest<'_>) -> AdminResponse {
    let name = &request.arguments[0];
    operation(operations(request).drain(name), |drained| match drained {
        DrainedBackends::Site(site) => format!("site {site} is drained"),
        DrainedBackends::Connected(1) => format!("{name} is drained; 1 backend is connected"),
        DrainedBackends::Connected(count) => {
            format!("{name} is drained; {count} backends are connected")
        }
        DrainedBackends::Server => format!("server {name} is drained"),
    })
}

/// `POST /control/undrain/NAME`
pub(super) fn undrain(request: &AdminRequest<'_>) -> AdminResponse {
    let name = &request.arguments[0];
    operation(operations(request).undrain(name), |()| {
        format!("{name} gets requests again")
    })
}

fn operations<'r>(request: &'r AdminRequest<'_>) -> Operations<'r> {
    Operations {
        shared: &request.context.shared,
        control: &request.context.control,
    }
}

fn operation<T>(
    result: Result<T, OperationError>,
    message: impl FnOnce(T) -> String,
) -> AdminResponse {
    match result {
        Ok(value) => done(&message(value)),
        Err(error) => {
            let status = match error {
                OperationError::NoSite(..) | OperationError::NoBackend(_) => 404,
                OperationError::NotDrained(_) | OperationError::NotPaused(_) => 409,
            };
            AdminResponse::error(status, &error.to_string())
        }
    }
}

/// `status`: that of a failure.
fn outcome(status: u16, result: Result<String, String>) -> AdminResponse {
    match result {
        Ok(message) => done(&message),
        Err(why) => AdminResponse::error(status, &why),
    }
}

/// The value of a key of the query.
pub(super) fn query(request: &AdminRequest<'_>, key: &str) -> Option<String> {
    let query = request.head.target.query()?;
    let pairs = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut pairs = pairs.into_iter();
    let (_, value) = pairs.find(|(name, _)| *name == key)?;
    let value = crate::http::target::decoded(value.as_bytes());
    Some(String::from_utf8_lossy(&value).into_owned())
}

/// How long a request waits at most if the command does not say it.
const DEFAULT_PAUSE: Duration = Duration::from_secs(300);
