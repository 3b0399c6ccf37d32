//! Where messages go, and the access log.
//!
//! Everything in the program speaks through the `log` crate. The server binary installs a [`Logging`], which
//! sends each record to the logger of its site (by the record's target, `site:NAME`) or to the server's; a
//! program that embeds the server installs what it likes. The lines are written by `simplelog`.
//!
//! [`AccessLog`] is apart from that: a line for each exchange, buffered, written out once a second by the tick.
//!
//! **Invariants**: a line goes out whole, in one write unless it is longer than the buffer; what cannot be written is
//! lost, and nobody waits for it.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use log::{LevelFilter, Log, Metadata, Record};
use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use simplelog::{ConfigBuilder, SharedLogger, WriteLogger};

use crate::config::{AccessFormat, Config, Level, Logger};

/// The loggers of a server and of its sites.
#[derive(Default)]
pub struct Logging {
    sinks: RwLock<Sinks>,
}

/// Loggers that are open and not used yet.
pub struct Prepared {
    logging: &'static Logging,
    sinks: Sinks,
}

/// The lines of exchanges, to one file.
#[derive(Debug)]
pub struct AccessLog {
    format: AccessFormat,
    output: Output,
}

/// One line of an access log.
#[derive(Debug, Serialize)]
pub struct Entry<'a> {
    /// When the request was complete; rendered by [`AccessLog::write`].
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// The visitor's address.
    pub client: &'a str,
    /// Who the visitor is, if it had to prove that, else `-`.
    pub user: &'a str,
    /// The method, `-` if the request could not be read.
    pub method: &'a str,
    /// The target as it was forwarded.
    pub target: &'a str,
    /// The host that was asked for.
    pub host: &'a str,
    /// `HTTP/1.0` or `HTTP/1.1`.
    pub version: &'a str,
    /// The status code of the answer, 0 if there was none.
    pub status: u16,
    /// Bytes of the answer's body that were handed to the system.
    pub bytes: u64,
    /// The name of the site, `-` if none.
    pub site: &'a str,
    /// The id of the backend, `-` if none.
    pub backend: &'a str,
    /// Milliseconds of waiting for a backend.
    #[serde(serialize_with = "milliseconds")]
    pub queue_ms: Duration,
    /// Milliseconds from having a backend to the head of its answer.
    #[serde(serialize_with = "milliseconds")]
    pub backend_ms: Duration,
    /// Milliseconds from the whole head of the request to the end of the answer.
    #[serde(serialize_with = "milliseconds")]
    pub total_ms: Duration,
    /// `complete`, or the reason for which the exchange was cut.
    pub ended: &'a str,
    /// The request's Referer, `-` if none.
    pub referer: &'a str,
    /// The request's User-Agent, `-` if none.
    pub user_agent: &'a str,
}

#[derive(Default)]
struct Sinks {
    server: Option<Sink>,
    sites: HashMap<String, Sink>,
}

struct Sink {
    writer: Box<WriteLogger<Output>>,
    output: Output,
}

/// A file that can be opened anew under its name, or a standard stream.
#[derive(Clone, Debug)]
struct Output {
    path: Option<PathBuf>,
    writer: Arc<Mutex<BufWriter<Target>>>,
}

#[derive(Debug)]
enum Target {
    File(File),
    /// A file that is opened for each write.
    Named(PathBuf),
    Stdout,
    Stderr,
}

impl Logging {
    /// Makes this the program's logger, until its end. Until something is prepared and committed, messages go nowhere.
    ///
    /// # Errors
    /// If the program has a logger already.
    pub fn install() -> Result<&'static Self, log::SetLoggerError> {
        let logging: &'static Self = Box::leak(Box::default());
        log::set_logger(logging)?;
        Ok(logging)
    }

    /// Opens what a configuration names. Nothing goes there before [`Prepared::commit`].
    ///
    /// # Errors
    /// The file that could not be opened and why.
    pub fn prepare(&'static self, config: &Config) -> Result<Prepared, OpenError> {
        let mut sinks = Sinks {
            server: Some(Sink::open(&config.logger)?),
            sites: HashMap::new(),
        };
        for site in &config.sites {
            if let Some(logger) = &site.logger
                && *logger != config.logger
            {
                let target = format!("site:{}", site.name);
                sinks.sites.insert(target, Sink::open(logger)?);
            }
        }
        Ok(Prepared {
            logging: self,
            sinks,
        })
    }

    /// Opens every file anew under its name, after it was moved away. What cannot be opened goes on as before.
    pub fn reopen(&self) {
        let outputs: Vec<Output> = {
            let sinks = self.sinks.read();
            let all = sinks.sites.values().chain(&sinks.server);
            all.map(|sink| sink.output.clone()).collect()
        };
        for output in outputs {
            if let Err(error) = output.reopen() {
                log::error!("{error}; going on with the old file");
            }
        }
    }
}

