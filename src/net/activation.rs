//! Listening sockets that this process has not opened itself: those of the process that it replaces, and those of the service
//! manager (socket activation: systemd.socket(5), sd_listen_fds(3)).
//!
//! A socket of the service manager serves the configured address at which it listens. If there is no such address, its name
//! counts: one called `clients`, `backends` or `status` serves the first address of that kind that has none.
//!
//! The service manager keeps its sockets open, so no other process can bind their addresses. That is why this process keeps them
//! as well, whether it uses them or not: a reload may need them, and the process that replaces this one gets them.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use parking_lot::Mutex;

use super::listener::{LocalAddress, Sockets};
use crate::config::Address;
use crate::process::reason;

/// Listening sockets for a server that is about to start.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Sockets for clients of the process that this one replaces. Those that are not taken are closed.
    pub clients: Sockets,
    /// Its sockets at which backends dial in.
    pub backends: Sockets,
    /// Its sockets of the status address.
    pub status: Sockets,
    /// Sockets of the service manager.
    pub activated: Arc<ActivatedSockets>,
}

/// Sockets of the service manager.
#[derive(Debug, Default)]
pub struct ActivatedSockets {
    sockets: Vec<ActivatedSocket>,
    /// The address that each of them serves, by its index.
    served: Mutex<HashMap<usize, Address>>,
}

#[derive(Debug)]
struct ActivatedSocket {
    name: String,
    socket: OwnedFd,
    local: LocalAddress,
    /// It is bound to all addresses of IPv6, and accepts IPv4 as well.
    is_dual: bool,
}

impl ActivatedSockets {
    /// Sockets with their names. Reports those that cannot be used.
    pub fn new(sockets: Vec<(String, OwnedFd)>) -> Self {
        let mut usable = Vec::new();
        for (name, socket) in sockets {
            match ActivatedSocket::new(name.clone(), socket) {
                Ok(socket) => usable.push(socket),
                Err(error) => {
                    log::warn!("socket activation: {name}: {}; not used", reason(&error));
                }
            }
        }
        Self {
            sockets: usable,
            served: Mutex::default(),
        }
    }

    /// All sockets with their names, for a process that replaces this one.
    pub fn all(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        let all = self.sockets.iter();
        all.map(|socket| (socket.name.as_str(), socket.socket.as_fd()))
    }

    /// Offers each socket for the address that it serves, as if it were inherited. `kinds`: all configured addresses by kind,
    /// and where to offer sockets for them.
    ///
    /// # Errors
    /// Those of `fcntl(2)`.
    pub fn offer(&self, kinds: &[(&str, &[Address], &Sockets)]) -> io::Result<()> {
        let mut served = self.served.lock();
        served.retain(|_, address| kinds.iter().any(|(_, all, _)| all.contains(address)));
        for (_, addresses, sockets) in kinds {
            for address in *addresses {
                for (index, socket) in self.sockets.iter().enumerate() {
                    if !socket.listens_at(address) {
                        continue;
                    }
                    let other = served.entry(index).or_insert_with(|| address.clone());
                    // Where one socket is for IPv4 and IPv6, the second address needs none.
                    let own = (other == address).then(|| socket.socket.try_clone());
                    sockets.add_activated(address.to_string(), own.transpose()?);
                }
            }
        }
        for (kind, addresses, sockets) in kinds {
            let mut named = self
                .sockets
                .iter()
                .enumerate()
                .filter(|(index, socket)| socket.name == *kind && !served.contains_key(index));
            let mut assigned = Vec::new();
            for address in *addresses {
                if sockets.has(address) || served.values().any(|other| other == address) {
                    continue;
                }
                let Some((index, socket)) = named.next() else {
                    break;
                };
                sockets.add_activated(address.to_string(), Some(socket.socket.try_clone()?));
                assigned.push((index, address.clone()));
            }
            drop(named);
            served.extend(assigned);
        }
        Ok(())
    }

    /// Reports the sockets that serve no address.
    pub fn report_unused(&self) {
        let served = self.served.lock();
        for (index, ActivatedSocket { name, local, .. }) in self.sockets.iter().enumerate() {
            if !served.contains_key(&index) {
                log::warn!(
                    "socket activation: {name} listens at {local}, which is not configured; not used"
                );
            }
        }
    }
}

