//! PROXY headers (`proxy_protocol`, `send_proxy`).

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;

use crate::common::proxy::SITE;
use crate::common::{Backend, PATIENCE, Proxy, Server, Visitor, field, needs, secure, wait_until};
use crate::upgrade::Successor;

const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

/// A header of version 2, as another program than the one under test would write it.
fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend_from_slice(&[command, family, 0, u8::try_from(rest.len()).unwrap()]);
    header.extend_from_slice(rest);
    header
}

/// Version 2 for 203.0.113.9, with an extension behind the addresses.
fn v4() -> Vec<u8> {
    let ends = [203, 0, 113, 9, 192, 0, 2, 1, 0x30, 0x39, 0, 80];
    binary(0x21, 0x11, &[&ends[..], &[4, 0, 2, 0, 0]].concat())
}

/// X-Real-IP as the application gets it for a request that was sent.
fn real_ip(client: &mut Visitor, backend: &mut Backend) -> String {
    let seen = backend.request();
    backend.reply_to(client, "ok");
    seen.field("X-Real-IP").unwrap_or_default().to_owned()
}

#[test]
fn clients_by_header() {
    let proxy = Proxy::start(&format!(
        "access_log: access\nproxy_protocol: 127.0.0.1\n{SITE}"
    ));
    let mut backend = Backend::dial(proxy.dial_in());
    let mut ends = [0; 36];
    ends[..16].copy_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
    let mut mapped = ends;
    let address: Ipv6Addr = "::ffff:203.0.113.10".parse().unwrap();
    mapped[..16].copy_from_slice(&address.octets());
    let line = |text: &str| format!("PROXY {text}\r\n").into_bytes();
    let cases = [
        (line("TCP4 203.0.113.7 192.0.2.1 12345 80"), "203.0.113.7"),
        (line("TCP6 2001:db8::8 ::1 12345 80"), "2001:db8::8"),
        (v4(), "203.0.113.9"),
        (binary(0x21, 0x21, &ends), "2001:db8::7"),
        (binary(0x21, 0x21, &mapped), "203.0.113.10"),
        // Without a client the proxy itself is it.
        (line("UNKNOWN"), "127.0.0.1"),
        (line("UNKNOWN ::1 ::1 1 2"), "127.0.0.1"),
        (binary(0x20, 0x11, &[7; 12]), "127.0.0.1"),
        (binary(0x21, 0, &[]), "127.0.0.1"),
        (binary(0x21, 0x31, &[0; 216]), "127.0.0.1"),
    ];
    for (header, expected) in &cases {
        // In one piece, with the request in the same.
        let mut client = proxy.visit();
        client.send([header, GET.as_bytes()].concat());
        assert_eq!(real_ip(&mut client, &mut backend), *expected);
        // The address is that of the connection, not of the first request.
        client.send(GET);
        assert_eq!(real_ip(&mut client, &mut backend), *expected);
        // In many.
        let mut client = proxy.visit();
        for byte in [header, GET.as_bytes()].concat().chunks(7) {
            client.send(byte);
            std::thread::yield_now();
        }
        assert_eq!(real_ip(&mut client, &mut backend), *expected);
    }
    wait_until("the lines of the access log", || {
        proxy.read("access").lines().count() == 3 * cases.len()
    });
    assert!(proxy.read("access").starts_with("203.0.113.7 - - "));
    proxy.wait_for_log("client 203.0.113.7:12345 through 127.0.0.1:");
    drop(backend);
    proxy.finish();
}

