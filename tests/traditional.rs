//! Servers that do not dial in but are connected to.

mod balancing;
mod connections;
mod failures;
mod operation;
#[cfg(feature = "tls")]
mod tls;

use crate::common::{Proxy, Server};

/// A site that takes everything and has these servers.
fn site(servers: &[&str], more: &str) -> String {
    let servers: Vec<_> = servers.iter().map(|server| format!("'{server}'")).collect();
    let servers = servers.join(", ");
    format!(
        "map: [{{incoming: test, default: true, proxy: traditional, servers: [{servers}], timeout: 60{more}}}]"
    )
}

/// A server, and a proxy that has no other.
fn one(more: &str) -> (Server, Proxy) {
    let server = Server::start();
    let proxy = Proxy::start(&site(&[&server.address().to_string()], more));
    (server, proxy)
}

fn post(target: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody")
}
