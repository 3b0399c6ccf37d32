//! Parses addresses, host names and networks of the file.
//!
//! Pure. Like those of `value`, the functions return the value, or an error that says what is wrong and what to write
//! instead.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::raw::Node;
use super::types::{Address, Network, ServerConfig, ServerProtocol};
use super::value::{ValueError, WITHOUT_TLS, absolute, digits, text};

impl FromStr for Address {
    type Err = String;

    /// Parses `host:port`, `[ipv6]:port` or `unix:/path`, as in `outgoing`.
    fn from_str(text: &str) -> Result<Self, String> {
        dial_in(None, text).map_err(|wrong| format!("{text}: {wrong}"))
    }
}

/// Parses a name of a site: a host name, or `*.` and one, for all names with one label more.
pub(super) fn site_name(node: &Node) -> Result<String, ValueError> {
    let text = text(node).map_err(|_| "write a host name".to_string())?;
    let Some(rest) = text.strip_prefix("*.") else {
        return host_name(node);
    };
    let name = host_name(&Node::Text(rest.into()));
    let name =
        name.map_err(|_| "not a host name behind the *.; write for example *.example.com")?;
    let is_address = name.starts_with('[') || name.parse::<IpAddr>().is_ok();
    match is_address {
        true => Err("an address has no names below it; write it alone".into()),
        false => Ok(format!("*.{name}")),
    }
}

