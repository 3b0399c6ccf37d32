//! Servers that do not dial in but are connected to.

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::common::proxy::SITE;
use crate::common::{
    Backend, Echo, EchoServer, PATIENCE, Proxy, Server, Visitor, assert_contains, assert_lacks,
    crowd, drain, embedded, exchange, full_listener, wait_until,
};

/// A site that takes everything and has these servers.
fn site(servers: &[&str], more: &str) -> String {
    let servers: Vec<_> = servers.iter().map(|server| format!("'{server}'")).collect();
    let servers = servers.join(", ");
    format!(
        "map: [{{incoming: test, default: true, proxy: traditional, servers: [{servers}], timeout: 60{more}}}]"
    )
}

/// A server, and a proxy that has no other.
fn one(more: &str) -> (Server, Proxy) {
    let server = Server::start();
    let proxy = Proxy::start(&site(&[&server.address().to_string()], more));
    (server, proxy)
}

fn post(target: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody")
}

#[test]
fn connections_reused() {
    let server = Server::start();
    let proxy = Proxy::start(&format!(
        "access_log: {{file: access, format: json}}\n{}",
        site(&[&server.address().to_string()], "")
    ));
    let mut first = proxy.visit();
    first.send(post("/1"));
    let mut backend = server.accept();
    let seen = backend.request();
    assert_eq!(
        (seen.target(), seen.body.as_slice()),
        ("/1", b"body".as_slice())
    );
    assert_eq!(seen.field("Host"), Some("test"));
    assert_eq!(seen.field("X-Forwarded-For"), Some("127.0.0.1"));
    assert_eq!(seen.field("Via"), Some("1.1 swiftiply"));
    assert_eq!(seen.field("Connection"), None);
    backend.reply_to(&mut first, "one");
    // Another client, most likely another worker.
    for n in 2..20 {
        let mut visitor = proxy.ask(&format!("/{n}"));
        assert_eq!(backend.request().target(), format!("/{n}"));
        // Also with chunks, and without a body.
        match n % 3 {
            0 => backend
                .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
            1 => backend.send("HTTP/1.1 204 No Content\r\n\r\n"),
            _ => backend.reply("ok"),
        };
        let answer = visitor.answer();
        assert!(matches!(answer.status, 200 | 204), "{answer:?}");
    }
    assert!(
        server.accept_now().is_none(),
        "the server got one connection too many"
    );
    let address = server.address().to_string();
    wait_until("the line of the access log", || {
        proxy.read("access").contains("\"/19\"")
    });
    assert_contains(&proxy.read("access"), &format!("\"{address}\""));
    drop((first, backend));
    proxy.finish();
}

#[test]
fn server_closes() {
    let (server, proxy) = one("");
    let mut visitor = proxy.visit();
    for answer in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ] {
        visitor.send_get("/");
        let mut backend = server.accept();
        backend.request();
        backend.send(answer);
        assert_eq!(visitor.answer().text(), "ok", "{answer}");
        assert!(backend.is_closed(), "{answer}");
    }
    // HTTP/1.0 may keep it.
    visitor.send_get("/");
    let mut backend = server.accept();
    backend.request();
    backend.send("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(visitor.answer().text(), "ok");
    visitor.send_get("/");
    backend.request();
    // No length: the end is where the server closes, however long that takes.
    backend.send("HTTP/1.1 200 OK\r\n\r\nfirst");
    thread::sleep(Duration::from_millis(300));
    backend.send(" and second");
    backend.finish();
    assert_eq!(visitor.answer().text(), "first and second");
    assert_lacks(&proxy.log(), "without Content-Length");
    drop((visitor, backend));
    proxy.finish();
}

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
    // Only the second one has nothing to do.
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
fn limit_and_queue() {
    let server = Server::start();
    let proxy = embedded(&format!(
        "workers: 8\n{}",
        site(
            &[&server.address().to_string()],
            ", server_connections: 2, limits: {waiting: 9}"
        )
    ));
    let address = crate::common::first(&proxy.visitors());
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
fn retried_elsewhere() {
    let gone = Server::start().address();
    let server = EchoServer::start();
    let proxy = Proxy::start(&site(
        &[&gone.to_string(), &server.address().to_string()],
        "",
    ));
    let mut visitor = proxy.visit();
    // Whatever the method: nothing of it was sent.
    for n in 0..6 {
        let target = format!("/{n}");
        assert_eq!(visitor.ask(post(&target)).text(), format!("{target} 4"));
    }
    assert_eq!(server.answered(), 6);
    proxy.wait_for_log(&format!("server {gone} is set aside: connection refused"));
    // It comes up, and gets requests again.
    let back = EchoServer::at(gone);
    wait_until("the use of the server that is back", || {
        visitor.get("/again");
        back.answered() > 1
    });
    assert_eq!(proxy.log().matches("is back").count(), 1);
    drop((visitor, server, back));
    proxy.finish();
}

#[test]
fn wait_for_restart() {
    let address = Server::start().address();
    let proxy = Proxy::start(&site(&[&address.to_string()], ""));
    let waiting: Vec<_> = (0..8).map(|n| proxy.ask(&format!("/{n}"))).collect();
    proxy.wait_for_log("set aside");
    let server = EchoServer::at(address);
    for (n, mut visitor) in waiting.into_iter().enumerate() {
        assert_eq!(visitor.answer().text(), format!("/{n}"));
    }
    drop(server);
    proxy.finish();
}

#[test]
fn closed_idle_connection() {
    let (server, proxy) = one("");
    let mut visitor = proxy.visit();
    for round in 0..5 {
        visitor.send(post("/"));
        let mut backend = server.accept();
        backend.request();
        backend.reply("ok");
        assert_eq!(visitor.answer().text(), "ok", "{round}");
        // Closed, or with bytes that no request asked for.
        if round % 2 == 1 {
            backend.send("HTTP/1.1 408 Request Timeout\r\n\r\n");
        }
        drop(backend);
        wait_until("the end of the idle connection", || {
            !is_established(server.address())
        });
    }
    assert!(!proxy.log().contains("set aside"), "{}", proxy.log());
    drop(visitor);
    proxy.finish();
}

/// Whether a connection to this address has not heard of its end.
fn is_established(address: SocketAddr) -> bool {
    let port = format!("0100007F:{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, remote) = (words.next().unwrap(), words.next().unwrap());
        let state = words.next().unwrap();
        // 01 is ESTABLISHED.
        remote == port && local != port && state == "01"
    })
}

