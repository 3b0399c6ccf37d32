//! Requests that are refused, and what happens to their connections.

use super::{CHUNKED, POST, end, forwarded, recorded, recorded_with};
use crate::common::proxy::SITE;
use crate::common::{Backend, Proxy, needs};

/// Name, bytes, status. Each is one request that must not reach a backend.
const REFUSED: &[(&str, &str, u16)] = &[
    // Two framings (RFC 9112 6.1, 6.3).
    (
        "length and chunks",
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "chunks and length",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "chunks in 1.0",
        "POST / HTTP/1.0\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "two codings",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "coding twice",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "coding with a parameter",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked;a\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "empty coding",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "coding behind a vertical tab",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "unknown coding",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
        501,
    ),
    // Lengths (RFC 9112 6.3).
    (
        "length twice",
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
        400,
    ),
    (
        "length list",
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4, 4\r\n\r\nabcd",
        400,
    ),
    (
        "length with sign",
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: +4\r\n\r\nabcd",
        400,
    ),
    (
        "negative length",
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: -4\r\n\r\nabcd",
        400,
    ),
    (
        "length with a blank",
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4 4\r\n\r\nabcd",
        400,
    ),
    (
        "empty length",
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length:\r\n\r\nabcd",
        400,
    ),
    (
        "hexadecimal length",
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0x4\r\n\r\nabcd",
        400,
    ),
    (
        "length of 20 digits",
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10000000000000000000\r\n\r\n",
        400,
    ),
    // Chunks (RFC 9112 7.1).
    (
        "chunk size with 0x",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
        400,
    ),
    (
        "empty chunk size",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "blank before the chunk size",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n 1\r\na\r\n0\r\n\r\n",
        400,
    ),
    (
        "blank behind the chunk size",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n",
        400,
    ),
    (
        "sign before the chunk size",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\na\r\n0\r\n\r\n",
        400,
    ),
    (
        "chunk size of 17 digits",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n00000000000000001\r\na\r\n0\r\n\r\n",
        400,
    ),
    (
        "bare LF behind the chunk size",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
        400,
    ),
    (
        "bare LF behind the chunk",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\n0\r\n\r\n",
        400,
    ),
    (
        "no CRLF behind the chunk",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        400,
    ),
    (
        "bare LF at the end",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\n",
        400,
    ),
    (
        "control byte in an extension",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n1;a\x01\r\na\r\n0\r\n\r\n",
        400,
    ),
    (
        "bare CR in an extension",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n1;a\rb\r\na\r\n0\r\n\r\n",
        400,
    ),
    (
        "folded trailer",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n c\r\n\r\n",
        400,
    ),
    // Lines and fields (RFC 9112 2.2, 5).
    (
        "bare LF in the request line",
        "GET / HTTP/1.1\nHost: test\r\n\r\n",
        400,
    ),
    (
        "bare LF behind a field",
        "GET / HTTP/1.1\r\nHost: test\n\r\n",
        400,
    ),
    (
        "bare LF at the end of the head",
        "GET / HTTP/1.1\r\nHost: test\r\n\n",
        400,
    ),
    (
        "bare CR in a value",
        "GET / HTTP/1.1\r\nHost: test\r\nA: b\rc\r\n\r\n",
        400,
    ),
    (
        "bare CR in the request line",
        "GET /\r HTTP/1.1\r\nHost: test\r\n\r\n",
        400,
    ),
    (
        "NUL in a value",
        "GET / HTTP/1.1\r\nHost: test\r\nA: b\0c\r\n\r\n",
        400,
    ),
    (
        "control byte in a value",
        "GET / HTTP/1.1\r\nHost: test\r\nA: b\x01c\r\n\r\n",
        400,
    ),
    (
        "DEL in a value",
        "GET / HTTP/1.1\r\nHost: test\r\nA: b\x7fc\r\n\r\n",
        400,
    ),
    (
        "folded field",
        "GET / HTTP/1.1\r\nHost: test\r\nA: b\r\n c\r\n\r\n",
        400,
    ),
    (
        "field folded at once",
        "GET / HTTP/1.1\r\n Host: test\r\n\r\n",
        400,
    ),
    (
        "blank before the colon",
        "GET / HTTP/1.1\r\nHost: test\r\nA : b\r\n\r\n",
        400,
    ),
    (
        "blank before the colon of Host",
        "GET / HTTP/1.1\r\nHost : test\r\n\r\n",
        400,
    ),
    ("no colon", "GET / HTTP/1.1\r\nHost: test\r\nA\r\n\r\n", 400),
    (
        "no name",
        "GET / HTTP/1.1\r\nHost: test\r\n: b\r\n\r\n",
        400,
    ),
    (
        "name with a quotation mark",
        "GET / HTTP/1.1\r\nHost: test\r\n\"A\": b\r\n\r\n",
        400,
    ),
    // The request line (RFC 9112 3).
    (
        "three empty lines",
        "\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n",
        400,
    ),
    (
        "blank in front",
        " GET / HTTP/1.1\r\nHost: test\r\n\r\n",
        400,
    ),
    ("two spaces", "GET  / HTTP/1.1\r\nHost: test\r\n\r\n", 400),
    (
        "tab for a blank",
        "GET\t/ HTTP/1.1\r\nHost: test\r\n\r\n",
        400,
    ),
    (
        "blank at the end",
        "GET / HTTP/1.1 \r\nHost: test\r\n\r\n",
        400,
    ),
    (
        "blank in the target",
        "GET /a b HTTP/1.1\r\nHost: test\r\n\r\n",
        400,
    ),
    ("fragment", "GET /a#b HTTP/1.1\r\nHost: test\r\n\r\n", 400),
    (
        "byte above 0x7f in the target",
        "GET /\u{e9} HTTP/1.1\r\nHost: test\r\n\r\n",
        400,
    ),
    (
        "control byte in the target",
        "GET /\x01 HTTP/1.1\r\nHost: test\r\n\r\n",
        400,
    ),
    (
        "no target, as in 0.9",
        "GET HTTP/1.1\r\nHost: test\r\n\r\n",
        505,
    ),
    (
        "relative target",
        "GET a HTTP/1.1\r\nHost: test\r\n\r\n",
        400,
    ),
    (
        "asterisk without OPTIONS",
        "GET * HTTP/1.1\r\nHost: test\r\n\r\n",
        400,
    ),
    (
        "CONNECT",
        "CONNECT test:443 HTTP/1.1\r\nHost: test\r\n\r\n",
        405,
    ),
    ("TRACE", "TRACE / HTTP/1.1\r\nHost: test\r\n\r\n", 405),
    ("version 0.9", "GET /\r\n\r\n", 505),
    ("version 2.0", "GET / HTTP/2.0\r\nHost: test\r\n\r\n", 505),
    ("version 1.2", "GET / HTTP/1.2\r\nHost: test\r\n\r\n", 505),
    (
        "the preface of HTTP/2",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        505,
    ),
    (
        "small letters in the version",
        "GET / http/1.1\r\nHost: test\r\n\r\n",
        400,
    ),
    (
        "a TLS hello",
        "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n",
        400,
    ),
    // Host (RFC 9112 3.2).
    ("no Host", "GET / HTTP/1.1\r\n\r\n", 400),
    (
        "two Hosts",
        "GET / HTTP/1.1\r\nHost: test\r\nHost: test\r\n\r\n",
        400,
    ),
    ("empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    (
        "Host with a blank",
        "GET / HTTP/1.1\r\nHost: te st\r\n\r\n",
        400,
    ),
    (
        "Host with a path",
        "GET / HTTP/1.1\r\nHost: test/a\r\n\r\n",
        400,
    ),
    (
        "Host with a user",
        "GET / HTTP/1.1\r\nHost: a@test\r\n\r\n",
        400,
    ),
    (
        "Host with a port that is none",
        "GET / HTTP/1.1\r\nHost: test:8a\r\n\r\n",
        400,
    ),
    (
        "absolute target and another Host",
        "GET http://one/ HTTP/1.1\r\nHost: test\r\n\r\n",
        400,
    ),
    (
        "absolute target with a port and Host without",
        "GET http://test:81/ HTTP/1.1\r\nHost: test\r\n\r\n",
        400,
    ),
    (
        "absolute target and another Host in 1.0",
        "GET http://test/ HTTP/1.0\r\nHost: one\r\n\r\n",
        400,
    ),
    // The end of a loop (RFC 9110 7.6.2).
    (
        "Max-Forwards that is no number",
        "OPTIONS / HTTP/1.1\r\nHost: test\r\nMax-Forwards: -1\r\n\r\n",
        400,
    ),
    (
        "Max-Forwards twice",
        "OPTIONS * HTTP/1.1\r\nHost: test\r\nMax-Forwards: 1\r\nMax-Forwards: 1\r\n\r\n",
        400,
    ),
    // Expectations (RFC 9110 10.1.1).
    (
        "another expectation",
        "POST / HTTP/1.1\r\nHost: test\r\nExpect: 200-ok\r\nContent-Length: 0\r\n\r\n",
        417,
    ),
];

