//! Why a request waits for a backend, in words for the log and for the client.

use std::fmt;

/// Why a request waits for a backend: the backends that exist although none is free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Backends that dial in; this many are connected.
    Dialled(usize),
    /// The same, and some of them get no requests until further notice.
    Drained(usize),
    /// Only backends with this id will do; this many are connected.
    WithId(Box<str>, usize),
    /// The servers of a directory.
    Servers {
        /// The number of servers.
        all: usize,
        /// Those of them that get no requests now, also because they are drained.
        down: usize,
        /// Redis holds the list and does not respond.
        is_unlisted: bool,
    },
}

impl Shortage {
    /// The text for the client.
    pub const fn page(&self) -> &'static str {
        match self {
            Self::Dialled(0) => "No application process is connected. Please try again.",
            Self::Servers { all, down, .. } if *all == *down => {
                "No application server can be reached. Please try again."
            }
            _ => "No application process was free in time. Please try again.",
        }
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dialled(0) => out.write_str("none is connected"),
            Self::Dialled(1) => out.write_str("the only one is busy"),
            Self::Dialled(all) => write!(out, "all {all} are busy"),
            Self::Drained(1) => out.write_str("the only one is drained"),
            Self::Drained(all) => write!(out, "all {all} are busy or drained"),
            Self::WithId(id, 0) => write!(out, "{id} is not connected"),
            Self::WithId(id, _) => write!(out, "{id} is busy"),
            Self::Servers {
                all,
                down,
                is_unlisted,
            } => {
                match (*all, *down) {
                    (0, _) => out.write_str("no server is listed")?,
                    (1, 0) => out.write_str("the only server is busy")?,
                    (1, _) => out.write_str("the only server is down")?,
                    (all, 0) => write!(out, "all {all} servers are busy")?,
                    (all, down) if down == all => write!(out, "all {all} servers are down")?,
                    (all, down) => {
                        let busy = all - down;
                        // The verb agrees with the first number.
                        let verb = if down == 1 { "is" } else { "are" };
                        write!(out, "of {all} servers {down} {verb} down and {busy} busy")?;
                    }
                }
                match is_unlisted {
                    true => out.write_str(", and Redis does not answer"),
                    false => Ok(()),
                }
            }
        }
    }
}