#[test]
fn post_on_idle_connection() {
    let (server, proxy) = one("");
    let mut visitor = proxy.ask("/1");
    let mut first = server.accept();
    first.request();
    first.reply_to(&mut visitor, "ok");
    thread::sleep(Duration::from_millis(1100));
    visitor.send(post("/2"));
    let mut second = server.accept();
    assert_eq!(second.request().target(), "/2");
    second.reply_to(&mut visitor, "ok");
    // GET may use it, and goes to another one when it ends at that moment.
    visitor.send_get("/3");
    assert_eq!(second.request().target(), "/3");
    drop(second);
    assert_eq!(first.request().target(), "/3");
    first.reply_to(&mut visitor, "ok");
    drop((visitor, first));
    proxy.finish();
}

#[test]
fn server_dies() {
    let servers = [(); 2].map(|()| Server::start());
    let [a, b] = [0, 1].map(|n: usize| servers[n].address().to_string());
    let proxy = Proxy::start(&site(&[&a, &b], ""));
    let mut visitor = proxy.ask("/get");
    servers[0].accept().request();
    let mut backend = servers[1].accept();
    assert_eq!(backend.request().target(), "/get");
    backend.reply_to(&mut visitor, "ok");
    visitor.send(post("/post"));
    servers[0].accept().request();
    assert_eq!(visitor.answer().status, 502);
    // Within a response the client can tell.
    visitor.send_get("/cut");
    assert_eq!(backend.request().target(), "/cut");
    backend.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
    drop(backend);
    let answer = visitor.answer();
    assert!(answer.cut && answer.body == b"half", "{answer:?}");
    proxy.finish();
}

#[test]
fn failing_server_set_aside() {
    let bad = Server::start();
    let good = EchoServer::start();
    let proxy = Proxy::start(&site(
        &[&bad.address().to_string(), &good.address().to_string()],
        "",
    ));
    let mut visitor = proxy.visit();
    for n in 0..3 {
        visitor.send_get(&format!("/bad/{n}"));
        let mut backend = bad.accept();
        backend.request();
        backend.send("nonsense\r\n\r\n");
        assert_eq!(visitor.answer().status, 502);
        if n < 2 {
            assert_eq!(visitor.get("/good").text(), "/good");
        }
    }
    proxy.wait_for_log("set aside: 3 exchanges in a row failed");
    // The only one goes on.
    let lonely = Server::start();
    proxy.reload(&site(&[&lonely.address().to_string()], ""));
    for _ in 0..5 {
        visitor.send_get("/");
        let mut backend = lonely.accept();
        backend.request();
        backend.send("nonsense\r\n\r\n");
        assert_eq!(visitor.answer().status, 502);
    }
    assert_eq!(proxy.log().matches("set aside").count(), 1);
    drop((visitor, good));
    proxy.finish();
}

