//! Logs: what they say, that they may fail, and which characters they may contain.

mod destinations;
mod exchanges;
mod messages;
mod request_id;

use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal::{SIGHUP, SIGTERM, SIGUSR1};
use nix::sys::stat::Mode;

use crate::common::proxy::{SITE, program};
use crate::common::{
    Echo, EchoServer, Port, Proxy, Running, Visitor, access, assert_contains, wait_until,
};

/// A program whose output is not read.
struct Unread {
    running: Running,
    output: PipeReader,
}

/// A pipe that takes nothing more.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = pipe().unwrap();
    let flags = |flags| fcntl(&writer, FcntlArg::F_SETFL(flags)).unwrap();
    flags(OFlag::O_NONBLOCK);
    let blocks = [[b'x'; 4096].as_slice(), b"\n"];
    for block in blocks {
        while (&writer).write(block).is_ok() {}
    }
    flags(OFlag::empty());
    (reader, writer)
}

impl Unread {
    /// Starts a program with its messages and its output in one full pipe.
    fn start(program: &mut Command) -> Self {
        let (output, full) = full_pipe();
        program.stdout(full.try_clone().unwrap()).stderr(full);
        let child: Child = program.spawn().unwrap();
        Self {
            running: Running(child),
            output,
        }
    }

    /// Ends it by a signal, while its output is still not read.
    fn end(mut self) -> ExitStatus {
        self.running.signal(SIGTERM);
        self.running.wait()
    }

    /// Reads its output until this is in it.
    fn read_until(&mut self, text: &str) -> String {
        let mut read = Vec::new();
        let mut block = [0; 65536];
        loop {
            let count = self.output.read(&mut block).unwrap();
            assert!(count > 0, "{text} is not in the output");
            read.extend_from_slice(&block[..count]);
            let so_far = String::from_utf8_lossy(&read);
            if so_far.contains(text) {
                return so_far.into_owned();
            }
        }
    }
}

#[test]
fn unread_output() {
    let directory = tempfile::tempdir().unwrap();
    // What it prints is not read, so its ports have to be known.
    let (clients, backends) = (Port::reserve(), Port::reserve());
    let at = |port: &Port| SocketAddr::from(([127, 0, 0, 1], port.number()));
    let yaml = format!(
        "cluster_address: 127.0.0.1\ncluster_port: {}\nworkers: 2\n\
         logger: {{type: stderr, level: full}}\naccess_log: '-'\n\
         map: [{{incoming: test, default: true, outgoing: '{}', timeout: 60}}]",
        clients.number(),
        at(&backends)
    );
    fs::write(directory.path().join("swiftiply.yml"), yaml).unwrap();
    let mut swiftiply = program();
    swiftiply
        .args(["-c", "swiftiply.yml"])
        .current_dir(&directory);
    let mut swiftiply = Unread::start(&mut swiftiply);
    wait_until("the port for backends", || {
        TcpStream::connect(at(&backends)).is_ok()
    });
    let echo = Echo::dial(at(&backends), "000000000001", "");
    let address = at(&clients);
    let mut visitor = Visitor::connect(address);
    let long = format!("/{}", "x".repeat(7000));
    // More than is kept of both logs.
    for _ in 0..400 {
        assert_eq!(visitor.get(&long).text(), long);
    }
    let health = Visitor::connect(address).get("/swiftiply_health");
    assert_eq!(health.status, 200);
    // When it is read again it goes on, and says how much it has left out.
    let text = swiftiply.read_until("lines lost in total");
    assert_contains(&text, "standard output: it accepts nothing, or too little");
    drop((visitor, echo));
    // The rest is not read, and the program still ends.
    assert_eq!(swiftiply.end().code(), Some(0));
}

#[test]
fn unread_output_of_access_proxy() {
    let proxy = Proxy::simple();
    let app = EchoServer::start();
    let mut program = access::program();
    program.args(["-n", "1", "-t", &app.address().to_string()]);
    let program = Unread::start(program.arg(proxy.dial_in().to_string()));
    assert_eq!(proxy.visit().get("/a").text(), "/a");
    assert_eq!(program.end().code(), Some(0));
    drop(app);
    proxy.finish();
}

#[test]
fn fifo() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = |name: &str| {
        let path = directory.path().join(name);
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        path
    };
    let (messages, lines) = (fifo("messages"), fifo("lines"));
    let proxy = Proxy::start(&format!(
        "logger: {{type: file, file: {}, level: full}}\n\
         access_log: {}\n{SITE}",
        messages.display(),
        lines.display()
    ));
    let echo = Echo::dial(proxy.dial_in(), "000000000001", "");
    let mut visitor = proxy.visit();
    for number in 0..2000 {
        let target = format!("/{number}");
        assert_eq!(visitor.get(&target).text(), target);
    }
    let first = |path: &Path| {
        let mut text = [0; 4096];
        let count = File::open(path).unwrap().read(&mut text).unwrap();
        String::from_utf8_lossy(&text[..count]).into_owned()
    };
    assert_contains(&first(&lines), "\"GET /0 HTTP/1.1\" 200 ");
    assert_contains(&first(&messages), "[INFO] ready: ");
    drop((visitor, echo));
    proxy.finish();
}