#[test]
fn plain() {
    needs!("openssl");
    check(false, "", REFUSED);
}

#[test]
fn tls() {
    needs!("openssl");
    check(true, "", REFUSED);
}

#[test]
fn over_limit() {
    needs!("openssl");
    check_limits(false);
}

#[test]
fn over_limit_tls() {
    needs!("openssl");
    check_limits(true);
}

/// The limits are as small as they can be, so that each message can be cut anywhere.
fn check_limits(secure: bool) {
    let long = |count: usize| "a".repeat(count);
    let get = |rest: &str| format!("GET / HTTP/1.1\r\nHost: test\r\n{rest}\r\n");
    let chunks = |rest: &str| format!("{POST}{CHUNKED}{rest}");
    let cases = [
        (
            "target",
            format!("GET /{} HTTP/1.1\r\nHost: test\r\n\r\n", long(64)),
            414,
        ),
        ("target without end", format!("GET /{}", long(100)), 414),
        ("method without end", long(100), 400),
        ("field", get(&format!("A: {}\r\n", long(1024))), 431),
        ("fields", get(&"A: b\r\n".repeat(8)), 431),
        ("length", format!("{POST}Content-Length: 17\r\n\r\n"), 413),
        (
            "length with its body",
            format!("{POST}Content-Length: 17\r\n\r\n{}", long(17)),
            413,
        ),
        (
            "chunk",
            chunks(&format!("11\r\n{}\r\n0\r\n\r\n", long(17))),
            413,
        ),
        (
            "chunks",
            chunks(&format!("9\r\n{0}\r\n8\r\n{0}", long(9))),
            413,
        ),
        // The size says so: nothing of the chunk has to come.
        ("announced chunk", chunks("11\r\n"), 413),
        (
            "announced second chunk",
            chunks(&format!("9\r\n{}\r\n8\r\n", long(9))),
            413,
        ),
        (
            "largest chunk",
            chunks(&format!("ffffffffffffffff\r\n{}", long(17))),
            413,
        ),
        (
            "extension",
            chunks(&format!("1;{}\r\na\r\n0\r\n\r\n", long(256))),
            400,
        ),
        (
            "trailers",
            chunks(&format!("0\r\n{}\r\n", "A: b\r\n".repeat(9))),
            400,
        ),
        (
            "trailer",
            chunks(&format!("0\r\nA: {}\r\n\r\n", long(1024))),
            400,
        ),
    ];
    let cases: Vec<_> = cases
        .iter()
        .map(|(name, bytes, status)| (*name, bytes.as_str(), *status))
        .collect();
    let limits = "limits: {head: 1k, target: 64, fields: 8, body: 16}";
    check(secure, limits, &cases);
}

