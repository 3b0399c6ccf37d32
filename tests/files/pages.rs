//! Pages of single-page applications, paths without `.html`, lists of directories, and own pages for errors of backends.

use std::fs;
use std::os::unix::fs::symlink;

use super::{folder, site, with_backends};
use crate::common::{Backend, Proxy, assert_contains, assert_lacks};

/// A request of a browser for a page.
fn page(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: test\r\nAccept: text/html,*/*;q=0.8\r\n\r\n")
}

#[test]
fn fallback_without_application() {
    let folder = folder(&[("index.html", b"app"), ("a.js", b"js"), ("deep/x", b"x")]);
    let keys = ", fallback: /index.html, hsts: false, basic_auth: false";
    let proxy = Proxy::start(&site(&folder, keys));
    let mut client = proxy.visit();
    for _ in 0..3 {
        for target in ["/", "/users/7?tab=1", "/deep/", "/deep/gone", "/index.html"] {
            let answer = client.get(target);
            assert_eq!(
                (answer.status, answer.text()),
                (200, "app".into()),
                "{target}"
            );
            let kind = answer.field("Content-Type");
            assert_eq!(kind, Some("text/html; charset=utf-8"), "{target}");
        }
        assert_eq!(client.get("/a.js").text(), "js");
        // A missing script is no page, but a page may have a dot in its name.
        assert_eq!(client.get("/b.js").status, 404);
        assert_eq!(client.ask(page("/users/j.doe")).text(), "app");
        let post = client.ask("POST /x HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(post.status, 405);
    }
    let tag = client.get("/x").field("ETag").unwrap().to_owned();
    let again = format!("GET /y HTTP/1.1\r\nHost: test\r\nIf-None-Match: {tag}\r\n\r\n");
    assert_eq!(client.ask(again).status, 304);
    let head = client.send("HEAD /x HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(head.answer_to("HEAD").field("Content-Length"), Some("3"));
    proxy.reload(&site(&folder, ""));
    assert_eq!(client.get("/x").status, 404);
    drop(client);
    proxy.finish_without_leak_check();
}

#[test]
fn fallback_before_and_after_an_application() {
    let folder = folder(&[("index.html", b"app")]);
    let api = ", outgoing: {to: '127.0.0.1:0', prefix: /api}, timeout: 60, fallback: /index.html";
    let proxy = Proxy::start(&site(&folder, api));
    let mut backend = Backend::dial(proxy.dial_in());
    let mut client = proxy.visit();
    // No backend is for the path: nothing is asked.
    assert_eq!(client.get("/x").text(), "app");
    let answer = |backend: &mut Backend, status: &str| {
        backend.request();
        backend.send(format!(
            "HTTP/1.1 {status}\r\nSet-Cookie: a=b\r\nContent-Length: 4\r\n\r\nown!"
        ));
    };
    client.send_get("/api/x");
    answer(&mut backend, "200 OK");
    assert_eq!(client.answer().text(), "own!");
    client.send_get("/api/x");
    answer(&mut backend, "404 Not Found");
    let found = client.answer();
    assert_eq!((found.status, found.text()), (200, "app".into()));
    // Not for what is no page, nor for other statuses or methods.
    client.send_get("/api/x.json");
    answer(&mut backend, "404 Not Found");
    assert_eq!(client.answer().status, 404);
    client.send_get("/api/x");
    answer(&mut backend, "410 Gone");
    assert_eq!(client.answer().status, 410);
    client.send("DELETE /api/x HTTP/1.1\r\nHost: test\r\n\r\n");
    answer(&mut backend, "404 Not Found");
    assert_eq!(client.answer().text(), "own!");
    drop((client, backend));
    proxy.finish_without_leak_check();
}

#[test]
fn paths_without_html() {
    let folder = folder(&[
        ("about.html", b"about"),
        ("both", b"file"),
        ("both.html", b"page"),
        ("docs/a.html", b"docs"),
        ("docs.html", b"all docs"),
        (".hidden.html", b"hidden"),
    ]);
    let users = folder.path().join("users");
    fs::write(
        &users,
        "a:$2y$05$abcdefghijklmnopqrstuuK8NJoMOdIsRRUJPnoPPzqFBvGSYKJ0m\n",
    )
    .unwrap();
    let keys = format!(
        ", clean_urls: true, basic_auth: {{users_file: {}, paths: /docs/a.html}}",
        users.display()
    );
    let proxy = Proxy::start(&site(&folder, &keys));
    let mut client = proxy.visit();
    for _ in 0..3 {
        for (target, text) in [
            ("/about", "about"),
            ("/about.html", "about"),
            ("/both", "file"),
            ("/docs", "all docs"),
        ] {
            let answer = client.get(target);
            assert_eq!(
                (answer.status, answer.text()),
                (200, text.into()),
                "{target}"
            );
        }
        let kind = client.get("/about");
        assert_eq!(kind.field("Content-Type"), Some("text/html; charset=utf-8"));
        for target in ["/about/", "/gone", "/.hidden"] {
            assert_eq!(client.get(target).status, 404, "{target}");
        }
        // The rule for the file is one for its other name.
        assert_eq!(client.get("/docs/a").status, 401);
    }
    proxy.reload(&site(&folder, ""));
    assert_eq!(client.get("/about").status, 404);
    drop(client);
    proxy.finish_without_leak_check();
}

#[test]
fn lists_of_directories() {
    let folder = folder(&[
        ("pub/b & c.txt", b"1234567"),
        ("pub/sub/x", b""),
        ("pub/.secret", b""),
        ("pub/script.php", b""),
        ("pub/<i>", b""),
        ("with/index.html", b"index"),
        ("masked.php/x", b""),
        ("outside", b""),
    ]);
    let www = folder.path().join("www");
    symlink("/etc/passwd", www.join("pub/link")).unwrap();
    symlink("../outside", www.join("pub/inside")).unwrap();
    let proxy = Proxy::start(&site(&folder, ", autoindex: true, staticmask: '[.]php'"));
    let mut client = proxy.visit();
    for _ in 0..3 {
        let answer = client.get("/pub/");
        let text = answer.text();
        assert_eq!(answer.status, 200, "{text}");
        for part in [
            "<a href=\"../\">",
            "<a href=\"b%20%26%20c.txt\">b &amp; c.txt</a>",
            "<td>7</td>",
            "<a href=\"sub/\">sub/</a>",
            "&lt;i&gt;",
            "inside",
        ] {
            assert_contains(&text, part);
        }
        for part in ["secret", "script", "link", "<i>"] {
            assert_lacks(&text, part);
        }
        assert!(
            text.find("sub/").unwrap() < text.find("b &amp;").unwrap(),
            "{text}"
        );
        assert!(answer.field("Content-Security-Policy").is_some());
        let moved = client.get("/pub?x");
        assert_eq!(
            (moved.status, moved.field("Location")),
            (301, Some("/pub/?x"))
        );
        assert_eq!(client.get("/with/").text(), "index");
        assert_eq!(client.get("/pub/b%20%26%20c.txt").text(), "1234567");
        for target in ["/gone/", "/masked.php/", "/pub/../pub/", "/.well-known/"] {
            assert_eq!(client.get(target).status, 404, "{target}");
        }
        assert_contains(&client.get("/").text(), "<a href=\"pub/\">");
        assert_lacks(&client.get("/").text(), "../");
    }
    fs::write(www.join("pub/new"), "").unwrap();
    assert_contains(&client.get("/pub/").text(), ">new<");
    proxy.reload(&site(&folder, ""));
    assert_eq!(client.get("/pub/").status, 404);
    drop(client);
    proxy.finish_without_leak_check();
}

#[test]
fn pages_for_errors_of_backends() {
    let folder = folder(&[("a", b"")]);
    fs::write(folder.path().join("404.html"), "<p>own</p>").unwrap();
    let errors = format!(
        ", error_pages: {{404: {}}}",
        folder.path().join("404.html").display()
    );
    let yaml = with_backends(&folder, &format!("{errors}, intercept_errors: true"));
    let proxy = Proxy::start(&yaml);
    let mut backend = Backend::dial(proxy.dial_in());
    let mut client = proxy.visit();
    let mut ask = |backend: &mut Backend, status: &str| {
        client.send_get("/x");
        backend.request();
        backend.send(format!(
            "HTTP/1.1 {status}\r\nSet-Cookie: a=b\r\nX-Debug: trace\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\ntext"
        ));
        client.answer()
    };
    let answer = ask(&mut backend, "404 Not Found");
    assert_eq!((answer.status, answer.text()), (404, "<p>own</p>".into()));
    assert_eq!(
        answer.field("Content-Type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(answer.field("Set-Cookie"), Some("a=b"));
    assert_eq!(answer.field("X-Debug"), None);
    for status in ["200 OK", "500 Internal Server Error"] {
        assert_eq!(ask(&mut backend, status).text(), "text", "{status}");
    }
    proxy.reload(&with_backends(&folder, &errors));
    assert_eq!(ask(&mut backend, "404 Not Found").text(), "text");
    drop((client, backend));
    proxy.finish_without_leak_check();
}
