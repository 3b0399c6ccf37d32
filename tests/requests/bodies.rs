//! Bodies of requests: collected, or passed on as they arrive.

use std::thread;

use super::{CHUNKED, POST};
use crate::common::{Backend, Proxy, assert_contains, bytes, exchange, needs};

#[test]
fn large() {
    let (proxy, mut backend, mut visitor) = Proxy::scene();
    let body = bytes(3_000_000);
    let sent = body.clone();
    let thread = thread::spawn(move || {
        visitor.send_post("/", sent);
        visitor
    });
    assert!(backend.request().body == body, "the body arrived changed");
    let mut visitor = thread.join().unwrap();
    backend.reply_to(&mut visitor, "ok");
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn expect_continue() {
    needs!("openssl");
    let proxy = Proxy::both();
    let mut backend = Backend::dial(proxy.dial_in());
    let head = format!("{POST}Expect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    for secure in [false, true] {
        let mut visitor = proxy.visit_as(secure);
        for cut in 0..head.len() {
            visitor.send_cut(head.as_bytes(), cut);
            assert_eq!(visitor.answer().status, 100);
            visitor.send("abc");
            let seen = backend.request();
            assert_eq!(seen.body, b"abc");
            assert_eq!(seen.field("Expect"), None);
            backend.reply_to(&mut visitor, "ok");
        }
        // A client that sends the body at once gets no 100.
        visitor.send(format!("{head}abc"));
        backend.request();
        backend.reply("ok");
        assert_eq!(visitor.answer().status, 200);
    }
    drop(backend);
    proxy.finish();
}

/// A site that passes bodies on as they come.
fn streaming(lines: &str) -> Proxy {
    Proxy::both_with(&format!("{lines}\ndefaults: {{request_buffering: false}}"))
}

#[test]
fn streamed() {
    needs!("openssl");
    let proxy = streaming("");
    let mut backend = Backend::dial(proxy.dial_in());
    for secure in [false, true] {
        let mut visitor = proxy.visit_as(secure);
        for round in 0..3 {
            visitor.send(format!("{POST}{CHUNKED}5\r\nfirst\r\n"));
            assert_contains(
                &backend.read_to("\r\n\r\n"),
                "Transfer-Encoding: chunked\r\n",
            );
            backend.read_to("first\r\n");
            visitor.send(format!("8;x=y\r\nsecond {round}\r\n"));
            backend.read_to(&format!("8\r\nsecond {round}\r\n"));
            // The next request may be behind the end already.
            visitor.send(format!(
                "0\r\nTrailer: x\r\n\r\n{POST}Content-Length: 4\r\n\r\nab"
            ));
            assert_eq!(backend.read_to("\r\n\r\n"), "0\r\n\r\n");
            backend.reply_to(&mut visitor, "one");
            // Behind the head: the id of a request may have these letters as well.
            assert_contains(&backend.read_to("\r\n\r\nab"), "Content-Length: 4\r\n");
            visitor.send("cd");
            backend.read_to("cd");
            backend.reply_to(&mut visitor, "two");
        }
        // Without a body it is as ever.
        exchange(&mut visitor, &mut backend, "/x");
    }
    drop(backend);
    proxy.finish();
}

#[test]
fn bad_while_streamed() {
    needs!("openssl");
    let proxy = streaming("limits: {body: 8}\ntimeouts: {body: 300ms}");
    for (rest, status) in [
        ("Content-Length: 9\r\n\r\n", 413),
        (
            "Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n5\r\nefghi\r\n",
            413,
        ),
        ("Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n5\r\n", 413),
        (
            "Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\nffffffffffffffff\r\n",
            413,
        ),
        ("Transfer-Encoding: chunked\r\n\r\n4\r\nabcdX\r\n", 400),
        ("Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n", 408),
        ("Content-Length: 8\r\n\r\nabcd", 408),
    ] {
        let mut backend = Backend::dial(proxy.dial_in());
        let mut visitor = proxy.visit();
        let answer = visitor.ask(format!("{POST}{rest}"));
        assert_eq!(answer.status, status, "{rest}");
        visitor.finish().assert_closed();
        if status == 413 && rest.starts_with("Content") {
            // It was not even taken.
            visitor = proxy.visit();
            exchange(&mut visitor, &mut backend, "/next");
        } else {
            backend.read_to(if rest.contains("chunked") {
                "abcd\r\n"
            } else {
                "abcd"
            });
            assert!(backend.is_closed(), "{rest}");
        }
    }
    proxy.wait_for_logs(": nothing more of the body came in ", 2);
    assert_contains(&proxy.log(), ": site test: POST ");
    // A client that leaves in the middle ends the exchange.
    let mut backend = Backend::dial(proxy.dial_in());
    proxy
        .visit()
        .send(format!("{POST}Content-Length: 8\r\n\r\nabcd"));
    backend.read_to("abcd");
    backend.assert_closed();
    proxy.wait_for_log("reason=client_gone");
    drop(backend);
    proxy.finish();
}

#[test]
fn early_hint() {
    needs!("openssl");
    let proxy = streaming("");
    let mut backend = Backend::dial(proxy.dial_in());
    for secure in [false, true] {
        let mut visitor = proxy.visit_as(secure);
        visitor.send(format!("{POST}Content-Length: 8\r\n\r\nabcd"));
        backend.read_to("abcd");
        backend.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 10");
        let hints = visitor.answer();
        assert_eq!((hints.status, hints.field("Link")), (103, Some("</a>")));
        visitor.send("efgh");
        backend.read_to("efgh");
        backend.send("2 Processing\r\n\r\n");
        assert_eq!(visitor.answer().status, 102);
        backend.reply_to(&mut visitor, "ok");
        exchange(&mut visitor, &mut backend, "/next");
    }
    drop(backend);
    proxy.finish();
}

#[test]
fn early_response() {
    needs!("openssl");
    let proxy = streaming("");
    let mut backend = Backend::dial(proxy.dial_in());
    let mut visitor = proxy.visit();
    visitor.send(format!(
        "{POST}Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n"
    ));
    assert_eq!(visitor.answer().status, 100);
    visitor.send("abcd");
    backend.read_to("abcd");
    backend.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    let answer = visitor.answer();
    assert_eq!((answer.status, answer.text().as_str()), (403, "no"));
    assert_eq!(answer.field("Connection"), Some("close"));
    backend.assert_closed();
    // It has done nothing wrong.
    assert!(!proxy.log().contains("backend_failed"), "{}", proxy.log());
    visitor
        .send("GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n")
        .assert_closed();
    drop((visitor, backend));
    proxy.finish();
}
