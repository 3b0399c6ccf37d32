//! The configuration of the running server: loaded again, checked, and changed site by site.

use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use swiftiply::config::{Config, LogLevel, Note, Overrides, Problems};
use swiftiply::internals::amount::counted;
use swiftiply::internals::config::SiteEdit;
use swiftiply::internals::config::{EditOptions, LiveConfig, LiveError, LoadedConfig};
use swiftiply::internals::logging::Logging;
use swiftiply::internals::net::INSPECTION;
use swiftiply::server::Server;

use super::drain::Graces;
use super::options::Invocation;
use super::program::report;

/// What the server was started with, and what is in force now.
pub(crate) struct Configuration {
    overrides: Overrides,
    /// The file; `None`: there is only the command line. Held for a whole reload or change, so that one follows the
    /// other.
    live: Mutex<Option<LiveConfig>>,
    graces: Mutex<Graces>,
    upgrade_timeout: Mutex<Duration>,
    /// The level of the logs if it was changed by a command since the last reload.
    level: Mutex<Option<LogLevel>>,
    logging: &'static Logging,
}

/// A configuration that was read for the start.
pub(crate) struct Inspected {
    pub(crate) config: Config,
    pub(crate) notes: Vec<Note>,
    live: Option<LiveConfig>,
}

/// The configuration while another process is started.
pub(crate) struct HeldConfiguration<'c> {
    /// Changes that are not in the file; see [`LiveConfig::changes`].
    pub(crate) changes: Option<String>,
    /// The level of the logs if it was changed by a command.
    pub(crate) level: Option<LogLevel>,
    _live: MutexGuard<'c, Option<LiveConfig>>,
}

impl Inspected {
    /// Reads the configuration before a start, and checks the files that it names. `changes`: those of a process that this one
    /// follows.
    ///
    /// # Errors
    /// All problems.
    pub(crate) fn read(invocation: &Invocation, changes: Option<&str>) -> Result<Self, Problems> {
        let overrides = &invocation.overrides;
        let Some(file) = &invocation.file else {
            let (config, notes) = Config::inspect(None, overrides, &INSPECTION)?;
            return Ok(Self {
                config,
                notes,
                live: None,
            });
        };
        let (live, loaded) = LiveConfig::open(file, changes, overrides, &INSPECTION)?;
        Ok(Self {
            config: loaded.config,
            notes: loaded.notes,
            live: Some(live),
        })
    }
}

impl Configuration {
    /// That of a server that runs now.
    pub(crate) fn new(
        invocation: Invocation,
        inspected: Inspected,
        logging: &'static Logging,
    ) -> Self {
        Self {
            overrides: invocation.overrides,
            live: Mutex::new(inspected.live),
            graces: Mutex::new(Graces::of(&inspected.config)),
            upgrade_timeout: Mutex::new(inspected.config.upgrade_timeout),
            level: Mutex::new(None),
            logging,
        }
    }

    /// How long to drain at most.
    pub(crate) fn graces(&self) -> Graces {
        *self.graces.lock()
    }

    /// How long a new process may take until it serves.
    pub(crate) fn upgrade_timeout(&self) -> Duration {
        *self.upgrade_timeout.lock()
    }

    /// Switches to the configuration in the file, all or nothing. Returns what to report.
    ///
    /// # Errors
    /// All problems, one a line.
    pub(crate) fn reload(&self, server: &Server) -> Result<String, String> {
        let mut live = self.live.lock();
        let problems = |problems: Problems| report(&problems);
        let (config, notes) = match &mut *live {
            None => Config::from_overrides(&self.overrides).map_err(problems)?,
            Some(file) => {
                let loaded = file.load().map_err(problems)?;
                self.put_into_force(server, &loaded.config)?;
                *self.level.lock() = None;
                let lost = file.set_loaded(&loaded);
                return Ok(reloaded(&loaded.config, &loaded.notes, &lost));
            }
        };
        self.put_into_force(server, &config)?;
        *self.level.lock() = None;
        Ok(reloaded(&config, &notes, &[]))
    }

    /// Changes how much is logged, until the next reload.
    pub(crate) fn set_log_level(&self, level: LogLevel) {
        let mut own = self.level.lock();
        self.logging.set_level(level);
        *own = Some(level);
    }

    /// Keeps the configuration as it is for a process that is to follow this one, as long as the result lives.
    ///
    /// # Errors
    /// It is being changed.
    pub(crate) fn hold(&self) -> Result<HeldConfiguration<'_>, &'static str> {
        let live = self.lock()?;
        Ok(HeldConfiguration {
            changes: live.as_ref().and_then(LiveConfig::changes),
            level: *self.level.lock(),
            _live: live,
        })
    }

