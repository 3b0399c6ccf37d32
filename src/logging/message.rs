//! Formats messages as lines: the time, the level and the escaped text.

use std::io::Write;

use log::kv::Key;
use log::{Level, LevelFilter, Log, Record};
use simplelog::{ConfigBuilder, WriteLogger};

use super::style::{LineStyle, LogKind};
use crate::escape::escape;

/// A logger that writes each message to `sink` as one line, in pieces; the last piece ends with a line feed.
pub(super) fn writer<W: Write + Send + 'static>(
    level: LevelFilter,
    style: &LineStyle,
    sink: W,
) -> Box<WriteLogger<W>> {
    let mut format = ConfigBuilder::new();
    if !matches!(style, LineStyle::Plain) {
        format
            .set_time_level(LevelFilter::Off)
            .set_max_level(LevelFilter::Off);
    }
    let format = format
        .set_time_format_rfc3339()
        .set_thread_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .build();
    WriteLogger::new(level, format, sink)
}

/// The text of a record, without the id of the request that it concerns.
pub(super) fn text(record: &Record<'_>) -> String {
    record.args().to_string()
}

/// The id of the request that a record concerns, as it ends the line; empty if there is none.
pub(super) fn request_id(record: &Record<'_>) -> String {
    let request = record.key_values().get(Key::from_str("request_id"));
    match request.map(|id| id.to_string()).filter(|id| id != "-") {
        Some(id) => format!(" request_id={id}"),
        None => String::new(),
    }
}

/// Writes a message as one line, with its text escaped. `end`: what follows the text.
pub(super) fn write<W: Write + Send + 'static>(
    writer: &WriteLogger<W>,
    style: &LineStyle,
    level: Level,
    text: &str,
    end: &str,
) {
    let mut begin = Vec::new();
    style.begin(level, LogKind::Messages, &mut begin);
    let begin = String::from_utf8_lossy(&begin);
    let (text, end) = (escape(text), escape(end));
    let mut record = Record::builder();
    writer.log(
        &record
            .level(level)
            .args(format_args!("{begin}{text}{end}"))
            .build(),
    );
}
