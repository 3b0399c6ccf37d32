//! Clients that identify themselves with certificates (`client_ca`).

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind};

use crate::common::secure::authority;
use crate::common::{
    Access, Backend, PATIENCE, Proxy, Server, Visitor, assert_contains, assert_lacks, needs, secure,
};

fn connect(address: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> secure::Stream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    secure::connect_with(Arc::clone(config), socket, name)
}

/// Whether the server ends the handshake, or what follows it with TLS 1.3.
fn is_refused(address: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> bool {
    let mut stream = connect(address, name, config);
    let sent = stream.write_all(format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n").as_bytes());
    let mut answer = [0];
    sent.is_err() || std::io::Read::read(&mut stream, &mut answer).is_err()
}

/// A request with fields that only the server may add.
fn forged(host: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nX-SSL-Client-Verify: FORGED\r\nx_ssl_client_s_dn: FORGED\r\n\
         X-SSL-Client-S-DN: FORGED\r\nClient-Cert: FORGED\r\nSSL-Client-Verify: FORGED\r\nX-Ok: 1\r\n\r\n"
    )
}

fn yaml(files: &Path, sites: &str) -> String {
    let (certfile, keyfile) = secure::certificate(files, "server", &["*.test"]);
    let pair = secure::pair(&certfile, &keyfile);
    format!(
        "cluster_port: 0\ncluster_address: 127.0.0.1\nssl: {{at: '127.0.0.2:0', {pair}}}\nmap:\n{sites}"
    )
}

#[test]
fn identified_by_their_certificates() {
    needs!("openssl");
    let files = tempfile::tempdir().unwrap();
    let (ca, certfile, keyfile) = authority(files.path(), "client.test");
    let (other_ca, other_certfile, other_keyfile) = authority(files.path(), "other.test");
    let (ca, other_ca) = (ca.display(), other_ca.display());
    let site = |name: &str, keys: &str| {
        format!("- {{incoming: {name}, outgoing: '127.0.0.1:0', underscores: true{keys}}}\n")
    };
    let sites = [
        site("a.test", &format!(", client_ca: {ca}")),
        site("b.test", ""),
        site(
            "c.test",
            &format!(", client_ca: {ca}, client_certificate: optional"),
        ),
        site("d.test", &format!(", client_ca: {other_ca}")),
    ];
    let proxy = Proxy::start(&yaml(files.path(), &sites.concat()));
    let address = proxy.addresses()[1];
    let mut backend = Backend::dial(proxy.dial_in());
    let own = Some((&*certfile, &*keyfile));
    let fingerprint = secure::fingerprint(&certfile)
        .replace(':', "")
        .to_lowercase();
    for version in [&TLS12, &TLS13] {
        let config = Arc::new(secure::config_as(&[version], own));
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut visitor = Visitor::with(connect(address, "a.test", &config));
            visitor.send(forged("a.test"));
            let seen = backend.request();
            assert_eq!(seen.field("X-SSL-Client-Verify"), Some("SUCCESS"));
            assert_eq!(seen.field("X-SSL-Client-S-DN"), Some("CN=leaf"));
            let issuer = seen.field("X-SSL-Client-I-DN");
            assert_eq!(issuer, Some("CN=authority of client.test"));
            assert_eq!(seen.field("X-SSL-Client-Fingerprint"), Some(&*fingerprint));
            assert!(seen.field("X-SSL-Client-Serial").is_some());
            assert_eq!(seen.field("X-Ok"), Some("1"));
            assert_lacks(&seen.head, "FORGED");
            backend.reply_to(&mut visitor, "served");
            assert_eq!(visitor.tls().handshake_kind(), Some(kind), "{version:?}");
        }
        let without = Arc::new(secure::config_of(&[version]));
        assert!(is_refused(address, "a.test", &without), "{version:?}");
        let other = (&*other_certfile, &*other_keyfile);
        let other = Arc::new(secure::config_as(&[version], Some(other)));
        for name in ["a.test", "c.test"] {
            assert!(is_refused(address, name, &other), "{version:?} {name}");
        }
        // Others get none of these fields.
        for (name, verify) in [("b.test", None), ("c.test", Some("NONE"))] {
            let mut visitor = Visitor::with(connect(address, name, &without));
            visitor.send(forged(name));
            let seen = backend.request();
            assert_eq!(seen.field("X-SSL-Client-Verify"), verify, "{name}");
            assert_eq!(seen.field("X-SSL-Client-S-DN"), None, "{name}");
            assert_lacks(&seen.head, "FORGED");
            backend.reply_to(&mut visitor, "served");
        }
        // The name in Host is no way around.
        for (name, config, status) in [
            ("b.test", &without, 421),
            ("d.test", &other, 421),
            ("c.test", &without, 403),
        ] {
            let mut visitor = Visitor::with(connect(address, name, config));
            let answer = visitor.ask(forged("a.test"));
            assert_eq!(answer.status, status, "{name}");
        }
    }
    assert_eq!(proxy.visit().ask(forged("a.test")).status, 403);
    let log = proxy.log();
    assert_contains(
        &log,
        &format!("closed: client_ca {ca}: peer sent no certificates"),
    );
    assert_contains(
        &log,
        &format!("closed: client_ca {ca}: invalid peer certificate: UnknownIssuer"),
    );
    assert_contains(&log, "site a.test: GET /: client_ca: no client certificate");
    drop(backend);
    proxy.finish();
}

