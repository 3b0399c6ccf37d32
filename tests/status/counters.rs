//! What is counted of each kind of request: by its status, the bytes in both directions, the reason, and the times.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use super::{STATUS, ask, json};
use crate::common::{Backend, Proxy, Server, Visitor, assert_contains, wait_until};

/// Two sites: the first one reads bodies before it takes a backend, the second one passes them on. Both have the same
/// backends, and files, which are in the directory.
fn start() -> (Proxy, TempDir) {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file.txt"), "the file\n").unwrap();
    let path = root.path().display();
    let site = |name: &str, keys: &str| {
        format!(
            "- {{incoming: {name}, outgoing: '127.0.0.1:0', docroot: {path}, cache_extensions: [], \
             redirect: {{from: /old, to: /new}}, deny: [{{networks: all, paths: /secret}}], \
             limits: {{body: 100}}, timeout: 60{keys}}}\n"
        )
    };
    let (whole, streams) = (
        site("test", ""),
        site("streams", ", request_buffering: false"),
    );
    let yaml = format!("{STATUS}\nmap:\n{whole}{streams}");
    (Proxy::start(&yaml), root)
}

/// A request, and what is counted of it. `act` is done by a backend.
struct Case {
    request: &'static str,
    act: Option<fn(&mut Backend)>,
    status: u16,
    /// Bytes of the body that are received.
    received: u64,
    /// The reason if it does not end complete.
    reason: &'static str,
}

const fn case(request: &'static str, status: u16, received: u64) -> Case {
    Case {
        request,
        act: None,
        status,
        received,
        reason: "",
    }
}

const fn served(request: &'static str, act: fn(&mut Backend), received: u64) -> Case {
    Case {
        act: Some(act),
        ..case(request, 200, received)
    }
}

const CHUNKED: &str = "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n\
                       3\r\nabc\r\n8;x=y\r\ndefghijk\r\n0\r\nTrailer: t\r\n\r\n";
const LARGE: &str = "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n\
                     3\r\nxyz\r\nffff\r\n";

fn reply(backend: &mut Backend) {
    backend.request();
    backend.reply("four");
}

fn reply_in_chunks(backend: &mut Backend) {
    backend.request();
    backend.reply_in_chunks(b"several chunks", 5);
}

/// The rest of a request that is passed on in chunks.
fn reply_at_end(backend: &mut Backend) {
    backend.read_to("\r\n0\r\n\r\n");
    backend.reply("four");
}

/// The request cannot be repeated.
fn fail(backend: &mut Backend) {
    backend.request();
    backend.send("nonsense\r\n\r\n");
}

fn common() -> Vec<Case> {
    vec![
        served("GET /a HTTP/1.1\r\nHost: HOST\r\n\r\n", reply, 0),
        served("GET /a HTTP/1.1\r\nHost: HOST\r\n\r\n", reply_in_chunks, 0),
        served("HEAD /a HTTP/1.1\r\nHost: HOST\r\n\r\n", reply_head, 0),
        served(
            "POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: 5\r\n\r\n12345",
            reply,
            5,
        ),
        Case {
            status: 502,
            ..served(
                "POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: 5\r\n\r\n12345",
                fail,
                5,
            )
        },
        // Files: read, from memory, a part, unchanged, without the body.
        case("GET /file.txt HTTP/1.1\r\nHost: HOST\r\n\r\n", 200, 0),
        case("GET /file.txt HTTP/1.1\r\nHost: HOST\r\n\r\n", 200, 0),
        case(
            "GET /file.txt HTTP/1.1\r\nHost: HOST\r\nRange: bytes=2-4\r\n\r\n",
            206,
            0,
        ),
        case(
            "GET /file.txt HTTP/1.1\r\nHost: HOST\r\nIf-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT\r\n\r\n",
            304,
            0,
        ),
        case("HEAD /file.txt HTTP/1.1\r\nHost: HOST\r\n\r\n", 200, 0),
        // The server's own responses.
        case("GET /old HTTP/1.1\r\nHost: HOST\r\n\r\n", 301, 0),
        case("GET /secret HTTP/1.1\r\nHost: HOST\r\n\r\n", 403, 0),
        // Bodies that are refused: what is not read does not count.
        Case {
            reason: "too_large",
            ..case(
                "POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: 101\r\n\r\nabc",
                413,
                0,
            )
        },
    ]
}

