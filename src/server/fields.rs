//! What a site changes in the fields of its responses (`hsts`).
//!
//! A site that changes nothing pays for a branch per response.

use crate::config;
use crate::http::head::ResponseHead;

/// The changes of a site.
#[derive(Debug, Default)]
pub(crate) struct FieldRules {
    /// The value of Strict-Transport-Security.
    hsts: Option<Box<str>>,
}

impl FieldRules {
    pub(crate) fn new(site: &config::SiteConfig) -> Self {
        Self {
            hsts: site.hsts.as_ref().map(hsts),
        }
    }

    /// Whether it changes nothing.
    pub(crate) const fn is_empty(&self) -> bool {
        self.hsts.is_none()
    }

    /// Changes the head of a response. `is_https`: the client has sent the request over TLS.
    pub(crate) fn apply(&self, is_https: bool, head: &mut ResponseHead) {
        // RFC 6797 7.2: not without TLS.
        if let Some(hsts) = self.hsts.as_ref().filter(|_| is_https) {
            head.headers.set(HSTS, hsts.as_bytes());
        }
    }
}

fn hsts(hsts: &config::Hsts) -> Box<str> {
    let mut value = format!("max-age={}", hsts.max_age);
    if hsts.subdomains {
        value.push_str("; includeSubDomains");
    }
    if hsts.preload {
        value.push_str("; preload");
    }
    value.into()
}

const HSTS: &str = "Strict-Transport-Security";
