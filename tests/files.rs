//! Files: those of a docroot, the page cache, and those that a backend names.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use crate::common::{
    Backend, Echo, Proxy, Visitor, bytes, exchange, needs, secure, settle, wait_until,
};

/// More than the buffers of the system take on both sides.
const LARGE: usize = 24 << 20;

/// What is known of a path is trusted for longer than any test takes.
const LONG: &str =
    "file_cache: {window: 60m}, etag_cache: {window: 60m}, dynamic_request_cache: {window: 60m}";

/// A folder with `www`, which has these files in it.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join("www").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

/// A site that has `www` of a folder and no backends, with more keys.
fn site(folder: &TempDir, keys: &str) -> String {
    let www = folder.path().join("www");
    format!(
        "map: [{{incoming: test, default: true, docroot: {}{keys}}}]",
        www.display()
    )
}

/// The same with backends.
fn with_backends(folder: &TempDir, keys: &str) -> String {
    site(
        folder,
        &format!(", outgoing: '127.0.0.1:0', timeout: 60{keys}"),
    )
}

#[test]
fn a_file_is_served_and_everything_else_is_the_backends() {
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
fn a_site_of_files_alone() {
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
fn index_mask_links_and_hidden_files_are_settings() {
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
fn what_is_no_file_below_the_root_is_refused_however_it_is_written() {
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
fn a_link_that_comes_and_goes_leads_nowhere() {
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
        wait_until("both were seen often", || {
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
fn a_file_that_was_just_changed_has_a_weak_tag() {
    let folder = folder(&[("a.txt", b"0")]);
    let proxy = Proxy::start(&site(&folder, ""));
    let mut visitor = proxy.visit();
    let mut ask =
        |fields: &str| visitor.ask(format!("GET /a.txt HTTP/1.1\r\nHost: test\r\n{fields}\r\n"));
    // Two versions within a second have the same size and time, and must not be put together.
    let mut tag = String::new();
    wait_until("a tag that was asked for soon after the change", || {
        fs::write(folder.path().join("www/a.txt"), "1").unwrap();
        tag = ask("").field("ETag").unwrap().to_owned();
        tag.starts_with("W/\"")
    });
    assert_eq!(ask(&format!("If-None-Match: {tag}\r\n")).status, 304);
    let part = format!("Range: bytes=0-0\r\nIf-Range: {tag}\r\n");
    assert_eq!(ask(&part).status, 200);
    // Nor does the date tell them apart as long as the tag does not.
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

/// A large file beside a small one, served at two addresses, the second one with TLS, by two workers.
fn large(lines: &str) -> (TempDir, Proxy, Vec<u8>) {
    let content = bytes(LARGE);
    let folder = folder(&[("large.bin", &content), ("small.txt", b"small")]);
    let (certfile, keyfile) = secure::certificate(folder.path(), "test", &["test"]);
    let pair = secure::pair(&certfile, &keyfile);
    let proxy = Proxy::start(&format!(
        "workers: 2\nssl: {{at: '127.0.0.2:0', {pair}}}\n{lines}\n{}",
        site(&folder, "")
    ));
    (folder, proxy, content)
}

#[test]
fn visitors_that_do_not_take_a_large_file_hold_no_worker() {
    needs!("openssl");
    for secure in [false, true] {
        let (_folder, proxy, content) = large("limits: {spool: 0, body_memory: 0}");
        let mut slow: Vec<_> = (0..6).map(|_| proxy.visit_as(secure)).collect();
        for visitor in &mut slow {
            visitor.send_get("/large.bin");
            visitor.at_least(1000);
        }
        for _ in 0..20 {
            assert_eq!(proxy.visit().get("/small.txt").text(), "small");
        }
        // Each takes a part by turns, so that they are parked in the middle more than once.
        for part in 1..=4 {
            for visitor in &mut slow {
                visitor.at_least(LARGE / 4 * part);
            }
        }
        for mut visitor in slow {
            let answer = visitor.answer();
            assert!(answer.body == content && !answer.cut, "{secure}");
            assert_eq!(visitor.get("/small.txt").text(), "small");
        }
        proxy.finish();
    }
}

#[test]
fn large_files_that_are_asked_for_at_once_come_one_after_the_other() {
    needs!("openssl");
    for secure in [false, true] {
        let (_folder, proxy, content) = large("");
        let mut visitor = proxy.visit_as(secure);
        visitor.send("GET /large.bin HTTP/1.1\r\nHost: test\r\n\r\n".repeat(4));
        for number in 0..4 {
            let answer = visitor.answer();
            assert!(answer.body == content && !answer.cut, "{number}");
        }
        drop(visitor);
        proxy.finish();
    }
}

#[test]
fn parts_of_a_large_file_come_together() {
    needs!("openssl");
    for secure in [false, true] {
        let (_folder, proxy, content) = large("");
        let mut visitor = proxy.visit_as(secure);
        let most = LARGE / 2;
        let answer = visitor.ask(format!(
            "GET /large.bin HTTP/1.1\r\nHost: test\r\nRange: bytes=1-{most}, -70000\r\n\r\n"
        ));
        assert_eq!(answer.status, 206);
        let find = |bytes: &[u8], from: usize| {
            let end = bytes[from..]
                .windows(4)
                .position(|four| four == b"\r\n\r\n");
            from + end.unwrap() + 4
        };
        let first = find(&answer.body, 0);
        assert!(
            answer.body[first..first + most] == content[1..=most],
            "the first part has other bytes than the file"
        );
        let second = find(&answer.body, first + most);
        assert!(
            answer.body[second..second + 70_000] == content[LARGE - 70_000..],
            "the second part has other bytes than the file"
        );
        assert_eq!(visitor.get("/small.txt").text(), "small");
        drop(visitor);
        proxy.finish();
    }
}

/// Has a visitor get the beginning of the large file, and then something done to that.
fn while_it_is_sent(what: fn(&Path), check: fn(&Proxy, &mut Visitor, &[u8])) {
    for secure in [false, true] {
        let (folder, proxy, content) = large("");
        let mut visitor = proxy.visit_as(secure);
        visitor.send_get("/large.bin");
        visitor.at_least(1000);
        what(&folder.path().join("www/large.bin"));
        check(&proxy, &mut visitor, &content);
        assert_eq!(proxy.visit().get("/small.txt").text(), "small");
        drop(visitor);
        proxy.finish();
    }
}

#[test]
fn a_file_that_becomes_shorter_while_it_is_sent_is_cut() {
    needs!("openssl");
    while_it_is_sent(
        |path| {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(LARGE as u64 / 2 + 7).unwrap();
        },
        |proxy, visitor, content| {
            let answer = visitor.answer();
            answer.assert_cut();
            assert!(
                content.starts_with(&answer.body),
                "the {} bytes before the cut differ from the file",
                answer.body.len()
            );
            proxy.wait_for_log("reason=file_failed");
        },
    );
}

#[test]
fn of_a_file_that_grows_as_much_is_sent_as_was_announced() {
    needs!("openssl");
    while_it_is_sent(
        |path| {
            let mut file = OpenOptions::new().append(true).open(path).unwrap();
            file.write_all(&bytes(100_000)).unwrap();
        },
        |_, visitor, content| {
            let answer = visitor.answer();
            answer.assert_body(content);
            assert_eq!(visitor.get("/small.txt").text(), "small");
        },
    );
}

#[test]
fn a_file_that_is_replaced_or_removed_is_sent_to_its_end() {
    needs!("openssl");
    let checks: [fn(&Path); 2] = [
        |path| {
            fs::write(path.with_extension("new"), "new").unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        },
        |path| fs::remove_file(path).unwrap(),
    ];
    for what in checks {
        while_it_is_sent(what, |_, visitor, content| {
            let answer = visitor.answer();
            answer.assert_body(content);
            assert_eq!(visitor.get("/small.txt").text(), "small");
        });
    }
}

#[test]
fn visitors_that_leave_or_never_read_a_large_file_leave_nothing_behind() {
    needs!("openssl");
    let (_folder, proxy, _) = large("timeouts: {write: 300ms}");
    let mut gone = proxy.ask("/large.bin");
    gone.at_least(1000);
    gone.reset();
    proxy.wait_for_log("reason=write_failed");
    for secure in [false, true] {
        let mut slow = proxy.visit_as(secure);
        slow.send_get("/large.bin").at_least(1000);
        proxy.wait_for_logs("reason=write_timeout", 1 + usize::from(secure));
        slow.answer().assert_cut();
    }
    proxy.finish();
}

#[test]
fn what_is_known_of_a_file_is_good_for_its_window_or_until_a_reload() {
    let folder = folder(&[("sub/a.txt", b"one"), ("sub/b.bin", &bytes(300_000))]);
    let base = folder.path();
    let long = "file_cache: {window: 60m}, etag_cache: {window: 60m}";
    let yaml = site(
        &folder,
        &format!(", {long}, dynamic_request_cache: {{size: 0}}"),
    );
    let proxy = Proxy::start(&yaml);
    let mut visitor = proxy.visit();
    let aside = || fs::rename(base.join("www/sub"), base.join("aside")).unwrap();
    let back = || fs::rename(base.join("aside"), base.join("www/sub")).unwrap();
    // As soon as its last change is some time ago, the file is known.
    wait_until("a file in memory", || {
        assert_eq!(visitor.get("/sub/a.txt").text(), "one");
        aside();
        let known = visitor.get("/sub/a.txt").status == 200;
        back();
        known
    });
    // Of a large one, its tag is.
    let tag = visitor.get("/sub/b.bin").field("ETag").unwrap().to_owned();
    let ask = format!("GET /sub/b.bin HTTP/1.1\r\nHost: test\r\nIf-None-Match: {tag}\r\n\r\n");
    aside();
    assert_eq!(visitor.ask(&ask).status, 304);
    assert_eq!(visitor.get("/sub/b.bin").status, 404);
    back();
    fs::write(base.join("www/sub/a.txt"), "two").unwrap();
    assert_eq!(visitor.get("/sub/a.txt").text(), "one");
    proxy.reload(&yaml);
    assert_eq!(visitor.get("/sub/a.txt").text(), "two");
    drop(visitor);
    proxy.finish();
}

#[test]
fn another_directory_at_the_root_is_seen_for_all_paths() {
    let base = tempfile::tempdir().unwrap();
    let large = bytes(300_000);
    for release in ["one", "two"] {
        let public = base.path().join(release).join("public");
        fs::create_dir_all(public.join("sub")).unwrap();
        fs::write(public.join("a"), release).unwrap();
        fs::write(public.join("sub/b"), release).unwrap();
        fs::write(public.join("large"), &large).unwrap();
        fs::write(public.join(release), release).unwrap();
    }
    let current = base.path().join("current");
    let switch = |release: &str| {
        symlink(release, base.path().join("next")).unwrap();
        fs::rename(base.path().join("next"), &current).unwrap();
    };
    switch("one");
    settle(&base.path().join("one"));
    let proxy = Proxy::start(&format!(
        "map: [{{incoming: test, default: true, docroot: {}/public, {LONG}}}]",
        current.display()
    ));
    let mut visitor = proxy.visit();
    let paths = ["/a", "/sub/b", "/large", "/one", "/two"];
    let mut tag = String::new();
    for _ in 0..3 {
        let statuses = paths.map(|path| visitor.get(path).status);
        assert_eq!(statuses, [200, 200, 200, 200, 404]);
        tag = visitor.get("/large").field("ETag").unwrap().to_owned();
    }
    switch("two");
    // As soon as one path is new, all are.
    wait_until("the other release", || visitor.get("/a").text() == "two");
    assert_eq!(visitor.get("/sub/b").text(), "two");
    let ask = format!("GET /large HTTP/1.1\r\nHost: test\r\nIf-None-Match: {tag}\r\n\r\n");
    assert_eq!(visitor.ask(&ask).status, 200);
    assert_eq!(visitor.get("/one").status, 404);
    assert_eq!(visitor.get("/two").text(), "two");
    fs::remove_file(&current).unwrap();
    wait_until("no release", || visitor.get("/a").status == 404);
    let statuses = paths.map(|path| visitor.get(path).status);
    assert_eq!(statuses, [404; 5]);
    drop(visitor);
    proxy.finish();
}

#[test]
fn a_file_replaced_by_one_of_the_same_size_and_time_has_another_tag() {
    let folder = folder(&[("a", b"one")]);
    let path = folder.path().join("www/a");
    let none = "{window: 0}";
    let proxy = Proxy::start(&site(
        &folder,
        &format!(", file_cache: {none}, etag_cache: {none}"),
    ));
    let mut visitor = proxy.visit();
    settle(folder.path());
    let tag = visitor.get("/a").field("ETag").unwrap().to_owned();
    assert!(!tag.starts_with("W/"), "{tag}");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "two").unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_modified(modified).unwrap();
    drop(file);
    settle(folder.path());
    for fields in [
        format!("If-None-Match: {tag}"),
        format!("Range: bytes=1-\r\nIf-Range: {tag}"),
    ] {
        let answer = visitor.ask(format!("GET /a HTTP/1.1\r\nHost: test\r\n{fields}\r\n\r\n"));
        assert_eq!((answer.status, answer.text()), (200, "two".to_owned()));
    }
    drop(visitor);
    proxy.finish();
}

#[test]
fn that_there_is_no_file_is_known_when_it_was_found_twice() {
    let folder = folder(&[("a.txt", b"one")]);
    let yaml = with_backends(&folder, ", dynamic_request_cache: {window: 60m}");
    let proxy = Proxy::start(&yaml);
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    let mut visitor = proxy.visit();
    let path = |name: &str| folder.path().join("www").join(name);
    assert_eq!(visitor.get("/once").text(), "/once");
    for _ in 0..2 {
        assert_eq!(visitor.get("/twice").text(), "/twice");
    }
    // Another method says nothing about files (B32).
    for _ in 0..5 {
        visitor.ask("POST /posted HTTP/1.1\r\nHost: test\r\n\r\n");
    }
    for name in ["once", "twice", "posted"] {
        fs::write(path(name), "file").unwrap();
    }
    assert_eq!(visitor.get("/once").text(), "file");
    assert_eq!(visitor.get("/twice").text(), "/twice");
    assert_eq!(visitor.get("/posted").text(), "file");
    proxy.reload(&yaml);
    assert_eq!(visitor.get("/twice").text(), "file");
    drop((visitor, echo));
    proxy.finish();
}

#[test]
fn without_a_window_each_change_is_seen() {
    let folder = folder(&[("a.txt", b"one")]);
    let none = "{window: 0}";
    let proxy = Proxy::start(&site(
        &folder,
        &format!(", file_cache: {none}, etag_cache: {none}, dynamic_request_cache: {none}"),
    ));
    let mut visitor = proxy.visit();
    for number in 0..50 {
        fs::write(folder.path().join("www/a.txt"), format!("{number}")).unwrap();
        assert_eq!(visitor.get("/a.txt").text(), format!("{number}"));
        fs::remove_file(folder.path().join("www/a.txt")).unwrap();
        assert_eq!(visitor.get("/a.txt").status, 404);
    }
    drop(visitor);
    proxy.finish();
}

#[test]
fn a_link_below_the_root_is_followed_anew_soon() {
    let folder = folder(&[
        ("releases/1/a.txt", b"one"),
        ("releases/2/a.txt", b"two"),
        ("releases/2/new.txt", b"new"),
    ]);
    let www = folder.path().join("www");
    let switch = |release: &str| {
        symlink(format!("releases/{release}"), www.join("link")).unwrap();
        fs::rename(www.join("link"), www.join("current")).unwrap();
    };
    switch("1");
    // With the default settings.
    let proxy = Proxy::start(&site(&folder, ""));
    let mut visitor = proxy.visit();
    settle(&www.join("releases/1"));
    for _ in 0..3 {
        assert_eq!(visitor.get("/current/a.txt").text(), "one");
        assert_eq!(visitor.get("/current/new.txt").status, 404);
    }
    switch("2");
    let soon = Instant::now() + Duration::from_secs(60);
    for (path, text) in [("/current/a.txt", "two"), ("/current/new.txt", "new")] {
        while visitor.get(path).text() != text {
            assert!(Instant::now() < soon, "{path} is still the old one");
            thread::sleep(Duration::from_millis(20));
        }
    }
    drop(visitor);
    proxy.finish();
}

#[test]
fn a_reload_may_change_the_root_of_a_site() {
    let (one, two) = (folder(&[("a.txt", b"one")]), folder(&[("a.txt", b"two")]));
    let proxy = Proxy::start(&site(&one, ""));
    let mut visitor = proxy.visit();
    for _ in 0..5 {
        assert_eq!(visitor.get("/a.txt").text(), "one");
        proxy.reload(&site(&two, ""));
        assert_eq!(visitor.get("/a.txt").text(), "two");
        proxy.reload(&site(&one, ", staticmask: txt"));
        assert_eq!(visitor.get("/a.txt").status, 404);
        proxy.reload(&site(&one, ""));
    }
    fs::remove_dir_all(two.path()).unwrap();
    proxy.reload(&site(&two, ""));
    assert_eq!(visitor.get("/a.txt").status, 404);
    let www = two.path().join("www");
    proxy.wait_for_log(&format!(
        "docroot {}: no such file or directory",
        www.display()
    ));
    fs::create_dir_all(&www).unwrap();
    fs::write(www.join("a.txt"), "three").unwrap();
    proxy.reload(&site(&two, ""));
    assert_eq!(visitor.get("/a.txt").text(), "three");
    drop(visitor);
    proxy.finish();
}

#[test]
fn pages_that_the_application_has_written() {
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
fn a_backend_names_a_file_and_is_free() {
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
        // It is nobody else's, however often it was sent (B33).
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
    // The backend does something else while a slow visitor takes the file.
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
fn what_a_backend_says_of_the_file_that_it_names_reaches_the_visitor() {
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
fn what_a_backend_may_not_name_is_not_sent() {
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
        // To another method it means nothing, and is still nobody's business.
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

#[test]
fn passwords_are_asked_for_before_files() {
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
