//! The client's address behind a trusted proxy (`trusted_proxies`, `client_address_field`).

use std::fs;

use crate::common::proxy::{SITE, site};
use crate::common::{Backend, Echo, Proxy, Visitor, wait_until};

/// Every test client counts as a proxy.
const TRUSTED: &str = "trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]";

/// A request that a proxy passes on with these fields.
fn forwarded(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n\r\n")
}

/// A proxy with access log and these lines, an application and a client.
fn scene(lines: &str) -> (Proxy, Backend, Visitor) {
    let proxy = Proxy::start(&format!("access_log: access\n{lines}\n{SITE}"));
    let backend = Backend::dial(proxy.dial_in());
    let client = proxy.visit();
    (proxy, backend, client)
}

/// X-Real-IP as the application gets it.
fn real_ip(client: &mut Visitor, backend: &mut Backend, fields: &str) -> String {
    client.send(forwarded("/", fields));
    let seen = backend.request();
    backend.reply_to(client, "ok");
    seen.field("X-Real-IP").unwrap_or_default().to_owned()
}

#[test]
fn address_from_the_right() {
    let (proxy, mut backend, mut client) = scene(TRUSTED);
    let cases = [
        ("X-Forwarded-For: 203.0.113.7", "203.0.113.7"),
        // The client has sent the first one itself.
        ("X-Forwarded-For: 6.6.6.6, 203.0.113.8", "203.0.113.8"),
        (
            "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 203.0.113.9",
            "203.0.113.9",
        ),
        // Two trusted proxies, one behind the other.
        (
            "X-Forwarded-For: 6.6.6.6, 203.0.113.10, 10.1.2.3",
            "203.0.113.10",
        ),
        ("X-Forwarded-For: 203.0.113.11:55123", "203.0.113.11"),
        ("X-Forwarded-For: 2001:db8::7", "2001:db8::7"),
        ("X-Forwarded-For: [2001:db8::8]:443", "2001:db8::8"),
        ("X-Forwarded-For: ::ffff:203.0.113.12", "203.0.113.12"),
        ("X-Forwarded-For: 203.0.113.13, ,", "203.0.113.13"),
        // A client in a trusted network.
        ("X-Forwarded-For: 10.0.0.9, 10.1.2.3", "10.0.0.9"),
        // An element that is not an address hides those before it.
        ("X-Forwarded-For: 6.6.6.6, unknown", "127.0.0.1"),
        ("X-Forwarded-For: 6.6.6.6, unknown, 10.1.2.3", "10.1.2.3"),
        // Another field has no effect.
        ("X-Real-IP: 6.6.6.6", "127.0.0.1"),
        ("Forwarded: for=6.6.6.6", "127.0.0.1"),
        ("X-Forwarded-For: ", "127.0.0.1"),
    ];
    for (fields, expected) in cases {
        let found = real_ip(&mut client, &mut backend, fields);
        assert_eq!(found, expected, "X-Real-IP for {fields:?}");
    }
    wait_until("the lines of the access log", || {
        proxy.read("access").lines().count() == cases.len()
    });
    let log = proxy.read("access");
    for (line, (fields, expected)) in log.lines().zip(cases) {
        let logged = line.split(' ').next();
        assert_eq!(logged, Some(expected), "access log for {fields:?}: {line}");
    }
    drop((client, backend));
    proxy.finish();
}

#[test]
fn configured_field() {
    let lines = format!("{TRUSTED}\nclient_address_field: X-Edge-Client");
    let (proxy, mut backend, mut client) = scene(&lines);
    for (fields, expected) in [
        (
            "x-edge-client: 203.0.113.7\r\nX-Forwarded-For: 6.6.6.6",
            "203.0.113.7",
        ),
        ("X-Forwarded-For: 6.6.6.6", "127.0.0.1"),
    ] {
        let found = real_ip(&mut client, &mut backend, fields);
        assert_eq!(found, expected, "X-Real-IP for {fields:?}");
    }
    drop((client, backend));
    proxy.finish();
}

#[test]
fn untrusted_client() {
    let lines = "trusted_proxies: 192.0.2.1\nclient_address_field: X-Edge-Client";
    let (proxy, mut backend, mut client) = scene(lines);
    client.send(forwarded(
        "/",
        "X-Edge-Client: 6.6.6.6\r\nX-Forwarded-For: 6.6.6.6",
    ));
    let seen = backend.request();
    assert_eq!(seen.field("X-Real-IP"), Some("127.0.0.1"));
    assert!(
        !seen.head.contains("6.6.6.6"),
        "a forged address was passed on: {}",
        seen.head
    );
    backend.reply_to(&mut client, "ok");
    wait_until("the lines of the access log", || {
        proxy.read("access").starts_with("127.0.0.1 ")
    });
    drop((client, backend));
    proxy.finish();
}

#[test]
fn requests_count_for_the_client() {
    let lines = format!("{TRUSTED}\nlimits: {{connections_per_client: 1}}");
    let (proxy, mut backend, mut first) = scene(&lines);
    let from = |address: &str| forwarded("/", &format!("X-Forwarded-For: {address}"));
    first.send(from("203.0.113.7"));
    backend.request();
    let mut second = proxy.visit();
    assert_eq!(second.ask(from("203.0.113.7")).status, 429);
    proxy.wait_for_log("429 for 203.0.113.7 through 127.0.0.1:");
    proxy.wait_for_log(": site test: GET /: limits.connections_per_client reached");
    // The proxy's connection stays, for the requests of other clients.
    second.send(from("203.0.113.8"));
    backend.reply_to(&mut first, "ok");
    backend.request();
    backend.reply_to(&mut second, "ok");
    // The first connection is still open, without a request, and does not count.
    second.send(from("203.0.113.7"));
    backend.request();
    backend.reply_to(&mut second, "ok");
    drop((first, second, backend));
    proxy.finish();
}

#[test]
fn client_in_messages() {
    let directory = tempfile::tempdir().unwrap();
    let users = directory.path().join("users");
    // The password is "secret".
    fs::write(
        &users,
        "bob:$2y$04$0AmzGnGvh0/cFOeC8QUzn.gpxMc5QcIiWKETkUY2CBOay4Qx5Xxiu\n",
    )
    .unwrap();
    let auth = format!("basic_auth: {{users_file: {}}}", users.display());
    let proxy = Proxy::start(&format!("{TRUSTED}\n{}", site(&auth)));
    let mut client = proxy.visit();
    // bob:wrong
    let fields = "X-Forwarded-For: 203.0.113.7\r\nAuthorization: Basic Ym9iOndyb25n";
    assert_eq!(client.ask(forwarded("/", fields)).status, 401);
    proxy.wait_for_log("401 for 203.0.113.7 through 127.0.0.1:");
    proxy.wait_for_log(": site test: GET /: wrong name or password");
    drop(client);
    proxy.finish();
}

#[test]
fn key_without_proxies() {
    let proxy = Proxy::simple_with("client_address_field: CF-Connecting-IP");
    let echo = Echo::dial(proxy.dial_in(), "127001017771", "");
    proxy.wait_for_log("client_address_field: has no effect without trusted_proxies");
    drop(echo);
    proxy.finish();
}
