//! Listening sockets, and the loop that accepts connections.
//!
//! Each listener has an acceptor thread that runs [`Listener::accept_loop`]: it accepts connections and hands them
//! over, and never reads or writes them. It waits in `poll(2)` for a connection or for [`Stop`].
//!
//! **Invariants**: errors of one connection never end the loop; when descriptors or memory run out, the loop pauses, 5
//! ms at first and up to a second, and continues.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fmt, fs};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{
    self, AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, UnixAddr, setsockopt,
    sockopt,
};

use parking_lot::Mutex;

use super::stream::{Peer, Stream};
use crate::config::Address;
use crate::process::reason;

/// A socket that accepts connections. Dropping it closes it and removes its file, if it has one.
#[derive(Debug)]
pub struct Listener {
    socket: ListenerSocket,
    local: LocalAddress,
    /// Device and inode of the file of a Unix socket.
    file: Option<(u64, u64)>,
    /// Another process listens on the socket too, so the file must stay.
    is_handed_over: AtomicBool,
    /// The socket is one of the service manager, and so is the file.
    is_activated: bool,
}

/// Listening sockets, each with its address as configured.
#[derive(Debug, Default)]
pub struct Sockets(Mutex<Vec<InheritedSocket>>);

#[derive(Debug)]
struct InheritedSocket {
    address: String,
    /// `None`: the socket of another address serves this one.
    socket: Option<OwnedFd>,
    is_activated: bool,
}

/// The actual address of a listener: includes the port if any free one was requested.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LocalAddress {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// The attributes of a Unix socket's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketFile {
    /// Permissions. Connecting needs write permission.
    pub mode: u32,
    /// The user id; `None`: ours.
    pub owner: Option<u32>,
    /// The group id; `None`: ours.
    pub group: Option<u32>,
}

/// Why an address could not be bound.
#[derive(Debug)]
pub struct BindError {
    address: Address,
    cause: io::Error,
}

/// Ends the loops that wait for it, from any thread.
#[derive(Clone, Debug)]
pub struct Stop(Arc<EventFd>);

#[derive(Debug)]
enum ListenerSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl fmt::Display for LocalAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(out),
            Self::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

