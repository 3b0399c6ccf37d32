//! Fields that only proxies and applications may send to each other.

/// Whether a field is reserved for communication between proxies, or between a proxy and an application. Applications
/// and frameworks trust what these fields say about the address, scheme, host or path of a request.
pub fn is_forwarding(name: &[u8]) -> bool {
    let is = |known: &&str| name.eq_ignore_ascii_case(known.as_bytes());
    FORWARDING.iter().any(is) || begins_with(name, X_FORWARDED) || is_identity(name)
}

/// Whether a field is one in which proxies write who a client is by its certificate: those of this server, of RFC 9440,
/// and others that are usual.
pub fn is_identity(name: &[u8]) -> bool {
    // Most names end here.
    if !name.first().is_some_and(|first| b"cCsSxX".contains(first)) {
        return false;
    }
    let is = |known: &&str| name.eq_ignore_ascii_case(known.as_bytes());
    IDENTITY.iter().any(is) || begins_with(name, X_SSL) || begins_with(name, SSL_CLIENT)
}

fn begins_with(name: &[u8], prefix: &[u8]) -> bool {
    name.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// The common prefix of many of them.
const X_FORWARDED: &[u8] = b"X-Forwarded-";
/// The prefixes of fields about certificates of clients.
const X_SSL: &[u8] = b"X-SSL-";
const SSL_CLIENT: &[u8] = b"SSL-Client-";
/// Other fields about them.
const IDENTITY: [&str; 5] = [
    "Client-Cert",
    "Client-Cert-Chain",
    "X-Client-Cert",
    "X-Client-Verify",
    "X-Client-DN",
];
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
