//! The command that it supervises.

use std::fs;

use nix::sys::signal::Signal::{SIGHUP, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::path;
use crate::common::{Access, EchoServer, Port, Proxy, needs, wait_until};

/// A program that serves HTTP, and writes down the signals that come.
const PROGRAM: &str = r#"
import http.server, os, signal, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = f"{os.getpid()} {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
def note(number, frame):
    with open("signals", "a") as file:
        file.write(signal.Signals(number).name + "\n")
    if number == signal.SIGTERM and "stubborn" not in sys.argv:
        os._exit(0)
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, note)
if os.fork() == 0:
    time.sleep(1000)
http.server.ThreadingHTTPServer.allow_reuse_address = True
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

/// Starts an access proxy with that program as its command.
fn with_command(proxy: &Proxy, lines: &str, more: &str) -> Access {
    let reserved = Port::reserve();
    let port = reserved.number();
    fs::write(proxy.file("app.py"), PROGRAM).unwrap();
    let program = proxy.file("app.py");
    Access::start(
        &format!(
            "connect: '{}'\nto: '127.0.0.1:{port}'\nconnections: 3\n{lines}\n\
             command: [python3, '{}', {port}{more}]\n",
            proxy.dial_in(),
            program.display()
        ),
        &[],
    )
    .keeping(reserved)
}

fn pid_of(answer: &str) -> Pid {
    let pid = answer.split(' ').next().unwrap();
    Pid::from_raw(pid.parse().unwrap())
}

/// Processes of the group of this one, zombies included.
fn group(pid: Pid) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let stats = processes.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let of = |stat: &String| {
        let fields = stat.rsplit(") ").next()?;
        fields.split(' ').nth(2)?.parse::<i32>().ok()
    };
    stats.filter(|stat| of(stat) == Some(pid.as_raw())).count()
}

#[test]
fn restarted_and_ended_last() {
    needs!("python3");
    let proxy = Proxy::simple();
    let access = with_command(&proxy, "", "");
    let mut visitor = proxy.visit();
    let mut pid = pid_of(&visitor.get("/").text());
    for _ in 0..3 {
        kill(pid, Signal::SIGKILL).unwrap();
        // The command leaves neither a zombie nor a child.
        wait_until("the end of the process group", || group(pid) == 0);
        let next = pid_of(&visitor.get("/").text());
        assert_ne!(next, pid);
        pid = next;
    }
    access.wait_for_log("(SIGKILL); starting it again in ");
    assert_eq!(group(pid), 2);
    drop(visitor);
    let signals = access.file("signals");
    let mut access = access;
    access.signal(SIGTERM);
    assert_eq!(access.wait().code(), Some(0));
    wait_until("the end of the process group", || group(pid) == 0);
    assert_eq!(fs::read_to_string(&signals).unwrap(), "SIGTERM\n");
    let log = access.log();
    assert!(log.find("draining") < log.find("drained"), "{log}");
    proxy.finish();
}

#[test]
fn killed() {
    needs!("python3");
    let proxy = Proxy::simple();
    let mut access = with_command(&proxy, "grace: 300ms", ", stubborn");
    let pid = pid_of(&proxy.visit().get("/").text());
    access.signal(SIGTERM);
    assert_eq!(access.wait().code(), Some(1));
    access.wait_for_log("command: did not exit in time; sent SIGKILL");
    wait_until("the end of the process group", || group(pid) == 0);
    proxy.finish();
}

#[test]
fn term_after_kill() {
    needs!("python3");
    let proxy = Proxy::simple();
    let mut access = with_command(&proxy, "", "");
    let pid = pid_of(&proxy.visit().get("/").text());
    access.signal(Signal::SIGKILL);
    access.wait();
    // Each of our threads that ends passes its children on to another, and the system sends the signal each time.
    wait_until("SIGTERM in the application", || {
        fs::read_to_string(access.file("signals"))
            .is_ok_and(|signals| signals.starts_with("SIGTERM\n"))
    });
    // Processes that the command has started are left alone.
    killpg(pid, Signal::SIGKILL).unwrap();
    proxy.finish();
}

