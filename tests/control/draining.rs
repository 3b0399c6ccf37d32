//! Drained backends: they finish their requests and get no more until further notice. And maintenance.

use swiftiply::config::{Config, Overrides};
use swiftiply::server::{DrainedBackends, OperationError};
use swiftiply::stats::Close;

use crate::common::{
    Backend, EchoServer, PATIENCE, Visitor, assert_contains, drain, embedded, first, wait_until,
};

const MAP: &str = "map: [{incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 60}]";

fn load(server: &swiftiply::Server, map: &str) {
    let yaml = format!("cluster_address: 127.0.0.1\ncluster_port: 0\n{map}");
    let read = Config::from_yaml(&yaml, "test.yml".as_ref(), &Overrides::default());
    server.reload(read.unwrap().0).unwrap();
}

#[test]
fn backend_finishes_its_request_and_gets_no_more() {
    let server = embedded(MAP);
    let dial_in = first(&server.backend_addresses());
    let ask = |target: &str| Visitor::asking(first(&server.client_addresses()), target);
    let mut one = Backend::dial_as(dial_in, "web000000001", "");
    let mut client = ask("/one");
    one.request();
    assert_eq!(
        server.drain_backends("web000000001"),
        Ok(DrainedBackends::Connected(1))
    );
    one.reply_to(&mut client, "done");
    let mut waiting = ask("/two");
    wait_until("a waiting request", || server.queues().1 == 1);
    // One with the same id is the same backend; it keeps its connection and needs not dial in again and again.
    let again = Backend::dial_as(dial_in, "web000000001", "");
    load(&server, &MAP.replace("timeout: 60", "timeout: 59"));
    wait_until("two idle backends", || server.queues() == (2, 1));
    assert!(one.is_open() && again.is_open(), "neither has a request");
    drop(one);
    wait_until("the hang-up", || server.queues().0 == 1);
    let mut other = Backend::dial_as(dial_in, "web000000002", "");
    assert_eq!(other.request().target(), "/two");
    other.reply_to(&mut waiting, "ok");
    drop(other);
    wait_until("the other one's end", || server.queues().0 == 1);
    // It is known although it was not connected.
    let mut waiting = ask("/three");
    wait_until("a waiting request", || server.queues().1 == 1);
    let names: Vec<_> = server.drained().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["web000000001"]);
    server.undrain("web000000001").unwrap();
    let mut again = again;
    assert_eq!(again.request().target(), "/three");
    again.reply_to(&mut waiting, "ok");
    let error = server.undrain("web000000001").unwrap_err().to_string();
    assert_eq!(error, "web000000001 is not drained");
    let error = server.drain_backends("web00000000").unwrap_err();
    assert_eq!(error, OperationError::NoBackend("web00000000".into()));
    drop((client, waiting, again));
    drain(server);
}

#[test]
fn all_backends_of_a_machine() {
    let server = embedded(MAP);
    let dial_in = first(&server.backend_addresses());
    let mut backends = ["a00000000000", "b00000000000"].map(|id| Backend::dial_as(dial_in, id, ""));
    wait_until("the backends", || server.queues().0 == 2);
    assert!(
        server.drain_backends("127.0.0.2").is_err(),
        "none is connected"
    );
    assert_eq!(
        server.drain_backends("127.0.0.1"),
        Ok(DrainedBackends::Connected(2))
    );
    let mut client = Visitor::asking(first(&server.client_addresses()), "/");
    wait_until("a waiting request", || server.queues().1 == 1);
    server.undrain("[::ffff:127.0.0.1]").unwrap();
    // The one that became idle first is offered first.
    backends[0].request();
    backends[0].reply_to(&mut client, "ok");
    assert_eq!(server.stats().backends_closed(Close::Draining), 0);
    drop((client, backends));
    drain(server);
}

