//! Which file answers a request.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, thread};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::{folder, site, with_backends};
use crate::common::{Echo, Proxy, bytes, settle, wait_until};

#[test]
fn file_or_backend() {
    let page = "<h1>h\u{e4}llo</h1>".as_bytes();
    let folder = folder(&[
        ("index.html", b"home"),
        ("a.html", page),
        ("b c.bin", b"\0\x01"),
        ("empty.css", b""),
    ]);
    let proxy = Proxy::start(&with_backends(&folder, ""));
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    let mut visitor = proxy.visit();
    for _ in 0..3 {
        let answer = visitor.get("/a.html?query");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body, page);
        let field = |name| answer.field(name).unwrap_or_default().to_owned();
        assert_eq!(field("Content-Type"), "text/html; charset=utf-8");
        assert_eq!(field("Accept-Ranges"), "bytes");
        let about = fs::metadata(folder.path().join("www/a.html")).unwrap();
        let seconds = std::os::unix::fs::MetadataExt::mtime(&about);
        let tag = format!("\"{seconds:x}-{:x}-", page.len());
        let sent = field("ETag");
        assert!(sent.trim_start_matches("W/").starts_with(&tag), "{sent}");
        let modified = httpdate::fmt_http_date(about.modified().unwrap());
        assert_eq!(field("Last-Modified"), modified);
        assert!(!field("Date").is_empty(), "the Date field is empty");
        assert_eq!(answer.field("Connection"), None);
        assert_eq!(visitor.get("/").text(), "home");
        let answer = visitor.get("/b%20c.bin");
        assert_eq!(answer.body, b"\0\x01");
        let kind = answer.field("Content-Type");
        assert_eq!(kind, Some("application/octet-stream"));
        let answer = visitor.get("//empty.css");
        assert_eq!(answer.field("Content-Length"), Some("0"));
        assert_eq!(answer.status, 200);
        for target in ["/nothing", "/a.html/", "/a.html/x", "/b+c.bin"] {
            assert_eq!(visitor.get(target).text(), target);
        }
        let head = visitor.send("HEAD /a.html HTTP/1.1\r\nHost: test\r\n\r\n");
        let answer = head.answer_to("HEAD");
        let length = page.len().to_string();
        assert_eq!(answer.field("Content-Length"), Some(&*length));
        let post = visitor.ask("POST /a.html HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(post.text(), "/a.html");
    }
    let old = visitor.ask("GET /a.html HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(old.field("Connection"), Some("keep-alive"));
    let last = visitor.ask("GET /a.html HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    assert_eq!(last.field("Connection"), Some("close"));
    visitor.assert_closed();
    drop(echo);
    proxy.finish();
}

#[test]
fn files_only() {
    let folder = folder(&[("sub/index.html", b"sub"), ("plain/a", b"A")]);
    let proxy = Proxy::start(&site(&folder, ""));
    assert_eq!(proxy.dial_ins(), []);
    let mut visitor = proxy.visit();
    let answer = visitor.get("/nothing");
    assert_eq!(answer.status, 404);
    assert_eq!(answer.field("Connection"), None);
    let moved = visitor.get("/sub?a=/b");
    assert_eq!(moved.status, 301);
    assert_eq!(moved.field("Location"), Some("/sub/?a=/b"));
    assert_eq!(visitor.get("//sub").field("Location"), Some("/sub/"));
    assert_eq!(visitor.get("/sub/").text(), "sub");
    assert_eq!(visitor.get("/plain").status, 404, "nothing stands for it");
    assert_eq!(visitor.get("/").status, 404);
    let post = visitor.ask("POST /sub/ HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx");
    assert_eq!(post.status, 405);
    assert_eq!(post.field("Allow"), Some("GET, HEAD"));
    drop(visitor);
    proxy.finish();
}

#[test]
fn settings() {
    let folder = folder(&[
        ("index.html", b"html"),
        ("home.htm", b"htm"),
        (".hidden", b"hidden"),
        ("private/a.txt", b"private"),
        ("a.rb", b"source"),
        ("a.txt", b"text"),
    ]);
    fs::write(folder.path().join("secret"), "secret").unwrap();
    let www = folder.path().join("www");
    symlink("../secret", www.join("out")).unwrap();
    symlink("a.txt", www.join("in")).unwrap();
    let check = |keys: &str, expected: [&str; 7]| {
        let proxy = Proxy::start(&site(&folder, keys));
        let mut visitor = proxy.visit();
        let targets = [
            "/",
            "/.hidden",
            "/private/a.txt",
            "/a.rb",
            "/a.txt",
            "/out",
            "/in",
        ];
        let mut ask = |target| {
            let answer = visitor.get(target);
            match answer.status {
                200 => answer.text(),
                404 => String::new(),
                other => panic!("{other} {target}"),
            }
        };
        // Also when it is known.
        for _ in 0..3 {
            let found = targets.map(&mut ask);
            assert_eq!(found.each_ref().map(String::as_str), expected, "{keys}");
        }
        drop(visitor);
        proxy.finish();
    };
    check("", ["html", "", "private", "source", "text", "", "text"]);
    check(
        ", index: [home.htm, index.html], hidden_files: true",
        ["htm", "hidden", "private", "source", "text", "", "text"],
    );
    check(
        ", index: [], staticmask: '\\.rb$|/private/', follow_symlinks: true",
        ["", "", "", "", "text", "secret", "text"],
    );
    check(
        ", index: none.html, follow_symlinks: false, file_cache: {size: 0}",
        ["", "", "private", "source", "text", "", ""],
    );
}

#[test]
fn outside_the_root() {
    let folder = folder(&[("sub/a.txt", b"text"), ("x", b"x")]);
    let base = folder.path();
    fs::write(base.join("secret"), "secret").unwrap();
    fs::create_dir(base.join("www-secret")).unwrap();
    fs::write(base.join("www-secret/secret"), "secret").unwrap();
    symlink("../secret", base.join("www/link")).unwrap();
    symlink("..", base.join("www/up")).unwrap();
    symlink("/", base.join("www/root")).unwrap();
    mkfifo(&base.join("www/pipe"), Mode::S_IRWXU).unwrap();
    let proxy = Proxy::start(&site(&folder, ", hidden_files: true"));
    let mut visitor = proxy.visit();
    let whole = base.join("secret");
    let encoded = format!("/{}", whole.to_str().unwrap().replace('/', "%2f"));
    let targets = [
        "/../secret",
        "/sub/../../secret",
        "/sub/../sub/a.txt",
        "/./x",
        "/sub/..",
        "/..",
        "/%2e%2e/secret",
        "/%2E%2E%2Fsecret",
        "/..%2fsecret",
        "/sub%2f..%2f..%2fsecret",
        "/%252e%252e/secret",
        "/%252e%252e%252fsecret",
        "/%25%32%65%25%32%65/secret",
        "/..%5csecret",
        "/..\\secret",
        "/sub\\..\\..\\secret",
        "/%c0%ae%c0%ae/secret",
        "/%c0%ae%c0%ae%c0%afsecret",
        "/%e0%80%ae%e0%80%ae/secret",
        "/%f0%80%80%ae%f0%80%80%ae/secret",
        "/..%c0%afsecret",
        "/%uff0e%uff0e/secret",
        "/..;/secret",
        "/...//secret",
        "/....//....//secret",
        "/../www-secret/secret",
        "/-secret/secret",
        "/%00",
        "/x%00",
        "/x%00.html",
        "/../secret%00x",
        "/link",
        "/up/secret",
        "/up/www-secret/secret",
        "/root/etc/passwd",
        "/pipe",
        "//etc/passwd",
        "///etc/passwd",
        "/%2fetc%2fpasswd",
        "/%2f%2fetc%2fpasswd",
        "/file:///etc/passwd",
        "/proc/self/environ",
        "/x/",
        "/x/../x",
        "/x%20",
        "/x.",
        "/x::$DATA",
        "/X",
        "http://test/../secret",
        "http://test/%2e%2e/secret",
        whole.to_str().unwrap(),
        &encoded,
    ];
    for target in targets {
        let answer = visitor.get(target);
        assert_eq!(answer.status, 404, "{target}: {answer:?}");
        assert!(!answer.text().contains("secret"), "{target}");
    }
    assert_eq!(visitor.get("/x").text(), "x");
    assert_eq!(visitor.get("/sub//a.txt").text(), "text");
    drop(visitor);
    proxy.finish();
}

#[test]
fn swapped_link() {
    let folder = folder(&[("dir/file", b"inside")]);
    let base = folder.path();
    fs::create_dir(base.join("outside")).unwrap();
    fs::write(base.join("outside/file"), "secret").unwrap();
    symlink("../outside", base.join("www/link")).unwrap();
    // Nothing is remembered, so that each request meets the file system as it is.
    let none = "{size: 0}";
    let proxy = Proxy::start(&site(
        &folder,
        &format!(", file_cache: {none}, etag_cache: {none}, dynamic_request_cache: {none}"),
    ));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (www, done) = (base.join("www"), &done);
        let swapper = scope.spawn(move || {
            let mut turns = 0;
            while !done.load(Ordering::Relaxed) {
                // Both have the same name by turns.
                fs::rename(www.join("dir"), www.join("away")).unwrap();
                fs::rename(www.join("link"), www.join("dir")).unwrap();
                fs::rename(www.join("dir"), www.join("link")).unwrap();
                fs::rename(www.join("away"), www.join("dir")).unwrap();
                turns += 1;
            }
            turns
        });
        let mut seen = [0; 2];
        let mut visitor = proxy.visit();
        wait_until("both results, often enough", || {
            let answer = visitor.get("/dir/file");
            match answer.status {
                200 => assert_eq!(answer.text(), "inside"),
                404 => {}
                other => panic!("{other}"),
            }
            seen[usize::from(answer.status == 200)] += 1;
            seen[0] >= 100 && seen[1] >= 20
        });
        done.store(true, Ordering::Relaxed);
        assert!(
            swapper.join().unwrap() > 10,
            "the file was swapped too rarely to show anything"
        );
    });
    proxy.finish();
}

