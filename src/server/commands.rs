//! Commands that concern the process rather than the server: reload, upgrade, stop, the log, the configuration file.
//!
//! A server knows neither its file nor its process. A program that takes such commands at the status address gives the
//! server its [`ProcessCommands`]; without them they are refused.

use crate::config::LogLevel;
use crate::config::edit::SiteEdit;
use crate::config::live::{EditOptions, LiveError};

/// What a program does on commands to its server. Called on a thread of the connection that brought the command, which
/// may wait.
pub trait ProcessCommands: Send + Sync {
    /// Loads the configuration file again. Returns what to report.
    ///
    /// # Errors
    /// All problems, one a line. Nothing has changed.
    fn reload(&self) -> Result<String, String>;

    /// Checks the configuration file, and changes nothing. Returns what to report.
    ///
    /// # Errors
    /// All problems, one a line.
    fn check(&self) -> Result<String, String>;

    /// Starts a new process in the place of this one. Returns what to report when it serves.
    ///
    /// # Errors
    /// Why it does not. This one goes on.
    fn upgrade(&self) -> Result<String, String>;

    /// Begins to stop the server.
    fn stop(&self);

    /// Changes how much is logged, until the next reload.
    fn set_log_level(&self, level: LogLevel);

    /// The configuration in force as YAML, or the entry of a site.
    ///
    /// # Errors
    /// There is no such site, or no file.
    fn show(&self, site: Option<&str>) -> Result<String, LiveError>;

    /// Changes the configuration of a site. Returns what to report.
    ///
    /// # Errors
    /// Why that is refused. Nothing has changed, unless the error says so.
    fn change(
        &self,
        site: &str,
        change: SiteEdit<'_>,
        options: EditOptions,
    ) -> Result<String, LiveError>;

    /// The sites that differ from the file.
    fn unpersisted(&self) -> Vec<String>;
}
