//! One value of the file, read: times, sizes, addresses, host names.
//!
//! Pure, but for files. Every function takes a [`Node`] or its text and answers with the value, or with what is wrong and
//! what would be right; the caller puts the key and the value as typed in front.

use std::fs::{self, FileType, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc::{O_NOCTTY, O_NONBLOCK};
use regex::{Regex, RegexBuilder};

use super::raw::Node;
use super::{Address, LogLevel, Network};
use crate::process;

/// What is wrong with a value.
pub(super) type ValueError = String;

/// A value as it is quoted in a message: short, on one line.
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

/// A text or a number as text.
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

/// true or false, with the words that YAML had for them when the original was written.
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

/// A count within a range.
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

/// A port.
pub(super) fn port(node: &Node) -> Result<u16, ValueError> {
    let number = count(0..=u64::from(u16::MAX))(node)?;
    u16::try_from(number).map_err(|_| "write a number from 0 to 65535".into())
}

/// Bytes within a range: `65536`, `64k`, `10m`, `1g`.
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

/// A time: seconds with fractions, `500ms`, `30s`, `5m`. Whole milliseconds.
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
    // In range by the line above, and not negative: a sign is not plain.
    Ok(Duration::from_millis(milliseconds as u64))
}

/// A time that may not be over before it begins.
pub(super) fn deadline(node: &Node) -> Result<Duration, ValueError> {
    let time = time(node)?;
    if time.is_zero() {
        return Err("write at least 1ms".into());
    }
    Ok(time)
}

/// A level as the original reads it, and whether that is what it says.
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

/// A file's path, absolute.
pub(super) fn path(directory: Option<&Path>) -> impl Fn(&Node) -> Result<PathBuf, ValueError> {
    move |node| {
        let text = text(node)?;
        if text.contains('\0') {
            return Err("a NUL in a path".into());
        }
        Ok(absolute(directory, Path::new(&text)))
    }
}

/// The path of a directory that exists; see [`path`].
pub(super) fn folder(directory: Option<&Path>) -> impl Fn(&Node) -> Result<PathBuf, ValueError> {
    move |node| {
        let path = path(directory)(node)?;
        match path.metadata() {
            Ok(about) if about.is_dir() => Ok(path),
            Ok(_) => Err("not a directory".into()),
            Err(_) => Err("there is no such directory".into()),
        }
    }
}

/// The path from `directory`, or from the working directory. The file need not exist.
pub(super) fn absolute(directory: Option<&Path>, path: &Path) -> PathBuf {
    let path = directory.map_or_else(|| path.to_path_buf(), |directory| directory.join(path));
    std::path::absolute(&path).unwrap_or(path)
}

/// Whether a file can be made at this path, or is there: what its directory says of that.
///
/// # Errors
/// Why not. What the present user may not see is not known, and no error.
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

/// A text without [`MARK`].
pub(super) fn without_mark(text: &str) -> &str {
    text.strip_prefix(MARK).unwrap_or(text)
}

/// The bytes of a text file without [`MARK`]; otherwise like [`read_file`].
///
/// # Errors
/// As of [`read_file`].
pub(crate) fn read_text(path: &Path, most: u64) -> Result<Vec<u8>, ValueError> {
    let mut bytes = read_file(path, most)?;
    if bytes.starts_with(MARK.as_bytes()) {
        bytes.drain(..MARK.len());
    }
    Ok(bytes)
}

