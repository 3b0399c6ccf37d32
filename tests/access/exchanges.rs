//! Requests and responses that pass through.

use std::thread;
use std::time::{Duration, Instant};

use super::{NO_KEY, by_hand, dialled};
use crate::common::proxy::site;
use crate::common::{Access, Backend, Proxy, Server, assert_contains, bytes, exchange};

#[test]
fn early_hint() {
    let proxy = Proxy::simple_with("defaults: {request_buffering: false}");
    let app = Server::start();
    let access = Access::between(proxy.dial_in(), app.address(), 1);
    let mut visitor = proxy.visit();
    visitor.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\nabcd");
    let mut backend = app.accept_asking();
    backend.read_to("abcd");
    backend.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 10");
    let hints = visitor.answer();
    assert_eq!((hints.status, hints.field("Link")), (103, Some("</a>")));
    visitor.send(vec![b'e'; 99_996]);
    backend.take(99_996);
    backend.send("2 Processing\r\n\r\n");
    assert_eq!(visitor.answer().status, 102);
    backend.reply_to(&mut visitor, "ok");
    exchange(&mut visitor, &mut backend, "/next");
    drop((visitor, backend));
    access.finish();
    proxy.finish();
}

#[test]
fn hint_while_stalled() {
    let proxy = Proxy::simple();
    let app = Server::start();
    let access = Access::between(proxy.dial_in(), app.address(), 1);
    let mut visitor = proxy.visit();
    // One that is passed on as it comes, and one that goes with the head.
    for length in [40_000_000, 65_536] {
        visitor.send_post("/", vec![b'a'; length]);
        let mut backend = app.accept_asking();
        backend.send_when_readable("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early");
        backend.send(" Hints\r\nLink: </a>\r\n\r\n");
        let hints = visitor.answer();
        assert_eq!((hints.status, hints.field("Link")), (103, Some("</a>")));
        assert_eq!(backend.request().body.len(), length);
        backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        assert_eq!(visitor.answer().text(), "ok");
    }
    drop(visitor);
    access.finish();
    proxy.finish();
}

#[test]
fn head_in_pieces() {
    let proxy = Proxy::simple();
    let app = Server::start();
    let yaml = format!(
        "{{connect: '{}', to: '{}', connections: 1, timeouts: {{backend: 300ms}}}}",
        proxy.dial_in(),
        app.address()
    );
    let access = Access::start(&yaml, &[]);
    let mut visitor = proxy.visit();
    visitor.send_post("/", vec![b'a'; 40_000_000]);
    let mut backend = app.accept_asking();
    // It reads nothing of the body, and is never silent for longer than the time-out.
    backend.send_when_readable("HTTP/1.1 200 OK\r\nX: ");
    backend.drip();
    assert_eq!(visitor.answer().status, 504);
    access.wait_for_log("no response in time");
    drop((visitor, backend));
    access.finish();
    proxy.finish();
}

#[test]
fn early_response() {
    let proxy = Proxy::simple();
    let app = Server::start();
    let access = Access::between(proxy.dial_in(), app.address(), 1);
    let mut visitor = proxy.visit();
    visitor.send_post("/large", vec![b'a'; 3_000_000]);
    let mut backend = app.accept_asking();
    backend.read_to("/large HTTP/1.1");
    backend
        .send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno");
    let answer = visitor.answer();
    assert_eq!((answer.status, answer.text().as_str()), (413, "no"));
    drop((visitor, backend));
    access.finish();
    proxy.finish();
}

