//! A connection with or without TLS: of a client, of a backend, or to a server that speaks HTTP or FastCGI.
//!
//! Most calls do not wait. The others take a timeout; they are for a worker that blocks briefly, and for the
//! threads that dial in, or check servers and applications. Without TLS each call is that of the [`Stream`].

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client_auth::ClientAuth;
use super::fastcgi::{FastCgiServer, FastCgiSession};
use super::stream::{Pending, Stream};
use super::tls::{Acceptor, Connector, TlsSession};
use crate::http::request_id::RequestId;

/// A connection.
#[derive(Debug)]
pub struct Conn {
    stream: Stream,
    tls: Option<Box<TlsSession>>,
    fastcgi: Option<Box<FastCgiSession>>,
}

impl Conn {
    /// A connection without TLS.
    pub const fn plain(stream: Stream) -> Self {
        Self {
            stream,
            tls: None,
            fastcgi: None,
        }
    }

    /// A connection to a FastCGI server. Responses are read as HTTP; requests are written as records.
    pub fn fastcgi(stream: Stream, server: &Arc<FastCgiServer>) -> Self {
        Self {
            stream,
            tls: None,
            fastcgi: Some(Box::new(FastCgiSession::new(server))),
        }
    }

    /// A connection on which the peer starts a handshake.
    ///
    /// # Errors
    /// Those of [`Acceptor::accept`].
    pub fn secure(stream: Stream, acceptor: &Acceptor) -> io::Result<Self> {
        let tls = Some(Box::new(acceptor.accept()?));
        Ok(Self {
            stream,
            tls,
            fastcgi: None,
        })
    }

    /// The same, where the first message of the peer may decide about everything; see [`Conn::only_validations`].
    ///
    /// # Errors
    /// Those of [`Acceptor::accept_later`].
    pub fn secure_later(stream: Stream, acceptor: &Acceptor) -> io::Result<Self> {
        let tls = Some(Box::new(acceptor.accept_later()?));
        Ok(Self {
            stream,
            tls,
            fastcgi: None,
        })
    }

