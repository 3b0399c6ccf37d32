//! The state of a name that gets certificates, and where they are kept or made.

use std::path::PathBuf;
use std::time::SystemTime;

use super::keys;
use super::schedule::{random, renewal};
use super::store::Store;
use crate::config::AcmeConfig;
use crate::net::tls::Certificate;

/// The configuration of authorities.
#[derive(Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) acme: AcmeConfig,
    pub(super) state_directory: PathBuf,
}

/// Where the certificate of a name comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CertificateSource {
    Authority,
    Internal,
}

/// A name with its certificate.
#[derive(Clone)]
pub(super) struct ManagedName {
    pub(super) source: CertificateSource,
    pub(super) certificate: Certificate,
    /// The certificate is self-signed, since there is no other one yet.
    pub(super) is_temporary: bool,
    /// No site has the name; a client has asked for it (`tls: on_demand`).
    pub(super) is_on_demand: bool,
    /// `acme.ask` has just allowed it, so that it need not be asked before the first order.
    pub(super) is_allowed: bool,
    /// When to renew it.
    pub(super) renewal: SystemTime,
    /// When the thread checks it again.
    pub(super) due: SystemTime,
    /// Attempts that have failed in a row.
    pub(super) failures: u32,
    /// Why the last of them has.
    pub(super) error: Option<String>,
}

impl ManagedName {
    /// A name with a certificate that is not temporary.
    pub(super) fn new(
        source: CertificateSource,
        certificate: Certificate,
        now: SystemTime,
    ) -> Self {
        let renewal = renewal(certificate.facts(), random());
        Self {
            source,
            due: match source {
                // To ask the authority when to renew it.
                CertificateSource::Authority => now,
                CertificateSource::Internal => renewal,
            },
            certificate,
            is_temporary: false,
            is_on_demand: false,
            is_allowed: false,
            renewal,
            failures: 0,
            error: None,
        }
    }
}

impl ManagedName {
    /// Forgets that attempts have failed.
    pub(super) fn try_at_once(&mut self, now: SystemTime) {
        if self.error.take().is_some() || self.failures > 0 {
            self.failures = 0;
            self.due = now;
        }
    }

    /// The name with the lowest rank is next. Of those that are due, names of sites precede those that clients ask for, for
    /// which they wait only the first time.
    pub(super) fn rank(&self, now: SystemTime) -> (bool, u8, SystemTime) {
        let group = match (self.is_on_demand, self.is_temporary) {
            (false, _) => 0,
            (true, true) => 1,
            (true, false) => 2,
        };
        match self.due <= now {
            true => (false, group, self.due),
            false => (true, 0, self.due),
        }
    }
}

impl Settings {
    pub(super) fn store(&self, source: CertificateSource) -> Store {
        match source {
            CertificateSource::Authority => {
                Store::of_authority(&self.state_directory, &self.acme.directory)
            }
            CertificateSource::Internal => Store::internal(&self.state_directory),
        }
    }

    /// The certificate of a name that was obtained before; `None`: there is none.
    ///
    /// # Errors
    /// The file, and the reason why it cannot be read.
    pub(super) fn kept(&self, name: &str, now: SystemTime) -> Result<Option<ManagedName>, String> {
        let store = self.store(CertificateSource::Authority);
        let path = store.certificate(name);
        let Some(text) = store.read(&path)? else {
            return Ok(None);
        };
        Ok(match keys::certificate(&text) {
            Ok(certificate) => Some(ManagedName::new(
                CertificateSource::Authority,
                certificate,
                now,
            )),
            Err(why) => {
                log::error!("certificate {name}: {}: {why}", path.display());
                None
            }
        })
    }

    /// The certificate of a name that was obtained before, or a temporary one.
    pub(super) fn obtained(&self, name: &str, now: SystemTime) -> Result<ManagedName, String> {
        match self.kept(name, now)? {
            Some(kept) => Ok(kept),
            None => Self::temporary(name, now),
        }
    }

    /// A name that has no certificate yet.
    ///
    /// # Errors
    /// The reason why no temporary one can be made.
    pub(super) fn temporary(name: &str, now: SystemTime) -> Result<ManagedName, String> {
        let wrong = |why| format!("certificate {name}: {why}");
        let certificate = keys::temporary(name).map_err(wrong)?;
        Ok(ManagedName {
            source: CertificateSource::Authority,
            certificate,
            is_temporary: true,
            is_on_demand: false,
            is_allowed: false,
            renewal: now,
            due: now,
            failures: 0,
            error: None,
        })
    }

    /// The certificate of our own authority for a name, a new one if it has to be renewed.
    pub(super) fn issued(&self, name: &str, now: SystemTime) -> Result<ManagedName, String> {
        let store = self.store(CertificateSource::Internal);
        if let Some(text) = store.read(&store.certificate(name))?
            && let Ok(certificate) = keys::certificate(&text)
        {
            let entry = ManagedName::new(CertificateSource::Internal, certificate, now);
            if now < entry.renewal {
                return Ok(entry);
            }
        }
        self.make(name, now)
    }

    /// A new certificate of our own authority, which is created with the first one.
    pub(super) fn make(&self, name: &str, now: SystemTime) -> Result<ManagedName, String> {
        let store = self.store(CertificateSource::Internal);
        let (root_file, key_file) = (store.file("root.crt"), store.file("root.key"));
        let (root, key) = match (store.read(&root_file)?, store.read(&key_file)?) {
            (Some(root), Some(key)) => (root, key),
            _ => {
                let (root, key) = keys::root(now)?;
                store.write(&key_file, &key)?;
                store.write(&root_file, &root)?;
                log::warn!(
                    "tls: internal: a new authority; clients must trust {}, see CERTIFICATES in swiftiply(8)",
                    root_file.display()
                );
                (root, key)
            }
        };
        let wrong = |why| format!("certificate {name}: {}: {why}", root_file.display());
        let text = keys::issue(name, &root, &key, now).map_err(wrong)?;
        store.write(&store.certificate(name), &text)?;
        let certificate = keys::certificate(&text).map_err(wrong)?;
        Ok(ManagedName::new(
            CertificateSource::Internal,
            certificate,
            now,
        ))
    }
}
