//! How a connection becomes a tunnel.

use std::io::ErrorKind;
use std::thread;

use super::{ASK, SWITCH, assert_open, switch, tunnel};
use crate::common::proxy::site;
use crate::common::{Backend, Proxy, Server, exchange, needs, wait_until};

#[test]
fn each_side_ends() {
    needs!("openssl");
    let proxy = Proxy::both_with("access_log: {file: access, format: json}");
    for secure in [false, true] {
        for visitor_first in [true, false] {
            let mut visitor = proxy.visit_as(secure);
            let mut backend = Backend::dial(proxy.dial_in());
            visitor.send(ASK);
            let seen = backend.request();
            let fields = (seen.field("Connection"), seen.field("Upgrade"));
            assert_eq!(fields, (Some("upgrade"), Some("websocket")));
            backend.send(SWITCH);
            let answer = visitor.answer();
            assert_eq!(
                answer.head.lines().next(),
                Some("HTTP/1.1 101 Switching Protocols")
            );
            let fields = (answer.field("Connection"), answer.field("Upgrade"));
            assert_eq!(fields, (Some("upgrade"), Some("websocket")));
            assert!(answer.field("Date").is_some(), "no Date: {}", answer.head);
            assert_open(&mut visitor, &mut backend);
            // Bytes that are not HTTP, and some that look like it.
            visitor.send(b"\0\r\n\r\nGET / HTTP/1.1\r\n\r\n");
            assert_eq!(backend.take(23), b"\0\r\n\r\nGET / HTTP/1.1\r\n\r\n");
            if visitor_first {
                visitor.send("last").finish();
                assert_eq!(backend.rest(), b"last");
                backend.send("still here");
                assert_eq!(visitor.take(10), b"still here");
                backend.send("end").finish();
                assert_eq!(visitor.rest(), b"end");
            } else {
                backend.send("last").finish();
                assert_eq!(visitor.rest(), b"last");
                visitor.send("still here");
                assert_eq!(backend.take(10), b"still here");
                visitor.send("end").finish();
                assert_eq!(backend.rest(), b"end");
            }
        }
    }
    proxy.wait_for_logs("reason=tunnel_done", 8);
    let lines = |bytes: usize| {
        let end = format!(r#""status":101,"bytes":{bytes},"site":"test""#);
        let log = proxy.read("access");
        let ours = log.lines().filter(|line| line.contains(&end));
        ours.filter(|line| line.contains(r#""ended":"tunnel_done""#))
            .count()
    };
    wait_until("the lines of the access log", || {
        (lines(4 + 13), lines(4 + 4)) == (2, 2)
    });
    proxy.finish();
}

#[test]
fn early_bytes() {
    needs!("openssl");
    let proxy = Proxy::both();
    let there = format!("{ASK}early");
    let back = format!("{SWITCH}soon");
    let longest = there.len().max(back.len());
    for secure in [false, true] {
        for cut in (0..=longest).step_by(if secure { 5 } else { 1 }) {
            let mut visitor = proxy.visit_as(secure);
            let mut backend = Backend::dial(proxy.dial_in());
            visitor.send_cut(there.as_bytes(), cut.min(there.len()));
            let seen = backend.next().unwrap();
            assert_eq!(seen.target(), "/chat", "cut at {cut}");
            let cut = cut.min(back.len());
            backend.send(&back[..cut]);
            thread::yield_now();
            backend.send(&back[cut..]);
            assert_eq!(backend.take(5), b"early", "cut at {cut}");
            assert_eq!(visitor.answer().status, 101, "cut at {cut}");
            assert_eq!(visitor.take(4), b"soon", "cut at {cut}");
            assert_open(&mut visitor, &mut backend);
        }
    }
    proxy.finish();
}

#[test]
fn bytes_before_101() {
    let (proxy, mut backend, mut visitor) = Proxy::scene();
    // Were it taken for more of the upgraded request's connection, the second one would be smuggled past the proxy.
    visitor.send(format!(
        "{ASK}GET /second HTTP/1.1\r\nHost: test\r\nX-Real-IP: 9.9.9.9\r\n\r\n"
    ));
    assert_eq!(backend.request().target(), "/chat");
    backend.send("HTTP/1.1 103 Early Hints\r\n\r\n");
    assert_eq!(visitor.answer().status, 103);
    backend.socket().set_nonblocking(true).unwrap();
    let peek = backend.socket().peek(&mut [0]);
    assert_eq!(peek.unwrap_err().kind(), ErrorKind::WouldBlock);
    backend.socket().set_nonblocking(false).unwrap();
    // The application refuses the upgrade, so all bytes were HTTP.
    backend.reply_to(&mut visitor, "no");
    let second = backend.request();
    assert_eq!(second.target(), "/second");
    assert_eq!(second.field("X-Real-IP"), Some("127.0.0.1"));
    backend.reply_to(&mut visitor, "second");
    // On the same two connections, this time it does, and the first one of these bytes is the tunnel's.
    visitor.send(format!("{ASK}GET /third HTTP/1.1\r\n\r\n"));
    backend.request();
    backend.send(format!("HTTP/1.1 103 Early Hints\r\n\r\n{SWITCH}"));
    assert_eq!(visitor.answer().status, 103);
    assert_eq!(visitor.answer().status, 101);
    assert_eq!(backend.take(23), b"GET /third HTTP/1.1\r\n\r\n");
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn negotiation() {
    let proxy = Proxy::start(
        "map:\n\
         - {incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 60}\n\
         - {incoming: streams, outgoing: 'localhost:0', timeout: 60, request_buffering: false, keepalive: false}",
    );
    let addresses = proxy.dial_ins();
    // Fields of the request, what is passed on of its offer, the response's protocol, and whether it is good.
    let cases = [
        ("Upgrade: a, b/2, c", "a, b/2, c", "B/2", true),
        ("Upgrade: a\r\nUPGRADE: b", "a, b", "b, a", true),
        ("Upgrade: h2c, a", "a", "a", true),
        ("Upgrade: h2c, a", "a", "h2c", false),
        ("Upgrade: a", "a", "b", false),
        ("Upgrade: a", "a", "a, b", false),
        ("Upgrade: a", "a", "", false),
        ("Upgrade: h2c", "", "h2c", false),
        ("Upgrade: HTTP/2.0, TLS/1.0", "", "TLS/1.0", false),
        ("Upgrade: a b", "", "a", false),
        ("Upgrade: a\r\nContent-Length: 0", "a", "a", true),
        ("Upgrade: a\r\nContent-Length: 1", "", "a", false),
        ("A: b", "", "a", false),
    ];
    for (fields, offered, chosen, good) in cases {
        for (host, dial_in) in [("test", 0), ("streams", 1)] {
            let context = format!("{host} {fields} {chosen}");
            let mut backend = Backend::dial(addresses[dial_in]);
            let mut visitor = proxy.visit();
            visitor.send(format!(
                "POST / HTTP/1.1\r\nHost: {host}\r\nConnection: upgrade\r\n{fields}\r\n\r\nx"
            ));
            let seen = backend.request();
            let passed = seen.field("Upgrade").unwrap_or_default();
            assert_eq!(passed, offered, "{context}");
            let option = seen.field("Connection").unwrap_or_default();
            let expected = if offered.is_empty() { "" } else { "upgrade" };
            assert_eq!(option, expected, "{context}");
            backend.send(format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {chosen}\r\n\r\n"
            ));
            let answer = visitor.answer();
            assert_eq!(answer.status, if good { 101 } else { 502 }, "{context}");
            if good {
                assert_eq!(answer.field("Upgrade"), Some(chosen), "{context}");
                assert_eq!(backend.take(1), b"x", "{context}");
                assert_open(&mut visitor, &mut backend);
            } else {
                assert!(backend.is_closed(), "{context}");
            }
        }
    }
    // Without the option, or in HTTP/1.0, Upgrade is nothing (RFC 9110 7.8).
    for request in [
        "GET / HTTP/1.1\r\nHost: test\r\nUpgrade: a\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: a\r\n\r\n",
    ] {
        let mut backend = Backend::dial(proxy.dial_in());
        let mut visitor = proxy.visit();
        visitor.send(request);
        let seen = backend.request();
        assert_eq!(
            (seen.field("Upgrade"), seen.field("Connection")),
            (None, None)
        );
        backend.reply_to(&mut visitor, "http");
    }
    // What a 101 says of a body is nothing, and HTTP/1.0 has no 101.
    let mut backend = Backend::dial(proxy.dial_in());
    let mut visitor = proxy.visit();
    visitor.send(ASK);
    backend.request();
    backend.send(SWITCH.replace("\r\n\r\n", "\r\nContent-Length: 3\r\n\r\nabc"));
    let answer = visitor.answer();
    assert_eq!((answer.status, answer.field("Content-Length")), (101, None));
    assert_eq!(visitor.take(3), b"abc");
    assert_open(&mut visitor, &mut backend);
    let mut old = Backend::dial(proxy.dial_in());
    let mut other = proxy.visit();
    other.send(ASK);
    old.request();
    old.send(SWITCH.replace("HTTP/1.1", "HTTP/1.0"));
    assert_eq!(other.answer().status, 502);
    drop((visitor, backend, other, old));
    proxy.finish();
}

#[test]
fn limit_per_site() {
    let keys = "max_tunnels: 1, timeouts: {tunnel: 60}";
    let proxy = Proxy::start(&site(keys));
    let mut visitor = proxy.visit();
    let mut backend = tunnel(&proxy, &mut visitor);
    let mut idle = Backend::dial(proxy.dial_in());
    let mut other = proxy.visit();
    // The second one is refused before a backend is asked, and ordinary requests are not.
    let answer = other.ask(ASK);
    assert_eq!(answer.status, 503);
    assert!(answer.field("Retry-After").is_some(), "{answer:?}");
    proxy.wait_for_log("max_tunnels reached");
    exchange(&mut other, &mut idle, "/plain");
    // A reload changes the limit and leaves tunnels as they are.
    let reload = |keys: &str| proxy.reload(&site(keys));
    reload("max_tunnels: 2");
    let mut second = proxy.visit();
    let mut taken = idle;
    switch(&mut second, &mut taken);
    let mut idle = Backend::dial(proxy.dial_in());
    // An upgrade that the application does not take is none.
    reload("max_tunnels: 3");
    for _ in 0..3 {
        other.send(ASK);
        idle.request();
        idle.reply_to(&mut other, "no");
    }
    reload("max_tunnels: 1");
    assert_eq!(other.ask(ASK).status, 503);
    assert_open(&mut visitor, &mut backend);
    drop((visitor, second, backend, taken));
    proxy.wait_for_logs("tunnel carried", 2);
    switch(&mut other, &mut idle);
    assert_open(&mut other, &mut idle);
    // With a limit of 0 an upgrade is not passed on.
    reload("max_tunnels: 0");
    let mut last = proxy.visit();
    let mut backend = Backend::dial(proxy.dial_in());
    last.send(ASK);
    let seen = backend.request();
    assert_eq!(
        (seen.field("Upgrade"), seen.field("Connection")),
        (None, None)
    );
    backend.reply_to(&mut last, "plain");
    assert_open(&mut other, &mut idle);
    drop((last, other, idle, backend));
    proxy.finish();
}

#[test]
fn ordinary_server() {
    let app = Server::start();
    let keys = format!(
        "incoming: test, default: true, proxy: traditional, servers: '{}', timeout: 60",
        app.address()
    );
    let proxy = Proxy::start(&format!("map: [{{{keys}, server_connections: 1}}]"));
    let mut visitor = proxy.visit();
    visitor.send(format!("{ASK}early"));
    let mut server = app.accept_asking();
    let seen = server.request();
    assert_eq!(seen.field("Upgrade"), Some("websocket"), "{}", seen.head);
    server.send(format!("{SWITCH}soon"));
    assert_eq!(visitor.answer().status, 101);
    assert_eq!(visitor.take(4), b"soon");
    assert_eq!(server.take(5), b"early");
    assert_open(&mut visitor, &mut server);
    // The connection cannot be used again, and its slot is taken until the end.
    let mut other = proxy.ask("/plain");
    visitor.send("bye").finish();
    assert_eq!(server.rest(), b"bye");
    server.finish();
    visitor.assert_closed();
    let mut fresh = app.accept_asking();
    assert_eq!(fresh.request().target(), "/plain");
    fresh.reply_to(&mut other, "plain");
    proxy.wait_for_logs("reason=tunnel_done", 2);
    drop((visitor, server, other, fresh));
    proxy.finish();
}
