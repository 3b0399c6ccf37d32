//! Replaces `sharing` in a build without the cargo feature `redis`: each proxy responds to its own challenges only.

use std::sync::Arc;
use std::time::Duration;

use super::challenges::Challenges;
use super::client::AcmeError;
use super::validation::Validation;
use crate::config;
use crate::net::tls::SiteCertificates;

/// Shares nothing.
pub(super) struct Sharing;

/// There is none.
pub(super) enum SharedChallenge {}

impl Sharing {
    /// Nothing.
    pub(super) fn new(_challenges: &Arc<Challenges>, _sites: &Arc<SiteCertificates>) -> Arc<Self> {
        Arc::new(Self)
    }

    /// The configuration names no Redis.
    pub(super) fn set(&self, _redis: Option<config::Redis>) {}

    /// Has nothing to stop.
    pub(super) const fn stop(&self) {}

    /// Has nothing to wait for.
    pub(super) const fn join(&self) {}

    /// Publishes nothing.
    ///
    /// # Errors
    /// None.
    pub(super) const fn publish(
        &self,
        _validation: &Validation<'_>,
        _pause: &dyn Fn(Duration) -> Result<(), AcmeError>,
    ) -> Result<Option<SharedChallenge>, AcmeError> {
        Ok(None)
    }
}

impl SharedChallenge {
    /// Waits for nothing.
    ///
    /// # Errors
    /// None.
    pub(super) const fn wait_for_others(
        &self,
        _name: &str,
        _pause: &dyn Fn(Duration) -> Result<(), AcmeError>,
    ) -> Result<(), AcmeError> {
        match *self {}
    }
}