#[test]
fn full_disk() {
    let proxy = Proxy::start(&format!("access_log: lines\n{SITE}"));
    fs::remove_file(proxy.file("lines")).unwrap();
    std::os::unix::fs::symlink("/dev/full", proxy.file("lines")).unwrap();
    proxy.signal(SIGUSR1);
    proxy.wait_for_log("logs reopened");
    let ask = || assert_eq!(proxy.visit().get("/swiftiply_health").status, 200);
    ask();
    proxy.wait_for_log("lines: no space left on device; 1 line lost, and more");
    ask();
    ask();
    fs::remove_file(proxy.file("lines")).unwrap();
    proxy.signal(SIGUSR1);
    proxy.wait_for_logs("logs reopened", 2);
    ask();
    proxy.wait_for_log("lines: writing works again; 3 lines lost in total");
    wait_until("the line of the access log", || {
        proxy.read("lines").lines().count() == 1
    });
    assert_eq!(proxy.log().matches("no space left on device").count(), 1);
    proxy.finish_without_leak_check();
}

#[test]
fn directory_returns() {
    for signal in [SIGHUP, SIGUSR1] {
        let proxy = Proxy::start(&format!(
            "logger: {{type: file, file: swiftiply.yml.log, level: full}}\n{SITE}"
        ));
        fs::create_dir(proxy.file("logs")).unwrap();
        let yaml = format!(
            "logger: {{type: file, file: logs/messages, level: full}}\naccess_log: logs/lines\n{SITE}"
        );
        let reopened = || {
            let text = proxy.read("logs/messages");
            text.contains("reloaded: ") || text.contains("logs reopened")
        };
        proxy.configure(&yaml);
        proxy.signal(SIGHUP);
        wait_until("the log of a reopen", reopened);
        fs::remove_dir_all(proxy.file("logs")).unwrap();
        // Without a directory the old ones are written to, and nothing else happens.
        proxy.signal(signal);
        assert_eq!(proxy.visit().get("/swiftiply_health").status, 200);
        fs::create_dir(proxy.file("logs")).unwrap();
        proxy.signal(signal);
        wait_until("the log of a second reopen", reopened);
        // The first of the two may have opened one log before there was a directory, and the other one after that.
        wait_until("a line of the access log", || {
            assert_eq!(proxy.visit().get("/swiftiply_health").status, 200);
            proxy.read("logs/lines").contains("/swiftiply_health")
        });
        proxy.finish_without_leak_check();
    }
}

#[test]
fn mode_of_files() {
    let mut shell = Command::new("sh");
    let program = program();
    shell.args(["-c", "umask 0; exec \"$0\" \"$@\""]);
    shell.arg(program.get_program());
    let proxy = Proxy::start_program(
        shell,
        &format!("logger: {{type: file, file: messages}}\naccess_log: lines\n{SITE}"),
    );
    for name in ["messages", "lines"] {
        let mode = fs::metadata(proxy.file(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644, "{name}");
    }
    fs::remove_file(proxy.file("lines")).unwrap();
    proxy.signal(SIGUSR1);
    wait_until("the new log file", || proxy.file("lines").exists());
    let mode = fs::metadata(proxy.file("lines"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o644);
    proxy.finish_without_leak_check();
}

#[test]
fn control_characters() {
    let proxy = Proxy::start(
        "access_log: \"combined\\u202e\\u0085\"\n\
         map: [{incoming: test, outgoing: '127.0.0.1:0', timeout: 1ms, access_log: {file: json, format: json}}]",
    );
    let foreign = "x\u{9b}31m\u{85}\u{2028}\u{2029}\u{202e}\u{200f}\u{2066}y";
    for host in ["test", "none"] {
        proxy.visit().ask(format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {foreign}\r\nReferer: {foreign}\r\n\r\n",
        ));
    }
    let combined = "combined\u{202e}\u{85}";
    for name in [combined, "json"] {
        wait_until(name, || proxy.read(name).contains("31m"));
    }
    let lines = proxy.read("json") + &proxy.read(combined);
    // A message that has the name of the file.
    fs::remove_file(proxy.file(combined)).unwrap();
    fs::create_dir(proxy.file(combined)).unwrap();
    proxy.signal(SIGUSR1);
    proxy.wait_for_log("combined\\u{202e}\\u{85}: is a directory; going on");
    for text in [lines, proxy.log()] {
        for letter in text.chars().filter(|letter| *letter != '\n') {
            let is_control = letter.is_control() || ('\u{200e}'..'\u{2070}').contains(&letter);
            assert!(!is_control, "{letter:?} in {text}");
        }
    }
    proxy.finish_without_leak_check();
}
