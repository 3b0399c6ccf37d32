//! Names that get a certificate once a client asks for one of them (`tls: on_demand`): which names may, and which of them
//! are waited for.
//!
//! A handshake with such a name enters it into a queue, from which the thread that obtains certificates takes it, and waits
//! until that thread has settled it. All of it is bounded, so a client that makes names up costs little: names that the
//! queue has no room for, that were refused a moment ago, or for which too many handshakes wait, do not wait.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::config::{Config, SiteTls, is_public_name};

/// The names of sites with `tls: on_demand`, as far as they are not known in advance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnDemandNames {
    /// Names without a star, of any site. They are known.
    known: HashSet<String>,
    /// Names that begin with a star, by what follows `*.`, and whether their site gets certificates on demand.
    patterns: HashMap<String, bool>,
    /// Whether the site does that gets all other names.
    default: bool,
    /// Whether names count only that belong to the public domain name system.
    is_public: bool,
}

impl OnDemandNames {
    /// Those of a configuration.
    pub fn new(config: &Config) -> Self {
        let mut names = Self {
            is_public: config.acme.is_public(),
            ..Self::default()
        };
        for site in &config.sites {
            let is_on_demand = site.tls == Some(SiteTls::OnDemand);
            names.default |= site.default && is_on_demand;
            for name in &site.incoming {
                match name.strip_prefix("*.") {
                    Some(parent) => drop(names.patterns.insert(parent.to_owned(), is_on_demand)),
                    None => drop(names.known.insert(name.clone())),
                }
            }
        }
        names
    }

    /// Whether there is no such name.
    pub fn is_empty(&self) -> bool {
        !self.default && !self.patterns.values().any(|is_on_demand| *is_on_demand)
    }

    /// Whether a name in lower case is one of them, and a certificate can be issued for it.
    pub fn has(&self, name: &str) -> bool {
        let Some((_, parent)) = name.split_once('.') else {
            return false;
        };
        let is_on_demand = || self.patterns.get(parent).copied().unwrap_or(self.default);
        !self.known.contains(name)
            && is_on_demand()
            && is_host_name(name)
            && (!self.is_public || is_public_name(name))
    }
}

/// Names that handshakes wait for.
#[derive(Debug, Default)]
pub struct NameQueue {
    /// Whether there are any names to wait for, so that others need no lock.
    is_used: AtomicBool,
    state: Mutex<NameQueueState>,
}

#[derive(Debug, Default)]
struct NameQueueState {
    names: OnDemandNames,
    /// Those that were not taken yet.
    queue: VecDeque<String>,
    /// Those that are not settled. Each handshake that waits for one has a weak reference.
    unsettled: HashMap<String, Arc<()>>,
    /// Each handshake that waits has a reference.
    waiting: Arc<()>,
    refused: RefusedNames,
    /// No name is waited for until then.
    paused_until: Option<Instant>,
    /// Wakes the thread that takes names.
    waker: Option<Waker>,
}

/// Names that were refused a moment ago.
#[derive(Debug, Default)]
struct RefusedNames {
    recent: HashSet<String>,
    /// Those of the time before.
    older: HashSet<String>,
    /// When `recent` was begun.
    since: Option<Instant>,
}

/// A handshake that waits until its name is settled.
#[derive(Debug)]
pub(super) struct AwaitedName {
    /// Nothing else refers to the name once it is settled.
    name: Weak<()>,
    _counted: Arc<()>,
    until: Instant,
}

impl NameQueue {
    /// Replaces the names. Those that were refused may be asked for again.
    pub fn set(&self, names: OnDemandNames) {
        let mut state = self.state.lock();
        self.is_used.store(!names.is_empty(), Ordering::Release);
        state.names = names;
        state.refused = RefusedNames::default();
        state.paused_until = None;
    }

    /// Wakes this when a name has entered the queue.
    pub fn wake_with(&self, waker: Waker) {
        self.state.lock().waker = Some(waker);
    }

    /// Whether a name, in lower case, is one that gets a certificate on demand.
    pub fn allows(&self, name: &str) -> bool {
        self.state.lock().names.has(name)
    }

