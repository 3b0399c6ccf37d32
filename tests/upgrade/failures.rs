//! A new process that fails late, or dies: the old one continues, or the server can be started again.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal::{SIGKILL, SIGUSR2};

use super::Successor;
use crate::common::proxy::SITE;
use crate::common::{Backend, Echo, Port, Proxy, Running, Visitor, assert_contains, wait_until};
use crate::tunnels::{assert_open, switch};

#[test]
fn after_the_pid_file_was_adopted() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("swiftiply");
    let built = env!("CARGO_BIN_EXE_swiftiply");
    fs::copy(built, &program).unwrap();
    let mut command = Command::new(&program);
    command.args(["--pid", "pid"]);
    let proxy = Proxy::start_program(command, &format!("{SITE}\nworkers: 400"));
    let own = proxy.read("pid");
    let echo = Echo::dial(proxy.dial_in(), "127001017771", "");
    // The stacks of so many workers need more memory than the new process may use.
    fs::remove_file(&program).unwrap();
    let script = format!("#!/bin/sh\nulimit -v 400000\nexec {built} \"$@\"\n");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    proxy.signal(SIGUSR2);
    proxy.wait_for_log("upgrade failed: the new process ended, with status 1; going on");
    assert_contains(&proxy.log(), "the system allows no more threads");
    assert_eq!(proxy.read("pid"), own, "its pid file");
    assert_eq!(proxy.visit().get("/").text(), "/");
    assert!(echo.answered() > 0, "the backend stayed");
    drop(echo);
    proxy.finish();
}

#[test]
fn the_server_can_be_started_beside_an_old_process() {
    let [clients, backends] = [(); 2].map(|()| Port::reserve());
    let site = SITE.replace("127.0.0.1:0", &format!("127.0.0.1:{}", backends.number()));
    let yaml = format!("{site}\ncluster_port: {}", clients.number());
    let mut proxy = Proxy::start_with(&yaml, &["--pid", "pid"]);
    let mut backend = Backend::dial(proxy.dial_in());
    let mut tunnel = proxy.visit();
    switch(&mut tunnel, &mut backend);
    let new = Successor::of(&proxy);
    new.signal(SIGKILL);
    wait_until("the end of the new process", || !new.is_alive());
    // The old one holds neither the addresses nor the pid file.
    let child = crate::common::proxy::program()
        .args(["-c", "swiftiply.yml", "--pid", "pid"])
        .current_dir(proxy.directory())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let again = Running(child.unwrap());
    wait_until("the pid file of the next process", || {
        proxy.read("pid").trim() == again.pid().to_string()
    });
    let echo = Echo::dial(proxy.dial_in(), "127001017772", "");
    assert_eq!(Visitor::connect(proxy.address()).get("/").text(), "/");
    assert_open(&mut tunnel, &mut backend);
    drop((tunnel, backend, echo));
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
    assert_eq!(proxy.read("pid").trim(), again.pid().to_string());
}
