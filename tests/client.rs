//! The client of the dial-in protocol, as programs use it.

use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread::{self, JoinHandle};

use swiftiply::Server;
use swiftiply::client::{Client, IntoReply, Reply, Request, Stopper};

use crate::common::{Visitor, bytes, drain, embedded, first, wait_until};

/// A server with one application, which this program is too.
struct Application {
    server: Server,
    stopper: Stopper,
    thread: JoinHandle<()>,
}

impl Application {
    fn start<R: IntoReply>(
        prepare: impl FnOnce(Client) -> Client,
        handler: impl Fn(&mut Request<'_>) -> R + Send + Sync + 'static,
    ) -> Self {
        let server = embedded("map: [{incoming: test, outgoing: '127.0.0.1:0', retries: 0}]");
        let dial_in = server.backend_addresses()[0].to_string();
        let client = prepare(Client::new(dial_in.parse().unwrap()));
        let stopper = client.stopper();
        let thread = thread::spawn(move || client.serve(handler));
        Self {
            server,
            stopper,
            thread,
        }
    }

    fn visit(&self) -> Visitor {
        Visitor::connect(first(&self.server.client_addresses()))
    }

    fn stop(self) {
        self.stopper.stop();
        self.thread.join().unwrap();
        drain(self.server);
    }
}

#[test]
fn streamed_response() {
    let (send, receive) = mpsc::channel::<()>();
    let receive = std::sync::Mutex::new(Some(receive));
    let application = Application::start(
        |client| client,
        move |request| {
            let receive = receive.lock().unwrap().take();
            match request.path() {
                "/events" => Reply::stream(200, "text/event-stream", move |out| {
                    out.write_all(b"data: 1\n\n")?;
                    out.flush()?;
                    // The first event arrives before the second one is written.
                    receive.unwrap().recv().unwrap();
                    out.write_all(b"data: 2\n\n")
                }),
                "/large" => Reply::stream(200, "application/octet-stream", |out| {
                    bytes(300_000)
                        .chunks(1000)
                        .try_for_each(|piece| out.write_all(piece))
                }),
                "/fails" => Reply::stream(200, "text/plain", |out| {
                    out.write_all(b"half")?;
                    out.flush()?;
                    Err(io::Error::other("on purpose"))
                }),
                _ => Reply::stream(200, "text/plain", |_| panic!("on purpose")),
            }
        },
    );
    let mut visitor = application.visit();
    visitor.send_get("/events");
    let came = |visitor: &mut Visitor, end: &[u8]| {
        let mut count = 1;
        while !visitor.at_least(count).ends_with(end) {
            count = visitor.at_least(count).len() + 1;
        }
    };
    came(&mut visitor, b"data: 1\n\n\r\n");
    send.send(()).unwrap();
    let answer = visitor.answer();
    assert_eq!(answer.text(), "data: 1\n\ndata: 2\n\n");
    assert_eq!(answer.field("Content-Type"), Some("text/event-stream"));
    visitor.get("/large").assert_body(bytes(300_000));
    let head = visitor
        .send("HEAD /large HTTP/1.1\r\nHost: test\r\n\r\n")
        .answer_to("HEAD");
    assert_eq!(head.status, 200);
    let cut = visitor.get("/fails");
    cut.assert_cut();
    assert_eq!(cut.text(), "half");
    application.visit().get("/panics").assert_cut();
    application
        .visit()
        .get("/large")
        .assert_body(bytes(300_000));
    application.stop();
}

#[test]
fn request_bodies() {
    let application = Application::start(
        |client| client.body_limit(1000),
        |request: &mut Request<'_>| -> io::Result<Reply> {
            let body = match request.path() {
                "/all" => request.read_body()?,
                "/three" => {
                    let mut three = [0; 3];
                    request.body.read_exact(&mut three)?;
                    three.to_vec()
                }
                _ => Vec::new(),
            };
            Reply::new(200, "text/plain", body).map_err(io::Error::other)
        },
    );
    let mut visitor = application.visit();
    visitor
        .send_post("/all", bytes(1000))
        .answer()
        .assert_body(bytes(1000));
    // What is not read is skipped.
    assert_eq!(visitor.send_post("/three", "abcdef").answer().text(), "abc");
    assert_eq!(visitor.send_post("/none", "abcdef").answer().text(), "");
    assert_eq!(visitor.send_post("/all", bytes(1001)).answer().status, 413);
    assert_eq!(
        application.visit().send_post("/all", "ok").answer().text(),
        "ok"
    );
    application.stop();
}

#[test]
fn errors_are_500() {
    let application = Application::start(
        |client| client,
        |request: &mut Request<'_>| match request.path() {
            "/status" => Reply::text(100, "never"),
            "/field" => Reply::text(200, "x").and_then(|reply| reply.field("X", "a\r\nY: b")),
            _ => panic!("on purpose"),
        },
    );
    let mut visitor = application.visit();
    for path in ["/status", "/field", "/panic"] {
        assert_eq!(visitor.get(path).status, 500, "{path}");
    }
    application.stop();
}

#[test]
fn several_connections() {
    // Each request waits for the others, so that all are in progress at once.
    let barrier = Barrier::new(3);
    let application = Application::start(
        |client| client.connections(3),
        move |_: &mut Request<'_>| {
            barrier.wait();
            Reply::text(200, "ok")
        },
    );
    let mut visitors: Vec<_> = (0..3).map(|_| application.visit()).collect();
    for visitor in &mut visitors {
        visitor.send_get("/");
    }
    for visitor in &mut visitors {
        assert_eq!(visitor.answer().text(), "ok");
    }
    application.stop();
}

#[test]
fn graceful_end() {
    let (begun, wait) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let barriers = (Arc::clone(&begun), Arc::clone(&wait));
    let application = Application::start(
        |client| client.connections(2),
        move |_: &mut Request<'_>| {
            barriers.0.wait();
            barriers.1.wait();
            Reply::text(200, "finished")
        },
    );
    let mut visitor = application.visit();
    visitor.send_get("/");
    begun.wait();
    application.stopper.finish();
    // The idle connection is closed, the busy one is not.
    wait_until("the end of the idle connection", || {
        application.server.connected().len() == 1
    });
    wait.wait();
    assert_eq!(visitor.answer().text(), "finished");
    application.thread.join().unwrap();
    drain(application.server);
}

#[test]
fn errors_are_reported() {
    let server = embedded("map: [{incoming: test, outgoing: '127.0.0.1:0', key: right}]");
    let dial_in = server.backend_addresses()[0].to_string();
    let (send, receive) = mpsc::channel();
    let client = Client::new(dial_in.parse().unwrap()).key("wrong").unwrap();
    let client = client.on_error(move |error| {
        let _ = send.send(error.to_string());
    });
    let (stopper, calls) = (client.stopper(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&calls);
    let thread = thread::spawn(move || {
        client.serve(|_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Reply::text(200, "x")
        });
    });
    let error = receive.recv().unwrap();
    assert_eq!(
        error,
        "closed by the server: it refuses the connection: wrong key; is the key right?"
    );
    stopper.stop();
    thread.join().unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    drain(server);
}
