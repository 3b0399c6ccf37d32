//! Several requests on one connection, and its end.

use std::thread;

use super::accepted::ACCEPTED;
use super::{end, recorded};
use crate::common::{Backend, Proxy, Visitor, bytes, needs};

#[test]
fn pipelined() {
    needs!("openssl");
    let (proxy, thread, receiver) = recorded();
    let mut all = String::new();
    for &(_, bytes, ..) in ACCEPTED {
        all.push_str(bytes);
    }
    for cut in (0..all.len()).step_by(7) {
        let mut visitor = proxy.visit_as(cut % 2 == 1);
        visitor.send_cut(all.as_bytes(), cut);
        for &(name, _, head, body) in ACCEPTED {
            assert_eq!(visitor.answer().text(), "ok", "{name} cut at {cut}");
            let seen = receiver.recv().unwrap();
            assert!(seen.starts_with(head.split('|').next().unwrap()), "{seen}");
            assert!(seen.ends_with(body), "{seen}");
            assert_eq!(receiver.recv().unwrap(), "");
        }
    }
    end(proxy, thread);
}

#[test]
fn long_pipeline() {
    let proxy = Proxy::start("workers: 1\nmap: []");
    let request = "GET /swiftiply_health HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut greedy = proxy.visit();
    let mut modest = proxy.visit();
    let reader = {
        greedy.send(request.repeat(100));
        thread::spawn(move || {
            for n in 0..5000 {
                // There is always more to do for it than it has got answers.
                if n % 50 == 0 && n < 4900 {
                    greedy.send(request.repeat(50));
                }
                assert_eq!(greedy.answer().status, 200, "{n}");
            }
            greedy
        })
    };
    for _ in 0..20 {
        assert_eq!(modest.get("/").status, 404);
    }
    drop((reader.join().unwrap(), modest));
    proxy.finish();
}

#[test]
fn empty_line() {
    let proxy = Proxy::simple_with("timeouts: {head: 100ms}\ndefaults: {keepalive: 600ms}");
    let mut backend = Backend::dial(proxy.dial_in());
    let mut visitor = proxy.visit();
    visitor.send_post("/", "abc");
    assert_eq!(backend.request().body, b"abc");
    visitor.send("\r\n");
    backend.reply_to(&mut visitor, "ok");
    // It is idle, and closed for that without a word.
    visitor.assert_closed();
    proxy.wait_for_log("reason=idle");
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn closed_after_response() {
    needs!("openssl");
    let (proxy, thread, _receiver) = recorded();
    for (request, connection) in [
        (
            "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
            Some("close"),
        ),
        ("GET / HTTP/1.0\r\n\r\n", Some("close")),
    ] {
        let mut visitor = proxy.visit();
        let answer = visitor.ask(request);
        assert_eq!(
            (answer.text().as_str(), answer.field("Connection")),
            ("ok", connection)
        );
        visitor.assert_closed();
    }
    // HTTP/1.0 is kept open on request, and the response says so.
    let mut visitor = proxy.visit();
    let request = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    assert_eq!(visitor.ask(request).field("Connection"), Some("keep-alive"));
    assert_eq!(visitor.ask(request).text(), "ok");
    drop(visitor);
    // A program that ends its sending side right behind its request still wants the response.
    let mut visitor = Visitor::connect(proxy.address());
    visitor.send_get("/").finish();
    assert_eq!(visitor.answer().text(), "ok");
    visitor.assert_closed();
    end(proxy, thread);
}

#[test]
fn bytes_after_last_request() {
    needs!("openssl");
    let proxy = Proxy::both_with("defaults: {keepalive: false}");
    let mut backend = Backend::dial(proxy.dial_in());
    // More than the client's system takes before the client reads: some of it is still with ours.
    let body = bytes(2 << 20);
    let next = "GET /next HTTP/1.1\r\nHost: test\r\n\r\n";
    for (secure, behind) in [(false, next), (false, "\r\n"), (true, next), (true, "")] {
        let mut visitor = proxy.visit_as(secure);
        visitor.send_get("/");
        backend.request();
        // It cannot know yet that the connection will be closed.
        match behind {
            "" => visitor.finish(),
            behind => visitor.send(behind),
        };
        proxy.wait_until_idle();
        backend.reply(&body);
        proxy.wait_until_idle();
        let answer = visitor.answer();
        assert!(!answer.cut && answer.body == body, "{behind:?} {secure}");
        visitor.assert_closed();
    }
    drop(backend);
    proxy.finish();
}