/// The bytes of a regular file that has `most` bytes at the most.
///
/// # Errors
/// What keeps it from being read, as in a message of the configuration.
pub(crate) fn read_file(path: &Path, most: u64) -> Result<Vec<u8>, ValueError> {
    let reason = |error: io::Error| process::reason(&error);
    let regular = |kind: FileType| match kind {
        kind if kind.is_file() => Ok(()),
        kind if kind.is_dir() => Err("a directory, not a file".to_owned()),
        kind if kind.is_fifo() => Err("a named pipe, not a regular file".to_owned()),
        _ => Err("not a regular file".to_owned()),
    };
    // Before it is opened, for that alone is felt by some devices.
    regular(fs::metadata(path).map_err(reason)?.file_type())?;
    // By now it may be a named pipe, and must not make us wait for its writer.
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

/// A path of a URL.
pub(super) fn url_path(node: &Node) -> Result<String, ValueError> {
    let text = text(node)?;
    let fine = |byte: u8| byte.is_ascii_graphic() && !b"?#".contains(&byte);
    if !text.starts_with('/') || !text.bytes().all(fine) {
        return Err("not the path of a URL; write for example /swiftiply_health".into());
    }
    Ok(text)
}

/// What requests' decoded paths are to begin with.
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

/// Permissions of a file in octal digits: `0660`, `660`, `0o660`.
pub(super) fn mode(node: &Node) -> Result<u32, ValueError> {
    let text = text(node)?;
    let digits = text.strip_prefix("0o").unwrap_or(&text);
    let octal = digits.bytes().all(|byte| byte.is_ascii_digit());
    let mode = u32::from_str_radix(digits, 8).ok().filter(|_| octal);
    mode.filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "write permissions in octal, 0660".into())
}

/// A regular expression, bounded in size.
pub(super) fn expression(node: &Node) -> Result<Regex, ValueError> {
    let text = text(node)?;
    let built = RegexBuilder::new(&text)
        .size_limit(EXPRESSION_BYTES)
        .build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "too large when compiled; write a shorter one".into(),
        error => {
            let error = error.to_string();
            let cause = error.lines().last().unwrap_or_default();
            cause.trim_start_matches("error: ").to_string()
        }
    })
}

/// A host name as it is compared: lower case, without port and final dot.
pub(super) fn host_name(node: &Node) -> Result<String, ValueError> {
    let text = text(node).map_err(|_| "write a host name".to_string())?;
    if text.contains("://") || text.contains('/') {
        return Err("a URL; write its host name only".into());
    }
    if text.contains('*') {
        return Err("no patterns; list the names, or write default: true for all others".into());
    }
    if !text.is_ascii() {
        return Err("write it in its ASCII form (xn--...)".into());
    }
    let text = text.to_ascii_lowercase();
    let bare = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    if let Ok(address) = bare
        .map_or(text.as_str(), |(inside, _)| inside)
        .parse::<Ipv6Addr>()
    {
        return match bare.map_or("", |(_, after)| after) {
            "" => Ok(format!("[{address}]")),
            after
                if after
                    .strip_prefix(':')
                    .is_some_and(|port| digits(port).is_some()) =>
            {
                Ok(format!("[{address}]"))
            }
            _ => Err("not a host name".into()),
        };
    }
    let name = match text.split_once(':') {
        Some((name, port)) if digits(port).is_some() => name,
        _ => text.as_str(),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if !is_name(name) {
        return Err("not a host name".into());
    }
    Ok(name.to_string())
}

/// Where backends dial in: `host:port`, `[::1]:port`, `unix:/path`.
pub(super) fn address(directory: Option<&Path>, text: &str) -> Result<Address, ValueError> {
    if let Some(path) = text.strip_prefix("unix:") {
        return socket(directory, path).map(Address::Unix);
    }
    if text.contains('/') {
        return Err("not an address; write 127.0.0.1:30000 or unix:/path".into());
    }
    if text.parse::<Ipv6Addr>().is_ok() && !text.contains('.') {
        // `::1:80` may be an address, or one and a port.
        return Err(format!(
            "an IPv6 address needs brackets and a port; write [{text}]:30000"
        ));
    }
    if digits(text).is_some() {
        return Err(format!("no address; write 127.0.0.1:{text}"));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, port),
        _ => return Err(format!("no port; write {text}:30000")),
    };
    if host.is_empty() {
        return Err(format!("no address; write 127.0.0.1{text}"));
    }
    if host == "*" {
        return Err(format!(
            "one address only; write 0.0.0.0:{port} or [::]:{port}"
        ));
    }
    let Some(port) = digits(port).and_then(|port| u16::try_from(port).ok()) else {
        return Err(format!("no port {port:?}; write a number from 0 to 65535"));
    };
    if host.contains(':') && !host.starts_with('[') {
        return Err(format!(
            "an IPv6 address needs brackets; write [{host}]:{port}"
        ));
    }
    let Some(host) = literal_or_name(host) else {
        return Err("not an address; write 127.0.0.1:30000, [::1]:30000 or unix:/path".into());
    };
    Ok(Address::Tcp {
        host,
        port,
        implied: false,
    })
}

