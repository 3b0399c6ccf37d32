//! A client's connection, from accept to close. **Start reading here.**
//!
//! A session is a state machine. A worker calls [`Session::run`] whenever there is something to do; it goes from state to
//! state until the session has to wait, and is *parked*, or until the connection is closed. The page "Life of a session" of
//! the [library](crate) follows a request through it and has a table of what each state waits for.
//!
//! 0. [`State::ProxyHeader`] (`proxy_header`): reads the header in which a proxy names the client (`proxy_protocol`).
//! 1. [`State::Head`] (`head`): reads the head of a request. The connection is idle while nothing of one has arrived.
//!    `request` then decides where the request goes. Where the site asks for a password, [`State::Auth`] (`auth`) waits
//!    until it can be checked, and [`State::Authorised`] goes on.
//! 2. [`State::Body`] (`body`): reads the body of the request.
//! 3. [`State::Exchange`] (`exchange`): the request is on its way to a backend, and the response on its way back
//!    ([`crate::relay`]); then back to 1.
//! 4. [`State::Sending`] (`respond`): sends a response of the server's own that the client takes slowly; then back to 1.
//! 5. [`State::Tunnel`] (`tunnel`): the backend has switched to another protocol. No worker runs the session any more: the
//!    thread of the tunnels has it.
//! 6. [`State::Linger`] (`linger`): the last response was sent. What the client still sends is discarded for a moment, so
//!    that the system does not reset the connection before the client has read the response.
//!
//! `connection` is what a session owns in every state, `state` what it owns in one of them, `parking` what other threads ask
//! of a session that does not run, `refuse` the responses to requests that are refused, `log_context` what the access log
//! gets.
//!
//! **Invariants**
//! - The box owns the socket. The owner of the box (a worker, the poller or the tunnels) owns the connection.
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
mod proxy_header;
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

/// What happens to a session that has run.
pub(crate) enum Disposition {
    /// It waits for one of these.
    Wait(Box<Session>, Interests),
    /// The tunnels carry it from now on.
    Tunnel(Box<Session>, Box<Start<Lease>>),
    /// There is more to do, but other sessions should run first.
    Yield(Box<Session>),
    /// It is idle, and the process that has replaced this one shall have it.
    Move(Box<Session>),
    /// The connection is closed.
    Closed,
}

impl Session {
    /// Goes from state to state until the session has to wait or is closed.
    pub(crate) fn run(mut self: Box<Self>, scratch: &mut Scratch) -> Disposition {
        scratch.input.clear();
        scratch.input.append(&mem::take(&mut self.leftover));
        let enough = self.responses.saturating_add(MOST_IN_A_ROW);
        loop {
            let step = match mem::replace(&mut self.state, State::Running) {
                State::Running | State::Tunnel(_) => SessionStep::Close(Close::Internal),
                State::ProxyHeader(reading) => self.read_proxy_header(reading),
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
                SessionStep::Move(state) => {
                    self.state = state;
                    return Disposition::Move(self);
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

/// Pipelined requests that are served before other clients have their turn.
const MOST_IN_A_ROW: u32 = 32;
