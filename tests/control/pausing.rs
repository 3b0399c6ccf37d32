//! Paused sites: requests wait for the end of the pause, and none is lost.

use std::thread;
use std::time::{Duration, Instant};

use swiftiply::Server;
use swiftiply::server::OperationError;

use crate::common::{
    Backend, Echo, Load, PATIENCE, Visitor, assert_contains, drain, embedded, first, wait_until,
};

const MAP: &str = "map: [{incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 60}]";

/// A server with this map and a backend.
fn scene(map: &str) -> (Server, Backend) {
    let server = embedded(map);
    let backend = Backend::dial(first(&server.backend_addresses()));
    wait_until("the backend", || server.queues().0 == 1);
    (server, backend)
}

fn ask(server: &Server, target: &str) -> Visitor {
    Visitor::asking(first(&server.client_addresses()), target)
}

/// Answers this many requests with their targets, in whatever order they come: those that wait for the end of a pause
/// are woken at once.
fn answer_all(backend: &mut Backend, count: usize) {
    for _ in 0..count {
        let seen = backend.request();
        backend.reply(seen.target());
    }
}

fn wait_for_waiting(server: &Server, count: usize) {
    wait_until("waiting requests", || server.queues().1 == count);
}

#[test]
fn nothing_is_lost_under_load() {
    let server = embedded(MAP);
    let dial_in = first(&server.backend_addresses());
    let echoes = ["000000000001", "000000000002"].map(|id| Echo::dial(dial_in, id, ""));
    let answered = || -> usize { echoes.iter().map(Echo::answered).sum() };
    let clients = [(); 4].map(|()| Load::start(first(&server.client_addresses()), false));
    for _ in 0..5 {
        clients.iter().for_each(|load| load.wait_for(50));
        server.pause("test", PATIENCE).unwrap();
        // Each client has one request at a time.
        wait_for_waiting(&server, 32);
        let before = answered();
        thread::sleep(Duration::from_millis(50));
        assert_eq!(answered(), before, "the backends have a pause");
        assert_eq!(server.resume("test"), Ok(32));
    }
    clients.iter().for_each(|load| load.wait_for(50));
    clients.into_iter().for_each(Load::end);
    assert_eq!(server.stats().status(503), 0);
    drop(echoes);
    drain(server);
}

#[test]
fn requests_that_wait_for_a_backend_wait_for_the_end() {
    let (server, mut backend) = scene(MAP);
    let mut running = ask(&server, "/running");
    assert_eq!(backend.request().target(), "/running");
    let mut queued = ask(&server, "/queued");
    wait_for_waiting(&server, 1);
    server.pause("test", PATIENCE).unwrap();
    let mut paused = ask(&server, "/paused");
    wait_for_waiting(&server, 2);
    // What is running goes on; its backend gets neither of the others.
    backend.reply_to(&mut running, "done");
    wait_until("the backend", || server.queues().0 == 1);
    assert!(backend.is_open(), "it has no request");
    // A second pause changes the bound only.
    server.pause("TEST", Duration::from_millis(1)).unwrap();
    // The first one may still be on its way from the queue to the pause.
    let resumed = server.resume("test").unwrap();
    assert!((1..=2).contains(&resumed), "{resumed} requests waited");
    answer_all(&mut backend, 2);
    for (client, target) in [(&mut queued, "/queued"), (&mut paused, "/paused")] {
        assert_eq!(client.answer().text(), target);
    }
    let error = server.resume("test").unwrap_err();
    assert_eq!(error, OperationError::NotPaused("test".into()));
    drop((running, queued, paused, backend));
    drain(server);
}

#[test]
fn a_pause_does_not_count_towards_the_timeout() {
    let map = MAP.replace("timeout: 60", "timeout: 1");
    let (server, mut backend) = scene(&map);
    server.pause("test", PATIENCE).unwrap();
    let mut client = ask(&server, "/late");
    wait_for_waiting(&server, 1);
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(server.resume("test"), Ok(1));
    assert_eq!(backend.request().target(), "/late");
    backend.reply_to(&mut client, "ok");
    // From now on it counts.
    let mut running = ask(&server, "/running");
    backend.request();
    let answer = ask(&server, "/").answer();
    assert_eq!(answer.status, 503);
    backend.reply_to(&mut running, "ok");
    drop((client, running, backend));
    drain(server);
}

