//! One site behind the proxy whose application a test scripts: the same for each way to an application.

use std::thread;
use std::time::{Duration, Instant};

use super::{Access, Backend, Echo, Proxy, SOON, Server, backend::Seen};

/// How requests reach the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    DialIn,
    Traditional,
    Access,
}

/// A proxy with the site `test`, which has so many connections to its application, and the site `other`.
pub(crate) struct Setup {
    pub(crate) proxy: Proxy,
    server: Server,
    access: Option<Access>,
    dialled: Vec<Backend>,
}

impl Setup {
    /// Starts all with further lines of configuration.
    pub(crate) fn start(way: Way, connections: usize, lines: &str) -> Self {
        Self::start_with(way, connections, "", lines)
    }

    /// The same with further keys of the site.
    pub(crate) fn start_with(way: Way, connections: usize, keys: &str, lines: &str) -> Self {
        let server = Server::start();
        let application = match way {
            Way::DialIn | Way::Access => "outgoing: '127.0.0.1:0'".to_owned(),
            Way::Traditional => format!(
                "proxy: traditional, servers: '{}', server_connections: {connections}",
                server.address()
            ),
        };
        let proxy = Proxy::start(&format!(
            "{lines}\nmap:\n\
             - {{incoming: test, default: true, timeout: 60, {application}{keys}}}\n\
             - {{incoming: other, timeout: 60, outgoing: '127.0.0.2:0'}}"
        ));
        let mut setup = Self {
            proxy,
            server,
            access: None,
            dialled: Vec::new(),
        };
        match way {
            Way::DialIn => {
                let dial = |_| Backend::dial(setup.proxy.dial_in());
                setup.dialled = (0..connections).map(dial).collect();
            }
            Way::Traditional => return setup,
            Way::Access => {
                let (proxy, server) = (setup.proxy.dial_in(), setup.server.address());
                setup.access = Some(Access::between(proxy, server, connections));
            }
        }
        setup.proxy.wait_for_logs(" joined ", connections);
        setup
    }

    /// Connections with a request, which is still unread.
    pub(crate) fn asked(&mut self, count: usize) -> Vec<Backend> {
        let asked = (0..count).map(|n| {
            let backend = self.dialled.pop().unwrap_or_else(|| self.accept(n));
            backend.wait_at_most(SOON);
            let peeked = backend.socket().peek(&mut [0]);
            assert!(
                matches!(peeked, Ok(1)),
                "waiting for {count} requests: {n} arrived, then {peeked:?}"
            );
            backend
        });
        asked.collect()
    }

    /// The next connection that brings a request; probes bring none.
    fn accept(&self, before: usize) -> Backend {
        let deadline = Instant::now() + SOON;
        while Instant::now() < deadline {
            let Some(backend) = self.server.accept_now() else {
                thread::sleep(Duration::from_millis(1));
                continue;
            };
            backend.wait_at_most(SOON);
            if matches!(backend.socket().peek(&mut [0]), Ok(1)) {
                return backend;
            }
        }
        let seconds = SOON.as_secs();
        panic!(
            "timed out after {seconds} s waiting for a request; only {before} connections brought one"
        );
    }

    /// Connections with their requests.
    pub(crate) fn requests(&mut self, count: usize) -> Vec<(Backend, Seen)> {
        let read = |mut backend: Backend| {
            let seen = backend.request();
            (backend, seen)
        };
        self.asked(count).into_iter().map(read).collect()
    }

    /// An application for the other site.
    pub(crate) fn other(&self) -> Echo {
        let address = self.proxy.dial_ins().last().unwrap();
        Echo::dial(*address, "0000000other", "")
    }

    /// Ends a test whose clients and connections are gone.
    pub(crate) fn finish(self) {
        drop(self.dialled);
        if let Some(access) = self.access {
            access.finish();
        }
        drop(self.server);
        self.proxy.finish();
    }
}