#[test]
fn conditions_and_ranges() {
    let content = bytes(200_000);
    let folder = folder(&[("small.txt", b"0123456789"), ("large.bin", &content)]);
    settle(folder.path());
    let proxy = Proxy::start(&site(&folder, ""));
    let mut visitor = proxy.visit();
    let mut ask = |target: &str, fields: &str| {
        visitor.ask(format!(
            "GET {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n"
        ))
    };
    for target in ["/small.txt", "/large.bin"] {
        let whole = ask(target, "");
        let tag = whole.field("ETag").unwrap();
        let date = whole.field("Last-Modified").unwrap();
        let bare = tag.trim_matches('"');
        for fields in [
            format!("If-None-Match: {tag}\r\n"),
            format!("If-None-Match: \"x\", W/{tag}\r\n"),
            format!("If-None-Match: {bare}\r\n"),
            "If-None-Match: *\r\n".to_owned(),
            format!("If-Modified-Since: {date}\r\n"),
        ] {
            let answer = ask(target, &fields);
            assert_eq!(answer.status, 304, "{fields}");
            assert_eq!(answer.field("ETag"), Some(tag));
            assert_eq!(answer.field("Content-Length"), None);
            assert_eq!(answer.field("Content-Type"), None);
        }
        for (fields, status) in [
            ("If-None-Match: \"x\"\r\n".to_owned(), 200),
            ("If-Match: \"x\"\r\n".to_owned(), 412),
            (format!("If-Match: {tag}\r\n"), 200),
            (
                "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n".to_owned(),
                412,
            ),
            ("Range: bytes=x\r\n".to_owned(), 200),
            ("Range: bytes=0-0\r\nIf-Range: \"x\"\r\n".to_owned(), 200),
            (format!("Range: bytes=0-0\r\nIf-Range: {tag}\r\n"), 206),
            ("Range: bytes=999999-\r\n".to_owned(), 416),
        ] {
            assert_eq!(ask(target, &fields).status, status, "{fields}");
        }
        let length = whole.body.len();
        let none = ask(target, "Range: bytes=999999-\r\n");
        let range = format!("bytes */{length}");
        assert_eq!(none.field("Content-Range"), Some(&*range));
        for (spec, start, end) in [
            ("0-0", 0, 1),
            ("3-7", 3, 8),
            ("5-", 5, length),
            ("-4", length - 4, length),
        ] {
            let part = ask(target, &format!("Range: bytes={spec}\r\n"));
            assert_eq!(part.status, 206);
            assert_eq!(part.body, whole.body[start..end], "{spec}");
            let range = format!("bytes {start}-{}/{length}", end - 1);
            assert_eq!(part.field("Content-Range"), Some(&*range));
            assert_eq!(part.field("ETag"), Some(tag));
        }
        let parts = ask(target, "Range: bytes=0-1, 4-5,-2\r\n");
        assert_eq!(parts.status, 206);
        let kind = parts.field("Content-Type").unwrap();
        let boundary = kind
            .strip_prefix("multipart/byteranges; boundary=")
            .unwrap();
        let own = whole.field("Content-Type").unwrap();
        let mut expected = Vec::new();
        for (start, end) in [(0, 2), (4, 6), (length - 2, length)] {
            let line = if expected.is_empty() { "" } else { "\r\n" };
            write!(
                expected,
                "{line}--{boundary}\r\nContent-Type: {own}\r\nContent-Range: bytes {start}-{}/{length}\r\n\r\n",
                end - 1
            )
            .unwrap();
            expected.extend_from_slice(&whole.body[start..end]);
        }
        write!(expected, "\r\n--{boundary}--\r\n").unwrap();
        assert_eq!(parts.body, expected);
        let head = "HEAD /small.txt HTTP/1.1\r\nHost: test\r\nRange: bytes=0-0\r\n\r\n";
        let answer = proxy.visit().send(head).answer_to("HEAD");
        assert_eq!(answer.status, 200, "ranges are for GET");
    }
    drop(visitor);
    proxy.finish();
}

