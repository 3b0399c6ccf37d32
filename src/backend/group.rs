//! Counts connected backends, and logs when they connect or disconnect.
//!
//! A [`Group`] is the backends that sent the same key at the same dial-in address; they serve the same sites. The first
//! backend that connects or disconnects is logged at once. Those that follow within a second are counted, and reported
//! together ([`Journal::tick`]). So a group logs about two lines a second, however many backends come and go.
//!
//! Called by the dial-in thread when a backend connects, by the thread that closes one, and by the tick thread; never
//! per request.
//!
//! **Invariants**: all locks are leaves, and nothing is logged under them. A group is in the journal's list while it has
//! a burst.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write};
use std::mem;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::identity::BackendIdentity;
use crate::preamble::Id;
use crate::stats::Close;

/// The groups of a dial-in address, by key.
#[derive(Debug, Default)]
pub(super) struct Groups {
    journal: Weak<Journal>,
    by_key: Mutex<BTreeMap<Box<[u8]>, Arc<Group>>>,
}

/// The backends with one key.
#[derive(Debug)]
pub(super) struct Group {
    journal: Weak<Journal>,
    state: Mutex<GroupState>,
}

/// The groups with a burst, which may have to be reported.
#[derive(Debug, Default)]
pub struct Journal {
    bursts: Mutex<Vec<Arc<Group>>>,
}

/// The sites that a group serves, as they appear in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sites {
    text: Arc<str>,
    /// The target of log messages: the site, or the server if there are several sites.
    log: Arc<str>,
}

#[derive(Debug)]
struct GroupState {
    sites: Sites,
    /// The number of backends for each id; ids need not be unique.
    ids: HashMap<Id, usize>,
    connected: usize,
    burst: Option<ConnectionBurst>,
}

/// What has happened since the last log message.
#[derive(Debug)]
struct ConnectionBurst {
    /// When it is reported.
    due: Instant,
    connected: usize,
    disconnected: BTreeMap<&'static str, usize>,
    last: Option<Event>,
}

/// A backend has connected or disconnected.
#[derive(Clone, Debug)]
struct Event {
    backend: BackendIdentity,
    /// `None`: it has connected.
    reason: Option<Close>,
}

/// A log message.
#[derive(Debug)]
struct ConnectionLine {
    sites: Sites,
    text: String,
}

impl Groups {
    /// No groups. `journal`: that of the server.
    pub(super) fn new(journal: &Arc<Journal>) -> Self {
        Self {
            journal: Arc::downgrade(journal),
            by_key: Mutex::default(),
        }
    }

    /// Changes which keys exist and which sites they belong to. A group whose key was removed keeps its sites for its
    /// last messages.
    pub(super) fn set(&self, sites: &BTreeMap<Box<[u8]>, Sites>) {
        let mut by_key = self.by_key.lock();
        by_key.retain(|key, group| sites.contains_key(key) || group.connected() > 0);
        for (key, sites) in sites {
            match by_key.get(key) {
                Some(group) => group.state.lock().sites = sites.clone(),
                None => {
                    let group = Group::new(self.journal.clone(), sites.clone());
                    by_key.insert(key.clone(), Arc::new(group));
                }
            }
        }
    }

    /// The group of a key. `address`: its name if the key belongs to no site any more.
    pub(super) fn of(&self, key: &[u8], address: &str) -> Arc<Group> {
        let mut by_key = self.by_key.lock();
        if let Some(group) = by_key.get(key) {
            return Arc::clone(group);
        }
        let sites = Sites {
            text: address.into(),
            log: SERVER_LOG.into(),
        };
        let group = Arc::new(Group::new(self.journal.clone(), sites));
        by_key.insert(key.into(), Arc::clone(&group));
        group
    }

