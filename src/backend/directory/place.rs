//! Where a server is: its addresses, how one of them is connected to, and whether it says that it is well.
//!
//! Called by workers, which connect, and by the threads that look names up and check servers.

use std::io::{self, ErrorKind};
use std::mem;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::config::{self, Address};
use crate::http::head::{HeadLimits, HeadScanner, ResponseHead};
use crate::net::buffer::Buffer;
use crate::net::conn::Conn;
use crate::net::listener;
use crate::net::stream::Stream;

/// Where a server is.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) address: Address,
    /// The address as text.
    pub(super) name: Arc<str>,
    /// What the name stands for. The one that was reached last is in front.
    found: Mutex<Vec<SocketAddr>>,
}

impl Place {
    /// A server with this address, whose name is not looked up yet.
    pub(super) fn new(address: &Address) -> Self {
        let literal = match address {
            Address::Tcp { host, port, .. } => host
                .parse::<IpAddr>()
                .map(|ip| vec![SocketAddr::new(ip, *port)])
                .unwrap_or_default(),
            Address::Unix(_) => Vec::new(),
        };
        Self {
            name: address.to_string().into(),
            address: address.clone(),
            found: Mutex::new(literal),
        }
    }

    /// Whether it can be connected to without a lookup.
    pub(super) fn is_known(&self) -> bool {
        matches!(self.address, Address::Unix(_)) || !self.found.lock().is_empty()
    }

    /// Asks the system, which may take its time.
    pub(super) fn look_up(&self) -> io::Result<Vec<SocketAddr>> {
        let Address::Tcp { host, port, .. } = &self.address else {
            return Ok(Vec::new());
        };
        let found: Vec<_> = (host.as_str(), *port).to_socket_addrs()?.collect();
        match found.is_empty() {
            true => Err(io::Error::other("no address")),
            false => Ok(found),
        }
    }

    /// Takes addresses over. Returns those from before if they were others.
    pub(super) fn set(&self, found: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut known = self.found.lock();
        if known.len() == found.len() && found.iter().all(|address| known.contains(address)) {
            return Vec::new();
        }
        mem::replace(&mut *known, found.to_vec())
    }

    /// Connects, to each address in turn if one cannot be reached, within `patience` in all.
    pub(super) fn connect(&self, patience: Duration) -> io::Result<Stream> {
        if let Address::Unix(path) = &self.address {
            return Stream::connect_unix(path, patience);
        }
        let deadline = Instant::now() + patience;
        let addresses = self.found.lock().clone();
        let mut last = io::Error::from(ErrorKind::AddrNotAvailable);
        for (index, address) in addresses.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            // One that does not answer leaves time for the others.
            let share = left / u32::try_from(addresses.len() - index).unwrap_or(1);
            if share.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            match Stream::connect_to(*address, share) {
                Ok(stream) => {
                    if index > 0 {
                        self.prefer(*address);
                    }
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn prefer(&self, address: SocketAddr) {
        let mut found = self.found.lock();
        if let Some(position) = found.iter().position(|known| *known == address) {
            found.swap(0, position);
        }
    }
}

/// Asks a server whether it is well: whether it answers with a status below 400.
pub(super) fn ask(place: &Place, check: &config::Check, host: &str) -> Result<(), String> {
    let deadline = Instant::now() + check.interval.min(LONGEST_CHECK);
    let left = || deadline.saturating_duration_since(Instant::now());
    let cannot = |error: io::Error| listener::reason(&error);
    let mut conn = Conn::plain(place.connect(left()).map_err(cannot)?);
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: swiftiply\r\nConnection: close\r\n\r\n",
        check.uri
    );
    conn.write_both(request.as_bytes(), &[], left())
        .map_err(cannot)?;
    let limits = HeadLimits::default();
    let mut scanner = HeadScanner::response();
    let mut reply = Buffer::new();
    loop {
        let bad = |why: &str| format!("a check gets no valid answer: {why}");
        let end = match reply.is_empty() {
            true => None,
            false => scanner
                .scan(reply.data(), &limits)
                .map_err(|refusal| bad(refusal.why))?,
        };
        if let Some(end) = end {
            let head =
                ResponseHead::parse(&reply.data()[..end], &limits).map_err(|why| bad(why.0))?;
            reply.consume(end);
            match head.status {
                100..=199 => scanner = HeadScanner::response(),
                200..=399 => return Ok(()),
                status => return Err(format!("a check is answered with {status}")),
            }
            continue;
        }
        conn.set_read_timeout(left().max(SHORTEST_WAIT))
            .map_err(cannot)?;
        match reply.fill(&mut conn) {
            Ok(0) => return Err(bad("the connection was closed")),
            Ok(_) if left().is_zero() => return Err(bad("it takes too long")),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                return Err(bad("it takes too long"));
            }
            Err(error) => return Err(cannot(error)),
        }
    }
}

/// No check waits longer for its answer.
const LONGEST_CHECK: Duration = Duration::from_secs(5);
/// The read timeout of a socket cannot be zero.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn an_address_that_is_not_reached_leaves_it_to_the_next() {
        let gone = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = [&gone, &there].map(|listener| listener.local_addr().unwrap());
        drop(gone);
        let place = Place::new(&"two.invalid:80".parse().unwrap());
        assert!(place.set(&addresses).is_empty());
        place.connect(Duration::from_secs(10)).unwrap();
        // The one that was reached comes first the next time.
        assert_eq!(*place.found.lock(), [addresses[1], addresses[0]]);
        // In another order they are the same.
        assert!(place.set(&addresses).is_empty());
    }
}