/// Parses a host name; the result is in lower case, without port and final dot.
pub(super) fn host_name(node: &Node) -> Result<String, ValueError> {
    let text = text(node).map_err(|_| "write a host name".to_string())?;
    if text.contains("://") || text.contains('/') {
        return Err("a URL; write its host name only".into());
    }
    if text.contains('*') {
        return Err("a * stands for the first label only, *.example.com; write default: true for all other names".into());
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

/// Parses a dial-in address: `host:port`, `[::1]:port`, `unix:/path`.
pub(super) fn dial_in(directory: Option<&Path>, text: &str) -> Result<Address, ValueError> {
    if let Some(path) = text.strip_prefix("unix:") {
        return socket(directory, path).map(Address::Unix);
    }
    if text.contains('/') {
        return Err("not an address; write 127.0.0.1:30000 or unix:/path".into());
    }
    if text.parse::<Ipv6Addr>().is_ok() && !text.contains('.') {
        // `::1:80` is ambiguous: it may be an address, or an address with a port.
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

impl FromStr for ServerConfig {
    type Err = String;

    /// Parses `host:port`, `http://host:port`, `https://host:port`, `unix:/path` or `fastcgi:` and an address, as in
    /// `servers`.
    fn from_str(text: &str) -> Result<Self, String> {
        let read = match text.starts_with(Self::FASTCGI) {
            true => fastcgi,
            false => server,
        };
        read(None, text).map_err(|wrong| format!("{text}: {wrong}"))
    }
}

/// Parses a server: `host:port` or `http://host:port`, with port 80 by default, `https://host:port`, with port 443, or
/// `unix:/path`.
pub(super) fn server(directory: Option<&Path>, text: &str) -> Result<ServerConfig, ValueError> {
    if text.starts_with("unix:") {
        return dial_in(directory, text).map(ServerConfig::from);
    }
    let (protocol, url) = match text.strip_prefix("https://") {
        Some(_) if !cfg!(feature = "tls") => {
            return Err(WITHOUT_TLS.into());
        }
        Some(rest) => (ServerProtocol::Https, Some(rest)),
        None => (ServerProtocol::Http, text.strip_prefix("http://")),
    };
    let with_protocol = |at| ServerConfig { at, protocol };
    let place = match url {
        Some(rest) if rest.starts_with("unix:") => {
            return Err(match protocol {
                ServerProtocol::Https => "no TLS through a Unix socket; write unix:/path".into(),
                _ => format!("write {rest}"),
            });
        }
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
        return Ok(with_protocol(Address::Tcp {
            host,
            port: match protocol {
                ServerProtocol::Https => 443,
                _ => 80,
            },
            implied: false,
        }));
    }
    match dial_in(directory, place)? {
        Address::Tcp { port: 0, .. } => Err("no port 0; write the server's port".into()),
        address => Ok(with_protocol(address)),
    }
}

/// Parses the address of a FastCGI server: `fastcgi:unix:/path`, `fastcgi:host:port` or `fastcgi://host:port`.
pub(super) fn fastcgi(directory: Option<&Path>, text: &str) -> Result<ServerConfig, ValueError> {
    const FASTCGI: &str = ServerConfig::FASTCGI;
    let place = text.strip_prefix(FASTCGI).unwrap_or(text);
    let place = place.strip_prefix("//").unwrap_or(place);
    if place.starts_with("unix:") {
        return dial_in(directory, place).map(ServerConfig::fastcgi);
    }
    if place.starts_with('/') {
        return Err(format!("write {FASTCGI}unix:{place}"));
    }
    let place = place.strip_suffix('/').unwrap_or(place);
    if place.contains('/') {
        return Err("no path; the scripts are below docroot".into());
    }
    match literal_or_name(place).filter(|_| digits(place).is_none()) {
        Some(_) => Err(format!("no port; write {FASTCGI}{place}:9000")),
        None => match dial_in(directory, place) {
            Ok(Address::Tcp { port: 0, .. }) => Err("no port 0; write the server's port".into()),
            Ok(address) => Ok(ServerConfig::fastcgi(address)),
            Err(_) => Err(format!(
                "not a FastCGI server; write {FASTCGI}unix:/run/php/php-fpm.sock or {FASTCGI}127.0.0.1:9000"
            )),
        },
    }
}

/// Parses a host name or literal address alone, without a port.
pub(super) fn host(node: &Node) -> Result<String, ValueError> {
    literal_or_name(&text(node)?).ok_or_else(|| "write a host name or an address".into())
}

/// Parses the address of a Redis server, whose port may be a key of its own: `name`, `name:6379`, `[::1]:6379`.
pub(super) fn redis(node: &Node, port: u16) -> Result<Address, ValueError> {
    let text = text(node)?;
    let with_port = || {
        let (host, port) = text.rsplit_once(':')?;
        let port = u16::try_from(digits(port)?).ok()?;
        let host =
            literal_or_name(host).filter(|_| !host.contains(':') || host.starts_with('['))?;
        Some((host, port))
    };
    let alone = literal_or_name(&text).map(|host| (host, port));
    let (host, port) = alone
        .or_else(with_port)
        .ok_or("write a host name or an address")?;
    Ok(Address::Tcp {
        host,
        port,
        implied: false,
    })
}

/// A value of `cluster_address`.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ClusterAddress {
    /// `*`: all addresses of both families.
    Any,
    /// A host name or address, without brackets.
    Host(String),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Parses a value of `cluster_address`: `0.0.0.0`, `::`, `*`, `localhost`, `unix:/path`.
pub(super) fn cluster_address(
    directory: Option<&Path>,
    text: &str,
) -> Result<ClusterAddress, ValueError> {
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

/// Parses a network: `10.0.0.0/8`, `::1`. One of IPv4 that is written as IPv6, `::ffff:10.0.0.0/104`, becomes IPv4.
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
        prefix
            if (MAPPED..=128).contains(&prefix)
                && address.to_canonical().is_ipv4()
                && most == 128 =>
        {
            Ok(Network {
                address: address.to_canonical(),
                prefix: (prefix - MAPPED) as u8,
            })
        }
        // At most 128 by the guard.
        prefix if prefix <= most => Ok(Network {
            address,
            prefix: prefix as u8,
        }),
        _ => Err(format!("a prefix of {address} has at most {most} bits")),
    }
}

/// Parses an item of `trusted_proxies`: a network, or the name of a service with many.
pub(super) fn proxies(node: &Node) -> Result<Vec<Network>, ValueError> {
    match text(node).as_deref() {
        Ok("cloudflare") => cloudflare(),
        _ => Ok(vec![network(node).map_err(
            |wrong| match wrong.starts_with("a prefix") {
                true => wrong,
                false => {
                    "write an address or network, 192.0.2.1 or 10.0.0.0/8, or cloudflare".into()
                }
            },
        )?]),
    }
}

/// The networks of Cloudflare, as of the date in the file.
fn cloudflare() -> Result<Vec<Network>, ValueError> {
    let lines = include_str!("cloudflare.txt").lines();
    let lines = lines.filter(|line| !line.starts_with('#'));
    lines
        .map(|line| network(&Node::Text(line.into())))
        .collect()
}

/// Whether it is impossible to listen on both addresses.
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
            // Port 0 is a different port each time.
            port == same && *port != 0 && (one == other || covers(one, other) || covers(other, one))
        }
        _ => false,
    }
}

