//! What an exchange does in each of its phases while it waits: for which peer, for how long, and at what cost.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::proxy::SITE;
use crate::common::{
    Access, Backend, Proxy, Server, Setup, Visitor, Way, bytes, embedded, exchange, first,
    full_listener, needs,
};

const STREAMING: &str = "defaults: {request_buffering: false}";

/// The time of processors that a process takes during so long.
fn processor_time(pid: u32, during: Duration) -> Duration {
    let taken = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields = stat.rsplit(')').next().unwrap();
        let fields: Vec<_> = fields.split_whitespace().collect();
        // User and system, in hundredths of a second (proc_pid_stat(5)).
        let ticks = [11, 12].map(|field| fields[field].parse::<u64>().unwrap());
        Duration::from_millis(ticks.iter().sum::<u64>() * 10)
    };
    let before = taken();
    thread::sleep(during);
    taken() - before
}

#[test]
fn slow_body_is_not_the_backends_time() {
    let proxy = Proxy::simple_with(&format!("{STREAMING}\ntimeouts: {{first_byte: 600ms}}"));
    let mut backend = Backend::dial(proxy.dial_in());
    let mut visitor = proxy.visit();
    visitor.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nab");
    backend.read_to("\r\n\r\nab");
    thread::sleep(Duration::from_millis(900));
    visitor.send("cd");
    backend.read_to("cd");
    thread::sleep(Duration::from_millis(200));
    backend.reply_to(&mut visitor, "ok");
    exchange(&mut visitor, &mut backend, "/next");
    // It has as long as before, but no longer.
    visitor.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nabcd");
    assert_eq!(visitor.answer().status, 504);
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn half_closed_upload() {
    needs!("openssl");
    let proxy = Proxy::both_with(STREAMING);
    for secure in [false, true] {
        let mut backend = Backend::dial(proxy.dial_in());
        let mut visitor = proxy.visit_as(secure);
        visitor.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nab");
        backend.read_to("\r\n\r\nab");
        // Later than the end of a client's side may follow its request.
        thread::sleep(Duration::from_millis(600));
        visitor.send("cd").finish();
        backend.read_to("cd");
        thread::sleep(Duration::from_millis(600));
        backend.reply_to(&mut visitor, "ok");
        drop((visitor, backend));
    }
    assert!(!proxy.log().contains("client_gone"), "{}", proxy.log());
    proxy.finish();
}

#[test]
fn stalled_application() {
    let proxy = Proxy::simple();
    let app = Server::start();
    let access = Access::between(proxy.dial_in(), app.address(), 1);
    let mut visitor = proxy.visit();
    let body = bytes(40_000_000);
    visitor.send_post("/", &body);
    let mut backend = app.accept_asking();
    thread::sleep(Duration::from_millis(300));
    let taken = processor_time(access.pid(), Duration::from_secs(1));
    assert!(taken < Duration::from_millis(150), "{taken:?}");
    assert!(
        backend.request().body == body,
        "the body of the request arrived changed"
    );
    backend.reply_to(&mut visitor, "ok");
    // It has responded before it has all of the body: what is left of that is of no interest.
    visitor.send_post("/", &body);
    backend.read_to("\r\n\r\n");
    backend.send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nn");
    visitor.at_least(1);
    let taken = processor_time(access.pid(), Duration::from_secs(1));
    assert!(taken < Duration::from_millis(150), "{taken:?}");
    backend.send("o");
    assert_eq!(visitor.answer().status, 413);
    drop((visitor, backend));
    access.finish();
    proxy.finish();
}

#[test]
fn post_has_a_deadline() {
    let proxy = Proxy::simple();
    let app = Server::start();
    let access = Access::start(
        &format!(
            "{{connect: '{}', to: '{}', connections: 2, check: {{interval: 1m}}}}",
            proxy.dial_in(),
            app.address()
        ),
        &[],
    );
    proxy.wait_for_logs(" joined ", 2);
    drop(app);
    let mut visitor = proxy.visit();
    let since = Instant::now();
    visitor.send_post("/once", "body");
    assert_eq!(visitor.answer().status, 502);
    let waited = since.elapsed();
    assert!((9..20).contains(&waited.as_secs()), "{waited:?}");
    drop(visitor);
    access.finish();
    proxy.finish();
}

#[test]
fn dropped_server() {
    for round in 0..30 {
        let server = embedded(&format!("workers: 4\n{SITE}"));
        let mut backend = Backend::dial(first(&server.backend_addresses()));
        let mut visitor = Visitor::asking(first(&server.client_addresses()), "/");
        backend.request();
        // The worker blocks for a moment, and parks the exchange then.
        thread::sleep(Duration::from_millis(round));
        drop(server);
        visitor.assert_closed();
        backend.assert_closed();
    }
}

#[test]
fn abandoned_flood_is_fair() {
    let proxy = Proxy::simple_with("workers: 1");
    let mut backend = Backend::dial(proxy.dial_in());
    let mut visitor = proxy.ask("/flood");
    backend.request();
    let flood = thread::spawn(move || {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n";
        backend.send(head);
        let block = vec![b'x'; 1 << 20];
        while backend.try_send(&block).is_ok() {}
    });
    visitor.at_least(1000);
    visitor.reset();
    let (mut longest, mut other) = (Duration::ZERO, proxy.visit());
    while !flood.is_finished() {
        let since = Instant::now();
        assert_eq!(other.get("/swiftiply_health").status, 200);
        longest = longest.max(since.elapsed());
    }
    flood.join().unwrap();
    assert!(longest < Duration::from_millis(500), "{longest:?}");
    drop(other);
    proxy.finish();
}

#[test]
fn large_body_is_fair() {
    let proxy = Proxy::simple_with("workers: 1\nlimits: {body: 1G, spool: 3G}");
    let mut backend = Backend::dial(proxy.dial_in());
    let mut visitor = proxy.visit();
    let length = 300_000_000_usize;
    visitor.send(format!(
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n"
    ));
    let block = bytes(1 << 20);
    let mut left = length;
    while left > 0 {
        let count = left.min(block.len());
        visitor.send(&block[..count]);
        left -= count;
    }
    let done = Arc::new(AtomicBool::new(false));
    let took = Arc::clone(&done);
    let reader = thread::spawn(move || {
        backend.read_to("\r\n\r\n");
        let mut left = length;
        while left > 0 {
            left -= backend.take(left.min(1 << 20)).len();
        }
        took.store(true, Ordering::SeqCst);
        backend.reply("ok");
        backend
    });
    let (mut longest, mut other) = (Duration::ZERO, proxy.visit());
    while !done.load(Ordering::SeqCst) {
        let since = Instant::now();
        assert_eq!(other.get("/swiftiply_health").status, 200);
        longest = longest.max(since.elapsed());
    }
    assert!(longest < Duration::from_millis(500), "{longest:?}");
    assert_eq!(visitor.answer().text(), "ok");
    drop((reader.join().unwrap(), visitor, other));
    proxy.finish();
}

/// A file goes out while its backend may still send the response that it replaces, for a second. `false`: this test was too
/// late for that.
fn file_before_response(way: Way) -> bool {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("a.txt"), "the file").unwrap();
    let sendfile = format!(", sendfileroot: {}", root.path().display());
    let mut setup = Setup::start_with(way, 1, &sendfile, "");
    let mut visitor = setup.proxy.ask("/");
    let mut backend = setup.asked(1).pop().unwrap();
    backend.request();
    backend
        .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Sendfile: a.txt\r\n\r\n5\r\nhel");
    assert_eq!(visitor.answer().text(), "the file");
    let mut in_time = backend.is_open();
    // The backend is free when the rest was read, and the client's connection was kept.
    backend.send("lo\r\n0\r\n\r\n");
    if in_time {
        visitor.send_get("/next");
        let next = backend.next();
        in_time = next.is_some();
    }
    if in_time {
        backend.reply_to(&mut visitor, "next");
        // What Flask sends with USE_X_SENDFILE: the length of the file, and no body.
        visitor.send_get("/never");
        backend.request();
        backend.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\nX-Sendfile: a.txt\r\n\r\n");
        assert_eq!(visitor.answer().text(), "the file");
        in_time = backend.is_open();
        backend.assert_closed();
        visitor.send_get("/swiftiply_health");
        assert_eq!(visitor.answer().status, 200);
    }
    let log = setup.proxy.log();
    drop((visitor, backend));
    setup.finish();
    assert!(!log.contains("client_gone"), "{log}");
    in_time
}

