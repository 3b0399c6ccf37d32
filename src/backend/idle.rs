//! The idle backends of a pool, by key and in the order in which they became idle.
//!
//! Adding one, taking the newest or oldest, and removing one that hung up take constant time: each key has a doubly
//! linked list. Finding a backend by id walks through the list of its key.
//!
//! Drained backends are kept apart: they are connected and idle, but [`IdleBackends::take`] does not find them.
//!
//! **Invariants**: a backend is in the list of its own key, and its [`CellIndex`] is that of its cell. The owner's lock
//! guards both.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::Order;

/// The index of a backend's cell.
#[derive(Debug)]
pub(super) struct CellIndex(AtomicUsize);

/// What is needed of a backend here. (A trait, so that this file does not depend on the pool.)
pub(super) trait HasCell {
    /// The key that it sent.
    fn key(&self) -> &[u8];

    /// The id that it sent.
    fn id(&self) -> &[u8];

    /// Its cell.
    fn cell(&self) -> &CellIndex;
}

/// Idle backends; `B` is a backend.
#[derive(Debug)]
pub(super) struct IdleBackends<B> {
    cells: Vec<Cell<B>>,
    /// The first free cell; `after` leads to the next.
    free: usize,
    lists: BTreeMap<Box<[u8]>, KeyList>,
    /// The lists of drained backends.
    drained: BTreeMap<Box<[u8]>, KeyList>,
    count: usize,
    /// How many were added so far.
    added: u64,
}

#[derive(Debug)]
struct Cell<B> {
    /// `None`: the cell is free.
    backend: Option<B>,
    /// It is in a list of drained backends.
    drained: bool,
    /// The value of `added` when the backend was added.
    number: u64,
    before: usize,
    after: usize,
}

/// The backends of one key.
#[derive(Debug)]
struct KeyList {
    oldest: usize,
    newest: usize,
}

impl Default for CellIndex {
    fn default() -> Self {
        Self(AtomicUsize::new(NONE))
    }
}

impl<B> Default for IdleBackends<B> {
    fn default() -> Self {
        Self {
            cells: Vec::new(),
            free: NONE,
            lists: BTreeMap::new(),
            drained: BTreeMap::new(),
            count: 0,
            added: 0,
        }
    }
}

impl<B: HasCell> IdleBackends<B> {
    /// How many backends are idle, drained or not.
    pub(super) const fn len(&self) -> usize {
        self.count
    }

    /// Adds a backend as the newest.
    pub(super) fn push(&mut self, backend: B, drained: bool) {
        if self.free == NONE {
            self.free = self.cells.len();
            self.cells.push(Cell {
                backend: None,
                drained: false,
                number: 0,
                before: NONE,
                after: NONE,
            });
        }
        let index = self.free;
        self.free = self.cells[index].after;
        self.count += 1;
        self.added += 1;
        let lists = match drained {
            false => &mut self.lists,
            true => &mut self.drained,
        };
        let list = match lists.get_mut(backend.key()) {
            Some(list) => list,
            None => lists.entry(backend.key().into()).or_insert(KeyList {
                oldest: NONE,
                newest: NONE,
            }),
        };
        let before = list.newest;
        list.newest = index;
        match before {
            NONE => list.oldest = index,
            before => self.cells[before].after = index,
        }
        backend.cell().0.store(index, Ordering::Relaxed);
        self.cells[index] = Cell {
            backend: Some(backend),
            drained,
            number: self.added,
            before,
            after: NONE,
        };
    }

    /// Takes the newest or oldest backend with one of these keys, and this id if given.
    pub(super) fn take(
        &mut self,
        keys: &[Box<[u8]>],
        id: Option<&[u8]>,
        order: Order,
    ) -> Option<B> {
        let found = keys.iter().filter_map(|key| {
            let list = self.lists.get(key)?;
            let mut index = match order {
                Order::Newest => list.newest,
                Order::Oldest => list.oldest,
            };
            loop {
                let cell = self.cells.get(index)?;
                let backend = cell.backend.as_ref()?;
                if id.is_none_or(|id| backend.id() == id) {
                    return Some((cell.number, index));
                }
                index = match order {
                    Order::Newest => cell.before,
                    Order::Oldest => cell.after,
                };
            }
        });
        let (_, index) = match order {
            Order::Newest => found.max(),
            Order::Oldest => found.min(),
        }?;
        self.remove(index)
    }

    /// Takes the backend in this cell; `None`: it is not idle.
    pub(super) fn take_at(&mut self, cell: &CellIndex) -> Option<B> {
        self.remove(cell.0.load(Ordering::Relaxed))
    }

    /// Takes all backends with other keys.
    pub(super) fn take_others(&mut self, keys: &[Box<[u8]>]) -> Vec<B> {
        let lists = self.lists.extract_if(.., |key, _| !keys.contains(key));
        let drained = self.drained.extract_if(.., |key, _| !keys.contains(key));
        let oldest = lists.chain(drained).map(|(_, list)| list.oldest);
        let mut taken = Vec::new();
        for mut index in oldest.collect::<Vec<_>>() {
            while index != NONE {
                let next = self.cells[index].after;
                taken.extend(self.remove(index));
                index = next;
            }
        }
        taken
    }

    /// Whether there is a drained backend with one of these keys.
    pub(super) fn has_drained(&self, keys: &[Box<[u8]>]) -> bool {
        let mut lists = keys.iter().filter_map(|key| self.drained.get(key));
        lists.any(|list| list.oldest != NONE)
    }

