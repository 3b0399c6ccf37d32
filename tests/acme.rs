//! Certificates that the proxy obtains and renews by itself, from pebble, an authority for tests.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use swiftiply::internals::x509::CertificateFacts;

use crate::common::needs;
use crate::common::needs::all;
use crate::common::pebble::{PROGRAMS, Pebble};
use crate::common::{
    Echo, PATIENCE, Proxy, Visitor, assert_contains, assert_lacks, ended, secure, wait_until,
};

/// Skips the rest of a test without pebble.
macro_rules! needs_pebble {
    () => {{
        fn here() {}
        if !all(std::any::type_name_of_val(&here), &PROGRAMS) {
            return;
        }
    }};
}

mod on_demand;

/// A site with these names, whose backends dial in.
fn site(names: &str) -> String {
    format!("map:\n- {{incoming: [{names}], outgoing: '127.0.0.1:0', tls: auto}}\n")
}

/// A day.
const LONG: u32 = 86_400;

fn tls(pebble: &Pebble) -> SocketAddr {
    (pebble.ip(), 5001).into()
}

/// The certificate that is shown for a name.
fn shown(address: SocketAddr, name: &str) -> CertificateFacts {
    // A session that is resumed has the certificate with which it began.
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let stream = secure::connect_with(Arc::new(secure::config()), socket, name);
    let mut visitor = Visitor::with(stream);
    let answer = visitor.ask("GET /swiftiply_health HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(answer.status, 200);
    let chain = visitor.tls().peer_certificates().unwrap();
    CertificateFacts::read(&chain[0]).unwrap()
}

fn is_issued(facts: &CertificateFacts) -> bool {
    facts.issuer.windows(6).any(|part| part == b"Pebble")
}

/// Waits until the authority's certificate is shown for a name.
fn wait_for_certificate(address: SocketAddr, name: &str) -> CertificateFacts {
    let mut facts = None;
    wait_until(&format!("the certificate of {name}"), || {
        thread::sleep(Duration::from_millis(20));
        facts = Some(shown(address, name)).filter(is_issued);
        facts.is_some()
    });
    facts.unwrap()
}

/// A file of the state directory for this authority.
fn state(proxy: &Proxy, name: &str) -> String {
    let authorities = fs::read_dir(proxy.file("state/acme")).unwrap();
    let mut directories = authorities.map(|entry| entry.unwrap().path());
    let path = directories.next().unwrap().join(name);
    fs::read_to_string(path).unwrap()
}

/// Runs `swiftiplyctl certificates`, and returns what it prints; `fails`: whether a name would get no certificate.
fn certificates(proxy: &Proxy, arguments: &[&str], fails: bool) -> serde_json::Value {
    let mut program = Command::new(env!("CARGO_BIN_EXE_swiftiplyctl"));
    program
        .current_dir(proxy.directory())
        .args(["-c", "swiftiply.yml"]);
    let ended = ended(program.args(["--json", "certificates"]).args(arguments));
    assert_eq!(ended.code, Some(i32::from(fails)), "{}", ended.err);
    serde_json::from_str(&ended.out).unwrap()
}

fn assert_private(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let mode = path.metadata().unwrap().permissions().mode() & 0o777;
        match path.is_dir() {
            true => {
                assert_eq!(mode, 0o700, "{}", path.display());
                assert_private(&path);
            }
            false => assert_eq!(mode, 0o600, "{}", path.display()),
        }
    }
}

