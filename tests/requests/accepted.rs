//! Requests that are accepted, and what the backend gets of them.

use super::{end, forwarded, recorded};
use crate::common::{Backend, Proxy, Visitor, assert_contains, needs};

/// Name, bytes, the head that the backend gets (without what is always there) and its body.
pub(super) const ACCEPTED: &[(&str, &str, &str, &str)] = &[
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
        "GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 9.9.9.9\r\nForwarded: for=9.9.9.9\r\nX-Real-IP: 9.9.9.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\nX-Sendfile: /etc/passwd\r\nX-Request-Start: 1\r\nX-Request-Id: mine\r\n\r\n",
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

#[test]
fn plain() {
    needs!("openssl");
    check(false);
}

#[test]
fn tls() {
    needs!("openssl");
    check(true);
}

fn check(secure: bool) {
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
fn options() {
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
fn trusted_proxies() {
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
    // It may have added its own behind those of its client (as HAProxy does), which are not to be believed.
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
fn underscores() {
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
fn host() {
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
