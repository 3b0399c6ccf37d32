//! Signals as messages.

use std::ffi::c_int;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use swiftiply::internals::process::{no_thread, trim_memory};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// HUP: read the configuration again.
    Reload,
    /// USR1: reopen the logs.
    Reopen,
    /// TERM or INT, or a new process has taken over: drain; the second time, stop.
    Stop,
    /// One of the other signals, by name.
    Other(&'static str),
}

/// Receives the messages.
pub(crate) struct ControlMessages(Receiver<Message>, Sender<Message>);

impl ControlMessages {
    /// Starts to receive signals, including these others (number and name).
    ///
    /// A second TERM or INT ends the program after [`LONGEST`] even if its message has no effect.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn new(others: &'static [(c_int, &'static str)]) -> Result<Self, String> {
        let (sender, receiver) = channel();
        let (interrupts, own) = (sender.clone(), sender.clone());
        let again = Arc::new(AtomicBool::new(false));
        let interrupted = Arc::clone(&again);
        // `ctrlc` handles INT only; the other signals need to be distinguished.
        ctrlc::set_handler(move || stop(&interrupts, &interrupted)).map_err(
            |error| match error {
                ctrlc::Error::System(cause) => no_thread("ctrl-c", &cause).to_string(),
                error => format!("signals: {error}"),
            },
        )?;
        // A write beyond the limit of a file's size (`ulimit -f`) then fails like a full disk, instead of ending the
        // program.
        flag::register(SIGXFSZ, Arc::default()).map_err(|error| format!("signals: {error}"))?;
        let numbers = others.iter().map(|(number, _)| *number);
        let mut signals = Signals::new([SIGHUP, SIGTERM, SIGUSR1].into_iter().chain(numbers))
            .map_err(|error| format!("signals: {error}"))?;
        let listen = move || {
            for signal in signals.forever() {
                let message = match signal {
                    SIGHUP => Message::Reload,
                    SIGUSR1 => Message::Reopen,
                    _ => match others.iter().find(|(number, _)| *number == signal) {
                        Some((_, name)) => Message::Other(name),
                        None => {
                            stop(&sender, &again);
                            continue;
                        }
                    },
                };
                send(&sender, message);
            }
        };
        swiftiply::internals::process::thread("signals", listen)
            .map_err(|error| error.to_string())?;
        Ok(Self(receiver, own))
    }

    /// For messages of another thread.
    #[allow(dead_code, reason = "only the server has such a thread")]
    pub(crate) fn sender(&self) -> Sender<Message> {
        self.1.clone()
    }

    /// The next message. Meanwhile free memory is returned to the system.
    pub(crate) fn wait(&self) -> Message {
        loop {
            if let Some(message) = self.wait_for(TRIM_INTERVAL) {
                return message;
            }
            trim_memory();
        }
    }

    /// The next message, if it arrives within this time.
    pub(crate) fn wait_for(&self, time: Duration) -> Option<Message> {
        match self.0.recv_timeout(time) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            // The sending threads live as long as the program.
            Err(RecvTimeoutError::Disconnected) => Some(Message::Stop),
        }
    }
}

/// Asks the program to stop. `again`: that was asked before.
fn stop(sender: &Sender<Message>, again: &AtomicBool) {
    send(sender, Message::Stop);
    if again.swap(true, Ordering::Relaxed) {
        // The program usually ends during this sleep.
        thread::sleep(LONGEST);
        process::exit(1);
    }
}

fn send(sender: &Sender<Message>, message: Message) {
    // Fails only when the program has ended.
    let _ = sender.send(message);
}

/// How often free memory is returned to the system.
const TRIM_INTERVAL: Duration = Duration::from_secs(10);
/// How long the program may take to end when asked twice. Waiting for a log takes less.
const LONGEST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::env;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::*;

    /// Set in the program that a test starts.
    const CHILD: &str = "SWIFTIPLY_TEST_IGNORES_ITS_MESSAGES";

    #[test]
    fn second_signal_ends_a_stuck_program() {
        if env::var_os(CHILD).is_some() {
            let _control = ControlMessages::new(&[]).unwrap();
            println!("\nlistening");
            thread::sleep(Duration::from_secs(120));
            process::exit(0);
        }
        let name = "program::control::tests::second_signal_ends_a_stuck_program";
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut lines = output.lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "listening"));
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            assert!(
                child.try_wait().unwrap().is_none(),
                "the first one does not"
            );
            kill(pid, signal).unwrap();
        }
        assert_eq!(child.wait().unwrap().code(), Some(1));
    }
}
