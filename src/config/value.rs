//! Parses single values of the file: times, sizes, paths, expressions. Addresses are in `address`.
//!
//! Pure, except for functions that read files. Every function takes a [`Node`] or its text and returns the value, or
//! an error that says what is wrong and what to write instead; the caller prepends the key and the value.

use std::fs::{self, FileType, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::ops::RangeInclusive;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc::{O_NOCTTY, O_NONBLOCK};

use super::raw::Node;
use super::types::{LogLevel, Pattern};
use crate::process;

/// What is wrong with a value.
pub(super) type ValueError = String;

/// A value as quoted in a message: short, on one line.
pub(super) fn shown(node: &Node) -> String {
    match node {
        Node::Null => "~".into(),
        Node::Bool(value) => value.to_string(),
        Node::Number(number) => shortened(number),
        Node::Text(text) => format!("{:?}", shortened(text)),
        Node::List(_) => "[...]".into(),
        Node::Map(_) => "{...}".into(),
    }
}

/// Parses a text; accepts a number as text.
pub(super) fn text(node: &Node) -> Result<String, ValueError> {
    match node {
        Node::Text(text) | Node::Number(text) if text.is_empty() => {
            Err("empty; write a value, or remove the line".into())
        }
        Node::Text(text) | Node::Number(text) => Ok(text.clone()),
        Node::List(_) => Err("not a single value".into()),
        _ => Err("not a text; write it in quotes".into()),
    }
}

/// Parses a boolean; accepts all words that YAML had for them when the original was written.
pub(super) fn truth(node: &Node) -> Result<bool, ValueError> {
    let word = match node {
        Node::Bool(value) => return Ok(*value),
        Node::Text(text) => text.to_ascii_lowercase(),
        _ => String::new(),
    };
    match word.as_str() {
        "true" | "yes" | "on" | "y" => Ok(true),
        "false" | "no" | "off" | "n" => Ok(false),
        _ => Err("write true or false".into()),
    }
}

/// Parses a count within a range.
pub(super) fn count(range: RangeInclusive<u64>) -> impl Fn(&Node) -> Result<u64, ValueError> {
    move |node| {
        let number = match node {
            Node::Number(text) | Node::Text(text) => digits(text),
            _ => None,
        };
        let wrong = || format!("write a number from {} to {}", range.start(), range.end());
        number
            .filter(|number| range.contains(number))
            .ok_or_else(wrong)
    }
}

/// Parses a port.
pub(super) fn port(node: &Node) -> Result<u16, ValueError> {
    let number = count(0..=u64::from(u16::MAX))(node)?;
    u16::try_from(number).map_err(|_| "write a number from 0 to 65535".into())
}

/// Parses a number of bytes within a range: `65536`, `64k`, `10m`, `1g`.
pub(super) fn size(range: RangeInclusive<u64>) -> impl Fn(&Node) -> Result<u64, ValueError> {
    move |node| {
        let text = match node {
            Node::Number(text) | Node::Text(text) => text.as_str(),
            _ => "",
        };
        let (number, unit) = match text.char_indices().last() {
            Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
            Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
            Some((at, 'g' | 'G')) => (&text[..at], 1 << 30),
            _ => (text, 1),
        };
        let Some(number) = digits(number) else {
            return Err("write bytes, or 64k, 10m, 1g".into());
        };
        let bytes = number.saturating_mul(unit);
        if !range.contains(&bytes) {
            let (least, most) = (size_text(*range.start()), size_text(*range.end()));
            return Err(format!("write a size from {least} to {most}"));
        }
        Ok(bytes)
    }
}

/// Parses a time as in the file: `30`, `500ms`, `30s`, `5m`.
///
/// # Errors
/// What to write instead.
pub fn time_of(text: &str) -> Result<Duration, String> {
    time(&Node::Text(text.to_owned()))
}

/// Parses a time: seconds with fractions, `500ms`, `30s`, `5m`. The result is in whole milliseconds.
pub(super) fn time(node: &Node) -> Result<Duration, ValueError> {
    let text = match node {
        Node::Number(text) | Node::Text(text) => text.as_str(),
        _ => "",
    };
    let (number, milliseconds) = match text {
        _ if text.ends_with("ms") => (&text[..text.len() - 2], 1.0),
        _ if text.ends_with('s') => (&text[..text.len() - 1], 1_000.0),
        _ if text.ends_with('m') => (&text[..text.len() - 1], 60_000.0),
        _ => (text, 1_000.0),
    };
    let plain = number
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let Some(number) = number.parse::<f64>().ok().filter(|_| plain) else {
        return Err("write seconds, or 500ms, 30s, 5m".into());
    };
    let milliseconds = (number * milliseconds).round();
    if milliseconds > LONGEST.as_millis() as f64 {
        return Err("longer than a year".into());
    }
    // The line above bounds it, and it is not negative, since a sign is not accepted.
    Ok(Duration::from_millis(milliseconds as u64))
}

/// Parses a time that must not be zero.
pub(super) fn deadline(node: &Node) -> Result<Duration, ValueError> {
    let time = time(node)?;
    if time.is_zero() {
        return Err("write at least 1ms".into());
    }
    Ok(time)
}

/// Parses a log level as the original does; returns also whether the value was recognised.
pub(super) fn level(node: &Node) -> Result<(LogLevel, bool), ValueError> {
    let text = text(node).map_err(|_| "write disabled, minimal, normal or full".to_string())?;
    let text = text.to_ascii_lowercase();
    let level = if text.starts_with('d') || text.contains('0') {
        LogLevel::Disabled
    } else if text.starts_with('m') || text.contains('1') {
        LogLevel::Minimal
    } else if text.starts_with('n') || text.contains('2') {
        LogLevel::Normal
    } else if text.starts_with('f') || text.contains('3') {
        LogLevel::Full
    } else {
        return Ok((LogLevel::Minimal, false));
    };
    Ok((level, true))
}

/// Parses the path of a file; the result is absolute.
pub(super) fn path(directory: Option<&Path>) -> impl Fn(&Node) -> Result<PathBuf, ValueError> {
    move |node| {
        let text = text(node)?;
        if text.contains('\0') {
            return Err("a NUL in a path".into());
        }
        Ok(absolute(directory, Path::new(&text)))
    }
}

/// Parses the path of a directory that exists; see [`path`].
pub(super) fn folder(directory: Option<&Path>) -> impl Fn(&Node) -> Result<PathBuf, ValueError> {
    move |node| {
        let path = path(directory)(node)?;
        match path.metadata() {
            Ok(about) if about.is_dir() => Ok(path),
            Ok(_) => Err("not a directory".into()),
            Err(_) => Err("no such directory".into()),
        }
    }
}

/// Makes a path absolute, relative to `directory` or to the working directory. The file need not exist.
pub(super) fn absolute(directory: Option<&Path>, path: &Path) -> PathBuf {
    let path = directory.map_or_else(|| path.to_path_buf(), |directory| directory.join(path));
    std::path::absolute(&path).unwrap_or(path)
}

/// Parses the name or number of a user that exists.
pub(super) fn user(node: &Node) -> Result<String, ValueError> {
    let name = text(node)?;
    let known = process::look_up(Some(&name), None);
    known.map(|_| name).map_err(|_| "no such user".into())
}

/// Parses the name or number of a group that exists.
pub(super) fn group(node: &Node) -> Result<String, ValueError> {
    let name = text(node)?;
    let known = process::look_up(None, Some(&name));
    known.map(|_| name).map_err(|_| "no such group".into())
}

/// Whether a file exists at this path or could be created, as far as its directory shows.
///
/// # Errors
/// The reason why not. A directory that the current user cannot inspect is not an error.
pub(super) fn writable_place(path: &Path) -> Result<(), ValueError> {
    let Some(parent) = path.parent() else {
        return Err("a directory, not a file".into());
    };
    match fs::metadata(parent) {
        Ok(about) if about.is_dir() => {}
        Ok(_) => return Err(format!("{} is not a directory", parent.display())),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Err(format!("there is no directory {}", parent.display()));
        }
        Err(_) => {}
    }
    match path.is_dir() {
        true => Err("a directory, not a file".into()),
        false => Ok(()),
    }
}

