//! Everything that is served without a backend.
//!
//! [`files`] serves the files below a directory, with the help of `locator` (which file), [`root`] (opens it safely),
//! [`cache`] and [`seen`] (what was found before), [`entity`] (its validators) and `response`. [`watched`] reads files
//! again when they change, and `gzip` compresses bodies.

pub mod cache;
pub mod entity;
pub mod files;
#[cfg(feature = "gzip")]
pub mod gzip;
#[cfg(not(feature = "gzip"))]
#[path = "no_gzip.rs"]
pub mod gzip;
mod locator;
mod response;
pub mod root;
pub mod seen;
mod settings;
pub mod watched;
