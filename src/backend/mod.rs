//! Backends: how they join, where they wait, and how a request is given one.
//!
//! In reading order: [`preamble`] is what a backend sends first, [`dial_in`] the thread that takes it in,
//! [`pool`] where it waits for requests, [`queue`] the line in which requests wait; [`directory`] is the same for servers
//! that do not dial in but are connected to, [`check`] the request that finds out whether one of those is well.
//! [`lease`] is a backend of either kind for the time of one exchange. Nothing here knows the visitor's connection, or which
//! site a request belongs to beyond the site's settings.

pub mod check;
pub mod dial_in;
pub mod directory;
pub mod lease;
pub mod pool;
pub mod preamble;
pub mod queue;