#[test]
fn in_front_of_tls() {
    needs!("openssl");
    let proxy = Proxy::both_with("proxy_protocol: {from: 127.0.0.0/8, at: '127.0.0.2:0'}");
    let mut backend = Backend::dial(proxy.dial_in());
    let mut socket = TcpStream::connect(proxy.addresses()[1]).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(&v4()).unwrap();
    let mut client = Visitor::with(secure::connect(socket, "test"));
    client.send(GET);
    assert_eq!(real_ip(&mut client, &mut backend), "203.0.113.9");
    // Other addresses expect no header, and accept none.
    let mut plain = proxy.visit();
    plain.send(GET);
    assert_eq!(real_ip(&mut plain, &mut backend), "127.0.0.1");
    let mut forged = proxy.visit();
    forged.send([&v4(), GET.as_bytes()].concat());
    let refused = forged.answer();
    assert_eq!(refused.status, 400);
    assert!(
        refused.text().contains("this is a PROXY header"),
        "{}",
        refused.text()
    );
    // Without a header a handshake is not a connection.
    let mut bare = Visitor::connect(proxy.addresses()[1]);
    bare.send([0x16, 3, 1, 0, 5]);
    bare.assert_closed();
    // With the rule gone, a header is none of TLS.
    proxy.wait_for_log("PROXY header: it does not begin with a PROXY header");
    drop((client, plain, forged, bare, backend));
    proxy.finish();
}

#[test]
fn refused_headers() {
    let with = |networks: &str| format!("proxy_protocol: {networks}\n{SITE}");
    let proxy = Proxy::start(&with("[192.0.2.0/24, 127.0.0.1]"));
    let mut backend = Backend::dial(proxy.dial_in());
    let cases: [(&[u8], &str); 4] = [
        (GET.as_bytes(), "it does not begin with a PROXY header"),
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 80\r\n", "malformed"),
        (
            b"PROXY TCP4 203.0.113.7 192.0.2.1 80 x\r\n",
            "malformed address or port",
        ),
        (&binary(0x31, 0x11, &[0; 12]), "unknown version or command"),
    ];
    for (bytes, expected) in cases {
        let mut client = proxy.visit();
        client.send(bytes);
        assert!(client.rest().is_empty(), "{expected}");
        proxy.wait_for_log(expected);
    }
    // One that ends in its header.
    let mut client = proxy.visit();
    client.send("PROXY TCP4 ").finish();
    assert!(client.rest().is_empty());
    proxy.wait_for_log("it ends too early");
    proxy.wait_for_logs("closed: reason=bad_proxy_header", 5);
    // Another address of this machine is no proxy.
    let mut other = Visitor::connect_from([127, 0, 0, 2], proxy.address());
    other.send(b"PROXY TCP4 203.0.113.7 192.0.2.1 80 80\r\n\r\n");
    assert_eq!(other.answer().status, 400);
    let mut other = Visitor::connect_from([127, 0, 0, 2], proxy.address());
    other.send(GET);
    assert_eq!(real_ip(&mut other, &mut backend), "127.0.0.2");
    // A reload is for new connections.
    proxy.reload(&with("false"));
    let mut client = proxy.visit();
    client.send(GET);
    assert_eq!(real_ip(&mut client, &mut backend), "127.0.0.1");
    drop((client, other, backend));
    proxy.finish();
}

#[test]
fn limits_count_the_client_of_the_header() {
    let lines = "proxy_protocol: all\ntrusted_proxies: 198.51.100.0/24\ndeny: 203.0.113.66\nlimits: {connections_per_client: 1}";
    let proxy = Proxy::start(&format!("{lines}\n{SITE}"));
    let mut backend = Backend::dial(proxy.dial_in());
    let connect = |source: &str| {
        let mut client = proxy.visit();
        client.send(format!("PROXY TCP4 {source} 192.0.2.1 1 80\r\n"));
        client
    };
    connect("203.0.113.66").assert_closed();
    proxy.wait_for_log("client 203.0.113.66:1 closed: reason=denied");
    let mut first = connect("203.0.113.1");
    first.send(GET);
    assert_eq!(real_ip(&mut first, &mut backend), "203.0.113.1");
    connect("203.0.113.1").assert_closed();
    let mut other = connect("203.0.113.2");
    other.send(GET);
    assert_eq!(real_ip(&mut other, &mut backend), "203.0.113.2");
    drop(first);
    // Its place is free again soon.
    wait_until("a second connection of the client", || {
        let mut again = connect("203.0.113.1");
        // With its answer, or none.
        again.send("GET /swiftiply_health HTTP/1.0\r\n\r\n");
        !again.rest().is_empty()
    });
    // A proxy in front of the proxy names the client in its field.
    let mut behind = connect("198.51.100.1");
    behind.send(GET.replace("\r\n\r\n", "\r\nX-Forwarded-For: 192.0.2.99\r\n\r\n"));
    assert_eq!(real_ip(&mut behind, &mut backend), "192.0.2.99");
    drop((other, behind, backend));
    proxy.finish();
}

