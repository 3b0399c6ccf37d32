//! Formats messages as lines: the time, the level and the escaped text.

use std::io::Write;

use log::kv::Key;
use log::{LevelFilter, Log, Record};
use simplelog::{ConfigBuilder, WriteLogger};

use crate::escape::escape;

/// A logger that writes each message to `sink` as one line, in pieces; the last piece ends with a line feed.
pub(super) fn writer<W: Write + Send + 'static>(
    level: LevelFilter,
    sink: W,
) -> Box<WriteLogger<W>> {
    let format = ConfigBuilder::new()
        .set_time_format_rfc3339()
        .set_thread_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .build();
    WriteLogger::new(level, format, sink)
}

/// Writes a record with its text escaped, followed by the id of the request that it concerns, if any.
pub(super) fn write<W: Write + Send + 'static>(writer: &WriteLogger<W>, record: &Record<'_>) {
    let mut text = record.args().to_string();
    let request = record.key_values().get(Key::from_str("request_id"));
    if let Some(id) = request.map(|id| id.to_string()).filter(|id| id != "-") {
        text.push_str(" request_id=");
        text.push_str(&id);
    }
    let safe = escape(&text);
    let metadata = record.metadata().clone();
    let mut record = Record::builder();
    writer.log(
        &record
            .metadata(metadata)
            .args(format_args!("{safe}"))
            .build(),
    );
}
