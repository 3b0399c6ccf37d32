//! What is accepted of visitors, what is refused, and what reaches the backend: raw bytes, whole and cut at every offset.

use std::sync::mpsc;
use std::thread;

use crate::common::proxy::SITE;
use crate::common::{Backend, Proxy, Visitor, assert_contains, bytes, exchange, needs};

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
    ("two blanks", "GET  / HTTP/1.1\r\nHost: test\r\n\r\n", 400),
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

/// Name, bytes, the head that the backend gets (without what is always there) and its body.
const ACCEPTED: &[(&str, &str, &str, &str)] = &[
    (
        "the simplest",
        "GET /a?b=c HTTP/1.1\r\nHost: test\r\n\r\n",
        "GET /a?b=c HTTP/1.1|Host: test|",
        "",
    ),
    (
        "two empty lines in front",
        "\r\n\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n",
        "GET / HTTP/1.1|Host: test|",
        "",
    ),
    (
        "order and spelling",
        "GET / HTTP/1.1\r\nB: 1\r\nhOST: test\r\na: 2\r\nB: \t 3 \t\r\n\r\n",
        "GET / HTTP/1.1|Host: test|B: 1|a: 2|B: 3|",
        "",
    ),
    (
        "port in Host",
        "GET / HTTP/1.1\r\nHost: test:8080\r\n\r\n",
        "GET / HTTP/1.1|Host: test:8080|",
        "",
    ),
    (
        "absolute target",
        "GET http://test:81/a?b HTTP/1.1\r\nHost: test:81\r\n\r\n",
        "GET /a?b HTTP/1.1|Host: test:81|",
        "",
    ),
    (
        "absolute target without path",
        "GET http://test?b HTTP/1.1\r\nHost: test\r\n\r\n",
        "GET /?b HTTP/1.1|Host: test|",
        "",
    ),
    (
        "OPTIONS *",
        "OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n",
        "OPTIONS * HTTP/1.1|Host: test|",
        "",
    ),
    (
        "OPTIONS * that is passed on for the last time",
        "OPTIONS * HTTP/1.1\r\nHost: test\r\nMax-Forwards: 1\r\n\r\n",
        "OPTIONS * HTTP/1.1|Host: test|Max-Forwards: 0|",
        "",
    ),
    (
        "Max-Forwards beyond all numbers, with a body",
        "OPTIONS / HTTP/1.1\r\nHost: test\r\nMax-Forwards: 99999999999999999999\r\nA: b\r\nContent-Length: 1\r\n\r\na",
        "OPTIONS / HTTP/1.1|Host: test|A: b|Max-Forwards: 4294967294|Content-Length: 1|",
        "a",
    ),
    (
        "Max-Forwards where it means nothing",
        "GET / HTTP/1.1\r\nHost: test\r\nMax-Forwards: 0\r\nMax-Forwards: x\r\n\r\n",
        "GET / HTTP/1.1|Host: test|Max-Forwards: 0|Max-Forwards: x|",
        "",
    ),
    (
        "any method",
        "PURGE-all / HTTP/1.1\r\nHost: test\r\n\r\n",
        "PURGE-all / HTTP/1.1|Host: test|",
        "",
    ),
    (
        "bytes above 0x7f in a value",
        "GET / HTTP/1.1\r\nHost: test\r\nA: \u{e9}\r\n\r\n",
        "GET / HTTP/1.1|Host: test|A: \u{e9}|",
        "",
    ),
    (
        "empty value",
        "GET / HTTP/1.1\r\nHost: test\r\nA:\r\n\r\n",
        "GET / HTTP/1.1|Host: test|A: |",
        "",
    ),
    (
        "hop-by-hop fields",
        "GET / HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, X-One\r\nKeep-Alive: 5\r\nTE: trailers\r\nTrailer: A\r\nProxy-Connection: close\r\nProxy-Authorization: a\r\nx-one: 1\r\nX-Two: 2\r\n\r\n",
        "GET / HTTP/1.1|Host: test|X-Two: 2|",
        "",
    ),
    (
        "what cannot be named away",
        "GET / HTTP/1.1\r\nHost: test\r\nConnection: Host, Cookie, Authorization, Content-Length\r\nCookie: a=b\r\nAuthorization: c\r\n\r\n",
        "GET / HTTP/1.1|Host: test|Cookie: a=b|Authorization: c|",
        "",
    ),
    (
        "names with underscores",
        "GET / HTTP/1.1\r\nHost: test\r\nX_Forwarded_For: 1\r\nA_B: 2\r\nA-B: 3\r\n\r\n",
        "GET / HTTP/1.1|Host: test|A-B: 3|",
        "",
    ),
    (
        "names with dots",
        "GET / HTTP/1.1\r\nHost: test\r\nX.Forwarded.For: 1\r\nX.Real-IP: 2\r\nA.B_C: 3\r\nA.B: 4\r\n\r\n",
        "GET / HTTP/1.1|Host: test|A.B: 4|",
        "",
    ),
    (
        "what a visitor may not say",
        "GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 9.9.9.9\r\nForwarded: for=9.9.9.9\r\nX-Real-IP: 9.9.9.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\nX-Sendfile: /etc/passwd\r\nX-Request-Start: 1\r\n\r\n",
        "GET / HTTP/1.1|Host: test|",
        "",
    ),
    (
        "what a client may not say in other words",
        "GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-Ssl: on\r\nx-forwarded-scheme: https\r\nX-Forwarded-Prefix: /a\r\nX-Forwarded: a\r\nFront-End-Https: on\r\nX-Url-Scheme: https\r\nX-Scheme: https\r\nX-Original-URL: /admin\r\nX-Rewrite-URL: /admin\r\nX-Client-IP: 9.9.9.9\r\nClient-IP: 9.9.9.9\r\nTrue-Client-IP: 9.9.9.9\r\nCF-Connecting-IP: 9.9.9.9\r\nProxy: http://evil\r\nX-Forwardedly: kept\r\nProxy-Status: kept\r\n\r\n",
        "GET / HTTP/1.1|Host: test|X-Forwardedly: kept|Proxy-Status: kept|",
        "",
    ),
    (
        "an upgrade, which stays HTTP until the answer",
        "GET / HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
        "GET / HTTP/1.1|Host: test|Sec-WebSocket-Version: 13|Connection: upgrade|Upgrade: websocket|",
        "",
    ),
    (
        "a body",
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc",
        "POST / HTTP/1.1|Host: test|Content-Length: 3|",
        "abc",
    ),
    (
        "an empty body",
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n",
        "POST / HTTP/1.1|Host: test|Content-Length: 0|",
        "",
    ),
    (
        "chunks",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: Chunked\r\n\r\n3;a=\"b\"\r\nabc\r\n00A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n",
        "POST / HTTP/1.1|Host: test|Content-Length: 13|",
        "abc0123456789",
    ),
    (
        "only the last chunk",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1|Host: test|Content-Length: 0|",
        "",
    ),
    (
        "HTTP/1.0",
        "GET / HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\n\r\n",
        "GET / HTTP/1.1|Host: test|",
        "",
    ),
    (
        "an expectation in HTTP/1.0",
        "POST / HTTP/1.0\r\nHost: test\r\nExpect: 100-continue\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na",
        "POST / HTTP/1.1|Host: test|Content-Length: 1|",
        "a",
    ),
];

