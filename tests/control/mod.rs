//! What an operator does with sites and backends while the server runs.

pub(crate) mod commands;
mod draining;
mod pausing;
mod upgrading;
mod waiting;
