//! The challenges of other proxies: how they stand in Redis, and how they are shown here.
//!
//! An entry has four words: the kind of the challenge, the token or the name, the response, the id of the proxy.
//! ```text
//! http-01 TOKEN TOKEN.THUMBPRINT ID
//! tls-alpn-01 www.example.com TOKEN.THUMBPRINT ID
//! ```
//! Who may write them decides what is shown, so anything but a response to a challenge is left out: it is of no use but to
//! an authority.

use std::collections::HashMap;
use std::sync::Arc;

use super::challenges::Challenges;
use super::jose::sha256;
use super::keys;
use super::validation::{Validation, sni, word};
use crate::config::ChallengeKind;
use crate::net::tls::{Certificate, SiteCertificates};

/// The challenges of other proxies that are shown now. Dropping it ends that.
pub(super) struct ShownChallenges {
    challenges: Arc<Challenges>,
    sites: Arc<SiteCertificates>,
    /// How they stand in Redis.
    entries: Vec<Vec<u8>>,
}

/// What an entry says.
#[derive(Debug, PartialEq)]
struct ParsedEntry<'a> {
    kind: ChallengeKind,
    /// The token, or the name.
    key: &'a str,
    response: &'a str,
    owner: &'a str,
}

/// The entry for a proof of the proxy with this id.
pub(super) fn entry(validation: &Validation<'_>, id: &str) -> String {
    let key = match validation.kind {
        ChallengeKind::Http01 => validation.token,
        ChallengeKind::TlsAlpn01 => validation.name,
    };
    format!(
        "{} {key} {} {id}",
        word(validation.kind),
        validation.response
    )
}

/// Reads an entry; `None` if it is not one.
fn parse(entry: &[u8]) -> Option<ParsedEntry<'_>> {
    let text = str::from_utf8(entry).ok()?;
    let mut words = text.split(' ');
    let kinds = [ChallengeKind::Http01, ChallengeKind::TlsAlpn01];
    let kind = words.next()?;
    let kind = kinds.into_iter().find(|one| word(*one) == kind)?;
    let entry = ParsedEntry {
        kind,
        key: words.next()?,
        response: words.next()?,
        owner: words.next()?,
    };
    // RFC 8555 8.1: the token and the thumbprint of a key, both base64url.
    let (token, thumbprint) = entry.response.split_once('.')?;
    let is_encoded = |text: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        !text.is_empty() && text.bytes().all(fits)
    };
    let is_response = is_encoded(token) && is_encoded(thumbprint) && thumbprint.len() == THUMBPRINT;
    let has_key = match kind {
        ChallengeKind::Http01 => entry.key == token,
        ChallengeKind::TlsAlpn01 => {
            let fits = |byte: u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase();
            !entry.key.is_empty() && entry.key.bytes().all(fits)
        }
    };
    let is_alone = words.next().is_none() && text.len() <= LONGEST;
    (is_alone && is_response && has_key).then_some(entry)
}

impl ShownChallenges {
    /// None.
    pub(super) fn new(challenges: &Arc<Challenges>, sites: &Arc<SiteCertificates>) -> Self {
        Self {
            challenges: Arc::clone(challenges),
            sites: Arc::clone(sites),
            entries: Vec::new(),
        }
    }

    /// Shows these, except those of the proxy with this id.
    pub(super) fn set(&mut self, entries: Vec<Vec<u8>>, id: &str) {
        if entries == self.entries {
            return;
        }
        let mut responses = HashMap::new();
        let mut certificates: HashMap<String, Certificate> = HashMap::new();
        let parsed = entries.iter().filter_map(|entry| parse(entry));
        for entry in parsed.filter(|entry| entry.owner != id) {
            match entry.kind {
                ChallengeKind::Http01 => {
                    responses.insert(entry.key.to_owned(), entry.response.to_owned());
                }
                ChallengeKind::TlsAlpn01 => {
                    match keys::validation(entry.key, &sha256(entry.response.as_bytes())) {
                        Ok(certificate) => drop(certificates.insert(sni(entry.key), certificate)),
                        Err(why) => log::debug!("challenge for {} in Redis: {why}", entry.key),
                    }
                }
            }
        }
        self.challenges.set_shared(responses);
        self.sites.set_shared_validations(&certificates);
        self.entries = entries;
    }
}