/// Removes [`MARK`] from the start of a text.
pub(super) fn without_mark(text: &str) -> &str {
    text.strip_prefix(MARK).unwrap_or(text)
}

/// Reads a text file without [`MARK`]; otherwise like [`read_file`].
///
/// # Errors
/// Those of [`read_file`].
pub(crate) fn read_text(path: &Path, most: u64) -> Result<Vec<u8>, ValueError> {
    let mut bytes = read_file(path, most)?;
    if bytes.starts_with(MARK.as_bytes()) {
        bytes.drain(..MARK.len());
    }
    Ok(bytes)
}

/// Reads a regular file of at most `most` bytes.
///
/// # Errors
/// The reason, worded for messages of the configuration.
pub(crate) fn read_file(path: &Path, most: u64) -> Result<Vec<u8>, ValueError> {
    let reason = |error: io::Error| process::reason(&error);
    let regular = |kind: FileType| match kind {
        kind if kind.is_file() => Ok(()),
        kind if kind.is_dir() => Err("a directory, not a file".to_owned()),
        kind if kind.is_fifo() => Err("a named pipe, not a regular file".to_owned()),
        _ => Err("not a regular file".to_owned()),
    };
    // Check before opening: opening alone has an effect on some devices.
    regular(fs::metadata(path).map_err(reason)?.file_type())?;
    // If it has become a named pipe since, opening must not wait for its writer.
    let open = OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK | O_NOCTTY)
        .open(path);
    let file = open.map_err(reason)?;
    regular(file.metadata().map_err(reason)?.file_type())?;
    let mut bytes = Vec::new();
    file.take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(reason)?;
    if bytes.len() as u64 > most {
        return Err(format!("larger than {}", size_text(most)));
    }
    Ok(bytes)
}

