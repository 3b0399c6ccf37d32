//! Fields that only proxies and applications may send to each other.

/// Whether a field is reserved for communication between proxies, or between a proxy and an application. Applications
/// and frameworks trust what these fields say about the address, scheme, host or path of a request.
pub fn is_forwarding(name: &[u8]) -> bool {
    let is = |known: &&str| name.eq_ignore_ascii_case(known.as_bytes());
    FORWARDING.iter().any(is)
        || name
            .get(..X_FORWARDED.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(X_FORWARDED))
}

/// The common prefix of many of them.
const X_FORWARDED: &[u8] = b"X-Forwarded-";
/// The other fields.
const FORWARDING: [&str; 23] = [
    "Forwarded",
    "X-Forwarded",
    "X-Real-IP",
    "X-Client-IP",
    "Client-IP",
    "True-Client-IP",
    "CF-Connecting-IP",
    "CF-Connecting-IPv6",
    "Fastly-Client-IP",
    "X-Cluster-Client-IP",
    "X-Original-Forwarded-For",
    "Front-End-Https",
    "X-Url-Scheme",
    "X-Scheme",
    "X-Original-URL",
    "X-Rewrite-URL",
    "X-Request-Start",
    "X-Queue-Time",
    "X-Request-Id",
    "X-Sendfile",
    "X-Sendfile-Type",
    "X-Accel-Mapping",
    "X-Accel-Redirect",
];
