//! Counts messages that repeat, so that a failure that comes a thousand times a second does not fill the log.
//!
//! The first messages of a kind are written at once. When several came within a second, further ones are counted and
//! reported together when it is over: `message repeated 132 times: [ ... ]`; while that goes on, the time doubles, up to
//! ten seconds. Messages are equal if site, level and text are; the ids of requests are not part of the text, and the
//! ports of clients and backends do not count. The memory is bounded: for one message more, the oldest one is reported early.
//!
//! Pure: the clock is an argument.

use std::borrow::Cow;
use std::mem;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use log::Level;

/// The messages that were written lately.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    recent: Vec<RecentMessage>,
}

/// A message that was written lately.
#[derive(Debug)]
struct RecentMessage {
    /// The target of the record: the site.
    target: String,
    level: Level,
    /// The text without ports.
    key: String,
    text: String,
    /// How often it was written at once.
    written: u32,
    /// How often it came since it was last written.
    count: u64,
    /// When that is reported, or the message is forgotten.
    until: Instant,
    /// The time between two reports.
    interval: Duration,
}

/// What to do with a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Repetition {
    /// It is new: write it, after this report about an older one, if any.
    None(Option<RepeatReport>),
    /// It was counted; the first one since the last report, which has to be planned.
    First,
    /// It was counted.
    Counted,
}

/// A message for messages that were counted.
pub(super) type RepeatReport = (Level, String);

impl Repeats {
    /// Notes a message.
    pub(super) fn note(
        &mut self,
        target: &str,
        level: Level,
        text: &str,
        now: Instant,
    ) -> Repetition {
        if text.len() > LONGEST {
            return Repetition::None(None);
        }
        let key = without_ports(text);
        let known = self
            .recent
            .iter_mut()
            .find(|recent| recent.level == level && recent.key == key && recent.target == target);
        if let Some(recent) = known {
            if recent.count == 0 && now < recent.until && recent.written < AT_ONCE {
                recent.written += 1;
                return Repetition::None(None);
            }
            if now < recent.until || recent.count > 0 {
                recent.count += 1;
                return match recent.count {
                    1 => Repetition::First,
                    _ => Repetition::Counted,
                };
            }
            recent.written = 1;
            recent.interval = FIRST_INTERVAL;
            recent.until = now + FIRST_INTERVAL;
            text.clone_into(&mut recent.text);
            return Repetition::None(None);
        }
        self.recent
            .retain(|recent| recent.count > 0 || now < recent.until);
        let report = match self.recent.len() < MOST {
            true => None,
            false => self.forget_oldest(),
        };
        self.recent.push(RecentMessage {
            target: target.to_owned(),
            level,
            key: key.into_owned(),
            text: text.to_owned(),
            written: 1,
            count: 0,
            until: now + FIRST_INTERVAL,
            interval: FIRST_INTERVAL,
        });
        Repetition::None(report)
    }

    fn forget_oldest(&mut self) -> Option<RepeatReport> {
        let oldest = self.recent.iter().enumerate();
        let (oldest, _) = oldest.min_by_key(|(_, recent)| recent.until)?;
        self.recent.swap_remove(oldest).report()
    }

    /// The reports that are due.
    pub(super) fn due(&mut self, now: Instant) -> Vec<RepeatReport> {
        let due = self.recent.iter_mut();
        let due = due.filter(|recent| recent.count > 0 && recent.until <= now);
        due.filter_map(|recent| {
            recent.interval = match recent.count {
                1 => FIRST_INTERVAL,
                _ => (recent.interval * 2).min(LONGEST_INTERVAL),
            };
            recent.until = now + recent.interval;
            recent.report()
        })
        .collect()
    }

    /// All reports, at the end of the program.
    pub(super) fn take(&mut self) -> Vec<RepeatReport> {
        let all = mem::take(&mut self.recent).into_iter();
        all.filter_map(|mut recent| recent.report()).collect()
    }

    /// When the next report is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let counted = self.recent.iter().filter(|recent| recent.count > 0);
        counted.map(|recent| recent.until).min()
    }
}

impl RecentMessage {
    /// The report about it, if it was counted.
    fn report(&mut self) -> Option<RepeatReport> {
        let text = &self.text;
        let text = match mem::take(&mut self.count) {
            0 => return None,
            1 => text.clone(),
            count => format!("message repeated {count} times: [ {text} ]"),
        };
        Some((self.level, text))
    }
}

/// A message without the ports of the clients and backends that it names, which differ with each connection.
fn without_ports(text: &str) -> Cow<'_, str> {
    let mut key = String::new();
    let mut copied = 0;
    for word in ["from ", "for ", "client "] {
        // The words come in different messages.
        for (at, _) in text.match_indices(word) {
            let start = at + word.len();
            let rest = &text[start..];
            let end = rest.find([' ', ',']).unwrap_or(rest.len());
            let address = rest[..end].trim_end_matches(':');
            let Ok(parsed) = address.parse::<SocketAddr>() else {
                continue;
            };
            if start < copied {
                continue;
            }
            key.push_str(&text[copied..start]);
            key.push_str(&parsed.ip().to_string());
            copied = start + address.len();
        }
    }
    match copied {
        0 => Cow::Borrowed(text),
        _ => {
            key.push_str(&text[copied..]);
            Cow::Owned(key)
        }
    }
}

