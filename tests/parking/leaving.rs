//! Clients that leave.

use std::fs;

use super::*;
use crate::common::proxy::SITE;
use crate::common::{Backend, Way, bytes, embedded, first, secure, wait_at_most};

/// The client has left if its sending side ends this long after its request. It still wants the response if that
/// side ends at once.
const AFTER_HALF_CLOSE: Duration = Duration::from_secs(1);

/// How a client leaves.
#[derive(Clone, Copy, Debug)]
enum End {
    Close,
    CloseNotify,
    Reset,
}

impl End {
    fn apply(self, mut visitor: Visitor) {
        match self {
            Self::Close => drop(visitor),
            Self::CloseNotify => {
                visitor.finish();
            }
            Self::Reset => visitor.reset(),
        }
    }
}

/// Clients leave in each manner, before the response and within it; their connections are closed.
fn all_ways(way: Way) {
    let files = tempfile::tempdir().unwrap();
    let (certfile, keyfile) = secure::certificate(files.path(), "test", &["test"]);
    let pair = secure::pair(&certfile, &keyfile);
    let lines = format!(
        "workers: 2\naccess_log: {{file: access, format: json}}\n\
             ssl: {{at: '127.0.0.2:0', {pair}}}"
    );
    let ends = [
        (false, End::Close),
        (false, End::Reset),
        (true, End::Close),
        (true, End::CloseNotify),
        (true, End::Reset),
    ];
    let mut setup = Setup::start(way, 2 * ends.len(), &lines);
    let mut visitors = Vec::new();
    for (secure, end) in ends {
        for begun in ["thinking", "begun"] {
            let mut visitor = setup.proxy.visit_as(secure);
            visitor.wait_at_most(SOON);
            visitor.send_get(&format!("/{begun}/{secure}/{end:?}"));
            visitors.push((visitor, end, begun));
        }
    }
    let mut busy = setup.requests(visitors.len());
    for (backend, seen) in &mut busy {
        if seen.target().starts_with("/begun") {
            backend.send(format!("{CHUNKED}{}", chunk("event")));
        }
    }
    for (visitor, _, begun) in &mut visitors {
        if *begun == "begun" {
            visitor.sees("event");
        }
    }
    expect_free_worker(&setup.proxy);
    // The rule for half-closed connections depends on this time.
    thread::sleep(AFTER_HALF_CLOSE);
    for (visitor, end, _) in visitors {
        end.apply(visitor);
    }
    for (backend, seen) in &mut busy {
        assert!(
            backend.is_closed(),
            "{way:?} {}: the connection is closed",
            seen.target()
        );
    }
    let log = || setup.proxy.read("access");
    wait_at_most(SOON, "ten lines in the access log", || {
        log().matches("\"target\":\"/thinking/").count() == 5
            && log().matches("\"target\":\"/begun/").count() == 5
    });
    for line in log().lines().filter(|line| !line.contains("health")) {
        assert!(
            line.contains("\"ended\":\"client_gone\""),
            "{way:?}: {line}"
        );
        let expected = line.contains("/begun/") || line.contains("\"status\":499,");
        assert!(expected, "{way:?}: 499 before the response: {line}");
    }
    drop(busy);
    setup.finish();
}

#[test]
fn dial_in() {
    needs!("openssl");
    all_ways(Way::DialIn);
}

#[test]
fn traditional() {
    needs!("openssl");
    all_ways(Way::Traditional);
}

#[test]
fn access() {
    needs!("openssl");
    all_ways(Way::Access);
}

/// A client leaves, and the response comes within a second: the connection serves the next request.
fn abandoned(body: &[u8], begun: bool) {
    let proxy = Proxy::simple_with("workers: 2");
    let half = if begun { body.len() / 2 } else { 0 };
    // A round that took too long, on a busy machine, shows nothing.
    for _ in 0..10 {
        let mut backend = Backend::dial(proxy.dial_in());
        backend.wait_at_most(SOON);
        let mut visitor = ask(proxy.address(), "/abandoned");
        backend.request();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        if begun {
            backend.send(&head).send(&body[..half]);
            visitor.at_least(head.len() + half / 2);
        }
        let since = Instant::now();
        visitor.reset();
        // So that the proxy most likely notices before the response arrives; the result is the same otherwise.
        thread::sleep(Duration::from_millis(200));
        if !begun {
            backend.send(&head);
        }
        backend.send(&body[half..]);
        if since.elapsed() > Duration::from_millis(700) {
            continue;
        }
        let mut next = ask(proxy.address(), "/next");
        let seen = backend.next();
        let seen = seen.expect("the connection is kept after an abandoned response");
        assert_eq!(seen.target(), "/next", "the next request");
        backend.reply("next");
        expect(&mut next, "next");
        drop((backend, next));
        proxy.finish();
        return;
    }
    panic!("the machine is too busy");
}

