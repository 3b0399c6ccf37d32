//! What an operator sees of the certificates that the server obtains or makes: the list, and the result of a dry run.

use std::time::SystemTime;

use crate::x509::CertificateFacts;

/// The certificate of a name.
#[derive(Clone, Debug)]
pub struct ManagedCertificate {
    /// The host name, or an address.
    pub name: String,
    /// Whether an authority issues it (`tls: auto`); otherwise the server itself does (`tls: internal`).
    pub is_obtained: bool,
    /// Whether it is a self-signed one, since there is no other one yet.
    pub is_temporary: bool,
    /// Whether a client has asked for the name, which no site has (`tls: on_demand`).
    pub is_on_demand: bool,
    /// What it says about itself.
    pub facts: CertificateFacts,
    /// When the next one is ordered.
    pub renewal: SystemTime,
    /// Why the last order has failed, if it has.
    pub error: Option<String>,
}

/// Whether a name would get a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// The name.
    pub name: String,
    /// The kind of challenge by which the authority has validated it; `None`: it would get none.
    pub challenge: Option<&'static str>,
    /// Why the other kinds have failed, or everything.
    pub error: Option<String>,
}
