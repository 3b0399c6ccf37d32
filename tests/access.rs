//! The access proxy: between a server, real or played by the test, and an ordinary application.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal::{self, SIGHUP, SIGINT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2};
use nix::sys::signal::{kill, killpg};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use crate::common::access::run;
use crate::common::backend::preamble;
use crate::common::proxy::{SITE, site};
use crate::common::{
    Access, Backend, EchoServer, Load, Port, Proxy, Server, Visitor, assert_contains, assert_lacks,
    bytes, exchange, full_listener, limit, needs, secure, wait_until,
};

const NO_KEY: &str = "swiftclient00000000000000";

/// A server that the test plays, the line that was dialled first, and the application.
fn by_hand() -> (Server, Server, Access) {
    let (server, app) = (Server::start(), Server::start());
    let yaml = format!(
        "{{connect: '{}', to: '{}', connections: 1}}",
        server.address(),
        app.address()
    );
    let access = Access::start(&yaml, &[]);
    (server, app, access)
}

fn dialled(server: &Server) -> Visitor {
    Visitor::dialled(server.accept(), NO_KEY)
}

#[test]
fn what_only_prints() {
    let help = run(&["-h"]);
    assert_eq!(help.code, Some(0));
    assert!(help.out.starts_with("Usage: swiftiply-access "), "{help:?}");
    let version = format!("swiftiply-access {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&["--version"]).out, version);
    let good = run(&["--check", "-t", "127.0.0.1:3000", "127.0.0.1:30000"]);
    assert_eq!((good.code, good.out.as_str()), (Some(0), "ok\n"));
}

#[test]
fn a_named_pipe_is_no_configuration_and_signals_are_heard() {
    let (server, _app, mut access) = by_hand();
    let _line = dialled(&server);
    let file = access.file("access.yml");
    fs::remove_file(&file).unwrap();
    mkfifo(&file, Mode::S_IRWXU).unwrap();
    access.signal(SIGHUP);
    access.wait_for_log("access.yml: a named pipe, not a regular file");
    access.signal(SIGTERM);
    assert_eq!(access.wait().code(), Some(0));
}

#[test]
fn what_is_wrong_is_told_with_file_line_and_key() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("access.yml");
    let path = file.to_str().unwrap();
    let certificate = directory.path().join("ca.pem");
    fs::write(&certificate, "no certificate").unwrap();
    for (yaml, options, expected) in [
        ("", &[][..], "connect: missing; write where the server is"),
        (
            "\nconect: 'a:1'",
            &[],
            ":2: unknown key \"conect\"; did you mean \"connect\"?",
        ),
        (
            "connect: 'a:1'\nto: b",
            &[],
            ":2: to \"b\": no port; write b:30000",
        ),
        (
            "connect: 'a:1'",
            &["-n", "x"],
            "command line: connections \"x\": write a number",
        ),
        (
            "connect: 'a:1'",
            &["-t", "b:1", "-k", "/none"],
            "command line: key file \"/none\": ",
        ),
        (
            "connect: 'a:1'",
            &["--nonsense"],
            "swiftiply-access: unrecognized option: 'nonsense'",
        ),
        (
            "connect: 'a:1'",
            &["-t", "b:1", "--"],
            "swiftiply-access: --: no command behind it",
        ),
        (
            &format!(
                "{{connect: 'a:1', to: 'b:1', ssl: {{ca: {}}}}}",
                certificate.display()
            ),
            &[],
            &format!(
                "access.yml:1: ssl.ca \"{}\": no certificate in it",
                certificate.display()
            ),
        ),
        (
            "connect: 'a:1'\nto: 'b:1'\ncommand: [no-such-program-here, -p]",
            &[],
            ":3: command \"no-such-program-here\": there is no such program in PATH",
        ),
        (
            "connect: 'a:1'\nto: 'b:1'",
            &["--", certificate.to_str().unwrap()],
            "command line: command \"",
        ),
        (
            "connect: 'a:1'\nto: 'b:1'",
            &["--", certificate.to_str().unwrap()],
            "it may not be executed",
        ),
        (
            "connect: 'a:1'\nto: 'b:1'\nlogger: {type: file, file: /none/such/log}",
            &[],
            ":3: logger.file \"/none/such/log\": there is no directory /none/such",
        ),
        (
            "connect: 'a:1'\nto: 'b:1'\nssl: {ca: /none, certfile: /none, keyfile: /none}",
            &[],
            ":3: ssl.certfile \"/none\": no such file or directory",
        ),
        (
            "connect: 'a:1'\nto: 'b:1'",
            &["a:1", "puma", "-p", "3000"],
            "if the command begins here, write -- in front of it",
        ),
    ] {
        fs::write(&file, yaml).unwrap();
        for check in [&["--check"][..], &[]] {
            let arguments = [&["-c", path], check, options].concat();
            let ended = run(&arguments);
            assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
            assert!(ended.err.contains(expected), "{arguments:?}: {ended:?}");
        }
    }
    assert_eq!(run(&["-c", "/none/such.yml"]).code, Some(2));
}

