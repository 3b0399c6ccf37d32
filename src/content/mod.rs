//! What is answered without an application, and who may see it.
//!
//! [`passwords`] are those of visitors, [`watched`] are files that are read again when they have changed.

pub mod passwords;
pub mod watched;
