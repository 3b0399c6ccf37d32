//! Renders the head of a request for the application, with the fields that describe the client.
//!
//! The head is rendered from what was parsed; the client's bytes are never copied. The proxy's own fields come before
//! the client's, which keep their order and spelling.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config;
use crate::exchange::{ClientAddress, Request, RequestBody};
use crate::http::body::Framing;
use crate::http::forwarding::{is_forwarding, is_identity};
use crate::http::head::{Version, write_field, write_number_field};
use crate::http::headers::Headers;
use crate::http::request_id::X_REQUEST_ID;
use crate::net::stream::Peer;
use crate::server::routes::RoutedTarget;
use crate::server::snapshot::Snapshot;

/// How long a request waited in the queue, for the application.
pub(super) struct QueueTime {
    /// When it got a backend.
    pub(super) at: Instant,
    /// How long it waited.
    pub(super) waited: Duration,
}

/// The client of a request that came through a trusted proxy: of the addresses that proxies on the way have added to
/// the field (`client_address_field`), the last one that is not itself a trusted proxy. What comes before it may be
/// forged by the client.
pub(super) fn client(peer: Peer, sent: &Headers, snapshot: &Snapshot) -> ClientAddress {
    let lists = sent.get_all(&snapshot.config.client_address_field).rev();
    let elements = lists.flat_map(|list| list.rsplit(|byte| *byte == b','));
    let elements = elements.map(<[u8]>::trim_ascii);
    let mut forwarded = None;
    for element in elements.filter(|element| !element.is_empty()) {
        // A word such as `unknown`, which hides an address, hides those before it too.
        let Some(ip) = address(element) else { break };
        forwarded = Some(ip);
        if !snapshot.trusts_address(ip) {
            break;
        }
    }
    ClientAddress {
        peer,
        trusted: true,
        forwarded,
    }
}

/// Parses an address as proxies write it: with or without a port, IPv6 with or without brackets.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?;
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    let ip = bare.parse().ok().or_else(with_port)?;
    Some(ip.to_canonical())
}

/// Appends the head as the application gets it, with the target that its route has given it. `client_address_field` is the field in which trusted proxies name the
/// client.
pub(super) fn render(
    request: &Request,
    routed: Option<&RoutedTarget>,
    client_address_field: &str,
    site: &config::SiteConfig,
    queue: &QueueTime,
    out: &mut Vec<u8>,
) {
    let framing = match &request.body {
        RequestBody::Empty | RequestBody::Stream { .. } => request.head.framing,
        body => Framing::Length(body.length()),
    };
    let prefix = routed.map_or("", |routed| &routed.prefix);
    // A client must not pose as a proxy, and no field is to be sent twice.
    let keep = |name: &[u8]| {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        let among = |names: &[&str]| names.iter().any(|known| is(known));
        !(site.xforwardedfor && among(&FORWARDED)
            || !prefix.is_empty() && is(FORWARDED_PREFIX)
            || site.via && is("Via")
            || site.queue_time && among(&QUEUE)
            || request.id.is_some() && is(X_REQUEST_ID)
            // No application needs it, and CGI turns it into HTTP_PROXY, which many libraries take for a setting
            // (httpoxy).
            || is("Proxy")
            || request.identity.is_some() && is_identity(name)
            || !request.client.trusted
                && (is_forwarding(name) || is(client_address_field)))
    };
    let first = |out: &mut Vec<u8>| {
        write_forwarding(request, site, out);
        if !prefix.is_empty() {
            write_prefix(request, prefix, out);
        }
        if site.queue_time {
            write_queue_time(request, queue, out);
        }
        if let Some(identity) = &request.identity {
            out.extend_from_slice(identity);
        }
        if request.id.is_some() {
            request.id.write_field(out);
        }
    };
    let target = routed.map_or(request.head.target.as_str(), |routed| &routed.target);
    (request.head).write_with(target, first, framing, keep, out);
}

/// Writes the path that was removed from the target. Proxies in front may have removed others, which come before it.
fn write_prefix(request: &Request, prefix: &str, out: &mut Vec<u8>) {
    let sent = request.client.trusted.then_some(&request.head.headers);
    let earlier = sent.into_iter();
    let earlier = earlier.flat_map(|sent| sent.get_all(FORWARDED_PREFIX));
    write_list(FORWARDED_PREFIX, earlier, prefix.as_bytes(), out);
}

/// Writes the fields that describe the client to the application, before the client's own fields.
fn write_forwarding(request: &Request, site: &config::SiteConfig, out: &mut Vec<u8>) {
    if request.head.host.is_none() {
        // HTTP/1.0 allows a request without Host; HTTP/1.1, in which it is passed on, does not (RFC 9112 3.2).
        let name = site.host().unwrap_or_default();
        write_field("Host", name.as_bytes(), out);
    }
    // Passes on what a trusted proxy says about the client, and adds the address from which the proxy connected.
    let sent = request.client.trusted.then_some(&request.head.headers);
    let values = |name| sent.into_iter().flat_map(move |sent| sent.get_all(name));
    // A proxy may append its own field to one that its client has sent: only the last one is the proxy's.
    let last = |name| values(name).last();
    if site.xforwardedfor {
        let [forwarded_for, proto, host, real_ip] = FORWARDED;
        let address = AddressText::of(request.client.peer.ip());
        write_list(forwarded_for, values(forwarded_for), address.bytes(), out);
        let scheme: &[u8] = if request.secure { b"https" } else { b"http" };
        write_field(proto, last(proto).unwrap_or(scheme), out);
        let own = request.head.host.as_ref();
        if let Some(name) = last(host).or(own.map(|host| host.as_str().as_bytes())) {
            write_field(host, name, out);
        }
        match request.client.forwarded {
            None => write_field(real_ip, address.bytes(), out),
            Some(client) => write_field(real_ip, AddressText::of(Some(client)).bytes(), out),
        }
    }
    if site.via {
        let received: &[u8] = match request.head.version {
            Version::Http10 => b"1.0 swiftiply",
            Version::Http11 => b"1.1 swiftiply",
        };
        // RFC 9110 7.6.3: each hop adds itself behind the earlier ones.
        write_list("Via", request.head.headers.get_all("Via"), received, out);
    }
}

