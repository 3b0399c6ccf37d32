//! swiftiply: a clustering HTTP proxy whose backends dial in.

pub mod config;
pub mod http;