/// Parses a path of a URL.
pub(super) fn url_path(node: &Node) -> Result<String, ValueError> {
    let text = text(node)?;
    let fine = |byte: u8| byte.is_ascii_graphic() && !b"?#".contains(&byte);
    if !text.starts_with('/') || !text.bytes().all(fine) {
        return Err("not the path of a URL; write for example /swiftiply_health".into());
    }
    Ok(text)
}

/// Parses a prefix of decoded request paths.
pub(super) fn prefix(node: &Node) -> Result<String, ValueError> {
    let text = text(node)?;
    if !text.starts_with('/') {
        return Err(format!(
            "a path begins with /; write {:?}",
            format!("/{text}")
        ));
    }
    Ok(text)
}

/// Parses file permissions in octal digits: `0660`, `660`, `0o660`.
pub(super) fn mode(node: &Node) -> Result<u32, ValueError> {
    let text = text(node)?;
    let digits = text.strip_prefix("0o").unwrap_or(&text);
    let octal = digits.bytes().all(|byte| byte.is_ascii_digit());
    let mode = u32::from_str_radix(digits, 8).ok().filter(|_| octal);
    mode.filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "write permissions in octal, 0660".into())
}

/// Parses a regular expression of bounded size.
pub(super) fn expression(node: &Node) -> Result<Pattern, ValueError> {
    Pattern::new(&text(node)?).map_err(|wrong| wrong.to_string())
}

/// Parses a path with an optional query.
pub(super) fn target(node: &Node) -> Result<String, ValueError> {
    let text = text(node)?;
    let fine = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    if !text.starts_with('/') || !text.bytes().all(fine) {
        return Err("not a path; write for example /up".into());
    }
    Ok(text)
}

/// Parses the name of a field whose value is an address or a list of addresses.
pub(super) fn client_address_field(node: &Node) -> Result<String, ValueError> {
    let name = text(node)?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if name.is_empty() || !name.bytes().all(allowed) {
        return Err("write the name of a field, X-Forwarded-For or CF-Connecting-IP".into());
    }
    match name.eq_ignore_ascii_case("Forwarded") {
        true => Err("is not understood; write X-Forwarded-For, or another field of your proxy that has nothing but addresses".into()),
        false => Ok(name),
    }
}

/// Parses 64 hexadecimal digits, with or without colons.
pub(super) fn fingerprint(node: &Node) -> Result<[u8; 32], ValueError> {
    let wrong = || "write the SHA-256 of the certificate, 64 hexadecimal digits".to_string();
    let text = text(node)?.replace(':', "");
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = str::from_utf8(digits).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    Ok(bytes)
}

