//! Upgrades: how a connection becomes a tunnel, what goes through it, and how it ends.

mod access_proxy;
mod lifetime;
mod load;
mod upgrading;

use crate::common::{Backend, Proxy, Visitor};

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";

const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

/// Makes a tunnel of a client and a new backend.
fn tunnel(proxy: &Proxy, visitor: &mut Visitor) -> Backend {
    let mut backend = Backend::dial(proxy.dial_in());
    switch(visitor, &mut backend);
    backend
}

/// Makes a tunnel of a client and a backend.
pub(crate) fn switch(visitor: &mut Visitor, backend: &mut Backend) {
    visitor.send(ASK);
    answer_switch(visitor, backend);
}

/// Makes a tunnel of a client and the backend that gets its request.
pub(crate) fn switch_to(visitor: &mut Visitor, accept: impl FnOnce() -> Backend) -> Backend {
    visitor.send(ASK);
    let mut backend = accept();
    answer_switch(visitor, &mut backend);
    backend
}

fn answer_switch(visitor: &mut Visitor, backend: &mut Backend) {
    let seen = backend.request();
    assert_eq!(seen.field("Upgrade"), Some("websocket"), "{}", seen.head);
    backend.send(SWITCH);
    let answer = visitor.answer();
    assert_eq!(answer.status, 101, "{answer:?}");
}

/// Whether both ends hear each other.
pub(crate) fn assert_open(visitor: &mut Visitor, backend: &mut Backend) {
    visitor.send("ping");
    assert_eq!(backend.take(4), b"ping");
    backend.send("pong");
    assert_eq!(visitor.take(4), b"pong");
}

/// Bytes in which nothing repeats soon, other ones for each seed.
fn noise(seed: u64, from: u64, into: &mut [u8]) {
    for (n, word) in (from..).zip(into.chunks_mut(8)) {
        let mixed = (n ^ seed << 48).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word.copy_from_slice(&mixed.to_le_bytes()[..word.len()]);
    }
}

const BLOCK: usize = 64 * 1024;
