//! Which paths and directories were looked for before, in a few fixed tables of hashes.
//!
//! Pure: the time is given. No lock is taken: each place of a table is one atomic number, and nothing depends on one that
//! another path has overwritten.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Paths that were met before: hashes, each in a place of its own or not at all. So a path that is asked for once takes
/// nobody's place in the cache, and no time. No lock is taken, and nothing depends on a mark that is lost.
#[derive(Debug)]
pub struct SeenPaths {
    hasher: RandomState,
    places: Box<[AtomicU64]>,
}

/// Which directories are there, as it was seen in this second. Most paths of an application are below a few that are not,
/// and need not be looked for one by one. No lock is taken here either.
#[derive(Debug)]
pub struct KnownDirs {
    hasher: RandomState,
    born: Instant,
    places: Box<[AtomicU64]>,
}

impl SeenPaths {
    /// For about so many paths, at least a few dozen.
    pub fn new(size: usize) -> Self {
        let places = (2 * size).clamp(64, 1 << 20).next_power_of_two();
        Self {
            hasher: RandomState::new(),
            places: (0..places).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Whether a path has a mark.
    pub fn has(&self, path: &[u8]) -> bool {
        let (place, hash) = self.find(path);
        place.load(Ordering::Relaxed) == hash
    }

    /// The same; it has one from now on.
    pub fn see(&self, path: &[u8]) -> bool {
        let (place, hash) = self.find(path);
        let had = place.load(Ordering::Relaxed) == hash;
        if !had {
            place.store(hash, Ordering::Relaxed);
        }
        had
    }

    fn find(&self, path: &[u8]) -> (&AtomicU64, u64) {
        // Zero is none.
        let hash = self.hasher.hash_one(path) | 1;
        (&self.places[at(hash, self.places.len())], hash)
    }
}

impl KnownDirs {
    /// Nothing is known.
    pub fn new(now: Instant) -> Self {
        Self {
            hasher: RandomState::new(),
            born: now,
            places: (0..FOLDERS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Whether it is there, if that was looked for a moment ago.
    pub fn is_there(&self, name: &[u8], generation: u64, now: Instant) -> Option<bool> {
        let (place, known) = self.find(name, generation, now);
        let found = place.load(Ordering::Relaxed);
        (found | 1 == known | 1).then_some(found & 1 == 1)
    }

    /// It was looked for now.
    pub fn learn(&self, name: &[u8], generation: u64, is_there: bool, now: Instant) {
        let (place, known) = self.find(name, generation, now);
        place.store(known & !1 | u64::from(is_there), Ordering::Relaxed);
    }

    /// Where it is noted, and what is noted there if it was looked for within this second: the upper half of a hash, the
    /// second, and one bit.
    fn find(&self, name: &[u8], generation: u64, now: Instant) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one((name, generation));
        let second = now.saturating_duration_since(self.born).as_secs() + 1;
        let known = hash >> 32 << 32 | (second << 1 & 0xffff_ffff);
        (&self.places[at(hash, self.places.len())], known)
    }
}

/// A place out of so many, a power of two.
const fn at(hash: u64, places: usize) -> usize {
    hash as usize >> 1 & (places - 1)
}

/// Directories of which something is noted.
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
        assert_eq!(folders.is_there(b"/a/", 0, now), None);
        folders.learn(b"/a/", 0, false, now);
        assert_eq!(folders.is_there(b"/a/", 0, after(999)), Some(false));
        assert_eq!(folders.is_there(b"/b/", 0, after(999)), None);
        assert_eq!(folders.is_there(b"/a/", 0, after(1000)), None);
        folders.learn(b"/a/", 0, true, after(1000));
        assert_eq!(folders.is_there(b"/a/", 0, after(1001)), Some(true));
        assert_eq!(folders.is_there(b"/a/", 0, after(2001)), None);
        for number in 0..100_000 {
            let name = format!("/{number}/");
            assert_eq!(folders.is_there(name.as_bytes(), 0, after(1001)), None);
        }
    }
}
