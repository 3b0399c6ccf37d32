//! What is known about dialling a server, and what the log has reported about it.
//!
//! Plain data, guarded by the lock of [`shared`](super::shared).

use std::time::{Duration, Instant};

use super::server::ServerAddress;
use crate::client::Backoff;

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
    /// Counts an accepted or lost connection. Returns the message if it is logged at once: the first event of a burst,
    /// and news.
    pub(super) fn count(
        &mut self,
        server: &ServerAddress,
        is_in: bool,
        is_news: bool,
    ) -> Option<String> {
        match &mut self.burst {
            Some(burst) if !is_news => {
                *(if is_in {
                    &mut burst.dialled
                } else {
                    &mut burst.lost
                }) += 1;
                return None;
            }
            Some(_) => {}
            None => self.burst = Some(DialBurst::new(server.to_string())),
        }
        let verb = if is_in { "dialled in" } else { "disconnected" };
        Some(format!("server {server}: {verb}, {} now", self.connections))
    }

    /// What has happened since the last message, if that is due. After a burst without events, the next event is logged
    /// at once.
    pub(super) fn report(&mut self, now: Instant) -> Option<String> {
        let DialBurst {
            server,
            dialled,
            lost,
            ..
        } = self.burst.take_if(|burst| burst.due <= now)?;
        let what = match (dialled, lost) {
            (0, 0) => return None,
            (dialled, 0) => format!("{dialled} more dialled in"),
            (0, lost) => format!("{lost} more disconnected"),
            (dialled, lost) => format!("{dialled} more dialled in and {lost} disconnected"),
        };
        let line = format!("server {server}: {what}, {} now", self.connections);
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
        }
    }
}

/// Events within this time after a message are counted and reported together.
const BURST: Duration = Duration::from_secs(1);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
