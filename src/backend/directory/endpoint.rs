//! Where a server is: its addresses, connecting to one of them, and probing its health.
//!
//! Workers start connections here without blocking. The threads that look names up and check servers block.

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::tls::ServerTls;
use crate::backend::check::HealthProbe;
use crate::config::{self, Address, ServerConfig, ServerProtocol};
use crate::net::conn::Conn;
use crate::net::connect::{Connect, Targets};
use crate::net::fastcgi::FastCgiServer;
use crate::net::proxy_protocol;
use crate::net::stream::Stream;
use crate::process;

/// Where a server is.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) server: ServerConfig,
    /// The server as text.
    pub(super) name: Arc<str>,
    /// Set at the first connection, if the server speaks FastCGI.
    fastcgi: OnceLock<Arc<FastCgiServer>>,
    /// `None`: it does not speak TLS.
    tls: Option<ServerTls>,
    /// The addresses that the name stands for. The one reached last comes first.
    found: Mutex<Vec<SocketAddr>>,
}

impl Endpoint {
    /// A host name is not looked up yet. `tls`: for servers that speak it.
    pub(super) fn new(server: &ServerConfig, tls: Option<&ServerTls>) -> Self {
        let literal = match &server.at {
            Address::Tcp { host, port, .. } => host
                .parse::<IpAddr>()
                .map(|ip| vec![SocketAddr::new(ip, *port)])
                .unwrap_or_default(),
            Address::Unix(_) => Vec::new(),
        };
        Self {
            name: server.to_string().into(),
            tls: tls
                .filter(|_| server.protocol == ServerProtocol::Https)
                .cloned(),
            server: server.clone(),
            fastcgi: OnceLock::new(),
            found: Mutex::new(literal),
        }
    }

    /// Whether it can be connected to without a lookup.
    pub(super) fn is_known(&self) -> bool {
        matches!(self.server.at, Address::Unix(_)) || !self.found.lock().is_empty()
    }

    /// Looks the name up. Blocks.
    ///
    /// # Errors
    /// Those of the resolver, or that there is no address.
    pub(super) fn look_up(&self) -> io::Result<Vec<SocketAddr>> {
        let Address::Tcp { host, port, .. } = &self.server.at else {
            return Ok(Vec::new());
        };
        let found: Vec<_> = (host.as_str(), *port).to_socket_addrs()?.collect();
        match found.is_empty() {
            true => Err(io::Error::other("no address")),
            false => Ok(found),
        }
    }

    /// Replaces the addresses. Returns the old ones if they differ.
    pub(super) fn update(&self, found: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut known = self.found.lock();
        if known.len() == found.len() && found.iter().all(|address| known.contains(address)) {
            return Vec::new();
        }
        mem::replace(&mut *known, found.to_vec())
    }

    /// Starts to connect: to each address in order until one can be reached.
    pub(super) fn connect(&self, deadline: Instant) -> Connect {
        let targets = match &self.server.at {
            Address::Unix(path) => Targets::Path(path.clone()),
            Address::Tcp { .. } => Targets::Addresses(self.found.lock().clone()),
        };
        Connect::new(targets, deadline)
    }

    /// Whether it speaks FastCGI.
    pub(super) fn is_fastcgi(&self) -> bool {
        self.server.protocol == ServerProtocol::FastCgi
    }

    /// What its connections have in common, if it speaks FastCGI. `log` and `site`: how the log names its site.
    pub(super) fn fastcgi(&self, log: &str, site: &str) -> Option<&Arc<FastCgiServer>> {
        let new = || Arc::new(FastCgiServer::new(log, site, &self.name));
        self.is_fastcgi().then(|| self.fastcgi.get_or_init(new))
    }

    /// Begins to speak HTTP with the server that was connected to. With TLS, what we say first is sent, and a handshake
    /// follows.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn begin(&self, stream: Stream) -> io::Result<Conn> {
        let Some(tls) = &self.tls else {
            return Ok(Conn::plain(stream));
        };
        let mut conn = tls.dial(stream, &self.server)?;
        conn.flush_now()?;
        Ok(conn)
    }

    /// Remembers which address was reached.
    pub(super) fn reached(&self, connect: &Connect) {
        if let Some(address) = connect.address() {
            self.prefer(address);
        }
    }

    /// Moves an address to the front, so that it is tried first next time.
    fn prefer(&self, address: SocketAddr) {
        let mut found = self.found.lock();
        if let Some(position) = found.iter().position(|known| *known == address) {
            found.swap(0, position);
        }
    }
}

/// How the health of a server is probed.
#[derive(Debug)]
pub(super) struct CheckTerms {
    pub(super) check: config::CheckConfig,
    /// The Host of the request.
    pub(super) host: String,
    /// The PROXY header in front of it.
    pub(super) send_proxy: Option<config::ProxyVersion>,
}

/// Probes the health of a server: a response with a status below 400 in time is healthy.
///
/// # Errors
/// The fault, for the log.
pub(super) fn probe(endpoint: &Endpoint, terms: &CheckTerms) -> Result<(), String> {
    let CheckTerms {
        check,
        host,
        send_proxy,
    } = terms;
    let patience = check.interval.min(LONGEST_CHECK);
    let deadline = Instant::now() + patience;
    let mut connect = endpoint.connect(deadline);
    let connected = connect.wait().and_then(|stream| {
        endpoint.reached(&connect);
        let mut conn = endpoint.begin(stream)?;
        conn.shake_hands(deadline)?;
        Ok(conn)
    });
    let mut conn = connected.map_err(|error| process::reason(&error))?;
    let health_probe = HealthProbe {
        uri: &check.uri,
        host,
        agent: "swiftiply",
    };
    let mut header = Vec::new();
    if let Some(version) = send_proxy {
        proxy_protocol::write_local(*version, &mut header);
    }
    // An error recurs with the request.
    let _ = conn.write_both(&header, &[], patience);
    match health_probe.run(&mut conn, deadline) {
        Ok(..=399) => Ok(()),
        Ok(status) => Err(format!("a check is answered with {status}")),
        Err(error) => {
            let why = process::reason(&error);
            Err(format!("a check gets no valid response: {why}"))
        }
    }
}

/// The longest time a check waits for its response.
const LONGEST_CHECK: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn falls_back_to_the_next_address() {
        let gone = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = [&gone, &there].map(|listener| listener.local_addr().unwrap());
        drop(gone);
        let endpoint = Endpoint::new(&"two.invalid:80".parse().unwrap(), None);
        assert!(endpoint.update(&addresses).is_empty());
        let mut connect = endpoint.connect(Instant::now() + Duration::from_secs(10));
        connect.wait().unwrap();
        endpoint.reached(&connect);
        // The address that was reached comes first next time.
        assert_eq!(*endpoint.found.lock(), [addresses[1], addresses[0]]);
        // The same addresses in another order are no change.
        assert!(endpoint.update(&addresses).is_empty());
    }
}
