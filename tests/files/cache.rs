//! What is remembered of files, and for how long.

use std::fs::OpenOptions;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};
use std::{fs, thread};

use super::{LONG, folder, site, with_backends};
use crate::common::{Echo, Proxy, bytes, settle, wait_until};

#[test]
fn window() {
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
    // Of a large file only the tag is cached.
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
fn swapped_root() {
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
    wait_until("a 404 while there is no release", || {
        visitor.get("/a").status == 404
    });
    let statuses = paths.map(|path| visitor.get(path).status);
    assert_eq!(statuses, [404; 5]);
    drop(visitor);
    proxy.finish();
}

#[test]
fn same_size_and_time() {
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
fn missing_file() {
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
    // Only GET and HEAD count as lookups.
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
fn no_window() {
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
fn changed_link() {
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
fn reloaded_root() {
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
