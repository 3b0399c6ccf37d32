//! Checks whether the application responds.
//!
//! A thread checks every `check.interval` while the application is up, and sooner while it is down. If there were
//! responses since the last check, none is needed. A check with a request takes a permit of the [`limit`](super::limit)
//! like any other; if none is free, connecting is enough.

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
    loop {
        let settings = shared.settings();
        let before = std::mem::replace(&mut responses, shared.responses());
        // Responses of an earlier application do not count for a new one: it is set down first.
        let busy = responses != before && shared.is_open();
        let interval = settings.config.check.interval;
        let result = match busy {
            true => Ok(()),
            false => check(shared, &settings),
        };
        let wait = match result {
            Ok(()) => {
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

/// Checks the application once.
fn check(shared: &AccessShared, settings: &RunningConfig) -> Result<(), String> {
    if shared.state.lock().command_down {
        return Err("its process does not run".to_owned());
    }
    let mut app = match connect(settings) {
        Ok(app) => app,
        Err(error) => return connect_error(&error).map_or(Ok(()), Err),
    };
    let Some(uri) = &settings.config.check.uri else {
        return Ok(());
    };
    let Some(_permit) = shared.limit.try_enter() else {
        return Ok(());
    };
    let probe = HealthProbe {
        uri,
        host: "localhost",
        agent: "swiftiply-access",
    };
    let deadline = Instant::now() + settings.config.timeouts.connect;
    match probe.run(&mut app, deadline) {
        Ok(..=399) => Ok(()),
        Ok(status) => Err(format!("check {uri}: {status}")),
        Err(error) => Err(format!("check {uri}: {}", reason(&error))),
    }
}

/// The first and the longest pause between checks while the application is down.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
