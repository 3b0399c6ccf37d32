//! What a worker lends to the dialled connection that it runs.

use std::time::Duration;

use crate::net::buffer::Buffer;
use crate::relay::Tools;
use crate::relay::spool::Room;

/// What a worker lends to the connection that it runs.
#[derive(Debug)]
pub(super) struct Buffers {
    /// What was read from the server.
    pub(super) input: Buffer,
    /// What was read from the application.
    reply: Buffer,
    /// What will be written.
    pub(super) out: Vec<u8>,
    /// How long the next read of the application may block.
    pub(super) patience: Duration,
}

impl Buffers {
    /// Empty buffers.
    pub(super) const fn new() -> Self {
        Self {
            input: Buffer::new(),
            reply: Buffer::new(),
            out: Vec::new(),
            patience: Duration::ZERO,
        }
    }

    /// The input, and the tools of an exchange. What the server does not take stays with the application: nothing is
    /// kept for it.
    pub(super) fn tools(&mut self) -> (&mut Buffer, Tools<'_>) {
        let tools = Tools {
            reply: &mut self.reply,
            out: &mut self.out,
            date: "",
            patience: std::mem::take(&mut self.patience),
            room: &Room::default,
        };
        (&mut self.input, tools)
    }
}
