//! Proxies behind one name that share challenges through Redis: the authority asks another one than that which orders.

use std::net::Ipv4Addr;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::common::pebble::Pebble;
use crate::common::redis::Redis;
use crate::common::{Proxy, Visitor, assert_lacks, needs, wait_until};

const CHALLENGES: &str = "swiftiply:acme";
const PROXIES: &str = "swiftiply:acme:proxies";
/// A day.
const LONG: u32 = 86_400;
/// A thumbprint of a key.
const THUMB: &str = "9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI";

/// A site for which certificates are obtained.
fn site(names: &str) -> String {
    format!("map:\n- {{incoming: [{names}], outgoing: '127.0.0.1:0', tls: auto}}\n")
}

/// The key `redis` of `acme`.
fn shared(redis: &Redis) -> String {
    format!(", redis: {{port: {}}}", redis.port.number())
}

/// The lines for a proxy at an address where the authority does not ask.
fn elsewhere(pebble: &Pebble, more: &str) -> String {
    let ip = pebble.ip();
    let [first, second, third, last] = ip.octets();
    let other = Ipv4Addr::new(first, second + 100, third, last);
    let lines = pebble.lines(more);
    lines
        .replace(
            &format!("cluster_address: {ip}"),
            &format!("cluster_address: {other}"),
        )
        .replace(&format!("at: '{ip}:"), &format!("at: '{other}:"))
}

/// An entry that another proxy has written.
fn entry(kind: &str, key: &str, token: &str, owner: &str) -> String {
    format!("{kind} {key} {token}.{THUMB} {owner}")
}

/// A time by the clock of Redis, so many seconds from now.
fn after(seconds: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    (now.as_micros() as i64 + seconds * 1_000_000).to_string()
}

/// Waits until a proxy says in Redis that it shows the challenges there.
fn wait_for_proxies(redis: &Redis, count: usize) {
    wait_until("the proxies in Redis", || {
        redis.ask(&format!("ZCARD {PROXIES}")) == count.to_string()
    });
}

fn wait_until_empty(redis: &Redis) {
    wait_until("nothing in Redis", || {
        redis.ask("KEYS swiftiply:acme*").is_empty()
    });
}

#[test]
fn another_proxy_is_asked() {
    needs!(
        "redis-server",
        "redis-cli",
        "pebble",
        "pebble-challtestsrv",
        "openssl"
    );
    let (pebble, redis) = (Pebble::start(LONG), Redis::start());
    // All names lead to a proxy that knows nothing of those of the other one. It accepts connections for challenges only.
    // Its Redis is that of its servers.
    let port = redis.port.number();
    let asked = Proxy::start(&format!(
        "deny: all\n{}{}- {{incoming: list, proxy: traditional, directory: redis, servers: {{port: {port}}}}}\n",
        pebble.lines(""),
        site("asked.test"),
    ));
    asked.wait_for_log(&format!(
        "challenges are shared through Redis at 127.0.0.1:{port}"
    ));
    wait_for_proxies(&redis, 1);
    let lines = |kind: &str| elsewhere(&pebble, &format!(", challenges: {kind}{}", shared(&redis)));
    let yaml = format!("{}{}", lines("http-01"), site("a.test"));
    let ordering = Proxy::start(&yaml);
    ordering.wait_for_log("certificate a.test: obtained, valid until ");
    ordering.reload(&format!("{}{}", lines("tls-alpn-01"), site("b.test")));
    ordering.wait_for_log("certificate b.test: obtained, valid until ");
    asked.wait_for_log("certificate asked.test: obtained, valid until ");
    for proxy in [&ordering, &asked] {
        assert_lacks(&proxy.log(), "has failed");
        assert_lacks(&proxy.log(), "not obtained");
    }
    assert_eq!(redis.ask(&format!("EXISTS {CHALLENGES}")), "0");
    wait_for_proxies(&redis, 2);
    // Without it, by a reload.
    let alone = elsewhere(&pebble, ", redis: false");
    ordering.reload(&format!("{alone}{}", site("b.test")));
    wait_for_proxies(&redis, 1);
    ordering.reload(&yaml);
    ordering.wait_for_logs("challenges are shared through Redis at", 2);
    wait_for_proxies(&redis, 2);
    for proxy in [ordering, asked] {
        proxy.finish_without_leak_check();
    }
    wait_until_empty(&redis);
}

