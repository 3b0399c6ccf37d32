//! A connected stream socket, TCP or Unix.
//!
//! The socket stays in blocking mode. Calls that must not wait say so to the system with `MSG_DONTWAIT`,
//! and waits for a client go through `poll(2)` with the time that is left, so that no socket option has to
//! be set for them. Reads from a backend, of which there is at least one per request, block in `recv(2)`
//! under `SO_RCVTIMEO`, which is only set when it changes.
//!
//! **Invariants**: the descriptor is owned by exactly one [`Stream`]; dropping it closes the connection. No
//! call is left half done by a signal: `EINTR` is retried here and nowhere else. An error `TimedOut` says that a deadline
//! of ours is over, and never that the connection is.

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
    self, AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, setsockopt, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::config::Address;

/// A connected socket.
#[derive(Debug)]
pub struct Stream {
    socket: OwnedFd,
    /// What `SO_RCVTIMEO` is set to; `None`: it was not, so that reads wait for ever.
    read_timeout: Option<Duration>,
    /// What `TCP_USER_TIMEOUT` was set to, in milliseconds; 0: it was not.
    user_timeout: AtomicU32,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A TCP peer.
    Tcp(SocketAddr),
    /// A process of this machine, through a Unix socket.
    Unix,
}

/// What lies in the receive buffer of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// Nothing, and the peer is still there.
    Nothing,
    /// At least one byte.
    Bytes,
    /// The end of the stream: the peer will send nothing more, though it may still listen.
    End,
    /// An error: the peer is gone.
    Broken,
}

impl Peer {
    /// The peer's address, if it has one. IPv4 addresses mapped into IPv6 are given as IPv4.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip().to_canonical()),
            Self::Unix => None,
        }
    }

    /// What one client has: its address, or with IPv6 a network of 64 bits (RFC 6177).
    pub fn network(&self) -> Option<IpAddr> {
        self.ip().map(network)
    }
}

