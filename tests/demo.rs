//! The demonstration: its page, what that shows, and the commands that it prints.

use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::process::{ChildStdout, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::proxy::program;
use crate::common::{Backend, Proxy, Running, Visitor, exchange, needs, wait_until};

struct Demo {
    running: Running,
    visitors: SocketAddr,
    dial_in: SocketAddr,
    /// The commands that it prints.
    commands: Vec<String>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Demo {
    fn start() -> Self {
        let child = program()
            .args(["--demo", "--cluster-port", "0", "--backend-port", "0"])
            .stdout(Stdio::piped())
            .spawn();
        let mut running = Running(child.unwrap());
        let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
        let ready = lines.next().unwrap().unwrap();
        let addresses = ready.strip_prefix("ready: visitors ").unwrap();
        let (visitors, dial_in) = addresses.split_once("; backends ").unwrap();
        let until_stop = lines.by_ref().map(Result::unwrap);
        let printed: Vec<_> = until_stop
            .take_while(|line| !line.starts_with("Stop "))
            .collect();
        let commands = printed.iter().filter_map(|line| line.strip_prefix("    "));
        Self {
            running,
            visitors: visitors.parse().unwrap(),
            dial_in: dial_in.parse().unwrap(),
            commands: commands.map(str::to_owned).collect(),
            lines,
        }
    }

    fn visit(&self) -> Visitor {
        Visitor::connect(self.visitors)
    }

    /// Ids and numbers of responses of the processes that the page shows, and how many requests wait.
    fn shown(&self) -> (Vec<(String, u64)>, u64) {
        let answer = self.visit().get("/demo/processes");
        let shown: Value = serde_json::from_str(&answer.text()).unwrap();
        let process = |process: &Value| {
            let id = process["id"].as_str().unwrap().to_owned();
            (id, process["responses"].as_u64().unwrap())
        };
        let processes = shown["processes"].as_array().unwrap();
        let processes = processes.iter().map(process).collect();
        (processes, shown["waiting"].as_u64().unwrap())
    }

    fn wait_for(&self, processes: usize) {
        wait_until(&format!("{processes} processes"), || {
            self.shown().0.len() == processes
        });
    }

    /// Processes that the demonstration has started.
    fn built_in(&self) -> Vec<Pid> {
        let kills = self
            .commands
            .iter()
            .filter_map(|line| line.strip_prefix("kill "));
        kills
            .map(|pid| Pid::from_raw(pid.parse().unwrap()))
            .collect()
    }

    fn stop(mut self) {
        self.running.signal(Signal::SIGINT);
        assert_eq!(self.running.wait().code(), Some(0));
    }
}

#[test]
fn page_shows_processes() {
    let demo = Demo::start();
    demo.wait_for(2);
    let mut visitor = demo.visit();
    for (target, media_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/demo/page.css", "text/css; charset=utf-8"),
        ("/demo/page.js", "text/javascript; charset=utf-8"),
        ("/demo/processes", "application/json"),
        ("/favicon.ico", "image/svg+xml"),
    ] {
        let answer = visitor.get(target);
        assert_eq!(answer.status, 200, "{target}");
        assert_eq!(answer.field("Content-Type"), Some(media_type), "{target}");
        let policy = answer.field("Content-Security-Policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    }
    assert_eq!(visitor.get("/demo/other").status, 404);
    assert_eq!(visitor.send_post("/", "").answer().status, 405);
    let (processes, waiting) = demo.shown();
    assert!(
        processes
            .iter()
            .all(|(id, count)| id.starts_with("demo") && *count == 0),
        "not only idle processes of the demonstration: {processes:?}"
    );
    assert_eq!(waiting, 0);
    let page = visitor.get("/").text();
    for command in &demo.commands {
        assert!(page.contains(command.as_str()), "{command}: {page}");
    }
    // Every placeholder is filled in, nothing comes from elsewhere, and nothing is against the policy.
    assert!(!page.contains('{') && !page.contains("style="), "{page}");
    let mut links = page.split(" href=\"").chain(page.split(" src=\""));
    let elsewhere = |link: &&str| !link.starts_with("/demo/") && !link.starts_with("<!DOCTYPE");
    assert_eq!(links.find(elsewhere), None);
    let mut texts: Vec<_> = (0..4).map(|_| visitor.get("/hello").text()).collect();
    texts.sort();
    assert_eq!((&texts[0], &texts[2]), (&texts[1], &texts[3]));
    assert!(texts[1] != texts[2], "{texts:?}");
    let counts: Vec<_> = demo.shown().0.into_iter().map(|(_, count)| count).collect();
    assert_eq!(counts, [2, 2]);
    demo.stop();
}

#[test]
fn ignored_signal() {
    let demo = Demo::start();
    demo.wait_for(2);
    // If this signal were not caught, it would end the program before the other one does.
    demo.running.signal(Signal::SIGUSR2);
    assert_eq!(demo.visit().get("/").status, 200);
    demo.stop();
}

#[test]
fn killed_process() {
    let mut demo = Demo::start();
    demo.wait_for(2);
    for pid in demo.built_in() {
        kill(pid, Signal::SIGTERM).unwrap();
    }
    for _ in 0..2 {
        let line = demo.lines.next().unwrap().unwrap();
        assert!(line.contains("has ended: signal: 15"), "{line}");
    }
    demo.wait_for(0);
    let mut visitor = Visitor::asking(demo.visitors, "/hello");
    wait_until("a request in the queue", || demo.shown().1 == 1);
    let mut backend = Backend::dial(demo.dial_in);
    assert_eq!(backend.request().target(), "/hello");
    backend.reply_to(&mut visitor, "/hello");
    wait_until("the count of a response", || {
        demo.shown().0.iter().map(|(_, count)| *count).eq([1])
    });
    drop(backend);
    demo.wait_for(0);
    demo.stop();
}

#[test]
fn printed_command() {
    needs!("thin", "python3", "node");
    let demo = Demo::start();
    demo.wait_for(2);
    let connect = demo
        .commands
        .iter()
        .filter(|line| !line.starts_with("kill "));
    let mut running = Vec::new();
    for command in connect {
        let child = Command::new("sh")
            .args(["-c", &format!("exec {command}")])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdout(Stdio::null())
            .spawn();
        running.push(Running(child.unwrap()));
        demo.wait_for(2 + running.len());
    }
    assert_eq!(running.len(), 3);
    let mut visitor = demo.visit();
    let texts: Vec<_> = (0..5).map(|_| visitor.get("/hello").text()).collect();
    for language in ["Ruby", "Python", "Node"] {
        let hello = format!("hello from {language}, ");
        assert!(
            texts.iter().any(|text| text.starts_with(&hello)),
            "{texts:?}"
        );
    }
    // They accept requests with a body, too, and keep their connections.
    for _ in 0..10 {
        assert_eq!(visitor.send_post("/hello", "body").answer().status, 200);
    }
    assert!(
        demo.shown().0.iter().all(|(_, count)| *count == 3),
        "not 3 requests for each process: {:?}",
        demo.shown()
    );
    for mut process in running {
        process.signal(Signal::SIGTERM);
        process.wait();
    }
    demo.wait_for(2);
    demo.stop();
}

#[test]
fn its_processes_end_with_it() {
    let mut demo = Demo::start();
    demo.wait_for(2);
    let built_in = demo.built_in();
    demo.running.signal(Signal::SIGKILL);
    demo.running.wait();
    // A zombie has no command line any more.
    let runs = |pid: &Pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline"));
        line.is_ok_and(|line| !line.is_empty())
    };
    wait_until("the end of the demonstration's processes", || {
        !built_in.iter().any(runs)
    });
}

#[test]
fn no_page_elsewhere() {
    let (proxy, mut backend, mut visitor) = Proxy::scene();
    for target in ["/", "/demo/processes", "/demo/page.js", "/favicon.ico"] {
        exchange(&mut visitor, &mut backend, target);
    }
    drop((backend, visitor));
    proxy.finish();
}
