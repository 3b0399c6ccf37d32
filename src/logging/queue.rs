//! Queues of lines, and the threads that write them to files.
//!
//! Any thread adds lines to a [`LogQueue`] in memory; that takes a lock for a few instructions and never waits for the
//! file. One thread writes to all files that have a path, and to sockets; they are opened so that no write waits for a
//! reader (FIFOs, terminals). Standard output and standard error are shared with other programs, which that setting would affect, so
//! each of them has its own thread, which may block.
//!
//! **Invariants**: lines are written whole and in order, or counted as lost. The memory of each queue, and of all
//! queues, is bounded.

#[cfg(feature = "programs")]
use std::io::Write;
use std::io::{self, ErrorKind};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use std::{fmt, mem};

#[cfg(feature = "programs")]
use log::LevelFilter;
use parking_lot::{Condvar, Mutex};

#[cfg(feature = "programs")]
use super::message::{write, writer};
use super::pending::{BATCH, FIRST_PAUSE, LogQueueState, PendingWrite, release, reserve};
use super::repeats::{Repeats, Repetition};
use super::style::{LineStyle, LogKind};
use super::target::{LogTarget, OpenError};
use crate::amount::counted;
use crate::config::LogDestination;
use crate::process;
use crate::process::reason;

/// Lines for one file or standard stream.
pub(super) struct LogQueue {
    /// The name in messages: `access log /var/log/a`.
    name: String,
    to: LogDestination,
    kind: LogKind,
    style: LineStyle,
    /// Messages that were written lately.
    repeats: Mutex<Repeats>,
    writer: &'static Writer,
    state: Mutex<LogQueueState>,
    /// With `state`: bytes were written or dropped.
    progress: Condvar,
    /// Used by the writer thread only.
    writing: Mutex<PendingWrite>,
}

/// What happened to an added line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LineFate {
    /// It will be written.
    Kept,
    /// It was dropped for lack of room: the first one since losses were reported.
    FirstLost,
    /// It was dropped for lack of room.
    Lost,
}

/// A thread that writes, and the queues that it has to look at.
struct Writer {
    name: &'static str,
    is_started: Mutex<bool>,
    due: Mutex<Vec<Arc<LogQueue>>>,
    changed: Condvar,
}

/// Collects the pieces of a message; the last piece ends the line, which goes to the queue.
#[cfg(feature = "programs")]
pub(super) struct MessageLine {
    bytes: Vec<u8>,
    queue: Arc<LogQueue>,
}

impl LogQueue {
    /// Opens a file or a socket, or the standard stream of this kind.
    ///
    /// # Errors
    /// The system refuses the file or the thread that writes to it.
    pub(super) fn open(to: &LogDestination, kind: LogKind) -> Result<Arc<Self>, OpenError> {
        static FILES: Writer = Writer::new("log");
        let place = match to {
            LogDestination::Standard => None,
            LogDestination::File(path) => Some(path),
            LogDestination::Syslog(syslog) => Some(&syslog.socket),
        };
        let name = match (place, kind) {
            (Some(path), LogKind::Messages) => format!("log {}", path.display()),
            (Some(path), LogKind::Access) => format!("access log {}", path.display()),
            (None, LogKind::Messages) => STANDARD_ERROR.to_owned(),
            (None, LogKind::Access) => STANDARD_OUTPUT.to_owned(),
        };
        let queue = match (LogTarget::open(to), kind) {
            (Some(target), kind) => target.and_then(|target| {
                let to = to.clone();
                Self::new(name.clone(), to, kind, target, &FILES)
            }),
            (None, LogKind::Messages) => Self::stderr(),
            (None, LogKind::Access) => Self::stdout(),
        };
        queue.map_err(|cause| OpenError { name, cause })
    }

