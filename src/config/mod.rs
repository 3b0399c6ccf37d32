//! The checked configuration.
//!
//! What was typed (`raw`) and what is meant ([`Config`]) are two types. [`Config::from_yaml`] reads a
//! file's text and either returns a [`Config`] in which every value has been checked, together with
//! [`Note`]s about keys that have no effect, or *all* [`Problems`] at once, each with its line and key.
//!
//! Called on the main thread, at the start and at every reload. Nothing here opens a socket, or a file other
//! than the one that is read, and the `key_file`s, `users_file`s and pages that it names.
//!
//! **Invariants** of a [`Config`] that was loaded: at least one address to listen on, none of which is a
//! dial-in address too; at most one default site; no host name twice; every path absolute; every
//! deadline at least a millisecond.
//!
//! In reading order: `raw` (YAML as a tree with lines), `keys` (every key there is), `value` (one value read),
//! `section` (key by key), `check`, `site` and `files` (the top level, an entry of `map`), [`access`] (the file of
//! `swiftiply-access`), `problem` (messages), `print` (back to YAML).

pub mod access;
mod address;
pub(crate) mod auth;
mod check;
mod defaults;
mod files;
mod gzip;
mod inspection;
mod keys;
mod listen;
mod locate;
mod overrides;
mod pages;
mod print;
mod problem;
mod raw;
mod section;
mod site;
mod sites;
mod types;
mod value;

use std::path::Path;

pub use defaults::default_workers;
pub use inspection::{FileFault, Inspection};
pub use keys::{access_keys, keys};
pub use overrides::Overrides;
pub(crate) use pages::PAGE_BYTES;
pub use problem::{Note, Problem, Problems};
pub use types::{
    AccessFormat, AccessLogConfig, Address, BasicAuth, CacheConfig, CheckConfig, Config,
    DirectoryConfig, FileCache, Filter, GzipConfig, Limits, LogLevel, Logger, Network, Order,
    Outgoing, PageCache, Redis, Scheduling, SiteConfig, SocketFileConfig, Symlinks, Timeouts, Tls,
};
pub use value::size_text;
pub(crate) use value::{read_file, read_text};

impl Config {
    /// Reads a file. Its name in messages is `path` as given.
    ///
    /// # Errors
    ///
    /// What keeps the file from being read, or all that is wrong in it.
    pub fn load(path: &Path, overrides: &Overrides) -> Result<(Self, Vec<Note>), Problems> {
        let text = read(path, overrides.directory.as_deref())?;
        Self::from_yaml(&text, path, overrides)
    }

    /// Reads a file, or the command line alone, before a start, and looks into what it names: whatever would keep the
    /// server from starting is a problem, too, apart from what the system refuses.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn inspect(
        path: Option<&Path>,
        overrides: &Overrides,
        inspection: &Inspection,
    ) -> Result<(Self, Vec<Note>), Problems> {
        let Some(path) = path else {
            return check::overrides(overrides, Some(inspection));
        };
        let text = read(path, overrides.directory.as_deref())?;
        check::text(&text, path, overrides, Some(inspection))
    }

    /// Reads the text of a file. `file` is its name in messages.
    ///
    /// # Errors
    ///
    /// All that is wrong in it.
    pub fn from_yaml(
        text: &str,
        file: &Path,
        overrides: &Overrides,
    ) -> Result<(Self, Vec<Note>), Problems> {
        check::text(text, file, overrides, None)
    }

    /// The configuration of a server without a file.
    ///
    /// # Errors
    ///
    /// What is missing or wrong on the command line.
    pub fn from_overrides(overrides: &Overrides) -> Result<(Self, Vec<Note>), Problems> {
        check::overrides(overrides, None)
    }
}

/// The text of a file.
fn read(path: &Path, directory: Option<&Path>) -> Result<String, Problems> {
    let one = |line, message: String| Problems::one(path, line, message);
    let absolute = value::absolute(directory, path);
    let bytes = read_text(&absolute, FILE_BYTES).map_err(|wrong| one(None, wrong))?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
        one(Some(line), "not UTF-8".into())
    })
}

/// Bounds what is read of a file.
const FILE_BYTES: u64 = 16 << 20;

#[cfg(test)]
mod tests;
