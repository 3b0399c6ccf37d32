//! Which clients are served (`allow`, `deny`), by network and path.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::common::proxy::site;
use crate::common::{Echo, Proxy, Visitor, wait_until};

/// An access log in JSON.
const LOG: &str = "access_log: {file: access, format: json}";

/// The status of a request that a proxy passes on for this client.
fn forwarded(client: &mut Visitor, target: &str, address: &str) -> u16 {
    let request =
        format!("GET {target} HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: {address}\r\n\r\n");
    client.ask(request).status
}

#[test]
fn site_rules_by_network_and_path() {
    let keys = "allow: [127.0.0.0/8, {networks: all, paths: /hooks}], deny: {networks: [127.0.0.1, 10.0.0.0/8], paths: /admin}";
    let proxy = Proxy::start(&format!(
        "{LOG}\ntrusted_proxies: 127.0.0.1\n{}",
        site(keys)
    ));
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    let mut client = proxy.visit();
    // The proxy itself is the client of a request in which it names none.
    assert_eq!(client.get("/").text(), "/");
    assert_eq!(client.get("/admin/x").status, 403);
    assert_eq!(client.get("/x/../admin").status, 400);
    let cases = [
        ("/", "192.0.2.1", 403),
        ("/", "127.9.9.9", 200),
        ("/", "::ffff:127.9.9.9", 200),
        ("/", "2001:db8::1", 403),
        ("/hooks/x", "192.0.2.1", 200),
        ("/hooks", "2001:db8::1", 200),
        ("/Hooks", "192.0.2.1", 403),
        ("/hooked", "192.0.2.1", 403),
        ("/admin", "192.0.2.1", 200),
        ("/admin", "10.1.2.3", 403),
        ("/%61dmin;x", "10.1.2.3", 403),
        ("/ADMIN.html", "127.9.9.9", 200),
    ];
    for (target, address, expected) in cases {
        let found = forwarded(&mut client, target, address);
        // A deny alone serves all others, and replaces the rules for shorter paths.
        assert_eq!(found, expected, "{target} for {address}");
    }
    // The body is not waited for.
    let upload =
        "POST / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 192.0.2.1\r\nContent-Length: 9\r\n\r\n";
    let refused = proxy.visit().ask(upload);
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("Your address is not allowed here."));
    // The rules of a site are not for the health check.
    assert_eq!(
        forwarded(&mut client, "/swiftiply_health", "192.0.2.1"),
        200
    );
    proxy.wait_for_log("403 for 192.0.2.1 through 127.0.0.1:");
    proxy.wait_for_log("site test: GET /hooked: refused by allow or deny");
    wait_until("the lines of the access log", || {
        let log = proxy.read("access");
        let refused = r#""client":"192.0.2.1","user":"-","method":"GET","target":"/hooked""#;
        let line = log.lines().find(|line| line.contains(refused));
        line.is_some_and(|line| line.contains(r#""status":403"#))
    });
    drop((client, echo));
    proxy.finish();
}

#[test]
fn refused_connections_are_closed() {
    let with = |lines: &str| {
        let address = "cluster_address: [127.0.0.1, 'unix:socket']";
        format!("{LOG}\n{address}\n{lines}\n{}", site("via: false"))
    };
    let proxy = Proxy::start(&with("deny: 127.0.0.2"));
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    let from = |last: u8| Visitor::connect_from([127, 0, 0, last], proxy.address());
    let local = || {
        let mut socket = UnixStream::connect(proxy.file("socket")).unwrap();
        let request = "GET /swiftiply_health HTTP/1.0\r\n\r\n";
        // A connection that is closed at once may not take it, or is reset.
        let _ = socket.write_all(request.as_bytes());
        let mut response = String::new();
        let _ = socket.read_to_string(&mut response);
        response
    };
    from(2).assert_closed();
    proxy.wait_for_log("closed: refused by allow or deny: reason=denied");
    assert_eq!(from(3).get("/").status, 200);
    assert!(local().starts_with("HTTP/1.1 200 "));
    proxy.reload(&with(""));
    let mut client = from(2);
    assert_eq!(client.get("/").status, 200);
    // With a network in `allow` all other clients are refused, on open connections and for the health check as well.
    proxy.reload(&with("allow: [127.0.0.0/8, '::1']\ndeny: 127.0.0.2/31"));
    for target in ["/", "/swiftiply_health"] {
        assert_eq!(client.get(target).status, 403, "{target}");
    }
    from(2).assert_closed();
    assert_eq!(from(4).get("/").status, 200);
    assert_eq!(local(), "");
    proxy.reload(&with("allow: 'unix:'"));
    assert_eq!(client.get("/").status, 403);
    assert!(local().starts_with("HTTP/1.1 200 "));
    proxy.reload(&with("deny: 192.0.2.0/24"));
    assert_eq!(client.get("/").status, 200);
    drop((client, echo));
    proxy.finish();
}

#[test]
fn refused_behind_a_proxy_before_maintenance_and_everywhere() {
    let keys = "allow: all, error_pages: {403: no.txt}, maintenance_flag: flag";
    let site = site(keys).replace("default: true, ", "");
    let files = tempfile::tempdir().unwrap();
    let page = files.path().join("no.txt");
    fs::write(&page, "not you").unwrap();
    fs::write(files.path().join("flag"), "").unwrap();
    let folder = files.path().display();
    let site = site.replace("no.txt", &format!("{folder}/no.txt"));
    let site = site.replace("flag: flag", &format!("flag: {folder}/flag"));
    let lines = "trusted_proxies: 127.0.0.1\nallow: [192.0.2.0/24, 127.0.0.1]";
    let proxy = Proxy::start(&format!("{LOG}\n{lines}\n{site}"));
    let mut client = proxy.visit();
    let mut ask = |target: &str, host: &str, address: &str| {
        let forwarded = format!("X-Forwarded-For: {address}");
        client.ask(format!(
            "GET {target} HTTP/1.1\r\nHost: {host}\r\n{forwarded}\r\n\r\n"
        ))
    };
    for (host, allowed) in [("test", 503), ("other", 404)] {
        assert_eq!(ask("/", host, "192.0.2.1").status, allowed, "{host}");
        let refused = ask("/", host, "198.51.100.1");
        assert_eq!(refused.status, 403, "{host}");
        assert_eq!(refused.text() == "not you", host == "test", "{host}");
    }
    let health = "/swiftiply_health";
    assert_eq!(ask(health, "test", "192.0.2.1").status, 200);
    assert_eq!(ask(health, "test", "198.51.100.1").status, 403);
    // The proxy itself is allowed to connect.
    assert_eq!(client.get(health).status, 200);
    drop(client);
    proxy.finish();
}
