//! Distinguishes a client that has left from one that has only finished sending.

use std::time::{Duration, Instant};

use super::context::ClientSide;
use crate::net::conn::Conn;
use crate::net::stream::Pending;

/// Detects the disconnect of a client.
///
/// A program may end its sending side right after its request and still want the response. A browser that the user
/// stops does so later; a response to it would waste a backend's time.
#[derive(Debug)]
pub struct DisconnectDetector {
    received: Instant,
    half_closed: bool,
}

impl DisconnectDetector {
    /// For the client of a request that was complete at `received`.
    pub const fn new(received: Instant) -> Self {
        Self {
            received,
            half_closed: false,
        }
    }

    /// Whether the client has left.
    pub fn is_gone(&mut self, conn: &Conn) -> bool {
        match conn.pending() {
            Pending::Nothing => false,
            Pending::Broken => true,
            // The end may follow pipelined requests.
            Pending::Bytes if !conn.stream().is_ended() => false,
            Pending::Bytes | Pending::End => {
                self.half_closed |= self.received.elapsed() < HALF_CLOSE;
                !self.half_closed
            }
        }
    }
}

/// Whether a client has left before the end of its request's body. While there is something left to read, the end of
/// its sending side may come after the end of the body.
pub fn is_gone_within_body(client: &mut ClientSide<'_>) -> bool {
    match client.conn.stream().pending() {
        Pending::Nothing | Pending::Bytes => false,
        Pending::End => client.input.is_empty() && !client.conn.has_unread(),
        Pending::Broken => true,
    }
}

/// A client that ends its sending side within this time of its request still wants the response.
const HALF_CLOSE: Duration = Duration::from_millis(200);