/// What one client has: an address, or with IPv6 a network of 64 bits (RFC 6177).
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
    /// Connects to an address, trying each that a host name stands for, `patience` for each.
    ///
    /// # Errors
    /// What the system says about the last one tried.
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
    /// What the system says.
    pub fn connect_to(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        Ok(Self::from(OwnedFd::from(stream)))
    }

    /// Connects to a Unix socket.
    ///
    /// # Errors
    /// `TimedOut` when its queue is full for so long, and what the system says.
    pub fn connect_unix(path: &Path, patience: Duration) -> io::Result<Self> {
        let deadline = Instant::now() + patience;
        let address = UnixAddr::new(path)?;
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // It also bounds writes that wait, of which there are none.
            setsockopt(&socket, sockopt::SendTimeout, &time_value(left))?;
            match socket::connect(socket.as_raw_fd(), &address) {
                Ok(()) => return Ok(Self::from(socket)),
                // With a timeout the system does not begin again by itself (signal(7)).
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(ErrorKind::TimedOut.into()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Another handle of the same socket, which stays open until both are dropped: for whoever may want to end it. What
    /// one of them sets, the other one does not know.
    ///
    /// # Errors
    /// Whatever `fcntl(2)` says.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
            read_timeout: self.read_timeout,
            user_timeout: AtomicU32::new(self.user_timeout.load(Ordering::Relaxed)),
        })
    }

    /// Reads what is there, waiting for at least one byte up to the read timeout. 0 is the end.
    ///
    /// # Errors
    /// `TimedOut` when the read timeout is over, and whatever `recv(2)` says.
    pub fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self.receive(into, MsgFlags::empty()) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ErrorKind::TimedOut.into()),
            result => result,
        }
    }

    /// Reads what is there without waiting. `None`: nothing yet. 0 is the end.
    ///
    /// # Errors
    /// Whatever `recv(2)` says.
    pub fn read_now(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        match self.receive(into, MsgFlags::MSG_DONTWAIT) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Looks at the receive buffer without waiting and without taking anything out of it.
    pub fn pending(&self) -> Pending {
        match self.peek_now(&mut [0]) {
            Ok(Some(0)) => Pending::End,
            Ok(Some(_)) => Pending::Bytes,
            Ok(None) => Pending::Nothing,
            Err(_) => Pending::Broken,
        }
    }

    /// Looks at what is there without waiting and without taking it out. `None`: nothing yet. 0 is the end.
    ///
    /// # Errors
    /// Whatever `recv(2)` says.
    pub fn peek_now(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        match self.receive(into, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the peer has ended its sending side, whatever can still be read.
    pub fn is_ended(&self) -> bool {
        let hung_up = PollFlags::from_bits_retain(nix::libc::POLLRDHUP);
        let mut sockets = [PollFd::new(self.as_fd(), hung_up)];
        poll(&mut sockets, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }

    /// Sets how long [`Stream::read`] waits. Costs a system call only when it changes.
    ///
    /// # Errors
    /// Whatever `setsockopt(2)` says.
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

    /// Writes without waiting; returns how many bytes the system took, 0 if it has no room.
    ///
    /// # Errors
    /// Whatever `send(2)` says.
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

    /// Writes without waiting, and says that more follows at once, so that it need not go out by itself; see
    /// [`Stream::write_now`].
    ///
    /// # Errors
    /// Whatever `send(2)` says.
    pub fn write_more_now(&self, bytes: &[u8]) -> io::Result<usize> {
        self.send(bytes, MsgFlags::from_bits_retain(nix::libc::MSG_MORE))
    }

    /// Writes so many bytes of a file from `offset` on, without waiting for the peer; returns how many the system took, 0
    /// at the end of the file. `None`: it has no room.
    ///
    /// # Errors
    /// Whatever `sendfile(2)` says.
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

    /// Has no call wait any more: there are some to which that cannot be said each time.
    ///
    /// # Errors
    /// Whatever `fcntl(2)` says.
    pub fn never_wait(&self) -> io::Result<()> {
        // A socket has no other flags that could be set so.
        fcntl(&self.socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(())
    }

    /// Writes two pieces in one system call without waiting; see [`Stream::write_now`].
    ///
    /// # Errors
    /// Whatever `sendmsg(2)` says.
    pub fn write_both_now(&self, first: &[u8], second: &[u8]) -> io::Result<usize> {
        self.write_pieces_now(&[IoSlice::new(first), IoSlice::new(second)])
    }

    /// Writes pieces in one system call without waiting; see [`Stream::write_now`].
    ///
    /// # Errors
    /// Whatever `sendmsg(2)` says.
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

    /// Writes all of two pieces, waiting at most `patience` each time that the peer takes nothing.
    ///
    /// # Errors
    /// `TimedOut` when the peer took nothing for so long, and whatever the system says.
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

    /// Writes all of it, waiting at most `patience` each time that the peer takes nothing.
    ///
    /// # Errors
    /// `TimedOut` when the peer took nothing for so long, and whatever the system says.
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
    /// `TimedOut` at the deadline, and whatever `poll(2)` says.
    pub fn wait_for_input(&self, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.wait(PollFlags::POLLIN, left)?.readable {
            true => Ok(()),
            false => Err(ErrorKind::TimedOut.into()),
        }
    }

    /// Waits until the socket can be written to, at most `patience`.
    ///
    /// # Errors
    /// Whatever `poll(2)` says.
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

    /// Says that nothing more will be written, so that the peer sees the end.
    pub fn finish_writing(&self) {
        // An error means that the peer is gone, which the next read will tell.
        let _ = socket::shutdown(self.socket.as_raw_fd(), Shutdown::Write);
    }

    /// Ends both directions, so that whoever waits for this socket wakes up.
    pub fn hang_up(&self) {
        let _ = socket::shutdown(self.socket.as_raw_fd(), Shutdown::Both);
    }

    /// Makes the close that follows a reset, so that the peer can tell that a response was cut short.
    pub fn reset_on_close(&self) {
        let linger = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        // An error means that the socket is broken already, which the peer sees just as well.
        let _ = setsockopt(&self.socket, sockopt::Linger, &linger);
    }

    /// Sends small writes at once. Without effect on a Unix socket.
    pub fn send_at_once(&self) {
        let _ = setsockopt(&self.socket, sockopt::TcpNoDelay, &true);
    }

    /// Has the system find out when the peer's machine has vanished: the connection breaks when it has given no sign of life
    /// for [`VANISHED`], be it that it answers no probe, of which there are three in that time, or that it does not
    /// acknowledge what was sent.
    ///
    /// The latter includes a peer that is there and just takes nothing, once its buffers are full: where that may happen,
    /// [`Stream::give_up_after`] gives it more time. Without effect on a Unix socket.
    pub fn watch_peer(&self) {
        // On a Unix socket the kernel itself knows when the peer is gone, so errors do not matter.
        let _ = setsockopt(&self.socket, sockopt::KeepAlive, &true);
        let _ = setsockopt(&self.socket, sockopt::TcpKeepIdle, &8);
        let _ = setsockopt(&self.socket, sockopt::TcpKeepInterval, &4);
        // It goes over a number of probes (tcp(7)).
        self.give_up_after(VANISHED);
    }

    /// The same for a peer that is far away and may be asleep: a probe a minute while nothing comes, and four that stay
    /// unanswered are enough.
    pub fn watch_peer_at_leisure(&self) {
        let _ = setsockopt(&self.socket, sockopt::KeepAlive, &true);
        let _ = setsockopt(&self.socket, sockopt::TcpKeepIdle, &60);
        let _ = setsockopt(&self.socket, sockopt::TcpKeepInterval, &15);
        let _ = setsockopt(&self.socket, sockopt::TcpKeepCount, &4);
    }

    /// Changes how long what was sent to a peer may stay where it is, also if the peer is there and just takes nothing; see
    /// [`Stream::watch_peer`]. From a millisecond to 24 days. No system call if it is so already.
    pub fn give_up_after(&self, patience: Duration) {
        // To the system it is signed, and zero means that there is no such time.
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

/// For so long a peer may give no sign of life: a machine that is very busy is not gone.
pub const VANISHED: Duration = Duration::from_secs(20);

/// An error of a connection. `TimedOut` is our own word, for our own deadlines: when the system has given the peer up, the
/// connection is broken.
fn failure(error: Errno) -> io::Error {
    match error {
        Errno::ETIMEDOUT => io::Error::new(
            ErrorKind::ConnectionAborted,
            "the peer does not answer any more",
        ),
        error => error.into(),
    }
}

/// A time for the system, to whom zero would mean no timeout at all.
fn time_value(time: Duration) -> TimeVal {
    let microseconds = i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    TimeVal::microseconds(microseconds.max(1))
}

/// What a wait found.
#[derive(Clone, Copy, Debug)]
pub struct Readiness {
    /// Reading will not wait.
    pub readable: bool,
    /// Writing will not wait.
    pub writable: bool,
}

/// The time until `deadline` for `poll(2)`, rounded up so that the deadline is over when it returns.
pub fn poll_timeout(deadline: Instant) -> PollTimeout {
    let left = deadline.saturating_duration_since(Instant::now());
    let milliseconds = left.as_micros().div_ceil(1000);
    PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)
}

// A parked session holds one of these; thousands are parked.
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
    fn a_peer_is_given_up_when_we_do_so_ourselves_and_not_at_once() {
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
    fn a_peer_that_the_system_has_given_up_is_no_deadline_of_ours() {
        let given_up = failure(Errno::ETIMEDOUT);
        assert_eq!(given_up.kind(), ErrorKind::ConnectionAborted);
        assert_eq!(
            failure(Errno::ECONNRESET).kind(),
            ErrorKind::ConnectionReset
        );
    }

    #[test]
    fn a_write_has_a_deadline_and_goes_on_where_it_stopped() {
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
