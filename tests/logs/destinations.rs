//! Where logs go other than to files: syslog (RFC 5424) and the journal of systemd.

use std::cell::RefCell;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal::{SIGHUP, SIGUSR1};

use crate::common::{PATIENCE, Proxy, assert_contains};

/// A syslog daemon. Each log has a thread of its own, so its messages come in any order: those that were not asked for yet
/// are kept.
struct Daemon {
    socket: UnixDatagram,
    kept: RefCell<Vec<String>>,
}

impl Daemon {
    fn start(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            socket,
            kept: RefCell::default(),
        }
    }

    /// The first message that contains this and was not returned before.
    fn receive(&self, part: &str) -> String {
        let mut kept = self.kept.borrow_mut();
        let mut block = [0; 65536];
        loop {
            if let Some(index) = kept.iter().position(|message| message.contains(part)) {
                return kept.remove(index);
            }
            let length = self.socket.recv(&mut block);
            let length = length.unwrap_or_else(|error| panic!("{part}: {error}, after {kept:?}"));
            kept.push(str::from_utf8(&block[..length]).unwrap().to_owned());
        }
    }
}

/// Checks a message and returns its text.
fn text(message: &str, priority: u8, id: u8) -> &str {
    let words: Vec<_> = message.splitn(8, ' ').collect();
    let [begin, time, host, program, process, message_id, data, text] = words[..] else {
        panic!("{message}");
    };
    assert_eq!(begin, format!("<{priority}>1"), "{message}");
    assert!(time.starts_with("20") && time.ends_with('Z'), "{message}");
    assert!(!host.is_empty(), "{message}");
    assert_eq!(program, "swiftiply", "{message}");
    assert!(process.parse::<u32>().is_ok(), "{message}");
    assert_eq!(message_id, id.to_string(), "{message}");
    assert_eq!(data, "-", "{message}");
    assert!(!text.ends_with('\n'), "{message}");
    text
}

#[test]
fn syslog() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let daemon = Daemon::start(&path);
    let syslog = format!("type: syslog, file: '{}'", path.display());
    let proxy = Proxy::start(&format!(
        "logger: {{{syslog}}}\naccess_log: {{{syslog}, format: json}}\nmap:\n\
         - {{incoming: one, outgoing: '127.0.0.1:0', timeout: 0}}\n\
         - {{incoming: two, outgoing: '127.0.0.2:0', timeout: 0, logger: {{{syslog}, facility: local7}}}}"
    ));
    // daemon is 3, local7 is 23; a warning is 4, information is 6.
    let ready = daemon.receive("ready: ");
    assert!(
        text(&ready, 30, 0).starts_with("ready: visitors "),
        "{ready}"
    );
    let mut client = proxy.visit();
    for (site, priority) in [("one", 28), ("two", 188)] {
        let request = format!("GET /{site} HTTP/1.1\r\nHost: {site}\r\n\r\n");
        assert_eq!(client.ask(request).status, 503);
        let message = daemon.receive(&format!("503 GET /{site} from "));
        assert_contains(text(&message, priority, 0), &format!("site {site}: "));
        let line = daemon.receive(&format!("\"target\":\"/{site}\""));
        let line: serde_json::Value = serde_json::from_str(text(&line, 30, 1)).unwrap();
        assert_eq!(line["status"], 503, "{line}");
    }
    // The daemon is started again, and nothing is lost.
    drop(daemon);
    std::fs::remove_file(&path).unwrap();
    let daemon = Daemon::start(&path);
    proxy.signal(SIGUSR1);
    daemon.receive("logs reopened");
    proxy.signal(SIGHUP);
    daemon.receive("reloaded: ");
    // It is gone for a while: that is reported, here and when it is back.
    drop(daemon);
    std::fs::remove_file(&path).unwrap();
    client.ask("GET /lost HTTP/1.1\r\nHost: one\r\n\r\n");
    proxy.wait_for_log(&format!("log {}: ", path.display()));
    let daemon = Daemon::start(&path);
    client.ask("GET /back HTTP/1.1\r\nHost: one\r\n\r\n");
    daemon.receive("503 GET /back");
    daemon.receive("writing works again");
    drop((client, daemon));
    proxy.finish_without_leak_check();
}

#[test]
fn syslog_that_is_not_there_yet() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let proxy = Proxy::start(&format!(
        "logger: {{type: syslog, file: '{}'}}\nmap: []",
        path.display()
    ));
    proxy.wait_for_log("more until it can be written");
    let daemon = Daemon::start(&path);
    proxy.signal(SIGUSR1);
    daemon.receive("logs reopened");
    drop(daemon);
    proxy.finish_without_leak_check();
}

#[test]
fn journal() {
    let mut shell = Command::new("sh");
    // As systemd does: the variable names the file that standard error is.
    let script = "JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec \"$0\" \"$@\"";
    shell.args(["-c", script, env!("CARGO_BIN_EXE_swiftiply")]);
    let proxy = Proxy::start_program(
        shell,
        "map: [{incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 0}]",
    );
    assert_eq!(proxy.visit().get("/").status, 503);
    proxy.wait_for_log("<4>[WARN] 503 GET / from ");
    proxy.wait_for_log("<6>[INFO] ready: ");
    proxy.wait_for_log("<7>[DEBUG] ");
    // Another file is not the journal.
    let mut other = Command::new(env!("CARGO_BIN_EXE_swiftiply"));
    other.env("JOURNAL_STREAM", "1:1");
    let other = Proxy::start_program(other, "map: []");
    other.wait_for_log("Z [INFO] ready: ");
    other.finish();
    proxy.finish();
}
