//! Decides whether a request at the status address may be answered.
//!
//! With a key, each request must have it. Without one, the address is reached from this machine only, but so it is from
//! web pages in a browser here: a page of another site can send requests to it, and with a host name that it makes
//! point to this machine (DNS rebinding) also read the responses. So without a key, Host must be no name but localhost;
//! and a request that changes something must not come from a page of another origin.

use std::net::IpAddr;

use subtle::ConstantTimeEq;

use super::message::AdminResponse;
use crate::config::{Address, StatusConfig};
use crate::http::auth::{Credentials, challenge};
use crate::http::head::RequestHead;

/// Why a request is not answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Denial {
    /// It has no key.
    NoKey,
    /// It has a wrong key.
    WrongKey,
    /// Without a key: it names a host that may be anybody's.
    ForeignHost,
    /// It would change something, and comes from a page of another origin.
    ForeignOrigin,
}

/// Whether a request may be answered.
pub(super) fn check(status: &StatusConfig, head: &RequestHead) -> Result<(), Denial> {
    match &status.key {
        Some(key) => check_key(key, head)?,
        None if !matches!(status.at, Address::Unix(_)) && !is_own_host(head) => {
            return Err(Denial::ForeignHost);
        }
        None => {}
    }
    match head.method.is_safe() || is_same_origin(head) {
        true => Ok(()),
        false => Err(Denial::ForeignOrigin),
    }
}

impl Denial {
    pub(super) fn response(&self) -> AdminResponse {
        let (status, why) = match self {
            Self::NoKey => (
                401,
                "this needs status.key, as a bearer token or a password",
            ),
            Self::WrongKey => (401, "this is not status.key"),
            Self::ForeignHost => (
                403,
                "without status.key, ask for localhost or an IP address, not for a name",
            ),
            Self::ForeignOrigin => (403, "pages of other origins must not change anything here"),
        };
        let response = AdminResponse::error(status, why);
        match status {
            401 => response.with("WWW-Authenticate", challenge("swiftiply status")),
            _ => response,
        }
    }
}

/// The key is a bearer token (RFC 6750), or a password with any user name, which browsers ask for.
fn check_key(key: &str, head: &RequestHead) -> Result<(), Denial> {
    let mut fields = head.headers.get_all("Authorization");
    let (Some(field), None) = (fields.next(), fields.next()) else {
        return Err(Denial::NoKey);
    };
    let scheme = field.split_at_checked(7);
    let token = scheme.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer "));
    let basic = Credentials::of(&head.headers);
    let given = match (token, &basic) {
        (Some((_, token)), _) => token.trim_ascii(),
        (None, Some(basic)) => basic.password(),
        (None, None) => return Err(Denial::WrongKey),
    };
    match bool::from(given.ct_eq(key.as_bytes())) {
        true => Ok(()),
        false => Err(Denial::WrongKey),
    }
}

/// Whether Host is an address or `localhost`, which no other site can be. Browsers always send it.
fn is_own_host(head: &RequestHead) -> bool {
    let Some(host) = &head.host else { return true };
    let name = host.name();
    let bare = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    name == "localhost" || bare.unwrap_or(name).parse::<IpAddr>().is_ok()
}

