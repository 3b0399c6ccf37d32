//! Connections to servers: kept, reused and closed.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::{one, post, site};
use crate::common::{
    EchoServer, Proxy, Server, assert_contains, assert_lacks, crowd, exchange, wait_until,
};

#[test]
fn connections_reused() {
    let server = Server::start();
    let proxy = Proxy::start(&format!(
        "access_log: {{file: access, format: json}}\n{}",
        site(&[&server.address().to_string()], "")
    ));
    let mut first = proxy.visit();
    first.send(post("/1"));
    let mut backend = server.accept();
    let seen = backend.request();
    assert_eq!(
        (seen.target(), seen.body.as_slice()),
        ("/1", b"body".as_slice())
    );
    assert_eq!(seen.field("Host"), Some("test"));
    assert_eq!(seen.field("X-Forwarded-For"), Some("127.0.0.1"));
    assert_eq!(seen.field("Via"), Some("1.1 swiftiply"));
    assert_eq!(seen.field("Connection"), None);
    backend.reply_to(&mut first, "one");
    // Another client, most likely another worker.
    for n in 2..20 {
        let mut visitor = proxy.ask(&format!("/{n}"));
        assert_eq!(backend.request().target(), format!("/{n}"));
        // Also with chunks, and without a body.
        match n % 3 {
            0 => backend
                .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
            1 => backend.send("HTTP/1.1 204 No Content\r\n\r\n"),
            _ => backend.reply("ok"),
        };
        let answer = visitor.answer();
        assert!(matches!(answer.status, 200 | 204), "{answer:?}");
    }
    assert!(
        server.accept_now().is_none(),
        "the server got one connection too many"
    );
    let address = server.address().to_string();
    wait_until("the line of the access log", || {
        proxy.read("access").contains("\"/19\"")
    });
    assert_contains(&proxy.read("access"), &format!("\"{address}\""));
    drop((first, backend));
    proxy.finish();
}

#[test]
fn server_closes() {
    let (server, proxy) = one("");
    let mut visitor = proxy.visit();
    for answer in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ] {
        visitor.send_get("/");
        let mut backend = server.accept();
        backend.request();
        backend.send(answer);
        assert_eq!(visitor.answer().text(), "ok", "{answer}");
        assert!(backend.is_closed(), "{answer}");
    }
    // HTTP/1.0 may keep it.
    visitor.send_get("/");
    let mut backend = server.accept();
    backend.request();
    backend.send("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(visitor.answer().text(), "ok");
    visitor.send_get("/");
    backend.request();
    // Without a length the response ends where the server closes, however long that takes.
    backend.send("HTTP/1.1 200 OK\r\n\r\nfirst");
    thread::sleep(Duration::from_millis(300));
    backend.send(" and second");
    backend.finish();
    assert_eq!(visitor.answer().text(), "first and second");
    assert_lacks(&proxy.log(), "without Content-Length");
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn closed_idle_connection() {
    let (server, proxy) = one("");
    let mut visitor = proxy.visit();
    for round in 0..5 {
        visitor.send(post("/"));
        let mut backend = server.accept();
        backend.request();
        backend.reply("ok");
        assert_eq!(visitor.answer().text(), "ok", "{round}");
        // Closed, or with bytes that no request asked for.
        if round % 2 == 1 {
            backend.send("HTTP/1.1 408 Request Timeout\r\n\r\n");
        }
        drop(backend);
        wait_until("the end of the idle connection", || {
            !is_established(server.address())
        });
    }
    assert!(!proxy.log().contains("set aside"), "{}", proxy.log());
    drop(visitor);
    proxy.finish();
}

/// Whether a connection to this address has not heard of its end.
fn is_established(address: SocketAddr) -> bool {
    let port = format!("0100007F:{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, remote) = (words.next().unwrap(), words.next().unwrap());
        let state = words.next().unwrap();
        // 01 is ESTABLISHED.
        remote == port && local != port && state == "01"
    })
}

#[test]
fn post_on_idle_connection() {
    let (server, proxy) = one("");
    let mut visitor = proxy.ask("/1");
    let mut first = server.accept();
    first.request();
    first.reply_to(&mut visitor, "ok");
    thread::sleep(Duration::from_millis(1100));
    visitor.send(post("/2"));
    let mut second = server.accept();
    assert_eq!(second.request().target(), "/2");
    second.reply_to(&mut visitor, "ok");
    // GET may use it, and goes to another one when it ends at that moment.
    visitor.send_get("/3");
    assert_eq!(second.request().target(), "/3");
    drop(second);
    assert_eq!(first.request().target(), "/3");
    first.reply_to(&mut visitor, "ok");
    drop((visitor, first));
    proxy.finish();
}

#[test]
fn idle_timeout() {
    let (server, proxy) = one(", timeouts: {idle: 1500ms}");
    let mut visitor = proxy.ask("/");
    let mut backend = server.accept();
    backend.request();
    let since = Instant::now();
    backend.reply_to(&mut visitor, "ok");
    backend.assert_closed();
    assert!(
        since.elapsed() >= Duration::from_millis(1500),
        "closed after {:?}",
        since.elapsed()
    );
    drop(visitor);
    proxy.finish();
}

#[test]
fn unsolicited_bytes() {
    let (server, proxy) = one("");
    let mut visitor = proxy.ask("/1");
    let mut backend = server.accept();
    backend.request();
    backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\nstolen");
    assert_eq!(visitor.answer().text(), "ok");
    backend.assert_closed();
    proxy.wait_for_log("closed: reason=junk");
    visitor.send_get("/2");
    let mut backend = server.accept();
    backend.request();
    backend.reply_to(&mut visitor, "two");
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn many_clients() {
    let servers = [(); 2].map(|()| EchoServer::run(Server::start(), Duration::from_millis(1)));
    let [a, b] = [0, 1].map(|n: usize| servers[n].address().to_string());
    let proxy = Proxy::start(&site(&[&a, &b], ", server_connections: 3"));
    crowd(proxy.address(), 24, 25);
    for server in &servers {
        assert!(server.most() <= 3, "{}", server.most());
        assert!(server.connections() <= 3, "{}", server.connections());
        assert!(server.answered() > 100, "{}", server.answered());
    }
    drop(servers);
    proxy.finish();
}

#[test]
fn upgraded_connection() {
    let (server, proxy) = one(", server_connections: 1");
    let mut visitor = proxy.visit();
    visitor.send(
        "GET /chat HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    let mut tunnel = server.accept();
    assert_eq!(tunnel.request().field("Upgrade"), Some("websocket"));
    // While the connection is a tunnel, another request has to wait.
    let mut other = proxy.ask("/other");
    assert_eq!(proxy.visit().get("/swiftiply_health").status, 200);
    assert!(
        server.accept_now().is_none(),
        "the server got one connection too many"
    );
    tunnel.send(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    assert_eq!(visitor.answer().status, 101);
    let mut backend = server.accept();
    assert_eq!(backend.request().target(), "/other");
    backend.reply_to(&mut other, "other");
    visitor.send("to the server");
    assert_eq!(tunnel.read_to("server"), "to the server");
    tunnel.send("and back");
    assert_eq!(visitor.at_least(8), b"and back");
    // Its end does not affect the others.
    drop(visitor);
    tunnel.assert_closed();
    drop(tunnel);
    proxy.wait_for_log("tunnel carried");
    exchange(&mut other, &mut backend, "/again");
    drop((other, backend));
    proxy.finish();
}
