//! The status address: who may ask, and what a reload, an upgrade and busy clients do to it.

mod counters;
mod lists;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal::SIGUSR2;
use serde_json::Value;

use crate::common::proxy::SITE;
use crate::common::{Backend, PATIENCE, Proxy, Visitor, ended, needs, secure, wait_until};

const STATUS: &str = "status: {at: '127.0.0.1:0'}";

fn start(lines: &str) -> Proxy {
    Proxy::simple_with(lines)
}

/// The status and the body of the response to a request for the path, with these fields.
fn ask(proxy: &Proxy, request: &str, fields: &str) -> (u16, String) {
    let address = proxy.status_address();
    let mut visitor = Visitor::connect(address);
    let answer = visitor.ask(format!(
        "{request} HTTP/1.1\r\nHost: {address}\r\n{fields}\r\n"
    ));
    (answer.status, answer.text())
}

/// The JSON at a path.
fn json(proxy: &Proxy, path: &str) -> Value {
    let (status, text) = ask(proxy, &format!("GET {path}"), "");
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn reports_the_state_of_the_server() {
    let proxy = start(STATUS);
    let status = json(&proxy, "/status");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["backends"]["connected"], 0, "{status}");
    let backend = Backend::dial(proxy.dial_in());
    wait_until("the backend in the status", || {
        json(&proxy, "/status")["backends"]["connected"] == 1
    });
    drop(backend);
    wait_until("the end of the backend", || {
        json(&proxy, "/status")["backends"]["connected"] == 0
    });
    proxy.finish();
}

#[test]
fn requests_are_measured_by_site() {
    let proxy = start(STATUS);
    let mut backend = Backend::dial(proxy.dial_in());
    let mut client = proxy.visit();
    client.send_post("/", "12345");
    backend.request();
    let site = json(&proxy, "/status/test");
    assert_eq!(site["processes"][0]["state"], "busy", "{site}");
    assert_eq!(site["backends"]["busy"], 1, "{site}");
    backend.reply("four");
    client.answer();
    wait_until("the measured request", || {
        json(&proxy, "/status/test")["requests"]["total"] == 1
    });
    let site = json(&proxy, "/status/TEST");
    assert_eq!(site["requests"]["statuses"]["2xx"], 1, "{site}");
    assert_eq!(site["requests"]["bytes_in"], 5, "{site}");
    assert_eq!(site["requests"]["bytes_out"], 4, "{site}");
    wait_until("the idle process", || {
        json(&proxy, "/status/test")["processes"][0]["state"] == "idle"
    });
    let process = &json(&proxy, "/status/test")["processes"][0];
    assert_eq!(process["requests"], 1, "{process}");
    let history = || json(&proxy, "/status")["history"]["minutes"]["rate"].clone();
    wait_until("the history", || {
        let rates = history();
        rates
            .as_array()
            .unwrap()
            .iter()
            .any(|rate| rate.as_f64() > Some(0.0))
    });
    // A reload keeps what was measured.
    proxy.reload(&format!("{SITE}\n{STATUS}"));
    let status = json(&proxy, "/status");
    assert_eq!(status["sites"][0]["requests"]["total"], 1, "{status}");
    assert_eq!(status["requests"]["total"], 1, "{status}");
    assert_eq!(status["configuration"]["generation"], 1, "{status}");
    let domains = json(&proxy, "/domains");
    assert_eq!(domains[0]["domain"], "test", "{domains}");
    assert_eq!(ask(&proxy, "GET /status/other", "").0, 404);
    drop((backend, client));
    proxy.finish();
}

#[test]
fn errors_have_reasons_and_a_failed_reload_is_reported() {
    let proxy = start(STATUS);
    let mut backend = Backend::dial(proxy.dial_in());
    let client = proxy.ask("/");
    backend.request();
    client.reset();
    wait_until("the reason", || {
        json(&proxy, "/status")["requests"]["errors"]["client_gone"] == 1
    });
    proxy.configure("nonsense");
    proxy.signal(nix::sys::signal::Signal::SIGHUP);
    let error = || json(&proxy, "/status")["configuration"]["error"].to_string();
    wait_until("the failed reload", || error().contains("swiftiply.yml:"));
    let (_, metrics) = ask(&proxy, "GET /metrics", "");
    assert!(
        metrics.contains("swiftiply_config_last_reload_successful 0\n"),
        "{metrics}"
    );
    let expected = "swiftiply_request_errors_total{site=\"test\",reason=\"client_gone\"} 1\n";
    assert!(metrics.contains(expected), "{metrics}");
    drop(backend);
    proxy.finish();
}

