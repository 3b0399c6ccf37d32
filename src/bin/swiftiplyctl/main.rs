//! The `swiftiplyctl` program: sends a command to a running `swiftiply` and prints the response.
//!
//! [`commands`] is the table of commands; [`options`] reads the command line by it, [`completions`] and a part of the
//! manual are made from it. [`connection`] finds the server and talks to it, [`output`] prints what it says.
//!
//! One thread, one request for a connection.

mod commands;
mod completions;
mod connection;
mod failure;
mod manual;
mod options;
mod output;
#[path = "../program/command_line.rs"]
mod program;
mod request;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use commands::Action;
use connection::ControlAddress;
use failure::{Failure, NAME};
use options::{Invocation, Parsed};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.end(),
    }
}

fn run() -> Result<(), Failure> {
    let arguments = std::env::args_os().skip(1);
    match options::parse(arguments).map_err(Failure::Usage)? {
        Parsed::Help(command) => print(&options::usage(command)),
        Parsed::Version => print(&format!("Swiftiply v. {}\n", env!("CARGO_PKG_VERSION"))),
        Parsed::Command(invocation) => command(&invocation),
    }
}

fn command(invocation: &Invocation) -> Result<(), Failure> {
    if let Action::Completions = invocation.command.action {
        return print(completions::of(&invocation.arguments[0])?.as_str());
    }
    let server = ControlAddress::find(invocation)?;
    let request = invocation.request()?;
    let mut first = true;
    loop {
        let response = match server.ask(&request) {
            // A server that is being restarted comes back.
            Err(Failure::Connection(why)) if !first => {
                eprintln!("{NAME}: {why}");
                None
            }
            response => Some(response?),
        };
        if let Some(response) = response {
            let text = match invocation.json {
                true => response.text.clone(),
                false => output::render(invocation.command, &response)?,
            };
            let is_screen = invocation.watch.is_some() && io::stdout().is_terminal();
            // To the top left, and clear what was there.
            print(&format!(
                "{}{text}",
                if is_screen { "\x1b[H\x1b[J" } else { "" }
            ))?;
            // What was asked for does not work, although the command does.
            if let Some(failed @ 1..) = response.value["failed"].as_u64() {
                let why = format!("{failed} of the names would get no certificate");
                return Err(Failure::Refused(why));
            }
        }
        if let Some(longest) = invocation.wait {
            return wait(invocation, &server, longest);
        }
        let Some(interval) = invocation.watch else {
            return Ok(());
        };
        first = false;
        thread::sleep(interval);
    }
}

/// Waits until no request is in flight for what was paused or drained.
fn wait(
    invocation: &Invocation,
    server: &ControlAddress,
    longest: Duration,
) -> Result<(), Failure> {
    let name = &invocation.arguments[0];
    let request = invocation.in_flight_request();
    let since = Instant::now();
    loop {
        match server.ask(&request)?.value["requests"].as_u64() {
            Some(0) if invocation.json => return Ok(()),
            Some(0) => return print(&format!("{name} has no request in flight any more\n")),
            Some(left) if since.elapsed() >= longest => {
                let requests = if left == 1 { "request" } else { "requests" };
                return Err(Failure::Late(format!(
                    "{name} still has {left} {requests} in flight after {longest:?}"
                )));
            }
            Some(_) => thread::sleep(POLL),
            None => {
                let why = "the server's response is of another version";
                return Err(Failure::Connection(why.to_owned()));
            }
        }
    }
}

/// The pause between two looks at the requests in flight.
const POLL: Duration = Duration::from_millis(100);

/// Writes to standard output.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::Usage(format!(
            "standard output: {}",
            swiftiply::internals::process::reason(&error)
        ))),
        Ok(()) => Ok(()),
    }
}
