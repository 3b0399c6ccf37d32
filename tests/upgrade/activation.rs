//! Sockets of the service manager (`LISTEN_FDS`): used by address and by name, also after reloads and upgrades.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::Successor;
use crate::common::proxy::{SITE, program};
use crate::common::{Ended, Proxy, Visitor, assert_contains, assert_lacks, ended, needs};

/// Starts the program as a service manager does, with these sockets by name. Options follow.
fn activated(sockets: &[(&str, &OwnedFd)]) -> Command {
    let mut script = String::new();
    let mut names = Vec::new();
    for (number, (name, socket)) in (3..).zip(sockets) {
        fcntl(socket, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        // First out of the way of the numbers that they shall have.
        script.push_str(&format!("exec {}<&{}; ", number + 200, socket.as_raw_fd()));
        names.push(*name);
    }
    for number in (3..).take(sockets.len()) {
        script.push_str(&format!("exec {number}<&{0} {0}<&-; ", number + 200));
    }
    script.push_str("LISTEN_PID=$$ exec \"$PROGRAM\" \"$@\"");
    let mut command = Command::new("bash");
    command
        .args(["-c", &script, "bash"])
        .env("PROGRAM", program().get_program())
        .env("LISTEN_FDS", sockets.len().to_string())
        .env("LISTEN_FDNAMES", names.join(":"));
    command
}

fn tcp() -> (OwnedFd, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener.into(), address)
}

#[test]
fn by_address_and_name_through_reload_and_upgrade() {
    needs!("bash");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let ((clients, address), (later, second)) = (tcp(), tcp());
    let backends: OwnedFd = UnixListener::bind(&path).unwrap().into();
    let mut command = activated(&[("web", &clients), ("more", &later), ("app", &backends)]);
    command.args(["--pid", "pid"]);
    let docroot = format!("docroot: {}", directory.path().display());
    std::fs::write(directory.path().join("page"), "page").unwrap();
    let site = SITE.replace("127.0.0.1:0", &format!("unix:{}", path.display()));
    let site = site.replace("timeout: 60", &format!("timeout: 60, {docroot}"));
    let yaml = format!("{site}\ncluster_port: {}", address.port());
    let mut proxy = Proxy::start_program(command, &yaml);
    drop((clients, later, backends));
    assert_eq!(proxy.addresses(), [address]);
    let unused = format!("socket activation: more listens at {second}, which is not configured");
    proxy.wait_for_log(&unused);
    assert_lacks(&proxy.log(), "app listens");
    assert_eq!(proxy.visit().get("/page").text(), "page");
    // Nobody else could bind the second address.
    proxy.reload(&format!(
        "{site}\ncluster_port: [{}, {}]",
        address.port(),
        second.port()
    ));
    assert_eq!(Visitor::connect(second).get("/page").text(), "page");
    let new = Successor::of(&proxy);
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
    for address in [address, second] {
        assert_eq!(Visitor::connect(address).get("/page").text(), "page");
    }
    std::os::unix::net::UnixStream::connect(&path).expect("a socket");
    new.finish();
    assert!(path.exists(), "the file belongs to the service manager");
}

#[test]
fn a_name_for_another_address() {
    needs!("bash");
    let (clients, address) = tcp();
    let command = activated(&[("clients", &clients)]);
    // Nothing is bound at the configured port.
    let proxy = Proxy::start_program(command, &format!("{SITE}\ncluster_port: 0"));
    drop(clients);
    assert_eq!(proxy.addresses(), [address]);
    assert_eq!(proxy.visit().get("/swiftiply_health").status, 200);
    proxy.finish();
}

#[test]
fn for_another_process_or_wrong() {
    needs!("bash");
    let mut command = program();
    command.env("LISTEN_PID", "1").env("LISTEN_FDS", "1");
    Proxy::start_program(command, SITE).finish();
    let (clients, _) = tcp();
    let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    let command = activated(&[("web", &clients), ("file", &file)]);
    let proxy = Proxy::start_program(command, SITE);
    proxy.wait_for_log("socket activation: file: ");
    proxy.finish();
    let mut command = activated(&[("web", &clients)]);
    let Ended { code, err, .. } = ended(command.env("LISTEN_FDS", "9"));
    assert_eq!(code, Some(1), "{err}");
    assert_contains(&err, "LISTEN_FDS: ");
}
