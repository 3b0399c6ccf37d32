//! Redirects (`redirect_to_https`, `redirect`), and browsers that use HTTPS only (`hsts`).

use crate::common::proxy::site;
use crate::common::{Backend, Echo, Port, Proxy, Visitor, needs, secure};

/// A site with an application that has TLS at a port of its own, which is returned.
fn scene(keys: &str, lines: &str) -> (Proxy, Echo, Port) {
    let files = tempfile::tempdir().unwrap();
    let (certfile, keyfile) = secure::certificate(files.path(), "test", &["test"]);
    let (pair, port) = (secure::pair(&certfile, &keyfile), Port::reserve());
    let ssl = format!("ssl: {{at: '127.0.0.1:{}', {pair}}}", port.number());
    let proxy = Proxy::start(&format!("{ssl}\n{lines}\n{}", site(keys)));
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    (proxy, echo, port)
}

/// The status of a response and where it leads.
#[track_caller]
fn asked(client: &mut Visitor, line: &str, fields: &str) -> (u16, String) {
    let answer = client.ask(format!("{line} HTTP/1.1\r\n{fields}\r\n\r\n"));
    answer.assert_whole();
    let location = answer.field("Location").unwrap_or_default();
    (answer.status, location.to_owned())
}

#[test]
fn to_https() {
    needs!("openssl");
    let keys = "redirect_to_https: true, hsts: true, redirect: {from: /old, to: /new}";
    let (proxy, echo, port) = scene(keys, "");
    let mut client = proxy.visit();
    let own = |target: &str| format!("https://test:{}{target}", port.number());
    for line in ["GET /a%20b?c=d", "GET /old", "PUT //x"] {
        let target = line.split(' ').next_back().unwrap();
        let found = asked(&mut client, line, "Host: TEST:80");
        assert_eq!(found, (308, own(target)), "{line}");
    }
    // What only a trusted proxy may say.
    let lies = "Host: test\r\nX-Forwarded-Proto: https";
    assert_eq!(asked(&mut client, "GET /", lies), (308, own("/")));
    let page = client.get("/");
    assert_eq!(page.field("Cache-Control"), None);
    assert_eq!(page.field("Strict-Transport-Security"), None);
    assert!(page.text().contains(&own("/")), "{}", page.text());
    for target in ["/swiftiply_health", "/.well-known/acme-challenge/x"] {
        assert_eq!(client.get(target).status, 200, "{target}");
    }
    // A request with a body: the connection cannot be kept.
    let upload = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\n";
    assert_eq!(proxy.visit().ask(upload).status, 308);
    let mut client = Visitor::connect_secure(proxy.addresses()[1], "test");
    let answer = client.get("/a");
    assert_eq!((answer.status, answer.text()), (200, "/a".to_owned()));
    let hsts = answer.field("Strict-Transport-Security");
    assert_eq!(hsts, Some("max-age=31536000"));
    assert_eq!(
        asked(&mut client, "GET /old?a=b", "Host: test"),
        (301, "/new?a=b".into())
    );
    // Without the keys.
    proxy.reload(&proxy.read("swiftiply.yml").replace(keys, "via: true"));
    let mut client = proxy.visit();
    assert_eq!(client.get("/old").text(), "/old");
    drop((client, echo));
    proxy.finish_without_leak_check();
}

#[test]
fn behind_a_trusted_proxy() {
    let keys = "redirect_to_https: true, hsts: {max_age: 5m, subdomains: true}";
    let proxy = Proxy::start(&format!("trusted_proxies: 127.0.0.1\n{}", site(keys)));
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    let mut client = proxy.visit();
    let there = (308, "https://test/x".to_owned());
    assert_eq!(asked(&mut client, "GET /x", "Host: test:8080"), there);
    let plain = "Host: test\r\nX-Forwarded-Proto: http";
    assert_eq!(asked(&mut client, "GET /x", plain), there);
    // Of two, the proxy has sent the last.
    let forged = "Host: test\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Proto: http";
    assert_eq!(asked(&mut client, "GET /x", forged), there);
    let secure = "GET /x HTTP/1.1\r\nHost: test\r\nX-Forwarded-Proto: HTTPS\r\n\r\n";
    let answer = client.ask(secure);
    assert_eq!(answer.text(), "/x");
    let hsts = answer.field("Strict-Transport-Security");
    assert_eq!(hsts, Some("max-age=300; includeSubDomains"));
    drop((client, echo));
    proxy.finish();
}

