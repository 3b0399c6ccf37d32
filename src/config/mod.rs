//! The configuration: read, checked, printed.
//!
//! The YAML as written (`raw`) and its checked meaning ([`Config`]) are two types. [`Config::from_yaml`] reads the
//! text of a file and returns either a [`Config`] in which every value is checked, with [`Note`]s about keys that have
//! no effect, or *all* [`Problems`] at once, each with its line and key.
//!
//! `references` puts values into texts; `include` reads further files with entries of `map`.
//!
//! Called on the main thread, at the start and at each reload. Nothing here opens a socket, or a file other than the
//! configuration, the files that it includes and the `key_file`s, `users_file`s and pages that it names.
//!
//! **Invariants** of a loaded [`Config`]: it has at least one address to listen on, and none of them is also a dial-in
//! address; at most one default site; no host name twice; every path is absolute; every deadline is at least a
//! millisecond.
//!
//! In reading order: `types` (the result), `defaults`, `constructors`, `raw` (YAML as a tree) with `locate` (lines), `keys`
//! (the table of all keys) with `similar` (which one is meant), `value` and `address` (single values), `section` (key by
//! key), `check`, `listen`, `acme`, `status` and `proxy_protocol` (the top level), `sites` and `site` with `files`, `auth`,
//! `clients`, `rate`, `gzip`, `logs` and `pages` (`map`), [`access`] (the file of
//! `swiftiply-access`), `problem` (messages), `print` (back to YAML) with `written` (single values).
//! `routes` reads the parts of a site that have backends of their own.
//! `redirects` and `headers` read what a site sends by itself, or changes.

pub mod access;
mod acme;
mod address;
pub(crate) mod auth;
mod check;
mod clients;
mod constructors;
mod defaults;
pub(crate) mod edit;
mod fastcgi;
mod files;
mod gzip;
mod headers;
mod include;
mod included;
pub(crate) mod inspection;
pub(crate) mod keys;
mod listen;
pub(crate) mod live;
mod locate;
mod logs;
mod overrides;
mod pages;
mod print;
mod problem;
mod proxy_protocol;
mod rate;
mod raw;
mod redirects;
mod references;
mod routes;
mod section;
mod server_tls;
mod servers;
mod similar;
mod site;
mod sites;
mod status;
mod types;
mod unpersisted;
pub(crate) mod value;
mod written;

use std::path::Path;

#[cfg(feature = "tls")]
pub(crate) use acme::is_public_name;
pub(crate) use inspection::Inspection;
pub use overrides::{CommandLineSite, Overrides};
pub(crate) use pages::PAGE_BYTES;
pub use problem::{Note, Problem, Problems};
pub use types::{
    AccessFormat, AccessLogConfig, AccessLogOutput, AcmeConfig, Address, BasicAuth, CacheConfig,
    ChallengeKind, ChallengeSharing, CheckConfig, ClientCertificate, ClientGroup, ClientRule,
    Config, DirectoryConfig, ExcludedRequests, ExternalAccount, FileCache, Filter, GzipConfig,
    InvalidPattern, Limits, LogDestination, LogLevel, Logger, Network, Order, Outgoing, PageCache,
    Pattern, ProxyProtocol, ProxyVersion, RateLimit, Redis, RedisDirectory, RequestIds,
    RouteConfig, Scheduling, SiteConfig, SiteTls, SocketFileConfig, StatusConfig, Symlinks,
    SyslogConfig, Timeouts, Tls,
};
pub use types::{
    Cors, ExpiresRule, FastCgiConfig, HeaderRule, Hsts, Redirect, Reference, ServerConfig,
    ServerProtocol, ServerTlsConfig,
};
pub(crate) use value::{read_file, read_text};
pub(crate) use value::{size_text, time_of};

impl Config {
    /// Reads a file. Messages name it `path`, as given.
    ///
    /// # Errors
    ///
    /// The reason why the file cannot be read, or all problems in it.
    pub fn load(path: &Path, overrides: &Overrides) -> Result<(Self, Vec<Note>), Problems> {
        let text = read(path, overrides.directory.as_deref())?;
        Self::from_yaml(&text, path, overrides)
    }

    /// Reads a file, or the command line alone, before a start, and also inspects the files that it names. Everything
    /// that would keep the server from starting is a problem, except errors of the system.
    ///
    /// # Errors
    ///
    /// Those of [`Config::load`].
    #[doc(hidden)]
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

    /// Reads where a server with this file takes commands (`status`), also if the file has problems elsewhere.
    ///
    /// # Errors
    ///
    /// The reason why the file cannot be read, or the problems in it.
    #[doc(hidden)]
    pub fn load_status(
        path: &Path,
        overrides: &Overrides,
    ) -> Result<Option<StatusConfig>, Problems> {
        let text = read(path, overrides.directory.as_deref())?;
        check::status(&text, path, overrides)
    }

    /// Reads the text of a file. Messages name it `file`.
    ///
    /// # Errors
    ///
    /// All problems in it.
    pub fn from_yaml(
        text: &str,
        file: &Path,
        overrides: &Overrides,
    ) -> Result<(Self, Vec<Note>), Problems> {
        check::text(text, file, overrides, None)
    }

    /// Checks a configuration whose values a program has set, as those of a file are checked, and completes it: host
    /// names in lower case, the names of sites, absolute paths.
    ///
    /// It is written as a file and read again, so there is no second set of checks. A path that is not UTF-8 cannot be
    /// written; then the values stay as they are.
    ///
    /// # Errors
    ///
    /// All problems, without lines.
    pub fn validated(self) -> Result<Self, Problems> {
        let text = self.to_yaml();
        if text.contains(char::REPLACEMENT_CHARACTER) {
            return Ok(self);
        }
        let overrides = Overrides {
            directory: std::env::current_dir().ok(),
            ..Overrides::default()
        };
        let read = Self::from_yaml(&text, Path::new("configuration"), &overrides);
        match read {
            Ok((config, _)) => Ok(config),
            Err(problems) => Err(problems.without_lines()),
        }
    }

    /// The configuration of a server without a file.
    ///
    /// # Errors
    ///
    /// All problems of the command line.
    #[doc(hidden)]
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

/// Largest configuration file in bytes.
const FILE_BYTES: u64 = 16 << 20;

#[cfg(test)]
mod tests;