    /// The number of connected backends that sent one of these keys, and this id if given.
    pub(super) fn connected(&self, keys: &[Box<[u8]>], id: Option<&[u8]>) -> usize {
        let groups: Vec<_> = {
            let by_key = self.by_key.lock();
            let found = keys.iter().filter_map(|key| by_key.get(key));
            found.cloned().collect()
        };
        let count = |group: Arc<Group>| match id {
            None => group.connected(),
            Some(id) => Id::new(id).map_or(0, |id| {
                let state = group.state.lock();
                state.ids.get(&id).copied().unwrap_or_default()
            }),
        };
        groups.into_iter().map(count).sum()
    }
}

impl Group {
    fn new(journal: Weak<Journal>, sites: Sites) -> Self {
        Self {
            journal,
            state: Mutex::new(GroupState {
                sites,
                ids: HashMap::new(),
                connected: 0,
                burst: None,
            }),
        }
    }

    fn connected(&self) -> usize {
        self.state.lock().connected
    }

    /// A backend has connected, or was taken over from another process, which the log reports in another way.
    pub(super) fn join(self: &Arc<Self>, identity: &BackendIdentity, is_logged: bool) {
        self.add(Event::new(identity, None), is_logged);
    }

    /// A backend has disconnected, or was closed or handed over.
    pub(super) fn leave(self: &Arc<Self>, identity: &BackendIdentity, reason: Close) {
        let event = Event::new(identity, Some(reason));
        self.add(event, reason != Close::HandedOver);
    }

    fn add(self: &Arc<Self>, event: Event, is_logged: bool) {
        if !is_logged {
            self.state.lock().count(&event);
            return;
        }
        let now = Instant::now();
        let line = self.state.lock().add(event, now);
        if let Some(line) = line {
            if let Some(journal) = self.journal.upgrade() {
                journal.bursts.lock().push(Arc::clone(self));
            }
            line.log();
        }
    }
}

impl Journal {
    /// Logs the bursts that are due, or all of them (`at_once`).
    pub fn tick(&self, now: Instant, at_once: bool) {
        let bursts = mem::take(&mut *self.bursts.lock());
        for group in bursts {
            let (line, goes_on) = {
                let mut state = group.state.lock();
                let line = state.report(now, at_once);
                (line, state.burst.is_some())
            };
            if let Some(line) = line {
                line.log();
            }
            if goes_on {
                self.bursts.lock().push(group);
            }
        }
    }
}

impl Sites {
    /// The sites with these names. `log`: the target of a site's log messages.
    pub fn new(names: &[&str], log: impl Fn(&str) -> String) -> Self {
        let (text, log) = match names {
            [name] => (format!("site {name}"), log(name)),
            names => {
                let first = names[..names.len().min(MOST_NAMES)].join(", ");
                let more = match names.len().saturating_sub(MOST_NAMES) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                (format!("sites {first}{more}"), SERVER_LOG.to_owned())
            }
        };
        Self {
            text: text.into(),
            log: log.into(),
        }
    }
}

impl GroupState {
    /// Counts a backend that has come or gone.
    fn count(&mut self, event: &Event) {
        match event.reason {
            None => {
                self.connected += 1;
                *self.ids.entry(event.backend.id).or_default() += 1;
            }
            Some(_) => {
                self.connected -= 1;
                if let Some(count) = self.ids.get_mut(&event.backend.id) {
                    *count -= 1;
                    if *count == 0 {
                        self.ids.remove(&event.backend.id);
                    }
                }
            }
        }
    }

    /// Counts an event. Returns the message if it is logged at once.
    fn add(&mut self, event: Event, now: Instant) -> Option<ConnectionLine> {
        self.count(&event);
        if let Some(burst) = &mut self.burst {
            burst.add(event);
            return None;
        }
        self.burst = Some(ConnectionBurst::new(now));
        Some(self.line(&event))
    }

    /// What has happened since the last message, if that is due. After a burst without events, the next event is logged
    /// at once.
    fn report(&mut self, now: Instant, at_once: bool) -> Option<ConnectionLine> {
        let burst = self.burst.take_if(|burst| at_once || burst.due <= now)?;
        let last = burst.last.clone()?;
        if !at_once {
            self.burst = Some(ConnectionBurst::new(now));
        }
        Some(match burst.count() {
            1 => self.line(&last),
            _ => self.line(&burst),
        })
    }