#[test]
fn connect_timeout() {
    let (address, queue) = full_listener();
    let address = address.to_string();
    let good = EchoServer::start();
    let proxy = Proxy::start(&site(
        &[&address, &good.address().to_string()],
        ", timeouts: {connect: 200ms}",
    ));
    let mut visitor = proxy.visit();
    let since = Instant::now();
    assert_eq!(visitor.ask(post("/1")).text(), "/1 4");
    assert!(
        since.elapsed() >= Duration::from_millis(200),
        "answered after {:?}",
        since.elapsed()
    );
    proxy.wait_for_log("set aside: timed out");
    drop((visitor, good, queue));
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
fn health_check() {
    let server = Server::start();
    let address = server.address().to_string();
    let good = EchoServer::start();
    let proxy = Proxy::start(&site(
        &[&address, &good.address().to_string()],
        ", check: {uri: '/up?x', interval: 50ms}",
    ));
    let answer_check = |status: &str| {
        let mut backend = server.accept();
        let seen = backend.request();
        if seen.target() != "/up?x" {
            return Some(backend);
        }
        assert_eq!(seen.field("Host"), Some("test"));
        backend.send(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
        None
    };
    assert!(
        answer_check("200 OK").is_none(),
        "the check brought a request of a client"
    );
    assert!(
        answer_check("503 Service Unavailable").is_none(),
        "the check brought a request of a client"
    );
    assert!(
        answer_check("503 Service Unavailable").is_none(),
        "the check brought a request of a client"
    );
    proxy.wait_for_log(&format!(
        "server {address} is down: a check is answered with 503"
    ));
    let mut visitor = proxy.visit();
    for _ in 0..5 {
        assert_eq!(visitor.get("/a").text(), "/a");
    }
    assert!(
        answer_check("200 OK").is_none(),
        "the check brought a request of a client"
    );
    proxy.wait_for_log(&format!("server {address} is back"));
    // Now a request finds it among the checks.
    visitor.send_get("/b");
    let mut other = proxy.ask("/c");
    let mut backend = loop {
        if let Some(backend) = answer_check("200 OK") {
            break backend;
        }
    };
    backend.reply("hello");
    let texts = [visitor.answer().text(), other.answer().text()];
    assert!(texts.contains(&"hello".to_owned()), "{texts:?}");
    // Checks without a response delay no request.
    drop((visitor, other, backend, good));
    drop(server);
    proxy.finish();
}

#[test]
fn reload() {
    let [stays, goes, comes] = [(); 3].map(|()| Server::start());
    let [a, b, c] = [&stays, &goes, &comes].map(|server| server.address().to_string());
    let proxy = Proxy::start(&site(&[&a, &b], ""));
    let mut first = proxy.ask("/stays");
    let mut one = stays.accept();
    one.request();
    let mut second = proxy.ask("/goes");
    let mut two = goes.accept();
    two.request();
    let mut third = proxy.ask("/idle");
    let mut three = stays.accept();
    three.request();
    let mut fourth = proxy.ask("/idle");
    let mut four = goes.accept();
    four.request();
    three.reply_to(&mut third, "ok");
    four.reply_to(&mut fourth, "ok");
    proxy.reload(&site(&[&c, &a], ", server_connections: 3"));
    // What was idle there is closed, what was under way ends in order.
    four.assert_closed();
    two.reply_to(&mut second, "gone");
    two.assert_closed();
    // The new one has the fewest; the old one has kept its connection.
    third.send_get("/new");
    let mut new = comes.accept();
    assert_eq!(new.request().target(), "/new");
    fourth.send_get("/old");
    let mut fifth = proxy.ask("/old");
    let mut other = comes.accept();
    for backend in [&mut three, &mut other] {
        assert_eq!(backend.request().target(), "/old");
        backend.reply("old");
    }
    new.reply("new");
    one.reply_to(&mut first, "stays");
    assert_eq!(third.answer().text(), "new");
    assert_eq!(fourth.answer().text(), "old");
    assert_eq!(fifth.answer().text(), "old");
    // From there to backends that dial in, and back.
    proxy.reload(SITE);
    for backend in [&mut one, &mut three, &mut new, &mut other] {
        backend.assert_closed();
    }
    proxy.reload(&site(&[&a], ""));
    first.send_get("/back");
    let mut back = stays.accept();
    back.request();
    back.reply_to(&mut first, "back");
    drop((first, second, third, fourth, fifth, back));
    proxy.finish_without_leak_check();
}

#[test]
fn draining() {
    let (server, mut proxy) = one(", server_connections: 1");
    let mut first = proxy.ask("/first");
    let mut backend = server.accept();
    backend.request();
    let mut second = proxy.ask("/second");
    assert_eq!(proxy.visit().get("/swiftiply_health").status, 200);
    proxy.signal(Signal::SIGTERM);
    proxy.wait_for_log("draining");
    backend.reply_to(&mut first, "first");
    assert_eq!(backend.request().target(), "/second");
    backend.reply("second");
    let answer = second.answer();
    assert_eq!(answer.text(), "second");
    assert_eq!(answer.field("Connection"), Some("close"));
    assert_eq!(proxy.wait().code(), Some(0));
    backend.assert_closed();
}

#[test]
fn idle_timeout() {
    let (server, proxy) = one(", timeouts: {idle: 1500ms}");
    let mut visitor = proxy.ask("/");
    let mut backend = server.accept();
    backend.request();
    let since = Instant::now();
    backend.reply_to(&mut visitor, "ok");
    backend.assert_closed();
    assert!(
        since.elapsed() >= Duration::from_millis(1500),
        "closed after {:?}",
        since.elapsed()
    );
    drop(visitor);
    proxy.finish();
}

#[test]
fn unsolicited_bytes() {
    let (server, proxy) = one("");
    let mut visitor = proxy.ask("/1");
    let mut backend = server.accept();
    backend.request();
    backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\nstolen");
    assert_eq!(visitor.answer().text(), "ok");
    backend.assert_closed();
    proxy.wait_for_log("closed: reason=junk");
    visitor.send_get("/2");
    let mut backend = server.accept();
    backend.request();
    backend.reply_to(&mut visitor, "two");
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn many_clients() {
    let servers = [(); 2].map(|()| EchoServer::run(Server::start(), Duration::from_millis(1)));
    let [a, b] = [0, 1].map(|n: usize| servers[n].address().to_string());
    let proxy = Proxy::start(&site(&[&a, &b], ", server_connections: 3"));
    crowd(proxy.address(), 24, 25);
    for server in &servers {
        assert!(server.most() <= 3, "{}", server.most());
        assert!(server.connections() <= 3, "{}", server.connections());
        assert!(server.answered() > 100, "{}", server.answered());
    }
    drop(servers);
    proxy.finish();
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

#[test]
fn sample() {
    let servers = [(); 2].map(|()| EchoServer::start());
    let [a, b] = [0, 1].map(|n: usize| servers[n].address().to_string());
    let sample = include_str!("../conf/traditional.yml");
    let yaml = sample
        .replace("cluster_port: 8080", "cluster_port: 0")
        .replace("127.0.0.1:3000, 127.0.0.1:3001", &format!("'{a}', '{b}'"))
        .replace("127.0.0.1:30000", "127.0.0.1:0");
    let proxy = Proxy::start(&yaml);
    let mut visitor = proxy.visit();
    for n in 0..10 {
        let target = format!("/{n}");
        assert_eq!(visitor.get(&target).text(), target);
    }
    // Checks come in addition.
    assert!(
        servers.iter().all(|server| server.answered() >= 5),
        "a server got too few requests: {:?}",
        servers.iter().map(EchoServer::answered).collect::<Vec<_>>()
    );
    // It steps in where it is wanted.
    let echo = Echo::dial(proxy.dial_in(), "000000000001", "");
    let request = "GET /sorry HTTP/1.1\r\nHost: sorry.example.com\r\n\r\n";
    assert_eq!(visitor.ask(request).text(), "/sorry");
    assert_eq!(echo.answered(), 1);
    drop((visitor, servers, echo));
    proxy.finish();
}

#[test]
fn upgraded_connection() {
    let (server, proxy) = one(", server_connections: 1");
    let mut visitor = proxy.visit();
    visitor.send(
        "GET /chat HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    let mut tunnel = server.accept();
    assert_eq!(tunnel.request().field("Upgrade"), Some("websocket"));
    // While it is one, another one has to wait.
    let mut other = proxy.ask("/other");
    assert_eq!(proxy.visit().get("/swiftiply_health").status, 200);
    assert!(
        server.accept_now().is_none(),
        "the server got one connection too many"
    );
    tunnel.send(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    assert_eq!(visitor.answer().status, 101);
    let mut backend = server.accept();
    assert_eq!(backend.request().target(), "/other");
    backend.reply_to(&mut other, "other");
    visitor.send("to the server");
    assert_eq!(tunnel.read_to("server"), "to the server");
    tunnel.send("and back");
    assert_eq!(visitor.at_least(8), b"and back");
    // Its end is nothing to the others.
    drop(visitor);
    tunnel.assert_closed();
    drop(tunnel);
    proxy.wait_for_log("through a tunnel");
    exchange(&mut other, &mut backend, "/again");
    drop((other, backend));
    proxy.finish();
}

#[test]
fn files_need_no_server() {
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("file.txt"), "a file").unwrap();
    let server = EchoServer::start();
    let docroot = format!(", docroot: {}", files.path().display());
    let proxy = Proxy::start(&site(&[&server.address().to_string()], &docroot));
    let mut visitor = proxy.visit();
    assert_eq!(visitor.get("/file.txt").text(), "a file");
    assert_eq!(server.answered(), 0);
    assert_eq!(visitor.get("/other.txt").text(), "/other.txt");
    assert_eq!(server.answered(), 1);
    drop((visitor, server));
    proxy.finish();
}
