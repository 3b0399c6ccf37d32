//! Addresses, routing, and limits of connections.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::many_addresses;
use crate::common::backend::preamble;
use crate::common::{
    Backend, Echo, PATIENCE, Proxy, Visitor, assert_contains, exchange, wait_until,
};

#[test]
fn routing() {
    let proxy = Proxy::start(
        "map:\n\
         - {incoming: [one, www.one], outgoing: '127.0.0.1:0', timeout: 60}\n\
         - {incoming: two, outgoing: '127.0.0.2:0', timeout: 60}",
    );
    let one = Echo::dial(proxy.dial_ins()[0], "000000000one", "");
    let two = Echo::dial(proxy.dial_ins()[1], "000000000two", "");
    let mut visitor = proxy.visit();
    let mut ask = |host: &str| {
        visitor.ask(format!(
            "GET /x HTTP/1.1\r\nHost: {host}\r\nAccept: text/html\r\n\r\n"
        ))
    };
    for host in ["one", "ONE", "www.One:8080", "one.:80"] {
        assert_eq!(ask(host).text(), "/x");
    }
    assert_eq!(ask("two").text(), "/x");
    assert_eq!((one.answered(), two.answered()), (4, 1));
    for host in ["three", "one-", "a.one", "[::1]", "on"] {
        let answer = ask(host);
        assert_eq!(answer.status, 404);
        assert_eq!(
            answer.field("Content-Type"),
            Some("text/html; charset=utf-8")
        );
        assert_contains(&answer.text(), "<h1>Not Found</h1>");
    }
    let health = ask("one").status;
    assert_eq!(health, 200);
    let health = visitor.get("/swiftiply_health?a=b");
    assert_eq!(health.status, 200);
    assert!(
        health
            .text()
            .starts_with("Health request from 127.0.0.1 at "),
        "{health:?}"
    );
    assert!(health.text().contains("404: 5\n"), "{health:?}");
    let head = visitor.send("HEAD /swiftiply_health HTTP/1.1\r\nHost: one\r\n\r\n");
    assert_eq!(
        head.answer_to("HEAD").field("Content-Length").unwrap(),
        health.body.len().to_string()
    );
    // Another path, or none.
    proxy.reload("health_check_uri: /up\nmap: []");
    assert_eq!(
        (
            visitor.get("/up").status,
            visitor.get("/swiftiply_health").status
        ),
        (200, 404)
    );
    proxy.reload("health_check_uri: false\nmap: []");
    assert_eq!(
        (visitor.get("/up").status, visitor.get("/false").status),
        (404, 404)
    );
    drop((visitor, one, two));
    proxy.finish();
}

#[test]
fn request_after_refusal() {
    let proxy = Proxy::simple();
    let backend = Echo::dial(proxy.dial_in(), "000000000001", "");
    let mut visitor = proxy.visit();
    visitor.send("GET / HTTP/9.9\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(visitor.answer().status, 505);
    visitor.finish();
    assert_eq!(visitor.rest(), b"");
    assert_eq!(backend.answered(), 0);
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn several_addresses() {
    let proxy = Proxy::start("cluster_address: [127.0.0.1, 127.0.0.2, '::1']\nmap: []");
    assert_eq!(proxy.addresses().len(), 3);
    for &address in proxy.addresses() {
        assert_eq!(Visitor::connect(address).get("/").status, 404, "{address}");
    }
    proxy.finish();
}

#[test]
fn limit_closes_idle() {
    let proxy = Proxy::simple_with("limits: {connections: 3}");
    // All of them wait for a response: there is no room for a fourth one.
    let mut busy: Vec<_> = (0..3).map(|_| proxy.visit()).collect();
    for (number, visitor) in busy.iter_mut().enumerate() {
        visitor.send_get(&format!("/{number}"));
    }
    wait_until("the limit of connections", || proxy.visit().is_closed());
    proxy.wait_for_log("limits.connections reached: reason=overload");
    let mut backend = Backend::dial(proxy.dial_in());
    for _ in 0..3 {
        backend.request();
        backend.reply("ok");
    }
    // Now they are idle, the first one for the longest time.
    for visitor in &mut busy {
        assert_eq!(visitor.answer().text(), "ok");
    }
    for visitor in &mut busy {
        exchange(visitor, &mut backend, "/again");
        // A connection counts as idle a moment after its response was read.
        proxy.wait_until_idle();
    }
    // After a search for idle connections that found none, the next one may have to wait.
    let mut admitted = None;
    wait_until("room for a new connection", || {
        let mut new = proxy.visit();
        let is_open = !new.send_get("/swiftiply_health").is_closed();
        admitted = is_open.then_some(new);
        is_open
    });
    let mut new = admitted.unwrap();
    assert_eq!(new.answer().status, 200);
    exchange(&mut new, &mut backend, "/new");
    busy[0].assert_closed();
    exchange(&mut busy[2], &mut backend, "/still");
    drop((busy, new, backend));
    proxy.finish();
}

#[test]
fn limit_per_client() {
    let yaml = "limits: {connections_per_client: 2}\nmap: []";
    let proxy = Proxy::start(yaml);
    let greet = || {
        let mut visitor = proxy.visit();
        assert_eq!(visitor.get("/").status, 404);
        visitor
    };
    let (first, mut second) = (greet(), greet());
    proxy.visit().assert_closed();
    proxy.wait_for_log("limits.connections_per_client reached: reason=overload");
    assert_eq!(second.get("/").status, 404);
    drop(first);
    proxy.wait_for_log("reason=peer_closed");
    let third = greet();
    // A trusted proxy may have more connections, since it has many clients.
    proxy.reload(&format!("trusted_proxies: 127.0.0.1\n{yaml}"));
    let more = (greet(), greet());
    drop((second, third, more));
    proxy.finish();
}

#[test]
fn one_thread_for_backends() {
    let proxy = Proxy::simple();
    fs::create_dir(proxy.file("sockets")).unwrap();
    let threads = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", proxy.pid())).unwrap();
        tasks.count()
    };
    // Some threads start after the line that says that it is ready.
    proxy.wait_until_idle();
    let before = threads();
    proxy.reload(&many_addresses(200));
    // A reload has a thread of its own until it is over.
    wait_until("the end of the reload", || threads() == before);
    for n in [0, 199] {
        let path = proxy.file(&format!("sockets/{n}"));
        let mut backend = UnixStream::connect(path).unwrap();
        backend.write_all(&preamble("000000000001", "")).unwrap();
        proxy.wait_for_logs("joined at unix:", usize::from(n > 0) + 1);
        proxy.wait_for_log(&format!("/sockets/{n}"));
    }
    // One that has not sent its preamble is closed with its address.
    let mut stranger = UnixStream::connect(proxy.file("sockets/199")).unwrap();
    stranger.set_read_timeout(Some(PATIENCE)).unwrap();
    proxy.reload(&many_addresses(199));
    assert_eq!(stranger.read(&mut [0]).unwrap(), 0);
    assert!(
        !proxy.file("sockets/199").exists(),
        "the socket of an address that was removed is still there"
    );
    assert!(
        UnixStream::connect(proxy.file("sockets/198")).is_ok(),
        "an address that was kept refuses connections"
    );
    proxy.finish_without_leak_check();
}
