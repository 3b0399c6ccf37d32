//! Messages as lines: the time, the level and the text, escaped.

use std::io::Write;

use log::{LevelFilter, Log, Record};
use simplelog::{ConfigBuilder, WriteLogger};

use crate::escape::escape;

/// A logger that writes each message as one line to `sink`, in pieces of which the last one ends with a line feed.
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

/// Writes a record, escaped.
pub(super) fn write<W: Write + Send + 'static>(writer: &WriteLogger<W>, record: &Record<'_>) {
    let text = record.args().to_string();
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