#[test]
fn a_hint_before_the_end_of_a_body_is_passed_on_and_the_body_goes_on() {
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
fn a_hint_comes_through_while_the_application_takes_nothing_of_the_body() {
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
fn a_head_in_many_pieces_does_not_hold_a_request_up_for_ever() {
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
    // It takes nothing of the body, and is never silent for as long as that.
    backend.send_when_readable("HTTP/1.1 200 OK\r\nX: ");
    backend.drip();
    assert_eq!(visitor.answer().status, 504);
    access.wait_for_log("no answer in time");
    drop((visitor, backend));
    access.finish();
    proxy.finish();
}

#[test]
fn an_answer_before_the_end_of_a_body_is_the_answer() {
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
fn requests_and_answers_of_all_shapes_go_through() {
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
    // An answer in one piece and byte by byte.
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
    // The end of the connection is the end of the answer.
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
    // And one that says that it closes is not asked again.
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
fn a_body_that_comes_too_slowly_is_given_up() {
    let (server, app, access) = by_hand();
    // One that is complete before the application gets any of it, and one that is passed on.
    for length in [10_000, 100_000] {
        let mut line = server.accept();
        line.take(NO_KEY.len());
        line.send(format!(
            "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n"
        ));
        let passed_on = (length == 100_000).then(|| app.accept_asking());
        // There is some progress all the time: only the rate is too low.
        line.drip();
        drop(passed_on);
    }
    access.finish();
}

#[test]
fn a_target_and_a_host_that_differ_are_refused_as_the_server_does() {
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
fn a_field_with_an_underscore_comes_through_if_the_server_lets_it() {
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
fn a_field_that_could_be_taken_for_one_of_a_proxy_does_not_come_through() {
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
fn options_goes_as_far_as_it_may() {
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
fn the_server_sees_framing_as_the_application_chose_it() {
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
fn a_body_that_comes_slowly_is_passed_on_as_it_comes() {
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
    // An answer before the end of the body, as 413 is; what is left is read, and the line is good for more.
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
    // So does one that has asked and does not wait for the answer.
    let mut backend = app.accept_asking();
    backend.request();
    drop(line);
    backend.assert_closed();
    drop(dialled(&server));
    access.finish();
}

#[test]
fn the_time_for_an_answer_begins_at_the_end_of_the_request() {
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
    // Longer than an answer may take.
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
    // The lines are there still.
    let line = &mut lines[1];
    line.send_get("/");
    let mut backend = app.accept_asking();
    backend.request();
    backend.reply_to(line, "ok");
    drop((backend, backends, lines));
    access.finish();
}

#[test]
fn a_broken_answer_is_seen_as_one() {
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
    // Without any answer the server says so for a POST, and asks again for a GET.
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
    // A small answer that breaks off was not passed on, so it is had from somebody else.
    visitor.send_get("/broken");
    let mut backend = app.accept_asking();
    backend.request();
    backend.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
    drop(backend);
    let mut backend = app.accept_asking();
    assert_eq!(backend.request().target(), "/broken");
    // What comes behind an answer reaches nobody.
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
fn a_kept_connection_that_has_closed_costs_no_request() {
    let (server, app, access) = by_hand();
    let mut line = dialled(&server);
    line.send_get("/");
    let mut backend = app.accept_asking();
    backend.request();
    backend.reply("ok");
    line.answer();
    // It closes while it is idle: also a POST goes to a new one.
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
    // A new one that does so is the server's to repeat.
    let mut line = dialled(&server);
    line.send_get("/");
    app.accept_asking().request();
    line.assert_closed();
    drop(dialled(&server));
    access.finish();
}

#[test]
fn it_dials_in_only_while_the_application_answers() {
    let proxy = Proxy::simple();
    let app = EchoServer::start();
    let address = app.address();
    drop(app);
    let access = Access::start(
        &format!(
            "{{connect: '{}', to: '{address}', connections: 3, check: {{interval: 10ms}}}}",
            proxy.dial_in()
        ),
        &[],
    );
    // It may just be starting: no reason for a warning.
    access.wait_for_log(&format!(
        "[INFO] application {address}: connection refused; waiting for it"
    ));
    assert_lacks(&proxy.log(), "joined");
    let app = EchoServer::at(address);
    access.wait_for_log(&format!("application {address}: answers"));
    proxy.wait_for_logs(" joined ", 3);
    let mut visitor = proxy.visit();
    assert_eq!(visitor.get("/a").text(), "/a");
    drop(app);
    access.wait_for_log("connection refused; leaving");
    proxy.wait_for_logs("closed: reason=peer_closed", 3);
    // Requests wait at the server meanwhile.
    visitor.send_get("/b");
    let app = EchoServer::at(address);
    assert_eq!(visitor.answer().text(), "/b");
    drop(visitor);
    access.finish();
    drop(app);
    proxy.finish();
}

#[test]
fn a_check_may_ask_for_a_page() {
    let proxy = Proxy::simple();
    let app = Server::start();
    let access = Access::start(
        &format!(
            "{{connect: '{}', to: '{}', connections: 1, check: {{uri: '/up?x', interval: 10ms}}}}",
            proxy.dial_in(),
            app.address()
        ),
        &[],
    );
    let check = |answer: &str| {
        let mut backend = app.accept_asking();
        let seen = backend.request();
        assert_eq!(seen.target(), "/up?x");
        assert_eq!(seen.field("User-Agent"), Some("swiftiply-access"));
        backend.send(answer);
    };
    let good = "HTTP/1.1 204 No Content\r\n\r\n";
    check("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    access.wait_for_log("check /up?x: 503; waiting for it");
    check("rubbish\r\n\r\n");
    check(good);
    proxy.wait_for_logs(" joined ", 1);
    check(good);
    check("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n");
    access.wait_for_log("check /up?x: 500; leaving");
    proxy.wait_for_log("closed: reason=peer_closed");
    check(good);
    proxy.wait_for_logs(" joined ", 2);
    // While its only place is taken there is no other request.
    let mut visitor = proxy.ask("/busy");
    let mut backend = loop {
        let mut backend = app.accept_asking();
        if backend.request().target() == "/busy" {
            break backend;
        }
        backend.send(good);
    };
    for _ in 0..3 {
        assert!(app.accept().next().is_none(), "a check sent a request");
    }
    backend.reply_to(&mut visitor, "done");
    drop((visitor, backend));
    access.signal(SIGTERM);
    let mut access = access;
    assert_eq!(access.wait().code(), Some(0));
    proxy.finish();
}

#[test]
fn a_request_that_may_not_be_repeated_waits_for_the_application() {
    let proxy = Proxy::simple();
    let app = EchoServer::start();
    let address = app.address();
    let access = Access::start(
        // So seldom that nobody but the request finds out.
        &format!(
            "{{connect: '{}', to: '{address}', connections: 2, check: {{interval: 1m}}}}",
            proxy.dial_in()
        ),
        &[],
    );
    proxy.wait_for_logs(" joined ", 2);
    drop(app);
    let mut visitor = proxy.visit();
    visitor.send("POST /once HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody");
    access.wait_for_log("connection refused; leaving");
    let app = EchoServer::at(address);
    assert_eq!(visitor.answer().text(), "/once 4");
    assert_eq!(app.answered(), 1);
    drop(visitor);
    access.finish();
    drop(app);
    proxy.finish();
}

#[test]
fn never_more_requests_at_the_application_than_it_may_get() {
    let proxies = [Proxy::simple(), Proxy::simple()];
    let app = EchoServer::start();
    let access = Access::start(
        &format!(
            "{{connect: ['{}', '{}'], to: '{}', connections: 4}}",
            proxies[0].dial_in(),
            proxies[1].dial_in(),
            app.address()
        ),
        &[],
    );
    // All four to each, and one proxy may use them all.
    for proxy in &proxies {
        proxy.wait_for_logs(" joined ", 4);
    }
    let quiet = access.descriptors();
    app.hold(true);
    thread::scope(|scope| {
        for number in 0..200 {
            let address = proxies[number % 2].address();
            scope.spawn(move || {
                let mut visitor = Visitor::connect(address);
                for n in 0..5 {
                    let path = format!("/hold/{number}/{n}");
                    assert_eq!(visitor.get(&path).text(), path);
                }
            });
        }
        wait_until("four requests", || app.held() == 4);
        app.hold(false);
    });
    assert_eq!((app.answered(), app.most()), (1000, 4));
    // Four connections carry all of them, but for those that only look.
    wait_until("no more open files than before", || {
        access.descriptors() <= quiet + 4
    });
    access.finish();
    drop(app);
    proxies.into_iter().for_each(Proxy::finish);
}

#[test]
fn no_request_that_may_be_repeated_is_lost_when_the_application_is_killed() {
    let proxy = Proxy::simple();
    let mut app = Some(EchoServer::start());
    let address = app.as_ref().unwrap().address();
    let access = Access::between(proxy.dial_in(), address, 4);
    let load = Load::start(proxy.address(), false);
    load.wait_for(50);
    for round in 1..6 {
        drop(app.take());
        access.wait_for_logs("; leaving", round);
        app = Some(EchoServer::at(address));
        load.wait_for(100);
    }
    load.wait_for(50);
    load.end();
    access.finish();
    drop(app);
    proxy.finish();
}

#[test]
fn it_dials_in_again_when_a_server_is_killed_and_comes_back() {
    let port = Port::reserve();
    let yaml = SITE.replace(":0", &format!(":{}", port.number()));
    let app = EchoServer::start();
    let mut proxy = Proxy::start(&yaml);
    let access = Access::between(proxy.dial_in(), app.address(), 3);
    for _ in 0..2 {
        proxy.signal(Signal::SIGKILL);
        proxy.wait();
        access.wait_for_log("connection refused; trying again");
        proxy = Proxy::start(&yaml);
        let since = Instant::now();
        proxy.wait_for_logs(" joined ", 3);
        // 1.2 s at the most, had nobody else anything to do; 20 s, if it had forgotten that nobody listened.
        assert!(
            since.elapsed() < Duration::from_secs(15),
            "dialled again after {:?}",
            since.elapsed()
        );
        assert_eq!(proxy.visit().get("/a").text(), "/a");
    }
    access.finish();
    drop(app);
    proxy.finish();
}

#[test]
fn the_port_for_clients_is_not_taken_for_a_success() {
    let app = EchoServer::start();
    let proxy = Proxy::simple();
    let dial = |at| {
        Access::start(
            &format!(
                "{{connect: '{at}', to: '{}', connections: 1}}",
                app.address()
            ),
            &[],
        )
    };
    let access = dial(proxy.address());
    let says = "it answers as it answers clients: this is its port for clients; dial the outgoing address of a site";
    access.wait_for_log(&format!("server {}: {says}; trying again", proxy.address()));
    assert!(!access.log().contains("dialled in"), "{}", access.log());
    drop(access);
    proxy.finish();
    // The same from a server that takes its time; it is asked more and more seldom, too.
    let server = Server::start();
    let access = dial(server.address());
    for count in 1..4 {
        let mut backend = server.accept();
        access.wait_for_logs(": dialled in", count);
        backend.send("HTTP/1.1 408 Request Timeout\r\n\r\n");
        access.wait_for_logs(&format!("{says}; trying again"), count);
    }
    drop(access);
    drop(app);
}

#[test]
fn a_server_that_does_not_let_it_in_is_asked_more_and_more_seldom() {
    let server = Server::start();
    let app = EchoServer::start();
    let at = server.address();
    let yaml = |connections: usize| {
        let to = app.address();
        format!("{{connect: '{at}', to: '{to}', key: secret, connections: {connections}}}")
    };
    let access = Access::start(&yaml(1), &[]);
    let preamble = String::from_utf8(preamble("000000000000", "secret")).unwrap();
    let close = || drop(Visitor::dialled(server.accept(), &preamble));
    close();
    access.wait_for_log("it closes the connection at once; is the key right?; trying again");
    let since = Instant::now();
    (0..6).for_each(|_| close());
    // 0.1, 0.1, 0.1, 0.2, 0.4, 0.8, less a quarter.
    assert!(
        since.elapsed() >= Duration::from_millis(1200),
        "{:?}",
        since.elapsed()
    );
    assert_eq!(access.log().matches("trying again").count(), 1);
    // One that is let in brings the others.
    access.reload(&yaml(8));
    let lines: Vec<_> = (0..8).map(|_| server.accept()).collect();
    access.wait_for_log(&format!("server {at}: dialled in"));
    drop(access);
    drop(lines);
}

#[test]
fn connections_that_come_and_go_are_counted_in_few_lines() {
    let server = Server::start();
    let app = EchoServer::start();
    let access = Access::start(
        &format!(
            "{{connect: '{}', to: '{}', connections: 40}}",
            server.address(),
            app.address()
        ),
        &[],
    );
    let at = format!("server {}: ", server.address());
    let lines = || {
        let log = access.log();
        let about = log.lines().filter(|line| line.contains(&at));
        let about = about.filter(|line| line.ends_with(" now"));
        about.map(str::to_owned).collect::<Vec<_>>()
    };
    // How many came and went, by the lines.
    let sum = || {
        let mut sum = (0, 0);
        for line in lines() {
            let text = line.split(&at).nth(1).unwrap();
            let number = |words: &str| -> Option<usize> {
                let before = text.split_once(words)?.0;
                before.rsplit(' ').next()?.parse().ok()
            };
            sum.0 += number(" more dialled in").unwrap_or(0);
            sum.1 += number(" more disconnected").unwrap_or(0);
            sum.1 += text
                .contains(" dialled in and ")
                .then(|| number(" disconnected"))
                .flatten()
                .unwrap_or(0);
            sum.0 += usize::from(text.starts_with("dialled in, "));
            sum.1 += usize::from(text.starts_with("disconnected, "));
        }
        sum
    };
    let since = Instant::now();
    let connections: Vec<_> = (0..40).map(|_| server.accept()).collect();
    wait_until("all are counted", || sum() == (40, 0));
    access.wait_for_log(", 40 now\n");
    drop(connections);
    let connections: Vec<_> = (0..40).map(|_| server.accept()).collect();
    wait_until("all are counted again", || sum() == (80, 40));
    let most = 3 + since.elapsed().as_secs() as usize;
    assert!(lines().len() <= most, "{}", access.log());
    assert!(
        lines()
            .last()
            .is_some_and(|line| line.ends_with(", 40 now")),
        "the last line does not end with 40 connections:\n{}",
        lines().join("\n")
    );
    // Our own end is no loss.
    drop(connections);
    access.finish();
    drop(app);
}

#[test]
fn unix_sockets_and_host_names_on_both_sides() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let app = UnixListener::bind(path("app.sock")).unwrap();
    let proxy = Proxy::start(&format!(
        "map: [{{incoming: test, default: true, outgoing: 'unix:{}', timeout: 60}}]",
        path("in.sock").display()
    ));
    let access = Access::start(
        &format!(
            "{{connect: 'unix:{}', to: 'unix:{}', connections: 1, check: {{interval: 1m}}}}",
            path("in.sock").display(),
            path("app.sock").display()
        ),
        &[],
    );
    let served = thread::spawn(move || {
        loop {
            let (mut stream, _) = app.accept().unwrap();
            let mut head = Vec::new();
            // One that only looks sends nothing.
            if crate::common::read_until(&mut stream, &mut head, "a request", |b| {
                b.ends_with(b"\r\n\r\n")
            }) {
                let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                std::io::Write::write_all(&mut stream, answer.as_bytes()).unwrap();
                return;
            }
        }
    });
    assert_eq!(proxy.visit().get("/").text(), "ok");
    served.join().unwrap();
    access.finish();
    proxy.finish();

    let app = EchoServer::start();
    let proxy = Proxy::simple();
    let port = |address: SocketAddr| format!("localhost:{}", address.port());
    let access = Access::start(
        "",
        &[
            "-n",
            "2",
            "-t",
            &port(app.address()),
            &port(proxy.dial_in()),
        ],
    );
    assert_eq!(proxy.visit().get("/a").text(), "/a");
    access.wait_for_log(&format!(
        "server localhost ({}): dialled in",
        proxy.dial_in()
    ));
    access.finish();
    drop(app);
    proxy.finish();
}

#[test]
fn a_reload_changes_everything_and_cuts_nothing() {
    let proxy = Proxy::start(&site("key: [one, two]"));
    let other = Proxy::simple();
    let (app, second) = (EchoServer::start(), EchoServer::start());
    let yaml = |connect: SocketAddr, app: &EchoServer, rest: &str| {
        format!("{{connect: '{connect}', to: '{}', {rest}}}", app.address())
    };
    let (dial_in, elsewhere) = (proxy.dial_in(), other.dial_in());
    let access = Access::start(&yaml(dial_in, &app, "connections: 2, key: one"), &[]);
    proxy.wait_for_logs(" joined ", 2);
    let load = Load::start(proxy.address(), false);
    load.wait_for(50);
    // More, and fewer.
    access.reload(&yaml(dial_in, &app, "connections: 6, key: one"));
    proxy.wait_for_logs(" joined ", 6);
    load.wait_for(100);
    access.reload(&yaml(dial_in, &app, "connections: 1, key: one"));
    // Idle, or with a request that was just sent and goes to another one.
    proxy.wait_for_logs(" at 127.0.0.1:0 closed: reason=", 5);
    app.forget_most();
    load.wait_for(100);
    assert_eq!(app.most(), 1);
    // Another key, another application.
    access.reload(&yaml(dial_in, &app, "connections: 3, key: two"));
    proxy.wait_for_logs(" joined ", 9);
    load.wait_for(100);
    access.reload(&yaml(dial_in, &second, "connections: 3, key: two"));
    wait_until("answers of the second application", || {
        second.answered() > 0
    });
    load.wait_for(100);
    // What is wrong changes nothing.
    access.reload(&yaml(dial_in, &second, "connections: 0"));
    assert_contains(
        &access.log(),
        "access.yml:2: connections 0: write a number from 1 to 1000",
    );
    access.reload(&yaml(dial_in, &second, "connections: 3, ssl: {ca: /none}"));
    assert_contains(&access.log(), "reload failed: ssl: /none: ");
    load.wait_for(150);
    load.end();
    // Another server.
    access.reload(&yaml(elsewhere, &second, "connections: 3"));
    assert_eq!(other.visit().get("/a").text(), "/a");
    access.wait_for_log(&format!("server {dial_in}: leaving"));
    access.finish();
    drop((app, second));
    proxy.finish();
    other.finish();
}

#[test]
fn a_drain_closes_idle_connections_first_and_finishes_exchanges() {
    let proxy = Proxy::simple();
    let app = Server::start();
    let mut access = Access::between(proxy.dial_in(), app.address(), 3);
    let mut visitor = proxy.ask("/slow");
    let mut backend = app.accept_asking();
    backend.request();
    access.signal(SIGTERM);
    proxy.wait_for_logs("closed: reason=peer_closed", 2);
    assert_lacks(&access.log(), "drained");
    backend.reply_to(&mut visitor, "in time");
    assert_eq!(access.wait().code(), Some(0));
    // The second signal cuts.
    let mut access = Access::between(proxy.dial_in(), app.address(), 1);
    visitor.send("POST /slow HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n");
    let mut backend = app.accept_asking();
    backend.request();
    access.signal(SIGINT);
    access.wait_for_log("draining");
    access.signal(SIGINT);
    assert_eq!(access.wait().code(), Some(1));
    access.wait_for_log("stopped with 1 requests under way");
    assert_eq!(visitor.answer().status, 502);
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn a_log_that_can_grow_no_more_is_not_the_end() {
    let proxy = Proxy::simple();
    let app = EchoServer::start();
    let access = Access::between(proxy.dial_in(), app.address(), 1);
    limit(access.pid(), &format!("--fsize={}:", access.log().len()));
    let yaml = fs::read_to_string(access.file("access.yml")).unwrap();
    let more = yaml.replace("connections: 1", "connections: 2");
    fs::write(access.file("access.yml"), more).unwrap();
    access.signal(SIGHUP);
    proxy.wait_for_logs(" joined ", 2);
    assert_eq!(proxy.visit().get("/a").text(), "/a");
    access.finish();
    drop(app);
    proxy.finish();
}

#[test]
fn a_drain_does_not_wait_for_a_server_that_cannot_be_reached() {
    let (server, queue) = full_listener();
    let app = EchoServer::start();
    let mut access = Access::start(
        &format!("{{connect: '{server}', to: '{}', grace: 1}}", app.address()),
        &[],
    );
    access.wait_for_log("answers");
    access.signal(SIGTERM);
    // Dialling may take ten seconds, but nothing is under way.
    assert_eq!(access.wait().code(), Some(0));
    drop((app, queue));
}

/// A program that serves HTTP, and writes down the signals that come.
const PROGRAM: &str = r#"
import http.server, os, signal, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = f"{os.getpid()} {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
def note(number, frame):
    with open("signals", "a") as file:
        file.write(signal.Signals(number).name + "\n")
    if number == signal.SIGTERM and "stubborn" not in sys.argv:
        os._exit(0)
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, note)
if os.fork() == 0:
    time.sleep(1000)
http.server.ThreadingHTTPServer.allow_reuse_address = True
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

/// Starts an access proxy with that program as its command.
fn with_command(proxy: &Proxy, lines: &str, more: &str) -> Access {
    let reserved = Port::reserve();
    let port = reserved.number();
    fs::write(proxy.file("app.py"), PROGRAM).unwrap();
    let program = proxy.file("app.py");
    Access::start(
        &format!(
            "connect: '{}'\nto: '127.0.0.1:{port}'\nconnections: 3\n{lines}\n\
             command: [python3, '{}', {port}{more}]\n",
            proxy.dial_in(),
            program.display()
        ),
        &[],
    )
    .keeping(reserved)
}

fn pid_of(answer: &str) -> Pid {
    let pid = answer.split(' ').next().unwrap();
    Pid::from_raw(pid.parse().unwrap())
}

/// Processes of the group of this one, zombies included.
fn group(pid: Pid) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let stats = processes.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let of = |stat: &String| {
        let fields = stat.rsplit(") ").next()?;
        fields.split(' ').nth(2)?.parse::<i32>().ok()
    };
    stats.filter(|stat| of(stat) == Some(pid.as_raw())).count()
}

#[test]
fn a_command_is_started_again_and_ended_last() {
    needs!("python3");
    let proxy = Proxy::simple();
    let access = with_command(&proxy, "", "");
    let mut visitor = proxy.visit();
    let mut pid = pid_of(&visitor.get("/").text());
    for _ in 0..3 {
        kill(pid, Signal::SIGKILL).unwrap();
        // Nothing is left of it, neither a zombie nor a child.
        wait_until("the end of its group", || group(pid) == 0);
        let next = pid_of(&visitor.get("/").text());
        assert_ne!(next, pid);
        pid = next;
    }
    access.wait_for_log("(SIGKILL); starting it again in ");
    assert_eq!(group(pid), 2);
    drop(visitor);
    let signals = access.file("signals");
    let mut access = access;
    access.signal(SIGTERM);
    assert_eq!(access.wait().code(), Some(0));
    wait_until("the end of its group", || group(pid) == 0);
    assert_eq!(fs::read_to_string(&signals).unwrap(), "SIGTERM\n");
    let log = access.log();
    assert!(log.find("draining") < log.find("drained"), "{log}");
    proxy.finish();
}

#[test]
fn a_command_that_does_not_end_is_killed() {
    needs!("python3");
    let proxy = Proxy::simple();
    let mut access = with_command(&proxy, "grace: 300ms", ", stubborn");
    let pid = pid_of(&proxy.visit().get("/").text());
    access.signal(SIGTERM);
    assert_eq!(access.wait().code(), Some(1));
    access.wait_for_log("command: it does not end; killed");
    wait_until("the end of its group", || group(pid) == 0);
    proxy.finish();
}

#[test]
fn a_command_gets_term_when_the_access_proxy_is_killed() {
    needs!("python3");
    let proxy = Proxy::simple();
    let mut access = with_command(&proxy, "", "");
    let pid = pid_of(&proxy.visit().get("/").text());
    access.signal(Signal::SIGKILL);
    access.wait();
    // Each of our threads that ends passes its children on to another, and the system sends the signal each time.
    wait_until("the signal", || {
        fs::read_to_string(access.file("signals"))
            .is_ok_and(|signals| signals.starts_with("SIGTERM\n"))
    });
    // What it has started itself is left to it.
    killpg(pid, Signal::SIGKILL).unwrap();
    proxy.finish();
}

#[test]
fn a_start_is_no_reason_for_a_warning_and_signals_without_a_command_are_ignored() {
    let proxy = Proxy::simple();
    let app = EchoServer::start();
    let access = Access::between(proxy.dial_in(), app.address(), 2);
    assert_eq!(proxy.visit().get("/a").text(), "/a");
    // If one were not caught it would win over the signal to end.
    for signal in [SIGUSR2, SIGTTIN, SIGTTOU] {
        access.signal(signal);
    }
    assert_eq!(proxy.visit().get("/b").text(), "/b");
    let log = access.log();
    assert!(!log.contains("[WARN]") && !log.contains("[ERROR]"), "{log}");
    access.finish();
    drop(app);
    proxy.finish();
}

#[test]
fn signals_are_passed_on_as_the_configuration_says() {
    needs!("python3");
    let proxy = Proxy::simple();
    let wait = |access: &Access, expected: &str| {
        wait_until(expected, || {
            fs::read_to_string(access.file("signals")).unwrap_or_default() == expected
        });
    };
    let access = with_command(&proxy, "", "");
    proxy.visit().get("/");
    // HUP is ours unless it is asked for.
    access.signal(SIGHUP);
    access.wait_for_log("reloaded");
    access.signal(SIGUSR1);
    access.wait_for_log("logs reopened");
    wait(&access, "SIGUSR1\n");
    access.signal(SIGUSR2);
    wait(&access, "SIGUSR1\nSIGUSR2\n");
    access.finish();
    let access = with_command(&proxy, "signals: HUP", "");
    proxy.visit().get("/");
    access.signal(SIGUSR2);
    access.signal(SIGHUP);
    wait(&access, "SIGHUP\n");
    access.finish();
    proxy.finish();
}

#[test]
fn a_reload_may_change_the_command() {
    needs!("python3");
    let proxy = Proxy::simple();
    let access = with_command(&proxy, "", "");
    let mut visitor = proxy.visit();
    let pid = pid_of(&visitor.get("/").text());
    let yaml = fs::read_to_string(access.file("access.yml")).unwrap();
    let (_, yaml) = yaml.split_once('\n').unwrap();
    access.reload(&yaml.replace("command: [", "command: [env, X=1, "));
    wait_until("another process", || {
        pid_of(&visitor.get("/").text()) != pid
    });
    assert_eq!(
        fs::read_to_string(access.file("signals")).unwrap(),
        "SIGTERM\n"
    );
    access.reload(&yaml.replace("command: [", "command: [/none/such, "));
    access.wait_for_log("command /none/such: no such file or directory; starting it again");
    access.reload(yaml);
    assert_eq!(visitor.get("/").status, 200);
    drop(visitor);
    access.finish();
    proxy.finish();
}

#[test]
fn a_command_that_does_not_give_way_to_another_is_killed() {
    needs!("python3");
    let proxy = Proxy::simple();
    let access = with_command(&proxy, "grace: 300ms", ", stubborn");
    let mut visitor = proxy.visit();
    let pid = pid_of(&visitor.get("/").text());
    let yaml = fs::read_to_string(access.file("access.yml")).unwrap();
    let (_, yaml) = yaml.split_once('\n').unwrap();
    access.reload(&yaml.replace(", stubborn", ""));
    access.wait_for_log("command: it does not end; killed");
    wait_until("the end of its group", || group(pid) == 0);
    assert_ne!(pid_of(&visitor.get("/").text()), pid);
    drop(visitor);
    access.finish();
    proxy.finish();
}

#[test]
fn a_command_on_the_command_line() {
    needs!("python3");
    let proxy = Proxy::simple();
    let directory = tempfile::tempdir().unwrap();
    let program_file = directory.path().join("app.py");
    fs::write(&program_file, PROGRAM).unwrap();
    let port = Port::reserve();
    let number = port.number().to_string();
    let to = format!("127.0.0.1:{number}");
    let server = proxy.dial_in().to_string();
    let words = [
        "-t",
        &to,
        &server,
        "--",
        "python3",
        path(&program_file),
        &number,
    ];
    let access = Access::start("", &words);
    assert_eq!(proxy.visit().get("/").status, 200);
    access.finish();
    proxy.finish();
}

fn path(file: &Path) -> &str {
    file.to_str().unwrap()
}

#[test]
fn the_sample_is_a_configuration_with_its_comments_too() {
    needs!("openssl");
    let sample = include_str!("../conf/swiftiply-access.yml");
    let proxy = Proxy::simple();
    let app = EchoServer::start();
    let yaml = sample
        .replace("127.0.0.1:30000", &proxy.dial_in().to_string())
        .replace("to: 127.0.0.1:3000\n", &format!("to: {}\n", app.address()));
    let access = Access::start(&yaml, &[]);
    assert_eq!(proxy.visit().get("/a").text(), "/a");
    access.finish();
    drop(app);
    proxy.finish();

    let directory = tempfile::tempdir().unwrap();
    let (certificate, _) = secure::certificate(directory.path(), "ca", &["a.test"]);
    fs::write(directory.path().join("key"), "secret\n").unwrap();
    // Every line that shows a key, in the place of the one that it stands for.
    let shown = sample.lines().filter(|line| !line.starts_with("connect:"));
    let yaml: String = shown
        .map(|line| match line.strip_prefix('#') {
            Some(key) if key.starts_with(|letter: char| letter.is_alphabetic()) => key,
            _ => line,
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let yaml = yaml.replace("/etc/swiftiply", path(directory.path()));
    // A program that every machine has.
    let yaml = yaml.replace("[puma,", "[sh,");
    assert!(certificate.exists(), "{} is missing", certificate.display());
    let file = directory.path().join("all.yml");
    fs::write(&file, &yaml).unwrap();
    let ended = run(&["--check", "-c", path(&file)]);
    assert_eq!(ended.code, Some(0), "{yaml}\n{ended:?}");
    // All keys but those for logs, deadlines and signals are shown.
    for key in swiftiply::config::access_keys() {
        let inner = ["ssl.", "logger", "timeouts", "grace", "signals", "check."];
        let told = inner.iter().any(|start| key.starts_with(start)) || key == "key";
        assert!(told || yaml.contains(&format!("\n{key}: ")), "{key}");
    }
    // The unit starts it with a configuration, and reloads and ends it by signals that it knows.
    let unit = include_str!("../conf/swiftiply-access@.service");
    for line in [
        "WorkingDirectory=/srv/%i\n",
        "ExecStart=/usr/local/bin/swiftiply-access -c /etc/swiftiply/access/%i.yml\n",
        // In this order; the second is not done if the first fails.
        "ExecReload=/usr/local/bin/swiftiply-access --check -c /etc/swiftiply/access/%i.yml\n\
         ExecReload=/bin/kill -HUP $MAINPID\n",
        "KillMode=mixed\n",
        "User=%i\nGroup=%i\n",
    ] {
        assert!(unit.contains(line), "{line}");
    }
    let unit = include_str!("../conf/swiftiply.service");
    let reload = "ExecReload=/usr/local/bin/swiftiply --check -c /etc/swiftiply/swiftiply.yml\n\
                  ExecReload=/bin/kill -HUP $MAINPID\n";
    assert!(
        unit.contains(reload),
        "conf/swiftiply.service does not check before it reloads:\n{unit}"
    );
}