#[test]
fn a_server_gets_no_requests() {
    let servers = [EchoServer::start(), EchoServer::start()];
    let names = servers
        .each_ref()
        .map(|server| server.address().to_string());
    let map = format!(
        "map: [{{incoming: test, default: true, proxy: traditional, servers: ['{}', '{}'], timeout: 60}}]",
        names[0], names[1]
    );
    let server = embedded(&map);
    let mut client = Visitor::connect(first(&server.client_addresses()));
    for n in 0..4 {
        let target = format!("/{n}");
        assert_eq!(client.get(&target).text(), target);
    }
    let answered = || servers.each_ref().map(EchoServer::answered);
    assert_eq!(answered(), [2, 2]);
    assert_eq!(
        server.drain_backends(&names[0]),
        Ok(DrainedBackends::Server)
    );
    assert_eq!(server.stats().backends_closed(Close::Draining), 1);
    load(&server, &map.replace("timeout: 60", "timeout: 59"));
    for _ in 0..4 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(answered(), [2, 6]);
    // One that is new in the file is drained as well.
    load(&server, &map.replace(&format!("'{}', ", names[0]), ""));
    load(&server, &map);
    assert_eq!(client.get("/").status, 200);
    assert_eq!(answered(), [2, 7]);
    // A request that waits goes to it as soon as it gets requests again.
    servers[1].hold(true);
    server.drain_backends(&names[1]).unwrap();
    let mut waiting = Visitor::asking(first(&server.client_addresses()), "/");
    wait_until("a waiting request", || server.queues().1 == 1);
    server.undrain(&names[0]).unwrap();
    assert_eq!(waiting.answer().status, 200);
    assert_eq!(answered(), [3, 7]);
    drop((client, waiting));
    drain(server);
}

#[test]
fn a_drained_site_leaves_its_requests_to_the_backup() {
    let map = "
map:
  - {incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 60, backup: other}
  - {incoming: other, outgoing: '127.0.0.2:0', timeout: 60}
";
    let server = embedded(map);
    let address = first(&server.client_addresses());
    let mut own = Backend::dial(first(&server.backend_addresses()));
    let mut running = Visitor::asking(address, "/running");
    own.request();
    let mut queued = Visitor::asking(address, "/queued");
    wait_until("a waiting request", || server.queues().1 == 1);
    assert_eq!(
        server.drain_backends("test"),
        Ok(DrainedBackends::Site("test".into()))
    );
    let mut other = Backend::dial(first(&server.backend_addresses()[1..]));
    assert_eq!(other.request().target(), "/queued");
    other.reply_to(&mut queued, "from the other one");
    own.reply_to(&mut running, "done");
    server.drain_backends("other").unwrap();
    let answer = queued.get("/");
    assert_eq!(answer.status, 503);
    assert!(answer.field("Retry-After").is_some(), "{}", answer.head);
    let health = Visitor::connect(address).get("/swiftiply_health").text();
    assert_contains(&health, "\ndrained: 2\n");
    server.undrain("test").unwrap();
    server.undrain("other").unwrap();
    queued.send_get("/again");
    assert_eq!(own.request().target(), "/again");
    own.reply_to(&mut queued, "ok");
    assert!(server.undrain("test").is_err(), "it is not drained");
    drop((running, queued, own, other));
    drain(server);
}

#[test]
fn maintenance_answers_everything() {
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("page.txt");
    std::fs::write(&page, "back at six").unwrap();
    let keys = format!("maintenance_page: {}", page.display());
    let server = embedded(&MAP.replace("timeout: 60", &format!("timeout: 60, {keys}")));
    let address = first(&server.client_addresses());
    let mut backend = Backend::dial(first(&server.backend_addresses()));
    let mut running = Visitor::asking(address, "/running");
    backend.request();
    assert_eq!(server.set_maintenance("test", true), Ok(true));
    assert_eq!(server.set_maintenance("test", true), Ok(false));
    let mut client = Visitor::connect(address);
    let answer = client.get("/");
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (503, "back at six")
    );
    assert_eq!(answer.field("Retry-After"), Some("60"));
    let health = client.get("/swiftiply_health");
    assert_eq!(health.status, 200);
    assert_contains(&health.text(), "\nmaintenance: 1\n");
    backend.reply_to(&mut running, "done");
    assert_eq!(server.set_maintenance("test", false), Ok(true));
    client.send_get("/");
    backend.request();
    backend.reply_to(&mut client, "ok");
    assert!(server.set_maintenance("nobody", true).is_err());
    assert!(server.pause("nobody", PATIENCE).is_err());
    assert!(server.resume("nobody").is_err());
    drop((running, client, backend));
    drain(server);
}