    /// Takes all backends that are drained although they should not be, or the other way round, oldest first.
    pub(super) fn take_misplaced(&mut self, is_drained: impl Fn(&B) -> bool) -> Vec<B> {
        let cells = self.cells.iter().enumerate();
        let misplaced = cells.filter_map(|(index, cell)| {
            let backend = cell.backend.as_ref()?;
            (is_drained(backend) != cell.drained).then_some((cell.number, index))
        });
        let mut misplaced: Vec<_> = misplaced.collect();
        misplaced.sort_unstable();
        let indices = misplaced.into_iter();
        indices
            .filter_map(|(_, index)| self.remove(index))
            .collect()
    }

    fn remove(&mut self, index: usize) -> Option<B> {
        let cell = self.cells.get_mut(index)?;
        let backend = cell.backend.take()?;
        backend.cell().0.store(NONE, Ordering::Relaxed);
        let (before, after, cell_is_drained) = (cell.before, cell.after, cell.drained);
        cell.after = self.free;
        self.free = index;
        self.count -= 1;
        if before != NONE {
            self.cells[before].after = after;
        }
        if after != NONE {
            self.cells[after].before = before;
        }
        let lists = match cell_is_drained {
            false => &mut self.lists,
            true => &mut self.drained,
        };
        if let Some(list) = lists.get_mut(backend.key()) {
            if list.oldest == index {
                list.oldest = after;
            }
            if list.newest == index {
                list.newest = before;
            }
        }
        Some(backend)
    }
}

/// No cell.
const NONE: usize = usize::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    struct TestBackend {
        id: String,
        key: &'static str,
        cell: CellIndex,
    }

    impl TestBackend {
        fn new(id: usize, key: &'static str) -> Self {
            Self {
                id: id.to_string(),
                key,
                cell: CellIndex::default(),
            }
        }
    }

    impl HasCell for TestBackend {
        fn key(&self) -> &[u8] {
            self.key.as_bytes()
        }

        fn id(&self) -> &[u8] {
            self.id.as_bytes()
        }

        fn cell(&self) -> &CellIndex {
            &self.cell
        }
    }

    /// Compares random operations with those on a plain list ordered by age.
    #[test]
    fn same_as_a_plain_list() {
        let all_keys = ["", "a", "b"];
        let mut idle = IdleBackends::default();
        let mut list: Vec<(usize, &'static str)> = Vec::new();
        let mut random = 1_u64;
        let mut below = |most: usize| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) as usize % most
        };
        for number in 0..20_000 {
            // It grows and shrinks alternately.
            let grows = number / 100 % 2 == 0;
            if below(3) < usize::from(grows) + 1 {
                // Several backends may have the same id.
                let (id, key) = (below(50), all_keys[below(3)]);
                idle.push(TestBackend::new(id, key), false);
                list.push((id, key));
            } else {
                let keys = &all_keys[below(3)..];
                let id = (below(2) == 0).then(|| below(50));
                let order = [Order::Newest, Order::Oldest][below(2)];
                let fits = |(other, key): &(usize, &'static str)| {
                    keys.contains(key) && id.is_none_or(|id| id == *other)
                };
                let expected = match order {
                    Order::Newest => list.iter().rposition(fits),
                    Order::Oldest => list.iter().position(fits),
                };
                let expected = expected.map(|position| list.remove(position));
                let expected = expected.map(|(id, key)| (id.to_string(), key));
                let keys: Vec<Box<[u8]>> = keys.iter().map(|key| key.as_bytes().into()).collect();
                let id = id.map(|id| id.to_string());
                let taken = idle.take(&keys, id.as_ref().map(String::as_bytes), order);
                let taken = taken.map(|backend| (backend.id, backend.key));
                assert_eq!(taken, expected);
            }
            assert_eq!(idle.len(), list.len());
        }
        let mut others = idle.take_others(&["a".as_bytes().into()]);
        others.extend(idle.take_others(&[]));
        let mut others: Vec<_> = others.iter().map(|other| other.id.clone()).collect();
        let mut expected: Vec<_> = list.iter().map(|(id, _)| id.to_string()).collect();
        others.sort_unstable();
        expected.sort_unstable();
        assert_eq!((others, idle.len()), (expected, 0));
    }

    #[test]
    fn drained_backends_are_kept_apart() {
        let mut idle = IdleBackends::default();
        for id in 0..6 {
            idle.push(TestBackend::new(id, ["", "a"][id % 2]), false);
        }
        let ids = |taken: Vec<TestBackend>| -> Vec<_> {
            taken.into_iter().map(|backend| backend.id).collect()
        };
        let keys: [Box<[u8]>; 2] = [b"".as_slice().into(), b"a".as_slice().into()];
        let is_drained = |backend: &TestBackend| ["1", "4", "5"].contains(&backend.id.as_str());
        let drained = idle.take_misplaced(is_drained);
        assert_eq!(drained.len(), 3);
        for backend in drained {
            idle.push(backend, true);
        }
        assert!(idle.take_misplaced(is_drained).is_empty());
        // Also where an id asks for one of them.
        assert!(idle.take(&keys, Some(b"4"), Order::Newest).is_none());
        let mut take = |order| idle.take(&keys, None, order).map(|backend| backend.id);
        assert_eq!(take(Order::Newest).as_deref(), Some("3"));
        assert_eq!(take(Order::Oldest).as_deref(), Some("0"));
        assert_eq!(take(Order::Newest).as_deref(), Some("2"));
        assert!(take(Order::Newest).is_none());
        assert_eq!(idle.len(), 3);
        assert!(idle.has_drained(&keys[..1]) && !idle.has_drained(&[]));
        assert_eq!(ids(idle.take_misplaced(|backend| backend.id != "4")), ["4"]);
        assert_eq!(ids(idle.take_others(&keys[..1])), ["1", "5"]);
        assert_eq!((idle.len(), idle.has_drained(&keys)), (0, false));
    }
}
