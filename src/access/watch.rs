//! Whether the application answers.
//!
//! A thread looks every `check.interval` while it does, and sooner while it does not. Where answers have come since the
//! last look there is no need to. A request of a check goes through the [`limit`](super::limit) like any other, so
//! that there are never too many; where no place is free a connection has to be enough.

use std::time::{Duration, Instant};

use super::application::connect;
use super::running::RunningConfig;
use super::shared::{AccessShared, fault};
use crate::backend::check::HealthProbe;
use crate::process::reason;

/// Looks until there is a drain.
pub(super) fn run(shared: &AccessShared) {
    let mut answers = shared.answers();
    let mut pause = SHORTEST;
    loop {
        let settings = shared.settings();
        let before = std::mem::replace(&mut answers, shared.answers());
        // Answers of the old application say nothing about a new one, but then it is down.
        let busy = answers != before && shared.is_open();
        let interval = settings.config.check.interval;
        let seen = match busy {
            true => Ok(()),
            false => look(shared, &settings),
        };
        let wait = match seen {
            Ok(()) => {
                shared.up();
                pause = SHORTEST;
                interval
            }
            Err(why) => {
                shared.leave(&why);
                let wait = pause.min(interval);
                pause = (pause * 2).min(LONGEST);
                wait
            }
        };
        if !shared.rest(wait) {
            return;
        }
    }
}

/// One look at the application.
fn look(shared: &AccessShared, settings: &RunningConfig) -> Result<(), String> {
    if shared.state.lock().away {
        return Err("its process does not run".to_owned());
    }
    let mut app = match connect(settings) {
        Ok(app) => app,
        Err(error) => return fault(&error).map_or(Ok(()), Err),
    };
    let Some(uri) = &settings.config.check.uri else {
        return Ok(());
    };
    let Some(_permit) = shared.gate.try_enter() else {
        return Ok(());
    };
    let question = HealthProbe {
        uri,
        host: "localhost",
        agent: "swiftiply-access",
    };
    let deadline = Instant::now() + settings.config.timeouts.connect;
    match question.ask(&mut app, deadline) {
        Ok(..=399) => Ok(()),
        Ok(status) => Err(format!("check {uri}: {status}")),
        Err(error) => Err(format!("check {uri}: {}", reason(&error))),
    }
}

/// How soon it is looked again while it does not answer: more and more seldom, up to the longest.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(1);