#[test]
fn shapes() {
    let proxy = Proxy::simple();
    let app = Server::start();
    let access = Access::between(proxy.dial_in(), app.address(), 1);
    let mut visitor = proxy.ask("/first?q=1");
    let mut backend = app.accept_asking();
    let seen = backend.request();
    assert_eq!(seen.target(), "/first?q=1");
    assert_eq!(seen.field("Host"), Some("test"));
    assert_eq!(seen.field("X-Forwarded-For"), Some("127.0.0.1"));
    assert_eq!(seen.field("Via"), Some("1.1 swiftiply"));
    assert_eq!(seen.field("Connection"), None);
    backend.reply_to(&mut visitor, "one");
    // From here on all on the same connection to the application. Bodies small and large.
    for length in [0, 1, 5_000, 65_536, 65_537, 3_000_000] {
        let body = bytes(length);
        visitor.send_post("/body", &body);
        assert_eq!(backend.request().body, body);
        backend.reply("thanks");
        assert_eq!(visitor.answer().text(), "thanks", "{length}");
    }
    // A response in one piece and byte by byte.
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2;x=y\r\nbc\r\n0\r\nT: v\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
    ] {
        for whole in [true, false] {
            visitor.send_get("/shape");
            backend.request();
            match whole {
                true => {
                    backend.send(answer);
                }
                false => {
                    for byte in answer.bytes() {
                        backend.send([byte]);
                    }
                }
            }
            let mut got = visitor.answer();
            if answer.contains("103") {
                assert_eq!((got.status, got.field("Link")), (103, Some("x")));
                got = visitor.answer();
            }
            assert_eq!(
                (got.status, got.text().as_str()),
                (200, "abc"),
                "{answer:?}"
            );
            assert!(!got.cut, "{answer:?}");
        }
    }
    // No body, whatever the head says.
    for (request, answer, status) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", 200),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", 204),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 12\r\n\r\n",
            304,
        ),
    ] {
        visitor.send(format!("{request} / HTTP/1.1\r\nHost: test\r\n\r\n"));
        backend.request();
        backend.send(answer);
        let got = visitor.answer_to(request);
        assert_eq!(got.status, status);
        let length = (status != 204).then_some("12");
        assert_eq!(got.field("Content-Length"), length);
    }
    // The end of the connection is the end of the response.
    visitor.send_get("/close");
    backend.request();
    backend.send("HTTP/1.0 200 OK\r\n\r\nuntil ");
    backend.send("the end");
    backend.finish();
    let answer = visitor.answer();
    assert_eq!(
        (answer.text().as_str(), answer.cut),
        ("until the end", false)
    );
    assert_eq!(answer.field("Transfer-Encoding"), Some("chunked"));
    // After `Connection: close` the connection gets no further request.
    visitor.send_get("/again");
    let mut backend = app.accept_asking();
    backend.request();
    backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    assert_eq!(visitor.answer().text(), "ok");
    backend.assert_closed();
    drop((visitor, backend));
    access.finish();
    proxy.finish();
}

#[test]
fn slow_body() {
    let (server, app, access) = by_hand();
    // One that is complete before the application gets any of it, and one that is passed on.
    for length in [10_000, 100_000] {
        let mut line = server.accept();
        line.take(NO_KEY.len());
        line.send(format!(
            "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n"
        ));
        let passed_on = (length == 100_000).then(|| app.accept_asking());
        // Bytes keep arriving; only their rate is too low.
        line.drip();
        drop(passed_on);
    }
    access.finish();
}

#[test]
fn host_mismatch() {
    let (server, app, access) = by_hand();
    let mut line = dialled(&server);
    line.send("GET http://test:81/a?b HTTP/1.1\r\nHost: test:81\r\n\r\n");
    let mut backend = app.accept_asking();
    let seen = backend.request();
    assert_eq!(seen.target(), "/a?b");
    assert_eq!(seen.field("Host"), Some("test:81"));
    backend.reply_to(&mut line, "ok");
    for (target, host) in [("http://one/", "test"), ("http://test:81/", "test")] {
        line.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let answer = line.answer();
        assert_eq!(answer.status, 400, "{target}: {answer:?}");
        line.assert_closed();
        access.wait_for_log(
            "a request for test was refused with 400: a Host field other than the target's host",
        );
        line = dialled(&server);
    }
    assert!(
        backend.is_open() && app.accept_now().is_none(),
        "what was refused reached the application"
    );
    drop(line);
    access.finish();
}

#[test]
fn underscore() {
    let proxy = Proxy::start(&site("underscores: true"));
    let app = Server::start();
    let access = Access::between(proxy.dial_in(), app.address(), 1);
    let mut visitor = proxy.visit();
    visitor.send(
        "GET / HTTP/1.1\r\nHost: test\r\napi_key: secret\r\nX_Forwarded_For: 6.6.6.6\r\nA.B: c\r\n\r\n",
    );
    let mut backend = app.accept_asking();
    let seen = backend.request();
    assert_eq!(seen.field("api_key"), Some("secret"));
    assert_eq!(seen.field("A.B"), Some("c"));
    assert_eq!(seen.field("X_Forwarded_For"), None);
    backend.reply_to(&mut visitor, "ok");
    drop(visitor);
    access.finish();
    proxy.finish();
}

