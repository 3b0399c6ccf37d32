//! Exchanges that wait for their backends hold no worker.
//!
//! Each test has more exchanges under way than workers, and applications that answer only when all of that is seen. Where
//! another request is answered meanwhile, a worker was free.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Proxy, SOON, Setup, Visitor, needs};

/// A visitor whose reads and writes end soon.
fn visit(address: SocketAddr) -> Visitor {
    let visitor = Visitor::connect(address);
    visitor.wait_at_most(SOON);
    visitor
}

/// The same with a request.
fn ask(address: SocketAddr, target: &str) -> Visitor {
    let mut visitor = visit(address);
    visitor.send_get(target);
    visitor
}

/// So many visitors; the target of each is its number.
fn ask_all(address: SocketAddr, count: usize) -> Vec<Visitor> {
    (0..count).map(|n| ask(address, &format!("/{n}"))).collect()
}

/// Reads a whole answer with status 200.
#[track_caller]
fn expect(visitor: &mut Visitor, text: &str) {
    let answer = visitor.answer();
    assert_eq!(
        (answer.status, answer.text().as_str(), answer.cut),
        (200, text, false),
        "status, body, cut"
    );
}

/// Each visitor has its number as an answer.
#[track_caller]
fn expect_all(visitors: &mut [Visitor]) {
    for (n, visitor) in visitors.iter_mut().enumerate() {
        expect(visitor, &format!("/{n}"));
    }
}

/// A worker is free: it answers a request that needs no backend. With a single worker, all exchanges before it are parked.
#[track_caller]
fn expect_free_worker(proxy: &Proxy) {
    let answer = visit(proxy.address()).get("/swiftiply_health");
    assert_eq!(answer.status, 200, "the health check: {answer:?}");
}

/// Another site is served.
#[track_caller]
fn expect_others(setup: &Setup) {
    let other = setup.other();
    let mut visitor = visit(setup.proxy.address());
    for n in 0..50 {
        visitor.send(format!("GET /{n} HTTP/1.1\r\nHost: other\r\n\r\n"));
        expect(&mut visitor, &format!("/{n}"));
    }
    expect_free_worker(&setup.proxy);
    drop(other);
}

/// A chunk of a body.
fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Exchanges that wait for the head of the response.
mod thinking {
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

    /// Backends that answer each request after a delay; visitors that ask one request after the other.
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
        let dial_in = first(&server.backends());
        let backends: Vec<_> = (0..256)
            .map(|n| Echo::dial(dial_in, &format!("{n:012x}"), ""))
            .collect();
        crate::common::wait_at_most(SOON, "all backends", || server.queues().0 == 256);
        let address = first(&server.visitors());
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
}

/// Exchanges whose response has begun.
mod streaming {
    use super::*;
    use crate::common::proxy::site;
    use crate::common::{Backend, Echo};

