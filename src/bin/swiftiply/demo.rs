//! `--demo`: a server with two applications built in, which really dial in over TCP.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::program::control::{Control, Message};
use swiftiply::Server;
use swiftiply::client::{Client, Reply, Request};
use swiftiply::config::{Config, Overrides};
use swiftiply::http::head::Method;
use swiftiply::process;

/// Serves the demonstration until a signal ends it.
///
/// # Errors
/// What could not be had, in a sentence.
pub(crate) fn run(overrides: &Overrides) -> Result<(), String> {
    let visitors = overrides.cluster_port.unwrap_or(8080);
    let dial_in = overrides.backend_port.unwrap_or(30000);
    let config = configuration(visitors, dial_in, overrides)?;
    let control = Control::new(&[])?;
    // Best effort: a demonstration does with what there is.
    let _ = process::raise_descriptors(None);
    let server = Server::start(config).map_err(|error| {
        format!("{error}\nOther ports: swiftiply --demo --cluster-port 8081 --backend-port 30001")
    })?;
    let (front, dial) = (&server.visitors()[0], &server.backends()[0]);
    let address: swiftiply::config::Address = dial
        .to_string()
        .parse()
        .map_err(|_| "no address".to_owned())?;
    let mut stoppers = Vec::new();
    let mut threads = Vec::new();
    for (name, id) in [("one", b"demo00000one"), ("two", b"demo00000two")] {
        let client = Client::new(address.clone()).id(*id);
        stoppers.push(client.stopper());
        threads.push(thread::spawn(move || {
            let answered = AtomicU64::new(0);
            client.serve(|request| answer(request, name, &answered));
        }));
    }
    println!("ready: visitors {front}; backends {dial}");
    println!("Open http://{front}/ and reload it: two applications take turns to answer.");
    println!("Dial in one of your own:");
    let (host, port) = dial.to_string().rsplit_once(':').map_or_else(
        || (String::new(), String::new()),
        |(host, port)| (host.to_owned(), port.to_owned()),
    );
    println!("    thin start --swiftiply --address {host} --port {port} -R config.ru");
    println!("Stop with Ctrl-C.");
    while control.wait() != Message::Stop {}
    stoppers.iter().for_each(swiftiply::client::Stopper::stop);
    for thread in threads {
        let _ = thread.join();
    }
    server.drain(std::time::Duration::from_secs(1));
    Ok(())
}

fn configuration(visitors: u16, dial_in: u16, overrides: &Overrides) -> Result<Config, String> {
    let yaml = format!(
        "cluster_address: 127.0.0.1\n\
         cluster_port: {visitors}\n\
         workers: 16\n\
         map:\n\
         \x20 - {{incoming: localhost, default: true, outgoing: '127.0.0.1:{dial_in}', order: oldest}}\n"
    );
    let overrides = Overrides {
        cluster_address: overrides.cluster_address.clone(),
        ..Overrides::default()
    };
    match Config::from_yaml(&yaml, "the demonstration".as_ref(), &overrides) {
        Ok((config, _)) => Ok(config),
        Err(problems) => Err(problems.to_string()),
    }
}

fn answer(request: &Request, name: &str, answered: &AtomicU64) -> Reply {
    let count = answered.fetch_add(1, Ordering::Relaxed) + 1;
    match request.head.target.path() {
        "/" if matches!(request.head.method, Method::Get | Method::Head) => Reply::new(
            200,
            "text/html; charset=utf-8",
            page(request, name, count).into_bytes(),
        ),
        "/plain" => Reply::text(200, &format!("application {name}, answer {count}\n")),
        _ => Reply::text(
            404,
            "The demonstration has one page, /, and its text, /plain.\n",
        ),
    }
}

fn page(request: &Request, name: &str, count: u64) -> String {
    let mut fields = String::new();
    for (field, value) in request.head.headers.iter() {
        let value = escape(&String::from_utf8_lossy(value));
        fields.push_str(&format!(
            "<tr><th>{}</th><td>{value}</td></tr>\n",
            escape(field)
        ));
    }
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>swiftiply</title>\n\
         <style>body{{font:1.1em/1.5 sans-serif;max-width:46em;margin:3em auto;padding:0 1em}}\n\
         .{name}{{background:{};padding:.5em 1em;border-radius:.4em}}\n\
         th{{text-align:left;padding-right:1em;vertical-align:top}}td{{word-break:break-all}}</style></head>\n\
         <body><h1>swiftiply</h1>\n\
         <p class=\"{name}\">Application <b>{name}</b> answered; it is its answer number {count}.</p>\n\
         <p>Reload the page, and the other one answers. Both have dialled in over TCP; the server knows of them\n\
         because they are connected, not because a file says so.</p>\n\
         <p>What the application was told about this request:</p>\n<table>\n{fields}</table></body>\n</html>\n",
        if name == "one" { "#dcebff" } else { "#ffe9d6" }
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
