//! Backends: how they join, where they wait, and how a request gets one.
//!
//! In reading order: [`preamble`](crate::preamble) is what a backend sends first, [`dial_in`] the thread that takes it in, [`group`] counts
//! and logs it, [`pool`] is where it waits for requests (among the others in [`idle`]), [`queue`] the line in which requests
//! wait for it, with [`waiting`] their count. [`limit`] is such a line for a right. [`registration`] is the list of backends that
//! are connected. [`directory`] is the same for servers that do not
//! dial in but are connected to, and [`check`] asks such a server whether it is well. [`lease`] is a backend of either kind
//! for the time of one exchange; the exchange itself is in [`relay`](crate::relay).
//!
//! Nothing here knows the visitor's connection, or more of a request's site than which backends it may use.

pub mod check;
pub mod dial_in;
pub mod directory;
pub mod group;
mod idle;
pub mod lease;
pub mod limit;
pub mod pool;
pub mod queue;
pub mod registration;
pub mod shortage;
pub mod waiting;
