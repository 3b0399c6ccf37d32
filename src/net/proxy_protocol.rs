//! The PROXY protocol, versions 1 and 2: a header in front of a connection, in which a proxy names the client.
//!
//! Pure. The format is that of <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. Extensions (TLVs) are
//! skipped.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config::ProxyVersion;

/// The two ends of the connection that a proxy has accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxiedEnds {
    /// The client.
    pub source: SocketAddr,
    /// The address to which it has connected.
    pub destination: SocketAddr,
}

/// A complete header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Its length in bytes.
    pub length: usize,
    /// What it says. `None`: the connection is that of the proxy itself, or its kind has no addresses (LOCAL, UNSPEC,
    /// UNKNOWN, Unix sockets, datagrams).
    pub ends: Option<ProxiedEnds>,
}

/// Parses a header at the beginning of some bytes. `None`: it is not complete yet, and all bytes belong to it.
///
/// # Errors
/// The bytes are no header: the rule that they break.
pub fn parse(bytes: &[u8]) -> Result<Option<ProxyHeader>, &'static str> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(one, other)| one == other);
    if begins(SIGNATURE) {
        return parse_binary(bytes);
    }
    match begins(WORD) {
        true => parse_line(bytes),
        false => Err("it does not begin with a PROXY header"),
    }
}

/// Whether bytes begin as a header does.
pub fn is_header(bytes: &[u8]) -> bool {
    bytes.starts_with(SIGNATURE) || bytes.starts_with(WORD)
}

/// Version 1: a line of text.
fn parse_line(bytes: &[u8]) -> Result<Option<ProxyHeader>, &'static str> {
    let line = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
        return match line.len() {
            LONGEST_LINE => Err("a PROXY header of version 1 is longer than 107 bytes"),
            _ => Ok(None),
        };
    };
    let length = end + 1;
    let line = line[..end].strip_suffix(b"\r");
    let line = line.ok_or("a PROXY header of version 1 does not end with CR LF")?;
    let text = str::from_utf8(line).ok();
    let words = text.and_then(|text| text.strip_prefix("PROXY "));
    let words: Vec<&str> = words.unwrap_or_default().split(' ').collect();
    let ends = match *words {
        ["UNKNOWN", ..] => None,
        [family @ ("TCP4" | "TCP6"), source, destination, from, to] => {
            let end = |ip: &str, port: &str| {
                let ip = match family {
                    "TCP4" => ip.parse::<Ipv4Addr>().ok().map(IpAddr::from),
                    _ => ip.parse::<Ipv6Addr>().ok().map(IpAddr::from),
                };
                let is_plain = port.bytes().all(|byte| byte.is_ascii_digit());
                let port = port.parse().ok().filter(|_| is_plain)?;
                Some(SocketAddr::new(ip?, port))
            };
            let wrong = "a PROXY header of version 1 has a malformed address or port";
            Some(ProxiedEnds {
                source: end(source, from).ok_or(wrong)?,
                destination: end(destination, to).ok_or(wrong)?,
            })
        }
        _ => return Err("a PROXY header of version 1 is malformed"),
    };
    Ok(Some(ProxyHeader { length, ends }))
}

/// Version 2: binary.
fn parse_binary(bytes: &[u8]) -> Result<Option<ProxyHeader>, &'static str> {
    let Some((fixed, rest)) = bytes.split_at_checked(FIXED) else {
        return Ok(None);
    };
    let [command, family, high, low] = fixed[SIGNATURE.len()..] else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MOST {
        return Err("a PROXY header of version 2 is longer than 4096 bytes");
    }
    let is_local = match command {
        LOCAL => true,
        PROXIED => false,
        _ => return Err("a PROXY header of version 2 has an unknown version or command"),
    };
    if family >> 4 > 3 || family & 15 > 2 {
        return Err("a PROXY header of version 2 has an unknown family or protocol");
    }
    let Some(rest) = rest.get(..length) else {
        return Ok(None);
    };
    let ends = match family {
        _ if is_local => None,
        TCP4 => Some(ends::<4>(rest)?),
        TCP6 => Some(ends::<16>(rest)?),
        _ => None,
    };
    let length = FIXED + length;
    Ok(Some(ProxyHeader { length, ends }))
}

/// Reads two addresses of `N` bytes and two ports.
fn ends<const N: usize>(bytes: &[u8]) -> Result<ProxiedEnds, &'static str>
where
    IpAddr: From<[u8; N]>,
{
    let short = "a PROXY header of version 2 is too short for its addresses";
    let (source, rest) = bytes.split_first_chunk::<N>().ok_or(short)?;
    let (destination, rest) = rest.split_first_chunk::<N>().ok_or(short)?;
    let (from, rest) = rest.split_first_chunk().ok_or(short)?;
    let (to, _) = rest.split_first_chunk().ok_or(short)?;
    let end = |ip: [u8; N], port| SocketAddr::new(IpAddr::from(ip), u16::from_be_bytes(port));
    Ok(ProxiedEnds {
        source: end(*source, *from),
        destination: end(*destination, *to),
    })
}

