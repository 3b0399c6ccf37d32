//! Requests to an authority (RFC 8555): its directory, nonces, signed requests, and what it says when it refuses.
//!
//! Each request blocks for at most [`LONGEST_REQUEST`].

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::http::HeaderMap;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::jose::{AccountKey, Signer};
use crate::config::{self, AcmeConfig};
use crate::http::date;
use crate::process::reason;

/// Why an authority has not done what was asked.
#[derive(Debug)]
pub(super) enum AcmeError {
    /// It has refused a request, or a name.
    Refused(Refused),
    /// It was not reached, or what came is no valid response: the URL, and the reason.
    Unreached(String, String),
    /// Something is wrong here: a file, a key.
    Local(String),
    /// Another process that uses the same directory orders certificates.
    Busy,
    /// `acme.ask` does not allow the name.
    NotAllowed,
    /// The server is stopping.
    Stopped,
}

/// What an authority says about a refusal (RFC 9457, RFC 8555 6.7).
#[derive(Debug)]
pub(super) struct Refused {
    url: String,
    status: u16,
    pub(super) problem: ProblemDocument,
    retry_after: Option<Duration>,
    /// It is a challenge that has failed.
    is_validation: bool,
}

/// A problem document.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ProblemDocument {
    #[serde(rename = "type")]
    kind: String,
    detail: String,
    subproblems: Vec<Self>,
}

/// The directory of an authority.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AcmeDirectory {
    new_nonce: String,
    pub(super) new_account: String,
    pub(super) new_order: String,
    /// Where it says when to renew (RFC 9773).
    pub(super) renewal_info: Option<String>,
    #[serde(default)]
    pub(super) meta: DirectoryMeta,
}

/// What an authority says about itself.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct DirectoryMeta {
    pub(super) external_account_required: bool,
    /// The profiles that it has, each with a description.
    pub(super) profiles: serde_json::Map<String, serde_json::Value>,
}

/// A response.
#[derive(Debug)]
pub(super) struct AcmeReply {
    pub(super) url: String,
    pub(super) body: Vec<u8>,
    /// The URL of what was created.
    pub(super) location: Option<String>,
    pub(super) retry_after: Option<Duration>,
}

/// A connection to an authority.
pub(super) struct AcmeClient {
    agent: ureq::Agent,
    pub(super) directory: AcmeDirectory,
    pub(super) key: AccountKey,
    /// The URL of the account, once it is known.
    pub(super) account: String,
    nonce: Option<String>,
}

impl AcmeError {
    /// Whether it was a considered refusal, which will not change soon.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Refused(refused) => refused.status < 500,
            _ => false,
        }
    }

    /// Whether the authority was not convinced that we serve a name.
    pub(super) fn is_validation(&self) -> bool {
        matches!(self, Self::Refused(refused) if refused.is_validation)
    }

    /// Whether the authority does not know our account.
    pub(super) fn is_unknown_account(&self) -> bool {
        matches!(self, Self::Refused(refused) if refused.problem.is("accountDoesNotExist"))
    }

    /// The least time to wait before another attempt, if the authority names one.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let Self::Refused(refused) = self else {
            return None;
        };
        let limited = refused.problem.is("rateLimited").then_some(RATE_LIMITED);
        refused.retry_after.or(limited)
    }
}

impl Refused {
    /// A refusal that an object of the authority reports, such as a challenge that has failed.
    pub(super) fn of_object(url: &str, problem: ProblemDocument) -> Self {
        Self {
            url: url.to_owned(),
            status: 403,
            problem,
            retry_after: None,
            is_validation: true,
        }
    }
}

impl ProblemDocument {
    /// A problem that the authority has not described.
    pub(super) fn unknown(detail: &str) -> Self {
        Self {
            detail: detail.to_owned(),
            ..Self::default()
        }
    }

    /// Whether it is of this type.
    fn is(&self, kind: &str) -> bool {
        self.kind.strip_prefix(PROBLEM) == Some(kind)
    }
}

impl fmt::Display for AcmeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refused) => write!(out, "{}: {}", refused.url, refused.problem),
            Self::Unreached(url, why) => write!(out, "{url}: {why}"),
            Self::Local(why) => out.write_str(why),
            Self::Busy => out.write_str("another process orders certificates"),
            Self::NotAllowed => out.write_str("not allowed by acme.ask"),
            Self::Stopped => out.write_str("the server is stopping"),
        }
    }
}

