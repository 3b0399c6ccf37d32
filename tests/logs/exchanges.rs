//! What the access log says about an exchange: timers, retries, source, and who ended it.

use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::common::{Backend, Proxy, Server, settle, wait_until};

const JSON: &str = "access_log: {file: access, format: json}";

/// The line of the access log for this target, which is to come.
pub(super) fn line(proxy: &Proxy, target: &str) -> Value {
    lines(proxy, target, 1).remove(0)
}

/// So many lines of the access log for this target.
fn lines(proxy: &Proxy, target: &str, count: usize) -> Vec<Value> {
    let mut found = Vec::new();
    wait_until(&format!("the line of {target}"), || {
        let log = proxy.read("access");
        let lines = log.lines().map(serde_json::from_str);
        // The last line may be incomplete so far.
        let lines = lines.filter_map(Result::<Value, _>::ok);
        found = lines.filter(|line| line["target"] == target).collect();
        found.len() >= count
    });
    found
}

fn milliseconds(line: &Value, field: &str) -> f64 {
    line[field]
        .as_f64()
        .unwrap_or_else(|| panic!("{field}: {line}"))
}

#[track_caller]
pub(super) fn check(line: &Value, fields: &[(&str, &str)]) {
    for (field, expected) in fields {
        assert_eq!(line[field], *expected, "{field}: {line}");
    }
}

#[test]
fn timers() {
    let proxy = Proxy::simple_with(JSON);
    let mut visitor = proxy.ask("/slow");
    let pause = Duration::from_millis(100);
    proxy.wait_until_idle();
    thread::sleep(pause);
    let mut backend = Backend::dial_as(proxy.dial_in(), "7f0000011a2b", "");
    backend.request();
    thread::sleep(pause);
    backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n");
    thread::sleep(pause);
    backend.send("ok");
    assert_eq!(visitor.answer().text(), "ok");
    let line = line(&proxy, "/slow");
    let [queue, first_byte, total] =
        ["queue_ms", "first_byte_ms", "total_ms"].map(|field| milliseconds(&line, field));
    assert!(queue >= 100.0 && first_byte >= 100.0, "{line}");
    assert!(total >= queue + first_byte && total >= 300.0, "{line}");
    assert_eq!(milliseconds(&line, "connect_ms"), 0.0, "{line}");
    assert_eq!(line["retries"], 0, "{line}");
    check(
        &line,
        &[
            ("source", "backend"),
            ("ended", "complete"),
            ("ended_by", "-"),
        ],
    );
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn connections_to_servers() {
    let server = Server::start();
    let proxy = Proxy::start(&format!(
        "{JSON}\nmap: [{{incoming: test, default: true, proxy: traditional, servers: '{}', timeout: 60}}]",
        server.address()
    ));
    let mut visitor = proxy.ask("/new");
    let mut backend = server.accept();
    backend.request();
    backend.reply_to(&mut visitor, "new");
    visitor.send_get("/kept");
    backend.request();
    backend.reply_to(&mut visitor, "kept");
    let [new, kept] = ["/new", "/kept"].map(|target| line(&proxy, target));
    assert!(milliseconds(&new, "connect_ms") > 0.0, "{new}");
    assert_eq!(milliseconds(&kept, "connect_ms"), 0.0, "{kept}");
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn retries_and_failures_of_backends() {
    let proxy = Proxy::start(&format!(
        "{JSON}\nmap:\n\
         - {{incoming: test, outgoing: '127.0.0.1:0', timeout: 60, retries: 1}}\n\
         - {{incoming: none, outgoing: '127.0.0.2:0', timeout: 0}}"
    ));
    let fail = || {
        let mut backend = Backend::dial(proxy.dial_in());
        backend.request();
    };
    let mut visitor = proxy.ask("/again");
    fail();
    let mut backend = Backend::dial(proxy.dial_in());
    backend.request();
    backend.reply_to(&mut visitor, "ok");
    drop(backend);
    let again = line(&proxy, "/again");
    assert_eq!(again["retries"], 1, "{again}");
    check(&again, &[("source", "backend"), ("ended_by", "-")]);
    visitor.send_get("/failed");
    fail();
    fail();
    assert_eq!(visitor.answer().status, 502);
    let failed = line(&proxy, "/failed");
    assert_eq!(failed["retries"], 1, "{failed}");
    check(
        &failed,
        &[
            ("source", "proxy"),
            ("ended", "complete"),
            ("ended_by", "backend"),
        ],
    );
    let answer = visitor.ask("GET /none HTTP/1.1\r\nHost: none\r\n\r\n");
    assert_eq!(answer.status, 503);
    check(
        &line(&proxy, "/none"),
        &[("source", "proxy"), ("ended_by", "proxy"), ("backend", "-")],
    );
    drop(visitor);
    proxy.finish();
}

#[test]
fn clients_that_leave() {
    let proxy = Proxy::simple_with(JSON);
    let visitor = proxy.ask("/queued");
    proxy.wait_until_idle();
    thread::sleep(Duration::from_millis(20));
    visitor.reset();
    let queued = line(&proxy, "/queued");
    assert!(milliseconds(&queued, "queue_ms") >= 20.0, "{queued}");
    let mut backend = Backend::dial(proxy.dial_in());
    let visitor = proxy.ask("/served");
    backend.request();
    thread::sleep(Duration::from_millis(20));
    visitor.reset();
    let served = line(&proxy, "/served");
    assert!(milliseconds(&served, "first_byte_ms") >= 20.0, "{served}");
    for line in [queued, served] {
        assert_eq!(line["status"], 499, "{line}");
        check(
            &line,
            &[
                ("source", "-"),
                ("ended", "client_gone"),
                ("ended_by", "client"),
            ],
        );
    }
    drop(backend);
    proxy.finish();
}

#[test]
fn files() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file.txt"), "text").unwrap();
    // Later files are not remembered.
    settle(root.path());
    let docroot = root.path().display();
    let proxy = Proxy::start(&format!(
        "{JSON}\nmap: [{{incoming: test, default: true, docroot: '{docroot}'}}]"
    ));
    let mut visitor = proxy.visit();
    for _ in 0..2 {
        assert_eq!(visitor.get("/file.txt").text(), "text");
    }
    let lines = lines(&proxy, "/file.txt", 2);
    assert_eq!(lines[1]["source"], "cache", "{lines:?}");
    visitor.get("/missing");
    check(&line(&proxy, "/missing"), &[("source", "proxy")]);
    drop(visitor);
    proxy.finish_without_leak_check();
}
