//! Fields by which proxies and applications speak to each other.

/// Whether a field is one by which one proxy speaks to the next or to an application, or an application to its proxy.
/// Applications and frameworks believe what these say of a client's address, scheme, host or path.
pub fn is_forwarding(name: &[u8]) -> bool {
    let is = |known: &&str| name.eq_ignore_ascii_case(known.as_bytes());
    FORWARDING.iter().any(is)
        || name
            .get(..X_FORWARDED.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(X_FORWARDED))
}

/// The beginning of many of them.
const X_FORWARDED: &[u8] = b"X-Forwarded-";
/// The others.
const FORWARDING: [&str; 22] = [
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
    "X-Sendfile",
    "X-Sendfile-Type",
    "X-Accel-Mapping",
    "X-Accel-Redirect",
];
