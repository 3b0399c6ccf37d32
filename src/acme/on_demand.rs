//! Names that clients ask for (`tls: on_demand`): each is put to `acme.ask`, and gets a certificate if that allows it.
//!
//! This runs on the thread `acme`, also in the pauses of an order, so that a name which is refused need not wait for the
//! orders of others. The number of questions and of orders in a time is limited.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::MutexGuard;

use super::ask::{BETWEEN_QUESTIONS, MOST_ORDERS, NextQuestion, Question, ask};
use super::client::AcmeError;
use super::managed::{CertificateSource, ManagedName, Settings};
use super::manager::{Manager, ManagerState};
use crate::http::date;
use crate::net::tls::OnDemandNames;

/// Wakes the thread when a client asks for a name.
struct ManagerWaker(Weak<Manager>);

impl Wake for ManagerWaker {
    fn wake(self: Arc<Self>) {
        if let Some(manager) = self.0.upgrade() {
            // With the lock, so that the thread does not begin to wait just now.
            drop(manager.state.lock());
            manager.changed.notify_all();
        }
    }
}

impl Settings {
    /// The names of this kind whose certificates were obtained before and are still valid, except those that are `known`.
    ///
    /// # Errors
    /// The directory, and the reason why it cannot be read.
    pub(super) fn kept_on_demand(
        &self,
        wanted: &OnDemandNames,
        known: &BTreeMap<String, ManagedName>,
        now: SystemTime,
    ) -> Result<Vec<(String, ManagedName)>, String> {
        let names = self
            .store(CertificateSource::Authority)
            .names()?
            .into_iter();
        let names = names.filter(|name| wanted.has(name) && !known.contains_key(name));
        let kept = names.filter_map(|name| {
            let entry = self.kept(&name, now).unwrap_or_else(|why| {
                log::error!("certificate {name}: {why}");
                None
            })?;
            let is_valid = now < entry.certificate.facts().not_after;
            let is_on_demand = true;
            is_valid.then_some((
                name,
                ManagedName {
                    is_on_demand,
                    ..entry
                },
            ))
        });
        Ok(kept.collect())
    }
}

impl Manager {
    /// Lets clients that ask for a name wake the thread.
    pub(super) fn listen_to_clients(self: &Arc<Self>) {
        let waker = Arc::new(ManagerWaker(Arc::downgrade(self)));
        let queue = self.validations.sites.on_demand();
        queue.wake_with(Waker::from(waker));
    }

    /// The next question. It has to be passed to [`Manager::decide`] without the lock.
    pub(super) fn next_question(&self, state: &mut ManagerState) -> NextQuestion {
        let queue = self.validations.sites.on_demand();
        let Some(settings) = state.settings.as_ref().filter(|_| queue.has_names()) else {
            return NextQuestion::Unknown;
        };
        let now = Instant::now();
        if let Some(next) = state.limits.next_question
            && now < next
        {
            return NextQuestion::After(next - now);
        }
        let Some(name) = queue.take() else {
            return NextQuestion::Unknown;
        };
        state.limits.next_question = Some(now + BETWEEN_QUESTIONS);
        NextQuestion::Now(Question {
            name,
            settings: Arc::clone(settings),
        })
    }

    /// Asks whether a name may have a certificate, and adds it if it may.
    pub(super) fn decide(&self, question: &Question) {
        let Question { name, settings } = question;
        let queue = self.validations.sites.on_demand();
        let asked = ask(&settings.acme, name);
        let was_down = {
            let mut state = self.state.lock();
            std::mem::replace(&mut state.limits.is_ask_down, asked.is_err())
        };
        match asked {
            Ok(true) => self.add_on_demand(name, settings),
            Ok(false) => queue.refuse(name, Instant::now()),
            Err(error) => {
                queue.settle(name);
                queue.pause(Instant::now() + ASK_DOWN);
                match was_down {
                    true => log::debug!("acme.ask: {error}"),
                    false => log::error!(
                        "acme.ask: {error}; no certificate is ordered for {name}, nor for other names that clients ask for"
                    ),
                }
            }
        }
    }

