//! Obtains a certificate (RFC 8555 7.4): the order, its authorizations, the download.

use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::client::{AcmeClient, AcmeError, AcmeReply, ProblemDocument, Refused, parse};
use super::jose::encode;
use super::keys;
use super::managed::ManagedName;
use super::schedule::{RenewalWindow, random, renewal_id, timestamp};
use super::sharing::Sharing;
use super::store::Store;
use super::validation::{Validations, word};
use crate::config::{AcmeConfig, ChallengeKind};
use crate::http::date;
use crate::x509::CertificateFacts;

/// What is needed to obtain a certificate.
pub(super) struct Ordering<'a> {
    pub(super) acme: &'a AcmeConfig,
    pub(super) store: &'a Store,
    pub(super) validations: &'a Validations,
    pub(super) sharing: &'a Sharing,
    /// Waits for a moment.
    ///
    /// # Errors
    /// The server is stopping.
    pub(super) pause: &'a dyn Fn(Duration) -> Result<(), AcmeError>,
}

/// The file of an order that is not finished.
#[derive(Deserialize, Serialize)]
struct OrderFile {
    url: String,
    /// The key of the certificate, in PEM.
    key: String,
}

#[derive(Deserialize)]
struct OrderObject {
    status: Status,
    #[serde(default)]
    authorizations: Vec<String>,
    finalize: String,
    certificate: Option<String>,
    error: Option<ProblemDocument>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Pending,
    Processing,
    Ready,
    Valid,
    #[serde(other)]
    Invalid,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RenewalInfo {
    suggested_window: SuggestedWindow,
}

#[derive(Deserialize)]
struct SuggestedWindow {
    start: String,
    end: String,
}

impl Ordering<'_> {
    /// Obtains a certificate for a name: its key and its chain, in PEM. `replaces` is the certificate that it renews.
    ///
    /// # Errors
    /// The authority refuses, or is not reached.
    pub(super) fn obtain(
        &self,
        client: &mut AcmeClient,
        name: &str,
        replaces: Option<&CertificateFacts>,
    ) -> Result<String, AcmeError> {
        let path = self.store.order(name);
        if let Some(text) = self.store.read(&path).map_err(AcmeError::Local)?
            && let Ok(begun) = serde_json::from_str::<OrderFile>(&text)
        {
            // The server has ended in the middle of it. The authority may have forgotten it.
            log::debug!("certificate {name}: continuing the order {}", begun.url);
            let result = match self.acme.challenges.first() {
                Some(kind) => self.finish(client, name, *kind, &begun),
                None => Err(AcmeError::Local(NO_CHALLENGE.to_owned())),
            };
            match result {
                Ok(text) => return Ok(text),
                Err(error) if error.is_refusal() => self.store.remove(&path),
                Err(error) => return Err(error),
            }
        }
        let kinds = &self.acme.challenges;
        for (index, kind) in kinds.iter().enumerate() {
            let result = self
                .begin(client, name, replaces)
                .and_then(|order| self.finish(client, name, *kind, &order));
            let error = match result {
                Err(error @ AcmeError::Refused(_)) => error,
                result => return result,
            };
            self.store.remove(&path);
            // A failed validation ends the order; another way needs a new one.
            match kinds.get(index + 1) {
                Some(next) if error.is_validation() => {
                    let (kind, next) = (word(*kind), word(*next));
                    log::warn!("certificate {name}: {kind} has failed: {error}; trying {next}");
                }
                _ => return Err(error),
            }
        }
        Err(AcmeError::Local(NO_CHALLENGE.to_owned()))
    }

    /// Places an order, and keeps it in a file.
    fn begin(
        &self,
        client: &mut AcmeClient,
        name: &str,
        replaces: Option<&CertificateFacts>,
    ) -> Result<OrderFile, AcmeError> {
        let order = OrderFile {
            url: self.place(client, name, replaces)?,
            key: self.certificate_key().map_err(AcmeError::Local)?,
        };
        let text = json!(order).to_string();
        let written = self.store.write(&self.store.order(name), &text);
        written.map_err(AcmeError::Local)?;
        Ok(order)
    }

