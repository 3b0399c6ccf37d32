//! Signals as messages.

use std::ffi::c_int;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// HUP: read the configuration anew.
    Reload,
    /// USR1: open the logs anew.
    Reopen,
    /// TERM or INT: drain, and the second time stop.
    Stop,
    /// One of the others that were asked for.
    Other(&'static str),
}

/// Where the messages arrive.
pub(crate) struct Control(Receiver<Message>);

impl Control {
    /// Begins to listen to signals, these others among them: number and name.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn new(others: &'static [(c_int, &'static str)]) -> Result<Self, String> {
        let (sender, receiver) = channel();
        let interrupts = sender.clone();
        // `ctrlc` knows INT alone; the others must be told apart.
        ctrlc::set_handler(move || send(&interrupts, Message::Stop))
            .map_err(|error| format!("signals: {error}"))?;
        // What does not fit into a file any more (`ulimit -f`) is then an error like that of a full disk, and not the end.
        flag::register(SIGXFSZ, Arc::default()).map_err(|error| format!("signals: {error}"))?;
        let numbers = others.iter().map(|(number, _)| *number);
        let mut signals = Signals::new([SIGHUP, SIGTERM, SIGUSR1].into_iter().chain(numbers))
            .map_err(|error| format!("signals: {error}"))?;
        let thread = thread::Builder::new().name("signals".to_owned());
        let listen = move || {
            for signal in signals.forever() {
                let message = match signal {
                    SIGHUP => Message::Reload,
                    SIGUSR1 => Message::Reopen,
                    _ => match others.iter().find(|(number, _)| *number == signal) {
                        Some((_, name)) => Message::Other(name),
                        None => Message::Stop,
                    },
                };
                send(&sender, message);
            }
        };
        thread
            .spawn(listen)
            .map_err(|error| format!("signals: {error}"))?;
        Ok(Self(receiver))
    }

    /// The next message, however long it takes.
    pub(crate) fn wait(&self) -> Message {
        // The threads that send live as long as the program.
        self.0.recv().unwrap_or(Message::Stop)
    }

    /// The next message, if it comes in this time.
    pub(crate) fn wait_for(&self, time: Duration) -> Option<Message> {
        match self.0.recv_timeout(time) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Message::Stop),
        }
    }
}

fn send(sender: &Sender<Message>, message: Message) {
    // Fails only when the program has ended.
    let _ = sender.send(message);
}
