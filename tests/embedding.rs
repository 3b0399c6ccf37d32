//! The library, embedded in a program.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use swiftiply::Server;
use swiftiply::client::{Client, Reply};
use swiftiply::config::{Config, Overrides, SiteConfig};
use swiftiply::internals::backend::registration::ConnectedBackend;
use swiftiply::stats::Close;

use crate::common::{Backend, PATIENCE, Visitor, drain, embedded, first, wait_until};

fn config(map: &str) -> Config {
    let yaml = format!("cluster_address: 127.0.0.1\ncluster_port: 0\nworkers: 4\nmap: {map}");
    let (config, notes) =
        Config::from_yaml(&yaml, "test.yml".as_ref(), &Overrides::default()).unwrap();
    assert!(notes.is_empty(), "{notes:?}");
    config
}

#[test]
fn server_and_clients() {
    let map = "[{incoming: test, outgoing: '127.0.0.1:0', key: secret, timeout: 60}]";
    let server = Server::start(config(map)).unwrap();
    let visitors = first(&server.client_addresses());
    let dial_in = server.backend_addresses()[0].to_string();
    assert!(server.connected().is_empty(), "{:?}", server.connected());
    let client = Client::new(dial_in.parse().unwrap()).key("secret").unwrap();
    let client = client.id(*b"0123456789ab");
    let stopper = client.stopper();
    let thread = thread::spawn(move || {
        client.serve(|request| match request.path() {
            "/panic" => panic!("on purpose"),
            path => {
                let path = path.to_owned();
                let body = request.read_body().unwrap();
                let body = String::from_utf8_lossy(&body);
                Reply::text(201, &format!("{} {path} {body}", request.method()))
            }
        });
    });
    let mut visitor = Visitor::connect(visitors);
    let request = "POST /a HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc";
    let answer = visitor.ask(request);
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (201, "POST /a abc")
    );
    // The other side survives its closure.
    assert_eq!(visitor.get("/panic").status, 500);
    assert_eq!(visitor.get("/b").text(), "GET /b ");
    assert_eq!(
        visitor.ask("GET / HTTP/1.1\r\nHost: none\r\n\r\n").status,
        404
    );
    let stats = server.stats();
    assert_eq!(
        (stats.status(201), stats.status(404), stats.status(500)),
        (2, 1, 1)
    );
    assert_eq!((server.open_connections(), server.queues()), (1, (1, 0)));
    let connected = server.connected();
    assert_eq!(connected.len(), 1, "{connected:?}");
    let ConnectedBackend { id, responses, .. } = &connected[0];
    assert_eq!((id.to_string().as_str(), *responses), ("0123456789ab", 3));
    assert_eq!(connected[0].address, "127.0.0.1:0");
    // A change that fails changes nothing.
    let taken = config(&format!("[{{incoming: test, outgoing: '{visitors}'}}]"));
    let error = server.reload(taken).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("listen {visitors}: ")),
        "{error}"
    );
    assert_eq!(visitor.get("/c").text(), "GET /c ");
    server
        .reload(config(
            &map.replace("incoming: test", "incoming: [test, none]"),
        ))
        .unwrap();
    assert_eq!(
        visitor.ask("GET / HTTP/1.1\r\nHost: none\r\n\r\n").status,
        201
    );
    drop(visitor);
    wait_until("the count of the client's close", || {
        server.stats().clients_closed(Close::PeerClosed) == 1
    });
    stopper.stop();
    thread.join().unwrap();
    wait_until("the end of the backend", || server.queues() == (0, 0));
    assert!(server.connected().is_empty(), "{:?}", server.connected());
    drain(server);
    assert!(
        TcpStream::connect(visitors).is_err(),
        "the server still listens on {visitors}"
    );
}

/// A logger of the program that panics when something is logged about the site `panic`.
struct PanickingLogger;

impl log::Log for PanickingLogger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let text = record.args().to_string();
        assert!(!text.contains("site panic: "), "on purpose");
    }

    fn flush(&self) {}
}

#[test]
fn panic_costs_one_connection() {
    let map = "[{incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 60},\
                {incoming: panic, docroot: /}]";
    log::set_logger(&PanickingLogger).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    let server = Server::start(config(map)).unwrap();
    let address = first(&server.client_addresses());
    let mut panics = 0;
    let mut must_panic = || {
        let mut visitor = TcpStream::connect(address).unwrap();
        visitor.set_read_timeout(Some(PATIENCE)).unwrap();
        visitor
            .write_all(b"POST / HTTP/1.1\r\nHost: panic\r\nContent-Length: 99999999999\r\n\r\n")
            .unwrap();
        let end = visitor.read(&mut [0]).unwrap_err();
        assert_eq!(end.kind(), ErrorKind::ConnectionReset);
        panics += 1;
        wait_until("the count of a panic", || server.stats().panics() == panics);
    };
    let ask = |target: &str| Visitor::asking(address, target);
    // On an idle server, more often than there are workers.
    (0..6).for_each(|_| must_panic());
    let mut visitors = vec![ask("/one"), ask("/two")];
    wait_until("two requests in the queue", || server.queues().1 == 2);
    // And while other requests wait.
    (0..6).for_each(|_| must_panic());
    visitors.extend([ask("/three"), ask("/four")]);
    wait_until("four requests in the queue", || server.queues().1 == 4);
    let dial_in = first(&server.backend_addresses());
    let mut backends = [Backend::dial(dial_in), Backend::dial(dial_in)];
    for _ in 0..2 {
        // Each has a request before any of them answers: the panics have cost no slot.
        let targets = backends
            .each_mut()
            .map(|backend| backend.request().target().to_owned());
        for (backend, target) in backends.iter_mut().zip(targets) {
            backend.reply(&target);
        }
    }
    for (visitor, target) in visitors.iter_mut().zip(["/one", "/two", "/three", "/four"]) {
        assert_eq!(visitor.answer().text(), target);
    }
    assert_eq!(server.stats().clients_closed(Close::Internal), 12);
    drop((visitors, backends));
    drain(server);
}

