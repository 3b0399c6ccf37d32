//! Asks a program of the operator whether a name may have a certificate (`acme.ask`), and limits how often.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ureq::tls::TlsConfig;

use super::client::{AcmeError, authorities, unreached};
use super::managed::Settings;
use crate::config::AcmeConfig;

/// What limits questions and orders.
#[derive(Default)]
pub(super) struct OnDemandLimits {
    /// When the next name may be put to `acme.ask`.
    pub(super) next_question: Option<Instant>,
    /// `acme.ask` did not respond the last time.
    pub(super) is_ask_down: bool,
    /// When names were ordered for the first time, within the last hour.
    ordered: VecDeque<Instant>,
}

/// A name that is to be put to `acme.ask`.
pub(super) struct Question {
    pub(super) name: String,
    pub(super) settings: Arc<Settings>,
}

/// When there is a question.
pub(super) enum NextQuestion {
    /// When a client asks for a name.
    Unknown,
    After(Duration),
    Now(Question),
}

impl OnDemandLimits {
    /// Counts an order; `Err`: how long there may be no other one.
    pub(super) fn order(&mut self, now: Instant) -> Result<(), Duration> {
        let age = |at: &Instant| now.saturating_duration_since(*at);
        while self.ordered.front().is_some_and(|at| age(at) >= HOUR) {
            self.ordered.pop_front();
        }
        match self.ordered.front() {
            Some(first) if self.ordered.len() >= MOST_ORDERS => Err(HOUR - age(first)),
            _ => {
                self.ordered.push_back(now);
                Ok(())
            }
        }
    }
}

/// Whether a name may have a certificate: whether the response has status 200. Redirects are not followed.
///
/// # Errors
/// There was no response.
pub(super) fn ask(acme: &AcmeConfig, name: &str) -> Result<bool, AcmeError> {
    let Some(url) = &acme.ask else {
        return Ok(false);
    };
    let mut tls = TlsConfig::builder();
    if let Some(file) = &acme.ca {
        tls = tls.root_certs(authorities(file)?);
    }
    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .timeout_global(Some(LONGEST))
        .user_agent(concat!("swiftiply/", env!("CARGO_PKG_VERSION")))
        .tls_config(tls.build())
        .build()
        .new_agent();
    let response = agent.get(with_name(url, name)).call();
    // A query may have a secret.
    let shown = url.split('?').next().unwrap_or_default();
    let response = response.map_err(|error| unreached(shown, &error))?;
    let status = response.status().as_u16();
    log::debug!("certificate {name}: {shown} says {status}");
    Ok(status == 200)
}

/// The URL with the name in its query. Names of hosts need no escapes.
fn with_name(url: &str, name: &str) -> String {
    let joint = match url.split_once('?') {
        None => "?",
        Some((_, query)) if query.is_empty() || query.ends_with('&') => "",
        Some(_) => "&",
    };
    format!("{url}{joint}domain={name}")
}

/// The least time from one question to the next.
pub(super) const BETWEEN_QUESTIONS: Duration = Duration::from_millis(50);
/// Most names that are ordered for the first time within an hour: Let's Encrypt allows 300 orders within three.
pub(super) const MOST_ORDERS: usize = 100;
const HOUR: Duration = Duration::from_secs(3600);
/// The longest time for a response.
const LONGEST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_queries() {
        let check = |url: &str, expected: &str| assert_eq!(with_name(url, "a.test"), expected);
        check("http://a", "http://a?domain=a.test");
        check("http://a/b", "http://a/b?domain=a.test");
        check("http://a/b?", "http://a/b?domain=a.test");
        check("http://a/b?key=1", "http://a/b?key=1&domain=a.test");
        check("http://a/b?key=1&", "http://a/b?key=1&domain=a.test");
    }

    #[test]
    fn orders_within_an_hour_are_limited() {
        let (mut limits, now) = (OnDemandLimits::default(), Instant::now());
        let minute = Duration::from_secs(60);
        for _ in 0..MOST_ORDERS - 1 {
            assert_eq!(limits.order(now), Ok(()));
        }
        assert_eq!(limits.order(now + minute), Ok(()));
        assert_eq!(limits.order(now + minute), Err(59 * minute));
        assert_eq!(limits.order(now + 60 * minute), Ok(()));
        assert!(limits.ordered.len() < 4);
    }
}
