//! What backends send and what clients get of it: raw bytes, whole and cut at every offset.

use std::thread;

use crate::common::{Backend, Proxy, Visitor, bytes, exchange, needs};

/// What becomes of a backend's connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Closed,
}
use Fate::{Closed, Kept};

struct Case {
    name: &'static str,
    method: &'static str,
    /// What the backend sends.
    bytes: &'static str,
    /// Whether it closes then.
    closes: bool,
    /// What the client gets: status, fields (all but Date), body.
    status: u16,
    fields: &'static str,
    body: &'static str,
    /// The client can tell that the end is missing.
    cut: bool,
    fate: Fate,
}

const fn case(
    name: &'static str,
    bytes: &'static str,
    fields: &'static str,
    body: &'static str,
    fate: Fate,
) -> Case {
    Case {
        name,
        method: "GET",
        bytes,
        closes: false,
        status: 200,
        fields,
        body,
        cut: false,
        fate,
    }
}

const fn bad(name: &'static str, bytes: &'static str) -> Case {
    Case {
        status: 502,
        fate: Closed,
        ..case(name, bytes, "", "", Closed)
    }
}

const DATE: &str = "Date: Tue, 01 Jan 2030 00:00:00 GMT";

const CASES: &[Case] = &[
    case(
        "a Date of its own",
        "HTTP/1.1 200 OK\r\nDate: Tue, 01 Jan 2030 00:00:00 GMT\r\nContent-Length: 3\r\n\r\nabc",
        "Content-Length: 3",
        "abc",
        Kept,
    ),
    case(
        "a length",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        "Content-Length: 3",
        "abc",
        Kept,
    ),
    case(
        "no body",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "Content-Length: 0",
        "",
        Kept,
    ),
    case(
        "HTTP/1.0 that says close and means keep",
        "HTTP/1.0 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc",
        "Content-Length: 3",
        "abc",
        Kept,
    ),
    case(
        "order and spelling, and cookies",
        "HTTP/1.1 200 OK\r\nb: 1\r\nSet-Cookie: a=b\r\nContent-Length: 1\r\nA_b: 2\r\nset-cookie: c=d\r\n\r\nx",
        "b: 1|Set-Cookie: a=b|A_b: 2|set-cookie: c=d|Content-Length: 1",
        "x",
        Kept,
    ),
    case(
        "hop-by-hop fields",
        "HTTP/1.1 200 OK\r\nConnection: X-One\r\nX-One: 1\r\nKeep-Alive: 5\r\nProxy-Authenticate: a\r\nTrailer: a\r\nUpgrade: h2c\r\nX-Two: 2\r\nContent-Length: 1\r\n\r\nx",
        "X-Two: 2|Content-Length: 1",
        "x",
        Kept,
    ),
    case(
        "lengths alike",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3, 3\r\n\r\nabc",
        "Content-Length: 3",
        "abc",
        Kept,
    ),
    case(
        "chunks",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0A\r\n0123456789\r\n0\r\nA: b\r\n\r\n",
        "Transfer-Encoding: chunked",
        "abc0123456789",
        Kept,
    ),
    case(
        "chunks and length",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked",
        "abc",
        Closed,
    ),
    case(
        "interim responses",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
        "Content-Length: 1",
        "x",
        Kept,
    ),
    case(
        "a reason of its own",
        "HTTP/1.1 200 Alright then\r\nContent-Length: 1\r\n\r\nx",
        "Content-Length: 1",
        "x",
        Kept,
    ),
    case(
        "no reason",
        "HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx",
        "Content-Length: 1",
        "x",
        Kept,
    ),
    Case {
        status: 404,
        ..case(
            "another status",
            "HTTP/1.1 404 Not Found\r\nContent-Length: 1\r\n\r\nx",
            "Content-Length: 1",
            "x",
            Kept,
        )
    },
    Case {
        status: 204,
        ..case(
            "204 with a length",
            "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
            "",
            "",
            Kept,
        )
    },
    Case {
        status: 304,
        ..case(
            "304 with a length",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\nETag: \"a\"\r\n\r\n",
            "ETag: \"a\"|Content-Length: 3",
            "",
            Kept,
        )
    },
    Case {
        method: "HEAD",
        ..case(
            "HEAD with a length",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
            "Content-Length: 3",
            "",
            Kept,
        )
    },
    Case {
        method: "HEAD",
        ..case(
            "HEAD with chunks",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "",
            "",
            Kept,
        )
    },
    Case {
        closes: true,
        ..case(
            "until it closes",
            "HTTP/1.1 200 OK\r\nA: b\r\n\r\nabc",
            "A: b|Transfer-Encoding: chunked",
            "abc",
            Closed,
        )
    },
    case(
        "neither length nor close",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc",
        "Transfer-Encoding: chunked",
        "abc",
        Closed,
    ),
    case(
        "bytes behind the end",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\n",
        "Content-Length: 3",
        "abc",
        Closed,
    ),
    Case {
        closes: true,
        cut: true,
        ..case(
            "a body cut short",
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc",
            "Content-Length: 4",
            "abc",
            Closed,
        )
    },
    Case {
        closes: true,
        cut: true,
        ..case(
            "chunks cut short",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            "Transfer-Encoding: chunked",
            "abc",
            Closed,
        )
    },
    Case {
        cut: true,
        ..case(
            "a bad chunk",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nx\r\n",
            "Transfer-Encoding: chunked",
            "abc",
            Closed,
        )
    },
    Case {
        cut: true,
        ..case(
            "a chunk with a bare LF",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n",
            "Transfer-Encoding: chunked",
            "abc",
            Closed,
        )
    },
    bad(
        "lengths that differ",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    ),
    bad(
        "a length that is none",
        "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc",
    ),
    bad(
        "another coding",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
    ),
    bad(
        "two codings",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ),
    bad(
        "a bare LF in the head",
        "HTTP/1.1 200 OK\nContent-Length: 3\r\n\r\nabc",
    ),
    bad(
        "a folded field",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 3\r\n\r\nabc",
    ),
    bad(
        "NUL in the head",
        "HTTP/1.1 200 OK\r\nA: b\0\r\nContent-Length: 3\r\n\r\nabc",
    ),
    bad(
        "no colon",
        "HTTP/1.1 200 OK\r\nA\r\nContent-Length: 3\r\n\r\nabc",
    ),
    bad(
        "another version",
        "HTTP/2.0 200 OK\r\nContent-Length: 3\r\n\r\nabc",
    ),
    bad(
        "a status of two digits",
        "HTTP/1.1 20 OK\r\nContent-Length: 3\r\n\r\nabc",
    ),
    bad(
        "a status of four digits",
        "HTTP/1.1 2000 OK\r\nContent-Length: 3\r\n\r\nabc",
    ),
    bad("rubbish", "hello\r\n\r\n"),
    bad(
        "a switch without a request for it",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ),
    Case {
        closes: true,
        ..bad("a head cut short", "HTTP/1.1 200 OK\r\nContent-Le")
    },
];