#[test]
fn chunk_extensions() {
    needs!("openssl");
    let (proxy, thread, receiver) = recorded();
    let extension = "e".repeat(255);
    let chunks = |count: usize| format!("1;{extension}\r\na\r\n").repeat(count);
    for secure in [false, true] {
        // 64 times 256 bytes is what it may have, with the semicolons.
        let within = format!("{POST}{CHUNKED}{}0\r\n\r\n", chunks(64));
        assert_eq!(proxy.visit_as(secure).ask(within).text(), "ok");
        assert!(
            forwarded(&receiver, "test", "1.1", secure).ends_with(&"a".repeat(64)),
            "the body arrived changed"
        );
        let over = format!("{POST}{CHUNKED}{}", chunks(65));
        for cut in (0..over.len()).step_by(997) {
            let mut visitor = proxy.visit_as(secure);
            visitor.send_cut(over.as_bytes(), cut);
            assert_eq!(visitor.answer().status, 400, "cut at {cut}");
            visitor.finish().assert_closed();
        }
    }
    end(proxy, thread);
}

fn check(secure: bool, lines: &str, cases: &[(&str, &str, u16)]) {
    let (proxy, thread, receiver) = recorded_with(lines);
    for &(name, bytes, status) in cases {
        for cut in 0..bytes.len() {
            let mut visitor = proxy.visit_as(secure);
            // Bytes of the table above 0x7f are not UTF-8 on the wire, but that is no matter here.
            visitor.send_cut(bytes.as_bytes(), cut);
            let answer = visitor.answer();
            assert_eq!(answer.status, status, "{name} cut at {cut}: {answer:?}");
            assert_eq!(answer.field("Connection"), Some("close"), "{name}");
            assert!(visitor.finish().is_closed(), "{name} cut at {cut}");
        }
        let target = format!("/after/{}", name.replace(' ', "-"));
        let fresh = proxy.visit_as(secure).get(&target);
        assert_eq!(fresh.text(), "ok", "{name}");
        // And nothing else has come there before.
        let expected = format!("GET {target} HTTP/1.1|Host: test||");
        assert_eq!(
            forwarded(&receiver, "test", "1.1", secure),
            expected,
            "{name}"
        );
    }
    end(proxy, thread);
}

