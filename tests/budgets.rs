//! What happens when `limits.memory` or `limits.spool` is used up, and that everything is given back.

use std::thread;

use swiftiply::Server;
use swiftiply::stats::Close;

use crate::common::{Backend, Echo, Visitor, bytes, drain, embedded, first, wait_until};

const SITE: &str = "map: [{incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 60}]";

fn with_limits(limits: &str) -> Server {
    embedded(&format!("workers: 4\nlimits: {{{limits}}}\n{SITE}"))
}

/// A client that has sent all of its request but the last byte.
fn nearly(server: &Server, body: &[u8]) -> Visitor {
    let visitor = Visitor::connect(first(&server.client_addresses()));
    nearly_from(visitor, server, body)
}

/// The same on an open connection.
fn nearly_from(mut visitor: Visitor, server: &Server, body: &[u8]) -> Visitor {
    let kept = || {
        let (memory, disk) = server.charged();
        memory + disk
    };
    let before = kept();
    let length = body.len();
    visitor.send(format!(
        "POST /slow HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n"
    ));
    visitor.send(&body[..length - 1]);
    wait_until("the body in memory", || {
        kept() >= before + length as u64 - 1
    });
    visitor
}

fn is_given_back(server: Server) {
    wait_until("the return of all memory", || server.charged() == (0, 0));
    drain(server);
}

#[test]
fn memory_full() {
    const MEMORY: u64 = 1 << 20;
    let server = with_limits("memory: 1m, head: 512k");
    let address = first(&server.client_addresses());
    let mut idle = Visitor::connect(address);
    assert_eq!(idle.get("/swiftiply_health").status, 200);
    let body = bytes(60_000);
    let mut slow: Vec<_> = (0..20).map(|_| nearly(&server, &body)).collect();
    let (memory, disk) = server.charged();
    // Bodies may use seven eighths of the memory.
    assert!(memory > MEMORY * 6 / 8 && disk > 0, "{memory} {disk}");
    // Its head alone exceeds the rest of the memory.
    let mut late = Visitor::connect(address);
    late.send(format!(
        "GET / HTTP/1.1\r\nHost: test\r\nX-Long: {}\r\n\r\n",
        "x".repeat(300_000)
    ));
    let answer = late.answer();
    assert_eq!(
        (answer.status, answer.field("Retry-After")),
        (503, Some("5"))
    );
    late.assert_closed();
    idle.assert_closed();
    let stats = server.stats();
    wait_until("two counted closes", || {
        stats.clients_closed(Close::Overload) == 2
    });
    // The proxy itself still answers, and requests that are under way go on.
    assert_eq!(
        Visitor::connect(address).get("/swiftiply_health").status,
        200
    );
    let mut backend = Backend::dial(first(&server.backend_addresses()));
    for visitor in &mut slow {
        visitor.send(&body[59_999..]);
        assert_eq!(backend.request().body, body);
        backend.reply_to(visitor, "done");
    }
    drop((slow, backend));
    let mut backend = Backend::dial(first(&server.backend_addresses()));
    let mut again = Visitor::asking(address, "/");
    assert_eq!(backend.request().target(), "/");
    backend.reply_to(&mut again, "there is room again");
    drop((again, late, idle, backend));
    is_given_back(server);
}

/// A body of this many bytes that is refused, with this reason.
fn is_refused(mut visitor: Visitor, length: usize, status: u16, reason: &str) {
    visitor.send_post("/large", bytes(length));
    let answer = visitor.answer();
    let retry_after = (status == 503).then_some("5");
    assert_eq!(
        (answer.status, answer.field("Retry-After")),
        (status, retry_after)
    );
    assert!(answer.text().contains(reason), "{}", answer.text());
    visitor.assert_closed();
}

#[test]
fn spool_share_of_one_client() {
    let server = with_limits("body_memory: 16k, spool: 800k");
    let address = first(&server.client_addresses());
    let held = nearly(&server, &bytes(90_000));
    is_refused(Visitor::connect(address), 90_000, 503, "this address");
    // A body above a client's share is refused at once, with a status that does not invite another try.
    let long = "POST / HTTP/1.1\r\nHost: test\r\n";
    for head in [
        "Content-Length: 200000\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n30d40\r\n",
    ] {
        let mut visitor = Visitor::connect(address);
        let answer = visitor.ask(format!("{long}{head}"));
        assert_eq!(answer.status, 413);
        assert!(answer.text().contains("102400 bytes"), "{}", answer.text());
        visitor.assert_closed();
    }
    let stats = server.stats();
    wait_until("the counted closes", || {
        stats.clients_closed(Close::Overload) == 1 && stats.clients_closed(Close::TooLarge) == 2
    });
    let mut backend = Backend::dial(first(&server.backend_addresses()));
    let mut small = Visitor::connect(address);
    small.send_post("/small", bytes(16_000));
    assert_eq!(backend.request().body, bytes(16_000));
    backend.reply_to(&mut small, "done");
    let mut other = Visitor::connect_from([127, 0, 0, 2], address);
    other.send_post("/large", bytes(90_000));
    assert_eq!(backend.request().body, bytes(90_000));
    backend.reply_to(&mut other, "done");
    drop(held);
    wait_until("room in the memory budget", || server.charged().1 == 0);
    small.send_post("/large", bytes(90_000));
    assert_eq!(backend.request().body, bytes(90_000));
    backend.reply_to(&mut small, "done");
    drop((small, other, backend));
    is_given_back(server);
}

