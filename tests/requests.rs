//! Which requests are accepted, which are refused, and what reaches the backend: raw bytes, whole and cut at every offset.

mod accepted;
mod bodies;
mod connection;
mod refused;

use std::sync::mpsc;
use std::thread;

use crate::common::{Backend, Proxy};

/// A proxy, and a backend that answers everything and tells what it got.
fn recorded() -> (Proxy, thread::JoinHandle<()>, mpsc::Receiver<String>) {
    recorded_with("")
}

fn recorded_with(lines: &str) -> (Proxy, thread::JoinHandle<()>, mpsc::Receiver<String>) {
    let proxy = Proxy::both_with(lines);
    let mut backend = Backend::dial(proxy.dial_in());
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        while let Some(seen) = backend.next() {
            let body = String::from_utf8(seen.body).unwrap();
            sender.send(seen.head.replace("\r\n", "|") + &body).unwrap();
            if sender.send(String::new()).is_ok() {
                backend.reply("ok");
            }
            if body == "last" {
                return;
            }
        }
    });
    (proxy, thread, receiver)
}

/// What the backend got, without the fields that the proxy adds; checks those.
fn forwarded(receiver: &mpsc::Receiver<String>, host: &str, version: &str, secure: bool) -> String {
    let whole = receiver.recv().unwrap();
    assert_eq!(receiver.recv().unwrap(), "");
    let proto = if secure { "https" } else { "http" };
    let added = format!(
        "X-Forwarded-For: 127.0.0.1|X-Forwarded-Proto: {proto}|X-Forwarded-Host: {host}|X-Real-IP: 127.0.0.1|\
         Via: {version} swiftiply|"
    );
    let (before, rest) = whole
        .split_once(&added)
        .unwrap_or_else(|| panic!("{whole} lacks {added}"));
    let times = rest.strip_prefix("X-Request-Start: t=").unwrap();
    let (start, rest) = times.split_once("|X-Queue-Time: ").unwrap();
    let (waited, rest) = rest.split_once("|X-Request-Id: ").unwrap();
    let (id, rest) = rest.split_once('|').unwrap();
    // Microseconds since 1970.
    assert_eq!(start.parse::<u64>().unwrap().to_string().len(), 16);
    assert!(waited.parse::<u64>().is_ok(), "{whole}");
    assert_eq!(id.len(), 32, "{whole}");
    [before, rest].concat()
}

fn end(proxy: Proxy, thread: thread::JoinHandle<()>) {
    let last = proxy
        .visit()
        .ask("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nlast");
    assert_eq!(last.text(), "ok");
    thread.join().unwrap();
    proxy.finish();
}

const POST: &str = "POST / HTTP/1.1\r\nHost: test\r\n";

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n\r\n";
