//! A connected stream socket, TCP or Unix.
//!
//! The socket stays in blocking mode. Calls that must not wait use `MSG_DONTWAIT`, and waits for a client use
//! `poll(2)` with the remaining time, so that they need no socket option. Reads from a backend, of which each request
//! needs at least one, block in `recv(2)` with `SO_RCVTIMEO`, which is only set when it changes.
//!
//! **Invariants**: the descriptor is owned by exactly one [`Stream`]; dropping it closes the connection. All calls
//! continue after a signal: `EINTR` is retried here and nowhere else. An error `TimedOut` means that a deadline of
//! ours has passed, and never that the connection has failed.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::sendfile::sendfile64;
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, SockaddrStorage, UnixAddr,
    setsockopt, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::config::Address;

/// A connected socket.
#[derive(Debug)]
pub struct Stream {
    socket: OwnedFd,
    /// The current `SO_RCVTIMEO`; `None`: not set, so that reads wait for ever.
    read_timeout: Option<Duration>,
    /// The current `TCP_USER_TIMEOUT` in milliseconds; 0: not set.
    user_timeout: AtomicU32,
}

/// The peer of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Peer {
    /// A TCP peer.
    Tcp(SocketAddr),
    /// A process of this machine, connected through a Unix socket.
    Unix,
}

/// What is in the receive buffer of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// Nothing; the peer is still connected.
    Nothing,
    /// At least one byte.
    Bytes,
    /// The end of the stream: the peer will send nothing more, but may still receive.
    End,
    /// An error: the connection has failed.
    Broken,
}

impl Peer {
    /// The peer's address, if it has one. IPv4 addresses mapped into IPv6 are returned as IPv4.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip().to_canonical()),
            Self::Unix => None,
        }
    }

    /// The address range of one client: its address, or with IPv6 the network of 64 bits (RFC 6177).
    pub fn network(&self) -> Option<IpAddr> {
        self.ip().map(network)
    }
}

/// The address range of one client: an address, or with IPv6 the network of 64 bits (RFC 6177).
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => {
                SocketAddr::new(address.ip().to_canonical(), address.port()).fmt(out)
            }
            Self::Unix => out.write_str("unix:"),
        }
    }
}

