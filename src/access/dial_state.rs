//! What is known about dialling a server, and what the log has reported about it.
//!
//! Plain data, guarded by the lock of [`shared`](super::shared).

use std::time::{Duration, Instant};

use super::server::ServerAddress;
use crate::client::Backoff;
use crate::preamble::ServerRefusal;

/// What is known about dialling a server.
#[derive(Debug)]
pub(super) struct DialState {
    pub(super) backoff: Backoff,
    pub(super) is_failing: bool,
    /// One connection probes the server on behalf of all.
    pub(super) is_probing: bool,
    pub(super) retry_at: Instant,
    /// Accepted connections.
    pub(super) connections: usize,
    /// What the log has reported: nothing yet, success (empty), or a reason for failure.
    pub(super) reported: Option<String>,
    pub(super) burst: Option<DialBurst>,
}

/// Accepted and lost connections since the last log message.
#[derive(Debug)]
pub(super) struct DialBurst {
    server: String,
    /// When they are reported.
    pub(super) due: Instant,
    dialled: usize,
    lost: usize,
    /// The last reason that the server has given.
    why: Option<ServerRefusal>,
}

/// The permission to dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DialPermission {
    /// Connections to the server are open; all others may dial.
    Plain,
    /// None is open; this connection probes the server on behalf of all.
    Probe,
}

impl Default for DialState {
    fn default() -> Self {
        Self {
            backoff: Backoff::new(LONGEST_PAUSE),
            is_failing: false,
            is_probing: false,
            retry_at: Instant::now(),
            connections: 0,
            reported: None,
            burst: None,
        }
    }
}

impl DialState {
    /// Counts an accepted connection. Returns the message if it is logged at once: the first event of a burst, and news.
    pub(super) fn count_dialled(
        &mut self,
        server: &ServerAddress,
        is_news: bool,
    ) -> Option<String> {
        match &mut self.burst {
            Some(burst) if !is_news => {
                burst.dialled += 1;
                return None;
            }
            Some(_) => {}
            None => self.burst = Some(DialBurst::new(server.to_string())),
        }
        Some(self.line(&server.to_string(), "dialled in", None))
    }

    /// Counts a lost connection, with the reason that the server has given. Returns the message as
    /// [`DialState::count_dialled`] does.
    pub(super) fn count_lost(
        &mut self,
        server: &ServerAddress,
        why: Option<ServerRefusal>,
    ) -> Option<String> {
        if let Some(burst) = &mut self.burst {
            burst.lost += 1;
            burst.why = why.or(burst.why.take());
            return None;
        }
        self.burst = Some(DialBurst::new(server.to_string()));
        Some(self.line(&server.to_string(), "disconnected", why))
    }

    fn line(&self, server: &str, what: &str, why: Option<ServerRefusal>) -> String {
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        format!("server {server}: {what}, {} now{why}", self.connections)
    }

    /// What has happened since the last message, if that is due. After a burst without events, the next event is logged
    /// at once.
    pub(super) fn report(&mut self, now: Instant) -> Option<String> {
        let DialBurst {
            server,
            dialled,
            lost,
            why,
            ..
        } = self.burst.take_if(|burst| burst.due <= now)?;
        let what = match (dialled, lost) {
            (0, 0) => return None,
            (dialled, 0) => format!("{dialled} more dialled in"),
            (0, lost) => format!("{lost} more disconnected"),
            (dialled, lost) => format!("{dialled} more dialled in and {lost} disconnected"),
        };
        let line = self.line(&server, &what, why);
        self.burst = Some(DialBurst::new(server));
        Some(line)
    }
}

impl DialBurst {
    fn new(server: String) -> Self {
        Self {
            server,
            due: Instant::now() + BURST,
            dialled: 0,
            lost: 0,
            why: None,
        }
    }
}

/// Events within this time after a message are counted and reported together.
const BURST: Duration = Duration::from_secs(1);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
