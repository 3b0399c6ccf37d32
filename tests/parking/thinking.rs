//! Exchanges that wait for the head of the response.

use super::*;
use crate::common::proxy::SITE;
use crate::common::{Backend, Echo, Server, Way, embedded, first, full_listener};

/// All backends have a request before the first one answers.
fn all_at_once(way: Way) {
    let mut setup = Setup::start(way, 200, "workers: 4");
    let mut visitors = ask_all(setup.proxy.address(), 200);
    let mut busy = setup.requests(200);
    expect_free_worker(&setup.proxy);
    for (backend, seen) in &mut busy {
        backend.reply(seen.target());
    }
    expect_all(&mut visitors);
    drop((visitors, busy));
    setup.finish();
}

#[test]
fn dial_in_all_at_once() {
    all_at_once(Way::DialIn);
}

#[test]
fn traditional_all_at_once() {
    all_at_once(Way::Traditional);
}

#[test]
fn access_all_at_once() {
    all_at_once(Way::Access);
}

/// Backends that answer each request after a delay; clients that ask one request after the other.
fn quick(lines: &str, requests: usize, delay: fn(u64)) {
    let proxy = Proxy::simple_with(lines);
    let backends: Vec<_> = (0..4)
        .map(|seed| {
            let mut backend = Backend::dial(proxy.dial_in());
            thread::spawn(move || {
                let mut random = 0x9e37_79b9_7f4a_7c15_u64 + seed;
                while let Some(seen) = backend.next() {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    delay(random);
                    backend.reply(seen.target());
                }
            })
        })
        .collect();
    let address = proxy.address();
    thread::scope(|scope| {
        for visitor in 0..4 {
            scope.spawn(move || {
                let mut connection = visit(address);
                for n in 0..requests {
                    let target = format!("/{visitor}/{n}");
                    connection.send_get(&target);
                    expect(&mut connection, &target);
                }
            });
        }
    });
    drop(proxy);
    for backend in backends {
        backend.join().unwrap();
    }
}

#[test]
fn answers_while_parking() {
    for workers in [1, 4] {
        quick(&format!("workers: {workers}"), 2500, |random| {
            let until = Instant::now() + Duration::from_micros(random % 200);
            while Instant::now() < until {
                std::hint::spin_loop();
            }
        });
    }
}

#[test]
fn answers_when_patience_ends() {
    quick("workers: 8", 100, |random| {
        thread::sleep(Duration::from_micros(17_000 + random % 6_000));
    });
}

#[test]
fn burst_without_503() {
    let server = embedded("map: [{incoming: test, default: true, outgoing: '127.0.0.1:0'}]");
    let dial_in = first(&server.backend_addresses());
    let backends: Vec<_> = (0..256)
        .map(|n| Echo::dial(dial_in, &format!("{n:012x}"), ""))
        .collect();
    crate::common::wait_at_most(SOON, "256 idle backends", || server.queues().0 == 256);
    let address = first(&server.client_addresses());
    let crowd = || (0..32).map(|_| visit(address)).collect();
    let mut crowds: Vec<Vec<Visitor>> = (0..8).map(|_| crowd()).collect();
    let mut statuses = Vec::new();
    for round in 0..20 {
        thread::scope(|scope| {
            let ask = |crowd: usize, visitors: &mut [Visitor]| {
                for (n, visitor) in visitors.iter_mut().enumerate() {
                    visitor.send_get(&format!("/{crowd}/{n}/{round}"));
                }
                let answers = visitors.iter_mut().map(Visitor::answer).enumerate();
                let own = |n| format!("/{crowd}/{n}/{round}");
                let status = answers.map(|(n, answer)| {
                    let right = answer.status != 200 || answer.text() == own(n);
                    assert!(right, "{}: {answer:?}", own(n));
                    answer.status
                });
                status.collect::<Vec<_>>()
            };
            let crowds = crowds.iter_mut().enumerate();
            let asking: Vec<_> = crowds
                .map(|(n, visitors)| scope.spawn(move || ask(n, visitors)))
                .collect();
            for crowd in asking {
                statuses.extend(crowd.join().unwrap());
            }
        });
    }
    let bad: Vec<_> = statuses.iter().filter(|status| **status != 200).collect();
    assert!(
        bad.is_empty(),
        "{} of {} are refused: {bad:?}",
        bad.len(),
        statuses.len()
    );
    drop((backends, crowds));
    assert!(server.drain(SOON), "the server is drained");
}

#[test]
fn head_byte_by_byte() {
    for way in [Way::DialIn, Way::Traditional, Way::Access] {
        let mut setup = Setup::start(way, 10, "workers: 2");
        let mut visitors = ask_all(setup.proxy.address(), 10);
        let mut busy = setup.requests(10);
        let responses: Vec<_> = busy
            .iter()
            .map(|(_, seen)| {
                let target = seen.target();
                format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{target}")
            })
            .collect();
        for at in 0..responses[0].len() {
            for ((backend, _), response) in busy.iter_mut().zip(&responses) {
                backend.send(&response[at..=at]);
            }
            expect_free_worker(&setup.proxy);
        }
        expect_all(&mut visitors);
        drop((visitors, busy));
        setup.finish();
    }
}