impl Prepared {
    /// Sends all further messages to what was opened.
    pub fn commit(self) {
        let sites = self.sinks.sites.values();
        let levels = sites
            .chain(&self.sinks.server)
            .map(|sink| sink.writer.level());
        log::set_max_level(levels.max().unwrap_or(LevelFilter::Off));
        *self.logging.sinks.write() = self.sinks;
    }
}

impl Log for Logging {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let sinks = self.sinks.read();
        let sink = sinks.sites.get(record.target()).or(sinks.server.as_ref());
        if let Some(sink) = sink {
            sink.writer.log(record);
        }
    }

    fn flush(&self) {
        let sinks = self.sinks.read();
        for sink in sinks.sites.values().chain(&sinks.server) {
            sink.writer.flush();
        }
    }
}

impl Sink {
    fn open(logger: &Logger) -> Result<Self, OpenError> {
        let output = match &logger.file {
            Some(path) => Output::file(path)?,
            None => Output::stream(Target::Stderr),
        };
        let level = match logger.level {
            Level::Disabled => LevelFilter::Error,
            Level::Minimal => LevelFilter::Warn,
            Level::Normal => LevelFilter::Info,
            Level::Full => LevelFilter::Debug,
        };
        let format = ConfigBuilder::new()
            .set_time_format_rfc3339()
            .set_thread_level(LevelFilter::Off)
            .set_target_level(LevelFilter::Off)
            .set_location_level(LevelFilter::Off)
            .build();
        let writer = WriteLogger::new(level, format, output.clone());
        Ok(Self { writer, output })
    }
}

impl AccessLog {
    /// Opens a log. No path: standard output.
    ///
    /// # Errors
    /// The file that could not be opened and why.
    pub fn open(log: &crate::config::AccessLog) -> Result<Self, OpenError> {
        Ok(Self {
            format: log.format,
            output: match &log.file {
                Some(path) => Output::file(path)?,
                None => Output::stream(Target::Stdout),
            },
        })
    }

    /// Adds a line. It may stay in memory until [`AccessLog::flush`].
    pub fn write(&self, entry: &Entry<'_>) {
        let mut line = Vec::with_capacity(256);
        match self.format {
            AccessFormat::Json => json(entry, &mut line),
            AccessFormat::Combined => combined(entry, &mut line),
        }
        line.push(b'\n');
        // A full disk must not stop the site; lines are written again when there is room.
        let _ = self.output.writer.lock().write_all(&line);
    }

    /// Hands buffered lines to the system.
    pub fn flush(&self) {
        let _ = self.output.writer.lock().flush();
    }

    /// Closes the file, which no configuration names any more. Exchanges that began before that still have their lines
    /// written, each at once.
    pub fn retire(&self) {
        let Some(path) = &self.output.path else {
            return self.flush();
        };
        let mut writer = self.output.writer.lock();
        let _ = writer.flush();
        *writer = BufWriter::with_capacity(0, Target::Named(path.clone()));
    }

    /// Opens the file anew under its name.
    ///
    /// # Errors
    /// The file that could not be opened and why; the old one is still written to.
    pub fn reopen(&self) -> Result<(), OpenError> {
        self.output.reopen()
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

/// A log file that could not be opened.
#[derive(Debug)]
pub struct OpenError {
    path: PathBuf,
    cause: io::Error,
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let why = crate::net::listener::reason(&self.cause);
        write!(out, "log {}: {why}", self.path.display())
    }
}

impl std::error::Error for OpenError {}

impl Output {
    fn stream(target: Target) -> Self {
        Self {
            path: None,
            writer: Arc::new(Mutex::new(BufWriter::with_capacity(BUFFER, target))),
        }
    }

    fn file(path: &Path) -> Result<Self, OpenError> {
        Ok(Self {
            path: Some(path.to_owned()),
            ..Self::stream(Target::open(path)?)
        })
    }

    fn reopen(&self) -> Result<(), OpenError> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let fresh = BufWriter::with_capacity(BUFFER, Target::open(path)?);
        let mut writer = self.writer.lock();
        let _ = writer.flush();
        *writer = fresh;
        Ok(())
    }
}

// Simplelog's own writer, which gets a message in many pieces: it goes out with its end.
impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut writer = self.writer.lock();
        writer.write_all(bytes)?;
        if bytes.ends_with(b"\n") {
            writer.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.lock().flush()
    }
}