/// Appends a header. `None`: the connection has no addresses, as one through a Unix socket.
pub fn write(version: ProxyVersion, ends: Option<ProxiedEnds>, out: &mut Vec<u8>) {
    let ends = ends.map(of_one_family);
    match (version, ends) {
        (ProxyVersion::V1, None) => out.extend_from_slice(b"PROXY UNKNOWN\r\n"),
        (ProxyVersion::V1, Some((source, destination))) => {
            let family = if source.is_ipv4() { 4 } else { 6 };
            let (from, to) = (source.port(), destination.port());
            let (source, destination) = (source.ip(), destination.ip());
            // Writing into memory does not fail.
            let _ = write!(
                out,
                "PROXY TCP{family} {source} {destination} {from} {to}\r\n"
            );
        }
        (ProxyVersion::V2, None) => write_binary(PROXIED, 0, &[], out),
        (ProxyVersion::V2, Some((source, destination))) => {
            let mut rest = Vec::new();
            for end in [source, destination] {
                match end.ip() {
                    IpAddr::V4(ip) => rest.extend_from_slice(&ip.octets()),
                    IpAddr::V6(ip) => rest.extend_from_slice(&ip.octets()),
                }
            }
            rest.extend_from_slice(&source.port().to_be_bytes());
            rest.extend_from_slice(&destination.port().to_be_bytes());
            let family = if source.is_ipv4() { TCP4 } else { TCP6 };
            write_binary(PROXIED, family, &rest, out);
        }
    }
}

/// Appends the header for a connection of the proxy's own, such as one for a health check.
pub fn write_local(version: ProxyVersion, out: &mut Vec<u8>) {
    match version {
        ProxyVersion::V1 => write(version, None, out),
        ProxyVersion::V2 => write_binary(LOCAL, 0, &[], out),
    }
}

/// Appends a header of version 2 with less than 256 bytes of addresses.
fn write_binary(command: u8, family: u8, rest: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(SIGNATURE);
    out.extend_from_slice(&[command, family, 0, rest.len() as u8]);
    out.extend_from_slice(rest);
}

/// Both ends as IPv4 if both are, otherwise as IPv6.
fn of_one_family(ends: ProxiedEnds) -> (SocketAddr, SocketAddr) {
    let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    let (source, destination) = (plain(ends.source), plain(ends.destination));
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    let mapped = |end: SocketAddr| match end.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), end.port()),
        IpAddr::V6(_) => end,
    };
    (mapped(source), mapped(destination))
}

