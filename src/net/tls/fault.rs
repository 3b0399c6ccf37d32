//! What is wrong with a server that we connect to, in plain words for the log.

use std::error::Error;
use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError, InvalidMessage, OtherError};

use crate::http::date;

/// Why TLS with a server failed.
#[derive(Debug)]
pub(super) struct TlsFault(pub(super) rustls::Error);

/// What a server says against us, if it has broken the connection off for that reason. With TLS 1.3 this may come after
/// the handshake.
pub fn rejection(error: &io::Error) -> Option<&'static str> {
    match error.get_ref()?.downcast_ref()? {
        TlsFault(rustls::Error::AlertReceived(alert)) => Some(alert_words(*alert)),
        TlsFault(_) => Some("it breaks the rules of TLS"),
    }
}

/// Reads on from `server ADDRESS: `.
impl fmt::Display for TlsFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            rustls::Error::InvalidCertificate(fault) => certificate_words(fault, out),
            rustls::Error::AlertReceived(alert) => out.write_str(alert_words(*alert)),
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
                out.write_str("it does not speak TLS")
            }
            rustls::Error::PeerIncompatible(why) => {
                write!(out, "no version or cipher of TLS in common: {why:?}")
            }
            rustls::Error::General(text) => out.write_str(text),
            other => write!(out, "invalid TLS: {other}"),
        }
    }
}

impl Error for TlsFault {}

fn certificate_words(fault: &CertificateError, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    match fault {
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            write!(
                out,
                "its certificate is not valid for {}",
                expected.to_str()
            )?;
            let names: Vec<_> = presented.iter().map(|name| bare(name)).collect();
            match names.is_empty() {
                true => out.write_str(", it has no names (subjectAltName)"),
                false => write!(out, ", only for {}", names.join(", ")),
            }
        }
        CertificateError::NotValidForName => {
            out.write_str("its certificate is not valid for this name")
        }
        CertificateError::ExpiredContext { not_after, .. } => {
            let end = date::of_seconds(not_after.as_secs());
            write!(out, "its certificate has expired, {end}")
        }
        CertificateError::Expired => out.write_str("its certificate has expired"),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            out.write_str("its certificate is not valid yet, or the clock is wrong")
        }
        CertificateError::UnknownIssuer => {
            out.write_str("its certificate is not from a trusted authority")
        }
        CertificateError::Other(other) if is_of_authority(other) => out.write_str(
            "its certificate is that of an authority, such as one that is signed by itself; write its fingerprint",
        ),
        other => write!(out, "its certificate is not valid: {other}"),
    }
}

/// Whether a certificate is for an authority instead of a server.
fn is_of_authority(error: &OtherError) -> bool {
    matches!(
        error.0.downcast_ref(),
        Some(webpki::Error::CaUsedAsEndEntity)
    )
}

/// A name of a certificate, of which the library shows the kind too: `DnsName("a.test")`, `IpAddress(192.0.2.1)`.
fn bare(shown: &str) -> &str {
    let inner = shown
        .split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(shown).trim_matches('"')
}

const fn alert_words(alert: AlertDescription) -> &'static str {
    use AlertDescription as Alert;
    match alert {
        Alert::CertificateRequired | Alert::NoCertificate => "it wants a client certificate",
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied => "it does not accept the client certificate",
        // Before TLS 1.3 there is no other alert for that.
        Alert::HandshakeFailure => "it refuses the handshake; it may want a client certificate",
        Alert::UnrecognisedName => "it does not know the name that it is asked for (SNI)",
        Alert::NoApplicationProtocol => "it does not speak HTTP/1.1",
        Alert::ProtocolVersion => "it has no version of TLS in common",
        Alert::InternalError => "it has an internal error in TLS",
        _ => "it broke off the TLS connection",
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;

    use super::*;

    #[test]
    fn plain_words() {
        let check = |error: rustls::Error, expected: &str| {
            assert_eq!(TlsFault(error).to_string(), expected);
        };
        let for_other = |presented: &[&str]| {
            rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
                expected: ServerName::try_from("app.example.com").unwrap(),
                presented: presented.iter().map(ToString::to_string).collect(),
            })
        };
        check(
            for_other(&["DnsName(\"a.test\")", "IpAddress(192.0.2.1)"]),
            "its certificate is not valid for app.example.com, only for a.test, 192.0.2.1",
        );
        check(
            for_other(&[]),
            "its certificate is not valid for app.example.com, it has no names (subjectAltName)",
        );
        check(
            CertificateError::UnknownIssuer.into(),
            "its certificate is not from a trusted authority",
        );
        check(
            InvalidMessage::InvalidContentType.into(),
            "it does not speak TLS",
        );
        let alert = TlsFault(rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired,
        ));
        assert_eq!(
            rejection(&io::Error::other(alert)),
            Some("it wants a client certificate")
        );
        assert_eq!(rejection(&io::Error::other("x")), None);
    }
}
