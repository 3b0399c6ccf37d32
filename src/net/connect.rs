//! A connection attempt without blocking.
//!
//! [`Connect`] tries the addresses of a server one after another, or a Unix socket. Its owner calls
//! [`Connect::advance`] immediately, since most attempts within one machine succeed at once, and again when the socket
//! of [`Connect::fd`] is writable or the time of [`Connect::until`] has come. A thread that may block calls
//! [`Connect::wait`].
//!
//! **Invariants**: at most one socket is open at a time. A resulting [`Stream`] is in blocking mode, like all others.
//! An error `TimedOut` means that our own deadline has passed.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, SockaddrStorage, UnixAddr, getsockopt, sockopt,
};

use super::stream::{Stream, poll_timeout};

/// The target of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// The first reachable one of these addresses.
    Addresses(Vec<SocketAddr>),
    /// A Unix socket.
    Path(PathBuf),
}

/// A connection attempt.
#[derive(Debug)]
pub struct Connect {
    targets: Targets,
    deadline: Instant,
    /// The number of addresses tried, including the current one.
    tried: usize,
    attempt: Option<Attempt>,
    /// The error of the last address.
    last: Option<io::Error>,
}

/// An attempt to reach one target.
#[derive(Debug)]
struct Attempt {
    socket: OwnedFd,
    /// When to try the next address, or the Unix socket again.
    until: Instant,
}

impl Connect {
    /// An attempt that ends at `deadline`. [`Connect::advance`] starts it.
    pub const fn new(targets: Targets, deadline: Instant) -> Self {
        Self {
            targets,
            deadline,
            tried: 0,
            attempt: None,
            last: None,
        }
    }

    /// Continues without waiting. `None`: the attempt is in progress.
    ///
    /// # Errors
    /// `TimedOut` at the deadline, `AddrNotAvailable` if there is no address, and the system's error for the last
    /// address. The attempt is over then.
    pub fn advance(&mut self) -> io::Result<Option<Stream>> {
        match &self.targets {
            Targets::Addresses(_) => self.advance_tcp(),
            Targets::Path(_) => self.advance_unix(),
        }
    }

