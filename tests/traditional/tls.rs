//! Servers that speak TLS.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::common::{PATIENCE, Proxy, assert_contains, head_end, needs, secure, wait_until};

/// A connection that a server has accepted, once the handshake is complete.
#[derive(Clone, Debug)]
struct Handshake {
    name: Option<String>,
    protocol: Option<Vec<u8>>,
    resumed: bool,
}

/// A server that responds to each request with its target, and echoes after an upgrade.
struct TlsServer {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    handshakes: Arc<Mutex<Vec<Handshake>>>,
    thread: Option<JoinHandle<()>>,
}

impl TlsServer {
    /// Listens with this certificate. With an authority, clients must have a certificate of it.
    fn start(certfile: &Path, keyfile: &Path, client_ca: Option<&Path>) -> Self {
        let config = Arc::new(config(certfile, keyfile, client_ca));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stopped = Arc::new(AtomicBool::new(false));
        let handshakes: Arc<Mutex<Vec<Handshake>>> = Arc::default();
        let (stop, seen) = (Arc::clone(&stopped), Arc::clone(&handshakes));
        let thread = std::thread::spawn(move || {
            let mut open = Vec::new();
            for socket in listener.incoming() {
                let socket = socket.unwrap();
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let (copy, config, seen) = (socket.try_clone(), config.clone(), seen.clone());
                let thread = std::thread::spawn(move || serve(socket, config, &seen));
                open.push((copy.unwrap(), thread));
            }
            drop(listener);
            for (socket, thread) in open {
                let _ = socket.shutdown(Shutdown::Both);
                let _ = thread.join();
            }
        });
        Self {
            address,
            stopped,
            handshakes,
            thread: Some(thread),
        }
    }