impl From<OwnedFd> for Stream {
    fn from(socket: OwnedFd) -> Self {
        Self {
            socket,
            read_timeout: None,
            user_timeout: AtomicU32::new(0),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Stream {
    /// Connects to an address; tries each address of a host name, `patience` for each.
    ///
    /// # Errors
    /// The error of the last one.
    pub fn connect(address: &Address, patience: Duration) -> io::Result<Self> {
        let (host, port) = match address {
            Address::Unix(path) => return Self::connect_unix(path, patience),
            Address::Tcp { host, port, .. } => (host.as_str(), *port),
        };
        let mut last = io::Error::from(ErrorKind::AddrNotAvailable);
        for address in (host, port).to_socket_addrs()? {
            match Self::connect_to(address, patience) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Connects to a literal TCP address.
    ///
    /// # Errors
    /// Those of the system.
    pub fn connect_to(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        Ok(Self::from(OwnedFd::from(stream)))
    }

    /// Connects to a Unix socket.
    ///
    /// # Errors
    /// `TimedOut` if its queue is full for that time, and those of the system.
    pub fn connect_unix(path: &Path, patience: Duration) -> io::Result<Self> {
        let deadline = Instant::now() + patience;
        let address = UnixAddr::new(path)?;
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // This also limits blocking writes, which do not occur.
            setsockopt(&socket, sockopt::SendTimeout, &time_value(left))?;
            match socket::connect(socket.as_raw_fd(), &address) {
                Ok(()) => return Ok(Self::from(socket)),
                // With a timeout the system does not restart the call (signal(7)).
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(ErrorKind::TimedOut.into()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Another handle of the same socket, which stays open until both are dropped, so that another thread can shut it
    /// down. Options that one handle sets are unknown to the other one.
    ///
    /// # Errors
    /// Those of `fcntl(2)`.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
            read_timeout: self.read_timeout,
            user_timeout: AtomicU32::new(self.user_timeout.load(Ordering::Relaxed)),
        })
    }

    /// Our address of the connection; `None`: it is not TCP.
    pub fn local(&self) -> Option<SocketAddr> {
        let address = socket::getsockname::<SockaddrStorage>(self.socket.as_raw_fd()).ok()?;
        let v4 = address
            .as_sockaddr_in()
            .map(|address| SocketAddr::V4((*address).into()));
        v4.or_else(|| {
            address
                .as_sockaddr_in6()
                .map(|address| SocketAddr::V6((*address).into()))
        })
    }

    /// Reads available bytes; waits for at least one, up to the read timeout. 0 is the end.
    ///
    /// # Errors
    /// `TimedOut` after the read timeout, and those of `recv(2)`.
    pub fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self.receive(into, MsgFlags::empty()) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ErrorKind::TimedOut.into()),
            result => result,
        }
    }

    /// Reads available bytes without waiting. `None`: nothing yet. 0 is the end.
    ///
    /// # Errors
    /// Those of `recv(2)`.
    pub fn read_now(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        match self.receive(into, MsgFlags::MSG_DONTWAIT) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Looks at the receive buffer without waiting and without reading.
    pub fn pending(&self) -> Pending {
        match self.peek_now(&mut [0]) {
            Ok(Some(0)) => Pending::End,
            Ok(Some(_)) => Pending::Bytes,
            Ok(None) => Pending::Nothing,
            Err(_) => Pending::Broken,
        }
    }

    /// Copies available bytes without waiting and without removing them. `None`: nothing yet. 0 is the end.
    ///
    /// # Errors
    /// Those of `recv(2)`.
    pub fn peek_now(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        match self.receive(into, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the peer has ended its sending side, even if bytes are left to read.
    pub fn is_ended(&self) -> bool {
        let hung_up = PollFlags::from_bits_retain(nix::libc::POLLRDHUP);
        let mut sockets = [PollFd::new(self.as_fd(), hung_up)];
        poll(&mut sockets, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }

    /// Sets how long [`Stream::read`] waits. Makes a system call only for a change.
    ///
    /// # Errors
    /// Those of `setsockopt(2)`.
    pub fn set_read_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        if self.read_timeout == Some(timeout) {
            return Ok(());
        }
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &time_value(timeout))?;
        self.read_timeout = Some(timeout);
        Ok(())
    }

    /// How long [`Stream::read`] waits; `None`: for ever.
    pub const fn read_timeout(&self) -> Option<Duration> {
        self.read_timeout
    }

    /// Writes without waiting; returns how many bytes the system accepted, 0 if there is no room.
    ///
    /// # Errors
    /// Those of `send(2)`.
    pub fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        self.send(bytes, MsgFlags::empty())
    }

    fn send(&self, bytes: &[u8], more: MsgFlags) -> io::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL | more;
        loop {
            match socket::send(self.socket.as_raw_fd(), bytes, flags) {
                Ok(count) => return Ok(count),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(0),
                Err(error) => return Err(failure(error)),
            }
        }
    }

    /// Writes without waiting, and announces that more bytes follow, so that these need not be sent alone; see
    /// [`Stream::write_now`].
    ///
    /// # Errors
    /// Those of `send(2)`.
    pub fn write_more_now(&self, bytes: &[u8]) -> io::Result<usize> {
        self.send(bytes, MsgFlags::from_bits_retain(nix::libc::MSG_MORE))
    }

    /// Sends `count` bytes of a file from `offset` on, without waiting for the peer; returns how many the system
    /// accepted, 0 at the end of the file. `None`: there is no room.
    ///
    /// # Errors
    /// Those of `sendfile(2)`.
    pub fn send_file_now(
        &self,
        file: &File,
        offset: u64,
        count: usize,
    ) -> io::Result<Option<usize>> {
        let mut offset = i64::try_from(offset).map_err(|_| ErrorKind::InvalidInput)?;
        loop {
            match sendfile64(&self.socket, file, Some(&mut offset), count) {
                Ok(count) => return Ok(Some(count)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(error) => return Err(failure(error)),
            }
        }
    }

    /// Makes the socket non-blocking, for calls that have no flag for that.
    ///
    /// # Errors
    /// Those of `fcntl(2)`.
    pub fn never_wait(&self) -> io::Result<()> {
        // O_NONBLOCK is the only flag of a socket that F_SETFL changes.
        fcntl(&self.socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(())
    }

    /// Writes two pieces in one system call without waiting; see [`Stream::write_now`].
    ///
    /// # Errors
    /// Those of `sendmsg(2)`.
    pub fn write_both_now(&self, first: &[u8], second: &[u8]) -> io::Result<usize> {
        self.write_pieces_now(&[IoSlice::new(first), IoSlice::new(second)])
    }

    /// Writes pieces in one system call without waiting; see [`Stream::write_now`].
    ///
    /// # Errors
    /// Those of `sendmsg(2)`.
    pub fn write_pieces_now(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        loop {
            match socket::sendmsg::<()>(self.socket.as_raw_fd(), pieces, &[], flags, None) {
                Ok(count) => return Ok(count),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(0),
                Err(error) => return Err(failure(error)),
            }
        }
    }

    /// Writes all of two pieces; waits at most `patience` each time that the peer accepts nothing.
    ///
    /// # Errors
    /// `TimedOut` if the peer accepted nothing for that time, and those of the system.
    pub fn write_both(&self, first: &[u8], second: &[u8], patience: Duration) -> io::Result<()> {
        if second.is_empty() {
            return self.write_all(first, patience);
        }
        let written = self.write_both_now(first, second)?;
        if written < first.len() {
            self.write_all(&first[written..], patience)?;
        }
        self.write_all(&second[written.saturating_sub(first.len())..], patience)
    }

    /// Writes all bytes; waits at most `patience` each time that the peer accepts nothing.
    ///
    /// # Errors
    /// `TimedOut` if the peer accepted nothing for that time, and those of the system.
    pub fn write_all(&self, mut bytes: &[u8], patience: Duration) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.write_now(bytes)?;
            bytes = &bytes[written..];
            if written == 0 && !self.wait(PollFlags::POLLOUT, patience)?.writable {
                return Err(ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Waits until there is something to read, at most until `deadline`.
    ///
    /// # Errors
    /// `TimedOut` at the deadline, and those of `poll(2)`.
    pub fn wait_for_input(&self, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.wait(PollFlags::POLLIN, left)?.readable {
            true => Ok(()),
            false => Err(ErrorKind::TimedOut.into()),
        }
    }

    /// Waits until the socket is writable, at most `patience`. Returns whether it is.
    ///
    /// # Errors
    /// Those of `poll(2)`.
    pub fn wait_for_room(&self, patience: Duration) -> io::Result<bool> {
        Ok(self.wait(PollFlags::POLLOUT, patience)?.writable)
    }

    fn wait(&self, events: PollFlags, patience: Duration) -> io::Result<Readiness> {
        let deadline = Instant::now() + patience;
        loop {
            let mut sockets = [PollFd::new(self.as_fd(), events)];
            match poll(&mut sockets, poll_timeout(deadline)) {
                Ok(_) => {
                    let seen = sockets[0].revents().unwrap_or(PollFlags::empty());
                    // An error or a hang-up shows at the next read or write, so both count as ready.
                    let broken = seen.intersects(PollFlags::POLLERR | PollFlags::POLLHUP);
                    return Ok(Readiness {
                        readable: broken || seen.contains(PollFlags::POLLIN),
                        writable: broken || seen.contains(PollFlags::POLLOUT),
                    });
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends our sending side, so that the peer sees the end.
    pub fn finish_writing(&self) {
        // An error means that the connection has failed, which the next read will report.
        let _ = socket::shutdown(self.socket.as_raw_fd(), Shutdown::Write);
    }

    /// Ends both directions, which wakes all threads that wait for this socket.
    pub fn hang_up(&self) {
        let _ = socket::shutdown(self.socket.as_raw_fd(), Shutdown::Both);
    }

    /// Ends the receiving direction, which wakes a thread that waits for more. What has arrived can still be read.
    pub fn stop_receiving(&self) {
        let _ = socket::shutdown(self.socket.as_raw_fd(), Shutdown::Read);
    }

    /// Makes closing reset the connection, so that the peer can tell that a response was cut short.
    pub fn reset_on_close(&self) {
        let linger = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        // An error means that the connection has failed, which the peer sees too.
        let _ = setsockopt(&self.socket, sockopt::Linger, &linger);
    }

    /// Sends small writes immediately (TCP_NODELAY). No effect on a Unix socket.
    pub fn send_at_once(&self) {
        let _ = setsockopt(&self.socket, sockopt::TcpNoDelay, &true);
    }

    /// Makes the system detect that the peer's machine has vanished: the connection fails after [`VANISHED`] without a
    /// sign of life, which means that three probes were not answered, or that sent bytes were not acknowledged.
    ///
    /// The latter includes a live peer that accepts nothing once its buffers are full: where that is legitimate,
    /// [`Stream::give_up_after`] allows more time. No effect on a Unix socket.
    pub fn watch_peer(&self) {
        // For a Unix socket the kernel itself knows when the peer is gone, so errors do not matter.
        let _ = setsockopt(&self.socket, sockopt::KeepAlive, &true);
        let _ = setsockopt(&self.socket, sockopt::TcpKeepIdle, &8);
        let _ = setsockopt(&self.socket, sockopt::TcpKeepInterval, &4);
        // This overrides the number of probes (tcp(7)).
        self.give_up_after(VANISHED);
    }

    /// Like [`Stream::watch_peer`], for a distant peer that may be asleep: one probe a minute while nothing arrives,
    /// and the connection fails after four without an answer.
    pub fn watch_peer_at_leisure(&self) {
        let _ = setsockopt(&self.socket, sockopt::KeepAlive, &true);
        let _ = setsockopt(&self.socket, sockopt::TcpKeepIdle, &60);
        let _ = setsockopt(&self.socket, sockopt::TcpKeepInterval, &15);
        let _ = setsockopt(&self.socket, sockopt::TcpKeepCount, &4);
    }

    /// Sets how long sent bytes may stay unacknowledged, even if the peer is alive and accepts nothing; see
    /// [`Stream::watch_peer`]. From a millisecond to 24 days. Makes a system call only for a change.
    pub fn give_up_after(&self, patience: Duration) {
        // The option is signed, and zero means the system's default.
        let milliseconds = patience.as_millis().clamp(1, i32::MAX as u128) as u32;
        if self.user_timeout.swap(milliseconds, Ordering::Relaxed) != milliseconds {
            let _ = setsockopt(&self.socket, sockopt::TcpUserTimeout, &milliseconds);
        }
    }

    fn receive(&self, into: &mut [u8], flags: MsgFlags) -> io::Result<usize> {
        loop {
            match socket::recv(self.socket.as_raw_fd(), into, flags) {
                Ok(count) => return Ok(count),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(failure(error)),
            }
        }
    }
}

/// How long a peer may show no sign of life: a very busy machine is not gone.
pub const VANISHED: Duration = Duration::from_secs(20);

/// The error of a failed call. `TimedOut` is reserved for our own deadlines: a peer that the system has given up on is a
/// broken connection.
fn failure(error: Errno) -> io::Error {
    match error {
        Errno::ETIMEDOUT => {
            io::Error::new(ErrorKind::ConnectionAborted, "the peer no longer responds")
        }
        error => error.into(),
    }
}

/// A time for socket options, for which zero would mean no timeout.
fn time_value(time: Duration) -> TimeVal {
    let microseconds = i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    TimeVal::microseconds(microseconds.max(1))
}

/// The result of a wait.
#[derive(Clone, Copy, Debug)]
pub struct Readiness {
    /// Reading does not block.
    pub readable: bool,
    /// Writing does not block.
    pub writable: bool,
}

/// The time until `deadline` for `poll(2)`, rounded up so that the deadline has passed when it returns.
pub fn poll_timeout(deadline: Instant) -> PollTimeout {
    let left = deadline.saturating_duration_since(Instant::now());
    let milliseconds = left.as_micros().div_ceil(1000);
    PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)
}

// Thousands of parked sessions hold one of these each.
const _: () = assert!(size_of::<Stream>() <= 24);

#[cfg(test)]
mod tests {
    use nix::sys::socket::socketpair;

    use super::*;

    fn pair() -> (Stream, Stream) {
        let (one, other) = socketpair(
            AddressFamily::Unix,
            SockType::Stream,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .expect("a pair of sockets");
        (one.into(), other.into())
    }

    #[test]
    fn reading_without_waiting() {
        let (one, other) = pair();
        let mut bytes = [0; 8];
        assert_eq!(one.pending(), Pending::Nothing);
        assert_eq!(one.read_now(&mut bytes).unwrap(), None);
        other.write_all(b"abc", Duration::from_secs(9)).unwrap();
        assert_eq!(one.pending(), Pending::Bytes);
        assert_eq!(one.read_now(&mut bytes).unwrap(), Some(3));
        drop(other);
        assert_eq!(one.pending(), Pending::End);
        assert_eq!(one.read_now(&mut bytes).unwrap(), Some(0));
    }

    #[test]
    fn unresponsive_peer_is_given_up_in_time() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stream = Stream::connect_to(address, Duration::from_secs(60)).unwrap();
        stream.watch_peer();
        let milliseconds = socket::getsockopt(&stream, sockopt::TcpUserTimeout).unwrap();
        assert_eq!(milliseconds, 20_000);
        let check = |seconds, expected| {
            stream.give_up_after(Duration::from_secs(seconds));
            let milliseconds = socket::getsockopt(&stream, sockopt::TcpUserTimeout).unwrap();
            assert_eq!(milliseconds, expected);
        };
        check(5, 5000);
        check(60, 60_000);
        // The longest time that can be configured, and the longest for the system.
        check(365 * 24 * 60 * 60, i32::MAX as u32);
        assert!(socket::getsockopt(&stream, sockopt::KeepAlive).unwrap());
    }

    #[test]
    fn a_read_has_a_deadline() {
        let (mut one, _other) = pair();
        // Also one that is over already.
        for timeout in [Duration::from_millis(1), Duration::ZERO] {
            one.set_read_timeout(timeout).unwrap();
            let error = one.read(&mut [0; 8]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut);
        }
        let (mut one, _other) = pair();
        one.set_read_timeout(Duration::ZERO).unwrap();
        let error = one.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn connecting_has_a_deadline() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("full");
        let listener = socket::socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        socket::bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        socket::listen(&listener, socket::Backlog::new(0).unwrap()).unwrap();
        let mut queue = Vec::new();
        let error = loop {
            match Stream::connect_unix(&path, Duration::ZERO) {
                Ok(stream) => queue.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn system_timeout_is_not_our_deadline() {
        let given_up = failure(Errno::ETIMEDOUT);
        assert_eq!(given_up.kind(), ErrorKind::ConnectionAborted);
        assert_eq!(
            failure(Errno::ECONNRESET).kind(),
            ErrorKind::ConnectionReset
        );
    }

    #[test]
    fn write_resumes_after_its_deadline() {
        let (one, other) = pair();
        let block = vec![7; 1 << 20];
        let error = one.write_all(&block, Duration::from_millis(1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        let reader = std::thread::spawn(move || {
            let mut bytes = vec![0; 65536];
            let mut total = 0;
            while let Ok(count @ 1..) = other.read(&mut bytes) {
                total += count;
            }
            total
        });
        one.write_both(&block, &block[..9], Duration::from_secs(60))
            .unwrap();
        drop(one);
        assert!(reader.join().unwrap() > block.len() + 9);
    }
}
