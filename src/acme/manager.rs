//! The names that get certificates, and the thread `acme`, which obtains and renews them one after the other.
//!
//! A name has a certificate at any time: a self-signed one until there is a better one. An error leaves the one that is in
//! use, is logged, and is followed by another attempt. A reload begins the attempts again.
//!
//! **Invariants**: the lock is not held during a request or a write to disk; certificates of names that a reload has
//! removed are not installed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::ask::{NextQuestion, OnDemandLimits};
use super::challenges::Challenges;
use super::client::AcmeError;
use super::dry_run;
use super::keys;
use super::listing::{ManagedCertificate, Trial};
use super::managed::{CertificateSource, ManagedName, Settings};
use super::order::{Ordering, ask_when};
use super::schedule::{pause, random};
use super::sharing::Sharing;
use super::store::Store;
use super::validation::Validations;
use crate::config::{AcmeConfig, ChallengeKind, Config, Redis, SiteTls};
use crate::http::date;
use crate::net::tls::{Certificate, OnDemandNames, SiteCertificates};

/// The certificates that the server obtains or makes.
pub struct Manager {
    pub(super) state: Mutex<ManagerState>,
    /// Something has changed that the thread waits for.
    pub(super) changed: Condvar,
    pub(super) validations: Validations,
    sharing: Arc<Sharing>,
    /// Held by the thread, or a dry run, while it orders: a name has one validation at a time.
    ordering: Mutex<()>,
}

#[derive(Default)]
pub(super) struct ManagerState {
    pub(super) settings: Option<Arc<Settings>>,
    pub(super) names: BTreeMap<String, ManagedName>,
    pub(super) limits: OnDemandLimits,
    is_stopping: bool,
    /// The thread does something other than to wait for the next time.
    is_busy: bool,
}

/// A new set of names, with their certificates, that is not in use yet.
pub struct PreparedNames {
    settings: Arc<Settings>,
    names: BTreeMap<String, ManagedName>,
    on_demand: OnDemandNames,
    /// For clients that ask for a name without a certificate, if there is no other one.
    fallback: Option<Certificate>,
    /// Through which challenges are shared.
    redis: Option<Redis>,
}

impl PreparedNames {
    /// Whether there is something for the thread to do.
    pub fn need_thread(&self) -> bool {
        !self.names.is_empty() || !self.on_demand.is_empty()
    }
}

