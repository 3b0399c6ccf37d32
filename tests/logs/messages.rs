//! Requests that the access log leaves out.

use crate::common::{Backend, Proxy, assert_contains, assert_lacks, exchange, wait_until};

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
    assert_contains(&proxy.log(), "503 GET /up/own");
    // Without the key everything is logged again.
    proxy.reload(&yaml("access").replace(exclude, ""));
    exchange(&mut client, &mut backend, "/up");
    wait_until("a line", || lines().len() == logged.len() + 1);
    assert_lacks(&proxy.read("access"), "Kube-Probe");
    drop((client, backend));
    proxy.finish();
}
