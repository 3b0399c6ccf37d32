//! When it dials in, and how many requests the application gets.

use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::signal::Signal::SIGTERM;

use crate::common::backend::preamble;
use crate::common::proxy::SITE;
use crate::common::{
    Access, EchoServer, Load, Port, Proxy, Server, Visitor, assert_lacks, wait_until,
};

#[test]
fn application_down() {
    let proxy = Proxy::simple();
    let app = EchoServer::start();
    let address = app.address();
    drop(app);
    let access = Access::start(
        &format!(
            "{{connect: '{}', to: '{address}', connections: 3, check: {{interval: 10ms}}}}",
            proxy.dial_in()
        ),
        &[],
    );
    // The application may just be starting: no warning.
    access.wait_for_log(&format!(
        "[INFO] application {address}: connection refused; waiting for it"
    ));
    assert_lacks(&proxy.log(), "joined");
    let app = EchoServer::at(address);
    access.wait_for_log(&format!("application {address}: answers"));
    proxy.wait_for_logs(" joined ", 3);
    let mut visitor = proxy.visit();
    assert_eq!(visitor.get("/a").text(), "/a");
    drop(app);
    access.wait_for_log("connection refused; leaving");
    proxy.wait_for_logs("closed: reason=peer_closed", 3);
    // Requests wait at the server meanwhile.
    visitor.send_get("/b");
    let app = EchoServer::at(address);
    assert_eq!(visitor.answer().text(), "/b");
    drop(visitor);
    access.finish();
    drop(app);
    proxy.finish();
}

