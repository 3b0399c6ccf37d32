//! The access log: a line for each exchange, in combined format or JSON.

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::ser::Formatter;

use super::queue::{self, LineFate, LogQueue};
use super::style::LogKind;
use super::target::OpenError;
use crate::config::{AccessFormat, AccessLogOutput};
use crate::escape::{is_plain, is_unsafe};
use crate::http::date;
use crate::http::request_id::RequestId;

/// An access log at one destination.
#[derive(Debug)]
pub struct AccessLog {
    format: AccessFormat,
    queue: Arc<LogQueue>,
}

/// One line of an access log.
#[derive(Debug, Serialize)]
pub struct AccessRecord<'a> {
    /// The time when the request was complete; formatted by [`AccessLog::write`].
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// The client's address.
    pub client: &'a str,
    /// The user name, if the request needed a password, else `-`.
    pub user: &'a str,
    /// The method, `-` if the request could not be read.
    pub method: &'a str,
    /// The target as it was forwarded.
    pub target: &'a str,
    /// The requested host.
    pub host: &'a str,
    /// `HTTP/1.0` or `HTTP/1.1`.
    pub version: &'a str,
    /// The status code of the response, 0 if there was none.
    pub status: u16,
    /// Bytes of the response body that were handed to the system.
    pub bytes: u64,
    /// The name of the site, `-` if none.
    pub site: &'a str,
    /// The id of the backend, `-` if none.
    pub backend: &'a str,
    /// Milliseconds of waiting for a backend.
    #[serde(serialize_with = "milliseconds")]
    pub queue_ms: Duration,
    /// Milliseconds of connecting to a server.
    #[serde(serialize_with = "milliseconds")]
    pub connect_ms: Duration,
    /// Milliseconds from having a backend to the head of its response.
    #[serde(serialize_with = "milliseconds")]
    pub first_byte_ms: Duration,
    /// Milliseconds from the complete head of the request to the end of the response.
    #[serde(serialize_with = "milliseconds")]
    pub total_ms: Duration,
    /// How often it went to another backend after one had failed.
    pub retries: u32,
    /// `backend`, `file`, `cache` or `proxy`; `-` if there was no response.
    pub source: &'a str,
    /// The request's id, `-` if none.
    #[serde(serialize_with = "as_text")]
    pub request_id: &'a RequestId,
    /// The trace id of the request's traceparent, `-` if none.
    pub trace_id: &'a str,
    /// `client`, `backend` or `proxy`: who is the cause if it failed or was cut short; else `-`.
    pub ended_by: &'a str,
    /// `complete`, or the reason why the exchange was cut short.
    pub ended: &'a str,
    /// The request's Referer, `-` if none.
    pub referer: &'a str,
    /// The request's User-Agent, `-` if none.
    pub user_agent: &'a str,
}

impl AccessLog {
    /// Opens a log; without a path, on standard output.
    ///
    /// # Errors
    /// The file that cannot be opened, and the reason.
    pub fn open(log: &AccessLogOutput) -> Result<Self, OpenError> {
        Ok(Self {
            format: log.format,
            queue: LogQueue::open(&log.to, LogKind::Access)?,
        })
    }

    /// Adds a line. It may stay in memory until [`AccessLog::flush`]. Never waits.
    pub fn write(&self, entry: &AccessRecord<'_>) {
        let mut line = Vec::with_capacity(512);
        let style = self.queue.style();
        style.begin(log::Level::Info, LogKind::Access, &mut line);
        match self.format {
            AccessFormat::Json => json(entry, &mut line),
            AccessFormat::Combined => combined(entry, &mut line),
        }
        line.push(b'\n');
        if self.queue.add(&line, false) == LineFate::FirstLost {
            let name = self.queue.name();
            log::error!("{name}: it accepts nothing, or too little; lines are being lost");
        }
    }

    /// Starts writing the lines in memory. Does not wait for that.
    pub fn flush(&self) {
        self.queue.flush();
    }

    /// Writes the lines of all these logs and waits. `false`: one of them made no progress for a second.
    pub fn settle(logs: &[Arc<Self>]) -> bool {
        queue::settle(logs.iter().map(|log| &log.queue))
    }