impl ActivatedSocket {
    fn new(name: String, socket: OwnedFd) -> io::Result<Self> {
        let is_stream = getsockopt(&socket, sockopt::SockType)? == SockType::Stream;
        if !is_stream || !getsockopt(&socket, sockopt::AcceptConn)? {
            return Err(io::Error::other("not a listening stream socket"));
        }
        // O_NONBLOCK is the only flag of a socket that F_SETFL changes.
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let local = match TcpListener::from(socket.try_clone()?).local_addr() {
            Ok(address) => LocalAddress::Tcp(address),
            Err(_) => {
                let address = UnixListener::from(socket.try_clone()?).local_addr()?;
                let path = address.as_pathname();
                let path = path.ok_or_else(|| io::Error::other("a Unix socket without a path"))?;
                LocalAddress::Unix(path.to_owned())
            }
        };
        let is_dual = match &local {
            LocalAddress::Tcp(SocketAddr::V6(address)) => {
                *address.ip() == Ipv6Addr::UNSPECIFIED && !getsockopt(&socket, sockopt::Ipv6V6Only)?
            }
            _ => false,
        };
        Ok(Self {
            name,
            socket,
            local,
            is_dual,
        })
    }

    fn listens_at(&self, address: &Address) -> bool {
        match (&self.local, address) {
            (LocalAddress::Unix(own), Address::Unix(path)) => own == path,
            (LocalAddress::Tcp(own), Address::Tcp { host, port, .. }) if own.port() == *port => {
                let found = (host.as_str(), *port).to_socket_addrs();
                found.is_ok_and(|mut all| {
                    all.any(|one| one == *own || self.is_dual && one.ip().is_unspecified())
                })
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::listener::{Listener, SocketFile};

    fn tcp(address: SocketAddr) -> Address {
        address.to_string().parse().unwrap()
    }

    /// Binds an address with what was offered, and says how many listeners that are.
    fn bind(address: &Address, sockets: &Sockets) -> usize {
        let listeners = Listener::bind_with(address, &SocketFile::default(), sockets);
        listeners.unwrap().len()
    }

    #[test]
    fn by_address_and_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.sock");
        let one = TcpListener::bind("127.0.0.1:0").unwrap();
        let [named, more] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let unix = UnixListener::bind(&path).unwrap();
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let local = one.local_addr().unwrap();
        let name = |name: &str| name.to_owned();
        let activated = ActivatedSockets::new(vec![
            (name("x"), one.into()),
            (name("clients"), named.into()),
            (name("clients"), more.into()),
            (name("backends"), unix.into()),
            (name("none"), OwnedFd::from(socket)),
        ]);
        assert_eq!(activated.all().count(), 4);
        let clients = [tcp(local), tcp("127.0.0.2:1".parse().unwrap())];
        let backends = [Address::Unix(path.clone())];
        for _ in 0..2 {
            let (for_clients, for_backends) = (Sockets::default(), Sockets::default());
            activated
                .offer(&[
                    ("clients", &clients, &for_clients),
                    ("backends", &backends, &for_backends),
                ])
                .unwrap();
            // The system would refuse the first one, and nothing is bound at the second one.
            assert_eq!(bind(&clients[0], &for_clients), 1);
            assert_eq!(bind(&backends[0], &for_backends), 1);
            assert!(path.exists(), "the file is not ours");
        }
        assert_eq!(activated.served.lock().len(), 3);
    }

    #[test]
    fn one_for_both_families() {
        // Where the system has no IPv6 there is nothing to test.
        let Ok(both) = TcpListener::bind("[::]:0") else {
            return;
        };
        let port = both.local_addr().unwrap().port();
        let activated = ActivatedSockets::new(vec![("web".to_owned(), both.into())]);
        if !activated.sockets[0].is_dual {
            return;
        }
        let clients = ["0.0.0.0", "::"].map(|host| Address::Tcp {
            host: host.to_owned(),
            port,
            implied: true,
        });
        let sockets = Sockets::default();
        activated.offer(&[("clients", &clients, &sockets)]).unwrap();
        let counts = clients.map(|address| bind(&address, &sockets));
        assert_eq!(counts, [1, 0]);
    }
}
