//! Servers that are listed in Redis, with a real one.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::common::redis::Redis;
use crate::common::{
    EchoServer, Load, Port, Proxy, Running, Server, assert_lacks, crowd, needs, wait_until,
};

impl Redis {
    fn proxy(&self) -> Proxy {
        let mut proxy = Proxy::start(&self.yaml(""));
        proxy.wait_for_log("servers are listed in Redis");
        proxy.count_again();
        proxy
    }

    /// Two proxies that know of each other.
    fn two_proxies(&self) -> [Proxy; 2] {
        let mut proxies = [(); 2].map(|()| self.proxy());
        wait_until("a subscription of each proxy", || {
            let channels = self.ask("PUBSUB CHANNELS swiftiply:*");
            channels.lines().count() == 2
        });
        // With its connection for messages.
        for proxy in &mut proxies {
            proxy.count_again();
        }
        proxies
    }

    fn yaml(&self, more: &str) -> String {
        format!(
            "limits: {{waiting: 1000}}\n\
             map:\n\
             - {{incoming: [test, other], default: true, proxy: traditional, directory: redis, timeout: 60, \
             servers: {{host: 127.0.0.1, port: {}, lease: 2{more}}}}}",
            self.port.number()
        )
    }
}

#[test]
fn element_leased() {
    needs!("redis-server", "redis-cli");
    let redis = Redis::start();
    let servers = [(); 3].map(|()| Server::start());
    let [a, b, c] = [0, 1, 2].map(|n: usize| servers[n].address());
    redis.push("test", a);
    redis.push("test", b);
    let proxy = redis.proxy();
    // The tail of the list is next.
    let mut first = proxy.ask("/first");
    let mut one = servers[0].accept();
    assert_eq!(one.request().target(), "/first");
    assert_eq!(redis.list("test"), [b.to_string()]);
    assert_eq!(redis.list("test.inuse"), [a.to_string()]);
    let mut second = proxy.ask("/second");
    let mut two = servers[1].accept();
    assert_eq!(two.request().target(), "/second");
    assert_eq!(redis.list("test.inuse"), [b.to_string(), a.to_string()]);
    assert_eq!(redis.ask("ZCARD test.leases"), "2");
    // There is no third server, so this request waits for the next free one.
    let mut third = proxy.ask("/third");
    assert_eq!(proxy.visit().get("/swiftiply_health").status, 200);
    two.reply_to(&mut second, "second");
    assert_eq!(two.request().target(), "/third");
    // Or for one that is added.
    second.send_get("/fourth");
    assert_eq!(proxy.visit().get("/swiftiply_health").status, 200);
    redis.push("test", c);
    let mut three = servers[2].accept();
    assert_eq!(three.request().target(), "/fourth");
    three.reply_to(&mut second, "fourth");
    redis.wait_for("test", &[c]);
    two.reply_to(&mut third, "third");
    redis.wait_for("test", &[b, c]);
    one.reply_to(&mut first, "first");
    redis.wait_for("test", &[a, b, c]);
    redis.wait_for("test.inuse", &[]);
    assert_eq!(redis.ask("ZCARD test.leases"), "0");
    // Another name has another list.
    let other = Server::start();
    redis.push("other", other.address());
    first.send("GET /other HTTP/1.1\r\nHost: Other:80\r\n\r\n");
    let mut four = other.accept();
    assert_eq!(four.request().target(), "/other");
    four.reply_to(&mut first, "other");
    // The default's first name is that of all others.
    first.send("GET /unknown HTTP/1.1\r\nHost: unknown\r\n\r\n");
    assert_eq!(three.request().target(), "/unknown");
    three.reply_to(&mut first, "unknown");
    // A server that is removed gets no more requests, and its connection is closed.
    redis.wait_for("test", &[c, a, b]);
    redis.ask(&format!("LREM test 0 {b}"));
    two.assert_closed();
    drop((first, second, third, one, three, four));
    proxy.finish();
    redis.wait_for("test", &[c, a]);
    redis.wait_for("other", &[other.address()]);
    assert_eq!(redis.ask("ZCARD test.proxies"), "0");
}

