//! Files in other encodings: those beside others (`precompressed`), and those that are made (`gzip`).

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use crate::common::{Proxy, settle, visitor::Answer};

/// A folder with these files, all of the same time.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        put(&folder, name, content);
    }
    folder
}

fn put(folder: &TempDir, name: &str, content: &str) {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    date(&path, 100);
}

/// Makes a file so many seconds old, by its date.
fn date(path: &Path, age: u64) {
    // The same for all, whenever they are made.
    date_exactly(path, Duration::from_secs(1_700_000_000 - age));
}

/// Dates a file so long after the beginning of 1970.
fn date_exactly(path: &Path, since: Duration) {
    let file = File::options().append(true).open(path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + since).unwrap();
}

fn site(folder: &TempDir, keys: &str) -> String {
    let www = folder.path().display();
    format!("map: [{{incoming: test, default: true, docroot: {www}{keys}}}]")
}

/// Asks for a path with this Accept-Encoding and more fields.
fn get(proxy: &Proxy, target: &str, codings: &str, fields: &str) -> Answer {
    proxy.visit().ask(format!(
        "GET {target} HTTP/1.1\r\nHost: test\r\nAccept-Encoding: {codings}\r\n{fields}\r\n"
    ))
}

/// The coding and the text of a response.
fn seen(answer: &Answer) -> (String, String) {
    let coding = answer.field("Content-Encoding").unwrap_or("-");
    (coding.to_owned(), answer.text())
}

const ALL: [(&str, &str); 5] = [
    ("a.css", "original"),
    ("a.css.br", "Br"),
    ("a.css.zst", "Zst"),
    ("a.css.gz", "Gz"),
    ("b.css", "alone"),
];

#[test]
fn preferred_encoding() {
    let folder = folder(&ALL);
    // Their tags are strong then.
    settle(folder.path());
    // In memory and from the disk.
    for threshold in ["1k", "0"] {
        let yaml = format!("{}\ncache_threshold: {threshold}", site(&folder, ""));
        let proxy = Proxy::start(&yaml);
        let check = |codings: &str, coding: &str, text: &str| {
            let answer = get(&proxy, "/a.css", codings, "");
            assert_eq!(seen(&answer), (coding.into(), text.into()), "{codings}");
            assert_eq!(
                answer.field("Content-Type"),
                Some("text/css; charset=utf-8")
            );
            assert_eq!(answer.field("Vary"), Some("Accept-Encoding"));
            assert_eq!(answer.field("Accept-Ranges"), Some("bytes"));
            answer.field("ETag").unwrap().to_owned()
        };
        let tags = [
            check("gzip, deflate, br, zstd", "br", "Br"),
            check("br;q=0.5, ZSTD", "zstd", "Zst"),
            check("x-gzip", "gzip", "Gz"),
            check("deflate", "-", "original"),
        ];
        check("br;q=0", "-", "original");
        check("*", "br", "Br");
        check("identity, br;q=0.9", "-", "original");
        for (number, tag) in tags.iter().enumerate() {
            assert!(
                tag.starts_with('"') && !tags[..number].contains(tag),
                "{tags:?}"
            );
        }
        // Each is a representation of its own, for conditions and ranges too.
        let own = format!("If-None-Match: {}\r\n", tags[0]);
        let unchanged = get(&proxy, "/a.css", "br", &own);
        assert_eq!(
            (unchanged.status, unchanged.field("ETag")),
            (304, Some(&*tags[0]))
        );
        assert_eq!(unchanged.field("Vary"), Some("Accept-Encoding"));
        assert_eq!(get(&proxy, "/a.css", "gzip", &own).status, 200);
        assert_eq!(get(&proxy, "/a.css", "", &own).status, 200);
        let part = get(&proxy, "/a.css", "zstd", "Range: bytes=1-9\r\n");
        assert_eq!(
            (part.status, seen(&part)),
            (206, ("zstd".into(), "st".into()))
        );
        assert_eq!(part.field("Content-Range"), Some("bytes 1-2/3"));
        let if_range = format!("Range: bytes=1-\r\nIf-Range: {}\r\n", tags[0]);
        assert_eq!(get(&proxy, "/a.css", "br", &if_range).text(), "r");
        assert_eq!(get(&proxy, "/a.css", "zstd", &if_range).text(), "Zst");
        let head = proxy
            .visit()
            .send("HEAD /a.css HTTP/1.0\r\nAccept-Encoding: br\r\n\r\n")
            .answer_to("HEAD");
        assert_eq!(
            (head.field("Content-Encoding"), head.field("Content-Length")),
            (Some("br"), Some("2"))
        );
        // A file without neighbours has no Vary, and a neighbour that is requested by its own name is an ordinary file.
        assert_eq!(get(&proxy, "/b.css", "br, gzip", "").field("Vary"), None);
        let itself = get(&proxy, "/a.css.br", "br, gzip", "");
        assert_eq!(seen(&itself), ("-".into(), "Br".into()));
        proxy.finish();
    }
}

