//! What is remembered of the paths of a site, so that most requests need not look at the file system.
//!
//! Three shelves share one index, so that a request costs one look-up: files in memory, tags of files that are too large
//! for that, and paths that are no files. Each is bounded in entries, and in bytes where entries differ in size; what
//! was not asked for since the hand came by the last time makes room (the clock algorithm).
//!
//! Pure: the time is given. Whoever finds an entry that is older than its shelf's window looks at the file again and
//! says what came of it.
//!
//! **Invariants**: a key of the index has its item on the shelf that the index says, and each item its key in the
//! index; the counts of a shelf are those of its items.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::entity::FileIdentity;
use crate::exchange::{Entity, StoredFile};
use crate::http::encoding::ContentCoding;

/// What is remembered of a site's paths.
#[derive(Debug)]
pub struct Cache {
    index: HashMap<Arc<[u8]>, EntryIndex>,
    files: EntryTable,
    tags: EntryTable,
    nothing: EntryTable,
    /// What was found out before that is to be looked at again.
    trusted: Instant,
    /// Of the root to which all entries belong.
    generation: u64,
}

/// How much one shelf may hold.
#[derive(Clone, Copy, Debug)]
pub struct CacheLimits {
    /// Entries.
    pub size: usize,
    /// Bytes of what is kept, with its keys.
    pub memory: u64,
    /// After this time an entry is looked at again.
    pub window: Duration,
}

/// What is known of a path.
#[derive(Clone, Debug)]
pub enum CacheEntry {
    /// It is that of a file, which is in memory.
    File(Arc<StoredFile>, Variants),
    /// It is that of a file, of which this is known.
    Tag(Arc<Entity>, Variants),
    /// It is not that of a file.
    Nothing,
}

/// A file's content in other encodings; most have none.
pub type Variants = Option<Arc<[Variant]>>;

/// A file's content in another encoding.
#[derive(Debug)]
pub struct Variant {
    /// Which one.
    pub coding: ContentCoding,
    /// Where it is.
    pub form: Encoding,
}

impl Variant {
    /// Whether it may be kept.
    pub(super) fn is_settled(&self) -> bool {
        match &self.form {
            Encoding::Made(_) => true,
            Encoding::Beside { entity, .. } => entity.validators.are_strong(),
        }
    }

    #[cfg(feature = "gzip")]
    pub(super) fn size(&self) -> usize {
        match &self.form {
            Encoding::Made(stored) => stored.bytes.len(),
            Encoding::Beside { identity, .. } => {
                usize::try_from(identity.size).unwrap_or(usize::MAX)
            }
        }
    }
}

/// Where the content of a file is in another encoding.
#[derive(Debug)]
pub enum Encoding {
    /// It was made of the file and is kept with it.
    Made(Arc<StoredFile>),
    /// In a file beside it.
    Beside {
        /// The name of that, relative to the root.
        name: Vec<u8>,
        /// What tells whether it is still the same.
        identity: FileIdentity,
        /// What is said of it.
        entity: Entity,
        /// The file, if it is in memory.
        stored: Option<Arc<StoredFile>>,
    },
}

/// What a look-up has found.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// This, and it is good.
    Fresh(CacheEntry, FileIdentity),
    /// This; it has to be looked at again.
    Stale(CacheEntry, FileIdentity),
    /// No entry.
    Unknown,
}

/// Where an entry is.
#[derive(Clone, Copy, Debug)]
struct EntryIndex {
    kind: EntryKind,
    slot: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EntryKind {
    File,
    Tag,
    Nothing,
}

#[derive(Debug)]
struct EntryTable {
    bounds: CacheLimits,
    items: Vec<Option<CachedPath>>,
    free: Vec<u32>,
    hand: usize,
    bytes: u64,
}

#[derive(Debug)]
struct CachedPath {
    key: Arc<[u8]>,
    known: CacheEntry,
    identity: FileIdentity,
    checked: Instant,
    /// It was asked for since the hand came by.
    used: bool,
    cost: u64,
}

impl CacheEntry {
    const fn kind(&self) -> EntryKind {
        match self {
            Self::File(..) => EntryKind::File,
            Self::Tag(..) => EntryKind::Tag,
            Self::Nothing => EntryKind::Nothing,
        }
    }