#[test]
fn client_dials_again() {
    let map = "[{incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 60}]";
    let server = Server::start(config(map)).unwrap();
    let dial_in = server.backend_addresses()[0].to_string();
    let client = Client::new(dial_in.parse().unwrap());
    let stopper = client.stopper();
    let thread = thread::spawn(move || client.serve(|_| Reply::text(200, "ok")));
    let ask = |server: &Server| {
        let address = server.client_addresses()[0].to_string().parse().unwrap();
        Visitor::connect(address).get("/").text()
    };
    assert_eq!(ask(&server), "ok");
    drop(server);
    let server = Server::start(config(&map.replace("127.0.0.1:0", &dial_in))).unwrap();
    assert_eq!(ask(&server), "ok");
    stopper.stop();
    thread.join().unwrap();
    drain(server);
}

#[test]
fn drain_during_dial_in() {
    let map = "[{incoming: test, outgoing: '127.0.0.1:0'}]";
    let other = map.replace("127.0.0.1", "127.0.0.2");
    let server = Server::start(config(map)).unwrap();
    let come = || {
        let address = first(&server.backend_addresses());
        let mut half = Backend::connect(address);
        half.send("swiftclient");
        // One behind the other.
        let whole = Backend::dial(address);
        wait_until("an idle backend", || server.queues().0 == 1);
        (half, whole)
    };
    let (mut half, mut whole) = come();
    server.reload(config(&other)).unwrap();
    half.assert_closed();
    whole.assert_closed();
    assert_eq!(server.stats().backends_closed(Close::Removed), 2);
    let (mut half, mut whole) = come();
    drain(server);
    half.assert_closed();
    whole.assert_closed();
}

#[test]
fn connections_counted() {
    let server = embedded("limits: {connections: 1}\nmap: []");
    let address = first(&server.client_addresses());
    // It has sent half a request, so that it is not idle and makes no room.
    let mut half = Visitor::connect(address);
    half.send("GET / HTTP/1.1\r\n");
    let stats = server.stats();
    wait_until("a refused connection", || {
        Visitor::connect(address).assert_closed();
        stats.clients_closed(Close::Overload) > 2
    });
    let closed: u64 = Close::ALL
        .iter()
        .map(|reason| stats.clients_closed(*reason))
        .sum();
    assert_eq!(stats.accepted(), server.open_connections() + closed);
    drop(half);
    drain(server);
}

#[test]
fn configured_in_code() {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.txt"), "from a file").unwrap();
    let mut config = Config::default();
    config.listen = vec![any.into()];
    config.workers = 2;
    config.sites = vec![
        SiteConfig::dial_in("Test", any.into()),
        SiteConfig::files("", directory.path()),
    ];
    let server = Server::start(config).unwrap();
    let backend = Client::new(server.backend_addresses()[0].to_string().parse().unwrap());
    let stopper = backend.stopper();
    let thread = thread::spawn(move || backend.serve(|_| Reply::text(200, "dialled in")));
    let mut visitor = Visitor::connect(first(&server.client_addresses()));
    assert_eq!(visitor.get("/").text(), "dialled in");
    let file = visitor.ask("GET /a.txt HTTP/1.1\r\nHost: other\r\n\r\n");
    assert_eq!(file.text(), "from a file");
    stopper.stop();
    thread.join().unwrap();
    drain(server);
}

#[test]
fn values_set_in_code_are_checked() {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut good = Config::default();
    good.listen = vec![any.into()];
    let check = |change: &dyn Fn(&mut Config), expected: &str| {
        let mut config = good.clone();
        change(&mut config);
        let error = Server::start(config).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.starts_with("configuration: "), "{error}");
    };
    check(&|config| config.workers = 0, "workers 0: ");
    check(&|config| config.limits.head = 0, "limits.head 0: ");
    check(&|config| config.listen.clear(), "cluster_port");
    check(&|config| config.grace = Duration::MAX, "grace ");
    let two = |config: &mut Config| {
        config.sites = vec![SiteConfig::files("", "/"), SiteConfig::files("", "/tmp")];
    };
    check(&two, "default");
    let same = |config: &mut Config| {
        config.sites = vec![SiteConfig::files("a", "/"), SiteConfig::files("A", "/")];
    };
    check(&same, "also a name of map[1]");
    // A reload is checked in the same way, and changes nothing if it fails.
    let server = Server::start(good.clone()).unwrap();
    let error = server.reload(Config::default()).unwrap_err().to_string();
    assert!(error.contains("cluster_port"), "{error}");
    assert_eq!(
        Visitor::connect(first(&server.client_addresses()))
            .get("/")
            .status,
        404
    );
    drain(server);
}