    /// Of handshakes, completes only that of an authority which validates a name (TLS-ALPN-01). The connection must be
    /// one of [`Conn::secure_later`], or have no TLS.
    pub fn only_validations(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.only_validations();
        }
    }

    /// A connection on which we start a handshake, with a server of this name; see [`Conn::shake_hands`].
    ///
    /// # Errors
    /// Those of [`Connector::connect`].
    pub fn dialled(stream: Stream, connector: &Connector, name: &str) -> io::Result<Self> {
        let tls = Some(Box::new(connector.connect(name)?));
        Ok(Self {
            stream,
            tls,
            fastcgi: None,
        })
    }

    /// Whether the connection is encrypted.
    pub const fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether requests are written as records of FastCGI.
    pub const fn is_fastcgi(&self) -> bool {
        self.fastcgi.is_some()
    }

    /// Announces a request that is going to be written. `is_head`: the response has no body.
    pub fn begin_request(&mut self, is_head: bool, id: &RequestId) {
        if let Some(fastcgi) = &mut self.fastcgi {
            fastcgi.begin(is_head, id.clone());
        }
    }

    /// What is wrong with the response of a FastCGI server, after an error.
    pub fn fault(&self) -> Option<&'static str> {
        self.fastcgi.as_ref()?.fault()
    }

    /// Whether the connection can be used again, once the body of the response was read: reads what FastCGI sends after
    /// it, as far as it has arrived.
    pub fn settle(&mut self) -> bool {
        let Self {
            stream, fastcgi, ..
        } = self;
        fastcgi
            .as_mut()
            .is_none_or(|fastcgi| fastcgi.settle(stream))
    }

    /// How the peer, a client, had to identify itself, and its certificate in DER, if it has presented one that was
    /// verified.
    pub fn client_certificate(&self) -> Option<(&ClientAuth, Option<&[u8]>)> {
        self.tls.as_ref()?.client_certificate()
    }

    /// Verifies the certificate of a client again, by the present authorities.
    ///
    /// # Errors
    /// Why it is not valid.
    pub fn verify_client(&self, acceptor: &Acceptor) -> Result<(), String> {
        match &self.tls {
            None => Ok(()),
            Some(tls) => tls.verify_client(acceptor),
        }
    }

    /// Whether the handshake is incomplete.
    pub fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Whether the handshake waits for a certificate that is being obtained. No event reports that it is there, so try
    /// again after a moment.
    pub fn is_waiting(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_waiting())
    }

    /// Continues without TLS, since the peer does not speak it, so that it can get an error response.
    pub fn give_up_tls(&mut self) {
        self.tls = None;
    }

    /// Whether there may be more to read without a further event, although the last read did not fill its buffer.
    pub fn may_have_more(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.may_have_more())
    }

    /// Reads available bytes. `None`: nothing yet. 0 is the end.
    ///
    /// # Errors
    /// `InvalidData` for broken TLS or FastCGI, `Unsupported` for plain text in place of TLS, and those of `recv(2)`.
    pub fn read_now(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        match (&mut self.tls, &mut self.fastcgi) {
            (None, None) => self.stream.read_now(into),
            (Some(tls), _) => tls.read_now(&self.stream, into),
            (None, Some(fastcgi)) => fastcgi.read_now(&self.stream, into),
        }
    }

    /// Writes without waiting; returns how many bytes were accepted, 0 if there is no room.
    ///
    /// # Errors
    /// Those of `send(2)`.
    pub fn write_now(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.stream.write_now(bytes),
            Some(tls) => tls.write_now(&self.stream, bytes, &[]),
        }
    }

    /// Writes two pieces, in one system call if possible; see [`Conn::write_now`].
    ///
    /// # Errors
    /// Those of `sendmsg(2)`.
    pub fn write_both_now(&mut self, first: &[u8], second: &[u8]) -> io::Result<usize> {
        match (&mut self.tls, first, second) {
            (None, bytes, []) | (None, [], bytes) => self.stream.write_now(bytes),
            (None, ..) => self.stream.write_both_now(first, second),
            (Some(tls), ..) => tls.write_now(&self.stream, first, second),
        }
    }

    /// Writes, and announces that more bytes follow; see [`Conn::write_now`].
    ///
    /// # Errors
    /// Those of `send(2)`.
    pub fn write_more_now(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.tls {
            None => self.stream.write_more_now(bytes),
            Some(_) => self.write_now(bytes),
        }
    }

    /// Sends `count` bytes of a file from `offset` on, without copying them through this process; see
    /// [`Stream::send_file_now`]. Not for TLS.
    ///
    /// # Errors
    /// Those of `sendfile(2)`.
    pub fn send_file_now(
        &mut self,
        file: &File,
        offset: u64,
        count: usize,
    ) -> io::Result<Option<usize>> {
        debug_assert!(!self.is_secure(), "it would not be encrypted");
        self.stream.send_file_now(file, offset, count)
    }

    /// Makes the socket non-blocking, as [`Conn::send_file_now`] requires.
    ///
    /// # Errors
    /// Those of `fcntl(2)`.
    pub fn never_wait(&self) -> io::Result<()> {
        self.stream.never_wait()
    }

    /// Whether all bytes that [`Conn::write_now`] accepted have reached the socket; writes without waiting.
    ///
    /// # Errors
    /// Those of `send(2)`.
    pub fn flush_now(&mut self) -> io::Result<bool> {
        match &mut self.tls {
            None => Ok(true),
            Some(tls) => tls.flush_now(&self.stream),
        }
    }

    /// Waits for the end of the handshake, at most until `deadline`.
    ///
    /// # Errors
    /// `TimedOut` at the deadline, `InvalidData` if the peer breaks the protocol or is not trusted, `UnexpectedEof` if
    /// it closes the connection, and those of the system.
    pub fn shake_hands(&mut self, deadline: Instant) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        while !tls.shake_now(&self.stream)? {
            self.stream.wait_for_input(deadline)?;
        }
        Ok(())
    }

    /// Continues a handshake without waiting. Returns whether it is complete.
    ///
    /// # Errors
    /// Those of [`Conn::shake_hands`] but `TimedOut`.
    pub fn shake_now(&mut self) -> io::Result<bool> {
        match &mut self.tls {
            None => Ok(true),
            Some(tls) => tls.shake_now(&self.stream),
        }
    }

    /// Sets how long [`Conn::read`] waits. Makes a system call only for a change.
    ///
    /// # Errors
    /// Those of `setsockopt(2)`.
    pub fn set_read_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(timeout)
    }

    /// Reads available bytes; waits for at least one, up to the read timeout. 0 is the end.
    ///
    /// # Errors
    /// `TimedOut` after the read timeout, and those of [`Conn::read_now`].
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.tls.is_none() && self.fastcgi.is_none() {
            return self.stream.read(into);
        }
        let deadline = Instant::now() + self.stream.read_timeout().unwrap_or(FOR_EVER);
        loop {
            if let Some(count) = self.read_now(into)? {
                return Ok(count);
            }
            self.stream.wait_for_input(deadline)?;
        }
    }

    /// Writes all of two pieces; waits at most `patience` each time that the peer accepts nothing.
    ///
    /// # Errors
    /// `TimedOut` if the peer accepted nothing for that time, and those of the system.
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

    /// Whether there are decrypted or decoded bytes to read, of which the socket gives no sign.
    pub fn has_unread(&mut self) -> bool {
        self.tls.as_mut().is_some_and(|tls| tls.has_unread())
            || (self.fastcgi.as_ref()).is_some_and(|fastcgi| fastcgi.has_unread())
    }

    /// The socket.
    pub const fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Looks at the receive buffer without reading.
    pub fn pending(&self) -> Pending {
        match self.stream.pending() {
            // A peer sends a close_notify before it closes, so bytes before the end of the stream mean the end.
            Pending::Bytes if self.is_secure() && self.stream.is_ended() => Pending::End,
            pending => pending,
        }
    }

    /// Ends our sending side, so that the peer sees the end.
    pub fn finish_writing(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.finish_writing(&self.stream);
        }
        self.stream.finish_writing();
    }

    /// Ends our sending side, unless there is no room for that now. Returns whether the peer will see the end.
    ///
    /// # Errors
    /// Those of `send(2)`.
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

    /// Makes closing reset the connection, so that the peer can tell that a response was cut short.
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

/// Longer than any timeout.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);
