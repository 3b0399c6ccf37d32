//! Logs changes in the order in which they happened.
//!
//! Changes happen under a lock and are logged without it, so two threads could log theirs the other way round: that a server
//! is back before that it was set aside. So a thread adds its change to a list under the lock, and one thread at a time logs
//! what is in the list; the others leave theirs to it.

use std::collections::VecDeque;

/// Changes that are not logged yet: plain data, guarded by the lock under which they happen.
#[derive(Debug)]
pub(super) struct Reports<T> {
    changes: VecDeque<T>,
    /// A thread logs them.
    is_logging: bool,
}

impl<T> Default for Reports<T> {
    fn default() -> Self {
        Self {
            changes: VecDeque::new(),
            is_logging: false,
        }
    }
}

impl<T> Reports<T> {
    pub(super) fn add(&mut self, change: T) {
        self.changes.push_back(change);
    }

    /// The next change to log; `None`: there is none, or another thread logs it. A thread that got one asks again, with
    /// `goes_on`, until there is none.
    pub(super) fn next(&mut self, goes_on: bool) -> Option<T> {
        if self.is_logging && !goes_on {
            return None;
        }
        let next = self.changes.pop_front();
        self.is_logging = next.is_some();
        next
    }
}

/// Logs changes until there are none. `next`: takes the lock and calls [`Reports::next`]; `log`: logs one.
pub(super) fn log_all<T>(next: impl Fn(bool) -> Option<T>, log: impl Fn(T)) {
    let mut goes_on = false;
    while let Some(change) = next(goes_on) {
        log(change);
        goes_on = true;
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn the_order_is_that_of_the_changes() {
        let changes: Mutex<(u32, Reports<u32>)> = Mutex::default();
        let logged = Mutex::new(Vec::new());
        let change = || {
            for _ in 0..1000 {
                {
                    let (count, reports) = &mut *changes.lock();
                    *count += 1;
                    reports.add(*count);
                }
                log_all(
                    |goes_on| changes.lock().1.next(goes_on),
                    |change| logged.lock().push(change),
                );
            }
        };
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(change);
            }
        });
        assert_eq!(*logged.lock(), (1..=4000).collect::<Vec<_>>());
    }

    #[test]
    fn one_thread_logs() {
        let mut reports = Reports::default();
        assert_eq!(reports.next(false), None);
        reports.add("aside");
        assert_eq!(reports.next(false), Some("aside"));
        reports.add("back");
        // That of another thread, which comes in between.
        assert_eq!(reports.next(false), None);
        assert_eq!(reports.next(true), Some("back"));
        assert_eq!(reports.next(true), None);
        reports.add("aside again");
        assert_eq!(reports.next(false), Some("aside again"));
    }
}