#[test]
fn named_file_goes_first() {
    for way in [Way::DialIn, Way::Traditional, Way::Access] {
        let in_time = (0..10).any(|_| file_before_response(way));
        assert!(
            in_time,
            "{way:?}: the backend was closed before the file was there"
        );
    }
}

#[test]
fn request_behind_stalled_response() {
    needs!("openssl");
    let proxy = Proxy::both_with("workers: 2");
    for secure in [false, true] {
        let mut backend = Backend::dial(proxy.dial_in());
        let mut visitor = proxy.visit_as(secure);
        visitor.send_get("/large");
        backend.request();
        let body = bytes(8_000_000);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        let mut rest = Backend::accepted(backend.socket().try_clone().unwrap());
        backend.send(head).send(&body[..body.len() - 1]);
        // Its exchange waits for the backend and for room at the same time.
        thread::sleep(Duration::from_millis(200));
        visitor.send_get("/next");
        thread::sleep(Duration::from_millis(200));
        rest.send(&body[body.len() - 1..]);
        visitor.answer().assert_body(&body);
        assert_eq!(backend.request().target(), "/next");
        backend.reply_to(&mut visitor, "next");
        drop((visitor, backend, rest));
    }
    proxy.finish();
}

/// A client's thread that sends what the proxy may not take, and then waits for the end of the test.
fn send_all(mut visitor: Visitor, bytes: Vec<u8>, finish: bool) -> thread::JoinHandle<Visitor> {
    thread::spawn(move || {
        visitor.send(bytes);
        if finish {
            visitor.finish();
        }
        visitor
    })
}

