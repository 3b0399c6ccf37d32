//! Logging: messages, and the access log.
//!
//! The whole program logs messages through the `log` crate. The programs install a `Logging`, which sends each
//! record to the logger of its site (by the record's target, `site:NAME`) or to that of the server; a program that
//! embeds the server installs a logger of its own. `simplelog` formats the lines.
//!
//! [`AccessLog`] is separate: it collects a line for each exchange in memory and writes them once a second.
//!
//! Both write to bounded queues in memory, and threads write the queues to files. So a thread that serves requests
//! never waits for a log. Lines that do not fit are dropped, counted and reported.
//!
//! **Invariants**: a line is written whole or dropped. No foreign text can end a line or control a terminal
//! ([`escape`](crate::escape)).

mod access;
mod exclude;
#[cfg(feature = "programs")]
mod message;
mod pending;
#[cfg(feature = "programs")]
mod program;
#[cfg_attr(
    not(feature = "programs"),
    expect(dead_code, reason = "only the programs write messages")
)]
mod queue;
mod repeats;
mod style;
mod target;

pub use access::{AccessLog, AccessRecord};
pub use exclude::is_excluded;
#[cfg(feature = "programs")]
pub use program::{Logging, PreparedLogging, print};
pub use target::OpenError;
