//! Host names of servers whose addresses change: both programs look them up again. The names are in an `/etc/hosts` of
//! their own.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::common::{Access, EchoServer, Proxy, Server, access, needs, proxy};

/// The name, with an address.
struct Name(TempDir);

impl Name {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("hosts")
    }

    /// Written in place, since the file is mounted.
    fn is_at(&self, address: SocketAddr) {
        fs::write(self.file(), format!("{} moves.test\n", address.ip())).unwrap();
    }

    /// Has a program see this file as `/etc/hosts`; `None`: the system does not allow that, so the test is skipped.
    fn known_to(&self, program: &Command, test: &str) -> Option<Command> {
        let command = |script: &str| {
            let mut command = Command::new("unshare");
            command
                .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
                .arg(format!("mount --bind \"$HOSTS\" /etc/hosts && {script}"))
                .arg("sh")
                .env("HOSTS", self.file())
                .env("PROGRAM", program.get_program());
            command
        };
        let probe = command("true").stderr(Stdio::null()).status();
        let is_allowed = probe.is_ok_and(|status| status.success());
        if !is_allowed {
            needs::skip(test, "user namespaces");
            return None;
        }
        Some(command("exec \"$PROGRAM\" \"$@\""))
    }
}

/// Two addresses with the same port.
fn addresses(first: SocketAddr) -> [SocketAddr; 2] {
    [first, SocketAddr::from(([127, 0, 0, 2], first.port()))]
}

#[test]
fn servers_move() {
    let name = Name::new();
    let old = EchoServer::start();
    let addresses = addresses(old.address());
    let new = EchoServer::at(addresses[1]);
    name.is_at(addresses[0]);
    let test = "lookups::servers_move";
    let Some(program) = name.known_to(&proxy::program(), test) else {
        return;
    };
    let at = format!("moves.test:{}", addresses[0].port());
    let yaml = |keys: &str| {
        format!(
            "map: [{{incoming: test, default: true, outgoing: 'http://{at}', timeout: 60, {keys}}}]"
        )
    };
    let proxy = Proxy::start_program(program, &yaml("lookup_interval: 100ms"));
    let mut visitor = proxy.visit();
    assert_eq!(visitor.get("/old").text(), "/old");
    let moves = |to: SocketAddr| {
        let since = Instant::now();
        name.is_at(to);
        proxy.wait_for_log(&format!("site test: server {at} is at {to}"));
        assert!(
            since.elapsed() < DEFAULT,
            "found after {:?}",
            since.elapsed()
        );
    };
    moves(addresses[1]);
    assert_eq!(visitor.get("/new").text(), "/new");
    assert_eq!((old.answered(), new.answered()), (1, 1));
    // The default is longer than the test; a shorter interval has an effect at once.
    proxy.reload(&yaml("order: least"));
    proxy.reload(&yaml("lookup_interval: 200ms"));
    let third = SocketAddr::from(([127, 0, 0, 3], addresses[0].port()));
    moves(third);
    drop((visitor, old, new));
    proxy.finish();
}

#[test]
fn proxies_move() {
    let name = Name::new();
    let old = Server::start();
    let addresses = addresses(old.address());
    let new = Server::at(addresses[1]);
    name.is_at(addresses[0]);
    let test = "lookups::proxies_move";
    let Some(program) = name.known_to(&access::program(), test) else {
        return;
    };
    let app = EchoServer::start();
    let yaml = format!(
        "{{connect: 'moves.test:{}', to: '{}', connections: 1, lookup_interval: 100ms}}",
        addresses[0].port(),
        app.address()
    );
    let access = Access::start_program(program, &yaml, &[]);
    let mut dialled = old.accept();
    let since = Instant::now();
    name.is_at(addresses[1]);
    let dialled_again = new.accept();
    assert!(
        since.elapsed() < DEFAULT,
        "dialled after {:?}",
        since.elapsed()
    );
    access.wait_for_log(&format!(": now {}", addresses[1]));
    dialled.take(25);
    dialled.assert_closed();
    drop((dialled, dialled_again, app));
    access.finish();
}

/// How often names are looked up by default; the tests must not wait for that.
const DEFAULT: Duration = Duration::from_secs(30);
