//! A connection, plain or with TLS: of a client, of a backend, or to a server that was dialled.
//!
//! Most calls do not wait. Those that do, each under a deadline, are for a worker that blocks for a moment, for the threads
//! that dial in or check servers, and for the access proxy. Without TLS each call is that of the [`Stream`] and nothing more.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::stream::{Pending, Stream};
use super::tls::{Acceptor, Connector, TlsSession};

/// A connection.
#[derive(Debug)]
pub struct Conn {
    stream: Stream,
    tls: Option<Box<TlsSession>>,
}

impl Conn {
    /// A connection without TLS.
    pub const fn plain(stream: Stream) -> Self {
        Self { stream, tls: None }
    }

    /// A connection that begins with a handshake.
    ///
    /// # Errors
    /// Those of [`Acceptor::accept`].
    pub fn secure(stream: Stream, acceptor: &Acceptor) -> io::Result<Self> {
        let tls = Some(Box::new(acceptor.accept()?));
        Ok(Self { stream, tls })
    }

    /// A connection on which we begin a handshake, with a server of this name; see [`Conn::shake_hands`].
    ///
    /// # Errors
    /// Those of [`Connector::connect`].
    pub fn dialled(stream: Stream, connector: &Connector, name: &str) -> io::Result<Self> {
        let tls = Some(Box::new(connector.connect(name)?));
        Ok(Self { stream, tls })
    }

    /// Whether nobody in between can read along.
    pub const fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether a handshake is still under way.
    pub fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// The peer does not speak TLS: goes on without, so that it can be told.
    pub fn give_up_tls(&mut self) {
        self.tls = None;
    }