    #[test]
    fn event_streams() {
        const STREAMS: usize = 500;
        let proxy = Proxy::start(
            "workers: 2\nmap:\n\
             - {incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 60}\n\
             - {incoming: other, outgoing: '127.0.0.2:0', timeout: 60}",
        );
        let mut backends: Vec<_> = (0..STREAMS)
            .map(|_| Backend::dial(proxy.dial_in()))
            .collect();
        proxy.wait_for_logs(" joined ", STREAMS);
        let mut visitors = ask_all(proxy.address(), STREAMS);
        let targets: Vec<_> = backends
            .iter_mut()
            .map(|backend| {
                backend.wait_at_most(SOON);
                let target = backend.request().target().to_owned();
                let event = chunk(&format!("first {target}\n"));
                backend.send(format!("{CHUNKED}{event}"));
                target
            })
            .collect();
        for (n, visitor) in visitors.iter_mut().enumerate() {
            visitor.sees(&format!("first /{n}\n"));
        }
        let echoes = [0, 1].map(|n| Echo::dial(proxy.dial_ins()[n], "00000000echo", ""));
        for host in ["test", "other"] {
            let mut kept = visit(proxy.address());
            for n in 0..200 {
                kept.send(format!("GET /{host}/{n} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
                expect(&mut kept, &format!("/{host}/{n}"));
            }
            for _ in 0..20 {
                let mut visitor = visit(proxy.address());
                visitor.send(format!("GET /{host} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
                expect(&mut visitor, &format!("/{host}"));
            }
        }
        for (backend, target) in backends.iter_mut().zip(&targets) {
            backend.send(chunk(&format!("second {target}\n")));
        }
        for (n, visitor) in visitors.iter_mut().enumerate() {
            visitor.sees(&format!("second /{n}\n"));
        }
        for backend in &mut backends {
            backend.send("0\r\n\r\n");
        }
        for (n, visitor) in visitors.iter_mut().enumerate() {
            expect(visitor, &format!("first /{n}\nsecond /{n}\n"));
        }
        drop((visitors, backends, echoes));
        proxy.finish();
    }

    #[test]
    fn unframed_responses_end() {
        let gap = Duration::from_secs(1);
        let proxy = Proxy::start(&format!("workers: 1\n{}", site("unframed_gap: 1")));
        let mut backends: Vec<_> = (0..20).map(|_| Backend::dial(proxy.dial_in())).collect();
        proxy.wait_for_logs(" joined ", 20);
        let mut visitors = ask_all(proxy.address(), 20);
        let targets: Vec<_> = backends
            .iter_mut()
            .map(|backend| {
                backend.wait_at_most(SOON);
                backend.request().target().to_owned()
            })
            .collect();
        expect_free_worker(&proxy);
        let since = Instant::now();
        for (backend, target) in backends.iter_mut().zip(&targets) {
            backend.send(format!("HTTP/1.1 200 OK\r\n\r\n{target}"));
        }
        expect_free_worker(&proxy);
        expect_all(&mut visitors);
        let took = since.elapsed();
        assert!(took >= gap, "the end is no earlier than the gap: {took:?}");
        // One after the other they would take 20 seconds.
        assert!(took < gap * 10, "all gaps pass at once: {took:?}");
        for backend in &mut backends {
            assert!(
                backend.is_closed(),
                "an unframed response ends its connection"
            );
        }
        drop((visitors, backends));
        proxy.finish();
    }
}

/// Visitors that leave.
mod leaving {
    use std::fs;

    use super::*;
    use crate::common::proxy::SITE;
    use crate::common::{Backend, Way, bytes, embedded, first, secure, wait_at_most};

    /// The visitor has left if its sending side ends this long after its request. It still wants the response if that
    /// side ends at once.
    const AFTER_HALF_CLOSE: Duration = Duration::from_secs(1);

    /// How a visitor leaves.
    #[derive(Clone, Copy, Debug)]
    enum End {
        Close,
        CloseNotify,
        Reset,
    }

    impl End {
        fn apply(self, mut visitor: Visitor) {
            match self {
                Self::Close => drop(visitor),
                Self::CloseNotify => {
                    visitor.finish();
                }
                Self::Reset => visitor.reset(),
            }
        }
    }

    /// Visitors leave in each manner, before the response and within it; their connections are closed.
    fn all_ways(way: Way) {
        let files = tempfile::tempdir().unwrap();
        let (certfile, keyfile) = secure::certificate(files.path(), "test", &["test"]);
        let pair = secure::pair(&certfile, &keyfile);
        let lines = format!(
            "workers: 2\naccess_log: {{file: access, format: json}}\n\
             ssl: {{at: '127.0.0.2:0', {pair}}}"
        );
        let ends = [
            (false, End::Close),
            (false, End::Reset),
            (true, End::Close),
            (true, End::CloseNotify),
            (true, End::Reset),
        ];
        let mut setup = Setup::start(way, 2 * ends.len(), &lines);
        let mut visitors = Vec::new();
        for (secure, end) in ends {
            for begun in ["thinking", "begun"] {
                let mut visitor = setup.proxy.visit_as(secure);
                visitor.wait_at_most(SOON);
                visitor.send_get(&format!("/{begun}/{secure}/{end:?}"));
                visitors.push((visitor, end, begun));
            }
        }
        let mut busy = setup.requests(visitors.len());
        for (backend, seen) in &mut busy {
            if seen.target().starts_with("/begun") {
                backend.send(format!("{CHUNKED}{}", chunk("event")));
            }
        }
        for (visitor, _, begun) in &mut visitors {
            if *begun == "begun" {
                visitor.sees("event");
            }
        }
        expect_free_worker(&setup.proxy);
        // The rule for half-closed connections depends on this time.
        thread::sleep(AFTER_HALF_CLOSE);
        for (visitor, end, _) in visitors {
            end.apply(visitor);
        }
        for (backend, seen) in &mut busy {
            assert!(
                backend.is_closed(),
                "{way:?} {}: the connection is closed",
                seen.target()
            );
        }
        let log = || setup.proxy.read("access");
        wait_at_most(SOON, "ten lines in the access log", || {
            log().matches("\"target\":\"/thinking/").count() == 5
                && log().matches("\"target\":\"/begun/").count() == 5
        });
        for line in log().lines().filter(|line| !line.contains("health")) {
            assert!(
                line.contains("\"ended\":\"client_gone\""),
                "{way:?}: {line}"
            );
            let expected = line.contains("/begun/") || line.contains("\"status\":499,");
            assert!(expected, "{way:?}: 499 before the response: {line}");
        }
        drop(busy);
        setup.finish();
    }

    #[test]
    fn dial_in() {
        needs!("openssl");
        all_ways(Way::DialIn);
    }

    #[test]
    fn traditional() {
        needs!("openssl");
        all_ways(Way::Traditional);
    }

    #[test]
    fn access() {
        needs!("openssl");
        all_ways(Way::Access);
    }

    /// A visitor leaves, and the response comes within a second: the connection serves the next request.
    fn abandoned(body: &[u8], begun: bool) {
        let proxy = Proxy::simple_with("workers: 2");
        let half = if begun { body.len() / 2 } else { 0 };
        // A round that took too long, on a busy machine, proves nothing.
        for _ in 0..10 {
            let mut backend = Backend::dial(proxy.dial_in());
            backend.wait_at_most(SOON);
            let mut visitor = ask(proxy.address(), "/abandoned");
            backend.request();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            if begun {
                backend.send(&head).send(&body[..half]);
                visitor.at_least(head.len() + half / 2);
            }
            let since = Instant::now();
            visitor.reset();
            // So that the proxy most likely finds out before the response arrives; the result is the same if not.
            thread::sleep(Duration::from_millis(200));
            if !begun {
                backend.send(&head);
            }
            backend.send(&body[half..]);
            if since.elapsed() > Duration::from_millis(700) {
                continue;
            }
            let mut next = ask(proxy.address(), "/next");
            let seen = backend.next();
            let seen = seen.expect("the connection is kept after an abandoned response");
            assert_eq!(seen.target(), "/next", "the next request");
            backend.reply("next");
            expect(&mut next, "next");
            drop((backend, next));
            proxy.finish();
            return;
        }
        panic!("the machine is too busy");
    }

    #[test]
    fn answer_in_time_keeps_connection() {
        abandoned(b"late", false);
    }

    #[test]
    fn large_response_is_drained() {
        abandoned(&bytes(2 << 20), false);
    }

    #[test]
    fn rest_of_response_is_drained() {
        abandoned(&bytes(2 << 20), true);
    }

    #[test]
    fn silence_closes_connection() {
        let proxy = Proxy::simple_with("workers: 1");
        let mut backend = Backend::dial(proxy.dial_in());
        backend.wait_at_most(SOON);
        let visitor = ask(proxy.address(), "/");
        backend.request();
        expect_free_worker(&proxy);
        let since = Instant::now();
        visitor.reset();
        assert!(
            backend.is_closed(),
            "the connection of a silent application"
        );
        let took = since.elapsed();
        assert!(
            took > Duration::from_millis(700),
            "it has about a second: {took:?}"
        );
        assert!(
            took < Duration::from_secs(10),
            "it has about a second: {took:?}"
        );
        proxy.finish();
    }

    #[test]
    fn half_close_gets_answer() {
        for way in [Way::DialIn, Way::Traditional, Way::Access] {
            let mut setup = Setup::start(way, 4, "workers: 1");
            let mut visitors: Vec<_> = (0..4)
                .map(|n| {
                    let mut visitor = ask(setup.proxy.address(), &format!("/{n}"));
                    visitor.finish();
                    visitor
                })
                .collect();
            let mut busy = setup.requests(4);
            expect_free_worker(&setup.proxy);
            // Long enough for a check that takes the end for a departure.
            thread::sleep(AFTER_HALF_CLOSE);
            expect_free_worker(&setup.proxy);
            for (backend, seen) in &mut busy {
                backend.reply(seen.target());
            }
            expect_all(&mut visitors);
            drop((visitors, busy));
            setup.finish();
        }
    }

    #[test]
    fn from_queue() {
        let files = tempfile::tempdir().unwrap();
        let access = files.path().join("access");
        let server = embedded(&format!(
            "workers: 1\naccess_log: {{file: {}, format: json}}\n{SITE}",
            access.display()
        ));
        let address = first(&server.visitors());
        let mut queued = ["/close", "/reset", "/stays", "/last"].map(|target| {
            let before = server.queues().1;
            let visitor = ask(address, target);
            wait_at_most(SOON, "one more in the queue", || {
                server.queues().1 == before + 1
            });
            Some(visitor)
        });
        let health = visit(address).get("/swiftiply_health");
        assert_eq!(health.status, 200, "a worker is free: {health:?}");
        thread::sleep(AFTER_HALF_CLOSE);
        drop(queued[0].take());
        queued[1].take().unwrap().reset();
        wait_at_most(SOON, "two left the queue", || server.queues().1 == 2);
        let mut backend = Backend::dial(first(&server.backends()));
        backend.wait_at_most(SOON);
        for (n, target) in [(2, "/stays"), (3, "/last")] {
            assert_eq!(backend.request().target(), target, "the next in the queue");
            backend.reply(target);
            expect(queued[n].as_mut().unwrap(), target);
        }
        drop((queued, backend));
        assert!(server.drain(SOON), "the server is drained");
        let log = fs::read_to_string(access).unwrap();
        for target in ["/close", "/reset"] {
            let line = log.lines().find(|line| line.contains(target));
            let line = line.unwrap_or_else(|| panic!("{target} is not in {log}"));
            assert!(line.contains("\"status\":499,"), "status 499: {line}");
            assert!(
                line.contains("\"ended\":\"client_gone\""),
                "the reason: {line}"
            );
        }
    }
}

/// The end of the program, and reloads.
mod lifetime {
    use std::sync::mpsc;

    use nix::sys::signal::Signal;

    use super::*;
    use crate::common::proxy::SITE;
    use crate::common::{Backend, Way, embedded, first, wait_at_most};

    /// Twelve exchanges; every second one has half of its response.
    fn twelve(way: Way, lines: &str) -> (Setup, Vec<Visitor>, Vec<(Backend, String)>) {
        let mut setup = Setup::start(way, 12, lines);
        let mut visitors = ask_all(setup.proxy.address(), 12);
        let mut busy = Vec::new();
        for (mut backend, seen) in setup.requests(12) {
            let target = seen.target().to_owned();
            let length = target.len();
            let mut rest = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{target}");
            let number: usize = target[1..].parse().unwrap();
            if number.is_multiple_of(2) {
                let end = rest.split_off(rest.len() - 1);
                backend.send(rest);
                rest = end;
            }
            busy.push((backend, rest));
        }
        for visitor in visitors.iter_mut().step_by(2) {
            visitor.sees("\r\n\r\n/");
        }
        expect_free_worker(&setup.proxy);
        (setup, visitors, busy)
    }

    fn send_rest(busy: &mut [(Backend, String)]) {
        for (backend, rest) in busy {
            backend.send(rest);
        }
    }

    #[test]
    fn drain_finishes_exchanges() {
        for way in [Way::DialIn, Way::Traditional] {
            let (mut setup, mut visitors, mut busy) = twelve(way, "workers: 2");
            setup.proxy.signal(Signal::SIGTERM);
            setup.proxy.wait_for_log("draining");
            send_rest(&mut busy);
            for (n, visitor) in visitors.iter_mut().enumerate() {
                let answer = visitor.answer();
                assert_eq!(answer.text(), format!("/{n}"), "{way:?}: {answer:?}");
                assert!(!answer.cut, "{way:?}: {answer:?}");
                let close = answer.field("Connection") == Some("close");
                assert!(
                    close || n.is_multiple_of(2),
                    "a head during a drain: {answer:?}"
                );
                assert!(visitor.is_closed(), "{way:?}: visitor {n} is closed");
            }
            for (backend, _) in &mut busy {
                assert!(backend.is_closed(), "{way:?}: the connection is closed");
            }
            let code = setup.proxy.wait().code();
            assert_eq!(code, Some(0), "{way:?}: {}", setup.proxy.log());
        }
    }

    #[test]
    fn second_term_ends_at_once() {
        let (mut setup, mut visitors, mut busy) = twelve(Way::DialIn, "workers: 2\ngrace: 60");
        setup.proxy.signal(Signal::SIGTERM);
        setup.proxy.wait_for_log("draining");
        setup.proxy.signal(Signal::SIGTERM);
        for (n, visitor) in visitors.iter_mut().enumerate() {
            match n.is_multiple_of(2) {
                true => assert!(visitor.answer().cut, "the response of visitor {n} is cut"),
                false => assert!(visitor.is_closed(), "visitor {n} is closed"),
            }
        }
        for (backend, _) in &mut busy {
            assert!(backend.is_closed(), "the connection is closed");
        }
        assert_eq!(setup.proxy.wait().code(), Some(1), "the second signal");
    }

    #[test]
    fn grace_ends_exchanges() {
        let lines = "workers: 2\ngrace: 500ms\naccess_log: {file: access, format: json}";
        let (mut setup, visitors, busy) = twelve(Way::DialIn, lines);
        setup.proxy.signal(Signal::SIGTERM);
        assert_eq!(setup.proxy.wait().code(), Some(1), "the end of the grace");
        let log = setup.proxy.read("access");
        let draining = log.matches("\"ended\":\"draining\"").count();
        assert_eq!(draining, 12, "{log}");
        drop((visitors, busy));
    }

    #[test]
    fn reload_keeps_exchanges() {
        let (setup, mut visitors, mut busy) = twelve(Way::DialIn, "workers: 2");
        let mut queued: Vec<_> = (0..3)
            .map(|n| ask(setup.proxy.address(), &format!("/queued/{n}")))
            .collect();
        expect_free_worker(&setup.proxy);
        setup.proxy.reload(&format!("workers: 2\n{SITE}"));
        // The first connection also serves the queue.
        let (serving, rest) = busy.split_first_mut().unwrap();
        serving.0.send(&serving.1);
        for _ in 0..3 {
            let target = serving.0.request().target().to_owned();
            serving.0.reply(&target);
        }
        send_rest(rest);
        expect_all(&mut visitors);
        for (n, visitor) in queued.iter_mut().enumerate() {
            expect(visitor, &format!("/queued/{n}"));
        }
        // The address is gone, and its exchanges end in good order.
        for visitor in &mut visitors {
            visitor.send_get("/again");
        }
        for (backend, _) in &mut busy {
            assert_eq!(backend.request().target(), "/again", "the next request");
        }
        setup.proxy.reload("workers: 2\nmap: []");
        for (backend, _) in &mut busy {
            backend.reply("again");
        }
        for visitor in &mut visitors {
            expect(visitor, "again");
        }
        for (backend, _) in &mut busy {
            assert!(
                backend.is_closed(),
                "a connection to an address that is gone"
            );
        }
        drop((visitors, queued, busy));
        setup.finish();
    }

    #[test]
    fn drop_closes_all() {
        let server = embedded(&format!("workers: 2\n{SITE}"));
        let address = first(&server.visitors());
        let mut backends: Vec<_> = (0..6)
            .map(|_| Backend::dial(first(&server.backends())))
            .collect();
        wait_at_most(SOON, "all backends", || server.queues().0 == 6);
        let mut visitors = ask_all(address, 6);
        for (n, backend) in backends.iter_mut().enumerate() {
            backend.wait_at_most(SOON);
            backend.request();
            if n < 3 {
                backend.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf");
            }
        }
        visitors.extend([ask(address, "/queued/0"), ask(address, "/queued/1")]);
        wait_at_most(SOON, "two in the queue", || server.queues().1 == 2);
        let (dropped, wait) = mpsc::channel();
        thread::spawn(move || {
            drop(server);
            let _ = dropped.send(());
        });
        let end = wait.recv_timeout(SOON);
        assert!(end.is_ok(), "the server is dropped");
        let mut begun = 0;
        for (n, visitor) in visitors.iter_mut().enumerate() {
            let text = String::from_utf8(visitor.rest()).unwrap();
            match text.starts_with("HTTP/1.1 200") {
                true => {
                    begun += 1;
                    assert!(text.ends_with("\r\n\r\nhalf"), "visitor {n}: {text}");
                }
                false => assert!(
                    text.is_empty() || text.starts_with("HTTP/1.1 503"),
                    "visitor {n}: {text}"
                ),
            }
        }
        assert!(begun <= 3, "three responses had begun, not {begun}");
        for (n, backend) in backends.iter_mut().enumerate() {
            assert!(backend.is_closed(), "backend {n} is closed");
        }
    }
}

/// Requests that applications read slowly.
mod uploads {
    use super::*;
    use crate::common::{Way, bytes};

    /// More than the buffers between the proxy and an application that does not read.
    const SIZE: usize = 8 << 20;

    /// The body of one visitor.
    fn body(number: u8) -> Vec<u8> {
        let mut body = bytes(SIZE);
        body[0] = number;
        body[SIZE - 1] = number;
        body
    }

    fn stopped(way: Way, buffering: bool) {
        let keys = format!(", request_buffering: {buffering}");
        let mut setup = Setup::start_with(way, 10, &keys, "workers: 2");
        let address = setup.proxy.address();
        let visitors: Vec<_> = (0..10)
            .map(|n| {
                let upload = move || {
                    let mut visitor = visit(address);
                    visitor.send_post(&format!("/{n}"), body(n)).answer()
                };
                thread::spawn(upload)
            })
            .collect();
        let stuck = setup.asked(10);
        expect_others(&setup);
        let readers: Vec<_> = stuck
            .into_iter()
            .map(|mut backend| {
                thread::spawn(move || {
                    let seen = backend.request();
                    let number: u8 = seen.target()[1..].parse().unwrap();
                    let whole = seen.body == body(number);
                    backend.reply(format!("{number} {whole}"));
                    backend
                })
            })
            .collect();
        for (n, visitor) in visitors.into_iter().enumerate() {
            let answer = visitor.join().unwrap();
            let text = answer.text();
            assert_eq!(
                text,
                format!("{n} true"),
                "{way:?}, {buffering}: {answer:?}"
            );
        }
        let backends = readers.into_iter().map(|reader| reader.join().unwrap());
        drop(backends.collect::<Vec<_>>());
        setup.finish();
    }

    #[test]
    fn dial_in_buffered() {
        stopped(Way::DialIn, true);
    }

    #[test]
    fn dial_in_unbuffered() {
        stopped(Way::DialIn, false);
    }

    #[test]
    fn traditional_buffered() {
        stopped(Way::Traditional, true);
    }

    #[test]
    fn traditional_unbuffered() {
        stopped(Way::Traditional, false);
    }
}

/// Requests that wait for a free backend.
mod queue {
    use super::*;
    use crate::common::proxy::SITE;
    use crate::common::{Backend, Way, embedded, first, wait_at_most};

    #[test]
    fn limit_counts_waiting_only() {
        for way in [Way::DialIn, Way::Traditional] {
            let mut setup = Setup::start(way, 10, "workers: 2\nlimits: {waiting: 3}");
            let address = setup.proxy.address();
            let mut visitors = ask_all(address, 10);
            let mut busy = setup.requests(10);
            // Three may wait; two more get 503.
            let mut waiting: Vec<_> = (0..5).map(|_| ask(address, "/waits")).collect();
            wait_at_most(SOON, "two requests too many", || {
                waiting.retain_mut(|visitor| {
                    let refused = visitor.has_answer();
                    if refused {
                        let answer = visitor.answer();
                        assert_eq!(answer.status, 503, "{way:?}: {answer:?}");
                    }
                    !refused
                });
                waiting.len() == 3
            });
            // One leaves, and another may wait in its place.
            waiting.pop().unwrap().reset();
            setup.proxy.wait_for_log("reason=client_gone");
            waiting.push(ask(address, "/waits"));
            expect_free_worker(&setup.proxy);
            // The first connection also serves the queue.
            let (serving, others) = busy.split_first_mut().unwrap();
            serving.0.reply(serving.1.target());
            for _ in 0..3 {
                assert_eq!(serving.0.request().target(), "/waits", "{way:?}: the queue");
                serving.0.reply("/waits");
            }
            for visitor in &mut waiting {
                expect(visitor, "/waits");
            }
            for (backend, seen) in others {
                backend.reply(seen.target());
            }
            expect_all(&mut visitors);
            drop((visitors, waiting, busy));
            setup.finish();
        }
    }

    #[test]
    fn first_come_first_served() {
        let server = embedded(&format!("workers: 1\n{SITE}"));
        let address = first(&server.visitors());
        let mut visitors = Vec::new();
        for n in 0..12 {
            visitors.push(ask(address, &format!("/{n}")));
            wait_at_most(SOON, "one more in the queue", || server.queues().1 == n + 1);
        }
        let health = visit(address).get("/swiftiply_health");
        assert_eq!(health.status, 200, "a worker is free: {health:?}");
        // Two backends hold a request each before one of them answers.
        let mut backends = [(); 2].map(|()| {
            let backend = Backend::dial(first(&server.backends()));
            backend.wait_at_most(SOON);
            backend
        });
        let mut targets = backends
            .each_mut()
            .map(|backend| backend.request().target().to_owned());
        assert!(
            targets.contains(&"/0".to_owned()) && targets.contains(&"/1".to_owned()),
            "the first two requests: {targets:?}"
        );
        for n in 2..12 {
            backends[n % 2].reply(&targets[n % 2]);
            let next = backends[n % 2].request().target().to_owned();
            assert_eq!(next, format!("/{n}"), "the next in the queue");
            targets[n % 2] = next;
        }
        for (backend, target) in backends.iter_mut().zip(&targets) {
            backend.reply(target);
        }
        expect_all(&mut visitors);
        drop((visitors, backends));
        assert!(server.drain(SOON), "the server is drained");
    }
}