/// A server that is connected to: `host:port`, port 80 if none is written, `http://host:port`, `unix:/path`.
pub(super) fn server(directory: Option<&Path>, text: &str) -> Result<Address, ValueError> {
    if text.starts_with("https://") {
        return Err("no TLS to servers; write http://".into());
    }
    let url = text.strip_prefix("http://");
    if text.starts_with("unix:") {
        return address(directory, text);
    }
    let place = match url {
        Some(rest) => rest.strip_suffix('/').unwrap_or(rest),
        None => text,
    };
    if place.contains('/') {
        return Err(match url {
            Some(_) => "no path; requests keep theirs".into(),
            None => {
                "not a server; write 127.0.0.1:3000, unix:/path or http://127.0.0.1:3000".into()
            }
        });
    }
    if place.parse::<Ipv6Addr>().is_ok() {
        return Err(format!(
            "an IPv6 address needs brackets; write [{place}]:3000"
        ));
    }
    if let Some(host) = literal_or_name(place).filter(|_| digits(place).is_none()) {
        return Ok(Address::Tcp {
            host,
            port: 80,
            implied: false,
        });
    }
    match address(directory, place)? {
        Address::Tcp { port: 0, .. } => Err("no port 0; write the server's port".into()),
        address => Ok(address),
    }
}

/// The host of a server whose port is written elsewhere.
pub(super) fn host(node: &Node) -> Result<String, ValueError> {
    let text = text(node)?;
    literal_or_name(&text).ok_or_else(|| "write a host name or an address".into())
}

/// A path with or without query.
pub(super) fn target(node: &Node) -> Result<String, ValueError> {
    let text = text(node)?;
    let fine = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    if !text.starts_with('/') || !text.bytes().all(fine) {
        return Err("not a path; write for example /up".into());
    }
    Ok(text)
}

/// One of `cluster_address`.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ClusterAddress {
    /// `*`: all addresses of both families.
    Any,
    /// A host name or address, without brackets.
    Host(String),
    /// A Unix socket.
    Unix(PathBuf),
}

/// An address for visitors, whose port is in `cluster_port`: `0.0.0.0`, `::`, `*`, `localhost`, `unix:/path`.
pub(super) fn front(directory: Option<&Path>, text: &str) -> Result<ClusterAddress, ValueError> {
    if text == "*" {
        return Ok(ClusterAddress::Any);
    }
    if let Some(path) = text.strip_prefix("unix:") {
        return socket(directory, path).map(ClusterAddress::Unix);
    }
    if text.contains('/') {
        return Err("not an address; write 0.0.0.0, :: or unix:/path".into());
    }
    if let Some(host) = literal_or_name(text) {
        return Ok(ClusterAddress::Host(host));
    }
    match text.rsplit_once(':') {
        Some((host, port)) if digits(port).is_some() && literal_or_name(host).is_some() => {
            Err(format!("write {host} here and {port} in cluster_port"))
        }
        _ => Err("not an address; write 0.0.0.0, :: or unix:/path".into()),
    }
}

/// The name of a field that has an address, or a list of them, as its value.
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

/// A network: `10.0.0.0/8`, `::1`.
pub(super) fn network(node: &Node) -> Result<Network, ValueError> {
    let wrong = || "write an address or network, 192.0.2.1 or 10.0.0.0/8".to_string();
    let text = text(node).map_err(|_| wrong())?;
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(digits(prefix).ok_or_else(wrong)?)),
        None => (text.as_str(), None),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    match prefix.unwrap_or(most) {
        // At most 128 by the guard.
        prefix if prefix <= most => Ok(Network {
            address,
            prefix: prefix as u8,
        }),
        _ => Err(format!("a prefix of {address} has at most {most} bits")),
    }
}

