//! Ids of requests (`request_id`), and the fields of W3C Trace Context.

use super::exchanges::{check, line};
use crate::common::backend::Seen;
use crate::common::proxy::site;
use crate::common::{
    Access, Backend, Proxy, Server, Visitor, assert_contains, assert_lacks, settle,
};

const LOGS: &str = "access_log: {file: access, format: json}\n";
const TRUSTED: &str = "trusted_proxies: 127.0.0.1\n";

fn start(keys: &str, lines: &str) -> (Proxy, Backend, Visitor) {
    let proxy = Proxy::start(&format!("{LOGS}{lines}{}", site(keys)));
    let backend = Backend::dial(proxy.dial_in());
    let client = proxy.visit();
    (proxy, backend, client)
}

fn request(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n")
}

fn ids(seen: &Seen) -> Vec<&str> {
    let lines = seen.head.lines();
    lines
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| name.eq_ignore_ascii_case("x-request-id"))
        .map(|(_, id)| id)
        .collect()
}

#[test]
fn one_new_id_for_each_request() {
    let (proxy, mut backend, mut client) = start("retries: 0", "");
    let mut seen = Vec::new();
    // A client's own id counts for nothing.
    let fields = "X-Request-Id: chosen\r\nx-request-id: twice\r\n";
    for (target, fields) in [
        ("/a", ""),
        ("/b", fields),
        ("/c", "X_Request_Id: other\r\n"),
    ] {
        client.send(request(target, fields));
        let request = backend.request();
        backend.reply_to(&mut client, "ok");
        let found = ids(&request);
        assert_eq!(found.len(), 1, "{request:?}");
        assert_lacks(&request.head, "chosen");
        check(&line(&proxy, target), &[("request_id", found[0])]);
        seen.push(found[0].to_owned());
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 3, "{seen:?}");
    // A message about a request has its id too.
    client.send(request("/fails", ""));
    let request = backend.request();
    drop(backend);
    assert_eq!(client.answer().status, 502);
    let id = ids(&request)[0].to_owned();
    proxy.wait_for_log("502 GET /fails");
    let log = proxy.log();
    let message = log.lines().find(|line| line.contains("502 GET /fails"));
    assert!(
        message.is_some_and(|line| line.ends_with(&format!(" request_id={id}"))),
        "{message:?}"
    );
    // So has one about a request that could not be read.
    let mut bad = proxy.visit();
    assert_eq!(bad.ask("GET /bad HTTP/1.1\r\nA : b\r\n\r\n").status, 400);
    let bad_id = line(&proxy, "-")["request_id"].as_str().unwrap().to_owned();
    proxy.wait_for_log(&format!("request_id={bad_id}"));
    drop((client, bad));
    proxy.finish();
}

#[test]
fn ids_of_trusted_proxies() {
    let (proxy, mut backend, mut client) = start("retries: 0", TRUSTED);
    let mut ask = |target: &str, fields: &str| {
        client.send(request(target, fields));
        let request = backend.request();
        backend.reply_to(&mut client, "ok");
        let found: Vec<_> = ids(&request).into_iter().map(str::to_owned).collect();
        assert_eq!(found.len(), 1, "{request:?}");
        check(&line(&proxy, target), &[("request_id", &found[0])]);
        found.into_iter().next().unwrap()
    };
    assert_eq!(ask("/a", "x-request-id: Root=1-5f:a\r\n"), "Root=1-5f:a");
    let two = "X-Request-Id: client\r\nX-Request-Id: proxy\r\n";
    assert_eq!(ask("/b", two), "proxy");
    // What is not an id is replaced.
    for (target, wrong) in [("/c", "a b"), ("/d", "\"\""), ("/e", &"x".repeat(129))] {
        let id = ask(target, &format!("X-Request-Id: {wrong}\r\n"));
        assert_eq!(id.len(), 32, "{id}");
    }
    drop((client, backend));
    proxy.finish();
}

