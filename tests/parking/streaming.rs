//! Exchanges whose response has begun.

use super::*;
use crate::common::proxy::site;
use crate::common::{Backend, Echo};

#[test]
fn event_streams() {
    const STREAMS: usize = 500;
    let proxy = Proxy::start(
        "workers: 2\nmap:\n\
             - {incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 60}\n\
             - {incoming: other, outgoing: '127.0.0.2:0', timeout: 60}",
    );
    let mut backends: Vec<_> = (0..STREAMS)
        .map(|_| Backend::dial(proxy.dial_in()))
        .collect();
    proxy.wait_for_logs(" joined ", STREAMS);
    let mut visitors = ask_all(proxy.address(), STREAMS);
    let targets: Vec<_> = backends
        .iter_mut()
        .map(|backend| {
            backend.wait_at_most(SOON);
            let target = backend.request().target().to_owned();
            let event = chunk(&format!("first {target}\n"));
            backend.send(format!("{CHUNKED}{event}"));
            target
        })
        .collect();
    for (n, visitor) in visitors.iter_mut().enumerate() {
        visitor.sees(&format!("first /{n}\n"));
    }
    let echoes = [0, 1].map(|n| Echo::dial(proxy.dial_ins()[n], "00000000echo", ""));
    for host in ["test", "other"] {
        let mut kept = visit(proxy.address());
        for n in 0..200 {
            kept.send(format!("GET /{host}/{n} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            expect(&mut kept, &format!("/{host}/{n}"));
        }
        for _ in 0..20 {
            let mut visitor = visit(proxy.address());
            visitor.send(format!("GET /{host} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            expect(&mut visitor, &format!("/{host}"));
        }
    }
    for (backend, target) in backends.iter_mut().zip(&targets) {
        backend.send(chunk(&format!("second {target}\n")));
    }
    for (n, visitor) in visitors.iter_mut().enumerate() {
        visitor.sees(&format!("second /{n}\n"));
    }
    for backend in &mut backends {
        backend.send("0\r\n\r\n");
    }
    for (n, visitor) in visitors.iter_mut().enumerate() {
        expect(visitor, &format!("first /{n}\nsecond /{n}\n"));
    }
    drop((visitors, backends, echoes));
    proxy.finish();
}

#[test]
fn unframed_responses_end() {
    let gap = Duration::from_secs(1);
    let proxy = Proxy::start(&format!("workers: 1\n{}", site("unframed_gap: 1")));
    let mut backends: Vec<_> = (0..20).map(|_| Backend::dial(proxy.dial_in())).collect();
    proxy.wait_for_logs(" joined ", 20);
    let mut visitors = ask_all(proxy.address(), 20);
    let targets: Vec<_> = backends
        .iter_mut()
        .map(|backend| {
            backend.wait_at_most(SOON);
            backend.request().target().to_owned()
        })
        .collect();
    expect_free_worker(&proxy);
    let since = Instant::now();
    for (backend, target) in backends.iter_mut().zip(&targets) {
        backend.send(format!("HTTP/1.1 200 OK\r\n\r\n{target}"));
    }
    expect_free_worker(&proxy);
    expect_all(&mut visitors);
    let took = since.elapsed();
    assert!(took >= gap, "the end is no earlier than the gap: {took:?}");
    // One after the other they would take 20 seconds.
    assert!(took < gap * 10, "all gaps pass at once: {took:?}");
    for backend in &mut backends {
        assert!(
            backend.is_closed(),
            "an unframed response ends its connection"
        );
    }
    drop((visitors, backends));
    proxy.finish();
}
