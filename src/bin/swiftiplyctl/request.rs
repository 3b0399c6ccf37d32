//! A request to the server.

/// A request to the status address.
#[derive(Debug)]
pub(crate) struct CommandRequest {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) body: String,
}
