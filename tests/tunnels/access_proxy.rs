//! Tunnels through the access proxy.

use nix::sys::signal::Signal;

use super::{ASK, SWITCH, assert_open};
use crate::common::{Access, Backend, Proxy, Server, Visitor};

/// A client, through the server and the access proxy, and its application, after the switch.
fn through_access(proxy: &Proxy, app: &Server) -> (Visitor, Backend) {
    let mut visitor = proxy.visit();
    visitor.send(format!("{ASK}early"));
    let mut server = app.accept_asking();
    let seen = server.request();
    assert_eq!(seen.field("Upgrade"), Some("websocket"), "{}", seen.head);
    assert_eq!(seen.field("Connection"), Some("upgrade"));
    server.send(format!("{SWITCH}soon"));
    assert_eq!(visitor.answer().status, 101);
    assert_eq!(visitor.take(4), b"soon");
    assert_eq!(server.take(5), b"early");
    (visitor, server)
}

#[test]
fn carried() {
    let proxy = Proxy::simple();
    let app = Server::start();
    let access = Access::between(proxy.dial_in(), app.address(), 1);
    // One place at the application, and yet there is room for a second one and for something ordinary.
    let mut tunnels = [through_access(&proxy, &app), through_access(&proxy, &app)];
    let mut other = proxy.ask("/plain");
    let mut plain = app.accept_asking();
    assert_eq!(plain.request().target(), "/plain");
    plain.reply_to(&mut other, "plain");
    for (visitor, server) in &mut tunnels {
        assert_open(visitor, server);
    }
    let [(mut visitor, mut server), (visitor_too, mut server_too)] = tunnels;
    visitor.send("bye").finish();
    assert_eq!(server.rest(), b"bye");
    server.send("good bye").finish();
    assert_eq!(visitor.rest(), b"good bye");
    // A reset at one end closes the other end.
    visitor_too.reset();
    server_too.assert_closed();
    access.wait_for_log("reason=tunnel_done");
    access.wait_for_log("reason=client_gone");
    // A 101 that no request asked for, on the kept connection.
    other.send_get("/unasked");
    plain.request();
    plain.send(SWITCH);
    assert_eq!(other.answer().status, 502);
    plain.assert_closed();
    drop((visitor, server, server_too, other, plain));
    access.finish();
    proxy.finish();
}

#[test]
fn drain() {
    let proxy = Proxy::simple();
    let app = Server::start();
    let yaml = |grace: &str| {
        format!(
            "{{connect: '{}', to: '{}', connections: 1, grace: {grace}}}",
            proxy.dial_in(),
            app.address()
        )
    };
    // They end by themselves.
    let mut access = Access::start(&yaml("60"), &[]);
    let (mut visitor, mut server) = through_access(&proxy, &app);
    access.signal(Signal::SIGTERM);
    access.wait_for_log("draining, for");
    assert_open(&mut visitor, &mut server);
    visitor.finish();
    server.assert_closed();
    server.finish();
    assert_eq!(access.wait().code(), Some(0), "{}", access.log());
    // Tunnels that the drain ends are not a failure.
    // Its idle connection has to close within this time, also on a machine that is busy elsewhere.
    let mut access = Access::start(&yaml("3"), &[]);
    let (mut visitor, mut server) = through_access(&proxy, &app);
    access.signal(Signal::SIGTERM);
    visitor.assert_closed();
    server.assert_closed();
    assert_eq!(access.wait().code(), Some(0), "{}", access.log());
    assert!(access.log().contains("reason=draining"), "{}", access.log());
    drop((visitor, server));
    proxy.finish();
}