/// A proxy, and a backend that answers everything and tells what it got.
fn recorded() -> (Proxy, thread::JoinHandle<()>, mpsc::Receiver<String>) {
    recorded_with("")
}

fn recorded_with(lines: &str) -> (Proxy, thread::JoinHandle<()>, mpsc::Receiver<String>) {
    let proxy = Proxy::both_with(lines);
    let mut backend = Backend::dial(proxy.dial_in());
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        while let Some(seen) = backend.next() {
            let body = String::from_utf8(seen.body).unwrap();
            sender.send(seen.head.replace("\r\n", "|") + &body).unwrap();
            if sender.send(String::new()).is_ok() {
                backend.reply("ok");
            }
            if body == "last" {
                return;
            }
        }
    });
    (proxy, thread, receiver)
}

/// What the backend got, without the fields that the proxy adds; checks those.
fn forwarded(receiver: &mpsc::Receiver<String>, host: &str, version: &str, secure: bool) -> String {
    let whole = receiver.recv().unwrap();
    assert_eq!(receiver.recv().unwrap(), "");
    let proto = if secure { "https" } else { "http" };
    let added = format!(
        "X-Forwarded-For: 127.0.0.1|X-Forwarded-Proto: {proto}|X-Forwarded-Host: {host}|X-Real-IP: 127.0.0.1|\
         Via: {version} swiftiply|"
    );
    let (before, rest) = whole
        .split_once(&added)
        .unwrap_or_else(|| panic!("{whole} lacks {added}"));
    let times = rest.strip_prefix("X-Request-Start: t=").unwrap();
    let (start, rest) = times.split_once("|X-Queue-Time: ").unwrap();
    let (waited, rest) = rest.split_once('|').unwrap();
    // Microseconds since 1970.
    assert_eq!(start.parse::<u64>().unwrap().to_string().len(), 16);
    assert!(waited.parse::<u64>().is_ok(), "{whole}");
    [before, rest].concat()
}