impl Manager {
    /// Without names yet.
    pub fn new(sites: Arc<SiteCertificates>, challenges: Arc<Challenges>) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            sharing: Sharing::new(&challenges, &sites),
            validations: Validations { challenges, sites },
            ordering: Mutex::default(),
        }
    }

    /// Reads the certificates of all names that the configuration gives to the server, and makes those that are missing.
    /// Creates directories, and changes nothing else.
    ///
    /// # Errors
    /// A directory or file that cannot be used, and the reason.
    pub fn prepare(&self, config: &Config) -> Result<PreparedNames, String> {
        let mut acme = config.acme.clone();
        // The proof by a response needs a port without TLS.
        let has_plain = config.listen.iter().any(|at| !config.secure.contains(at));
        if !has_plain {
            acme.challenges
                .retain(|kind| *kind != ChallengeKind::Http01);
        }
        let settings = Arc::new(Settings {
            acme,
            state_directory: config.state_directory.clone(),
        });
        let known = {
            let state = self.state.lock();
            let is_same = state.settings.as_ref() == Some(&settings);
            if is_same {
                state.names.clone()
            } else {
                BTreeMap::new()
            }
        };
        let now = SystemTime::now();
        let mut names = BTreeMap::new();
        for site in &config.sites {
            let source = match site.tls {
                Some(SiteTls::Auto | SiteTls::OnDemand) => CertificateSource::Authority,
                Some(SiteTls::Internal) => CertificateSource::Internal,
                _ => continue,
            };
            settings.store(source).create()?;
            let is_pattern = |name: &String| name.starts_with("*.");
            let is_internal = source == CertificateSource::Internal;
            for name in (site.incoming.iter()).filter(|name| is_internal || !is_pattern(name)) {
                let known = known.get(name).filter(|known| known.source == source);
                let mut entry = match (known, source) {
                    (Some(known), _) => known.clone(),
                    (None, CertificateSource::Authority) => settings.obtained(name, now)?,
                    (None, CertificateSource::Internal) => settings.issued(name, now)?,
                };
                entry.is_on_demand = false;
                entry.try_at_once(now);
                names.insert(name.clone(), entry);
            }
        }
        let on_demand = OnDemandNames::new(config);
        let mut fallback = None;
        if !on_demand.is_empty() {
            for (name, mut entry) in known {
                if entry.is_on_demand && on_demand.has(&name) {
                    entry.try_at_once(now);
                    names.insert(name, entry);
                }
            }
            names.extend(settings.kept_on_demand(&on_demand, &names, now)?);
            let made = keys::temporary("default");
            fallback = Some(made.map_err(|why| format!("tls: on_demand: {why}"))?);
        }
        Ok(PreparedNames {
            settings,
            names,
            on_demand,
            fallback,
            redis: config.challenge_redis().cloned(),
        })
    }

    /// Puts names into use, besides those whose certificates come from files. `first` is the name for clients that send
    /// none, or an unknown one.
    pub fn commit(
        &self,
        prepared: PreparedNames,
        mut certificates: Vec<(String, Certificate)>,
        first: String,
    ) {
        let mut state = self.state.lock();
        let PreparedNames {
            settings,
            mut names,
            on_demand,
            fallback,
            redis,
        } = prepared;
        if state.settings.as_ref() == Some(&settings) {
            // Clients may have asked for others meanwhile.
            for (name, entry) in &state.names {
                if entry.is_on_demand && on_demand.has(name) && !names.contains_key(name) {
                    names.insert(name.clone(), entry.clone());
                }
            }
        }
        for (name, entry) in &mut names {
            // The thread may have got a better one meanwhile.
            if let Some(now) = state.names.get(name)
                && now.source == entry.source
                && state.settings.as_ref() == Some(&settings)
                && !now.is_temporary
            {
                entry.certificate = now.certificate.clone();
                entry.is_temporary = false;
                entry.renewal = now.renewal;
            }
            // Handshakes wait for those that are being ordered.
            if !(entry.is_on_demand && entry.is_temporary && entry.failures == 0) {
                certificates.push((name.clone(), entry.certificate.clone()));
            }
        }
        self.validations.sites.set(certificates, first, fallback);
        self.validations.sites.on_demand().set(on_demand);
        let new = names
            .iter()
            .filter(|(name, _)| !state.names.contains_key(*name));
        let mut new: Vec<_> = new
            .map(|(name, entry)| (name.clone(), entry.clone()))
            .collect();
        let authority = settings.acme.directory.clone();
        state.names = names;
        state.settings = Some(settings);
        drop(state);
        self.sharing.set(redis);
        let asked_for = new.iter().filter(|(_, entry)| entry.is_on_demand).count();
        if asked_for > 0 {
            log::info!("tls: on_demand: {asked_for} certificates were obtained before");
        }
        new.retain(|(_, entry)| !entry.is_on_demand);
        for (name, entry) in new {
            let until = date::text(entry.certificate.facts().not_after);
            match entry.is_temporary {
                false => log::info!("certificate {name}: valid until {until}"),
                true => log::warn!(
                    "certificate {name}: there is none yet; ordering one from {authority}, a self-signed one is used until then"
                ),
            }
        }
        self.changed.notify_all();
    }

    /// The certificates of all names.
    pub fn list(&self) -> Vec<ManagedCertificate> {
        let state = self.state.lock();
        let names = state.names.iter();
        let listed = names.map(|(name, entry)| ManagedCertificate {
            name: name.clone(),
            is_obtained: entry.source == CertificateSource::Authority,
            is_temporary: entry.is_temporary,
            is_on_demand: entry.is_on_demand,
            facts: entry.certificate.facts().clone(),
            renewal: match entry.error {
                Some(_) => entry.due,
                None => entry.renewal,
            },
            error: entry.error.clone(),
        });
        listed.collect()
    }

    /// Whether an authority may be validating a name now, by either kind of challenge.
    pub fn is_validating(&self) -> bool {
        self.validations.challenges.is_pending() || self.validations.sites.is_validating()
    }

    /// Tries whether names would get certificates, on the thread of the caller, which waits. Returns the URL of the
    /// authority that was asked, and what came of it for each name.
    pub fn dry_run(&self, names: &[String]) -> (String, Vec<Trial>) {
        let settings = self.state.lock().settings.clone();
        let Some(settings) = settings else {
            return (String::new(), Vec::new());
        };
        let mut acme = settings.acme.clone();
        if acme.directory == AcmeConfig::default().directory {
            STAGING.clone_into(&mut acme.directory);
        }
        let store = Store::of_authority(&settings.state_directory, &acme.directory);
        let pause = |time| self.pause(time);
        let ordering = Ordering {
            acme: &acme,
            store: &store,
            validations: &self.validations,
            sharing: &self.sharing,
            pause: &pause,
        };
        let _alone = self.ordering.lock();
        let trials = dry_run::run(&ordering, names);
        (acme.directory, trials)
    }

    /// Obtains and renews certificates until it is stopped. Runs on the thread `acme`.
    pub fn run(self: &Arc<Self>) {
        self.listen_to_clients();
        while let Some((name, entry, settings)) = self.next() {
            let renewed = match entry.source {
                CertificateSource::Authority => {
                    let _alone = self.ordering.lock();
                    self.renew(&name, &entry, &settings)
                }
                CertificateSource::Internal => settings
                    .make(&name, SystemTime::now())
                    .map_err(AcmeError::Local),
            };
            self.finish(&name, &entry, &settings, renewed);
        }
    }

    /// Takes over what an attempt has resulted in.
    fn finish(
        &self,
        name: &str,
        entry: &ManagedName,
        settings: &Arc<Settings>,
        renewed: Result<ManagedName, AcmeError>,
    ) {
        let sites = &self.validations.sites;
        let mut state = self.state.lock();
        state.is_busy = false;
        let is_current = state.settings.as_ref() == Some(settings);
        let current = state.names.get_mut(name);
        let current = current.filter(|current| is_current && current.source == entry.source);
        let Some(current) = current else {
            return sites.on_demand().settle(name);
        };
        match renewed {
            Ok(next) => {
                match current.is_on_demand {
                    true => sites.insert(name, &next.certificate),
                    false => sites.replace(name, &next.certificate),
                }
                let is_on_demand = current.is_on_demand;
                *current = ManagedName {
                    is_on_demand,
                    is_allowed: false,
                    ..next
                };
            }
            Err(AcmeError::Stopped) => {}
            Err(AcmeError::Busy) => {
                current.due = SystemTime::now() + BUSY;
                return;
            }
            Err(AcmeError::NotAllowed) => self.disallow(state, name),
            Err(error) => {
                current.failures = current.failures.saturating_add(1);
                current.is_allowed = false;
                let wanted = error.retry_after();
                let pause = pause(current.failures, error.is_refusal(), wanted, random());
                current.due = SystemTime::now() + pause;
                current.error = Some(error.to_string());
                let is_temporary = current.is_temporary;
                let expiry = current.certificate.facts().not_after;
                if current.is_on_demand {
                    sites.insert(name, &current.certificate);
                }
                drop(state);
                report(name, &error, pause, is_temporary, expiry);
            }
        }
        sites.on_demand().settle(name);
    }

    /// Ends the thread at once, except for a request that is under way. Returns whether there is none.
    pub fn stop(&self) -> bool {
        let mut state = self.state.lock();
        state.is_stopping = true;
        let is_busy = state.is_busy;
        drop(state);
        self.changed.notify_all();
        self.sharing.stop();
        !is_busy
    }

    /// Waits a moment until challenges are not shared any more, after [`Manager::stop`].
    pub fn join(&self) {
        self.sharing.join();
    }

    /// Waits for the next name that is due; `None`: the server is stopping.
    fn next(&self) -> Option<(String, ManagedName, Arc<Settings>)> {
        let mut state = self.state.lock();
        loop {
            if state.is_stopping {
                return None;
            }
            let until_question = match self.next_question(&mut state) {
                NextQuestion::Unknown => LONGEST_WAIT,
                NextQuestion::After(wait) => wait,
                NextQuestion::Now(question) => {
                    state.is_busy = true;
                    MutexGuard::unlocked(&mut state, || self.decide(&question));
                    state.is_busy = false;
                    continue;
                }
            };
            let now = SystemTime::now();
            let first = state.names.iter().min_by_key(|(_, entry)| entry.rank(now));
            let wait = match (first, &state.settings) {
                (Some((name, entry)), Some(settings)) if entry.due <= now => {
                    let next = (name.clone(), entry.clone(), Arc::clone(settings));
                    state.is_busy = true;
                    return Some(next);
                }
                (Some((_, entry)), _) => entry.due.duration_since(now).unwrap_or_default(),
                (None, _) => LONGEST_WAIT,
            };
            // Not too long, since the clock may be set meanwhile.
            let wait = wait.min(until_question).min(LONGEST_WAIT);
            self.changed.wait_for(&mut state, wait);
        }
    }

    /// Waits for a moment in the middle of an order.
    fn pause(&self, time: Duration) -> Result<(), AcmeError> {
        let mut state = self.state.lock();
        let wait = |state: &mut ManagerState| !state.is_stopping;
        self.changed.wait_while_for(&mut state, wait, time);
        match state.is_stopping {
            true => Err(AcmeError::Stopped),
            false => Ok(()),
        }
    }

    /// Waits for a moment in the middle of an order, and meanwhile decides about names that clients ask for.
    fn pause_of_order(&self, time: Duration) -> Result<(), AcmeError> {
        let until = Instant::now() + time;
        let mut state = self.state.lock();
        while !state.is_stopping {
            let mut wait = until.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                return Ok(());
            }
            match self.next_question(&mut state) {
                NextQuestion::Unknown => {}
                NextQuestion::After(question) => wait = wait.min(question),
                NextQuestion::Now(question) => {
                    MutexGuard::unlocked(&mut state, || self.decide(&question));
                    continue;
                }
            }
            self.changed.wait_for(&mut state, wait);
        }
        Err(AcmeError::Stopped)
    }

    /// Renews the certificate of a name if that is due, or asks the authority when it will be; returns the new state.
    fn renew(
        &self,
        name: &str,
        entry: &ManagedName,
        settings: &Settings,
    ) -> Result<ManagedName, AcmeError> {
        let store = settings.store(CertificateSource::Authority);
        let pause = |time| self.pause_of_order(time);
        let ordering = Ordering {
            acme: &settings.acme,
            store: &store,
            validations: &self.validations,
            sharing: &self.sharing,
            pause: &pause,
        };
        let now = SystemTime::now();
        if !entry.is_temporary && now < entry.renewal {
            return Ok(ask_when(name, entry, &ordering, now));
        }
        Self::ask_again(name, entry, settings)?;
        let Some(_lock) = store.lock().map_err(AcmeError::Local)? else {
            return Err(AcmeError::Busy);
        };
        // Another process may have obtained one.
        if let Ok(other) = settings.obtained(name, now)
            && !other.is_temporary
            && (entry.is_temporary
                || other.certificate.facts().not_after > entry.certificate.facts().not_after)
            && now < other.renewal
        {
            return Ok(other);
        }
        let replaces = (!entry.is_temporary).then(|| entry.certificate.facts());
        let mut client = ordering.connect()?;
        let text = ordering.obtain(&mut client, name, replaces)?;
        let certificate = keys::certificate(&text).map_err(|why| {
            AcmeError::Unreached(
                settings.acme.directory.clone(),
                format!("its certificate: {why}"),
            )
        })?;
        store
            .write(&store.certificate(name), &text)
            .map_err(AcmeError::Local)?;
        store.remove(&store.order(name));
        let next = ManagedName::new(CertificateSource::Authority, certificate, SystemTime::now());
        let until = date::text(next.certificate.facts().not_after);
        log::info!("certificate {name}: obtained, valid until {until}");
        Ok(ask_when(name, &next, &ordering, SystemTime::now()))
    }
}

/// Logs that there is no new certificate.
fn report(name: &str, error: &AcmeError, pause: Duration, is_temporary: bool, expiry: SystemTime) {
    let pause = match pause.as_secs() {
        seconds @ 0..120 => format!("{} s", seconds.max(1)),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    };
    let meanwhile = match is_temporary {
        true => "a self-signed one is used until then".to_owned(),
        false => format!("the present one is valid until {}", date::text(expiry)),
    };
    log::error!("certificate {name}: not obtained: {error}; trying again in {pause}; {meanwhile}");
}

/// The longest wait for the next time, in case the clock is set.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// The directory that Let's Encrypt has for trials, whose limits are wider.
const STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";
/// The pause when another process orders certificates.
const BUSY: Duration = Duration::from_secs(2);
