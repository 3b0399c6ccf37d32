//! A new process that fails late, or dies: the old one continues, or the server can be started again.

use std::process::Stdio;

use nix::sys::signal::Signal::SIGKILL;
use nix::sys::signal::kill;

use super::Successor;
use super::replaceable::{BUILT, DeafManager, Replaceable};
use crate::common::proxy::SITE;
use crate::common::{Backend, Echo, Load, Port, Proxy, Running, Visitor, wait_until};
use crate::tunnels::{assert_open, switch};

#[test]
fn one_that_hangs_is_ended() {
    let old = Replaceable::start("upgrade_timeout: 300ms");
    let proxy = &old.proxy;
    let own = proxy.read("pid");
    let echo = Echo::dial(proxy.dial_in(), "127001017771", "");
    let load = Load::start(proxy.address(), false);
    old.upgrade_to("echo $$ > new; exec sleep 600");
    proxy.wait_for_log(
        "upgrade failed: the new process does not serve after 300ms (upgrade_timeout); going on",
    );
    let hung = old.new_pid();
    wait_until("the end of the new process", || kill(hung, None).is_err());
    load.wait_for(20);
    load.end();
    assert_eq!(proxy.read("pid"), own, "its pid file");
    drop(echo);
    old.proxy.finish();
}

#[test]
fn one_that_dies_with_the_sockets_takes_no_connection_along() {
    let old = Replaceable::start("");
    let proxy = &old.proxy;
    let own = proxy.read("pid");
    let echo = Echo::dial(proxy.dial_in(), "127001017771", "");
    let load = Load::start(proxy.address(), false);
    let _manager = DeafManager::new(&proxy.file("notify"));
    // It has all sockets, its threads and the pid file, and hangs when it wants to report that it is ready.
    old.upgrade_to(&format!(
        "echo $$ > new; NOTIFY_SOCKET=notify exec {BUILT} \"$@\""
    ));
    proxy.wait_for_logs("ready: ", 2);
    for count in 0..50 {
        let target = format!("/{count}");
        assert_eq!(proxy.visit().get(&target).text(), target);
    }
    let new = old.new_pid();
    assert_eq!(proxy.read("pid").trim(), new.to_string());
    kill(new, SIGKILL).unwrap();
    proxy.wait_for_log("upgrade failed: the new process ended, with status 137; going on");
    assert_eq!(proxy.read("pid"), own, "its pid file");
    load.wait_for(20);
    load.end();
    assert_eq!(proxy.visit().get("/").text(), "/");
    drop(echo);
    old.proxy.finish();
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