/// Parses a number of digits only.
pub(super) fn digits(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

/// Formats a size in the largest unit that divides it.
pub(crate) fn size_text(bytes: u64) -> String {
    match bytes {
        0 => "0".into(),
        _ if bytes.is_multiple_of(1 << 30) => format!("{}g", bytes >> 30),
        _ if bytes.is_multiple_of(1 << 20) => format!("{}m", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{}k", bytes >> 10),
        _ => bytes.to_string(),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_string(),
    }
}

/// The byte order mark that some editors put in front of UTF-8.
const MARK: &str = "\u{feff}";

/// Longest time; bounds all times, so that adding one to the clock cannot overflow.
pub(super) const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// What a build without the feature says.
pub(super) const WITHOUT_TLS: &str = "this program was built without it (feature tls)";

#[cfg(test)]
mod tests {
    use super::*;

    fn node(text: &str) -> Node {
        crate::config::raw::parse(text).expect("a value of a test")
    }

    #[test]
    fn times() {
        let check = |text: &str, expected: Result<u64, &str>| {
            let time = time(&node(text)).map(|time| time.as_millis() as u64);
            assert_eq!(time, expected.map_err(Into::into), "{text}");
        };
        let shape = Err("write seconds, or 500ms, 30s, 5m");
        check("3", Ok(3000));
        check("0.1", Ok(100));
        check("'2.5'", Ok(2500));
        check("500ms", Ok(500));
        check("30s", Ok(30_000));
        check("1.5m", Ok(90_000));
        check("0", Ok(0));
        check("-1", shape);
        check("5h", shape);
        check("s", shape);
        check("''", shape);
        check(".inf", shape);
        check(".nan", shape);
        check("infinity", shape);
        check("+3s", shape);
        check("[3]", shape);
        check("true", shape);
        check("1e300", shape);
        check(&"9".repeat(400), Err("longer than a year"));
        check("999999999999", Err("longer than a year"));
    }

    #[test]
    fn sizes() {
        let check = |text: &str, expected: Result<u64, &str>| {
            assert_eq!(
                size(1..=2 << 30)(&node(text)),
                expected.map_err(Into::into),
                "{text}"
            );
        };
        let shape = Err("write bytes, or 64k, 10m, 1g");
        check("65536", Ok(65536));
        check("'17'", Ok(17));
        check("64k", Ok(65536));
        check("10M", Ok(10 << 20));
        check("2g", Ok(2 << 30));
        check("0", Err("write a size from 1 to 2g"));
        check("3g", Err("write a size from 1 to 2g"));
        check("99999999999999999g", Err("write a size from 1 to 2g"));
        check("99999999999999999999", shape);
        check("-1", shape);
        check("1.5m", shape);
        check("k", shape);
        check("64kb", shape);
        check("64é", shape);
        check("{}", shape);
    }

    #[test]
    fn truths() {
        let check = |text: &str, expected| assert_eq!(truth(&node(text)).ok(), expected, "{text}");
        for text in ["true", "'true'", "Yes", "y", "on"] {
            check(text, Some(true));
        }
        for text in ["false", "NO", "n", "off"] {
            check(text, Some(false));
        }
        for text in ["0", "1", "maybe", "[]", "''"] {
            check(text, None);
        }
    }

    #[test]
    fn levels_as_in_the_original() {
        let check = |text: &str, expected, sure| {
            assert_eq!(level(&node(text)), Ok((expected, sure)), "{text}");
        };
        check("0", LogLevel::Disabled, true);
        check("debug", LogLevel::Disabled, true);
        check("10", LogLevel::Disabled, true);
        check("Minimal", LogLevel::Minimal, true);
        check("'1'", LogLevel::Minimal, true);
        check("2", LogLevel::Normal, true);
        check("normal", LogLevel::Normal, true);
        check("full", LogLevel::Full, true);
        check("3", LogLevel::Full, true);
        check("verbose", LogLevel::Minimal, false);
        check("7", LogLevel::Minimal, false);
    }

    #[test]
    fn client_address_fields() {
        let check = |text: &str, expected: Option<&str>| {
            let name = client_address_field(&node(text)).ok();
            assert_eq!(name.as_deref(), expected, "{text}");
        };
        check("CF-Connecting-IP", Some("CF-Connecting-IP"));
        check("x-forwarded-for", Some("x-forwarded-for"));
        // Its elements are not plain addresses (RFC 7239).
        check("forwarded", None);
        for text in ["''", "X_Real_IP", "'X-Real-IP:'", "[X-Real-IP]"] {
            check(text, None);
        }
    }
}