    /// The queue of standard output.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn stdout() -> io::Result<Arc<Self>> {
        static STDOUT: Writer = Writer::new("log-stdout");
        static QUEUE: OnceLock<Arc<LogQueue>> = OnceLock::new();
        let name = STANDARD_OUTPUT.to_owned();
        let (to, kind) = (LogDestination::Standard, LogKind::Access);
        let new = || Self::new(name, to, kind, LogTarget::Stdout, &STDOUT);
        once(&QUEUE, new)
    }

    /// The queue of standard error.
    fn stderr() -> io::Result<Arc<Self>> {
        static STDERR: Writer = Writer::new("log-stderr");
        static QUEUE: OnceLock<Arc<LogQueue>> = OnceLock::new();
        let name = STANDARD_ERROR.to_owned();
        let (to, kind) = (LogDestination::Standard, LogKind::Messages);
        let new = || Self::new(name, to, kind, LogTarget::Stderr, &STDERR);
        once(&QUEUE, new)
    }

    fn new(
        name: String,
        to: LogDestination,
        kind: LogKind,
        target: LogTarget,
        writer: &'static Writer,
    ) -> io::Result<Arc<Self>> {
        writer.start()?;
        Ok(Arc::new(Self {
            style: LineStyle::of(&to, kind),
            name,
            to,
            kind,
            repeats: Mutex::default(),
            writer,
            state: Mutex::default(),
            progress: Condvar::new(),
            writing: Mutex::new(PendingWrite::new(target)),
        }))
    }

    /// The name in messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where the lines go.
    pub(super) const fn to(&self) -> &LogDestination {
        &self.to
    }

    /// The form of its lines.
    pub(super) const fn style(&self) -> &LineStyle {
        &self.style
    }

    /// Notes a message of a site. `false`: it was counted, and is not to be written now.
    pub(super) fn is_new(self: &Arc<Self>, target: &str, level: log::Level, text: &str) -> bool {
        let noted = self
            .repeats
            .lock()
            .note(target, level, text, Instant::now());
        match noted {
            Repetition::None(report) => {
                if let Some((level, text)) = report {
                    message(self, level, &text);
                }
                true
            }
            Repetition::First => {
                self.wake();
                false
            }
            Repetition::Counted => false,
        }
    }

    /// Writes how often messages have repeated so far.
    pub(super) fn report_repeats(self: &Arc<Self>) {
        let reports = self.repeats.lock().take();
        for (level, text) in reports {
            message(self, level, &text);
        }
    }

    /// Has the thread look at the queue.
    fn wake(self: &Arc<Self>) {
        let is_due = mem::replace(&mut self.state.lock().is_due, true);
        if !is_due {
            self.writer.wake(self);
        }
    }

    /// Adds a line, including its line feed. `urgent`: write it immediately, rather than after [`LogQueue::flush`] or
    /// when many have collected. Never waits.
    pub(super) fn add(self: &Arc<Self>, line: &[u8], urgent: bool) -> LineFate {
        let mut state = self.state.lock();
        let fits = state.pending == 0 || state.pending + line.len() <= MOST;
        if !fits || !reserve(line.len()) {
            state.lost += 1;
            return match state.lost {
                1 => LineFate::FirstLost,
                _ => LineFate::Lost,
            };
        }
        state.lines.extend_from_slice(line);
        state.pending += line.len();
        let wake = urgent || state.is_retired || state.lines.len() >= BATCH;
        let wake = wake && !mem::replace(&mut state.is_due, true);
        drop(state);
        if wake {
            self.writer.wake(self);
        }
        LineFate::Kept
    }

    /// Starts writing all lines. Does not wait for that.
    pub(super) fn flush(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.pending > 0 && !mem::replace(&mut state.is_due, true) {
            drop(state);
            self.writer.wake(self);
        }
    }

    /// Waits until all lines are written. `false`: there was no progress for a second.
    fn settle(&self) -> bool {
        let mut state = self.state.lock();
        while state.pending > 0 {
            let before = state.done;
            let waited = self.progress.wait_for(&mut state, PATIENCE);
            if waited.timed_out() && state.done == before {
                return state.pending == 0;
            }
        }
        true
    }

    /// Opens the file again by its name, for further lines; earlier lines still go to the old file.
    ///
    /// # Errors
    /// The file that cannot be opened, and the reason; the old one remains in use.
    pub(super) fn reopen(self: &Arc<Self>) -> Result<(), OpenError> {
        let Some(target) = LogTarget::open(&self.to) else {
            return Ok(());
        };
        let target = target.map_err(|cause| OpenError {
            name: self.name.clone(),
            cause,
        })?;
        self.switch(target, false);
        Ok(())
    }

    /// Closes the file. Opens it again for each further line.
    pub(super) fn retire(self: &Arc<Self>) {
        match LogTarget::reopening(&self.to) {
            Some(target) => self.switch(target, true),
            None => self.flush(),
        }
    }

    fn switch(self: &Arc<Self>, target: LogTarget, is_retired: bool) {
        let mut state = self.state.lock();
        let lines = mem::take(&mut state.lines);
        state.switches.push((lines, target));
        state.is_retired = is_retired;
        let wake = !mem::replace(&mut state.is_due, true);
        drop(state);
        if wake {
            self.writer.wake(self);
        }
    }

    /// Writes what is in the queue, on the writer thread. Returns when to try again, if that is needed.
    fn drain(self: &Arc<Self>) -> Option<Instant> {
        let mut writing = self.writing.lock();
        let mut failure = None;
        while writing.load(&mut self.state.lock()) {
            let before = writing.written;
            match writing.write() {
                Ok(()) => writing.pause = FIRST_PAUSE,
                Err(error)
                    if error.kind() == ErrorKind::WouldBlock && !self.is_switching(&writing) =>
                {
                    let again = Instant::now() + writing.pause;
                    writing.pause = (writing.pause * 2).min(LONGEST_PAUSE);
                    return Some(again);
                }
                Err(error) => {
                    writing.has_failed = true;
                    let lost = writing.give_up();
                    self.state.lock().lost += lost;
                    failure = Some(error);
                }
            }
            self.account(writing.written - before);
        }
        let report = self.report(&mut writing, failure);
        drop(writing);
        let (reports, again) = {
            let mut repeats = self.repeats.lock();
            (repeats.due(Instant::now()), repeats.next_due())
        };
        for (level, text) in reports {
            message(self, level, &text);
        }
        match report {
            None => {}
            Some(LossReport::Later(later)) => {
                return Some(again.map_or(later, |again| again.min(later)));
            }
            Some(LossReport::Failing(text)) => self.send_report(log::Level::Error, &text, true),
            Some(LossReport::Recovered(text, was_reported)) => {
                self.send_report(log::Level::Warn, &text, was_reported);
            }
        }
        again
    }

    /// Whether another target is about to replace this one, so that waiting for it is pointless.
    fn is_switching(&self, writing: &PendingWrite) -> bool {
        writing.next.is_some() || !self.state.lock().switches.is_empty()
    }

    /// Accounts for bytes that were written or dropped.
    fn account(&self, bytes: usize) {
        release(bytes);
        let mut state = self.state.lock();
        state.pending -= bytes;
        state.done += bytes as u64;
        drop(state);
        self.progress.notify_all();
    }

    /// The report that is due now, if any: one when writing fails, one when it works again.
    fn report(&self, writing: &mut PendingWrite, failure: Option<io::Error>) -> Option<LossReport> {
        let mut state = self.state.lock();
        let lost = format!("{} lost", counted(state.lost, "line"));
        if writing.has_failed {
            let error = failure.filter(|_| !mem::replace(&mut writing.is_reported, true))?;
            let text = format!(
                "{}: {}; {lost}, and more until it can be written",
                self.name,
                reason(&error)
            );
            return Some(LossReport::Failing(text));
        }
        if state.lost == 0 && !writing.is_reported {
            return None;
        }
        let now = Instant::now();
        if let Some(reported) = writing.reported
            && now < reported + REPORT_INTERVAL
        {
            return Some(LossReport::Later(reported + REPORT_INTERVAL));
        }
        state.lost = 0;
        writing.reported = Some(now);
        let was_reported = mem::take(&mut writing.is_reported);
        let text = format!("{}: writing works again; {lost} in total", self.name);
        Some(LossReport::Recovered(text, was_reported))
    }

    /// Reports about this log. `elsewhere`: also elsewhere than in the log itself.
    fn send_report(self: &Arc<Self>, level: log::Level, text: &str, elsewhere: bool) {
        match self.kind {
            LogKind::Access => log::log!(level, "{text}"),
            LogKind::Messages => {
                // While the log cannot be written, do not add to it.
                if level != log::Level::Error {
                    message(self, level, text);
                }
                if elsewhere
                    && self.to != LogDestination::Standard
                    && let Ok(stderr) = Self::stderr()
                {
                    message(&stderr, level, text);
                }
            }
        }
    }
}

