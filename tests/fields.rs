//! Fields that a site sets, adds and removes (`response_headers`, `expires`, `cors`).

use std::fs;

use crate::common::proxy::site;
use crate::common::visitor::Answer;
use crate::common::{Backend, Proxy, Visitor, settle};

/// The values of a field of a response, in order.
fn all<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    let lines = answer.head.lines().filter_map(|line| line.split_once(": "));
    let named = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
    named.map(|(_, value)| value).collect()
}

/// Sends a request, and as the application a response with these fields.
fn exchange(client: &mut Visitor, backend: &mut Backend, target: &str, fields: &str) -> Answer {
    client.send_get(target);
    backend.request();
    backend.send(format!(
        "HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok"
    ));
    let answer = client.answer();
    answer.assert_body("ok");
    answer
}

#[test]
fn set_add_and_remove() {
    let keys = "response_headers: [secure, {set: {Server: none, x-a: 'b: c'}, add: {Link: [</1>, </2>], Vary: Cookie}, \
                remove: [X-Powered-By, x-gone]}, {paths: [/api, /b c], set: {X-A: api}, remove: X-Frame-Options}], timeout: 0.05";
    let yaml = site(keys).replace("timeout: 60, ", "");
    let proxy = Proxy::start(&yaml);
    let mut client = proxy.visit();
    // The server's own page.
    let page = client.get("/");
    assert_eq!(page.status, 503);
    assert_eq!(all(&page, "x-a"), ["b: c"]);
    assert_eq!(all(&page, "X-Frame-Options"), ["SAMEORIGIN"]);
    let mut backend = Backend::dial(proxy.dial_in());
    proxy.wait_for_log(" joined ");
    let sent = "Server: app\r\nX-Powered-By: app\r\nX-POWERED-BY: app\r\nLink: </0>\r\nReferrer-Policy: same-origin\r\n";
    let answer = exchange(&mut client, &mut backend, "/", sent);
    assert_eq!(all(&answer, "Server"), ["none"]);
    assert_eq!(all(&answer, "X-Powered-By"), [""; 0]);
    assert_eq!(all(&answer, "Link"), ["</0>", "</1>", "</2>"]);
    assert_eq!(all(&answer, "Vary"), ["Cookie"]);
    assert_eq!(all(&answer, "X-Content-Type-Options"), ["nosniff"]);
    // The application's own stays.
    assert_eq!(all(&answer, "Referrer-Policy"), ["same-origin"]);
    for (target, value) in [
        ("/api", "api"),
        ("/api/x?y", "api"),
        ("/b%20c", "api"),
        ("/apis", "b: c"),
    ] {
        let answer = exchange(&mut client, &mut backend, target, "X-A: 1\r\nX-A: 2\r\n");
        assert_eq!(all(&answer, "X-A"), [value], "{target}");
        assert_eq!(
            answer.field("X-Frame-Options").is_some(),
            value != "api",
            "{target}"
        );
    }
    proxy.reload(&site("via: true"));
    let answer = exchange(&mut client, &mut backend, "/", sent);
    assert_eq!(all(&answer, "X-Powered-By").len(), 2);
    drop((client, backend));
    proxy.finish();
}

#[test]
fn lifetime_of_files() {
    let files = tempfile::tempdir().unwrap();
    let text = "text ".repeat(1000);
    for name in [
        "a.css",
        "app.3f2a9c81.css",
        "index.html",
        "photo.jpg",
        "a.bin",
    ] {
        fs::write(files.path().join(name), &text).unwrap();
    }
    fs::create_dir(files.path().join("old")).unwrap();
    fs::write(files.path().join("old/a.css"), &text).unwrap();
    settle(files.path());
    let keys = format!(
        "docroot: {}, gzip: true, expires: [hashed, {{paths: /old, time: 0}}, {{types: [image/*, text/css], time: 30d}}, {{types: text/html, time: 5m, immutable: true}}], \
         response_headers: [{{set: {{X-A: b}}}}, {{paths: /a.css, set: {{Content-Type: text/plain}}}}]",
        files.path().display()
    );
    let proxy = Proxy::start(&site(&keys));
    let mut client = proxy.visit();
    for _ in 0..2 {
        for (target, expected) in [
            ("/a.css", Some("max-age=2592000")),
            ("/old/a.css", Some("no-cache")),
            ("/app.3f2a9c81.css", Some("max-age=31536000, immutable")),
            ("/", Some("max-age=300, immutable")),
            ("/photo.jpg", Some("max-age=2592000")),
            ("/a.bin", None),
        ] {
            for more in ["", "Accept-Encoding: gzip\r\n", "Range: bytes=0-3\r\n"] {
                let ask = |more: &str| format!("GET {target} HTTP/1.1\r\nHost: test\r\n{more}\r\n");
                let answer = client.ask(ask(more));
                answer.assert_whole();
                assert_eq!(answer.field("Cache-Control"), expected, "{target} {more}");
                assert_eq!(all(&answer, "X-A"), ["b"]);
                assert_eq!(all(&answer, "Content-Type").len(), 1);
                if target == "/a.css" {
                    assert_eq!(answer.field("Content-Type"), Some("text/plain"));
                }
                if more.is_empty() {
                    assert_eq!(answer.text(), text);
                }
                let tag = answer.field("ETag").unwrap();
                let again = client.ask(ask(&format!("{more}If-None-Match: {tag}\r\n")));
                assert_eq!(again.status, 304, "{target} {more}");
                assert_eq!(again.field("Cache-Control"), expected, "{target} {more}");
                assert_eq!(
                    (all(&again, "X-A"), again.field("Content-Type")),
                    (vec!["b"], None)
                );
            }
        }
    }
    drop(client);
    proxy.finish();
}

