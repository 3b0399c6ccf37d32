//! Programs that run beside a test.

use std::fs;
use std::process::{Child, Command, ExitStatus};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait_until;

/// The exit code and the output of a program.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs a program to its end.
pub(crate) fn ended(program: &mut Command) -> Ended {
    let run = program.output().unwrap();
    Ended {
        code: run.status.code(),
        out: String::from_utf8(run.stdout).unwrap(),
        err: String::from_utf8(run.stderr).unwrap(),
    }
}

/// A program that runs until it is killed, or the test is over.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap());
        kill(pid, signal).unwrap();
    }

    /// Its open files.
    pub(crate) fn descriptors(&self) -> usize {
        let directory = format!("/proc/{}/fd", self.pid());
        fs::read_dir(directory).unwrap().count()
    }

    /// Its threads.
    pub(crate) fn threads(&self) -> usize {
        let directory = format!("/proc/{}/task", self.pid());
        fs::read_dir(directory).unwrap().count()
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()));
        status.is_ok_and(|status| status.contains("\nState:\tZ"))
    }

    /// Waits until a text is in its log so many times; fails at once if it has ended.
    #[track_caller]
    pub(crate) fn wait_for_log(&self, text: &str, count: usize, log: impl Fn() -> String) {
        wait_until(&format!("{count} times {text:?} in the log"), || {
            let ended = self.has_ended();
            let found = log().matches(text).count();
            assert!(
                found >= count || !ended,
                "the program ended with {found} times {text:?} in its log, expected {count}"
            );
            found >= count
        });
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the end of the program", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sets a limit of a running program, as `prlimit(1)` takes it.
pub(crate) fn limit(pid: u32, what: &str) {
    let set = ended(Command::new("prlimit").args(["--pid", &pid.to_string(), what]));
    assert_eq!(set.code, Some(0), "{set:?}");
}

/// Prints the end of a log if the test has failed.
pub(crate) fn tell_end(log: &str) {
    if std::thread::panicking() {
        let start = log.len().saturating_sub(4000);
        let end = &log[log.ceil_char_boundary(start)..];
        eprintln!("the end of the log:\n{end}");
    }
}
