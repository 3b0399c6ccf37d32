//! Where certificates come from (`tls`, `acme`), and those of clients (`client_ca`).

use std::path::PathBuf;

use serde::{Serialize, Serializer};

use super::directory::Redis;
use crate::config::written::path;

/// Where the certificates for the names of a site come from (`tls`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum SiteTls {
    /// From an authority, by ACME.
    Auto,
    /// The same, also for names that are not in the configuration, once `acme.ask` allows them.
    #[serde(rename = "on_demand")]
    OnDemand,
    /// From an authority of the server's own.
    Internal,
    /// From files.
    #[serde(untagged)]
    Files {
        /// The certificate with its chain, PEM, absolute.
        #[serde(serialize_with = "path")]
        certfile: PathBuf,
        /// Its key, PEM, absolute; may be the same file.
        #[serde(serialize_with = "path")]
        keyfile: PathBuf,
        /// The response of its authority that it is not revoked (OCSP), DER, absolute.
        #[serde(serialize_with = "path", skip_serializing_if = "Option::is_none")]
        ocsp: Option<PathBuf>,
    },
}

impl SiteTls {
    /// Whether they are obtained from an authority by ACME.
    pub(crate) const fn is_obtained(&self) -> bool {
        matches!(self, Self::Auto | Self::OnDemand)
    }
}

/// How certificates are obtained by ACME, RFC 8555 (`acme`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AcmeConfig {
    /// Where the authority sends warnings.
    pub email: Option<String>,
    /// The URL of the authority's directory.
    pub directory: String,
    /// PEM file of the authorities that are trusted to identify the directory, absolute; `None`: those of Mozilla.
    #[serde(serialize_with = "path")]
    pub ca: Option<PathBuf>,
    /// The account that the authority knows already.
    pub eab: Option<ExternalAccount>,
    /// The key of all certificates, PEM, absolute; `None`: each has a new one.
    #[serde(serialize_with = "path")]
    pub keyfile: Option<PathBuf>,
    /// The profile of certificates to ask for.
    pub profile: Option<String>,
    /// The URL that is asked whether a name may have a certificate that no site names; `None`: there are none.
    pub ask: Option<String>,
    /// How to prove that we serve a name, in the order in which they are tried.
    pub challenges: Vec<ChallengeKind>,
    /// The Redis through which proxies behind one name share challenges.
    #[serde(skip_serializing_if = "ChallengeSharing::is_default")]
    pub redis: ChallengeSharing,
}

/// Through which Redis proxies share challenges (`acme.redis`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChallengeSharing {
    /// That of the sites with `directory: redis`, if it is one only.
    #[default]
    Directory,
    /// None.
    Off,
    /// This one.
    At(Redis),
}

/// The binding to an account that an authority knows already (`acme.eab`, RFC 8555 7.3.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ExternalAccount {
    /// The identifier of its key.
    pub kid: String,
    /// The key in base64url.
    pub key: String,
}

/// How to prove to an authority that we serve a name (`acme.challenges`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum ChallengeKind {
    /// By a response at port 80 (RFC 8555 8.3).
    #[serde(rename = "http-01")]
    Http01,
    /// By a certificate at port 443 (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

impl ChallengeSharing {
    /// Whether it was not written.
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Serialize for ChallengeSharing {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::At(redis) => redis.serialize(out),
            Self::Directory | Self::Off => out.serialize_bool(false),
        }
    }
}

/// Whether clients of a site with `client_ca` must have a certificate (`client_certificate`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ClientCertificate {
    /// Those without one are refused.
    #[default]
    Require,
    /// Those without one are served too.
    Optional,
}
