//! A Redis to test with.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{Port, Running, wait_until};

/// A Redis server of the test's own, which records the commands that it gets.
pub(crate) struct Redis {
    pub(crate) port: Port,
    /// Before its directory, in which it writes to its end.
    running: Option<Running>,
    directory: TempDir,
}

impl Redis {
    pub(crate) fn start() -> Self {
        let mut redis = Self {
            port: Port::reserve(),
            directory: tempfile::tempdir().unwrap(),
            running: None,
        };
        redis.run(&[]);
        redis
    }

    pub(crate) fn run(&mut self, options: &[&str]) {
        let port = self.port.number().to_string();
        let child = Command::new("redis-server")
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "no"])
            .args(options)
            .arg("--dir")
            .arg(self.directory.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.running = Some(Running(child));
        wait_until("Redis answers", || {
            let answer = self.ask("PING");
            answer == "PONG" || answer.starts_with("NOAUTH")
        });
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.running.as_ref().unwrap().signal(signal);
    }

    pub(crate) fn kill(&mut self) {
        self.running = None;
    }

    /// Sends a command; gives the response, a line for each element.
    pub(crate) fn ask(&self, command: &str) -> String {
        self.ask_for(&command.split(' ').collect::<Vec<_>>())
    }

    /// The same, for a command in words.
    pub(crate) fn ask_for(&self, words: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.number().to_string()])
            .args(words)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        let answer = self.ask(&format!("LRANGE {name} 0 -1"));
        answer.lines().map(str::to_owned).collect()
    }

    pub(crate) fn push(&self, name: &str, server: SocketAddr) {
        self.ask(&format!("LPUSH {name} {server}"));
    }

    pub(crate) fn wait_for(&self, name: &str, expected: &[SocketAddr]) {
        let expected: Vec<_> = expected.iter().map(SocketAddr::to_string).collect();
        wait_until(&format!("{name} is {expected:?}"), || {
            self.list(name) == expected
        });
    }
}
