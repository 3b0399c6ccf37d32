//! Reads `logger` and `access_log`: where logs go, and what is in them.

use std::path::{Path, PathBuf};

use super::keys::FOREIGN_LOGGERS;
use super::raw::{self, Map, Node};
use super::section::Section;
use super::types::{
    AccessFormat, AccessLogConfig, AccessLogOutput, ExcludedRequests, LogDestination, LogLevel,
    Logger, SyslogConfig,
};
use super::value::{self, ValueError};

impl Section<'_> {
    /// Reads `logger`, if it is present.
    pub(super) fn logger(&self) -> Option<Logger> {
        raw::get(&self.map, "logger")?;
        let section = self.section("logger");
        // `level` takes precedence over `log_level`; without either, the level is the default.
        let key = if raw::get(&section.map, "level").is_some() {
            "level"
        } else {
            "log_level"
        };
        let level = section.take(key, value::level);
        if let (Some((_, false)), Some(node)) = (level, raw::get(&section.map, key)) {
            let shown = value::shown(node);
            section.note(
                key,
                &format!(" {shown}: taken as minimal; write disabled, minimal, normal or full"),
            );
        }
        let level = level.map_or(LogLevel::Normal, |(level, _)| level);
        let kind = section.take("type", value::text);
        let to = match kind.as_deref().map(str::to_ascii_lowercase).as_deref() {
            Some(other) if FOREIGN_LOGGERS.contains(&other) => {
                let kind = kind.unwrap_or_default();
                section.note(
                    "type",
                    &format!(" {kind:?}: not available yet, standard error is used"),
                );
                return Some(Logger {
                    to: LogDestination::Standard,
                    level,
                });
            }
            Some("syslog") => LogDestination::Syslog(section.syslog()),
            Some("stderr" | "stderror") => {
                section.take("file", value::path(self.directory));
                section.note_useless("file", "file");
                section.note_useless("facility", "syslog");
                LogDestination::Standard
            }
            Some("file") if raw::get(&section.map, "file").is_none() => {
                let message = "logger.type file: no file; write file: /var/log/swiftiply.log";
                self.findings.problem(section.place("type", None), message);
                LogDestination::Standard
            }
            None | Some("file") => {
                section.note_useless("facility", "syslog");
                let file = section.take("file", |node| {
                    self.to_be_written(value::path(self.directory)(node)?)
                });
                file.map_or(LogDestination::Standard, LogDestination::File)
            }
            Some(_) => {
                section.take("type", |_| {
                    Err::<(), _>("write stderr, file or syslog".into())
                });
                LogDestination::Standard
            }
        };
        Some(Logger { to, level })
    }

    /// Reads `access_log`; the default is the server's.
    pub(super) fn access_log(&self, server: Option<&AccessLogConfig>) -> Option<AccessLogConfig> {
        let (section, to) = match raw::get(&self.map, "access_log") {
            None => return server.cloned(),
            Some(node @ (Node::Bool(_) | Node::Text(_))) if value::truth(node) == Ok(false) => {
                return None;
            }
            Some(Node::Text(_)) => {
                let file = self.take("access_log", value::text);
                let section = self.inner("access_log", Map::new());
                let to = self.access_log_file(&section, file);
                (section, to)
            }
            Some(Node::Map(map)) => {
                let section = self.inner("access_log", map.clone());
                let to = self.access_log_destination(&section);
                (section, to)
            }
            Some(node) => {
                self.wrong(
                    "access_log",
                    None,
                    node,
                    "write {file: /var/log/access.log}, or false",
                );
                return None;
            }
        };
        let format = section.take("format", |node| match value::text(node).as_deref() {
            Ok("combined") => Ok(AccessFormat::Combined),
            Ok("json") => Ok(AccessFormat::Json),
            _ => Err("write combined or json".into()),
        });
        let exclude = section.section("exclude");
        let paths = exclude.take_many("paths", value::prefix);
        let agents = exclude.take_many("agents", value::text);
        Some(AccessLogConfig {
            output: AccessLogOutput {
                to,
                format: format.unwrap_or(AccessFormat::Combined),
            },
            exclude: ExcludedRequests {
                paths: paths.unwrap_or_default(),
                agents: agents.unwrap_or_default(),
            },
        })
    }

    /// Where the access log of a section goes.
    fn access_log_destination(&self, section: &Section<'_>) -> LogDestination {
        let kind = section.take("type", |node| match value::text(node)?.as_str() {
            "file" => Ok(false),
            "syslog" => Ok(true),
            _ => Err("write file or syslog".into()),
        });
        if kind == Some(true) {
            return LogDestination::Syslog(section.syslog());
        }
        section.note_useless("facility", "syslog");
        let file = section.take("file", value::text);
        if raw::get(&section.map, "file").is_none() {
            self.findings.problem(
                self.place("access_log", None),
                "access_log: no file; write file: /var/log/access.log, or \"-\"",
            );
        }
        self.access_log_file(section, file)
    }

    /// The file of an access log, or standard output.
    fn access_log_file(&self, section: &Section<'_>, file: Option<String>) -> LogDestination {
        let Some(file) = file.filter(|file| file != "-") else {
            return LogDestination::Standard;
        };
        let path = value::absolute(self.directory, Path::new(&file));
        if let Err(wrong) = self.to_be_written(path.clone()) {
            let node = Node::Text(path.display().to_string());
            match raw::get(&section.map, "file") {
                Some(_) => section.wrong("file", None, &node, &wrong),
                None => self.wrong("access_log", None, &node, &wrong),
            }
        }
        LogDestination::File(path)
    }

    /// Reads the keys of type syslog. The socket need not exist now: logs wait for it.
    fn syslog(&self) -> SyslogConfig {
        let socket = self.take("file", value::path(self.directory));
        SyslogConfig {
            socket: socket.unwrap_or_else(|| PathBuf::from(SYSLOG_SOCKET)),
            facility: self
                .take("facility", facility)
                .unwrap_or_else(|| "daemon".into()),
        }
    }

    /// Notes that a key has no effect with this type.
    fn note_useless(&self, key: &str, kind: &str) {
        if raw::get(&self.map, key).is_some() {
            self.note(key, &format!(": has no effect without type: {kind}"));
        }
    }
}

/// Reads a facility of syslog.
fn facility(node: &Node) -> Result<String, ValueError> {
    let name = value::text(node)?.to_ascii_lowercase();
    match FACILITIES.contains(&name.as_str()) {
        true => Ok(name),
        false => Err("write daemon, user, or local0 to local7".into()),
    }
}

/// Where the local syslog daemon listens.
const SYSLOG_SOCKET: &str = "/dev/log";

/// The facilities that a daemon may use.
const FACILITIES: [&str; 16] = [
    "daemon", "user", "mail", "news", "uucp", "cron", "auth", "authpriv", "local0", "local1",
    "local2", "local3", "local4", "local5", "local6", "local7",
];
