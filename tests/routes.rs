//! `routes`: paths of a site that have backends of their own.

use std::fs;

use crate::common::{Backend, Port, Proxy, Server, Visitor, assert_contains, wait_until};
use crate::tunnels::assert_open;

/// A site that takes everything, with routes and more keys.
fn site(routes: &str, keys: &str) -> String {
    format!(
        "status: {{at: '127.0.0.1:0'}}\naccess_log: access\n\
         map: [{{incoming: test, default: true, timeout: 60, {keys}, routes: [{routes}]}}]"
    )
}

const OWN: &str = "outgoing: '127.0.0.1:0'";

/// A proxy whose site and route `/api` have a backend each, which have dialled in, and a client.
fn scene(more: &str) -> (Proxy, Backend, Backend, Visitor) {
    let route = format!("{{match: /api, outgoing: '127.0.0.2:0'{more}}}");
    let proxy = Proxy::start(&site(&route, OWN));
    let at = |host: &str| {
        let mut addresses = proxy.dial_ins().iter();
        *addresses.find(|at| at.ip().to_string() == host).unwrap()
    };
    let own = Backend::dial(at("127.0.0.1"));
    let api = Backend::dial(at("127.0.0.2"));
    let client = proxy.visit();
    (proxy, own, api, client)
}

/// The request as a backend gets it, which responds.
fn served(client: &mut Visitor, backend: &mut Backend, target: &str) -> String {
    client.send_get(target);
    let seen = backend.request();
    backend.reply_to(client, "ok");
    seen.head
}

fn line(head: &str) -> &str {
    head.lines().next().unwrap_or_default()
}

