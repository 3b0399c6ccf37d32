//! Memory use: little under every kind of load at once, and hardly any afterwards.
//!
//! Each test has 64 workers, as a machine of 32 processors would: what an allocator keeps grows with the threads.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::{Backend, Proxy, Visitor, bytes, proxy, settle, wait_at_most, wait_until};

/// Free memory is given back within a few seconds; a busy machine may take longer.
const GIVEN_BACK: Duration = Duration::from_secs(180);
const MEBIBYTE: usize = 1 << 20;
/// What a small machine has for the server.
const SMALL: usize = 64 * MEBIBYTE;

/// A cgroup with so much memory, for a process that enters it.
struct Group(PathBuf);

impl Group {
    /// `None`: this system does not let us make one.
    fn new(limit: usize) -> Option<Self> {
        let name = format!("swiftiply-test-{}", std::process::id());
        let v1 = ("/sys/fs/cgroup/memory", "memory.limit_in_bytes");
        let v2 = ("/sys/fs/cgroup", "memory.max");
        [v1, v2].into_iter().find_map(|(root, file)| {
            // Only a file system of cgroups has this file.
            fs::metadata(Path::new(root).join("cgroup.procs")).ok()?;
            let group = Self(Path::new(root).join(&name));
            fs::create_dir(&group.0).ok()?;
            let file = fs::OpenOptions::new().write(true).open(group.0.join(file));
            let written = file.and_then(|mut file| file.write_all(limit.to_string().as_bytes()));
            written.is_ok().then_some(group)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It can be removed once the system has noticed that its process is gone.
        for _ in 0..1000 {
            match fs::remove_dir(&self.0) {
                Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                    thread::sleep(Duration::from_millis(10));
                }
                _ => return,
            }
        }
    }
}

/// The program, within a group if there is one.
fn program(group: Option<&Group>) -> Command {
    let Some(group) = group else {
        return proxy::program();
    };
    let enter = format!(
        "echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"",
        group.0.display()
    );
    let mut program = Command::new("sh");
    program
        .args(["-c", &enter])
        .arg(proxy::program().get_program());
    program
}

/// What the system says of the program's memory, in bytes.
fn status(proxy: &Proxy, field: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kilobytes = line.unwrap().trim().trim_end_matches(" kB");
    kilobytes.parse::<usize>().unwrap() * 1024
}

/// Text that becomes smaller, but not much.
fn text(length: usize) -> String {
    let words = bytes(length).into_iter().enumerate();
    let text = words.map(|(at, byte)| match at % 7 {
        0 => ' ',
        _ => char::from(b'a' + byte % 26),
    });
    text.collect()
}

#[test]
fn uploads_given_back() {
    let lines = "workers: 64\nlimits: {memory: 256m}\n";
    let proxy = Proxy::start(&format!("{lines}{}", proxy::SITE));
    let part = bytes(60_000);
    for _ in 0..5 {
        let uploads: Vec<_> = (0..300)
            .map(|_| {
                let mut visitor = proxy.visit();
                visitor.send("POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n");
                visitor.send(&part);
                visitor
            })
            .collect();
        wait_until("the bodies in memory", || {
            status(&proxy, "RssAnon:") > 300 * part.len()
        });
        uploads.into_iter().for_each(Visitor::reset);
    }
    wait_at_most(GIVEN_BACK, "the return of memory to the system", || {
        status(&proxy, "RssAnon:") < 8 * MEBIBYTE
    });
    proxy.finish();
}

#[test]
fn small_machine() {
    swiftiply::internals::process::raise_descriptors(None).unwrap();
    let group = Group::new(SMALL);
    if group.is_none() {
        eprintln!("no cgroup can be made here: the limit is not tried, only looked at");
    }
    let root = tempfile::tempdir().unwrap();
    let large_text = text(2_000_000);
    fs::write(root.path().join("text.txt"), &large_text).unwrap();
    fs::write(root.path().join("large.bin"), bytes(20_000_000)).unwrap();
    settle(root.path());
    // The spool must be on a disk; /tmp is in memory on many machines.
    let lines = format!(
        "workers: 64\nlimits: {{spool: 4g}}\ntemporary_directory: {}\n",
        env!("CARGO_TARGET_TMPDIR")
    );
    let site = proxy::site(&format!("gzip: true, docroot: {}", root.path().display()));
    let proxy = Proxy::start_program(program(group.as_ref()), &format!("{lines}{site}"));
    let answer = text(1_000_000);
    let response = Arc::new(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{answer}",
        answer.len()
    ));
    for _ in 0..30 {
        let mut backend = Backend::dial(proxy.dial_in());
        let response = Arc::clone(&response);
        backend.wait_for_ever();
        thread::spawn(move || {
            while backend.next().is_some() && backend.try_send(response.as_bytes()).is_ok() {}
        });
    }
    let idle: Vec<_> = (0..1000).map(|_| proxy.visit()).collect();
    let slow: Vec<_> = (0..5).map(|_| proxy.ask("/large.bin")).collect();
    let stop = AtomicBool::new(false);
    let body = bytes(50_000_000);
    thread::scope(|scope| {
        let gzip = |target: &'static str, expected: usize| {
            let (proxy, stop) = (&proxy, &stop);
            scope.spawn(move || {
                let mut visitor = proxy.visit();
                let mut compressed = 0;
                while !stop.load(Ordering::SeqCst) {
                    let fields = "Host: test\r\nAccept-Encoding: gzip";
                    let answer = visitor.ask(format!("GET {target} HTTP/1.1\r\n{fields}\r\n\r\n"));
                    assert!(answer.status == 200 && !answer.cut, "{}", answer.head);
                    match answer.field("Content-Encoding") {
                        Some("gzip") => compressed += 1,
                        // There was no memory for a compressor at that moment.
                        _ => assert_eq!(answer.body.len(), expected, "{target}"),
                    }
                }
                compressed
            })
        };
        let files: Vec<_> = (0..25)
            .map(|_| gzip("/text.txt", large_text.len()))
            .collect();
        let answers: Vec<_> = (0..25).map(|_| gzip("/x", answer.len())).collect();
        let uploads = [(); 3].map(|()| {
            let (proxy, body) = (&proxy, &body);
            scope.spawn(move || {
                let mut visitor = proxy.visit();
                visitor.send_post("/upload", body);
                visitor.answer().status
            })
        });
        let statuses = uploads.map(thread::ScopedJoinHandle::join);
        // The other clients would go on for ever.
        stop.store(true, Ordering::SeqCst);
        assert_eq!(statuses.map(Result::ok), [Some(200); 3]);
        let count = |threads: Vec<thread::ScopedJoinHandle<'_, usize>>| -> usize {
            threads.into_iter().map(|one| one.join().unwrap()).sum()
        };
        assert!(
            count(files) > 0 && count(answers) > 0,
            "nothing was compressed"
        );
    });
    let peak = status(&proxy, "VmHWM:");
    assert!(peak < SMALL, "{peak} bytes");
    drop((idle, slow));
    wait_at_most(GIVEN_BACK, "the return of memory to the system", || {
        status(&proxy, "RssAnon:") < 12 * MEBIBYTE
    });
    drop(proxy);
    drop(group);
}
