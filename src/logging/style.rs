//! The form of the lines for a destination: plain, for the journal of systemd, or for syslog.

use std::collections::BTreeMap;
use std::env;
use std::io::Write;
use std::path::Path;

use log::Level;
use syslog::{Facility, Formatter5424, LogFormat, Severity};

use crate::config::{LogDestination, SyslogConfig};
use crate::process;

/// The kind of lines, which decides where losses are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogKind {
    /// Messages: losses are reported in the same file and on standard error.
    Messages,
    /// Lines of an access log: losses are reported as messages.
    Access,
}

/// The form of the lines for a destination.
#[derive(Debug)]
pub(super) enum LineStyle {
    /// Messages begin with time and level.
    Plain,
    /// Each message begins with its priority, which the journal takes off, and its level (sd-daemon(3)).
    Journal,
    /// Each line is a message of RFC 5424.
    Syslog(Formatter5424),
}

impl LineStyle {
    pub(super) fn of(to: &LogDestination, kind: LogKind) -> Self {
        match to {
            LogDestination::Syslog(SyslogConfig { facility, .. }) => Self::Syslog(Formatter5424 {
                facility: facility.parse().unwrap_or(Facility::LOG_DAEMON),
                hostname: process::host_name().map(|name| word(&name)),
                process: program(),
                pid: std::process::id(),
            }),
            LogDestination::Standard if kind == LogKind::Messages && process::logs_to_journal() => {
                Self::Journal
            }
            LogDestination::Standard | LogDestination::File(_) => Self::Plain,
        }
    }

    /// Begins a line; what it is about follows.
    pub(super) fn begin(&self, level: Level, kind: LogKind, line: &mut Vec<u8>) {
        // Writing to memory does not fail.
        match self {
            Self::Plain => {}
            Self::Journal => {
                let _ = write!(line, "<{}>[{level}] ", severity(level) as u8);
            }
            Self::Syslog(formatter) => {
                let id = match kind {
                    LogKind::Messages => 0,
                    LogKind::Access => 1,
                };
                let _ = formatter.format(line, severity(level), (id, BTreeMap::new(), ""));
            }
        }
    }
}

const fn severity(level: Level) -> Severity {
    match level {
        Level::Error => Severity::LOG_ERR,
        Level::Warn => Severity::LOG_WARNING,
        Level::Info => Severity::LOG_INFO,
        Level::Debug | Level::Trace => Severity::LOG_DEBUG,
    }
}

/// The name of the program, as it was started.
fn program() -> String {
    let path = env::args_os().next().unwrap_or_default();
    let name = Path::new(&path).file_name();
    word(&name.unwrap_or_default().to_string_lossy())
}

/// A name as syslog allows it: printable ASCII without spaces, not too long, `-` if there is none.
fn word(name: &str) -> String {
    let letters = name.chars().filter(char::is_ascii_graphic).take(48);
    match letters.collect::<String>() {
        empty if empty.is_empty() => "-".into(),
        name => name,
    }
}
