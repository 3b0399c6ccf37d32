//! Reads and discards what a client still sends after its last response (`State::Linger`).

use std::time::{Duration, Instant};

use super::connection::{Session, TURN};
use super::state::{SessionStep, State};
use crate::relay::Interests;
use crate::server::scratch::Scratch;

impl Session {
    pub(super) fn linger(
        &mut self,
        mut quiet: Instant,
        deadline: Instant,
        scratch: &mut Scratch,
    ) -> SessionStep {
        let mut left = TURN;
        loop {
            scratch.input.clear();
            let now = Instant::now();
            if self.expired || now >= deadline.min(quiet) {
                return SessionStep::Close(self.reason);
            }
            if left == 0 {
                return SessionStep::Yield(State::Linger { quiet, deadline });
            }
            match self.fill(scratch) {
                Ok(Some(count @ 1..)) => {
                    left = left.saturating_sub(count);
                    quiet = now + LINGER;
                }
                Ok(None) => {
                    let state = State::Linger { quiet, deadline };
                    return SessionStep::Wait(state, Interests::time(deadline.min(quiet)));
                }
                Ok(Some(0)) | Err(_) => return SessionStep::Close(self.reason),
            }
        }
    }
}

/// How long a client may be silent after its last response before its connection is closed, and how long it may go on
/// sending. A program that sends a large body reads the response only afterwards, or finds the connection reset.
pub(super) const LINGER: Duration = Duration::from_secs(1);
pub(super) const LONGEST_LINGER: Duration = Duration::from_secs(5);
