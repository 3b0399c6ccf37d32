//! Upgrades: how a connection becomes a tunnel, what goes through it, and how it ends.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use swiftiply::stats::{self, Close};

use crate::common::proxy::{SITE, site};
use crate::common::{
    Access, Backend, Echo, PATIENCE, Port, Proxy, Server, Visitor, crowd, embedded, exchange,
    first, needs, wait_until,
};

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
fn switch(visitor: &mut Visitor, backend: &mut Backend) {
    visitor.send(ASK);
    let seen = backend.request();
    assert_eq!(seen.field("Upgrade"), Some("websocket"), "{}", seen.head);
    backend.send(SWITCH);
    let answer = visitor.answer();
    assert_eq!(answer.status, 101, "{answer:?}");
}

/// Whether both ends hear each other.
fn assert_open(visitor: &mut Visitor, backend: &mut Backend) {
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

/// Sends so many blocks of noise.
fn send_noise(mut stream: &TcpStream, seed: u64, blocks: usize) {
    let mut block = vec![0; BLOCK];
    for number in 0..blocks {
        noise(seed, (number * BLOCK / 8) as u64, &mut block);
        stream.write_all(&block).unwrap();
    }
}

/// Reads so many blocks of noise and compares them.
fn read_noise(mut stream: &TcpStream, seed: u64, blocks: usize) {
    let (mut block, mut expected) = (vec![0; BLOCK], vec![0; BLOCK]);
    for number in 0..blocks {
        noise(seed, (number * BLOCK / 8) as u64, &mut expected);
        stream.read_exact(&mut block).unwrap();
        assert!(block == expected, "block {number}");
    }
}

const BLOCK: usize = 64 * 1024;

/// A client that has been switched, as a socket, and its backend.
fn sockets(proxy: &Proxy) -> (TcpStream, Backend) {
    let mut visitor = TcpStream::connect(proxy.address()).unwrap();
    visitor.set_read_timeout(Some(PATIENCE)).unwrap();
    visitor.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut backend = Backend::dial(proxy.dial_in());
    visitor.write_all(ASK.as_bytes()).unwrap();
    backend.request();
    backend.send(SWITCH);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        visitor.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(
        head.starts_with(b"HTTP/1.1 101 "),
        "{}",
        String::from_utf8_lossy(&head)
    );
    (visitor, backend)
}

#[test]
fn each_side_ends() {
    needs!("openssl");
    let proxy = Proxy::both_with("access_log: {file: access, format: json}");
    for secure in [false, true] {
        for visitor_first in [true, false] {
            let mut visitor = proxy.visit_as(secure);
            let mut backend = Backend::dial(proxy.dial_in());
            visitor.send(ASK);
            let seen = backend.request();
            let fields = (seen.field("Connection"), seen.field("Upgrade"));
            assert_eq!(fields, (Some("upgrade"), Some("websocket")));
            backend.send(SWITCH);
            let answer = visitor.answer();
            assert_eq!(
                answer.head.lines().next(),
                Some("HTTP/1.1 101 Switching Protocols")
            );
            let fields = (answer.field("Connection"), answer.field("Upgrade"));
            assert_eq!(fields, (Some("upgrade"), Some("websocket")));
            assert!(answer.field("Date").is_some(), "no Date: {}", answer.head);
            assert_open(&mut visitor, &mut backend);
            // What is no HTTP, and what would be.
            visitor.send(b"\0\r\n\r\nGET / HTTP/1.1\r\n\r\n");
            assert_eq!(backend.take(23), b"\0\r\n\r\nGET / HTTP/1.1\r\n\r\n");
            if visitor_first {
                visitor.send("last").finish();
                assert_eq!(backend.rest(), b"last");
                backend.send("still here");
                assert_eq!(visitor.take(10), b"still here");
                backend.send("end").finish();
                assert_eq!(visitor.rest(), b"end");
            } else {
                backend.send("last").finish();
                assert_eq!(visitor.rest(), b"last");
                visitor.send("still here");
                assert_eq!(backend.take(10), b"still here");
                visitor.send("end").finish();
                assert_eq!(backend.rest(), b"end");
            }
        }
    }
    proxy.wait_for_logs("reason=tunnel_done", 8);
    let lines = |bytes: usize| {
        let end = format!(r#""status":101,"bytes":{bytes},"site":"test""#);
        let log = proxy.read("access");
        let ours = log.lines().filter(|line| line.contains(&end));
        ours.filter(|line| line.contains(r#""ended":"tunnel_done""#))
            .count()
    };
    wait_until("the lines of the access log", || {
        (lines(4 + 13), lines(4 + 4)) == (2, 2)
    });
    proxy.finish();
}

#[test]
fn early_bytes() {
    needs!("openssl");
    let proxy = Proxy::both();
    let there = format!("{ASK}early");
    let back = format!("{SWITCH}soon");
    let longest = there.len().max(back.len());
    for secure in [false, true] {
        for cut in (0..=longest).step_by(if secure { 5 } else { 1 }) {
            let mut visitor = proxy.visit_as(secure);
            let mut backend = Backend::dial(proxy.dial_in());
            visitor.send_cut(there.as_bytes(), cut.min(there.len()));
            let seen = backend.next().unwrap();
            assert_eq!(seen.target(), "/chat", "cut at {cut}");
            let cut = cut.min(back.len());
            backend.send(&back[..cut]);
            thread::yield_now();
            backend.send(&back[cut..]);
            assert_eq!(backend.take(5), b"early", "cut at {cut}");
            assert_eq!(visitor.answer().status, 101, "cut at {cut}");
            assert_eq!(visitor.take(4), b"soon", "cut at {cut}");
            assert_open(&mut visitor, &mut backend);
        }
    }
    proxy.finish();
}

#[test]
fn bytes_before_101() {
    let (proxy, mut backend, mut visitor) = Proxy::scene();
    // Were it taken for more of the upgraded request's connection, the second one would be smuggled past the proxy.
    visitor.send(format!(
        "{ASK}GET /second HTTP/1.1\r\nHost: test\r\nX-Real-IP: 9.9.9.9\r\n\r\n"
    ));
    assert_eq!(backend.request().target(), "/chat");
    backend.send("HTTP/1.1 103 Early Hints\r\n\r\n");
    assert_eq!(visitor.answer().status, 103);
    backend.socket().set_nonblocking(true).unwrap();
    let peek = backend.socket().peek(&mut [0]);
    assert_eq!(peek.unwrap_err().kind(), ErrorKind::WouldBlock);
    backend.socket().set_nonblocking(false).unwrap();
    // The application does not know the protocol, so all of it was HTTP.
    backend.reply_to(&mut visitor, "no");
    let second = backend.request();
    assert_eq!(second.target(), "/second");
    assert_eq!(second.field("X-Real-IP"), Some("127.0.0.1"));
    backend.reply_to(&mut visitor, "second");
    // On the same two connections, this time it does, and the first one of these bytes is the tunnel's.
    visitor.send(format!("{ASK}GET /third HTTP/1.1\r\n\r\n"));
    backend.request();
    backend.send(format!("HTTP/1.1 103 Early Hints\r\n\r\n{SWITCH}"));
    assert_eq!(visitor.answer().status, 103);
    assert_eq!(visitor.answer().status, 101);
    assert_eq!(backend.take(23), b"GET /third HTTP/1.1\r\n\r\n");
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn negotiation() {
    let proxy = Proxy::start(
        "map:\n\
         - {incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 60}\n\
         - {incoming: streams, outgoing: 'localhost:0', timeout: 60, request_buffering: false, keepalive: false}",
    );
    let addresses = proxy.dial_ins();
    // Fields of the request, what is passed on of its offer, the response's protocol, and whether it is good.
    let cases = [
        ("Upgrade: a, b/2, c", "a, b/2, c", "B/2", true),
        ("Upgrade: a\r\nUPGRADE: b", "a, b", "b, a", true),
        ("Upgrade: h2c, a", "a", "a", true),
        ("Upgrade: h2c, a", "a", "h2c", false),
        ("Upgrade: a", "a", "b", false),
        ("Upgrade: a", "a", "a, b", false),
        ("Upgrade: a", "a", "", false),
        ("Upgrade: h2c", "", "h2c", false),
        ("Upgrade: HTTP/2.0, TLS/1.0", "", "TLS/1.0", false),
        ("Upgrade: a b", "", "a", false),
        ("Upgrade: a\r\nContent-Length: 0", "a", "a", true),
        ("Upgrade: a\r\nContent-Length: 1", "", "a", false),
        ("A: b", "", "a", false),
    ];
    for (fields, offered, chosen, good) in cases {
        for (host, dial_in) in [("test", 0), ("streams", 1)] {
            let context = format!("{host} {fields} {chosen}");
            let mut backend = Backend::dial(addresses[dial_in]);
            let mut visitor = proxy.visit();
            visitor.send(format!(
                "POST / HTTP/1.1\r\nHost: {host}\r\nConnection: upgrade\r\n{fields}\r\n\r\nx"
            ));
            let seen = backend.request();
            let passed = seen.field("Upgrade").unwrap_or_default();
            assert_eq!(passed, offered, "{context}");
            let option = seen.field("Connection").unwrap_or_default();
            let expected = if offered.is_empty() { "" } else { "upgrade" };
            assert_eq!(option, expected, "{context}");
            backend.send(format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {chosen}\r\n\r\n"
            ));
            let answer = visitor.answer();
            assert_eq!(answer.status, if good { 101 } else { 502 }, "{context}");
            if good {
                assert_eq!(answer.field("Upgrade"), Some(chosen), "{context}");
                assert_eq!(backend.take(1), b"x", "{context}");
                assert_open(&mut visitor, &mut backend);
            } else {
                assert!(backend.is_closed(), "{context}");
            }
        }
    }
    // Without the option, or in HTTP/1.0, Upgrade is nothing (RFC 9110 7.8).
    for request in [
        "GET / HTTP/1.1\r\nHost: test\r\nUpgrade: a\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: a\r\n\r\n",
    ] {
        let mut backend = Backend::dial(proxy.dial_in());
        let mut visitor = proxy.visit();
        visitor.send(request);
        let seen = backend.request();
        assert_eq!(
            (seen.field("Upgrade"), seen.field("Connection")),
            (None, None)
        );
        backend.reply_to(&mut visitor, "http");
    }
    // What a 101 says of a body is nothing, and HTTP/1.0 has no 101.
    let mut backend = Backend::dial(proxy.dial_in());
    let mut visitor = proxy.visit();
    visitor.send(ASK);
    backend.request();
    backend.send(SWITCH.replace("\r\n\r\n", "\r\nContent-Length: 3\r\n\r\nabc"));
    let answer = visitor.answer();
    assert_eq!((answer.status, answer.field("Content-Length")), (101, None));
    assert_eq!(visitor.take(3), b"abc");
    assert_open(&mut visitor, &mut backend);
    let mut old = Backend::dial(proxy.dial_in());
    let mut other = proxy.visit();
    other.send(ASK);
    old.request();
    old.send(SWITCH.replace("HTTP/1.1", "HTTP/1.0"));
    assert_eq!(other.answer().status, 502);
    drop((visitor, backend, other, old));
    proxy.finish();
}

#[test]
fn limit_per_site() {
    let keys = "max_tunnels: 1, timeouts: {tunnel: 60}";
    let proxy = Proxy::start(&site(keys));
    let mut visitor = proxy.visit();
    let mut backend = tunnel(&proxy, &mut visitor);
    let mut idle = Backend::dial(proxy.dial_in());
    let mut other = proxy.visit();
    // The second one is refused before a backend is asked, and ordinary requests are not.
    let answer = other.ask(ASK);
    assert_eq!(answer.status, 503);
    assert!(answer.field("Retry-After").is_some(), "{answer:?}");
    proxy.wait_for_log("max_tunnels reached");
    exchange(&mut other, &mut idle, "/plain");
    // A reload changes the limit and leaves tunnels as they are.
    let reload = |keys: &str| proxy.reload(&site(keys));
    reload("max_tunnels: 2");
    let mut second = proxy.visit();
    let mut taken = idle;
    switch(&mut second, &mut taken);
    let mut idle = Backend::dial(proxy.dial_in());
    // An upgrade that the application does not take is none.
    reload("max_tunnels: 3");
    for _ in 0..3 {
        other.send(ASK);
        idle.request();
        idle.reply_to(&mut other, "no");
    }
    reload("max_tunnels: 1");
    assert_eq!(other.ask(ASK).status, 503);
    assert_open(&mut visitor, &mut backend);
    drop((visitor, second, backend, taken));
    proxy.wait_for_logs("bytes there and", 2);
    switch(&mut other, &mut idle);
    assert_open(&mut other, &mut idle);
    // With none at all an upgrade is not passed on.
    reload("max_tunnels: 0");
    let mut last = proxy.visit();
    let mut backend = Backend::dial(proxy.dial_in());
    last.send(ASK);
    let seen = backend.request();
    assert_eq!(
        (seen.field("Upgrade"), seen.field("Connection")),
        (None, None)
    );
    backend.reply_to(&mut last, "plain");
    assert_open(&mut other, &mut idle);
    drop((last, other, idle, backend));
    proxy.finish();
}

#[test]
fn site_removed() {
    let proxy = Proxy::simple();
    let mut visitor = proxy.visit();
    let mut backend = tunnel(&proxy, &mut visitor);
    proxy.reload("map: [{incoming: other, outgoing: '127.0.0.1:0'}]");
    assert_eq!(proxy.visit().get("/").status, 404);
    assert_open(&mut visitor, &mut backend);
    backend.finish();
    visitor.finish();
    proxy.wait_for_logs("reason=tunnel_done", 2);
    drop((visitor, backend));
    proxy.finish_without_leak_check();
}

#[test]
fn idle_timeout() {
    needs!("openssl");
    // Nothing in either direction.
    let proxy = Proxy::both_with("timeouts: {tunnel: 0.3}");
    for secure in [false, true] {
        let mut visitor = proxy.visit_as(secure);
        let mut backend = tunnel(&proxy, &mut visitor);
        assert_open(&mut visitor, &mut backend);
        visitor.assert_closed();
        backend.assert_closed();
    }
    proxy.wait_for_logs("reason=tunnel_idle", 4);
    proxy.finish();
    // Nothing of one side while the other one has ended.
    let proxy = Proxy::start(&site("timeouts: {backend: 0.3, body: 0.3}"));
    let mut visitor = proxy.visit();
    let mut backend = tunnel(&proxy, &mut visitor);
    visitor.finish();
    visitor.assert_closed();
    backend.assert_closed();
    let mut visitor = proxy.visit();
    let mut backend = tunnel(&proxy, &mut visitor);
    backend.finish();
    visitor.assert_closed();
    backend.assert_closed();
    proxy.wait_for_logs("reason=tunnel_idle", 4);
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn peer_takes_nothing() {
    needs!("openssl");
    let proxy = Proxy::both_with("timeouts: {write: 0.3, backend: 0.3}");
    let mut block = vec![0; BLOCK];
    noise(0, 0, &mut block);
    let mut closed = 0;
    for secure in [false, true] {
        let mut visitor = proxy.visit_as(secure);
        let mut backend = tunnel(&proxy, &mut visitor);
        while backend.try_send(&block).is_ok() {}
        drop(visitor);
        let mut visitor = proxy.visit_as(secure);
        let _backend = tunnel(&proxy, &mut visitor);
        while visitor.try_send(&block).is_ok() {}
        closed += 2;
        proxy.wait_for_logs("reason=write_timeout", closed);
        proxy.wait_for_logs("reason=backend_failed", closed);
    }
    proxy.finish();
}

#[test]
fn peer_vanishes() {
    needs!("openssl");
    let proxy = Proxy::both_with("access_log: {file: access}");
    for secure in [false, true] {
        let mut visitor = proxy.visit_as(secure);
        let mut backend = tunnel(&proxy, &mut visitor);
        visitor.reset();
        backend.assert_closed();
        let mut visitor = proxy.visit_as(secure);
        let mut backend = tunnel(&proxy, &mut visitor);
        assert_open(&mut visitor, &mut backend);
        backend.reset();
        assert!(
            visitor.try_send(b"x").is_err() || visitor.is_broken(),
            "the client's connection is still open"
        );
    }
    proxy.wait_for_logs("reason=client_gone", 4);
    proxy.wait_for_logs("reason=backend_failed", 4);
    let lines = |word: &str| proxy.read("access").matches(&format!(" {word}\n")).count();
    wait_until("the lines of the access log", || {
        (lines("client_gone"), lines("backend_failed")) == (2, 2)
    });
    proxy.finish();
}

#[test]
fn drain() {
    needs!("openssl");
    for second_signal in [false, true] {
        let grace = if second_signal { "60" } else { "0.5" };
        let mut proxy = Proxy::both_with(&format!("grace: {grace}"));
        let mut tunnels: Vec<_> = [false, true]
            .into_iter()
            .map(|secure| {
                let mut visitor = proxy.visit_as(secure);
                let backend = tunnel(&proxy, &mut visitor);
                (visitor, backend)
            })
            .collect();
        proxy.signal(Signal::SIGTERM);
        proxy.wait_for_log("draining, for");
        if second_signal {
            for (visitor, backend) in &mut tunnels {
                assert_open(visitor, backend);
            }
            proxy.signal(Signal::SIGTERM);
        }
        for (visitor, backend) in &mut tunnels {
            visitor.assert_closed();
            backend.assert_closed();
        }
        assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
        let log = proxy.log();
        assert_eq!(log.matches("bytes there and").count(), 2, "{log}");
        assert!(log.contains("reason=draining"), "{log}");
    }
}

#[test]
fn successor() {
    let ports = [(); 2].map(|()| Port::reserve());
    let [visitors, backends] = ports.each_ref().map(|port| port.number().to_string());
    let site = SITE.replace("127.0.0.1:0", &format!("127.0.0.1:{backends}"));
    let start = || {
        Proxy::start_with(
            &format!("grace: 600\n{site}"),
            &["--cluster-port", &visitors],
        )
    };
    let mut first = start();
    let mut visitor = first.visit();
    let mut backend = tunnel(&first, &mut visitor);
    // A response that takes its time has its backend, too, and an idle one has to connect again.
    let mut long = Backend::dial(first.dial_in());
    let mut waiting = first.ask("/long");
    long.request();
    let mut idle = Backend::dial(first.dial_in());
    first.wait_for_logs("joined", 3);
    first.signal(Signal::SIGTERM);
    first.wait_for_log("draining, for");
    // It waits for the address until the first one needs it no more.
    let second = start();
    assert!(idle.is_closed(), "the idle backend can connect again");
    let echo = Echo::dial(second.dial_in(), "127001017771", "");
    assert_eq!(second.visit().get("/").status, 200);
    assert_open(&mut visitor, &mut backend);
    long.reply("done");
    assert_eq!(waiting.answer().text(), "done");
    drop((visitor, backend));
    assert_eq!(first.wait().code(), Some(0), "{}", first.log());
    drop((echo, long, waiting));
    second.finish();
}

#[test]
fn counted() {
    let lines = format!("workers: 2\nlimits: {{connections_per_client: 1, backends: 1}}\n{SITE}");
    let server = embedded(&lines);
    let (visitors, dial_in) = (first(&server.visitors()), first(&server.backends()));
    let stats = server.stats();
    let open = || (server.open(), stats::get(&stats.tunnels));
    for round in 1..=2 {
        let mut visitor = Visitor::connect(visitors);
        let mut backend = Backend::dial(dial_in);
        switch(&mut visitor, &mut backend);
        assert_eq!(open(), (1, 1));
        assert_eq!(stats.status(101), round);
        assert_eq!(server.queues(), (0, 0));
        // Each of them has one connection, and may have no other.
        Visitor::connect(visitors).assert_closed();
        Backend::dial(dial_in).assert_closed();
        assert_open(&mut visitor, &mut backend);
        drop((visitor, backend));
        wait_until("the end of the tunnel", || open() == (0, 0));
    }
    let mut visitor = Visitor::connect(visitors);
    let mut backend = Backend::dial(dial_in);
    switch(&mut visitor, &mut backend);
    let closed = thread::spawn(move || visitor.is_closed() && backend.is_closed());
    assert!(
        server.drain(Duration::from_millis(50)),
        "the drain left connections after it had cut them"
    );
    assert!(
        closed.join().unwrap(),
        "the end of the drain left a connection open"
    );
    // And a server that is dropped takes them along.
    let server = embedded(&lines);
    let (visitors, dial_in) = (first(&server.visitors()), first(&server.backends()));
    let mut visitor = Visitor::connect(visitors);
    let mut backend = Backend::dial(dial_in);
    switch(&mut visitor, &mut backend);
    drop(server);
    visitor.assert_closed();
    backend.assert_closed();
    assert_eq!(Close::TunnelDone.word(), "tunnel_done");
}

#[test]
fn backpressure() {
    let proxy = Proxy::simple();
    let before = proxy.resident();
    // 64 MB, more than the system's buffers take by far.
    let blocks = 1024;
    for to_visitor in [true, false] {
        let (visitor, backend) = sockets(&proxy);
        let (reader, writer) = match to_visitor {
            true => (&visitor, backend.socket()),
            false => (backend.socket(), &visitor),
        };
        let sent = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut block = vec![0; BLOCK];
                for number in 0..blocks {
                    noise(7, (number * BLOCK / 8) as u64, &mut block);
                    let mut writer = writer;
                    writer.write_all(&block).unwrap();
                    sent.fetch_add(1, Ordering::SeqCst);
                }
                writer.shutdown(Shutdown::Write).unwrap();
            });
            // It comes to a stand, and the proxy has not taken it all in.
            let mut last = usize::MAX;
            wait_until("a stalled tunnel", || {
                thread::sleep(Duration::from_millis(100));
                let now = sent.load(Ordering::SeqCst);
                std::mem::replace(&mut last, now) == now
            });
            assert!(last < blocks, "nothing held it up");
            let grown = proxy.resident().saturating_sub(before);
            assert!(grown < 16 << 20, "{grown} bytes more");
            read_noise(reader, 7, blocks);
            let mut reader = reader;
            assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        });
    }
    proxy.finish();
}

#[test]
fn fairness() {
    needs!("openssl");
    let proxy = Proxy::both();
    let mut others: Vec<_> = (0..20)
        .map(|number| {
            let mut visitor = proxy.visit_as(number % 2 == 0);
            let backend = tunnel(&proxy, &mut visitor);
            (visitor, backend)
        })
        .collect();
    // Both ways without an end, until the others have had their turns.
    let (visitor, backend) = sockets(&proxy);
    let enough = AtomicBool::new(false);
    let carried = thread::scope(|scope| {
        let run = |seed: u64, from, to| {
            let enough = &enough;
            scope.spawn(move || {
                let mut from: &TcpStream = from;
                let mut block = vec![0; BLOCK];
                for number in 0u64.. {
                    // One block at least, however quick the others were.
                    if number > 0 && enough.load(Ordering::SeqCst) {
                        from.shutdown(Shutdown::Write).unwrap();
                        return;
                    }
                    noise(seed, number * (BLOCK / 8) as u64, &mut block);
                    from.write_all(&block).unwrap();
                }
            });
            scope.spawn(move || {
                let mut to: &TcpStream = to;
                let (mut block, mut expected) = (vec![0; BLOCK], vec![0; BLOCK]);
                for number in 0u64.. {
                    match to.read(&mut block[..1]).unwrap() {
                        0 => return number as usize * BLOCK,
                        _ => to.read_exact(&mut block[1..]).unwrap(),
                    }
                    noise(seed, number * (BLOCK / 8) as u64, &mut expected);
                    assert!(block == expected, "block {number}");
                }
                0
            })
        };
        let back = run(1, backend.socket(), &visitor);
        let there = run(2, &visitor, backend.socket());
        for _ in 0..20 {
            for (visitor, backend) in &mut others {
                assert_open(visitor, backend);
            }
        }
        enough.store(true, Ordering::SeqCst);
        (there.join().unwrap(), back.join().unwrap())
    });
    eprintln!("beside 400 round trips: {carried:?} bytes");
    assert!(
        carried.0 > 0 && carried.1 > 0,
        "nothing was carried in one direction: {carried:?}"
    );
    drop(others);
    proxy.finish();
}

#[test]
fn intact() {
    needs!("openssl");
    let proxy = Proxy::both();
    let blocks = 512;
    let (visitor, backend) = sockets(&proxy);
    thread::scope(|scope| {
        scope.spawn(|| send_noise(&visitor, 1, blocks));
        scope.spawn(|| read_noise(&visitor, 2, blocks));
        scope.spawn(|| send_noise(backend.socket(), 2, blocks));
        read_noise(backend.socket(), 1, blocks);
    });
    drop((visitor, backend));
    let mut visitor = proxy.visit_secure();
    let backend = tunnel(&proxy, &mut visitor);
    let mut block = vec![0; BLOCK];
    thread::scope(|scope| {
        scope.spawn(|| read_noise(backend.socket(), 1, blocks));
        for number in 0..blocks {
            noise(1, (number * BLOCK / 8) as u64, &mut block);
            visitor.try_send(&block).unwrap();
        }
    });
    thread::scope(|scope| {
        scope.spawn(|| {
            send_noise(backend.socket(), 2, blocks);
            backend.finish();
        });
        for number in 0..blocks {
            noise(2, (number * BLOCK / 8) as u64, &mut block);
            assert!(visitor.take(BLOCK) == block, "block {number}");
        }
        visitor.assert_closed();
    });
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn idle_tunnels_hold_no_worker() {
    needs!("openssl");
    let proxy = Proxy::both_with("workers: 4");
    let mut tunnels: Vec<_> = (0..200)
        .map(|number| {
            let mut visitor = proxy.visit_as(number % 4 == 0);
            let backend = tunnel(&proxy, &mut visitor);
            (visitor, backend)
        })
        .collect();
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    crowd(proxy.address(), 4, 250);
    assert_eq!(echo.answered(), 1000);
    for (visitor, backend) in &mut tunnels {
        assert_open(visitor, backend);
    }
    drop((tunnels, echo));
    proxy.finish();
}

#[test]
fn ordinary_server() {
    let app = Server::start();
    let keys = format!(
        "incoming: test, default: true, proxy: traditional, servers: '{}', timeout: 60",
        app.address()
    );
    let proxy = Proxy::start(&format!("map: [{{{keys}, server_connections: 1}}]"));
    let mut visitor = proxy.visit();
    visitor.send(format!("{ASK}early"));
    let mut server = app.accept_asking();
    let seen = server.request();
    assert_eq!(seen.field("Upgrade"), Some("websocket"), "{}", seen.head);
    server.send(format!("{SWITCH}soon"));
    assert_eq!(visitor.answer().status, 101);
    assert_eq!(visitor.take(4), b"soon");
    assert_eq!(server.take(5), b"early");
    assert_open(&mut visitor, &mut server);
    // The connection is spent, and its seat is taken until the end.
    let mut other = proxy.ask("/plain");
    visitor.send("bye").finish();
    assert_eq!(server.rest(), b"bye");
    server.finish();
    visitor.assert_closed();
    let mut fresh = app.accept_asking();
    assert_eq!(fresh.request().target(), "/plain");
    fresh.reply_to(&mut other, "plain");
    proxy.wait_for_logs("reason=tunnel_done", 2);
    drop((visitor, server, other, fresh));
    proxy.finish();
}

/// A client, through the server and the access proxy, and its application, after the switch.
fn through_access(proxy: &Proxy, app: &Server) -> (Visitor, Backend) {
    let mut visitor = proxy.visit();
    visitor.send(format!("{ASK}early"));
    let mut server = app.accept_asking();
    let seen = server.request();
    assert_eq!(seen.field("Upgrade"), Some("websocket"), "{}", seen.head);
    assert_eq!(seen.field("Connection"), Some("upgrade"));
    server.send(format!("{SWITCH}soon"));
    assert_eq!(visitor.answer().status, 101);
    assert_eq!(visitor.take(4), b"soon");
    assert_eq!(server.take(5), b"early");
    (visitor, server)
}

#[test]
fn access_proxy() {
    let proxy = Proxy::simple();
    let app = Server::start();
    let access = Access::between(proxy.dial_in(), app.address(), 1);
    // One place at the application, and yet there is room for a second one and for something ordinary.
    let mut tunnels = [through_access(&proxy, &app), through_access(&proxy, &app)];
    let mut other = proxy.ask("/plain");
    let mut plain = app.accept_asking();
    assert_eq!(plain.request().target(), "/plain");
    plain.reply_to(&mut other, "plain");
    for (visitor, server) in &mut tunnels {
        assert_open(visitor, server);
    }
    let [(mut visitor, mut server), (visitor_too, mut server_too)] = tunnels;
    visitor.send("bye").finish();
    assert_eq!(server.rest(), b"bye");
    server.send("good bye").finish();
    assert_eq!(visitor.rest(), b"good bye");
    // A reset at one end closes the other end.
    visitor_too.reset();
    server_too.assert_closed();
    access.wait_for_log("reason=tunnel_done");
    access.wait_for_log("reason=client_gone");
    // A 101 that no request asked for, on the kept connection.
    other.send_get("/unasked");
    plain.request();
    plain.send(SWITCH);
    assert_eq!(other.answer().status, 502);
    plain.assert_closed();
    drop((visitor, server, server_too, other, plain));
    access.finish();
    proxy.finish();
}

#[test]
fn access_proxy_drain() {
    let proxy = Proxy::simple();
    let app = Server::start();
    let yaml = |grace: &str| {
        format!(
            "{{connect: '{}', to: '{}', connections: 1, grace: {grace}}}",
            proxy.dial_in(),
            app.address()
        )
    };
    // They end by themselves.
    let mut access = Access::start(&yaml("60"), &[]);
    let (mut visitor, mut server) = through_access(&proxy, &app);
    access.signal(Signal::SIGTERM);
    access.wait_for_log("draining, for");
    assert_open(&mut visitor, &mut server);
    visitor.finish();
    server.assert_closed();
    server.finish();
    assert_eq!(access.wait().code(), Some(0), "{}", access.log());
    // They are ended: that is no cut.
    // Its idle connection has to close within this time, also on a machine that is busy elsewhere.
    let mut access = Access::start(&yaml("3"), &[]);
    let (mut visitor, mut server) = through_access(&proxy, &app);
    access.signal(Signal::SIGTERM);
    visitor.assert_closed();
    server.assert_closed();
    assert_eq!(access.wait().code(), Some(0), "{}", access.log());
    assert!(access.log().contains("reason=draining"), "{}", access.log());
    drop((visitor, server));
    proxy.finish();
}
