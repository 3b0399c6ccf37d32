//! Exchanges that wait hold no thread.

use crate::common::{Access, Proxy, Server, assert_lacks};
use crate::tunnels::{assert_open, switch_to};

/// Connection slots at the application.
const PLACES: usize = 40;

/// A request whose body is passed on as it arrives, and its beginning.
const STALLED: &str = "POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\nabcd";

#[test]
fn few_threads() {
    let proxy = Proxy::simple_with("defaults: {request_buffering: false}");
    let app = Server::start();
    let yaml = format!(
        "{{connect: '{}', to: '{}', places: {PLACES}, connections: {}}}",
        proxy.dial_in(),
        app.address(),
        PLACES + 5
    );
    let access = Access::start(&yaml, &[]);
    proxy.wait_for_logs(" joined ", PLACES + 5);
    let at_rest = access.threads();

    // A tunnel, which needs no slot; and in all slots an event stream, an upload that stalls, and requests that wait for
    // their responses.
    let mut talking = proxy.visit();
    let mut peer = switch_to(&mut talking, || app.accept_asking());
    let mut listening = proxy.ask("/events");
    let mut events = app.accept_asking();
    events.request();
    events.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n");
    listening.sees("one\n");
    let mut uploading = proxy.visit();
    uploading.send(STALLED);
    let mut stalled = app.accept_asking();
    stalled.read_to("abcd");
    let slow = PLACES - 2;
    let mut waiting: Vec<_> = (0..slow).map(|n| proxy.ask(&format!("/{n}"))).collect();
    let mut asked: Vec<_> = (0..slow)
        .map(|_| {
            let mut backend = app.accept_asking();
            let number: usize = backend.request().target()[1..].parse().unwrap();
            (number, backend)
        })
        .collect();
    // Two more have to wait for a slot.
    let mut queued = ["/a", "/b"].map(|target| proxy.ask(target));
    let busy = access.threads();
    assert!(
        busy == at_rest && busy < 16,
        "{at_rest} threads at rest, {busy} with {PLACES} requests"
    );

    // All of them go on.
    assert_open(&mut talking, &mut peer);
    events.send("4\r\ntwo\n\r\n0\r\n\r\n");
    assert_eq!(listening.answer().text(), "one\ntwo\n");
    // Its slot and its connection go to the first one that waits, and then to the other one.
    for _ in 0..queued.len() {
        let target = events.request().target().to_owned();
        let visitor = &mut queued[usize::from(target == "/b")];
        events.reply_to(visitor, &target);
    }
    assert!(
        app.accept_now().is_none(),
        "more requests than slots at the application"
    );
    uploading.send(vec![b'x'; 99_996]);
    stalled.take(99_996);
    stalled.reply_to(&mut uploading, "thanks");
    for (number, backend) in &mut asked {
        backend.reply_to(&mut waiting[*number], &number.to_string());
    }
    assert_eq!(access.threads(), at_rest);
    assert_lacks(&access.log(), "panicked");
    drop((talking, peer, listening, uploading, waiting, queued, asked));
    access.finish();
    proxy.finish();
}