impl BindError {
    /// Whether another socket has the address now.
    pub fn is_in_use(&self) -> bool {
        self.cause.kind() == ErrorKind::AddrInUse
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "listen {}: {}", self.address, reason(&self.cause))?;
        match (self.cause.kind(), &self.address) {
            (ErrorKind::PermissionDenied, Address::Tcp { port, .. }) if *port < 1024 => {
                out.write_str(" (ports below 1024 need root or CAP_NET_BIND_SERVICE)")
            }
            (ErrorKind::AddrInUse, _) => out.write_str(" (another process is listening there)"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

/// Open to all users, like a TCP port; the directory can restrict access.
impl Default for SocketFile {
    fn default() -> Self {
        Self {
            mode: 0o666,
            owner: None,
            group: None,
        }
    }
}

impl SocketFile {
    /// Applies the attributes to a file.
    ///
    /// # Errors
    /// Those of `chown(2)` and `chmod(2)`.
    pub fn apply(&self, path: &Path) -> io::Result<()> {
        if self.owner.is_some() || self.group.is_some() {
            std::os::unix::fs::chown(path, self.owner, self.group)?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(self.mode))
    }
}

impl Sockets {
    /// Adds a socket of the process that this one replaces.
    pub fn add(&self, address: String, socket: OwnedFd) {
        self.0.lock().push(InheritedSocket {
            address,
            socket: Some(socket),
            is_activated: false,
        });
    }

    /// Adds a socket of the service manager. `None`: one that was added for another address serves this one, too.
    pub(super) fn add_activated(&self, address: String, socket: Option<OwnedFd>) {
        self.0.lock().push(InheritedSocket {
            address,
            socket,
            is_activated: true,
        });
    }

    /// Whether there is one for an address.
    pub(super) fn has(&self, address: &Address) -> bool {
        let name = address.to_string();
        self.0.lock().iter().any(|one| one.address == name)
    }

    /// Takes out all sockets of an address.
    fn take(&self, address: &Address) -> Vec<InheritedSocket> {
        let name = address.to_string();
        let mut all = self.0.lock();
        all.extract_if(.., |one| one.address == name).collect()
    }
}

impl Listener {
    /// Binds an address: one listener for each address of a host name; none for an implied address if the system lacks
    /// its family.
    ///
    /// # Errors
    /// The address and the system's error.
    pub fn bind(address: &Address) -> Result<Vec<Self>, BindError> {
        Self::bind_with(address, &SocketFile::default(), &Sockets::default())
    }

    /// Binds an address; the file of a Unix socket gets these attributes. Uses the sockets that were inherited for this
    /// address, if any, instead of new ones.
    ///
    /// # Errors
    /// Those of [`Listener::bind`].
    pub fn bind_with(
        address: &Address,
        file: &SocketFile,
        inherited: &Sockets,
    ) -> Result<Vec<Self>, BindError> {
        let fail = |cause| BindError {
            address: address.clone(),
            cause,
        };
        let sockets = inherited.take(address);
        if !sockets.is_empty() {
            let adopted = sockets.into_iter().filter_map(|inherited| {
                let adopted = Self::adopt(address, inherited.socket?, inherited.is_activated);
                Some(adopted)
            });
            return adopted.collect::<io::Result<_>>().map_err(fail);
        }
        match address {
            Address::Unix(path) => Ok(vec![Self::bind_unix(path, file).map_err(fail)?]),
            Address::Tcp {
                host,
                port,
                implied,
            } => {
                let found = (host.as_str(), *port).to_socket_addrs().map_err(fail)?;
                // A resolver may list an address twice, once for each socket type.
                let mut addresses: Vec<_> = found.collect();
                addresses.sort_unstable();
                addresses.dedup();
                let mut listeners = Vec::new();
                for address in addresses {
                    match Self::bind_tcp(address) {
                        Ok(listener) => listeners.push(listener),
                        Err(error) if *implied && is_unknown_family(&error) => {}
                        Err(error) => return Err(fail(error)),
                    }
                }
                Ok(listeners)
            }
        }
    }

    /// A socket that listens at this address already. Its file stays until [`Listener::take_over`].
    fn adopt(address: &Address, socket: OwnedFd, is_activated: bool) -> io::Result<Self> {
        let (socket, local, file) = match address {
            Address::Tcp { .. } => {
                let listener = TcpListener::from(socket);
                let local = LocalAddress::Tcp(listener.local_addr()?);
                (ListenerSocket::Tcp(listener), local, None)
            }
            Address::Unix(path) => (
                ListenerSocket::Unix(UnixListener::from(socket)),
                LocalAddress::Unix(path.clone()),
                identity(path),
            ),
        };
        Ok(Self {
            socket,
            local,
            file,
            is_handed_over: AtomicBool::new(true),
            is_activated,
        })
    }

    fn bind_tcp(address: SocketAddr) -> io::Result<Self> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket::socket(family, SockType::Stream, flags, None)?;
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        if address.is_ipv6() {
            // Let `0.0.0.0` and `::` use the same port.
            setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
        }
        socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
        socket::listen(&socket, BACKLOG)?;
        let listener = TcpListener::from(socket);
        let local = LocalAddress::Tcp(listener.local_addr()?);
        Ok(Self {
            socket: ListenerSocket::Tcp(listener),
            local,
            file: None,
            is_handed_over: AtomicBool::new(false),
            is_activated: false,
        })
    }

    fn bind_unix(path: &Path, file: &SocketFile) -> io::Result<Self> {
        remove_stale(path)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        socket::bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        let listener = Self {
            socket: ListenerSocket::Unix(UnixListener::from(socket)),
            local: LocalAddress::Unix(path.to_owned()),
            file: identity(path),
            is_handed_over: AtomicBool::new(false),
            is_activated: false,
        };
        // Before listening, so that connections only see the final attributes.
        file.apply(path)?;
        socket::listen(&listener, BACKLOG)?;
        Ok(listener)
    }

    /// The actual address.
    pub const fn local(&self) -> &LocalAddress {
        &self.local
    }

    /// Whether the socket is one of the service manager.
    pub const fn is_activated(&self) -> bool {
        self.is_activated
    }

    /// Leaves the file of a Unix socket in place when this listener is dropped, since another process uses the socket now.
    pub fn hand_over(&self) {
        self.is_handed_over.store(true, Ordering::Relaxed);
    }

    /// The process that listened on the same socket has handed it over: the end of this listener removes its file.
    pub fn take_over(&self) {
        self.is_handed_over.store(false, Ordering::Relaxed);
    }

    /// Accepts a connection without waiting. `None`: there is none.
    ///
    /// # Errors
    /// Only if descriptors or memory have run out: the caller should pause before it tries again.
    pub fn accept_now(&self) -> io::Result<Option<(Stream, Peer)>> {
        loop {
            let accepted = match &self.socket {
                ListenerSocket::Tcp(listener) => listener
                    .accept()
                    .map(|(stream, address)| (OwnedFd::from(stream), Peer::Tcp(address))),
                ListenerSocket::Unix(listener) => listener
                    .accept()
                    .map(|(stream, _)| (OwnedFd::from(stream), Peer::Unix)),
            };
            match accepted {
                Ok((socket, peer)) => return Ok(Some((Stream::from(socket), peer))),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if is_shortage(&error) => return Err(error),
                // This connection has failed before it was accepted; try the next one.
                Err(_) => {}
            }
        }
    }

    /// Accepts connections until it is stopped. Runs on the acceptor thread.
    pub fn accept_loop(&self, stop: &Stop, mut accepted: impl FnMut(Stream, Peer)) {
        let mut rest = FIRST_REST;
        let mut in_a_row = 0;
        loop {
            let stopped = match self.accept_now() {
                Ok(Some((stream, peer))) => {
                    rest = FIRST_REST;
                    in_a_row += 1;
                    accepted(stream, peer);
                    in_a_row % MOST_AT_ONCE == 0 && wait(&[], stop, PollTimeout::ZERO)
                }
                Ok(None) => wait(&[self.as_fd()], stop, PollTimeout::NONE),
                Err(error) => {
                    log::warn!("accept {}: {}; pausing", self.local, reason(&error));
                    let patience = PollTimeout::try_from(rest).unwrap_or(PollTimeout::MAX);
                    rest = (rest * 2).min(LONGEST_REST);
                    wait(&[], stop, patience)
                }
            };
            if stopped {
                return;
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            ListenerSocket::Tcp(listener) => listener.as_fd(),
            ListenerSocket::Unix(listener) => listener.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let LocalAddress::Unix(path) = &self.local
            && !self.is_activated
            && !self.is_handed_over.load(Ordering::Relaxed)
            && identity(path) == self.file
        {
            // If it was removed already, nothing is lost; if it was replaced, it belongs to another process.
            let _ = fs::remove_file(path);
        }
    }
}

impl Stop {
    /// A stop that is not requested yet.
    ///
    /// # Errors
    /// Those of `eventfd(2)`.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(Arc::new(EventFd::from_flags(flags)?)))
    }

    /// Ends all current and future loops that wait for this.
    pub fn stop(&self) {
        // The counter is never read, so that all waiters see it; writing fails only after 2^64 calls.
        let _ = self.0.write(1);
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether the machine has run out of a resource, so that trying again immediately would spin.
pub fn is_shortage(error: &io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(
        error.raw_os_error(),
        Some(EMFILE | ENFILE | ENOBUFS | ENOMEM)
    )
}

fn is_unknown_family(error: &io::Error) -> bool {
    use nix::libc::{EADDRNOTAVAIL, EAFNOSUPPORT};
    matches!(error.raw_os_error(), Some(EAFNOSUPPORT | EADDRNOTAVAIL))
}

/// Waits for one of the descriptors or the stop; returns whether it is stopped.
fn wait(descriptors: &[BorrowedFd<'_>], stop: &Stop, patience: PollTimeout) -> bool {
    let mut polled = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    polled.extend(
        descriptors
            .iter()
            .map(|descriptor| PollFd::new(*descriptor, PollFlags::POLLIN)),
    );
    // After an error, such as an interruption, the caller finds nothing to accept and waits again.
    let _ = poll(&mut polled, patience);
    polled[0].any().unwrap_or(false)
}

/// The identity of a file, independent of its name.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let file = fs::symlink_metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

/// Removes the file of a Unix socket if no process listens on it any more.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(file) if !file.file_type().is_socket() => Err(io::Error::new(
            ErrorKind::AlreadyExists,
            "a file that is not a socket is at this path",
        )),
        Ok(_) => match Stream::connect_unix(path, MOMENT) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
            // This includes a socket whose queue is full.
            _ => Err(ErrorKind::AddrInUse.into()),
        },
    }
}

const BACKLOG: Backlog = Backlog::MAXCONN;
/// Most connections that are accepted without checking the stop.
const MOST_AT_ONCE: usize = 64;
/// How long to try whether a process listens on a Unix socket.
const MOMENT: Duration = Duration::from_millis(100);
const FIRST_REST: Duration = Duration::from_millis(5);
const LONGEST_REST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp {
            host: host.to_owned(),
            port,
            implied: false,
        }
    }

    #[test]
    fn accepts_until_stopped() {
        let listener = Listener::bind(&tcp("127.0.0.1", 0)).unwrap().remove(0);
        let LocalAddress::Tcp(address) = *listener.local() else {
            panic!("not a TCP address");
        };
        assert_ne!(address.port(), 0);
        let stop = Stop::new().unwrap();
        let stopper = stop.clone();
        let client = std::net::TcpStream::connect(address).unwrap();
        let mut peers = Vec::new();
        listener.accept_loop(&stop, |_, peer| {
            peers.push(peer);
            stopper.stop();
        });
        assert_eq!(peers, [Peer::Tcp(client.local_addr().unwrap())]);
    }

    #[test]
    fn is_stopped_however_many_come() {
        let listener = Listener::bind(&tcp("127.0.0.1", 0)).unwrap().remove(0);
        let LocalAddress::Tcp(address) = *listener.local() else {
            panic!("not a TCP address");
        };
        let stop = Stop::new().unwrap();
        let mut count = 0;
        let mut next = Some(std::net::TcpStream::connect(address).unwrap());
        listener.accept_loop(&stop, |_, _| {
            // There is always one more.
            next = Some(std::net::TcpStream::connect(address).unwrap());
            stop.stop();
            count += 1;
            assert!(count < 10_000, "it is never stopped");
        });
        drop(next);
        assert_eq!(count, MOST_AT_ONCE);
    }

    #[test]
    fn says_which_address_is_taken() {
        let first = Listener::bind(&tcp("127.0.0.1", 0)).unwrap().remove(0);
        let LocalAddress::Tcp(address) = *first.local() else {
            panic!("not a TCP address");
        };
        let error = Listener::bind(&tcp("127.0.0.1", address.port())).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "listen {address}: address already in use (another process is listening there)"
            )
        );
    }

    #[test]
    fn stale_unix_socket_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let listener = Listener::bind(&Address::Unix(path.clone())).unwrap();
        assert!(Listener::bind(&Address::Unix(path.clone())).is_err());
        // Another file is at this path now, and is kept.
        fs::rename(&path, directory.path().join("old")).unwrap();
        let other = Listener::bind(&Address::Unix(path.clone())).unwrap();
        drop(listener);
        assert!(path.exists());
        drop(other);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert!(Listener::bind(&Address::Unix(path.clone())).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
