//! Commands to the server.

use std::time::Duration;

use serde::Serialize;

use super::message::{AdminRequest, AdminResponse};
use crate::amount::counted;
use crate::config::{self, LogLevel};
use crate::server::commands::ProcessCommands;
use crate::server::operations::{DrainedBackends, OperationError, Operations};

/// The response to a command.
#[derive(Serialize)]
struct CommandReport<'a> {
    message: &'a str,
}

/// `GET /control/in-flight/NAME`
#[derive(Serialize)]
struct InFlight {
    requests: usize,
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
    let Some(level) = LogLevel::named(word) else {
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
    operation(operations(request).resume(site), |waiting| {
        format!("{site} is resumed; {} waited", counted(waiting, "request"))
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
        DrainedBackends::Connected(count) => {
            let verb = if count == 1 { "is" } else { "are" };
            let backends = counted(count, "backend");
            format!("{name} is drained; {backends} {verb} connected")
        }
        DrainedBackends::Server => format!("server {name} is drained"),
    })
}

/// `GET /control/in-flight/NAME`
pub(super) fn in_flight(request: &AdminRequest<'_>) -> AdminResponse {
    match operations(request).in_flight(&request.arguments[0]) {
        Ok(requests) => AdminResponse::json(200, &InFlight { requests }),
        Err(error) => refused(&error),
    }
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
        Err(error) => refused(&error),
    }
}

fn refused(error: &OperationError) -> AdminResponse {
    let status = match error {
        OperationError::NoSite(..) | OperationError::NoBackend(_) => 404,
        OperationError::NotDrained(_) | OperationError::NotPaused(_) | OperationError::Replaced => {
            409
        }
    };
    AdminResponse::error(status, &error.to_string())
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