#[test]
fn uploads_side_by_side() {
    let server = with_limits("body_memory: 16k, spool: 800k");
    let address = first(&server.client_addresses());
    // Two fit into what one client may use, half of each has arrived.
    let body = bytes(50_000);
    let begin = || {
        let mut visitor = Visitor::connect(address);
        let head = "POST /large HTTP/1.1\r\nHost: test\r\nContent-Length: 50000\r\n\r\n";
        visitor.send(head);
        visitor.send(&body[..25_000]);
        visitor
    };
    let mut both = [begin(), begin()];
    wait_until("the first halves of the bodies", || {
        server.charged().1 == 2 * 25_000
    });
    let mut third = begin();
    let answer = third.answer();
    assert_eq!(answer.status, 503, "{}", answer.text());
    let mut backend = Backend::dial(first(&server.backend_addresses()));
    for visitor in &mut both {
        visitor.send(&body[25_000..]);
        assert_eq!(backend.request().body, body);
        backend.reply_to(visitor, "done");
    }
    drop((both, backend));
    is_given_back(server);
}

#[test]
fn spool_full_for_bodies() {
    let server = with_limits("body_memory: 16k, spool: 800k");
    let address = first(&server.client_addresses());
    let body = bytes(100_000);
    let held: Vec<_> = (2..10)
        .map(|last| {
            let visitor = Visitor::connect_from([127, 0, 0, last], address);
            nearly_from(visitor, &server, &body)
        })
        .collect();
    is_refused(Visitor::connect(address), 90_000, 503, "no room");
    let mut backend = Backend::dial(first(&server.backend_addresses()));
    let mut small = Visitor::connect(address);
    small.send_post("/small", bytes(16_000));
    assert_eq!(backend.request().body, bytes(16_000));
    backend.reply_to(&mut small, "done");
    drop(held);
    wait_until("room in the memory budget", || server.charged().1 == 0);
    small.send_post("/large", bytes(90_000));
    assert_eq!(backend.request().body, bytes(90_000));
    backend.reply_to(&mut small, "done");
    drop((small, backend));
    is_given_back(server);
}

#[test]
fn responses_go_to_disk() {
    let server = with_limits("memory: 1m, body_memory: 1m");
    let address = first(&server.client_addresses());
    let answer = bytes(16 << 20);
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut backend = Backend::dial(first(&server.backend_addresses()));
        slow.push(Visitor::asking(address, "/"));
        backend.request();
        // It is read at once, although its client reads nothing.
        backend.reply(&answer);
        wait_until("an idle backend", || server.queues().0 > 0);
        drop(backend);
        wait_until("the end of the idle backend", || server.queues().0 == 0);
    }
    let (memory, disk) = server.charged();
    assert!(memory <= 1 << 20 && disk > 0, "{memory} {disk}");
    for visitor in &mut slow {
        visitor.answer().assert_body(&answer);
    }
    drop(slow);
    is_given_back(server);
}

#[test]
fn slow_readers_cut_for_room() {
    const PART: u64 = 200 << 10;
    let server = with_limits("body_memory: 16k, spool: 1600k");
    let address = first(&server.client_addresses());
    // Each uses all of a client's share, and holds its backend, for which no request waits.
    let mut slow = Vec::new();
    let mut backends = Vec::new();
    for last in 2..10 {
        let mut backend = Backend::dial(first(&server.backend_addresses()));
        let mut visitor = Visitor::connect_from([127, 0, 0, last], address);
        visitor.send_get("/large");
        backend.request();
        backends.push(thread::spawn(move || {
            backend.reply(bytes(24 << 20));
        }));
        slow.push(visitor);
        // It is read in blocks; the last one may not fit.
        let most = PART * slow.len() as u64;
        wait_until("a nearly full memory budget", || {
            server.charged().1 > most - 20_000 * slow.len() as u64
        });
    }
    let echo = Echo::dial(first(&server.backend_addresses()), "00000000000e", "");
    let body = bytes(180_000);
    let mut refused = 0;
    wait_until("room in the memory budget", || {
        let mut visitor = Visitor::connect(address);
        visitor.send_post("/", &body);
        let status = visitor.answer().status;
        refused += usize::from(status == 503);
        status == 200
    });
    assert!(refused > 0, "no request was refused for memory");
    let stats = server.stats();
    wait_until("a close for a slow client", || {
        stats.clients_closed(Close::WriteSlow) > 0
    });
    assert!(
        slow.iter_mut().any(|visitor| visitor.answer().cut),
        "no response to a slow client was cut"
    );
    drop((slow, echo));
    for backend in backends {
        backend.join().unwrap();
    }
    is_given_back(server);
}