#[test]
fn certificates_expire() {
    let files = tempfile::tempdir().unwrap();
    let (certfile, keyfile) = secure::certificate(files.path(), "test", &["test"]);
    let pair = secure::pair(&certfile, &keyfile);
    let proxy = start(&format!("ssl: {{at: '127.0.0.2:0', {pair}}}\n{STATUS}"));
    let status = json(&proxy, "/status");
    let expires = status["certificates"][0]["expires"].as_u64();
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_secs();
    assert!(expires > Some(now), "{status}");
    let certificate = &status["certificates"][0];
    assert_eq!(certificate["names"][0], "test");
    assert_eq!(certificate["source"], "file");
    assert_eq!(certificate["file"], certfile.to_str().unwrap());
    proxy.finish();
}

#[test]
fn prometheus_reads_the_metrics() {
    needs!("promtool");
    let proxy = start(STATUS);
    let mut backend = Backend::dial(proxy.dial_in());
    let mut client = proxy.ask("/");
    backend.request();
    backend.reply("served");
    client.answer();
    let (status, metrics) = ask(&proxy, "GET /metrics", "");
    assert_eq!(status, 200, "{metrics}");
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(metrics.as_bytes())
        .unwrap();
    let checked = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr);
    let said = format!("{said}{}", String::from_utf8_lossy(&checked.stdout));
    assert!(checked.status.success() && said.is_empty(), "{said}");
    drop((backend, client));
    proxy.finish();
}

#[test]
fn the_page_shows_sites_and_processes() {
    needs!("chromium");
    let proxy = start(STATUS);
    let backend = Backend::dial(proxy.dial_in());
    proxy.wait_for_log("connected, 1 now");
    let profile = tempfile::tempdir().unwrap();
    let show = |fragment: &str| {
        let url = format!("http://{}/{fragment}", proxy.status_address());
        let profile = format!("--user-data-dir={}", profile.path().display());
        let shown = ended(Command::new("chromium").args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--virtual-time-budget=5000",
            &profile,
            "--dump-dom",
            &url,
        ]));
        assert_eq!(shown.code, Some(0), "{shown:?}");
        shown.out
    };
    let page = show("");
    assert!(page.contains("href=\"#test\""), "{page}");
    assert!(page.contains("1 idle, 0 busy"), "{page}");
    let page = show("#test");
    assert!(page.contains("1 process"), "{page}");
    assert!(page.contains("<td>000000000001</td>"), "{page}");
    drop(backend);
    proxy.finish_without_leak_check();
}