    /// Whether there may be more to read of which the poller will not tell, though the last read was not cut short.
    pub fn may_have_more(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.may_have_more())
    }

    /// Reads what is there. `None`: nothing yet. 0 is the end.
    ///
    /// # Errors
    /// `InvalidData` for broken TLS, `Unsupported` for text where there should be TLS, and whatever `recv(2)` says.
    pub fn read_now(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        match &mut self.tls {
            None => self.stream.read_now(into),
            Some(tls) => tls.read_now(&self.stream, into),
        }
    }

    /// Writes; returns how many bytes were taken, 0 if there is no room.
    ///
    /// # Errors
    /// Whatever `send(2)` says.
    pub fn write_now(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.stream.write_now(bytes),
            Some(tls) => tls.write_now(&self.stream, bytes, &[]),
        }
    }

    /// Writes two pieces, in one system call where that can be; see [`Conn::write_now`].
    ///
    /// # Errors
    /// Whatever `sendmsg(2)` says.
    pub fn write_both_now(&mut self, first: &[u8], second: &[u8]) -> io::Result<usize> {
        match (&mut self.tls, first, second) {
            (None, bytes, []) | (None, [], bytes) => self.stream.write_now(bytes),
            (None, ..) => self.stream.write_both_now(first, second),
            (Some(tls), ..) => tls.write_now(&self.stream, first, second),
        }
    }

    /// Writes, and says that more follows at once; see [`Conn::write_now`].
    ///
    /// # Errors
    /// Whatever `send(2)` says.
    pub fn write_more_now(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.tls {
            None => self.stream.write_more_now(bytes),
            Some(_) => self.write_now(bytes),
        }
    }

    /// Has the system write so many bytes of a file from `offset` on, past our memory; see [`Stream::send_file_now`]. Not
    /// for TLS.
    ///
    /// # Errors
    /// Whatever `sendfile(2)` says.
    pub fn send_file_now(
        &mut self,
        file: &File,
        offset: u64,
        count: usize,
    ) -> io::Result<Option<usize>> {
        debug_assert!(!self.is_secure(), "nobody would encrypt it");
        self.stream.send_file_now(file, offset, count)
    }

    /// Has no call wait any more, so that [`Conn::send_file_now`] does not.
    ///
    /// # Errors
    /// Whatever `fcntl(2)` says.
    pub fn never_wait(&self) -> io::Result<()> {
        self.stream.never_wait()
    }

    /// Whether everything that was taken by [`Conn::write_now`] has reached the socket, now.
    ///
    /// # Errors
    /// Whatever `send(2)` says.
    pub fn flush_now(&mut self) -> io::Result<bool> {
        match &mut self.tls {
            None => Ok(true),
            Some(tls) => tls.flush_now(&self.stream),
        }
    }

    /// Waits for the end of the handshake, at most until `deadline`.
    ///
    /// # Errors
    /// `TimedOut` at the deadline, `InvalidData` for what the peer did wrong or is not trusted for, `UnexpectedEof` if it
    /// left, and whatever the system says.
    pub fn shake_hands(&mut self, deadline: Instant) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        while !tls.shake_now(&self.stream)? {
            self.stream.wait_for_input(deadline)?;
        }
        Ok(())
    }

    /// Sets how long [`Conn::read`] waits. Costs a system call only when it changes.
    ///
    /// # Errors
    /// Whatever `setsockopt(2)` says.
    pub fn set_read_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(timeout)
    }

    /// Reads what is there, waiting for at least one byte up to the read timeout. 0 is the end.
    ///
    /// # Errors
    /// `TimedOut` when the read timeout is over, and those of [`Conn::read_now`].
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.stream.read(into);
        };
        let deadline = Instant::now() + self.stream.read_timeout().unwrap_or(FOR_EVER);
        loop {
            if let Some(count) = tls.read_now(&self.stream, into)? {
                return Ok(count);
            }
            self.stream.wait_for_input(deadline)?;
        }
    }

    /// Writes all of two pieces, waiting at most `patience` each time that the peer takes nothing.
    ///
    /// # Errors
    /// `TimedOut` when the peer took nothing for so long, and whatever the system says.
    pub fn write_both(
        &mut self,
        mut first: &[u8],
        mut second: &[u8],
        patience: Duration,
    ) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return self.stream.write_both(first, second, patience);
        };
        loop {
            let count = match (first, second) {
                ([], []) if tls.flush_now(&self.stream)? => return Ok(()),
                ([], []) => 0,
                _ => tls.write_now(&self.stream, first, second)?,
            };
            let of_first = count.min(first.len());
            (first, second) = (&first[of_first..], &second[count - of_first..]);
            if count == 0 && !self.stream.wait_for_room(patience)? {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// Whether there is something to read of which the socket knows nothing any more.
    pub fn has_unread(&mut self) -> bool {
        self.tls.as_mut().is_some_and(|tls| tls.has_unread())
    }

    /// The socket.
    pub const fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Looks at the socket without taking anything out of it.
    pub fn pending(&self) -> Pending {
        match self.stream.pending() {
            // Who leaves says so first; what lies behind that can be seen no other way.
            Pending::Bytes if self.is_secure() && self.stream.is_ended() => Pending::End,
            pending => pending,
        }
    }

    /// Says that nothing more will be written, so that the peer sees the end.
    pub fn finish_writing(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.finish_writing(&self.stream);
        }
        self.stream.finish_writing();
    }

    /// Says that nothing more will be written, unless there is no room for that now. Returns whether the peer will see
    /// the end.
    ///
    /// # Errors
    /// Whatever `send(2)` says.
    pub fn finish_writing_now(&mut self) -> io::Result<bool> {
        if let Some(tls) = &mut self.tls {
            tls.say_end();
            if !tls.flush_now(&self.stream)? {
                return Ok(false);
            }
        }
        self.stream.finish_writing();
        Ok(true)
    }

    /// Makes the close that follows a reset, so that the peer can tell that a response was cut short.
    pub fn reset_on_close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.cut();
        }
        self.stream.reset_on_close();
    }
}

impl AsMut<Self> for Conn {
    fn as_mut(&mut self) -> &mut Self {
        self
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.finish_writing(&self.stream);
        }
    }
}

impl AsFd for Conn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Longer than anything waits.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);