#[test]
fn answer_in_time_keeps_connection() {
    abandoned(b"late", false);
}

#[test]
fn large_response_is_drained() {
    abandoned(&bytes(2 << 20), false);
}

#[test]
fn rest_of_response_is_drained() {
    abandoned(&bytes(2 << 20), true);
}

#[test]
fn silence_closes_connection() {
    let proxy = Proxy::simple_with("workers: 1");
    let mut backend = Backend::dial(proxy.dial_in());
    backend.wait_at_most(SOON);
    let visitor = ask(proxy.address(), "/");
    backend.request();
    expect_free_worker(&proxy);
    let since = Instant::now();
    visitor.reset();
    assert!(
        backend.is_closed(),
        "the connection of a silent application"
    );
    let took = since.elapsed();
    assert!(
        took > Duration::from_millis(700),
        "it has about a second: {took:?}"
    );
    assert!(
        took < Duration::from_secs(10),
        "it has about a second: {took:?}"
    );
    proxy.finish();
}

#[test]
fn half_close_gets_answer() {
    for way in [Way::DialIn, Way::Traditional, Way::Access] {
        let mut setup = Setup::start(way, 4, "workers: 1");
        let mut visitors: Vec<_> = (0..4)
            .map(|n| {
                let mut visitor = ask(setup.proxy.address(), &format!("/{n}"));
                visitor.finish();
                visitor
            })
            .collect();
        let mut busy = setup.requests(4);
        expect_free_worker(&setup.proxy);
        // Long enough for a check that takes the end for a departure.
        thread::sleep(AFTER_HALF_CLOSE);
        expect_free_worker(&setup.proxy);
        for (backend, seen) in &mut busy {
            backend.reply(seen.target());
        }
        expect_all(&mut visitors);
        drop((visitors, busy));
        setup.finish();
    }
}

#[test]
fn from_queue() {
    let files = tempfile::tempdir().unwrap();
    let access = files.path().join("access");
    let server = embedded(&format!(
        "workers: 1\naccess_log: {{file: {}, format: json}}\n{SITE}",
        access.display()
    ));
    let address = first(&server.client_addresses());
    let mut queued = ["/close", "/reset", "/stays", "/last"].map(|target| {
        let before = server.queues().1;
        let visitor = ask(address, target);
        wait_at_most(SOON, "one more request in the queue", || {
            server.queues().1 == before + 1
        });
        Some(visitor)
    });
    let health = visit(address).get("/swiftiply_health");
    assert_eq!(health.status, 200, "a worker is free: {health:?}");
    thread::sleep(AFTER_HALF_CLOSE);
    drop(queued[0].take());
    queued[1].take().unwrap().reset();
    wait_at_most(SOON, "the two requests that stay in the queue", || {
        server.queues().1 == 2
    });
    let mut backend = Backend::dial(first(&server.backend_addresses()));
    backend.wait_at_most(SOON);
    for (n, target) in [(2, "/stays"), (3, "/last")] {
        assert_eq!(backend.request().target(), target, "the next in the queue");
        backend.reply(target);
        expect(queued[n].as_mut().unwrap(), target);
    }
    drop((queued, backend));
    assert!(server.drain(SOON), "the server is drained");
    let log = fs::read_to_string(access).unwrap();
    for target in ["/close", "/reset"] {
        let line = log.lines().find(|line| line.contains(target));
        let line = line.unwrap_or_else(|| panic!("{target} is not in {log}"));
        assert!(line.contains("\"status\":499,"), "status 499: {line}");
        assert!(
            line.contains("\"ended\":\"client_gone\""),
            "the reason: {line}"
        );
    }
}