    /// The key of a new certificate, in PEM: a new one, or that of the configuration.
    fn certificate_key(&self) -> Result<String, String> {
        let Some(file) = &self.acme.keyfile else {
            return keys::new_key();
        };
        let wrong = |why: String| format!("acme.keyfile {}: {why}", file.display());
        let text = self.store.read(file)?;
        let text = text.ok_or_else(|| wrong("no such file".to_owned()))?;
        keys::pkcs8(&text).map_err(wrong)?;
        Ok(text)
    }

    /// Lets the authority validate a name, and leaves the order for that unfinished. What it has validated before is
    /// validated again.
    ///
    /// # Errors
    /// The authority refuses, or is not reached.
    pub(super) fn prove(
        &self,
        client: &mut AcmeClient,
        name: &str,
        kind: ChallengeKind,
    ) -> Result<(), AcmeError> {
        for _ in 0..MOST_DEACTIVATED {
            let url = self.place(client, name, None)?;
            let order: OrderObject = parse(&client.post(&url, "")?)?;
            let is_validated_before = order.status != Status::Pending;
            for url in &order.authorizations {
                if !is_validated_before {
                    self.authorize(client, name, kind, url)?;
                }
                let payload = json!({"status": "deactivated"}).to_string();
                client.post(url, &payload)?;
            }
            if !is_validated_before {
                return Ok(());
            }
        }
        let why = "the authority does not validate the name again";
        Err(AcmeError::Unreached(
            client.directory.new_order.clone(),
            why.to_owned(),
        ))
    }

    /// Places an order; returns its URL.
    fn place(
        &self,
        client: &mut AcmeClient,
        name: &str,
        replaces: Option<&CertificateFacts>,
    ) -> Result<String, AcmeError> {
        let kind = keys::address(name).map_or("dns", |_| "ip");
        let mut payload = json!({"identifiers": [{"type": kind, "value": keys::bare(name)}]});
        if let Some(profile) = &self.acme.profile {
            payload["profile"] = json!(profile);
        }
        if client.directory.renewal_info.is_some()
            && let Some(id) = replaces.and_then(renewal_id)
        {
            payload["replaces"] = json!(id);
        }
        let url = client.directory.new_order.clone();
        let reply = match client.post(&url, &payload.to_string()) {
            Err(error) if error.is_unknown_account() => {
                self.register_again(client)?;
                client.post(&url, &payload.to_string())?
            }
            // It may not know the certificate that is replaced.
            Err(error) if payload.get("replaces").is_some() && error.retry_after().is_none() => {
                log::debug!("certificate {name}: {error}; ordering without replaces");
                payload["replaces"].take();
                let members = payload.as_object_mut();
                members.map(|members| members.remove("replaces"));
                client.post(&url, &payload.to_string())?
            }
            result => result?,
        };
        let missing = || AcmeError::Unreached(url, "no Location of the order".to_owned());
        reply.location.ok_or_else(missing)
    }

    /// Takes an order from where it is to its certificate.
    fn finish(
        &self,
        client: &mut AcmeClient,
        name: &str,
        kind: ChallengeKind,
        file: &OrderFile,
    ) -> Result<String, AcmeError> {
        let deadline = Instant::now() + LONGEST_ORDER;
        let mut is_finalized = false;
        let mut pause = FIRST_PAUSE;
        loop {
            let reply = client.post(&file.url, "")?;
            let order: OrderObject = parse(&reply)?;
            match order.status {
                Status::Pending => {
                    for url in &order.authorizations {
                        self.authorize(client, name, kind, url)?;
                    }
                }
                Status::Ready if !is_finalized => {
                    let request = keys::request(name, &file.key).map_err(AcmeError::Local)?;
                    let payload = json!({"csr": encode(&request)}).to_string();
                    client.post(&order.finalize, &payload)?;
                    is_finalized = true;
                }
                Status::Ready | Status::Processing => {}
                Status::Valid => {
                    let missing =
                        || AcmeError::Unreached(reply.url.clone(), "no certificate".to_owned());
                    let url = order.certificate.ok_or_else(missing)?;
                    let chain = client.post(&url, "")?;
                    let chain = String::from_utf8(chain.body).unwrap_or_default();
                    return Ok(format!("{}{chain}", file.key));
                }
                Status::Invalid => {
                    let problem = order.error;
                    let problem =
                        problem.unwrap_or_else(|| ProblemDocument::unknown("the order is invalid"));
                    return Err(AcmeError::Refused(Refused::of_object(&file.url, problem)));
                }
            }
            self.wait(&reply, &mut pause, deadline)?;
        }
    }

