//! Which server gets a request, and the queue for all of them.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::{Duration, Instant};

use super::{one, post, site};
use crate::common::{
    Backend, Echo, EchoServer, PATIENCE, Proxy, Server, Visitor, drain, embedded, exchange,
    wait_until,
};

#[test]
fn least_connections() {
    let servers = [(); 3].map(|()| Server::start());
    let addresses: Vec<_> = servers.iter().map(|s| s.address().to_string()).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let proxy = Proxy::start(&site(&addresses, ""));
    let mut busy = Vec::new();
    for (n, server) in servers.iter().enumerate() {
        let visitor = proxy.ask(&format!("/{n}"));
        let mut backend = server.accept();
        assert_eq!(backend.request().target(), format!("/{n}"));
        busy.push((visitor, backend));
    }
    // Only the second server is idle.
    let done = |(visitor, backend): &mut (Visitor, Backend)| backend.reply_to(visitor, "done");
    done(&mut busy[1]);
    let mut visitor = proxy.visit();
    exchange(&mut visitor, &mut busy[1].1, "/next");
    done(&mut busy[0]);
    done(&mut busy[2]);
    // One after the other, they take turns.
    for n in [2, 0, 1, 2, 0, 1] {
        exchange(&mut visitor, &mut busy[n].1, "/turn");
    }
    drop((visitor, busy));
    proxy.finish();
}

#[test]
fn order() {
    let servers = [(); 3].map(|()| Server::start());
    let addresses: Vec<_> = servers.iter().map(|s| s.address().to_string()).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let yaml = |order: &str| site(&addresses, &format!(", server_connections: 2, {order}"));
    let proxy = Proxy::start(&yaml("order: newest"));
    let ask = |target: &str, server: usize| {
        let visitor = proxy.ask(target);
        let mut backend = servers[server].accept();
        assert_eq!(backend.request().target(), target);
        (visitor, backend)
    };
    let done = |(visitor, backend): &mut (Visitor, Backend)| backend.reply_to(visitor, "done");
    // The first has room for two.
    let mut first = [ask("/1", 0), ask("/2", 0)];
    let mut second = ask("/3", 1);
    done(&mut first[0]);
    done(&mut second);
    // The connection that became idle last is used, then the other one, and only then the list.
    let mut visitor = proxy.ask("/4");
    assert_eq!(second.1.request().target(), "/4");
    let mut other = proxy.ask("/5");
    assert_eq!(first[0].1.request().target(), "/5");
    let mut fourth = ask("/6", 1);
    let mut third = ask("/7", 2);
    first[0].1.reply_to(&mut other, "done");
    second.1.reply_to(&mut visitor, "done");
    for busy in [&mut third, &mut fourth, &mut first[1]] {
        done(busy);
    }
    // One after the other, they go to the last one.
    for target in ["/8", "/9"] {
        exchange(&mut visitor, &mut first[1].1, target);
    }
    drop((first, second, third, fourth, visitor, other));
    proxy.reload(&yaml("order: oldest"));
    // In turn, from the server behind the one that was chosen last.
    let mut busy = vec![ask("/10", 1), ask("/11", 2), ask("/12", 0), ask("/13", 1)];
    done(&mut busy[1]);
    let mut visitor = proxy.ask("/14");
    assert_eq!(busy[1].1.request().target(), "/14");
    busy[1].1.reply_to(&mut visitor, "done");
    // However many each one has: the third has none now.
    let mut last = ask("/15", 0);
    // The second one's turn comes next, but it has two requests.
    proxy.reload(&yaml("order: least"));
    exchange(&mut visitor, &mut busy[1].1, "/16");
    done(&mut last);
    for index in [0, 2, 3] {
        done(&mut busy[index]);
    }
    drop((busy, last, visitor));
    proxy.finish();
}