/// A site with this server and these keys.
fn with_server(server: SocketAddr, keys: &str) -> String {
    let site = "map: [{incoming: test, default: true, proxy: traditional, timeout: 60";
    format!("trusted_proxies: 127.0.0.2\n{site}, servers: '{server}'{keys}}}]")
}

#[test]
fn sent_to_servers() {
    let server = Server::start();
    let yaml = |keys: &str| with_server(server.address(), keys);
    let proxy = Proxy::start(&yaml(", send_proxy: v1"));
    let port = proxy.address().port();
    let mut client = proxy.visit();
    // Each request has a connection of its own, even of the same client.
    for _ in 0..2 {
        client.send(GET);
        let mut backend = server.accept();
        let header = backend.read_to("\r\n");
        let words: Vec<&str> = header.trim_end().split(' ').collect();
        let [proxy, family, source, destination, _, to] = *words else {
            panic!("{header:?}");
        };
        assert_eq!(
            [proxy, family, source, destination],
            ["PROXY", "TCP4", "127.0.0.1", "127.0.0.1"]
        );
        assert_eq!(to, port.to_string());
        assert_eq!(backend.request().target(), "/");
        backend.reply_to(&mut client, "ok");
        backend.assert_closed();
    }
    // A client behind a trusted proxy.
    let mut behind = Visitor::connect_from([127, 0, 0, 2], proxy.address());
    behind.send(GET.replace("\r\n\r\n", "\r\nX-Forwarded-For: 2001:db8::7\r\n\r\n"));
    let mut backend = server.accept();
    let header = backend.read_to("\r\n");
    assert_eq!(
        header,
        format!("PROXY TCP6 2001:db8::7 ::ffff:127.0.0.1 0 {port}\r\n")
    );
    backend.request();
    backend.reply_to(&mut behind, "ok");
    // Version 2, and a check, which is the proxy's own.
    proxy.reload(&yaml(", send_proxy: v2, check: {uri: /up, interval: 60}"));
    let mut backend = server.accept();
    assert_eq!(backend.take(16), binary(0x20, 0, &[]));
    assert_eq!(backend.request().target(), "/up");
    backend.reply("");
    client.send(GET);
    let mut backend = server.accept();
    let header = backend.take(28);
    let port_bytes = port.to_be_bytes();
    assert_eq!(header[..16], binary(0x21, 0x11, &[0; 12])[..16]);
    assert_eq!(header[16..24], [127, 0, 0, 1, 127, 0, 0, 1]);
    assert_eq!(header[26..], port_bytes);
    backend.request();
    backend.reply_to(&mut client, "ok");
    // Without the key connections are used again, and have no header.
    proxy.reload(&yaml(""));
    client.send(GET);
    let mut backend = server.accept();
    for again in [true, true, false] {
        assert_eq!(backend.request().target(), "/");
        backend.reply_to(&mut client, "ok");
        if again {
            client.send(GET);
        }
    }
    // One that is idle when the key comes back is not used for a request with a header.
    proxy.reload(&yaml(", send_proxy: v1"));
    client.send(GET);
    let mut fresh = server.accept();
    assert!(fresh.read_to("\r\n").starts_with("PROXY TCP4 "));
    fresh.request();
    fresh.reply_to(&mut client, "ok");
    backend.assert_closed();
    drop((client, behind, backend, fresh));
    proxy.finish();
}

/// The header of the next connection to a server with the fields that name the client, without what differs each time.
fn as_sent(server: &Server, client: &mut Visitor) -> (Vec<u8>, [Option<String>; 3]) {
    let mut backend = server.accept();
    let header = backend.take(28);
    let seen = backend.request();
    let fields = ["X-Forwarded-For", "X-Real-IP", "X-Forwarded-Proto"];
    let fields = fields.map(|name| seen.field(name).map(str::to_owned));
    backend.reply_to(client, "ok");
    (header, fields)
}

