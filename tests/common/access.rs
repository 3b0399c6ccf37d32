//! The access proxy under test, and ordinary applications for it.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::{Backend, PATIENCE, wait_until};

/// The program's file.
pub(crate) fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_swiftiply-access"))
}

/// A running swiftiply-access.
pub(crate) struct Access {
    child: Child,
    directory: TempDir,
}

impl Access {
    /// Starts it with a configuration and options behind it.
    pub(crate) fn start(yaml: &str, options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        write_config(&directory.path().join("access.yml"), yaml);
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let child = program()
            .args(["-c", "access.yml"])
            .args(options)
            .current_dir(&directory)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, directory }
    }

    /// For one server and one application.
    pub(crate) fn between(server: SocketAddr, app: SocketAddr, connections: usize) -> Self {
        let access = Self::start(
            &format!("{{connect: '{server}', to: '{app}', connections: {connections}}}"),
            &[],
        );
        access.wait_for_log(": dialled in");
        access
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn wait_for_log(&self, text: &str) {
        self.wait_for_logs(text, 1);
    }

    pub(crate) fn wait_for_logs(&self, text: &str, count: usize) {
        wait_until(&format!("{count} times {text:?} in the access log"), || {
            self.log().matches(text).count() >= count
        });
    }

    /// Writes another configuration and waits until it is in force, or refused.
    pub(crate) fn reload(&self, yaml: &str) {
        let done =
            |log: &str| log.matches("reloaded\n").count() + log.matches("reload failed").count();
        let before = done(&self.log());
        write_config(&self.file("access.yml"), yaml);
        self.signal(Signal::SIGHUP);
        wait_until("a reload", || done(&self.log()) > before);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.pid()).unwrap()), signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the end of the access proxy", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Its open files.
    pub(crate) fn descriptors(&self) -> usize {
        let directory = format!("/proc/{}/fd", self.pid());
        fs::read_dir(directory).unwrap().count()
    }

    /// Drains it, in good order.
    pub(crate) fn finish(mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.wait();
        let log = self.log();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(!log.contains("panicked"), "{log}");
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            let log = self.log();
            let start = log.len().saturating_sub(4000);
            eprintln!(
                "the end of the access log:\n{}",
                &log[log.ceil_char_boundary(start)..]
            );
        }
    }
}

/// Writes a configuration, in flow style or not, with a full log.
fn write_config(file: &Path, yaml: &str) {
    let logger = "logger: {type: stderr, level: full}";
    let text = match yaml.strip_prefix('{') {
        Some(rest) => format!("{{{logger},\n{rest}"),
        None => format!("{logger}\n{yaml}"),
    };
    fs::write(file, text).unwrap();
}

/// Accepts a connection, which has to come.
pub(crate) fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    listener.set_nonblocking(true).unwrap();
    let mut accepted = None;
    wait_until("a connection", || {
        accepted = listener.accept().ok();
        accepted.is_some()
    });
    let accepted = accepted.unwrap();
    accepted.0.set_nonblocking(false).unwrap();
    accepted.0.set_read_timeout(Some(PATIENCE)).unwrap();
    accepted
}

/// An application that a test plays by hand: each connection is a [`Backend`] that was accepted.
pub(crate) struct HandApp(TcpListener);

impl HandApp {
    pub(crate) fn listen() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// The next connection, whatever it brings.
    pub(crate) fn accept_any(&self) -> (TcpStream, SocketAddr) {
        accept(&self.0)
    }

    /// The next connection that brings a request; those that only look whether somebody is there are passed over.
    pub(crate) fn accept(&self) -> Backend {
        loop {
            let (stream, _) = accept(&self.0);
            if matches!(stream.peek(&mut [0]), Ok(1)) {
                return Backend::accepted(stream);
            }
        }
    }
}

/// What an [`EchoApp`] counts.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) now: AtomicUsize,
    pub(crate) most: AtomicUsize,
    pub(crate) answered: AtomicUsize,
    pub(crate) connections: AtomicUsize,
    /// Requests whose path begins with /hold wait while this is true.
    pub(crate) holding: AtomicBool,
    pub(crate) held: AtomicUsize,
}

/// An ordinary application that answers each request with its target and the length of its body.
pub(crate) struct EchoApp {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    thread: Option<JoinHandle<()>>,
    pub(crate) counts: Arc<Counts>,
}

impl EchoApp {
    pub(crate) fn start() -> Self {
        Self::start_at(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// Starts again where another one was.
    pub(crate) fn restart(address: SocketAddr) -> Self {
        let mut listener = None;
        wait_until("the address of the application", || {
            listener = TcpListener::bind(address).ok();
            listener.is_some()
        });
        Self::start_at(listener.unwrap())
    }

    fn start_at(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let streams = Arc::new(Mutex::new(Vec::new()));
        let counts = Arc::new(Counts::default());
        let (stopped, open, counted) =
            (Arc::clone(&stop), Arc::clone(&streams), Arc::clone(&counts));
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                open.lock().unwrap().push(stream.try_clone().unwrap());
                let counts = Arc::clone(&counted);
                thread::spawn(move || answer(stream, &counts));
            }
        });
        Self {
            address,
            stop,
            streams,
            thread: Some(thread),
            counts,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// It is gone at once, as if it had been killed: nobody listens any more, and every connection ends.
impl Drop for EchoApp {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.counts.holding.store(false, Ordering::SeqCst);
        for stream in self.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn answer(stream: TcpStream, counts: &Counts) {
    counts.connections.fetch_add(1, Ordering::SeqCst);
    let mut client = Backend::accepted(stream);
    client.wait_for_ever();
    while let Some(seen) = client.next() {
        let now = counts.now.fetch_add(1, Ordering::SeqCst) + 1;
        counts.most.fetch_max(now, Ordering::SeqCst);
        if seen.target().starts_with("/hold") {
            counts.held.fetch_add(1, Ordering::SeqCst);
            while counts.holding.load(Ordering::SeqCst) {
                thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        // So that requests meet each other.
        thread::yield_now();
        counts.now.fetch_sub(1, Ordering::SeqCst);
        counts.answered.fetch_add(1, Ordering::SeqCst);
        client.reply(&format!("{} {}", seen.target(), seen.body.len()));
    }
}