/// The beginning of version 1.
const WORD: &[u8] = b"PROXY ";
/// The beginning of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2 and its commands: a connection of the proxy's own, and one for a client.
const LOCAL: u8 = 0x20;
const PROXIED: u8 = 0x21;
/// TCP over IPv4 and over IPv6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
/// Bytes of version 2 before the addresses.
const FIXED: usize = 16;
/// The longest line of version 1.
const LONGEST_LINE: usize = 107;
/// The most bytes of addresses and extensions of version 2 that are accepted.
const MOST: usize = 4096 - FIXED;

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(source: &str, destination: &str) -> ProxiedEnds {
        ProxiedEnds {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    /// A header of version 2.
    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend_from_slice(&[command, family]);
        bytes.extend_from_slice(&(rest.len() as u16).to_be_bytes());
        bytes.extend_from_slice(rest);
        bytes
    }

    /// Parses a header with a request behind it, and each beginning of it.
    fn check(header: &[u8], ends: Option<ProxiedEnds>) {
        let length = header.len();
        let bytes = [header, b"GET / HTTP/1.1\r\n"].concat();
        assert_eq!(
            parse(&bytes),
            Ok(Some(ProxyHeader { length, ends })),
            "{header:?}"
        );
        for end in 0..length {
            assert_eq!(parse(&header[..end]), Ok(None), "{end} bytes of {header:?}");
        }
    }

    #[test]
    fn lines() {
        let v4 = ends("192.0.2.1:56324", "198.51.100.1:443");
        check(b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n", Some(v4));
        let v6 = ends("[2001:db8::1]:1", "[::2]:65535");
        check(b"PROXY TCP6 2001:db8::1 ::2 1 65535\r\n", Some(v6));
        check(b"PROXY UNKNOWN\r\n", None);
        check(b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", None);
    }

    #[test]
    fn binaries() {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 4, 1, 0xbb];
        let expected = Some(ends("192.0.2.1:56324", "198.51.100.1:443"));
        check(&binary(0x21, 0x11, &v4), expected);
        // With extensions behind the addresses.
        check(
            &binary(0x21, 0x11, &[&v4[..], &[4, 0, 1, 0]].concat()),
            expected,
        );
        let mut v6 = [0; 36];
        (v6[15], v6[31], v6[33], v6[35]) = (1, 2, 3, 4);
        check(&binary(0x21, 0x21, &v6), Some(ends("[::1]:3", "[::2]:4")));
        check(&binary(0x20, 0, &[]), None);
        check(&binary(0x20, 0x11, &v4), None);
        check(&binary(0x21, 0, &[1, 2, 3]), None);
        check(&binary(0x21, 0x31, &[0; 216]), None);
        check(&binary(0x21, 0x12, &v4), None);
    }

    #[test]
    fn no_headers() {
        let check = |bytes: &[u8], expected: &str| {
            let found = parse(bytes).expect_err("an error");
            assert!(found.contains(expected), "{found} for {bytes:?}");
        };
        check(b"GET / HTTP/1.1\r\n", "does not begin");
        check(b"PROXX", "does not begin");
        check(b"\r\n\r\nX", "does not begin");
        for line in [
            "PROXY TCP4 192.0.2.1 198.51.100.1 1\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 1 2 3\r\n",
            "PROXY TCP5 192.0.2.1 198.51.100.1 1 2\r\n",
            "PROXY  TCP4 192.0.2.1 198.51.100.1 1 2\r\n",
            "PROXY \r\n",
            "PROXY \u{e9}\r\n",
        ] {
            check(line.as_bytes(), "malformed");
        }
        for line in [
            "PROXY TCP4 ::1 ::2 1 2\r\n",
            "PROXY TCP6 192.0.2.1 ::1 1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 65536 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 1 \r\n",
            "PROXY TCP4 192.0.2.256 198.51.100.1 1 2\r\n",
        ] {
            check(line.as_bytes(), "malformed address or port");
        }
        check(b"PROXY UNKNOWN\n", "CR LF");
        check(format!("PROXY UNKNOWN {:100}", "").as_bytes(), "107");
        check(&binary(0x11, 0x11, &[0; 12]), "version or command");
        check(&binary(0x22, 0x11, &[0; 12]), "version or command");
        check(&binary(0x21, 0x41, &[0; 12]), "family or protocol");
        check(&binary(0x21, 0x13, &[0; 12]), "family or protocol");
        check(&binary(0x21, 0x11, &[0; 11]), "too short");
        check(&binary(0x21, 0x21, &[0; 35]), "too short");
        check(&binary(0x21, 0x11, &[0; 5000])[..16], "4096");
    }

    #[test]
    fn written_headers_are_parsed() {
        let v4 = ends("192.0.2.1:56324", "198.51.100.1:443");
        let v6 = ends("[2001:db8::1]:0", "[::2]:65535");
        let mixed = ends("192.0.2.1:1", "[::2]:2");
        let mapped = ends("[::ffff:192.0.2.1]:1", "[::2]:2");
        let cases = [
            (Some(v4), Some(v4)),
            (Some(v6), Some(v6)),
            (Some(mixed), Some(mapped)),
            (None, None),
        ];
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            for (given, expected) in cases {
                let mut out = Vec::new();
                write(version, given, &mut out);
                check(&out, expected);
            }
            let mut out = Vec::new();
            write_local(version, &mut out);
            check(&out, None);
        }
        let mut out = Vec::new();
        write(ProxyVersion::V1, Some(v4), &mut out);
        assert_eq!(out, b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n");
    }

    #[test]
    fn no_text_makes_it_panic() {
        // Headers with each byte replaced, and bytes without a pattern behind each beginning.
        let headers = [
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n".to_vec(),
            b"PROXY TCP6 2001:db8::1 ::2 1 65535\r\n".to_vec(),
            binary(0x21, 0x11, &[7; 12]),
            binary(0x21, 0x21, &[7; 40]),
            binary(0x21, 0x31, &[7; 216]),
        ];
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        for header in headers {
            for index in 0..header.len() {
                let mut changed = header.clone();
                for byte in 0..=255 {
                    changed[index] = byte;
                    if let Ok(Some(found)) = parse(&changed) {
                        assert!(found.length <= changed.len());
                    }
                }
                let mut random = header[..index].to_vec();
                random.extend((0..200).map(|_| next()));
                let _ = parse(&random);
            }
        }
    }
}
