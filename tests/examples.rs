//! The examples for the library, run as they are.

#[allow(dead_code, reason = "`main` is for the program")]
#[path = "examples/application.rs"]
mod application;
#[allow(dead_code, reason = "`main` is for the program")]
#[path = "examples/reload.rs"]
mod reload;
#[allow(dead_code, reason = "`main` is for the program")]
#[path = "examples/server.rs"]
mod server;

use std::fs;
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};

use crate::common::Visitor;

const ANY: &str = "127.0.0.1:0";

/// An example on a thread of its own, with what it prints and what it reads.
struct Example {
    input: PipeWriter,
    output: BufReader<PipeReader>,
    thread: JoinHandle<()>,
}

impl Example {
    fn start(run: impl FnOnce(PipeReader, PipeWriter) + Send + 'static) -> Self {
        let (its_input, input) = io::pipe().unwrap();
        let (output, its_output) = io::pipe().unwrap();
        Self {
            input,
            output: BufReader::new(output),
            thread: thread::spawn(move || run(its_input, its_output)),
        }
    }

    /// The next line, behind this beginning.
    fn line(&mut self, start: &str) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let rest = line.trim_end().strip_prefix(start);
        rest.unwrap_or_else(|| panic!("{line:?}")).to_owned()
    }

    fn address(&mut self, start: &str) -> SocketAddr {
        self.line(start).parse().unwrap()
    }

    /// Ends its input, and waits for it.
    fn end(self) {
        drop(self.input);
        self.thread.join().unwrap();
    }
}

#[test]
fn a_server_and_an_application() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.txt"), "from a file").unwrap();
    let docroot = directory.path().to_str().unwrap().to_owned();
    let mut server = Example::start(move |input, out| {
        let any = || ANY.parse().unwrap();
        server::run(any(), any(), &docroot, input, out).unwrap();
    });
    let clients = server.address("clients: ");
    let address = server.line("applications: ").parse().unwrap();
    let application = Example::start(move |input, _| {
        application::run(address, "secret", input).unwrap();
    });
    let mut visitor = Visitor::connect(clients);
    assert_eq!(visitor.get("/a.txt").text(), "from a file");
    let hello = visitor.get("/");
    assert_eq!((hello.status, hello.text().as_str()), (200, "hello\n"));
    assert_eq!(hello.field("Cache-Control"), Some("no-store"));
    assert_eq!(visitor.get("/count").text(), "1\n2\n3\n");
    let length = visitor.send_post("/length", b"12345").answer();
    assert_eq!(length.text(), "5 bytes\n");
    assert_eq!(visitor.get("/none").status, 404);
    application.end();
    drop(visitor);
    server.end();
}

#[test]
fn a_server_that_is_changed_and_observed() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.txt"), "from a file").unwrap();
    let mut example = Example::start(|input, out| {
        reload::run(ANY.parse().unwrap(), BufReader::new(input), out).unwrap();
    });
    let mut visitor = Visitor::connect(example.address("clients: "));
    assert_eq!(visitor.get("/a.txt").status, 404);
    writeln!(example.input, "site test {}", directory.path().display()).unwrap();
    assert_eq!(example.line("sites: "), "1");
    assert_eq!(visitor.get("/a.txt").text(), "from a file");
    writeln!(example.input, "site test /").unwrap();
    let wrong = example.line("nothing has changed: ");
    assert!(wrong.contains("also a name of map[1]"), "{wrong}");
    assert_eq!(example.line("sites: "), "1");
    writeln!(example.input, "status").unwrap();
    let counters = example.line("connections: ");
    assert_eq!(counters, "1 open, 1 in all; responses: 2, 1 of them 404");
    drop(visitor);
    example.end();
}
