//! The head of a request as the application gets it, with the fields that describe the visitor.
//!
//! The head is written from what was parsed; head bytes of the visitor are never copied. Our own fields stand in front of the
//! visitor's, which keep their order and spelling.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config;
use crate::exchange::{ClientAddress, Request, RequestBody};
use crate::http::body::Framing;
use crate::http::forwarding::is_forwarding;
use crate::http::head::{Version, write_field, write_number_field};
use crate::http::headers::Headers;
use crate::net::stream::Peer;
use crate::server::snapshot::Snapshot;

/// What the application learns of the time in the queue.
pub(super) struct QueueTime {
    /// When a backend was there.
    pub(super) at: Instant,
    /// How long it was waited for.
    pub(super) waited: Duration,
}

/// Who made a request that came from a trusted proxy: the last address that is not that of a trusted proxy itself, of those
/// that the proxies on the way have added to the field (`client_address_field`). What stands in front of it may be an
/// invention of the client.
pub(super) fn client(peer: Peer, sent: &Headers, snapshot: &Snapshot) -> ClientAddress {
    let lists = sent.get_all(&snapshot.config.client_address_field).rev();
    let elements = lists.flat_map(|list| list.rsplit(|byte| *byte == b','));
    let elements = elements.map(<[u8]>::trim_ascii);
    let mut forwarded = None;
    for element in elements.filter(|element| !element.is_empty()) {
        // A word such as `unknown`, which hides an address, hides those in front of it too.
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

/// An address as proxies write it: alone or with a port, and one of IPv6 in brackets or not.
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

/// Renders the head as the application gets it. `client_address_field` is the field in which trusted proxies name the
/// client.
pub(super) fn render(
    request: &Request,
    client_address_field: &str,
    site: &config::SiteConfig,
    queue: &QueueTime,
    out: &mut Vec<u8>,
) {
    let framing = match &request.body {
        RequestBody::Empty | RequestBody::Stream { .. } => request.head.framing,
        body => Framing::Length(body.length()),
    };
    // A visitor must not be able to speak for a proxy, nor anybody say the same twice.
    let keep = |name: &[u8]| {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        let among = |names: &[&str]| names.iter().any(|known| is(known));
        !(site.xforwardedfor && among(&FORWARDED)
            || site.via && is("Via")
            || site.queue_time && among(&QUEUE)
            // No application means it, and CGI makes HTTP_PROXY of it, which many libraries take for a setting (httpoxy).
            || is("Proxy")
            || !request.client.trusted
                && (is_forwarding(name) || is(client_address_field)))
    };
    out.clear();
    let first = |out: &mut Vec<u8>| {
        write_forwarding(request, site, out);
        if site.queue_time {
            write_queue_time(request, queue, out);
        }
    };
    request.head.write(first, framing, keep, out);
}

/// Writes the fields that tell the application about the visitor. They stand in front of the visitor's own fields.
fn write_forwarding(request: &Request, site: &config::SiteConfig, out: &mut Vec<u8>) {
    if request.head.host.is_none() {
        // HTTP/1.0 may leave it out, HTTP/1.1, in which this is sent on, may not (RFC 9112 3.2).
        let name = site.incoming.first().map_or("", String::as_str);
        write_field("Host", name.as_bytes(), out);
    }
    // What a trusted proxy says about the visitor is passed on; the address it connected from is added.
    let sent = request.client.trusted.then_some(&request.head.headers);
    let told = |name| sent.into_iter().flat_map(move |sent| sent.get_all(name));
    // A proxy may add a field behind the one that its visitor has sent: then only the last one is its own.
    let last = |name| told(name).last();
    if site.xforwardedfor {
        let [forwarded_for, proto, host, real_ip] = FORWARDED;
        let address = AddressText::of(request.client.peer.ip());
        write_list(forwarded_for, told(forwarded_for), address.bytes(), out);
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

/// Writes the fields from which the application can tell how long its visitors waited: when the request was complete, in
/// microseconds as most monitors want it, and how many milliseconds no backend was free.
fn write_queue_time(request: &Request, queue: &QueueTime, out: &mut Vec<u8>) {
    let [start, waited] = QUEUE;
    // A proxy in front of us has seen it before.
    let sent = request.client.trusted.then_some(&request.head.headers);
    let told = sent.and_then(|sent| sent.get_all(start).last());
    if let Some(told) = told {
        write_field(start, told, out);
    } else {
        let ago = queue.at.saturating_duration_since(request.received);
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let since = epoch.unwrap_or_default().saturating_sub(ago);
        // There is time until the year 586 000.
        let micros = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        write_number_field(start, "t=", micros, out);
    }
    let millis = u64::try_from(queue.waited.as_millis()).unwrap_or(u64::MAX);
    write_number_field(waited, "", millis, out);
}

/// Writes a list as one field: what came in, and one more element.
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

/// A visitor's address as text, on the stack.
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

    /// The same as the formatter of the library, in a tenth of the time; every request asks for it.
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

/// Fields that we write ourselves.
const FORWARDED: [&str; 4] = [
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Real-IP",
];
/// The same, of the time in the queue.
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