#[test]
fn requests_do_not_wait_longer_than_the_bound() {
    let map = "
map:
  - {incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 60, backup: other}
  - {incoming: other, outgoing: '127.0.0.2:0'}
";
    let (server, backend) = scene(map);
    let other = Backend::dial(first(&server.backend_addresses()[1..]));
    let bound = Duration::from_millis(200);
    server.pause("test", bound).unwrap();
    let since = Instant::now();
    let answer = ask(&server, "/").answer();
    assert!(since.elapsed() >= bound, "{:?}", since.elapsed());
    assert_eq!(answer.status, 503);
    assert!(answer.field("Retry-After").is_some(), "{}", answer.head);
    assert_contains(&answer.text(), "The site is paused.");
    assert!(other.is_open(), "a pause is also for the backup");
    // It is still paused.
    assert_eq!(ask(&server, "/").answer().status, 503);
    assert_eq!(server.resume("test"), Ok(0));
    drop((backend, other));
    drain(server);
}

#[test]
fn as_many_wait_as_may() {
    let map = MAP.replace("timeout: 60", "timeout: 60, limits: {waiting: 2}");
    let (server, mut backend) = scene(&map);
    server.pause("test", PATIENCE).unwrap();
    let mut waiting = ["/0", "/1"].map(|target| ask(&server, target));
    wait_for_waiting(&server, 2);
    assert_eq!(ask(&server, "/2").answer().status, 503);
    server.resume("test").unwrap();
    answer_all(&mut backend, 2);
    for client in &mut waiting {
        assert_eq!(client.answer().status, 200);
    }
    drop((waiting, backend));
    drain(server);
}

#[test]
fn clients_may_leave() {
    let (server, backend) = scene(MAP);
    server.pause("test", PATIENCE).unwrap();
    let clients = [(); 3].map(|()| ask(&server, "/"));
    wait_for_waiting(&server, 3);
    clients.into_iter().for_each(Visitor::reset);
    wait_for_waiting(&server, 0);
    assert_eq!(server.resume("test"), Ok(0));
    drop(backend);
    drain(server);
}

#[test]
fn survives_a_reload_and_ends_with_the_site() {
    let (server, mut backend) = scene(MAP);
    let load = |map: &str| {
        let yaml = format!("cluster_address: 127.0.0.1\ncluster_port: 0\n{map}");
        let overrides = swiftiply::config::Overrides::default();
        let read = swiftiply::config::Config::from_yaml(&yaml, "test.yml".as_ref(), &overrides);
        server.reload(read.unwrap().0).unwrap();
    };
    server.pause("test", PATIENCE).unwrap();
    let mut before = ask(&server, "/before");
    wait_for_waiting(&server, 1);
    load(&MAP.replace("timeout: 60", "timeout: 59"));
    let mut after = ask(&server, "/after");
    wait_for_waiting(&server, 2);
    let health = Visitor::connect(first(&server.client_addresses())).get("/swiftiply_health");
    assert_contains(&health.text(), "\npaused: 1\n");
    // Without the site nothing could resume it.
    load(&MAP.replace("incoming: test", "incoming: other"));
    answer_all(&mut backend, 2);
    for (client, target) in [(&mut before, "/before"), (&mut after, "/after")] {
        assert_eq!(client.answer().text(), target);
    }
    let error = server.pause("test", PATIENCE).unwrap_err().to_string();
    assert_eq!(error, "no site is called \"test\"; there are other");
    drop((before, after, backend));
    drain(server);
}

#[test]
fn a_server_that_stops_does_not_wait() {
    let (server, backend) = scene(MAP);
    server.pause("test", PATIENCE).unwrap();
    let mut client = ask(&server, "/");
    wait_for_waiting(&server, 1);
    server.begin_drain();
    let answer = client.answer();
    assert_eq!(answer.status, 503);
    assert!(answer.field("Retry-After").is_some(), "{}", answer.head);
    drop((client, backend));
    drain(server);
}
