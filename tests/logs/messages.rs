//! Messages that repeat, and requests that the access log leaves out.

use crate::common::{Backend, Proxy, assert_lacks, exchange, wait_until};

#[test]
fn repeated_messages_are_counted() {
    let proxy = Proxy::start(
        "map:\n\
         - {incoming: one, outgoing: '127.0.0.1:0', timeout: 0}\n\
         - {incoming: two, outgoing: '127.0.0.2:0', timeout: 0}",
    );
    let ask = |site: &str, target: &str| {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {site}\r\n\r\n");
        // Another connection each time, so another port.
        assert_eq!(proxy.visit().ask(request).status, 503);
    };
    ask("one", "/same");
    proxy.wait_for_log("503 GET /same from ");
    for _ in 0..200 {
        ask("one", "/same");
    }
    // Others are not held back.
    ask("one", "/other");
    proxy.wait_for_log("503 GET /other from ");
    ask("two", "/same");
    proxy.wait_for_log("site two: backend -: ");
    // All of them are in the log in the end: alone, or counted.
    wait_until("all repetitions", || {
        let log = proxy.log();
        let lines = log.lines();
        let lines =
            lines.filter(|line| line.contains("503 GET /same") && line.contains("site one"));
        let counts = lines.map(|line| match line.split_once("message repeated ") {
            Some((_, rest)) => rest.split(' ').next().unwrap().parse::<usize>().unwrap(),
            None => 1,
        });
        counts.sum::<usize>() == 201
    });
    proxy.wait_for_log("[WARN] message repeated ");
    assert!(proxy.log().matches("503 GET /same").count() < 150);
    proxy.finish();
}

#[test]
fn counts_are_written_at_the_end() {
    let proxy = Proxy::start("map: [{incoming: one, outgoing: '127.0.0.1:0', timeout: 0}]");
    let mut client = proxy.visit();
    // The interval doubles, so that one of these is still open.
    for _ in 0..30 {
        client.ask("GET /same HTTP/1.1\r\nHost: one\r\n\r\n");
    }
    let log = proxy.file("log");
    drop(client);
    let mut text = String::new();
    proxy.finish_and(|| text = std::fs::read_to_string(log).unwrap());
    let counts = text.lines().filter(|line| line.contains("503 GET /same"));
    let counts = counts.map(|line| match line.split_once("message repeated ") {
        Some((_, rest)) => rest.split(' ').next().unwrap().parse::<usize>().unwrap(),
        None => 1,
    });
    assert_eq!(counts.sum::<usize>(), 30, "{text}");
}

#[test]
fn requests_left_out_of_the_access_log() {
    let exclude = "exclude: {paths: [/up, /assets/], agents: kube-probe}";
    let yaml = |site: &str| {
        format!(
            "access_log: {{file: access, {exclude}}}\nmap:\n\
             - {{incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 60}}\n\
             - {{incoming: own, outgoing: '127.0.0.2:0', timeout: 0, access_log: {site}}}"
        )
    };
    let proxy = Proxy::start(&yaml("{file: access}"));
    let mut backend = Backend::dial(proxy.dial_in());
    let mut client = proxy.visit();
    for target in [
        "/up",
        "/up/db?a=b",
        "/%75p",
        "/assets/a.css",
        "/upload",
        "/a/up",
    ] {
        exchange(&mut client, &mut backend, target);
    }
    client.send("GET /probe HTTP/1.1\r\nHost: test\r\nUser-Agent: Kube-Probe/1.30\r\n\r\n");
    backend.request();
    backend.reply_to(&mut client, "ok");
    // A site with an access log of its own leaves out what it says itself; here both share the file.
    client.ask("GET /up/own HTTP/1.1\r\nHost: own\r\n\r\n");
    exchange(&mut client, &mut backend, "/last");
    let lines = || {
        let log = proxy.read("access");
        let targets = log.lines().filter_map(|line| line.split('"').nth(1));
        targets.map(str::to_owned).collect::<Vec<_>>()
    };
    let logged = ["/upload", "/a/up", "/up/own", "/last"];
    let logged = logged.map(|target| format!("GET {target} HTTP/1.1"));
    wait_until("the last line", || lines().len() >= logged.len());
    assert_eq!(lines(), logged);
    // They are not left out of messages.
    proxy.wait_for_log("503 GET /up/own");
    // Without the key everything is logged again.
    proxy.reload(&yaml("access").replace(exclude, ""));
    exchange(&mut client, &mut backend, "/up");
    wait_until("a line", || lines().len() == logged.len() + 1);
    assert_lacks(&proxy.read("access"), "Kube-Probe");
    drop((client, backend));
    proxy.finish();
}
