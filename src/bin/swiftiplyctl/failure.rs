//! Why the program ends early, and its exit status.

use std::process::ExitCode;

/// The program's name, which begins its messages.
pub(crate) const NAME: &str = env!("CARGO_BIN_NAME");

/// Why the program ends early.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The server has refused the command.
    Refused(String),
    /// The command line is wrong, or a file that it names.
    Usage(String),
    /// There is no connection to the server.
    Connection(String),
    /// What the command waits for has not happened in time.
    Late(String),
}

impl Failure {
    /// Reports it on standard error.
    pub(crate) fn end(self) -> ExitCode {
        let (code, message) = match self {
            Self::Refused(message) => (1, message),
            Self::Usage(message) => (2, message),
            Self::Connection(message) => (3, message),
            Self::Late(message) => (4, message),
        };
        eprintln!("{NAME}: {message}");
        ExitCode::from(code)
    }
}