impl Drop for ShownChallenges {
    fn drop(&mut self) {
        self.set(Vec::new(), "");
    }
}

/// The length of a SHA-256 in base64url.
const THUMBPRINT: usize = 43;
/// The length of the longest entry: a name has at most 253 bytes, and authorities have tokens of some dozens.
const LONGEST: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_responses_to_challenges() {
        let thumb = "x".repeat(THUMBPRINT);
        let response = format!("to-k_en.{thumb}");
        let good = format!("http-01 to-k_en {response} 0123");
        let parsed = parse(good.as_bytes());
        assert_eq!(
            parsed,
            Some(ParsedEntry {
                kind: ChallengeKind::Http01,
                key: "to-k_en",
                response: &response,
                owner: "0123",
            })
        );
        for name in ["a.test", "*.a.test", "192.0.2.1", "[2001:db8::1]"] {
            let entry = format!("tls-alpn-01 {name} {response} 0123");
            assert!(parse(entry.as_bytes()).is_some(), "{entry}");
        }
        let wrong = [
            String::new(),
            "http-01".into(),
            good.replace(" 0123", ""),
            format!("{good} more"),
            good.replace("http-01", "dns-01"),
            good.replace("01 to-k_en", "01 other"),
            good.replace("to-k_en", "<b>"),
            good.replace("to-k_en", ""),
            good.replace(&thumb, &thumb[1..]),
            good.replace(&thumb, "<script>"),
            good.replace("to-k_en", &"t".repeat(LONGEST)),
            format!("tls-alpn-01  {response} 0123"),
            format!("tls-alpn-01 A.test {response} 0123"),
            format!("tls-alpn-01 a.test\n {response} 0123"),
        ];
        for entry in wrong {
            assert_eq!(parse(entry.as_bytes()), None, "{entry:?}");
        }
        assert_eq!(parse(b"http-01 \xff \xff.x 0123"), None);
    }

    #[test]
    fn entries_are_read_as_they_are_written() {
        let thumb = "y".repeat(THUMBPRINT);
        let response = format!("abc.{thumb}");
        for kind in [ChallengeKind::Http01, ChallengeKind::TlsAlpn01] {
            let validation = Validation {
                kind,
                name: "a.test",
                token: "abc",
                response: &response,
                digest: [0; 32],
            };
            let entry = entry(&validation, "0123");
            let parsed = parse(entry.as_bytes()).unwrap();
            assert_eq!((parsed.kind, parsed.owner), (kind, "0123"));
            assert_eq!(parsed.response, response);
        }
    }

    #[test]
    fn shown_until_they_are_gone() {
        let (challenges, sites) = (Arc::default(), Arc::default());
        let mut shown = ShownChallenges::new(&challenges, &sites);
        let thumb = "z".repeat(THUMBPRINT);
        let entry = |kind, key, id| format!("{kind} {key} abc.{thumb} {id}").into_bytes();
        let path = "/.well-known/acme-challenge/abc";
        let of = |id| {
            vec![
                entry("http-01", "abc", id),
                entry("tls-alpn-01", "a.test", id),
            ]
        };
        shown.set(of("me"), "me");
        assert!(!challenges.is_pending() && !sites.is_validating());
        shown.set(of("other"), "me");
        assert_eq!(challenges.response(path), Some(format!("abc.{thumb}")));
        assert!(sites.is_validating());
        shown.set(vec![entry("tls-alpn-01", "a.test", "other")], "me");
        assert_eq!(challenges.response(path), None);
        assert!(sites.is_validating());
        drop(shown);
        assert!(!sites.is_validating());
    }
}
