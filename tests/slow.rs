//! Clients that do not read their responses: they hold no worker, and no backend while the spool has room.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crate::common::backend::preamble;
use crate::common::{Backend, Echo, Proxy, bytes, exchange, wait_until};

/// More than the socket buffers on both sides hold.
const LARGE: usize = 24 << 20;

/// A body of that size.
fn large() -> Vec<u8> {
    bytes(LARGE)
}

/// Answers the next request with a large body in a thread of its own, which ends when all was taken.
fn send_large(mut backend: Backend, head: &'static str) -> thread::JoinHandle<Backend> {
    thread::spawn(move || {
        backend.request();
        match head {
            CHUNKED => backend.reply_in_chunks(&large(), 100_000),
            _ => {
                backend.send(head).send(large());
            }
        }
        backend
    })
}

const LENGTH: &str = "HTTP/1.1 200 OK\r\nContent-Length: 25165824\r\n\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn backend_is_free() {
    let proxy = Proxy::simple();
    for head in [LENGTH, CHUNKED] {
        let sending = send_large(Backend::dial(proxy.dial_in()), head);
        let mut slow = proxy.ask("/large");
        // The backend gets rid of all of it, and of another response.
        let mut backend = sending.join().unwrap();
        let mut other = proxy.ask("/other");
        assert_eq!(backend.request().target(), "/other");
        backend.reply_to(&mut other, "other");
        // And the client gets all of it, whenever it likes, and can go on.
        let answer = slow.answer();
        answer.assert_whole();
        assert!(answer.body == large(), "{head}");
        exchange(&mut slow, &mut backend, "/next");
    }
    proxy.finish();
}

#[test]
fn spool_full() {
    let gone = tempfile::tempdir().unwrap();
    let no_disk = format!("temporary_directory: {}", gone.path().display());
    let mut gone = Some(gone);
    for lines in ["limits: {spool: 0}", &no_disk] {
        let proxy = Proxy::simple_with(&format!("workers: 3\n{lines}"));
        if lines == no_disk {
            drop(gone.take());
        }
        // More of them than workers.
        let slow: Vec<_> = (0..6)
            .map(|_| {
                let sending = send_large(Backend::dial(proxy.dial_in()), LENGTH);
                let mut visitor = proxy.ask("/large");
                visitor.at_least(1000);
                (sending, visitor)
            })
            .collect();
        let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
        assert_eq!(proxy.visit().get("/other").text(), "/other");
        for (sending, mut visitor) in slow {
            assert!(
                !sending.is_finished(),
                "the whole response was read although the client takes nothing"
            );
            let answer = visitor.answer();
            answer.assert_body(large());
            drop(sending.join().unwrap());
        }
        drop(echo);
        proxy.finish();
    }
}

/// A backend that dials in whenever it can, and answers `/large` with a large body.
fn large_or_echo(address: SocketAddr) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        while let Ok(stream) = TcpStream::connect(address) {
            let mut backend = Backend::accepted(stream);
            backend.wait_for_ever();
            backend.send(preamble("000000000001", ""));
            while let Some(seen) = backend.next() {
                match seen.target() {
                    "/large" => backend.send(LENGTH).send(large()),
                    target => backend.reply(target),
                };
            }
        }
    })
}

#[test]
fn cut_for_waiting_requests() {
    for spool in ["0", "8m"] {
        let proxy = Proxy::simple_with(&format!("limits: {{spool: {spool}, body_memory: 16k}}"));
        let backends = [(); 2].map(|()| large_or_echo(proxy.dial_in()));
        // Both are held by clients that read no more than this.
        let mut slow = [(); 2].map(|()| proxy.ask("/large"));
        for visitor in &mut slow {
            visitor.at_least(1000);
        }
        assert_eq!(proxy.visit().get("/other").text(), "/other");
        let log = proxy.log();
        assert!(log.contains("limits.spool reached: "), "{log}");
        proxy.wait_for_log("reason=write_slow");
        assert!(
            slow.iter_mut().any(|visitor| visitor.answer().cut),
            "no response to a slow client was cut"
        );
        // The backends dial in as long as it is there.
        drop((slow, proxy));
        for backend in backends {
            backend.join().unwrap();
        }
    }
}

