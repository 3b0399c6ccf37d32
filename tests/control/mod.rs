//! What an operator does with sites and backends while the server runs.

mod draining;
mod pausing;
