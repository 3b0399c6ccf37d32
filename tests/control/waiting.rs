//! `--wait`: a command that ends when no request is in flight any more.

use std::process::{Child, Stdio};

use super::commands::{MAP, STATUS, done, program, refused, run};
use crate::common::{Backend, EchoServer, Proxy, Server, Visitor, assert_contains, wait_until};
use crate::tunnels::{assert_open, switch};

/// Starts a command that waits.
fn begin(proxy: &Proxy, arguments: &[&str]) -> Child {
    let mut program = program(proxy);
    program.args(["-c", "swiftiply.yml"]).args(arguments);
    program.stdout(Stdio::piped()).spawn().unwrap()
}

/// Its end, which must be a success.
fn end(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn for_the_requests_of_a_site() {
    let proxy = Proxy::start(&format!("{STATUS}\n{MAP}"));
    let mut app = Backend::dial_as(proxy.dial_in(), "000000000001", "");
    let mut slow = Backend::dial_as(proxy.dial_in(), "000000000002", "");
    proxy.wait_for_logs("joined", 2);
    proxy.wait_until_idle();
    // An upgraded connection does not count.
    let mut tunnel = proxy.visit();
    switch(&mut tunnel, &mut slow);
    let mut first = proxy.ask("/first");
    assert_eq!(app.request().target(), "/first");
    let mut queued = proxy.ask("/queued");
    wait_until("the request in the queue", || {
        done(&proxy, &["sites", "--json"]).contains("\"waiting\":1")
    });
    let late = run(&proxy, &["pause", "test", "--wait=200ms"]);
    assert_eq!(late.code, Some(4), "{late:?}");
    assert_eq!(
        late.err,
        "swiftiplyctl: test still has 1 request in flight after 200ms\n"
    );
    assert_contains(&late.out, "test is paused");
    let child = begin(&proxy, &["pause", "test", "--wait"]);
    app.reply_to(&mut first, "one");
    assert_contains(&end(child), "test has no request in flight any more\n");
    assert_open(&mut tunnel, &mut slow);
    done(&proxy, &["resume", "test"]);
    assert_eq!(app.request().target(), "/queued");
    app.reply_to(&mut queued, "two");
    assert_contains(
        &done(&proxy, &["drain", "test", "--wait=60"]),
        "no request in flight",
    );
    assert_eq!(
        refused(&proxy, &["drain", "nowhere", "--wait"], 1),
        "\"nowhere\" is neither a site, nor the name, id or IP address of a connected backend, nor the address of a server"
    );
    drop((tunnel, slow, app, first, queued));
    proxy.finish_without_leak_check();
}

#[test]
fn for_the_requests_of_a_backend_or_a_server() {
    let server = Server::start();
    let other = EchoServer::start();
    let address = server.address().to_string();
    let proxy = Proxy::start(&format!(
        "{STATUS}\n{MAP}  - {{incoming: there, proxy: traditional, servers: ['{address}', '{}']}}\n",
        other.address()
    ));
    let mut app = Backend::dial_as(proxy.dial_in(), "000000000001", "");
    proxy.wait_for_log("joined");
    proxy.wait_until_idle();
    let mut client = proxy.ask("/");
    app.request();
    for name in ["000000000001", "127.0.0.1"] {
        let late = run(&proxy, &["drain", name, "--wait=0"]);
        assert_eq!(late.code, Some(4), "{late:?}");
        assert_contains(&late.err, " 1 request in flight");
    }
    let child = begin(&proxy, &["drain", "000000000001", "--wait"]);
    app.reply_to(&mut client, "ok");
    assert_contains(&end(child), "000000000001 has no request in flight");
    // One of the two requests is at each server.
    let mut clients = [(); 2].map(|()| {
        let mut visitor = Visitor::connect(proxy.address());
        visitor.send("GET / HTTP/1.1\r\nHost: there\r\n\r\n");
        visitor
    });
    let mut backend = server.accept_asking();
    backend.request();
    let late = run(&proxy, &["drain", &address, "--wait=100ms"]);
    assert_eq!(late.code, Some(4), "{late:?}");
    let child = begin(&proxy, &["drain", &address, "--wait", "--json"]);
    backend.reply("/");
    assert_contains(&end(child), "is drained");
    for client in &mut clients {
        assert_eq!(client.answer().text(), "/");
    }
    drop((clients, client, app, backend));
    proxy.finish_without_leak_check();
}
