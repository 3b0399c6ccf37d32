//! A new process takes the place of this one, with its listening sockets (USR2).
//!
//! The old process starts the program that is at its path now, with the same arguments, and with one end of a [`Channel`] as
//! standard input:
//!
//! | from | message | means |
//! |---|---|---|
//! | old | `clients ADDRESS`, `backends ADDRESS` or `status ADDRESS`, with a socket | each socket on which it listens, by its configured address |
//! | old | `activated NAME`, with a socket | each socket of the service manager |
//! | old | `pid PATH`, with the file | the pid file, which the rights of the new process may not let it open |
//! | old | `switched TEXT` | what an operator has paused, drained or closed ([`Server::switched`]) |
//! | old | `level LEVEL` | the level of the logs if a command has changed it |
//! | old | `changes TEXT` | a piece of the changes of the configuration that are not in the file ([`HeldConfiguration`]) |
//! | old | `end` | these were all |
//! | new | `ready` | it serves |
//!
//! Then the old process drains, and sends its idle connections over the channel ([`Server::hand_over`]). Whatever goes wrong
//! before leaves it as it was; the new process ends when the channel does.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use swiftiply::config::LogLevel;
use swiftiply::internals::net::activation::{ActivatedSockets, Inherited};
use swiftiply::internals::process::apart::Apart;
use swiftiply::internals::process::channel::Channel;
use swiftiply::internals::process::pid_file::PidFile;
use swiftiply::internals::process::reason;
use swiftiply::internals::process::service;
use swiftiply::server::Server;

use super::configuration::{Configuration, HeldConfiguration};

/// How a new process is started.
#[derive(Debug)]
pub(crate) struct Upgrade {
    program: io::Result<PathBuf>,
    arguments: Vec<OsString>,
    /// Where relative paths begin.
    directory: Option<PathBuf>,
}

impl Upgrade {
    /// To be made at the start, when the program is still found at its path.
    pub(crate) fn prepare() -> Self {
        let arguments = std::env::args_os().skip(1);
        Self {
            program: std::env::current_exe(),
            arguments: arguments.filter(|argument| argument != OPTION).collect(),
            directory: std::env::current_dir().ok(),
        }
    }

    /// Starts a new process and gives it the listening sockets. Returns when it serves.
    ///
    /// # Errors
    /// Why it does not; it has ended then.
    pub(crate) fn run(
        &self,
        server: &Server,
        pid_file: Option<&PidFile>,
        configuration: &Configuration,
    ) -> Result<(), String> {
        let limit = configuration.upgrade_timeout();
        // Changes by commands would be lost with this process.
        let held = configuration.hold().map_err(str::to_owned)?;
        let program = self.program.as_ref().map_err(reason)?;
        log::info!("upgrade: starting {}", program.display());
        let (channel, end) = Channel::pair().map_err(|error| reason(&error))?;
        let mut command = Command::new(program);
        command.arg(OPTION).args(&self.arguments).stdin(end);
        service::prepare_successor(&mut command);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        // It must not stay a child of this process, which may drain for hours: the service manager would not notice its end.
        let started = Apart::start(&mut command);
        // The end of the new process that it still has would keep the channel open.
        drop(command);
        let child =
            started.map_err(|error| format!("{}: {}", program.display(), reason(&error)))?;
        let served = serve_instead(&channel, server, pid_file, &held, limit);
        let served = served.and_then(|()| match server.is_draining() {
            true => Err(UpgradeFailure::Stopping),
            false => Ok(()),
        });
        if let Err(why) = served {
            // As if nothing had been.
            drop(channel);
            let end = end_of(child, &why);
            if let Some(Err(why)) = pid_file.map(PidFile::restore) {
                log::error!("pidfile: {why}");
            }
            return Err(why.to_text(limit, end));
        }
        if let Err(error) = server.hand_over(channel) {
            log::warn!(
                "upgrade: idle connections are not handed over: {}",
                reason(&error)
            );
        }
        let pid = child.id();
        child.release();
        if let Err(error) = service::notify(&format!("MAINPID={pid}")) {
            log::warn!("NOTIFY_SOCKET: {}", reason(&error));
        }
        log::info!("upgrade: process {pid} serves");
        Ok(())
    }
}

