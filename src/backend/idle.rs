//! The idle backends of a pool, by key and in the order in which they became idle.
//!
//! Adding one and removing one that hung up take the same time however many there are: each machine, which belongs to one key,
//! has a doubly linked list. The time of taking one grows with the number of machines. Finding a backend by id walks through
//! the lists of its key.
//!
//! Drained backends are kept apart: they are connected and idle, but [`IdleBackends::take`] does not find them.
//!
//! **Invariants**: a backend is in the list of its own machine, which is in `lists` (or `drained`) under its key, and its
//! [`CellIndex`] is that of its cell. The owner's lock guards them all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::machine::{IdleList, Machine, NO_CELL};
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

    /// The machine that it runs on.
    fn machine(&self) -> &Arc<Machine>;

    /// Its cell.
    fn cell(&self) -> &CellIndex;
}

/// Idle backends; `B` is a backend.
#[derive(Debug)]
pub(super) struct IdleBackends<B> {
    cells: Vec<Cell<B>>,
    /// The first free cell; `after` leads to the next.
    free: usize,
    lists: Lists,
    /// The lists of drained backends.
    drained: Lists,
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

/// The machines of each key that have, or had, backends in their list.
type Lists = BTreeMap<Box<[u8]>, Vec<Arc<Machine>>>;

impl Default for CellIndex {
    fn default() -> Self {
        Self(AtomicUsize::new(NO_CELL))
    }
}

impl CellIndex {
    /// Whether the backend is idle now.
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed) != NO_CELL
    }
}