#[test]
fn reserved_field() {
    let (server, app, access) = by_hand();
    let mut line = dialled(&server);
    line.send(
        "GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 192.0.2.1\r\nX_Forwarded_For: 6.6.6.6\r\n\
         X.Real.IP: 6.6.6.6\r\nContent_Length: 5\r\napi_key: secret\r\n\r\n",
    );
    let mut backend = app.accept_asking();
    let seen = backend.request();
    let expected =
        "GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 192.0.2.1\r\napi_key: secret\r\n\r\n";
    assert_eq!(seen.head, expected);
    backend.reply_to(&mut line, "ok");
    drop(line);
    access.finish();
}

#[test]
fn options() {
    let (server, app, access) = by_hand();
    let mut line = dialled(&server);
    let options = |forwards: &str, body: &str| {
        let length = body.len();
        format!(
            "OPTIONS * HTTP/1.1\r\nHost: test\r\nMax-Forwards: {forwards}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    // Whether its body is read at once or on its way, the next request follows.
    for body in ["", "abc", &"x".repeat(100_000)] {
        line.send(options("0", body));
        let answer = line.answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, ""));
        assert_eq!(answer.field("Content-Length"), Some("0"));
        assert_contains(answer.field("Allow").unwrap(), "OPTIONS");
    }
    line.send(options("7", ""));
    let mut backend = app.accept_asking();
    let seen = backend.request();
    assert_eq!(seen.field("Max-Forwards"), Some("6"));
    assert_eq!(seen.target(), "*");
    backend.reply_to(&mut line, "ok");
    line.send(options("many", ""));
    assert_eq!(line.answer().status, 400);
    assert!(
        backend.is_open() && app.accept_now().is_none(),
        "what was refused reached the application"
    );
    drop(line);
    access.finish();
}

