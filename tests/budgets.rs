//! What happens when `limits.memory` or `limits.spool` is used up, and that everything is given back.

use swiftiply::Server;
use swiftiply::stats::Close;

use crate::common::{Backend, PATIENCE, Visitor, bytes, embedded, first, wait_until};

const SITE: &str = "map: [{incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 60}]";

fn with_limits(limits: &str) -> Server {
    embedded(&format!("workers: 4\nlimits: {{{limits}}}\n{SITE}"))
}

/// A visitor that has sent its request but for the last byte of its body.
fn nearly(server: &Server, body: &[u8]) -> Visitor {
    let kept = || {
        let (memory, disk) = server.kept();
        memory + disk
    };
    let before = kept();
    let mut visitor = Visitor::connect(first(&server.visitors()));
    let length = body.len();
    visitor.send(format!(
        "POST /slow HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n"
    ));
    visitor.send(&body[..length - 1]);
    wait_until("it has come", || kept() >= before + length as u64 - 1);
    visitor
}

fn is_given_back(server: Server) {
    wait_until("everything is given back", || server.kept() == (0, 0));
    assert!(server.drain(PATIENCE));
}

#[test]
fn without_memory_bodies_go_to_disk_idle_visitors_leave_and_new_requests_are_refused() {
    const MEMORY: u64 = 1 << 20;
    let server = with_limits("memory: 1m, head: 512k");
    let address = first(&server.visitors());
    let mut idle = Visitor::connect(address);
    assert_eq!(idle.get("/swiftiply_health").status, 200);
    let body = bytes(60_000);
    let mut slow: Vec<_> = (0..20).map(|_| nearly(&server, &body)).collect();
    let (memory, disk) = server.kept();
    // Bodies leave an eighth to the others.
    assert!(memory > MEMORY * 6 / 8 && disk > 0, "{memory} {disk}");
    // Its head alone is more than there is room for.
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
    assert!(late.is_closed() && idle.is_closed());
    let stats = server.stats();
    wait_until("both are counted", || {
        stats.visitors_closed(Close::Overload) == 2
    });
    // The proxy itself still answers, and requests that are under way go on.
    assert_eq!(
        Visitor::connect(address).get("/swiftiply_health").status,
        200
    );
    let mut backend = Backend::dial(first(&server.backends()));
    for visitor in &mut slow {
        visitor.send(&body[59_999..]);
        assert_eq!(backend.request().body, body);
        backend.reply_to(visitor, "done");
    }
    drop((slow, backend));
    let mut backend = Backend::dial(first(&server.backends()));
    let mut again = Visitor::asking(address, "/");
    assert_eq!(backend.request().target(), "/");
    backend.reply_to(&mut again, "there is room again");
    drop((again, late, idle, backend));
    is_given_back(server);
}

#[test]
fn without_room_on_disk_large_bodies_are_refused_and_small_ones_are_not() {
    let server = with_limits("body_memory: 16k, spool: 100k");
    let address = first(&server.visitors());
    let held = nearly(&server, &bytes(90_000));
    let mut large = Visitor::connect(address);
    large.send_post("/large", bytes(90_000));
    let answer = large.answer();
    assert_eq!(
        (answer.status, answer.field("Retry-After")),
        (503, Some("5"))
    );
    assert!(large.is_closed());
    let stats = server.stats();
    wait_until("it is counted", || {
        stats.visitors_closed(Close::Overload) == 1
    });
    let mut backend = Backend::dial(first(&server.backends()));
    let mut small = Visitor::connect(address);
    small.send_post("/small", bytes(16_000));
    assert_eq!(backend.request().body, bytes(16_000));
    backend.reply_to(&mut small, "done");
    drop(held);
    wait_until("room", || server.kept().1 == 0);
    small.send_post("/large", bytes(90_000));
    assert_eq!(backend.request().body, bytes(90_000));
    backend.reply_to(&mut small, "done");
    drop((small, large, backend));
    is_given_back(server);
}

#[test]
fn without_memory_what_visitors_do_not_take_goes_to_disk() {
    let server = with_limits("memory: 1m, body_memory: 1m");
    let address = first(&server.visitors());
    let answer = bytes(16 << 20);
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut backend = Backend::dial(first(&server.backends()));
        slow.push(Visitor::asking(address, "/"));
        backend.request();
        // It is taken at once, though its visitor takes nothing.
        backend.reply(&answer);
        wait_until("the backend is free", || server.queues().0 > 0);
        drop(backend);
        wait_until("it is gone", || server.queues().0 == 0);
    }
    let (memory, disk) = server.kept();
    assert!(memory <= 1 << 20 && disk > 0, "{memory} {disk}");
    for visitor in &mut slow {
        assert!(visitor.answer().body == answer);
    }
    drop(slow);
    is_given_back(server);
}