/// Writes the lines of all these queues and waits. `false`: one of them made no progress for a second.
pub(super) fn settle<'a>(mut queues: impl Iterator<Item = &'a Arc<LogQueue>> + Clone) -> bool {
    queues.clone().for_each(LogQueue::flush);
    // While the first stuck queue was given its second, the others had it too.
    queues.all(|queue| queue.settle())
}

#[cfg(feature = "programs")]
impl MessageLine {
    pub(super) fn new(queue: &Arc<LogQueue>) -> Self {
        Self {
            bytes: Vec::new(),
            queue: Arc::clone(queue),
        }
    }
}

// `simplelog` writes a message in pieces.
#[cfg(feature = "programs")]
impl Write for MessageLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        // The text of a message has no line feed, since it is escaped.
        if bytes.ends_with(b"\n") {
            self.queue.add(&self.bytes, true);
            self.bytes.clear();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.queue.flush();
        Ok(())
    }
}

/// Adds a message to a queue.
#[cfg(feature = "programs")]
fn message(queue: &Arc<LogQueue>, level: log::Level, text: &str) {
    let line = MessageLine::new(queue);
    let writer = writer(LevelFilter::Trace, &queue.style, line);
    write(&writer, &queue.style, level, text, "");
}

/// Without the programs no queue has messages.
#[cfg(not(feature = "programs"))]
const fn message(_queue: &Arc<LogQueue>, _level: log::Level, _text: &str) {}