#[test]
fn plain() {
    needs!("openssl");
    answers(false);
}

#[test]
fn tls() {
    needs!("openssl");
    answers(true);
}

fn answers(secure: bool) {
    let proxy = Proxy::both_with("limits: {head: 1k, fields: 10}");
    let field = format!("A: {}\r\n", "b".repeat(1024));
    let large = format!("HTTP/1.1 200 OK\r\n{field}Content-Length: 0\r\n\r\n");
    let fields = "A: b\r\n".repeat(10);
    let many = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n");
    let over = [
        bad("a head over the limit", large.leak()),
        bad("too many fields", many.leak()),
    ];
    // One backend at a time, from one case to the next: two, of which one has just closed, would be a race.
    let mut backend = Backend::dial(proxy.dial_in());
    for case in CASES.iter().chain(&over) {
        for cut in 0..=case.bytes.len() {
            backend = check(&proxy, secure, case, cut, backend);
        }
    }
    drop(backend);
    proxy.finish();
}

/// Plays one case. Returns the backend for the next one, a new one if this one is spent.
fn check(proxy: &Proxy, secure: bool, case: &Case, cut: usize, mut backend: Backend) -> Backend {
    let context = format!("{} cut at {cut}", case.name);
    let mut visitor = proxy.visit_as(secure);
    // POST, so that nothing is tried twice.
    let method = if case.method == "GET" {
        "POST"
    } else {
        case.method
    };
    visitor.send(format!(
        "{method} / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n"
    ));
    backend.request();
    backend.send(&case.bytes[..cut]);
    thread::yield_now();
    backend.send(&case.bytes[cut..]);
    if case.closes {
        backend.finish();
    }
    let answer = visitor.answer_to(case.method);
    assert_eq!(answer.status, case.status, "{context}: {answer:?}");
    assert_eq!(answer.cut, case.cut, "{context}: {answer:?}");
    // One Date, the backend's if it has sent one (RFC 9110 6.6.1).
    let dates = answer
        .head
        .lines()
        .filter(|line| line.starts_with("Date: "));
    let dates: Vec<_> = dates.collect();
    assert_eq!(dates.len(), 1, "{context}");
    assert_eq!(
        dates[0] == DATE,
        case.bytes.contains(DATE),
        "{context}: {dates:?}"
    );
    if case.status != 502 {
        let fields = answer
            .head
            .lines()
            .skip(1)
            .filter(|line| !line.is_empty() && !line.starts_with("Date: "));
        assert_eq!(
            fields.collect::<Vec<_>>().join("|"),
            case.fields,
            "{context}"
        );
        assert_eq!(answer.text(), case.body, "{context}");
    }
    if case.cut {
        assert!(visitor.is_closed(), "{context}");
    }
    match case.fate {
        Kept => {
            // Both connections are good for another request.
            visitor.send_get("/next");
            assert_eq!(backend.request().target(), "/next", "{context}");
            backend.reply("next");
            assert_eq!(visitor.answer().text(), "next", "{context}");
            backend
        }
        Closed => {
            // What is left in the old connection is dropped: the next request waits for a new one.
            let mut next = proxy.visit_as(secure);
            next.send_get("/next");
            assert!(backend.is_closed(), "{context}");
            let mut fresh = Backend::dial(proxy.dial_in());
            assert_eq!(fresh.request().target(), "/next", "{context}");
            fresh.reply("next");
            assert_eq!(next.answer().text(), "next", "{context}");
            fresh
        }
    }
}

