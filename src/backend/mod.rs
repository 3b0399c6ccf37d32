//! Backends: how they connect, where they wait, and how a request gets one.
//!
//! In reading order, for backends that dial in:
//!
//! - [`preamble`](crate::preamble): what a backend sends first.
//! - [`dial_in`]: the thread that accepts backends and reads their preambles.
//! - [`identity`]: what it has said about itself.
//! - [`registration`]: the list of connected backends.
//! - [`group`]: counts and logs backends that connect and disconnect.
//! - [`pool`]: where backends wait for requests, with [`idle`] as its data structure.
//! - [`machine`]: how busy each machine is, to choose among them.
//! - [`drained`]: the list of backends that get no requests until further notice.
//!
//! For servers that the proxy connects to (`proxy: traditional`): [`directory`], and [`check`], one health probe.
//!
//! For both: [`queue`] orders the requests that wait, [`waiting`] counts them, and [`shortage`] says why they wait.
//! [`pause`] lets all requests of a site wait, and [`reports`] logs changes in their order.
//! [`lease`] is a backend of either kind for the time of one exchange; the exchange itself is in
//! [`relay`](crate::relay). [`limit`] is a queue for permits, used for other things as well.
//!
//! Nothing here knows the client's connection, nor more of a request's site than which backends it may use.

pub mod check;
pub mod dial_in;
pub mod directory;
pub mod drained;
pub mod group;
pub mod identity;
mod idle;
pub mod lease;
pub mod limit;
pub mod machine;
pub mod pause;
pub mod pool;
pub mod queue;
pub mod registration;
mod reports;
pub mod shortage;
pub mod waiting;
