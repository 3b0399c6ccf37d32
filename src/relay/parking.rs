//! What workers know of a connection that they park: a client's, or one that was dialled.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::Waker;
use std::time::Instant;

use crate::net::buffer::Buffer;
use crate::net::conn::Conn;
use crate::net::poller::{Cause, Interest, Poller, Token};

/// A connection that workers run and park. Its socket, [`AsFd`], is the client's in the sense of the [`Poller`].
pub trait Parked: AsFd + Sized {
    /// What the workers know of it.
    fn parking(&mut self) -> &mut Parking;

    /// Whether its socket is read in its state.
    fn reads(&self) -> bool;

    /// Whether it has to check in its state whether the client has left, before it is parked.
    fn heeds_departure(&self) -> bool;

    /// The socket of the backend, while it has one.
    fn backend(&mut self) -> Option<BorrowedFd<'_>>;

    /// Blocks until the queue has given it what it waits for, or until `until`.
    fn wait_in_queue(&self, until: Instant);

    /// Registers a waker with the queue in which it waits. `false`: the queue has given it what it waits for already.
    fn wake_with(&self, waker: Waker) -> bool;
}

/// What workers know of a connection.
#[derive(Debug)]
pub struct Parking {
    token: Token,
    /// What may be left unread in its socket.
    pub unread: Unread,
    /// Whether its socket has reported an event that may be its disconnect and was not looked at yet.
    pub may_be_gone: bool,
    /// Whether the backend's socket is armed in the poller.
    is_armed: bool,
    /// Wakes it from a queue; created once.
    waker: Option<Waker>,
}

/// What a socket may hold that the poller will not report again. It has to be read before the connection is parked for
/// more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Nothing: everything was read.
    Nothing,
    /// Bytes, but no end: a read that brings less than there was room for has emptied it (epoll(7)).
    Bytes,
    /// Bytes, the end, or both: only a read that brings nothing settles it.
    Unsure,
}

impl Parking {
    /// Of a new connection with this key in the poller.
    pub const fn new(token: Token) -> Self {
        Self {
            token,
            unread: Unread::Unsure,
            may_be_gone: false,
            is_armed: false,
            waker: None,
        }
    }

    /// The key of the connection in the poller.
    pub const fn token(&self) -> Token {
        self.token
    }

    /// Reads what has arrived, without waiting.
    ///
    /// # Errors
    /// Those of [`Conn::read_now`].
    pub fn fill(&mut self, input: &mut Buffer, conn: &mut Conn) -> io::Result<Option<usize>> {
        let read = input.fill_now(conn)?;
        let emptied = self.unread == Unread::Bytes && !input.is_full() && !conn.may_have_more();
        if read.is_none() || emptied {
            self.unread = Unread::Nothing;
        }
        Ok(read)
    }
}

/// Takes note of an event at the connection's socket; `None`: something has happened while it was out.
pub(super) fn notice<T: Parked>(poller: &Poller<T>, item: &mut T, cause: Option<Cause>) {
    let is_armed = std::mem::take(&mut item.parking().is_armed);
    // The backend did not wake it, so its socket is still armed, and another connection may use it soon.
    if is_armed
        && cause != Some(Cause::Backend)
        && let Some(backend) = item.backend()
    {
        poller.disarm(backend);
    }
    let reads = item.reads();
    let parking = item.parking();
    match cause {
        // The poller does not report what can be read while the connection waits for room.
        Some(Cause::Ready) if !reads => parking.unread = Unread::Unsure,
        Some(Cause::Ready) => parking.unread = Unread::Bytes,
        Some(Cause::Woken | Cause::Backend) => {}
        Some(Cause::Ended) | None => {
            parking.unread = Unread::Unsure;
            parking.may_be_gone = true;
        }
    }
}

/// Arms the backend's socket, before the connection is parked.
///
/// # Errors
/// Those of [`Poller::arm`].
pub(super) fn arm<T: Parked>(
    poller: &Poller<T>,
    item: &mut T,
    interest: Interest,
) -> io::Result<()> {
    let token = item.parking().token;
    if let Some(backend) = item.backend() {
        poller.arm(token, backend, interest)?;
        item.parking().is_armed = true;
    }
    Ok(())
}

/// Registers its waker with the queue in which it waits. `false`: the queue has given it what it waits for already.
pub(super) fn wake_with<T: Parked>(item: &mut T, make: impl FnOnce() -> Waker) -> bool {
    let waker = item.parking().waker.get_or_insert_with(make).clone();
    item.wake_with(waker)
}
