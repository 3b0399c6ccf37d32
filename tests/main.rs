//! The tests of the whole program: the real binary, real sockets.

mod access;
mod auth;
mod budgets;
mod common;
mod corpus;
mod demo;
mod dial_in;
mod dial_in_tls;
mod embedding;
mod faults;
mod files;
mod gzip;
mod laws;
mod layers;
mod logs;
mod memory;
mod messages;
mod needs;
mod pages;
mod parking;
mod phases;
mod precompressed;
#[cfg(feature = "redis")]
mod redis;
mod requests;
mod responses;
mod running;
mod secure;
mod slow;
mod thin;
mod traditional;
mod trusted_proxies;
mod tunnels;
mod vanished;
mod waiting;
mod websockets;
