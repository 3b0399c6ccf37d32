//! An application that dials in to a server and responds to requests.
//!
//!     cargo run --example application [SERVER [KEY]]
//!
//! `SERVER` is the address at which the server expects applications: that of the example `server`, for instance, whose key is
//! `secret`. The application ends with its input (Ctrl-D).

use std::env;
use std::error::Error;
use std::io::{self, Read};
use std::thread;

use swiftiply::client::{Client, Reply, Request};
use swiftiply::config::Address;

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = env::args().skip(1);
    let mut word = |default: &str| words.next().unwrap_or_else(|| default.to_owned());
    run(
        word("127.0.0.1:30000").parse()?,
        &word("secret"),
        io::stdin(),
    )
}

pub(crate) fn run(
    server: Address,
    key: &str,
    mut input: impl Read + Send + 'static,
) -> Result<(), Box<dyn Error>> {
    let client = Client::new(server).key(key)?.connections(4);
    let client = client.on_error(|error| eprintln!("{error}; dialling again"));
    let stopper = client.stopper();
    thread::spawn(move || {
        // An error ends it, too.
        let _ = io::copy(&mut input, &mut io::sink());
        stopper.finish();
    });
    client.serve(respond);
    Ok(())
}

/// Runs on four threads, one for each connection.
fn respond(request: &mut Request<'_>) -> Result<Reply, Box<dyn Error + Send + Sync>> {
    let reply = match (request.method(), request.path()) {
        ("GET" | "HEAD", "/") => Reply::text(200, "hello\n")?,
        ("GET" | "HEAD", "/count") => Reply::stream(200, "text/plain", |out| {
            for number in 1..=3 {
                writeln!(out, "{number}")?;
                // The client sees each number at once.
                out.flush()?;
            }
            Ok(())
        })?,
        ("POST", "/length") => {
            let length = io::copy(&mut request.body, &mut io::sink())?;
            Reply::text(200, &format!("{length} bytes\n"))?
        }
        _ => Reply::text(404, "There is nothing here.\n")?,
    };
    Ok(reply.field("Cache-Control", "no-store")?)
}
