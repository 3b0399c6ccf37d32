//! A request to the server.

use std::time::Duration;

/// A request to the status address.
#[derive(Debug)]
pub(crate) struct CommandRequest {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) body: String,
    /// How long the response may take.
    pub(crate) patience: Duration,
}
