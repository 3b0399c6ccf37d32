//! Requests that wait for a free backend.

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
        wait_at_most(SOON, "two refused requests", || {
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
        // One leaves, and another one may wait instead.
        waiting.pop().unwrap().reset();
        setup.proxy.wait_for_log("reason=client_gone");
        waiting.push(ask(address, "/waits"));
        expect_free_worker(&setup.proxy);
        // The first connection also serves the requests in the queue.
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
    let address = first(&server.client_addresses());
    let mut visitors = Vec::new();
    for n in 0..12 {
        visitors.push(ask(address, &format!("/{n}")));
        wait_at_most(SOON, "one more request in the queue", || {
            server.queues().1 == n + 1
        });
    }
    let health = visit(address).get("/swiftiply_health");
    assert_eq!(health.status, 200, "a worker is free: {health:?}");
    // Two backends hold a request each before one of them answers.
    let mut backends = [(); 2].map(|()| {
        let backend = Backend::dial(first(&server.backend_addresses()));
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