fn end(proxy: Proxy, thread: thread::JoinHandle<()>) {
    let last = proxy
        .visit()
        .ask("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nlast");
    assert_eq!(last.text(), "ok");
    thread.join().unwrap();
    proxy.finish();
}

#[test]
fn what_is_refused_reaches_no_backend() {
    needs!("openssl");
    refused(false, "", REFUSED);
}

#[test]
fn what_is_refused_reaches_no_backend_with_tls() {
    needs!("openssl");
    refused(true, "", REFUSED);
}

#[test]
fn what_is_over_a_limit_reaches_no_backend() {
    needs!("openssl");
    over_a_limit(false);
}

#[test]
fn what_is_over_a_limit_reaches_no_backend_with_tls() {
    needs!("openssl");
    over_a_limit(true);
}

/// The limits are as small as they can be, so that each message can be cut anywhere.
fn over_a_limit(secure: bool) {
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
    refused(secure, limits, &cases);
}

#[test]
fn the_extensions_of_a_body_have_a_limit_in_all() {
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

fn refused(secure: bool, lines: &str, cases: &[(&str, &str, u16)]) {
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
fn what_is_accepted_is_written_anew() {
    needs!("openssl");
    accepted(false);
}

#[test]
fn what_is_accepted_is_written_anew_with_tls() {
    needs!("openssl");
    accepted(true);
}

fn accepted(secure: bool) {
    let (proxy, thread, receiver) = recorded();
    for &(name, bytes, head, body) in ACCEPTED {
        let mut visitor = proxy.visit_as(secure);
        let host = head
            .split("Host: ")
            .nth(1)
            .unwrap()
            .split('|')
            .next()
            .unwrap();
        let version = if bytes.contains("HTTP/1.0") {
            "1.0"
        } else {
            "1.1"
        };
        for cut in 0..=bytes.len() {
            visitor.send_cut(bytes.as_bytes(), cut);
            let answer = visitor.answer();
            assert_eq!(answer.text(), "ok", "{name} cut at {cut}: {answer:?}");
            let expected = format!("{head}|{body}");
            let seen = forwarded(&receiver, host, version, secure);
            assert_eq!(seen, expected, "{name} cut at {cut}");
        }
    }
    end(proxy, thread);
}

#[test]
fn options_that_may_not_be_passed_on_is_answered_here() {
    let (proxy, thread, receiver) = recorded();
    let mut visitor = proxy.visit();
    for target in ["/a?b", "*", "http://test/a"] {
        visitor.send(format!(
            "OPTIONS {target} HTTP/1.1\r\nHost: test\r\nMax-Forwards: 00\r\n\r\n"
        ));
        let answer = visitor.answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, ""));
        assert_eq!(answer.field("Content-Length"), Some("0"));
        let allowed = answer.field("Allow").unwrap();
        assert_contains(allowed, "GET, HEAD, POST");
        assert_contains(allowed, "OPTIONS");
        assert!(!allowed.contains("TRACE"), "{allowed}");
    }
    // The connection goes on, and this is the first request that a backend gets.
    assert_eq!(visitor.get("/").text(), "ok");
    let expected = "GET / HTTP/1.1|Host: test||";
    assert_eq!(forwarded(&receiver, "test", "1.1", false), expected);
    // Its body is of no use.
    visitor.send(
        "OPTIONS / HTTP/1.1\r\nHost: test\r\nMax-Forwards: 0\r\nContent-Length: 3\r\n\r\nabc",
    );
    assert_eq!(visitor.answer().status, 200);
    visitor.finish().assert_closed();
    end(proxy, thread);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
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
fn a_long_row_of_pipelined_requests_is_answered_and_leaves_others_their_turn() {
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
fn heads_over_the_limits_are_refused() {
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
fn a_body_over_the_limit_is_refused_before_a_backend_is_taken() {
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
fn a_large_body_goes_through_a_file_and_comes_out_whole() {
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
fn a_visitor_that_waits_for_100_gets_it() {
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
        // Whoever sends the body at once gets none.
        visitor.send(format!("{head}abc"));
        backend.request();
        backend.reply("ok");
        assert_eq!(visitor.answer().status, 200);
    }
    drop(backend);
    proxy.finish();
}

#[test]
fn what_comes_slowly_is_refused_and_what_says_nothing_is_closed() {
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
fn a_head_that_a_reload_makes_too_large_is_refused() {
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

#[test]
fn an_empty_line_behind_a_request_is_no_beginning_of_another() {
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
fn forwarding_fields_of_trusted_proxies_are_believed_and_extended() {
    let proxy = Proxy::simple_with("trusted_proxies: 127.0.0.0/8");
    let mut backend = Backend::dial(proxy.dial_in());
    let mut visitor = proxy.visit();
    visitor.send(
        "GET / HTTP/1.1\r\nHost: inner\r\nX-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: outer\r\nX-Real-IP: 6.6.6.6\r\nVia: 1.1 edge\r\n\r\n",
    );
    let seen = backend.request();
    for (name, value) in [
        ("X-Forwarded-For", "9.9.9.9, 127.0.0.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "outer"),
        ("X-Real-IP", "9.9.9.9"),
        ("Via", "1.1 edge, 1.1 swiftiply"),
    ] {
        assert_eq!(seen.field(name), Some(value));
        assert_eq!(
            seen.head.matches(&format!("{name}: ")).count(),
            1,
            "{}",
            seen.head
        );
    }
    backend.reply_to(&mut visitor, "ok");
    // It may have added its own behind those of its visitor (as HAProxy does), which are not to be believed.
    visitor.send(
        "GET / HTTP/1.1\r\nHost: inner\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: evil\r\nX-Forwarded-Host: evil\r\n\
         X-Real-IP: 6.6.6.6\r\nX-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: outer\r\n\r\n",
    );
    let seen = backend.request();
    for (name, value) in [
        ("X-Forwarded-For", "6.6.6.6, 9.9.9.9, 127.0.0.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "outer"),
        ("X-Real-IP", "9.9.9.9"),
    ] {
        assert_eq!(seen.field(name), Some(value));
    }
    backend.reply_to(&mut visitor, "ok");
    drop((visitor, backend));
    proxy.finish();
}

/// Fields with underscores: those that only some sites want, and those that are dangerous everywhere.
const UNDERSCORES: &str = "api_key: secret\r\nX_Forwarded_For: 6.6.6.6\r\nContent_Length: 7\r\nTransfer_Encoding: chunked\r\n\
     X_Edge.Client: 6.6.6.6\r\nX_Real-IP: 6.6.6.6\r\nKeep_Alive: 1\r\nAPI_Version: 2\r\nX_Request_Start: t=1\r\n";

#[test]
fn a_field_with_an_underscore_is_passed_on_where_that_is_wanted() {
    let proxy = Proxy::start(
        "client_address_field: X-Edge-Client\ntrusted_proxies: 127.0.0.2\nmap:\n\
         - {incoming: on.test, outgoing: '127.0.0.1:0', timeout: 60, underscores: true}\n\
         - {incoming: off.test, outgoing: '127.0.0.1:0', timeout: 60}\n",
    );
    let ask = |host: &str, backend: &mut Backend, from: [u8; 4]| {
        let mut visitor = Visitor::connect_from(from, proxy.address());
        // Trailers do not come through, whatever their names.
        visitor.send(format!(
            "POST / HTTP/1.1\r\nHost: {host}\r\n{UNDERSCORES}Transfer-Encoding: chunked\r\n\r\n\
             1\r\na\r\n0\r\nin_trailer: 1\r\nX_Forwarded_For: 6.6.6.6\r\n\r\n"
        ));
        let seen = backend.request();
        backend.reply_to(&mut visitor, "ok");
        assert_eq!(seen.body, b"a");
        assert_eq!(seen.field("Content-Length"), Some("1"));
        let lines = seen.head.lines().skip(1);
        let names = lines.filter_map(|line| line.split(':').next());
        let names = names.filter(|name| name.contains(['_', '.']));
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    // The sites have one address, and so the same backend.
    let mut backend = Backend::dial(proxy.dial_in());
    let left_out = |line: &str, lines| {
        proxy.wait_for_log(line);
        assert_eq!(proxy.log().matches(" is left out").count(), lines);
    };
    let direct = ask("on.test", &mut backend, [127, 0, 0, 1]);
    assert_eq!(direct, ["api_key", "API_Version"]);
    left_out("site on.test: 127.0.0.1:", 1);
    left_out(": field X_Forwarded_For is left out, and 6 more: ", 1);
    // A trusted proxy has no other spelling for what it says either.
    let through_a_proxy = ask("on.test", &mut backend, [127, 0, 0, 2]);
    assert_eq!(through_a_proxy, direct);
    left_out("site on.test: 127.0.0.2:", 2);
    assert!(
        ask("off.test", &mut backend, [127, 0, 0, 1]).is_empty(),
        "fields were passed on that the site leaves out"
    );
    left_out("site off.test: 127.0.0.1:", 3);
    left_out(": field api_key is left out, and 8 more: ", 3);
    drop(backend);
    proxy.finish();
}

#[test]
fn a_visitor_that_says_close_or_speaks_1_0_is_closed_after_its_answer() {
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
    // HTTP/1.0 is kept when it asks for that, and told so.
    let mut visitor = proxy.visit();
    let request = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    assert_eq!(visitor.ask(request).field("Connection"), Some("keep-alive"));
    assert_eq!(visitor.ask(request).text(), "ok");
    drop(visitor);
    // A program that ends its sending side right behind its request still wants the answer.
    let mut visitor = Visitor::connect(proxy.address());
    visitor.send_get("/").finish();
    assert_eq!(visitor.answer().text(), "ok");
    visitor.assert_closed();
    end(proxy, thread);
}

#[test]
fn what_a_visitor_sends_behind_its_last_answer_does_not_cost_the_answer() {
    needs!("openssl");
    let proxy = Proxy::both_with("defaults: {keepalive: false}");
    let mut backend = Backend::dial(proxy.dial_in());
    // More than the visitor's system takes before the visitor reads: some of it is still with ours.
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

#[test]
fn a_backend_always_gets_a_host() {
    let (proxy, mut backend, mut visitor) = Proxy::scene();
    for (request, target) in [
        ("GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "/x"),
        ("OPTIONS http://test HTTP/1.1\r\nHost: test\r\n\r\n", "*"),
    ] {
        visitor.send(request);
        let seen = backend.request();
        assert_eq!((seen.target(), seen.field("Host")), (target, Some("test")));
        backend.reply_to(&mut visitor, "ok");
    }
    drop((visitor, backend));
    proxy.finish();
}

/// A site that passes bodies on as they come.
fn streaming(lines: &str) -> Proxy {
    Proxy::both_with(&format!("{lines}\ndefaults: {{request_buffering: false}}"))
}

const POST: &str = "POST / HTTP/1.1\r\nHost: test\r\n";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n\r\n";

#[test]
fn a_body_is_passed_on_as_it_comes_where_that_is_wanted() {
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
            assert_contains(&backend.read_to("ab"), "Content-Length: 4\r\n");
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
fn a_body_that_goes_wrong_on_its_way_costs_the_backend_and_gets_a_status() {
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
    // Who leaves in the middle is gone.
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
fn a_hint_before_the_end_of_a_body_on_its_way_is_passed_on_and_the_body_goes_on() {
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
fn an_answer_before_the_end_of_a_body_on_its_way_ends_both_connections() {
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