    /// Closes the file, which is no longer in the configuration. Later lines, of exchanges that started before, are
    /// each written immediately.
    pub fn retire(&self) {
        self.queue.retire();
    }

    /// Opens the file again by its name.
    ///
    /// # Errors
    /// The file that cannot be opened, and the reason; the old one remains in use.
    pub fn reopen(&self) -> Result<(), OpenError> {
        self.queue.reopen()
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

fn json(entry: &AccessRecord<'_>, line: &mut Vec<u8>) {
    let mut serializer = serde_json::Serializer::with_formatter(line, Escaping);
    // Writing to memory does not fail, and all keys of the record are strings.
    let _ = entry.serialize(&mut serializer);
}

/// JSON with unsafe letters escaped; the library escapes C0 controls only.
struct Escaping;

impl Formatter for Escaping {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if is_plain(fragment) {
            return out.write_all(fragment.as_bytes());
        }
        let mut rest = fragment;
        while let Some((at, letter)) = rest.char_indices().find(|(_, letter)| is_unsafe(*letter)) {
            // No unsafe letter needs more than four digits.
            write!(out, "{}\\u{:04x}", &rest[..at], u32::from(letter))?;
            rest = &rest[at + letter.len_utf8()..];
        }
        out.write_all(rest.as_bytes())
    }
}

/// Apache's combined format, followed by host, site, backend, the milliseconds of queue, first byte, total and connecting,
/// retries, source, request id, who ended the exchange, and how it ended.
fn combined(entry: &AccessRecord<'_>, line: &mut Vec<u8>) {
    let date = date::text(entry.time);
    // `Sun, 06 Nov 1994 08:49:37 GMT`, always of this length.
    let (day, month, year, time) = (&date[5..7], &date[8..11], &date[12..16], &date[17..25]);
    let _ = write!(
        line,
        "{} - {} [{day}/{month}/{year}:{time} +0000] \"{} {} {}\" {} {} \"{}\" \"{}\" {} {} {} {} {} {} {} {} {} {} {} {}",
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
        as_milliseconds(entry.first_byte_ms),
        as_milliseconds(entry.total_ms),
        as_milliseconds(entry.connect_ms),
        entry.retries,
        entry.source,
        entry.request_id,
        entry.ended_by,
        entry.ended,
    );
}

/// Escapes text between quotation marks, so that no client can forge a line.
fn quoted(text: &str) -> Cow<'_, str> {
    escape_if(text, |letter| matches!(letter, '"' | '\\'))
}

/// Escapes text without quotation marks, so that it is a single word.
fn bare(text: &str) -> Cow<'_, str> {
    escape_if(text, |letter| matches!(letter, '"' | '\\' | ' '))
}

/// Escapes unsafe letters, and those that `also` accepts.
fn escape_if(text: &str, also: impl Fn(char) -> bool) -> Cow<'_, str> {
    if is_plain(text) && !text.contains(&also) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        match letter {
            ' ' if also(' ') => safe.push_str("\\u{20}"),
            letter if also(letter) => safe.extend(['\\', letter]),
            letter if is_unsafe(letter) => safe.extend(letter.escape_default()),
            letter => safe.push(letter),
        }
    }
    Cow::Owned(safe)
}

fn as_milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn as_text<S: serde::Serializer>(id: &RequestId, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(id)
}

fn milliseconds<S: serde::Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(as_milliseconds(*time))
}

