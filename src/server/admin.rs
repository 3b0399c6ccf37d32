//! The status address: what the server is doing, for people, programs and Prometheus, and commands to it.
//!
//! It is apart from the traffic: a [`listener`] with a thread of its own, and one short-lived thread for each
//! [`connection`], which reads one request, writes one response and ends. At most 8 of them exist, and each has time
//! limits, so that no client of this address holds a worker or an acceptor of the proxy. Threads here take no lock of the
//! proxy for longer than it takes to copy what they need.
//!
//! [`permission`] decides whether a request may be answered: by the key, and for browsers by Host and Origin. [`routes`]
//! is the table of paths: each has a function that gets a [`AdminRequest`](message::AdminRequest) and returns a
//! [`AdminResponse`](message::AdminResponse). To add a command, add a row there. [`control`],
//! [`certificates`] and [`site_config`] are the commands.
//!
//! A [`view`] is the state of the server at one moment; [`status`] writes it as JSON, [`metrics`] for Prometheus, and
//! [`page`] is the page that shows the JSON. `swiftiplyctl` shows it too.

mod certificates;
mod connection;
mod context;
mod control;
mod listener;
mod message;
mod metrics;
mod page;
mod permission;
mod routes;
mod site_config;
mod status;
mod view;

pub(super) use context::AdminContext;
pub(super) use listener::{AdminListener, NewAdminListener, socket_file};