#[test]
fn names_of_a_site_from_an_empty_directory() {
    needs_pebble!();
    let pebble = Pebble::start(LONG);
    let yaml = format!("{}{}", pebble.lines(""), site("a.test, www.a.test"));
    let proxy = Proxy::start(&yaml);
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    let names = ["a.test", "www.a.test"];
    let serials = names.map(|name| wait_for_certificate(tls(&pebble), name).serial);
    assert_ne!(
        serials[0], serials[1],
        "each name has a certificate of its own"
    );
    for name in names {
        let mut visitor = Visitor::connect_secure(tls(&pebble), name);
        let answer = visitor.ask(format!("GET /x HTTP/1.1\r\nHost: {name}\r\n\r\n"));
        assert_eq!(answer.text(), "/x");
        let log = proxy.log();
        assert_contains(
            &log,
            &format!("certificate {name}: there is none yet; ordering one"),
        );
        assert_contains(&log, &format!("certificate {name}: obtained, valid until "));
    }
    let mut plain = proxy.visit();
    let answer = plain.ask("GET /x?y HTTP/1.1\r\nHost: www.a.test\r\n\r\n");
    assert_eq!(answer.status, 308);
    assert_eq!(
        answer.field("Location"),
        Some("https://www.a.test:5001/x?y")
    );
    // A name that no site has gets the first certificate.
    assert_eq!(shown(tls(&pebble), "other.test").serial, serials[0]);
    assert_private(&proxy.file("state"));
    drop(echo);
    proxy.finish_without_leak_check();
}

#[test]
fn accounts_and_certificates_survive_restarts() {
    needs_pebble!();
    let pebble = Pebble::start(LONG);
    let kept = tempfile::tempdir().unwrap();
    let lines = pebble.lines_with_state(kept.path());
    let yaml = format!("{lines}{}", site("a.test"));
    let proxy = Proxy::start(&yaml);
    let before = wait_for_certificate(tls(&pebble), "a.test");
    let authorities = fs::read_dir(kept.path().join("acme")).unwrap();
    let account = authorities
        .map(|entry| entry.unwrap().path())
        .next()
        .unwrap();
    let account = account.join("account.json");
    let text = fs::read_to_string(&account).unwrap();
    proxy.finish_without_leak_check();
    let proxy = Proxy::start(&yaml);
    assert_eq!(shown(tls(&pebble), "a.test"), before);
    proxy.wait_for_log("certificate a.test: valid until ");
    proxy.reload(&format!("{lines}{}", site("a.test, b.test")));
    wait_for_certificate(tls(&pebble), "b.test");
    assert_eq!(shown(tls(&pebble), "a.test"), before);
    assert_eq!(pebble.issued(), 2);
    assert_eq!(fs::read_to_string(&account).unwrap(), text);
    proxy.finish_without_leak_check();
}

#[test]
fn killed_in_the_middle_of_an_order() {
    needs_pebble!();
    let pebble = Pebble::start(LONG);
    let kept = tempfile::tempdir().unwrap();
    let lines = pebble.lines_with_state(kept.path());
    let yaml = format!("{lines}{}", site("a.test"));
    let directory = || {
        let mut authorities = fs::read_dir(kept.path().join("acme")).ok()?;
        authorities.next().map(|entry| entry.unwrap().path())
    };
    let mut proxy = Proxy::start(&yaml);
    wait_until("an order", || {
        directory().is_some_and(|path| path.join("account.json").exists())
    });
    proxy.signal(Signal::SIGKILL);
    proxy.wait();
    let account = |url: &str| {
        let path = directory().unwrap().join("account.json");
        let text = fs::read_to_string(path).unwrap();
        let account: serde_json::Value = serde_json::from_str(&text).unwrap();
        account[url].as_str().unwrap().to_owned()
    };
    let key = account("key");
    let proxy = Proxy::start(&yaml);
    wait_for_certificate(tls(&pebble), "a.test");
    assert_eq!(account("key"), key);
    wait_until("no order is left", || {
        !directory().unwrap().join("a.test.order").exists()
    });
    proxy.finish_without_leak_check();
}