#[test]
fn duplicate_elements() {
    needs!("redis-server", "redis-cli");
    let redis = Redis::start();
    let server = EchoServer::run(Server::start(), Duration::from_millis(1));
    for _ in 0..3 {
        redis.push("test", server.address());
    }
    redis.ask("LPUSH test nonsense");
    redis.ask("LPUSH test 127.0.0.1:1");
    let proxy = redis.proxy();
    crowd(proxy.address(), 16, 25);
    assert_eq!(server.answered(), 400);
    assert!(server.most() <= 3, "{}", server.most());
    assert!(server.connections() <= 3, "{}", server.connections());
    wait_until("the return of all servers to the list", || {
        redis.list("test").len() == 5
    });
    assert_eq!(redis.list("test.inuse").len(), 0);
    drop(server);
    proxy.finish();
}

#[test]
fn redis_restarted() {
    needs!("redis-server", "redis-cli");
    let mut redis = Redis::start();
    let servers = [(); 2].map(|()| EchoServer::start());
    for server in &servers {
        for _ in 0..2 {
            redis.push("test", server.address());
        }
    }
    let proxy = redis.proxy();
    let load = Load::start(proxy.address(), false);
    for round in 1..=3 {
        load.wait_for(100);
        redis.kill();
        proxy.wait_for_logs("using the last known servers", round);
        load.wait_for(100);
        redis.run(&[]);
        proxy.wait_for_logs("servers are listed in Redis", round + 1);
    }
    // A Redis that is stopped counts as down as well.
    load.wait_for(100);
    redis.signal(Signal::SIGSTOP);
    proxy.wait_for_logs("using the last known servers", 4);
    proxy.wait_for_log(": no response within 500 ms; using the last known servers");
    load.wait_for(100);
    redis.signal(Signal::SIGCONT);
    proxy.wait_for_logs("servers are listed in Redis", 5);
    load.wait_for(100);
    load.end();
    wait_until("the return of all servers to the list", || {
        redis.list("test").len() == 4 && redis.list("test.inuse").is_empty()
    });
    assert_eq!(redis.ask("ZCARD test.leases"), "0");
    drop(servers);
    proxy.finish();
}

#[test]
fn shared_list() {
    needs!("redis-server", "redis-cli");
    let redis = Redis::start();
    let server = EchoServer::run(Server::start(), Duration::from_millis(1));
    redis.push("test", server.address());
    let proxies = redis.two_proxies();
    // However busy the one is, the other one has its turn.
    thread::scope(|scope| {
        for proxy in &proxies {
            scope.spawn(|| crowd(proxy.address(), 4, 50));
        }
    });
    assert_eq!(server.answered(), 400);
    assert_eq!(server.most(), 1);
    redis.wait_for("test", &[server.address()]);
    drop(server);
    for proxy in proxies {
        proxy.finish();
    }
}

#[test]
fn elements_to_spare() {
    needs!("redis-server", "redis-cli");
    let redis = Redis::start();
    let takes = Duration::from_millis(110);
    let server = EchoServer::run(Server::start(), takes);
    for _ in 0..20 {
        redis.push("test", server.address());
    }
    let proxies = redis.two_proxies();
    let mut visitor = proxies[0].visit();
    let overhead = (0..8).map(|_| {
        let since = Instant::now();
        assert_eq!(visitor.get("/").status, 200);
        since.elapsed() - takes
    });
    let least = overhead.skip(1).min().unwrap();
    assert!(least < Duration::from_millis(30), "{least:?}");
    drop((visitor, server));
    for proxy in proxies {
        proxy.finish();
    }
}

#[test]
fn waiting_proxies_take_turns() {
    needs!("redis-server", "redis-cli");
    let redis = Redis::start();
    let server = Server::start();
    redis.push("test", server.address());
    let [first, second] = redis.two_proxies();
    let mut one = first.ask("/1");
    let mut backend = server.accept();
    backend.request();
    let mut two = first.ask("/2");
    wait_until("the first proxy in the queue", || {
        redis.ask("ZCARD test.waiting") == "1"
    });
    let mut four = first.ask("/4");
    let mut other = second.ask("/3");
    wait_until("both proxies in the queue", || {
        redis.ask("ZCARD test.waiting") == "2"
    });
    // The element has been held for long, and the first proxy knows that the second one waits.
    thread::sleep(Duration::from_millis(300));
    backend.reply_to(&mut one, "1");
    assert_eq!(backend.request().target(), "/2");
    thread::sleep(Duration::from_millis(300));
    backend.reply_to(&mut two, "2");
    let mut backend_of_second = server.accept();
    assert_eq!(backend_of_second.request().target(), "/3");
    backend_of_second.reply_to(&mut other, "3");
    assert_eq!(backend.request().target(), "/4");
    backend.reply_to(&mut four, "4");
    redis.wait_for("test", &[server.address()]);
    wait_until("no proxy in the queue", || {
        redis.ask("ZCARD test.waiting") == "0"
    });
    drop((one, two, four, other, backend, backend_of_second));
    for proxy in [first, second] {
        proxy.finish();
    }
}