#[test]
fn paths_and_methods() {
    let proxy = start(STATUS);
    let check = |request: &str, fields: &str, expected: u16, text: &str| {
        let (status, body) = ask(&proxy, request, fields);
        assert_eq!(status, expected, "{request}: {body}");
        assert!(body.contains(text), "{request}: {body}");
    };
    check("GET /nothing", "", 404, r#"{"error":"no such path"}"#);
    check(
        "POST /status",
        "Content-Length: 0\r\n",
        405,
        "another method",
    );
    check("GET /status", "Content-Length: 1\r\n", 408, "too long");
    check(
        "GET /status",
        "Transfer-Encoding: chunked\r\n",
        411,
        "Content-Length",
    );
    check(
        "GET /status",
        "Content-Length: 1048577\r\n",
        413,
        "too large",
    );
    check(
        "GET /status",
        &format!("A: {}\r\n", "x".repeat(20_000)),
        431,
        "error",
    );
    check("G(T /status", "", 400, "error");
    let address = proxy.status_address();
    let head = format!("HEAD /status HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let mut visitor = Visitor::connect(address);
    let answer = visitor.send(head).answer_to("HEAD");
    assert_eq!((answer.status, answer.text().as_str()), (200, ""));
    proxy.finish();
}

#[test]
fn keys_are_asked_for() {
    let proxy = start("status: {at: '127.0.0.1:0', key: secret}");
    let check = |fields: &str, expected: u16| {
        let (status, body) = ask(&proxy, "GET /status", fields);
        assert_eq!(status, expected, "{fields} {body}");
    };
    check("Authorization: Bearer secret\r\n", 200);
    // x:secret
    check("Authorization: Basic eDpzZWNyZXQ=\r\n", 200);
    check("", 401);
    let since = Instant::now();
    check("Authorization: Bearer wrong\r\n", 401);
    assert!(
        since.elapsed() >= Duration::from_secs(1),
        "guesses are slowed down"
    );
    proxy.wait_for_log("wrong key");
    let address = proxy.status_address();
    let answer = Visitor::connect(address).get("/status");
    let challenge = answer.field("WWW-Authenticate");
    assert!(challenge.is_some_and(|field| field.starts_with("Basic realm=")));
    proxy.finish();
}

#[test]
fn web_pages_of_other_sites_are_refused() {
    let proxy = start(STATUS);
    let address = proxy.status_address();
    let mut visitor = Visitor::connect(address);
    let request = "GET /status HTTP/1.1\r\nHost: rebound.example\r\n\r\n";
    assert_eq!(visitor.ask(request).status, 403);
    let fields = "Content-Length: 0\r\nOrigin: http://evil.example\r\n";
    assert_eq!(ask(&proxy, "POST /status", fields).0, 403);
    proxy.finish();
}

#[test]
fn unix_socket_is_for_its_user_or_others_by_its_mode() {
    let group = nix::unistd::getegid();
    let wide = format!("status: {{at: 'unix:status.sock', mode: 0660, group: '{group}'}}");
    let proxy = start(&wide);
    let path = proxy.file("status.sock");
    let attributes = || {
        let file = fs::metadata(&path).unwrap();
        (file.permissions().mode() & 0o777, file.gid())
    };
    assert_eq!(attributes(), (0o660, group.as_raw()));
    // Without a new socket.
    proxy.reload(&format!("{SITE}\nstatus: {{at: 'unix:status.sock'}}"));
    assert_eq!(attributes(), (0o600, group.as_raw()));
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(b"GET /status HTTP/1.1\r\nHost: any.example\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    proxy.finish_and(|| assert!(!path.exists(), "the socket is removed at the end"));
}

#[test]
fn slow_clients_hold_nothing_but_their_connections() {
    let (proxy, mut backend, mut client) = {
        let proxy = start("status: {at: '127.0.0.1:0'}\nworkers: 2");
        let backend = Backend::dial(proxy.dial_in());
        let client = proxy.visit();
        (proxy, backend, client)
    };
    let address = proxy.status_address();
    let held: Vec<_> = (0..8)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    for mut stream in &held {
        stream.write_all(b"GET /status HTTP/1.1\r\nHo").unwrap();
    }
    wait_until("the last connection taken", || {
        let mut visitor = Visitor::connect(address);
        visitor
            .try_send(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .is_ok()
            && visitor.answer().status == 503
    });
    client.send_get("/");
    backend.request();
    backend.reply("served");
    assert_eq!(client.answer().text(), "served");
    // Each is cut after its time, and the address is free again.
    drop(held);
    wait_until("a free connection", || {
        ask(&proxy, "GET /status", "").0 == 200
    });
    drop((backend, client));
    proxy.finish();
}

#[test]
fn reload_keeps_moves_and_removes_the_address() {
    let proxy = start(STATUS);
    let address = proxy.status_address();
    let yaml = |lines: &str| format!("{SITE}\n{lines}");
    proxy.reload(&yaml("status: {at: '127.0.0.1:0', key: new}"));
    assert_eq!(ask(&proxy, "GET /status", "").0, 401, "the new key counts");
    assert_eq!(
        ask(&proxy, "GET /status", "Authorization: Bearer new\r\n").0,
        200
    );
    // A failure changes nothing.
    fs::write(proxy.file("occupied"), "").unwrap();
    proxy.configure(&yaml("status: {at: 'unix:occupied'}"));
    proxy.signal(nix::sys::signal::Signal::SIGHUP);
    proxy.wait_for_log("a file that is not a socket is at this path");
    assert_eq!(
        ask(&proxy, "GET /status", "Authorization: Bearer new\r\n").0,
        200
    );
    proxy.reload(&yaml("status: {at: 'unix:status.sock'}"));
    assert!(
        TcpStream::connect(address).is_err(),
        "the old address is closed"
    );
    let socket = proxy.file("status.sock");
    UnixStream::connect(&socket).expect("the new address is open");
    proxy.reload(SITE);
    assert!(!socket.exists(), "the address is removed");
    proxy.finish_without_leak_check();
}

#[test]
fn an_upgrade_hands_the_address_over() {
    let yaml = format!("{SITE}\n{STATUS}");
    let mut proxy = Proxy::start_with(&yaml, &["--pid", "pid"]);
    let pid = || proxy.read("pid").trim().parse::<i32>().unwrap_or(0);
    let before = pid();
    proxy.signal(SIGUSR2);
    proxy.wait_for_log("serves");
    wait_until("the pid file of the new process", || pid() != before);
    let new = nix::unistd::Pid::from_raw(pid());
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
    json(&proxy, "/status");
    nix::sys::signal::kill(new, nix::sys::signal::Signal::SIGTERM).unwrap();
    wait_until("the end of the new process", || {
        nix::sys::signal::kill(new, None).is_err()
    });
}

#[test]
fn other_machines_need_a_key() {
    let directory = tempfile::tempdir().unwrap();
    let yaml = "cluster_port: 80\nmap: []\nstatus: {at: '0.0.0.0:8081'}\n";
    fs::write(directory.path().join("s.yml"), yaml).unwrap();
    let mut program = crate::common::proxy::program();
    let ended = ended(
        program
            .args(["--check", "-c", "s.yml"])
            .current_dir(&directory),
    );
    assert_eq!(ended.code, Some(2));
    let expected = "s.yml:3: status.at 0.0.0.0:8081: other machines can connect there; write a key";
    assert!(ended.err.contains(expected), "{}", ended.err);
}
