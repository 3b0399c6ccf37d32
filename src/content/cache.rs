//! The cache of a site's files, so that most requests need no system call.
//!
//! Three tables share one index, so that a request costs one look-up: files in memory, entity tags of files that are
//! too large for that, and paths that are not files. Each table is bounded in entries, and in bytes where entries
//! differ in size; the clock algorithm evicts entries that were not used since its hand passed them last.
//!
//! Pure: the caller passes the time. A caller that gets an entry older than its table's window checks the file again
//! and reports the result ([`Cache::confirm`], [`Cache::keep`], [`Cache::forget`]).
//!
//! **Invariants**: each key of the index has its entry in the table that the index names, and each entry has its key
//! in the index; the totals of a table are those of its entries.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::entity::FileIdentity;
use crate::exchange::{Entity, StoredFile};
use crate::http::encoding::ContentCoding;

/// The cache of a site's paths.
#[derive(Debug)]
pub struct Cache {
    index: HashMap<Arc<[u8]>, EntryIndex>,
    files: EntryTable,
    tags: EntryTable,
    nothing: EntryTable,
    /// Entries checked before this time are stale.
    valid_since: Instant,
    /// The generation of the root to which all entries belong.
    generation: u64,
}

/// The bounds of one table.
#[derive(Clone, Copy, Debug)]
pub struct CacheLimits {
    /// Most entries.
    pub size: usize,
    /// Most bytes of files and keys.
    pub memory: u64,
    /// The age at which an entry becomes stale.
    pub window: Duration,
}

/// What is known of a path.
#[derive(Clone, Debug)]
pub enum CacheEntry {
    /// A file in memory.
    File(Arc<StoredFile>, Variants),
    /// A file that is not in memory, with its validators.
    Tag(Arc<Entity>, Variants),
    /// Not a file.
    Nothing,
}

/// Other encodings of a file's content; most files have none.
pub type Variants = Option<Arc<[Variant]>>;

/// A file's content in another encoding.
#[derive(Debug)]
pub struct Variant {
    /// The content coding.
    pub coding: ContentCoding,
    /// Where the encoded content is.
    pub form: Encoding,
}

impl Variant {
    /// Whether it may be cached.
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

/// Where an encoding of a file's content is.
#[derive(Debug)]
pub enum Encoding {
    /// Compressed from the file, and kept with it.
    Made(Arc<StoredFile>),
    /// In a file beside the original.
    Beside {
        /// The name of that file, relative to the root.
        name: Vec<u8>,
        /// Tells whether the file has changed.
        identity: FileIdentity,
        /// The validators and fields of its response.
        entity: Entity,
        /// Its content, if it is in memory.
        stored: Option<Arc<StoredFile>>,
    },
}

/// The result of a look-up.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// A valid entry.
    Fresh(CacheEntry, FileIdentity),
    /// An entry that must be checked.
    Stale(CacheEntry, FileIdentity),
    /// No entry.
    Unknown,
}

