//! What both programs have in common. Each of them includes it as a module.

pub(crate) mod command_line;
pub(crate) mod control;
pub(crate) mod manager;
pub(crate) mod task;

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use swiftiply::config::Problems;
use swiftiply::internals::process::reason;

/// Static programs do not use the allocator of their C library; see Cargo.toml.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Its settings: few arenas, as with glibc, and small thread caches, which are not returned while a thread sleeps.
#[cfg(target_env = "musl")]
#[expect(
    unsafe_code,
    reason = "the allocator reads a variable of this name and type, char *"
)]
#[unsafe(export_name = "_rjem_malloc_conf")]
static SETTINGS: &[u8; 26] = b"narenas:2,tcache_max:4096\0";

/// The program's name, which begins its messages.
pub(crate) const NAME: &str = env!("CARGO_BIN_NAME");

/// Why the program ends early, and its exit code.
pub(crate) struct ExitError {
    code: u8,
    message: String,
}

impl ExitError {
    /// The command line, or something that the configuration names, is wrong.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self {
            code: 2,
            message: format!("{NAME}: {message}"),
        }
    }

    /// Something failed at run time.
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

/// All problems, and their number.
pub(crate) fn report(problems: &Problems) -> String {
    format!("{problems}\n{}", problems.closing())
}

/// Logs why a reload failed: each problem in a line of its own; last the number of problems, or the only cause.
pub(crate) fn reload_failed(why: &str) {
    let (problems, last) = why.rsplit_once('\n').unwrap_or(("", why));
    for problem in problems.lines() {
        log::error!("{problem}");
    }
    log::error!("reload failed: {last}");
}

/// Ends the program. Failures are reported on standard error.
pub(crate) fn end(result: Result<ExitCode, ExitError>) -> ExitCode {
    result.unwrap_or_else(|ExitError { code, message }| {
        // Write earlier log messages first.
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
