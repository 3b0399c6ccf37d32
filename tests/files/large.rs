//! Large files: slow clients, and files that change while they are sent.

use std::fs;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use tempfile::TempDir;

use super::{LARGE, folder, site};
use crate::common::{Proxy, Visitor, bytes, needs, secure};

/// A large file beside a small one, served at two addresses, the second one with TLS, by two workers.
fn large_file(lines: &str) -> (TempDir, Proxy, Vec<u8>) {
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
fn slow_clients() {
    needs!("openssl");
    for secure in [false, true] {
        let (_folder, proxy, content) = large_file("limits: {spool: 0, body_memory: 0}");
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
fn pipelined() {
    needs!("openssl");
    for secure in [false, true] {
        let (_folder, proxy, content) = large_file("");
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
fn parts() {
    needs!("openssl");
    for secure in [false, true] {
        let (_folder, proxy, content) = large_file("");
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

/// Has a client get the beginning of the large file, and then something done to that.
fn while_it_is_sent(what: fn(&Path), check: fn(&Proxy, &mut Visitor, &[u8])) {
    for secure in [false, true] {
        let (folder, proxy, content) = large_file("");
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
fn shortened() {
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
fn grown() {
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
fn replaced() {
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
fn abandoned() {
    needs!("openssl");
    let (_folder, proxy, _) = large_file("timeouts: {write: 300ms}");
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
