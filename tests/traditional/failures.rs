//! Servers that are down, fail or do not pass their check.

use std::time::{Duration, Instant};

use super::{post, site};
use crate::common::{EchoServer, Proxy, Server, full_listener, wait_until};

#[test]
fn retried_elsewhere() {
    let gone = Server::start().address();
    let server = EchoServer::start();
    let proxy = Proxy::start(&site(
        &[&gone.to_string(), &server.address().to_string()],
        "",
    ));
    let mut visitor = proxy.visit();
    // With any method, since nothing of the request was sent.
    for n in 0..6 {
        let target = format!("/{n}");
        assert_eq!(visitor.ask(post(&target)).text(), format!("{target} 4"));
    }
    assert_eq!(server.answered(), 6);
    proxy.wait_for_log(&format!("server {gone} is set aside: connection refused"));
    // The server starts, and gets requests again.
    let back = EchoServer::at(gone);
    wait_until("the use of the server that is back", || {
        visitor.get("/again");
        back.answered() > 1
    });
    assert_eq!(proxy.log().matches("is back").count(), 1);
    drop((visitor, server, back));
    proxy.finish();
}

#[test]
fn wait_for_restart() {
    let address = Server::start().address();
    let proxy = Proxy::start(&site(&[&address.to_string()], ""));
    let waiting: Vec<_> = (0..8).map(|n| proxy.ask(&format!("/{n}"))).collect();
    proxy.wait_for_log("set aside");
    let server = EchoServer::at(address);
    for (n, mut visitor) in waiting.into_iter().enumerate() {
        assert_eq!(visitor.answer().text(), format!("/{n}"));
    }
    drop(server);
    proxy.finish();
}

#[test]
fn server_dies() {
    let servers = [(); 2].map(|()| Server::start());
    let [a, b] = [0, 1].map(|n: usize| servers[n].address().to_string());
    let proxy = Proxy::start(&site(&[&a, &b], ""));
    let mut visitor = proxy.ask("/get");
    servers[0].accept().request();
    let mut backend = servers[1].accept();
    assert_eq!(backend.request().target(), "/get");
    backend.reply_to(&mut visitor, "ok");
    visitor.send(post("/post"));
    servers[0].accept().request();
    assert_eq!(visitor.answer().status, 502);
    // A response that is cut must be visible to the client.
    visitor.send_get("/cut");
    assert_eq!(backend.request().target(), "/cut");
    backend.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
    drop(backend);
    let answer = visitor.answer();
    assert!(answer.cut && answer.body == b"half", "{answer:?}");
    proxy.finish();
}

#[test]
fn failing_server_set_aside() {
    let bad = Server::start();
    let good = EchoServer::start();
    let proxy = Proxy::start(&site(
        &[&bad.address().to_string(), &good.address().to_string()],
        "",
    ));
    let mut visitor = proxy.visit();
    for n in 0..3 {
        visitor.send_get(&format!("/bad/{n}"));
        let mut backend = bad.accept();
        backend.request();
        backend.send("nonsense\r\n\r\n");
        assert_eq!(visitor.answer().status, 502);
        if n < 2 {
            assert_eq!(visitor.get("/good").text(), "/good");
        }
    }
    proxy.wait_for_log("set aside: 3 exchanges in a row failed");
    // The only server is never set aside.
    let lonely = Server::start();
    proxy.reload(&site(&[&lonely.address().to_string()], ""));
    for _ in 0..5 {
        visitor.send_get("/");
        let mut backend = lonely.accept();
        backend.request();
        backend.send("nonsense\r\n\r\n");
        assert_eq!(visitor.answer().status, 502);
    }
    assert_eq!(proxy.log().matches("set aside").count(), 1);
    drop((visitor, good));
    proxy.finish();
}

#[test]
fn connect_timeout() {
    let (address, queue) = full_listener();
    let address = address.to_string();
    let good = EchoServer::start();
    let proxy = Proxy::start(&site(
        &[&address, &good.address().to_string()],
        ", timeouts: {connect: 200ms}",
    ));
    let mut visitor = proxy.visit();
    let since = Instant::now();
    assert_eq!(visitor.ask(post("/1")).text(), "/1 4");
    assert!(
        since.elapsed() >= Duration::from_millis(200),
        "answered after {:?}",
        since.elapsed()
    );
    proxy.wait_for_log("set aside: timed out");
    drop((visitor, good, queue));
    proxy.finish();
}

#[test]
fn health_check() {
    let server = Server::start();
    let address = server.address().to_string();
    let good = EchoServer::start();
    let proxy = Proxy::start(&site(
        &[&address, &good.address().to_string()],
        ", check: {uri: '/up?x', interval: 50ms}",
    ));
    let answer_check = |status: &str| {
        let mut backend = server.accept();
        let seen = backend.request();
        if seen.target() != "/up?x" {
            return Some(backend);
        }
        assert_eq!(seen.field("Host"), Some("test"));
        backend.send(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
        None
    };
    assert!(
        answer_check("200 OK").is_none(),
        "the check brought a request of a client"
    );
    assert!(
        answer_check("503 Service Unavailable").is_none(),
        "the check brought a request of a client"
    );
    assert!(
        answer_check("503 Service Unavailable").is_none(),
        "the check brought a request of a client"
    );
    proxy.wait_for_log(&format!(
        "server {address} is down: a check is answered with 503"
    ));
    let mut visitor = proxy.visit();
    for _ in 0..5 {
        assert_eq!(visitor.get("/a").text(), "/a");
    }
    assert!(
        answer_check("200 OK").is_none(),
        "the check brought a request of a client"
    );
    proxy.wait_for_log(&format!("server {address} is back"));
    // Now requests arrive again, between the checks.
    visitor.send_get("/b");
    let mut other = proxy.ask("/c");
    let mut backend = loop {
        if let Some(backend) = answer_check("200 OK") {
            break backend;
        }
    };
    backend.reply("hello");
    let texts = [visitor.answer().text(), other.answer().text()];
    assert!(texts.contains(&"hello".to_owned()), "{texts:?}");
    // Checks without a response delay no request.
    drop((visitor, other, backend, good));
    drop(server);
    proxy.finish();
}
