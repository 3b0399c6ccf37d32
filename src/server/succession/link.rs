//! The way to another process of this server: what this process sends.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use std::{fmt, io};

use super::message::{GivenClient, ProcessMessage};
use crate::backend::dial_in::DialInControl;
use crate::backend::pool::{Backend, Successor};
use crate::preamble::Id;
use crate::process::channel::Channel;
use crate::process::reason;
use crate::stats::{self, Close};

/// The channel to another process. Any thread may send.
pub(crate) struct ProcessLink {
    pub(super) channel: Channel,
    control: Arc<DialInControl>,
    is_broken: AtomicBool,
    /// Connections that were given away.
    pub(super) backends: AtomicU64,
    pub(super) clients: AtomicU64,
}

impl ProcessLink {
    pub(super) fn new(channel: Channel, control: Arc<DialInControl>) -> io::Result<Self> {
        channel.set_send_timeout(PATIENCE)?;
        Ok(Self {
            channel,
            control,
            is_broken: AtomicBool::new(false),
            backends: AtomicU64::new(0),
            clients: AtomicU64::new(0),
        })
    }

    /// Whether the other process takes what this one sends.
    pub(crate) fn is_open(&self) -> bool {
        !self.is_broken.load(Ordering::Relaxed)
    }

    /// The other process is gone.
    pub(super) fn end(&self) {
        self.is_broken.store(true, Ordering::Relaxed);
    }

    /// Sends a message. Returns whether it was sent.
    pub(super) fn send(
        &self,
        message: &ProcessMessage,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> bool {
        if !self.is_open() {
            return false;
        }
        let sent = self.channel.send(&message.encode(), descriptor);
        if let Err(error) = &sent {
            self.end();
            log::debug!("another process takes no more: {}", reason(error));
        }
        sent.is_ok()
    }

    /// Gives away an idle client, whose connection the caller closes then. Bytes may wait in its socket. Returns whether the
    /// other process has it.
    pub(crate) fn give_client(&self, socket: BorrowedFd<'_>, client: GivenClient) -> bool {
        let sent = self.send(&ProcessMessage::Client(client), Some(socket));
        if sent {
            stats::add(&self.clients);
        }
        sent
    }
}

impl Successor for ProcessLink {
    fn give(&self, backend: Backend) -> Result<(), Box<Backend>> {
        let message = ProcessMessage::Backend {
            id: backend.id,
            name: backend.registration.identity().name.clone(),
            key: backend.key.clone(),
            responses: backend.registration.responses(),
            peer: backend.peer,
            address: backend.pool.name().to_owned(),
        };
        if !self.send(&message, Some(backend.conn.as_fd())) {
            return Err(Box::new(backend));
        }
        stats::add(&self.backends);
        // The socket stays open in the other process, so closing it here does not end this. Until then a hang-up marks a
        // backend that is in no pool.
        self.control.forget(&backend.conn);
        backend.close(Close::HandedOver);
        Ok(())
    }

    fn ask(&self, address: &str, keys: &[Box<[u8]>], id: Option<&[u8]>) {
        let id = match id.map(Id::new) {
            None => None,
            Some(Some(id)) => Some(id),
            // No backend has such an id.
            Some(None) => return,
        };
        let message = ProcessMessage::Ask {
            id,
            keys: keys.to_vec(),
            address: address.to_owned(),
        };
        self.send(&message, None);
    }
}

impl fmt::Debug for ProcessLink {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("ProcessLink")
    }
}

/// How long a thread waits for a process that does not read its messages, before it is taken for gone.
const PATIENCE: Duration = Duration::from_secs(2);