    fn cost(&self) -> u64 {
        let size = |stored: &Arc<StoredFile>| (stored.bytes.len() + stored.head.len()) as u64;
        let (own, variants) = match self {
            Self::File(stored, variants) => (size(stored), variants),
            Self::Tag(_, variants) => (0, variants),
            Self::Nothing => return 0,
        };
        let variants = variants.iter().flat_map(|variants| variants.iter());
        let others = variants.map(|variant| match &variant.form {
            Encoding::Made(stored) => size(stored) + OVERHEAD,
            Encoding::Beside { name, stored, .. } => {
                name.len() as u64 + stored.as_ref().map_or(0, size) + OVERHEAD
            }
        });
        own + others.sum::<u64>()
    }
}

impl Cache {
    /// An empty one.
    pub fn new(files: CacheLimits, tags: CacheLimits, nothing: CacheLimits, now: Instant) -> Self {
        Self {
            index: HashMap::new(),
            files: EntryTable::new(files),
            tags: EntryTable::new(tags),
            nothing: EntryTable::new(nothing),
            trusted: now,
            generation: 0,
        }
    }

    /// Whether files are kept at all.
    pub const fn keeps_files(&self) -> bool {
        self.files.bounds.size > 0
    }

    /// What is known of a path.
    pub fn look(&mut self, key: &[u8], now: Instant) -> Lookup {
        let Some(place) = self.index.get(key).copied() else {
            return Lookup::Unknown;
        };
        let trusted = self.trusted;
        let shelf = self.shelf(place.kind);
        let window = shelf.bounds.window;
        let Some(item) = &mut shelf.items[place.slot as usize] else {
            return Lookup::Unknown;
        };
        item.used = true;
        let young = now.saturating_duration_since(item.checked) < window;
        if young && item.checked >= trusted {
            return Lookup::Fresh(item.known.clone(), item.identity);
        }
        Lookup::Stale(item.known.clone(), item.identity)
    }

    /// Remembers what was found at a path, in place of what was known of it.
    pub fn keep(&mut self, key: &[u8], known: CacheEntry, identity: FileIdentity, now: Instant) {
        let kind = known.kind();
        self.forget(key);
        let key: Arc<[u8]> = key.into();
        let cost = known.cost() + 2 * key.len() as u64 + OVERHEAD;
        if !self.make_room(kind, cost) {
            return;
        }
        let slot = self.shelf(kind).put(CachedPath {
            key: Arc::clone(&key),
            known,
            identity,
            checked: now,
            used: false,
            cost,
        });
        self.index.insert(key, EntryIndex { kind, slot });
    }

    /// What is known of a path is still so.
    pub fn confirm(&mut self, key: &[u8], now: Instant) {
        if let Some(place) = self.index.get(key).copied()
            && let Some(item) = &mut self.shelf(place.kind).items[place.slot as usize]
        {
            item.checked = now;
        }
    }

    /// What is known of a path is no longer so.
    pub fn forget(&mut self, key: &[u8]) {
        if let Some(place) = self.index.remove(key) {
            self.shelf(place.kind).take(place.slot);
        }
    }

    /// Takes out everything that is known, for the caller to drop.
    #[must_use]
    pub fn clear(&mut self) -> Self {
        let mut empty = Self::new(
            self.files.bounds,
            self.tags.bounds,
            self.nothing.bounds,
            self.trusted,
        );
        empty.generation = self.generation;
        mem::replace(self, empty)
    }

    /// Takes out everything that belongs to an older root than the one of this generation, for the caller to drop.
    #[must_use]
    pub fn advance(&mut self, generation: u64) -> Option<Self> {
        (generation > self.generation).then(|| {
            self.generation = generation;
            self.clear()
        })
    }

    /// Whether entries belong to the root of this generation.
    pub const fn is_of(&self, generation: u64) -> bool {
        self.generation == generation
    }

    /// Has everything looked at again that was found out before.
    pub const fn distrust(&mut self, now: Instant) {
        self.trusted = now;
    }

    /// Entries of files, tags and paths that are no files, and bytes of all.
    pub fn sizes(&self) -> ([usize; 3], u64) {
        let shelves = [&self.files, &self.tags, &self.nothing];
        let bytes = shelves.iter().map(|shelf| shelf.bytes).sum();
        (shelves.map(EntryTable::count), bytes)
    }

