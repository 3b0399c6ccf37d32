//! How long a tunnel lives.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use swiftiply::stats::Close;

use super::{BLOCK, assert_open, noise, switch, tunnel};
use crate::common::proxy::{SITE, site};
use crate::common::{Backend, Echo, Port, Proxy, Visitor, embedded, first, needs, wait_until};

#[test]
fn site_removed() {
    let proxy = Proxy::simple();
    let mut visitor = proxy.visit();
    let mut backend = tunnel(&proxy, &mut visitor);
    proxy.reload("map: [{incoming: other, outgoing: '127.0.0.1:0'}]");
    assert_eq!(proxy.visit().get("/").status, 404);
    assert_open(&mut visitor, &mut backend);
    backend.finish();
    visitor.finish();
    proxy.wait_for_logs("reason=tunnel_done", 2);
    drop((visitor, backend));
    proxy.finish_without_leak_check();
}

#[test]
fn idle_timeout() {
    needs!("openssl");
    // Nothing in either direction.
    let proxy = Proxy::both_with("timeouts: {tunnel: 0.3}");
    for secure in [false, true] {
        let mut visitor = proxy.visit_as(secure);
        let mut backend = tunnel(&proxy, &mut visitor);
        assert_open(&mut visitor, &mut backend);
        visitor.assert_closed();
        backend.assert_closed();
    }
    proxy.wait_for_logs("reason=tunnel_idle", 4);
    proxy.finish();
    // One side is silent after the other one has ended.
    let proxy = Proxy::start(&site("timeouts: {backend: 0.3, body: 0.3}"));
    let mut visitor = proxy.visit();
    let mut backend = tunnel(&proxy, &mut visitor);
    visitor.finish();
    visitor.assert_closed();
    backend.assert_closed();
    let mut visitor = proxy.visit();
    let mut backend = tunnel(&proxy, &mut visitor);
    backend.finish();
    visitor.assert_closed();
    backend.assert_closed();
    proxy.wait_for_logs("reason=tunnel_idle", 4);
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn peer_takes_nothing() {
    needs!("openssl");
    let proxy = Proxy::both_with("timeouts: {write: 0.3, backend: 0.3}");
    let mut block = vec![0; BLOCK];
    noise(0, 0, &mut block);
    let mut closed = 0;
    for secure in [false, true] {
        let mut visitor = proxy.visit_as(secure);
        let mut backend = tunnel(&proxy, &mut visitor);
        while backend.try_send(&block).is_ok() {}
        drop(visitor);
        let mut visitor = proxy.visit_as(secure);
        let _backend = tunnel(&proxy, &mut visitor);
        while visitor.try_send(&block).is_ok() {}
        closed += 2;
        proxy.wait_for_logs("reason=write_timeout", closed);
        proxy.wait_for_logs("reason=backend_failed", closed);
    }
    proxy.finish();
}

#[test]
fn peer_vanishes() {
    needs!("openssl");
    let proxy = Proxy::both_with("access_log: {file: access}");
    for secure in [false, true] {
        let mut visitor = proxy.visit_as(secure);
        let mut backend = tunnel(&proxy, &mut visitor);
        visitor.reset();
        backend.assert_closed();
        let mut visitor = proxy.visit_as(secure);
        let mut backend = tunnel(&proxy, &mut visitor);
        assert_open(&mut visitor, &mut backend);
        backend.reset();
        assert!(
            visitor.try_send(b"x").is_err() || visitor.is_broken(),
            "the client's connection is still open"
        );
    }
    proxy.wait_for_logs("reason=client_gone", 4);
    proxy.wait_for_logs("reason=backend_failed", 4);
    let lines = |word: &str| proxy.read("access").matches(&format!(" {word}\n")).count();
    wait_until("the lines of the access log", || {
        (lines("client_gone"), lines("backend_failed")) == (2, 2)
    });
    proxy.finish();
}

#[test]
fn drain() {
    needs!("openssl");
    for second_signal in [false, true] {
        let grace = if second_signal { "60" } else { "0.5" };
        let mut proxy = Proxy::both_with(&format!("grace: {grace}"));
        let mut tunnels: Vec<_> = [false, true]
            .into_iter()
            .map(|secure| {
                let mut visitor = proxy.visit_as(secure);
                let backend = tunnel(&proxy, &mut visitor);
                (visitor, backend)
            })
            .collect();
        proxy.signal(Signal::SIGTERM);
        proxy.wait_for_log("draining, for");
        if second_signal {
            for (visitor, backend) in &mut tunnels {
                assert_open(visitor, backend);
            }
            proxy.signal(Signal::SIGTERM);
        }
        for (visitor, backend) in &mut tunnels {
            visitor.assert_closed();
            backend.assert_closed();
        }
        assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
        let log = proxy.log();
        assert_eq!(log.matches("tunnel carried").count(), 2, "{log}");
        assert!(log.contains("reason=draining"), "{log}");
    }
}

#[test]
fn successor() {
    let ports = [(); 2].map(|()| Port::reserve());
    let [visitors, backends] = ports.each_ref().map(|port| port.number().to_string());
    let site = SITE.replace("127.0.0.1:0", &format!("127.0.0.1:{backends}"));
    let start = || {
        Proxy::start_with(
            &format!("grace: 600\n{site}"),
            &["--cluster-port", &visitors],
        )
    };
    let mut first = start();
    let mut visitor = first.visit();
    let mut backend = tunnel(&first, &mut visitor);
    // A response that takes its time has its backend, too, and an idle one has to connect again.
    let mut long = Backend::dial(first.dial_in());
    let mut waiting = first.ask("/long");
    long.request();
    let mut idle = Backend::dial(first.dial_in());
    first.wait_for_logs("joined", 3);
    first.signal(Signal::SIGTERM);
    first.wait_for_log("draining, for");
    // It waits for the address until the first one needs it no more.
    let second = start();
    assert!(idle.is_closed(), "the idle backend can connect again");
    let echo = Echo::dial(second.dial_in(), "127001017771", "");
    assert_eq!(second.visit().get("/").status, 200);
    assert_open(&mut visitor, &mut backend);
    long.reply("done");
    assert_eq!(waiting.answer().text(), "done");
    drop((visitor, backend));
    assert_eq!(first.wait().code(), Some(0), "{}", first.log());
    drop((echo, long, waiting));
    second.finish();
}

#[test]
fn counted() {
    let lines = format!("workers: 2\nlimits: {{connections_per_client: 1, backends: 1}}\n{SITE}");
    let server = embedded(&lines);
    let (visitors, dial_in) = (
        first(&server.client_addresses()),
        first(&server.backend_addresses()),
    );
    let stats = server.stats();
    let open = || (server.open_connections(), stats.tunnels());
    for round in 1..=2 {
        let mut visitor = Visitor::connect(visitors);
        let mut backend = Backend::dial(dial_in);
        switch(&mut visitor, &mut backend);
        assert_eq!(open(), (1, 1));
        assert_eq!(stats.status(101), round);
        assert_eq!(server.queues(), (0, 0));
        // Each of them has one connection, and may have no other.
        Visitor::connect(visitors).assert_closed();
        Backend::dial(dial_in).assert_closed();
        assert_open(&mut visitor, &mut backend);
        drop((visitor, backend));
        wait_until("the end of the tunnel", || open() == (0, 0));
    }
    let mut visitor = Visitor::connect(visitors);
    let mut backend = Backend::dial(dial_in);
    switch(&mut visitor, &mut backend);
    let closed = thread::spawn(move || visitor.is_closed() && backend.is_closed());
    assert!(
        server.drain(Duration::from_millis(50)),
        "the drain left connections after it had cut them"
    );
    assert!(
        closed.join().unwrap(),
        "the end of the drain left a connection open"
    );
    // A server that is dropped closes its tunnels.
    let server = embedded(&lines);
    let (visitors, dial_in) = (
        first(&server.client_addresses()),
        first(&server.backend_addresses()),
    );
    let mut visitor = Visitor::connect(visitors);
    let mut backend = Backend::dial(dial_in);
    switch(&mut visitor, &mut backend);
    drop(server);
    visitor.assert_closed();
    backend.assert_closed();
    assert_eq!(Close::TunnelDone.word(), "tunnel_done");
}
