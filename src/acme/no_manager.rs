//! Replaces `manager` in a build without it: certificates come from files only.

use std::sync::Arc;

use super::challenges::Challenges;
use super::listing::{ManagedCertificate, Trial};
use crate::config::Config;
use crate::net::tls::{Certificate, SiteCertificates};

/// The certificates that the server obtains: none.
pub struct Manager(Arc<SiteCertificates>);

/// No names.
pub struct PreparedNames;

impl PreparedNames {
    /// There is nothing to do.
    pub const fn need_thread(&self) -> bool {
        false
    }
}

impl Manager {
    /// Without names.
    pub fn new(sites: Arc<SiteCertificates>, _challenges: Arc<Challenges>) -> Self {
        Self(sites)
    }

    /// Prepares nothing.
    ///
    /// # Errors
    /// None.
    pub const fn prepare(&self, _config: &Config) -> Result<PreparedNames, String> {
        Ok(PreparedNames)
    }

    /// Puts certificates from files into use.
    pub fn commit(
        &self,
        _prepared: PreparedNames,
        certificates: Vec<(String, Certificate)>,
        first: String,
    ) {
        self.0.set(certificates, first, None);
    }

    /// Nothing.
    pub const fn list(&self) -> Vec<ManagedCertificate> {
        Vec::new()
    }

    /// Never.
    pub const fn is_validating(&self) -> bool {
        false
    }

    /// Tries nothing: no site has `tls: auto`.
    pub fn dry_run(&self, _names: &[String]) -> (String, Vec<Trial>) {
        (String::new(), Vec::new())
    }

    /// Has nothing to do.
    pub const fn run(&self) {}

    /// Has nothing to stop.
    pub const fn stop(&self) -> bool {
        true
    }

    /// Has nothing to wait for.
    pub const fn join(&self) {}
}
