//! Field names that an application may take for other ones.
//!
//! CGI makes `HTTP_API_KEY` of `API-Key`, and of `API_Key`, too; Rack, WSGI and PHP do the same, and PHP also makes it of
//! `API.Key`. So what is decided here about a field, such as that a client may not send it, must hold for the names that
//! become the same.

use memchr::memchr2;

use super::fields;
use super::request::MAX_FORWARDS;
use crate::http::forwarding::is_forwarding;

/// Whether an application could take the name for another one that has dashes.
pub(super) fn is_ambiguous(name: &str) -> bool {
    memchr2(b'_', b'.', name.as_bytes()).is_some()
}

/// Whether an application could take the name for that of a field that is decided about here: one of framing or of the
/// connection, or one that only a proxy may send.
pub(super) fn is_reserved(name: &str) -> bool {
    let dashed = name.replace(['_', '.'], "-");
    fields::is_ours(&dashed)
        || dashed.eq_ignore_ascii_case(MAX_FORWARDS)
        || is_forwarding(dashed.as_bytes())
}

/// Whether an application could take one name for the other.
pub fn is_confusable(name: &str, other: &str) -> bool {
    let folded = |byte: u8| match byte {
        b'_' | b'.' => b'-',
        other => other.to_ascii_lowercase(),
    };
    name.bytes().map(folded).eq(other.bytes().map(folded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_framing_the_connection_and_proxies_are_reserved() {
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
