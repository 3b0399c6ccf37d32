//! The server: its threads, what they share, and how it starts, reloads and stops.
//!
//! A program holds a [`Server`]: [`start`] makes it, [`handle`] controls it, and [`reload`] changes its configuration.
//! [`operations`] pause, drain and close sites while they run, by the [`switches`] of a site; [`commands`] are
//! those that only the program can carry out.
//!
//! In reading order: [`accept`] makes a [`session`] of each new connection, and a [`worker`] runs it with its
//! [`scratch`] buffers. The session goes through the states of a connection: [`route`] chooses the site, [`permission`]
//! refuses clients by network, [`rate_limit`] those that send too much, [`auth`] asks for a password at some [`paths`], which [`checks`] schedules, [`redirects`],
//! [`files`] and [`pages`] make the server's own responses, whose fields a site may change ([`fields`]), and [`body`]
//! reads the request's body. [`pending`] is the request on its way through [`relay`](crate::relay), with its fields for
//! the backend ([`forwarding`]) and its response, compressed or not ([`compress`]); [`failures`] is its end without one. [`snapshot`] is the configuration
//! as it runs, with the [`site_files`] and [`sticky`] patterns of its sites. [`shared`] is what the threads have in
//! common; sessions wait in [`sessions`], where [`idle`] and [`tick`] close them. [`addresses`] is where the server
//! listens, with the [`certificates`] that [`certificate_watch`] reads again; [`upgrade`] is how another process replaces this one, and [`succession`] what they send each other then.
//! [`admission`] limits the connections of a client and of a site, [`descriptors`] those of each side. The
//! [`drainer`] reads the rest of responses that no client gets. [`admin`] is the status address, apart from the traffic; [`history`] is what it shows of the past.
//!
//! | lock | guards | held for |
//! |---|---|---|
//! | `Server::reloading` | the order of reloads | a reload, with the files that it reads |
//! | `Server::running` | listeners and their threads | start, the change of a reload to the new configuration, stop |
//! | `Shared::drained` | the list of drained backends | a change of it, the change of a reload to the new configuration |
//! | `Shared::snapshot`, `ClientListener::tls` | the current snapshot, certificates | a clone |
//! | poller slots | parked sessions, handed-over sessions, deadlines | a few instructions, or a scan of all sessions: in a drain, and to make room for new connections, requests and bodies |
//! | `Pool::state`, `Directory::state`, `ConcurrencyLimit` | idle backends, free connection slots, free permits, each with its queue | a few instructions |
//! | `Slot::content` | what a request in a queue was given, or its waker | a few instructions, or the wait of a worker (Condvar) |
//! | `Succession::others` | the links to other processes of the server | a few instructions |
//! | `ActivatedSockets::served` | which address each socket of the service manager serves | look-ups of addresses |
//! | `Shared::successor` | the link to the process that has replaced this one | a clone |
//! | alarm, inboxes of the tunnels and the drainer, `Clients`, `Checks`, shards of the `RateLimiter`, `Shares`, dial-in connections, groups and settings, resolved addresses, the state of the Redis thread, `Sessions::shedding`, `AdminContext::connections`, `Shared::certificates`, `Shared::reload`, `Shared::history`, machines | see there | a few instructions |
//! | `Files::cache`, `Root::handle` | what is known about paths, a directory | a look-up, a clone |
//! | `Watched::state`, `Users::verified` | a file's content, credentials that were correct | a clone, a few instructions |
//! | those of [`acme`](crate::acme), `SiteCertificates`, `NameQueue` | pending challenges, names and their certificates, names that clients ask for | a look-up, a few instructions; with the lock of the names, the change of their certificates and of what is asked for |
//! | those of [`logging`](crate::logging) | lines on their way into a log; the loggers | adding a line |
//!
//! All but the first three are leaves, and so are those of a log except its loggers. A worker never takes the first three, nor
//! `Succession::others` and `ActivatedSockets::served`.

mod accept;
mod addresses;
mod admin;
pub(crate) mod admission;
pub(crate) mod auth;
pub(crate) mod body;
mod certificate_watch;
pub(crate) mod certificates;
pub(crate) mod checks;
pub(crate) mod commands;
pub(crate) mod compress;
mod descriptors;
mod drainer;
mod error;
pub(crate) mod failures;
pub(crate) mod fields;
pub(crate) mod files;
mod forwarding;
mod handle;
mod history;
pub(crate) mod identity;
mod idle;
mod operate;
mod operations;
pub(crate) mod pages;
mod params;
pub(crate) mod paths;
pub(crate) mod pending;
pub(crate) mod permission;
pub(crate) mod rate_limit;
pub(crate) mod redirects;
mod reload;
pub(crate) mod route;
mod routes;
pub(crate) mod scratch;
pub(crate) mod session;
pub(crate) mod sessions;
pub(crate) mod shared;
pub(crate) mod site_files;
pub(crate) mod snapshot;
mod start;
pub(crate) mod sticky;
pub(crate) mod succession;
pub(crate) mod switches;
mod threads;
mod tick;
mod upgrade;
pub(crate) mod worker;

pub use error::StartError;
pub use handle::Server;
pub use operations::{DrainedBackends, OperationError};
pub use start::Bound;

pub use crate::backend::drained::DrainedName;
pub use crate::backend::registration::ConnectedBackend;
pub use crate::content::watched::FileError;
pub use crate::logging::OpenError;
pub use crate::net::listener::{BindError, LocalAddress};
pub use crate::net::stream::Peer;
pub use crate::net::tls::LoadError;
pub use crate::preamble::{Id, Name};
