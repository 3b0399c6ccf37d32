//! Ends a server without cutting a response: after TERM, or after another process has replaced it.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use swiftiply::Server;
use swiftiply::config::Config;
use swiftiply::internals::amount::counted;
use swiftiply::internals::process::service;

use crate::program::control::{ControlMessages, Message};
use crate::program::manager;

/// How long a drain may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Graces {
    /// After TERM.
    stop: Duration,
    /// After another process has replaced this one.
    upgrade: Duration,
}

impl Graces {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            stop: config.grace,
            upgrade: config.upgrade_grace,
        }
    }
}

/// Stops accepting and waits for requests under way, and for processes that this one has replaced. A second signal, or the end
/// of the grace period, cuts them. For a process that was replaced, the first signal begins the grace period of a stop.
pub(crate) fn drain(control: &ControlMessages, server: &Server, graces: Graces) -> ExitCode {
    let begun = Instant::now();
    let mut is_stopping = !server.is_replaced();
    let mut deadline = match is_stopping {
        true => begin(server, begun, graces.stop, true),
        false => begin(server, begun, graces.upgrade, false),
    };
    let (mut stops, mut asked) = (0, begun);
    server.begin_drain();
    loop {
        if server.is_drained(begun) && server.predecessors() == 0 {
            log::info!("drained");
            return ExitCode::SUCCESS;
        }
        let pause = match begun.elapsed() < FIRST_TIME {
            true => SHORT_PAUSE,
            false => LONG_PAUSE,
        };
        let mut is_asked = control.wait_for(pause) == Some(Message::Stop);
        let before = std::mem::replace(&mut stops, server.stop_requests());
        is_asked |= stops > before;
        let now = Instant::now();
        if now.saturating_duration_since(asked) >= ASK_AGAIN {
            asked = now;
            server.ask_again();
        }
        if is_asked && !is_stopping {
            is_stopping = true;
            deadline = begin(server, now, graces.stop, true).min(deadline);
        } else if is_asked || now >= deadline {
            return cut(server);
        }
    }
}

/// Begins a grace period; returns its end.
fn begin(server: &Server, now: Instant, grace: Duration, is_stopping: bool) -> Instant {
    log::info!("draining, for {grace:?} at most");
    if is_stopping {
        server.begin_stop();
    }
    if !server.is_replaced() {
        manager::reported(service::notify("STOPPING=1"));
        server.stop_predecessors();
    }
    now + grace
}

/// Closes what is left.
fn cut(server: &Server) -> ExitCode {
    if !server.is_replaced() {
        server.stop_predecessors();
    }
    server.close_idle();
    server.close_tunnels();
    let open = server.open_connections();
    if open == 0 {
        log::info!("drained; upgraded connections were closed");
        return ExitCode::SUCCESS;
    }
    let open = counted(open, "connection");
    log::warn!("stopped with {open} open");
    ExitCode::FAILURE
}

/// The pauses between two looks at the connections: at first, and later in a drain that may last for hours.
const FIRST_TIME: Duration = Duration::from_secs(10);
const SHORT_PAUSE: Duration = Duration::from_millis(10);
const LONG_PAUSE: Duration = Duration::from_millis(100);
/// How often the process that has replaced this one is asked again for backends.
const ASK_AGAIN: Duration = Duration::from_secs(2);
