//! A server whose program is replaced while it runs.
//!
//! Other processes write the program: a test that starts one at this moment would inherit the open file, and a file that is
//! open for writing cannot be executed.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal::SIGUSR2;
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::common::proxy::SITE;
use crate::common::{Proxy, ended, wait_until};

/// The program under test.
pub(crate) const BUILT: &str = env!("CARGO_BIN_EXE_swiftiply");

pub(crate) struct Replaceable {
    pub(crate) proxy: Proxy,
    program: PathBuf,
    _directory: TempDir,
}

impl Replaceable {
    /// Starts a copy of the program with one site and these lines, and with the pid file `pid`.
    pub(crate) fn start(lines: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("swiftiply");
        run("cp \"$1\" \"$2\"", &[BUILT.as_ref(), &program]);
        let mut command = Command::new(&program);
        command.args(["--pid", "pid"]);
        Self {
            proxy: Proxy::start_program(command, &format!("{SITE}\n{lines}")),
            program,
            _directory: directory,
        }
    }

    /// Upgrades to a script, which can write its process id to the file `new`.
    pub(crate) fn upgrade_to(&self, script: &str) {
        self.remove();
        let write = "printf '#!/bin/sh\\n%s\\n' \"$2\" > \"$1\" && chmod 755 \"$1\"";
        run(write, &[&self.program, script.as_ref()]);
        self.proxy.signal(SIGUSR2);
    }

    /// Upgrades although the program is gone.
    pub(crate) fn upgrade_to_nothing(&self) {
        self.remove();
        self.proxy.signal(SIGUSR2);
    }

    fn remove(&self) {
        fs::remove_file(&self.program).unwrap();
    }

    /// The id that the new process has written.
    pub(crate) fn new_pid(&self) -> Pid {
        let mut pid = 0;
        wait_until("the id of the new process", || {
            let text = fs::read_to_string(self.proxy.file("new")).unwrap_or_default();
            pid = text.trim().parse().unwrap_or(0);
            pid > 0
        });
        Pid::from_raw(pid)
    }
}

/// A service manager that reads nothing and has no room, so that a process hangs that reports to it.
pub(crate) struct DeafManager(UnixDatagram);

impl DeafManager {
    pub(crate) fn new(path: &Path) -> Self {
        let manager = UnixDatagram::bind(path).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        sender.set_nonblocking(true).unwrap();
        while sender.send_to(b"X=1", path).is_ok() {}
        Self(manager)
    }

    /// Makes room.
    pub(crate) fn listen(&self) {
        self.0.set_nonblocking(true).unwrap();
        while self.0.recv(&mut [0; 10]).is_ok() {}
    }
}

fn run(script: &str, arguments: &[&Path]) {
    let mut shell = Command::new("/bin/sh");
    let done = ended(shell.args(["-c", script, "sh"]).args(arguments));
    assert_eq!(done.code, Some(0), "{done:?}");
}
