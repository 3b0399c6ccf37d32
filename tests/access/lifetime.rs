//! Reloads, drains, and a full log.

use std::fs;
use std::net::SocketAddr;

use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGTERM};

use crate::common::proxy::site;
use crate::common::{
    Access, EchoServer, Load, Proxy, Server, assert_contains, assert_lacks, full_listener, limit,
    wait_until,
};

#[test]
fn reload() {
    let proxy = Proxy::start(&site("key: [one, two]"));
    let other = Proxy::simple();
    let (app, second) = (EchoServer::start(), EchoServer::start());
    let yaml = |connect: SocketAddr, app: &EchoServer, rest: &str| {
        format!("{{connect: '{connect}', to: '{}', {rest}}}", app.address())
    };
    let (dial_in, elsewhere) = (proxy.dial_in(), other.dial_in());
    let access = Access::start(&yaml(dial_in, &app, "connections: 2, key: one"), &[]);
    proxy.wait_for_logs(" joined ", 2);
    let load = Load::start(proxy.address(), false);
    load.wait_for(50);
    // More connections, and fewer.
    access.reload(&yaml(dial_in, &app, "connections: 6, key: one"));
    proxy.wait_for_logs(" joined ", 6);
    load.wait_for(100);
    access.reload(&yaml(dial_in, &app, "connections: 1, key: one"));
    // Idle, or with a request that was just sent and goes to another one.
    proxy.wait_for_logs(" at 127.0.0.1:0 closed: reason=", 5);
    app.forget_most();
    load.wait_for(100);
    assert_eq!(app.most(), 1);
    // Another key, another application.
    access.reload(&yaml(dial_in, &app, "connections: 3, key: two"));
    proxy.wait_for_logs(" joined ", 9);
    load.wait_for(100);
    access.reload(&yaml(dial_in, &second, "connections: 3, key: two"));
    wait_until("answers of the second application", || {
        second.answered() > 0
    });
    load.wait_for(100);
    // A configuration with a problem changes nothing.
    access.reload(&yaml(dial_in, &second, "connections: 0"));
    assert_contains(
        &access.log(),
        "access.yml:2: connections 0: write a number from 1 to 1000",
    );
    access.reload(&yaml(dial_in, &second, "connections: 3, ssl: {ca: /none}"));
    assert_contains(&access.log(), "reload failed: ssl: /none: ");
    load.wait_for(150);
    load.end();
    // Another server.
    access.reload(&yaml(elsewhere, &second, "connections: 3"));
    assert_eq!(other.visit().get("/a").text(), "/a");
    access.wait_for_log(&format!("server {dial_in}: leaving"));
    access.finish();
    drop((app, second));
    proxy.finish();
    other.finish();
}

#[test]
fn drain() {
    let proxy = Proxy::simple();
    let app = Server::start();
    let mut access = Access::between(proxy.dial_in(), app.address(), 3);
    let mut visitor = proxy.ask("/slow");
    let mut backend = app.accept_asking();
    backend.request();
    access.signal(SIGTERM);
    proxy.wait_for_logs("closed: reason=peer_closed", 2);
    assert_lacks(&access.log(), "drained");
    backend.reply_to(&mut visitor, "in time");
    assert_eq!(access.wait().code(), Some(0));
    // The second signal cuts.
    let mut access = Access::between(proxy.dial_in(), app.address(), 1);
    visitor.send("POST /slow HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n");
    let mut backend = app.accept_asking();
    backend.request();
    access.signal(SIGINT);
    access.wait_for_log("draining");
    access.signal(SIGINT);
    assert_eq!(access.wait().code(), Some(1));
    access.wait_for_log("stopped with 1 request under way");
    assert_eq!(visitor.answer().status, 502);
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn full_log() {
    let proxy = Proxy::simple();
    let app = EchoServer::start();
    let access = Access::between(proxy.dial_in(), app.address(), 1);
    limit(access.pid(), &format!("--fsize={}:", access.log().len()));
    let yaml = fs::read_to_string(access.file("access.yml")).unwrap();
    let more = yaml.replace("connections: 1", "connections: 2");
    fs::write(access.file("access.yml"), more).unwrap();
    access.signal(SIGHUP);
    proxy.wait_for_logs(" joined ", 2);
    assert_eq!(proxy.visit().get("/a").text(), "/a");
    access.finish();
    drop(app);
    proxy.finish();
}

#[test]
fn drain_without_server() {
    let (server, queue) = full_listener();
    let app = EchoServer::start();
    let mut access = Access::start(
        &format!("{{connect: '{server}', to: '{}', grace: 1}}", app.address()),
        &[],
    );
    access.wait_for_log("answers");
    access.signal(SIGTERM);
    // An attempt to connect may take ten seconds, but no exchange is under way.
    assert_eq!(access.wait().code(), Some(0));
    drop((app, queue));
}

/// Idle connections cost no threads, and places are counted apart from them.
#[test]
fn many_connections() {
    let proxy = Proxy::start(&site(""));
    let app = EchoServer::start();
    let yaml = format!(
        "{{connect: '{}', to: '{}', places: 2, connections: 300}}",
        proxy.dial_in(),
        app.address()
    );
    let access = Access::start(&yaml, &[]);
    proxy.wait_for_logs(" joined ", 300);
    app.hold(true);
    let mut visitors: Vec<_> = (0..6).map(|n| proxy.ask(&format!("/hold/{n}"))).collect();
    wait_until("requests at the application", || app.held() == 2);
    let status = fs::read_to_string(format!("/proc/{}/status", access.pid())).unwrap();
    let number = |key: &str| -> usize {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        let number = line.split_whitespace().nth(1);
        number.unwrap().parse().unwrap()
    };
    assert!(number("Threads:") < 18, "{status}");
    assert!(number("VmRSS:") < 16 << 10, "{status}");
    app.hold(false);
    for (n, visitor) in visitors.iter_mut().enumerate() {
        assert_eq!(visitor.answer().text(), format!("/hold/{n}"));
    }
    assert_eq!(app.most(), 2);
    drop(visitors);
    access.finish();
    proxy.finish();
}
