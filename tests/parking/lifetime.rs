//! The end of the program, and reloads.

use std::sync::mpsc;

use nix::sys::signal::Signal;

use super::*;
use crate::common::proxy::SITE;
use crate::common::{Backend, Way, embedded, first, wait_at_most};

/// Twelve exchanges; every second one has half of its response.
fn twelve(way: Way, lines: &str) -> (Setup, Vec<Visitor>, Vec<(Backend, String)>) {
    let mut setup = Setup::start(way, 12, lines);
    let mut visitors = ask_all(setup.proxy.address(), 12);
    let mut busy = Vec::new();
    for (mut backend, seen) in setup.requests(12) {
        let target = seen.target().to_owned();
        let length = target.len();
        let mut rest = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{target}");
        let number: usize = target[1..].parse().unwrap();
        if number.is_multiple_of(2) {
            let end = rest.split_off(rest.len() - 1);
            backend.send(rest);
            rest = end;
        }
        busy.push((backend, rest));
    }
    for visitor in visitors.iter_mut().step_by(2) {
        visitor.sees("\r\n\r\n/");
    }
    expect_free_worker(&setup.proxy);
    (setup, visitors, busy)
}

fn send_rest(busy: &mut [(Backend, String)]) {
    for (backend, rest) in busy {
        backend.send(rest);
    }
}

#[test]
fn drain_finishes_exchanges() {
    for way in [Way::DialIn, Way::Traditional] {
        let (mut setup, mut visitors, mut busy) = twelve(way, "workers: 2");
        setup.proxy.signal(Signal::SIGTERM);
        setup.proxy.wait_for_log("draining");
        send_rest(&mut busy);
        for (n, visitor) in visitors.iter_mut().enumerate() {
            let answer = visitor.answer();
            assert_eq!(answer.text(), format!("/{n}"), "{way:?}: {answer:?}");
            assert!(!answer.cut, "{way:?}: {answer:?}");
            let close = answer.field("Connection") == Some("close");
            assert!(
                close || n.is_multiple_of(2),
                "a head during a drain: {answer:?}"
            );
            assert!(visitor.is_closed(), "{way:?}: visitor {n} is closed");
        }
        for (backend, _) in &mut busy {
            assert!(backend.is_closed(), "{way:?}: the connection is closed");
        }
        let code = setup.proxy.wait().code();
        assert_eq!(code, Some(0), "{way:?}: {}", setup.proxy.log());
    }
}

#[test]
fn second_term_ends_at_once() {
    let (mut setup, mut visitors, mut busy) = twelve(Way::DialIn, "workers: 2\ngrace: 60");
    setup.proxy.signal(Signal::SIGTERM);
    setup.proxy.wait_for_log("draining");
    setup.proxy.signal(Signal::SIGTERM);
    for (n, visitor) in visitors.iter_mut().enumerate() {
        match n.is_multiple_of(2) {
            true => assert!(visitor.answer().cut, "the response of visitor {n} is cut"),
            false => assert!(visitor.is_closed(), "visitor {n} is closed"),
        }
    }
    for (backend, _) in &mut busy {
        assert!(backend.is_closed(), "the connection is closed");
    }
    assert_eq!(setup.proxy.wait().code(), Some(1), "the second signal");
}

#[test]
fn grace_ends_exchanges() {
    let lines = "workers: 2\ngrace: 500ms\naccess_log: {file: access, format: json}";
    let (mut setup, visitors, busy) = twelve(Way::DialIn, lines);
    setup.proxy.signal(Signal::SIGTERM);
    assert_eq!(setup.proxy.wait().code(), Some(1), "the end of the grace");
    let log = setup.proxy.read("access");
    let draining = log.matches("\"ended\":\"draining\"").count();
    assert_eq!(draining, 12, "{log}");
    drop((visitors, busy));
}

#[test]
fn reload_keeps_exchanges() {
    let (setup, mut visitors, mut busy) = twelve(Way::DialIn, "workers: 2");
    let mut queued: Vec<_> = (0..3)
        .map(|n| ask(setup.proxy.address(), &format!("/queued/{n}")))
        .collect();
    expect_free_worker(&setup.proxy);
    setup.proxy.reload(&format!("workers: 2\n{SITE}"));
    // The first connection also serves the requests in the queue.
    let (serving, rest) = busy.split_first_mut().unwrap();
    serving.0.send(&serving.1);
    for _ in 0..3 {
        let target = serving.0.request().target().to_owned();
        serving.0.reply(&target);
    }
    send_rest(rest);
    expect_all(&mut visitors);
    for (n, visitor) in queued.iter_mut().enumerate() {
        expect(visitor, &format!("/queued/{n}"));
    }
    // The address is closed, and its exchanges complete.
    for visitor in &mut visitors {
        visitor.send_get("/again");
    }
    for (backend, _) in &mut busy {
        assert_eq!(backend.request().target(), "/again", "the next request");
    }
    setup.proxy.reload("workers: 2\nmap: []");
    for (backend, _) in &mut busy {
        backend.reply("again");
    }
    for visitor in &mut visitors {
        expect(visitor, "again");
    }
    for (backend, _) in &mut busy {
        assert!(
            backend.is_closed(),
            "a connection to an address that is gone"
        );
    }
    drop((visitors, queued, busy));
    setup.finish();
}

#[test]
fn drop_closes_all() {
    let server = embedded(&format!("workers: 2\n{SITE}"));
    let address = first(&server.client_addresses());
    let mut backends: Vec<_> = (0..6)
        .map(|_| Backend::dial(first(&server.backend_addresses())))
        .collect();
    wait_at_most(SOON, "six idle backends", || server.queues().0 == 6);
    let mut visitors = ask_all(address, 6);
    for (n, backend) in backends.iter_mut().enumerate() {
        backend.wait_at_most(SOON);
        backend.request();
        if n < 3 {
            backend.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf");
        }
    }
    visitors.extend([ask(address, "/queued/0"), ask(address, "/queued/1")]);
    wait_at_most(SOON, "two requests in the queue", || server.queues().1 == 2);
    let (dropped, wait) = mpsc::channel();
    thread::spawn(move || {
        drop(server);
        let _ = dropped.send(());
    });
    let end = wait.recv_timeout(SOON);
    let seconds = SOON.as_secs();
    assert!(
        end.is_ok(),
        "timed out after {seconds} s waiting for the drop of the server"
    );
    let mut begun = 0;
    for (n, visitor) in visitors.iter_mut().enumerate() {
        let text = String::from_utf8(visitor.rest()).unwrap();
        match text.starts_with("HTTP/1.1 200") {
            true => {
                begun += 1;
                assert!(text.ends_with("\r\n\r\nhalf"), "visitor {n}: {text}");
            }
            false => assert!(
                text.is_empty() || text.starts_with("HTTP/1.1 503"),
                "visitor {n}: {text}"
            ),
        }
    }
    assert!(begun <= 3, "three responses had begun, not {begun}");
    for (n, backend) in backends.iter_mut().enumerate() {
        assert!(backend.is_closed(), "backend {n} is closed");
    }
}
