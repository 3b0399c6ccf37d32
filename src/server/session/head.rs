//! Reads the head of a request (`State::Head`).

use std::borrow::Cow;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connection::Session;
use super::request::REFUSED;
use super::state::{ReadingHead, SessionStep, State};
use crate::config::size_text;
use crate::http::head::{HeadLimits, Refusal, RequestHead};
use crate::net::proxy_protocol;
use crate::preamble;
use crate::relay::Interests;
use crate::relay::parking::Unread;
use crate::server::pending::head_limits;
use crate::server::scratch::Scratch;
use crate::stats::Close;

impl Session {
    pub(super) fn read_head(
        &mut self,
        mut reading: ReadingHead,
        scratch: &mut Scratch,
    ) -> SessionStep {
        let snapshot = Arc::clone(scratch.snapshot());
        let patience = snapshot.config.timeouts.head;
        let limits = head_limits(&snapshot.config.limits);
        loop {
            if !scratch.input.is_empty() {
                let refusal = match reading.scanner.scan(scratch.input.data(), &limits) {
                    Ok(Some(end)) => {
                        match RequestHead::parse(&scratch.input.data()[..end], &limits) {
                            Ok(head) => {
                                scratch.input.consume(end);
                                return self.begin_request(head, end, snapshot, scratch);
                            }
                            Err(refusal) => Some(refusal),
                        }
                    }
                    Ok(None) => None,
                    Err(refusal) => Some(refusal),
                };
                let refusal = match scratch.input.data() {
                    data if data.starts_with(preamble::PREFIX) => Some(Refusal::bad(PREAMBLE_HERE)),
                    data if proxy_protocol::is_header(data) => Some(Refusal::bad(PROXY_HERE)),
                    data if data.starts_with(TLS_HANDSHAKE) => Some(Refusal::bad(TLS_HERE)),
                    _ => refusal,
                };
                if let Some(refusal) = refusal {
                    let why = reason_of(&refusal, &limits);
                    return self.refuse_unreadable(
                        refusal.status,
                        &why,
                        reading.begun,
                        &snapshot,
                        scratch,
                    );
                }
                if reading.scanner.has_begun() {
                    // Most heads arrive in one read; skip the clock then.
                    reading.begun.get_or_insert_with(Instant::now);
                }
            }
            let begun = reading.begun;
            let filled = self.fill(scratch);
            if reading.handshake && !self.conn.is_handshaking() {
                reading.handshake = false;
                reading.idle_until = Instant::now() + snapshot.config.timeouts.idle;
            }
            match (filled, begun) {
                (Ok(Some(1..)), _) => {}
                // What has arrived by now is in time: the workers may be late.
                (Ok(None), Some(since)) if self.expired || since.elapsed() >= patience => {
                    let why = "the head of the request did not arrive in time";
                    return self.refuse_unreadable(408, why, begun, &snapshot, scratch);
                }
                (Ok(None), None) if reading.handshake && self.conn.is_waiting() => {
                    // Its first message was read. More may be in the socket.
                    self.parking.unread = Unread::Unsure;
                    let now = Instant::now();
                    reading.idle_until = now + patience;
                    let again = now + CERTIFICATE_PAUSE;
                    return SessionStep::Wait(State::Head(reading), Interests::time(again));
                }
                (Ok(None), _) => {
                    let deadline = begun.map_or(reading.idle_until, |begun| begun + patience);
                    return SessionStep::Wait(State::Head(reading), Interests::time(deadline));
                }
                (Err(error), _) if error.kind() == ErrorKind::Unsupported => {
                    self.conn.give_up_tls();
                    // The bytes are still in the socket. An error recurs when the response is written.
                    let _ = self.fill(scratch);
                    let why = match scratch.input.data() {
                        data if data.starts_with(preamble::PREFIX) => PREAMBLE_HERE,
                        data if proxy_protocol::is_header(data) => PROXY_HERE,
                        _ => "this port speaks TLS; ask with https://",
                    };
                    return self.refuse_unreadable(400, why, begun, &snapshot, scratch);
                }
                (Err(error), _) if error.kind() == ErrorKind::PermissionDenied => {
                    log::debug!("client {} closed: {REFUSED}", self.peer);
                    return SessionStep::Close(Close::Denied);
                }
                (Err(error), _) if error.kind() == ErrorKind::InvalidData => {
                    match self.conn.client_certificate() {
                        Some((auth, _)) if self.conn.is_handshaking() => log::info!(
                            "client {} closed: client_ca {}: {error}",
                            self.peer,
                            auth.file.display()
                        ),
                        _ => log::debug!("client {}: {error}", self.peer),
                    }
                    return SessionStep::Close(Close::TlsFailed);
                }
                (_, Some(_)) => return SessionStep::Close(Close::ClientGone),
                (_, None) => return SessionStep::Close(Close::PeerClosed),
            }
        }
    }
}

/// How often a handshake looks whether the certificate for which it waits is there.
const CERTIFICATE_PAUSE: Duration = Duration::from_millis(100);

/// The response to a backend that dials in at an address for clients.
const PREAMBLE_HERE: &str = "this is the preamble of a backend, and the port is for clients; \
                             let the backend dial in at the outgoing address of its site";

/// The response to a proxy that is not one of those in the configuration.
const PROXY_HERE: &str =
    "this is a PROXY header, and the networks of proxy_protocol do not have this address";

/// The first bytes of a TLS connection: a record of type handshake and version 3 (RFC 8446 5.1).
const TLS_HANDSHAKE: &[u8] = &[0x16, 0x03];

/// The response to a client that begins TLS at an address without it.
const TLS_HERE: &str = "this port speaks HTTP; ask with http://, or list its address under ssl";

/// Why a head is refused, with the key of the limit that it exceeds and its value.
fn reason_of(refusal: &Refusal, limits: &HeadLimits) -> Cow<'static, str> {
    match refusal.limit(limits) {
        None => Cow::Borrowed(refusal.why),
        Some((key, most)) => {
            let most = match key {
                "fields" => most.to_string(),
                _ => size_text(most as u64),
            };
            Cow::Owned(format!("{}: limits.{key} ({most})", refusal.why))
        }
    }
}