/// Whether no browser says that a page of another origin has sent the request.
fn is_same_origin(head: &RequestHead) -> bool {
    let site = head.headers.get("Sec-Fetch-Site");
    if site.is_some_and(|site| site != b"same-origin" && site != b"none") {
        return false;
    }
    let Some(origin) = head.headers.get("Origin") else {
        return true;
    };
    let own = head.host.as_ref().map_or("", |host| host.as_str());
    // A proxy in front may speak TLS.
    let origin = origin
        .strip_prefix(b"http://")
        .or(origin.strip_prefix(b"https://"));
    origin.is_some_and(|origin| origin.eq_ignore_ascii_case(own.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SocketFileConfig;
    use crate::http::head::HeadLimits;

    fn head(text: &str) -> RequestHead {
        let text = format!("{}\r\n\r\n", text.replace('\n', "\r\n"));
        RequestHead::parse(text.as_bytes(), &HeadLimits::default()).expect("a head of a test")
    }

    fn answer(at: &str, key: Option<&str>, text: &str) -> Result<(), Denial> {
        let status = StatusConfig {
            file: SocketFileConfig::default(),
            at: at.parse().expect("an address of a test"),
            key: key.map(String::from),
        };
        check(&status, &head(text))
    }

    #[test]
    fn keys() {
        let check = |field: &str, expected| {
            let text = format!("GET / HTTP/1.1\nHost: status.example{field}");
            let answer = answer("0.0.0.0:1", Some("se:cret"), &text);
            assert_eq!(answer, expected, "{field}");
        };
        check("\nAuthorization: Bearer se:cret", Ok(()));
        check("\nauthorization: bearer  se:cret", Ok(()));
        // a:se:cret and :se:cret
        check("\nAuthorization: Basic YTpzZTpjcmV0", Ok(()));
        check("\nAuthorization: Basic OnNlOmNyZXQ=", Ok(()));
        check("", Err(Denial::NoKey));
        check("\nAuthorization: Bearer", Err(Denial::WrongKey));
        check("\nAuthorization: Bearer se:cre", Err(Denial::WrongKey));
        check("\nAuthorization: Bearer se:cretx", Err(Denial::WrongKey));
        check("\nAuthorization: Bearer ", Err(Denial::WrongKey));
        check("\nAuthorization: Digest se:cret", Err(Denial::WrongKey));
        check("\nAuthorization: Basic c2U6Y3JldA==", Err(Denial::WrongKey));
        let twice = "\nAuthorization: Bearer se:cret\nAuthorization: Bearer se:cret";
        check(twice, Err(Denial::NoKey));
    }

    #[test]
    fn hosts_without_a_key() {
        let check = |at: &str, host: &str, expected| {
            let text = format!("GET / HTTP/1.1\nHost: {host}");
            assert_eq!(answer(at, None, &text), expected, "{at} {host}");
        };
        for host in [
            "127.0.0.1:8081",
            "localhost",
            "LOCALHOST:1",
            "[::1]:8081",
            "192.0.2.1",
        ] {
            check("127.0.0.1:1", host, Ok(()));
        }
        for host in [
            "evil.example:8081",
            "localhost.evil.example",
            "a.localhost",
            "127.0.0.1.nip.io",
        ] {
            check("127.0.0.1:1", host, Err(Denial::ForeignHost));
            check("unix:/s", host, Ok(()));
        }
        assert_eq!(answer("127.0.0.1:1", None, "GET / HTTP/1.0"), Ok(()));
    }

    #[test]
    fn origins() {
        let check = |method: &str, fields: &str, expected| {
            let text = format!("{method} / HTTP/1.1\nHost: localhost:81{fields}");
            for key in [None, Some("k")] {
                let text = format!("{text}\nAuthorization: Bearer k");
                assert_eq!(
                    answer("127.0.0.1:81", key, &text),
                    expected,
                    "{method} {fields}"
                );
            }
        };
        let foreign = Err(Denial::ForeignOrigin);
        let origin = |origin: &str| format!("\nOrigin: {origin}");
        check("POST", "", Ok(()));
        check("POST", &origin("http://localhost:81"), Ok(()));
        check("POST", &origin("https://LOCALHOST:81"), Ok(()));
        check("GET", &origin("http://evil.example"), Ok(()));
        for method in ["POST", "PUT", "DELETE"] {
            check(
                method,
                &origin("http://evil.example"),
                Err(Denial::ForeignOrigin),
            );
            check(
                method,
                &origin("http://localhost:82"),
                Err(Denial::ForeignOrigin),
            );
            check(
                method,
                &origin("http://localhost"),
                Err(Denial::ForeignOrigin),
            );
            check(method, &origin("null"), Err(Denial::ForeignOrigin));
            check(
                method,
                "\nSec-Fetch-Site: cross-site",
                Err(Denial::ForeignOrigin),
            );
        }
        check("POST", "\nSec-Fetch-Site: same-origin", Ok(()));
        check("POST", "\nSec-Fetch-Site: same-site", foreign);
    }
}
