//! Checks whether the application responds.
//!
//! A thread checks every `check.interval` while the application is up, and sooner while it is down. If there were
//! responses since the last check, none is needed. A check has a connection of its own and needs no permit of the
//! [`limit`](super::limit); but while none is free, a check that gets no response has to fail twice in a row, because an
//! application with few threads may be busy.
//!
//! If several requests in a row get no response in time, the application may hang although it accepts connections. It is
//! then checked at once, with a request even if none is configured, until one has got a response.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use super::application::connect;
use super::running::RunningConfig;
use super::shared::{AccessShared, connect_error};
use crate::backend::check::HealthProbe;
use crate::process::reason;

/// Checks until a drain begins.
pub(super) fn run(shared: &AccessShared) {
    let mut responses = shared.responses();
    let mut pause = SHORTEST_PAUSE;
    let mut was_late = false;
    loop {
        let settings = shared.settings();
        let before = std::mem::replace(&mut responses, shared.responses());
        // Responses of an earlier application do not count for a new one: it is set down first.
        let busy = responses != before && shared.is_open();
        let interval = settings.config.check.interval;
        let result = match busy {
            true => {
                // It responds, so a failure says nothing about it.
                let _ = settings.look_up();
                Ok(())
            }
            false => check(shared, &settings, &mut was_late),
        };
        let wait = match result {
            Ok(()) => {
                shared.trust();
                shared.set_up();
                pause = SHORTEST_PAUSE;
                interval
            }
            Err(why) => {
                shared.set_down(&why);
                let wait = pause.min(interval);
                pause = (pause * 2).min(LONGEST_PAUSE);
                wait
            }
        };
        if !shared.wait_for_check(wait) {
            return;
        }
    }
}

/// Checks the application once. `was_late`: the last check got no response in time.
fn check(
    shared: &AccessShared,
    settings: &RunningConfig,
    was_late: &mut bool,
) -> Result<(), String> {
    if shared.state.lock().command_down {
        return Err("its process does not run".to_owned());
    }
    let mut app = match connect(settings) {
        Ok(app) => app,
        Err(error) => return connect_error(&error).map_or(Ok(()), Err),
    };
    let own = settings.config.check.uri.as_deref();
    let is_suspect = shared.is_suspect();
    let uri = match own {
        Some(uri) => uri,
        None if is_suspect => "/",
        None => return Ok(()),
    };
    let is_full = shared.limit.try_enter().is_none();
    let probe = HealthProbe {
        uri,
        host: "localhost",
        agent: "swiftiply-access",
    };
    let deadline = Instant::now() + settings.config.timeouts.connect;
    let result = probe.run(&mut app, deadline);
    let is_late = matches!(&result, Err(error) if error.kind() == ErrorKind::TimedOut);
    let is_again = std::mem::replace(was_late, is_late);
    match result {
        Err(_) if is_late && is_full && !is_suspect && !is_again => Ok(()),
        Ok(..=399) => Ok(()),
        // Any response shows that it works.
        Ok(_) if own.is_none() => Ok(()),
        Ok(status) => Err(format!("check {uri}: {status}")),
        Err(error) => Err(format!("check {uri}: {}", reason(&error))),
    }
}

/// The first and the longest pause between checks while the application is down.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