    /// Takes out what was not asked for lately until there is room. `false`: there never is for so much.
    fn make_room(&mut self, kind: EntryKind, cost: u64) -> bool {
        let shelf = self.shelf(kind);
        if shelf.bounds.size == 0 || cost > shelf.bounds.memory {
            return false;
        }
        loop {
            let shelf = self.shelf(kind);
            if shelf.has_room(cost) {
                return true;
            }
            let Some(item) = shelf.turn() else {
                return true;
            };
            self.index.remove(&item.key);
        }
    }

    const fn shelf(&mut self, kind: EntryKind) -> &mut EntryTable {
        match kind {
            EntryKind::File => &mut self.files,
            EntryKind::Tag => &mut self.tags,
            EntryKind::Nothing => &mut self.nothing,
        }
    }
}

impl EntryTable {
    const fn new(bounds: CacheLimits) -> Self {
        Self {
            bounds,
            items: Vec::new(),
            free: Vec::new(),
            hand: 0,
            bytes: 0,
        }
    }

    fn count(&self) -> usize {
        self.items.len() - self.free.len()
    }

    fn has_room(&self, cost: u64) -> bool {
        self.count() < self.bounds.size && self.bytes + cost <= self.bounds.memory
    }

    fn put(&mut self, item: CachedPath) -> u32 {
        self.bytes += item.cost;
        match self.free.pop() {
            Some(slot) => {
                self.items[slot as usize] = Some(item);
                slot
            }
            None => {
                self.items.push(Some(item));
                // The size is bounded far below that.
                u32::try_from(self.items.len() - 1).unwrap_or(u32::MAX)
            }
        }
    }

    fn take(&mut self, slot: u32) -> Option<CachedPath> {
        let item = self.items[slot as usize].take()?;
        self.free.push(slot);
        self.bytes -= item.cost;
        Some(item)
    }

    /// Turns the hand until it comes to an item that was not used since the last turn, and takes that. `None`: there is
    /// none at all.
    fn turn(&mut self) -> Option<CachedPath> {
        if self.count() == 0 {
            return None;
        }
        loop {
            let slot = self.hand % self.items.len();
            self.hand = slot + 1;
            match &mut self.items[slot] {
                Some(item) if item.used => item.used = false,
                Some(_) => return self.take(u32::try_from(slot).ok()?),
                None => {}
            }
        }
    }
}

/// What an entry takes besides its bytes and keys, roughly.
const OVERHEAD: u64 = 300;
#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::conditional::Validators;

    fn bounds(size: usize, memory: u64) -> CacheLimits {
        CacheLimits {
            size,
            memory,
            window: Duration::from_secs(10),
        }
    }

    fn cache(size: usize, memory: u64, now: Instant) -> Cache {
        let small = bounds(size, u64::MAX);
        Cache::new(bounds(size, memory), small, small, now)
    }

    fn file(text: &str) -> CacheEntry {
        let entity = Entity {
            validators: Validators::new(0, text.len() as u64, 0),
            content_type: "text/plain".into(),
            coding: None,
            varies: false,
            divides: true,
        };
        let stored = StoredFile {
            head: Vec::new(),
            bytes: text.into(),
            entity,
        };
        CacheEntry::File(Arc::new(stored), None)
    }

    /// What is known, as text: `=` in front where it is fresh.
    fn seen(cache: &mut Cache, key: &str, now: Instant) -> String {
        let text = |known: CacheEntry| match known {
            CacheEntry::File(stored, _) => String::from_utf8_lossy(&stored.bytes).into_owned(),
            CacheEntry::Tag(..) => "tag".into(),
            CacheEntry::Nothing => "nothing".into(),
        };
        match cache.look(key.as_bytes(), now) {
            Lookup::Fresh(known, _) => format!("={}", text(known)),
            Lookup::Stale(known, _) => text(known),
            Lookup::Unknown => String::new(),
        }
    }

    fn keep(cache: &mut Cache, key: &str, known: CacheEntry, now: Instant) {
        cache.keep(key.as_bytes(), known, FileIdentity::default(), now);
        check(cache);
    }