fn reply_head(backend: &mut Backend) {
    backend.request();
    backend.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
}

/// The counters of a site that matter here: all requests, those of a class, bytes in and out, those with a reason.
#[derive(Debug, PartialEq, Eq)]
struct Counted {
    total: u64,
    class: u64,
    received: u64,
    sent: u64,
    reason: u64,
}

impl Counted {
    fn of(requests: &Value, status: u16, reason: &str) -> Self {
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let class = format!("{}xx", status / 100);
        Self {
            total: number(&requests["total"]),
            class: number(&requests["statuses"][class]),
            received: number(&requests["bytes_in"]),
            sent: number(&requests["bytes_out"]),
            reason: number(&requests["errors"][reason]),
        }
    }

    fn plus(&self, other: &Self) -> Self {
        Self {
            total: self.total + other.total,
            class: self.class + other.class,
            received: self.received + other.received,
            sent: self.sent + other.sent,
            reason: self.reason + other.reason,
        }
    }
}

/// What is counted of a site. Names without a site: that of the server.
fn counted(proxy: &Proxy, site: &str, status: u16, reason: &str) -> Counted {
    let requests = &json(proxy, &format!("/status/{site}"))["requests"];
    Counted::of(requests, status, reason)
}

/// Waits until a request is counted, and compares.
#[track_caller]
fn check(proxy: &Proxy, site: &str, what: &str, before: &Counted, case: &Case, sent: u64) {
    let now = || counted(proxy, site, case.status, case.reason);
    wait_until(what, || now().total > before.total);
    let one = Counted {
        total: 1,
        class: 1,
        received: case.received,
        sent,
        reason: u64::from(!case.reason.is_empty()),
    };
    assert_eq!(now(), before.plus(&one), "{site}: {what}");
}

#[test]
fn every_kind_of_request() {
    let (proxy, _root) = start();
    for (index, site) in ["test", "streams"].into_iter().enumerate() {
        let mut cases = common();
        let end = if index == 0 { reply } else { reply_at_end };
        cases.push(served(CHUNKED, end, 11));
        cases.push(Case {
            reason: "too_large",
            ..case(LARGE, 413, 3)
        });
        if index == 1 {
            // It has a backend, which has had a part of it.
            let last = cases.last_mut().unwrap();
            last.act = Some(|backend: &mut Backend| _ = backend.read_to("xyz"));
        }
        for case in cases {
            let before = counted(&proxy, site, case.status, case.reason);
            let mut backend = case.act.map(|_| Backend::dial(proxy.dial_in()));
            let mut client = proxy.visit();
            client.send(case.request.replace("HOST", site));
            if let (Some(backend), Some(act)) = (&mut backend, case.act) {
                act(backend);
            }
            let method = case.request.split(' ').next().unwrap();
            let answer = client.answer_to(method);
            assert_eq!(answer.status, case.status, "{site}: {}", case.request);
            let sent = answer.body.len() as u64;
            check(&proxy, site, case.request, &before, &case, sent);
        }
    }
    let all = json(&proxy, "/status");
    let sums = Counted::of(&all["requests"], 200, "too_large");
    let by_site = |key: &str| -> u64 {
        let sites = all["sites"].as_array().unwrap();
        sites
            .iter()
            .map(|site| site["requests"][key].as_u64().unwrap())
            .sum()
    };
    assert_eq!(sums.total, by_site("total"));
    assert_eq!(sums.received, by_site("bytes_in"));
    assert_eq!(sums.sent, by_site("bytes_out"));
    // Without a site.
    let mut client = proxy.visit();
    assert_eq!(client.get("/swiftiply_health").status, 200);
    assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: no\r\n\r\n").status, 404);
    assert_eq!(client.ask("nonsense\r\n\r\n").status, 400);
    wait_until("requests without a site", || {
        let (_, metrics) = ask(&proxy, "GET /metrics", "");
        metrics.contains("swiftiply_requests_total{site=\"\",code=\"2xx\"} 1\n")
            && metrics.contains("swiftiply_requests_total{site=\"\",code=\"4xx\"} 2\n")
            && metrics
                .contains("swiftiply_request_errors_total{site=\"\",reason=\"bad_request\"} 1\n")
    });
    proxy.finish_without_leak_check();
}