#[test]
fn challenges_in_redis() {
    needs!(
        "redis-server",
        "redis-cli",
        "pebble",
        "pebble-challtestsrv",
        "openssl"
    );
    let (pebble, redis) = (Pebble::start(LONG), Redis::start());
    let add = |set: &str, score: &str, member: &str| {
        assert_eq!(redis.ask_for(&["ZADD", set, score, member]), "1");
    };
    // Another proxy proves b.test, and one that is gone has proved a.test.
    let proof = entry("tls-alpn-01", "b.test", "proof", "there");
    add(PROXIES, &after(3600), "there");
    for (seconds, entry) in [
        (3600, proof.clone()),
        (3600, entry("tls-alpn-01", "a.test", "old", "gone")),
        (3600, entry("http-01", "good", "good", "there")),
        (3600, "http-01 bad <b>hello</b> there".into()),
        // Of a proxy that was killed.
        (1, entry("http-01", "late", "late", "there")),
    ] {
        add(CHALLENGES, &after(seconds), &entry);
    }
    let more = format!(", challenges: tls-alpn-01{}", shared(&redis));
    let lines = pebble.lines(&more);
    let proxy = Proxy::start(&format!(
        "{lines}map: [{{incoming: [a.test, b.test], docroot: /, deny: all, tls: auto}}]"
    ));
    proxy.wait_for_log("certificate a.test: obtained, valid until ");
    proxy.wait_for_log("certificate b.test: waiting for another proxy, which proves it now");
    assert_lacks(&proxy.log(), "certificate b.test: obtained");
    let mut visitor = Visitor::connect(proxy.address());
    let mut ask = |token: &str| {
        let path = format!("/.well-known/acme-challenge/{token}");
        let response = visitor.ask(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        (response.status, response.text())
    };
    assert_eq!(ask("good"), (200, format!("good.{THUMB}")));
    assert_eq!(ask("bad").0, 403);
    wait_until("the end of a challenge", || ask("late").0 == 403);
    let entries = redis.ask(&format!("ZRANGE {CHALLENGES} 0 -1"));
    assert_lacks(&entries, "late");
    assert_lacks(&entries, "a.test");
    // A third proxy does not show new challenges yet: what it has read is always two seconds old.
    let is_slow = || redis.ask_for(&["ZADD", PROXIES, &after(-2), "slow"]);
    is_slow();
    redis.ask_for(&["ZREM", CHALLENGES, &proof]);
    wait_until("the order to wait", || {
        is_slow();
        let log = proxy.log();
        log.contains("certificate b.test: waiting until other proxies respond")
    });
    let left = redis.ask(&format!("PTTL {CHALLENGES}"));
    assert!((1..=180_000).contains(&left.parse().unwrap()), "{left}");
    redis.ask_for(&["ZADD", PROXIES, &after(3600), "slow"]);
    proxy.wait_for_log("certificate b.test: obtained, valid until ");
    proxy.finish_without_leak_check();
}

#[test]
fn redis_down() {
    needs!(
        "redis-server",
        "redis-cli",
        "pebble",
        "pebble-challtestsrv",
        "openssl"
    );
    let (pebble, mut redis) = (Pebble::start(LONG), Redis::start());
    redis.kill();
    let lines = pebble.lines(&shared(&redis));
    let proxy = Proxy::start(&format!("{lines}{}", site("a.test")));
    proxy.wait_for_log("certificate a.test: obtained, valid until ");
    let port = redis.port.number();
    let lost = format!("challenges are not shared: Redis at 127.0.0.1:{port}: ");
    proxy.wait_for_log(&lost);
    redis.run(&[]);
    proxy.wait_for_log("challenges are shared through Redis at ");
    wait_for_proxies(&redis, 1);
    proxy.reload(&format!("{lines}{}", site("a.test, b.test")));
    proxy.wait_for_log("certificate b.test: obtained, valid until ");
    let log = proxy.log();
    assert_eq!(log.matches("challenges are not shared").count(), 1, "{log}");
    assert_eq!(log.matches("challenges are shared").count(), 1, "{log}");
    redis.kill();
    proxy.wait_for_logs("challenges are not shared", 2);
    proxy.reload(&format!("{lines}{}", site("a.test, c.test")));
    proxy.wait_for_log("certificate c.test: obtained, valid until ");
    assert_eq!(proxy.log().matches("challenges are not shared").count(), 2);
    proxy.finish_without_leak_check();
}