#[test]
fn renewal_under_load() {
    needs_pebble!();
    let pebble = Pebble::start(9);
    let proxy = Proxy::start(&format!("{}{}", pebble.lines(""), site("a.test")));
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    let first = wait_for_certificate(tls(&pebble), "a.test");
    let is_over = AtomicBool::new(false);
    let renewed = thread::scope(|scope| {
        let load = || {
            let mut kept = Visitor::connect_secure(tls(&pebble), "a.test");
            let mut count = 0;
            while !is_over.load(Ordering::Relaxed) {
                let mut new = Visitor::connect_secure(tls(&pebble), "a.test");
                for visitor in [&mut kept, &mut new] {
                    let answer = visitor.ask("GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n");
                    assert_eq!((answer.status, answer.text()), (200, "/x".to_owned()));
                }
                count += 1;
                thread::sleep(Duration::from_millis(5));
            }
            count
        };
        let loads = [scope.spawn(load), scope.spawn(load)];
        let mut renewed = first.clone();
        wait_until("a renewal", || {
            thread::sleep(Duration::from_millis(50));
            renewed = shown(tls(&pebble), "a.test");
            renewed.serial != first.serial
        });
        is_over.store(true, Ordering::Relaxed);
        for load in loads {
            assert!(load.join().unwrap() > 0);
        }
        renewed
    });
    assert!(is_issued(&renewed));
    assert!(
        renewed.not_before < first.not_after,
        "the first one had expired"
    );
    drop(echo);
    proxy.finish_without_leak_check();
}

