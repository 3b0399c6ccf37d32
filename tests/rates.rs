//! How many requests a client may send (`rate_limit`).

use std::time::{Duration, Instant};

use crate::common::proxy::site;
use crate::common::visitor::Answer;
use crate::common::{Echo, Proxy, Visitor};

/// A request that a proxy passes on for this client.
fn ask(client: &mut Visitor, target: &str, host: &str, address: &str) -> Answer {
    let forwarded = format!("X-Forwarded-For: {address}");
    client.ask(format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\n{forwarded}\r\n\r\n"
    ))
}

#[test]
fn clients_are_limited_by_address() {
    // Rates at which no further request is allowed while the test runs.
    let keys = "rate_limit: {rate: 2/h, burst: 3}";
    let site = site(keys).replace("default: true, ", "");
    let lines = "trusted_proxies: 127.0.0.1\nrate_limit: {rate: 1/h, burst: 5}";
    let with = |lines: &str| format!("{lines}\n{site}");
    let proxy = Proxy::start(&with(lines));
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    let mut client = proxy.visit();
    let mut statuses = |host: &str, address: &str, count: usize| -> Vec<u16> {
        let one = |_| ask(&mut client, "/", host, address).status;
        (0..count).map(one).collect()
    };
    assert_eq!(statuses("test", "192.0.2.1", 4), [200, 200, 200, 429]);
    // The limit of the top level is used up by the request that the site has refused, and one for another name.
    assert_eq!(statuses("other", "192.0.2.1", 2), [404, 429]);
    // The same /64 network is the same client.
    assert_eq!(statuses("test", "2001:db8::1", 2), [200, 200]);
    assert_eq!(statuses("test", "2001:db8::2:3:4", 2), [200, 429]);
    assert_eq!(statuses("test", "2001:db8:0:1::1", 1), [200]);
    // A client without a name is not limited.
    for _ in 0..9 {
        assert_eq!(client.get("/").status, 200);
        assert_eq!(
            ask(&mut client, "/swiftiply_health", "test", "192.0.2.1").status,
            200
        );
    }
    let refused = ask(&mut client, "/", "test", "2001:db8::1");
    assert_eq!(refused.status, 429);
    let wait: u32 = refused.field("Retry-After").unwrap().parse().unwrap();
    assert!((1600..=1800).contains(&wait), "{wait}");
    assert!(
        refused
            .text()
            .contains("Too many requests from this address.")
    );
    proxy.wait_for_log("429 for 192.0.2.1 through 127.0.0.1:");
    proxy.wait_for_log("site test: GET /: rate_limit reached");
    // A reload keeps what was counted.
    proxy.reload(&with(&lines.replace("burst: 5", "burst: 6")));
    assert_eq!(ask(&mut client, "/", "test", "2001:db8::1").status, 429);
    proxy.reload(&with("trusted_proxies: 127.0.0.1").replace(keys, "via: true"));
    assert_eq!(ask(&mut client, "/", "test", "2001:db8::1").status, 200);
    drop((client, echo));
    proxy.finish();
}

#[test]
fn rate_over_time() {
    let proxy = Proxy::start(&site("rate_limit: {rate: 20, burst: 5}"));
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    let mut client = proxy.visit();
    let begun = Instant::now();
    let (mut served, mut refused) = (0_u32, 0_u32);
    // As fast as one connection can.
    while begun.elapsed() < Duration::from_secs(2) {
        match client.get("/").status {
            200 => served += 1,
            429 => refused += 1,
            other => panic!("{other}"),
        }
    }
    // The busier the machine, the fewer requests come, but never more than the rate allows.
    let most = 20.0 + 200.0 * begun.elapsed().as_secs_f64() + 1.0;
    assert!(
        f64::from(served) <= most,
        "{served} of {most}, {refused} refused"
    );
    drop((client, echo));
    proxy.finish();
}
