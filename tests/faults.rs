//! Faults around the server: each test has its paragraph under "Faults" in `swiftiply(8)`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal::SIGHUP;

use crate::common::backend::preamble;
use crate::common::proxy::{SITE, site};
use crate::common::{
    Backend, Echo, PATIENCE, Proxy, Visitor, bytes, limit, needs, proxy, wait_until,
};

/// The numbers of the descriptors that the program has open.
fn descriptors(proxy: &Proxy) -> BTreeSet<u64> {
    let folder = fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap();
    let names = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.map(|name| name.parse().unwrap()).collect()
}

/// Lets the program open so many more files.
fn leave_descriptors(proxy: &Proxy, count: usize) {
    let open = descriptors(proxy);
    let most = (0..).filter(|number| !open.contains(number)).nth(count);
    limit(proxy.pid(), &format!("--nofile={}:", most.unwrap()));
}

const MANY: &str = "--nofile=1000:";

#[test]
fn no_descriptors() {
    let proxy = Proxy::simple();
    let echo = Echo::dial(proxy.dial_in(), "000000000001", "");
    let mut kept = proxy.visit();
    assert_eq!(kept.get("/before").text(), "/before");
    leave_descriptors(&proxy, 0);
    let mut late = proxy.ask("/late");
    let second = Echo::dial(proxy.dial_in(), "000000000002", "");
    proxy.wait_for_logs("too many open files; pausing", 2);
    for number in 0..50 {
        let target = format!("/{number}");
        assert_eq!(kept.get(&target).text(), target);
    }
    assert!(
        !late.has_answer(),
        "a response came before the queue had room"
    );
    limit(proxy.pid(), MANY);
    assert_eq!(late.answer().text(), "/late");
    proxy.wait_for_logs("joined", 2);
    drop(echo);
    assert_eq!(kept.get("/after").text(), "/after");
    drop((kept, late, second));
    proxy.finish();
}

#[test]
fn reload_without_descriptors() {
    let proxy = Proxy::simple();
    let echo = Echo::dial(proxy.dial_in(), "000000000001", "");
    let mut kept = proxy.visit();
    assert_eq!(kept.get("/before").text(), "/before");
    let before = descriptors(&proxy);
    // Another address for clients, with a thread of its own, and one for backends.
    proxy.configure(
        "cluster_address: [127.0.0.1, 'unix:front.sock']\n\
         map: [{incoming: test, default: true, outgoing: ['127.0.0.1:0', 'unix:back.sock'], timeout: 60}]",
    );
    let mut failed = 0;
    loop {
        leave_descriptors(&proxy, failed);
        proxy.signal(SIGHUP);
        wait_until("the end of the reload", || {
            proxy.log().matches("reload failed: ").count() > failed
                || proxy.log().contains("reloaded: ")
        });
        let target = format!("/{failed}");
        assert_eq!(kept.get(&target).text(), target);
        if proxy.log().contains("reloaded: ") {
            break;
        }
        wait_until("the close of all that the reload opened", || {
            descriptors(&proxy) == before
        });
        assert!(
            !proxy.file("front.sock").exists() && !proxy.file("back.sock").exists(),
            "the failed reload left a socket behind"
        );
        failed += 1;
    }
    // Two listeners, and what the thread of the one for clients needs.
    assert!(failed > 2, "{failed}");
    assert!(
        proxy.file("front.sock").exists() && proxy.file("back.sock").exists(),
        "the reload made no sockets"
    );
    limit(proxy.pid(), MANY);
    proxy.reload(SITE);
    drop((kept, echo));
    proxy.finish();
}

#[test]
fn full_disk() {
    // A file over its limit is refused by the system just as one on a full disk.
    let proxy = Proxy::simple_with("limits: {body_memory: 0}");
    limit(proxy.pid(), "--fsize=1000000:");
    let post = |length: usize| {
        format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n")
    };
    let mut visitor = proxy.visit();
    visitor.send(post(3_000_000)).send(vec![b'x'; 1_020_000]);
    assert_eq!(visitor.answer().status, 500);
    visitor.finish().assert_closed();
    proxy.wait_for_log("temporary_directory");
    proxy.wait_for_log("reason=internal");
    // What is in memory is not concerned, nor is a response, which waits there.
    let mut backend = Backend::dial(proxy.dial_in());
    let mut slow = proxy.visit();
    slow.send(post(1000)).send([b'x'; 1000]);
    assert_eq!(backend.request().body.len(), 1000);
    let body = bytes(24_000_000);
    let sent = body.clone();
    let application = thread::spawn(move || {
        backend.reply(sent);
        backend
    });
    proxy.wait_for_log("responses wait in memory");
    assert!(
        !application.is_finished(),
        "the application could send all of its response"
    );
    let answer = slow.answer();
    answer.assert_body(&body);
    let mut backend = application.join().unwrap();
    // And when there is room again, all is as before.
    limit(proxy.pid(), "--fsize=unlimited:");
    visitor = proxy.visit();
    visitor.send(post(3_000_000)).send(vec![b'x'; 3_000_000]);
    assert_eq!(backend.request().body.len(), 3_000_000);
    backend.reply_to(&mut visitor, "ok");
    drop((visitor, slow, backend));
    proxy.finish();
}

