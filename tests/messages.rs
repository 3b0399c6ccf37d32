//! The messages about requests that are refused or get no backend, and about backends that connect and disconnect.

use std::time::{Duration, Instant};

use crate::common::{Backend, PATIENCE, Port, Proxy, Server, Visitor, wait_until};

/// Asks a site; returns the page of its 503.
fn unserved(proxy: &Proxy, host: &str, target: &str) -> String {
    let mut visitor = proxy.visit();
    let answer = visitor.ask(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    assert_eq!(answer.status, 503, "{host}{target}");
    answer.text()
}

#[test]
fn backends_missing_or_busy() {
    let proxy = Proxy::start(
        "map:\n\
         - {incoming: one, outgoing: '127.0.0.1:0', key: one, timeout: 300ms}\n\
         - {incoming: two, outgoing: '127.0.0.1:0', key: [two, new], timeout: 300ms, limits: {waiting: 0}}\n\
         - {incoming: backed, outgoing: '127.0.0.2:0', timeout: 200ms, backup: one}",
    );
    let connect = |id: &str, key: &str| Backend::dial_as(proxy.dial_in(), id, key);
    let page = unserved(&proxy, "one", "/none");
    assert!(
        page.contains("No application process is connected."),
        "{page}"
    );
    proxy.wait_for_log("/none from 127.0.0.1");
    proxy.wait_for_log(": site one: backend -: no backend in 300ms: none is connected request_id=");
    // Only those with the site's own keys count.
    let others = [
        connect("000000000001", "two"),
        connect("000000000002", "new"),
    ];
    proxy.wait_for_log("site two: backend 000000000001 from 127.0.0.1");
    let mut held: Vec<_> = (0..3)
        .map(|n| connect(&format!("00000000010{n}"), "one"))
        .collect();
    proxy.wait_for_logs(" joined at ", 5);
    let mut visitors: Vec<_> = (0..3).map(|_| ask(&proxy, "one")).collect();
    for backend in &mut held {
        backend.request();
    }
    let page = unserved(&proxy, "one", "/busy");
    assert!(
        page.contains("No application process was free in time."),
        "{page}"
    );
    proxy.wait_for_log(": site one: backend -: no backend in 300ms: all 3 are busy request_id=");
    // A backend that the path names.
    unserved(&proxy, "one", "/app/1-2-3.4.5-000000000102");
    proxy.wait_for_log("no backend in 300ms: 000000000102 is busy request_id=");
    unserved(&proxy, "one", "/app/1-2-3.4.5-000000000001");
    proxy.wait_for_log("no backend in 300ms: 000000000001 is not connected request_id=");
    // The backup had no backend either.
    unserved(&proxy, "backed", "/");
    proxy.wait_for_log(
        ": site backed: backend -: no backend in 200ms: none is connected; none of backup one: all 3 are busy request_id=",
    );
    // Where no more requests may wait.
    let mut others = others.map(|backend| (backend, ask(&proxy, "two")));
    for (backend, _) in &mut others {
        backend.request();
    }
    unserved(&proxy, "two", "/");
    proxy.wait_for_log(
        ": site two: backend -: limits.waiting reached (0), all 2 are busy request_id=",
    );
    for backend in &mut held {
        backend.reply("ok");
    }
    for visitor in &mut visitors {
        assert_eq!(visitor.answer().status, 200);
    }
    for (backend, _) in &mut others {
        backend.reply("ok");
    }
    for (_, visitor) in &mut others {
        assert_eq!(visitor.answer().status, 200);
    }
    // One backend is left.
    held.truncate(1);
    proxy.wait_for_logs("closed: reason=peer_closed", 2);
    let visitor = ask(&proxy, "one");
    held[0].request();
    unserved(&proxy, "one", "/");
    proxy.wait_for_log("no backend in 300ms: the only one is busy request_id=");
    drop((visitor, visitors, held, others));
    proxy.finish();
}

/// Asks a site, and does not wait for the response.
fn ask(proxy: &Proxy, host: &str) -> Visitor {
    let mut visitor = proxy.visit();
    visitor.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    visitor
}

#[test]
fn servers_down_or_busy() {
    let servers = [Server::start(), Server::start()];
    let [a, b] = [0, 1].map(|n: usize| servers[n].address());
    let ports = [(); 2].map(|()| Port::reserve());
    let [no, none] = ports
        .each_ref()
        .map(|port| format!("127.0.0.1:{}", port.number()));
    let proxy = Proxy::start(&format!(
        "map:\n\
         - {{incoming: down, proxy: traditional, servers: ['{no}', '{none}'], timeout: 300ms}}\n\
         - {{incoming: busy, proxy: traditional, servers: ['{a}', '{b}'], server_connections: 1, timeout: 300ms}}\n\
         - {{incoming: both, proxy: traditional, servers: ['{a}', '{no}'], server_connections: 1, timeout: 300ms}}\n\
         - {{incoming: one, proxy: traditional, servers: '{no}', timeout: 300ms}}",
    ));
    let page = unserved(&proxy, "down", "/");
    assert!(
        page.contains("No application server can be reached."),
        "{page}"
    );
    proxy.wait_for_log(
        ": site down: backend -: no backend in 300ms: all 2 servers are down request_id=",
    );
    unserved(&proxy, "one", "/");
    proxy.wait_for_log("no backend in 300ms: the only server is down request_id=");
    let busy: Vec<_> = servers
        .iter()
        .map(|server| {
            let visitor = ask(&proxy, "busy");
            (visitor, server)
        })
        .collect();
    let mut backends: Vec<_> = busy.iter().map(|(_, server)| server.accept()).collect();
    for backend in &mut backends {
        backend.request();
    }
    unserved(&proxy, "busy", "/");
    proxy.wait_for_log("no backend in 300ms: all 2 servers are busy request_id=");
    let visitor = ask(&proxy, "both");
    let mut backend = servers[0].accept();
    backend.request();
    unserved(&proxy, "both", "/");
    proxy.wait_for_log("no backend in 300ms: of 2 servers 1 is down and 1 busy request_id=");
    drop((visitor, backend, backends, busy));
    drop(servers);
    proxy.finish();
}

/// The number in front of some words, in a line of the log.
fn count(line: &str, words: &str) -> usize {
    let before = line
        .split(words)
        .next()
        .filter(|before| before.len() < line.len());
    let number = before.and_then(|before| before.rsplit([' ', '(']).next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The lines of the log about backends of this site, with how many of them connected and disconnected.
fn comings_and_goings(proxy: &Proxy, site: &str) -> (usize, usize, usize) {
    let log = proxy.log();
    let about = format!("[INFO] {site}: ");
    let lines = log.lines().filter(|line| line.contains(&about));
    let mut sums = (0, 0, 0);
    for line in lines.filter(|line| line.ends_with(" now")) {
        let is_one = line.contains(": backend ");
        let one = |words: &str| usize::from(is_one && line.contains(words));
        sums.0 += 1;
        sums.1 += one(" connected, ");
        sums.2 += one(" disconnected (");
        if !is_one {
            let connected = count(line, " more backend");
            match line.contains(" connected") {
                true => {
                    sums.1 += connected;
                    sums.2 += count(line, " disconnected (");
                }
                false => sums.2 += connected,
            }
        }
    }
    sums
}

#[test]
fn each_backend_logged() {
    let sites = "map:\n\
                 - {incoming: [test, www.test], outgoing: '127.0.0.1:0', timeout: 60, logger: {type: file, file: test.log}}\n\
                 - {incoming: shared, outgoing: '127.0.0.2:0', key: k, timeout: 60}\n\
                 - {incoming: other, outgoing: ['127.0.0.2:0', '127.0.0.2:0'], key: [k, l], timeout: 60}";
    let proxy = Proxy::start(&format!("logger: {{type: stderr, level: normal}}\n{sites}"));
    let one = Backend::dial_as(proxy.dial_in(), "7f0000\x01\x1b1a2b", "");
    // The site has a log of its own.
    let in_log = |text: &str| {
        wait_until(text, || proxy.read("test.log").contains(text));
    };
    in_log("site test: backend 7f0000\\x01\\x1b1a2b from 127.0.0.1:");
    in_log(" connected, 1 now\n");
    let shared = Backend::dial_as(proxy.dial_ins()[1], "000000000002", "k");
    proxy.wait_for_log("sites shared, other: backend 000000000002 from 127.0.0.1:");
    let other = Backend::dial_as(proxy.dial_ins()[1], "000000000003", "l");
    proxy.wait_for_log("[INFO] site other: backend 000000000003 from 127.0.0.1:");
    drop(one);
    in_log(" disconnected (peer_closed), 0 now\n");
    // A connection that fails within an exchange.
    let mut failing = shared;
    let mut visitor = ask(&proxy, "shared");
    failing.request();
    failing.send("nonsense\r\n\r\n");
    assert_eq!(visitor.answer().status, 502);
    proxy.wait_for_log("disconnected (backend_failed), 0 now\n");
    // A key that a reload has removed.
    proxy.reload(&sites.replace("[k, l]", "k"));
    proxy.wait_for_log("site other: backend 000000000003 from 127.0.0.1:");
    proxy.wait_for_log("disconnected (removed), 0 now\n");
    drop((failing, other, visitor));
    proxy.finish_without_leak_check();
}

#[test]
fn burst_of_backends_summed_up() {
    const MANY: usize = 300;
    let proxy = Proxy::start(
        "logger: {type: stderr, level: normal}\n\
         map: [{incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 60}]",
    );
    let begun = Instant::now();
    let backends: Vec<_> = (0..MANY)
        .map(|n| Backend::dial_as(proxy.dial_in(), &format!("{n:012}"), ""))
        .collect();
    let sums = || comings_and_goings(&proxy, "site test");
    wait_until("the count of all connections", || sums().1 == MANY);
    proxy.wait_for_log(&format!(", {MANY} now"));
    // One at once, and one for each second.
    let most = |begun: Instant| 2 + begun.elapsed().as_secs() as usize;
    assert!(sums().0 <= most(begun), "{}", proxy.log());
    drop(backends);
    wait_until("the count of all ends", || sums().2 == MANY);
    proxy.wait_for_log(", 0 now");
    assert!(sums().0 <= most(begun), "{}", proxy.log());
    // Processes that disconnect and connect again all the time.
    let before = sums();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        let mut backend = Backend::dial(proxy.dial_in());
        backend.finish();
        backend.assert_closed();
    }
    wait_until("the count of all connections", || {
        let (_, connected, disconnected) = sums();
        connected > before.1 && connected - before.1 == disconnected - before.2
    });
    assert!(sums().0 - before.0 <= most(begun), "{}", proxy.log());
    assert!(begun.elapsed() < PATIENCE, "it took {:?}", begun.elapsed());
    // What a burst has left to log is not lost at the end of the server.
    let last = Backend::dial(proxy.dial_in());
    wait_until("the count of one more", || sums().1 > before.1 + 1);
    drop(last);
    proxy.finish();
}

#[test]
fn refusals_logged() {
    let proxy = Proxy::start(
        "limits: {head: 8k, fields: 20, target: 1k}\n\
         map:\n\
         - {incoming: shop, outgoing: '127.0.0.1:0', limits: {body: 1m}, timeout: 60}\n\
         - {incoming: files, docroot: .}",
    );
    let many = "A: b\r\n".repeat(30);
    let large = format!("A: {}\r\n", "b".repeat(9000));
    let long = "x".repeat(2000);
    for (request, status, line) in [
        (
            "GET / HTTP/1.1\r\nhost:Shop:80\r\nA : b\r\n\r\n",
            400,
            "site shop: ",
        ),
        (
            "GET / HTTP/1.1\r\nHost: no.site\r\nA : b\r\n\r\n",
            400,
            "host no.site: ",
        ),
        (
            "GET / HTTP/1.1\r\nHost: shop\r\nHost: files\r\n\r\n",
            400,
            "two Host fields request_id=",
        ),
        ("GET / HTTP/1.1\r\n\r\n", 400, "no Host field request_id="),
        (
            "CONNECT a:80 HTTP/1.1\r\nHost: shop\r\n\r\n",
            405,
            "site shop: a method that is not supported request_id=",
        ),
        (
            "GET / HTTP/3.0\r\nHost: shop\r\n\r\n",
            505,
            "site shop: a version other than ",
        ),
        (
            &format!("GET /{long} HTTP/1.1\r\nHost: shop\r\n\r\n"),
            414,
            "site shop: the target is over the limit: limits.target (1k) request_id=",
        ),
        (
            &format!("GET / HTTP/1.1\r\nHost: shop\r\n{many}\r\n"),
            431,
            "site shop: too many fields: limits.fields (20) request_id=",
        ),
        (
            &format!("GET / HTTP/1.1\r\nHost: shop\r\n{large}\r\n"),
            431,
            "site shop: the head is over the limit: limits.head (8k) request_id=",
        ),
        (
            "POST /up HTTP/1.1\r\nHost: shop\r\nContent-Length: 1048577\r\n\r\n",
            413,
            "site shop: POST /up: the body is over the limit: limits.body (1m) request_id=",
        ),
        (
            "POST /x HTTP/1.1\r\nHost: files\r\n\r\n",
            405,
            "site files: POST /x: there are only files here request_id=",
        ),
    ] {
        let before = proxy.log().len();
        let mut visitor = proxy.visit();
        visitor.send(request);
        assert_eq!(visitor.answer().status, status, "{request}");
        let about = format!("[INFO] {status} for 127.0.0.1:");
        wait_until(line, || {
            let log = proxy.log();
            let mut new = log[before..].split_inclusive('\n');
            new.any(|new| new.contains(&about) && new.contains(&format!(": {line}")))
        });
    }
    proxy.finish();
}
