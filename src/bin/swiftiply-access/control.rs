//! Signals as messages.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// HUP: read the configuration anew.
    Reload,
    /// USR1: open the log anew, and pass it on.
    Reopen,
    /// Only the command may know what it means.
    PassOn(&'static str),
    /// TERM or INT: drain, and the second time stop.
    Stop,
}

/// Where the messages arrive.
pub(crate) struct Control(Receiver<Message>);

impl Control {
    /// Begins to listen to signals.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn new() -> Result<Self, String> {
        let (sender, receiver) = channel();
        let wanted = [SIGHUP, SIGINT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2];
        let mut signals = Signals::new(wanted).map_err(|error| format!("signals: {error}"))?;
        let listen = move || {
            for signal in signals.forever() {
                send(
                    &sender,
                    match signal {
                        SIGHUP => Message::Reload,
                        SIGUSR1 => Message::Reopen,
                        SIGUSR2 => Message::PassOn("USR2"),
                        SIGTTIN => Message::PassOn("TTIN"),
                        SIGTTOU => Message::PassOn("TTOU"),
                        _ => Message::Stop,
                    },
                );
            }
        };
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(listen)
            .map_err(|error| format!("signals: {error}"))?;
        Ok(Self(receiver))
    }

    /// The next message, however long it takes.
    pub(crate) fn wait(&self) -> Message {
        // The thread that sends lives as long as the program.
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
