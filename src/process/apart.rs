//! A program that is started and then left alone: it is not a child of this process in the end, but of the init process, as if
//! that had started it. So a service manager notices its end.
//!
//! Between the two stands a *keeper*, a process that only waits for the program and ends as it does. It is killed when the
//! program is to be left alone; the system then gives the program to init, or to the nearest process that has asked for
//! orphans (`PR_SET_CHILD_SUBREAPER` of prctl(2)), such as the service manager of a user.

use std::io::{self, PipeWriter, Read};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A program that was started, and its keeper.
#[derive(Debug)]
pub struct Apart {
    keeper: Child,
    pid: Pid,
}

impl Apart {
    /// Starts a program.
    ///
    /// # Errors
    /// Those of `pipe(2)`, `fork(2)` and `execve(2)`.
    #[expect(unsafe_code, reason = "there is no safe wrapper")]
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let (mut reader, writer) = io::pipe()?;
        // SAFETY: in the child of a process with threads only async-signal-safe calls may be made before the program is
        // executed. These are plain system calls, which take neither memory nor a lock of this program. (That of `fork` in
        // the C library takes those of the allocator, which the first fork has left free.)
        unsafe { command.pre_exec(move || fork_keeper(&writer)) };
        let started = command.spawn();
        // Drops the writer of this process with the closure, so that reading ends.
        *command = Command::new("");
        let keeper = started?;
        let mut bytes = [0; size_of::<libc::pid_t>()];
        reader.read_exact(&mut bytes)?;
        let pid = Pid::from_raw(libc::pid_t::from_ne_bytes(bytes));
        Ok(Self { keeper, pid })
    }

    /// The process id of the program.
    pub fn id(&self) -> i32 {
        self.pid.as_raw()
    }

    /// How it has ended; `None`: it has not. A program that a signal has ended has the status of a shell, 128 and its number.
    ///
    /// # Errors
    /// Those of `waitpid(2)`.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.keeper.try_wait()
    }

    /// Asks the program to end.
    pub fn terminate(&self) {
        // As below.
        let _ = kill(self.pid, Signal::SIGTERM);
    }

    /// Kills the program and waits for its end.
    pub fn kill(mut self) {
        // The keeper has not waited for it yet, or has just done so: the process id is not used again so soon.
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = self.keeper.wait();
    }

    /// Leaves the program alone.
    pub fn release(mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// Makes the calling process, a child that is about to execute the program, the keeper of a child of its own, in which this
/// returns.
#[expect(unsafe_code, reason = "there is no safe wrapper")]
fn fork_keeper(report: &PipeWriter) -> io::Result<()> {
    // SAFETY: see above; the child has one thread and goes on to execute the program.
    let program = unsafe { libc::fork() };
    match program {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(()),
        program => {
            let bytes = program.to_ne_bytes();
            // SAFETY: plain system calls on numbers, and on buffers of this function. Whatever else this copy of the process
            // has is never used again: it ends here, without running any destructor.
            unsafe {
                libc::write(report.as_raw_fd(), bytes.as_ptr().cast(), bytes.len());
                // No socket, file or pipe stays open here. Before Linux 5.9 there is no such call.
                if libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) != 0 {
                    for descriptor in 0..MOST_DESCRIPTORS {
                        libc::close(descriptor);
                    }
                }
                let mut status = 0;
                while libc::waitpid(program, &raw mut status, 0) == -1 {}
                let code = match libc::WIFEXITED(status) {
                    true => libc::WEXITSTATUS(status),
                    false => 128 + libc::WTERMSIG(status),
                };
                libc::_exit(code)
            }
        }
    }
}

/// Descriptors that a keeper closes one by one where the system cannot close all of them.
const MOST_DESCRIPTORS: i32 = 1 << 16;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    use super::*;

    fn shell(script: &str) -> io::Result<Apart> {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", script])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Apart::start(&mut command)
    }

    fn end(apart: &mut Apart) -> Option<i32> {
        let since = Instant::now();
        loop {
            if let Some(status) = apart.try_wait().unwrap() {
                return status.code();
            }
            assert!(since.elapsed() < Duration::from_secs(60), "it does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn its_end_is_seen() {
        assert_eq!(end(&mut shell("exit 7").unwrap()), Some(7));
        assert_eq!(end(&mut shell("kill -TERM $$").unwrap()), Some(128 + 15));
        let missing = Apart::start(&mut Command::new("/no/such/program"));
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn it_is_killed_or_left_alone() {
        let hung = shell("exec sleep 600").unwrap();
        let pid = hung.pid;
        hung.kill();
        assert!(kill(pid, None).is_err(), "it is gone");
        let released = shell("exec sleep 600").unwrap();
        let (pid, keeper) = (released.pid, released.keeper.id());
        released.release();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let parent = stat.rsplit(") ").next().unwrap().split(' ').nth(1);
        let parent: u32 = parent.unwrap().parse().unwrap();
        assert!(parent != keeper && parent != std::process::id(), "{stat}");
        kill(pid, Signal::SIGKILL).unwrap();
    }
}
