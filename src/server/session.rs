//! One visitor's connection, from accept to close. **The front door**: start reading here.
//!
//! A session is a small machine. [`Session::run`] is called by a worker whenever there is something to do, and goes from
//! state to state until the session has to wait, and is *parked*, or until the connection is closed:
//!
//! 1. [`State::Head`]: reading the head of a request. An idle connection is one that has read nothing of it yet.
//!    Where the site asks for a password, [`State::Auth`]: waiting until it can be checked (`auth`); then [`State::Open`].
//! 2. [`State::Body`]: collecting the body of the request.
//! 3. [`State::Exchange`]: the request is on its way to a backend, and the response on its way back
//!    ([`crate::relay`]); then back to 1.
//! 4. [`State::Sending`]: a response of our own that the visitor has not taken yet; then back to 1.
//! 5. [`State::Tunnel`]: the backend has switched to another protocol. No worker runs the session any more, the thread
//!    of the [`tunnel`]s has it.
//! 6. [`State::Linger`]: everything is said; what the visitor still sends is thrown away for a moment, so that
//!    the system does not reset the connection before the response was read.
//!
//! Each state has its file, and the data of all states are in `state`. `request` decides where a request goes, `refuse` what
//! becomes of one that is refused, `respond` how a response is begun and what follows it, `log_context` what the access log gets.
//! `connection` is what a session owns in every state, `parking` what others ask of one that does not run.
//!
//! **Invariants**
//! - The box owns the socket. Who holds the box, a worker, the poller or the tunnels, owns the connection.
//! - A deadline is set when a state is entered and stays the same however often the session is parked in it.
//! - Every way out sets [`Session::reason`]; dropping the session closes the connection, counts and logs that.
//! - The backend's socket is armed in the poller only while the session is parked.

mod auth;
mod body;
mod connection;
mod exchange;
mod head;
mod linger;
mod log_context;
mod parking;
mod refuse;
mod request;
mod respond;
mod state;
mod tunnel;

use std::mem;

pub(crate) use self::connection::Session;
use self::state::{SessionStep, State};
use crate::backend::lease::Lease;
use crate::net::tunnel::Start;
use crate::relay::Interests;
use crate::server::scratch::Scratch;
use crate::stats::Close;

/// What becomes of a session that has run.
pub(crate) enum Disposition {
    /// It has to wait for one of these.
    Wait(Box<Session>, Interests),
    /// It is to be carried by the tunnels.
    Tunnel(Box<Session>, Box<Start<Lease>>),
    /// There is more to do, but others have waited long enough for this worker.
    Yield(Box<Session>),
    /// The connection is closed.
    Closed,
}

impl Session {
    /// Does what there is to do.
    pub(crate) fn run(mut self: Box<Self>, scratch: &mut Scratch) -> Disposition {
        scratch.input.clear();
        scratch.input.append(&mem::take(&mut self.leftover));
        let enough = self.responses.saturating_add(MOST_IN_A_ROW);
        loop {
            let step = match mem::replace(&mut self.state, State::Running) {
                State::Running | State::Tunnel(_) => SessionStep::Close(Close::Internal),
                State::Head(reading) => self.read_head(reading, scratch),
                State::Auth(pending) => self.resume_auth(*pending, scratch),
                State::Authorised(pending) => self.serve(*pending, scratch),
                State::Body(reading) => self.read_body(reading, scratch),
                State::Exchange(exchange) => self.advance_exchange(exchange, scratch),
                State::Sending(sending) => self.resume_sending(*sending, scratch),
                State::Linger { quiet, deadline } => self.linger(quiet, deadline, scratch),
            };
            match step {
                SessionStep::Go(state) => {
                    self.state = state;
                    if self.responses >= enough {
                        self.leftover.extend_from_slice(scratch.input.data());
                        return Disposition::Yield(self);
                    }
                }
                SessionStep::Yield(state) => {
                    self.state = state;
                    self.leftover.extend_from_slice(scratch.input.data());
                    return Disposition::Yield(self);
                }
                SessionStep::Wait(state, interests) => {
                    self.state = state;
                    self.leftover.extend_from_slice(scratch.input.data());
                    self.charge_kept();
                    return Disposition::Wait(self, interests);
                }
                SessionStep::Tunnel(state, start) => {
                    self.state = state;
                    return Disposition::Tunnel(self, start);
                }
                SessionStep::Close(reason) => {
                    self.reason = reason;
                    return Disposition::Closed;
                }
            }
        }
    }
}

/// Pipelined requests that are answered before other visitors have their turn.
const MOST_IN_A_ROW: u32 = 32;