/// Answers, and where the end of the connection is the end of the body.
const ANSWERS: [(&str, bool); 3] = [
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        false,
    ),
    ("HTTP/1.1 200 OK\r\nA: b\r\n\r\nhello", true),
];

#[test]
fn backend_dies_anywhere() {
    needs!("openssl");
    dies(false);
}

#[test]
fn backend_dies_anywhere_tls() {
    needs!("openssl");
    dies(true);
}

fn dies(secure: bool) {
    let proxy = Proxy::both_with("defaults: {unframed_gap: 60}");
    for (bytes, until_close) in ANSWERS {
        let head = bytes.find("\r\n\r\n").unwrap() + 4;
        for cut in 0..=bytes.len() {
            for reset in [false, true] {
                let context = format!("{bytes:?} cut at {cut}, reset: {reset}");
                let mut backend = Backend::dial(proxy.dial_in());
                let mut visitor = proxy.visit_as(secure);
                // Not to be repeated.
                visitor.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n");
                backend.request();
                backend.send(&bytes[..cut]);
                match reset {
                    true => backend.reset(),
                    false => drop(backend),
                }
                let answer = visitor.answer();
                if cut < head {
                    assert_eq!(answer.status, 502, "{context}");
                } else {
                    let whole = match until_close {
                        true => !reset,
                        false => cut == bytes.len(),
                    };
                    assert_eq!((answer.status, answer.cut), (200, !whole), "{context}");
                    assert!("hello".starts_with(&answer.text()), "{context}");
                    assert!(
                        !whole || until_close || answer.text() == "hello",
                        "{context}: {answer:?}"
                    );
                }
                match answer.cut {
                    true => assert!(visitor.is_closed(), "{context}"),
                    // Nothing happened to the client's connection.
                    false => {
                        assert_eq!(visitor.get("/swiftiply_health").status, 200, "{context}");
                    }
                }
            }
        }
    }
    // And the next one is as good as the first.
    let echo = Echo::dial(proxy.dial_in(), "000000000001", "");
    assert_eq!(proxy.visit_as(secure).get("/after").text(), "/after");
    drop(echo);
    proxy.finish();
}

#[test]
fn backend_dies_in_request() {
    let proxy = Proxy::simple();
    for read in [1, 100_000, 1_000_000] {
        for reset in [false, true] {
            let mut backend = Backend::dial(proxy.dial_in());
            let mut visitor = proxy.visit();
            // More than the buffers of the system take.
            visitor.send_post("/", vec![b'x'; 30_000_000]);
            backend.at_least(read);
            match reset {
                true => backend.reset(),
                false => drop(backend),
            }
            assert_eq!(visitor.answer().status, 502, "{read} {reset}");
            assert_eq!(visitor.get("/swiftiply_health").status, 200);
        }
    }
    proxy.finish();
}