#[test]
fn challenges_pass_everything_else() {
    needs_pebble!();
    let pebble = Pebble::start(LONG);
    let lines = pebble.lines(", challenges: http-01");
    let proxy = Proxy::start(&format!(
        "{lines}map:\n- {{incoming: a.test, outgoing: '127.0.0.1:0', tls: auto, deny: all}}\n"
    ));
    wait_for_certificate(tls(&pebble), "a.test");
    // Other paths there are those of the site.
    let mut visitor = proxy.visit();
    let path = "/.well-known/acme-challenge/unknown";
    let answer = visitor.ask(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
    assert_eq!(answer.status, 403);
    proxy.finish_without_leak_check();
}

#[test]
fn challenges_pass_rules_for_all_sites() {
    needs_pebble!();
    let pebble = Pebble::start(LONG);
    // No connection from this machine is accepted, except while the authority may be asking.
    let rules = "deny: all\nrate_limit: {rate: 1/h, burst: 1}\n";
    for kind in ["http-01", "tls-alpn-01"] {
        let more = format!(", challenges: {kind}");
        let lines = pebble.lines(&more);
        let proxy = Proxy::start(&format!("{rules}{lines}{}", site("a.test")));
        proxy.wait_for_log("certificate a.test: obtained, valid until ");
        let mut plain = Visitor::connect(proxy.addresses()[0]);
        plain
            .try_send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
            .ok();
        assert!(plain.is_closed(), "{kind}");
        proxy.finish_without_leak_check();
    }
}

#[test]
fn only_challenges_while_a_name_is_validated() {
    needs_pebble!();
    let pebble = Pebble::start(LONG);
    // The authority finds a server that does not answer, so it is not done soon.
    let [first, second, third, last] = pebble.ip().octets();
    let elsewhere = Ipv4Addr::new(first, second + 100, third, last);
    let silent = TcpListener::bind((elsewhere, 5001)).unwrap();
    pebble.name_is_at("a.test", elsewhere);
    let lines = pebble.lines(", challenges: tls-alpn-01");
    let proxy = Proxy::start(&format!("deny: all\n{lines}{}", site("a.test")));
    let _connection = silent.accept().unwrap();
    let mut plain = Visitor::connect(proxy.addresses()[0]);
    plain.send("GET /swiftiply_health HTTP/1.1\r\nHost: a.test\r\n\r\n");
    plain.assert_closed();
    let mut plain = Visitor::connect(tls(&pebble));
    plain.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    plain.assert_closed();
    let socket = TcpStream::connect(tls(&pebble)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let error = secure::connect(socket, "a.test").write_all(b"x");
    // Without an alert.
    let kind = error.unwrap_err().kind();
    assert!(
        matches!(kind, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset),
        "{kind}"
    );
    // None of them was closed before it had sent something.
    proxy.wait_for_logs("closed: refused by allow or deny\n", 2);
    assert_lacks(&proxy.log(), "closed: refused by allow or deny: reason=");
    proxy.finish_without_leak_check();
}

#[test]
fn validation_by_tls_alone() {
    needs_pebble!();
    let pebble = Pebble::start(LONG);
    let lines = pebble
        .lines("")
        .replace("cluster_port: 5002", "cluster_port: ~");
    let names = format!("a.test, '{}'", pebble.ip());
    let proxy = Proxy::start(&format!("{lines}{}", site(&names)));
    assert_eq!(proxy.addresses(), [tls(&pebble)]);
    wait_for_certificate(tls(&pebble), "a.test");
    proxy.wait_for_log(&format!("certificate {}: obtained", pebble.ip()));
    assert_lacks(&proxy.log(), "http-01");
    proxy.finish_without_leak_check();
}

#[test]
fn authority_down_and_back() {
    needs_pebble!();
    let mut pebble = Pebble::prepare(9);
    let proxy = Proxy::start(&format!("{}{}", pebble.lines(""), site("a.test")));
    let url = format!("https://{}:14000/dir", pebble.ip());
    proxy.wait_for_log(&format!(
        "certificate a.test: not obtained: {url}: connection refused; trying again in "
    ));
    proxy.wait_for_log("; a self-signed one is used until then");
    assert!(!is_issued(&shown(tls(&pebble), "a.test")));
    pebble.begin();
    let first = wait_for_certificate(tls(&pebble), "a.test");
    // It is away when the certificate should be renewed, and then has forgotten the account.
    pebble.end();
    proxy.wait_for_log("; the present one is valid until ");
    assert_eq!(shown(tls(&pebble), "a.test"), first);
    pebble.begin();
    wait_until("a renewal", || {
        let facts = shown(tls(&pebble), "a.test");
        facts.serial != first.serial && is_issued(&facts)
    });
    proxy.finish_without_leak_check();
}

#[test]
fn names_that_fail_alone() {
    needs_pebble!();
    let mut pebble = Pebble::prepare(LONG).with(r#""domainBlocklist": ["blocked.test"]"#);
    pebble.begin();
    pebble.name_is_at("lost.test", Ipv4Addr::new(127, 0, 0, 77));
    let yaml = format!(
        "status: {{at: 'unix:status.sock'}}\n{}{}",
        pebble.lines(""),
        site("blocked.test, lost.test, good.test")
    );
    let proxy = Proxy::start(&yaml);
    wait_for_certificate(tls(&pebble), "good.test");
    proxy.wait_for_log("certificate lost.test: not obtained: ");
    proxy.wait_for_log("certificate blocked.test: not obtained: ");
    let log = proxy.log();
    let line = |name: &str| {
        let start = format!(
            "certificate {name}: not obtained: https://{}:14000/",
            pebble.ip()
        );
        let line = log.lines().find(|line| line.contains(&start));
        line.unwrap_or_else(|| panic!("{start} is not in:\n{log}"))
            .to_owned()
    };
    assert_contains(&line("blocked.test"), ": rejectedIdentifier: ");
    assert_contains(&line("lost.test"), ": unauthorized: ");
    assert_contains(&log, "certificate lost.test: http-01 has failed: ");
    // An operator sees the same.
    let list = certificates(&proxy, &["lost.test"], false);
    let list = list["certificates"].as_array().unwrap();
    let one = |name: &str| list.iter().find(|one| one["names"][0] == name).unwrap();
    let good = one("good.test");
    assert_eq!(good["source"], "acme");
    let issuer = good["issuer"].as_str().unwrap();
    assert_contains(issuer, "CN=Pebble Intermediate CA");
    assert_eq!(good["error"], serde_json::Value::Null);
    assert!(good["renewal"].as_u64() < good["expires"].as_u64());
    assert_eq!(one("blocked.test")["temporary"], true);
    assert_contains(one("lost.test")["error"].as_str().unwrap(), "unauthorized");
    // A dry run finds out as well, and obtains nothing.
    let trial = certificates(&proxy, &["--dry-run"], true);
    assert_eq!(trial["failed"], 2);
    let results = trial["results"].as_array().unwrap();
    let one = |name: &str| results.iter().find(|one| one["name"] == name).unwrap();
    assert_eq!(one("good.test")["challenge"], "http-01");
    assert_contains(
        one("blocked.test")["error"].as_str().unwrap(),
        "rejectedIdentifier",
    );
    let why = one("lost.test")["error"].as_str().unwrap();
    assert_contains(why, "http-01: https://");
    assert_contains(why, "; tls-alpn-01: https://");
    assert_eq!(pebble.issued(), 1);
    // A reload tries again at once: the address is right now.
    pebble.name_is_at("lost.test", pebble.ip());
    let begun = Instant::now();
    proxy.reload(&yaml);
    wait_for_certificate(tls(&pebble), "lost.test");
    assert!(begun.elapsed() < Duration::from_secs(600));
    assert_eq!(pebble.issued(), 2);
    proxy.finish_without_leak_check();
}

#[test]
fn accounts_that_the_authority_knows() {
    needs_pebble!();
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let mut pebble = Pebble::prepare(LONG).with(&format!(
        r#""externalAccountBindingRequired": true, "externalAccountMACKeys": {{"kid-1": "{key}"}}"#
    ));
    pebble.begin();
    let proxy = Proxy::start(&format!("{}{}", pebble.lines(""), site("a.test")));
    proxy.wait_for_log("the authority wants an account that it knows already; write acme.eab");
    // With a key of our own for certificates, of another kind.
    let rsa = proxy.file("rsa.pem");
    let made = Command::new("openssl")
        .args(["genpkey", "-algorithm", "RSA", "-out"])
        .args([&rsa])
        .output();
    assert!(made.unwrap().status.success());
    let rsa = rsa.display();
    let eab = format!(", eab: {{kid: kid-1, key: {key}}}, keyfile: {rsa}");
    proxy.reload(&format!("{}{}", pebble.lines(&eab), site("a.test")));
    wait_for_certificate(tls(&pebble), "a.test");
    assert_lacks(&proxy.log(), key);
    assert_contains(&state(&proxy, "account.json"), "\"key\":");
    let own = fs::read_to_string(proxy.file("rsa.pem")).unwrap();
    assert!(state(&proxy, "a.test.pem").starts_with(&own));
    proxy.finish_without_leak_check();
}

#[test]
fn authority_of_our_own() {
    needs!("curl");
    let yaml = "ssl: {at: '127.0.0.2:0'}\nstate_directory: state\n\
                map: [{incoming: [localhost, '127.0.0.2'], outgoing: '127.0.0.1:0', tls: internal}]";
    let proxy = Proxy::start(yaml);
    let address = proxy.addresses()[1];
    let root = proxy.file("state/internal/root.crt");
    let curl = |host: &str| {
        let port = address.port();
        let run = Command::new("curl")
            .args(["-sS", "--max-time", "60", "--cacert"])
            .arg(&root)
            .args(["--connect-to", &format!("{host}:{port}:{address}")])
            .arg(format!("https://{host}:{port}/swiftiply_health"))
            .output();
        let run = run.unwrap();
        let text = String::from_utf8([run.stdout, run.stderr].concat()).unwrap();
        assert!(text.starts_with("Health request"), "{host}: {text}");
    };
    curl("localhost");
    curl("127.0.0.2");
    let log = proxy.log();
    assert_contains(
        &log,
        &format!(
            "tls: internal: a new authority; clients must trust {}",
            root.display()
        ),
    );
    assert_private(&proxy.file("state"));
    let before = shown(address, "localhost");
    // Another name has the same authority, and the first one keeps its certificate.
    proxy.reload(&yaml.replace("[localhost", "[third.test, localhost"));
    curl("third.test");
    assert_eq!(shown(address, "localhost"), before);
    assert_eq!(proxy.log().matches("a new authority").count(), 1);
    proxy.finish();
}