/// Most messages that are remembered.
const MOST: usize = 64;
/// The longest message that is remembered, in bytes.
const LONGEST: usize = 1024;
/// How many equal messages are written at once, before further ones are counted.
const AT_ONCE: u32 = 5;
/// How long after a message equal ones are counted.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
/// The longest time between two reports of a message that goes on.
const LONGEST_INTERVAL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    struct Scene {
        repeats: Repeats,
        now: Instant,
    }

    impl Scene {
        fn new() -> Self {
            Self {
                repeats: Repeats::default(),
                now: Instant::now(),
            }
        }

        fn note(&mut self, text: &str) -> Repetition {
            self.repeats.note("site:a", Level::Warn, text, self.now)
        }

        fn after(&mut self, milliseconds: u64) -> Vec<RepeatReport> {
            self.now += Duration::from_millis(milliseconds);
            self.repeats.due(self.now)
        }
    }

    fn report(text: &str) -> Vec<RepeatReport> {
        vec![(Level::Warn, text.to_owned())]
    }

    #[test]
    fn equal_messages_are_counted() {
        let mut scene = Scene::new();
        let new = Repetition::None(None);
        for _ in 0..AT_ONCE {
            assert_eq!(scene.note("a"), new);
            assert_eq!(scene.repeats.next_due(), None);
        }
        assert_eq!(scene.note("b"), new);
        assert_eq!(scene.note("a"), Repetition::First);
        assert_eq!(scene.note("a"), Repetition::Counted);
        let due = scene.repeats.next_due().unwrap();
        assert_eq!(due, scene.now + FIRST_INTERVAL);
        assert_eq!(scene.after(999), []);
        assert_eq!(scene.after(1), report("message repeated 2 times: [ a ]"));
        // It goes on, and the next report comes later. A single one is written as it is, and soon.
        assert_eq!(scene.note("a"), Repetition::First);
        assert_eq!(scene.after(1999), []);
        assert_eq!(scene.after(1), report("a"));
        assert_eq!(scene.note("a"), Repetition::First);
        assert_eq!(scene.after(1000), report("a"));
        // After a silence it is new.
        assert_eq!(scene.after(4000), []);
        for _ in 0..AT_ONCE {
            assert_eq!(scene.note("a"), new);
        }
        assert_eq!(scene.note("a"), Repetition::First);
        assert_eq!(scene.after(1000), report("a"));
    }

    #[test]
    fn reports_come_at_least_every_ten_seconds() {
        let mut scene = Scene::new();
        for _ in 0..AT_ONCE {
            scene.note("a");
        }
        let mut longest = 0;
        for _ in 0..12 {
            assert_eq!(scene.note("a"), Repetition::First);
            scene.note("a");
            let mut seconds = 0;
            while scene.after(1000).is_empty() {
                seconds += 1;
            }
            longest = longest.max(seconds + 1);
        }
        assert_eq!(longest, 10);
    }

    #[test]
    fn other_messages_are_not_counted() {
        let mut scene = Scene::new();
        let new = Repetition::None(None);
        scene.note("a");
        let now = scene.now;
        let repeats = &mut scene.repeats;
        assert_eq!(repeats.note("site:b", Level::Warn, "a", now), new);
        assert_eq!(repeats.note("site:a", Level::Error, "a", now), new);
        let long = "x".repeat(LONGEST + 1);
        assert_eq!(scene.note(&long), new);
        assert_eq!(scene.note(&long), new);
    }

    #[test]
    fn memory_is_bounded() {
        let mut scene = Scene::new();
        for _ in 0..AT_ONCE + 2 {
            scene.note("first");
        }
        for number in 1..MOST {
            let text = number.to_string();
            assert_eq!(scene.note(&text), Repetition::None(None));
        }
        let early = (
            Level::Warn,
            "message repeated 2 times: [ first ]".to_owned(),
        );
        assert_eq!(scene.note("one more"), Repetition::None(Some(early)));
        for number in 0..10 * MOST {
            scene.note(&format!("more {number}"));
        }
        assert_eq!(scene.repeats.recent.len(), MOST);
        assert_eq!(scene.repeats.take(), []);
    }

    #[test]
    fn ports_of_peers_do_not_count() {
        let check = |one: &str, other: &str, equal: bool| {
            assert_eq!(without_ports(one) == without_ports(other), equal, "{one}");
        };
        check(
            "503 GET / from 1.2.3.4:5: x",
            "503 GET / from 1.2.3.4:6: x",
            true,
        );
        check("400 for [::1]:5: x", "400 for [::1]:6: x", true);
        check("client 1.2.3.4:5 closed", "client 1.2.3.4:6 closed", true);
        check("a from 1.2.3.4:5, b", "a from 1.2.3.4:6, b", true);
        check(
            "a from 1.2.3.4:5 at 1.2.3.4:7",
            "a from 1.2.3.4:6 at 1.2.3.4:8",
            false,
        );
        check(
            "server 1.2.3.4:5 is down",
            "server 1.2.3.4:6 is down",
            false,
        );
        check("400 for 1.2.3.4:5: x", "400 for 1.2.3.5:5: x", false);
        check("400 for 1.2.3.4:5: x", "400 for 1.2.3.4:5: y", false);
    }
}
