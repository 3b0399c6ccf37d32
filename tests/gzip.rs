//! Answers that are compressed on their way (`gzip`), as gzip(1) and curl(1) see them.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;

use crate::common::{
    Backend, Proxy, assert_contains, exchange, head_end, needs, proxy, settle, wait_until,
};

/// One site that compresses, with these lines on top.
fn site(gzip: &str, lines: &str) -> String {
    let site = proxy::site(&format!("gzip: {gzip}"));
    format!("{site}\n{lines}")
}

/// What gzip(1) makes of bytes, and whether they are all there.
fn gunzip(bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut child = Command::new("gzip")
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    // gzip may end before it has read everything.
    let writing = thread::spawn(move || input.write_all(&bytes).is_ok());
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    (output.stdout, output.status.success())
}

/// Text that becomes much smaller.
fn text(lines: usize) -> String {
    (0..lines)
        .map(|line| format!("This is line {line} of the answer.\n"))
        .collect()
}

/// Text that hardly becomes smaller, so that it fills all buffers.
fn dense(length: usize) -> Vec<u8> {
    let words = (0..length as u64 / 8)
        .map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) ^ n << 40);
    words
        .flat_map(|word| {
            (word ^ word >> 31)
                .wrapping_mul(0xbf58_476d_1ce4_e5b9)
                .to_le_bytes()
        })
        .collect()
}

const HTML: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n";

fn get(fields: &str) -> String {
    format!("GET /x HTTP/1.1\r\nHost: test\r\nAccept-Encoding: gzip\r\n{fields}\r\n")
}

