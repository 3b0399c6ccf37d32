//! Tables of paths and directories that were looked for before.
//!
//! Pure: the caller passes the time. No lock is taken: each slot of a table is an atomic number, and losing an entry
//! to another path only costs time.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Paths that were seen before, as hashes. So a path that is requested only once takes no room in the cache.
#[derive(Debug)]
pub struct SeenPaths {
    hasher: RandomState,
    slots: Box<[AtomicU64]>,
}

/// Which directories exist, as of the current second. Most paths of an application are below a few directories that do
/// not exist on disk, and need not be looked for one by one.
#[derive(Debug)]
pub struct KnownDirs {
    hasher: RandomState,
    epoch: Instant,
    slots: Box<[AtomicU64]>,
}

impl SeenPaths {
    /// A table for about this many paths, at least a few dozen.
    pub fn new(size: usize) -> Self {
        let places = (2 * size).clamp(64, 1 << 20).next_power_of_two();
        Self {
            hasher: RandomState::new(),
            slots: (0..places).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Whether a path was seen.
    pub fn has(&self, path: &[u8]) -> bool {
        let (slot, hash) = self.find(path);
        slot.load(Ordering::Relaxed) == hash
    }

    /// Whether a path was seen; marks it as seen.
    pub fn see(&self, path: &[u8]) -> bool {
        let (slot, hash) = self.find(path);
        let had = slot.load(Ordering::Relaxed) == hash;
        if !had {
            slot.store(hash, Ordering::Relaxed);
        }
        had
    }

    fn find(&self, path: &[u8]) -> (&AtomicU64, u64) {
        // Zero is an empty slot.
        let hash = self.hasher.hash_one(path) | 1;
        (&self.slots[at(hash, self.slots.len())], hash)
    }
}

impl KnownDirs {
    /// An empty table.
    pub fn new(now: Instant) -> Self {
        Self {
            hasher: RandomState::new(),
            epoch: now,
            slots: (0..FOLDERS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Whether a directory exists, if that was found out during this second.
    pub fn exists(&self, name: &[u8], generation: u64, now: Instant) -> Option<bool> {
        let (slot, known) = self.find(name, generation, now);
        let found = slot.load(Ordering::Relaxed);
        (found | 1 == known | 1).then_some(found & 1 == 1)
    }

    /// Stores whether a directory exists now.
    pub fn learn(&self, name: &[u8], generation: u64, is_there: bool, now: Instant) {
        let (slot, known) = self.find(name, generation, now);
        slot.store(known & !1 | u64::from(is_there), Ordering::Relaxed);
    }

    /// The slot of a directory, and its content if the directory was checked in this second: the upper half of a hash,
    /// the second, and one bit.
    fn find(&self, name: &[u8], generation: u64, now: Instant) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one((name, generation));
        let second = now.saturating_duration_since(self.epoch).as_secs() + 1;
        let known = hash >> 32 << 32 | (second << 1 & 0xffff_ffff);
        (&self.slots[at(hash, self.slots.len())], known)
    }
}

/// The slot for a hash; the number of slots is a power of two.
const fn at(hash: u64, places: usize) -> usize {
    hash as usize >> 1 & (places - 1)
}

/// Size of the table of directories.
const FOLDERS: usize = 256;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn marks_are_seen_again() {
        let marks = SeenPaths::new(0);
        assert!(!marks.has(b"/x") && !marks.see(b"/x"));
        assert!(marks.has(b"/x") && marks.see(b"/x"));
        for number in 0..100_000 {
            assert!(!marks.see(format!("/{number}").as_bytes()), "{number}");
        }
    }

    #[test]
    fn directories_are_known_for_a_second() {
        let now = Instant::now();
        let folders = KnownDirs::new(now);
        let after = |milliseconds| now + Duration::from_millis(milliseconds);
        assert_eq!(folders.exists(b"/a/", 0, now), None);
        folders.learn(b"/a/", 0, false, now);
        assert_eq!(folders.exists(b"/a/", 0, after(999)), Some(false));
        assert_eq!(folders.exists(b"/b/", 0, after(999)), None);
        assert_eq!(folders.exists(b"/a/", 0, after(1000)), None);
        folders.learn(b"/a/", 0, true, after(1000));
        assert_eq!(folders.exists(b"/a/", 0, after(1001)), Some(true));
        assert_eq!(folders.exists(b"/a/", 0, after(2001)), None);
        for number in 0..100_000 {
            let name = format!("/{number}/");
            assert_eq!(folders.exists(name.as_bytes(), 0, after(1001)), None);
        }
    }
}