/// Writes the fields from which monitoring computes the time in the queue: when the request was complete, in
/// microseconds as most tools expect it, and how many milliseconds no backend was free.
fn write_queue_time(request: &Request, queue: &QueueTime, out: &mut Vec<u8>) {
    let [start, waited] = QUEUE;
    // A proxy in front received it earlier.
    let sent = request.client.trusted.then_some(&request.head.headers);
    let existing = sent.and_then(|sent| sent.get_all(start).last());
    if let Some(existing) = existing {
        write_field(start, existing, out);
    } else {
        let ago = queue.at.saturating_duration_since(request.received);
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let since = epoch.unwrap_or_default().saturating_sub(ago);
        // It fits until the year 586 000.
        let micros = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        write_number_field(start, "t=", micros, out);
    }
    let millis = u64::try_from(queue.waited.as_millis()).unwrap_or(u64::MAX);
    write_number_field(waited, "", millis, out);
}

/// Writes a list as one field: the received elements, and one more.
fn write_list<'v>(
    name: &str,
    earlier: impl IntoIterator<Item = &'v [u8]>,
    last: &[u8],
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    for value in earlier {
        out.extend_from_slice(value);
        out.extend_from_slice(b", ");
    }
    out.extend_from_slice(last);
    out.extend_from_slice(b"\r\n");
}

/// A client's address as text, on the stack.
struct AddressText {
    text: [u8; Self::LONGEST],
    length: usize,
}

impl AddressText {
    /// The longest form of an IPv6 address.
    const LONGEST: usize = 45;

    fn of(ip: Option<IpAddr>) -> Self {
        let mut text = [0; Self::LONGEST];
        let mut rest = &mut text[..];
        // No address is longer than that.
        let _ = match ip {
            Some(IpAddr::V4(ip)) => return Self::dotted(ip.octets()),
            Some(ip) => write!(rest, "{ip}"),
            None => write!(rest, "unix:"),
        };
        let length = Self::LONGEST - rest.len();
        Self { text, length }
    }

    /// The same result as the library's formatter, in a tenth of the time: every request needs it.
    fn dotted(octets: [u8; 4]) -> Self {
        let mut address = Self {
            text: [0; Self::LONGEST],
            length: 0,
        };
        let mut push = |byte| {
            address.text[address.length] = byte;
            address.length += 1;
        };
        for (place, octet) in octets.into_iter().enumerate() {
            if place > 0 {
                push(b'.');
            }
            if octet >= 100 {
                push(b'0' + octet / 100);
            }
            if octet >= 10 {
                push(b'0' + octet / 10 % 10);
            }
            push(b'0' + octet % 10);
        }
        address
    }

    fn bytes(&self) -> &[u8] {
        &self.text[..self.length]
    }
}

/// Fields that the proxy writes itself.
const FORWARDED: [&str; 4] = [
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Real-IP",
];
/// The same, for the path that a route removes.
const FORWARDED_PREFIX: &str = "X-Forwarded-Prefix";
/// The same, for the time in the queue.
const QUEUE: [&str; 2] = ["X-Request-Start", "X-Queue-Time"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_text() {
        let check = |ip: &str| {
            let address = AddressText::of(ip.parse().ok());
            assert_eq!(str::from_utf8(address.bytes()), Ok(ip));
        };
        for ip in ["0.0.0.0", "1.20.100.209", "255.255.255.255", "10.99.9.90"] {
            check(ip);
        }
        check("2001:db8::1");
        assert_eq!(AddressText::of(None).bytes(), b"unix:");
    }

    #[test]
    fn addresses_as_proxies_write_them() {
        let check = |text: &str, expected: Option<&str>| {
            let expected = expected.map(|ip| ip.parse::<IpAddr>().unwrap());
            assert_eq!(address(text.as_bytes()), expected, "{text}");
        };
        check("192.0.2.1", Some("192.0.2.1"));
        check("192.0.2.1:55123", Some("192.0.2.1"));
        check("2001:db8::1", Some("2001:db8::1"));
        check("[2001:db8::1]", Some("2001:db8::1"));
        check("[2001:db8::1]:443", Some("2001:db8::1"));
        check("::ffff:192.0.2.1", Some("192.0.2.1"));
        for other in [
            "",
            "unknown",
            "_x",
            "a.test",
            "192.0.2.1:",
            "[192.0.2",
            "1.2.3",
        ] {
            check(other, None);
        }
    }
}
