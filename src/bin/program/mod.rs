//! What both programs do in the same way. Each has it as a module of its own.

pub(crate) mod command_line;
pub(crate) mod control;
pub(crate) mod reload;

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use swiftiply::config::Problems;
use swiftiply::process::reason;

/// Static programs do not use the allocator of their C library; see Cargo.toml.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Its settings: few arenas, as with glibc, and small caches of threads, for these are not given back while a thread sleeps.
#[cfg(target_env = "musl")]
#[expect(
    unsafe_code,
    reason = "the allocator reads a variable of this name and type, char *"
)]
#[unsafe(export_name = "_rjem_malloc_conf")]
static SETTINGS: &[u8; 26] = b"narenas:2,tcache_max:4096\0";

/// The program's name, which begins its messages.
pub(crate) const NAME: &str = env!("CARGO_BIN_NAME");

/// Why the program ends early, and with which code.
pub(crate) struct ExitError {
    code: u8,
    message: String,
}

impl ExitError {
    /// The command line is wrong, or what the configuration names.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self {
            code: 2,
            message: format!("{NAME}: {message}"),
        }
    }

    /// Something failed while running.
    pub(crate) fn running(message: impl Display) -> Self {
        Self {
            code: 1,
            message: format!("{NAME}: {message}"),
        }
    }
}

/// The configuration is wrong. Each problem begins with the name of the file.
impl From<Problems> for ExitError {
    fn from(problems: Problems) -> Self {
        Self {
            code: 2,
            message: report(&problems),
        }
    }
}

/// All problems, and how many.
pub(crate) fn report(problems: &Problems) -> String {
    format!("{problems}\n{}", problems.closing())
}

/// Logs why a reload failed: each problem in a line of its own, and at last how many there are, or the one cause.
pub(crate) fn reload_failed(why: &str) {
    let (problems, last) = why.rsplit_once('\n').unwrap_or(("", why));
    for problem in problems.lines() {
        log::error!("{problem}");
    }
    log::error!("reload failed: {last}");
}

/// How the program ends. What has failed is told on standard error.
pub(crate) fn end(result: Result<ExitCode, ExitError>) -> ExitCode {
    result.unwrap_or_else(|ExitError { code, message }| {
        // What was logged before it comes before it.
        log::logger().flush();
        eprintln!("{message}");
        ExitCode::from(code)
    })
}

/// Writes to standard output.
pub(crate) fn print(text: &str) -> Result<ExitCode, ExitError> {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(ExitError::running(format!(
            "standard output: {}",
            reason(&error)
        ))),
    }
}