#[test]
fn quiet_start() {
    let proxy = Proxy::simple();
    let app = EchoServer::start();
    let access = Access::between(proxy.dial_in(), app.address(), 2);
    assert_eq!(proxy.visit().get("/a").text(), "/a");
    // If one were not caught, it would end the program before the other one does.
    for signal in [SIGUSR2, SIGTTIN, SIGTTOU] {
        access.signal(signal);
    }
    assert_eq!(proxy.visit().get("/b").text(), "/b");
    let log = access.log();
    assert!(!log.contains("[WARN]") && !log.contains("[ERROR]"), "{log}");
    access.finish();
    drop(app);
    proxy.finish();
}

#[test]
fn signals() {
    needs!("python3");
    let proxy = Proxy::simple();
    let wait = |access: &Access, expected: &str| {
        wait_until(expected, || {
            fs::read_to_string(access.file("signals")).unwrap_or_default() == expected
        });
    };
    let access = with_command(&proxy, "", "");
    proxy.visit().get("/");
    // HUP reloads unless the configuration passes it on.
    access.signal(SIGHUP);
    access.wait_for_log("reloaded");
    access.signal(SIGUSR1);
    access.wait_for_log("logs reopened");
    wait(&access, "SIGUSR1\n");
    access.signal(SIGUSR2);
    wait(&access, "SIGUSR1\nSIGUSR2\n");
    access.finish();
    let access = with_command(&proxy, "signals: HUP", "");
    proxy.visit().get("/");
    access.signal(SIGUSR2);
    access.signal(SIGHUP);
    wait(&access, "SIGHUP\n");
    access.finish();
    proxy.finish();
}

#[test]
fn reload() {
    needs!("python3");
    let proxy = Proxy::simple();
    let access = with_command(&proxy, "", "");
    let mut visitor = proxy.visit();
    let pid = pid_of(&visitor.get("/").text());
    let yaml = fs::read_to_string(access.file("access.yml")).unwrap();
    let (_, yaml) = yaml.split_once('\n').unwrap();
    access.reload(&yaml.replace("command: [", "command: [env, X=1, "));
    wait_until("a response of another process", || {
        pid_of(&visitor.get("/").text()) != pid
    });
    assert_eq!(
        fs::read_to_string(access.file("signals")).unwrap(),
        "SIGTERM\n"
    );
    access.reload(&yaml.replace("command: [", "command: [/none/such, "));
    access.wait_for_log("command /none/such: no such file or directory; starting it again");
    access.reload(yaml);
    assert_eq!(visitor.get("/").status, 200);
    drop(visitor);
    access.finish();
    proxy.finish();
}

#[test]
fn killed_at_reload() {
    needs!("python3");
    let proxy = Proxy::simple();
    let access = with_command(&proxy, "grace: 300ms", ", stubborn");
    let mut visitor = proxy.visit();
    let pid = pid_of(&visitor.get("/").text());
    let yaml = fs::read_to_string(access.file("access.yml")).unwrap();
    let (_, yaml) = yaml.split_once('\n').unwrap();
    access.reload(&yaml.replace(", stubborn", ""));
    access.wait_for_log("command: did not exit in time; sent SIGKILL");
    wait_until("the end of the process group", || group(pid) == 0);
    assert_ne!(pid_of(&visitor.get("/").text()), pid);
    drop(visitor);
    access.finish();
    proxy.finish();
}

#[test]
fn command_line() {
    needs!("python3");
    let proxy = Proxy::simple();
    let directory = tempfile::tempdir().unwrap();
    let program_file = directory.path().join("app.py");
    fs::write(&program_file, PROGRAM).unwrap();
    let port = Port::reserve();
    let number = port.number().to_string();
    let to = format!("127.0.0.1:{number}");
    let server = proxy.dial_in().to_string();
    let words = [
        "-t",
        &to,
        &server,
        "--",
        "python3",
        path(&program_file),
        &number,
    ];
    let access = Access::start("", &words);
    assert_eq!(proxy.visit().get("/").status, 200);
    access.finish();
    proxy.finish();
}