#[test]
fn framing() {
    let (server, app, access) = by_hand();
    let mut line = dialled(&server);
    let mut ask = |backend: &mut Option<Backend>, answer: &str| {
        line.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        let backend = backend.get_or_insert_with(|| app.accept_asking());
        backend.request();
        backend.send(answer);
        let got = line.answer();
        (got.head.clone(), got.text())
    };
    let mut backend = None;
    let answer = "HTTP/1.1 404 Nowhere\r\nX-One: 1\r\nx-two: 2\r\nContent-Length: 2\r\n\r\nno";
    let (head, body) = ask(&mut backend, answer);
    assert_eq!((head + &body).as_str(), answer);
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
    let (head, body) = ask(&mut backend, answer);
    assert_eq!(
        head,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    assert_eq!(body, "ab");
    let (head, body) = ask(&mut backend, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(head, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(body, "");
    drop(line);
    access.finish();
}

#[test]
fn streamed_body() {
    let (server, app, access) = by_hand();
    let mut line = dialled(&server);
    line.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    let mut backend = app.accept_asking();
    let head = backend.read_to("\r\n\r\n");
    assert!(head.contains("Transfer-Encoding: chunked\r\n"), "{head}");
    assert_eq!(backend.read_to("hello\r\n"), "5\r\nhello\r\n");
    line.send("1\r\n!\r\n");
    assert_eq!(backend.read_to("!\r\n"), "1\r\n!\r\n");
    line.send("0\r\n\r\n");
    assert_eq!(backend.read_to("0\r\n\r\n"), "0\r\n\r\n");
    backend.reply_to(&mut line, "done");
    // A response before the end of the body, as 413 is; what is left is read, and the line is good for more.
    line.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 200000\r\n\r\nbegun");
    backend.read_to("begun");
    backend
        .send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    assert_eq!(line.answer().status, 413);
    backend.assert_closed();
    line.send(vec![b'x'; 199_995]);
    line.send_get("/next");
    let mut backend = app.accept_asking();
    assert_eq!(backend.request().target(), "/next");
    backend.reply_to(&mut line, "ok");
    // A server that leaves in the middle leaves nothing behind.
    line.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 200000\r\n\r\nbegun");
    backend.read_to("begun");
    drop(line);
    backend.assert_closed();
    // It is dialled again.
    let mut line = dialled(&server);
    line.send_get("/");
    // So does one that has asked and does not wait for the response.
    let mut backend = app.accept_asking();
    backend.request();
    drop(line);
    backend.assert_closed();
    drop(dialled(&server));
    access.finish();
}

#[test]
fn response_deadline() {
    let (server, app) = (Server::start(), Server::start());
    let access = Access::start(
        &format!(
            "{{connect: '{}', to: '{}', connections: 2, timeouts: {{first_byte: 3}}}}",
            server.address(),
            app.address()
        ),
        &[],
    );
    // One that is collected first, and one that is passed on as it comes.
    let lengths = [6, 600_000];
    let mut lines = lengths.map(|_| dialled(&server));
    for (line, length) in lines.iter_mut().zip(lengths) {
        line.send(format!(
            "POST /{length} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n"
        ));
    }
    // Longer than a response may take.
    for _ in 0..6 {
        for (line, length) in lines.iter_mut().zip(lengths) {
            line.send("x".repeat(length / 6));
        }
        thread::sleep(Duration::from_millis(700));
    }
    let end = Instant::now();
    let mut backends = lengths.map(|_| app.accept_asking());
    for backend in &mut backends {
        let request = backend.request();
        assert_eq!(request.target(), format!("/{}", request.body.len()));
    }
    // They are answered too late, but not before that time.
    for line in &mut lines {
        assert_eq!(line.answer().status, 504);
    }
    assert!(
        end.elapsed() >= Duration::from_secs(2),
        "{:?}",
        end.elapsed()
    );
    // The connections are still open.
    let line = &mut lines[1];
    line.send_get("/");
    let mut backend = app.accept_asking();
    backend.request();
    backend.reply_to(line, "ok");
    drop((backend, backends, lines));
    access.finish();
}

#[test]
fn broken_response() {
    let proxy = Proxy::simple();
    let app = Server::start();
    let access = Access::between(proxy.dial_in(), app.address(), 2);
    for (answer, status) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 17000\r\n\r\nabc", 200),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
            200,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nxyz\r\n",
            200,
        ),
        ("HTTP/1.1 200 OK\r\nContent-", 502),
        ("rubbish\r\n\r\n", 502),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nabc",
            502,
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            502,
        ),
    ] {
        let mut visitor = proxy.ask("/broken");
        let mut backend = app.accept_asking();
        backend.request();
        backend.send(answer);
        backend.finish();
        let got = visitor.answer();
        assert_eq!(got.status, status, "{answer:?}");
        assert_eq!(got.cut, status == 200, "{answer:?}");
    }
    // Without any response the server says so for a POST, and asks again for a GET.
    let mut visitor = proxy.visit();
    visitor.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx");
    app.accept_asking().request();
    assert_eq!(visitor.answer().status, 502);
    visitor.send_get("/again");
    app.accept_asking().request();
    let mut backend = app.accept_asking();
    assert_eq!(backend.request().target(), "/again");
    backend.reply_to(&mut visitor, "again");
    drop(backend);
    // A small response that is cut was not passed on yet, so the request goes to another backend.
    visitor.send_get("/broken");
    let mut backend = app.accept_asking();
    backend.request();
    backend.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
    drop(backend);
    let mut backend = app.accept_asking();
    assert_eq!(backend.request().target(), "/broken");
    // Bytes after a response are dropped.
    backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n");
    assert_eq!(visitor.answer().text(), "ok");
    backend.assert_closed();
    visitor.send_get("/clean");
    let mut backend = app.accept_asking();
    backend.request();
    backend.reply_to(&mut visitor, "clean");
    drop((visitor, backend));
    access.finish();
    proxy.finish();
}

#[test]
fn closed_idle_connection() {
    let (server, app, access) = by_hand();
    let mut line = dialled(&server);
    line.send_get("/");
    let mut backend = app.accept_asking();
    backend.request();
    backend.reply("ok");
    line.answer();
    // The connection closes while it is idle: even a POST goes to a new one.
    drop(backend);
    line.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx");
    let mut backend = app.accept_asking();
    assert_eq!(backend.request().body, b"x");
    backend.reply_to(&mut line, "ok");
    // It closes when it has the request: one that may be repeated is, once, with its body.
    line.send("PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nput");
    assert_eq!(backend.request().body, b"put");
    drop(backend);
    let mut backend = app.accept_asking();
    assert_eq!(backend.request().body, b"put");
    backend.reply_to(&mut line, "ok");
    line.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx");
    backend.request();
    drop(backend);
    assert!(
        line.is_closed(),
        "the server decides what becomes of a POST"
    );
    // If a new connection closes as well, the server repeats the request.
    let mut line = dialled(&server);
    line.send_get("/");
    app.accept_asking().request();
    line.assert_closed();
    drop(dialled(&server));
    access.finish();
}