impl<B> Default for IdleBackends<B> {
    fn default() -> Self {
        Self {
            cells: Vec::new(),
            free: NO_CELL,
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
        if self.free == NO_CELL {
            self.free = self.cells.len();
            self.cells.push(Cell {
                backend: None,
                drained: false,
                number: 0,
                before: NO_CELL,
                after: NO_CELL,
            });
        }
        let index = self.free;
        self.free = self.cells[index].after;
        self.count += 1;
        self.added += 1;
        let machine = backend.machine();
        let list = list_of(machine, drained);
        if !list.set_listed(true) {
            let lists = match drained {
                false => &mut self.lists,
                true => &mut self.drained,
            };
            let machines = lists.entry(backend.key().into()).or_default();
            // Machines come rarely; that is a good time to forget those that have left.
            machines.retain(|machine| {
                let list = list_of(machine, drained);
                let stays = list.len() > 0 || machine.connected() > 0;
                if !stays {
                    list.set_listed(false);
                }
                stays
            });
            machines.push(Arc::clone(machine));
        }
        let before = list.push(index);
        if before != NO_CELL {
            self.cells[before].after = index;
        }
        backend.cell().0.store(index, Ordering::Relaxed);
        self.cells[index] = Cell {
            backend: Some(backend),
            drained,
            number: self.added,
            before,
            after: NO_CELL,
        };
    }

    /// Takes the newest or oldest backend with one of these keys, and this id if given.
    pub(super) fn take(
        &mut self,
        keys: &[Box<[u8]>],
        id: Option<&[u8]>,
        order: Order,
    ) -> Option<B> {
        // Looking the keys up takes longer when their memory was not used just now.
        if self.count == 0 {
            return None;
        }
        let index = match order {
            Order::Least => self.find_least(keys, id),
            Order::Newest | Order::Oldest => {
                let machines = keys.iter().filter_map(|key| self.lists.get(key)).flatten();
                let found = machines.filter_map(|machine| self.find(&machine.idle, id, order));
                match order {
                    Order::Oldest => found.min(),
                    Order::Newest | Order::Least => found.max(),
                }
                .map(|(_, index)| index)
            }
        };
        self.remove(index?)
    }

    /// The newest backend of the machine that is least busy.
    fn find_least(&self, keys: &[Box<[u8]>], id: Option<&[u8]>) -> Option<usize> {
        let machines = keys.iter().filter_map(|key| self.lists.get(key)).flatten();
        let find = |machine: &Machine| self.find(&machine.idle, id, Order::Newest);
        let mut found = machines.filter_map(|machine| Some((machine, find(machine)?)));
        let first = found.next()?;
        // Only a choice needs the clock.
        let Some(second) = found.next() else {
            return Some(first.1.1);
        };
        let now = Instant::now();
        let all = [first, second].into_iter().chain(found);
        let loads = all.map(|(machine, found)| (machine.load(machine.idle.len(), now), found));
        let least = loads.min_by(|(load, (number, _)), (other_load, (other_number, _))| {
            load.compare(other_load).then(other_number.cmp(number))
        });
        least.map(|(_, (_, index))| index)
    }

    /// The newest or oldest backend of a list, with this id if given: its number and its cell.
    fn find(&self, list: &IdleList, id: Option<&[u8]>, order: Order) -> Option<(u64, usize)> {
        let mut index = match order {
            Order::Newest | Order::Least => list.newest(),
            Order::Oldest => list.oldest(),
        };
        loop {
            let cell = self.cells.get(index)?;
            let backend = cell.backend.as_ref()?;
            if id.is_none_or(|id| backend.id() == id) {
                return Some((cell.number, index));
            }
            index = match order {
                Order::Newest | Order::Least => cell.before,
                Order::Oldest => cell.after,
            };
        }
    }

    /// Takes the backend in this cell; `None`: it is not idle.
    pub(super) fn take_at(&mut self, cell: &CellIndex) -> Option<B> {
        self.remove(cell.0.load(Ordering::Relaxed))
    }

    /// Takes all backends with other keys.
    pub(super) fn take_others(&mut self, keys: &[Box<[u8]>]) -> Vec<B> {
        let mut oldest = Vec::new();
        for (lists, drained) in [(&mut self.lists, false), (&mut self.drained, true)] {
            let others = lists.extract_if(.., |key, _| !keys.contains(key));
            oldest.extend(others.flat_map(|(_, machines)| machines).map(|machine| {
                let list = list_of(&machine, drained);
                list.set_listed(false);
                list.oldest()
            }));
        }
        let mut taken = Vec::new();
        for mut index in oldest {
            while index != NO_CELL {
                let next = self.cells[index].after;
                taken.extend(self.remove(index));
                index = next;
            }
        }
        taken
    }

    /// How many have one of these keys, drained or not.
    pub(super) fn count(&self, keys: &[Box<[u8]>]) -> usize {
        let backends = self.cells.iter().filter_map(|cell| cell.backend.as_ref());
        let has_key = |backend: &&B| keys.iter().any(|key| **key == *backend.key());
        backends.filter(has_key).count()
    }

    /// Whether there is a drained backend with one of these keys.
    pub(super) fn has_drained(&self, keys: &[Box<[u8]>]) -> bool {
        let machines = keys.iter().filter_map(|key| self.drained.get(key));
        machines.flatten().any(|machine| machine.drained.len() > 0)
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
        backend.cell().0.store(NO_CELL, Ordering::Relaxed);
        let (before, after, is_drained) = (cell.before, cell.after, cell.drained);
        cell.after = self.free;
        self.free = index;
        self.count -= 1;
        if before != NO_CELL {
            self.cells[before].after = after;
        }
        if after != NO_CELL {
            self.cells[after].before = before;
        }
        list_of(backend.machine(), is_drained).remove(index, before, after);
        Some(backend)
    }
}

/// The list of a machine's backends that are drained, or of those that are not.
fn list_of(machine: &Machine, drained: bool) -> &IdleList {
    match drained {
        false => &machine.idle,
        true => &machine.drained,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::identity::BackendIdentity;
    use crate::backend::machine::{MachineMember, Machines};
    use crate::net::stream::Peer;

    struct TestBackend {
        id: String,
        key: &'static str,
        machine: MachineMember,
        cell: CellIndex,
    }

    impl TestBackend {
        /// A backend on this machine of three.
        fn new(machines: &Machines, id: usize, key: &'static str, machine: usize) -> Self {
            let host = u8::try_from(machine).unwrap();
            Self {
                id: id.to_string(),
                key,
                machine: machines.join(&BackendIdentity::test(
                    b"7f0000011a2b",
                    key.as_bytes(),
                    Peer::Tcp(([10, 0, 0, host], 1).into()),
                )),
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

        fn machine(&self) -> &Arc<Machine> {
            self.machine.machine()
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
        let machines = Machines::default();
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
                idle.push(TestBackend::new(&machines, id, key, below(3)), false);
                list.push((id, key));
            } else {
                let keys = &all_keys[below(3)..];
                let id = (below(2) == 0).then(|| below(50));
                let order = [Order::Newest, Order::Oldest][below(2)];
                let fits = |(other, key): &(usize, &'static str)| {
                    keys.contains(key) && id.is_none_or(|id| id == *other)
                };
                let expected = match order {
                    Order::Oldest => list.iter().position(fits),
                    _ => list.iter().rposition(fits),
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
        let machines = Machines::default();
        for id in 0..6 {
            let backend = TestBackend::new(&machines, id, ["", "a"][id % 2], id % 3);
            idle.push(backend, false);
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

    #[test]
    fn requests_are_divided_among_machines() {
        let mut idle = IdleBackends::default();
        let machines = Machines::default();
        // Two machines with four connections and one with eight.
        for id in 0..16 {
            let machine = [0, 1, 2, 2][id % 4];
            idle.push(TestBackend::new(&machines, id, "", machine), false);
        }
        let keys: [Box<[u8]>; 1] = [Box::default()];
        let mut busy: Vec<_> = (0..8)
            .map(|_| idle.take(&keys, None, Order::Least).unwrap())
            .collect();
        let count = |busy: &[TestBackend], machine: usize| {
            let ids = busy
                .iter()
                .map(|backend| backend.id.parse::<usize>().unwrap());
            ids.filter(|id| [0, 1, 2, 2][id % 4] == machine).count()
        };
        assert_eq!([0, 1, 2].map(|machine| count(&busy, machine)), [2, 2, 4]);
        // Of equals the newest goes first.
        busy.drain(..).for_each(|backend| idle.push(backend, false));
        let newest = idle.take(&keys, None, Order::Newest).unwrap();
        let id = newest.id.clone();
        idle.push(newest, false);
        assert_eq!(idle.take(&keys, None, Order::Least).unwrap().id, id);
        // An id that only a busy machine has.
        let taken = idle.take(&keys, Some(b"0"), Order::Least);
        assert_eq!(taken.map(|backend| backend.id).as_deref(), Some("0"));
    }
}
