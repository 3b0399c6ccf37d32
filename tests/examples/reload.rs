//! A server inside a program that changes its configuration and shows its counters while it runs.
//!
//!     cargo run --example reload [CLIENTS]
//!
//! `CLIENTS` is the address for clients. The program takes commands from its input, one a line: `site NAME DIRECTORY` adds a
//! site with the files of a directory, `status` shows counters. It ends with its input (Ctrl-D).

use std::env;
use std::error::Error;
use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::time::Duration;

use swiftiply::Server;
use swiftiply::config::{Config, SiteConfig};

fn main() -> Result<(), Box<dyn Error>> {
    let clients = env::args().nth(1);
    let clients = clients.as_deref().unwrap_or("127.0.0.1:8080").parse()?;
    run(clients, io::stdin().lock(), io::stdout())
}

pub(crate) fn run(
    clients: SocketAddr,
    input: impl BufRead,
    mut out: impl Write,
) -> Result<(), Box<dyn Error>> {
    let mut config = Config::default();
    config.listen = vec![clients.into()];
    let server = Server::start(config.clone())?;
    writeln!(out, "clients: {}", server.client_addresses()[0])?;
    for line in input.lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match *words {
            ["site", name, directory] => {
                let mut next = config.clone();
                next.sites.push(SiteConfig::files(name, directory));
                // All or nothing: if this fails, the server goes on with what it has. No connection is closed.
                match server.reload(next.clone()) {
                    Ok(()) => config = next,
                    Err(error) => writeln!(out, "nothing has changed: {error}")?,
                }
                writeln!(out, "sites: {}", config.sites.len())?;
            }
            ["status"] => {
                let stats = server.stats();
                writeln!(
                    out,
                    "connections: {} open, {} in all; responses: {}, {} of them 404",
                    server.open_connections(),
                    stats.accepted(),
                    stats.exchanges(),
                    stats.status(404),
                )?;
            }
            _ => writeln!(out, "site NAME DIRECTORY, or status")?,
        }
    }
    server.drain(Duration::from_secs(10));
    Ok(())
}
