//! What a visitor has not taken of its answer yet.
//!
//! First in memory, then in a temporary file without a name, so that the backend and the worker are free while a slow
//! visitor reads. All spools together take no more of the disk than `limits.spool`, and one no more than a
//! [`SHARE`]th of it. One that may not grow says so ([`Spool::is_full`]): whoever fills it has to stop then.
//!
//! **Invariants**: bytes come out in the order in which they went in: `memory`, then the file, then `tail`. What the
//! file takes of the budget is given back when the file is emptied, or the spool is dropped.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::net::buffer::Buffer;

/// Bytes on disk, of all spools of a server.
#[derive(Debug, Default)]
pub struct Budget {
    used: AtomicU64,
    most: AtomicU64,
}

/// Where a spool may keep its bytes; nowhere, if nothing is said.
#[derive(Clone, Debug, Default)]
pub struct Room {
    /// Bytes on disk, of the whole server.
    pub budget: Arc<Budget>,
    /// For the temporary file.
    pub directory: PathBuf,
    /// Bytes in memory before the file is begun.
    pub memory: usize,
}

/// A queue of bytes.
#[derive(Debug)]
pub struct Spool {
    room: Room,
    memory: Vec<u8>,
    /// Bytes of `memory` that were taken.
    taken: usize,
    file: Option<OnDisk>,
    /// What the file could not take.
    tail: Vec<u8>,
}

#[derive(Debug)]
struct OnDisk {
    file: File,
    read: u64,
    written: u64,
}

impl Budget {
    /// Sets the limit, in bytes.
    pub fn limit(&self, most: u64) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Bytes on disk now.
    #[cfg(test)]
    fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Asks for `count` bytes for a spool that has `own` already.
    fn take(&self, count: u64, own: u64) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        let grown = |used: u64| (used + count <= most).then_some(used + count);
        own + count <= most / SHARE
            && self
                .used
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown)
                .is_ok()
    }

    fn give_back(&self, count: u64) {
        self.used.fetch_sub(count, Ordering::Relaxed);
    }
}

impl Spool {
    /// An empty one.
    pub const fn new(room: Room) -> Self {
        Self {
            room,
            memory: Vec::new(),
            taken: 0,
            file: None,
            tail: Vec::new(),
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.taken == self.memory.len() && self.file.is_none() && self.tail.is_empty()
    }

    /// Bytes in it.
    pub fn length(&self) -> u64 {
        let in_memory = self.memory.len() - self.taken + self.tail.len();
        let on_disk = self.file.as_ref();
        in_memory as u64 + on_disk.map_or(0, |on_disk| on_disk.written - on_disk.read)
    }

    /// Whether it must be emptied before anything more is put in.
    pub fn is_full(&self) -> bool {
        !self.tail.is_empty()
    }

    /// Puts bytes in behind the others. They are kept even if it is full, or if the disk is: whoever has them has nowhere
    /// else to put them.
    pub fn put(&mut self, bytes: &[u8]) {
        if self.is_full() {
            self.tail.extend_from_slice(bytes);
        } else if self.file.is_none() && self.memory.len() - self.taken + bytes.len() <= self.most()
        {
            self.memory.drain(..self.taken);
            self.taken = 0;
            self.memory.extend_from_slice(bytes);
        } else if let Err(error) = self.put_on_disk(bytes) {
            if let Some(error) = error {
                let directory = self.room.directory.display();
                log::error!("temporary_directory {directory}: {error}; answers wait in memory");
            }
            self.tail.extend_from_slice(bytes);
        }
    }

    /// The bytes that come next; none only if it is empty.
    ///
    /// # Errors
    /// The file could not be read back; the rest is lost.
    pub fn next(&mut self) -> io::Result<&[u8]> {
        if self.taken == self.memory.len() {
            self.taken = 0;
            self.memory.clear();
            self.refill()?;
        }
        Ok(&self.memory[self.taken..])
    }

    /// So many bytes of [`Spool::next`] were taken.
    pub fn took(&mut self, count: usize) {
        self.taken += count;
        debug_assert!(self.taken <= self.memory.len());
        if self.taken == self.memory.len() && self.file.is_none() {
            // It may stay empty for a long time.
            self.memory = std::mem::take(&mut self.tail);
            self.taken = 0;
        }
    }

    /// `None`: the budget does not allow it.
    fn put_on_disk(&mut self, bytes: &[u8]) -> Result<(), Option<io::Error>> {
        let count = bytes.len() as u64;
        let own = self.file.as_ref().map_or(0, |on_disk| on_disk.written);
        if !self.room.budget.take(count, own) {
            return Err(None);
        }
        let written = self.file().and_then(|on_disk| {
            on_disk.file.write_all_at(bytes, on_disk.written)?;
            on_disk.written += count;
            Ok(())
        });
        written.map_err(|error| {
            self.room.budget.give_back(count);
            if own == 0 {
                self.file = None;
            }
            Some(error)
        })
    }

    fn file(&mut self) -> io::Result<&mut OnDisk> {
        if self.file.is_none() {
            self.file = Some(OnDisk {
                file: tempfile::tempfile_in(&self.room.directory)?,
                read: 0,
                written: 0,
            });
        }
        self.file.as_mut().ok_or(io::ErrorKind::NotFound.into())
    }

    /// Gets the next bytes into memory.
    fn refill(&mut self) -> io::Result<()> {
        let Some(on_disk) = &mut self.file else {
            self.memory = std::mem::take(&mut self.tail);
            return Ok(());
        };
        let left = usize::try_from(on_disk.written - on_disk.read).unwrap_or(usize::MAX);
        self.memory.resize(left.min(2 * Buffer::SIZE), 0);
        let read = on_disk.file.read_exact_at(&mut self.memory, on_disk.read);
        if let Err(error) = read {
            // Nobody shall take what was not read for what is next.
            self.memory.clear();
            return Err(error);
        }
        on_disk.read += self.memory.len() as u64;
        if on_disk.read == on_disk.written {
            self.room.budget.give_back(on_disk.written);
            self.file = None;
        }
        Ok(())
    }

    /// Less than a buffer is not worth a file.
    fn most(&self) -> usize {
        self.room.memory.max(Buffer::SIZE)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Some(on_disk) = &self.file {
            self.room.budget.give_back(on_disk.written);
        }
    }
}

/// One answer may take this part of the budget, so that one cannot use it up for all.
const SHARE: u64 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn room(memory: usize, disk: u64) -> Room {
        let budget = Arc::new(Budget::default());
        budget.limit(disk);
        Room {
            budget,
            directory: std::env::temp_dir(),
            memory,
        }
    }

