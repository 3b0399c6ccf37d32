//! TLS on the dial-in link, and Unix sockets with a file of a certain kind.

use std::fmt::Display;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::signal::Signal::SIGHUP;

use crate::common::backend::preamble;
use crate::common::{
    Access, Backend, EchoServer, Proxy, Server, assert_lacks, bytes, head_end, needs, proxy,
    read_until, secure, wait_until,
};

/// A server with TLS where backends dial in.
fn server(certfile: &Path, keyfile: &Path, more: &str, lines: &str) -> Proxy {
    let pair = secure::pair(certfile, keyfile);
    let site = proxy::site("key: secret");
    Proxy::start(&format!(
        "outgoing_ssl: {{at: '127.0.0.1:0', {pair}{more}}}\n{site}\n{lines}"
    ))
}

/// An access proxy that dials in there.
fn access(server: impl Display, app: SocketAddr, ssl: &str) -> Access {
    let yaml = format!(
        "{{connect: '{server}', to: '{app}', key: secret, connections: 2, ssl: {{{ssl}}}}}"
    );
    Access::start(&yaml, &[])
}

/// Every shape of request and answer over one line.
fn exchange(proxy: &Proxy, app: &Server) {
    let mut visitor = proxy.ask("/one");
    let mut backend = app.accept_asking();
    assert_eq!(backend.request().target(), "/one");
    backend.reply_to(&mut visitor, "one");
    let body = bytes(3_000_000);
    visitor.send_post("/big", &body);
    assert_eq!(backend.request().body, body);
    backend.reply(&body);
    assert_eq!(visitor.answer().body, body);
    visitor.send_get("/chunks");
    backend.request();
    backend.reply_in_chunks(&body, 100_003);
    assert_eq!(visitor.answer().body, body);
    // A response that the application cuts is cut for the client.
    visitor.send_get("/cut");
    backend.request();
    backend.send("HTTP/1.1 200 OK\r\nContent-Length: 17000\r\n\r\nabc");
    backend.finish();
    visitor.answer().assert_cut();
}

#[test]
fn authority_or_fingerprint() {
    needs!("openssl");
    let files = tempfile::tempdir().unwrap();
    let (ca, certfile, keyfile) = secure::authority(files.path(), "localhost");
    let (other, ..) = secure::authority(files.path(), "elsewhere.test");
    let proxy = server(&certfile, &keyfile, "", "");
    let app = Server::start();
    let (by_address, port) = (proxy.dial_in().to_string(), proxy.dial_in().port());
    let by_name = format!("localhost:{port}");
    let own = secure::fingerprint(&certfile);
    for (at, ssl) in [
        (&by_address, format!("ca: {}", ca.display())),
        (&by_name, format!("ca: {}", ca.display())),
        (&by_address, format!("fingerprint: '{own}'")),
        (
            &by_address,
            format!("fingerprint: '{}'", own.replace(':', "").to_lowercase()),
        ),
    ] {
        let access = access(at, app.address(), &ssl);
        access.wait_for_log(": dialled in");
        exchange(&proxy, &app);
        access.finish();
    }
    // A fingerprint of another certificate.
    let wrong = own.replace(&own[..2], if &own[..2] == "00" { "11" } else { "00" });
    for (ssl, why) in [
        (
            format!("ca: {}", other.display()),
            "its certificate is not from a trusted authority",
        ),
        (
            format!("fingerprint: '{wrong}'"),
            "its certificate has another fingerprint",
        ),
    ] {
        let access = access(&by_address, app.address(), &ssl);
        access.wait_for_log(&format!("server {by_address}: "));
        assert!(access.log().contains(why), "{}", access.log());
        assert_lacks(&access.log(), "dialled in");
        access.finish();
    }
    proxy.wait_for_log("reason=tls_failed");
    proxy.finish();
}

#[test]
fn certificate_of_other_name() {
    needs!("openssl");
    let files = tempfile::tempdir().unwrap();
    let (ca, certfile, keyfile) = secure::authority(files.path(), "other.test");
    let proxy = server(&certfile, &keyfile, "", "");
    let app = EchoServer::start();
    let at = format!("localhost:{}", proxy.dial_in().port());
    let access = access(&at, app.address(), &format!("ca: {}", ca.display()));
    access.wait_for_log("its certificate is not valid for localhost, only for other.test, ");
    assert_lacks(&proxy.log(), "joined");
    access.finish();
    drop(app);
    proxy.finish();
}