    /// Whether [`NameQueue::take`] would return one.
    pub fn has_names(&self) -> bool {
        self.is_used() && !self.state.lock().queue.is_empty()
    }

    /// Takes the name that has waited longest. It has to be settled.
    pub fn take(&self) -> Option<String> {
        self.state.lock().queue.pop_front()
    }

    /// Ends the wait for a name: it has a certificate, or gets none now.
    pub fn settle(&self, name: &str) {
        self.state.lock().unsettled.remove(name);
    }

    /// Ends the wait for a name that gets no certificate, nor is waited for again soon.
    pub fn refuse(&self, name: &str, now: Instant) {
        let mut state = self.state.lock();
        state.unsettled.remove(name);
        state.refused.add(name, now);
    }

    /// Waits for no further name until then, nor for those in the queue.
    pub fn pause(&self, until: Instant) {
        let mut state = self.state.lock();
        state.paused_until = Some(until);
        for name in std::mem::take(&mut state.queue) {
            state.unsettled.remove(&name);
        }
    }

    /// Whether handshakes may have to wait.
    pub(super) fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Acquire)
    }

    /// Begins to wait for a name in lower case that no certificate covers. `None`: there is nothing to wait for.
    pub(super) fn wait_for(&self, name: &str, now: Instant) -> Option<AwaitedName> {
        if !self.is_used() {
            return None;
        }
        let mut state = self.state.lock();
        let NameQueueState {
            names,
            queue,
            unsettled,
            waiting,
            refused,
            paused_until,
            waker,
        } = &mut *state;
        let is_paused = paused_until.is_some_and(|until| now < until);
        if is_paused || Arc::strong_count(waiting) > MOST_WAITING {
            return None;
        }
        let mut to_wake = None;
        let awaited = match unsettled.get(name) {
            Some(known) if Arc::weak_count(known) < MOST_WAITING_FOR_ONE => Arc::downgrade(known),
            Some(_) => return None,
            None => {
                if queue.len() >= MOST_QUEUED || !names.has(name) || refused.has(name, now) {
                    return None;
                }
                let new = unsettled.entry(name.to_owned()).or_default();
                queue.push_back(name.to_owned());
                to_wake.clone_from(waker);
                Arc::downgrade(new)
            }
        };
        let awaited = AwaitedName {
            name: awaited,
            _counted: Arc::clone(waiting),
            until: now + LONGEST_WAIT,
        };
        drop(state);
        if let Some(waker) = to_wake {
            waker.wake();
        }
        Some(awaited)
    }
}

impl AwaitedName {
    /// Whether the wait is over.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now >= self.until || self.name.strong_count() == 0
    }
}

impl RefusedNames {
    fn has(&mut self, name: &str, now: Instant) -> bool {
        self.age(now);
        self.recent.contains(name) || self.older.contains(name)
    }

    fn add(&mut self, name: &str, now: Instant) {
        self.age(now);
        if self.recent.len() >= MOST_REFUSED {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(name.to_owned());
    }

    /// Forgets names after one or two of the times for which they are kept.
    fn age(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let age = now.saturating_duration_since(since);
        if age >= REFUSED {
            self.older = std::mem::take(&mut self.recent);
            if age >= 2 * REFUSED {
                self.older.clear();
            }
            self.since = Some(now);
        }
    }
}

/// Whether a text is a name of a host with at least one dot (RFC 952, RFC 1123 2.1), in lower case, and no address.
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253
        && name.contains('.')
        && name.split('.').all(is_label)
        && last.bytes().any(|byte| byte.is_ascii_lowercase())
}

