//! How single values are written in a configuration file: the functions for serde's `serialize_with`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// A time in whole milliseconds or seconds.
pub(super) fn time<S: Serializer>(time: &Duration, out: S) -> Result<S::Ok, S::Error> {
    let milliseconds = time.as_millis();
    match milliseconds.is_multiple_of(1000) {
        true => out.collect_str(&format_args!("{}s", milliseconds / 1000)),
        false => out.collect_str(&format_args!("{milliseconds}ms")),
    }
}

/// A time; `false` if there is none.
pub(super) fn time_or_no<S: Serializer>(
    limit: &Option<Duration>,
    out: S,
) -> Result<S::Ok, S::Error> {
    match limit {
        Some(limit) => time(limit, out),
        None => out.serialize_bool(false),
    }
}

/// A value; `false` if there is none.
pub(super) fn or_no<T: Serialize, S: Serializer>(
    value: &Option<T>,
    out: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => value.serialize(out),
        None => out.serialize_bool(false),
    }
}

/// A list; `false` if it is empty.
pub(super) fn list_or_no<T: Serialize, S: Serializer>(
    list: &[T],
    out: S,
) -> Result<S::Ok, S::Error> {
    match list {
        [] => out.serialize_bool(false),
        list => list.serialize(out),
    }
}

/// Permissions in octal digits.
// The serializer passes a reference.
#[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref)]
pub(super) fn octal<S: Serializer>(mode: &Option<u32>, out: S) -> Result<S::Ok, S::Error> {
    let mode = mode.map(|mode| format!("{mode:04o}"));
    mode.serialize(out)
}

/// A path, also one that is not UTF-8, which serde refuses.
pub(super) fn path<P: Written, S: Serializer>(path: &P, out: S) -> Result<S::Ok, S::Error> {
    path.written().serialize(out)
}

/// A path, or several, as text.
pub(super) trait Written {
    /// Its text.
    fn written(&self) -> impl Serialize;
}

impl Written for PathBuf {
    fn written(&self) -> impl Serialize {
        self.to_string_lossy()
    }
}

impl Written for Option<PathBuf> {
    fn written(&self) -> impl Serialize {
        self.as_ref().map(|path| path.to_string_lossy())
    }
}

impl Written for BTreeMap<u16, PathBuf> {
    fn written(&self) -> impl Serialize {
        let lossy = |(status, path): (&u16, &PathBuf)| {
            (status.to_string(), path.to_string_lossy().into_owned())
        };
        self.iter().map(lossy).collect::<BTreeMap<_, _>>()
    }
}

/// Whether paths are all of a site, and need not be printed.
pub(super) fn is_everything(paths: &[String]) -> bool {
    matches!(paths, [path] if path == "/")
}