    /// The socket to wait for until it is writable. `None`: wait for [`Connect::until`] only.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match (&self.targets, &self.attempt) {
            (Targets::Addresses(_), Some(attempt)) => Some(attempt.socket.as_fd()),
            _ => None,
        }
    }

    /// The latest time to call [`Connect::advance`] again.
    pub fn until(&self) -> Instant {
        let attempt = self.attempt.as_ref();
        attempt.map_or(self.deadline, |attempt| attempt.until.min(self.deadline))
    }

    /// The current or connected address. `None`: not started yet, or a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.targets {
            Targets::Addresses(addresses) => addresses.get(self.tried.checked_sub(1)?).copied(),
            Targets::Path(_) => None,
        }
    }

    /// Waits for the result of the attempt.
    ///
    /// # Errors
    /// Those of [`Connect::advance`].
    pub fn wait(&mut self) -> io::Result<Stream> {
        loop {
            if let Some(stream) = self.advance()? {
                return Ok(stream);
            }
            let socket = self.fd().map(|fd| PollFd::new(fd, PollFlags::POLLOUT));
            let mut sockets: Vec<_> = socket.into_iter().collect();
            match poll(&mut sockets, poll_timeout(self.until())) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn advance_tcp(&mut self) -> io::Result<Option<Stream>> {
        loop {
            let Some(attempt) = self.attempt.take() else {
                self.try_next()?;
                continue;
            };
            match result(&attempt.socket) {
                Some(Ok(())) => return stream(attempt.socket).map(Some),
                Some(Err(error)) => self.last = Some(error),
                None if Instant::now() < attempt.until => {
                    self.attempt = Some(attempt);
                    return Ok(None);
                }
                None => self.last = Some(ErrorKind::TimedOut.into()),
            }
        }
    }

    /// Starts to connect to the next address.
    fn try_next(&mut self) -> io::Result<()> {
        let Targets::Addresses(addresses) = &self.targets else {
            return Ok(());
        };
        let Some(address) = addresses.get(self.tried) else {
            let last = self.last.take();
            return Err(last.unwrap_or_else(|| ErrorKind::AddrNotAvailable.into()));
        };
        let now = Instant::now();
        let left = self.deadline.saturating_duration_since(now);
        // Divide the time, so that an unresponsive address leaves some for the others.
        let share = left / u32::try_from(addresses.len() - self.tried).unwrap_or(u32::MAX);
        if share.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.tried += 1;
        match begin(*address) {
            Ok(socket) => {
                self.attempt = Some(Attempt {
                    socket,
                    until: now + share,
                });
            }
            Err(error) => self.last = Some(error),
        }
        Ok(())
    }

    fn advance_unix(&mut self) -> io::Result<Option<Stream>> {
        let Targets::Path(path) = &self.targets else {
            return Ok(None);
        };
        let address = UnixAddr::new(path)?;
        let socket = match self.attempt.take() {
            Some(attempt) => attempt.socket,
            None => socket::socket(AddressFamily::Unix, SockType::Stream, FLAGS, None)?,
        };
        loop {
            match socket::connect(socket.as_raw_fd(), &address) {
                Ok(()) => return stream(socket).map(Some),
                Err(Errno::EINTR) => {}
                // The listener's queue is full; the system does not report when there is room again (connect(2)).
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let now = Instant::now();
        if now >= self.deadline {
            return Err(ErrorKind::TimedOut.into());
        }
        self.attempt = Some(Attempt {
            socket,
            until: now + UNIX_PAUSE,
        });
        Ok(None)
    }
}

/// Creates a socket and starts to connect it.
fn begin(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket = socket::socket(family, SockType::Stream, FLAGS, None)?;
    match socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(Errno::EINPROGRESS | Errno::EINTR) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// The result of connecting. `None`: still in progress.
fn result(socket: &OwnedFd) -> Option<io::Result<()>> {
    let mut sockets = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut sockets, PollTimeout::ZERO) {
        Ok(0) | Err(Errno::EINTR) => None,
        Ok(_) => Some(match getsockopt(socket, sockopt::SocketError) {
            Ok(0) => Ok(()),
            Ok(code) => Err(io::Error::from_raw_os_error(code)),
            Err(error) => Err(error.into()),
        }),
        Err(error) => Some(Err(error.into())),
    }
}

/// Makes a stream of a connected socket.
fn stream(socket: OwnedFd) -> io::Result<Stream> {
    // O_NONBLOCK is the only flag of a socket that F_SETFL changes.
    fcntl(&socket, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(Stream::from(socket))
}

const FLAGS: SockFlag = SockFlag::SOCK_CLOEXEC.union(SockFlag::SOCK_NONBLOCK);
/// The interval between attempts on a Unix socket with a full queue.
const UNIX_PAUSE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    /// An address where nothing listens.
    fn closed() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    }

    /// A listener that does not answer, as its queue is full; with the connections that fill it.
    fn silent() -> (SocketAddr, impl Drop) {
        struct FullListener {
            _listener: OwnedFd,
            _streams: Vec<Stream>,
            _pending: Connect,
        }
        impl Drop for FullListener {
            fn drop(&mut self) {}
        }
        let (family, kind) = (AddressFamily::Inet, SockType::Stream);
        let listener = socket::socket(family, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket::bind(listener.as_raw_fd(), &SockaddrStorage::from(any)).unwrap();
        socket::listen(&listener, socket::Backlog::new(0).unwrap()).unwrap();
        let own: SockaddrStorage = socket::getsockname(listener.as_raw_fd()).unwrap();
        let port = own.as_sockaddr_in().expect("IPv4").port();
        let address = SocketAddr::new(any.ip(), port);
        let mut streams = Vec::new();
        loop {
            let mut connect = Connect::new(Targets::Addresses(vec![address]), far());
            match connect.advance().unwrap() {
                Some(stream) => streams.push(stream),
                None => {
                    let full = FullListener {
                        _listener: listener,
                        _streams: streams,
                        _pending: connect,
                    };
                    return (address, full);
                }
            }
        }
    }

    fn is_blocking(stream: &Stream) -> bool {
        let flags = fcntl(stream, FcntlArg::F_GETFL).unwrap();
        !OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK)
    }

    #[test]
    fn an_attempt_on_this_machine_succeeds_at_once() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(any) else {
                continue;
            };
            let address = listener.local_addr().unwrap();
            let mut connect = Connect::new(Targets::Addresses(vec![address]), far());
            assert_eq!(connect.address(), None);
            let stream = connect.advance().unwrap().expect("a connection");
            assert!(is_blocking(&stream));
            assert_eq!(connect.address(), Some(address));
            listener.accept().unwrap();
        }
    }

    #[test]
    fn each_address_is_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let good = listener.local_addr().unwrap();
        let check = |addresses: &[SocketAddr], expected: Result<SocketAddr, ErrorKind>| {
            let mut connect = Connect::new(Targets::Addresses(addresses.to_vec()), far());
            let reached = connect.wait().map(|_| connect.address().unwrap());
            assert_eq!(reached.map_err(|error| error.kind()), expected);
        };
        check(&[good], Ok(good));
        check(&[closed(), good], Ok(good));
        check(&[closed(), closed()], Err(ErrorKind::ConnectionRefused));
        check(&[], Err(ErrorKind::AddrNotAvailable));
    }

    #[test]
    fn silent_address_leaves_time_for_the_next() {
        let (silent, _full) = silent();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let good = listener.local_addr().unwrap();
        let time = Duration::from_millis(40);
        let start = Instant::now();
        let mut connect = Connect::new(Targets::Addresses(vec![silent, good]), start + time);
        assert!(connect.advance().unwrap().is_none());
        assert!(connect.fd().is_some());
        assert!(connect.until() < start + time);
        connect.wait().unwrap();
        assert_eq!(connect.address(), Some(good));
        let mut connect = Connect::new(Targets::Addresses(vec![silent]), Instant::now() + time);
        assert_eq!(connect.wait().unwrap_err().kind(), ErrorKind::TimedOut);
        let mut connect = Connect::new(Targets::Addresses(vec![good]), Instant::now());
        assert_eq!(connect.wait().unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn full_unix_queue_is_retried() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let attempt = |time| Connect::new(Targets::Path(path.clone()), Instant::now() + time);
        let missing = attempt(Duration::from_secs(60)).advance().unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        let listener = UnixListener::bind(&path).unwrap();
        socket::listen(&listener, socket::Backlog::new(0).unwrap()).unwrap();
        let mut streams = Vec::new();
        let mut late = loop {
            let mut connect = attempt(Duration::from_secs(60));
            match connect.advance().unwrap() {
                Some(stream) => streams.push(stream),
                None => break connect,
            }
        };
        assert!(streams.iter().all(is_blocking));
        assert!(late.fd().is_none());
        assert!(late.until() <= Instant::now() + UNIX_PAUSE);
        let error = attempt(Duration::from_millis(15)).wait().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        let accepted = listener.accept().unwrap();
        late.wait().unwrap();
        drop(accepted);
    }
}
