//! Reloads, drains, files, and the sample.

use nix::sys::signal::Signal;

use super::{one, site};
use crate::common::proxy::SITE;
use crate::common::{Echo, EchoServer, Proxy, Server};

#[test]
fn reload() {
    let [stays, goes, comes] = [(); 3].map(|()| Server::start());
    let [a, b, c] = [&stays, &goes, &comes].map(|server| server.address().to_string());
    let proxy = Proxy::start(&site(&[&a, &b], ""));
    let mut first = proxy.ask("/stays");
    let mut one = stays.accept();
    one.request();
    let mut second = proxy.ask("/goes");
    let mut two = goes.accept();
    two.request();
    let mut third = proxy.ask("/idle");
    let mut three = stays.accept();
    three.request();
    let mut fourth = proxy.ask("/idle");
    let mut four = goes.accept();
    four.request();
    three.reply_to(&mut third, "ok");
    four.reply_to(&mut fourth, "ok");
    proxy.reload(&site(&[&c, &a], ", server_connections: 3"));
    // Idle connections are closed, exchanges complete.
    four.assert_closed();
    two.reply_to(&mut second, "gone");
    two.assert_closed();
    // The new server has the fewest requests; the old one has kept its connection.
    third.send_get("/new");
    let mut new = comes.accept();
    assert_eq!(new.request().target(), "/new");
    fourth.send_get("/old");
    let mut fifth = proxy.ask("/old");
    let mut other = comes.accept();
    for backend in [&mut three, &mut other] {
        assert_eq!(backend.request().target(), "/old");
        backend.reply("old");
    }
    new.reply("new");
    one.reply_to(&mut first, "stays");
    assert_eq!(third.answer().text(), "new");
    assert_eq!(fourth.answer().text(), "old");
    assert_eq!(fifth.answer().text(), "old");
    // A reload changes the site to backends that dial in, and back.
    proxy.reload(SITE);
    for backend in [&mut one, &mut three, &mut new, &mut other] {
        backend.assert_closed();
    }
    proxy.reload(&site(&[&a], ""));
    first.send_get("/back");
    let mut back = stays.accept();
    back.request();
    back.reply_to(&mut first, "back");
    drop((first, second, third, fourth, fifth, back));
    proxy.finish_without_leak_check();
}

#[test]
fn draining() {
    let (server, mut proxy) = one(", server_connections: 1");
    let mut first = proxy.ask("/first");
    let mut backend = server.accept();
    backend.request();
    let mut second = proxy.ask("/second");
    assert_eq!(proxy.visit().get("/swiftiply_health").status, 200);
    proxy.signal(Signal::SIGTERM);
    proxy.wait_for_log("draining");
    backend.reply_to(&mut first, "first");
    assert_eq!(backend.request().target(), "/second");
    backend.reply("second");
    let answer = second.answer();
    assert_eq!(answer.text(), "second");
    assert_eq!(answer.field("Connection"), Some("close"));
    assert_eq!(proxy.wait().code(), Some(0));
    backend.assert_closed();
}

#[test]
fn sample() {
    let servers = [(); 2].map(|()| EchoServer::start());
    let [a, b] = [0, 1].map(|n: usize| servers[n].address().to_string());
    let sample = include_str!("../../conf/traditional.yml");
    let yaml = sample
        .replace("cluster_port: 8080", "cluster_port: 0")
        .replace("127.0.0.1:3000, 127.0.0.1:3001", &format!("'{a}', '{b}'"))
        .replace("127.0.0.1:30000", "127.0.0.1:0");
    let proxy = Proxy::start(&yaml);
    let mut visitor = proxy.visit();
    for n in 0..10 {
        let target = format!("/{n}");
        assert_eq!(visitor.get(&target).text(), target);
    }
    // Checks come in addition.
    assert!(
        servers.iter().all(|server| server.answered() >= 5),
        "a server got too few requests: {:?}",
        servers.iter().map(EchoServer::answered).collect::<Vec<_>>()
    );
    // The backup is used where it is configured.
    let echo = Echo::dial(proxy.dial_in(), "000000000001", "");
    let request = "GET /sorry HTTP/1.1\r\nHost: sorry.example.com\r\n\r\n";
    assert_eq!(visitor.ask(request).text(), "/sorry");
    assert_eq!(echo.answered(), 1);
    drop((visitor, servers, echo));
    proxy.finish();
}

#[test]
fn files_need_no_server() {
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("file.txt"), "a file").unwrap();
    let server = EchoServer::start();
    let docroot = format!(", docroot: {}", files.path().display());
    let proxy = Proxy::start(&site(&[&server.address().to_string()], &docroot));
    let mut visitor = proxy.visit();
    assert_eq!(visitor.get("/file.txt").text(), "a file");
    assert_eq!(server.answered(), 0);
    assert_eq!(visitor.get("/other.txt").text(), "/other.txt");
    assert_eq!(server.answered(), 1);
    drop((visitor, server));
    proxy.finish();
}