#[test]
fn sessions_from_before_are_not_resumed() {
    needs!("openssl");
    let files = tempfile::tempdir().unwrap();
    let (ca, certfile, keyfile) = authority(files.path(), "client.test");
    let site = "- {incoming: a.test, default: true, outgoing: '127.0.0.1:0'}\n";
    let open = yaml(files.path(), site);
    let proxy = Proxy::start(&open);
    let address = proxy.addresses()[1];
    let without = Arc::new(secure::config());
    let mut kept = Visitor::with(connect(address, "a.test", &without));
    let health = "GET /swiftiply_health HTTP/1.1\r\nHost: a.test\r\n\r\n";
    assert_eq!(kept.ask(health).status, 200);
    let key = format!("default: true, client_ca: {}", ca.display());
    let closed = open.replace("default: true", &key);
    proxy.reload(&closed);
    // A connection from before has shown no certificate, either.
    assert_eq!(kept.ask(forged("a.test")).status, 421);
    assert!(is_refused(address, "a.test", &without));
    // The default site's rules are for unknown names as well.
    assert!(is_refused(address, "unknown.test", &without));
    let own = Arc::new(secure::config_as(&[&TLS13], Some((&certfile, &keyfile))));
    let mut visitor = Visitor::with(connect(address, "a.test", &own));
    assert_eq!(visitor.ask(health).status, 200);
    drop((kept, visitor));
    proxy.reload(&open);
    let mut visitor = Visitor::with(connect(address, "a.test", &without));
    assert_eq!(visitor.ask(health).status, 200);
    drop(visitor);
    proxy.finish();
}

/// Makes the list of revoked certificates of an authority, with another one revoked if it is given.
fn revoke(directory: &Path, name: &str, certfile: Option<&Path>) -> PathBuf {
    let config = "[ca]\ndefault_ca = own\n[own]\ndatabase = index\ncrlnumber = number\n\
                  default_md = sha256\ndefault_crl_days = 30\n";
    for (file, text) in [("crl.cnf", config), ("index", ""), ("number", "01\n")] {
        if !directory.join(file).exists() {
            fs::write(directory.join(file), text).unwrap();
        }
    }
    let list = directory.join("revoked.pem");
    let openssl = |more: &[&OsStr]| {
        let made = Command::new("openssl")
            .args(["ca", "-config", "crl.cnf"])
            .args([
                "-keyfile",
                &format!("{name}.ca.key"),
                "-cert",
                &format!("{name}.ca"),
            ])
            .args(more)
            .current_dir(directory)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
    };
    if let Some(certfile) = certfile {
        openssl(&["-revoke".as_ref(), certfile.as_os_str()]);
    }
    openssl(&["-gencrl".as_ref(), "-out".as_ref(), list.as_os_str()]);
    list
}

