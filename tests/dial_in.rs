//! How backends join, and which of them gets a request.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use crate::common::backend::preamble;
use crate::common::proxy::site;
use crate::common::{Backend, Echo, PATIENCE, Proxy, Visitor, assert_contains, needs, wait_until};

#[test]
fn preamble_in_pieces() {
    let proxy = Proxy::start(&site("key: secret"));
    let bytes = preamble("7f0000011a2b", "secret");
    for cut in 0..=bytes.len() {
        let mut backend = Backend::connect(proxy.dial_in());
        backend.send(&bytes[..cut]);
        thread::yield_now();
        backend.send(&bytes[cut..]);
        let mut visitor = proxy.ask("/");
        backend.request();
        backend.reply("ok");
        assert_eq!(visitor.answer().text(), "ok", "cut at {cut}");
    }
    let mut backend = Backend::connect(proxy.dial_in());
    for byte in &bytes {
        backend.send([*byte]);
        thread::yield_now();
    }
    let mut visitor = proxy.ask("/");
    backend.request();
    backend.reply_to(&mut visitor, "ok");
    drop((backend, visitor));
    proxy.finish();
}

#[test]
fn not_a_backend() {
    let proxy = Proxy::start(
        "timeouts: {preamble: 300ms}\n\
         map: [{incoming: test, outgoing: '127.0.0.1:0', key: secret}]",
    );
    let mut count = 0;
    for (bytes, reason) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "bad_preamble"),
        (preamble("000000000001", ""), "bad_key"),
        (preamble("000000000001", "secreT"), "bad_key"),
        (preamble("000000000001", "secret2"), "bad_key"),
        (preamble("000000000001", "secre"), "bad_key"),
        (b"swiftclient000000000001zz".to_vec(), "bad_preamble"),
        (
            [preamble("000000000001", "secret"), b"x".to_vec()].concat(),
            "junk",
        ),
        (b"swiftcl".to_vec(), "preamble_timeout"),
        (b"".to_vec(), "preamble_timeout"),
    ] {
        let mut backend = Backend::connect(proxy.dial_in());
        backend.send(&bytes);
        assert!(backend.is_closed(), "{bytes:?}");
        count += 1;
        proxy.wait_for_logs("refused", count);
        let last = proxy.log();
        let last = last.lines().rfind(|line| line.contains("refused")).unwrap();
        assert!(
            last.ends_with(&format!("reason={reason}")),
            "{bytes:?}: {last}"
        );
        assert!(!last.contains("secret"), "{last}");
    }
    // A probe that leaves again is not worth a line.
    drop(Backend::connect(proxy.dial_in()));
    assert_eq!(proxy.visit().get("/swiftiply_health").status, 200);
    assert_eq!(proxy.log().matches("refused").count(), count);
    proxy.finish();
}

#[test]
fn wrong_port() {
    needs!("openssl");
    let proxy = Proxy::both();
    let bytes = preamble("000000000001", "secret");
    let says = "this is the preamble of a backend, and the port is for clients";
    // Whole, with more of the key to come, and in two pieces; with TLS, and without it where there should be TLS.
    let plain = proxy.addresses().iter().map(|at| Visitor::connect(*at));
    let mut visitors: Vec<_> = plain.chain([proxy.visit_secure()]).collect();
    for (count, visitor) in visitors.iter_mut().enumerate() {
        visitor.send(&bytes[..11 + count]);
        let answer = visitor.answer();
        assert_eq!(answer.status, 400);
        assert!(answer.text().contains(says), "{}", answer.text());
        proxy.wait_for_logs(&format!(": {says}"), count + 1);
    }
    let mut visitor = proxy.visit();
    visitor.send(&bytes[..10]);
    visitor.send(&bytes[10..]);
    assert_eq!(visitor.answer().status, 400);
    drop((visitors, visitor));
    proxy.finish();
}

#[test]
fn unexpected_key() {
    let proxy = Proxy::simple();
    let mut backend = Backend::dial_as(proxy.dial_in(), "000000000001", "key");
    backend.assert_closed();
    proxy.wait_for_log("reason=bad_key");
    proxy.finish();
}