/// How long a handshake waits; browsers give up after 30 seconds.
const LONGEST_WAIT: Duration = Duration::from_secs(25);
/// Most handshakes that wait, in all and for one name.
const MOST_WAITING: usize = 256;
const MOST_WAITING_FOR_ONE: usize = 32;
/// Most names that were not taken yet.
const MOST_QUEUED: usize = 64;
/// How long a name is refused at least, and how many are known twice.
const REFUSED: Duration = Duration::from_secs(300);
const MOST_REFUSED: usize = 4096;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Overrides;

    fn names() -> OnDemandNames {
        let yaml = "cluster_port: 80\nacme: {ask: 'http://a/', directory: 'https://ca/'}\nmap:\n\
                    - {incoming: '*.a.test', outgoing: 'unix:/s', tls: on_demand}\n\
                    - {incoming: ['*.b.test', c.test], outgoing: 'unix:/s', tls: false}\n\
                    - {default: true, incoming: known.test, outgoing: 'unix:/s', tls: on_demand}\n";
        OnDemandNames::new(
            &Config::from_yaml(yaml, Path::new("s.yml"), &Overrides::default())
                .unwrap()
                .0,
        )
    }

    fn queue() -> Arc<NameQueue> {
        let queue = Arc::new(NameQueue::default());
        queue.set(names());
        queue
    }

    #[test]
    fn names_of_sites_on_demand() {
        let names = names();
        for name in ["x.a.test", "x.y.a.test", "other.test", "x.c.test", "a.test"] {
            assert!(names.has(name), "{name}");
        }
        // Those of other sites, known ones, and what is no name of a host.
        let long = format!("{}.test", "a".repeat(64));
        for name in [
            "x.b.test",
            "c.test",
            "known.test",
            "test",
            "127.0.0.1",
            "1.2",
            "a..test",
            ".test",
            "a.test.",
            "-a.test",
            "a_b.test",
            "A.test",
            "a/b.test",
            "*.d.test",
            "ä.test",
            "",
            &long,
        ] {
            assert!(!names.has(name), "{name}");
        }
        assert!(OnDemandNames::default().is_empty() && !names.is_empty());
        let public = OnDemandNames {
            is_public: true,
            ..names
        };
        assert!(public.has("a.example") && !public.has("a.internal") && !public.has("x.a.test"));
    }

    #[test]
    fn handshakes_wait_until_their_name_is_settled() {
        let (queue, now) = (queue(), Instant::now());
        assert!(queue.wait_for("c.test", now).is_none());
        let one = queue.wait_for("x.test", now).unwrap();
        let two = queue.wait_for("x.test", now).unwrap();
        assert_eq!(queue.take().as_deref(), Some("x.test"));
        assert_eq!(queue.take(), None);
        let three = queue.wait_for("x.test", now).unwrap();
        assert!(![&one, &two, &three].iter().any(|one| one.is_over(now)));
        assert!(one.is_over(now + LONGEST_WAIT));
        queue.settle("x.test");
        assert!([&one, &two, &three].iter().all(|one| one.is_over(now)));
        // It is asked for again, unless it was refused.
        drop((one, two, three));
        assert!(queue.wait_for("x.test", now).is_some());
        queue.refuse("x.test", now);
        assert!(queue.wait_for("x.test", now + REFUSED / 2).is_none());
        assert!(queue.wait_for("x.test", now + 2 * REFUSED).is_some());
        assert_eq!(Arc::strong_count(&queue.state.lock().waiting), 1);
    }

    #[test]
    fn everything_is_bounded() {
        let (queue, now) = (queue(), Instant::now());
        let mut waiting: Vec<_> = (0..1000)
            .filter_map(|n| queue.wait_for(&format!("x{n}.test"), now))
            .collect();
        assert_eq!(waiting.len(), MOST_QUEUED);
        for _ in 0..1000 {
            waiting.extend(queue.wait_for("x0.test", now));
        }
        assert_eq!(waiting.len(), MOST_QUEUED + MOST_WAITING_FOR_ONE - 1);
        for name in (1..64).map(|n| format!("x{n}.test")) {
            for _ in 0..10 {
                waiting.extend(queue.wait_for(&name, now));
            }
        }
        assert_eq!(waiting.len(), MOST_WAITING);
        drop(waiting);
        let one = queue.wait_for("x0.test", now).unwrap();
        queue.pause(now + REFUSED);
        assert!(one.is_over(now) && queue.take().is_none());
        assert!(queue.wait_for("y.test", now).is_none());
        assert!(queue.wait_for("y.test", now + REFUSED).is_some());
        for n in 0..3 * MOST_REFUSED {
            queue.refuse(&format!("r{n}.test"), now);
        }
        let state = queue.state.lock();
        let kept = state.refused.recent.len() + state.refused.older.len();
        assert!(kept <= 2 * MOST_REFUSED);
    }
}