#[test]
fn limit_and_queue() {
    let server = Server::start();
    let proxy = embedded(&format!(
        "workers: 8\n{}",
        site(
            &[&server.address().to_string()],
            ", server_connections: 2, limits: {waiting: 9}"
        )
    ));
    let address = crate::common::first(&proxy.client_addresses());
    let ask = |target: &str| Visitor::asking(address, target);
    let mut first = ask("/first");
    let mut one = server.accept();
    one.request();
    let mut second = ask("/second");
    let mut two = server.accept();
    two.request();
    // More requests than workers.
    let mut waiting = Vec::new();
    for n in 0..9 {
        waiting.push(ask(&format!("/{n}")));
        wait_until("one more request in the queue", || {
            proxy.queues().1 == n + 1
        });
    }
    let answer = ask("/late").answer();
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("Too many requests"), "{answer:?}");
    // They are served in their order, each by the connection that becomes free.
    one.reply_to(&mut first, "first");
    for (n, visitor) in waiting.iter_mut().enumerate() {
        let target = format!("/{n}");
        assert_eq!(one.request().target(), target);
        one.reply_to(visitor, &target);
    }
    two.reply_to(&mut second, "second");
    assert!(
        server.accept_now().is_none(),
        "the server got one connection too many"
    );
    assert_eq!(proxy.queues(), (2, 0));
    drop((first, second, waiting, one, two));
    drain(proxy);
}

#[test]
fn closed_connection_frees_slot() {
    let (server, proxy) = one(", server_connections: 1");
    let mut first = proxy.ask("/first");
    let mut backend = server.accept();
    backend.request();
    let mut second = proxy.ask("/second");
    assert_eq!(proxy.visit().get("/swiftiply_health").status, 200);
    backend.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(first.answer().status, 200);
    let mut backend = server.accept();
    assert_eq!(backend.request().target(), "/second");
    backend.reply_to(&mut second, "ok");
    drop((first, second, backend));
    proxy.finish();
}

#[test]
fn none_in_time() {
    let server = Server::start();
    let address = server.address().to_string();
    let proxy = Proxy::start(&format!(
        "map: [{{incoming: test, default: true, proxy: traditional, servers: '{address}', \
         server_connections: 1, timeout: 300ms}}]"
    ));
    let mut first = proxy.ask("/first");
    let mut backend = server.accept();
    backend.request();
    let since = Instant::now();
    let answer = proxy.visit().get("/second");
    assert_eq!(answer.status, 503);
    assert!(
        since.elapsed() >= Duration::from_millis(300),
        "refused after {:?}",
        since.elapsed()
    );
    backend.reply_to(&mut first, "ok");
    drop((backend, server, first));
    // Nothing listens any more: requests wait for a server, and then get the same status.
    let answer = proxy.visit().get("/third");
    assert_eq!(answer.status, 503);
    proxy.wait_for_log("set aside: connection refused");
    assert_eq!(proxy.log().matches("set aside").count(), 1);
    proxy.finish();
}

#[test]
fn client_leaves_queue() {
    let (server, proxy) = one(", server_connections: 1");
    let mut first = proxy.ask("/first");
    let mut backend = server.accept();
    backend.request();
    proxy.ask("/gone").reset();
    proxy.wait_for_log("reason=client_gone");
    backend.reply_to(&mut first, "ok");
    exchange(&mut first, &mut backend, "/next");
    drop((first, backend));
    proxy.finish();
}

#[test]
fn kinds_of_servers() {
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let unix = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = Vec::new();
        let whole = |b: &[u8]| b.ends_with(b"\r\n\r\n");
        assert!(
            crate::common::read_until(&mut stream, &mut bytes, "a check", whole),
            "the connection ended before the request"
        );
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nunix")
            .unwrap();
    });
    let url = EchoServer::start();
    let named = EchoServer::start();
    let proxy = Proxy::start(&site(
        &[
            &format!("unix:{}", path.display()),
            &format!("http://{}/", url.address()),
            &format!("localhost:{}", named.address().port()),
            "nowhere.invalid:3000",
        ],
        "",
    ));
    // A name that is not found is no reason not to start.
    proxy.wait_for_log("server nowhere.invalid:3000: the name is not found");
    proxy.wait_for_log("server localhost:");
    let mut visitor = proxy.visit();
    let texts: Vec<_> = (0..3).map(|_| visitor.get("/x").text()).collect();
    assert_eq!(texts, ["unix", "/x", "/x"]);
    assert_eq!((url.answered(), named.answered()), (1, 1));
    drop((visitor, url, named));
    proxy.finish();
    unix.join().unwrap();
}