#[test]
fn key_selects_site() {
    let proxy = Proxy::start(
        "map:\n\
         - {incoming: one, outgoing: '127.0.0.1:0', key: 1234, timeout: 60}\n\
         - {incoming: two, outgoing: '127.0.0.1:0', key: [new, old], timeout: 60}\n\
         - {incoming: three, outgoing: '127.0.0.1:0', key: new, timeout: 60}",
    );
    assert_eq!(proxy.dial_ins().len(), 1);
    let mut one = Backend::dial_as(proxy.dial_in(), "000000000001", "1234");
    let mut old = Backend::dial_as(proxy.dial_in(), "000000000002", "old");
    let mut new = Backend::dial_as(proxy.dial_in(), "000000000003", "new");
    let ask = |host: &str| {
        let mut visitor = proxy.visit();
        visitor.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        visitor
    };
    let mut visitor = ask("one");
    assert_eq!(one.request().field("Host"), Some("one"));
    one.reply_to(&mut visitor, "ok");
    // Only the new one will do for the third site; it and the old one for the second.
    let mut third = ask("three");
    assert_eq!(new.request().field("Host"), Some("three"));
    let mut second = ask("two");
    assert_eq!(old.request().field("Host"), Some("two"));
    new.reply_to(&mut third, "new");
    old.reply_to(&mut second, "old");
    drop((visitor, second, third, one, old, new));
    proxy.finish();
}

#[test]
fn filter() {
    let proxy = Proxy::start(
        "map:\n\
         - incoming: test\n\
         \x20 timeout: 60\n\
         \x20 outgoing:\n\
         \x20   - {to: '127.0.0.1:0', prefix: /api}\n\
         \x20   - {to: '127.0.0.2:0', match: '\\.rb$'}\n\
         \x20   - 127.0.0.3:0\n\
         - {incoming: strict, outgoing: {to: '127.0.0.1:0', prefix: /api}}",
    );
    let backends: Vec<_> = (0..3)
        .map(|n| {
            let id = format!("00000000000{n}");
            Echo::dial(proxy.dial_ins()[n], &id, "")
        })
        .collect();
    let mut visitor = proxy.visit();
    let mut counts = [0; 3];
    for (target, which) in [
        ("/api", 0),
        ("/api/v1?x", 0),
        ("/api.rb", 0),
        ("/a.rb?b", 1),
        ("/a%2erb", 1),
        ("/a.rbx", 2),
        ("/", 2),
        ("/?/api", 2),
    ] {
        assert_eq!(visitor.get(target).text(), target);
        counts[which] += 1;
        let answered: Vec<_> = backends.iter().map(Echo::answered).collect();
        assert_eq!(answered, counts, "{target}");
    }
    let answer = visitor.ask("GET /other HTTP/1.1\r\nHost: strict\r\n\r\n");
    assert_eq!(answer.status, 503);
    drop((visitor, backends));
    proxy.finish();
}

#[test]
fn id_in_path() {
    let proxy = Proxy::simple();
    let mut one = Backend::dial_as(proxy.dial_in(), "abc000000one", "");
    proxy.wait_for_logs("joined", 1);
    let mut two = Backend::dial_as(proxy.dial_in(), "abc000000two", "");
    proxy.wait_for_logs("joined", 2);
    let mut visitor = proxy.ask("/app/1-2-3.4.5-abc000000one?x");
    one.request();
    // It is busy now, and the other one will not do.
    let mut waits = proxy.ask("/app/1-2-3.4.5-abc000000one");
    let mut other = proxy.ask("/other");
    assert_eq!(two.request().target(), "/other");
    two.reply_to(&mut other, "two");
    one.reply_to(&mut visitor, "first");
    let seen = one.request();
    let target = seen.target();
    assert!(target.ends_with("abc000000one"), "{target}");
    one.reply_to(&mut waits, "second");
    drop((visitor, waits, other, one, two));
    proxy.finish();
}