    fn line(&self, what: &dyn fmt::Display) -> ConnectionLine {
        ConnectionLine {
            sites: self.sites.clone(),
            text: format!("{what}, {} now", self.connected),
        }
    }
}

impl Event {
    fn new(identity: &BackendIdentity, reason: Option<Close>) -> Self {
        Self {
            backend: identity.clone(),
            reason,
        }
    }
}

impl ConnectionBurst {
    fn new(now: Instant) -> Self {
        Self {
            due: now + BURST,
            connected: 0,
            disconnected: BTreeMap::new(),
            last: None,
        }
    }

    fn add(&mut self, event: Event) {
        match event.reason {
            None => self.connected += 1,
            Some(reason) => *self.disconnected.entry(reason.word()).or_default() += 1,
        }
        self.last = Some(event);
    }

    fn count(&self) -> usize {
        self.connected + self.disconnected.values().sum::<usize>()
    }
}

impl fmt::Display for Event {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = self.backend.label();
        match self.reason {
            None => write!(out, "{label} connected"),
            Some(reason) => write!(out, "{label} disconnected ({reason})"),
        }
    }
}

impl fmt::Display for ConnectionBurst {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disconnected: usize = self.disconnected.values().sum();
        let noun = |count| match count {
            1 => "more backend",
            _ => "more backends",
        };
        match (self.connected, disconnected) {
            (0, some) => write!(out, "{some} {} disconnected", noun(some))?,
            (some, 0) => return write!(out, "{some} {} connected", noun(some)),
            (some, others) => write!(
                out,
                "{some} {} connected and {others} disconnected",
                noun(some)
            )?,
        }
        for (index, (word, count)) in self.disconnected.iter().enumerate() {
            let before = if index == 0 { " (" } else { ", " };
            write!(out, "{before}{word} {count}")?;
        }
        out.write_char(')')
    }
}

impl ConnectionLine {
    fn log(&self) {
        log::info!(target: &self.sites.log, "{}: {}", self.sites.text, self.text);
    }
}

