//! What the program does on commands at the status address.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Weak};
use std::time::Duration;

use swiftiply::config::LogLevel;
use swiftiply::internals::config::SiteEdit;
use swiftiply::internals::config::{EditOptions, LiveError};
use swiftiply::internals::server::ProcessCommands;
use swiftiply::server::Server;

use super::configuration::Configuration;
use super::program::control::Message;
use super::program::task::{NoOutcome, TaskThread};

/// The program, as far as commands concern it.
pub(crate) struct Commands {
    /// The server knows this; it must not keep itself alive.
    pub(crate) server: Weak<Server>,
    pub(crate) configuration: Arc<Configuration>,
    pub(crate) reloads: TaskThread<Result<String, String>>,
    pub(crate) upgrades: TaskThread<Result<String, String>>,
    pub(crate) control: Sender<Message>,
}

impl Commands {
    /// Runs a task and waits for its outcome.
    fn run(task: &TaskThread<Result<String, String>>) -> Result<String, String> {
        let outcome = task.ask_and_wait(LONGEST_TASK);
        outcome.unwrap_or_else(|why| match why {
            NoOutcome::Ending => Err(ENDING.to_owned()),
            NoOutcome::Late => Err(format!(
                "not done in {LONGEST_TASK:?}; it continues, and the log will say how it ended"
            )),
        })
    }
}

impl ProcessCommands for Commands {
    fn reload(&self) -> Result<String, String> {
        Self::run(&self.reloads)
    }

    fn check(&self) -> Result<String, String> {
        self.configuration.check()
    }

    fn upgrade(&self) -> Result<String, String> {
        Self::run(&self.upgrades)
    }

    fn stop(&self) {
        // Fails only when the program is ending already.
        let _ = self.control.send(Message::Stop);
    }

    fn set_log_level(&self, level: LogLevel) {
        self.configuration.set_log_level(level);
    }

    fn show(&self, site: Option<&str>) -> Result<String, LiveError> {
        self.configuration.show(site)
    }

    fn change(
        &self,
        site: &str,
        change: SiteEdit<'_>,
        options: EditOptions,
    ) -> Result<String, LiveError> {
        let Some(server) = self.server.upgrade() else {
            return Err(LiveError::File(ENDING.to_owned()));
        };
        self.configuration.change(&server, site, change, options)
    }

    fn unpersisted(&self) -> Vec<String> {
        self.configuration.unpersisted()
    }
}

/// How long a command waits for a reload or an upgrade. An upgrade itself has `upgrade_timeout`, by default a
/// minute, and swiftiplyctl waits a little longer than this.
const LONGEST_TASK: Duration = Duration::from_secs(80);
const ENDING: &str = "the server is stopping";
