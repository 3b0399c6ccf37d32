//! The tick thread: deadlines, slow readers, and what is done once a second.

use std::cmp::Reverse;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::session::Session;
use super::sessions::{Sessions, WorkerProgress};
use crate::amount::counted;
use crate::backend::dial_in::DialInControl;

impl Sessions<Session> {
    /// Closes sessions whose deadline is over or hands them to the workers, and has access logs written, until the
    /// alarm is stopped. Runs on the tick thread.
    pub(super) fn tick(&self, control: &DialInControl) {
        let begun = Instant::now();
        let mut flushed = begun;
        let mut relieved = flushed;
        while self.poller.alarm().wait(LONGEST_PAUSE) {
            let now = Instant::now();
            self.note_progress(now);
            for session in self.poller.expire(now) {
                if let Some(session) = session.expire() {
                    self.poller.hand_over(session);
                }
            }
            for servers in self.shared.snapshot().servers() {
                if let Some(next) = servers.tick(now) {
                    self.poller.alarm().set(next);
                }
            }
            if now.saturating_duration_since(relieved) >= LONGEST_PAUSE {
                relieved = now;
                self.cut_slow_readers(now);
            }
            if flushed.elapsed() >= LONGEST_PAUSE {
                flushed = now;
                for (_, log) in self.shared.snapshot().access_logs() {
                    log.flush();
                }
                let second = now.saturating_duration_since(begun).as_secs();
                control.set_second(second);
                let shared = &self.shared;
                let mut history = shared.history.lock();
                history.tick(second, &shared.snapshot(), &shared.unrouted);
                drop(history);
                self.shared.compressors.tick();
                self.shared.journal.tick(now, false);
            }
        }
    }

    /// Takes note that the threads work: this one does, and the workers have got something to do since the last time, or wait
    /// for it.
    fn note_progress(&self, now: Instant) {
        let mut seen = self.progress.lock();
        let taken = self.poller.taken();
        if taken != seen.taken || self.poller.has_sleepers() {
            *seen = WorkerProgress { taken, at: now };
        }
    }

    /// Cuts the clients that read most slowly if they hold backends that other requests wait for, or disk space that
    /// others need.
    fn cut_slow_readers(&self, now: Instant) {
        let needs_room = self.shared.disk.take_exhausted();
        let held = self.shared.disk.waiting();
        let needs_backends = held > 0 && self.shared.waiting.load(Ordering::Relaxed) > 0;
        if !needs_room && !needs_backends {
            return;
        }
        let key = |session: &Session, _| {
            let (reader, is_waited_for) = session.reader(now)?;
            let is_in_the_way = needs_room && reader.on_disk > 0 || is_waited_for;
            let is_slow = reader.age >= TIME_TO_READ && reader.rate < SLOW;
            // Of two equally slow ones, the one that releases more goes first.
            (is_in_the_way && is_slow).then_some((reader.rate, Reverse(reader.on_disk)))
        };
        // Some at a time: one may be enough.
        let some = held / 8 + 1;
        let slow = self.poller.take_lowest(some, key);
        if slow.is_empty() {
            return;
        }
        log::warn!(
            "limits.spool reached: cutting {} whose clients read less than {SLOW} bytes per second",
            counted(slow.len(), "response")
        );
        for mut session in slow {
            session.cut_reader();
            self.poller.hand_over(session);
        }
    }
}

/// How often the tick checks idle connections to servers and has access logs written. It handles deadlines when they are due.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Bytes per second below which a client may be cut when others need its backend or its disk space, and the time it has
/// to read before that.
const SLOW: u64 = 100_000;
const TIME_TO_READ: Duration = Duration::from_secs(5);
