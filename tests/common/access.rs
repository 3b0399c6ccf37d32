//! The access proxy under test.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::program::tell_end;
use super::{Ended, Port, Running, ended, wait_until};

/// The program's file.
pub(crate) fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_swiftiply-access"))
}

/// Runs it to its end.
pub(crate) fn run(arguments: &[&str]) -> Ended {
    ended(program().args(arguments))
}

/// A running swiftiply-access.
pub(crate) struct Access {
    running: Running,
    directory: TempDir,
    /// What its command listens on.
    ports: Vec<Port>,
}

impl Access {
    /// Starts it with a configuration and options behind it.
    pub(crate) fn start(yaml: &str, options: &[&str]) -> Self {
        Self::start_program(program(), yaml, options)
    }

    /// Starts a program that was prepared in some way.
    pub(crate) fn start_program(mut program: Command, yaml: &str, options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        write_config(&directory.path().join("access.yml"), yaml);
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let child = program
            .args(["-c", "access.yml"])
            .args(options)
            .current_dir(&directory)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self {
            running: Running(child),
            directory,
            ports: Vec::new(),
        }
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

    /// Reserves a port as long as it runs.
    pub(crate) fn keeping(mut self, port: Port) -> Self {
        self.ports.push(port);
        self
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.pid()
    }

    #[track_caller]
    pub(crate) fn wait_for_log(&self, text: &str) {
        self.wait_for_logs(text, 1);
    }

    #[track_caller]
    pub(crate) fn wait_for_logs(&self, text: &str, count: usize) {
        self.running.wait_for_log(text, count, || self.log());
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
        self.running.signal(signal);
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.running.wait()
    }

    /// Its open files.
    pub(crate) fn descriptors(&self) -> usize {
        self.running.descriptors()
    }

    /// Its threads.
    pub(crate) fn threads(&self) -> usize {
        self.running.threads()
    }

    /// Drains it, which must succeed without a panic.
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
        tell_end(&self.log());
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
