//! The identity of a file's version, and the validators and type that its response carries.

use std::borrow::Cow;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::http::conditional::Validators;

/// Identifies a version of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileIdentity {
    /// Device and inode.
    pub file: (u64, u64),
    /// The size in bytes.
    pub size: u64,
    /// The time of the last change of its content, in seconds and nanoseconds.
    pub modified: (i64, i64),
    /// The time of the last change of the inode (ctime), which programs cannot set.
    pub changed: (i64, i64),
}

pub(super) fn content_type(name: &[u8]) -> Cow<'static, str> {
    let name = String::from_utf8_lossy(name);
    let guessed = mime_guess::from_path(&*name).first_raw();
    match guessed {
        None => Cow::Borrowed("application/octet-stream"),
        Some(text) if text.starts_with("text/") || text == "application/javascript" => {
            Cow::Owned(format!("{text}; charset=utf-8"))
        }
        Some(other) => Cow::Borrowed(other),
    }
}

pub(super) fn validators(identity: &FileIdentity) -> Validators {
    let validators =
        Validators::new(identity.modified.0, identity.size, seconds()).marked(mark(identity));
    match is_recent(identity) {
        true => validators.weak(),
        false => validators,
    }
}

/// Distinguishes versions of the same size and second: a hash (FNV-1a) of the inode and the exact times, stable across
/// restarts. A hash, since clients need not know inodes.
fn mark(identity: &FileIdentity) -> u64 {
    let numbers = [
        identity.file.1.to_le_bytes(),
        identity.modified.1.to_le_bytes(),
        identity.changed.0.to_le_bytes(),
        identity.changed.1.to_le_bytes(),
    ];
    let bytes = numbers.as_flattened().iter();
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Whether a file was modified before another one. Some compressors copy the time of the original in whole seconds or
/// microseconds, so the comparison uses the unit of the file's time.
pub(super) fn is_older(file: &FileIdentity, other: &FileIdentity) -> bool {
    let unit = match file.modified.1 {
        0 => 1_000_000_000,
        nanoseconds if nanoseconds % 1000 == 0 => 1000,
        _ => 1,
    };
    let (seconds, nanoseconds) = other.modified;
    file.modified < (seconds, nanoseconds / unit * unit)
}

/// Whether a file changed so recently that another change might not alter any of its times.
fn is_recent(identity: &FileIdentity) -> bool {
    (identity.changed.0 - seconds()).abs() < SETTLED.as_secs() as i64
}

/// The current time in seconds since 1970.
fn seconds() -> i64 {
    clock_gettime(ClockId::CLOCK_REALTIME_COARSE).map_or(0, |time| time.tv_sec())
}

/// The age of the last change from which a file counts as stable.
const SETTLED: Duration = Duration::from_secs(2);