#[test]
fn by_host_and_path() {
    let keys = "redirect: [{host: www.test, to: 'https://test'}, {from: /blog/*, to: '/news/*', status: 302}, \
                {from: '/a b', to: 'https://b.test/c?d', status: 307}, {from: /gone, to: /, status: 308}]";
    let yaml = site(keys).replace("incoming: test", "incoming: [test, www.test]");
    let yaml = format!("{yaml}\n").replace(
        "map: [",
        "map: [{incoming: only, redirect: 'http://else:81'}, ",
    );
    let proxy = Proxy::start(&yaml);
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    let mut client = proxy.visit();
    let mut check = |line: &str, host: &str, status: u16, to: &str| {
        let found = asked(&mut client, line, &format!("Host: {host}"));
        assert_eq!(found, (status, to.to_owned()), "{line} {host}");
    };
    check("GET /x?y=z", "www.test", 301, "https://test/x?y=z");
    check("GET /x", "test", 200, "");
    check("GET /blog/1/?p=2", "test", 302, "/news/1/?p=2");
    check(
        "GET /blog//evil.example/",
        "test",
        302,
        "/news//evil.example/",
    );
    check("DELETE /a%20b?x", "test", 307, "https://b.test/c?d");
    check("GET /gone", "other", 308, "/");
    check("GET /blog", "test", 200, "");
    check("GET /any?thing", "only", 301, "http://else:81/any?thing");
    check("OPTIONS *", "www.test", 200, "");
    drop((client, echo));
    proxy.finish();
}

#[test]
fn hsts_of_every_kind_of_response() {
    needs!("openssl");
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("a.txt"), "file").unwrap();
    let root = files.path().display();
    let keys =
        format!("hsts: true, docroot: {root}, sendfileroot: {root}, gzip: true, timeout: 0.05");
    let keys = keys.as_str();
    let (proxy, echo, port) = scene(&keys.replace(", timeout: 0.05", ""), "");
    drop(echo);
    let mut backend = Backend::dial(proxy.dial_in());
    let mut client = Visitor::connect_secure(([127, 0, 0, 1], port.number()).into(), "test");
    let hsts = Some("max-age=31536000");
    let mut tag = String::new();
    for _ in 0..2 {
        let answer = client.get("/a.txt");
        assert_eq!(answer.text(), "file");
        assert_eq!(answer.field("Strict-Transport-Security"), hsts);
        assert_eq!(
            answer.field("Content-Type"),
            Some("text/plain; charset=utf-8")
        );
        assert_eq!(answer.field("Content-Length"), Some("4"));
        tag = answer.field("ETag").unwrap().to_owned();
    }
    let request = format!("GET /a.txt HTTP/1.1\r\nHost: test\r\nIf-None-Match: {tag}\r\n\r\n");
    let answer = client.ask(request);
    assert_eq!(
        (answer.status, answer.field("Strict-Transport-Security")),
        (304, hsts)
    );
    // The application's own is replaced, also with a file that it names.
    for field in ["", "X-Sendfile: /a.txt\r\n"] {
        client.send_get("/x");
        backend.request();
        backend.send(format!(
            "HTTP/1.1 200 OK\r\nStrict-Transport-Security: max-age=1\r\n{field}Content-Length: 4\r\n\r\nfile"
        ));
        let answer = client.answer();
        assert_eq!(answer.text(), "file");
        let count = answer.head.matches("Strict-Transport-Security").count();
        assert_eq!(
            (count, answer.field("Strict-Transport-Security")),
            (1, hsts)
        );
    }
    drop((client, backend));
    proxy.finish_without_leak_check();
}