#[test]
fn slightly_older() {
    let seconds = 1_600_000_000;
    let neighbours = [
        ("older.css", 500_000_699, "-"),
        ("equal.css", 500_000_700, "gzip"),
        ("newer.css", 500_000_701, "gzip"),
        // As if copied by a program that keeps only microseconds, or seconds, of the time.
        ("micro.css", 500_000_000, "gzip"),
        ("older_micro.css", 499_999_000, "-"),
        ("whole.css", 0, "gzip"),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (name, nanoseconds, _) in neighbours {
        for (name, nanoseconds) in [
            (name.to_owned(), 500_000_700),
            (format!("{name}.gz"), nanoseconds),
        ] {
            put(&folder, &name, &name);
            date_exactly(
                &folder.path().join(&name),
                Duration::new(seconds, nanoseconds),
            );
        }
    }
    let proxy = Proxy::start(&site(&folder, ""));
    for (name, _, coding) in neighbours {
        let answer = get(&proxy, &format!("/{name}"), "gzip", "");
        assert_eq!(seen(&answer).0, coding, "{name}");
    }
    proxy.finish();
}

#[test]
fn indexes_and_pages() {
    let folder = folder(&[
        ("index.html", "home"),
        ("index.html.gz", "HOME"),
        ("public/posts/7.html", "seven"),
        ("public/posts/7.html.br", "SEVEN"),
        ("old.css", "new"),
        ("old.css.gz", "OLD"),
        ("gone.css.gz", "GONE"),
        (".hidden.css", "h"),
        (".hidden.css.gz", "H"),
    ]);
    date(&folder.path().join("old.css.gz"), 101);
    fs::create_dir(folder.path().join("index.html.br")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("index.html.zst")).unwrap();
    let proxy = Proxy::start(&site(&folder, ", cache_directory: public"));
    let check = |target: &str, coding: &str, text: &str| {
        let answer = get(&proxy, target, "gzip, br, zstd", "");
        assert_eq!(seen(&answer), (coding.into(), text.into()), "{target}");
    };
    check("/", "gzip", "HOME");
    check("/posts/7", "br", "SEVEN");
    check("/old.css", "-", "new");
    for target in ["/gone.css", "/.hidden.css"] {
        assert_eq!(get(&proxy, target, "gzip", "").status, 404, "{target}");
    }
    proxy.finish();
    let proxy = Proxy::start(&site(&folder, ", precompressed: false"));
    let answer = get(&proxy, "/", "gzip", "");
    assert_eq!(seen(&answer), ("-".into(), "home".into()));
    assert_eq!(answer.field("Vary"), None);
    proxy.finish();
}

#[test]
fn cached_with_file() {
    let folder = folder(&ALL);
    let yaml = site(&folder, ", file_cache: {window: 60m}");
    let proxy = Proxy::start(&yaml);
    settle(folder.path());
    let check = |codings: &str, coding: &str, text: &str| {
        let answer = get(&proxy, "/a.css", codings, "");
        assert_eq!(seen(&answer), (coding.into(), text.into()), "{codings}");
    };
    let all = [("br", "Br"), ("zstd", "Zst"), ("gzip", "Gz")];
    for (coding, text) in all {
        check(coding, coding, text);
    }
    // The disk is not looked at within the window.
    for (name, _) in ALL {
        fs::remove_file(folder.path().join(name)).unwrap();
    }
    check("", "-", "original");
    for (coding, text) in all {
        check(coding, coding, text);
    }
    // A reload has it looked at: first only one neighbour has changed.
    for (name, text) in ALL {
        put(&folder, name, text);
    }
    put(&folder, "a.css.br", "New");
    fs::remove_file(folder.path().join("a.css.gz")).unwrap();
    proxy.reload(&yaml);
    check("br", "br", "New");
    check("gzip", "-", "original");
    // Then the file itself.
    put(&folder, "a.css", "changed");
    date(&folder.path().join("a.css"), 1);
    proxy.reload(&yaml);
    check("br", "-", "changed");
    proxy.finish();
}

#[test]
fn changed_on_disk() {
    let folder = folder(&ALL);
    let long = site(&folder, ", etag_cache: {window: 60m}");
    let yaml = format!("{long}\ncache_threshold: 0");
    let proxy = Proxy::start(&yaml);
    settle(folder.path());
    let answer = get(&proxy, "/a.css", "br", "");
    assert_eq!(seen(&answer), ("br".into(), "Br".into()));
    // Within the window, so that nothing else says so: what goes out is the file itself.
    put(&folder, "a.css.br", "Bx");
    let answer = get(&proxy, "/a.css", "br", "");
    assert_eq!(seen(&answer), ("-".into(), "original".into()));
    fs::remove_file(folder.path().join("a.css.br")).unwrap();
    assert_eq!(get(&proxy, "/a.css", "br", "").text(), "original");
    put(&folder, "a.css.br", "New");
    proxy.reload(&yaml);
    assert_eq!(get(&proxy, "/a.css", "br", "").text(), "New");
    proxy.finish();
}

#[test]
fn client_leaves() {
    let folder = folder(&[("a.css", "original"), ("a.css.gz", &"x".repeat(24 << 20))]);
    let proxy = Proxy::start(&site(&folder, ""));
    let mut visitor = proxy.visit();
    visitor.send("GET /a.css HTTP/1.1\r\nHost: test\r\nAccept-Encoding: gzip\r\n\r\n");
    visitor.at_least(100_000);
    visitor.reset();
    proxy.wait_for_log("reason=write_failed");
    proxy.finish();
}

#[cfg(feature = "gzip")]
#[test]
fn files_are_compressed_once_and_kept() {
    crate::common::needs!("curl");
    let text: String = (0..500)
        .map(|line| format!(".line-{line} {{ color: red }}\n"))
        .collect();
    let folder = folder(&[
        ("a.css", &text),
        ("small.css", ".a {}"),
        ("a.png", &text),
        ("large.css", &text.repeat(20)),
        ("b.css", &text),
        ("b.css.gz", "Gz"),
    ]);
    let yaml = site(&folder, ", gzip: true");
    let proxy = Proxy::start(&yaml);
    settle(folder.path());
    let curl = |options: &[&str]| {
        let url = format!("http://{}/a.css", proxy.address());
        let run = std::process::Command::new("curl")
            .args(["-sS", "--max-time", "60", &url])
            .args(options)
            .output();
        String::from_utf8_lossy(&run.unwrap().stdout).into_owned()
    };
    assert_eq!(curl(&["--compressed"]), text);
    assert_eq!(curl(&[]), text);
    let plain = get(&proxy, "/a.css", "", "");
    let packed = get(&proxy, "/a.css", "br, gzip", "");
    assert_eq!(packed.field("Content-Encoding"), Some("gzip"));
    assert_eq!(
        packed.field("Content-Type"),
        Some("text/css; charset=utf-8")
    );
    assert!(packed.body.len() < text.len() / 3, "{}", packed.body.len());
    let weak = format!("W/{}", plain.field("ETag").unwrap());
    assert_eq!(packed.field("ETag"), Some(&*weak));
    for answer in [&plain, &packed] {
        assert_eq!(answer.field("Vary"), Some("Accept-Encoding"));
    }
    let unchanged = get(
        &proxy,
        "/a.css",
        "gzip",
        &format!("If-None-Match: {weak}\r\n"),
    );
    assert_eq!(
        (unchanged.status, unchanged.field("ETag")),
        (304, Some(&*weak))
    );
    // Parts are those of the file itself, which has a strong tag.
    let part = get(&proxy, "/a.css", "gzip", "Range: bytes=0-4\r\n");
    assert_eq!(
        (part.status, seen(&part)),
        (206, ("-".into(), ".line".into()))
    );
    let large = get(&proxy, "/large.css", "gzip", "");
    let encoded = (large.field("Content-Encoding"), large.field("Vary"));
    assert_eq!(encoded, (Some("gzip"), Some("Accept-Encoding")), "not kept");
    for target in ["/small.css", "/a.png"] {
        let answer = get(&proxy, target, "gzip", "");
        assert_eq!(
            (answer.field("Content-Encoding"), answer.field("Vary")),
            (None, None),
            "{target}"
        );
    }
    assert_eq!(
        seen(&get(&proxy, "/b.css", "gzip", "")),
        ("gzip".into(), "Gz".into())
    );
    fs::remove_file(folder.path().join("a.css")).unwrap();
    let kept = get(&proxy, "/a.css", "gzip", "");
    assert_eq!((kept.status, &kept.body), (200, &packed.body));
    proxy.signal(nix::sys::signal::Signal::SIGHUP);
    proxy.wait_for_log("reloaded: ");
    assert_eq!(get(&proxy, "/a.css", "gzip", "").status, 404);
    proxy.finish();
}
