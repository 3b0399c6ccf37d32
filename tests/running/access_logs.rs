//! Access logs.

use std::fs;

use nix::sys::signal::Signal::{SIGTERM, SIGUSR1};

use crate::common::{Backend, Proxy, assert_contains, assert_lacks, bytes, exchange, wait_until};

#[test]
fn every_exchange() {
    let proxy = Proxy::start(
        "access_log: combined.log\n\
         logger: {type: file, file: messages.log, level: full}\n\
         map:\n\
         - incoming: test\n\
         \x20 outgoing: '127.0.0.1:0'\n\
         \x20 timeout: 60\n\
         \x20 access_log: {file: json.log, format: json}\n\
         \x20 logger: {type: file, file: site.log}\n\
         - {incoming: other, outgoing: '127.0.0.2:0', timeout: 10ms}",
    );
    let mut backend = Backend::dial_as(proxy.dial_in(), "7f0000011a2b", "");
    let mut visitor = proxy.visit();
    visitor.send(
        "GET /a?b HTTP/1.1\r\nHost: test:80\r\nUser-Agent: a\"b\r\nReferer: http://r/\r\n\r\n",
    );
    backend.request();
    backend.reply("12345");
    visitor.answer();
    visitor.ask("POST / HTTP/1.1\r\nHost: other\r\nContent-Length: 0\r\n\r\n");
    visitor.ask("GET /none HTTP/1.1\r\nHost: none\r\n\r\n");
    visitor.send_get("/dies");
    backend.request();
    backend.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n123");
    drop(backend);
    visitor.answer().assert_cut();
    let lines = |name: &str, count: usize| {
        wait_until(name, || proxy.read(name).lines().count() >= count);
        let text = proxy.read(name);
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let json = lines("json.log", 2);
    for part in [
        "\"client\":\"127.0.0.1\",\"user\":\"-\",\"method\":\"GET\",\"target\":\"/a?b\",\"host\":\"test:80\",\"version\":\"HTTP/1.1\",\
         \"status\":200,\"bytes\":5,\"site\":\"test\",\"backend\":\"7f0000011a2b\",\"queue_ms\":",
        "\"ended\":\"complete\",\"referer\":\"http://r/\",\"user_agent\":\"a\\\"b\"}",
    ] {
        assert!(json[0].contains(part), "{}", json[0]);
    }
    assert!(
        json[1].contains("\"bytes\":3,") && json[1].contains("\"ended\":\"backend_failed\""),
        "{}",
        json[1]
    );
    let combined = lines("combined.log", 2);
    assert!(
        combined[0].starts_with("127.0.0.1 - - ["),
        "{}",
        combined[0]
    );
    assert!(
        combined[0].contains("] \"POST / HTTP/1.1\" 503 "),
        "{}",
        combined[0]
    );
    assert!(combined[0].contains(" other other - "), "{}", combined[0]);
    assert!(
        combined[1].contains("\"GET /none HTTP/1.1\" 404 "),
        "{}",
        combined[1]
    );
    assert_contains(&proxy.read("messages.log"), "503 POST / from 127.0.0.1");
    assert_lacks(&proxy.read("messages.log"), "site test");
    // A log that was moved is written to until it is opened again.
    for name in ["json.log", "combined.log", "messages.log", "site.log"] {
        fs::rename(proxy.file(name), proxy.file(&format!("{name}.1"))).unwrap();
    }
    proxy.signal(SIGUSR1);
    wait_until("the log of a reopen", || {
        proxy.read("messages.log").contains("logs reopened")
    });
    visitor = proxy.visit();
    visitor.ask("GET /new HTTP/1.1\r\nHost: none\r\n\r\n");
    assert_contains(&lines("combined.log", 1)[0], "/new");
    assert!(
        proxy.file("json.log").exists() && proxy.file("site.log").exists(),
        "a log was not opened again"
    );
    drop(visitor);
    proxy.finish_without_leak_check();
}

#[test]
fn old_configuration() {
    let yaml = |log: &str| {
        format!(
            "access_log: {log}\nmap: [{{incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 60}}]"
        )
    };
    let proxy = Proxy::start(&yaml("old.log"));
    let is_open = |name: &str| {
        let files = fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap();
        let mut paths = files.map(|file| fs::read_link(file.unwrap().path()));
        paths.any(|path| path.is_ok_and(|path| path.ends_with(name)))
    };
    let mut backend = Backend::dial(proxy.dial_in());
    let (mut one, mut other) = (proxy.visit(), proxy.visit());
    exchange(&mut one, &mut backend, "/first");
    other.send_get("/late");
    backend.request();
    assert!(
        is_open("old.log"),
        "the old log was closed before its requests ended"
    );
    // Workers hold what they had until their next request, and there is none.
    proxy.reload(&yaml("new.log"));
    wait_until("the close of the old log", || !is_open("old.log"));
    assert!(is_open("new.log"), "the new log is not open");
    // A request that began before is logged in the old log, at once.
    backend.reply_to(&mut other, "late");
    let told = || proxy.read("old.log");
    wait_until("the last line of the old log", || told().contains("/late"));
    assert!(
        told().contains("/first") && told().lines().count() == 2,
        "expected /first and /late:\n{}",
        told()
    );
    wait_until("the close of the old log", || !is_open("old.log"));
    exchange(&mut one, &mut backend, "/new");
    wait_until("a line in the new log", || {
        proxy.read("new.log").contains("/new")
    });
    drop((one, other, backend));
    proxy.finish();
}

#[test]
fn cut_by_drain() {
    let mut proxy = Proxy::simple_with("grace: 300ms\naccess_log: {file: access, format: json}");
    let mut backend = Backend::dial(proxy.dial_in());
    let slow = proxy.ask("/slow");
    backend.request();
    // More than the socket buffers on both sides hold.
    backend.reply(bytes(24 << 20));
    let mut half = proxy.visit();
    half.send("POST /half HTTP/1.1\r\nHost: test\r\nContent-Length: 8\r\n\r\nabcd");
    proxy.wait_until_idle();
    proxy.signal(SIGTERM);
    assert_eq!(proxy.wait().code(), Some(1));
    let log = proxy.read("access");
    for (target, status) in [("/slow", 200), ("/half", 503)] {
        let line = log.lines().find(|line| line.contains(target));
        let line = line.unwrap_or_else(|| panic!("{target}: {log}"));
        assert!(line.contains(&format!("\"status\":{status},")), "{line}");
        assert!(line.contains("\"ended\":\"draining\""), "{line}");
        // Bytes that the client did not read do not count.
        let bytes = line.split("\"bytes\":").nth(1).unwrap();
        let bytes: u32 = bytes.split(',').next().unwrap().parse().unwrap();
        assert!(bytes < 24 << 20, "{line}");
    }
    drop((slow, half, backend));
}

#[test]
fn times_of_failures() {
    let lines = "access_log: {file: access, format: json}\ntimeouts: {head: 300ms}";
    let proxy = Proxy::start(&format!(
        "{lines}\nmap:\n\
         - {{incoming: test, outgoing: '127.0.0.1:0', timeout: 60}}\n\
         - {{incoming: passed, outgoing: '127.0.0.1:0', timeout: 60, request_buffering: false}}"
    ));
    let line = |count: usize| {
        wait_until("the lines of the access log", || {
            proxy.read("access").lines().count() == count
        });
        proxy.read("access").lines().next_back().unwrap().to_owned()
    };
    let has = |line: &str, part: &str| assert!(line.contains(part), "{part}: {line}");
    let half = |host: &str| {
        let head = format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 8\r\n\r\n");
        let mut visitor = proxy.visit();
        visitor.send(head).send("abcd");
        visitor
    };
    // The request waited for its body, not for a backend.
    let collected = half("test");
    proxy.wait_until_idle();
    drop(collected);
    let first = line(1);
    has(&first, "\"status\":499,");
    has(&first, "\"backend\":\"-\",\"queue_ms\":0.0,");
    // This request waited for a backend.
    let mut backend = Backend::dial_as(proxy.dial_in(), "7f0000011a2b", "");
    let passed = half("passed");
    backend.read_to("abcd");
    drop(passed);
    let second = line(2);
    has(&second, "\"status\":499,");
    has(&second, "\"backend\":\"7f0000011a2b\"");
    let mut slow = proxy.visit();
    assert_eq!(slow.ask("GET / HTTP").status, 408);
    drop((slow, backend));
    let third = line(3);
    has(&third, "\"status\":408,");
    let total = third.split("\"total_ms\":").nth(1).unwrap();
    let total: f64 = total.split(',').next().unwrap().parse().unwrap();
    assert!(total >= 300.0, "{third}");
    proxy.finish();
}