    /// Waits before an object is read again: as long as the authority says, otherwise longer each time.
    pub(super) fn wait(
        &self,
        reply: &AcmeReply,
        pause: &mut Duration,
        deadline: Instant,
    ) -> Result<(), AcmeError> {
        let wanted = reply.retry_after.unwrap_or(*pause).min(LONGEST_PAUSE);
        *pause = (*pause * 2).min(LONGEST_PAUSE);
        if Instant::now() + wanted > deadline {
            let why = format!("not finished after {LONGEST_ORDER:?}");
            return Err(AcmeError::Unreached(reply.url.clone(), why));
        }
        (self.pause)(wanted)
    }
}

/// Asks the authority when to renew a certificate, if it says that (RFC 9773); a failure changes nothing.
pub(super) fn ask_when(
    name: &str,
    entry: &ManagedName,
    ordering: &Ordering<'_>,
    now: SystemTime,
) -> ManagedName {
    let mut next = entry.clone();
    next.failures = 0;
    next.error = None;
    next.due = entry.renewal;
    let asked = ordering
        .connect()
        .and_then(|client| renewal_window(&client, entry.certificate.facts()));
    match asked {
        Ok(None) => {}
        Ok(Some((window, valid))) => {
            if !window.has(next.renewal) {
                next.renewal = window.choose(random());
                log::info!(
                    "certificate {name}: the authority suggests to renew it at {}",
                    date::text(next.renewal)
                );
            }
            next.due = next.renewal.min(now + valid);
        }
        Err(error) => {
            log::debug!("certificate {name}: {error}");
            next.due = next.renewal.min(now + ASK_AGAIN);
        }
    }
    next
}

/// When the authority suggests to renew a certificate, and how long this is valid (RFC 9773). `None`: it does not say.
///
/// # Errors
/// The authority is not reached, or refuses.
fn renewal_window(
    client: &AcmeClient,
    facts: &CertificateFacts,
) -> Result<Option<(RenewalWindow, Duration)>, AcmeError> {
    let (Some(url), Some(id)) = (&client.directory.renewal_info, renewal_id(facts)) else {
        return Ok(None);
    };
    let reply = client.get(&format!("{}/{id}", url.trim_end_matches('/')))?;
    let info: RenewalInfo = parse(&reply)?;
    let window = info.suggested_window;
    let (Some(start), Some(end)) = (timestamp(&window.start), timestamp(&window.end)) else {
        return Err(AcmeError::Unreached(
            reply.url,
            "no suggestedWindow".to_owned(),
        ));
    };
    let valid = reply.retry_after.unwrap_or(WINDOW_VALID);
    Ok(Some((
        RenewalWindow { start, end },
        valid.clamp(WINDOW_LEAST, WINDOW_MOST),
    )))
}

const NO_CHALLENGE: &str =
    "acme.challenges: http-01 needs an address without TLS; write cluster_port: 80";
/// The longest time for a validation, and for an order without its validation.
pub(super) const LONGEST_ORDER: Duration = Duration::from_secs(90);
/// Most validations of the past that a dry run deactivates.
const MOST_DEACTIVATED: usize = 3;
/// Pauses before an object is read again.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a renewal window is valid if the authority does not say it; the least and the longest (RFC 9773 4.3).
const WINDOW_VALID: Duration = Duration::from_secs(6 * 3600);
const WINDOW_LEAST: Duration = Duration::from_secs(60);
const WINDOW_MOST: Duration = Duration::from_secs(24 * 3600);
/// The pause after an authority could not be asked when to renew.
const ASK_AGAIN: Duration = Duration::from_secs(6 * 3600);
