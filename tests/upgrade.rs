//! A new process takes the place of a running one (USR2): no connection is refused, no request is lost.

mod activation;
mod connections;
mod failures;
mod manager;
pub(crate) mod replaceable;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal::{self, SIGTERM, SIGUSR2};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use replaceable::Replaceable;

use crate::common::proxy::SITE;
use crate::common::{Backend, Echo, Load, Proxy, Visitor, needs, wait_until};

/// The process that serves instead, which the test ends.
pub(crate) struct Successor(Pid);

impl Successor {
    /// Asks a server with a pid file for a successor, and waits until that serves.
    pub(crate) fn of(proxy: &Proxy) -> Self {
        let pid = || proxy.read("pid").trim().parse::<i32>().unwrap_or(0);
        let before = pid();
        proxy.signal(SIGUSR2);
        proxy.wait_for_log("serves");
        wait_until("the pid file of the new process", || pid() != before);
        Self(Pid::from_raw(pid()))
    }

    /// Asks this one for a successor in turn.
    pub(crate) fn next(&self, proxy: &Proxy) -> Self {
        let pid = || proxy.read("pid").trim().parse::<i32>().unwrap_or(0);
        let before = proxy.log().matches(" serves").count();
        self.signal(SIGUSR2);
        wait_until("the next new process", || {
            proxy.log().matches(" serves").count() > before
        });
        wait_until("the pid file of the new process", || {
            pid() != self.0.as_raw()
        });
        Self(Pid::from_raw(pid()))
    }

    fn signal(&self, signal: Signal) {
        kill(self.0, signal).unwrap();
    }

    fn is_alive(&self) -> bool {
        kill(self.0, None).is_ok()
    }

    pub(crate) fn finish(self) {
        self.signal(SIGTERM);
        wait_until("the end of the new process", || !self.is_alive());
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        // Where the test has failed; it may have ended.
        let _ = kill(self.0, Signal::SIGKILL);
    }
}

fn start(lines: &str) -> Proxy {
    Proxy::start_with(&format!("{SITE}\n{lines}"), &["--pid", "pid"])
}

#[test]
fn under_load_nothing_is_lost() {
    let mut proxy = start("grace: 60");
    let echo = Echo::dial(proxy.dial_in(), "127001017771", "");
    let load = Load::start(proxy.address(), false);
    load.wait_for(200);
    let new = Successor::of(&proxy);
    load.wait_for(200);
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
    load.wait_for(200);
    load.end();
    assert!(new.is_alive(), "the new process goes on");
    drop(echo);
    new.finish();
    assert!(!proxy.file("pid").exists(), "its pid file is removed");
}

#[test]
fn what_is_under_way_stays_with_the_old_process() {
    let mut proxy = start("grace: 600");
    let mut backend = Backend::dial(proxy.dial_in());
    let mut waiting = proxy.ask("/long");
    backend.request();
    let new = Successor::of(&proxy);
    let echo = Echo::dial(proxy.dial_in(), "127001017771", "");
    assert_eq!(
        Visitor::connect(proxy.address()).get("/").status,
        200,
        "the new process serves at the same port"
    );
    backend.reply("done");
    assert_eq!(waiting.answer().text(), "done");
    drop((waiting, backend));
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
    drop(echo);
    new.finish();
}

#[test]
fn unix_sockets_stay() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let site = SITE.replace("127.0.0.1:0", &format!("unix:{}", path.display()));
    let mut proxy = Proxy::start_with(&site, &["--pid", "pid"]);
    let new = Successor::of(&proxy);
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
    assert!(path.exists(), "the file of the socket is still there");
    std::os::unix::net::UnixStream::connect(&path).expect("the new process listens");
    new.finish();
    assert!(!path.exists(), "the new process removes it at its end");
}

