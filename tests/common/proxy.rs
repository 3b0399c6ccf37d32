//! The program under test.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::program::tell_end;
use super::{Backend, Ended, Running, Visitor, ended, secure, wait_until};

/// Defaults for each test: one address, a full log, and deadlines that a busy machine does not reach.
const COMMON: &str = "
cluster_address: 127.0.0.1
cluster_port: 0
workers: 16
logger: {type: stderr, level: full}
";

/// One site, which takes everything.
pub(crate) const SITE: &str =
    "map: [{incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 60}]";

/// That site with more of its keys.
pub(crate) fn site(keys: &str) -> String {
    SITE.replace("timeout: 60", &format!("timeout: 60, {keys}"))
}

/// A running swiftiply.
pub(crate) struct Proxy {
    running: Running,
    directory: TempDir,
    visitors: Vec<SocketAddr>,
    backends: Vec<SocketAddr>,
    status: Vec<SocketAddr>,
    /// Open files at the start.
    descriptors: usize,
}

/// The program's file.
pub(crate) fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_swiftiply"))
}

/// Runs it to its end.
pub(crate) fn run(arguments: &[&str]) -> Ended {
    ended(program().args(arguments))
}

/// Has it check the swiftiply.yml of a directory.
pub(crate) fn check(directory: &Path) -> Ended {
    let arguments = ["--check", "-c", "swiftiply.yml"];
    ended(program().args(arguments).current_dir(directory))
}

impl Proxy {
    /// Starts it with a configuration on top of the common one.
    pub(crate) fn start(yaml: &str) -> Self {
        Self::start_with(yaml, &[])
    }

    /// One site, which takes everything, and whose backends dial in at [`Proxy::dial_in`].
    pub(crate) fn simple() -> Self {
        Self::start(SITE)
    }

    /// The same with a backend and a client.
    pub(crate) fn scene() -> (Self, Backend, Visitor) {
        let proxy = Self::simple();
        let backend = Backend::dial(proxy.dial_in());
        let visitor = proxy.visit();
        (proxy, backend, visitor)
    }

    /// One site, with more lines.
    pub(crate) fn simple_with(lines: &str) -> Self {
        Self::start(&format!("{SITE}\n{lines}"))
    }

    /// One site that takes everything, at two addresses: the second one speaks TLS.
    pub(crate) fn both() -> Self {
        Self::both_with("")
    }

    /// The same with more lines.
    pub(crate) fn both_with(lines: &str) -> Self {
        let files = tempfile::tempdir().unwrap();
        let (certfile, keyfile) = secure::certificate(files.path(), "test", &["test"]);
        let pair = secure::pair(&certfile, &keyfile);
        // They are read at the start only.
        Self::simple_with(&format!("ssl: {{at: '127.0.0.2:0', {pair}}}\n{lines}"))
    }

    /// Starts it with options.
    pub(crate) fn start_with(yaml: &str, options: &[&str]) -> Self {
        let mut program = program();
        program.args(options);
        Self::start_program(program, yaml)
    }

    /// Starts a program that was prepared in some way.
    pub(crate) fn start_program(mut program: Command, yaml: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        write_config(directory.path(), yaml);
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let mut child = program
            .args(["-c", "swiftiply.yml"])
            .current_dir(&directory)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let log = || fs::read_to_string(directory.path().join("log")).unwrap();
        let ready = line.trim_end().strip_prefix("ready: visitors ");
        let ready = ready.unwrap_or_else(|| panic!("{line:?} {}", log()));
        let (ready, status) = ready.split_once("; status ").unwrap_or((ready, ""));
        let (visitors, backends) = ready.split_once("; backends ").unwrap_or((ready, ""));
        let addresses = |text: &str| text.split_whitespace().flat_map(str::parse).collect();
        let (visitors, backends) = (addresses(visitors), addresses(backends));
        let status = addresses(status);
        let mut proxy = Self {
            running: Running(child),
            directory,
            visitors,
            backends,
            status,
            descriptors: 0,
        };
        proxy.descriptors = proxy.running.descriptors();
        proxy
    }

    /// The first address for clients.
    pub(crate) fn address(&self) -> SocketAddr {
        self.visitors[0]
    }

