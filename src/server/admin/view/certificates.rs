//! Certificates: those that an authority has issued (`tls: auto`), our own (`tls: internal`), and those of files.

use serde::Serialize;

use super::time::unix_time;
use crate::acme::listing::ManagedCertificate;
use crate::server::certificates::FileCertificate;
use crate::server::shared::Shared;
use crate::x509::name_text;

/// A certificate in use.
#[derive(Debug, Serialize)]
pub(in crate::server::admin) struct CertificateView {
    /// The names that it is for; at least one if it comes from no file.
    pub(in crate::server::admin) names: Vec<String>,
    /// `file`, `acme` or `internal`.
    pub(in crate::server::admin) source: &'static str,
    /// The file from which it was read, with source `file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::server::admin) file: Option<String>,
    /// The name of its issuer.
    issuer: String,
    pub(in crate::server::admin) expires: u64,
    /// When the next one is ordered or made; not with source `file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    renewal: Option<u64>,
    /// Whether it is a self-signed one, since none was obtained yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    temporary: bool,
    /// Whether a client has asked for the name, which no site has.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    on_demand: bool,
    /// Why the last order has failed, or the last attempt to read the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::server::admin) error: Option<String>,
}

impl CertificateView {
    /// All certificates of a server: those that it obtains or makes, then those from files.
    pub(in crate::server::admin) fn all(shared: &Shared) -> Vec<Self> {
        let managed = shared.manager.list();
        let files = shared.certificates.lock().clone();
        let files = files.into_iter().map(Self::of_file);
        managed
            .into_iter()
            .map(Self::managed)
            .chain(files)
            .collect()
    }

    fn managed(certificate: ManagedCertificate) -> Self {
        Self {
            names: vec![certificate.name],
            source: match certificate.is_obtained {
                true => "acme",
                false => "internal",
            },
            file: None,
            issuer: name_text(&certificate.facts.issuer),
            expires: unix_time(certificate.facts.not_after),
            renewal: Some(unix_time(certificate.renewal)),
            temporary: certificate.is_temporary,
            on_demand: certificate.is_on_demand,
            error: certificate.error,
        }
    }

    fn of_file(read: FileCertificate) -> Self {
        let facts = read.certificate.facts();
        Self {
            names: read.certificate.names().to_vec(),
            source: "file",
            file: Some(read.file.display().to_string()),
            issuer: name_text(&facts.issuer),
            expires: unix_time(facts.not_after),
            renewal: None,
            temporary: false,
            on_demand: false,
            error: read.error,
        }
    }
}