    /// Holds the invariants.
    fn check(cache: &Cache) {
        let mut entries = 0;
        for (kind, shelf) in [
            (EntryKind::File, &cache.files),
            (EntryKind::Tag, &cache.tags),
            (EntryKind::Nothing, &cache.nothing),
        ] {
            let items = shelf.items.iter().enumerate();
            let mut bytes = 0;
            for (slot, item) in items {
                let Some(item) = item else { continue };
                let place = cache.index[&item.key];
                assert_eq!((place.kind, place.slot as usize), (kind, slot));
                bytes += item.cost;
                entries += 1;
            }
            assert_eq!(bytes, shelf.bytes);
            assert!(shelf.count() <= shelf.bounds.size && bytes <= shelf.bounds.memory);
        }
        assert_eq!(entries, cache.index.len());
    }

    #[test]
    fn an_entry_is_good_for_its_window() {
        let now = Instant::now();
        let mut cache = cache(4, u64::MAX, now);
        let after = |seconds| now + Duration::from_secs(seconds);
        keep(&mut cache, "/a", file("A"), now);
        assert_eq!(seen(&mut cache, "/a", after(9)), "=A");
        assert_eq!(seen(&mut cache, "/a", after(10)), "A");
        cache.confirm(b"/a", after(10));
        assert_eq!(seen(&mut cache, "/a", after(19)), "=A");
        keep(&mut cache, "/a", file("B"), after(12));
        assert_eq!(seen(&mut cache, "/a", after(20)), "=B");
        cache.distrust(after(20));
        assert_eq!(seen(&mut cache, "/a", after(20)), "B");
        cache.confirm(b"/a", after(20));
        assert_eq!(seen(&mut cache, "/a", after(21)), "=B");
        cache.forget(b"/a");
        check(&cache);
        assert_eq!(seen(&mut cache, "/a", after(20)), "");
    }

    #[test]
    fn a_cache_that_was_cleared_is_as_new() {
        let now = Instant::now();
        let mut cache = cache(4, u64::MAX, now);
        keep(&mut cache, "/a", file("A"), now);
        keep(&mut cache, "/n", CacheEntry::Nothing, now);
        drop(cache.clear());
        check(&cache);
        assert_eq!(cache.sizes(), ([0, 0, 0], 0));
        keep(&mut cache, "/a", file("B"), now);
        assert_eq!(seen(&mut cache, "/a", now), "=B");
    }

    #[test]
    fn what_was_asked_for_stays_and_the_rest_makes_room() {
        let now = Instant::now();
        let mut cache = cache(3, u64::MAX, now);
        for name in ["/a", "/b", "/c"] {
            keep(&mut cache, name, file(name), now);
        }
        assert_eq!(seen(&mut cache, "/a", now), "=/a");
        keep(&mut cache, "/d", file("/d"), now);
        let left: Vec<_> = ["/a", "/b", "/c", "/d"]
            .into_iter()
            .filter(|name| !seen(&mut cache, name, now).is_empty())
            .collect();
        assert_eq!(left, ["/a", "/c", "/d"]);
    }

    #[test]
    fn memory_is_bounded_and_one_shelf_does_not_empty_another() {
        let now = Instant::now();
        let mut cache = cache(1000, 10_000, now);
        keep(&mut cache, "/n", CacheEntry::Nothing, now);
        for number in 0..500 {
            keep(
                &mut cache,
                &format!("/{number}"),
                file(&"x".repeat(number * 7 % 1000)),
                now,
            );
        }
        assert!(cache.sizes().1 <= 10_000 + OVERHEAD + 4);
        assert!(cache.sizes().0[0] > 5);
        keep(&mut cache, "/huge", file(&"x".repeat(20_000)), now);
        assert_eq!(seen(&mut cache, "/huge", now), "");
        assert!(cache.sizes().0[0] > 5, "nothing makes room in vain");
        assert_eq!(seen(&mut cache, "/n", now), "=nothing");
    }

    #[test]
    fn a_cache_without_size_keeps_nothing() {
        let now = Instant::now();
        let mut cache = cache(0, u64::MAX, now);
        keep(&mut cache, "/a", file("A"), now);
        keep(&mut cache, "/b", CacheEntry::Nothing, now);
        assert_eq!(seen(&mut cache, "/a", now), "");
        assert!(!cache.keeps_files());
    }
}
