//! Requests that wait for a backend, and requests whose backend dies.

use std::thread;
use std::time::{Duration, Instant};

use crate::common::proxy::{SITE, site};
use crate::common::{Backend, Echo, Proxy, Visitor, drain, embedded, first, wait_until};

/// Sends three requests more than may wait; returns the clients of those that wait, with their targets, when the three
/// were refused.
fn fill_line(proxy: &Proxy, may_wait: usize) -> Vec<(String, Visitor)> {
    let targets = (0..may_wait + 3).map(|n| format!("/line/{n}"));
    let mut waiting: Vec<_> = targets
        .map(|target| (target.clone(), proxy.ask(&target)))
        .collect();
    wait_until("three refused requests", || {
        waiting.retain_mut(|(_, visitor)| {
            let refused = visitor.has_answer();
            if refused {
                let answer = visitor.answer();
                assert_eq!(answer.status, 503);
                assert!(answer.text().contains("Too many requests"), "{answer:?}");
                assert!(
                    answer.field("Retry-After").is_some(),
                    "no Retry-After: {}",
                    answer.head
                );
            }
            !refused
        });
        waiting.len() == may_wait
    });
    waiting
}

#[test]
fn none_in_time() {
    let proxy = Proxy::start(
        "map: [{incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 200ms}]",
    );
    let since = Instant::now();
    let answer = proxy.visit().get("/");
    assert_eq!(answer.status, 503);
    assert!(
        answer.field("Retry-After").is_some(),
        "no Retry-After: {}",
        answer.head
    );
    assert!(
        since.elapsed() >= Duration::from_millis(200),
        "refused after {:?}",
        since.elapsed()
    );
    // Also while there is one, but busy.
    let mut busy = Backend::dial(proxy.dial_in());
    let mut first = proxy.ask("/first");
    busy.request();
    assert_eq!(proxy.visit().get("/").status, 503);
    busy.reply_to(&mut first, "ok");
    drop((first, busy));
    proxy.finish();
}

#[test]
fn in_order() {
    let server = embedded(&format!("workers: 4\n{SITE}"));
    let address = first(&server.client_addresses());
    // More requests than workers.
    let mut visitors = Vec::new();
    for n in 0..12 {
        visitors.push(Visitor::asking(address, &format!("/{n}")));
        wait_until("one more request in the queue", || {
            server.queues().1 == n + 1
        });
    }
    let mut backend = Backend::dial(first(&server.backend_addresses()));
    for (n, visitor) in visitors.iter_mut().enumerate() {
        let target = format!("/{n}");
        assert_eq!(backend.request().target(), target);
        backend.reply_to(visitor, &target);
    }
    drop((visitors, backend));
    drain(server);
}

#[test]
fn pipelined_request_keeps_order() {
    let proxy = Proxy::start(
        "workers: 4\n\
         map:\n\
         - {incoming: test, outgoing: '127.0.0.1:0', timeout: 60}\n\
         - {incoming: slow, outgoing: '127.0.0.2:0', timeout: 60}",
    );
    let mut slow = Backend::dial(proxy.dial_ins()[1]);
    proxy.wait_for_logs("joined", 1);
    let mut backends = [2, 3].map(|joined| {
        let backend = Backend::dial(proxy.dial_ins()[0]);
        proxy.wait_for_logs("joined", joined);
        backend
    });
    // Both backends are busy, and the third request waits.
    let mut first = proxy.ask("/first");
    assert_eq!(backends[1].request().target(), "/first");
    let mut second = proxy.ask("/second");
    assert_eq!(backends[0].request().target(), "/second");
    let mut third = proxy.ask("/third");
    first.send("GET /next HTTP/1.1\r\nHost: slow\r\n\r\n");
    assert_eq!(proxy.visit().get("/swiftiply_health").status, 200);
    // The end of the first exchange makes two requests ready. The slow one delays no other.
    backends[1].reply_to(&mut first, "first");
    assert_eq!(backends[1].request().target(), "/third");
    assert_eq!(slow.request().target(), "/next");
    backends[1].reply_to(&mut third, "third");
    slow.reply_to(&mut first, "next");
    backends[0].reply_to(&mut second, "second");
    drop((first, second, third, slow, backends));
    proxy.finish();
}

