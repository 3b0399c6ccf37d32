//! Exchanges that wait for their backends hold no worker thread.
//!
//! Each test has more exchanges under way than workers, and applications that answer only when all of that is seen. Where
//! another request is answered meanwhile, a worker was free.

mod leaving;
mod lifetime;
mod queue;
mod streaming;
mod thinking;
mod uploads;

use crate::common::{Proxy, SOON, Setup, Visitor, needs};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

/// A client whose reads and writes end soon.
fn visit(address: SocketAddr) -> Visitor {
    let visitor = Visitor::connect(address);
    visitor.wait_at_most(SOON);
    visitor
}

/// The same with a request.
fn ask(address: SocketAddr, target: &str) -> Visitor {
    let mut visitor = visit(address);
    visitor.send_get(target);
    visitor
}

/// So many clients; the target of each is its number.
fn ask_all(address: SocketAddr, count: usize) -> Vec<Visitor> {
    (0..count).map(|n| ask(address, &format!("/{n}"))).collect()
}

/// Reads a whole response with status 200.
#[track_caller]
fn expect(visitor: &mut Visitor, text: &str) {
    let answer = visitor.answer();
    assert_eq!(
        (answer.status, answer.text().as_str(), answer.cut),
        (200, text, false),
        "status, body, cut"
    );
}

/// Each client has its number as a response.
#[track_caller]
fn expect_all(visitors: &mut [Visitor]) {
    for (n, visitor) in visitors.iter_mut().enumerate() {
        expect(visitor, &format!("/{n}"));
    }
}

/// A worker is free: it answers a request that needs no backend. With a single worker, all exchanges before it are parked.
#[track_caller]
fn expect_free_worker(proxy: &Proxy) {
    let answer = visit(proxy.address()).get("/swiftiply_health");
    assert_eq!(answer.status, 200, "the health check: {answer:?}");
}

/// Another site is served.
#[track_caller]
fn expect_others(setup: &Setup) {
    let other = setup.other();
    let mut visitor = visit(setup.proxy.address());
    for n in 0..50 {
        visitor.send(format!("GET /{n} HTTP/1.1\r\nHost: other\r\n\r\n"));
        expect(&mut visitor, &format!("/{n}"));
    }
    expect_free_worker(&setup.proxy);
    drop(other);
}

/// A chunk of a chunked body.
fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
