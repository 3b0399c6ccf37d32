//! A server inside a program, with a configuration made in code.
//!
//!     cargo run --example server [CLIENTS [APPLICATIONS [DIRECTORY]]]
//!
//! It serves the files of the directory at the address `CLIENTS`, and sends all other requests to applications that dial in at
//! the address `APPLICATIONS`, such as the example `application`. It ends with its input (Ctrl-D).

use std::env;
use std::error::Error;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use swiftiply::Server;
use swiftiply::config::{Config, SiteConfig};

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = env::args().skip(1);
    let mut word = |default: &str| words.next().unwrap_or_else(|| default.to_owned());
    let clients = word("127.0.0.1:8080").parse()?;
    let applications = word("127.0.0.1:30000").parse()?;
    let directory = word(".");
    run(clients, applications, &directory, io::stdin(), io::stdout())
}

pub(crate) fn run(
    clients: SocketAddr,
    applications: SocketAddr,
    directory: &str,
    mut input: impl Read,
    mut out: impl Write,
) -> Result<(), Box<dyn Error>> {
    // An empty name makes it the site for all requests.
    let mut site = SiteConfig::dial_in("", applications.into());
    site.keys = vec!["secret".to_owned()];
    site.docroot = Some(directory.into());
    site.timeout = Duration::from_secs(5);
    let mut config = Config::default();
    config.listen = vec![clients.into()];
    config.sites = vec![site];

    let server = Server::start(config)?;
    // The real ports, should they be 0 above.
    writeln!(out, "clients: {}", server.client_addresses()[0])?;
    writeln!(out, "applications: {}", server.backend_addresses()[0])?;
    io::copy(&mut input, &mut io::sink())?;
    // Responses that are under way get some time.
    server.drain(Duration::from_secs(10));
    Ok(())
}