#[test]
fn weak_tag() {
    let folder = folder(&[("a.txt", b"0")]);
    let proxy = Proxy::start(&site(&folder, ""));
    let mut visitor = proxy.visit();
    let mut ask =
        |fields: &str| visitor.ask(format!("GET /a.txt HTTP/1.1\r\nHost: test\r\n{fields}\r\n"));
    // Two versions within a second have the same size and time, and their parts must not be combined.
    let mut tag = String::new();
    wait_until("a weak tag, soon after a change", || {
        fs::write(folder.path().join("www/a.txt"), "1").unwrap();
        tag = ask("").field("ETag").unwrap().to_owned();
        tag.starts_with("W/\"")
    });
    assert_eq!(ask(&format!("If-None-Match: {tag}\r\n")).status, 304);
    let part = format!("Range: bytes=0-0\r\nIf-Range: {tag}\r\n");
    assert_eq!(ask(&part).status, 200);
    // While the tag is weak, the date does not distinguish them either.
    let date = ask("").field("Last-Modified").unwrap().to_owned();
    let dated = format!("Range: bytes=0-0\r\nIf-Range: {date}\r\n");
    let answer = ask(&dated);
    let is_weak = answer.field("ETag").unwrap().starts_with("W/");
    assert_eq!(answer.status, if is_weak { 200 } else { 206 });
    settle(folder.path());
    let strong = ask("").field("ETag").unwrap().to_owned();
    assert_eq!(format!("W/{strong}"), tag);
    let part = format!("Range: bytes=0-0\r\nIf-Range: {strong}\r\n");
    assert_eq!(ask(&part).status, 206);
    assert_eq!(ask(&dated).status, 206);
    drop(visitor);
    proxy.finish();
}

