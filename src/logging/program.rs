//! The logger of the programs: sends each message to the log of its site or to that of the server.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::{panic, thread};

use log::{LevelFilter, Log, Metadata, Record};
use parking_lot::RwLock;
use simplelog::{SharedLogger, WriteLogger};

use super::message::{self, write, writer};
use super::queue::{self, LogQueue, MessageLine};
use super::style::LogKind;
use super::target::OpenError;
use crate::config::{Config, LogDestination, LogLevel, Logger};

/// The loggers of a server and of its sites.
#[derive(Default)]
pub struct Logging {
    sinks: RwLock<Sinks>,
}

/// Loggers that are open but not in use yet.
pub struct PreparedLogging {
    logging: &'static Logging,
    sinks: Sinks,
    /// The queues that were in use before; their files are opened again on commit.
    kept: Vec<Arc<LogQueue>>,
}

#[derive(Default)]
struct Sinks {
    server: Option<LogSink>,
    sites: HashMap<String, LogSink>,
}

struct LogSink {
    writer: Box<WriteLogger<MessageLine>>,
    queue: Arc<LogQueue>,
}

impl Logging {
    /// Makes this the program's logger until its end. Messages are discarded until a configuration is prepared and
    /// committed. Panics are logged as messages, since a thread that panics must not wait for standard error.
    ///
    /// # Errors
    /// The program already has a logger.
    pub fn install() -> Result<&'static Self, log::SetLoggerError> {
        let logging: &'static Self = Box::leak(Box::default());
        log::set_logger(logging)?;
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if logging.sinks.read().server.is_none() {
                return before(panic);
            }
            let backtrace = Backtrace::capture();
            let thread = thread::current();
            let name = thread.name().unwrap_or("unnamed");
            let what = panic.payload_as_str().unwrap_or_default();
            match panic.location() {
                Some(place) => log::error!("thread {name} panicked at {place}: {what}"),
                None => log::error!("thread {name} panicked: {what}"),
            }
            if backtrace.status() == BacktraceStatus::Captured {
                let text = backtrace.to_string();
                text.lines().for_each(|line| log::error!("{line}"));
            }
            if name == "main" {
                logging.flush();
            }
        }));
        Ok(logging)
    }

    /// Opens the logs of a configuration that are not open yet. Nothing is written to them before
    /// [`PreparedLogging::commit`].
    ///
    /// # Errors
    /// The file that cannot be opened, and the reason.
    pub fn prepare(&'static self, config: &Config) -> Result<PreparedLogging, OpenError> {
        let kept = self.queues();
        let named = |queue: &Arc<LogQueue>| (queue.to().clone(), Arc::clone(queue));
        let mut queues: HashMap<LogDestination, Arc<LogQueue>> = kept.iter().map(named).collect();
        let mut sink = |logger: &Logger| -> Result<LogSink, OpenError> {
            let queue = match queues.get(&logger.to) {
                Some(queue) => Arc::clone(queue),
                None => LogQueue::open(&logger.to, LogKind::Messages)?,
            };
            queues.insert(logger.to.clone(), Arc::clone(&queue));
            Ok(LogSink::new(logger.level, queue))
        };
        let mut sinks = Sinks {
            server: Some(sink(&config.logger)?),
            sites: HashMap::new(),
        };
        for site in &config.sites {
            if let Some(logger) = &site.logger
                && *logger != config.logger
            {
                let target = format!("site:{}", site.name);
                sinks.sites.insert(target, sink(logger)?);
            }
        }
        Ok(PreparedLogging {
            logging: self,
            sinks,
            kept,
        })
    }

    /// Opens every file again by its name, after it was moved away. If that fails, logs an error and keeps the old
    /// file.
    pub fn reopen(&self) {
        reopen(&self.queues());
    }

    /// Changes the level of all loggers, until the next configuration is committed.
    pub fn set_level(&self, level: LogLevel) {
        let mut sinks = self.sinks.write();
        let Sinks { server, sites } = &mut *sinks;
        for sink in sites.values_mut().chain(server) {
            *sink = LogSink::new(level, Arc::clone(&sink.queue));
        }
        let level = sinks.all().map(|sink| sink.writer.level()).max();
        drop(sinks);
        log::set_max_level(level.unwrap_or(LevelFilter::Off));
    }

    /// All queues, without duplicates.
    fn queues(&self) -> Vec<Arc<LogQueue>> {
        let sinks = self.sinks.read();
        let mut queues: Vec<_> = sinks.all().map(|sink| Arc::clone(&sink.queue)).collect();
        drop(sinks);
        queues.sort_by_key(Arc::as_ptr);
        queues.dedup_by_key(|queue| Arc::as_ptr(queue));
        queues
    }
}

