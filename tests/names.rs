//! Names of sites with `*` in place of the first label.

use std::fs;

use nix::sys::signal::Signal::SIGHUP;

use crate::common::{Backend, Echo, Proxy, Visitor, needs, secure};

/// What a request for this host gets.
fn ask(client: &mut Visitor, host: &str) -> (u16, String) {
    let answer = client.ask(format!("GET /{host} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    (answer.status, answer.text())
}

#[test]
fn first_label() {
    let site = |names: &str, address: &str| {
        format!("  - {{incoming: {names}, outgoing: '{address}', timeout: 60}}\n")
    };
    let sites = site("['*.a.test', b.test]", "127.0.0.1:0") + &site("x.a.test", "127.0.0.2:0");
    let proxy = Proxy::start(&format!("map:\n{sites}"));
    let wide = Echo::dial(proxy.dial_ins()[0], "00000000wide", "");
    let mut exact = Backend::dial(proxy.dial_ins()[1]);
    proxy.wait_for_logs("joined", 2);
    let mut client = proxy.visit();
    for host in ["y.a.test", "Y.A.TEST:80", "xn--a.a.test.", "b.test"] {
        assert_eq!(ask(&mut client, host), (200, format!("/{host}")), "{host}");
    }
    // A whole name goes first.
    client.send("GET / HTTP/1.1\r\nHost: x.a.test\r\n\r\n");
    exact.request();
    exact.reply_to(&mut client, "exact");
    for host in [
        "a.test",
        "x.y.a.test",
        ".a.test",
        "ya.test",
        "*.test",
        "c.test",
        "test",
    ] {
        let status = client
            .ask(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .status;
        assert!(matches!(status, 400 | 404), "{host}: {status}");
        if status == 400 {
            client = proxy.visit();
        }
    }
    // A request without a name gets a whole one.
    proxy.reload("map:\n  - {incoming: '*.a.test', default: true, outgoing: '127.0.0.2:0'}");
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(exact.request().field("Host"), Some("a.test"));
    exact.reply_to(&mut client, "whole");
    drop((client, wide, exact));
    proxy.finish_without_leak_check();
}

#[test]
fn certificate_and_redirect() {
    needs!("openssl");
    let files = tempfile::tempdir().unwrap();
    let pair = |file: &str, names: &[&str]| {
        let (certfile, keyfile) = secure::certificate(files.path(), file, names);
        format!(
            "{{at: '127.0.0.2:0', {}}}",
            secure::pair(&certfile, &keyfile)
        )
    };
    let (other, wild) = (pair("other", &["other.test"]), pair("wild", &["*.a.test"]));
    let proxy = Proxy::start(&format!(
        "ssl: [{other}, {wild}]\nmap: [{{incoming: '*.a.test', outgoing: '127.0.0.1:0', timeout: 60, redirect_to_https: true, \
         redirect: {{host: old.a.test, to: 'https://new.a.test'}}}}]"
    ));
    let echo = Echo::dial(proxy.dial_in(), "00000000echo", "");
    let answer = proxy
        .visit()
        .ask("GET /x HTTP/1.1\r\nHost: y.a.test\r\n\r\n");
    assert_eq!(answer.field("Location"), Some("https://y.a.test/x"));
    let mut client = Visitor::connect_secure(proxy.addresses()[1], "old.a.test");
    let (status, _) = ask(&mut client, "y.a.test");
    assert_eq!(status, 200);
    let served = client.tls().peer_certificates().unwrap()[0].to_vec();
    let holds = |name: &str| {
        served
            .windows(name.len())
            .any(|bytes| bytes == name.as_bytes())
    };
    assert!(
        holds("*.a.test"),
        "the certificate of the other name was sent"
    );
    let moved = client.ask("GET /x HTTP/1.1\r\nHost: old.a.test\r\n\r\n");
    assert_eq!(moved.field("Location"), Some("https://new.a.test/x"));
    drop((client, echo));
    proxy.finish_without_leak_check();
}

#[test]
fn sites_in_files_of_their_own() {
    let proxy = Proxy::start("include: conf.d/*.yml\nmap: [{incoming: one, docroot: .}]");
    let folder = proxy.file("conf.d");
    fs::create_dir(&folder).unwrap();
    let mut client = proxy.visit();
    assert_eq!(ask(&mut client, "two").0, 404);
    fs::create_dir(proxy.file("files of two")).unwrap();
    fs::write(proxy.file("files of two/two"), "page").unwrap();
    fs::write(proxy.file("root"), "files of two\n").unwrap();
    fs::write(
        folder.join("two.yml"),
        "incoming: two\ndocroot: ${file:root}\ntimeout: 60\n",
    )
    .unwrap();
    proxy.load_again();
    assert_eq!(ask(&mut client, "two"), (200, "page".to_owned()));
    // A problem there changes nothing.
    let good = fs::read_to_string(folder.join("two.yml")).unwrap();
    fs::write(folder.join("two.yml"), good.replace("60", "x")).unwrap();
    proxy.signal(SIGHUP);
    proxy.wait_for_log("conf.d/two.yml:3: site (two): timeout \"x\"");
    assert_eq!(ask(&mut client, "two").0, 200);
    fs::remove_file(folder.join("two.yml")).unwrap();
    proxy.load_again();
    assert_eq!(ask(&mut client, "two").0, 404);
    drop(client);
    proxy.finish_without_leak_check();
}