/// Events within this time after a message are counted and reported together.
const BURST: Duration = Duration::from_secs(1);
/// How many sites are named.
const MOST_NAMES: usize = 3;
/// The target of messages about no particular site.
const SERVER_LOG: &str = "swiftiply";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::stream::Peer;
    use crate::preamble::Name;

    fn event(reason: Option<Close>) -> Event {
        Event {
            backend: BackendIdentity::test(
                b"7f00000100\0\x1b",
                b"",
                Peer::Tcp(([127, 0, 0, 1], 5000).into()),
            ),
            reason,
        }
    }

    fn state() -> GroupState {
        let sites = Sites::new(&["a"], |name| format!("site:{name}"));
        let group = Group::new(Weak::new(), sites);
        group.state.into_inner()
    }

    fn text(line: Option<ConnectionLine>) -> Option<String> {
        line.map(|line| line.text)
    }

    #[test]
    fn bursts_are_logged_together() {
        let mut state = state();
        let start = Instant::now();
        let at = |seconds: f32| start + Duration::from_secs_f32(seconds);
        let closed = |reason| event(Some(reason));
        assert_eq!(
            text(state.add(event(None), start)).as_deref(),
            Some("backend 7f00000100\\x00\\x1b from 127.0.0.1:5000 connected, 1 now")
        );
        for _ in 0..299 {
            assert!(state.add(event(None), at(0.5)).is_none());
        }
        assert!(state.report(at(0.9), false).is_none());
        assert_eq!(
            text(state.report(at(1.0), false)).as_deref(),
            Some("299 more backends connected, 300 now")
        );
        // The whole name is logged with its abbreviation.
        let mut named = event(None);
        named.backend.name = Name::new("web3.example.com").ok();
        assert_eq!(
            named.to_string(),
            "backend 7f00000100\\x00\\x1b (web3.example.com) from 127.0.0.1:5000 connected"
        );
        // A longer burst is reported once a second.
        assert!(state.add(event(None), at(1.1)).is_none());
        assert!(state.add(closed(Close::PeerClosed), at(1.2)).is_none());
        assert!(state.add(closed(Close::BackendFailed), at(1.3)).is_none());
        assert!(state.add(closed(Close::PeerClosed), at(1.4)).is_none());
        assert!(state.report(at(1.9), false).is_none());
        assert_eq!(
            text(state.report(at(2.0), false)).as_deref(),
            Some(
                "1 more backend connected and 3 disconnected (backend_failed 1, peer_closed 2), 298 now"
            )
        );
        // A single event is reported in full.
        assert!(state.add(closed(Close::Junk), at(2.5)).is_none());
        assert_eq!(
            text(state.report(at(3.0), false)).as_deref(),
            Some("backend 7f00000100\\x00\\x1b from 127.0.0.1:5000 disconnected (junk), 297 now")
        );
        // After a second without events, the next one is logged at once.
        assert!(state.report(at(4.0), false).is_none());
        assert!(state.add(closed(Close::Removed), at(4.1)).is_some());
        for _ in 0..296 {
            assert!(state.add(closed(Close::Draining), at(4.2)).is_none());
        }
        assert_eq!(
            text(state.report(at(4.2), true)).as_deref(),
            Some("296 more backends disconnected (draining 296), 0 now")
        );
        assert!(state.ids.is_empty() && state.burst.is_none());
    }

    #[test]
    fn sites_that_share_backends_are_named_together() {
        let check = |names: &[&str], text: &str, log: &str| {
            let sites = Sites::new(names, |name| format!("site:{name}"));
            assert_eq!((&*sites.text, &*sites.log), (text, log));
        };
        check(&["a"], "site a", "site:a");
        check(&["a", "b"], "sites a, b", SERVER_LOG);
        check(
            &["a", "b", "c", "d", "e"],
            "sites a, b, c and 2 more",
            SERVER_LOG,
        );
    }

    #[test]
    fn removed_key_keeps_its_sites_for_the_log() {
        let journal = Arc::new(Journal::default());
        let groups = Groups::new(&journal);
        let sites = |name| Sites::new(&[name], |name| format!("site:{name}"));
        let known = |pairs: &[(&str, &'static str)]| {
            let pairs = pairs.iter();
            let pairs = pairs.map(|(key, name)| (key.as_bytes().into(), sites(name)));
            pairs.collect::<BTreeMap<Box<[u8]>, _>>()
        };
        let keys: [Box<[u8]>; 2] = [b"one", b"two"].map(|key| key.as_slice().into());
        groups.set(&known(&[("one", "a"), ("two", "b")]));
        let backend = |id: &[u8]| BackendIdentity::test(id, b"", Peer::Unix);
        let (one, two) = (groups.of(b"one", "x"), groups.of(b"two", "x"));
        one.join(&backend(b"id"), true);
        two.join(&backend(b"id"), true);
        two.join(&backend(b"other"), true);
        assert_eq!(groups.connected(&keys, None), 3);
        assert_eq!(groups.connected(&keys, Some(b"id")), 2);
        assert_eq!(groups.connected(&keys[1..], Some(b"other")), 1);
        assert_eq!(groups.connected(&keys, Some(b"none")), 0);
        groups.set(&known(&[("two", "c")]));
        assert_eq!(one.state.lock().sites, sites("a"));
        assert_eq!(two.state.lock().sites, sites("c"));
        assert_eq!(groups.connected(&keys, None), 3);
        one.leave(&backend(b"id"), Close::Removed);
        groups.set(&known(&[("two", "c")]));
        assert_eq!(groups.by_key.lock().len(), 1);
        assert_eq!(journal.bursts.lock().len(), 2);
        journal.tick(Instant::now(), true);
        assert!(journal.bursts.lock().is_empty());
    }
}
