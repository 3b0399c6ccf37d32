//! What the poller, the tick and a worker ask of a session that does not run.

use std::os::fd::{AsFd, BorrowedFd};
use std::task::Waker;
use std::time::Instant;

use super::connection::Session;
use super::state::State;
use crate::backend::lease::Ticket;
use crate::net::stream::Pending;
use crate::relay::output::Reader;
use crate::relay::parking::{Parked, Parking};
use crate::server::succession::link::ProcessLink;
use crate::server::succession::message::GivenClient;
use crate::stats::Close;

impl Session {
    /// Whether nothing of a request has arrived: the connection can be closed without loss.
    pub(crate) fn is_idle(&self) -> bool {
        match &self.state {
            State::ProxyHeader(reading) => reading.bytes.is_empty(),
            State::Head(reading) => reading.begun.is_none(),
            _ => false,
        }
    }

    /// Whether it has not had a request yet.
    pub(crate) const fn is_fresh(&self) -> bool {
        self.responses == 0
    }

    /// Whether its client has sent something that was not read yet.
    pub(crate) fn has_input(&self) -> bool {
        self.conn.pending() == Pending::Bytes
    }

    /// Whether nothing of a request was read, nor is a response still to be written, so that another process can go on with
    /// the connection. Not with TLS, whose keys cannot leave this one.
    pub(crate) fn is_movable(&self) -> bool {
        let is_introduced = matches!(self.state, State::Head(_));
        is_introduced && self.is_idle() && self.leftover.is_empty() && self.can_move()
    }

    /// Whether that is so for an idle connection of which nothing was read.
    pub(super) fn can_move(&self) -> bool {
        !self.conn.is_secure() && self.pending_output.is_empty()
    }

    /// Gives an idle connection to another process. Returns the session if that process is gone.
    pub(crate) fn give_to(mut self: Box<Self>, link: &ProcessLink) -> Option<Box<Self>> {
        let idle = match &self.state {
            State::Head(reading) => reading.idle_until.saturating_duration_since(Instant::now()),
            _ => return Some(self),
        };
        let client = GivenClient {
            peer: self.peer,
            idle,
            responses: self.responses,
            local: self.local,
        };
        if !link.give_client(self.conn.as_fd(), client) {
            return Some(self);
        }
        // The socket stays open in the other process, so closing it here does not end this.
        self.sessions.poller.let_go(&self);
        self.reason = Close::HandedOver;
        None
    }

    /// Continues a connection of another process.
    pub(crate) fn resume(&mut self, client: &GivenClient) {
        self.state = State::idle(Instant::now() + client.idle);
        self.responses = client.responses;
        self.local = client.local.or(self.local);
    }

    /// Its client, if the spool holds part of a backend's response for it, and whether other requests wait for that
    /// backend.
    pub(crate) fn reader(&self, now: Instant) -> Option<(Reader, bool)> {
        match &self.state {
            State::Exchange(exchange) => {
                let reader = exchange.reader(now)?;
                let is_waited_for = reader.holds_backend && exchange.handler.keeps_others_waiting();
                Some((reader, is_waited_for))
            }
            _ => None,
        }
    }

    /// Cuts its response when it runs next.
    pub(crate) fn cut_reader(&mut self) {
        if let State::Exchange(exchange) = &mut self.state {
            exchange.give_up();
        }
    }

    /// Closes the session, which the caller owns, with this reason.
    pub(crate) fn close(mut self, reason: Close) {
        self.reason = reason;
    }

    /// Handles an expired deadline: closes the session, or returns it to a worker if its client is owed a response.
    pub(crate) fn expire(mut self: Box<Self>) -> Option<Box<Self>> {
        let reason = match &self.state {
            State::Head(_) if self.conn.is_waiting() => return Some(self),
            State::Head(reading) if reading.handshake => Close::TlsTimeout,
            // The bytes came in time; the workers are late.
            State::Head(reading) if reading.begun.is_none() && self.has_input() => {
                return Some(self);
            }
            State::Head(reading) if reading.begun.is_none() => Close::Idle,
            State::Linger { .. } => self.reason,
            _ => {
                self.expired = true;
                return Some(self);
            }
        };
        self.close(reason);
        None
    }
}

impl Parked for Session {
    fn parking(&mut self) -> &mut Parking {
        &mut self.parking
    }

    fn reads(&self) -> bool {
        self.state.reads()
    }

    fn heeds_departure(&self) -> bool {
        matches!(self.state, State::Exchange(_) | State::Auth(_))
    }

    fn backend(&mut self) -> Option<BorrowedFd<'_>> {
        self.state.backend()
    }

    fn wait_in_queue(&self, until: Instant) {
        match &self.state {
            State::Exchange(exchange) => {
                if let Some(ticket) = exchange.ticket() {
                    ticket.wait(until);
                }
            }
            State::Auth(pending) => {
                pending.ticket.wait(until);
            }
            _ => {}
        }
    }

    fn wake_with(&self, waker: Waker) -> bool {
        match &self.state {
            State::Exchange(exchange) => exchange
                .ticket()
                .is_none_or(|ticket| ticket.wake_with(waker)),
            State::Auth(pending) => pending.ticket.wake_with(waker),
            _ => true,
        }
    }
}