/// Whether two addresses cannot both be listened on.
pub(super) fn conflict(one: &Address, other: &Address) -> bool {
    match (one, other) {
        (Address::Unix(one), Address::Unix(other)) => one == other,
        (
            Address::Tcp {
                host: one, port, ..
            },
            Address::Tcp {
                host: other,
                port: same,
                ..
            },
        ) => {
            // Port 0 is another one each time.
            port == same && *port != 0 && (one == other || covers(one, other) || covers(other, one))
        }
        _ => false,
    }
}

/// Whether a wildcard takes the other host's port as well.
fn covers(wildcard: &str, host: &str) -> bool {
    let literal = host.parse::<IpAddr>();
    match wildcard {
        "0.0.0.0" => literal.map_or(true, |address| address.is_ipv4()),
        "::" => literal.map_or(true, |address| address.is_ipv6()),
        "localhost" => literal.is_ok_and(|address| address.is_loopback()),
        _ => false,
    }
}

/// The path of a Unix socket, absolute.
fn socket(directory: Option<&Path>, path: &str) -> Result<PathBuf, ValueError> {
    if path.is_empty() || path.contains('\0') {
        return Err("no path; write unix:/path".into());
    }
    let path = absolute(directory, Path::new(path));
    if path.as_os_str().len() > SOCKET_PATH {
        return Err(format!(
            "the path of a socket has at most {SOCKET_PATH} bytes"
        ));
    }
    Ok(path)
}

/// A host name or literal address in one spelling: lower case, IPv6 without brackets and as short as it goes.
fn literal_or_name(text: &str) -> Option<String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if let Ok(address) = bare.unwrap_or(text).parse::<Ipv6Addr>() {
        return Some(address.to_string());
    }
    let text = text.to_ascii_lowercase();
    let numeric = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    if numeric && text.parse::<Ipv4Addr>().is_err() {
        return None;
    }
    is_name(&text).then_some(text)
}

/// Letters, digits, `-`, `_` and single dots, in the length that DNS allows.
fn is_name(text: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(fine);
    text.len() <= 253 && text.split('.').all(label)
}

