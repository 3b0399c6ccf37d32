//! Connections that survive an upgrade: idle ones go to the new process, tunnels and long responses stay with the old one.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal::{SIGKILL, SIGTERM};

use super::{Successor, start};
use crate::common::backend::preamble;
use crate::common::proxy::SITE;
use crate::common::{
    Backend, Echo, Load, PATIENCE, Proxy, Visitor, assert_lacks, secure, wait_until,
};
use crate::tunnels::{assert_open, switch};

/// How many backends have dialled in and how many have disconnected, as the log has it.
fn comings_and_goings(proxy: &Proxy) -> (usize, usize) {
    let log = proxy.log();
    let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    (count(" joined at "), count(" disconnected ("))
}

#[test]
fn idle_ones_go_on_in_the_new_process() {
    let mut proxy = start("");
    let echo = Echo::dial(proxy.dial_in(), "127001017771", "");
    let [mut used, mut fresh] = [proxy.visit(), proxy.visit()];
    assert_eq!(used.get("/one").text(), "/one");
    let new = Successor::of(&proxy);
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
    for target in ["/two", "/three"] {
        let answer = used.get(target);
        assert_eq!((answer.text().as_str(), answer.status), (target, 200));
        assert_lacks(&answer.head, "close");
        assert_eq!(fresh.get(target).text(), target);
    }
    assert_eq!(echo.answered(), 5);
    assert_eq!(comings_and_goings(&proxy), (1, 0), "{}", proxy.log());
    // The one that was just accepted may be accepted by the new process.
    proxy.wait_for_log("upgrade: handed over 1 idle backend and ");
    proxy.wait_for_log("upgrade: took over 1 idle backend and ");
    drop((used, fresh, echo));
    new.finish();
}

#[test]
fn through_unix_sockets_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let site = SITE.replace("'127.0.0.1:0'", &format!("'unix:{}'", path.display()));
    let site = site.replace("timeout: 60", "timeout: 60, key: secret");
    let mut proxy = Proxy::start_with(&site, &["--pid", "pid"]);
    let mut backend = UnixStream::connect(&path).unwrap();
    backend.set_read_timeout(Some(PATIENCE)).unwrap();
    backend
        .write_all(&preamble("127001017771", "secret"))
        .unwrap();
    proxy.wait_for_log("joined");
    let new = Successor::of(&proxy);
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
    let mut visitor = proxy.ask("/");
    let mut bytes = [0; 1000];
    assert_ne!(backend.read(&mut bytes).unwrap(), 0, "a request");
    backend
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .unwrap();
    assert_eq!(visitor.answer().text(), "ok");
    drop((backend, visitor));
    proxy.wait_for_log("disconnected (peer_closed), 0 now");
    new.finish();
}

/// Keeps a connection and sends requests at odd moments, until it is stopped. Returns how many.
fn restless(address: SocketAddr, number: u64, stop: &AtomicBool, sent: &AtomicUsize) -> u64 {
    let mut visitor = Visitor::connect(address);
    let mut random = number + 1;
    for count in 0.. {
        if stop.load(Ordering::SeqCst) {
            return count;
        }
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        thread::sleep(Duration::from_micros((random >> 33) % 20_000));
        let target = format!("/{number}/{count}");
        let answer = match count % 3 {
            // In two pieces: the head may be read by the old process, or by neither yet.
            0 => {
                let request = format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n");
                visitor
                    .send_cut(request.as_bytes(), 1 + (random >> 40) as usize % 30)
                    .answer()
            }
            1 => visitor.send_post(&target, "body").answer(),
            _ => visitor.get(&target),
        };
        assert_eq!(
            (answer.text(), answer.status),
            (target, 200),
            "{}",
            answer.head
        );
        assert_ne!(answer.field("Connection"), Some("close"), "{}", answer.head);
        sent.fetch_add(1, Ordering::SeqCst);
    }
    unreachable!()
}

#[test]
fn ten_times_in_a_row_nothing_is_closed() {
    let mut proxy = start("");
    let echoes = ["127001017771", "127001017772", "127001017773"];
    let echoes = echoes.map(|id| Echo::dial(proxy.dial_in(), id, ""));
    proxy.wait_for_logs("joined", 3);
    let (stop, sent) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let clients: Vec<_> = (0..24)
        .map(|number| {
            let (address, stop, sent) = (proxy.address(), Arc::clone(&stop), Arc::clone(&sent));
            thread::spawn(move || restless(address, number, &stop, &sent))
        })
        .collect();
    let load = Load::start(proxy.address(), false);
    let mut last: Option<Successor> = None;
    for _ in 0..10 {
        let before = sent.load(Ordering::SeqCst);
        wait_until("requests", || {
            sent.load(Ordering::SeqCst) > before + 50 || clients.iter().any(|one| one.is_finished())
        });
        load.wait_for(50);
        let old = last.take();
        last = Some(match &old {
            None => Successor::of(&proxy),
            Some(old) => old.next(&proxy),
        });
        if let Some(old) = &old {
            wait_until("the end of the old process", || !old.is_alive());
        }
    }
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
    load.wait_for(50);
    load.end();
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        assert!(client.join().unwrap() > 0);
    }
    assert_eq!(comings_and_goings(&proxy), (3, 0), "{}", proxy.log());
    drop(echoes);
    last.unwrap().finish();
}

