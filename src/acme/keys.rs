//! Keys, and the certificates that the server makes itself: temporary ones, proofs for an authority, and those of an
//! authority of its own (`tls: internal`).

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use crate::net::tls::{Certificate, PemFault};
use crate::x509;

/// A new key, ECDSA with P-256, in PEM.
pub(super) fn new_key() -> Result<String, String> {
    let key = KeyPair::generate().map_err(|error| error.to_string())?;
    Ok(key.serialize_pem())
}

/// A key in PKCS #8, from PEM.
pub(super) fn pkcs8(pem: &str) -> Result<Vec<u8>, String> {
    Ok(key_pair(pem)?.serialize_der())
}

fn key_pair(pem: &str) -> Result<KeyPair, String> {
    KeyPair::from_pem(pem).map_err(|error| format!("not a key: {error}"))
}

/// The name as it stands in certificates: addresses of IPv6 without brackets.
pub(super) fn bare(name: &str) -> &str {
    let inside = name.strip_prefix('[');
    inside
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(name)
}

/// The address that a name is, if it is one.
pub(super) fn address(name: &str) -> Option<IpAddr> {
    bare(name).parse().ok()
}

/// A certificate and its key from one text in PEM.
pub(super) fn certificate(text: &str) -> Result<Certificate, String> {
    Certificate::from_pem(text.as_bytes(), text.as_bytes()).map_err(|fault| match fault {
        PemFault::Certificate(why) | PemFault::Key(why) => why,
        PemFault::OtherKey => "the key is that of another certificate".to_owned(),
    })
}

/// A self-signed certificate for a name, for the time until there is another one.
pub(super) fn temporary(name: &str) -> Result<Certificate, String> {
    let mut params = params(name, "swiftiply: no certificate yet")?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    certificate(&self_signed(&params)?)
}

/// The certificate that proves to an authority that we serve a name (RFC 8737 3): `digest` is the SHA-256 of the
/// response to its challenge.
pub(super) fn validation(name: &str, digest: &[u8]) -> Result<Certificate, String> {
    let mut params = params(name, "swiftiply: validation")?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    Certificate::for_validation(self_signed(&params)?.as_bytes())
}

/// A request for a certificate with this key (PKCS #10), in DER.
pub(super) fn request(name: &str, key: &str) -> Result<Vec<u8>, String> {
    let mut params = params(name, "")?;
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key_pair(key)?);
    let request = request.map_err(|error| error.to_string())?;
    Ok(request.der().to_vec())
}

/// The root of an authority of our own: its certificate and its key, in PEM.
pub(super) fn root(now: SystemTime) -> Result<(String, String), String> {
    let today = day(now);
    let mut params = root_params(today);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid(&mut params, today, ROOT_DAYS);
    let key = KeyPair::generate().map_err(|error| error.to_string())?;
    let certificate = params
        .self_signed(&key)
        .map_err(|error| error.to_string())?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// A certificate for a name that the root issues, and its key: one text in PEM.
pub(super) fn issue(
    name: &str,
    root: &str,
    root_key: &str,
    now: SystemTime,
) -> Result<String, String> {
    let own = certificate(&format!("{root_key}{root}"))?;
    let made = day(own.facts().not_before) + 1;
    let issuer = Issuer::new(root_params(made), key_pair(root_key)?);
    let mut params = params(name, bare(name))?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    valid(&mut params, day(now), LEAF_DAYS);
    let key = KeyPair::generate().map_err(|error| error.to_string())?;
    let certificate = params.signed_by(&key, &issuer);
    let certificate = certificate.map_err(|error| error.to_string())?;
    Ok(format!("{}{}", key.serialize_pem(), certificate.pem()))
}

/// The name of the root that was made on a day, by which roots of several machines differ.
fn root_params(made: i64) -> CertificateParams {
    let (year, month, day) = x509::date(made);
    let mut params = CertificateParams::default();
    let name = format!("swiftiply internal authority {year}-{month:02}-{day:02}");
    params.distinguished_name = common_name(&name);
    params
}

fn self_signed(params: &CertificateParams) -> Result<String, String> {
    let key = KeyPair::generate().map_err(|error| error.to_string())?;
    let certificate = params
        .self_signed(&key)
        .map_err(|error| error.to_string())?;
    Ok(format!("{}{}", key.serialize_pem(), certificate.pem()))
}

fn params(name: &str, common: &str) -> Result<CertificateParams, String> {
    let params = CertificateParams::new(vec![bare(name).to_owned()]);
    let mut params = params.map_err(|error| error.to_string())?;
    params.distinguished_name = common_name(common);
    Ok(params)
}

fn common_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

/// Valid from the day before, for clients whose clock is late.
fn valid(params: &mut CertificateParams, today: i64, days: i64) {
    let date = |day| {
        let (year, month, day) = x509::date(day);
        rcgen::date_time_ymd(year as i32, month as u8, day as u8)
    };
    params.not_before = date(today - 1);
    params.not_after = date(today + days);
}

fn day(now: SystemTime) -> i64 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs() as i64 / x509::DAY
}

/// How long a root and its certificates are valid. Browsers accept no certificate of a server for longer than 398 days.
const ROOT_DAYS: i64 = 3650;
const LEAF_DAYS: i64 = 90;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn certificates_of_our_own_authority() {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let (root, key) = root(now).unwrap();
        let own = certificate(&format!("{key}{root}")).unwrap();
        for name in ["localhost", "*.lan.test", "[::1]", "192.0.2.1"] {
            let text = issue(name, &root, &key, now).unwrap();
            let issued = certificate(&text).unwrap();
            let facts = issued.facts();
            assert_eq!(facts.issuer, own.facts().subject, "{name}");
            assert!(facts.authority_key.is_some());
            assert!(facts.not_before < now && now < facts.not_after);
            assert_eq!(issued.names().is_empty(), address(name).is_some());
            // The chain is in order.
            certificate(&format!("{text}{root}")).unwrap();
        }
    }

    #[test]
    fn chains_are_checked() {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let (root, key) = root(now).unwrap();
        let text = issue("a.test", &root, &key, now).unwrap();
        let (other, _) = super::root(now + Duration::from_secs(86_400)).unwrap();
        let wrong = |text: String| certificate(&text).unwrap_err();
        assert_eq!(
            wrong(format!("{text}{other}")),
            "certificate 2 in it has issued none of those before it; write the site's own one first, then that of its \
             issuer, and so on"
        );
        let at = text.find("-----BEGIN CERT").unwrap();
        let (own_key, own) = text.split_at(at);
        assert_eq!(
            wrong(format!("{own_key}{root}{own}")),
            "the key belongs to certificate 2 in it; write that one first, then those of its issuers"
        );
        assert_eq!(
            wrong(format!("{key}{own}")),
            "the key is that of another certificate"
        );
    }

    #[test]
    fn certificates_for_a_while() {
        let temporary = temporary("a.test").unwrap();
        assert!(temporary.covers("a.test"));
        validation("a.test", &[7; 32]).unwrap();
        validation("[::1]", &[7; 32]).unwrap();
        request("[::1]", &new_key().unwrap()).unwrap();
    }
}
