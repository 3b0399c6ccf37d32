//! The names of machines that dial in, and what such a program learns when it is refused.

use std::net::SocketAddr;

use nix::sys::signal::Signal;
use swiftiply::client::{Client, Reply};

use crate::common::backend::preamble;
use crate::common::{
    Access, Backend, EchoServer, Proxy, Server, assert_contains, assert_lacks, drain, embedded,
    needs, read_until, secure, wait_until,
};
use crate::control::commands::done;

fn wait_for_access(proxy: &Proxy, text: &str) {
    wait_until(text, || proxy.read("access.log").contains(text));
}

/// An access proxy with one connection.
fn access(server: SocketAddr, app: SocketAddr, more: &str, options: &[&str]) -> Access {
    let yaml = format!("{{connect: '{server}', to: '{app}', connections: 1, {more}}}");
    Access::start(&yaml, options)
}

#[test]
fn logs_and_commands_have_the_name() {
    let proxy = Proxy::start(
        "status: {at: 'unix:status.sock'}\n\
         access_log: {file: access.log, format: json}\n\
         timeouts: {first_byte: 300ms}\n\
         map: [{incoming: test, outgoing: '127.0.0.1:0', timeout: 20}]",
    );
    let app = EchoServer::start();
    let hung = Server::start();
    let short = access(
        proxy.dial_in(),
        hung.address(),
        "name: ignored",
        &["--name", "web3"],
    );
    proxy.wait_for_log("site test: backend web3 from 127.0.0.1:");
    proxy.wait_until_idle();
    assert_eq!(proxy.visit().get("/hangs").status, 504);
    proxy.wait_for_log("site test: backend web3: no response in 300ms");
    wait_for_access(&proxy, "\"backend\":\"web3\"");
    short.finish();

    // The whole of a long name, of which the id is an abbreviation, is asked for.
    let name = "web-frontend-17.example.com";
    let long = access(
        proxy.dial_in(),
        app.address(),
        &format!("name: {name}"),
        &[],
    );
    proxy.wait_for_log(&format!("backend web-f~end-17 ({name}) from 127.0.0.1:"));
    long.wait_for_log(": dialled in, 1 now");
    proxy.wait_until_idle();
    assert_eq!(proxy.visit().get("/").status, 200);
    wait_for_access(&proxy, "\"backend\":\"web-f~end-17\"");
    assert_contains(&done(&proxy, &["backends"]), &format!("\n{name} "));
    // It is drained by its name until further notice, also after it has dialled in again and after a reload.
    assert_contains(&done(&proxy, &["drain", name]), "drained");
    long.reload(&format!(
        "{{connect: '{}', to: '{}', connections: 2, name: {name}}}",
        proxy.dial_in(),
        app.address()
    ));
    proxy.load_again();
    wait_until("two drained connections", || {
        done(&proxy, &["backends"]).matches("drained, idle").count() == 2
    });
    let mut waiting = proxy.ask("/waits");
    // Another machine takes the request; the drained one gets it no more.
    let other = access(proxy.dial_in(), app.address(), "name: web4", &[]);
    assert_eq!(waiting.answer().status, 200);
    wait_for_access(&proxy, "\"backend\":\"web4\"");
    other.finish();
    drop(waiting);
    let mut waiting = proxy.ask("/waits");
    wait_until("a waiting request", || {
        done(&proxy, &["sites"])
            .lines()
            .any(|line| line.split_whitespace().nth(3) == Some("1"))
    });
    done(&proxy, &["undrain", name]);
    assert_eq!(waiting.answer().status, 200);
    drop(waiting);
    long.finish();
    drop(app);
    proxy.finish();
}