/// The primary of two is killed, and the other one takes its place.
#[test]
fn failed_over() {
    needs!("redis-server", "redis-cli");
    let mut primary = Redis::start();
    let replica = Redis::start();
    let own = |redis: &Redis| format!("127.0.0.1:{}", redis.port.number());
    let server = EchoServer::start();
    for _ in 0..4 {
        primary.push("test", server.address());
    }
    let port = primary.port.number();
    replica.ask(&format!("REPLICAOF 127.0.0.1 {port}"));
    wait_until("the list at the replica", || {
        replica.list("test").len() == 4
    });
    let (sentinel, directory) = sentinel_of(port);
    let hosts = |list: &str| {
        primary
            .yaml("")
            .replace("host: 127.0.0.1", &format!("host: [{list}]"))
    };
    let listed = hosts(&format!("'{}', '{}'", own(&replica), own(&primary)));
    let asked = hosts(&format!("'127.0.0.1:{}'", sentinel.0.number()))
        .replace("lease:", "sentinel: main, lease:");
    let proxies = [listed, asked].map(|yaml| Proxy::start(&yaml));
    for proxy in &proxies {
        proxy.wait_for_log(&format!("servers are listed in Redis at {}", own(&primary)));
    }
    let loads = proxies
        .each_ref()
        .map(|proxy| Load::start(proxy.address(), false));
    for load in &loads {
        load.wait_for(20);
    }
    primary.kill();
    for proxy in &proxies {
        proxy.wait_for_log("using the last known servers");
        assert_lacks(&proxy.log(), "os error");
    }
    // Sentinel promotes the replica.
    for proxy in &proxies {
        proxy.wait_for_log(&format!("servers are listed in Redis at {}", own(&replica)));
    }
    for load in loads {
        load.wait_for(20);
        load.end();
    }
    wait_until("the return of all servers to the list", || {
        replica.list("test").len() == 4 && replica.list("test.inuse").is_empty()
    });
    drop((sentinel, directory, server));
    for proxy in proxies {
        proxy.finish_without_leak_check();
    }
}