#[test]
fn clients_that_leave() {
    let (proxy, _root) = start();
    for (index, site) in ["test", "streams"].into_iter().enumerate() {
        let left = Case {
            reason: "client_gone",
            ..case("an upload that breaks off", 499, 4)
        };
        let before = counted(&proxy, site, left.status, left.reason);
        let mut backend = Backend::dial(proxy.dial_in());
        let mut client = proxy.visit();
        client.send(format!(
            "POST /a HTTP/1.1\r\nHost: {site}\r\nContent-Length: 10\r\n\r\n1234"
        ));
        if index == 1 {
            backend.read_to("1234");
        }
        client.finish();
        check(&proxy, site, left.request, &before, &left, 0);
    }
    proxy.finish_without_leak_check();
}

#[test]
fn upgraded_connections() {
    let (proxy, _root) = start();
    let tunnel = case("a tunnel", 101, 4);
    let before = counted(&proxy, "test", 101, "");
    let mut backend = Backend::dial(proxy.dial_in());
    let mut client = proxy.visit();
    client.send(
        "GET /a HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfo",
    );
    backend.request();
    backend.send(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nsix",
    );
    assert_eq!(client.answer().status, 101);
    client.send("ur");
    assert_eq!(backend.take(4), b"four");
    backend.send("six");
    assert_eq!(client.take(6), b"sixsix");
    assert_eq!(json(&proxy, "/status")["tunnels"], 1);
    drop(backend);
    drop(client);
    let sent = 6;
    let ended = || counted(&proxy, "test", 101, "");
    wait_until("the end of the tunnel", || ended().total > before.total);
    let one = Counted {
        total: 1,
        class: 1,
        received: tunnel.received,
        sent,
        reason: 0,
    };
    assert_eq!(ended(), before.plus(&one));
    proxy.finish_without_leak_check();
}

#[test]
fn times_by_phase() {
    let server = Server::start();
    let proxy = Proxy::start(&format!(
        "{STATUS}\nmap:\n- {{incoming: connected, proxy: traditional, servers: '{}'}}\n\
         - {{incoming: dialled, outgoing: '127.0.0.1:0'}}\n- {{incoming: files, docroot: .}}\n",
        server.address()
    ));
    let get = |host: &str| -> Visitor {
        let mut client = proxy.visit();
        client.send(format!("GET /none HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        client
    };
    // The connection is used twice, and the third request gets no response of it.
    let mut client = get("connected");
    let mut backend = server.accept();
    reply(&mut backend);
    client.answer();
    wait_until("the idle connection", || {
        json(&proxy, "/status/connected")["servers"][0]["idle"] == 1
    });
    let mut client = get("connected");
    reply(&mut backend);
    client.answer();
    let mut client = proxy.visit();
    client.send("POST /a HTTP/1.1\r\nHost: connected\r\nContent-Length: 1\r\n\r\n1");
    fail(&mut backend);
    assert_eq!(client.answer().status, 502);
    let mut dialled = Backend::dial(proxy.dial_in());
    let mut client = get("dialled");
    reply(&mut dialled);
    client.answer();
    assert_eq!(get("files").answer().status, 404);
    wait_until("all requests counted", || {
        json(&proxy, "/status")["requests"]["total"] == 5
    });
    let (_, metrics) = ask(&proxy, "GET /metrics", "");
    let check = |site: &str, phase: &str, expected: Option<u64>| {
        let line = format!("swiftiply_{phase}_duration_seconds_count{{site=\"{site}\"}} ");
        match expected {
            Some(count) => assert_contains(&metrics, &format!("\n{line}{count}\n")),
            None => assert!(!metrics.contains(&line), "{line}"),
        }
    };
    for (phase, connected, dialled, files) in [
        ("request", Some(3), Some(1), Some(1)),
        ("queue", Some(3), Some(1), None),
        ("connect", Some(1), None, None),
        ("first_byte", Some(2), Some(1), None),
    ] {
        check("connected", phase, connected);
        check("dialled", phase, dialled);
        check("files", phase, files);
    }
    drop((backend, dialled));
    proxy.finish_without_leak_check();
}