#[test]
fn dripping_backend() {
    let proxy = Proxy::simple_with("workers: 1");
    let mut backend = TcpStream::connect(proxy.dial_in()).unwrap();
    backend.set_read_timeout(Some(PATIENCE)).unwrap();
    backend.set_nodelay(true).unwrap();
    backend.write_all(&preamble("000000000001", "")).unwrap();
    let mut visitor = proxy.ask("/");
    assert!(
        backend.read(&mut [0; 1000]).unwrap() > 0,
        "the connection ended before the request"
    );
    backend
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        .unwrap();
    visitor.at_least(1);
    visitor.reset();
    let mut drip = backend.try_clone().unwrap();
    let drips = thread::spawn(move || {
        while drip.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    // However long it goes on, it holds neither the only worker nor its connection.
    let ended = backend.read(&mut [0; 1000]);
    assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    drips.join().unwrap();
    proxy.wait_for_log("127.0.0.1:0 closed: reason=client_gone");
    assert_eq!(proxy.visit().get("/swiftiply_health").status, 200);
    drop(backend);
    proxy.finish();
}

#[test]
fn guessed_keys() {
    let proxy = Proxy::start(&site("key: '26e6b8b2a9c1'"));
    let echo = Echo::dial(proxy.dial_in(), "000000000001", "26e6b8b2a9c1");
    let address = proxy.dial_in();
    let guessers: Vec<_> = (0..4)
        .map(|guesser| {
            thread::spawn(move || {
                for number in 0..250 {
                    let key = format!("26e6b8b2{guesser}{number:03}");
                    let mut guess = Backend::dial_as(address, "000000000002", &key);
                    assert!(guess.is_closed(), "{key}");
                }
            })
        })
        .collect();
    let mut visitor = proxy.visit();
    for number in 0..500 {
        let target = format!("/{number}");
        assert_eq!(visitor.get(&target).text(), target);
    }
    for guesser in guessers {
        guesser.join().unwrap();
    }
    proxy.wait_for_logs("reason=bad_key", 1000);
    assert_eq!(echo.answered(), 500);
    drop((visitor, echo));
    proxy.finish();
}

#[test]
fn slow_body() {
    let proxy = Proxy::start(
        "map:\n\
         - {incoming: collects, outgoing: '127.0.0.1:0'}\n\
         - {incoming: passes, outgoing: '127.0.0.2:0', request_buffering: false, timeout: 60}",
    );
    let mut backend = Backend::dial(proxy.dial_ins()[1]);
    let drips: Vec<_> = ["collects", "passes"]
        .into_iter()
        .map(|host| {
            let mut visitor = proxy.visit();
            thread::spawn(move || {
                visitor.send(format!(
                    "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100000\r\n\r\n"
                ));
                // Bytes keep arriving; only their rate is too low.
                while !visitor.has_answer() {
                    visitor.send("x");
                    thread::sleep(Duration::from_millis(100));
                }
                assert_eq!(visitor.answer().status, 408, "{host}");
                visitor.finish().assert_closed();
            })
        })
        .collect();
    for drip in drips {
        drip.join().unwrap();
    }
    proxy.wait_for_logs("reason=body_slow", 2);
    for host in ["collects", "passes"] {
        proxy.wait_for_log(&format!(": site {host}: POST /: the body came too slowly"));
    }
    backend.at_least(50);
    drop(backend);
    proxy.finish();
}

/// The library by which a program sees another clock.
fn clockwork() -> String {
    let run = Command::new("faketime")
        .args(["-m", "-f", "+0", "printenv", "LD_PRELOAD"])
        .output()
        .expect("faketime");
    String::from_utf8(run.stdout).unwrap().trim().to_owned()
}

#[test]
fn clock_is_set() {
    needs!("faketime");
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    fs::write(&clock, "+0").unwrap();
    let mut program = proxy::program();
    program
        .env("LD_PRELOAD", clockwork())
        .env("FAKETIME_TIMESTAMP_FILE", &clock)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let proxy = Proxy::start_program(
        program,
        "map:\n\
         - {incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 60}\n\
         - {incoming: quick, outgoing: '127.0.0.2:0', timeout: 100ms}",
    );
    // One that is idle, one within its head, and one that waits for a backend.
    let mut idle = proxy.visit();
    let mut half = proxy.visit();
    let mut waits = proxy.visit();
    assert_eq!(idle.get("/swiftiply_health").status, 200);
    half.send("GET /half HTTP/1.1\r\nHo");
    waits.send_get("/waits");
    for days in [1_i64, -1] {
        fs::write(&clock, format!("{days:+}d")).unwrap();
        wait_until("a Date near the clock's", || {
            let answer = idle.get("/swiftiply_health");
            let date = httpdate::parse_http_date(answer.field("Date").unwrap()).unwrap();
            let now = SystemTime::now();
            match days {
                1 => date.duration_since(now).is_ok(),
                _ => now.duration_since(date).is_ok_and(|past| past > DAY / 2),
            }
        });
        // Deadlines come when they should.
        let mut quick = proxy.visit();
        let answer = quick.ask("GET / HTTP/1.1\r\nHost: quick\r\n\r\n");
        assert_eq!(answer.status, 503);
        assert!(
            !half.has_answer() && !waits.has_answer(),
            "a response came before its deadline"
        );
    }
    let echo = Echo::dial(proxy.dial_in(), "000000000001", "");
    assert_eq!(waits.answer().text(), "/waits");
    assert_eq!(half.ask("st: test\r\n\r\n").text(), "/half");
    drop((idle, half, waits, echo));
    proxy.finish();
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[test]
fn stopped_peer() {
    let site = site("timeouts: {first_byte: 500ms, write: 500ms}");
    let proxy = Proxy::start(&format!("workers: 3\n{site}"));
    // Applications that never send anything again, like those of a process that got SIGSTOP: their clients get an error in
    // time, and then they are not asked any more.
    let stopped: Vec<_> = (0..3).map(|_| Backend::dial(proxy.dial_in())).collect();
    proxy.wait_for_logs("joined", 3);
    let mut visitors: Vec<Visitor> = (0..3).map(|_| proxy.visit()).collect();
    for visitor in &mut visitors {
        visitor.send_get("/");
    }
    for visitor in &mut visitors {
        assert_eq!(visitor.answer().status, 504);
    }
    proxy.wait_for_logs("reason=backend_failed", 3);
    let echo = Echo::dial(proxy.dial_in(), "000000000001", "");
    for visitor in &mut visitors {
        assert_eq!(visitor.get("/after").text(), "/after");
    }
    drop((stopped, visitors, echo));
    proxy.finish();
}
