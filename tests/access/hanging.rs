//! An application that accepts connections and does not respond.

use std::time::Duration;

use crate::common::proxy::site;
use crate::common::{Access, EchoServer, Proxy, Server};

#[test]
fn check_needs_no_slot() {
    let proxy = Proxy::start(&site(""));
    let app = EchoServer::start();
    let access = Access::start(
        &format!(
            "{{connect: '{}', to: '{}', connections: 1, check: {{uri: /hold, interval: 100ms}}, \
             timeouts: {{connect: 300ms}}}}",
            proxy.dial_in(),
            app.address()
        ),
        &[],
    );
    access.wait_for_log(": dialled in");
    app.hold(true);
    // It has the only slot.
    let mut visitor = proxy.ask("/hold/1");
    access.wait_for_log(": check /hold: timed out; leaving");
    app.hold(false);
    assert_eq!(visitor.answer().text(), "/hold/1");
    access.wait_for_logs(": answers", 2);
    assert_eq!(visitor.get("/2").text(), "/2");
    drop(visitor);
    access.finish();
    proxy.finish();
}

#[test]
fn requests_without_response() {
    let proxy = Proxy::start(&site("timeouts: {first_byte: 200ms}"));
    // Like a stopped process, whose system still accepts connections.
    let app = Server::start();
    let access = Access::start(
        &format!(
            "{{connect: '{}', to: '{}', connections: 2, timeouts: {{connect: 300ms}}}}",
            proxy.dial_in(),
            app.address()
        ),
        &[],
    );
    access.wait_for_log(": dialled in");
    for _ in 0..3 {
        assert_eq!(proxy.visit().get("/").status, 504);
    }
    access.wait_for_log(": check /: timed out; leaving");
    let app = EchoServer::run(app, Duration::ZERO);
    access.wait_for_logs(": answers", 2);
    assert_eq!(proxy.visit().get("/a").text(), "/a");
    access.finish();
    drop(app);
    proxy.finish();
}
