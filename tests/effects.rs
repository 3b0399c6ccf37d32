//! The library changes nothing that a process has only once, and leaves no thread and no descriptor.
//!
//! The tests share one process, so this one starts itself again, as a process that runs [`in_a_process_of_its_own`] alone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, panic, thread};

use nix::sys::resource::{Resource, getrlimit};
use swiftiply::Server;
use swiftiply::access::Access;
use swiftiply::client::{Client, Reply};
use swiftiply::config::access::AccessConfig;
use swiftiply::config::{
    AccessLogConfig, Address, Config, GzipConfig, LogDestination, SiteConfig, StatusConfig,
};

use crate::common::{Visitor, first, wait_until};

/// The variable that tells the process what it is.
const INNER: &str = "SWIFTIPLY_TEST_EFFECTS";
const NAME: &str = "effects::in_a_process_of_its_own";

/// Panics that the program's own hook has seen.
static PANICS: AtomicUsize = AtomicUsize::new(0);
/// Messages that the program's own logger has got.
static MESSAGES: AtomicUsize = AtomicUsize::new(0);

struct CountingLogger;

impl log::Log for CountingLogger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, _: &log::Record<'_>) {
        MESSAGES.fetch_add(1, Ordering::Relaxed);
    }

    fn flush(&self) {}
}

/// What a process has once, by name.
fn state() -> BTreeMap<String, String> {
    let mut state = BTreeMap::new();
    let mut add = |name: &str, value: String| state.insert(name.to_owned(), value);
    // Of this thread: the main one blocks signals for a moment while it starts another.
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let wanted = [
        "Umask",
        "Uid",
        "Gid",
        "Groups",
        "SigBlk",
        "SigIgn",
        "SigCgt",
        "CapEff",
        "NoNewPrivs",
        "Seccomp",
    ];
    for (name, value) in status.lines().filter_map(|line| line.split_once(':')) {
        if wanted.contains(&name) {
            add(name, value.trim().to_owned());
        }
    }
    add("limits", fs::read_to_string("/proc/self/limits").unwrap());
    add(
        "directory",
        env::current_dir().unwrap().display().to_string(),
    );
    add("root", format!("{:?}", fs::metadata("/").unwrap().ino()));
    add("environment", format!("{:?}", env::vars_os()));
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, stat) = stat.rsplit_once(") ").unwrap();
    let stat: Vec<_> = stat.split(' ').collect();
    // Parent, process group, session, terminal; priority, nice; scheduling class (proc_pid_stat(5), from field 3 on).
    add("process", stat[1..5].join(" "));
    add("priority", [stat[15], stat[16], stat[38]].join(" "));
    let died = nix::sys::prctl::get_pdeathsig().unwrap();
    add("signal of the parent's death", format!("{died:?}"));
    let dumpable = nix::sys::prctl::get_dumpable().unwrap();
    add("dumpable", dumpable.to_string());
    add("log level", log::max_level().to_string());
    state
}

/// Descriptors with what they are, and the names of threads.
fn resources() -> (BTreeMap<String, PathBuf>, Vec<String>) {
    let entries = |path: &str| {
        let entries = fs::read_dir(path).unwrap();
        entries.map(|entry| entry.unwrap())
    };
    let descriptors = entries("/proc/self/fd").filter_map(|entry| {
        // The one that lists them is gone by now.
        let target = fs::read_link(entry.path()).ok()?;
        let name = entry.file_name().to_string_lossy().into_owned();
        (!target.ends_with("fd")).then_some((name, target))
    });
    let descriptors = descriptors.collect();
    let threads = entries("/proc/self/task")
        .filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok());
    let mut threads: Vec<_> = threads.map(|name| name.trim().to_owned()).collect();
    threads.sort();
    (descriptors, threads)
}

fn address(socket: &Path) -> Address {
    Address::Unix(socket.to_owned())
}

