//! A WebSocket client and server of others: Python's `websockets`.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::common::python::python;
use crate::common::{Access, Proxy, Running, needs, secure};

const PACKAGE: &str = "websockets==15.0.1";

/// An application that dials in.
fn dialling(proxy: &Proxy, connections: usize) -> Running {
    let mut app = python(PACKAGE, "websockets/app.py");
    let address = proxy.dial_in().to_string();
    app.args(["dial", &address, &connections.to_string()]);
    Running(app.spawn().unwrap())
}

/// An ordinary server, and where it listens.
fn serving() -> (Running, SocketAddr) {
    let mut app = python(PACKAGE, "websockets/app.py");
    let mut app = Running(app.arg("serve").stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    let output = app.0.stdout.take().unwrap();
    BufReader::new(output).read_line(&mut line).unwrap();
    let port: u16 = line.trim().parse().unwrap();
    (app, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// Has the client visit, with TLS if there is a certificate.
fn visit(address: SocketAddr, certificate: Option<&Path>) {
    let mut client = python(PACKAGE, "websockets/client.py");
    client
        .args([&address.to_string(), "test"])
        .args(certificate);
    let run = client.output().unwrap();
    let said = [run.stdout, run.stderr].concat();
    assert_eq!(String::from_utf8_lossy(&said), "ok\n");
    assert!(run.status.success(), "the client ended with {}", run.status);
}

/// Visits with TLS and without, and asks for something ordinary in between.
fn visit_both(proxy: &Proxy, certificate: &Path) {
    for (address, certificate) in proxy.addresses().iter().zip([None, Some(certificate)]) {
        visit(*address, certificate);
        assert_eq!(proxy.visit().get("/plain").text(), "/plain");
    }
    let log = proxy.log();
    let mut warnings = log.lines().filter(|line| line.contains("[WARN]"));
    assert!(
        warnings.all(|line| line.contains("running as root")),
        "{log}"
    );
}

/// One site with these keys, at an address without and one with TLS.
fn proxy(files: &Path, keys: &str) -> (Proxy, PathBuf) {
    proxy_with(files, keys, "")
}

/// The same with more lines.
fn proxy_with(files: &Path, keys: &str, lines: &str) -> (Proxy, PathBuf) {
    let (certfile, keyfile) = secure::certificate(files, "test", &["test"]);
    let pair = secure::pair(&certfile, &keyfile);
    let yaml = format!(
        "map: [{{incoming: test, {keys}, timeout: 60}}]\nssl: {{at: '127.0.0.2:0', {pair}}}\n{lines}"
    );
    (Proxy::start(&yaml), certfile)
}

#[test]
fn dial_in() {
    needs!("openssl", "python3", PACKAGE);
    let files = tempfile::tempdir().unwrap();
    let (proxy, certificate) = proxy(files.path(), "outgoing: '127.0.0.1:0'");
    let app = dialling(&proxy, 30);
    visit_both(&proxy, &certificate);
    // 41 connections each time, each closed in order by one end or the other.
    proxy.wait_for_logs("tunnel carried", 82);
    drop(app);
    proxy.finish();
}

#[test]
fn traditional() {
    needs!("openssl", "python3", PACKAGE);
    let files = tempfile::tempdir().unwrap();
    let (app, address) = serving();
    let keys = format!("proxy: traditional, servers: '{address}'");
    let (proxy, certificate) = proxy(files.path(), &keys);
    visit_both(&proxy, &certificate);
    proxy.wait_for_logs("tunnel carried", 82);
    drop(app);
    proxy.finish();
}

#[test]
fn behind_access_proxy() {
    needs!("openssl", "python3", PACKAGE);
    let files = tempfile::tempdir().unwrap();
    let (proxy, certificate) = proxy(files.path(), "outgoing: '127.0.0.1:0'");
    let (app, address) = serving();
    let access = Access::between(proxy.dial_in(), address, 4);
    visit_both(&proxy, &certificate);
    proxy.wait_for_logs("tunnel carried", 82);
    access.finish();
    drop(app);
    proxy.finish();
}

#[test]
fn over_a_dial_in_link_with_tls() {
    needs!("openssl", "python3", PACKAGE);
    let files = tempfile::tempdir().unwrap();
    let (certfile, keyfile) = secure::certificate(files.path(), "link", &["link"]);
    let pair = secure::pair(&certfile, &keyfile);
    let lines = format!("outgoing_ssl: {{at: '127.0.0.1:0', {pair}}}");
    let (proxy, certificate) = proxy_with(files.path(), "outgoing: '127.0.0.1:0'", &lines);
    let (app, address) = serving();
    let hash = secure::fingerprint(&files.path().join("link.pem"));
    let server = proxy.dial_in();
    let access = Access::start(
        &format!(
            "{{connect: '{server}', to: '{address}', connections: 4, ssl: {{fingerprint: '{hash}'}}}}"
        ),
        &[],
    );
    visit_both(&proxy, &certificate);
    proxy.wait_for_logs("tunnel carried", 82);
    // A close is passed on with TLS as well.
    for log in [proxy.log(), access.log()] {
        let ends = log.lines().filter(|line| line.contains("tunnel carried"));
        assert_eq!(ends.clone().count(), 82, "{log}");
        assert!(
            ends.into_iter()
                .all(|line| line.ends_with("reason=tunnel_done")),
            "{log}"
        );
    }
    access.finish();
    drop(app);
    proxy.finish();
}
