//! How a request gets its turn: at once where a seat is free and nobody waits, in line otherwise.
//!
//! Whoever frees a seat deals: the oldest waiter's [`Slot`] is filled with it. A pause of a server that was set aside is
//! ended by nobody, so those that wait look at that themselves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::health::Health;
use super::seat::{Lease, Seat};
use super::{Directory, Want};
use crate::backend::lease::Missed;
use crate::backend::pool::{LOOK_AT_CLIENT, Wait};
use crate::backend::slot::Slot;

/// A request in line.
#[derive(Debug)]
pub(super) struct Waiter {
    slot: Arc<Slot<Seat>>,
    once: bool,
}

/// Takes a server, waiting for a seat until `deadline` while `gone` does not say that the visitor left. A connection
/// attempt that has begun may take `timeouts.connect` more. `wait` and `once`: see
/// [`lease`](crate::backend::lease::lease).
///
/// # Errors
/// Why there was none.
pub fn lease(
    want: &Want<'_>,
    mut wait: Option<Wait>,
    once: bool,
    deadline: Instant,
    gone: &mut dyn FnMut() -> bool,
) -> Result<Lease, Missed> {
    // A server may turn out to be gone. The request has waited for its turn, so it goes on in front.
    let mut turn = false;
    loop {
        let seat = match want.directory.seat_now(once, turn) {
            Some(seat) => seat,
            None => {
                if wait.is_none() {
                    wait = Some(want.waiting.enter().ok_or(Missed::Full)?);
                }
                want.directory.wait(once, turn, deadline, gone)?
            }
        };
        if let Some(lease) = seat.connect(once) {
            return Ok(lease);
        }
        if Instant::now() >= deadline {
            return Err(Missed::TimedOut);
        }
        turn = true;
    }
}

impl Directory {
    /// A seat, unless others wait for one. `turn`: it is this request's turn, whoever else waits.
    fn seat_now(self: &Arc<Self>, once: bool, turn: bool) -> Option<Seat> {
        if !turn && !self.state.lock().waiting.is_empty() {
            // A pause may have ended since, and then those are first.
            self.deal();
        }
        let mut state = self.state.lock();
        match turn || state.waiting.is_empty() {
            true => state.take(self, once),
            false => None,
        }
    }

    /// Gives free seats to those that wait.
    pub(super) fn deal(self: &Arc<Self>) {
        loop {
            let (waiter, seat) = {
                let mut state = self.state.lock();
                let Some(once) = state.waiting.front().map(|waiter| waiter.once) else {
                    return;
                };
                let Some(seat) = state.take(self, once) else {
                    return;
                };
                let Some(waiter) = state.waiting.pop_front() else {
                    return;
                };
                (waiter, seat)
            };
            if let Some(seat) = waiter.slot.fill(seat) {
                // It has given up meanwhile; the next one is served in the next round.
                seat.leave();
            }
        }
    }

    /// Waits in line for a seat.
    fn wait(
        self: &Arc<Self>,
        once: bool,
        turn: bool,
        deadline: Instant,
        gone: &mut dyn FnMut() -> bool,
    ) -> Result<Seat, Missed> {
        let slot = Arc::new(Slot::new());
        if let Some(seat) = self.stand_in_line(&slot, once, turn) {
            return Ok(seat);
        }
        #[cfg(feature = "redis")]
        self.ring();
        let waited = self.wait_at(&slot, deadline, gone);
        // One that came at the last moment.
        let late = slot.close();
        let others = |waiter: &Waiter| !Arc::ptr_eq(&waiter.slot, &slot);
        self.state.lock().waiting.retain(others);
        late.map_or(waited, Ok)
    }

    /// Has somebody wait, unless a seat has become free just before.
    fn stand_in_line(
        self: &Arc<Self>,
        slot: &Arc<Slot<Seat>>,
        once: bool,
        turn: bool,
    ) -> Option<Seat> {
        let mut state = self.state.lock();
        if (turn || state.waiting.is_empty())
            && let Some(seat) = state.take(self, once)
        {
            return Some(seat);
        }
        let waiter = Waiter {
            slot: Arc::clone(slot),
            once,
        };
        // Who has had its turn goes on in front.
        match turn {
            true => state.waiting.push_front(waiter),
            false => state.waiting.push_back(waiter),
        }
        None
    }

    /// Waits until the slot is filled, with a look at the visitor and at pauses that have ended now and then.
    fn wait_at(
        self: &Arc<Self>,
        slot: &Slot<Seat>,
        deadline: Instant,
        gone: &mut dyn FnMut() -> bool,
    ) -> Result<Seat, Missed> {
        loop {
            let until = deadline.min(self.next_look(Instant::now()));
            if let Some(seat) = slot.wait(until) {
                return Ok(seat);
            }
            if until == deadline {
                return Err(Missed::TimedOut);
            }
            if gone() {
                return Err(Missed::ClientGone);
            }
            self.deal();
        }
    }

    /// When somebody who waits has to look again: at its visitor, or since a pause is over.
    fn next_look(&self, now: Instant) -> Instant {
        let state = self.state.lock();
        let pauses = state
            .servers
            .iter()
            .filter_map(|server| match server.health {
                Health::Aside {
                    until,
                    trial: false,
                    ..
                } if server.taken < server.seats => Some(until),
                _ => None,
            });
        let next = pauses.min().unwrap_or(now + LOOK_AT_CLIENT);
        next.clamp(now + SHORTEST_LOOK, now + LOOK_AT_CLIENT)
    }
}

/// Who waits does not look more often.
const SHORTEST_LOOK: Duration = Duration::from_millis(1);