    /// Checks the file, and changes nothing. Returns what to report.
    ///
    /// # Errors
    /// All problems, one a line.
    pub(crate) fn check(&self) -> Result<String, String> {
        let live = self.lock().map_err(str::to_owned)?;
        let problems = |problems: Problems| report(&problems);
        let (config, notes, mut lost) = match &*live {
            None => {
                let (config, notes) =
                    Config::inspect(None, &self.overrides, &INSPECTION).map_err(problems)?;
                (config, notes, Vec::new())
            }
            Some(file) => {
                let LoadedConfig { config, notes, .. } =
                    file.inspect(&INSPECTION).map_err(problems)?;
                let lost = file.unpersisted().map(str::to_owned).collect();
                (config, notes, lost)
            }
        };
        drop(live);
        Server::check(&config).map_err(|error| error.to_string())?;
        let mut lines: Vec<_> = notes.iter().map(ToString::to_string).collect();
        lines.push(format!("ok: {}", count_of_sites(&config)));
        lost.sort_unstable();
        if !lost.is_empty() {
            let lost = lost.join(", ");
            lines.push(format!(
                "changes that a reload would lose, since they are not in the file: {lost}"
            ));
        }
        Ok(lines.join("\n"))
    }

    /// The configuration in force as YAML, or the entry of a site.
    ///
    /// # Errors
    /// There is no such site, or no file.
    pub(crate) fn show(&self, site: Option<&str>) -> Result<String, LiveError> {
        let live = self.lock().map_err(|why| LiveError::File(why.to_owned()))?;
        with_file(live.as_ref())?.show(site)
    }

    /// Changes the configuration of a site. Returns what to report.
    ///
    /// # Errors
    /// Why that is refused.
    pub(crate) fn change(
        &self,
        server: &Server,
        site: &str,
        change: SiteEdit<'_>,
        options: EditOptions,
    ) -> Result<String, LiveError> {
        let mut live = self.lock().map_err(|why| LiveError::File(why.to_owned()))?;
        if server.is_replaced() {
            let why = "another process has just replaced this one; give the command to that one";
            return Err(LiveError::File(why.to_owned()));
        }
        let file = with_file(live.as_mut())?;
        let prepared = file.prepare(site, change, options)?;
        // Everything that can fail comes first.
        let new_file = file.write(&prepared)?;
        self.put_into_force(server, &prepared.loaded.config)
            .map_err(LiveError::Invalid)?;
        for note in &prepared.loaded.notes {
            log::warn!("{note}");
        }
        let done = match (change, prepared.added) {
            (SiteEdit::Remove, _) => "removed",
            (_, true) => "added",
            (_, false) => "changed",
        };
        if let Some(level) = *self.level.lock() {
            self.logging.set_level(level);
        }
        file.commit(prepared, new_file)?;
        if options.persist {
            log::info!("configuration of site {site} {done} by a command, also in the file");
            return Ok(format!("site {site} is {done}, also in the file"));
        }
        log::info!("configuration of site {site} {done} by a command, until the next reload");
        Ok(format!("site {site} is {done}, until the next reload"))
    }

    /// The sites that differ from the file; none while a reload or a change is under way.
    pub(crate) fn unpersisted(&self) -> Vec<String> {
        let live = self.live.try_lock();
        let file = live.as_ref().and_then(|live| live.as_ref());
        file.map_or_else(Vec::new, |file| {
            file.unpersisted().map(str::to_owned).collect()
        })
    }

    /// The configuration, for a command: a reload may wait for a file forever, and commands must not wait for that.
    fn lock(&self) -> Result<MutexGuard<'_, Option<LiveConfig>>, &'static str> {
        let live = self.live.try_lock_for(LONGEST_WAIT);
        live.ok_or("a reload or a change has been under way for a while; try again when it is over")
    }

    fn put_into_force(&self, server: &Server, config: &Config) -> Result<(), String> {
        let logs = self.logging.prepare(config);
        let logs = logs.map_err(|error| error.to_string())?;
        server
            .reload_loaded(config.clone())
            .map_err(|error| error.to_string())?;
        logs.commit();
        *self.graces.lock() = Graces::of(config);
        *self.upgrade_timeout.lock() = config.upgrade_timeout;
        Ok(())
    }
}

/// How long a command waits for a reload or a change that is under way.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

fn with_file<T>(file: Option<T>) -> Result<T, LiveError> {
    file.ok_or_else(|| LiveError::File("the server has no configuration file".to_owned()))
}

/// Logs a reload, and returns what to report.
fn reloaded(config: &Config, notes: &[Note], lost: &[String]) -> String {
    let mut lines: Vec<_> = notes.iter().map(ToString::to_string).collect();
    for note in notes {
        log::warn!("{note}");
    }
    if !lost.is_empty() {
        let lost = lost.join(", ");
        log::warn!("lost with the reload, since they were not in the file: changes of {lost}");
        lines.push(format!(
            "lost, since they were not in the file: changes of {lost}"
        ));
    }
    let done = format!("reloaded: {}", count_of_sites(config));
    log::info!("{done}");
    lines.push(done);
    lines.join("\n")
}

/// The number of sites, in words.
pub(crate) fn count_of_sites(config: &Config) -> String {
    let sites = config.sites.iter();
    let count = sites.filter(|site| site.route.is_none()).count();
    counted(count, "site")
}