#[test]
fn named_files_and_compressed_responses() {
    let files = tempfile::tempdir().unwrap();
    fs::write(files.path().join("a.css"), "file").unwrap();
    let keys = format!(
        "sendfileroot: {}, docroot: /none/such, gzip: {{minimum: 0}}, expires: 5m, response_headers: {{set: {{X-A: b}}}}",
        files.path().display()
    );
    let proxy = Proxy::start(&site(&keys));
    let mut backend = Backend::dial(proxy.dial_in());
    let mut client = proxy.visit();
    for _ in 0..2 {
        client.send_get("/x");
        backend.request();
        backend.send("HTTP/1.1 200 OK\r\nX-Sendfile: a.css\r\nX-A: a\r\nCache-Control: private\r\nContent-Length: 0\r\n\r\n");
        let answer = client.answer();
        answer.assert_body("file");
        // How long its file may be kept is the application's decision.
        assert_eq!(all(&answer, "Cache-Control"), ["private"]);
        assert_eq!(all(&answer, "X-A"), ["b"]);
    }
    client.send("GET /x HTTP/1.1\r\nHost: test\r\nAccept-Encoding: gzip\r\n\r\n");
    backend.request();
    backend.send(
        "HTTP/1.1 200 OK\r\nContent-Type: text/css\r\nX-A: a\r\nContent-Length: 4\r\n\r\nbody",
    );
    let answer = client.answer();
    assert_eq!(all(&answer, "Content-Encoding"), ["gzip"]);
    assert_eq!(all(&answer, "X-A"), ["b"]);
    drop((client, backend));
    proxy.finish();
}

#[test]
fn cross_origin_requests() {
    let keys = "cors: {origins: ['https://a.example', 'http://localhost:5173'], paths: /api, credentials: true, expose: X-A}";
    let proxy = Proxy::start(&site(keys));
    let mut backend = Backend::dial(proxy.dial_in());
    let mut client = proxy.visit();
    let preflight = |target: &str, origin: &str| {
        format!(
            "OPTIONS {target} HTTP/1.1\r\nHost: test\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: PUT\r\n\
             Access-Control-Request-Headers: x-b\r\n\r\n"
        )
    };
    let answer = client.ask(preflight("/api/x", "https://a.example"));
    assert_eq!(answer.status, 204);
    assert_eq!(
        all(&answer, "Access-Control-Allow-Origin"),
        ["https://a.example"]
    );
    assert_eq!(all(&answer, "Access-Control-Allow-Credentials"), ["true"]);
    let methods = answer.field("Access-Control-Allow-Methods").unwrap();
    assert!(methods.contains("PUT"), "{methods}");
    assert_eq!(answer.field("Access-Control-Allow-Headers"), Some("x-b"));
    assert_eq!(answer.field("Access-Control-Max-Age"), Some("600"));
    assert!(all(&answer, "Vary").contains(&"Origin"));
    let answer = client.ask(preflight("/api", "https://b.example"));
    assert_eq!(answer.status, 204);
    assert_eq!(all(&answer, "Access-Control-Allow-Origin"), [""; 0]);
    assert_eq!(all(&answer, "Access-Control-Allow-Methods"), [""; 0]);
    // Other paths, and other OPTIONS requests, are the application's.
    for request in [
        preflight("/", "https://a.example"),
        "OPTIONS /api HTTP/1.1\r\nHost: test\r\n\r\n".into(),
    ] {
        client.send(request);
        backend.request();
        backend.reply_to(&mut client, "own");
    }
    for (origin, allowed) in [
        ("http://localhost:5173", true),
        ("https://evil.example", false),
    ] {
        client.send(format!(
            "GET /api HTTP/1.1\r\nHost: test\r\nOrigin: {origin}\r\n\r\n"
        ));
        backend.request();
        backend
            .send("HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 0\r\n\r\n");
        let answer = client.answer();
        let expected = if allowed { vec![origin] } else { vec![] };
        assert_eq!(all(&answer, "Access-Control-Allow-Origin"), expected);
        assert_eq!(
            answer.field("Access-Control-Expose-Headers"),
            allowed.then_some("X-A")
        );
        assert_eq!(all(&answer, "Vary"), ["Origin"]);
    }
    proxy.reload(&site("cors: '*'"));
    let answer = client.ask(preflight("/", "null"));
    assert_eq!(all(&answer, "Access-Control-Allow-Origin"), ["*"]);
    assert_eq!(answer.field("Access-Control-Allow-Credentials"), None);
    drop((client, backend));
    proxy.finish();
}
