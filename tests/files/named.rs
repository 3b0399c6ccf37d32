//! Files that a backend names in its response.

use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::{LARGE, folder, with_backends};
use crate::common::{Backend, Proxy, bytes, exchange};

/// A site whose backends may name files in `private`, beside its docroot.
fn naming(keys: &str) -> (TempDir, Proxy) {
    let folder = folder(&[("public.txt", b"public")]);
    let private = folder.path().join("private");
    fs::create_dir_all(private.join("sub")).unwrap();
    fs::write(private.join("a b.txt"), "private").unwrap();
    fs::write(private.join("sub/large.bin"), bytes(LARGE)).unwrap();
    fs::write(folder.path().join("secret"), "secret").unwrap();
    let keys = format!(", sendfileroot: {}{keys}", private.display());
    let proxy = Proxy::start(&with_backends(&folder, &keys));
    (folder, proxy)
}

#[test]
fn backend_is_free() {
    let (folder, proxy) = naming("");
    let mut backend = Backend::dial(proxy.dial_in());
    let mut visitor = proxy.visit();
    let whole = folder.path().join("private/a b.txt");
    for field in [
        "X-Sendfile: /a b.txt".to_owned(),
        "x-sendfile: a b.txt".to_owned(),
        "X-Accel-Redirect: /a%20b.txt?x=y".to_owned(),
        format!("X-Sendfile: {}", whole.display()),
    ] {
        visitor.send_get("/download");
        assert_eq!(backend.request().target(), "/download");
        backend.send(format!(
            "HTTP/1.1 203 Fine\r\nContent-Type: text/x-own\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
             Content-Disposition: attachment\r\nVary: Cookie\r\nX-Other: x\r\nLast-Modified: never\r\nContent-MD5: x\r\n\
             Location: /\r\nContent-Length: 5\r\n{field}\r\n\r\nhello"
        ));
        let answer = visitor.answer();
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "private"),
            "{field}"
        );
        assert_eq!(answer.field("Content-Type"), Some("text/x-own"));
        assert_eq!(answer.field("Content-Disposition"), Some("attachment"));
        assert_eq!(answer.field("Vary"), Some("Cookie"));
        assert_eq!(answer.head.matches("Set-Cookie").count(), 2);
        assert_eq!(answer.field("X-Other"), Some("x"));
        for gone in ["X-Sendfile", "X-Accel-Redirect", "Content-MD5", "Location"] {
            assert_eq!(answer.field(gone), None);
        }
        for own in ["Last-Modified", "Content-Type", "Content-Length"] {
            assert_eq!(answer.head.matches(own).count(), 1, "{own}");
        }
        assert_ne!(answer.field("Last-Modified"), Some("never"));
        // The field is for the proxy only, so the client never gets it.
        exchange(&mut visitor, &mut backend, "/a%20b.txt");
    }
    // HEAD, ranges and conditions are the file's.
    let named = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Sendfile: a b.txt\r\n\r\n";
    visitor.send("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n");
    backend.request();
    backend.send("HTTP/1.1 200 OK\r\nX-Sendfile: a b.txt\r\n\r\n");
    assert_eq!(visitor.answer_to("HEAD").field("Content-Length"), Some("7"));
    visitor.send("GET / HTTP/1.1\r\nHost: test\r\nRange: bytes=1-2\r\n\r\n");
    backend.request();
    backend.send(named);
    let part = visitor.answer();
    assert_eq!((part.status, part.text().as_str()), (206, "ri"));
    visitor.send("GET / HTTP/1.1\r\nHost: test\r\nIf-None-Match: *\r\n\r\n");
    backend.request();
    backend.send(named);
    assert_eq!(visitor.answer().status, 304);
    // The backend does something else while a slow client takes the file.
    visitor.send_get("/large");
    backend.request();
    backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Sendfile: sub/large.bin\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    let mut other = proxy.ask("/other");
    assert_eq!(backend.request().target(), "/other");
    backend.reply_to(&mut other, "other");
    visitor.answer().assert_body(bytes(LARGE));
    drop((visitor, other, backend));
    proxy.finish();
}