#[test]
fn limit() {
    let proxy = Proxy::simple_with(
        "workers: 4\nlimits: {waiting: 5}\naccess_log: {file: access, format: json}",
    );
    let mut waiting = fill_line(&proxy, 5);
    let backend = Echo::dial(proxy.dial_in(), "000000000001", "");
    for (target, visitor) in &mut waiting {
        assert_eq!(visitor.answer().text(), *target);
    }
    assert_eq!(proxy.visit().get("/again").text(), "/again");
    // They have waited in the queue, and the log says so.
    let log = || proxy.read("access");
    wait_until("the line of the access log", || log().contains("/again"));
    for (target, _) in &waiting {
        let text = log();
        let line = text
            .lines()
            .find(|line| line.contains(&format!("\"{target}\"")));
        let line = line.unwrap_or_else(|| panic!("{target}: {text}"));
        assert!(!line.contains("\"queue_ms\":0.0,"), "{line}");
    }
    drop((waiting, backend));
    proxy.finish();
}

#[test]
fn limit_of_all_sites() {
    let proxy = Proxy::start(
        "workers: 8\nlimits: {waiting: 5, waiting_total: 7}\n\
         map:\n\
         - {incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 60}\n\
         - {incoming: other, outgoing: '127.0.0.2:0', timeout: 60}",
    );
    let mut here = fill_line(&proxy, 5);
    // Two more of another site may wait, though that has room for five.
    let mut there: Vec<_> = (0..5)
        .map(|_| {
            let mut visitor = proxy.visit();
            visitor.send("GET /there HTTP/1.1\r\nHost: other\r\n\r\n");
            visitor
        })
        .collect();
    wait_until("three refused requests", || {
        there.retain_mut(|visitor| {
            let refused = visitor.has_answer();
            if refused {
                assert_eq!(visitor.answer().status, 503);
            }
            !refused
        });
        there.len() == 2
    });
    let backends = [0, 1].map(|site| Echo::dial(proxy.dial_ins()[site], "000000000001", ""));
    for (target, visitor) in &mut here {
        assert_eq!(visitor.answer().text(), *target);
    }
    for visitor in &mut there {
        assert_eq!(visitor.answer().text(), "/there");
    }
    drop((here, there, backends));
    proxy.finish();
}

#[test]
fn client_leaves() {
    let proxy = Proxy::simple_with("workers: 4\nlimits: {waiting: 8}");
    for (_, visitor) in fill_line(&proxy, 8) {
        visitor.reset();
    }
    proxy.wait_for_logs("reason=client_gone", 8);
    let mut stays = proxy.ask("/stays");
    let mut backend = Backend::dial(proxy.dial_in());
    assert_eq!(backend.request().target(), "/stays");
    backend.reply_to(&mut stays, "ok");
    drop((stays, backend));
    proxy.finish();
}

#[test]
fn half_closed_client() {
    let proxy = Proxy::simple_with("workers: 1");
    let mut visitors: Vec<_> = (0..4)
        .map(|n| {
            let mut visitor = proxy.ask(&format!("/{n}"));
            // Right behind the request, also on a busy machine: later it would be a departure.
            visitor.finish();
            visitor
        })
        .collect();
    // Long enough to notice a proxy that takes the half-close for a departure.
    thread::sleep(Duration::from_secs(1));
    let backend = Echo::dial(proxy.dial_in(), "000000000001", "");
    for (n, visitor) in visitors.iter_mut().enumerate() {
        assert_eq!(visitor.answer().text(), format!("/{n}"));
    }
    drop((visitors, backend));
    proxy.finish();
}

#[test]
fn hanging_site() {
    let proxy = Proxy::start(
        "workers: 4\n\
         map:\n\
         - {incoming: hangs, outgoing: '127.0.0.1:0'}\n\
         - {incoming: test, outgoing: '127.0.0.2:0', timeout: 60}",
    );
    let hang: Vec<_> = (0..8).map(|_| Backend::dial(proxy.dial_ins()[0])).collect();
    let good = Echo::dial(proxy.dial_ins()[1], "000000000001", "");
    let mut stuck: Vec<_> = (0..30).map(|_| proxy.visit()).collect();
    for visitor in &mut stuck {
        visitor.send("GET / HTTP/1.1\r\nHost: hangs\r\n\r\n");
    }
    let mut visitor = proxy.visit();
    for n in 0..50 {
        assert_eq!(visitor.get(&format!("/{n}")).text(), format!("/{n}"));
        assert_eq!(visitor.get("/swiftiply_health").status, 200);
        assert_eq!(
            visitor.ask("GET / HTTP/1.1\r\nHost: none\r\n\r\n").status,
            404
        );
    }
    drop((stuck, visitor, hang, good));
    proxy.finish();
}