    /// Puts in pieces and takes out in others, and looks whether the order stays.
    fn through(room: &Room, put: usize, take: usize) -> bool {
        let mut spool = Spool::new(room.clone());
        let byte = |number: usize| (number % 251) as u8;
        let (mut total, mut out, mut was_full) = (0, 0, false);
        for _ in 0..40 {
            while !spool.is_full() && total < out + 500_000 {
                let bytes: Vec<u8> = (total..total + put).map(byte).collect();
                spool.put(&bytes);
                total += put;
            }
            was_full |= spool.is_full();
            while !spool.is_empty() && (spool.is_full() || out + 100_000 < total) {
                let bytes = spool.next().unwrap();
                let count = bytes.len().min(take);
                assert!(count > 0);
                assert!((0..count).all(|at| bytes[at] == byte(out + at)), "{out}");
                out += count;
                spool.took(count);
                assert_eq!(spool.length(), (total - out) as u64);
            }
        }
        while !spool.is_empty() {
            let count = spool.next().unwrap().len();
            out += count;
            spool.took(count);
        }
        assert_eq!(out, total);
        assert_eq!(room.budget.used(), 0);
        was_full
    }

    #[test]
    fn bytes_keep_their_order_in_memory_on_disk_and_beyond() {
        for (put, take) in [(1000, 999), (16_384, 100_000), (70_000, 777)] {
            assert!(!through(&room(1 << 20, 0), put, take));
            assert!(!through(&room(20_000, 1 << 30), put, take));
            assert!(through(&room(20_000, 400_000), put, take));
            assert!(through(&room(0, 0), put, take));
        }
    }

    #[test]
    fn the_budget_is_shared_and_given_back() {
        let room = room(0, 400_000);
        let mut spools: Vec<_> = (0..5).map(|_| Spool::new(room.clone())).collect();
        for spool in &mut spools {
            spool.put(&[7; 100_000]);
        }
        assert_eq!(room.budget.used(), 400_000);
        let full: Vec<_> = spools.iter().map(Spool::is_full).collect();
        assert_eq!(full, [false, false, false, false, true]);
        spools[0].put(&[8; 20_000]);
        assert!(spools[0].is_full(), "more than its share");
        spools.truncate(1);
        assert_eq!(room.budget.used(), 100_000);
        drop(spools);
        assert_eq!(room.budget.used(), 0);
    }

    #[test]
    fn a_disk_that_fails_makes_it_full_and_loses_nothing() {
        let mut room = room(0, 1 << 30);
        room.directory = "/nonexistent".into();
        let mut spool = Spool::new(room.clone());
        spool.put(&[1; 20_000]);
        spool.put(&[2; 10]);
        assert!(spool.is_full());
        assert_eq!(room.budget.used(), 0);
        assert_eq!(spool.next().unwrap().len(), 20_010);
        spool.took(20_010);
        assert!(spool.is_empty() && !spool.is_full());
    }
}