/// Why a new process does not take the place of this one.
#[derive(Debug)]
enum UpgradeFailure {
    /// It has ended, perhaps after it has logged why.
    Ended,
    /// It takes too long.
    Late,
    /// It serves, but meanwhile this process has been asked to stop.
    Stopping,
    Other(String),
}

impl UpgradeFailure {
    /// `end`: the exit status of the new process, if that has ended by itself.
    fn to_text(&self, limit: Duration, end: Option<i32>) -> String {
        let status = end.map_or_else(String::new, |end| format!(", with status {end}"));
        match self {
            Self::Ended => format!("the new process ended{status}"),
            Self::Late => {
                format!("the new process does not serve after {limit:?} (upgrade_timeout)")
            }
            Self::Stopping => "the server is stopping".to_owned(),
            Self::Other(why) => format!("{why}{status}"),
        }
    }
}

impl From<io::Error> for UpgradeFailure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Ended,
            io::ErrorKind::TimedOut => Self::Late,
            _ => Self::Other(reason(&error)),
        }
    }
}

/// The conversation with the new process.
fn serve_instead(
    channel: &Channel,
    server: &Server,
    pid_file: Option<&PidFile>,
    configuration: &HeldConfiguration<'_>,
    limit: Duration,
) -> Result<(), UpgradeFailure> {
    let deadline = Instant::now() + limit;
    channel.set_send_timeout(limit)?;
    for (kind, listeners) in [CLIENTS, BACKENDS, STATUS]
        .into_iter()
        .zip(server.listeners())
    {
        for (address, listener) in listeners {
            channel.send(&format!("{kind}{address}"), Some(listener.as_fd()))?;
        }
    }
    for (name, socket) in server.activated().all() {
        channel.send(&format!("{ACTIVATED}{name}"), Some(socket))?;
    }
    if let Some((path, file)) = pid_file.map(PidFile::parts) {
        channel.send(&format!("{PID_FILE}{}", path.display()), Some(file))?;
    }
    for text in server.switched() {
        channel.send(&format!("{SWITCHED}{text}"), None)?;
    }
    if let Some(level) = configuration.level {
        channel.send(&format!("{LEVEL}{}", level.word()), None)?;
    }
    let mut rest = configuration.changes.as_deref().unwrap_or_default();
    while !rest.is_empty() {
        let (piece, left) = rest.split_at(rest.floor_char_boundary(PIECE));
        channel.send(&format!("{CHANGES}{piece}"), None)?;
        rest = left;
    }
    channel.send(END, None)?;
    match channel.receive(deadline.saturating_duration_since(Instant::now()))? {
        Some((text, _)) if text == READY => Ok(()),
        Some((text, _)) => Err(UpgradeFailure::Other(format!(
            "the new process said {text:?}"
        ))),
        None => Err(UpgradeFailure::Ended),
    }
}

/// Waits for the end of a new process that is not wanted any more. Returns its exit status if it has ended by itself.
fn end_of(mut child: Apart, why: &UpgradeFailure) -> Option<i32> {
    match why {
        UpgradeFailure::Late => {
            child.kill();
            return None;
        }
        // It has accepted connections.
        UpgradeFailure::Stopping => child.terminate(),
        UpgradeFailure::Ended | UpgradeFailure::Other(_) => {}
    }
    let since = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.code(),
            Ok(None) if since.elapsed() < LONGEST_END => thread::sleep(Duration::from_millis(10)),
            _ => {
                child.kill();
                return None;
            }
        }
    }
}

/// The process that this one follows.
#[derive(Debug)]
pub(crate) struct Predecessor {
    channel: Channel,
    /// Its listening sockets.
    pub(crate) inherited: Inherited,
    /// What an operator has switched there.
    pub(crate) switched: Vec<String>,
    /// The changes of the configuration that were in force there, and not in the file.
    pub(crate) changes: Option<String>,
    /// The level of the logs if a command has changed it there.
    pub(crate) level: Option<LogLevel>,
    pid_file: Option<(String, OwnedFd)>,
}

