//! Reloads.

use std::fs;
use std::net::{TcpListener, TcpStream};

use nix::sys::signal::Signal::SIGHUP;

use super::many_addresses;
use crate::common::proxy::site;
use crate::common::{Backend, Echo, Load, Proxy};

#[test]
fn new_and_unchanged() {
    let site = |name: &str, address: &str| {
        format!("- {{incoming: {name}, outgoing: '{address}', timeout: 60}}\n")
    };
    let first = site("one", "127.0.0.1:0") + &site("two", "127.0.0.2:0");
    let proxy = Proxy::start(&format!("map:\n{first}"));
    let one = Echo::dial(proxy.dial_ins()[0], "000000000one", "");
    let mut two = Backend::dial(proxy.dial_ins()[1]);
    proxy.wait_for_logs("joined", 2);
    let mut visitor = proxy.visit();
    let ask = |host: &str| format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n");
    // A request is under way at a backend whose address goes.
    let mut slow = proxy.visit();
    slow.send(ask("two"));
    two.request();
    proxy.reload(&format!(
        "map:\n{}{}",
        site("new, uno", "127.0.0.3:0").replace("new, uno", "[new, uno]"),
        site("one", "127.0.0.1:0")
    ));
    assert!(
        TcpStream::connect(proxy.dial_ins()[1]).is_err(),
        "the address is closed"
    );
    two.reply_to(&mut slow, "late");
    two.assert_closed();
    proxy.wait_for_log("reason=removed");
    assert_eq!(visitor.ask(ask("two")).status, 404);
    // The idle backend, the connections and the listener are the same as before.
    assert_eq!(visitor.ask(ask("one")).text(), "/x");
    // A configuration with a problem changes nothing.
    let good = fs::read_to_string(proxy.file("swiftiply.yml")).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    for (bad, message) in [
        (
            "map: [{incoming: one, outgoing: nowhere}]".to_owned(),
            "outgoing \"nowhere\"",
        ),
        ("map: [".to_owned(), "swiftiply.yml:"),
        (
            format!("map: [{{incoming: one, outgoing: '{taken}'}}]"),
            "listen ",
        ),
        (
            "access_log: /none/such/file\nmap: []".to_owned(),
            "/none/such/file",
        ),
        (
            "logger: {type: file, file: /none/such/log}\nmap: []".to_owned(),
            "/none/such/log",
        ),
    ] {
        let before = proxy.log().matches("reload failed").count();
        proxy.configure(&bad);
        proxy.signal(SIGHUP);
        proxy.wait_for_logs("reload failed", before + 1);
        assert!(proxy.log().contains(message), "{message}");
        assert_eq!(visitor.ask(ask("one")).text(), "/x", "{bad}");
    }
    fs::write(proxy.file("swiftiply.yml"), good).unwrap();
    drop((visitor, slow, one, two));
    proxy.finish_without_leak_check();
}

#[test]
fn failed_keeps_limits() {
    let yaml = |limits: &str, log: &str| {
        format!(
            "map:\n- {{incoming: test, outgoing: '127.0.0.1:0', timeout: 60, limits: {limits}}}\n\
             - {{incoming: other, outgoing: '127.0.0.2:0', access_log: {log}}}"
        )
    };
    let proxy = Proxy::start(&yaml("{}", "access"));
    // The problem is found after the site was set up.
    proxy.configure(&yaml("{waiting: 0}", "/none/such/file"));
    proxy.signal(SIGHUP);
    proxy.wait_for_log("reload failed");
    let mut visitor = proxy.visit();
    visitor.send_get("/waits");
    proxy.wait_until_idle();
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    assert_eq!(visitor.answer().text(), "/waits");
    drop((visitor, echo));
    proxy.finish();
}

#[test]
fn changed_key() {
    let proxy = Proxy::start(&site("key: old"));
    let mut backend = Backend::dial_as(proxy.dial_in(), "000000000001", "old");
    proxy.wait_for_log("joined");
    proxy.reload(&site("key: [old, new]"));
    let stays = Backend::dial_as(proxy.dial_in(), "000000000002", "new");
    proxy.wait_for_logs("joined", 2);
    proxy.reload(&site("key: new"));
    backend.assert_closed();
    let mut late = Backend::dial_as(proxy.dial_in(), "000000000003", "old");
    late.assert_closed();
    drop((backend, stays, late));
    proxy.finish();
}

#[test]
fn under_load() {
    let yaml = |n: usize| {
        format!(
            "map:\n- {{incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 60}}\n\
             - {{incoming: other{n}, outgoing: '127.0.0.2:0', timeout: {}}}",
            n + 1
        )
    };
    let proxy = Proxy::start(&yaml(0));
    let backends: Vec<_> = (0..3)
        .map(|_| Echo::dial(proxy.dial_in(), "000000000001", ""))
        .collect();
    let load = Load::start(proxy.address(), false);
    for n in 1..40 {
        proxy.reload(&yaml(n));
        load.wait_for(100);
    }
    load.end();
    drop(backends);
    proxy.finish();
}

#[test]
fn many_addresses_quickly() {
    let proxy = Proxy::simple();
    fs::create_dir(proxy.file("sockets")).unwrap();
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", proxy.pid())).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let fields: Vec<_> = fields.split(' ').collect();
        // Time in user mode and in the kernel.
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    // The minimum of a few runs, since the machine may be busy.
    let cost = |addresses: usize| {
        proxy.reload(&many_addresses(addresses));
        let each = (0..3).map(|_| {
            let before = ticks();
            proxy.load_again();
            ticks() - before
        });
        each.min().unwrap()
    };
    let few = cost(250);
    let many = cost(4000);
    // 16 times as many; their square is 256 times as many.
    assert!(many <= 64 * few.max(2), "{few} and {many} ticks");
    proxy.finish_without_leak_check();
}