    fn handshakes(&self) -> Vec<Handshake> {
        self.handshakes.lock().unwrap().clone()
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn config(certfile: &Path, keyfile: &Path, client_ca: Option<&Path>) -> ServerConfig {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            roots
                .add(CertificateDer::from_pem_file(file).unwrap())
                .unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let chain = vec![CertificateDer::from_pem_file(certfile).unwrap()];
    let key = PrivateKeyDer::from_pem_file(keyfile).unwrap();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

fn serve(mut socket: TcpStream, config: Arc<ServerConfig>, seen: &Mutex<Vec<Handshake>>) {
    socket.set_nodelay(true).unwrap();
    let mut tls = ServerConnection::new(config).unwrap();
    // The other side may not trust us, or show no certificate.
    while tls.is_handshaking() {
        if tls.complete_io(&mut socket).is_err() {
            return;
        }
    }
    seen.lock().unwrap().push(Handshake {
        name: tls.server_name().map(str::to_owned),
        protocol: tls.alpn_protocol().map(<[u8]>::to_vec),
        resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
    });
    let mut stream = StreamOwned::new(tls, socket);
    let mut bytes = Vec::new();
    loop {
        let Some(end) = head_end(&bytes) else {
            let mut more = [0; 4096];
            match stream.read(&mut more) {
                Ok(count @ 1..) => bytes.extend_from_slice(&more[..count]),
                _ => return,
            }
            continue;
        };
        let head = String::from_utf8(bytes.drain(..end).collect()).unwrap();
        let target = head.split(' ').nth(1).unwrap();
        if head.contains("Upgrade: echo") {
            let switch =
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
            stream.write_all(switch.as_bytes()).unwrap();
            let mut more = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut more) {
                stream.write_all(&more[..count]).unwrap();
            }
            return;
        }
        let length = target.len();
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{target}");
        if stream.write_all(response.as_bytes()).is_err() {
            return;
        }
    }
}

/// A site, named by its host, for a server, with this section.
fn site(name: &str, server: &TlsServer, tls: &str) -> String {
    let address = server.address;
    format!(
        "  - {{incoming: {name}, outgoing: 'https://{address}', timeout: 60, server_tls: {{{tls}}}}}\n"
    )
}

fn get(proxy: &Proxy, host: &str, target: &str) -> (u16, String) {
    let mut visitor = proxy.visit();
    let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let answer = visitor.ask(request);
    (answer.status, answer.text())
}

#[test]
fn connections_are_verified_kept_and_resumed() {
    needs!("openssl");
    let files = tempfile::tempdir().unwrap();
    let (ca, certfile, keyfile) = secure::authority(files.path(), "app.test");
    let server = TlsServer::start(&certfile, &keyfile, None);
    let ca = ca.display();
    let named = format!("ca: {ca}, server_name: app.test");
    let address = server.address;
    // The check uses a connection of its own.
    let checked = format!(
        "  - {{incoming: checked, proxy: traditional, servers: ['https://{address}'], server_tls: {{ca: {ca}}}, check: {{uri: /up, interval: 0.1}}}}\n"
    );
    let text = [
        "map:\n",
        &site("named", &server, &named),
        &site("by-address", &server, &format!("ca: {ca}")),
        &checked,
    ]
    .concat();
    let proxy = Proxy::start(&text);
    for number in 0..3 {
        let target = format!("/{number}");
        assert_eq!(get(&proxy, "named", &target), (200, target));
    }
    let of_app = |server: &TlsServer| {
        let all = server.handshakes().into_iter();
        all.filter(|one| one.name.as_deref() == Some("app.test"))
            .collect::<Vec<_>>()
    };
    let [first] = &of_app(&server)[..] else {
        panic!(
            "one connection for three requests: {:?}",
            server.handshakes()
        );
    };
    assert_eq!(first.protocol.as_deref(), Some(&b"http/1.1"[..]));
    assert!(!first.resumed);
    // A tunnel takes the idle connection; the next request needs another one.
    let mut tunnel = proxy.visit();
    tunnel.send("GET / HTTP/1.1\r\nHost: named\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    tunnel.sees("101 Switching");
    tunnel.send("through TLS");
    tunnel.sees("through TLS");
    assert_eq!(get(&proxy, "named", "/2").0, 200);
    let all = of_app(&server);
    assert!(all.len() == 2 && all[1].resumed, "{all:?}");
    drop(tunnel);
    // An address is verified, but no name to ask for.
    assert_eq!(get(&proxy, "by-address", "/a"), (200, "/a".into()));
    assert_eq!(get(&proxy, "checked", "/c"), (200, "/c".into()));
    wait_until("checks", || {
        let handshakes = server.handshakes();
        handshakes.iter().filter(|one| one.name.is_none()).count() > 4
    });
    assert!(!proxy.log().contains("is down"), "{}", proxy.log());
    // A reload without the authority: the connections that were made with it are not used any more.
    proxy.reload(&text.replace(&named, "server_name: app.test"));
    assert_eq!(get(&proxy, "named", "/d").0, 502);
    proxy.wait_for_log("its certificate is not from a trusted authority");
    drop(server);
    proxy.finish();
}

#[test]
fn faults_are_named() {
    needs!("openssl");
    let files = tempfile::tempdir().unwrap();
    let (ca, certfile, keyfile) = secure::authority(files.path(), "app.test");
    let (old_ca, old, old_key) = secure::authority_for(files.path(), "old.test", -1);
    let (client_ca, client, client_key) = secure::authority(files.path(), "client.test");
    let server = TlsServer::start(&certfile, &keyfile, None);
    let expired = TlsServer::start(&old, &old_key, None);
    let strict = TlsServer::start(&certfile, &keyfile, Some(&client_ca));
    let (own_cert, own_key) = secure::certificate(files.path(), "own", &["own.test"]);
    let own_signed = TlsServer::start(&own_cert, &own_key, None);
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let (ca, old_ca) = (ca.display(), old_ca.display());
    let own = secure::pair(&client, &client_key);
    let other = secure::pair(&certfile, &keyfile);
    let text = [
        "map:\n",
        &site("other-name", &server, &format!("ca: {ca}, server_name: elsewhere.test")),
        &site("expired", &expired, &format!("ca: {old_ca}")),
        &site("skips", &expired, "insecure_skip_verify: true"),
        &site("own", &own_signed, &format!("ca: {}", own_cert.display())),
        &site("pinned", &own_signed, &format!("fingerprint: '{}'", secure::fingerprint(&own_cert))),
        &site("unknown", &server, ""),
        &site("strict", &strict, &format!("ca: {ca}, {own}")),
        &site("without", &strict, &format!("ca: {ca}")),
        &site("with-other", &strict, &format!("ca: {ca}, {other}")),
        &format!(
            "  - {{incoming: plain, outgoing: 'https://{}', timeout: 60}}\n",
            plain.local_addr().unwrap()
        ),
        &format!(
            "  - {{incoming: two, outgoing: ['https://{}', 'https://{}'], timeout: 60, server_tls: {{ca: {ca}}}}}\n",
            expired.address, server.address
        ),
    ]
    .concat();
    let proxy = Proxy::start(&text);
    proxy.wait_for_log("insecure_skip_verify: WARNING");
    let plain = std::thread::spawn(move || {
        let (mut socket, _) = plain.accept().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = socket.read(&mut [0; 1]);
        socket
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
        let _ = socket.read(&mut [0; 4096]);
    });
    for (host, fault) in [
        (
            "other-name",
            "its certificate is not valid for elsewhere.test, only for app.test, 127.0.0.1",
        ),
        ("expired", "its certificate has expired"),
        ("unknown", "its certificate is not from a trusted authority"),
        ("without", "it wants a client certificate"),
        ("with-other", "it does not accept the client certificate"),
        ("own", "its certificate is that of an authority"),
        ("plain", "it does not speak TLS"),
    ] {
        // At once, although a request may wait for a minute.
        let (status, body) = get(&proxy, host, "/");
        assert_eq!(status, 502, "{host}: {body}");
        assert_contains(&body, "over TLS");
        proxy.wait_for_log(fault);
        let log = proxy.log();
        let line = log.lines().find(|line| line.contains(fault)).unwrap();
        assert_contains(line, &format!("site {host}: "));
        assert_contains(line, "https://127.0.0.1:");
    }
    plain.join().unwrap();
    assert_eq!(get(&proxy, "skips", "/s"), (200, "/s".into()));
    assert_eq!(get(&proxy, "strict", "/c"), (200, "/c".into()));
    assert_eq!(get(&proxy, "pinned", "/p"), (200, "/p".into()));
    // With another server the faulty one is set aside.
    for _ in 0..3 {
        assert_eq!(get(&proxy, "two", "/t"), (200, "/t".into()));
    }
    let aside = format!("server https://{} is set aside", expired.address);
    proxy.wait_for_log(&aside);
    drop((server, expired, strict, own_signed));
    proxy.finish();
}

#[test]
fn files_are_read_again_when_they_change() {
    needs!("openssl");
    let files = tempfile::tempdir().unwrap();
    let (ca, certfile, keyfile) = secure::authority(files.path(), "app.test");
    let (other, ..) = secure::authority(files.path(), "other.test");
    let server = TlsServer::start(&certfile, &keyfile, None);
    let used = files.path().join("used.pem");
    fs::copy(other, &used).unwrap();
    let tls = format!("ca: {}", used.display());
    let proxy = Proxy::start(&format!("map:\n{}", site("a", &server, &tls)));
    assert_eq!(get(&proxy, "a", "/a").0, 502);
    fs::copy(&ca, &used).unwrap();
    proxy.wait_for_log("used.pem: read again");
    assert_eq!(get(&proxy, "a", "/a").0, 200);
    // What was read before stays if the file is damaged.
    fs::write(&used, "nothing").unwrap();
    proxy.load_again();
    proxy.wait_for_log("keeping what was read before");
    assert_eq!(get(&proxy, "a", "/a").0, 200);
    drop(server);
    proxy.finish();
}

#[test]
fn handshake_is_part_of_connecting() {
    // Enough connections to it fit into its queue, but it never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let proxy = Proxy::start(&format!(
        "workers: 2\nmap:\n  - {{incoming: a, outgoing: 'https://{address}', timeout: 60, timeouts: {{connect: 59}}}}\n  - {{incoming: b, docroot: /}}\n"
    ));
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let mut visitor = proxy.visit();
        visitor.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        waiting.push((visitor, silent.accept().unwrap()));
    }
    // Four times as many handshakes as workers keep none of them from other requests.
    assert_eq!(get(&proxy, "b", "/").0, 404);
    for (visitor, _) in waiting {
        visitor.reset();
    }
    proxy.finish();
    let proxy = Proxy::start(&format!(
        "map:\n  - {{incoming: a, outgoing: 'https://{address}', timeout: 0.3, timeouts: {{connect: 0.1}}}}\n"
    ));
    assert_eq!(get(&proxy, "a", "/").0, 503);
    proxy.wait_for_log("is set aside: the TLS handshake timed out");
    proxy.finish();
}