#[test]
fn a_request_that_was_begun_borrows_a_backend() {
    let mut proxy = start("");
    let echo = Echo::dial(proxy.dial_in(), "127001017771", "");
    let [mut head, mut body] = [proxy.visit(), proxy.visit()];
    head.send("GET /head HT");
    body.send("POST /body HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbo");
    proxy.wait_until_idle();
    let new = Successor::of(&proxy);
    proxy.wait_for_log("took over 1 idle backend");
    assert_eq!(Visitor::connect(proxy.address()).get("/new").text(), "/new");
    // Both are with the old process, and the backend is with the new one.
    for (visitor, rest, target) in [
        (&mut head, "TP/1.1\r\nHost: test\r\n\r\n", "/head"),
        (&mut body, "dy", "/body"),
    ] {
        visitor.send(rest);
        assert_eq!(visitor.answer().text(), target);
        // It goes on with the new one.
        assert_eq!(visitor.get("/more").text(), "/more");
    }
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
    assert_eq!(comings_and_goings(&proxy), (1, 0), "{}", proxy.log());
    assert_eq!(body.get("/last").text(), "/last");
    drop((head, body, echo));
    new.finish();
}

#[test]
fn a_backend_is_borrowed_by_the_order_of_the_site() {
    let site = SITE.replace("timeout: 60", "timeout: 60, order: oldest");
    let mut proxy = Proxy::start_with(&site, &["--pid", "pid"]);
    let [oldest, newest] = [1, 2].map(|number| {
        let echo = Echo::dial(proxy.dial_in(), &format!("12700101777{number}"), "");
        proxy.wait_for_logs("joined", number);
        proxy.wait_until_idle();
        echo
    });
    let mut visitor = proxy.visit();
    visitor.send("GET /1 HT");
    proxy.wait_until_idle();
    let new = Successor::of(&proxy);
    proxy.wait_for_log("took over 2 idle backends");
    visitor.send("TP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(visitor.answer().text(), "/1");
    assert_eq!((oldest.answered(), newest.answered()), (1, 0));
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
    drop((visitor, oldest, newest));
    new.finish();
}

#[test]
fn requests_that_wait_in_the_old_process_are_served() {
    let mut proxy = start("");
    let mut backend = Backend::dial(proxy.dial_in());
    let mut first = proxy.ask("/1");
    assert_eq!(backend.request().target(), "/1");
    let [mut second, mut third] = ["/2", "/3"].map(|target| proxy.ask(target));
    proxy.wait_until_idle();
    let new = Successor::of(&proxy);
    let mut fourth = proxy.ask("/4");
    backend.reply_to(&mut first, "/1");
    for _ in 0..3 {
        let target = backend.request().target().to_owned();
        let visitor = match target.as_str() {
            "/2" => &mut second,
            "/3" => &mut third,
            _ => &mut fourth,
        };
        backend.reply_to(visitor, &target);
    }
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
    assert_eq!(comings_and_goings(&proxy), (1, 0), "{}", proxy.log());
    drop((first, second, third, fourth, backend));
    new.finish();
}

#[test]
fn tunnels_and_responses_stay_beside_the_new_processes() {
    let mut proxy = start("grace: 1");
    let mut app = Backend::dial_as(proxy.dial_in(), "127001017771", "");
    proxy.wait_for_log("joined");
    let mut slow = Backend::dial_as(proxy.dial_in(), "127001017772", "");
    proxy.wait_for_logs("joined", 2);
    // A backend is idle a moment after the line of the log.
    proxy.wait_until_idle();
    let mut tunnel = proxy.visit();
    // The newest one is taken first.
    switch(&mut tunnel, &mut slow);
    let mut stream = proxy.ask("/events");
    app.request();
    app.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
    stream.sees("one");
    let first = Successor::of(&proxy);
    let second = first.next(&proxy);
    wait_until("the end of the process in between", || !first.is_alive());
    proxy.wait_for_logs("draining, for 43200s at most", 2);
    assert_open(&mut tunnel, &mut slow);
    app.send("3\r\ntwo\r\n");
    stream.sees("two");
    let echo = Echo::dial(proxy.dial_in(), "127001017773", "");
    assert_eq!(Visitor::connect(proxy.address()).get("/").status, 200);
    // The client and the backend of the response go on with the newest process.
    drop(echo);
    proxy.wait_for_log("(peer_closed)");
    app.send("0\r\n\r\n");
    stream.sees("0\r\n\r\n");
    let mut more = proxy.ask("/more");
    assert_eq!(app.request().target(), "/more");
    app.reply_to(&mut more, "more");
    // A stop of the newest one stops the first one, and waits for it.
    second.signal(SIGTERM);
    tunnel.assert_closed();
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
    second.finish();
    proxy.wait_for_log("drained; upgraded connections were closed");
}

#[test]
fn an_old_process_can_be_stopped_alone() {
    let mut proxy = start("grace: 1");
    let mut backend = Backend::dial(proxy.dial_in());
    let mut tunnel = proxy.visit();
    switch(&mut tunnel, &mut backend);
    let new = Successor::of(&proxy);
    assert_open(&mut tunnel, &mut backend);
    proxy.signal(SIGTERM);
    proxy.wait_for_log("draining, for 1s at most");
    tunnel.assert_closed();
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
    assert!(new.is_alive());
    new.finish();
}

#[test]
fn the_grace_of_an_upgrade_ends() {
    let mut proxy = start("upgrade_grace: 300ms");
    let mut backend = Backend::dial(proxy.dial_in());
    let mut tunnel = proxy.visit();
    switch(&mut tunnel, &mut backend);
    let new = Successor::of(&proxy);
    proxy.wait_for_log("draining, for 300ms at most");
    tunnel.assert_closed();
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
    new.finish();
}

#[test]
fn a_client_with_tls_has_one_more_response_from_the_old_process() {
    let files = tempfile::tempdir().unwrap();
    let (certfile, keyfile) = secure::certificate(files.path(), "test", &["test"]);
    let pair = secure::pair(&certfile, &keyfile);
    let mut proxy = start(&format!("ssl: {{at: '127.0.0.2:0', {pair}}}"));
    let echo = Echo::dial(proxy.dial_in(), "127001017771", "");
    let [mut used, mut fresh] = [proxy.visit_secure(), proxy.visit_secure()];
    assert_eq!(used.get("/one").text(), "/one");
    proxy.wait_until_idle();
    let new = Successor::of(&proxy);
    proxy.wait_for_log("took over 1 idle backend");
    thread::sleep(Duration::from_millis(1200));
    for visitor in [&mut used, &mut fresh] {
        let answer = visitor.get("/two");
        assert_eq!((answer.text().as_str(), answer.status), ("/two", 200));
        assert_eq!(answer.field("Connection"), Some("close"));
        visitor.assert_closed();
    }
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
    assert_eq!(comings_and_goings(&proxy), (1, 0), "{}", proxy.log());
    assert_eq!(echo.answered(), 3);
    drop((used, fresh, echo));
    new.finish();
}

#[test]
fn what_cannot_be_handed_over_is_closed() {
    let mut proxy = start("");
    let mut junk = Backend::dial_as(proxy.dial_in(), "127001017771", "");
    let good = Echo::dial(proxy.dial_in(), "127001017772", "");
    proxy.wait_for_logs("joined", 2);
    junk.send("unasked");
    let new = Successor::of(&proxy);
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
    junk.assert_closed();
    proxy.wait_for_log("reason=junk");
    proxy.wait_for_log("took over 1 idle backend");
    assert_eq!(Visitor::connect(proxy.address()).get("/").status, 200);
    drop((junk, good));
    new.finish();
}

#[test]
fn the_configuration_of_the_new_process_counts() {
    let mut proxy = start("");
    let mut unknown = Backend::dial(proxy.dial_in());
    proxy.wait_for_log("joined");
    // The key of the site has changed.
    let yaml = proxy.read("swiftiply.yml");
    let changed = yaml.replace("timeout: 60", "timeout: 60, key: other");
    std::fs::write(proxy.file("swiftiply.yml"), changed).unwrap();
    let new = Successor::of(&proxy);
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
    unknown.assert_closed();
    proxy.wait_for_log("disconnected (removed), 0 now");
    drop(unknown);
    new.finish();
}

#[test]
fn the_old_process_goes_on_alone_if_the_new_one_dies() {
    let mut proxy = start("");
    let echo = Echo::dial(proxy.dial_in(), "127001017771", "");
    let mut begun = proxy.visit();
    begun.send("GET /begun HT");
    let mut backend = Backend::dial_as(proxy.dial_in(), "127001017772", "");
    let mut tunnel = proxy.visit();
    proxy.wait_for_logs("joined", 2);
    // A backend is idle a moment after the line of the log.
    proxy.wait_until_idle();
    switch(&mut tunnel, &mut backend);
    let new = Successor::of(&proxy);
    proxy.wait_for_log("took over 1 idle backend");
    new.signal(SIGKILL);
    wait_until("the end of the new process", || !new.is_alive());
    assert_open(&mut tunnel, &mut backend);
    drop((tunnel, backend, begun, echo));
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
}
