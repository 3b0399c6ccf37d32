//! An application server of others: Debian's thin.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{Load, Proxy, Running, assert_lacks, bytes, needs};
use crate::upgrade::Successor;

/// Answers with process id, path, and a checksum of what was sent.
const CONFIG_RU: &str = r##"
require "zlib"
run lambda { |env|
  body = env["rack.input"].read
  text = "#{Process.pid} #{env["PATH_INFO"]} #{body.bytesize} #{Zlib.crc32(body)} #{env["HTTP_X_FORWARDED_FOR"]}\n"
  fields = {"Content-Type" => "text/plain"}
  fields["Content-Length"] = text.bytesize.to_s unless env["PATH_INFO"] == "/unframed"
  [200, fields, [text]]
}
"##;

/// Starts a worker process.
fn thin(directory: &Path, address: SocketAddr) -> Running {
    thin_with(directory, address, "secret", Stdio::null)
}

fn thin_with(
    directory: &Path,
    address: SocketAddr,
    key: &str,
    output: impl Fn() -> Stdio,
) -> Running {
    let child = Command::new("thin")
        .arg(format!("--swiftiply={key}"))
        .args(["--address", &address.ip().to_string()])
        .args(["--port", &address.port().to_string()])
        .args(["-R", "config.ru", "start"])
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(output())
        .stderr(output())
        .spawn()
        .unwrap();
    Running(child)
}

/// The checksum of the application.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

/// What the application answers, without its process id.
fn expected(path: &str, body: &[u8]) -> String {
    format!("{path} {} {} 127.0.0.1\n", body.len(), crc32(body))
}

fn split(text: &str) -> (&str, &str) {
    text.split_once(' ').unwrap_or_else(|| panic!("{text:?}"))
}

#[test]
fn stay_connected_through_upgrades() {
    needs!("thin");
    let mut proxy = Proxy::start_with(
        "map: [{incoming: test, default: true, outgoing: '127.0.0.1:0', key: secret, timeout: 60}]",
        &["--pid", "pid"],
    );
    fs::write(proxy.file("config.ru"), CONFIG_RU).unwrap();
    let workers = [(); 2].map(|()| thin(proxy.directory(), proxy.dial_in()));
    proxy.wait_for_logs(" joined ", 2);
    let load = Load::of(proxy.address(), false, |target, text| {
        split(text).1 == expected(target, b"")
    });
    load.wait_for(100);
    let first = Successor::of(&proxy);
    load.wait_for(100);
    let second = first.next(&proxy);
    load.wait_for(100);
    load.end();
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
    assert_lacks(&proxy.log(), " disconnected (");
    assert_eq!(proxy.log().matches(" joined ").count(), 2);
    drop(workers);
    second.finish();
}

#[test]
fn one_of_three_killed() {
    needs!("thin");
    let proxy = Proxy::start(
        "map: [{incoming: test, outgoing: '127.0.0.1:0', key: secret, timeout: 60, order: oldest}]",
    );
    fs::write(proxy.file("config.ru"), CONFIG_RU).unwrap();
    let start = || thin(proxy.directory(), proxy.dial_in());
    let mut workers = [(); 3].map(|()| Some(start()));
    proxy.wait_for_logs(" joined ", 3);

    // The workers answer in turn.
    let mut visitor = proxy.visit();
    let mut pids: Vec<String> = Vec::new();
    for n in 0..9 {
        let path = format!("/turn/{n}");
        let text = visitor.get(&path).text();
        let (pid, rest) = split(&text);
        assert_eq!(rest, expected(&path, b""));
        pids.push(pid.to_owned());
    }
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 3, "{pids:?}");

    // A megabyte, with a length and in chunks.
    let body = bytes(1_048_576);
    for _ in 0..10 {
        let text = visitor.send_post("/big", &body).answer().text();
        assert_eq!(split(&text).1, expected("/big", &body));
        visitor.send("POST /chunks HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
        for piece in body.chunks(100_003) {
            visitor
                .send(format!("{:x}\r\n", piece.len()))
                .send(piece)
                .send("\r\n");
        }
        let text = visitor.send("0\r\n\r\n").answer().text();
        assert_eq!(split(&text).1, expected("/chunks", &body));
    }
    visitor.send("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(visitor.answer_to("HEAD").status, 200);

    // Under load one is killed, another one comes, and no request that may be repeated is lost.
    let load = Load::of(proxy.address(), false, |target, text| {
        split(text).1 == expected(target, b"")
    });
    for (round, worker) in workers.iter_mut().enumerate() {
        load.wait_for(200);
        *worker = None;
        load.wait_for(200);
        *worker = Some(start());
        proxy.wait_for_logs(" joined ", 4 + round);
    }
    load.wait_for(200);
    load.end();

    // A response without a length, while thin keeps its connection: its end is seen all the same.
    let text = visitor.get("/unframed").text();
    assert_eq!(split(&text).1, expected("/unframed", b""));
    proxy.wait_for_log("the application sends responses without Content-Length");
    assert_eq!(visitor.get("/after").status, 200);

    drop((visitor, workers));
    proxy.finish();
}

#[test]
fn is_sent_no_reason_for_a_refusal() {
    needs!("thin");
    let proxy = Proxy::start("map: [{incoming: test, outgoing: '127.0.0.1:0', key: secret}]");
    fs::write(proxy.file("config.ru"), CONFIG_RU).unwrap();
    let output = fs::File::create(proxy.file("thin.log")).unwrap();
    let output = || Stdio::from(output.try_clone().unwrap());
    let worker = thin_with(proxy.directory(), proxy.dial_in(), "wrong", output);
    proxy.wait_for_logs("refused: wrong key: reason=bad_key", 2);
    drop(worker);
    // It would take a line of the server for a request, and say so.
    assert_lacks(&proxy.read("thin.log"), "Invalid");
    proxy.finish();
}