/// The position of an entry.
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
    /// Used since the hand passed last.
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
    /// An empty cache.
    pub fn new(files: CacheLimits, tags: CacheLimits, nothing: CacheLimits, now: Instant) -> Self {
        Self {
            index: HashMap::new(),
            files: EntryTable::new(files),
            tags: EntryTable::new(tags),
            nothing: EntryTable::new(nothing),
            valid_since: now,
            generation: 0,
        }
    }

    /// Whether any files are cached.
    pub const fn keeps_files(&self) -> bool {
        self.files.bounds.size > 0
    }

    /// Looks up a path.
    pub fn look_up(&mut self, key: &[u8], now: Instant) -> Lookup {
        let Some(entry) = self.index.get(key).copied() else {
            return Lookup::Unknown;
        };
        let trusted = self.valid_since;
        let table = self.table(entry.kind);
        let window = table.bounds.window;
        let Some(item) = &mut table.items[entry.slot as usize] else {
            return Lookup::Unknown;
        };
        item.used = true;
        let young = now.saturating_duration_since(item.checked) < window;
        if young && item.checked >= trusted {
            return Lookup::Fresh(item.known.clone(), item.identity);
        }
        Lookup::Stale(item.known.clone(), item.identity)
    }

    /// Stores what was found at a path, replacing the previous entry.
    pub fn keep(&mut self, key: &[u8], known: CacheEntry, identity: FileIdentity, now: Instant) {
        let kind = known.kind();
        self.forget(key);
        let key: Arc<[u8]> = key.into();
        let cost = known.cost() + 2 * key.len() as u64 + OVERHEAD;
        if !self.make_room(kind, cost) {
            return;
        }
        let slot = self.table(kind).put(CachedPath {
            key: Arc::clone(&key),
            known,
            identity,
            checked: now,
            used: false,
            cost,
        });
        self.index.insert(key, EntryIndex { kind, slot });
    }

    /// Marks an entry as checked now.
    pub fn confirm(&mut self, key: &[u8], now: Instant) {
        if let Some(entry) = self.index.get(key).copied()
            && let Some(item) = &mut self.table(entry.kind).items[entry.slot as usize]
        {
            item.checked = now;
        }
    }

    /// Removes an entry.
    pub fn forget(&mut self, key: &[u8]) {
        if let Some(entry) = self.index.remove(key) {
            self.table(entry.kind).take(entry.slot);
        }
    }

    /// Empties the cache; returns the old content for the caller to drop outside of a lock.
    #[must_use]
    pub fn clear(&mut self) -> Self {
        let mut empty = Self::new(
            self.files.bounds,
            self.tags.bounds,
            self.nothing.bounds,
            self.valid_since,
        );
        empty.generation = self.generation;
        mem::replace(self, empty)
    }

    /// Empties the cache if its root is older than this generation; returns the old content for the caller to drop
    /// outside of a lock.
    #[must_use]
    pub fn advance(&mut self, generation: u64) -> Option<Self> {
        (generation > self.generation).then(|| {
            self.generation = generation;
            self.clear()
        })
    }

    /// Whether the entries belong to this generation of the root.
    pub const fn is_of(&self, generation: u64) -> bool {
        self.generation == generation
    }

    /// Makes all entries stale.
    pub const fn invalidate(&mut self, now: Instant) {
        self.valid_since = now;
    }

    /// The numbers of files, tags and paths that are not files, and the bytes of all entries.
    pub fn sizes(&self) -> ([usize; 3], u64) {
        let tables = [&self.files, &self.tags, &self.nothing];
        let bytes = tables.iter().map(|table| table.bytes).sum();
        (tables.map(EntryTable::count), bytes)
    }

    /// Evicts entries until there is room. `false`: the entry is too large for the table.
    fn make_room(&mut self, kind: EntryKind, cost: u64) -> bool {
        let table = self.table(kind);
        if table.bounds.size == 0 || cost > table.bounds.memory {
            return false;
        }
        loop {
            let table = self.table(kind);
            if table.has_room(cost) {
                return true;
            }
            let Some(item) = table.evict() else {
                return true;
            };
            self.index.remove(&item.key);
        }
    }

    const fn table(&mut self, kind: EntryKind) -> &mut EntryTable {
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
                // The number of entries is far below that.
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

    /// Moves the hand to the next entry that was not used since the hand passed last, and removes it. `None`: the
    /// table is empty.
    fn evict(&mut self) -> Option<CachedPath> {
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

/// Rough size of an entry in bytes, besides content and keys.
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
        match cache.look_up(key.as_bytes(), now) {
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
        for (kind, table) in [
            (EntryKind::File, &cache.files),
            (EntryKind::Tag, &cache.tags),
            (EntryKind::Nothing, &cache.nothing),
        ] {
            let items = table.items.iter().enumerate();
            let mut bytes = 0;
            for (slot, item) in items {
                let Some(item) = item else { continue };
                let entry = cache.index[&item.key];
                assert_eq!((entry.kind, entry.slot as usize), (kind, slot));
                bytes += item.cost;
                entries += 1;
            }
            assert_eq!(bytes, table.bytes);
            assert!(table.count() <= table.bounds.size && bytes <= table.bounds.memory);
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
        cache.invalidate(after(20));
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
    fn used_entries_survive_eviction() {
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
    fn tables_have_separate_bounds() {
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
        assert!(
            cache.sizes().0[0] > 5,
            "an entry that does not fit evicts nothing"
        );
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
