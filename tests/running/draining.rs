//! Drains.

use nix::sys::signal::Signal::{SIGINT, SIGTERM};

use crate::common::{Backend, Echo, Load, Proxy};

#[test]
fn under_load() {
    for signal in [SIGTERM, SIGINT] {
        let mut proxy = Proxy::simple();
        let backends: Vec<_> = (0..3)
            .map(|_| Echo::dial(proxy.dial_in(), "000000000001", ""))
            .collect();
        let load = Load::start(proxy.address(), true);
        load.wait_for(500);
        proxy.signal(signal);
        assert_eq!(proxy.wait().code(), Some(0));
        load.end();
        drop(backends);
    }
}

#[test]
fn waits_for_exchanges() {
    // The drain ends with the exchange.
    let mut proxy = Proxy::simple();
    let mut backend = Backend::dial(proxy.dial_in());
    let mut idle = proxy.visit();
    proxy.wait_for_log("joined");
    let mut visitor = proxy.ask("/");
    backend.request();
    proxy.signal(SIGTERM);
    idle.assert_closed();
    backend.reply("late");
    let answer = visitor.answer();
    assert_eq!(
        (answer.text().as_str(), answer.field("Connection")),
        ("late", Some("close"))
    );
    assert_eq!(proxy.wait().code(), Some(0));
    // The drain ends with the grace period.
    let mut proxy = Proxy::simple_with("grace: 300ms");
    let _visitor = proxy.ask("/");
    let mut backend = Backend::dial(proxy.dial_in());
    backend.request();
    proxy.signal(SIGTERM);
    assert_eq!(proxy.wait().code(), Some(1));
    // The drain ends with the second signal.
    let mut proxy = Proxy::simple();
    let _visitor = proxy.ask("/");
    let mut backend = Backend::dial(proxy.dial_in());
    backend.request();
    proxy.signal(SIGTERM);
    proxy.wait_for_log("draining");
    proxy.signal(SIGINT);
    assert_eq!(proxy.wait().code(), Some(1));
}