#[test]
fn page_cache() {
    let folder = folder(&[
        ("both", b"root"),
        ("public/both", b"cached"),
        ("public/both.html", b"html"),
        ("public/posts/7.html", b"seven"),
        ("public/posts/7.xml", b"<xml/>"),
        ("public/only.xml", b"<only/>"),
        ("public/index.html", b"home"),
        ("other.html", b"other"),
    ]);
    let proxy = Proxy::start(&with_backends(&folder, ", cache_extensions: [html, xml]"));
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    let mut visitor = proxy.visit();
    for (target, expected, kind) in [
        ("/both", "root", "application/octet-stream"),
        ("/posts/7", "seven", "text/html; charset=utf-8"),
        ("/posts/7?page=1", "seven", "text/html; charset=utf-8"),
        ("/posts/7.xml", "<xml/>", "text/xml; charset=utf-8"),
        ("/only", "<only/>", "text/xml; charset=utf-8"),
        ("/", "home", "text/html; charset=utf-8"),
    ] {
        let answer = visitor.get(target);
        assert_eq!(answer.text(), expected, "{target}");
        assert_eq!(answer.field("Content-Type"), Some(kind), "{target}");
    }
    // Extensions are not tried in the root, nor without a name; what is a directory is still the application's.
    for target in ["/other", "/posts", "/posts/", "/posts/8"] {
        assert_eq!(visitor.get(target).text(), target);
    }
    // Pages have the paths at which they stand for the application's, and no others.
    for target in [
        "/public",
        "/public/",
        "/public/both",
        "//public//both.html",
        "/%70ublic/posts/7.html",
        "/publicity",
    ] {
        assert_eq!(visitor.get(target).text(), target);
    }
    fs::write(folder.path().join("www/public/posts/8.html"), "eight").unwrap();
    assert_eq!(visitor.get("/posts/8").text(), "eight");
    drop((visitor, echo));
    proxy.finish();
}

#[test]
fn passwords() {
    let folder = folder(&[("private/a.txt", b"private"), ("b.txt", b"public")]);
    let users = folder.path().join("users");
    fs::write(&users, "").unwrap();
    let proxy = Proxy::start(&site(
        &folder,
        &format!(
            ", basic_auth: {{realm: x, users_file: {}, paths: /private}}",
            users.display()
        ),
    ));
    let mut visitor = proxy.visit();
    assert_eq!(visitor.get("/b.txt").text(), "public");
    for target in [
        "/private/a.txt",
        "//private/a.txt",
        "/private//a.txt",
        "/%70rivate/a.txt",
        "/private%2fa.txt",
        "/%2f/private/a.txt",
    ] {
        assert_eq!(visitor.get(target).status, 401, "{target}");
    }
    drop(visitor);
    proxy.finish();
}
