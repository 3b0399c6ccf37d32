//! The certificates of sites by name (`tls`): handshakes look them up, and they are replaced at run time.
//!
//! Every listener with TLS refers to the same [`SiteCertificates`], so a new certificate is used by the next handshake.
//! Connections that exist keep the one with which they began.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::sign::CertifiedKey;

use super::certificate::Certificate;
use super::on_demand::NameQueue;

/// The certificates of sites, by host name.
#[derive(Debug, Default)]
pub struct SiteCertificates {
    names: RwLock<Names>,
    validations: RwLock<ValidationKeys>,
    /// Names that get a certificate once a client asks for them.
    on_demand: NameQueue,
}

/// Certificates that prove to an authority that we serve a name (TLS-ALPN-01, RFC 8737), by the name in SNI.
#[derive(Debug, Default)]
struct ValidationKeys {
    own: HashMap<String, Arc<CertifiedKey>>,
    /// Those for validations that other proxies behind the same names have asked for.
    shared: HashMap<String, Arc<CertifiedKey>>,
}

#[derive(Debug, Default)]
struct Names {
    by_name: HashMap<String, Arc<CertifiedKey>>,
    /// The name whose certificate is for clients that send no name, or an unknown one.
    first: String,
    /// The certificate for them if there is no such name.
    fallback: Option<Arc<CertifiedKey>>,
    /// A literal address, for clients that send no name since they have connected to it.
    address: Option<String>,
}

impl SiteCertificates {
    /// Replaces all certificates. A name may be `*.example.com`, which stands for one label. `first` is the name whose
    /// certificate is for clients that send no name, or an unknown one; without it they get `fallback`.
    pub fn set(
        &self,
        certificates: Vec<(String, Certificate)>,
        first: String,
        fallback: Option<Certificate>,
    ) {
        let by_name = certificates.into_iter();
        let by_name = by_name.map(|(name, certificate)| (name, certificate.key));
        let by_name: HashMap<_, _> = by_name.collect();
        let addresses = by_name.keys().filter(|name| is_address(name));
        let address = addresses.min().cloned();
        *self.names.write() = Names {
            by_name,
            first,
            fallback: fallback.map(|certificate| certificate.key),
            address,
        };
    }

    /// Replaces the certificate of a name, if the name is still in use.
    pub fn replace(&self, name: &str, certificate: &Certificate) {
        if let Some(key) = self.names.write().by_name.get_mut(name) {
            *key = Arc::clone(&certificate.key);
        }
    }

    /// Adds a name with its certificate, or replaces its certificate.
    pub fn insert(&self, name: &str, certificate: &Certificate) {
        let key = Arc::clone(&certificate.key);
        self.names.write().by_name.insert(name.to_owned(), key);
    }

    /// Removes a name.
    pub fn remove(&self, name: &str) {
        self.names.write().by_name.remove(name);
    }

    /// Names that get a certificate once a client asks for them.
    pub const fn on_demand(&self) -> &NameQueue {
        &self.on_demand
    }

    /// Presents a certificate to an authority that validates this name.
    pub fn begin_validation(&self, name: &str, certificate: &Certificate) {
        let key = Arc::clone(&certificate.key);
        self.validations.write().own.insert(name.to_owned(), key);
    }

    /// Presents it no longer.
    pub fn end_validation(&self, name: &str) {
        self.validations.write().own.remove(name);
    }

    /// Presents these certificates to authorities from which other proxies order, and no other ones of theirs.
    pub fn set_shared_validations(&self, certificates: &HashMap<String, Certificate>) {
        let keys = certificates.iter();
        let keys = keys.map(|(name, certificate)| (name.clone(), Arc::clone(&certificate.key)));
        let keys = keys.collect();
        self.validations.write().shared = keys;
    }

    /// Whether an authority may be validating a name now.
    pub fn is_validating(&self) -> bool {
        let validations = self.validations.read();
        !(validations.own.is_empty() && validations.shared.is_empty())
    }

    /// The certificate for a validation of this name, in lower case.
    pub(super) fn validation(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let validations = self.validations.read();
        let own = validations.own.get(name);
        own.or_else(|| validations.shared.get(name)).cloned()
    }

    /// The certificate of a name in lower case: its own, or that of its wildcard.
    pub(super) fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let names = self.names.read();
        let wildcard = || {
            let (_, parent) = name.split_once('.')?;
            names.by_name.get(&format!("*.{parent}"))
        };
        names.by_name.get(name).or_else(wildcard).cloned()
    }

    /// The certificate of a literal address, for clients that send no name.
    pub(super) fn of_address(&self) -> Option<Arc<CertifiedKey>> {
        let names = self.names.read();
        names.by_name.get(names.address.as_ref()?).cloned()
    }

    /// The certificate for clients that send no name, or an unknown one.
    pub(super) fn first(&self) -> Option<Arc<CertifiedKey>> {
        let names = self.names.read();
        let first = names.by_name.get(&names.first);
        first.or(names.fallback.as_ref()).cloned()
    }
}

/// Whether a name is a literal address, which a client does not send as a name.
pub fn is_address(name: &str) -> bool {
    name.starts_with('[') || name.parse::<Ipv4Addr>().is_ok()
}