#[test]
fn the_same_after_an_upgrade() {
    let server = Server::start();
    let site = with_server(server.address(), ", send_proxy: v2");
    let site = site.replace(
        "trusted_proxies: 127.0.0.2",
        "trusted_proxies: 203.0.113.0/24",
    );
    let proxy = Proxy::start_with(
        &format!("proxy_protocol: 127.0.0.1\n{site}"),
        &["--pid", "pid"],
    );
    // Both clients are behind a PROXY header, one of them also behind a trusted proxy.
    let forwarded = GET.replace("\r\n\r\n", "\r\nX-Forwarded-For: 198.51.100.7\r\n\r\n");
    let line = b"PROXY TCP4 198.51.100.9 192.0.2.8 4321 8080\r\n".to_vec();
    let mut fresh = [proxy.visit(), proxy.visit()];
    let cases = [(v4(), forwarded.as_str()), (line, GET)];
    let mut clients = [proxy.visit(), proxy.visit()];
    let ask = |clients: &mut [Visitor; 2], with_header: bool| {
        let mut sent = Vec::new();
        for (client, (header, request)) in clients.iter_mut().zip(&cases) {
            if with_header {
                client.send(header);
            }
            client.send(request);
            sent.push(as_sent(&server, client));
        }
        sent
    };
    let before = ask(&mut clients, true);
    let address = |ends: [u8; 12]| binary(0x21, 0x11, &ends);
    assert_eq!(
        before[0].0,
        address([198, 51, 100, 7, 192, 0, 2, 1, 0, 0, 0, 80])
    );
    assert_eq!(
        before[1].0,
        address([198, 51, 100, 9, 192, 0, 2, 8, 0x10, 0xe1, 0x1f, 0x90])
    );
    let mut last = None;
    for _ in 0..2 {
        let new = match &last {
            None => Successor::of(&proxy),
            Some(old) => Successor::next(old, &proxy),
        };
        assert_eq!(ask(&mut clients, false), before);
        last = Some(new);
    }
    // These have connected before, and say only now who their clients are.
    assert_eq!(ask(&mut fresh, true), before);
    drop((clients, fresh));
    last.unwrap().finish();
}

#[test]
fn unix_sockets() {
    let server = Server::start();
    let yaml = with_server(server.address(), ", send_proxy: v1");
    let proxy = Proxy::start(&format!(
        "cluster_address: [127.0.0.1, 'unix:front']\nproxy_protocol: {{from: 'unix:', at: 'unix:front'}}\n{yaml}"
    ));
    let ask = |header: &str| {
        let mut socket = UnixStream::connect(proxy.file("front")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = GET.replace("1.1", "1.0");
        socket
            .write_all(format!("{header}{request}").as_bytes())
            .unwrap();
        let mut backend = server.accept();
        let header = backend.read_to("\r\n");
        let seen = backend.request();
        backend.reply("ok");
        socket.read_to_string(&mut String::new()).unwrap();
        (
            header,
            field(&seen.head, "X-Real-IP")
                .unwrap_or_default()
                .to_owned(),
        )
    };
    let named = "PROXY TCP4 203.0.113.7 192.0.2.1 12345 80\r\n";
    assert_eq!(ask(named), (named.to_owned(), "203.0.113.7".to_owned()));
    let unknown = "PROXY UNKNOWN\r\n";
    assert_eq!(ask(unknown), (unknown.to_owned(), "unix:".to_owned()));
    proxy.finish_without_leak_check();
}

#[test]
fn header_timeout() {
    let lines = "proxy_protocol: all\ntimeouts: {head: 200ms, idle: 10m}";
    let proxy = Proxy::start(&format!("{lines}\n{SITE}"));
    for bytes in ["", "PROXY TCP4 203.0."] {
        let mut client = proxy.visit();
        client.send(bytes);
        client.assert_closed();
    }
    proxy.wait_for_logs("PROXY header: it did not arrive in time", 2);
    proxy.wait_for_logs("closed: reason=bad_proxy_header", 2);
    proxy.finish();
}
