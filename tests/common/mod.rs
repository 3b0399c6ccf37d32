//! The real program with real sockets: a proxy to test, clients, and backends that a test scripts.
//!
//! Every wait for what must happen has the deadline [`PATIENCE`], so long that only a fault reaches it, however busy the
//! machine is. A wait for what must not happen is short: it ends as soon as the opposite is certain.

pub(crate) mod access;
pub(crate) mod backend;
pub(crate) mod load;
pub(crate) mod needs;
#[cfg(feature = "acme")]
pub(crate) mod pebble;
pub(crate) mod php;
pub(crate) mod program;
pub(crate) mod proxy;
pub(crate) mod python;
#[cfg(feature = "redis")]
pub(crate) mod redis;
pub(crate) mod secure;
pub(crate) mod setup;
pub(crate) mod visitor;

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, setsockopt,
    socket, sockopt,
};
use swiftiply::config::{Config, Overrides};
use swiftiply::internals::net::listener::LocalAddress;

pub(crate) use access::Access;
pub(crate) use backend::{Backend, Echo, EchoServer, Server};
pub(crate) use load::{Load, crowd};
pub(crate) use needs::needs;
pub(crate) use program::{Ended, Running, ended, limit};
pub(crate) use proxy::Proxy;
pub(crate) use setup::{Setup, Way};
pub(crate) use visitor::Visitor;

/// The longest wait of a test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A shorter deadline for tests with several waits, so that they end within a minute even if they fail.
pub(crate) const SOON: Duration = Duration::from_secs(25);

/// Waits until `condition` holds.
///
/// # Panics
/// If it does not within [`PATIENCE`].
#[track_caller]
pub(crate) fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_at_most(PATIENCE, what, condition);
}

/// Waits until `condition` holds.
///
/// # Panics
/// If it does not within `limit`.
#[track_caller]
pub(crate) fn wait_at_most(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        let seconds = start.elapsed().as_secs();
        assert!(
            start.elapsed() < limit,
            "timed out after {seconds} s waiting for {what}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Fails unless a text contains another one.
#[track_caller]
pub(crate) fn assert_contains(text: &str, part: &str) {
    assert!(text.contains(part), "{part:?} is not in:\n{text}");
}

/// Fails if a text contains another one.
#[track_caller]
pub(crate) fn assert_lacks(text: &str, part: &str) {
    assert!(!text.contains(part), "{part:?} is in:\n{text}");
}

/// Drains a server in this program.
#[track_caller]
pub(crate) fn drain(server: swiftiply::Server) {
    let seconds = PATIENCE.as_secs();
    assert!(
        server.drain(PATIENCE),
        "timed out after {seconds} s waiting for the end of a drain"
    );
}

/// A request and its response, from end to end.
#[track_caller]
pub(crate) fn exchange(visitor: &mut Visitor, backend: &mut Backend, target: &str) {
    visitor.send_get(target);
    assert_eq!(backend.request().target(), target);
    backend.reply_to(visitor, target);
}

/// A server in this program, with these lines.
pub(crate) fn embedded(lines: &str) -> swiftiply::Server {
    let yaml = format!("cluster_address: 127.0.0.1\ncluster_port: 0\n{lines}");
    let overrides = Overrides::default();
    let (config, _) = Config::from_yaml(&yaml, "test.yml".as_ref(), &overrides).unwrap();
    swiftiply::Server::start(config).unwrap()
}

/// The first of the addresses of such a server.
pub(crate) fn first(locals: &[LocalAddress]) -> SocketAddr {
    locals[0].to_string().parse().unwrap()
}

/// Bytes in which nothing repeats soon.
pub(crate) fn bytes(count: usize) -> Vec<u8> {
    let words =
        (0..count.div_ceil(8) as u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    let mut bytes: Vec<u8> = words.flatten().collect();
    bytes.truncate(count);
    bytes
}

/// A port on which no program listened a moment ago, for programs that may not set SO_REUSEADDR; for others see [`Port`].
pub(crate) fn free_port() -> u16 {
    Port::reserve().number()
}

/// A port of 127.0.0.1 for a program that has to know it before it starts. Until this is dropped the system gives it to no
/// other program, since a socket is bound to it; that socket does not listen, so a program that sets SO_REUSEADDR can.
pub(crate) struct Port {
    number: u16,
    _socket: OwnedFd,
}

impl Port {
    pub(crate) fn reserve() -> Self {
        let (family, kind) = (AddressFamily::Inet, SockType::Stream);
        let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
        setsockopt(&socket, sockopt::ReuseAddr, &true).unwrap();
        bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
        let bound: SockaddrIn = getsockname(socket.as_raw_fd()).unwrap();
        Self {
            number: bound.port(),
            _socket: socket,
        }
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

/// Waits until the files of a directory, and those in the directories below it, have not been touched for so long that a
/// server may remember them.
pub(crate) fn settle(directory: &Path) {
    wait_until("files at rest", || {
        let mut all = fs::read_dir(directory).unwrap();
        all.all(|file| {
            let file = file.unwrap();
            if file.file_type().unwrap().is_dir() {
                settle(&file.path());
            }
            let changed = Duration::from_secs(file.metadata().unwrap().ctime().unsigned_abs());
            let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + changed);
            age.is_ok_and(|age| age > Duration::from_secs(3))
        })
    });
}

/// Reads from a socket until `enough` holds for what came. `false`: the peer ended the connection before that.
///
/// # Panics
/// If the socket has a time-out and it passes while this waits for `what`.
#[track_caller]
pub(crate) fn read_until(
    stream: &mut impl std::io::Read,
    bytes: &mut Vec<u8>,
    what: &str,
    enough: impl Fn(&[u8]) -> bool,
) -> bool {
    let mut block = [0; 65536];
    let mut last = Instant::now();
    while !enough(bytes) {
        match stream.read(&mut block) {
            Ok(0) => return false,
            Ok(count) => bytes.extend_from_slice(&block[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // TLS reports the latter for an end without close_notify.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof
                ) =>
            {
                return false;
            }
            Err(error) => {
                let got = String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]);
                let seconds = last.elapsed().as_secs();
                match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                        panic!("timed out after {seconds} s waiting for {what}; got {got:?}")
                    }
                    _ => panic!("{error} while waiting for {what}; got {got:?}"),
                }
            }
        }
        last = Instant::now();
    }
    true
}

/// Where the head ends: behind the empty line.
pub(crate) fn head_end(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some(end + 4)
}

/// The value of a field of a head.
pub(crate) fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then_some(value)
    })
}

/// Makes the following close send a reset.
pub(crate) fn reset_on_close(stream: &TcpStream) {
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(stream, sockopt::Linger, &linger).unwrap();
}

/// An address where connection attempts get no reply as long as the sockets live: a listener whose queue is full.
pub(crate) fn full_listener() -> (SocketAddr, Vec<OwnedFd>) {
    let kind = (AddressFamily::Inet, SockType::Stream);
    let full = socket(kind.0, kind.1, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(full.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    listen(&full, Backlog::new(0).unwrap()).unwrap();
    let port = getsockname::<SockaddrIn>(full.as_raw_fd()).unwrap().port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut queue = vec![full];
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        queue.push(stream.into());
    }
    (address, queue)
}