#[test]
fn curl_gets_a_page_in_fewer_bytes() {
    needs!("curl");
    let proxy = Proxy::start(&site("true", ""));
    let text = text(2000);
    let mut backend = Backend::dial(proxy.dial_in());
    let answer = format!(
        "{HTML}ETag: \"a\"\r\nAccept-Ranges: bytes\r\nVary: Cookie\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    );
    let url = format!("http://{}/", proxy.address());
    let serving = thread::spawn(move || {
        for _ in 0..4 {
            backend.request();
            backend.send(&answer);
        }
        backend
    });
    let curl = |options: &[&str]| {
        let run = Command::new("curl")
            .args(["-sSi", "--max-time", "60", &url])
            .args(options)
            .output();
        let bytes = run.unwrap().stdout;
        let end = head_end(&bytes).unwrap();
        (
            String::from_utf8(bytes[..end].to_vec()).unwrap(),
            bytes[end..].to_vec(),
        )
    };
    let (head, body) = curl(&["--compressed"]);
    assert!(head.contains("Content-Encoding: gzip\r\n"), "{head}");
    assert!(head.contains("ETag: W/\"a\"\r\n"), "{head}");
    assert!(head.contains("Vary: Cookie, Accept-Encoding\r\n"), "{head}");
    assert!(
        !head.contains("Accept-Ranges") && !head.contains("Content-Length"),
        "{head}"
    );
    assert!(
        body == text.as_bytes(),
        "{} bytes are not the text of {}",
        body.len(),
        text.len()
    );
    let (_, body) = curl(&["-H", "Accept-Encoding: br, gzip;q=0.5", "--raw"]);
    assert!(body.len() < text.len() / 3, "{}", body.len());
    for options in [&[][..], &["-0", "--compressed"]] {
        let (head, body) = curl(options);
        assert!(
            !head.contains("Content-Encoding") && head.contains("ETag: \"a\"\r\n"),
            "{head}"
        );
        assert!(head.contains("Vary: Cookie, Accept-Encoding\r\n"), "{head}");
        assert_contains(&head, &format!("Content-Length: {}\r\n", text.len()));
        assert!(
            body == text.as_bytes(),
            "{} bytes are not the text of {}",
            body.len(),
            text.len()
        );
    }
    drop(serving.join().unwrap());
    proxy.finish();
}

#[test]
fn left_alone() {
    let proxy = Proxy::start(&site("{types: text/*, minimum: 100}", ""));
    let mut backend = Backend::dial(proxy.dial_in());
    let mut visitor = proxy.visit();
    let mut check = |request: &str, head: &str, body: &str, expected: bool| {
        visitor.send(request);
        backend.request();
        backend.send(format!(
            "{head}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let answer = visitor.answer();
        assert_eq!(
            answer.field("Content-Encoding") == Some("gzip"),
            expected,
            "{head} {}",
            answer.head
        );
        match expected {
            true => assert_eq!(gunzip(&answer.body), (body.as_bytes().to_vec(), true)),
            false => assert_eq!(answer.text(), body),
        }
    };
    let (long, short) = ("x".repeat(100), "x".repeat(99));
    check(&get(""), HTML, &long, true);
    check(&get(""), HTML, &short, false);
    check(
        &get("").replace("gzip", "identity;q=0, *;q=0.1"),
        HTML,
        &long,
        true,
    );
    check(&get("").replace("gzip", "gzip;q=0, br"), HTML, &long, false);
    check(&get("Cache-Control: no-transform\r\n"), HTML, &long, false);
    check(
        &get(""),
        &HTML.replace("html", "plain; charset=x"),
        &long,
        true,
    );
    check(&get(""), &HTML.replace("text", "image"), &long, false);
    check(
        &get(""),
        &HTML.replace("200 OK", "404 Not Found"),
        &long,
        true,
    );
    for field in [
        "Cache-Control: no-transform",
        "Content-Encoding: br",
        "Content-MD5: x",
    ] {
        check(&get(""), &format!("{HTML}{field}\r\n"), &long, false);
    }
    let part = HTML.replace("200 OK", "206 Partial Content");
    check(
        &get("Range: bytes=0-99\r\n"),
        &format!("{part}Content-Range: bytes 0-99/200\r\n"),
        &long,
        false,
    );
    // A response without a body says what the one with it would.
    visitor.send(get("").replace("GET", "HEAD"));
    backend.request();
    backend.send(format!("{HTML}ETag: \"a\"\r\nContent-Length: 500\r\n\r\n"));
    let head = visitor.answer_to("HEAD");
    assert_eq!(head.field("Content-Encoding"), Some("gzip"));
    assert_eq!(
        (head.field("ETag"), head.field("Content-Length")),
        (Some("W/\"a\""), None)
    );
    visitor.send(get("If-None-Match: W/\"a\"\r\n"));
    assert_eq!(backend.request().field("If-None-Match"), Some("W/\"a\""));
    backend.send("HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n");
    let unchanged = visitor.answer();
    assert_eq!(
        (unchanged.status, unchanged.field("ETag")),
        (304, Some("W/\"a\""))
    );
    assert_eq!(unchanged.field("Vary"), Some("Accept-Encoding"));
    visitor.send(get(""));
    backend.request();
    backend.send("HTTP/1.1 204 No Content\r\nContent-Type: text/html\r\n\r\n");
    assert_eq!(visitor.answer().field("Content-Encoding"), None);
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn stream() {
    let proxy = Proxy::start(&site("{types: text/event-stream, minimum: 10}", ""));
    for chunked in [true, false] {
        let mut backend = Backend::dial(proxy.dial_in());
        let mut visitor = proxy.visit();
        visitor.send(get(""));
        backend.request();
        let head = HTML.replace("html", "event-stream");
        match chunked {
            true => backend.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n")),
            false => backend.send(format!("{head}Content-Length: 50\r\n\r\n")),
        };
        let (mut sent, mut count) = (String::new(), 1);
        for number in 0..5 {
            let piece = format!("event: {number}\n\n");
            sent.push_str(&piece);
            match chunked {
                true => backend.send(format!("a\r\n{piece}\r\n")),
                false => backend.send(&piece),
            };
            // The backend sends nothing more until the client has this.
            loop {
                let raw = visitor.at_least(count);
                count = raw.len() + 1;
                let body = raw[head_end(raw).unwrap()..].to_vec();
                if gunzip(&dechunked(&body)).0 == sent.as_bytes() {
                    break;
                }
            }
        }
        if chunked {
            backend.send("0\r\n\r\n");
        }
        let answer = visitor.answer();
        answer.assert_whole();
        assert_eq!(gunzip(&answer.body), (sent.into_bytes(), true));
        // The backend was given back.
        exchange(&mut visitor, &mut backend, "/next");
    }
    proxy.finish();
}

/// The data of the chunks that are whole.
fn dechunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    while let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") {
        let size = str::from_utf8(&bytes[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        let Some(chunk) = bytes.get(end + 2..end + 2 + size) else {
            break;
        };
        data.extend_from_slice(chunk);
        bytes = bytes.get(end + 4 + size..).unwrap_or_default();
    }
    data
}

/// Answers the next request with a large body in a thread of its own, which ends when all was taken.
fn send_large(mut backend: Backend, body: Vec<u8>) -> thread::JoinHandle<Backend> {
    thread::spawn(move || {
        backend.request();
        backend.send(format!("{HTML}Content-Length: {}\r\n\r\n", body.len()));
        backend.send(body);
        backend
    })
}

/// More than the socket buffers on both sides hold.
const LARGE: usize = 16 << 20;

#[test]
fn slow_client() {
    let body = dense(LARGE);
    for lines in ["workers: 2", "workers: 2\nlimits: {spool: 0}"] {
        let proxy = Proxy::start(&site("{level: 1}", lines));
        let mut slow = proxy.visit();
        let sending = send_large(Backend::dial(proxy.dial_in()), body.clone());
        slow.send(get(""));
        slow.at_least(1000);
        if lines.contains("spool") {
            // The worker is free, the backend is not.
            let mut other = Backend::dial(proxy.dial_in());
            let mut visitor = proxy.ask("/other");
            other.request();
            other.reply_to(&mut visitor, "other");
            assert!(
                !sending.is_finished(),
                "the whole response was read although the client takes nothing"
            );
        } else {
            wait_until("the end of the response", || sending.is_finished());
        }
        // A reload that turns compression off does not affect responses that have begun.
        proxy.reload(&site("false", lines));
        let answer = slow.answer();
        answer.assert_whole();
        let (got, complete) = gunzip(&answer.body);
        assert!(
            complete && got == body,
            "complete: {complete}, {} bytes of {}",
            got.len(),
            body.len()
        );
        let mut backend = sending.join().unwrap();
        slow.send(get(""));
        backend.request();
        backend.send(format!(
            "{HTML}Content-Length: 2000\r\n\r\n{}",
            "x".repeat(2000)
        ));
        assert_eq!(slow.answer().text(), "x".repeat(2000));
        drop((slow, backend));
        proxy.finish();
    }
}

#[test]
fn broken_response() {
    let proxy = Proxy::start(&site("true", "access_log: access"));
    let mut visitor = proxy.visit();
    let mut backend = Backend::dial(proxy.dial_in());
    visitor.send(get(""));
    backend.request();
    let text = text(100);
    backend.send(format!("{HTML}Content-Length: 99999\r\n\r\n{text}"));
    drop(backend);
    let answer = visitor.answer();
    answer.assert_cut();
    assert_eq!(gunzip(&answer.body), (text.into_bytes(), false));
    visitor.assert_closed();
    wait_until("the line of the access log", || {
        proxy.read("access").contains("backend_failed")
    });
    proxy.finish();
}

#[test]
fn client_leaves() {
    let body = dense(LARGE);
    for lines in ["", "limits: {spool: 0}"] {
        let proxy = Proxy::start(&site("{level: 1}", lines));
        let sending = send_large(Backend::dial(proxy.dial_in()), body.clone());
        let mut visitor = proxy.visit();
        visitor.send(get(""));
        visitor.at_least(1000);
        visitor.reset();
        proxy.wait_for_log("reason=write_failed");
        drop(sending.join().unwrap());
        proxy.finish();
    }
}

#[test]
fn memory_full() {
    let proxy = Proxy::start(&site(
        "{level: 1}",
        "workers: 2\nlimits: {spool: 0, memory: 1m}",
    ));
    let body = dense(LARGE);
    // As many as there is memory for, each of which waits for its client.
    let held: Vec<_> = (0..2)
        .map(|_| {
            let sending = send_large(Backend::dial(proxy.dial_in()), body.clone());
            let mut visitor = proxy.visit();
            visitor.send(get(""));
            visitor.at_least(1000);
            (sending, visitor)
        })
        .collect();
    let mut backend = Backend::dial(proxy.dial_in());
    let mut visitor = proxy.visit();
    let mut encoding = || {
        visitor.send(get(""));
        backend.request();
        backend.send(format!(
            "{HTML}Content-Length: 3400\r\n\r\n{}",
            &text(200)[..3400]
        ));
        let answer = visitor.answer();
        answer.field("Content-Encoding").map(ToOwned::to_owned)
    };
    assert_eq!(encoding(), None);
    for (sending, mut visitor) in held {
        let (got, complete) = gunzip(&visitor.answer().body);
        assert!(
            complete && got == body,
            "complete: {complete}, {} bytes of {}",
            got.len(),
            body.len()
        );
        drop(sending.join().unwrap());
    }
    wait_until("room for compression", || {
        encoding().as_deref() == Some("gzip")
    });
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn named_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.html"), text(200)).unwrap();
    let root = folder.path().display();
    let proxy = Proxy::start(&site(&format!("true, sendfileroot: {root}"), ""));
    let mut backend = Backend::dial(proxy.dial_in());
    let mut visitor = proxy.visit();
    let named = format!("{HTML}X-Sendfile: a.html\r\nContent-Length: 0\r\n\r\n");
    visitor.send(get(""));
    backend.request();
    backend.send(&named);
    let whole = visitor.answer();
    assert_eq!(whole.text(), text(200));
    let tag = whole.field("ETag").unwrap();
    visitor.send(get(&format!("If-None-Match: {tag}\r\n")));
    backend.request();
    backend.send(&named);
    let unchanged = visitor.answer();
    assert_eq!(unchanged.status, 304);
    for answer in [&whole, &unchanged] {
        assert_eq!(answer.field("Content-Encoding"), None);
        assert_eq!(answer.field("Vary"), None, "it is the same for everybody");
        assert_eq!(answer.field("ETag"), Some(tag));
    }
    drop((visitor, backend));
    proxy.finish();
}

/// A site with files that are not kept in memory.
fn files() -> (tempfile::TempDir, Proxy) {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("large.txt"), text(60_000)).unwrap();
    fs::write(root.path().join("dense.txt"), dense(12 << 20)).unwrap();
    fs::write(root.path().join("picture.png"), text(1000)).unwrap();
    settle(root.path());
    let path = root.path().display();
    let site = proxy::site(&format!("gzip: true, docroot: {path}"));
    let proxy = Proxy::start(&format!("cache_threshold: 4000\n{site}"));
    (root, proxy)
}

fn get_file(method: &str, path: &str, fields: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: test\r\nAccept-Encoding: gzip\r\n{fields}\r\n")
}

#[test]
fn file_from_disk() {
    let (root, proxy) = files();
    let all = text(60_000);
    // One connection: whatever is wrong with the framing breaks the next response.
    let mut visitor = proxy.visit();
    let plain = visitor.get("/large.txt");
    assert_eq!(plain.field("Vary"), Some("Accept-Encoding"));
    assert_eq!(plain.field("Accept-Ranges"), Some("bytes"));
    assert!(
        plain.field("Content-Encoding").is_none() && plain.text() == all,
        "expected the file as it is: {}",
        plain.head
    );
    let tag = plain.field("ETag").unwrap().to_owned();
    let weak = format!("W/{tag}");
    assert!(tag.starts_with('"'), "{tag}");
    // Twice: what is known of a file that is not in memory changes nothing.
    for fields in ["", "", &format!("Range: bytes=0-9\r\nIf-Range: {weak}\r\n")] {
        let answer = visitor.ask(get_file("GET", "/large.txt", fields));
        assert_eq!(answer.status, 200);
        assert_eq!(answer.field("Content-Encoding"), Some("gzip"), "{fields}");
        assert_eq!(answer.field("Vary"), Some("Accept-Encoding"));
        assert_eq!(answer.field("ETag"), Some(&*weak));
        let content_type = answer.field("Content-Type");
        assert_eq!(content_type, Some("text/plain; charset=utf-8"));
        assert!(answer.field("Accept-Ranges").is_none(), "{}", answer.head);
        assert!(
            answer.body.len() < all.len() / 3,
            "{} bytes of {} are too many",
            answer.body.len(),
            all.len()
        );
        assert!(
            gunzip(&answer.body) == (all.clone().into_bytes(), true),
            "the compressed file is another one, or incomplete"
        );
    }
    visitor.send(get_file("HEAD", "/large.txt", ""));
    let head = visitor.answer_to("HEAD");
    assert_eq!(head.field("Content-Encoding"), Some("gzip"));
    assert_eq!(head.field("ETag"), Some(&*weak));
    assert!(head.field("Content-Length").is_none(), "{}", head.head);
    // Parts are those of the file itself.
    let part = visitor.ask(get_file("GET", "/large.txt", "Range: bytes=100-199\r\n"));
    assert_eq!((part.status, part.text()), (206, all[100..200].to_owned()));
    assert_eq!(part.field("Vary"), Some("Accept-Encoding"));
    assert_eq!(part.field("ETag"), Some(&*tag));
    for tag in [&tag, &weak] {
        let fields = format!("If-None-Match: {tag}\r\n");
        let same = visitor.ask(get_file("GET", "/large.txt", &fields));
        assert_eq!((same.status, same.field("ETag")), (304, Some(&**tag)));
        assert_eq!(same.field("Vary"), Some("Accept-Encoding"));
    }
    let as_it_is = visitor.ask(get_file(
        "GET",
        "/large.txt",
        "Cache-Control: no-transform\r\n",
    ));
    assert!(
        as_it_is.field("Content-Encoding").is_none() && as_it_is.text() == all,
        "expected the file as it is: {}",
        as_it_is.head
    );
    let picture = visitor.ask(get_file("GET", "/picture.png", ""));
    assert!(
        picture.field("Content-Encoding").is_none() && picture.field("Vary").is_none(),
        "a picture is never compressed: {}",
        picture.head
    );
    let mut old = proxy.visit();
    let old = old.ask(get_file("GET", "/large.txt", "").replace("1.1", "1.0"));
    assert!(
        old.field("Content-Encoding").is_none() && old.text() == all,
        "HTTP/1.0 gets the file as it is: {}",
        old.head
    );
    assert_eq!(old.field("Vary"), Some("Accept-Encoding"));
    drop(visitor);
    proxy.finish();
    drop(root);
}

#[test]
fn file_slow_or_shortened() {
    let (root, proxy) = files();
    let all = dense(12 << 20);
    let ask = || {
        let mut visitor = proxy.visit();
        visitor.send(get_file("GET", "/dense.txt", ""));
        // So much does not fit into the buffers: the response waits for the client.
        visitor.sees("Content-Encoding: gzip");
        visitor
    };
    let (mut slow, mut cut) = (ask(), ask());
    assert!(
        gunzip(&slow.answer().body) == (all, true),
        "the compressed file is another one, or incomplete"
    );
    // It continues with the rest of the file, which is now empty.
    fs::OpenOptions::new()
        .write(true)
        .open(root.path().join("dense.txt"))
        .and_then(|file| file.set_len(0))
        .unwrap();
    let answer = cut.answer();
    assert!(
        answer.cut && !gunzip(&answer.body).1,
        "the response ended as if it were complete"
    );
    drop((slow, cut));
    proxy.finish();
}