impl PreparedLogging {
    /// Sends all further messages to the new loggers. Files that were open before are opened again, as by
    /// [`Logging::reopen`].
    pub fn commit(self) {
        let levels = self.sinks.all().map(|sink| sink.writer.level());
        log::set_max_level(levels.max().unwrap_or(LevelFilter::Off));
        *self.logging.sinks.write() = self.sinks;
        reopen(&self.kept);
    }
}

fn reopen(queues: &[Arc<LogQueue>]) {
    for queue in queues {
        if let Err(error) = queue.reopen() {
            log::error!("{error}; going on with the old file");
        }
    }
}

impl Sinks {
    fn all(&self) -> impl Iterator<Item = &LogSink> {
        self.sites.values().chain(&self.server)
    }

    fn get(&self, target: &str) -> Option<&LogSink> {
        if FOREIGN.iter().any(|name| target.starts_with(name)) {
            return None;
        }
        self.sites.get(target).or(self.server.as_ref())
    }
}

impl Log for Logging {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let sinks = self.sinks.read();
        let sink = sinks.get(metadata.target());
        sink.is_some_and(|sink| metadata.level() <= sink.writer.level())
    }

    fn log(&self, record: &Record<'_>) {
        let sinks = self.sinks.read();
        if let Some(sink) = sinks.get(record.target())
            && record.level() <= sink.writer.level()
        {
            let text = message::text(record);
            let (style, end) = (sink.queue.style(), message::request_id(record));
            // What an operator does, such as a reload, is reported each time and at once.
            let about_request = !end.is_empty() && record.level() <= log::Level::Info;
            let is_counted = record.level() <= log::Level::Warn || about_request;
            if !is_counted || sink.queue.is_new(record.target(), record.level(), &text) {
                write(&sink.writer, style, record.level(), &text, &end);
            }
        }
    }

    /// Waits until all messages and standard output are written, but not for a log that is stuck.
    fn flush(&self) {
        let mut queues = self.queues();
        queues.iter().for_each(LogQueue::report_repeats);
        queues.extend(LogQueue::stdout());
        queue::settle(queues.iter());
    }
}

impl LogSink {
    fn new(level: LogLevel, queue: Arc<LogQueue>) -> Self {
        let level = match level {
            LogLevel::Disabled => LevelFilter::Error,
            LogLevel::Minimal => LevelFilter::Warn,
            LogLevel::Normal => LevelFilter::Info,
            LogLevel::Full => LevelFilter::Debug,
        };
        let writer = writer(level, queue.style(), MessageLine::new(&queue));
        Self { writer, queue }
    }
}

/// Writes a line to standard output, in order with an access log there. Does not wait for it.
///
/// # Errors
/// The thread that writes it cannot be started.
pub fn print(line: &str) -> io::Result<()> {
    LogQueue::stdout()?.add(format!("{line}\n").as_bytes(), true);
    Ok(())
}

/// Crates whose own messages are left out: what fails in them is reported here.
const FOREIGN: [&str; 2] = ["rustls", "ureq"];