#[test]
fn client_certificate() {
    needs!("openssl");
    let files = tempfile::tempdir().unwrap();
    let (ca, certfile, keyfile) = secure::authority(files.path(), "localhost");
    let (client_ca, client, client_key) = secure::authority(files.path(), "client.test");
    let (_, stranger, stranger_key) = secure::authority(files.path(), "stranger.test");
    let more = format!(", client_ca: {}", client_ca.display());
    let proxy = server(&certfile, &keyfile, &more, "");
    let app = EchoServer::start();
    let at = proxy.dial_in();
    let with = |certfile: &Path, keyfile: &Path| {
        let pair = secure::pair(certfile, keyfile);
        format!("ca: {}, {pair}", ca.display())
    };
    let good = access(at, app.address(), &with(&client, &client_key));
    assert_eq!(proxy.visit().get("/a").text(), "/a");
    let bad = access(at, app.address(), &with(&stranger, &stranger_key));
    bad.wait_for_log("trying again");
    bad.finish();
    let none = access(at, app.address(), &format!("ca: {}", ca.display()));
    none.wait_for_log("trying again");
    none.finish();
    proxy.wait_for_log("invalid peer certificate: ");
    proxy.wait_for_log("peer sent no certificates");
    good.finish();
    drop(app);
    proxy.finish();
}

#[test]
fn handshake_timeout() {
    needs!("openssl");
    let files = tempfile::tempdir().unwrap();
    let (ca, certfile, keyfile) = secure::authority(files.path(), "localhost");
    let proxy = server(&certfile, &keyfile, "", "timeouts: {preamble: 300ms}");
    let app = EchoServer::start();
    // A silent connection, half of a ClientHello, bytes that are not TLS, and HTTP.
    let mut silent = Backend::connect(proxy.dial_in());
    let mut half = Backend::connect(proxy.dial_in());
    half.send([22, 3, 1, 2, 0]);
    let mut plain = Backend::connect(proxy.dial_in());
    plain.send(preamble("000000000001", "secret"));
    let mut http = Backend::connect(proxy.dial_in());
    http.send("GET / HTTP/1.1\r\n\r\n");
    let access = access(
        proxy.dial_in(),
        app.address(),
        &format!("ca: {}", ca.display()),
    );
    assert_eq!(proxy.visit().get("/a").text(), "/a");
    for backend in [&mut silent, &mut half] {
        backend.assert_closed();
    }
    // An alert comes before the end.
    let _ = plain.is_closed();
    let _ = http.is_closed();
    proxy.wait_for_logs("reason=tls_timeout", 2);
    proxy.wait_for_logs("reason=tls_failed", 2);
    proxy.wait_for_log("plain text instead of TLS");
    // The wrong key is refused as without TLS, and bytes behind the preamble are junk.
    let dial = |bytes: &[u8]| {
        let stream = TcpStream::connect(proxy.dial_in()).unwrap();
        let mut stream = secure::connect(stream, "localhost");
        stream.write_all(bytes).unwrap();
        stream
    };
    let wrong = dial(&preamble("000000000001", "guess"));
    proxy.wait_for_log("reason=bad_key");
    let junk = dial(&[preamble("000000000001", "secret"), vec![b'x'; 9]].concat());
    proxy.wait_for_log("reason=junk");
    drop((silent, half, plain, http, wrong, junk));
    access.finish();
    drop(app);
    proxy.finish();
}

