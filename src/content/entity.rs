//! One version of a file: what tells it from others, and what its response says of it.

use std::borrow::Cow;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::http::conditional::Validators;

/// What tells a file from another, and from itself after a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileIdentity {
    /// Device and inode.
    pub file: (u64, u64),
    /// Bytes.
    pub size: u64,
    /// When its bytes were changed, in seconds and nanoseconds.
    pub modified: (i64, i64),
    /// When anything of it was changed. Nobody can set this one.
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

/// Tells versions of the same size and second apart: a hash (FNV-1a), the same after a restart, of the inode and the exact
/// times. A hash, since clients need not know inodes.
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

/// Whether a file was modified before the other one. Some programs that compress a file give the result its time in whole
/// seconds or microseconds, and such a time is compared as such.
pub(super) fn is_older(file: &FileIdentity, other: &FileIdentity) -> bool {
    let unit = match file.modified.1 {
        0 => 1_000_000_000,
        nanoseconds if nanoseconds % 1000 == 0 => 1000,
        _ => 1,
    };
    let (seconds, nanoseconds) = other.modified;
    file.modified < (seconds, nanoseconds / unit * unit)
}

/// Whether a file was changed so lately that it may be about to change again without any of its times telling.
fn is_recent(identity: &FileIdentity) -> bool {
    (identity.changed.0 - seconds()).abs() < SETTLED.as_secs() as i64
}

/// Now, in seconds since 1970.
fn seconds() -> i64 {
    clock_gettime(ClockId::CLOCK_REALTIME_COARSE).map_or(0, |time| time.tv_sec())
}

/// How long after its last change a file is taken to be at rest.
const SETTLED: Duration = Duration::from_secs(2);