#[test]
fn daemon_with_a_user_of_its_own() {
    needs!("root");
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let readable = |name: &str, mode| {
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    readable("", 0o755);
    let config = format!(
        "cluster_address: 127.0.0.1\ncluster_port: 0\ndaemonize: true\nuser: nobody\npidfile: pid\n\
         logger: {{type: file, file: log}}\n{SITE}\n"
    );
    fs::write(at("swiftiply.yml"), config).unwrap();
    readable("swiftiply.yml", 0o644);
    let mut command = crate::common::proxy::program();
    command
        .args(["-c", "swiftiply.yml"])
        .current_dir(&directory);
    let started = crate::common::ended(&mut command);
    assert_eq!(started.code, Some(0), "{started:?}");
    let pid = || {
        let text = fs::read_to_string(at("pid")).unwrap_or_default();
        text.trim().parse::<i32>().unwrap_or(0)
    };
    let old = Successor(Pid::from_raw(pid()));
    let log = || fs::read_to_string(at("log")).unwrap_or_default();
    wait_until("the first process", || log().contains("ready:"));
    old.signal(SIGUSR2);
    wait_until("the end of the first process", || !old.is_alive());
    let new = Successor(Pid::from_raw(pid()));
    assert!(new.0 != old.0 && new.is_alive(), "{}", log());
    assert_eq!(log().matches("ready:").count(), 2, "{}", log());
    // No other process may have its pid file, also not when the first process has ended.
    let refused = crate::common::ended(&mut command);
    let why = format!("in use by a running server, process {}", new.0);
    assert!(refused.err.contains(&why), "{refused:?}");
    new.finish();
    assert_eq!(pid(), 0, "the file is empty or gone");
}

#[test]
fn a_failure_leaves_unix_sockets() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let site = SITE.replace("127.0.0.1:0", &format!("unix:{}", path.display()));
    let proxy = Proxy::start_with(&site, &["--pid", "pid"]);
    let own = proxy.read("pid");
    // The socket is taken over before the next address turns out to be in use.
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = other.local_addr().unwrap();
    let working = proxy.read("swiftiply.yml");
    let more = format!("}}, {{incoming: more, outgoing: '{in_use}'}}]");
    fs::write(proxy.file("swiftiply.yml"), working.replace("}]", &more)).unwrap();
    proxy.signal(SIGUSR2);
    proxy.wait_for_log("upgrade failed: the new process ended, with status 1");
    assert!(path.exists(), "the file of the socket was removed");
    std::os::unix::net::UnixStream::connect(&path).expect("the old process still listens");
    assert_eq!(proxy.read("pid"), own, "the pid file");
    proxy.finish();
}

#[test]
fn a_failure_leaves_the_old_process_as_it_was() {
    let proxy = start("");
    let own = proxy.read("pid");
    let echo = Echo::dial(proxy.dial_in(), "127001017771", "");
    let working = proxy.read("swiftiply.yml");
    // Wrong, and right again, and an address that cannot be bound.
    for (wrong, why) in [
        (
            "no_such_key: 1\n",
            "upgrade failed: the new process ended, with status 2",
        ),
        (
            "ssl: {at: '203.0.113.1:1', certfile: a, keyfile: b}\n",
            "upgrade failed: the new process ended, with status 2",
        ),
        (
            "access_log: /no/such/directory/log\n",
            "upgrade failed: the new process ended, with status",
        ),
    ] {
        fs::write(proxy.file("swiftiply.yml"), format!("{working}\n{wrong}")).unwrap();
        let before = proxy.log().matches(why).count();
        proxy.signal(SIGUSR2);
        wait_until(why, || proxy.log().matches(why).count() > before);
        assert_eq!(proxy.visit().get("/").status, 200, "it goes on: {why}");
        assert_eq!(proxy.read("pid"), own, "its pid file");
    }
    fs::write(proxy.file("swiftiply.yml"), &working).unwrap();
    drop(echo);
    proxy.finish();
}

#[test]
fn again_and_again() {
    let mut proxy = start("grace: 60");
    let first = Successor::of(&proxy);
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
    let pid = || proxy.read("pid").trim().parse::<i32>().unwrap_or(0);
    first.signal(SIGUSR2);
    wait_until("the second new process", || {
        !first.is_alive() && pid() != first.0.as_raw()
    });
    let second = Successor(Pid::from_raw(pid()));
    let echo = Echo::dial(proxy.dial_in(), "127001017771", "");
    assert_eq!(Visitor::connect(proxy.address()).get("/").status, 200);
    drop(echo);
    second.finish();
}

#[test]
fn a_replaced_program_is_started_from_its_path() {
    let old = Replaceable::start("");
    let proxy = &old.proxy;
    // What cannot run leaves the server alone.
    old.upgrade_to("exit 7");
    proxy.wait_for_log("upgrade failed: the new process ended, with status 7; going on");
    old.upgrade_to_nothing();
    proxy.wait_for_log("no such file or directory; going on");
    old.proxy.finish();
}

#[test]
fn the_option_is_for_the_program_alone() {
    let refused = crate::common::proxy::run(&["--take-over", "--cluster-port", "0"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("--take-over: "), "{refused:?}");
}