#[test]
fn late_worker() {
    let proxy = Proxy::simple_with("workers: 1\ntimeouts: {idle: 2s, head: 2s, body: 2s}");
    let mut backend = Backend::dial(proxy.dial_in());
    let head = "POST /body HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\na";
    let (mut half, mut body) = (proxy.visit(), proxy.visit());
    half.send("GET /half HTTP/1.1\r\n");
    body.send(head);
    proxy.wait_until_idle();
    let mut holds = proxy.ask("/holds");
    backend.request();
    // No backend is free for these now.
    let mut whole = proxy.ask("/whole");
    half.send("Host: test\r\n\r\n");
    body.send("bc");
    // A later connection that stays silent is closed when its time is over.
    proxy.visit().assert_closed();
    backend.reply_to(&mut holds, "holds");
    for _ in 0..3 {
        let target = backend.request().target().to_owned();
        backend.reply(target);
    }
    for (visitor, target) in [
        (&mut whole, "/whole"),
        (&mut half, "/half"),
        (&mut body, "/body"),
    ] {
        assert_eq!(visitor.answer().text(), target);
    }
    drop((holds, whole, half, body, backend));
    proxy.finish();
}

#[test]
fn retried_elsewhere() {
    let proxy = Proxy::start(
        "defaults: {queue_time: false}\n\
         map:\n\
         - {incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 60}\n\
         - {incoming: again, outgoing: '127.0.0.1:0', timeout: 60, redeployable: true, redeployment_sizelimit: 1000}",
    );
    let mut joined = 0;
    let mut dies = || {
        let backend = Backend::dial_as(proxy.dial_in(), "00000000dies", "");
        joined += 1;
        proxy.wait_for_logs("joined", joined);
        backend
    };
    let get = "GET / HTTP/1.1\r\nHost: test\r\n\r\n".to_owned();
    let put = "PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc".to_owned();
    let post = |host: &str, length: usize| {
        let body = "b".repeat(length);
        format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    for (request, repeated) in [
        (get, true),
        (put, true),
        (post("test", 3), false),
        (post("again", 3), true),
        (post("again", 1000), false),
    ] {
        let mut first = dies();
        let mut visitor = proxy.visit();
        visitor.send(&request);
        let seen = first.request();
        if repeated {
            let mut second = dies();
            drop(first);
            assert_eq!(second.request(), seen);
            second.reply("second");
            assert_eq!(visitor.answer().text(), "second", "{request}");
        } else {
            drop(first);
            assert_eq!(visitor.answer().status, 502, "{request}");
        }
        drop(visitor);
    }
    // Once a byte of the response is there, nothing is repeated.
    let mut first = dies();
    let mut visitor = proxy.ask("/");
    first.request();
    first.send("HTTP/1.1 2");
    let spare = dies();
    drop(first);
    assert_eq!(visitor.answer().status, 502);
    drop((visitor, spare));
    proxy.finish();
}

#[test]
fn deadly_request() {
    // So many backends see it, as the site says; without the key, two.
    for (keys, seen) in [("retries: 0", 1), ("order: newest", 2), ("retries: 4", 5)] {
        let proxy = Proxy::start(&site(keys));
        let mut visitor = proxy.ask("/deadly");
        for _ in 0..seen {
            let mut backend = Backend::dial(proxy.dial_in());
            assert_eq!(backend.request().target(), "/deadly");
        }
        assert_eq!(visitor.answer().status, 502);
        // The next backend does not get the request.
        let mut stays = Backend::dial(proxy.dial_in());
        visitor.send_get("/harmless");
        assert_eq!(stays.request().target(), "/harmless");
        stays.reply_to(&mut visitor, "ok");
        drop((visitor, stays));
        proxy.finish();
    }
}

#[test]
fn closed_idle_backends() {
    let proxy = Proxy::simple();
    for _ in 0..200 {
        // They leave while the request is on its way.
        let leaves: Vec<_> = (0..3).map(|_| Backend::dial(proxy.dial_in())).collect();
        drop(leaves);
        let mut visitor = proxy.ask("/a");
        let stays = Echo::dial(proxy.dial_in(), "0000000stays", "");
        assert_eq!(visitor.answer().text(), "/a");
        drop((visitor, stays));
    }
    proxy.finish();
}
