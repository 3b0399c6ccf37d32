//! The application's process, if the access proxy starts it (`swiftiply-access ... -- command`).
//!
//! A thread starts the process, waits for its end, and starts it again: at once the first times, then after longer and
//! longer pauses. The process leads its own process group, so that an interrupt at a terminal does not reach it before
//! the access proxy has drained. When it has ended, the rest of its group is killed. If the access proxy is killed, the
//! system sends the process TERM.
//!
//! **Invariants**
//! - Signals are sent under the lock and only before the process is reaped, so its number cannot belong to another
//!   process.
//! - The thread that started a process lives until the process has ended: the system sends TERM when that thread ends.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{self, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use parking_lot::{Condvar, Mutex};

use crate::client::Backoff;
use crate::process::{end_with_us, reason, service, thread};

/// A process that is kept running.
#[derive(Debug)]
pub(super) struct SupervisedCommand {
    control: Arc<CommandControl>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct CommandControl {
    state: Mutex<ProcessState>,
    changed: Condvar,
}

#[derive(Debug)]
struct ProcessState {
    argv: Vec<String>,
    /// The process, until it is reaped.
    running: Option<Pid>,
    /// It is being ended, and is started again at once.
    restart: bool,
    stopping: bool,
    /// The thread has ended.
    done: bool,
}

impl SupervisedCommand {
    /// Starts the process. `on_change` is called with true after each start and with false after each end.
    ///
    /// # Errors
    /// The thread could not be started.
    pub(super) fn start(
        argv: Vec<String>,
        on_change: impl Fn(bool) + Send + 'static,
    ) -> io::Result<Self> {
        let control = Arc::new(CommandControl {
            state: Mutex::new(ProcessState {
                argv,
                running: None,
                restart: false,
                stopping: false,
                done: false,
            }),
            changed: Condvar::new(),
        });
        let own = Done(Arc::clone(&control));
        let thread = thread("command", move || own.0.run(&on_change))?;
        Ok(Self { control, thread })
    }

    /// Sends the process a signal, by its name without SIG.
    pub(super) fn signal(&self, name: &str) {
        match format!("SIG{name}").parse() {
            Ok(signal) => self.control.signal(signal),
            Err(_) => log::error!("command: no signal {name}"),
        }
    }

    /// Ends the process, with TERM and after `patience` with KILL, and starts another one. Does not block.
    pub(super) fn change(&self, argv: Vec<String>, patience: Duration) {
        let deadline = Instant::now() + patience;
        let old = {
            let mut state = self.control.state.lock();
            state.argv = argv;
            state.restart = true;
            state.running
        };
        self.control.changed.notify_all();
        self.control.signal(Signal::SIGTERM);
        let Some(old) = old else { return };
        let control = Arc::clone(&self.control);
        // The command's own thread only waits for the process, so another one kills it.
        if let Err(error) = thread("command", move || control.kill_after(old, deadline)) {
            log::error!("command: no thread to kill it: {}", reason(&error));
        }
    }

    /// Ends the process: TERM, and after `patience` KILL. Returns whether TERM was enough.
    pub(super) fn stop(self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        self.control.state.lock().stopping = true;
        self.control.changed.notify_all();
        self.control.signal(Signal::SIGTERM);
        let in_time = self.control.is_done_by(deadline);
        if !in_time {
            log::warn!("command: did not exit in time; sent SIGKILL");
            self.control.signal(Signal::SIGKILL);
            // Again, in case the process was just being started.
            while !self.control.is_done_by(Instant::now() + KILL_INTERVAL) {
                self.control.signal(Signal::SIGKILL);
            }
        }
        let _ = self.thread.join();
        in_time
    }
}

/// Marks the thread as ended, also after a panic.
struct Done(Arc<CommandControl>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.state.lock().done = true;
        self.0.changed.notify_all();
    }
}

