//! Hands an upgraded connection to the tunnels (`State::Tunnel`), and ends it.

use std::mem;

use super::connection::Session;
use super::log_context::LogContext;
use super::state::{SessionStep, State, TunnelState};
use crate::amount::counted;
use crate::backend::lease::{Lease, Upstream};
use crate::exchange::Trace;
use crate::http::body::Framing;
use crate::http::head::Persistence;
use crate::http::request_id::X_REQUEST_ID;
use crate::net::tunnel::{self, TunnelEnded, TunnelTimeouts};
use crate::relay::Switched;
use crate::relay::delivery::Delivered;
use crate::server::pending::PendingRequest;
use crate::server::scratch::Scratch;
use crate::stats::Close;

impl Session {
    /// Switches the client's connection to the protocol to which the backend has switched.
    pub(super) fn begin_tunnel(
        &mut self,
        mut pending: PendingRequest,
        switched: Switched<Lease>,
        trace: Trace,
        scratch: &mut Scratch,
    ) -> SessionStep {
        let Switched {
            mut head,
            upstream: mut lease,
            behind,
        } = switched;
        let Some(mut permit) = pending.permit.take() else {
            return SessionStep::Close(Close::Internal);
        };
        lease.switch();
        let stats = &self.shared.stats;
        stats.answered(head.status);
        permit.make_use(stats);
        if let Some(id) = pending.shown_id() {
            head.headers.set(X_REQUEST_ID, id.to_string().as_bytes());
        }
        let mut to_client = mem::take(&mut self.pending_output);
        let date = Some(scratch.date());
        head.write(Framing::Empty, Persistence::Upgrade, date, &mut to_client);
        let length = to_client.len() as u64;
        to_client.extend_from_slice(&behind);
        // What the client has sent behind its request belongs to the new protocol (RFC 9110 7.8).
        let to_backend = scratch.input.data().to_vec();
        scratch.input.clear();
        let timeouts = &pending.site().settings.timeouts;
        let patience = TunnelTimeouts {
            idle: timeouts.tunnel,
            write: timeouts.write,
            backend: timeouts.backend,
            client: timeouts.body,
        };
        // The client may be silent for a long time.
        self.conn.stream().watch_peer_at_leisure();
        // The backend may be busy with other things for a while.
        lease.as_mut().stream().give_up_after(timeouts.backend);
        let start = Box::new(tunnel::Start {
            backend: lease,
            to_client,
            to_backend,
            patience,
        });
        let carried = Box::new(TunnelState {
            log_context: LogContext::of_request(&pending).to_owned_context(head.status, trace),
            permit,
            head: length,
        });
        SessionStep::Tunnel(State::Tunnel(carried), start)
    }

    /// Closes an upgraded connection that is over.
    pub(crate) fn end_tunnel(mut self, backend: Lease, ended: &TunnelEnded) {
        backend.close(ended.reason);
        if let State::Tunnel(carried) = mem::replace(&mut self.state, State::Running) {
            let TunnelState {
                log_context: mut subject,
                permit,
                head,
            } = *carried;
            drop(permit);
            let delivered = Delivered {
                bytes: ended.to_client.saturating_sub(head),
                ended: ended.reason,
                keep: false,
            };
            subject.bytes_in += ended.to_backend;
            Self::log_response(&subject, &delivered);
            log::debug!(
                "client {}: tunnel carried {} to the backend and {} to the client: reason={}",
                self.peer,
                counted(ended.to_backend, "byte"),
                delivered.bytes,
                ended.reason
            );
        }
        self.close(ended.reason);
    }
}
