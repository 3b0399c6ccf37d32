//! Shows an authority that we serve a name: by a response to a request, or by a certificate.

use std::net::IpAddr;
use std::sync::Arc;

use super::challenges::Challenges;
use super::keys;
use crate::config::ChallengeKind;
use crate::net::tls::SiteCertificates;

/// Where proofs are shown.
pub(super) struct Validations {
    pub(super) challenges: Arc<Challenges>,
    pub(super) sites: Arc<SiteCertificates>,
}

/// A proof.
pub(super) struct Validation<'a> {
    pub(super) kind: ChallengeKind,
    pub(super) name: &'a str,
    pub(super) token: &'a str,
    pub(super) response: &'a str,
    /// The SHA-256 of the response.
    pub(super) digest: [u8; 32],
}

/// A proof that is shown until this is dropped.
pub(super) struct ShownProof<'a> {
    validations: &'a Validations,
    kind: ChallengeKind,
    /// The token, or the name in SNI.
    key: String,
}

impl Validations {
    /// Shows a proof.
    ///
    /// # Errors
    /// Its certificate cannot be made.
    pub(super) fn show(&self, validation: &Validation<'_>) -> Result<ShownProof<'_>, String> {
        let key = match validation.kind {
            ChallengeKind::Http01 => {
                let response = validation.response.to_owned();
                self.challenges.begin(validation.token, response);
                validation.token.to_owned()
            }
            ChallengeKind::TlsAlpn01 => {
                let name = sni(validation.name);
                let certificate = keys::validation(validation.name, &validation.digest)?;
                self.sites.begin_validation(&name, &certificate);
                name
            }
        };
        Ok(ShownProof {
            validations: self,
            kind: validation.kind,
            key,
        })
    }
}

impl Drop for ShownProof<'_> {
    fn drop(&mut self) {
        match self.kind {
            ChallengeKind::Http01 => self.validations.challenges.end(&self.key),
            ChallengeKind::TlsAlpn01 => self.validations.sites.end_validation(&self.key),
        }
    }
}

/// The name of a kind of challenge.
pub(super) const fn word(kind: ChallengeKind) -> &'static str {
    match kind {
        ChallengeKind::Http01 => "http-01",
        ChallengeKind::TlsAlpn01 => "tls-alpn-01",
    }
}

/// The name in SNI: for an address, its name in the reverse domain (RFC 8738 6).
pub(super) fn sni(name: &str) -> String {
    match keys::address(name) {
        None => name.to_owned(),
        Some(IpAddr::V4(ip)) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        Some(IpAddr::V6(ip)) => {
            let digits = format!("{:032x}", u128::from(ip));
            let reversed = digits.chars().rev();
            let dotted: String = reversed.flat_map(|digit| [digit, '.']).collect();
            format!("{dotted}ip6.arpa")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_addresses() {
        assert_eq!(sni("a.test"), "a.test");
        assert_eq!(sni("192.0.2.1"), "1.2.0.192.in-addr.arpa");
        let expected = format!("1.{}8.b.d.0.1.0.0.2.ip6.arpa", "0.".repeat(23));
        assert_eq!(sni("[2001:db8::1]"), expected);
    }
}