#[test]
fn no_needless_buffering() {
    let (proxy, mut backend, mut slow) = Proxy::scene();
    slow.send_get("/");
    backend.request();
    backend.send(CHUNKED);
    backend
        .send(format!("{LARGE:x}\r\n"))
        .send(large())
        .send("\r\n");
    // The backend says nothing more until the client has all that it has sent.
    slow.at_least(LARGE);
    backend.send("3\r\nend\r\n0\r\n\r\n");
    let answer = slow.answer();
    assert!(
        answer.body.starts_with(&large()) && answer.body.ends_with(b"end"),
        "{} bytes arrived, not those that were sent",
        answer.body.len()
    );
    drop((slow, backend));
    proxy.finish();
}

#[test]
fn broken_response() {
    let (proxy, mut backend, mut slow) = Proxy::scene();
    slow.send_get("/");
    backend.request();
    backend.send("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n");
    backend.send(large());
    drop(backend);
    proxy.wait_for_log("backend_failed");
    let answer = slow.answer();
    answer.assert_cut();
    let count = answer.body.len();
    assert!(
        answer.body == large(),
        "{count} bytes, not the {LARGE} that the backend sent"
    );
    proxy.finish();
}

#[test]
fn write_timeout() {
    let proxy = Proxy::simple_with("timeouts: {write: 300ms}\naccess_log: access");
    let sending = send_large(Backend::dial(proxy.dial_in()), LENGTH);
    let mut slow = proxy.ask("/");
    proxy.wait_for_log("reason=write_timeout");
    let answer = slow.answer();
    assert!(
        answer.cut && answer.body.len() < LARGE,
        "{} bytes, cut: {}",
        answer.body.len(),
        answer.cut
    );
    assert!(
        large().starts_with(&answer.body),
        "the bytes before the cut are not those that were sent"
    );
    drop((slow, sending.join().unwrap()));
    proxy.finish();
}

#[test]
fn client_leaves() {
    let proxy = Proxy::simple();
    let sending = send_large(Backend::dial(proxy.dial_in()), LENGTH);
    let slow = proxy.ask("/");
    drop(sending.join().unwrap());
    slow.reset();
    // The close is noticed by a write, or before one.
    wait_until("the close of the client's connection", || {
        let log = proxy.log();
        log.contains("reason=write_failed") || log.contains("reason=client_gone")
    });
    proxy.finish();
}

#[test]
fn backend_kept() {
    let proxy = Proxy::simple_with("limits: {spool: 0}\ntimeouts: {write: 300ms}");
    let sending = send_large(Backend::dial(proxy.dial_in()), LENGTH);
    let slow = proxy.ask("/");
    proxy.wait_for_log("reason=write_timeout");
    // The rest of the response is read for no client, and then the backend has the next request.
    let mut backend = sending.join().unwrap();
    exchange(&mut proxy.visit(), &mut backend, "/next");
    drop((slow, backend));
    assert!(!proxy.log().contains("backend_failed"), "{}", proxy.log());
    proxy.finish();
}

#[test]
fn unread_pipeline() {
    let proxy = Proxy::simple_with("workers: 3");
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    let target = format!("/{}", "x".repeat(8000));
    let request = format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n");
    let mut floods: Vec<_> = (0..4)
        .map(|_| TcpStream::connect(proxy.address()).unwrap())
        .collect();
    for flood in &mut floods {
        // Until no more of it is taken.
        flood
            .set_write_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        while flood.write_all(request.as_bytes()).is_ok() {}
    }
    for _ in 0..20 {
        assert_eq!(proxy.visit().get("/other").text(), "/other");
    }
    drop(floods);
    let mut ordered = proxy.visit();
    for number in 0..50 {
        ordered.send_get(&format!("/{number}"));
    }
    for number in 0..50 {
        assert_eq!(ordered.answer().text(), format!("/{number}"));
    }
    drop((ordered, echo));
    proxy.finish();
}

#[test]
fn small_reads() {
    let proxy = Proxy::simple_with("limits: {spool: 8m, body_memory: 0}");
    let sending = send_large(Backend::dial(proxy.dial_in()), LENGTH);
    let mut visitor = proxy.ask("/");
    // More and more of it, so that the spool is filled and emptied by turns.
    for part in 1..=8 {
        visitor.at_least(LARGE / 8 * part);
    }
    visitor.answer().assert_body(large());
    let backend = sending.join().unwrap();
    drop((visitor, backend));
    proxy.finish();
}
