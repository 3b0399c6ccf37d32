//! swiftiply: a clustering HTTP proxy whose backends dial in.

pub mod backend;
pub mod client;
pub mod config;
pub mod exchange;
pub mod http;
pub mod logging;
pub mod net;
pub mod process;
pub mod server;
pub mod stats;

pub use server::Server;