#[test]
fn connecting_holds_no_worker() {
    let (stuck, queue) = full_listener();
    let hangs: String = (0..3)
        .map(|n| {
            format!(
                "- {{incoming: hangs{n}, proxy: traditional, servers: '{stuck}', timeout: 6, \
                     timeouts: {{connect: 6}}}}\n"
            )
        })
        .collect();
    let proxy = Proxy::start(&format!(
        "workers: 2\nmap:\n{hangs}\
             - {{incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 60}}"
    ));
    let echo = Echo::dial(proxy.dial_in(), "00000000echo", "");
    let since = Instant::now();
    let mut stuck: Vec<_> = (0..9)
        .map(|n| {
            let mut visitor = visit(proxy.address());
            let host = format!("hangs{}", n % 3);
            visitor.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            visitor
        })
        .collect();
    for n in 0..30 {
        let mut visitor = ask(proxy.address(), &format!("/{n}"));
        expect(&mut visitor, &format!("/{n}"));
        expect_free_worker(&proxy);
    }
    // A held worker is free again after the deadline for connecting, and no earlier.
    let took = since.elapsed();
    assert!(
        took < Duration::from_secs(6),
        "other requests took {took:?}"
    );
    for visitor in &mut stuck {
        let answer = visitor.answer();
        assert!(
            matches!(answer.status, 502..=504),
            "a server that cannot be reached: {answer:?}"
        );
    }
    drop((stuck, echo, queue));
    proxy.finish();
}

#[test]
fn backends_die_in_turn() {
    let proxy = Proxy::simple_with("workers: 1");
    let visitors: Vec<_> = ask_all(proxy.address(), 6);
    for death in 0..12 {
        let mut backend = Backend::dial(proxy.dial_in());
        backend.wait_at_most(SOON);
        assert!(
            backend.next().is_some(),
            "a request for backend {death} of 12"
        );
        expect_free_worker(&proxy);
    }
    // Two backends for each request, and not one more.
    for mut visitor in visitors {
        let answer = visitor.answer();
        assert_eq!(answer.status, 502, "after two backends: {answer:?}");
    }
    // One that dies and one that answers.
    let mut visitor = ask(proxy.address(), "/lives");
    let mut backend = Backend::dial(proxy.dial_in());
    backend.wait_at_most(SOON);
    assert_eq!(backend.request().target(), "/lives");
    drop(backend);
    expect_free_worker(&proxy);
    let echo = Echo::dial(proxy.dial_in(), "00000000echo", "");
    expect(&mut visitor, "/lives");
    drop((visitor, echo));
    proxy.finish();
}

#[test]
fn servers_die_in_turn() {
    let server = Server::start();
    let proxy = Proxy::start(&format!(
        "workers: 1\nmap: [{{incoming: test, default: true, proxy: traditional, \
             servers: '{}', timeout: 60}}]",
        server.address()
    ));
    let mut visitor = ask(proxy.address(), "/deadly");
    for death in 0..2 {
        let mut backend = server.accept_asking();
        assert_eq!(
            backend.request().target(),
            "/deadly",
            "connection {death} of 2"
        );
        expect_free_worker(&proxy);
    }
    let answer = visitor.answer();
    assert_eq!(answer.status, 502, "after two connections: {answer:?}");
    drop(visitor);
    proxy.finish();
}

#[test]
fn tls_on_both_sides() {
    needs!("openssl");
    use std::io::Write;
    use std::net::TcpStream;

    use crate::common::backend::preamble;
    use crate::common::{bytes, secure};

    let files = tempfile::tempdir().unwrap();
    let (certfile, keyfile) = secure::certificate(files.path(), "test", &["test"]);
    let pair = secure::pair(&certfile, &keyfile);
    let site = SITE.replace("timeout: 60", "timeout: 60, key: secret");
    let proxy = Proxy::start(&format!(
        "workers: 2\nssl: {{at: '127.0.0.2:0', {pair}}}\n\
             outgoing_ssl: {{at: '127.0.0.1:0', {pair}}}\n{site}"
    ));
    let mut backends: Vec<_> = (0..12)
        .map(|_| {
            let socket = TcpStream::connect(proxy.dial_in()).unwrap();
            socket.set_nodelay(true).unwrap();
            let mut stream = secure::connect(socket, "test");
            stream
                .write_all(&preamble("000000000001", "secret"))
                .unwrap();
            let backend = Visitor::with(stream);
            backend.wait_at_most(SOON);
            backend
        })
        .collect();
    proxy.wait_for_logs(" joined ", 12);
    let mut visitors: Vec<_> = (0..12)
        .map(|n| {
            let mut visitor = proxy.visit_secure();
            visitor.wait_at_most(SOON);
            visitor.send_get(&format!("/{n:02}"));
            visitor
        })
        .collect();
    // The last piece has several records, which the proxy may find in one read.
    let large = bytes(100_000);
    let pieces: Vec<_> = backends
        .iter_mut()
        .map(|backend| {
            backend.sees("\r\n\r\n");
            let target = String::from_utf8(backend.take(7)).unwrap()[4..].to_owned();
            [
                b"HTTP/1.1 200 OK\r\nContent-".to_vec(),
                b"Length: 100003\r\n".to_vec(),
                format!("\r\n{}", &target[..1]).into_bytes(),
                target.as_bytes()[1..].to_vec(),
                large.clone(),
            ]
        })
        .collect();
    for piece in 0..5 {
        for (backend, pieces) in backends.iter_mut().zip(&pieces) {
            backend.send(&pieces[piece]);
        }
        let mut visitor = proxy.visit_secure();
        visitor.wait_at_most(SOON);
        let status = visitor.get("/swiftiply_health").status;
        assert_eq!(status, 200, "the health check after piece {piece}");
    }
    for (n, visitor) in visitors.iter_mut().enumerate() {
        let answer = visitor.answer();
        let body = [format!("/{n:02}").as_bytes(), &large].concat();
        assert!(
            answer.body == body && !answer.cut,
            "visitor {n}: {} bytes",
            answer.body.len()
        );
    }
    drop((visitors, backends));
    proxy.finish();
}
