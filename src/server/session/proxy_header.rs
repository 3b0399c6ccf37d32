//! Reads the header in which a proxy names the client (`State::ProxyHeader`), before TLS and before the first request.

use std::mem;
use std::time::Instant;

use super::connection::Session;
use super::state::{ReadingHead, ReadingProxyHeader, SessionStep, State};
use crate::net::proxy_protocol::{self, ProxiedEnds};
use crate::net::stream::Peer;
use crate::relay::Interests;
use crate::relay::parking::Unread;
use crate::stats::Close;

impl Session {
    /// Reads exactly the header, since what follows it belongs to TLS or to the first request.
    pub(super) fn read_proxy_header(
        &mut self,
        mut reading: Box<ReadingProxyHeader>,
    ) -> SessionStep {
        let mut piece = [0; PIECE];
        loop {
            let before = reading.bytes.len();
            match self.conn.stream().peek_now(&mut piece) {
                Ok(Some(0)) | Err(_) if before == 0 => {
                    return SessionStep::Close(Close::PeerClosed);
                }
                Ok(Some(0)) | Err(_) => return self.refuse_proxy_header("it ends too early"),
                Ok(Some(count)) => {
                    reading.bytes.extend_from_slice(&piece[..count]);
                    let header = match proxy_protocol::parse(&reading.bytes) {
                        Ok(header) => header,
                        Err(why) => return self.refuse_proxy_header(why),
                    };
                    let used = header.map_or(count, |header| header.length - before);
                    // The bytes are there; an error recurs with the next read.
                    let _ = self.conn.stream().read_now(&mut piece[..used]);
                    if let Some(header) = header {
                        return self.introduce(header.ends);
                    }
                }
                Ok(None) if self.expired || Instant::now() >= reading.deadline => {
                    return self.refuse_proxy_header("it did not arrive in time");
                }
                Ok(None) => {
                    self.parking.unread = Unread::Nothing;
                    let deadline = reading.deadline;
                    return SessionStep::Wait(
                        State::ProxyHeader(reading),
                        Interests::time(deadline),
                    );
                }
            }
        }
    }

    /// From now on the client is the one that the header names. `None`: it is the proxy itself.
    fn introduce(&mut self, ends: Option<ProxiedEnds>) -> SessionStep {
        if let Some(ends) = ends {
            log::debug!("client {} through {}", Peer::Tcp(ends.source), self.peer);
            self.peer = Peer::Tcp(ends.source);
            self.local = Some(ends.destination);
        }
        self.expired = false;
        self.parking.unread = Unread::Unsure;
        let snapshot = self.shared.snapshot();
        match self.shared.admit(&snapshot, &self.peer) {
            Ok(admitted) => {
                self.counted = admitted.counted;
                if admitted.only_challenges {
                    self.restrict(Instant::now() + snapshot.config.timeouts.head);
                    let state = mem::replace(&mut self.state, State::Running);
                    return SessionStep::Go(state);
                }
            }
            Err(refusal) => {
                log::debug!("client {}: {}", self.peer, refusal.why);
                return SessionStep::Close(refusal.reason);
            }
        }
        let handshake = self.conn.is_handshaking();
        let timeouts = &snapshot.config.timeouts;
        let patience = match handshake {
            true => timeouts.head,
            false => timeouts.idle,
        };
        SessionStep::Go(State::Head(ReadingHead {
            handshake,
            ..ReadingHead::idle(Instant::now() + patience)
        }))
    }

    fn refuse_proxy_header(&self, why: &str) -> SessionStep {
        log::warn!("proxy {}: PROXY header: {why}", self.peer);
        SessionStep::Close(Close::BadProxyHeader)
    }
}

/// Bytes that are read at a time: most headers have fewer.
const PIECE: usize = 256;