impl fmt::Display for ProblemDocument {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.strip_prefix(PROBLEM).unwrap_or(&self.kind);
        match (kind, &*self.detail) {
            ("", detail) => write!(out, "{}", Line(detail))?,
            (kind, "") => write!(out, "{}", Line(kind))?,
            (kind, detail) => write!(out, "{}: {}", Line(kind), Line(detail))?,
        }
        for inner in &self.subproblems {
            write!(out, "; {inner}")?;
        }
        Ok(())
    }
}

/// A text of an authority, without control characters and not too long.
struct Line<'a>(&'a str);

impl fmt::Display for Line<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars().take(LONGEST_TEXT) {
            let shown = if letter.is_control() { ' ' } else { letter };
            write!(out, "{shown}")?;
        }
        Ok(())
    }
}

impl AcmeClient {
    /// Reads the directory of an authority.
    ///
    /// # Errors
    /// It was not reached, or the file of authorities is wrong.
    pub(super) fn new(acme: &AcmeConfig, key: AccountKey) -> Result<Self, AcmeError> {
        let mut tls = TlsConfig::builder();
        if let Some(file) = &acme.ca {
            tls = tls.root_certs(authorities(file)?);
        }
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(MOST_REDIRECTS)
            .timeout_global(Some(LONGEST_REQUEST))
            .timeout_connect(Some(LONGEST_CONNECT))
            .user_agent(concat!("swiftiply/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls.build())
            .build()
            .new_agent();
        let (reply, _) = get(&agent, &acme.directory)?;
        Ok(Self {
            directory: parse(&reply)?,
            agent,
            key,
            account: String::new(),
            nonce: None,
        })
    }

    /// Sends a signed request as the account. An empty payload reads the object (POST-as-GET, RFC 8555 6.3).
    ///
    /// # Errors
    /// It was refused, or the authority was not reached.
    pub(super) fn post(&mut self, url: &str, payload: &str) -> Result<AcmeReply, AcmeError> {
        let account = self.account.clone();
        self.send(&Signer::Account(&account), url, payload)
    }

    /// Sends a signed request. A nonce that is no longer valid is replaced (RFC 8555 6.5).
    ///
    /// # Errors
    /// It was refused, or the authority was not reached.
    pub(super) fn send(
        &mut self,
        signer: &Signer<'_>,
        url: &str,
        payload: &str,
    ) -> Result<AcmeReply, AcmeError> {
        let mut attempts = 0;
        loop {
            let nonce = match self.nonce.take() {
                Some(nonce) => nonce,
                None => self.new_nonce()?,
            };
            let body = self.key.sign(signer, &nonce, url, payload);
            let request = self.agent.post(url).content_type("application/jose+json");
            let response = request.send(&body);
            let response = response.map_err(|error| unreached(url, &error))?;
            self.nonce = header(response.headers(), "replay-nonce");
            attempts += 1;
            match reply(url, response) {
                Err(AcmeError::Refused(refused))
                    if refused.problem.is("badNonce") && attempts < MOST_NONCES => {}
                result => return result,
            }
        }
    }

    fn new_nonce(&self) -> Result<String, AcmeError> {
        let url = &self.directory.new_nonce;
        let response = self.agent.head(url).call();
        let response = response.map_err(|error| unreached(url, &error))?;
        let nonce = header(response.headers(), "replay-nonce");
        nonce.ok_or_else(|| AcmeError::Unreached(url.clone(), "no Replay-Nonce".to_owned()))
    }

    /// Reads something that everybody may read.
    ///
    /// # Errors
    /// It was refused, or the authority was not reached.
    pub(super) fn get(&self, url: &str) -> Result<AcmeReply, AcmeError> {
        let (reply, _) = get(&self.agent, url)?;
        Ok(reply)
    }
}

fn get(agent: &ureq::Agent, url: &str) -> Result<(AcmeReply, Option<String>), AcmeError> {
    let response = agent.get(url).call();
    let response = response.map_err(|error| unreached(url, &error))?;
    let nonce = header(response.headers(), "replay-nonce");
    Ok((reply(url, response)?, nonce))
}

/// The object in a response.
///
/// # Errors
/// It is not what was expected.
pub(super) fn parse<T: DeserializeOwned>(reply: &AcmeReply) -> Result<T, AcmeError> {
    let parsed = serde_json::from_slice(&reply.body);
    parsed.map_err(|error| AcmeError::Unreached(reply.url.clone(), format!("unexpected: {error}")))
}

fn reply(
    url: &str,
    mut response: ureq::http::Response<ureq::Body>,
) -> Result<AcmeReply, AcmeError> {
    let status = response.status().as_u16();
    let retry_after = header(response.headers(), "retry-after");
    let retry_after = retry_after.and_then(|text| delay(&text, SystemTime::now()));
    let location = header(response.headers(), "location");
    let body = response.body_mut().with_config().limit(MOST_BYTES);
    let body = body.read_to_vec().map_err(|error| unreached(url, &error))?;
    if (200..300).contains(&status) {
        return Ok(AcmeReply {
            url: url.to_owned(),
            body,
            location,
            retry_after,
        });
    }
    let problem = serde_json::from_slice(&body);
    let problem = problem.unwrap_or_else(|_| ProblemDocument::unknown(&format!("status {status}")));
    Err(AcmeError::Refused(Refused {
        url: url.to_owned(),
        status,
        problem,
        retry_after,
        is_validation: false,
    }))
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// The time of a Retry-After: seconds, or a date (RFC 9110 10.2.3).
fn delay(text: &str, now: SystemTime) -> Option<Duration> {
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => date::parse(text)?.duration_since(now).ok(),
    }
}

pub(super) fn unreached(url: &str, error: &ureq::Error) -> AcmeError {
    let why = match error {
        ureq::Error::Io(error) => reason(error),
        other => other.to_string(),
    };
    AcmeError::Unreached(url.to_owned(), why)
}

pub(super) fn authorities(file: &Path) -> Result<RootCerts, AcmeError> {
    let wrong = |why: String| AcmeError::Local(format!("acme.ca {}: {why}", file.display()));
    let text = config::read_file(file, MOST_BYTES).map_err(wrong)?;
    let items = parse_pem(&text).collect::<Result<Vec<_>, _>>();
    let items = items.map_err(|error| wrong(error.to_string()))?;
    let certificates = items.into_iter().filter_map(|item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<Certificate<'static>> = certificates.collect();
    match certificates.is_empty() {
        true => Err(wrong("no certificate in it".to_owned())),
        false => Ok(RootCerts::from(certificates)),
    }
}

/// What the types of problems begin with.
const PROBLEM: &str = "urn:ietf:params:acme:error:";
/// Most bytes of a response.
const MOST_BYTES: u64 = 1 << 20;
/// Most letters of a text of the authority in the log.
const LONGEST_TEXT: usize = 500;
/// Most nonces for one request.
const MOST_NONCES: u32 = 10;
const MOST_REDIRECTS: u32 = 3;
const LONGEST_CONNECT: Duration = Duration::from_secs(10);
const LONGEST_REQUEST: Duration = Duration::from_secs(30);
/// How long to wait after a rate limit whose end is not named.
const RATE_LIMITED: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn retry_after() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_700);
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(
                delay(text, now),
                expected.map(Duration::from_secs),
                "{text}"
            );
        };
        check("120", Some(120));
        check("Sun, 06 Nov 1994 08:49:37 GMT", Some(77));
        check("Sun, 06 Nov 1994 08:00:00 GMT", None);
        check("soon", None);
    }

    #[test]
    fn problems_in_words() {
        let text = r#"{"type":"urn:ietf:params:acme:error:dns","detail":"no\nA record","status":400,
            "subproblems":[{"type":"other","detail":"more"}]}"#;
        let problem: ProblemDocument = serde_json::from_str(text).unwrap();
        assert_eq!(problem.to_string(), "dns: no A record; other: more");
        assert_eq!(
            ProblemDocument::unknown("status 502").to_string(),
            "status 502"
        );
        let refused = |status| {
            AcmeError::Refused(Refused {
                url: "https://ca/order".into(),
                status,
                problem: problem.clone(),
                retry_after: None,
                is_validation: false,
            })
        };
        assert_eq!(
            refused(403).to_string(),
            "https://ca/order: dns: no A record; other: more"
        );
        assert!(refused(403).is_refusal() && !refused(503).is_refusal());
    }

    #[test]
    fn rate_limits_have_an_end() {
        let limited = |retry_after: Option<u64>| {
            let error = AcmeError::Refused(Refused {
                url: String::new(),
                status: 429,
                problem: ProblemDocument {
                    kind: format!("{PROBLEM}rateLimited"),
                    ..ProblemDocument::default()
                },
                retry_after: retry_after.map(Duration::from_secs),
                is_validation: false,
            });
            error.retry_after().map(|time| time.as_secs())
        };
        assert_eq!(limited(Some(60)), Some(60));
        assert_eq!(limited(None), Some(3600));
    }
}