#[test]
fn revoked_certificates() {
    needs!("openssl");
    let files = tempfile::tempdir().unwrap();
    let (ca, certfile, keyfile) = authority(files.path(), "client.test");
    let list = revoke(files.path(), "client.test", None);
    let (server, server_key) = secure::certificate(files.path(), "server", &["*.test"]);
    let pair = secure::pair(&server, &server_key);
    let clients = format!(
        "client_ca: {}, client_crl: {}",
        ca.display(),
        list.display()
    );
    let proxy = Proxy::start(&format!(
        "cluster_port: 0\ncluster_address: 127.0.0.1\nssl: {{at: '127.0.0.2:0', {pair}}}\n\
         outgoing_ssl: {{at: '127.0.0.1:0', {pair}, {clients}}}\n\
         map:\n- {{incoming: a.test, outgoing: '127.0.0.1:0', timeout: 20, {clients}}}\n\
         - {{incoming: b.test, outgoing: '127.0.0.1:0', timeout: 20}}\n"
    ));
    let app = Server::start();
    let access = Access::start(
        &format!(
            "{{connect: '{}', to: '{}', name: web3, connections: 2, \
             ssl: {{fingerprint: '{}', certfile: {}, keyfile: {}}}}}",
            proxy.dial_in(),
            app.address(),
            secure::fingerprint(&server),
            certfile.display(),
            keyfile.display()
        ),
        &[],
    );
    proxy.wait_for_logs(" joined ", 2);
    let visitor = Arc::new(secure::config_as(&[&TLS13], Some((&certfile, &keyfile))));
    let address = proxy.addresses()[1];
    let mut accepted = Visitor::with(connect(address, "a.test", &visitor));
    accepted.send("GET /one HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let mut backend = app.accept_asking();
    assert_eq!(backend.request().target(), "/one");
    // Nothing has changed: nothing is closed.
    proxy.load_again();
    assert_lacks(&proxy.log(), "not valid any more");
    revoke(files.path(), "client.test", Some(&certfile));
    proxy.load_again();
    // The idle connection is closed, the other one after its request.
    let closed =
        "is disconnected, its certificate is not valid any more: invalid peer certificate: Revoked";
    proxy.wait_for_log(closed);
    assert_eq!(proxy.log().matches(closed).count(), 1);
    backend.reply("served");
    assert_eq!(accepted.answer().text(), "served");
    proxy.wait_for_logs(closed, 2);
    proxy.wait_for_log("refused: invalid peer certificate: Revoked: reason=tls_failed");
    assert!(is_refused(address, "a.test", &visitor));
    proxy.wait_for_log("closed: client_ca ");
    // A list that cannot be read leaves the last one in force.
    fs::write(&list, "nonsense").unwrap();
    proxy.load_again();
    proxy.wait_for_log("keeping the authorities that were read before");
    assert!(is_refused(address, "a.test", &visitor));
    drop((accepted, backend));
    access.finish();
    proxy.finish();
}

#[test]
fn clients_that_leave_before_their_first_message() {
    needs!("openssl");
    let files = tempfile::tempdir().unwrap();
    let (ca, ..) = authority(files.path(), "client.test");
    let site = format!(
        "- {{incoming: a.test, outgoing: '127.0.0.1:0', client_ca: {}}}\n",
        ca.display()
    );
    let proxy = Proxy::start(&yaml(files.path(), &site));
    for bytes in [&b""[..], &[0x16, 0x03, 0x01]] {
        let mut client = TcpStream::connect(proxy.addresses()[1]).unwrap();
        client.write_all(bytes).unwrap();
    }
    proxy.wait_for_logs("closed: reason=peer_closed", 2);
    proxy.finish();
}
