//! Who a client is by its certificate (`client_ca`), and what its application gets to know.

use std::fmt::Write;
use std::sync::Arc;

use super::snapshot::Site;
use crate::config::ClientCertificate;
use crate::net::conn::Conn;
use crate::net::tls::sha256;
use crate::x509::{CertificateFacts, name_text};

/// The fields about the certificate of a client, as they are written into the head of a request.
pub(crate) type IdentityFields = Arc<[u8]>;

/// Why a request is refused.
pub(super) enum IdentityError {
    /// It came over a connection for another name, so the certificate was not asked for, or checked against other
    /// authorities.
    Misdirected,
    /// It came without a certificate.
    Missing,
}

/// The fields about the client of a site that has `client_ca`. `known` are those of the connection, once they were made.
///
/// # Errors
/// The site does not take the request over this connection.
pub(super) fn check(
    conn: &Conn,
    site: &Site,
    known: &mut Option<IdentityFields>,
) -> Result<Option<IdentityFields>, IdentityError> {
    let settings = &site.settings;
    let Some(file) = &settings.client_ca else {
        return Ok(None);
    };
    let certificate = match conn.client_certificate() {
        Some((auth, certificate)) if auth.file == *file => certificate,
        _ if conn.is_secure() => return Err(IdentityError::Misdirected),
        _ => None,
    };
    match (certificate, settings.client_certificate) {
        (None, ClientCertificate::Require) => Err(IdentityError::Missing),
        (None, ClientCertificate::Optional) => Ok(Some(Arc::from(NONE))),
        (Some(der), _) => {
            let fields = known.get_or_insert_with(|| fields(der));
            Ok(Some(Arc::clone(fields)))
        }
    }
}

fn fields(der: &[u8]) -> IdentityFields {
    let hex = |bytes: &[u8]| {
        let mut text = String::new();
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
        text
    };
    let Some(facts) = CertificateFacts::read(der) else {
        return Arc::from(NONE);
    };
    let (subject, issuer) = (name_text(&facts.subject), name_text(&facts.issuer));
    // The first byte is zero if the number would be negative otherwise.
    let serial = facts.serial.strip_prefix(&[0]).unwrap_or(&facts.serial);
    let (serial, fingerprint) = (hex(serial), hex(&sha256(der)));
    let text = format!(
        "X-SSL-Client-Verify: SUCCESS\r\nX-SSL-Client-S-DN: {subject}\r\nX-SSL-Client-I-DN: {issuer}\r\n\
         X-SSL-Client-Serial: {serial}\r\nX-SSL-Client-Fingerprint: {fingerprint}\r\n"
    );
    Arc::from(text.into_bytes())
}

/// The field about a client without a certificate.
const NONE: &[u8] = b"X-SSL-Client-Verify: NONE\r\n";
