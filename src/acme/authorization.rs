//! Proves to an authority that we serve a name (RFC 8555 7.5): the authorization of an order, and its challenge.

use std::time::Instant;

use serde::Deserialize;

use super::client::{AcmeClient, AcmeError, ProblemDocument, Refused, parse};
use super::jose::sha256;
use super::order::{FIRST_PAUSE, LONGEST_ORDER, Ordering, Status};
use super::validation::{Validation, word};
use crate::config::ChallengeKind;

#[derive(Deserialize)]
struct Authorization {
    status: Status,
    #[serde(default)]
    challenges: Vec<ChallengeObject>,
}

#[derive(Deserialize)]
struct ChallengeObject {
    #[serde(rename = "type")]
    kind: String,
    url: String,
    #[serde(default)]
    token: String,
    error: Option<ProblemDocument>,
}

impl Ordering<'_> {
    /// Proves that we serve the name.
    pub(super) fn authorize(
        &self,
        client: &mut AcmeClient,
        name: &str,
        kind: ChallengeKind,
        url: &str,
    ) -> Result<(), AcmeError> {
        let authorization: Authorization = parse(&client.post(url, "")?)?;
        if authorization.status == Status::Valid {
            return Ok(());
        }
        let refused = |problem| AcmeError::Refused(Refused::of_object(url, problem));
        let offered = authorization.challenges.iter();
        let Some(challenge) = offered.into_iter().find(|one| one.kind == word(kind)) else {
            let failed = authorization
                .challenges
                .into_iter()
                .find_map(|one| one.error);
            let none = || ProblemDocument::unknown(&format!("no challenge {}", word(kind)));
            return Err(refused(failed.unwrap_or_else(none)));
        };
        let response = client.key.authorization(&challenge.token);
        let validation = Validation {
            kind,
            name,
            token: &challenge.token,
            response: &response,
            digest: sha256(response.as_bytes()),
        };
        // Before it is shown here, since another proxy may be proving the same name.
        let mut shared = self.sharing.publish(&validation, self.pause)?;
        let shown = self.validations.show(&validation);
        let _shown = shown.map_err(AcmeError::Local)?;
        if let Some(shared) = &mut shared {
            shared.wait_for_others(name, self.pause)?;
        }
        client.post(&challenge.url, "{}")?;
        let deadline = Instant::now() + LONGEST_ORDER;
        let mut pause = FIRST_PAUSE;
        loop {
            let reply = client.post(url, "")?;
            let authorization: Authorization = parse(&reply)?;
            match authorization.status {
                Status::Valid => return Ok(()),
                Status::Pending | Status::Processing | Status::Ready => {}
                Status::Invalid => {
                    let failed = authorization.challenges.into_iter();
                    let failed = failed.filter_map(|one| Some((one.url, one.error?))).next();
                    let (url, problem) = failed.unwrap_or_else(|| {
                        (
                            url.to_owned(),
                            ProblemDocument::unknown("the authorization is invalid"),
                        )
                    });
                    return Err(AcmeError::Refused(Refused::of_object(&url, problem)));
                }
            }
            self.wait(&reply, &mut pause, deadline)?;
        }
    }
}
