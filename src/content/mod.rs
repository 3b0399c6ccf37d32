//! Everything that is served without a backend.
//!
//! [`files`] serves the files below a directory, with the help of `locator` (which file), [`root`] (opens it safely),
//! [`cache`] and [`seen`] (what was found before), [`entity`] (its validators), `response` and `listing`; it finds [`scripts`] as well. [`watched`] reads files
//! again when they change, and `gzip` compresses bodies.

pub mod cache;
pub mod entity;
pub mod files;
#[cfg(feature = "gzip")]
pub mod gzip;
#[cfg(not(feature = "gzip"))]
#[path = "no_gzip.rs"]
pub mod gzip;
mod listing;
mod locator;
mod response;
pub mod root;
pub mod scripts;
pub mod seen;
mod settings;
pub mod watched;

/// The media type that the file at a decoded path has. One without an extension is taken for a directory or a page.
pub fn content_type_of(path: &[u8]) -> std::borrow::Cow<'static, str> {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    match name.contains(&b'.') {
        true => entity::content_type(name),
        false => "text/html; charset=utf-8".into(),
    }
}