#[test]
fn a_refused_program_learns_why() {
    needs!("openssl");
    let files = tempfile::tempdir().unwrap();
    let (certfile, keyfile) = secure::certificate(files.path(), "server", &["localhost"]);
    let pair = secure::pair(&certfile, &keyfile);
    let mut proxy = Proxy::start(&format!(
        "outgoing_ssl: {{at: '127.0.0.2:0', {pair}}}\n\
         limits: {{backends: 1}}\n\
         map:\n\
         - {{incoming: a.test, outgoing: '127.0.0.1:0', key: secret}}\n\
         - {{incoming: b.test, outgoing: '127.0.0.2:0', key: secret}}\n"
    ));
    let app = EchoServer::start();
    let (plain, tls) = (proxy.dial_ins()[0], proxy.dial_ins()[1]);
    let start = |server, key: &str| {
        access(
            server,
            app.address(),
            &format!("key: {key}, name: web1"),
            &[],
        )
    };
    let wrong = start(plain, "wrong");
    wrong.wait_for_log("it refuses the connection: wrong key; is the key right?; trying again");
    let one = start(plain, "secret");
    one.wait_for_log(": dialled in, 1 now");
    let full = start(plain, "secret");
    full.wait_for_log("it is full: 1 backend connected already (limits.backends); trying again");
    let unencrypted = start(tls, "secret");
    unencrypted.wait_for_log("it refuses the connection: plain text instead of TLS; trying again");
    for log in [full.log(), unencrypted.log()] {
        assert_lacks(&log, "is the key right");
    }
    // A program with an id of the reference client would take the line for a request.
    let mut reference = Backend::dial_as(plain, "7f0000011a2b", "wrong");
    assert!(reference.next().is_none());
    let mut reference = Backend::dial_as(plain, "7f0000011a2b", "secret");
    assert!(reference.next().is_none());
    proxy.signal(Signal::SIGTERM);
    one.wait_for_log("0 now: it is leaving: the server is stopping");
    for access in [wrong, one, full, unencrypted] {
        access.finish();
    }
    drop(app);
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
}

#[test]
fn embedded_client_has_a_name() {
    let server = embedded("map: [{incoming: test, outgoing: '127.0.0.1:0'}]");
    let dial_in = server.backend_addresses()[0].to_string();
    let client = Client::new(dial_in.parse().unwrap());
    assert!(
        Client::new(dial_in.parse().unwrap())
            .name("job runner")
            .is_err()
    );
    let client = client.name("job-runner-1.example.com").unwrap();
    let stopper = client.stopper();
    let thread = std::thread::spawn(move || client.serve(|_| Reply::text(200, "x")));
    wait_until("the client", || server.connected().len() == 1);
    let backend = server.connected().remove(0);
    assert_eq!(backend.id.to_string(), "job-r~nner-1");
    assert_eq!(backend.name.unwrap().as_str(), "job-runner-1.example.com");
    stopper.stop();
    thread.join().unwrap();
    drain(server);
}

#[test]
fn names_that_never_come() {
    let proxy = Proxy::start(
        "timeouts: {preamble: 400ms}\nmap: [{incoming: test, outgoing: '127.0.0.1:0'}]",
    );
    let ask = || {
        let mut stream = std::net::TcpStream::connect(proxy.dial_in()).unwrap();
        std::io::Write::write_all(&mut stream, &preamble("web3~       ", "")).unwrap();
        let mut bytes = Vec::new();
        assert!(read_until(
            &mut stream,
            &mut bytes,
            "the question",
            |bytes| bytes.contains(&b'\n')
        ));
        assert_eq!(bytes, b"swiftiply name\n");
        stream
    };
    let _silent = ask();
    for (answer, why) in [
        (
            "web 3\n".to_owned(),
            "refused: not a name; write up to 253 letters",
        ),
        (
            "web3.example.com\nx".to_owned(),
            "refused: bytes behind the name",
        ),
        ("x".repeat(254), "refused: its name is too long"),
    ] {
        let mut stream = ask();
        std::io::Write::write_all(&mut stream, answer.as_bytes()).unwrap();
        proxy.wait_for_log(why);
    }
    proxy.wait_for_log("reason=preamble_timeout");
    assert_lacks(&proxy.log(), "joined");
    proxy.finish();
}