#[test]
fn backup() {
    let server = Server::start();
    let proxy = Proxy::start(&format!(
        "workers: 4\n\
         access_log: {{file: access, format: json}}\n\
         map:\n\
         - {{incoming: test, outgoing: '127.0.0.1:0', timeout: 100ms, backup: second}}\n\
         - {{incoming: second, outgoing: '127.0.0.2:0', timeout: 100ms, limits: {{waiting: 0}}, backup: third}}\n\
         - {{incoming: third, proxy: traditional, servers: '{}', timeout: 60}}\n\
         - {{incoming: empty, outgoing: [], backup: third}}",
        server.address()
    ));
    // The second one has no queue, so it is passed over at once.
    let since = Instant::now();
    let mut visitor = proxy.ask("/1");
    let mut backend = server.accept();
    let seen = backend.request();
    assert!(
        since.elapsed() >= Duration::from_millis(100),
        "sent after {:?}",
        since.elapsed()
    );
    assert_eq!(seen.field("Host"), Some("test"));
    let waited: u64 = seen.field("X-Queue-Time").unwrap().parse().unwrap();
    assert!(waited >= 100, "{waited}");
    backend.reply_to(&mut visitor, "backup");
    wait_until("the line of the access log", || {
        proxy.read("access").contains("\"/1\"")
    });
    let log = proxy.read("access");
    assert!(log.contains("\"site\":\"test\""), "{log}");
    // A site without any backends goes there at once.
    visitor.send("GET /empty HTTP/1.1\r\nHost: empty\r\n\r\n");
    assert_eq!(backend.request().target(), "/empty");
    backend.reply_to(&mut visitor, "empty");
    drop(backend);
    // More requests than workers; their bodies reach the backup, too.
    let backups = EchoServer::run(server, Duration::ZERO);
    let mut visitors: Vec<_> = (0..12)
        .map(|n| {
            let mut visitor = proxy.visit();
            visitor.send(post(&format!("/many/{n}")));
            visitor
        })
        .collect();
    for (n, visitor) in visitors.iter_mut().enumerate() {
        assert_eq!(visitor.answer().text(), format!("/many/{n} 4"));
    }
    // A backend of its own is preferred.
    let echo = Echo::dial(proxy.dial_in(), "000000000001", "");
    proxy.wait_for_log("joined");
    assert_eq!(visitor.get("/own").text(), "/own");
    assert_eq!(echo.answered(), 1);
    drop((visitor, visitors, echo, backups));
    proxy.finish();
}

#[test]
fn time_in_queue() {
    let now = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.unwrap().as_micros()
    };
    let yaml = "map:\n\
                - {incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 60}\n\
                - {incoming: off, outgoing: '127.0.0.1:0', timeout: 60, queue_time: false}";
    let proxy = Proxy::start(yaml);
    let before = now();
    let mut visitor = proxy.visit();
    // A client cannot set the field itself.
    let request = "GET / HTTP/1.1\r\nHost: test\r\nX-Request-Start: t=1\r\nX-Queue-Time: 7\r\n\r\n";
    visitor.send(request);
    thread::sleep(Duration::from_millis(150));
    let mut backend = Backend::dial(proxy.dial_in());
    let seen = backend.request();
    let start = seen.field("X-Request-Start").unwrap();
    let start: u128 = start.strip_prefix("t=").unwrap().parse().unwrap();
    let waited: u128 = seen.field("X-Queue-Time").unwrap().parse().unwrap();
    assert!((before..=now() - waited * 1000).contains(&start), "{start}");
    assert!(waited >= 100, "{waited}");
    assert_eq!(seen.head.matches("X-Request-Start").count(), 1);
    assert_eq!(seen.head.matches("X-Queue-Time").count(), 1);
    backend.reply_to(&mut visitor, "ok");
    // Where it is off, the field is not passed on.
    visitor.send(request.replace("test", "off"));
    let seen = backend.request();
    assert_eq!(seen.field("X-Request-Start"), None);
    assert_eq!(seen.field("X-Queue-Time"), None);
    backend.reply_to(&mut visitor, "ok");
    // A proxy in front of us is believed.
    proxy.reload(&format!("trusted_proxies: 127.0.0.1\n{yaml}"));
    visitor.send(request);
    let seen = backend.request();
    assert_eq!(seen.field("X-Request-Start"), Some("t=1"));
    assert_ne!(seen.field("X-Queue-Time"), Some("7"));
    assert_eq!(seen.head.matches("X-Queue-Time").count(), 1);
    backend.reply_to(&mut visitor, "ok");
    drop((visitor, backend));
    proxy.finish();
}