    /// All addresses for clients.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.visitors
    }

    /// The first address for backends.
    pub(crate) fn dial_in(&self) -> SocketAddr {
        self.backends[0]
    }

    /// The status address.
    pub(crate) fn status_address(&self) -> SocketAddr {
        self.status[0]
    }

    /// All addresses for backends.
    pub(crate) fn dial_ins(&self) -> &[SocketAddr] {
        &self.backends
    }

    /// A new client.
    pub(crate) fn visit(&self) -> Visitor {
        Visitor::connect(self.address())
    }

    /// A new client that has asked for this.
    pub(crate) fn ask(&self, target: &str) -> Visitor {
        Visitor::asking(self.address(), target)
    }

    /// A new client with TLS, at the second address.
    pub(crate) fn visit_secure(&self) -> Visitor {
        Visitor::connect_secure(self.visitors[1], "test")
    }

    /// A new client, with TLS or without.
    pub(crate) fn visit_as(&self, secure: bool) -> Visitor {
        match secure {
            true => self.visit_secure(),
            false => self.visit(),
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Its directory, where the configuration and the log are.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A file in its directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What a file in its directory holds.
    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        self.read("log")
    }

    /// Waits until a text is in the log.
    #[track_caller]
    pub(crate) fn wait_for_log(&self, text: &str) {
        self.wait_for_logs(text, 1);
    }

    /// Waits until a text is in the log so many times.
    #[track_caller]
    pub(crate) fn wait_for_logs(&self, text: &str, count: usize) {
        self.running.wait_for_log(text, count, || self.log());
    }

    /// Waits until it has nothing more to do, including the work that follows a response.
    pub(crate) fn wait_until_idle(&self) {
        wait_until("all threads asleep", || {
            let threads = self.threads();
            // A thread that has not run in between was asleep all the time, so all were asleep at once.
            threads.iter().all(|(_, asleep, _)| *asleep) && threads == self.threads()
        });
    }

    /// Its threads: which ones there are, whether they are asleep, and how often they have been so far.
    fn threads(&self) -> Vec<(PathBuf, bool, String)> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let paths = tasks.map(|task| task.unwrap().path());
        let thread = |path: PathBuf| {
            // One that has just ended is seen the next time.
            let status = fs::read_to_string(path.join("status")).unwrap_or_default();
            let field = |name| status.lines().find_map(|line| line.strip_prefix(name));
            let asleep = field("State:").is_some_and(|state| state.trim().starts_with('S'));
            let times = field("voluntary_ctxt_switches:").unwrap_or_default();
            (path, asleep, times.to_owned())
        };
        paths.map(thread).collect()
    }

    /// Writes another configuration, without loading it.
    pub(crate) fn configure(&self, yaml: &str) {
        write_config(self.directory(), yaml);
    }

    /// Loads another configuration and waits until it is in force.
    pub(crate) fn reload(&self, yaml: &str) {
        self.configure(yaml);
        self.load_again();
    }

    /// Loads its files again and waits until they are in force.
    pub(crate) fn load_again(&self) {
        let before = self.log().matches("reloaded: ").count();
        self.signal(Signal::SIGHUP);
        self.wait_for_logs("reloaded: ", before + 1);
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.running.wait()
    }

    /// Bytes of memory it has now.
    pub(crate) fn resident(&self) -> usize {
        let pages = fs::read_to_string(format!("/proc/{}/statm", self.pid())).unwrap();
        let pages = pages.split(' ').nth(1).map(str::parse::<usize>);
        pages.unwrap().unwrap() * 4096
    }

    /// Takes the number of files that are open now as that of the idle program.
    #[cfg(feature = "redis")]
    pub(crate) fn count_again(&mut self) {
        self.descriptors = self.running.descriptors();
    }

    /// Ends a test whose clients and backends are gone: no file of theirs may still be open, and a drain has nothing to
    /// wait for.
    pub(crate) fn finish(self) {
        self.finish_and(|| ());
    }

    /// The same, with a check before the directory is removed.
    pub(crate) fn finish_and(self, look: impl FnOnce()) {
        wait_until("no more open files than at the start", || {
            self.running.descriptors() <= self.descriptors
        });
        self.end(look);
    }

    /// Ends a test that has changed which files are open.
    pub(crate) fn finish_without_leak_check(self) {
        self.end(|| ());
    }

    fn end(mut self, look: impl FnOnce()) {
        self.signal(Signal::SIGTERM);
        let status = self.wait();
        let log = self.log();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(!log.contains("panicked"), "{log}");
        look();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        tell_end(&self.log());
    }
}

fn write_config(directory: &Path, yaml: &str) {
    let defaults = COMMON.lines().filter(|line| {
        let key = line.split(':').next().unwrap_or_default();
        let set = |other: &str| other.split(':').next() == Some(key);
        !yaml.lines().any(set)
    });
    let text: Vec<_> = defaults.chain(yaml.lines()).collect();
    fs::write(directory.join("swiftiply.yml"), text.join("\n")).unwrap();
}