impl CommandControl {
    /// Keeps the process running until it is to stop.
    fn run(&self, on_change: &dyn Fn(bool)) {
        let mut backoff = Backoff::new(LONGEST_PAUSE);
        loop {
            let since = Instant::now();
            let Some(started) = self.spawn() else {
                return;
            };
            let what = match started {
                Ok(mut child) => {
                    on_change(true);
                    self.wait(child.id());
                    // It is a zombie still, so its number is not reused.
                    self.state.lock().running = None;
                    self.changed.notify_all();
                    let status = child.wait();
                    on_change(false);
                    status.map_or_else(|error| reason(&error), describe)
                }
                Err(error) => reason(&error),
            };
            if since.elapsed() >= STABLE_AFTER {
                backoff.reset();
            }
            let mut state = self.state.lock();
            if state.stopping {
                return;
            }
            if std::mem::take(&mut state.restart) {
                backoff.reset();
                continue;
            }
            let pause = backoff.pause();
            let name = state.argv[0].clone();
            parking_lot::MutexGuard::unlocked(&mut state, || {
                log::error!("command {name}: {what}; starting it again in {pause:.1?}");
            });
            let until = Instant::now() + pause;
            while !(state.stopping || state.restart) {
                if self.changed.wait_until(&mut state, until).timed_out() {
                    break;
                }
            }
            if state.stopping {
                return;
            }
            state.restart = false;
        }
    }

    /// Kills a process that has not ended by the deadline.
    fn kill_after(&self, old: Pid, deadline: Instant) {
        let mut state = self.state.lock();
        while state.running == Some(old) {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        if state.running == Some(old) {
            let _ = kill(old, Signal::SIGKILL);
            drop(state);
            log::warn!("command: did not exit in time; sent SIGKILL");
        }
    }

    /// Waits until the thread has ended. `false`: it has not by the deadline.
    fn is_done_by(&self, deadline: Instant) -> bool {
        let mut state = self.state.lock();
        while !state.done {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.done
    }

    /// Starts the process; `None`: it is to stop.
    fn spawn(&self) -> Option<io::Result<process::Child>> {
        let argv = {
            let state = self.state.lock();
            (!state.stopping).then(|| state.argv.clone())
        }?;
        let mut command = process::Command::new(&argv[0]);
        command
            .args(&argv[1..])
            .stdin(Stdio::null())
            .process_group(0);
        // They concern this process.
        service::hide(&mut command);
        end_with_us(&mut command);
        let started = command.spawn();
        if let Ok(child) = &started {
            let pid = pid(child.id());
            log::info!("command {}: started, process {pid}", argv[0]);
            let unwanted = {
                let mut state = self.state.lock();
                state.running = Some(pid);
                state.stopping || state.argv != argv
            };
            if unwanted {
                // It was to be ended while it was being started.
                self.signal(Signal::SIGTERM);
            }
        }
        Some(started)
    }

    /// Waits for the end of the process without reaping it, and kills the rest of its group.
    fn wait(&self, id: u32) {
        let pid = pid(id);
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        while waitid(Id::Pid(pid), flags) == Err(Errno::EINTR) {}
        let _ = killpg(pid, Signal::SIGKILL);
    }

    /// Sends the process a signal, if it runs.
    fn signal(&self, signal: Signal) {
        let state = self.state.lock();
        if let Some(pid) = state.running {
            // It may have just ended.
            let _ = kill(pid, signal);
        }
    }
}

fn pid(id: u32) -> Pid {
    // The system's type is signed.
    Pid::from_raw(i32::try_from(id).unwrap_or(i32::MAX))
}

fn describe(status: ExitStatus) -> String {
    status
        .to_string()
        .replace("exit status: ", "ended with status ")
}

/// The longest pause before it is started again.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// After this time the pauses begin again with the shortest.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// How often KILL is sent again.
const KILL_INTERVAL: Duration = Duration::from_millis(100);