#[test]
fn waiting_costs_no_processor_time() {
    let (silent, _queue) = full_listener();
    let yaml = format!(
        "limits: {{spool: 0, body_memory: 100M}}\n\
         map:\n\
         - {{incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 60}}\n\
         - {{incoming: none, outgoing: '127.0.0.2:0', timeout: 60}}\n\
         - {{incoming: streams, outgoing: '127.0.0.1:0', timeout: 60, request_buffering: false}}\n\
         - {{incoming: silent, proxy: traditional, servers: ['{silent}'], timeouts: {{connect: 50}}}}"
    );
    let get = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let post = |host: &str, length: usize| {
        format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n")
    };
    for half_closed in [false, true] {
        let proxy = Proxy::start(&yaml);
        let (mut visitors, mut backends, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        let dial = |joined| {
            let backend = Backend::dial(proxy.dial_in());
            proxy.wait_for_logs("joined", joined);
            backend
        };
        let ask = |request: &str| {
            let mut visitor = proxy.visit();
            visitor.send(request);
            if half_closed {
                visitor.finish();
            }
            visitor
        };
        // In line, and while a connection is made.
        visitors.extend([ask(&get("none")), ask(&get("silent"))]);
        // While the backend thinks; when it has begun a head; and quiet responses, of which the client takes all or nothing.
        let large = bytes(20_000_000);
        for said in [
            "",
            "HTTP/1.1 200",
            "HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\nx",
            "HTTP/1.1 200 OK\r\nContent-Length: 900000000\r\n\r\nx",
        ] {
            let mut backend = dial(backends.len() + 1);
            visitors.push(ask(&get("test")));
            backend.request();
            backend.send(said);
            if said.contains("900000000") {
                let mut sends = Backend::accepted(backend.socket().try_clone().unwrap());
                let bytes = large.clone();
                threads.push(thread::spawn(move || drop(sends.try_send(&bytes))));
            }
            backends.push(backend);
        }
        // The backend takes nothing of a body that was collected, and of one that is passed on.
        let mut senders = Vec::new();
        for host in ["test", "streams"] {
            let mut request = post(host, large.len()).into_bytes();
            let mut backend = dial(backends.len() + 1);
            request.extend_from_slice(&large);
            senders.push(send_all(proxy.visit(), request, half_closed));
            // It has it now, and the next one is for the next request.
            backend.send_when_readable("");
            backends.push(backend);
        }
        // A body that does not arrive.
        let mut backend = dial(backends.len() + 1);
        let mut visitor = proxy.visit();
        visitor.send(post("streams", 10));
        backend.read_to("\r\n\r\n");
        visitors.push(visitor);
        backends.push(backend);
        thread::sleep(Duration::from_millis(500));
        let taken = processor_time(proxy.pid(), Duration::from_secs(1));
        assert!(
            taken < Duration::from_millis(100),
            "{half_closed} {taken:?}"
        );
        assert!(!proxy.log().contains("closed: reason"), "{}", proxy.log());
        drop((visitors, backends));
        for sender in senders {
            drop(sender.join());
        }
        for thread in threads {
            let _ = thread.join();
        }
        // Of a client that has ended its side before, nothing says whether it is still there.
        if !half_closed {
            proxy.finish();
        }
    }
}
