//! Field names: what each field is to the proxy ([`FieldKind`]), and which names an application may confuse.
//!
//! CGI turns both `API-Key` and `API_Key` into `HTTP_API_KEY`; so do Rack, WSGI and PHP, and PHP also converts
//! `API.Key`. So a rule about a field, such as that a client may not send it, must cover every name that becomes the
//! same.

use memchr::memchr2;

use crate::http::forwarding::is_forwarding;
use crate::http::syntax::is_token;

/// What a field means to the proxy.
#[derive(Clone, Copy)]
pub(super) enum FieldKind {
    EndToEnd,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
    Expect,
    /// For one connection only (RFC 9110 7.6.1).
    HopByHop,
}

impl FieldKind {
    pub(super) fn of(name: &str) -> Self {
        // Compare lengths first: that rules out most fields.
        let known: &[(&str, Self)] = match name.len() {
            2 => &[("te", Self::HopByHop)],
            4 => &[("host", Self::Host)],
            6 => &[("expect", Self::Expect)],
            7 => &[("upgrade", Self::Upgrade), ("trailer", Self::HopByHop)],
            10 => &[
                ("connection", Self::Connection),
                ("keep-alive", Self::HopByHop),
            ],
            14 => &[("content-length", Self::ContentLength)],
            16 => &[("proxy-connection", Self::HopByHop)],
            17 => &[("transfer-encoding", Self::TransferEncoding)],
            18 => &[("proxy-authenticate", Self::HopByHop)],
            19 => &[("proxy-authorization", Self::HopByHop)],
            _ => &[],
        };
        let found = known
            .iter()
            .find(|(known, _)| name.eq_ignore_ascii_case(known));
        found.map_or(Self::EndToEnd, |(_, kind)| *kind)
    }
}

/// Whether an application could confuse the name with another one that has dashes.
pub(super) fn is_ambiguous(name: &str) -> bool {
    memchr2(b'_', b'.', name.as_bytes()).is_some()
}

/// Whether an application could confuse the name with a field that the proxy handles itself: one of framing, of the
/// connection, or one that only a proxy may send.
pub(super) fn is_reserved(name: &str) -> bool {
    let dashed = name.replace(['_', '.'], "-");
    !matches!(FieldKind::of(&dashed), FieldKind::EndToEnd)
        || dashed.eq_ignore_ascii_case(MAX_FORWARDS)
        || is_forwarding(dashed.as_bytes())
}

/// Checks a field that an application adds to a response.
///
/// # Errors
/// The rule that it breaks (RFC 9110 5.1, 5.5), or that the proxy writes such a field itself.
pub fn check_field(name: &str, value: &[u8]) -> Result<(), &'static str> {
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err("the name is not a token");
    }
    if !matches!(FieldKind::of(name), FieldKind::EndToEnd) {
        return Err("it concerns the connection or the length of the body");
    }
    if value
        .iter()
        .any(|byte| byte.is_ascii_control() && *byte != b'\t')
    {
        return Err("the value has a control character");
    }
    Ok(())
}

/// Whether an application could confuse the two names.
pub fn is_confusable(name: &str, other: &str) -> bool {
    let folded = |byte: u8| match byte {
        b'_' | b'.' => b'-',
        other => other.to_ascii_lowercase(),
    };
    name.bytes().map(folded).eq(other.bytes().map(folded))
}

/// The field that limits how many proxies forward a request (RFC 9110 7.6.2).
pub(super) const MAX_FORWARDS: &str = "Max-Forwards";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_names() {
        for name in [
            "Content_Length",
            "content.length",
            "TRANSFER_ENCODING",
            "Keep_Alive",
            "Proxy_Connection",
            "Proxy_Authorization",
            "Max_Forwards",
            "X_Forwarded_For",
            "X_Forwarded-For",
            "X.Forwarded.For",
            "x-forwarded_anything",
            "X_Real.IP",
            "X_Request_Start",
            "X_Sendfile",
            "Front_End-Https",
            "CF_Connecting_IP",
        ] {
            assert!(is_ambiguous(name) && is_reserved(name), "{name}");
        }
        for name in [
            "api_key",
            "a.b",
            "Content_Type",
            "X_Forwardedly",
            "_Host",
            "X__Forwarded_For",
        ] {
            assert!(is_ambiguous(name) && !is_reserved(name), "{name}");
        }
        assert!(!is_ambiguous("API-Key!~"));
    }

    #[test]
    fn names_that_become_the_same() {
        assert!(is_confusable("x_client.address", "X-Client-Address"));
        assert!(is_confusable("A-B", "a-b"));
        assert!(!is_confusable("A_B", "A-B-C"));
        assert!(!is_confusable("A_B", "AB"));
    }
}