/// A number that is written in digits only.
fn digits(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

/// A size in the largest unit that divides it.
pub fn size_text(bytes: u64) -> String {
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

/// Bounds every time, so that adding one to the clock cannot overflow.
pub(super) const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Bounds the memory of a compiled regular expression.
const EXPRESSION_BYTES: usize = 1 << 20;

/// `sun_path` without its final NUL.
const SOCKET_PATH: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;

    fn node(text: &str) -> Node {
        super::super::raw::parse(text).expect("a value of a test")
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
    fn dial_in_addresses() {
        let check = |text: &str, expected: Result<(&str, u16), &str>| {
            let expected = expected
                .map_err(String::from)
                .map(|(host, port)| Address::Tcp {
                    host: host.into(),
                    port,
                    implied: false,
                });
            assert_eq!(address(None, text), expected, "{text}");
        };
        check("127.0.0.1:30000", Ok(("127.0.0.1", 30000)));
        check("LocalHost:0", Ok(("localhost", 0)));
        check("[::1]:80", Ok(("::1", 80)));
        check("[0:0::1]:80", Ok(("::1", 80)));
        check("127.0.0.1", Err("no port; write 127.0.0.1:30000"));
        check("app.example", Err("no port; write app.example:30000"));
        check("[::1]", Err("no port; write [::1]:30000"));
        check("30000", Err("no address; write 127.0.0.1:30000"));
        check(":30000", Err("no address; write 127.0.0.1:30000"));
        check(
            "*:30000",
            Err("one address only; write 0.0.0.0:30000 or [::]:30000"),
        );
        check(
            "::1",
            Err("an IPv6 address needs brackets and a port; write [::1]:30000"),
        );
        check(
            "fe80:0:0:0:1:2:3:4:80",
            Err("an IPv6 address needs brackets; write [fe80:0:0:0:1:2:3:4]:80"),
        );
        check(
            "a:70000",
            Err("no port \"70000\"; write a number from 0 to 65535"),
        );
        check(
            "a:+80",
            Err("no port \"+80\"; write a number from 0 to 65535"),
        );
        check("a:", Err("no port \"\"; write a number from 0 to 65535"));
        let shape = "not an address; write 127.0.0.1:30000, [::1]:30000 or unix:/path";
        check("256.0.0.1:80", Err(shape));
        check("a b:80", Err(shape));
        check("[x]:80", Err(shape));
        check(
            "http://a:80",
            Err("not an address; write 127.0.0.1:30000 or unix:/path"),
        );
        check("unix:", Err("no path; write unix:/path"));
        let long = format!("unix:/{}", "x".repeat(107));
        check(&long, Err("the path of a socket has at most 107 bytes"));
        let relative = address(Some(Path::new("/srv")), "unix:app.sock");
        assert_eq!(relative, Ok(Address::Unix("/srv/app.sock".into())));
    }

    #[test]
    fn visitors_addresses() {
        let check = |text: &str, expected: Result<&str, &str>| {
            let expected = expected
                .map(|host| ClusterAddress::Host(host.into()))
                .map_err(String::from);
            assert_eq!(front(None, text), expected, "{text}");
        };
        check("0.0.0.0", Ok("0.0.0.0"));
        check("::", Ok("::"));
        check("[::1]", Ok("::1"));
        check("Example.com", Ok("example.com"));
        check(
            "127.0.0.1:80",
            Err("write 127.0.0.1 here and 80 in cluster_port"),
        );
        check("[::1]:80", Err("write [::1] here and 80 in cluster_port"));
        check("80", Err("not an address; write 0.0.0.0, :: or unix:/path"));
        check(
            "a b",
            Err("not an address; write 0.0.0.0, :: or unix:/path"),
        );
        assert_eq!(front(None, "*"), Ok(ClusterAddress::Any));
        assert_eq!(
            front(None, "unix:/s"),
            Ok(ClusterAddress::Unix("/s".into()))
        );
    }

    #[test]
    fn host_names() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(
                host_name(&Node::Text(text.into())).ok().as_deref(),
                expected,
                "{text}"
            );
        };
        check("Example.COM", Some("example.com"));
        check("example.com.", Some("example.com"));
        check("example.com:8080", Some("example.com"));
        check("127.0.0.1", Some("127.0.0.1"));
        check("my_app", Some("my_app"));
        check("::1", Some("[::1]"));
        check("[0::1]:80", Some("[::1]"));
        for text in [
            "",
            ".",
            "a..b",
            "a b",
            "*.a",
            "http://a",
            "a/b",
            "bücher.de",
            "a:b",
            "[::1]x",
            "[::1",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn networks() {
        let check = |text: &str, expected: Option<(&str, u8)>| {
            let network = network(&node(text)).ok();
            let network = network.map(|network| (network.address.to_string(), network.prefix));
            let expected = expected.map(|(address, prefix)| (address.to_string(), prefix));
            assert_eq!(network, expected, "{text}");
        };
        check("10.1.2.3/8", Some(("10.1.2.3", 8)));
        check("192.0.2.1", Some(("192.0.2.1", 32)));
        check("'::1'", Some(("::1", 128)));
        check("0.0.0.0/0", Some(("0.0.0.0", 0)));
        for text in [
            "10.0.0.0/33",
            "fe80::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "a",
            "10",
            "[]",
        ] {
            check(text, None);
        }
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

    #[test]
    fn conflicts() {
        let check = |one: &str, other: &str, expected| {
            let address = |text| address(None, text).expect("an address of a test");
            let (one, other) = (address(one), address(other));
            assert_eq!(conflict(&one, &other), expected, "{one:?} {other:?}");
            assert_eq!(conflict(&other, &one), expected, "{other:?} {one:?}");
        };
        check("a:80", "a:80", true);
        check("a:80", "a:81", false);
        check("a:80", "b:80", false);
        check("a:0", "a:0", false);
        check("0.0.0.0:80", "127.0.0.1:80", true);
        check("0.0.0.0:80", "a:80", true);
        check("0.0.0.0:80", "[::1]:80", false);
        check("[::]:80", "[::1]:80", true);
        check("localhost:80", "127.0.0.1:80", true);
        check("localhost:80", "[::1]:80", true);
        check("localhost:80", "10.0.0.1:80", false);
        check("unix:/a", "unix:/a", true);
        check("unix:/a", "a:80", false);
    }
}