impl Target {
    fn open(path: &Path) -> Result<Self, OpenError> {
        let file = append(path).map_err(|cause| OpenError {
            path: path.to_owned(),
            cause,
        });
        file.map(Self::File)
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Named(path) => append(path)?.write(bytes),
            Self::Stdout => io::stdout().write(bytes),
            Self::Stderr => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(_) | Self::Named(_) => Ok(()),
            Self::Stdout => io::stdout().flush(),
            Self::Stderr => io::stderr().flush(),
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

fn json(entry: &Entry<'_>, line: &mut Vec<u8>) {
    // Writing to memory does not fail, and the entry has no map with odd keys.
    let _ = serde_json::to_writer(line, entry);
}

/// Apache's combined format, then host, site, backend, the three times in milliseconds, and how it ended.
fn combined(entry: &Entry<'_>, line: &mut Vec<u8>) {
    let date = httpdate::fmt_http_date(entry.time);
    // `Sun, 06 Nov 1994 08:49:37 GMT`, always of this length.
    let (day, month, year, time) = (&date[5..7], &date[8..11], &date[12..16], &date[17..25]);
    let _ = write!(
        line,
        "{} - {} [{day}/{month}/{year}:{time} +0000] \"{} {} {}\" {} {} \"{}\" \"{}\" {} {} {} {} {} {} {}",
        entry.client,
        bare(entry.user),
        quoted(entry.method),
        quoted(entry.target),
        entry.version,
        entry.status,
        entry.bytes,
        quoted(entry.referer),
        quoted(entry.user_agent),
        bare(entry.host),
        bare(entry.site),
        bare(entry.backend),
        as_milliseconds(entry.queue_ms),
        as_milliseconds(entry.backend_ms),
        as_milliseconds(entry.total_ms),
        entry.ended,
    );
}

/// Text between quotation marks, so that no visitor can write a line of their own.
fn quoted(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' | '\\' => safe.extend(['\\', letter]),
            letter if letter.is_control() => safe.extend(letter.escape_default()),
            letter => safe.push(letter),
        }
    }
    safe
}

/// Text without quotation marks: one word.
fn bare(text: &str) -> String {
    quoted(text).replace(' ', "\\u{20}")
}

fn as_milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn milliseconds<S: serde::Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(as_milliseconds(*time))
}

fn rfc3339<S: serde::Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    let date = httpdate::fmt_http_date(*time);
    let month = MONTHS.iter().position(|month| *month == &date[8..11]);
    let (year, day, clock) = (&date[12..16], &date[5..7], &date[17..25]);
    let millis = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_millis());
    to.collect_str(&format_args!(
        "{year}-{:02}-{day}T{clock}.{millis:03}Z",
        month.unwrap_or(0) + 1
    ))
}

/// Bytes of messages or lines that are written at once.
const BUFFER: usize = 32 * 1024;
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry<'static> {
        Entry {
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_777_250),
            client: "192.0.2.1",
            user: "J. Doe",
            method: "GET",
            target: "/a\"b\n",
            host: "example.com",
            version: "HTTP/1.1",
            status: 200,
            bytes: 1024,
            site: "example.com",
            backend: "7f0000010016",
            queue_ms: Duration::ZERO,
            backend_ms: Duration::from_micros(1500),
            total_ms: Duration::from_micros(1723),
            ended: "complete",
            referer: "-",
            user_agent: "curl/8",
        }
    }

    #[test]
    fn lines_of_both_formats() {
        let check = |render: fn(&Entry<'_>, &mut Vec<u8>), expected: &str| {
            let mut line = Vec::new();
            render(&entry(), &mut line);
            assert_eq!(String::from_utf8(line).unwrap(), expected);
        };
        check(
            combined,
            "192.0.2.1 - J.\\u{20}Doe [06/Nov/1994:08:49:37 +0000] \"GET /a\\\"b\\n HTTP/1.1\" 200 1024 \"-\" \"curl/8\" \
             example.com example.com 7f0000010016 0 1.5 1.723 complete",
        );
        check(
            json,
            "{\"time\":\"1994-11-06T08:49:37.250Z\",\"client\":\"192.0.2.1\",\
             \"user\":\"J. Doe\",\"method\":\"GET\",\
             \"target\":\"/a\\\"b\\n\",\"host\":\"example.com\",\"version\":\"HTTP/1.1\",\"status\":200,\
             \"bytes\":1024,\"site\":\"example.com\",\"backend\":\"7f0000010016\",\"queue_ms\":0.0,\
             \"backend_ms\":1.5,\"total_ms\":1.723,\"ended\":\"complete\",\"referer\":\"-\",\"user_agent\":\"curl/8\"}",
        );
    }

    #[test]
    fn a_line_is_written_where_the_file_is_open_moved_or_retired() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let log = AccessLog::open(&crate::config::AccessLog {
            file: Some(path.clone()),
            format: AccessFormat::Combined,
        });
        let log = log.unwrap();
        let lines = |name: &str| {
            let text = std::fs::read_to_string(directory.path().join(name)).unwrap_or_default();
            assert!(text.is_empty() || text.ends_with('\n'));
            text.lines().count()
        };
        log.write(&entry());
        log.write(&entry());
        assert_eq!(lines("log"), 0, "it is buffered");
        std::fs::rename(&path, directory.path().join("old")).unwrap();
        log.reopen().unwrap();
        log.write(&entry());
        log.flush();
        assert_eq!((lines("old"), lines("log")), (2, 1));
        log.write(&entry());
        log.retire();
        assert_eq!(lines("log"), 2);
        std::fs::remove_file(&path).unwrap();
        log.write(&entry());
        assert_eq!(lines("log"), 1, "opened for it and written at once");
    }
}
