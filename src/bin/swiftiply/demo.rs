//! `--demo`: a server, two application processes, and a page that shows which processes are connected.
//!
//! The two processes are this program again, started with `--demo` and [`APPLICATION`] in the environment, so that they
//! can be killed like any other process. The page is an application as well. It has a dial-in address of its own, so
//! that requests for the page do not occupy the two processes. The page shows [`Server::connected`], which other servers
//! do not publish.
//!
//! | thread | does |
//! |---|---|
//! | main | starts everything; waits for the signal to stop |
//! | `page`, several | respond to requests for the page |
//! | one for each process | waits for its end |

use std::ffi::c_int;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use super::program::control::{ControlMessages, Message};
use serde_json::json;
use swiftiply::Server;
use swiftiply::client::{Client, InvalidReply, Reply, Request};
use swiftiply::config::{Address, Config, Overrides};
use swiftiply::internals::process;

/// Runs the demonstration until a signal ends it; or is one of its processes. `ignored`: signals without a meaning.
///
/// # Errors
/// What could not be started, as a sentence.
pub(crate) fn run(
    overrides: &Overrides,
    ignored: &'static [(c_int, &'static str)],
) -> Result<(), String> {
    if let Ok(address) = std::env::var(APPLICATION) {
        return be_application(&address);
    }
    let socket = std::env::temp_dir().join(format!("swiftiply-demo-{}.sock", std::process::id()));
    let config = configuration(&socket, overrides)?;
    let control = ControlMessages::new(ignored)?;
    // Best effort: the demonstration needs few descriptors.
    let _ = process::raise_descriptors(None);
    let server = Server::start(config).map_err(|error| {
        format!("{error}\nOther ports: swiftiply --demo --cluster-port 8081 --backend-port 30001")
    })?;
    let server = Arc::new(server);
    let address = server.client_addresses()[0].to_string();
    // The first address is that of the page.
    let dial_in = server.backend_addresses()[1].to_string();
    let processes = DemoProcesses::start(&dial_in)?;
    let commands = commands(&dial_in);
    let page = DemoPage {
        html: PAGE
            .replace("{address}", &escape(&address))
            .replace("{commands}", &escape(&commands.join("\n")))
            .replace("{kill}", &escape(&processes.kill().join("\n"))),
        server: Arc::downgrade(&server),
        socket: format!("unix:{}", socket.display()),
    };
    let client = Client::new(Address::Unix(socket)).id(*b"demo----page");
    let client = client.connections(PAGE_CONNECTIONS);
    let stopper = client.stopper();
    let serve = move || client.serve(|request| page.respond(request));
    let page_thread = process::thread("page", serve).map_err(|error| error.to_string())?;
    let text = format!(
        "ready: visitors {address}; backends {dial_in}\n\
         Open http://{address}/ to see which processes are connected. Two are built in.\n\
         To connect another one, in another terminal, in the directory of swiftiply's source:\n\
         \x20   {}\n\
         To stop one, press Ctrl-C in its terminal; to stop the built-in ones:\n\
         \x20   {}\n\
         Stop the demonstration with Ctrl-C.\n",
        commands.join("\n    "),
        processes.kill().join("\n    "),
    );
    // The demonstration continues if its output is not read.
    let _ = io::stdout().write_all(text.as_bytes());
    while control.wait() != Message::Stop {}
    stopper.stop();
    let _ = page_thread.join();
    processes.stop();
    // The page holds a weak reference, so this is the last strong one.
    if let Some(server) = Arc::into_inner(server) {
        server.drain(Duration::from_secs(1));
    }
    Ok(())
}

/// A site whose page dials in at the socket, and whose processes dial in over TCP.
fn configuration(socket: &Path, overrides: &Overrides) -> Result<Config, String> {
    let clients = overrides.cluster_port.unwrap_or(8080);
    let dial_in = overrides.backend_port.unwrap_or(30000);
    let socket = json!(format!("unix:{}", socket.display()));
    let yaml = format!(
        r"
cluster_address: 127.0.0.1
cluster_port: {clients}
map:
  - incoming: localhost
    default: true
    order: oldest
    outgoing:
      - {{to: {socket}, mode: '0600', match: '^/$|^/demo/|^/favicon\.ico$'}}
      - '127.0.0.1:{dial_in}'
"
    );
    let mut own = Overrides::default();
    own.cluster_address.clone_from(&overrides.cluster_address);
    match Config::from_yaml(&yaml, "the demonstration".as_ref(), &own) {
        Ok((config, _)) => Ok(config),
        Err(problems) => Err(problems.to_string()),
    }
}

/// The commands that connect more processes.
fn commands(dial_in: &str) -> Vec<String> {
    let (host, port) = dial_in.rsplit_once(':').unwrap_or((dial_in, ""));
    vec![
        format!("thin start --swiftiply --address {host} --port {port} -R conf/demo/config.ru"),
        format!("python3 conf/demo/app.py {dial_in}"),
        format!("node conf/demo/app.js {dial_in}"),
    ]
}

