//! The state of the server as JSON.

use std::sync::atomic::Ordering;

use serde::Serialize;

use super::message::{AdminRequest, AdminResponse};
use crate::stats;

/// The state of the server.
#[derive(Serialize)]
struct ServerStatus {
    version: &'static str,
    /// Open connections of clients.
    connections: u64,
    /// Backends that have dialled in.
    backends: usize,
    /// Requests that wait for a backend.
    waiting: usize,
}

/// `GET /status`
pub(super) fn server(request: &AdminRequest<'_>) -> AdminResponse {
    let shared = &request.context.shared;
    AdminResponse::json(
        200,
        &ServerStatus {
            version: env!("CARGO_PKG_VERSION"),
            connections: stats::get(&shared.stats.open),
            backends: request.context.control.connected().len(),
            waiting: shared.waiting.load(Ordering::Relaxed),
        },
    )
}