enum LossReport {
    /// The last report is too recent; try again at this time.
    Later(Instant),
    /// Writing fails.
    Failing(String),
    /// Writing works again; whether a failure had been reported.
    Recovered(String, bool),
}

impl Writer {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            is_started: Mutex::new(false),
            due: Mutex::new(Vec::new()),
            changed: Condvar::new(),
        }
    }

    fn start(&'static self) -> io::Result<()> {
        let mut is_started = self.is_started.lock();
        if !*is_started {
            process::thread(self.name, || self.run())?;
            *is_started = true;
        }
        Ok(())
    }

    fn wake(&self, queue: &Arc<LogQueue>) {
        self.due.lock().push(Arc::clone(queue));
        self.changed.notify_one();
    }

    fn run(&self) {
        let mut due = Vec::new();
        let mut later: Vec<(Instant, Arc<LogQueue>)> = Vec::new();
        loop {
            self.next(&mut due, later.iter().map(|(at, _)| *at).min());
            let now = Instant::now();
            let ready = later.extract_if(.., |(at, _)| *at <= now);
            due.extend(ready.map(|(_, queue)| queue));
            for queue in due.drain(..) {
                let again = queue.drain();
                later.retain(|(_, other)| !Arc::ptr_eq(other, &queue));
                later.extend(again.map(|again| (again, queue)));
            }
        }
    }

    /// Waits for queues that are due, at most until `moment`.
    fn next(&self, into: &mut Vec<Arc<LogQueue>>, moment: Option<Instant>) {
        let mut due = self.due.lock();
        while due.is_empty() {
            match moment {
                None => self.changed.wait(&mut due),
                Some(moment) => {
                    if self.changed.wait_until(&mut due, moment).timed_out() {
                        break;
                    }
                }
            }
        }
        into.append(&mut due);
    }
}