#[test]
fn fields() {
    const FIELDS: [(&str, &str); 10] = [
        ("Content-Encoding", "gzip"),
        ("Content-Language", "de"),
        ("Content-Disposition", "inline"),
        ("Cache-Control", "private"),
        ("Expires", "0"),
        ("Vary", "Accept-Encoding"),
        ("Content-Security-Policy", "default-src 'none'"),
        ("X-Content-Type-Options", "nosniff"),
        ("Strict-Transport-Security", "max-age=1"),
        ("Access-Control-Allow-Origin", "*"),
    ];
    for keys in ["", ", gzip: true"] {
        let (folder, proxy) = naming(keys);
        let mut backend = Backend::dial(proxy.dial_in());
        let mut visitor = proxy.visit();
        let fields: String = FIELDS
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let named = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/javascript\r\n{fields}Content-Length: 0\r\nX-Sendfile: a b.txt\r\n\r\n"
        );
        for (method, more, status) in [
            ("GET", "Accept-Encoding: gzip", 200),
            ("HEAD", "Accept-Encoding: gzip", 200),
            ("GET", "Range: bytes=1-2", 206),
            ("GET", "If-None-Match: *", 304),
        ] {
            visitor.send(format!(
                "{method} / HTTP/1.1\r\nHost: test\r\n{more}\r\n\r\n"
            ));
            backend.request();
            backend.send(match method {
                "HEAD" => named.replace("Content-Length: 0\r\n", ""),
                _ => named.clone(),
            });
            let answer = visitor.answer_to(method);
            assert_eq!(answer.status, status);
            for (name, value) in FIELDS {
                let is_left_out = status == 304
                    && [
                        "Content-Encoding",
                        "Content-Language",
                        "Content-Disposition",
                    ]
                    .contains(&name);
                let expected = (!is_left_out).then_some(value);
                assert_eq!(answer.field(name), expected, "{keys} {method} {status}");
            }
        }
        drop((visitor, backend, folder));
        proxy.finish();
    }
}

#[test]
fn refused() {
    for (keys, status, text) in [
        ("", 200, "hello"),
        (
            ", enable_sendfile_404: true",
            404,
            "404 Not Found\nThere is no such file here.\n",
        ),
    ] {
        let (folder, proxy) = naming(keys);
        symlink("../secret", folder.path().join("private/link")).unwrap();
        let mut backend = Backend::dial(proxy.dial_in());
        let mut visitor = proxy.visit();
        for name in [
            "../secret",
            "/../secret",
            "sub/../../secret",
            "link",
            "/etc/passwd",
            "sub",
            "",
            "nothing",
            "public.txt",
            "a%20b.txt",
        ] {
            visitor.send_get("/");
            backend.request();
            backend.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Sendfile: {name}\r\n\r\nhello"
            ));
            let answer = visitor.answer();
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (status, text),
                "{name}"
            );
            assert_eq!(answer.field("X-Sendfile"), None);
        }
        // For another method the field has no effect, and is still removed.
        visitor.send("POST / HTTP/1.1\r\nHost: test\r\nX-Sendfile: x\r\nX-Accel-Mapping: /=/\r\nX-Sendfile-Type: X\r\n\r\n");
        let seen = backend.request();
        for field in ["X-Sendfile", "X-Accel-Mapping", "X-Sendfile-Type"] {
            assert_eq!(seen.field(field), None);
        }
        backend.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Sendfile: a b.txt\r\n\r\nhello");
        let answer = visitor.answer();
        assert_eq!(
            (answer.text().as_str(), answer.field("X-Sendfile")),
            ("hello", None)
        );
        drop((visitor, backend));
        proxy.finish();
    }
}