/// The two built-in processes.
struct DemoProcesses {
    ids: Vec<u32>,
    /// A process ends when its standard input is closed, also if this program is killed.
    inputs: Vec<ChildStdin>,
    threads: Vec<JoinHandle<()>>,
    stopping: Arc<AtomicBool>,
}

impl DemoProcesses {
    fn start(dial_in: &str) -> Result<Self, String> {
        let mut processes = Self {
            ids: Vec::new(),
            inputs: Vec::new(),
            threads: Vec::new(),
            stopping: Arc::default(),
        };
        for _ in 0..2 {
            let error = |error: io::Error| format!("a process of the demonstration: {error}");
            let program = std::env::current_exe().map_err(error)?;
            let mut command = Command::new(program);
            command.arg("--demo").env(APPLICATION, dial_in);
            command.stdin(Stdio::piped()).stdout(Stdio::null());
            let mut child = command.spawn().map_err(error)?;
            processes.ids.push(child.id());
            processes.inputs.extend(child.stdin.take());
            let stopping = Arc::clone(&processes.stopping);
            let wait = move || {
                let id = child.id();
                if let Ok(status) = child.wait()
                    && !stopping.load(Ordering::Relaxed)
                {
                    let _ = writeln!(io::stdout(), "process {id} has ended: {status}");
                }
            };
            let thread = process::thread("process", wait).map_err(|error| error.to_string())?;
            processes.threads.push(thread);
        }
        Ok(processes)
    }

    /// The commands that end them.
    fn kill(&self) -> Vec<String> {
        self.ids.iter().map(|id| format!("kill {id}")).collect()
    }

    fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        drop(self.inputs);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

/// Runs as one of the processes until standard input ends.
fn be_application(address: &str) -> Result<(), String> {
    let address: Address = address
        .parse()
        .map_err(|_| format!("{APPLICATION}: {address}"))?;
    let id = format!("demo{:08}", std::process::id());
    let id: [u8; 12] = id
        .into_bytes()
        .try_into()
        .map_err(|_| "the process id is too long")?;
    let client = Client::new(address).id(id);
    let stopper = client.stopper();
    let watch = move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        stopper.stop();
    };
    process::thread("input", watch).map_err(|error| error.to_string())?;
    let text = format!(
        "hello from the demonstration, process {}\n",
        std::process::id()
    );
    client.serve(|_| Reply::text(200, &text));
    Ok(())
}

/// The application that serves the page.
struct DemoPage {
    html: String,
    /// Weak, since the page ends before the server does.
    server: Weak<Server>,
    /// Where the page itself dials in.
    socket: String,
}

impl DemoPage {
    fn respond(&self, request: &Request<'_>) -> Result<Reply, InvalidReply> {
        if !matches!(request.method(), "GET" | "HEAD") {
            let reply = Reply::text(405, "The demonstration's page can be read only.\n")?;
            return reply.field("Allow", "GET, HEAD");
        }
        let (media_type, body) = match request.path() {
            "/" => ("text/html; charset=utf-8", self.html.clone()),
            "/demo/page.css" => ("text/css; charset=utf-8", STYLE.to_owned()),
            "/demo/page.js" => ("text/javascript; charset=utf-8", SCRIPT.to_owned()),
            "/demo/processes" => ("application/json", self.processes()),
            "/favicon.ico" => ("image/svg+xml", ICON.to_owned()),
            _ => return Reply::text(404, "The demonstration has no such page.\n"),
        };
        Reply::new(200, media_type, body.into_bytes())?
            .field("Cache-Control", "no-store")?
            .field("Content-Security-Policy", POLICY)?
            .field("X-Content-Type-Options", "nosniff")
    }

    /// The connected processes, and how many requests wait for one.
    fn processes(&self) -> String {
        let Some(server) = self.server.upgrade() else {
            return "{}".to_owned();
        };
        let connected = server.connected().into_iter();
        let processes = connected.filter(|process| process.address != self.socket);
        let processes = processes.map(|process| {
            json!({
                "number": process.number,
                "id": process.id.to_string(),
                "from": process.peer.to_string(),
                "responses": process.responses,
            })
        });
        let processes: Vec<_> = processes.collect();
        json!({"processes": processes, "waiting": server.queues().1}).to_string()
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// A browser requests the page, its style, its script, the list and the icon almost at once. None of these requests
/// should wait, since the page shows how many requests wait.
const PAGE_CONNECTIONS: usize = 6;
/// The variable that makes the program one of the processes: the address at which to dial in.
const APPLICATION: &str = "SWIFTIPLY_DEMO_APPLICATION";

const PAGE: &str = include_str!("demo/page.html");
const STYLE: &str = include_str!("demo/page.css");
const SCRIPT: &str = include_str!("demo/page.js");
const ICON: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 1 1\"><rect width=\"1\" height=\"1\" fill=\"#246\"/></svg>";
/// Only content from this server, and no inline scripts or styles.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