#[test]
fn head_limits() {
    needs!("openssl");
    let (proxy, thread, _receiver) = recorded();
    let check = |request: String, status: u16| {
        let mut visitor = proxy.visit();
        let answer = visitor.ask(request);
        assert_eq!(answer.status, status, "{answer:?}");
        visitor.finish().assert_closed();
    };
    let long = |count: usize| "a".repeat(count);
    check(
        format!("GET /{} HTTP/1.1\r\nHost: test\r\n\r\n", long(16 * 1024)),
        414,
    );
    check(format!("GET /{}", long(20_000)), 414);
    check(
        format!(
            "GET / HTTP/1.1\r\nHost: test\r\nA: {}\r\n\r\n",
            long(65_536)
        ),
        431,
    );
    check(
        format!(
            "GET / HTTP/1.1\r\nHost: test\r\n{}\r\n",
            "A: b\r\n".repeat(100)
        ),
        431,
    );
    check(format!("{} / HTTP/1.1\r\n", long(70_000)), 400);
    // What is just within them is not.
    let fits = format!(
        "GET /{} HTTP/1.1\r\nHost: test\r\n\r\n",
        long(16 * 1024 - 1)
    );
    assert_eq!(proxy.visit().ask(fits).text(), "ok");
    let fits = format!(
        "GET / HTTP/1.1\r\nHost: test\r\n{}\r\n",
        "A: b\r\n".repeat(99)
    );
    assert_eq!(proxy.visit().ask(fits).text(), "ok");
    let fits = format!(
        "GET / HTTP/1.1\r\nHost: test\r\nA: {}\r\n\r\n",
        long(65_000)
    );
    assert_eq!(proxy.visit().ask(fits).text(), "ok");
    end(proxy, thread);
}

#[test]
fn body_limit() {
    let proxy = Proxy::simple_with("limits: {body: 1000}");
    let mut backend = Backend::dial(proxy.dial_in());
    let mut visitor = proxy.visit();
    visitor.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1001\r\n\r\n");
    assert_eq!(visitor.answer().status, 413);
    let mut visitor = proxy.visit();
    visitor.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n");
    assert_eq!(visitor.send("a".repeat(1001)).answer().status, 413);
    let mut visitor = proxy.visit();
    visitor.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\n");
    visitor.send("a".repeat(1000));
    assert_eq!(backend.request().body.len(), 1000);
    backend.reply_to(&mut visitor, "ok");
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn slow() {
    let proxy = Proxy::start(
        "timeouts: {head: 200ms, idle: 300ms, body: 250ms}\n\
         map: [{incoming: test, default: true, outgoing: '127.0.0.1:0'}]",
    );
    let mut silent = proxy.visit();
    silent.assert_closed();
    proxy.wait_for_log("reason=idle");
    let mut slow = proxy.visit();
    assert_eq!(slow.send("GET / HTTP/1.1\r\nHos").answer().status, 408);
    slow.finish().assert_closed();
    proxy.wait_for_log("reason=head_timeout");
    let mut stuck = proxy.visit();
    stuck.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nab");
    assert_eq!(stuck.answer().status, 408);
    stuck.finish().assert_closed();
    proxy.wait_for_log("reason=body_timeout");
    drop((silent, slow, stuck));
    proxy.finish();
}

#[test]
fn after_reload() {
    let proxy = Proxy::simple();
    let mut visitor = proxy.visit();
    visitor.send(format!(
        "GET / HTTP/1.1\r\nHost: test\r\nA: {}",
        "x".repeat(3000)
    ));
    proxy.wait_until_idle();
    proxy.reload(&format!("{SITE}\nlimits: {{head: 1k}}"));
    visitor.send("x\r\n\r\n");
    assert_eq!(visitor.answer().status, 431);
    drop(visitor);
    proxy.finish();
}
