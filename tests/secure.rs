//! TLS for clients: certificates, handshakes, resumption, and connections that are not TLS.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::{ClientConfig, HandshakeKind};

use crate::common::proxy::SITE;
use crate::common::{
    Backend, Echo, PATIENCE, Proxy, Visitor, access, bytes, ended, needs, proxy, secure,
};

/// The line by which clients are served with TLS at a second address.
fn ssl(certfile: &Path, keyfile: &Path) -> String {
    let pair = secure::pair(certfile, keyfile);
    format!("ssl: {{at: '127.0.0.2:0', {pair}}}")
}

/// Connects to that address with settings of its own.
fn connect(proxy: &Proxy, config: &Arc<ClientConfig>) -> secure::Stream {
    let socket = TcpStream::connect(proxy.addresses()[1]).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    secure::connect_with(Arc::clone(config), socket, "test")
}

/// What curl, which trusts this certificate, says to the response for a host.
fn curl(address: SocketAddr, host: &str, trusted: &Path, options: &[&str]) -> (bool, String) {
    let run = Command::new("curl")
        .args(["-sS", "--max-time", "60", "--cacert"])
        .arg(trusted)
        .args(["--connect-to", &format!("{host}:443:{address}")])
        .args(options)
        .arg(format!("https://{host}/curl"))
        .output()
        .unwrap();
    let text = [run.stdout, run.stderr].concat();
    (run.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn certificate_by_name() {
    needs!("curl", "openssl");
    let files = tempfile::tempdir().unwrap();
    let make = |file: &str, names: &[&str]| secure::certificate(files.path(), file, names);
    let pairs = [
        make("one", &["one.test"]),
        make("two", &["two.test", "zwei.test"]),
        make("wild", &["*.wild.test"]),
    ];
    let list = pairs.iter().map(|(certfile, keyfile)| {
        let pair = secure::pair(certfile, keyfile);
        format!("  - {{at: '127.0.0.2:0', {pair}}}\n")
    });
    let proxy = Proxy::simple_with(&format!("ssl:\n{}", list.collect::<String>()));
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    let address = proxy.addresses()[1];
    let check = |host: &str, pair: usize, expected: bool| {
        for options in [&["--tlsv1.3"][..], &["--tls-max", "1.2"], &["-0"]] {
            let (trusted, text) = curl(address, host, &pairs[pair].0, options);
            assert_eq!(trusted, expected, "{host} {options:?}: {text}");
            assert!(!trusted || text == "/curl", "{host} {options:?}: {text}");
        }
    };
    check("one.test", 0, true);
    check("two.test", 1, true);
    check("ZWEI.test", 1, true);
    check("a.wild.test", 2, true);
    check("two.test", 0, false);
    check("a.b.wild.test", 2, false);
    // An unknown name gets the first certificate, which does not match it.
    check("other.test", 0, false);
    drop(echo);
    proxy.finish();
}

#[test]
fn certificate_of_a_site() {
    needs!("curl", "openssl");
    let files = tempfile::tempdir().unwrap();
    let make = |file: &str, names: &[&str]| secure::certificate(files.path(), file, names);
    let common = make("common", &["a.test", "c.test"]);
    let own = make("own", &["a.test"]);
    let proxy = Proxy::start(&format!(
        "{}\nmap:\n- {{incoming: a.test, outgoing: '127.0.0.1:0', tls: {{{}}}}}\n\
         - {{incoming: c.test, outgoing: '127.0.0.1:0'}}",
        ssl(&common.0, &common.1),
        secure::pair(&own.0, &own.1)
    ));
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    let address = proxy.addresses()[1];
    let trusts = |host: &str, certfile: &Path| curl(address, host, certfile, &[]).0;
    assert!(trusts("a.test", &own.0), "the site's own one comes first");
    assert!(!trusts("a.test", &common.0));
    assert!(
        trusts("c.test", &common.0),
        "others have that of the address"
    );
    proxy.wait_for_log(&format!("certificate {}: valid until ", own.0.display()));
    drop(echo);
    proxy.finish();
}

#[test]
fn certificate_is_read_when_it_changes() {
    needs!("curl", "openssl");
    let files = tempfile::tempdir().unwrap();
    let make = |file: &str, names: &[&str]| secure::certificate(files.path(), file, names);
    let (certfile, keyfile) = make("test", &["old.test"]);
    let own = make("own", &["own.test"]);
    let proxy = Proxy::start(&format!(
        "{}\nmap:\n- {{incoming: own.test, outgoing: '127.0.0.1:0', tls: {{{}}}}}\n\
         - {{incoming: new.test, outgoing: '127.0.0.1:0'}}",
        ssl(&certfile, &keyfile),
        secure::pair(&own.0, &own.1)
    ));
    let address = proxy.addresses()[1];
    let trusts = |host: &str, certfile: &Path| curl(address, host, certfile, &["-m", "9"]).1;
    let mut kept = proxy.visit_secure();
    let health = "GET /swiftiply_health HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(kept.ask(health).status, 200);
    make("test", &["new.test"]);
    proxy.wait_for_log(&format!("{}: read again", certfile.display()));
    let is_trusted = |text: String| !text.contains("certificate");
    assert!(is_trusted(trusts("new.test", &certfile)));
    fs::copy(&own.0, files.path().join("before.pem")).unwrap();
    make("own", &["own.test"]);
    proxy.wait_for_log(&format!("{}: read again", own.0.display()));
    assert!(is_trusted(trusts("own.test", &own.0)));
    assert!(!is_trusted(trusts(
        "own.test",
        &files.path().join("before.pem")
    )));
    // A file that is damaged changes nothing.
    fs::write(&certfile, "no certificate").unwrap();
    proxy.wait_for_log("no certificate in it; keeping the certificate that was read before");
    assert_eq!(kept.ask(health).status, 200);
    kept.finish();
    drop(kept);
    proxy.finish();
}

#[test]
fn alpn_and_resumption() {
    needs!("openssl");
    let files = tempfile::tempdir().unwrap();
    let (certfile, keyfile) = secure::certificate(files.path(), "test", &["test"]);
    let yaml = format!("{SITE}\n{}", ssl(&certfile, &keyfile));
    let proxy = Proxy::start(&yaml);
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    let old = secure::config_of(&[&rustls::version::TLS12]);
    for config in [secure::config(), old] {
        let config = Arc::new(config);
        let visit = || {
            let mut visitor = Visitor::with(connect(&proxy, &config));
            assert_eq!(visitor.get("/x").text(), "/x");
            assert_eq!(visitor.tls().alpn_protocol(), Some(&b"http/1.1"[..]));
            visitor.tls().handshake_kind().unwrap()
        };
        assert_eq!(visit(), HandshakeKind::Full);
        assert_eq!(visit(), HandshakeKind::Resumed);
        proxy.reload(&yaml);
        assert_eq!(visit(), HandshakeKind::Resumed);
    }
    drop(echo);
    proxy.finish();
}

#[test]
fn certificate_reload() {
    needs!("curl", "openssl");
    let files = tempfile::tempdir().unwrap();
    let (certfile, keyfile) = secure::certificate(files.path(), "test", &["old.test"]);
    let yaml = format!("{SITE}\n{}", ssl(&certfile, &keyfile));
    let proxy = Proxy::start(&yaml);
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    let address = proxy.addresses()[1];
    let mut kept = proxy.visit_secure();
    assert_eq!(kept.get("/before").text(), "/before");
    let trusts = |host: &str, certfile: &Path| curl(address, host, certfile, &[]).0;
    assert!(
        trusts("old.test", &certfile),
        "the first certificate is not sent"
    );
    let old = files.path().join("old.pem");
    fs::copy(&certfile, &old).unwrap();
    // Another pair under the same names.
    secure::certificate(files.path(), "test", &["new.test"]);
    proxy.reload(&yaml);
    assert!(
        trusts("new.test", &certfile),
        "the second certificate is not sent after the reload"
    );
    assert!(
        !trusts("old.test", &old),
        "the first certificate is still sent after the reload"
    );
    // A key of another certificate, and a missing one.
    let new = files.path().join("new.pem");
    fs::copy(&certfile, &new).unwrap();
    fs::copy(&old, &certfile).unwrap();
    proxy.reload(&yaml);
    proxy.wait_for_log("test.key: not the key of the certificate");
    assert!(
        trusts("new.test", &new),
        "a reload that failed changed the certificate"
    );
    fs::remove_file(&keyfile).unwrap();
    proxy.reload(&yaml);
    proxy.wait_for_log("test.key: no such file");
    assert!(
        trusts("new.test", &new),
        "a reload that failed changed the certificate"
    );
    // A new pair with a problem is not used, nor is the rest of that configuration.
    proxy.configure(&yaml.replace("test.pem", "none.pem"));
    proxy.signal(nix::sys::signal::Signal::SIGHUP);
    proxy.wait_for_log("none.pem: no such file");
    assert!(
        trusts("new.test", &new),
        "a reload that failed changed the certificate"
    );
    // The connection from the beginning still works.
    assert_eq!(kept.get("/after").text(), "/after");
    // And an address can become plain, and secure again.
    proxy.reload(SITE);
    drop((kept, echo));
    proxy.finish_without_leak_check();
}

#[test]
fn plain_http_at_tls_address() {
    needs!("openssl");
    let proxy = Proxy::both();
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    let address = proxy.addresses()[1];
    let mut plain = Visitor::connect(address);
    let answer = plain.get("/");
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("https://"), "{answer:?}");
    plain.finish().assert_closed();
    for rubbish in [
        &b"\x16\x03\x01\x00\x05rubbish"[..],
        b"\0\0\0\0",
        b"\x16\x03\x01\xff\xff",
    ] {
        let mut visitor = TcpStream::connect(address).unwrap();
        visitor.set_read_timeout(Some(PATIENCE)).unwrap();
        visitor.write_all(rubbish).unwrap();
        let mut answer = Vec::new();
        let _ = visitor.read_to_end(&mut answer);
        // At most an alert.
        assert!(answer.len() < 100, "{answer:?}");
        assert_eq!(proxy.visit_secure().get("/x").text(), "/x");
    }
    proxy.wait_for_logs("reason=tls_failed", 3);
    assert_eq!(echo.answered(), 3);
    drop((plain, echo));
    proxy.finish();
}

#[test]
fn http_2_only() {
    needs!("openssl");
    let proxy = Proxy::both();
    let mut config = secure::config();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut visitor = connect(&proxy, &Arc::new(config));
    // RFC 7301 3.2.
    let error = visitor.read(&mut [0]).unwrap_err().to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
    proxy.wait_for_log("reason=tls_failed");
    assert_eq!(proxy.visit_secure().get("/swiftiply_health").status, 200);
    drop(visitor);
    proxy.finish();
}

#[test]
fn handshake_timeout() {
    needs!("openssl");
    let proxy = Proxy::both_with("timeouts: {head: 200ms}");
    let address = proxy.addresses()[1];
    let silent = TcpStream::connect(address).unwrap();
    let mut half = TcpStream::connect(address).unwrap();
    half.write_all(b"\x16\x03\x01\x00\xf0\x01").unwrap();
    proxy.wait_for_logs("reason=tls_timeout", 2);
    drop((silent, half));
    proxy.finish();
}

#[test]
fn decrypted_bytes_survive_parking() {
    needs!("openssl");
    let proxy = Proxy::both();
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    let mut visitor = proxy.visit_secure();
    let request = |target: usize| format!("GET /{target} HTTP/1.1\r\nHost: test\r\n\r\n");
    // Many records, cut anywhere, before any response is read.
    let all: String = (0..300).map(request).collect();
    for piece in all.as_bytes().chunks(333) {
        visitor.send(piece);
    }
    for number in 0..300 {
        assert_eq!(visitor.answer().text(), format!("/{number}"));
    }
    // One and a half, and the rest when the first is answered.
    let two = [request(1), request(2)].concat();
    for cut in 40..two.len() {
        visitor.send(&two.as_bytes()[..cut]);
        assert_eq!(visitor.answer().text(), "/1");
        visitor.send(&two.as_bytes()[cut..]);
        assert_eq!(visitor.answer().text(), "/2", "cut at {cut}");
    }
    drop((visitor, echo));
    proxy.finish();
}

#[test]
fn large_bodies() {
    needs!("openssl");
    let proxy = Proxy::both();
    let mut backend = Backend::dial(proxy.dial_in());
    let body = bytes(3_000_000);
    let expected = body.clone();
    let application = thread::spawn(move || {
        for _ in 0..2 {
            let seen = backend.request();
            backend.reply(&seen.body);
        }
        backend
    });
    for secure in [true, false] {
        let mut visitor = proxy.visit_as(secure);
        visitor.send_post("/", &body);
        visitor.answer().assert_body(&expected);
    }
    drop(application.join().unwrap());
    proxy.finish();
}

#[test]
fn truncation_is_visible() {
    needs!("openssl");
    let proxy = Proxy::both();
    // The end of the connection is the end of the body: a whole one ends with a close_notify, one that broke off does not.
    for whole in [true, false] {
        let mut backend = Backend::dial(proxy.dial_in());
        let mut visitor = connect(&proxy, &Arc::new(secure::config()));
        visitor
            .write_all(b"GET / HTTP/1.0\r\nHost: test\r\n\r\n")
            .unwrap();
        backend.request();
        backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
        let mut bytes = Vec::new();
        let mut block = [0; 1000];
        while !bytes.ends_with(b"abc") {
            let count = visitor.read(&mut block).unwrap();
            bytes.extend_from_slice(&block[..count]);
        }
        if whole {
            backend.send("0\r\n\r\n");
        }
        drop(backend);
        match visitor.read(&mut block) {
            Ok(0) => assert!(whole, "the response was cut, but TLS ended in order"),
            Err(error) => {
                let kinds = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
                assert!(!whole && kinds.contains(&error.kind()), "{error}");
            }
            Ok(_) => panic!("more than there was"),
        }
    }
    proxy.finish();
}

#[test]
fn tls_at_plain_address() {
    let proxy = Proxy::simple();
    // The beginning of a ClientHello, without any end of line in it, and the rest never comes.
    let mut visitor = proxy.visit();
    visitor.send([
        0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03,
    ]);
    let answer = visitor.answer();
    assert_eq!(answer.status, 400);
    let says = "this port speaks HTTP; ask with http://";
    assert!(answer.text().contains(says), "{}", answer.text());
    proxy.wait_for_log(says);
    drop(visitor);
    proxy.finish();
}

#[test]
fn unreadable_certificates() {
    needs!("openssl");
    let files = tempfile::tempdir().unwrap();
    let (certfile, keyfile) = secure::certificate(files.path(), "good", &["a.test"]);
    let (_, other) = secure::certificate(files.path(), "other", &["a.test"]);
    let rubbish = files.path().join("rubbish");
    fs::write(&rubbish, "rubbish").unwrap();
    let broken = files.path().join("broken");
    fs::write(
        &broken,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let none = files.path().join("none");
    let check = |certfile: &Path, keyfile: &Path, expected: &str| {
        let ssl = ssl(certfile, keyfile);
        let yaml = format!("cluster_address: 127.0.0.1\ncluster_port: 0\n{SITE}\n{ssl}\n");
        let file = files.path().join("s.yml");
        fs::write(&file, yaml).unwrap();
        for option in ["--check", "-p"] {
            let run = ended(proxy::program().arg(option).arg("-c").arg(&file));
            match option {
                "-p" => assert_eq!(run.code, Some(0), "{run:?}"),
                _ if expected.is_empty() => assert_eq!(run.code, Some(0), "{run:?}"),
                _ => {
                    assert_eq!(run.code, Some(2), "{run:?}");
                    assert!(run.err.contains(expected), "{run:?} lacks {expected}");
                }
            }
        }
        if !expected.is_empty() {
            let run = ended(proxy::program().arg("-c").arg(&file));
            assert_eq!(run.code, Some(2));
        }
    };
    check(&certfile, &keyfile, "");
    check(&none, &keyfile, "none\": no such file or directory");
    check(&certfile, &none, "none\": no such file or directory");
    check(&rubbish, &keyfile, "rubbish\": no certificate in it");
    check(&broken, &keyfile, "broken\": not a certificate");
    check(&certfile, &rubbish, "rubbish\": no private key in it");
    check(&certfile, &certfile, "good.pem\": no private key in it");
    check(
        &certfile,
        &other,
        "other.key\": not the key of the certificate in",
    );
}

#[test]
fn client_leaves() {
    needs!("openssl");
    let proxy = Proxy::both();
    let mut visitor = proxy.visit_secure();
    visitor.send_get("/waits");
    // A client that closes its sending side right after its request still wants the response.
    thread::sleep(Duration::from_millis(500));
    drop(visitor);
    proxy.wait_for_log("reason=client_gone");
    proxy.finish();
}

#[test]
fn byte_order_mark() {
    needs!("openssl");
    let files = tempfile::tempdir().unwrap();
    let mark = |path: &Path| {
        let bytes = [b"\xef\xbb\xbf", &*fs::read(path).unwrap()].concat();
        fs::write(path, bytes).unwrap();
    };
    let make = |name: &str, content: &str| {
        let path = files.path().join(name);
        fs::write(&path, content).unwrap();
        mark(&path);
        path.display().to_string()
    };
    let (certfile, keyfile) = secure::certificate(files.path(), "test", &["test"]);
    mark(&certfile);
    mark(&keyfile);
    let ssl = ssl(&certfile, &keyfile);
    let pair = secure::pair(&certfile, &keyfile);
    let authorities = format!(
        "outgoing_ssl: {{at: '127.0.0.1:0', {pair}, client_ca: {}}}",
        certfile.display()
    );
    let keys = make("keys", "secret\n");
    // The password is "secret"; by openssl passwd -5.
    let users = make(
        "users",
        "bob:$5$saltstring$C3o4O1TC6aRHF4FI.QSZMXtHbaj2gSXr4sUc/3NcUi.\n",
    );
    let site = proxy::site(&format!(
        "key_file: {keys}, basic_auth: {{users_file: {users}}}"
    ));
    let proxy = Proxy::start(&format!("{site}\n{ssl}"));
    let serves = || {
        let echo = Echo::dial(proxy.dial_in(), "00000000000e", "secret");
        let mut visitor = proxy.visit_secure();
        let fields = "Host: test\r\nAuthorization: Basic Ym9iOnNlY3JldA==";
        let request = format!("GET /a HTTP/1.1\r\n{fields}\r\n\r\n");
        assert_eq!(visitor.ask(request).text(), "/a");
        drop((visitor, echo));
    };
    serves();
    // And the configuration itself.
    proxy.configure(&format!("{site}\n{authorities}"));
    mark(&proxy.file("swiftiply.yml"));
    let check = proxy::check(proxy.directory());
    assert_eq!(check.code, Some(0), "{check:?}");
    proxy.configure(&format!("{site}\n{ssl}\ngrace: 7"));
    mark(&proxy.file("swiftiply.yml"));
    proxy.load_again();
    serves();
    proxy.finish();
    let yaml = "connect: '127.0.0.1:30000'\nto: '127.0.0.1:3000'\n";
    let yaml = make("access.yml", &format!("{yaml}key_file: {keys}\n"));
    let check = access::run(&["--check", "-c", &yaml]);
    assert_eq!(check.code, Some(0), "{check:?}");
}
