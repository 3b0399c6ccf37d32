//! How many backends are connected, and the lines in the log when one connects or disconnects.
//!
//! A [`Group`] has the backends that sent the same key at the same dial-in address, which serve the same sites. The first
//! one that connects or disconnects is logged at once. Those that follow within a second are counted, and one line reports
//! them ([`Journal::tick`]): there are about two lines a second for a group, however many backends come and go.
//!
//! Called by the dial-in thread when a backend joins, by whichever thread closes one, and by the tick thread. Nothing here is
//! called for each request.
//!
//! **Invariants**: all locks are leaves, and nothing is logged under them; a group is in the list of the journal while it has
//! a burst.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write};
use std::mem;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::net::stream::Peer;
use crate::preamble::Id;
use crate::stats::Close;

/// The groups of a dial-in address, by key.
#[derive(Debug, Default)]
pub(super) struct Groups {
    journal: Weak<Journal>,
    by_key: Mutex<BTreeMap<Box<[u8]>, Arc<Group>>>,
}

/// Backends of one key.
#[derive(Debug)]
pub(super) struct Group {
    journal: Weak<Journal>,
    state: Mutex<GroupState>,
}

/// The groups for which a line may be due.
#[derive(Debug, Default)]
pub struct Journal {
    bursts: Mutex<Vec<Arc<Group>>>,
}

/// The sites that a group serves, as the log names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sites {
    text: Arc<str>,
    /// Target of log lines: that of the site, or of the server if there are several sites.
    log: Arc<str>,
}

#[derive(Debug)]
struct GroupState {
    sites: Sites,
    /// Backends by id, which need not be unique.
    ids: HashMap<Id, usize>,
    connected: usize,
    burst: Option<ConnectionBurst>,
}

/// What has happened since the last line.
#[derive(Debug)]
struct ConnectionBurst {
    /// When it is reported.
    due: Instant,
    connected: usize,
    disconnected: BTreeMap<&'static str, usize>,
    last: Option<Event>,
}

/// A backend has connected or disconnected.
#[derive(Clone, Copy, Debug)]
struct Event {
    id: Id,
    peer: Peer,
    /// `None`: it has connected.
    reason: Option<Close>,
}

/// A line for the log.
#[derive(Debug)]
struct ConnectionLine {
    sites: Sites,
    text: String,
}

impl Groups {
    /// None so far. `journal`: that of the server.
    pub(super) fn new(journal: &Arc<Journal>) -> Self {
        Self {
            journal: Arc::downgrade(journal),
            by_key: Mutex::default(),
        }
    }

    /// Changes which keys there are and which sites have them. A group whose key is gone keeps its sites, for its last lines.
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

    /// The group of a key. `address`: its name if it has no site any more.
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

    /// How many backends are connected that sent one of these keys, and this id if there is one.
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

    /// A backend has connected.
    pub(super) fn join(self: &Arc<Self>, id: Id, peer: Peer) {
        self.add(Event {
            id,
            peer,
            reason: None,
        });
    }

    /// A backend that had connected has disconnected, or was closed.
    pub(super) fn leave(self: &Arc<Self>, id: Id, peer: Peer, reason: Close) {
        self.add(Event {
            id,
            peer,
            reason: Some(reason),
        });
    }

    fn add(self: &Arc<Self>, event: Event) {
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
    /// Logs what has happened in groups whose time is over, or in all of them (`at_once`).
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
    /// For sites with these names. `log`: the target of the log lines of a site.
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
    /// Counts it. Returns the line that is due at once.
    fn add(&mut self, event: Event, now: Instant) -> Option<ConnectionLine> {
        match event.reason {
            None => {
                self.connected += 1;
                *self.ids.entry(event.id).or_default() += 1;
            }
            Some(_) => {
                self.connected -= 1;
                if let Some(count) = self.ids.get_mut(&event.id) {
                    *count -= 1;
                    if *count == 0 {
                        self.ids.remove(&event.id);
                    }
                }
            }
        }
        if let Some(burst) = &mut self.burst {
            burst.add(event);
            return None;
        }
        self.burst = Some(ConnectionBurst::new(now));
        Some(self.line(&event))
    }

    /// What has happened since the last line, if that is due. When nothing has, the next backend is logged at once again.
    fn report(&mut self, now: Instant, at_once: bool) -> Option<ConnectionLine> {
        let burst = self.burst.take_if(|burst| at_once || burst.due <= now)?;
        let last = burst.last?;
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
        let Self { id, peer, reason } = self;
        write!(out, "backend {id} from {peer} ")?;
        match reason {
            None => out.write_str("connected"),
            Some(reason) => write!(out, "disconnected ({reason})"),
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

/// Backends that connect or disconnect within this time after a line are counted, and reported together.
const BURST: Duration = Duration::from_secs(1);
/// So many sites are named.
const MOST_NAMES: usize = 3;
/// The target of lines for no particular site.
const SERVER_LOG: &str = "swiftiply";

#[cfg(test)]
mod tests {
    use super::*;

    fn event(reason: Option<Close>) -> Event {
        Event {
            id: Id::new(b"7f00000100\0\x1b").unwrap(),
            peer: Peer::Tcp(([127, 0, 0, 1], 5000).into()),
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
    fn the_first_one_is_logged_at_once_and_the_rest_of_a_second_together() {
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
        // A burst that goes on has a line a second.
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
        // One that is alone is named.
        assert!(state.add(closed(Close::Junk), at(2.5)).is_none());
        assert_eq!(
            text(state.report(at(3.0), false)).as_deref(),
            Some("backend 7f00000100\\x00\\x1b from 127.0.0.1:5000 disconnected (junk), 297 now")
        );
        // After a second without any, the next one is logged at once.
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
    fn a_group_keeps_its_sites_until_its_last_backend_is_gone() {
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
        let (id, peer) = (Id::new(b"id").unwrap(), Peer::Unix);
        let (one, two) = (groups.of(b"one", "x"), groups.of(b"two", "x"));
        one.join(id, peer);
        two.join(id, peer);
        two.join(Id::new(b"other").unwrap(), peer);
        assert_eq!(groups.connected(&keys, None), 3);
        assert_eq!(groups.connected(&keys, Some(b"id")), 2);
        assert_eq!(groups.connected(&keys[1..], Some(b"other")), 1);
        assert_eq!(groups.connected(&keys, Some(b"none")), 0);
        groups.set(&known(&[("two", "c")]));
        assert_eq!(one.state.lock().sites, sites("a"));
        assert_eq!(two.state.lock().sites, sites("c"));
        assert_eq!(groups.connected(&keys, None), 3);
        one.leave(id, peer, Close::Removed);
        groups.set(&known(&[("two", "c")]));
        assert_eq!(groups.by_key.lock().len(), 1);
        assert_eq!(journal.bursts.lock().len(), 2);
        journal.tick(Instant::now(), true);
        assert!(journal.bursts.lock().is_empty());
    }
}