/// Whether a server is one of our own addresses for clients, which would be a loop.
pub(super) fn is_front(server: &Address, listen: &[Address]) -> bool {
    let is_here = |host: &str| match host.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback() || ip.is_unspecified(),
        Err(_) => host == "localhost",
    };
    listen.iter().any(|front| match (front, server) {
        (Address::Unix(front), Address::Unix(server)) => front == server,
        (
            Address::Tcp {
                host: front_host, ..
            },
            Address::Tcp { host, .. },
        ) => conflict(front, server) && (front_host == host || is_here(host)),
        _ => false,
    })
}

/// Whether a wildcard address occupies the port of the other host too.
fn covers(wildcard: &str, host: &str) -> bool {
    let literal = host.parse::<IpAddr>();
    match wildcard {
        "0.0.0.0" => literal.map_or(true, |address| address.is_ipv4()),
        "::" => literal.map_or(true, |address| address.is_ipv6()),
        "localhost" => literal.is_ok_and(|address| address.is_loopback()),
        _ => false,
    }
}

/// Parses the path of a Unix socket; the result is absolute.
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

/// Parses a host name or literal address; the result is in lower case, IPv6 without brackets and in its shortest form.
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

/// Whether a text has letters, digits, `-`, `_` and single dots only, and a length that DNS allows.
fn is_name(text: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(fine);
    text.len() <= 253 && text.split('.').all(label)
}

/// The bits in front of an IPv4 address that is mapped into IPv6 (RFC 4291 2.5.5.2).
const MAPPED: u64 = 96;

/// The longest path that fits into `sun_path` with its final NUL.
const SOCKET_PATH: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;

    fn node(text: &str) -> Node {
        crate::config::raw::parse(text).expect("a value of a test")
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
            assert_eq!(dial_in(None, text), expected, "{text}");
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
        let relative = dial_in(Some(Path::new("/srv")), "unix:app.sock");
        assert_eq!(relative, Ok(Address::Unix("/srv/app.sock".into())));
    }

    #[test]
    fn client_addresses() {
        let check = |text: &str, expected: Result<&str, &str>| {
            let expected = expected
                .map(|host| ClusterAddress::Host(host.into()))
                .map_err(String::from);
            assert_eq!(cluster_address(None, text), expected, "{text}");
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
        assert_eq!(cluster_address(None, "*"), Ok(ClusterAddress::Any));
        assert_eq!(
            cluster_address(None, "unix:/s"),
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
    fn site_names() {
        let check = |text: &str, expected: Option<&str>| {
            let name = site_name(&Node::Text(text.into())).ok();
            assert_eq!(name.as_deref(), expected, "{text}");
        };
        check("*.Example.com.", Some("*.example.com"));
        check("*.test:80", Some("*.test"));
        check("example.com", Some("example.com"));
        for text in [
            "*",
            "*.",
            "*a.b",
            "a.*.b",
            "*.*.b",
            "**.b",
            "*.127.0.0.1",
            "*.[::1]",
            "*.a b",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn networks_of_cloudflare() {
        let networks = cloudflare().expect("networks only");
        assert_eq!(networks.len(), 22);
        let is_in = |ip: &str| {
            networks
                .iter()
                .any(|network| network.contains(ip.parse().unwrap()))
        };
        assert!(is_in("104.16.0.1") && is_in("2606:4700::1") && !is_in("127.0.0.1"));
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
    fn conflicts() {
        let check = |one: &str, other: &str, expected| {
            let address = |text| dial_in(None, text).expect("an address of a test");
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
