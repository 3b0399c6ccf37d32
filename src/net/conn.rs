//! A visitor's connection.
//!
//! None of its calls waits but [`Conn::wait_for_room`], which is for a moment only: whoever has nothing to read or no
//! room to write parks the session.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::stream::{Pending, Stream};

/// A visitor's connection.
#[derive(Debug)]
pub struct Conn {
    stream: Stream,
}

impl Conn {
    /// A connection without TLS.
    pub const fn plain(stream: Stream) -> Self {
        Self { stream }
    }

    /// Reads what is there. `None`: nothing yet. 0 is the end.
    ///
    /// # Errors
    /// Whatever `recv(2)` says.
    pub fn read_now(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        self.stream.read_now(into)
    }

    /// Writes; returns how many bytes were taken, 0 if there is no room.
    ///
    /// # Errors
    /// Whatever `send(2)` says.
    pub fn write_now(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write_now(bytes)
    }

    /// Writes two pieces, in one system call where that can be; see [`Conn::write_now`].
    ///
    /// # Errors
    /// Whatever `sendmsg(2)` says.
    pub fn write_both_now(&mut self, first: &[u8], second: &[u8]) -> io::Result<usize> {
        match (first, second) {
            (bytes, []) | ([], bytes) => self.write_now(bytes),
            _ => self.stream.write_both_now(first, second),
        }
    }

    /// Whether everything that was taken by [`Conn::write_now`] has reached the socket, now.
    ///
    /// # Errors
    /// Whatever `send(2)` says.
    pub fn flush_now(&mut self) -> io::Result<bool> {
        Ok(true)
    }

    /// Waits until there is room to write, for a moment.
    ///
    /// # Errors
    /// Whatever `poll(2)` says.
    pub fn wait_for_room(&self, moment: Duration) -> io::Result<bool> {
        self.stream.wait_for_room(moment)
    }

    /// Looks at the socket without taking anything out of it.
    pub fn pending(&self) -> Pending {
        self.stream.pending()
    }

    /// Says that nothing more will be written, so that the peer sees the end.
    pub fn finish_writing(&mut self) {
        self.stream.finish_writing();
    }

    /// Makes the close that follows a reset, so that the peer can tell that an answer was cut short.
    pub fn reset_on_close(&self) {
        self.stream.reset_on_close();
    }
}

impl AsFd for Conn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