#[test]
fn longest_match_gets_the_request() {
    let (proxy, mut own, mut api, mut client) = scene("");
    for target in ["/api", "/api/x?y", "/%61pi", "//api", "/./api/", "/api%2Fx"] {
        let head = served(&mut client, &mut api, target);
        assert_eq!(line(&head), format!("GET {target} HTTP/1.1"));
        assert!(!head.contains("X-Forwarded-Prefix"), "{head}");
    }
    for target in ["/", "/apix", "/Api", "/x/api", "/api;x"] {
        let head = served(&mut client, &mut own, target);
        assert_eq!(line(&head), format!("GET {target} HTTP/1.1"));
    }
    for target in ["/api/..", "/x/%2e%2e/api", "/api/..;/x"] {
        assert_eq!(client.get(target).status, 400, "{target}");
        client = proxy.visit();
    }
    // A body goes there as well.
    client.send_post("/api/body", "abcd");
    assert_eq!(api.request().body, b"abcd");
    api.reply_to(&mut client, "ok");
    let mut status = Visitor::connect(proxy.status_address());
    let list = status
        .ask("GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .text();
    assert_contains(&list, "\"test/api\"");
    // An upgrade is one of the site, and its bytes go to the route's backend.
    client.send(
        "GET /api/chat HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    assert_eq!(api.request().field("Upgrade"), Some("websocket"));
    api.send(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    );
    assert_eq!(client.answer().status, 101);
    assert_open(&mut client, &mut api);
    drop((own, api, client, status));
    proxy.finish_without_leak_check();
}

#[test]
fn path_is_stripped_or_rewritten() {
    let server = Server::start();
    let route = format!(
        "{{match: /app, outgoing: 'http://{0}', strip: true}}, {{match: /app/v1/, outgoing: 'http://{0}', rewrite: /v2}}",
        server.address()
    );
    let proxy = Proxy::start(&format!(
        "{}\ntrusted_proxies: 127.0.0.2",
        site(&route, OWN)
    ));
    let mut client = proxy.ask("/app");
    let mut backend = server.accept();
    let check = |client: &mut Visitor, backend: &mut Backend, expected: &str, prefix: &str| {
        let seen = backend.request();
        assert_eq!(seen.target(), expected);
        assert_eq!(seen.field("X-Forwarded-Prefix"), Some(prefix));
        let count = seen.head.matches("X-Forwarded-Prefix").count();
        assert_eq!(count, 1, "{}", seen.head);
        backend.reply_to(client, "ok");
    };
    check(&mut client, &mut backend, "/", "/app");
    for (target, expected) in [
        ("/app/", "/"),
        ("/app?q=/app", "/?q=/app"),
        ("/app/a%20b//c/?d", "/a%20b//c/?d"),
        ("//%61pp//evil.example", "/evil.example"),
        ("/app%2F%2fx", "/x"),
    ] {
        client.send_get(target);
        check(&mut client, &mut backend, expected, "/app");
    }
    // The other route has connections of its own.
    client.send_get("/app/v1");
    let mut rewritten = server.accept();
    check(&mut client, &mut rewritten, "/v2", "/app/v1");
    client.send_get("/app/v1/x?y");
    check(&mut client, &mut rewritten, "/v2/x?y", "/app/v1");
    // A client may not claim a prefix; a proxy in front may have removed one.
    let claim = "GET /app/x HTTP/1.1\r\nHost: test\r\nX-Forwarded-Prefix: /outer\r\n\r\n";
    client.send(claim);
    check(&mut client, &mut backend, "/x", "/app");
    let mut trusted = Visitor::connect_from([127, 0, 0, 2], proxy.address());
    trusted.send(claim);
    check(&mut trusted, &mut backend, "/x", "/outer, /app");
    // The log has what the client has sent.
    wait_until("the request is logged", || {
        proxy
            .read("access")
            .contains("GET /app/a%20b//c/?d HTTP/1.1")
    });
    drop((client, trusted, backend, rewritten));
    proxy.finish_without_leak_check();
}

#[test]
fn files_are_beside_routes() {
    let files = tempfile::tempdir().unwrap();
    fs::create_dir(files.path().join("api")).unwrap();
    fs::write(files.path().join("index.html"), "start").unwrap();
    fs::write(files.path().join("api/file"), "hidden").unwrap();
    let server = Server::start();
    let route = format!("{{match: /api, outgoing: 'http://{}'}}", server.address());
    let docroot = format!(
        "docroot: '{}', fallback: /index.html",
        files.path().display()
    );
    let proxy = Proxy::start(&site(&route, &docroot));
    let mut client = proxy.visit();
    assert_eq!(client.get("/").text(), "start");
    assert_eq!(client.get("/some/page").text(), "start");
    client.send_get("/api/file");
    let mut backend = server.accept();
    assert_eq!(backend.request().target(), "/api/file");
    backend.reply_to(&mut client, "ok");
    // A reload takes the route away, so that the file is there, and brings it back without any other backend.
    let keys = docroot.as_str();
    proxy.reload(&site("", keys));
    assert_eq!(client.get("/api/file").text(), "hidden");
    proxy.reload(&site(&route, "outgoing: []"));
    client.send_get("/api/back");
    let mut backend = server.accept();
    assert_eq!(backend.request().target(), "/api/back");
    backend.reply_to(&mut client, "ok");
    let answer = client.get("/other");
    assert_eq!(answer.status, 404);
    assert_contains(&answer.text(), "There is nothing at this path.");
    drop((client, backend));
    proxy.finish_without_leak_check();
}

#[test]
fn messages_name_the_route() {
    let dead = Port::reserve();
    let routes = format!(
        "{{match: /down, outgoing: 'http://127.0.0.1:{}', timeout: 200ms}}, \
         {{match: /api, outgoing: '127.0.0.2:0', timeout: 200ms}}",
        dead.number()
    );
    let proxy = Proxy::start(&site(&routes, &format!("{OWN}, limits: {{body: 10}}")));
    let mut dial_ins = proxy.dial_ins().iter();
    let own = dial_ins.find(|at| at.ip().to_string() == "127.0.0.1");
    let backend = Backend::dial(*own.unwrap());
    proxy.wait_for_log("joined");
    let mut client = proxy.visit();
    // The page is about the backends of the route, too: the site has one.
    for (target, text, log) in [
        (
            "/down/x",
            "No application server can be reached.",
            ": site test/down: backend -: no backend in 200ms: the only server is down",
        ),
        (
            "/api",
            "No application process is connected.",
            ": site test/api: backend -: no backend in 200ms: none is connected",
        ),
    ] {
        let answer = client.get(target);
        assert_eq!(answer.status, 503);
        assert_contains(&answer.text(), text);
        proxy.wait_for_log(log);
    }
    client.send_post("/api/large", "eleven bytes");
    assert_eq!(client.answer().status, 413);
    proxy.wait_for_log(": site test/api: POST /api/large: the body is over the limit");
    drop((client, backend));
    proxy.finish_without_leak_check();
}