#[test]
fn ids_in_responses() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("file.txt"), "text").unwrap();
    settle(root.path());
    let keys = format!("request_id: response, docroot: '{}'", root.path().display());
    let (proxy, mut backend, mut client) = start(&keys, "");
    client.send_get("/app");
    let request = backend.request();
    backend.send("HTTP/1.1 200 OK\r\nX-Request-Id: of-app\r\nContent-Length: 2\r\n\r\nok");
    let answer = client.answer();
    let expected = format!("X-Request-Id: {}\r\n", ids(&request)[0]);
    assert_contains(&answer.head, &expected);
    assert_eq!(answer.head.matches("X-Request-Id").count(), 1, "{answer:?}");
    // A file, from disk or from memory.
    for _ in 0..3 {
        let answer = client.get("/file.txt");
        assert_eq!(answer.text(), "text");
        assert_eq!(
            answer.head.matches("X-Request-Id: ").count(),
            1,
            "{answer:?}"
        );
    }
    // Without the key the client gets none.
    proxy.reload(&format!("{LOGS}{}", site("")));
    client.send_get("/app");
    backend.request();
    backend.reply("ok");
    assert_lacks(&client.answer().head, "X-Request-Id");
    drop((client, backend));
    proxy.finish_without_leak_check();
}

#[test]
fn ids_of_tunnels_and_failures_in_responses() {
    let (proxy, mut backend, mut client) = start("request_id: response, retries: 0", "");
    client.send_get("/fails");
    backend.request();
    drop(backend);
    let answer = client.answer();
    assert_eq!(answer.status, 502);
    let id = line(&proxy, "/fails")["request_id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_contains(&answer.head, &format!("X-Request-Id: {id}\r\n"));
    let mut backend = Backend::dial(proxy.dial_in());
    client.send(request("/ws", "Connection: upgrade\r\nUpgrade: x\r\n"));
    let seen = backend.request();
    backend.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\nX-Request-Id: of-app\r\n\r\n");
    let head = client.answer().head;
    assert_contains(&head, &format!("X-Request-Id: {}\r\n", ids(&seen)[0]));
    assert_lacks(&head, "of-app");
    drop((client, backend));
    proxy.finish();
}

#[test]
fn no_ids() {
    let (proxy, mut backend, mut client) = start("request_id: false, retries: 0", TRUSTED);
    client.send(request("/a", ""));
    assert_lacks(&backend.request().head, "X-Request-Id");
    backend.reply_to(&mut client, "ok");
    check(&line(&proxy, "/a"), &[("request_id", "-")]);
    client.send(request("/b", "X-Request-Id: mine\r\n"));
    assert_eq!(ids(&backend.request()), ["mine"]);
    drop(backend);
    assert_eq!(client.answer().status, 502);
    proxy.wait_for_log("502 GET /b");
    assert_lacks(&proxy.log(), "request_id=");
    drop(client);
    proxy.finish();
}

#[test]
fn trace_context() {
    let (proxy, mut backend, mut client) = start("retries: 0", "");
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let fields = format!("traceparent: 00-{trace}-b7ad6b7169203331-01\r\ntracestate: a=b,c=d\r\n");
    client.send(request("/a", &fields));
    assert_contains(&backend.request().head, &fields);
    backend.reply_to(&mut client, "ok");
    check(&line(&proxy, "/a"), &[("trace_id", trace)]);
    // A wrong one is none of our business.
    client.send(request("/b", "traceparent: 1\r\n"));
    assert_contains(&backend.request().head, "traceparent: 1\r\n");
    backend.reply_to(&mut client, "ok");
    check(&line(&proxy, "/b"), &[("trace_id", "-")]);
    drop((client, backend));
    proxy.finish();
}

#[test]
fn through_the_access_proxy() {
    let proxy = Proxy::start(&format!("{LOGS}{}", site("")));
    let server = Server::start();
    let access = Access::between(proxy.dial_in(), server.address(), 1);
    let mut client = proxy.visit();
    let trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    client.send(request("/a", trace));
    // The first connections only check whether it answers.
    let (mut app, seen) = loop {
        let mut app = server.accept();
        if let Some(seen) = app.next() {
            break (app, seen);
        }
    };
    app.reply_to(&mut client, "ok");
    assert_contains(&seen.head, trace);
    let found = ids(&seen);
    assert_eq!(found.len(), 1, "{seen:?}");
    check(&line(&proxy, "/a"), &[("request_id", found[0])]);
    drop((client, app));
    access.finish();
    proxy.finish();
}