#[test]
fn check_page() {
    let proxy = Proxy::simple();
    let app = Server::start();
    let access = Access::start(
        &format!(
            "{{connect: '{}', to: '{}', connections: 1, check: {{uri: '/up?x', interval: 10ms}}}}",
            proxy.dial_in(),
            app.address()
        ),
        &[],
    );
    let check = |answer: &str| {
        let mut backend = app.accept_asking();
        let seen = backend.request();
        assert_eq!(seen.target(), "/up?x");
        assert_eq!(seen.field("User-Agent"), Some("swiftiply-access"));
        backend.send(answer);
    };
    let good = "HTTP/1.1 204 No Content\r\n\r\n";
    check("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    access.wait_for_log("check /up?x: 503; waiting for it");
    check("rubbish\r\n\r\n");
    check(good);
    proxy.wait_for_logs(" joined ", 1);
    check(good);
    check("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n");
    access.wait_for_log("check /up?x: 500; leaving");
    proxy.wait_for_log("closed: reason=peer_closed");
    check(good);
    proxy.wait_for_logs(" joined ", 2);
    // Also while its only slot is taken.
    let mut visitor = proxy.ask("/busy");
    let mut backend = loop {
        let mut backend = app.accept_asking();
        if backend.request().target() == "/busy" {
            break backend;
        }
        backend.send(good);
    };
    for _ in 0..3 {
        check(good);
    }
    backend.reply_to(&mut visitor, "done");
    drop((visitor, backend));
    access.signal(SIGTERM);
    let mut access = access;
    assert_eq!(access.wait().code(), Some(0));
    proxy.finish();
}

#[test]
fn waits_for_application() {
    let proxy = Proxy::simple();
    let app = EchoServer::start();
    let address = app.address();
    let access = Access::start(
        // So rarely that the request is the first to find out.
        &format!(
            "{{connect: '{}', to: '{address}', connections: 2, check: {{interval: 1m}}}}",
            proxy.dial_in()
        ),
        &[],
    );
    proxy.wait_for_logs(" joined ", 2);
    drop(app);
    let mut visitor = proxy.visit();
    visitor.send("POST /once HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody");
    access.wait_for_log("connection refused; leaving");
    let app = EchoServer::at(address);
    assert_eq!(visitor.answer().text(), "/once 4");
    assert_eq!(app.answered(), 1);
    drop(visitor);
    access.finish();
    drop(app);
    proxy.finish();
}

#[test]
fn limit_of_application() {
    let proxies = [Proxy::simple(), Proxy::simple()];
    let app = EchoServer::start();
    let access = Access::start(
        &format!(
            "{{connect: ['{}', '{}'], to: '{}', connections: 4}}",
            proxies[0].dial_in(),
            proxies[1].dial_in(),
            app.address()
        ),
        &[],
    );
    // All four to each, and one proxy may use them all.
    for proxy in &proxies {
        proxy.wait_for_logs(" joined ", 4);
    }
    let quiet = access.descriptors();
    app.hold(true);
    thread::scope(|scope| {
        for number in 0..200 {
            let address = proxies[number % 2].address();
            scope.spawn(move || {
                let mut visitor = Visitor::connect(address);
                for n in 0..5 {
                    let path = format!("/hold/{number}/{n}");
                    assert_eq!(visitor.get(&path).text(), path);
                }
            });
        }
        wait_until("four requests at the application", || app.held() == 4);
        app.hold(false);
    });
    assert_eq!((app.answered(), app.most()), (1000, 4));
    // Four connections carry all requests; the others are checks.
    wait_until("no more open files than before", || {
        access.descriptors() <= quiet + 4
    });
    access.finish();
    drop(app);
    proxies.into_iter().for_each(Proxy::finish);
}

#[test]
fn application_killed() {
    let proxy = Proxy::simple();
    let mut app = Some(EchoServer::start());
    let address = app.as_ref().unwrap().address();
    let access = Access::between(proxy.dial_in(), address, 4);
    let load = Load::start(proxy.address(), false);
    load.wait_for(50);
    for round in 1..6 {
        drop(app.take());
        access.wait_for_logs("; leaving", round);
        app = Some(EchoServer::at(address));
        load.wait_for(100);
    }
    load.wait_for(50);
    load.end();
    access.finish();
    drop(app);
    proxy.finish();
}

#[test]
fn server_restarted() {
    let port = Port::reserve();
    let yaml = SITE.replace(":0", &format!(":{}", port.number()));
    let app = EchoServer::start();
    let mut proxy = Proxy::start(&yaml);
    let access = Access::between(proxy.dial_in(), app.address(), 3);
    for _ in 0..2 {
        proxy.signal(Signal::SIGKILL);
        proxy.wait();
        access.wait_for_log("connection refused; trying again");
        proxy = Proxy::start(&yaml);
        let since = Instant::now();
        proxy.wait_for_logs(" joined ", 3);
        // 1.2 s at the most on an idle machine; 20 s if it had not reset its back-off.
        assert!(
            since.elapsed() < Duration::from_secs(15),
            "dialled again after {:?}",
            since.elapsed()
        );
        assert_eq!(proxy.visit().get("/a").text(), "/a");
    }
    access.finish();
    drop(app);
    proxy.finish();
}

#[test]
fn wrong_port() {
    let app = EchoServer::start();
    let proxy = Proxy::simple();
    let dial = |at| {
        Access::start(
            &format!(
                "{{connect: '{at}', to: '{}', connections: 1}}",
                app.address()
            ),
            &[],
        )
    };
    let access = dial(proxy.address());
    let says = "it answers as it answers clients: this is its port for clients; dial the outgoing address of a site";
    access.wait_for_log(&format!("server {}: {says}; trying again", proxy.address()));
    assert!(!access.log().contains("dialled in"), "{}", access.log());
    drop(access);
    proxy.finish();
    // The same from a server that takes its time; it is asked more and more seldom, too.
    let server = Server::start();
    let access = dial(server.address());
    for count in 1..4 {
        let mut backend = server.accept();
        access.wait_for_logs(": dialled in", count);
        backend.send("HTTP/1.1 408 Request Timeout\r\n\r\n");
        access.wait_for_logs(&format!("{says}; trying again"), count);
    }
    drop(access);
    drop(app);
}

#[test]
fn backoff() {
    let server = Server::start();
    let app = EchoServer::start();
    let at = server.address();
    let yaml = |connections: usize| {
        let to = app.address();
        format!("{{connect: '{at}', to: '{to}', key: secret, connections: {connections}}}")
    };
    let access = Access::start(&yaml(1), &[]);
    let preamble = String::from_utf8(preamble("000000000000", "secret")).unwrap();
    let close = || drop(Visitor::dialled(server.accept(), &preamble));
    close();
    access.wait_for_log("it closes the connection at once; is the key right?; trying again");
    let since = Instant::now();
    (0..6).for_each(|_| close());
    // 0.1, 0.1, 0.1, 0.2, 0.4, 0.8, less a quarter.
    assert!(
        since.elapsed() >= Duration::from_millis(1200),
        "{:?}",
        since.elapsed()
    );
    assert_eq!(access.log().matches("trying again").count(), 1);
    // When one connection is accepted, the others follow.
    access.reload(&yaml(8));
    let lines: Vec<_> = (0..8).map(|_| server.accept()).collect();
    access.wait_for_log(&format!("server {at}: dialled in"));
    drop(access);
    drop(lines);
}

#[test]
fn counted_in_few_lines() {
    let server = Server::start();
    let app = EchoServer::start();
    let access = Access::start(
        &format!(
            "{{connect: '{}', to: '{}', connections: 40}}",
            server.address(),
            app.address()
        ),
        &[],
    );
    let at = format!("server {}: ", server.address());
    let lines = || {
        let log = access.log();
        let about = log.lines().filter(|line| line.contains(&at));
        let about = about.filter(|line| line.ends_with(" now"));
        about.map(str::to_owned).collect::<Vec<_>>()
    };
    // How many came and went, by the lines.
    let sum = || {
        let mut sum = (0, 0);
        for line in lines() {
            let text = line.split(&at).nth(1).unwrap();
            let number = |words: &str| -> Option<usize> {
                let before = text.split_once(words)?.0;
                before.rsplit(' ').next()?.parse().ok()
            };
            sum.0 += number(" more dialled in").unwrap_or(0);
            sum.1 += number(" more disconnected").unwrap_or(0);
            sum.1 += text
                .contains(" dialled in and ")
                .then(|| number(" disconnected"))
                .flatten()
                .unwrap_or(0);
            sum.0 += usize::from(text.starts_with("dialled in, "));
            sum.1 += usize::from(text.starts_with("disconnected, "));
        }
        sum
    };
    let since = Instant::now();
    let connections: Vec<_> = (0..40).map(|_| server.accept()).collect();
    wait_until("the count of 40 connections", || sum() == (40, 0));
    access.wait_for_log(", 40 now\n");
    drop(connections);
    let connections: Vec<_> = (0..40).map(|_| server.accept()).collect();
    wait_until("the count of 80 connections", || sum() == (80, 40));
    let most = 3 + since.elapsed().as_secs() as usize;
    assert!(lines().len() <= most, "{}", access.log());
    assert!(
        lines()
            .last()
            .is_some_and(|line| line.ends_with(", 40 now")),
        "the last line does not end with 40 connections:\n{}",
        lines().join("\n")
    );
    // The end of swiftiply-access itself is not logged as a loss.
    drop(connections);
    access.finish();
    drop(app);
}

#[test]
fn unix_sockets() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let app = UnixListener::bind(path("app.sock")).unwrap();
    let proxy = Proxy::start(&format!(
        "map: [{{incoming: test, default: true, outgoing: 'unix:{}', timeout: 60}}]",
        path("in.sock").display()
    ));
    let access = Access::start(
        &format!(
            "{{connect: 'unix:{}', to: 'unix:{}', connections: 1, check: {{interval: 1m}}}}",
            path("in.sock").display(),
            path("app.sock").display()
        ),
        &[],
    );
    let served = thread::spawn(move || {
        loop {
            let (mut stream, _) = app.accept().unwrap();
            let mut head = Vec::new();
            // A check sends nothing.
            if crate::common::read_until(&mut stream, &mut head, "a request", |b| {
                b.ends_with(b"\r\n\r\n")
            }) {
                let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                std::io::Write::write_all(&mut stream, answer.as_bytes()).unwrap();
                return;
            }
        }
    });
    assert_eq!(proxy.visit().get("/").text(), "ok");
    served.join().unwrap();
    access.finish();
    proxy.finish();

    let app = EchoServer::start();
    let proxy = Proxy::simple();
    let port = |address: SocketAddr| format!("localhost:{}", address.port());
    let access = Access::start(
        "",
        &[
            "-n",
            "2",
            "-t",
            &port(app.address()),
            &port(proxy.dial_in()),
        ],
    );
    assert_eq!(proxy.visit().get("/a").text(), "/a");
    access.wait_for_log(&format!(
        "server localhost ({}): dialled in",
        proxy.dial_in()
    ));
    access.finish();
    drop(app);
    proxy.finish();
}
