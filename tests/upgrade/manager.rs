//! What the service manager learns: readiness, reloads, the main process after an upgrade, signs of life.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal::{self, SIGHUP};
use tempfile::TempDir;

use super::Successor;
use crate::common::proxy::{SITE, program};
use crate::common::{PATIENCE, Proxy, access};

/// A service manager that listens.
struct Manager {
    socket: UnixDatagram,
    directory: TempDir,
}

impl Manager {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("notify")
    }

    /// Has a program report to it.
    fn watch(&self, mut command: Command) -> Command {
        command.env("NOTIFY_SOCKET", self.path());
        command
    }

    fn receive(&self) -> String {
        let mut bytes = [0; 256];
        let count = self.socket.recv(&mut bytes).expect("a state");
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    /// A reload, with the time of its beginning.
    fn reload(&self) {
        let state = self.receive();
        let time = state.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
        let time: u64 = time.expect(&state).parse().expect(&state);
        assert!(time > 0);
        assert_eq!(self.receive(), "READY=1");
    }
}

#[test]
fn upgrade_and_end() {
    let manager = Manager::new();
    let mut command = manager.watch(program());
    command.args(["--pid", "pid"]);
    let mut proxy = Proxy::start_program(command, SITE);
    assert_eq!(manager.receive(), "READY=1");
    let new = Successor::of(&proxy);
    let mut states = [manager.receive(), manager.receive()];
    states.sort();
    assert_eq!(states, [format!("MAINPID={}", new.0), "READY=1".to_owned()]);
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
    new.finish();
    assert_eq!(manager.receive(), "STOPPING=1");
}

#[test]
fn reloads_that_succeed_and_fail() {
    let manager = Manager::new();
    let proxy = Proxy::start_program(manager.watch(program()), SITE);
    assert_eq!(manager.receive(), "READY=1");
    proxy.load_again();
    manager.reload();
    proxy.configure("map: nonsense");
    proxy.signal(SIGHUP);
    manager.reload();
    proxy.wait_for_log("reload failed");
    proxy.finish();
}

#[test]
fn signs_of_life() {
    let manager = Manager::new();
    let mut command = manager.watch(program());
    // That of this process is for another one, as is the interval then.
    command.env("WATCHDOG_USEC", "200000");
    command.args(["--pid", "pid"]);
    let proxy = Proxy::start_program(command, SITE);
    let mut states = Vec::new();
    while states.iter().filter(|state| *state == "WATCHDOG=1").count() < 3 {
        states.push(manager.receive());
    }
    // The process is stopped, and nothing comes any more.
    proxy.signal(Signal::SIGSTOP);
    manager
        .socket
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let mut bytes = [0; 256];
    while manager.socket.recv(&mut bytes).is_ok() {}
    proxy.signal(Signal::SIGCONT);
    proxy.finish();
}

#[test]
fn access_proxy() {
    let manager = Manager::new();
    let directory = tempfile::tempdir().unwrap();
    let yaml = "{connect: '127.0.0.1:1', to: '127.0.0.1:2'}";
    std::fs::write(directory.path().join("access.yml"), yaml).unwrap();
    let mut command = manager.watch(access::program());
    command
        .args(["-c", "access.yml"])
        .current_dir(&directory)
        .stderr(std::process::Stdio::null())
        .env("WATCHDOG_USEC", "60000000");
    let mut running = crate::common::Running(command.spawn().unwrap());
    let mut states = [manager.receive(), manager.receive()];
    states.sort();
    assert_eq!(states, ["READY=1", "WATCHDOG=1"]);
    running.signal(SIGHUP);
    manager.reload();
    running.signal(Signal::SIGTERM);
    assert_eq!(manager.receive(), "STOPPING=1");
    assert_eq!(running.wait().code(), Some(0));
}