fn once(
    cell: &OnceLock<Arc<LogQueue>>,
    new: impl FnOnce() -> io::Result<Arc<LogQueue>>,
) -> io::Result<Arc<LogQueue>> {
    if let Some(queue) = cell.get() {
        return Ok(Arc::clone(queue));
    }
    let queue = new()?;
    Ok(Arc::clone(cell.get_or_init(|| queue)))
}

impl fmt::Debug for LogQueue {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Queue").field(&self.name).finish()
    }
}

const STANDARD_OUTPUT: &str = "standard output";
const STANDARD_ERROR: &str = "standard error";
/// Most bytes in one queue.
const MOST: usize = 1 << 20;
/// The longest pause before trying a stuck target again.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// The shortest time between two reports of losses.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// How long the end of the program waits for a stuck log.
const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(all(test, feature = "programs"))]
mod tests {
    use std::fs::{self, File};
    use std::io::Read;
    use std::path::Path;
    use std::thread;

    use nix::sys::stat::Mode;

    use super::*;

    fn until(what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !condition() {
            assert!(Instant::now() < deadline, "never: {what}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn open(path: &Path, kind: LogKind) -> Arc<LogQueue> {
        LogQueue::open(&LogDestination::File(path.to_owned()), kind).unwrap()
    }

    fn lost(queue: &LogQueue) -> u64 {
        queue.state.lock().lost
    }

    #[test]
    fn a_fifo_without_a_reader_costs_lines_and_no_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        let queue = open(&path, LogKind::Messages);
        let line = format!("{}\n", "x".repeat(999));
        let mut kept = 0;
        while queue.add(line.as_bytes(), true) == LineFate::Kept {
            kept += 1;
            assert!(kept < 100_000, "there is no bound");
        }
        assert_eq!(queue.add(line.as_bytes(), true), LineFate::Lost);
        assert!(kept >= MOST / 1000 && lost(&queue) == 2);
        assert!(!queue.settle(), "nothing is taken");
        // Another log is not held up by it.
        let other = open(&directory.path().join("other"), LogKind::Messages);
        other.add(b"line\n", true);
        until("it is written", || other.settle());
        // The reader gets whole lines, and then how many it did not get.
        let mut reader = File::open(&path).unwrap();
        let mut text = Vec::new();
        let mut block = [0; 10_000];
        while !text.ends_with(b"in total\n") {
            let count = reader.read(&mut block).unwrap();
            text.extend_from_slice(&block[..count]);
        }
        let text = String::from_utf8(text).unwrap();
        assert_eq!(
            text.lines().filter(|other| **other == line[..999]).count(),
            kept
        );
        assert_eq!(text.lines().count(), kept + 1);
        let last = text.lines().last().unwrap();
        assert!(
            last.contains("[WARN] log ") && last.contains("2 lines lost in total"),
            "{last}"
        );
        assert_eq!(lost(&queue), 0);
    }

    #[test]
    fn what_cannot_be_written_is_counted_until_it_can() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let queue = open(&path, LogKind::Messages);
        let reported = || queue.writing.lock().is_reported;
        assert!(!reported());
        for count in 1..4 {
            queue.add(b"lost\n", true);
            until("a loss", || lost(&queue) == count && reported());
        }
        fs::remove_file(&path).unwrap();
        queue.reopen().unwrap();
        queue.add(b"written\n", true);
        until("the report", || lost(&queue) == 0 && !reported());
        until("it is written", || queue.settle());
        let text = fs::read_to_string(&path).unwrap();
        // The thread may come to the report before the line is in the queue.
        assert!(text.contains("written\n"), "{text}");
        assert!(
            text.contains("writing works again; 3 lines lost in total\n"),
            "{text}"
        );
    }

    #[test]
    fn a_reopened_log_does_not_wait_for_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        let queue = open(&path, LogKind::Messages);
        while queue.add(&[b'\n'; 4096], true) == LineFate::Kept {}
        fs::remove_file(&path).unwrap();
        queue.reopen().unwrap();
        until("all is given up", || queue.settle());
        queue.add(b"new\n", true);
        until("it is written", || queue.settle());
        assert!(fs::read_to_string(&path).unwrap().contains("new\n"));
    }
}