/// A Sentinel that promotes the replica of the Redis at this port when that is gone for 300 ms.
fn sentinel_of(port: u16) -> ((Port, Running), TempDir) {
    let (own, directory) = (Port::reserve(), tempfile::tempdir().unwrap());
    let file = directory.path().join("sentinel.conf");
    let text = format!(
        "port {}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {port} 1\n\
         sentinel down-after-milliseconds main 300\n",
        own.number()
    );
    std::fs::write(&file, text).unwrap();
    let child = Command::new("redis-server")
        .arg(&file)
        .arg("--sentinel")
        .arg("--dir")
        .arg(directory.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    ((own, Running(child)), directory)
}

#[test]
fn proxy_killed() {
    needs!("redis-server", "redis-cli");
    let redis = Redis::start();
    let server = Server::start();
    let address = server.address();
    redis.push("test", address);
    // Elements that the original has in use are not taken.
    redis.ask("LPUSH test.inuse 127.0.0.1:1");
    let [killed, stays] = redis.two_proxies();
    let mut first = killed.ask("/first");
    let mut backend = server.accept();
    backend.request();
    let mut second = stays.ask("/second");
    // As long as the proxy lives, however long the request takes, it stays in use.
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(redis.list("test.inuse").len(), 2);
    let since = Instant::now();
    killed.signal(Signal::SIGKILL);
    first.assert_closed();
    let mut other = server.accept();
    // Two seconds, and what it takes to notice.
    let took = since.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(other.request().target(), "/second");
    other.reply_to(&mut second, "second");
    stays.wait_for_log("of a proxy that is gone are back");
    redis.wait_for("test", &[address]);
    assert_eq!(redis.list("test.inuse"), ["127.0.0.1:1"]);
    drop((second, other, backend));
    stays.finish();
    drop(killed);
}

#[test]
fn redis_down_at_start() {
    needs!("redis-server", "redis-cli");
    let mut redis = Redis::start();
    let server = EchoServer::start();
    redis.push("test", server.address());
    redis.kill();
    let mut proxy = Proxy::start(&redis.yaml(""));
    proxy.wait_for_log("using the last known servers");
    let mut visitor = proxy.ask("/waits");
    assert_eq!(proxy.visit().get("/swiftiply_health").status, 200);
    redis.run(&[]);
    proxy.wait_for_log("servers are listed in Redis");
    proxy.count_again();
    assert_eq!(visitor.answer().text(), "/waits");
    assert_eq!(
        proxy.log().matches("using the last known servers").count(),
        1
    );
    drop((visitor, server));
    proxy.finish();
}

#[test]
fn reload_to_another() {
    needs!("redis-server", "redis-cli");
    let redis = Redis::start();
    let server = Server::start();
    let address = server.address();
    redis.push("test", address);
    redis.ask(&format!("-n 3 LPUSH test {address}"));
    let proxy = redis.proxy();
    let mut first = proxy.ask("/first");
    let mut backend = server.accept();
    backend.request();
    proxy.reload(&redis.yaml(", db: 3"));
    proxy.wait_for_logs("servers are listed in Redis", 2);
    let mut second = proxy.ask("/second");
    let mut other = server.accept();
    assert_eq!(other.request().target(), "/second");
    assert_eq!(redis.list("test.inuse"), [address.to_string()]);
    assert_eq!(redis.ask("-n 3 LLEN test.inuse"), "1");
    // What was under way ends in order, there as well.
    backend.reply_to(&mut first, "first");
    redis.wait_for("test", &[address]);
    redis.wait_for("test.inuse", &[]);
    other.reply_to(&mut second, "second");
    drop((first, second, backend, other));
    proxy.finish();
    assert_eq!(redis.ask("-n 3 LLEN test.inuse"), "0");
}

#[test]
fn password() {
    needs!("redis-server", "redis-cli");
    let mut redis = Redis::start();
    let server = EchoServer::start();
    redis.push("test", server.address());
    redis.kill();
    redis.run(&["--requirepass", "s3cret"]);
    let mut proxy = Proxy::start(&redis.yaml(", password: wrong"));
    proxy.wait_for_log("using the last known servers");
    proxy.reload(&redis.yaml(", password: s3cret"));
    proxy.wait_for_log("servers are listed in Redis");
    proxy.count_again();
    assert_eq!(proxy.visit().get("/known").text(), "/known");
    assert_lacks(&proxy.log(), "s3cret");
    assert_lacks(&proxy.log(), "wrong\"");
    drop(server);
    proxy.finish();
}

#[test]
fn messages_of_503() {
    needs!("redis-server", "redis-cli");
    let mut redis = Redis::start();
    let proxy = Proxy::start(&redis.yaml("").replace("timeout: 60", "timeout: 300ms"));
    proxy.wait_for_log("servers are listed in Redis");
    assert_eq!(proxy.visit().get("/").status, 503);
    proxy.wait_for_log(
        ": site test: backend -: no backend in 300ms: no server is listed request_id=",
    );
    let server = Server::start();
    redis.push("test", server.address());
    let mut visitor = proxy.ask("/");
    let mut backend = server.accept();
    backend.request();
    wait_until("the message about the busy server", || {
        assert_eq!(proxy.visit().get("/").status, 503);
        proxy
            .log()
            .contains("no backend in 300ms: the only server is busy request_id=")
    });
    backend.reply_to(&mut visitor, "ok");
    drop((backend, server));
    assert_eq!(proxy.visit().get("/").status, 503);
    proxy.wait_for_log("no backend in 300ms: the only server is down request_id=");
    redis.kill();
    proxy.wait_for_log("using the last known servers");
    assert_eq!(proxy.visit().get("/").status, 503);
    proxy.wait_for_log(
        "no backend in 300ms: the only server is down, and Redis does not answer request_id=",
    );
    drop(visitor);
    proxy.finish_without_leak_check();
}