#[test]
fn key_update() {
    needs!("openssl");
    let files = tempfile::tempdir().unwrap();
    let (_, certfile, keyfile) = secure::authority(files.path(), "localhost");
    let proxy = server(&certfile, &keyfile, "", "");
    let stream = TcpStream::connect(proxy.dial_in()).unwrap();
    let mut backend = secure::connect(stream, "localhost");
    backend
        .write_all(&preamble("000000000001", "secret"))
        .unwrap();
    proxy.wait_for_log("joined");
    let body = bytes(30_000_000);
    let mut visitor = proxy.visit();
    visitor.send_post("/", &body);
    // The backend does not read, so that the proxy soon cannot write. Then new keys arrive.
    let mut seen = vec![0; 20_000];
    wait_until("much of the request", || {
        backend.sock.peek(&mut seen).unwrap() == seen.len()
    });
    backend.conn.refresh_traffic_keys().unwrap();
    backend.flush().unwrap();
    let mut request = Vec::new();
    let whole = |b: &[u8]| head_end(b).is_some_and(|head| b.len() == head + body.len());
    assert!(
        read_until(&mut backend, &mut request, "a request", whole),
        "the request ended early, after {} bytes",
        request.len()
    );
    assert!(
        request.ends_with(&body),
        "the body of the request arrived changed"
    );
    backend
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .unwrap();
    assert_eq!(visitor.answer().text(), "ok");
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn certificate_reload() {
    needs!("openssl");
    let files = tempfile::tempdir().unwrap();
    let (ca, certfile, keyfile) = secure::authority(files.path(), "localhost");
    let proxy = server(&certfile, &keyfile, "", "");
    let app = EchoServer::start();
    let ssl = format!("ca: {}", ca.display());
    let access_proxy = access(proxy.dial_in(), app.address(), &ssl);
    proxy.wait_for_logs(" joined ", 2);
    // If the new certificate cannot be read, the old one stays.
    fs::write(&keyfile, "rubbish").unwrap();
    proxy.load_again();
    proxy.wait_for_log("keeping the certificate that was read before");
    // Connections from now on get the new certificate.
    let again = tempfile::tempdir().unwrap();
    let (new_ca, new_cert, new_key) = secure::authority(again.path(), "localhost");
    fs::copy(new_cert, &certfile).unwrap();
    fs::copy(new_key, &keyfile).unwrap();
    proxy.load_again();
    assert_eq!(proxy.visit().get("/a").text(), "/a");
    let late = access(
        proxy.dial_in(),
        app.address(),
        &format!("ca: {}", new_ca.display()),
    );
    proxy.wait_for_logs(" joined ", 4);
    assert_lacks(&proxy.log(), "reason=removed");
    // The access proxy reads its authorities again, too.
    fs::copy(new_ca, &ca).unwrap();
    let yaml = format!(
        "{{connect: '{}', to: '{}', key: secret, connections: 3, ssl: {{{ssl}}}}}",
        proxy.dial_in(),
        app.address()
    );
    access_proxy.reload(&yaml);
    proxy.wait_for_logs(" joined ", 5);
    late.finish();
    access_proxy.finish();
    drop(app);
    proxy.finish_without_leak_check();
}

#[test]
fn drain() {
    needs!("openssl");
    let files = tempfile::tempdir().unwrap();
    let (ca, certfile, keyfile) = secure::authority(files.path(), "localhost");
    let mut proxy = server(&certfile, &keyfile, "", "");
    let app = Server::start();
    let access = access(
        proxy.dial_in(),
        app.address(),
        &format!("ca: {}", ca.display()),
    );
    let mut visitor = proxy.ask("/slow");
    let mut backend = app.accept_asking();
    backend.request();
    proxy.signal(nix::sys::signal::Signal::SIGTERM);
    proxy.wait_for_log("draining");
    backend.reply_to(&mut visitor, "in time");
    assert_eq!(proxy.wait().code(), Some(0));
    access.finish();
}

#[test]
fn warning_without_key() {
    let warning = "WARNING: every process that reaches this address can dial in";
    let proxy = Proxy::start("map: [{incoming: test, outgoing: '0.0.0.0:0'}]");
    proxy.wait_for_log(warning);
    let check = proxy::check(proxy.directory());
    assert_eq!(check.code, Some(0));
    assert!(check.err.contains(warning), "{check:?}");
    proxy.finish();
}

#[test]
fn socket_file() {
    let yaml = |mode: &str| {
        format!(
            "map: [{{incoming: test, outgoing: {{to: 'unix:in.sock', mode: {mode}}}, timeout: 60}}]"
        )
    };
    let proxy = Proxy::start(&yaml("0600"));
    let mode = || {
        fs::metadata(proxy.file("in.sock"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode(), 0o600);
    let mut backend = UnixStream::connect(proxy.file("in.sock")).unwrap();
    backend.write_all(&preamble("000000000001", "")).unwrap();
    proxy.wait_for_log("joined");
    // A reload changes the file and nothing else.
    proxy.reload(&yaml("660"));
    wait_until("the new mode of the socket", || mode() == 0o660);
    assert_lacks(&proxy.log(), "reason=removed");
    proxy.configure(
        "map: [{incoming: test, outgoing: {to: 'unix:in.sock', owner: no-such-user-here}}]",
    );
    proxy.signal(SIGHUP);
    proxy.wait_for_log("owner \"no-such-user-here\": no such user");
    assert_eq!(mode(), 0o660);
    drop(backend);
    proxy.finish_without_leak_check();

    if nix::unistd::getuid().is_root() {
        let proxy = Proxy::start(
            "map: [{incoming: test, outgoing: {to: 'unix:in.sock', mode: 0640, owner: 1, group: 2}}]",
        );
        let about = fs::metadata(proxy.file("in.sock")).unwrap();
        assert_eq!(
            (about.uid(), about.gid(), about.mode() & 0o777),
            (1, 2, 0o640)
        );
        proxy.finish();
    }
}