fn config(directory: &Path) -> Config {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut config = Config::default();
    config.listen = vec![any.into(), address(&directory.join("clients"))];
    config.status = Some(StatusConfig::new(address(&directory.join("status"))));
    config.state_directory = directory.join("state");
    // What only a program does.
    config.daemonize = true;
    config.pidfile = Some(directory.join("pid"));
    config.user = Some("nobody".into());
    config.descriptors = Some(getrlimit(Resource::RLIMIT_NOFILE).unwrap().0 - 1);
    let mut site = SiteConfig::dial_in("test", address(&directory.join("dial-in")));
    site.outgoing
        .extend(SiteConfig::dial_in("", any.into()).outgoing);
    site.docroot = Some(directory.to_owned());
    site.gzip = cfg!(feature = "gzip").then(GzipConfig::default);
    site.access_log = Some(AccessLogConfig::new(LogDestination::File(
        directory.join("access.log"),
    )));
    config.sites = vec![site];
    config
}

/// Uses most of what the library has.
fn use_all(directory: &Path) {
    let server = Server::start(config(directory)).unwrap();
    let dial_in: Address = server.backend_addresses()[1].to_string().parse().unwrap();
    let client = Client::new(address(&directory.join("dial-in")));
    let stopper = client.stopper();
    let application = thread::spawn(move || {
        client.serve(|request| match request.path() {
            "/panic" => panic!("on purpose"),
            _ => Reply::text(200, "from the client"),
        });
    });
    let mut visitor = Visitor::connect(first(&server.client_addresses()));
    assert_eq!(visitor.get("/").text(), "from the client");
    assert_eq!(visitor.get("/panic").status, 500);
    assert_eq!(visitor.get("/a.txt").text(), "from a file");
    stopper.finish();
    application.join().unwrap();

    // An ordinary server: that of a second server's files.
    let mut files = Config::default();
    files.listen = vec![address(&directory.join("files"))];
    files.sites = vec![SiteConfig::files("", directory)];
    let files = Server::start(files).unwrap();
    let to = address(&directory.join("files"));
    let access = Access::start(AccessConfig::new(vec![dial_in], to)).unwrap();
    wait_until("the access proxy", || access.connections().0 > 0);
    assert_eq!(visitor.get("/a.txt?").text(), "from a file");
    let mut next = config(directory);
    next.sites[0].incoming.push("other".into());
    next.workers = 1;
    server.reload(next).unwrap();
    assert_eq!(server.stats().panics(), 0);
    drop(access);
    drop(files);
    // In the middle of connections.
    drop(server);
    visitor.assert_closed();
}

#[test]
fn in_a_process_of_its_own() {
    if env::var_os(INNER).is_none() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.txt"), "from a file").unwrap();
    log::set_logger(&CountingLogger).unwrap();
    log::set_max_level(log::LevelFilter::Debug);
    panic::set_hook(Box::new(|info| {
        eprintln!("{info}");
        PANICS.fetch_add(1, Ordering::Relaxed);
    }));
    let before = state();
    let (descriptors, threads) = resources();
    use_all(directory.path());
    let (descriptors_after_one, mut with_log) = (descriptors, threads);
    // The thread that writes files of access logs belongs to all servers of a process, and stays.
    with_log.push("log".to_owned());
    with_log.sort();
    wait_until("the end of all threads and descriptors", || {
        resources() == (descriptors_after_one.clone(), with_log.clone())
    });
    use_all(directory.path());
    wait_until("the end of all threads and descriptors again", || {
        resources() == (descriptors_after_one.clone(), with_log.clone())
    });
    assert_eq!(state(), before);
    assert_eq!(PANICS.load(Ordering::Relaxed), 2);
    assert!(MESSAGES.load(Ordering::Relaxed) > 0);
    let left: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name != "a.txt" && name != "access.log")
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let _ = panic::take_hook();
    println!("{NAME} has looked at everything");
}

#[test]
fn none_on_the_process() {
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture", "--test-threads=1"])
        .env(INNER, "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let is_complete = text.contains("has looked at everything");
    assert!(output.status.success() && is_complete, "{text}{errors}");
}
