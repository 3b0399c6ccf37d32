//! What is answered without an application, and who may see it.
//!
//! [`files`] are those below a directory: [`root`] finds them safely, [`cache`] remembers what was found. [`watched`] are
//! files that are read again when they have changed, and `gzip` compresses what passes through.

pub mod cache;
pub mod files;
#[cfg(feature = "gzip")]
pub mod gzip;
#[cfg(not(feature = "gzip"))]
#[path = "no_gzip.rs"]
pub mod gzip;
pub mod root;
pub mod watched;