#[test]
fn long_id() {
    let proxy = Proxy::start(&site("key: secret"));
    let mut backend = Backend::dial_as(proxy.dial_in(), "7f00000112345", "secret");
    let mut visitor = proxy.ask("/");
    backend.request();
    backend.reply_to(&mut visitor, "ok");
    proxy.wait_for_log("backend 7f00000112345");
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn limit() {
    let proxy = Proxy::start(
        "limits: {backends: 2}\nmap: [{incoming: test, default: true, outgoing: '127.0.0.1:0'}]",
    );
    let one = Backend::dial(proxy.dial_in());
    let two = Backend::dial(proxy.dial_in());
    proxy.wait_for_logs("joined", 2);
    let mut three = Backend::dial(proxy.dial_in());
    three.assert_closed();
    proxy.wait_for_log("limits.backends): reason=overload");
    drop(one);
    proxy.wait_for_log("reason=peer_closed");
    let four = Backend::dial(proxy.dial_in());
    proxy.wait_for_logs("joined", 3);
    drop((two, three, four));
    proxy.finish();
}

#[test]
fn no_key_takes_no_slot() {
    let proxy = Proxy::start(
        "limits: {backends: 2}\n\
         map: [{incoming: test, default: true, outgoing: '127.0.0.1:0', key: secret, timeout: 60}]",
    );
    let mut first = Backend::connect(proxy.dial_in());
    let strangers: Vec<_> = (0..300)
        .map(|_| Backend::connect(proxy.dial_in()))
        .collect();
    // The one that came first has to go, long before its time is over; the last ones stay.
    first.assert_closed();
    proxy.wait_for_log("[WARN] dial-in at 127.0.0.1:0: more than ");
    proxy.wait_for_log(" connections from its address have sent no preamble: reason=overload");
    let mut last = Backend::connect(proxy.dial_in());
    last.send(b"swiftclient");
    let mut backend = Backend::dial_as(proxy.dial_in(), "000000000001", "secret");
    let mut visitor = proxy.ask("/");
    backend.request();
    backend.reply_to(&mut visitor, "ok");
    last.send(&preamble("000000000002", "secret")[11..]);
    proxy.wait_for_logs("joined", 2);
    // Also one of these that sends its preamble in the end is counted.
    let mut third = Backend::dial_as(proxy.dial_in(), "000000000003", "secret");
    third.assert_closed();
    drop((first, strangers, last, backend, third, visitor));
    proxy.finish();
}

#[test]
fn hang_up() {
    let proxy = Proxy::simple();
    let stays = Echo::dial(proxy.dial_in(), "000000stays0", "");
    proxy.wait_for_logs("joined", 1);
    for n in 0..5 {
        let leaves = Backend::dial_as(proxy.dial_in(), "00000leaves0", "");
        proxy.wait_for_logs("joined", n + 2);
        if n % 2 == 0 {
            leaves.finish();
        } else {
            drop(leaves);
        }
        proxy.wait_for_logs("closed: reason=peer_closed", n + 1);
    }
    let mut visitor = proxy.visit();
    assert_eq!(visitor.get("/a").text(), "/a");
    drop((visitor, stays));
    proxy.finish();
}

#[test]
fn unsolicited_bytes() {
    let proxy = Proxy::simple();
    let good = Echo::dial(proxy.dial_in(), "00000000good", "");
    proxy.wait_for_logs("joined", 1);
    let mut bad = Backend::dial_as(proxy.dial_in(), "000000000bad", "");
    proxy.wait_for_logs("joined", 2);
    bad.reply("stolen");
    // The newest is taken first, and found wanting.
    let mut visitor = proxy.visit();
    assert_eq!(visitor.get("/mine").text(), "/mine");
    bad.assert_closed();
    proxy.wait_for_log("reason=junk");
    drop((visitor, good, bad));
    proxy.finish();
}

#[test]
fn order() {
    for (order, expected) in [("newest", "000000000003"), ("oldest", "000000000001")] {
        let proxy = Proxy::start(&format!(
            "map: [{{incoming: test, default: true, outgoing: '127.0.0.1:0', order: {order}}}]\n\
             access_log: {{file: access, format: json}}",
        ));
        let backends: Vec<_> = (1..4)
            .map(|n| {
                let backend = Echo::dial(proxy.dial_in(), &format!("00000000000{n}"), "");
                proxy.wait_for_logs("joined", n);
                backend
            })
            .collect();
        assert_eq!(proxy.visit().get("/").text(), "/");
        let id = format!("\"backend\":\"{expected}\"");
        wait_until("the line of the access log", || {
            proxy.read("access").contains(&id)
        });
        drop(backends);
        proxy.finish();
    }
}

#[test]
fn machines_share_the_load() {
    let proxy = Proxy::simple();
    // The second machine joins last, so its backends are the newest.
    let mut backends = Vec::new();
    for (machine, connections) in [(1, 4), (2, 8)] {
        for number in 0..connections {
            let id = format!("machine{machine}-{number:03}");
            let from = [127, 0, 0, machine];
            backends.push(Backend::dial_from(from, proxy.dial_in(), &id));
            proxy.wait_for_logs("joined at", backends.len());
        }
    }
    let mut visitors: Vec<_> = (0..6).map(|_| proxy.ask("/")).collect();
    let busy = |backends: &[Backend]| backends.iter().filter(|one| !one.is_open()).count();
    wait_until("six requests in progress", || busy(&backends) == 6);
    assert_eq!((busy(&backends[..4]), busy(&backends[4..])), (2, 4));
    for backend in backends.iter_mut().filter(|one| !one.is_open()) {
        backend.request();
        backend.reply("ok");
    }
    for visitor in &mut visitors {
        assert_eq!(visitor.answer().text(), "ok");
    }
    drop((visitors, backends));
    proxy.finish();
}

#[test]
fn machine_that_hangs_goes_last() {
    let proxy = Proxy::start(&site("timeouts: {first_byte: 200ms}"));
    let dial = |machine: u8, joined: usize| {
        let id = format!("machine{machine}-001");
        let backend = Backend::dial_from([127, 0, 0, machine], proxy.dial_in(), &id);
        proxy.wait_for_logs("joined at", joined);
        backend
    };
    for joined in 1..=3 {
        let _hangs = dial(1, joined);
        assert_eq!(proxy.visit().get("/").status, 504);
    }
    proxy.wait_for_log("machine 127.0.0.1 at ");
    // From here on a busy machine is no hanging one.
    proxy.reload(&site("timeouts: {first_byte: 60s}"));
    // One machine has an idle connection, the other one is half busy.
    let mut works = [dial(2, 4), dial(2, 5)];
    let mut first = proxy.ask("/1");
    wait_until("the first request", || {
        works.iter().any(|one| !one.is_open())
    });
    let mut hangs = dial(1, 6);
    let mut second = proxy.ask("/2");
    // Both have one before either responds: what responds first could get the second request as well.
    let targets = works
        .each_mut()
        .map(|one| one.request().target().to_owned());
    for (backend, target) in works.iter_mut().zip(targets) {
        backend.reply(target);
    }
    assert_eq!(first.answer().text(), "/1");
    assert_eq!(second.answer().text(), "/2");
    // A response makes it like any other.
    drop(works);
    proxy.wait_for_logs(" closed: reason=peer_closed", 2);
    let mut third = proxy.ask("/3");
    hangs.request();
    hangs.reply_to(&mut third, "3");
    proxy.wait_for_log(" responds again");
    drop((first, second, third, hangs));
    proxy.finish();
}

#[test]
fn health_of_a_site() {
    let proxy = Proxy::start(&site(""));
    let mut visitor = proxy.visit();
    let mut status = |site: &str| {
        let path = format!("/swiftiply_health?site={site}");
        visitor.get(&path).status
    };
    assert_eq!(status("test"), 503);
    assert_eq!(status("other"), 404);
    let backend = Backend::dial(proxy.dial_in());
    proxy.wait_for_log("joined at");
    assert_eq!(status("TEST"), 200);
    drop(backend);
    wait_until("the site without backends", || status("test") == 503);
    assert_eq!(visitor.get("/swiftiply_health").status, 200);
    drop(visitor);
    proxy.finish();
}

#[test]
fn unix_sockets_serve_both_sides() {
    let proxy = Proxy::start(
        "cluster_address: ['127.0.0.1', 'unix:front.sock']\n\
         map: [{incoming: test, outgoing: 'unix:back.sock', timeout: 60}]",
    );
    let mut backend = UnixStream::connect(proxy.file("back.sock")).unwrap();
    backend.write_all(&preamble("000000000001", "")).unwrap();
    let mut visitor = UnixStream::connect(proxy.file("front.sock")).unwrap();
    visitor.set_read_timeout(Some(PATIENCE)).unwrap();
    visitor
        .write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut request = Vec::new();
    crate::common::read_until(&mut backend, &mut request, "a request", |bytes| {
        bytes.ends_with(b"\r\n\r\n")
    });
    assert_contains(
        &String::from_utf8(request).unwrap(),
        "X-Forwarded-For: unix:\r\n",
    );
    backend
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .unwrap();
    let mut answer = String::new();
    visitor.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    drop((backend, visitor));
    proxy.finish();
}
