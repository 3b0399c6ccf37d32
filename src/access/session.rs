//! What a dialled connection does.
//!
//! It is a state machine, as a client's connection is in the server. A worker runs it when there is something to do; it
//! goes from state to state until it has to wait, and is *parked*, or is closed.
//!
//! | state | waits for | then | deadline | deadline over |
//! |---|---|---|---|---|
//! | [`DialledState::Head`], idle | the first byte of a request | begun | 10 minutes, a second with TLS | it checks whether it is still wanted |
//! | [`DialledState::Head`], begun | the rest of the head | `Body`, `Exchange`; 400, 414 or 431 | 10 s | closed |
//! | [`DialledState::Body`] | the rest of a small body | `Exchange` | `timeouts.backend` for each piece, and a least rate | closed |
//! | [`DialledState::Exchange`] | see the phases of an exchange in the [library](crate) | idle; another protocol; `Sending` | | |
//! | [`DialledState::Sending`] | room at the server, for a response of the access proxy itself | idle, `Discarding` | 60 s, and a least rate | closed |
//! | [`DialledState::Discarding`] | the rest of a body that the application did not need | idle | 1 s | closed |
//!
//! If the server closes the connection, that ends whatever it does.

use std::mem;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::buffers::Buffers;
use super::connection::{DialledConnection, DialledConnections};
use super::state::{DialledState, DialledStep};
use crate::backend::lease::Ticket;
use crate::net::poller::{Poller, Token};
use crate::relay::Interests;
use crate::relay::parking::{Parked, Parking, Unread};
use crate::relay::worker::{Turn, Workplace};

impl Workplace for DialledConnections {
    type Item = DialledConnection;
    type Scratch = Buffers;

    fn poller(&self) -> &Poller<DialledConnection> {
        &self.poller
    }

    fn scratch(&self) -> Buffers {
        Buffers::new()
    }

    fn run(
        self: &Arc<Self>,
        connection: Box<DialledConnection>,
        buffers: &mut Buffers,
        patience: Duration,
    ) -> Turn<DialledConnection> {
        buffers.patience = patience;
        connection.run(buffers)
    }

    /// Closes the connection if the poller is stopped.
    fn parked(&self, token: Token) {
        if !self.shared.is_open() && self.poller.is_stopped() {
            drop(self.poller.take(token));
        }
    }

    /// The connection has logged it.
    fn panicked(&self) {}
}

impl Parked for DialledConnection {
    fn parking(&mut self) -> &mut Parking {
        &mut self.parking
    }

    fn reads(&self) -> bool {
        self.state.reads()
    }

    fn heeds_departure(&self) -> bool {
        matches!(self.state, DialledState::Exchange(_))
    }

    fn backend(&mut self) -> Option<BorrowedFd<'_>> {
        self.state.application()
    }

    fn wait_in_queue(&self, until: Instant) {
        if let DialledState::Exchange(exchange) = &self.state
            && let Some(ticket) = exchange.ticket()
        {
            ticket.wait(until);
        }
    }

    fn wake_with(&self, waker: Waker) -> bool {
        match &self.state {
            DialledState::Exchange(exchange) => exchange
                .ticket()
                .is_none_or(|ticket| ticket.wake_with(waker)),
            _ => true,
        }
    }
}

impl DialledConnection {
    /// Goes from state to state until the connection has to wait or is closed.
    fn run(mut self: Box<Self>, buffers: &mut Buffers) -> Turn<Self> {
        buffers.input.clear();
        buffers.input.append(&mem::take(&mut self.leftover));
        loop {
            let step = match mem::replace(&mut self.state, DialledState::Running) {
                DialledState::Running => DialledStep::Close,
                DialledState::Head(arriving) => self.read_head(arriving, buffers),
                DialledState::Body(arriving) => self.read_body(arriving, buffers),
                DialledState::Exchange(exchange) => self.advance(exchange, buffers),
                DialledState::Sending(response) => self.send(response, buffers),
                DialledState::Discarding(body) => self.discard(body, buffers),
            };
            match step {
                DialledStep::Go(state) => self.state = state,
                DialledStep::Wait(state, interests) => {
                    self.state = state;
                    self.leftover.extend_from_slice(buffers.input.data());
                    return Turn::Wait(self, interests);
                }
                // The access proxy was dropped in the middle of a long transfer.
                DialledStep::Yield(_) if self.all.poller.is_stopped() => return Turn::Over,
                DialledStep::Yield(state) => {
                    self.state = state;
                    self.leftover.extend_from_slice(buffers.input.data());
                    return Turn::Yield(self);
                }
                DialledStep::Tunnel(start) => {
                    self.all.poller.let_go(&self);
                    if let Some(conn) = self.conn.take() {
                        // If tunnels have been stopped, both connections are closed here.
                        let _ = self.all.shared.tunnels.enter(conn, *start);
                    }
                    return Turn::Over;
                }
                DialledStep::Close => return Turn::Over,
            }
        }
    }

    /// Waits for the next request.
    pub(super) fn end_request(&mut self, buffers: &Buffers) -> DialledStep {
        self.handle.set_idle();
        // Looking at once for a next request, which is rarely there, would cost a system call each time. But one that has
        // arrived on a connection that is to be closed is served first.
        let is_empty = buffers.input.is_empty() && self.parking.unread == Unread::Nothing;
        match is_empty && !self.all.is_unwanted(&self.handle) {
            true => self.wait_for_request(),
            false => DialledStep::Go(DialledState::idle()),
        }
    }

    /// Waits for a request, of which nothing has arrived, or closes the connection if it is not wanted any more.
    pub(super) fn wait_for_request(&mut self) -> DialledStep {
        if self.all.is_unwanted(&self.handle) && self.handle.close_if_idle() {
            return DialledStep::Close;
        }
        let now = Instant::now();
        let is_accepted = now >= self.accepted_at;
        if is_accepted {
            self.accept();
        }
        // Bytes that looked like a request, for which an unwanted connection was left open, may have been a TLS message
        // without data.
        let pause = match self.conn().is_secure() {
            true => WANTED_CHECK_INTERVAL,
            false => LONGEST_WAIT,
        };
        let until = match is_accepted {
            true => now + pause,
            false => self.accepted_at,
        };
        DialledStep::Wait(DialledState::idle(), Interests::time(until))
    }
}

/// How long a connection is left alone if nothing arrives.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// With TLS, how often an idle connection checks whether it is still wanted.
const WANTED_CHECK_INTERVAL: Duration = Duration::from_secs(1);
