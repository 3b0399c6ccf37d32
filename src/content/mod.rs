//! What is answered without an application, and who may see it.
//!
//! [`files`] are those below a directory: [`root`] finds them safely, [`cache`] remembers what was found. [`watched`] are
//! files that are read again when they have changed, and `gzip` compresses what passes through.

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