impl Predecessor {
    /// Whether there is one: an option that only it gives says so, and is taken out.
    pub(crate) fn is_there(arguments: &mut Vec<OsString>) -> bool {
        let before = arguments.len();
        arguments.retain(|argument| argument != OPTION);
        arguments.len() < before
    }

    /// Takes its listening sockets.
    ///
    /// # Errors
    /// It has ended, or this process was not started by one.
    pub(crate) fn meet() -> Result<Self, String> {
        let failed = |error: io::Error| format!("{OPTION}: {}", reason(&error));
        let channel = Channel::inherited().map_err(failed)?;
        let mut inherited = Inherited::default();
        let mut activated = Vec::new();
        let mut switched = Vec::new();
        let mut changes: Option<String> = None;
        let mut level = None;
        let mut pid_file = None;
        loop {
            match channel.receive(PATIENCE).map_err(failed)? {
                Some((text, None)) if text == END => break,
                Some((text, Some(socket))) => {
                    if let Some(address) = text.strip_prefix(CLIENTS) {
                        inherited.clients.add(address.to_owned(), socket);
                    } else if let Some(address) = text.strip_prefix(BACKENDS) {
                        inherited.backends.add(address.to_owned(), socket);
                    } else if let Some(address) = text.strip_prefix(STATUS) {
                        inherited.status.add(address.to_owned(), socket);
                    } else if let Some(name) = text.strip_prefix(ACTIVATED) {
                        activated.push((name.to_owned(), socket));
                    } else if let Some(path) = text.strip_prefix(PID_FILE) {
                        pid_file = Some((path.to_owned(), socket));
                    }
                }
                Some((text, None)) if text.starts_with(SWITCHED) => {
                    switched.push(text[SWITCHED.len()..].to_owned());
                }
                Some((text, None)) if text.starts_with(CHANGES) => {
                    let changes = changes.get_or_insert_default();
                    changes.push_str(&text[CHANGES.len()..]);
                }
                Some((text, None)) if text.starts_with(LEVEL) => {
                    level = LogLevel::named(&text[LEVEL.len()..]);
                }
                _ => return Err(format!("{OPTION}: the program gives this to itself only")),
            }
        }
        inherited.activated = Arc::new(ActivatedSockets::new(activated));
        Ok(Self {
            channel,
            inherited,
            switched,
            changes,
            level,
            pid_file,
        })
    }

    /// Writes the pid file: that of the other process, if it has the same one.
    ///
    /// # Errors
    /// Why it cannot be written.
    pub(crate) fn write_pid_file(&mut self, path: &Path) -> Result<PidFile, String> {
        match self.pid_file.take() {
            Some((theirs, file)) if Path::new(&theirs) == path => PidFile::adopt(path, file),
            _ => PidFile::write(path),
        }
    }

    /// This process serves. Returns the channel, over which the other one sends its idle connections.
    ///
    /// # Errors
    /// The other one is gone.
    pub(crate) fn ready(self) -> Result<Channel, String> {
        let sent = self.channel.send(READY, None);
        sent.map_err(|error| format!("upgrade: {}", reason(&error)))?;
        Ok(self.channel)
    }
}

/// The option by which a new process knows that it follows another. The program gives it to itself only.
const OPTION: &str = "--take-over";
const CLIENTS: &str = "clients ";
const BACKENDS: &str = "backends ";
const STATUS: &str = "status ";
const ACTIVATED: &str = "activated ";
const PID_FILE: &str = "pid ";
const SWITCHED: &str = "switched ";
const CHANGES: &str = "changes ";
const LEVEL: &str = "level ";
const END: &str = "end";
const READY: &str = "ready";
/// Bytes of the changes in a message.
const PIECE: usize = 3072;
/// How long the new process waits for the old one.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a new process may take to end once the channel is closed.
const LONGEST_END: Duration = Duration::from_secs(5);
