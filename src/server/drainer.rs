//! Reads the rest of responses that no client gets, independently of clients' connections.
//!
//! A response is read to its end although its client has left or gets a file instead ([`Drain`]). That takes a second
//! at most, while the client's connection is closed already or carries on. One thread reads all of them
//! ([`Drainer::run`]); workers hand them over ([`Drainer::add`]).
//!
//! **Invariants**: a drain ends with its backend released or closed. The lock is a leaf, and covers only the inbox; the
//! drains belong to the thread.

use std::io;
use std::mem;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;

use crate::backend::lease::Lease;
use crate::net::buffer::Buffer;
use crate::net::stream::poll_timeout;
use crate::relay::Tools;
use crate::relay::drain::Drain;
use crate::relay::spool::Room;
use crate::stats::Close;

/// The thread's inbox, and how to wake it.
pub(crate) struct Drainer {
    inbox: Mutex<DrainInbox>,
    /// Rings when something was put into the inbox.
    bell: EventFd,
}

#[derive(Default)]
struct DrainInbox {
    drains: Vec<Drain<Lease>>,
    stopped: bool,
}

/// A drain that waits for its backend, and its deadline.
type ParkedDrain = (Drain<Lease>, Instant);

impl Drainer {
    /// A drainer with nothing to do.
    ///
    /// # Errors
    /// Whatever `eventfd(2)` says.
    pub(super) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            inbox: Mutex::default(),
            bell: EventFd::from_flags(flags)?,
        })
    }

    /// Hands over a response, to be read to its end.
    pub(crate) fn add(&self, mut drain: Drain<Lease>) {
        let mut inbox = self.inbox.lock();
        if inbox.stopped {
            drop(inbox);
            return drain.close(Close::Draining);
        }
        inbox.drains.push(drain);
        drop(inbox);
        self.ring();
    }

    /// Makes [`Drainer::run`] close what it has and return.
    pub(super) fn stop(&self) {
        self.inbox.lock().stopped = true;
        self.ring();
    }

    fn ring(&self) {
        // It fails only after 2^64 rings.
        let _ = self.bell.write(1);
    }

    /// Reads until it is stopped.
    pub(super) fn run(&self) {
        let mut reply = Buffer::new();
        let mut waiting: Vec<ParkedDrain> = Vec::new();
        loop {
            let ready = self.wait(&mut waiting);
            let (mut due, rest): (Vec<_>, Vec<_>) = waiting
                .drain(..)
                .zip(ready)
                .partition(|((_, until), ready)| *ready || *until <= Instant::now());
            waiting.extend(rest.into_iter().map(|(waiting, _)| waiting));
            let (new, stopped) = {
                let mut inbox = self.inbox.lock();
                (mem::take(&mut inbox.drains), inbox.stopped)
            };
            let new = new.into_iter();
            let mut all: Vec<_> = due
                .drain(..)
                .map(|((drain, _), _)| drain)
                .chain(new)
                .collect();
            if stopped {
                let rest = waiting.drain(..).map(|(drain, _)| drain);
                for mut drain in all.into_iter().chain(rest) {
                    drain.close(Close::Draining);
                }
                return;
            }
            for drain in all.drain(..) {
                // A panic is a bug; it costs this one backend, whose drop closes it.
                let advanced = catch_unwind(AssertUnwindSafe(|| advance(drain, &mut reply)));
                match advanced {
                    Ok(more) => waiting.extend(more),
                    Err(_) => log::error!("the drainer panicked; the backend it read is closed"),
                }
            }
        }
    }

    /// Waits for one of the backends, a deadline or the bell. Returns which backends have something to read.
    fn wait(&self, waiting: &mut [ParkedDrain]) -> Vec<bool> {
        let until = waiting.iter().map(|(_, until)| *until).min();
        let until = until.unwrap_or_else(|| Instant::now() + LONGEST_PAUSE);
        let mut sockets = vec![PollFd::new(self.bell.as_fd(), PollFlags::POLLIN)];
        let mut indices = Vec::new();
        for (index, (drain, _)) in waiting.iter_mut().enumerate() {
            if let Some(socket) = drain.fd() {
                sockets.push(PollFd::new(socket, PollFlags::POLLIN));
                indices.push(index);
            }
        }
        match poll(&mut sockets, poll_timeout(until)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => log::error!("poll: {error}"),
        }
        // Flags that the library does not know give `None`, and mean an event.
        let seen: Vec<_> = sockets
            .iter()
            .map(|socket| socket.any().unwrap_or(true))
            .collect();
        drop(sockets);
        let _ = self.bell.read();
        let mut ready = vec![false; waiting.len()];
        for (index, seen) in indices.into_iter().zip(seen.into_iter().skip(1)) {
            ready[index] = seen;
        }
        ready
    }
}

/// Reads what has arrived. `None`: it is over.
fn advance(mut drain: Drain<Lease>, reply: &mut Buffer) -> Option<ParkedDrain> {
    let mut tools = Tools {
        reply,
        out: &mut Vec::new(),
        date: "",
        patience: Duration::ZERO,
        room: &Room::default,
    };
    let interests = drain.advance(&mut tools)?;
    Some((drain, interests.until))
}

/// How long it sleeps while there is nothing to do.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