    /// Adds a name that was allowed, with the certificate that is kept for it. If there is none, it is ordered next.
    fn add_on_demand(&self, name: &str, settings: &Arc<Settings>) {
        let sites = &self.validations.sites;
        let now = SystemTime::now();
        let is_valid = |entry: &ManagedName| now < entry.certificate.facts().not_after;
        let entry = match settings.kept(name, now) {
            Ok(Some(entry)) if is_valid(&entry) => Ok(entry),
            Ok(_) => Settings::temporary(name, now),
            Err(why) => Err(format!("certificate {name}: {why}")),
        };
        let mut state = self.state.lock();
        let is_current = state.settings.as_ref() == Some(settings);
        if !is_current || !sites.on_demand().allows(name) {
            drop(state);
            return sites.on_demand().settle(name);
        }
        if let Some(known) = state.names.get_mut(name) {
            // After a reload, one that has failed before is ordered again.
            let is_next = known.is_temporary && known.failures == 0;
            known.is_allowed = is_next;
            drop(state);
            if !is_next {
                sites.on_demand().settle(name);
            }
            return;
        }
        let entry = match entry {
            Ok(entry) => ManagedName {
                is_on_demand: true,
                is_allowed: entry.is_temporary,
                ..entry
            },
            Err(why) => {
                drop(state);
                log::error!("{why}");
                return sites.on_demand().settle(name);
            }
        };
        if !entry.is_temporary {
            sites.insert(name, &entry.certificate);
            sites.on_demand().settle(name);
            let until = date::text(entry.certificate.facts().not_after);
            state.names.insert(name.to_owned(), entry);
            drop(state);
            return log::info!("certificate {name}: valid until {until}");
        }
        if let Err(pause) = state.limits.order(Instant::now()) {
            drop(state);
            sites.on_demand().settle(name);
            sites.on_demand().pause(Instant::now() + pause);
            return log::error!(
                "tls: on_demand: {MOST_ORDERS} certificates were ordered within an hour; none is ordered for {name}, nor for \
                 other names that clients ask for, for the next {} min",
                pause.as_secs().div_ceil(60)
            );
        }
        state.names.insert(name.to_owned(), entry);
        drop(state);
        let authority = &settings.acme.directory;
        log::info!("certificate {name}: allowed by acme.ask; ordering one from {authority}");
    }

    /// Asks again before a name is ordered or renewed.
    ///
    /// # Errors
    /// The name is not allowed any more, or there was no response.
    pub(super) fn ask_again(
        name: &str,
        entry: &ManagedName,
        settings: &Settings,
    ) -> Result<(), AcmeError> {
        if !entry.is_on_demand || entry.is_allowed || ask(&settings.acme, name)? {
            return Ok(());
        }
        Err(AcmeError::NotAllowed)
    }

    /// A name is not allowed any more: it is removed, once it has no certificate that is valid.
    pub(super) fn disallow(&self, mut state: MutexGuard<'_, ManagerState>, name: &str) {
        let sites = &self.validations.sites;
        let now = SystemTime::now();
        let Some(entry) = state.names.get_mut(name) else {
            return;
        };
        let expiry = entry.certificate.facts().not_after;
        let is_kept = !entry.is_temporary && now < expiry;
        if is_kept {
            entry.due = expiry.min(now + DAY);
            entry.error = Some(AcmeError::NotAllowed.to_string());
        } else {
            state.names.remove(name);
            sites.remove(name);
        }
        drop(state);
        match is_kept {
            true => log::warn!(
                "certificate {name}: acme.ask does not allow it any more; not renewed, the present one is valid until {}",
                date::text(expiry)
            ),
            false => {
                sites.on_demand().refuse(name, Instant::now());
                log::warn!("certificate {name}: acme.ask does not allow it any more; removed");
            }
        }
    }
}

/// How long clients that ask for names get no certificate after `acme.ask` did not respond.
const ASK_DOWN: Duration = Duration::from_secs(5);
/// When to ask again whether a name may be renewed.
const DAY: Duration = Duration::from_secs(24 * 3600);