fn rfc3339<S: serde::Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    let date = date::text(*time);
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

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use super::*;
    use crate::config::LogDestination;

    fn entry() -> AccessRecord<'static> {
        AccessRecord {
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
            connect_ms: Duration::from_micros(300),
            first_byte_ms: Duration::from_micros(1500),
            total_ms: Duration::from_micros(1723),
            retries: 1,
            source: "backend",
            ended: "complete",
            ended_by: "-",
            referer: "-",
            user_agent: "curl/8",
            request_id: &RequestId::None,
            trace_id: "0af7651916cd43dd8448eb211c80319c",
        }
    }

    #[test]
    fn lines_of_both_formats() {
        let check = |render: fn(&AccessRecord<'_>, &mut Vec<u8>), expected: &str| {
            let mut line = Vec::new();
            render(&entry(), &mut line);
            assert_eq!(String::from_utf8(line).unwrap(), expected);
        };
        check(
            combined,
            "192.0.2.1 - J.\\u{20}Doe [06/Nov/1994:08:49:37 +0000] \"GET /a\\\"b\\n HTTP/1.1\" 200 1024 \"-\" \"curl/8\" \
             example.com example.com 7f0000010016 0 1.5 1.723 0.3 1 backend - - complete",
        );
        check(
            json,
            "{\"time\":\"1994-11-06T08:49:37.250Z\",\"client\":\"192.0.2.1\",\
             \"user\":\"J. Doe\",\"method\":\"GET\",\
             \"target\":\"/a\\\"b\\n\",\"host\":\"example.com\",\"version\":\"HTTP/1.1\",\"status\":200,\
             \"bytes\":1024,\"site\":\"example.com\",\"backend\":\"7f0000010016\",\"queue_ms\":0.0,\
             \"connect_ms\":0.3,\"first_byte_ms\":1.5,\"total_ms\":1.723,\"retries\":1,\
             \"source\":\"backend\",\"request_id\":\"-\",\
             \"trace_id\":\"0af7651916cd43dd8448eb211c80319c\",\"ended_by\":\"-\",\"ended\":\"complete\",\"referer\":\"-\",\"user_agent\":\"curl/8\"}",
        );
    }

    #[test]
    fn no_format_has_a_letter_that_ends_a_line_or_instructs_a_terminal() {
        let foreign: String = ('\0'..'\u{3000}')
            .filter(|letter| is_unsafe(*letter))
            .collect();
        let entry = AccessRecord {
            user: &foreign,
            target: &foreign,
            host: &foreign,
            user_agent: &format!("a{foreign}ü{foreign}"),
            ..entry()
        };
        for render in [json, combined] {
            let mut line = Vec::new();
            render(&entry, &mut line);
            let text = String::from_utf8(line).unwrap();
            assert!(!text.contains(is_unsafe), "{text:?}");
            assert!(text.contains('ü'));
            assert!(text.to_lowercase().contains("202e"));
        }
        // What was escaped is the same when it is read.
        let mut line = Vec::new();
        json(&entry, &mut line);
        let object: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(object["user"], foreign);
        assert_eq!(object["user_agent"], entry.user_agent);
    }

    #[test]
    fn a_time_before_1970_is_written_as_1970() {
        let entry = AccessRecord {
            time: SystemTime::UNIX_EPOCH - Duration::from_secs(1),
            ..entry()
        };
        for render in [json, combined] {
            let mut line = Vec::new();
            render(&entry, &mut line);
            assert!(String::from_utf8(line).unwrap().contains("1970"));
        }
    }

    #[test]
    fn a_line_is_written_where_the_file_is_open_moved_or_retired() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let log = AccessLog::open(&AccessLogOutput {
            to: LogDestination::File(path.clone()),
            format: AccessFormat::Combined,
        });
        let log = [Arc::new(log.unwrap())];
        let lines = |name: &str| {
            let deadline = Instant::now() + Duration::from_secs(60);
            while !AccessLog::settle(&log) {
                assert!(Instant::now() < deadline);
            }
            let text = std::fs::read_to_string(directory.path().join(name)).unwrap_or_default();
            assert!(text.is_empty() || text.ends_with('\n'));
            text.lines().count()
        };
        let [log] = &log;
        log.write(&entry());
        log.write(&entry());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0, "it is kept");
        std::fs::rename(&path, directory.path().join("old")).unwrap();
        log.reopen().unwrap();
        log.write(&entry());
        assert_eq!((lines("old"), lines("log")), (2, 1));
        log.write(&entry());
        log.retire();
        assert_eq!(lines("log"), 2);
        std::fs::remove_file(&path).unwrap();
        log.write(&entry());
        let deadline = Instant::now() + Duration::from_secs(60);
        while !path.exists() {
            assert!(Instant::now() < deadline, "opened for it, without a flush");
            thread::yield_now();
        }
        assert_eq!(lines("log"), 1);
    }
}
