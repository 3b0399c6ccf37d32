//! Tries whether names would get certificates, without obtaining any: orders are left unfinished when the authority has
//! validated the names.

use std::time::{Duration, Instant};

use super::client::{AcmeClient, AcmeError};
use super::listing::Trial;
use super::order::Ordering;
use super::validation::word;

/// Tries names one after the other, for ten minutes at most.
pub(super) fn run(ordering: &Ordering<'_>, names: &[String]) -> Vec<Trial> {
    let deadline = Instant::now() + LONGEST;
    let opened = open(ordering);
    let (mut client, _lock) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            let error = error.to_string();
            let failed = names.iter().map(|name| failed(name, error.clone()));
            return failed.collect();
        }
    };
    let trials = names.iter().map(|name| match Instant::now() < deadline {
        true => one(ordering, &mut client, name),
        false => failed(name, "not tried: the other names took too long".to_owned()),
    });
    trials.collect()
}

/// Connects to the authority as the account, and takes the lock of its directory.
fn open(ordering: &Ordering<'_>) -> Result<(AcmeClient, std::fs::File), AcmeError> {
    let store = ordering.store;
    store.create().map_err(AcmeError::Local)?;
    let lock = store.lock().map_err(AcmeError::Local)?;
    let lock = lock.ok_or(AcmeError::Busy)?;
    Ok((ordering.connect()?, lock))
}

/// Tries a name by each kind of challenge, as an order would, until one succeeds.
fn one(ordering: &Ordering<'_>, client: &mut AcmeClient, name: &str) -> Trial {
    let mut errors = Vec::new();
    for kind in &ordering.acme.challenges {
        match ordering.prove(client, name, *kind) {
            Ok(()) => {
                return Trial {
                    name: name.to_owned(),
                    challenge: Some(word(*kind)),
                    error: (!errors.is_empty()).then(|| errors.join("; ")),
                };
            }
            Err(error) => {
                errors.push(format!("{}: {error}", word(*kind)));
                if !error.is_validation() {
                    break;
                }
            }
        }
    }
    failed(name, errors.join("; "))
}

fn failed(name: &str, error: String) -> Trial {
    Trial {
        name: name.to_owned(),
        challenge: None,
        error: Some(error),
    }
}

/// When no further name is tried.
const LONGEST: Duration = Duration::from_secs(600);