#[test]
fn http_1_0() {
    let (proxy, mut backend, mut visitor) = Proxy::scene();
    visitor.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    backend.request();
    backend.send(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    );
    let answer = visitor.answer();
    assert_eq!(answer.text(), "abcde");
    assert_eq!(answer.field("Transfer-Encoding"), None);
    assert_eq!(answer.field("Connection"), Some("close"));
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn early_hints() {
    let (proxy, mut backend, mut visitor) = Proxy::scene();
    visitor.send_get("/");
    backend.request();
    backend.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    let hints = visitor.answer();
    assert_eq!((hints.status, hints.field("Link")), (103, Some("</a>")));
    backend.reply_to(&mut visitor, "ok");
    // HTTP/1.0 knows no interim responses.
    let mut old = Visitor::connect(proxy.address());
    old.send("GET / HTTP/1.0\r\n\r\n");
    backend.request();
    backend
        .send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        .reply("ok");
    assert_eq!(old.answer().text(), "ok");
    // Their number is limited.
    visitor.send_get("/");
    backend.request();
    backend.send("HTTP/1.1 103 Early Hints\r\n\r\n".repeat(11));
    let last = (0..)
        .map(|_| visitor.answer())
        .find(|answer| answer.status != 103);
    assert_eq!(last.unwrap().status, 502);
    drop((visitor, old, backend));
    proxy.finish();
}

#[test]
fn early_response() {
    let (proxy, mut backend, mut visitor) = Proxy::scene();
    let thread = thread::spawn(move || {
        visitor.send_post("/", vec![b'a'; 40_000_000]);
        visitor
    });
    // It has read nothing of the request yet, and the request does not fit into the sockets' buffers.
    proxy.wait_for_log("joined at");
    backend.send_when_readable("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    let mut visitor = thread.join().unwrap();
    let answer = visitor.answer();
    assert_eq!((answer.status, answer.text().as_str()), (403, "no"));
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn hint_before_body_end() {
    let (proxy, mut backend, mut visitor) = Proxy::scene();
    let thread = thread::spawn(move || {
        visitor.send_post("/", vec![b'a'; 40_000_000]);
        visitor
    });
    proxy.wait_for_log("joined at");
    // In two pieces, with an unsolicited interim response in front.
    backend.send_when_readable("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early");
    let mut visitor = thread.join().unwrap();
    backend.send(" Hints\r\nLink: </a>\r\n\r\n");
    let hints = visitor.answer();
    assert_eq!((hints.status, hints.field("Link")), (103, Some("</a>")));
    assert_eq!(backend.request().body.len(), 40_000_000);
    backend.reply_to(&mut visitor, "ok");
    exchange(&mut visitor, &mut backend, "/next");
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn large_answers_come_through_whole() {
    let (proxy, mut backend, mut visitor) = Proxy::scene();
    let body = bytes(10_000_000);
    for chunked in [false, true] {
        visitor.send_get("/");
        backend.request();
        let sent = body.clone();
        let sender = thread::spawn(move || {
            match chunked {
                true => backend.reply_in_chunks(&sent, 77_777),
                false => {
                    backend.reply(sent);
                }
            }
            backend
        });
        let answer = visitor.answer();
        answer.assert_body(&body);
        backend = sender.join().unwrap();
    }
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn streamed() {
    let (proxy, mut backend, mut visitor) = Proxy::scene();
    visitor.send_get("/");
    backend.request();
    backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut seen = 0;
    for event in ["data: one\n\n", "data: two\n\n", "data: three\n\n"] {
        backend.send(format!("{:x}\r\n{event}\r\n", event.len()));
        // Nothing more comes from the backend before the client has this.
        seen += event.len();
        let text = String::from_utf8_lossy(visitor.at_least(seen)).into_owned();
        assert!(text.contains("HTTP/1.1 200 OK"), "{text}");
    }
    backend.send("0\r\n\r\n");
    assert_eq!(
        visitor.answer().text(),
        "data: one\n\ndata: two\n\ndata: three\n\n"
    );
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn too_slow() {
    let proxy = Proxy::start(
        "map: [{incoming: test, default: true, outgoing: '127.0.0.1:0', timeouts: {first_byte: 100ms, backend: 100ms}}]",
    );
    let mut backend = Backend::dial(proxy.dial_in());
    let mut visitor = proxy.visit();
    let answer = visitor.get("/");
    assert_eq!(answer.status, 504);
    backend.request();
    backend.assert_closed();
    // Within the response it is too late for a status.
    let mut backend = Backend::dial(proxy.dial_in());
    visitor.send_get("/");
    backend.request();
    backend.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab");
    let answer = visitor.answer();
    assert!(answer.cut && answer.body == b"ab", "{answer:?}");
    backend.assert_closed();
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn head_in_pieces() {
    let proxy = Proxy::simple_with("timeouts: {backend: 300ms}");
    let mut backend = Backend::dial(proxy.dial_in());
    let mut visitor = proxy.ask("/");
    backend.request();
    backend.send("HTTP/1.1 200 OK\r\nX: ");
    // It is never silent for longer than the time-out, and goes on until it is closed.
    backend.drip();
    assert_eq!(visitor.answer().status, 504);
    proxy.wait_for_log("no progress in 300ms");
    drop((visitor, backend));
    proxy.finish();
}
